"""Rows larger than memory on their way into a table: staged as Parquet, then de-duplicated, compared and sorted."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import pyarrow as pa

from featurestore.engines.duckdb import literal, padded, quote, scan, temporary, text

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

ROWS_PER_BATCH = 1 << 17


@contextmanager
def staged(
    folder: Path, schema: pa.Schema, *, identity: Sequence[str], order: str, memory_limit: str, threads: int
) -> Iterator[Staged]:
    """A place below `folder` to stage rows of that schema in; it is gone afterwards, whatever happens.

    Raises:
        OSError: the place cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    lock, place = _locked_place(folder)
    try:
        place.mkdir()
        with temporary(place / "spilled", memory_limit=memory_limit, threads=threads) as connection:
            yield Staged(place, schema, tuple(identity), order, connection)
    finally:
        shutil.rmtree(place, ignore_errors=True)
        Path(lock.name).unlink(missing_ok=True)
        lock.close()


def sweep(folder: Path) -> None:
    """Remove what killed processes left there; what living ones are at stays."""
    for path in folder.glob("*.lock"):
        try:
            with path.open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)
        except OSError:
            continue  # its owner lives and holds the lock, or was faster


def _locked_place(folder: Path) -> tuple[TextIO, Path]:
    """A new place and the lock that says its owner lives: the system lets go of it when the process ends, however."""
    while True:
        place = folder / uuid.uuid4().hex
        lock = place.with_suffix(".lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock.fileno()).st_nlink:
            return lock, place
        lock.close()  # somebody swept it away between the two calls


@dataclass(frozen=True)
class Difference:
    """How staged rows differ from stored ones: how many are new and changed, and which files hold the old values."""

    inserted: int
    updated: int
    touched: Sequence[str]


class Staged:
    """Staged rows; of those with equal identity the last one added counts."""

    def __init__(
        self, place: Path, schema: pa.Schema, identity: tuple[str, ...], order: str, connection: DuckDBPyConnection
    ) -> None:
        self.schema = schema
        self.added = 0
        self._place = place
        self._identity = identity
        self._order = order
        self._connection = connection
        self._rows: int | None = None

    def add(self, rows: pa.Table) -> None:
        """Stage rows of the schema, after those that are there.

        Raises:
            OSError: the disk is full.
        """
        import pyarrow.parquet as pq

        if not rows.num_rows:
            return
        numbers = pa.array(np.arange(self.added, self.added + rows.num_rows))
        file = self._place / f"added-{self.added:020d}.parquet"
        pq.write_table(rows.append_column("__row", numbers), file, compression="lz4", use_dictionary=False)
        self.added += rows.num_rows

    @property
    def num_rows(self) -> int:
        """How many different identities there are."""
        if self._rows is None:
            self._keep_last()
            counted = self._connection.execute(f"SELECT count(*) FROM {self._from('unique')}").fetchall()
            self._rows = int(counted[0][0])
        return self._rows

    def bounds(self) -> Mapping[str, tuple[Any, Any]]:
        """The lowest and highest value of each identity column; the rows are not empty."""
        wanted = ", ".join(f"min({quote(c)}) AS {quote(f'low {c}')}, max({quote(c)})" for c in self._identity)
        found = self._connection.sql(f"SELECT {wanted} FROM {self._from('unique')}").to_arrow_table()
        values = [column[0].as_py() for column in found.columns]
        return {c: (values[2 * i], values[2 * i + 1]) for i, c in enumerate(self._identity)}

    def compare(self, files: Sequence[str]) -> Difference:
        """Compare with the rows stored in some files, which may lack columns."""
        if not self.num_rows or not files:
            self._file("changed").unlink(missing_ok=True)
            self._file("changed").hardlink_to(self._file("unique"))
            return Difference(self.num_rows, 0, ())
        low, high = self.bounds()[self._order]
        columns = ", ".join(quote(n) for n in self.schema.names)
        values = [n for n in self.schema.names if n not in self._identity]
        differs = " OR ".join(f"s.{quote(c)} IS DISTINCT FROM u.{quote(c)}" for c in values) or "FALSE"
        self._connection.register("no_rows", self.schema.empty_table())
        stored = (
            f"SELECT {columns}, __file FROM ({padded(files, place='__file')}) "
            f"WHERE {quote(self._order)} BETWEEN {literal(low)} AND {literal(high)}"
        )
        self._copy(
            "changed", f"WITH s AS ({stored}) SELECT u.*, s.__file FROM {self._from('unique')} u LEFT JOIN s "
            f"ON {self._same('s', 'u')} WHERE s.__file IS NULL OR {differs}",
        )  # fmt: skip
        touched = self._connection.execute(
            f"SELECT __file, count(*) FROM {self._from('changed')} GROUP BY __file ORDER BY __file"
        ).fetchall()
        counts: dict[str | None, int] = dict(touched)
        inserted = counts.pop(None, 0)
        return Difference(inserted, sum(counts.values()), [str(path) for path in counts])

    def rows(self, schema: pa.Schema, *, stamp: Mapping[str, Any], touched: Sequence[str]) -> Iterator[pa.Table]:
        """The compared rows that are new or different, and those of the touched files that stay, all in order.

        Args:
            schema: the table's columns: the staged ones and those of `stamp`.
            stamp: a value for each further column of the staged rows.
        """
        columns = ", ".join(map(quote, self.schema.names))
        stamped = "".join(f", {literal(value)} AS {quote(name)}" for name, value in stamp.items())
        sources = [f"SELECT {columns}{stamped} FROM {self._from('changed')}"]
        if touched:
            self._connection.register("no_rows", schema.empty_table())
            same = self._same("s", "c")
            sources.append(f"FROM ({padded(touched)}) s ANTI JOIN {self._from('changed')} c ON {same}")
        order = ", ".join(quote(c) for c in dict.fromkeys([self._order, *self._identity]))
        columns = ", ".join(quote(n) for n in schema.names)
        sql = f"SELECT {columns} FROM ({' UNION ALL BY NAME '.join(sources)}) ORDER BY {order}"
        for batch in self._connection.sql(sql).to_arrow_reader(ROWS_PER_BATCH):
            yield _typed(pa.Table.from_batches([batch]), schema)

    def newest(self, keys: Sequence[str]) -> pa.Table:
        """Of each key the compared row that comes last by the ordering column: at most one row a key."""
        by = ", ".join(quote(c) for c in keys)
        columns = ", ".join(quote(n) for n in self.schema.names)
        sql = (
            f"SELECT {columns} FROM {self._from('changed')} "
            f"QUALIFY row_number() OVER (PARTITION BY {by} ORDER BY {quote(self._order)} DESC) = 1"
        )
        return _typed(self._connection.sql(sql).to_arrow_table(), self.schema)

    def _keep_last(self) -> None:
        columns, keys = (", ".join(map(quote, names)) for names in (self.schema.names, self._identity))
        if not self.added:
            self._connection.register("no_rows", self.schema.empty_table())
            self._copy("unique", f"SELECT {columns} FROM no_rows")
            return
        last = f"SELECT max(__row) AS __row FROM {self._from('added')} GROUP BY {keys}"
        self._copy("unique", f"SELECT {columns} FROM {self._from('added')} SEMI JOIN ({last}) USING (__row)")
        for file in self._place.glob("added-*"):
            file.unlink()

    def _from(self, name: str) -> str:
        return scan(sorted(map(str, self._place.glob(f"{name}-*"))))

    def _file(self, name: str) -> Path:
        return self._place / f"{name}-0.parquet"

    def _copy(self, name: str, sql: str) -> None:
        self._file(name).unlink(missing_ok=True)
        self._connection.execute(f"COPY ({sql}) TO {text(str(self._file(name)))} (FORMAT parquet)")

    def _same(self, left: str, right: str) -> str:
        return " AND ".join(f"{left}.{quote(c)} = {right}.{quote(c)}" for c in self._identity)


def _typed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return pa.Table.from_arrays([table.column(f.name).cast(f.type) for f in schema], schema=schema)
