"""What is watched of a registered model once it serves: declared by each system in its `monitored.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from featurestore.errors import NotFound

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import FeatureStore
    from flows.splitting import SplitPlan

Metric = Literal["mae", "spearman", "average_precision", "brier"]
DAY = timedelta(days=1)
VERSION = 1
"""Of the groups that are read."""


@dataclass(frozen=True)
class Said:
    """Where a model's predictions are.

    Args:
        group: of predictions.
        time: its event time.
        forecast: the column that is measured.
        baseline: the column with what anybody could have said of the same target.
        baseline_name: that in words.
        horizon: the column with how far ahead a prediction looks; None where all look equally far.
        only: column and value, in a group that holds the predictions of several models.
        version: the column with the model's version; 0 is none.
        served: which of several predictions for one target counts: the first, where what was said is acted on at once,
            or the last. One made in time always counts more than one made later.
    """

    group: str
    time: str
    forecast: str
    baseline: str
    baseline_name: str
    horizon: str | None = None
    only: tuple[str, str] | None = None
    version: str = "model_version"
    served: Literal["first", "last"] = "last"


@dataclass(frozen=True)
class Beside:
    """Columns of another group that the measurement needs, such as an amount: found by key in the same span of time."""

    group: str
    key: tuple[str, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Truth:
    """Where what came is.

    Args:
        group: one row per target, once its truth is known.
        key: what names a target, in this group and in that of the predictions.
        column: the truth.
        target_time: the column of the predictions with the time they are about.
        known_at: the column of this group that says when the truth was known.
        expires_after: a truth still unknown this long after its target time is not waited for.
        earlier: truths are stored up to so much earlier (by event time) than the predictions that they judge.
        beside: columns of other groups.
        derive: adds columns to the joined rows, such as a band of amounts. Pure.
    """

    group: str
    key: tuple[str, ...]
    column: str
    target_time: str
    expires_after: timedelta
    known_at: str = "known_at"
    earlier: timedelta = timedelta(0)
    beside: tuple[Beside, ...] = ()
    derive: Callable[[pd.DataFrame], pd.DataFrame] | None = None


@dataclass(frozen=True)
class Measure:
    """How predictions are measured.

    Args:
        metric: "mae" (skill: the share by which the error is lower than the baseline's), "spearman",
            "average_precision" or "brier" (skill: the difference, positive is better).
        unit: of the metric's value; empty for a share or a correlation.
        span: how far back predictions are measured, by their event time.
        demanded: the skill that the training's gate asked for against this baseline.
        block: rows of one such stretch of event time are not independent: intervals draw whole blocks.
        slices: columns whose every value is measured alone, too.
        scale: what is done to truth, forecast and baseline before, such as a logarithm.
    """

    metric: Metric
    unit: str
    span: timedelta
    demanded: float = 0.0
    block: timedelta = DAY
    slices: tuple[str, ...] = ()
    scale: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Retraining:
    """When a training is asked for beside its schedule: only ever by rule.

    Args:
        splits: of the training; its label delay says up to when labels are known.
        after: labels of so much time are new since the newest version's training window ended. A training that is
            started by new labels themselves (`SplitPlan.due_after`) comes first; this one is the net below it, should
            an event be lost.
        on_drift: whether drifted inputs alone are a reason. Normally they are not: a model may hold on new ground, and
            the labels of the new ground may not be there yet.
        cool_down: not sooner than this after the newest version was made, or after the last time it was asked for.
    """

    splits: SplitPlan
    after: timedelta = timedelta(days=14)
    on_drift: bool = False
    cool_down: timedelta = timedelta(days=7)


@dataclass(frozen=True)
class Monitored:
    """One registered model and what is watched of it.

    Args:
        model: the registered model's name.
        calendar: features that only say what time it is: of a recent window they always differ, and are never drift.
        estimated: the forecast is a probability, from which performance may be expected before labels come.
    """

    model: str
    said: Said
    truth: Truth
    measure: Measure
    retraining: Retraining
    calendar: frozenset[str] = frozenset()
    estimated: bool = False

    @property
    def target(self) -> tuple[str, ...]:
        """What names one prediction that counts: its target, and how far ahead it looked."""
        return (*self.truth.key, *((self.said.horizon,) if self.said.horizon else ()))


def of(system: str) -> tuple[Monitored, ...]:
    """What a system declares.

    Raises:
        NotFound: there is no such system, or it declares nothing; the message lists those that do.

    >>> [each.model for each in of("fraud")]
    ['fraud_detection']
    """
    from flows import systems

    if system not in systems():
        raise NotFound(f"There is no system {system!r} (systems: {', '.join(systems())}).")
    declared: tuple[Monitored, ...] = import_module(f"flows.{system}.monitored").MONITORED
    return declared


def read(
    fs: FeatureStore, watched: Monitored, start: datetime, end: datetime, now: datetime, *, group: str | None = None,
    version: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """The predictions of [start, end) that count, each beside what came as far as that was known at `now`.

    Args:
        group: another group with the same columns, such as that of challengers in the shadow.
        version: only what this version of the model said.
    Returns:
        The rows of `hindcasting.served` with those of `hindcasting.with_truth` and whatever is read beside, in the
        order of the group; `backfilled` is never null.
    Raises:
        NotFound: a group is not there.
    """
    said = watched.said
    predictions = fs.get_feature_group(group or said.group, VERSION).read(start_time=start, end_time=end)
    if said.only is not None:
        column, value = said.only
        predictions = predictions[predictions[column] == value].reset_index(drop=True)
    if version is not None:
        predictions = predictions[predictions[said.version] == version].reset_index(drop=True)
    return with_truth(fs, watched, predictions, start, end, now)


def with_truth(
    fs: FeatureStore, watched: Monitored, predictions: pd.DataFrame, start: datetime, end: datetime, now: datetime
) -> pd.DataFrame:
    """Predictions with event times of [start, end), stored or not, that count, beside what came; as `read`."""
    import pandas as pd

    from flows import hindcasting

    said, truth = watched.said, watched.truth
    served = hindcasting.served(predictions, watched.target, which=said.served)

    def beside(group: str, columns: Sequence[str]) -> pd.DataFrame:
        wanted = fs.get_feature_group(group, VERSION).select(list(columns))
        return wanted.read(start_time=start - truth.earlier, end_time=end)

    for each in truth.beside:
        also = beside(each.group, [*each.key, *each.columns])
        served = served.merge(also, on=list(each.key), how="left", validate="m:1")
    truths = beside(truth.group, [*truth.key, truth.column, truth.known_at])
    joined = hindcasting.with_truth(
        served, truths[truths[truth.known_at] <= pd.Timestamp(now)], key=truth.key, truth=truth.column,
        target_time=truth.target_time, at=pd.Timestamp(now), expires_after=truth.expires_after,
    )  # fmt: skip
    return joined if truth.derive is None else truth.derive(joined)


def there_is(fs: FeatureStore, name: str) -> bool:
    """Whether there is a group of that name that can be read."""
    try:
        return bool(fs.get_feature_group(name, VERSION).features)
    except NotFound:
        return False
