"""Model-dependent transformations: fitted on the training split, applied alike to frames and to single vectors.

    plan = parse({"amount": [impute_median, standard_scaler], "category": one_hot_encoder}, features)
    fitted = plan.fit(train)                  # numbers learned from the training rows alone
    fitted.transform(table)                   # training and batch data
    fitted.compile(names)(row)                # one feature vector, the same bits

Every function is written twice, once over a column and once over a plain Python number, because numpy takes longer to
start than a vector may take to serve. A law in the tests holds the two together to the bit. That is why logarithms
use Arrow and `math`, which both call the C library: numpy's own differ from it in the last bit of one value in 1,000.

What all built-ins share:
- Nulls stay null, unless imputed; one-hot gives false. A NaN is a null, and no function returns one.
- Numbers are learned from finite values only. An infinity stays infinite, is clipped or falls into the last bin.
- Learned means and deviations are exact sums rounded once: the order of the training rows changes nothing.
- A column without a value to learn from (all null in the training split) gives null from scalers and binners, -1 from
  `label_encoder`, no column from `one_hot_encoder`, and passes through `winsorize` and the imputers unchanged.
- A constant column gives 0 (`quantile_transformer`: 0.5) for every value, also for values never seen.
- Scalers give double, encoders and binners bigint, imputers and `winsorize` as they say.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import itertools
import math
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import InvalidData, NotFound, NotReproducible, SchemaMismatch
from featurestore.schema import Feature, parse_dtype, spell_dtype
from featurestore.times import parse_time

if TYPE_CHECKING:
    import pandas as pd

Accepted = Literal["number", "category", "text", "any"]
Mode = Literal["scalar", "pandas"]
Parameters = Mapping[str, Any]
State = dict[str, Any]

DOUBLE, BIGINT = pa.float64(), pa.int64()
MAX_ONE_HOT_COLUMNS = 1_000
_ACCEPTED_HELP = {
    "number": "a number; encode text with label_encoder or one_hot_encoder first",
    "category": "text, a number, a boolean, a date or a time; lists and structs have no order",
    "text": "text; for numbers use impute_mean, impute_median, impute_constant, or a binner",
}


class Kernel(NamedTuple):
    """A fitted function: over columns, over plain Python values, and what comes out.

    `suffixes` is None for one output column. Otherwise `scalar` returns a tuple, and the columns are named
    `<column>_<suffix>`.
    """

    batch: Callable[..., list[pa.Array]]
    scalar: Callable[..., Any]
    types: tuple[pa.DataType, ...]
    suffixes: tuple[str, ...] | None = None


class _Method(Protocol):
    """What a function does: one of the built-ins, or a user's own."""

    @property
    def defaults(self) -> Parameters: ...
    @property
    def inputs(self) -> tuple[str, ...] | None:
        """Parameter names that stand for columns; None for one column of any name."""

    @property
    def drop(self) -> tuple[str, ...]: ...
    def problem(self, parameters: Parameters) -> str | None: ...
    def output_types(self, types: Sequence[pa.DataType], parameters: Parameters, /) -> tuple[pa.DataType, ...] | None:
        """Types of the outputs; None when how many there are is only known after fitting."""

    def fit(self, columns: Sequence[pa.Array], parameters: Parameters) -> State: ...
    def kernel(self, state: State, types: Sequence[pa.DataType]) -> Kernel: ...


@dataclass(frozen=True)
class TransformationFunction:
    """A function that a feature view applies, with its parameters and, if bound, the columns it reads.

    Calling it gives a copy: column names bind it, keywords set parameters.

    >>> winsorize("amount", p_high=95)
    winsorize("amount", p_low=1, p_high=95)
    >>> winsorize(high=95)
    Traceback (most recent call last):
        ...
    featurestore.errors.SchemaMismatch: winsorize has no parameter 'high' (parameters: p_low, p_high).
    """

    name: str
    description: str
    method: _Method = field(repr=False)
    parameters: Parameters = field(default_factory=dict, hash=False)
    columns: tuple[str, ...] = ()

    def __call__(self, *columns: str, **parameters: Any) -> TransformationFunction:
        for column in columns:
            if not isinstance(column, str):
                raise SchemaMismatch(
                    f"{self.name}({column!r}): expected a column name. A transformation is declared on columns, as in "
                    f"{self.name}('amount'), and applied by the feature view; parameters go by keyword."
                )
        known = self.method.defaults
        for name in parameters:
            if name not in known:
                listed = f"parameters: {', '.join(known)}" if known else "it takes none"
                raise SchemaMismatch(f"{self.name} has no parameter {name!r} ({listed}).")
        inputs = self.method.inputs
        expected = 1 if inputs is None else len(inputs)
        if columns and len(columns) != expected:
            names = "one column" if inputs is None else f"{expected} columns ({', '.join(inputs)})"
            raise SchemaMismatch(f"{self.name} reads {names}, and {len(columns)} were given: {', '.join(columns)}.")
        merged = {**self.parameters, **parameters}
        if problem := self.method.problem(merged):
            raise SchemaMismatch(f"{self.name}: {problem}")
        return replace(self, parameters=merged, columns=columns or self.columns)

    def __repr__(self) -> str:
        arguments = [f'"{column}"' for column in self.columns]
        arguments += [f"{name}={value!r}" for name, value in self.parameters.items()]
        return f"{self.name}({', '.join(arguments)})" if arguments else self.name

    def to_json(self) -> dict[str, Any]:
        """How to find the function again: its name, or for a user's own its module, name and hash of its source."""
        found = {"parameters": dict(self.parameters)}
        if isinstance(self.method, _Custom):
            return {"reference": self.method.reference, "source_hash": self.method.source_hash, **found}
        return {"name": self.name, **found}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TransformationFunction:
        """The function that `to_json` described.

        Raises:
            NotFound: the function is no longer where it was defined.
            NotReproducible: its source has changed since.
        """
        found = get(data["name"]) if "name" in data else _load(data["reference"], data["source_hash"])
        return found(**data["parameters"])


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
    return [_to_json(value) for value in sorted(v for v in pc.unique(_tidy(column)).to_pylist() if v is not None)]


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


def _to_json(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, date):  # datetimes are dates
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value


def _from_json(value: Any, dtype: pa.DataType) -> Any:
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


def _fit_min_max(column: pa.Array) -> State:
    values = _finite(column)
    return {"min": float(values.min()), "max": float(values.max())} if len(values) else {"min": None, "max": None}


def _min_max_kernel(state: State, _dtype: pa.DataType) -> Kernel:
    low, high = state["min"], state["max"]
    if low is None:
        return _nothing_learned()
    return _always(0.0) if low == high else _linear(low, low, high)


def _fit_standard(column: pa.Array) -> State:
    values = _finite(column)
    mean, deviation = _moments(values) if len(values) else (None, None)
    return {"mean": mean, "std": deviation}


def _standard_kernel(state: State, _dtype: pa.DataType) -> Kernel:
    mean, deviation = state["mean"], state["std"]
    if mean is None:
        return _nothing_learned()
    return _always(0.0) if deviation == 0 else _linear(mean, 0.0, deviation)


def _fit_robust(column: pa.Array) -> State:
    values = _finite(column)
    if not len(values):
        return {"q1": None, "median": None, "q3": None, "constant": None}
    q1, median, q3 = _percentiles(values, (25, 50, 75))
    return {"q1": q1, "median": median, "q3": q3, "constant": bool(values.min() == values.max())}


def _robust_kernel(state: State, _dtype: pa.DataType) -> Kernel:
    q1, median, q3 = state["q1"], state["median"], state["q3"]
    if median is None:
        return _nothing_learned()
    if state["constant"]:
        return _always(0.0)
    return _linear(median, q1, q3) if q1 != q3 else _linear(median, 0.0, 1.0)


def _fit_log(_column: pa.Array, *, offset: float) -> State:
    return {"offset": float(offset)}


def _log_kernel(state: State, _dtype: pa.DataType) -> Kernel:
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


def _fit_winsorize(column: pa.Array, *, p_low: float, p_high: float) -> State:
    values = _finite(column)
    low, high = _percentiles(values, (p_low, p_high)) if len(values) else (None, None)
    return {"low": low, "high": high}


def _winsorize_kernel(state: State, _dtype: pa.DataType) -> Kernel:
    if state["low"] is None:
        return _on_numbers(lambda values: values, lambda value: value)
    low, high = state["low"], state["high"]
    return _on_numbers(  # where(), because maximum(-0.0, 0.0) is free to return either
        lambda values: np.where(values < low, low, np.where(values > high, high, values)),
        lambda value: low if value < low else high if value > high else value,
    )


def _fit_percentiles(column: pa.Array) -> State:
    values = _finite(column)
    return {"percentiles": _percentiles(values, range(101)) if len(values) else None}


def _quantile_kernel(state: State, _dtype: pa.DataType) -> Kernel:
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


def _rank_kernel(state: State, _dtype: pa.DataType) -> Kernel:
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


def _fit_equal_width(column: pa.Array, *, n_bins: int) -> State:
    values = _finite(column)
    if not len(values):
        return {"edges": None}
    low, high = float(values.min()), float(values.max())
    # Two products rather than low + k * width: the width itself may be beyond the largest double.
    return _edges([low * (1 - k / n_bins) + high * (k / n_bins) for k in range(1, n_bins)], low, high)


def _fit_equal_frequency(column: pa.Array, *, n_bins: int) -> State:
    return _fit_quantiles(column, quantiles=[k / n_bins for k in range(1, n_bins)])


def _fit_quantiles(column: pa.Array, *, quantiles: Sequence[float]) -> State:
    values = _finite(column)
    if not len(values):
        return {"edges": None}
    edges = _percentiles(values, [100 * quantile for quantile in quantiles])
    return _edges(edges, float(values.min()), float(values.max()))


def _edges(edges: list[float], low: float, high: float) -> State:
    return {"edges": [] if low == high else sorted(set(edges))}


def _bin_kernel(state: State, _dtype: pa.DataType) -> Kernel:
    edges = state["edges"]
    if edges is None:
        return _nothing_learned(BIGINT)
    return _on_numbers(
        lambda values: np.searchsorted(edges, values, "left"), lambda value: bisect_left(edges, value), BIGINT
    )


def _fit_categories(column: pa.Array) -> State:
    return {"categories": _categories(column)}


class _Codes:
    """Positions of values in a list of categories; -1 for one that is not there, None for a null."""

    def __init__(self, categories: list[Any], dtype: pa.DataType) -> None:
        self.values = [_from_json(category, dtype) for category in categories]
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


def _label_kernel(state: State, dtype: pa.DataType) -> Kernel:
    codes = _Codes(state["categories"], dtype)

    def batch(column: pa.Array) -> list[pa.Array]:
        found, null = codes.of_column(column)
        return [pa.array(found, BIGINT, mask=null)]

    return Kernel(batch, codes.lookup(range(len(codes.values)), -1, None), (BIGINT,))


def _fit_one_hot(column: pa.Array) -> State:
    categories = _categories(column)
    if len(categories) > MAX_ONE_HOT_COLUMNS:
        raise InvalidData(
            f"one_hot_encoder would give {len(categories):,} columns, one for each distinct value; the limit is "
            f"{MAX_ONE_HOT_COLUMNS:,}. Put top_k_categorical_binner before it, or use label_encoder."
        )
    return {"categories": categories}


def _one_hot_kernel(state: State, dtype: pa.DataType) -> Kernel:
    codes = _Codes(state["categories"], dtype)
    count = len(codes.values)

    def batch(column: pa.Array) -> list[pa.Array]:
        found, _ = codes.of_column(column)
        return [pa.array(found == code) for code in range(count)]

    rows = [tuple(code == column for column in range(count)) for code in range(count)]
    nowhere = (False,) * count
    suffixes = tuple(_text(value) for value in codes.values)
    return Kernel(batch, codes.lookup(rows, nowhere, nowhere), (pa.bool_(),) * count, suffixes)


def _fit_top_k(column: pa.Array, *, top_n: int, other_label: str) -> State:
    return {"kept": [_to_json(value) for value in _by_frequency(column)[:top_n]], "other": other_label}


def _top_k_kernel(state: State, dtype: pa.DataType) -> Kernel:
    codes = _Codes(state["kept"], dtype)
    other = state["other"]
    texts = [_text(value) for value in codes.values]
    labels = pa.array([*texts, other], pa.string())

    def batch(column: pa.Array) -> list[pa.Array]:
        found, null = codes.of_column(column)
        positions = np.where(found < 0, len(texts), found)
        return [labels.take(pa.array(positions, mask=null))]

    return Kernel(batch, codes.lookup(texts, other, None), (pa.string(),))


def _fit_mean(column: pa.Array) -> State:
    values = _finite(column)
    return {"value": _moments(values)[0] if len(values) else None}


def _fit_median(column: pa.Array) -> State:
    values = _finite(column)
    return {"value": _percentiles(values, (50,))[0] if len(values) else None}


def _fill_number_kernel(state: State, _dtype: pa.DataType) -> Kernel:
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


def _fit_mode(column: pa.Array) -> State:
    values = _by_frequency(column)
    return {"value": _to_json(values[0]) if values else None}


def _fill_mode_kernel(state: State, dtype: pa.DataType) -> Kernel:
    return _fill_kernel(None if state["value"] is None else _from_json(state["value"], dtype), dtype)


def _fit_constant(_column: pa.Array, *, value: Any) -> State:
    return {"value": value}


def _fill_constant_kernel(state: State, dtype: pa.DataType) -> Kernel:
    return _fill_kernel(_exact_scalar(state["value"], dtype).as_py(), dtype)


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


def _exact_scalar(value: Any, dtype: pa.DataType) -> pa.Scalar:
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


# --- The built-ins ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _BuiltIn:
    accepts: Accepted
    gives: pa.DataType | Literal["same", "several"]
    learn: Callable[..., State]
    apply: Callable[[State, pa.DataType], Kernel]
    defaults: Parameters
    check: Callable[[Any], str | None] | None
    inputs: None = None
    drop: tuple[str, ...] = ()

    def problem(self, parameters: Parameters) -> str | None:
        return self.check(parameters) if self.check else None

    def output_types(self, types: Sequence[pa.DataType], parameters: Parameters) -> tuple[pa.DataType, ...] | None:
        if not _is(self.accepts, types[0]):
            raise SchemaMismatch(f"is {spell_dtype(types[0])}, expected {_ACCEPTED_HELP[self.accepts]}")
        if self.learn is _fit_constant:
            _exact_scalar(parameters["value"], types[0])
        if self.gives == "several":
            return None
        return (types[0] if self.gives == "same" else self.gives,)

    def fit(self, columns: Sequence[pa.Array], parameters: Parameters) -> State:
        return self.learn(columns[0], **parameters)

    def kernel(self, state: State, types: Sequence[pa.DataType]) -> Kernel:
        return self.apply(state, types[0])


def _is(accepted: Accepted, dtype: pa.DataType) -> bool:
    number = pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_decimal(dtype)
    if accepted == "number":
        return number or pa.types.is_boolean(dtype)
    if accepted == "text":
        return pa.types.is_string(dtype)
    return accepted == "any" or not pa.types.is_nested(dtype)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_winsorize(p: Parameters) -> str | None:
    low, high = p["p_low"], p["p_high"]
    if _is_number(low) and _is_number(high) and 0 <= low < high <= 100:
        return None
    return f"p_low={low!r}, p_high={high!r}: expected percentiles with 0 <= p_low < p_high <= 100, such as 1 and 99."


def _check_bins(p: Parameters) -> str | None:
    if type(p["n_bins"]) is int and 2 <= p["n_bins"] <= 10_000:
        return None
    return f"n_bins={p['n_bins']!r}: expected a whole number from 2 to 10000."


def _check_quantiles(p: Parameters) -> str | None:
    given = p["quantiles"]
    shares = isinstance(given, list | tuple) and given and all(_is_number(q) and 0 < q < 1 for q in given)
    if shares and all(a < b for a, b in itertools.pairwise(given)):
        return None
    return f"quantiles={given!r}: expected ascending numbers between 0 and 1, such as [0.25, 0.5, 0.75]."


def _check_top_k(p: Parameters) -> str | None:
    if type(p["top_n"]) is not int or p["top_n"] < 1:
        return f"top_n={p['top_n']!r}: expected a whole number of at least 1."
    return None if isinstance(p["other_label"], str) else f"other_label={p['other_label']!r}: expected text."


def _check_offset(p: Parameters) -> str | None:
    return None if _is_number(p["offset"]) else f"offset={p['offset']!r}: expected a finite number, such as 1."


def _check_constant(p: Parameters) -> str | None:
    value = p["value"]
    return None if isinstance(value, str | bool) or _is_number(value) else f"value={value!r}: expected a value."


def _check_category(p: Parameters) -> str | None:
    return None if isinstance(p["value"], str) else f"value={p['value']!r}: expected text."


def _built_in(
    name: str, description: str, accepts: Accepted, gives: pa.DataType | Literal["same", "several"],
    learn: Callable[..., State], apply: Callable[[State, pa.DataType], Kernel],
    check: Callable[[Any], str | None] | None = None, **defaults: Any,
) -> TransformationFunction:  # fmt: skip
    method = _BuiltIn(accepts, gives, learn, apply, defaults, check)
    return TransformationFunction(name, description, method, parameters=defaults)


min_max_scaler = _built_in(
    "min_max_scaler", "(x - min) / (max - min): the training split lies in [0, 1].",
    "number", DOUBLE, _fit_min_max, _min_max_kernel,
)  # fmt: skip
standard_scaler = _built_in(
    "standard_scaler", "(x - mean) / population standard deviation.",
    "number", DOUBLE, _fit_standard, _standard_kernel,
)  # fmt: skip
robust_scaler = _built_in(
    "robust_scaler", "(x - median) / (q3 - q1); only centred where the quartiles are equal.",
    "number", DOUBLE, _fit_robust, _robust_kernel,
)  # fmt: skip
log_transform = _built_in(
    "log_transform", "Natural logarithm of x + offset; null where that is not positive.",
    "number", DOUBLE, _fit_log, _log_kernel, _check_offset, offset=0.0,
)  # fmt: skip
winsorize = _built_in(
    "winsorize", "Clipped to two percentiles, as double.",
    "number", DOUBLE, _fit_winsorize, _winsorize_kernel, _check_winsorize, p_low=1, p_high=99,
)  # fmt: skip
quantile_transformer = _built_in(
    "quantile_transformer", "Place among the percentiles 0..100, interpolated, in [0, 1]; of equal ones the middle.",
    "number", DOUBLE, _fit_percentiles, _quantile_kernel,
)  # fmt: skip
rank_normalizer = _built_in(
    "rank_normalizer", "Share of the percentiles 1..100 that are at most x: 0 below the minimum, 1 from the maximum.",
    "number", DOUBLE, _fit_percentiles, _rank_kernel,
)  # fmt: skip
equal_width_binner = _built_in(
    "equal_width_binner", "Number (from 0) of one of n_bins bins of equal width; an edge belongs to the lower bin.",
    "number", BIGINT, _fit_equal_width, _bin_kernel, _check_bins, n_bins=10,
)  # fmt: skip
equal_frequency_binner = _built_in(
    "equal_frequency_binner", "Number (from 0) of one of n_bins bins of equal count; equal edges merge.",
    "number", BIGINT, _fit_equal_frequency, _bin_kernel, _check_bins, n_bins=4,
)  # fmt: skip
quantile_binner = _built_in(
    "quantile_binner", "Number (from 0) of the bin between given quantiles; equal edges merge.",
    "number", BIGINT, _fit_quantiles, _bin_kernel, _check_quantiles, quantiles=(0.25, 0.5, 0.75),
)  # fmt: skip
label_encoder = _built_in(
    "label_encoder", "Position among the sorted values of the training split; -1 for an unseen one.",
    "category", BIGINT, _fit_categories, _label_kernel,
)  # fmt: skip
one_hot_encoder = _built_in(
    "one_hot_encoder", "A boolean column <column>_<value> for each value of the training split, sorted.",
    "category", "several", _fit_one_hot, _one_hot_kernel,
)  # fmt: skip
top_k_categorical_binner = _built_in(
    "top_k_categorical_binner", "The top_n most frequent values as text, other_label for all others and unseen ones.",
    "category", pa.string(), _fit_top_k, _top_k_kernel, _check_top_k, top_n=10, other_label="Other",
)  # fmt: skip
impute_mean = _built_in(
    "impute_mean", "Nulls become the mean, as double.",
    "number", DOUBLE, _fit_mean, _fill_number_kernel,
)  # fmt: skip
impute_median = _built_in(
    "impute_median", "Nulls become the median, as double.",
    "number", DOUBLE, _fit_median, _fill_number_kernel,
)  # fmt: skip
impute_constant = _built_in(
    "impute_constant", "Nulls become the value given; the column keeps its type.",
    "any", "same", _fit_constant, _fill_constant_kernel, _check_constant, value=0.0,
)  # fmt: skip
impute_category = _built_in(
    "impute_category", "Null text becomes a category of its own.",
    "text", "same", _fit_constant, _fill_constant_kernel, _check_category, value="__MISSING__",
)  # fmt: skip
impute_mode = _built_in(
    "impute_mode", "Nulls become the most frequent value, the smallest of equally frequent ones.",
    "category", "same", _fit_mode, _fill_mode_kernel,
)  # fmt: skip

BUILT_INS: dict[str, TransformationFunction] = {
    function.name: function
    for function in (
        min_max_scaler, standard_scaler, robust_scaler, label_encoder, one_hot_encoder, log_transform,
        equal_width_binner, equal_frequency_binner, quantile_binner, quantile_transformer, rank_normalizer, winsorize,
        top_k_categorical_binner, impute_mean, impute_median, impute_constant, impute_category, impute_mode,
    )
}  # fmt: skip


def get(name: str) -> TransformationFunction:
    """The built-in function of a name.

    >>> get("standard_scaler").description
    '(x - mean) / population standard deviation.'
    >>> get("z_score")
    Traceback (most recent call last):
        ...
    featurestore.errors.NotFound: There is no transformation function 'z_score' (there are: equal_frequency_binner, ...
    """
    if name not in BUILT_INS:
        raise NotFound(
            f"There is no transformation function {name!r} (there are: {', '.join(sorted(BUILT_INS))}). "
            "Write your own with @udf."
        )
    return BUILT_INS[name]


# --- A user's own functions -------------------------------------------------------------------------------------------

_PYTHON_TYPES: dict[type, str] = {
    float: "double", int: "bigint", str: "string", bool: "boolean", bytes: "binary",
    datetime: "timestamp", date: "date",
}  # fmt: skip
# What @udf has seen in this process, so that a function defined in a notebook or inside another function can be found
# for as long as the process lives.
_DEFINED: dict[tuple[str, str], TransformationFunction] = {}


def udf(
    return_type: str | type | pa.DataType | Sequence[str | type | pa.DataType],
    *,
    drop: str | Sequence[str] = (),
    mode: Mode | Literal["python"] | None = None,
) -> Callable[[Callable[..., Any]], TransformationFunction]:
    """Make a transformation of a function; parameters without a default are columns, the others are parameters.

    Args:
        return_type: dtype of the result ("double", "string", ..., or float, int, str, bool); a list for several
            results, which become the columns `<column>_0`, `<column>_1`, ...
        drop: parameters whose columns the model does not get.
        mode: "scalar" ("python" is the same): called for each row with plain values, None for null, by batch and
            online alike. "pandas": called with Series, online with one row; integers arrive as Int64, text as str.
            It must not look at other rows, which is checked when it is fitted. Without a mode the annotations
            decide: "pandas" if a parameter is a Series.
    Returns:
        A function to declare on a view, by name of its parameters or bound to other columns: `ratio("amount", "mean")`.
        It is stored by module, name and a hash of its source, never pickled: whoever loads the view must be able to
        import it. What it calls is not part of the hash.

    >>> @udf("double", drop=["mean"])
    ... def ratio(amount, mean, smoothing=1.0):
    ...     return None if amount is None or mean is None else amount / (mean + smoothing)
    >>> ratio("price", "price_mean", smoothing=0.5)
    ratio("price", "price_mean", smoothing=0.5)
    """

    def decorate(function: Callable[..., Any]) -> TransformationFunction:
        method = _custom(function, return_type, drop, mode)
        description = (inspect.getdoc(function) or "").partition("\n")[0]
        made = TransformationFunction(function.__name__, description, method, parameters=method.defaults)
        _DEFINED[method.reference, method.source_hash] = made
        return made

    return decorate


def _custom(
    function: Callable[..., Any],
    return_type: str | type | pa.DataType | Sequence[str | type | pa.DataType],
    drop: str | Sequence[str],
    mode: Mode | Literal["python"] | None,
) -> _Custom:
    name = function.__name__
    signature = inspect.signature(function).parameters.values()
    if any(parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) for parameter in signature):
        raise SchemaMismatch(f"Function {name!r} takes *args or **kwargs: name its columns as parameters.")
    inputs = tuple(p.name for p in signature if p.default is p.empty)
    defaults = {p.name: p.default for p in signature if p.default is not p.empty}
    if not inputs:
        raise SchemaMismatch(f"Function {name!r} reads no column: give it a parameter without a default for each.")
    dropped = (drop,) if isinstance(drop, str) else tuple(drop)
    for parameter in dropped:
        if parameter not in inputs:
            raise SchemaMismatch(f"Function {name!r} cannot drop {parameter!r}: its columns are {', '.join(inputs)}.")
    if mode not in (None, "scalar", "python", "pandas"):
        raise SchemaMismatch(f"Function {name!r} has the mode {mode!r}: expected 'scalar' or 'pandas'.")
    if mode is None:
        annotations = [str(p.annotation) for p in signature]
        mode = "pandas" if any("Series" in annotation for annotation in annotations) else "scalar"
    listed = list(return_type) if isinstance(return_type, list | tuple) else [return_type]
    types = tuple(parse_dtype(_PYTHON_TYPES.get(t, t) if isinstance(t, type) else t, name) for t in listed)
    custom = _Custom(
        function, inputs, defaults, dropped, types, "pandas" if mode == "pandas" else "scalar",
        _reference(function), _source_hash(function),
    )  # fmt: skip
    if problem := custom.problem(defaults):
        raise SchemaMismatch(f"Function {name!r}: {problem}")
    return custom


def _reference(function: Callable[..., Any]) -> str:
    module = function.__module__
    if module == "__main__":  # run by `python -m`: others import it by its real name
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        module = spec.name if spec else module
    return f"{module}:{function.__qualname__}"


def _source_hash(function: Callable[..., Any]) -> str:
    try:
        source = inspect.getsource(function).encode()
    except (OSError, TypeError):  # typed into a plain interpreter: it lives as long as the process
        source = function.__code__.co_code
    return hashlib.sha256(inspect.cleandoc(source.decode(errors="replace")).encode()).hexdigest()


def _load(reference: str, source_hash: str) -> TransformationFunction:
    if (found := _DEFINED.get((reference, source_hash))) is not None:
        return found
    module, _, path = reference.partition(":")
    if "<locals>" in path or module == "__main__":
        raise NotFound(
            f"The transformation function {reference!r} was defined in a script, a notebook or another function, "
            "in a process that has ended. Move it to the top of a module that can be imported and create the view's "
            "next version with it."
        )
    try:
        loaded: Any = importlib.import_module(module)
        for part in path.split("."):
            loaded = getattr(loaded, part)
    except (ImportError, AttributeError) as error:
        raise NotFound(
            f"The transformation function {reference!r} cannot be imported: {error}. Make the module importable here, "
            "or put the function back."
        ) from error
    if not isinstance(loaded, TransformationFunction) or not isinstance(loaded.method, _Custom):
        raise NotFound(f"{reference!r} is no longer a transformation function. Put @udf back on it.")
    if loaded.method.source_hash != source_hash:
        raise NotReproducible(
            f"The source of the transformation function {reference!r} has changed since the view was made, so vectors "
            "would differ from the training data. Restore the old source under this name, or create the view's next "
            "version with the new one."
        )
    return loaded


@dataclass(frozen=True)
class _Custom:
    function: Callable[..., Any] = field(compare=False)
    inputs: tuple[str, ...]
    defaults: Parameters = field(hash=False)
    drop: tuple[str, ...]
    returns: tuple[pa.DataType, ...]
    mode: Mode
    reference: str
    source_hash: str

    def problem(self, parameters: Parameters) -> str | None:
        for name, value in parameters.items():
            if value is not None and not isinstance(value, str | bool) and not _is_number(value):
                return f"{name}={value!r}: expected text, a finite number, a boolean or None, which can be stored."
        return None

    def output_types(self, _types: Sequence[pa.DataType], _parameters: Parameters) -> tuple[pa.DataType, ...]:
        return self.returns

    def fit(self, columns: Sequence[pa.Array], parameters: Parameters) -> State:
        if self.mode == "pandas" and len(columns[0]):
            self._check_row_wise(columns, parameters)
        return {"parameters": dict(parameters)}

    def _check_row_wise(self, columns: Sequence[pa.Array], parameters: Parameters) -> None:
        whole = self._on_series(parameters, *columns)
        for row in {0, len(columns[0]) // 2, len(columns[0]) - 1}:
            alone = self._on_series(parameters, *(column.slice(row, 1) for column in columns))
            for together, single in zip(whole, alone, strict=True):
                if not together.slice(row, 1).equals(single):
                    raise InvalidData(
                        f"Function {self.function.__name__!r} gives {together[row].as_py()!r} for row {row} among the "
                        f"others and {single[0].as_py()!r} for the row alone: it looks at other rows, so a feature "
                        "vector would differ from the training data. Compute from the row alone, or use a built-in."
                    )

    def kernel(self, state: State, types: Sequence[pa.DataType]) -> Kernel:
        parameters = state["parameters"]
        suffixes = None if len(self.returns) == 1 else tuple(str(i) for i in range(len(self.returns)))
        if self.mode == "scalar":
            scalar = self._on_values(parameters)
            return Kernel(partial(self._on_columns, scalar), scalar, self.returns, suffixes)
        batch = partial(self._on_series, parameters)

        def one_row(*values: Any) -> Any:
            row = [pa.array([value], dtype) for value, dtype in zip(values, types, strict=True)]
            results = tuple(column[0].as_py() for column in batch(*row))
            return results[0] if suffixes is None else results

        return Kernel(batch, one_row, self.returns, suffixes)

    def _on_values(self, parameters: Parameters) -> Callable[..., Any]:
        function = partial(self.function, **parameters) if parameters else self.function
        exact = [partial(_exact, dtype=dtype, function=self.function.__name__) for dtype in self.returns]

        def scalar(*values: Any) -> Any:
            values = tuple(None if value != value else value for value in values)
            try:
                result = function(*values)
            except Exception as error:  # a user's function may raise anything; say which one and on what
                raise InvalidData(f"Function {self.function.__name__!r} failed on {values!r}: {error!r}.") from error
            if len(exact) == 1:
                return exact[0](result)
            if not isinstance(result, tuple | list) or len(result) != len(exact):
                raise InvalidData(
                    f"Function {self.function.__name__!r} returned {result!r}: expected a tuple of {len(exact)} values."
                )
            return tuple(convert(value) for convert, value in zip(exact, result, strict=True))

        return scalar

    def _on_columns(self, scalar: Callable[..., Any], *columns: pa.Array) -> list[pa.Array]:
        rows = [scalar(*values) for values in zip(*(column.to_pylist() for column in columns), strict=True)]
        if len(self.returns) == 1:
            return [pa.array(rows, self.returns[0])]
        return [pa.array([row[i] for row in rows], dtype) for i, dtype in enumerate(self.returns)]

    def _on_series(self, parameters: Parameters, *columns: pa.Array) -> list[pa.Array]:
        import pandas as pd

        name = self.function.__name__
        try:
            result = self.function(*(_to_series(column) for column in columns), **parameters)
        except Exception as error:  # a user's function may raise anything; say which one
            raise InvalidData(f"Function {name!r} failed on {len(columns[0])} rows: {error!r}.") from error
        if isinstance(result, pd.DataFrame):
            results = [result[column] for column in result.columns]
        else:
            results = list(result) if isinstance(result, tuple) else [result]
        if len(results) != len(self.returns) or any(len(series) != len(columns[0]) for series in results):
            raise InvalidData(
                f"Function {name!r} returned {len(results)} columns of {', '.join(str(len(s)) for s in results)} rows: "
                f"expected {len(self.returns)} of {len(columns[0])}."
            )
        return [_from_series(s, dtype, name) for s, dtype in zip(results, self.returns, strict=True)]


def _to_series(column: pa.Array) -> pd.Series:
    """A Series whose dtype depends on the column's type alone, not on whether there are nulls in it."""
    import pandas as pd

    if pa.types.is_integer(column.type):
        nullable = {pa.int8(): pd.Int8Dtype(), pa.int16(): pd.Int16Dtype(), pa.int32(): pd.Int32Dtype()}
        dtype = nullable.get(column.type, pd.Int64Dtype())
        return column.to_pandas(types_mapper={column.type: dtype}.get)
    if pa.types.is_boolean(column.type):
        return column.to_pandas(types_mapper={column.type: pd.BooleanDtype()}.get)
    return column.to_pandas()


def _from_series(values: Any, dtype: pa.DataType, function: str) -> pa.Array:
    import pandas as pd

    try:
        array = pa.Array.from_pandas(pd.Series(values))
        if pa.types.is_string(array.type) != pa.types.is_string(dtype) and not pa.types.is_null(array.type):
            array = array.cast(pa.string()) if pa.types.is_large_string(array.type) else array
            if pa.types.is_string(array.type) != pa.types.is_string(dtype):
                raise pa.ArrowInvalid(f"it is {array.type}")
        array = array.cast(dtype)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise InvalidData(
            f"Function {function!r} returned a column that is not {spell_dtype(dtype)}, which it declares: {error}."
        ) from error
    if pa.types.is_floating(dtype):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, dtype), array)
    return array


def _exact(value: Any, *, dtype: pa.DataType, function: str) -> Any:
    """What a user's function returned, as the plain value that a column of the declared type gives back."""
    if value is None or value != value:
        return None
    if hasattr(value, "item"):  # a numpy number
        value = value.item()
    fits = (
        isinstance(value, bool) if pa.types.is_boolean(dtype)
        else isinstance(value, str) if pa.types.is_string(dtype)
        else isinstance(value, int) or (isinstance(value, float) and value.is_integer()) if pa.types.is_integer(dtype)
        else isinstance(value, int | float) if pa.types.is_floating(dtype)
        else True
    )  # fmt: skip
    try:
        if fits and dtype == DOUBLE:
            return float(value)
        if fits and pa.types.is_integer(dtype):
            return pa.scalar(int(value), dtype).as_py()
        if fits and pa.types.is_timestamp(dtype):
            return parse_time(value)
        if fits:
            return pa.scalar(value, dtype).as_py()
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, ValueError):
        pass  # refused below, with the function's name
    raise InvalidData(f"Function {function!r} returned {value!r}, which is no {spell_dtype(dtype)} as it declares.")


# --- The plan of a view -----------------------------------------------------------------------------------------------

Spec = Mapping[str, "TransformationFunction | Sequence[TransformationFunction]"] | Sequence[TransformationFunction]


@dataclass(frozen=True)
class Step:
    """One output name: the columns its first function reads, and the functions in order.

    `drop` are columns the model does not get. Other steps that read `output` read what the last function gave.
    """

    output: str
    inputs: tuple[str, ...]
    functions: tuple[TransformationFunction, ...]
    drop: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{' -> '.join(f.name for f in self.functions)} of {self.output!r}"


@dataclass(frozen=True)
class TransformationPlan:
    """What a view does to its columns, in the order in which it runs; nothing fitted yet. Made by `parse`."""

    columns: tuple[tuple[str, str], ...]
    labels: tuple[str, ...]
    steps: tuple[Step, ...]

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON-ready data; `from_json` reads it back."""
        steps = [
            {
                "output": step.output, "inputs": list(step.inputs), "drop": list(step.drop),
                "functions": [function.to_json() for function in step.functions],
            }
            for step in self.steps
        ]  # fmt: skip
        return {"columns": [list(column) for column in self.columns], "labels": list(self.labels), "steps": steps}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TransformationPlan:
        """The plan that `to_json` described; raises as `TransformationFunction.from_json`."""
        steps = tuple(
            Step(
                step["output"], tuple(step["inputs"]),
                tuple(TransformationFunction.from_json(function) for function in step["functions"]),
                tuple(step["drop"]),
            )
            for step in data["steps"]
        )  # fmt: skip
        return cls(tuple((name, dtype) for name, dtype in data["columns"]), tuple(data["labels"]), steps)

    def fit(self, train: pa.Table) -> FittedTransformations:
        """Learn from the training split, and from nothing else.

        Args:
            train: at least the columns that transformations read, in their declared types; any order of rows.
        Raises:
            SchemaMismatch: a column is missing or of another type, or two outputs have one name.
            InvalidData: a function failed, or looks at other rows.
        """
        columns = _columns(train.schema.names, self)
        _check_present(self, columns)
        known = {name: _declared(train, name, self).combine_chunks() for name in columns & _needed(self.steps)}
        state: dict[str, list[State]] = {}
        for step in _runnable(self, columns):
            arrays = [known[name] for name in step.inputs]
            state[step.output] = []
            for function in step.functions:
                types = [array.type for array in arrays]
                learned = _named(step, function.method.fit, arrays, function.parameters)
                state[step.output].append(learned)
                kernel = function.method.kernel(learned, types)
                arrays = kernel.batch(*arrays)
            known.update(zip(_outputs(step, kernel), arrays, strict=True))
        fitted = FittedTransformations(self, state)
        fitted.output_names_for(train.schema.names)
        return fitted


def parse(spec: Spec | None, features: Sequence[Feature], *, labels: Sequence[str] = ()) -> TransformationPlan:
    """The plan that a view's `transformation_functions` describe.

    Args:
        spec: functions by the name of the column they give, `{"amount": [impute_median, standard_scaler]}`; or a list
            of functions, each bound to its columns, `[min_max_scaler("amount"), ratio]`, where one column's functions
            form a chain in their order. An existing column is replaced in place. A new name is a column added behind
            those it is made of: `{"log_amount": log_transform("amount")}`, or in a list a function of several columns
            under its own name.
        features: the view's columns, labels included.
        labels: which of them are labels. They may be transformed, but no feature may be made from them.
    Returns:
        The steps in dependency order: a function that reads a column another one gives reads the result.
    Raises:
        SchemaMismatch: a column does not exist or is of the wrong type, functions depend on each other in a circle, a
            function after the first of a chain reads several columns, a feature is made from a label, or two outputs
            have one name.

    >>> columns = [Feature("amount", "double"), Feature("city", "string")]
    >>> [str(step) for step in parse({"amount": [impute_mean, min_max_scaler]}, columns).steps]
    ["impute_mean -> min_max_scaler of 'amount'"]
    >>> parse({"city": standard_scaler}, columns)
    Traceback (most recent call last):
        ...
    featurestore.errors.SchemaMismatch: standard_scaler of 'city': 'city' is string, expected a number; encode text ...
    """
    types = {feature.name: feature.type for feature in features}
    steps = [_step(output, chain, types) for output, chain in _chains(spec).items()]
    ordered = _in_dependency_order(steps, types)
    _check_labels(ordered, set(labels))
    _check_types(ordered, types)
    columns = tuple((feature.name, spell_dtype(feature.type)) for feature in features)
    return TransformationPlan(columns, tuple(labels), tuple(ordered))


def _chains(spec: Spec | None) -> dict[str, list[TransformationFunction]]:
    """Functions by output name, in the order given."""
    chains: dict[str, list[TransformationFunction]] = {}
    if isinstance(spec, Mapping):
        for output, given in spec.items():
            chains[output] = [given] if isinstance(given, str) or not isinstance(given, Sequence) else list(given)
            if not chains[output]:
                raise SchemaMismatch(
                    f"The list of transformations of {output!r} is empty. Leave the column out instead."
                )
    else:
        for function in [spec] if isinstance(spec, TransformationFunction) else list(spec or []):
            _check_function(function, "the list of transformations")
            chains.setdefault(_listed_output(function), []).append(function)
    for output, chain in chains.items():
        for function in chain:
            _check_function(function, f"the transformations of {output!r}")
    return chains


def _check_function(function: object, where: str) -> None:
    if isinstance(function, TransformationFunction):
        return
    what = (
        repr(function) if not callable(function) else f"{getattr(function, '__name__', function)!r}, a plain function"
    )
    raise SchemaMismatch(
        f"Among {where} is {what}: expected a transformation function. Use a built-in such as "
        "featurestore.transformations.standard_scaler, or put @udf on your own."
    )


def _listed_output(function: TransformationFunction) -> str:
    columns = function.columns or function.method.inputs
    if columns is None:
        raise SchemaMismatch(
            f"{function.name} in a list needs its column: write {function.name}('amount'), or use a dict."
        )
    return columns[0] if len(columns) == 1 else function.name


def _step(output: str, chain: list[TransformationFunction], types: Mapping[str, pa.DataType]) -> Step:
    first = chain[0]
    names = first.method.inputs
    inputs = first.columns or names or (output,)
    if not first.columns and names is not None and len(names) == 1 and output in types:
        inputs = (output,)
    for later in chain[1:]:
        if later.method.inputs is not None and len(later.method.inputs) > 1:
            raise SchemaMismatch(
                f"{later.name} in the chain of {output!r} reads {len(later.method.inputs)} columns; behind another "
                "function it would get one. Give it an output of its own."
            )
        if later.columns and later.columns != (output,):
            raise SchemaMismatch(
                f"{later!r} in the chain of {output!r} is bound to another column, but gets what the function before "
                f"it returned. Write {later.name} without a column."
            )
    # Only the first function reads columns, so only it can take them from the model.
    drop = {column for parameter, column in zip(names or (), inputs, strict=False) if parameter in first.method.drop}
    return Step(output, tuple(inputs), tuple(chain), tuple(sorted(drop - {output})))


def _static_outputs(step: Step) -> tuple[str, ...]:
    """The column names a step gives, as far as they are known before fitting."""
    last = step.functions[-1].method
    if isinstance(last, _Custom) and len(last.returns) > 1:
        return tuple(f"{step.output}_{i}" for i in range(len(last.returns)))
    return () if isinstance(last, _BuiltIn) and last.gives == "several" else (step.output,)


def _in_dependency_order(steps: list[Step], types: Mapping[str, pa.DataType]) -> list[Step]:
    giver = {name: step for step in steps for name in _static_outputs(step)}
    replaced = {step.output: step for step in steps}
    ordered: list[Step] = []

    def visit(step: Step, path: list[Step]) -> None:
        if step in ordered:
            return
        if step in path:
            circle = [*path[path.index(step) :], step]
            raise SchemaMismatch(
                f"Transformations depend on each other in a circle: {' needs '.join(repr(s.output) for s in circle)}. "
                "Give one of them an output name of its own, so that the other can read the raw column."
            )
        for name in step.inputs:
            if name in giver and giver[name] is not step:
                visit(giver[name], [*path, step])
            elif name in replaced and replaced[name] is not step:
                raise SchemaMismatch(
                    f"{step} reads {name!r}, which {replaced[name]} turns into several columns. "
                    "Give that one an output name of its own, so that the column stays."
                )
            elif name not in types:
                made = sorted(set(giver) - set(types) - {step.output})
                listed = ", ".join([*types, *made]) or "none"
                raise SchemaMismatch(f"{step} reads the column {name!r}, which does not exist (columns: {listed}).")
        ordered.append(step)

    for step in steps:
        visit(step, [])
    return ordered


def _check_labels(steps: list[Step], labels: set[str]) -> None:
    known_late = labels.union(*(_static_outputs(step) for step in steps if step.output in labels))
    for step in steps:
        if (read := known_late.intersection(step.inputs)) and step.output not in labels:
            raise SchemaMismatch(
                f"{step} makes a feature from the label {sorted(read)[0]!r}, which is not known at prediction time. "
                "Leave the label out, or transform it under its own name."
            )


def _check_types(steps: list[Step], types: Mapping[str, pa.DataType]) -> None:
    known = dict(types)
    origin = dict.fromkeys(types, "a column of the view")
    for step in steps:
        for output in _static_outputs(step):
            if output in origin and not (output == step.output and output in types):
                raise SchemaMismatch(_clash(output, f"a result of {step}", origin[output]))
            origin[output] = f"a result of {step}"
        current: tuple[pa.DataType, ...] | None = tuple(known[name] for name in step.inputs)
        for position, function in enumerate(step.functions):
            if current is None or (position and len(current) != 1):
                raise SchemaMismatch(
                    f"{function.name} follows {step.functions[position - 1].name} in the chain of {step.output!r}, "
                    "which gives several columns. Put it last."
                )
            try:
                current = function.method.output_types(current, function.parameters)
            except SchemaMismatch as error:
                what = repr(step.inputs[0]) if not position else f"what {step.functions[position - 1].name} gives"
                raise SchemaMismatch(f"{function.name} of {step.output!r}: {what} {error}.") from None
        known.update(zip(_static_outputs(step), current or (), strict=False))


def _clash(name: str, one: str, other: str) -> str:
    return (
        f"Two columns would be called {name!r}: {one}, and {other}. Rename the column, or give the transformation "
        "another output name."
    )


# --- What a training set keeps ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FittedTransformations:
    """A plan and what it learned; the part of a training set that batch and online inference share.

    `state` is JSON-ready: for each output the learned numbers of each function of its chain. Labels and their
    transformations are left out wherever a table or row comes without them.
    """

    plan: TransformationPlan
    state: dict[str, list[State]]

    def to_json(self) -> dict[str, Any]:
        """Plan and state as JSON-ready data; floats come back to the bit."""
        return {"plan": self.plan.to_json(), "state": self.state}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FittedTransformations:
        """What `to_json` described; raises as `TransformationFunction.from_json`."""
        return cls(TransformationPlan.from_json(data["plan"]), data["state"])

    @property
    def output_names(self) -> list[str]:
        """Columns after the transformations, labels included, in order."""
        return self.output_names_for([name for name, _ in self.plan.columns])

    @property
    def output_schema(self) -> pa.Schema:
        """Names and types of all columns after the transformations, labels included, in order."""
        return self._schema(pa.schema([(name, parse_dtype(dtype, name)) for name, dtype in self.plan.columns]))

    def output_names_for(self, names: Sequence[str]) -> list[str]:
        """Columns after the transformations, of a table or row with the columns `names`."""
        return [output for output, _ in self._layout(names)]

    def outputs_of(self, name: str) -> list[str]:
        """The columns that stand for a column, or new output, after the transformations: itself, several, or none."""
        return [output for output, key in self._layout([column for column, _ in self.plan.columns]) if key == name]

    def transform(self, table: pa.Table) -> pa.Table:
        """The table with its columns transformed in place; rows, and columns the plan does not know, as they were.

        Raises:
            SchemaMismatch: a feature that is transformed is missing or of another type than declared, or an output has
                the name of another column.
        """
        names = table.schema.names
        columns = _columns(names, self.plan)
        _check_present(self.plan, columns)
        if not (steps := _runnable(self.plan, columns)):
            return table
        for name in columns & _needed(steps):
            table = table.set_column(names.index(name), name, _declared(table, name, self.plan))
        order = [output for output, _ in self._layout(names)]
        schema = self._schema(table.schema)
        batches = []
        for batch in table.to_batches():  # functions see one row at a time, so chunks change nothing
            known = dict(zip(names, batch.columns, strict=True))
            for step in steps:
                arrays = [known[name] for name in step.inputs]
                for kernel in self._kernels[step.output]:
                    arrays = kernel.batch(*arrays)
                known.update(zip(_outputs(step, kernel), arrays, strict=True))
            batches.append(pa.RecordBatch.from_arrays([known[name] for name in order], schema=schema))
        return pa.Table.from_batches(batches, schema)

    def compile(self, input_names: Sequence[str]) -> Callable[[Sequence[Any]], list[Any]]:
        """The same for one row: plain values in the order of `input_names` to plain values in `output_names_for` them.

        Raises:
            SchemaMismatch: as `transform`; InvalidData, by what is returned, when a row has another length.

        >>> columns = [Feature("amount", "double"), Feature("city", "string")]
        >>> plan = parse({"amount": min_max_scaler, "city": one_hot_encoder}, columns)
        >>> fitted = plan.fit(pa.table({"amount": [10.0, 20.0], "city": ["Oslo", "Bern"]}))
        >>> fitted.output_names, fitted.compile(["amount", "city"])([12.5, "Oslo"])
        (['amount', 'city_Bern', 'city_Oslo'], [0.25, False, True])
        """
        names = list(input_names)
        columns = _columns(names, self.plan)
        _check_present(self.plan, columns)
        slots = {name: position for position, name in enumerate(names)}
        operations: list[_Operation] = []
        size = len(names)
        for step in _runnable(self.plan, columns):
            sources = tuple(slots[name] for name in step.inputs)
            kernels = self._kernels[step.output]
            outputs = _outputs(step, kernels[-1])
            function = _composed([kernel.scalar for kernel in kernels])
            operations.append(_Operation(function, sources, size, kernels[-1].suffixes is not None))
            slots.update({output: size + offset for offset, output in enumerate(outputs)})
            size += len(outputs)
        return _program(operations, [slots[output] for output, _ in self._layout(names)], names)

    def inverse(self, name: str, values: Sequence[int | None] | np.ndarray) -> list[Any]:
        """The values that codes of a column encoded by `label_encoder` stand for; None for -1 and null.

        Raises:
            NotFound: the column's last function is not `label_encoder`.
            InvalidData: a code that was never given out.
        """
        step = next((step for step in self.plan.steps if step.output == name), None)
        if step is None or step.functions[-1].name != "label_encoder" or name not in self.state:
            encoded = [s.output for s in self.plan.steps if s.functions[-1].name == "label_encoder"]
            raise NotFound(f"{name!r} is not encoded by label_encoder (encoded are: {', '.join(encoded) or 'none'}).")
        dtype = self._input_types[name][-1][0]
        categories = [_from_json(category, dtype) for category in self.state[name][-1]["categories"]]
        decoded: list[Any] = []
        for code in values:
            if code is None or code != code or code == -1:
                decoded.append(None)
            elif 0 <= code < len(categories) and int(code) == code:
                decoded.append(categories[int(code)])
            else:
                raise InvalidData(f"{code!r} is no code of {name!r}: expected -1 to {len(categories) - 1}.")
        return decoded

    @cached_property
    def _fitted(self) -> tuple[dict[str, list[Kernel]], dict[str, list[tuple[pa.DataType, ...]]]]:
        """Kernels of each step, and the types each of them reads, by output name."""
        types = {name: parse_dtype(dtype, name) for name, dtype in self.plan.columns}
        kernels: dict[str, list[Kernel]] = {}
        read: dict[str, list[tuple[pa.DataType, ...]]] = {}
        for step in self.plan.steps:
            if step.output not in self.state:  # a label that the training split came without
                continue
            current = tuple(types[name] for name in step.inputs)
            kernels[step.output], read[step.output] = [], []
            for function, state in zip(step.functions, self.state[step.output], strict=True):
                read[step.output].append(current)
                kernel = function.method.kernel(state, current)
                kernels[step.output].append(kernel)
                current = kernel.types
            types.update(zip(_outputs(step, kernel), current, strict=True))
        return kernels, read

    @property
    def _kernels(self) -> dict[str, list[Kernel]]:
        return self._fitted[0]

    @property
    def _input_types(self) -> dict[str, list[tuple[pa.DataType, ...]]]:
        return self._fitted[1]

    def _layout(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """Output columns in order, each with the input column or new output it stands for."""
        steps = {step.output: step for step in _runnable(self.plan, set(names)) if step.output in self._kernels}
        key_of = {output: key for key, step in steps.items() for output in _outputs(step, self._kernels[key][-1])}
        order, added = list(names), set()
        for step in steps.values():
            if step.output not in order:
                behind = 1 + max(order.index(name if name in order else key_of[name]) for name in step.inputs)
                while behind < len(order) and order[behind] in added:
                    behind += 1
                order.insert(behind, step.output)
                added.add(step.output)
        dropped = {column for step in steps.values() for column in step.drop}
        layout: list[tuple[str, str]] = []
        origin: dict[str, str] = {}
        for key in order:
            if key in dropped:
                continue
            made_by = steps.get(key)
            what = "a column of the view" if made_by is None else f"a result of {made_by}"
            for output in [key] if made_by is None else _outputs(made_by, self._kernels[key][-1]):
                if output in origin:
                    raise SchemaMismatch(_clash(output, what, origin[output]))
                origin[output] = what
                layout.append((output, key))
        return layout

    def _schema(self, schema: pa.Schema) -> pa.Schema:
        made = {
            output: dtype
            for step in self.plan.steps
            if step.output in self._kernels
            for kernel in self._kernels[step.output][-1:]
            for output, dtype in zip(_outputs(step, kernel), kernel.types, strict=True)
        }
        replaced = {step.output for step in self.plan.steps}
        return pa.schema(
            [
                pa.field(output, made[output]) if key in replaced else schema.field(output)
                for output, key in self._layout(schema.names)
            ]
        )


def _columns(names: Sequence[str], plan: TransformationPlan) -> set[str]:
    return set(names).intersection(name for name, _ in plan.columns)


def _needed(steps: Sequence[Step]) -> set[str]:
    return {name for step in steps for name in step.inputs}


def _writes_label(step: Step, plan: TransformationPlan) -> bool:
    return step.output in plan.labels


def _runnable(plan: TransformationPlan, names: set[str]) -> list[Step]:
    """The steps without those of labels that are not there."""
    return [step for step in plan.steps if not _writes_label(step, plan) or step.output in names]


def _check_present(plan: TransformationPlan, names: set[str]) -> None:
    declared = {name for name, _ in plan.columns}
    for step in _runnable(plan, names):
        for name in step.inputs:
            if name in declared and name not in names:
                listed = ", ".join(sorted(names)) or "none"
                raise SchemaMismatch(
                    f"{step} reads the column {name!r}, which is missing (of the view's there are: {listed})."
                )


def _declared(table: pa.Table, name: str, plan: TransformationPlan) -> pa.ChunkedArray:
    """A column in its declared type; other spellings of the type (large or dictionary-encoded text) are cast."""
    column = table.column(name)
    declared = parse_dtype(dict(plan.columns)[name], name)
    if column.type == declared:
        return column
    if parse_dtype(column.type, name) != declared:
        raise SchemaMismatch(
            f"Column {name!r} is {column.type}, but the transformations were declared for {spell_dtype(declared)}. "
            "Pass the view's own data, or create the view's next version."
        )
    return column.cast(declared)


def _outputs(step: Step, kernel: Kernel) -> list[str]:
    return [step.output] if kernel.suffixes is None else [f"{step.output}_{suffix}" for suffix in kernel.suffixes]


def _named(step: Step, fit: Callable[..., State], *arguments: Any) -> State:
    try:
        return fit(*arguments)
    except InvalidData as error:
        raise InvalidData(f"{step}: {error}") from error


def _composed(functions: list[Callable[..., Any]]) -> Callable[..., Any]:
    first, *rest = functions
    if not rest:
        return first
    if len(rest) == 1:
        second = rest[0]
        return lambda *values: second(first(*values))

    def chain(*values: Any) -> Any:
        value = first(*values)
        for function in rest:
            value = function(value)
        return value

    return chain


class _Operation(NamedTuple):
    """One step over slots: a row's values first, behind them what the steps gave."""

    function: Callable[..., Any]
    sources: tuple[int, ...]
    target: int
    is_several: bool


def _program(operations: list[_Operation], order: list[int], names: list[str]) -> Callable[[Sequence[Any]], list[Any]]:
    """A function that fills the slots and picks the outputs from them."""
    expected = len(names)

    def slots_of(row: Sequence[Any]) -> list[Any]:
        slots = list(row)
        if len(slots) != expected:
            raise InvalidData(f"The row has {len(slots)} values, expected {expected}: {', '.join(names)}.")
        return slots

    # Where each step replaces the one value it reads, which is the usual view, the slots are already the outputs.
    replaced = {op.target: op.sources[0] for op in operations if len(op.sources) == 1 and not op.is_several}
    in_place = len(replaced) == len(operations) and set(replaced) <= set(order)
    if in_place and [replaced.get(slot, slot) for slot in order] == list(range(expected)):
        steps = [(op.function, op.sources[0]) for op in operations]

        def replace_values(row: Sequence[Any]) -> list[Any]:
            slots = slots_of(row)
            for function, position in steps:
                slots[position] = function(slots[position])
            return slots

        return replace_values

    def run(row: Sequence[Any]) -> list[Any]:
        slots = slots_of(row)
        for function, sources, _, is_several in operations:
            result = function(slots[sources[0]]) if len(sources) == 1 else function(*[slots[s] for s in sources])
            if is_several:
                slots.extend(result)
            else:
                slots.append(result)
        return [slots[position] for position in order]

    return run
