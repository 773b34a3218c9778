"""Answers of the server as rows of the store: what was asked, what was said, by which model, how long it took."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featurestore.schema import Feature
from flows.rules import Suite, between, never_null

if TYPE_CHECKING:
    from featurestore import FeatureGroup, FeatureStore

GROUP, VERSION = "online_predictions", 1

FEATURES = (
    Feature("request_id", "string", "The answer's own id."),
    Feature("answered_at", "timestamp", "When it was answered."),
    Feature("system", "string", "Which system was asked."),
    Feature("models", "string", "The versions that answered, as name@version, with commas between."),
    Feature("feature_views", "string", "The views they were trained on, as name@version:training dataset."),
    Feature("inputs", "string", "What was asked, as JSON, without names of people."),
    Feature("features", "string", "What the models were given, as JSON; a category is a number there."),
    Feature("prediction", "string", "What was said, as JSON."),
    Feature("degraded", "boolean", "Whether something was not known."),
    Feature("why", "string", "What was not known; empty if nothing."),
    Feature("milliseconds", "double", "How long the answer took to find.", unit="ms"),
)
"""One row per answer."""

RULES: Suite = {
    "name": GROUP,
    "expectations": [*never_null("request_id", "answered_at", "system", "models"), between("milliseconds", 0, None)],
}

PRIVATE = {"author"}
"""Fields that name a person: they are used, and kept nowhere."""


def group(fs: FeatureStore) -> FeatureGroup:
    """The group of answers; made where it is not there yet."""
    return fs.get_or_create_feature_group(
        name=GROUP, version=VERSION, description="Every answer of the inference server.",
        primary_key=["request_id"], event_time="answered_at", features=list(FEATURES), expectation_suite=RULES,
        tags={"system": "shared"},
    )  # fmt: skip


def write(fs: FeatureStore, records: Sequence[Mapping[str, Any]]) -> None:
    """Add records to the group. Records that are there already change nothing."""
    import pandas as pd

    rows = pd.DataFrame(list(records), columns=[feature.name for feature in FEATURES])
    group(fs).insert(rows.assign(answered_at=pd.to_datetime(rows["answered_at"], utc=True, format="ISO8601")))


def record(answer: Mapping[str, Any], inputs: Mapping[str, Any], features: Mapping[str, Any]) -> dict[str, Any]:
    """An answer as the record of it that is kept.

    Args:
        answer: as the server gives it.
        inputs: the request, JSON-ready.
        features: what the models were given.
    """
    models = answer["models"]
    return {
        "request_id": answer["request_id"],
        "answered_at": answer["answered_at"],
        "system": answer["system"],
        "models": ", ".join(f"{model['name']}@{model['version']}" for model in models),
        "feature_views": ", ".join(f"{model['feature_view']}:{model['training_dataset_version']}" for model in models),
        "inputs": json.dumps({name: value for name, value in inputs.items() if name not in PRIVATE}),
        "features": json.dumps(features),
        "prediction": json.dumps(answer["prediction"]),
        "degraded": answer["degraded"],
        "why": "; ".join(answer["why"]),
        "milliseconds": answer["milliseconds"],
    }
