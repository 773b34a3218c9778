"""Poland's air: the mean PM2.5 of the next seven days at stations in its cities, said at seven in the morning."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from featurestore.times import Window
from flows import FeatureFunction

if TYPE_CHECKING:
    import pandas as pd


def feature_functions() -> tuple[FeatureFunction, ...]:
    """The system's feature functions, fed by the simulator, for the laws that hold for every system.

    >>> [declared.name for declared in feature_functions()]
    ['daily_means', 'recent_means', 'outlook_features', 'weather_features']
    """
    from flows.air_quality import features, schema, simulator, source  # not needed to know that this system exists

    seen = datetime(2026, 6, 1, tzinfo=UTC)  # late rows are late for good: all functions see the same
    few = [station for station in schema.STATIONS if station[:2] in ("Ld", "Mp", "Mz", "Sl")]  # near each other
    end = datetime(2026, 3, 31, tzinfo=UTC)  # the clock goes forward on the 29th

    def hours(start: datetime, end: datetime) -> pd.DataFrame:
        rows = source.read_measurements(start, end, as_of=seen, source=source.SIMULATED)
        return rows[rows["station"].isin(few)]

    @lru_cache
    def daily_of_years() -> pd.DataFrame:
        first = end - features.DAYS_WARM_UP - timedelta(days=20)
        rows = simulator.measurements(Window(first, end), as_of=seen, stations=few)
        return features.daily_means(rows)

    def days(start: datetime, end: datetime) -> pd.DataFrame:
        return features.since(daily_of_years(), "known_at", start, end)

    def issues(start: datetime, end: datetime) -> pd.DataFrame:
        return features.outlook_days(start, end, few)

    def recent(start: datetime, end: datetime) -> pd.DataFrame:
        each = issues(start, end)[["station", "issued_at"]].drop_duplicates()
        return features.recent_means(each, hours(start - features.HOURS_WARM_UP, end))

    def measured(start: datetime, end: datetime) -> Mapping[str, pd.DataFrame]:
        return {"measurements": hours(start, end)}

    def just_measured(start: datetime, end: datetime) -> Mapping[str, pd.DataFrame]:
        each = issues(start, end)[["station", "issued_at"]].drop_duplicates()
        return {"issues": each, "measurements": hours(start, end)}

    def outlook(start: datetime, end: datetime) -> Mapping[str, pd.DataFrame]:
        first = max(start, end - timedelta(days=14))  # of the years before, only the daily means matter
        now = recent(first, end)
        return {
            "targets": issues(first, end), "recent": now, "days": days(start, end), "nearby": features.seen_from(now),
        }  # fmt: skip

    def weather(start: datetime, end: datetime) -> Mapping[str, pd.DataFrame]:
        return {
            "targets": issues(start, end),
            "forecasts": source.read_weather_forecasts(start, end, source=source.SIMULATED),
            "observed": source.read_observed_weather(start, end, source=source.SIMULATED),
            "nearby": features.seen_from(recent(start, end)),
        }

    checked = timedelta(days=6)
    by_issue = {"targets": "issued_at", "nearby": "issued_at"}
    return (
        FeatureFunction(
            features.daily_means, measured, input_times={"measurements": "known_at"}, key=("station",),
            event_time="known_at", features=schema.PM25, warm_up=features.HOURS_WARM_UP,
            sample=(end - checked - features.HOURS_WARM_UP, end),
        ),
        FeatureFunction(
            features.recent_means, just_measured, input_times={"issues": "issued_at", "measurements": "known_at"},
            key=("station",), event_time="issued_at", features=schema.RECENT, warm_up=features.HOURS_WARM_UP,
            sample=(end - checked - features.HOURS_WARM_UP, end),
        ),
        FeatureFunction(
            features.outlook_features, outlook,
            input_times={**by_issue, "recent": "issued_at", "days": "known_at"}, key=("station",),
            event_time="issued_at", features=schema.OUTLOOK, warm_up=features.DAYS_WARM_UP,
            sample=(end - checked - features.DAYS_WARM_UP, end),
        ),
        FeatureFunction(
            features.weather_features, weather,
            input_times={**by_issue, "forecasts": "issued_at", "observed": "known_at"}, key=("station",),
            event_time="issued_at", features=schema.WEATHER, warm_up=features.WEATHER_WARM_UP,
            sample=(end - checked - features.WEATHER_WARM_UP, end),
        ),
    )  # fmt: skip
