"""Flows that start each other by events, and what the server watches by itself: on a real server and worker."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from deployments import automations
from deployments.runs import Run, deployment_id, run_deployment
from deployments.stack import prefect_environment
from flows import events
from flows.settings import Settings
from tests.conftest import Stack, switch_triggers

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

pytestmark = pytest.mark.e2e

SECRET = "/hooks/very-secret-token"


@pytest.fixture(scope="module")
def posted() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that takes what is posted to it: its address, and what came."""
    came: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}{SECRET}", came
    server.shutdown()


@pytest.fixture(scope="module")
def coupled(prefect_stack: Stack, posted: tuple[str, list[dict[str, Any]]]) -> Iterator[Stack]:
    """Stock's triggers start runs, and notifications are posted."""
    client = prefect_stack.client
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(automations.WEBHOOK, posted[0])
        automations.apply(client)
        switch_triggers(client, on=True, of="stock-")
        yield prefect_stack
        switch_triggers(client, on=False)
    automations.apply(client)


def runs_of(client: SyncPrefectClient, deployment: str) -> list[FlowRun]:
    from prefect.client.schemas import filters

    wanted = filters.FlowRunFilterDeploymentId(any_=[deployment_id(client, deployment)])
    return client.read_flow_runs(flow_run_filter=filters.FlowRunFilter(deployment_id=wanted), limit=200)


def emit(client: SyncPrefectClient, event: str, resource: str, **labels: str) -> None:
    """What a flow tells, from outside of any."""
    said = {
        "id": str(uuid.uuid4()), "occurred": datetime.now(UTC).isoformat(), "event": event, "related": [],
        "resource": {"prefect.resource.id": resource, **labels}, "payload": {},
    }  # fmt: skip
    client._client.post("/events", json=[said]).raise_for_status()


def until(holds: Callable[[], object], *, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.3)


def ended(client: SyncPrefectClient, deployment: str, number: int) -> bool:
    done = [run for run in runs_of(client, deployment) if run.state is not None and run.state.is_final()]
    return len(done) >= number


def test_new_rows_start_training_and_inference_and_so_does_a_new_champion(coupled: Stack) -> None:
    client = coupled.client
    features = Run("stock-features")
    span = {"start": datetime(2024, 4, 1, tzinfo=UTC), "end": datetime(2026, 7, 1, tzinfo=UTC)}
    run_deployment(client, features, parameters=span)
    until(lambda: ended(client, "stock-training", 1) and ended(client, "stock-inference", 1))
    [training], [inference] = runs_of(client, "stock-training"), runs_of(client, "stock-inference")
    assert (training.state_name, training.parameters) == ("Completed", {"force": False, "only_if_due": True})
    assert training.name.startswith("stock-training of [2024-04-")
    assert (inference.state_name, inference.name[:27]) == ("Completed", "stock-inference [2026-06-27")

    emit(client, events.PROMOTED, "triptych.model.stock_return.1")
    # A backfill of sixty pieces; labels it wrote are not new enough for another training, which says so and ends.
    for piece in range(60):
        last = {events.LAST: "true" if piece == 59 else "false", events.ROWS: "some"}
        emit(client, events.COMMITTED, "triptych.feature-group.stock_outcomes.1", **last)
    until(lambda: ended(client, "stock-training", 2) and ended(client, "stock-inference", 2))
    assert Counter(run.name for run in runs_of(client, "stock-training"))["stock-training not due"] == 1
    assert len(runs_of(client, "stock-training")) == 2
    assert {run.name for run in runs_of(client, "stock-inference")} == {inference.name, "stock-inference nothing new"}


def test_after_an_outage_one_run_does_the_work_of_all(coupled: Stack) -> None:
    from prefect.states import Scheduled

    client = coupled.client
    deployment = deployment_id(client, "freshness")
    now = datetime.now(UTC)
    due = [
        client.create_flow_run_from_deployment(deployment, state=Scheduled(scheduled_time=now - timedelta(hours=age)))
        for age in (5, 4, 3, 2, 1)
    ]
    until(lambda: ended(client, "freshness", 5))
    states = [client.read_flow_run(run.id).state_name for run in due]
    # The first that starts may give way before the newest one runs; or the newest one starts first.
    assert Counter(states) in ({"Cancelled": 3, "Skipped": 1, "Completed": 1}, {"Cancelled": 4, "Completed": 1})
    assert states[-1] == "Completed"


def test_alerts_and_failed_runs_are_posted_once_and_the_address_stays_secret(
    coupled: Stack, posted: tuple[str, list[dict[str, Any]]]
) -> None:
    client, (_, came) = coupled.client, posted

    def tell() -> None:
        emit(client, events.STALE, "triptych.feature-group.fraud_cards.1")
        emit(client, "prefect.flow-run.Failed", "prefect.flow-run.1", **{"prefect.resource.name": "today's run"})

    def told() -> list[str]:
        """Of these two only: runs of other tests may have failed."""
        return sorted(each["event"] for each in came if "today's run" in each["text"] or "cards" in each["text"])

    tell()
    until(lambda: len(told()) == 2)
    tell()
    time.sleep(3)
    assert told() == ["prefect.flow-run.Failed", events.STALE]
    logs = "".join(path.read_text() for path in (coupled.home / "logs").glob("*.log"))
    assert SECRET not in logs
    everything = client._client.post("/block_documents/filter", json={"include_secrets": False}).text
    assert SECRET not in everything
    environment = prefect_environment(Settings(home=coupled.home), 4200, scheduling=True)
    assert SECRET not in str(environment)


def test_run_that_is_silent_is_marked_as_crashed(coupled: Stack) -> None:
    from prefect.states import Running, Scheduled

    client = coupled.client
    automations.apply(client, silent_after=timedelta(seconds=10))
    later = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(days=1))
    run = client.create_flow_run_from_deployment(deployment_id(client, "maintenance"), state=later)
    client.set_flow_run_state(run.id, Running(), force=True)
    time.sleep(1)
    emit(client, "prefect.flow-run.heartbeat", f"prefect.flow-run.{run.id}")
    until(lambda: client.read_flow_run(run.id).state_name == "Crashed", seconds=60)
    assert "Nothing was heard of it" in (client.read_flow_run(run.id).state.message or "")
