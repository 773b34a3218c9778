"""Where the measured store lies, and which files its Delta tables have: the same ones for everybody who is measured."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.measure import ROOT


class DataFile(NamedTuple):
    """A live Parquet file and the event times in it."""

    path: str
    low: datetime
    high: datetime


def home(folder: Path) -> Path:
    """The store to measure: one for each state of the store's code, since that decides how files are laid out."""
    digest = hashlib.sha256()
    for source in sorted((ROOT / "featurestore").rglob("*.py")):
        digest.update(source.read_bytes())
    return folder / f"store-{digest.hexdigest()[:12]}"


def location(place: Path, group: str) -> str:
    """The Delta table of a group, version 1."""
    return str(place.resolve() / "lake" / f"{group}_1")


def files(table: str) -> list[DataFile]:
    """The files of a Delta table, in order of time."""
    import pyarrow as pa
    from deltalake import DeltaTable

    actions = pa.table(DeltaTable(table).get_add_actions(flatten=True))
    columns = (actions.column(name).to_pylist() for name in ("path", "min.t", "max.t"))
    return sorted((DataFile(f"{table}/{path}", low, high) for path, low, high in zip(*columns, strict=True)),
                  key=lambda file: (file.low, file.path))  # fmt: skip


def paths(folder: Path, group: str) -> list[str]:
    """The paths of a group's files, in order of time."""
    return [file.path for file in files(location(home(folder), group))]


@contextmanager
def copied(folder: Path) -> Iterator[Path]:
    """The store again, to write to. Data files are linked: nobody ever writes into one."""

    def copy(source: str, target: str) -> None:
        (os.link if source.endswith(".parquet") else shutil.copyfile)(source, target)

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        yield Path(shutil.copytree(home(folder), Path(scratch) / "store", copy_function=copy))
