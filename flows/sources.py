"""What the sources of all systems share: one shape for rows whatever they come from, and tables from a data folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidTime, NotFound, SchemaMismatch
from featurestore.times import Window
from flows.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


def half_open(start: datetime, end: datetime) -> Window:
    """The window [start, end), in UTC.

    Raises:
        InvalidTime: a time without time zone, or an end before the start.

    >>> half_open(datetime(2026, 1, 1), datetime(2026, 1, 2))  # noqa: DTZ001 - refused
    Traceback (most recent call last):
        ...
    featurestore.errors.InvalidTime: The start 2026-01-01 00:00:00 has no time zone. Say which one it is in, ...
    """
    for name, time in (("start", start), ("end", end)):
        if time.tzinfo is None:
            raise InvalidTime(
                f"The {name} {time} has no time zone. Say which one it is in, such as datetime(2026, 1, 1, tzinfo=UTC)."
            )
    return Window.of(start, end)


def in_shape(rows: pd.DataFrame, columns: Mapping[str, str], source: str, *, order: Sequence[str]) -> pd.DataFrame:
    """The rows with exactly these columns, in order; refuses what a cast would have to change.

    Args:
        rows: any order, any index; more columns than wanted are left out.
        columns: dtype by name. Where "source" is among them, it is filled in.
        source: whose rows they are.
        order: the columns to sort by.
    Returns:
        The columns and dtypes as told, index 0..n-1. A text column without any value has no dtype of its own: it gets
        the one told.
    Raises:
        SchemaMismatch: another dtype; the message names source, column and both dtypes.

    >>> import pandas as pd
    >>> in_shape(pd.DataFrame({"zone": ["b", "a"], "mw": [1.0, 2.0]}), {"zone": "str", "source": "str"}, "live",
    ...          order=["zone"]).to_dict("list")
    {'zone': ['a', 'b'], 'source': ['live', 'live']}
    """
    import pandas as pd

    if "source" in columns:
        rows = rows.assign(source=pd.Series(source, index=rows.index, dtype="str"))
    result = rows[list(columns)]
    text = [name for name, dtype in columns.items() if dtype == "str" and result[name].isna().all()]
    result = result.astype(dict.fromkeys(text, "str"))
    for name, dtype in columns.items():
        if str(result[name].dtype) != dtype:
            raise SchemaMismatch(
                f"Source {source!r} gives {name!r} as {result[name].dtype}, expected {dtype}. "
                "Mend the table or its reader."
            )
    return result.sort_values(list(order), ignore_index=True)


def data_folder(system: str, *, of: str) -> Path:
    """The folder with a system's tables.

    Args:
        system: the folder's name below `TRIPTYCH_DATA`.
        of: what the tables are of, for the message.
    Raises:
        NotFound: no data folder is set.
    """
    data = Settings().data
    if data is None:
        raise NotFound(f"Tables of {of} need a folder. Set TRIPTYCH_DATA=<folder> that holds {system}/*.parquet.")
    return data / system


def read_table(
    path: Path, columns: Sequence[str], *, time: str | None = None, between: tuple[Any, Any] | None = None
) -> pd.DataFrame:
    """Columns of a Parquet table, as they lie there, index 0..n-1.

    Args:
        path: of a table below the data folder.
        columns: which.
        time, between: only rows whose `time` lies in the half-open `between`, in the column's own type.
    Raises:
        NotFound: the table is not there; the message lists what is.
        SchemaMismatch: it has not these columns; the message names the missing ones.
    """
    import pandas as pd
    import pyarrow.parquet

    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*.parquet")) if path.parent.is_dir() else "no such folder"
        raise NotFound(
            f"Expected the table {path}, but it is not there ({path.parent}: {there}). TRIPTYCH_DATA names the folder "
            f"above {path.parent.name}/; unset it to use the simulator."
        )
    held = pyarrow.parquet.read_schema(path).names
    if missing := sorted(set(columns) - set(held)):
        raise SchemaMismatch(f"The table {path} has no column {missing}; it has {sorted(held)}. Mend the table.")
    filters = None if between is None else [(time, ">=", between[0]), (time, "<", between[1])]
    return pd.read_parquet(path, columns=list(columns), filters=filters).reset_index(drop=True)
