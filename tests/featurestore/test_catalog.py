from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from featurestore.catalog import Catalog
from featurestore.errors import Conflict, FeatureStoreError, NotFound


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = Catalog(f"sqlite:///{tmp_path / 'deep' / 'catalog.db'}")
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


def test_what_is_written_is_there_after_a_restart(catalog, tmp_path):
    identifier = catalog.add("feature group", "cards", 1, {"a": [1, None, "é"]})
    catalog.update(identifier, {"a": 2})
    catalog.note(identifier, 4, "statistics", {"rows": 1})
    catalog.note(identifier, 4, "statistics", {"rows": 2})
    catalog.close()
    again = Catalog(f"sqlite:///{tmp_path / 'deep' / 'catalog.db'}")
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


def test_a_catalog_of_a_newer_version_is_refused(catalog, tmp_path):
    catalog.close()
    path = tmp_path / "deep" / "catalog.db"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE triptych_catalog SET value = 99")
    with pytest.raises(FeatureStoreError, match="has schema 99"):
        Catalog(f"sqlite:///{path}")


def test_a_home_that_cannot_be_made_is_said_with_its_path(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FeatureStoreError, match=r"home .*file/home cannot be made"):
        Catalog(f"sqlite:///{tmp_path / 'file' / 'home' / 'catalog.db'}")
