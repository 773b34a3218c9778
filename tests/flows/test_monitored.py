"""What systems declare of their models is there: columns, groups, and features that only say what time it is."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest

import featurestore
import flows
from featurestore import FeatureGroup
from featurestore.errors import NotFound
from flows import monitored
from flows.monitored import Monitored

DECLARED = [pytest.param(system, each, id=each.model) for system in flows.systems() for each in monitored.of(system)]
EMPTY = {"string": "str", "int": "int32", "bigint": "int64", "double": "float64", "boolean": "bool", "date": "object",
         "timestamp": "datetime64[us, UTC]"}  # fmt: skip


def groups_of(system: str, home: Path) -> dict[str, FeatureGroup]:
    """The system's groups, predictions among them, as its pipelines make them."""
    fs = featurestore.connect(home=home)
    import_module(f"flows.{system}.feature_pipeline").feature_groups(fs, source="simulated")
    import_module(f"flows.{system}.inference_pipeline").predictions_group(fs)
    if system == "electricity":
        import_module("flows.electricity.price_inference").predictions_group(fs)
    return {group.name: group for group in fs.get_feature_groups()}


def names_of(group: FeatureGroup) -> set[str]:
    return {feature.name for feature in group.features}


@pytest.mark.parametrize("system", flows.systems())
def test_every_system_declares_what_is_watched_of_each_of_its_registered_models(system: str) -> None:
    schema = import_module(f"flows.{system}.schema")
    models = {value for name, value in vars(schema).items() if name.endswith("MODEL")}
    models |= set(getattr(schema, "MODELS", {}).values())
    assert {each.model for each in monitored.of(system)} == models


@pytest.mark.parametrize(("system", "watched"), DECLARED)
def test_declared_columns_are_in_the_groups_they_are_said_to_be_in(
    system: str, watched: Monitored, tmp_path: Path
) -> None:
    groups = groups_of(system, tmp_path)
    said, truth = watched.said, watched.truth
    predictions, truths = groups[said.group], groups[truth.group]
    assert predictions.event_time == said.time
    assert {*truth.key, truth.column, truth.known_at} <= names_of(truths)
    beside = {column for each in truth.beside for column in each.columns}
    for each in truth.beside:
        assert {*each.key, *each.columns} <= names_of(groups[each.group])
    joined = {feature.name: pd.Series(dtype=EMPTY[feature.dtype]) for feature in predictions.features}
    joined |= {column: pd.Series(dtype="float64") for column in beside if column not in joined}
    rows = pd.DataFrame(joined)
    derived = rows if truth.derive is None else truth.derive(rows)
    wanted = {*truth.key, truth.target_time, said.forecast, said.baseline, said.version, *watched.measure.slices}
    wanted |= {
        "backfilled",
        "made_at",
        *([said.horizon] if said.horizon else []),
        *([said.only[0]] if said.only else []),
    }
    assert wanted <= set(derived.columns)


@pytest.mark.parametrize(("system", "watched"), DECLARED)
def test_features_that_say_what_time_it_is_are_features_of_the_system(
    system: str, watched: Monitored, tmp_path: Path
) -> None:
    known = {name for group in groups_of(system, tmp_path).values() for name in names_of(group)}
    assert watched.calendar <= known


@pytest.mark.parametrize(("system", "watched"), DECLARED)
def test_a_truth_is_waited_for_longer_than_it_takes_and_not_longer_than_predictions_are_measured(
    system: str, watched: Monitored
) -> None:
    rule = watched.retraining
    assert rule.splits.label_delay <= watched.truth.expires_after <= watched.measure.span


@pytest.mark.parametrize(("system", "watched"), DECLARED)
def test_a_training_is_asked_for_later_than_new_labels_start_one_and_not_more_often(
    system: str, watched: Monitored
) -> None:
    rule = watched.retraining
    assert rule.splits.due_after < rule.after
    assert rule.splits.due_after <= rule.cool_down


def test_a_system_that_is_not_there_is_named_beside_those_that_are() -> None:
    with pytest.raises(NotFound, match="no system 'weather' \\(systems: air_quality, electricity"):
        monitored.of("weather")
