"""The online store catches up with Delta by itself, at the cost of what changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import featurestore
from featurestore import Feature, FeatureGroup, FeatureStore, catch_up, delta
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
    return cards_in(store)


def cards_in(store: FeatureStore, **options: Any) -> FeatureGroup:
    options = {"event_time": "t", "features": CARDS, "online_enabled": True, "statistics_config": False, **options}
    return store.get_or_create_feature_group("cards", 1, primary_key=["card"], **options)


def rows(*triples: tuple[int, float, float | None]) -> pa.Table:
    """Rows of (card, hours after T0, amount)."""
    ids, hours, amounts = zip(*triples, strict=True)
    return pa.table({
        "card": pa.array(ids, pa.int64()), "t": pa.array([T0 + h * HOUR for h in hours], TIMESTAMP),
        "amount": pa.array(amounts, pa.float64()),
    })  # fmt: skip


def keys(*pairs: tuple[int, float]) -> pa.Table:
    return rows(*((card, hour, None) for card, hour in pairs)).select(["card", "t"])


def offline_only(group: FeatureGroup, *triples: tuple[int, float, float]) -> None:
    """What a writer leaves behind that dies between Delta and the online store."""
    definition, settings = group.definition, group._store.settings
    delta.upsert(
        group.location, rows(*triples).cast(definition.schema), identity=definition.identity, order=definition.order,
        who=settings.who, clock=group._store.clock,
    )  # fmt: skip


def remove_offline_only(group: FeatureGroup, *pairs: tuple[int, float]) -> None:
    delta.delete(group.location, keys(*pairs), order="t", who="me", clock=group._store.clock)


def online(group: FeatureGroup, *cards: int) -> list[float | None]:
    found = [group.get_online({"card": card}, ["amount"]) for card in cards]
    return [None if row is None else row["amount"] for row in found]


def mark(group: FeatureGroup, card: int) -> None:
    """Change a row online behind the store's back: only writing that row anew brings its amount back."""
    with sqlite3.connect(group._store.settings.home / "online.db") as connection:
        assert connection.execute(f"UPDATE {group.online_table().name} SET f0 = -1 WHERE k0 = {card}").rowcount == 1
    connection.close()


def held(group: FeatureGroup) -> int | None:
    return group._store.online.version(group.online_table())


def test_g10_a_lag_is_caught_up_by_the_changes_alone(cards):
    """G10: rows and files that did not change are neither read nor written."""
    cards.insert(rows((1, 0, 1.0), (2, 0, 2.0)))
    mark(cards, 2)
    Path(cards.snapshot().files[0].path).rename(cards.location + ".hidden")
    offline_only(cards, (1, 1, 3.0), (3, 1, 4.0))
    offline_only(cards, (4, 2, 5.0))
    cards.sync_online()
    assert online(cards, 1, 2, 3, 4) == [3.0, -1.0, 4.0, 5.0]
    assert held(cards) == cards.delta_version == 3


def test_g10_an_insert_repairs_what_another_writer_left_behind(cards):
    """G10: also when it has nothing new itself."""
    cards.insert(rows((1, 0, 1.0)))
    mark(cards, 1)
    offline_only(cards, (2, 0, 2.0))
    cards.insert(rows((3, 0, 3.0)))
    offline_only(cards, (4, 0, 4.0))
    cards.insert(rows((3, 0, 3.0)))
    assert online(cards, 1, 2, 3, 4) == [-1.0, 2.0, 3.0, 4.0]


def test_g10_deletes_that_online_missed_fall_back_to_the_newest_row_left(cards):
    """G10, G14: of keys that lost their newest row, an older one or all; others are not touched."""
    cards.insert(rows((1, 0, 1.0), (1, 1, 2.0), (2, 0, 3.0), (3, 0, 4.0), (3, 5, 5.0), (4, 0, 6.0)))
    mark(cards, 4)
    remove_offline_only(cards, (1, 1), (2, 0), (3, 0))
    cards.sync_online()
    assert online(cards, 1, 2, 3, 4) == [1.0, None, 5.0, -1.0]


def test_g14_removing_rows_writes_only_their_keys_online(cards):
    """G14: remove_rows does not rebuild the table."""
    cards.insert(rows((1, 0, 1.0), (1, 1, 2.0), (2, 0, 3.0)))
    mark(cards, 2)
    cards.remove_rows(keys((1, 1)))
    assert online(cards, 1, 2) == [1.0, -1.0]


def test_g14_the_newest_row_left_is_found_in_whichever_file_it_lies(cards, monkeypatch):
    """G14: files are read newest first, in growing blocks, until every key has its row; late files overlap others."""
    monkeypatch.setattr(catch_up, "_FIRST_BLOCK", 1)
    for hour in range(8):
        cards.insert(rows((hour % 3, hour, float(hour))))
    cards.insert(rows((9, 2.5, 2.5), (9, 6.5, 6.5)))
    cards.insert(rows((8, 0.5, 0.5), (8, 6.75, 6.75)))
    cards.remove_rows(keys((0, 6), (1, 7), (2, 5), (2, 2), (9, 6.5), (8, 6.75)))
    assert online(cards, 0, 1, 2, 8, 9) == [3.0, 4.0, None, 0.5, 2.5]


def test_g10_a_deleted_online_store_is_built_again_when_serving_starts(tmp_path):
    """G10: init_serving repairs a lag, whatever its cause."""
    first = featurestore.connect(tmp_path)
    group = cards_in(first)
    group.insert(rows((1, 0, 1.0), (1, 1, 2.0), (2, 0, 3.0)))
    first.get_or_create_feature_view("view", 1, query=group.select(["amount"])).create_training_data()
    first.close()
    for file in tmp_path.glob("online.db*"):
        file.unlink()
    again = featurestore.connect(tmp_path)
    view = again.get_feature_view("view", 1)
    view.init_serving()
    assert view.get_feature_vectors([{"card": 1}, {"card": 2}]) == [[2.0], [3.0]]
    again.close()


def test_g10_when_the_files_of_the_version_held_are_gone_everything_is_written_anew(cards):
    """G10: changes cannot be told any more, so online is rebuilt."""
    cards.insert(rows((1, 0, 1.0), (2, 0, 2.0)))
    (old,) = cards.snapshot().files
    mark(cards, 2)
    remove_offline_only(cards, (1, 0))
    Path(old.path).unlink()
    cards.sync_online()
    assert online(cards, 1, 2) == [None, 2.0]


def test_g10_an_online_store_ahead_of_a_restored_lake_is_built_again(cards):
    """G10: a lake restored from an older backup is the truth."""
    cards.insert(rows((1, 0, 1.0)))
    table = cards.online_table()
    cards._store.online.upsert(table, rows((1, 5, 9.0)), delta_version=7, previous_version=1)
    cards.sync_online()
    assert (online(cards, 1), held(cards)) == ([1.0], 1)


def test_g8_a_late_row_never_overwrites_a_newer_one_also_when_catching_up(cards):
    """G8: neither a late insert nor a late correction that online missed."""
    cards.insert(rows((1, 5, 5.0), (1, 0, 0.0)))
    cards.insert(rows((1, 3, 3.0)))
    assert online(cards, 1) == [5.0]
    offline_only(cards, (1, 4, 4.0))
    offline_only(cards, (1, 0, 0.5), (1, 2, 2.0))
    cards.sync_online()
    assert online(cards, 1) == [5.0]
    offline_only(cards, (1, 5, 5.5))
    cards.sync_online()
    assert online(cards, 1) == [5.5]


def test_g10_overwriting_replaces_everything_online(cards):
    """G10: an overwrite, seen at once or caught up with."""
    cards.insert(rows((1, 5, 5.0), (2, 0, 0.0)))
    cards.insert(rows((1, 3, 3.0)), overwrite=True)
    assert online(cards, 1, 2) == [3.0, None]


def test_g10_without_event_time_the_key_is_the_row(store):
    """G10: deletes and updates of a group without event time, caught up with."""
    group = store.get_or_create_feature_group(
        "names", 1, primary_key=["a", "b"], online_enabled=True,
        features=[Feature("a", "string"), Feature("b", "int"), Feature("x", "int")],
    )  # fmt: skip
    schema = group.definition.schema
    group.insert(pa.table({"a": ["k", "k", "l"], "b": [1, 2, 1], "x": [1, 2, 3]}).cast(schema))
    delta.delete(
        group.location, pa.table({"a": ["k"], "b": [2]}).cast(pa.schema(list(schema)[:2])), order="a", who="me",
        clock=store.clock,
    )  # fmt: skip
    delta.upsert(
        group.location, pa.table({"a": ["l"], "b": [1], "x": [4]}).cast(schema), identity=("a", "b"), order="a",
        who="me", clock=store.clock,
    )  # fmt: skip
    group.sync_online()
    found = [group.get_online({"a": a, "b": b}, ["x"]) for a, b in (("k", 1), ("k", 2), ("l", 1))]
    assert found == [{"x": 1}, None, {"x": 4}]
