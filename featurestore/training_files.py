"""The files of materialised training datasets: one for each split, there as a whole or not at all.

    <home>/training/<view>_<view version>/<training dataset version>/<split>.<format>

They are written into a folder of another name, flushed to the disk and moved into place inside the transaction that
registers the dataset. A process that dies leaves a folder that no manifest names; the next one that writes removes it.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import pyarrow as pa

from featurestore.errors import FeatureStoreError, InvalidData

DataFormat = Literal["parquet", "csv", "arrow", "feather"]
FOLDER = "training"
_UNFINISHED = ".new-"
_LOCK = ".writing"


def check_format(data_format: str) -> None:
    """Refuse a format that files cannot have."""
    if data_format not in get_args(DataFormat):
        raise InvalidData(f"data_format {data_format!r} is unknown. Use one of {list(get_args(DataFormat))}.")


@contextmanager
def writing(folder: Path, registered: Callable[[], Collection[int]]) -> Iterator[Path]:
    """A new, empty folder inside a view's folder, to be filled and then moved into place with `publish`.

    Args:
        folder: the view's.
        registered: the versions that the catalog knows; other folders are what dead processes left, and are removed.
            Called when no other process is between writing and registering.
    Raises:
        FeatureStoreError: the disk is full, or the folder cannot be written.
    """
    import fcntl

    unfinished = folder / f"{_UNFINISHED}{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / _LOCK, "w") as lock:
            _sweep(folder, registered, lock.fileno())
            fcntl.flock(lock, fcntl.LOCK_SH)  # held until the folder is in place, and let go of by a death
            unfinished.mkdir()
            try:
                yield unfinished
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)  # when in place it has another name
    except OSError as error:
        raise FeatureStoreError(
            f"The files of the training dataset cannot be written to {folder}: {error}. Check that the disk has room "
            "and that you may write there. Nothing was registered."
        ) from error


def sweep(folder: Path, registered: Callable[[], Collection[int]]) -> None:
    """Remove what dead processes left in a view's folder; nothing happens while another process writes there."""
    if folder.is_dir():
        with open(folder / _LOCK, "w") as lock:
            _sweep(folder, registered, lock.fileno())


def _sweep(folder: Path, registered: Callable[[], Collection[int]], lock: int) -> None:
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # another process is writing; what is left over here can wait
    known = {str(version) for version in registered()}
    for left in folder.iterdir():
        if left.name.startswith(_UNFINISHED) or (left.name.isdigit() and left.name not in known):
            shutil.rmtree(left)


def publish(unfinished: Path, version: int) -> None:
    """Move a filled folder to where a version's files lie. Call it while no other process can take the version."""
    place = unfinished.parent / str(version)
    if place.exists():  # of a process that died before it could register this version
        shutil.rmtree(place)
    os.rename(unfinished, place)
    _flush(unfinished.parent)


def remove(folder: Path) -> None:
    """Remove a folder and all below it, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def write(table: pa.Table, path: Path, data_format: DataFormat) -> None:
    """Write one split and flush it to the disk.

    Raises:
        InvalidData: the format cannot hold the values exactly.
    """
    if data_format == "parquet":
        from pyarrow import parquet

        # Numbers seldom repeat: looking for those that do takes more than twice as long, to write and to read.
        texts = [f.name for f in table.schema if pa.types.is_string(f.type)]
        parquet.write_table(table, path, use_dictionary=texts or False)
    elif data_format == "csv":
        from pyarrow import csv

        csv.write_csv(_as_text(table), path)
    else:
        from pyarrow import feather

        feather.write_feather(table, str(path), compression="uncompressed" if data_format == "arrow" else "lz4")
    _flush(path)


def read(path: Path, data_format: DataFormat, schema: pa.Schema) -> pa.Table:
    """The table that `write` was given.

    Raises:
        OSError, ValueError, KeyError, pyarrow.ArrowException: the file is missing, damaged, or not of the schema.
    """
    if data_format == "parquet":
        from pyarrow import parquet

        with parquet.ParquetFile(path) as file:
            return file.read().cast(schema)
    if data_format == "csv":
        return _read_csv(path, schema)
    from pyarrow import feather

    table = feather.read_table(str(path), memory_map=False)
    table.validate(full=True)  # offsets beyond the data would be read
    return table.cast(schema)


def _read_csv(path: Path, schema: pa.Schema) -> pa.Table:
    from pyarrow import csv

    texts = csv.read_csv(
        path,
        read_options=csv.ReadOptions(block_size=1 << 24),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(schema.names, pa.string()), null_values=[""], strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )  # fmt: skip
    columns = [texts.column(f.name).cast(f.type) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _as_text(table: pa.Table) -> pa.Table:
    """All values as text that casts back: numbers in as many digits as tell them apart, times in UTC."""
    columns = []
    for field, column in zip(table.schema, table.columns, strict=True):
        if pa.types.is_nested(field.type) or pa.types.is_binary(field.type):
            raise InvalidData(f"Column {field.name!r} is {field.type}: csv cannot hold it. Use data_format='parquet'.")
        columns.append(column.cast(pa.string()))
    return pa.table(columns, names=table.column_names)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
