"""Ranks, bands and scales by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from featurestore.errors import InvalidData
from flows import ranking
from flows.reddit import modelling
from flows.reddit.modelling import Bands, Medians

DAYS = np.repeat(np.arange(20), 10)
RNG = np.random.default_rng(3)
TRUTH = RNG.normal(size=200)


def test_rank_correlation_is_that_of_the_textbook() -> None:
    """1 - 6 * (0 + 1 + 1 + 0) / (4 * 15) = 0.8."""
    assert ranking.spearman([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx(0.8)


def test_monotone_change_of_a_prediction_changes_no_rank() -> None:
    said = TRUTH + RNG.normal(size=200)
    assert ranking.spearman(TRUTH, said) == pytest.approx(ranking.spearman(TRUTH, np.exp(said)))


def test_better_order_passes_and_the_same_or_a_worse_one_does_not() -> None:
    good, bad = TRUTH + 0.3 * RNG.normal(size=200), TRUTH + 3 * RNG.normal(size=200)
    assert ranking.beats(TRUTH, good, {"bad": bad}, blocks=DAYS).accepted
    same = ranking.beats(TRUTH, good, {"bad": bad, "the same": good}, blocks=DAYS)
    assert not same.accepted
    assert same.reasons[1].startswith("Spearman only 0.000 higher [0.000, 0.000] than the same")
    assert not ranking.beats(TRUTH, bad, {"good": good}, blocks=DAYS).accepted


def test_nothing_to_beat_and_nulls_are_refused() -> None:
    with pytest.raises(InvalidData, match="Nothing to beat"):
        ranking.beats(TRUTH, TRUTH, {}, blocks=DAYS)
    with pytest.raises(InvalidData, match="1 null"):
        ranking.spearman([1, 2, 3], [1, np.nan, 3])


def test_top_decile_lift_counts_ties_by_their_share() -> None:
    """20 rows, two best; the prediction has 4 equal rows on top, one of them a best one: 0.5 of 2 found, by 0.1."""
    truth = list(range(20))
    said = [0] * 16 + [1, 1, 0, 1]
    assert ranking.top_decile_lift(truth, said) == pytest.approx((2 / 3) / 2 / 0.1)


def test_bands_hold_what_they_are_meant_to_hold_where_the_spread_grows() -> None:
    output = RNG.uniform(0, 3, 6000)
    truth = output + RNG.normal(size=6000) * (0.2 + output)
    bands = Bands.of(truth[:3000], output[:3000])
    low, high = bands.around(output[3000:])
    assert modelling.covered(truth[3000:], low, high) == pytest.approx(0.8, abs=0.03)
    assert bands.high[2] > 2 * bands.high[0]
    assert Bands.from_metrics(bands.metrics()) == bands


def test_model_without_bands_says_to_train_again() -> None:
    with pytest.raises(InvalidData, match=r"no band\.edge\.0: train it again"):
        Bands.from_metrics({})


def test_scales_lead_back_to_likes_and_ratios() -> None:
    ratios = np.array([0.2, 0.5, 0.93, 1.0])
    np.testing.assert_allclose(modelling.shown("upvote_ratio", modelling.learned("upvote_ratio", ratios)), ratios)
    likes = np.array([0.0, 3.0, 9000.0])
    np.testing.assert_allclose(modelling.shown("likes", modelling.learned("likes", np.log1p(likes))), likes)


def test_median_of_a_subreddit_that_is_not_in_training_is_that_of_all() -> None:
    medians = Medians.of(pd.Series([0.0, 0.0, 1.0]), pd.Series([1.0, 3.0, 9.0]))
    assert medians.predict(pd.Series([1.0, 0.0, np.nan])).tolist() == [9.0, 2.0, 3.0]
