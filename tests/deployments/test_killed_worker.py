"""A worker killed in the middle of the feature flow: the next run leaves the rows of an undisturbed one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import featurestore
from deployments.stack import ROOT
from featurestore.training_dataset import content_hash

GROUPS = ("fraud_cards", "fraud_card_windows", "fraud_merchant_risk", "fraud_labels", "fraud_transactions")


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "TRIPTYCH_HOME": str(home), "TRIPTYCH_SOURCE": "simulated"}


def features(home: Path) -> None:
    """The demo's window, without a server."""
    command = [sys.executable, "-m", "flows.fraud.feature_pipeline", "--start", "2026-01-01", "--end", "2026-07-01"]
    subprocess.run(command, cwd=ROOT, env=environment(home), check=True, capture_output=True, timeout=240)


def hashes(home: Path) -> dict[str, str]:
    fs = featurestore.connect(home=home / "store")
    return {name: content_hash(fs.get_feature_group(name, 1).read(dataframe_type="arrow")) for name in GROUPS}


def commits(home: Path) -> int:
    return len(list((home / "store" / "lake" / "fraud_transactions_1" / "_delta_log").glob("*.json")))


def kill_worker_and_flow(home: Path) -> int:
    killed = 0
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
            ours = process.environ().get("TRIPTYCH_HOME") == str(home)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if ours and (
            "prefect worker start" in words or "prefect flow-run execute" in words or "prefect.engine" in words
        ):
            process.kill()
            killed += 1
    return killed


@pytest.mark.e2e
def test_run_after_a_killed_worker_gives_the_rows_of_an_undisturbed_run(tmp_path: Path) -> None:
    disturbed, undisturbed = tmp_path / "disturbed", tmp_path / "undisturbed"
    demo = subprocess.Popen(
        [sys.executable, "-m", "deployments.demo", "--json"],
        cwd=ROOT, env=environment(disturbed), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while commits(disturbed) < 3 and time.monotonic() < deadline and demo.poll() is None:
            time.sleep(0.02)
        assert kill_worker_and_flow(disturbed) >= 2
        _, errors = demo.communicate(timeout=60)
    finally:
        demo.kill()
    assert demo.returncode == 1
    assert "worker" in errors
    assert 3 <= commits(disturbed) < 8, "killed in the middle: some windows are committed, not all"

    features(disturbed)
    features(undisturbed)
    assert hashes(disturbed) == hashes(undisturbed)
