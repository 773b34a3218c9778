"""What users of hsfs try first: it works, or the message says what to type instead."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import featurestore
from featurestore import FeatureGroup, FeatureStore
from featurestore.errors import InvalidData, InvalidTime, NotFound

T0 = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    opened = featurestore.connect(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def lab(store: FeatureStore) -> FeatureGroup:
    group = lab_in(store, online_enabled=False)
    group.insert(values((1, 0, 1.0), (1, 1, 2.0), (2, 0, 3.0)))
    return group


def lab_in(store: FeatureStore, **options: Any) -> FeatureGroup:
    return store.get_or_create_feature_group("lab", 1, primary_key=["id"], event_time="t", **options)


def values(*rows: tuple[int, int, float]) -> pd.DataFrame:
    """Rows of (id, days after T0, value)."""
    return pd.DataFrame([{"id": i, "t": T0 + day * DAY, "value": value} for i, day, value in rows])


# Online


def test_a_group_that_becomes_online_has_its_rows_online_at_once(store, lab):
    """G10: nothing has to be inserted first, also after a time in which it was not online."""
    group = lab_in(store, online_enabled=True)
    assert group.get_online({"id": 1}, ["value"]) == {"value": 2.0}
    group = lab_in(store, online_enabled=False)
    group.insert(values((1, 2, 4.0)))
    group = lab_in(store, online_enabled=True)
    assert group.get_online({"id": 1}, ["value"]) == {"value": 4.0}


def test_a_look_up_never_answers_from_an_online_table_that_was_never_filled(store, lab):
    """G10: whoever made the group online may have died before its rows were there."""
    group = lab_in(store, online_enabled=True)
    store.online.drop(group.online_table())
    store.online.create(group.online_table())
    assert group.get_online({"id": 2}, ["value"]) == {"value": 3.0}


def test_a_key_of_another_type_is_refused_naming_the_group(store, lab):
    """V11: not the online store's own name of its table."""
    group = lab_in(store, online_enabled=True)
    with pytest.raises(InvalidData, match="Key 'id' of online table 'lab_v1' is '1'"):
        group.get_online({"id": "1"}, ["value"])


# Times and versions


def test_a_start_after_the_end_is_refused_wherever_rows_are_chosen_by_time(store, lab):
    """G12: an empty frame would look like a stretch without rows; equal ends are one."""
    start, end = "2026-01-02", "2026-01-01"
    view = store.get_or_create_feature_view("labs", 1, query=lab.select(["id", "value"]), labels=["value"])
    view.training_data()
    for read in (
        lambda: lab.read(start, end), lambda: lab.select_all().read(start_time=start, end_time=end),
        lambda: view.get_batch_data(start_time=start, end_time=end),
        lambda: view.training_data(start_time=start, end_time=end),
        lambda: view.create_training_data(start_time=start, end_time=end),
    ):  # fmt: skip
        with pytest.raises(InvalidTime, match="Swap the two"):
            read()
    assert lab.read(start, start).empty


def test_a_version_or_a_time_that_is_not_there_names_the_group_and_a_way_on(lab, tmp_path):
    """G13: `lab_v1`, not the folder that it lies in."""
    with pytest.raises(NotFound, match=r"^lab_v1 has no Delta version 99 \(versions: 0 to 1\).*history") as unknown:
        lab.read(as_of=99)
    with pytest.raises(InvalidTime, match=r"^Nothing was committed to lab_v1 by .* Ask for that time or") as too_early:
        lab.read(as_of="2001-01-01")
    assert str(tmp_path) not in f"{unknown.value}{too_early.value}"
