"""The stock system's inference pipeline: the next close, and what the earlier forecasts were worth.

Normally no model has passed the gate. Then the same price is published and flagged: it is what a forecaster without an
edge can honestly say, and it is measured like any other forecast. What is once published is never changed. There is no
`Predictor` for single requests: nothing in a request could change a forecast, so readers look it up in the group of
predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from prefect import flow, task

from featurestore.errors import InvalidData
from featurestore.times import Window
from flows import command_line, events, late, registry, retries, rules, serving, shadow, windows
from flows.settings import connect
from flows.stock import schema
from flows.training import group_of

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import FeatureGroup, FeatureStore


FIRST_WINDOW = timedelta(days=4)
"""What the first run forecasts: the newest close, also after a long weekend."""

NOT_TRAINED = "no model has been trained yet; this is the same price"
NONE_BETTER = "no model beats the same price; this is the same price"
NO_VOLATILITY = "the volatility of the last 20 days is not known; this is the same price"
NO_DAY_BEFORE = "the bar of the day before is missing"
NO_NEWS = "no news of the last week"


@flow(name="stock-inference")
@late.newest_only
def stock_inference(start: datetime | None = None, end: datetime | None = None) -> int:
    """Forecast the closes that follow those of [start, end) and write the forecasts; return the rows written.

    Without start it goes on where the last forecasts ended, without end it goes to the newest features. Without a
    champion the forecast is the same price, flagged. What the same versions have forecast before stays as it is.
    """
    from flows.stock import recent  # pandas is not needed to deploy this flow

    fs = connect()
    champions = Champions.now()
    predictions_fg = predictions_group(fs)
    made_at = windows.scheduled_time()
    window = serving.window_to_predict(
        spine_group(fs), predictions_fg, start, end, first_window=FIRST_WINDOW, system=schema.SYSTEM
    )  # fmt: skip
    events.name_run(str(window or "nothing new"))
    predicted_by = partial(forecast_by, fs, made_at, champions)
    made = serving.publish(predictions_fg, window, partial(predicted_by, None, None))
    joined = hindcast(fs, made_at if window is None else window.end, made_at)
    events.summary_artifact("stock-recent-predictions", recent.table(joined))
    shadowed = shadow.score(fs, predictions_fg, window, predicted_by, schema.RETURN_MODEL, schema.DIRECTION_MODEL)
    events.summary_artifact("stock-inference-summary", [summary(champions, made, recent.worth(joined) | shadowed)])
    return made.rows_written


class Champions(NamedTuple):
    """The versions that serve now, and why there is no forecast of the return but the same price (else empty)."""

    of_return: registry.ModelVersion | None
    of_direction: registry.ModelVersion | None
    why_none: str

    @classmethod
    def now(cls) -> Champions:
        """Those of this moment; the run uses them throughout."""
        found = registry.champion(schema.RETURN_MODEL)
        why = ""
        if found is None:
            why = NONE_BETTER if registry.versions(schema.RETURN_MODEL) else NOT_TRAINED
        return cls(found, registry.champion(schema.DIRECTION_MODEL), why)

    def instead(self, of_return: registry.ModelVersion | None, of_direction: registry.ModelVersion | None) -> Champions:
        """These with another version in the place of each; None leaves the one that serves."""
        return Champions(
            of_return or self.of_return, of_direction or self.of_direction, "" if of_return else self.why_none
        )


def predictions_group(fs: FeatureStore) -> FeatureGroup:
    """The group of forecasts; made where it is not there yet."""
    return fs.get_or_create_feature_group(
        name=schema.PREDICTIONS_GROUP, version=schema.VERSION,
        description="The next close of each stock as it was forecast at each close; the same price without a champion.",
        primary_key=["symbol", "day", "model_version", "direction_version"], event_time="closed_at",
        online_enabled=True,
        features=list(schema.PREDICTIONS), expectation_suite=schema.PREDICTIONS_RULES,
        tags={"system": schema.SYSTEM},
    )  # fmt: skip


def spine_group(fs: FeatureStore) -> FeatureGroup:
    """The group whose closes are forecast from."""
    return group_of(fs, schema.FEATURES_GROUP, schema.VERSION, system=schema.SYSTEM)


def forecast_by(
    fs: FeatureStore, made_at: datetime, champions: Champions, of_return: registry.ModelVersion | None,
    of_direction: registry.ModelVersion | None, window: Window,
) -> pd.DataFrame:  # fmt: skip
    """What these versions predict of a window, each by its own view and training dataset; None: the champion does."""
    models = champions.instead(of_return, of_direction)
    rows: pd.DataFrame = forecast(models, *read_batches(fs, models, window), made_at)
    return rows


@task(task_run_name="read batches of {window}", **retries.READING)
def read_batches(
    fs: FeatureStore, champions: Champions, window: Window
) -> tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame | None]:
    """The closes of the window; and, for each champion, its features of them by its own view and training dataset."""
    names = ["symbol", "day", "closed_at", "close"]
    closes = spine_group(fs).select(names).read(start_time=window.start, end_time=window.end)
    batches = [
        None if model is None else serving.read_batch.fn(fs, model, window)
        for model in (champions.of_return, champions.of_direction)
    ]
    return closes.sort_values(["closed_at", "symbol"], ignore_index=True), batches[0], batches[1]


@task(task_run_name="forecast", **retries.COMPUTING)
def forecast(
    champions: Champions,
    closes: pd.DataFrame,
    of_return: pd.DataFrame | None,
    of_direction: pd.DataFrame | None,
    made_at: datetime,
) -> pd.DataFrame:
    """The rows of the group of predictions: one for each close.

    Without a champion, or where it has nothing to measure by, the forecast is the same price, and the row says why.

    Raises:
        InvalidData: a forecast is infinite, or of more than half the price; nothing is published then.
    """
    import numpy as np

    from flows.stock import features, sessions

    said = scores_of(champions.of_return, closes, of_return)
    probability = scores_of(champions.of_direction, closes, of_direction)
    returns = said["score"].to_numpy("float64")
    if (np.abs(returns[~np.isnan(returns)]) > 0.5).any():
        raise InvalidData(f"{champions.of_return} says {np.nanmax(np.abs(returns)):.0%} in a day. Roll it back.")
    model, direction = champions.of_return, champions.of_direction
    why = np.select(
        [np.isnan(returns), said["lacks_day_before"].to_numpy(bool), said["lacks_news"].to_numpy(bool)],
        [champions.why_none or NO_VOLATILITY, NO_DAY_BEFORE, NO_NEWS],
        default="",
    )
    close = closes["close"].astype("float64")
    expected = np.where(np.isnan(returns), 0.0, returns)
    number = sessions.numbers_of(closes["closed_at"])
    return closes.assign(
        model_version=0 if model is None else model.version,
        direction_version=0 if direction is None else direction.version,
        target_at=features.next_close_of(closes["closed_at"]),
        close=close,
        forecast_return=expected,
        forecast_close=close * (1 + expected),
        baseline_close=close,
        probability_up=probability["score"].to_numpy("float64"),
        degraded=why != "",
        why=why.astype(object),
        reasons=said["reasons"].to_numpy(object),
        feature_view="" if model is None else f"{model.lineage.feature_view}@{model.lineage.feature_view_version}",
        training_dataset_version=0 if model is None else model.lineage.training_dataset_version,
        made_at=made_at,
        backfilled=(sessions.opens_of(number + 1) < made_at).to_numpy(),
    )[rules.columns(schema.PREDICTIONS)]


def scores_of(model: registry.ModelVersion | None, closes: pd.DataFrame, batch: pd.DataFrame | None) -> pd.DataFrame:
    """What a model says of each close, why, and what it lacked: score, reasons, lacks_day_before, lacks_news.

    In the order of the closes. Without a model there is no score, no reason, and nothing is lacking.
    """
    from flows import explaining

    nothing = {"score": float("nan"), "reasons": "[]", "lacks_day_before": False, "lacks_news": False}
    if model is None or batch is None:
        return closes[["symbol", "day"]].assign(**nothing)
    loaded = registry.load(model)
    uses_news = any(name in schema.NEWS_FEATURES for name in loaded.feature_names)
    scored = batch[["symbol", "day"]].assign(
        score=loaded.score(batch).astype("float64"),
        reasons=explaining.reasons_of(loaded, batch),
        lacks_day_before=batch["return_1d"].isna(),
        lacks_news=batch["news_polarity_7d"].isna() & uses_news,
    )
    return closes[["symbol", "day"]].merge(
        scored, on=["symbol", "day"], how="left", validate="one_to_one"
    ).fillna({name: value for name, value in nothing.items() if name != "score"})  # fmt: skip


# --- what forecasts were worth -----------------------------------------------------------------------


@task(task_run_name="hindcast", **retries.READING)
def hindcast(fs: FeatureStore, until: datetime, now: datetime) -> pd.DataFrame:
    """The forecasts of the last three months, one for each close, beside what came."""
    from flows import monitored
    from flows.stock.monitored import RETURN

    return monitored.read(fs, RETURN, until - RETURN.measure.span, until, now)


def summary(champions: Champions, made: serving.Published, rest: dict[str, Any]) -> dict[str, Any]:
    """What the run did, as the one row of its summary."""
    of_return, of_direction = champions.of_return, champions.of_direction
    models = {
        "model_version": None if of_return is None else of_return.version,
        "direction_version": None if of_direction is None else of_direction.version,
        "forecast": champions.why_none or "by the champion",
    }
    return made.summary() | models | rest


NOBODY = Champions(None, None, "")
PREDICTED_BY: Mapping[str, serving.PredictedBy] = {
    schema.RETURN_MODEL: lambda fs, at, model, window: forecast_by(fs, at, NOBODY, model, None, window),
    schema.DIRECTION_MODEL: lambda fs, at, model, window: forecast_by(fs, at, NOBODY, None, model, window),
}


if __name__ == "__main__":
    command_line.run(stock_inference)
