"""Looking around: plain SQL that can only read, and finding things by what is said of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from featurestore import Feature, FeatureGroup, FeatureStore, FeatureStoreError, NotFound, connect


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[FeatureStore]:
    store = connect(tmp_path)
    yield store
    store.close()


def make(fs: FeatureStore, name: str, version: int, amounts: list[int]) -> FeatureGroup:
    features = [
        Feature("k", "bigint"),
        Feature("day", "timestamp"),
        Feature("amount", "bigint", description="What was paid.", unit="EUR"),
    ]
    group = fs.get_or_create_feature_group(
        name, version, primary_key=["k"], event_time="day", features=features, description=f"{name} of cards",
        tags={"team": "Fraud"},
    )  # fmt: skip
    frame = pd.DataFrame({"k": range(len(amounts)), "day": pd.Timestamp("2021-01-01"), "amount": amounts})
    group.insert(frame.astype({"k": "int64"}))
    return group


def test_each_group_is_a_table_by_name_and_by_version(fs: FeatureStore) -> None:
    """Section 1, sql: the newest version under its name, each under name_version; the hidden column is not there."""
    make(fs, "spending", 1, [1, 2])
    make(fs, "spending", 2, [10, 20, 30])
    found = fs.sql("SELECT count(*) AS n, sum(amount) AS total FROM spending")
    assert found.to_dict("list") == {"n": [3], "total": [60]}
    assert fs.sql("FROM Spending_1 ORDER BY k", "arrow").to_pydict()["amount"] == [1, 2]
    assert list(fs.sql("WITH s AS (SELECT * FROM spending_2) SELECT * FROM s").columns) == ["k", "day", "amount"]
    times = fs.sql("SELECT day FROM spending LIMIT 1")["day"]
    assert times.tolist() == [pd.Timestamp("2021-01-01", tz="UTC")]
    newer = "WITH spending AS (SELECT * FROM spending WHERE amount > 10) SELECT count(*) AS n FROM spending"
    assert fs.sql(newer)["n"].tolist() == [2]


def test_sql_of_a_query_runs_as_plain_sql(fs: FeatureStore) -> None:
    """J12: to_string() prints the SQL that runs; fs.sql takes it and gives the same rows."""
    spending, limits = make(fs, "spending", 1, [1, 2]), make(fs, "limits", 1, [10])
    query = spending.select(["k", "amount"]).join(limits.select(["amount"]), prefix="limit ")
    expected = query.read("arrow")
    assert fs.sql(query.to_string(), "arrow").equals(expected)
    assert expected.to_pydict() == {"k": [0, 1], "amount": [1, 2], "limit amount": [10, None]}


def test_empty_groups_are_empty_tables(fs: FeatureStore) -> None:
    make(fs, "spending", 1, [])
    assert fs.sql("SELECT * FROM spending").columns.tolist() == ["k", "day", "amount"]
    assert fs.sql("SELECT amount FROM spending", "arrow").num_rows == 0


def test_a_table_that_is_no_group_is_answered_with_those_there_are(fs: FeatureStore) -> None:
    make(fs, "spending", 1, [1])
    with pytest.raises(NotFound, match=r"'spendings'.*There are: spending, spending_1"):
        fs.sql("SELECT * FROM spendings")
    with pytest.raises(FeatureStoreError, match=r"cannot run.*amuont"):
        fs.sql("SELECT amuont FROM spending")
    with pytest.raises(FeatureStoreError, match=r"several columns named \['k'\].*AS"):
        fs.sql("SELECT a.k, b.k FROM spending a JOIN spending b USING (k)")
    make(fs, "spending_1", 1, [1])
    with pytest.raises(FeatureStoreError, match=r"'spending_1' could be spending_1_v1 or spending_v1"):
        fs.sql("SELECT * FROM spending_1")
    assert fs.sql("SELECT * FROM spending_v1")["amount"].tolist() == [1]


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO spending VALUES (1)",
        "DELETE FROM spending",
        "DROP VIEW spending",
        "CREATE TABLE t AS SELECT 1",
        "COPY spending TO '{home}/out.csv'",
        "ATTACH '{home}/catalog.db'",
        "SET enable_external_access = true",
        "PRAGMA version",
        "INSTALL httpfs",
        "SELECT 1; SELECT 2",
        "",
        "SELEKT 1",
        "SHOW TABLES",
        "DESCRIBE spending",
        "SELECT * FROM read_csv('{home}/secret.csv')",
        "SELECT * FROM read_parquet('{home}/lake/spending_1/*.parquet')",
        "SELECT * FROM read_text('{home}/secret.csv')",
        "SELECT * FROM '{home}/secret.csv'",
        "SELECT * FROM glob('{home}/*')",
        "SELECT * FROM query('SELECT 1')",
        "SELECT * FROM duckdb_settings()",
        "SELECT * FROM information_schema.tables",
        "SELECT (SELECT x FROM read_csv('{home}/secret.csv') t(x)) AS x FROM spending",
        "WITH s AS (FROM read_csv('{home}/secret.csv')) SELECT * FROM s",
        "SELECT __committed_at FROM spending",
        "SELECT getenv('HOME')",
    ],
)
def test_sql_can_only_read_groups(fs: FeatureStore, tmp_path: Path, query: str) -> None:
    """Section 1, sql: no writes, no files, no settings; nothing is made and nothing changes."""
    group = make(fs, "spending", 1, [1])
    (tmp_path / "secret.csv").write_text("x\nsecret\n")
    there = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    with pytest.raises(FeatureStoreError):
        fs.sql(query.replace("{home}", str(tmp_path)))
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == there
    assert group.delta_version == 1


def test_search_finds_groups_views_and_features_best_first(fs: FeatureStore) -> None:
    """Section 1, search: every word, in any case, in names, tags and descriptions."""
    spending, limits = make(fs, "spending", 1, [1]), make(fs, "limits", 1, [1])
    fs.create_feature_view("amounts", query=spending.select(["amount"]), description="Spending of cards by amount")
    assert [(f.kind, f.name, f.feature) for f in fs.search("Amount")] == [
        ("feature", "limits", "amount"),
        ("feature", "spending", "amount"),
        ("feature view", "amounts", None),
    ]
    assert [f.name for f in fs.search("fraud limits")] == ["limits"]
    assert [(f.name, f.feature) for f in fs.search("paid spending")] == [("spending", "amount")]
    assert fs.search("cards nothing") == []
    assert fs.search("  ") == []
    assert limits.ref.name in str(fs.search("limits")[0])
