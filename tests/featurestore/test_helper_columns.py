"""Helper columns travel beside the features and are none; options of a training dataset narrow its rows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from featurestore import (
    FeatureGroup,
    FeatureStore,
    FeatureView,
    InvalidData,
    JoinError,
    NotFound,
    SchemaMismatch,
    connect,
)
from featurestore.query import Column
from featurestore.transformations import label_encoder, one_hot_encoder, standard_scaler

NOW = datetime(2021, 2, 1, tzinfo=UTC)


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[FeatureStore]:
    store = connect(tmp_path, clock=lambda: NOW)
    yield store
    store.close()


def days(*numbers: int) -> pd.DatetimeIndex:
    return pd.DatetimeIndex([f"2021-01-{n:02d}" for n in numbers], tz="UTC")


@pytest.fixture
def trips(fs: FeatureStore) -> FeatureGroup:
    """Ten trips, one a day, of drivers 0, 1, 2, 0, ...; every third is late."""
    group = fs.get_or_create_feature_group("trips", 1, primary_key=["id"], event_time="day")
    number = range(1, 11)
    columns = {
        "id": number, "day": days(*number), "driver": [n % 3 for n in number], "km": [float(n) for n in number],
        "city": ["Oslo" if n % 2 else "Bern" for n in number], "is_late": [int(n % 3 == 0) for n in number],
    }  # fmt: skip
    group.insert(pd.DataFrame(columns))
    return group


@pytest.fixture
def drivers(fs: FeatureStore) -> FeatureGroup:
    """What was known of drivers 0 and 1 on the first of January."""
    group = fs.get_or_create_feature_group("drivers", 1, primary_key=["driver"], event_time="day")
    group.insert(pd.DataFrame({"driver": [0, 1], "day": days(1, 1), "rating": [3.0, 4.0]}))
    return group


def view_of(fs: FeatureStore, trips: FeatureGroup, **options: Any) -> FeatureView:
    query = trips.select(["km", "city", "driver", "is_late"])
    return fs.get_or_create_feature_view("late", 1, query=query, labels=["is_late"], **options)


def test_helper_columns_come_only_when_asked_for_and_untransformed(fs: FeatureStore, trips: FeatureGroup) -> None:
    """V2, V8: helpers are no features: not in feature_names, not transformed, before the features when asked for."""
    view = view_of(
        fs, trips, training_helper_columns=["city"], inference_helper_columns=["driver"],
        transformation_functions={"km": standard_scaler},
    )  # fmt: skip
    version, _ = view.create_train_test_split(train_end="2021-01-08")
    x, _, y, _ = view.get_train_test_split(version)
    assert (x.columns.tolist(), y.columns.tolist()) == (["km"], ["is_late"])
    x = view.get_train_test_split(version, training_helper_columns=True, primary_keys=True)[0]
    assert x.columns.tolist() == ["id", "city", "km"]
    assert x["city"].tolist() == ["Oslo", "Bern", "Oslo", "Bern", "Oslo", "Bern", "Oslo"]
    assert view.feature_names == ["km"]
    assert [f.name for f in view.features] == ["km"]

    assert view.get_batch_data().columns.tolist() == ["km"]
    batch = view.get_batch_data(start_time="2021-01-10", inference_helper_columns=True, event_time=True)
    assert batch.columns.tolist() == ["day", "driver", "km"]
    assert batch["driver"].tolist() == [1]


def test_a_view_found_again_knows_its_helpers_tags_and_logging(fs: FeatureStore, trips: FeatureGroup) -> None:
    options: dict[str, Any] = {"training_helper_columns": ["city"], "inference_helper_columns": ["city", "driver"]}
    view_of(fs, trips, **options, tags={"team": "fraud"}, description="first")
    again = view_of(fs, trips, **options, tags={"stage": 2}, logging_enabled=True)
    for view in (again, fs.get_feature_view("late", 1)):
        assert view.training_helper_columns == ["city"]
        assert view.inference_helper_columns == ["city", "driver"]
        assert (view.tags, view.logging_enabled, view.description) == ({"team": "fraud", "stage": 2}, True, "first")
    with pytest.raises(SchemaMismatch, match=r"another training helper columns.*version=2"):
        view_of(fs, trips, inference_helper_columns=["city", "driver"])


def test_a_definition_of_before_there_were_helpers_still_loads(fs: FeatureStore, trips: FeatureGroup) -> None:
    view = view_of(fs, trips)
    _, _, definition = fs.catalog.find("feature view", "late", 1)
    old = {k: definition[k] for k in ("query", "labels", "transformations", "description")}
    fs.catalog.update(view.id, old)
    again = fs.get_feature_view("late", 1)
    assert (again.training_helper_columns, again.tags, again.logging_enabled) == ([], {}, False)
    assert view_of(fs, trips).get_batch_data(transformed=False).columns.tolist() == ["km", "city", "driver"]
    version, _ = again.create_training_data()
    _, manifest = fs.catalog.training_datasets(view.id).popitem()
    for key in ("training_helper_columns", "max_age_microseconds", "as_known"):
        del manifest[key]
    second = fs.catalog.add_training_dataset(view.id, manifest)
    assert again.get_training_data(second)[0].equals(again.get_training_data(version)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"training_helper_columns": ["town"]}, r"training helper columns \['town'\] are not among"),
        ({"inference_helper_columns": ["is_late"]}, "both labels and helper columns"),
        ({"training_helper_columns": ["city", "city"]}, "more than once"),
        ({"training_helper_columns": ["city"], "transformation_functions": {"city": label_encoder}}, "'city'"),
        ({"training_helper_columns": ["km", "city", "driver"]}, "No feature is left"),
        ({"labels": ["is_soon"]}, r"labels \['is_soon'\]"),
    ],
)
def test_helpers_that_cannot_be_are_refused(
    fs: FeatureStore, trips: FeatureGroup, options: dict[str, Any], message: str
) -> None:
    query = trips.select(["km", "city", "driver", "is_late"])
    with pytest.raises(SchemaMismatch, match=message):
        fs.create_feature_view("late", query=query, **{"labels": ["is_late"], **options})
    assert fs.get_feature_views() == []


def test_a_transformation_whose_output_has_a_helpers_name_is_refused(fs: FeatureStore) -> None:
    group = fs.get_or_create_feature_group("g", 1, primary_key=["id"])
    group.insert(pd.DataFrame({"id": [1, 2], "x": ["a", "b"], "x_a": [1, 2]}))
    view = fs.create_feature_view(
        "clash", query=group.select(["x", "x_a"]), training_helper_columns=["x_a"],
        transformation_functions={"x": one_hot_encoder},
    )  # fmt: skip
    with pytest.raises(SchemaMismatch, match=r"Two columns would be called 'x_a'"):
        view.create_training_data()
    assert view.training_datasets() == []


def test_max_age_makes_older_feature_rows_missing(fs: FeatureStore, trips: FeatureGroup, drivers: FeatureGroup) -> None:
    """V2, G18: like a ttl of this training dataset alone: an age equal to it still counts, the label's never does."""
    query = trips.select(["km", "is_late"]).join(drivers.select(["rating"]), on=["driver"])
    view = fs.create_feature_view("aged", query=query, labels=["is_late"])
    aged, _ = view.create_training_data(max_age=timedelta(days=3))
    x, _ = view.get_training_data(aged, primary_keys=True)
    assert x.set_index("id")["rating"].dropna().to_dict() == {1: 4.0, 3: 3.0, 4: 4.0}, "1 to 4 January; 2 is unknown"
    assert view.training_dataset(aged).max_age == timedelta(days=3)
    whole, _ = view.create_training_data()
    assert view.get_training_data(whole)[0]["rating"].notna().sum() == 7
    assert view.training_dataset(whole).max_age is None
    with pytest.raises(InvalidData, match="max_age"):
        view.create_training_data(max_age=3)  # type: ignore[arg-type]


def test_max_age_holds_in_batch_data_and_vectors_too(fs: FeatureStore, trips: FeatureGroup) -> None:
    """V10: what counted as missing in training is missing when the model is used, or there would be a skew."""
    ratings = fs.get_or_create_feature_group(
        "ratings", 1, primary_key=["driver"], event_time="day", online_enabled=True
    )  # fmt: skip
    ratings.insert(pd.DataFrame({"driver": [0, 1, 2], "day": days(1, 9, 10), "rating": [3.0, 4.0, 5.0]}))
    query = trips.select(["is_late"]).join(ratings.select(["rating"]), on=["driver"])
    view = fs.create_feature_view("aged", query=query, labels=["is_late"])
    view.create_training_data(max_age=(NOW - datetime(2021, 1, 9, tzinfo=UTC)))
    narrow, _ = view.create_training_data(max_age=timedelta(hours=12))
    view.init_batch_scoring(narrow)
    batch = view.get_batch_data(primary_keys=True).set_index("id")["rating"]
    assert batch.dropna().empty, "no trip is within 12 hours of a rating of its driver"
    view.init_batch_scoring(1)
    assert view.get_batch_data(primary_keys=True).set_index("id")["rating"].dropna().to_dict() == {
        3: 3,
        6: 3,
        9: 3,
        10: 4,
    }
    view.init_serving(1)
    vectors = view.get_feature_vectors([{"driver": n} for n in range(3)], allow_missing=True)
    assert vectors == [[None], [4.0], [5.0]], "on the first of February the rating of driver 0 is too old"
    with pytest.raises(NotFound, match="older than its ttl 23 days"):
        view.get_feature_vector({"driver": 0})


def test_an_entity_may_be_any_column_of_the_spine(fs: FeatureStore, trips: FeatureGroup, drivers: FeatureGroup) -> None:
    """V5: `entity=` keeps every key on one side, whether the query selects it or not."""
    query = trips.select(["km", "is_late"]).join(drivers.select(["rating"]), on=["driver"])
    view = fs.create_feature_view("sided", query=query, labels=["is_late"])
    version, _ = view.create_train_test_split(0.4, entity="driver", seed=3)
    sides = view.get_train_test_split(version, primary_keys=True)[:2]
    drivers_of = [{n % 3 for n in side["id"]} for side in sides]
    assert drivers_of[0] | drivers_of[1] == {0, 1, 2}
    assert not drivers_of[0] & drivers_of[1]
    assert sides[0].columns.tolist() == ["id", "km", "rating"], "the entity is no column of the training dataset"
    with pytest.raises(SchemaMismatch, match=r"no column \['town'\].*'driver'"):
        view.create_train_test_split(0.4, entity=["town"])


def test_rows_without_a_label_are_refused(fs: FeatureStore, trips: FeatureGroup) -> None:
    outcomes = fs.get_or_create_feature_group("outcomes", 1, primary_key=["id"], event_time="day")
    outcomes.insert(pd.DataFrame({"id": [1, 2, 3, 9], "day": days(1, 2, 3, 9), "paid": [1, 0, 1, 0]}))
    left = fs.create_feature_view(
        "left", query=trips.select(["km"]).join(outcomes.select(["paid"]), on=["id"]), labels=["paid"]
    )
    with pytest.raises(InvalidData, match=r"\['paid'\]: 3 in the train split, 3 in the test split.*inner"):
        left.create_train_test_split(train_end="2021-01-07")
    assert left.training_datasets() == []
    version, _ = left.create_train_test_split(train_end="2021-01-07", extra_filter=~outcomes["paid"].is_null())
    assert left.training_dataset(version).rows == {"train": 3, "test": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_size": 0.2, "train_end": "2021-01-05"}, r"at random, so \['train_end'\]"),
        ({"test_size": 0.2, "embargo": timedelta(days=1)}, r"\['embargo'\]"),
    ],
)
def test_a_split_by_size_takes_no_times(
    fs: FeatureStore, trips: FeatureGroup, options: dict[str, Any], message: str
) -> None:
    """V4: what cannot hold together is refused, not dropped in silence."""
    with pytest.raises(InvalidData, match=message):
        view_of(fs, trips).create_train_test_split(**options)


def test_a_filter_on_what_the_view_does_not_read_is_refused(
    fs: FeatureStore, trips: FeatureGroup, drivers: FeatureGroup
) -> None:
    """J8: the message names the column and its group; no version is made."""
    view = view_of(fs, trips)
    with pytest.raises(JoinError, match=r"'rating' of drivers_v1"):
        view.create_training_data(extra_filter=drivers["rating"] > 3)
    with pytest.raises(SchemaMismatch, match="'speed'"):
        view.create_training_data(extra_filter=Column(trips.ref, "speed") > 3)
    assert view.training_datasets() == []
    version, _ = view.create_training_data(extra_filter=trips["id"] > 8)
    assert view.get_training_data(version, primary_keys=True)[0]["id"].tolist() == [9, 10], "selected or not"


def test_as_known_needs_the_time_of_each_row(fs: FeatureStore, drivers: FeatureGroup) -> None:
    """J9: rows without a time know nothing, so nothing is guessed."""
    towns = fs.get_or_create_feature_group("towns", 1, primary_key=["driver"])
    towns.insert(pd.DataFrame({"driver": [0], "people": [1]}))
    view = fs.create_feature_view("timeless", query=towns.select(["people"]).join(drivers.select(["rating"])))
    with pytest.raises(InvalidData, match=r"towns_v1 has no event time"):
        view.create_training_data(as_known=True)
    version, _ = view.create_training_data()
    assert view.training_dataset(version).late_cells == {}
    assert view.verify_training_dataset(version).rows == {"all": 1}


def test_a_timeless_row_sees_what_counted_when_the_dataset_was_made(tmp_path: Path) -> None:
    """V2, G18, J2: the ttl counts from the moment the dataset was made, also when it is built again years later."""
    now = NOW
    fs = connect(tmp_path, clock=lambda: now)
    towns = fs.get_or_create_feature_group("towns", 1, primary_key=["driver"])
    towns.insert(pd.DataFrame({"driver": [0, 1], "people": [1, 2]}))
    ratings = fs.get_or_create_feature_group(
        "ratings", 1, primary_key=["driver"], event_time="day", ttl=timedelta(days=30)
    )  # fmt: skip
    ratings.insert(pd.DataFrame({"driver": [0, 1], "day": days(1, 20), "rating": [3.0, 4.0]}))
    view = fs.create_feature_view("timeless", query=towns.select(["people"]).join(ratings.select(["rating"])))
    x, _ = view.training_data()
    assert x["rating"].isna().tolist() == [True, False], "31 and 12 days before the first of February"
    now = NOW + timedelta(days=1000)
    assert view.get_training_data(1)[0].equals(x)
    assert view.verify_training_dataset(1).version == 1
    assert view.get_batch_data(transformed=False)["rating"].isna().all()
    fs.close()


def test_the_wrong_get_names_the_right_one(fs: FeatureStore, trips: FeatureGroup) -> None:
    view = view_of(fs, trips)
    version, _ = view.create_train_validation_test_split(0.3, 0.3)
    with pytest.raises(InvalidData, match=r"get_train_validation_test_split\(1\)"):
        view.get_training_data(version)
    with pytest.raises(NotFound, match="no training dataset 7"):
        view.get_training_data(7)


def test_a_view_over_a_deleted_group_says_so(fs: FeatureStore, trips: FeatureGroup, drivers: FeatureGroup) -> None:
    query = trips.select(["km", "is_late"]).join(drivers.select(["rating"]), on=["driver"])
    view = fs.create_feature_view("broken", query=query, labels=["is_late"])
    drivers.delete(force=True)
    with pytest.raises(NotFound, match=r"broken version 1 reads a feature group that is not there any more.*drivers"):
        view.create_training_data()
