"""Streams of batches larger than memory: staged, de-duplicated, compared and committed as one version."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import featurestore
from featurestore import Feature, FeatureGroup, data_files, inserting
from featurestore.engines import staging
from featurestore.errors import FeatureStoreError, InvalidData, SchemaMismatch
from featurestore.schema import TIMESTAMP

ROOT = Path(__file__).parents[2]
T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
CARDS = [Feature("card", "bigint"), Feature("t", "timestamp"), Feature("amount", "double")]
SCHEMA = pa.schema([("card", pa.int64()), ("t", TIMESTAMP), ("amount", pa.float64())])
POSITIVE = {
    "name": "rules",
    "expectations": [{"type": "expect_column_values_to_be_between", "kwargs": {"column": "amount", "min_value": 0}}],
}

Triple = tuple[int, int, float | None]


@pytest.fixture(autouse=True)
def every_stream_is_long(monkeypatch):
    monkeypatch.setattr(inserting, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(data_files, "ROWS_PER_FILE", 4)


def cards_in(home: Path | str, **options: Any) -> FeatureGroup:
    return featurestore.connect(home).get_or_create_feature_group(
        "cards", 1, primary_key=["card"], event_time="t", features=CARDS, **options
    )


def rows(*triples: Triple) -> pa.Table:
    """Rows of (card, hours after T0, amount)."""
    cards, hours, amounts = zip(*triples, strict=True) if triples else ((), (), ())
    return pa.table([cards, [T0 + h * HOUR for h in hours], amounts], schema=SCHEMA)


def stream(*batches: pa.Table) -> pa.RecordBatchReader:
    """A reader whose batches are made while they are read."""

    def made() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield from batch.to_batches()

    return pa.RecordBatchReader.from_batches(SCHEMA, made())


def content(group: FeatureGroup) -> list[Triple]:
    read = group.read(dataframe_type="arrow").to_pylist()
    return [(r["card"], (r["t"] - T0) // HOUR, r["amount"]) for r in read]


def staged_in(home: Path) -> list[Path]:
    return sorted((home / "staging").rglob("*"))


triples = st.tuples(st.integers(0, 2), st.integers(0, 5), st.none() | st.integers(0, 2).map(float))
inserts = st.lists(st.lists(triples, max_size=4), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(history=st.lists(st.tuples(inserts, st.booleans()), min_size=1, max_size=3))
def test_g2_a_stream_does_what_its_rows_as_one_frame_do(history):
    """G2, G3, G4: counts, content, online and files' order, after what earlier inserts left; overwriting too."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        streamed, whole = cards_in(one, online_enabled=True), cards_in(other, online_enabled=True)
        for batches, overwrite in history:
            tables = [rows(*batch) for batch in batches]
            got = streamed.insert(stream(*tables), overwrite=overwrite)
            expected = whole.insert(pa.concat_tables(tables), overwrite=overwrite)
            counts = ("version", "rows_inserted", "rows_updated", "rows_deleted", "rows_unchanged", "rows_deduplicated")
            assert [getattr(got, c) for c in counts] == [getattr(expected, c) for c in counts]
            assert content(streamed) == content(whole)
            for card in range(3):
                assert streamed.get_online({"card": card}, ["amount"]) == whole.get_online({"card": card}, ["amount"])
            if got.rows_written:
                assert streamed.get_statistics(got) == whole.get_statistics(expected)
        assert all(f.rows <= 4 for f in streamed.snapshot().files)
        assert staged_in(Path(one)) == []


def test_g2_a_lazy_polars_frame_is_a_stream(tmp_path):
    group = cards_in(tmp_path)
    frame = pl.from_arrow(rows((1, 0, 1.0), (2, 0, 2.0), (3, 0, 3.0)))
    assert group.insert(frame.lazy().with_columns(pl.col("amount") * 2)).rows_inserted == 3
    assert content(group) == [(1, 0, 2.0), (2, 0, 4.0), (3, 0, 6.0)]


def test_g6_the_first_stream_declares_the_columns(tmp_path):
    """G6: from the reader's schema, not from the values of a lucky batch."""
    group = featurestore.connect(tmp_path).get_or_create_feature_group("free", 1, primary_key=["card"], event_time="t")
    group.insert(stream(rows((1, 0, None), (2, 0, None), (3, 0, None))))
    assert [f.dtype for f in group.features] == ["bigint", "timestamp", "double"]


def test_g11_a_stream_rewrites_only_the_files_it_touches(tmp_path):
    group = cards_in(tmp_path)
    for day in range(3):
        group.insert(rows(*[(card, 24 * day, 0.0) for card in range(3)]))
    before = {f.low: f.path for f in group.snapshot().files}
    commit = group.insert(stream(rows((0, 24, 5.0), (7, 24, 0.0)), rows((1, 30, 0.0), (0, 99, 0.0))))
    after = {f.path for f in group.snapshot().files}
    assert (commit.rows_inserted, commit.rows_updated) == (3, 1)
    assert {low for low, path in before.items() if path not in after} == {T0 + 24 * HOUR}
    ranges = sorted((f.low, f.high) for f in group.snapshot().files)
    assert all(high < low for (_, high), (low, _) in pairwise(ranges))


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (pa.table([[None], [T0], [1.0]], schema=SCHEMA), InvalidData, "counted from row 2 .*'card' is null in row 0"),
        (rows((5, 5, -1.0)), InvalidData, "Nothing was written"),
    ],
)
def test_g10_a_stream_that_goes_bad_writes_nothing_and_leaves_nothing(tmp_path, bad, error, message):
    """G10, G5, G15: in its last batch, after others were staged; rules judge piece by piece."""
    group = cards_in(tmp_path, expectation_suite=POSITIVE)
    before = group.delta_version
    with pytest.raises(error, match=message):
        group.insert(stream(rows((1, 0, 1.0), (2, 0, 2.0)), bad))
    assert (group.delta_version, content(group), staged_in(tmp_path)) == (before, [], [])


class Foreign:
    """A frame of no known library."""

    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self.reader = reader

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.reader.__arrow_c_stream__(requested_schema)


def test_g2_anything_with_an_arrow_stream_is_a_frame(tmp_path):
    group = cards_in(tmp_path)
    assert group.insert(Foreign(stream(rows((1, 0, 1.0), (2, 0, 2.0)), rows((1, 0, 3.0))))).rows_deduplicated == 1
    assert content(group) == [(1, 0, 3.0), (2, 0, 2.0)]


@pytest.mark.parametrize("own", [True, False])
def test_g10_a_stream_that_breaks_off_writes_nothing(tmp_path, own):
    """G10: the reader itself fails halfway."""
    group = cards_in(tmp_path)

    def broken() -> Iterator[pa.RecordBatch]:
        yield from rows((1, 0, 1.0), (2, 0, 2.0), (3, 0, 2.0)).to_batches()
        raise RuntimeError("the source went away")

    reader = pa.RecordBatchReader.from_batches(SCHEMA, broken())
    with pytest.raises(RuntimeError if own else FeatureStoreError, match="went away"):
        group.insert(reader if own else Foreign(reader))
    assert (group.delta_version, staged_in(tmp_path)) == (0, [])


def test_g15_the_report_of_a_stream_counts_all_its_pieces(tmp_path):
    group = cards_in(tmp_path, expectation_suite=POSITIVE, validation_ingestion_policy="ALWAYS")
    commit = group.insert(stream(rows((1, 0, 1.0), (2, 0, -2.0)), rows((3, 0, -3.0), (4, 0, 1.0))))
    report = group.validation_reports()[commit.version]
    assert (report["success"], report["statistics"]["rows"], report["statistics"]["failed_rows"]) == (False, 4, 2)
    assert (report["results"][0]["unexpected_count"], report["results"][0]["examples"]) == (2, [-2.0, -3.0])


def test_g6_a_stream_with_other_columns_is_refused_before_anything_is_read(tmp_path):
    group = cards_in(tmp_path)
    with pytest.raises(SchemaMismatch, match="lacks"):
        group.insert(
            pa.RecordBatchReader.from_batches(SCHEMA.remove(2), rows((1, 0, 1.0)).drop(["amount"]).to_batches())
        )


KILLED = """
import os, signal, sys
import pyarrow as pa
import featurestore
from featurestore import inserting
inserting.ROWS_AT_ONCE = 2
group = featurestore.connect(sys.argv[1]).get_feature_group("cards", 1)
schema = pa.schema([("card", pa.int64()), ("t", pa.timestamp("us", "UTC")), ("amount", pa.float64())])
def batches():
    for card in range(9):
        yield pa.record_batch([[card], [0], [1.0]], schema=schema)
    os.kill(os.getpid(), signal.SIGKILL)
group.insert(pa.RecordBatchReader.from_batches(schema, batches()))
"""


def test_g10_what_a_killed_stream_staged_is_swept_away_by_the_next_insert(tmp_path):
    """G10: kill -9 in the middle of a stream; the place of a living writer stays."""
    group = cards_in(tmp_path)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, check=False)
    assert killed.returncode == -9
    assert any(p.suffix == ".parquet" for p in staged_in(tmp_path))
    options = {"identity": ("card", "t"), "order": "t", "memory_limit": "1GB", "threads": 1}
    with staging.staged(tmp_path / "living", SCHEMA, **options) as living:
        living.add(rows((1, 0, 1.0)))
        staging.sweep(tmp_path / "living")
        assert living.num_rows == 1
    group.insert(rows((1, 0, 1.0)))
    assert (content(group), staged_in(tmp_path)) == ([(1, 0, 1.0)], [])
