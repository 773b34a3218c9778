"""What exists: groups, views, training datasets, statistics and validation reports, in one SQL database."""

from __future__ import annotations

import os
import sqlite3
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from featurestore.errors import Conflict, FeatureStoreError, NotFound, listed
from featurestore.pins import Registered

SCHEMA_VERSION = 1
_ATTEMPTS = 10
_CREATION_LOCK = 0x74726970  # any number that no other program's advisory lock has
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "40", "55P03")
Kind = Literal["feature group", "feature view"]

_metadata = sa.MetaData()
_settings = sa.Table(
    "triptych_catalog", _metadata, sa.Column("name", sa.String(64), primary_key=True), sa.Column("value", sa.Integer)
)
_things = sa.Table(
    "definitions", _metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("name", sa.String(63), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("definition", sa.JSON, nullable=False),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.UniqueConstraint("kind", "name", "version"),
)  # fmt: skip
_training = sa.Table(
    "training_datasets", _metadata,
    sa.Column("view_id", sa.String(36), sa.ForeignKey("definitions.id"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("manifest", sa.JSON, nullable=False),
    sa.Column("created_at", sa.DateTime, nullable=False),
)  # fmt: skip
_notes = sa.Table(
    "commit_notes", _metadata,
    sa.Column("group_id", sa.String(36), primary_key=True),
    sa.Column("delta_version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String(32), primary_key=True),
    sa.Column("content", sa.JSON, nullable=False),
    sa.Column("created_at", sa.DateTime, nullable=False),
)  # fmt: skip


class Catalog:
    """The database behind `url`; tables are made on first use.

    Raises:
        FeatureStoreError: the database cannot be reached, or was written by a newer version of this package.
    """

    def __init__(self, url: str) -> None:
        try:
            self._url = sa.make_url(url)
            self._engine = sa.create_engine(self._url, pool_pre_ping=True)
        except (sa.exc.ArgumentError, ImportError) as error:
            shown = url.partition("@")[2] or url  # never a password
            raise FeatureStoreError(
                f"The catalog cannot be opened at {shown!r}: {error}. Expected sqlite:///path/to/catalog.db or "
                "postgresql+psycopg://user@host/database (install triptych[postgres])."
            ) from error
        if self._url.get_backend_name() == "sqlite" and self._url.database:
            try:
                Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise FeatureStoreError(
                    f"The feature store's home {Path(self._url.database).parent} cannot be made: {error}. "
                    "Choose another one with featurestore.connect(home=...) or FEATURESTORE_HOME."
                ) from error
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
            # Taking the write lock at the start makes a waiting writer see what the other one wrote.
            sa.event.listen(self._engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
        _CATALOGS.add(self)
        with self._transaction() as connection:
            if self._engine.dialect.name == "postgresql":  # two processes that make the same table there both fail
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_CREATION_LOCK})")
            _metadata.create_all(connection, checkfirst=True)
            found = connection.scalar(sa.select(_settings.c.value).where(_settings.c.name == "schema"))
            if found is None:
                connection.execute(sa.insert(_settings).values(name="schema", value=SCHEMA_VERSION))
            elif found > SCHEMA_VERSION:
                raise FeatureStoreError(
                    f"The catalog at {self._shown} has schema {found}; this triptych knows {SCHEMA_VERSION}. "
                    "Install the newer triptych that wrote it."
                )

    @property
    def _shown(self) -> str:
        return self._url.render_as_string(hide_password=True)

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.IntegrityError as error:
            raise Conflict("Another process registered the same name and version first. Get it instead.") from error
        except sa.exc.TimeoutError as error:
            raise Conflict(f"No free connection to the catalog {self._shown}: {error}. Try again.") from error
        except sa.exc.DatabaseError as error:  # also a file that is no database
            code = getattr(error.orig, "sqlite_errorname", None) or getattr(error.orig, "sqlstate", None) or ""
            if code.startswith(_BUSY):
                raise Conflict(
                    f"The catalog at {self._shown} stayed locked by another process ({error.orig}). "
                    "Nothing was written: try again."
                ) from error
            raise FeatureStoreError(
                f"The catalog at {self._shown} does not answer: {error.orig}. "
                "Check the address, the disk and the rights."
            ) from error

    def add(self, kind: Kind, name: str, version: int, definition: dict[str, Any]) -> str:
        """Register a definition; return its id.

        Raises:
            Conflict: the name and version exist already.
        """
        identifier = str(uuid.uuid4())
        with self._transaction() as connection:
            connection.execute(
                sa.insert(_things).values(
                    id=identifier, kind=kind, name=name, version=version, definition=definition, created_at=_now()
                )
            )
        return identifier

    def update(self, identifier: str, definition: dict[str, Any]) -> None:
        """Replace a definition."""
        with self._transaction() as connection:
            connection.execute(sa.update(_things).where(_things.c.id == identifier).values(definition=definition))

    def change(self, identifier: str, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Replace a definition by what `edit` makes of the stored one, while nobody else can; return the new one.

        Raises:
            NotFound: it was deleted.
        """
        with self._transaction() as connection:
            stored = connection.scalar(self._definition_of(identifier).with_for_update())
            if stored is None:
                raise _deleted_group()
            changed = edit(stored)
            if changed != stored:
                wanted = sa.update(_things).where(_things.c.id == identifier)
                connection.execute(wanted.values(definition=changed))
        return changed

    def definition(self, identifier: str) -> dict[str, Any]:
        """The definition of an id.

        Raises:
            NotFound: it was deleted.
        """
        with self._transaction() as connection:
            stored = connection.scalar(self._definition_of(identifier))
        if stored is None:
            raise _deleted_group()
        return stored

    @staticmethod
    def _definition_of(identifier: str) -> sa.Select[Any]:
        return sa.select(_things.c.definition).where(_things.c.id == identifier)

    def remove(self, identifier: str) -> None:
        """Forget a definition with its training datasets and notes."""
        with self._transaction() as connection:
            connection.execute(sa.delete(_training).where(_training.c.view_id == identifier))
            connection.execute(sa.delete(_settings).where(_settings.c.name == _deleted(identifier)))
            connection.execute(sa.delete(_notes).where(_notes.c.group_id == identifier))
            connection.execute(sa.delete(_things).where(_things.c.id == identifier))

    def find(self, kind: Kind, name: str, version: int | None = None) -> tuple[str, int, dict[str, Any]]:
        """Id, version and definition; the newest version when none is given.

        Raises:
            NotFound: no such name, or no such version; the message lists what there is.
        """
        there = self.list(kind)
        versions = {v: (i, d) for i, n, v, d in there if n == name}
        plain = kind.replace(" ", "_")
        if not versions:
            known = sorted({n for _, n, _, _ in there})
            raise NotFound(
                f"There is no {kind} {name!r} (known: {listed(known)}). Create it with fs.get_or_create_{plain}(...)."
            )
        wanted = max(versions) if version is None else version
        if wanted not in versions:
            raise NotFound(
                f"{kind.capitalize()} {name!r} has no version {wanted} (versions: {listed(sorted(versions))}). "
                f"Create it with fs.get_or_create_{plain}(...)."
            )
        return versions[wanted][0], wanted, versions[wanted][1]

    def list(self, kind: Kind) -> list[tuple[str, str, int, dict[str, Any]]]:
        """Id, name, version and definition of all of a kind, by name and version."""
        wanted = (
            sa.select(_things.c.id, _things.c.name, _things.c.version, _things.c.definition)
            .where(_things.c.kind == kind).order_by(_things.c.name, _things.c.version)
        )  # fmt: skip
        with self._transaction() as connection:
            return [(r.id, r.name, r.version, r.definition) for r in connection.execute(wanted)]

    def add_training_dataset(
        self, view_id: str, manifest: dict[str, Any], *, check: Callable[[], None] | None = None,
        place: Callable[[int], Sequence[str]] | None = None,
    ) -> int:  # fmt: skip
        """Register a training dataset under the view's next version, which no other ever had; return the version.

        Args:
            check: called when nobody can remove pinned files any more; when it fails, nothing is registered.
            place: called with the version, while nobody else can take it, to move the dataset's files into place; what
                it returns becomes `manifest["files"]`. When it fails, nothing is registered.
        Raises:
            Conflict: other processes registered theirs first many times in a row.
        """
        for _ in range(_ATTEMPTS):
            try:
                with self._transaction() as connection:
                    connection.execute(self._definition_of(view_id).with_for_update())  # one at a time for each view
                    newest = sa.select(sa.func.max(_training.c.version)).where(_training.c.view_id == view_id)
                    deleted = sa.select(_settings.c.value).where(_settings.c.name == _deleted(view_id))
                    version = 1 + max(connection.scalar(newest) or 0, connection.scalar(deleted) or 0)
                    row = {"view_id": view_id, "version": version, "manifest": manifest, "created_at": _now()}
                    connection.execute(sa.insert(_training).values(row))
                    if check is not None:
                        check()
                    if place is not None:
                        self._set_manifest(connection, view_id, version, manifest | {"files": [*place(version)]})
                return version
            except Conflict:
                continue
        raise Conflict(f"Other processes registered training datasets first {_ATTEMPTS} times. Try again.")

    def update_training_dataset(self, view_id: str, version: int, manifest: dict[str, Any]) -> None:
        """Replace a training dataset's manifest."""
        with self._transaction() as connection:
            self._set_manifest(connection, view_id, version, manifest)

    def amend_training_dataset(self, view_id: str, version: int, **entries: Any) -> None:
        """Add entries to a training dataset's manifest, as it is by now; a deleted or erased one takes none."""
        this = (_training.c.view_id == view_id) & (_training.c.version == version)
        with self._transaction() as connection:
            manifest = connection.scalar(sa.select(_training.c.manifest).where(this).with_for_update())
            if manifest is not None and "not_reproducible_since" not in manifest:
                self._set_manifest(connection, view_id, version, manifest | entries)

    @staticmethod
    def _set_manifest(connection: sa.Connection, view_id: str, version: int, manifest: dict[str, Any]) -> None:
        this = (_training.c.view_id == view_id) & (_training.c.version == version)
        connection.execute(sa.update(_training).where(this).values(manifest=manifest))

    def training_datasets(self, view_id: str) -> dict[int, dict[str, Any]]:
        """Manifests of a view's training datasets by version."""
        wanted = (
            sa.select(_training.c.version, _training.c.manifest)
            .where(_training.c.view_id == view_id).order_by(_training.c.version)
        )  # fmt: skip
        with self._transaction() as connection:
            return {r.version: r.manifest for r in connection.execute(wanted)}

    def training_dataset(self, view_id: str, version: int) -> dict[str, Any] | None:
        """The manifest of one training dataset; None when there is none."""
        this = (_training.c.view_id == view_id) & (_training.c.version == version)
        with self._transaction() as connection:
            return connection.scalar(sa.select(_training.c.manifest).where(this))

    def training_dataset_versions(self, view_id: str) -> Sequence[int]:
        """The versions of a view's training datasets, ascending."""
        wanted = sa.select(_training.c.version).where(_training.c.view_id == view_id).order_by(_training.c.version)
        with self._transaction() as connection:
            return list(connection.scalars(wanted))

    def all_training_datasets(self) -> Sequence[Registered]:
        """The training datasets of all views, by view and version."""
        with self._transaction() as connection:
            return self._registered(connection)

    @contextmanager
    def no_new_training_datasets(self) -> Iterator[Sequence[Registered]]:
        """All training datasets; until the block ends none is registered, by whatever process. Keep it short."""
        with self._transaction() as connection:
            if connection.dialect.name == "postgresql":  # SQLite's transactions exclude each other from the start
                connection.exec_driver_sql(f"LOCK TABLE {_training.name} IN SHARE MODE")
            yield self._registered(connection)

    @staticmethod
    def _registered(connection: sa.Connection) -> Sequence[Registered]:
        wanted = (
            sa.select(_things.c.id, _things.c.name, _things.c.version, _training.c.version, _training.c.manifest)
            .join_from(_training, _things).order_by(_things.c.name, _things.c.version, _training.c.version)
        )  # fmt: skip
        return [Registered(*row) for row in connection.execute(wanted)]

    def remove_training_dataset(self, view_id: str, version: int) -> None:
        """Forget a training dataset. Its version is not given again: models may name it."""
        name = _deleted(view_id)
        with self._transaction() as connection:
            connection.execute(
                sa.delete(_training).where(_training.c.view_id == view_id, _training.c.version == version)
            )
            last = connection.scalar(sa.select(_settings.c.value).where(_settings.c.name == name)) or 0
            connection.execute(sa.delete(_settings).where(_settings.c.name == name))
            connection.execute(sa.insert(_settings).values(name=name, value=max(last, version)))

    def note(self, group_id: str, delta_version: int, kind: str, content: Any) -> None:
        """Keep what belongs to a commit (its statistics, its validation report); the last one wins."""
        row = {
            "group_id": group_id, "delta_version": delta_version, "kind": kind, "content": content,
            "created_at": _now(),
        }  # fmt: skip
        with self._transaction() as connection:
            insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
            replaced = {name: row[name] for name in ("content", "created_at")}
            connection.execute(
                insert(_notes).values(row).on_conflict_do_update(index_elements=_notes.primary_key, set_=replaced)
            )

    def notes(self, group_id: str, kind: str) -> dict[int, Any]:
        """What was kept of a kind, by Delta version."""
        wanted = (
            sa.select(_notes.c.delta_version, _notes.c.content)
            .where(_notes.c.group_id == group_id, _notes.c.kind == kind).order_by(_notes.c.delta_version)
        )  # fmt: skip
        with self._transaction() as connection:
            return {r.delta_version: r.content for r in connection.execute(wanted)}

    def remove_note(self, group_id: str, delta_version: int, kind: str) -> None:
        """Drop what was kept of a kind with a commit."""
        key = (_notes.c.group_id == group_id) & (_notes.c.delta_version == delta_version) & (_notes.c.kind == kind)
        with self._transaction() as connection:
            connection.execute(sa.delete(_notes).where(key))

    def kinds_of_notes(self, group_id: str) -> set[str]:
        """The kinds of what was kept for a group."""
        with self._transaction() as connection:
            return set(connection.scalars(sa.select(_notes.c.kind).where(_notes.c.group_id == group_id).distinct()))

    def noted(self, group_id: str, kind: str) -> set[int]:
        """The Delta versions of which something of a kind was kept."""
        wanted = sa.select(_notes.c.delta_version).where(_notes.c.group_id == group_id, _notes.c.kind == kind)
        with self._transaction() as connection:
            return set(connection.scalars(wanted))

    def scrub(self) -> None:
        """Rewrite the database, so that no freed page and no log of it holds what was removed.

        PostgreSQL's own write-ahead log and backups keep old values until its administrator recycles them.

        Raises:
            Conflict: somebody kept using it; scrub again.
        """
        try:
            if self._engine.dialect.name == "sqlite":
                self._scrub_sqlite()
            else:
                with self._engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                    for table in (_training, _notes, _things):
                        connection.exec_driver_sql(f"VACUUM (FULL) {table.name}")
        except (sqlite3.OperationalError, sa.exc.OperationalError) as error:
            raise Conflict(f"The catalog at {self._shown} is in use: {error}. Try again.") from error

    def _scrub_sqlite(self) -> None:
        held = self._engine.raw_connection()  # without the transaction that every other use begins with
        try:
            cursor = held.cursor()
            cursor.execute("VACUUM")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            is_busy, *_ = cursor.fetchone() or (True,)
            if is_busy:
                raise Conflict(f"The catalog at {self._shown} is in use, so its log may still hold old values.")
        finally:
            held.close()

    def release(self, *, close: bool = True) -> None:
        """Let go of all connections; the next call opens its own."""
        self._engine.dispose(close=close)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


_CATALOGS: weakref.WeakSet[Catalog] = weakref.WeakSet()


def _before_fork() -> None:
    """Let go of idle connections: a child must not inherit them."""
    for catalog in list(_CATALOGS):
        catalog.release()


def _after_fork() -> None:
    """In the child: forget connections in use without closing them, which would end the parent's."""
    for catalog in list(_CATALOGS):
        catalog.release(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


def _deleted(view_id: str) -> str:
    """Where the newest deleted training dataset of a view is remembered."""
    return f"deleted:{view_id}"


def _deleted_group() -> NotFound:
    return NotFound("The feature group was deleted. Create it anew with fs.get_or_create_feature_group(...).")


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA busy_timeout = 30000")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
