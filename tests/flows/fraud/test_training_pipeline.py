"""The fraud training pipeline on a real store and registry: splits, gate, lineage, and what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

import featurestore
from featurestore.errors import InvalidData, InvalidTime, NotFound
from flows import evaluation, registry, splitting
from flows.deciding import decide
from flows.fraud import modelling, schema
from flows.fraud.feature_pipeline import fraud_features
from flows.fraud.training_pipeline import fraud_training
from flows.settings import Settings

END = datetime(2026, 4, 1, tzinfo=UTC)


def test_span_too_short_for_three_splits_says_what_to_do() -> None:
    with pytest.raises(InvalidData, match=r"20 days: too few.*Run the feature pipeline for more history"):
        splitting.splits_of(END - timedelta(days=20), END, modelling.SPLITS)


def test_champion_is_better_than_its_baselines_and_knows_all_it_came_from(with_champion: Settings) -> None:
    registry.bootstrap(with_champion)
    champion = registry.champion(schema.MODEL)
    assert champion is not None
    metrics, lineage = champion.metrics, champion.lineage
    assert metrics["test.average_precision"] > metrics["test.average_precision.logistic"]
    assert metrics["test.average_precision.logistic"] > metrics["test.average_precision.prevalence"]
    view = featurestore.connect(home=with_champion.store_home).get_feature_view(
        lineage.feature_view, lineage.feature_view_version
    )
    dataset = view.training_dataset(lineage.training_dataset_version)
    assert dataset.content_hash == lineage.training_dataset_hash
    assert dict(lineage.delta_versions) == dataset.delta_versions
    assert lineage.source == "simulated"
    assert lineage.threshold is not None
    assert registry.load(champion).feature_names
    assert lineage.training_window.end == END - schema.LABEL_DELAY


def test_nothing_new_trains_no_new_version_unless_forced(with_champion: Settings) -> None:
    registry.bootstrap(with_champion)
    before = len(registry.versions(schema.MODEL))
    assert fraud_training(end=END) == registry.versions(schema.MODEL)[-1].version
    assert len(registry.versions(schema.MODEL)) == before


def test_forced_training_on_the_same_data_gives_the_same_model_and_the_gate_keeps_the_champion(
    with_champion: Settings,
) -> None:
    registry.bootstrap(with_champion)
    champion = registry.champion(schema.MODEL)
    assert champion is not None
    again = registry.version(schema.MODEL, fraud_training(end=END, force=True))
    assert again.version > champion.version
    assert again.tags["model_hash"] == champion.tags["model_hash"]
    assert again.decision == "rejected"
    assert registry.champion(schema.MODEL) == champion


def test_model_below_its_baseline_is_registered_as_rejected(with_champion: Settings) -> None:
    registry.bootstrap(with_champion)
    champion = registry.champion(schema.MODEL)
    newest = registry.versions(schema.MODEL)[-1]
    if champion is None or newest.version == champion.version:
        newest = registry.version(schema.MODEL, fraud_training(end=END, force=True))
    rejected = decide(newest, evaluation.Decision(accepted=False, reasons=("worse than logistic by 0.1",)))
    assert rejected.decision == "rejected"
    assert registry.champion(schema.MODEL).version == champion.version


def test_window_without_frauds_is_refused_and_says_which_split(
    with_features: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = featurestore.connect(home=with_features.store_home)
    labels = fs.get_feature_group(schema.LABELS_GROUP, schema.VERSION)
    labels.insert(labels.read().assign(is_fraud=0))
    with pytest.raises(InvalidData, match=r"the train split has 0 positives \(needs 20\)"):
        fraud_training()
    assert registry.versions(schema.MODEL) == []


def test_training_before_any_feature_names_the_flow_to_run(empty: Settings) -> None:
    with pytest.raises(NotFound, match="fraud-features/fraud-features"):
        fraud_training()


def test_outcomes_not_known_yet_are_not_waited_for(with_features: Settings) -> None:
    with pytest.raises(InvalidTime, match=r"Labels \(outcomes\) are committed until 2026-04-01.*not until 2026-05-01"):
        fraud_training(end=datetime(2026, 5, 1, tzinfo=UTC))


def test_history_too_short_says_what_to_do(empty: Settings) -> None:
    fraud_features(start=datetime(2026, 1, 1, tzinfo=UTC), end=datetime(2026, 1, 10, tzinfo=UTC))
    with pytest.raises(InvalidData, match="Run the feature pipeline for more history"):
        fraud_training()
