"""Rows of late beside those a model was judged on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flows import drifting
from flows.drifting import Before

START, DAY, WEEK = datetime(2026, 1, 1, tzinfo=UTC), timedelta(days=1), timedelta(days=7)
NOW = START + 100 * DAY
IMPORTANCE = {"amount": 0.5, "hour": 0.3, "category": 0.1}


def rows_of(days: int, *, seed: int = 0, per_day: int = 40) -> tuple[pd.DataFrame, pd.Series]:
    """Three columns that never change, and one that a season moves."""
    rng = np.random.default_rng(seed)
    times = pd.Series(START + np.repeat(np.arange(days), per_day) * DAY).dt.as_unit("us")
    day = (times - times.min()).dt.days.to_numpy()
    n = len(times)
    return pd.DataFrame({
        "category": rng.integers(0, 5, n), "amount": rng.lognormal(3, 1, n), "hour": rng.integers(0, 24, n),
        "temperature": 20 * np.sin(day / 20) + rng.normal(0, 1, n), drifting.PREDICTION: rng.beta(1, 9, n),
    }), times  # fmt: skip


def compared(recent: pd.DataFrame, **kwargs: Any) -> dict[str, dict[str, Any]]:
    reference, times = rows_of(80)
    options: dict[str, Any] = {"length": WEEK, "importance": IMPORTANCE, "before": {}, "now": NOW}
    found = drifting.compare(reference, recent, times, **(options | kwargs))
    return {row["feature"]: row for row in found}


def states(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: row["state"] for name, row in found.items()}


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_the_same_kind_have_not_drifted(seed: int) -> None:
    recent, _ = rows_of(7, seed=100 + seed)
    assert set(states(compared(recent)).values()) == {"same"}


def test_a_shifted_column_is_found_and_the_others_are_not() -> None:
    recent, _ = rows_of(7, seed=1)
    found = compared(recent.assign(amount=recent["amount"] * 3))
    assert {name for name, state in states(found).items() if state == "drifted"} == {"amount"}
    row = found["amount"]
    assert row["value"] > row["limit"] >= drifting.LIMIT
    assert (row["since"], row["distance"], row["importance"]) == (NOW, "hellinger", 0.5)


def test_what_the_model_says_is_compared_too_and_ranks_first() -> None:
    recent, _ = rows_of(7, seed=1)
    found = compared(recent.assign(amount=recent["amount"] * 3, **{drifting.PREDICTION: 0.9}))
    assert list(found)[:2] == [drifting.PREDICTION, "amount"]


def test_drifted_columns_come_first_and_then_those_that_matter_most() -> None:
    recent, _ = rows_of(7, seed=1)
    assert list(compared(recent)) == [drifting.PREDICTION, "amount", "hour", "category", "temperature"]
    moved = recent.assign(category=9, hour=30)
    assert list(compared(moved))[:3] == ["hour", "category", drifting.PREDICTION]


def test_a_column_that_goes_missing_has_drifted_also_where_it_may_move_far() -> None:
    recent, _ = rows_of(7, seed=1)
    some = recent.assign(amount=recent["amount"].where(np.arange(len(recent)) % 3 > 0))
    assert states(compared(some))["amount"] == "drifted"
    assert compared(some)["amount"]["null_share_now"] == pytest.approx(1 / 3, abs=0.01)
    assert compared(some)["amount"]["null_share_then"] == 0
    half = recent.assign(temperature=recent["temperature"].where(np.arange(len(recent)) % 2 > 0))
    row = compared(half)["temperature"]
    assert (row["state"], row["distance"]) == ("drifted", drifting.NULLS)
    assert compared(recent)["temperature"]["limit"] > 2 * row["limit"]


def test_a_column_with_a_season_has_the_limit_that_its_seasons_give_it() -> None:
    recent, _ = rows_of(7, seed=1)
    found = compared(recent)["temperature"]
    assert found["value"] > drifting.LIMIT  # one week of the season beside all of it
    assert found["state"] == "same"


def test_a_slow_median_with_few_values_that_change_a_little_has_not_drifted() -> None:
    """Ten subreddits, whose monthly medians all change in the second digit from one week to the next."""
    _, times = rows_of(80)
    medians = np.linspace(1, 5, 10)
    week = ((times - times.min()).dt.days // 20).to_numpy()
    which = np.random.default_rng(0).integers(0, 10, len(times))
    then = pd.DataFrame({"median": medians[which] + 0.01 * week})
    recent = pd.DataFrame({"median": medians[which[:280]] + 0.05})
    options: dict[str, Any] = {"length": WEEK, "importance": {}, "before": {}, "now": NOW}
    (row,) = drifting.compare(then, recent, times, **options)
    assert row["value"] > row["limit"]
    assert row["moved"] < drifting.LEAST_MOVED
    assert row["state"] == "same"
    (row,) = drifting.compare(then, recent + 1.0, times, **options)
    assert row["state"] == "drifted"
    assert row["moved"] > 0.5


def test_the_order_of_rows_changes_nothing() -> None:
    recent, _ = rows_of(7, seed=1)
    reference, times = rows_of(80)
    shuffled = reference.sample(frac=1, random_state=3)
    options: dict[str, Any] = {"length": WEEK, "importance": IMPORTANCE, "before": {}, "now": NOW}
    found = drifting.compare(
        shuffled.reset_index(drop=True), recent.sample(frac=1, random_state=4),
        times.loc[shuffled.index].reset_index(drop=True), **options,
    )  # fmt: skip
    expected = list(compared(recent).values())
    assert [row["feature"] for row in found] == [row["feature"] for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["value"] == pytest.approx(theirs["value"])
        assert ours["limit"] == pytest.approx(theirs["limit"])


def test_too_few_rows_say_nothing() -> None:
    recent, _ = rows_of(1, seed=1)
    assert compared(recent.head(drifting.LEAST_ROWS - 1)) == {}


def test_each_change_is_told_once() -> None:
    recent, _ = rows_of(7, seed=1)
    before: dict[str, Before] = {}
    told = []
    for factor in (1, 3, 3, 1, 1):
        found = list(compared(recent.assign(amount=recent["amount"] * factor), before=before).values())
        told.append({state: names for state, names in drifting.changes(found, before).items() if names})
        before = {row["feature"]: Before(row["state"], row["since"]) for row in found}
    assert told == [{}, {"drifted": ["amount"]}, {}, {"same": ["amount"]}, {}]


def test_a_drifted_column_is_back_only_when_it_is_well_below_its_limit() -> None:
    recent, _ = rows_of(7, seed=1)
    moved = (recent.assign(amount=recent["amount"] * factor) for factor in np.linspace(1, 3, 41))
    near = next(rows for rows in moved if 0.85 < compared(rows)["amount"]["value"] / drifting.LIMIT < 1)
    assert states(compared(near))["amount"] == "same"
    assert states(compared(near, before={"amount": Before("drifted", NOW)}))["amount"] == "drifted"


def test_rows_of_the_group_have_its_columns_and_come_back_as_what_was_found_before() -> None:
    recent, _ = rows_of(7, seed=1)
    found = list(compared(recent.assign(amount=recent["amount"] * 3)).values())
    rows = drifting.as_frame(
        found, model="m", system="demo", model_version=1, measured_at=NOW, window_start=NOW - WEEK, window_end=NOW,
        rows=len(recent), reference_rows=3200,
    )  # fmt: skip
    assert list(rows) == [feature.name for feature in drifting.FEATURES]
    assert drifting.before(rows, "m")["amount"] == Before("drifted", NOW)
    assert drifting.before(rows, "other") == {}


def test_a_short_test_split_is_compared_with_a_short_window() -> None:
    """So that there are enough stretches of that length to know how far they differ by themselves."""
    _, times = rows_of(80)
    assert drifting.length_of(times, timedelta(days=28)) == timedelta(days=15)
    assert drifting.length_of(times, timedelta(days=3)) == timedelta(days=3)
    assert drifting.length_of(times.head(1), WEEK) == DAY
