"""Feature vectors: which requests are refused before anything is read, and what an accepted one gives back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pandas.testing import assert_frame_equal

from featurestore import Feature, FeatureStore, FeatureView, InvalidData, NotFound, SchemaMismatch, connect
from featurestore.inputs import Vectors

NOW = datetime(2026, 3, 1, tzinfo=UTC)
EVENT = NOW - timedelta(hours=1)
ACCOUNTS = [
    Feature("bank", "string"),
    Feature("account", "bigint"),
    Feature("at", "timestamp"),
    Feature("balance", "double"),
    Feature("is_open", "boolean"),
    Feature("visits", "int"),
]
REQUESTED = [
    Feature("whole", "int", on_demand=True),
    Feature("ratio", "double", on_demand=True),
    Feature("flag", "boolean", on_demand=True),
    Feature("word", "string", on_demand=True),
    Feature("moment", "timestamp", on_demand=True),
    Feature("day", "date", on_demand=True),
    Feature("price", "decimal(6,2)", on_demand=True),
    Feature("blob", "binary", on_demand=True),
    Feature("many", "array<double>", on_demand=True),
    Feature("place", "struct<lat:double,lon:double>", on_demand=True),
]
GIVEN: dict[str, Any] = {
    "whole": 3, "ratio": 0.5, "flag": True, "word": "a", "moment": EVENT, "day": date(2026, 1, 2),
    "price": Decimal("1.25"), "blob": b"\x00", "many": [1.0, None], "place": {"lat": 1.0, "lon": None},
}  # fmt: skip


@pytest.fixture
def fs(tmp_path: Path, database_settings: dict[str, str]) -> Iterator[FeatureStore]:
    store = connect(tmp_path, clock=lambda: NOW, **database_settings)
    yield store
    store.close()


@pytest.fixture
def view(fs: FeatureStore) -> FeatureView:
    """Accounts by bank and number; orders name them `from_bank`, `from_account`."""
    accounts = fs.get_or_create_feature_group(
        "accounts", 1, primary_key=["bank", "account"], event_time="at", features=ACCOUNTS, online_enabled=True
    )
    balances = {"balance": [10.0, 20.0, None], "is_open": [True, False, True], "visits": [1, None, 3]}
    accounts.insert(
        pd.DataFrame({"bank": ["a", "a", "b"], "account": [1, 11, 1], "at": EVENT} | balances).astype(
            {"visits": "Int32"}
        )
    )
    orders = fs.get_or_create_feature_group("orders", 1, primary_key=["id"], event_time="at")
    orders.insert(
        pd.DataFrame({"id": [1, 2, 3], "at": NOW, "from_bank": ["a", "a", "b"], "from_account": [1, 11, 1], "y": 1})
    )
    query = orders.select(["y"]).join(
        accounts.select(["balance", "is_open", "visits"]),
        left_on=["from_bank", "from_account"], right_on=["bank", "account"],
    )  # fmt: skip
    made = fs.get_or_create_feature_view(
        "orders", 1, query=query, labels=["y"],
        transformation_functions={"balance": fs.get_transformation_function("min_max_scaler")},
    )  # fmt: skip
    made.create_training_data()
    made.init_serving()
    return made


def no_reads(view: FeatureView) -> None:
    """From here on whoever reads the view's online rows fails."""
    view._store.online.drop(view._store.get_feature_group("accounts", 1).online_table())


KEY = {"from_bank": "a", "from_account": 11}


def test_serving_keys_are_named_as_in_the_spine_and_typed(view: FeatureView) -> None:
    """V9, J5: composite keys of mixed types under the spine's names; (a, 11) is another key than (a, 1)."""
    assert view.serving_keys == ["from_bank", "from_account"]
    assert view.get_feature_vector(KEY) == [1.0, False, None]
    assert view.get_feature_vector({"from_account": 1, "from_bank": "a"}) == [0.0, True, 1]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"from_bank": "a"}, r"lacks \['from_account'\]"),
        ({**KEY, "bank": "a"}, r"has the unknown \['bank'\]"),
        ({"bank": "a", "account": 1}, r"lacks \['from_bank', 'from_account'\] and has the unknown \['bank', 'account'"),
        ({**KEY, "from_account": "11"}, r"serving key 'from_account' is '11' \(str\), expected bigint"),
        ({**KEY, "from_account": 11.5}, r"serving key 'from_account' is 11\.5 \(float\), expected bigint"),
        ({**KEY, "from_account": True}, r"serving key 'from_account' is True \(bool\), expected bigint"),
        ({**KEY, "from_bank": b"a"}, r"serving key 'from_bank' is b'a' \(bytes\), expected string"),
        (["a", 11], r"looked up by a mapping of \['from_bank', 'from_account'\], got \['a', 11\] \(list\)"),
    ],
)
def test_a_wrong_entry_is_refused_before_any_read(view: FeatureView, entry: Any, message: str) -> None:
    """V11: missing, unknown and mistyped keys are named, by the single and by the plural call."""
    no_reads(view)
    with pytest.raises((SchemaMismatch, InvalidData), match=message):
        view.get_feature_vector(entry)
    with pytest.raises((SchemaMismatch, InvalidData), match=message):
        view.get_feature_vectors([KEY, entry])


def test_wrong_passed_features_are_refused_before_any_read(view: FeatureView) -> None:
    """V11: also what comes with the request is checked first."""
    no_reads(view)
    with pytest.raises(SchemaMismatch, match=r"passed_features \['blance'\] are no features"):
        view.get_feature_vector(KEY, {"blance": 1.0})
    with pytest.raises(SchemaMismatch, match=r"'balance' is double, got '1' \(str\)"):
        view.get_feature_vector(KEY, {"balance": "1"})
    with pytest.raises(InvalidData, match="2 entries but 1 passed_features"):
        view.get_feature_vectors([KEY, KEY], [{}])


def test_an_unknown_key_is_named_or_becomes_nulls(view: FeatureView) -> None:
    """V9: the length and the order of the entries are kept. (hsfs drops such rows.)"""
    unknown = {"from_bank": "b", "from_account": 11}
    with pytest.raises(NotFound, match=r"accounts_v1 has no row online for {'from_bank': 'b', 'from_account': 11}"):
        view.get_feature_vector(unknown)
    found = view.get_feature_vectors([unknown, KEY, unknown, KEY], allow_missing=True)
    assert found == [[None] * 3, [1.0, False, None]] * 2
    assert view.get_feature_vectors([]) == []


def test_a_late_row_never_replaces_a_newer_one(fs: FeatureStore, view: FeatureView) -> None:
    """G8: a backfill of older rows reaches Delta and leaves vectors alone; a correction of the newest row shows."""
    accounts = fs.get_feature_group("accounts", 1)
    row = {"bank": ["a"], "account": [11], "is_open": [True], "visits": pd.array([9], dtype="Int32")}
    older = pd.DataFrame(row | {"at": [EVENT - timedelta(days=1)], "balance": [99.0]})
    assert accounts.insert(older).rows_inserted == 1
    assert view.get_feature_vector(KEY) == [1.0, False, None]
    assert accounts.insert(older.assign(at=EVENT, balance=15.0)).rows_updated == 1
    assert view.get_feature_vector(KEY) == [0.5, True, 9]


def test_a_spine_without_time_asks_at_the_present(fs: FeatureStore) -> None:
    """G18: in batch data as online; an age equal to the ttl still counts, a microsecond more does not."""
    known = fs.get_or_create_feature_group(
        "known", 1, primary_key=["id"], event_time="at", online_enabled=True, ttl=timedelta(hours=1)
    )
    ages = [timedelta(hours=1), timedelta(hours=1, microseconds=1)]
    known.insert(pd.DataFrame({"id": [1, 2], "at": [NOW - age for age in ages], "x": [1.0, 2.0]}))
    asked = fs.get_or_create_feature_group("asked", 1, primary_key=["id"])
    asked.insert(pd.DataFrame({"id": [1, 2], "y": [0, 1]}))
    view = fs.get_or_create_feature_view(
        "asked", 1, query=asked.select(["y"]).join(known.select(["x"])), labels=["y"]
    )  # fmt: skip
    view.create_training_data()
    assert view.get_batch_data(dataframe_type="arrow")["x"].to_pylist() == [1.0, None]
    assert view.get_feature_vectors([{"id": 1}, {"id": 2}], allow_missing=True) == [[1.0], [None]]
    with pytest.raises(NotFound, match=r"only a row older than its ttl 1:00:00 online for {'id': 2}"):
        view.get_feature_vector({"id": 2})
    assert known.get_online({"id": 2}, ["x"]) is None
    assert len(known.read()) == 2, "what is stored is still there to be read"


def test_without_a_version_the_newest_training_dataset_serves(fs: FeatureStore, view: FeatureView) -> None:
    """V9: and one that was chosen stays chosen."""
    accounts = fs.get_feature_group("accounts", 1)
    wider = {"bank": ["b"], "account": [1], "at": [EVENT], "balance": [50.0], "is_open": [True]}
    accounts.insert(pd.DataFrame(wider | {"visits": pd.array([3], dtype="Int32")}))
    view.create_training_data()
    again = fs.get_feature_view("orders", 1)
    assert again.get_feature_vector(KEY)[0] == 0.25
    again.init_serving(1)
    assert again.get_feature_vector(KEY)[0] == 1.0


def test_many_vectors_are_the_single_ones(view: FeatureView) -> None:
    """V9: across the boundary of a block of 256 keys."""
    keys = [KEY, {"from_bank": "a", "from_account": 1}, {"from_bank": "b", "from_account": 1}] * 100
    assert view.get_feature_vectors(keys) == [view.get_feature_vector(key) for key in keys]


def test_vectors_come_in_the_form_asked_for(view: FeatureView) -> None:
    """V9: a frame of vectors has the columns, order and dtypes of the training frame."""
    key = {"from_bank": "a", "from_account": 1}
    assert view.get_feature_vector(key, return_type="dict") == {"balance": 0.0, "is_open": True, "visits": 1}
    array = view.get_feature_vector(KEY, return_type="numpy")
    assert array.dtype == np.float64
    assert array.shape == (3,)
    np.testing.assert_array_equal(array, [1.0, 0.0, np.nan])
    assert view.get_feature_vectors([KEY, key], return_type="numpy").shape == (2, 3)
    training, _ = view.get_training_data(1)
    frame = view.get_feature_vectors([key, KEY], return_type="pandas")
    assert_frame_equal(frame, training.iloc[:2])
    assert isinstance(view.get_feature_vector(key, return_type="polars"), pl.DataFrame)
    table = view.get_feature_vectors([key], return_type="arrow", transform=False)
    assert table.schema.types == [pa.float64(), pa.bool_(), pa.int32()]
    assert table.to_pylist()[0]["balance"] == 10.0
    for return_type in ("pandas", "arrow", "numpy", "dict"):
        assert len(view.get_feature_vectors([], return_type=return_type)) == 0
    with pytest.raises(SchemaMismatch, match="return_type 'json' is unknown"):
        view.get_feature_vector(key, return_type="json")  # type: ignore[arg-type]  # it is what the test is about


def test_transform_gives_back_the_form_it_got(view: FeatureView) -> None:
    """V10: a vector, a mapping, a list or array of them, a frame with columns in any order and others beside."""
    raw, inputs = [10.0, True, 1], [0.0, True, 1]
    named, scaled = dict(zip(["balance", "is_open", "visits"], raw, strict=True)), {"balance": 0.0}
    assert view.transform(raw) == view.transform(tuple(raw)) == view.transform(np.array(raw, object)) == inputs
    assert view.transform([raw, raw]) == view.transform(np.array([raw, raw], object)) == [inputs, inputs]
    assert view.transform(named) == named | scaled
    assert view.transform([named, raw]) == [named | scaled, inputs]
    assert view.transform([]) == []
    frame = pa.table({"visits": [1], "note": ["x"], "balance": [10], "is_open": [True]})
    for given in (frame, frame.to_pandas(), pl.from_arrow(frame)):
        result = view.transform(given)
        assert type(result) is type(given)
        assert list(getattr(result, "column_names", None) or result.columns) == ["note", "balance", "is_open", "visits"]
        assert next(iter(result["balance"])) in (0.0, pa.scalar(0.0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([10.0, True], "is no vector of the 3 features balance, is_open, visits"),
        ([10.0, "yes", 1], r"'is_open' is boolean, got 'yes' \(str\)"),
        ({"balance": 10.0}, r"the features are \['balance', 'is_open', 'visits'\], got \['balance'\]"),
        ([[10.0, True, 1], 5], "5 is no vector of the 3 features"),
        ("abc", r"'abc' \(str\) is neither a frame, a vector, nor a list of vectors"),
        (pa.table({"balance": [1.0]}), r"lacks \['is_open', 'visits'\]"),
    ],
)
def test_transform_refuses_what_is_no_vector_of_the_view(view: FeatureView, given: Any, message: str) -> None:
    """V11: by name, length and type."""
    with pytest.raises((SchemaMismatch, InvalidData), match=message):
        view.transform(given)


def test_vectors_that_begin_with_lists_and_mappings_are_told_from_lists_of_vectors() -> None:
    """V10: a value may be a list or a mapping itself."""
    lists = [Feature("a", "array<double>"), Feature("b", "bigint")]
    assert Vectors([[1.0, 2.0], 3], lists, "x").rows == [[[1.0, 2.0], 3]]
    assert Vectors([[[1.0, 2.0], 3], [None, 4]], lists, "x").rows == [[[1.0, 2.0], 3], [None, 4]]
    structs = [Feature("a", "struct<x:double>"), Feature("b", "bigint")]
    assert Vectors([{"x": 1.0}, 3], structs, "x").rows == [[{"x": 1.0}, 3]]
    assert Vectors([{"a": {"x": 1.0}, "b": 3}], structs, "x").rows == [[{"x": 1.0}, 3]]


@pytest.fixture
def requested(tmp_path: Path) -> Iterator[FeatureView]:
    """A view whose every feature comes with the request: no group has to be online."""
    fs = connect(tmp_path, clock=lambda: NOW)
    group = fs.get_or_create_feature_group(
        "requests", 1, primary_key=["id"], event_time="at",
        features=[Feature("id", "bigint"), Feature("at", "timestamp"), *REQUESTED],
    )  # fmt: skip
    group.insert(pa.Table.from_pylist([{"id": 1, "at": NOW, **GIVEN}], group.definition.schema))
    view = fs.get_or_create_feature_view("requests", 1, query=group.select([f.name for f in REQUESTED]))
    view.create_training_data()
    yield view
    fs.close()


def test_a_view_of_requested_features_alone_needs_no_key(requested: FeatureView) -> None:
    """V9: nothing is looked up, so there is nothing to look up by."""
    assert requested.serving_keys == []
    assert requested.get_feature_vector({}, GIVEN) == list(GIVEN.values())
    assert requested.get_feature_vectors([{}, {}], [GIVEN, GIVEN]) == [list(GIVEN.values())] * 2
    with pytest.raises(SchemaMismatch, match=r"\['whole', 'ratio', .* come with each request"):
        requested.get_feature_vector({})


@pytest.mark.parametrize(
    ("name", "value", "becomes"),
    [
        ("whole", np.int64(7), 7), ("whole", 7.0, 7), ("ratio", 7, 7.0), ("ratio", np.float32(0.5), 0.5),
        ("ratio", float("nan"), None), ("ratio", pd.NA, None), ("flag", np.bool_(True), True),
        ("moment", datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC)), ("moment", pd.NaT, None),
        ("moment", pd.Timestamp("2026-01-01 02:00+02:00"), datetime(2026, 1, 1, tzinfo=UTC)),
        ("moment", date(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC)), ("price", 3, Decimal("3.00")),
        ("many", np.array([1.0, 2.0]), [1.0, 2.0]), ("many", (1, None), [1.0, None]), ("many", None, None),
        ("word", None, None),
    ],
)  # fmt: skip
def test_a_passed_value_becomes_what_training_has(
    requested: FeatureView, name: str, value: Any, becomes: object
) -> None:
    """V10: spellings of one value give one vector."""
    assert requested.get_feature_vector({}, GIVEN | {name: value}, return_type="dict")[name] == becomes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("whole", 7.5), ("whole", 2**31), ("whole", "7"), ("whole", True), ("ratio", "0.5"), ("ratio", False),
        ("ratio", Decimal(1)), ("ratio", 2**53 + 1), ("ratio", 10**400), ("flag", 1), ("flag", "yes"), ("word", 5),
        ("word", b"a"), ("moment", "2026-01-01"), ("moment", 0),
        ("moment", pd.Timestamp("2026-01-01 00:00:00.1234567")), ("day", datetime(2026, 1, 1)), ("day", "2026-01-01"),
        ("price", 1.25), ("price", Decimal("1.255")),
        ("price", Decimal("12345.00")), ("blob", "a"), ("many", 1.0), ("many", "ab"), ("many", ["a"]),
        ("place", {"lat": 1.0}), ("place", [1.0, 2.0]), ("place", {"lat": "1", "lon": 2.0}),
    ],
)  # fmt: skip
def test_a_passed_value_of_another_type_is_refused(requested: FeatureView, name: str, value: Any) -> None:
    """V11: the message names the feature, its type and the value."""
    with pytest.raises(SchemaMismatch, match=f"passed_features: '{name}' is .*, got .*"):
        requested.get_feature_vector({}, GIVEN | {name: value})
