"""A backfill writes what is missing, goes on where it was killed, and shares the store with scheduled runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

import featurestore
from featurestore.training_dataset import content_hash
from flows import backfill as module
from flows import partitions, windows
from flows.backfill import UnknownSystem, backfill
from flows.settings import Settings
from flows.stock import schema
from flows.stock.feature_pipeline import feature_groups, stock_features
from tests.flows.stock.conftest import living_in

pytestmark = pytest.mark.long

ROOT = Path(module.__file__).parents[1]
START, MIDDLE, END = (datetime(2025, month, 1, tzinfo=UTC) for month in (9, 10, 11))


def hashes(home: Path) -> dict[str, str]:
    fs = featurestore.connect(home=home / "store")
    groups = feature_groups(fs, source="simulated")
    return {name: content_hash(group.read(dataframe_type="arrow")) for name, group in groups.items()}


def commits(home: Path) -> int:
    return len(list((home / "store" / "lake" / f"{schema.FEATURES_GROUP}_1" / "_delta_log").glob("*.json")))


def started(*words: str) -> subprocess.Popen[str]:
    """A flow from a command line, against the tests' API."""
    from prefect.settings import PREFECT_API_URL

    environment = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())}
    command = [sys.executable, "-m", *words]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_killed_in_the_middle_and_again_beside_a_scheduled_run_it_ends_with_the_bytes_of_one_run(
    empty: Settings, tmp_path: Path
) -> None:
    """F4, P4: two processes write the same groups at once; who loses a race tries again."""
    span = ("--system", "stock", "--start", "2025-09-01", "--end", "2025-11-01", "--every", "7")
    killed = started("flows.backfill", *span)
    try:
        while commits(empty.home) < 3 and killed.poll() is None:
            time.sleep(0.02)
    finally:
        killed.kill()
        killed.communicate()
    assert 3 <= commits(empty.home) < 9
    others = [
        started("flows.backfill", *span),
        started("flows.stock.feature_pipeline", "--start", "2025-10-01", "--end", "2025-11-01"),
    ]
    for other in others:
        _, said = other.communicate(timeout=240)
        assert other.returncode == 0, said
    with living_in(tmp_path / "undisturbed") as undisturbed:
        stock_features(start=START, end=END)
    assert hashes(empty.home) == hashes(undisturbed.home)


def test_only_what_is_missing_is_written_and_what_older_code_computed_if_asked_for(
    empty: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock_features(start=MIDDLE, end=END)
    before = commits(empty.home)
    assert backfill("stock", START, END) > 0
    missing = commits(empty.home) - before
    assert missing == 2, "of pieces of 30 days: one that was missing, one that was there in part"
    assert backfill("stock", START, END) == 0
    monkeypatch.setattr(partitions, "code_of", lambda _: "newer")
    assert backfill("stock", START, END) == 0
    assert commits(empty.home) == before + missing
    assert backfill("stock", START, END, stale_too=True) == 0, "newer code says the same"
    assert commits(empty.home) > before + missing, "but now it is known by which code"
    fs = featurestore.connect(home=empty.store_home)
    [commit] = fs.get_feature_group(schema.FEATURES_GROUP, 1).history()[-1:]
    assert commit.code == "newer"


def test_a_source_with_nothing_in_a_piece_and_no_end_given(empty: Settings) -> None:
    """Easter: no close; and a backfill without an end goes to the last full hour."""
    with windows.frozen(datetime(2026, 4, 6, tzinfo=UTC)):
        assert backfill("stock", datetime(2026, 4, 3, tzinfo=UTC), every=30) == 0


def test_an_unknown_system_is_named_with_those_there_are(empty: Settings) -> None:
    with pytest.raises(UnknownSystem, match=r"no system 'weather'. It is one of .*stock"):
        backfill("weather")
