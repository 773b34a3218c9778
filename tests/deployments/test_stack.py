"""What is started around the flows, on a real server: pool, deployments, and what an earlier worker left."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from deployments import stack
from deployments.processes import ProcessError
from deployments.runs import close_interrupted_runs, deployment_id
from flows.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Stack

NAMES = {"fraud-features", "fraud-training", "fraud-inference"}


def test_environment_leads_to_our_server_and_nothing_leaves_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "https://api.prefect.cloud/api/accounts/mine")
    monkeypatch.setenv("PREFECT_API_KEY", "secret")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    environment = stack.prefect_environment(Settings(home=tmp_path), 4201, scheduling=False)
    assert environment["PREFECT_API_URL"] == "http://127.0.0.1:4201/api"
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["DO_NOT_TRACK"] == "1"
    assert not {"PREFECT_API_KEY", "PYTHONDONTWRITEBYTECODE"} & set(environment)


def test_folders_reach_the_flows_as_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEATURESTORE_HOME", "lake")
    environment = stack.prefect_environment(Settings(home="here", data="there"), 4200, scheduling=False)
    folders = [environment[name] for name in ("TRIPTYCH_HOME", "TRIPTYCH_DATA", "FEATURESTORE_HOME")]
    assert folders == [str(tmp_path / "here"), str(tmp_path / "there"), str(tmp_path / "lake")]


def test_flows_see_the_settings_and_not_the_variables_they_overrule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_DATA", "/elsewhere")
    simulated = Settings(home=tmp_path, source="simulated", data=None)
    environment = stack.prefect_environment(simulated, 4200, scheduling=False)
    assert environment["TRIPTYCH_SOURCE"] == "simulated"
    assert "TRIPTYCH_DATA" not in environment


@pytest.mark.e2e
def test_every_deployment_is_there_with_its_schedule(prefect_stack: Stack) -> None:
    deployed = {deployment.name: deployment for deployment in prefect_stack.client.read_deployments()}
    assert set(deployed) >= NAMES
    for name in NAMES:
        assert [schedule.active for schedule in deployed[name].schedules] == [True]
        assert deployed[name].work_pool_name == stack.POOL


@pytest.mark.e2e
def test_deploying_again_changes_nothing(prefect_stack: Stack) -> None:
    def schedules() -> dict[str, list[tuple[object, ...]]]:
        return {
            deployment.name: [(schedule.id, schedule.slug, str(schedule.schedule)) for schedule in deployment.schedules]
            for deployment in prefect_stack.client.read_deployments()
        }

    before = schedules()
    stack.deploy(prefect_stack.processes, prefect_stack.prefect)
    assert schedules() == before


@pytest.mark.e2e
def test_missing_pool_is_named_with_the_command_that_creates_it(
    prefect_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "POOL", "no-such-pool")
    with pytest.raises(ProcessError) as missing:
        stack.deploy(prefect_stack.processes, prefect_stack.prefect)
    assert "has no work pool 'no-such-pool'" in str(missing.value)
    assert "prefect work-pool create no-such-pool --type process" in str(missing.value)


@pytest.mark.e2e
def test_run_that_lost_its_worker_is_marked_crashed_and_gives_its_slot_back(prefect_stack: Stack) -> None:
    from prefect.states import Pending, Scheduled

    client = prefect_stack.client
    features = deployment_id(client, "fraud-features")

    def far_off() -> object:
        later = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(days=1))
        return client.create_flow_run_from_deployment(features, state=later).id

    lost, waiting = far_off(), far_off()
    client.set_flow_run_state(lost, Pending())  # as a worker does it: this takes the deployment's only slot
    assert client.read_flow_run(lost).state_name == "Pending"
    client.set_flow_run_state(waiting, Pending())
    assert client.read_flow_run(waiting).state_name == "AwaitingConcurrencySlot"

    assert close_interrupted_runs(client, pool=stack.POOL) == 1

    assert client.read_flow_run(lost).state_name == "Crashed"
    client.set_flow_run_state(waiting, Pending())
    assert client.read_flow_run(waiting).state_name == "Pending"
    assert close_interrupted_runs(client, pool=stack.POOL) == 1


@pytest.mark.e2e
def test_mlflow_database_is_made_whole_or_not_at_all(prefect_stack: Stack) -> None:
    assert (prefect_stack.home / "mlflow" / "mlflow.db").exists()
    assert not (prefect_stack.home / "mlflow" / "mlflow.new").exists()


def test_tests_do_not_inherit_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixtures name their server to a client; they leave no PREFECT_API_URL in the environment of other tests."""
    assert "PREFECT_API_URL" not in os.environ
