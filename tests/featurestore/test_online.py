"""The online store over real SQLite files and a real PostgreSQL server."""

from __future__ import annotations

import math
import os
import sqlite3
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

import featurestore.online
from featurestore.errors import Conflict, FeatureStoreError, InvalidData, NotFound, SchemaMismatch
from featurestore.online import OnlineStore
from featurestore.online_table import OnlineTable
from featurestore.schema import TIMESTAMP, Feature

CARDS = OnlineTable(
    "cards_1",
    ("cc_num",),
    "datetime",
    (Feature("cc_num", "string"), Feature("datetime", "timestamp"), Feature("amount mean", "double")),
)
T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def url(database_url: str) -> str:
    return database_url


@pytest.fixture
def store(url: str) -> Iterator[OnlineStore]:
    store = OnlineStore(url)
    yield store
    store.close()


def cards(*rows: tuple[str, datetime, float | None]) -> pa.Table:
    schema = pa.schema([("cc_num", pa.string()), ("datetime", TIMESTAMP), ("amount mean", pa.float64())])
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema)


def card_keys(*keys: str) -> pa.Table:
    return pa.table({"cc_num": pa.array(keys, pa.string())})


# Rows and versions


def test_upsert_keeps_the_newest_row_of_each_key_within_the_batch(store):
    """G1: by event time; of equal times the last row."""
    store.create(CARDS)
    rows = cards(("a", T0 + HOUR, 2.0), ("a", T0, 1.0), ("b", T0, 3.0), ("b", T0, 4.0))
    assert store.upsert(CARDS, rows, delta_version=0, previous_version=None) == 2
    assert store.get(CARDS, [("a",), ("b",)], ["amount mean"]) == [(2.0,), (4.0,)]


def test_an_older_row_never_overwrites_a_newer_one_and_an_equal_time_does(store):
    """G8: whatever order batches come in. (hsfs and Feast's SQL stores overwrite.)"""
    store.create(CARDS)
    store.upsert(CARDS, cards(("a", T0 + HOUR, 1.0), ("b", T0 + HOUR, 1.0)), delta_version=0, previous_version=None)
    late = cards(("a", T0, 9.0), ("b", T0 + HOUR, 5.0))
    assert store.upsert(CARDS, late, delta_version=1, previous_version=0) == 1
    assert store.get(CARDS, [("a",), ("b",)], ["amount mean"]) == [(1.0,), (5.0,)]


def test_without_event_time_the_row_written_last_stays(store):
    table = OnlineTable("plain", ("id",), None, (Feature("id", "bigint"), Feature("x", "bigint")))
    store.create(table)
    rows = pa.table({"id": [1, 1], "x": [5, 6]})
    store.upsert(table, rows, delta_version=3, previous_version=None)
    assert store.get(table, [(1,)], ["x"]) == [(6,)]
    store.upsert(table, pa.table({"id": [1], "x": [2]}), delta_version=4, previous_version=3)
    assert store.reader([(table, ["x"])]).one([(1,)]) == [(None, 2)]


def test_the_version_moves_with_the_rows_and_an_empty_batch_moves_it_too(store):
    """G10: the version is stored in the transaction of the rows."""
    assert store.version(CARDS) is None
    store.create(CARDS)
    assert store.version(CARDS) is None
    store.upsert(CARDS, cards(("a", T0, 1.0)), delta_version=7, previous_version=None)
    assert store.version(CARDS) == 7
    assert store.upsert(CARDS, cards(), delta_version=8, previous_version=7) == 0
    assert store.version(CARDS) == 8


def test_a_writer_that_missed_a_version_gets_conflict_and_writes_nothing(store):
    """G10, C3: it reads what it missed, then tries again."""
    store.create(CARDS)
    store.upsert(CARDS, cards(("a", T0, 1.0)), delta_version=7, previous_version=None)
    with pytest.raises(Conflict, match=r"holds Delta version 7, not 5.*previous_version=7"):
        store.upsert(CARDS, cards(("a", T0 + HOUR, 2.0)), delta_version=6, previous_version=5)
    assert store.get(CARDS, [("a",)], ["amount mean"]) == [(1.0,)]
    assert store.version(CARDS) == 7


def test_replace_deletes_keys_and_falls_back_to_the_rows_that_are_left(store):
    store.create(CARDS)
    first = cards(("a", T0 + HOUR, 2.0), ("b", T0 + HOUR, 3.0), ("c", T0, 4.0))
    store.upsert(CARDS, first, delta_version=0, previous_version=None)
    store.replace(CARDS, card_keys("a", "b"), cards(("a", T0, 1.0)), delta_version=1, previous_version=0)
    assert store.get(CARDS, [("a",), ("b",), ("c",)], ["amount mean"]) == [(1.0,), None, (4.0,)]
    with pytest.raises(Conflict):
        store.replace(CARDS, card_keys("c"), cards(), delta_version=2, previous_version=0)
    assert store.get(CARDS, [("c",)], ["amount mean"]) == [(4.0,)]


def test_rebuild_replaces_everything_but_not_a_newer_version(store):
    store.create(CARDS)
    store.upsert(CARDS, cards(("a", T0 + HOUR, 2.0)), delta_version=0, previous_version=None)
    store.rebuild(CARDS, cards(("b", T0, 1.0), ("b", T0 + HOUR, 5.0)), delta_version=4)
    assert store.get(CARDS, [("a",), ("b",)], ["amount mean"]) == [None, (5.0,)]
    with pytest.raises(Conflict, match="version 4, newer than 3"):
        store.rebuild(CARDS, cards(), delta_version=3)


def test_a_failed_write_leaves_rows_and_version_as_they_were(store):
    """G10: both or neither."""
    store.create(CARDS)
    store.upsert(CARDS, cards(("a", T0, 1.0)), delta_version=0, previous_version=None)
    wrong = cards(("a", T0 + HOUR, 2.0)).set_column(2, "amount mean", pa.array(["2"]))
    with pytest.raises(SchemaMismatch, match="'amount mean' is string, but the online table has double"):
        store.upsert(CARDS, wrong, delta_version=1, previous_version=0)
    assert (store.version(CARDS), store.get(CARDS, [("a",)], ["amount mean"])) == (0, [(1.0,)])


def test_null_keys_and_times_and_missing_columns_are_refused(store):
    """G5: before anything is written."""
    store.create(CARDS)
    with pytest.raises(InvalidData, match=r"'cc_num' of online table 'cards_1' is null in row 1"):
        store.upsert(CARDS, cards(("a", T0, 1.0), (None, T0, 1.0)), delta_version=0, previous_version=None)
    with pytest.raises(InvalidData, match="'datetime'"):
        store.upsert(CARDS, cards(("a", None, 1.0)), delta_version=0, previous_version=None)
    with pytest.raises(SchemaMismatch, match="lack the columns"):
        store.upsert(CARDS, card_keys("a"), delta_version=0, previous_version=None)


def test_create_and_drop_may_be_repeated(store):
    store.drop(CARDS)
    store.create(CARDS)
    store.upsert(CARDS, cards(("a", T0, 1.0)), delta_version=0, previous_version=None)
    store.create(CARDS)
    assert store.get(CARDS, [("a",)], ["amount mean"]) == [(1.0,)]
    store.drop(CARDS)
    store.drop(CARDS)
    assert store.version(CARDS) is None
    with pytest.raises(NotFound, match="create"):
        store.reader([(CARDS, [])])
    with pytest.raises(NotFound, match="create"):
        store.upsert(CARDS, cards(), delta_version=0, previous_version=None)


def test_a_table_of_the_same_name_with_other_columns_is_refused(store):
    store.create(CARDS)
    other = OnlineTable("cards_1", ("cc_num",), None, (Feature("cc_num", "string"), Feature("x", "int")))
    with pytest.raises(SchemaMismatch, match="holds the columns"):
        store.create(other)
    with pytest.raises(SchemaMismatch, match="holds the columns"):
        store.reader([(other, ["x"])])
    with pytest.raises(SchemaMismatch, match=r"no columns \['x'\]"):
        store.get(CARDS, [("a",)], ["x"])


def test_appended_features_are_null_at_first_and_old_readers_go_on(store):
    store.create(CARDS)
    store.upsert(CARDS, cards(("a", T0, 1.0)), delta_version=0, previous_version=None)
    reader = store.reader([(CARDS, ["amount mean"])])
    wider = store.append_features(CARDS, [Feature("city", "string")])
    assert store.append_features(CARDS, [Feature("city", "string")]) == wider
    assert store.append_features(wider, [Feature("city", "string")]) == wider
    assert store.get(wider, [("a",)], ["city", "amount mean"]) == [(None, 1.0)]
    assert [row[1:] for row in reader.one([("a",)])] == [(1.0,)]
    with pytest.raises(Conflict, match="more features"):
        store.upsert(CARDS, cards(("a", T0, 1.0)), delta_version=1, previous_version=0)
    rows = cards(("a", T0, 2.0)).append_column("city", pa.array(["Łódź"]))
    store.upsert(wider, rows, delta_version=1, previous_version=0)
    assert store.get(wider, [("a",)], ["city"]) == [("Łódź",)]


def test_long_and_odd_column_names_do_not_reach_the_database(store):
    """C2: columns are positional there."""
    names = ["x" * 255, "x" * 254 + "y", 'a"b', "select", "%s", ":p", "市"]
    table = OnlineTable(
        "odd", ("K; drop table odd",), None, tuple(Feature(n, "int") for n in ["K; drop table odd", *names])
    )
    store.create(table)
    rows = pa.table({f.name: pa.array([i], pa.int32()) for i, f in enumerate(table.features)})
    store.upsert(table, rows, delta_version=0, previous_version=None)
    assert store.get(table, [(0,)], names) == [tuple(range(1, 8))]


@pytest.mark.parametrize("name", ["../x", 'a"b', "A", "", "кard", "x" * 64])
def test_unsafe_table_names_are_refused(name):
    """C2: quotes, paths, look-alikes."""
    with pytest.raises(SchemaMismatch, match="name"):
        OnlineTable(name, ("id",), None, (Feature("id", "int"),))


def test_a_table_definition_must_hold_together():
    amount = Feature("amount", "double")
    with pytest.raises(SchemaMismatch, match="at least one"):
        OnlineTable("t", (), None, (amount,))
    with pytest.raises(SchemaMismatch, match="event time"):
        OnlineTable("t", ("amount",), "amount", (amount,))
    with pytest.raises(SchemaMismatch, match="cannot be keys"):
        OnlineTable("t", ("tags",), None, (Feature("tags", "array<string>"),))


# Keys


def test_composite_keys_compare_column_by_column(store):
    """J5: (1, 11) is not (11, 1)."""
    table = OnlineTable(
        "pairs", ("a", "b"), None, (Feature("a", "bigint"), Feature("b", "string"), Feature("x", "int"))
    )
    store.create(table)
    rows = pa.table({"a": [1, 11, 1], "b": ["11", "1", "1"], "x": pa.array([1, 2, 3], pa.int32())})
    assert store.upsert(table, rows, delta_version=0, previous_version=None) == 3
    assert store.get(table, [(1, "1"), (11, "1"), (1, "11"), (11, "11")], ["x"]) == [(3,), (2,), (1,), None]
    store.replace(table, rows.slice(0, 1).select(["b", "a"]), rows.slice(0, 0), delta_version=1, previous_version=0)
    assert store.get(table, [(1, "11"), (1, "1")], ["x"]) == [None, (3,)]


def test_a_key_of_the_wrong_type_is_an_error_that_names_it(store):
    """V11: 1 is not '1', and True is not 1."""
    store.create(CARDS)
    with pytest.raises(InvalidData, match=r"Key 'cc_num' .* is 1 \(int\); expected string"):
        store.get(CARDS, [(1,)], ["amount mean"])
    table = OnlineTable("ids", ("id",), None, (Feature("id", "bigint"),))
    store.create(table)
    for wrong in ("1", 1.0, True, 2**63):
        with pytest.raises(InvalidData, match="expected bigint"):
            store.get(table, [(wrong,)], ["id"])
    with pytest.raises(InvalidData, match="one value for each of"):
        store.get(table, [(1, 2)], ["id"])


def test_null_keys_match_nothing(store):
    """J5: as in a join."""
    store.create(CARDS)
    store.upsert(CARDS, cards(("", T0, 1.0)), delta_version=0, previous_version=None)
    assert store.get(CARDS, [(None,), ("",)], ["amount mean"]) == [None, (1.0,)]


KEYS = [
    ("string", ["a", "A", "a ", "é", "e\u0301", "\x00", "a\x00b", "🦊"]),
    ("bigint", [-(2**63), -1, 0, 2**63 - 1]),
    ("boolean", [True, False]),
    ("double", [0.5, -math.inf, 1e300]),
    ("binary", [b"", b"\x00", b"\xff"]),
    ("date", [date(1, 1, 1), date(2026, 2, 3), date(9999, 12, 31)]),
    ("timestamp", [T0, T0 + timedelta(microseconds=1)]),
    ("decimal(10,2)", [Decimal("1.10"), Decimal("-0.01"), Decimal("0.00")]),
]


@pytest.mark.parametrize(("dtype", "keys"), KEYS, ids=[dtype for dtype, _ in KEYS])
def test_every_scalar_type_can_be_a_key(store, dtype, keys):
    table = OnlineTable("keyed", ("k",), None, (Feature("k", dtype), Feature("x", "int")))
    store.create(table)
    rows = pa.table({"k": pa.array(keys, table.features[0].type), "x": pa.array(range(len(keys)), pa.int32())})
    assert store.upsert(table, rows, delta_version=0, previous_version=None) == len(keys)
    expected = [(i, key) for i, key in enumerate(keys)]
    assert store.get(table, [(key,) for key in keys], ["x", "k"]) == expected


def test_numpy_and_short_decimal_keys_are_understood(store):
    table = OnlineTable("ids", ("id", "d"), None, (Feature("id", "bigint"), Feature("d", "decimal(6,2)")))
    store.create(table)
    rows = pa.table({"id": [5], "d": pa.array([Decimal("1.10")], pa.decimal128(6, 2))})
    store.upsert(table, rows, delta_version=0, previous_version=None)
    assert store.get(table, [(np.int64(5), Decimal("1.1"))], ["id"]) == [(5,)]
    with pytest.raises(InvalidData, match="without more digits"):
        store.get(table, [(5, Decimal("1.101"))], ["id"])


# Values


def bits(value: object) -> object:
    """A value that differs when a float differs in one bit, and 1 from 1.0 from True."""
    if isinstance(value, float):
        return ("float", struct.pack("<d", value))
    if isinstance(value, list | tuple):
        return [bits(v) for v in value]
    if isinstance(value, dict):
        return {k: bits(v) for k, v in value.items()}
    if isinstance(value, Decimal):
        return ("decimal", value.as_tuple())
    return (type(value), value)


NASTY = {
    "boolean": [True, False],
    "tinyint": [-128, 127],
    "int": [-(2**31), 2**31 - 1],
    "bigint": [-(2**63), 2**63 - 1, 0],
    "float": [-0.0, math.inf, 1.401298464324817e-45, 0.10000000149011612],
    "double": [-0.0, 0.0, 1.0, math.inf, -math.inf, 5e-324, -5e-324, 1.7976931348623157e308, 0.1 + 0.2, 2.0**53],
    "string": ["", "a\x00b", "\x00", "🦊", "e\u0301", "null", "1", "'\"\\%s", "x" * 100_000],
    "binary": [b"", b"\x00\xff", b"\\x00", os.urandom(5000)],
    "date": [date(1, 1, 1), date(1969, 12, 31), date(9999, 12, 31)],
    "timestamp": [
        datetime(1, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ],
    "decimal(38,10)": [Decimal("0E-10"), Decimal("-1.1000000000"), Decimal("9" * 28 + "." + "9" * 10)],
    "decimal(38,38)": [Decimal("0." + "0" * 37 + "1")],
    "array<double>": [[], [-0.0, None, math.inf, 5e-324], [0.1]],
    "array<string>": [["a\x00🦊", None, ""]],
    "struct<lat:double,when:timestamp,raw:binary,d:date,m:decimal(5,2),ok:boolean>": [
        {"lat": -0.0, "when": T0, "raw": b"\x00\xff", "d": date(2026, 1, 1), "m": Decimal("1.10"), "ok": True},
        {"lat": None, "when": None, "raw": None, "d": None, "m": None, "ok": None},
    ],
    "array<struct<a:array<timestamp>,b:bigint>>": [[{"a": [T0, None], "b": 2**63 - 1}, None]],
}  # fmt: skip


def round_trip(store: OnlineStore, feature: Feature, values: list[object]) -> list[object]:
    table = OnlineTable("trip", ("id",), None, (Feature("id", "int"), feature))
    store.create(table)
    ids = pa.array(range(len(values)), pa.int32())
    rows = pa.table({"id": ids, feature.name: pa.array(values, feature.type)})
    store.rebuild(table, rows, delta_version=0)
    found = store.get(table, [(i,) for i in range(len(values))], [feature.name])
    store.drop(table)
    return [row[0] for row in found]


@pytest.mark.parametrize("dtype", NASTY, ids=[dtype[:20] for dtype in NASTY])
def test_every_value_comes_back_to_the_bit(store, dtype):
    """V10: of every dtype, with its extremes."""
    values = [None, *NASTY[dtype], None]
    assert bits(round_trip(store, Feature("x", dtype), values)) == bits(values)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(allow_nan=False)), max_size=50),
    st.lists(st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]))), max_size=50),
    st.lists(
        st.one_of(
            st.none(),
            st.decimals(allow_nan=False, allow_infinity=False, places=9, max_value=10**20, min_value=-(10**20)),
        )
    ),
)
def test_any_float_text_and_decimal_comes_back_to_the_bit(tmp_path_factory, floats, texts, decimals):
    """V10: also NULs, surrogate-free text of any plane, and the smallest floats."""
    store = OnlineStore(f"sqlite:///{tmp_path_factory.mktemp('laws') / 'online.db'}")
    for dtype, values in (("double", floats), ("string", texts), ("decimal(30,9)", decimals)):
        assert bits(round_trip(store, Feature("x", dtype), values)) == bits(values)
    store.close()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 99)), max_size=12), max_size=5))
def test_upserts_in_any_batches_equal_a_loop_over_the_rows(tmp_path_factory, batches):
    """G8: for any batches in any order, the newest row of each key stays."""
    store = OnlineStore(f"sqlite:///{tmp_path_factory.mktemp('laws') / 'online.db'}")
    store.create(CARDS)
    expected: dict[str, tuple[int, float]] = {}
    for version, batch in enumerate(batches):
        rows = cards(*((str(key), T0 + hours * HOUR, float(value)) for key, hours, value in batch))
        store.upsert(CARDS, rows, delta_version=version, previous_version=version - 1 if version else None)
        for key, hours, value in batch:
            if str(key) not in expected or expected[str(key)][0] <= hours:
                expected[str(key)] = (hours, float(value))
    found = store.get(CARDS, [(str(key),) for key in range(5)], ["datetime", "amount mean"])
    assert found == [
        (T0 + expected[str(key)][0] * HOUR, expected[str(key)][1]) if str(key) in expected else None for key in range(5)
    ]
    store.close()


# Readers


MERCHANTS = OnlineTable(
    "merchants_1", ("m",), None, (Feature("m", "bigint"), Feature("risk", "double"), Feature("n", "int"))
)


@pytest.fixture
def filled(store: OnlineStore) -> OnlineStore:
    store.create(CARDS)
    store.create(MERCHANTS)
    rows = cards(*((f"c{i}", T0 + i * HOUR, float(i)) for i in range(1000)))
    store.upsert(CARDS, rows, delta_version=0, previous_version=None)
    numbers = pa.array(range(100), pa.int32())
    merchants = pa.table({"m": pa.array(range(100), pa.int64()), "risk": np.arange(100) / 100, "n": numbers})
    store.upsert(MERCHANTS, merchants, delta_version=0, previous_version=None)
    return store


def test_a_reader_reads_several_tables_at_once(filled):
    reader = filled.reader([(CARDS, ["amount mean"]), (MERCHANTS, ["n", "risk"]), (CARDS, ["datetime", "cc_num"])])
    micros = 1_767_225_600_000_000  # 2026-01-01
    assert reader.one([("c0",), (7,), ("c1",)]) == [
        (micros, 0.0),
        (None, 7, 0.07),
        (micros + 3_600_000_000, T0 + HOUR, "c1"),
    ]
    assert reader.one([("nobody",), (7,), (None,)]) == [None, (None, 7, 0.07), None]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 100, 256, 257, 700])
def test_many_equals_one_by_one_in_the_order_given(filled, size):
    """V9: length and order of the entries are kept."""
    reader = filled.reader([(CARDS, ["amount mean"]), (MERCHANTS, ["n"])])
    entries = [[(f"c{(i * 37) % 1100}",), ((i * 11) % 120,)] for i in range(size)]
    assert reader.many(entries) == [reader.one(entry) for entry in entries]


def test_readers_see_the_commits_of_others_at_once(filled, url):
    """G2: when a write returns, whoever reads sees it."""
    reader = filled.reader([(CARDS, ["amount mean"])])
    assert reader.one([("c0",)])[0][1] == 0.0
    other = OnlineStore(url)
    for version in range(1, 4):
        other.upsert(CARDS, cards(("c0", T0 + HOUR, version)), delta_version=version, previous_version=version - 1)
        assert reader.one([("c0",)])[0][1] == version
    other.close()


def test_threads_share_a_reader(filled):
    reader = filled.reader([(CARDS, ["amount mean"])])
    wrong: list[object] = []

    def read(offset: int) -> None:
        for i in range(offset, offset + 100):
            row = reader.one([(f"c{i}",)])[0]
            if row is None or row[1] != i:
                wrong.append((i, row))

    threads = [threading.Thread(target=read, args=(offset,)) for offset in range(0, 800, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_closed_store_connects_anew(filled):
    reader = filled.reader([(CARDS, ["amount mean"])])
    reader.one([("c1",)])
    filled.close()
    assert reader.one([("c1",)])[0][1] == 1.0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_parent_and_forked_child_both_go_on_reading_and_writing(filled):
    reader = filled.reader([(CARDS, ["amount mean"])])
    reader.one([("c1",)])
    child = os.fork()
    if child == 0:  # leaves by os._exit alone: pytest must not run twice
        code = 1
        try:
            filled.upsert(CARDS, cards(("c1", T0 + 2000 * HOUR, -1.0)), delta_version=1, previous_version=0)
            code = 0 if reader.one([("c1",)])[0][1] == -1.0 else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert reader.one([("c1",)])[0][1] == -1.0
    filled.upsert(CARDS, cards(("c1", T0 + 3000 * HOUR, -2.0)), delta_version=2, previous_version=1)
    assert reader.one([("c1",)])[0][1] == -2.0


def test_a_reader_survives_a_lost_connection(filled, url):
    if filled.is_sqlite:
        pytest.skip("a SQLite file has no server to lose")
    reader = filled.reader([(CARDS, ["amount mean"])])
    reader.one([("c1",)])
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        pid = filled.cursor().connection.info.backend_pid
        connection.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    engine.dispose()
    assert reader.one([("c1",)])[0][1] == 1.0
    assert reader.many([[("c2",)]])[0][0][1] == 2.0


# Several processes


WRITER = """
import sys
from datetime import UTC, datetime, timedelta
import pyarrow as pa
from featurestore.errors import Conflict
from featurestore.online import OnlineStore
from featurestore.online_table import OnlineTable
from featurestore.schema import Feature, TIMESTAMP

url, who = sys.argv[1:]
table = OnlineTable("raced", ("id",), "t", (Feature("id", "string"), Feature("t", "timestamp"), Feature("x", "bigint")))
store = OnlineStore(url)
store.create(table)
conflicts = 0
for i in range(20):
    times = pa.array([i * 10, i], pa.int64()).cast(TIMESTAMP)
    rows = pa.table({"id": ["shared", f"{who}{i}"], "t": times, "x": [i, i]})
    while True:
        held = store.version(table)
        try:
            store.upsert(table, rows, delta_version=(-1 if held is None else held) + 1, previous_version=held)
            break
        except Conflict:
            conflicts += 1
print(conflicts)
"""


def test_two_processes_lose_no_row_and_no_version(url):
    """C3: each gets its rows in, after conflicts if need be."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, url, who], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for who in "ab"
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors
    table = OnlineTable(
        "raced", ("id",), "t", (Feature("id", "string"), Feature("t", "timestamp"), Feature("x", "bigint"))
    )
    store = OnlineStore(url)
    assert store.version(table) == 39
    assert store.get(table, [("shared",), *((f"{who}{i}",) for who in "ab" for i in range(20))], ["x"]) == [
        (19,), *((i,) for _ in "ab" for i in range(20)),
    ]  # fmt: skip
    store.close()


def test_a_store_locked_too_long_is_a_conflict(store, url, monkeypatch):
    """C3: safe to retry."""
    store.create(CARDS)
    monkeypatch.setattr(featurestore.online, "WAIT_SECONDS", 0.2)
    impatient = OnlineStore(url)
    engine = sa.create_engine(url)
    with engine.connect() as other:
        if store.is_sqlite:
            other.exec_driver_sql("BEGIN IMMEDIATE")
        other.exec_driver_sql("UPDATE _online_versions SET delta_version = 5")
        with pytest.raises(Conflict, match=r"locked.*try again"):
            impatient.upsert(CARDS, cards(("a", T0, 1.0)), delta_version=0, previous_version=None)
        assert impatient.version(CARDS) is None  # readers do not wait for writers
        other.rollback()
    engine.dispose()
    impatient.upsert(CARDS, cards(("a", T0, 1.0)), delta_version=0, previous_version=None)
    impatient.close()


# Erasure


def test_purge_leaves_no_value_in_the_files(tmp_path):
    """G14: not in freed pages, not in the log."""
    store = OnlineStore(f"sqlite:///{tmp_path / 'online.db'}")
    table = OnlineTable("people", ("name",), None, (Feature("name", "string"), Feature("address", "string")))
    store.create(table)
    names = [f"person-{i}" for i in range(500)]
    rows = pa.table({"name": names, "address": [f"secret-street-{i}-" + "x" * 300 for i in range(500)]})
    store.upsert(table, rows, delta_version=0, previous_version=None)
    reader = store.reader([(table, ["address"])])
    assert reader.one([("person-7",)])[0] is not None

    def traces(text: bytes) -> int:
        return sum(path.read_bytes().count(text) for path in tmp_path.iterdir())

    assert traces(b"secret-street-7-") > 0
    store.purge(table, pa.table({"name": ["person-7", "person-8", "unknown"]}))
    assert traces(b"secret-street-7-") == traces(b"secret-street-8-") == traces(b"person-7\x00") == 0
    assert traces(b"secret-street-9-") > 0
    assert [row is None for row in store.get(table, [("person-7",), ("person-9",)], ["address"])] == [True, False]
    assert store.version(table) == 0
    store.close()


def test_purge_rewrites_the_table_on_postgresql_and_keeps_the_others(store):
    store.create(CARDS)
    store.upsert(CARDS, cards(("a", T0, 1.0), ("b", T0, 2.0)), delta_version=0, previous_version=None)
    store.purge(CARDS, card_keys("a"))
    assert store.get(CARDS, [("a",), ("b",)], ["amount mean"]) == [None, (2.0,)]


def test_purge_says_when_a_reader_kept_the_old_values_alive(tmp_path, monkeypatch):
    path = tmp_path / "online.db"
    monkeypatch.setattr(featurestore.online, "WAIT_SECONDS", 0.1)
    store = OnlineStore(f"sqlite:///{path}")
    store.create(CARDS)
    store.upsert(CARDS, cards(("a", T0, 1.0)), delta_version=0, previous_version=None)
    slow = sqlite3.connect(path, isolation_level=None)
    slow.execute("BEGIN")
    slow.execute("SELECT * FROM cards_1").fetchall()
    with pytest.raises(Conflict, match=r"deleted from .* Purge again"):
        store.purge(CARDS, card_keys("a"))
    slow.close()
    store.purge(CARDS, card_keys("a"))
    store.close()


# Third parties' errors


def test_urls_that_cannot_work_say_what_is_expected(tmp_path):
    for url in ("nonsense", "mysql://x@y/z", "sqlite://", "sqlite:///:memory:"):
        with pytest.raises(FeatureStoreError, match="sqlite"):
            OnlineStore(url)
    with pytest.raises(FeatureStoreError, match=r"cannot be reached.*Check"):
        OnlineStore("postgresql+psycopg://nobody@127.0.0.1:1/none").create(CARDS)


def test_a_password_is_never_shown():
    store = OnlineStore("postgresql+psycopg://me:hunter2@127.0.0.1:1/none")
    with pytest.raises(FeatureStoreError) as caught:
        store.create(CARDS)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_no_database_is_an_error_of_ours(tmp_path):
    (tmp_path / "online.db").write_text("this is a letter to my aunt, not a database\n" * 100)
    with pytest.raises(FeatureStoreError, match="damaged"):
        OnlineStore(f"sqlite:///{tmp_path / 'online.db'}").create(CARDS)


def test_a_read_only_database_says_so(tmp_path):
    store = OnlineStore(f"sqlite:///{tmp_path / 'online.db'}")
    store.create(CARDS)
    store.close()
    read_only = OnlineStore(f"sqlite:///file:{tmp_path / 'online.db'}?mode=ro&uri=true")
    with pytest.raises(FeatureStoreError, match="read-only"):
        read_only.upsert(CARDS, cards(("a", T0, 1.0)), delta_version=0, previous_version=None)
    read_only.close()


def test_a_full_disk_is_named_and_nothing_is_written(tmp_path):
    store = OnlineStore(f"sqlite:///{tmp_path / 'online.db'}")
    store.create(CARDS)
    sa.event.listen(store._writes, "begin", lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 5"))
    rows = cards(*((f"c{i}", T0, 1.0) for i in range(5000)))
    with pytest.raises(FeatureStoreError, match=r"full.*Free space"):
        store.upsert(CARDS, rows, delta_version=0, previous_version=None)
    assert store.version(CARDS) is None
    assert store.get(CARDS, [("c0",)], ["amount mean"]) == [None]
    store.close()


def test_the_folder_of_the_file_is_made(tmp_path):
    store = OnlineStore(f"sqlite:///{tmp_path / 'new' / 'deep' / 'online.db'}")
    assert store.version(CARDS) is None
    store.create(CARDS)
    store.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(FeatureStoreError, match="cannot be made"):
        OnlineStore(f"sqlite:///{tmp_path / 'file' / 'online.db'}").create(CARDS)
