"""The second target of the electricity system's inference pipeline: forecasts of prices, and what they were worth."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger, task

from featurestore.errors import InvalidData
from featurestore.times import Window
from flows import boosting, explaining, registry, retries, rules, serving, shadow
from flows.electricity import schema

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import FeatureGroup, FeatureStore

FIRST_WINDOW = timedelta(days=1)
"""What the first run forecasts: the newest issue."""

SYSTEM = "electricity"


def forecast_prices(
    fs: FeatureStore, start: datetime | None, end: datetime | None, made_at: datetime
) -> dict[str, Any] | None:
    """Forecast the prices of the issues in [start, end) with the price champion and write them; a row for the summary.

    None where there is no champion yet: demand is forecast all the same. What a version has forecast before stays.
    """
    champion = registry.champion(schema.PRICE_MODEL)
    if champion is None:
        get_run_logger().info("No price forecasts: there is no champion of %s yet.", schema.PRICE_MODEL)
        return None
    predictions_fg = predictions_group(fs)
    spine = fs.get_feature_group(schema.PRICE_DAY_AHEAD_GROUP, schema.VERSION)
    window = serving.window_to_predict(spine, predictions_fg, start, end, first_window=FIRST_WINDOW, system=SYSTEM)
    predicted_by = partial(forecast_by, fs, made_at)
    made = serving.publish(predictions_fg, window, partial(predicted_by, champion))
    worth = hindcast(fs, predictions_fg.watermark or made_at, made_at)
    shadowed = shadow.score(fs, predictions_fg, window, predicted_by, schema.PRICE_MODEL)
    return {"model_version": champion.version, "rows_written": made.rows_written, **worth, **shadowed}


def predictions_group(fs: FeatureStore) -> FeatureGroup:
    """The group of price forecasts; made where it is not there yet."""
    return fs.get_or_create_feature_group(
        name=schema.PRICE_PREDICTIONS_GROUP, version=schema.VERSION,
        description="Price of each zone and hour as each model version forecast it at each issue.",
        primary_key=["zone", "hour", "model_version"], event_time="issued_at", online_enabled=True,
        features=list(schema.PRICE_PREDICTIONS), expectation_suite=schema.PRICE_PREDICTIONS_RULES,
        tags={"system": SYSTEM},
    )  # fmt: skip


def forecast_by(fs: FeatureStore, made_at: datetime, model: registry.ModelVersion, window: Window) -> pd.DataFrame:
    """What a version predicts of a window, by its own view and training dataset: rows of the group of predictions."""
    rows: pd.DataFrame = forecast(model, serving.read_batch(fs, model, window), made_at)
    return rows


@task(task_run_name="forecast prices", **retries.COMPUTING)
def forecast(model: registry.ModelVersion, batch: pd.DataFrame, made_at: datetime) -> pd.DataFrame:
    """The rows of the group of price forecasts: one for each row of the batch that anything can be said about.

    Where the zone has no prices of the last weeks to measure by, the newest known price of that hour stands in; such
    rows are flagged as degraded, and so are those without a weather forecast. Where nothing is known there is no
    forecast.

    Raises:
        InvalidData: a forecast is infinite; nothing is published then.
    """
    import numpy as np

    newest = batch["price_same_hour"].to_numpy("float64", na_value=np.nan)
    loaded = registry.load(model)
    said = loaded.score(batch).astype("float64")
    if np.isinf(said).any():
        raise InvalidData(f"{model} says a price without end. Roll it back.")
    without_model = np.isnan(said)
    temperature = batch["temperature_c"].to_numpy("float64", na_value=np.nan)
    why = np.select(
        [without_model, np.isnan(temperature), np.isnan(newest)],
        [
            "no prices known of the last weeks: the newest known of this hour stands in",
            "no weather forecast",
            "no price known of this hour of the last two days",
        ],
        default="",
    )
    rows = batch[["zone", "hour", "issued_at"]].assign(
        **serving.came_from(model),
        horizon_hours=batch["horizon_hours"],
        forecast_usd_per_mwh=np.where(without_model, newest, said),
        baseline_usd_per_mwh=newest,
        degraded=why != "",
        why=why.astype(object),
        reasons=explaining.reasons_of(loaded, boosting.matrix(batch, loaded.feature_names)).array,
        made_at=made_at,
    )
    rows = rows.assign(backfilled=rows["made_at"] > rows["hour"])
    return rows.loc[rows["forecast_usd_per_mwh"].notna(), rules.columns(schema.PRICE_PREDICTIONS)]


@task(task_run_name="hindcast of prices", **retries.READING)
def hindcast(fs: FeatureStore, until: datetime, now: datetime) -> dict[str, Any]:
    """What the price forecasts of the last four weeks were worth, beside the baseline on the same hours."""
    from flows import hindcasting, monitored
    from flows.electricity.monitored import PRICE

    judged = hindcasting.judged(monitored.read(fs, PRICE, until - PRICE.measure.span, until, now))
    rows = judged.matured("baseline_usd_per_mwh")
    errors = {"mae_usd_per_mwh": "forecast_usd_per_mwh", "baseline_mae_usd_per_mwh": "baseline_usd_per_mwh"}
    return {
        "errors_of": judged.kind,
        **judged.states(),
        "rows_measured": len(rows),
        **hindcasting.mean_absolute_errors(rows, "price_usd_per_mwh", errors),
    }
