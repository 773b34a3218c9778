"""A training dataset is a version: the same bytes whatever happens to the groups afterwards, or an error."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import FeatureStore, FeatureView, NotFound, NotReproducible, connect
from featurestore.training_dataset import combined_hash, content_hash


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[FeatureStore]:
    store = connect(tmp_path)
    yield store
    store.close()


def hours(first: int, last: int) -> pd.DatetimeIndex:
    return pd.date_range("2021-01-01", periods=last, freq="h", tz="UTC")[first:]


def insert(fs: FeatureStore, first: int, last: int, add: float = 0.0) -> None:
    number = range(first, last)
    labels = fs.get_or_create_feature_group("labels", 1, primary_key=["k"], event_time="at")
    labels.insert(pd.DataFrame({"k": [n % 4 for n in number], "at": hours(first, last), "y": [n % 2 for n in number]}))
    features = fs.get_or_create_feature_group("features", 1, primary_key=["k"], event_time="at")
    x = [None if n % 7 == 0 else n / 3 + add for n in number]
    name = [None if n % 5 == 0 else f"é{n % 3}" for n in number]
    features.insert(pd.DataFrame({"k": [n % 4 for n in number], "at": hours(first, last), "x": x, "name": name}))


@pytest.fixture
def view(fs: FeatureStore) -> FeatureView:
    insert(fs, 0, 40)
    labels, features = fs.get_feature_group("labels", 1), fs.get_feature_group("features", 1)
    query = labels.select(["y"]).join(features.select(["x", "name"]))
    functions = {
        n: fs.get_transformation_function(f) for n, f in (("x", "standard_scaler"), ("name", "one_hot_encoder"))
    }
    return fs.create_feature_view("view", query=query, labels=["y"], transformation_functions=functions)


def frames(view: FeatureView, version: int) -> list[bytes]:
    """The Arrow bytes of all frames of a split."""
    return [
        frame.combine_chunks().to_batches()[0].serialize().to_pybytes()
        for frame in view.get_train_test_split(
            version, dataframe_type="arrow", primary_keys=True, event_time=True
        )
    ]  # fmt: skip


def test_same_bytes_after_inserts_corrections_deletes_and_a_restart(fs: FeatureStore, view: FeatureView) -> None:
    """V2: what a version was, it stays."""
    version, _ = view.create_train_test_split(0.3)
    bytes_before, hash_before = frames(view, version), view.training_dataset(version).content_hash

    insert(fs, 40, 60)
    assert frames(view, version) == bytes_before
    insert(fs, 0, 40, add=1000.0)
    assert frames(view, version) == bytes_before
    gone = pd.DataFrame({"k": [n % 4 for n in range(10)], "at": hours(0, 10)})
    for name in ("labels", "features"):
        fs.get_feature_group(name, 1).remove_rows(gone)
    assert frames(view, version) == bytes_before

    reopened = connect(fs.settings.home)
    again = reopened.get_feature_view("view", 1)
    assert frames(again, version) == bytes_before
    assert again.verify_training_dataset(version).content_hash == hash_before
    second, _ = again.create_train_test_split(0.3)
    assert second == version + 1
    assert again.training_dataset(second).content_hash != hash_before, "the data have changed"
    reopened.close()


def test_the_same_data_give_the_same_hash_twice(view: FeatureView) -> None:
    """V2, V4: the seed decides, and nothing else does."""
    first, _ = view.create_train_test_split(0.3)
    second, _ = view.create_train_test_split(0.3)
    other, _ = view.create_train_test_split(0.3, seed=1)
    hashes = [view.training_dataset(v).content_hash for v in (first, second, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_manifest_says_all_that_decides_the_bytes(fs: FeatureStore, view: FeatureView) -> None:
    """V2: table ids and Delta versions, query, filters, split, seed, what was fitted, libraries, rows and hashes."""
    version, _ = view.create_train_test_split(0.3, description="first try", seed=7)
    dataset = view.training_dataset(version)
    manifest = dataset.manifest
    assert json.loads(json.dumps(manifest)) == manifest
    groups = {name: fs.get_feature_group(name, 1) for name in ("labels", "features")}
    assert dataset.delta_versions == {f"{n}_v1": g.delta_version for n, g in groups.items()}
    assert dataset.delta_versions == view.delta_versions()
    assert {p["table_id"] for p in manifest["groups"].values()} == {g.snapshot().table_id for g in groups.values()}
    assert manifest["query"] == view.query.to_json()
    assert (manifest["seed"], manifest["description"], manifest["labels"]) == (7, "first try", ["y"])
    assert manifest["transformations"]
    assert {"deltalake", "duckdb", "pyarrow"} <= set(manifest["libraries"])
    assert sum(dataset.rows.values()) == 40
    assert dataset.content_hash == combined_hash({n: p["content_hash"] for n, p in manifest["splits"].items()})


def test_versions_count_up_and_deleted_ones_are_gone(view: FeatureView) -> None:
    """V2: every call makes an integer version."""
    assert [view.create_train_test_split(0.3)[0] for _ in range(3)] == [1, 2, 3]
    view.delete_training_dataset(2)
    assert [d.version for d in view.training_datasets()] == [1, 3]
    with pytest.raises(NotFound, match="1, 3"):
        view.get_train_test_split(2)
    assert view.create_train_test_split(0.3)[0] == 4


def test_a_lost_data_file_is_not_reproducible(fs: FeatureStore, view: FeatureView) -> None:
    """V2: what cannot be given back to the bit is an error, never something like it."""
    version, _ = view.create_train_test_split(0.3)
    for file in Path(fs.get_feature_group("features", 1).location.removeprefix("file://")).rglob("*.parquet"):
        file.unlink()
    with pytest.raises(NotReproducible):
        view.verify_training_dataset(version)
    view.purge_training_data(version)
    with pytest.raises(NotReproducible):
        view.get_train_test_split(version)


# The hash

_values = st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=8)


@settings(max_examples=40, deadline=None)
@given(values=_values, cut=st.integers(0, 8))
def test_hash_does_not_see_chunks_and_offsets(values: list[str | None], cut: int) -> None:
    whole = pa.table({"x": pa.array(values, pa.string())})
    chunked = pa.chunked_array([pa.array(values[:cut], pa.string()), pa.array(values[cut:], pa.string())])
    sliced = pa.table({"x": pa.array(["before", *values, "after"], pa.string())}).slice(1, len(values))
    assert content_hash(pa.table({"x": chunked})) == content_hash(whole) == content_hash(sliced)


@settings(max_examples=40, deadline=None)
@given(a=_values, b=_values)
def test_hash_differs_when_values_differ(a: list[str | None], b: list[str | None]) -> None:
    first, second = (content_hash(pa.table({"x": pa.array(v, pa.string())})) for v in (a, b))
    assert (first == second) == (a == b)


_of_type: dict[str, Any] = {
    "int64": st.integers(-(2**63), 2**63 - 1), "double": st.floats(), "bool": st.booleans(),
    "string": st.text(max_size=3), "binary": st.binary(max_size=3), "date32": st.dates(),
    "timestamp": st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    "decimal": st.decimals(-100, 100, places=2), "list": st.lists(st.integers(0, 9), max_size=2),
}  # fmt: skip
_arrow: dict[str, pa.DataType] = {
    "int64": pa.int64(), "double": pa.float64(), "bool": pa.bool_(), "string": pa.string(), "binary": pa.binary(),
    "date32": pa.date32(), "list": pa.list_(pa.int64()), "timestamp": pa.timestamp("us", "UTC"),
    "decimal": pa.decimal128(9, 2),
}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from(sorted(_of_type)), cuts=st.lists(st.integers(0, 6), max_size=3))
def test_hash_of_every_type_sees_values_alone(data: st.DataObject, kind: str, cuts: list[int]) -> None:
    """V2: whatever the chunks, offsets, and what lies in memory where a null is."""
    values = data.draw(st.lists(st.one_of(st.none(), _of_type[kind]), max_size=6))
    whole = pa.array(values, _arrow[kind])
    edges = sorted({0, len(values), *(c for c in cuts if c < len(values))})
    chunks = [whole.slice(a, b - a) for a, b in itertools.pairwise(edges)]
    chunked = pa.chunked_array([*chunks, whole.slice(0, 0)], whole.type)
    taken = pa.concat_arrays([whole, whole]).take(pa.array(range(len(values)), pa.int64()))
    known = [v for v in values if v is not None]
    masked = whole
    if known:  # nulls over a value that is in memory
        filled = pa.array([known[0] if v is None else v for v in values], whole.type)
        masked = pc.if_else(pa.array([v is not None for v in values]), filled, pa.scalar(None, whole.type))
    hashes = {content_hash(pa.table({"x": column})) for column in (whole, chunked, taken, masked)}
    assert len(hashes) == 1


def test_hash_sees_names_types_nulls_and_order() -> None:
    tables = [
        pa.table({"x": pa.array([0, 1], pa.int64())}),
        pa.table({"y": pa.array([0, 1], pa.int64())}),
        pa.table({"x": pa.array([0, 1], pa.int32())}),
        pa.table({"x": pa.array([0.0, 1.0], pa.float64())}),
        pa.table({"x": pa.array([None, 1], pa.int64())}),
        pa.table({"x": pa.array([1, 0], pa.int64())}),
        pa.table({"x": pa.array([False, True])}),
        pa.table({"x": pa.array([[0], [1]])}),
        pa.table({"x": pa.array([0, 1], pa.timestamp("us", tz="UTC"))}),
    ]
    assert len({content_hash(t) for t in tables}) == len(tables)
