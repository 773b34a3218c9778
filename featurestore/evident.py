"""Rules that a batch evidently keeps, told by Arrow in microseconds. Pure.

Great Expectations takes seconds to import and about ten milliseconds for each rule, however few the rows. Nearly every
batch keeps nearly every rule, and of the usual rules that can be seen at once. Only "kept" is ever said here: a rule
that is broken, that has further arguments, or that meets a type it is not made for, is Great Expectations' to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

LARGEST_EXACT_INTEGER = 2**53
"""Beyond it Great Expectations may compare floats, and here would be compared integers."""


def is_kept(rows: pa.Table, kind: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether every row of the batch evidently keeps the rule; False says nothing.

    Args:
        rows: at least one.
        kind: the expectation's type.
        kwargs: its arguments; those that are None count as not given.

    >>> rows = pa.table({"amount": [1.0, 2.0]})
    >>> rule = "expect_column_values_to_be_between"
    >>> is_kept(rows, rule, {"column": "amount", "min_value": 0})
    True
    >>> is_kept(rows, rule, {"column": "amount", "min_value": 1.5})
    False
    """
    if kind not in _KNOWN:
        return False
    needed, optional, judge = _KNOWN[kind]
    given = {name: value for name, value in kwargs.items() if value is not None}
    is_usual = needed <= given.keys() <= needed | optional
    return is_usual and rows.num_rows > 0 and judge(rows, given)


def _never_null(rows: pa.Table, given: Mapping[str, Any]) -> bool:
    return _is_complete(rows[given["column"]])


def _between(rows: pa.Table, given: Mapping[str, Any]) -> bool:
    column = rows[given["column"]]
    limits = [given[name] for name in ("min_value", "max_value") if name in given]
    if not limits or not all(_is_number(limit) for limit in limits) or not _is_plain_number(column):
        return False
    extremes = pc.min_max(column).as_py()
    low, high = extremes["min"], extremes["max"]
    if low is None:  # no value at all: then no limit is broken, but one that cannot be meant is not for us to see
        return False
    return bool(given.get("min_value", low) <= low and high <= given.get("max_value", high))


def _in_set(rows: pa.Table, given: Mapping[str, Any]) -> bool:
    column, allowed = rows[given["column"]], given["value_set"]
    if not isinstance(allowed, list):
        return False
    if pa.types.is_string(column.type):
        kinds: type | tuple[type, ...] = str
    elif pa.types.is_integer(column.type):
        kinds = int
    else:
        return False
    if not all(isinstance(value, kinds) and not isinstance(value, bool) for value in allowed):
        return False
    return all(value is None or value in allowed for value in pc.unique(column).to_pylist())


def _unique(rows: pa.Table, given: Mapping[str, Any]) -> bool:
    column = rows[given["column"]]
    is_plain = pa.types.is_string(column.type) or pa.types.is_integer(column.type)
    return is_plain and not column.null_count and pc.count_distinct(column).as_py() == len(column)


def _later(rows: pa.Table, given: Mapping[str, Any]) -> bool:
    later, earlier = rows[given["column_A"]], rows[given["column_B"]]
    is_plain = pa.types.is_timestamp(later.type) or _is_plain_number(later)
    if not is_plain or later.type != earlier.type or not (_is_complete(later) and _is_complete(earlier)):
        return False
    compare = pc.greater_equal if given.get("or_equal") is True else pc.greater
    return bool(pc.all(compare(later, earlier)).as_py())


def _is_complete(column: pa.ChunkedArray) -> bool:
    """Whether there is a value in every row; not a number is none."""
    if column.null_count:
        return False
    return not (pa.types.is_floating(column.type) and pc.any(pc.is_nan(column)).as_py())


def _is_plain_number(column: pa.ChunkedArray) -> bool:
    """Whether Great Expectations would compare just these numbers: no NaN, no integer that a float cannot hold."""
    if pa.types.is_floating(column.type):
        return not pc.any(pc.is_nan(column)).as_py()
    if not pa.types.is_integer(column.type):
        return False
    extremes = pc.min_max(column).as_py()
    return all(value is None or abs(value) <= LARGEST_EXACT_INTEGER for value in extremes.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


_Judge = Callable[[pa.Table, Mapping[str, Any]], bool]
_KNOWN: dict[str, tuple[set[str], set[str], _Judge]] = {
    "expect_column_values_to_not_be_null": ({"column"}, set(), _never_null),
    "expect_column_values_to_be_between": ({"column"}, {"min_value", "max_value"}, _between),
    "expect_column_values_to_be_in_set": ({"column", "value_set"}, set(), _in_set),
    "expect_column_values_to_be_unique": ({"column"}, set(), _unique),
    "expect_column_pair_values_a_to_be_greater_than_b": ({"column_A", "column_B"}, {"or_equal"}, _later),
}
"""By type the arguments it must have and may have, and who judges it."""
