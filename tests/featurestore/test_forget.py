"""Forgetting keys leaves nothing of them in any byte of the home, whenever it is interrupted."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from deltalake import DeltaTable

import featurestore
from featurestore import Feature, FeatureGroup, FeatureStore, delta, loose_tables
from featurestore.errors import InvalidData, NotReproducible, SchemaMismatch
from featurestore.forget import UNFINISHED, Erasure
from featurestore.schema import TIMESTAMP

ROOT = Path(__file__).parents[2]
T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
KEY, NAME, AMOUNT, AT = "canary-key", "canary-name", 987654321.015625, T0 + timedelta(seconds=12345, microseconds=678)
PEOPLE = [
    Feature("person", "string"),
    Feature("t", "timestamp"),
    Feature("name", "string"),
    Feature("amount", "double"),
]
RULES = {
    "name": "rules",
    "expectations": [
        {"type": "expect_column_values_to_be_between", "kwargs": {"column": "amount", "max_value": 1000}},
        {"type": "expect_column_max_to_be_between", "kwargs": {"column": "amount", "max_value": 1000}},
    ],
}


def rows(*quadruples: tuple[str, datetime, str, float]) -> pa.Table:
    people, times, names, amounts = zip(*quadruples, strict=True)
    return pa.table({"person": people, "t": pa.array(times, TIMESTAMP), "name": names, "amount": amounts})


def keys(*people: str) -> pa.Table:
    return pa.table({"person": list(people)})


CANARY = (KEY, AT, NAME, AMOUNT)
OTHERS = ("parted", "strict")
OTHER = ("ann", T0 + HOUR, "Ann", 2.0)


def people_in(store: FeatureStore, name: str = "people", **options: Any) -> FeatureGroup:
    options = {"expectation_suite": RULES, "validation_ingestion_policy": "ALWAYS", "online_enabled": True, **options}
    return store.get_or_create_feature_group(
        name, 1, primary_key=["person"], event_time="t", features=PEOPLE, **options
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    opened = featurestore.connect(tmp_path)
    yield opened
    opened.close()


def traces(home: Path) -> list[str]:
    """Every file of the home that holds the canary, in raw bytes or in a Parquet file's values."""
    wanted = [KEY.encode(), NAME.encode(), b"987654321.0", b"1767238545000678", AT.isoformat()[:19].encode()]
    wanted += [AT.strftime("%Y-%m-%d %H:%M:%S").encode()]
    wanted += [struct.pack(order + "d", AMOUNT) for order in "<>"]
    micros = (AT - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    wanted += [
        struct.pack(order + "q", micros)[2:] if order == ">" else struct.pack("<q", micros)[:6] for order in "<>"
    ]
    found = []
    for file in sorted(p for p in home.rglob("*") if p.is_file()):
        content = file.read_bytes()
        if file.suffix == ".parquet" and content[-4:] == b"PAR1":
            content += repr(pq.read_table(file).to_pylist()).encode()
        found += [f"{file.relative_to(home)}: {w!r}" for w in wanted if w in content]
    return found


def filled(home: Path, **settings: str) -> FeatureStore:
    """A store that holds the canary in every place a key can get to."""
    store = featurestore.connect(home, **settings)
    people = people_in(store)
    people.insert(rows(CANARY, OTHER, ("eve", T0, "Eve", 1.0)))
    people.insert(rows(OTHER, ("dan", AT + HOUR, "Dan", 3.0)))
    query = people.select(["name", "amount"])
    view = store.get_or_create_feature_view("spending", 1, query=query, logging_enabled=True)
    view.create_training_data()
    people.insert(rows((KEY, AT, NAME, AMOUNT + 0.5)))
    people.vacuum(timedelta(0))
    people.insert(rows(CANARY))
    DeltaTable(people.location).create_checkpoint()
    people.insert(rows(("bob", T0 + 5 * HOUR, "Bob", 4.0)))
    parted = people_in(store, "parted", partition_key=["name"])
    parted.insert(rows(CANARY, OTHER))
    delta.checkpoint(parted.location)
    parted.remove_rows(rows(CANARY).select(["person", "t"]))
    strict = people_in(store, "strict", validation_ingestion_policy="STRICT")
    strict.insert(rows(("eve", T0, "Eve", 1.0)))
    with pytest.raises(InvalidData):
        strict.insert(rows(CANARY, OTHER))
    view.log([[NAME, AMOUNT], ["Ann", 2.0]], [AMOUNT, 1.0], entries=[{"person": KEY}, {"person": "ann"}])
    view.log([["Ann", 3.0]], [1.0], entries=[{"person": "ann"}])
    half = Path(people.location, "part-half.parquet")
    half.write_bytes(b"half a file of " + KEY.encode())
    os.utime(half, (time.time() - 100,) * 2)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for left in (f"tmp/duckdb-{dead.pid}/spilled", "training/spending_1/.new-dead/all.csv", "staging/dead/rows"):
        (home / left).parent.mkdir(parents=True)
        (home / left).write_bytes(KEY.encode())
    (home / "staging" / "dead.lock").touch()
    return store


def test_g14_forgetting_leaves_no_byte_of_the_key_or_its_values(tmp_path):
    """G14: Delta files and log, checkpoints, online store, catalog, quarantine, logs and training datasets."""
    store = filled(tmp_path)
    places = {t.split(":")[0].split("/")[0].removesuffix("-wal") for t in traces(tmp_path)}
    assert places == {"lake", "online.db", "catalog.db", "quarantine", "logs", "training", "tmp", "staging"}
    people = store.get_feature_group("people", 1)
    report = people.forget(keys(KEY, "nobody"))
    for name in OTHERS:
        store.get_feature_group(name, 1).forget(keys(KEY))
    assert traces(tmp_path) == []
    assert (report.keys, report.rows_deleted, report.version) == (2, 1, people.delta_version)
    assert report.training_datasets == ["spending v1, training dataset 1"]
    assert report.rows_elsewhere == {"logs/spending_1": 1}
    assert len(report.files_removed) >= 4
    assert report.training_files == ["training/spending_1/1/all.parquet"]
    assert "training_dataset_version" in report.models
    assert people.read()["person"].tolist() == ["eve", "ann", "dan", "bob"]
    assert people.get_online({"person": KEY}, ["name"]) is None
    assert people.get_online({"person": "ann"}, ["name"]) == {"name": "Ann"}
    store.close()


def test_g14_what_was_not_forgotten_stays_whole(tmp_path):
    """G14: history, other rows' statistics and versions, other logs; the group goes on as before."""
    store = filled(tmp_path)
    people = store.get_feature_group("people", 1)
    told = [(c.version, c.operation, c.rows_written) for c in people.history()]
    people.forget(keys(KEY))
    assert [(c.version, c.operation, c.rows_written) for c in people.history()[:-1]] == told
    assert people.history()[-1].rows_deleted == 1
    assert people.get_statistics(2)["amount"]["max"] == 3.0
    assert [r["success"] for r in people.validation_reports().values()] == [False, True, False, False, True]
    log = store.get_feature_view("spending", 1).read_log()
    assert log[["person", "amount"]].values.tolist() == [["ann", 2.0], ["ann", 3.0]]
    assert people.insert(rows(("ann", T0 + 9 * HOUR, "Ann", 9.0))).rows_inserted == 1
    assert people.get_online({"person": "ann"}, ["amount"]) == {"amount": 9.0}
    assert people.read_changes(people.delta_version - 1)["person"].tolist() == ["ann"]
    with pytest.raises(NotReproducible, match="forget"):
        people.read(as_of=1)
    store.close()


def test_g14_on_postgresql_no_table_holds_the_key_or_its_values(tmp_path, postgres_url):
    """G14: the catalog and the online store in a database server."""
    store = filled(tmp_path, catalog_url=postgres_url, online_url=postgres_url)
    engine = sa.create_engine(postgres_url)

    def rows_of_all_tables() -> str:
        with engine.connect() as connection:
            tables = sa.inspect(connection).get_table_names()
            return repr([connection.exec_driver_sql(f'SELECT * FROM "{t}"').fetchall() for t in tables])

    assert "987654321" in rows_of_all_tables()
    for name in ("people", *OTHERS):
        store.get_feature_group(name, 1).forget(keys(KEY))
    assert traces(tmp_path) == []
    told = rows_of_all_tables()
    assert not [word for word in (KEY, NAME, "987654321") if word in told]
    engine.dispose()
    store.close()


def test_g14_training_datasets_that_held_the_rows_are_marked_and_others_verify(store):
    """G14, V2: only a set whose pinned version had a forgotten key breaks, and it says since when and why."""
    people = people_in(store)
    view = store.get_or_create_feature_view("spending", 1, query=people.select(["amount"]))
    people.insert(rows(OTHER))
    view.create_training_data()
    people.insert(rows(CANARY))
    view.create_training_data()
    delta.checkpoint(people.location)  # dataset 3 is read from it, cleaned as it then is
    people.remove_rows(rows(CANARY).select(["person", "t"]))
    view.create_training_data()
    people.insert(rows(("dan", T0, "Dan", 1.0)))
    report = people.forget(keys(KEY))
    assert report.training_datasets == ["spending v1, training dataset 2"]
    assert report.rows_deleted == 0
    marked = view.training_dataset(2).manifest
    assert marked["not_reproducible_since"].startswith("20")
    assert "people_v1" in marked["not_reproducible_because"]
    for version in (1, 3):
        view.verify_training_dataset(version)
    assert store.pins(people.ref) == {1: ["spending v1, training dataset 1"], 3: ["spending v1, training dataset 3"]}
    with pytest.raises(NotReproducible):
        view.verify_training_dataset(2)
    assert people.forget(keys("ann")).training_datasets == [
        f"spending v1, training dataset {n}" for n in (1, 2, 3)
    ]  # fmt: skip


def test_g14_logs_that_do_not_hold_the_groups_keys_are_named(tmp_path):
    """G14: whose rows they are nobody can tell, so the report says that they were not searched."""
    store = filled(tmp_path)
    people = store.get_feature_group("people", 1)
    store.get_or_create_feature_view("other", 1, query=people.select(["amount"]))
    loose_tables.append(str(tmp_path / "logs" / "other_1"), pa.table({"request": ["r1"]}))
    names = store.get_or_create_feature_group("names", 1, primary_key=["person"], features=PEOPLE[:1])
    store.get_or_create_feature_view(
        "both", 1, query=people.select(["amount"]).join(names.select(["person"]), prefix="n")
    )
    loose_tables.append(str(tmp_path / "logs" / "both_1"), pa.table({"person": [KEY]}))
    names.delete(force=True)
    (tmp_path / "training" / "gone_7").mkdir(parents=True)
    report = people.forget(keys(KEY))
    assert report.unsearched == ["logs/other_1", "training/gone_7"]
    assert report.rows_elsewhere == {"logs/both_1": 1, "logs/spending_1": 1}
    assert not [t for t in traces(tmp_path) if t.startswith(("lake/people", "logs", "training", "staging", "tmp"))]
    store.close()


def test_g14_only_a_frame_of_primary_keys_can_be_forgotten(store):
    """G14, G5: other columns, or a null key, are refused before anything is touched."""
    people = people_in(store)
    people.insert(rows(OTHER))
    with pytest.raises(SchemaMismatch):
        people.forget(rows(OTHER).select(["person", "t"]))
    with pytest.raises(InvalidData):
        people.forget(pa.table({"person": pa.array([None], pa.string())}))
    assert people.delta_version == 1
    assert not any(kind.startswith(UNFINISHED) for kind in store.catalog.kinds_of_notes(people.id))


KILLED = """
import os, signal, sys
import duckdb, deltalake, pandas, pyarrow.parquet
import featurestore
from featurestore.forget import Erasure
import pyarrow as pa

steps = Erasure.STEPS
for place, home in enumerate(sys.argv[1:]):
    if os.fork() == 0:
        def die(erasure, place=place):
            os.kill(os.getpid(), signal.SIGKILL)
        Erasure.STEPS = (*steps[:place], die)
        featurestore.connect(home).get_feature_group("people", 1).forget(pa.table({"person": ["canary-key"]}))
    _, status = os.wait()
    assert os.WTERMSIG(status) == signal.SIGKILL, status
"""


def test_g14_killed_between_any_two_steps_calling_it_again_completes(tmp_path):
    """G14: kill -9 after each step in turn, in processes of their own; until the end a note says it is unfinished."""
    homes = [tmp_path / str(place) for place in range(len(Erasure.STEPS) + 1)]
    store = filled(homes[0])
    for name in OTHERS:
        store.get_feature_group(name, 1).forget(keys(KEY))
    store.close()
    for home in homes[1:]:
        subprocess.run(["cp", "-r", "--preserve=timestamps", str(homes[0]), str(home)], check=True)
    subprocess.run([sys.executable, "-c", KILLED, *map(str, homes)], cwd=ROOT, check=True, timeout=100)
    for place, home in enumerate(homes):
        store = featurestore.connect(home)
        people = store.get_feature_group("people", 1)
        unfinished = [k for k in store.catalog.kinds_of_notes(people.id) if k.startswith(UNFINISHED)]
        assert len(unfinished) == (1 if 0 < place < len(Erasure.STEPS) else 0)
        report = people.forget(keys(KEY))
        assert traces(home) == [], place
        assert (place == len(Erasure.STEPS)) or report.training_datasets == ["spending v1, training dataset 1"]
        assert people.read()["person"].tolist() == ["eve", "ann", "dan", "bob"]
        assert not any(k.startswith(UNFINISHED) for k in store.catalog.kinds_of_notes(people.id))
        store.close()
