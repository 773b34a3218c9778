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
from featurestore.errors import InvalidData, NotFound, SchemaMismatch
from featurestore.transformations import impute_constant, log_transform, min_max_scaler

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


# Names that hsfs gives


def test_a_view_is_tagged_as_a_group_is(store, view):
    """V1: tags are kept with the view, and so is everything else in its definition."""
    view.add_tag("reviewed", {"by": "ann"})
    view.delete_tag("team")
    again = store.get_feature_view("visits", 1)
    assert (again.get_tags(), again.get_tag("reviewed"), again.get_tag("team")) == (
        {"reviewed": {"by": "ann"}}, {"by": "ann"}, None,
    )  # fmt: skip
    assert (again.labels, again.query) == (view.labels, view.query)
    with pytest.raises(NotFound, match=r"visits version 1 has no tag 'team' \(tags: \['reviewed'\]\)"):
        again.delete_tag("team")


def test_a_view_tells_its_keys_schema_and_training_datasets(store, view):
    """V1, V11: the keys by the names an entry gives them, before anything is made ready to serve."""
    fresh = store.get_feature_view("visits", 1)
    assert fresh.primary_keys == ["patient"]
    assert fresh.primary_keys == view.serving_keys
    assert [f.name for f in fresh.schema] == ["value"]
    assert [d.version for d in fresh.get_training_datasets()] == [1]


def test_the_functions_of_a_view_can_be_given_to_the_next(store, view):
    """V7: in order, with their parameters and the columns they read."""
    functions = {"value": [impute_constant(value=0.0), min_max_scaler], "larger": log_transform("value")}
    first = store.create_feature_view("a", query=view.query, labels=["y"], transformation_functions=functions)
    told = store.get_feature_view("a", 1).transformation_functions
    assert {output: [f.name for f in chain] for output, chain in told.items()} == {
        "value": ["impute_constant", "min_max_scaler"], "larger": ["log_transform"],
    }  # fmt: skip
    second = store.create_feature_view("b", query=view.query, labels=["y"], transformation_functions=told)
    assert second.transformations == first.transformations
    assert view.transformation_functions == {}


# Remedies


def test_what_is_told_to_do_about_a_frame_fits_what_was_asked(store, lab, view):
    """G6: only who inserts is told that nothing was written, and of a new version of the group."""
    wrong_type, not_exact = values((1, 0, 1.0)).assign(id="one"), values((1, 0, 1.0)).assign(id=2.5)
    for frame in (wrong_type, not_exact):
        with pytest.raises(SchemaMismatch, match=r"Nothing was written; .* need a new version of the group"):
            lab.insert(frame)
        for take, columns in ((lab.remove_rows, ["id", "t"]), (lab.forget, ["id"])):
            with pytest.raises(SchemaMismatch, match=r"Convert the column|Round it") as caught:
                take(frame[columns])
            assert "written" not in str(caught.value)
            assert "version of" not in str(caught.value)
    entities = pd.DataFrame({"id": [1], "t": ["soon"]})
    with pytest.raises(SchemaMismatch, match=r"'t' is string, expected timestamp\. Convert the column\.$"):
        store.training_frame(entities, lab.select(["value"]), event_time="t")
