"""What may go and what must stay: vacuum, pins and compaction."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

import featurestore
from featurestore import Feature, FeatureGroup, FeatureStore
from featurestore.errors import InvalidTime, NotReproducible
from featurestore.schema import TIMESTAMP

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


def test_v3_a_view_that_reads_as_of_a_version_pins_it(store, cards):
    """V3: so does a training dataset of such a view."""
    for n in (1, 2, 3):
        cards.insert(rows((1, 0, float(n))))
    view = store.get_or_create_feature_view("past", 1, query=cards.as_of(2))
    view.create_training_data()
    assert {v: len(who) for v, who in store.pins(cards.ref).items()} == {2: 2, 3: 1}
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
    done = cards.vacuum(timedelta(0))
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


def test_v3_a_negative_retention_is_refused(cards):
    """V3: with the rule in the message."""
    with pytest.raises(InvalidTime, match="zero or more"):
        cards.vacuum(timedelta(days=-1))
