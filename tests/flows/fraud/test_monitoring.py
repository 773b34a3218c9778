"""The monitor on a real store and registry: what scores were worth, drift, and a training asked for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import featurestore
from featurestore import FeatureStore
from flows import drifting, hindcasting, live_metrics, retraining, windows
from flows.fraud import schema
from flows.fraud.inference_pipeline import fraud_inference
from flows.fraud.monitored import FRAUD
from flows.monitoring import monitor
from flows.settings import Settings
from tests.flows.fraud.conftest import END, living_in, training_in_a_hurry

DAY = timedelta(days=1)
NOW = END + 8 * DAY  # the cool-down after the version made at END is over
OURS = ("triptych.live_metric", "triptych.drift", "triptych.retraining")


@pytest.fixture
def fs(trained_once: Path, tmp_path: Path) -> Iterator[FeatureStore]:
    """A copy of the store beside the registry, which knows its folder, with two weeks of scores made in time."""
    with living_in(trained_once), training_in_a_hurry(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATURESTORE_HOME", str(shutil.copytree(trained_once / "store", tmp_path / "store")))
        with windows.frozen(END - 14 * DAY):
            fraud_inference(start=END - 21 * DAY, end=END - 7 * DAY)
        yield featurestore.connect(home=Settings().store_home)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What was emitted of the model: Prefect's door, where an event leaves the process."""
    found: list[tuple[str, dict[str, Any]]] = []

    def emit(event: str, resource: dict[str, str], payload: dict[str, Any]) -> None:
        if event.startswith(OURS):
            assert resource["prefect.resource.id"] == f"triptych.model.{schema.MODEL}"
            found.append((event, payload))

    monkeypatch.setattr("prefect.events.emit_event", emit)
    return found


@pytest.fixture
def artifacts(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The newest artifact of each key."""
    found: dict[str, str] = {}

    def keep(markdown: str, *, key: str, description: str) -> None:
        found[key] = markdown

    monkeypatch.setattr("prefect.artifacts.create_markdown_artifact", keep)
    return found


def measured(fs: FeatureStore) -> pd.DataFrame:
    return fs.get_feature_group(live_metrics.GROUP, live_metrics.VERSION).read()


def whole(fs: FeatureStore) -> dict[str, Any]:
    rows = measured(fs)
    (row,) = rows[(rows["slice"] == "all") & (rows["measured_at"] == windows.floor(NOW, DAY))].to_dict("records")
    return row


def test_scores_are_measured_beside_the_amounts_and_late_outcomes_change_the_number(
    fs: FeatureStore, artifacts: dict[str, str]
) -> None:
    """I8, I9, I10: by transaction, on what is known by now, once for each day."""
    labels_fg = fs.get_feature_group(schema.LABELS_GROUP, schema.VERSION)
    labels = labels_fg.read(start_time=END - 8 * DAY, end_time=END - 7 * DAY)
    labels_fg.remove_rows(labels[["tid", "datetime"]])
    with windows.frozen(NOW):
        assert monitor("fraud") == 0
        early = whole(fs)
        labels_fg.insert(labels)
        with windows.frozen(NOW + timedelta(hours=5)):
            monitor("fraud")
    late = whole(fs)
    assert (early["kind"], early["baseline"], early["state"]) == (hindcasting.HINDCAST, "the larger the amount", "fine")
    assert early["pending"] == len(labels)
    assert late["matured"] == early["matured"] + len(labels)
    assert late["pending"] == late["expired"] == 0
    assert (late["since"], late["window_end"]) == (early["since"], NOW + timedelta(hours=5))
    assert late["low"] < late["value"] < late["high"]
    assert late["skill"] == pytest.approx(late["value"] - late["baseline_value"])
    bands = measured(fs)["slice"].unique()
    assert {"all", "card=known", "amount_band=0 to 20 USD", "amount_band=from 200 USD"} <= set(bands)
    report = artifacts["hindcast-fraud-detection"]
    assert f"{late['matured']:,} matured" in report
    assert "## Estimated before the outcomes are known" in report
    assert "None of" in artifacts["drift-fraud-detection"]


def test_scores_that_stop_being_worth_anything_and_rows_that_change_are_told_once_and_a_training_is_asked_for(
    fs: FeatureStore, told: list[tuple[str, dict[str, Any]]]
) -> None:
    """I11, I13."""
    predictions_fg = fs.get_feature_group(schema.PREDICTIONS_GROUP, schema.VERSION)
    said = predictions_fg.read(start_time=END - 21 * DAY, end_time=END - 7 * DAY)
    amounts = fs.get_feature_group(schema.TRANSACTIONS_GROUP, schema.VERSION).read()[["tid", "amount"]]
    # A score that runs against the amounts is surely worse than they are.
    upside_down = 1 / (1 + said[["tid"]].merge(amounts, on="tid")["amount"].to_numpy())
    predictions_fg.insert(said.assign(score=np.minimum(upside_down, 1.0)))
    transactions_fg = fs.get_feature_group(schema.TRANSACTIONS_GROUP, schema.VERSION)
    recent = transactions_fg.read(start_time=END - 4 * DAY, end_time=END)
    transactions_fg.insert(recent.assign(amount=recent["amount"] * 20))
    with windows.frozen(NOW):
        assert monitor("fraud") == 2
    names = [event for event, _ in told]
    assert names == ["triptych.live_metric.regressed", "triptych.drift.found", "triptych.retraining.asked"]
    facts = dict(told)
    assert facts["triptych.live_metric.regressed"]["skill_high"] < 0
    assert "amount" in facts["triptych.drift.found"]["features"]
    assert facts["triptych.retraining.asked"] == {"system": "fraud", "why": "the live metric has regressed"}
    assert whole(fs)["state"] == "regressed"
    drift = fs.get_feature_group(drifting.GROUP, drifting.VERSION).read()
    assert drift.set_index("feature").loc["amount", "state"] == "drifted"
    assert not set(drift["feature"]) & FRAUD.calendar
    with windows.frozen(NOW + DAY):
        assert monitor("fraud") == 0  # told already, and asked for a day ago
    assert len(told) == 3
    predictions_fg.insert(said)
    transactions_fg.insert(recent)
    with windows.frozen(NOW + 2 * DAY):
        assert monitor("fraud") == 0
    assert [event for event, _ in told[3:]] == ["triptych.live_metric.recovered", "triptych.drift.gone"]
    assert len(fs.get_feature_group(retraining.GROUP, retraining.VERSION).read()) == 1


def test_without_predictions_or_a_champion_it_says_so_and_ends(
    with_features: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[dict[str, Any]] = []
    monkeypatch.setattr("prefect.artifacts.create_table_artifact", lambda **artifact: rows.extend(artifact["table"]))
    with windows.frozen(END):
        assert monitor("fraud") == 0
    (row,) = rows
    assert row["champion"] is None
    assert row["note"].startswith("fraud_detection has no champion: no version has passed the gate yet. There are no")
    assert row["retraining_why"] == "there is no version yet: its schedule trains the first"
