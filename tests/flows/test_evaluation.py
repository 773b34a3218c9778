"""Metrics against hand-worked values and scikit-learn; intervals against their laws."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from featurestore.errors import InvalidData
from flows import evaluation

# Few distinct scores, so that ties are the rule.
rows = st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9])), min_size=2, max_size=40)


def blocks_of_two(n: int) -> list[int]:
    return [i // 2 for i in range(n)]


# --- metrics


@given(rows)
def test_average_precision_equals_scikit_learn(sample):
    from sklearn.metrics import average_precision_score

    y, score = zip(*sample, strict=True)
    assume(any(y))
    assert evaluation.average_precision(y, score) == pytest.approx(average_precision_score(y, score))


@given(rows)
def test_roc_auc_equals_scikit_learn(sample):
    from sklearn.metrics import roc_auc_score

    y, score = zip(*sample, strict=True)
    assume(0 < sum(y) < len(y))
    assert evaluation.roc_auc(y, score) == pytest.approx(roc_auc_score(y, score))


def test_constant_score_has_the_prevalence_as_average_precision():
    assert evaluation.average_precision([1, 0, 0, 0], [0.5] * 4) == 0.25


def test_nullable_integers_of_a_view_frame_are_labels():
    y = pd.Series([1, 0, 1], dtype="Int64")
    assert evaluation.average_precision(y, pd.Series([0.9, 0.1, 0.8])) == 1.0


def test_null_label_is_refused():
    with pytest.raises(InvalidData, match="y has 1 null"):
        evaluation.average_precision(pd.Series([1, None], dtype="Int64"), [0.5, 0.5])


@pytest.mark.parametrize(
    ("y", "score", "message"),
    [
        ([0, 2], [0.1, 0.2], "y holds 2"),
        ([0, 1], [0.1], "y has 2 rows and score 1"),
        ([], [], "at least one"),
        ([0, 1], [0.1, float("inf")], "score has 1 null or infinite"),
        ([0, 0], [0.1, 0.2], "at least one positive row; there are none in 2"),
    ],
)
def test_bad_samples_are_refused_with_what_is_wrong(y, score, message):
    with pytest.raises(InvalidData, match=message):
        evaluation.average_precision(y, score)


def test_precision_top_k_takes_earlier_rows_of_equal_scores():
    assert evaluation.precision_top_k([1, 0, 0], [0.5, 0.5, 0.5], k=1) == 1.0
    assert evaluation.precision_top_k([1, 0], [0.5, 0.4], k=10) == 0.5


def test_card_counts_once_a_day_with_its_highest_score():
    """One day, k = 2: card a is called for its 0.9, b for its 0.5; a's fraud is on another row of that day."""
    score = evaluation.precision_top_k_per_day(
        [0, 1, 0, 0], [0.9, 0.3, 0.5, 0.2], days=[1] * 4, entities=["a", "a", "b", "c"], k=2
    )
    assert score.value == 0.5


def test_found_card_is_blocked_unless_told_otherwise():
    """Day 2: a has the highest score again. Blocked, the one call goes to b, which is honest."""
    sample = {"days": [1, 2, 2], "entities": ["a", "a", "b"], "k": 1}
    y, score = [1, 1, 0], [0.9, 0.9, 0.5]
    assert evaluation.precision_top_k_per_day(y, score, **sample).value == 0.5
    assert evaluation.precision_top_k_per_day(y, score, **sample, block_detected=False).value == 1.0


def test_calibrated_score_has_no_calibration_error():
    y = [0, 0, 0, 1, 0, 1, 1, 1]
    score = [0.25] * 4 + [0.75] * 4
    assert evaluation.calibration_error(y, score, bins=2) == pytest.approx(0.0)
    assert [part.n for part in evaluation.calibration(y, score, bins=2)] == [4, 4]


# --- intervals


def sample(n: int = 2000, days: int = 20, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.1).astype(int)
    return y, np.round(rng.random(n) + 0.7 * y, 2), np.repeat(np.arange(days), n // days)


@pytest.mark.parametrize("metric", ["average_precision", "roc_auc", "brier"])
def test_bootstrap_by_weights_equals_bootstrap_by_repeated_rows(metric):
    """The fast way gives the values that drawing the rows of each block and scoring them gives."""
    y, score, days = sample(200, 5)
    point = {"average_precision": evaluation.average_precision, "roc_auc": evaluation.roc_auc}.get(
        metric, evaluation.brier
    )
    draws = np.random.default_rng(7).multinomial(5, np.full(5, 1 / 5), size=20)
    slow = []
    for counts in draws:
        drawn = np.concatenate([np.tile(np.flatnonzero(days == day), count) for day, count in enumerate(counts)])
        slow.append(point(y[drawn], score[drawn]))
    bounds = np.quantile(slow, [0.025, 0.975])
    fast = evaluation.interval(metric, y, score, blocks=days, name="fast", resamples=20, seed=7)
    assert (fast.low, fast.high) == pytest.approx(tuple(bounds))


def test_same_seed_gives_the_same_interval_and_another_seed_another():
    y, score, days = sample()
    first = evaluation.interval("average_precision", y, score, blocks=days, name="a", resamples=100)
    assert first == evaluation.interval("average_precision", y, score, blocks=days, name="a", resamples=100)
    assert first != evaluation.interval("average_precision", y, score, blocks=days, name="a", resamples=100, seed=1)
    assert first.low < first.value < first.high


def test_row_order_does_not_matter():
    y, score, days = sample()
    shuffled = np.random.default_rng(0).permutation(len(y))
    once = evaluation.interval("average_precision", y, score, blocks=days, name="a", resamples=50)
    again = evaluation.interval(
        "average_precision", y[shuffled], score[shuffled], blocks=days[shuffled], name="a", resamples=50
    )
    assert (once.low, once.high) == pytest.approx((again.low, again.high))


def test_blocks_may_be_dates_or_names():
    y, score, days = sample(100, 5)
    dates = pd.Series(pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(days, "D"))
    by_number = evaluation.interval("roc_auc", y, score, blocks=days, name="a", resamples=50)
    assert by_number == evaluation.interval("roc_auc", y, score, blocks=dates, name="a", resamples=50)
    assert by_number == evaluation.interval("roc_auc", y, score, blocks=dates.dt.date, name="a", resamples=50)


def test_one_block_has_no_interval():
    with pytest.raises(InvalidData, match="at least two blocks"):
        evaluation.interval("roc_auc", [0, 1], [0.1, 0.9], blocks=[1, 1], name="a")


def test_resamples_without_a_positive_are_left_out():
    """Half of the draws of two blocks miss the only one with a positive half the time; the rest are all 1.0."""
    score = evaluation.interval("average_precision", [1, 0, 0, 0], [0.9, 0.1, 0.2, 0.3], blocks=[1, 1, 2, 2], name="a")
    assert (score.low, score.high) == (1.0, 1.0)


def test_paired_difference_is_narrower_than_two_intervals():
    y, score, days = sample()
    nearly = score + np.random.default_rng(3).normal(0, 0.02, len(score))
    gain = evaluation.difference("average_precision", y, score, nearly, blocks=days, resamples=200)
    alone = evaluation.interval("average_precision", y, score, blocks=days, name="a", resamples=200)
    assert gain.high - gain.low < (alone.high - alone.low) / 2


def test_lower_brier_is_the_better_one():
    gain = evaluation.difference("brier", [0, 1, 0, 1], [0.0, 1.0] * 2, [0.5] * 4, blocks=[1, 1, 2, 2])
    assert (gain.value, gain.low) == (0.25, 0.25)


# --- the gate


def test_better_challenger_is_accepted_with_the_numbers_as_reason():
    y, score, days = sample()
    decision = evaluation.beats(y, score, {"prevalence": np.full(len(y), 0.1)}, blocks=days, resamples=100)
    assert decision.accepted
    assert decision.reasons[0].startswith("better than prevalence by ")
    assert decision.differences[0].low > 0


def test_equal_challenger_is_not_better_than_the_champion():
    y, score, days = sample()
    decision = evaluation.beats(y, score, {"champion": score}, blocks=days, resamples=100)
    assert not decision.accepted
    assert decision.reasons[0].startswith("not better than champion by 0.000 [0.000, 0.000]")


def test_gain_below_the_margin_is_not_enough():
    y, score, days = sample()
    others = {"constant": np.full(len(y), 0.1)}
    assert not evaluation.beats(y, score, others, blocks=days, margin=0.99, resamples=100).accepted


def test_one_lost_comparison_rejects():
    y, score, days = sample()
    others = {"constant": np.full(len(y), 0.1), "oracle": y.astype(float)}
    decision = evaluation.beats(y, score, others, blocks=days, resamples=100)
    assert not decision.accepted
    assert [reason.split(" than ")[0] for reason in decision.reasons] == ["better", "not better"]


def test_nothing_to_beat_is_refused():
    with pytest.raises(InvalidData, match="Nothing to beat"):
        evaluation.beats([0, 1], [0.1, 0.9], {}, blocks=[1, 2])


# --- slices


def test_slices_name_nulls_and_small_groups():
    parts = evaluation.slices(
        [1, 0, 1, 0, 1],
        [0.9, 0.1, 0.8, 0.2, 0.5],
        {"category": pd.Series(["food", "food", None, None, "fuel"]), "night": [True, True, False, False, False]},
        minimum_rows=2,
        minimum_positives=1,
    )
    found = {(part.column, part.value): (part.n, part.score, part.note) for part in parts}
    assert found == {
        ("category", "food"): (2, 1.0, ""),
        ("category", "fuel"): (1, None, "n too small (1 row, 1 positive; needs 2 and 1)"),
        ("category", "null"): (2, 1.0, ""),
        ("night", "False"): (3, 1.0, ""),
        ("night", "True"): (2, 1.0, ""),
    }


# --- thresholds


def brute_force_cost(y, score, amounts, cost_false_alarm) -> float:
    candidates = [*score, max(score) + 1]
    return min(
        evaluation.cost_of_threshold(y, score, amounts, threshold=t, cost_false_alarm=cost_false_alarm)
        for t in candidates
    )


@given(rows, st.sampled_from([0.5, 3.0, 1000.0]))
def test_chosen_threshold_is_the_cheapest_and_costs_what_it_says(sample, cost_false_alarm):
    y, score = zip(*sample, strict=True)
    amounts = [10.0 + i for i in range(len(y))]
    chosen = evaluation.choose_threshold(y, score, amounts, cost_false_alarm=cost_false_alarm)
    at = evaluation.cost_of_threshold(y, score, amounts, threshold=chosen.value, cost_false_alarm=cost_false_alarm)
    assert chosen.cost == pytest.approx(at)
    assert chosen.cost == pytest.approx(brute_force_cost(y, score, amounts, cost_false_alarm))
    flagged = np.array(score) >= chosen.value
    assert (chosen.alarms, chosen.caught) == (flagged.sum(), np.array(y)[flagged].sum())


def test_no_alarm_when_none_pays():
    chosen = evaluation.choose_threshold([0, 1], [0.2, 0.1], [5.0, 5.0], cost_false_alarm=100)
    assert chosen.alarms == 0
    assert chosen.value > 0.2
    assert chosen.cost == chosen.cost_without == 5.0


def test_threshold_survives_scores_stored_as_float32():
    y, score = [0, 1, 0, 1], np.array([0.1, 0.7, 0.3, 0.6])
    chosen = evaluation.choose_threshold(y, score, [9.0] * 4, cost_false_alarm=1)
    assert ((score >= chosen.value) == (score.astype(np.float32) >= chosen.value)).all()


@pytest.mark.parametrize(("amounts", "cost"), [([1, -1], 1.0), ([1, 1], 0.0), ([1], 1.0)])
def test_senseless_costs_are_refused(amounts, cost):
    with pytest.raises(InvalidData, match=r"amounts|cost_false_alarm"):
        evaluation.choose_threshold([0, 1], [0.1, 0.9], amounts, cost_false_alarm=cost)


# --- guards


def test_training_window_without_frauds_says_what_to_do():
    with pytest.raises(InvalidData, match=r"the train split has 0 positives \(needs 20\).*Widen the windows"):
        evaluation.check_enough({"train": ([0] * 600, np.arange(600) % 30)})


def test_every_shortage_is_named():
    with pytest.raises(InvalidData) as error:
        evaluation.check_enough({"train": ([0] * 600, [1] * 600), "test": ([1] * 30, list(range(30)))})
    for words in ["1 distinct days (needs 5)", "the test split has 30 rows (needs 500), 0 negatives (needs 1)"]:
        assert words in str(error.value)


def test_enough_passes():
    evaluation.check_enough({"train": ([0, 1] * 300, np.arange(600) % 30)})


# --- pictures


def test_plots_are_png_of_moderate_size_and_equal_for_equal_input():
    y, score, _ = sample()
    scores = {"xgboost": score, "logistic": score * 0, "prevalence": np.full(len(y), 0.1)}
    first, second = (evaluation.precision_recall_plot(y, scores, title="fraud", threshold=1.2) for _ in range(2))
    bars = evaluation.importance_plot({f"feature_{i}": 1 / (i + 1) for i in range(30)}, title="fraud", top=10)
    assert first == second
    for png in (first, bars):
        assert png.startswith(b"\x89PNG")
        assert 5_000 < len(png) < 200_000


def test_importances_of_nothing_are_still_a_picture():
    assert evaluation.importance_plot({}, title="empty").startswith(b"\x89PNG")
