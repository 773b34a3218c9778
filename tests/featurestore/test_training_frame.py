"""A frame that is not stored as the spine: it keeps what it is and gains the features of its times."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from featurestore import FeatureGroup, FeatureStore, JoinError, SchemaMismatch, connect


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[FeatureStore]:
    store = connect(tmp_path)
    yield store
    store.close()


def days(*numbers: int | None) -> pd.DatetimeIndex:
    return pd.to_datetime([None if n is None else f"2021-01-{n:02d}" for n in numbers])


@pytest.fixture
def spending(fs: FeatureStore) -> FeatureGroup:
    group = fs.get_or_create_feature_group("spending", 1, primary_key=["customer"], event_time="day")
    group.insert(pd.DataFrame({"customer": [1, 1, 2], "day": days(1, 5, 3), "amount": [10, 50, 23]}))
    return group


@pytest.fixture
def people(fs: FeatureStore) -> FeatureGroup:
    group = fs.get_or_create_feature_group("people", 1, primary_key=["person"])
    group.insert(pd.DataFrame({"person": [1, 2], "country": ["NO", "SE"]}))
    return group


def test_every_group_joins_to_the_frame_the_left_most_too(
    fs: FeatureStore, spending: FeatureGroup, people: FeatureGroup
) -> None:
    """J10: twins, unknown, null keys and null times are kept, in the frame's own order, with its columns and index."""
    query = spending.select(["amount"]).join(people.select(["country"]), left_on=["customer"], right_on=["person"])
    frame = pd.DataFrame(
        {
            "note": pd.Categorical(["a", "b", "a", "c", "d", "e"]),
            "customer": [2, 1, 1, 9, None, 1],
            "day": days(3, 9, 9, 9, 9, None),
        },
        index=[7, 3, 3, 1, 0, 5],
    )
    found = fs.training_frame(frame, query)
    pd.testing.assert_frame_equal(found[["note", "customer", "day"]], frame)
    assert found.columns.tolist() == ["note", "customer", "day", "amount", "country"]
    assert found["amount"].tolist() == [23, 50, 50, pd.NA, pd.NA, pd.NA]
    assert [None if pd.isna(c) else c for c in found["country"]] == ["SE", "NO", "NO", None, None, "NO"]


def test_event_time_names_the_frames_time_and_naive_times_are_utc(fs: FeatureStore, spending: FeatureGroup) -> None:
    """J10: any zone, any unit; equal times count."""
    query = spending.select(["amount"])
    frame = pd.DataFrame({"customer": [1, 1, 1], "asked": pd.to_datetime(["2021-01-05", "2021-01-04", "2020-01-01"])})
    assert fs.training_frame(frame, query, event_time="asked")["amount"].tolist() == [50, 10, pd.NA]
    zoned = frame.assign(
        asked=frame["asked"].dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo").astype("datetime64[s, Asia/Tokyo]")
    )
    assert fs.training_frame(zoned, query, event_time="asked")["amount"].tolist() == [50, 10, pd.NA]
    with pytest.raises(JoinError, match=r"no column 'day', which is spending_v1's event time.*asked.*event_time="):
        fs.training_frame(frame, query)
    with pytest.raises(JoinError, match="no column 'when'"):
        fs.training_frame(frame, query, event_time="when")
    with pytest.raises(SchemaMismatch, match=r"'asked' is string, expected timestamp"):
        fs.training_frame(frame.astype({"asked": str}), query, event_time="asked")


def test_frames_of_each_library_come_back_as_their_own(fs: FeatureStore, spending: FeatureGroup) -> None:
    """J10: pandas, Polars and Arrow, or the library asked for."""
    query = spending.select(["amount"])
    times = [datetime(2021, 1, 6, tzinfo=UTC), datetime(2021, 1, 3, tzinfo=UTC)]
    frame = pl.DataFrame({"customer": [1, 2], "day": times, "text": ["x", "y"]})
    found = fs.training_frame(frame, query)
    assert isinstance(found, pl.DataFrame)
    assert found.drop("amount").equals(frame)
    assert found["amount"].to_list() == [50, 23]
    table = fs.training_frame(frame.to_arrow(), query)
    assert isinstance(table, pa.Table)
    assert table.column("amount").to_pylist() == [50, 23]
    assert isinstance(fs.training_frame(frame, query, dataframe_type="pandas"), pd.DataFrame)
    assert fs.training_frame(frame.clear(), query).columns == ["customer", "day", "text", "amount"]


def test_keys_compare_as_what_they_are(fs: FeatureStore, spending: FeatureGroup) -> None:
    """J5, J10: whole floats and any width of integer are numbers, text is not; a number too large matches nothing."""
    query = spending.select(["amount"])

    def found(keys: object) -> list[object]:
        frame = pd.DataFrame({"customer": keys, "day": days(9, 9)})
        return fs.training_frame(frame, query, dataframe_type="arrow").column("amount").to_pylist()

    assert found(np.array([1, 2], dtype="uint8")) == [50, 23]
    assert found([1.0, np.nan]) == [50, None]
    assert found([2**62, 2]) == [None, 23]
    assert found(pd.array([None, None], dtype="object")) == [None, None]
    with pytest.raises(JoinError, match=r"'customer' of entities is string.*of spending_v1 is int64"):
        found(["1", "2"])
    with pytest.raises(JoinError, match=r"'customer' of entities is double.*of spending_v1 is int64"):
        found([1.5, 2.0])


def test_names_clash_with_the_frames_columns(fs: FeatureStore, spending: FeatureGroup, people: FeatureGroup) -> None:
    """J6, J10: an error, but for keys and time, of which the frame's stand."""
    frame = pd.DataFrame({"customer": [1], "day": days(9), "amount": [0]})
    with pytest.raises(JoinError, match=r"entities and spending_v1.*'amount'"):
        fs.training_frame(frame, spending.select(["amount"]))
    found = fs.training_frame(frame[["customer", "day"]], spending.select_all())
    assert found.columns.tolist() == ["customer", "day", "amount"]
    assert found["day"].tolist() == days(9).tolist()
    with pytest.raises(JoinError, match=r"people_v1 has the primary key \['person'\].*entities"):
        fs.training_frame(frame, people.select(["country"]), event_time="day")


def test_filters_and_inner_joins_of_the_query_hold(fs: FeatureStore, spending: FeatureGroup) -> None:
    """J4, J8, J10: the left-most group's own filter restricts its candidates, one on the whole drops rows."""
    frame = pd.DataFrame({"customer": [1, 2, 3], "day": days(9, 9, 9)})
    cheap = spending.select(["amount"]).filter(spending["amount"] < 30)
    assert fs.training_frame(frame, cheap)["amount"].tolist() == [10, 23, pd.NA]
    cards = fs.get_or_create_feature_group("cards", 1, primary_key=["customer"], event_time="day")
    cards.insert(pd.DataFrame({"customer": [2, 3], "day": days(1, 1), "card": ["x", "y"]}))
    inner = spending.select(["amount"]).join(cards.select(["card"]), join_type="inner")
    assert fs.training_frame(frame, inner)["customer"].tolist() == [2, 3]
    whole = inner.filter(spending["amount"] > 0)
    assert fs.training_frame(frame, whole)["card"].tolist() == ["x"]


def test_a_left_most_group_without_time_does_not_hide_the_frames(
    fs: FeatureStore, spending: FeatureGroup, people: FeatureGroup
) -> None:
    """J2, J10: a time that others join at must be named; without any, the newest rows are taken."""
    query = people.select(["country"]).join(spending.select(["amount"]))
    frame = pd.DataFrame({"person": [1], "customer": [1], "day": days(2)})
    with pytest.raises(JoinError, match=r"event_time='day'"):
        fs.training_frame(frame, query)
    assert fs.training_frame(frame, query, event_time="day")["amount"].tolist() == [10]
    assert fs.training_frame(frame.drop(columns="day"), query)["amount"].tolist() == [50]


def test_frame_as_known_sees_what_was_committed_by_then(tmp_path: Path) -> None:
    """J9, J10: the same for a frame: a backfill of today was not known last week."""
    now = [datetime(2021, 1, 4, tzinfo=UTC)]
    fs = connect(tmp_path, clock=lambda: now[0])
    group = fs.get_or_create_feature_group("spending", 1, primary_key=["customer"], event_time="day")
    group.insert(pd.DataFrame({"customer": [1], "day": days(1), "amount": [10]}))
    now[0] += timedelta(days=2)
    group.insert(pd.DataFrame({"customer": [1], "day": days(1), "amount": [11]}))
    frame = pd.DataFrame({"customer": [1, 1, 1, 1], "day": days(3, 4, 6, None)})
    assert fs.training_frame(frame, group.select(["amount"]))["amount"].tolist() == [11, 11, 11, pd.NA]
    known = fs.training_frame(frame, group.select(["amount"]), as_known=True)
    assert known["amount"].tolist() == [pd.NA, 10, 11, pd.NA]
    fs.close()
