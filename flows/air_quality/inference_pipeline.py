"""The air quality system's inference pipeline: the next seven days at each station, and what earlier ones were worth.

All about the model comes from the registered version: weights, view and training dataset. A forecast once made is
never changed. There is no `Predictor` for single requests: nothing in a request could change a forecast, so readers
look it up in the group of predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from prefect import flow, task

from featurestore.errors import InvalidData
from featurestore.times import Window
from flows import command_line, events, late, registry, retries, rules, serving, shadow, windows
from flows.air_quality import schema
from flows.settings import connect

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import FeatureGroup, FeatureStore


FIRST_WINDOW = timedelta(days=1)
"""What the first run forecasts: the newest issue."""

SYSTEM = "air_quality"


@flow(name="air-quality-inference")
@late.newest_only
def air_quality_inference(
    start: datetime | None = None, end: datetime | None = None, only_with_champion: bool = False
) -> int:
    """Forecast the days of the issues in [start, end) with the champion and write them; return the rows written.

    Without start it goes on where the last forecasts ended, without end it goes to the newest features. What the same
    version has forecast before stays as it is.

    Without a champion it fails; with only_with_champion it returns 0 at once.
    """
    fs = connect()
    if only_with_champion and not serving.has_champion(schema.MODEL):
        return 0
    champion = registry.require_champion(schema.MODEL, trained_by=serving.trained_by(SYSTEM))
    predictions_fg = predictions_group(fs)
    made_at = windows.scheduled_time()
    window = serving.window_to_predict(
        fs.get_feature_group(schema.OUTLOOK_GROUP, schema.VERSION), predictions_fg, start, end,
        first_window=FIRST_WINDOW, system=SYSTEM,
    )  # fmt: skip
    events.name_run(str(window or "nothing new"))
    predicted_by = partial(forecast_by, fs, made_at)
    made = serving.publish(predictions_fg, window, partial(predicted_by, champion))
    worth = hindcast(fs, made_at if window is None else window.end, made_at)
    shadowed = shadow.score(fs, predictions_fg, window, predicted_by, schema.MODEL)
    events.summary_artifact(
        "air-quality-inference-summary", [made.summary() | serving.came_from(champion) | worth | shadowed]
    )
    return made.rows_written


def predictions_group(fs: FeatureStore) -> FeatureGroup:
    """The group of forecasts; made where it is not there yet."""
    return fs.get_or_create_feature_group(
        name=schema.PREDICTIONS_GROUP, version=schema.VERSION,
        description="PM2.5 of each station and day as each model version forecast it at each issue.",
        primary_key=["station", "day", "horizon_days", "model_version"], event_time="issued_at", online_enabled=True,
        features=list(schema.PREDICTIONS), expectation_suite=schema.PREDICTIONS_RULES, tags={"system": SYSTEM},
    )  # fmt: skip


def forecast_by(fs: FeatureStore, made_at: datetime, model: registry.ModelVersion, window: Window) -> pd.DataFrame:
    """What a version predicts of a window, by its own view and training dataset: rows of the group of predictions."""
    rows: pd.DataFrame = forecast(model, serving.read_batch(fs, model, window), made_at)
    return rows


@task(task_run_name="forecast", **retries.COMPUTING)
def forecast(model: registry.ModelVersion, batch: pd.DataFrame, made_at: datetime) -> pd.DataFrame:
    """The rows of the group of predictions: one for each row of the batch that anything can be said about.

    Where a feature that matters is missing, the row is flagged as degraded and says why. Where the model says less than
    nothing, the 24 newest hours stand in, or the mean of 30 days.

    Raises:
        InvalidData: a forecast is infinite; nothing is published then.
    """
    import numpy as np
    import pandas as pd

    from flows import explaining
    from flows.air_quality import features

    loaded = registry.load(model)
    said = loaded.score(batch).astype("float64")
    if np.isinf(said).any():
        raise InvalidData(
            f"{model} says infinity of {int(np.isinf(said).sum())} rows: not a concentration. Roll it back."
        )

    def given(name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        return batch[name].to_numpy("float64", na_value=np.nan)

    newest, month, climatology = (given(schema.BASELINES[name]) for name in list(schema.BASELINES)[:3])
    impossible = np.isnan(said) | (said < 0)
    uses_weather = "forecast_temperature_c" in loaded.feature_names
    # For the seventh day no source has a forecast: the model was judged without.
    no_weather = np.isnan(given("forecast_temperature_c")) & uses_weather & (batch["horizon_days"] < 7).to_numpy()
    why = np.select(
        [impossible, np.isnan(newest), no_weather, np.isnan(climatology)],
        [
            "the model says less than nothing: the newest hours stand in",
            "not enough measured in the last 24 hours",
            "no weather forecast",
            "no other years to compare with",
        ],
        default="",
    )
    expected = np.where(impossible, np.where(np.isnan(newest), month, newest), said)
    rows = batch[["station", "day", "horizon_days", "issued_at"]].assign(
        **serving.came_from(model),
        city=batch["station"].map({code: each.city for code, each in schema.STATIONS.items()}),
        forecast_ug_m3=expected,
        polish_index=features.index_of(pd.Series(expected, index=batch.index)),
        persistence_ug_m3=newest,
        climatology_ug_m3=climatology,
        forecast_temperature_c=given("forecast_temperature_c"),
        forecast_wind_speed_ms=given("forecast_wind_speed_ms"),
        degraded=why != "",
        why=why.astype(object),
        reasons=explaining.reasons_of(loaded, batch),
        made_at=made_at,
    )
    rows = rows.assign(backfilled=rows["made_at"] > rows["day"])
    return rows.loc[rows["forecast_ug_m3"].notna(), rules.columns(schema.PREDICTIONS)]


# --- what forecasts were worth -----------------------------------------------------------------------


@task(task_run_name="hindcast", **retries.READING)
def hindcast(fs: FeatureStore, until: datetime, now: datetime) -> dict[str, Any]:
    """What the forecasts of the last two months were worth, beside the baselines on the same days, by horizon."""
    from flows import monitored
    from flows.air_quality.monitored import PM25

    return worth(monitored.read(fs, PM25, until - PM25.measure.span, until, now))


def worth(joined: pd.DataFrame) -> dict[str, Any]:
    """The errors of matured forecasts, beside the baselines' on the same rows, in all and by horizon.

    Args:
        joined: of `hindcasting.with_truth`, with persistence_ug_m3, climatology_ug_m3 and backfilled.
    Returns:
        `errors_of` says what was measured: forecasts made in time; or, only where there is none of them, rows computed
        after their day had begun, which make no hindcast but a backtest. Then counts by state; MAE of forecast and
        baselines, in all and for each number of days ahead.
    """
    from flows import hindcasting

    judged = hindcasting.judged(joined)
    rows = judged.matured("persistence_ug_m3", "climatology_ug_m3")
    errors = {
        "mae_ug_m3": "forecast_ug_m3", "persistence_mae_ug_m3": "persistence_ug_m3",
        "climatology_mae_ug_m3": "climatology_ug_m3",
    }  # fmt: skip
    by_horizon = hindcasting.by_horizon(
        rows, "pm25_ug_m3", horizon="horizon_days", forecast="forecast_ug_m3", baseline="persistence_ug_m3"
    )
    return {
        "errors_of": judged.kind,
        **judged.states(),
        "rows_measured": len(rows),
        **hindcasting.mean_absolute_errors(rows, "pm25_ug_m3", errors),
        "mae_by_days_ahead": ", ".join(f"{each['horizon']}: {each['mae']:.2f}" for each in by_horizon),
        "persistence_mae_by_days_ahead": ", ".join(
            f"{each['horizon']}: {each['baseline_mae']:.2f}" for each in by_horizon
        ),
    }


PREDICTED_BY: Mapping[str, serving.PredictedBy] = {schema.MODEL: forecast_by}


if __name__ == "__main__":
    command_line.run(air_quality_inference)
