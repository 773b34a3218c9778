from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import featurestore
from featurestore import Feature, FeatureGroup, FeatureStore, statistics
from featurestore.errors import Conflict, FeatureStoreError, InvalidData, InvalidTime, NotFound, SchemaMismatch
from featurestore.schema import TIMESTAMP, to_frame
from featurestore.times import Window

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
CARDS = [Feature("card", "bigint"), Feature("t", "timestamp"), Feature("amount", "double", unit="EUR")]
POSITIVE = {
    "name": "rules",
    "expectations": [{"type": "expect_column_values_to_be_between", "kwargs": {"column": "amount", "min_value": 0}}],
}


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = T0 + 10 * DAY

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[FeatureStore]:
    opened = featurestore.connect(tmp_path, clock=clock)
    yield opened
    opened.close()


@pytest.fixture
def cards(store: FeatureStore) -> FeatureGroup:
    return cards_in(store)


def cards_in(store: FeatureStore, **options: Any) -> FeatureGroup:
    definition = {"primary_key": ["card"], "event_time": "t", "features": CARDS, "online_enabled": True, **options}
    return store.get_or_create_feature_group("cards", 1, **definition)


def rows(*triples: tuple[int | None, float | None, float | None]) -> pa.Table:
    """Rows of (card, hours after T0, amount)."""
    ids, hours, amounts = zip(*triples, strict=True) if triples else ((), (), ())
    times = [None if h is None else T0 + h * HOUR for h in hours]
    return pa.table({
        "card": pa.array(ids, pa.int64()), "t": pa.array(times, TIMESTAMP), "amount": pa.array(amounts, pa.float64())
    })  # fmt: skip


def content(group: FeatureGroup, **options: Any) -> list[tuple[int, float, float | None]]:
    read = group.read(dataframe_type="arrow", **options).to_pylist()
    return [(r["card"], (r["t"] - T0) / HOUR, r["amount"]) for r in read]


def online(group: FeatureGroup, card: int) -> float | None:
    row = group.get_online({"card": card}, ["amount"])
    return None if row is None else row["amount"]


# Identity and upserts


def test_g1_offline_keeps_every_time_and_online_the_newest_row(cards):
    """G1: identity is key and time offline, key online."""
    cards.insert(rows((1, 0, 1.0), (1, 1, 2.0), (2, 0, 3.0)))
    assert content(cards) == [(1, 0, 1.0), (2, 0, 3.0), (1, 1, 2.0)]
    assert (online(cards, 1), online(cards, 2), online(cards, 3)) == (2.0, 3.0, None)


def test_g1_without_event_time_the_key_alone_tells_rows_apart(store):
    group = store.get_or_create_feature_group(
        "names", 1, primary_key=["id"], features=[Feature("id", "string"), Feature("n", "int")], online_enabled=True
    )
    group.insert(pd.DataFrame({"id": ["b", "a"], "n": [1, 2]}))
    commit = group.insert(pd.DataFrame({"id": ["a", "c"], "n": [3, 4]}))
    assert (commit.rows_inserted, commit.rows_updated) == (1, 1)
    assert group.read().to_dict("list") == {"id": ["a", "b", "c"], "n": [3, 1, 4]}
    assert group.get_online({"id": "a"}, ["n"]) == {"n": 3}
    with pytest.raises(InvalidTime, match="no event time"):
        group.read(start_time="2026-01-01")


def test_g1_composite_keys_compare_column_by_column(store):
    features = [Feature("a", "string"), Feature("b", "string"), Feature("x", "int")]
    group = store.get_or_create_feature_group(
        "pairs", 1, primary_key=["a", "b"], features=features, online_enabled=True
    )
    group.insert(pd.DataFrame({"a": ["1", "11"], "b": ["11", "1"], "x": [1, 2]}))
    assert group.get_online({"a": "1", "b": "11"}, ["x"]) == {"x": 1}
    assert group.get_online({"b": "1", "a": "11"}, ["x"]) == {"x": 2}


@pytest.mark.parametrize(
    ("dtype", "keys"),
    [
        ("boolean", [False, True]), ("smallint", [-1, 1]), ("bigint", [-(2**63), 2**63 - 1]),
        ("string", ["a'b", "é" * 50 + "1", "é" * 50 + "2"]), ("binary", [b"'", b"\xff\x00"]),
        ("date", [date(1960, 1, 1), date(2026, 1, 1)]), ("timestamp", [T0, T0 + timedelta(microseconds=1)]),
        ("decimal(10,2)", [Decimal("-2.25"), Decimal("1.50")]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("event_time", [None, "t"])
def test_g1_a_key_of_every_dtype_is_inserted_updated_removed_and_looked_up(store, dtype, keys, event_time):
    features = [Feature("k", dtype), Feature("t", "timestamp"), Feature("x", "int")]
    group = store.get_or_create_feature_group(
        "g", 1, primary_key=["k"], event_time=event_time, features=features, online_enabled=True
    )

    def frame(some: list, x: int) -> pa.Table:
        return pa.table({"k": pa.array(some, features[0].type), "t": [T0] * len(some), "x": [x] * len(some)})

    assert group.insert(frame(keys, 1)).rows_inserted == len(keys)
    assert group.insert(frame(keys, 1)).rows_written == 0
    assert group.insert(frame(keys[1:], 2)).rows_updated == len(keys) - 1
    expected = {k: 1 if k == keys[0] else 2 for k in keys}
    assert {r["k"]: r["x"] for r in group.read(dataframe_type="arrow").to_pylist()} == expected
    assert {k: group.get_online({"k": k}, ["x"])["x"] for k in keys} == expected
    assert group.remove_rows(frame(keys[:1], 0).select(["k", "t"] if event_time else ["k"])).rows_deleted == 1
    assert [r["k"] for r in group.read(dataframe_type="arrow").to_pylist()] == keys[1:]


EVERY_VALUE = {
    "boolean": True, "tinyint": -128, "smallint": 32767, "int": 2**31 - 1, "bigint": 2**53 + 1, "float": 0.5,
    "double": 0.1, "string": "Zürich 'x' 🐟", "binary": b"\x00\xff", "date": date(1900, 1, 1),
    "timestamp": T0 + timedelta(microseconds=1), "decimal(10,2)": Decimal("-1.10"), "array<double>": [1.5, None],
    "struct<lat:double,lon:double>": {"lat": 1.0, "lon": None},
}  # fmt: skip


@pytest.mark.parametrize("library", ["pandas", "polars", "arrow"])
def test_g2_every_dtype_comes_back_as_it_went_in(store, library):
    """G2, G6: through the door, the lake and back, nulls included, from and to each library."""
    features = [Feature("id", "bigint"), *(Feature(f"a {d}", d) for d in EVERY_VALUE)]
    group = store.get_or_create_feature_group("every", 1, primary_key=["id"], features=features)
    columns = [pa.array([1, 2], pa.int64())]
    columns += [pa.array([v, None], f.type) for f, v in zip(features[1:], EVERY_VALUE.values(), strict=True)]
    table = pa.Table.from_arrays(columns, names=[f.name for f in features])
    group.insert(to_frame(table, library))
    assert group.read(dataframe_type="arrow").to_pylist() == table.to_pylist()
    assert (
        type(group.read(dataframe_type=library)).__module__.split(".")[0]
        == type(to_frame(table, library)).__module__.split(".")[0]
    )
    assert group.insert(group.read(dataframe_type=library)).rows_written == 0


def test_g2_a_stream_of_batches_is_a_frame(cards):
    batches = [b for n in range(3) for b in rows((n, n, float(n))).to_batches()]
    commit = cards.insert(pa.RecordBatchReader.from_batches(batches[0].schema, batches))
    assert (commit.rows_inserted, len(content(cards))) == (3, 3)


def test_g2_a_new_connection_reads_what_another_wrote(cards, tmp_path):
    cards.insert(rows((1, 0, 1.0)))
    other = featurestore.connect(tmp_path).get_feature_group("cards")
    assert (content(other), online(other, 1)) == ([(1, 0, 1.0)], 1.0)


def test_g3_inserting_the_same_rows_again_changes_nothing(cards):
    """G3: in any order, NaN or null; no new Delta version."""
    first = cards.insert(rows((1, 0, 1.0), (2, 0, None)))
    again = cards.insert(rows((2, 0, float("nan")), (1, 0, 1.0)))
    assert (first.rows_written, again.rows_written, again.rows_unchanged) == (2, 0, 2)
    assert again.version == first.version == cards.delta_version


def test_g3_an_upsert_counts_new_changed_and_equal_rows(cards):
    cards.insert(rows((1, 0, 1.0), (2, 0, 2.0)))
    commit = cards.insert(rows((1, 0, 1.0), (2, 0, None), (3, 0, 3.0)))
    assert (commit.rows_inserted, commit.rows_updated, commit.rows_unchanged, commit.rows_written) == (1, 1, 1, 2)
    assert content(cards) == [(1, 0, 1.0), (2, 0, None), (3, 0, 3.0)]


def test_g4_of_one_identity_twice_in_a_batch_the_last_one_wins(cards):
    """G4: and the commit counts the others."""
    commit = cards.insert(rows((1, 0, 1.0), (2, 0, 5.0), (1, 0, 2.0), (1, 0, 3.0)))
    assert (commit.rows_inserted, commit.rows_deduplicated) == (2, 2)
    assert content(cards) == [(1, 0, 3.0), (2, 0, 5.0)]


@pytest.mark.parametrize(("bad", "column"), [((None, 0, 1.0), "card"), ((1, None, 1.0), "t")])
def test_g5_a_null_key_or_time_is_refused_and_nothing_written(cards, bad, column):
    """G5: naming column and row, offline and online."""
    with pytest.raises(InvalidData, match=f"'{column}' is null in row 1"):
        cards.insert(rows((2, 0, 1.0), bad))
    assert (cards.delta_version, content(cards), online(cards, 2)) == (0, [], None)


def test_g6_an_overwrite_replaces_everything_offline_and_online(cards):
    cards.insert(rows((1, 0, 1.0), (2, 0, 2.0)))
    commit = cards.insert(rows((2, 5, 9.0)), overwrite=True)
    assert (commit.rows_inserted, commit.rows_deleted) == (1, 2)
    assert (content(cards), online(cards, 1), online(cards, 2)) == ([(2, 5, 9.0)], None, 9.0)


# The contract


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda t: t.drop(["amount"]), SchemaMismatch),
        (lambda t: t.append_column("extra", pa.array([1])), SchemaMismatch),
        (lambda t: t.set_column(2, "amount", pa.array(["7"])), SchemaMismatch),
        (lambda t: t.set_column(0, "card", pa.array([1.9])), SchemaMismatch),
        (lambda t: t.set_column(2, "amount", pa.array([2**53 + 1])), InvalidData),
    ],
)
def test_g6_a_frame_that_breaks_the_contract_is_refused_and_nothing_written(cards, change, error):
    """G6: a missing, an extra, a differently typed column, a value that would change."""
    cards.insert(rows((1, 0, 1.0)))
    with pytest.raises(error):
        cards.insert(change(rows((1, 1, 2.0))))
    assert (cards.delta_version, content(cards), online(cards, 1)) == (1, [(1, 0, 1.0)], 1.0)


def test_g6_the_first_insert_fixes_the_schema_of_an_undeclared_group(store, tmp_path):
    group = store.get_or_create_feature_group("free", 1, primary_key=["id"], event_time="day")
    with pytest.raises(NotFound, match="no columns yet"):
        group.read()
    group.insert(pd.DataFrame({"id": [1], "day": [date(2026, 1, 1)], "n": pd.array([None], dtype="Int64")}))
    assert [f.dtype for f in group.features] == ["bigint", "timestamp", "bigint"]
    again = featurestore.connect(tmp_path).get_feature_group("free")
    with pytest.raises(SchemaMismatch, match="'n'"):
        again.insert(pd.DataFrame({"id": [1], "day": [date(2026, 1, 2)], "n": ["x"]}))


def test_g6_an_integer_column_with_nulls_stays_an_integer(store):
    """G6: no dtype is inferred from one lucky batch."""
    group = store.get_or_create_feature_group(
        "n", 1, primary_key=["id"], features=[Feature("id", "int"), Feature("n", "bigint")]
    )
    group.insert(pd.DataFrame({"id": [1, 2], "n": [7.0, None]}))
    group.insert(pd.DataFrame({"id": [3], "n": [None]}))
    read = group.read()
    assert str(read["n"].dtype) == "Int64"
    assert read["n"].tolist() == [7, pd.NA, pd.NA]


@pytest.mark.parametrize(
    "other",
    [
        {"primary_key": ["amount"]}, {"event_time": None}, {"primary_key": ["card", "amount"]}, {"features": CARDS[:2]},
        {"features": [*CARDS[:2], Feature("amount", "float")]},
    ],
)  # fmt: skip
def test_g6_getting_a_group_with_another_definition_is_refused(store, cards, other):
    """G6: keys, event time or features."""
    with pytest.raises(SchemaMismatch):
        cards_in(store, **other)


def test_g6_getting_a_group_with_the_same_definition_gives_the_same_group(store, cards):
    cards.insert(rows((1, 0, 1.0)))
    assert cards_in(store).id == cards.id
    with pytest.raises(Conflict, match="exists"):
        store.create_feature_group("cards", 1, primary_key=["card"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"primary_key": []}, {"primary_key": ["card", "t"]}, {"primary_key": ["amount"]}, {"primary_key": ["nope"]},
        {"event_time": "amount"}, {"ttl": timedelta(0)}, {"validation_ingestion_policy": "MAYBE"},
    ],
)  # fmt: skip
def test_g6_a_definition_that_cannot_work_is_refused_before_anything_is_made(store, wrong):
    with pytest.raises(SchemaMismatch):
        cards_in(store, **wrong)
    assert store.get_feature_groups() == []


def test_g7_naive_times_are_utc_and_come_back_aware(cards):
    """G7: a zone is converted, and all come back as UTC microseconds."""
    naive = pd.DataFrame(
        {
            "card": [1, 2],
            "t": pd.to_datetime(["2026-01-01 00:00:00.000001", "2026-01-01 01:00:00.000000"]),
            "amount": [1.0, 2.0],
        }
    )
    cards.insert(naive)
    assert str(cards.read()["t"].dtype) == "datetime64[us, UTC]"
    assert cards.read(dataframe_type="arrow")["t"].to_pylist() == [T0 + timedelta(microseconds=1), T0 + HOUR]
    berlin = pl.DataFrame({"card": [2], "t": [datetime(2026, 1, 1, 2)], "amount": [2.0]}).with_columns(
        pl.col("t").dt.replace_time_zone("Europe/Berlin")
    )
    assert cards.insert(berlin).rows_unchanged == 1


def test_g7_nanoseconds_that_would_be_lost_are_refused(cards):
    """G7: instead of being cut off."""
    frame = rows((1, 0, 1.0)).set_column(1, "t", pa.array([1], pa.timestamp("ns")))
    with pytest.raises(InvalidData, match="'t'"):
        cards.insert(frame)


def test_g8_a_row_older_than_what_is_online_never_overwrites_it(cards):
    """G8: one of the same time does."""
    cards.insert(rows((1, 5, 5.0)))
    cards.insert(rows((1, 2, 2.0)))
    assert online(cards, 1) == 5.0
    cards.insert(rows((1, 5, 6.0)))
    assert online(cards, 1) == 6.0


def test_g7_the_last_microsecond_of_all_is_a_time(cards):
    end = datetime.max.replace(tzinfo=UTC)
    frame = rows((1, 0, 1.0)).set_column(1, "t", pa.array([end], TIMESTAMP))
    cards.insert(frame)
    assert cards.insert(frame).rows_unchanged == 1
    assert cards.read(dataframe_type="arrow")["t"].to_pylist() == [end]


def test_g7_microseconds_tell_rows_apart_at_the_edge_of_a_file(cards):
    """G1, G3, G12: Delta's log knows a file's range in whole milliseconds only."""
    micro = timedelta(microseconds=1) / HOUR
    cards.insert(rows((1, 0, 0.0), (1, micro, 1.0), (1, 2 * micro, 2.0)))
    assert cards.insert(rows((1, 2 * micro, 2.0))).rows_unchanged == 1
    assert cards.insert(rows((1, 2 * micro, 3.0))).rows_updated == 1
    assert [a for _, _, a in content(cards)] == [0.0, 1.0, 3.0]
    assert [a for _, _, a in content(cards, start_time=T0 + timedelta(microseconds=2))] == [3.0]
    assert cards.remove_rows(rows((1, 2 * micro, 0.0)).select(["card", "t"])).rows_deleted == 1
    assert [a for _, _, a in content(cards)] == [0.0, 1.0]
    assert online(cards, 1) == 1.0


# Windows and atomicity


def test_g9_the_watermark_is_the_largest_window_end_committed(cards):
    """G9: a late backfill never lowers it."""
    assert cards.watermark is None
    cards.insert(rows((1, 30, 1.0)), window=(T0 + DAY, T0 + 2 * DAY))
    cards.insert(rows((1, 1, 1.0)), window=Window(T0, T0 + DAY))
    cards.insert(rows((1, 100, 1.0)))
    assert cards.watermark == T0 + 2 * DAY
    assert cards.windows() == [Window(T0, T0 + DAY), Window(T0 + DAY, T0 + 2 * DAY)]


def test_g9_the_gaps_between_windows_are_told(cards):
    """G9: half-open windows that touch or overlap leave none."""
    assert (cards.windows(), cards.window_gaps()) == ([], [])
    for start, end in ((5, 6), (0, 1), (1, 2), (0, 3)):
        cards.insert(rows(), window=(T0 + start * DAY, T0 + end * DAY))
    assert [(w.start - T0) // DAY for w in cards.windows()] == [0, 0, 1, 5]
    assert cards.window_gaps() == [Window(T0 + 3 * DAY, T0 + 5 * DAY)]
    cards.insert(rows((1, 80, 1.0)), window=(T0 + 3 * DAY, T0 + 5 * DAY))
    assert (cards.window_gaps(), cards.watermark) == ([], T0 + 6 * DAY)


def test_g3_an_overwrite_by_equal_rows_is_no_commit(cards):
    """G3: in any order; one row more or less, or another value, is one."""
    first = cards.insert(rows((1, 0, 1.0), (2, 0, None)))
    again = cards.insert(rows((2, 0, None), (1, 0, 1.0)), overwrite=True)
    assert (again.version, again.rows_written, again.rows_deleted, again.rows_unchanged) == (first.version, 0, 0, 2)
    for other in ([(1, 0, 1.0)], [(1, 0, 1.0), (2, 0, 2.0)], [(1, 0, 1.0), (2, 0, 2.0), (3, 0, 3.0)]):
        assert cards.insert(rows(*other), overwrite=True).rows_written == len(other)
        assert content(cards) == other


def test_g9_an_empty_frame_with_a_window_is_a_commit_and_the_same_again_is_not(cards):
    """G9: it advances the watermark."""
    first = cards.insert(rows(), window=("2026-01-01", "2026-01-02"))
    assert (first.version, first.rows_written, cards.watermark) == (1, 0, T0 + DAY)
    assert cards.insert(rows(), window=("2026-01-01", "2026-01-02")).version == 1
    assert cards.insert(rows()).version == 1


@pytest.mark.parametrize("window", ["2026-01-01", ("2026-01-01",), ("2026-01-01", "2026-01-02", "2026-01-03")])
def test_g9_a_window_is_a_start_and_an_end(cards, window):
    """G9: one time alone, as text is easily passed, is refused."""
    with pytest.raises(InvalidTime, match="expected a start and an end"):
        cards.insert(rows((1, 0, 1.0)), window=window)


def test_g9_the_same_window_with_late_rows_writes_only_them(cards):
    window = (T0, T0 + DAY)
    cards.insert(rows((1, 0, 1.0)), window=window)
    late = cards.insert(rows((1, 0, 1.0), (1, 3, 2.0)), window=window)
    assert (late.rows_inserted, late.rows_unchanged) == (1, 1)
    assert cards.insert(rows((1, 0, 1.0), (1, 3, 2.0)), window=window).version == late.version


def test_g10_a_failed_online_write_is_repaired_by_the_next_insert(store, cards, monkeypatch):
    """G10: offline is at the new version, online catches up."""
    cards.insert(rows((1, 0, 1.0)))

    def full(*_arguments: object, **_options: object) -> None:
        raise FeatureStoreError("the disk is full")

    with monkeypatch.context() as failing:
        failing.setattr(store.online, "upsert", full)
        with pytest.raises(FeatureStoreError, match="full"):
            cards.insert(rows((2, 0, 2.0)))
    assert (cards.delta_version, online(cards, 1), online(cards, 2)) == (2, 1.0, None)
    cards.insert(rows((3, 0, 3.0)))
    assert [online(cards, c) for c in (1, 2, 3)] == [1.0, 2.0, 3.0]


# Reading


@pytest.mark.parametrize(
    ("start", "end", "hours"),
    [
        (None, None, [0, 1, 2]), (T0 + HOUR, None, [1, 2]), (None, T0 + HOUR, [0]),
        ("2026/01/01", "20260101010000", [0]),
        ("2026-01-01 01:00:00", "2026-01-01T04:00:00+02:00", [1]), (1_767_229_200, 1_767_232_800_000, [1]),
        (date(2026, 1, 1), date(2026, 1, 2), [0, 1, 2]), (T0 + 3 * HOUR, None, []),
    ],
)  # fmt: skip
def test_g12_reading_is_half_open_on_event_time(cards, start, end, hours):
    """G12: for every spelling of a time."""
    cards.insert(rows((1, 0, 0.0), (1, 1, 1.0), (1, 2, 2.0)))
    assert [h for _, h, _ in content(cards, start_time=start, end_time=end)] == hours


def test_g12_rows_come_ordered_by_time_then_key(cards):
    """G12: across files."""
    cards.insert(rows((3, 1, 0.0), (1, 1, 0.0)))
    cards.insert(rows((2, 1, 0.0), (9, 0, 0.0)))
    assert [(c, h) for c, h, _ in content(cards)] == [(9, 0), (1, 1), (2, 1), (3, 1)]


def test_g13_as_of_reads_the_past_by_version_and_by_time(cards, clock):
    first = cards.insert(rows((1, 0, 1.0)))
    clock.now += HOUR
    cards.insert(rows((1, 0, 2.0), (2, 0, 2.0)))
    clock.now += HOUR
    cards.remove_rows(rows((1, 0, 0.0)).select(["card", "t"]))
    assert content(cards, as_of=first.version) == [(1, 0, 1.0)]
    assert content(cards, as_of=clock.now - HOUR) == [(1, 0, 2.0), (2, 0, 2.0)]
    assert content(cards, as_of=clock.now) == content(cards) == [(2, 0, 2.0)]
    assert cards.as_of(first.version).read()["amount"].tolist() == [1.0]
    with pytest.raises(NotFound, match="no Delta version 17"):
        cards.read(as_of=17)


def test_g13_history_is_one_row_per_commit(cards, clock):
    cards.insert(rows((1, 0, 1.0), (1, 0, 1.0)), window=(T0, T0 + DAY))
    clock.now += HOUR
    cards.insert(rows((1, 0, 2.0), (2, 0, 2.0)))
    told = [
        (c.version, c.time, c.rows_inserted, c.rows_updated, c.rows_deduplicated, c.window) for c in cards.history()[1:]
    ]
    assert told == [(1, clock.now - HOUR, 1, 0, 1, Window(T0, T0 + DAY)), (2, clock.now, 1, 1, 0, None)]


def test_g14_removed_rows_are_gone_and_online_falls_back_to_the_newest_left(cards):
    cards.insert(rows((1, 0, 1.0), (1, 1, 2.0), (2, 0, 3.0)))
    keys = pd.DataFrame({"card": [1, 2, 7], "t": [T0 + HOUR, T0, T0]})
    commit = cards.remove_rows(keys)
    assert (commit.rows_deleted, content(cards)) == (2, [(1, 0, 1.0)])
    assert (online(cards, 1), online(cards, 2)) == (1.0, None)
    assert cards.remove_rows(keys).version == commit.version


def test_g14_removing_needs_exactly_key_and_time(cards):
    cards.insert(rows((1, 0, 1.0)))
    with pytest.raises(SchemaMismatch, match="lacks"):
        cards.remove_rows(pd.DataFrame({"card": [1]}))
    assert content(cards) == [(1, 0, 1.0)]


# Rules, statistics, ttl


def test_g15_strict_refuses_the_batch_and_keeps_the_rows_in_quarantine(store, clock):
    """G15: with the rule and the time."""
    group = cards_in(store, expectation_suite=POSITIVE)
    assert len(group.quarantine()) == 0
    good = group.insert(rows((1, 0, 1.0)))
    with pytest.raises(InvalidData, match="Nothing was written") as caught:
        group.insert(rows((1, 1, 2.0), (2, 1, -3.0)))
    assert caught.value.report["success"] is False
    assert (group.delta_version, content(group), online(group, 2)) == (good.version, [(1, 0, 1.0)], None)
    rejected = group.quarantine(dataframe_type="arrow").to_pylist()
    assert [(r["card"], r["amount"], r["__rejected_at"]) for r in rejected] == [(2, -3.0, clock.now)]
    assert "amount" in rejected[0]["__rule"]


def test_g15_always_writes_and_keeps_the_report_with_the_commit(store):
    """G15: by Delta version."""
    group = cards_in(store, expectation_suite=POSITIVE, validation_ingestion_policy="ALWAYS")
    good, bad = group.insert(rows((1, 0, 1.0))), group.insert(rows((2, 0, -1.0)))
    assert len(content(group)) == 2
    assert {v: r["success"] for v, r in group.validation_reports().items()} == {good.version: True, bad.version: False}
    assert len(group.quarantine()) == 0


def test_g15_the_report_is_in_the_commit_itself_without_values(store, monkeypatch):
    """G15, G14: the writer dies right after the commit; its report is there all the same, and tells no row's values."""
    group = cards_in(store, expectation_suite=POSITIVE, validation_ingestion_policy="ALWAYS", statistics_config=False)

    def die(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as crash:
        crash.setattr(store.catalog, "note", die)
        with pytest.raises(KeyboardInterrupt):
            group.insert(rows((2, 0, -12345.0)))
    report = group.validation_reports()[1]
    assert (report["success"], report["results"][0]["unexpected_count"]) == (False, 1)
    assert "12345" not in str(report)
    whole = group.insert(rows((3, 0, -7.0)))
    again = group.insert(rows((3, 0, -7.0)))
    assert again.version == whole.version
    assert group.validation_reports()[whole.version]["results"][0]["examples"] == [-7.0]


def test_g15_validate_tells_without_writing(store):
    group = cards_in(store, expectation_suite=POSITIVE)
    before = group.delta_version
    assert group.validate(rows((1, 0, -1.0)))["success"] is False
    assert group.validate(rows((1, 0, 1.0)))["success"] is True
    assert (group.delta_version, len(group.quarantine())) == (before, 0)


def test_g15_one_batch_may_skip_the_rules(store):
    group = cards_in(store, expectation_suite=POSITIVE)
    group.insert(rows((1, 0, -1.0)), validation_options={"run_validation": False})
    assert content(group) == [(1, 0, -1.0)]


@pytest.mark.parametrize("kept", [True, False])
def test_g16_statistics_are_of_the_rows_a_commit_wrote_or_of_the_group_now(store, clock, kept):
    """G16: kept with the commit or computed when asked for."""
    group = cards_in(store, statistics_config=kept)
    first = group.insert(rows((1, 0, 1.0), (2, 0, 3.0)))
    clock.now += HOUR
    second = group.insert(rows((1, 0, 1.0), (2, 0, 5.0), (3, 0, None)))

    def figures(commit: Any) -> tuple:
        amount = group.get_statistics(commit)["amount"]
        return tuple(amount[k] for k in ("count", "null_count", "min", "max", "mean"))

    assert figures(first) == (2, 0, 1.0, 3.0, 2.0)
    assert figures(second.version) == (1, 1, 5.0, 5.0, 5.0)
    assert figures(None) == (2, 1, 1.0, 5.0, 3.0)


def test_g16_statistics_are_complete_for_every_dtype(store):
    """G16: the same figures from the batch, from the files of the commit and of the whole group; floats and nulls."""
    features = [Feature("id", "bigint"), *(Feature(f"a {d}", d) for d in EVERY_VALUE)]
    columns = [pa.array([1, 2, 3], pa.int64())]
    columns += [pa.array([v, None, v], f.type) for f, v in zip(features[1:], EVERY_VALUE.values(), strict=True)]
    table = pa.Table.from_arrays(columns, names=[f.name for f in features])
    found = []
    for kept in (True, False):
        group = store.get_or_create_feature_group(
            f"every_{kept}".lower(), 1, primary_key=["id"], features=features, statistics_config=kept
        )
        commit = group.insert(table)
        found += [group.get_statistics(commit), group.get_statistics()]
    assert found == [statistics.summarise(table)] * 4
    figures = found[0]
    assert all((f["count"], f["null_count"]) == (2, 1) for name, f in figures.items() if name != "id")
    assert {name[2:] for name, f in figures.items() if f["distinct_count"] is None} == {
        "array<double>", "struct<lat:double,lon:double>",
    }  # fmt: skip
    numbers = ["tinyint", "smallint", "int", "bigint", "float", "double", "decimal(10,2)"]
    wanted = ("min", "max", "mean", "std_dev", "percentiles", "histogram", "top_values")
    assert all(figures[f"a {d}"][key] is not None for d in numbers for key in wanted)


def test_g16_a_commit_without_rows_has_no_statistics(cards):
    commit = cards.insert(rows(), window=(T0, T0 + DAY))
    with pytest.raises(NotFound, match="wrote no rows"):
        cards.get_statistics(commit)


def test_g18_a_ttl_is_a_timedelta(store):
    """G18: a bare number could be seconds or days."""
    with pytest.raises(SchemaMismatch, match="ttl is 7: expected a timedelta"):
        store.get_or_create_feature_group("brief", 1, primary_key=["card"], event_time="t", ttl=7)


def test_g18_a_row_older_than_ttl_is_absent_online_and_stays_offline(store, clock):
    group = cards_in(store, ttl=DAY)
    group.insert(rows((1, 0, 1.0)))
    clock.now = T0 + DAY
    assert online(group, 1) == 1.0
    clock.now += timedelta(microseconds=1)
    assert (online(group, 1), content(group)) == (None, [(1, 0, 1.0)])


# Names


@pytest.mark.parametrize("name", ["../x", "Cards", "a'b", 'a"b', "саrds", "", "a" * 64])
def test_c2_a_group_name_that_is_not_plain_is_refused(store, tmp_path, name):
    """C2: and nothing is made beside the home."""
    before = sorted(p.name for p in tmp_path.parent.iterdir())
    with pytest.raises(SchemaMismatch, match="not allowed"):
        store.get_or_create_feature_group(name, 1, primary_key=["id"], features=[Feature("id", "int")])
    assert sorted(p.name for p in tmp_path.parent.iterdir()) == before


@pytest.mark.parametrize("name", ["../x", "View", "a b", "a'b", "vіew", "", "a" * 64])
def test_c2_a_view_or_function_name_that_is_not_plain_is_refused(store, cards, name):
    """C2: quotes, paths and look-alikes of other alphabets; nothing is registered."""
    with pytest.raises(SchemaMismatch, match="not allowed"):
        store.create_feature_view(name, 1, query=cards.select_all())
    assert store.get_feature_views() == []
    with pytest.raises(NotFound):
        store.get_transformation_function(name)


def test_c2_any_column_name_works_end_to_end(store):
    """C2: inserted, updated, read, looked up and removed."""
    names = [
        "Card No",
        "event time",
        "select",
        "a \"quoted\" 'one'",
        "x_y",
        "../x",
        "Grüße; DROP TABLE x",
        "rank",
        "a.b",
        "index",
    ]
    group = store.get_or_create_feature_group(
        "odd", 1, primary_key=[names[0]], event_time=names[1], online_enabled=True,
        features=[Feature(names[0], "bigint"), Feature(names[1], "timestamp"), *(Feature(n, "int") for n in names[2:])],
    )  # fmt: skip

    def frame(value: int) -> pd.DataFrame:
        return pd.DataFrame(
            {names[0]: [1, 2], names[1]: pd.to_datetime([T0, T0]), **{n: [value, 0] for n in names[2:]}}
        )

    group.insert(frame(1))
    assert group.insert(frame(2)).rows_updated == 1
    assert group.read()[names].iloc[0].tolist()[2:] == [2] * 8
    assert group.get_online({names[0]: 1}, names[2:]) == dict.fromkeys(names[2:], 2)
    assert group.remove_rows(frame(0)[names[:2]].head(1)).rows_deleted == 1


def test_c1_without_a_version_the_newest_is_got_and_said(store, caplog):
    for version in (1, 2):
        store.get_or_create_feature_group("cards", version, primary_key=["card"], features=CARDS)
    with caplog.at_level("INFO", logger="featurestore"):
        assert store.get_feature_group("cards").version == 2
    assert "using version 2" in caplog.text
    with pytest.raises(NotFound, match="known: cards"):
        store.get_feature_group("crads")
    with pytest.raises(NotFound, match="versions: 1, 2"):
        store.get_feature_group("cards", 3)


def test_a_deleted_group_is_gone_and_may_be_made_again(store, cards):
    cards.insert(rows((1, 0, 1.0)))
    cards.delete()
    with pytest.raises(NotFound):
        store.get_feature_group("cards")
    again = cards_in(store)
    assert (content(again), online(again, 1)) == ([], None)


# The law

identities = st.tuples(st.integers(0, 2), st.integers(0, 3))
inserts = st.lists(st.tuples(identities, st.one_of(st.none(), st.integers(0, 2))), max_size=5)
steps = st.lists(st.one_of(inserts, st.sets(identities, min_size=1, max_size=4)), min_size=1, max_size=7)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(steps)
def test_a_group_is_a_dictionary_that_remembers_its_past(history):
    """G1, G3, G4, G8, G13, G14 as a law: inserts and removals against a dict, online and every past version too."""
    with tempfile.TemporaryDirectory() as home:
        store = featurestore.connect(home)
        group = cards_in(store, statistics_config=False)
        model: dict[tuple[int, int], float | None] = {}
        past: dict[int, dict[tuple[int, int], float | None]] = {0: {}}
        for step in history:
            before = dict(model)
            if isinstance(step, set):
                commit = group.remove_rows(rows(*[(card, hour, 0.0) for card, hour in step]).select(["card", "t"]))
                model = {k: v for k, v in model.items() if k not in step}
                assert commit.rows_deleted == len(before) - len(model)
            else:
                commit = group.insert(rows(*[(card, hour, value) for (card, hour), value in step]))
                model.update(step)
                changed = {k for k, v in model.items() if k not in before or before[k] != v}
                assert commit.rows_written == len(changed)
                assert commit.rows_deduplicated == len(step) - len(dict(step))
            assert commit.version == max(past) + (model != before)
            past[commit.version] = dict(model)
        for version, then in past.items():
            read = {(c, int(h)): v for c, h, v in content(group, as_of=version)}
            assert read == then
        for card in range(3):
            hours = [h for c, h in model if c == card]
            assert online(group, card) == (model[card, max(hours)] if hours else None)
        store.close()
