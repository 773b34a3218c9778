"""What every inference pipeline does with store and registry: its window, its batch, and what is not said yet."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from prefect import task

from featurestore.errors import InvalidTime, NotFound
from featurestore.times import Window
from flows import registry, retries, windows
from flows.training import features_first

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import Feature, FeatureGroup, FeatureStore, FeatureView


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


@task(task_run_name="what is new", **retries.READING)
def not_yet_made(predictions: FeatureGroup, rows: pd.DataFrame, window: Window, key: Sequence[str]) -> pd.DataFrame:
    """The rows that this version has not predicted yet: what was said stays said.

    Args:
        rows: predictions of the window.
        key: the columns that name a prediction, its event time among them.
    """
    made = predictions.read(start_time=window.start, end_time=window.end)[list(key)].assign(is_made=True)
    marked = rows.merge(made, on=list(key), how="left")
    return marked.loc[marked["is_made"].isna(), list(rows.columns)]
