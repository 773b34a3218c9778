"""How well predictions put posts in order, beside what anybody could have said, and whether that is good enough. Pure.

Votes are mostly luck and a few posts get thousands: an order says more about a model than a distance does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.errors import InvalidData
from flows import bootstrap
from flows.evaluation import Decision, Score

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

RESAMPLES = 500
TOP_SHARE = 0.1


@dataclass(frozen=True)
class RankSlice:
    """The rank correlations of the rows where `column` is `value`; null numbers where `note` says why."""

    column: str
    value: str
    n: int
    spearman: float | None
    baseline: float | None
    note: str = ""


def spearman(y: ArrayLike, prediction: ArrayLike) -> float:
    """Spearman's rank correlation; ties share their mean rank; 0 where a side has one value only.

    Raises:
        InvalidData: a null, lengths that differ, or less than two rows.

    >>> round(spearman([1, 2, 3, 4], [10, 30, 20, 40]), 3), spearman([1, 2, 3], [5, 5, 5])
    (0.8, 0.0)
    """
    return _correlation(*_pairs(y, prediction))


def interval(y: ArrayLike, prediction: ArrayLike, *, blocks: ArrayLike, name: str, seed: int = 0) -> Score:
    """Spearman's rank correlation with its 95 % percentile interval from a bootstrap of whole blocks.

    >>> print(interval([1, 2, 3, 4], [1, 2, 3, 4], blocks=["mon", "mon", "tue", "tue"], name="demo"))
    demo 1.000 [1.000, 1.000], n 4
    """
    truth, said = _pairs(y, prediction)
    (values,) = _resampled(truth, [said], blocks, seed)
    return Score(name, _correlation(truth, said), *bootstrap.bounds(values, 0.95), len(truth))


def lift(
    y: ArrayLike, prediction: ArrayLike, other: ArrayLike, *, blocks: ArrayLike, name: str, seed: int = 0
) -> Score:
    """How much higher the rank correlation is than the other's on the same rows, with its 95 % interval.

    Both are measured on the same resampled blocks.

    >>> print(lift([1, 2, 3, 4], [1, 2, 3, 4], [1, 1, 1, 1], blocks=[1, 1, 2, 2], name="demo"))
    demo 1.000 [1.000, 1.000], n 4
    """
    truth, said = _pairs(y, prediction)
    _, others = _pairs(y, other)
    ours, theirs = _resampled(truth, [said, others], blocks, seed)
    value = _correlation(truth, said) - _correlation(truth, others)
    return Score(name, value, *bootstrap.bounds(ours - theirs, 0.95), len(truth))


def beats(
    y: ArrayLike, challenger: ArrayLike, others: Mapping[str, ArrayLike], *, blocks: ArrayLike, seed: int = 0
) -> Decision:
    """Whether the challenger puts the rows in a surely better order than every other.

    The whole interval of its lift over each must lie above zero; all are measured on the same rows now.

    Args:
        others: predictions by name, such as the baselines and the champion; at least one.
    Raises:
        InvalidData: nothing to beat, or as `spearman`.

    >>> decision = beats([1, 2, 3, 4], [1, 2, 3, 4], {"median": [1, 1, 1, 1]}, blocks=[1, 1, 2, 2])
    >>> decision.accepted, decision.reasons
    (True, ('Spearman 1.000 higher [1.000, 1.000] than median on 4 rows (needed: interval > 0)',))
    """
    if not others:
        raise InvalidData("Nothing to beat: give at least one baseline, such as the subreddit's median.")
    lifts = [lift(y, challenger, other, blocks=blocks, name=name, seed=seed) for name, other in others.items()]
    reasons = tuple(
        f"Spearman {'' if each.low > 0 else 'only '}{each.value:.3f} higher [{each.low:.3f}, {each.high:.3f}] than "
        f"{each.name} on {each.n:,} rows (needed: interval > 0)"
        for each in lifts
    )
    return Decision(all(each.low > 0 for each in lifts), reasons, tuple(lifts))


def top_decile_lift(y: ArrayLike, prediction: ArrayLike) -> float:
    """How many times more of the best tenth are found in the predicted best tenth than by chance: 1 is chance, 10 all.

    Ties at the edge of a tenth count by their share, so that a prediction of one value only has exactly 1.

    >>> top_decile_lift(range(20), range(20)), top_decile_lift(range(20), [1] * 20)
    (10.0, 1.0)
    """
    truth, said = _pairs(y, prediction)
    best, chosen = _top(truth), _top(said)
    return float((best * chosen).sum() / best.sum() / TOP_SHARE)


def slices(
    y: ArrayLike,
    prediction: ArrayLike,
    baseline: ArrayLike,
    columns: Mapping[str, ArrayLike],
    *,
    minimum_rows: int = 100,
) -> list[RankSlice]:
    """The rank correlations for every value of every declared column, beside the baseline's on the same rows.

    >>> for part in slices([1, 2, 3], [1, 2, 3], [1, 1, 2], {"s": ["a", "a", "b"]}, minimum_rows=2):
    ...     print(part.value, part.n, part.spearman, part.baseline, part.note)
    a 2 1.0 0.0
    b 1 None None n too small (1; needs 2)
    """
    truth, said = _pairs(y, prediction)
    _, naive = _pairs(y, baseline)
    found = []
    for column, values in columns.items():
        labels = bootstrap.texts(values, column, len(truth))
        for value in sorted(set(labels)):
            rows = labels == value
            n = int(rows.sum())
            if n < minimum_rows:
                note = f"n too small ({n}; needs {minimum_rows})"
                found.append(RankSlice(column, str(value), n, None, None, note))
                continue
            ours, theirs = _correlation(truth[rows], said[rows]), _correlation(truth[rows], naive[rows])
            found.append(RankSlice(column, str(value), n, ours, theirs))
    return found


def _correlation(truth: Floats, said: Floats) -> float:
    from scipy.stats import rankdata

    a, b = rankdata(truth), rankdata(said)
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / size) if size > 0 else 0.0


def _resampled(truth: Floats, predictions: Sequence[Floats], blocks: ArrayLike, seed: int) -> list[Floats]:
    codes = bootstrap.codes(blocks, "blocks", len(truth))
    drawn = bootstrap.draws(codes, resamples=RESAMPLES, seed=seed)
    found = np.empty((len(predictions), len(drawn)))
    for i, times in enumerate(drawn):
        rows = np.repeat(np.arange(len(truth)), times[codes])
        for j, said in enumerate(predictions):
            found[j, i] = _correlation(truth[rows], said[rows])
    return list(found)


def _top(values: Floats) -> Floats:
    """How much of each row is in the top tenth: 1, 0, or for ties at its edge the share that fits."""
    room = TOP_SHARE * len(values)
    edge = np.sort(values)[::-1][min(int(np.ceil(room)), len(values)) - 1]
    above, at = values > edge, values == edge
    weight: Any = np.where(above, 1.0, 0.0)
    weight[at] = (room - above.sum()) / at.sum()
    return np.asarray(weight)


def _pairs(y: ArrayLike, prediction: ArrayLike) -> tuple[Floats, Floats]:
    truth, said = bootstrap.floats(y, "y"), bootstrap.floats(prediction, "prediction")
    if len(truth) != len(said) or len(truth) < 2:
        raise InvalidData(
            f"y has {len(truth):,} rows and prediction {len(said):,}; expected as many, and at least two."
        )
    return truth, said
