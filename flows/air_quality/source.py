"""PM2.5 and weather of Polish stations from outside, in one shape: live, from tables, or made up."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pandas as pd

from featurestore.errors import NotFound
from featurestore.times import Window
from flows import windows
from flows.air_quality import live, simulator
from flows.air_quality.features import issue_on, local_day, midnight_of
from flows.air_quality.schema import FORECAST, HORIZONS, KNOWN_AFTER, OBSERVED_AFTER, STATIONS
from flows.settings import Settings
from flows.sources import data_folder, half_open, in_shape, read_table

MEASUREMENTS: Mapping[str, str] = {
    "station": "str",
    "hour": "datetime64[us, UTC]",
    "pm25_ug_m3": "float64",
    "known_at": "datetime64[us, UTC]",
    "source": "str",
}
"""The columns every source gives, in order: beginning of the hour, mean PM2.5 in µg/m³ as the instrument reported it
(now and then below zero), an hour after the hour's end."""

_DAILY = dict.fromkeys(FORECAST, "float64")

OBSERVED: Mapping[str, str] = {
    "station": "str", "day": "datetime64[us, UTC]", **_DAILY, "known_at": "datetime64[us, UTC]", "source": "str",
}  # fmt: skip
"""The weather that a day had: °C, m/s, degrees, mm; and when it was known, two days after the day."""

FORECASTS: Mapping[str, str] = {
    "station": "str", "day": "datetime64[us, UTC]", "horizon_days": "int64", "issued_at": "datetime64[us, UTC]",
    **_DAILY, "source": "str",
}  # fmt: skip
"""The weather that was expected of a day at an issue. Never what it was."""

SIMULATED, LIVE, TABLES = "simulated", "live", "gios"
SOURCES = (SIMULATED, LIVE, TABLES)

PM25_TABLE = "gios_pm25_hourly_2014_2019.parquet"
WEATHER_TABLE = "imgw_climate_daily_2008_2018.parquet"

SPANS = {
    SIMULATED: simulator.SPAN,
    TABLES: Window(datetime(2014, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)),
}
LIVE_HISTORY = timedelta(days=3 * 366)

WEATHER_STATIONS = {
    "KpBydPlPozna": "KOŁUDA WIELKA", "LdLodzCzerni": "SKIERNIEWICE", "LdZgieMielcz": "SKIERNIEWICE",
    "LuZielKrotka": "BABIMOST", "MpKrakAlKras": "KRAKÓW-OBSERWATORIUM", "MzPlocMiReja": "PUŁTUSK",
    "MzRadTochter": "PUŁAWY", "MzSiedKonars": "RADZYŃ", "MzWarAlNiepo": "WARSZAWA-BIELANY",
    "MzZyraRoosev": "SKIERNIEWICE", "PdBialWaszyn": "BIAŁOWIEŻA", "PmGdaLeczkow": "GDAŃSK-RĘBIECHOWO",
    "SlKatoKossut": "PSZCZYNA", "WmOlsPuszkin": "LIDZBARK WARMIŃSKI", "WpKaliSawick": "JAROCIN",
    "ZpSzczPilsud": "GOLENIÓW",
}  # fmt: skip
"""The weather station of the table for each station: the nearest one with temperature and wind, up to 80 km away. The
table has no coordinates, and none near Wrocław, Kędzierzyn-Koźle and Przemyśl."""


def read_measurements(
    start: datetime, end: datetime, *, as_of: datetime | None = None, source: str | None = None
) -> pd.DataFrame:
    """The measurements that became known in [start, end), one row per station and hour.

    Args:
        start, end: half-open, by the time they were known (two hours after the hour began); with a time zone.
        as_of: what the source gave at that time: hours that it published late are missing before. Default: now. Tables
            have no memory of that.
        source: one of `SOURCES`; default: what the settings say (`TRIPTYCH_DATA`, `TRIPTYCH_SOURCE`).
    Returns:
        The columns and dtypes of `MEASUREMENTS`, the same from every source; ordered by hour and station, index 0..n-1.
        Missing hours are missing.
    Raises:
        InvalidTime: a time without time zone, or an end before the start.
        NotFound: an unknown source, or a missing folder or table.
        LiveSourceError: a live service failed; see `flows.http`.

    >>> day = read_measurements(datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC), source="simulated")
    >>> sorted(set(day["station"])) == sorted(STATIONS), day["hour"].min().isoformat()
    (True, '2026-01-04T22:00:00+00:00')
    """
    window, name = half_open(start, end), _source_name(source)
    moment = windows.now() if as_of is None else as_of
    hours = Window(window.start - KNOWN_AFTER, window.end - KNOWN_AFTER)
    if name == SIMULATED:
        rows = simulator.measurements(hours, as_of=moment)
    elif name == LIVE:
        rows = live.measurements(hours, as_of=moment)
    else:
        rows = _table_measurements(hours)
    return in_shape(rows.assign(known_at=rows["hour"] + KNOWN_AFTER), MEASUREMENTS, name, order=["hour", "station"])


def read_observed_weather(start: datetime, end: datetime, *, source: str | None = None) -> pd.DataFrame:
    """The weather that became known in [start, end), one row per station and day.

    Args:
        start, end: half-open, by the time it was known: two days after the day was over.
        source: as for `read_measurements`.
    Returns:
        The columns and dtypes of `OBSERVED`; ordered by day and station, index 0..n-1. Live: Open-Meteo's archive.
        Tables: a station of IMGW up to 80 km away, until 2018-01, without wind direction; none for three cities.
    Raises:
        InvalidTime, NotFound, LiveSourceError: as `read_measurements`.

    >>> day = read_observed_weather(datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC),
    ...                             source="simulated")
    >>> len(day), day["known_at"].iloc[0] - day["day"].iloc[0]
    (19, Timedelta('3 days 00:00:00'))
    """
    window, name = half_open(start, end), _source_name(source)
    days = Window(window.start - OBSERVED_AFTER - timedelta(days=2), window.end - OBSERVED_AFTER)
    if name == SIMULATED:
        rows = simulator.observed_weather(days)
    elif name == LIVE:
        rows = live.observed_weather(days)
    else:
        rows = _table_weather(days)
    rows = rows.assign(known_at=midnight_of(local_day(rows["day"]) + timedelta(days=1)) + OBSERVED_AFTER)
    rows = rows[(rows["known_at"] >= window.start) & (rows["known_at"] < window.end)]
    return in_shape(rows, OBSERVED, name, order=["day", "station"])


def read_weather_forecasts(start: datetime, end: datetime, *, source: str | None = None) -> pd.DataFrame:
    """The weather forecasts that were there at the issues of [start, end), one row per station, day and issue.

    Args:
        start, end: half-open, by the issue: 07:00 Warsaw.
        source: as for `read_measurements`.
    Returns:
        The columns and dtypes of `FORECASTS`; ordered by issue, day and station, index 0..n-1. Live: Open-Meteo's
        archived forecasts, made before the issue for every hour of the day; none for the seventh day. Simulated: the
        truth and an error that grows with the horizon. **Tables have no forecasts**, and what was observed does not
        stand in for them: no rows.
    Raises:
        InvalidTime, NotFound, LiveSourceError: as `read_measurements`.

    >>> day = read_weather_forecasts(datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC),
    ...                              source="simulated")
    >>> sorted(set(day["horizon_days"])), bool((day["issued_at"] < day["day"]).all())
    ([1, 2, 3, 4, 5, 6], True)
    """
    window, name = half_open(start, end), _source_name(source)
    days = Window(window.start, window.end + timedelta(days=HORIZONS[-1] + 1))
    if name == SIMULATED:
        rows = simulator.weather_forecasts(days)
    elif name == LIVE:
        rows = live.weather_forecasts(days)
    else:
        rows = simulator.weather_forecasts(Window(days.start, days.start))  # no rows, in their shape
    issued_at = issue_on(local_day(rows["day"]) - pd.to_timedelta(rows["horizon_days"], unit="D"))
    rows = rows.assign(issued_at=issued_at, horizon_days=rows["horizon_days"].astype("int64"))
    rows = rows[(rows["issued_at"] >= window.start) & (rows["issued_at"] < window.end)]
    return in_shape(rows, FORECASTS, name, order=["issued_at", "day", "station"])


def span(*, source: str | None = None) -> Window:
    """The time a source has rows of, half-open; for the simulator that of the demo, live the last three years.

    >>> str(span(source="gios"))
    '[2014-01-01 00:00, 2020-01-01 00:00)'
    """
    name = _source_name(source)
    if name == LIVE:
        today = windows.floor(windows.scheduled_time(), timedelta(days=1))
        return Window(today - LIVE_HISTORY, today + timedelta(days=1))
    return SPANS[name]


def available_until(at: datetime, *, source: str | None = None) -> datetime:
    """Until when a source has rows, seen at a time: live and simulated until then, a table until its own end.

    >>> available_until(datetime(2026, 9, 1, tzinfo=UTC), source="gios").isoformat()
    '2020-01-01T00:00:00+00:00'
    """
    name = _source_name(source)
    return at if name in (SIMULATED, LIVE) else min(at, SPANS[name].end)


def source_name() -> str:
    """The source the settings mean; a home holds rows of one source only."""
    return _source_name(None)


def _source_name(source: str | None) -> str:
    if source is None:
        chosen = Settings().chosen_source
        source = TABLES if chosen == "files" else chosen
    if source not in SOURCES:
        raise NotFound(f"There is no source of air quality {source!r}. Use one of {list(SOURCES)}.")
    return source


# --- tables ------------------------------------------------------------------------------------------

WINTER_TIME = timedelta(hours=1)
"""The tables' stamps are the end of the hour in Polish winter time, all year: no hour is skipped or occurs twice."""


def _table_measurements(hours: Window) -> pd.DataFrame:
    to_stamp = WINTER_TIME + timedelta(hours=1)
    rows = read_table(
        data_folder("air_quality_poland", of="air quality") / PM25_TABLE,
        ["hour_end_cet", "station_code", "pm25_ug_m3"], time="hour_end_cet",
        between=(_naive(hours.start + to_stamp), _naive(hours.end + to_stamp)),
    )  # fmt: skip
    rows = rows[rows["station_code"].isin(list(STATIONS))]
    return pd.DataFrame(
        {
            "station": rows["station_code"],
            "hour": (rows["hour_end_cet"] - to_stamp).dt.tz_localize("UTC").dt.as_unit("us"),
            "pm25_ug_m3": rows["pm25_ug_m3"].astype("float64"),
        }
    )


def _table_weather(days: Window) -> pd.DataFrame:
    named = {
        "temp_mean_c": "temperature_c", "temp_min_c": "temperature_min_c", "wind_speed_mean_ms": "wind_speed_ms",
        "precip_mm": "precipitation_mm",
    }  # fmt: skip
    rows = read_table(
        data_folder("air_quality_poland", of="air quality") / WEATHER_TABLE, ["date", "station_name", *named],
        time="date", between=(_naive(days.start - timedelta(days=1)), _naive(days.end + timedelta(days=1))),
    )  # fmt: skip
    of_station = pd.DataFrame(WEATHER_STATIONS.items(), columns=["station", "station_name"]).astype("str")
    rows = of_station.merge(rows, on="station_name").rename(columns=named).drop_duplicates(["station", "date"])
    rows = rows.assign(day=midnight_of(rows["date"].dt.as_unit("us")), wind_direction_deg=float("nan"))
    return rows[["station", "day", *FORECAST]].astype(dict.fromkeys(FORECAST, "float64"))


def _naive(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(tzinfo=None)
