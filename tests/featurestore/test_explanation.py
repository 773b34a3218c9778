"""`explain` says of each feature of a row where it comes from, or why it is null; transforming by hand; statistics."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from featurestore import FeatureStore, FeatureView, NotFound, NotReproducible, SchemaMismatch, connect
from featurestore.transformations import impute_mean, one_hot_encoder, standard_scaler

START = datetime(2021, 2, 1, tzinfo=UTC)


class Clock:
    """One hour later at every look."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(hours=1)
        return self.now


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[FeatureStore]:
    store = connect(tmp_path, clock=Clock())
    yield store
    store.close()


def days(*numbers: int) -> pd.DatetimeIndex:
    return pd.DatetimeIndex([f"2021-01-{n:02d}" for n in numbers], tz="UTC")


@pytest.fixture
def view(fs: FeatureStore) -> FeatureView:
    """Orders 1 to 4 on the 10th to 13th by customers 7, 8, null, 9; what was known of 7, 8 (long ago) and 9 (later)."""
    orders = fs.get_or_create_feature_group("orders", 1, primary_key=["id"], event_time="at")
    columns = {"id": [1, 2, 3, 4], "at": days(10, 11, 12, 13), "customer": pd.array([7, 8, None, 9], "Int64")}
    orders.insert(pd.DataFrame(columns | {"amount": [1.0, 2.0, 3.0, 4.0]}))
    customers = fs.get_or_create_feature_group(
        "customers", 1, primary_key=["customer"], event_time="at", ttl=timedelta(days=5)
    )
    known = {"customer": [7, 7, 8, 9], "at": days(8, 10, 1, 20), "weekly": [70.0, None, 80.0, 90.0]}
    customers.insert(pd.DataFrame(known | {"city": ["Oslo", "Bern", "Oslo", "Oslo"]}))
    cities = fs.get_or_create_feature_group("cities", 1, primary_key=["city"])
    cities.insert(pd.DataFrame({"city": ["Bern"], "people": [130_000]}))
    query = orders.select(["amount"]).join(
        customers.select(["weekly", "city"]).join(cities.select(["people"])), on=["customer"]
    )
    return fs.create_feature_view("view", query=query)


def rows_of(view: FeatureView, **options: Any) -> dict[str, dict[str, Any]]:
    found = view.explain(**options)
    return {row["feature"]: row for row in found.astype(object).where(found.notna(), None).to_dict("records")}


def test_each_feature_says_which_row_of_which_commit_it_is(fs: FeatureStore, view: FeatureView) -> None:
    """J2, J3: the newest row not later than the spine's, also when its value is null; values of one's own type."""
    found = rows_of(view, keys={"id": 1})
    assert list(found) == ["amount", "weekly", "city", "people"]
    assert (found["amount"]["value"], found["amount"]["event_time"]) == (1.0, days(10)[0])
    assert (found["city"]["value"], found["city"]["event_time"]) == ("Bern", days(10)[0])
    assert (found["city"]["group"], found["city"]["group_version"]) == ("customers", 1)
    assert found["weekly"]["reason"] == "its value is null in that row"
    assert found["weekly"]["event_time"] == days(10)[0]
    assert (found["people"]["value"], found["people"]["event_time"]) == (130_000, None)
    commit = fs.get_feature_group("customers", 1).history()[-1]
    assert (found["city"]["commit_version"], found["city"]["committed_at"]) == (commit.version, commit.time)
    assert found["city"]["reason"] is None


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (2, r"expired: the newest row of customer=8 is of 2021-01-01 .* more than 5 days"),
        (3, "the key 'customer' of orders_v1 is null"),
        (4, r"no row of customer=9 at or before 2021-01-13 .*\(there are later ones\)"),
    ],
)
def test_a_null_says_why(view: FeatureView, order: int, reason: str) -> None:
    """J1, J5, G18: expired, a null key, and nothing yet are told apart; below them there is nothing to join to."""
    found = view.explain({"id": order}).set_index("feature")
    assert pd.Series([found.loc["city", "reason"]]).str.contains(reason, regex=True).all(), found.loc["city", "reason"]
    assert found.loc["city", "commit_version"] is pd.NA
    assert found.loc["people", "reason"] == "there is no row of customers_v1 to join cities_v1 to"


def test_a_filter_of_a_joined_query_is_named(fs: FeatureStore, view: FeatureView) -> None:
    """J8: candidates that a filter takes away are said to be there."""
    customers = fs.get_feature_group("customers", 1)
    query = fs.get_feature_group("orders", 1).select(["amount"])
    rich = fs.create_feature_view(
        "rich", query=query.join(customers.select(["weekly"]).filter(customers["weekly"] > 75), on=["customer"])
    )
    assert rows_of(rich, keys={"id": 1})["weekly"]["reason"] == "no row of customer=7 meets the filter of customers_v1"
    gone = fs.get_feature_group("orders", 1)
    gone.insert(pd.DataFrame({"id": [5], "at": days(14), "customer": [5], "amount": [1.0]}))
    assert rows_of(rich, keys={"id": 5})["weekly"]["reason"].startswith("no row of customer=5 at or before 2021-01-14")


def test_the_row_and_the_training_dataset_can_be_chosen(fs: FeatureStore, view: FeatureView) -> None:
    """V2: of a training dataset the pinned versions are explained, with its own limit of age."""
    version, _ = view.create_training_data(max_age=timedelta(hours=1))
    orders, customers = (fs.get_feature_group(n, 1) for n in ("orders", "customers"))
    orders.insert(pd.DataFrame({"id": [1], "at": days(20), "customer": [7], "amount": [9.0]}))
    customers.insert(pd.DataFrame({"customer": [7], "at": days(10), "weekly": [71.0], "city": ["Bern"]}))
    assert rows_of(view, keys={"id": 1})["amount"]["value"] == 9.0
    assert rows_of(view, keys={"id": 1}, time="2021-01-15")["amount"]["value"] == 1.0
    now = rows_of(view, keys={"id": 1}, time="2021-01-10")["weekly"]
    assert (now["value"], now["commit_version"]) == (71.0, customers.delta_version)
    then = rows_of(view, keys={"id": 1}, training_dataset_version=version)
    assert (then["amount"]["value"], then["weekly"]["value"]) == (1.0, None)
    aged = rows_of(view, keys={"id": 2}, training_dataset_version=version)["weekly"]["reason"]
    assert "more than 1:00:00 before" in aged


def test_what_cannot_be_explained_is_named(view: FeatureView) -> None:
    with pytest.raises(NotFound, match=r"no row of \{'id': 99\}"):
        view.explain({"id": 99})
    with pytest.raises(NotFound, match=r"\{'id': 1\} at or before 2021-01-01"):
        view.explain({"id": 1}, "2021-01-01")
    with pytest.raises(SchemaMismatch, match=r"primary key \['id'\], got \['customer'\]"):
        view.explain({"customer": 7})
    with pytest.raises(SchemaMismatch, match="'one'"):
        view.explain({"id": "one"})
    with pytest.raises(NotFound, match="no training dataset 4"):
        view.explain({"id": 1}, training_dataset_version=4)


def test_explanations_come_as_any_frame(view: FeatureView) -> None:
    found = view.explain({"id": 1}, dataframe_type="arrow")
    assert found["value"].to_pylist() == ["1.0", None, "Bern", "130000"]
    assert view.explain({"id": 1}, dataframe_type="polars").height == 4


# Transforming by hand


@pytest.fixture
def scaled(fs: FeatureStore, view: FeatureView) -> FeatureView:
    functions = {"amount": standard_scaler, "weekly": [impute_mean, standard_scaler], "city": one_hot_encoder}
    made = fs.create_feature_view("scaled", query=view.query, transformation_functions=functions)
    made.create_training_data()
    return made


def test_transform_gives_what_batch_data_are(scaled: FeatureView) -> None:
    """V10: frames of any library, vectors as lists and dicts: the numbers of `get_batch_data`, to the bit."""
    raw = scaled.get_batch_data(transformed=False)
    expected = scaled.get_batch_data()
    assert_frame_equal(scaled.transform(raw), expected)
    shuffled = raw[["people", "city", "weekly", "amount"]]
    assert_frame_equal(scaled.transform(shuffled), expected)
    for kind in ("polars", "arrow"):
        frame = scaled.get_batch_data(transformed=False, dataframe_type=kind)
        assert scaled.transform(frame).equals(scaled.get_batch_data(dataframe_type=kind))
    vector = [1.0, None, "Bern", 130_000]
    names = [f.name for f in scaled.features]
    first = scaled.get_batch_data(dataframe_type="arrow").slice(0, 1).to_pylist()[0]
    assert scaled.transform(vector) == list(first.values())
    assert scaled.transform([vector, vector]) == [list(first.values())] * 2
    assert scaled.transform(dict(zip(names, vector, strict=True))) == first
    assert list(scaled.transform(dict(zip(names, vector, strict=True)))) == scaled.feature_names


# Statistics of a training dataset


def test_statistics_are_of_each_split_raw_and_as_the_model_sees_it(fs: FeatureStore, scaled: FeatureView) -> None:
    """V2, G16: by the pins, whatever was written since; once computed they outlive the pins."""
    version, _ = scaled.create_train_test_split(train_end="2021-01-13")
    fs.get_feature_group("orders", 1).insert(
        pd.DataFrame({"id": [1], "at": days(10), "customer": [7], "amount": [500.0]})
    )
    found = scaled.training_dataset_statistics(version)
    assert list(found) == ["train", "test"]
    raw, transformed = found["train"]["raw"], found["train"]["transformed"]
    assert (raw["amount"]["mean"], raw["amount"]["count"], raw["amount"]["max"]) == (2.0, 3, 3.0)
    assert transformed["amount"]["mean"] == pytest.approx(0)
    assert (raw["weekly"]["null_count"], transformed["weekly"]["null_count"]) == (3, 3)
    assert transformed["city_Bern"]["mean"] == pytest.approx(1 / 3)
    assert (found["test"]["raw"]["amount"]["min"], found["test"]["raw"]["amount"]["count"]) == (4.0, 1)
    for file in Path(fs.get_feature_group("orders", 1).location).rglob("*.parquet"):
        file.unlink()
    assert scaled.training_dataset_statistics(version) == found
    with pytest.raises(NotReproducible):
        scaled.training_dataset_statistics(1)
    scaled.delete_training_dataset(version)
    with pytest.raises(NotFound):
        scaled.training_dataset_statistics(version)
