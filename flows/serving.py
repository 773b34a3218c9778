"""What every inference pipeline does with store and registry: its window, its batch, and what is not said yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from prefect import get_run_logger, task

from featurestore.errors import InvalidTime, NotFound
from featurestore.times import Window
from flows import events, registry, retries, windows
from flows.training import features_first
from flows.writing import write

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import Feature, FeatureGroup, FeatureStore, FeatureView


class PredictedBy(Protocol):
    """What a version of a model predicts of a window, by its own view and training dataset.

    Every inference pipeline has one for each model, in its `PREDICTED_BY`: for the champion, for the challenger in its
    shadow, and for the versions of the past that `flows.staleness` measures.
    """

    def __call__(
        self, fs: FeatureStore, made_at: datetime, model: registry.ModelVersion, window: Window, /
    ) -> pd.DataFrame:
        """Rows of the group of predictions."""


def trained_by(system: str) -> str:
    """What trains a system's model, for `registry.require_champion`.

    >>> trained_by("fraud")
    'prefect deployment run fraud-training/fraud-training, or python -m flows.fraud.training_pipeline'
    """
    name = f"{system.replace('_', '-')}-training"
    return f"prefect deployment run {name}/{name}, or python -m flows.{system}.training_pipeline"


def window_to_predict(
    spine: FeatureGroup,
    predictions: FeatureGroup,
    start: datetime | None,
    end: datetime | None,
    *,
    first_window: timedelta,
    system: str,
) -> Window | None:
    """What is asked for, else from the end of the last predictions to the end of the features; None: nothing new.

    Args:
        spine: the group whose rows are predicted.
        first_window: how far before the end of the features the first run begins.
    Raises:
        NotFound: there are no features yet.
        InvalidTime: the start lies after the end, or the end beyond the features: rows to come would be left out.
    """
    known_until = spine.watermark
    if known_until is None:
        raise NotFound(f"Feature group {spine.name} is empty: there is nothing to predict. {features_first(system)}")
    window = windows.next_window(
        predictions.watermark, start, known_until if end is None else end, earliest=known_until - first_window
    )
    if window is not None and window.end > known_until:
        raise InvalidTime(
            f"The window {window} ends after the features, which are committed until {known_until}. Give an end up to "
            "there, or run the feature pipeline first."
        )
    return window


def has_champion(*model_names: str) -> bool:
    """Whether a version of one of the models serves; if not, the log says that there is nothing to do yet."""
    found = any(registry.champion(name) is not None for name in model_names)
    if not found:
        get_run_logger().info("Skipped: no version of %s serves yet.", " or ".join(model_names))
        events.name_run("without a champion")
    return found


def view_of(fs: FeatureStore, model: registry.ModelVersion) -> FeatureView:
    """The view a model was trained on."""
    return fs.get_feature_view(model.lineage.feature_view, model.lineage.feature_view_version)


@task(task_run_name="read batch of {window}", **retries.READING)
def read_batch(fs: FeatureStore, model: registry.ModelVersion, window: Window) -> pd.DataFrame:
    """The model's features of the window's rows, by its own view and training dataset, with keys, time and helpers."""
    view = view_of(fs, model)
    view.init_batch_scoring(model.lineage.training_dataset_version)
    return view.get_batch_data(
        window.start, window.end, primary_keys=True, event_time=True, inference_helper_columns=True
    )


def widen(fs: FeatureStore, name: str, version: int, features: Sequence[Feature]) -> None:
    """Give a group of predictions that is there already the columns it lacks; they are null in the rows it has.

    Args:
        features: all columns that the group is to have, the new ones last.
    """
    try:
        group = fs.get_feature_group(name, version)
    except NotFound:
        return
    held = {feature.name for feature in group.features}
    if held and (missing := [feature for feature in features if feature.name not in held]):
        group.append_features(missing)


class Published(NamedTuple):
    """What a run has predicted: all rows of its window, also those that had been predicted before; None: no window."""

    window: Window | None
    rows: pd.DataFrame | None
    rows_written: int

    def summary(self) -> dict[str, Any]:
        """The beginning of the one row of a run's summary."""
        return {
            "window": "nothing new" if self.window is None else str(self.window),
            "rows_written": self.rows_written,
            "rows_degraded": self.count("degraded"),
            "rows_backfilled": self.count("backfilled"),
        }

    def count(self, flag: str) -> int:
        """In how many rows a flag is set."""
        return 0 if self.rows is None else int(self.rows[flag].sum())


def publish(predictions: FeatureGroup, window: Window | None, predicted: Callable[[Window], pd.DataFrame]) -> Published:
    """Write what is predicted of the window, but for what had been predicted before: what was said stays said.

    Args:
        predicted: makes the rows of the group of predictions; not called without a window.
    """
    if window is None:
        get_run_logger().info("Skipped: there are no features newer than %s.", predictions.name)
        return Published(None, None, 0)
    rows = predicted(window)
    commit = write(predictions, not_yet_made(predictions, rows, window), window)
    return Published(window, rows, commit.rows_written)


def came_from(model: registry.ModelVersion) -> dict[str, Any]:
    """Version, view and training dataset of a model, as its predictions and a run's summary name them."""
    lineage = model.lineage
    return {
        "model_version": model.version,
        "feature_view": f"{lineage.feature_view}@{lineage.feature_view_version}",
        "training_dataset_version": lineage.training_dataset_version,
    }


@task(task_run_name="what is new", **retries.READING)
def not_yet_made(predictions: FeatureGroup, rows: pd.DataFrame, window: Window) -> pd.DataFrame:
    """The rows whose key and event time the group of predictions does not hold yet.

    Args:
        rows: predictions of the window.
    """
    assert predictions.event_time is not None
    key = [*predictions.primary_key, predictions.event_time]
    made = predictions.read(start_time=window.start, end_time=window.end)[key].assign(is_made=True)
    marked = rows.merge(made, on=key, how="left")
    return marked.loc[marked["is_made"].isna(), list(rows.columns)]
