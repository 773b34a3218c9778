"""What the world did and what the flows answered, in order: JSON lines that only grow, and survive a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from flows import windows

CALL, WORLD, NOTE = "call", "world", "note"


class Ledger:
    """The record of one system. Each line goes to disk in one write before anything else happens."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, what: str, **facts: Any) -> None:
        """Add a line, with the simulated time at which it was written."""
        line = json.dumps({"at": windows.now(), "what": what, **facts}, default=_plain)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)
        try:
            os.write(descriptor, (line + "\n").encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextmanager
    def call(self, step: str, facts_of: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """A call of a flow: begun, then ended with its answer or its error; an error goes no further.

        Args:
            facts_of: functions by name, whose results are kept from before and from after the call.
        """
        self.write(CALL, step=step, state="begun")
        before = {name: fact() for name, fact in facts_of.items()}
        told: dict[str, Any] = {"error": None, "message": ""}
        try:
            yield told
        except Exception as error:  # noqa: BLE001 - whatever a flow raises is what it answered; the laws judge it
            told |= {"error": type(error).__name__, "message": str(error)[:500]}
        self.write(
            CALL, step=step, state="ended", before=before, after={name: fact() for name, fact in facts_of.items()},
            **told,
        )  # fmt: skip


def read(path: Path) -> list[dict[str, Any]]:
    """The lines, oldest first, with times as times. A last line that a kill has cut off is left out."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = []
    for number, line in enumerate(lines):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            if number + 1 < len(lines):
                continue  # cut off by a kill, and written on after it
            break
        found.append(entry | {"at": datetime.fromisoformat(entry["at"])})
    return found


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)
