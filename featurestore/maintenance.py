"""Keeps a Delta table quick to read and no larger than it has to be."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore import data_files, delta, delta_history, delta_log, delta_table
from featurestore.delta_log import Life
from featurestore.errors import FeatureStoreError, InvalidTime
from featurestore.snapshots import DataFile, Snapshot

if TYPE_CHECKING:
    from featurestore.settings import Settings

RETENTION = timedelta(days=7)
"""How long vacuum keeps versions that nothing pins: long enough for a reader that began with one to finish."""
GRACE = timedelta(days=1)
"""How old a file that no commit mentions must be to be what a crashed writer left behind."""
_FILES_AT_ONCE = 4
"""Compaction commits after about so many files, so that an interrupted one leaves little undone."""


@dataclass(frozen=True)
class Vacuumed:
    """What a vacuum removed, or would remove, and what kept it from removing more.

    Args:
        files: the data files removed, below the table's folder.
        orphans: files removed that no commit mentions: what crashed writers left behind.
        bytes: the size of both together.
        versions: the versions that can no longer be read now and could before.
        held: the pinned versions that keep files, and who pins each.
        held_bytes: the size of the files that stay only because they are pinned.
        dry_run: nothing was removed: this is what would have been.
    """

    files: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()
    bytes: int = 0
    versions: tuple[int, ...] = ()
    held: Mapping[int, Sequence[str]] = field(default_factory=dict)
    held_bytes: int = 0
    dry_run: bool = False


@dataclass(frozen=True)
class Optimized:
    """What compaction did: how many files it read and wrote, with how many rows, and the newest Delta version now."""

    version: int
    files_before: int = 0
    files_after: int = 0
    rows: int = 0


def optimize(
    location: str, *, identity: Sequence[str], order: str, settings: Settings, clock: Callable[[], datetime],
) -> Optimized:  # fmt: skip
    """Put small files together, and rows of files that share a stretch of the ordering column in order.

    One commit for each group of files; a group that another writer touched meanwhile is planned anew.

    Raises:
        Conflict: other writers were faster many times in a row; what was committed before stays.
    """
    before = delta_table.snapshot(location, order)
    rounds, rows, version = len(untidy_groups(before)), 0, before.version
    read = written = 0
    for _ in range(2 * rounds):
        now = delta_table.snapshot(location, order)
        groups = untidy_groups(now)
        if not groups:
            break
        commit = delta.compact(location, groups[0], identity=identity, order=order, settings=settings, clock=clock)
        if commit is not None:
            rows, version = rows + commit.rows_unchanged, commit.version
            read += len(groups[0])
            written += len(next(delta_log.entries(location, version, version)).added)
    return Optimized(version, read, written, rows)


def untidy_groups(snapshot: Snapshot) -> list[list[DataFile]]:
    """The groups of files of a snapshot that compaction would write anew, those of each partition apart."""
    if len(snapshot.files) < 2:
        return []
    values = delta_table.partitions(snapshot.location, snapshot.version)
    by_partition: dict[tuple[Any, ...], list[DataFile]] = {}
    for file in snapshot.files:
        if file.rows:
            by_partition.setdefault(values[file.path], []).append(file)
    if not by_partition:
        return []
    capacity = data_files.capacity(min((f for f in snapshot.files if f.rows), key=lambda f: f.rows).path)
    return [group for files in by_partition.values() for group in untidy(files, capacity)]


def untidy(files: Sequence[DataFile], capacity: int) -> list[list[DataFile]]:
    """The groups of neighbouring files that are better written anew together: small ones, and ones that overlap.

    Args:
        files: in order of their lowest value, as a snapshot has them.
        capacity: how many rows a file takes; fewer than half of it are few.
    Returns:
        Groups of two files or more; together in order, none overlapping another.
    """
    stretches: list[list[DataFile]] = []
    end: Any = None
    for file in files:
        if stretches and _overlaps(end, file.low):
            stretches[-1].append(file)
            end = max(end, file.high)
        else:
            stretches.append([file])
            end = file.high
    groups: list[list[DataFile]] = [[]]
    for stretch in stretches:
        if len(stretch) == 1 and stretch[0].rows >= capacity / 2:
            groups.append([])
        else:
            groups[-1] += stretch
            if sum(f.rows for f in groups[-1]) >= _FILES_AT_ONCE * capacity:
                groups.append([])
    return [group for group in groups if len(group) > 1]


def _overlaps(high: Any, low: Any) -> bool:
    """Whether a file that starts at `low` begins before another ends; times are known to the millisecond only."""
    if high is None or low is None:
        return False
    return high - low > timedelta(milliseconds=1) if isinstance(high, datetime) else low < high


def vacuum(
    location: str, *, pins: Mapping[int, Sequence[str]], now: datetime, retention: timedelta, dry_run: bool,
) -> Vacuumed:  # fmt: skip
    """Remove the files that no version needs which is current, pinned, or was current within `retention`.

    The log stays whole, so that the history goes on telling of versions that can no longer be read.

    Raises:
        InvalidTime: the retention is negative, or no timedelta.
        NotReproducible, FeatureStoreError: the log has gaps or is damaged; nothing was removed.
        FeatureStoreError: a file cannot be removed.
    """
    if not isinstance(retention, timedelta) or retention < timedelta(0):
        raise InvalidTime(f"A retention of {retention} cannot be. Expected zero or more, such as timedelta(days=7).")
    root = Path(location)
    lives = delta_log.lifetimes(location)  # before the times: of every version that it names there is one
    times = {c.version: c.time for c in delta_history.commits(location)}
    newest, pinned = max(times), sorted(pins)
    doomed: dict[str, Life] = {}
    held: dict[int, Sequence[str]] = {}
    held_bytes = 0
    for path, life in lives.items():
        if life.removed is None or times[life.removed] > now - retention or not (root / path).exists():
            continue
        if holders := pinned[bisect_left(pinned, life.added) : bisect_left(pinned, life.removed)]:
            held |= {v: pins[v] for v in holders}
            held_bytes += (root / path).stat().st_size
        else:
            doomed[path] = life
    lost_files = orphans(root, lives, older_than=max(retention, GRACE))
    size = sum((root / path).stat().st_size for path in (*doomed, *lost_files))
    unreadable = {v for path, life in lives.items() if not (root / path).exists() for v in life.versions(newest)}
    lost = {v for life in doomed.values() for v in life.versions(newest)} - unreadable
    if not dry_run:
        _remove([root / path for path in (*doomed, *lost_files)])
    return Vacuumed(
        tuple(doomed), tuple(lost_files), size, tuple(sorted(lost)), dict(sorted(held.items())), held_bytes, dry_run
    )


def _remove(files: Sequence[Path]) -> None:
    for file in files:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise FeatureStoreError(
                f"{file} cannot be removed: {error}. Check that you may write there, then vacuum again."
            ) from error


def orphans(root: Path, lives: Mapping[str, Life], *, older_than: timedelta = GRACE) -> list[str]:
    """Files that no commit mentions and that nobody can be writing any more; the log's own files are none."""
    newest = time.time() - older_than.total_seconds()
    found = []
    for file in sorted(root.rglob("*")):
        path = file.relative_to(root).as_posix()
        is_log = path.startswith(f"{delta_log.FOLDER}/") and not path.endswith(".tmp")
        if file.is_file() and not is_log and path not in lives and file.stat().st_mtime < newest:
            found.append(path)
    return found
