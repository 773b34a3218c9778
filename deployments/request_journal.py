"""What a server was asked and what it said, kept in a file at once and in the feature store soon after.

A line is in the journal before its answer leaves, so that an answer that says `logged` is never lost when the process
is killed (a machine that loses power may lose the last seconds: the file is not forced to the disk for each line). A
thread moves the lines into a feature group. Its rows are keyed by request, so that lines moved twice are there once;
what a killed process has left is moved by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

logger = logging.getLogger("triptych.server")

Record = Mapping[str, Any]
Move = Callable[[Sequence[Record]], None]

BATCH = 5_000
"""Lines moved at once: what fits into memory many times over."""


class Segment:
    """One file of lines, held by one process: its lock says that somebody still writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = 0
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def append(self, line: bytes) -> None:
        """Write a line whole; raise OSError when the disk does not take it."""
        written = os.write(self._file, line)
        if written != len(line):  # a full disk takes the beginning: the next line must not be glued to it
            os.write(self._file, b"\n")
            raise OSError(f"Only {written} of {len(line)} bytes could be written to {self.path}.")
        self.lines += 1

    def close(self) -> None:
        """Let others have it."""
        os.close(self._file)


class Journal:
    """The journal of one process. `append` from any thread; `close` moves what is left and stops.

    `pending` counts its records that are not in the store yet.

    Args:
        folder: of all journals of a home; made if it is not there.
        move: writes records into the store; what it raises is logged, and the lines stay for the next time.
        every_seconds: how long lines wait at most before they are moved.
    """

    def __init__(self, folder: Path, move: Move, *, every_seconds: float = 5.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.pending = 0
        self._name = f"{os.getpid():07d}-{uuid.uuid4().hex}"
        self._segments = 0
        self._move = move
        self._every_seconds = every_seconds
        self._lock = threading.Lock()
        self._moving = threading.Lock()
        self._segment = self._new()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="request-journal", daemon=True)
        self._thread.start()

    def append(self, record: Record) -> None:
        """Keep a record; raise OSError when it cannot be kept.

        Args:
            record: JSON-ready, with a `request_id` of its own.
        """
        line = json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        with self._lock:
            if self._closed.is_set():
                raise OSError("The journal is closed: the server is stopping.")
            self._segment.append(line)
            self.pending += 1

    def flush(self) -> None:
        """Move all that is there now, also what a killed process has left.

        A file that the store refuses stays, and holds up no other; what was raised is raised when all were tried.
        """
        errors: list[Exception] = []
        with self._moving:
            self._rotate()
            for path in sorted(self.folder.glob("*.jsonl")):
                with _taken(path) as free:
                    if not free:
                        continue
                    try:
                        self._move_file(path)
                    except Exception as error:  # noqa: BLE001 - the store's own or a driver's; raised below
                        errors.append(error)
        if errors:
            raise errors[0]

    def close(self) -> None:
        """Take no more lines, and move those that are there."""
        with self._lock:
            self._closed.set()
        self._thread.join()
        self.flush()
        self._segment.close()
        with contextlib.suppress(FileNotFoundError):
            self._segment.path.unlink()

    def _new(self) -> Segment:
        self._segments += 1
        return Segment(self.folder / f"{self._name}-{self._segments:08d}.jsonl")

    def _rotate(self) -> None:
        with self._lock:
            if not self._segment.lines:
                return
            full, self._segment = self._segment, self._new()
        full.close()

    def _run(self) -> None:
        while not self._closed.wait(self._every_seconds):
            try:
                self.flush()
            except Exception:  # the store may be gone for a while, in whatever way; the lines are not
                logger.exception("Answers could not be moved from %s into the store; trying again.", self.folder)

    def _move_file(self, path: Path) -> None:
        count = 0
        for records in _batches(path):
            self._move(records)
            count += len(records)
        path.unlink()
        if path.name.startswith(self._name):  # what others have left was never among ours
            with self._lock:
                self.pending -= count


@contextlib.contextmanager
def _taken(path: Path) -> Iterator[bool]:
    """Whether nobody else writes or moves the file; while it is held, nobody does."""
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:  # another process has just moved it
        yield False
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path.exists()
    except BlockingIOError:
        yield False
    finally:
        os.close(file)


def _batches(path: Path) -> Iterator[list[Record]]:
    """The records of a file; a last line that was cut off by a kill was never acknowledged, and is left out."""
    batch: list[Record] = []
    with path.open("rb") as lines:
        for line in lines:
            try:
                batch.append(json.loads(line))
            except json.JSONDecodeError:
                logger.warning("%s has a line that was never finished; it is left out.", path)
            if len(batch) == BATCH:
                yield batch
                batch = []
    if batch:
        yield batch
