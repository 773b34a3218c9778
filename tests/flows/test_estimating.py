"""What scores themselves let expect, beside what comes when it is drawn from them."""

from __future__ import annotations

import numpy as np
import pytest

from flows import estimating, evaluation


def scores_of(shape: float, *, rows: int = 3_000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).beta(shape, 8 * shape, rows)


@pytest.mark.parametrize("shape", [0.1, 0.5, 3.0])
@pytest.mark.parametrize("digits", [1, 2, 8])
def test_the_estimate_is_the_mean_of_what_comes_when_the_scores_are_right(shape: float, digits: int) -> None:
    """Also with many equal scores, which are one step of the average precision."""
    scores = scores_of(shape).round(digits)
    rng = np.random.default_rng(1)
    came = [evaluation.average_precision((rng.random(len(scores)) < scores).astype(int), scores) for _ in range(100)]
    error = 4 * np.std(came) / np.sqrt(len(came))
    assert estimating.average_precision(scores) == pytest.approx(np.mean(came), abs=error + 0.002)


def test_the_order_of_rows_changes_nothing_and_nothing_expected_is_no_estimate() -> None:
    scores = scores_of(0.5)
    shuffled = np.random.default_rng(0).permutation(scores)
    assert estimating.average_precision(shuffled) == estimating.average_precision(scores)
    assert estimating.average_precision([0.0, 0.0]) is None


def test_scores_that_are_right_are_sound_and_those_that_promise_too_much_are_not() -> None:
    scores, days = scores_of(0.5), np.arange(3_000) // 150
    came = np.random.default_rng(2).random(len(scores)) < scores
    assert estimating.soundness(came, scores, blocks=days).is_sound
    boastful = estimating.soundness(came, np.minimum(2 * scores, 1), blocks=days)
    assert not boastful.is_sound
    assert boastful.why.startswith("the scores are not calibrated: on the test split they expect")


def test_scores_of_the_right_sum_in_the_wrong_order_are_not_sound() -> None:
    scores, days = scores_of(0.1), np.arange(3_000) // 150
    came = np.random.default_rng(2).random(len(scores)) < np.random.default_rng(3).permutation(scores)
    found = estimating.soundness(came, scores, blocks=days)
    assert not found.is_sound
    assert "was to be expected" in found.why


def test_few_positives_are_no_evidence_either_way() -> None:
    came = np.arange(3_000) < estimating.LEAST_POSITIVES - 1
    found = estimating.soundness(came, scores_of(0.5), blocks=np.arange(3_000) % 20)
    assert found == (False, "the test split has 29 positives (needs 30) or too few days")
