"""What is started around the flows, on a real server: pool, deployments, and what an earlier worker left."""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from deployments import automations, stack
from deployments.processes import ProcessError
from deployments.runs import close_interrupted_runs, deployment_id
from flows.settings import Settings
from tests.conftest import Stack, switch_triggers

if TYPE_CHECKING:
    from pathlib import Path

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import Automation

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


def all_automations(client: SyncPrefectClient) -> list[dict[str, Any]]:
    """Each automation as it is, but for the ids: deploying makes those of the triggers anew."""
    left_out = {"id": True, "created": True, "updated": True, "trigger": {"id"}}
    found = [each.model_dump(exclude=left_out) for each in client.read_automations(limit=200)]
    return sorted(found, key=lambda each: str(each["name"]))


@pytest.mark.e2e
def test_deploying_again_changes_nothing(prefect_stack: Stack) -> None:
    """No schedule and no trigger twice."""

    def schedules() -> dict[str, list[tuple[object, ...]]]:
        return {
            deployment.name: [(schedule.id, schedule.slug, str(schedule.schedule)) for schedule in deployment.schedules]
            for deployment in prefect_stack.client.read_deployments()
        }

    switch_triggers(prefect_stack.client, on=True)
    before = schedules(), all_automations(prefect_stack.client)
    stack.deploy(prefect_stack.processes, prefect_stack.prefect)
    now = schedules(), all_automations(prefect_stack.client)
    switch_triggers(prefect_stack.client, on=False)
    assert now == before


@pytest.mark.e2e
def test_automations_are_what_the_code_says_and_a_users_own_are_left_alone(
    prefect_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.events.actions import DoNothing
    from prefect.events.schemas.automations import AutomationCore, EventTrigger

    client = prefect_stack.client
    monkeypatch.setenv(automations.WEBHOOK, "http://127.0.0.1:1/nobody-listens")
    automations.apply(client)
    own = client.create_automation(
        AutomationCore(name="Triptych: mine", trigger=EventTrigger(expect={"mine"}), actions=[DoNothing()])
    )
    before, ids = all_automations(client), {each.id for each in automations.ours(client).values()}
    assert len(ids) == len(automations.declared(uuid.uuid4()))
    automations.apply(client)
    assert all_automations(client) == before
    assert {each.id for each in automations.ours(client).values()} == ids

    # What the code no longer says, goes; what it says otherwise, changes; and stays off if somebody switched it off.
    gone, changed = sorted(automations.ours(client).values(), key=lambda each: each.name)[:2]

    def change(of: Automation, **to: object) -> None:
        said = AutomationCore(**{name: getattr(of, name) for name in ("name", "description", "trigger", "actions")})
        client.update_automation(of.id, said.model_copy(update=to))

    change(gone, name="Triptych: of an older version")
    change(changed, description="otherwise", enabled=False)
    automations.apply(client)
    assert {each["name"] for each in all_automations(client)} == {each["name"] for each in before}
    now = automations.ours(client)[changed.name]
    assert (now.id, now.description, now.enabled) == (changed.id, changed.description, False)
    monkeypatch.delenv(automations.WEBHOOK)
    automations.apply(client)
    assert set(automations.ours(client)) == {each.name for each in automations.declared(None)}
    assert client.read_block_documents() == []
    assert client.read_automation(own) is not None
    client.delete_automation(own)


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
