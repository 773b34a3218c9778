"""prefect.yaml says what can be run: its entry points, parameters and schedules fit the code."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule

import featurestore
from deployments.stack import BACKFILL_QUEUE, POOL, ROOT
from flows import command_line, events

PLAN: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS: list[dict[str, Any]] = PLAN["deployments"]
SCHEDULES = [(deployment["name"], schedule) for deployment in DEPLOYMENTS for schedule in deployment["schedules"]]

TRIGGERS = [(deployment, trigger) for deployment in DEPLOYMENTS for trigger in deployment.get("triggers", [])]

each_trigger = pytest.mark.parametrize(
    ("deployment", "trigger"), TRIGGERS, ids=[trigger["name"] for _, trigger in TRIGGERS]
)
each_deployment = pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
each_schedule = pytest.mark.parametrize(("name", "schedule"), SCHEDULES, ids=[name for name, _ in SCHEDULES])


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    module, _, name = deployment["entrypoint"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def by_name(name: str) -> dict[str, Any]:
    return next(deployment for deployment in DEPLOYMENTS if deployment["name"] == name)


@each_deployment
def test_entry_point_is_a_dotted_name_of_a_flow(deployment: dict[str, Any]) -> None:
    assert ":" not in deployment["entrypoint"]
    assert isinstance(flow_of(deployment), Flow)


@each_deployment
def test_flow_and_deployment_have_the_same_name_but_for_the_flow_that_every_system_has(
    deployment: dict[str, Any],
) -> None:
    system = deployment["parameters"].get("system", "").replace("_", "-")
    assert deployment["name"] == "-".join(part for part in (system, flow_of(deployment).name) if part)


@each_deployment
def test_parameters_fit_the_signature(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    required = set(flow.parameters.required or [])
    known = set(flow.parameters.properties)
    assert set(deployment["parameters"]) <= known
    if deployment["schedules"]:
        flow.validate_parameters(deployment["parameters"])
        assert required <= set(deployment["parameters"]), "a scheduled run has no one to fill these in"


def test_a_decision_cannot_be_run_without_saying_which_and_why() -> None:
    required = {name: set(flow_of(by_name(name)).parameters.required) for name in ("promote", "rollback")}
    assert required == {"promote": {"model", "version", "why"}, "rollback": {"model", "why"}}
    assert not any(by_name(name)["schedules"] or by_name(name)["parameters"] for name in required)


@each_deployment
def test_every_flow_also_runs_from_a_command_line(deployment: dict[str, Any]) -> None:
    """P18: without a server; every parameter has an option, and what has no default must be given."""
    flow = flow_of(deployment)
    required = [f"--{name}=1" for name in flow.parameters.required or []]
    assert set(command_line.parse(flow, required)) == set(flow.parameters.properties)


@each_trigger
def test_trigger_gives_parameters_that_fit_the_flow(deployment: dict[str, Any], trigger: dict[str, Any]) -> None:
    """A trigger whose run is refused says so nowhere but in the server's events."""
    flow_of(deployment).validate_parameters({**deployment["parameters"], **trigger["parameters"]})


@each_trigger
def test_trigger_waits_for_an_event_of_ours_about_its_own_system(
    deployment: dict[str, Any], trigger: dict[str, Any], tmp_path: Path
) -> None:
    assert trigger["type"] == "event"
    [expected] = trigger["expect"]
    system = deployment["tags"][0].replace("-", "_")
    about = trigger["match"]["prefect.resource.id"]
    if expected == events.COMMITTED:
        assert (trigger["match"][events.LAST], trigger["match"][events.ROWS]) == ("true", "some")
        groups = importlib.import_module(f"flows.{system}.feature_pipeline").feature_groups(
            featurestore.connect(home=tmp_path), source="simulated"
        )
        assert about in {f"triptych.feature-group.{group.name}.{group.version}" for group in groups.values()}
    else:
        assert expected in (events.PROMOTED, events.RETRAINING_ASKED)
        schema = vars(importlib.import_module(f"flows.{system}.schema"))
        declared = [each for name, each in schema.items() if name.endswith(("MODEL", "MODELS"))]
        models = {name for each in declared for name in ([each] if isinstance(each, str) else each.values())}
        ending = ".*" if expected == events.PROMOTED else ""
        wanted = [about] if isinstance(about, str) else about
        assert {each.removeprefix("triptych.model.").removesuffix(ending) for each in wanted} <= models


def test_every_training_and_inference_can_be_started_by_an_event() -> None:
    started = {deployment["name"] for deployment, _ in TRIGGERS}
    assert started == {each["name"] for each in DEPLOYMENTS if each["tags"][1] in ("training", "inference")}


@each_deployment
def test_runs_one_at_a_time_in_our_pool_and_waits_its_turn(deployment: dict[str, Any]) -> None:
    queue = BACKFILL_QUEUE if deployment["name"] == "backfill" else "default"
    assert deployment["work_pool"] == {"name": POOL, "work_queue_name": queue}
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}


@each_deployment
def test_says_what_it_does_and_to_which_system_it_belongs(deployment: dict[str, Any]) -> None:
    assert deployment["description"]
    system, _, pipeline = deployment["name"].rpartition("-")
    assert deployment["tags"] == [system or "shared", pipeline]


@each_schedule
def test_cron_is_valid_and_has_a_time_zone_and_an_identity(name: str, schedule: dict[str, Any]) -> None:
    CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
    assert schedule["slug"].startswith(name)


def test_names_and_slugs_are_unique() -> None:
    names = Counter(deployment["name"] for deployment in DEPLOYMENTS)
    slugs = Counter(schedule["slug"] for _, schedule in SCHEDULES)
    assert {name: n for name, n in (names + slugs).items() if n > 1} == {}


def test_every_system_has_its_three_pipelines_and_is_monitored() -> None:
    systems = {path.parent.name for path in Path(ROOT, "flows").glob("*/feature_pipeline.py")}
    wanted = {
        f"{system.replace('_', '-')}-{pipeline}"
        for system in systems
        for pipeline in ("features", "training", "inference", "monitor")
    }
    assert wanted <= {deployment["name"] for deployment in DEPLOYMENTS}


def test_code_is_run_where_it_was_deployed_from() -> None:
    assert "pull" not in PLAN
    assert not any("pull" in deployment for deployment in DEPLOYMENTS)
