"""A damaged store: what doctor finds, what reads say, and that writing does not make it worse."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

import featurestore
from featurestore import Feature, FeatureGroup, FeatureStore, delta, health
from featurestore.errors import FeatureStoreError, NotReproducible
from featurestore.findings import Finding
from featurestore.forget import Erasure
from featurestore.schema import TIMESTAMP

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
CARDS = [Feature("card", "bigint"), Feature("t", "timestamp"), Feature("amount", "double")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    opened = featurestore.connect(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def cards(store: FeatureStore) -> FeatureGroup:
    group = store.get_or_create_feature_group(
        "cards", 1, primary_key=["card"], event_time="t", features=CARDS, online_enabled=True, statistics_config=False
    )
    for card in (1, 2, 3):
        group.insert(rows((card, card, float(card))))
    return group


def rows(*triples: tuple[int, float, float]) -> pa.Table:
    """Rows of (card, hours after T0, amount)."""
    ids, hours, amounts = zip(*triples, strict=True)
    return pa.table({
        "card": pa.array(ids, pa.int64()), "t": pa.array([T0 + h * HOUR for h in hours], TIMESTAMP),
        "amount": pa.array(amounts, pa.float64()),
    })  # fmt: skip


def told(store: FeatureStore, severity: str, **options: bool) -> list[Finding]:
    return [f for f in store.check(**options) if f.severity == severity]


def the(findings: list[Finding]) -> str:
    (finding,) = findings
    return str(finding)


def entry(group: FeatureGroup, version: int) -> Path:
    return Path(group.location, "_delta_log", f"{version:020d}.json")


def test_a_whole_store_has_neither_errors_nor_warnings(store, cards):
    """Doctor: what is worth knowing is the space, the libraries and what online holds."""
    view = store.get_or_create_feature_view("view", 1, query=cards.select(["amount"]))
    view.create_training_data()
    found = store.check(deep=True)
    assert {f.severity for f in found} == {"info"}
    assert {f.subject for f in found} == {"disk", "libraries", "feature group cards_v1"}


def cut_off(group: FeatureGroup) -> None:
    entry(group, 3).write_bytes(entry(group, 3).read_bytes()[:200])


def emptied(group: FeatureGroup) -> None:
    entry(group, 3).write_bytes(b"")


def cut_after_a_line(group: FeatureGroup) -> None:
    entry(group, 3).write_text(entry(group, 3).read_text().splitlines()[0])


def lost_in_the_middle(group: FeatureGroup) -> None:
    entry(group, 2).unlink()


@pytest.mark.parametrize("damage", [cut_off, emptied, cut_after_a_line, lost_in_the_middle])
def test_g10_a_damaged_log_is_refused_by_reads_and_writes_and_nothing_gets_worse(store, cards, damage):
    """G10, V3: a log entry cut off at a byte or a line, empty, or deleted; put back, everything is as it was."""
    before = cards.read()
    shutil.copytree(cards.location, cards.location + ".backup")
    damage(cards)
    there = sorted(p.name for p in Path(cards.location).rglob("*"))
    for use in uses_of(cards):
        with pytest.raises(FeatureStoreError, match=r"featurestore doctor|Restore"):
            use()
    assert sorted(p.name for p in Path(cards.location).rglob("*")) == there
    finding = the(told(store, "error"))
    assert finding.startswith("error: feature group cards_v1")
    assert ".json" in finding or "gap" in finding
    shutil.rmtree(cards.location)
    shutil.move(cards.location + ".backup", cards.location)
    assert told(store, "error") == []
    assert cards.read().equals(before)


def uses_of(group: FeatureGroup) -> list[Callable[[], object]]:
    return [
        group.read, group.history, lambda: group.read_changes(1), lambda: group.insert(rows((9, 9, 9.0))),
        lambda: group.remove_rows(rows((1, 1, 1.0)).select(["card", "t"])), group.optimize, group.vacuum,
        lambda: group.forget(pa.table({"card": [1]})),
    ]  # fmt: skip


def test_g10_an_entry_lost_below_a_checkpoint_is_found_and_the_newest_version_is_still_read(store, cards):
    """G10, G13: the newest rows come from the checkpoint; the version in the gap is said to be gone."""
    delta.checkpoint(cards.location)
    entry(cards, 2).unlink()
    assert len(cards.read()) == 3
    with pytest.raises(NotReproducible):
        cards.read(as_of=2)
    assert "entry of version 2" in the(told(store, "error"))


def test_v3_a_data_file_deleted_by_hand_is_named_and_only_what_needs_it_refuses(store, cards):
    """V3, G10: appending what needs no old file goes on; reads and rewrites refuse, and commit nothing."""
    (gone,) = [f for f in cards.snapshot().files if f.low == T0 + 2 * HOUR]
    hidden = Path(gone.path).rename(cards.location + ".hidden")
    for use in (
        cards.read, lambda: cards.insert(rows((2, 2, 9.0))), cards.optimize,
        lambda: cards.remove_rows(rows((2, 2, 0.0)).select(["card", "t"])),
    ):  # fmt: skip
        with pytest.raises(NotReproducible, match=Path(gone.path).name):
            use()
    assert cards.delta_version == 3
    assert Path(gone.path).name in the(told(store, "error"))
    assert cards.insert(rows((4, 4, 4.0))).rows_inserted == 1
    hidden.rename(gone.path)
    assert cards.read()["card"].tolist() == [1, 2, 3, 4]
    assert told(store, "error") == []
    Path(gone.path).unlink()
    cards.insert(rows((1, 1, 1.0), (2, 2, 2.0), (3, 3, 3.0), (4, 4, 4.0)), overwrite=True)
    assert cards.read()["card"].tolist() == [1, 2, 3, 4]
    assert told(store, "error") == []


def test_a_pinned_version_whose_files_another_tool_removed_is_an_error(store, cards):
    """V3: doctor says who needs it; deep, that the training dataset does not verify."""
    view = store.get_or_create_feature_view("view", 1, query=cards.select(["amount"]))
    view.create_training_data()
    (pinned,) = [f for f in cards.snapshot().files if f.low == T0 + HOUR]
    cards.insert(rows((1, 1, 9.0)))
    Path(pinned.path).unlink()
    assert "version 3 are gone, which is pinned by view v1, training dataset 1" in the(told(store, "error"))
    assert [f.subject for f in told(store, "error", deep=True)] == [
        "view v1, training dataset 1",
        "feature group cards_v1",
    ]


def test_missing_training_files_and_forgotten_rows_are_told(store, cards):
    """V2, G14: files can be written again; what was forgotten cannot be made again and says why."""
    view = store.get_or_create_feature_view("view", 1, query=cards.select(["amount"]))
    view.create_training_data()
    (store.settings.home / view.training_dataset(1).manifest["files"][0]).unlink()
    assert "recreate_training_dataset(1)" in the(told(store, "warning"))
    cards.forget(pa.table({"card": [1]}))
    assert told(store, "warning") == []
    assert "cannot be made again since" in the([f for f in store.check() if "dataset" in f.subject])


def test_groups_without_table_and_tables_without_group_are_told(store, cards):
    """Doctor: both ways."""
    store.get_or_create_feature_group("moved", 1, primary_key=["card"], event_time="t", features=CARDS)
    lake = Path(cards.location).parent
    (lake / "moved_1").rename(lake / "elsewhere_1")
    assert "no Delta table" in the(told(store, "error"))
    assert the(told(store, "warning")).startswith("warning: lake/elsewhere_1: The catalog knows no feature group")


def test_an_online_store_that_lags_or_does_not_answer_is_told(tmp_path, store, cards):
    """G10: a lag repairs itself; a file that is no database does not."""
    delta.upsert(
        cards.location, rows((4, 4, 4.0)).cast(cards.definition.schema), identity=("card", "t"), order="t", who="me",
        clock=store.clock,
    )  # fmt: skip
    assert "Online holds version 3, offline is at version 4" in the(told(store, "warning"))
    cards.sync_online()
    assert told(store, "warning") == []
    store.close()
    for file in tmp_path.glob("online.db*"):
        file.unlink()
    (tmp_path / "online.db").write_bytes(b"no database at all" * 100)
    assert "The online store does not answer" in the(told(store, "error"))


def test_what_crashed_processes_left_behind_is_told(store, cards):
    """G14, V3: orphans of writers, folders of unfinished training datasets, a `forget` that did not end."""
    orphan = Path(cards.location, "part-x.parquet")
    orphan.write_bytes(b"half")
    os.utime(orphan, (time.time() - 2 * 86400,) * 2)
    store.get_or_create_feature_view("view", 1, query=cards.select(["amount"])).create_training_data()
    (store.settings.home / "training" / "view_1" / ".new-dead").mkdir()
    staged = store.settings.home / "staging" / "dead"
    staged.mkdir(parents=True)
    os.utime(staged, (time.time() - 2 * 86400,) * 2)
    messages = " ".join(str(f) for f in told(store, "info"))
    assert "1 leftovers of inserts" in messages
    assert "1 files of writers that crashed" in messages
    assert "1 folders of unfinished training datasets" in messages
    Erasure(store, cards, pa.table({"card": [1]})).record_intent()
    assert "Call forget(keys) again" in the(told(store, "error"))
    cards.forget(pa.table({"card": [1]}))
    assert told(store, "error") == []


def test_many_small_files_are_told_until_they_are_compacted(store, cards):
    """G11: from ten files on that compaction would write anew."""
    for hour in range(4, 4 + health.MANY_FILES):
        cards.insert(rows((1, hour, 1.0)))
    assert any("optimize()" in f.remedy for f in told(store, "info"))
    cards.optimize()
    assert not any("optimize()" in f.remedy for f in store.check())
