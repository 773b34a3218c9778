"""Offline queries on one machine: SQL over the Parquet files of pinned Delta versions, by DuckDB."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from featurestore.engines.sql import COMMITTED_AT, REMOVED_AT, condition_sql, statement
from featurestore.engines.sql import literal as literal
from featurestore.engines.sql import quote as quote
from featurestore.engines.sql import text as text
from featurestore.errors import FeatureStoreError, NotReproducible
from featurestore.point_in_time import Plan
from featurestore.query import Column, Filter
from featurestore.schema import TIMESTAMP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duckdb import DuckDBPyConnection

_lock = threading.Lock()
_databases: dict[tuple[str, int, str | None], DuckDBPyConnection] = {}

_spills = itertools.count()
_DATABASES = 4
"""Settings, and so databases, that one process keeps at once: each holds threads and a buffer pool."""


class Past(NamedTuple):
    """A file that is, or was until `removed`, part of a table."""

    path: str
    removed: datetime | None


Input: TypeAlias = Sequence[str] | Sequence[Past] | pa.Table
"""What a source of a plan is read from."""


@contextmanager
def connection(
    memory_limit: str = "4GB", threads: int = 0, temp_directory: str | None = None
) -> Iterator[DuckDBPyConnection]:
    """A connection of this process's in-memory database; errors come out as ours.

    With a folder to spill to, rows come in no order but that of an ORDER BY, so that large results need not be held.

    Raises:
        NotReproducible: a data file that the query needs is gone.
        FeatureStoreError: anything else that DuckDB refuses.
    """
    import duckdb

    with _lock:
        database = _databases.get((memory_limit, threads, temp_directory))
        if database is None:
            # The asof setting: a source of unknown size would otherwise get a nested loop that does not end.
            database = duckdb.connect(config={"memory_limit": memory_limit, "autoinstall_known_extensions": False})
            database.execute("SET TimeZone = 'UTC'; SET asof_loop_join_threshold = 0")
            if threads:
                database.execute(f"SET threads = {threads:d}")
            if temp_directory is not None:
                database.execute(f"SET temp_directory = {text(spill_folder(temp_directory))}")
                database.execute("SET preserve_insertion_order = false")
            while len(_databases) >= _DATABASES:
                del _databases[next(iter(_databases))]  # closes when its last cursor does
            _databases[memory_limit, threads, temp_directory] = database
        cursor = database.cursor()
    try:
        cursor.execute("SET TimeZone = 'UTC'")
        with _translated():
            yield cursor
    finally:
        cursor.close()


def spill_folder(temp_directory: str) -> str:
    """A folder for one database to spill to, which DuckDB makes when it must and then removes.

    Each database needs one of its own, because DuckDB gives the files in it the same names everywhere. Where the home
    may only be read, it lies in the system's folder for temporary files.
    """
    name = f"duckdb-{os.getpid()}-{next(_spills)}"
    try:
        os.makedirs(temp_directory, exist_ok=True)
    except OSError:
        return str(Path(tempfile.gettempdir()) / name)
    return f"{temp_directory}/{name}"


def sweep(temp_directory: str) -> None:
    """Remove what queries of processes that were killed had spilled to a folder."""
    for left in Path(temp_directory).glob("duckdb-*"):
        try:
            os.kill(int(left.name.split("-")[1]), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except PermissionError:
            continue  # it lives, and belongs to somebody else


@contextmanager
def temporary(folder: Path, *, memory_limit: str, threads: int) -> Iterator[DuckDBPyConnection]:
    """A database of its own for one large task, which spills into a folder; errors come out as ours."""
    import duckdb

    config: dict[str, Any] = {"memory_limit": memory_limit, "autoinstall_known_extensions": False}
    with _translated(), duckdb.connect(config={**config, **({"threads": threads} if threads else {})}) as database:
        database.execute(f"SET TimeZone = 'UTC'; SET temp_directory = {text(str(folder))}")
        yield database


@contextmanager
def _translated() -> Iterator[None]:
    import duckdb

    try:
        yield
    except duckdb.IOException as error:
        if "No space left" in str(error) or "write" in str(error):
            raise FeatureStoreError(
                f"The offline query could not write: {error}. Check that the disk has room. Nothing was committed."
            ) from error
        raise NotReproducible(
            f"A data file of the feature store cannot be read: {error}. "
            "Was it deleted by hand or by another tool's vacuum?"
        ) from error
    except duckdb.Error as error:
        raise FeatureStoreError(f"The offline query failed: {error}") from error


def scan(files: Sequence[str], *, evolved: bool = False, place: str | None = None) -> str:
    """The table expression that reads Parquet files; `evolved`: older files may lack newer columns.

    `place` names an extra column with the path of each row's file.
    """
    # DuckDB would take any `name=value` folder above a file for a partition and put its value into that column.
    options = ", hive_partitioning = false" + (", union_by_name = true" if evolved else "")
    options += f", filename = {text(place)}" if place is not None else ""
    return f"read_parquet([{', '.join(text(f) for f in files)}]{options})"


def run(
    sql: str, tables: Mapping[str, pa.Table] | None = None, *, memory_limit: str = "4GB", threads: int = 0,
    temp_directory: str | None = None,
) -> pa.Table:  # fmt: skip
    """Run one statement over registered Arrow tables; times come back as UTC microseconds."""
    with connection(memory_limit, threads, temp_directory) as con:
        for name, table in (tables or {}).items():
            con.register(name, table)
        return con.sql(sql).to_arrow_table()


def as_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the schema's columns in its order and types (DuckDB widens none, but loses nullability)."""
    return pa.Table.from_arrays([table.column(f.name).cast(f.type) for f in schema], schema=schema)


def _numbers(rows: pa.Table) -> pa.Array:
    return pa.array(np.arange(rows.num_rows, dtype=np.int64))


def _within(order: str, low: Any, high: Any) -> str:
    return f"{quote(order)} BETWEEN {literal(low)} AND {literal(high)}"


def rows_of(files: Sequence[str], schema: pa.Schema, *, where: str = "TRUE") -> pa.Table:
    """The rows of some files that meet a condition, with the schema's columns; those a file lacks are null."""
    columns = ", ".join(quote(n) for n in schema.names)
    hidden = schema if COMMITTED_AT in schema.names else schema.append(pa.field(COMMITTED_AT, TIMESTAMP))
    sql = f"SELECT {columns} FROM ({padded(files)}) WHERE {where}"
    return as_schema(run(sql, {"no_rows": hidden.empty_table()}), schema)


def compare(
    files: Sequence[str], rows: pa.Table, *, identity: Sequence[str], order: str, low: Any, high: Any
) -> pa.Table:
    """For each row, in order, its `status` beside the stored row of its identity and the `place` (file) of that row.

    The status is "new" (and the place null), "same" or "different".
    """
    values = [c for c in rows.column_names if c not in identity]
    on = " AND ".join(f"s.{quote(c)} = b.{quote(c)}" for c in identity)
    differs = " OR ".join(f"s.{quote(c)} IS DISTINCT FROM b.{quote(c)}" for c in values) or "FALSE"
    columns = ", ".join(quote(c) for c in rows.column_names)
    stored = f"SELECT {columns}, __file FROM ({padded(files, place='__file')})"
    sql = (
        f"WITH stored AS ({stored} WHERE {_within(order, low, high)}) "
        f"SELECT CASE WHEN s.__file IS NULL THEN 'new' WHEN {differs} THEN 'different' ELSE 'same' END AS status, "
        f"s.__file AS place FROM batch b LEFT JOIN stored s ON {on} ORDER BY b.__row"
    )
    return run(sql, {"batch": rows.append_column("__row", _numbers(rows)), "no_rows": rows.schema.empty_table()})


def rows_without(rows: pa.Table, gone: pa.Table) -> pa.Table:
    """The rows but for those whose columns equal a row of `gone`, in their order."""
    on = " AND ".join(f"s.{quote(c)} = g.{quote(c)}" for c in gone.column_names)
    numbered = rows.select(gone.column_names).append_column("__row", _numbers(rows))
    kept = run(f"SELECT __row FROM s ANTI JOIN g ON {on} ORDER BY __row", {"s": numbered, "g": gone})
    return rows if kept.num_rows == rows.num_rows else rows.take(kept.column("__row"))


def difference(
    old: Sequence[str], new: Sequence[str], schema: pa.Schema, *, identity: Sequence[str], order: Sequence[str]
) -> pa.Table:
    """The rows that differ between two sets of files, with `__change`: "insert", "update" or "delete" (last values).

    When a row was committed is not compared. Older files may lack columns: they are null there.
    """
    key = quote(identity[0])
    hidden = {*identity, "__committed_at"}
    differs = " OR ".join(f"o.{quote(c)} IS DISTINCT FROM n.{quote(c)}" for c in schema.names if c not in hidden)
    columns = ", ".join(
        f"CASE WHEN n.{key} IS NULL THEN o.{quote(c)} ELSE n.{quote(c)} END AS {quote(c)}" for c in schema.names
    )
    on = " AND ".join(f"o.{quote(c)} = n.{quote(c)}" for c in identity)
    sql = (
        f"WITH o AS ({padded(old)}), n AS ({padded(new)}) SELECT {columns}, CASE WHEN n.{key} IS NULL THEN 'delete' "
        f"WHEN o.{key} IS NULL THEN 'insert' ELSE 'update' END AS __change FROM o FULL JOIN n ON {on} "
        f"WHERE o.{key} IS NULL OR n.{key} IS NULL OR {differs or 'FALSE'} ORDER BY {', '.join(map(quote, order))}"
    )
    result = run(sql, {"no_rows": schema.empty_table()})
    return as_schema(result, schema.append(pa.field("__change", pa.string(), nullable=False)))


def padded(files: Sequence[str], *, place: str | None = None) -> str:
    """The rows of some files with every column of the registered `no_rows`; there may be no files. See `scan`."""
    rows = f" UNION ALL BY NAME FROM {scan(files, evolved=True, place=place)}" if files else ""
    return f"SELECT * FROM no_rows{rows}"


def sorted_rows(
    files: Sequence[str], schema: pa.Schema, *, by: Sequence[str], memory_limit: str, threads: int, temp_directory: str
) -> Iterator[pa.Table]:
    """The rows of some files in order, in batches; what does not fit into memory is sorted on disk."""
    columns = ", ".join(quote(n) for n in schema.names)
    with connection(memory_limit, threads, temp_directory) as con:
        con.register("no_rows", schema.empty_table())
        rows = con.sql(f"SELECT {columns} FROM ({padded(files)}) ORDER BY {', '.join(map(quote, by))}")
        for batch in rows.to_arrow_reader(1 << 17):
            yield as_schema(pa.Table.from_batches([batch]), schema)


def newest_rows(
    files: Sequence[str], keys: pa.Table | None, schema: pa.Schema, *, by: Sequence[str], order: str
) -> pa.Table:
    """Of each key the stored row with the largest `order`; of the keys that `keys` lists, or of all.

    `by` names the key columns, of the files as of `keys`. A key that has no row gives none.
    """
    on = " AND ".join(f"s.{quote(c)} = k.{quote(c)}" for c in by)
    columns = ", ".join(quote(n) for n in schema.names)
    sql = (
        f"SELECT {columns} FROM ({padded(files)}) s {f'SEMI JOIN keys k ON {on} ' if keys is not None else ''}"
        f"QUALIFY row_number() OVER (PARTITION BY {', '.join(map(quote, by))} ORDER BY {quote(order)} DESC) = 1"
    )
    tables = {"no_rows": schema.empty_table()} | ({} if keys is None else {"keys": keys})
    return as_schema(run(sql, tables), schema)


def where_found(files: Sequence[str], keys: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The distinct values of some columns over the rows with one of the keys; `__file` is the path of a row's file."""
    if not files:
        return pa.table({c: pa.array([], pa.string()) for c in columns})
    on = " AND ".join(f"s.{quote(c)} = k.{quote(c)}" for c in keys.column_names)
    names = ", ".join(quote(c) for c in columns)
    # Files of a log may lack a key: its rows have none then.
    rows = f"SELECT * FROM no_keys UNION ALL BY NAME FROM {scan(files, evolved=True, place='__file')}"
    tables = {"keys": keys, "no_keys": keys.slice(0, 0)}
    return run(f"SELECT DISTINCT {names} FROM ({rows}) s SEMI JOIN keys k ON {on}", tables)


def quote_plain(column: Column) -> str:
    """A filter's column inside its own table."""
    return quote(column.name)


def execute(
    plan: Plan, inputs: Sequence[Input], *, start: datetime | None = None, end: datetime | None = None,
    ordered: bool = True, memory_limit: str = "4GB", threads: int = 0, temp_directory: str | None = None,
) -> pa.Table:  # fmt: skip
    """Run any plan over the Parquet files (or an Arrow table) of each source.

    Args:
        inputs: of a source whose past counts (`plan.is_as_known`) every file that was ever part of the table, with the
            time it was removed; or a table with the columns `__committed_at` and `__removed_at`.
    Returns the plan's outputs, in the plan's order. Nothing is read of columns not needed.
    """
    registered: dict[str, pa.Table] = {}
    tables = []
    for place, (source, given) in enumerate(zip(plan.sources, inputs, strict=True)):
        past = [pa.field(COMMITTED_AT, TIMESTAMP), pa.field(REMOVED_AT, TIMESTAMP)] if plan.is_as_known(place) else []
        if not past and any(o.source == place and o.column == COMMITTED_AT for o in plan.outputs):
            past = [pa.field(COMMITTED_AT, TIMESTAMP)]
        schema = pa.schema([*((f.name, f.type) for f in source.definition.features), *past])
        if isinstance(given, pa.Table):
            registered[f"t{place}"] = given
            tables.append(f"t{place}")
            continue
        # With the declared columns first, files may lack those that came later.
        registered[f"t{place}"] = schema.empty_table()
        parts = [f"SELECT * FROM t{place}"]
        live = [f for f in given if isinstance(f, str)] + [
            f.path for f in given if isinstance(f, Past) and f.removed is None
        ]
        gone = [f for f in given if isinstance(f, Past) and f.removed is not None]
        parts += [f"SELECT * FROM {scan(live, evolved=True)}"] if live else []
        if gone:
            paths, times = [f.path for f in gone], [f.removed for f in gone]
            registered[f"r{place}"] = pa.table({"__path": paths, REMOVED_AT: pa.array(times, TIMESTAMP)})
            files = scan(paths, evolved=True, place="__path")
            parts.append(f"SELECT * FROM {files} JOIN r{place} USING (__path)")
        tables.append(f"({' UNION ALL BY NAME '.join(parts)}) AS t{place}")
    result = run(
        statement(plan, tables, start=start, end=end, ordered=ordered), registered, memory_limit=memory_limit,
        threads=threads, temp_directory=temp_directory,
    )  # fmt: skip
    return as_schema(result, pa.schema([(o.name, o.feature.type) for o in plan.outputs]))


def spine(
    plan: Plan, given: Sequence[str] | pa.Table, columns: Sequence[str], *, start: datetime | None = None,
    end: datetime | None = None, ordered: bool = True, limit: int | None = None, memory_limit: str = "4GB",
    threads: int = 0, temp_directory: str | None = None,
) -> pa.Table:  # fmt: skip
    """The rows of a plan's first source, filtered and in order, that the other sources are matched to."""
    definition = plan.spine
    empty = pa.schema([(f.name, f.type) for f in definition.features]).empty_table()
    frame = given if isinstance(given, pa.Table) else None if given else empty
    table = f"({padded(given)}) AS spine" if frame is None and not isinstance(given, pa.Table) else "spine"
    time = definition.event_time
    conditions = [] if plan.sources[0].row_filter is None else [condition_sql(plan.sources[0].row_filter, quote_plain)]
    if time is not None:
        conditions += [f"{quote(time)} >= {literal(start)}"] if start is not None else []
        conditions += [f"{quote(time)} < {literal(end)}"] if end is not None else []
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    by = ", ".join(quote(c) for c in plan.order) if ordered else ""
    tail = (f" ORDER BY {by}" if by else "") + (f" LIMIT {limit:d}" if limit is not None else "")
    picked = ", ".join(quote(c) for c in columns) or "1 AS __nothing"
    return run(
        f"SELECT {picked} FROM {table}{where}{tail}", {"no_rows": empty} if frame is None else {"spine": frame},
        memory_limit=memory_limit, threads=threads, temp_directory=temp_directory,
    )  # fmt: skip


def meets(condition: Filter, rows: pa.Table) -> np.ndarray:
    """Whether each row meets a filter; a comparison with null does not."""
    found = run(
        f"SELECT __row FROM candidates WHERE {condition_sql(condition, quote_plain)}",
        {"candidates": rows.append_column("__row", _numbers(rows))},
    )
    return _flags(found, rows.num_rows)


def holds(plan: Plan, tables: Sequence[pa.Table], columns: Sequence[Sequence[str]]) -> np.ndarray:
    """Whether each row of the result meets the plan's filter; `tables` have one row of each source for each of them."""
    if plan.result_filter is None:
        return np.ones(tables[0].num_rows, dtype=bool)
    names = [f"{place}.{c}" for place, given in enumerate(columns) for c in given]
    rows = pa.table([t.column(c) for t, given in zip(tables, columns, strict=True) for c in given], names=names)
    condition = condition_sql(plan.result_filter, lambda c: quote(f"{plan.source_of(c)}.{c.name}"))
    found = run(f"SELECT __row FROM result WHERE {condition}", {"result": rows.append_column("__row", _numbers(rows))})
    return _flags(found, rows.num_rows)


def _flags(found: pa.Table, rows: int) -> np.ndarray:
    flags = np.zeros(rows, dtype=bool)
    flags[found.column("__row").to_numpy()] = True
    return flags
