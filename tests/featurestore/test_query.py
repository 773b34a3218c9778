"""Queries: frozen data that filter, join and show themselves, and read the same after a trip through JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from featurestore import FeatureGroup, FeatureStore, FeatureStoreError, InvalidTime, JoinError, SchemaMismatch, connect
from featurestore.query import Column, Filter, GroupRef, Query, filter_from_json, query_from_json

CARDS = GroupRef("cards", 1)
AMOUNT = Column(CARDS, "amount")


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[FeatureStore]:
    store = connect(tmp_path)
    yield store
    store.close()


@pytest.fixture
def orders(fs: FeatureStore) -> FeatureGroup:
    """Four orders of one customer, with one null amount and one null city."""
    group = fs.get_or_create_feature_group("orders", 1, primary_key=["id"], event_time="day")
    group.insert(
        pd.DataFrame(
            {
                "id": [1, 2, 3, 4],
                "day": pd.to_datetime(["2021-01-01", "2021-01-02", "2021-01-03", "2021-01-04"]),
                "customer": ["a", "a", "a", "a"],
                "amount": [10.0, None, 30.0, 40.0],
                "city": ["Oslo", "Bergen", None, "Os"],
            }
        )
    )
    return group


@pytest.fixture
def limits(fs: FeatureStore) -> FeatureGroup:
    """A customer's limits: a confirmed one on the first day, an unconfirmed one on the third."""
    group = fs.get_or_create_feature_group("limits", 1, primary_key=["customer"], event_time="day")
    days = pd.to_datetime(["2021-01-01", "2021-01-03"])
    group.insert(pd.DataFrame({"customer": ["a", "a"], "day": days, "top": [100, 300], "confirmed": [True, False]}))
    return group


def ids(query: Query) -> list[int]:
    return query.read("arrow").column("id").to_pylist()


def test_comparisons_keep_the_rows_they_say(orders: FeatureGroup) -> None:
    """J8: section 3's comparisons."""
    amount, city = orders["amount"], orders["city"]
    query = orders.select(["id"])
    assert ids(query.filter(amount == 30)) == [3]
    assert ids(query.filter(amount != 30)) == [1, 4]
    assert ids(query.filter(amount < 30)) == [1]
    assert ids(query.filter(amount <= 30)) == [1, 3]
    assert ids(query.filter(amount > 30)) == [4]
    assert ids(query.filter(amount >= 30)) == [3, 4]
    assert ids(query.filter(amount.isin([10, 40]))) == [1, 4]
    assert ids(query.filter(amount.isin([]))) == []
    assert ids(query.filter(amount.between(10, 30))) == [1, 3]
    assert ids(query.filter(city.like("Os%"))) == [1, 4]
    assert ids(query.filter(city.like("O_"))) == [4]
    assert ids(query.filter(city.is_null())) == [3]


def test_filters_combine_and_nulls_compare_as_in_sql(orders: FeatureGroup) -> None:
    """J8: nulls as in SQL, also under `~`."""
    amount, city = orders["amount"], orders["city"]
    query = orders.select(["id"])
    assert ids(query.filter((amount > 10) & (city == "Os"))) == [4]
    assert ids(query.filter((amount == 10) | (city == "Bergen"))) == [1, 2]
    assert ids(query.filter(~(amount > 10))) == [1], "a null amount is neither above 10 nor not above 10"
    assert ids(query.filter(~amount.is_null())) == [1, 3, 4]
    assert ids(query.filter(amount >= 10).filter(city == "Oslo")) == [1]


def test_values_of_filters_are_values_whatever_they_contain(orders: FeatureGroup) -> None:
    """J8, C2: no value becomes SQL."""
    query = orders.select(["id"])
    assert ids(query.filter(orders["city"] == "x' OR '1' = '1")) == []
    assert ids(query.filter(orders["day"] >= datetime(2021, 1, 3, tzinfo=UTC))) == [3, 4]
    assert ids(query.filter(orders["day"] < datetime(2021, 1, 2))) == [1]


def test_filter_on_a_joined_query_restricts_the_candidates(orders: FeatureGroup, limits: FeatureGroup) -> None:
    """J8: before the match."""
    confirmed = limits.select(["top"]).filter(limits["confirmed"] == True)  # noqa: E712  # a filter, not a truth value
    joined = orders.select(["id"]).join(confirmed)
    assert joined.read("arrow").to_pydict() == {"id": [1, 2, 3, 4], "top": [100, 100, 100, 100]}


def test_filter_on_the_whole_applies_after_the_match(orders: FeatureGroup, limits: FeatureGroup) -> None:
    """J8: after."""
    joined = orders.select(["id"]).join(limits.select(["top"]))
    whole = joined.filter(limits["confirmed"] == True)  # noqa: E712
    assert whole.read("arrow").to_pydict() == {"id": [1, 2], "top": [100, 100]}
    assert ids(joined.filter((limits["top"] > 100) & (orders["amount"] > 30))) == [4]


def test_filter_before_the_join_is_of_the_spine(orders: FeatureGroup, limits: FeatureGroup) -> None:
    """J8: it is the left-most group's own."""
    joined = orders.select(["id"]).filter(orders["amount"] > 10).join(limits.select(["top"]))
    assert joined.read("arrow").to_pydict() == {"id": [3, 4], "top": [300, 300]}


def test_filter_of_another_group_before_its_join_is_refused(orders: FeatureGroup, limits: FeatureGroup) -> None:
    with pytest.raises(JoinError, match="top"):
        orders.select(["id"]).filter(limits["top"] > 1).read()


def test_filter_on_a_group_joined_twice_asks_which(orders: FeatureGroup, limits: FeatureGroup) -> None:
    twice = orders.select(["id"]).join(limits.select(["top"])).join(limits.select(["top"]), prefix="b_")
    assert twice.read("arrow").column_names == ["id", "top", "b_top"]
    with pytest.raises(JoinError, match="filter that group before joining"):
        twice.filter(limits["top"] > 1).read()


def test_unknown_columns_are_named_with_those_that_exist(orders: FeatureGroup) -> None:
    with pytest.raises(SchemaMismatch, match=r"amuont.*amount"):
        orders.select(["amuont"]).read()
    with pytest.raises(SchemaMismatch, match=r"amuont.*amount"):
        orders["amuont"]


def test_columns_are_selected_by_name_or_as_columns_one_or_several(orders: FeatureGroup) -> None:
    assert orders.select("amount") == orders.select(orders["amount"]) == orders.select(["amount"])
    assert orders.select([orders["id"], "amount"]).features == ("id", "amount")
    assert orders.select_except("amount") == orders.select_except(["amount"])


def test_a_group_where_a_query_is_expected_is_told_how_to_become_one(fs: FeatureStore, orders: FeatureGroup) -> None:
    with pytest.raises(JoinError, match=r"FeatureGroup\('orders', version=1\) is not a query.*select_all"):
        orders.select(["amount"]).join(orders)  # type: ignore[arg-type]
    with pytest.raises(SchemaMismatch, match="is not a query"):
        fs.create_feature_view(name="plain", query=orders)  # type: ignore[arg-type]
    with pytest.raises(SchemaMismatch, match="is not a query"):
        fs.training_frame(pd.DataFrame({"id": [1]}), orders)  # type: ignore[arg-type]


def test_a_filter_has_no_truth_value() -> None:
    with pytest.raises(SchemaMismatch, match="&"):
        bool(AMOUNT > 1)
    with pytest.raises(SchemaMismatch, match="not a filter"):
        Query(CARDS, ("amount",)).filter(True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (lambda g: g["amount"] == "10", r"'amount' of orders_v1 \(double\) has the value '10' \(str\); expected a num"),
        (lambda g: g["amount"] > True, "expected a number"),
        (lambda g: g["amount"] < float("nan"), "expected a number"),
        (lambda g: g["city"] == 3, r"\(string\) has the value 3 \(int\); expected text"),
        (lambda g: g["city"].isin(["Oslo", 3]), "expected text"),
        (lambda g: g["amount"].between(1, "x"), "expected a number"),
        (lambda g: g["amount"].like("1%"), "for text columns"),
        (lambda g: g["day"] > 20210101, "expected a datetime, a date, or ISO text"),
        (lambda g: g["day"] > "yesterday", "expected a datetime, a date, or ISO text"),
        (lambda g: g["city"] == None, "is_null"),  # noqa: E711  # what a user may write
        (lambda g: g["city"] == g["customer"], "another column, 'customer'"),
        (lambda g: g["amount"] == np.array([1, 2]), "isin"),
        (lambda g: g["city"].isin("Oslo"), r"\['Oslo'\]"),
    ],
)  # fmt: skip
def test_values_of_another_type_than_their_column_are_refused(
    orders: FeatureGroup, condition: Callable[[FeatureGroup], Filter], message: str
) -> None:
    """J8, section 3: text against a number and the like, with the column, its type and the value."""
    with pytest.raises(SchemaMismatch, match=message):
        orders.select(["id"]).filter(condition(orders)).read()


def test_values_may_be_spelled_in_the_ways_their_type_has(orders: FeatureGroup) -> None:
    """J8: times as text, dates, datetimes of any zone or pandas' own; numbers as NumPy's or decimals."""
    query, day = orders.select(["id"]), orders["day"]
    for moment in ("2021/01/03", "2021-01-03T01:00:00+01:00", date(2021, 1, 3), pd.Timestamp("2021-01-03"),
                   np.datetime64("2021-01-03"), np.datetime64("2021-01-03", "ns")):  # fmt: skip
        assert ids(query.filter(day == moment)) == [3], moment
    assert ids(query.filter(orders["amount"] == np.float32(30))) == [3]
    assert ids(query.filter(orders["id"].isin(np.array([2, 3])))) == [2, 3]
    assert ids(query.filter(orders["amount"] >= Decimal("30.00"))) == [3, 4]
    assert ids(query.filter(~orders["city"].isin(["Oslo", None]))) == [], "as in SQL: unknown for all others"


def test_queries_with_equal_filters_are_equal() -> None:
    """Frozen data compare by what they say."""
    assert Query(CARDS, ("amount",)).filter(AMOUNT > 1) == Query(CARDS, ("amount",)).filter(AMOUNT > 1)
    assert Query(CARDS, ("amount",)).filter(AMOUNT > 1) != Query(CARDS, ("amount",)).filter(AMOUNT > 2)
    assert Query(CARDS, ("amount",)).filter(AMOUNT > 1) != Query(CARDS, ("amount",)).filter(AMOUNT > True)


def test_limits_are_whole_numbers_and_the_smaller_one_holds(orders: FeatureGroup) -> None:
    """Section 3, limit: and nothing is filtered after it."""
    assert ids(orders.select(["id"]).limit(2).limit(3)) == [1, 2]
    assert ids(orders.select(["id"]).limit(0)) == []
    with pytest.raises(SchemaMismatch, match=r"limit\(-1\)"):
        orders.select(["id"]).limit(-1)
    with pytest.raises(JoinError, match="Filter first"):
        orders.select(["id"]).limit(2).filter(orders["amount"] > 1)


def test_every_method_gives_a_new_query() -> None:
    query = Query(CARDS, ("amount",))
    other = Query(GroupRef("limits", 1), ("top",))
    changed = query.join(other, on=["card"]).filter(AMOUNT > 1).limit(3)
    assert query == Query(CARDS, ("amount",))
    assert changed.groups() == [CARDS, GroupRef("limits", 1)]
    with pytest.raises(AttributeError):
        query.features = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"join_type": "outer"}, "'left' or 'inner'"),
        ({"join_type": "right"}, "'left' or 'inner'"),
        ({"on": ["a"], "left_on": ["b"], "right_on": ["c"]}, "either"),
        ({"left_on": ["a"]}, "together"),
        ({"right_on": ["a"]}, "together"),
        ({"left_on": ["a", "b"], "right_on": ["c"]}, "length"),
    ],
)
def test_joins_that_cannot_be_are_refused(arguments: dict[str, object], message: str) -> None:
    """J4, J5: other join types, and keys given in two ways."""
    query = Query(CARDS, ("amount",))
    with pytest.raises(JoinError, match=message):
        query.join(Query(GroupRef("limits", 1), ("top",)), **arguments)  # type: ignore[arg-type]


def test_a_query_without_a_store_says_where_queries_come_from() -> None:
    with pytest.raises(JoinError, match=r"fg\.select"):
        Query(CARDS, ("amount",)).read()


@pytest.mark.parametrize(
    "condition",
    [
        AMOUNT > 1,
        (AMOUNT >= 1.5) & ~(Column(CARDS, "city") == "it's"),
        AMOUNT.isin([1, 2]) | AMOUNT.is_null(),
        Column(CARDS, "day").between(datetime(2021, 1, 1, tzinfo=UTC), datetime(2021, 2, 1, tzinfo=UTC)),
        Column(CARDS, "birth") == date(2000, 2, 29),
        AMOUNT.isin([Decimal("1.10")]),
    ],
)
def test_filters_survive_json(condition: Filter) -> None:
    data = condition.to_json()
    back = filter_from_json(json.loads(json.dumps(data)))
    assert back is not None
    assert back.to_json() == data


def test_queries_survive_json_and_read_the_same(fs: FeatureStore, orders: FeatureGroup, limits: FeatureGroup) -> None:
    query = (
        orders.select(["id"])
        .filter(orders["amount"] >= 10)
        .join(limits.select(["top"]), on=["customer"], join_type="inner", prefix="their_")
        .filter(limits["top"] > 100)
        .limit(1)
    )
    back = query_from_json(json.loads(json.dumps(query.to_json())), fs)
    assert back.to_json() == query.to_json()
    assert back.read("arrow").equals(query.read("arrow"))
    assert back.read("arrow").to_pydict() == {"id": [3], "their_top": [300]}


def test_limit_and_show_give_the_first_rows(orders: FeatureGroup) -> None:
    assert ids(orders.select(["id"]).limit(2)) == [1, 2]
    assert orders.select(["id"]).show(3)["id"].tolist() == [1, 2, 3]


def test_read_takes_a_half_open_time_range_of_the_spine(orders: FeatureGroup, limits: FeatureGroup) -> None:
    """G12: half-open on the spine's event time."""
    query = orders.select(["id"]).join(limits.select(["top"]))
    found = query.read("arrow", start_time="2021-01-02", end_time="2021-01-04")
    assert found.to_pydict() == {"id": [2, 3], "top": [100, 300]}, "limits before the start still count"


def test_as_of_reads_a_group_as_it_was(orders: FeatureGroup) -> None:
    """G13: by version."""
    before = orders.delta_version
    orders.insert(
        pd.DataFrame(
            {"id": [1], "day": pd.to_datetime(["2021-01-01"]), "customer": ["a"], "amount": [11.0], "city": ["Oslo"]}
        )
    )
    assert orders.select(["amount"]).read("arrow").column("amount").to_pylist()[0] == 11.0
    assert orders.as_of(before).read("arrow").column("amount").to_pylist()[0] == 10.0


def test_as_of_of_a_query_is_one_time_for_all_its_groups(
    fs: FeatureStore, orders: FeatureGroup, limits: FeatureGroup
) -> None:
    """G13: a time resolves to each group's own version; a version is one group's own."""
    past = max(group.history()[-1].time for group in (orders, limits))
    orders.insert(pd.DataFrame({"id": [5], "day": ["2021-01-05"], "customer": ["a"], "amount": [1.0], "city": ["x"]})
                  .astype({"day": "datetime64[us]"}))  # fmt: skip
    limits.insert(pd.DataFrame({"customer": ["a"], "day": pd.to_datetime(["2021-01-02"]), "top": [7],
                                "confirmed": [True]}))  # fmt: skip
    query = orders.select(["id"]).join(limits.select(["top"]))
    assert query.read("arrow").to_pydict() == {"id": [1, 2, 3, 4, 5], "top": [100, 7, 300, 300, 300]}
    assert query.as_of(past).read("arrow").to_pydict() == {"id": [1, 2, 3, 4], "top": [100, 100, 300, 300]}
    with pytest.raises(InvalidTime, match=r"version.*orders_v1.*limits_v1"):
        query.as_of(1)
    assert orders.select(["id"]).as_of(orders.delta_version - 1).read()["id"].tolist() == [1, 2, 3, 4]
    assert fs.versions(query.as_of(past)) == {orders.ref: 1, limits.ref: 1}, "what a training set then pins"


def test_rows_without_order_are_the_same_rows(orders: FeatureGroup, limits: FeatureGroup) -> None:
    """G12: `ordered=False` skips the sorting and nothing else."""
    joined = orders.select(["id"]).join(limits.select(["top"]))
    rows = joined.read(ordered=False)
    assert sorted(rows["id"]) == [1, 2, 3, 4]
    assert rows.sort_values("id")["top"].tolist() == [100, 100, 300, 300]
    assert sorted(orders.read(ordered=False)["id"]) == [1, 2, 3, 4]


def test_rows_without_event_time_cannot_be_chosen_by_time(fs: FeatureStore) -> None:
    """G12: refused rather than ignored, in a group's read and in a query's."""
    people = fs.get_or_create_feature_group("people", 1, primary_key=["id"])
    people.insert(pd.DataFrame({"id": [1], "age": [30]}))
    for read in (people.read, people.select(["age"]).read):
        with pytest.raises(InvalidTime, match="people_v1 has no event time"):
            read(start_time="2021-01-01")


def test_frames_come_in_three_kinds(orders: FeatureGroup) -> None:
    """Section 3, read: pandas, Polars and Arrow."""
    query = orders.select(["id", "amount"])
    arrow = query.read("arrow")
    assert query.read("polars").to_arrow().to_pydict() == arrow.to_pydict()
    assert query.read().columns.tolist() == arrow.column_names
    with pytest.raises(SchemaMismatch, match="pandas"):
        query.read("spark")  # type: ignore[arg-type]


def test_to_string_is_sql_that_runs_on_the_groups_by_name(orders: FeatureGroup, limits: FeatureGroup) -> None:
    """J12: it prints the SQL that runs."""
    import duckdb

    query = orders.select(["id"]).join(limits.select(["top"])).filter(limits["top"] > 100)
    sql = query.to_string()
    assert '"orders_v1"' in sql
    assert '"limits_v1"' in sql
    assert ".parquet" not in sql
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        con.register("orders_v1", orders.read(dataframe_type="arrow"))
        con.register("limits_v1", limits.read(dataframe_type="arrow"))
        assert con.sql(sql).fetchall() == [(3, 300), (4, 300)]
    assert query.read("arrow").to_pydict() == {"id": [3, 4], "top": [300, 300]}


def test_explain_says_how_each_group_is_joined_and_what_is_read(orders: FeatureGroup, limits: FeatureGroup) -> None:
    """J2, J12: keys, the kind of match, filters, versions, and the files, rows and columns to read."""
    query = orders.select(["id"]).join(limits.select(["top"]), join_type="inner")
    assert query.explain().splitlines() == [
        "orders_v1: one row each, ordered by day, id",
        "inner join limits_v1 to orders_v1 on customer: newest row with day <= day",
        "reads orders_v1 at Delta version 1: 1 file(s), 4 row(s), columns id, customer, day",
        "reads limits_v1 at Delta version 1: 1 file(s), 2 row(s), columns top, day, customer",
    ]
    filtered = query.filter((limits["top"] > 100) & ~orders["city"].is_null()).limit(3)
    assert filtered.as_of(limits.history()[-1].time).explain().splitlines()[:4] == [
        "orders_v1 (Delta version 1): one row each, ordered by day, id, of the rows with not (city is null)",
        "inner join limits_v1 (Delta version 1) to orders_v1 on customer: newest row with day <= day",
        "of the result the rows with top > 100",
        "the first 3 rows",
    ]


def test_spark_sql_is_the_same_plan_in_sparks_words(orders: FeatureGroup, limits: FeatureGroup) -> None:
    """J12: no as-of join, no double quotes, no DuckDB types; names and texts escaped Spark's way."""
    query = orders.select(["id"]).filter(orders["city"] == "it's \\ `x`").join(limits.select(["top"]))
    text = query.filter(limits["day"] >= "2021-01-02").to_string("spark")
    assert "ASOF" not in text
    assert '"' not in text
    assert "::" not in text
    assert "FROM `orders_v1` WHERE (`city` = 'it\\'s \\\\ `x`')" in text
    assert "TIMESTAMP '2021-01-02 00:00:00+00:00'" in text
    assert "row_number() OVER (PARTITION BY `0.day`, `0.id` ORDER BY s1.`1.day` DESC)" in text
    with pytest.raises(FeatureStoreError, match="'pandas' is unknown"):
        query.to_string("pandas")  # type: ignore[arg-type]
