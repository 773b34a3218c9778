"""The electricity system's inference pipeline: forecasts of the next day's hours, and what the earlier ones were worth.

All about the model comes from the registered version: weights, view, and the training dataset whose transformations it
knows. A forecast once made is never changed: corrected features give better forecasts of tomorrow, not of yesterday.
There is no `Predictor` for single requests: nothing in a request could change a forecast, so readers look it up in the
group of predictions.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from prefect import flow, get_run_logger, task

import featurestore
from featurestore.errors import InvalidData, InvalidTime, NotFound
from featurestore.times import Window
from flows import command_line, events, registry, retries, rules, windows
from flows.electricity import schema
from flows.settings import Settings
from flows.writing import write

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import Commit, FeatureGroup, FeatureStore


FIRST_WINDOW = timedelta(days=1)
"""What the first run forecasts: the newest issue."""

HINDCAST = timedelta(days=28)
"""Over which issues the summary says what forecasts were worth."""

EXPIRES_AFTER = timedelta(days=10)
"""Demand still unknown this long after its hour is not waited for."""

TRAINED_BY = (
    "prefect deployment run electricity-training/electricity-training, or python -m flows.electricity.training_pipeline"
)


@flow(name="electricity-inference")
def electricity_inference(start: datetime | None = None, end: datetime | None = None) -> int:
    """Forecast the hours of the issues in [start, end) with the champion and write them; return the rows written.

    Without start it goes on where the last forecasts ended, without end it goes to the newest features. What the same
    version has forecast before stays as it is.
    """
    settings = Settings()
    fs = featurestore.connect(home=settings.store_home)
    registry.bootstrap(settings)
    champion = registry.require_champion(schema.MODEL, trained_by=TRAINED_BY)
    predictions_fg = predictions_group(fs)
    made_at = windows.scheduled_time()
    window = window_to_forecast(fs, predictions_fg, start, end)
    commit, rows = None, None
    if window is None:
        get_run_logger().info("Skipped: there are no features newer than the forecasts.")
    else:
        rows = forecast(champion, read_batch(fs, champion, window), made_at)
        commit = write(predictions_fg, not_yet_made(predictions_fg, rows, window), window)
    worth = hindcast(fs, predictions_fg, made_at if window is None else window.end, made_at)
    events.summary_artifact("electricity-inference-summary", [summary(champion, window, commit, rows, worth)])
    return 0 if commit is None else commit.rows_written


def predictions_group(fs: FeatureStore) -> FeatureGroup:
    """The group of forecasts; made where it is not there yet."""
    return fs.get_or_create_feature_group(
        name=schema.PREDICTIONS_GROUP, version=schema.VERSION,
        description="Demand of each zone and hour as each model version forecast it at each issue.",
        primary_key=["zone", "hour", "model_version"], event_time="issued_at", online_enabled=True,
        features=list(schema.PREDICTIONS), expectation_suite=schema.PREDICTIONS_RULES, tags={"system": "electricity"},
    )  # fmt: skip


def window_to_forecast(
    fs: FeatureStore, predictions_fg: FeatureGroup, start: datetime | None, end: datetime | None
) -> Window | None:
    """What is asked for, else from the end of the last forecasts to the end of the features.

    Raises:
        NotFound: there are no features yet.
        InvalidTime: the start lies after the end, or the end beyond the features: issues to come would be left out.
    """
    known_until = fs.get_feature_group(schema.DAY_AHEAD_GROUP, schema.VERSION).watermark
    if known_until is None:
        raise NotFound(
            f"Feature group {schema.DAY_AHEAD_GROUP} is empty: there is nothing to forecast. Run the feature pipeline "
            "first: prefect deployment run electricity-features/electricity-features."
        )
    window = windows.next_window(
        predictions_fg.watermark, start, known_until if end is None else end, earliest=known_until - FIRST_WINDOW
    )
    if window is not None and window.end > known_until:
        raise InvalidTime(
            f"The window {window} ends after the features, which are committed until {known_until}. Give an end up to "
            "there, or run the feature pipeline first."
        )
    return window


@task(task_run_name="read batch of {window}", **retries.READING)
def read_batch(fs: FeatureStore, model: registry.ModelVersion, window: Window) -> pd.DataFrame:
    """The model's features of the window's issues, by its own view and training dataset, with keys and baselines."""
    view = fs.get_feature_view(model.lineage.feature_view, model.lineage.feature_view_version)
    view.init_batch_scoring(model.lineage.training_dataset_version)
    return view.get_batch_data(
        window.start, window.end, primary_keys=True, event_time=True, inference_helper_columns=True
    )


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
    said = registry.load(model).score(batch).astype("float64")
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
    lineage = model.lineage
    rows = batch[["zone", "hour", "issued_at"]].assign(
        model_version=model.version,
        horizon_hours=batch["horizon_hours"],
        forecast_mw=np.where(without_model, stands_in, said),
        baseline_mw=naive,
        temperature_c=temperature,
        degraded=why != "",
        why=why.astype(object),
        feature_view=f"{lineage.feature_view}@{lineage.feature_view_version}",
        training_dataset_version=lineage.training_dataset_version,
        made_at=made_at,
    )
    rows = rows.assign(backfilled=rows["made_at"] > rows["hour"])
    return rows.loc[rows["forecast_mw"].notna(), rules.columns(schema.PREDICTIONS)]


@task(task_run_name="what is new", **retries.READING)
def not_yet_made(predictions_fg: FeatureGroup, rows: pd.DataFrame, window: Window) -> pd.DataFrame:
    """The rows whose zone, hour and issue this version has not forecast yet: what was said stays said."""
    key = ["zone", "hour", "model_version", "issued_at"]
    made = predictions_fg.read(start_time=window.start, end_time=window.end)[key].assign(is_made=True)
    marked = rows.merge(made, on=key, how="left")
    return marked.loc[marked["is_made"].isna(), list(rows.columns)]


# --- what forecasts were worth -----------------------------------------------------------------------


@task(task_run_name="hindcast", **retries.READING)
def hindcast(fs: FeatureStore, predictions_fg: FeatureGroup, until: datetime, now: datetime) -> dict[str, Any]:
    """What the forecasts of the last four weeks were worth, beside the baseline and the operator on the same hours."""
    import pandas as pd

    from flows.electricity import hindcasting

    start = until - HINDCAST
    predictions = predictions_fg.read(start_time=start, end_time=until)
    # Labels are stored at their issue, so the same span holds them; the operator's are issued two hours later.
    demand = fs.get_feature_group(schema.DEMAND_GROUP, schema.VERSION).read(start_time=start, end_time=until)
    operator = fs.get_feature_group(schema.OPERATOR_GROUP, schema.VERSION).read(
        start_time=start, end_time=until + timedelta(days=1)
    )
    joined = hindcasting.with_truth(predictions, demand, at=pd.Timestamp(now), expires_after=EXPIRES_AFTER)
    return hindcasting.worth(joined, operator)


def summary(
    model: registry.ModelVersion,
    window: Window | None,
    commit: Commit | None,
    rows: pd.DataFrame | None,
    worth: dict[str, Any],
) -> dict[str, Any]:
    """What the run did, as the one row of its summary."""
    lineage = model.lineage
    return {
        "window": "nothing new" if window is None else str(window),
        "rows_written": 0 if commit is None else commit.rows_written,
        "rows_degraded": 0 if rows is None else int(rows["degraded"].sum()),
        "rows_backfilled": 0 if rows is None else int(rows["backfilled"].sum()),
        "model_version": model.version,
        "feature_view": f"{lineage.feature_view}@{lineage.feature_view_version}",
        "training_dataset_version": lineage.training_dataset_version,
        **worth,
    }


if __name__ == "__main__":
    command_line.run(electricity_inference)
