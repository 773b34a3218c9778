"""Rows from files and values from command lines, in the types that features declare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import InvalidData, InvalidTime, NotFound
from featurestore.schema import TIMESTAMP, Feature
from featurestore.times import parse_time

_BATCH_ROWS = 100_000


def read(
    path: Path, features: Sequence[Feature] = (), *, advance: Callable[[float], None] | None = None
) -> pa.Table | pa.RecordBatchReader:
    """The rows of a file, in its columns and order: a CSV as a table, Parquet as a stream of batches.

    Args:
        features: the types of a CSV's columns by name, so that "007" stays text; types of other columns are inferred.
            An empty cell is null, `""` is empty text. Times may have any form that the store accepts.
        advance: told of each batch that was taken, as its share of the file.
    Raises:
        NotFound: there is no such file.
        InvalidData: it is of another kind, damaged, or holds a value that its column's type cannot; of Parquet also
            while the stream is read.
    """
    import pyarrow.parquet

    if not path.is_file():
        raise NotFound(f"There is no file {str(path)!r}. Check the path; it is taken from {str(Path.cwd())!r}.")
    kind = path.suffix.casefold()
    if kind not in (".csv", ".parquet"):
        raise InvalidData(f"{str(path)!r} is neither .csv nor .parquet. Convert it to one of them.")
    with _translated(path):
        if kind == ".csv":
            return _read_csv(path, features)
        file = pyarrow.parquet.ParquetFile(path)

    def batches() -> Iterator[pa.RecordBatch]:
        with _translated(path):
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                yield batch
                if advance is not None:
                    advance(batch.num_rows / file.metadata.num_rows)

    return pa.RecordBatchReader.from_batches(file.schema_arrow, batches())


def read_table(path: Path, features: Sequence[Feature] = ()) -> pa.Table:
    """The rows of a file all at once; otherwise as `read`."""
    rows = read(path, features)
    return rows if isinstance(rows, pa.Table) else pa.Table.from_batches(list(rows), rows.schema)


def parse_value(text: str, feature: Feature) -> Any:
    """What a text stands for in a column of that type.

    Raises:
        InvalidData: the text is no such value.

    >>> parse_value("7", Feature("customer", "bigint")), parse_value("7", Feature("customer", "string"))
    (7, '7')
    >>> parse_value("seven", Feature("customer", "bigint"))
    Traceback (most recent call last):
        ...
    featurestore.errors.InvalidData: customer='seven' is not a bigint.
    """
    try:
        if pa.types.is_timestamp(feature.type):
            return parse_time(text)
        return pa.array([text]).cast(feature.type)[0].as_py()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, InvalidTime) as error:
        raise InvalidData(f"{feature.name}={text!r} is not a {feature.dtype}.") from error


def parse_values(texts: Mapping[str, str], features: Sequence[Feature]) -> dict[str, Any]:
    """Values by column name, in the types of the features; the text of a column that no feature declares stays.

    >>> parse_values({"customer": "7", "x": "1"}, [Feature("customer", "bigint")])
    {'customer': 7, 'x': '1'}
    """
    known = {f.name: f for f in features}
    return {name: parse_value(text, known[name]) if name in known else text for name, text in texts.items()}


def one_row(values: Mapping[str, Any], features: Sequence[Feature]) -> pa.Table:
    """A frame of one row, its columns in the types of the features of their names."""
    known = {f.name: f.type for f in features}
    return pa.table({name: pa.array([value], known.get(name)) for name, value in values.items()})


def _read_csv(path: Path, features: Sequence[Feature]) -> pa.Table:
    from pyarrow import csv

    times = {f.name for f in features if pa.types.is_timestamp(f.type)}
    table = csv.read_csv(
        path,
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types={f.name: pa.string() if f.name in times else f.type for f in features},
            null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False,
        ),
    )  # fmt: skip
    columns = [
        _times(column, name) if name in times else column
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]
    return pa.Table.from_arrays(columns, names=table.column_names)


def _times(texts: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """The times that texts stand for; naive ones are UTC."""
    if not pc.any(pc.match_substring_regex(texts, r"\.\d{7}"), min_count=0).as_py():  # Arrow would cut nanoseconds off
        for dtype in (pa.timestamp("us"), TIMESTAMP):  # without a zone, or all with one: the usual files, and quick
            try:
                return pc.cast(pc.cast(texts, dtype), TIMESTAMP)
            except pa.ArrowInvalid:
                continue
    try:
        parsed = [None if text is None else parse_time(text) for text in texts.to_pylist()]
    except InvalidTime as error:
        raise InvalidData(f"Column {name!r}: {error} Nothing was written.") from error
    return pa.chunked_array([pa.array(parsed, TIMESTAMP)])


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise InvalidData(f"{str(path)!r} cannot be read: {error}. Nothing was written.") from error
