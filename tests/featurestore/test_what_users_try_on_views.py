"""What users of hsfs try first on a view: it works, or the message says what to type instead."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import featurestore
from featurestore import FeatureGroup, FeatureStore, FeatureView
from featurestore.errors import InvalidData, SchemaMismatch

T0 = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    opened = featurestore.connect(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def lab(store: FeatureStore) -> FeatureGroup:
    group = lab_in(store, online_enabled=False)
    group.insert(values((1, 0, 1.0), (1, 1, 2.0), (2, 0, 3.0)))
    return group


def lab_in(store: FeatureStore, **options: Any) -> FeatureGroup:
    return store.get_or_create_feature_group("lab", 1, primary_key=["id"], event_time="t", **options)


def values(*rows: tuple[int, int, float]) -> pd.DataFrame:
    """Rows of (id, days after T0, value)."""
    return pd.DataFrame([{"id": i, "t": T0 + day * DAY, "value": value} for i, day, value in rows])


@pytest.fixture
def view(store: FeatureStore, lab: FeatureGroup) -> FeatureView:
    """What `lab` says of the ids 1 and 2, as of five days after T0."""
    lab_in(store, online_enabled=True)
    visits = store.get_or_create_feature_group("visits", 1, primary_key=["visit"], event_time="t")
    visits.insert(pd.DataFrame({"visit": [7, 8, 9], "patient": [1, 2, 3], "t": T0 + 5 * DAY, "y": [0, 1, 0]}))
    query = visits.select(["y"]).join(lab.select(["value"]), left_on=["patient"], right_on=["id"])
    made = store.create_feature_view("visits", query=query, labels=["y"], tags={"team": "cardio"})
    made.create_training_data()
    return made


def test_a_null_serving_key_is_a_missing_key(view):
    """V11: said before any read; with allow_missing it matches no row."""
    for keys in ({"patient": None}, {"patient": float("nan")}):
        with pytest.raises((SchemaMismatch, InvalidData), match="patient"):
            view.get_feature_vector(keys)
    with pytest.raises(SchemaMismatch, match=r"\['patient'\] of the entry .* is missing \(null\).*allow_missing=True"):
        view.get_feature_vectors([{"patient": 1}, {"patient": None}])
    assert view.get_feature_vector({"patient": None}, allow_missing=True) == [None]
    assert view.get_feature_vectors([{"patient": None}, {"patient": 2}], allow_missing=True) == [[None], [3.0]]


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame, pa.table])
def test_entries_may_be_the_rows_of_a_frame(view, frame):
    """V11: in the frame's order; another column is an unknown key."""
    assert view.get_feature_vectors(frame({"patient": [2, 1, 2]})) == [[3.0], [2.0], [3.0]]
    with pytest.raises(SchemaMismatch, match=r"unknown \['id'\]"):
        view.get_feature_vectors(frame({"patient": [2], "id": [1]}))


@pytest.mark.parametrize(("entries", "kind"), [({"patient": 1}, "dict"), ("patient", "str"), (1, "int")])
def test_entries_that_are_no_list_are_refused_with_their_type(view, entries, kind):
    """V11: one mapping is not a list of mappings."""
    with pytest.raises(SchemaMismatch, match=rf"list of mappings of \['patient'\].*\({kind}\)"):
        view.get_feature_vectors(entries)


def test_a_split_training_dataset_names_the_method_that_gets_it(view):
    """V2: and one that was not split too."""
    version, _ = view.create_train_test_split(0.5, entity="visit")
    with pytest.raises(InvalidData, match=rf"was split into train, test, .*Use get_train_test_split\({version}\)"):
        view.get_training_data(version)
    with pytest.raises(InvalidData, match=r"was not split, .*Use get_training_data\(1\)"):
        view.get_train_test_split(1)


# Filters


@pytest.mark.parametrize(
    "make",
    [
        lambda fg: fg["id"] == 1 & fg["value"] > 0,
        lambda fg: fg["id"] == 1 | fg["value"] > 0,
        lambda fg: fg["id"] == fg["id"] & fg["value"] > 0,
        lambda fg: (fg["id"] == 1) & fg["value"] > 0,
    ],
)
def test_a_filter_without_parentheses_says_where_they_go(lab, make):
    """J1: Python's & and | bind closer than its comparisons."""
    with pytest.raises(SchemaMismatch, match=r"Put each comparison in parentheses: \(fg.a == 1\) [&|] \(fg.b > 0\)"):
        make(lab)
