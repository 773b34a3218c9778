"""Offline queries on one machine: SQL over the Parquet files of pinned Delta versions, by DuckDB."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurestore.errors import FeatureStoreError, NotReproducible
from featurestore.schema import TIMESTAMP

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
            f"A data file of the feature store cannot be read: {error}. Was it deleted by hand or by another tool's vacuum?"
        ) from error
    except duckdb.Error as error:
        raise FeatureStoreError(f"The offline query failed: {error}") from error
    finally:
        cursor.close()


def scan(files: Sequence[str], *, evolved: bool = False, partitioned: bool = False) -> str:
    """The table expression that reads Parquet files; `evolved`: older files may lack newer columns."""
    options = "".join([", union_by_name = true" if evolved else "", ", hive_partitioning = true" if partitioned else ""])
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
    numbered = rows.select(list(dict.fromkeys(identity))).append_column("__row", pa.array(range(0)) if not len(rows) else _numbers(rows))
    keys = ", ".join(quote(c) for c in identity)
    last = run(f"SELECT max(__row) AS kept FROM numbered GROUP BY {keys} ORDER BY kept", {"numbered": numbered})
    return rows if last.num_rows == rows.num_rows else rows.take(last.column("kept"))


def _numbers(rows: pa.Table) -> pa.Array:
    import numpy as np

    return pa.array(np.arange(rows.num_rows, dtype=np.int64))


def _within(order: str, low: Any, high: Any) -> str:
    return f"{quote(order)} BETWEEN {literal(low)} AND {literal(high)}"


def literal(value: Any) -> str:
    """A Python value as an SQL literal."""
    from datetime import date, datetime
    from decimal import Decimal

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
) -> pa.ChunkedArray:
    """For each row "new", "same" or "different" from the stored row of its identity; in the rows' order."""
    values = [c for c in rows.column_names if c not in identity]
    on = " AND ".join(f"s.{quote(c)} = b.{quote(c)}" for c in identity)
    differs = " OR ".join(f"s.{quote(c)} IS DISTINCT FROM b.{quote(c)}" for c in values) or "FALSE"
    columns = ", ".join(quote(c) for c in rows.column_names)
    sql = (
        f"WITH stored AS (SELECT {columns} FROM {scan(files, evolved=True)} WHERE {_within(order, low, high)}) "
        f"SELECT CASE WHEN s.{quote(identity[0])} IS NULL THEN 'new' WHEN {differs} THEN 'different' ELSE 'same' END AS status "
        f"FROM batch b LEFT JOIN stored s ON {on} ORDER BY b.__row"
    )
    return run(sql, {"batch": rows.append_column("__row", _numbers(rows))}).column("status")


def rows_without(
    files: Sequence[str], gone: pa.Table, schema: pa.Schema, *, order: str, low: Any, high: Any
) -> pa.Table:
    """The stored rows of `low <= order <= high` but for those whose columns equal a row of `gone`."""
    on = " AND ".join(f"s.{quote(c)} = g.{quote(c)}" for c in gone.column_names)
    columns = ", ".join(quote(n) for n in schema.names)
    sql = f"SELECT {columns} FROM {scan(files, evolved=True)} s ANTI JOIN gone g ON {on} WHERE {_within(order, low, high)}"
    return as_schema(run(sql, {"gone": gone}), schema)


def rows_with(files: Sequence[str], keys: pa.Table, schema: pa.Schema) -> pa.Table:
    """The stored rows whose columns equal a row of `keys`."""
    on = " AND ".join(f"s.{quote(c)} = k.{quote(c)}" for c in keys.column_names)
    columns = ", ".join(quote(n) for n in schema.names)
    sql = f"SELECT {columns} FROM {scan(files, evolved=True)} s SEMI JOIN keys k ON {on}"
    return as_schema(run(sql, {"keys": keys}), schema)


__all__ = [
    "TIMESTAMP", "as_schema", "compare", "connection", "keep_last", "literal", "quote", "rows_with", "rows_without",
    "run", "scan", "text",
]  # fmt: skip
