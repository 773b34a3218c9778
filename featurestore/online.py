"""The online store: the newest row of every key, for lookups in microseconds. SQLite or PostgreSQL, by URL alone.

SQLAlchemy writes every statement once for the database at hand; what runs per row or per vector goes straight to
the driver, because SQLAlchemy's result layer alone costs more than a whole lookup. Columns are positional (k0 key,
t event time, f0 feature): feature names are free text of up to 255 characters, PostgreSQL cuts names at 63 bytes.
"""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateTable, DropTable

from featurestore.errors import Conflict, FeatureStoreError, InvalidData, NotFound, SchemaMismatch
from featurestore.online_reader import Reader, physical_table
from featurestore.online_table import Key, OnlineTable, Row, check_columns, newest_rows
from featurestore.online_values import driver_values
from featurestore.schema import Feature

WAIT_SECONDS = 30
ROWS_PER_CHUNK = 50_000
SQLITE_CACHE_KIB = 65_536


class OnlineStore:
    """The newest row per key of every online table, in one SQLite file or one PostgreSQL database.

    Threads may share a store: each holds a connection of its own for reads, in autocommit, so that it sees every
    commit of other processes at once. Forked children open their own connections. With SQLite, fork only while no
    other thread reads or writes: SQLite's file locks do not cross a fork.

    Every write is one transaction that also records the Delta version the table then holds.

    Raises:
        FeatureStoreError: the URL cannot be used or the database cannot be reached. `Conflict` when it stays locked
            for longer than 30 seconds; nothing was written and it is safe to retry.
    """

    def __init__(self, url: str) -> None:
        try:
            self._url = sa.make_url(url)
            dialect = self._url.get_dialect()().name
            options: dict[str, Any] = {"pool_pre_ping": True}
            if dialect == "sqlite":
                if self._url.database in (None, "", ":memory:"):
                    raise FeatureStoreError("The online store needs a SQLite file (sqlite:///path/to/online.db).")
                options["connect_args"] = {"timeout": WAIT_SECONDS, "check_same_thread": False}
            elif dialect == "postgresql":
                options["paramstyle"] = "format"
            else:
                raise FeatureStoreError(f"The online store runs on sqlite and postgresql, not on {dialect!r}.")
            self._writes = sa.create_engine(self._url, **options)
            options.pop("pool_pre_ping")
            self._reads = sa.create_engine(self._url, **options, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        except (sa.exc.ArgumentError, ImportError) as error:
            shown = url.partition("@")[2] or url  # never a password
            raise FeatureStoreError(
                f"The online store cannot be opened at {shown!r}: {error}. Expected sqlite:///path/to/online.db or "
                "postgresql+psycopg://user@host/database (install triptych[postgres])."
            ) from error
        self.is_sqlite = dialect == "sqlite"
        self.where = self._url.render_as_string(hide_password=True)
        self.driver_error: type[Exception] = self._reads.dialect.loaded_dbapi.Error
        for engine in (self._writes, self._reads):
            sa.event.listen(engine, "connect", self._prepare_connection)
        self._lock = threading.Lock()
        self._abandon()
        _STORES.add(self)

    # Connections

    def _prepare_connection(self, connection: Any, _record: object) -> None:
        if not self.is_sqlite:
            connection.execute(f"SET lock_timeout = '{WAIT_SECONDS}s'")
            connection.commit()
            return
        connection.isolation_level = None  # transactions begin where we say so: BEGIN IMMEDIATE
        deadline = time.monotonic() + WAIT_SECONDS
        while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except self.driver_error as error:  # SQLite does not wait by itself while another process does the same
                if _code(error) != "SQLITE_BUSY" or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA cache_size = -{SQLITE_CACHE_KIB}")

    def cursor(self) -> _Cursor:
        """This thread's own driver cursor for reads, in autocommit; opened when first asked for."""
        held: _Held | None = getattr(self._local, "held", None)
        if held is None:
            self._make_folder()
            with self._translated():
                held = _Held(self._reads.connect())
            self._local.held = held
            self._local.cursor = held.cursor
            with self._lock:
                self._held.add(held)
        return held.cursor

    def _make_folder(self) -> None:
        if self.is_sqlite and not str(self._url.database).startswith("file:"):
            try:
                Path(str(self._url.database)).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise FeatureStoreError(
                    f"The folder of the online store {self.where} cannot be made: {error}."
                ) from error

    def _drop_held(self) -> None:
        held: _Held | None = getattr(self._local, "held", None)
        if held is not None:
            del self._local.held, self._local.cursor
            held.close()

    def _abandon(self) -> None:
        self._local = threading.local()
        self._held: weakref.WeakSet[_Held] = weakref.WeakSet()

    def before_fork(self) -> None:
        """Let go of this thread's connections: a child must not inherit them."""
        self._drop_held()
        self._writes.dispose()

    def after_fork(self) -> None:
        """In the child: forget inherited connections without closing them, which would end the parent's."""
        _INHERITED.append((self._local, self._held))
        self._writes.dispose(close=False)
        self._lock = threading.Lock()
        self._abandon()

    def close(self) -> None:
        """Give every connection back. Call it when no other thread is reading; the next call connects anew."""
        with self._lock:
            held = list(self._held)
            self._abandon()
        for connection in held:
            connection.close()
        self._writes.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        self._make_folder()
        with self._translated(), self._writes.begin() as connection:
            if self.is_sqlite:  # take the write lock now: a later upgrade from a read would fail, not wait
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DBAPIError as error:
            raise self.translate(error.orig if isinstance(error.orig, Exception) else error) from error
        except sa.exc.TimeoutError as error:
            raise Conflict(f"No free connection to the online store {self.where}: {error}. Try again.") from error
        except self.driver_error as error:
            raise self.translate(error) from error

    def translate(self, error: Exception) -> FeatureStoreError:
        """The error of ours for an error of the driver."""
        code, text = _code(error), " ".join(str(error).split())
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "40", "55P03", "57014")):
            return Conflict(
                f"The online store {self.where} stayed locked for {WAIT_SECONDS} s by another process ({text}). "
                "Nothing was written: try again."
            )
        if code == "42P01" or "no such table" in text:
            return NotFound(f"The online store {self.where} lacks a table ({text}). Create it with create(table).")
        if code in ("SQLITE_FULL", "53100"):
            return FeatureStoreError(
                f"The disk of the online store {self.where} is full ({text}). Free space, then retry."
            )
        if code.startswith("SQLITE_READONLY") or code == "25006":
            return FeatureStoreError(f"The online store {self.where} is read-only ({text}). Allow writing, then retry.")
        if code in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
            return FeatureStoreError(
                f"The file of the online store {self.where} is damaged ({text}). Move it away: Delta rebuilds it."
            )
        if code.startswith(("SQLITE_CONSTRAINT", "SQLITE_TOOBIG", "22", "23", "54")):
            return InvalidData(f"The online store {self.where} refused a row ({text}). Nothing was written.")
        is_unreachable = code in ("SQLITE_CANTOPEN", "3D000") or code.startswith(("SQLITE_IOERR", "08", "28", "57P"))
        if is_unreachable or (code == "" and not self.is_sqlite):  # psycopg gives no code when nobody answers
            return FeatureStoreError(
                f"The online store {self.where} cannot be reached ({text}). Check that it runs and its URL is right."
            )
        return FeatureStoreError(f"The online store {self.where} failed ({code}: {text}).")

    # Tables

    def create(self, table: OnlineTable) -> None:
        """Make the table and its version row, which says None; nothing happens when it is there.

        Raises:
            SchemaMismatch: a table of this name holds other columns.
        """
        for attempt in (1, 2):
            try:
                with self._transaction() as connection:
                    connection.execute(CreateTable(_VERSIONS, if_not_exists=True))
                    connection.execute(CreateTable(physical_table(table), if_not_exists=True))
                    row = {"name": table.name, "delta_version": None, "layout": json.dumps(table.layout)}
                    connection.execute(self._insert(_VERSIONS).values(row).on_conflict_do_nothing())
                    self._locked(connection, table)
                return
            except InvalidData:  # two PostgreSQL sessions created it at once: the loser sees a duplicate key, once
                if attempt == 2:
                    raise

    def drop(self, table: OnlineTable) -> None:
        """Remove the table and its version; nothing happens when it is not there."""
        with self._transaction() as connection:
            connection.execute(CreateTable(_VERSIONS, if_not_exists=True))
            connection.execute(DropTable(physical_table(table), if_exists=True))
            connection.execute(sa.delete(_VERSIONS).where(_VERSIONS.c.name == table.name))

    def append_features(self, table: OnlineTable, features: Sequence[Feature]) -> OnlineTable:
        """Add columns at the end, null in every row, and return the table with them; those it has already stay.

        Raises:
            SchemaMismatch: the stored table has other columns than `table`.
        """
        new = (feature for feature in features if feature not in table.features)
        wider = replace(table, features=(*table.features, *new))
        with self._transaction() as connection:
            stored = self._stored(connection, table.name)
            if not _starts_with(wider.layout, stored.layout):
                raise _other_layout(wider, stored)
            preparer = connection.dialect.identifier_preparer
            for position in range(len(stored.layout["features"]), len(wider.values)):
                column = physical_table(wider).c[f"f{position}"]
                spelled = column.type.compile(dialect=connection.dialect)
                connection.exec_driver_sql(
                    f"ALTER TABLE {preparer.quote(table.name)} ADD COLUMN {column.name} {spelled}"
                )
            if stored.layout != wider.layout:
                layout = json.dumps(wider.layout)
                connection.execute(sa.update(_VERSIONS).where(_VERSIONS.c.name == table.name).values(layout=layout))
        return wider

    def version(self, table: OnlineTable) -> int | None:
        """The Delta version the table holds; None before its first write or when there is no such table."""
        sql = self._sql(sa.select(_VERSIONS.c.delta_version).where(_VERSIONS.c.name == sa.bindparam("name")))
        try:
            rows = self.fetch(sql, [table.name])
        except NotFound:
            return None
        return rows[0][0] if rows else None

    def _stored(self, connection: sa.Connection, name: str, *, lock: bool = True) -> _Stored:
        """The version row of a table, locked for the rest of the transaction (SQLite has locked it all already)."""
        select = sa.select(_VERSIONS.c.delta_version, _VERSIONS.c.layout).where(_VERSIONS.c.name == name)
        row = connection.execute(select.with_for_update() if lock else select).one_or_none()
        if row is None:
            raise NotFound(f"The online store {self.where} has no table {name!r}. Create it with create(table).")
        return _Stored(row.delta_version, json.loads(row.layout))

    def _locked(self, connection: sa.Connection, table: OnlineTable) -> _Stored:
        """The version row, locked; refuses a table whose columns are not those asked for."""
        stored = self._stored(connection, table.name)
        if stored.layout == table.layout:
            return stored
        if _starts_with(stored.layout, table.layout):
            raise Conflict(
                f"Online table {table.shown!r} has got more features since its definition was read: "
                f"{stored.layout['features']}. Read the definition again and retry."
            )
        raise _other_layout(table, stored)

    # Writing

    def upsert(self, table: OnlineTable, rows: pa.Table, *, delta_version: int, previous_version: int | None) -> int:
        """Write the newest row of each key, unless what is there is newer; return how many rows were written.

        Args:
            rows: at least the table's columns; keys and event time without nulls, any order. Of rows with equal key
                and equal time the last one counts, and it replaces a stored row of that time.
            delta_version: the version the table holds afterwards.
            previous_version: the version it must hold now; None for a table never written.
        Raises:
            Conflict: the table holds another version, which the message names: read Delta's changes since that one.
            NotFound: the table was not created.
            InvalidData: null key or event time.
            SchemaMismatch: the stored table or the rows have other columns.
        """
        newest = newest_rows(table, rows)
        with self._transaction() as connection:
            self._advance(connection, table, delta_version, previous_version)
            return self._write(connection, table, newest)

    def replace(
        self, table: OnlineTable, keys: pa.Table, rows: pa.Table, *, delta_version: int, previous_version: int | None
    ) -> int:
        """Delete `keys` (the primary key columns), then write `rows` as `upsert` does; return how many were written.

        For deletes and corrections: `rows` holds, of each of those keys, the newest row that is left.
        """
        newest = newest_rows(table, rows)
        with self._transaction() as connection:
            self._advance(connection, table, delta_version, previous_version)
            self._delete(connection, table, keys)
            return self._write(connection, table, newest)

    def rebuild(self, table: OnlineTable, rows: pa.Table, *, delta_version: int) -> int:
        """Replace everything by the newest row of each key in `rows`; readers see the old rows until it is done.

        Raises:
            Conflict: the table already holds a newer version than `delta_version`.
        """
        newest = newest_rows(table, rows)
        with self._transaction() as connection:
            stored = self._locked(connection, table).version
            if stored is not None and stored > delta_version:
                raise Conflict(
                    f"Online table {table.shown!r} holds version {stored}, newer than {delta_version}: kept."
                )
            self._record(connection, table, delta_version)
            connection.execute(sa.delete(physical_table(table)))
            return self._write(connection, table, newest)

    def purge(self, table: OnlineTable, keys: pa.Table) -> None:
        """Delete `keys` (the primary key columns) and rewrite the database so that no freed page holds their values.

        SQLite: VACUUM, and the write-ahead log is emptied. PostgreSQL: VACUUM (FULL, ANALYZE) of this table; there the
        server's write-ahead log and backups keep old values until they are recycled, which needs its administrator.
        The version stays as it is. Costs a copy of the database (PostgreSQL: of the table), and waits for readers.

        Raises:
            Conflict: somebody kept reading or writing; the rows are gone, their traces may not be: purge again.
        """
        with self._transaction() as connection:
            self._locked(connection, table)
            self._delete(connection, table, keys)
        try:
            with self._translated(), self._reads.connect() as connection:
                self._scrub(connection, table)
        except Conflict as error:
            raise Conflict(
                f"The rows are deleted from {self.where}, but somebody kept using it, so that freed pages or its log "
                "may still hold their values. Purge again."
            ) from error

    def _scrub(self, connection: sa.Connection, table: OnlineTable) -> None:
        if not self.is_sqlite:
            name = connection.dialect.identifier_preparer.quote(table.name)
            connection.exec_driver_sql(f"VACUUM (FULL, ANALYZE) {name}")
            return
        connection.exec_driver_sql("VACUUM")
        is_busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
        if is_busy:
            raise Conflict("A reader kept the write-ahead log from being emptied.")

    def _advance(self, connection: sa.Connection, table: OnlineTable, version: int, previous: int | None) -> None:
        stored = self._locked(connection, table).version
        if stored != previous:
            raise Conflict(
                f"Online table {table.shown!r} holds Delta version {stored}, not {previous}. Nothing was written: "
                f"apply the changes since {stored} with previous_version={stored}."
            )
        self._record(connection, table, version)

    @staticmethod
    def _record(connection: sa.Connection, table: OnlineTable, version: int) -> None:
        connection.execute(sa.update(_VERSIONS).where(_VERSIONS.c.name == table.name).values(delta_version=version))

    def _write(self, connection: sa.Connection, table: OnlineTable, rows: pa.Table) -> int:
        physical = physical_table(table)
        insert = self._insert(physical)
        upsert = insert.on_conflict_do_update(
            index_elements=list(physical.primary_key),
            set_={c.name: insert.excluded[c.name] for c in physical.c if not c.primary_key},
            where=insert.excluded.t >= physical.c.t,
        )
        sql = self._sql(upsert)
        positions = table.positions()
        names = {column: name for name, (column, _) in positions.items()}
        written = 0
        for start in range(0, rows.num_rows, ROWS_PER_CHUNK):
            chunk = rows.slice(start, ROWS_PER_CHUNK)
            columns = [
                self._values(chunk, names[c.name], positions[names[c.name]][1]) if c.name in names
                else [0] * chunk.num_rows  # the event time of a table without one: every row is as new as any other
                for c in physical.c
            ]  # fmt: skip
            written += connection.exec_driver_sql(sql, list(zip(*columns, strict=True))).rowcount
        return written

    def _delete(self, connection: sa.Connection, table: OnlineTable, keys: pa.Table) -> None:
        if not keys.num_rows:
            return
        check_columns(table, keys, table.primary_key)
        physical, positions = physical_table(table), table.positions()
        conditions = [c == sa.bindparam(f"key_{c.name}", type_=c.type) for c in physical.primary_key]
        columns = [self._values(keys, name, positions[name][1]) for name in table.primary_key]
        connection.exec_driver_sql(self._sql(sa.delete(physical).where(*conditions)), list(zip(*columns, strict=True)))

    def _values(self, rows: pa.Table, name: str, feature: Feature) -> list[Any]:
        return driver_values(rows[name], feature, is_sqlite=self.is_sqlite)

    def _insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def _sql(self, statement: sa.ClauseElement) -> str:
        """The statement as text for this database's driver, parameters by position."""
        return str(statement.compile(dialect=self._reads.dialect))

    # Reading

    def get(self, table: OnlineTable, keys: Sequence[Key], columns: Sequence[str]) -> list[Row | None]:
        """The values of `columns` for each key, in the order given; None where there is no such key."""
        rows = self.reader([(table, columns)]).many([[key] for key in keys])
        return [None if row is None else row[1:] for (row,) in rows]

    def reader(self, parts: Sequence[tuple[OnlineTable, Sequence[str]]]) -> Reader:
        """A lookup of some columns of some tables at once, in one statement, ready to be used many times.

        Raises:
            NotFound: a table was not created.
            SchemaMismatch: a table has other columns or not the columns asked for.
        """
        self._make_folder()
        with self._translated(), self._reads.connect() as connection:
            for table, _ in parts:
                stored = self._stored(connection, table.name, lock=False)
                if not _starts_with(stored.layout, table.layout):
                    raise _other_layout(table, stored)
        return Reader(self, parts)

    def fetch(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        """All rows of a query, by this thread's connection; a lost connection is opened again once."""
        try:
            return self.cursor().execute(sql, parameters).fetchall()
        except self.driver_error as error:
            cursor = getattr(self._local, "cursor", None)
            # mypy knows the driver's own class of errors only as Exception; SQLAlchemy wants a DBAPI error.
            if not self._reads.dialect.is_disconnect(error, getattr(cursor, "connection", None), cursor):  # type: ignore[arg-type]
                raise self.translate(error) from error
        self._drop_held()
        with self._translated():
            return self.cursor().execute(sql, parameters).fetchall()


class _Cursor(Protocol):
    """What both drivers' cursors do."""

    def execute(self, sql: str, parameters: Sequence[Any], /) -> _Cursor: ...
    def fetchall(self) -> list[Row]: ...


class _Held:
    """A connection of one thread, and its cursor."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self.cursor: _Cursor = connection.connection.cursor()  # type: ignore[assignment]  # the driver's

    def close(self) -> None:
        try:
            self._connection.close()
        except sa.exc.DBAPIError:  # it was lost already, which is what close is for
            self._connection.invalidate()


@dataclass(frozen=True)
class _Stored:
    version: int | None
    layout: dict[str, Any]


_VERSIONS = sa.Table(
    "_online_versions",
    sa.MetaData(),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("delta_version", sa.BigInteger),
    sa.Column("layout", sa.Text, nullable=False),
)

_STORES: weakref.WeakSet[OnlineStore] = weakref.WeakSet()
_INHERITED: list[object] = []  # kept alive in a forked child: freeing them would close the parent's connections


def _before_fork() -> None:
    for store in list(_STORES):
        store.before_fork()


def _after_fork() -> None:
    for store in list(_STORES):
        store.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


def _starts_with(longer: dict[str, Any], shorter: dict[str, Any]) -> bool:
    cut = longer["features"][: len(shorter["features"])]
    return {**longer, "features": cut} == shorter


def _other_layout(table: OnlineTable, stored: _Stored) -> SchemaMismatch:
    return SchemaMismatch(
        f"Online table {table.shown!r} holds the columns {stored.layout}, not {table.layout}. Drop it, then create it."
    )


def _code(error: Exception) -> str:
    """The driver's name for an error: SQLITE_BUSY and the like, or PostgreSQL's five characters; "" for none."""
    return getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None) or ""
