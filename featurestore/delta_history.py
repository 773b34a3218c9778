"""What happened to a Delta table: its commits, the version of a time, and what changed between two versions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pyarrow as pa

from featurestore import delta_log, delta_table
from featurestore.commit_notes import commit_of
from featurestore.engines import duckdb as engine
from featurestore.errors import InvalidTime
from featurestore.schema import TIMESTAMP
from featurestore.snapshots import Commit
from featurestore.times import is_version, parse_time

CHANGE = "__change"
"""Column of `changes`: "insert", "update" or "delete"."""


def commits(location: str, newest: int | None = None) -> list[Commit]:
    """Every commit, or so many of the newest, oldest first."""
    table = delta_table.open_table(location)
    with delta_table.translated(location):
        return [commit_of(entry["version"], entry) for entry in reversed(list(table.history(newest)))]


def as_table(history: Sequence[Commit]) -> pa.Table:
    """Commits as a table, one row each; the window as two columns."""
    schema = pa.schema([
        ("version", pa.int64()), ("time", TIMESTAMP), ("operation", pa.string()), ("rows_inserted", pa.int64()),
        ("rows_updated", pa.int64()), ("rows_deleted", pa.int64()), ("window_start", TIMESTAMP),
        ("window_end", TIMESTAMP), ("who", pa.string()), ("code", pa.string()), ("statistics_id", pa.int64()),
    ])  # fmt: skip
    return pa.Table.from_pylist(
        [vars(c) | {f"window_{end}": c.window and getattr(c.window, end) for end in ("start", "end")} for c in history],
        schema=schema,
    )


def version_at(location: str, as_of: int | Any) -> int:
    """The version that was current at a time; a whole number below 100,000,000 is taken as the version itself.

    Raises:
        InvalidTime: the time lies before the table's first commit.
        NotFound: there is no such version.
    """
    if is_version(as_of):
        return delta_table.open_table(location, as_of).version()
    moment = parse_time(as_of)
    history = commits(location)
    past = [c.version for c in history if c.time <= moment]
    if not past:
        first = history[0].time if history else None
        raise InvalidTime(
            f"Nothing was committed to {delta_table.name_of(location)} by {moment}: its first commit is of {first}. "
            "Ask for that time or a later one."
        )
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
    table = delta_table.open_table(location, until)
    schema = delta_table.schema_of(table)
    before = {f.path for f in delta_table.snapshot_as_logged(location, order, since).files}
    after = {f.path for f in delta_table.snapshot_as_logged(location, order, until).files}
    old, new = sorted(before - after), sorted(after - before)
    delta_table.check_there(location, since, old)
    delta_table.check_there(location, until, new)
    return engine.difference(old, new, schema, identity=identity, order=list(dict.fromkeys([order, *identity])))


def _settled(location: str, since: int, until: int) -> tuple[int, int]:
    """The same stretch without the compactions at its ends: they change no row, but every file."""
    if since >= until:
        return since, since
    moves = {
        e.version for e in delta_log.entries(location, since + 1, until)
        if commit_of(e.version, e.info).operation == "optimize"
    }  # fmt: skip
    while since + 1 in moves:
        since += 1
    while until > since and until in moves:
        until -= 1
    return since, until


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
        commit = commit_of(entry.version, entry.info)
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
