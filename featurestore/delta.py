"""One feature group as a Delta table: the only module that imports deltalake.

Every commit is a compare-and-swap: it lands as the version after the one it was computed from, or not at all, and is
then computed again from the newer version. So two writers never lose each other's rows, on a local disk or an object
store, without a lock. What a commit means (window, counts, who) travels inside it.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from featurestore import delta_log
from featurestore.engines import duckdb as engine
from featurestore.errors import Conflict, FeatureStoreError, InvalidTime, NotFound, NotReproducible
from featurestore.schema import TIMESTAMP
from featurestore.times import Window, from_micros, is_version, parse_time, to_micros

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable

COMMITTED_AT = "__committed_at"
"""Hidden column: when the row's present values were committed (UTC)."""
CHANGE = "__change"
"""Column of `changes`: "insert", "update" or "delete"."""

_NOTE = "triptych"
_WATERMARK = "triptych.watermark"
_CLOCK = "triptych.clock"
_ATTEMPTS = 30
# Nothing expires by age: which files may go is decided by the pins of training datasets, in one place (vacuum).
_KEEP = {
    "delta.logRetentionDuration": "interval 5000 weeks",
    "delta.deletedFileRetentionDuration": "interval 5000 weeks",
}


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a snapshot and the range of the ordering column in it (None: unknown)."""

    path: str
    rows: int
    low: Any
    high: Any


@dataclass(frozen=True)
class Snapshot:
    """A Delta table at one version: all that reading it needs."""

    location: str
    table_id: str
    version: int
    order: str
    files: tuple[DataFile, ...]
    watermark: datetime | None

    @property
    def rows(self) -> int:
        """Rows at this version."""
        return sum(f.rows for f in self.files)

    def between(self, low: Any = None, high: Any = None) -> list[str]:
        """Paths of the files that may hold a value of the ordering column in `[low, high]`."""
        return [
            f.path
            for f in self.files
            if f.rows and not (low is not None and f.high is not None and f.high < low)
            and not (high is not None and f.low is not None and f.low > high)
        ]  # fmt: skip


@dataclass(frozen=True)
class Commit:
    """What one write did. `rows_written` counts what is new or different, so repeating a write gives 0.

    `version` is the Delta version that holds the result, also when nothing had to be written. `statistics_id` is the
    version under which `get_statistics` keeps the statistics of the rows written; None when none were kept.
    """

    version: int
    time: datetime
    operation: str
    rows_inserted: int = 0
    rows_updated: int = 0
    rows_deleted: int = 0
    rows_unchanged: int = 0
    rows_deduplicated: int = 0
    window: Window | None = None
    who: str = ""
    tags: Mapping[str, Any] = field(default_factory=dict)
    statistics_id: int | None = None

    @property
    def rows_written(self) -> int:
        """Rows inserted and updated."""
        return self.rows_inserted + self.rows_updated


@contextmanager
def _translated(location: str) -> Iterator[None]:
    from deltalake.exceptions import DeltaError, TableNotFoundError

    try:
        yield
    except TableNotFoundError as error:
        raise NotFound(f"There is no Delta table at {location}. Was the folder moved or deleted?") from error
    except DeltaError as error:
        raise FeatureStoreError(
            f"The Delta table at {location} cannot be read or written: {error}. "
            "Run `featurestore doctor` to see which file is missing or damaged."
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
    location: str, schema: pa.Schema, *, name: str, description: str = "", partition_by: Sequence[str] = ()
) -> None:
    """Make an empty table with the schema's columns and the hidden commit time.

    Raises:
        Conflict: a table with rows lies there already.
    """
    from deltalake import DeltaTable

    Path(location).parent.mkdir(parents=True, exist_ok=True)
    with _translated(location):
        # Without a catalog entry an empty table is what a crash left behind between the two; one with rows is data.
        if DeltaTable.is_deltatable(location) and DeltaTable(location).count():
            raise Conflict(
                f"{location} holds a Delta table with rows that the catalog does not know. Move it away first."
            )
        DeltaTable.create(
            location, schema.append(pa.field(COMMITTED_AT, TIMESTAMP, nullable=False)), mode="overwrite",
            partition_by=list(partition_by) or None, name=name, description=description, configuration=_KEEP,
        )  # fmt: skip


def snapshot(location: str, order: str, version: int | None = None) -> Snapshot:
    """The table at a version (newest by default); `order` names the column whose range prunes files.

    Raises:
        NotFound: no table there, or it has no such version.
        NotReproducible: a version was asked for whose files are gone.
    """
    found = _snapshot(_open(location, version), location, order)
    if version is not None:
        _check_there(location, version, [f.path for f in found.files])
    return found


def _check_there(location: str, version: int, paths: Sequence[str]) -> None:
    if gone := missing_files(paths):
        raise NotReproducible(
            f"Version {version} of {location} can no longer be read: {len(gone)} of its data files are gone, such as "
            f"{Path(gone[0]).name}. vacuum() removes what no live training dataset pins once it is older than its "
            "retention, and forget() removes what held a forgotten key. Read a newer version, or restore the files "
            "from a backup."
        )


def _open(location: str, version: int | None = None) -> DeltaTable:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    with _translated(location):
        if version is None:
            return DeltaTable(location)
        try:
            return DeltaTable(location, version=version)
        except DeltaError as error:
            newest = DeltaTable(location).version()
            if not 0 <= version <= newest:
                raise NotFound(f"{location} has no Delta version {version} (versions: 0 to {newest}).") from error
            raise NotReproducible(f"Delta version {version} of {location} can no longer be read: {error}.") from error


def _snapshot(table: DeltaTable, location: str, order: str) -> Snapshot:
    actions = pa.table(table.get_add_actions(flatten=True))
    nothing = pa.nulls(actions.num_rows)

    def column(name: str) -> list[Any]:
        return (actions.column(name) if name in actions.column_names else nothing).to_pylist()

    root = location.rstrip("/")
    files = [
        DataFile(f"{root}/{unquote(path)}", rows or 0, low, _latest(high))
        for path, rows, low, high in zip(
            column("path"), column("num_records"), column(f"min.{order}"), column(f"max.{order}"), strict=True
        )
    ]
    micros = table.transaction_version(_WATERMARK)
    return Snapshot(
        location=root, table_id=str(table.metadata().id), version=table.version(), order=order,
        # The log lists newest files first; rows are easier to follow, and compress better, in order of time.
        files=tuple(sorted(files, key=lambda f: (f.low is not None, f.low if f.low is not None else 0, f.path))),
        watermark=None if micros is None else from_micros(micros),
    )  # fmt: skip


def _latest(high: Any) -> Any:
    """The largest value a file may hold: Delta's log has times in whole milliseconds, rounded down."""
    return high.replace(microsecond=high.microsecond // 1000 * 1000 + 999) if isinstance(high, datetime) else high


def watermark(location: str) -> datetime | None:
    """The largest window end committed, or None."""
    micros = _open(location).transaction_version(_WATERMARK)
    return None if micros is None else from_micros(micros)


def history(location: str) -> list[Commit]:
    """Every commit, oldest first."""
    table = _open(location)
    with _translated(location):
        return [_commit_of(entry) for entry in reversed(list(table.history()))]


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
        tags=note.get("tags", {}),
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
    schema = pa.schema(table.schema().to_arrow())
    before = {f.path for f in _snapshot(_open(location, since), location, order).files}
    after = {f.path for f in _snapshot(table, location, order).files}
    old, new = sorted(before - after), sorted(after - before)
    _check_there(location, since, old)
    _check_there(location, until, new)
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


def upsert(
    location: str, rows: pa.Table, *, identity: Sequence[str], order: str, who: str, window: Window | None = None,
    deduplicated: int = 0, tags: Mapping[str, Any] | None = None, clock: Callable[[], datetime],
) -> Commit:  # fmt: skip
    """Insert rows whose identity is new and update those whose values differ; commit nothing when nothing differs.

    Args:
        rows: the table's columns without the hidden one; each identity once.
        identity: columns that tell rows apart; never null.
        order: the column whose range prunes files (the event time, or the first key).
        window: committed together with the rows; its end may advance the watermark.
    Returns:
        What was written. A commit without rows is made only for a window that was not committed before.
    Raises:
        Conflict: other writers were faster many times in a row; nothing was written.
    """

    def attempt(table: DeltaTable, now: datetime) -> Commit:
        before = _snapshot(table, location, order)
        changes = _changes(before, rows, identity)
        commit = Commit(
            version=before.version + 1, time=now, operation="upsert", rows_inserted=changes.inserted,
            rows_updated=changes.updated, rows_unchanged=rows.num_rows - changes.inserted - changes.updated,
            rows_deduplicated=deduplicated, window=window, who=who, tags=tags or {},
        )  # fmt: skip
        if not commit.rows_written and (window is None or window in _windows(location, before)):
            return _unwritten(commit, before)
        if not changes.updated:
            _append(table, _stamped(changes.rows, now), _properties(commit, before.watermark))
        else:
            low, high = _range(changes.rows, order)
            stamped = _stamped(changes.rows, now)
            kept = _kept(before, changes.rows.select(list(identity)), stamped.schema, low, high)
            merged = pa.concat_tables([kept, stamped])
            _replace(table, _sorted(merged, order, identity), order, low, high, _properties(commit, before.watermark))
        return commit

    return _swap(location, attempt, clock)


def overwrite(
    location: str, rows: pa.Table, *, order: str, who: str, window: Window | None = None, deduplicated: int = 0,
    tags: Mapping[str, Any] | None = None, clock: Callable[[], datetime],
) -> Commit:  # fmt: skip
    """Replace all rows by these."""
    from deltalake import write_deltalake

    def attempt(table: DeltaTable, now: datetime) -> Commit:
        before = _snapshot(table, location, order)
        commit = Commit(
            version=before.version + 1, time=now, operation="overwrite", rows_inserted=rows.num_rows,
            rows_deleted=before.rows, rows_deduplicated=deduplicated, window=window, who=who, tags=tags or {},
        )  # fmt: skip
        write_deltalake(
            table, _stamped(rows, now), mode="overwrite", commit_properties=_properties(commit, before.watermark)
        )
        return commit

    return _swap(location, attempt, clock)


def delete(
    location: str, keys: pa.Table, *, order: str, who: str, clock: Callable[[], datetime],
) -> Commit:  # fmt: skip
    """Delete the rows whose columns named in `keys` equal one of its rows."""

    def attempt(table: DeltaTable, now: datetime) -> Commit:
        before = _snapshot(table, location, order)
        low, high = _range(keys, order) if order in keys.column_names else (None, None)
        files = before.between(low, high)
        schema = pa.schema(table.schema().to_arrow())
        doomed = engine.rows_with(files, keys, schema) if files else schema.empty_table()
        commit = Commit(
            version=before.version + 1, time=now, operation="delete", rows_deleted=doomed.num_rows, who=who,
        )  # fmt: skip
        if not doomed.num_rows:
            return _unwritten(commit, before)
        low, high = _range(doomed, order)
        kept = _kept(before, keys, schema, low, high)
        _replace(table, kept, order, low, high, _properties(commit, before.watermark))
        return commit

    return _swap(location, attempt, clock)


def _unwritten(commit: Commit, before: Snapshot) -> Commit:
    # Not an upsert: the version it names holds somebody else's rows, which the online store may still lack.
    return replace(commit, version=before.version, operation="none")


def _next_time(table: DeltaTable, now: datetime) -> datetime:
    """The present, or a microsecond after the last commit: times tell commits apart, whatever the clocks do."""
    last = table.transaction_version(_CLOCK)
    return now if last is None or to_micros(now) > last else from_micros(last + 1)


def _swap(location: str, attempt: Callable[[DeltaTable, datetime], Commit], clock: Callable[[], datetime]) -> Commit:
    from deltalake.exceptions import CommitFailedError

    for round_ in range(_ATTEMPTS):
        table = _open(location)
        with _translated(location):
            try:
                return attempt(table, _next_time(table, clock()))
            except CommitFailedError:
                time.sleep(random.uniform(0, min(0.02 * 2**round_, 1.0)))
    raise Conflict(
        f"{location}: other writers committed first {_ATTEMPTS} times in a row. Nothing was written; try again."
    )


@dataclass(frozen=True)
class _Changes:
    rows: pa.Table
    inserted: int
    updated: int


def _changes(before: Snapshot, rows: pa.Table, identity: Sequence[str]) -> _Changes:
    """The rows that are new or differ from what is stored; a batch newer than everything stored is not compared."""
    low, high = _range(rows, before.order)
    files = before.between(low, high) if rows.num_rows else []
    if not files:
        return _Changes(rows, rows.num_rows, 0)
    status = engine.compare(files, rows, identity=identity, order=before.order, low=low, high=high)
    inserted, updated = pc.equal(status, "new"), pc.equal(status, "different")
    return _Changes(rows.filter(pc.or_(inserted, updated)), pc.sum(inserted).as_py() or 0, pc.sum(updated).as_py() or 0)


def _kept(before: Snapshot, gone: pa.Table, schema: pa.Schema, low: Any, high: Any) -> pa.Table:
    return engine.rows_without(before.between(low, high), gone, schema, order=before.order, low=low, high=high)


def _range(rows: pa.Table, column: str) -> tuple[Any, Any]:
    bounds = pc.min_max(rows.column(column)).as_py()
    return bounds["min"], bounds["max"]


def _stamped(rows: pa.Table, now: datetime) -> pa.Table:
    stamp = pa.repeat(pa.scalar(now, TIMESTAMP), rows.num_rows)
    return rows.append_column(pa.field(COMMITTED_AT, TIMESTAMP, nullable=False), stamp)


def _sorted(rows: pa.Table, order: str, identity: Sequence[str]) -> pa.Table:
    return rows.sort_by([(c, "ascending") for c in dict.fromkeys([order, *identity])])


def _append(table: DeltaTable, rows: pa.Table, properties: CommitProperties) -> None:
    from deltalake import write_deltalake

    write_deltalake(table, rows, mode="append", commit_properties=properties)


def _replace(table: DeltaTable, rows: pa.Table, order: str, low: Any, high: Any, properties: CommitProperties) -> None:
    """Swap all rows of `low <= order <= high` for these; only files that reach into that range are rewritten."""
    from deltalake import write_deltalake

    name = '"' + order.replace('"', '""') + '"'
    predicate = f"{name} >= {_literal(low)} AND {name} <= {_literal(high)}"
    write_deltalake(table, rows, mode="overwrite", predicate=predicate, commit_properties=properties)


def _literal(value: Any) -> str:
    if isinstance(value, datetime):
        return "'" + value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ") + "'"
    if isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    return "'" + str(value).replace("'", "''") + "'"


def _properties(commit: Commit, watermark_before: datetime | None) -> CommitProperties:
    from deltalake import CommitProperties, Transaction

    note: dict[str, Any] = {
        "operation": commit.operation, "at": to_micros(commit.time), "who": commit.who,
        "inserted": commit.rows_inserted, "updated": commit.rows_updated, "deleted": commit.rows_deleted,
        "unchanged": commit.rows_unchanged, "deduplicated": commit.rows_deduplicated,
    }  # fmt: skip
    transactions = [Transaction(_CLOCK, to_micros(commit.time))]
    if commit.tags:
        note["tags"] = dict(commit.tags)
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


def drop(location: str) -> None:
    """Remove the table and its files."""
    import shutil

    shutil.rmtree(location, ignore_errors=True)


def missing_files(paths: Iterable[str]) -> list[str]:
    """The files that are no longer there."""
    return [p for p in paths if not Path(p).exists()]
