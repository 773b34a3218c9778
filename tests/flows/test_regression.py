"""Errors, skill, gate and folds for forecasts of numbers: worked out by hand, and as laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import InvalidData
from flows import regression

quick = settings(max_examples=40, deadline=None)
numbers = st.lists(st.floats(1, 1000), min_size=4, max_size=30)


def test_metrics_worked_out_by_hand() -> None:
    y, forecast = [100.0, 200.0, 400.0], [110.0, 180.0, 400.0]
    assert regression.mae(y, forecast) == 10.0
    assert regression.rmse(y, forecast) == pytest.approx((500 / 3) ** 0.5)
    assert regression.mape(y, forecast) == pytest.approx(20 / 3)


@quick
@given(y=numbers, seed=st.integers(0, 99))
def test_metrics_equal_scikit_learn(y: list[float], seed: int) -> None:
    from sklearn import metrics

    forecast = np.random.default_rng(seed).uniform(1, 1000, len(y))
    assert regression.mae(y, forecast) == pytest.approx(metrics.mean_absolute_error(y, forecast))
    assert regression.rmse(y, forecast) == pytest.approx(metrics.root_mean_squared_error(y, forecast))
    assert regression.mape(y, forecast) == pytest.approx(100 * metrics.mean_absolute_percentage_error(y, forecast))


@quick
@given(y=numbers, seed=st.integers(0, 99))
def test_interval_holds_its_value_roughly_and_is_the_same_for_the_same_seed(y: list[float], seed: int) -> None:
    forecast = np.random.default_rng(seed).uniform(1, 1000, len(y))
    blocks = np.arange(len(y)) % 4
    first, again = (regression.interval("mae", y, forecast, blocks=blocks, name="x", resamples=100) for _ in range(2))
    assert first == again
    assert first.low <= first.high
    assert first.value == pytest.approx(regression.mae(y, forecast))


def test_interval_of_equal_blocks_is_a_point() -> None:
    score = regression.interval("rmse", [10, 20, 10, 20], [11, 22, 11, 22], blocks=[1, 1, 2, 2], name="x")
    assert score.low == score.high == pytest.approx(score.value)


def test_perfect_forecast_has_skill_one_and_the_baseline_itself_none() -> None:
    y, baseline = [10.0, 20.0, 30.0], [12.0, 20.0, 33.0]
    assert regression.skill(y, y, baseline, blocks=[1, 2, 3]).value == 1.0
    assert regression.skill(y, baseline, baseline, blocks=[1, 2, 3]).value == 0.0


def test_baseline_without_any_error_is_suspected_of_knowing_the_truth() -> None:
    with pytest.raises(InvalidData, match="Is the truth among its inputs"):
        regression.skill([1.0, 2.0], [1.5, 2.0], [1.0, 2.0], blocks=[1, 2])


def test_gate_asks_for_the_skill_and_for_an_interval_above_zero() -> None:
    """T9: a promotion needs margin and interval, not a bare less-than."""
    rng = np.random.default_rng(0)
    y = rng.uniform(100, 200, 400)
    blocks = np.arange(400) // 20
    naive = y + rng.normal(0, 10, 400)
    much, little = y + rng.normal(0, 5, 400), y + rng.normal(0, 9.5, 400)
    asked = {"naive": 0.3}
    assert regression.beats(y, much, {"naive": naive}, blocks=blocks, least_skill=asked).accepted
    refused = regression.beats(y, little, {"naive": naive}, blocks=blocks, least_skill=asked)
    assert not refused.accepted
    assert refused.reasons[0].startswith("only ")
    assert "(needed 30 %, interval > 0)" in refused.reasons[0]
    lucky = regression.beats([1.0, 2.0], [1.0, 4.0], {"naive": [4.0, 2.5]}, blocks=[1, 2])
    assert lucky.differences[0].value > 0 > lucky.differences[0].low
    assert not lucky.accepted


def test_gate_without_anything_to_beat_or_with_a_skill_against_nobody_is_refused() -> None:
    with pytest.raises(InvalidData, match="Nothing to beat"):
        regression.beats([1.0], [1.0], {}, blocks=[1])
    with pytest.raises(InvalidData, match=r"against \['champion'\]"):
        regression.beats([1.0], [1.0], {"naive": [2.0]}, blocks=[1], least_skill={"champion": 0.1})


def test_slices_are_in_the_order_people_count_and_small_ones_say_so() -> None:
    """T10: too small slices say n too small."""
    y = np.arange(1.0, 25.0)
    parts = regression.slices(y, y + 1, y + 2, {"hour": [2] * 11 + [10] * 11 + [None] * 2}, minimum_rows=3)
    assert [(part.value, part.n) for part in parts] == [("2", 11), ("10", 11), ("null", 2)]
    assert [part.skill for part in parts] == [0.5, 0.5, None]
    assert parts[2].note == "n too small (2; needs 3)"


def test_nulls_and_lengths_that_differ_are_refused() -> None:
    with pytest.raises(InvalidData, match="null or infinite"):
        regression.mae([1.0, None], [1.0, 2.0])
    with pytest.raises(InvalidData, match="expected as many"):
        regression.mae([1.0, 2.0], [1.0])
    with pytest.raises(InvalidData, match="1 of 2 true values are zero"):
        regression.mape([0.0, 2.0], [1.0, 2.0])
    with pytest.raises(InvalidData, match="two blocks"):
        regression.interval("mae", [1.0], [1.0], blocks=[1], name="x")


def test_picture_is_a_png_and_bears_gaps() -> None:
    picture = regression.curves_plot([1, 2, 3], {"came": [1, 2, 3], "operator": [1, None, 3]}, title="demo", unit="MW")
    assert picture.startswith(b"\x89PNG")
