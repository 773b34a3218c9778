"""Rows as Parquet files that each cover a stretch of the ordering column of their own.

The layout, measured on 1 M rows of key, time and five floats (2 cores, pyarrow 25; seconds to write / to read in one
thread / MB): lz4, row groups of 128 k, times as deltas 0.13 / 0.021 / 37. Snappy instead of lz4 0.13 / 0.035 / 37, zstd
0.21 / 0.042 / 30, nothing 0.08 / 0.014 / 55. Dictionaries for every column 0.33 / 0.020 / 40, for a text key alone no
slower than none and 1.5 times smaller without compression. One row group of 1 M reads 1.4 times slower in one thread,
because its pages leave the processor's cache, and cannot be skipped in part.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

ROWS_PER_FILE = 1 << 20
"""Files of 512 k, 1 M and 2 M rows read alike (8 M rows: 0.33, 0.31 and 0.35 s of CPU); larger ones cost memory, and a
change rewrites more."""
BYTES_PER_FILE = 1 << 29
"""Of rows in memory: files of wide tables hold fewer rows."""
ROWS_PER_GROUP = 1 << 17
LONGEST_BOUND = 64
"""Characters of a text that Delta's log keeps as a file's lowest or highest value."""
_EXACT_DIGITS = 15  # decimals of up to so many digits survive the log's JSON numbers


@dataclass(frozen=True)
class NewFile:
    """A Parquet file written into a table's folder and what Delta's log is to say about it."""

    name: str
    size: int
    rows: int
    partition: Mapping[str, str | None]
    statistics: str


def write(
    folder: str, batches: Iterable[pa.Table], *, order: str, indexed: Sequence[str], partition_by: Sequence[str] = ()
) -> list[NewFile]:
    """Write rows as Parquet files into the folder; nothing refers to them until a commit does.

    Args:
        batches: tables of one schema, together in ascending order of the ordering column.
        order: the column that no two of the files share a range of, unless one value alone fills a file.
        indexed: columns whose lowest and highest value each file records.
        partition_by: columns of which each file holds one value; they are in the files as well, so that every reader
            of the files alone sees them.
    Raises:
        OSError: the disk is full or the folder cannot be written; the files of this call are gone again.
    """
    import pyarrow.parquet as pq

    written: list[Path] = []
    made = []
    try:
        for rows in _portions(batches, order):
            for partition, part in _partitions(rows, partition_by):
                path = Path(folder) / f"part-{uuid.uuid4()}.parquet"
                written.append(path)
                pq.write_table(
                    part, path, row_group_size=ROWS_PER_GROUP, compression="lz4",
                    use_dictionary=[f.name for f in part.schema if _is_text(f.type)],
                    column_encoding={f.name: "DELTA_BINARY_PACKED" for f in part.schema if _is_time(f.type)},
                )  # fmt: skip
                made.append(
                    NewFile(path.name, path.stat().st_size, part.num_rows, partition, _statistics(part, indexed))
                )
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return made


def read(path: str, schema: pa.Schema) -> pa.Table:
    """The rows of a file with the schema's columns; those that are younger than the file are null."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = set(file.schema_arrow.names)
        rows = file.read(columns=[n for n in schema.names if n in names])
    columns = [rows[f.name].cast(f.type) if f.name in names else pa.nulls(rows.num_rows, f.type) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def capacity(path: str) -> int:
    """How many rows such as those of a file (it has some) a file takes."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return _rows_per_file(file.read_row_group(0))


def remove(folder: str, files: Iterable[NewFile]) -> None:
    """Delete files that no commit refers to."""
    for file in files:
        (Path(folder) / file.name).unlink(missing_ok=True)


def in_order(rows: pa.Table, order: str, identity: Sequence[str]) -> pa.Table:
    """The rows sorted by the ordering column, then the identity; of rows with equal identity only the last one.

    Args:
        rows: `order` is one of the `identity` columns; none of these holds a null.

    >>> in_order(pa.table({"id": [2, 1, 2], "x": ["old", "one", "new"]}), "id", ["id"]).to_pylist()
    [{'id': 1, 'x': 'one'}, {'id': 2, 'x': 'new'}]
    """
    first = _ranks(rows.column(order))
    is_sorted = bool(np.all(first[1:] >= first[:-1]))
    positions = np.arange(len(first)) if is_sorted else np.argsort(first, kind="stable")
    ordered = first if is_sorted else first[positions]
    # Only rows that share a value of the ordering column need to be told apart by the other columns: often none.
    shares = ordered[1:] == ordered[:-1]
    tied = np.flatnonzero(np.append(shares, False) | np.append(False, shares))
    if len(tied):
        others = rows.select([c for c in dict.fromkeys(identity) if c != order]).take(positions[tied])
        keys = [ordered[tied], *(_ranks(column) for column in others.columns)]
        inner = np.lexsort(keys[::-1])
        follows = np.ones(len(tied) - 1, dtype=bool)
        for key in keys:
            follows &= key[inner][1:] == key[inner][:-1]
        is_kept = np.ones(len(positions), dtype=bool)
        is_kept[tied[:-1][follows]] = False
        moved = positions[tied][inner]
        is_sorted = is_sorted and bool(np.array_equal(moved, positions[tied])) and bool(is_kept.all())
        positions[tied] = moved
        positions = positions[is_kept]
    return rows if is_sorted else rows.combine_chunks().take(positions)


def _ranks(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Whole numbers that compare as the values do."""
    dtype = column.type
    if pa.types.is_date32(dtype):
        column = column.cast(pa.int32())
    if pa.types.is_timestamp(dtype) or pa.types.is_boolean(dtype):
        column = column.cast(pa.int64() if pa.types.is_timestamp(dtype) else pa.int8())
    if pa.types.is_integer(column.type):
        return column.to_numpy().astype(np.int64, copy=False)
    coded = column.combine_chunks().dictionary_encode()
    ranks = pc.rank(coded.dictionary, tiebreaker="dense").to_numpy().astype(np.int64)
    return ranks[coded.indices.to_numpy()]


def _portions(batches: Iterable[pa.Table], order: str) -> Iterator[pa.Table]:
    """The rows of a file each."""
    held: pa.Table | None = None
    for batch in batches:
        held = batch if held is None or not held.num_rows else pa.concat_tables([held, batch])
        while held.num_rows > (most := _rows_per_file(held)):
            end = _end_of_file(held.column(order), most)
            yield held.slice(0, end)
            held = held.slice(end)
    if held is not None and held.num_rows:
        yield held


def _rows_per_file(rows: pa.Table) -> int:
    return max(min(ROWS_PER_FILE, BYTES_PER_FILE * rows.num_rows // max(rows.nbytes, 1)), 1)


def _end_of_file(values: pa.ChunkedArray, most: int) -> int:
    """How many rows a file takes: at most `most`, and not a part of those with one value where that can be."""
    if values[most] != values[most - 1]:
        return most
    changes = np.flatnonzero(pc.not_equal(values.slice(1, most - 1), values.slice(0, most - 1)).to_numpy())
    return int(changes[-1]) + 1 if len(changes) else most


def _partitions(rows: pa.Table, columns: Sequence[str]) -> Iterator[tuple[dict[str, str | None], pa.Table]]:
    if not columns:
        yield {}, rows
        return
    column, *rest = columns
    coded = rows.column(column).combine_chunks().dictionary_encode(null_encoding="encode")
    for code, value in enumerate(coded.dictionary):
        for partition, part in _partitions(rows.filter(pc.equal(coded.indices, code)), rest):
            yield {column: _partition_text(value.as_py()), **partition}, part


def _partition_text(value: Any) -> str | None:
    """A value as the Delta protocol spells it beside a file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    return None if value is None else str(value)


def _statistics(rows: pa.Table, indexed: Sequence[str]) -> str:
    """What Delta's log says of a file, as JSON; times to the microsecond."""
    lowest: dict[str, Any] = {}
    highest: dict[str, Any] = {}
    for name in indexed:
        dtype = rows.schema.field(name).type
        if pa.types.is_boolean(dtype) or pa.types.is_binary(dtype) or pa.types.is_nested(dtype):
            continue  # the protocol has no bounds for these
        bounds = pc.min_max(rows.column(name))
        low, high = _bound(bounds["min"].as_py()), _bound(bounds["max"].as_py(), is_upper=True)
        if low is not None and high is not None:
            lowest[name], highest[name] = low, high
    nulls = {name: rows.column(name).null_count for name in indexed}
    return json.dumps({"numRecords": rows.num_rows, "minValues": lowest, "maxValues": highest, "nullCount": nulls})


def _bound(value: Any, *, is_upper: bool = False) -> Any:
    """A lowest or highest value as JSON; None when JSON cannot hold it exactly."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value) if len(value.as_tuple().digits) <= _EXACT_DIGITS else None
    if isinstance(value, str) and len(value) > LONGEST_BOUND:
        return value[:LONGEST_BOUND] + ("\U0010ffff" if is_upper else "")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _is_text(dtype: pa.DataType) -> bool:
    return pa.types.is_string(dtype) or pa.types.is_binary(dtype)


def _is_time(dtype: pa.DataType) -> bool:
    return pa.types.is_timestamp(dtype)
