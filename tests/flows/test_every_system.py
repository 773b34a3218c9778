"""What holds for every ML system: found by folder, so a new system is under these laws the moment it exists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import featurestore
import flows
from featurestore.schema import Feature
from flows import FeatureFunction, monitored
from tests import checks

DECLARED = [
    pytest.param(declared, id=f"{path.parent.name}-{declared.name}")
    for path in sorted(Path(flows.__file__).parent.glob("*/features.py"))
    for declared in import_module(f"flows.{path.parent.name}").feature_functions()
]


@pytest.mark.parametrize("law", checks.LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("declared", DECLARED)
def test_every_feature_function_obeys_every_law(
    declared: FeatureFunction, law: Callable[[FeatureFunction], None]
) -> None:
    law(declared)


@pytest.mark.parametrize("system", flows.systems())
def test_every_system_declares_the_functions_the_laws_apply_to(system: str) -> None:
    assert import_module(f"flows.{system}").feature_functions()


@pytest.mark.parametrize("system", flows.systems())
def test_every_feature_group_names_its_source_its_system_and_the_freshness_it_promises(
    system: str, tmp_path: Path
) -> None:
    """F17, F18: what `flows.freshness` and the code version of a commit go by."""
    fs = featurestore.connect(home=tmp_path)
    for group in import_module(f"flows.{system}.feature_pipeline").feature_groups(fs, source="simulated").values():
        assert (group.tags["source"], group.tags["system"]) == ("simulated", system)
        assert group.tags["max_age_hours"] > 0
        assert group.description


@pytest.mark.parametrize("system", flows.systems())
def test_every_registered_model_can_be_scored_from_outside_of_its_inference_run(system: str) -> None:
    """T20: `flows.staleness` scores versions of the past by what scores the champion."""
    predicted_by = import_module(f"flows.{system}.inference_pipeline").PREDICTED_BY
    assert set(predicted_by) == {watched.model for watched in monitored.of(system)}


# --- the laws catch the classic mistakes -------------------------------------------------------------

START = datetime(2026, 1, 1, tzinfo=UTC)


def rows(start: datetime, end: datetime) -> dict[str, pd.DataFrame]:
    """Ten keys, one value each at odd hours, the same whatever the window."""
    hours = np.arange(0, 24 * 40)
    rng = np.random.default_rng(5)
    times = pd.Series(pd.Timestamp(START) - pd.Timedelta(days=20) + pd.to_timedelta(hours, unit="h")).dt.as_unit("us")
    table = pd.DataFrame({"key": rng.integers(0, 10, len(hours)), "time": times, "value": rng.normal(size=len(hours))})
    return {"rows": table[(table["time"] >= start) & (table["time"] < end)].reset_index(drop=True)}


def declared_as(function: Callable[[pd.DataFrame], pd.DataFrame]) -> FeatureFunction:
    return FeatureFunction(
        function=lambda rows: function(rows)[["key", "time", "feature"]].sort_values(
            ["time", "key"], ignore_index=True
        ),
        inputs=rows,
        input_times={"rows": "time"},
        key=("key",),
        event_time="time",
        features=[Feature("key", "bigint"), Feature("time", "timestamp"), Feature("feature", "double")],
        warm_up=timedelta(days=5),
        sample=(START - timedelta(days=5), START + timedelta(days=5)),
    )


def honest_sum(frame: pd.DataFrame) -> pd.DataFrame:
    ordered = frame.sort_values(["key", "time"], ignore_index=True)
    windows = ordered.set_index("time").groupby("key")["value"].rolling("1D")
    return ordered.assign(feature=windows.apply(lambda window: float(np.sum(window)), raw=True).to_numpy(np.float64))


def ungrouped_shift(frame: pd.DataFrame) -> pd.DataFrame:
    ordered = frame.sort_values("time", ignore_index=True)
    return ordered.assign(feature=ordered["value"].shift(1))


def next_instead_of_previous(frame: pd.DataFrame) -> pd.DataFrame:
    ordered = frame.sort_values("time", ignore_index=True)
    return ordered.assign(feature=ordered.groupby("key")["value"].shift(-1))


def score_over_all_rows(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(feature=(frame["value"] - frame["value"].mean()) / frame["value"].std())


def writes_into_its_argument(frame: pd.DataFrame) -> pd.DataFrame:
    frame["feature"] = frame["value"]
    return frame


def lag_without_sorting(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(feature=frame.groupby("key")["value"].shift(1))


def count_since_the_first_row_read(frame: pd.DataFrame) -> pd.DataFrame:
    ordered = frame.sort_values("time", ignore_index=True)
    return ordered.assign(feature=ordered.groupby("key").cumcount().astype("float64"))


def whole_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(feature="many")


def fails_on_nothing(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(feature=frame["value"] if len(frame) else "none")


MISTAKES = [
    (ungrouped_shift, checks.own_entity),
    (next_instead_of_previous, checks.only_the_past),
    (score_over_all_rows, checks.only_the_past),
    (score_over_all_rows, checks.own_entity),
    (writes_into_its_argument, checks.input_unchanged),
    (lag_without_sorting, checks.row_order_irrelevant),
    (count_since_the_first_row_read, checks.backfill_equals_increments),
    (fails_on_nothing, checks.empty_in_empty_out),
]


@pytest.mark.parametrize(("mistake", "law"), MISTAKES, ids=lambda value: value.__name__)
def test_a_law_catches_the_mistake_it_is_there_for(
    mistake: Callable[[pd.DataFrame], pd.DataFrame], law: Callable[[FeatureFunction], None]
) -> None:
    with pytest.raises(AssertionError):
        law(declared_as(mistake))


def test_a_wrong_type_breaks_the_declared_schema() -> None:
    with pytest.raises(ValueError, match="'feature'"):
        checks.declared_schema(declared_as(whole_numbers))


def test_a_warm_up_declared_too_short_is_caught() -> None:
    too_short = replace(declared_as(honest_sum), warm_up=timedelta(hours=3))
    with pytest.raises(AssertionError, match="increments differ from the backfill"):
        checks.backfill_equals_increments(too_short)


@pytest.mark.parametrize("law", checks.LAWS, ids=lambda law: law.__name__)
def test_an_honest_function_passes_every_law(law: Callable[[FeatureFunction], None]) -> None:
    law(declared_as(honest_sum))
