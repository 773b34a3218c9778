"""What the monitor asks of store and registry before it asks for a training."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

import featurestore
from featurestore.errors import InvalidData
from flows import monitoring, registry
from flows.rules import between

START = datetime(2026, 1, 1, tzinfo=UTC)


def rows_of(hour: int, value: float) -> pd.DataFrame:
    return pd.DataFrame({"k": [1], "t": pd.to_datetime([START + timedelta(hours=hour)]), "v": [value]})


def test_bad_data_are_a_batch_that_was_refused_and_not_yet_followed_by_a_good_one(tmp_path: Path) -> None:
    group = featurestore.connect(home=tmp_path).get_or_create_feature_group(
        name="g", version=1, primary_key=["k"], event_time="t",
        expectation_suite={"name": "g", "expectations": [between("v", 0, 1)]},
    )  # fmt: skip
    group.insert(rows_of(0, 0.5))
    assert not monitoring.newest_batch_was_refused(group)
    with pytest.raises(InvalidData):
        group.insert(rows_of(1, 9.0))
    assert monitoring.newest_batch_was_refused(group)
    group.insert(rows_of(1, 0.9))
    assert not monitoring.newest_batch_was_refused(group)


def test_a_version_was_made_when_it_was_decided_about() -> None:
    """By the flow's clock, which a replay stops; the registry's own goes on."""
    made = datetime(2026, 3, 1, tzinfo=UTC)
    tags = {"decision_at": START.isoformat()}
    model = registry.ModelVersion("m", 1, "r", (), made, {}, tags)
    assert monitoring.made_at(model) == START
    assert monitoring.made_at(registry.ModelVersion("m", 1, "r", (), made, {}, {})) == made
