"""Keeps a Delta table quick to read and no larger than it has to be."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from featurestore import delta, delta_log
from featurestore.delta_log import Life
from featurestore.errors import InvalidTime

RETENTION = timedelta(days=7)
"""How long vacuum keeps versions that nothing pins: long enough for a reader that began with one to finish."""
GRACE = timedelta(days=1)
"""How old a file that no commit mentions must be to be what a crashed writer left behind."""


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


def vacuum(
    location: str, *, pins: Mapping[int, Sequence[str]], now: datetime, retention: timedelta, dry_run: bool,
) -> Vacuumed:  # fmt: skip
    """Remove the files that no version needs which is current, pinned, or was current within `retention`.

    The log stays whole, so that the history goes on telling of versions that can no longer be read.

    Raises:
        InvalidTime: the retention is negative.
        NotReproducible, FeatureStoreError: the log has gaps or is damaged; nothing was removed.
    """
    if retention < timedelta(0):
        raise InvalidTime(f"A retention of {retention} cannot be. Expected zero or more, such as timedelta(days=7).")
    root = Path(location)
    times = {c.version: c.time for c in delta.history(location)}
    newest, pinned = max(times), sorted(pins)
    lives = delta_log.lifetimes(location)
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
    orphans = _orphans(root, lives, older_than=max(retention, GRACE))
    size = sum((root / path).stat().st_size for path in (*doomed, *orphans))
    unreadable = {v for path, life in lives.items() if not (root / path).exists() for v in life.versions(newest)}
    lost = {v for life in doomed.values() for v in life.versions(newest)} - unreadable
    if not dry_run:
        for path in (*doomed, *orphans):
            (root / path).unlink(missing_ok=True)
    return Vacuumed(
        tuple(doomed), tuple(orphans), size, tuple(sorted(lost)), dict(sorted(held.items())), held_bytes, dry_run
    )


def _orphans(root: Path, lives: Mapping[str, Life], *, older_than: timedelta) -> list[str]:
    """Files that no commit mentions and that nobody can be writing any more; the log's own files are none."""
    newest = time.time() - older_than.total_seconds()
    found = []
    for file in sorted(root.rglob("*")):
        path = file.relative_to(root).as_posix()
        is_log = path.startswith(f"{delta_log.FOLDER}/") and not path.endswith(".tmp")
        if file.is_file() and not is_log and path not in lives and file.stat().st_mtime < newest:
            found.append(path)
    return found
