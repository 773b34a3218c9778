"""Planted leaks are found, each by name, and clean data are left in peace."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import FeatureStore, FeatureView, connect, leakage
from featurestore.findings import Finding

START = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = 120
HOUR = timedelta(hours=1)


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[FeatureStore]:
    store = connect(tmp_path, clock=lambda: START - HOUR)  # committed before every row's time
    yield store
    store.close()


def times(rows: int = ROWS) -> pd.Series:
    return pd.Series([START + n * HOUR for n in range(rows)])


def classes(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, ROWS)


def group(fs: FeatureStore, name: str, *, key: str = "id", event_time: str | None = "at", **columns: Any) -> Any:
    """A group of one row per id, an hour apart."""
    frame = pd.DataFrame({"id": range(ROWS)} | ({"at": times()} if event_time else {}) | columns)
    made = fs.get_or_create_feature_group(
        name, 1, primary_key=[key], event_time=event_time, statistics_config=False
    )  # fmt: skip
    made.insert(frame)
    return made


def view(fs: FeatureStore, label: Any = None, **columns: Any) -> FeatureView:
    """Labels `y` as the spine, the columns given in a group joined at the same times."""
    spine = group(fs, "labels", y=classes() if label is None else label)
    features = group(fs, "features", **columns)
    query = spine.select(["y"]).join(features.select(list(columns)))
    return fs.get_or_create_feature_view("leaky", 1, query=query, labels=["y"])


def serious(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(f.severity, f.subject) for f in findings if f.severity != "info"]


# Planted leaks


@pytest.mark.parametrize(
    ("label", "copy", "how"),
    [
        (classes(), classes(), "a copy"),
        (classes(), 1 - classes(), "another spelling"),
        (classes(), np.where(classes(), "fraud", "fine"), "another spelling"),
        (classes(), [Decimal(int(c)) / 4 for c in classes()], "another spelling"),
        (np.arange(ROWS) ** 2 * 0.5, -np.sqrt(np.arange(ROWS)), "a monotone copy"),
        (np.arange(ROWS) * 1.0, times() - 9 * HOUR * 1000, "a monotone copy"),
    ],
)
def test_a_copy_of_the_label_is_an_error(fs: FeatureStore, label: Any, copy: Any, how: str) -> None:
    """V12: exact, in other words, or by a monotone function; nulls on either side are no alibi."""
    copy = pd.Series(copy)
    copy[5] = None
    (found,) = [f for f in view(fs, label, twin=copy).check_leakage() if f.severity == "error"]
    assert found.subject == "feature 'twin'"
    assert found.message == f"It is {how} of the label 'y' in every row that has both."


def test_the_labels_own_column_under_another_name_is_an_error(fs: FeatureStore) -> None:
    """V12: whatever its values."""
    spine = group(fs, "spine", x=np.random.default_rng(0).normal(size=ROWS))
    labels = group(fs, "labels", y=[1] * ROWS)
    query = spine.select(["x"]).join(labels.select(["y"])).join(labels.select(["y"]), prefix="old_")
    found = fs.get_or_create_feature_view("own", 1, query=query, labels=["y"]).check_leakage()
    assert [(f.subject, f.message) for f in found if f.severity == "error"] == [
        ("feature 'old_y'", "It is the label's own column.")
    ]


def test_a_feature_newer_than_its_label_is_an_error(fs: FeatureStore) -> None:
    """V12: the spine's time is later than the label's, so features know what came after the label."""
    spine = group(fs, "visits")
    labels = fs.get_or_create_feature_group("labels", 1, primary_key=["id"], event_time="at")
    labels.insert(pd.DataFrame({"id": range(ROWS), "at": times() - 2 * HOUR, "y": classes()}))
    features = fs.get_or_create_feature_group("features", 1, primary_key=["id"], event_time="at")
    late = [1 if n < 30 else 3 for n in range(ROWS)]  # hours before the visit: one is after the label, three before it
    x = np.random.default_rng(1).normal(size=ROWS)
    features.insert(pd.DataFrame({"id": range(ROWS), "at": times() - pd.to_timedelta(late, "h"), "x": x}))
    query = spine.select([]).join(labels.select(["y"])).join(features.select(["x"]))
    (found,) = [
        f for f in fs.get_or_create_feature_view("v", 1, query=query, labels=["y"]).check_leakage()
        if f.severity == "error"
    ]  # fmt: skip
    assert found.subject == "feature group features_v1"
    assert found.message.startswith("30 of 120 rows use a row of 2025-12-31 23:00:00")


@pytest.mark.parametrize("as_date", [False, True])
def test_a_timestamp_beyond_its_row_is_an_error(fs: FeatureStore, as_date: bool) -> None:
    """V12: such as the time at which the case was closed."""
    closed = times() + pd.to_timedelta([48 if n % 10 == 0 else 0 for n in range(ROWS)], "h")
    values = pd.Series([t.date() for t in closed], dtype=object) if as_date else closed
    (found,) = [f for f in view(fs, closed=values).check_leakage() if f.severity == "error"]
    assert found.subject == "feature 'closed'"
    assert found.message.startswith("12 of 120 values lie beyond their row's time, such as 2026-01-03")


@pytest.mark.parametrize("kind", ["number", "category", "missing", "regression", "event time that lies"])
def test_a_feature_that_gives_the_label_away_is_a_warning(fs: FeatureStore, kind: str) -> None:
    """V12: a day's total stamped with the day's start, a status set afterwards, a field filled in only for fraud."""
    noise = np.random.default_rng(7).normal(size=ROWS)
    y: Any = classes()
    x: Any = {
        "number": y * 10 + noise,
        "category": [f"{'closed' if c else 'open'} {n % 4}" for n, c in enumerate(y)],
        "missing": np.where(y, noise, np.nan),
        "regression": noise + 0.001 * np.random.default_rng(8).normal(size=ROWS),
        "event time that lies": np.repeat(y.reshape(-1, 4).sum(axis=1), 4) + 0.1 * noise,
    }[kind]
    label = {"regression": noise, "event time that lies": np.repeat(y.reshape(-1, 4).sum(axis=1) > 2, 4) * 1}
    found = view(fs, label.get(kind, y), x=x, clean=np.random.default_rng(9).normal(size=ROWS))
    assert serious(found.check_leakage()) == [("warning", "feature 'x'")]


def test_a_spine_without_event_time_is_a_warning_and_key_joins_are_named(fs: FeatureStore) -> None:
    """V12, J2: nobody can say what was known when."""
    spine = group(fs, "spine", event_time=None, y=classes())
    timed = group(fs, "timed", x=np.random.default_rng(1).normal(size=ROWS))
    untimed = group(fs, "untimed", event_time=None, z=np.random.default_rng(2).normal(size=ROWS))
    query = spine.select(["y"]).join(timed.select(["x"])).join(untimed.select(["z"]))
    found = fs.get_or_create_feature_view("v", 1, query=query, labels=["y"]).check_leakage()
    assert [(f.severity, f.subject) for f in found] == [
        ("warning", "feature group timed_v1"), ("info", "feature group untimed_v1")
    ]  # fmt: skip
    assert "spine_v1 has no event time" in found[0].message
    assert "joined by key alone" in found[1].message


def test_values_committed_after_their_label_are_counted(tmp_path: Path) -> None:
    """V12: 120 rows, written when the first 100 had happened."""
    fs = connect(tmp_path, clock=lambda: START + 99 * HOUR)
    found = view(fs, x=np.random.default_rng(1).normal(size=ROWS)).check_leakage()
    assert [(f.severity, f.subject) for f in found] == [("info", "feature group features_v1")]
    assert found[0].message.startswith("99 of 120 rows use values of ['x'] that were committed after the row's time")
    fs.close()


# Splits


def purchases(fs: FeatureStore) -> FeatureView:
    """Ten purchases by each of twelve customers, of whom something is known."""
    spine = fs.get_or_create_feature_group("purchases", 1, primary_key=["id"], event_time="at")
    customers = [n % 12 for n in range(ROWS)]
    spine.insert(
        pd.DataFrame({"id": range(ROWS), "at": times(), "customer": customers, "y": classes(), "country": "a"})
    )
    known = fs.get_or_create_feature_group("customers", 1, primary_key=["customer"], event_time="at")
    x = np.random.default_rng(3).normal(size=12)
    known.insert(pd.DataFrame({"customer": range(12), "at": START - HOUR, "x": x}))
    countries = fs.get_or_create_feature_group("countries", 1, primary_key=["country"])
    countries.insert(pd.DataFrame({"country": ["a", "b"], "tax": [0.1, 0.2]}))
    query = spine.select(["y"]).join(known.select(["x"]), on=["customer"]).join(countries.select(["tax"]))
    return fs.get_or_create_feature_view("purchases", 1, query=query, labels=["y"])


def test_a_key_on_both_sides_of_a_random_split_is_a_warning(fs: FeatureStore) -> None:
    """V12: and neither a split by entity nor one by time, where the same key later is the point."""
    made = purchases(fs)
    random, _ = made.create_train_test_split(0.3)
    by_entity, _ = made.create_train_test_split(0.3, entity="customer")
    by_time, _ = made.create_train_test_split(test_start=START + 90 * HOUR)
    (found,) = [f for f in made.check_leakage(random) if f.severity != "info"]
    assert (found.severity, found.subject) == ("warning", "key 'customer'")
    assert "both sides of the split (train and test)" in found.message
    assert serious(made.check_leakage(by_entity)) == serious(made.check_leakage(by_time)) == []


def test_a_key_on_both_sides_of_an_entity_split_is_an_error(fs: FeatureStore) -> None:
    """V12: the store makes no such split, so its parts are swapped here."""
    made = purchases(fs)
    version, _ = made.create_train_test_split(0.3, entity="customer")
    plan, parts = made._training.widened(version, lambda plan: leakage.widened(plan, "__committed_at"))
    train, test = parts.values()
    mixed = {"train": train, "test": pa.concat_tables([test, train.slice(0, 2)])}
    split = made.training_dataset(version).manifest["split"]
    (found,) = [f for f in leakage.check(plan, mixed, ["y"], split) if f.subject.startswith("key 'cust")]
    assert (found.severity, found.subject) == ("error", "key 'customer'")


# Clean data


@pytest.mark.parametrize("seed", range(4))
def test_clean_data_give_no_error_and_no_warning(fs: FeatureStore, seed: int) -> None:
    """V12: features that inform, many categories, constants, nulls, past dates, ids, and labels of either kind."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, ROWS) if seed % 2 else rng.normal(size=ROWS)
    columns: dict[str, Any] = {
        "informs": y + rng.normal(size=ROWS), "noise": rng.normal(size=ROWS), "constant": [1.5] * ROWS,
        "city": rng.choice(list("abcdefgh"), ROWS), "code": [f"c{n}" for n in rng.permutation(ROWS)],
        "flag": rng.integers(0, 2, ROWS).astype(bool), "number": rng.permutation(ROWS),
        "sparse": np.where(rng.random(ROWS) < 0.7, np.nan, rng.normal(size=ROWS)),
        "opened": times() - pd.to_timedelta(rng.integers(0, 900, ROWS), "h"),
        "born": [date(1970, 1, 1) + timedelta(days=int(d)) for d in rng.integers(0, 9000, ROWS)],
    }  # fmt: skip
    made = view(fs, y, **columns)
    version, _ = made.create_train_test_split(test_start=START + 80 * HOUR)
    assert serious(made.check_leakage()) == []
    assert made.check_leakage(version) == []


def test_too_few_rows_are_not_judged_by_their_values() -> None:
    """V12: nineteen rows agree by accident more often than a warning is worth."""
    few, enough = pa.chunked_array([list(range(19))]), pa.chunked_array([list(range(20))])
    assert (leakage._relation(few, few), leakage._score(few, few)) == (None, None)
    assert leakage._relation(enough, enough) == "a copy"


# Arithmetic


def test_area_under_the_curve_by_hand() -> None:
    """Positives 3 and 1, negatives 2 and 1: of four pairs two are won, one is lost, one is a tie."""
    area = leakage._area_under_curve(np.array([3.0, 2.0, 1.0, 1.0]), np.array([True, False, True, False]))
    assert area == 2.5 / 4


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30))
def test_area_under_the_curve_is_the_share_of_pairs_won(rows: list[tuple[int, bool]]) -> None:
    """The definition, counted out."""
    positive, negative = ([x for x, is_positive in rows if is_positive is side] for side in (True, False))
    if positive and negative:
        won = sum((p > n) + (p == n) / 2 for p in positive for n in negative) / (len(positive) * len(negative))
        area = leakage._area_under_curve(np.array([x * 1.0 for x, _ in rows]), np.array([b for _, b in rows]))
        assert area == pytest.approx(won)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=30))
def test_rank_correlation_is_that_of_the_ranks(rows: list[tuple[int, int]]) -> None:
    """pandas ranks by mean too; 0 where a side is constant."""
    left, right = (pd.Series(side, dtype=float) for side in zip(*rows, strict=True))
    found = leakage._rank_correlation(left.to_numpy(), right.to_numpy())
    expected = left.rank().corr(right.rank()) if left.nunique() > 1 and right.nunique() > 1 else 0.0
    assert found == pytest.approx(expected, abs=1e-12)


def test_no_model_library_is_imported() -> None:
    """V12: ranks need numpy alone."""
    code = "import sys, featurestore.leakage; assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
