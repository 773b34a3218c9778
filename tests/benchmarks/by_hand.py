"""The same work by hand with bare libraries: `python -m tests.benchmarks.by_hand <piece> <scale> <folder>`.

Everyone reads the same Parquet files, those of the store's Delta tables, and takes only the columns needed.
"""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks import data, lake
from tests.benchmarks.measure import answer, latencies, timed
from tests.benchmarks.scale import Scale

ALL = data.names(1) + data.names(2)


def _columns(number: int) -> list[str]:
    return ["card", "t", *data.names(number)]


def _inputs(folder: Path, *, big: bool = False) -> tuple[list[str], dict[int, list[str]]]:
    prefix = "big_" if big else ""
    groups = {number: lake.paths(folder, f"{prefix}group_{number}") for number in (1, 2)}
    return lake.paths(folder, f"{prefix}labels"), groups


def scan(scale: Scale, folder: Path, *, big: bool = False) -> dict[str, Any]:
    """Only reading the columns that the join needs, into one Arrow table after the other."""
    import pyarrow.parquet as pq

    labels, groups = _inputs(folder, big=big)
    rows = pq.read_table(labels, columns=["card", "t", "y"]).num_rows
    return {"rows": rows + sum(pq.read_table(paths, columns=_columns(n)).num_rows for n, paths in groups.items())}


def scan_polars(scale: Scale, folder: Path, *, big: bool = False) -> dict[str, Any]:
    """The same by Polars."""
    import polars as pl

    labels, groups = _inputs(folder, big=big)
    rows = pl.scan_parquet(labels).select("card", "t", "y").collect().height
    read = (pl.scan_parquet(paths).select(_columns(number)).collect().height for number, paths in groups.items())
    return {"rows": rows + sum(read)}


def big_scan(scale: Scale, folder: Path) -> dict[str, Any]:
    """The scan at the size that is watched for its memory."""
    return scan(scale, folder, big=True)


def big_scan_polars(scale: Scale, folder: Path) -> dict[str, Any]:
    """The same by Polars."""
    return scan_polars(scale, folder, big=True)


def merge_asof(scale: Scale, folder: Path) -> dict[str, Any]:
    """pandas.merge_asof, twice."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels, groups = _inputs(folder)
    joined = pq.read_table(labels, columns=["card", "t", "y"]).to_pandas().sort_values("t")
    for number, paths in groups.items():
        right = pq.read_table(paths, columns=_columns(number)).to_pandas().sort_values("t")
        joined = pd.merge_asof(joined, right, on="t", by="card")
    return data.fingerprint(pa.Table.from_pandas(joined, preserve_index=False), ALL)


def _polars(scale: Scale, folder: Path, *, known_as_sorted: bool) -> dict[str, Any]:
    import polars as pl

    def frame(paths: list[str], columns: list[str]) -> pl.LazyFrame:
        rows = pl.scan_parquet(paths).select(columns)
        return rows.set_sorted("t") if known_as_sorted else rows.sort("t")

    labels, groups = _inputs(folder)
    joined = frame(labels, ["card", "t", "y"])
    for number, paths in groups.items():
        joined = joined.join_asof(frame(paths, _columns(number)), on="t", by="card", check_sortedness=False)
    return data.fingerprint(joined.collect().to_arrow(), ALL)


def polars(scale: Scale, folder: Path) -> dict[str, Any]:
    """Polars join_asof after sorting, twice."""
    return _polars(scale, folder, known_as_sorted=False)


def polars_sorted(scale: Scale, folder: Path) -> dict[str, Any]:
    """Polars join_asof, told that the files lie in order of time."""
    return _polars(scale, folder, known_as_sorted=True)


def duckdb(scale: Scale, folder: Path, *, big: bool = False) -> dict[str, Any]:
    """DuckDB's ASOF LEFT JOIN, twice, with the store's limit of memory."""
    import duckdb as library

    labels, groups = _inputs(folder, big=big)
    joins = "".join(
        f" ASOF LEFT JOIN (SELECT {', '.join(_columns(number))} FROM read_parquet({paths})) g{number}"
        f" ON l.card = g{number}.card AND l.t >= g{number}.t"
        for number, paths in groups.items()
    )
    with (
        tempfile.TemporaryDirectory(dir=folder) as spill,
        library.connect(config={"memory_limit": "4GB", "temp_directory": spill}) as connection,
    ):
        joined = connection.sql(f"SELECT l.card, l.t, l.y, {', '.join(ALL)} FROM read_parquet({labels}) l{joins}")
        return data.fingerprint(joined.to_arrow_table(), ALL)


def big_duckdb(scale: Scale, folder: Path) -> dict[str, Any]:
    """The same at the size that is watched for its memory."""
    return duckdb(scale, folder, big=True)


def _like(table: Any, rows: Any) -> Any:
    """The rows with the columns of a Delta table of the store, which has the commit time as well."""
    import pyarrow as pa

    for column in pa.schema(table.schema().to_arrow()):
        if column.name not in rows.column_names:
            rows = rows.append_column(column, pa.repeat(rows["t"][0], rows.num_rows))
    return rows


def _append(scale: Scale, folder: Path, group: str, day: int) -> dict[str, Any]:
    from deltalake import DeltaTable, write_deltalake

    rows = data.feature_rows(1, rows=scale.batch, keys=scale.keys, day=day)
    with lake.copied(folder) as place:
        location = lake.location(place, group)
        rows = _like(DeltaTable(location), rows)
        seconds, _ = timed(lambda: write_deltalake(location, rows, mode="append"))
    return {"seconds": seconds, "rows": rows.num_rows}


def append_short(scale: Scale, folder: Path) -> dict[str, Any]:
    """write_deltalake(mode="append") to a table of as many rows."""
    return _append(scale, folder, "short", 1)


def append_long(scale: Scale, folder: Path) -> dict[str, Any]:
    """write_deltalake(mode="append") to a long table."""
    return _append(scale, folder, "group_1", scale.days)


def merge(scale: Scale, folder: Path) -> dict[str, Any]:
    """DeltaTable.merge of the corrections of one day, with the day in its predicate."""
    from deltalake import DeltaTable

    day, per_day = scale.days - 2, scale.rows // scale.days
    rows = data.corrections(1, rows=per_day, keys=scale.keys, day=day, count=scale.batch)
    start, end = (data.moment(d).isoformat() for d in (day, day + 1))
    with lake.copied(folder) as place:
        location = lake.location(place, "group_1")
        before = {file.path for file in lake.files(location)}
        table = DeltaTable(location)
        rows = _like(table, rows)
        same = f"o.t >= '{start}' AND o.t < '{end}' AND n.card = o.card AND n.t = o.t"
        merging = table.merge(rows, same, source_alias="n", target_alias="o")
        seconds, _ = timed(merging.when_matched_update_all().when_not_matched_insert_all().execute)
        after = {file.path for file in lake.files(location)}
    return {"seconds": seconds, "files": len(before), "rewritten": len(before - after)}


def sqlite_write(scale: Scale, folder: Path) -> dict[str, Any]:
    """sqlite3's executemany of the same upsert, in the same journal mode."""
    rows = data.newest_rows(1, keys=scale.batch)
    names = ["card", "t", *data.names(1)]
    changes = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
    statement = (
        f"INSERT INTO newest VALUES ({', '.join('?' * len(names))}) "
        f"ON CONFLICT (card) DO UPDATE SET {changes} WHERE excluded.t >= newest.t"
    )
    with tempfile.TemporaryDirectory(dir=folder) as place:
        connection = sqlite3.connect(Path(place) / "online.db")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(
            f"CREATE TABLE newest (card INTEGER PRIMARY KEY, {', '.join(f'{n} REAL' for n in names[1:])})"
        )

        def write() -> None:
            columns = [rows["card"], rows["t"].cast("int64"), *(rows[name] for name in names[2:])]
            with connection:
                connection.executemany(statement, zip(*(c.to_pylist() for c in columns), strict=True))

        seconds, _ = timed(write)
        connection.close()
    return {"seconds": seconds, "rows": rows.num_rows}


def _sqlite_vectors(scale: Scale, folder: Path, size: int) -> dict[str, Any]:
    """Two prepared selects on a database of the same rows."""
    import numpy as np

    cards = np.random.default_rng(5).integers(0, scale.keys, 4096).tolist()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        connection = sqlite3.connect(Path(place) / "online.db")
        statements = []
        for number in (1, 2):
            rows = data.newest_rows(number, keys=scale.keys)
            names = data.names(number)
            connection.execute(
                f"CREATE TABLE g{number} (card INTEGER PRIMARY KEY, {', '.join(f'{n} REAL' for n in names)})"
            )
            values = zip(*(rows[name].to_pylist() for name in ["card", *names]), strict=True)
            connection.executemany(f"INSERT INTO g{number} VALUES ({', '.join('?' * 6)})", values)
            places = ", ".join("?" * size)
            statements.append(f"SELECT card, {', '.join(names)} FROM g{number} WHERE card IN ({places})")
        connection.commit()
        execute = connection.execute

        def call(n: int) -> list[list[Any]]:
            first = n * size % (4096 - size)
            keys = cards[first : first + size]
            left, right = ({row[0]: row[1:] for row in execute(statement, keys)} for statement in statements)
            return [[*left[key], *right[key]] for key in keys]

        return latencies(call, scale.vectors if size == 1 else max(scale.vectors // 50, 5))


def vector(scale: Scale, folder: Path) -> dict[str, Any]:
    """sqlite3 itself: two selects by key, joined into a list."""
    return _sqlite_vectors(scale, folder, 1)


def vectors(scale: Scale, folder: Path) -> dict[str, Any]:
    """The same for a hundred keys."""
    return _sqlite_vectors(scale, folder, 100)


PIECES = {
    piece.__name__: piece
    for piece in (
        scan, big_scan, scan_polars, big_scan_polars, merge_asof, polars, polars_sorted, duckdb, big_duckdb,
        append_short, append_long, merge, sqlite_write, vector, vectors,
    )
}  # fmt: skip

if __name__ == "__main__":
    answer(PIECES)
