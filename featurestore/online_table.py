"""What one feature group keeps online: its columns, where each goes, and which of its rows are the newest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import InvalidData, SchemaMismatch
from featurestore.schema import Feature, check_name

Key = tuple[Any, ...]
Row = tuple[Any, ...]


@dataclass(frozen=True)
class OnlineTable:
    """What one feature group keeps online.

    Args:
        name: the physical table, `[a-z][a-z0-9_]{0,62}`, unique in the database.
        primary_key: columns that identify a row online.
        event_time: the column that says which of two rows is newer; None: the row written last.
        features: every column of the group that is kept, keys and event time included, in any order.
        label: how messages call it; default its name.

    Raises:
        SchemaMismatch: a key or the event time is not among the features, or has a type that cannot be one.

    >>> OnlineTable("cards_1", ("cc_num",), None, (Feature("amount", "double"),))
    Traceback (most recent call last):
        ...
    featurestore.errors.SchemaMismatch: Online table 'cards_1' has no column 'cc_num' for its primary key. Columns: ...
    """

    name: str
    primary_key: tuple[str, ...]
    event_time: str | None
    features: tuple[Feature, ...]
    label: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        check_name(self.name, "Online table")
        types = {feature.name: feature.type for feature in self.features}
        if not self.primary_key:
            raise SchemaMismatch(f"Online table {self.shown!r} needs a primary key of at least one column.")
        for column in self.primary_key:
            if column not in types:
                raise SchemaMismatch(
                    f"Online table {self.shown!r} has no column {column!r} for its primary key. Columns: {list(types)}."
                )
            if pa.types.is_nested(types[column]):
                raise SchemaMismatch(f"Primary key {column!r} is {types[column]}; lists and structs cannot be keys.")
        if self.event_time is not None and not pa.types.is_timestamp(types.get(self.event_time, pa.null())):
            raise SchemaMismatch(
                f"Online table {self.shown!r} needs its event time {self.event_time!r} among the features, as "
                "timestamp."
            )

    @property
    def shown(self) -> str:
        """What messages call it."""
        return self.label or self.name

    @property
    def values(self) -> tuple[Feature, ...]:
        """The features that are neither key nor event time, in the order of the physical columns f0, f1, ..."""
        others = {*self.primary_key, self.event_time}
        return tuple(feature for feature in self.features if feature.name not in others)

    @property
    def layout(self) -> dict[str, Any]:
        """Which name and type stands behind which physical column, as JSON-ready data."""
        dtypes = {feature.name: feature.dtype for feature in self.features}
        return {
            "primary_key": [[name, dtypes[name]] for name in self.primary_key],
            "event_time": self.event_time,
            "features": [[feature.name, feature.dtype] for feature in self.values],
        }

    def positions(self) -> dict[str, tuple[str, Feature]]:
        """For every column name its physical column and its feature."""
        features = {feature.name: feature for feature in self.features}
        physical = {name: f"k{i}" for i, name in enumerate(self.primary_key)}
        if self.event_time is not None:
            physical[self.event_time] = "t"
        physical |= {feature.name: f"f{i}" for i, feature in enumerate(self.values)}
        return {name: (column, features[name]) for name, column in physical.items()}


def check_columns(table: OnlineTable, rows: pa.Table, columns: Sequence[str]) -> None:
    """Refuse rows that lack a column, or have a null where a key or the event time must be."""
    if missing := [name for name in columns if name not in rows.column_names]:
        raise SchemaMismatch(
            f"Rows for online table {table.shown!r} lack the columns {missing}; they have {rows.column_names}."
        )
    for name in columns:
        if name in (*table.primary_key, table.event_time) and rows[name].null_count:
            position = pc.index(rows[name].is_null(), True).as_py()
            raise InvalidData(
                f"Column {name!r} of online table {table.shown!r} is null in row {position}. Nothing was written."
            )


def newest_rows(table: OnlineTable, rows: pa.Table) -> pa.Table:
    """The newest row of each key; of rows equally new the last one. In no particular order."""
    names = list(table.positions())
    check_columns(table, rows, names)
    rows = rows.select(names)
    if rows.num_rows < 2:
        return rows
    codes = np.zeros(rows.num_rows, dtype=np.int64)
    for name in table.primary_key:
        encoded = rows[name].combine_chunks().dictionary_encode()
        codes = codes * len(encoded.dictionary) + encoded.indices.to_numpy()
        if len(table.primary_key) > 1:  # numbered anew without gaps, so that products stay small
            codes = np.unique(codes, return_inverse=True)[1]
    order = np.arange(rows.num_rows)
    if table.event_time is not None:
        times = rows[table.event_time].cast(pa.int64()).to_numpy()
        if np.any(times[1:] < times[:-1]):
            order = np.argsort(times, kind="stable")
    last = np.empty(int(codes.max()) + 1, dtype=np.int64)
    last[codes[order]] = order  # numpy keeps the last of several assignments to one place
    return rows if len(last) == rows.num_rows else rows.take(np.sort(last))
