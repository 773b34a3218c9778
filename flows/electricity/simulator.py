"""A made-up New York: demand, weather forecasts and the operator's forecasts of any hours, from a seed alone.

Every hour is made from the seed, the zone and the hour's number, so any window can be made without the hours before it.
Noise is drawn at knots in time and interpolated between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from featurestore.times import EPOCH, Window
from flows.electricity.features import calendar_of, day_ahead_hours
from flows.electricity.schema import ZONES
from flows.noise import Floats, smooth, uniform

SEED = 5
BASE_MW = {
    "A_WEST": 1700, "B_GENESE": 1100, "C_CENTRL": 1800, "D_NORTH": 600, "E_MHK_VL": 850, "F_CAPITL": 1350,
    "G_HUD_VL": 1050, "H_MILLWD": 320, "I_DUNWOD": 660, "J_NYC": 5800, "K_LONGIL": 2300,
}  # fmt: skip
COOLER_C = {"A_WEST": 3.0, "B_GENESE": 3.0, "C_CENTRL": 3.5, "D_NORTH": 5.5, "E_MHK_VL": 4.5, "F_CAPITL": 3.0}
"""How much cooler it is than at the coast; the other zones are there."""

# Share of the daily mean in each hour of a working day, and of a weekend.
WORKING_DAY = (
    0.82, 0.78, 0.76, 0.75, 0.76, 0.81, 0.90, 0.98, 1.02, 1.04, 1.06, 1.07,
    1.08, 1.08, 1.09, 1.10, 1.13, 1.18, 1.19, 1.16, 1.12, 1.07, 0.98, 0.89,
)  # fmt: skip
WEEKEND = (
    0.84, 0.80, 0.77, 0.76, 0.76, 0.77, 0.80, 0.85, 0.92, 0.98, 1.01, 1.03,
    1.04, 1.04, 1.04, 1.05, 1.08, 1.13, 1.14, 1.11, 1.07, 1.02, 0.95, 0.88,
)  # fmt: skip


@dataclass(frozen=True)
class Trouble:
    """What goes wrong in the made-up world; by default a little of what does go wrong in the real one.

    Args:
        late_share: share of hours that are published 30 hours late.
        revised_share: share of hours that are first published 1 % too high and corrected after a day.
        outage_share: share of days on which three hours of all zones are never published.
        outages: further windows in which nothing is ever published.
        drift_from: from then on demand is `drift` higher, in a way no calendar explains.
    """

    late_share: float = 0.004
    revised_share: float = 0.01
    outage_share: float = 0.02
    outages: tuple[Window, ...] = ()
    drift_from: datetime | None = None
    drift: float = 0.15


LATE = timedelta(hours=30)
REVISED_AFTER = timedelta(hours=24)
CALM = Trouble(late_share=0.0, revised_share=0.0, outage_share=0.0)


def demand(window: Window, *, as_of: datetime, trouble: Trouble | None = None, seed: int = SEED) -> pd.DataFrame:
    """The demand of the hours of [start, end), as published by a time.

    Returns:
        zone, hour, demand_mw: no order promised; hours not published by then are missing.

    >>> day = Window.of("2026-01-05", "2026-01-06")
    >>> rows = demand(day, as_of=day.end, trouble=CALM)
    >>> len(rows), bool(rows["demand_mw"].between(200, 9000).all())
    (264, True)
    """
    trouble = trouble or Trouble()
    rows = _hours_of(window)
    mw = _true_demand(rows, seed)
    if trouble.drift_from is not None:
        mw = np.where(rows["hour"] >= trouble.drift_from, mw * (1 + trouble.drift), mw)
    zone, number = rows["code"].to_numpy(), rows["number"].to_numpy()
    ends = number + 1
    age = (as_of - EPOCH) / timedelta(hours=1) - ends
    draw = uniform(seed, 11, zone, number)
    is_late = draw < trouble.late_share
    is_revised = ~is_late & (draw < trouble.late_share + trouble.revised_share)
    is_out = (uniform(seed, 12, 0 * number, number // 24) < trouble.outage_share) & (number % 24 // 3 == 5)
    for outage in trouble.outages:
        is_out |= ((rows["hour"] >= outage.start) & (rows["hour"] < outage.end)).to_numpy()
    published = ~is_out & (age >= np.where(is_late, LATE / timedelta(hours=1), 0))
    mw = np.where(is_revised & (age < REVISED_AFTER / timedelta(hours=1)), mw * 1.01, mw)
    return rows.assign(demand_mw=np.round(mw, 1)).loc[published, ["zone", "hour", "demand_mw"]]


def weather_forecasts(window: Window, *, seed: int = SEED) -> pd.DataFrame:
    """The temperature forecast two days ahead for the hours of [start, end): the truth, and an error of about 2 °C.

    Returns:
        zone, hour, temperature_c (°C).
    """
    rows = _hours_of(window)
    zone, number = rows["code"].to_numpy(), rows["number"].to_numpy()
    error = 1.7 * smooth(seed, 21, 0 * zone, number, 18) + 1.0 * smooth(seed, 22, zone, number, 9)
    forecast = np.round(_temperature(rows, seed) + error, 1)
    return rows.assign(temperature_c=forecast)[["zone", "hour", "temperature_c"]]


def operator_forecasts(start: datetime, end: datetime, *, seed: int = SEED) -> pd.DataFrame:
    """The operator's forecasts for the days whose issue (ours, at 05:00) is in [start, end): 3 to 4 % off.

    Returns:
        zone, hour, forecast_mw.
    """
    hours = day_ahead_hours(start, end, list(ZONES))
    rows = _numbered(hours)
    zone, number = rows["code"].to_numpy(), rows["number"].to_numpy()
    error = 0.036 * smooth(seed, 31, 0 * zone, number, 12) + 0.02 * smooth(seed, 32, zone, number, 6)
    forecast = np.round(_true_demand(rows, seed) * (1 + error), 0)
    return rows.assign(forecast_mw=forecast)[["zone", "hour", "forecast_mw"]]


ABOVE_USD = {"J_NYC": 5.0, "K_LONGIL": 8.0, "I_DUNWOD": 4.0, "D_NORTH": -9.0, "A_WEST": -3.0}
"""How much dearer a megawatt hour is than elsewhere: lines into the city are full, water power in the north is not."""


def prices(window: Window, *, seed: int = SEED) -> pd.DataFrame:
    """The day-ahead market's prices of the hours of [start, end): gas, load and wind, with spikes and negative prices.

    Returns:
        zone, hour, price_usd_per_mwh (USD/MWh).

    >>> usd = prices(Window.of("2025-01-01", "2026-01-01"))["price_usd_per_mwh"]
    >>> len(usd), bool(usd.between(-60, 900).all()), bool(0.005 < (usd < 0).mean() < 0.02)
    (96360, True, True)
    """
    rows = _hours_of(window)
    zone, number = rows["code"].to_numpy(), rows["number"].to_numpy()
    everywhere = 0 * zone
    load = _true_demand(rows, seed) / np.array([BASE_MW[name] for name in ZONES], np.float64)[zone]
    winter = np.cos(2 * np.pi * (number / 24 - 20) / 365.2425)
    gas = 32 + 9 * np.maximum(winter, 0) + 6 * smooth(seed, 41, everywhere, number, 24 * 12)
    wind = 9 * smooth(seed, 42, everywhere, number, 30) * np.where(np.isin(zone, [0, 3]), 1.8, 0.7)
    scarce = 190 * np.maximum(load - 1.25, 0) ** 2
    above = np.array([ABOVE_USD.get(name, 0.0) for name in ZONES])[zone]
    spike = np.where(uniform(seed, 43, everywhere, number) < 0.002, 180.0, 0.0) * np.maximum(load - 0.6, 0)
    noise = 1.5 * smooth(seed, 44, zone, number, 5)
    price = gas * (0.25 + 0.75 * load) + scarce + above - wind + spike + noise
    return rows.assign(price_usd_per_mwh=np.round(price, 2))[["zone", "hour", "price_usd_per_mwh"]]


def _hours_of(window: Window) -> pd.DataFrame:
    first = pd.Timestamp(window.start).ceil("h")
    hours = pd.date_range(first, pd.Timestamp(window.end), freq="h", inclusive="left", tz="UTC", unit="us")
    zones = pd.DataFrame({"zone": pd.array(list(ZONES), dtype="str")})
    return _numbered(pd.DataFrame({"hour": hours}).merge(zones, how="cross"))


def _numbered(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(
        code=pd.Categorical(rows["zone"], categories=list(ZONES)).codes.astype(np.int64),
        number=(rows["hour"].astype("int64") // 3_600_000_000).astype(np.int64),
    )


def _true_demand(rows: pd.DataFrame, seed: int) -> Floats:
    local = calendar_of(rows["hour"])
    zone, number = rows["code"].to_numpy(), rows["number"].to_numpy()
    base = np.array([BASE_MW[name] for name in ZONES], np.float64)[zone]
    free = local["is_weekend"] | local["is_federal_holiday"]
    shape = np.where(free, 0.94 * np.array(WEEKEND)[local["local_hour"]], np.array(WORKING_DAY)[local["local_hour"]])
    felt = _temperature(rows, seed)
    # Houses answer slowly: half of it is the temperature of the hours before.
    felt = 0.5 * felt + 0.5 * _temperature(rows, seed, shift_hours=-12)
    # Cooling is for the afternoon and most of all for the city; heating is for mornings and evenings.
    hour = local["local_hour"]
    afternoon = np.clip(1.25 - np.abs(hour - 16) / 9, 0.15, 1.0)
    in_town = np.where(np.isin(zone, [list(ZONES).index(name) for name in ("I_DUNWOD", "J_NYC", "K_LONGIL")]), 1.4, 0.8)
    heating = 0.011 * np.maximum(16 - felt, 0) * np.where((hour >= 6) & (hour <= 9) | (hour >= 17), 1.4, 0.8)
    response = 1 + heating + 0.042 * np.maximum(felt - 20, 0) * afternoon * in_town
    noise = 0.012 * smooth(seed, 1, zone, number, 60) + 0.008 * smooth(seed, 2, zone, number, 4)
    return base * shape * response * (1 + noise)


def _temperature(rows: pd.DataFrame, seed: int, *, shift_hours: int = 0) -> Floats:
    """°C: the season, the time of day, and weather that passes over all zones within days."""
    number = rows["number"].to_numpy() + shift_hours
    zone = rows["code"].to_numpy()
    cooler = np.array([COOLER_C.get(name, 0.0) for name in ZONES])[zone]
    season = 12.5 - 12.5 * np.cos(2 * np.pi * (number / 24 - 20) / 365.2425)
    time_of_day = -4.0 * np.cos(2 * np.pi * (number % 24 - 8) / 24)  # coldest at 08:00 UTC
    passing = 4.5 * smooth(seed, 3, 0 * zone, number, 84) + 1.2 * smooth(seed, 4, zone, number, 30)
    return season + time_of_day + passing - cooler


SPAN = Window(datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC))
"""What the demo reads. The simulator itself makes up any hour."""
