"""Joins as it was known: what had been committed by each row's time, and nothing that came later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import Feature, FeatureGroup, FeatureStore, NotReproducible, connect

START = datetime(2021, 1, 1, tzinfo=UTC)


class Clock:
    """The present, which a test sets to a day (and hour) of January 2021."""

    def __init__(self) -> None:
        self.day(1)

    def day(self, number: int, hour: int = 0) -> None:
        self.now = datetime(2021, 1, number, hour, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fs(tmp_path: Path, clock: Clock) -> Iterator[FeatureStore]:
    store = connect(tmp_path, clock=clock)
    yield store
    store.close()


def days(*numbers: int) -> pd.DatetimeIndex:
    return pd.to_datetime([f"2021-01-{n:02d}" for n in numbers])


def daily_labels(fs: FeatureStore) -> FeatureGroup:
    """One label a day on key 1, days 1 to 9."""
    labels = fs.get_or_create_feature_group("labels", 1, primary_key=["id"], event_time="day")
    labels.insert(pd.DataFrame({"id": range(1, 10), "k": 1, "day": days(*range(1, 10))}))
    return labels


def known(labels: FeatureGroup, group: FeatureGroup, **options: Any) -> list[Any]:
    query = labels.select(["id"]).join(group.select(["x"]))
    return query.read("arrow", as_known=True, **options).column("x").to_pylist()


def test_late_corrected_and_deleted_rows_count_only_while_they_were_known(fs: FeatureStore, clock: Clock) -> None:
    """J9: each label sees the version then current: 20 before its correction, 30 only between commit and deletion."""
    group = fs.get_or_create_feature_group("values", 1, primary_key=["k"], event_time="day")
    clock.day(2)
    group.insert(pd.DataFrame({"k": 1, "day": days(1, 2), "x": [10, 20]}))
    clock.day(5)
    group.insert(pd.DataFrame({"k": 1, "day": days(2, 3), "x": [21, 30]}))  # a correction and a late row
    clock.day(7)
    group.remove_rows(pd.DataFrame({"k": [1], "day": days(3)}))
    labels = daily_labels(fs)
    query = labels.select(["id"]).join(group.select(["x"]))
    assert query.read("arrow").column("x").to_pylist() == [10, 21, 21, 21, 21, 21, 21, 21, 21], "as we know today"
    assert known(labels, group) == [None, 20, 20, 20, 30, 30, 21, 21, 21], "as it was known each day"
    assert known(labels, group, start_time="2021-01-06") == [30, 21, 21, 21]


def test_a_row_deleted_and_inserted_again_was_absent_between(fs: FeatureStore, clock: Clock) -> None:
    """J9: days 4 and 5 fall back to the older row."""
    group = fs.get_or_create_feature_group("values", 1, primary_key=["k"], event_time="day")
    clock.day(1)
    group.insert(pd.DataFrame({"k": 1, "day": days(1, 2), "x": [10, 20]}))
    clock.day(4)
    group.remove_rows(pd.DataFrame({"k": [1], "day": days(2)}))
    clock.day(6)
    group.insert(pd.DataFrame({"k": 1, "day": days(2), "x": [22]}))
    assert known(daily_labels(fs), group) == [10, 20, 20, 10, 10, 22, 22, 22, 22]


def test_group_without_time_is_the_one_then_stored(fs: FeatureStore, clock: Clock) -> None:
    """J9: by key alone, the row that was stored at the label's time."""
    group = fs.get_or_create_feature_group("people", 1, primary_key=["k"])
    clock.day(3)
    group.insert(pd.DataFrame({"k": [1, 2], "x": [1, 2]}))
    clock.day(5)
    group.insert(pd.DataFrame({"k": [1], "x": [5]}))
    clock.day(8)
    group.insert(pd.DataFrame({"k": [2], "x": [8]}), overwrite=True)
    assert known(daily_labels(fs), group) == [None, None, 1, 1, 5, 5, 5, None, None]


def test_files_that_are_gone_are_named_when_they_matter(fs: FeatureStore, clock: Clock) -> None:
    """J9: what was known then can no longer be told; later than the correction it can."""
    group = fs.get_or_create_feature_group("values", 1, primary_key=["k"], event_time="day")
    clock.day(2)
    group.insert(pd.DataFrame({"k": 1, "day": days(1), "x": [10]}))
    [old] = group.snapshot().between()
    clock.day(5)
    group.insert(pd.DataFrame({"k": 1, "day": days(1), "x": [11]}))
    Path(old).unlink()
    labels = daily_labels(fs)
    with pytest.raises(NotReproducible, match=r"known of values_v1.*vacuum"):
        known(labels, group)
    assert known(labels, group, start_time="2021-01-05") == [11] * 5


_hours = st.integers(0, 12)
_rows = st.dictionaries(st.tuples(st.integers(1, 2), _hours), st.integers(-9, 9), max_size=5)
_commits = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), _rows),
        st.tuples(st.just("overwrite"), _rows),
        st.tuples(st.just("remove"), st.lists(st.tuples(st.integers(1, 2), _hours), min_size=1, max_size=3)),
        st.tuples(st.just("optimize"), st.none()),
    ),
    max_size=7,
)


def _frame(keys: Iterable[tuple[int, int]], x: Iterable[int] | None = None) -> pd.DataFrame:
    frame = pd.DataFrame([(k, START + timedelta(hours=h)) for k, h in keys], columns=["k", "at"])
    frame = frame.astype({"k": "int64", "at": "datetime64[us, UTC]"})
    return frame if x is None else frame.assign(x=pd.Series(list(x), dtype="int64"))


@settings(max_examples=25, deadline=None)
@given(commits=_commits, spine=st.lists(st.tuples(st.integers(1, 3), _hours), max_size=8))
def test_a_group_as_known_equals_the_state_of_each_moment(
    commits: list[tuple[str, Any]], spine: list[tuple[int, int]]
) -> None:
    """J9: after any inserts, corrections, deletions, overwrites and compactions, against a dictionary per commit."""
    now = [START - timedelta(hours=1)]
    with TemporaryDirectory() as home:
        fs = connect(home, clock=lambda: now[0])
        features = [Feature("k", "bigint"), Feature("at", "timestamp"), Feature("x", "bigint")]
        group = fs.get_or_create_feature_group("values", 1, primary_key=["k"], event_time="at", features=features)
        state: dict[tuple[int, int], int] = {}
        past = [(now[0], state)]
        for number, (what, rows) in enumerate(commits):
            now[0] = START + timedelta(hours=2 * number)
            if what == "insert":
                group.insert(_frame(rows, rows.values()))
                state = {**state, **rows}
            elif what == "overwrite":
                group.insert(_frame(rows, rows.values()), overwrite=True)
                state = dict(rows)
            elif what == "remove":
                group.remove_rows(_frame(rows))
                state = {key: x for key, x in state.items() if key not in rows}
            else:
                group.optimize()
            past.append((now[0], state))
        expected = []
        for key, hour in spine:
            then = [s for at, s in past if at <= START + timedelta(hours=hour)][-1]
            newest = max((h for k, h in then if k == key and h <= hour), default=None)
            expected.append(None if newest is None else then[key, newest])
        frame = pd.DataFrame({"key": [k for k, _ in spine]}).astype("int64")
        frame["at"] = pd.to_datetime([START + timedelta(hours=h) for _, h in spine], utc=True).astype(
            "datetime64[us, UTC]"
        )
        query = group.select(["x"])
        found = fs.training_frame(frame.rename(columns={"key": "k"}), query, as_known=True, dataframe_type="arrow")
        fs.close()
    assert found.column("x").to_pylist() == expected
