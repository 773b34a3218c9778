"""The live services: GIOŚ (measurements), Open-Meteo (weather), AQICN (an index, which is another quantity).

What they are not known to answer is refused. GIOŚ writes Warsaw time without zone, and a stamp is the end of its hour,
as in its yearly archives; its keys are Polish. Values are µg/m³.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from featurestore.errors import InvalidData
from featurestore.times import Window
from flows import open_meteo
from flows.air_quality import schema
from flows.air_quality.features import daily_weather
from flows.air_quality.schema import FORECAST, HORIZONS, TIME_ZONE
from flows.http import Answer, Bronze, Client, RequestRefused, UnexpectedAnswer
from flows.settings import Settings

POLLUTANT = "PM2.5"
MANUAL = "API-ERR-100003"
"""A manual sensor has no data of the hour: filters are weighed weeks later."""

NEWEST = timedelta(days=2)
"""GIOŚ gives about three days at once; what is older comes from its archive."""

STALE = timedelta(hours=12)
"""If no station has anything newer, the answers are old ones."""

PAGE = 500
PER_SECOND = 2.0  # GIOŚ answers 429 to who asks faster
MOST_DAYS_ASKED = 365  # of the archive in one request

HOURLY = {
    "temperature_2m": ("temperature_c", "°C"),
    "wind_speed_10m": ("wind_speed_ms", "m/s"),
    "wind_direction_10m": ("wind_direction_deg", "°"),
    "precipitation": ("precipitation_mm", "mm"),
}
"""Open-Meteo's variables: our name and the unit for each."""

FARTHEST_RUN = 7
"""Open-Meteo keeps for each hour the forecasts of up to seven days before."""


class Services(BaseSettings):
    """Where the services are, from `TRIPTYCH_AIR_QUALITY_*` in the environment.

    Args:
        gios_url, archive_url, forecast_url, aqicn_url: base URLs; a test's stub or a mirror may stand in.
        aqicn_token: from https://aqicn.org/data-platform/token; never logged, never kept. Only for the index.
    """

    model_config = SettingsConfigDict(
        env_prefix="TRIPTYCH_AIR_QUALITY_", env_ignore_empty=True, extra="forbid", frozen=True
    )

    gios_url: str = "https://api.gios.gov.pl/pjp-api/v1/rest"
    archive_url: str = "https://archive-api.open-meteo.com/v1"
    forecast_url: str = "https://previous-runs-api.open-meteo.com/v1"
    aqicn_url: str = "https://api.waqi.info"
    aqicn_token: SecretStr | None = None


def measurements(window: Window, *, as_of: datetime, stations: Sequence[str] | None = None) -> pd.DataFrame:
    """PM2.5 of the hours of [start, end) that were over by `as_of`: station, hour (UTC), pm25_ug_m3 (µg/m³).

    Hours whose value is null are missing, and so are stations that GIOŚ does not list any more. No order promised.

    Raises:
        LiveSourceError: the service is down, refuses, or answers something unknown; see `flows.http`.
    """
    recent = window.end > as_of - NEWEST
    parts, newest = [_nothing("pm25_ug_m3")], []
    with _client("gios", Services().gios_url) as gios:
        listed = _listed(gios)
        for station in stations or schema.STATIONS:
            if station not in listed:
                continue  # closed: it is silent from now on, and that is what its rows say
            for sensor in _sensors(gios, listed[station]):
                older = window.start < as_of - NEWEST
                rows = list(_archived(gios, sensor, Window(window.start, min(window.end, as_of)))) if older else []
                if recent:
                    now = _recent(gios, sensor)
                    newest += [stamp for stamp, _ in now[1]] if now else []
                    rows += [now] if now else []
                parts += [hourly(pairs, station=station, what=what) for what, pairs in rows]
    if recent and newest and (last := pd.Timestamp(max(newest), tz=TIME_ZONE)) < as_of - STALE:
        raise UnexpectedAnswer(f"The newest hour of all stations at GIOŚ ends at {last}: an old answer. {_CHANGED}")
    found = pd.concat(parts, ignore_index=True).drop_duplicates(ignore_index=True)
    is_wanted = (found["hour"] >= window.start) & (found["hour"] < window.end)
    found = found[is_wanted & (found["hour"] + pd.Timedelta(hours=1) <= as_of)]
    # The archive and the last days overlap: what was corrected since is in the newer one, which comes last.
    return found.drop_duplicates(["station", "hour"], keep="last", ignore_index=True)


def observed_weather(days: Window) -> pd.DataFrame:
    """The weather of the local days whose midnight lies in [start, end): station, day, columns of `schema.FORECAST`.

    Days that the archive does not have yet are null.

    Raises:
        LiveSourceError: as `measurements`.
    """
    hours = Window(days.start, days.end + timedelta(days=1))
    with _client("open-meteo", Services().archive_url) as weather:
        rows = open_meteo.hourly(
            weather, "archive", _places(), {name: unit for name, (_, unit) in HOURLY.items()}, hours,
            options={"wind_speed_unit": "ms"},
        )  # fmt: skip
    named = rows.rename(columns={"place": "station"} | {name: ours for name, (ours, _) in HOURLY.items()})
    found = daily_weather(named)
    return found[(found["day"] >= days.start) & (found["day"] < days.end)]


def weather_forecasts(days: Window) -> pd.DataFrame:
    """What was expected of these days at each issue: station, day, horizon_days, columns of `schema.FORECAST`.

    For each hour of a day h days after the issue it is the forecast made h + 1 days before the hour: the newest one
    that was out for the last hour of that day as well. For the seventh day Open-Meteo keeps none.

    Raises:
        LiveSourceError: as `measurements`.
    """
    hours = Window(days.start, days.end + timedelta(days=1))
    runs = {horizon: horizon + 1 for horizon in HORIZONS if horizon + 1 <= FARTHEST_RUN}
    variables = {f"{name}_previous_day{run}": unit for run in runs.values() for name, (_, unit) in HOURLY.items()}
    with _client("open-meteo", Services().forecast_url) as weather:
        rows = open_meteo.hourly(
            weather, "forecast", _places(), variables, hours, options={"wind_speed_unit": "ms"}
        )  # fmt: skip
    parts = []
    for horizon, run in runs.items():
        ours = {f"{name}_previous_day{run}": column for name, (column, _) in HOURLY.items()}
        of_run = rows[["place", "hour", *ours]].rename(columns={"place": "station", **ours})
        parts.append(daily_weather(of_run).assign(horizon_days=horizon))
    found = pd.concat(parts, ignore_index=True)[["station", "day", "horizon_days", *FORECAST]]
    return found[(found["day"] >= days.start) & (found["day"] < days.end)]


def air_quality_index(stations: Sequence[str] | None = None) -> pd.DataFrame:
    """The US index of PM2.5 that AQICN gives for each station's place now: another quantity than a concentration.

    It has no column in the groups of this system, and nothing here makes one of the other: the index is of other hours,
    other instruments, and bent by its categories.

    Returns:
        station, measured_at (UTC), pm25_aqi (a number of the index; null where the feed has none).
    Raises:
        InvalidData: there is no token.
        LiveSourceError: as `measurements`; the feed's own errors come with HTTP 200.
    """
    services = Services()
    if services.aqicn_token is None:
        raise InvalidData(
            "AQICN needs a token: set TRIPTYCH_AIR_QUALITY_AQICN_TOKEN (free, from https://aqicn.org/data-platform/token)."
        )
    found = []
    with _client("aqicn", services.aqicn_url, {"token": services.aqicn_token}) as aqicn:
        for station in stations or schema.STATIONS:
            place = schema.STATIONS[station]
            answer = aqicn.get(f"feed/geo:{place.latitude};{place.longitude}/")
            body = answer.json()
            if not isinstance(body, dict) or body.get("status") != "ok":
                said = body.get("data", body) if isinstance(body, dict) else body
                raise UnexpectedAnswer(f"{answer} says: {said}. Check the token, or ask later.")
            try:
                measured_at = datetime.fromisoformat(body["data"]["time"]["iso"]).astimezone(UTC)
                value = body["data"]["iaqi"].get("pm25", {}).get("v")
            except (KeyError, TypeError, ValueError) as error:
                raise UnexpectedAnswer(f"{answer} has no iaqi or time ({error}). {_CHANGED}") from error
            found.append((station, measured_at, float("nan") if value in (None, "-") else float(value)))
    rows = pd.DataFrame(found, columns=["station", "measured_at", "pm25_aqi"])
    return rows.astype({"station": "str", "measured_at": "datetime64[us, UTC]", "pm25_aqi": "float64"})


def _client(service: str, url: str, secret: dict[str, SecretStr] | None = None) -> Client:
    return Client(
        service, base_url=url, bronze=Bronze(Settings().home / "bronze"), secret=secret, per_second=PER_SECOND
    )


def _places() -> dict[str, open_meteo.Place]:
    return {code: open_meteo.Place(station.latitude, station.longitude) for code, station in schema.STATIONS.items()}


# --- GIOŚ --------------------------------------------------------------------------------------------

Pairs = list[tuple[datetime, float]]


def hourly(pairs: Pairs, *, station: str, what: str) -> pd.DataFrame:
    """Values by stamp as rows: station, hour (UTC, its beginning), pm25_ug_m3.

    A stamp is the end of an hour on the Warsaw clock. On the night when the clock goes back, 02:00 is the end of two
    hours: where both are there, the later one comes first, as GIOŚ lists the newest first; where only one is, nobody
    can say which, and it is left out.

    Args:
        pairs: newest first; nulls are left out already.
    Raises:
        UnexpectedAnswer: two values for one hour, or a stamp that the clock skips.

    >>> stamps = [datetime(2026, 10, 25, hour) for hour in (2, 2, 1)]  # noqa: DTZ001 - Warsaw's clock, without zone
    >>> rows = hourly(list(zip(stamps, [9.0, 7.0, 5.0])), station="MpKrakAlKras", what="an answer")
    >>> [f"{hour:%d %H:%M}" for hour in rows["hour"]], rows["pm25_ug_m3"].tolist()
    (['25 00:00', '24 23:00', '24 22:00'], [9.0, 7.0, 5.0])
    """
    if not pairs:
        return _nothing("pm25_ug_m3")
    wall = pd.Series([stamp for stamp, _ in pairs]).dt.as_unit("us")
    values = pd.Series([value for _, value in pairs], dtype="float64")
    rows = pd.DataFrame({"wall": wall, "pm25_ug_m3": values})
    ambiguous = wall.dt.tz_localize(TIME_ZONE, ambiguous="NaT", nonexistent="shift_forward").isna()
    skipped = wall.dt.tz_localize(TIME_ZONE, ambiguous=True, nonexistent="NaT").isna()
    if skipped.any():
        raise UnexpectedAnswer(f"{what}: {wall[skipped].iloc[0]} is skipped by the clock of {TIME_ZONE}. {_CHANGED}")
    both = ambiguous & rows.duplicated("wall", keep=False)
    is_first = ~rows.duplicated("wall")
    rows = rows[both | ~ambiguous]
    # True is summer time: of the two the older one, which comes second.
    is_summer = (~is_first[rows.index]).to_numpy()
    ends = rows["wall"].dt.tz_localize(TIME_ZONE, ambiguous=is_summer).dt.tz_convert("UTC")
    found = rows.assign(hour=ends - pd.Timedelta(hours=1)).drop_duplicates(["hour", "pm25_ug_m3"])
    if found.duplicated("hour").any():
        twice = found[found.duplicated("hour")].iloc[0]
        raise UnexpectedAnswer(f"{what}: two different values for the hour from {twice['hour']}. {_CHANGED}")
    return pd.DataFrame(
        {
            "station": pd.Series(station, index=found.index, dtype="str"),
            "hour": found["hour"].dt.as_unit("us"),
            "pm25_ug_m3": found["pm25_ug_m3"],
        }
    ).reset_index(drop=True)


def _listed(gios: Client) -> dict[str, int]:
    """Ids of the stations that GIOŚ runs now, by code."""
    rows = [row for page in _pages(gios, "station/findAll", "Lista stacji pomiarowych") for row in page[1]]
    if not rows:
        raise UnexpectedAnswer(f"GIOŚ lists no station at all. {_CHANGED}")
    return {
        _of(row, "Kod stacji", "station/findAll"): _of(row, "Identyfikator stacji", "station/findAll") for row in rows
    }


def _sensors(gios: Client, station: int) -> list[int]:
    """Ids of the station's sensors of PM2.5, hourly or not: the register does not tell."""
    path = f"station/sensors/{station}"
    pages = _pages(gios, path, "Lista stanowisk pomiarowych dla podanej stacji")
    rows = [row for page in pages for row in page[1]]
    found = [
        _of(row, "Identyfikator stanowiska", path) for row in rows if _of(row, "Wskaźnik - kod", path) == POLLUTANT
    ]
    return sorted(found)


def _recent(gios: Client, sensor: int) -> tuple[str, Pairs] | None:
    pages = list(_pages(gios, f"data/getData/{sensor}", "Lista danych pomiarowych"))
    return _joined(pages)


def _archived(gios: Client, sensor: int, window: Window) -> Iterator[tuple[str, Pairs]]:
    step = timedelta(days=MOST_DAYS_ASKED)
    start = window.start
    while start < window.end:
        end = min(start + step, window.end)
        local = [pd.Timestamp(time).tz_convert(TIME_ZONE) for time in (start, end + timedelta(hours=1))]
        asked = {"dateFrom": f"{local[0]:%Y-%m-%d %H:%M}", "dateTo": f"{local[1]:%Y-%m-%d %H:%M}"}
        path = f"archivalData/getDataBySensor/{sensor}"
        found = _joined(list(_pages(gios, path, "Lista archiwalnych wyników pomiarów", asked)))
        if found:
            yield found
        start = end


def _joined(pages: list[tuple[Answer, list[Any]]]) -> tuple[str, Pairs] | None:
    """Stamps and values of the hourly sensor on all pages, newest first; None if there are none."""
    pairs: Pairs = []
    for answer, rows in pages:
        for row in rows:
            code, stamp, value = (_of(row, key, str(answer)) for key in ("Kod stanowiska", "Data", "Wartość"))
            if f"-{POLLUTANT}-" not in str(code):
                raise UnexpectedAnswer(f"{answer} is of {code}, expected a sensor of {POLLUTANT}. {_CHANGED}")
            if not str(code).endswith("-1g") or value is None:
                continue  # "24g" is the mean of a day, weighed: another averaging
            try:
                pairs.append((datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S"), float(value)))  # noqa: DTZ007 - no zone
            except (TypeError, ValueError) as error:
                raise UnexpectedAnswer(
                    f"{answer}: {stamp!r} with {value!r} is no hour with a value. {_CHANGED}"
                ) from error
    if not pairs:
        return None
    # Stable: of an hour that occurs twice the order of the answer is kept.
    return str(pages[0][0]), sorted(pairs, key=lambda pair: pair[0], reverse=True)


def _pages(
    gios: Client, path: str, key: str, params: Mapping[str, object] | None = None
) -> Iterator[tuple[Answer, list[Any]]]:
    """Each page and its rows. The links of the last page point past the end: the number of pages decides."""
    page = 0
    while True:
        try:
            answer = gios.get(path, {**(params or {}), "page": page, "size": PAGE})
        except RequestRefused as error:
            if MANUAL.encode() in error.content:
                return
            raise
        body = answer.json()
        if isinstance(body, dict) and body.get("error_code") == MANUAL:
            return
        if isinstance(body, dict) and "error_code" in body:
            said = body.get("error_reason", body.get("error_result", "no reason"))
            raise UnexpectedAnswer(f"{answer} says: {body['error_code']}, {said}. {_CHANGED}")
        if not isinstance(body, dict) or not isinstance(body.get(key), list):
            there = list(body) if isinstance(body, dict) else type(body).__name__
            raise UnexpectedAnswer(f"{answer} has {there}, expected a list called {key!r}. {_CHANGED}")
        _check_unit(body, answer)
        yield answer, body[key]
        page += 1
        if page >= int(body.get("totalPages", 1)):
            return


def _check_unit(body: dict[str, Any], answer: Answer) -> None:
    """The unit is only in the description, in words; where it names one, it must be ours."""
    meta = body.get("meta")
    told = str(meta.get("dc:description", "") if isinstance(meta, dict) else "").replace("µ", "μ")
    if "g/m3" in told and "μg/m3" not in told:
        raise UnexpectedAnswer(f"{answer} describes its values as {told!r}, expected μg/m3. {_CHANGED}")


def _of(row: Any, key: str, what: str) -> Any:
    try:
        return row[key]
    except (KeyError, TypeError) as error:
        there = list(row) if isinstance(row, dict) else row
        raise UnexpectedAnswer(f"{what}: a row has {there}, expected {key!r} among them. {_CHANGED}") from error


def _nothing(value: str) -> pd.DataFrame:
    columns = {"station": "str", "hour": "datetime64[us, UTC]", value: "float64"}
    return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in columns.items()})


_CHANGED = (
    "The service has changed or mixes something up: nothing was written. Look at its raw answer in bronze/; when the "
    "change is meant, flows/air_quality/live.py must learn it."
)
