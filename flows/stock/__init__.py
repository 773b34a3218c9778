"""Tesla's next close: said after each close, measured beside "the same price", and honest that there is no edge."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from flows import FeatureFunction

if TYPE_CHECKING:
    import pandas as pd


def feature_functions() -> tuple[FeatureFunction, ...]:
    """The system's feature functions, fed by the simulator with nine stocks, for the laws that hold for every system.

    >>> [declared.name for declared in feature_functions()]
    ['stock_features', 'known_outcomes']
    """
    from flows.stock import features, schema, simulator, source  # pandas is not needed to know that this system exists

    seen = datetime(2026, 12, 1, tzinfo=UTC)  # late rows are late for good: all functions see the same
    symbols = ("TSLA", *simulator.OTHERS)

    def bars(start: datetime, end: datetime) -> Mapping[str, pd.DataFrame]:
        return {"bars": source.read_bars(start, end, as_of=seen, source=source.SIMULATED, symbols=symbols)}

    def bars_and_news(start: datetime, end: datetime) -> Mapping[str, pd.DataFrame]:
        return {**bars(start, end), "news": source.read_news(start, end, source=source.SIMULATED, symbols=symbols)}

    end = datetime(2025, 9, 20, tzinfo=UTC)  # with a split on 25 August, and Labor Day
    checked = timedelta(days=40)
    return (
        FeatureFunction(
            features.stock_features, bars_and_news, input_times={"bars": "closed_at", "news": "known_at"},
            key=("symbol",), event_time="closed_at", features=schema.FEATURES, warm_up=features.WARM_UP,
            sample=(end - checked - features.WARM_UP, end),
        ),
        FeatureFunction(
            features.known_outcomes, bars, input_times={"bars": "closed_at"}, key=("symbol",), event_time="known_at",
            features=schema.OUTCOMES, warm_up=features.OUTCOME_WARM_UP,
            sample=(end - checked - features.OUTCOME_WARM_UP, end),
        ),
    )  # fmt: skip
