"""The engine for large groups gives what DuckDB's statement says, however the rows lie in files."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore import NotReproducible
from featurestore.engines import as_of, duckdb
from featurestore.point_in_time import Definition, Plan, plan
from featurestore.query import Column, GroupRef, Query
from featurestore.schema import TIMESTAMP, Feature

START = datetime(2026, 1, 1, tzinfo=UTC)
LABELS, CARDS, SHOPS = GroupRef("labels", 1), GroupRef("cards", 1), GroupRef("shops", 1)
KEYS = {
    "bigint": [0, 1, -5, 2**40], "string": ["", "a", "ż'\"", "b"], "date": [START.date(), START.date() - timedelta(1)],
    "boolean": [True, False],
}  # fmt: skip


def micros(text: int) -> datetime:
    return START + timedelta(microseconds=text)


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """A spine, two groups with keys of any type, and how each is joined, filtered and spread over row groups."""
    key_types = draw(st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=3))
    key = st.tuples(*(st.sampled_from(KEYS[t]) for t in key_types))
    times = st.integers(0, 12)
    rows = st.lists(st.tuples(key, times), max_size=25, unique=True)
    nullable_key = st.tuples(*(st.none() | st.sampled_from(KEYS[t]) for t in key_types))
    return {
        "key_types": key_types,
        "labels": draw(st.lists(st.tuples(nullable_key, times), max_size=15)),
        "cards": draw(rows),
        "shops": draw(rows),
        "rows_in_group": draw(st.integers(1, 9)),
        "groups_in_file": draw(st.integers(1, 3)),
        "searched": draw(st.sampled_from([1, 3, 1 << 16])),
        "at_once": draw(st.sampled_from([1, 4, 1 << 20])),
        "now": draw(times),
        "ttl": draw(st.none() | st.integers(1, 5)),
        "inner": draw(st.booleans()),
        "timed_spine": draw(st.booleans()),
        "timed_shops": draw(st.booleans()),
        "nested": draw(st.booleans()),
        "row_filter": draw(st.booleans()),
        "result_filter": draw(st.booleans()),
        "limit": draw(st.none() | st.integers(0, 5)),
    }


def written(rows: pa.Table, order: str, folder: Path, case: dict[str, Any]) -> list[str]:
    """The rows as the store keeps them: sorted, in files of a few row groups each."""
    rows = rows.sort_by([(order, "ascending")])
    in_file = case["rows_in_group"] * case["groups_in_file"]
    paths = []
    for number, start in enumerate(range(0, rows.num_rows, in_file)):
        paths.append(str(folder / f"{order}{number}.parquet"))
        pq.write_table(rows.slice(start, in_file), paths[-1], row_group_size=case["rows_in_group"])
    return paths


def prepared(case: dict[str, Any], folder: Path) -> tuple[Plan, list[Any]]:
    names = [f"key {i}" for i in range(len(case["key_types"]))]
    keys = tuple(Feature(n, t) for n, t in zip(names, case["key_types"], strict=True))

    def frame(rows: list[tuple[tuple[Any, ...], int]], time: str, value: str) -> pa.Table:
        columns = {f.name: pa.array([k[i] for k, _ in rows], f.type) for i, f in enumerate(keys)}
        columns[time] = pa.array([micros(t) for _, t in rows], TIMESTAMP)
        columns[value] = pa.array([None if i % 4 == 3 else i for i in range(len(rows))], pa.int64())
        return pa.table(columns)

    labels = frame(case["labels"], "at", "y").append_column("id", pa.array(range(len(case["labels"])), pa.int64()))
    cards = frame(case["cards"], "card.t", "amount")
    shop_rows = case["shops"] if case["timed_shops"] else list({k: (k, t) for k, t in case["shops"]}.values())
    shops = frame(shop_rows, "t", "visits")
    ttl = None if case["ttl"] is None else timedelta(microseconds=case["ttl"])
    label_features = (*keys, Feature("at", "timestamp"), Feature("y", "bigint"), Feature("id", "bigint"))
    card_features = (*keys, Feature("card.t", "timestamp"), Feature("amount", "bigint"))
    shop_features = (*keys, Feature("t", "timestamp"), Feature("visits", "bigint"))
    groups = {
        LABELS: Definition(LABELS, label_features, ("id",), "at" if case["timed_spine"] else None),
        CARDS: Definition(CARDS, card_features, tuple(names), "card.t", ttl),
        SHOPS: Definition(SHOPS, shop_features, tuple(names), "t" if case["timed_shops"] else None),
    }
    right = Query(CARDS, ("amount", "card.t"))
    if case["row_filter"]:
        right = right.filter((Column(CARDS, "amount") > 2) | Column(CARDS, "amount").is_null())
    other = Query(SHOPS, ("visits", names[0]))
    how: Any = "inner" if case["inner"] else "left"
    query = Query(LABELS, ("id", "y"))
    if case["nested"]:
        query = query.join(right.join(other, on=names, prefix="s."), on=names, join_type=how)
    else:
        query = query.join(right, on=names, join_type=how).join(other, on=names, prefix="s.")
    if case["result_filter"]:
        query = query.filter(~(Column(SHOPS, "visits") == 3))
    if case["limit"] is not None:
        query = query.limit(case["limit"])
    files = [written(cards, "card.t", folder, case), written(shops, "t", folder, case)]
    return replace(plan(query, groups), now=micros(case["now"])), [labels, *files]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_the_streaming_engine_equals_the_statement(case: dict[str, Any], tmp_path_factory: Any) -> None:
    """J1-J8, J11, G18: keys of any type with nulls, ties, expired rows, filters, nested joins, any split into files."""
    built, inputs = prepared(case, tmp_path_factory.mktemp("rows"))
    said = duckdb.execute(built, inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(as_of, "ROWS_AT_ONCE", case["at_once"])
        patch.setattr(as_of, "ROWS_SEARCHED", case["searched"])
        assert as_of.execute(built, inputs).equals(said)


@pytest.fixture
def history(tmp_path: Path) -> tuple[Plan, list[Any]]:
    """One card with a row a second, ten row groups of ten; labels in the newest of them only."""
    seconds = [START + timedelta(seconds=i) for i in range(100)]
    rows = pa.table({"card": [7] * 100, "t": pa.array(seconds, TIMESTAMP), "amount": pa.array(range(100), pa.int64())})
    pq.write_table(rows, tmp_path / "cards.parquet", row_group_size=10)
    labels = pa.table({"card": [7, 8], "at": pa.array([seconds[95], seconds[99]], TIMESTAMP)})
    key = Feature("card", "bigint")
    groups = {
        LABELS: Definition(LABELS, (key, Feature("at", "timestamp")), ("card",), "at"),
        CARDS: Definition(CARDS, (key, Feature("t", "timestamp"), Feature("amount", "bigint")), ("card",), "t"),
    }
    return plan(Query(LABELS, ("card",)).join(Query(CARDS, ("amount",))), groups), [
        labels,
        [str(tmp_path / "cards.parquet")],
    ]


def read_row_groups(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, tuple[str, ...]]]:
    """What is read from now on: number of the row group and columns."""
    seen: list[tuple[int, tuple[str, ...]]] = []
    read = pq.ParquetFile.read_row_groups

    def watched(self: Any, numbers: list[int], **options: Any) -> pa.Table:
        seen.extend((n, tuple(options["columns"])) for n in numbers)
        return read(self, numbers, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", watched)
    monkeypatch.setattr(as_of, "ROWS_AT_ONCE", 1)
    return seen


def test_only_the_row_groups_that_can_win_are_read(
    history: tuple[Plan, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """G11, section 6: an old history costs a recent spine nothing, but for keys it does not know."""
    built, (labels, files) = history
    seen = read_row_groups(monkeypatch)
    result = as_of.execute(built, [labels.slice(0, 1), files])
    assert result.to_pydict() == {"card": [7], "amount": [95]}
    assert seen == [(9, ("card", "t")), (9, ("amount",))]


def test_values_are_read_of_row_groups_that_won_only(
    history: tuple[Plan, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card that was never seen is looked for in all row groups, by its key alone."""
    built, inputs = history
    seen = read_row_groups(monkeypatch)
    assert as_of.execute(built, inputs).to_pydict() == {"card": [7, 8], "amount": [95, None]}
    assert [n for n, columns in seen if "amount" in columns] == [9]
    assert [n for n, columns in seen if "card" in columns] == list(range(9, -1, -1))


def test_a_lost_data_file_is_said(history: tuple[Plan, list[Any]]) -> None:
    built, (labels, files) = history
    Path(files[0]).unlink()
    with pytest.raises(NotReproducible, match=r"cards\.parquet"):
        as_of.execute(built, [labels, files])


def test_blocks_of_many_keys_find_what_a_search_over_all_rows_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """J2: numbers of keys beyond 16 bits, more rows than one block, questions before, among and after the rows."""
    monkeypatch.setattr(as_of, "ROWS_SEARCHED", 1_000)
    random = np.random.default_rng(0)
    codes, times = random.integers(0, 100_000, 30_000), np.sort(random.integers(100, 20_000, 30_000))
    asked, at = random.integers(0, 100_000, 5_000), np.sort(random.integers(0, 21_000, 5_000))
    found = as_of._latest_before(codes, times, np.arange(30_000), asked, at, np.full(100_000, -1))
    rows: dict[int, list[int]] = {}
    for row, code in enumerate(codes.tolist()):
        rows.setdefault(code, []).append(row)
    questions = zip(asked.tolist(), at.tolist(), strict=True)
    assert found.tolist() == [max((r for r in rows.get(c, ()) if times[r] <= t), default=-1) for c, t in questions]


def test_a_column_after_a_struct_and_a_list_is_found_among_the_leaves() -> None:
    nested = pa.struct([("lat", pa.float64()), ("tags", pa.list_(pa.struct([("a", pa.int64()), ("b", pa.int64())])))])
    schema = pa.schema([("place", nested), ("list", pa.list_(pa.int64())), ("t", TIMESTAMP)])
    file = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), file)
    physical = pq.ParquetFile(pa.BufferReader(file.getvalue())).metadata.schema
    assert physical.column(as_of._leaf(schema, "t")).name == "t"
    assert list(itertools.islice((physical.column(i).name for i in range(4)), 4)) == ["lat", "a", "b", "element"]
