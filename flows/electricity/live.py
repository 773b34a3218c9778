"""The live services: NYISO's public files, EIA's API (with a key), Open-Meteo's archived forecasts.

What they are not known to answer is refused. Times: a NYISO row says EDT or EST, and its stamp is the beginning of the
hour; EIA's period is UTC and the end of the hour; Open-Meteo is asked for UTC.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from io import BytesIO, StringIO
from typing import Literal
from zoneinfo import ZoneInfo

import pandas as pd
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from featurestore.errors import InvalidData
from featurestore.times import Window
from flows import open_meteo
from flows.electricity.schema import TIME_ZONE, ZONES
from flows.http import Answer, Bronze, Client, RequestRefused, UnexpectedAnswer
from flows.settings import Settings

INTEGRATED = ["Time Stamp", "Time Zone", "Name", "PTID", "Integrated Load"]
PRICED = ["Time Stamp", "Name", "PTID", "LBMP ($/MWHr)"]
NEIGHBOURS = {"H Q", "NPX", "O H", "PJM"}
"""Prices at the borders of New York, which are in the same files."""

OFFSETS_HOURS = {"EDT": 4, "EST": 5}
FORECAST = "temperature_2m_previous_day2"
"""The temperature as forecast two days before; the present forecast for hours that were, is not to be had later."""

DAILY_FILES = timedelta(days=8)
"""Days that NYISO keeps as files of their own; older ones are in a zip for each month."""

EIA_PAGE = 5000

_NEW_YORK = ZoneInfo(TIME_ZONE)


class Services(BaseSettings):
    """Where the services are, from `TRIPTYCH_ELECTRICITY_*` in the environment.

    Args:
        demand_from: "nyiso" (within minutes, no key) or "eia" (a day or two late, needs a key).
        nyiso_url, eia_url, weather_url: base URLs; a test's stub or a mirror may stand in.
        eia_api_key: from https://www.eia.gov/opendata/register.php; never logged, never kept.
    """

    model_config = SettingsConfigDict(
        env_prefix="TRIPTYCH_ELECTRICITY_", env_ignore_empty=True, extra="forbid", frozen=True
    )

    demand_from: Literal["nyiso", "eia"] = "nyiso"
    nyiso_url: str = "http://mis.nyiso.com/public/csv"
    eia_url: str = "https://api.eia.gov/v2"
    eia_api_key: SecretStr | None = None
    weather_url: str = "https://previous-runs-api.open-meteo.com/v1"


def demand(window: Window, *, as_of: datetime) -> pd.DataFrame:
    """The demand of the hours of [start, end) that are over by `as_of`: zone, hour (UTC), demand_mw; no order promised.

    Raises:
        LiveSourceError: the service is down, refuses, or answers something unknown; see `flows.http`.
        InvalidData: EIA is asked for without a key.
    """
    services = Services()
    if services.demand_from == "eia":
        rows = _eia_demand(window, services)
    else:
        with _client("nyiso", services.nyiso_url) as nyiso:
            rows = pd.concat([_NO_DEMAND, *_integrated(nyiso, window, as_of)], ignore_index=True)
    is_wanted = (rows["hour"] >= window.start) & (rows["hour"] < window.end)
    is_over = rows["hour"] + pd.Timedelta(hours=1) <= as_of
    return rows[is_wanted & is_over]


def operator_forecasts(days: Sequence[date], *, as_of: datetime) -> pd.DataFrame:
    """What the operator forecast for these local days on the day before: zone, hour (UTC), forecast_mw.

    Raises:
        LiveSourceError: as `demand`.
    """
    with _client("nyiso", Services().nyiso_url) as nyiso:
        parts = [part for day in days if (part := _isolf(nyiso, day, as_of)) is not None]
    return pd.concat([_NO_FORECAST, *parts], ignore_index=True)


def weather_forecasts(window: Window) -> pd.DataFrame:
    """The temperature for the hours of [start, end) as forecast two days before: zone, hour, temperature_c or null.

    Raises:
        LiveSourceError: as `demand`.
    """
    places = {code: open_meteo.Place(zone.latitude, zone.longitude) for code, zone in ZONES.items()}
    with _client("open-meteo", Services().weather_url) as weather:
        rows = open_meteo.hourly(weather, "forecast", places, {FORECAST: "°C"}, window)
    return rows.rename(columns={"place": "zone", FORECAST: "temperature_c"})


def _client(service: str, url: str, secret: dict[str, SecretStr] | None = None) -> Client:
    return Client(service, base_url=url, bronze=Bronze(Settings().home / "bronze"), secret=secret)


def nothing(value: str) -> pd.DataFrame:
    """No rows, with the columns and dtypes of an answer.

    >>> nothing("demand_mw").columns.tolist()
    ['zone', 'hour', 'demand_mw']
    """
    columns = {"zone": "str", "hour": "datetime64[us, UTC]", value: "float64"}
    return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in columns.items()})


_NO_DEMAND, _NO_FORECAST = nothing("demand_mw"), nothing("forecast_mw")


# --- NYISO -------------------------------------------------------------------------------------------


def _integrated(nyiso: Client, window: Window, as_of: datetime) -> Iterator[pd.DataFrame]:
    today = as_of.astimezone(_NEW_YORK).date()
    months_read = set()
    for day in local_days(window):
        if day >= today - DAILY_FILES:
            try:
                answer = nyiso.get(f"palIntegrated/{day:%Y%m%d}palIntegrated.csv")
            except RequestRefused as error:
                if error.status == 404 and day >= today:
                    continue  # the first hour of today is not over yet
                raise
            yield integrated_load(answer.text, day=day, what=str(answer))
        elif (month := day.replace(day=1)) not in months_read:
            months_read.add(month)
            answer = nyiso.get(f"palIntegrated/{month:%Y%m%d}palIntegrated_csv.zip")
            for name, text in _unzipped(answer):
                of_day = datetime.strptime(name[:8], "%Y%m%d").date()  # noqa: DTZ007 - a day has no zone
                if of_day < today - DAILY_FILES:  # the days after it are read from their own files
                    yield integrated_load(text, day=of_day, what=f"{answer}, {name}")


def integrated_load(text: str, *, day: date, what: str) -> pd.DataFrame:
    """The rows of one `palIntegrated` file: zone, hour (UTC), demand_mw; rows without a load are left out.

    Args:
        day: the local day that the file is for.
        what: names the file in messages.
    Raises:
        UnexpectedAnswer: other columns, an unknown zone or number, another day, a cut line, or two loads for one hour.

    >>> rows = integrated_load(
    ...     '"Time Stamp","Time Zone","Name","PTID","Integrated Load"\\n'
    ...     '"11/01/2026 01:00:00","EDT","N.Y.C.",61761,5000\\n"11/01/2026 01:00:00","EST","N.Y.C.",61761,4900\\n',
    ...     day=date(2026, 11, 1), what="a file")
    >>> [f"{hour:%H:%M}" for hour in rows["hour"]], rows["demand_mw"].tolist()  # the hour that occurs twice
    (['05:00', '06:00'], [5000.0, 4900.0])
    """
    rows = _csv(text, INTEGRATED, what)
    stamps = _stamps(rows["Time Stamp"], "%m/%d/%Y %H:%M:%S", day, what)
    if unknown := sorted(set(rows["Time Zone"]) - set(OFFSETS_HOURS)):
        raise UnexpectedAnswer(f"{what}: Time Zone is {unknown}, expected EDT or EST. {_CHANGED}")
    zone = _zones_of(rows, what)
    ahead = pd.to_timedelta(rows["Time Zone"].map(OFFSETS_HOURS), unit="h")
    found = pd.DataFrame(
        {
            "zone": zone,
            "hour": (stamps + ahead).dt.tz_localize("UTC").dt.as_unit("us"),
            "demand_mw": _numbers(rows["Integrated Load"], "Integrated Load", what),
        }
    )
    found = found[found["demand_mw"].notna()].drop_duplicates(ignore_index=True)
    if found.duplicated(["zone", "hour"]).any():
        twice = found[found.duplicated(["zone", "hour"])].iloc[0]
        raise UnexpectedAnswer(f"{what}: two different loads for {twice['zone']} at {twice['hour']}. {_CHANGED}")
    return found


def prices(window: Window, *, as_of: datetime) -> pd.DataFrame:
    """The day-ahead market's prices of the hours of [start, end): zone, hour (UTC), price_usd_per_mwh, in no order.

    Files that are not published yet are left out.

    Raises:
        LiveSourceError: as `demand`.
    """
    today = as_of.astimezone(_NEW_YORK).date()
    parts, months_read = [nothing("price_usd_per_mwh")], set()
    with _client("nyiso", Services().nyiso_url) as nyiso:
        for day in local_days(window):
            if day >= today - DAILY_FILES:
                try:
                    answer = nyiso.get(f"damlbmp/{day:%Y%m%d}damlbmp_zone.csv")
                except RequestRefused as error:
                    if error.status == 404 and day > today:
                        continue  # tomorrow's are published at about 11:00
                    raise
                parts.append(day_ahead_prices(answer.text, day=day, what=str(answer)))
            elif (month := day.replace(day=1)) not in months_read:
                months_read.add(month)
                answer = nyiso.get(f"damlbmp/{month:%Y%m%d}damlbmp_zone_csv.zip")
                for name, text in _unzipped(answer):
                    of_day = datetime.strptime(name[:8], "%Y%m%d").date()  # noqa: DTZ007 - a day has no zone
                    if of_day < today - DAILY_FILES:
                        parts.append(day_ahead_prices(text, day=of_day, what=f"{answer}, {name}"))
    rows = pd.concat(parts, ignore_index=True)
    return rows[(rows["hour"] >= window.start) & (rows["hour"] < window.end)]


def day_ahead_prices(text: str, *, day: date, what: str) -> pd.DataFrame:
    """The rows of one `damlbmp` file: zone, hour (UTC), price_usd_per_mwh; prices at the borders are left out.

    The stamps have no zone; of an hour that occurs twice the first row is daylight saving time. Before July 2016 the
    last header was cut to "($/MWH"; it is not looked at.

    Raises:
        UnexpectedAnswer: other columns, an unknown zone or number, another day, a cut line, or no number.

    >>> text = ('"Time Stamp","Name","PTID","LBMP ($/MWHr)","Marginal Cost Losses ($/MWHr)",'
    ...         '"Marginal Cost Congestion ($/MWH"\\n"11/01/2026 01:00","N.Y.C.",61761,30.5,1,0\\n'
    ...         '"11/01/2026 01:00","N.Y.C.",61761,-2.25,1,0\\n')
    >>> rows = day_ahead_prices(text, day=date(2026, 11, 1), what="a file")
    >>> [f"{hour:%H:%M}" for hour in rows["hour"]], rows["price_usd_per_mwh"].tolist()  # the hour that occurs twice
    (['05:00', '06:00'], [30.5, -2.25])
    """
    rows = _csv(text, None, what)
    if list(rows.columns[: len(PRICED)]) != PRICED:
        raise UnexpectedAnswer(f"{what} has the columns {list(rows.columns)}, expected {PRICED} first. {_CHANGED}")
    rows = rows[~rows["Name"].isin(NEIGHBOURS)].reset_index(drop=True)
    rows["zone"] = _zones_of(rows, what)
    wall = _stamps(rows["Time Stamp"], "%m/%d/%Y %H:%M", day, what)
    if hours_in(day) <= 24:  # else a row that is repeated may be the hour that is
        rows, wall = rows.drop_duplicates(ignore_index=True), wall[~rows.duplicated()].reset_index(drop=True)
    rows = rows.assign(wall=wall, price_usd_per_mwh=_numbers(rows["LBMP ($/MWHr)"], "LBMP", what))
    is_first = ~rows.duplicated(["zone", "wall"])
    often = rows.groupby(["zone", "wall"]).size()
    allowed = 1 + (often.index.get_level_values("wall").hour == 1) * (hours_in(day) > 24)
    if (often > allowed).any():
        zone, stamp = often.index[often > allowed][0]
        raise UnexpectedAnswer(f"{what}: {zone} has a price for {stamp} more than once. {_CHANGED}")
    hour = wall.dt.tz_localize(TIME_ZONE, ambiguous=is_first.to_numpy(), nonexistent="NaT").dt.tz_convert("UTC")
    rows = rows.assign(hour=hour.dt.as_unit("us"))
    there = rows["hour"].notna() & rows["price_usd_per_mwh"].notna()
    return rows.loc[there, ["zone", "hour", "price_usd_per_mwh"]].reset_index(drop=True)


def _zones_of(rows: pd.DataFrame, what: str) -> pd.Series:
    """The zone of each row, by its name and number."""
    named = {zone.name: (code, zone.ptid) for code, zone in ZONES.items()}
    if unknown := sorted({str(name) for name in rows["Name"]} - set(named)):
        raise UnexpectedAnswer(f"{what}: unknown zones {unknown}, expected {sorted(named)}. {_CHANGED}")
    wrong = rows[rows["PTID"] != rows["Name"].map({name: ptid for name, (_, ptid) in named.items()})]
    if len(wrong):
        raise UnexpectedAnswer(f"{what}: {wrong['Name'].iloc[0]} has PTID {wrong['PTID'].iloc[0]}. {_CHANGED}")
    return rows["Name"].map({name: code for name, (code, _) in named.items()}).astype("str")


def _isolf(nyiso: Client, day: date, as_of: datetime) -> pd.DataFrame | None:
    try:
        answer = nyiso.get(f"isolf/{day:%Y%m%d}isolf.csv")
    except RequestRefused as error:
        # Not written yet, or older than NYISO keeps: nothing to compare with, and nothing of ours depends on it.
        today = as_of.astimezone(_NEW_YORK).date()
        if error.status == 404 and (day > today or day < today - DAILY_FILES):
            return None
        raise
    return load_forecast(answer.text, day=day, what=str(answer))


def load_forecast(text: str, *, day: date, what: str) -> pd.DataFrame:
    """The rows of one `isolf` file for its own day: zone, hour (UTC), forecast_mw. The days after it are left out.

    The stamps have no zone; of an hour that occurs twice the first row is daylight saving time.

    Raises:
        UnexpectedAnswer: other columns, another day, or no number.

    >>> header = "Time Stamp," + ",".join(zone.name.title() for zone in ZONES.values()) + ",NYISO"
    >>> rows = load_forecast(header + "\\n07/01/2019 00:00" + ",100" * 12 + "\\n", day=date(2019, 7, 1), what="a file")
    >>> len(rows), str(rows["hour"].iloc[0])
    (11, '2019-07-01 04:00:00+00:00')
    """
    named = {zone.name.casefold(): code for code, zone in ZONES.items()}
    table = _csv(text, None, what)
    found = {column: named[column.casefold()] for column in table if column.casefold() in named}
    if set(found.values()) != set(ZONES) or "Time Stamp" not in table:
        raise UnexpectedAnswer(
            f"{what} has the columns {list(table)}, expected Time Stamp and {list(named)}. {_CHANGED}"
        )
    wall = pd.to_datetime(table["Time Stamp"], format="%m/%d/%Y %H:%M", errors="coerce")
    if wall.isna().any() or wall.iloc[0].date() != day:
        raise UnexpectedAnswer(
            f"{what} begins with {table['Time Stamp'].iloc[0]!r}, expected {day:%m/%d/%Y}: an old answer. {_CHANGED}"
        )
    is_first = ~wall.duplicated()
    hour = wall.dt.tz_localize(TIME_ZONE, ambiguous=is_first.to_numpy(), nonexistent="NaT").dt.tz_convert("UTC")
    rows = table.assign(hour=hour.dt.as_unit("us"))[(wall.dt.date == day) & hour.notna()]
    rows = rows.rename(columns=found).melt(
        id_vars="hour", value_vars=list(ZONES), var_name="zone", value_name="forecast_mw"
    )
    rows["forecast_mw"] = _numbers(rows["forecast_mw"], "forecast", what)
    return rows.astype({"zone": "str"})[["zone", "hour", "forecast_mw"]].dropna().drop_duplicates(["zone", "hour"])


# --- EIA ---------------------------------------------------------------------------------------------


def _eia_demand(window: Window, services: Services) -> pd.DataFrame:
    if services.eia_api_key is None:
        raise InvalidData(
            "TRIPTYCH_ELECTRICITY_DEMAND_FROM=eia needs a key: set TRIPTYCH_ELECTRICITY_EIA_API_KEY (free, from "
            "https://www.eia.gov/opendata/register.php), or use nyiso, which needs none."
        )
    ends = Window(window.start + timedelta(hours=1), window.end + timedelta(hours=1))
    asked = {
        "frequency": "hourly", "data[0]": "value", "facets[parent][]": "NYIS", "length": EIA_PAGE,
        "start": f"{ends.start:%Y-%m-%dT%H}", "end": f"{ends.end:%Y-%m-%dT%H}",
        "sort[0][column]": "period", "sort[0][direction]": "asc",
        "sort[1][column]": "subba", "sort[1][direction]": "asc",
    }  # fmt: skip
    parts, offset = [_NO_DEMAND], 0
    with _client("eia", services.eia_url, {"api_key": services.eia_api_key}) as eia:
        while True:
            answer = eia.get("electricity/rto/region-sub-ba-data/data/", asked | {"offset": offset})
            rows, total = _eia_page(answer)
            parts.append(rows)
            offset += EIA_PAGE
            if offset >= total:
                return pd.concat(parts, ignore_index=True).drop_duplicates(["zone", "hour"], keep="last")


def _eia_page(answer: Answer) -> tuple[pd.DataFrame, int]:
    body = answer.json()
    try:
        data, total = body["response"]["data"], int(body["response"]["total"])
        rows = pd.DataFrame(data, columns=["period", "subba", "value", "value-units"])
    except (KeyError, TypeError, ValueError) as error:
        raise UnexpectedAnswer(f"{answer} has no response with data and total ({error}). {_CHANGED}") from error
    if other := sorted(set(rows["value-units"].dropna()) - {"megawatthours"}):
        raise UnexpectedAnswer(f"{answer}: values are in {other}, expected megawatthours. {_CHANGED}")
    named = {f"ZON{code[0]}": code for code in ZONES}
    if unknown := sorted(set(rows["subba"]) - set(named)):
        raise UnexpectedAnswer(f"{answer}: unknown zones {unknown}, expected {sorted(named)}. {_CHANGED}")
    ends = pd.to_datetime(rows["period"], format="%Y-%m-%dT%H", utc=True)
    found = pd.DataFrame(
        {
            "zone": rows["subba"].map(named).astype("str"),
            "hour": (ends - pd.Timedelta(hours=1)).dt.as_unit("us"),
            "demand_mw": _numbers(rows["value"], "value", str(answer)),
        }
    )
    return found[found["demand_mw"].notna()], total


# --- shared ------------------------------------------------------------------------------------------

_CHANGED = (
    "The service has changed or mixes something up: nothing was written. Look at its raw answer in bronze/; when the "
    "change is meant, flows/electricity/live.py must learn it."
)


def hours_in(day: date) -> int:
    """How many hours a New York day has.

    >>> hours_in(date(2026, 3, 8)), hours_in(date(2026, 11, 1)), hours_in(date(2026, 7, 1))
    (23, 25, 24)
    """
    start, end = (
        datetime(each.year, each.month, each.day, tzinfo=_NEW_YORK).astimezone(UTC)
        for each in (day, day + timedelta(days=1))
    )
    return (end - start) // timedelta(hours=1)


def local_days(window: Window) -> list[date]:
    """The days of the New York clock that [start, end) touches.

    >>> [str(day) for day in local_days(Window.of("2026-01-01T04:00", "2026-01-01T06:00"))]
    ['2025-12-31', '2026-01-01']
    """
    first = window.start.astimezone(_NEW_YORK).date()
    last = (window.end - timedelta(microseconds=1)).astimezone(_NEW_YORK).date()
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def _csv(text: str, expected: list[str] | None, what: str) -> pd.DataFrame:
    try:
        rows = pd.read_csv(StringIO(text), skipinitialspace=True)
    except (ValueError, pd.errors.ParserError) as error:
        raise UnexpectedAnswer(f"{what} is not a table ({error}). {_CHANGED}") from error
    if expected is not None and list(rows.columns) != expected:
        raise UnexpectedAnswer(f"{what} has the columns {list(rows.columns)}, expected {expected}. {_CHANGED}")
    if not text.endswith("\n"):
        raise UnexpectedAnswer(f"{what} ends in the middle of a line: half an answer. Run again later.")
    return rows


def _stamps(stamps: pd.Series, form: str, day: date, what: str) -> pd.Series:
    times = pd.to_datetime(stamps, format=form, errors="coerce")
    if times.isna().any():
        raise UnexpectedAnswer(f"{what}: {stamps[times.isna()].iloc[0]!r} is no time as expected ({form}). {_CHANGED}")
    if len(times) and set(times.dt.date) != {day}:
        other = sorted({str(found) for found in times.dt.date} - {str(day)})
        raise UnexpectedAnswer(f"{what} holds rows of {', '.join(other)}, expected {day}: an old answer. {_CHANGED}")
    return times


def _numbers(values: pd.Series, name: str, what: str) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    broken = values[numbers.isna() & values.notna()]
    if len(broken):
        raise UnexpectedAnswer(f"{what}: {name} {broken.iloc[0]!r} is no number. {_CHANGED}")
    return numbers


def _unzipped(answer: Answer) -> list[tuple[str, str]]:
    try:
        with zipfile.ZipFile(BytesIO(answer.content)) as archive:
            return [(name, archive.read(name).decode("utf-8")) for name in sorted(archive.namelist())]
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise UnexpectedAnswer(f"{answer} is not a whole zip of CSV files ({error}). Run again later.") from error
