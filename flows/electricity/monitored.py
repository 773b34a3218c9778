"""What is watched of the electricity system's two models once they serve."""

from __future__ import annotations

from datetime import timedelta

from flows.electricity import modelling, schema
from flows.monitored import Measure, Monitored, Retraining, Said, Truth

SPAN = timedelta(days=28)
EXPIRES_AFTER = timedelta(days=10)
"""Demand and prices still unknown this long after their hour are not waited for."""

DEMAND = Monitored(
    model=schema.MODEL,
    said=Said(
        schema.PREDICTIONS_GROUP, time="issued_at", forecast="forecast_mw", baseline="baseline_mw",
        baseline_name="same hour last week", horizon="horizon_hours",
    ),
    truth=Truth(
        schema.DEMAND_GROUP, key=("zone", "hour"), column="demand_mw", target_time="hour", expires_after=EXPIRES_AFTER
    ),
    measure=Measure(
        "mae", unit="MW", span=SPAN, demanded=modelling.LEAST_SKILL["same hour last week"], slices=("zone",)
    ),
    retraining=Retraining(modelling.SPLITS),
    calendar=frozenset(schema.CALENDAR_FEATURES),
)  # fmt: skip

PRICE = Monitored(
    model=schema.PRICE_MODEL,
    said=Said(
        schema.PRICE_PREDICTIONS_GROUP, time="issued_at", forecast="forecast_usd_per_mwh",
        baseline="baseline_usd_per_mwh", baseline_name="newest price of the hour", horizon="horizon_hours",
    ),
    truth=Truth(
        schema.PRICE_GROUP, key=("zone", "hour"), column="price_usd_per_mwh", target_time="hour",
        expires_after=EXPIRES_AFTER,
    ),
    measure=Measure("mae", unit="USD/MWh", span=SPAN, slices=("zone",)),
    retraining=Retraining(modelling.SPLITS),
    calendar=frozenset(schema.CALENDAR_FEATURES),
)  # fmt: skip

MONITORED = (DEMAND, PRICE)
