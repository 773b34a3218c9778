"""How the online store keeps values, so that each comes back to the bit.

Numbers are kept as they are (SQLite columns have no affinity, which would turn -0.0 into 0), times as microseconds and
dates as days since 1970, decimals as text, lists and structs as JSON. PostgreSQL keeps text as UTF-8 bytes, because
its own text type cannot hold a NUL.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.errors import InvalidData, SchemaMismatch
from featurestore.online_table import OnlineTable
from featurestore.schema import Feature
from featurestore.times import from_micros, parse_time, to_micros

_INT64 = 2**63
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_EXACT_DECIMAL = Context(prec=76, traps=[Inexact, InvalidOperation])


def driver_values(column: pa.ChunkedArray, feature: Feature, *, is_sqlite: bool) -> list[Any]:
    """A column as the driver takes it, for the whole column at once."""
    if column.type != feature.type:
        raise SchemaMismatch(f"Column {feature.name!r} is {column.type}, but the online table has {feature.type}.")
    dtype = feature.type
    if pa.types.is_nested(dtype) or pa.types.is_decimal(dtype):
        spell: Callable[[Any], str] = str
        if pa.types.is_nested(dtype):
            plain = _json_encoder(dtype)
            spell = lambda value: json.dumps(plain(value), separators=(",", ":"))  # noqa: E731  # the other of two spellings
        texts = [None if value is None else spell(value) for value in column.to_pylist()]
        return texts if is_sqlite else [None if text is None else text.encode() for text in texts]
    if pa.types.is_string(dtype) or pa.types.is_binary(dtype):
        as_bytes = column.cast(pa.binary()) if not is_sqlite else column
        return as_bytes.to_pylist()
    if pa.types.is_date32(dtype):
        column = column.cast(pa.int32())
    numbers = column.cast(pa.float64() if pa.types.is_floating(dtype) else pa.int64())
    if not numbers.null_count:
        return numbers.to_numpy().tolist()
    values = numbers.fill_null(0).to_numpy().tolist()
    for position in np.flatnonzero(numbers.is_null().to_numpy()).tolist():
        values[position] = None
    return values


def key_encoder(table: OnlineTable, feature: Feature, is_sqlite: bool) -> Callable[[Any], Any]:
    """From a Python key value to what the column holds; refuses values of another type."""
    dtype = feature.type

    def refuse(value: object, why: str = "") -> InvalidData:
        return InvalidData(
            f"Key {feature.name!r} of online table {table.shown!r} is {value!r} ({type(value).__name__}); "
            f"expected {feature.dtype}{why}."
        )

    def integer(value: Any) -> Any:
        if (type(value) is int and -_INT64 <= value < _INT64) or value is None:
            return value
        if isinstance(value, np.integer):
            return integer(value.item())
        raise refuse(value)

    def text(value: Any) -> Any:
        if isinstance(value, str):
            try:
                return value if is_sqlite else value.encode()
            except UnicodeEncodeError as error:
                raise refuse(value, " in valid Unicode") from error
        if value is None:
            return None
        raise refuse(value)

    def other(value: Any) -> Any:
        if value is None:
            return None
        plain = value.item() if isinstance(value, np.generic) and not isinstance(value, np.datetime64) else value
        if pa.types.is_boolean(dtype) and isinstance(plain, bool):
            return int(plain)
        if pa.types.is_floating(dtype) and isinstance(plain, int | float) and not isinstance(plain, bool):
            return float(plain)
        if pa.types.is_binary(dtype) and isinstance(plain, bytes):
            return plain
        if pa.types.is_timestamp(dtype) and isinstance(plain, datetime):
            return to_micros(parse_time(plain))
        if pa.types.is_date32(dtype) and isinstance(plain, date) and not isinstance(plain, datetime):
            return plain.toordinal() - _EPOCH_DAY
        if pa.types.is_decimal(dtype) and isinstance(plain, Decimal | int) and not isinstance(plain, bool):
            try:
                exact = Decimal(plain).quantize(Decimal(1).scaleb(-dtype.scale), context=_EXACT_DECIMAL)
            except (Inexact, InvalidOperation) as error:
                raise refuse(value, " without more digits") from error
            return str(exact) if is_sqlite else str(exact).encode()
        raise refuse(value)

    if pa.types.is_integer(dtype):
        return integer
    return text if pa.types.is_string(dtype) else other


def decoder(dtype: pa.DataType, is_sqlite: bool) -> Callable[[Any], Any] | None:
    """From what a column holds to the Python value; None where they are the same."""
    if pa.types.is_boolean(dtype):
        return bool
    if pa.types.is_timestamp(dtype):
        return from_micros
    if pa.types.is_date32(dtype):
        return _date_of
    if pa.types.is_decimal(dtype):
        return Decimal if is_sqlite else (lambda stored: Decimal(stored.decode()))
    if pa.types.is_string(dtype) and not is_sqlite:
        return bytes.decode
    if pa.types.is_nested(dtype):
        inner = _json_decoder(dtype)
        return json.loads if inner is None else (lambda stored: inner(json.loads(stored)))
    return None


def _date_of(days: int) -> date:
    return date.fromordinal(days + _EPOCH_DAY)


def _json_encoder(dtype: pa.DataType) -> Callable[[Any], Any]:
    """From a Python value of a type to data that JSON holds exactly; structs become lists in field order."""
    if pa.types.is_list(dtype):
        element = _json_encoder(dtype.value_type)
        return lambda value: [None if v is None else element(v) for v in value]
    if pa.types.is_struct(dtype):
        fields = [(field.name, _json_encoder(field.type)) for field in dtype]
        return lambda value: [None if value[name] is None else encode(value[name]) for name, encode in fields]
    if pa.types.is_timestamp(dtype):
        return to_micros
    if pa.types.is_date32(dtype):
        return lambda value: value.toordinal() - _EPOCH_DAY
    if pa.types.is_decimal(dtype):
        return str
    if pa.types.is_binary(dtype):
        return lambda value: value.decode("latin-1")
    return _same


def _json_decoder(dtype: pa.DataType) -> Callable[[Any], Any] | None:
    """The way back from `_json_encoder`; None where JSON's own value is right."""
    if pa.types.is_list(dtype):
        element = _json_decoder(dtype.value_type)
        return None if element is None else (lambda value: [None if v is None else element(v) for v in value])
    if pa.types.is_struct(dtype):
        fields = [(field.name, _json_decoder(field.type) or _same) for field in dtype]
        return lambda value: {
            name: None if v is None else decode(v) for (name, decode), v in zip(fields, value, strict=True)
        }
    if pa.types.is_timestamp(dtype):
        return from_micros
    if pa.types.is_date32(dtype):
        return _date_of
    if pa.types.is_decimal(dtype):
        return Decimal
    if pa.types.is_binary(dtype):
        return lambda value: value.encode("latin-1")
    return None


def _same(value: Any) -> Any:
    return value
