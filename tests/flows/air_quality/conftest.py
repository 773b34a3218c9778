"""Homes with simulated air in them, and stubs of GIOŚ, Open-Meteo and AQICN."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest

from featurestore.times import Window
from flows import registry
from flows.air_quality import live, schema, simulator
from flows.settings import Settings
from tests.flows.stub_server import Reply, StubServer, serving

WARSAW = ZoneInfo(schema.TIME_ZONE)
CODES = list(schema.STATIONS)
CITIES = {code: station.city for code, station in schema.STATIONS.items()}


@contextmanager
def living_in(home: Path, *, source: str = "simulated") -> Iterator[Settings]:
    """Let flows use this home and source, whatever the person who runs the tests has set."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FEATURESTORE_HOME", "TRIPTYCH_DATA", "TRIPTYCH_MLFLOW_URI"):
            patch.delenv(name, raising=False)
        patch.setenv("TRIPTYCH_HOME", str(home))
        patch.setenv("TRIPTYCH_SOURCE", source)
        yield Settings()


# --- stubs -------------------------------------------------------------------------------------------


def ug_m3(station: str, hour: datetime) -> float:
    """What the stub says was measured: the station and the hour tell it apart."""
    return round(10.0 + CODES.index(station) + hour.timestamp() / 3600 % 24 / 10, 1)


def paged(key: str, rows: list[dict[str, Any]], query: Mapping[str, str], *, unit: str = "μg/m3") -> Reply:
    """A page of GIOŚ. The link to a next page is there on the last page too, and points past the end."""
    page, size = int(query.get("page", 0)), int(query.get("size", 20))
    return Reply.of_json(
        {
            "@context": {key: {"@id": "https://api.gios.gov.pl"}},
            key: rows[page * size : (page + 1) * size],
            "meta": {"dc:description": f"Dane udostępniane są w czasie lokalnym w jednostce {unit}"},
            "links": {"next": f"?page={page + 1}"},
            "totalPages": max(1, -(-len(rows) // size)),
        }
    )


MANUAL = {
    "error_result": "Przepraszamy, nie można zwrócić danych.",
    "error_reason": "Dla stanowiska typu manualnego wyniki pomiarów nie są dostępne na bieżąco",
    "error_solution": "Prosimy o podanie wartości parametrów zgodnych z dokumentacją.",
    "error_code": "API-ERR-100003",
}

VALUES, ARCHIVE = "Lista danych pomiarowych", "Lista archiwalnych wyników pomiarów"


@lru_cache  # asked for page after page
def readings(station: str, first: datetime, last: datetime) -> list[dict[str, Any]]:
    """Values whose hours end in [first, last], newest first, in Warsaw time without zone; the newest is null."""
    hours = [last - timedelta(hours=n) for n in range((last - first) // timedelta(hours=1) + 1)]
    return [
        {
            "Kod stanowiska": f"{station}-PM2.5-1g",
            "Data": f"{end.astimezone(WARSAW):%Y-%m-%d %H:%M:%S}",
            "Wartość": None if n == 0 else ug_m3(station, end - timedelta(hours=1)),
        }
        for n, end in enumerate(hours)
    ]


class Gios:
    """GIOŚ at a time: every second station has a manual sensor of PM2.5 beside the automatic one."""

    def __init__(self) -> None:
        self.now = datetime(2026, 7, 10, 15, 20, tzinfo=UTC)
        self.closed: set[str] = set()

    def answer(self, path: str, query: Mapping[str, str]) -> Reply | None:
        """The register, a station's sensors, its last days, its archive."""
        if path == "/station/findAll":
            rows: list[dict[str, Any]] = [
                {"Identyfikator stacji": number, "Kod stacji": code, "Nazwa miasta": CITIES[code]}
                for number, code in enumerate(CODES) if code not in self.closed
            ]  # fmt: skip
            return paged("Lista stacji pomiarowych", rows, query)
        number = int(path.rpartition("/")[2])
        station, is_manual = CODES[number % 1000], number >= 3000
        newest = self.now.replace(minute=0)
        if path.startswith("/station/sensors/"):
            sensors = [(1000 + number, "PM10"), (2000 + number, "PM2.5"), (3000 + number, "PM2.5")]
            rows = [
                {"Identyfikator stanowiska": sensor, "Identyfikator stacji": number, "Wskaźnik - kod": code}
                for sensor, code in sensors[: 3 if number % 2 else 2]
            ]
            return paged("Lista stanowisk pomiarowych dla podanej stacji", rows, query)
        if path.startswith("/data/getData/"):
            if is_manual:
                return Reply.of_json(MANUAL, status=400)
            return paged(VALUES, readings(station, newest - timedelta(hours=66), newest), query)
        if is_manual:
            day = {"Kod stanowiska": f"{station}-PM2.5-24g", "Data": "2026-07-01 00:00:00", "Wartość": 99.0}
            return paged(ARCHIVE, [day], query)
        first, last = (
            datetime.strptime(query[name], "%Y-%m-%d %H:%M").replace(tzinfo=WARSAW, minute=0).astimezone(UTC)
            for name in ("dateFrom", "dateTo")
        )
        return paged(ARCHIVE, readings(station, first, min(last, newest))[1:], query)


def weather_answer(query: Mapping[str, str]) -> list[dict[str, Any]]:
    """Open-Meteo's answer for several places: columnar, an array for each variable; wind from the west."""
    start, end = (date.fromisoformat(query[name]) for name in ("start_date", "end_date"))
    hours = [
        datetime(start.year, start.month, start.day) + timedelta(hours=n) for n in range(24 * ((end - start).days + 1))
    ]
    value = {"temperature_2m": 12.5, "wind_speed_10m": 3.0, "wind_direction_10m": 270.0, "precipitation": 0.1}
    units: dict[str, str] = {"time": "iso8601"}
    values: dict[str, list[Any]] = {"time": [f"{hour:%Y-%m-%dT%H:%M}" for hour in hours]}
    for variable in query["hourly"].split(","):
        name, _, run = variable.partition("_previous_day")
        units[variable] = live.HOURLY[name][1]
        values[variable] = [value[name] + int(run or 0)] * len(hours)  # each run of a forecast says something else
    return [
        {"latitude": float(latitude) + 0.01, "utc_offset_seconds": 0, "hourly_units": units, "hourly": values}
        for latitude in query["latitude"].split(",")
    ]


def open_meteo(path: str, query: Mapping[str, str]) -> Reply | None:
    """The archive, or the archived forecasts."""
    return Reply.of_json(weather_answer(query)) if path in ("/archive", "/forecast") else None


class Services:
    """The stubs, and the home in which raw answers are kept."""

    def __init__(self, home: Path, gios: Gios, server: StubServer, weather: StubServer, aqicn: StubServer) -> None:
        self.home, self.gios, self.server, self.weather, self.aqicn = home, gios, server, weather, aqicn


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """GIOŚ, Open-Meteo and AQICN as stubs, patient for seconds only."""
    gios = Gios()
    with (
        serving(fallback=gios.answer) as server,
        serving(fallback=open_meteo) as weather,
        serving() as aqicn,
        living_in(tmp_path / "home", source="live"),
    ):
        for name, value in {
            "TRIPTYCH_AIR_QUALITY_GIOS_URL": server.url,
            "TRIPTYCH_AIR_QUALITY_ARCHIVE_URL": weather.url,
            "TRIPTYCH_AIR_QUALITY_FORECAST_URL": weather.url,
            "TRIPTYCH_AIR_QUALITY_AQICN_URL": aqicn.url,
            "TRIPTYCH_HTTP_ATTEMPTS": "2",
            "TRIPTYCH_HTTP_TIMEOUT_SECONDS": "2",
            "TRIPTYCH_HTTP_LONGEST_PAUSE_SECONDS": "0.01",
            "TRIPTYCH_HTTP_PATIENCE_SECONDS": "5",
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(live, "PER_SECOND", 1000.0)
        yield Services(tmp_path / "home", gios, server, weather, aqicn)


# --- homes with simulated air ------------------------------------------------------------------------

START, END = datetime(2025, 11, 15, tzinfo=UTC), datetime(2026, 4, 5, tzinfo=UTC)  # the clock goes forward on 29 March


@pytest.fixture(scope="session")
def features_of_twenty_weeks(prefect_api: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with twenty weeks of features, and last winter's daily means. Do not write to it: take `with_features`."""
    from flows.air_quality.feature_pipeline import air_quality_features

    home = tmp_path_factory.mktemp("air_quality")
    with living_in(home), pytest.MonkeyPatch.context() as patch:
        only_a_few_stations(patch)
        air_quality_features(start=START - timedelta(days=380), end=START - timedelta(days=160))
        air_quality_features(start=START, end=END)
    return home


def only_a_few_stations(patch: pytest.MonkeyPatch) -> None:
    """Six stations are enough for what is tested of the pipelines."""
    few = {code: schema.STATIONS[code] for code in CODES if code[:2] in ("Ld", "Mp", "Sl", "Wm", "Zp")}
    patch.setattr(schema, "STATIONS", few)
    made = simulator.measurements

    def measurements(window: Window, *, as_of: datetime, trouble: simulator.Trouble | None = None) -> pd.DataFrame:
        return made(window, as_of=as_of, stations=list(few), trouble=trouble)

    patch.setattr(simulator, "measurements", measurements)


@pytest.fixture
def empty(prefect_api: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A home with nothing in it."""
    only_a_few_stations(monkeypatch)
    with living_in(tmp_path / "home") as settings:
        yield settings


@pytest.fixture
def with_features(
    features_of_twenty_weeks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """A copy of the home with features."""
    only_a_few_stations(monkeypatch)
    home = Path(shutil.copytree(features_of_twenty_weeks, tmp_path / "home"))
    with living_in(home) as settings:
        yield settings


@contextmanager
def training_in_a_hurry() -> Iterator[None]:
    """One trial, few trees, a short test: what is tested is the pipeline, not the model."""
    from flows.air_quality import modelling

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modelling, "SEARCH", replace(modelling.SEARCH, trials=1, rows=2_000))
        patch.setattr(
            modelling, "XGBOOST", {**modelling.XGBOOST, "learning_rate": 0.2, "n_estimators": 60, "n_jobs": 1}
        )
        yield


@pytest.fixture(scope="session")
def trained_once(features_of_twenty_weeks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a champion. Models know their folder, so it is used where it is, and not copied."""
    from flows.air_quality.training_pipeline import air_quality_training

    home = Path(shutil.copytree(features_of_twenty_weeks, tmp_path_factory.mktemp("trained") / "home"))
    with living_in(home) as settings, training_in_a_hurry():
        number = air_quality_training(end=END)
        registry.bootstrap(settings)
        # Few trees from one winter need not pass the gate; the tests of inference need a champion all the same.
        registry.promote(registry.version(schema.MODEL, number), why="the tests of inference need a champion")
    return home


@pytest.fixture
def with_champion(trained_once: Path) -> Iterator[Settings]:
    """The home with a champion; what one test writes there, the next one finds."""
    with living_in(trained_once) as settings, training_in_a_hurry():
        yield settings
