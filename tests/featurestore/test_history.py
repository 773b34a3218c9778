"""What happened to a feature group: changes between commits, the past, and one row per commit."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import featurestore
from featurestore import Feature, FeatureGroup, FeatureStore
from featurestore.errors import InvalidTime, NotFound
from featurestore.schema import TIMESTAMP
from featurestore.times import Window

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)
CARDS = [Feature("card", "bigint"), Feature("t", "timestamp"), Feature("amount", "double")]


class Clock:
    """A clock that ticks one hour each time it is read, from 2027 on."""

    def __init__(self) -> None:
        self.now = T0 + 365 * 24 * HOUR

    def __call__(self) -> datetime:
        self.now += HOUR
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    opened = featurestore.connect(tmp_path, clock=Clock())
    yield opened
    opened.close()


@pytest.fixture
def cards(store: FeatureStore) -> FeatureGroup:
    return store.get_or_create_feature_group(
        "cards", 1, primary_key=["card"], event_time="t", features=CARDS, online_enabled=True
    )


def rows(*triples: tuple[int, float, float | None]) -> pa.Table:
    """Rows of (card, hours after T0, amount)."""
    ids, hours, amounts = zip(*triples, strict=True) if triples else ((), (), ())
    return pa.table({
        "card": pa.array(ids, pa.int64()), "t": pa.array([T0 + h * HOUR for h in hours], TIMESTAMP),
        "amount": pa.array(amounts, pa.float64()),
    })  # fmt: skip


def keys(*pairs: tuple[int, float]) -> pa.Table:
    return rows(*((card, hour, None) for card, hour in pairs)).select(["card", "t"])


def content(group: FeatureGroup, **options: Any) -> list[tuple[int, float, float | None]]:
    read = group.read(dataframe_type="arrow", **options).to_pylist()
    return [(r["card"], (r["t"] - T0) / HOUR, r["amount"]) for r in read]


def changes(group: FeatureGroup, since: Any, until: Any = None) -> list[tuple[str, int, float, float | None]]:
    read = group.read_changes(since, until, dataframe_type="arrow").to_pylist()
    return [(r["__change"], r["card"], (r["t"] - T0) / HOUR, r["amount"]) for r in read]


def test_g13_changes_are_the_net_inserts_updates_and_deletes_between_two_commits(cards):
    """G13: since is exclusive, until inclusive; a row inserted and deleted in between is no change."""
    cards.insert(rows((1, 0, 1.0), (2, 0, 2.0), (3, 0, 3.0)))  # version 1
    cards.insert(rows((1, 0, 9.0), (4, 5, 4.0)))  # 2
    cards.remove_rows(keys((3, 0)))  # 3
    cards.insert(rows((5, 1, 5.0)))  # 4
    cards.remove_rows(keys((5, 1)))  # 5
    assert changes(cards, 1) == [("update", 1, 0, 9.0), ("delete", 3, 0, 3.0), ("insert", 4, 5, 4.0)]
    assert changes(cards, 1, 2) == [("update", 1, 0, 9.0), ("insert", 4, 5, 4.0)]
    assert changes(cards, 3, 4) == [("insert", 5, 1, 5.0)]
    assert changes(cards, 3, 5) == changes(cards, 2, 2) == []
    assert changes(cards, 0, 1) == [("insert", card, 0, float(card)) for card in (1, 2, 3)]


def test_g13_a_row_deleted_and_inserted_again_with_the_same_values_did_not_change(cards):
    """G13: changes compare values, not the times they were committed."""
    cards.insert(rows((1, 0, 1.0), (2, 0, None)))
    cards.remove_rows(keys((1, 0)))
    cards.insert(rows((1, 0, 1.0)))
    assert changes(cards, 1) == []
    cards.insert(rows((1, 0, 1.0), (2, 0, 0.0)), overwrite=True)
    assert changes(cards, 1) == [("update", 2, 0, 0.0)]


def test_g13_changes_of_an_append_read_only_the_appended_file(cards):
    """G13: what both versions share is not read; here it could not be, because it is gone."""
    cards.insert(rows((1, 0, 1.0)))
    shared = Path(cards.snapshot().files[0].path)
    cards.insert(rows((1, 1, 2.0)))
    shared.unlink()
    assert changes(cards, 1, 2) == [("insert", 1, 1, 2.0)]


def test_g13_changes_carry_the_commit_time_of_each_row_and_come_by_time_and_key(cards):
    """G13: the frame has all columns, when the values were committed, and what happened."""
    first = cards.insert(rows((2, 3, 1.0), (1, 3, 1.0), (7, 0, 1.0)))
    second = cards.insert(rows((1, 3, 2.0)))
    frame = cards.read_changes(0)
    assert list(frame.columns) == ["card", "t", "amount", "__committed_at", "__change"]
    assert frame["card"].tolist() == [7, 1, 2]
    assert frame["__committed_at"].tolist() == [first.time, second.time, first.time]


def test_g13_changes_between_times_and_in_the_wrong_order(cards):
    """G13: times stand for the version current then."""
    first, second = cards.insert(rows((1, 0, 1.0))), cards.insert(rows((1, 0, 2.0)))
    assert changes(cards, second.time - MICROSECOND, second.time) == [("update", 1, 0, 2.0)]
    assert changes(cards, first.time, second.time - MICROSECOND) == []
    with pytest.raises(InvalidTime, match="backwards"):
        cards.read_changes(2, 1)
    with pytest.raises(InvalidTime, match="first commit"):
        cards.read_changes(T0)
    with pytest.raises(NotFound, match="versions: 0 to 2"):
        cards.read_changes(1, 3)


def test_g13_appended_features_are_null_in_older_rows_and_no_change(cards):
    """G13: neither by themselves nor when compaction writes them into files that lacked them."""
    cards.insert(rows((1, 0, 1.0)))
    cards.insert(rows((2, 0, 2.0)))
    cards.append_features([Feature("city", "string")])
    appended = cards.delta_version
    assert cards.read_changes(2).empty
    cities = rows((2, 0, 2.0)).append_column("city", pa.array(["Oslo"]))
    cards.insert(cities)
    cards.optimize()

    def told(since: int) -> list[dict[str, Any]]:
        changed = cards.read_changes(since, dataframe_type="arrow")
        return changed.select(["__change", "card", "city"]).to_pylist()

    assert told(1) == [{"__change": "insert", "card": 2, "city": "Oslo"}]
    assert told(2) == told(appended) == [{"__change": "update", "card": 2, "city": "Oslo"}]
    assert cards.history()[appended].operation == "append_features"
    assert cards.read()["city"].tolist()[1:] == ["Oslo"]


def test_g13_as_of_a_time_is_right_at_commit_boundaries_and_before_the_first(cards):
    """G13: a commit counts from its own microsecond on; before the first there is nothing to read."""
    commits = [cards.insert(rows((1, 0, float(n)))) for n in (1, 2, 3)]
    for commit, before in zip(commits[1:], commits, strict=False):
        assert content(cards, as_of=commit.time) == [(1, 0, float(commit.version))]
        assert content(cards, as_of=commit.time - MICROSECOND) == [(1, 0, float(before.version))]
        assert cards.as_of(commit.time).read(dataframe_type="arrow")["amount"].to_pylist() == [float(commit.version)]
    assert content(cards, as_of=commits[-1].time + 1000 * HOUR) == [(1, 0, 3.0)]
    with pytest.raises(InvalidTime, match="first commit"):
        cards.read(as_of=T0)


def test_g13_history_is_one_row_per_commit(cards):
    """G13: version, time, operation, rows, window, who and the id of the statistics."""
    window = Window(T0, T0 + HOUR)
    commit = cards.insert(rows((1, 0, 1.0), (2, 0, 2.0)), window=window)
    cards.remove_rows(keys((2, 0)))
    created, inserted, removed = cards.history()
    assert (created.version, created.rows_written, created.statistics_id) == (0, 0, None)
    assert (inserted.version, inserted.time, inserted.operation) == (1, commit.time, "upsert")
    assert (inserted.rows_inserted, inserted.window, inserted.statistics_id) == (2, window, 1)
    assert (removed.version, removed.operation, removed.rows_deleted, removed.statistics_id) == (2, "delete", 1, None)
    assert inserted.who == removed.who != ""
    assert cards.commit_details(1) == inserted
    with pytest.raises(NotFound, match="versions: 0 to 2"):
        cards.commit_details(3)


def test_g13_history_as_a_frame_for_people(cards):
    """G13: the same, one row per commit, the window as two columns."""
    cards.insert(rows((1, 0, 1.0)), window=(T0, T0 + HOUR))
    frame = cards.history("pandas")
    assert frame["operation"].tolist()[1:] == ["upsert"]
    assert frame["rows_inserted"].tolist() == [0, 1]
    assert frame["window_end"].tolist()[1] == T0 + HOUR
    assert frame["statistics_id"].tolist()[1] == 1


def test_g13_the_last_commit_is_the_last_of_the_history(store, cards):
    """G13: read without the others; None while nothing was declared or inserted."""
    assert cards.last_commit == cards.history()[-1]
    cards.insert(rows((1, 0, 1.0)))
    assert cards.last_commit == cards.history()[-1]
    assert (cards.last_commit.version, cards.last_commit.statistics_id) == (1, 1)
    assert store.create_feature_group("bare", 1, primary_key=["id"]).last_commit is None


def test_c1_without_a_version_the_newest_is_taken_and_said_in_the_log(store, cards, caplog):
    """C1: for groups and for views."""
    store.get_or_create_feature_group("cards", 3, primary_key=["card"], event_time="t", features=CARDS)
    for version in (1, 2):
        store.get_or_create_feature_view("fraud", version, query=cards.select_all(), labels=["amount"])
    with caplog.at_level(logging.INFO, logger="featurestore"):
        assert store.get_feature_group("cards").version == 3
        assert store.get_feature_view("fraud").version == 2
    assert "cards: using version 3" in caplog.messages[0]
    assert "fraud: using version 2" in caplog.messages[1]


def test_c1_an_unknown_name_or_version_lists_what_there_is(store, cards):
    """C1: for groups and for views."""
    with pytest.raises(NotFound, match=r"no feature group 'card' \(known: cards\)"):
        store.get_feature_group("card")
    with pytest.raises(NotFound, match=r"no version 2 \(versions: 1\)"):
        store.get_feature_group("cards", 2)
    with pytest.raises(NotFound, match=r"no feature view 'fraud' \(known: none yet\)"):
        store.get_feature_view("fraud")
    store.get_or_create_feature_view("fraud", 1, query=cards.select_all())
    with pytest.raises(NotFound, match=r"no version 7 \(versions: 1\)"):
        store.get_feature_view("fraud", 7)
