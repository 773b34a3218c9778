"""What may go and what must stay: vacuum, pins and compaction."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st

import featurestore
from featurestore import Feature, FeatureGroup, FeatureStore, data_files, maintenance
from featurestore.catalog import Catalog
from featurestore.errors import FeatureStoreError, InvalidTime, NotReproducible
from featurestore.schema import TIMESTAMP
from featurestore.snapshots import DataFile
from featurestore.training_dataset import content_hash

ROOT = Path(__file__).parents[2]
T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
CARDS = [Feature("card", "bigint"), Feature("t", "timestamp"), Feature("amount", "double")]


class Clock:
    """A clock that ticks one day each time it is read."""

    def __init__(self) -> None:
        self.now = T0 + 365 * DAY

    def __call__(self) -> datetime:
        self.now += DAY
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    opened = featurestore.connect(tmp_path, clock=Clock())
    yield opened
    opened.close()


@pytest.fixture
def cards(store: FeatureStore) -> FeatureGroup:
    return store.get_or_create_feature_group(
        "cards", 1, primary_key=["card"], event_time="t", features=CARDS, online_enabled=True, statistics_config=False
    )


def rows(*triples: tuple[int, float, float | None]) -> pa.Table:
    """Rows of (card, hours after T0, amount)."""
    ids, hours, amounts = zip(*triples, strict=True) if triples else ((), (), ())
    return pa.table({
        "card": pa.array(ids, pa.int64()), "t": pa.array([T0 + h * HOUR for h in hours], TIMESTAMP),
        "amount": pa.array(amounts, pa.float64()),
    })  # fmt: skip


def content(group: FeatureGroup, **options: Any) -> list[tuple[int, float, float | None]]:
    read = group.read(dataframe_type="arrow", **options).to_pylist()
    return [(r["card"], (r["t"] - T0) / HOUR, r["amount"]) for r in read]


def on_disk(group: FeatureGroup) -> set[str]:
    return {p.relative_to(group.location).as_posix() for p in Path(group.location).rglob("*.parquet")}


def view_of(store: FeatureStore, group: FeatureGroup) -> Any:
    return store.get_or_create_feature_view("fraud", 1, query=group.select(["amount"]))


def test_v3_vacuum_removes_what_no_version_needs_that_is_current_or_recent(cards):
    """V3: each commit is a day after the last; a retention of two and a half days keeps two of the old ones."""
    for n in range(1, 6):
        cards.insert(rows((1, 0, float(n))))
    planned = cards.vacuum(timedelta(days=2.5), dry_run=True)
    assert planned.dry_run
    assert len(on_disk(cards)) == 5
    cards._store.clock.now -= DAY
    done = cards.vacuum(timedelta(days=2.5))
    assert (done.files, done.bytes, done.versions) == (planned.files, planned.bytes, planned.versions)
    assert (done.versions, len(done.files), done.bytes > 0, done.held) == ((1, 2), 2, True, {})
    assert [content(cards, as_of=v) for v in (3, 4, 5)] == [[(1, 0, float(v))] for v in (3, 4, 5)]
    assert [c.version for c in cards.history()] == [0, 1, 2, 3, 4, 5]
    assert cards.vacuum(timedelta(0)).versions == (3, 4)
    assert content(cards) == [(1, 0, 5.0)]


def test_v3_reading_a_vacuumed_version_says_what_to_do(cards):
    """V3: a typed error, for rows, changes and queries alike."""
    for n in (1, 2):
        cards.insert(rows((1, 0, float(n))))
    cards.vacuum(timedelta(0))
    for read in (lambda: cards.read(as_of=1), lambda: cards.read_changes(1), lambda: cards.as_of(1).read()):
        with pytest.raises(NotReproducible, match=r"Version 1 of .* vacuum.* Read a newer version"):
            read()


def test_v3_vacuum_keeps_every_version_that_a_training_dataset_pins_and_says_who(store, cards):
    """V3: until the training dataset is deleted."""
    cards.insert(rows((1, 0, 1.0), (2, 0, 2.0)))
    view = view_of(store, cards)
    pinned, _ = view.create_training_data()
    before = view.get_training_data(pinned)[0]
    cards.insert(rows((1, 0, 9.0)))
    cards.insert(rows((1, 0, 8.0)))
    assert store.pins(cards.ref) == {1: ["fraud v1, training dataset 1"]}
    done = cards.vacuum(timedelta(0))
    assert (done.held, done.versions, len(done.files)) == ({1: ["fraud v1, training dataset 1"]}, (2,), 1)
    assert done.held_bytes > 0
    view.verify_training_dataset(pinned)
    assert view.get_training_data(pinned)[0].equals(before)
    view.delete_training_dataset(pinned)
    assert store.pins(cards.ref) == {}
    released = cards.vacuum(timedelta(0))
    assert (released.versions, released.held_bytes) == ((1,), 0)


def test_v3_a_training_dataset_whose_files_went_before_it_was_registered_is_not(store, cards):
    """V3, C3: its rows were read, then vacuumed: registering it would promise what nobody can keep."""
    cards.insert(rows((1, 0, 1.0)))
    view = view_of(store, cards)
    manifest = dict(view.training_dataset(view.create_training_data()[0]).manifest)
    view.delete_training_dataset(1)
    check = store.check_of_files(view.plan(labels=True), view.versions())
    cards.insert(rows((1, 0, 2.0)))
    cards.vacuum(timedelta(0))
    with pytest.raises(NotReproducible):
        store.catalog.add_training_dataset(view.id, manifest, check=check)
    assert view.training_datasets() == []


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_v3_no_training_dataset_is_registered_while_files_go(tmp_path, request, database):
    """V3, C3: whoever registers one waits for the vacuum to end, and then sees what it took."""
    url = request.getfixturevalue("postgres_url") if database == "postgresql" else f"sqlite:///{tmp_path / 'c.db'}"
    catalog, other = Catalog(url), Catalog(url)
    view = catalog.add("feature view", "view", 1, {})
    order: list[str] = []

    def register() -> None:
        other.add_training_dataset(view, {}, check=lambda: order.append("registered"))

    thread = threading.Thread(target=register)
    with catalog.no_new_training_datasets() as known:
        assert known == []
        thread.start()
        thread.join(0.3)
        order.append("vacuumed")
    thread.join(20)
    assert order == ["vacuumed", "registered"]
    assert [str(d) for d in catalog.all_training_datasets()] == ["view v1, training dataset 1"]
    catalog.close()
    other.close()


def test_v3_a_view_that_reads_as_of_a_version_pins_it(store, cards):
    """V3: so does a training dataset of such a view."""
    for n in (1, 2, 3):
        cards.insert(rows((1, 0, float(n))))
    view = store.get_or_create_feature_view("past", 1, query=cards.as_of(2))
    view.create_training_data()
    assert {v: len(who) for v, who in store.pins(cards.ref).items()} == {2: 2}
    assert cards.vacuum(timedelta(0)).versions == (1,)
    view.verify_training_dataset(1)


def test_v3_what_is_known_at_a_time_needs_every_version_up_to_the_pinned_one(store, cards):
    """V3: `as_known` reads each row as it was first known; a forgotten training dataset pins nothing."""
    for n in (1, 2, 3):
        cards.insert(rows((1, 0, float(n))))
    view = view_of(store, cards)
    manifest = dict(view.training_dataset(view.create_training_data()[0]).manifest)
    store.catalog.add_training_dataset(view.id, manifest | {"as_known": True})
    broken = {"not_reproducible_since": "2026-01-01", "not_reproducible_because": "forget"}
    store.catalog.add_training_dataset(view.id, manifest | broken)
    assert {v: len(who) for v, who in store.pins(cards.ref).items()} == {0: 1, 1: 1, 2: 1, 3: 2}
    assert cards.vacuum(timedelta(0)).files == ()


def test_v3_another_tools_log_clean_up_loses_no_version(cards):
    """V3, G13: the table's own settings say that its log does not expire."""
    for n in (1, 2, 3):
        cards.insert(rows((1, 0, float(n))))
    table = DeltaTable(cards.location)
    table.create_checkpoint()
    table.cleanup_metadata()
    assert len(cards.history()) == 4
    assert [content(cards, as_of=v) for v in (1, 2, 3)] == [[(1, 0, float(v))] for v in (1, 2, 3)]


def test_v3_what_crashed_writers_left_behind_goes_when_it_is_old(cards):
    """V3: a young file may belong to a writer that has not committed yet."""
    cards.insert(rows((1, 0, 1.0)))
    old, young = Path(cards.location, "part-old.parquet"), Path(cards.location, "part-young.parquet")
    staged = Path(cards.location, "_delta_log", "_commit_x.json.tmp")
    for file in (old, young, staged):
        file.write_bytes(b"half a file")
    for file in (old, staged):
        os.utime(file, (time.time() - 2 * 86400,) * 2)
    home, dead = cards._store.settings.home, subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = [home / "staging" / "x" / "rows", home / "tmp" / f"duckdb-{dead.pid}" / "spilled"]
    for file in left:
        file.parent.mkdir(parents=True)
        file.touch()
    (home / "staging" / "x.lock").touch()
    done = cards.vacuum(timedelta(0))
    assert not any(file.parent.exists() for file in left)
    assert set(done.orphans) == {"part-old.parquet", "_delta_log/_commit_x.json.tmp"}
    assert (old.exists(), young.exists(), staged.exists()) == (False, True, False)
    assert content(cards) == [(1, 0, 1.0)]


def test_v3_a_damaged_log_stops_vacuum_before_it_removes_anything(cards):
    """V3: without the whole log nobody knows what may go."""
    for n in (1, 2, 3):
        cards.insert(rows((1, 0, float(n))))
    DeltaTable(cards.location).create_checkpoint()
    Path(cards.location, "_delta_log", f"{1:020d}.json").unlink()
    there = on_disk(cards)
    with pytest.raises(NotReproducible, match=r"lacks the entry of version 1"):
        cards.vacuum(timedelta(0))
    assert on_disk(cards) == there


def test_v3_a_file_that_cannot_be_removed_is_a_typed_error(cards):
    """V3: here something else has taken its name; nothing of the newest version is touched."""
    for n in (1, 2):
        cards.insert(rows((1, 0, float(n))))
    (old,) = cards.vacuum(timedelta(0), dry_run=True).files
    Path(cards.location, old).unlink()
    Path(cards.location, old).mkdir()
    with pytest.raises(FeatureStoreError, match="cannot be removed"):
        cards.vacuum(timedelta(0))
    assert content(cards) == [(1, 0, 2.0)]


def test_v3_a_retention_that_is_negative_or_a_bare_number_is_refused(cards):
    """V3: with the rule in the message."""
    for retention in (timedelta(days=-1), 7):
        with pytest.raises(InvalidTime, match="zero or more"):
            cards.vacuum(retention)


# Compaction


def ranges(group: FeatureGroup) -> list[tuple[float, float]]:
    """The stretch of hours that each file covers, in order."""
    return [((f.low - T0) / HOUR, round((f.high - T0) / HOUR, 3)) for f in group.snapshot().files]


def filled(cards: FeatureGroup, count: int = 6) -> None:
    """Small files, the last of which reaches into all others."""
    for n in range(count):
        cards.insert(rows((1, 2 * n, float(n)), (2, 2 * n + 0.5, None)))
    cards.insert(rows((3, 0.25, 7.0), (3, 2 * count, 8.0)))


def test_g11_compaction_leaves_the_same_rows_in_few_files_of_stretches_of_their_own(cards, monkeypatch):
    """G11: files in order of time that do not overlap, so that a late batch touches one of them again."""
    monkeypatch.setattr(data_files, "ROWS_PER_FILE", 5)
    filled(cards)
    before, told = cards.read(), DeltaTable(cards.location).to_pyarrow_table().sort_by([("t", "ascending")])
    done = cards.optimize()
    after = DeltaTable(cards.location).to_pyarrow_table().sort_by([("t", "ascending")])
    assert cards.read().equals(before)
    assert after.equals(told)  # `__committed_at` among the columns
    assert (done.files_before, done.files_after, done.rows) == (8, 3, 14)
    assert [f.rows for f in cards.snapshot().files] == [5, 5, 4]
    assert ranges(cards) == [(0, 2.5), (4, 8), (8.5, 12)]


def test_g3_compacting_again_does_nothing(cards, monkeypatch):
    """G3: not even when the last file is small, or wide rows make all of them so."""
    monkeypatch.setattr(data_files, "ROWS_PER_FILE", 4)
    filled(cards)
    version = cards.optimize().version
    again = cards.optimize()
    assert (again.version, again.files_before, cards.delta_version) == (version, 0, version)
    monkeypatch.setattr(data_files, "BYTES_PER_FILE", 100)
    cards.optimize()
    version = cards.delta_version
    assert (cards.optimize().files_before, cards.delta_version) == (0, version)


def test_g13_compaction_changes_nothing_but_the_files(cards):
    """G13, G9, G10, G16: changes, watermark, statistics, the past; online is carried forward without writing rows."""
    window = (T0, T0 + HOUR)
    cards.insert(rows((9, 0, 1.0)), window=window)
    filled(cards)
    version, statistics, watermark = cards.delta_version, cards.statistics, cards.watermark
    past = {v: content(cards, as_of=v) for v in range(1, version + 1)}
    table = cards.online_table()
    with sqlite3.connect(cards._store.settings.home / "online.db") as connection:
        connection.execute(f"UPDATE {table.name} SET f0 = -1 WHERE k0 = 9")
    connection.close()
    done = cards.optimize()
    assert done.version == cards.delta_version == version + 1
    assert cards.read_changes(version).empty
    assert cards.read_changes(version - 1).shape == (2, 5)
    assert (cards.statistics, cards.watermark) == (statistics, watermark)
    assert {v: content(cards, as_of=v) for v in past} == past
    assert cards._store.online.version(table) == done.version
    assert cards.get_online({"card": 9}, ["amount"]) == {"amount": -1.0}
    last = cards.history()[-1]
    assert (last.operation, last.rows_written, last.rows_unchanged) == ("optimize", 0, 15)
    assert cards.insert(rows((9, 1, 2.0))).rows_inserted == 1
    assert cards.get_online({"card": 9}, ["amount"]) == {"amount": 2.0}


def test_g10_a_crash_between_compaction_and_online_costs_no_reading(cards):
    """G10: the next insert catches up over compactions without comparing the files they moved rows to."""
    filled(cards)
    store = cards._store
    maintenance.optimize(
        cards.location, identity=["card", "t"], order="t", settings=store.settings, clock=store.clock
    )  # fmt: skip
    moved = Path(cards.snapshot().files[0].path)
    hidden = moved.rename(moved.with_suffix(".hidden"))
    cards.sync_online()
    hidden.rename(moved)
    assert cards._store.online.version(cards.online_table()) == cards.delta_version


def test_c3_compaction_gives_way_to_a_writer_that_replaced_its_files(cards, monkeypatch):
    """C3: what it wrote is dropped and planned anew; when only others' files came, it is kept and committed."""
    filled(cards)
    clock, rounds = cards._store.clock, []

    def busy() -> datetime:
        """Read between writing the files and committing them: others commit meanwhile."""
        rounds.append(1)
        with monkeypatch.context() as quiet:
            quiet.setattr(cards._store, "clock", clock)
            if len(rounds) == 1:
                cards.insert(rows((5, 50, 1.0)))
            if len(rounds) == 2:
                cards.insert(rows((1, 0, 99.0)))
        return clock()

    monkeypatch.setattr(cards._store, "clock", busy)
    done = cards.optimize()
    monkeypatch.setattr(cards._store, "clock", clock)
    assert len(rounds) >= 3
    assert done.files_before > 0
    assert len(cards.snapshot().files) == 1
    assert len(content(cards)) == 15
    assert (1, 0, 99.0) in content(cards)
    assert (5, 50, 1.0) in content(cards)
    cards.vacuum(timedelta(0))
    cards._store.clock.now += DAY
    live = {Path(f.path).name for f in cards.snapshot().files}
    assert {p for p in on_disk(cards) if "checkpoint" not in p} == live  # nothing it had written in vain is left


def test_g11_partitions_are_compacted_one_by_one(store):
    """G11: a file holds rows of one partition, so files of different ones are not put together."""
    group = store.get_or_create_feature_group(
        "visits", 1, primary_key=["id"], event_time="t", partition_key=["city"],
        features=[Feature("id", "bigint"), Feature("t", "timestamp"), Feature("city", "string")],
    )  # fmt: skip
    for n in range(4):
        times = pa.array([T0 + n * HOUR] * 3, TIMESTAMP)
        group.insert(pa.table({"id": [0, 1, 2], "t": times, "city": ["a b", None, "x/y%"]}))
    before = group.read()
    assert group.optimize().files_after == 3
    assert group.optimize().files_before == 0
    assert group.read().equals(before)
    assert group.vacuum(timedelta(0)).files != ()
    assert group.read().equals(before)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10), st.integers(1, 12)), min_size=1, max_size=12),
    st.integers(2, 10),
)
def test_g11_what_is_left_untouched_is_large_and_alone_in_its_stretch(specification, capacity):
    """G11: a law of the plan: groups are disjoint and in order; what is in none overlaps nothing; neighbours in no
    group are not both small."""
    files = sorted(
        (DataFile(str(n), size, low, low + length) for n, (low, length, size) in enumerate(specification)),
        key=lambda f: (f.low, f.path),
    )
    groups = maintenance.untidy(files, capacity)
    grouped = [f for group in groups for f in group]
    assert grouped == [f for f in files if f in grouped]
    assert all(len(group) > 1 for group in groups)
    pieces = [[f] for f in files if f not in grouped] + groups
    ends = sorted((min(f.low for f in piece), max(f.high for f in piece)) for piece in pieces)
    assert all(before[1] <= after[0] for before, after in pairwise(ends))
    for left, right in pairwise(files):
        assert left in grouped or right in grouped or left.rows >= capacity / 2 or right.rows >= capacity / 2


def test_g11_compaction_keeps_every_value_of_every_type_to_the_bit(store):
    """G11: the sign of a zero, extremes, nulls inside lists and structs, bytes that are no text."""
    dtypes = {
        "real": pa.float64(), "small": pa.float32(), "long": pa.int64(), "short": pa.int8(), "flag": pa.bool_(),
        "text": pa.string(), "raw": pa.binary(), "day": pa.date32(), "time": TIMESTAMP, "money": pa.decimal128(38, 9),
        "list": pa.list_(pa.float64()),
        "both": pa.struct([("x", pa.float64()), ("names", pa.list_(pa.string()))]),
    }  # fmt: skip
    values = {
        "real": [-0.0, float("inf"), 5e-324, None], "small": [-0.0, 1.1, -3.4e38, None],
        "long": [-(2**63), 2**63 - 1, 0, None], "short": [-128, 127, 0, None], "flag": [True, False, None, None],
        "text": ["", "\x00a", "é😀", None], "raw": [b"", b"\xff\x00", b"'", None],
        "day": [date(1, 1, 1), date(9999, 12, 31), date(1970, 1, 1), None],
        "time": [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), T0, None],
        "money": [Decimal("-12345678901234567890123456789.123456789"), Decimal("0.000000001"), Decimal(0), None],
        "list": [[], [-0.0, None], [float("-inf")], None],
        "both": [{"x": -0.0, "names": None}, {"x": None, "names": []}, {"x": 1.5, "names": [None, ""]}, None],
    }  # fmt: skip
    group = store.get_or_create_feature_group(
        "types", 1, primary_key=["id"], event_time="t", statistics_config=False,
        features=[Feature("id", "bigint"), Feature("t", "timestamp"), *(Feature(n, d) for n, d in dtypes.items())],
    )  # fmt: skip
    for place in range(4):
        columns = {name: pa.array([values[name][place]], dtype) for name, dtype in dtypes.items()}
        group.insert(pa.table({"id": [place], "t": pa.array([T0 + place * HOUR], TIMESTAMP), **columns}))
    schema = group.definition.schema
    before = pa.concat_tables(data_files.read(f.path, schema) for f in group.snapshot().files)
    assert group.optimize().files_after == 1
    after = pa.concat_tables(data_files.read(f.path, schema) for f in group.snapshot().files)
    assert content_hash(after) == content_hash(before)
    assert repr(after.to_pylist()) == repr(before.to_pylist())


KILLED = """
import os, signal, sys
from datetime import timedelta
from pathlib import Path
import duckdb, deltalake, pyarrow.parquet
import featurestore
from featurestore import delta


def dying(function, *, before):
    def call(*arguments, **options):
        if not before:
            function(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)
    return call


for point, home in zip(("written", "committed", "removed one"), sys.argv[1:]):
    if os.fork() == 0:
        group = featurestore.connect(home).get_feature_group("cards", 1)
        if point == "removed one":
            Path.unlink = dying(Path.unlink, before=False)
            group.vacuum(timedelta(0))
        delta._publish = dying(delta._publish, before=point == "written")
        group.optimize()
    _, status = os.wait()
    assert os.WTERMSIG(status) == signal.SIGKILL, (point, status)
"""


def test_g10_killed_while_compacting_or_vacuuming_nothing_is_lost(tmp_path):
    """G10, V3: kill -9 with files written, with the commit made but not online, with one file of several removed."""
    homes = [tmp_path / point for point in ("written", "committed", "removed")]
    first = featurestore.connect(homes[0])
    group = first.get_or_create_feature_group(
        "cards", 1, primary_key=["card"], event_time="t", features=CARDS, online_enabled=True, statistics_config=False
    )
    group.insert(rows((1, 0, 0.0)))
    view_of(first, group).create_training_data()
    filled(group)
    expected = group.read()
    first.close()
    for home in homes[1:]:
        shutil.copytree(homes[0], home)
    subprocess.run([sys.executable, "-c", KILLED, *map(str, homes)], cwd=ROOT, check=True, timeout=100)
    for home in homes:
        store = featurestore.connect(home)
        group = store.get_feature_group("cards", 1)
        assert group.read().equals(expected)
        assert [f for f in store.check(deep=True) if f.severity == "error"] == []
        group.optimize()
        group.vacuum(timedelta(0))
        assert group.read().equals(expected)
        assert group.get_online({"card": 1}, ["amount"]) == {"amount": 5.0}
        assert [f for f in store.check(deep=True) if f.severity != "info"] == []
        store.close()
