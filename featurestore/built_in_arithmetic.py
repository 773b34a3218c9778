"""The arithmetic of the built-in functions: what each learns from a column, and the kernel that applies it.

`fit_*` take the training split's column, and parameters by keyword, and give JSON-ready state; `*_kernel` take the
state and the column's type. What all of them share, and what each computes, is told where they are registered.

Logarithms use Arrow and `math`, which both call the C library: numpy's own differ from it in the last bit of one value
in 1,000.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import InvalidData, SchemaMismatch
from featurestore.kernels import BIGINT, DOUBLE, Kernel, State
from featurestore.schema import spell_dtype
from featurestore.times import parse_time

MAX_ONE_HOT_COLUMNS = 1_000


# --- Learning from a column -------------------------------------------------------------------------------------------


def _doubles(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The values as float64, each rounded to the nearest as Python's float() does, and which of them are known."""
    dtype = column.type
    if pa.types.is_decimal(dtype):  # Arrow's own cast is off by a bit for some
        values = np.array([math.nan if v is None else float(v) for v in column.to_pylist()], np.float64)
    elif pa.types.is_floating(dtype):
        values = pc.fill_null(column, math.nan).to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
    else:
        whole = column.cast(pa.int8()) if pa.types.is_boolean(dtype) else column
        values = pc.fill_null(whole, 0).to_numpy(zero_copy_only=False).astype(np.float64)
        return values, pc.is_valid(column).to_numpy(zero_copy_only=False)
    return values, ~np.isnan(values)


def _finite(column: pa.Array) -> np.ndarray:
    values, known = _doubles(column)
    return values[known & np.isfinite(values)] + 0.0  # -0.0 is learned as the 0.0 it equals


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and population standard deviation of at least one finite value, for any order of them the same."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return low, 0.0
    # A power of two changes no digit, and keeps squares of very large and very small values in range.
    exponent = math.frexp(max(abs(low), abs(high)))[1]
    scaled = np.ldexp(values, -exponent)
    mean = _exact_sum(scaled) / len(scaled)
    variance = _exact_sum((scaled - mean) ** 2) / len(scaled)
    return math.ldexp(mean, exponent), math.ldexp(math.sqrt(variance), exponent)


def _exact_sum(values: np.ndarray) -> float:
    chunks = (values[start : start + 65_536].tolist() for start in range(0, len(values), 65_536))
    return math.fsum(itertools.chain.from_iterable(chunks))


def _percentiles(values: np.ndarray, wanted: Sequence[float]) -> list[float]:
    """Percentiles by linear interpolation between the two nearest of at least one finite value, as numpy's default."""
    ordered = np.sort(values)
    if not math.isfinite(float(ordered[-1]) - float(ordered[0])):
        return [2 * p for p in _percentiles(values * 0.5 + 0.0, wanted)]
    found = []
    for percentile in wanted:
        position = (len(ordered) - 1) * (percentile / 100)
        below = math.floor(position)
        share = position - below
        low, high = float(ordered[below]), float(ordered[min(below + 1, len(ordered) - 1)])
        found.append(low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share))
    return found


def _categories(column: pa.Array) -> list[Any]:
    """Distinct values in ascending order, JSON-ready."""
    return [value_to_json(value) for value in sorted(v for v in pc.unique(_tidy(column)).to_pylist() if v is not None)]


def _tidy(column: pa.Array) -> pa.Array:
    """Floats as categories: -0.0 is the 0.0 it equals, NaN is null."""
    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), pc.add(column, pa.scalar(0.0, column.type)))


def _by_frequency(column: pa.Array) -> list[Any]:
    """Distinct values, most frequent first, equally frequent ones in ascending order."""
    counts = pc.value_counts(_tidy(column)).to_pylist()
    known = [(-entry["counts"], entry["values"]) for entry in counts if entry["values"] is not None]
    return [value for _, value in sorted(known)]


def value_to_json(value: Any) -> Any:
    """A category or most frequent value as JSON keeps it; `value_from_json` reads it back."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, date):  # datetimes are dates
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value


def value_from_json(value: Any, dtype: pa.DataType) -> Any:
    """The plain value of a column's type that `value_to_json` wrote."""
    if pa.types.is_floating(dtype):
        return float(value)
    if pa.types.is_binary(dtype):
        return bytes.fromhex(value)
    if pa.types.is_date(dtype):
        return date.fromisoformat(value)
    if pa.types.is_timestamp(dtype):
        return parse_time(value)
    return Decimal(value) if pa.types.is_decimal(dtype) else value


def _text(value: Any) -> str:
    """A category as part of a column name."""
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if isinstance(value, datetime) else str(value)


# --- Applying what was learned ----------------------------------------------------------------------------------------


def _on_numbers(
    columns: Callable[[np.ndarray], np.ndarray], number: Callable[[float], float], dtype: pa.DataType = DOUBLE
) -> Kernel:
    """A kernel from the same arithmetic over an array and over one float; neither sees a null, NaN becomes null."""

    def batch(column: pa.Array) -> list[pa.Array]:
        values, known = _doubles(column)
        with np.errstate(all="ignore"):
            results = columns(values)
        if dtype == DOUBLE:
            known = known & ~np.isnan(results)
        return [pa.array(results, dtype, mask=~known)]

    def scalar(value: Any) -> float | None:
        if value is None:
            return None
        value = float(value)
        if value != value:
            return None
        result = number(value)
        return result if result == result else None

    return Kernel(batch, scalar, (dtype,))


def _nothing_learned(dtype: pa.DataType = DOUBLE) -> Kernel:
    return Kernel(lambda column: [pa.nulls(len(column), dtype)], lambda _: None, (dtype,))


def _always(result: float, dtype: pa.DataType = DOUBLE) -> Kernel:
    return _on_numbers(lambda values: np.full(len(values), result), lambda _: result, dtype)


def _linear(center: float, low: float, high: float) -> Kernel:
    """(x - center) / (high - low), also where high - low is beyond the largest double."""
    shrink = 1.0 if math.isfinite(high - low) else 0.5
    center, width = center * shrink, high * shrink - low * shrink

    def columns(values: np.ndarray) -> np.ndarray:
        return (values * shrink - center) / width

    def number(value: float) -> float:
        return (value * shrink - center) / width

    def scalar(value: Any) -> float | None:  # what `_on_numbers` makes of `number`, in one call instead of two
        if value is None:
            return None
        scaled = (float(value) * shrink - center) / width
        return scaled if scaled == scaled else None

    return _on_numbers(columns, number)._replace(scalar=scalar)


def fit_min_max(column: pa.Array) -> State:
    """The smallest and the largest value."""
    values = _finite(column)
    return {"min": float(values.min()), "max": float(values.max())} if len(values) else {"min": None, "max": None}


def min_max_kernel(state: State, _dtype: pa.DataType) -> Kernel:
    """(x - min) / (max - min)."""
    low, high = state["min"], state["max"]
    if low is None:
        return _nothing_learned()
    return _always(0.0) if low == high else _linear(low, low, high)


def fit_standard(column: pa.Array) -> State:
    """Mean and population standard deviation."""
    values = _finite(column)
    mean, deviation = _moments(values) if len(values) else (None, None)
    return {"mean": mean, "std": deviation}


def standard_kernel(state: State, _dtype: pa.DataType) -> Kernel:
    """(x - mean) / deviation."""
    mean, deviation = state["mean"], state["std"]
    if mean is None:
        return _nothing_learned()
    return _always(0.0) if deviation == 0 else _linear(mean, 0.0, deviation)


def fit_robust(column: pa.Array) -> State:
    """The quartiles, and whether the column is constant."""
    values = _finite(column)
    if not len(values):
        return {"q1": None, "median": None, "q3": None, "constant": None}
    q1, median, q3 = _percentiles(values, (25, 50, 75))
    return {"q1": q1, "median": median, "q3": q3, "constant": bool(values.min() == values.max())}


def robust_kernel(state: State, _dtype: pa.DataType) -> Kernel:
    """(x - median) / (q3 - q1); x - median where the quartiles are equal."""
    q1, median, q3 = state["q1"], state["median"], state["q3"]
    if median is None:
        return _nothing_learned()
    if state["constant"]:
        return _always(0.0)
    return _linear(median, q1, q3) if q1 != q3 else _linear(median, 0.0, 1.0)


def fit_log(_column: pa.Array, *, offset: float) -> State:
    """Nothing but the offset."""
    return {"offset": float(offset)}


def log_kernel(state: State, _dtype: pa.DataType) -> Kernel:
    """ln(x + offset), null where that is not positive."""
    offset = state["offset"]

    def columns(values: np.ndarray) -> np.ndarray:
        shifted = values + offset
        logarithms = np.full(len(values), math.nan)
        positive = shifted > 0
        logarithms[positive] = pc.ln(pa.array(shifted[positive])).to_numpy()
        return logarithms

    def number(value: float) -> float:
        shifted = value + offset
        return math.log(shifted) if shifted > 0 else math.nan

    return _on_numbers(columns, number)


def fit_winsorize(column: pa.Array, *, p_low: float, p_high: float) -> State:
    """The two percentiles to clip to."""
    values = _finite(column)
    low, high = _percentiles(values, (p_low, p_high)) if len(values) else (None, None)
    return {"low": low, "high": high}


def winsorize_kernel(state: State, _dtype: pa.DataType) -> Kernel:
    """Values clipped to what was learned."""
    if state["low"] is None:
        return _on_numbers(lambda values: values, lambda value: value)
    low, high = state["low"], state["high"]
    return _on_numbers(  # where(), because maximum(-0.0, 0.0) is free to return either
        lambda values: np.where(values < low, low, np.where(values > high, high, values)),
        lambda value: low if value < low else high if value > high else value,
    )


def fit_percentiles(column: pa.Array) -> State:
    """The percentiles 0 to 100."""
    values = _finite(column)
    return {"percentiles": _percentiles(values, range(101)) if len(values) else None}


def quantile_kernel(state: State, _dtype: pa.DataType) -> Kernel:
    """Place among the percentiles, interpolated, in [0, 1]."""
    if state["percentiles"] is None:
        return _nothing_learned()
    percentiles = np.array(state["percentiles"])
    shrink = 1.0 if math.isfinite(state["percentiles"][-1] - state["percentiles"][0]) else 0.5
    knots, first, count = np.unique(percentiles * shrink, return_index=True, return_counts=True)
    ranks = (first + first + count - 1) / 200  # the middle of equal percentiles; of a constant column that is 0.5
    xs, ys, last = knots.tolist(), ranks.tolist(), len(knots) - 1

    # numpy's interp() may fuse its multiplication and addition on some processors; Python never does.
    def columns(values: np.ndarray) -> np.ndarray:
        values = values * shrink
        if not last:
            return np.full(len(values), ys[0])
        left = np.clip(np.searchsorted(knots, values, "right") - 1, 0, last - 1)
        share = (values - knots[left]) / (knots[left + 1] - knots[left])
        inside = ranks[left] + share * (ranks[left + 1] - ranks[left])
        return np.where(values <= xs[0], ys[0], np.where(values >= xs[last], ys[last], inside))

    def number(value: float) -> float:
        value *= shrink
        if value <= xs[0]:
            return ys[0]
        if value >= xs[last]:
            return ys[last]
        left = bisect_right(xs, value) - 1
        share = (value - xs[left]) / (xs[left + 1] - xs[left])
        return ys[left] + share * (ys[left + 1] - ys[left])

    return _on_numbers(columns, number)


def rank_kernel(state: State, _dtype: pa.DataType) -> Kernel:
    """Share of the percentiles 1 to 100 that are at most x."""
    percentiles = state["percentiles"]
    if percentiles is None:
        return _nothing_learned()
    if percentiles[0] == percentiles[-1]:
        return _always(0.0)
    steps = percentiles[1:]
    return _on_numbers(
        lambda values: np.searchsorted(steps, values, "right") / 100,
        lambda value: bisect_right(steps, value) / 100,
    )


def fit_equal_width(column: pa.Array, *, n_bins: int) -> State:
    """Inner edges of bins of equal width."""
    values = _finite(column)
    if not len(values):
        return {"edges": None}
    low, high = float(values.min()), float(values.max())
    # Two products rather than low + k * width: the width itself may be beyond the largest double.
    return _edges([low * (1 - k / n_bins) + high * (k / n_bins) for k in range(1, n_bins)], low, high)


def fit_equal_frequency(column: pa.Array, *, n_bins: int) -> State:
    """Inner edges of bins of equal count; equal ones merge."""
    return fit_quantiles(column, quantiles=[k / n_bins for k in range(1, n_bins)])


def fit_quantiles(column: pa.Array, *, quantiles: Sequence[float]) -> State:
    """The quantiles as inner edges of bins; equal ones merge."""
    values = _finite(column)
    if not len(values):
        return {"edges": None}
    edges = _percentiles(values, [100 * quantile for quantile in quantiles])
    return _edges(edges, float(values.min()), float(values.max()))


def _edges(edges: list[float], low: float, high: float) -> State:
    return {"edges": [] if low == high else sorted(set(edges))}


def bin_kernel(state: State, _dtype: pa.DataType) -> Kernel:
    """Number of the bin between the edges, from 0; an edge belongs to the lower bin."""
    edges = state["edges"]
    if edges is None:
        return _nothing_learned(BIGINT)
    return _on_numbers(
        lambda values: np.searchsorted(edges, values, "left"), lambda value: bisect_left(edges, value), BIGINT
    )


def fit_categories(column: pa.Array) -> State:
    """The distinct values in ascending order."""
    return {"categories": _categories(column)}


class _Codes:
    """Positions of values in a list of categories; -1 for one that is not there, None for a null."""

    def __init__(self, categories: list[Any], dtype: pa.DataType) -> None:
        self.values = [value_from_json(category, dtype) for category in categories]
        self.known = pa.array(self.values, dtype)
        self.dtype = dtype

    def of_column(self, column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        column = _tidy(column)
        codes = pc.fill_null(pc.index_in(column, value_set=self.known), -1)
        return codes.to_numpy(zero_copy_only=False), pc.is_null(column).to_numpy(zero_copy_only=False)

    def lookup(self, by_code: Sequence[Any], unseen: Any, null: Any) -> Callable[[Any], Any]:
        """One plain value to what stands for its code."""
        table: dict[Any, Any] = dict(zip(self.values, by_code, strict=True))
        table[None] = null
        find = table.get
        if pa.types.is_timestamp(self.dtype):
            return lambda value: null if value is None else find(parse_time(value), unseen)
        if pa.types.is_floating(self.dtype):
            return lambda value: null if value != value else find(value, unseen)
        return lambda value: find(value, unseen)


def label_kernel(state: State, dtype: pa.DataType) -> Kernel:
    """Position among the categories; -1 for one never seen."""
    codes = _Codes(state["categories"], dtype)

    def batch(column: pa.Array) -> list[pa.Array]:
        found, null = codes.of_column(column)
        return [pa.array(found, BIGINT, mask=null)]

    return Kernel(batch, codes.lookup(range(len(codes.values)), -1, None), (BIGINT,))


def fit_one_hot(column: pa.Array) -> State:
    """The distinct values in ascending order; refused when they are too many to be columns."""
    categories = _categories(column)
    if len(categories) > MAX_ONE_HOT_COLUMNS:
        raise InvalidData(
            f"one_hot_encoder would give {len(categories):,} columns, one for each distinct value; the limit is "
            f"{MAX_ONE_HOT_COLUMNS:,}. Put top_k_categorical_binner before it, or use label_encoder."
        )
    return {"categories": categories}


def one_hot_kernel(state: State, dtype: pa.DataType) -> Kernel:
    """A boolean for each category."""
    codes = _Codes(state["categories"], dtype)
    count = len(codes.values)

    def batch(column: pa.Array) -> list[pa.Array]:
        found, _ = codes.of_column(column)
        return [pa.array(found == code) for code in range(count)]

    rows = [tuple(code == column for column in range(count)) for code in range(count)]
    nowhere = (False,) * count
    suffixes = tuple(_text(value) for value in codes.values)
    return Kernel(batch, codes.lookup(rows, nowhere, nowhere), (pa.bool_(),) * count, suffixes)


def fit_top_k(column: pa.Array, *, top_n: int, other_label: str) -> State:
    """The most frequent values, and what stands for all others."""
    return {"kept": [value_to_json(value) for value in _by_frequency(column)[:top_n]], "other": other_label}


def top_k_kernel(state: State, dtype: pa.DataType) -> Kernel:
    """The value as text if it was kept, else the label of the others."""
    codes = _Codes(state["kept"], dtype)
    other = state["other"]
    texts = [_text(value) for value in codes.values]
    labels = pa.array([*texts, other], pa.string())

    def batch(column: pa.Array) -> list[pa.Array]:
        found, null = codes.of_column(column)
        positions = np.where(found < 0, len(texts), found)
        return [labels.take(pa.array(positions, mask=null))]

    return Kernel(batch, codes.lookup(texts, other, None), (pa.string(),))


def fit_mean(column: pa.Array) -> State:
    """The mean, to fill nulls with."""
    values = _finite(column)
    return {"value": _moments(values)[0] if len(values) else None}


def fit_median(column: pa.Array) -> State:
    """The median, to fill nulls with."""
    values = _finite(column)
    return {"value": _percentiles(values, (50,))[0] if len(values) else None}


def fill_number_kernel(state: State, _dtype: pa.DataType) -> Kernel:
    """Nulls replaced by a learned number, as double."""
    fill = state["value"]

    def batch(column: pa.Array) -> list[pa.Array]:
        values, known = _doubles(column)
        if fill is None:
            return [pa.array(values, DOUBLE, mask=~known)]
        return [pa.array(np.where(known, values, fill), DOUBLE)]

    def scalar(value: Any) -> float | None:
        if value is None:
            return fill
        value = float(value)
        return value if value == value else fill

    return Kernel(batch, scalar, (DOUBLE,))


def fit_mode(column: pa.Array) -> State:
    """The most frequent value, the smallest of equally frequent ones."""
    values = _by_frequency(column)
    return {"value": value_to_json(values[0]) if values else None}


def fill_mode_kernel(state: State, dtype: pa.DataType) -> Kernel:
    """Nulls replaced by the most frequent value."""
    return _fill_kernel(None if state["value"] is None else value_from_json(state["value"], dtype), dtype)


def fit_constant(_column: pa.Array, *, value: Any) -> State:
    """Nothing but the value given."""
    return {"value": value}


def fill_constant_kernel(state: State, dtype: pa.DataType) -> Kernel:
    """Nulls replaced by the value given, in the column's type."""
    return _fill_kernel(exact_scalar(state["value"], dtype).as_py(), dtype)


def _fill_kernel(fill: Any, dtype: pa.DataType) -> Kernel:
    """Nulls replaced, everything else and the type as it was."""
    is_float = pa.types.is_floating(dtype)

    def batch(column: pa.Array) -> list[pa.Array]:
        if is_float:
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, dtype), column)
        return [column if fill is None else pc.fill_null(column, pa.scalar(fill, dtype))]

    def scalar(value: Any) -> Any:
        return fill if value is None or value != value else value

    return Kernel(batch, scalar, (dtype,))


def exact_scalar(value: Any, dtype: pa.DataType) -> pa.Scalar:
    """The value in a column's type; refused when it is of another kind or would change."""
    is_number = pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_decimal(dtype)
    of_kind = (
        isinstance(value, bool) if pa.types.is_boolean(dtype)
        else isinstance(value, str) if pa.types.is_string(dtype)
        else isinstance(value, int | float) and not isinstance(value, bool) if is_number
        else False
    )  # fmt: skip
    if of_kind:
        if pa.types.is_integer(dtype) and isinstance(value, float) and value.is_integer():
            value = int(value)
        elif pa.types.is_floating(dtype):
            value = float(value)
        elif pa.types.is_decimal(dtype):
            value = Decimal(repr(value))
        try:
            return pa.scalar(value, dtype)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            of_kind = False
    raise SchemaMismatch(
        f"is {spell_dtype(dtype)}, and the value {value!r} is not. Give a value of the column's own kind"
    )
