"""What a write changes in a table: which rows are new or different, and what the new files are to hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore import data_files
from featurestore.engines import duckdb as engine
from featurestore.engines.sql import COMMITTED_AT
from featurestore.engines.staging import Staged
from featurestore.errors import Conflict
from featurestore.schema import TIMESTAMP
from featurestore.snapshots import DataFile, Snapshot


@dataclass(frozen=True)
class Changes:
    """How many rows are new or differ from what is stored, and the files that hold what they replace.

    `rows` are those rows in order, and `places` says for each of them which file holds its old values (null: none).
    """

    inserted: int
    updated: int
    touched: Sequence[DataFile]
    rows: pa.Table | None = None
    places: pa.ChunkedArray | None = None
    staged: Staged | None = None


def compared(before: Snapshot, rows: pa.Table | Staged, identity: Sequence[str]) -> Changes:
    """The rows beside those stored; a batch that no stored file can hold a row of is not compared."""
    if isinstance(rows, Staged):
        touching = before.touching(rows.bounds()) if rows.num_rows and before.files else []
        files = {f.path: f for f in touching}
        difference = rows.compare(list(files))
        touched = [files[p] for p in difference.touched]
        return Changes(difference.inserted, difference.updated, touched, staged=rows)
    touching = before.touching(ranges(rows.select(list(identity)))) if rows.num_rows else []
    files = {f.path: f for f in touching}
    if not files:
        return Changes(rows.num_rows, 0, (), rows)
    low, high = _range(rows, before.order)
    found = engine.compare(list(files), rows, identity=identity, order=before.order, low=low, high=high)
    is_written = pc.not_equal(found["status"], "same")
    places = found["place"].filter(is_written)
    touched = [files[p] for p in sorted(places.drop_null().unique().to_pylist())]
    inserted = places.null_count
    return Changes(inserted, len(places) - inserted, touched, rows.filter(is_written), places)


def portions(
    before: Snapshot, changes: Changes, now: datetime, schema: pa.Schema, identity: Sequence[str]
) -> Iterator[Iterable[pa.Table]]:
    """The rows of the new files, in portions: the touched files once more with their share, then the rows left over.

    New rows join a touched file whose range they fall into. What is newer than everything stored keeps apart from what
    is late, so that the newest file goes on covering a range of its own.
    """
    newest = max((f.high for f in before.files if f.high is not None), default=None)
    if changes.rows is None:
        yield from _portions_from_stage(before, changes, now, schema, newest)
        return
    rows = _stamped(changes.rows, now, schema)
    order, left = rows.column(before.order), np.ones(rows.num_rows, dtype=bool)
    for file in changes.touched:
        is_here = pc.fill_null(pc.equal(changes.places, file.path), False)
        if file.low is not None and file.high is not None:
            is_new = pc.is_null(changes.places)
            is_inside = pc.and_(pc.greater_equal(order, file.low), pc.less_equal(order, file.high))
            is_here = pc.or_(is_here, pc.and_(is_new, is_inside))
        mine = is_here.to_numpy() & left
        left &= ~mine
        both = pa.concat_tables([data_files.read(file.path, schema), rows.filter(pa.array(mine))])
        yield [data_files.in_order(both, before.order, identity)]
    rest = rows if left.all() else rows.filter(pa.array(left))
    late = 0 if newest is None else pc.sum(pc.less_equal(rest.column(before.order), newest)).as_py() or 0
    yield from ([rest.slice(0, late)], [rest.slice(late)])


def _portions_from_stage(
    before: Snapshot, changes: Changes, now: datetime, schema: pa.Schema, newest: Any
) -> Iterator[Iterable[pa.Table]]:
    staged = changes.staged
    if staged is None:
        return
    _check_columns([*staged.schema.names, COMMITTED_AT], schema)
    cuts = [(f.low, pc.less) for f in changes.touched if f.low is not None]
    cuts += [(high, pc.less_equal) for high in (*(f.high for f in changes.touched), newest) if high is not None]
    batches = staged.rows(schema, stamp={COMMITTED_AT: now}, touched=[f.path for f in changes.touched])
    pieces = (piece for batch in batches for piece in _pieces(batch, before.order, cuts))
    for _, portion in groupby(pieces, key=lambda piece: piece[0]):
        yield (rows for _, rows in portion)


def _pieces(rows: pa.Table, order: str, cuts: Sequence[tuple[Any, Any]]) -> Iterator[tuple[int, pa.Table]]:
    """Rows in order in pieces, each with the number of cuts before it; a cut is a value and who lies before it."""
    ends = [pc.sum(lies_before(rows.column(order), value)).as_py() or 0 for value, lies_before in cuts]
    for start, end in pairwise(sorted({0, rows.num_rows, *ends})):
        yield sum(e <= start for e in ends), rows.slice(start, end - start)


def ranges(rows: pa.Table) -> dict[str, tuple[Any, Any]]:
    """The lowest and highest value of each column; booleans have none in Delta's log."""
    return {name: _range(rows, name) for name in rows.column_names if not pa.types.is_boolean(rows[name].type)}


def _range(rows: pa.Table, column: str) -> tuple[Any, Any]:
    bounds = pc.min_max(rows.column(column)).as_py()
    return bounds["min"], bounds["max"]


def _stamped(rows: pa.Table, now: datetime, schema: pa.Schema) -> pa.Table:
    """The rows with their commit time, as the table's schema has them.

    Raises:
        Conflict: the table has other columns by now.
    """
    columns = dict(zip(rows.column_names, rows.columns, strict=True))
    columns[COMMITTED_AT] = pa.repeat(pa.scalar(now, TIMESTAMP), rows.num_rows)
    _check_columns(columns, schema)
    return pa.Table.from_arrays([columns[f.name] for f in schema], schema=schema)


class ColumnsMissing(Conflict):
    """The table lacks columns of the rows: who was to add them was interrupted."""


def _check_columns(names: Iterable[str], schema: pa.Schema) -> None:
    if missing := {*names} - {*schema.names}:
        raise ColumnsMissing(f"The table lacks the columns {sorted(missing)}. Append these features again, then retry.")
    if {*names} != {*schema.names}:
        raise Conflict(
            f"The table has the columns {schema.names} by now, the rows {sorted(names)}. Nothing was written: get the "
            "feature group again and retry."
        )


def identity_of(schema: pa.Schema) -> list[str]:
    """Keys and event time: the columns that are never null, but for the hidden one."""
    return [f.name for f in schema if not f.nullable and f.name != COMMITTED_AT]
