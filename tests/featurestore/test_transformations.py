import json
import math
import struct
import subprocess
import sys
import textwrap
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from featurestore import transformations as tf
from featurestore.errors import InvalidData, NotFound, NotReproducible, SchemaMismatch
from featurestore.schema import TIMESTAMP, Feature
from featurestore.transformation_plan import FittedTransformations, TransformationPlan
from featurestore.transformation_spec import parse
from featurestore.transformations import (
    BUILT_INS,
    TransformationFunction,
    equal_frequency_binner,
    equal_width_binner,
    get,
    impute_category,
    impute_constant,
    impute_mean,
    impute_median,
    impute_mode,
    label_encoder,
    log_transform,
    min_max_scaler,
    one_hot_encoder,
    quantile_binner,
    quantile_transformer,
    rank_normalizer,
    robust_scaler,
    standard_scaler,
    top_k_categorical_binner,
    udf,
    winsorize,
)

INF = math.inf
NUMERIC = [
    min_max_scaler, standard_scaler, robust_scaler, log_transform, log_transform(offset=1), winsorize,
    winsorize(p_low=10, p_high=60.5), quantile_transformer, rank_normalizer, equal_width_binner,
    equal_width_binner(n_bins=3), equal_frequency_binner, quantile_binner, quantile_binner(quantiles=[0.1, 0.9]),
    impute_mean, impute_median,
]  # fmt: skip
CATEGORICAL = [label_encoder, one_hot_encoder, top_k_categorical_binner(top_n=2), impute_mode]


def fit_one(function, values, dtype="double", column="x"):
    feature = Feature(column, dtype)
    table = pa.table({column: pa.array(values, feature.type)})
    return parse({column: function}, [feature]).fit(table)


def apply_one(function, train, values, dtype="double"):
    feature = Feature("x", dtype)
    fitted = fit_one(function, train, dtype)
    result = fitted.transform(pa.table({"x": pa.array(values, feature.type)}))
    assert result.schema.names == ["x"]
    return result.column(0).to_pylist()


def bits(value):
    """The value with its type; floats by their bits, so that 0.0 is not -0.0 and 1 is not 1.0."""
    return struct.pack("<d", value) if isinstance(value, float) else (type(value).__name__, value)


def assert_one_row_equals_its_batch_row(fitted, table):
    """The law of V10: whatever a frame gives, the compiled function gives for the row alone, to the bit."""
    names = table.schema.names
    batch = fitted.transform(table)
    one = fitted.compile(names)
    assert batch.schema.names == fitted.output_names_for(names)
    columns = [table.column(name).to_pylist() for name in names]
    expected = list(zip(*[batch.column(i).to_pylist() for i in range(batch.num_columns)], strict=True))
    for row, wanted in zip(zip(*columns, strict=True), expected, strict=False):
        got = one(row)
        assert [bits(v) for v in got] == [bits(v) for v in wanted], (row, got, wanted)


# --- V10: no skew -----------------------------------------------------------------------------------------------------

extremes = st.sampled_from(
    [0.0, -0.0, INF, -INF, 5e-324, -5e-324, 1.7976931348623157e308, -1.7976931348623157e308, 0.1]
)
floats = st.floats(allow_nan=False) | extremes | st.integers(-3, 3).map(float)
singles = st.floats(allow_nan=False, width=32)
whole = st.integers(-(2**63), 2**63 - 1) | st.integers(2**53 - 2, 2**53 + 4) | st.integers(-3, 3)
decimals = st.decimals(-(10**6), 10**6, allow_nan=False, places=3)
NUMBER_TYPES = [("double", floats), ("float", singles), ("bigint", whole), ("decimal(12,3)", decimals)]
NUMBER_TYPES += [("boolean", st.booleans()), ("tinyint", st.integers(-128, 127))]
times = st.datetimes(datetime(1970, 1, 1), datetime(1970, 1, 3), timezones=st.just(UTC))
CATEGORY_TYPES = [
    *NUMBER_TYPES, ("string", st.sampled_from(["", "a", "A", "é", "a b", "Other"])), ("binary", st.binary(max_size=2)),
    ("date", st.dates(date(2020, 1, 1), date(2020, 1, 4))), ("timestamp", times),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "values"), NUMBER_TYPES, ids=[t for t, _ in NUMBER_TYPES])
@pytest.mark.parametrize("function", NUMERIC, ids=repr)
@given(data=st.data())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_row_alone_gets_the_bits_it_gets_in_a_frame_for_numbers(function, dtype, values, data):
    train = data.draw(st.lists(st.none() | values, max_size=12))
    later = data.draw(st.lists(st.none() | values, max_size=6))
    table = pa.table({"x": pa.array(train + later, Feature("x", dtype).type)})
    assert_one_row_equals_its_batch_row(fit_one(function, train, dtype), table)


@pytest.mark.parametrize(("dtype", "values"), CATEGORY_TYPES, ids=[t for t, _ in CATEGORY_TYPES])
@pytest.mark.parametrize("function", CATEGORICAL, ids=repr)
@given(data=st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_row_alone_gets_the_bits_it_gets_in_a_frame_for_categories(function, dtype, values, data):
    train = data.draw(st.lists(st.none() | values, max_size=8))
    later = data.draw(st.lists(st.none() | values, max_size=4))
    table = pa.table({"x": pa.array(train + later, Feature("x", dtype).type)})
    assert_one_row_equals_its_batch_row(fit_one(function, train, dtype), table)


@pytest.mark.parametrize(
    ("function", "dtype", "values"),
    [
        (impute_constant(value=1.5), "double", [None, math.nan, -0.0, INF]),
        (impute_constant(value=0.1), "float", [None, 2.5]),
        (impute_constant(value=2**62 + 1), "bigint", [None, 2**62 + 3]),
        (impute_constant(value=2.0), "int", [None, 7]),
        (impute_constant(value=True), "boolean", [None, False]),
        (impute_constant(value=0.25), "decimal(6,2)", [None, Decimal("1.10")]),
        (impute_constant(value="?"), "string", [None, ""]),
        (impute_category, "string", [None, ""]),
        (impute_category(value="none"), "string", [None, "x"]),
        (impute_mode, "string", [None, "x"]),
    ],
)  # fmt: skip
def test_filled_values_keep_the_columns_type_and_agree_for_a_row(function, dtype, values):
    fitted = fit_one(function, values, dtype)
    table = pa.table({"x": pa.array(values, Feature("x", dtype).type)})
    assert_one_row_equals_its_batch_row(fitted, table)
    assert fitted.transform(table).schema.field("x").type == Feature("x", dtype).type
    assert fitted.transform(table).column("x").null_count == 0


@given(st.lists(st.floats(0, 1e300), min_size=1, max_size=50))
@settings(max_examples=100, deadline=None)
def test_logarithms_of_arrow_and_of_python_are_the_same_bits(values):
    fitted = fit_one(log_transform, [1.0])
    one = fitted.compile(["x"])
    batch = fitted.transform(pa.table({"x": values})).column(0).to_pylist()
    assert [one([v])[0] for v in values] == batch
    assert batch == [math.log(v) if v > 0 else None for v in values]


@given(st.lists(st.tuples(st.none() | floats, st.none() | floats, st.sampled_from(["a", "b", None])), min_size=1))
@settings(max_examples=50, deadline=None)
def test_a_whole_view_gives_the_same_bits_row_by_row(rows):
    amount, limit, city = (list(column) for column in zip(*rows, strict=True))
    table = pa.table({
        "amount": pa.array(amount, pa.float64()), "limit": pa.array(limit, pa.float64()),
        "city": pa.array(city, pa.string()), "untouched": pa.array(range(len(rows))),
    })  # fmt: skip
    features = [Feature(f.name, f.type) for f in table.schema]
    spec = {
        "amount": [impute_median, winsorize, standard_scaler],
        "log_limit": [log_transform("limit"), impute_mean],
        "city": [impute_category, one_hot_encoder],
    }
    fitted = parse(spec, features).fit(table)
    assert fitted.output_names[:3] == ["amount", "limit", "log_limit"]
    assert_one_row_equals_its_batch_row(fitted, table)


def test_nan_is_a_null_everywhere():
    table = pa.table({"x": [1.0, math.nan, 3.0]})
    for function in [*NUMERIC, *CATEGORICAL]:
        fitted = parse({"x": function}, [Feature("x", "double")]).fit(table)
        without = parse({"x": function}, [Feature("x", "double")]).fit(pa.table({"x": pa.array([1.0, None, 3.0])}))
        assert fitted.state == without.state
        assert fitted.compile(["x"])([math.nan]) == fitted.compile(["x"])([None])
        assert fitted.transform(table).slice(1, 1) == without.transform(table).slice(1, 1)


@pytest.mark.parametrize("function", [*NUMERIC, *CATEGORICAL], ids=repr)
def test_no_function_ever_returns_nan(function):
    train = [None, -1.7e308, 1.7e308, 0.0, INF, -INF]
    result = fit_one(function, train).transform(pa.table({"x": pa.array([*train, math.nan])}))
    for column in result.columns:
        assert not any(isinstance(v, float) and math.isnan(v) for v in column.to_pylist())


# --- V6: fitted on what it is given -----------------------------------------------------------------------------------


@given(st.lists(st.none() | floats, max_size=30), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_of_training_rows_changes_no_fitted_bit(values, random):
    """V6: sums are exact, so the order of rows is nowhere in them."""
    shuffled = list(values)
    random.shuffle(shuffled)
    for function in [min_max_scaler, standard_scaler, robust_scaler, quantile_transformer, impute_mean, label_encoder]:
        assert json.dumps(fit_one(function, values).state) == json.dumps(fit_one(function, shuffled).state)


def test_other_rows_change_nothing_and_the_plan_keeps_nothing():
    """V6: fitted on what it is given, and on nothing else."""
    plan = parse({"x": standard_scaler}, [Feature("x", "double")])
    train = pa.table({"x": [1.0, 3.0]})
    before = plan.fit(train).state
    plan.fit(pa.table({"x": [100.0, 300.0]}))
    assert plan.fit(train).state == before == {"x": [{"mean": 2.0, "std": 1.0}]}


@given(st.lists(st.floats(-1e308, 1e308), min_size=2, max_size=40))
@example([1e308, -1e308])
@example([5e-324, 0.0])
@settings(max_examples=150, deadline=None)
def test_min_max_puts_every_finite_training_value_into_zero_to_one(values):
    scaled = apply_one(min_max_scaler, values, values)
    assert all(0 <= value <= 1 for value in scaled)
    if min(values) != max(values):
        assert (min(scaled), max(scaled)) == (0, 1)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
@settings(max_examples=150, deadline=None)
def test_percentiles_and_moments_are_those_of_numpy(values):
    state = fit_one(standard_scaler, values).state["x"][0]
    assert state["mean"] == pytest.approx(np.mean(values), rel=1e-12, abs=1e-9)
    assert state["std"] == pytest.approx(np.std(values), rel=1e-9, abs=1e-6)
    percentiles = fit_one(quantile_transformer, values).state["x"][0]["percentiles"]
    assert percentiles == pytest.approx(np.percentile(values, range(101)).tolist(), rel=1e-12, abs=1e-9)


def test_the_mean_and_deviation_of_extreme_values_do_not_overflow():
    state = fit_one(standard_scaler, [1e308, 1.6e308]).state["x"][0]
    assert state["mean"] == pytest.approx(1.3e308)
    assert state["std"] == pytest.approx(3e307)
    assert fit_one(standard_scaler, [0.1, 0.1, 0.1]).state["x"][0] == {"mean": 0.1, "std": 0.0}


# --- V7: worked examples ----------------------------------------------------------------------------------------------


def test_min_max_scaler_by_hand():
    """V7: min_max_scaler."""
    # min 10, max 20: (12.5 - 10) / 10 = 0.25; outside the training range outside [0, 1]
    assert apply_one(min_max_scaler, [10, None, 20, INF], [12.5, 30, None, INF]) == [0.25, 2.0, None, INF]


def test_standard_scaler_uses_the_population_deviation():
    """V7: standard_scaler."""
    # mean 3, deviations -2 and 2: population std 2 (a sample's would be 2.83)
    assert apply_one(standard_scaler, [1.0, 5.0], [1.0, 3.0, 7.0]) == [-1.0, 0.0, 2.0]


def test_robust_scaler_by_hand():
    """V7: robust_scaler."""
    # 0 10 20 30 40: q1 10, median 20, q3 30
    assert apply_one(robust_scaler, [0, 10, 20, 30, 40], [20, 50, None]) == [0.0, 1.5, None]


def test_robust_scaler_only_centres_where_the_quartiles_are_equal():
    assert apply_one(robust_scaler, [5, 5, 5, 5, 5, 5, 5, 9], [5, 9]) == [0.0, 4.0]


def test_log_transform_gives_null_where_there_is_no_logarithm():
    """V7: log_transform."""
    assert apply_one(log_transform, [1.0], [math.e, 1.0, 0.0, -1.0, None, INF]) == [1.0, 0.0, None, None, None, INF]
    assert apply_one(log_transform(offset=1), [1.0], [0.0, math.e - 1, -1.0]) == [0.0, 1.0, None]


def test_winsorize_clips_to_percentiles():
    """V7: winsorize."""
    # 0..100: percentile p is p
    train = list(range(101))
    assert apply_one(winsorize(p_low=1, p_high=99), train, [-5, 50, 1000, -INF, INF, None]) == [1, 50, 99, 1, 99, None]
    assert apply_one(winsorize(p_low=0, p_high=50), [0, 10], [-1, 3, 9]) == [0, 3, 5]


def test_quantile_transformer_interpolates_between_percentiles():
    """V7: quantile_transformer."""
    # two values: percentile p is p
    assert apply_one(quantile_transformer, [0, 100], [-1, 0, 25.5, 50, 100, 200]) == [0, 0, 0.255, 0.5, 1, 1]


def test_quantile_transformer_puts_equal_percentiles_in_the_middle_of_their_places():
    # 0 0 0 8: percentiles 0..66 are 0, so 0 is at (0 + 66) / 200
    assert apply_one(quantile_transformer, [0, 0, 0, 8], [0, 8]) == [0.33, 1.0]


def test_rank_normalizer_counts_percentiles():
    """V7: rank_normalizer."""
    assert apply_one(rank_normalizer, [0, 100], [-1, 0, 1, 50.5, 99, 100, INF]) == [0, 0, 0.01, 0.5, 0.99, 1, 1]


def test_equal_width_binner_gives_an_edge_to_the_lower_bin():
    """V7: equal_width_binner."""
    # 0..10 in five bins: edges 2 4 6 8
    got = apply_one(equal_width_binner(n_bins=5), [0, 10], [-9, 0, 2, 2.5, 8, 8.5, 99, None, INF, -INF])
    assert got == [0, 0, 0, 1, 3, 4, 4, None, 4, 0]


def test_equal_frequency_binner_cuts_at_quantiles():
    """V7: equal_frequency_binner."""
    # 0 1 2 3 4: quartiles 1 2 3
    assert apply_one(equal_frequency_binner, [0, 1, 2, 3, 4], [0, 1, 1.5, 2.5, 3.5, None]) == [0, 0, 1, 2, 3, None]
    assert apply_one(equal_frequency_binner(n_bins=2), [0, 1, 2], [0.5, 1.5]) == [0, 1]


def test_quantile_binner_merges_equal_edges():
    """V7: quantile_binner."""
    # 0 0 0 0 8: quartiles 0 0 0, one edge
    assert apply_one(quantile_binner, [0, 0, 0, 0, 8], [0, 8]) == [0, 1]
    assert apply_one(quantile_binner(quantiles=[0.5]), [0, 2], [1, 1.5]) == [0, 1]


def test_label_encoder_sorts_and_marks_the_unseen():
    """V7: label_encoder; unseen is -1, null stays null."""
    assert apply_one(label_encoder, ["pear", "apple", None, "apple"], ["apple", "pear", "fig", None], "string") == [
        0, 1, -1, None,
    ]  # fmt: skip
    assert apply_one(label_encoder, [10, 9], [9, 10, 11], "bigint") == [0, 1, -1]


def test_one_hot_columns_are_booleans_named_by_value_in_order():
    """V7: one_hot_encoder; null and unseen are all false."""
    fitted = fit_one(one_hot_encoder, ["b", "a", None], "string", "city")
    result = fitted.transform(pa.table({"city": ["a", "b", "new", None]}))
    assert result.schema == pa.schema([("city_a", pa.bool_()), ("city_b", pa.bool_())])
    assert result.to_pydict() == {"city_a": [True, False, False, False], "city_b": [False, True, False, False]}
    assert fitted.output_schema == result.schema


def test_one_hot_of_numbers_orders_by_number():
    assert fit_one(one_hot_encoder, [10, 9, 1], "int").output_names == ["x_1", "x_9", "x_10"]
    assert fit_one(one_hot_encoder, [True, False], "boolean").output_names == ["x_False", "x_True"]


def test_one_hot_refuses_a_key_like_column():
    with pytest.raises(InvalidData, match=r"one_hot_encoder of 'x'.*1,001 columns.*top_k_categorical_binner"):
        fit_one(one_hot_encoder, list(range(1001)), "int")


def test_top_k_keeps_the_most_frequent_and_the_smallest_of_equals():
    """V7: top_k_categorical_binner."""
    train = ["c", "c", "b", "a", None]
    got = apply_one(top_k_categorical_binner(top_n=2, other_label="rest"), train, ["c", "a", "b", "z", None], "string")
    assert got == ["c", "a", "rest", "rest", None]


def test_imputers_by_hand():
    """V7: impute_mean, impute_median, impute_constant, impute_category and impute_mode."""
    assert apply_one(impute_mean, [1, 2, 6, None], [None, 5], "bigint") == [3.0, 5.0]
    assert apply_one(impute_median, [1, 2, 9, 100], [None, 0.5]) == [5.5, 0.5]
    assert apply_one(impute_mean, [1, INF, 3], [None, -INF]) == [2.0, -INF]
    assert apply_one(impute_mode, ["b", "a", "a", None], [None, "z"], "string") == ["a", "z"]
    assert apply_one(impute_mode, ["b", "a"], [None], "string") == ["a"]
    assert apply_one(impute_constant(value=-1), [1.0], [None, 2.0]) == [-1.0, 2.0]
    assert apply_one(impute_category, ["a"], [None, "b"], "string") == ["__MISSING__", "b"]


@pytest.mark.parametrize("function", NUMERIC[:3] + NUMERIC[8:14], ids=repr)
def test_a_constant_column_gives_zero(function):
    """V7: a constant column is 0."""
    assert apply_one(function, [7.0, None, 7.0], [7.0, 8.0, -1.0, None]) == [0, 0, 0, None]


def test_a_constant_column_is_in_the_middle_of_its_quantiles():
    """V7: of quantile_transformer 0.5."""
    assert apply_one(quantile_transformer, [7.0, 7.0], [7.0, 8.0, None]) == [0.5, 0.5, None]


def test_a_column_without_values_to_learn_from():
    for function in [min_max_scaler, standard_scaler, robust_scaler, quantile_transformer, rank_normalizer,
                     equal_width_binner, quantile_binner]:  # fmt: skip
        assert apply_one(function, [None, INF], [1.0, None]) == [None, None]
    for function in [winsorize, impute_mean, impute_median, impute_mode]:
        assert apply_one(function, [None], [1.0, None]) == [1.0, None]
    assert apply_one(label_encoder, [None], ["a", None], "string") == [-1, None]
    assert fit_one(one_hot_encoder, [None], "string").transform(pa.table({"x": ["a"]})).num_columns == 0
    assert fit_one(standard_scaler, []).compile(["x"])([1.0]) == [None]


def test_whole_numbers_beyond_doubles_round_alike():
    big = 2**53 + 1  # rounds to 2**53
    assert apply_one(winsorize(p_low=0, p_high=100), [0, 2**60], [big], "bigint") == [float(2**53)]
    assert apply_one(label_encoder, [2**53, big], [big, 2**53], "bigint") == [1, 0]


def test_all_eighteen_are_there_and_say_what_they_do():
    """V7: the built-ins of the contract, by name."""
    assert len(BUILT_INS) == 18
    assert all(function.description and get(name) is function for name, function in BUILT_INS.items())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: winsorize(p_low=99, p_high=1), ["winsorize", "p_low=99", "p_low < p_high"]),
        (lambda: winsorize(p_low="1"), ["p_low='1'"]),
        (lambda: winsorize(low=1), ["'low'", "p_low, p_high"]),
        (lambda: min_max_scaler(n=1), ["'n'", "takes none"]),
        (lambda: min_max_scaler("a", "b"), ["one column", "a, b"]),
        (lambda: min_max_scaler(3.0), ["column name", "3.0"]),
        (lambda: equal_width_binner(n_bins=1), ["n_bins=1"]),
        (lambda: equal_width_binner(n_bins=True), ["n_bins=True"]),
        (lambda: quantile_binner(quantiles=[0.5, 0.2]), ["ascending"]),
        (lambda: quantile_binner(quantiles=[]), ["quantiles=[]"]),
        (lambda: top_k_categorical_binner(top_n=0), ["top_n=0"]),
        (lambda: top_k_categorical_binner(other_label=None), ["other_label=None"]),
        (lambda: impute_constant(value=math.nan), ["value=nan"]),
        (lambda: impute_category(value=1), ["value=1"]),
        (lambda: log_transform(offset=INF), ["offset=inf"]),
    ],
)
def test_bad_parameters_are_refused_with_what_was_expected(call, words):
    """V7: parameters by keyword."""
    with pytest.raises(ValueError) as caught:
        call()
    assert isinstance(caught.value, SchemaMismatch)
    assert all(word in str(caught.value) for word in words), caught.value


# --- Plans ------------------------------------------------------------------------------------------------------------

COLUMNS = [
    Feature("amount", "double"),
    Feature("mean", "double"),
    Feature("city", "string"),
    Feature("fraud", "string"),
]


@udf("double", drop=["mean"])
def ratio(amount, mean, smoothing=0.0):
    """Amount over mean."""
    return amount / (mean + smoothing)


@udf("double")
def plus_one(x):
    return x + 1


@udf(["bigint", "string"])
def parts(amount):
    return int(amount), f"{amount:.1f}"


def table_of(**columns):
    return pa.table({name: pa.array(values, pa.float64()) for name, values in columns.items()})


def test_a_chain_runs_in_its_order_and_each_function_learns_from_the_one_before():
    """V7: chains as a list."""
    # median of 1 and 3 fills 2: min 1, max 3
    fitted = fit_one([impute_median, min_max_scaler], [1.0, None, 3.0])
    assert fitted.compile(["x"])([None]) == [0.5]
    assert fitted.state == {"x": [{"value": 2.0}, {"min": 1.0, "max": 3.0}]}


def test_a_list_of_bound_functions_is_the_same_as_a_dict():
    listed = parse([impute_median("amount"), min_max_scaler("amount"), label_encoder("city")], COLUMNS)
    named = parse({"amount": [impute_median, min_max_scaler], "city": label_encoder}, COLUMNS)
    assert [(s.output, s.inputs, [f.name for f in s.functions]) for s in listed.steps] == [
        (s.output, s.inputs, [f.name for f in s.functions]) for s in named.steps
    ]


def test_a_function_reads_what_another_one_made_of_its_input():
    """V7: in dependency order."""
    fitted = parse({"ratio": ratio, "mean": plus_one}, COLUMNS[:2]).fit(table_of(amount=[1.0], mean=[1.0]))
    assert [step.output for step in fitted.plan.steps] == ["mean", "ratio"]
    assert fitted.output_names == ["amount", "ratio"]
    assert fitted.compile(["amount", "mean"])([6.0, 2.0]) == [6.0, 2.0]  # 6 / (2 + 1)


def test_a_new_name_keeps_the_raw_column_and_stands_behind_it():
    spec = {"scaled": min_max_scaler("amount"), "log": log_transform("amount")}
    fitted = parse(spec, COLUMNS[:2]).fit(table_of(amount=[1.0, 3.0], mean=[0.0, 0.0]))
    assert fitted.output_names == ["amount", "scaled", "log", "mean"]
    assert fitted.compile(["amount", "mean"])([1.0, 5.0]) == [1.0, 0.0, 0.0, 5.0]


def test_a_circle_is_refused_by_name():
    """V7: a cycle is an error."""
    with pytest.raises(SchemaMismatch, match="'amount' needs 'mean' needs 'amount'"):
        parse({"amount": plus_one("mean"), "mean": plus_one("amount")}, COLUMNS)


def test_an_unknown_column_is_refused_with_those_there_are():
    for spec in ({"amout": standard_scaler}, [standard_scaler("amout")]):
        with pytest.raises(
            SchemaMismatch, match=r"'amout', which does not exist \(columns: amount, mean, city, fraud\)"
        ):
            parse(spec, COLUMNS)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"city": standard_scaler}, "standard_scaler of 'city': 'city' is string, expected a number"),
        ({"amount": impute_category}, "'amount' is double, expected text"),
        ({"city": [one_hot_encoder, label_encoder]}, "label_encoder follows one_hot_encoder"),
        ({"city": [top_k_categorical_binner, standard_scaler]}, "what top_k_categorical_binner gives is string"),
        ({"amount": impute_constant(value="a")}, "'amount' is double, and the value 'a' is not"),
        ({"city": impute_constant}, "'city' is string, and the value 0.0 is not"),
        ({"amount": []}, "is empty"),
        ({"amount": "standard_scaler"}, "'standard_scaler'"),
        ({"amount": math.sqrt}, "'sqrt', a plain function"),
        ([standard_scaler], "in a list needs its column"),
        ({"amount": [plus_one, ratio]}, "reads 2 columns"),
        ({"amount": [plus_one, plus_one("mean")]}, "bound to another column"),
        ({"leak": label_encoder("fraud")}, "from the label 'fraud'"),
        ({"mean": [parts], "amount": plus_one("mean_0"), "leak": ratio("amount", "fraud")}, "from the label 'fraud'"),
        ({"amount": parts, "amount_0": plus_one("mean")}, "would be called 'amount_0'"),
        ({"city": one_hot_encoder, "mean": plus_one("city")}, "turns into several columns"),
    ],
)
def test_a_plan_that_cannot_work_is_refused_when_it_is_declared(spec, words):
    with pytest.raises(SchemaMismatch) as caught:
        parse(spec, COLUMNS, labels=["fraud"])
    assert words in str(caught.value)


def test_a_one_hot_column_that_exists_already_is_refused_naming_both():
    table = pa.table({"city": ["a"], "city_a": [1.0]})
    plan = parse({"city": one_hot_encoder}, [Feature("city", "string"), Feature("city_a", "double")])
    with pytest.raises(
        SchemaMismatch, match=r"'city_a': a column of the view, and a result of one_hot_encoder of 'city'"
    ):
        plan.fit(table)


def test_lists_and_structs_have_no_categories():
    with pytest.raises(SchemaMismatch, match="array<double>"):
        parse({"x": label_encoder}, [Feature("x", "array<double>")])


@pytest.mark.parametrize(
    "spec",
    [
        {"amount": plus_one, "mean": plus_one("amount")},
        {"amount": plus_one("mean"), "mean": plus_one},
        {"amount": [plus_one, plus_one, plus_one], "city": one_hot_encoder},
        {"mean": ratio("mean", "amount"), "more": plus_one("mean"), "most": plus_one("mean")},
        {"amount": ratio, "city": label_encoder},
    ],
)
def test_however_steps_depend_on_each_other_a_row_is_its_batch_row(spec):
    table = table_of(amount=[1.0, 2.5, None], mean=[3.0, 4.0, 5.0]).append_column("city", [["a", "a", "a"]])
    assert_one_row_equals_its_batch_row(parse(spec, COLUMNS[:3]).fit(table), table)


def test_columns_the_plan_does_not_know_pass_through_in_place():
    plan = parse({"amount": min_max_scaler}, COLUMNS[:1])
    table = pa.table({"tid": [1, 2], "amount": [0.0, 4.0], "when": pa.array([0, 1], TIMESTAMP)})
    result = plan.fit(table).transform(table)
    assert result.schema.names == ["tid", "amount", "when"]
    assert result.column("amount").to_pylist() == [0.0, 1.0]


def test_a_label_is_transformed_where_it_is_and_left_out_where_it_is_not():
    plan = parse({"amount": min_max_scaler, "fraud": label_encoder}, [COLUMNS[0], COLUMNS[3]], labels=["fraud"])
    train = pa.table({"amount": [0.0, 4.0], "fraud": ["no", "yes"]})
    fitted = plan.fit(train)
    assert fitted.transform(train).to_pydict() == {"amount": [0.0, 1.0], "fraud": [0, 1]}
    assert fitted.transform(train.select(["amount"])).to_pydict() == {"amount": [0.0, 1.0]}
    assert fitted.compile(["amount"])([2.0]) == [0.5]
    assert fitted.output_names_for(["amount"]) == ["amount"]
    assert fitted.inverse("fraud", [1, -1, None, 0]) == ["yes", None, None, "no"]
    assert fitted.inverse("fraud", np.array([1, 0])) == ["yes", "no"]


def test_inverse_refuses_other_columns_and_codes_never_given_out():
    fitted = parse({"city": label_encoder}, COLUMNS).fit(pa.table({"city": ["a"]}).append_column("amount", [[1.0]]))
    with pytest.raises(NotFound, match=r"'amount' is not encoded by label_encoder \(encoded are: city\)"):
        fitted.inverse("amount", [0])
    with pytest.raises(InvalidData, match="expected -1 to 0"):
        fitted.inverse("city", [1])


def test_a_missing_feature_and_another_type_are_refused():
    fitted = fit_one(standard_scaler, [1.0])
    with pytest.raises(SchemaMismatch, match="'x', which is missing"):
        fitted.transform(pa.table({"y": [1.0]}))
    with pytest.raises(SchemaMismatch, match="'x', which is missing"):
        fitted.compile(["y"])
    with pytest.raises(SchemaMismatch, match="'x' is int64, but the transformations were declared for double"):
        fitted.transform(pa.table({"x": [1]}))
    with pytest.raises(InvalidData, match="2 values, expected 1: x"):
        fitted.compile(["x"])([1.0, 2.0])


def test_other_spellings_of_text_are_the_same_text():
    fitted = fit_one(label_encoder, ["a", "b"], "string")
    for dtype in (pa.large_string(), pa.dictionary(pa.int8(), pa.string())):
        table = pa.table({"x": pa.array(["b"]).cast(dtype)})
        assert fitted.transform(table).column("x").to_pylist() == [1]


def test_chunks_slices_and_empty_tables_change_nothing():
    fitted = fit_one([impute_median, standard_scaler], [1.0, 5.0, None])
    chunked = pa.table({"x": pa.chunked_array([[1.0], [], [None, 5.0]], pa.float64())})
    assert fitted.transform(chunked).column("x").to_pylist() == [-1.224744871391589, 0.0, 1.224744871391589]
    assert fitted.transform(chunked.slice(1, 1)).column("x").to_pylist() == [0.0]
    assert fitted.transform(chunked.slice(0, 0)).schema == fitted.output_schema


def test_the_input_table_is_left_as_it_was():
    table = pa.table({"x": [1.0, None]})
    copy = pa.table({"x": [1.0, None]})
    fit_one(impute_mean, [1.0]).transform(table)
    assert table == copy


def test_no_transformations_is_a_plan_too():
    fitted = parse(None, COLUMNS).fit(pa.table({"amount": [1.0]}))
    table = pa.table({"amount": [1.0]})
    assert fitted.transform(table) is table
    assert fitted.compile(["amount"])((1.0,)) == [1.0]


# --- Storage ----------------------------------------------------------------------------------------------------------


def through_json(value):
    return json.loads(json.dumps(value, allow_nan=False))


@pytest.mark.parametrize(
    ("function", "dtype", "values"),
    [
        (standard_scaler, "double", [0.1, 1 / 3, 1e300]),
        (quantile_transformer, "double", [0.1, 1 / 3, 5e-324]),
        (label_encoder, "double", [INF, -0.0, 0.1]),
        (label_encoder, "binary", [b"\x00\xff"]),
        (one_hot_encoder, "timestamp", [datetime(2026, 1, 1, 12, tzinfo=UTC)]),
        (label_encoder, "date", [date(2026, 1, 1)]),
        (impute_mode, "decimal(6,2)", [Decimal("1.50")]),
        (top_k_categorical_binner, "bigint", [2**62]),
    ],
)
def test_what_was_learned_comes_back_to_the_bit(function, dtype, values):
    fitted = fit_one(function, values, dtype)
    loaded = FittedTransformations.from_json(through_json(fitted.to_json()))
    assert loaded == fitted
    table = pa.table({"x": pa.array([*values, None], Feature("x", dtype).type)})
    assert loaded.transform(table).equals(fitted.transform(table))
    assert loaded.output_schema == fitted.output_schema


def test_a_plan_comes_back_with_parameters_and_the_users_functions():
    plan = parse({"amount": winsorize(p_high=90), "ratio": ratio(smoothing=1.0)}, COLUMNS, labels=["fraud"])
    loaded = TransformationPlan.from_json(through_json(plan.to_json()))
    assert loaded == plan
    assert loaded.steps[1].functions[0].parameters == {"smoothing": 1.0}
    assert "pickle" not in json.dumps(plan.to_json())


MODULE = """
    from featurestore.transformations import udf

    @udf("double")
    def double_it(x):
        return x * 2
"""


def run_in_another_process(code, folder):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=folder, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": f"{folder}:{':'.join(sys.path)}", "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip


def test_a_users_function_is_found_by_another_process_and_refused_when_changed_or_gone(tmp_path):
    (tmp_path / "my_functions.py").write_text(textwrap.dedent(MODULE))
    saved = run_in_another_process(
        "import json, my_functions; print(json.dumps(my_functions.double_it.to_json()))", tmp_path
    )
    data = json.loads(saved.stdout)
    assert data["reference"] == "my_functions:double_it"
    load = f"from featurestore.transformations import *; print(TransformationFunction.from_json({data!r}).name)"
    assert run_in_another_process(load, tmp_path).stdout == "double_it\n"

    (tmp_path / "my_functions.py").write_text(textwrap.dedent(MODULE).replace("* 2", "* 3"))
    changed = run_in_another_process(load, tmp_path).stderr
    assert "NotReproducible" in changed
    assert "has changed since the view was made" in changed

    (tmp_path / "my_functions.py").unlink()
    gone = run_in_another_process(load, tmp_path).stderr
    assert "NotFound" in gone
    assert "Make the module importable" in gone


def test_a_function_defined_inside_another_one_says_where_it_should_be():
    @udf("double")
    def local(x):
        return x

    data = local.to_json()
    assert TransformationFunction.from_json(data) == local  # as long as this process lives
    with pytest.raises(NotFound, match="Move it to the top of a module"):
        TransformationFunction.from_json({**data, "source_hash": "of another process"})


def test_a_function_that_changed_in_the_module_is_refused():
    with pytest.raises(NotReproducible, match="Restore the old source"):
        TransformationFunction.from_json({**plus_one.to_json(), "source_hash": "0" * 64})


# --- Functions of one's own -------------------------------------------------------------------------------------------


def test_a_scalar_function_of_several_columns_in_a_list_is_a_column_of_its_own_name():
    """V7: @udf over values."""
    fitted = parse([ratio], COLUMNS[:2]).fit(table_of(amount=[1.0], mean=[1.0]))
    assert fitted.output_names == ["amount", "ratio"]  # mean is dropped
    assert fitted.transform(table_of(amount=[6.0, None], mean=[3.0, 1.0])).column("ratio").to_pylist() == [2.0, None]
    assert fitted.compile(["amount", "mean"])([6.0, 3.0]) == [6.0, 2.0]


def test_a_function_bound_to_other_columns_and_parameters():
    features = [Feature("price", "double"), Feature("usual", "double")]
    fitted = parse({"price": ratio("price", "usual", smoothing=1.0)}, features).fit(table_of(price=[1.0], usual=[1.0]))
    assert fitted.output_names == ["price"]
    assert fitted.compile(["price", "usual"])([6.0, 2.0]) == [2.0]


def test_several_results_become_numbered_columns_in_place():
    """V7: several outputs are <column>_<i>."""
    fitted = parse({"amount": parts}, COLUMNS[:2]).fit(table_of(amount=[1.0], mean=[1.0]))
    assert fitted.output_schema == pa.schema(
        [("amount_0", pa.int64()), ("amount_1", pa.string()), ("mean", pa.float64())]
    )
    assert_one_row_equals_its_batch_row(fitted, table_of(amount=[2.5, None], mean=[0.0, 1.0]))
    assert fitted.compile(["amount", "mean"])([2.5, 9.0]) == [2, "2.5", 9.0]
    assert fitted.outputs_of("amount") == ["amount_0", "amount_1"]


def test_a_numbered_result_can_be_read_by_another_function():
    fitted = parse({"next": plus_one("amount_0"), "amount": parts}, COLUMNS[:1]).fit(table_of(amount=[1.0]))
    assert dict(zip(fitted.output_names, fitted.compile(["amount"])([4.2]), strict=True)) == {
        "amount_0": 4, "amount_1": "4.2", "next": 5.0,
    }  # fmt: skip


def test_a_later_function_of_a_chain_drops_no_column():
    @udf("double", drop="value")
    def half(value):
        return value / 2

    fitted = parse({"half_log": [log_transform("amount"), half]}, COLUMNS[:1]).fit(table_of(amount=[1.0]))
    assert fitted.compile(["amount"])([1.0]) == [1.0, 0.0]
    replacing = parse({"half": half("amount")}, COLUMNS[:1]).fit(table_of(amount=[1.0]))
    assert (replacing.output_names, replacing.compile(["amount"])([3.0])) == (["half"], [1.5])


def test_a_pandas_function_gets_series_and_one_row_online():
    """V7: @udf in pandas."""

    @udf("double")
    def doubled(x: "pd.Series") -> "pd.Series":  # noqa: F821
        assert str(x.dtype) == "Int64"  # with and without nulls
        return x * 2

    fitted = fit_one(doubled, [1, None], "bigint")
    assert fitted.transform(pa.table({"x": [3, 4]})).column("x").to_pylist() == [6.0, 8.0]
    assert_one_row_equals_its_batch_row(fitted, pa.table({"x": pa.array([3, None, -4])}))


def test_a_pandas_function_may_return_a_frame():
    import pandas as pd

    @udf(["double", "string"], mode="pandas")
    def both(x):
        return pd.DataFrame({"twice": x * 2, "text": ["even" if v % 2 == 0 else "odd" for v in x]})

    fitted = fit_one(both, [1.0, 2.0])
    assert fitted.output_names == ["x_0", "x_1"]
    assert_one_row_equals_its_batch_row(fitted, pa.table({"x": [3.0, 4.0]}))


def test_a_pandas_function_that_looks_at_other_rows_is_refused():
    @udf("double", mode="pandas")
    def centred(x):
        return x - x.mean()

    with pytest.raises(InvalidData, match="looks at other rows"):
        fit_one(centred, [1.0, 2.0, 6.0])


@pytest.mark.parametrize(
    ("returned", "dtype", "expected"),
    [
        (3, "double", 3.0), (np.float32(0.5), "double", 0.5), (math.nan, "double", None),
        (0.1, "float", float(np.float32(0.1))),
        (np.int64(7), "int", 7), (2.0, "bigint", 2), (True, "boolean", True), (np.bool_(False), "boolean", False),
        ("é", "string", "é"), (date(2026, 1, 2), "date", date(2026, 1, 2)), ([1.0], "array<double>", [1.0]),
        (datetime(2026, 1, 2), "timestamp", datetime(2026, 1, 2, tzinfo=UTC)), (None, "bigint", None),
    ],
)  # fmt: skip
def test_results_take_the_declared_type_alike_in_a_frame_and_alone(returned, dtype, expected):
    @udf(dtype, mode="scalar")
    def give(x):
        return returned

    fitted = fit_one(give, [1.0])
    assert fitted.compile(["x"])([1.0]) == [expected]
    assert type(fitted.compile(["x"])([1.0])[0]) is type(expected)
    assert fitted.transform(pa.table({"x": [1.0]})).column("x").to_pylist() == [expected]


@pytest.mark.parametrize(
    ("returned", "dtype"),
    [("7", "double"), (1.5, "bigint"), (300, "tinyint"), (1, "string"), (1, "boolean"), ((1.0, 2.0), "double")],
)
def test_a_result_of_another_kind_is_refused_naming_function_and_value(returned, dtype):
    @udf(dtype, mode="scalar")
    def give(x):
        return returned

    with pytest.raises(InvalidData, match="Function 'give' returned"):
        fit_one(give, [1.0])


def test_a_failing_function_is_named_with_what_it_got():
    @udf(float)
    def inverse(x):
        return 1 / x

    with pytest.raises(InvalidData, match=r"Function 'inverse' failed on \(0.0,\): ZeroDivisionError"):
        fit_one(inverse, [1.0, 0.0])


def test_python_types_say_the_dtype_too():
    assert [udf(t)(lambda x: x).method.returns[0] for t in (float, int, str, bool)] == [
        pa.float64(), pa.int64(), pa.string(), pa.bool_(),
    ]  # fmt: skip


def test_nulls_stay_null_unless_a_function_asks_to_see_them():
    """V7, V10: in batch and for one row alike, also if only one of its columns is null, and for several results."""
    table = table_of(amount=[6.0, None, 6.0, math.nan], mean=[3.0, 3.0, None, 3.0])
    fitted = parse({"ratio": ratio("amount", "mean"), "parts": parts("amount")}, COLUMNS[:2]).fit(table)
    assert fitted.transform(table).column("ratio").to_pylist() == [2.0, None, None, None]
    assert_one_row_equals_its_batch_row(fitted, table)

    @udf("double", nulls=True)
    def filled(x):
        return -1.0 if x is None else x * 2

    seeing = fit_one(filled, [1.0, None])
    assert seeing.transform(pa.table({"x": [1.0, None, math.nan]})).column("x").to_pylist() == [2.0, -1.0, -1.0]
    assert [seeing.compile(["x"])([value])[0] for value in (1.0, None, math.nan)] == [2.0, -1.0, -1.0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: udf("double")(lambda *x: x), r"\*args"),
        (lambda: udf("double")(lambda x=1: x), "reads no column"),
        (lambda: udf("double", drop="y")(lambda x: x), "cannot drop 'y'"),
        (lambda: udf("double", mode="spark")(lambda x: x), "'spark'"),
        (lambda: udf("money")(lambda x: x), "unknown dtype 'money'"),
        (lambda: udf("double")(lambda x, y=[]: [x, y]), r"y=\[\]"),
    ],
)  # fmt: skip
def test_a_function_that_cannot_be_declared_says_why(make, words):
    with pytest.raises(SchemaMismatch, match=words):
        make()


def test_pandas_is_not_imported_before_a_pandas_function_runs():
    code = "import sys, featurestore.transformations, featurestore.splits; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_function_has_its_module_name():
    assert all(getattr(tf, name) is function for name, function in BUILT_INS.items())
