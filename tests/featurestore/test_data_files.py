"""How rows lie on disk: in order, each identity once, every file with a range of its own and bounds in Delta's log."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

import featurestore
from featurestore import Feature, data_files
from featurestore.engines.sql import COMMITTED_AT
from featurestore.schema import TIMESTAMP

T0 = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)

KEYS = {
    "bigint": st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3),
    "string": st.text(max_size=2) | st.sampled_from(["a", "b"]),
    "boolean": st.booleans(),
    "date": st.dates(date(1900, 1, 1), date(1900, 1, 3)),
    "decimal(20,2)": st.decimals("-2", "2", places=2),
    "binary": st.binary(max_size=1),
}


@pytest.mark.parametrize("dtype", KEYS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_batch_in_order_is_a_dictionary_sorted(dtype, data):
    """G4, G12: by time, then key; of one identity the last row. A law for every type of key, with and without time."""
    entries = data.draw(st.lists(st.tuples(st.integers(0, 3), KEYS[dtype], st.integers(0, 99)), max_size=12))
    times, keys, values = zip(*entries, strict=True) if entries else ((), (), ())
    key_type = Feature("k", dtype).type
    rows = pa.table({"x": pa.array(values, pa.int64()), "k": pa.array(keys, key_type), "t": pa.array(times, TIMESTAMP)})
    timed = data_files.in_order(rows, "t", ["k", "t"])
    last = {(t, k): x for t, k, x in entries}
    found = list(zip(timed["t"].cast(pa.int64()).to_pylist(), timed["k"].to_pylist(), strict=True))
    assert found == sorted(last, key=lambda e: (e[0], e[1].encode() if isinstance(e[1], str) else e[1]))
    assert timed["x"].to_pylist() == [last[e] for e in found]
    untimed = data_files.in_order(rows, "k", ["k"])
    assert {k: x for _, k, x in entries} == dict(zip(untimed["k"].to_pylist(), untimed["x"].to_pylist(), strict=True))
    assert untimed["k"].to_pylist() == sorted(
        untimed["k"].to_pylist(), key=lambda k: k.encode() if isinstance(k, str) else k
    )


def test_rows_in_order_without_repeats_are_not_copied():
    rows = pa.table({"t": [1, 1, 2], "k": [1, 2, 0]})
    assert data_files.in_order(rows, "t", ["k", "t"]) is rows


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    times=st.lists(st.integers(0, 20), max_size=40),
    most=st.integers(1, 6),
    cuts=st.lists(st.integers(0, 40), max_size=3),
)
def test_g11_files_cover_ranges_of_their_own_and_lose_no_row(tmp_path_factory, times, most, cuts):
    """G11: in whatever batches the rows come; two files share a time only when it has more rows than fit into one."""
    folder = tmp_path_factory.mktemp("files")
    rows = pa.table({"t": pa.array(sorted(times), pa.int64()), "n": pa.array(range(len(times)), pa.int64())})
    ends = sorted({0, len(times), *(c for c in cuts if c < len(times))})
    batches = [rows.slice(start, end - start) for start, end in pairwise(ends)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_files, "ROWS_PER_FILE", most)
        files = data_files.write(str(folder), batches, order="t", indexed=["t"])
    read = [pq.read_table(folder / f.name) for f in files]
    assert [n for table in read for n in table["n"].to_pylist()] == list(range(len(times)))
    assert all(0 < f.rows == table.num_rows <= most for f, table in zip(files, read, strict=True))
    for before, after in pairwise(files):
        edges = json.loads(before.statistics)["maxValues"]["t"], json.loads(after.statistics)["minValues"]["t"]
        assert edges[0] < edges[1] or (edges[0] == edges[1] and times.count(edges[0]) > 1 and before.rows == most)


def test_a_write_that_fails_leaves_no_file(tmp_path, monkeypatch):
    """G10: nothing of a batch whose rows end in an error stays on disk."""

    def batches():
        yield pa.table({"t": pa.array(range(10), pa.int64())})
        raise OSError("the disk is full")

    monkeypatch.setattr(data_files, "ROWS_PER_FILE", 3)
    with pytest.raises(OSError, match="full"):
        data_files.write(str(tmp_path), batches(), order="t", indexed=["t"])
    assert list(tmp_path.iterdir()) == []


def in_store(home: Path, features: list[Feature], **definition):
    return featurestore.connect(home).get_or_create_feature_group(
        "g", 1, features=features, statistics_config=False, **definition
    )


def test_g11_the_log_of_a_wide_table_bounds_its_keys_and_time_to_the_microsecond(tmp_path):
    """G11: 200 columns, keys last; the log says nothing of the others."""
    names = [f"f{i}" for i in range(198)]
    group = in_store(
        tmp_path, [*(Feature(n, "double") for n in names), Feature("card", "string"), Feature("t", "timestamp")],
        primary_key=["card"], event_time="t",
    )  # fmt: skip
    late = T0 + timedelta(microseconds=1234567)
    group.insert(pa.table({**{n: [1.0, 2.0] for n in names}, "card": ["b", "a" * 100], "t": [T0, late]}))
    (file,) = group.snapshot().files
    assert (file.low, file.high) == (T0, late)
    assert file.bounds.keys() == {"card", "t", COMMITTED_AT}
    assert file.bounds["card"] == ("a" * 64, "b")
    assert group.read(dataframe_type="arrow").column_names == [*names, "card", "t"]


VALUES = {
    "bigint": [-(2**63), 2**63 - 1], "string": ["", "a'b\"c\\", "é" * 70], "date": [date(1, 1, 1), date(9999, 12, 31)],
    "timestamp": [datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)],
    "decimal(38,2)": [Decimal("-2.25"), Decimal("123456789012345678901234.01")],
    "decimal(10,2)": [Decimal("-2.25"), Decimal("0.10")],
}  # fmt: skip


@pytest.mark.parametrize("dtype", VALUES)
def test_bounds_in_the_log_hold_every_value_of_a_key(tmp_path, dtype):
    """G11: a bound that lies inside would prune rows that are there."""
    group = in_store(tmp_path, [Feature("k", dtype), Feature("x", "int")], primary_key=["k"])
    values = VALUES[dtype]
    group.insert(
        pa.table({"k": pa.array(values, Feature("k", dtype).type), "x": pa.array([1] * len(values), pa.int32())})
    )
    (file,) = group.snapshot().files
    if "k" in file.bounds:
        low, high = file.bounds["k"]
        assert all(low <= v <= high for v in values)
    else:
        assert dtype == "decimal(38,2)"
    for value in values:
        again = pa.table({"k": pa.array([value], Feature("k", dtype).type), "x": pa.array([1], pa.int32())})
        assert group.insert(again).rows_unchanged == 1


def test_g11_an_update_rewrites_the_file_of_its_row_and_no_other_of_that_time(tmp_path):
    """G11: two files of one day; the keys tell them apart."""
    group = in_store(
        tmp_path,
        [Feature("k", "bigint"), Feature("t", "timestamp"), Feature("x", "int")],
        primary_key=["k"],
        event_time="t",
    )

    def frame(keys, x):
        return pa.table({"k": keys, "t": [T0] * len(keys), "x": pa.array([x] * len(keys), pa.int32())})

    group.insert(frame([1, 2], 0))
    group.insert(frame([8, 9], 0))
    before = {f.path for f in group.snapshot().files}
    commit = group.insert(frame([8], 5))
    after = {f.path for f in group.snapshot().files}
    assert (commit.rows_updated, len(before & after), len(after)) == (1, 1, 2)
    assert group.read()["x"].tolist() == [0, 0, 5, 0]


def test_g11_rows_that_are_late_do_not_widen_the_newest_file(tmp_path):
    """G11: so that the files go on covering times of their own."""
    group = in_store(tmp_path, [Feature("k", "bigint"), Feature("t", "timestamp")], primary_key=["k"], event_time="t")

    def frame(*days):
        return pa.table({"k": list(days), "t": [T0 + d * DAY for d in days]})

    group.insert(frame(10, 11))
    group.insert(frame(3, 12, 13))
    assert [(f.low, f.rows) for f in group.snapshot().files] == [
        (T0 + 3 * DAY, 1),
        (T0 + 10 * DAY, 2),
        (T0 + 12 * DAY, 2),
    ]


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("string", ["a/b=c", "ü", None]), ("date", [date(2026, 1, 1), None]), ("boolean", [True, False, None]),
        ("timestamp", [T0, T0 + timedelta(microseconds=1)]), ("bigint", [-1, None]),
    ],
)  # fmt: skip
def test_g17_a_partitioned_group_works_in_every_path_and_for_every_reader(tmp_path, dtype, values):
    """G17, G13, G3: each file holds one value of the partition key, and holds it itself too."""
    features = [Feature("k", "bigint"), Feature("t", "timestamp"), Feature("p", dtype), Feature("x", "int")]
    group = in_store(tmp_path, features, primary_key=["k"], event_time="t", partition_key=["p"], online_enabled=True)
    keys = list(range(2 * len(values)))

    def frame(x):
        return pa.table({
            "k": keys, "t": [T0 + k * DAY for k in keys], "p": pa.array(values * 2, features[2].type),
            "x": pa.array([x] * len(keys), pa.int32()),
        })  # fmt: skip

    first = group.insert(frame(1))
    assert len(group.snapshot().files) == len(values)
    assert group.insert(frame(1)).rows_unchanged == len(keys)
    assert group.insert(frame(2).slice(1)).rows_updated == len(keys) - 1
    expected = frame(2).slice(1).to_pylist()
    assert group.remove_rows(frame(0).select(["k", "t"]).slice(0, 1)).rows_deleted == 1
    assert group.read(dataframe_type="arrow").to_pylist() == expected
    assert group.read(as_of=first.version, dataframe_type="arrow").to_pylist() == frame(1).to_pylist()
    assert group.get_online({"k": 1}, ["p", "x"]) == {"p": frame(2)["p"][1].as_py(), "x": 2}
    assert group.get_statistics()["p"]["null_count"] == sum(r["p"] is None for r in expected)
    assert group.select(["k", "p"]).filter(group["p"].is_null()).read(dataframe_type="arrow")["p"].null_count == sum(
        r["p"] is None for r in expected
    )
    columns = ["k", "t", "p", "x"]
    assert DeltaTable(group.location).to_pyarrow_table(columns=columns).sort_by("k").to_pylist() == expected
    assert pl.scan_delta(group.location).select(columns).sort("k").collect().to_dicts() == expected
