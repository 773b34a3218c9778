"""How far a forecast of a number is off, against what anybody could have said, and whether that is good enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from featurestore.errors import InvalidData
from flows import bootstrap
from flows.evaluation import COLOURS, STYLES, Decision, Score, canvas, png

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

Metric = Literal["mae", "rmse", "mape"]


@dataclass(frozen=True)
class ErrorSlice:
    """The errors of the rows where `column` is `value`; null numbers where `note` says why."""

    column: str
    value: str
    n: int
    mae: float | None
    mape: float | None
    skill: float | None
    note: str = ""


# --- metrics -----------------------------------------------------------------------------------------


def mae(y: ArrayLike, forecast: ArrayLike) -> float:
    """The mean distance of the forecast from what came, in the unit of both.

    Raises:
        InvalidData: a null, no rows, or lengths that differ.

    >>> mae([10, 20], [12, 19])
    1.5
    """
    return _point("mae", y, forecast)


def rmse(y: ArrayLike, forecast: ArrayLike) -> float:
    """The root of the mean squared distance: large errors weigh more.

    >>> rmse([10, 20], [13, 16])  # sqrt((9 + 16) / 2)
    3.5355339059327378
    """
    return _point("rmse", y, forecast)


def mape(y: ArrayLike, forecast: ArrayLike) -> float:
    """The mean distance in percent of what came.

    Raises:
        InvalidData: as `mae`, or something that came is zero: percents of it mean nothing.

    >>> mape([10, 20], [12, 19])  # (20 % + 5 %) / 2
    12.5
    """
    return _point("mape", y, forecast)


def interval(
    metric: Metric,
    y: ArrayLike,
    forecast: ArrayLike,
    *,
    blocks: ArrayLike,
    name: str,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Score:
    """A metric with its percentile interval from a block bootstrap, as `evaluation.interval`.

    >>> print(interval("mae", [10, 20, 30], [12, 19, 30], blocks=["mon", "mon", "tue"], name="demo"))
    demo 1.000 [0.000, 1.500], n 3
    """
    truth, guess = _pairs(y, forecast)
    losses = _losses(metric, truth, guess)
    totals, counts = _resampled([losses, np.ones(len(losses))], blocks, resamples, seed)
    values = _finish(metric, totals / counts)
    return Score(name, float(_finish(metric, losses.mean())), *bootstrap.bounds(values, confidence), len(losses))


def skill(
    y: ArrayLike,
    forecast: ArrayLike,
    baseline: ArrayLike,
    *,
    blocks: ArrayLike,
    name: str = "skill",
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Score:
    """By which share the forecast's mean absolute error is lower than the baseline's on the same rows, with interval.

    1 is perfect, 0 as good as the baseline, negative worse. Both are measured on the same resampled blocks.

    Raises:
        InvalidData: as `mae`, or a baseline without any error.

    >>> print(skill([10, 20, 30], [11, 20, 30], [12, 22, 30], blocks=[1, 1, 2]))
    skill 0.750 [0.750, 0.750], n 3
    """
    truth, ours = _pairs(y, forecast)
    _, theirs = _pairs(y, baseline)
    our_losses, their_losses = np.abs(ours - truth), np.abs(theirs - truth)
    if not their_losses.sum():
        raise InvalidData("The baseline has no error at all: nothing can be better. Is the truth among its inputs?")
    our_totals, their_totals = _resampled([our_losses, their_losses], blocks, resamples, seed)
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample without any error of the baseline says nothing
        values = np.where(their_totals > 0, 1 - our_totals / their_totals, np.nan)
    return Score(
        name, float(1 - our_losses.sum() / their_losses.sum()), *bootstrap.bounds(values, confidence), len(truth)
    )  # fmt: skip


def beats(
    y: ArrayLike,
    challenger: ArrayLike,
    others: Mapping[str, ArrayLike],
    *,
    blocks: ArrayLike,
    least_skill: Mapping[str, float] | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Decision:
    """Whether the challenger's mean absolute error is surely lower than every other's, by as much as is asked.

    All are measured on the same rows now. For each other two things must hold: the skill against it reaches what is
    asked (default 0), and its whole interval lies above zero.

    Args:
        others: forecasts by name, such as the baselines and the champion; at least one.
        least_skill: the skill asked for, by name; 0.3 means an error that is 30 % lower.
    Raises:
        InvalidData: nothing to beat, a skill asked for against nobody, or as `skill`.

    >>> decision = beats([10, 20, 30], [11, 20, 30], {"last week": [12, 22, 30]}, blocks=[1, 1, 2],
    ...                  least_skill={"last week": 0.3})
    >>> decision.accepted, decision.reasons
    (True, ('75.0 % [75.0, 75.0] better than last week in MAE on 3 rows (needed 30 %, interval > 0)',))
    """
    asked = dict(least_skill or {})
    if not others:
        raise InvalidData("Nothing to beat: give at least one baseline, such as the same hour last week.")
    if unknown := sorted(set(asked) - set(others)):
        raise InvalidData(f"A skill is asked for against {unknown}, but forecasts are given of {sorted(others)} only.")
    differences, reasons, passed = [], [], []
    for name, forecast in others.items():
        gain = skill(
            y, challenger, forecast,
            blocks=blocks, name=f"against {name}", confidence=confidence, resamples=resamples, seed=seed,
        )  # fmt: skip
        needed = asked.get(name, 0.0)
        better = gain.value >= needed and gain.low > 0
        reasons.append(
            f"{'' if better else 'only '}{gain.value:.1%} [{100 * gain.low:.1f}, {100 * gain.high:.1f}] better than "
            f"{name} in MAE on {gain.n:,} rows (needed {needed:.0%}, interval > 0)".replace("%", " %")
        )
        differences.append(gain)
        passed.append(better)
    return Decision(all(passed), tuple(reasons), tuple(differences))


def slices(
    y: ArrayLike,
    forecast: ArrayLike,
    baseline: ArrayLike,
    columns: Mapping[str, ArrayLike],
    *,
    minimum_rows: int = 100,
) -> list[ErrorSlice]:
    """Errors and skill for every value of every declared column, so that a good mean does not hide a bad corner.

    Args:
        columns: values per row by column name; a null is a slice of its own, called "null".
        minimum_rows: below it there is a note instead of numbers that would be noise.

    >>> for part in slices([10, 20, 30], [11, 20, 30], [12, 22, 31], {"zone": ["a", "a", "b"]}, minimum_rows=2):
    ...     print(part.value, part.n, part.mae, part.skill, part.note)
    a 2 0.5 0.75
    b 1 None None n too small (1; needs 2)
    """
    truth, ours = _pairs(y, forecast)
    _, theirs = _pairs(y, baseline)
    found = []
    for column, values in columns.items():
        labels = bootstrap.texts(values, column, len(truth))
        for value in sorted(
            set(labels), key=lambda text: (not text.isdigit(), int(text) if text.isdigit() else 0, text)
        ):
            rows = labels == value
            n = int(rows.sum())
            if n < minimum_rows:
                note = f"n too small ({n}; needs {minimum_rows})"
                found.append(ErrorSlice(column, str(value), n, None, None, None, note))
                continue
            error, baseline_error = mae(truth[rows], ours[rows]), mae(truth[rows], theirs[rows])
            share = 1 - error / baseline_error if baseline_error else None
            found.append(ErrorSlice(column, str(value), n, error, mape(truth[rows], ours[rows]), share))
    return found


# --- training in time --------------------------------------------------------------------------------


def check_enough(splits: Mapping[str, ArrayLike], *, minimum_rows: int = 500, minimum_days: int = 7) -> None:
    """Refuse to train or judge on too little.

    Args:
        splits: by name ("train", "validation", "test"): the day of each row.
    Raises:
        InvalidData: a split has too few rows or distinct days; the message names every shortage.

    >>> check_enough({"train": [1, 1, 2]}, minimum_rows=3, minimum_days=3)
    Traceback (most recent call last):
        ...
    featurestore.errors.InvalidData: Too little to train on: the train split has 3 rows of 2 days (needs 3 of 3)...
    """
    shortages = []
    for name, days in splits.items():
        rows, distinct = len(np.asarray(days)), len(np.unique(np.asarray(days)))
        if rows < minimum_rows or distinct < minimum_days:
            shortages.append(
                f"the {name} split has {rows:,} rows of {distinct:,} days (needs {minimum_rows:,} of {minimum_days})"
            )
    if shortages:
        raise InvalidData(
            f"Too little to train on: {'; '.join(shortages)}. Widen the windows of these splits, or run the feature "
            "pipeline for more history."
        )


# --- pictures ----------------------------------------------------------------------------------------


def curves_plot(times: Sequence[Any], series: Mapping[str, ArrayLike], *, title: str, unit: str) -> bytes:
    """What came and what was forecast over time, as a PNG.

    Args:
        series: values by name, the truth first: it is drawn boldest. At most six; nulls are gaps.

    >>> curves_plot([1, 2], {"came": [10, 12], "forecast": [11, 12]}, title="demo", unit="MW")[:4]
    b'\\x89PNG'
    """
    figure, axes = canvas(title)
    for i, (name, values) in enumerate(series.items()):
        axes.plot(
            list(times), np.asarray(values, dtype=np.float64), label=name, color=COLOURS[i % len(COLOURS)],
            linestyle=STYLES[i % len(STYLES)], linewidth=2.4 if i == 0 else 1.6, zorder=10 - i,
        )  # fmt: skip
    axes.set_ylabel(unit)
    axes.grid(color="#E6E6E6", linewidth=0.8)
    figure.autofmt_xdate(rotation=20)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return png(figure)


# --- inside ------------------------------------------------------------------------------------------


def _point(metric: Metric, y: ArrayLike, forecast: ArrayLike) -> float:
    truth, guess = _pairs(y, forecast)
    return float(_finish(metric, _losses(metric, truth, guess).mean()))


def _losses(metric: Metric, truth: Floats, guess: Floats) -> Floats:
    errors = np.abs(guess - truth)
    if metric == "rmse":
        return errors**2
    if metric == "mape":
        if (truth == 0).any():
            raise InvalidData(f"mape: {int((truth == 0).sum())} of {len(truth):,} true values are zero. Use mae.")
        return 100 * errors / np.abs(truth)
    return errors


def _finish(metric: Metric, mean: Any) -> Any:
    return np.sqrt(mean) if metric == "rmse" else mean


def _resampled(losses: Sequence[Floats], blocks: ArrayLike, resamples: int, seed: int) -> list[Floats]:
    """The totals of each loss in each resample: sums by block, as often as the block was drawn."""
    numbers = bootstrap.codes(blocks, "blocks", len(losses[0]))
    drawn = bootstrap.draws(numbers, resamples=resamples, seed=seed)
    return [np.asarray(drawn @ np.bincount(numbers, weights=loss), np.float64) for loss in losses]


def _pairs(y: ArrayLike, forecast: ArrayLike) -> tuple[Floats, Floats]:
    truth, guess = bootstrap.floats(y, "y"), bootstrap.floats(forecast, "forecast")
    if len(truth) != len(guess) or len(truth) == 0:
        raise InvalidData(f"y has {len(truth):,} rows and forecast {len(guess):,}; expected as many, and at least one.")
    return truth, guess
