"""Offline queries on one machine: SQL over the Parquet files of pinned Delta versions, by DuckDB."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from featurestore.errors import FeatureStoreError, NotReproducible
from featurestore.point_in_time import Plan, Source
from featurestore.query import Column, Combined, Comparison, Filter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duckdb import DuckDBPyConnection

_lock = threading.Lock()
_databases: dict[tuple[str, int], DuckDBPyConnection] = {}


def quote(name: str) -> str:
    """A name as an SQL identifier, whatever characters it holds."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A text as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


@contextmanager
def connection(memory_limit: str = "4GB", threads: int = 0) -> Iterator[DuckDBPyConnection]:
    """A connection of this process's in-memory database; errors come out as ours.

    Raises:
        NotReproducible: a data file that the query needs is gone.
        FeatureStoreError: anything else that DuckDB refuses.
    """
    import duckdb

    with _lock:
        database = _databases.get((memory_limit, threads))
        if database is None:
            # The asof setting: a source of unknown size would otherwise get a nested loop that does not end.
            database = duckdb.connect(config={"memory_limit": memory_limit, "autoinstall_known_extensions": False})
            database.execute("SET TimeZone = 'UTC'; SET asof_loop_join_threshold = 0")
            if threads:
                database.execute(f"SET threads = {threads:d}")
            _databases[memory_limit, threads] = database
        cursor = database.cursor()
    try:
        cursor.execute("SET TimeZone = 'UTC'")
        yield cursor
    except duckdb.IOException as error:
        raise NotReproducible(
            f"A data file of the feature store cannot be read: {error}. "
            "Was it deleted by hand or by another tool's vacuum?"
        ) from error
    except duckdb.Error as error:
        raise FeatureStoreError(f"The offline query failed: {error}") from error
    finally:
        cursor.close()


def scan(files: Sequence[str], *, evolved: bool = False, place: str | None = None) -> str:
    """The table expression that reads Parquet files; `evolved`: older files may lack newer columns.

    `place` names an extra column with the path of each row's file.
    """
    options = "".join(
        [", union_by_name = true" if evolved else "", f", filename = {text(place)}" if place is not None else ""]
    )
    return f"read_parquet([{', '.join(text(f) for f in files)}]{options})"


def run(
    sql: str, tables: Mapping[str, pa.Table] | None = None, *, memory_limit: str = "4GB", threads: int = 0
) -> pa.Table:
    """Run one statement over registered Arrow tables; times come back as UTC microseconds."""
    with connection(memory_limit, threads) as con:
        for name, table in (tables or {}).items():
            con.register(name, table)
        return con.sql(sql).to_arrow_table()


def as_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the schema's columns in its order and types (DuckDB widens none, but loses nullability)."""
    return pa.Table.from_arrays([table.column(f.name).cast(f.type) for f in schema], schema=schema)


def keep_last(rows: pa.Table, identity: Sequence[str]) -> pa.Table:
    """The rows in order, of equal identities only the last one."""
    numbered = rows.select(list(dict.fromkeys(identity))).append_column("__row", _numbers(rows))
    keys = ", ".join(quote(c) for c in identity)
    last = run(f"SELECT max(__row) AS kept FROM numbered GROUP BY {keys} ORDER BY kept", {"numbered": numbered})
    return rows if last.num_rows == rows.num_rows else rows.take(last.column("kept"))


def _numbers(rows: pa.Table) -> pa.Array:
    return pa.array(np.arange(rows.num_rows, dtype=np.int64))


def _within(order: str, low: Any, high: Any) -> str:
    return f"{quote(order)} BETWEEN {literal(low)} AND {literal(high)}"


def literal(value: Any) -> str:
    """A Python value as an SQL literal."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value!r}::DOUBLE" if value == value and abs(value) != float("inf") else f"'{value}'::DOUBLE"
    if isinstance(value, datetime):
        return f"TIMESTAMPTZ '{value.isoformat(sep=' ')}'"
    if isinstance(value, date):
        return f"DATE '{value.isoformat()}'"
    if isinstance(value, Decimal):
        return f"{value}::DECIMAL(38, {max(-int(value.as_tuple().exponent), 0)})"
    if isinstance(value, bytes):
        return "'" + "".join(f"\\x{b:02X}" for b in value) + "'::BLOB"
    return text(str(value))


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
    stored = f"SELECT {columns}, __file FROM {scan(files, evolved=True, place='__file')}"
    sql = (
        f"WITH stored AS ({stored} WHERE {_within(order, low, high)}) "
        f"SELECT CASE WHEN s.__file IS NULL THEN 'new' WHEN {differs} THEN 'different' ELSE 'same' END AS status, "
        f"s.__file AS place FROM batch b LEFT JOIN stored s ON {on} ORDER BY b.__row"
    )
    return run(sql, {"batch": rows.append_column("__row", _numbers(rows))})


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
        f"WITH o AS ({_padded(old)}), n AS ({_padded(new)}) SELECT {columns}, CASE WHEN n.{key} IS NULL THEN 'delete' "
        f"WHEN o.{key} IS NULL THEN 'insert' ELSE 'update' END AS __change FROM o FULL JOIN n ON {on} "
        f"WHERE o.{key} IS NULL OR n.{key} IS NULL OR {differs or 'FALSE'} ORDER BY {', '.join(map(quote, order))}"
    )
    result = run(sql, {"no_rows": schema.empty_table()})
    return as_schema(result, schema.append(pa.field("__change", pa.string(), nullable=False)))


def _padded(files: Sequence[str]) -> str:
    """The rows of some files with every column of the registered `no_rows`; there may be no files."""
    return "SELECT * FROM no_rows" + (f" UNION ALL BY NAME FROM {scan(files, evolved=True)}" if files else "")


def newest_rows(
    files: Sequence[str], keys: pa.Table | None, schema: pa.Schema, *, by: Sequence[str], order: str
) -> pa.Table:
    """Of each key the stored row with the largest `order`; of the keys that `keys` lists, or of all.

    `by` names the key columns, of the files as of `keys`. A key that has no row gives none.
    """
    on = " AND ".join(f"s.{quote(c)} = k.{quote(c)}" for c in by)
    columns = ", ".join(quote(n) for n in schema.names)
    sql = (
        f"SELECT {columns} FROM ({_padded(files)}) s {f'SEMI JOIN keys k ON {on} ' if keys is not None else ''}"
        f"QUALIFY row_number() OVER (PARTITION BY {', '.join(map(quote, by))} ORDER BY {quote(order)} DESC) = 1"
    )
    tables = {"no_rows": schema.empty_table()} | ({} if keys is None else {"keys": keys})
    return as_schema(run(sql, tables), schema)


def where_found(files: Sequence[str], keys: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The distinct values of some columns, `filename` among them if asked for, over the rows with one of the keys."""
    if not files:
        return pa.table({c: pa.array([], pa.string()) for c in columns})
    on = " AND ".join(f"s.{quote(c)} = k.{quote(c)}" for c in keys.column_names)
    names = ", ".join(quote(c) for c in columns)
    read = f"read_parquet([{', '.join(map(text, files))}], union_by_name = true, filename = true)"
    return run(f"SELECT DISTINCT {names} FROM {read} s SEMI JOIN keys k ON {on}", {"keys": keys})


def without(rows: pa.Table, others: pa.Table) -> pa.Table:
    """The rows that are not among the others; both have the same columns, without nulls."""
    on = " AND ".join(f"r.{quote(c)} = o.{quote(c)}" for c in others.column_names)
    return as_schema(run(f"FROM r ANTI JOIN o ON {on}", {"r": rows, "o": others}), rows.schema)


def statement(
    plan: Plan,
    tables: Sequence[str],
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    ordered: bool = True,
) -> str:
    """The SQL of a plan; `tables` are the table expressions of its sources, in order."""
    needed = plan.needed_columns()
    spine = plan.spine
    order = [*([spine.event_time] if spine.event_time else []), *spine.primary_key]
    parts = []
    for place, (source, table) in enumerate(zip(plan.sources, tables, strict=True)):
        columns = ", ".join(f"{quote(c)} AS {_inner(place, c)}" for c in needed[place])
        conditions = [condition_sql(source.row_filter, quote_plain)] if source.row_filter is not None else []
        if place == 0 and spine.event_time is not None:
            time = quote(spine.event_time)
            conditions += [f"{time} >= {literal(start)}"] if start is not None else []
            conditions += [f"{time} < {literal(end)}"] if end is not None else []
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        newest = ""
        if source.match == "newest" and place:
            keys = ", ".join(quote(r) for _, r in source.keys)
            time = quote(str(source.definition.event_time))
            newest = f" QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {time} DESC) = 1"
        parts.append(f"s{place} AS (SELECT {columns} FROM {table}{where}{newest})")
    by = ", ".join(_inner(0, c) for c in order) or "(SELECT NULL)"
    parts.append(f"j0 AS (SELECT row_number() OVER (ORDER BY {by}) AS __row, * FROM s0)")
    for place, source in enumerate(plan.sources[1:], start=1):
        parts.append(_join(plan, source, place, needed[place]))
    last = f"j{len(plan.sources) - 1}"
    outputs = ", ".join(f"{_inner(o.source, o.column)} AS {quote(o.name)}" for o in plan.outputs)
    where = ""
    if plan.result_filter is not None:
        where = f"\nWHERE {condition_sql(plan.result_filter, lambda c: _inner(plan.source_of(c), c.name))}"
    tail = ("\nORDER BY __row" if ordered else "") + (f" LIMIT {plan.limit:d}" if plan.limit is not None else "")
    return "WITH " + ",\n     ".join(parts) + f"\nSELECT {outputs} FROM {last}{where}{tail}"


def _inner(place: int, column: str) -> str:
    return quote(f"{place}.{column}")


def quote_plain(column: Column) -> str:
    """A filter's column inside its own table."""
    return quote(column.name)


def _join(plan: Plan, source: Source, place: int, columns: Sequence[str]) -> str:
    left, right = f"j{place - 1}", f"s{place}"
    on = [f"{left}.{_inner(source.parent, a)} = {right}.{_inner(place, b)}" for a, b in source.keys]
    how = "JOIN" if source.inner else "LEFT JOIN"
    fresh = ""
    if source.match == "as of":
        spine_time = f"{left}.{_inner(0, str(plan.spine.event_time))}"
        time = f"{right}.{_inner(place, str(source.definition.event_time))}"
        on.append(f"{spine_time} >= {time}")
        how = f"ASOF {how}"
        if source.definition.ttl is not None:
            age = source.definition.ttl // timedelta(microseconds=1)
            fresh = f"epoch_us({spine_time}) - epoch_us({time}) <= {age}"
    if fresh and not source.inner:
        picked = ", ".join(
            f"CASE WHEN {fresh} THEN {right}.{_inner(place, c)} END AS {_inner(place, c)}" for c in columns
        )
    else:
        picked = ", ".join(f"{right}.{_inner(place, c)}" for c in columns)
    where = f" WHERE {fresh}" if fresh and source.inner else ""
    return f"j{place} AS (SELECT {left}.*, {picked} FROM {left} {how} {right} ON {' AND '.join(on)}{where})"


_SQL_OPERATORS = {"==": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">=", "like": "LIKE"}


def condition_sql(condition: Filter, name: Callable[[Column], str]) -> str:
    """A filter as an SQL condition; `name` says how each of its columns is called there."""
    if isinstance(condition, Combined):
        parts = [condition_sql(p, name) for p in condition.parts]
        return f"(NOT {parts[0]})" if condition.how == "not" else f"({f' {condition.how.upper()} '.join(parts)})"
    if not isinstance(condition, Comparison):
        raise FeatureStoreError(f"{condition!r} is not a filter this engine knows.")
    column, value = name(condition.column), condition.value
    if condition.operator == "is_null":
        return f"({column} IS NULL)"
    if condition.operator == "in":
        return f"({column} IN ({', '.join(literal(v) for v in value)}))" if value else "FALSE"
    if condition.operator == "between":
        return f"({column} BETWEEN {literal(value[0])} AND {literal(value[1])})"
    return f"({column} {_SQL_OPERATORS[condition.operator]} {literal(value)})"


def execute(
    plan: Plan, inputs: Sequence[Sequence[str] | pa.Table], *, start: datetime | None = None,
    end: datetime | None = None, ordered: bool = True, memory_limit: str = "4GB", threads: int = 0,
) -> pa.Table:  # fmt: skip
    """Run a plan over the Parquet files (or an Arrow table) of each source.

    Returns the plan's outputs, in order of the spine's event time and key. Nothing is read of columns not needed.
    """
    if plan.as_known:
        raise FeatureStoreError("as_known=True is not possible with this engine yet. Leave it out.")
    registered: dict[str, pa.Table] = {}
    tables = []
    for place, (source, given) in enumerate(zip(plan.sources, inputs, strict=True)):
        if isinstance(given, pa.Table) or not given:
            empty = pa.schema([(f.name, f.type) for f in source.definition.features]).empty_table()
            registered[f"t{place}"] = given if isinstance(given, pa.Table) else empty
            tables.append(f"t{place}")
        else:
            tables.append(scan(given, evolved=True))
    sql = statement(plan, tables, start=start, end=end, ordered=ordered)
    result = run(sql, registered, memory_limit=memory_limit, threads=threads)
    return as_schema(result, pa.schema([(o.name, o.feature.type) for o in plan.outputs]))


def spine(
    plan: Plan, given: Sequence[str] | pa.Table, columns: Sequence[str], *, start: datetime | None = None,
    end: datetime | None = None, ordered: bool = True, limit: int | None = None, memory_limit: str = "4GB",
    threads: int = 0,
) -> pa.Table:  # fmt: skip
    """The rows of a plan's first source, filtered and in order, that the other sources are matched to."""
    definition = plan.spine
    empty = pa.schema([(f.name, f.type) for f in definition.features]).empty_table()
    frame = given if isinstance(given, pa.Table) else None if given else empty
    table = scan(given, evolved=True) if frame is None else "spine"
    time = definition.event_time
    conditions = [] if plan.sources[0].row_filter is None else [condition_sql(plan.sources[0].row_filter, quote_plain)]
    if time is not None:
        conditions += [f"{quote(time)} >= {literal(start)}"] if start is not None else []
        conditions += [f"{quote(time)} < {literal(end)}"] if end is not None else []
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    by = ", ".join(quote(c) for c in [*([time] if time else []), *definition.primary_key]) if ordered else ""
    tail = (f" ORDER BY {by}" if by else "") + (f" LIMIT {limit:d}" if limit is not None else "")
    picked = ", ".join(quote(c) for c in columns) or "1 AS __nothing"
    return run(
        f"SELECT {picked} FROM {table}{where}{tail}", {} if frame is None else {"spine": frame},
        memory_limit=memory_limit, threads=threads,
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
    condition = condition_sql(plan.result_filter, lambda c: _inner(plan.source_of(c), c.name))
    found = run(f"SELECT __row FROM result WHERE {condition}", {"result": rows.append_column("__row", _numbers(rows))})
    return _flags(found, rows.num_rows)


def _flags(found: pa.Table, rows: int) -> np.ndarray:
    flags = np.zeros(rows, dtype=bool)
    flags[found.column("__row").to_numpy()] = True
    return flags
