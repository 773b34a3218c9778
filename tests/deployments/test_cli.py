"""The `triptych` command without anything to look at: every page of help, an empty home, wrong settings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from deployments.cli import app
from deployments.status import verdict

COMMANDS = sorted(typer.main.get_group(app).commands)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("FEATURESTORE_HOME", "TRIPTYCH_DATA", "TRIPTYCH_MLFLOW_URI", "TRIPTYCH_SOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_it_does_with_an_example(command: str) -> None:
    found = CliRunner().invoke(app, [command, "--help"])
    assert found.exit_code == 0
    assert f"Example: triptych {command}" in found.output


def test_help_does_not_wait_for_heavy_libraries() -> None:
    heavy = "{'prefect', 'mlflow', 'xgboost', 'pandas', 'sklearn', 'duckdb'}"
    code = f"import sys, deployments.cli; print({heavy} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "set()"


def test_in_an_empty_home_status_says_what_to_run_and_makes_nothing(empty: Path) -> None:
    found = CliRunner().invoke(app, ["status"])
    assert (found.exit_code, found.output.partition(" yet.")[0]) == (0, f"Nothing has run in {empty}")
    assert "make demo" in found.output
    states = json.loads(CliRunner().invoke(app, ["status", "--json"]).output)["systems"]
    assert {each["state"] for each in states} == {"not started"}
    assert not empty.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["lineage", "fraud_detection@1"],
        ["impact", "fraud_labels"],
        ["predictions", "fraud"],
        ["explain", "fraud:tid=1"],
        ["promote", "fraud_detection", "1", "--why", "x"],
        ["rollback", "fraud_detection", "--why", "x"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_in_an_empty_home_what_needs_something_says_what_to_run(empty: Path, arguments: list[str]) -> None:
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 2
    assert "make demo" in found.output
    assert not empty.exists()


def test_wrong_settings_end_with_one_line(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_SOURCE", "thin air")
    found = CliRunner().invoke(app, ["status"])
    assert found.exit_code == 2
    assert "TRIPTYCH_SOURCE" in found.output


# --- the verdict -------------------------------------------------------------------------------------

FRESH = {"group": "demand@1", "freshness": "fresh"}
STALE = {"group": "demand@1", "freshness": "stale", "age_hours": 30.0, "max_age_hours": 3.0}
SERVING = {
    "model": "demand", "champion": {"version": 1}, "challenger": None, "drifted": 0, "predictions": {"made": 24},
    "live": {"state": "fine", "skill": 0.2, "baseline": "last week"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("group", "change", "state", "why"),
    [
        (FRESH, {}, "green", "all promises are kept"),
        (STALE, {}, "red", "demand@1: 30 h old, may be 3 h"),
        (STALE | {"age_hours": None}, {}, "red", "demand@1: empty"),
        (FRESH, {"live": {"state": "regressed", "skill": -0.1, "baseline": "last week"}}, "red",
         "demand: regressed, skill -0.1 against last week"),
        (FRESH, {"live": {"state": "too few"}}, "yellow", "too few predictions"),
        (FRESH, {"live": None}, "yellow", "have not been measured"),
        (FRESH, {"champion": None}, "yellow", "no version is registered yet"),
        (FRESH, {"champion": None, "challenger": {"version": 3, "decision": "rejected"}}, "yellow",
         "the gate rejected version 3"),
        (FRESH, {"challenger": {"version": 3, "decision": "registered"}}, "yellow", "nothing was decided"),
        (FRESH, {"challenger": {"version": 3, "decision": "rejected"}}, "green", "all promises are kept"),
        (FRESH, {"predictions": {"made": 0}, "live": None}, "yellow", "no predictions yet"),
        (FRESH, {"drifted": 2}, "yellow", "2 of its features have drifted"),
    ],
)  # fmt: skip
def test_a_broken_promise_is_red_what_is_missing_is_yellow(group: dict, change: dict, state: str, why: str) -> None:
    found, reasons = verdict([group], [SERVING | change])
    assert found == state
    assert any(why in reason for reason in reasons)


def test_a_red_system_also_says_what_is_missing_after_what_is_broken() -> None:
    state, reasons = verdict([STALE], [SERVING | {"live": None}])
    assert state == "red"
    assert [reason.partition(":")[0] for reason in reasons] == ["demand@1", "demand"]
