"""Feature views: the same features, fitted once, for training, for batch scoring and for single vectors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from featurestore import (
    Conflict,
    Feature,
    FeatureStore,
    FeatureView,
    InvalidData,
    InvalidTime,
    NotFound,
    SchemaMismatch,
    connect,
)

NOW = datetime(2021, 2, 1, tzinfo=UTC)
ORDERS = [
    Feature("id", "bigint"),
    Feature("at", "timestamp"),
    Feature("customer", "bigint"),
    Feature("amount", "double", on_demand=True),
]
SPENDING = [
    Feature("customer", "bigint"),
    Feature("at", "timestamp"),
    Feature("weekly", "double"),
    Feature("visits", "bigint"),
    Feature("segment", "string"),
]
NAMES = ["amount", "weekly", "visits", "segment"]


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[FeatureStore]:
    store = connect(tmp_path, clock=lambda: NOW)
    yield store
    store.close()


def moments(first: int, last: int, hour: int = 12) -> pd.DatetimeIndex:
    """One moment a day, `first` to `last` of January 2021, both counted."""
    return pd.date_range(f"2021-01-{first:02d} {hour:02d}:00", f"2021-01-{last:02d} {hour:02d}:00", freq="D", tz="UTC")


def insert_orders(fs: FeatureStore, first: int = 1, last: int = 30, factor: float = 1.0) -> None:
    """One order a day at noon by customers 1, 2, 0, 1, ...; every fifth is fraud."""
    number = range(first, last + 1)
    at = moments(first, last)
    orders = fs.get_or_create_feature_group("orders", 1, primary_key=["id"], event_time="at", features=ORDERS)
    orders.insert(
        pd.DataFrame(
            {
                "id": number,
                "at": at,
                "customer": [n % 3 for n in number],
                "amount": [factor * (n / 7 + 1) for n in number],
            }
        )
    )
    labels = fs.get_or_create_feature_group("labels", 1, primary_key=["id"], event_time="at")
    labels.insert(pd.DataFrame({"id": number, "at": at, "is_fraud": [int(n % 5 == 0) for n in number]}))


def insert_spending(fs: FeatureStore, ttl: timedelta | None = None, *, online: bool = True) -> None:
    """What was known of each customer every third morning; customer 0's number of visits is never known."""
    spending = fs.get_or_create_feature_group(
        "spending", 1, primary_key=["customer"], event_time="at", features=SPENDING, online_enabled=online, ttl=ttl
    )
    for customer in range(3):
        at = moments(1, 28, hour=6)[::3]
        values = {"weekly": [customer + n / 3 for n in range(len(at))], "segment": ["low", "high"] * (len(at) // 2)}
        visits = pd.array([None if customer == 0 else n for n in range(len(at))], dtype="Int64")
        spending.insert(pd.DataFrame({"customer": customer, "at": at, "visits": visits, **values}))


def fraud_view(fs: FeatureStore, **options: Any) -> FeatureView:
    orders, spending, labels = (fs.get_feature_group(n, 1) for n in ("orders", "spending", "labels"))
    query = (
        orders.select(["amount"])
        .join(spending.select(["weekly", "visits", "segment"]), on=["customer"])
        .join(labels.select(["is_fraud"]), on=["id"], join_type="inner")
    )
    scaler, median, encoder = (
        fs.get_transformation_function(n) for n in ("standard_scaler", "impute_median", "label_encoder")
    )
    transformations = {"amount": scaler, "weekly": scaler, "visits": [median, scaler], "segment": encoder}
    return fs.get_or_create_feature_view(
        "fraud", 1, query=query, labels=["is_fraud"], transformation_functions=transformations, **options
    )


@pytest.fixture
def view(fs: FeatureStore) -> FeatureView:
    insert_orders(fs)
    insert_spending(fs)
    return fraud_view(fs)


TIMES = {"train_start": "2021-01-01", "train_end": "2021-01-21", "test_start": "2021-01-21", "test_end": "2021-01-31"}


def same(a: Any, b: Any) -> bool:
    """Equal to the bit: 0.0 is not -0.0, and only null is null."""
    if a is None or a is pd.NA or b is None or b is pd.NA:
        return (a is None or a is pd.NA) and (b is None or b is pd.NA)
    if isinstance(a, float) and isinstance(b, float):
        return math.copysign(1, a) == math.copysign(1, b) and a == b
    return bool(a == b)


# Definition


def test_labels_and_transformed_columns_must_be_in_the_query(fs: FeatureStore, view: FeatureView) -> None:
    with pytest.raises(SchemaMismatch, match=r"is_frod.*is_fraud"):
        fs.create_feature_view("other", query=view.query, labels=["is_frod"])
    scaler = fs.get_transformation_function("standard_scaler")
    with pytest.raises(SchemaMismatch, match="amuont"):
        fs.create_feature_view("other", query=view.query, transformation_functions={"amuont": scaler})


def test_another_definition_is_another_version(fs: FeatureStore, view: FeatureView) -> None:
    with pytest.raises(SchemaMismatch, match="version=2"):
        fs.get_or_create_feature_view("fraud", 1, query=view.query, labels=[])
    with pytest.raises(Conflict, match="fraud"):
        fs.create_feature_view("fraud", 1, query=view.query)
    assert fs.create_feature_view("fraud", query=view.query, labels=["is_fraud"]).version == 2
    assert fs.get_feature_view("fraud").version == 2
    with pytest.raises(NotFound, match="1, 2"):
        fs.get_feature_view("fraud", 3)


def test_a_view_found_again_reads_the_same(fs: FeatureStore, view: FeatureView) -> None:
    version, _ = view.create_train_test_split(**TIMES)
    again = fs.get_feature_view("fraud", 1)
    assert again.training_dataset(version).content_hash == view.training_dataset(version).content_hash
    assert_frame_equal(again.get_train_test_split(version)[0], view.get_train_test_split(version)[0])


# Frames


def test_all_features_come_before_all_labels(view: FeatureView) -> None:
    """V1: X_train, X_val, X_test, y_train, y_val, y_test; X and y share the index."""
    version, job = view.create_train_validation_test_split(
        train_start="2021-01-01", train_end="2021-01-11", validation_start="2021-01-11", validation_end="2021-01-21",
        test_start="2021-01-21", test_end="2021-01-31",
    )  # fmt: skip
    assert (job.state, job.get_final_state()) == ("FINISHED", "SUCCEEDED"), "done when it returns"
    frames = view.get_train_validation_test_split(version, primary_keys=True)
    for x, y, first in zip(frames[:3], frames[3:], (1, 11, 21), strict=True):
        assert x.columns.tolist() == ["id", *NAMES]
        assert y.columns.tolist() == ["is_fraud"]
        assert x["id"].tolist() == list(range(first, first + 10))
        assert x.index.equals(y.index)
        assert y["is_fraud"].tolist() == [int(n % 5 == 0) for n in x["id"]]
    assert view.training_dataset(version).rows == {"train": 10, "validation": 10, "test": 10}


def test_a_view_without_labels_gives_none(fs: FeatureStore, view: FeatureView) -> None:
    """V1: no label: y is None."""
    plain = fs.create_feature_view("plain", query=view.query)
    x_train, x_test, y_train, y_test = plain.train_test_split(**TIMES)
    assert (y_train, y_test) == (None, None)
    assert "is_fraud" in x_train.columns
    assert len(x_train) + len(x_test) == 30
    x, y = plain.training_data()
    assert (len(x), y) == (30, None)


def test_get_asks_for_the_splits_that_were_made(view: FeatureView) -> None:
    version, _ = view.create_train_test_split(**TIMES)
    with pytest.raises(InvalidData, match=r"train.*test"):
        view.get_train_validation_test_split(version)
    with pytest.raises(NotFound, match=r"no training dataset 9.*1"):
        view.get_train_test_split(9)


def test_extra_filter_restricts_the_training_rows(fs: FeatureStore, view: FeatureView) -> None:
    """V2: the filter is part of the manifest."""
    orders = fs.get_feature_group("orders", 1)
    version, _ = view.create_training_data(extra_filter=orders["customer"] == 1)
    x, _ = view.get_training_data(version, primary_keys=True)
    assert x["id"].tolist() == list(range(1, 31, 3))
    assert view.verify_training_dataset(version).rows == {"all": 10}


def test_a_view_of_a_filtered_query_is_stored_and_read_again(fs: FeatureStore, view: FeatureView) -> None:
    orders = fs.get_feature_group("orders", 1)
    fs.create_feature_view("filtered", query=view.query.filter(orders["customer"] > 0), labels=["is_fraud"])
    x, _ = fs.get_feature_view("filtered").training_data()
    assert len(x) == 20


# Splits


def test_time_split_is_half_open_and_embargo_drops_the_rows_before_the_boundary(view: FeatureView) -> None:
    """V5: rows at and before the boundary."""
    version, _ = view.create_train_test_split(**TIMES, embargo=timedelta(days=2))
    x_train, x_test, _, _ = view.get_train_test_split(version, primary_keys=True, event_time=True)
    assert x_train["id"].tolist() == list(range(1, 19)), "19 and 20 January are within two days of the 21st"
    assert x_test["id"].tolist() == list(range(21, 31))
    assert x_test["at"].min() == pd.Timestamp("2021-01-21 12:00", tz="UTC")


def test_a_row_at_the_boundary_is_on_the_later_side(view: FeatureView) -> None:
    noon = "2021-01-21 12:00:00"
    version, _ = view.create_train_test_split(
        train_start="2021-01-01", train_end=noon, test_start=noon, test_end="2021-01-30 12:00:00"
    )
    x_train, x_test, _, _ = view.get_train_test_split(version, primary_keys=True)
    assert (x_train["id"].max(), x_test["id"].min(), x_test["id"].max()) == (20, 21, 29)


def _sides(view: FeatureView, **options: Any) -> dict[int, str]:
    version, _ = view.create_train_test_split(0.4, **options)
    x_train, x_test, _, _ = view.get_train_test_split(version, primary_keys=True)
    return dict.fromkeys(x_train["id"], "train") | dict.fromkeys(x_test["id"], "test")


def test_rows_never_change_sides_when_data_grow(fs: FeatureStore, tmp_path: Path) -> None:
    """V4: nor in another home."""
    insert_orders(fs, 1, 20)
    insert_spending(fs)
    before = _sides(fraud_view(fs))
    insert_orders(fs, 21, 30)
    after = _sides(fraud_view(fs))
    assert set(before.values()) == {"train", "test"}
    assert {i: after[i] for i in before} == before
    assert len(after) == 30

    other = connect(tmp_path / "other", clock=lambda: NOW)
    insert_orders(other)
    insert_spending(other)
    assert _sides(fraud_view(other)) == after, "the same rows fall on the same sides in every home"
    other.close()


def test_seed_decides_the_sides(view: FeatureView) -> None:
    assert _sides(view) == _sides(view, seed=42)
    assert _sides(view) != _sides(view, seed=43)


@pytest.mark.parametrize(
    "options",
    [
        {"test_size": 0.0},
        {"test_size": 1.0},
        {"test_size": -0.2},
        {"test_size": 1e-12},
        {},
        TIMES | {"train_end": "2021-01-25"},
        TIMES | {"test_end": "2021-01-21"},
        TIMES | {"test_start": "2022-01-01", "test_end": "2022-02-01"},
        TIMES | {"embargo": timedelta(days=-1)},
        TIMES | {"embargo": timedelta(days=60)},
    ],
)
def test_splits_that_cannot_be_are_value_errors_and_leave_no_version(
    view: FeatureView, options: dict[str, Any]
) -> None:
    """V4: sizes, windows and empty splits."""
    with pytest.raises((InvalidData, InvalidTime)) as caught:
        view.create_train_test_split(**options)
    assert isinstance(caught.value, ValueError)
    assert view.training_datasets() == []


def test_sizes_that_leave_no_training_rows_are_refused(view: FeatureView) -> None:
    with pytest.raises(InvalidData):
        view.create_train_validation_test_split(0.5, 0.5)
    with pytest.raises(InvalidData, match="both"):
        view.create_train_validation_test_split(validation_size=0.2)


# Transformations


def test_changing_test_rows_changes_no_fitted_number(fs: FeatureStore, view: FeatureView) -> None:
    """V6: model-dependent transformations learn from the training split alone."""
    first, _ = view.create_train_test_split(**TIMES)
    insert_orders(fs, 21, 30, factor=1000.0)
    second, _ = view.create_train_test_split(**TIMES)
    before, after = (view.training_dataset(v).manifest for v in (first, second))
    assert after["transformations"] == before["transformations"]
    assert after["splits"]["train"] == before["splits"]["train"]
    assert after["splits"]["test"] != before["splits"]["test"]


def test_scaler_is_fitted_on_the_training_rows(view: FeatureView) -> None:
    """V6: their mean is 0, that of the test rows is not."""
    version, _ = view.create_train_test_split(**TIMES)
    x_train, x_test, _, _ = view.get_train_test_split(version)
    assert x_train["amount"].mean() == pytest.approx(0)
    assert x_train["amount"].std(ddof=0) == pytest.approx(1)
    assert x_test["amount"].min() > x_train["amount"].max()
    assert not x_train["visits"].isna().any(), "nulls are imputed"


# Batch data


def test_batch_data_has_the_columns_order_and_dtypes_of_training(view: FeatureView) -> None:
    """V8: without labels."""
    version, _ = view.create_train_test_split(**TIMES)
    x_train, x_test, _, _ = view.get_train_test_split(version)
    view.init_batch_scoring(version)
    batch = view.get_batch_data("2021-01-21", "2021-01-31")
    assert batch.columns.tolist() == x_train.columns.tolist() == view.feature_names
    assert batch.dtypes.tolist() == x_train.dtypes.tolist()
    assert_frame_equal(batch, x_test)
    one = view.get_batch_data("2021-01-21", "2021-01-22")
    assert len(one) == 1
    assert one.dtypes.tolist() == x_train.dtypes.tolist(), "dtypes do not depend on the rows"
    nothing = view.get_batch_data("2031-01-01", "2031-01-02")
    assert (len(nothing), nothing.dtypes.tolist()) == (0, x_train.dtypes.tolist())


def test_batch_data_without_transformation_has_the_stored_values(view: FeatureView) -> None:
    batch = view.get_batch_data("2021-01-05", "2021-01-07", transformed=False, primary_keys=True, event_time=True)
    assert batch.columns.tolist() == ["id", "at", *NAMES]
    assert batch["id"].tolist() == [5, 6]
    assert batch["amount"].tolist() == [5 / 7 + 1, 6 / 7 + 1]
    assert batch["weekly"].tolist() == [2 + 1 / 3, 0 + 1 / 3]
    assert batch["visits"].tolist() == [1, pd.NA]
    assert batch["segment"].tolist() == ["high", "high"]


def test_label_only_groups_are_left_out_of_batch_data(fs: FeatureStore, view: FeatureView) -> None:
    view.create_train_test_split(**TIMES)
    orders = fs.get_feature_group("orders", 1)
    unlabelled = {"id": [99], "at": pd.to_datetime(["2021-01-31 12:00"]), "customer": [1], "amount": [9.0]}
    orders.insert(pd.DataFrame(unlabelled))
    assert view.get_batch_data("2021-01-31", "2021-02-01", primary_keys=True)["id"].tolist() == [99]
    assert len(view.training_data()[0]) == 30, "training needs the label"


def test_batch_scoring_without_a_training_dataset_says_what_to_do(view: FeatureView) -> None:
    with pytest.raises(NotFound, match="create_train_test_split"):
        view.get_batch_data()
    with pytest.raises(NotFound, match="create_train_test_split"):
        view.init_serving()


def test_rows_older_than_ttl_are_absent_in_training_batch_and_vectors(fs: FeatureStore) -> None:
    insert_orders(fs)
    insert_spending(fs, ttl=timedelta(days=4))
    view = fraud_view(fs)
    view.create_train_test_split(**TIMES)
    # The newest rows are of 28 January 06:00; the present is 1 February 00:00: 3.75 days later.
    assert view.get_feature_vector({"customer": 1}, passed_features={"amount": 1.0}, transform=False)[1] == 1 + 9 / 3
    fs.clock = lambda: datetime(2021, 2, 1, 6, tzinfo=UTC)
    assert view.get_feature_vector({"customer": 1}, passed_features={"amount": 1.0}, transform=False)[1] == 1 + 9 / 3
    fs.clock = lambda: datetime(2021, 2, 1, 6, 0, 0, 1, tzinfo=UTC)
    with pytest.raises(NotFound, match=r"spending_v1.*customer"):
        view.get_feature_vector({"customer": 1}, passed_features={"amount": 1.0})
    late = {"id": [99], "at": pd.to_datetime(["2021-02-01 06:00:00.000001"]), "customer": [1], "amount": [9.0]}
    fs.get_feature_group("orders", 1).insert(pd.DataFrame(late))
    assert view.get_batch_data("2021-02-01", transformed=False)["weekly"].isna().all()


# Vectors


def _vector(view: FeatureView, customer: int, amount: float, **options: Any) -> list[Any]:
    return view.get_feature_vector({"customer": customer}, passed_features={"amount": amount}, **options)


def test_vector_equals_the_batch_row_to_the_bit(view: FeatureView) -> None:
    version, _ = view.create_train_test_split(**TIMES)
    view.init_serving(version)
    view.init_batch_scoring(version)
    # Each customer's last order is after its newest online row, so both sides see the same values.
    for transformed in (True, False):
        batch = view.get_batch_data("2021-01-28", "2021-01-31", transformed=transformed)
        for row, order in zip(batch.itertuples(index=False, name=None), (28, 29, 30), strict=True):
            vector = _vector(view, order % 3, order / 7 + 1, transform=transformed)
            assert len(vector) == len(row)
            assert all(same(a, b) for a, b in zip(vector, row, strict=True)), (vector, row)


def test_vectors_keep_the_length_and_order_of_their_entries(view: FeatureView) -> None:
    view.create_train_test_split(**TIMES)
    entries = [{"customer": c} for c in (2, 0, 2, 1)]
    passed = [{"amount": float(n)} for n in range(4)]
    vectors = view.get_feature_vectors(entries, passed_features=passed, transform=False)
    assert vectors == [
        [0.0, 2 + 9 / 3, 9, "high"],
        [1.0, 0 + 9 / 3, None, "high"],
        [2.0, 2 + 9 / 3, 9, "high"],
        [3.0, 1 + 9 / 3, 9, "high"],
    ]
    assert view.get_feature_vectors([]) == []
    one_by_one = [
        view.get_feature_vector(e, passed_features=p) for e, p in zip(entries, passed, strict=True)
    ]  # fmt: skip
    assert view.get_feature_vectors(entries, passed_features=passed) == one_by_one
    with pytest.raises(InvalidData, match="4 entries but 1"):
        view.get_feature_vectors(entries, passed_features=passed[:1])


def test_unknown_key_is_not_found_and_named_unless_missing_is_allowed(view: FeatureView) -> None:
    view.create_train_test_split(**TIMES)
    with pytest.raises(NotFound, match=r"spending_v1.*\{'customer': 77\}"):
        _vector(view, 77, 1.0)
    assert _vector(view, 77, 1.0, allow_missing=True, transform=False) == [1.0, None, None, None]
    found = view.get_feature_vectors([{"customer": 77}, {"customer": 1}], allow_missing=True, transform=False)
    assert found == [[None, None, None, None], [None, 1 + 9 / 3, 9, "high"]]


def test_serving_keys_are_those_of_groups_that_give_features(view: FeatureView) -> None:
    view.create_train_test_split(**TIMES)
    assert view.serving_keys == ["customer"], "neither the order's id nor the label's"
    with pytest.raises(SchemaMismatch, match=r"lacks \['customer'\]"):
        view.get_feature_vector({})
    with pytest.raises(SchemaMismatch, match=r"lacks \['customer'\] and has the unknown \['custommer'\]"):
        view.get_feature_vector({"custommer": 1})
    with pytest.raises(SchemaMismatch, match=r"unknown \['id'\]"):
        view.get_feature_vector({"customer": 1, "id": 3})


@pytest.mark.parametrize("wrong", ["5", [5.0], True])
@pytest.mark.parametrize("transform", [True, False])
def test_passed_feature_of_a_wrong_type_is_refused(view: FeatureView, wrong: Any, transform: bool) -> None:
    view.create_train_test_split(**TIMES)
    with pytest.raises(SchemaMismatch, match=r"amount.*double"):
        view.get_feature_vector({"customer": 1}, passed_features={"amount": wrong}, transform=transform)
    with pytest.raises(SchemaMismatch, match=r"segment.*string"):
        view.get_feature_vector({"customer": 1}, passed_features={"amount": 1.0, "segment": 5}, transform=transform)


def test_passed_whole_number_becomes_a_float_where_training_has_floats(view: FeatureView) -> None:
    view.create_train_test_split(**TIMES)
    passed = view.get_feature_vector({"customer": 1}, passed_features={"amount": 5}, transform=False)[0]
    assert (passed, type(passed)) == (5.0, float)


@pytest.mark.parametrize("wrong", ["1", 1.5, [1]])
def test_key_of_a_wrong_type_is_refused(view: FeatureView, wrong: Any) -> None:
    view.create_train_test_split(**TIMES)
    with pytest.raises((SchemaMismatch, InvalidData), match="customer"):
        view.get_feature_vector({"customer": wrong}, passed_features={"amount": 1.0})


def test_a_null_key_is_a_missing_one(view: FeatureView) -> None:
    """V11: said before anything is read."""
    view.create_train_test_split(**TIMES)
    with pytest.raises(SchemaMismatch, match="'customer': None"):
        view.get_feature_vector({"customer": None}, passed_features={"amount": 1.0})


def test_a_filter_that_online_rows_cannot_obey_is_an_error_at_init_serving(fs: FeatureStore, view: FeatureView) -> None:
    orders, spending = fs.get_feature_group("orders", 1), fs.get_feature_group("spending", 1)
    low = spending.select(["weekly"]).filter(spending["segment"] == "low")
    low_view = fs.create_feature_view("low", query=orders.select(["amount"]).join(low))
    low_view.create_training_data()
    assert len(low_view.get_batch_data()) == 30
    with pytest.raises(SchemaMismatch, match="spending_v1 is joined with a filter"):
        low_view.init_serving()


def test_on_demand_features_must_come_with_the_request(view: FeatureView) -> None:
    view.create_train_test_split(**TIMES)
    with pytest.raises(SchemaMismatch, match=r"\['amount'\].*passed_features"):
        view.get_feature_vector({"customer": 1})
    with pytest.raises(SchemaMismatch, match=r"amuont.*amount"):
        view.get_feature_vector({"customer": 1}, passed_features={"amuont": 1.0})
    replaced = view.get_feature_vector(
        {"customer": 1}, passed_features={"amount": float("nan"), "visits": 3}, transform=False
    )
    assert replaced == [None, 1 + 9 / 3, 3, "high"], "a NaN is a null, and a passed value replaces a stored one"


def test_a_group_that_is_not_online_is_an_error_at_init_serving(fs: FeatureStore) -> None:
    insert_orders(fs)
    insert_spending(fs, online=False)
    view = fraud_view(fs)
    view.create_train_test_split(**TIMES)
    with pytest.raises(SchemaMismatch, match=r"spending_v1.*weekly.*online_enabled=True"):
        view.init_serving()


def test_vectors_use_the_training_dataset_chosen(fs: FeatureStore, view: FeatureView) -> None:
    first, _ = view.create_train_test_split(**TIMES)
    view.init_serving(first)
    before = _vector(view, 1, 5.0)
    insert_orders(fs, 1, 20, factor=100.0)
    view.create_train_test_split(**TIMES)
    assert _vector(view, 1, 5.0) == before, "a newer training dataset changes nothing for who serves an older one"
    view.init_serving()
    assert _vector(view, 1, 5.0) != before
    view.init_serving(first)
    assert _vector(view, 1, 5.0) == before


def test_key_renamed_in_the_join_is_named_as_in_the_spine(fs: FeatureStore) -> None:
    orders = fs.get_or_create_feature_group("orders", 1, primary_key=["id"], event_time="at")
    orders.insert(pd.DataFrame({"id": [1, 2], "at": moments(2, 3), "buyer": [7, 8], "is_fraud": [0, 1]}))
    cards = fs.get_or_create_feature_group("cards", 1, primary_key=["card"], event_time="at", online_enabled=True)
    cards.insert(pd.DataFrame({"card": [7, 8], "at": moments(1, 2), "top": [70, 80]}))
    query = orders.select(["is_fraud"]).join(cards.select(["top"]), left_on=["buyer"], right_on=["card"])
    view = fs.create_feature_view("renamed", query=query, labels=["is_fraud"])
    view.create_training_data()
    assert view.get_feature_vector({"buyer": 8}) == [80]
    with pytest.raises(SchemaMismatch, match="buyer"):
        view.get_feature_vector({"card": 8})
