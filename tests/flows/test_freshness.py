"""Every group as fresh as it promises, and told once when it is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

import featurestore
from flows import freshness, windows
from flows.freshness import freshness as check_all

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def fs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_api: None) -> featurestore.FeatureStore:
    """A store with a group that promises, one that does not, and one of a table, which cannot grow."""
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path))
    monkeypatch.delenv("FEATURESTORE_HOME", raising=False)
    store = featurestore.connect(home=tmp_path / "store")
    for name, tags in {
        "hourly": {"max_age_hours": 3, "source": "simulated"},
        "whenever": {"source": "simulated"},
        "table": {"max_age_hours": 3, "source": "handbook"},
    }.items():
        store.get_or_create_feature_group(name=name, version=1, primary_key=["k"], event_time="t", tags=tags)
    return store


def insert(fs: featurestore.FeatureStore, until: datetime) -> None:
    rows = pd.DataFrame({"k": [1], "t": pd.to_datetime([until - timedelta(hours=1)])})
    fs.get_feature_group("hourly", 1).insert(rows, window=(START, until))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was emitted: Prefect's door, where an event leaves the process."""
    found: list[str] = []

    def emit(event: str, resource: dict[str, str], payload: dict[str, object]) -> None:
        found.append(f"{event} {resource['prefect.resource.id']} {payload.get('age_hours')}")

    monkeypatch.setattr("prefect.events.emit_event", emit)
    return found


def test_a_broken_promise_is_told_once_and_so_is_its_return(fs: featurestore.FeatureStore, told: list[str]) -> None:
    """F17: every alert once, however often it is looked at."""
    insert(fs, START + timedelta(hours=4))
    for hours, stale in [(5, 0), (8, 1), (9, 1)]:
        with windows.frozen(START + timedelta(hours=hours)):
            assert check_all() == stale
    insert(fs, START + timedelta(hours=9))
    with windows.frozen(START + timedelta(hours=10)):
        assert check_all() == 0
    ours = [event for event in told if "hourly" in event]
    assert ours == [
        "triptych.freshness.violated triptych.feature-group.hourly.1 4.0",
        "triptych.freshness.restored triptych.feature-group.hourly.1 1.0",
    ]


def test_a_run_killed_before_the_check_is_kept_loses_no_alert(
    fs: featurestore.FeatureStore, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    insert(fs, START + timedelta(hours=4))

    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with windows.frozen(START + timedelta(hours=8)), monkeypatch.context() as patch:
        patch.setattr(freshness, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            check_all()
    assert any("violated" in event for event in told)
    told.clear()
    with windows.frozen(START + timedelta(hours=9)):
        assert check_all() == 1
    assert any("violated" in event for event in told), "not kept, so told again"


def test_every_check_is_kept_and_says_since_when(fs: featurestore.FeatureStore, told: list[str]) -> None:
    insert(fs, START + timedelta(hours=4))
    for hours in (5, 8, 9):
        with windows.frozen(START + timedelta(hours=hours)):
            check_all()
    rows = fs.get_feature_group(freshness.GROUP, freshness.VERSION).read().sort_values("checked_at")
    assert rows["feature_group"].unique().tolist() == ["hourly@1"], "no promise and no growth: not looked at"
    assert rows["state"].tolist() == ["fresh", "stale", "stale"]
    assert rows["age_hours"].tolist() == [1.0, 4.0, 5.0]
    assert rows["since"].tolist() == [START + timedelta(hours=h) for h in (5, 8, 8)]


def test_a_group_that_was_never_written_breaks_its_promise(fs: featurestore.FeatureStore, told: list[str]) -> None:
    """An alarm armed by the first commit would never ring for it."""
    with windows.frozen(START):
        assert check_all() == 1
    [row] = fs.get_feature_group(freshness.GROUP, freshness.VERSION).read().to_dict("records")
    assert row["state"] == "stale"
    assert pd.isna(row["age_hours"])
    assert pd.isna(row["watermark"])
    assert told[0] == "triptych.freshness.violated triptych.feature-group.hourly.1 None"
