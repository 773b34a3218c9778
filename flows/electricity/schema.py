"""The contract of the electricity system's feature groups: zones, columns, units, and the rules a batch must pass."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import NamedTuple

from featurestore.schema import Feature
from flows.rules import Rule, Suite, between, columns, in_set, later, never_null

TIME_ZONE = "America/New_York"
"""Days, hours of the day and holidays are the operator's; all times are stored in UTC."""

ISSUE_HOUR = 5
"""A forecast is issued at 05:00 New York, before the operator's of 07:05, for all hours of the next local day."""

KNOWN_AFTER = timedelta(hours=1)
"""The demand of an hour is known when the hour is over."""

WEATHER_LEAD = timedelta(hours=42)
"""A weather forecast for an hour counts as known this long before it: made 48 hours before, published within 6."""

LOOKBACK = timedelta(days=3)
"""Sources complete and correct their last days: every run reads and writes them again."""


class Zone(NamedTuple):
    """A load zone: the operator's name and number for it, and a place in it whose weather stands for it."""

    name: str
    ptid: int
    latitude: float
    longitude: float


ZONES: Mapping[str, Zone] = {
    "A_WEST": Zone("WEST", 61752, 42.89, -78.88),
    "B_GENESE": Zone("GENESE", 61753, 43.16, -77.61),
    "C_CENTRL": Zone("CENTRL", 61754, 43.05, -76.15),
    "D_NORTH": Zone("NORTH", 61755, 44.70, -73.45),
    "E_MHK_VL": Zone("MHK VL", 61756, 43.10, -75.23),
    "F_CAPITL": Zone("CAPITL", 61757, 42.65, -73.76),
    "G_HUD_VL": Zone("HUD VL", 61758, 41.70, -73.92),
    "H_MILLWD": Zone("MILLWD", 61759, 41.19, -73.80),
    "I_DUNWOD": Zone("DUNWOD", 61760, 40.94, -73.87),
    "J_NYC": Zone("N.Y.C.", 61761, 40.71, -74.01),
    "K_LONGIL": Zone("LONGIL", 61762, 40.79, -73.13),
}
"""The eleven load zones of New York, from Niagara to Long Island."""

SYSTEM_ZONE = "NYIS"
"""The whole system as one series, where a table has only that."""

VERSION = 1
"""Of every group and of the view: a column that changes its meaning gets a new version beside the old one."""

DAY_AHEAD_GROUP = "electricity_day_ahead"
WEATHER_GROUP = "electricity_weather"
DEMAND_GROUP = "electricity_demand"
OPERATOR_GROUP = "electricity_operator_forecast"
PREDICTIONS_GROUP = "electricity_predictions"
PRICE_GROUP = "electricity_price"
PRICE_DAY_AHEAD_GROUP = "electricity_price_day_ahead"
PRICE_PREDICTIONS_GROUP = "electricity_price_predictions"

VIEW = "electricity_day_ahead"
MODEL = "electricity_day_ahead"
"""The registered model's name. All else about a model is in its lineage, never in a constant."""

PRICE_VIEW = "electricity_price"
PRICE_MODEL = "electricity_price"
"""The second target: what a megawatt hour costs in each zone and hour of the next day."""

PRICE_KNOWN_HOUR = 11
"""The day-ahead market's prices are published by 11:00 New York on the day before, six hours after our issue."""


LAG_DAYS = {"24h": 1, "48h": 2, "168h": 7, "336h": 14}
"""Lags by name: the same hour on the local clock so many days earlier; twice a year that is not 24 hours each."""

_KEYS = (
    Feature("zone", "string", "Load zone."),
    Feature("hour", "timestamp", "Beginning of the hour."),
)

DAY_AHEAD = (
    *_KEYS,
    Feature("issued_at", "timestamp", "When the forecast is made: 05:00 New York on the day before."),
    Feature("load_zone", "string", "The zone once more: a view encodes this one, and the key stays as it is."),
    Feature("horizon_hours", "int", "From issue to the beginning of the hour.", unit="h"),
    Feature("local_hour", "int", "Hour of the day, New York.", unit="h"),
    Feature("weekday", "int", "Monday is 0."),
    Feature("day_of_year", "int", "1 to 366, New York.", unit="d"),
    Feature("is_weekend", "boolean", "Saturday or Sunday."),
    Feature("is_federal_holiday", "boolean", "A holiday of the United States, or the day it is observed."),
    Feature("is_new_york_holiday", "boolean", "A holiday of New York State beside the federal ones."),
    Feature("is_after_holiday", "boolean", "The day after a federal holiday."),
    Feature("is_before_holiday", "boolean", "The day before a federal holiday."),
    Feature("was_holiday_168h", "boolean", "A federal holiday a week earlier: then that day is no example."),
    Feature("is_dst", "boolean", "Daylight saving time."),
    Feature("hours_in_day", "int", "23 and 25 on the days when the clock changes.", unit="h"),
    *(
        Feature(f"demand_lag_{name}_mw", "double", f"Demand {days} d earlier, same local hour; null if not known yet.",
                unit="MW")
        for name, days in LAG_DAYS.items()
    ),
    Feature("demand_same_hour_mw", "double", "Newest known demand of this local hour: 1 or 2 days old.", unit="MW"),
    Feature("demand_same_hour_4w_mw", "double", "Mean of this hour and weekday over four weeks.", unit="MW"),
    Feature("demand_mean_24h_mw", "double", "Mean of the 24 hours before the issue.", unit="MW"),
    Feature("demand_mean_168h_mw", "double", "Mean of the 168 hours before the issue.", unit="MW"),
    *(Feature(f"lag_{name}_ratio", "double", f"Lag {name} over the 168-hour mean.") for name in LAG_DAYS),
    Feature("same_hour_ratio", "double", "Newest known demand of this hour over the 168-hour mean."),
    Feature("same_hour_4w_ratio", "double", "Four weeks' mean of this hour over the 168-hour mean."),
    Feature("mean_24h_ratio", "double", "24-hour mean over the 168-hour mean: rising or falling."),
    Feature("recent_24h_to_week_before", "double", "24-hour mean over that of a week before."),
    Feature("recent_6h_to_day_before", "double", "Mean of the 6 hours before the issue over those a day before."),
    Feature("recent_6h_to_week_before", "double", "The same against a week before."),
)  # fmt: skip
"""One row per zone, hour of the next local day, and issue."""

WEATHER = (
    *_KEYS,
    Feature("issued_at", "timestamp", "From when on the forecast was known."),
    Feature("temperature_c", "double", "Forecast temperature; null where there is none.", unit="°C"),
    Feature("temperature_squared", "double", "Its square.", unit="°C²"),
    Feature("heating_degrees_c", "double", "How far below 18.3 °C (65 °F).", unit="°C"),
    Feature("cooling_degrees_c", "double", "How far above 18.3 °C.", unit="°C"),
    Feature("temperature_mean_24h_c", "double", "Mean forecast of the 24 hours up to this one.", unit="°C"),
    Feature("temperature_mean_168h_c", "double", "Mean forecast of the 168 hours up to this one.", unit="°C"),
    Feature("temperature_change_168h_c", "double", "Against the forecast for the hour a week earlier.", unit="°C"),
)
"""One row per zone, hour and forecast. A forecast never overwrites another, and observations are not in here."""

DEMAND = (
    *_KEYS,
    Feature("issued_at", "timestamp", "Issue of the day-ahead forecast that this hour judges."),
    Feature("demand_mw", "double", "Mean demand of the hour.", unit="MW"),
    Feature("known_at", "timestamp", "End of the hour: when that became known."),
)
"""One row per zone and hour whose demand is known."""

OPERATOR = (
    *_KEYS,
    Feature("issued_at", "timestamp", "07:05 New York on the day before."),
    Feature("forecast_mw", "double", "What the operator (NYISO) expected.", unit="MW"),
)
"""One row per zone and hour the operator forecast; to compare with, never to learn from: it comes after ours."""

PREDICTIONS = (
    *_KEYS,
    Feature("model_version", "int", "Version of the registered model that forecast it."),
    Feature("issued_at", "timestamp", "Its features are what was known then."),
    Feature("horizon_hours", "int", "From issue to the beginning of the hour.", unit="h"),
    Feature("forecast_mw", "double", "What we expect.", unit="MW"),
    Feature("baseline_mw", "double", "Same hour last week: what anybody can expect; null where a gap is.", unit="MW"),
    Feature("temperature_c", "double", "The weather forecast that was used; null where there was none.", unit="°C"),
    Feature("degraded", "boolean", "Something was missing: less than the model had when it was judged."),
    Feature("why", "string", "What was missing; empty if nothing."),
    Feature("feature_view", "string", "The view the model was trained on, as name@version."),
    Feature("training_dataset_version", "int", "The training set whose transformations were used."),
    Feature("made_at", "timestamp", "When this row was computed."),
    Feature("backfilled", "boolean", "Computed after the hour had begun: a reconstruction, no forecast."),
    Feature(
        "reasons",
        "string",
        "The features that weighed most, as JSON: feature, value, contribution in MW. Null in "
        "rows made before the group had this column, empty where another hour stands in for the model.",
    ),
)
"""One row per zone, hour and model version; what was once forecast is never changed."""

PRICE = (
    *_KEYS,
    Feature("issued_at", "timestamp", "Issue of the forecast that this price judges."),
    Feature("price_usd_per_mwh", "double", "What a megawatt hour cost (LBMP); below zero is real.", unit="USD/MWh"),
    Feature("market", "string", "Whose price it is: day-ahead or real-time; two quantities, never in one store."),
    Feature("known_at", "timestamp", "When that became known."),
)
"""One row per zone and hour whose price is known."""

PRICE_DAY_AHEAD = (
    *_KEYS,
    Feature("issued_at", "timestamp", "When the forecast is made: 05:00 New York on the day before."),
    *(
        Feature(f"price_lag_{name}", "double", f"Price {days} d earlier, same local hour; null if not known yet.",
                unit="USD/MWh")
        for name, days in LAG_DAYS.items()
    ),
    Feature("price_same_hour", "double", "Newest known price of this local hour: 1 or 2 days old.", unit="USD/MWh"),
    Feature("price_mean_24h", "double", "Mean of the 24 hours before the issue.", unit="USD/MWh"),
    Feature("price_mean_168h", "double", "Mean of the 168 hours before the issue.", unit="USD/MWh"),
    Feature("price_scale", "double", "Mean of the 672 hours before the issue, at least 5.", unit="USD/MWh"),
    *(Feature(f"price_lag_{name}_ratio", "double", f"Lag {name} over the scale.") for name in LAG_DAYS),
    Feature("price_same_hour_ratio", "double", "Newest known price of this hour over the scale."),
    Feature("price_mean_24h_ratio", "double", "24-hour mean over the scale."),
    Feature("price_mean_168h_ratio", "double", "168-hour mean over the scale."),
)  # fmt: skip
"""One row per zone, hour of the next local day, and issue; calendar, demand and weather are in the other groups."""

PRICE_PREDICTIONS = (
    *_KEYS,
    Feature("model_version", "int", "Version of the registered model that forecast it."),
    Feature("issued_at", "timestamp", "Its features are what was known then."),
    Feature("horizon_hours", "int", "From issue to the beginning of the hour.", unit="h"),
    Feature("forecast_usd_per_mwh", "double", "What we expect.", unit="USD/MWh"),
    Feature("baseline_usd_per_mwh", "double", "Newest known price of this hour; null where a gap is.", unit="USD/MWh"),
    Feature("degraded", "boolean", "Something was missing: less than the model had when it was judged."),
    Feature("why", "string", "What was missing; empty if nothing."),
    Feature("reasons", "string", "The features that weighed most, as JSON: feature, value, contribution in USD/MWh."),
    Feature("feature_view", "string", "The view the model was trained on, as name@version."),
    Feature("training_dataset_version", "int", "The training set whose transformations were used."),
    Feature("made_at", "timestamp", "When this row was computed."),
    Feature("backfilled", "boolean", "Computed after the hour had begun: a reconstruction, no forecast."),
)
"""One row per zone, hour and model version; what was once forecast is never changed."""

NEVER_FEATURES = {"hour", "issued_at", "known_at"}
"""Times would be learned by heart."""

CALENDAR_FEATURES = [
    "horizon_hours", "local_hour", "weekday", "day_of_year", "is_weekend", "is_federal_holiday", "is_new_york_holiday",
    "is_after_holiday", "is_before_holiday", "was_holiday_168h", "is_dst", "hours_in_day",
]  # fmt: skip
RATIO_FEATURES = [name for name in columns(DAY_AHEAD) if name.endswith(("_ratio", "_before"))]
SCALE = "demand_mean_168h_mw"
"""The model learns demand as a multiple of this, so that zones of 300 MW and of 6,000 MW teach each other."""

BASELINES = {"same hour last week": "demand_lag_168h_mw", "same hour yesterday": "demand_same_hour_mw"}
"""What anybody could forecast, by name: a column of the spine."""

PRICE_BASELINES = {"same hour last week": "price_lag_168h", "same hour yesterday": "price_same_hour"}
"""What anybody could say of a price, by name: columns that the model has, too."""

PRICE_SCALE = "price_scale"
"""The model learns the price as a multiple of this: gas doubles in a year, and the shape of a day stays."""

PRICE_FEATURES = [*(name for name in columns(PRICE_DAY_AHEAD) if name.endswith("_ratio")), PRICE_SCALE]

SPINE_FEATURES = ["load_zone", *CALENDAR_FEATURES, *RATIO_FEATURES, SCALE]
WEATHER_FEATURES = [name for name in columns(WEATHER) if "_c" in name or name == "temperature_squared"]


def _known_zones() -> Rule:
    return in_set("zone", [*ZONES, SYSTEM_ZONE])


HIGHEST_MW = 45_000
"""The whole system's record is 33,956 MW (2013-07-19): what is far above is in another unit, such as kW."""

DEMAND_RULES: Suite = {
    "name": "electricity_demand",
    "expectations": [
        *never_null("zone", "hour", "issued_at", "demand_mw", "known_at"),
        _known_zones(),
        # Zone D has been seen at 200 MW; zero is a meter that is silent.
        between("demand_mw", 1, HIGHEST_MW),
        later("known_at", than="hour"),
        later("hour", than="issued_at"),
    ],
}

DAY_AHEAD_RULES: Suite = {
    "name": "electricity_day_ahead",
    "expectations": [
        *never_null("zone", "hour", "issued_at", "horizon_hours", "local_hour", "hours_in_day", "is_federal_holiday"),
        _known_zones(),
        between("horizon_hours", 18, 43),
        between("local_hour", 0, 23),
        in_set("hours_in_day", [23, 24, 25]),
        *(between(f"demand_lag_{name}_mw", 1, HIGHEST_MW) for name in LAG_DAYS),
        *(between(name, 0, 20) for name in RATIO_FEATURES),
        # Worth a look, not worth stopping a day's forecasts: they are then made without, and say so.
        *never_null(SCALE, severity="warning"),
        *never_null("demand_lag_168h_mw", severity="warning"),
    ],
}

WEATHER_RULES: Suite = {
    "name": "electricity_weather",
    "expectations": [
        *never_null("zone", "hour", "issued_at"),
        _known_zones(),
        # Fahrenheit in this column would be above 50 on any summer day.
        between("temperature_c", -45, 48),
        later("hour", than="issued_at"),
    ],
}

OPERATOR_RULES: Suite = {
    "name": "electricity_operator_forecast",
    "expectations": [
        *never_null("zone", "hour", "issued_at", "forecast_mw"),
        _known_zones(),
        between("forecast_mw", 1, HIGHEST_MW),
        later("hour", than="issued_at"),
    ],
}

LOWEST_USD_PER_MWH, HIGHEST_USD_PER_MWH = -2_000, 10_000
"""Prices have been seen from -1,200 to 3,132 USD/MWh: what is far beyond is in another unit, such as cents."""

PRICE_RULES: Suite = {
    "name": "electricity_price",
    "expectations": [
        *never_null("zone", "hour", "issued_at", "price_usd_per_mwh", "market", "known_at"),
        _known_zones(),
        in_set("market", ["day-ahead", "real-time"]),
        between("price_usd_per_mwh", LOWEST_USD_PER_MWH, HIGHEST_USD_PER_MWH),
        later("hour", than="issued_at"),
        # Otherwise the price would be known to the forecast that it is to judge.
        later("known_at", than="issued_at"),
    ],
}

PRICE_DAY_AHEAD_RULES: Suite = {
    "name": "electricity_price_day_ahead",
    "expectations": [
        *never_null("zone", "hour", "issued_at"),
        _known_zones(),
        *(between(name, LOWEST_USD_PER_MWH, HIGHEST_USD_PER_MWH) for name in PRICE_FEATURES),
        *(between(f"price_lag_{name}", LOWEST_USD_PER_MWH, HIGHEST_USD_PER_MWH) for name in LAG_DAYS),
        *never_null("price_same_hour", severity="warning"),
    ],
}

PRICE_PREDICTIONS_RULES: Suite = {
    "name": "electricity_price_predictions",
    "expectations": [
        *never_null("zone", "hour", "model_version", "issued_at", "forecast_usd_per_mwh", "degraded", "made_at"),
        *never_null("backfilled", "reasons"),
        _known_zones(),
        between("forecast_usd_per_mwh", LOWEST_USD_PER_MWH, HIGHEST_USD_PER_MWH),
    ],
}

PREDICTIONS_RULES: Suite = {
    "name": "electricity_predictions",
    "expectations": [
        *never_null("zone", "hour", "model_version", "issued_at", "forecast_mw", "degraded", "made_at", "backfilled"),
        _known_zones(),
        between("forecast_mw", 1, HIGHEST_MW),
    ],
}
