"""A made-up Poland: PM2.5 of every hour and the weather of every day at each station, from a seed alone.

What is learnable: houses are heated when it is cold, wind and rain clean the air, dirty air moves on with the wind, and
all of it lasts for days. Every hour is made from the seed, the station and the hour's number, so any window can be made
without the hours before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from featurestore.times import EPOCH, Window
from flows.air_quality.features import local_day, midnight_of
from flows.air_quality.schema import FORECAST, HORIZONS, KNOWN_AFTER, STATIONS
from flows.noise import Floats, Integers, normal, smooth, uniform

SEED = 7

DIRTIER = {
    "MpKrakAlKras": 1.7, "SlKatoKossut": 1.5, "OpKKozBSmial": 1.4, "MzRadTochter": 1.2, "LdZgieMielcz": 1.2,
    "WmOlsPuszkin": 0.75, "PmGdaLeczkow": 0.65, "ZpSzczPilsud": 0.75, "PdBialWaszyn": 0.8,
}  # fmt: skip
"""How much dirtier the air is than elsewhere, where it is."""

# Share of the daily mean in each local hour: dirty evenings and nights, a peak in the morning.
HOURS = (
    1.15, 1.12, 1.08, 1.04, 1.01, 1.00, 1.02, 1.06, 1.06, 1.00, 0.92, 0.86,
    0.81, 0.78, 0.77, 0.79, 0.85, 0.95, 1.05, 1.12, 1.17, 1.20, 1.20, 1.18,
)  # fmt: skip


@dataclass(frozen=True)
class Trouble:
    """What goes wrong in the made-up world; by default a little of what does go wrong in the real one.

    Args:
        late_share: share of hours that are published 30 hours late.
        negative_share: share of hours in which an instrument reports a value below zero.
        outage_share: share of days on which a station measures nothing from 06:00 to 18:00 UTC.
        outages: windows in which no station measures anything.
        closed: from when on a station measures nothing any more, by its code.
        drift_from: from then on the air is `drift` dirtier, in a way no weather explains.
    """

    late_share: float = 0.004
    negative_share: float = 0.001
    outage_share: float = 0.01
    outages: tuple[Window, ...] = ()
    closed: Mapping[str, datetime] = field(default_factory=dict)
    drift_from: datetime | None = None
    drift: float = 0.5


LATE = timedelta(hours=30)
CALM = Trouble(late_share=0.0, negative_share=0.0, outage_share=0.0)


def measurements(
    window: Window, *, as_of: datetime, stations: Sequence[str] = tuple(STATIONS), trouble: Trouble | None = None,
    seed: int = SEED,
) -> pd.DataFrame:  # fmt: skip
    """PM2.5 of the hours of [start, end), as published by a time.

    Returns:
        station, hour, pm25_ug_m3 (µg/m³): no order promised; hours not published by then are missing.

    >>> day = Window.of("2026-01-05", "2026-01-06")
    >>> rows = measurements(day, as_of=datetime(2026, 1, 7, tzinfo=UTC), trouble=CALM)
    >>> len(rows), bool(rows["pm25_ug_m3"].between(1, 400).all())
    (456, True)
    """
    trouble = trouble or Trouble()
    first = pd.Timestamp(window.start).ceil("h")
    hours = pd.DataFrame({"hour": pd.date_range(first, window.end, freq="h", inclusive="left", tz="UTC", unit="us")})
    rows = hours.merge(pd.DataFrame({"station": pd.array(list(stations), dtype="str")}), how="cross")
    code, number = _codes(rows["station"]), rows["hour"].to_numpy("datetime64[h]").astype(np.int64)
    local_hour = rows["hour"].dt.tz_convert("Europe/Warsaw").dt.hour.to_numpy()
    pm25 = _pm25(code, number, seed) * np.array(HOURS)[local_hour]
    if trouble.drift_from is not None:
        pm25 = np.where(rows["hour"] >= trouble.drift_from, pm25 * (1 + trouble.drift), pm25)
    draw = uniform(seed, 11, code, number)
    is_late = draw < trouble.late_share
    is_negative = ~is_late & (draw < trouble.late_share + trouble.negative_share)
    is_out = (uniform(seed, 12, code, number // 24) < trouble.outage_share) & (number % 24 // 12 * 12 + 6 <= 18)
    is_out &= (number % 24 >= 6) & (number % 24 < 18)
    for outage in trouble.outages:
        is_out |= ((rows["hour"] >= outage.start) & (rows["hour"] < outage.end)).to_numpy()
    for station, since in trouble.closed.items():
        is_out |= ((rows["station"] == station) & (rows["hour"] >= since)).to_numpy()
    age = (as_of - EPOCH) / timedelta(hours=1) - number
    needed = np.where(is_late, LATE / timedelta(hours=1), 0) + KNOWN_AFTER / timedelta(hours=1)
    rows = rows.assign(pm25_ug_m3=np.where(is_negative, -0.5, np.round(pm25, 1)))
    return rows.loc[~is_out & (age >= needed), ["station", "hour", "pm25_ug_m3"]]


def observed_weather(days: Window, *, stations: Sequence[str] = tuple(STATIONS), seed: int = SEED) -> pd.DataFrame:
    """The weather of the local days whose midnight lies in [start, end).

    Returns:
        station, day, and the columns of `schema.FORECAST`.

    >>> len(observed_weather(Window.of("2026-01-04T23:00", "2026-01-06T23:00")))
    38
    """
    rows = _days_of(days, stations)
    return rows.assign(**_weather(rows, seed))[["station", "day", *FORECAST]]


def weather_forecasts(days: Window, *, stations: Sequence[str] = tuple(STATIONS), seed: int = SEED) -> pd.DataFrame:
    """What was expected of these days one to seven days before: the truth, and an error that grows with the horizon.

    Returns:
        station, day, horizon_days, and the columns of `schema.FORECAST`; for the seventh day there is none, as live.
    """
    rows = _days_of(days, stations)
    truth = rows.assign(**_weather(rows, seed))
    code, number = _codes(rows["station"]), rows["number"].to_numpy(np.int64)
    parts = []
    for horizon in HORIZONS[:-1]:

        def error(stream: int, horizon: int = horizon) -> Floats:
            shared = normal(seed, 100 * stream + horizon, 0 * code, number)
            return (0.8 * shared + 0.6 * normal(seed, 100 * stream + 50 + horizon, code, number)) * np.sqrt(horizon)

        warmer, faster, turned = 0.9 * error(2), 0.12 * error(3), 12 * error(4)
        parts.append(
            truth.assign(
                horizon_days=np.int64(horizon),
                temperature_c=np.round(truth["temperature_c"] + warmer, 2),
                temperature_min_c=np.round(truth["temperature_min_c"] + warmer, 2),
                wind_speed_ms=np.round(truth["wind_speed_ms"] * np.exp(faster), 2),
                wind_direction_deg=np.round((truth["wind_direction_deg"] + turned) % 360, 1) % 360,
                precipitation_mm=np.round(truth["precipitation_mm"] * np.exp(0.2 * error(5)), 1),
            )
        )
    return pd.concat(parts)[["station", "day", "horizon_days", *FORECAST]]


def _days_of(days: Window, stations: Sequence[str]) -> pd.DataFrame:
    edges = local_day(pd.Series([pd.Timestamp(days.start), pd.Timestamp(days.end)]).dt.tz_convert("UTC"))
    local = pd.Series(pd.date_range(edges[0], edges[1], freq="D", unit="us"))
    day = midnight_of(local)
    wanted = ((day >= days.start) & (day < days.end)).to_numpy()
    each = pd.DataFrame({"day": day[wanted], "number": local[wanted].to_numpy("datetime64[D]").astype(np.int64)})
    return each.merge(pd.DataFrame({"station": pd.array(list(stations), dtype="str")}), how="cross")


def _codes(stations: pd.Series) -> Integers:
    return pd.Categorical(stations, categories=list(STATIONS)).codes.astype(np.int64)


def _weather(rows: pd.DataFrame, seed: int) -> dict[str, Floats]:
    """Daily weather: that of noon stands for the day."""
    code, hour = _codes(rows["station"]), 24 * rows["number"].to_numpy(np.int64) + 11
    temperature, wind = _temperature(code, hour, seed), _wind(code, hour, seed)
    wet = np.maximum(smooth(seed, 5, 0 * code, hour, 40) - 0.6, 0)
    direction = (250 + 70 * smooth(seed, 6, 0 * code, hour, 60)) % 360
    return {
        "temperature_c": np.round(temperature, 2),
        "temperature_min_c": np.round(temperature - 4 + 0.3 * wind, 2),
        "wind_speed_ms": np.round(wind, 2),
        "wind_direction_deg": np.round(direction, 1) % 360,
        "precipitation_mm": np.round(6 * wet, 1),
    }


def _temperature(code: Integers, hour: Integers, seed: int) -> Floats:
    season = 9 - 11 * np.cos(2 * np.pi * (hour / 24 - 20) / 365.2425)
    return season + 4.5 * smooth(seed, 1, 0 * code, hour, 96) + smooth(seed, 2, code, hour, 48)


def _wind(code: Integers, hour: Integers, seed: int) -> Floats:
    return 3.2 * np.exp(0.45 * smooth(seed, 3, 0 * code, hour, 54) + 0.12 * smooth(seed, 4, code, hour, 36))


def _pm25(code: Integers, hour: Integers, seed: int) -> Floats:
    """µg/m³, without the time of day."""
    base = 11.0 * np.array([DIRTIER.get(name, 1.0) for name in STATIONS])[code]
    heated = 1 + 0.10 * np.maximum(14 - _temperature(code, hour, seed), 0)
    calm = (3.2 / _wind(code, hour, seed)) ** 0.7
    washed = np.exp(-0.5 * np.maximum(smooth(seed, 5, 0 * code, hour, 40) - 0.6, 0))
    lasting = 0.22 * smooth(seed, 7, 0 * code, hour, 120) + 0.15 * smooth(seed, 8, code, hour, 48)
    return np.maximum(base * heated * calm * washed * np.exp(lasting + 0.1 * smooth(seed, 9, code, hour, 3)), 1.0)


SPAN = Window(datetime(2024, 1, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC))
"""What the demo reads. The simulator itself makes up any hour."""
