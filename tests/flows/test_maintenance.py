"""The store is kept small, and nothing that anybody needs is lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

import featurestore
from flows.maintenance import maintenance

START = datetime(2026, 1, 1, tzinfo=UTC)


def test_files_are_put_together_old_ones_go_and_a_training_set_stays_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_api: None
) -> None:
    """F23: vacuum refuses what is pinned."""
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path))
    monkeypatch.delenv("FEATURESTORE_HOME", raising=False)
    fs = featurestore.connect(home=tmp_path / "store")
    group = fs.get_or_create_feature_group(name="g", version=1, primary_key=["k"], event_time="t")
    for day in range(6):
        times = pd.to_datetime([START + timedelta(days=day, hours=hour) for hour in range(5)])
        group.insert(pd.DataFrame({"k": range(5), "t": times, "x": float(day), "y": 1.0}))
    view = fs.create_feature_view(name="v", version=1, query=group.select(["x", "y"]), labels=["y"])
    version, _ = view.create_training_data()
    before = group.read().sort_values(["t", "k"], ignore_index=True)
    group.insert(group.read().assign(x=-1.0))

    assert maintenance(keep_days=0) > 0
    assert maintenance(keep_days=0) == 0, "nothing is left to do"
    assert len(list((tmp_path / "store").rglob("*.parquet"))) < 12
    assert (group.read()["x"] == -1.0).all()
    assert view.verify_training_dataset(version).rows
    X, _ = view.get_training_data(version)
    assert sorted(X["x"]) == sorted(before["x"])


def test_an_empty_store_has_nothing_to_tidy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_api: None) -> None:
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path))
    monkeypatch.delenv("FEATURESTORE_HOME", raising=False)
    assert maintenance() == 0
