"""Brings a group's online table up to its Delta table, at the cost of what changed since the version it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from featurestore import delta_history, delta_table
from featurestore.engines import duckdb as engine
from featurestore.errors import Conflict, NotReproducible, SchemaMismatch
from featurestore.online_table import OnlineTable
from featurestore.schema import arrow_schema
from featurestore.snapshots import Commit, Snapshot

if TYPE_CHECKING:
    from featurestore.online import OnlineStore

_ATTEMPTS = 10
_FIRST_BLOCK = 4


def after(commit: Commit, rows: pa.Table | None, *, online: OnlineStore, table: OnlineTable, location: str) -> None:
    """Put a commit online: its own rows when nothing else is missing there, else all that changed in between.

    Args:
        rows: the rows of the commit; None when they are not at hand.
    """
    _make(online, table)
    held = online.version(table)
    if held == commit.version:
        return
    is_next = held == commit.version - 1 or (held is None and commit.version == 1)
    try:
        if commit.operation == "upsert" and is_next and rows is not None:
            online.upsert(table, rows, delta_version=commit.version, previous_version=held)
            return
        if commit.operation == "overwrite" and rows is not None:
            online.rebuild(table, rows, delta_version=commit.version)
            return
    except Conflict:
        pass  # another writer moved on in between: catch up with both below
    catch_up(online, table, location)


def catch_up(online: OnlineStore, table: OnlineTable, location: str) -> None:
    """Apply to the online table what changed in Delta since the version it holds.

    Of keys with deleted rows the newest row left is looked up. Everything is written anew when the table was never
    written, when files of the version it holds are gone, and when it holds a version that Delta does not have.

    Raises:
        Conflict: other processes wrote the online table many times in a row.
    """
    lost: NotReproducible | None = None
    for _ in range(_ATTEMPTS):
        # First what is online, then what is newest: the other way round a faster writer would look like a lost lake.
        held = online.version(table)
        newest = delta_table.snapshot(location, _order(table))
        if held == newest.version:
            return
        _make(online, table)
        try:
            if held is not None and held > newest.version:
                online.drop(table)
                online.create(table)
                held = None
            if held is None or not _apply_changes(online, table, newest, held):
                online.rebuild(table, _newest_of_all(table, newest), delta_version=newest.version)
            return
        except Conflict:
            continue
        except NotReproducible as error:  # a file was replaced and vacuumed while it was read; or it is lost
            lost = error
    if lost is not None:
        raise lost
    raise Conflict(
        f"Online table {table.shown!r}: other processes wrote it {_ATTEMPTS} times in a row. Offline has every row; "
        "the next insert or init_serving brings online up to it."
    )


def _make(online: OnlineStore, table: OnlineTable) -> None:
    """Make the table, or give it the features that it lacks."""
    try:
        online.create(table)
    except SchemaMismatch:  # unless it has other columns, which this one refuses as well
        online.append_features(table, ())


def _apply_changes(online: OnlineStore, table: OnlineTable, newest: Snapshot, held: int) -> bool:
    """Whether the changes since the version held could be read; then they are online."""
    identity = _identity(table)
    try:
        changes = delta_history.changes(newest.location, held, newest.version, identity=identity, order=_order(table))
    except NotReproducible:
        return False
    gone = changes.filter(pc.equal(changes[delta_history.CHANGE], "delete")).select(list(table.primary_key))
    written = changes.filter(pc.not_equal(changes[delta_history.CHANGE], "delete")).select(_schema(table).names)
    versions = {"delta_version": newest.version, "previous_version": held}
    if not gone.num_rows:
        online.upsert(table, written, **versions)
    else:
        keys = gone.group_by(list(table.primary_key)).aggregate([])
        left = _newest_left(table, newest, keys)
        online.replace(table, keys, pa.concat_tables([left, written.cast(left.schema)]), **versions)
    return True


def _newest_left(table: OnlineTable, snapshot: Snapshot, keys: pa.Table) -> pa.Table:
    """The newest stored row of each key, and perhaps older ones; files are read newest first, until all are found."""
    schema = _schema(table)
    if table.event_time is None:
        return schema.empty_table()  # the key was the identity: its only row is gone
    unknown = [f for f in snapshot.files if f.high is None]
    files = unknown + sorted((f for f in snapshot.files if f.high is not None), key=lambda f: f.high, reverse=True)
    found, size = [schema.empty_table()], max(_FIRST_BLOCK, len(unknown))
    while files and keys.num_rows:
        block, files = files[:size], files[size:]
        size *= 2
        rows = engine.newest_rows([f.path for f in block], keys, schema, by=table.primary_key, order=table.event_time)
        found.append(rows)
        if files:  # a row later than all that is unread is the newest of its key
            unread = pa.scalar(files[0].high, rows[table.event_time].type)
            final = rows.filter(pc.greater(rows[table.event_time], unread))
            keys = engine.rows_without(keys, final.select(list(table.primary_key)))
    return pa.concat_tables(found)


def _newest_of_all(table: OnlineTable, snapshot: Snapshot) -> pa.Table:
    return engine.newest_rows(snapshot.between(), None, _schema(table), by=table.primary_key, order=_order(table))


def _schema(table: OnlineTable) -> pa.Schema:
    return arrow_schema(table.features, _identity(table))


def _identity(table: OnlineTable) -> tuple[str, ...]:
    return (*table.primary_key, table.event_time) if table.event_time else table.primary_key


def _order(table: OnlineTable) -> str:
    return table.event_time or table.primary_key[0]
