"""What users of hsfs try first: it works, or the message says what to type instead."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

import featurestore
from featurestore import Feature, FeatureGroup, FeatureStore
from featurestore.errors import Conflict, InvalidData, InvalidTime, NotFound, SchemaMismatch
from featurestore.schema import as_arrow

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


# Frames


@pytest.mark.parametrize("several", [list, iter])
def test_record_batches_are_told_how_to_become_a_stream(lab, several):
    """G2: a list or generator of them has no schema while it is empty, a reader has."""
    (batch,) = as_arrow(values((3, 0, 1.0))).to_batches()
    with pytest.raises(SchemaMismatch, match=r"pa\.RecordBatchReader\.from_batches\(schema, batches\)"):
        lab.insert(several([batch]))
    assert lab.insert(pa.RecordBatchReader.from_batches(batch.schema, several([batch]))).rows_inserted == 1


def test_a_key_in_the_index_is_told_to_become_a_column(store, lab):
    """G6: whether the columns were declared or not, and in every method that takes rows."""
    frame = values((1, 0, 1.0))
    bare = store.create_feature_group("bare", primary_key=["id"], event_time="t")
    for take in (lab.insert, lab.validate, lab.remove_rows, lab.forget, bare.insert):
        with pytest.raises(SchemaMismatch, match=r"lacks the columns \['id'\], but its index.*reset_index\(\)"):
            take(frame.set_index("id"))
    assert bare.insert(frame.set_index("id").reset_index()).rows_inserted == 1
    assert bare.insert(frame.set_index("id", drop=False)).rows_unchanged == 1


def test_rows_are_removed_by_frames_that_hold_more_than_keys(lab):
    """G14: other columns of the group are ignored, unknown ones refused; forgetting takes keys only."""
    assert lab.commit_delete_record(values((1, 1, -1.0))).rows_deleted == 1
    with pytest.raises(SchemaMismatch, match="also has"):
        lab.remove_rows(values((1, 0, 1.0)).assign(animal="cat"))
    assert lab.remove_rows(values((1, 0, 1.0), (1, 0, 1.0))).rows_deleted == 1
    lab.insert(values((1, 5, 1.0), (1, 6, 1.0)))
    with pytest.raises(SchemaMismatch, match="also has"):
        lab.forget(values((1, 5, 1.0)))
    assert lab.forget(values((1, 5, 1.0), (1, 5, 2.0))[["id"]]).rows_deleted == 2
    assert lab.read()["id"].tolist() == [2]


# Names of groups and of what they have


def test_a_new_group_without_a_version_gets_the_next(store, lab):
    """C1: as a view does; one that exists is refused."""
    assert store.create_feature_group("lab", primary_key=["id"]).version == 2
    assert store.create_feature_group("other", primary_key=["id"]).version == 1
    with pytest.raises(Conflict, match="Feature group 'lab' version 1 exists"):
        store.create_feature_group("lab", 1, primary_key=["id"])
    with pytest.raises(TypeError, match=r"\.create_feature_group\(\) missing .* 'primary_key'"):
        store.create_feature_group("lab")


def test_a_group_has_the_names_that_hsfs_gives(store, lab):
    """G6, G15, G18: each says what the definition says."""
    suite = {"name": "rules", "expectations": [{"type": "expect_column_to_exist", "kwargs": {"column": "id"}}]}
    group = lab_in(store, ttl=2 * DAY, expectation_suite=suite)
    assert (lab.ttl, lab.expectation_suite) == (None, None)
    assert (group.ttl, group.expectation_suite["name"]) == (2 * DAY, "rules")
    assert [f.name for f in group.schema] == ["id", "t", "value"]
    assert (group.get_feature("value").name, group.get_feature("value").dtype) == ("value", "double")
    with pytest.raises(SchemaMismatch, match="no column 'price'"):
        group.get_feature("price")


def test_a_column_named_as_something_a_group_has_is_reached_in_brackets(store):
    """C2: a name is no reason to lose a column."""
    group = store.create_feature_group("odd", primary_key=["id"])
    group.insert(pd.DataFrame({"id": [1, 2], "ttl": [10, 20], "schema": ["a", "b"]}))
    assert group.ttl is None
    assert group.filter(group["ttl"] > 10).read()["schema"].tolist() == ["b"]


def test_a_group_joins_with_all_its_columns(store, lab):
    """J1: as select_all of it does."""
    names = store.create_feature_group("names", primary_key=["id"])
    names.insert(pd.DataFrame({"id": [1, 2], "name": ["ann", "bob"]}))
    joined = lab.join(names.select(["name"]), on=["id"], join_type="inner")
    assert joined == lab.select_all().join(names.select(["name"]), on=["id"], join_type="inner")
    assert joined.read()["name"].tolist() == ["ann", "bob", "ann"]


def test_a_message_lists_at_most_twenty_names(store):
    """C1: and says how many more there are."""
    for number in range(22):
        store.create_feature_group(f"group_{number:02}", primary_key=["id"], features=[Feature("id", "bigint")])
    with pytest.raises(NotFound, match=r"known: group_00, .*, group_19 and 2 more\)"):
        store.get_feature_group("lab")
    with pytest.raises(NotFound, match=r"There are: group_00.* and \d+ more\.") as unknown:
        store.sql("SELECT * FROM lab")
    assert len(str(unknown.value)) < 400


def test_a_training_dataset_shows_itself_in_a_line(store, lab):
    """V2: which it is, how many rows, and the hash to tell it from others; the manifest is asked for by name."""
    view = store.get_or_create_feature_view("labs", 1, query=lab.select(["id", "value"]), labels=["value"])
    view.training_data()
    dataset = view.training_dataset(1)
    told = f"content_hash='{dataset.content_hash[:12]}...')"
    assert repr(dataset) == f"TrainingDataset('labs', view_version=1, version=1, rows={{'all': 3}}, {told}"
