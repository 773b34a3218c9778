"""What is watched of the air quality system's model once it serves."""

from __future__ import annotations

from datetime import timedelta

from flows.air_quality import modelling, schema
from flows.monitored import Measure, Monitored, Retraining, Said, Truth

PM25 = Monitored(
    model=schema.MODEL,
    said=Said(
        schema.PREDICTIONS_GROUP, time="issued_at", forecast="forecast_ug_m3", baseline="persistence_ug_m3",
        baseline_name=schema.PERSISTENCE, horizon="horizon_days",
    ),
    truth=Truth(
        schema.PM25_GROUP, key=("station", "day"), column="pm25_ug_m3", target_time="day",
        # A day whose mean is still unknown so long after it began has too few hours.
        expires_after=timedelta(days=14),
        # Daily means are stored at the first issue that forecasts them: six days before the last one.
        earlier=timedelta(days=schema.HORIZONS[-1]),
    ),
    measure=Measure(
        "mae", unit=schema.UNIT, span=timedelta(days=60), block=timedelta(days=7), slices=("city",)
    ),
    retraining=Retraining(modelling.SPLITS),
    calendar=frozenset(
        {"days_ahead", "latitude", "longitude", "day_of_year", "weekday", "is_weekend", "is_holiday",
         "is_heating_season"}
    ),
)  # fmt: skip

MONITORED = (PM25,)
