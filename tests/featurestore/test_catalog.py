from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from featurestore import connect
from featurestore.catalog import Catalog
from featurestore.errors import Conflict, FeatureStoreError, NotFound


@pytest.fixture
def catalog(database_url: str) -> Iterator[Catalog]:
    made = Catalog(database_url)
    yield made
    made.close()


def test_c1_without_a_version_the_newest_is_found(catalog):
    for version in (1, 10, 9):
        catalog.add("feature group", "cards", version, {"v": version})
    assert catalog.find("feature group", "cards")[1:] == (10, {"v": 10})
    assert catalog.find("feature group", "cards", 9)[1:] == (9, {"v": 9})


def test_c1_an_unknown_name_lists_what_there_is(catalog):
    catalog.add("feature group", "cards", 1, {})
    with pytest.raises(NotFound, match=r"no feature group 'crads' \(known: cards\)"):
        catalog.find("feature group", "crads")
    with pytest.raises(NotFound, match="known: none yet"):
        catalog.find("feature view", "cards")


def test_c1_an_unknown_version_lists_the_versions(catalog):
    catalog.add("feature group", "cards", 1, {})
    catalog.add("feature group", "cards", 3, {})
    with pytest.raises(NotFound, match=r"no version 2 \(versions: 1, 3\)"):
        catalog.find("feature group", "cards", 2)


def test_c3_the_same_name_and_version_is_registered_once(catalog):
    catalog.add("feature group", "cards", 1, {"first": True})
    with pytest.raises(Conflict):
        catalog.add("feature group", "cards", 1, {"first": False})
    assert catalog.find("feature group", "cards")[2] == {"first": True}


def test_c3_many_writers_number_training_datasets_without_a_gap(catalog):
    view = catalog.add("feature view", "fraud", 1, {})
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda n: catalog.add_training_dataset(view, {"n": n}), range(24)))
    assert sorted(versions) == list(range(1, 25))
    assert {v: m["n"] for v, m in catalog.training_datasets(view).items()} == dict(
        zip(versions, range(24), strict=True)
    )


def test_what_is_written_is_there_after_a_restart(catalog, database_url):
    identifier = catalog.add("feature group", "cards", 1, {"a": [1, None, "é"]})
    catalog.update(identifier, {"a": 2})
    catalog.note(identifier, 4, "statistics", {"rows": 1})
    catalog.note(identifier, 4, "statistics", {"rows": 2})
    catalog.close()
    again = Catalog(database_url)
    assert again.find("feature group", "cards", 1) == (identifier, 1, {"a": 2})
    assert again.notes(identifier, "statistics") == {4: {"rows": 2}}
    again.close()


def test_what_is_removed_takes_its_notes_and_training_datasets_along(catalog):
    view = catalog.add("feature view", "fraud", 1, {})
    catalog.add_training_dataset(view, {})
    catalog.note(view, 1, "statistics", {})
    catalog.remove(view)
    assert (catalog.list("feature view"), catalog.training_datasets(view), catalog.notes(view, "statistics")) == (
        [],
        {},
        {},
    )


def test_names_are_values_and_never_sql(catalog):
    """C2: whatever a name holds, it reaches the database as a parameter."""
    name = "x'; DROP TABLE definitions; --"
    catalog.add("feature group", name, 1, {})
    assert [n for _, n, _, _ in catalog.list("feature group")] == [name]


def test_a_catalog_of_a_newer_version_is_refused(catalog, database_url):
    """C3: rather than half understood."""
    catalog.close()
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE triptych_catalog SET value = 99")
    engine.dispose()
    with pytest.raises(FeatureStoreError, match="has schema 99"):
        Catalog(database_url)


def processes(code: str, *arguments: str, count: int = 2) -> list[str]:
    """What several processes print that run the same code at once."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, *arguments, str(n)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for n in range(count)
    ]
    printed = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * count, printed
    return [text.strip() for text in printed]


def test_c3_processes_that_connect_first_at_once_all_succeed(database_url):
    """C3: also when the tables are not there yet."""
    code = (
        "import sys; from featurestore.catalog import Catalog; c = Catalog(sys.argv[1]);"
        "c.add('feature group', 'g' + sys.argv[2], 1, {}); print('done')"
    )
    assert processes(code, database_url, count=3) == ["done"] * 3
    catalog = Catalog(database_url)
    assert [name for _, name, _, _ in catalog.list("feature group")] == ["g0", "g1", "g2"]
    catalog.close()


SAME_TIME = """
import json, sys
import pandas as pd
from featurestore import Conflict, connect
home, settings = sys.argv[1], json.loads(sys.argv[2])
fs = connect(home, **settings)
group = fs.get_or_create_feature_group("cards", 1, primary_key=["id"], event_time="at", online_enabled=True)
rows = pd.DataFrame({"id": [int(sys.argv[3])], "at": pd.to_datetime(["2026-01-01"]), "x": [1.0]})
group.insert(rows)
view = fs.get_or_create_feature_view("cards", 1, query=group.select(["x"]))
version, _ = view.create_training_data()
try:
    fs.create_feature_view("cards", 1, query=group.select(["x"]))
except Conflict:
    print(group.id, view.id, version)
"""


def test_c3_two_processes_that_create_the_same_things_share_them(tmp_path, database_settings):
    """C3: one wins, the other gets what the winner made; training datasets get a version each; no row is lost."""
    printed = processes(SAME_TIME, str(tmp_path), json.dumps(database_settings))
    groups, views, versions = zip(*(line.split() for line in printed), strict=True)
    assert len(set(groups)) == len(set(views)) == 1
    assert set(versions) == {"1", "2"}
    store = connect(tmp_path, **database_settings)
    group = store.get_feature_group("cards", 1)
    assert sorted(group.read()["id"]) == [0, 1]
    assert [group.get_online({"id": n}, ["x"]) for n in (0, 1)] == [{"x": 1.0}] * 2
    store.close()


def test_c3_a_forked_child_and_its_parent_both_go_on(catalog):
    """C3: a child opens connections of its own."""
    catalog.add("feature group", "before", 1, {})
    child = os.fork()
    if not child:
        try:
            catalog.add("feature group", "child", 1, {})
        finally:
            os._exit(0)
    catalog.add("feature group", "parent", 1, {})
    os.waitpid(child, 0)
    assert [name for _, name, _, _ in catalog.list("feature group")] == ["before", "child", "parent"]


def test_c3_what_several_note_at_once_is_kept_once(catalog):
    """C3: the last one wins, and nobody fails."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: catalog.note("group", 1, "statistics", {"n": n % 2}), range(32)))
    assert set(catalog.notes("group", "statistics")) == {1}


def test_a_database_that_went_and_came_back_is_used_again(catalog, database_url):
    """C3: whoever restarts the server need not restart the store."""
    catalog.add("feature group", "before", 1, {})
    if database_url.startswith("postgresql"):
        engine = sa.create_engine(database_url)
        with engine.connect() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                "AND query LIKE '%%definitions%%' AND state = 'idle'"
            )
        engine.dispose()
    catalog.add("feature group", "after", 1, {})
    assert len(catalog.list("feature group")) == 2


def test_a_password_is_never_shown():
    """Whoever reads a log must not read a password."""
    with pytest.raises(FeatureStoreError) as caught:
        Catalog("postgresql+psycopg://me:hunter2@127.0.0.1:1/none")
    assert "hunter2" not in str(caught.value)
    assert "does not answer" in str(caught.value)


def test_a_catalog_that_stays_locked_is_a_conflict(tmp_path):
    """C3: nothing was written, and it is safe to retry."""
    catalog = Catalog(f"sqlite:///{tmp_path / 'catalog.db'}")
    with catalog._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(tmp_path / "catalog.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Conflict, match="stayed locked by another process"):
        catalog.add("feature group", "cards", 1, {})
    other.execute("ROLLBACK")
    other.close()
    catalog.add("feature group", "cards", 1, {})
    catalog.close()


def test_a_home_that_cannot_be_made_is_said_with_its_path(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FeatureStoreError, match=r"home .*file/home cannot be made"):
        Catalog(f"sqlite:///{tmp_path / 'file' / 'home' / 'catalog.db'}")
