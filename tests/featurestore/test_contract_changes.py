"""A group's contract over time: who declares it, which columns come later, descriptions and tags; what Delta says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError

import featurestore
from featurestore import Feature, FeatureGroup, FeatureStore, delta
from featurestore.engines.sql import COMMITTED_AT
from featurestore.errors import Conflict, InvalidData, NotFound, SchemaMismatch
from featurestore.schema import TIMESTAMP

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
CARDS = [
    Feature("card", "bigint"), Feature("t", "timestamp"), Feature("amount", "double", "What was paid.", unit="EUR"),
]  # fmt: skip
MORE = [Feature("city", "string"), Feature("risk", "double", "A guess.", unit="%")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    opened = featurestore.connect(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def cards(store: FeatureStore) -> FeatureGroup:
    return store.get_or_create_feature_group(
        "cards", 1, primary_key=["card"], event_time="t", features=CARDS, online_enabled=True, description="Payments."
    )


def rows(*triples: tuple[int, int, float | None], **more: list) -> pa.Table:
    """Rows of (card, hours after T0, amount) and further columns."""
    ids, hours, amounts = zip(*triples, strict=True)
    return pa.table({
        "card": pa.array(ids, pa.int64()), "t": pa.array([T0 + h * HOUR for h in hours], TIMESTAMP),
        "amount": pa.array(amounts, pa.float64()), **more,
    })  # fmt: skip


def test_g6_appended_columns_are_null_in_every_stored_row_offline_and_online(cards):
    """G6, G2: additive; no file is rewritten, and new rows bring the columns."""
    cards.insert(rows((1, 0, 1.0), (2, 0, 2.0)))
    files = {f.path for f in cards.snapshot().files}
    assert cards.append_features(MORE) is cards
    assert {f.path for f in cards.snapshot().files} == files
    assert [f.name for f in cards.features] == ["card", "t", "amount", "city", "risk"]
    old = {"t": T0, "city": None, "risk": None}
    assert cards.read(dataframe_type="arrow").to_pylist() == [
        {"card": 1, "amount": 1.0} | old, {"card": 2, "amount": 2.0} | old,
    ]  # fmt: skip
    assert cards.get_online({"card": 1}, ["amount", "city"]) == {"amount": 1.0, "city": None}
    commit = cards.insert(
        rows((1, 0, 1.0), (2, 0, 2.0), (3, 1, 3.0), city=[None, "Bern", "Rome"], risk=[None, None, 0.5])
    )
    assert (commit.rows_unchanged, commit.rows_updated, commit.rows_inserted) == (1, 1, 1)
    assert cards.read()["city"].tolist()[1:] == ["Bern", "Rome"]
    assert [cards.get_online({"card": c}, ["city"])["city"] for c in (1, 2, 3)] == [None, "Bern", "Rome"]
    assert cards.remove_rows(rows((1, 0, 1.0)).select(["card", "t"])).rows_deleted == 1
    assert cards.get_statistics()["city"]["count"] == 2
    with pytest.raises(SchemaMismatch, match="lacks"):
        cards.insert(rows((4, 0, 1.0)))


def test_g6_what_was_read_before_columns_came_is_read_the_same_after(store, cards):
    """G6, G13, V2: the past has the columns it had; views and training datasets give the same bytes."""
    cards.insert(rows(*[(card, 0, float(card)) for card in range(20)]))
    version = cards.delta_version
    before = cards.read(as_of=version, dataframe_type="arrow")
    view = store.create_feature_view("v", 1, query=cards.select_all())
    number, _ = view.create_train_test_split(test_size=0.5)
    sets = [frame.copy() for frame in view.get_train_test_split(number) if frame is not None]
    cards.append_features(MORE)
    cards.insert(rows((1, 5, 9.0), city=["Bern"], risk=[0.1]))
    assert cards.read(as_of=version, dataframe_type="arrow").equals(before)
    assert cards.as_of(version).read("arrow").equals(before)
    again = [frame for frame in view.get_train_test_split(number) if frame is not None]
    assert all(a.equals(b) for a, b in zip(sets, again, strict=True))
    assert view.get_batch_data().columns.tolist() == ["card", "t", "amount"]
    assert cards.select(["card", "risk"]).filter(cards["risk"].is_null()).read("arrow").num_rows == 20


def test_g6_joined_groups_read_files_that_lack_a_column(store, cards):
    cards.insert(rows((1, 0, 1.0)))
    cards.append_features(MORE)
    labels = store.get_or_create_feature_group(
        "labels",
        1,
        primary_key=["card"],
        event_time="t",
        features=[Feature("card", "bigint"), Feature("t", "timestamp")],
    )
    labels.insert(rows((1, 1, 0.0), (1, 5, 0.0)).select(["card", "t"]))
    query = labels.select_all().join(cards.select(["amount", "city"]))
    assert query.read("arrow")["city"].to_pylist() == [None, None]
    cards.insert(rows((1, 3, 2.0), city=["Bern"], risk=[0.1]))
    assert query.read("arrow")["city"].to_pylist() == [None, "Bern"]


def test_g6_appending_again_is_nothing_and_another_dtype_is_refused(cards):
    cards.insert(rows((1, 0, 1.0)))
    cards.append_features(MORE)
    version = cards.delta_version
    cards.append_features(MORE[0])
    assert cards.delta_version == version
    for wrong in (Feature("city", "int"), Feature("amount", "string")):
        with pytest.raises(SchemaMismatch, match="has a column"):
            cards.append_features([Feature("fine", "int"), wrong])
    with pytest.raises(SchemaMismatch, match="same name but for case"):
        cards.append_features(Feature("CITY", "string"))
    assert [f.name for f in cards.features] == ["card", "t", "amount", "city", "risk"]


def test_g10_appending_that_broke_off_is_completed_by_the_next_insert(tmp_path, cards, monkeypatch):
    """G10: the process died after the catalog had the columns and before Delta and the online store had them."""
    cards.insert(rows((1, 0, 1.0)))

    def die(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as crash:
        crash.setattr(delta, "add_columns", die)
        with pytest.raises(KeyboardInterrupt):
            cards.append_features(MORE)
    other = featurestore.connect(tmp_path).get_feature_group("cards")
    assert other.read(dataframe_type="arrow")["city"].to_pylist() == [None]
    other.insert(rows((2, 0, 2.0), city=["Bern"], risk=[0.1]))
    assert other.read(dataframe_type="arrow")["city"].to_pylist() == [None, "Bern"]
    assert [other.get_online({"card": c}, ["city"]) for c in (1, 2)] == [{"city": None}, {"city": "Bern"}]


def test_g6_what_another_process_appended_counts_in_the_next_insert(tmp_path, cards):
    cards.insert(rows((1, 0, 1.0)))
    featurestore.connect(tmp_path).get_feature_group("cards").append_features(MORE)
    with pytest.raises(SchemaMismatch, match="city"):
        cards.insert(rows((2, 0, 2.0)))
    assert cards.insert(rows((2, 0, 2.0), city=["Bern"], risk=[None])).rows_inserted == 1


def test_c3_of_two_first_inserts_one_declares_the_columns(tmp_path, monkeypatch):
    """C3, G6: the other gets a conflict unless it would have declared the same; nothing of it is written."""
    groups = [
        featurestore.connect(tmp_path).get_or_create_feature_group("free", 1, primary_key=["card"], event_time="t")
        for _ in range(3)
    ]
    declare = FeatureGroup._declare

    def slower(group: FeatureGroup, definition: object) -> None:
        """Between looking at the contract and declaring it another process does."""
        monkeypatch.setattr(FeatureGroup, "_declare", declare)
        groups[0].insert(rows((1, 0, 1.0)))
        declare(group, definition)

    monkeypatch.setattr(FeatureGroup, "_declare", slower)
    with pytest.raises(Conflict, match="declared the columns"):
        groups[1].insert(rows((2, 0, 2.0)).append_column("city", pa.array(["Bern"])))
    assert groups[2].read()["card"].tolist() == [1]
    groups[1].insert(rows((2, 0, 2.0)))
    assert groups[2].read()["card"].tolist() == [1, 2]


def test_descriptions_and_tags_are_kept(tmp_path, cards):
    cards.update_description("All payments.")
    cards.add_tag("owner", {"team": "fraud"})
    cards.add_tag("pii", True)
    other = featurestore.connect(tmp_path).get_feature_group("cards")
    assert (other.description, other.tags) == ("All payments.", {"owner": {"team": "fraud"}, "pii": True})
    assert (other.get_tag("owner"), other.get_tag("none"), other.get_tags()) == ({"team": "fraud"}, None, other.tags)
    other.delete_tag("pii")
    with pytest.raises(NotFound, match="no tag 'pii'"):
        other.delete_tag("pii")
    cards.insert(rows((1, 0, 1.0)))
    assert cards.tags == {"owner": {"team": "fraud"}}


def test_a_foreign_key_is_among_the_columns_and_no_feature(store):
    group = store.get_or_create_feature_group(
        "cards",
        1,
        primary_key=["card"],
        event_time="t",
        features=[*CARDS, Feature("shop", "int")],
        foreign_key=["shop"],
    )
    assert [
        f.name for f in DeltaTable(group.location).schema().fields if f.metadata.get("triptych.role") == "foreign key"
    ] == ["shop"]
    group.insert(rows((1, 0, 1.0), shop=pa.array([7], pa.int32())))
    assert group.select_features().read("arrow").column_names == ["amount"]
    with pytest.raises(SchemaMismatch, match="'nowhere'"):
        store.get_or_create_feature_group("other", 1, primary_key=["card"], features=CARDS, foreign_key=["nowhere"])


def test_g6_getting_a_group_by_its_keys_alone_leaves_its_rules_ttl_and_serving_as_they_are(store):
    """G6, G15, G18: a script that only wants to read must not switch off what the pipeline that writes has declared."""
    rules = {"name": "sane", "expectations": [
        {"type": "expect_column_values_to_be_between", "kwargs": {"column": "amount", "min_value": 0}}]}  # fmt: skip
    keys = {"primary_key": ["card"], "event_time": "t"}
    declared = store.get_or_create_feature_group(
        "payments", 1, **keys, features=[*CARDS, MORE[0]], online_enabled=True, partition_key=["city"],
        foreign_key=["city"], expectation_suite=rules, validation_ingestion_policy="ALWAYS", statistics_config=False,
        ttl=HOUR, description="Payments.",
    )  # fmt: skip
    assert store.get_or_create_feature_group("payments", 1, **keys).definition == declared.definition
    changed = store.get_or_create_feature_group("payments", 1, **keys, online_enabled=False, ttl=2 * HOUR)
    assert (changed.online_enabled, changed.definition.ttl) == (False, 2 * HOUR)
    assert changed.definition.expectation_suite == declared.definition.expectation_suite
    with pytest.raises(SchemaMismatch, match=r"exists with the partition key \['city'\], asked for \[\]"):
        store.get_or_create_feature_group("payments", 1, **keys, partition_key=[])


# The Delta table itself


@pytest.mark.parametrize("online", [True, False])
def test_g10_a_table_whose_folder_is_gone_is_not_made_anew(store, online):
    """G10: an empty table in its place would hide the loss."""
    definition = {"primary_key": ["card"], "event_time": "t", "features": CARDS, "online_enabled": online}
    group = store.get_or_create_feature_group("lost", 1, **definition)
    group.insert(rows((1, 0, 1.0)))
    shutil.rmtree(group.location)
    with pytest.raises(NotFound, match="Restore the folder"):
        group.insert(rows((2, 0, 2.0)))
    with pytest.raises(NotFound, match="Restore the folder"):
        store.get_or_create_feature_group("lost", 1, **definition)
    assert not Path(group.location).exists()


def test_g17_an_empty_text_in_a_partition_key_is_refused(store):
    """G17: the protocol spells null that way, so that other readers would see another value."""
    group = store.get_or_create_feature_group(
        "parts", 1, primary_key=["card"], event_time="t", features=[*CARDS, MORE[0]], partition_key=["city"]
    )
    with pytest.raises(InvalidData, match="'city' holds an empty text"):
        group.insert(rows((1, 0, 1.0), city=[""]))
    assert group.insert(rows((1, 0, 1.0), (2, 0, 1.0), city=[None, "Bern"])).rows_inserted == 2


def test_g17_the_table_says_what_its_columns_are(cards):
    cards.append_features(MORE)
    table = DeltaTable(cards.location)
    notes = {f.name: f.metadata for f in table.schema().fields}
    assert notes["card"] == {"triptych.role": "primary key"}
    assert notes["t"] == {"triptych.role": "event time"}
    assert notes["amount"] == {"comment": "What was paid.", "unit": "EUR"}
    assert notes["risk"] == {"comment": "A guess.", "unit": "%"}
    assert (table.metadata().name, table.metadata().description) == ("cards_v1", "Payments.")
    assert {f.name for f in table.schema().fields if not f.nullable} == {"card", "t", COMMITTED_AT}


def test_g17_every_delta_reader_sees_the_current_truth(cards):
    cards.insert(rows((1, 0, 1.0), (2, 0, 2.0)))
    cards.insert(rows((1, 0, 5.0)))
    cards.append_features(MORE)
    cards.insert(rows((3, 0, 3.0), city=["Bern"], risk=[None]))
    cards.remove_rows(rows((2, 0, 0.0)).select(["card", "t"]))
    truth = [(1, 5.0, None), (3, 3.0, "Bern")]
    names = ["card", "amount", "city"]
    table = DeltaTable(cards.location)
    read = {
        "deltalake": table.to_pyarrow_table(columns=names).sort_by("card").to_pylist(),
        "polars": pl.scan_delta(cards.location).select(names).sort("card").collect().to_dicts(),
        "duckdb": duckdb.sql(
            f"SELECT {', '.join(names)} FROM read_parquet({table.file_uris()}, union_by_name = true) ORDER BY card"
        ).to_arrow_table().to_pylist(),
    }  # fmt: skip
    assert {library: [tuple(r.values()) for r in found] for library, found in read.items()} == dict.fromkeys(
        read, truth
    )
    late = pl.scan_delta(cards.location).filter(pl.col("t") >= T0, pl.col("card") == 3).collect()
    assert late["amount"].to_list() == [3.0]


@pytest.mark.parametrize("column", ["card", "t"])
def test_g17_a_raw_write_that_breaks_the_contract_fails(cards, column):
    """G17: keys and event time are NOT NULL for every writer; ours go on working."""
    cards.insert(rows((1, 0, 1.0)))
    stamped = rows((2, 0, 2.0)).append_column(COMMITTED_AT, pa.array([T0], TIMESTAMP))
    broken = stamped.set_column(stamped.column_names.index(column), column, pa.nulls(1, stamped[column].type))
    with pytest.raises((DeltaError, ValueError)):
        write_deltalake(cards.location, broken, mode="append")
    with pytest.raises((DeltaError, ValueError)):
        write_deltalake(cards.location, stamped.drop(["amount"]).append_column("other", pa.array([1])), mode="append")
    cards.insert(rows((2, 0, 2.0)))
    assert cards.read()["card"].tolist() == [1, 2]


def between(column: str, low: float | None, high: float | None, **more: object) -> dict:
    kwargs = {"column": column, "min_value": low, "max_value": high, **more}
    return {"type": "expect_column_values_to_be_between", "kwargs": kwargs}


def checks(group: FeatureGroup) -> list[str]:
    configuration = DeltaTable(group.location).metadata().configuration
    return [text for key, text in configuration.items() if key.startswith("delta.constraints.")]


def raw_write(group: FeatureGroup, card: int, amount: float | None) -> None:
    stamped = rows((card, 0, amount)).append_column(COMMITTED_AT, pa.array([T0], TIMESTAMP))
    write_deltalake(group.location, stamped, mode="append")


def test_g17_the_limits_of_a_strict_suite_hold_for_every_writer(store):
    """G17: as one CHECK that nulls keep; ours write as before, and others cannot break the rules."""
    group = store.get_or_create_feature_group(
        "cards", 1, primary_key=["card"], event_time="t", features=CARDS,
        expectation_suite=[between("amount", 0, 100), between("card", None, 1000)],
    )  # fmt: skip
    group.insert(rows((1, 0, 0.0), (2, 0, None)))
    raw_write(group, 3, None)
    for card, amount in ((4, -1.0), (4, 100.5), (1001, 1.0)):
        with pytest.raises(DeltaError, match="validation check"):
            raw_write(group, card, amount)
    with pytest.raises(InvalidData):
        group.insert(rows((5, 0, -1.0)))
    group.insert(rows((1, 0, 100.0)))
    assert group.read()["card"].tolist() == [1, 2, 3]


def test_g17_a_check_never_lies(store):
    """G17: it goes when rows may enter that break it, and does not come back while they are there."""
    definition = {"primary_key": ["card"], "event_time": "t", "features": CARDS}
    strict = [between("amount", 0, None)]
    group = store.get_or_create_feature_group("cards", 1, **definition, expectation_suite=strict)
    assert len(checks(group)) == 1
    group.insert(rows((1, 0, -1.0)), validation_options={"run_validation": False})
    assert (checks(group), len(group.read())) == ([], 1)
    assert checks(store.get_or_create_feature_group("cards", 1, **definition, expectation_suite=strict)) == []
    group.remove_rows(rows((1, 0, 0.0)).select(["card", "t"]))
    assert len(checks(store.get_or_create_feature_group("cards", 1, **definition, expectation_suite=strict))) == 1
    wider = [between("amount", -5, None)]
    assert "-5" in checks(store.get_or_create_feature_group("cards", 1, **definition, expectation_suite=wider))[0]
    loose = {"expectation_suite": wider, "validation_ingestion_policy": "ALWAYS"}
    assert checks(store.get_or_create_feature_group("cards", 1, **definition, **loose)) == []


@pytest.mark.parametrize(
    "expectation",
    [
        between("amount", 0, None, mostly=0.9), between("amount", 0, None, strict_min=True),
        between("Amount EUR", 0, 1),
        between("t", "2020-01-01", None), {**between("amount", 0, None), "severity": "warning"},
        {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "amount", "min_value": 0}},
    ],
)  # fmt: skip
def test_g17_rules_that_are_no_plain_limits_are_no_check(store, expectation):
    """G17: what is not exactly a condition on each row stays with the suite."""
    features = [*CARDS, Feature("Amount EUR", "double")]
    group = store.get_or_create_feature_group(
        "cards", 1, primary_key=["card"], event_time="t", features=features, expectation_suite=[expectation]
    )
    assert (checks(group), group.delta_version) == ([], 0)
