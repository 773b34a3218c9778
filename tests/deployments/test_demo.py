"""`make demo`: what it runs, what it says, and once for real, on a server and a worker."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from rich.console import Console

from deployments.demo import Plan, Progress, Step, plan, results, run_all, systems_of
from deployments.runs import Run, RunFailed, run_deployment
from deployments.stack import ROOT, WrongSettings, settings_here
from featurestore.times import Window
from flows import systems
from flows.settings import Settings

if TYPE_CHECKING:
    from conftest import Stack


def printed(*what: object) -> str:
    console = Console(file=StringIO(), width=200)
    console.print(*what)
    return console.file.getvalue()


def test_scores_the_week_whose_labels_the_training_cannot_know() -> None:
    features, training, inference = plan("fraud", Settings(source="simulated")).steps
    assert [step.deployment for step in (features, training, inference)] == [
        "fraud-features",
        "fraud-training",
        "fraud-inference",
    ]
    assert training.parameters["end"] == features.parameters["end"] == inference.parameters["end"]
    assert inference.parameters["start"] == features.parameters["end"] - timedelta(days=7)


@pytest.mark.parametrize("system", systems())
def test_every_system_has_a_demo_of_deployments_that_exist(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_SOURCE", "simulated")
    _, source, window, steps = plan(system, Settings())
    declared = {each["name"] for each in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
    assert {step.deployment for step in steps} <= declared
    assert source == "simulated"
    assert window.start < window.end - timedelta(days=45)


def test_all_means_every_system_and_an_unknown_one_is_named_with_those_there_are() -> None:
    assert systems_of("all") == systems()
    with pytest.raises(WrongSettings, match=r"no system 'weather'. SYSTEM is one of .*electricity, fraud.*, all"):
        systems_of("weather")


def test_live_sources_have_no_demo_and_the_message_says_what_runs_them() -> None:
    with pytest.raises(WrongSettings, match=r"TRIPTYCH_SOURCE=simulated.*`make up` runs the schedules on live sources"):
        plan("fraud", Settings(source="live"))


def test_data_folder_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRIPTYCH_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(WrongSettings, match=r"TRIPTYCH_DATA=.*nowhere is no folder. Name one, or unset it"):
        settings_here()


def test_setting_that_is_not_allowed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_SOURCE", "guess")
    with pytest.raises(WrongSettings, match="TRIPTYCH_SOURCE: Input should be 'auto', 'simulated', 'files' or 'live'"):
        settings_here()


def test_homes_are_kept_apart_by_source_unless_one_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TRIPTYCH_HOME", "TRIPTYCH_DATA", "TRIPTYCH_SOURCE", "TRIPTYCH_FRAUD_TABLE"):
        monkeypatch.delenv(name, raising=False)
    assert settings_here().home == ROOT / ".triptych" / "simulated"
    monkeypatch.setenv("TRIPTYCH_DATA", str(tmp_path))
    assert settings_here().home == ROOT / ".triptych" / "files"
    monkeypatch.setenv("TRIPTYCH_FRAUD_TABLE", "sparkov")
    assert settings_here().home == ROOT / ".triptych" / "files-sparkov"
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path / "mine"))
    assert settings_here().home == tmp_path / "mine"


def test_results_show_each_runs_own_row_and_say_when_nothing_was_new() -> None:
    shown = printed(
        results(
            [
                Run("fraud-features", summary={"rows_written": 0}),
                Run("fraud-training", summary={"average_precision": 0.68314, "model_version": 1001}),
                Run("fraud-inference", summary={"rows_written": 12345}),
            ]
        )
    )
    assert "0 (nothing new: windows already committed)" in shown
    assert "0.683" in shown
    assert "1001" in shown
    assert "12,345" in shown


def test_outside_a_terminal_progress_is_one_line_for_each_change() -> None:
    console = Console(file=StringIO(), width=200)
    run = Run("fraud-features")
    with Progress(console, [run, Run("fraud-training")]) as progress:
        for state, seconds in [("Running", 1.0), ("Running", 1.5), ("Completed", 2.0)]:
            run.state, run.seconds = state, seconds
            progress.changed()
    assert console.file.getvalue().split() == [
        *("fraud-features", "Running", "1.0", "s"),
        *("fraud-features", "Completed", "2.0", "s"),
    ]


def test_second_demo_in_the_same_home_ends_with_a_message_and_exit_code_1(tmp_path: Path) -> None:
    """The first is only its lock here: what is tried is what the person at the terminal sees."""
    from deployments.processes import Processes

    with Processes(tmp_path, command="make up"):
        run = demo_command(tmp_path)
    assert run.returncode == 1
    assert "make up" in run.stderr
    assert "already running" in run.stderr
    assert "Traceback" not in run.stderr


def demo_command(home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deployments.demo", "--json"],
        cwd=ROOT,
        env={**os.environ, "TRIPTYCH_HOME": str(home), "TRIPTYCH_SOURCE": "simulated", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.e2e
def test_three_deployments_run_on_a_real_worker_and_the_second_time_write_nothing_new(prefect_stack: Stack) -> None:
    # All of the demo's time: on less, chance decides whether a model passes its gate.
    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC)
    steps = [
        Step("fraud-features", {"start": start, "end": end}),
        Step("fraud-training", {"end": end}),
        Step("fraud-inference", {"start": end - timedelta(days=7), "end": end}),
    ]

    def summaries() -> list[dict[str, Any]]:
        runs = [Run(step.deployment) for step in steps]
        progress = Progress(Console(file=StringIO()), runs)
        planned = [Plan("fraud", "simulated", Window(start, end), steps)]
        run_all(prefect_stack.processes, prefect_stack.prefect.api, planned, runs, progress)
        assert [run.state for run in runs] == ["Completed"] * 3
        return [dict(run.summary) for run in runs]

    features, training, inference = summaries()
    assert features["rows_written"] > 0
    assert inference["rows_written"] > 0
    assert training
    features_again, _, inference_again = summaries()
    assert (features_again["rows_written"], inference_again["rows_written"]) == (0, 0)


@pytest.mark.e2e
def test_when_a_system_fails_the_rest_of_it_is_left_out_and_the_others_run_on(prefect_stack: Stack) -> None:
    backwards = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
    wrong = {"start": datetime(2026, 2, 1, tzinfo=UTC), "end": datetime(2026, 1, 1, tzinfo=UTC)}
    plans = [
        Plan("electricity", "simulated", backwards, [
            Step("electricity-features", wrong), Step("electricity-training", {}), Step("electricity-inference", {}),
        ]),
        Plan("fraud", "simulated", backwards, [Step("fraud-features", {"start": wrong["end"], "end": wrong["end"]})]),
    ]  # fmt: skip
    runs = [Run(step.deployment) for each in plans for step in each.steps]
    with pytest.raises(RunFailed, match=r"(?s)electricity-features ended Failed.*after its end"):
        run_all(
            prefect_stack.processes, prefect_stack.prefect.api, plans, runs, Progress(Console(file=StringIO()), runs)
        )
    assert [run.state for run in runs] == ["Failed", "Left out", "Left out", "Completed"]


@pytest.mark.e2e
def test_run_that_fails_shows_the_end_of_its_own_log(prefect_stack: Stack) -> None:
    """A window that ends before it starts: the flow refuses it, and its message reaches the person at the terminal."""
    backwards = {"start": datetime(2026, 2, 1, tzinfo=UTC), "end": datetime(2026, 1, 1, tzinfo=UTC)}
    run = Run("fraud-features")
    with pytest.raises(RunFailed, match=r"(?s)fraud-features ended Failed .*Its last log lines:\n    "):
        run_deployment(prefect_stack.client, run, parameters=backwards)
    assert run.state == "Failed"


@pytest.mark.e2e
def test_deployment_that_does_not_exist_is_named_with_those_that_do(prefect_stack: Stack) -> None:
    with pytest.raises(RunFailed, match=r"0 deployments named 'fraud-magic', expected one \(it has: .*fraud-features"):
        run_deployment(prefect_stack.client, Run("fraud-magic"), parameters={})
