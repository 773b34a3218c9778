"""The air quality system's features: pure functions from frames of raw rows to the rows of its feature groups.

No clock, no environment, no network, no store. Every value is gathered by its day or hour, not by its row: a row
computed by an hourly run is equal, to the last bit, to the same row of a backfill.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from featurestore.errors import InvalidData, InvalidTime, SchemaMismatch
from flows.air_quality import schema
from flows.air_quality.schema import (
    DAY_KNOWN_AFTER,
    FORECAST,
    HORIZONS,
    HOURS_OF_A_DAY,
    ISSUE_HOUR,
    KNOWN_AFTER,
    LAG_DAYS,
    OBSERVED_AFTER,
    OUTLOOK,
    PM25,
    TIME_ZONE,
    WEATHER,
)
from flows.rules import columns

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

YEARS = 5
"""Over which the climatology looks back."""

HOURS_WARM_UP = timedelta(days=3)
"""History of hours that `recent_means` and `daily_means` need before their first row."""

DAYS_WARM_UP = timedelta(days=366 * YEARS + 24)
"""History of daily means that `outlook_features` needs before its first issue: the climatology's years."""

WEATHER_WARM_UP = timedelta(days=14)
"""History of observed weather that `weather_features` needs before its first issue."""

SILENT_DAYS = 30
"""A station without a daily mean for so long is closed, or as good as that: it is not forecast."""

UPWIND_DEG = 60
"""A near station lies upwind if its bearing is within this angle of where the wind comes from."""

_HALF_WINDOW = 15  # days around a date that are of its season
_ENOUGH_OF_A_SEASON = 20
_HOUR = pd.Timedelta(hours=1)
_DAY = pd.Timedelta(days=1)


def outlook_days(start: datetime, end: datetime, stations: Sequence[str]) -> pd.DataFrame:
    """What the issues of [start, end) forecast: for each station each of the seven days after the day of the issue.

    Returns:
        station, day (UTC, its local midnight), horizon_days, issued_at (UTC), ordered by issue, horizon and station,
        index 0..n-1.

    >>> from datetime import UTC
    >>> rows = outlook_days(datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC), ["MpKrakAlKras"])
    >>> len(rows), str(rows["issued_at"].iloc[0]), str(rows["day"].iloc[0])  # 07:00 on the 5th, midnight of the 6th
    (7, '2026-01-05 06:00:00+00:00', '2026-01-05 23:00:00+00:00')
    """
    first, last = (pd.Timestamp(time).tz_convert(TIME_ZONE).tz_localize(None).normalize() for time in (start, end))
    local = pd.Series(pd.date_range(first - _DAY, last + _DAY, freq="D", unit="us"))
    issued_at = issue_on(local)
    wanted = (issued_at >= start) & (issued_at < end)
    issues = pd.DataFrame({"local": local[wanted], "issued_at": issued_at[wanted]})
    rows = issues.merge(pd.DataFrame({"horizon_days": np.array(HORIZONS, np.int64)}), how="cross")
    rows["day"] = midnight_of(rows["local"] + pd.to_timedelta(rows["horizon_days"], unit="D"))
    rows = rows.merge(pd.DataFrame({"station": pd.array(sorted(stations), dtype="str")}), how="cross")
    return rows[columns(schema.KEY)]


def issue_on(local: pd.Series) -> pd.Series:
    """When the forecast of each local day (naive) is issued: 07:00 Warsaw, in UTC.

    >>> str(issue_on(pd.Series(pd.to_datetime(["2026-07-01"])))[0])
    '2026-07-01 05:00:00+00:00'
    """
    return _to_utc(local + pd.Timedelta(hours=ISSUE_HOUR))


def midnight_of(local: pd.Series) -> pd.Series:
    """The midnight that begins each local day (naive), in UTC.

    >>> str(midnight_of(pd.Series(pd.to_datetime(["2026-07-01"])))[0])
    '2026-06-30 22:00:00+00:00'
    """
    return _to_utc(local)


def local_day(times: pd.Series) -> pd.Series:
    """The local day (naive midnight) that each time lies in."""
    return times.dt.tz_convert(TIME_ZONE).dt.tz_localize(None).dt.normalize()


# --- what was measured -------------------------------------------------------------------------------


def daily_means(measurements: pd.DataFrame) -> pd.DataFrame:
    """The mean PM2.5 of each day that has been measured for at least 18 hours.

    Args:
        measurements: station (str), hour (UTC, its beginning), pm25_ug_m3 (µg/m³). A value below zero is the noise of
            an instrument in clean air, no concentration: it counts as missing. Any order, any index.
    Returns:
        The columns of `schema.PM25`, ordered by known_at and station, index 0..n-1: days are local, of 23 to 25 hours.
        A day with fewer than 18 measured hours has no row. Means are of whole hundredths. Empty in, empty out.
    Raises:
        SchemaMismatch: a column is missing; the message names it and the columns there are.
        InvalidTime: a time has no time zone, or an hour is not a whole one.
        InvalidData: a station has an hour twice: which one counts is for the source to say.

    >>> hours = pd.Series(pd.date_range("2026-01-04T23:00Z", periods=24, freq="h"))
    >>> rows = daily_means(pd.DataFrame({"station": "MpKrakAlKras", "hour": hours, "pm25_ug_m3": [-1.0, *[20.0] * 23]}))
    >>> rows.loc[0, ["pm25_ug_m3", "hours"]].tolist(), str(rows.loc[0, "known_at"])
    ([20.0, 23.0], '2026-01-06 00:00:00+00:00')
    """
    rows = _measured(measurements, what="daily_means")
    day = local_day(rows["hour"])
    found = (
        pd.DataFrame({"station": rows["station"], "local": day, "cents": _cents(rows["pm25_ug_m3"])})
        .groupby(["station", "local"], as_index=False, sort=True)["cents"]
        .agg(["sum", "count"])
    )
    found = found[found["count"] >= HOURS_OF_A_DAY]
    result = pd.DataFrame(
        {
            "station": found["station"].astype("str"),
            "day": midnight_of(found["local"]),
            "issued_at": issue_on(found["local"] - HORIZONS[-1] * _DAY),
            "pm25_ug_m3": np.round(found["sum"].to_numpy(np.float64) / (100 * found["count"].to_numpy()), 2),
            "hours": found["count"].astype("int64"),
            "known_at": midnight_of(found["local"] + _DAY) + DAY_KNOWN_AFTER,
        }
    )
    return result[columns(PM25)].sort_values(["known_at", "station"], ignore_index=True)


def recent_means(issues: pd.DataFrame, measurements: pd.DataFrame) -> pd.DataFrame:
    """What had just been measured at each issue: the newest 24 and 6 known hours, which end an hour before it.

    Args:
        issues: station (str), issued_at (UTC): one row for each.
        measurements: as for `daily_means`.
    Returns:
        station, issued_at, pm25_mean_24h, pm25_mean_6h (µg/m³), ordered by issued_at and station, index 0..n-1. A mean
        is null when more than a quarter of its hours are missing; a value below zero is missing.
    Raises:
        As `daily_means`.

    >>> hours = pd.Series(pd.date_range("2026-01-04T05:00Z", periods=24, freq="h"))
    >>> rows = recent_means(
    ...     pd.DataFrame({"station": "MpKrakAlKras", "issued_at": pd.to_datetime(["2026-01-05T06:00Z"])}),
    ...     pd.DataFrame({"station": "MpKrakAlKras", "hour": hours, "pm25_ug_m3": [*[10.0] * 18, *[50.0] * 6]}))
    >>> rows[["pm25_mean_24h", "pm25_mean_6h"]].values.tolist()
    [[20.0, 50.0]]
    """
    wanted = _checked(issues, ["station", "issued_at"], what="recent_means", name="issues")
    wanted = wanted.sort_values(["issued_at", "station"], ignore_index=True)
    rows = _measured(measurements, what="recent_means")
    known = _Grid.of(rows, wanted["station"], _hours(rows["hour"]), "pm25_ug_m3")
    newest = _hours(wanted["issued_at"] - KNOWN_AFTER)  # the beginning of the last hour that is known
    station = known.codes(wanted["station"])
    means = {
        f"pm25_mean_{hours}h": _mean(known.window(station, newest, np.arange(hours - 1, -1, -1)), 0.75 * hours)
        for hours in (24, 6)
    }
    return wanted.assign(**means)


def seen_from(recent: pd.DataFrame) -> pd.DataFrame:
    """The recent means of the stations near each station, as seen from there.

    Args:
        recent: of `recent_means`.
    Returns:
        station (the one that looks), neighbour, bearing_deg (where the neighbour lies), issued_at, pm25_mean_24h,
        pm25_mean_6h; one row per station, near station and issue, no order promised.

    >>> at = pd.to_datetime(["2026-01-05T06:00Z"])
    >>> rows = seen_from(pd.DataFrame({"station": "LdZgieMielcz", "issued_at": at, "pm25_mean_24h": 20.0,
    ...                                "pm25_mean_6h": 30.0}))
    >>> rows.loc[rows["station"] == "LdLodzCzerni", ["neighbour", "pm25_mean_24h"]].values.tolist()
    [['LdZgieMielcz', 20.0]]
    """
    pairs = pd.DataFrame(
        [
            (station, near.station, near.bearing_deg)
            for station in schema.STATIONS for near in schema.neighbours(station)
        ],
        columns=["station", "neighbour", "bearing_deg"],
    ).astype({"station": "str", "neighbour": "str"})  # fmt: skip
    return pairs.merge(recent.rename(columns={"station": "neighbour"}), on="neighbour")


def outlook_features(
    targets: pd.DataFrame, recent: pd.DataFrame, days: pd.DataFrame, nearby: pd.DataFrame
) -> pd.DataFrame:
    """What is known, when a forecast is issued, of a day to come: its calendar, and the station's and neighbours' past.

    Args:
        targets: of `outlook_days`.
        recent: of `recent_means`, for the same issues.
        days: station (str), day (UTC, a local midnight), pm25_ug_m3 (µg/m³), known_at (UTC): of `daily_means`. What is
            known after an issue does not reach it.
        nearby: of `seen_from`, for the same issues.
        All in any order, with any index.
    Returns:
        The columns of `schema.OUTLOOK`, one row per target, ordered by issued_at, day and station, index 0..n-1; none
        for a station without a daily mean in the 30 days before the issue. A lag is so many calendar days before the
        issue, not so many rows: a day without a mean gives null. A mean over several days is null when more than half
        of them are missing; the climatology, when fewer than 20 days of the season are there. Empty in, empty out.
    Raises:
        SchemaMismatch, InvalidTime, InvalidData: as `daily_means`.

    >>> day = pd.Series(pd.date_range("2025-12-01", "2026-01-05", freq="D", tz="Europe/Warsaw").tz_convert("UTC"))
    >>> known = day + pd.Timedelta(hours=25)
    >>> days = pd.DataFrame({"station": "MpKrakAlKras", "day": day, "known_at": known,
    ...                      "pm25_ug_m3": np.arange(36.0)}).drop(index=33)
    >>> issue = pd.Timestamp("2026-01-05T06:00Z")
    >>> targets = outlook_days(issue, issue + pd.Timedelta(hours=1), ["MpKrakAlKras"])
    >>> recent = pd.DataFrame({"station": ["MpKrakAlKras"], "issued_at": [issue], "pm25_mean_24h": 40.0,
    ...                        "pm25_mean_6h": 50.0})
    >>> rows = outlook_features(targets, recent, days, seen_from(recent))
    >>> rows.loc[0, ["days_ahead", "pm25_mean_24h", "pm25_lag_1d", "pm25_lag_2d", "pm25_lag_3d"]].tolist()
    [1.0, 40.0, 34.0, nan, 32.0]
    """
    what = "outlook_features"
    wanted = _checked(targets, columns(schema.KEY), what=what, name="targets")
    past = _checked(days, ["station", "day", "pm25_ug_m3", "known_at"], what=what, name="days")
    _refuse_twice(past, ["station", "day"], what=what, name="days")
    issues = _issue_features(wanted, past)
    own = _checked(recent, ["station", "issued_at", "pm25_mean_24h", "pm25_mean_6h"], what=what, name="recent")
    near = _checked(
        nearby, ["station", "neighbour", "issued_at", "pm25_mean_24h", "pm25_mean_6h"], what=what, name="nearby"
    )
    near = _mean_by(near, {"pm25_mean_24h": "pm25_nearby_24h", "pm25_mean_6h": "pm25_nearby_6h"})
    by_issue = ["station", "issued_at"]
    rows = wanted.merge(issues, on=by_issue).merge(own, on=by_issue, how="left").merge(near, on=by_issue, how="left")
    rows = rows.sort_values(["issued_at", "day", "station"], ignore_index=True)
    rows = rows.assign(
        days_ahead=rows["horizon_days"].astype("int64"),
        latitude=rows["station"].map({code: each.latitude for code, each in schema.STATIONS.items()}).astype("float64"),
        longitude=rows["station"]
        .map({code: each.longitude for code, each in schema.STATIONS.items()})
        .astype("float64"),
        **calendar_of(rows["day"]),
        **_climatology(rows, past),
    )
    return rows[columns(OUTLOOK)]


def calendar_of(day: pd.Series) -> dict[str, Any]:
    """The calendar of each day, as arrays by name.

    >>> found = calendar_of(midnight_of(pd.Series(pd.to_datetime(["2026-05-01", "2026-10-03"]))))
    >>> found["is_holiday"].tolist(), found["is_weekend"].tolist(), found["is_heating_season"].tolist()
    ([True, False], [False, True], [False, True])
    """
    local = local_day(day)
    weekday = local.dt.day_of_week.to_numpy(np.int64)
    month = local.dt.month.to_numpy()
    return {
        "day_of_year": local.dt.day_of_year.to_numpy(np.int64),
        "weekday": weekday,
        "is_weekend": weekday >= 5,
        "is_holiday": local.dt.date.isin(_holidays()).to_numpy(bool),
        "is_heating_season": (month >= 10) | (month <= 4),
    }


# --- the weather -------------------------------------------------------------------------------------


def daily_weather(hours: pd.DataFrame) -> pd.DataFrame:
    """The weather of each local day from that of its hours: the same for what was observed and what is expected.

    Args:
        hours: station (str), hour (UTC), temperature_c, wind_speed_ms, wind_direction_deg (where it comes from),
            precipitation_mm; nulls where a service has none.
    Returns:
        station, day (UTC, local midnight), and the columns of `schema.FORECAST`, ordered by day and station, index
        0..n-1. A value is null with fewer than 18 hours. The direction is that of the mean wind vector.

    >>> hours = pd.Series(pd.date_range("2026-01-04T23:00Z", periods=24, freq="h"))
    >>> rows = daily_weather(pd.DataFrame({"station": "a", "hour": hours, "temperature_c": np.arange(24.0),
    ...     "wind_speed_ms": 2.0, "wind_direction_deg": [350.0, 10.0] * 12, "precipitation_mm": 0.5}))
    >>> rows.iloc[0, 2:].tolist()
    [11.5, 0.0, 2.0, 0.0, 12.0]
    """
    needed = ["station", "hour", "temperature_c", "wind_speed_ms", "wind_direction_deg", "precipitation_mm"]
    rows = _checked(hours, needed, what="daily_weather", name="hours")
    angle = np.radians(rows["wind_direction_deg"].to_numpy(np.float64))
    speed = rows["wind_speed_ms"].to_numpy(np.float64)
    rows = rows.assign(local=local_day(rows["hour"]), north=speed * np.cos(angle), east=speed * np.sin(angle))
    by_day = rows.groupby(["station", "local"], sort=True)
    count = by_day[["temperature_c", "wind_speed_ms", "north", "precipitation_mm"]].count()
    mean = by_day[["temperature_c", "wind_speed_ms", "north", "east"]].mean()
    found = pd.DataFrame(
        {
            "temperature_c": mean["temperature_c"],
            "temperature_min_c": by_day["temperature_c"].min(),
            "wind_speed_ms": mean["wind_speed_ms"],
            "wind_direction_deg": np.degrees(np.arctan2(mean["east"], mean["north"])) % 360,
            "precipitation_mm": by_day["precipitation_mm"].sum(),
        }
    ).round(2)
    measured_by = ["temperature_c", "temperature_c", "wind_speed_ms", "north", "precipitation_mm"]
    for name, by in zip(FORECAST, measured_by, strict=True):
        found[name] = found[name].where(count[by] >= HOURS_OF_A_DAY)
    found["wind_direction_deg"] %= 360  # 359.999 has been rounded to 360
    found = found.reset_index()
    result = found.assign(station=found["station"].astype("str"), day=midnight_of(found["local"]))
    return result[["station", "day", *FORECAST]].sort_values(["day", "station"], ignore_index=True)


def weather_features(
    targets: pd.DataFrame, forecasts: pd.DataFrame, observed: pd.DataFrame, nearby: pd.DataFrame
) -> pd.DataFrame:
    """What weather is expected for a day to come, what it was before, and what the wind would bring.

    Args:
        targets: as for `outlook_features`.
        forecasts: station, day, issued_at (UTC) and the columns of `schema.FORECAST`: the forecast for the day that was
            known at that issue. Days without one may be missing.
        observed: station, day, known_at and the columns of `schema.FORECAST`: what the weather was. What is known after
            an issue does not reach it.
        nearby: of `seen_from`, for the same issues.
        All in any order, with any index.
    Returns:
        The columns of `schema.WEATHER`, one row per target, ordered by issued_at, day and station, index 0..n-1; nulls
        where there is no forecast or no observation. `observed_...` is of the newest day known at every issue, three
        days before it, or null.
    Raises:
        SchemaMismatch, InvalidTime, InvalidData: as `daily_means`.
    """
    what = "weather_features"
    wanted = _checked(targets, columns(schema.KEY), what=what, name="targets")
    expected = _checked(forecasts, ["station", "day", "issued_at", *FORECAST], what=what, name="forecasts")
    _refuse_twice(expected, ["station", "day", "issued_at"], what=what, name="forecasts")
    past = _checked(observed, ["station", "day", "known_at", *FORECAST], what=what, name="observed")
    _refuse_twice(past, ["station", "day"], what=what, name="observed")
    near = _checked(
        nearby, ["station", "neighbour", "bearing_deg", "issued_at", "pm25_mean_24h"], what=what, name="nearby"
    )
    expected = expected.rename(columns={name: f"forecast_{name}" for name in FORECAST})
    rows = wanted.merge(expected, on=["station", "day", "issued_at"], how="left")
    rows = rows.sort_values(["issued_at", "day", "station"], ignore_index=True)
    wind = np.radians(rows["forecast_wind_direction_deg"].to_numpy(np.float64))
    rows = rows.assign(
        forecast_wind_south=np.round(-np.cos(wind), 3), forecast_wind_west=np.round(-np.sin(wind), 3),
        **_observed_features(rows, past),
        pm25_upwind_24h=_upwind(rows, near),
    )  # fmt: skip
    change = rows["forecast_temperature_c"] - rows["observed_temperature_c"]
    return rows.assign(temperature_change_c=change.round(2))[columns(WEATHER)]


def since(rows: pd.DataFrame, time: str, start: datetime, end: datetime) -> pd.DataFrame:
    """The rows whose time lies in [start, end): what is left when the warm-up has done its work.

    >>> at = pd.to_datetime(["2026-01-01", "2026-01-02"], utc=True)
    >>> len(since(pd.DataFrame({"day": at}), "day", at[0].to_pydatetime(), at[1].to_pydatetime()))
    1
    """
    return rows[(rows[time] >= start) & (rows[time] < end)].reset_index(drop=True)


# --- the index ---------------------------------------------------------------------------------------

POLISH_INDEX = {
    13.0: "very good", 35.0: "good", 55.0: "moderate", 75.0: "sufficient", 110.0: "bad", np.inf: "very bad",
}  # fmt: skip
"""Upper bound of PM2.5 in each category of the Polish air quality index (powietrze.gios.gov.pl, "Skala"), which GIOŚ
applies to hourly means."""


def index_of(pm25_ug_m3: pd.Series) -> pd.Series:
    """The category of the Polish air quality index for each concentration; null stays null.

    >>> index_of(pd.Series([13.0, 13.1, 200.0])).tolist()
    ['very good', 'good', 'very bad']
    """
    bounds = list(POLISH_INDEX)
    # GIOŚ compares tenths.
    place = np.searchsorted(bounds, np.round(pm25_ug_m3.to_numpy(np.float64, na_value=np.nan), 1))
    named = np.array([*POLISH_INDEX.values(), None], dtype=object)[np.minimum(place, len(bounds))]
    return pd.Series(np.where(pm25_ug_m3.isna(), None, named), index=pm25_ug_m3.index, dtype="str")


# --- inside ------------------------------------------------------------------------------------------


def _issue_features(targets: pd.DataFrame, past: pd.DataFrame) -> pd.DataFrame:
    """One row per station and issue that has a daily mean in the last 30 days."""
    issues = targets[["station", "issued_at"]].drop_duplicates(ignore_index=True)
    known = _Grid.of(past, issues["station"], _days(past["day"]), "pm25_ug_m3", known_at=past["known_at"])
    last = known.window(
        known.codes(issues["station"]), _days(issues["issued_at"]), np.arange(SILENT_DAYS, 0, -1),
        at=issues["issued_at"],
    )  # fmt: skip
    features: dict[str, Any] = {f"pm25_lag_{days}d": last[:, -days] for days in LAG_DAYS}
    for days in (3, 7, 30):
        features[f"pm25_mean_{days}d"] = _mean(last[:, -days:], days / 2)
    week = last[:, -7:]
    enough = (~np.isnan(week)).sum(axis=1) >= 4
    features["pm25_min_7d"] = _where(enough, week, lambda some: np.nanmin(some, axis=1))
    features["pm25_max_7d"] = _where(enough, week, lambda some: np.nanmax(some, axis=1))
    features["pm25_std_7d"] = _where(enough, week, lambda some: np.nanstd(some, axis=1))
    return issues.assign(**features)[(~np.isnan(last)).any(axis=1)]


def _climatology(rows: pd.DataFrame, past: pd.DataFrame) -> dict[str, Floats]:
    """Median and mean of the days within 15 of the same date in each of the years before."""
    wanted = rows[["station", "day"]].drop_duplicates(ignore_index=True)
    known = _Grid.of(past, wanted["station"], _days(past["day"]), "pm25_ug_m3")
    station, local = known.codes(wanted["station"]), local_day(wanted["day"])
    around = np.arange(-_HALF_WINDOW, _HALF_WINDOW + 1)
    # The newest of them is eleven months old: known long before any issue.
    of_years = [
        known.window(station, _day_numbers(local - pd.DateOffset(years=years)), -around)
        for years in range(1, YEARS + 1)
    ]
    values = np.hstack(of_years) if len(wanted) else np.empty((0, 1))
    enough = (~np.isnan(values)).sum(axis=1) >= _ENOUGH_OF_A_SEASON
    found = {
        "pm25_climatology": _where(enough, values, lambda some: np.nanmedian(some, axis=1)),
        "pm25_climatology_mean": _where(enough, values, lambda some: np.nanmean(some, axis=1)),
    }
    joined = rows[["station", "day"]].merge(wanted.assign(**found), on=["station", "day"], how="left")
    return {name: joined[name].to_numpy(np.float64) for name in found}


def _observed_features(rows: pd.DataFrame, past: pd.DataFrame) -> dict[str, Floats]:
    found: dict[str, Floats] = {}
    issue = _days(rows["issued_at"])
    newest = 1 + OBSERVED_AFTER // timedelta(days=1)  # days before the issue
    for name in ("temperature_c", "wind_speed_ms", "precipitation_mm"):
        known = _Grid.of(past, rows["station"], _days(past["day"]), name, known_at=past["known_at"])
        week = known.window(
            known.codes(rows["station"]), issue, np.arange(newest + 6, newest - 1, -1), at=rows["issued_at"]
        )
        found[f"observed_{name}"] = week[:, -1]
        if name != "precipitation_mm":
            stem, unit = name.rsplit("_", 1)
            found[f"observed_{stem}_mean_7d_{unit}"] = _mean(week, 4)
    return found


def _upwind(rows: pd.DataFrame, near: pd.DataFrame) -> Floats:
    """The mean of the near stations that lie where the wind is expected from; null where none does."""
    key = ["station", "day", "issued_at"]
    pairs = rows[[*key, "forecast_wind_direction_deg"]].dropna().merge(near, on=["station", "issued_at"])
    apart = (pairs["bearing_deg"] - pairs["forecast_wind_direction_deg"] + 180) % 360 - 180
    pairs = pairs[(apart.abs() <= UPWIND_DEG) & pairs["pm25_mean_24h"].notna()]
    found = _mean_by(pairs, {"pm25_mean_24h": "upwind"}, by=key)
    return rows[key].merge(found, on=key, how="left")["upwind"].to_numpy(np.float64)


def _mean_by(
    rows: pd.DataFrame, names: dict[str, str], *, by: Sequence[str] = ("station", "issued_at")
) -> pd.DataFrame:
    """Means of columns over the rows of each group, of whole hundredths: the same whatever their order."""
    cents = rows[list(by)].assign(**{new: _cents(rows[old]) for old, new in names.items()})
    grouped = cents.groupby(list(by), sort=True)
    total, count = grouped[list(names.values())].sum(), grouped[list(names.values())].count()
    return (total / (100 * count.where(count > 0))).astype("float64").round(2).reset_index()


class _Grid(NamedTuple):
    """Values of each station at each whole number (of a day or hour); NaN where there is none."""

    stations: tuple[str, ...]
    first: int
    values: Floats
    known_at: Integers

    @classmethod
    def of(
        cls, rows: pd.DataFrame, stations: pd.Series, number: Integers, value: str, *, known_at: pd.Series | None = None
    ) -> _Grid:
        wanted = tuple(sorted(set(stations))) or ("",)  # a grid of one empty row answers for no stations
        code = pd.Index(wanted, dtype="str").get_indexer(rows["station"]).astype(np.int64)
        there = (code >= 0) & rows[value].notna().to_numpy()
        code, number = code[there], number[there]
        first = int(number.min()) if len(number) else 0
        width = int(number.max()) - first + 1 if len(number) else 1
        values = np.full((len(wanted), width), np.nan)
        values[code, number - first] = rows[value].to_numpy(np.float64)[there]
        known = np.zeros(values.shape, np.int64)
        if known_at is not None:
            known[code, number - first] = _micros(known_at)[there]
        return cls(wanted, first, values, known)

    def codes(self, station: pd.Series) -> Integers:
        return pd.Index(self.stations, dtype="str").get_indexer(station).astype(np.int64)

    def window(self, station: Integers, number: Integers, back: Integers, *, at: pd.Series | None = None) -> Floats:
        """For each station and number the values so many numbers back, a row for each; NaN where not known `at`."""
        column = number[:, None] - back[None, :] - self.first
        inside = (column >= 0) & (column < self.values.shape[1])
        column = np.where(inside, column, 0)
        found = self.values[station[:, None], column]
        if at is not None:
            inside &= self.known_at[station[:, None], column] <= _micros(at)[:, None]
        return np.where(inside, found, np.nan)


def _where(chosen: Booleans, values: Floats, of: Callable[[Floats], Floats]) -> Floats:
    """A number for each chosen row of values; NaN for the others."""
    result = np.full(len(values), np.nan)
    if chosen.any():
        result[chosen] = np.round(of(values[chosen]), 2)
    return result


def _mean(values: Floats, enough: float) -> Floats:
    """The mean of each row's values that are there; NaN where there are not enough."""
    there = ~np.isnan(values)
    count = there.sum(axis=1)
    cents = np.rint(np.where(there, values, 0.0) * 100).astype(np.int64).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 is one of the means that are not enough
        return np.where(count >= enough, np.round(cents / (100 * count), 2), np.nan)


def _cents(values: pd.Series) -> pd.Series:
    """Whole hundredths; null where there is no value."""
    return (values * 100).round().astype("Int64")


def _measured(measurements: pd.DataFrame, *, what: str) -> pd.DataFrame:
    rows = _checked(measurements, ["station", "hour", "pm25_ug_m3"], what=what, name="measurements")
    _refuse_twice(rows, ["station", "hour"], what=what, name="measurements")
    return rows[rows["pm25_ug_m3"] >= 0]


def _refuse_twice(rows: pd.DataFrame, key: list[str], *, what: str, name: str) -> None:
    twice = rows.duplicated(key)
    if twice.any():
        first = rows[twice].iloc[0]
        raise InvalidData(
            f"{what}: {name} has {', '.join(f'{column} {first[column]}' for column in key)} more than once. The source "
            "must say which row counts; flows.air_quality.source does."
        )


def _checked(frame: pd.DataFrame, needed: Sequence[str], *, what: str, name: str) -> pd.DataFrame:
    """The needed columns of a frame, times in UTC microseconds; refuses a frame that breaks the contract."""
    missing = [column for column in needed if column not in frame.columns]
    if missing:
        raise SchemaMismatch(f"{what} needs the columns {missing}; {name} has {list(frame.columns)}.")
    times = {}
    for column in ("hour", "day", "issued_at", "known_at"):
        if column not in needed:
            continue
        if not isinstance(frame[column].dtype, pd.DatetimeTZDtype):
            raise InvalidTime(
                f"{what}: {name}[{column!r}] is {frame[column].dtype}, expected times with a time zone. Say which zone "
                f"they are in, such as {name}[{column!r}].dt.tz_localize('Europe/Warsaw')."
            )
        times[column] = frame[column].dt.tz_convert("UTC").dt.as_unit("us")
    if "hour" in times and (off := times["hour"] != times["hour"].dt.floor("h")).any():
        raise InvalidTime(
            f"{what}: {name} has {times['hour'][off].iloc[0]}, which is no whole hour. Average to hours in the source."
        )
    if "day" in times and (off := midnight_of(local_day(times["day"])) != times["day"]).any():
        raise InvalidTime(
            f"{what}: {name} has the day {times['day'][off].iloc[0]}, which is no midnight in {TIME_ZONE}."
        )
    return frame[list(needed)].assign(**times)


@lru_cache
def _holidays() -> frozenset[date]:
    import holidays

    return frozenset(holidays.country_holidays("PL", years=range(2000, 2051)))


def _to_utc(wall: pd.Series) -> pd.Series:
    return wall.dt.tz_localize(TIME_ZONE).dt.tz_convert("UTC").dt.as_unit("us")


def _micros(times: pd.Series) -> Integers:
    return times.dt.as_unit("us").astype("int64").to_numpy()


def _hours(times: pd.Series) -> Integers:
    return _micros(times) // 3_600_000_000


def _days(times: pd.Series) -> Integers:
    """Number of the local day that each time lies in."""
    return _day_numbers(local_day(times))


def _day_numbers(local: pd.Series) -> Integers:
    return _micros(local) // 86_400_000_000
