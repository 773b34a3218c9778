"""The values of a filter as the types of its columns, or an error that says which value does not fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa

from featurestore.errors import InvalidTime, SchemaMismatch
from featurestore.query import Column, Combined, Comparison, Filter
from featurestore.schema import Feature
from featurestore.times import parse_time


def typed(condition: Filter, feature_of: Callable[[Column], Feature]) -> Filter:
    """The filter with each value as the type of its column: times as UTC datetimes, whole numbers as int.

    Args:
        condition: a filter as the user wrote it.
        feature_of: the feature a column stands for; raises when there is none.
    Raises:
        SchemaMismatch: a value of another type than its column's, such as text against a number, or no value.

    >>> from featurestore.query import GroupRef
    >>> day = Column(GroupRef("orders", 1), "day")
    >>> typed(day >= "2021/01/02", lambda _: Feature("day", "timestamp")).value
    datetime.datetime(2021, 1, 2, 0, 0, tzinfo=datetime.timezone.utc)
    >>> typed(day >= "2021/01/02", lambda _: Feature("day", "bigint"))
    Traceback (most recent call last):
        ...
    featurestore.errors.SchemaMismatch: The filter on 'day' of orders_v1 (bigint) has the value '2021/01/02' (str); ...
    """
    if isinstance(condition, Combined):
        return replace(condition, parts=tuple(typed(p, feature_of) for p in condition.parts))
    if not isinstance(condition, Comparison):
        raise SchemaMismatch(f"{condition!r} is not a filter. Write fg['amount'] > 10, combined with &, | and ~.")
    feature = feature_of(condition.column)
    what = f"The filter on {condition.column.name!r} of {condition.column.group} ({feature.dtype})"
    if condition.operator == "is_null":
        return condition
    if condition.operator == "like" and not pa.types.is_string(feature.type):
        raise SchemaMismatch(f"{what} is a pattern; like() is for text columns. Compare with ==, < or between().")
    if condition.operator in ("in", "between"):
        # In a list SQL's null is a value like any other: it equals nothing, and makes `not in` unknown.
        nullable = condition.operator == "in"
        values = (None if v is None and nullable else _value(v, feature.type, what) for v in condition.value)
        return replace(condition, value=tuple(values))
    return replace(condition, value=_value(condition.value, feature.type, what))


def _value(value: Any, dtype: pa.DataType, what: str) -> Any:
    if value is None:
        raise SchemaMismatch(f"{what} compares with None, which nothing equals. Use is_null(), or ~...is_null().")
    if pa.types.is_boolean(dtype):
        fits, expected = isinstance(value, bool), "True or False"
    elif pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_decimal(dtype):
        fits = isinstance(value, int | float | Decimal) and not isinstance(value, bool) and not _is_nan(value)
        expected = "a number"
    elif pa.types.is_string(dtype):
        fits, expected = isinstance(value, str), "text"
    elif pa.types.is_binary(dtype):
        fits, expected = isinstance(value, bytes), "bytes"
    elif pa.types.is_timestamp(dtype) or pa.types.is_date(dtype):
        return _moment(value, dtype, what)
    else:
        fits, expected = False, "is_null(): lists and structs compare with nothing else"
    if not fits:
        raise SchemaMismatch(f"{what} has the value {value!r} ({type(value).__name__}); expected {expected}.")
    return value


def _is_nan(value: Any) -> bool:
    return value.is_nan() if isinstance(value, Decimal) else math.isnan(value)


def _moment(value: Any, dtype: pa.DataType, what: str) -> datetime | date:
    expected = "expected a datetime, a date, or ISO text such as '2022-01-31 12:00:01'"
    if not isinstance(value, str | date):  # a datetime is a date; a number could mean seconds or anything else
        raise SchemaMismatch(f"{what} has the value {value!r} ({type(value).__name__}); {expected}.")
    try:
        moment = parse_time(value)
    except InvalidTime as error:
        raise SchemaMismatch(f"{what} has the value {value!r}; {expected}.") from error
    return moment.date() if pa.types.is_date(dtype) and moment.time() == time() else moment
