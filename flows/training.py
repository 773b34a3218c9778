"""What every training pipeline does with store and registry: find its groups, read its splits, meet the champion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from prefect import get_run_logger, task

from featurestore.errors import InvalidTime, NotFound
from flows import events, registry, retries, splitting
from flows.splitting import SplitPlan, Splits

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import FeatureGroup, FeatureStore, FeatureView, TrainingDataset


SHORTEST = timedelta(days=45)
"""No training is started by events on labels of less time, so that a young store does not fail every hour."""


class Labelled(NamedTuple):
    """The three splits with one label: features with keys, event time and helper columns; and what is learned."""

    X_train: pd.DataFrame
    X_validation: pd.DataFrame
    X_test: pd.DataFrame
    y_train: pd.Series
    y_validation: pd.Series
    y_test: pd.Series

    def by_split(self) -> dict[str, tuple[pd.DataFrame, pd.Series]]:
        """Features and label of train, validation and test."""
        return {
            "train": (self.X_train, self.y_train),
            "validation": (self.X_validation, self.y_validation),
            "test": (self.X_test, self.y_test),
        }


class Data(NamedTuple):
    """The three splits: features with keys, event time and helper columns; and the labels, a column for each."""

    X_train: pd.DataFrame
    X_validation: pd.DataFrame
    X_test: pd.DataFrame
    y_train: pd.DataFrame
    y_validation: pd.DataFrame
    y_test: pd.DataFrame

    def labelled(self, name: str, dtype: str) -> Labelled:
        """The splits with one of the labels."""
        return Labelled(*self[:3], *(labels[name].astype(dtype) for labels in self[3:]))


def features_first(system: str) -> str:
    """What to run when the groups of a system are not there yet.

    >>> features_first("fraud")
    'Run the feature pipeline first: prefect deployment run fraud-features/fraud-features.'
    """
    name = f"{system.replace('_', '-')}-features"
    return f"Run the feature pipeline first: prefect deployment run {name}/{name}."


def group_of(fs: FeatureStore, name: str, version: int, *, system: str) -> FeatureGroup:
    """A group that the system's feature pipeline makes.

    Raises:
        NotFound: it is not there; the message says what to run.
    """
    try:
        return fs.get_feature_group(name, version)
    except NotFound as error:
        raise NotFound(f"{error} {features_first(system)}") from error


def is_due(model_name: str, labels: FeatureGroup, plan: SplitPlan) -> bool:
    """Whether a training that was started by new labels should go on; if not, the log says why. Reads no rows."""
    why = why_not_due(next(reversed(registry.versions(model_name)), None), labels, plan)
    if why:
        get_run_logger().info("Skipped: training is not due, %s.", why)
        events.name_run("not due")
    return not why


def why_not_due(newest: registry.ModelVersion | None, labels: FeatureGroup, plan: SplitPlan) -> str:
    """Why a training is not due; empty if it is.

    It is when there is no version yet and labels enough for a first one, or when labels of `plan.due_after` have
    matured since the window of the newest version ended, whatever became of that version.
    """
    mature = known_labels_end(labels, plan)
    if mature is None:
        return f"{labels.name} has no labels yet"
    if newest is not None:
        since = mature - newest.lineage.training_window.end
        return "" if since >= plan.due_after else f"{newest} has learned all labels but those of {since}"
    known = mature - min(window.start for window in labels.windows())
    enough = max(plan.shortest, SHORTEST)
    return "" if known >= enough else f"a first model needs labels of {enough}, and there are those of {known}"


def known_labels_end(labels: FeatureGroup, plan: SplitPlan) -> datetime | None:
    """Up to which event time all labels are known, by what is committed; None before the first."""
    return None if labels.watermark is None else labels.watermark - plan.label_delay


def splits_for(
    spine: FeatureGroup, labels: FeatureGroup, end: datetime | None, plan: SplitPlan, *, system: str
) -> Splits:
    """The splits of the spine's rows whose labels were all known at the end.

    Args:
        end: what is asked for; default: up to which the labels are committed.
    Raises:
        NotFound: there are no rows or no labels yet.
        InvalidTime: labels are not committed up to the end.
        InvalidData: the span is too short.
    """
    known_until, what = labels.watermark, f"Labels ({plan.label})"
    if known_until is None or spine.watermark is None:
        raise NotFound(
            f"{what} are not in the store yet: {labels.name} and {spine.name} must hold rows. {features_first(system)}"
        )
    if end is not None and end > known_until:
        raise InvalidTime(f"{what} are committed until {known_until}, not until {end}. {features_first(system)}")
    mature = (known_until if end is None else end) - plan.label_delay
    assert spine.event_time is not None
    times = spine.select([spine.event_time]).read(end_time=mature)[spine.event_time]
    if times.empty:
        raise NotFound(f"There is no row before {mature} in {spine.name}. {features_first(system)}")
    first_day: datetime = times.min().floor("D").to_pydatetime()
    return splitting.splits_of(first_day, mature, plan)


def params_of(splits: Splits, *parts: Mapping[str, Any]) -> dict[str, Any]:
    """All that a rerun must repeat, as the registry keeps it: the windows, and what the parts name."""
    named: dict[str, Any] = {f"{name}_window": str(window) for name, window in splits.by_name().items()}
    for part in parts:
        named |= part
    return named


@task(task_run_name="training dataset", **retries.READING)
def read_splits(view: FeatureView, splits: Splits, *, label_delay: timedelta) -> tuple[TrainingDataset, Data]:
    """A new version of the view's training dataset, and its rows with keys, event time and helper columns."""
    train, validation, test = splits.train, splits.validation, splits.test
    version, _ = view.create_train_validation_test_split(
        train_start=train.start, train_end=train.end, validation_start=validation.start,
        validation_end=validation.end, test_start=test.start, test_end=test.end, embargo=label_delay,
        description=f"Labels known by {test.end + label_delay:%Y-%m-%d %H:%M}",
    )  # fmt: skip
    data = Data(
        *view.get_train_validation_test_split(version, primary_keys=True, event_time=True, training_helper_columns=True)
    )
    return view.training_dataset(version), data


def trained_already(
    model_name: str, view: FeatureView, splits: Splits, params: Mapping[str, Any]
) -> registry.ModelVersion | None:
    """The newest version, if it was trained on these very splits of these very commits, in this very way."""
    versions = registry.versions(model_name)
    if not versions:
        return None
    lineage = versions[-1].lineage
    same = (
        (lineage.feature_view, lineage.feature_view_version) == (view.name, view.version)
        and lineage.training_window == splits.whole
        and dict(lineage.delta_versions) == dict(view.delta_versions())
    )
    return registry.existing_for(model_name, lineage.training_dataset_hash, params=params) if same else None


def skipped(model: registry.ModelVersion, summary_key: str, row: Mapping[str, Any]) -> int:
    """Say that there is nothing new to learn from, and return the version that has learned it.

    Args:
        summary_key: of the summary artifact.
        row: the summary, as if the version had been trained now.
    """
    get_run_logger().info("Skipped: %s was trained on these very data. Use force to train again.", model)
    events.summary_artifact(summary_key, [dict(row)])
    return model.version


def champion_scores(
    fs: FeatureStore, champion: registry.ModelVersion, X: pd.DataFrame, splits: Splits, *, key: Sequence[str]
) -> pd.Series:
    """What the champion says of the test rows, by its own view and training dataset.

    Args:
        X: test rows with the columns of `key`, which name each of them.
    Returns:
        float64, in the order of X; null for a row that the champion's view does not have.
    """
    lineage, window = champion.lineage, splits.test
    view = fs.get_feature_view(lineage.feature_view, lineage.feature_view_version)
    view.init_batch_scoring(lineage.training_dataset_version)
    batch = view.get_batch_data(window.start, window.end, primary_keys=True, event_time=True)
    scores = batch[list(key)].assign(score=registry.load(champion).score(batch).astype("float64"))
    return X[list(key)].merge(scores, on=list(key), how="left", validate="one_to_one")["score"]


def lineage_of(
    view: FeatureView,
    dataset: TrainingDataset,
    splits: Splits,
    *,
    source: str,
    threshold: float | None = None,
    scaled_by: str | None = None,
) -> registry.Lineage:
    """What a model trained on these splits was made from."""
    return registry.Lineage(
        feature_view=view.name,
        feature_view_version=view.version,
        training_dataset_version=dataset.version,
        training_dataset_hash=dataset.content_hash,
        delta_versions=dataset.delta_versions,
        training_window=splits.whole,
        source=source,
        threshold=threshold,
        scaled_by=scaled_by,
    )


def named_dataset(view: FeatureView, dataset: TrainingDataset) -> str:
    """A training dataset as model cards name it."""
    return (
        f"view {view.name} version {view.version}, training dataset {dataset.version} (`{dataset.content_hash[:12]}`)"
    )
