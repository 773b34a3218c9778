"""Training as it was known: features committed after a row's time are left out, or counted; labels are not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import Feature, FeatureGroup, FeatureStore, FeatureView, NotReproducible, connect, late_cells

START = datetime(2021, 1, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def at(self, day: float) -> None:
        self.now = START + timedelta(days=day)


def moment(day: float) -> datetime:
    return START + timedelta(days=day)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fs(tmp_path: Path, clock: Clock) -> Iterator[FeatureStore]:
    store = connect(tmp_path, clock=clock)
    yield store
    store.close()


def group(fs: FeatureStore, name: str, key: str = "k") -> FeatureGroup:
    return fs.get_or_create_feature_group(name, 1, primary_key=[key], event_time="at")


def insert(fs: FeatureStore, name: str, rows: list[tuple[Any, ...]], *columns: str) -> None:
    frame = pd.DataFrame(rows, columns=["k", "at", *columns])
    group(fs, name).insert(frame.assign(at=pd.to_datetime(frame["at"], utc=True)))


def view_of(fs: FeatureStore, name: str = "view", join_type: Any = "left") -> FeatureView:
    """Orders on days 2, 4, 6 of key 1 with what was counted of the key, and whether they were paid."""
    query = (
        group(fs, "orders").select(["amount"])
        .join(group(fs, "counts").select(["n", "m"]), join_type=join_type)
        .join(group(fs, "outcomes").select(["paid"]), join_type="inner")
    )  # fmt: skip
    return fs.get_or_create_feature_view(name, 1, query=query, labels=["paid"])


@pytest.fixture
def told(fs: FeatureStore, clock: Clock) -> FeatureStore:
    """n of day 1 is committed on day 1 and corrected on day 5; n of day 3 is committed only on day 7."""
    clock.at(1)
    insert(fs, "counts", [(1, moment(1), 10, 1)], "n", "m")
    clock.at(5)
    insert(fs, "counts", [(1, moment(1), 11, 1)], "n", "m")
    clock.at(7)
    insert(fs, "counts", [(1, moment(3), 30, 1)], "n", "m")
    insert(fs, "orders", [(1, moment(d), float(d)) for d in (2, 4, 6)], "amount")
    clock.at(30)
    insert(fs, "outcomes", [(1, moment(d), d % 4 == 0) for d in (2, 4, 6)], "paid")
    return fs


def test_late_cells_are_counted_by_column(told: FeatureStore) -> None:
    """J9: of n all three cells came late (a correction, and twice a late row), of m none: 1 is 1; labels do not count.

    In time were 10 for days 2 and 4, and 11 for day 6.
    """
    view = view_of(told)
    version, _ = view.create_training_data()
    x, y = view.get_training_data(version)
    assert x["n"].tolist() == [11, 30, 30]
    assert view.training_dataset(version).late_cells == {"n": 3, "m": 0}
    known, _ = view.create_training_data(as_known=True)
    x, y = view.get_training_data(known)
    assert x["n"].tolist() == [10, 10, 11]
    assert y["paid"].tolist() == [False, True, False], "labels are known only afterwards"
    assert view.training_dataset(known).late_cells == {"n": 0, "m": 0}
    assert view.training_dataset(known).manifest["as_known"] is True


def test_only_the_rows_of_the_training_dataset_count(told: FeatureStore) -> None:
    """J9: rows that a filter, a time or a split leaves out have no cells."""
    view = view_of(told)
    orders = group(told, "orders")
    filtered, _ = view.create_training_data(extra_filter=orders["amount"] > 3)
    timed, _ = view.create_training_data(end_time=moment(5))
    split, _ = view.create_train_test_split(train_end=moment(5), embargo=timedelta(days=2))
    aged, _ = view.create_training_data(max_age=timedelta(hours=36))
    counts = [view.training_dataset(v).late_cells for v in (filtered, timed, split, aged)]
    assert counts == [{"n": 2, "m": 0}, {"n": 2, "m": 0}, {"n": 2, "m": 0}, {"n": 2, "m": 1}]


def test_a_row_that_an_inner_join_would_drop_has_late_cells(fs: FeatureStore, clock: Clock) -> None:
    """J9, J4: nothing was known on day 2, so that row would not be there, and both its cells are late."""
    clock.at(3)
    insert(fs, "counts", [(1, moment(1), 10, 1)], "n", "m")
    insert(fs, "orders", [(1, moment(d), float(d)) for d in (2, 4)], "amount")
    insert(fs, "outcomes", [(1, moment(d), True) for d in (2, 4)], "paid")
    view = view_of(fs, join_type="inner")
    version, _ = view.create_training_data()
    assert view.training_dataset(version).rows == {"all": 2}
    assert view.training_dataset(version).late_cells == {"n": 1, "m": 1}
    known, _ = view.create_training_data(as_known=True)
    assert view.training_dataset(known).rows == {"all": 1}


def test_a_cell_of_a_training_dataset_as_known_is_explained(told: FeatureStore, clock: Clock) -> None:
    """J9: the value that was known then, and for a null that it had not been committed yet."""
    clock.at(7)
    insert(told, "orders", [(1, moment(1), 1.0), (2, moment(2), 1.0)], "amount")
    insert(told, "counts", [(2, moment(1), 20, 1)], "n", "m")
    insert(told, "outcomes", [(1, moment(1), True), (2, moment(2), True)], "paid")
    view = view_of(told)
    known, _ = view.create_training_data(as_known=True)

    def explained(k: int, day: int) -> pd.Series:
        return view.explain({"k": k}, moment(day), training_dataset_version=known).set_index("feature").loc["n"]

    assert explained(1, 4)["value"] == 10, "the correction came on day 5"
    assert explained(1, 4)["committed_at"] == moment(1)
    assert explained(1, 6)["value"] == 11
    assert explained(2, 2)["reason"] == f"no row of k=2 had been committed to counts_v1 by {moment(2)}"


def test_late_cells_of_large_groups_are_counted_when_asked_for(
    told: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """J9: making the dataset does not wait for them; they are those of the pinned versions, whatever came since."""
    view = view_of(told)
    monkeypatch.setattr(late_cells, "ROWS_AT_ONCE", 1)
    version, _ = view.create_training_data()
    assert "late_cells" not in view.training_dataset(version).manifest
    insert(told, "counts", [(1, moment(1), 50, 50)], "n", "m")
    assert view.training_dataset(version).late_cells == {"n": 3, "m": 0}
    assert view.training_dataset(version).manifest["late_cells"] == {"n": 3, "m": 0}
    assert view.verify_training_dataset(version).version == version


def test_a_view_of_one_group_has_no_late_cells(told: FeatureStore) -> None:
    orders = group(told, "orders")
    view = told.create_feature_view("plain", query=orders.select(["amount"]))
    assert view.training_dataset(view.create_training_data()[0]).late_cells == {}


def test_a_training_dataset_as_known_survives_corrections_and_vacuum(told: FeatureStore, clock: Clock) -> None:
    """V2, V3, J9: it pins all that had been known; what vacuum took from others is said to be unknown."""
    view = view_of(told)
    known, _ = view.create_training_data(as_known=True)
    before = view.get_training_data(known)[0]
    clock.at(40)
    insert(told, "counts", [(1, moment(1), 12, 2), (1, moment(3), 31, 2)], "n", "m")
    group(told, "counts").vacuum(retention=timedelta(0))
    view.purge_training_data(known)
    assert view.get_training_data(known)[0].equals(before)
    assert view.verify_training_dataset(known).late_cells == {"n": 0, "m": 0}
    later, _ = view.create_training_data()
    assert view.training_dataset(later).late_cells == {"n": 3, "m": 3}, "what was known then is still there"
    view.delete_training_dataset(known)
    group(told, "counts").vacuum(retention=timedelta(0))
    unknown, _ = view.create_training_data()
    assert view.training_dataset(unknown).late_cells is None


def test_what_was_known_and_vacuumed_meanwhile_is_no_training_dataset(told: FeatureStore, clock: Clock) -> None:
    """V3, C3: the check made before reading finds the files of earlier values gone, and nothing is registered."""
    view = view_of(told)
    clock.at(40)
    plan = view.plan(labels=True).with_hindsight(view.labels)
    usual, known = (told.check_of_files(replace(plan, as_known=k), view.versions()) for k in (False, True))
    group(told, "counts").vacuum(retention=timedelta(0))
    usual()
    with pytest.raises(NotReproducible, match=r"counts_1 can no longer be read"):
        known()
    told.check_of_files(replace(plan, as_known=True), view.versions())()  # what was gone before is not asked for


_days = st.integers(0, 8)
_rows = st.lists(st.tuples(st.integers(1, 2), _days, st.integers(0, 2)), min_size=1, max_size=4)
_orders = st.lists(st.tuples(st.integers(1, 2), _days), min_size=1, max_size=6, unique=True)


@settings(max_examples=12, deadline=None)
@given(commits=st.lists(st.tuples(_days, _rows), max_size=4), orders=_orders, filtered=st.booleans())
def test_late_cells_are_the_difference_between_the_two_frames(
    commits: list[tuple[int, list[tuple[int, int, int]]]], orders: list[tuple[int, int]], filtered: bool
) -> None:
    """J9: whatever was committed when, the count is what a comparison of both training datasets gives."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as home:
        fs = connect(home, clock=clock)
        counts = fs.get_or_create_feature_group(
            "counts", 1, primary_key=["k"], event_time="at", statistics_config=False,
            features=[Feature("k", "bigint"), Feature("at", "timestamp"), Feature("n", "bigint")],
        )  # fmt: skip
        for day, rows in sorted(commits, key=lambda c: c[0]):
            clock.at(day)
            frame = pd.DataFrame(rows, columns=["k", "at", "n"])
            counts.insert(frame.assign(at=[moment(d) for d in frame["at"]]))
        clock.at(20)
        insert(fs, "orders", [(k, moment(d), 1.0) for k, d in orders], "amount")
        joined = counts.select(["n"]).filter(counts["n"] > 0) if filtered else counts.select(["n"])
        view = fs.create_feature_view("view", query=group(fs, "orders").select(["amount"]).join(joined))
        usual, known = (view.create_training_data(as_known=k)[0] for k in (False, True))
        left, right = (view.get_training_data(v, dataframe_type="arrow")[0]["n"].to_pylist() for v in (usual, known))
        assert view.training_dataset(usual).late_cells == {"n": sum(a != b for a, b in zip(left, right, strict=True))}
        assert view.training_dataset(known).late_cells == {"n": 0}
        fs.close()
