"""Demand, weather forecasts and the operator's forecasts from outside, in one shape: live, from tables, or made up."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pandas as pd

from featurestore.errors import NotFound
from featurestore.times import Window
from flows import windows
from flows.electricity import live, simulator
from flows.electricity.features import local_time_on_the_day_before
from flows.electricity.schema import KNOWN_AFTER, PRICE_KNOWN_HOUR, SYSTEM_ZONE, TIME_ZONE, WEATHER_LEAD, ZONES
from flows.settings import Settings
from flows.sources import data_folder, half_open, in_shape, read_table

DEMAND: Mapping[str, str] = {
    "zone": "str",
    "hour": "datetime64[us, UTC]",
    "demand_mw": "float64",
    "known_at": "datetime64[us, UTC]",
    "source": "str",
}
"""The columns every source gives, in order: beginning of the hour, its mean demand in MW, the end of the hour."""

WEATHER: Mapping[str, str] = {
    "zone": "str",
    "hour": "datetime64[us, UTC]",
    "issued_at": "datetime64[us, UTC]",
    "temperature_c": "float64",
    "source": "str",
}
"""What was expected for an hour, in °C, and since when: always before the hour, never what was measured in it."""

OPERATOR: Mapping[str, str] = {
    "zone": "str",
    "hour": "datetime64[us, UTC]",
    "issued_at": "datetime64[us, UTC]",
    "forecast_mw": "float64",
    "source": "str",
}
"""What the operator forecast at 07:05 on the day before, in MW."""

PRICES: Mapping[str, str] = {
    "zone": "str",
    "hour": "datetime64[us, UTC]",
    "price_usd_per_mwh": "float64",
    "market": "str",
    "known_at": "datetime64[us, UTC]",
    "source": "str",
}
"""What a megawatt hour cost in each zone and hour (LBMP, USD/MWh), in which market, and since when that is known."""

DAY_AHEAD, REAL_TIME = "day-ahead", "real-time"

SIMULATED, LIVE, ZONE_TABLE, SYSTEM_TABLE = "simulated", "live", "zones", "system"
SOURCES = (SIMULATED, LIVE, ZONE_TABLE, SYSTEM_TABLE)

ZONE_DEMAND = "eia_nyiso_zone_demand_hourly.parquet"
ZONE_PRICE = "nyiso_zone_lbmp_realtime_hourly.parquet"
ZONE_TEMPERATURE = "ny_temperature_hourly.parquet"
SYSTEM_DEMAND = "eia_nyis_demand_hourly_2015_2020.parquet"
SYSTEM_TEMPERATURE = "laguardia_temperature_daily.parquet"

SPANS = {
    SIMULATED: simulator.SPAN,
    # From where on there are temperatures, to where the demand ends. The demand before is warm-up.
    ZONE_TABLE: Window(datetime(2021, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)),
    SYSTEM_TABLE: Window(datetime(2017, 1, 4, tzinfo=UTC), datetime(2020, 7, 1, tzinfo=UTC)),
}
LIVE_HISTORY = timedelta(days=730)

PERSISTENCE = timedelta(hours=48)
"""The tables have no archived forecasts. In their place stands what was measured at the same hour two days before."""

UPSTATE, COAST = "BUFFALO_CHEEKTOWAGA", "NYC_JFK"
STATIONS = {zone: UPSTATE if zone[0] <= "F" else COAST for zone in ZONES}


def read_demand(
    start: datetime, end: datetime, *, as_of: datetime | None = None, source: str | None = None
) -> pd.DataFrame:
    """The demand that became known in [start, end), one row per zone and hour.

    Args:
        start, end: half-open, by the end of the hour; with a time zone.
        as_of: what the source gave at that time: rows it published late or corrected since are as they were. Default:
            now. Tables have no memory of that.
        source: one of `SOURCES`; default: what the settings say (`TRIPTYCH_DATA`, `TRIPTYCH_SOURCE`,
            `TRIPTYCH_ELECTRICITY_TABLE`).
    Returns:
        The columns and dtypes of `DEMAND`, the same from every source; ordered by hour and zone, index 0..n-1. Missing
        hours are missing. Of the zone table's hours those that its authors flag are left out, not taken as imputed: the
        imputation has seen the future.
    Raises:
        InvalidTime: a time without time zone, or an end before the start.
        NotFound: an unknown source, or a missing folder or table.
        LiveSourceError: a live service failed; see `flows.http`.

    >>> day = read_demand(datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC), source="simulated")
    >>> sorted(set(day["zone"])) == sorted(ZONES), day["hour"].min().isoformat()
    (True, '2026-01-04T23:00:00+00:00')
    """
    window, name = half_open(start, end), _source_name(source)
    moment = windows.now() if as_of is None else as_of
    hours = Window(window.start - KNOWN_AFTER, window.end - KNOWN_AFTER)
    if name == SIMULATED:
        rows = simulator.demand(hours, as_of=moment)
    elif name == LIVE:
        rows = live.demand(hours, as_of=moment)
    else:
        rows = _table_demand(name, hours)
    return in_shape(rows.assign(known_at=rows["hour"] + KNOWN_AFTER), DEMAND, name, order=["hour", "zone"])


def read_weather(start: datetime, end: datetime, *, source: str | None = None) -> pd.DataFrame:
    """The weather forecasts that became known in [start, end), one row per zone and hour.

    Args:
        start, end: half-open, by the time the forecast was known (`schema.WEATHER_LEAD` before its hour).
        source: as for `read_demand`.
    Returns:
        The columns and dtypes of `WEATHER`; ordered by hour and zone, index 0..n-1; temperature_c is null where there
        is no forecast. Live: Open-Meteo's archived forecasts of two days before. Simulated: the truth and an error.
        Tables: **no forecast but a stand-in**, the temperature measured 48 hours before the hour (in the system table
        the mean of the last whole day before the issue), which was known in time. It is worse than any forecast.
    Raises:
        InvalidTime, NotFound, LiveSourceError: as `read_demand`.

    >>> day = read_weather(datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC), source="simulated")
    >>> bool((day["hour"] - day["issued_at"] == WEATHER_LEAD).all())
    True
    """
    window, name = half_open(start, end), _source_name(source)
    hours = Window(window.start + WEATHER_LEAD, window.end + WEATHER_LEAD)
    if name == SIMULATED:
        rows = simulator.weather_forecasts(hours)
    elif name == LIVE:
        rows = live.weather_forecasts(hours)
    else:
        rows = _zone_persistence(hours) if name == ZONE_TABLE else _system_persistence(hours)
    return in_shape(rows.assign(issued_at=rows["hour"] - WEATHER_LEAD), WEATHER, name, order=["hour", "zone"])


def read_operator_forecasts(
    start: datetime, end: datetime, *, as_of: datetime | None = None, source: str | None = None
) -> pd.DataFrame:
    """The operator's forecasts issued in [start, end), one row per zone and hour; none in the zone table.

    Args:
        start, end: half-open, by the time of issue: 07:05 New York on the day before.
        as_of, source: as for `read_demand`.
    Returns:
        The columns and dtypes of `OPERATOR`; ordered by hour and zone, index 0..n-1.
    Raises:
        InvalidTime, NotFound, LiveSourceError: as `read_demand`.

    >>> one, next_one = datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC)
    >>> day = read_operator_forecasts(one, next_one, source="simulated")
    >>> len(day), day["issued_at"].unique()[0].isoformat()
    (264, '2026-01-05T12:05:00+00:00')
    """
    window, name = half_open(start, end), _source_name(source)
    moment = windows.now() if as_of is None else as_of
    two_days = timedelta(days=2)
    if name == SIMULATED:
        rows = simulator.operator_forecasts(window.start - two_days, window.end)
    elif name == LIVE:
        # The file of a day is written on the day before: those issued in the window are for the days after it.
        rows = live.operator_forecasts(live.local_days(Window(window.start, window.end + two_days)), as_of=moment)
    else:
        hours = Window(window.start, window.end + two_days)
        rows = _system_forecasts(hours) if name == SYSTEM_TABLE else live.nothing("forecast_mw")
    rows = rows.assign(issued_at=local_time_on_the_day_before(rows["hour"], hours=7, minutes=5))
    rows = rows[(rows["issued_at"] >= window.start) & (rows["issued_at"] < window.end)]
    return in_shape(rows, OPERATOR, name, order=["hour", "zone"])


def read_prices(
    start: datetime, end: datetime, *, as_of: datetime | None = None, source: str | None = None
) -> pd.DataFrame:
    """The prices that became known in [start, end), one row per zone and hour; none in the system table.

    Args:
        start, end: half-open, by when the price was known: 11:00 New York on the day before for the day-ahead market,
            the end of the hour for the real-time market.
        as_of, source: as for `read_demand`.
    Returns:
        The columns and dtypes of `PRICES`; ordered by hour and zone, index 0..n-1. Live and simulated: the day-ahead
        market. The zone table has **the real-time market only**, which is another quantity, and harder to forecast.
    Raises:
        InvalidTime, NotFound, LiveSourceError: as `read_demand`.

    >>> one, next_one = datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC)
    >>> day = read_prices(one, next_one, source="simulated")
    >>> len(day), day["known_at"].unique()[0].isoformat(), set(day["market"])
    (264, '2026-01-05T16:00:00+00:00', {'day-ahead'})
    """
    window, name = half_open(start, end), _source_name(source)
    moment = windows.now() if as_of is None else as_of
    market = REAL_TIME if name == ZONE_TABLE else DAY_AHEAD
    ahead = Window(window.start, window.end + timedelta(days=2))  # hours whose price may be known in the window
    if name == SIMULATED:
        rows = simulator.prices(ahead)
    elif name == LIVE:
        rows = live.prices(ahead, as_of=moment)
    elif name == ZONE_TABLE:
        rows = _table_prices(Window(window.start - KNOWN_AFTER, window.end - KNOWN_AFTER))
    else:
        rows = live.nothing("price_usd_per_mwh")
    if market == DAY_AHEAD:
        rows = rows.assign(known_at=local_time_on_the_day_before(rows["hour"], hours=PRICE_KNOWN_HOUR))
    else:
        rows = rows.assign(known_at=rows["hour"] + KNOWN_AFTER)
    rows = rows[(rows["known_at"] >= window.start) & (rows["known_at"] < window.end)]
    rows = rows[rows["known_at"] <= moment] if name == LIVE else rows
    rows = rows.assign(market=pd.Series(market, index=rows.index, dtype="str"))
    return in_shape(rows, PRICES, name, order=["hour", "zone"])


def zones(*, source: str | None = None) -> list[str]:
    """The zones a source has.

    >>> zones(source="system"), len(zones(source="simulated"))
    (['NYIS'], 11)
    """
    return [SYSTEM_ZONE] if _source_name(source) == SYSTEM_TABLE else list(ZONES)


def span(*, source: str | None = None) -> Window:
    """The time a source has rows of, half-open; for the simulator that of the demo, live the last two years.

    >>> str(span(source="zones"))
    '[2021-01-01 00:00, 2025-01-01 00:00)'
    """
    name = _source_name(source)
    if name == LIVE:
        today = windows.floor(windows.scheduled_time(), timedelta(days=1))
        return Window(today - LIVE_HISTORY, today + timedelta(days=1))
    return SPANS[name]


def available_until(at: datetime, *, source: str | None = None) -> datetime:
    """Until when a source has rows, seen at a time: live and simulated until then, a table until its own end.

    >>> available_until(datetime(2026, 9, 1, tzinfo=UTC), source="zones").isoformat()
    '2025-01-01T00:00:00+00:00'
    """
    name = _source_name(source)
    return at if name in (SIMULATED, LIVE) else min(at, SPANS[name].end)


def source_name() -> str:
    """The source the settings mean; a home holds rows of one source only."""
    return _source_name(None)


def _source_name(source: str | None) -> str:
    if source is None:
        settings = Settings()
        source = settings.electricity_table if settings.chosen_source == "files" else settings.chosen_source
    if source not in SOURCES:
        raise NotFound(f"There is no source of electricity demand {source!r}. Use one of {list(SOURCES)}.")
    return source


# --- tables ------------------------------------------------------------------------------------------


def _table_demand(name: str, hours: Window) -> pd.DataFrame:
    file = ZONE_DEMAND if name == ZONE_TABLE else SYSTEM_DEMAND
    key = "zone" if name == ZONE_TABLE else "respondent"
    rows = _read(file, ["interval_end_utc", key, "demand_raw_mw", "quality_category"], _ends(hours))
    rows = rows[(rows["quality_category"] == "OKAY") & rows["demand_raw_mw"].notna()]
    return pd.DataFrame(
        {
            "zone": rows[key],
            "hour": rows["interval_end_utc"] - KNOWN_AFTER,
            "demand_mw": rows["demand_raw_mw"].astype("float64"),
        }
    )


def _table_prices(hours: Window) -> pd.DataFrame:
    rows = _read(ZONE_PRICE, ["interval_end_utc", "zone", "lbmp_usd_per_mwh"], _ends(hours))
    rows = rows[rows["lbmp_usd_per_mwh"].notna()]
    return pd.DataFrame(
        {
            "zone": rows["zone"],
            "hour": rows["interval_end_utc"] - KNOWN_AFTER,
            "price_usd_per_mwh": rows["lbmp_usd_per_mwh"],
        }
    )


def _zone_persistence(hours: Window) -> pd.DataFrame:
    before = Window(hours.start - PERSISTENCE, hours.end - PERSISTENCE)
    rows = _read(ZONE_TEMPERATURE, ["interval_end_utc", "weather_station", "temperature_f"], _ends(before))
    measured = pd.DataFrame(
        {
            "station": rows["weather_station"],
            "hour": rows["interval_end_utc"] - KNOWN_AFTER + PERSISTENCE,
            "temperature_c": ((rows["temperature_f"] - 32) / 1.8).round(2),
        }
    ).drop_duplicates(["station", "hour"])
    of_zone = pd.DataFrame({"zone": list(STATIONS), "station": list(STATIONS.values())}, dtype="str")
    return of_zone.merge(measured, on="station")[["zone", "hour", "temperature_c"]]


def _system_persistence(hours: Window) -> pd.DataFrame:
    days = _read(SYSTEM_TEMPERATURE, ["date", "temperature_avg_c"])
    mean_of = pd.Series(days["temperature_avg_c"].to_numpy(), index=days["date"].dt.date)
    hour = pd.Series(
        pd.date_range(pd.Timestamp(hours.start).ceil("h"), hours.end, freq="h", inclusive="left", tz="UTC", unit="us")
    )
    # At the issue the local day is running: the newest whole one is the day before.
    issue_day = (hour - WEATHER_LEAD).dt.tz_convert(TIME_ZONE).dt.tz_localize(None).dt.normalize()
    return pd.DataFrame(
        {
            "zone": pd.Series(SYSTEM_ZONE, index=hour.index, dtype="str"),
            "hour": hour,
            "temperature_c": (issue_day - pd.Timedelta(days=1)).dt.date.map(mean_of).astype("float64"),
        }
    )


def _system_forecasts(hours: Window) -> pd.DataFrame:
    rows = _read(SYSTEM_DEMAND, ["interval_end_utc", "respondent", "demand_forecast_day_ahead_mw"], _ends(hours))
    rows = rows[rows["demand_forecast_day_ahead_mw"] > 0]  # 0 is where there was none
    return pd.DataFrame(
        {
            "zone": rows["respondent"],
            "hour": rows["interval_end_utc"] - KNOWN_AFTER,
            "forecast_mw": rows["demand_forecast_day_ahead_mw"].astype("float64"),
        }
    )


def _ends(hours: Window) -> Window:
    return Window(hours.start + KNOWN_AFTER, hours.end + KNOWN_AFTER)


def _read(file: str, columns: list[str], ends: Window | None = None) -> pd.DataFrame:
    path = data_folder("electricity_ny", of="demand") / file
    return read_table(path, columns, time="interval_end_utc", between=None if ends is None else (ends.start, ends.end))
