"""What is watched of the stock system's two models; normally neither serves, and the same price is published."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from flows.monitored import Measure, Monitored, Retraining, Said, Truth
from flows.stock import modelling, schema

if TYPE_CHECKING:
    import pandas as pd

SPAN, WEEK = timedelta(days=92), timedelta(days=7)
EXPIRES_AFTER = timedelta(days=10)
"""A close still unknown this long after its time is not waited for."""

CALENDAR = frozenset({"weekday", "month", "days_since_previous", "days_to_next", "is_early_close"})


def with_coin(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with a coin: the probability that who knows nothing gives."""
    return rows.assign(coin=0.5)


RETURN = Monitored(
    model=schema.RETURN_MODEL,
    said=Said(
        schema.PREDICTIONS_GROUP, time="closed_at", forecast="forecast_close", baseline="baseline_close",
        baseline_name="the same price",
    ),
    truth=Truth(
        schema.OUTCOMES_GROUP, key=("symbol", "day"), column="next_close", target_time="target_at",
        expires_after=EXPIRES_AFTER,
    ),
    measure=Measure("mae", unit="USD", span=SPAN, block=WEEK, slices=("symbol",)),
    retraining=Retraining(modelling.SPLITS, after=timedelta(days=56), cool_down=timedelta(days=28)),
    calendar=CALENDAR,
)  # fmt: skip

DIRECTION = Monitored(
    model=schema.DIRECTION_MODEL,
    said=Said(
        schema.PREDICTIONS_GROUP, time="closed_at", forecast="probability_up", baseline="coin", baseline_name="a coin",
        version="direction_version",
    ),
    truth=Truth(
        schema.OUTCOMES_GROUP, key=("symbol", "day"), column="next_up", target_time="target_at",
        expires_after=EXPIRES_AFTER, derive=with_coin,
    ),
    measure=Measure("brier", unit="", span=SPAN, block=WEEK, slices=("symbol",)),
    retraining=Retraining(modelling.SPLITS, after=timedelta(days=56), cool_down=timedelta(days=28)),
    calendar=CALENDAR,
)  # fmt: skip

MONITORED = (RETURN, DIRECTION)
