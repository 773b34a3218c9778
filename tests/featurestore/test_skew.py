"""check_skew: silent when both sides agree, and specific when they do not."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from featurestore import Feature, FeatureStore, FeatureView, InvalidData, SchemaMismatch, connect, udf
from featurestore.findings import Finding

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TTL = timedelta(days=2)
FACTS = [
    Feature("customer", "string"),
    Feature("at", "timestamp"),
    Feature("amount", "float"),
    Feature("seen", "timestamp"),
    Feature("tags", "array<double>"),
]


class Clock:
    """A clock that a test sets."""

    now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fs(tmp_path: Path, clock: Clock) -> Iterator[FeatureStore]:
    store = connect(tmp_path, clock=clock)
    yield store
    store.close()


def insert_facts(fs: FeatureStore, at: datetime, amount: float, customers: int = 8) -> None:
    group = fs.get_or_create_feature_group(
        "facts", 1, primary_key=["customer"], event_time="at", features=FACTS, online_enabled=True, ttl=TTL
    )
    group.insert(
        pd.DataFrame(
            {
                "customer": [f"c{n}" for n in range(customers)],
                "at": at,
                "amount": [amount + n / 4 for n in range(customers)],
                "seen": at,
                "tags": [[-0.0, float(n)] for n in range(customers)],
            }
        )
    )


@pytest.fixture
def view(fs: FeatureStore) -> FeatureView:
    """Twenty orders by ten customers, of whom eight are known."""
    insert_facts(fs, NOW - timedelta(days=1), 1.5)
    orders = fs.get_or_create_feature_group("orders", 1, primary_key=["id"], event_time="at")
    buyers = [f"c{n % 10}" for n in range(20)]
    orders.insert(pd.DataFrame({"id": range(20), "at": NOW, "buyer": buyers, "price": 1.0, "y": 0}))
    facts = fs.get_feature_group("facts", 1)
    query = orders.select(["y"]).join(
        facts.select(["amount", "seen", "tags"]), left_on=["buyer"], right_on=["customer"], prefix="fact_"
    )
    made = fs.get_or_create_feature_view(
        "orders", 1, query=query, labels=["y"],
        transformation_functions={"fact_amount": fs.get_transformation_function("standard_scaler")},
    )  # fmt: skip
    made.create_training_data()
    return made


def serious(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(f.severity, f.subject) for f in findings if f.severity != "info"]


def online(fs: FeatureStore, sql: str) -> None:
    """What somebody does who reaches past the store."""
    table = fs.get_feature_group("facts", 1).online_table().name
    with sqlite3.connect(str(fs.online._url.database)) as connection:
        connection.execute(sql.format(table=table))
    connection.close()


def test_both_sides_agree(view: FeatureView) -> None:
    """V10: over all keys, over some, and whoever has no row is told without alarm."""
    (found,) = view.check_skew()
    assert (found.severity, found.subject) == ("info", "feature group facts_v1")
    assert "2 of 10 keys have no row" in found.message
    assert serious(view.check_skew(1, sample=3)) == []
    with pytest.raises(InvalidData, match="sample is 0"):
        view.check_skew(1, sample=0)


def test_a_tampered_value_is_named_with_its_key_and_both_sides(fs: FeatureStore, view: FeatureView) -> None:
    """V10: one value of one key, and the sign of a zero inside a list."""
    online(fs, "UPDATE {table} SET f0 = 99.5 WHERE k0 = 'c3'")
    online(fs, """UPDATE {table} SET f2 = '[0.0,5.0]' WHERE k0 = 'c5'""")
    amount, tags = [f for f in view.check_skew() if f.severity == "error"]
    assert amount.subject == "feature 'fact_amount'"
    assert amount.message == "1 of 10 keys differ: {'buyer': 'c3'}: online 99.5, offline 2.25."
    assert tags.subject == "feature 'fact_tags'"
    assert "{'buyer': 'c5'}: online [0.0, 5.0], offline [-0.0, 5.0]" in tags.message


def test_a_deleted_row_differs(fs: FeatureStore, view: FeatureView) -> None:
    """V10: more than three keys are counted rather than listed."""
    online(fs, "DELETE FROM {table}")
    found = [f for f in view.check_skew() if f.severity == "error"]
    assert [f.subject for f in found] == ["feature 'fact_amount'", "feature 'fact_seen'", "feature 'fact_tags'"]
    assert found[0].message.startswith("8 of 10 keys differ: {'buyer': 'c0'}: online None, offline 1.5; ")
    assert found[0].message.endswith(", and 5 more.")


def test_a_table_that_lags_is_a_warning_and_compared_as_of_its_version(fs: FeatureStore, view: FeatureView) -> None:
    """G10, V10: rows that Delta has and online has not are a lag, not a difference; init_serving() repairs it."""
    version = fs.online.version(fs.get_feature_group("facts", 1).online_table())
    fs.online.close()
    before = Path(str(fs.online._url.database)).read_bytes()
    insert_facts(fs, NOW - timedelta(hours=1), 7.0)
    fs.online.close()
    Path(str(fs.online._url.database)).write_bytes(before)
    (found,) = [f for f in view.check_skew() if f.severity != "info"]
    assert (found.severity, found.subject) == ("warning", "feature group facts_v1")
    assert f"holds Delta version {version}, the newest is {(version or 0) + 1}" in found.message
    assert serious(view.check_skew()) == [("warning", "feature group facts_v1")], "the check repairs nothing"
    view.init_serving()
    assert serious(view.check_skew()) == []


def test_rows_older_than_their_ttl_are_a_warning(view: FeatureView, clock: Clock) -> None:
    """G18: an age equal to the ttl still counts; a microsecond later both sides give nulls."""
    clock.now = NOW + timedelta(days=1)
    assert serious(view.check_skew()) == []
    clock.now += timedelta(microseconds=1)
    (found,) = [f for f in view.check_skew() if f.severity != "info"]
    assert (found.severity, found.subject) == ("warning", "feature group facts_v1")
    assert "8 of 10 keys are older than the ttl 2 days, 0:00:00, such as that of {'buyer': 'c0'}" in found.message


def test_a_row_of_the_future_differs(fs: FeatureStore, view: FeatureView) -> None:
    """V10: the online store has one row per key, so a row dated ahead hides the present one."""
    insert_facts(fs, NOW + timedelta(hours=1), 9.0, customers=1)
    (found,) = [f for f in view.check_skew() if f.subject == "feature 'fact_amount'"]
    assert found.message == "1 of 10 keys differ: {'buyer': 'c0'}: online 9.0, offline 1.5."


_seen: list[float] = []


@udf("double")
def remembering(amount: float) -> float:
    _seen.append(amount)
    return float(len(_seen))


def test_a_function_that_looks_at_more_than_its_row_differs(fs: FeatureStore, view: FeatureView) -> None:
    """V10: the values are the same, what the model gets is not."""
    facts = fs.get_feature_group("facts", 1)
    made = fs.get_or_create_feature_view(
        "facts", 1, query=facts.select(["amount"]), transformation_functions={"amount": remembering("amount")}
    )
    made.create_training_data()
    (found,) = made.check_skew()
    assert (found.severity, found.subject) == ("error", "transformed feature 'amount'")


def test_a_group_that_is_not_online_is_refused(fs: FeatureStore, view: FeatureView) -> None:
    """V9: as at init_serving."""
    orders = fs.get_feature_group("orders", 1)
    made = fs.get_or_create_feature_view("offline", 1, query=orders.select(["price"]))
    made.create_training_data()
    with pytest.raises(SchemaMismatch, match="is not online"):
        made.check_skew()
