"""One feature group as a Delta table: the only module that imports deltalake.

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote

import pyarrow as pa

from featurestore import data_files, delta_log, rewriting
from featurestore.engines import duckdb as engine
from featurestore.engines.sql import COMMITTED_AT as COMMITTED_AT
from featurestore.engines.staging import Staged
from featurestore.errors import Conflict, FeatureStoreError, InvalidTime, NotFound, NotReproducible
from featurestore.rewriting import ColumnsMissing as ColumnsMissing
from featurestore.schema import TIMESTAMP
from featurestore.snapshots import Commit as Commit
from featurestore.snapshots import DataFile as DataFile
from featurestore.snapshots import Snapshot as Snapshot
from featurestore.times import Window, from_micros, is_version, parse_time, to_micros

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable

    from featurestore.settings import Settings

CHANGE = "__change"
"""Column of `changes`: "insert", "update" or "delete"."""

_NOTE = "triptych"
_WATERMARK = "triptych.watermark"
_CLOCK = "triptych.clock"
_OWNER = "triptych.owner"
_CHECK = "rules_"
_ATTEMPTS = 30
_STEADY_ATTEMPTS = 10
_Result = TypeVar("_Result")
# Nothing expires by age: which files may go is decided by the pins of training datasets, in one place (vacuum).
_KEEP = {
    "delta.logRetentionDuration": "interval 5000 weeks",
    "delta.deletedFileRetentionDuration": "interval 5000 weeks",
}


@contextmanager
def _translated(location: str) -> Iterator[None]:
    from deltalake.exceptions import DeltaError, TableNotFoundError

    try:
        yield
    except TableNotFoundError as error:
        raise NotFound(f"There is no Delta table at {location}. Was the folder moved or deleted?") from error
    except DeltaError as error:
        raise FeatureStoreError(
            f"The Delta table at {location} cannot be read or written: {str(error).splitlines()[0]}. "
            "Run `featurestore doctor` to see which file is missing or damaged."
        ) from error
    except FileNotFoundError as error:
        raise NotReproducible(
            f"A data file of the Delta table at {location} is gone: {error}. Nothing was committed. "
            "Run `featurestore doctor` to see which files are missing, and restore them from a backup."
        ) from error
    except OSError as error:
        raise FeatureStoreError(
            f"The Delta table at {location} cannot be read or written: {error}. "
            "Check that the disk has room and that you may write there. Nothing was committed."
        ) from error


def exists(location: str) -> bool:
    """Whether a Delta table lies there."""
    from deltalake import DeltaTable

    with _translated(location):
        return DeltaTable.is_deltatable(location)


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
    with _translated(location):
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


def _schema(table: DeltaTable) -> pa.Schema:
    """The table's columns, without what it notes of them."""
    return pa.schema([f.remove_metadata() for f in pa.schema(table.schema().to_arrow())])


def snapshot(location: str, order: str, version: int | None = None) -> Snapshot:
    """The table at a version (newest by default); `order` names the column whose range prunes files.

    Raises:
        NotFound: no table there, or it has no such version.
        NotReproducible: a version was asked for whose files are gone.
    """
    found = _snapshot_at(location, order, version)
    if version is not None:
        check_there(location, version, [f.path for f in found.files])
    return found


def _snapshot_at(location: str, order: str, version: int | None) -> Snapshot:
    return _steady(lambda: _snapshot(_open(location, version), location, order))


def check_there(location: str, version: int, paths: Sequence[str]) -> None:
    """Refuse a version some of whose files are gone.

    Raises:
        NotReproducible: the message names one, and says what removes files.
    """
    if gone := missing_files(paths):
        raise NotReproducible(
            f"Version {version} of {location} can no longer be read: {len(gone)} of its data files are gone, such as "
            f"{Path(gone[0]).name}. vacuum() removes what no live training dataset pins once it is older than its "
            "retention, and forget() removes what held a forgotten key. Read a newer version, or restore the files "
            "from a backup."
        )


def _steady(read: Callable[[], _Result]) -> _Result:
    """What reading the log gives; read again where it looks damaged because `forget` just replaced a checkpoint."""
    from deltalake.exceptions import DeltaError

    attempts = _STEADY_ATTEMPTS
    while True:
        try:
            return read()
        except (DeltaError, FeatureStoreError) as error:
            attempts -= 1
            if not attempts or not _is_unsteady(error):
                raise
            time.sleep(0.02)


def _is_unsteady(error: Exception) -> bool:
    return any(word in str(error) for word in (".checkpoint.parquet", "Parquet error"))


def _open(location: str, version: int | None = None) -> DeltaTable:
    return _steady(lambda: _open_once(location, version))


def _open_once(location: str, version: int | None) -> DeltaTable:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    with _translated(location):
        if version is None:
            table = DeltaTable(location)
            delta_log.check_newest(location, table.version())
            return table
        try:
            return DeltaTable(location, version=version)
        except DeltaError as error:
            newest = DeltaTable(location).version()
            if not 0 <= version <= newest:
                raise NotFound(f"{location} has no Delta version {version} (versions: 0 to {newest}).") from error
            raise NotReproducible(f"Delta version {version} of {location} can no longer be read: {error}.") from error


def _snapshot(table: DeltaTable, location: str, order: str) -> Snapshot:
    actions = pa.table(table.get_add_actions(flatten=True))
    root, names = location.rstrip("/"), [n[4:] for n in actions.column_names if n.startswith("min.")]
    ranges = [
        {n: (low, _latest(high)) for n, low, high in zip(names, lows, highs, strict=True) if high is not None}
        for lows, highs in zip(*(_lists(actions, [f"{end}.{n}" for n in names]) for end in ("min", "max")), strict=True)
    ]
    files = [
        DataFile(f"{root}/{unquote(path)}", rows or 0, *bounds.get(order, (None, None)), bounds)
        for path, rows, bounds in zip(
            actions["path"].to_pylist(), actions["num_records"].to_pylist(), ranges, strict=True
        )
    ]
    micros = table.transaction_version(_WATERMARK)
    return Snapshot(
        location=root, table_id=str(table.metadata().id), version=table.version(), order=order,
        # The log lists newest files first; rows are easier to follow, and compress better, in order of time.
        files=tuple(sorted(files, key=lambda f: (f.low is not None, f.low if f.low is not None else 0, f.path))),
        watermark=None if micros is None else from_micros(micros),
    )  # fmt: skip


def _lists(table: pa.Table, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """The rows of some columns."""
    return list(zip(*(table[n].to_pylist() for n in names), strict=True)) if names else [()] * table.num_rows


def _latest(high: Any) -> Any:
    """The largest value a file may hold: of times other writers log whole milliseconds, rounded down."""
    is_rounded = isinstance(high, datetime) and high.microsecond % 1000 == 0
    return high.replace(microsecond=high.microsecond + 999) if is_rounded else high


def watermark(location: str) -> datetime | None:
    """The largest window end committed, or None."""
    micros = _open(location).transaction_version(_WATERMARK)
    return None if micros is None else from_micros(micros)


def history(location: str, newest: int | None = None) -> list[Commit]:
    """Every commit, or so many of the newest, oldest first."""
    table = _open(location)
    with _translated(location):
        return [_commit_of(entry) for entry in reversed(list(table.history(newest)))]


def history_frame(commits: Sequence[Commit]) -> pa.Table:
    """Commits as a table, one row each; the window as two columns."""
    schema = pa.schema([
        ("version", pa.int64()), ("time", TIMESTAMP), ("operation", pa.string()), ("rows_inserted", pa.int64()),
        ("rows_updated", pa.int64()), ("rows_deleted", pa.int64()), ("window_start", TIMESTAMP),
        ("window_end", TIMESTAMP), ("who", pa.string()), ("statistics_id", pa.int64()),
    ])  # fmt: skip
    return pa.Table.from_pylist(
        [vars(c) | {f"window_{end}": c.window and getattr(c.window, end) for end in ("start", "end")} for c in commits],
        schema=schema,
    )


def _commit_of(entry: Mapping[str, Any]) -> Commit:
    note = json.loads(entry.get(_NOTE) or "{}")
    moment = from_micros(note["at"]) if "at" in note else datetime.fromtimestamp(entry["timestamp"] / 1000, UTC)
    window = note.get("window")
    return Commit(
        version=entry["version"],
        time=moment,
        operation=note.get("operation", str(entry.get("operation", "")).lower()),
        rows_inserted=note.get("inserted", 0),
        rows_updated=note.get("updated", 0),
        rows_deleted=note.get("deleted", 0),
        rows_unchanged=note.get("unchanged", 0),
        rows_deduplicated=note.get("deduplicated", 0),
        window=None if window is None else Window(from_micros(window[0]), from_micros(window[1])),
        who=note.get("who", ""),
        id=note.get("id", ""),
        report=note.get("report"),
    )


def version_at(location: str, as_of: int | Any) -> int:
    """The version that was current at a time; a whole number below 100,000,000 is taken as the version itself.

    Raises:
        InvalidTime: the time lies before the table's first commit.
        NotFound: there is no such version.
    """
    if is_version(as_of):
        return _open(location, as_of).version()
    moment = parse_time(as_of)
    commits = history(location)
    past = [c.version for c in commits if c.time <= moment]
    if not past:
        first = commits[0].time if commits else None
        raise InvalidTime(f"Nothing was committed to {location} by {moment}: its first commit is of {first}.")
    return past[-1]


def changes(location: str, since: int, until: int, *, identity: Sequence[str], order: str) -> pa.Table:
    """Net changes from one version to another: which rows are new, differ, or are gone.

    Only files that the two versions do not share are read, so rows that merely moved to another file cost a comparison
    and are no change, and neither is a row that was deleted and inserted again with the same values.

    Returns:
        The table's columns, `__committed_at` among them, then `__change`: of an insert or update the values at
        `until`, of a delete the last ones. Ordered by `order`, then identity; each identity once.
    Raises:
        NotFound: there is no such version.
        NotReproducible: a version's files are gone.
    """
    since, until = _settled(location, since, until)
    table = _open(location, until)
    schema = _schema(table)
    before = {f.path for f in _snapshot_at(location, order, since).files}
    after = {f.path for f in _snapshot_at(location, order, until).files}
    old, new = sorted(before - after), sorted(after - before)
    check_there(location, since, old)
    check_there(location, until, new)
    return engine.difference(old, new, schema, identity=identity, order=list(dict.fromkeys([order, *identity])))


def _settled(location: str, since: int, until: int) -> tuple[int, int]:
    """The same stretch without the compactions at its ends: they change no row, but every file."""
    if since >= until:
        return since, since
    moves = {
        e.version for e in delta_log.entries(location, since + 1, until)
        if _commit_of({**e.info, "version": e.version}).operation == "optimize"
    }  # fmt: skip
    while since + 1 in moves:
        since += 1
    while until > since and until in moves:
        until -= 1
    return since, until


@dataclass(frozen=True)
class Written:
    """A commit and the rows that it inserted or updated (None of staged rows)."""

    commit: Commit
    rows: pa.Table | None


@dataclass(frozen=True)
class RowFile:
    """A data file and when it was part of the table: from the commit at `added` until that at `removed` (None: still).

    A file that compaction wrote counts from when the first of those it replaced did.
    """

    path: str
    added: datetime
    removed: datetime | None


def row_files(location: str, version: int) -> list[RowFile]:
    """Every data file that was part of the table at or before a version: together all values its rows ever had.

    Files that compaction replaced are left out, because their rows lie on in those it wrote. A file may have been
    vacuumed since.

    Raises:
        FeatureStoreError: the log has gaps or does not reach back to the first version.
    """
    lives: dict[str, RowFile] = {}
    for entry in delta_log.entries(location, 0, version):
        commit = _commit_of({**entry.info, "version": entry.version})
        if commit.operation == "optimize":
            replaced = [lives.pop(path) for path in entry.removed if path in lives]
            added = min((f.added for f in replaced), default=commit.time)
        else:
            for path in entry.removed:
                if path in lives:
                    lives[path] = replace(lives[path], removed=commit.time)
            added = commit.time
        for path in entry.added:
            lives[path] = RowFile(f"{location.rstrip('/')}/{path}", added, None)
    return list(lives.values())


def add_columns(
    location: str, schema: pa.Schema, *, notes: Mapping[str, Mapping[str, str]], who: str, order: str,
    clock: Callable[[], datetime],
) -> None:  # fmt: skip
    """Add those columns of the schema that the table lacks; they are null in every stored row. No file is rewritten."""
    from deltalake import Schema
    from deltalake.exceptions import DeltaError

    def attempt(table: DeltaTable, now: datetime) -> None:
        missing = [f.with_metadata(dict(notes.get(f.name, {}))) for f in schema if f.name not in _schema(table).names]
        if not missing:
            return
        before = _snapshot(table, location, order)
        commit = Commit(before.version + 1, now, "append_features", who=who)
        try:
            fields = Schema.from_arrow(pa.schema(missing)).fields
            table.alter.add_columns(fields, commit_properties=_properties(commit, before.watermark))
        except DeltaError as error:
            if _open(location).version() > before.version:
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
        before = _snapshot(table, location, order)
        properties = _properties(Commit(before.version + 1, now, "check", who=who), before.watermark)
        try:
            if outdated is not None:
                table.alter.drop_constraint(outdated, commit_properties=properties)
            else:
                table.alter.add_constraint({str(wanted): str(condition)}, commit_properties=properties)
        except DeltaError as error:
            if _open(location).version() > before.version:
                raise _Overtaken from error
            if "validation check" in str(error):
                return False
            raise
        return True

    while _swap(location, attempt, clock):
        pass


def upsert(
    location: str, rows: pa.Table | Staged, *, identity: Sequence[str], order: str, who: str,
    window: Window | None = None, deduplicated: int = 0, report: Mapping[str, Any] | None = None,
    clock: Callable[[], datetime],
) -> Written:  # fmt: skip
    """Insert rows whose identity is new and update those whose values differ; commit nothing when nothing differs.

    Args:
        rows: the table's columns without the hidden one, ordered as `data_files.in_order` does, each identity once; or
            staged, for rows larger than memory.
        identity: columns that tell rows apart; never null.
        order: the column whose range prunes files (the event time, or the first key).
        window: committed together with the rows; its end may advance the watermark.
        report: what the rules said of the rows, to be committed with them.
    Returns:
        What was written. A commit without rows is made only for a window that was not committed before.
    Raises:
        Conflict: other writers were faster many times in a row; nothing was written.
    """

    def attempt(table: DeltaTable, now: datetime) -> Written:
        before = _snapshot(table, location, order)
        changes = rewriting.compared(before, rows, identity)
        commit = Commit(
            version=before.version + 1, time=now, operation="upsert", rows_inserted=changes.inserted,
            rows_updated=changes.updated, rows_unchanged=rows.num_rows - changes.inserted - changes.updated,
            rows_deduplicated=deduplicated, window=window, who=who, report=report,
        )  # fmt: skip
        if not commit.rows_written and (window is None or window in _windows(location, before)):
            return Written(_unwritten(commit, before), changes.rows)
        portions = rewriting.portions(before, changes, now, _schema(table), identity)
        _commit(table, before, commit, removed=changes.touched, portions=portions)
        return Written(commit, changes.rows)

    return _swap(location, attempt, clock)


def overwrite(
    location: str, rows: pa.Table | Staged, *, identity: Sequence[str], order: str, who: str,
    window: Window | None = None, deduplicated: int = 0, report: Mapping[str, Any] | None = None,
    clock: Callable[[], datetime],
) -> Written:  # fmt: skip
    """Replace all rows by these; commit nothing when exactly these are stored. Otherwise as `upsert`."""

    def attempt(table: DeltaTable, now: datetime) -> Written:
        before = _snapshot(table, location, order)
        commit = Commit(
            version=before.version + 1, time=now, operation="overwrite", rows_inserted=rows.num_rows,
            rows_deleted=before.rows, rows_deduplicated=deduplicated, window=window, who=who, report=report,
        )  # fmt: skip
        is_known = window is None or window in _windows(location, before)
        if is_known and rows.num_rows == before.rows and not missing_files(f.path for f in before.files):
            changes = rewriting.compared(before, rows, identity)
            if not changes.inserted + changes.updated:
                same = replace(commit, rows_inserted=0, rows_deleted=0, rows_unchanged=rows.num_rows)
                return Written(_unwritten(same, before), changes.rows)
        everything = rewriting.compared(replace(before, files=()), rows, identity)
        portions = rewriting.portions(before, everything, now, _schema(table), identity)
        _commit(table, before, commit, removed=before.files, portions=portions)
        return Written(commit, everything.rows)

    return _swap(location, attempt, clock)


def delete(
    location: str, keys: pa.Table, *, order: str, who: str, clock: Callable[[], datetime],
) -> Commit:  # fmt: skip
    """Delete the rows whose columns named in `keys` equal one of its rows."""

    def attempt(table: DeltaTable, now: datetime) -> Commit:
        before = _snapshot(table, location, order)
        schema = _schema(table)
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
        table = _open(location)
        with _translated(location):
            try:
                return attempt(table, _next_time(table, clock()))
            except DeltaError as error:
                if round_ >= _STEADY_ATTEMPTS or not _is_unsteady(error):
                    raise
            except NotReproducible:  # a file went while it was read: replaced by another writer and vacuumed, or lost
                if _open(location).version() == table.version():
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
    indexed = [*rewriting.identity_of(_schema(table)), COMMITTED_AT]
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
            newest = _open(before.location)
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
    start = _open(location)
    schema = pa.schema(start.schema().to_arrow())
    rows = engine.sorted_rows(
        [f.path for f in files], schema, by=list(dict.fromkeys([order, *identity])),
        memory_limit=settings.memory_limit, threads=settings.threads, temp_directory=settings.temp_directory,
    )  # fmt: skip
    try:
        added = _write(start, _snapshot(start, location, order), rows)
    except NotReproducible:
        if {f.path for f in files} <= {f.path for f in snapshot(location, order).files}:
            raise
        return None  # replaced by another writer and vacuumed

    def attempt(table: DeltaTable, now: datetime) -> Commit | None:
        before = _snapshot(table, location, order)
        is_whole = not missing_files(f"{before.location}/{f.name}" for f in added)
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
    return json.loads(entries[-1].get(_NOTE) or "{}").get("id") if entries else None


def _properties(commit: Commit, watermark_before: datetime | None) -> CommitProperties:
    from deltalake import CommitProperties, Transaction

    note: dict[str, Any] = {
        "operation": commit.operation, "at": to_micros(commit.time), "who": commit.who, "id": commit.id,
        "inserted": commit.rows_inserted, "updated": commit.rows_updated, "deleted": commit.rows_deleted,
        "unchanged": commit.rows_unchanged, "deduplicated": commit.rows_deduplicated,
    }  # fmt: skip
    transactions = [Transaction(_CLOCK, to_micros(commit.time))]
    if commit.report is not None:
        note["report"] = dict(commit.report)
    if commit.window is not None:
        note["window"] = [to_micros(commit.window.start), to_micros(commit.window.end)]
        # A Delta transaction id survives checkpoints and log clean-up, so the watermark costs no reading of history.
        end = max(commit.window.end, watermark_before) if watermark_before else commit.window.end
        transactions.append(Transaction(_WATERMARK, to_micros(end)))
    # No retries inside delta-rs: it would re-base an append over rows it never compared with.
    return CommitProperties(
        custom_metadata={_NOTE: json.dumps(note)}, app_transactions=transactions, max_commit_retries=0
    )


def _windows(location: str, before: Snapshot) -> set[Window]:
    if before.watermark is None:
        return set()
    return {c.window for c in history(location) if c.window is not None}


def append_loose(location: str, rows: pa.Table) -> None:
    """Append rows to a table of no contract (the quarantine); it is made, and gains columns, as needed."""
    from deltalake import write_deltalake

    with _translated(location):
        write_deltalake(location, rows, mode="append", schema_mode="merge")


def delete_loose(location: str, keys: pa.Table) -> int:
    """Delete the rows of a table of no contract that have one of the keys; return how many.

    Raises:
        Conflict: other writers were faster many times in a row.
    """
    from deltalake import CommitProperties
    from deltalake.exceptions import CommitFailedError

    same = " AND ".join(f"t.{engine.quote(c)} = k.{engine.quote(c)}" for c in keys.column_names)
    for _ in range(_ATTEMPTS):
        with _translated(location):
            try:
                merge = _open(location).merge(
                    keys, same, source_alias="k", target_alias="t",
                    commit_properties=CommitProperties(max_commit_retries=0),
                )  # fmt: skip
                return merge.when_matched_delete().execute()["num_target_rows_deleted"]
            except CommitFailedError:
                time.sleep(random.uniform(0, 0.1))
    raise Conflict(f"{location}: other writers committed first {_ATTEMPTS} times in a row. Try again.")


def arrow_schema(location: str) -> pa.Schema:
    """The columns of a table's newest version, with their types."""
    return pa.schema(_open(location).schema().to_arrow())


def column_names(location: str, version: int | None = None) -> list[str]:
    """The columns of a table at a version (newest by default), the hidden one among them."""
    return [f.name for f in _open(location, version).schema().fields]


def partitions(location: str, version: int | None = None) -> dict[str, tuple[Any, ...]]:
    """The values of the partition columns of each data file of a version (newest by default), by path."""
    actions = _steady(lambda: pa.table(_open(location, version).get_add_actions(flatten=True)))
    columns = [n for n in actions.column_names if n.startswith("partition.")]
    paths = [f"{location.rstrip('/')}/{unquote(path)}" for path in actions["path"].to_pylist()]
    return dict(zip(paths, _lists(actions, columns), strict=True))


def live_files(location: str) -> list[str]:
    """The paths of the newest version's data files."""
    return list(partitions(location))


def checkpoint(location: str) -> int:
    """Write a checkpoint of the newest version, from which it is read from then on; return the version."""
    table = _open(location)
    with _translated(location):
        table.create_checkpoint()
    return table.version()


def drop(location: str) -> None:
    """Remove the table and its files."""
    import shutil

    shutil.rmtree(location, ignore_errors=True)


def missing_files(paths: Iterable[str]) -> list[str]:
    """The files that are no longer there."""
    return [p for p in paths if not Path(p).exists()]
