"""New York's electricity: how much each zone will need in each hour of tomorrow, said at five in the morning."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from flows import FeatureFunction

if TYPE_CHECKING:
    import pandas as pd


def feature_functions() -> tuple[FeatureFunction, ...]:
    """The system's feature functions, fed by the simulator, for the laws that hold for every system.

    >>> [declared.name for declared in feature_functions()]
    ['day_ahead_features', 'weather_features', 'known_demand', 'price_features', 'known_prices']
    """
    from flows.electricity import features, schema, source  # pandas is not needed to know that this system exists

    seen = datetime(2026, 6, 1, tzinfo=UTC)  # late rows are late for good: all functions see the same

    def targets(start: datetime, end: datetime) -> Mapping[str, pd.DataFrame]:
        hours = features.day_ahead_hours(start, end, list(schema.ZONES))
        return {"targets": hours, **demand(start, end)}

    def demand(start: datetime, end: datetime) -> Mapping[str, pd.DataFrame]:
        return {"demand": source.read_demand(start, end, as_of=seen, source=source.SIMULATED)}

    def weather(start: datetime, end: datetime) -> Mapping[str, pd.DataFrame]:
        return {"weather": source.read_weather(start, end, source=source.SIMULATED)}

    def prices(start: datetime, end: datetime) -> Mapping[str, pd.DataFrame]:
        return {"prices": source.read_prices(start, end, source=source.SIMULATED)}

    def priced(start: datetime, end: datetime) -> Mapping[str, pd.DataFrame]:
        return {"targets": features.day_ahead_hours(start, end, list(schema.ZONES)), **prices(start, end)}

    end = datetime(2026, 3, 10, tzinfo=UTC)  # the clock goes forward on the 8th
    checked = timedelta(days=5)
    return (
        FeatureFunction(
            features.day_ahead_features, targets, input_times={"targets": "issued_at", "demand": "known_at"},
            key=("zone",), event_time="issued_at", features=schema.DAY_AHEAD, warm_up=features.DEMAND_WARM_UP,
            sample=(end - checked - features.DEMAND_WARM_UP, end),
        ),
        FeatureFunction(
            features.weather_features, weather, input_times={"weather": "issued_at"}, key=("zone",),
            event_time="issued_at", features=schema.WEATHER, warm_up=features.WEATHER_WARM_UP,
            sample=(end - checked - features.WEATHER_WARM_UP, end),
        ),
        FeatureFunction(
            features.known_demand, demand, input_times={"demand": "known_at"}, key=("zone", "hour"),
            event_time="known_at", features=schema.DEMAND, warm_up=timedelta(0), sample=(end - checked, end),
        ),
        FeatureFunction(
            features.price_features, priced, input_times={"targets": "issued_at", "prices": "known_at"},
            key=("zone",), event_time="issued_at", features=schema.PRICE_DAY_AHEAD, warm_up=features.PRICE_WARM_UP,
            sample=(end - checked - features.PRICE_WARM_UP, end),
        ),
        FeatureFunction(
            features.known_prices, prices, input_times={"prices": "known_at"}, key=("zone", "hour"),
            event_time="known_at", features=schema.PRICE, warm_up=timedelta(0), sample=(end - checked, end),
        ),
    )  # fmt: skip
