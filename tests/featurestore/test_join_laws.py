"""Joins equal a loop over all rows, whatever the groups, keys, times, names, filters and commits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from featurestore import Feature
from featurestore.engines import as_of, duckdb, sql
from featurestore.point_in_time import Definition, Plan, plan
from featurestore.query import GroupRef, Query
from tests.strategies import Shape, World, expected, names_of, worlds

Execute = Callable[..., pa.Table]


def _without_asof(whole: Plan, inputs: list[pa.Table]) -> pa.Table:
    """The statement as Spark gets it, without as-of joins, in DuckDB's spelling."""
    dialect = replace(sql.DUCKDB, has_asof=False)
    tables = {f"t{i}": table for i, table in enumerate(inputs)}
    return duckdb.run(sql.statement(whole, list(tables), dialect=dialect), tables)


def _streamed(whole: Plan, inputs: list[pa.Table]) -> pa.Table:
    """The engine for large groups, over files of three rows each."""
    with tempfile.TemporaryDirectory() as folder:
        files: list[list[str] | pa.Table] = [inputs[0]]
        for place, table in enumerate(inputs[1:]):
            time = whole.sources[place + 1].definition.event_time
            rows = table if time is None else table.sort_by(time)
            paths = [f"{folder}/{place}_{first}.parquet" for first in range(0, rows.num_rows, 3)]
            for number, path in enumerate(paths):
                pq.write_table(rows.slice(3 * number, 3), path, row_group_size=2)
            files.append(paths)
        return as_of.execute(whole, files)


ENGINES: dict[str, Execute] = {"duckdb": duckdb.execute, "as_of": _streamed, "without asof": _without_asof}
by = pytest.mark.parametrize


def result(engine: str, world: World) -> list[dict[str, Any]]:
    whole = replace(plan(world.query, world.definitions), now=world.now, as_known=world.as_known)
    assume(engine != "as_of" or whole.is_plain)
    table = ENGINES[engine](whole, [world.table(s.definition.ref) for s in whole.sources])
    assert table.column_names == names_of(world.query)
    return table.to_pylist()


@by("engine", ["duckdb", "as_of", "without asof"])
@settings(max_examples=30, deadline=None)
@given(world=worlds(Shape(choosing=False)))
def test_joins_equal_a_loop_over_all_rows(engine: str, world: World) -> None:
    """J1, J2, J3, J4, J5, J7, J8, J11, G18: for each row of the spine the newest row that may be used."""
    assert result(engine, world) == expected(world)


@by("engine", ["duckdb", "without asof"])
@settings(max_examples=30, deadline=None)
@given(world=worlds())
def test_filters_and_inner_joins_inside_joined_queries_choose_among_candidates(engine: str, world: World) -> None:
    """J4, J7, J8: a joined query's filter and inner joins restrict its candidates before the match."""
    assert result(engine, world) == expected(world)


@by("engine", ["duckdb", "as_of"])
@settings(max_examples=30, deadline=None)
@given(world=worlds(Shape(stored=False, choosing=False)))
def test_frames_keep_their_order_their_twins_and_their_rows_without_time(engine: str, world: World) -> None:
    """J1, J10: an ad-hoc frame as the spine, with duplicate rows and null times."""
    assert result(engine, world) == expected(world)


@by("engine", ["duckdb"])
@settings(max_examples=60, deadline=None)
@given(world=worlds(Shape(as_known=True, timed_spine=True)))
def test_joins_as_known_equal_a_loop_over_all_values_ever(engine: str, world: World) -> None:
    """J9: of each row the value that was stored at the spine's time, or none."""
    assert result(engine, world) == expected(world)


# Against other ways to compute the same, on data that they can take: one key without nulls, times on both sides


def _one_join(world_rows: list[tuple[int, int]], features: dict[tuple[int, int], int]) -> tuple[Plan, list[pa.Table]]:
    shape = (Feature("k", "bigint"), Feature("at", "timestamp"))
    left = Definition(GroupRef("left", 1), (Feature("id", "bigint"), *shape), ("id",), "at")
    right = Definition(GroupRef("right", 1), (*shape, Feature("x", "bigint")), ("k",), "at")
    query = Query(left.ref, ("id",)).join(Query(right.ref, ("x",)))

    def table(definition: Definition, rows: list[tuple[int, int, int]]) -> pa.Table:
        columns = list(zip(*rows, strict=True)) or [()] * 3
        arrays = [pa.array(c, f.type) for c, f in zip(columns, definition.features, strict=True)]
        return pa.table(dict(zip(definition.columns(), arrays, strict=True)))

    spine = [(i, k, at) for i, (k, at) in enumerate(world_rows)]
    found = [(k, at, x) for (k, at), x in features.items()]
    return plan(query, {left.ref: left, right.ref: right}), [table(left, spine), table(right, found)]


_times = st.integers(-20, 20)
_keyed = st.tuples(st.integers(1, 3), _times)
_spines = st.lists(_keyed, max_size=20)
_features = st.dictionaries(_keyed, st.integers(-9, 9), max_size=20)


@settings(max_examples=30, deadline=None)
@given(spine=_spines, features=_features)
def test_joins_equal_merge_asof_join_asof_and_asof_by_hand(
    spine: list[tuple[int, int]], features: dict[tuple[int, int], int]
) -> None:
    """J11: pandas.merge_asof, Polars' join_asof, and DuckDB's ASOF JOIN written by hand."""
    whole, [left, right] = _one_join(spine, features)
    found = [(row["id"], row["x"]) for row in duckdb.execute(whole, [left, right]).to_pylist()]

    nullable = {pa.int64(): pd.Int64Dtype()}
    frames = [t.to_pandas(types_mapper=nullable.get).sort_values("at", kind="stable") for t in (left, right)]
    merged = pd.merge_asof(*frames, on="at", by="k").sort_values(["at", "id"])
    assert found == [(i, None if pd.isna(x) else x) for i, x in zip(merged["id"], merged["x"], strict=True)]

    sorted_left, sorted_right = (pl.from_arrow(t).sort("at") for t in (left, right))
    polars = sorted_left.join_asof(sorted_right, on="at", by="k", check_sortedness=False)
    assert found == polars.sort("at", "id").select("id", "x").rows()

    by_hand = "SELECT l.id, r.x FROM l ASOF LEFT JOIN r ON l.k = r.k AND l.at >= r.at ORDER BY l.at, l.id"
    assert found == [(row["id"], row["x"]) for row in duckdb.run(by_hand, {"l": left, "r": right}).to_pylist()]
