"""What a Delta table's log says of each commit and each data file, read without opening the table."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import FeatureStoreError, NotReproducible

FOLDER = "_delta_log"
_ENDS = 2048
"""Bytes of an entry that hold its first action, and its last ones."""


@dataclass(frozen=True)
class Entry:
    """One commit: what it says of itself, and the files it adds and removes (paths below the table's folder)."""

    version: int
    info: Mapping[str, Any]
    added: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True)
class Life:
    """The versions a data file is part of: from `added` until before `removed` (None: it is part of the newest)."""

    added: int
    removed: int | None

    def versions(self, newest: int) -> range:
        """The versions it is part of, up to the newest there is."""
        return range(self.added, newest + 1 if self.removed is None else self.removed)


def entry_files(location: str) -> dict[int, Path]:
    """The JSON file of each commit, by version."""
    found = (p for p in (Path(location) / FOLDER).glob("*.json") if p.stem.isdigit())
    return {int(p.stem): p for p in sorted(found)}


def entries(location: str, first: int = 0, last: int | None = None) -> Iterator[Entry]:
    """The commits from version `first` to `last`, both included, oldest first.

    Raises:
        NotReproducible: an entry between them is missing.
        FeatureStoreError: an entry is damaged; the message names the file.
    """
    files = entry_files(location)
    for version in range(first, (max(files, default=-1) if last is None else last) + 1):
        if version not in files:
            raise NotReproducible(
                f"The log of the Delta table at {location} lacks the entry of version {version} (it has "
                f"{len(files)} entries). Restore {FOLDER}/{version:020d}.json from a backup."
            )
        actions = read_actions(files[version])
        yield Entry(
            version,
            next((a["commitInfo"] for a in actions if "commitInfo" in a), {}),
            tuple(unquote(a["add"]["path"]) for a in actions if "add" in a),
            tuple(unquote(a["remove"]["path"]) for a in actions if "remove" in a),
        )


def read_actions(file: Path) -> list[dict[str, Any]]:
    """The actions of one commit.

    Raises:
        FeatureStoreError: the file is cut off, damaged or cannot be read.
    """
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise FeatureStoreError(
            f"The log entry {file} cannot be read: {error}. Restore it from a backup. If it is the newest one and no "
            "backup has it, move it away: the table is then as it was one commit earlier."
        ) from error


def check_newest(location: str, version: int) -> None:
    """Refuse a newest entry that lost its end, which a crash of the machine may do: readers would not see its rows.

    Raises:
        FeatureStoreError: the entry is empty, or lacks what a commit of ours ends with.
    """
    file = Path(location) / FOLDER / f"{version:020d}.json"
    try:
        with file.open("rb") as opened:
            start = opened.read(_ENDS)
            size = opened.seek(0, 2)
            opened.seek(max(size - _ENDS, 0))
            end = opened.read()
    except FileNotFoundError:
        return  # the version comes from a checkpoint
    if not size or (b'"triptych"' in start and b'"txn"' not in end):
        raise FeatureStoreError(
            f"The log entry {file} is cut off after {size} bytes. Restore it from a backup. If no backup has it, move "
            "it away: the table is then as it was one commit earlier; insert again what that commit wrote."
        )


def lifetimes(location: str) -> dict[str, Life]:
    """Every data file that ever was part of the table, with the versions it is part of.

    Raises:
        NotReproducible: the log has gaps or does not reach back to the first version.
    """
    lives: dict[str, Life] = {}
    for entry in entries(location):
        for path in entry.removed:
            if path in lives:
                lives[path] = Life(lives[path].added, entry.version)
        for path in entry.added:
            lives[path] = Life(entry.version, None)
    return lives


def clean(location: str, newest: int) -> None:
    """Take out of the log, up to the version of its newest checkpoint, what it tells of the values in removed files.

    Each entry is replaced in one move, and the newest version is read from the checkpoint meanwhile. Entries go on
    naming the removed files, so that older versions are known to be gone; the table's history stays.
    """
    folder, root = Path(location) / FOLDER, Path(location)
    for file in sorted(folder.iterdir()):
        # Removing old checkpoints would be simpler, but another process may be about to read one.
        if ".checkpoint." in file.name and file.suffix == ".parquet":
            _clean_checkpoint(file, root)
        elif file.name.endswith((".compacted.json", ".crc")):
            file.unlink()  # summaries that readers can do without
    for version, file in entry_files(location).items():
        actions = read_actions(file)
        if version <= newest and (cleaned := [_cleaned(action, root) for action in actions]) != actions:
            text = "\n".join(json.dumps(action, separators=(",", ":")) for action in cleaned)
            _replace(file, text.encode())


def _clean_checkpoint(file: Path, root: Path) -> None:
    from pyarrow import parquet

    table = parquet.read_table(file)
    cleaned = table
    for kind in ("add", "remove"):
        place = table.schema.get_field_index(kind)
        if place >= 0 and table.schema.field(place).type.get_field_index("stats") >= 0:
            column = _without_statistics(table.column(place).combine_chunks(), root)
            cleaned = cleaned.set_column(place, table.schema.field(place), column)
    if not cleaned.equals(table):
        written = pa.BufferOutputStream()
        parquet.write_table(cleaned, written)
        _replace(file, written.getvalue().to_pybytes())


def _without_statistics(actions: pa.StructArray, root: Path) -> pa.StructArray:
    """The actions, without what they tell of files that are gone."""
    fields = list(actions.type)
    columns = {field.name: actions.field(place) for place, field in enumerate(fields)}
    gone = [path is not None and not (root / unquote(path)).exists() for path in columns["path"].to_pylist()]
    columns["stats"] = pc.if_else(pa.array(gone, pa.bool_()), pa.scalar(None, pa.string()), columns["stats"])
    if "partitionValues" in columns:
        values = zip(gone, columns["partitionValues"].to_pylist(), strict=True)
        kept = [[(key, None) for key, _ in v] if is_gone and v else v for is_gone, v in values]
        columns["partitionValues"] = pa.array(kept, columns["partitionValues"].type)
    return pa.StructArray.from_arrays(list(columns.values()), fields=fields, mask=actions.is_null())


def _cleaned(action: dict[str, Any], root: Path) -> dict[str, Any]:
    (kind,) = action
    content = dict(action[kind])
    if kind in ("add", "remove") and not (root / unquote(content["path"])).exists():
        if "stats" in content:
            content["stats"] = None
        if content.get("partitionValues"):
            content["partitionValues"] = dict.fromkeys(content["partitionValues"])
    if kind == "commitInfo":
        told = content.get("operationParameters") or {}
        content["operationParameters"] = {k: v for k, v in told.items() if "redicate" not in k}
    return {kind: content}


def _replace(file: Path, content: bytes) -> None:
    """Give a file another content in one move; its time, by which other tools look for versions, stays."""
    known = file.stat()
    new = file.with_name(f"_{file.name}.tmp")
    with new.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    os.utime(new, ns=(known.st_atime_ns, known.st_mtime_ns))
    new.replace(file)
