"""A frame that is not stored as the spine of a query: its keys and time, and the frame that comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.errors import JoinError, SchemaMismatch
from featurestore.point_in_time import ROW, Definition, Output, Plan, plan
from featurestore.query import GroupRef, Join, Query
from featurestore.schema import DataFrameType, Feature, as_arrow, conform, infer_features, to_frame

ENTITIES = GroupRef("entities", 0)


@dataclass(frozen=True)
class Spine:
    """A frame as the spine of a plan.

    `rows` holds the columns that the plan joins by, its time (UTC) and `__row`; `plan` gives `__row` first, then what
    the groups contribute.
    """

    frame: Any
    rows: pa.Table
    plan: Plan

    def with_features(self, found: pa.Table, dataframe_type: DataFrameType | None) -> Any:
        """The frame's own columns beside what the plan gave, as a frame of the same library unless another is asked."""
        kind = _kind(self.frame)
        places, features = found.column(ROW), found.drop_columns([ROW])
        if dataframe_type in (None, kind):
            if kind == "pandas":
                import pandas as pd

                mine = self.frame.iloc[places.to_numpy()]
                both = [mine.reset_index(drop=True), to_frame(features, "pandas")]
                return pd.concat(both, axis="columns").set_axis(mine.index)
            if kind == "polars":
                return self.frame[places.to_numpy()].hstack(to_frame(features, "polars"))
        table = as_arrow(self.frame)
        plain = {
            pa.string_view(): pa.large_string(),
            pa.binary_view(): pa.large_binary(),
        }  # Arrow takes no rows of views
        table = table.cast(pa.schema([f.with_type(plain.get(f.type, f.type)) for f in table.schema])).take(places)
        for field, column in zip(features.schema, features.columns, strict=True):
            table = table.append_column(field, column)
        return to_frame(table, dataframe_type or "arrow")


def spine_of(entities: Any, query: Query, groups: Mapping[GroupRef, Definition], event_time: str | None) -> Spine:
    """The frame as spine, to which every group of the query joins, the left-most too.

    Args:
        entities: pandas or Polars DataFrame, Arrow table, or anything with `__arrow_c_stream__`.
        query: its left-most group and those joined to it find their keys among the frame's columns; a group joined
            inside a joined query finds them in that query's row.
        event_time: the frame's time column; default the left-most group's name for it. Naive times are UTC.
    Raises:
        JoinError: the frame lacks a key or the time, a key is of another type, or names clash.
        SchemaMismatch: not a frame, or the time column holds no times.
    """
    frame = as_arrow(entities)
    left = groups[query.group]
    time = _time(frame.column_names, query, groups, event_time)
    alone = replace(query, joins=(), result_filter=None, row_limit=None)
    joins = (Join(alone), *query.joins)
    columns = (
        {} if time is None else {time: conform(frame.select([time]), [Feature(time, "timestamp")], what=str(ENTITIES))}
    )
    for join in joins:
        right = left if join.query is alone else groups[join.query.group]
        for a, b in zip(
            join.left_on or join.on or right.primary_key, join.right_on or join.on or right.primary_key, strict=True
        ):
            if a in frame.column_names and a not in columns and b in right.columns():
                columns[a] = _key(frame.select([a]), right.feature(b))
    # The other columns are here for their names, which must not clash; they are never part of the plan.
    features = [Feature(n, columns[n].schema.types[0] if n in columns else "binary") for n in frame.column_names]
    definition = Definition(ENTITIES, tuple(features), (ROW,), time)
    whole = replace(
        query, group=ENTITIES, features=tuple(frame.column_names), joins=joins, row_filter=None, version=None
    )
    built = plan(whole, {**groups, ENTITIES: definition})
    number = Output(0, ROW, ROW, Feature("row", "bigint"))
    rows = {n: t.column(0) for n, t in columns.items()} | {ROW: pa.array(np.arange(frame.num_rows))}
    outputs = (number, *(o for o in built.outputs if o.source > 0))
    return Spine(entities if _kind(entities) != "arrow" else frame, pa.table(rows), replace(built, outputs=outputs))


def _time(
    columns: list[str], query: Query, groups: Mapping[GroupRef, Definition], event_time: str | None
) -> str | None:
    name = event_time or groups[query.group].event_time
    if name is not None and name not in columns:
        whose = "" if event_time else f", which is {query.group}'s event time,"
        raise JoinError(
            f"The frame has no column {name!r}{whose} to join at; it has {columns}. "
            "Name its time column with event_time='...'."
        )
    if name is None:
        times = {d.event_time: ref for ref, d in groups.items() if d.event_time in columns}
        for found, ref in times.items():
            raise JoinError(
                f"{query.group} has no event time, but the frame has the column {found!r}, as {ref} has. Pass "
                f"event_time={found!r} to join at that time, or drop the column to join the newest rows."
            )
    return name


def _key(column: pa.Table, right: Feature) -> pa.Table:
    """A key column as its group has it, where the same value can be either; else as it is, for the plan to refuse."""
    [name], [dtype] = column.column_names, column.schema.types
    # An int64 that fits no int32 key matches none.
    wanted = Feature(name, "bigint" if pa.types.is_integer(right.type) else right.type)
    try:
        return conform(column, [wanted], what=str(ENTITIES))
    except SchemaMismatch:
        if pa.types.is_null(dtype):
            raise
        return conform(column, infer_features(column.schema), what=str(ENTITIES))


def _kind(frame: Any) -> DataFrameType:
    library = type(frame).__module__.split(".")[0]
    return library if library in ("pandas", "polars") else "arrow"  # type: ignore[return-value]  # one of its names
