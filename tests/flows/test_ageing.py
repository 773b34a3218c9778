"""How models age: a world that moves makes old versions worse, one that stands still does not, and few say nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import ageing
from flows.ageing import DAY, Aged
from flows.electricity.monitored import DEMAND
from flows.evaluation import Score

END = datetime(2026, 3, 1, tzinfo=UTC)
WEEKS = 6


def said(level: float, *, noise: float = 50.0) -> pd.DataFrame:
    """Four weeks of one zone whose demand is about 1,500 MW: forecasts of a version that learned another level."""
    hours = pd.date_range(END, periods=24 * 28, freq="h")
    rng = np.random.default_rng(7)
    demand = 1500 + rng.normal(0, noise, len(hours))
    return pd.DataFrame(
        {"zone": "N.Y.C.", "hour": hours, "horizon_hours": 24, "issued_at": hours - timedelta(days=1),
         "demand_mw": demand, "baseline_mw": 1400.0, "forecast_mw": level}
    )  # fmt: skip


def studied(levels: list[float]) -> list[Aged]:
    """The freshest version first, each a week older than the one before it."""
    frames = {len(levels) - i: said(level) for i, level in enumerate(levels)}
    ends = {number: END - i * 7 * DAY for i, number in enumerate(frames)}
    return ageing.compare(ageing.side_by_side(frames, DEMAND), ends, DEMAND)


def test_where_the_world_moves_the_advice_is_the_age_from_which_every_version_is_worse() -> None:
    aged = studied([1500, 1499, 1498, 1470, 1450, 1400])
    assert [each.older_by / DAY for each in aged] == [0, 7, 14, 21, 28, 35]
    assert [each.is_surely_worse for each in aged] == [False, False, False, True, True, True]
    assert aged[5].value == pytest.approx((said(1400)["demand_mw"] - 1400).abs().mean())
    advice = ageing.advice(aged)
    assert advice.every == 21 * DAY
    assert "Up to 14 days none is" in advice.text
    assert "n 672" in advice.text


def test_where_the_world_stands_still_there_is_no_reason_to_train_more_often() -> None:
    advice = ageing.advice(studied([1500.0] * WEEKS))
    assert advice.every is None
    assert advice.text.startswith("No reason to train more often than every 35 days")
    assert "(0 [0, 0], n 672)" in advice.text


def test_two_versions_make_no_curve() -> None:
    for few in ([], studied([1500.0]), studied([1500.0, 1000.0])):
        advice = ageing.advice(few)
        assert advice.every is None
        assert "Too few versions" in advice.text


def test_a_bad_version_among_good_older_ones_is_not_old_age() -> None:
    assert ageing.advice(studied([1500, 1300, 1500, 1500])).every is None
    mixed = ageing.advice(studied([1500, 1300, 1500, 1300, 1300]))
    assert mixed.every == 21 * DAY
    assert "not their age" in mixed.text


def test_versions_are_compared_on_the_rows_that_all_of_them_have() -> None:
    fresh, old = said(1500), said(1400)
    rows = ageing.side_by_side({2: fresh.iloc[10:], 1: old.iloc[:500].sample(frac=1, random_state=1)}, DEMAND)
    assert len(rows) == 490
    assert (rows["version_1"] == 1400).all()
    assert rows["hour"].is_monotonic_increasing


def test_too_few_rows_give_no_interval_and_so_no_advice() -> None:
    frames = {number: said(1500 - number).head(20) for number in (3, 2, 1)}
    ends = {number: END - (3 - number) * DAY for number in frames}
    aged = ageing.compare(ageing.side_by_side(frames, DEMAND), ends, DEMAND)
    assert all(each.behind is None for each in aged)
    assert "Too few versions" in ageing.advice(aged).text


@given(st.lists(st.booleans(), min_size=2, max_size=12))
def test_advice_is_the_first_age_beyond_which_no_version_is_as_good(worse: list[bool]) -> None:
    older = [
        Aged(1, END, (i + 1) * 7 * DAY, 1.0, Score("", 0.1, 0.05 if is_worse else -0.05, 0.2, 100))
        for i, is_worse in enumerate(worse)
    ]
    advice = ageing.advice([Aged(2, END, 0 * DAY, 1.0), *older])
    beyond = [i for i in range(len(worse)) if all(worse[i:])]
    assert advice.every == ((beyond[0] + 1) * 7 * DAY if beyond else None)


def test_spread_keeps_first_and_last_and_the_order() -> None:
    times = [END - i * DAY for i in range(50)]
    chosen = ageing.spread(times, 12)
    assert len(chosen) == 12
    assert (chosen[0], chosen[-1]) == (times[0], times[-1])
    assert chosen == sorted(chosen, reverse=True)
