"""Plain SQL over stored groups, for looking: it reads the tables it names and can touch nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from featurestore.engines.duckdb import spill_folder
from featurestore.engines.sql import COMMITTED_AT, quote, text
from featurestore.errors import FeatureStoreError
from featurestore.schema import TIMESTAMP

# They make rows of their arguments; any other table function may read a file, a setting or the network.
_FUNCTIONS = {"generate_series", "range", "repeat", "unnest"}


def tables_of(query: str) -> dict[str, bool]:
    """The tables that a query reads, as it spells them, and whether it gives that name to a part of itself (WITH).

    Raises:
        FeatureStoreError: not one SELECT statement, or one that reads something else than tables.
    """
    import duckdb

    with duckdb.connect() as con:
        [[found]] = con.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
    parsed = json.loads(found)
    if parsed["error"] or len(parsed["statements"]) != 1:
        reason = parsed.get("error_message") or f"{len(parsed['statements'])} statements"
        if "Only SELECT" in reason:
            reason = "it is no SELECT"
        raise FeatureStoreError(
            f"The SQL is not a query: {reason}. Write one SELECT (or WITH ... SELECT); rows get in by fg.insert(...)."
        )
    tables, own = [], set()
    for node in _nodes(parsed):
        kind = node.get("type")
        own |= {entry["key"].casefold() for entry in node.get("cte_map", {}).get("map", [])}
        if kind == "TABLE_FUNCTION" and (name := node["function"]["function_name"]) not in _FUNCTIONS:
            raise FeatureStoreError(f"The SQL reads {name}(...); it may read feature groups by their names only.")
        if kind == "SHOW_REF":
            raise FeatureStoreError("The SQL is a SHOW or DESCRIBE, not a query. Write one SELECT.")
        if kind == "BASE_TABLE":
            qualified = [node[part] for part in ("catalog_name", "schema_name") if node.get(part)]
            if qualified:
                raise FeatureStoreError(
                    f"The SQL reads {'.'.join([*qualified, node['table_name']])}; it may read feature groups by their "
                    "names only."
                )
            tables.append(node["table_name"])
    return {name: name.casefold() in own for name in tables}


def _nodes(parsed: Any) -> Iterator[dict[str, Any]]:
    if isinstance(parsed, dict):
        yield parsed
    for value in parsed.values() if isinstance(parsed, dict) else parsed if isinstance(parsed, list) else ():
        yield from _nodes(value)


def run(
    query: str, tables: Mapping[str, tuple[pa.Schema, Sequence[str]]], *, memory_limit: str, threads: int,
    temp_directory: str,
) -> pa.Table:  # fmt: skip
    """The rows of one query; it may open no files but those of its tables, and change no setting.

    Args:
        tables: of each table its columns and its Parquet files; their column `__committed_at` is hidden.
    Raises:
        FeatureStoreError: DuckDB refuses the query, or it gives two columns of one name.
    """
    import duckdb

    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": memory_limit, "temp_directory": spill_folder(temp_directory),
        "autoinstall_known_extensions": False, "autoload_known_extensions": False,
    }  # fmt: skip
    try:
        with duckdb.connect(config=config) as con:
            con.execute(
                "SET TimeZone = 'UTC'; SET asof_loop_join_threshold = 0; SET python_enable_replacements = false"
            )
            if threads:
                con.execute(f"SET threads = {threads:d}")
            for number, (name, (schema, files)) in enumerate(tables.items()):
                con.register(f"__empty{number}", schema.empty_table())
                source = f"SELECT * FROM __empty{number}"
                if files:
                    listed = f"[{', '.join(text(f) for f in files)}]"
                    source += (
                        f" UNION ALL BY NAME SELECT * EXCLUDE ({COMMITTED_AT}) "
                        f"FROM read_parquet({listed}, union_by_name = true, hive_partitioning = false)"
                    )
                con.execute(f"CREATE VIEW {quote(name)} AS {source}")
            paths = ", ".join(text(f) for _, files in tables.values() for f in files)
            con.execute(f"SET allowed_paths = [{paths}]")
            con.execute("SET enable_external_access = false; SET lock_configuration = true")
            result = con.sql(query).to_arrow_table()
    except duckdb.Error as error:
        raise FeatureStoreError(f"The SQL cannot run: {error}") from error
    if repeated := sorted({n for n in result.column_names if result.column_names.count(n) > 1}):
        raise FeatureStoreError(f"The SQL gives several columns named {repeated}. Name each with AS.")
    return pa.table({n: _plain(c) for n, c in zip(result.column_names, result.columns, strict=True)})


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times as the store has them, and sums of whole numbers as whole numbers where they fit."""
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        return column.cast(TIMESTAMP)
    if pa.types.is_decimal(column.type) and column.type.scale == 0:
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:
            pass  # larger than int64: it stays a decimal
    return column
