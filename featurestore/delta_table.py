"""A Delta table opened and read at one of its versions: its files, columns and watermark."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

import pyarrow as pa

from featurestore import delta_log
from featurestore.errors import FeatureStoreError, NotFound, NotReproducible
from featurestore.snapshots import DataFile, Snapshot
from featurestore.times import from_micros

if TYPE_CHECKING:
    from deltalake import DeltaTable

WATERMARK = "triptych.watermark"
"""The Delta transaction that keeps the largest window end committed."""
STEADY_ATTEMPTS = 10
"""How often reading is tried while `forget` replaces what is read."""

_Result = TypeVar("_Result")


@contextmanager
def translated(location: str) -> Iterator[None]:
    """Say what went wrong with a table in the words of this store."""
    from deltalake.exceptions import DeltaError, TableNotFoundError

    try:
        yield
    except TableNotFoundError as error:
        raise NotFound(f"There is no Delta table at {location}. Was the folder moved or deleted?") from error
    except DeltaError as error:
        raise FeatureStoreError(
            f"The Delta table at {location} cannot be read or written: {str(error).splitlines()[0]}. "
            "Run `featurestore doctor` to see which file is missing or damaged."
        ) from error
    except FileNotFoundError as error:
        raise NotReproducible(
            f"A data file of the Delta table at {location} is gone: {error}. Nothing was committed. "
            "Run `featurestore doctor` to see which files are missing, and restore them from a backup."
        ) from error
    except OSError as error:
        raise FeatureStoreError(
            f"The Delta table at {location} cannot be read or written: {error}. "
            "Check that the disk has room and that you may write there. Nothing was committed."
        ) from error


def exists(location: str) -> bool:
    """Whether a Delta table lies there."""
    from deltalake import DeltaTable

    with translated(location):
        return DeltaTable.is_deltatable(location)


def open_table(location: str, version: int | None = None) -> DeltaTable:
    """The table at a version (newest by default), as deltalake has it.

    Raises:
        NotFound: no table there, or it has no such version.
        NotReproducible: the log no longer reaches back to that version.
        FeatureStoreError: the log is damaged.
    """
    return steady(lambda: _open_once(location, version))


def _open_once(location: str, version: int | None) -> DeltaTable:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    with translated(location):
        if version is None:
            table = DeltaTable(location)
            delta_log.check_newest(location, table.version())
            return table
        try:
            return DeltaTable(location, version=version)
        except DeltaError as error:
            newest = DeltaTable(location).version()
            if not 0 <= version <= newest:
                raise NotFound(
                    f"{name_of(location)} has no Delta version {version} (versions: 0 to {newest}). "
                    "fg.history() shows what each of them is."
                ) from error
            raise NotReproducible(f"Delta version {version} of {location} can no longer be read: {error}.") from error


def name_of(location: str) -> str:
    """What a table is called, such as "cards_v1" for a group's; its location when it has no name."""
    from deltalake import DeltaTable

    with translated(location):
        return DeltaTable(location).metadata().name or location


def steady(read: Callable[[], _Result]) -> _Result:
    """What reading the log gives; read again where it looks damaged because `forget` just replaced a checkpoint."""
    from deltalake.exceptions import DeltaError

    attempts = STEADY_ATTEMPTS
    while True:
        try:
            return read()
        except (DeltaError, FeatureStoreError) as error:
            attempts -= 1
            if not attempts or not is_unsteady(error):
                raise
            time.sleep(0.02)


def is_unsteady(error: Exception) -> bool:
    """Whether an error may come from a checkpoint that was being replaced."""
    return any(word in str(error) for word in (".checkpoint.parquet", "Parquet error"))


def snapshot(location: str, order: str, version: int | None = None) -> Snapshot:
    """The table at a version (newest by default); `order` names the column whose range prunes files.

    Raises:
        NotFound: no table there, or it has no such version.
        NotReproducible: a version was asked for whose files are gone.
    """
    found = snapshot_as_logged(location, order, version)
    if version is not None:
        check_there(location, version, [f.path for f in found.files])
    return found


def snapshot_as_logged(location: str, order: str, version: int | None) -> Snapshot:
    """As `snapshot`, whether the files are still there or not."""
    return steady(lambda: snapshot_of(open_table(location, version), location, order))


def check_there(location: str, version: int, paths: Sequence[str]) -> None:
    """Refuse a version some of whose files are gone.

    Raises:
        NotReproducible: the message names one, and says what removes files.
    """
    if gone := missing_files(paths):
        raise NotReproducible(
            f"Version {version} of {location} can no longer be read: {len(gone)} of its data files are gone, such as "
            f"{Path(gone[0]).name}. vacuum() removes what no live training dataset pins once it is older than its "
            "retention, and forget() removes what held a forgotten key. Read a newer version, or restore the files "
            "from a backup."
        )


def missing_files(paths: Iterable[str]) -> list[str]:
    """The files that are no longer there."""
    return [p for p in paths if not Path(p).exists()]


def snapshot_of(table: DeltaTable, location: str, order: str) -> Snapshot:
    """The snapshot of an opened table."""
    actions = pa.table(table.get_add_actions(flatten=True))
    root, names = location.rstrip("/"), [n[4:] for n in actions.column_names if n.startswith("min.")]
    ranges = [
        {n: (low, _latest(high)) for n, low, high in zip(names, lows, highs, strict=True) if high is not None}
        for lows, highs in zip(*(_lists(actions, [f"{end}.{n}" for n in names]) for end in ("min", "max")), strict=True)
    ]
    files = [
        DataFile(f"{root}/{unquote(path)}", rows or 0, *bounds.get(order, (None, None)), bounds)
        for path, rows, bounds in zip(
            actions["path"].to_pylist(), actions["num_records"].to_pylist(), ranges, strict=True
        )
    ]
    micros = table.transaction_version(WATERMARK)
    return Snapshot(
        location=root, table_id=str(table.metadata().id), version=table.version(), order=order,
        # The log lists newest files first; rows are easier to follow, and compress better, in order of time.
        files=tuple(sorted(files, key=lambda f: (f.low is not None, f.low if f.low is not None else 0, f.path))),
        watermark=None if micros is None else from_micros(micros),
    )  # fmt: skip


def _lists(table: pa.Table, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """The rows of some columns."""
    return list(zip(*(table[n].to_pylist() for n in names), strict=True)) if names else [()] * table.num_rows


def _latest(high: Any) -> Any:
    """The largest value a file may hold: of times other writers log whole milliseconds, rounded down."""
    is_rounded = isinstance(high, datetime) and high.microsecond % 1000 == 0
    return high.replace(microsecond=high.microsecond + 999) if is_rounded else high


def watermark(location: str) -> datetime | None:
    """The largest window end committed, or None."""
    micros = open_table(location).transaction_version(WATERMARK)
    return None if micros is None else from_micros(micros)


def schema_of(table: DeltaTable) -> pa.Schema:
    """The table's columns, without what it notes of them."""
    return pa.schema([f.remove_metadata() for f in pa.schema(table.schema().to_arrow())])


def arrow_schema(location: str) -> pa.Schema:
    """The columns of a table's newest version, with their types."""
    return pa.schema(open_table(location).schema().to_arrow())


def column_names(location: str, version: int | None = None) -> list[str]:
    """The columns of a table at a version (newest by default), the hidden one among them."""
    return [f.name for f in open_table(location, version).schema().fields]


def partitions(location: str, version: int | None = None) -> dict[str, tuple[Any, ...]]:
    """The values of the partition columns of each data file of a version (newest by default), by path."""
    actions = steady(lambda: pa.table(open_table(location, version).get_add_actions(flatten=True)))
    columns = [n for n in actions.column_names if n.startswith("partition.")]
    paths = [f"{location.rstrip('/')}/{unquote(path)}" for path in actions["path"].to_pylist()]
    return dict(zip(paths, _lists(actions, columns), strict=True))


def live_files(location: str) -> list[str]:
    """The paths of the newest version's data files."""
    return list(partitions(location))
