from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import InvalidData, SchemaMismatch
from featurestore.schema import (
    TIMESTAMP,
    Feature,
    check_column_names,
    check_name,
    check_version,
    conform,
    infer_features,
    parse_dtype,
    spell_dtype,
    to_frame,
)

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)
EVERY_DTYPE = {
    "boolean": [True, False, None],
    "tinyint": [-128, 127, None],
    "smallint": [-32768, 32767, None],
    "int": [-(2**31), 2**31 - 1, None],
    "bigint": [-(2**63), 2**63 - 1, None],
    "float": [0.5, float("inf"), None],
    "double": [0.1, -float("inf"), None],
    "string": ["", "Zürich 'x' \"y\" 🐟", None],
    "binary": [b"", b"\x00\xff", None],
    "date": [date(1900, 1, 1), date(2262, 4, 12), None],
    "timestamp": [T0, datetime(1900, 1, 1, 0, 0, 0, 1, tzinfo=UTC), None],
    "decimal(10,2)": [Decimal("-12345678.90"), Decimal("0.01"), None],
    "array<double>": [[], [1.5, None], None],
    "array<string>": [[], ["a", None], None],
    "struct<lat:double,lon:double>": [{"lat": 1.0, "lon": None}, {"lat": 0.0, "lon": 2.0}, None],
    "struct<name:string,tags:array<string>>": [{"name": "a", "tags": ["x"]}, {"name": None, "tags": None}, None],
}
FEATURES = [Feature(f"a {dtype}", dtype) for dtype in EVERY_DTYPE]


def every_dtype() -> pa.Table:
    columns = [pa.array(values, f.type) for f, values in zip(FEATURES, EVERY_DTYPE.values(), strict=True)]
    return pa.Table.from_arrays(columns, names=[f.name for f in FEATURES])


@pytest.mark.parametrize("library", ["pandas", "polars", "arrow"])
def test_g2_every_dtype_survives_the_way_through_each_library(library):
    table = every_dtype()
    back = conform(to_frame(table, library), FEATURES)
    assert back.schema.types == table.schema.types
    assert back.to_pylist() == table.to_pylist()


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_g6_every_spelling_is_written_and_read_back(dtype):
    assert spell_dtype(parse_dtype(dtype)) == dtype
    assert Feature.from_json(Feature("a", dtype, "what", "EUR", True).to_json()) == Feature(
        "a", dtype, "what", "EUR", True
    )


@pytest.mark.parametrize(
    "dtype",
    ["money", "", "decimal(39,2)", "decimal(2,3)", "array<>", "struct<>", "struct<a>", None, 3, pa.time64("us")],
)
def test_g6_an_unknown_dtype_is_refused_with_its_column(dtype):
    with pytest.raises(SchemaMismatch, match="'amount'"):
        Feature("amount", dtype)


@pytest.mark.parametrize(
    ("given_type", "stored"),
    [
        (pa.large_string(), "string"), (pa.dictionary(pa.int8(), pa.string()), "string"), (pa.uint8(), "smallint"),
        (pa.uint32(), "bigint"), (pa.float16(), "float"), (pa.timestamp("ns"), "timestamp"), (pa.date64(), "date"),
        (pa.large_list(pa.int32()), "array<int>"), (pa.binary(4), "binary"),
    ],
)  # fmt: skip
def test_g6_an_arrow_type_becomes_the_stored_type_that_holds_all_its_values(given_type, stored):
    assert Feature("a", given_type).dtype == stored


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (pa.array([1, 2**31 - 1], pa.int64()), "int", [1, 2**31 - 1]),
        (pa.array([1.0, float("nan"), None]), "int", [1, None, None]),
        (pa.array([1, 2], pa.int64()), "double", [1.0, 2.0]),
        (pa.array([0.5], pa.float64()), "float", [0.5]),
        (pa.array([float("nan"), 1.0]), "double", [None, 1.0]),
        (pa.nulls(2), "timestamp", [None, None]),
        (pa.nulls(2), "array<int>", [None, None]),
        (pa.array([date(2026, 1, 1)]), "timestamp", [datetime(2026, 1, 1, tzinfo=UTC)]),
        (pa.array([datetime(2026, 1, 1)], pa.timestamp("ns")), "timestamp", [datetime(2026, 1, 1, tzinfo=UTC)]),
        (pa.array([T0], pa.timestamp("ms", "Europe/Berlin")), "timestamp", [T0]),
        (pa.array(["a", None, "a"]).dictionary_encode(), "string", ["a", None, "a"]),
        (pa.array([Decimal("1.10")], pa.decimal128(5, 2)), "decimal(10,3)", [Decimal("1.100")]),
    ],
)
def test_g6_a_value_is_cast_when_it_survives_exactly(values, dtype, expected):
    column = conform(pa.table({"a": values}), [Feature("a", dtype)]).column("a")
    assert column.type == parse_dtype(dtype)
    assert column.to_pylist() == expected


@pytest.mark.parametrize(
    ("values", "dtype", "said"),
    [
        (pa.array([1, 2**31]), "int", "row 1"),
        (pa.array([0, 2**53 + 1]), "double", "row 1"),
        (pa.array([0.5, 0.1]), "float", "row 1"),
        (pa.array([0.0, float("inf")]), "int", "cannot hold"),
        (pa.array([0.0, 2.0**63]), "bigint", "cannot hold"),
        (pa.array([2**64 - 1], pa.uint64()), "bigint", "cannot hold"),
        (pa.array([0, 1], pa.timestamp("ns")), "timestamp", "row 1"),
        (pa.array([T0]), "date", "row 0"),
        (pa.array([Decimal("1.11")]), "decimal(5,1)", "cannot hold"),
        (pa.array([[0.5], [0.1]]), "array<float>", "row 1"),
    ],
)
def test_g6_a_value_that_would_change_is_refused_with_its_row(values, dtype, said):
    with pytest.raises(InvalidData, match=said) as caught:
        conform(pa.table({"a": values}), [Feature("a", dtype)])
    assert "'a'" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (["7"], "double"), ([1.9], "int"), ([True], "string"), ([True], "int"), ([1], "boolean"), ([7], "string"),
        ([7], "timestamp"), (["2026-01-01"], "timestamp"), (["x"], "binary"), ([[1]], "int"),
        ([{"lat": 1.0}], "string"),
    ],
)  # fmt: skip
def test_g6_a_value_of_another_family_is_refused(values, dtype):
    with pytest.raises(SchemaMismatch, match="'a'"):
        conform(pd.DataFrame({"a": values}), [Feature("a", dtype)])


def test_g6_missing_and_extra_columns_are_both_named():
    with pytest.raises(SchemaMismatch, match=r"\['id', 'amount'\].*lacks \['amount'\] and also has \['Amount'\]"):
        conform(pa.table({"id": [1], "Amount": [2.0]}), [Feature("id", "bigint"), Feature("amount", "double")])


def test_g6_columns_come_out_in_the_order_of_the_contract():
    assert conform(pa.table({"b": [1], "a": [2]}), [Feature("a", "int"), Feature("b", "int")]).to_pydict() == {
        "a": [2], "b": [1],
    }  # fmt: skip


def test_g5_a_null_key_is_refused_with_column_and_rows():
    with pytest.raises(InvalidData, match=r"'id' is null in rows 1, 2, 3, 4, 5 and 1 more"):
        conform(pa.table({"id": [1, *[None] * 6]}), [Feature("id", "bigint")], required=["id"])


def test_g6_a_column_of_nulls_only_cannot_declare_its_type():
    with pytest.raises(SchemaMismatch, match="'a' holds nulls only"):
        infer_features(pa.schema([("a", pa.null())]))


def test_g6_a_pandas_column_of_mixed_types_is_refused():
    with pytest.raises(SchemaMismatch, match="mixed"):
        conform(pd.DataFrame({"a": [1, "x"]}), [Feature("a", "string")])


def test_g2_what_is_no_frame_is_refused():
    with pytest.raises(SchemaMismatch, match="list is not a frame"):
        conform([1, 2], [Feature("a", "int")])


def test_g2_a_record_batch_a_reader_and_a_view_of_a_polars_frame_are_frames():
    table = pa.table({"a": pa.array([1, 2], pa.int32())})
    frames = [table.to_batches()[0], table.to_reader(), pl.DataFrame({"a": [0, 1, 2]})[1:]]
    assert [conform(f, [Feature("a", "int")]).column("a").to_pylist() for f in frames] == [[1, 2]] * 3


def test_whole_numbers_within_structs_and_lists_stay_whole_beside_nulls_in_pandas():
    """G6: Arrow alone gives floats there, which change large values and do not fit their own column again."""
    large = 2**53 + 1
    table = pa.table({
        "struct": pa.array([{"a": large}, None], pa.struct([("a", pa.int64())])),
        "list": pa.array([[large, None], [1]], pa.list_(pa.int64())),
        "nested": pa.array([[{"a": large}], [None]], pa.list_(pa.struct([("a", pa.int64())]))),
    })  # fmt: skip
    frame = to_frame(table)
    assert frame["struct"].tolist() == [{"a": large}, None]
    assert frame["list"].tolist() == [[large, None], [1]]
    assert type(frame["struct"][0]["a"]) is type(frame["list"][0][0]) is int
    assert conform(frame, infer_features(table.schema)).equals(table)


def test_integers_with_nulls_stay_integers_in_pandas():
    frame = to_frame(
        pa.table({"n": pa.array([2**53 + 1, None]), "b": pa.array([True, None]), "t": pa.array([T0, None])})
    )
    assert frame.dtypes.astype(str).to_dict() == {"n": "Int64", "b": "boolean", "t": "datetime64[us, UTC]"}
    assert frame["n"][0] == 2**53 + 1


@pytest.mark.parametrize(
    "name",
    [
        "",
        "A",
        "1a",
        "_a",
        "a-b",
        "a b",
        "../x",
        "a/b",
        "a'b",
        'a"b',
        "a;drop",
        "а",
        "ａ",
        "a１",
        "é",
        "a\n",
        "a" * 64,
        1,
        None,
    ],
)
def test_c2_other_names_are_refused_with_the_rule(name):
    with pytest.raises(SchemaMismatch, match=r"\[a-z\]\[a-z0-9_\]\{0,62\}"):
        check_name(name, "Feature group")


@pytest.mark.parametrize("name", ["a", "a_1", "a" * 63])
def test_c2_plain_names_are_allowed(name):
    assert check_name(name, "Feature group") == name


@pytest.mark.parametrize("version", [0, -1, 1.0, "1", True, None])
def test_c2_a_version_is_a_whole_number_from_one(version):
    with pytest.raises(SchemaMismatch, match="whole numbers from 1"):
        check_version(version, "Feature group 'a'")


@pytest.mark.parametrize("names", [[""], ["a" * 256], ["a\nb"], ["a\x00"], ["__a"], ["City", "city"], ["ß", "SS"], []])
def test_c2_column_names_that_would_confuse_are_refused(names):
    with pytest.raises(SchemaMismatch):
        check_column_names(names)


def test_c2_any_other_column_name_is_free():
    check_column_names(["City", "x_y", "event time", "select", 'a "quoted" one', "Grüße", "a;drop", "../x", "a" * 255])


@given(
    st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))),
    st.sampled_from(["tinyint", "int", "bigint", "double"]),
)
def test_g6_an_integer_is_stored_exactly_or_refused(values, dtype):
    """G6 as a law: no cast changes a value."""
    frame = pa.table({"a": pa.array(values, pa.int64())})
    try:
        stored = conform(frame, [Feature("a", dtype)]).column("a")
    except InvalidData:
        limits = {"tinyint": 2**7 - 1, "int": 2**31 - 1, "bigint": 2**63 - 1, "double": 2**53}
        assert any(v is not None and abs(v) >= limits[dtype] for v in values)
    else:
        assert stored.to_pylist() == values


def test_g7_times_come_out_as_utc_microseconds():
    frame = pd.DataFrame(
        {"t": pd.to_datetime(["2026-01-01 12:00"]).astype("datetime64[ns]"), "x": np.array([1], "int8")}
    )
    stored = conform(frame, [Feature("t", "timestamp"), Feature("x", "int")])
    assert stored.schema.field("t").type == TIMESTAMP
    assert stored.column("t").to_pylist() == [T0]
