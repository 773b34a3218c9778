"""What is in a table, column by column, in numbers that fit in a commit: counts, moments, percentiles, a histogram."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

PERCENTILES = np.arange(1, 100)
HISTOGRAM_BINS = 20
TOP_VALUES = 50  # enough for hours, days of a month and two-letter states to be there completely
LONGEST_TOP_VALUE = 256

_MAYBE = (
    "distinct_count", "infinite_count", "min", "max", "mean", "std_dev", "percentiles", "histogram", "top_values",
    "min_length", "max_length", "mean_length",
)  # fmt: skip

Summary = dict[str, Any]
_Numbers = npt.NDArray[Any]


def summarise(table: pa.Table) -> dict[str, Summary]:
    """A summary of every column, by name, ready for JSON: never a NaN or an infinity.

    Args:
        table: any columns, any order of rows, empty or not. A NaN counts as a null.
    Returns:
        For each column a dict with all of these keys; None where one makes no sense for the type, or without values:
        kind: "number" (ints, floats, decimals), "boolean", "time" (timestamps, dates), "text", "binary" or "nested".
        count, null_count: values and nulls; completeness: count / rows, 1.0 without rows.
        distinct_count: different values; None for lists and structs.
        infinite_count: infinities (numbers only). All that follows describes the finite values.
        min, max, mean, std_dev: of numbers; std_dev is the population's. Of booleans: mean is the share of True. Of
        times: ISO text, std_dev in seconds. Of text and bytes: see the lengths.
        percentiles: the 1st to the 99th, a list of 99, linear interpolation.
        histogram: {"edges": 21, "counts": 20} equal bins [edge, next edge), the last one closed; fewer where floats
        lie too close for 20.
        top_values: [{"value", "count"}], at most 50, most frequent first, ties by value. Of more than 50 different
        values only those that occur twice; text longer than 256 characters is left out.
        min_length, max_length, mean_length: characters of text, bytes of binary.

    >>> summary = summarise(pa.table({"amount": [1.0, 2.0, 2.0, None]}))["amount"]
    >>> [summary[key] for key in ("count", "null_count", "completeness", "min", "max", "top_values")]
    [3, 1, 0.75, 1.0, 2.0, [{'value': 2.0, 'count': 2}, {'value': 1.0, 'count': 1}]]
    """
    return {name: summarise_column(table[name]) for name in table.column_names}


def summarise_column(column: pa.ChunkedArray) -> Summary:
    """The summary of one column; see `summarise`."""
    dtype = column.type
    rows = len(column)
    values = column.drop_null() if column.null_count else column
    if pa.types.is_boolean(dtype):
        found = _of_booleans(values)
    elif pa.types.is_integer(dtype):
        found = _of_numbers(_sorted(values))
    elif pa.types.is_floating(dtype) or pa.types.is_decimal(dtype):
        ordered = _sorted(values.cast(pa.float64()))
        found = _of_numbers(ordered[: np.searchsorted(ordered, np.nan)])  # NaNs are last
    elif pa.types.is_date32(dtype):
        found = _of_times(_sorted(values.cast(pa.int32())).astype(np.int64), unit="D")
    elif pa.types.is_timestamp(dtype):
        found = _of_times(_sorted(values.cast(pa.timestamp("us", dtype.tz), safe=False).cast(pa.int64())), unit="us")
    elif pa.types.is_string(dtype) or pa.types.is_large_string(dtype):
        found = _of_text(values)
    elif pa.types.is_binary(dtype):
        found = {"kind": "binary", "count": len(values), "distinct_count": pc.count_distinct(values).as_py()}
        found |= _lengths(pc.binary_length(values))
    else:
        found = {"kind": "nested", "count": len(values)}
    count = found["count"]
    return {
        "kind": found.pop("kind"),
        "count": count,
        "null_count": rows - count,
        "completeness": count / rows if rows else 1.0,
        **dict.fromkeys(_MAYBE),
        **found,
    }  # fmt: skip


def _sorted(values: pa.ChunkedArray) -> _Numbers:
    return np.sort(values.to_numpy())


def _of_numbers(ordered: _Numbers) -> Summary:
    finite, infinities = ordered, 0
    if ordered.dtype.kind == "f":
        start, end = np.searchsorted(ordered, -np.inf, side="right"), np.searchsorted(ordered, np.inf, side="left")
        finite, infinities = ordered[start:end], int(start > 0) + int(end < len(ordered))
    distinct, top = _runs(finite)
    summary: Summary = {
        "kind": "number",
        "count": len(ordered),
        "distinct_count": distinct + infinities,
        "infinite_count": len(ordered) - len(finite),
        "top_values": top,
    }
    if not len(finite):
        return summary
    lowest, highest = finite[0], finite[-1]
    mean, deviation = _moments(finite)
    return summary | {
        "min": lowest.item(),
        "max": highest.item(),
        "mean": mean,
        "std_dev": deviation,
        "percentiles": _percentiles(finite).tolist(),
        "histogram": _histogram(finite),
    }


def _of_booleans(values: pa.ChunkedArray) -> Summary:
    count = len(values)
    true = int(pc.sum(values).as_py() or 0)
    counts = sorted([(count - true, False), (true, True)], key=lambda pair: (-pair[0], pair[1]))
    share = true / count if count else None
    return {
        "kind": "boolean",
        "count": count,
        "distinct_count": sum(n > 0 for n, _ in counts),
        "min": true == count if count else None,
        "max": true > 0 if count else None,
        "mean": share,
        "std_dev": None if share is None else (share * (1 - share)) ** 0.5,
        "top_values": [{"value": value, "count": n} for n, value in counts if n],
    }


def _of_times(ordered: _Numbers, *, unit: str) -> Summary:
    def iso(times: _Numbers) -> list[str]:
        stamps = times.astype(np.int64).astype(f"datetime64[{unit}]")
        return np.datetime_as_string(stamps, timezone="UTC" if unit == "us" else "naive").tolist()

    distinct, top = _runs(ordered)
    summary: Summary = {"kind": "time", "count": len(ordered), "distinct_count": distinct}
    texts = iso(np.array([entry["value"] for entry in top], dtype=np.int64))
    summary["top_values"] = [{**entry, "value": text} for entry, text in zip(top, texts, strict=True)]
    if not len(ordered):
        return summary
    since_first = ordered - ordered[0]  # small numbers: floats hold them exactly
    mean, deviation = _moments(since_first)
    histogram = _histogram(since_first)
    lowest, middle, highest = iso(ordered[0] + np.array([0, round(mean), since_first[-1]]))
    return summary | {
        "min": lowest,
        "max": highest,
        "mean": middle,
        "std_dev": deviation * (86_400 if unit == "D" else 1e-6),
        "percentiles": iso(ordered[0] + np.floor(_percentiles(since_first)).astype(np.int64)),
        "histogram": {**histogram, "edges": iso(ordered[0] + np.floor(histogram["edges"]).astype(np.int64))},
    }


def _of_text(values: pa.ChunkedArray) -> Summary:
    counted = pc.value_counts(values.combine_chunks())
    texts, counts = counted.field("values"), counted.field("counts").to_numpy()
    is_short = pc.utf8_length(texts).to_numpy(zero_copy_only=False) <= LONGEST_TOP_VALUE
    is_listed = is_short & ((counts > 1) | (len(counts) <= TOP_VALUES))
    least = np.sort(counts[is_listed])[-TOP_VALUES:][:1]  # ties at this count are settled by value, below
    candidates = np.flatnonzero(is_listed & (counts >= (least[0] if len(least) else 0)))
    pairs = sorted(
        zip(texts.take(candidates).to_pylist(), counts[candidates].tolist(), strict=True), key=_most_frequent
    )
    return {
        "kind": "text",
        "count": len(values),
        "distinct_count": len(counts),
        "top_values": [{"value": value, "count": count} for value, count in pairs[:TOP_VALUES]],
        **_lengths(pc.utf8_length(values)),
    }


def _most_frequent(pair: tuple[str, int]) -> tuple[int, str]:
    return -pair[1], pair[0]


def _lengths(lengths: pa.ChunkedArray) -> Summary:
    bounds = pc.min_max(lengths).as_py()
    return {"min_length": bounds["min"], "max_length": bounds["max"], "mean_length": pc.mean(lengths).as_py()}


def _runs(ordered: _Numbers) -> tuple[int, list[dict[str, Any]]]:
    """How many different values there are, and the most frequent ones, of values in order."""
    is_first = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    distinct = int(np.count_nonzero(is_first))
    if distinct == len(ordered) and distinct > TOP_VALUES:
        return distinct, []
    starts = np.flatnonzero(is_first)
    counts = np.diff(starts, append=len(ordered))
    if distinct > TOP_VALUES:
        repeated = np.flatnonzero(counts > 1)
        if len(repeated) > TOP_VALUES:
            least = np.partition(counts[repeated], -TOP_VALUES)[-TOP_VALUES]
            repeated = repeated[counts[repeated] >= least]
        starts, counts = starts[repeated], counts[repeated]
    order = np.argsort(-counts, kind="stable")[:TOP_VALUES]
    values = ordered[starts[order]].tolist()
    return distinct, [{"value": v, "count": n} for v, n in zip(values, counts[order].tolist(), strict=True)]


def _moments(ordered: _Numbers) -> tuple[float, float]:
    """Mean and population standard deviation of finite values in order; exact for a constant, never infinite."""
    lowest, highest = float(ordered[0]), float(ordered[-1])
    if ordered[0] == ordered[-1]:
        return lowest, 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = float(np.mean(ordered, dtype=np.float64)), float(np.std(ordered, dtype=np.float64))
    if not np.isfinite(deviation) or not np.isfinite(
        mean
    ):  # sums left the range of floats: count in units of the largest
        unit = max(-lowest, highest)
        scaled = ordered / unit
        mean, deviation = float(np.mean(scaled)) * unit, float(np.std(scaled)) * unit
    return min(max(mean, lowest), highest), deviation


def _percentiles(ordered: _Numbers) -> npt.NDArray[np.float64]:
    position = PERCENTILES / 100 * (len(ordered) - 1)
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, len(ordered) - 1)
    return _between(ordered[below].astype(np.float64), ordered[above].astype(np.float64), position - below)


def _between(
    low: npt.NDArray[np.float64] | float, high: npt.NDArray[np.float64] | float, share: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Linear interpolation that neither overflows nor leaves [low, high]."""
    with np.errstate(over="ignore", invalid="ignore"):
        usual = low + (np.asarray(high) - low) * share
    wide = low * (1 - share) + high * share  # for distances beyond the largest float
    return np.clip(np.where(np.isfinite(usual), usual, wide), low, high)


def _histogram(ordered: _Numbers) -> dict[str, list[Any]]:
    lowest, highest = float(ordered[0]), float(ordered[-1])
    if lowest == highest:
        return {"edges": [lowest, highest], "counts": [len(ordered)]}
    edges = np.unique(_between(lowest, highest, np.linspace(0, 1, HISTOGRAM_BINS + 1)))
    inner = np.searchsorted(ordered, edges[1:-1], side="left")
    counts = np.diff(np.concatenate(([0], inner, [len(ordered)])))
    return {"edges": edges.tolist(), "counts": counts.tolist()}
