"""The point-in-time join: every row of the spine gets what was true at its time, nothing newer, nothing lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from featurestore import Feature, FeatureGroup, FeatureStore, JoinError, SchemaMismatch, connect
from featurestore.query import Query
from featurestore.schema import TIMESTAMP


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[FeatureStore]:
    store = connect(tmp_path)
    yield store
    store.close()


def days(*numbers: int) -> pd.DatetimeIndex:
    """Days of January 2021."""
    return pd.to_datetime([f"2021-01-{n:02d}" for n in numbers])


def make(
    fs: FeatureStore, name: str, key: Sequence[str], columns: dict[str, Any], time: str | None = "day", **options: Any
) -> FeatureGroup:
    group = fs.get_or_create_feature_group(name, 1, primary_key=key, event_time=time, **options)
    group.insert(pd.DataFrame(columns))
    return group


def read(query: Query) -> dict[str, list[Any]]:
    return query.read("arrow").to_pydict()


@pytest.fixture
def transactions(fs: FeatureStore) -> FeatureGroup:
    """The slide's transactions."""
    amounts = {"amount_last_week": [14, 44, 78], "amount_last_month": [87, 80, 82]}
    return make(fs, "transactions", ["customer_id"], {"customer_id": [1, 1, 1], "day": days(1, 7, 14), **amounts})


AMOUNTS = ["amount_last_week", "amount_last_month"]


def test_slide_labels_of_three_customers_get_only_their_own_values(
    fs: FeatureStore, transactions: FeatureGroup
) -> None:
    """J13: 14/87, null, null."""
    labels = make(fs, "labels", ["customer_id"], {"customer_id": [1, 2, 3], "day": days(1, 2, 16), "y": [1, 0, 1]})
    found = read(labels.select(["customer_id"]).join(transactions.select(AMOUNTS)))
    assert found == {
        "customer_id": [1, 2, 3],
        "amount_last_week": [14, None, None],
        "amount_last_month": [87, None, None],
    }


def test_slide_labels_of_one_customer_get_the_newest_values_so_far(
    fs: FeatureStore, transactions: FeatureGroup
) -> None:
    """J13: 14/87, 14/87, 78/82."""
    labels = make(fs, "labels", ["customer_id"], {"customer_id": [1, 1, 1], "day": days(1, 2, 16), "y": [1, 0, 1]})
    found = read(labels.select(["y"]).join(transactions.select(AMOUNTS)))
    assert found == {"y": [1, 0, 1], "amount_last_week": [14, 14, 78], "amount_last_month": [87, 87, 82]}


def test_equal_times_count_and_a_microsecond_earlier_does_not(fs: FeatureStore, transactions: FeatureGroup) -> None:
    """J2: feature time <= spine time."""
    moments = [datetime(2021, 1, 7, tzinfo=UTC) + timedelta(microseconds=n) for n in (-1, 0, 1)]
    labels = make(fs, "labels", ["id"], {"id": [1, 2, 3], "customer_id": [1, 1, 1], "day": moments})
    assert read(labels.select(["id"]).join(transactions.select(["amount_last_week"]))) == {
        "id": [1, 2, 3],
        "amount_last_week": [14, 44, 44],
    }


def test_label_before_first_feature_gets_null(fs: FeatureStore) -> None:
    """J1: kept, with null features."""
    features = make(fs, "features", ["k"], {"k": [1], "day": days(5), "x": [5.0]})
    labels = make(fs, "labels", ["k"], {"k": [1, 1], "day": days(4, 6), "y": [0, 1]})
    assert read(labels.select(["y"]).join(features.select(["x"]))) == {"y": [0, 1], "x": [None, 5.0]}


def test_rows_equal_but_for_their_key_are_all_kept(fs: FeatureStore, transactions: FeatureGroup) -> None:
    """J1: one output row per spine row."""
    columns = {"id": ["a", "b", "c"], "customer_id": [1, 1, 1], "day": days(8, 8, 8)}
    labels = make(fs, "labels", ["id"], columns)
    found = read(labels.select(["customer_id"]).join(transactions.select(["amount_last_week"])))
    assert found == {"customer_id": [1, 1, 1], "amount_last_week": [44, 44, 44]}


def test_rows_come_by_event_time_then_key_whatever_their_order_of_insert(
    fs: FeatureStore, transactions: FeatureGroup
) -> None:
    """J1, G12: in the order of `read()`."""
    labels = make(fs, "labels", ["id"], {"id": [9, 4, 7], "customer_id": [1, 1, 2], "day": days(15, 8, 8)})
    labels.insert(pd.DataFrame({"id": [5, 8], "customer_id": [1, 1], "day": days(8, 2)}))
    found = read(labels.select(["id"]).join(transactions.select(["amount_last_week"])))
    assert found == {"id": [8, 4, 5, 7, 9], "amount_last_week": [14, 44, 44, None, 78]}
    assert found["id"] == labels.read()["id"].tolist()


def test_a_null_value_is_a_value_and_not_looked_past(fs: FeatureStore) -> None:
    """J3: no per-column look-back."""
    features = make(fs, "features", ["k"], {"k": [1, 1], "day": days(1, 2), "x": [1.0, None], "z": [1, 2]})
    labels = make(fs, "labels", ["k"], {"k": [1], "day": days(3), "y": [0]})
    assert read(labels.select(["y"]).join(features.select(["x", "z"]))) == {"y": [0], "x": [None], "z": [2]}


def test_inner_join_drops_rows_without_a_match(fs: FeatureStore, transactions: FeatureGroup) -> None:
    """J4: and only those."""
    labels = make(fs, "labels", ["id"], {"id": [1, 2, 3], "customer_id": [1, 2, 1], "day": days(1, 2, 16)})
    joined = labels.select(["id"]).join(transactions.select(["amount_last_week"]), join_type="inner")
    assert read(joined) == {"id": [1, 3], "amount_last_week": [14, 78]}


def test_one_inner_join_leaves_the_left_join_beside_it_alone(fs: FeatureStore, transactions: FeatureGroup) -> None:
    """J4: each join has its own type."""
    labels = make(fs, "labels", ["id"], {"id": [1, 2, 3], "customer_id": [1, 2, 3], "day": days(1, 2, 3)})
    truth = make(fs, "truth", ["id"], {"id": [2, 3], "day": days(2, 3), "y": [0, 1]})
    joined = (
        labels.select(["id"])
        .join(transactions.select(["amount_last_week"]))
        .join(truth.select(["y"]), join_type="inner")
    )
    assert read(joined) == {"id": [2, 3], "amount_last_week": [None, None], "y": [0, 1]}


def test_group_without_time_joins_by_key_and_leaves_the_others_time_on(
    fs: FeatureStore, transactions: FeatureGroup
) -> None:
    """J2: and `explain()` says so."""
    people = make(fs, "people", ["customer_id"], {"customer_id": [1, 2], "country": ["NO", "SE"]}, time=None)
    labels = make(fs, "labels", ["id"], {"id": [1, 2, 3], "customer_id": [1, 2, 1], "day": days(1, 2, 8)})
    joined = labels.select(["id"]).join(people.select(["country"])).join(transactions.select(["amount_last_week"]))
    assert read(joined) == {"id": [1, 2, 3], "country": ["NO", "SE", "NO"], "amount_last_week": [14, None, 44]}
    assert "people_v1 to labels_v1 on customer_id: by key alone, because it has no event time" in joined.explain()
    assert "transactions_v1 to labels_v1 on customer_id: newest row with day <= day" in joined.explain()


def test_spine_without_time_takes_the_newest_row_and_says_so(fs: FeatureStore, transactions: FeatureGroup) -> None:
    """J2: in `explain()`."""
    people = make(fs, "people", ["customer_id"], {"customer_id": [2, 1]}, time=None)
    joined = people.select(["customer_id"]).join(transactions.select(["amount_last_week"]))
    assert read(joined) == {"customer_id": [1, 2], "amount_last_week": [78, None]}
    assert "newest row by day, because people_v1 has no event time" in joined.explain()


# Keys


def test_join_without_common_key_names_both_sides(fs: FeatureStore, transactions: FeatureGroup) -> None:
    """J5: both key lists, and how to name pairs."""
    labels = make(fs, "labels", ["id"], {"id": [1], "who": [1], "day": days(8)})
    with pytest.raises(JoinError, match=r"customer_id.*labels_v1.*who.*left_on"):
        labels.select(["id"]).join(transactions.select(AMOUNTS)).read()
    by_name = labels.select(["id"]).join(
        transactions.select(["amount_last_week"]), left_on=["who"], right_on=["customer_id"]
    )
    assert read(by_name) == {"id": [1], "amount_last_week": [44]}
    assert "on who = customer_id" in by_name.explain()


def test_part_of_a_composite_key_is_refused(fs: FeatureStore) -> None:
    """J5: a part would leave several newest rows."""
    features = make(fs, "features", ["a", "b"], {"a": [1], "b": [2], "day": days(1), "x": [1]})
    labels = make(fs, "labels", ["a"], {"a": [1], "day": days(2), "y": [0]})
    with pytest.raises(JoinError, match=r"\['a', 'b'\].*labels_v1"):
        labels.select(["y"]).join(features.select(["x"])).read()
    with pytest.raises(JoinError, match="does not cover"):
        labels.select(["y"]).join(features.select(["x"]), on=["a"]).read()


def test_composite_keys_compare_column_by_column(fs: FeatureStore) -> None:
    """J5: (1, 11) is not (11, 1)."""
    features = make(
        fs,
        "features",
        ["a", "b"],
        {"a": ["1", "11", "ab"], "b": ["11", "1", "c"], "day": days(1, 1, 1), "x": [1, 2, 3]},
    )
    labels = make(
        fs, "labels", ["id"],
        {"id": [1, 2, 3, 4], "a": ["1", "11", "a", "ab"], "b": ["11", "1", "bc", "c"], "day": days(2, 2, 2, 2)},
    )  # fmt: skip
    assert read(labels.select(["id"]).join(features.select(["x"]))) == {"id": [1, 2, 3, 4], "x": [1, 2, None, 3]}


def test_the_number_one_is_not_the_text_one(fs: FeatureStore, transactions: FeatureGroup) -> None:
    """J5: typed."""
    labels = make(fs, "labels", ["id"], {"id": [1], "customer_id": ["1"], "day": days(8)})
    with pytest.raises(JoinError, match=r"customer_id.*string.*int64"):
        labels.select(["id"]).join(transactions.select(AMOUNTS)).read()


def test_integers_of_two_widths_compare(fs: FeatureStore, transactions: FeatureGroup) -> None:
    """J5: both are whole numbers."""
    features = [Feature("id", "int64"), Feature("customer_id", "int32"), Feature("day", "timestamp")]
    labels = make(fs, "labels", ["id"], {"id": [1], "customer_id": [1], "day": days(8)}, features=features)
    assert read(labels.select(["id"]).join(transactions.select(["amount_last_week"]))) == {
        "id": [1],
        "amount_last_week": [44],
    }


def test_null_keys_match_nothing(fs: FeatureStore, transactions: FeatureGroup) -> None:
    """J5: not even each other."""
    who = pd.array([1, None], dtype="Int64")
    labels = make(fs, "labels", ["id"], {"id": [1, 2], "customer_id": who, "day": days(8, 8)})
    assert read(labels.select(["id"]).join(transactions.select(["amount_last_week"]))) == {
        "id": [1, 2],
        "amount_last_week": [44, None],
    }


# Names


def test_two_columns_of_one_name_are_an_error_that_offers_a_prefix(fs: FeatureStore) -> None:
    """J6: never a silent rename or drop."""
    a = make(fs, "a", ["k"], {"k": [1], "day": days(1), "score": [1]})
    b = make(fs, "b", ["k"], {"k": [1], "day": days(1), "score": [2], "Score2": [3]})
    with pytest.raises(JoinError, match=r"a_v1 and b_v1.*score.*prefix"):
        a.select(["score"]).join(b.select(["score"])).read()
    prefixed = a.select(["score"]).join(b.select(["score", "Score2"]), prefix="b_")
    assert read(prefixed) == {"score": [1], "b_score": [2], "b_Score2": [3]}


def test_names_that_differ_in_case_alone_clash(fs: FeatureStore) -> None:
    """J6, C2: names are unique without regard to case."""
    a = make(fs, "a", ["k"], {"k": [1], "day": days(1), "score": [1]})
    b = make(fs, "b", ["k"], {"k": [1], "day": days(1), "Score": [2]})
    with pytest.raises(JoinError, match="Score"):
        a.select(["score"]).join(b.select(["Score"])).read()


def test_keys_and_times_of_the_right_side_do_not_clash(fs: FeatureStore) -> None:
    """J6: the left copy stands; with a prefix both do."""
    a = make(fs, "a", ["k"], {"k": [1], "day": days(3), "y": [1]})
    b = make(fs, "b", ["k"], {"k": [1], "day": days(1), "x": [2]})
    left = read(a.select_all().join(b.select_all()))
    assert left == {"k": [1], "day": [datetime(2021, 1, 3, tzinfo=UTC)], "y": [1], "x": [2]}
    both = read(a.select_all().join(b.select_all(), prefix="b_"))
    assert list(both) == ["k", "day", "y", "b_k", "b_day", "b_x"]
    assert both["b_day"] == [datetime(2021, 1, 1, tzinfo=UTC)]


def test_awkward_names_work(fs: FeatureStore) -> None:
    """J6: whatever the columns are called."""
    names = ["x_y", "rank", "index", "select", "event time", 'quo"te', "0.day", "j0"]
    a = make(fs, "a", ["k"], {"k": [1], "day": days(3), **{n: [i] for i, n in enumerate(names)}})
    b = make(fs, "b", ["k"], {"k": [1], "day": days(1), **{n: [-i] for i, n in enumerate(names)}})
    found = read(a.select(names).join(b.select(names), prefix="b "))
    assert found == {n: [i] for i, n in enumerate(names)} | {f"b {n}": [-i] for i, n in enumerate(names)}


def test_key_and_time_columns_may_have_awkward_names_too(fs: FeatureStore) -> None:
    """J6: keys and times as well."""
    a = make(fs, "a", ["select"], {"select": [1], "event time": days(3), "y": [1]}, time="event time")
    b = make(fs, "b", ["order"], {"order": [1], "from": days(1), "x": [2]}, time="from")
    joined = a.select(["y"]).join(b.select(["x"]), left_on=["select"], right_on=["order"])
    assert read(joined) == {"y": [1], "x": [2]}


def test_unknown_columns_are_refused_with_those_that_exist(fs: FeatureStore, transactions: FeatureGroup) -> None:
    """J5: before anything is read."""
    labels = make(fs, "labels", ["customer_id"], {"customer_id": [1], "day": days(1), "y": [1]})
    with pytest.raises(JoinError, match="nobody"):
        labels.select(["y"]).join(transactions.select(AMOUNTS), on=["nobody"]).read()
    with pytest.raises(SchemaMismatch, match=r"nobody.*customer_id"):
        labels.select(["y"]).join(transactions.select(AMOUNTS), left_on=["nobody"], right_on=["customer_id"]).read()


# Nested joins


def test_nested_join_uses_the_middle_row_key_at_the_spines_time(fs: FeatureStore) -> None:
    """J7: c joins by b's columns, at the spine's time."""
    orders = make(fs, "orders", ["id"], {"id": [1, 2, 3], "card": [7, 7, 8], "day": days(2, 9, 9), "y": [0, 1, 0]})
    cards = make(fs, "cards", ["card"], {"card": [7, 7], "day": days(1, 5), "owner": ["ann", "bob"]})
    owners = make(
        fs, "owners", ["owner"],
        {"owner": ["ann", "ann", "bob", "bob"], "day": days(1, 8, 1, 8), "age": [30, 31, 50, 51]},
    )  # fmt: skip
    query = orders.select(["id"]).join(cards.select(["owner"]).join(owners.select(["age"])))
    # Order 2 is of day 9: its card is bob's since day 5, and bob's age is that of day 8, newer than the card's row.
    assert read(query) == {"id": [1, 2, 3], "owner": ["ann", "bob", None], "age": [30, 51, None]}
    assert "left join owners_v1 to cards_v1 on owner: newest row with day <= day" in query.explain()


def test_prefixes_of_nested_joins_add_up(fs: FeatureStore) -> None:
    """J6, J7: a prefix renames all that its join contributes."""
    a = make(fs, "a", ["k"], {"k": [1], "day": days(3), "v": [1]})
    b = make(fs, "b", ["k"], {"k": [1], "day": days(2), "v": [2]})
    c = make(fs, "c", ["k"], {"k": [1], "day": days(1), "v": [3]})
    query = a.select(["v"]).join(b.select(["v"]).join(c.select(["v"]), prefix="c_"), prefix="b_")
    assert read(query) == {"v": [1], "b_v": [2], "b_c_v": [3]}


# ttl


def test_age_equal_to_ttl_counts_and_older_does_not(fs: FeatureStore) -> None:
    """G18: as a candidate in joins."""
    ttl = timedelta(days=3)
    features = make(fs, "features", ["k"], {"k": [1], "day": days(1), "x": [5]}, ttl=ttl)
    moments = [datetime(2021, 1, 4, tzinfo=UTC) + timedelta(microseconds=n) for n in (0, 1)]
    labels = make(fs, "labels", ["k"], {"k": [1, 1], "day": moments, "y": [0, 1]})
    assert read(labels.select(["y"]).join(features.select(["x"]))) == {"y": [0, 1], "x": [5, None]}
    assert read(labels.select(["y"]).join(features.select(["x"]), join_type="inner")) == {"y": [0], "x": [5]}
    assert "not older than 3 days" in labels.select(["y"]).join(features.select(["x"])).explain()


def test_expired_row_ends_a_nested_join(fs: FeatureStore) -> None:
    """G18, J7: an expired row joins nothing."""
    orders = make(fs, "orders", ["id"], {"id": [1, 2], "card": [7, 7], "day": days(2, 9)})
    cards = make(fs, "cards", ["card"], {"card": [7], "day": days(1), "owner": ["ann"]}, ttl=timedelta(days=2))
    owners = make(fs, "owners", ["owner"], {"owner": ["ann"], "day": days(1), "age": [30]})
    query = orders.select(["id"]).join(cards.select(["owner"]).join(owners.select(["age"])))
    assert read(query) == {"id": [1, 2], "owner": ["ann", None], "age": [30, None]}


def test_spine_shows_all_that_is_stored_whatever_its_ttl(fs: FeatureStore, transactions: FeatureGroup) -> None:
    """G18: a spine and `read()` show everything."""
    labels = make(fs, "labels", ["customer_id"], {"customer_id": [1], "day": days(1), "y": [1]}, ttl=timedelta(days=1))
    assert read(labels.select(["y"]).join(transactions.select(["amount_last_week"]))) == {
        "y": [1],
        "amount_last_week": [14],
    }
    assert labels.read()["y"].tolist() == [1]


# Against other ways to compute the same


def test_stored_groups_equal_merge_asof_after_many_inserts(fs: FeatureStore) -> None:
    """J11: whatever the order of inserts."""
    random = np.random.default_rng(7)

    def frame(n: int, value: str) -> pd.DataFrame:
        seconds = random.choice(100_000, n, replace=False)  # distinct, so that no row replaces another
        at = pd.Timestamp("2021-01-01", tz="UTC") + pd.to_timedelta(seconds, unit="s")
        return pd.DataFrame({"k": random.integers(0, 9, n), "at": at, value: random.normal(size=n)})

    labels, features = frame(500, "y"), frame(900, "x")
    label_group = fs.get_or_create_feature_group("labels", 1, primary_key=["k"], event_time="at")
    feature_group = fs.get_or_create_feature_group("features", 1, primary_key=["k"], event_time="at")
    for part in range(3):
        label_group.insert(labels.iloc[part::3])
        feature_group.insert(features.iloc[part::3])
    found = label_group.select(["k", "at", "y"]).join(feature_group.select(["x"])).read("arrow")
    assert found.schema.field("at").type == TIMESTAMP

    expected = pd.merge_asof(labels.sort_values("at"), features.sort_values("at"), on="at", by="k")
    assert found.column("y").to_pylist() == expected["y"].tolist()
    assert found.column("x").to_pylist() == [None if np.isnan(v) else v for v in expected["x"]]
