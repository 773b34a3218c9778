"""Training, validation and test as stretches of time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import InvalidData
from flows import splitting
from flows.splitting import SplitPlan

END = datetime(2026, 4, 1, tzinfo=UTC)
PLAN = SplitPlan(label_delay=timedelta(days=7), validation_share=0.14, test_share=0.2, longest_test=timedelta(days=365))


@given(days=st.integers(45, 3000), burn_in=st.sampled_from([0.0, 1 / 6]))
def test_splits_follow_one_another_with_the_label_delay_before_the_test(days: int, burn_in: float) -> None:
    """T3: who chose anything on validation knew all its labels when the test began."""
    first = END - timedelta(days=days)
    splits = splitting.splits_of(first, END, replace(PLAN, burn_in_share=burn_in))
    assert first <= splits.train.start < splits.train.end == splits.validation.start < splits.validation.end
    assert (first == splits.train.start) == (burn_in == 0)
    assert splits.test.start - splits.validation.end == PLAN.label_delay
    assert splits.whole.end == splits.test.end == END
    assert splits.test.end - splits.test.start <= timedelta(days=365)


@given(days=st.integers(-10, 44))
def test_a_span_too_short_for_three_splits_says_what_to_do(days: int) -> None:
    with pytest.raises(InvalidData, match=rf"{max(days, 0)} days: too few.*Run the feature pipeline for more history"):
        splitting.splits_of(END - timedelta(days=days), END, PLAN)


def test_a_label_delay_that_leaves_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(InvalidData, match="40 days between them"):
        splitting.splits_of(END - timedelta(days=60), END, replace(PLAN, label_delay=timedelta(days=40)))


@given(folds=st.integers(1, 5), length=st.integers(1, 20), gap=st.integers(0, 5))
def test_folds_move_forward_never_overlap_and_leave_the_gap(folds: int, length: int, gap: int) -> None:
    """T6, T7: each fold trains on the past of its validation only."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    end = start + timedelta(days=folds * length + gap + 1)
    found = splitting.rolling_origin(
        start, end, folds=folds, validation=timedelta(days=length), gap=timedelta(days=gap)
    )  # fmt: skip
    assert len(found) == folds
    assert found[-1][1].end == end
    for train, validation in found:
        assert train.start == start < train.end
        assert validation.start - train.end == timedelta(days=gap)
    assert all(one[1].end == two[1].start for one, two in pairwise(found))


def test_folds_without_room_say_what_to_do() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.raises(InvalidData, match="Use fewer or shorter ones"):
        splitting.rolling_origin(
            start, start + timedelta(days=9), folds=3, validation=timedelta(days=3), gap=timedelta(0)
        )  # fmt: skip
