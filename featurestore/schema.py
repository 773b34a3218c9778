"""What a feature group's columns are: names, types, units; and the door through which frames must pass.

Arrow is the only in-memory format behind this door. `conform` lets a frame in when every value fits the
contract exactly and says which column and row does not otherwise; `to_frame` lets it out again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import FeatureStoreError, InvalidData, SchemaMismatch

DataFrameType = Literal["pandas", "polars", "arrow"]

TIMESTAMP = pa.timestamp("us", tz="UTC")
NAME_RULE = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)
MAX_COLUMN_NAME = 255
ROWS_SHOWN = 5

_SIMPLE_TYPES: dict[str, pa.DataType] = {
    "boolean": pa.bool_(), "bool": pa.bool_(),
    "tinyint": pa.int8(), "int8": pa.int8(),
    "smallint": pa.int16(), "int16": pa.int16(),
    "int": pa.int32(), "int32": pa.int32(),
    "bigint": pa.int64(), "int64": pa.int64(),
    "float": pa.float32(), "float32": pa.float32(),
    "double": pa.float64(), "float64": pa.float64(),
    "string": pa.string(), "str": pa.string(),
    "binary": pa.binary(), "bytes": pa.binary(),
    "date": pa.date32(), "date32": pa.date32(),
    "timestamp": TIMESTAMP,
}  # fmt: skip
_DTYPE_HELP = (
    "an Arrow type, or one of boolean, tinyint, smallint, int, bigint, float, double, string, binary, date, timestamp, "
    "decimal(p,s), array<...>, struct<name:type,...>"
)


@dataclass(frozen=True)
class Feature:
    """One column of a feature group.

    Args:
        name: column name; free text up to 255 characters without control characters, not starting with `__`.
        dtype: an Arrow type or its spelling: "int" (32 bit), "bigint", "double", "string", "boolean", "timestamp"
            (UTC microseconds), "date", "decimal(10,2)", "binary", "array<double>", "struct<lat:double,lon:double>".
        description: one sentence for people.
        unit: unit of measure, such as "EUR" or "km/h"; None where there is none.
        on_demand: the value comes with each prediction request (raw, or computed from it), so serving never looks it
            up; history stores it like any other feature.

    >>> Feature("amount", "double", unit="EUR").type
    DataType(double)
    >>> Feature("amount", "money")
    Traceback (most recent call last):
        ...
    featurestore.errors.SchemaMismatch: Feature 'amount' has the unknown dtype 'money'. Use an Arrow type, or ...
    """

    name: str
    dtype: str | pa.DataType
    description: str = ""
    unit: str | None = None
    on_demand: bool = False
    type: pa.DataType = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_column_name(self.name)
        resolved = parse_dtype(self.dtype, self.name)
        object.__setattr__(self, "type", resolved)
        object.__setattr__(self, "dtype", spell_dtype(resolved))

    def to_json(self) -> dict[str, Any]:
        """The feature as JSON-ready data; `from_json` reads it back."""
        return {
            "name": self.name, "dtype": self.dtype, "description": self.description,
            "unit": self.unit, "on_demand": self.on_demand,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Feature:
        """The feature that `to_json` described."""
        return cls(**data)


def check_name(name: str, what: str) -> str:
    """Refuse names of groups, views and functions that are not `[a-z][a-z0-9_]{0,62}`; return the name."""
    if not isinstance(name, str) or not NAME_RULE.fullmatch(name):
        raise SchemaMismatch(
            f"{what} name {name!r} is not allowed: a lower-case letter, then up to 62 lower-case letters, digits or "
            "underscores ([a-z][a-z0-9_]{0,62})."
        )
    return name


def check_version(version: int, what: str) -> int:
    """Refuse versions that are not whole numbers of at least one; return the version."""
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise SchemaMismatch(f"{what} has version {version!r}: versions are whole numbers from 1.")
    return version


def check_column_name(name: str) -> str:
    """Refuse column names that are empty, too long, reserved or hold control characters; return the name."""
    if not isinstance(name, str) or not name or len(name) > MAX_COLUMN_NAME or any(not c.isprintable() for c in name):
        raise SchemaMismatch(
            f"Column name {name!r} is not allowed: 1 to {MAX_COLUMN_NAME} printable characters, as text."
        )
    if name.startswith("__"):
        raise SchemaMismatch(
            f"Column name {name!r} is reserved: names that start with '__' belong to the feature store."
        )
    return name


def check_column_names(names: Sequence[str]) -> None:
    """Refuse a list of columns in which a name is not allowed or appears twice without regard to case."""
    if not names:
        raise SchemaMismatch("A feature group needs at least one column; the frame has none.")
    seen: dict[str, str] = {}
    for name in names:
        check_column_name(name)
        other = seen.get(name.casefold())
        if other == name:
            raise SchemaMismatch(f"Column {name!r} is there twice. Rename or drop one of the two.")
        if other is not None:
            raise SchemaMismatch(f"Columns {other!r} and {name!r} are the same name but for case. Rename one of them.")
        seen[name.casefold()] = name


def parse_dtype(dtype: str | pa.DataType, column: str = "") -> pa.DataType:
    """The Arrow type for a spelling; Arrow types are normalised to those the store keeps.

    Raises:
        SchemaMismatch: the spelling is unknown, or the store cannot keep the type exactly.

    >>> parse_dtype("array<struct<lat:double,lon:double>>")
    ListType(list<element: struct<lat: double, lon: double>>)
    """
    parsed = _normalise(dtype) if isinstance(dtype, pa.DataType) else _parse(dtype)
    if parsed is None:
        raise SchemaMismatch(f"Feature {column!r} has the unknown dtype {str(dtype)!r}. Use {_DTYPE_HELP}.")
    return parsed


def _parse(text: object) -> pa.DataType | None:
    if not isinstance(text, str):
        return None
    spelling = text.strip()
    lowered = spelling.lower()
    if lowered in _SIMPLE_TYPES:
        return _SIMPLE_TYPES[lowered]
    if match := re.fullmatch(r"decimal\(\s*(\d+)\s*,\s*(\d+)\s*\)", lowered):
        precision, scale = int(match[1]), int(match[2])
        return pa.decimal128(precision, scale) if 1 <= precision <= 38 and scale <= precision else None
    if match := re.fullmatch(r"array<(.*)>", spelling, re.IGNORECASE | re.DOTALL):
        inner = _parse(match[1])
        return None if inner is None else pa.list_(pa.field("element", inner))
    if match := re.fullmatch(r"struct<(.*)>", spelling, re.IGNORECASE | re.DOTALL):
        fields = []
        for part in _split_outside_brackets(match[1]):
            name, colon, inner_text = part.partition(":")
            inner = _parse(inner_text)
            if not colon or not name.strip() or inner is None:
                return None
            fields.append(pa.field(name.strip(), inner))
        return pa.struct(fields) if fields else None
    return None


def _split_outside_brackets(text: str) -> Iterator[str]:
    depth, start = 0, 0
    for position, character in enumerate(text):
        depth += (character in "<(") - (character in ">)")
        if character == "," and depth == 0:
            yield text[start:position]
            start = position + 1
    yield text[start:]


def _normalise(dtype: pa.DataType) -> pa.DataType | None:
    """The stored type that holds every value of an Arrow type exactly; None when there is none."""
    if dtype in _SIMPLE_TYPES.values():
        return dtype
    if pa.types.is_dictionary(dtype):
        return _normalise(dtype.value_type)
    if pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype):
        return pa.string()
    if pa.types.is_large_binary(dtype) or pa.types.is_binary_view(dtype) or pa.types.is_fixed_size_binary(dtype):
        return pa.binary()
    if pa.types.is_unsigned_integer(dtype):
        return {8: pa.int16(), 16: pa.int32(), 32: pa.int64(), 64: pa.int64()}[dtype.bit_width]
    if pa.types.is_float16(dtype):
        return pa.float32()
    if pa.types.is_timestamp(dtype):
        return TIMESTAMP
    if pa.types.is_date64(dtype):
        return pa.date32()
    if pa.types.is_decimal(dtype):
        return pa.decimal128(dtype.precision, dtype.scale) if dtype.precision <= 38 and dtype.scale >= 0 else None
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype) or pa.types.is_fixed_size_list(dtype):
        inner = _normalise(dtype.value_type)
        return None if inner is None else pa.list_(pa.field("element", inner))
    if pa.types.is_struct(dtype):
        inners = [(f.name, _normalise(f.type)) for f in dtype]
        is_ambiguous = len({name.casefold() for name, _ in inners}) < len(inners)
        return None if not inners or is_ambiguous or any(t is None for _, t in inners) else pa.struct(inners)
    return None


def spell_dtype(dtype: pa.DataType) -> str:
    """The spelling of a stored type, which `parse_dtype` reads back.

    >>> spell_dtype(pa.list_(pa.decimal128(10, 2)))
    'array<decimal(10,2)>'
    """
    if pa.types.is_list(dtype):
        return f"array<{spell_dtype(dtype.value_type)}>"
    if pa.types.is_struct(dtype):
        return f"struct<{','.join(f'{f.name}:{spell_dtype(f.type)}' for f in dtype)}>"
    if pa.types.is_decimal(dtype):
        return f"decimal({dtype.precision},{dtype.scale})"
    return next(name for name, known in _SIMPLE_TYPES.items() if known == dtype)


def as_arrow(frame: Any) -> pa.Table:
    """A frame of any accepted library as an Arrow table: pandas, Polars, Arrow, anything with `__arrow_c_stream__`.

    Raises:
        SchemaMismatch: not a frame, column names that are not allowed or appear twice, a column of mixed types.
    """
    if isinstance(frame, pa.RecordBatch):
        frame = pa.Table.from_batches([frame])
    library = type(frame).__module__.split(".")[0]
    if library == "pandas" and hasattr(frame, "columns"):
        names = list(frame.columns)
        check_column_names(names)
        return pa.Table.from_arrays([_pandas_column(frame.iloc[:, i], n) for i, n in enumerate(names)], names=names)
    if not isinstance(frame, pa.Table):
        if not hasattr(frame, "__arrow_c_stream__") or (library == "polars" and not hasattr(frame, "columns")):
            raise SchemaMismatch(
                f"{type(frame).__name__} is not a frame. Pass a pandas or Polars DataFrame, or an Arrow table; "
                "of record batches, one by one, make one with pa.RecordBatchReader.from_batches(schema, batches)."
            )
        if library == "polars":  # which would hand out the addresses of Python's objects
            for name, dtype in frame.schema.items():
                if str(dtype) == "Object":
                    raise SchemaMismatch(
                        f"Column {name!r} holds Python objects (Polars dtype Object). Convert it first."
                    )
        try:
            frame = pa.table(frame)
        except pa.ArrowException as error:
            raise SchemaMismatch(f"The {type(frame).__name__} has a column that Arrow cannot hold: {error}.") from error
    check_column_names(frame.column_names)
    return frame


def check_index(frame: Any, wanted: Sequence[str], what: str) -> None:
    """Refuse a pandas frame whose index holds a wanted column that its columns lack: the index is not stored."""
    if type(frame).__module__.split(".")[0] != "pandas" or not hasattr(frame, "columns"):
        return
    if hidden := [name for name in frame.index.names if name in wanted and name not in frame.columns]:
        raise SchemaMismatch(
            f"{what}: the frame lacks the columns {hidden}, but its index has them. "
            "Make them columns: frame.reset_index()."
        )


@dataclass(frozen=True)
class Stream:
    """Tables of one schema, one after the other; they can be had once."""

    schema: pa.Schema
    batches: Iterator[pa.Table]


def as_stream(frame: Any) -> Stream | None:
    """What comes batch by batch: an Arrow reader, a lazy Polars frame, anything else with `__arrow_c_stream__`.

    None for frames that are in memory as a whole.
    """
    library = type(frame).__module__.split(".")[0]
    if library == "polars" and hasattr(frame, "collect_batches"):
        schema = as_arrow(frame.head(0).collect()).schema
        tables = (pa.table(batch).cast(schema) for batch in frame.collect_batches(maintain_order=True, lazy=True))
        return Stream(schema, tables)
    if library in ("pandas", "polars") or isinstance(frame, pa.Table | pa.RecordBatch):
        return None
    if not hasattr(frame, "__arrow_c_stream__"):
        return None
    reader = frame if isinstance(frame, pa.RecordBatchReader) else pa.RecordBatchReader.from_stream(frame)
    check_column_names(reader.schema.names)
    return Stream(reader.schema, _batches(reader))


def _batches(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    try:
        for batch in reader:
            yield pa.Table.from_batches([batch])
    except pa.ArrowException as error:  # a reader that is not Python's own gives every error this form
        raise FeatureStoreError(f"The stream broke off: {error}. Nothing was written.") from error


def _pandas_column(values: Any, name: str) -> pa.ChunkedArray:
    zoned = getattr(values.dtype, "tz", None) is not None
    try:
        # Arrow reads zoned times by a way that pandas deprecates; the same moments without a zone it reads directly.
        array = pa.Array.from_pandas(values.dt.tz_convert(None) if zoned else values)
        if zoned:
            array = pc.assume_timezone(array, "UTC")
        if pa.types.is_binary(array.type) and values.map(lambda v: isinstance(v, str)).any():
            raise TypeError("bytes and text")
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise SchemaMismatch(
            f"Column {name!r} (pandas dtype {values.dtype}) holds values of mixed or unknown types: {error}. "
            "Give the column one type first."
        ) from error
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


def infer_features(schema: pa.Schema) -> tuple[Feature, ...]:
    """The features a first batch declares when nobody declared them.

    Raises:
        SchemaMismatch: a column has a type the store cannot keep, or no value to tell its type by.
    """
    for name, dtype in zip(schema.names, schema.types, strict=True):
        if pa.types.is_null(dtype):
            raise SchemaMismatch(
                f"Column {name!r} holds nulls only, so its type is unknown. "
                f"Declare it: features=[Feature({name!r}, ...)]."
            )
    return tuple(Feature(f.name, f.type) for f in schema)


def conform(
    frame: Any, features: Sequence[Feature], *, required: Sequence[str] = (), what: str = "The frame"
) -> pa.Table:
    """The frame as an Arrow table with exactly the features' columns, order and types, no value changed.

    Args:
        frame: pandas or Polars DataFrame, Arrow table, or anything with `__arrow_c_stream__`; columns in any order.
        features: the contract.
        required: columns that must not hold a null (keys and event time).
        what: how messages name the frame, such as "Feature group 'a' version 1".
    Returns:
        The table; its time columns are UTC microseconds, its float columns hold null where the frame held NaN.
    Raises:
        SchemaMismatch: a missing, extra or differently typed column; the message names both sides.
        InvalidData: a value its column's type cannot hold exactly, or a null where none may be; with row numbers.
    """
    table = as_arrow(frame)
    expected = [f.name for f in features]
    missing = [n for n in expected if n not in table.column_names]
    extra = [n for n in table.column_names if n not in expected]
    if missing or extra:
        raise SchemaMismatch(
            f"{what} expects the columns {expected}; the frame "
            + " and ".join(
                p for p in (f"lacks {missing}" if missing else "", f"also has {extra}" if extra else "") if p
            )
            + ". Add what is missing and drop what is extra."
        )
    columns = [_cast(table.column(f.name), f.type, f"{what}: column {f.name!r}") for f in features]
    for feature, column in zip(features, columns, strict=True):
        if feature.name in required and column.null_count:
            rows = _rows(pc.is_null(column))
            raise InvalidData(
                f"{what}: column {feature.name!r} is null in {rows}, but it is part of the key or the event time. "
                "Drop or repair these rows."
            )
    return pa.Table.from_arrays(columns, schema=arrow_schema(features, required))


def arrow_schema(features: Sequence[Feature], required: Sequence[str] = ()) -> pa.Schema:
    """The Arrow schema of the features; required columns are not nullable."""
    return pa.schema([pa.field(f.name, f.type, nullable=f.name not in required) for f in features])


def _rows(mask: pa.ChunkedArray) -> str:
    positions = pc.indices_nonzero(mask).to_pylist()
    shown = ", ".join(str(p) for p in positions[:ROWS_SHOWN])
    more = f" and {len(positions) - ROWS_SHOWN} more" if len(positions) > ROWS_SHOWN else ""
    return f"row{'s' if len(positions) > 1 else ''} {shown}{more}"


def _family(dtype: pa.DataType) -> str:
    tests = {
        "boolean": pa.types.is_boolean, "int": pa.types.is_integer, "float": pa.types.is_floating,
        "decimal": pa.types.is_decimal, "timestamp": pa.types.is_timestamp, "date": pa.types.is_date,
    }  # fmt: skip
    for family, test in tests.items():
        if test(dtype):
            return family
    if pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype):
        return "text"
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype) or pa.types.is_fixed_size_list(dtype):
        return f"list of {_family(dtype.value_type)}"
    if pa.types.is_struct(dtype):
        return "struct of " + ", ".join(f"{f.name} {_family(f.type)}" for f in dtype)
    if "binary" in str(dtype):
        return "binary"
    return str(dtype)


_CALENDAR = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
# Pairs of families between which a value can be the same value; each cast still checks every value.
_COMPATIBLE = {("float", "int"), ("int", "float"), ("date", "timestamp"), ("timestamp", "date")}


def _cast(column: pa.ChunkedArray, target: pa.DataType, what: str) -> pa.ChunkedArray:
    source = column.type
    if pa.types.is_dictionary(source):
        column = _decoded(column)
        source = column.type
    if pa.types.is_string_view(source) or pa.types.is_binary_view(source):  # Polars' text; Arrow cannot filter views
        column = pc.cast(column, pa.large_string() if pa.types.is_string_view(source) else pa.large_binary())
        source = column.type
    if pa.types.is_null(source):
        return pa.chunked_array([pa.nulls(len(column), target)])
    if pa.types.is_floating(source):
        if pa.types.is_float16(source):
            column = pc.cast(column, pa.float32())
        nan = pc.is_nan(column)
        if pc.any(nan, min_count=0).as_py():
            column = pc.if_else(nan, pa.scalar(None, column.type), column)
    typed = _with_nulls_typed(source, target)
    if typed != source:
        column = pc.cast(column, typed)
        source = typed
    if source == target:
        return _within_calendar(column, what)
    families = (_family(source), _family(target))
    if families[0] != families[1] and families not in _COMPATIBLE:
        raise SchemaMismatch(f"{what} is {spell_or_str(source)}, expected {spell_dtype(target)}. Convert the column.")
    if families == ("float", "int"):
        fraction = pc.and_(pc.is_finite(column), pc.not_equal(pc.floor(column), column))
        if pc.any(fraction, min_count=0).as_py():
            raise SchemaMismatch(
                f"{what} is {spell_or_str(source)} with fractions ({_rows(pc.fill_null(fraction, False))}), expected "
                f"{spell_dtype(target)}. Round it yourself."
            )
    if families == ("timestamp", "timestamp") and source.tz is None:
        column = pc.assume_timezone(column, "UTC") if len(column) else pc.cast(column, pa.timestamp(source.unit, "UTC"))
    return _within_calendar(_cast_exactly(column, target, what), what)


def _within_calendar(column: pa.ChunkedArray, what: str) -> pa.ChunkedArray:
    """The column, whose times and dates lie in the years 1 to 9999: Python knows no others."""
    dtype = column.type
    if dtype != TIMESTAMP and not pa.types.is_date32(dtype):
        return column
    first, last = _CALENDAR if dtype == TIMESTAMP else [moment.date() for moment in _CALENDAR]
    outside = pc.or_(pc.less(column, pa.scalar(first, dtype)), pc.greater(column, pa.scalar(last, dtype)))
    if pc.any(outside, min_count=0).as_py():
        raise InvalidData(
            f"{what} holds a time outside the years 1 to 9999 ({_rows(pc.fill_null(outside, False))}). Such values "
            "usually stand for 'never' or 'unknown': make them null."
        )
    return column


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of codes (pandas' and Polars' categories) as its values."""
    dtype = column.type.value_type
    plain = pa.large_string() if pa.types.is_string_view(dtype) else dtype  # Arrow cannot pick among views
    chunks = [pa.DictionaryArray.from_arrays(c.indices, c.dictionary.cast(plain)) for c in column.chunks]
    return pa.chunked_array([c.dictionary_decode() for c in chunks], type=plain)


def _with_nulls_typed(source: pa.DataType, target: pa.DataType) -> pa.DataType:
    """The source type with the target's type wherever a list or struct holds nulls only."""
    if pa.types.is_null(source):
        return target
    if pa.types.is_list(source) and pa.types.is_list(target):
        element = source.value_field
        return pa.list_(element.with_type(_with_nulls_typed(element.type, target.value_type)))
    if pa.types.is_struct(source) and pa.types.is_struct(target):
        known = {f.name: f.type for f in target}
        return pa.struct([f.with_type(_with_nulls_typed(f.type, known.get(f.name, f.type))) for f in source])
    return source


def _cast_exactly(column: pa.ChunkedArray, target: pa.DataType, what: str) -> pa.ChunkedArray:
    source = column.type
    through = pa.date32() if pa.types.is_timestamp(source) and pa.types.is_date(target) else target
    try:
        cast = pc.cast(column, through, safe=False)
        lost = pc.and_(pc.is_valid(column), pc.invert(_equal(pc.cast(cast, source, safe=False), column)))
    except pa.ArrowInvalid as error:
        raise _refused(column, target, what, safe=False) from error
    lost = pc.fill_null(lost, True)
    lost = pc.and_(lost, pc.is_valid(column))
    if not pa.types.is_nested(target):
        # An overflow can wrap around and back to the same value: only a checked cast tells.
        possible = pc.if_else(lost, pa.scalar(None, source), column)
        try:
            pc.cast(possible, through, safe=True)
        except pa.ArrowInvalid as error:
            raise _refused(possible, through, what, safe=True) from error
    if pc.any(lost, min_count=0).as_py():
        first = _shown(column.filter(lost)[0])
        raise InvalidData(
            f"{what} holds {first} ({_rows(lost)}), which {spell_dtype(target)} cannot hold exactly. "
            "Round or drop these values."
        )
    return cast


def _refused(column: pa.ChunkedArray, target: pa.DataType, what: str, *, safe: bool) -> InvalidData:
    """The error for a column that cannot be cast, with its first row that cannot."""
    start, size = 0, len(column)
    while size > 1:
        half = size // 2
        try:
            pc.cast(column.slice(start, half), target, safe=safe)
        except pa.ArrowInvalid:
            size = half
        else:
            start, size = start + half, size - half
    return InvalidData(
        f"{what} holds {_shown(column[start])} (row {start}), which {spell_dtype(target)} cannot hold. "
        "Drop such values."
    )


def _shown(value: pa.Scalar) -> str:
    try:
        return repr(value.as_py())
    except (OverflowError, ValueError):  # a time that Python does not know
        return f"a {value.type} beyond the calendar"


def _equal(left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_nested(left.type):  # Arrow has no element-wise equality for lists and structs
        pairs = zip(left.to_pylist(), right.to_pylist(), strict=True)
        return pa.chunked_array([pa.array([a == b for a, b in pairs], pa.bool_())])
    return pc.equal(left, right)


def spell_or_str(dtype: pa.DataType) -> str:
    """The store's spelling of a type where it has one, else Arrow's."""
    normal = _normalise(dtype)
    return spell_dtype(normal) if normal is not None and (normal == dtype or _family(dtype) == "text") else str(dtype)


def frame_type(frame: Any) -> DataFrameType | None:
    """Which library a frame is of; None for what is no frame."""
    module = type(frame).__module__.split(".")[0]
    if module in ("pandas", "polars") and hasattr(frame, "columns"):
        return "pandas" if module == "pandas" else "polars"
    return "arrow" if hasattr(frame, "__arrow_c_stream__") or isinstance(frame, pa.RecordBatch) else None


def _holds_inner_nulls(column: pa.ChunkedArray) -> bool:
    """Whether values lie within values with nulls among them, where Arrow gives pandas floats for whole numbers."""
    if not pa.types.is_list(column.type) and not pa.types.is_large_list(column.type):
        return bool(pa.types.is_struct(column.type))  # its fields are null where it is
    return pa.types.is_nested(column.type.value_type) or pc.list_flatten(column).null_count > 0


def to_frame(table: pa.Table, dataframe_type: DataFrameType = "pandas", *, nullable: bool = False) -> Any:
    """The table as a frame of the library asked for.

    In pandas, integer and boolean columns with nulls are nullable `Int64`/`boolean`, never float or object; with
    `nullable` all of them are, so that the dtype does not depend on the rows. Text is `str`, times are
    `datetime64[us, UTC]`. Structs are dicts, lists are NumPy arrays, or lists where they hold nulls or are nested.
    """
    if dataframe_type == "arrow":
        return table
    if dataframe_type == "polars":
        import polars

        return polars.from_arrow(table)
    if dataframe_type != "pandas":
        raise SchemaMismatch(f"dataframe_type {dataframe_type!r} is unknown. Use 'pandas', 'polars' or 'arrow'.")
    import pandas as pd

    mapping = {
        pa.int8(): pd.Int8Dtype(), pa.int16(): pd.Int16Dtype(), pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype(),
    }  # fmt: skip
    columns = {
        field.name: pd.Series(column.to_pylist(), dtype=object)
        if _holds_inner_nulls(column)
        else column.to_pandas(types_mapper=mapping.get if (nullable and field.nullable) or column.null_count else None)
        for field, column in zip(table.schema, table.columns, strict=True)
    }
    return pd.DataFrame(columns, columns=table.column_names, index=pd.RangeIndex(table.num_rows), copy=False)
