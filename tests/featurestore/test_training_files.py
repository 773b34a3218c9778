"""Materialised training datasets: files that are whole or not there, and the same frames whatever becomes of them."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import (
    FeatureStore,
    FeatureStoreError,
    FeatureView,
    InvalidData,
    NotFound,
    NotReproducible,
    connect,
    training_files,
)
from featurestore.training_dataset import content_hash
from featurestore.training_files import DataFormat
from featurestore.transformations import impute_mean, one_hot_encoder, standard_scaler

FORMATS: list[DataFormat] = list(get_args(DataFormat))


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
    name = [None if n % 5 == 0 else ["", "é,1", 'q"2'][n % 3] for n in number]
    features.insert(pd.DataFrame({"k": [n % 4 for n in number], "at": hours(first, last), "x": x, "name": name}))


@pytest.fixture
def view(fs: FeatureStore) -> FeatureView:
    insert(fs, 0, 40)
    labels, features = fs.get_feature_group("labels", 1), fs.get_feature_group("features", 1)
    query = labels.select(["y"]).join(features.select(["x", "name"]))
    functions = {"x": [impute_mean, standard_scaler]}
    return fs.create_feature_view("view", query=query, labels=["y"], transformation_functions=functions)


def files_of(view: FeatureView, version: int, fs: FeatureStore) -> list[Path]:
    return [fs.settings.home / name for name in view.training_dataset(version).files]


def hashes(view: FeatureView, version: int) -> list[str]:
    options: Any = {"dataframe_type": "arrow", "primary_keys": True, "event_time": True}
    return [content_hash(frame) for frame in view.get_train_test_split(version, **options)]


# What is written


@pytest.mark.parametrize("data_format", FORMATS)
def test_files_hold_the_splits_and_give_the_same_frames(
    fs: FeatureStore, view: FeatureView, data_format: DataFormat
) -> None:
    """V2: frames from files are those from pins, to the bit, in every format and every kind of frame."""
    version, job = view.create_train_test_split(0.3, data_format=data_format)
    assert job.get_state() == "FINISHED"
    names = [f"training/view_1/{version}/{split}.{data_format}" for split in ("train", "test")]
    assert view.training_dataset(version).files == names
    assert [p.is_file() for p in files_of(view, version, fs)] == [True, True]
    pinned = view.create_train_test_split(0.3)[0]
    view.purge_training_data(pinned)
    assert view.training_dataset(pinned).files == []
    assert hashes(view, version) == hashes(view, pinned)
    for kind in ("pandas", "polars"):
        written, built = (view.get_train_test_split(v, dataframe_type=kind) for v in (version, pinned))
        for a, b in zip(written, built, strict=True):
            assert a.equals(b)
            assert list(a.dtypes) == list(b.dtypes)


def test_files_carry_the_keys_and_what_the_model_sees(fs: FeatureStore, view: FeatureView) -> None:
    """V2: any reader of Parquet sees keys, time, transformed features and label of each row."""
    version, _ = view.create_training_data()
    table = pq.read_table(files_of(view, version, fs)[0])
    assert table.column_names == ["__key.k", "__key.at", "y", "x", "name"]
    assert table.num_rows == 40
    assert sum(table["x"].to_pylist()) == pytest.approx(0)


def test_registering_alone_writes_no_file(fs: FeatureStore, view: FeatureView) -> None:
    view.train_test_split(0.3)
    assert view.training_dataset(1).files == []
    assert not (fs.settings.home / "training").exists()
    view.recreate_training_dataset(1, data_format="csv")
    assert [p.suffix for p in files_of(view, 1, fs)] == [".csv", ".csv"]


def test_a_format_that_does_not_exist_is_refused(fs: FeatureStore, view: FeatureView) -> None:
    with pytest.raises(InvalidData, match=r"'tfrecord' is unknown.*parquet"):
        view.create_training_data(data_format="tfrecord")  # type: ignore[arg-type]
    assert view.training_datasets() == []


def test_csv_refuses_what_text_cannot_hold_and_leaves_nothing(fs: FeatureStore) -> None:
    group = fs.get_or_create_feature_group("nested", 1, primary_key=["id"])
    group.insert(pa.table({"id": [1], "tags": [["a", "b"]]}))
    view = fs.create_feature_view("nested", query=group.select(["tags"]))
    with pytest.raises(InvalidData, match=r"'tags' is list.*parquet"):
        view.create_training_data(data_format="csv")
    assert view.training_datasets() == []
    assert [p.name for p in (fs.settings.home / "training" / "nested_1").iterdir()] == [".writing"]
    assert view.get_training_data(view.create_training_data()[0], dataframe_type="arrow")[0]["tags"][0].as_py() == [
        "a", "b",
    ]  # fmt: skip


_floats = st.floats(allow_nan=False)
_columns = st.fixed_dictionaries(
    {
        "f": st.one_of(st.none(), _floats),
        "g": st.one_of(st.none(), st.floats(width=32, allow_nan=False)),
        "s": st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=5)),
        "b": st.one_of(st.none(), st.booleans()),
        "i": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
        "t": st.one_of(st.none(), st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))),
        "d": st.one_of(st.none(), st.dates(date(1700, 1, 1))),
        "n": st.one_of(st.none(), st.decimals(-(10**9), 10**9, places=2)),
    }
)
_types = {
    "f": pa.float64(), "g": pa.float32(), "s": pa.string(), "b": pa.bool_(), "i": pa.int64(),
    "t": pa.timestamp("us", "UTC"), "d": pa.date32(), "n": pa.decimal128(20, 2),
}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(_columns, max_size=5), data_format=st.sampled_from(FORMATS))
def test_every_format_gives_back_every_value(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], data_format: DataFormat
) -> None:
    """V2: -0.0, infinities, the smallest and largest numbers, empty text, line ends and quotes come back to the bit."""
    columns: dict[str, pa.Array] = {"__key.id": pa.array(range(len(rows)), pa.int64())}
    columns |= {name: pa.array([r[name] for r in rows], dtype) for name, dtype in _types.items()}
    table = pa.table(columns)
    path = tmp_path_factory.getbasetemp() / f"law.{data_format}"
    training_files.write(table, path, data_format)
    again = training_files.read(path, data_format, table.schema)
    assert content_hash(again) == content_hash(table)
    assert again.schema == table.schema


@pytest.mark.parametrize("data_format", FORMATS)
def test_a_file_with_wrong_bytes_gives_the_same_values_or_an_error(tmp_path: Path, data_format: DataFormat) -> None:
    """V2: whatever is damaged is found by the reader or by the hash, and never ends the process."""
    columns = {"__key.id": range(50), "x": [None if n % 7 == 0 else n / 3 for n in range(50)], "s": ["é", "", "b"] * 16}
    table = pa.table({name: list(column)[:48] for name, column in columns.items()})
    path, random = tmp_path / f"damaged.{data_format}", Random(7)
    training_files.write(table, path, data_format)
    whole, found = path.read_bytes(), []
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(random.choice([1, 3])):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        path.write_bytes(damaged[: random.choice([len(damaged), random.randrange(len(damaged))])])
        try:
            found.append(content_hash(training_files.read(path, data_format, table.schema)))
        except (OSError, ValueError, KeyError, pa.ArrowException):
            found.append("refused")
    assert "refused" in found


# What survives


def rewritten(path: Path, value: float) -> None:
    table = pq.read_table(path)
    changed = pa.array([value, *table["x"].to_pylist()[1:]], pa.float64())
    pq.write_table(table.set_column(table.column_names.index("x"), "x", changed), path)


@pytest.mark.parametrize("harm", ["missing", "cut", "changed", "empty"])
def test_a_harmed_file_is_noticed_and_rebuilt_from_the_pins(
    fs: FeatureStore, view: FeatureView, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    """V2: `get_*` gives the same bytes, verify names the file, recreate heals it."""
    version, _ = view.create_train_test_split(0.3)
    before = hashes(view, version)
    insert(fs, 0, 40, add=100.0)
    path = files_of(view, version, fs)[1]
    if harm == "missing":
        path.unlink()
    elif harm == "changed":
        rewritten(path, 1.5)
    else:
        path.write_bytes(path.read_bytes()[:-9] if harm == "cut" else b"")
    with caplog.at_level(logging.WARNING):
        assert hashes(view, version) == before
    assert f"training/view_1/{version}/test.parquet" in caplog.text
    with pytest.raises(NotReproducible, match=rf"{version}/test\.parquet.*No library.*recreate_training_dataset\(1\)"):
        view.verify_training_dataset(version)
    view.recreate_training_dataset(version)
    assert view.verify_training_dataset(version).version == version
    caplog.clear()
    assert hashes(view, version) == before
    assert caplog.text == ""


def lose_lake(fs: FeatureStore) -> None:
    for file in Path(fs.get_feature_group("features", 1).location).rglob("*.parquet"):
        file.unlink()


def test_files_outlive_the_pins_and_verify_tells_the_two_apart(fs: FeatureStore, view: FeatureView) -> None:
    """V2: with its files a training dataset is readable even when its pins are gone; verify says that they are."""
    kept, _ = view.create_train_test_split(0.3)
    bare = view.create_train_test_split(0.3)[0]
    view.purge_training_data(bare)
    before = hashes(view, kept)
    lose_lake(fs)
    assert hashes(view, kept) == before
    with pytest.raises(NotReproducible, match="its pins cannot be read"):
        view.verify_training_dataset(kept)
    with pytest.raises(NotReproducible):
        view.get_train_test_split(bare)
    with pytest.raises(NotReproducible):
        view.recreate_training_dataset(kept)
    assert hashes(view, kept) == before, "a failed recreate leaves the files"


def test_a_group_made_again_is_not_the_group_that_was_pinned(fs: FeatureStore, view: FeatureView) -> None:
    """V2: the same name and Delta version of another table are other data."""
    version, _ = view.create_train_test_split(0.3)
    before = hashes(view, version)
    fs.get_feature_group("features", 1).delete(force=True)
    insert(fs, 0, 40)
    assert hashes(view, version) == before
    with pytest.raises(NotReproducible, match=r"features_v1 is not the group it was"):
        view.verify_training_dataset(version)


def test_verify_names_the_split_and_the_pin(fs: FeatureStore, view: FeatureView) -> None:
    """V2: a manifest that names another Delta version, or another library, is found out."""
    version, _ = view.create_train_test_split(0.3)
    insert(fs, 0, 40, add=100.0)
    manifest = dict(view.training_dataset(version).manifest)
    manifest["groups"]["features_v1"]["delta_version"] = fs.get_feature_group("features", 1).delta_version
    manifest["libraries"]["duckdb"] = "0.1.0"
    fs.catalog.update_training_dataset(view.id, version, manifest)
    with pytest.raises(
        NotReproducible,
        match=r"train split rebuilt from its pins has the hash .*test split rebuilt.*duckdb 0\.1\.0 is now",
    ):
        view.verify_training_dataset(version)


def test_an_erased_training_dataset_is_refused_with_when_and_why(fs: FeatureStore, view: FeatureView) -> None:
    """V2, G14: what `forget` touched is not given out, from files or pins."""
    version, _ = view.create_train_test_split(0.3)
    manifest = dict(view.training_dataset(version).manifest)
    manifest |= {"not_reproducible_since": "2026-01-02T03:04:05+00:00", "not_reproducible_because": "k=1 was forgotten"}
    fs.catalog.update_training_dataset(view.id, version, manifest)
    said = r"not reproducible since 2026-01-02T03:04:05\+00:00: k=1 was forgotten"
    for refused in (view.get_train_test_split, view.verify_training_dataset, view.recreate_training_dataset):
        with pytest.raises(NotReproducible, match=said):
            refused(version)


def test_deleting_removes_files_and_never_gives_the_version_again(fs: FeatureStore, view: FeatureView) -> None:
    """V2: a model that names training dataset 2 must not find another one under that number."""
    first, second = (view.create_train_test_split(0.3)[0] for _ in range(2))
    view.delete_training_dataset(second)
    folder = fs.settings.home / "training" / "view_1"
    assert sorted(p.name for p in folder.iterdir()) == [".writing", str(first)]
    assert view.create_train_test_split(0.3)[0] == 3
    view.delete_all_training_datasets()
    assert view.training_datasets() == []
    assert sorted(p.name for p in folder.iterdir()) == [".writing"]
    assert view.create_training_data()[0] == 4
    with pytest.raises(NotFound, match="no training dataset 2"):
        view.recreate_training_dataset(second)
    with pytest.raises(FeatureStoreError, match=r"has the training datasets \[4\].*force=True"):
        view.delete()
    assert view.get_training_data(4)
    view.delete(force=True)
    assert not folder.exists()


# The law of V2

_READ_AGAIN = """
import sys, json, featurestore
from featurestore.training_dataset import content_hash
fs = featurestore.connect(sys.argv[1], threads=int(sys.argv[2]))
options = {"dataframe_type": "arrow", "primary_keys": True, "event_time": True}
found = {}
for view in fs.get_feature_views():
    getters = {1: view.get_training_data, 2: view.get_train_test_split, 3: view.get_train_validation_test_split}
    for dataset in view.training_datasets():
        get = getters[len(dataset.rows)]
        found[f"{view.name} {dataset.version}"] = [content_hash(f) for f in get(dataset.version, **options)]
        view.verify_training_dataset(dataset.version)
print(json.dumps(found))
"""


def read_again(home: Path, threads: int) -> dict[str, list[str]]:
    run = subprocess.run(
        [sys.executable, "-c", _READ_AGAIN, str(home), str(threads)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_nothing_that_happens_to_the_groups_changes_a_training_dataset(fs: FeatureStore, view: FeatureView) -> None:
    """V2: later inserts, corrections, deletes, optimize, vacuum, a restart and other threads: the same bytes."""
    encoded = fs.create_feature_view(
        "encoded", query=view.query, labels=["y"], transformation_functions={"name": one_hot_encoder}
    )
    times: Any = {"train_end": "2021-01-01 20:00", "test_end": "2021-01-02 12:00"}
    for each in (view, encoded):
        each.create_train_test_split(0.3)
        each.create_train_test_split(**times)
        each.create_train_test_split(0.4, entity="k", seed=3, data_format="csv")
        each.train_validation_test_split(0.2, 0.2)
        each.train_test_split(0.3, max_age=timedelta(hours=3))
        each.training_data(start_time="2021-01-01 05:00")
        each.create_train_test_split(0.3, as_known=True)
    before = read_again(fs.settings.home, threads=1)
    assert len(before) == 14

    insert(fs, 40, 60)
    insert(fs, 0, 40, add=1000.0)
    gone = pd.DataFrame({"k": [n % 4 for n in range(10)], "at": hours(0, 10)})
    for name in ("labels", "features"):
        group = fs.get_feature_group(name, 1)
        group.remove_rows(gone)
        group.optimize()
        assert group.vacuum(retention=timedelta(0)).held, "what is pinned stays"
    assert read_again(fs.settings.home, threads=2) == before
    for file in (fs.settings.home / "training").rglob("*.*"):
        file.unlink()
    fs.get_or_create_feature_group(
        "features", 1, primary_key=["k"], event_time="at", ttl=pd.Timedelta(hours=1).to_pytimedelta()
    )
    options: Any = {"dataframe_type": "arrow", "primary_keys": True, "event_time": True}
    rebuilt = [content_hash(frame) for frame in view.get_train_test_split(1, **options)]
    assert rebuilt == before["view 1"], "a ttl set later is not the ttl it was made with"


def test_something_in_the_way_of_the_files_is_named(fs: FeatureStore, view: FeatureView) -> None:
    (fs.settings.home / "training").write_text("in the way")
    with pytest.raises(FeatureStoreError, match=r"cannot be written to .*training.*Nothing was registered"):
        view.create_train_test_split(0.3)
    assert view.training_datasets() == []


def test_decimals_and_infinities_come_back_from_csv(fs: FeatureStore) -> None:
    group = fs.get_or_create_feature_group("odd", 1, primary_key=["id"])
    odd = {"id": [1, 2], "x": [-0.0, math.inf], "price": pa.array([Decimal("1.10"), None], pa.decimal128(9, 2))}
    group.insert(pa.table(odd))
    view = fs.create_feature_view("odd", query=group.select(["x", "price"]))
    version, _ = view.create_training_data(data_format="csv")
    x, _ = view.get_training_data(version, dataframe_type="arrow")
    assert math.copysign(1, x["x"][0].as_py()) == -1
    assert (x["x"][1].as_py(), x["price"].to_pylist()) == (math.inf, [Decimal("1.10"), None])
