"""Point-in-time joins over large groups: newest rows first, keys and times before values, in bounded memory.

What a plan means is said by DuckDB's statement (`engines/duckdb.py`), which also runs it where groups are small. Here
the same rows come out sooner where they are large, because the store knows that its files lie in order of time:

- A group is read from its newest row groups to its oldest. A row of the spine is settled at the first row group that
  holds its key at or before its time, so what lies before the last open row, or beyond its ttl, is never opened.
- Only keys and times take part in the search. Values are read of row groups that won something, and only the winning
  rows are kept. So memory holds one row group and the result, whatever the size of the group.

Measured on 2 cores, 1 M labels x two groups of 10 M rows x 5 features: `make bench SCALE=full`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.engines import duckdb as sql
from featurestore.errors import NotReproducible
from featurestore.point_in_time import Plan, Source
from featurestore.times import to_micros

Integers = npt.NDArray[np.int64]

ROWS_AT_ONCE = 1 << 20
"""Small row groups are searched together up to this many rows: the dictionary of keys is prepared for each search."""

ROWS_SEARCHED = 1 << 16
"""Rows among which times are compared at once: few enough to stay in a processor's cache."""

_FIRST, _LAST = np.iinfo(np.int64).min, np.iinfo(np.int64).max
_POSITION_BITS = 32


def execute(
    plan: Plan, inputs: Sequence[Sequence[str] | pa.Table], *, start: datetime | None = None,
    end: datetime | None = None, ordered: bool = True, memory_limit: str = "4GB", threads: int = 0,
    temp_directory: str | None = None,
) -> pa.Table:  # fmt: skip
    """Run a plain plan (`Plan.is_plain`) over the Parquet files of each source; the same result as `duckdb.execute`.

    Raises:
        NotReproducible: a data file is gone or damaged.
    """
    columns = plan.given_columns()
    time = plan.spine.event_time
    whole = plan.result_filter is None and not any(s.inner for s in plan.sources)
    columns[0] = list(dict.fromkeys([*columns[0], *([time] if time else [])]))
    spine = sql.spine(
        plan, inputs[0], columns[0], start=start, end=end, ordered=ordered, limit=plan.limit if whole else None,
        memory_limit=memory_limit, threads=threads, temp_directory=temp_directory,
    )  # fmt: skip
    moments = None if time is None else _micros(spine.column(time))
    everyone = np.ones(spine.num_rows, dtype=bool)
    workers = min(threads or os.cpu_count() or 1, max(len(plan.sources) - 1, 1))
    with ThreadPoolExecutor(workers) as pool:
        # A source waits for the one it is joined to, which was submitted before it: no two can wait for each other.
        found: list[Future[_Matched]] = [Future()]
        found[0].set_result(_Matched(spine, everyone))
        for place, source in enumerate(plan.sources[1:], start=1):
            search = _Search(source, columns[place], inputs[place], plan.now, alone=workers == 1)
            found.append(pool.submit(search.run, found[source.parent], moments))
        matched = [f.result() for f in found]
    kept = np.logical_and.reduce([everyone, *(m.hits for m, s in zip(matched, plan.sources, strict=True) if s.inner)])
    outputs = [matched[o.source].rows.column(o.column).cast(o.feature.type) for o in plan.outputs]
    result = pa.Table.from_arrays(outputs, schema=pa.schema([(o.name, o.feature.type) for o in plan.outputs]))
    if plan.result_filter is not None:
        kept[kept] = sql.holds(plan, [m.rows.filter(pa.array(kept)) for m in matched], columns)
    if not kept.all():
        result = result.filter(pa.array(kept))
    return result if plan.limit is None else result.slice(0, plan.limit)


@dataclass(frozen=True)
class _Matched:
    """Of each row of the spine the row found in one source, null where there is none."""

    rows: pa.Table
    hits: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Piece:
    """One row group of a file, and the range of the group's time in it (microseconds)."""

    path: str
    footer: Any
    number: int
    rows: int
    low: int
    high: int


@dataclass(frozen=True)
class _Search:
    """The search of one source for the rows of the spine."""

    source: Source
    columns: list[str]
    files: Sequence[str] | pa.Table
    now: datetime | None
    alone: bool

    @property
    def _time(self) -> str | None:
        return None if self.source.match == "key" else self.source.definition.event_time

    def run(self, parent: Future[_Matched], moments: tuple[Integers, npt.NDArray[np.bool_]] | None) -> _Matched:
        """The newest row of equal keys at or before each row's time; the newest of all where time does not count."""
        left = parent.result().rows
        keys = _Keys([left.column(a) for a, _ in self.source.keys])
        wanted = keys.codes >= 0
        if self.source.match == "as of" and moments is not None:
            at, known = moments
            wanted &= known
        else:
            at = np.full(len(wanted), _LAST)
        labels: list[Integers] = []
        rows: list[pa.Table] = []
        with _readable():
            for who, winners in self._winners(keys, at, np.flatnonzero(wanted)):
                labels.append(who)
                rows.append(winners)
        schema = pa.schema([(f.name, f.type) for f in self.source.definition.features if f.name in self.columns])
        place = np.full(len(wanted), -1)
        if labels:
            together = np.concatenate(labels)
            place[together] = np.arange(len(together))
        hits = place >= 0
        table = pa.concat_tables([schema.empty_table(), *rows]).combine_chunks()
        return _Matched(table.take(pa.array(place, mask=~hits)), hits)

    def _winners(self, keys: _Keys, at: Integers, open_: Integers) -> Iterator[tuple[Integers, pa.Table]]:
        """Rows of the spine and the rows they get, one row group after the other."""
        if np.any(at[open_[1:]] < at[open_[:-1]]):
            open_ = open_[np.argsort(at[open_], kind="stable")]
        times = at[open_]
        ttl, asked_at = self.source.definition.ttl, at
        if self.source.match == "newest" and self.now is not None:
            asked_at = np.full(len(at), to_micros(self.now))
        elif self.source.match != "as of":
            ttl = None
        age = _LAST if ttl is None else ttl // timedelta(microseconds=1)
        newest = np.full(len(keys), -1)
        names = [b for _, b in self.source.keys]
        end, left_over = len(open_), open_[:0]
        for unit in self._units():
            begin = int(np.searchsorted(times[:end], min(p.low for p in unit)))
            last = max(p.high for p in unit)
            inside = begin + int(np.searchsorted(times[begin:end], last))
            among, waiting = open_[begin:inside], np.concatenate([left_over, open_[inside:end]])
            if ttl is not None:
                waiting = waiting[asked_at[waiting] - age <= last]
            end = begin
            if len(among) + len(waiting) == 0:
                left_over = waiting
                if end == 0:
                    return
                continue
            table = self._read(unit, self._searched(names), keys=names)
            codes = keys.find([table.column(n) for n in names])
            candidates = self._candidates(table, codes)
            time: Integers | None = None if self._time is None else _micros(table.column(self._time))[0]
            is_sorted = time is None or not np.any(time[1:] < time[:-1])
            if time is not None and not is_sorted:
                candidates = candidates[np.argsort(time[candidates], kind="stable")]
            moments = time
            if not is_sorted or len(candidates) < len(codes):  # else all rows, in order: there is nothing to copy
                codes, moments = codes[candidates], None if time is None else time[candidates]
            won = np.full(len(among), -1)
            if moments is None:
                newest[codes] = candidates
            else:
                won = _latest_before(codes, moments, candidates, keys.codes[among], at[among], newest)
            # Who is later than all of this row group gets its newest row of the key.
            asked, got = np.concatenate([among, waiting]), np.concatenate([won, newest[keys.codes[waiting]]])
            newest.fill(-1)
            left_over = asked[got < 0]
            asked, got = asked[got >= 0], got[got >= 0]
            if time is not None and ttl is not None:
                fresh = asked_at[asked] - time[got] <= age
                asked, got = asked[fresh], got[fresh]
            if len(asked):
                order = np.argsort(got, kind="stable")
                yield asked[order], self._values(unit, table, got[order])

    def _searched(self, names: list[str]) -> list[str]:
        condition = self.source.row_filter
        filtered = [c.name for c in condition.columns()] if condition is not None else []
        return list(dict.fromkeys([*names, *([self._time] if self._time else []), *filtered]))

    def _candidates(self, table: pa.Table, codes: Integers) -> Integers:
        wanted = codes >= 0
        if self.source.row_filter is not None:
            wanted &= sql.meets(self.source.row_filter, table)
        return np.flatnonzero(wanted)

    def _units(self) -> Iterator[list[_Piece]]:
        """Row groups from the newest to the oldest; those that overlap in time, and small ones, together."""
        if isinstance(self.files, pa.Table):
            raise NotReproducible("Only the left-most table of a query may be a frame.")
        with _readable():
            pieces = [p for path in self.files for p in _pieces(path, self._time)]
        pieces.sort(key=lambda p: (p.high, p.low), reverse=True)
        unit: list[_Piece] = []
        for piece in pieces:
            if unit and piece.high <= min(p.low for p in unit) and sum(p.rows for p in unit) >= ROWS_AT_ONCE // 2:
                yield unit[::-1]
                unit = []
            unit.append(piece)
        if unit:
            yield unit[::-1]

    def _read(self, unit: Sequence[_Piece], columns: Sequence[str], *, keys: Sequence[str] = ()) -> pa.Table:
        import pyarrow.parquet as pq

        types = {f.name: f.type for f in self.source.definition.features}
        texts = [n for n in keys if pa.types.is_string(types[n])]  # each different text is then looked up once
        tables = []
        for piece in unit:
            file = pq.ParquetFile(piece.path, metadata=piece.footer, memory_map=True, read_dictionary=texts)
            names = set(file.schema_arrow.names)
            there = [n for n in columns if n in names]
            read = file.read_row_groups([piece.number], columns=there, use_threads=self.alone)
            tables.append(
                pa.table(
                    {
                        n: read.column(n) if n in names else pa.chunked_array([pa.nulls(piece.rows, types[n])])
                        for n in columns
                    }
                )
            )
        return tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="permissive")

    def _values(self, unit: Sequence[_Piece], searched: pa.Table, rows: Integers) -> pa.Table:
        """The wanted columns of the winning rows, which come in ascending order."""
        schema = pa.schema([(f.name, f.type) for f in self.source.definition.features if f.name in self.columns])
        known = {
            n: searched.column(n).cast(schema.field(n).type).take(pa.array(rows))
            for n in schema.names if n in searched.column_names
        }  # fmt: skip
        others = [n for n in schema.names if n not in known]
        if others:
            ends = np.cumsum([p.rows for p in unit])
            cuts = np.searchsorted(rows, [0, *ends])
            parts = [
                self._read([piece], others).take(pa.array(rows[a:b] - (stop - piece.rows)))
                for piece, stop, a, b in zip(unit, ends, cuts, cuts[1:], strict=False)
                if b > a
            ]
            read = pa.concat_tables(parts, promote_options="permissive")
            known |= {n: read.column(n) for n in others}
        return pa.Table.from_arrays([known[f.name].cast(f.type) for f in schema], schema=schema)


class _Keys:
    """The keys of the spine's rows as whole numbers without gaps, and the same numbers for keys of other tables.

    `codes` has one number for each row, -1 where a part of its key is null: null keys match nothing.
    """

    def __init__(self, columns: Sequence[pa.ChunkedArray]) -> None:
        encoded = [_plain(c).combine_chunks().dictionary_encode() for c in columns]
        self._parts = [_KeyPart(e.dictionary) for e in encoded]
        combined = self._combined([_filled(e.indices) for e in encoded])
        self._known: Integers | None = None
        if len(columns) > 1:
            self._known = np.unique(combined[combined >= 0])
            combined = self._dense(combined)
        self.codes = combined

    def __len__(self) -> int:
        return len(self._parts[0].values) if self._known is None else len(self._known)

    def find(self, columns: Sequence[pa.ChunkedArray]) -> Integers:
        """The number of each row's key, -1 for keys that no row of the spine has."""
        combined = self._combined([part.find(c) for part, c in zip(self._parts, columns, strict=True)])
        return combined if self._known is None else self._dense(combined)

    def _combined(self, numbers: Sequence[Integers]) -> Integers:
        combined = numbers[0]
        for part, number in zip(self._parts[1:], numbers[1:], strict=True):
            combined = np.where((combined < 0) | (number < 0), -1, combined * len(part.values) + number)
        return combined

    def _dense(self, combined: Integers) -> Integers:
        known = self._known
        if known is None or not len(known):
            return np.full(len(combined), -1)
        place = np.minimum(np.searchsorted(known, combined), len(known) - 1)
        return np.where(known[place] == combined, place, -1)


class _KeyPart:
    """The different values of one key column; a value's number is its place among them."""

    def __init__(self, values: pa.Array) -> None:
        self.values = values
        self._base = 0
        self._direct: Integers | None = None
        if pa.types.is_integer(values.type) and len(values):
            whole = values.to_numpy()
            low, high = int(whole.min()), int(whole.max())
            if high - low < max(4 * len(whole), ROWS_AT_ONCE):  # looking a number up in a table beats hashing it
                self._base = low
                self._direct = np.full(high - low + 1, -1)
                self._direct[whole - low] = np.arange(len(whole))

    def find(self, column: pa.ChunkedArray) -> Integers:
        """The number of each value, -1 for values that are not among them."""
        if pa.types.is_dictionary(column.type):
            parts = [_with_null(self._find(c.dictionary))[_filled(c.indices)] for c in column.chunks]
            return np.concatenate(parts) if parts else np.empty(0, np.int64)
        return self._find(_plain(column))

    def _find(self, column: pa.ChunkedArray | pa.Array) -> Integers:
        if self._direct is None or column.null_count:
            return _filled(pc.index_in(column, self.values.cast(column.type)))
        # Wrapping around is harmless: what is too far away to subtract lands outside of the table as well.
        place = (column.to_numpy() - self._base).view(np.uint64)
        outside = place >= len(self._direct)
        if not outside.any():
            return self._direct[place]
        place[outside] = 0
        found = self._direct[place]
        found[outside] = -1
        return found


def _with_null(numbers: Integers) -> Integers:
    """With one more at the end, so that -1, which stands for null, finds -1."""
    return np.append(numbers, -1)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whole numbers compare whatever their width."""
    return column.cast(pa.int64()) if pa.types.is_integer(column.type) else column


def _filled(numbers: pa.Array | pa.ChunkedArray) -> Integers:
    return pc.fill_null(numbers.cast(pa.int64()), -1).to_numpy()


def _micros(times: pa.ChunkedArray) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Microseconds since 1970, and which of them are known."""
    numbers = times.cast(pa.int64())
    if not numbers.null_count:
        return numbers.to_numpy(), np.ones(len(numbers), dtype=bool)
    return pc.fill_null(numbers, 0).to_numpy(), pc.is_valid(numbers).to_numpy()


def _latest_before(
    codes: Integers, times: Integers, rows: Integers, asked: Integers, at: Integers, newest: Integers
) -> Integers:
    """For each question (code, moment) the last of `rows` with that code at or before the moment, or -1.

    From the oldest to the newest, in blocks that a processor's cache holds: a question looks among the rows of its own
    block, of which only those of the block's questions are sorted, else takes the newest row of all blocks before.

    Args:
        codes, times: those of the rows, which are in order of time.
        asked, at: codes and moments of the questions, in order of the moment.
        newest: for each code -1; here it comes to hold the newest row so far.
    """
    won = np.full(len(asked), -1)
    is_asked = np.zeros(len(newest), dtype=bool)
    begin = 0
    for first in range(0, len(rows), ROWS_SEARCHED):
        stop = first + ROWS_SEARCHED
        end = begin + int(np.searchsorted(at[begin:], times[stop])) if stop < len(rows) else len(asked)
        if end > begin:
            mine = asked[begin:end]
            is_asked[mine] = True
            chosen = first + np.flatnonzero(is_asked[codes[first:stop]])
            is_asked[mine] = False
            # Code and place in one number: sorted, the rows of a code stand together and in order of time.
            place = (codes[chosen] << _POSITION_BITS) | np.arange(len(chosen))
            place.sort()
            question = (mine << _POSITION_BITS) | np.searchsorted(times[chosen], at[begin:end], side="right")
            before = np.searchsorted(place, question) - 1
            found = place[before] if len(place) else np.full(len(mine), -1)
            hit = (before >= 0) & (found >> _POSITION_BITS == mine)
            won[begin:end] = newest[mine]
            won[begin:end][hit] = rows[chosen[found[hit] & ((1 << _POSITION_BITS) - 1)]]
            begin = end
        newest[codes[first:stop]] = rows[first:stop]  # of several rows of a code the last one assigned stays
    return won


def _pieces(path: str, time: str | None) -> list[_Piece]:
    import pyarrow.parquet as pq

    footer = pq.read_metadata(path, memory_map=True)
    leaf = None if time is None else _leaf(footer.schema.to_arrow_schema(), time)
    pieces = []
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        known = None if leaf is None else group.column(leaf).statistics
        if time is None:
            low = high = 0
        elif known is not None and known.has_min_max:
            low, high = known.min_raw, known.max_raw
        else:
            low, high = _FIRST, _LAST
        pieces.append(_Piece(path, footer, number, group.num_rows, low, high))
    return pieces


def _leaf(schema: pa.Schema, name: str) -> int:
    """Where a column stands among a file's physical columns: those of structs are several."""
    return sum(_leaves(schema.field(i).type) for i in range(schema.get_field_index(name)))


def _leaves(dtype: pa.DataType) -> int:
    if pa.types.is_struct(dtype):
        return sum(_leaves(f.type) for f in dtype)
    return _leaves(dtype.value_type) if pa.types.is_list(dtype) else 1


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise NotReproducible(
            f"A data file of the feature store cannot be read: {error}. "
            "Was it deleted by hand or by another tool's vacuum?"
        ) from error
