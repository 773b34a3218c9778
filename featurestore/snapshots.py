"""A Delta table at one version, and what one commit did, as plain data."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from featurestore.engines.sql import COMMITTED_AT
from featurestore.times import Window


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a snapshot and the range of the ordering column in it (None: unknown).

    `bounds` has, of keys, event time and commit time, the lowest and highest value that the file may hold.
    """

    path: str
    rows: int
    low: Any
    high: Any
    bounds: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)


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

    def committed_at(self, moment: datetime) -> list[str]:
        """Paths of the files that may hold rows committed at that time."""
        return [f.path for f in self.touching({COMMITTED_AT: (moment, moment)})]

    def touching(self, ranges: Mapping[str, tuple[Any, Any]]) -> list[DataFile]:
        """The files that may hold a row with every column named in `ranges` within its lowest and highest value."""

        def may_hold(file: DataFile) -> bool:
            shared = ((file.bounds[name], ranges[name]) for name in ranges if name in file.bounds)
            return all(low <= high_wanted and low_wanted <= high for (low, high), (low_wanted, high_wanted) in shared)

        return [f for f in self.files if f.rows and may_hold(f)]


@dataclass(frozen=True)
class Commit:
    """What one write did. `rows_written` counts what is new or different, so repeating a write gives 0.

    `version` is the Delta version that holds the result, also when nothing had to be written. `statistics_id` is the
    version under which `get_statistics` keeps the statistics of the rows written; None when none were kept. `code` is
    the version of the code that computed the rows, as the writer named it. `report` is what the rules said of the
    batch, without values; None without rules.
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
    code: str = ""
    statistics_id: int | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex, compare=False, repr=False)
    report: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def rows_written(self) -> int:
        """Rows inserted and updated."""
        return self.rows_inserted + self.rows_updated
