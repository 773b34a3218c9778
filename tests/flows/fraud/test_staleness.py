"""The staleness study on a real home: versions that never served are scored too, and nothing is written."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import featurestore
from featurestore.times import Window
from flows import events, registry, windows
from flows.fraud import schema
from flows.staleness import staleness
from tests.flows.fraud.conftest import END, living_in
from tests.flows.shadow_law import half_of

DAY = timedelta(days=1)


def test_versions_of_all_ages_are_compared_on_the_same_rows_and_nothing_is_written(
    trained_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T20: the same model does not age; one with two trees does; one whose data are gone is named."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(events, "summary_artifact", lambda key, rows, *_: told.update({key: rows}))
    with living_in(Path(shutil.copytree(trained_once, tmp_path / "home"))) as settings:
        registry.bootstrap(settings)
        newest = registry.versions(schema.MODEL)[-1]
        start = newest.lineage.training_window.start

        def trained_until(days: int, share: float, **changes: Any) -> int:
            return half_of(newest, share=share, training_window=Window(start, END - days * DAY), **changes).version

        bad, good, fresh = (trained_until(days, share) for days, share in ((35, 0.02), (28, 0.9), (21, 0.9)))
        gone = trained_until(24, 0.9, training_dataset_version=999)
        fs = featurestore.connect(home=settings.store_home)
        before = {group.name: group.delta_version for group in fs.get_feature_groups()}
        with windows.frozen(END):
            assert staleness("fraud") == 3
        assert {group.name: group.delta_version for group in fs.get_feature_groups()} == before

    rows = told["staleness-fraud_detection"]
    assert [row["version"] for row in rows] == [fresh, good, bad]
    assert [row["days_older"] for row in rows] == [0, 7, 14]
    assert [row["surely_worse"] for row in rows] == [False, False, True]
    assert [row["behind_freshest"] for row in rows[:2]] == [None, 0]
    (summary,) = told["fraud-staleness-summary"]
    assert summary["train_every_days"] == 14
    assert summary["advice"].startswith("Train at least every 14 days")
    assert f"{newest.version} too young" in summary["versions_left_out"]
    assert f"{gone} NotFound" in summary["versions_left_out"]
    assert summary["rows"] > 1_000
    assert summary["blocks"] >= 12
