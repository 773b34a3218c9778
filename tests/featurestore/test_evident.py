"""What is said to be kept without Great Expectations, Great Expectations says too, in the same words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore import evident, validation

START = datetime(2026, 1, 1, tzinfo=UTC)
EDGES = [0, 1, -1, 2**53, 2**53 + 1, -(2**63), 2**63 - 1]
INTEGERS = st.sampled_from(EDGES) | st.integers(-3, 3)
FLOATS = st.sampled_from([0.0, -0.0, 0.1, 1.0, 2.0**53, float("inf"), float("-inf"), float("nan")]) | st.floats(-3, 3)
TIMES = st.integers(-2, 2).map(lambda hours: START + timedelta(hours=hours))
VALUES = {
    pa.int64(): INTEGERS,
    pa.int32(): st.integers(-3, 3),
    pa.float64(): FLOATS,
    pa.float32(): st.floats(-3, 3, width=32),
    pa.string(): st.sampled_from(["", "a", "b", "nan", "1"]),
    pa.bool_(): st.booleans(),
    pa.timestamp("us", tz="UTC"): TIMES,
    pa.decimal128(10, 2): st.decimals(-3, 3, places=2),
}
LIMITS = st.none() | INTEGERS | st.floats(-3, 3) | st.sampled_from([True, "0", "2026-01-01"])
SETS = st.lists(st.sampled_from(["", "a", "b", 0, 1, 2.0, True]), min_size=1, max_size=4)


@st.composite
def batches(draw: st.DrawFn) -> pa.Table:
    size = draw(st.integers(1, 6))
    dtype = draw(st.sampled_from(list(VALUES)))
    other = draw(st.sampled_from([dtype, dtype, pa.int64()]))

    def column(of: pa.DataType) -> pa.Array:
        missing = draw(st.sampled_from([False, False, True]))
        values = VALUES[of] | st.none() if missing else VALUES[of]
        return pa.array(draw(st.lists(values, min_size=size, max_size=size)), of)

    return pa.table({"a": column(dtype), "b": column(other)})


@st.composite
def rules(draw: st.DrawFn) -> dict[str, object]:
    kind = draw(st.sampled_from(["not_be_null", "be_between", "be_in_set", "be_unique", "pair"]))
    kwargs: dict[str, object] = {"column": "a"}
    if kind == "be_between":
        kwargs |= {"min_value": draw(LIMITS), "max_value": draw(LIMITS)}
    if kind == "be_in_set":
        kwargs["value_set"] = draw(SETS)
    if kind == "pair":
        kwargs = {"column_A": "a", "column_B": "b"} | draw(st.sampled_from([{}, {"or_equal": True}]))
    spelled = "column_pair_values_a_to_be_greater_than_b" if kind == "pair" else f"column_values_to_{kind}"
    return {"type": f"expect_{spelled}", "kwargs": kwargs, "severity": "critical"}


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(batches(), st.lists(rules(), min_size=4, max_size=4))
def test_what_is_evidently_kept_is_kept_by_great_expectations_in_the_same_words(
    rows: pa.Table, wanted: list[dict[str, object]]
) -> None:
    kept = [rule for rule in wanted if evident.is_kept(rows, rule["type"], rule["kwargs"])]  # type: ignore[arg-type]
    if not kept:
        return
    suite = validation.normalise({"name": "rules", "expectations": kept})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evident, "is_kept", lambda *_: False)
        theirs = validation.check(rows, suite)
    assert validation.check(rows, suite).to_json() == theirs.to_json()


@pytest.mark.parametrize(
    ("values", "kind", "kwargs"),
    [
        ([1, 2], "not_be_null", {}),
        ([1.5, None], "be_between", {"min_value": 1}),
        ([1, 2], "be_between", {"min_value": 1, "max_value": 2}),
        (["a", None, "b"], "be_in_set", {"value_set": ["a", "b"]}),
        ([0, 1, None], "be_in_set", {"value_set": [0, 1]}),
        (["a", "b"], "be_unique", {}),
    ],
)
def test_the_usual_rules_are_seen_at_once(values: list[object], kind: str, kwargs: dict[str, object]) -> None:
    rows = pa.table({"a": values})
    assert evident.is_kept(rows, f"expect_column_values_to_{kind}", {"column": "a", **kwargs})


@pytest.mark.parametrize(
    ("values", "kind", "kwargs"),
    [
        ([1, None], "not_be_null", {}),
        ([float("nan")], "not_be_null", {}),
        ([0.5], "be_between", {"min_value": 1}),
        ([None, None], "be_between", {"min_value": 2, "max_value": 1}),
        (["c"], "be_in_set", {"value_set": ["a"]}),
        (["a", "a"], "be_unique", {}),
        ([5], "be_between", {"min_value": 1, "strict_min": True}),
        ([5], "be_between", {"min_value": 1, "mostly": 0.5}),
        ([5], "be_between", {"min_value": 1, "row_condition": "a > 3"}),
        ([5], "match_regex", {"regex": "5"}),
    ],
)
def test_what_is_broken_or_unusual_is_left_to_great_expectations(
    values: list[object], kind: str, kwargs: dict[str, object]
) -> None:
    rows = pa.table({"a": pa.array(values, pa.float64() if values == [None, None] else None)})
    assert not evident.is_kept(rows, f"expect_column_values_to_{kind}", {"column": "a", **kwargs})
