"""Single values: from what a request brings to what a column of the feature's type would give back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Context, Decimal, Inexact, InvalidOperation
from functools import partial
from typing import Any

import pyarrow as pa

from featurestore.errors import FeatureStoreError, SchemaMismatch
from featurestore.schema import Feature
from featurestore.times import parse_time

Accept = Callable[[Any], Any]

_EXACT_DECIMAL = Context(prec=76, traps=[Inexact, InvalidOperation])


class _Refused(Exception):
    """The value is of another type; why, for the message."""


def acceptor(feature: Feature, what: str) -> Accept:
    """A function that takes a value of the feature's type, and refuses every other.

    None, NaN and NaT are null. As in a frame's column, numpy's numbers are numbers, 5 is 5.0 in a column of floats,
    5.0 is 5 in one of whole numbers, naive times are UTC and a date is midnight; text is no number, True is no 1.

    Args:
        what: how messages name where the value comes from, such as "passed_features".
    Raises:
        SchemaMismatch: by what is returned, for a value of another type or one that the type cannot hold exactly.

    >>> acceptor(Feature("amount", "double"), "passed_features")(5)
    5.0
    >>> acceptor(Feature("amount", "double"), "passed_features")("5")
    Traceback (most recent call last):
        ...
    featurestore.errors.SchemaMismatch: passed_features: 'amount' is double, got '5' (str).
    """
    accept = _accept(feature.type)
    exact = {pa.float64(): float, pa.string(): str, pa.bool_(): bool, pa.binary(): bytes}.get(feature.type)

    def accepted(value: Any) -> Any:
        if type(value) is exact and value == value:  # the usual case, without a detour
            return value
        try:
            return accept(value)
        except _Refused as error:
            why = f": {error}" if str(error) else ""
            raise SchemaMismatch(
                f"{what}: {feature.name!r} is {feature.dtype}, got {value!r} ({type(value).__name__}){why}."
            ) from error

    return accepted


def plain(value: Any) -> Any:
    """A value whose type nobody declared, as the store's columns give it back: numpy's scalars are Python's, times UTC.

    >>> plain(datetime(2026, 1, 1))
    datetime.datetime(2026, 1, 1, 0, 0, tzinfo=datetime.timezone.utc)
    """
    if is_null(value):
        return None
    if isinstance(value, datetime) or hasattr(value, "nanosecond"):
        return parse_time(value)
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value


def is_null(value: Any) -> bool:
    """None, NaN, NaT or pandas' NA."""
    if value is None:
        return True
    if isinstance(value, Sequence | Mapping) or getattr(value, "ndim", 0) > 0:  # an array is not one value
        return False
    try:
        return bool(value != value)
    except TypeError:  # pandas' NA says neither yes nor no
        return True


def _accept(dtype: pa.DataType) -> Accept:
    if pa.types.is_list(dtype):
        return partial(_list, _accept(dtype.value_type))
    if pa.types.is_struct(dtype):
        return partial(_struct, {field.name: _accept(field.type) for field in dtype})
    one = next((accept for test, accept in _KINDS if test(dtype)), None)
    if one is None:
        raise SchemaMismatch(f"No single value can be {dtype}.")

    def accept(value: Any) -> Any:
        if is_null(value):
            return None
        given = value.item() if hasattr(value, "item") and not isinstance(value, datetime) else value
        return None if is_null(result := one(given, dtype)) else result

    return accept


def _boolean(value: Any, _dtype: pa.DataType) -> bool:
    if isinstance(value, bool):
        return value
    raise _Refused


def _integer(value: Any, dtype: pa.DataType) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _Refused
    if not -(1 << dtype.bit_width - 1) <= value < 1 << dtype.bit_width - 1:
        raise _Refused(f"expected {dtype.bit_width} bits")
    return value


def _floating(value: Any, dtype: pa.DataType) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _Refused
    try:
        number = float(value)
    except OverflowError:
        raise _Refused("it is beyond the largest double") from None
    if isinstance(value, int) and int(number) != value:
        raise _Refused("no double is equal to it")
    return number if dtype == pa.float64() else pa.scalar(number, dtype).as_py()


def _text(value: Any, _dtype: pa.DataType) -> str:
    if isinstance(value, str):
        return value
    raise _Refused


def _bytes(value: Any, _dtype: pa.DataType) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise _Refused


def _moment(value: Any, _dtype: pa.DataType) -> datetime:
    if not isinstance(value, date):  # datetimes are dates
        raise _Refused
    try:
        return parse_time(value)
    except FeatureStoreError as error:
        raise _Refused(str(error).rstrip(".")) from error


def _date(value: Any, _dtype: pa.DataType) -> date:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    raise _Refused


def _decimal(value: Any, dtype: pa.DataType) -> Decimal:
    if not isinstance(value, Decimal | int) or isinstance(value, bool):
        raise _Refused
    try:
        exact = Decimal(value).quantize(Decimal(1).scaleb(-dtype.scale), context=_EXACT_DECIMAL)
        return pa.scalar(exact, dtype).as_py()
    except (Inexact, InvalidOperation, pa.ArrowInvalid):
        raise _Refused("it has more digits") from None


def _list(element: Accept, value: Any) -> list[Any] | None:
    if is_null(value):
        return None
    given = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(given, list | tuple):
        raise _Refused
    return [element(v) for v in given]


def _struct(fields: Mapping[str, Accept], value: Any) -> dict[str, Any] | None:
    if is_null(value):
        return None
    if not isinstance(value, Mapping) or value.keys() != fields.keys():
        raise _Refused(f"expected a mapping of {list(fields)}")
    return {name: accept(value[name]) for name, accept in fields.items()}


_KINDS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any, pa.DataType], Any]], ...] = (
    (pa.types.is_boolean, _boolean),
    (pa.types.is_integer, _integer),
    (pa.types.is_floating, _floating),
    (pa.types.is_string, _text),
    (pa.types.is_binary, _bytes),
    (pa.types.is_timestamp, _moment),
    (pa.types.is_date, _date),
    (pa.types.is_decimal, _decimal),
)
