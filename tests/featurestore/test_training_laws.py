"""Laws of training datasets through the whole store: sides of splits, and what transformations may learn from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore import Feature, FeatureStore, FeatureView, InvalidData, InvalidTime, connect
from featurestore.transformations import impute_mean, label_encoder, quantile_transformer, standard_scaler

START = datetime(2021, 1, 1, tzinfo=UTC)
COLUMNS = [
    Feature("shop", "string"),
    Feature("card", "bigint"),
    Feature("at", "timestamp"),
    Feature("x", "double"),
    Feature("city", "string"),
    Feature("y", "bigint"),
]
Row = tuple[str, int, int, float | None, str | None]
"""Shop and card (the key), hour, and two values."""

_keys = st.tuples(st.sampled_from(["a", "b", "ab", ""]), st.integers(0, 12), st.integers(0, 30))
_values = st.tuples(
    st.one_of(st.none(), st.floats(-1e6, 1e6)), st.one_of(st.none(), st.sampled_from(["Oslo", "Bern", ""]))
)
_rows = st.dictionaries(_keys, _values, min_size=14, max_size=30).map(lambda d: [(*k, *v) for k, v in d.items()])
law = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@contextmanager
def store() -> Iterator[FeatureStore]:
    with tempfile.TemporaryDirectory() as home:
        fs = connect(home)
        yield fs
        fs.close()


def insert(fs: FeatureStore, rows: list[Row]) -> None:
    frame = pd.DataFrame(rows, columns=["shop", "card", "hour", "x", "city"])
    at = [START + timedelta(hours=h) for h in frame["hour"]]
    sales = fs.get_or_create_feature_group(
        "sales", 1, primary_key=["shop", "card"], event_time="at", features=COLUMNS, statistics_config=False
    )
    sales.insert(frame.assign(at=pd.to_datetime(at, utc=True), y=1, x=frame["x"].astype(float)).drop(columns="hour"))


def view_of(fs: FeatureStore) -> FeatureView:
    query = fs.get_feature_group("sales", 1).select(["x", "city", "y"])
    functions = {"x": [impute_mean, standard_scaler], "city": label_encoder}
    return fs.get_or_create_feature_view("view", 1, query=query, labels=["y"], transformation_functions=functions)


def sides(view: FeatureView, version: int) -> dict[tuple[Any, ...], str]:
    """The split of each row that is in one."""
    found = {}
    names = list(view.training_dataset(version).rows)
    get = view.get_train_test_split if len(names) == 2 else view.get_train_validation_test_split
    for name, frame in zip(names, get(version, primary_keys=True, event_time=True), strict=False):
        for row in frame[["shop", "card", "at"]].itertuples(index=False):
            assert tuple(row) not in found, "a row is on one side only"
            found[tuple(row)] = name
    return found


@law
@given(rows=_rows, cut=st.integers(10, 13), random=st.randoms(use_true_random=False), seed=st.integers(0, 3))
def test_a_row_never_changes_sides(rows: list[Row], cut: int, random: Any, seed: int) -> None:
    """V4: not when data grow, not by the order of insertion, not in another home; every row is on one side."""
    sizes = (0.3, 0.3)
    with store() as fs, store() as other:
        insert(fs, rows[:cut])
        view = view_of(fs)
        try:
            before = sides(view, view.create_train_validation_test_split(*sizes, seed=seed)[0])
        except InvalidData:  # too few rows for three splits
            before = {}
        insert(fs, rows[cut:])
        shuffled = random.sample(rows, len(rows))
        insert(other, shuffled)
        try:
            after = sides(view, view.create_train_validation_test_split(*sizes, seed=seed)[0])
            elsewhere = sides(view_of(other), view_of(other).create_train_validation_test_split(*sizes, seed=seed)[0])
        except InvalidData:
            return
        assert after == elsewhere
        assert len(after) == len(rows)
        assert {row: after[row] for row in before} == before


@law
@given(rows=_rows, first=st.integers(8, 14), second=st.integers(15, 24), embargo=st.integers(0, 5))
def test_time_splits_are_half_open_with_an_embargo_and_keep_entities_apart(
    rows: list[Row], first: int, second: int, embargo: int
) -> None:
    """V5: [start, first - embargo) trains, [first, second) validates, [second, ...) tests; with `entity=` a card that
    appears later gives way in the earlier splits."""
    times: Any = {"train_end": START + timedelta(hours=first), "test_start": START + timedelta(hours=second)}
    expected: dict[int, str] = dict.fromkeys(range(first - embargo), "train")
    expected |= dict.fromkeys(range(first, second), "validation") | dict.fromkeys(range(second, 31), "test")
    with store() as fs:
        insert(fs, rows)
        view = view_of(fs)
        by_hand = {(s, c, START + timedelta(hours=h)): expected[h] for s, c, h, _, _ in rows if h in expected}
        options = {**times, "validation_start": times["train_end"], "embargo": timedelta(hours=embargo)}
        for entity in (None, "card"):
            if entity:
                order = ["train", "validation", "test"]
                latest = {c: max((order.index(v) for (_, d, _), v in by_hand.items() if d == c)) for _, c, _ in by_hand}
                by_hand = {r: v for r, v in by_hand.items() if order.index(v) == latest[r[1]]}
            if set(by_hand.values()) == set(expected.values()):
                assert sides(view, view.create_train_validation_test_split(**options, entity=entity)[0]) == by_hand
            else:
                with pytest.raises((InvalidTime, InvalidData), match=r"empty|takes"):
                    view.create_train_validation_test_split(**options, entity=entity)


@law
@given(rows=_rows, changed=st.lists(_values, min_size=30, max_size=30), more=_rows)
def test_nothing_but_training_rows_is_learned_from(
    rows: list[Row], changed: list[tuple[float | None, str | None]], more: list[Row]
) -> None:
    """V6: changing, adding or filtering test rows changes no fitted number, and no byte of the training split."""
    boundary = START + timedelta(hours=15)
    if {row[2] < 15 for row in rows} != {True, False}:
        return
    with store() as fs:
        insert(fs, rows)
        view = view_of(fs)
        before = view.training_dataset(view.create_train_test_split(train_end=boundary)[0]).manifest
        insert(fs, [(*row[:3], *changed[n]) for n, row in enumerate(rows) if row[2] >= 15])
        insert(fs, [row for row in more if row[2] >= 15] or rows)
        after = view.training_dataset(view.create_train_test_split(train_end=boundary)[0]).manifest
        assert after["transformations"] == before["transformations"]
        assert after["splits"]["train"] == before["splits"]["train"]


@law
@given(rows=_rows, random=st.randoms(use_true_random=False))
def test_the_order_of_rows_is_nowhere_in_a_training_dataset(rows: list[Row], random: Any) -> None:
    """V2, V6: inserted in another order, in another home, by other threads: the same hashes and fitted numbers."""
    manifests = []
    for order, threads in ((rows, 1), (random.sample(rows, len(rows)), 2)):
        with tempfile.TemporaryDirectory() as home:
            fs = connect(home, threads=threads)
            for part in (order[:7], order[7:]):
                insert(fs, part)
            view = view_of(fs)
            fs.create_feature_view(
                "more", query=view.query, labels=["y"], transformation_functions={"x": quantile_transformer}
            )
            made = [fs.get_feature_view(n, 1).create_training_data()[0] for n in ("view", "more")]
            manifests.append(
                [
                    fs.get_feature_view(n, 1).training_dataset(v).manifest
                    for n, v in zip(("view", "more"), made, strict=True)
                ]
            )
            fs.close()
    for one, other in zip(*manifests, strict=True):
        assert one["content_hash"] == other["content_hash"]
        assert one["transformations"] == other["transformations"]


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("create_train_test_split", {"test_size": 1.5}, "between 0 and 1"),
        ("create_train_test_split", {"test_size": 0}, "between 0 and 1"),
        ("create_train_test_split", {"test_size": "0.2"}, "between 0 and 1"),
        ("create_train_validation_test_split", {"validation_size": 0.5, "test_size": 0.5}, "nothing to train on"),
        ("create_train_validation_test_split", {"test_size": 0.5}, "both"),
        ("create_train_test_split", {}, "Give train_end or test_start"),
        ("create_train_test_split", {"train_end": "2021-01-02", "test_start": "2021-01-01 12:00"}, "overlap.*Move"),
        ("create_train_test_split", {"train_end": "2021-01-02", "train_start": "2021-01-02"}, "train split is empty"),
        ("create_train_test_split", {"train_end": "2020-01-02"}, r"train split .* is empty.*Move"),
        ("create_train_test_split", {"test_size": 0.2, "seed": 1.5}, "whole number"),
        ("create_train_test_split", {"train_end": "tomorrow"}, "not a time"),
        ("create_train_test_split", {"train_end": "2021-01-02", "embargo": timedelta(-1)}, "at least zero"),
        ("train_test_split", {"validation_start": "2021-01-02", "train_end": "2021-01-01"}, "in three"),
        ("create_training_data", {"start_time": "2022-01-01"}, "no labelled rows"),
        ("create_training_data", {"max_age": -timedelta(1)}, "max_age"),
        ("create_training_data", {"data_format": "xls"}, "parquet"),
    ],
)
def test_what_cannot_be_is_a_value_error_that_says_what_to_do(method: str, options: Any, says: str) -> None:
    """V4: sizes, windows, empty splits and formats; whatever is refused leaves no version and no file."""
    with store() as fs:
        insert(fs, [("a", n, n, 1.0, "Oslo") for n in range(31)])
        view = view_of(fs)
        registering = {"create_train_test_split": view.train_test_split, "create_training_data": view.training_data}
        calls = [getattr(view, method)]
        if "data_format" not in options and method in registering:
            calls.append(registering[method])
        for call in calls:
            with pytest.raises(ValueError, match=f"(?s){says}"):
                call(**options)
        assert view.training_datasets() == []
        folder = fs.settings.home / "training" / "view_1"
        assert not folder.exists() or [p.name for p in folder.iterdir()] == [".writing"]


def test_no_rows_at_all_is_an_error() -> None:
    """V4: an empty group has nothing to split or to train on."""
    with store() as fs:
        fs.get_or_create_feature_group("sales", 1, primary_key=["shop", "card"], event_time="at", features=COLUMNS)
        view = view_of(fs)
        with pytest.raises(InvalidData, match=r"no rows to split. Insert"):
            view.create_train_test_split(0.2)
        with pytest.raises(InvalidData, match=r"no labelled rows to train on. Insert"):
            view.create_training_data()
