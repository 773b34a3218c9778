from __future__ import annotations

import itertools
import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.schema import TIMESTAMP
from featurestore.statistics import summarise

KEYS = {
    "kind", "count", "null_count", "completeness", "distinct_count", "infinite_count", "min", "max", "mean", "std_dev",
    "percentiles", "histogram", "top_values", "min_length", "max_length", "mean_length",
}  # fmt: skip


def of(values: list[object], dtype: pa.DataType) -> dict:
    summary = summarise(pa.table({"x": pa.array(values, dtype)}))["x"]
    assert summary.keys() == KEYS
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    return summary


def test_numbers_worked_by_hand():
    summary = of([4.0, None, 1.0, 1.0, 2.0], pa.float64())
    assert (summary["kind"], summary["count"], summary["null_count"], summary["completeness"]) == ("number", 4, 1, 0.8)
    assert (summary["min"], summary["max"], summary["mean"], summary["distinct_count"]) == (1.0, 4.0, 2.0, 3)
    assert summary["std_dev"] == pytest.approx(math.sqrt((4 + 1 + 1 + 0) / 4))
    # the median lies half way between the 2nd and the 3rd of 1, 1, 2, 4; the 90th at 0.9 * 3 = 2.7
    assert summary["percentiles"][49] == 1.5
    assert summary["percentiles"][89] == pytest.approx(2 + 0.7 * 2)
    assert summary["top_values"] == [
        {"value": 1.0, "count": 2}, {"value": 2.0, "count": 1}, {"value": 4.0, "count": 1},
    ]  # fmt: skip
    assert len(summary["histogram"]["edges"]) == 21
    assert summary["histogram"]["edges"][0] == 1.0
    assert summary["histogram"]["edges"][-1] == 4.0
    assert summary["histogram"]["counts"][0] == 2
    assert sum(summary["histogram"]["counts"]) == 4


def test_integers_stay_integers_at_both_ends():
    summary = of([-(2**63), 2**63 - 1, None], pa.int64())
    assert (summary["min"], summary["max"]) == (-(2**63), 2**63 - 1)
    assert summary["percentiles"][49] == pytest.approx(0, abs=2048)
    assert summary["histogram"]["counts"] == [1, *[0] * 18, 1]


def test_a_constant_has_no_deviation_and_one_bin():
    summary = of([0.1] * 3, pa.float64())
    assert (summary["mean"], summary["std_dev"], summary["percentiles"]) == (0.1, 0.0, [0.1] * 99)
    assert summary["histogram"] == {"edges": [0.1, 0.1], "counts": [3]}


def test_infinities_are_counted_and_otherwise_left_out():
    summary = of([math.inf, -math.inf, math.inf, 1.0, 3.0], pa.float64())
    assert (summary["count"], summary["infinite_count"], summary["distinct_count"]) == (5, 3, 4)
    assert (summary["min"], summary["max"], summary["mean"], summary["std_dev"]) == (1.0, 3.0, 2.0, 1.0)
    only = of([math.inf], pa.float32())
    assert (only["count"], only["infinite_count"], only["distinct_count"], only["mean"]) == (1, 1, 1, None)


def test_a_nan_counts_as_a_null():
    summary = of([math.nan, 1.0, None], pa.float64())
    assert (summary["count"], summary["null_count"], summary["mean"]) == (1, 2, 1.0)


def test_sums_beyond_the_largest_float_stay_finite():
    summary = of([1.7e308, 1.7e308, -1.7e308, 1.6e308], pa.float64())
    assert summary["mean"] == pytest.approx(0.825e308)
    assert summary["std_dev"] < 1.7e308
    assert summary["percentiles"][0] < 0 < summary["percentiles"][98]


def test_zeros_of_both_signs_are_one_value():
    assert of([0.0, -0.0], pa.float64())["distinct_count"] == 1


def test_more_than_fifty_values_list_only_those_that_repeat():
    summary = of([*range(100), 7, 7, 3], pa.int32())
    assert summary["distinct_count"] == 100
    assert summary["top_values"] == [{"value": 7, "count": 3}, {"value": 3, "count": 2}]
    many = of([*range(80), *range(80)], pa.int32())
    assert many["top_values"] == [{"value": value, "count": 2} for value in range(50)]


@pytest.mark.parametrize(
    "dtype", [pa.float64(), pa.int32(), pa.string(), pa.bool_(), TIMESTAMP, pa.date32(), pa.binary()]
)
def test_without_values_only_counts_are_given(dtype):
    for rows in (0, 2):
        summary = of([None] * rows, dtype)
        assert (summary["count"], summary["null_count"], summary["completeness"]) == (0, rows, 0.0 if rows else 1.0)
        assert (summary["distinct_count"], summary["min"], summary["mean"], summary["percentiles"]) == (
            0,
            None,
            None,
            None,
        )


def test_booleans():
    summary = of([True, False, True, True, None], pa.bool_())
    assert (summary["min"], summary["max"], summary["mean"], summary["distinct_count"]) == (False, True, 0.75, 2)
    assert summary["std_dev"] == pytest.approx(math.sqrt(0.75 * 0.25))
    assert summary["top_values"] == [{"value": True, "count": 3}, {"value": False, "count": 1}]
    assert of([True], pa.bool_())["min"] is True
    assert of([False], pa.bool_())["max"] is False


def test_decimals_are_numbers():
    summary = of([Decimal("1.10"), Decimal("2.30")], pa.decimal128(10, 2))
    assert (summary["kind"], summary["min"], summary["mean"]) == ("number", 1.1, pytest.approx(1.7))


def test_times_are_iso_text():
    times = [datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 3, 0, 0, 0, 2, tzinfo=UTC), None]
    summary = of(times, TIMESTAMP)
    assert (summary["kind"], summary["min"], summary["max"], summary["mean"]) == (
        "time", "2026-01-01T00:00:00.000000Z", "2026-01-03T00:00:00.000002Z", "2026-01-02T00:00:00.000001Z",
    )  # fmt: skip
    assert summary["std_dev"] == pytest.approx(86_400)
    assert summary["percentiles"][49] == "2026-01-02T00:00:00.000001Z"
    assert summary["top_values"][0] == {"value": "2026-01-01T00:00:00.000000Z", "count": 1}
    days = of([date(1, 1, 1), date(9999, 12, 31), date(1, 1, 1)], pa.date32())
    assert (days["min"], days["max"], days["top_values"][0]) == (
        "0001-01-01", "9999-12-31", {"value": "0001-01-01", "count": 2},
    )  # fmt: skip


def test_text_has_lengths_and_top_values():
    summary = of(["é", "bb", "bb", None, "", "x" * 300, "x" * 300], pa.string())
    assert (summary["min_length"], summary["max_length"], summary["mean_length"]) == (0, 300, pytest.approx(605 / 6))
    assert summary["distinct_count"] == 4
    assert summary["top_values"] == [
        {"value": "bb", "count": 2}, {"value": "", "count": 1}, {"value": "é", "count": 1},
    ]  # fmt: skip
    ids = of([f"id{i}" for i in range(200)] + ["id7"], pa.string())
    assert ids["top_values"] == [{"value": "id7", "count": 2}]
    tied = of([f"{i:02d}" for i in range(60)] * 2, pa.string())
    assert [entry["value"] for entry in tied["top_values"]] == [f"{i:02d}" for i in range(50)]


def test_bytes_and_nested_columns_are_counted():
    raw = of([b"a", b"bcd", b"a", None], pa.binary())
    assert (raw["kind"], raw["distinct_count"], raw["max_length"], raw["top_values"]) == ("binary", 2, 3, None)
    nested = of([[1], None, []], pa.list_(pa.int32()))
    assert (nested["kind"], nested["count"], nested["null_count"], nested["distinct_count"]) == ("nested", 2, 1, None)


def test_chunks_do_not_matter():
    whole = pa.table({"x": [3, None, 1, 2, 2], "y": ["a", "b", None, "a", "c"]})
    assert summarise(pa.concat_tables([whole.slice(0, 2), whole.slice(2)])) == summarise(whole)


FINITE = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e100, max_value=1e100)


@settings(deadline=None)
@given(st.lists(FINITE, min_size=1, max_size=200))
def test_numbers_agree_with_pandas_and_numpy(values):
    summary = of(values, pa.float64())
    described = pd.Series(values).describe()
    spread = max(abs(described["min"]), abs(described["max"]), 1e-300)
    assert (summary["count"], summary["min"], summary["max"]) == (len(values), described["min"], described["max"])
    assert summary["mean"] == pytest.approx(described["mean"], rel=1e-9, abs=1e-12 * spread)
    assert summary["std_dev"] == pytest.approx(np.std(values), rel=1e-9, abs=1e-12 * spread)
    assert summary["percentiles"] == pytest.approx(np.percentile(values, range(1, 100)), rel=1e-12, abs=1e-14 * spread)
    for position, key in ((24, "25%"), (49, "50%"), (74, "75%")):
        assert summary["percentiles"][position] == pytest.approx(described[key], rel=1e-12, abs=1e-14 * spread)


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(width=64)), max_size=120))
def test_laws_for_any_floats(values):
    summary = of(values, pa.float64())
    present = [v for v in values if v is not None and not math.isnan(v)]
    finite = [v for v in present if not math.isinf(v)]
    assert summary["count"] == len(present)
    assert summary["distinct_count"] == len(set(present))
    assert summary["infinite_count"] == len(present) - len(finite)
    if not finite:
        return
    ends = [summary["min"], *summary["percentiles"], summary["max"]]
    assert all(a <= b for a, b in itertools.pairwise(ends))
    assert summary["min"] <= summary["mean"] <= summary["max"]
    edges, counts = summary["histogram"]["edges"], summary["histogram"]["counts"]
    assert all(a < b for a, b in itertools.pairwise(edges)) or len(counts) == 1
    for i, count in enumerate(counts):
        is_last = i == len(counts) - 1
        assert count == sum(edges[i] <= v and (v < edges[i + 1] or is_last) for v in finite)


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(0, 3)), max_size=80), st.randoms())
def test_the_order_of_rows_does_not_matter(values, random):
    before = of(values, pa.int64())
    random.shuffle(values)
    assert of(values, pa.int64()) == before
