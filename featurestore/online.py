"""The online store: the newest row of every key, for lookups in microseconds. SQLite or PostgreSQL, by URL alone.

SQLAlchemy writes every statement once for the database at hand; what runs per row or per vector goes straight to
the driver, because SQLAlchemy's result layer alone costs more than a whole lookup. Columns are positional (k0 key,
t event time, f0 feature): feature names are free text of up to 255 characters, PostgreSQL cuts names at 63 bytes.

How values are kept, so that each comes back to the bit: numbers as they are (SQLite columns have no affinity, which
would turn -0.0 into 0), times as microseconds and dates as days since 1970, decimals as text, lists and
structs as JSON. PostgreSQL keeps text as UTF-8 bytes, because its own text type cannot hold a NUL.
"""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Context, Decimal, Inexact, InvalidOperation
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateTable, DropTable
from sqlalchemy.types import TypeEngine

from featurestore.errors import Conflict, FeatureStoreError, InvalidData, NotFound, SchemaMismatch
from featurestore.schema import Feature, check_name
from featurestore.times import from_micros, parse_time, to_micros

Key = tuple[Any, ...]
Row = tuple[Any, ...]

WAIT_SECONDS = 30
ROWS_PER_CHUNK = 50_000
LARGEST_BLOCK = 256  # keys looked up by one statement; larger blocks are no faster per key
MOST_PARAMETERS = 32_000  # SQLite allows 32,766 in one statement, PostgreSQL 65,535
SQLITE_CACHE_KIB = 65_536
_INT64 = 2**63
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_EXACT_DECIMAL = Context(prec=76, traps=[Inexact, InvalidOperation])


@dataclass(frozen=True)
class OnlineTable:
    """What one feature group keeps online.

    Args:
        name: the physical table, `[a-z][a-z0-9_]{0,62}`, unique in the database.
        primary_key: columns that identify a row online.
        event_time: the column that says which of two rows is newer; None: the row written last.
        features: every column of the group that is kept, keys and event time included, in any order.

    Raises:
        SchemaMismatch: a key or the event time is not among the features, or has a type that cannot be one.

    >>> OnlineTable("cards_1", ("cc_num",), None, (Feature("amount", "double"),))
    Traceback (most recent call last):
        ...
    featurestore.errors.SchemaMismatch: Online table 'cards_1' has no column 'cc_num' for its primary key. Columns: ...
    """

    name: str
    primary_key: tuple[str, ...]
    event_time: str | None
    features: tuple[Feature, ...]

    def __post_init__(self) -> None:
        check_name(self.name, "Online table")
        types = {feature.name: feature.type for feature in self.features}
        if not self.primary_key:
            raise SchemaMismatch(f"Online table {self.name!r} needs a primary key of at least one column.")
        for column in self.primary_key:
            if column not in types:
                raise SchemaMismatch(
                    f"Online table {self.name!r} has no column {column!r} for its primary key. Columns: {list(types)}."
                )
            if pa.types.is_nested(types[column]):
                raise SchemaMismatch(f"Primary key {column!r} is {types[column]}; lists and structs cannot be keys.")
        if self.event_time is not None and not pa.types.is_timestamp(types.get(self.event_time, pa.null())):
            raise SchemaMismatch(
                f"Online table {self.name!r} needs its event time {self.event_time!r} among the features, as timestamp."
            )

    @property
    def values(self) -> tuple[Feature, ...]:
        """The features that are neither key nor event time, in the order of the physical columns f0, f1, ..."""
        others = {*self.primary_key, self.event_time}
        return tuple(feature for feature in self.features if feature.name not in others)

    @property
    def layout(self) -> dict[str, Any]:
        """Which name and type stands behind which physical column, as JSON-ready data."""
        dtypes = {feature.name: feature.dtype for feature in self.features}
        return {
            "primary_key": [[name, dtypes[name]] for name in self.primary_key],
            "event_time": self.event_time,
            "features": [[feature.name, feature.dtype] for feature in self.values],
        }

    def positions(self) -> dict[str, tuple[str, Feature]]:
        """For every column name its physical column and its feature."""
        features = {feature.name: feature for feature in self.features}
        physical = {name: f"k{i}" for i, name in enumerate(self.primary_key)}
        if self.event_time is not None:
            physical[self.event_time] = "t"
        physical |= {feature.name: f"f{i}" for i, feature in enumerate(self.values)}
        return {name: (column, features[name]) for name, column in physical.items()}


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
                    connection.execute(CreateTable(_physical(table), if_not_exists=True))
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
            connection.execute(DropTable(_physical(table), if_exists=True))
            connection.execute(sa.delete(_VERSIONS).where(_VERSIONS.c.name == table.name))

    def append_features(self, table: OnlineTable, features: Sequence[Feature]) -> OnlineTable:
        """Add columns at the end, null in every row, and return the table with them; those it has already stay.

        Raises:
            SchemaMismatch: the stored table has other columns than `table`.
        """
        new = (feature for feature in features if feature not in table.features)
        wider = OnlineTable(table.name, table.primary_key, table.event_time, (*table.features, *new))
        with self._transaction() as connection:
            stored = self._stored(connection, table.name)
            if not _starts_with(wider.layout, stored.layout):
                raise _other_layout(wider, stored)
            preparer = connection.dialect.identifier_preparer
            for position in range(len(stored.layout["features"]), len(wider.values)):
                column = _physical(wider).c[f"f{position}"]
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
                f"Online table {table.name!r} has got more features since its definition was read: "
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
        newest = _newest(table, rows)
        with self._transaction() as connection:
            self._advance(connection, table, delta_version, previous_version)
            return self._write(connection, table, newest)

    def replace(
        self, table: OnlineTable, keys: pa.Table, rows: pa.Table, *, delta_version: int, previous_version: int | None
    ) -> int:
        """Delete `keys` (the primary key columns), then write `rows` as `upsert` does; return how many were written.

        For deletes and corrections: `rows` holds, of each of those keys, the newest row that is left.
        """
        newest = _newest(table, rows)
        with self._transaction() as connection:
            self._advance(connection, table, delta_version, previous_version)
            self._delete(connection, table, keys)
            return self._write(connection, table, newest)

    def rebuild(self, table: OnlineTable, rows: pa.Table, *, delta_version: int) -> int:
        """Replace everything by the newest row of each key in `rows`; readers see the old rows until it is done.

        Raises:
            Conflict: the table already holds a newer version than `delta_version`.
        """
        newest = _newest(table, rows)
        with self._transaction() as connection:
            stored = self._locked(connection, table).version
            if stored is not None and stored > delta_version:
                raise Conflict(f"Online table {table.name!r} holds version {stored}, newer than {delta_version}: kept.")
            self._record(connection, table, delta_version)
            connection.execute(sa.delete(_physical(table)))
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
                f"Online table {table.name!r} holds Delta version {stored}, not {previous}. Nothing was written: apply "
                f"the changes since {stored} with previous_version={stored}."
            )
        self._record(connection, table, version)

    @staticmethod
    def _record(connection: sa.Connection, table: OnlineTable, version: int) -> None:
        connection.execute(sa.update(_VERSIONS).where(_VERSIONS.c.name == table.name).values(delta_version=version))

    def _write(self, connection: sa.Connection, table: OnlineTable, rows: pa.Table) -> int:
        physical = _physical(table)
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
                self._driver_values(chunk[names[c.name]], positions[names[c.name]][1]) if c.name in names
                else [0] * chunk.num_rows  # the event time of a table without one: every row is as new as any other
                for c in physical.c
            ]  # fmt: skip
            written += connection.exec_driver_sql(sql, list(zip(*columns, strict=True))).rowcount
        return written

    def _delete(self, connection: sa.Connection, table: OnlineTable, keys: pa.Table) -> None:
        if not keys.num_rows:
            return
        _check_columns(table, keys, table.primary_key)
        physical, positions = _physical(table), table.positions()
        conditions = [c == sa.bindparam(f"key_{c.name}", type_=c.type) for c in physical.primary_key]
        columns = [self._driver_values(keys[name], positions[name][1]) for name in table.primary_key]
        connection.exec_driver_sql(self._sql(sa.delete(physical).where(*conditions)), list(zip(*columns, strict=True)))

    def _driver_values(self, column: pa.ChunkedArray, feature: Feature) -> list[Any]:
        """A column as the driver takes it, for the whole column at once."""
        if column.type != feature.type:
            raise SchemaMismatch(f"Column {feature.name!r} is {column.type}, but the online table has {feature.type}.")
        dtype = feature.type
        if pa.types.is_nested(dtype) or pa.types.is_decimal(dtype):
            spell: Callable[[Any], str] = str
            if pa.types.is_nested(dtype):
                plain = _json_encoder(dtype)
                spell = lambda value: json.dumps(plain(value), separators=(",", ":"))  # noqa: E731
            texts = [None if value is None else spell(value) for value in column.to_pylist()]
            return texts if self.is_sqlite else [None if text is None else text.encode() for text in texts]
        if pa.types.is_string(dtype) or pa.types.is_binary(dtype):
            as_bytes = column.cast(pa.binary()) if not self.is_sqlite else column
            return as_bytes.to_pylist()
        if pa.types.is_date32(dtype):
            column = column.cast(pa.int32())
        numbers = column.cast(pa.float64() if pa.types.is_floating(dtype) else pa.int64())
        if not numbers.null_count:
            return numbers.to_numpy().tolist()
        values = numbers.fill_null(0).to_numpy().tolist()
        for position in np.flatnonzero(numbers.is_null().to_numpy()).tolist():
            values[position] = None
        return values

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
            if not self._reads.dialect.is_disconnect(error, getattr(cursor, "connection", None), cursor):  # type: ignore[arg-type]
                raise self.translate(error) from error
        self._drop_held()
        with self._translated():
            return self.cursor().execute(sql, parameters).fetchall()


class Reader:
    """Looks rows up in several online tables at once; made by `OnlineStore.reader`.

    A row is `(event time in microseconds or None, *values)`; timestamps among the values are UTC datetimes, decimals,
    dates, lists and dicts are Python's. An unknown key, and a key with a null, gives None instead of a row.

    Whoever serves single vectors compiles its own way through `encoders`, `row`, `rows` and `parts`: a wide row is
    `(position of the entry, *columns of the first table, *columns of the second, ...)`, as the database gives it.
    """

    def __init__(self, store: OnlineStore, parts: Sequence[tuple[OnlineTable, Sequence[str]]]) -> None:
        self._store = store
        self._tables = list(parts)
        self.encoders = [
            [_key_encoder(table, table.positions()[name][1], store.is_sqlite) for name in table.primary_key]
            for table, _ in parts
        ]
        """For each table and each column of its key, from a Python value to what a statement takes."""
        self.parts: list[Part] = []
        """For each table where its columns are in a wide row."""
        start = 1
        for table, columns in parts:
            positions = table.positions()
            if unknown := [name for name in columns if name not in positions]:
                raise SchemaMismatch(
                    f"Online table {table.name!r} has no columns {unknown}. Columns: {list(positions)}."
                )
            decoders = [_decoder(positions[name][1].type, store.is_sqlite) for name in columns]
            self.parts.append(Part(start, start + 1 + len(columns), table.event_time is not None, tuple(decoders)))
            start += 1 + len(columns)
        self._width = sum(len(encoders) for encoders in self.encoders)
        self._most = min(LARGEST_BLOCK, 1 << (MOST_PARAMETERS // self._width).bit_length() - 1)
        self._statements: dict[int, str] = {}
        self._one = self._statement(1)

    def _statement(self, size: int) -> str:
        """The statement for `size` entries: their keys as a VALUES list, each table joined to it."""
        if size in self._statements:
            return self._statements[size]
        tables = [_physical(table).alias(f"g{g}") for g, (table, _) in enumerate(self._tables)]
        keys = [(f"g{g}_{key.name}", key.type) for g, table in enumerate(tables) for key in table.primary_key]
        rows = [
            (sa.literal_column(str(row)), *(sa.bindparam(f"{name}_{row}", type_=dtype) for name, dtype in keys))
            for row in range(size)
        ]
        columns = [sa.column("i", sa.Integer), *(sa.column(name, dtype) for name, dtype in keys)]
        wanted = sa.values(*columns).data(rows).cte("wanted")
        source: sa.FromClause = wanted
        selected: list[sa.ColumnElement[Any]] = [wanted.c.i]
        for g, (table, (definition, names)) in enumerate(zip(tables, self._tables, strict=True)):
            matches = [key == wanted.c[f"g{g}_{key.name}"] for key in table.primary_key]
            source = source.outerjoin(table, sa.and_(*matches))
            positions = definition.positions()
            physical = ["t", *(positions[name][0] for name in names)]
            selected += [table.c[name].label(f"c{len(selected) + i}") for i, name in enumerate(physical)]
        sql = self._store._sql(sa.select(*selected).select_from(source))
        self._statements[size] = sql
        return sql

    def row(self, parameters: Sequence[Any]) -> Row:
        """The wide row of one entry; `parameters` are its encoded keys, table by table."""
        store = self._store
        try:
            (row,) = store._local.cursor.execute(self._one, parameters).fetchall()
        except (AttributeError, store.driver_error):  # this thread's first read, or a connection that was lost
            (row,) = store.fetch(self._one, parameters)
        return row

    def rows(self, parameters: list[Any]) -> list[Row]:
        """The wide rows of many entries, in their order; `parameters` are all their encoded keys, end to end."""
        width, found = self._width, []
        step = self._most * width
        for start in range(0, len(parameters), step):
            block = parameters[start : start + step] if len(parameters) > step else parameters
            count = len(block) // width
            size = _rounded_up(count)
            if size > count:
                block = block + [None] * (width * (size - count))
            rows = self._store.fetch(self._statement(size), block)
            rows.sort(key=_first)
            found += rows[:count]
        return found

    def one(self, keys: Sequence[Key]) -> list[Row | None]:
        """The row of each table for its key; keys in the order of the reader's tables."""
        row = self.row(self._parameters(keys))
        return [part.of(row) for part in self.parts]

    def many(self, entries: Sequence[Sequence[Key]]) -> list[list[Row | None]]:
        """`one` for each entry, in the order given, with one statement per 256 entries."""
        rows = self.rows([value for keys in entries for value in self._parameters(keys)])
        return [[part.of(row) for part in self.parts] for row in rows]

    def _parameters(self, keys: Sequence[Key]) -> list[Any]:
        parameters = []
        try:
            for encode_key, key in zip(self.encoders, keys, strict=True):
                for encode, value in zip(encode_key, key, strict=True):
                    parameters.append(encode(value))
        except InvalidData:
            raise
        except ValueError as error:  # zip: another number of keys, or of values in a key
            expected = [table.primary_key for table, _ in self._tables]
            raise InvalidData(f"The keys {keys!r} do not fit. Expected one value for each of {expected}.") from error
        return parameters


def _rounded_up(count: int) -> int:
    """The next of few sizes (1 to 8, then four from each power of two to the next): few statements, little padding.

    >>> [_rounded_up(n) for n in (1, 8, 9, 100, 113, 256)]
    [1, 8, 10, 112, 128, 256]
    """
    step = 1 << max((count - 1).bit_length() - 3, 0)
    return -(-count // step) * step


@dataclass(frozen=True)
class Part:
    """Where one table's columns are in a wide row: `[start, end)`, its event time first (null: there is no row).

    `decoders` turn the values behind it into Python's; None where they are that already.
    """

    start: int
    end: int
    has_event_time: bool
    decoders: tuple[Callable[[Any], Any] | None, ...]

    def of(self, row: Row) -> Row | None:
        """This table's row out of the wide one, as Python values."""
        if row[self.start] is None:
            return None
        values = [
            value if decode is None or value is None else decode(value)
            for value, decode in zip(row[self.start + 1 : self.end], self.decoders, strict=True)
        ]
        return (row[self.start] if self.has_event_time else None, *values)


class _Cursor(Protocol):
    """What both drivers' cursors do."""

    def execute(self, sql: str, parameters: Sequence[Any], /) -> _Cursor: ...
    def fetchall(self) -> list[Row]: ...


class _Held:
    """A connection of one thread, and its cursor."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self.cursor: _Cursor = connection.connection.cursor()  # type: ignore[assignment]

    def close(self) -> None:
        try:
            self._connection.close()
        except sa.exc.DBAPIError:  # it was lost already, which is what close is for
            self._connection.invalidate()


@dataclass(frozen=True)
class _Stored:
    version: int | None
    layout: dict[str, Any]


class _Bytes(sa.LargeBinary):
    render_bind_cast = True  # a block of keys that are all null would be taken for text


class _Real(sa.Double[float]):
    render_bind_cast = True


# A SQLite column declared BLOB has no affinity: it keeps every value as it came.
_INTEGER = sa.BigInteger().with_variant(sa.BLOB(), "sqlite")
_REAL = _Real().with_variant(sa.BLOB(), "sqlite")
_BYTES = _Bytes().with_variant(sa.BLOB(), "sqlite")

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


def _physical(table: OnlineTable) -> sa.Table:
    dtypes = {feature.name: feature.type for feature in table.features}
    return sa.Table(
        table.name,
        sa.MetaData(),
        *(
            sa.Column(f"k{i}", _column_type(dtypes[name]), primary_key=True, autoincrement=False)
            for i, name in enumerate(table.primary_key)
        ),
        sa.Column("t", _INTEGER, nullable=False),
        *(sa.Column(f"f{i}", _column_type(feature.type)) for i, feature in enumerate(table.values)),
        sqlite_with_rowid=False,
    )


def _column_type(dtype: pa.DataType) -> TypeEngine[Any]:
    if pa.types.is_floating(dtype):
        return _REAL
    if pa.types.is_integer(dtype) or pa.types.is_boolean(dtype) or pa.types.is_temporal(dtype):
        return _INTEGER
    return _BYTES


def _starts_with(longer: dict[str, Any], shorter: dict[str, Any]) -> bool:
    cut = longer["features"][: len(shorter["features"])]
    return {**longer, "features": cut} == shorter


def _other_layout(table: OnlineTable, stored: _Stored) -> SchemaMismatch:
    return SchemaMismatch(
        f"Online table {table.name!r} holds the columns {stored.layout}, not {table.layout}. Drop it, then create it."
    )


def _check_columns(table: OnlineTable, rows: pa.Table, columns: Sequence[str]) -> None:
    if missing := [name for name in columns if name not in rows.column_names]:
        raise SchemaMismatch(
            f"Rows for online table {table.name!r} lack the columns {missing}; they have {rows.column_names}."
        )
    for name in columns:
        if name in (*table.primary_key, table.event_time) and rows[name].null_count:
            position = pc.index(rows[name].is_null(), True).as_py()
            raise InvalidData(
                f"Column {name!r} of online table {table.name!r} is null in row {position}. Nothing was written."
            )


def _newest(table: OnlineTable, rows: pa.Table) -> pa.Table:
    """The newest row of each key; of rows equally new the last one. In no particular order."""
    names = list(table.positions())
    _check_columns(table, rows, names)
    rows = rows.select(names)
    if rows.num_rows < 2:
        return rows
    codes = np.zeros(rows.num_rows, dtype=np.int64)
    for name in table.primary_key:
        encoded = rows[name].combine_chunks().dictionary_encode()
        codes = codes * len(encoded.dictionary) + encoded.indices.to_numpy()
        if len(table.primary_key) > 1:  # numbered anew without gaps, so that products stay small
            codes = np.unique(codes, return_inverse=True)[1]
    order = np.arange(rows.num_rows)
    if table.event_time is not None:
        times = rows[table.event_time].cast(pa.int64()).to_numpy()
        if np.any(times[1:] < times[:-1]):
            order = np.argsort(times, kind="stable")
    last = np.empty(int(codes.max()) + 1, dtype=np.int64)
    last[codes[order]] = order  # numpy keeps the last of several assignments to one place
    return rows if len(last) == rows.num_rows else rows.take(np.sort(last))


def _first(row: Row) -> Any:
    return row[0]


def _code(error: Exception) -> str:
    """The driver's name for an error: SQLITE_BUSY and the like, or PostgreSQL's five characters; "" for none."""
    return getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None) or ""


def _key_encoder(table: OnlineTable, feature: Feature, is_sqlite: bool) -> Callable[[Any], Any]:
    """From a Python key value to what the column holds; refuses values of another type."""
    dtype = feature.type

    def refuse(value: object, why: str = "") -> InvalidData:
        return InvalidData(
            f"Key {feature.name!r} of online table {table.name!r} is {value!r} ({type(value).__name__}); "
            f"expected {feature.dtype}{why}."
        )

    def integer(value: Any) -> Any:
        if (type(value) is int and -_INT64 <= value < _INT64) or value is None:
            return value
        if isinstance(value, np.integer):
            return integer(value.item())
        raise refuse(value)

    def text(value: Any) -> Any:
        if isinstance(value, str):
            try:
                return value if is_sqlite else value.encode()
            except UnicodeEncodeError as error:
                raise refuse(value, " in valid Unicode") from error
        if value is None:
            return None
        raise refuse(value)

    def other(value: Any) -> Any:
        if value is None:
            return None
        plain = value.item() if isinstance(value, np.generic) and not isinstance(value, np.datetime64) else value
        if pa.types.is_boolean(dtype) and isinstance(plain, bool):
            return int(plain)
        if pa.types.is_floating(dtype) and isinstance(plain, int | float) and not isinstance(plain, bool):
            return float(plain)
        if pa.types.is_binary(dtype) and isinstance(plain, bytes):
            return plain
        if pa.types.is_timestamp(dtype) and isinstance(plain, datetime):
            return to_micros(parse_time(plain))
        if pa.types.is_date32(dtype) and isinstance(plain, date) and not isinstance(plain, datetime):
            return plain.toordinal() - _EPOCH_DAY
        if pa.types.is_decimal(dtype) and isinstance(plain, Decimal | int) and not isinstance(plain, bool):
            try:
                exact = Decimal(plain).quantize(Decimal(1).scaleb(-dtype.scale), context=_EXACT_DECIMAL)
            except (Inexact, InvalidOperation) as error:
                raise refuse(value, " without more digits") from error
            return str(exact) if is_sqlite else str(exact).encode()
        raise refuse(value)

    if pa.types.is_integer(dtype):
        return integer
    return text if pa.types.is_string(dtype) else other


def _decoder(dtype: pa.DataType, is_sqlite: bool) -> Callable[[Any], Any] | None:
    """From what a column holds to the Python value; None where they are the same."""
    if pa.types.is_boolean(dtype):
        return bool
    if pa.types.is_timestamp(dtype):
        return from_micros
    if pa.types.is_date32(dtype):
        return _date_of
    if pa.types.is_decimal(dtype):
        return Decimal if is_sqlite else (lambda stored: Decimal(stored.decode()))
    if pa.types.is_string(dtype) and not is_sqlite:
        return bytes.decode
    if pa.types.is_nested(dtype):
        inner = _json_decoder(dtype)
        return json.loads if inner is None else (lambda stored: inner(json.loads(stored)))
    return None


def _date_of(days: int) -> date:
    return date.fromordinal(days + _EPOCH_DAY)


def _json_encoder(dtype: pa.DataType) -> Callable[[Any], Any]:
    """From a Python value of a type to data that JSON holds exactly; structs become lists in field order."""
    if pa.types.is_list(dtype):
        element = _json_encoder(dtype.value_type)
        return lambda value: [None if v is None else element(v) for v in value]
    if pa.types.is_struct(dtype):
        fields = [(field.name, _json_encoder(field.type)) for field in dtype]
        return lambda value: [None if value[name] is None else encode(value[name]) for name, encode in fields]
    if pa.types.is_timestamp(dtype):
        return to_micros
    if pa.types.is_date32(dtype):
        return lambda value: value.toordinal() - _EPOCH_DAY
    if pa.types.is_decimal(dtype):
        return str
    if pa.types.is_binary(dtype):
        return lambda value: value.decode("latin-1")
    return _same


def _json_decoder(dtype: pa.DataType) -> Callable[[Any], Any] | None:
    """The way back from `_json_encoder`; None where JSON's own value is right."""
    if pa.types.is_list(dtype):
        element = _json_decoder(dtype.value_type)
        return None if element is None else (lambda value: [None if v is None else element(v) for v in value])
    if pa.types.is_struct(dtype):
        fields = [(field.name, _json_decoder(field.type) or _same) for field in dtype]
        return lambda value: {
            name: None if v is None else decode(v) for (name, decode), v in zip(fields, value, strict=True)
        }
    if pa.types.is_timestamp(dtype):
        return from_micros
    if pa.types.is_date32(dtype):
        return _date_of
    if pa.types.is_decimal(dtype):
        return Decimal
    if pa.types.is_binary(dtype):
        return lambda value: value.encode("latin-1")
    return None


def _same(value: Any) -> Any:
    return value
