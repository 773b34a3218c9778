"""Commits to the Delta table of a feature group: rows, columns and rules go in, whole or not at all.

Every commit is a compare-and-swap: it lands as the version after the one it was computed from, or not at all, and is
then computed again from the newer version. So two writers never lose each other's rows, on a local disk or an object
store, without a lock. What a commit means (window, counts, who) travels inside it.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import pyarrow as pa

from featurestore import data_files, delta_history, delta_log, delta_table, rewriting
from featurestore.commit_notes import NOTE, note_of
from featurestore.engines import duckdb as engine
from featurestore.engines.sql import COMMITTED_AT
from featurestore.engines.staging import Staged
from featurestore.errors import Conflict, FeatureStoreError, NotReproducible
from featurestore.schema import TIMESTAMP
from featurestore.snapshots import Commit, DataFile, Snapshot
from featurestore.times import Window, from_micros, to_micros

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable

    from featurestore.settings import Settings

_CLOCK = "triptych.clock"
_OWNER = "triptych.owner"
_CHECK = "rules_"
_ATTEMPTS = 30
_Result = TypeVar("_Result")
# Nothing expires by age: which files may go is decided by the pins of training datasets, in one place (vacuum).
_KEEP = {
    "delta.logRetentionDuration": "interval 5000 weeks",
    "delta.deletedFileRetentionDuration": "interval 5000 weeks",
}


def create(
    location: str, schema: pa.Schema, *, name: str, description: str = "", partition_by: Sequence[str] = (),
    owner: str = "", notes: Mapping[str, Mapping[str, str]] | None = None, check: str | None = None,
) -> None:  # fmt: skip
    """Make an empty table with the schema's columns and the hidden commit time; those that are never null come first.

    Args:
        owner: whose table it is: nothing happens when it is there already, made by another process for the same owner.
        notes: metadata of columns, by name.
        check: an SQL condition that every writer has to keep, see `keep_check`.
    Raises:
        Conflict: a table with rows of another owner lies there already.
    """
    from deltalake import DeltaTable

    Path(location).parent.mkdir(parents=True, exist_ok=True)
    # Delta's log tells the bounds of the first columns only: of those by which files are pruned, and of no others.
    hidden = pa.field(COMMITTED_AT, TIMESTAMP, nullable=False, metadata={_OWNER: owner})
    indexed = [*(f for f in schema if not f.nullable), hidden]
    columns = [*indexed, *(f for f in schema if f.nullable)]
    noted = [f.with_metadata({**(f.metadata or {}), **(notes or {}).get(f.name, {})}) for f in columns]
    options: dict[str, Any] = {
        "partition_by": list(partition_by) or None, "name": name, "description": description,
        "configuration": {**_KEEP, "delta.dataSkippingNumIndexedCols": str(len(indexed))},
    }  # fmt: skip
    with delta_table.translated(location):
        if DeltaTable.is_deltatable(location):
            there = DeltaTable(location)
            if owner and _owner(there) == owner:
                return
            # Without a catalog entry an empty table is what a crash left behind between the two; with rows it is data.
            if there.count():
                raise Conflict(
                    f"{location} holds a Delta table with rows that the catalog does not know. Move it away first."
                )
            drop(location)
        made = f"{location}.{uuid.uuid4().hex}"
        try:
            table = DeltaTable.create(made, pa.schema(noted), mode="error", **options)
            if check is not None:
                table.alter.add_constraint({_check_name(check): check})
                _fold(made)
            Path(made).rename(location)  # whole or not at all; refused when another process was faster
        except OSError:
            if not DeltaTable.is_deltatable(location) or _owner(DeltaTable(location)) != owner:
                raise
        finally:
            drop(made)


def _fold(location: str) -> None:
    """Make the two commits of a table that nobody has seen yet one: delta-rs cannot create a table with constraints."""
    first, second = (Path(location) / delta_log.FOLDER / f"{version:020d}.json" for version in (0, 1))
    newer = [a for a in delta_log.read_actions(second) if a.keys() & {"protocol", "metaData"}]
    kept = [a for a in delta_log.read_actions(first) if not a.keys() & {key for n in newer for key in n}]
    first.write_text("".join(json.dumps(action) + "\n" for action in (*kept, *newer)), encoding="utf-8")
    second.unlink()


def _check_name(condition: str) -> str:
    return f"{_CHECK}{hashlib.sha256(condition.encode()).hexdigest()[:8]}"


def _owner(table: DeltaTable) -> str | None:
    return next((f.metadata.get(_OWNER) for f in table.schema().fields if f.name == COMMITTED_AT), None)


@dataclass(frozen=True)
class Written:
    """A commit and the rows that it inserted or updated (None of staged rows)."""

    commit: Commit
    rows: pa.Table | None


def add_columns(
    location: str, schema: pa.Schema, *, notes: Mapping[str, Mapping[str, str]], who: str, order: str,
    clock: Callable[[], datetime],
) -> None:  # fmt: skip
    """Add those columns of the schema that the table lacks; they are null in every stored row. No file is rewritten."""
    from deltalake import Schema
    from deltalake.exceptions import DeltaError

    def attempt(table: DeltaTable, now: datetime) -> None:
        there = delta_table.schema_of(table).names
        missing = [f.with_metadata(dict(notes.get(f.name, {}))) for f in schema if f.name not in there]
        if not missing:
            return
        before = delta_table.snapshot_of(table, location, order)
        commit = Commit(before.version + 1, now, "append_features", who=who)
        try:
            fields = Schema.from_arrow(pa.schema(missing)).fields
            table.alter.add_columns(fields, commit_properties=_properties(commit, before.watermark))
        except DeltaError as error:
            if delta_table.open_table(location).version() > before.version:
                raise _Overtaken from error
            raise

    _swap(location, attempt, clock)


def keep_check(location: str, condition: str | None, *, who: str, order: str, clock: Callable[[], datetime]) -> None:
    """Make every writer of the table keep an SQL condition, and no earlier one; None: any row may enter.

    A condition that stored rows break is left out: it would be a lie.
    """
    from deltalake.exceptions import DeltaError

    wanted = None if condition is None else _check_name(condition)

    def attempt(table: DeltaTable, now: datetime) -> bool:
        prefix = f"delta.constraints.{_CHECK}"
        there = [key.removeprefix("delta.constraints.") for key in table.metadata().configuration if prefix in key]
        outdated = next((name for name in there if name != wanted), None)
        if outdated is None and (wanted is None or wanted in there):
            return False
        before = delta_table.snapshot_of(table, location, order)
        properties = _properties(Commit(before.version + 1, now, "check", who=who), before.watermark)
        try:
            if outdated is not None:
                table.alter.drop_constraint(outdated, commit_properties=properties)
            else:
                table.alter.add_constraint({str(wanted): str(condition)}, commit_properties=properties)
        except DeltaError as error:
            if delta_table.open_table(location).version() > before.version:
                raise _Overtaken from error
            if "validation check" in str(error):
                return False
            raise
        return True

    while _swap(location, attempt, clock):
        pass


def upsert(
    location: str, rows: pa.Table | Staged, *, identity: Sequence[str], order: str, who: str,
    window: Window | None = None, code: str = "", deduplicated: int = 0, report: Mapping[str, Any] | None = None,
    clock: Callable[[], datetime],
) -> Written:  # fmt: skip
    """Insert rows whose identity is new and update those whose values differ; commit nothing when nothing differs.

    Args:
        rows: the table's columns without the hidden one, ordered as `data_files.in_order` does, each identity once; or
            staged, for rows larger than memory.
        identity: columns that tell rows apart; never null.
        order: the column whose range prunes files (the event time, or the first key).
        window: committed together with the rows; its end may advance the watermark.
        code: which version of the code computed the rows; committed with them.
        report: what the rules said of the rows, to be committed with them.
    Returns:
        What was written. A commit without rows is made only for a window that this code has not committed before.
    Raises:
        Conflict: other writers were faster many times in a row; nothing was written.
    """

    def attempt(table: DeltaTable, now: datetime) -> Written:
        before = delta_table.snapshot_of(table, location, order)
        changes = rewriting.compared(before, rows, identity)
        commit = Commit(
            version=before.version + 1, time=now, operation="upsert", rows_inserted=changes.inserted,
            rows_updated=changes.updated, rows_unchanged=rows.num_rows - changes.inserted - changes.updated,
            rows_deduplicated=deduplicated, window=window, who=who, code=code, report=report,
        )  # fmt: skip
        if not commit.rows_written and _is_known(location, before, window, code):
            return Written(_unwritten(commit, before), changes.rows)
        portions = rewriting.portions(before, changes, now, delta_table.schema_of(table), identity)
        _commit(table, before, commit, removed=changes.touched, portions=portions)
        return Written(commit, changes.rows)

    return _swap(location, attempt, clock)


def overwrite(
    location: str, rows: pa.Table | Staged, *, identity: Sequence[str], order: str, who: str,
    window: Window | None = None, code: str = "", deduplicated: int = 0, report: Mapping[str, Any] | None = None,
    clock: Callable[[], datetime],
) -> Written:  # fmt: skip
    """Replace all rows by these; commit nothing when exactly these are stored. Otherwise as `upsert`."""

    def attempt(table: DeltaTable, now: datetime) -> Written:
        before = delta_table.snapshot_of(table, location, order)
        commit = Commit(
            version=before.version + 1, time=now, operation="overwrite", rows_inserted=rows.num_rows,
            rows_deleted=before.rows, rows_deduplicated=deduplicated, window=window, who=who, code=code, report=report,
        )  # fmt: skip
        if (
            _is_known(location, before, window, code)
            and rows.num_rows == before.rows
            and not delta_table.missing_files(f.path for f in before.files)
        ):
            changes = rewriting.compared(before, rows, identity)
            if not changes.inserted + changes.updated:
                same = replace(commit, rows_inserted=0, rows_deleted=0, rows_unchanged=rows.num_rows)
                return Written(_unwritten(same, before), changes.rows)
        everything = rewriting.compared(replace(before, files=()), rows, identity)
        portions = rewriting.portions(before, everything, now, delta_table.schema_of(table), identity)
        _commit(table, before, commit, removed=before.files, portions=portions)
        return Written(commit, everything.rows)

    return _swap(location, attempt, clock)


def delete(
    location: str, keys: pa.Table, *, order: str, who: str, clock: Callable[[], datetime],
) -> Commit:  # fmt: skip
    """Delete the rows whose columns named in `keys` equal one of its rows."""

    def attempt(table: DeltaTable, now: datetime) -> Commit:
        before = delta_table.snapshot_of(table, location, order)
        schema = delta_table.schema_of(table)
        touched, kept, deleted = [], [], 0
        for file in before.touching(rewriting.ranges(keys)) if keys.num_rows else ():
            left = engine.rows_without(data_files.read(file.path, schema), keys)
            if left.num_rows < file.rows:
                touched.append(file)
                kept.append([left])
                deleted += file.rows - left.num_rows
        commit = Commit(version=before.version + 1, time=now, operation="delete", rows_deleted=deleted, who=who)
        if not deleted:
            return _unwritten(commit, before)
        _commit(table, before, commit, removed=touched, portions=kept)
        return commit

    return _swap(location, attempt, clock)


def _unwritten(commit: Commit, before: Snapshot) -> Commit:
    # Not an upsert: the version it names holds somebody else's rows, which the online store may still lack.
    return replace(commit, version=before.version, operation="none")


def _next_time(table: DeltaTable, now: datetime) -> datetime:
    """The present, or a microsecond after the last commit: times tell commits apart, whatever the clocks do."""
    last = table.transaction_version(_CLOCK)
    return now if last is None or to_micros(now) > last else from_micros(last + 1)


def _swap(location: str, attempt: Callable[[DeltaTable, datetime], _Result], clock: Callable[[], datetime]) -> _Result:
    from deltalake.exceptions import DeltaError

    for round_ in range(_ATTEMPTS):
        table = delta_table.open_table(location)
        with delta_table.translated(location):
            try:
                return attempt(table, _next_time(table, clock()))
            except DeltaError as error:
                if round_ >= delta_table.STEADY_ATTEMPTS or not delta_table.is_unsteady(error):
                    raise
            except NotReproducible:  # a file went while it was read: replaced by another writer and vacuumed, or lost
                if delta_table.open_table(location).version() == table.version():
                    raise
            except _Overtaken:
                time.sleep(random.uniform(0, min(0.02 * 2**round_, 1.0)))
    raise Conflict(
        f"{location}: other writers committed first {_ATTEMPTS} times in a row. Nothing was written; try again."
    )


class _Overtaken(Exception):
    """Another writer committed the version first."""


def _commit(
    table: DeltaTable,
    before: Snapshot,
    commit: Commit,
    *,
    removed: Iterable[DataFile],
    portions: Iterable[Iterable[pa.Table]],
) -> None:
    """Write files with the rows and commit them in place of the removed ones, as the version after `before`.

    Each portion is in order and gets files of its own. delta-rs could write them (`replaceWhere`), but then it decides
    what lies in which file, reads the files it replaces once more, and takes twice the time for an append.
    """
    added: list[data_files.NewFile] = []
    try:
        for portion in portions:
            added += _write(table, before, portion)
        _publish(table, before, commit, added, removed)
    except BaseException:
        _discard(before.location, added, since=before.version)
        raise


def _discard(location: str, added: Sequence[data_files.NewFile], *, since: int) -> None:
    """Delete written files unless a commit after `since` refers to them: what was raised may have come after it.

    An interrupt reaches Python when delta-rs has returned, and a full disk may fail the checkpoint after a commit.
    """
    try:
        used = {path for entry in delta_log.entries(location, since + 1) for path in entry.added}
    except FeatureStoreError:
        return  # nobody can tell: the files stay, and vacuum finds them
    data_files.remove(location, [f for f in added if f.name not in used])


def _write(table: DeltaTable, before: Snapshot, batches: Iterable[pa.Table]) -> list[data_files.NewFile]:
    indexed = [*rewriting.identity_of(delta_table.schema_of(table)), COMMITTED_AT]
    partition_by = table.metadata().partition_columns
    return data_files.write(before.location, batches, order=before.order, indexed=indexed, partition_by=partition_by)


def _publish(
    table: DeltaTable, before: Snapshot, commit: Commit, added: Iterable[data_files.NewFile],
    removed: Iterable[DataFile], *, is_change: bool = True,
) -> None:  # fmt: skip
    """Commit written files in place of the removed ones, as the version after `before`."""
    from deltalake.exceptions import DeltaError
    from deltalake.transaction import AddAction, RemoveAction

    millis = int(time.time() * 1000)
    actions: list[AddAction | RemoveAction] = [
        *(AddAction(f.name, f.size, f.partition, millis, is_change, f.statistics) for f in added),
        *(RemoveAction(quote(f.path[len(before.location) + 1 :]), is_change, millis) for f in removed),
    ]
    properties, partition_by = _properties(commit, before.watermark), table.metadata().partition_columns
    try:
        table.create_write_transaction(actions, "append", table.schema(), partition_by, commit_properties=properties)
    except Exception as error:  # delta-rs raises its own, OSError and bare Exception; each may come after the commit
        try:
            newest = delta_table.open_table(before.location)
            mine = newest.version() >= commit.version and _id_at(newest, commit.version) == commit.id
        except FeatureStoreError:
            raise FeatureStoreError(
                f"{before.location}: nobody can tell whether version {commit.version} was committed: {error}. "
                "Run `featurestore doctor`, then insert again: rows that are stored already are not written twice."
            ) from error
        if mine:
            return  # what failed came after the commit, such as a checkpoint
        if newest.version() >= commit.version:
            raise _Overtaken from error
        if isinstance(error, DeltaError | OSError):
            raise
        raise FeatureStoreError(f"{before.location}: the commit failed: {error}. Nothing was written.") from error


def compact(
    location: str, files: Sequence[DataFile], *, identity: Sequence[str], order: str, settings: Settings,
    clock: Callable[[], datetime],
) -> Commit | None:  # fmt: skip
    """Write the rows of some files anew, in order; None when other writers replaced one of them first.

    No row changes, nor when it was committed. The rows are read and written once, however many commits of others come
    in between: files that are still part of the table say that nothing about their rows has changed.

    Raises:
        Conflict: other writers were faster many times in a row.
    """
    start = delta_table.open_table(location)
    schema = pa.schema(start.schema().to_arrow())
    rows = engine.sorted_rows(
        [f.path for f in files], schema, by=list(dict.fromkeys([order, *identity])),
        memory_limit=settings.memory_limit, threads=settings.threads, temp_directory=settings.temp_directory,
    )  # fmt: skip
    try:
        added = _write(start, delta_table.snapshot_of(start, location, order), rows)
    except NotReproducible:
        if {f.path for f in files} <= {f.path for f in delta_table.snapshot(location, order).files}:
            raise
        return None  # replaced by another writer and vacuumed

    def attempt(table: DeltaTable, now: datetime) -> Commit | None:
        before = delta_table.snapshot_of(table, location, order)
        is_whole = not delta_table.missing_files(f"{before.location}/{f.name}" for f in added)
        if not is_whole or not {f.path for f in files} <= {f.path for f in before.files}:
            return None
        commit = Commit(
            version=before.version + 1, time=now, operation="optimize", rows_unchanged=sum(f.rows for f in files),
            who=settings.who,
        )  # fmt: skip
        _publish(table, before, commit, added, files, is_change=False)
        return commit

    try:
        commit = _swap(location, attempt, clock)
    except BaseException:
        _discard(location, added, since=start.version())
        raise
    if commit is None:
        data_files.remove(location, added)
    return commit


def _id_at(table: DeltaTable, version: int) -> str | None:
    entries = table.history(table.version() - version + 1)
    return json.loads(entries[-1].get(NOTE) or "{}").get("id") if entries else None


def _properties(commit: Commit, watermark_before: datetime | None) -> CommitProperties:
    from deltalake import CommitProperties, Transaction

    transactions = [Transaction(_CLOCK, to_micros(commit.time))]
    if commit.window is not None:
        # A Delta transaction id survives checkpoints and log clean-up, so the watermark costs no reading of history.
        end = max(commit.window.end, watermark_before) if watermark_before else commit.window.end
        transactions.append(Transaction(delta_table.WATERMARK, to_micros(end)))
    # No retries inside delta-rs: it would re-base an append over rows it never compared with.
    return CommitProperties(
        custom_metadata={NOTE: note_of(commit)}, app_transactions=transactions, max_commit_retries=0
    )


def _is_known(location: str, before: Snapshot, window: Window | None, code: str) -> bool:
    """Whether a commit without rows would say nothing new: the window was committed, last by this very code."""
    if window is None:
        return True
    if before.watermark is None:
        return False
    of_window = [commit.code for commit in delta_history.commits(location) if commit.window == window]
    return bool(of_window) and code in ("", of_window[-1])


def checkpoint(location: str) -> int:
    """Write a checkpoint of the newest version, from which it is read from then on; return the version."""
    table = delta_table.open_table(location)
    with delta_table.translated(location):
        table.create_checkpoint()
    return table.version()


def drop(location: str) -> None:
    """Remove the table and its files."""
    import shutil

    shutil.rmtree(location, ignore_errors=True)
