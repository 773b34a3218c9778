"""The electricity system's features: pure functions from frames of raw rows to the rows of its feature groups.

No clock, no environment, no network, no store. Sums are of whole hundredths, so a mean does not depend on the rows
before its window: a row computed by an hourly run is equal, to the last bit, to the same row of a backfill.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from featurestore.errors import InvalidData, InvalidTime, SchemaMismatch
from flows.electricity.schema import (
    DAY_AHEAD,
    DEMAND,
    ISSUE_HOUR,
    LAG_DAYS,
    PRICE,
    PRICE_DAY_AHEAD,
    PRICE_SCALE,
    TIME_ZONE,
    WEATHER,
)
from flows.rules import columns

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

DEMAND_WARM_UP = timedelta(days=30)
"""History of demand that `day_ahead_features` needs before its first issue: four weeks and a day."""

PRICE_WARM_UP = timedelta(days=30)
"""History of prices that `price_features` needs before its first issue: four weeks and a day."""

WEATHER_WARM_UP = timedelta(days=8)
"""History of forecasts that `weather_features` needs before its first row: a week."""

LEAST_SCALE_USD_PER_MWH = 5.0
"""A month of prices near zero is no measure for a price."""

COMFORT_C = 18.3
"""65 °F: below it houses are heated, above it cooled."""

_WEEKS = (7, 14, 21, 28)
_ENOUGH = 0.75  # of a window's hours: a mean over fewer is null
_HOUR_US = 3_600_000_000


def day_ahead_hours(start: datetime, end: datetime, zones: Sequence[str]) -> pd.DataFrame:
    """The hours that the issues of [start, end) forecast: each hour of the local day after the issue, for each zone.

    Returns:
        zone, hour (UTC), issued_at (UTC), ordered by hour and zone, index 0..n-1. A day has 23 or 25 hours when the
        clock changes.

    >>> from datetime import UTC
    >>> hours = day_ahead_hours(datetime(2026, 10, 31, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC), ["J_NYC"])
    >>> len(hours), str(hours["issued_at"].iloc[0]), str(hours["hour"].iloc[0])  # the clock goes back on 1 November
    (25, '2026-10-31 09:00:00+00:00', '2026-11-01 04:00:00+00:00')
    """
    first, last = (pd.Timestamp(time).tz_convert("UTC").floor("h") for time in (start, end))
    hour = pd.date_range(first, last + pd.Timedelta(days=3), freq="h", unit="us")
    issued_at = issue_of(pd.Series(hour))
    wanted = ((issued_at >= start) & (issued_at < end)).to_numpy()
    hours = pd.DataFrame({"hour": hour[wanted], "issued_at": issued_at[wanted].to_numpy()})
    hours["issued_at"] = _utc(hours["issued_at"])
    rows = hours.merge(pd.DataFrame({"zone": pd.array(sorted(zones), dtype="str")}), how="cross")
    return rows[["zone", "hour", "issued_at"]]


def issue_of(hour: pd.Series) -> pd.Series:
    """When the day-ahead forecast for each hour is issued: 05:00 New York on the day before, in UTC.

    >>> str(issue_of(pd.Series(pd.to_datetime(["2026-01-02T04:00Z", "2026-01-02T05:00Z"]))).tolist()[1])
    '2026-01-01 10:00:00+00:00'
    """
    return local_time_on_the_day_before(hour, hours=ISSUE_HOUR)


def local_time_on_the_day_before(hour: pd.Series, *, hours: int, minutes: int = 0) -> pd.Series:
    """A time of the New York clock on the day before each hour's local day, in UTC; never one that occurs twice.

    >>> at = local_time_on_the_day_before(pd.Series(pd.to_datetime(["2026-01-02T05:00Z"])), hours=7, minutes=5)
    >>> str(at[0])
    '2026-01-01 12:05:00+00:00'
    """
    midnight = hour.dt.tz_convert(TIME_ZONE).dt.tz_localize(None).dt.normalize()
    wanted = midnight - pd.Timedelta(days=1) + pd.Timedelta(hours=hours, minutes=minutes)
    return wanted.dt.tz_localize(TIME_ZONE).dt.tz_convert("UTC").dt.as_unit("us")


def day_ahead_features(targets: pd.DataFrame, demand: pd.DataFrame) -> pd.DataFrame:
    """What is known, when a forecast is issued, about the demand of an hour to come: its calendar and the zone's past.

    Args:
        targets: zone (str), hour (UTC, whole), issued_at (UTC): one row per hour to forecast, of `day_ahead_hours`.
        demand: zone (str), hour (UTC, whole), demand_mw (MW). Missing hours may be missing. An hour's demand is known
            when the hour is over; what is known after an issue does not reach it. Any order, any index.
    Returns:
        The columns of `schema.DAY_AHEAD`, one row per target, ordered by issued_at, hour and zone, index 0..n-1.
        A lag is the same hour of the New York clock so many days earlier, not so many rows: where that hour is missing,
        is not over at the issue, or does not exist (the hour skipped in March), it is null. Of the hour that occurs
        twice in November, the one with the target's own daylight saving is taken. A mean is null when more than a
        quarter of its hours are missing; ratios are over the 168-hour mean. Empty in, empty out, same columns.
    Raises:
        SchemaMismatch: a column is missing; the message names it and the columns there are.
        InvalidTime: a time has no time zone, or an hour is not a whole one.
        InvalidData: demand has a zone and hour twice: which one counts is for the source to say.

    >>> hours = pd.Series(pd.date_range("2026-01-01", periods=24 * 20, freq="h", tz="UTC"))
    >>> demand = pd.DataFrame({"zone": "J_NYC", "hour": hours, "demand_mw": 5000.0 + hours.dt.hour})
    >>> targets = day_ahead_hours(hours.iloc[-30], hours.iloc[-1], ["J_NYC"])
    >>> rows = day_ahead_features(targets, demand)
    >>> rows.loc[0, ["local_hour", "demand_lag_24h_mw", "demand_lag_168h_mw"]].tolist()  # midnight is 05:00 UTC
    [0.0, 5005.0, 5005.0]
    >>> int(rows["demand_lag_24h_mw"].notna().sum())  # at 05:00 only five hours of the day are over
    5
    """
    wanted = _checked(targets, ["zone", "hour", "issued_at"], what="day_ahead_features", name="targets")
    wanted = wanted.sort_values(["issued_at", "hour", "zone"], ignore_index=True)
    known = _grid(demand, wanted["zone"], "demand_mw", what="day_ahead_features", name="demand")
    hour, issue = _hours(wanted["hour"]), _hours(wanted["issued_at"])
    zone = known.codes(wanted["zone"])
    local = _Local.of(wanted["hour"])

    result: dict[str, Any] = {name: wanted[name].array for name in ("zone", "hour", "issued_at")}
    result["load_zone"] = wanted["zone"].array
    result["horizon_hours"] = hour - issue
    result |= _calendar(local)
    lags = {days: known.at(zone, local.days_earlier(days), before=issue) for days in {*LAG_DAYS.values(), *_WEEKS}}
    means = {name: known.mean(zone, end=issue, hours=hours) for name, hours in (("24h", 24), ("168h", 168))}
    result |= {f"demand_lag_{name}_mw": lags[days] for name, days in LAG_DAYS.items()}
    result["demand_same_hour_mw"] = np.where(np.isnan(lags[1]), lags[2], lags[1])
    result["demand_same_hour_4w_mw"] = _mean_of([lags[days] for days in _WEEKS])
    result |= {f"demand_mean_{name}_mw": mean for name, mean in means.items()}
    scale = means["168h"]
    result |= {f"lag_{name}_ratio": lags[days] / scale for name, days in LAG_DAYS.items()}
    result["same_hour_ratio"] = result["demand_same_hour_mw"] / scale
    result["same_hour_4w_ratio"] = result["demand_same_hour_4w_mw"] / scale
    result["mean_24h_ratio"] = means["24h"] / scale
    result["recent_24h_to_week_before"] = means["24h"] / known.mean(zone, end=issue - 168, hours=24)
    recent = known.mean(zone, end=issue, hours=6)
    result["recent_6h_to_day_before"] = recent / known.mean(zone, end=issue - 24, hours=6)
    result["recent_6h_to_week_before"] = recent / known.mean(zone, end=issue - 168, hours=6)
    return pd.DataFrame(result, columns=columns(DAY_AHEAD))


def weather_features(weather: pd.DataFrame) -> pd.DataFrame:
    """What a weather forecast says about heating and cooling, beside the forecasts for the hours before it.

    Args:
        weather: zone (str), hour (UTC, whole), issued_at (UTC), temperature_c (°C, null where there is none): one row
            per zone and hour, issued in the order of the hours. Any order, any index.
    Returns:
        The columns of `schema.WEATHER`, ordered by issued_at, hour and zone, index 0..n-1. Means are over the forecasts
        for the hours (hour - 24 h, hour], all issued before this one; null when more than a quarter is missing. The
        change is null where the forecast for the hour a week earlier is missing. Empty in, empty out, same columns.
    Raises:
        SchemaMismatch, InvalidTime, InvalidData: as `day_ahead_features`.

    >>> weather = pd.DataFrame({
    ...     "zone": "J_NYC", "hour": pd.to_datetime(["2026-01-01T12:00Z", "2026-01-08T12:00Z"]),
    ...     "issued_at": pd.to_datetime(["2025-12-30T18:00Z", "2026-01-06T18:00Z"]), "temperature_c": [-1.7, 20.3]})
    >>> rows = weather_features(weather)
    >>> rows["heating_degrees_c"].tolist(), rows["cooling_degrees_c"].tolist()
    ([20.0, 0.0], [0.0, 2.0])
    >>> rows["temperature_change_168h_c"].tolist()
    [nan, 22.0]
    """
    given = _checked(
        weather, ["zone", "hour", "issued_at", "temperature_c"], what="weather_features", name="weather"
    ).sort_values(["issued_at", "hour", "zone"], ignore_index=True)
    known = _grid(given, given["zone"], "temperature_c", what="weather_features", name="weather")
    zone, hour = known.codes(given["zone"]), _hours(given["hour"])
    temperature = np.round(given["temperature_c"].to_numpy(np.float64), 2)
    result: dict[str, Any] = {name: given[name].array for name in ("zone", "hour", "issued_at")}
    result["temperature_c"] = temperature
    result["temperature_squared"] = temperature**2
    result["heating_degrees_c"] = np.round(np.maximum(COMFORT_C - temperature, 0.0), 2)
    result["cooling_degrees_c"] = np.round(np.maximum(temperature - COMFORT_C, 0.0), 2)
    for hours in (24, 168):
        result[f"temperature_mean_{hours}h_c"] = known.mean(zone, end=hour + 1, hours=hours)
    result["temperature_change_168h_c"] = np.round(temperature - known.at(zone, hour - 168, before=hour), 2)
    return pd.DataFrame(result, columns=columns(WEATHER))


def known_demand(demand: pd.DataFrame) -> pd.DataFrame:
    """The demand that is known, beside the issue of the forecast it judges: what a model learns from.

    Args:
        demand: zone (str), hour (UTC, whole), demand_mw (MW), known_at (UTC). Any order, any index.
    Returns:
        The columns of `schema.DEMAND`, ordered by hour and zone, index 0..n-1.
    Raises:
        SchemaMismatch, InvalidTime: as `day_ahead_features`.

    >>> at = pd.to_datetime(["2026-01-02T05:00Z"])
    >>> rows = known_demand(pd.DataFrame({"zone": "J_NYC", "hour": at, "demand_mw": 1.0, "known_at": at}))
    >>> str(rows["issued_at"].iloc[0])
    '2026-01-01 10:00:00+00:00'
    """
    rows = _checked(demand, ["zone", "hour", "demand_mw", "known_at"], what="known_demand", name="demand")
    rows = rows.sort_values(["hour", "zone"], ignore_index=True)
    return rows.assign(issued_at=issue_of(rows["hour"]))[columns(DEMAND)]


def price_features(targets: pd.DataFrame, prices: pd.DataFrame) -> pd.DataFrame:
    """Each target hour with the prices known at its issue, one row per zone, hour and issue.

    Args:
        targets: zone (str), hour, issued_at (UTC), as `day_ahead_hours` gives them. Any order, any index.
        prices: zone (str), hour (UTC, whole), price_usd_per_mwh (USD/MWh, below zero too), known_at (UTC): what is
            known later than an issue is not seen by it, whether it was published early (a day-ahead market: all hours
            of a day at once) or when the hour was over.
    Returns:
        The columns of `schema.PRICE_DAY_AHEAD`, ordered by issued_at, hour and zone, index 0..n-1. Lags as in
        `day_ahead_features`; means are over hours before the issue, null when more than a quarter of them is missing.
        Empty in, empty out, same columns.
    Raises:
        SchemaMismatch, InvalidTime, InvalidData: as `day_ahead_features`.

    >>> hours = pd.Series(pd.date_range("2026-01-01", periods=24 * 9, freq="h", tz="UTC"))
    >>> prices = pd.DataFrame({"zone": "J_NYC", "hour": hours, "price_usd_per_mwh": 30.0 + hours.dt.hour,
    ...                        "known_at": hours + pd.Timedelta(hours=1)})
    >>> targets = day_ahead_hours(hours.iloc[-48], hours.iloc[-24], ["J_NYC"])
    >>> rows = price_features(targets, prices)
    >>> rows.loc[0, ["price_lag_24h", "price_lag_168h", "price_same_hour"]].tolist()  # midnight is 05:00 UTC
    [35.0, 35.0, 35.0]
    >>> early = prices.assign(known_at=prices["hour"] - pd.Timedelta(days=1))
    >>> int(rows["price_lag_24h"].notna().sum()), int(price_features(targets, early)["price_lag_24h"].notna().sum())
    (5, 24)
    """
    wanted = _checked(targets, ["zone", "hour", "issued_at"], what="price_features", name="targets")
    wanted = wanted.sort_values(["issued_at", "hour", "zone"], ignore_index=True)
    given = _checked(
        prices, ["zone", "hour", "price_usd_per_mwh", "known_at"], what="price_features", name="prices"
    )  # fmt: skip
    known = _grid(given, wanted["zone"], "price_usd_per_mwh", what="price_features", name="prices")
    since_when = given.assign(known_hour=np.ceil(_micros(given["known_at"]) / _HOUR_US))  # an issue is a whole hour
    known_since = _grid(since_when, wanted["zone"], "known_hour", what="price_features", name="prices")
    hour, issue = _hours(wanted["hour"]), _hours(wanted["issued_at"])
    zone = known.codes(wanted["zone"])
    local = _Local.of(wanted["hour"])

    def lag(days: int) -> Floats:
        then = local.days_earlier(days)
        is_known = known_since.at(zone, then, before=hour) <= issue
        return np.where(is_known, known.at(zone, then, before=hour), np.nan)

    lags = {days: lag(days) for days in LAG_DAYS.values()}
    result: dict[str, Any] = {name: wanted[name].array for name in ("zone", "hour", "issued_at")}
    result |= {f"price_lag_{name}": lags[days] for name, days in LAG_DAYS.items()}
    result["price_same_hour"] = np.where(np.isnan(lags[1]), lags[2], lags[1])
    means = {name: known.mean(zone, end=issue, hours=hours) for name, hours in (("24h", 24), ("168h", 168))}
    result |= {f"price_mean_{name}": mean for name, mean in means.items()}
    scale = np.maximum(known.mean(zone, end=issue, hours=672), LEAST_SCALE_USD_PER_MWH)
    result[PRICE_SCALE] = scale
    result |= {f"price_lag_{name}_ratio": lags[days] / scale for name, days in LAG_DAYS.items()}
    result["price_same_hour_ratio"] = result["price_same_hour"] / scale
    result |= {f"price_mean_{name}_ratio": mean / scale for name, mean in means.items()}
    return pd.DataFrame(result, columns=columns(PRICE_DAY_AHEAD))


def known_prices(prices: pd.DataFrame) -> pd.DataFrame:
    """The prices that are known, beside the issue of the forecast they judge: what a model learns from.

    Args:
        prices: zone (str), hour (UTC, whole), price_usd_per_mwh (USD/MWh), market (str), known_at (UTC).
    Returns:
        The columns of `schema.PRICE`, ordered by hour and zone, index 0..n-1.
    Raises:
        SchemaMismatch, InvalidTime: as `day_ahead_features`.

    >>> at = pd.to_datetime(["2026-01-02T05:00Z"])
    >>> rows = known_prices(pd.DataFrame(
    ...     {"zone": "J_NYC", "hour": at, "price_usd_per_mwh": -3.5, "market": "day-ahead", "known_at": at}))
    >>> str(rows["issued_at"].iloc[0])
    '2026-01-01 10:00:00+00:00'
    """
    needed = ["zone", "hour", "price_usd_per_mwh", "market", "known_at"]
    rows = _checked(prices, needed, what="known_prices", name="prices")
    rows = rows.sort_values(["hour", "zone"], ignore_index=True)
    return rows.assign(issued_at=issue_of(rows["hour"]))[columns(PRICE)]


def since(rows: pd.DataFrame, time: str, start: datetime) -> pd.DataFrame:
    """The rows whose time is not before the start: what is left when the warm-up has done its work.

    >>> at = pd.to_datetime(["2026-01-01", "2026-01-02"], utc=True)
    >>> len(since(pd.DataFrame({"hour": at}), "hour", at[1].to_pydatetime()))
    1
    """
    return rows[rows[time] >= start].reset_index(drop=True)


# --- the calendar ------------------------------------------------------------------------------------


class _Local(NamedTuple):
    """Hours on the New York clock: the wall time without zone, and whether it is daylight saving time."""

    wall: pd.Series
    is_dst: Booleans

    @classmethod
    def of(cls, hour: pd.Series) -> _Local:
        local = hour.dt.tz_convert(TIME_ZONE)
        wall = local.dt.tz_localize(None)
        ahead = (_micros(wall) - _micros(hour)) // _HOUR_US
        return cls(wall, ahead > -5)  # New York is five hours behind UTC in winter, four in summer

    def days_earlier(self, days: int) -> Integers:
        """Hours since 1970 (UTC) of the same wall time so many days earlier; -1 where that wall time does not exist."""
        wall = self.wall - pd.Timedelta(days=days)
        there = wall.dt.tz_localize(TIME_ZONE, ambiguous=self.is_dst, nonexistent="NaT")
        return np.where(there.isna(), -1, _hours(there.dt.tz_convert("UTC").fillna(pd.Timestamp(0, tz="UTC"))))

    def hours_in_day(self) -> Integers:
        """How many hours the local day has."""
        midnight = self.wall.dt.normalize()
        today, tomorrow = (
            _hours((midnight + pd.Timedelta(days=days)).dt.tz_localize(TIME_ZONE).dt.tz_convert("UTC"))
            for days in (0, 1)
        )
        return tomorrow - today


def calendar_of(hour: pd.Series) -> dict[str, Any]:
    """The calendar of each hour, as arrays by name: local_hour, weekday, day_of_year, holidays, daylight saving.

    >>> found = calendar_of(pd.Series(pd.to_datetime(["2026-07-04T03:00Z", "2026-07-04T04:00Z"])))
    >>> found["local_hour"].tolist(), found["is_federal_holiday"].tolist()  # 3 July 2026 is when the 4th is observed
    ([23, 0], [True, True])
    """
    return _calendar(_Local.of(hour))


def _calendar(local: _Local) -> dict[str, Any]:
    day = local.wall.dt.normalize()
    weekday = local.wall.dt.day_of_week.to_numpy()
    federal, state = _holidays("US"), _holidays("NY")

    def is_in(holidays: frozenset[date], shift_days: int = 0) -> Booleans:
        return (day + pd.Timedelta(days=shift_days)).dt.date.isin(holidays).to_numpy(bool)

    return {
        "local_hour": local.wall.dt.hour.to_numpy(np.int64),
        "weekday": weekday.astype(np.int64),
        "day_of_year": local.wall.dt.day_of_year.to_numpy(np.int64),
        "is_weekend": weekday >= 5,
        "is_federal_holiday": is_in(federal),
        "is_new_york_holiday": is_in(state),
        "is_after_holiday": is_in(federal, -1),
        "is_before_holiday": is_in(federal, 1),
        "was_holiday_168h": is_in(federal, -7),
        "is_dst": local.is_dst,
        "hours_in_day": local.hours_in_day(),
    }


@lru_cache
def _holidays(which: str) -> frozenset[date]:
    """Federal holidays ("US") with the days they are observed, or those that New York State has beside them ("NY")."""
    import holidays

    years = range(2000, 2051)
    federal = frozenset(holidays.country_holidays("US", years=years))
    return federal if which == "US" else frozenset(holidays.country_holidays("US", subdiv="NY", years=years)) - federal


# --- hours as a grid ---------------------------------------------------------------------------------


class _Grid(NamedTuple):
    """Values of each zone at each whole hour from `first` on, in whole hundredths; `there` says which there are."""

    zones: tuple[str, ...]
    first: int
    values: Integers
    there: Booleans
    sums: Integers
    counts: Integers

    def codes(self, zone: pd.Series) -> Integers:
        return pd.Categorical(zone, categories=list(self.zones)).codes.astype(np.int64)

    def at(self, zone: Integers, hour: Integers, *, before: Integers) -> Floats:
        """The values of these hours; NaN where there is none, or where the hour is not over at `before`."""
        column = hour - self.first
        usable = (column >= 0) & (column < self.values.shape[1]) & (hour < before)
        column = np.where(usable, column, 0)
        usable &= self.there[zone, column]
        return np.where(usable, self.values[zone, column] / 100, np.nan)

    def mean(self, zone: Integers, *, end: Integers, hours: int) -> Floats:
        """The mean over [end - hours, end); NaN where too few hours are there."""
        last = np.clip(end - self.first, 0, self.values.shape[1])
        begin = np.clip(end - hours - self.first, 0, self.values.shape[1])
        count = self.counts[zone, last] - self.counts[zone, begin]
        total = self.sums[zone, last] - self.sums[zone, begin]
        with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 is one of the means that are not enough
            return np.where(count >= _ENOUGH * hours, total / (100 * count), np.nan)


def _grid(rows: pd.DataFrame, zones: pd.Series, value: str, *, what: str, name: str) -> _Grid:
    given = _checked(rows, ["zone", "hour", value], what=what, name=name)
    if given.duplicated(["zone", "hour"]).any():
        twice = given[given.duplicated(["zone", "hour"])].iloc[0]
        raise InvalidData(
            f"{what}: {name} has zone {twice['zone']} at {twice['hour']} more than once. The source must say which row "
            "counts; flows.electricity.source does."
        )
    given = given[given[value].notna()]
    wanted = tuple(sorted({*zones, *given["zone"]})) or ("",)  # a grid of one empty row answers for no zones
    hour = _hours(given["hour"])
    first = int(hour.min()) if len(hour) else 0
    width = int(hour.max()) - first + 1 if len(hour) else 1
    values = np.zeros((len(wanted), width), np.int64)
    there = np.zeros_like(values, dtype=bool)
    place = pd.Categorical(given["zone"], categories=list(wanted)).codes, hour - first
    values[place] = np.rint(given[value].to_numpy(np.float64) * 100).astype(np.int64)
    there[place] = True
    nothing = np.zeros((len(wanted), 1), np.int64)
    sums, counts = (np.hstack([nothing, np.cumsum(grid, axis=1)]) for grid in (values, there.astype(np.int64)))
    return _Grid(wanted, first, values, there, sums, counts)


def _mean_of(values: list[Floats]) -> Floats:
    """The mean of those that are there, of each row; NaN where at most half of them are."""
    stacked = np.stack(values)
    count = (~np.isnan(stacked)).sum(axis=0)
    total = np.where(np.isnan(stacked), 0.0, stacked).sum(axis=0)
    return np.where(count > len(values) / 2, total / np.maximum(count, 1), np.nan)


def _checked(frame: pd.DataFrame, needed: Sequence[str], *, what: str, name: str) -> pd.DataFrame:
    """The needed columns of a frame, times in UTC microseconds; refuses a frame that breaks the contract."""
    missing = [column for column in needed if column not in frame.columns]
    if missing:
        raise SchemaMismatch(f"{what} needs the columns {missing}; {name} has {list(frame.columns)}.")
    times = {}
    for column in ("hour", "issued_at", "known_at"):
        if column not in needed:
            continue
        if not isinstance(frame[column].dtype, pd.DatetimeTZDtype):
            raise InvalidTime(
                f"{what}: {name}[{column!r}] is {frame[column].dtype}, expected times with a time zone. Say which zone "
                f"they are in, such as {name}[{column!r}].dt.tz_localize('UTC')."
            )
        times[column] = _utc(frame[column])
    if "hour" in times and (_micros(times["hour"]) % _HOUR_US).any():
        broken = times["hour"][_micros(times["hour"]) % _HOUR_US != 0].iloc[0]
        raise InvalidTime(
            f"{what}: {name} has {broken}, which is no whole hour. Sum or average to hours in the source."
        )
    return frame[list(needed)].assign(**times)


def _utc(times: pd.Series) -> pd.Series:
    return pd.to_datetime(times, utc=True).dt.as_unit("us")


def _micros(times: pd.Series) -> Integers:
    return times.dt.as_unit("us").astype("int64").to_numpy()


def _hours(times: pd.Series) -> Integers:
    return _micros(times) // _HOUR_US
