"""Homes with simulated demand in them, and a stub of the live services."""

from __future__ import annotations

import csv
import io
import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from flows import registry
from flows.electricity import schema
from flows.settings import Settings
from tests.flows.stub_server import Reply, StubServer, serving

NEW_YORK = ZoneInfo(schema.TIME_ZONE)


@contextmanager
def living_in(home: Path, *, source: str = "simulated") -> Iterator[Settings]:
    """Let flows use this home and source, whatever the person who runs the tests has set."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FEATURESTORE_HOME", "TRIPTYCH_DATA", "TRIPTYCH_MLFLOW_URI", "TRIPTYCH_ELECTRICITY_TABLE"):
            patch.delenv(name, raising=False)
        patch.setenv("TRIPTYCH_HOME", str(home))
        patch.setenv("TRIPTYCH_SOURCE", source)
        yield Settings()


# --- a stub of NYISO and Open-Meteo -------------------------------------------------------------------


def load_mw(zone: schema.Zone, hour: datetime) -> float:
    """What the stub says a zone needed: the zone's number tells it apart, the hour too."""
    return round(zone.ptid % 100 * 100 + hour.timestamp() / 3600 % 24, 4)


def hours_of(day: date) -> list[datetime]:
    """The hours of a New York day, in UTC: 23, 24 or 25."""
    start, end = (
        datetime(each.year, each.month, each.day, tzinfo=NEW_YORK).astimezone(UTC)
        for each in (day, day + timedelta(days=1))
    )
    return [start + timedelta(hours=n) for n in range((end - start) // timedelta(hours=1))]


def pal_integrated(day: date) -> str:
    """A file of hourly integrated load, as NYISO writes it."""
    out = io.StringIO()
    rows = csv.writer(out, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    rows.writerow(["Time Stamp", "Time Zone", "Name", "PTID", "Integrated Load"])
    for hour in hours_of(day):
        local = hour.astimezone(NEW_YORK)
        for zone in schema.ZONES.values():
            rows.writerow([f"{local:%m/%d/%Y %H:%M:%S}", local.tzname(), zone.name, zone.ptid, load_mw(zone, hour)])
    return out.getvalue()


BORDERS = {"H Q": 61844, "NPX": 61845, "O H": 61846, "PJM": 61847}


def price_usd(zone: schema.Zone, hour: datetime) -> float:
    """What the stub says a megawatt hour cost: below zero at midnight UTC, and another price in each zone."""
    return round(zone.ptid % 100 - 60.5 + 4 * (hour.timestamp() / 3600 % 24), 2)


def damlbmp(day: date) -> str:
    """A file of day-ahead prices, as NYISO writes it: without zone of time, and with the prices at the borders."""
    out = io.StringIO()
    rows = csv.writer(out, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    losses, congestion = "Marginal Cost Losses ($/MWHr)", "Marginal Cost Congestion ($/MWHr)"
    rows.writerow(["Time Stamp", "Name", "PTID", "LBMP ($/MWHr)", losses, congestion])
    for hour in hours_of(day):
        stamp = f"{hour.astimezone(NEW_YORK):%m/%d/%Y %H:%M}"
        for name, ptid in BORDERS.items():
            rows.writerow([stamp, name, ptid, 20.0, 0.0, 0.0])
        for zone in schema.ZONES.values():
            rows.writerow([stamp, zone.name, zone.ptid, price_usd(zone, hour), 1.0, -2.0])
    return out.getvalue()


def isolf(day: date) -> str:
    """A file of load forecasts, as NYISO writes it on the day before: wide, without zone, and further days after it."""
    lines = ['"Time Stamp",' + ",".join(f'"{zone.name.title()}"' for zone in schema.ZONES.values()) + ',"NYISO"']
    for ahead in range(2):
        for hour in hours_of(day + timedelta(days=ahead)):
            loads = [round(load_mw(zone, hour)) for zone in schema.ZONES.values()]
            stamp = f"{hour.astimezone(NEW_YORK):%m/%d/%Y %H:%M}"
            lines.append(f'"{stamp}",' + ",".join(map(str, [*loads, sum(loads)])))
    return "\n".join(lines) + "\n"


def nyiso(path: str, query: Mapping[str, str]) -> Reply | None:
    """The public files of every day and month."""
    family, _, name = path.strip("/").partition("/")
    if not name[:8].isdigit():
        return None
    day = date(int(name[:4]), int(name[4:6]), int(name[6:8]))
    if family == "isolf" and name.endswith("isolf.csv"):
        return Reply.of_text(isolf(day))
    if family == "palIntegrated" and name.endswith("palIntegrated.csv"):
        return Reply.of_text(pal_integrated(day))
    if family == "damlbmp" and name.endswith("damlbmp_zone.csv"):
        return Reply.of_text(damlbmp(day))
    if family in ("palIntegrated", "damlbmp") and name.endswith("_csv.zip"):
        of_day = pal_integrated if family == "palIntegrated" else damlbmp
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for n in range(31):
                if (each := day + timedelta(days=n)).month == day.month:
                    archive.writestr(f"{each:%Y%m%d}{family}.csv", of_day(each))
        return Reply(body=content.getvalue())
    return None


def weather_answer(query: Mapping[str, str]) -> list[dict[str, object]]:
    """Open-Meteo's answer for several places: a list, columnar, times without zone in the zone asked for."""
    start, end = (date.fromisoformat(query[name]) for name in ("start_date", "end_date"))
    hours = [
        datetime(start.year, start.month, start.day) + timedelta(hours=n) for n in range(24 * ((end - start).days + 1))
    ]
    variable = query["hourly"]
    return [
        {
            "latitude": float(latitude) + 0.01,
            "longitude": -75.0,
            "generationtime_ms": 0.2,
            "utc_offset_seconds": 0,
            "timezone": "GMT",
            "hourly_units": {"time": "iso8601", variable: "°C"},
            "hourly": {
                "time": [f"{hour:%Y-%m-%dT%H:%M}" for hour in hours],
                # The newest hours are often null.
                variable: [round(hour.hour / 2 - 3, 1) if hour != hours[-1] else None for hour in hours],
            },
        }
        for latitude in query["latitude"].split(",")
    ]


def eia_page(query: Mapping[str, str]) -> dict[str, object]:
    """A page of EIA v2: values as text, the total as text, some null."""
    first = datetime.strptime(query["start"], "%Y-%m-%dT%H").replace(tzinfo=UTC)
    last = datetime.strptime(query["end"], "%Y-%m-%dT%H").replace(tzinfo=UTC)
    rows = [
        {
            "period": f"{first + timedelta(hours=n):%Y-%m-%dT%H}", "subba": f"ZON{code[0]}", "parent": "NYIS",
            "value": None if (n, code[0]) == (0, "A") else str(load_mw(zone, first + timedelta(hours=n - 1))),
            "value-units": "megawatthours",
        }
        for n in range((last - first) // timedelta(hours=1) + 1) for code, zone in schema.ZONES.items()
    ]  # fmt: skip
    offset, length = int(query["offset"]), int(query["length"])
    page = rows[offset : offset + length]
    return {"response": {"total": str(len(rows)), "data": page}, "request": dict(query), "apiVersion": "2.1.8"}


class Services:
    """The three stubs, and the home in which raw answers are kept."""

    def __init__(self, home: Path, nyiso_server: StubServer, weather: StubServer, eia: StubServer) -> None:
        self.home, self.nyiso, self.weather, self.eia = home, nyiso_server, weather, eia


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """NYISO, Open-Meteo and EIA as stubs, patient for seconds only."""
    data = "/electricity/rto/region-sub-ba-data/data/"
    with (
        serving(fallback=nyiso) as nyiso_server,
        serving({"/forecast": lambda query: Reply.of_json(weather_answer(query))}) as weather,
        serving({data: lambda query: Reply.of_json(eia_page(query))}) as eia,
        living_in(tmp_path / "home", source="live"),
    ):
        for name, value in {
            "TRIPTYCH_ELECTRICITY_NYISO_URL": nyiso_server.url,
            "TRIPTYCH_ELECTRICITY_WEATHER_URL": weather.url,
            "TRIPTYCH_ELECTRICITY_EIA_URL": eia.url,
            "TRIPTYCH_HTTP_ATTEMPTS": "2",
            "TRIPTYCH_HTTP_TIMEOUT_SECONDS": "2",
            "TRIPTYCH_HTTP_LONGEST_PAUSE_SECONDS": "0.01",
            "TRIPTYCH_HTTP_PATIENCE_SECONDS": "5",
        }.items():
            monkeypatch.setenv(name, value)
        yield Services(tmp_path / "home", nyiso_server, weather, eia)


def as_json(data: object) -> bytes:
    """JSON in UTF-8."""
    return json.dumps(data, ensure_ascii=False).encode()


# --- homes with simulated demand ---------------------------------------------------------------------

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 3, 15, tzinfo=UTC)  # the clock goes forward on 8 March


@pytest.fixture(scope="session")
def features_of_ten_weeks(prefect_api: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with ten weeks of features. Do not write to it: take `with_features`."""
    from flows.electricity.feature_pipeline import electricity_features

    home = tmp_path_factory.mktemp("electricity")
    with living_in(home):
        electricity_features(start=START, end=END)
    return home


@pytest.fixture
def empty(prefect_api: None, tmp_path: Path) -> Iterator[Settings]:
    """A home with nothing in it."""
    with living_in(tmp_path / "home") as settings:
        yield settings


@pytest.fixture
def with_features(features_of_ten_weeks: Path, tmp_path: Path) -> Iterator[Settings]:
    """A copy of the home with ten weeks of features."""
    home = Path(shutil.copytree(features_of_ten_weeks, tmp_path / "home"))
    with living_in(home) as settings:
        yield settings


@contextmanager
def training_in_a_hurry() -> Iterator[None]:
    """One trial and few trees: what is tested is the pipeline, not the model."""
    from flows.electricity import modelling, pricing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modelling, "SEARCH", replace(modelling.SEARCH, trials=1, rows=2_000))
        patch.setattr(
            modelling, "XGBOOST", {**modelling.XGBOOST, "learning_rate": 0.2, "n_estimators": 80, "n_jobs": 1}
        )
        patch.setattr(pricing, "SEARCH", replace(pricing.SEARCH, trials=1, rows=2_000))
        patch.setattr(pricing, "XGBOOST", modelling.XGBOOST)
        yield


@pytest.fixture(scope="session")
def trained_once(features_of_ten_weeks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a champion. Models know their folder, so it is used where it is, and not copied."""
    from flows.electricity.training_pipeline import electricity_training

    home = Path(shutil.copytree(features_of_ten_weeks, tmp_path_factory.mktemp("trained") / "home"))
    with living_in(home) as settings, training_in_a_hurry():
        number = electricity_training(end=END)
        registry.bootstrap(settings)
        # Few trees from seven weeks need not be surely better than a ridge regression, and then the gate says no.
        registry.promote(registry.version(schema.MODEL, number), why="the tests of inference need a champion")
        price = registry.versions(schema.PRICE_MODEL)[-1]
        registry.promote(price, why="the tests of inference need a champion")
    return home


@pytest.fixture
def with_champion(trained_once: Path) -> Iterator[Settings]:
    """The home with a champion; what one test writes there, the next one finds."""
    with living_in(trained_once) as settings, training_in_a_hurry():
        yield settings
