"""A commit as the note that Delta's log keeps of it: what it means (operation, counts, window, who), and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from featurestore.snapshots import Commit
from featurestore.times import Window, from_micros, to_micros

NOTE = "triptych"
"""The name of the note in a log entry's `commitInfo`."""


def note_of(commit: Commit) -> str:
    """The note of a commit, as JSON."""
    note: dict[str, Any] = {
        "operation": commit.operation, "at": to_micros(commit.time), "who": commit.who, "id": commit.id,
        "inserted": commit.rows_inserted, "updated": commit.rows_updated, "deleted": commit.rows_deleted,
        "unchanged": commit.rows_unchanged, "deduplicated": commit.rows_deduplicated,
    }  # fmt: skip
    if commit.report is not None:
        note["report"] = dict(commit.report)
    if commit.code:
        note["code"] = commit.code
    if commit.window is not None:
        note["window"] = [to_micros(commit.window.start), to_micros(commit.window.end)]
    return json.dumps(note)


def commit_of(version: int, info: Mapping[str, Any]) -> Commit:
    """The commit that a log entry's `commitInfo` tells of; of another writer's, which has no note, what Delta says."""
    note = json.loads(info.get(NOTE) or "{}")
    moment = from_micros(note["at"]) if "at" in note else datetime.fromtimestamp(info["timestamp"] / 1000, UTC)
    window = note.get("window")
    return Commit(
        version=version,
        time=moment,
        operation=note.get("operation", str(info.get("operation", "")).lower()),
        rows_inserted=note.get("inserted", 0),
        rows_updated=note.get("updated", 0),
        rows_deleted=note.get("deleted", 0),
        rows_unchanged=note.get("unchanged", 0),
        rows_deduplicated=note.get("deduplicated", 0),
        window=None if window is None else Window(from_micros(window[0]), from_micros(window[1])),
        who=note.get("who", ""),
        code=note.get("code", ""),
        id=note.get("id", ""),
        report=note.get("report"),
    )
