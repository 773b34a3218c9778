"""What must not get in, and what must: for each input a typed error with the group as it was, or exact values."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import featurestore
from featurestore import Feature, FeatureGroup
from featurestore.errors import FeatureStoreError, InvalidData, SchemaMismatch
from featurestore.schema import TIMESTAMP

ROOT = Path(__file__).parents[2]
T0 = datetime(2026, 1, 1, tzinfo=UTC)
FEATURES = [Feature("id", "bigint"), Feature("t", "timestamp"), Feature("x", "double")]
EVEN_UNICODE = "é" * 255


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[featurestore.FeatureStore]:
    opened = featurestore.connect(tmp_path_factory.mktemp("home"))
    yield opened
    opened.close()


def fresh(store: featurestore.FeatureStore, **options: Any) -> FeatureGroup:
    """A group of its own for this test."""
    name = f"g{len(store.get_feature_groups())}"
    return store.get_or_create_feature_group(
        name, 1, primary_key=["id"], event_time="t", online_enabled=True, **options
    )


def pandas_with(x: Any, **more: Any) -> pd.DataFrame:
    rows = len(x)
    return pd.DataFrame({"id": range(rows), "t": [pd.Timestamp(T0)] * rows, "x": x, **more})


def arrow_with(x: pa.Array, name: str = "x") -> pa.Table:
    rows = len(x)
    return pa.table({"id": pa.array(range(rows), pa.int64()), "t": pa.array([T0] * rows, TIMESTAMP), name: x})


class Thing:
    """No value of any column."""


REFUSED: dict[str, tuple[Any, str]] = {
    "a column twice": (lambda: pd.DataFrame([[1, T0, 1.0, 2.0]], columns=["id", "t", "x", "x"]), "'x' is there twice"),
    "a column twice but for case": (lambda: pandas_with([1.0], X=[2.0]), "same name but for case"),
    "numbers and text": (lambda: pandas_with([1, "a"]), "mixed or unknown types"),
    "bytes and text": (lambda: pandas_with([b"a", "b"]), "bytes and text"),
    "objects": (lambda: pandas_with([Thing()]), "mixed or unknown types"),
    "Polars objects": (lambda: pl.DataFrame({"id": [1], "x": pl.Series([Thing()], dtype=pl.Object)}), "Python objects"),
    "categories of mixed types": (lambda: pandas_with(pd.Categorical([5, "a"])), "mixed or unknown types"),
    "decimals beyond 38 digits": (lambda: pandas_with([Decimal("1" * 39)]), "decimal256"),
    "an infinite decimal": (lambda: pandas_with([Decimal("Infinity"), Decimal(1)]), "mixed or unknown"),
    "a matrix in a cell": (lambda: pandas_with([np.ones((2, 2))]), "1-dimensional"),
    "integers beyond 64 bits": (lambda: pandas_with([2**70]), "too large"),
    "128-bit integers": (lambda: pl.DataFrame({"id": [1], "x": pl.Series([2**100], dtype=pl.Int128)}), "cannot hold"),
    "durations": (lambda: pandas_with([timedelta(hours=1)]), "duration"),
    "times of day": (lambda: pandas_with([time(1)]), "time64"),
    "complex numbers": (lambda: pandas_with([1j]), "complex128"),
    "UUIDs": (lambda: pandas_with([uuid.uuid4()]), "uuid"),
    "periods": (lambda: pandas_with(pd.period_range("2026", periods=1)), "period"),
    "maps": (lambda: arrow_with(pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))), "map"),
    "a struct with a field twice": (
        lambda: arrow_with(pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "A"])), "struct"
    ),
    "an empty struct": (lambda: arrow_with(pa.array([{}], pa.struct([]))), "struct<>"),
    "nulls of no type": (lambda: arrow_with(pa.nulls(1)), "holds nulls only"),
    "no column": (lambda: pd.DataFrame(index=[1, 2]), "at least one column"),
    "no column in Arrow": (lambda: pa.table({}), "at least one column"),
    "a name of 300 characters": (lambda: arrow_with(pa.array([1]), "x" * 300), "not allowed"),
    "a name with a control character": (lambda: arrow_with(pa.array([1]), "a\x00b"), "not allowed"),
    "an empty name": (lambda: arrow_with(pa.array([1]), ""), "not allowed"),
    "a reserved name": (lambda: arrow_with(pa.array([1]), "__committed_at"), "reserved"),
    "a name that is a number": (lambda: pandas_with([1.0]).rename(columns={"x": 7}), "Column name 7"),
    "names of several levels": (
        lambda: pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "id")])), "not allowed"
    ),
    "text as event time": (lambda: pd.DataFrame({"id": [1], "t": ["2026-01-01"], "x": [1.0]}), "expected a timestamp"),
    "a float as key": (lambda: pd.DataFrame({"id": [1.5], "t": [T0], "x": [1.0]}), "a key is"),
    "a list as key": (lambda: pd.DataFrame({"id": [[1]], "t": [T0], "x": [1.0]}), "a key is"),
    "a list of rows": (lambda: [{"id": 1}], "list is not a frame"),
    "a Series": (lambda: pd.Series([1]), "Series"),
    "a dictionary": (lambda: {"id": [1]}, "dict is not a frame"),
    "nothing": (lambda: None, "NoneType is not a frame"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_g6_what_no_column_can_be_is_refused_and_declares_nothing(store, what):
    """G6, C2: a first insert; the error names the column and the group has no columns afterwards."""
    frame, message = REFUSED[what]
    group = fresh(store)
    with pytest.raises(SchemaMismatch, match=message):
        group.insert(frame())
    assert store.get_feature_group(group.name).features == []


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([0, 253_402_300_800], pa.timestamp("s")), "outside the years 1 to 9999 .row 1."),
        (pa.array([0, -62_135_596_800_000_001], pa.timestamp("us", "UTC")), "outside the years 1 to 9999 .row 1."),
        (pa.array([0, 1], pa.timestamp("ns", "UTC")), "row 1.* cannot hold exactly"),
        (pa.array([0, 2**62], pa.timestamp("s")), "row 1.* cannot hold"),
        (pa.array([0, None], pa.timestamp("us")), "'t' is null in row 1"),
    ],
)
def test_g7_times_that_no_reader_could_give_back_are_refused_with_their_row(store, column, message):
    group = fresh(store, features=FEATURES)
    frame = pa.table({"id": [1, 2], "t": column, "x": [1.0, 2.0]})
    with pytest.raises(InvalidData, match=message):
        group.insert(frame)
    assert (group.delta_version, len(group.read())) == (0, 0)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Kolkata", "+02:00"])
def test_g7_times_of_every_unit_and_zone_are_the_same_moment(store, unit, zone):
    """G7: naive ones are UTC."""
    group = fresh(store, features=FEATURES)
    seconds = 1_767_225_600
    column = pa.array([seconds * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]], pa.timestamp(unit, zone))
    group.insert(pa.table({"id": [1], "t": column, "x": [1.0]}))
    assert group.read(dataframe_type="arrow")["t"].to_pylist() == [T0]


EXACT: dict[str, tuple[Any, list[Any]]] = {
    "infinities and the negative zero": (lambda: pandas_with([np.inf, -np.inf, -0.0]), [math.inf, -math.inf, -0.0]),
    "the largest and smallest integers": (lambda: pandas_with([-(2**63), 2**63 - 1]), [-(2**63), 2**63 - 1]),
    "categories": (lambda: pandas_with(pd.Categorical(["a", None, "a"])), ["a", None, "a"]),
    "Polars categories": (
        lambda: pl.DataFrame({"id": [0], "t": [T0], "x": pl.Series(["a"], dtype=pl.Categorical)}), ["a"]
    ),
    "decimals": (lambda: pandas_with([Decimal("1.10"), Decimal(-2), None]), [Decimal("1.10"), Decimal("-2.00"), None]),
    "lists in lists": (lambda: pandas_with([[[1.0, None], []], None]), [[[1.0, None], []], None]),
    "structs in lists": (lambda: pandas_with([[{"a": [1, 2], "b": "x"}]]), [[{"a": [1, 2], "b": "x"}]]),
    "empty text and text with a NUL": (lambda: pandas_with(["", "a\0b", "Zürich 🐟"]), ["", "a\0b", "Zürich 🐟"]),
    "dates at the ends of the calendar": (lambda: pandas_with([date.min, date.max]), [date.min, date.max]),
    "booleans with nulls": (lambda: pandas_with([True, None, False]), [True, None, False]),
    "half floats": (lambda: pandas_with(np.array([1.5, np.nan], dtype="float16")), [1.5, None]),
    "no rows": (lambda: arrow_with(pa.array([], pa.float64())), []),
}  # fmt: skip


@pytest.mark.parametrize("what", EXACT)
def test_g2_unusual_values_come_back_exactly(store, what):
    """G2, G3, G16: offline and online, again without a new version, and statistics can be made of them."""
    frame, expected = EXACT[what]
    group = fresh(store)
    commit = group.insert(frame())
    read = group.read(dataframe_type="arrow")["x"].to_pylist()
    assert list(map(repr, read)) == list(map(repr, expected))
    assert repr([group.get_online({"id": i}, ["x"])["x"] for i in range(len(read))]) == repr(expected)
    assert group.insert(frame()).version == commit.version
    assert group.get_statistics()["x"]["count"] == sum(v is not None for v in expected)


NAMES = [
    "../x",
    "a'b",
    'a"b',
    "a`b",
    "a.b",
    "a/b",
    "%20",
    "x" * 255,
    EVEN_UNICODE,
    "file_row_number",
    "filename",
    "select",
]


@pytest.mark.parametrize("name", NAMES)
def test_c2_any_printable_column_name_is_stored_updated_and_read(store, name):
    group = fresh(store)
    group.insert(arrow_with(pa.array([1.0, 2.0]), name))
    assert group.insert(arrow_with(pa.array([1.0, 3.0]), name)).rows_updated == 1
    assert group.read(dataframe_type="arrow")[name].to_pylist() == [1.0, 3.0]
    assert group.get_online({"id": 1}, [name]) == {name: 3.0}


def test_g6_a_value_that_its_type_cannot_hold_is_told_with_its_row(store):
    group = fresh(store, features=[*FEATURES[:2], Feature("x", "int")])
    for column, row in (
        (pa.array([0, 1, 2**31]), 2),
        (pa.array([0.0, 1e10]), 1),
        (pa.array([2**64 - 1], pa.uint64()), 0),
    ):
        with pytest.raises(InvalidData, match=f"row {row}"):
            group.insert(arrow_with(column))
    assert group.delta_version == 0


# The disk


def many(day: int, x: float = 0.0, rows: int = 100_000) -> pa.Table:
    times = pa.array(np.full(rows, day * 86_400_000_000), TIMESTAMP)
    return pa.table({"id": np.arange(rows), "t": times, "x": np.random.default_rng(day).normal(x, size=rows)})


def stream(rows: int) -> pa.RecordBatchReader:
    made = (batch for day in range(9, 9 + rows // 100_000) for batch in many(day).to_batches())
    return pa.RecordBatchReader.from_batches(many(0).schema, made)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB, by itself."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], check=False).returncode:
        pytest.skip("mounting a small disk needs root and CAP_SYS_ADMIN")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_g10_a_full_disk_leaves_the_old_version_and_room_repairs_it(small_disk):
    """G10: as one frame, as a stream, as an update; then the disk gets room, and then it is read-only."""
    opened = featurestore.connect(small_disk / "home")
    group = opened.get_or_create_feature_group(
        "g", 1, primary_key=["id"], event_time="t", online_enabled=True, features=FEATURES
    )
    group.insert(many(0, rows=10))
    for frame in (many(0, 5.0), many(1), stream(1_100_000)):
        before = group.read(dataframe_type="arrow")
        with pytest.raises(FeatureStoreError, match=r"room|full"):
            group.insert(frame)
        after = group.read(dataframe_type="arrow")
        assert after.equals(before) or after.num_rows == 100_000
        live = {f.path for f in group.snapshot().files}
        assert {str(p) for p in Path(group.location).glob("*.parquet")} >= live
        assert list((small_disk / "home" / "staging").glob("*")) == []
    opened.close()
    subprocess.run(["mount", "-o", "remount,size=300m", small_disk], check=True)
    reopened = featurestore.connect(small_disk / "home")
    group = reopened.get_feature_group("g")
    assert group.insert(many(7, 5.0)).rows_inserted == 100_000
    assert group.get_online({"id": 1}, ["x"]) == {"x": many(7, 5.0)["x"][1].as_py()}
    reopened.close()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for home in ("home", "other"):
        with pytest.raises(FeatureStoreError, match=r"rights|cannot be made"):
            featurestore.connect(small_disk / home).get_feature_groups()


def test_g10_a_file_that_may_not_grow_leaves_the_old_version(tmp_path):
    """G10: the limit of the process (ulimit -f), which needs no special rights to try."""
    group = featurestore.connect(tmp_path).get_or_create_feature_group(
        "g", 1, primary_key=["id"], event_time="t", features=FEATURES
    )
    group.insert(many(0, rows=10))
    script = (
        "import resource, sys, featurestore, numpy as np, pyarrow as pa\n"
        "group = featurestore.connect(sys.argv[1]).get_feature_group('g')\n"
        "times = pa.array(np.full(100_000, 0), pa.timestamp('us', 'UTC'))\n"
        "frame = pa.table({'id': np.arange(100_000), 't': times, 'x': np.random.default_rng(0).normal(size=100_000)})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "try:\n    group.insert(frame)\n"
        "except featurestore.FeatureStoreError as error:\n    print(error)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "Nothing was committed" in told
    assert (len(group.read()), len(list(Path(group.location).glob("*.parquet")))) == (10, 1)
    assert group.insert(many(1, rows=5)).rows_inserted == 5
