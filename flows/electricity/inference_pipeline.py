"""The electricity system's inference pipeline: forecasts of the next day's hours, and what the earlier ones were worth.

All about the model comes from the registered version: weights, view, and the training dataset whose transformations it
knows. A forecast once made is never changed: corrected features give better forecasts of tomorrow, not of yesterday.
There is no `Predictor` for single requests: nothing in a request could change a forecast, so readers look it up in the
group of predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from prefect import flow, task

from featurestore.errors import InvalidData
from featurestore.times import Window
from flows import boosting, command_line, events, explaining, late, registry, retries, rules, serving, shadow, windows
from flows.electricity import price_inference, schema
from flows.settings import connect

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import FeatureGroup, FeatureStore


FIRST_WINDOW = timedelta(days=1)
"""What the first run forecasts: the newest issue."""

SYSTEM = "electricity"


@flow(name="electricity-inference")
@late.newest_only
def electricity_inference(
    start: datetime | None = None, end: datetime | None = None, only_with_champion: bool = False
) -> int:
    """Forecast the hours of the issues in [start, end) with the champion and write them; return rows of demand written.

    Without start it goes on where the last forecasts ended, without end it goes to the newest features. What the same
    version has forecast before stays as it is. Prices are forecast beside, once there is a champion for them.

    Without a champion it fails; with only_with_champion it returns 0 at once.
    """
    fs = connect()
    if only_with_champion and not serving.has_champion(schema.MODEL):
        return 0
    champion = registry.require_champion(schema.MODEL, trained_by=serving.trained_by(SYSTEM))
    predictions_fg = predictions_group(fs)
    made_at = windows.scheduled_time()
    window = serving.window_to_predict(
        fs.get_feature_group(schema.DAY_AHEAD_GROUP, schema.VERSION), predictions_fg, start, end,
        first_window=FIRST_WINDOW, system=SYSTEM,
    )  # fmt: skip
    events.name_run(str(window or "nothing new"))
    predicted_by = partial(forecast_by, fs, made_at)
    made = serving.publish(predictions_fg, window, partial(predicted_by, champion))
    prices = price_inference.forecast_prices(fs, start, end, made_at)
    worth = hindcast(fs, made_at if window is None else window.end, made_at)
    shadowed = shadow.score(fs, predictions_fg, window, predicted_by, schema.MODEL)
    events.summary_artifact(
        "electricity-inference-summary", [made.summary() | serving.came_from(champion) | worth | shadowed]
    )
    if prices is not None:
        events.summary_artifact("electricity-price-inference-summary", [prices])
    return made.rows_written


def predictions_group(fs: FeatureStore) -> FeatureGroup:
    """The group of forecasts; made where it is not there yet, and widened where it has been made before."""
    serving.widen(fs, schema.PREDICTIONS_GROUP, schema.VERSION, schema.PREDICTIONS)
    return fs.get_or_create_feature_group(
        name=schema.PREDICTIONS_GROUP, version=schema.VERSION,
        description="Demand of each zone and hour as each model version forecast it at each issue.",
        primary_key=["zone", "hour", "model_version"], event_time="issued_at", online_enabled=True,
        features=list(schema.PREDICTIONS), expectation_suite=schema.PREDICTIONS_RULES, tags={"system": "electricity"},
    )  # fmt: skip


def forecast_by(fs: FeatureStore, made_at: datetime, model: registry.ModelVersion, window: Window) -> pd.DataFrame:
    """What a version predicts of a window, by its own view and training dataset: rows of the group of predictions."""
    rows: pd.DataFrame = forecast(model, serving.read_batch(fs, model, window), made_at)
    return rows


@task(task_run_name="forecast", **retries.COMPUTING)
def forecast(model: registry.ModelVersion, batch: pd.DataFrame, made_at: datetime) -> pd.DataFrame:
    """The rows of the group of predictions: one for each row of the batch that anything can be said about.

    Where the zone has no recent demand to measure by, the newest known demand of that hour stands in, and where there
    is none either, the same hour last week; such rows are flagged as degraded, and so are those without a weather
    forecast. Where nothing is known there is no forecast.

    Raises:
        InvalidData: a forecast is negative or infinite; nothing is published then.
    """
    import numpy as np

    naive, newest = (batch[column].to_numpy("float64", na_value=np.nan) for column in schema.BASELINES.values())
    loaded = registry.load(model)
    said = loaded.score(batch).astype("float64")
    if (said <= 0).any() or np.isinf(said).any():
        raise InvalidData(
            f"{model} says {np.nanmin(said):.1f} to {np.nanmax(said):.1f} MW: not a demand. Roll it back."
        )
    without_model = np.isnan(said)
    stands_in = np.where(np.isnan(newest), naive, newest)
    temperature = batch["temperature_c"].to_numpy("float64", na_value=np.nan)
    why = np.select(
        [without_model, np.isnan(temperature), np.isnan(naive)],
        [
            "no demand known of the last week: the newest known of this hour stands in",
            "no weather forecast",
            "no demand known of this hour a week ago",
        ],
        default="",
    )
    rows = batch[["zone", "hour", "issued_at"]].assign(
        **serving.came_from(model),
        horizon_hours=batch["horizon_hours"],
        forecast_mw=np.where(without_model, stands_in, said),
        baseline_mw=naive,
        temperature_c=temperature,
        degraded=why != "",
        why=why.astype(object),
        made_at=made_at,
        reasons=explaining.reasons_of(loaded, boosting.matrix(batch, loaded.feature_names)).array,
    )
    rows = rows.assign(backfilled=rows["made_at"] > rows["hour"])
    return rows.loc[rows["forecast_mw"].notna(), rules.columns(schema.PREDICTIONS)]


# --- what forecasts were worth -----------------------------------------------------------------------


@task(task_run_name="hindcast", **retries.READING)
def hindcast(fs: FeatureStore, until: datetime, now: datetime) -> dict[str, Any]:
    """What the forecasts of the last four weeks were worth, beside the baseline and the operator on the same hours."""
    from flows import monitored
    from flows.electricity.monitored import DEMAND

    start = until - DEMAND.measure.span
    # The operator's forecasts are issued two hours later than ours.
    operator = fs.get_feature_group(schema.OPERATOR_GROUP, schema.VERSION).read(
        start_time=start, end_time=until + timedelta(days=1)
    )
    return worth(monitored.read(fs, DEMAND, start, until, now), operator)


def worth(joined: pd.DataFrame, operator: pd.DataFrame) -> dict[str, Any]:
    """The errors of matured forecasts, beside the baseline's and the operator's on the same hours.

    Args:
        joined: of `hindcasting.with_truth`, with baseline_mw and backfilled.
        operator: zone, hour, forecast_mw.
    Returns:
        `errors_of` says what was measured: forecasts made in time; or, only where there is none of them, rows computed
        after their hour had begun, which make no hindcast but a backtest. Then counts by state; MAE and MAPE of
        forecast, baseline and operator, null where there is nothing to measure on.
    """
    from flows import hindcasting, regression

    judged = hindcasting.judged(joined)
    rows = judged.matured("baseline_mw").merge(
        operator[["zone", "hour", "forecast_mw"]].rename(columns={"forecast_mw": "operator_mw"}),
        on=["zone", "hour"], how="left",
    )  # fmt: skip
    both = rows[rows["operator_mw"].notna()]
    ours = {"mae_mw": "forecast_mw", "baseline_mae_mw": "baseline_mw"}
    beside = {"operator_mae_mw": "operator_mw", "mae_mw_beside_operator": "forecast_mw"}
    return {
        "errors_of": judged.kind,
        **judged.states(),
        "rows_measured": len(rows),
        **hindcasting.mean_absolute_errors(rows, "demand_mw", ours),
        "mape": None if rows.empty else regression.mape(rows["demand_mw"], rows["forecast_mw"]),
        **hindcasting.mean_absolute_errors(both, "demand_mw", beside),
    }


PREDICTED_BY: Mapping[str, serving.PredictedBy] = {
    schema.MODEL: forecast_by,
    schema.PRICE_MODEL: price_inference.forecast_by,
}


if __name__ == "__main__":
    command_line.run(electricity_inference)
