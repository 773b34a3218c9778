"""What a classifier's own probabilities let expect of it before any outcome is known (CBPE). Pure.

A calibrated probability of 0.1 is right once in ten times, so scores alone tell how many of those flagged will be
frauds, and how well the order will do. That holds only while the scores stay calibrated and what makes a fraud stays as
it is: an estimate sees new inputs, never a new kind of fraud. So it is made only where it was right on the test split,
which the model has not learned from, and is always shown beside what came true.

For forecasts of numbers there is no such estimate: they come without a probability, and a second model of the errors
would have to be trained, judged and watched itself. For the direction of a stock, whose probabilities lie within a
hair of one half, it could only say what they say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flows import bootstrap, evaluation

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

LEAST_POSITIVES = 30
TOLERANCE = 0.1
"""So far an estimate of the average precision may be off on the test split: few frauds make an interval that anything
lies within, and that is no evidence."""


class Soundness(NamedTuple):
    """Whether an estimate may be made, and why or why not."""

    is_sound: bool
    why: str


def average_precision(score: ArrayLike) -> float | None:
    """The average precision to expect of probabilities whose outcomes nobody knows; None without any.

    Where p add up to P in a group of equal scores that ends at row k, and to C above it, the group adds
    (P C + P² + sum of p (1 - p)) / k, the expected product of its hits and the hits so far; over the expected number of
    positives.

    >>> round(average_precision([1.0, 1.0, 0.0]), 3), average_precision([])
    (1.0, None)
    >>> round(average_precision([0.25] * 1000), 2)  # all alike: no better than the share of positives
    0.25
    """
    levels, counts = np.unique(bootstrap.floats(score, "score"), return_counts=True)
    levels, counts = levels[::-1], counts[::-1]
    hits = levels * counts
    expected = hits.sum()
    if not expected:
        return None
    products = hits * (np.cumsum(hits) - hits) + hits**2 + hits * (1 - levels)
    return float(np.sum(products / np.cumsum(counts)) / expected)


def soundness(y: ArrayLike, score: ArrayLike, *, blocks: ArrayLike) -> Soundness:
    """Whether an estimate from these scores would have been right on rows whose outcomes are known.

    Two things are asked, both within the 95 % intervals over whole blocks of time: that as many positives come as the
    scores add up to (calibration in the large), and that the expected average precision is that which comes, and no
    further from it than `TOLERANCE`.

    Args:
        y, score: of rows the model has not learned from: its test split.

    >>> rng = np.random.default_rng(0)
    >>> p = rng.beta(0.2, 2.0, 5_000)
    >>> y, days = rng.random(5_000) < p, np.arange(5_000) // 250
    >>> soundness(y, p, blocks=days).is_sound, soundness(y, p / 2, blocks=days).is_sound
    (True, False)
    """
    labels, scores = bootstrap.floats(y, "y"), bootstrap.floats(score, "score")
    positives = int(labels.sum())
    days = bootstrap.codes(blocks, "blocks", len(labels))
    if positives < LEAST_POSITIVES or positives == len(labels) or len(np.unique(days)) < 5:
        return Soundness(False, f"the test split has {positives} positives (needs {LEAST_POSITIVES}) or too few days")
    drawn = bootstrap.draws(days, resamples=500, seed=0)
    came = (drawn @ np.bincount(days, weights=labels)) / (drawn @ np.bincount(days))
    low, high = bootstrap.bounds(came, 0.95)
    said = float(scores.mean())
    if not low <= said <= high:
        return Soundness(
            False,
            f"the scores are not calibrated: on the test split they expect {said:.3%} positives, and "
            f"{labels.mean():.3%} [{low:.3%}, {high:.3%}] came",
        )
    real = evaluation.interval(
        "average_precision", labels, scores, blocks=days, name="average precision", resamples=300
    )
    expected = average_precision(scores)
    if expected is None or not real.low <= expected <= real.high or abs(expected - real.value) > TOLERANCE:
        return Soundness(False, f"on the test split {expected or 0:.3f} was to be expected, and {real} came")
    return Soundness(True, f"on the test split {expected:.3f} was to be expected, and {real} came")
