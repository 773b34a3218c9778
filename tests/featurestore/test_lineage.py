"""Lineage: from a view down to pinned versions of its groups, and from a group up to what was made of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from featurestore import FeatureStore, FeatureStoreError, FeatureView, connect
from featurestore.lineage import Lineage

NOW = datetime(2021, 2, 1, tzinfo=UTC)


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[FeatureStore]:
    store = connect(tmp_path, clock=lambda: NOW, who="ada")
    yield store
    store.close()


@pytest.fixture
def views(fs: FeatureStore) -> list[FeatureView]:
    """`both` reads groups a and b, `alone` only a; `both` has two training datasets, an insert into b between them."""
    a, b = (fs.get_or_create_feature_group(n, 1, primary_key=["id"]) for n in "ab")
    for number, group in enumerate((a, b)):
        group.insert(pd.DataFrame({"id": [1, 2], f"x{number}": [1.0, 2.0]}))
    joined = a.select(["x0"]).join(b.select(["x1"]))
    both = fs.create_feature_view("both", query=joined, labels=["x1"])
    alone = fs.create_feature_view("alone", query=a.select(["x0"]))
    both.create_training_data()
    b.insert(pd.DataFrame({"id": [3], "x1": [3.0]}))
    both.create_training_data()
    return [both, alone]


def pins(lineage: Lineage) -> list[tuple[int, dict[str, int]]]:
    return [(below.version, below.facts["pins"]) for below in lineage.related if below.kind == "training dataset"]


def test_a_view_names_its_groups_and_what_its_training_datasets_pin(fs: FeatureStore, views: list[FeatureView]) -> None:
    """V2: groups with the Delta versions they have, training datasets with those they were made of."""
    lineage = views[0].lineage()
    a, b = (fs.get_feature_group(n, 1).delta_version for n in "ab")
    groups = [(g.name, g.version, g.facts["Delta_version"]) for g in lineage.related if g.kind == "feature group"]
    assert groups == [("a", 1, a), ("b", 1, b)]
    assert pins(lineage) == [(1, {"a_v1": a, "b_v1": b - 1}), (2, {"a_v1": a, "b_v1": b})]
    assert [g.name for g in views[0].get_parent_feature_groups()] == ["a", "b"]
    assert str(lineage).splitlines()[:3] == [
        "feature view both version 1 (predicts x1)",
        f"├── made of feature group a version 1 (Delta version {a})",
        f"├── made of feature group b version 1 (Delta version {b})",
    ]
    last = f"└── gives training dataset 2 (pins a_v1 at {a}, b_v1 at {b}, made 2021-02-01T00:00:00+00:00, by ada)"
    assert str(lineage).splitlines()[-1] == last


def test_a_group_names_the_views_and_training_datasets_made_of_it(fs: FeatureStore, views: list[FeatureView]) -> None:
    """V3: who pins which version of it."""
    b = fs.get_feature_group("b", 1)
    lineage = b.lineage()
    assert [(v.name, v.relation) for v in lineage.related] == [("both", "read by")]
    assert pins(lineage.related[0]) == [(1, {"b_v1": b.delta_version - 1}), (2, {"b_v1": b.delta_version})]
    a = fs.get_feature_group("a", 1)
    assert [v.name for v in a.lineage().related] == ["alone", "both"]
    assert [v.name for v in a.get_generated_feature_views()] == ["alone", "both"]
    found = json.loads(json.dumps(a.lineage().to_json()))
    assert found["related"][1]["related"][0]["facts"]["pins"] == {"a_v1": 1}
    assert [v["name"] for v in found["related"]] == ["alone", "both"]


def test_a_group_in_use_is_deleted_only_by_force(fs: FeatureStore, views: list[FeatureView]) -> None:
    """V3: the refusal lists the views and training datasets; nothing is lost."""
    b = fs.get_feature_group("b", 1)
    with pytest.raises(FeatureStoreError, match=r"b_v1 is in use(?s:.)*view both version 1(?s:.)*training dataset 2"):
        b.delete()
    assert len(b.read()) == 3
    assert views[0].verify_training_dataset(1).rows == {"all": 2}
    b.delete(force=True)
    assert [g.name for g in fs.get_feature_groups()] == ["a"]
    gone = [g.facts["Delta_version"] for g in views[0].lineage().related if g.name == "b"]
    assert gone == ["gone"]
    for view in views:
        view.delete(force=True)
    fs.get_feature_group("a", 1).delete()
    assert fs.get_feature_groups() == []
