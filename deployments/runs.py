"""Running a deployment on the real worker, watching it, and reading what it left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:  # importing Prefect takes 1.7 s; inside functions it happens while the server starts
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import Artifact, FlowRun

POLL_SECONDS = 0.5


class RunFailed(RuntimeError):
    """A flow run that ended otherwise than Completed; the message ends with the last lines of its log."""


@dataclass
class Run:
    """One run of a deployment as the person who waits for it sees it."""

    deployment: str
    state: str = "Waiting"
    seconds: float = 0.0
    percent: float | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)


def run_deployment(
    client: SyncPrefectClient,
    run: Run,
    *,
    parameters: Mapping[str, Any],
    queue: str | None = None,
    changed: Callable[[], None] = lambda: None,
    timeout_seconds: float = 1800.0,
) -> None:
    """Ask for a run of the deployment and wait until it has ended, keeping `run` up to date.

    As `prefect deployment run <deployment> --watch` does it, but `changed` is called twice a second (and may raise, to
    stop waiting).

    Raises:
        RunFailed: there is no such deployment, or the run did not end Completed.
    """
    created = client.create_flow_run_from_deployment(
        deployment_id(client, run.deployment), parameters=dict(parameters), work_queue_name=queue
    )
    started = time.monotonic()
    while True:
        flow_run = client.read_flow_run(created.id)
        run.state = flow_run.state_name or "Unknown"
        run.seconds = time.monotonic() - started
        run.percent = progress(client, created.id)
        changed()
        if flow_run.state is not None and flow_run.state.is_final():
            break
        if run.seconds > timeout_seconds:
            late = f"{run.deployment} was still {run.state} after {timeout_seconds:.0f} s. Its last log lines:"
            raise RunFailed(f"{late}\n{log_tail(client, created.id)}")
        time.sleep(POLL_SECONDS)
    if not flow_run.state.is_completed():
        raise RunFailed(_failure(client, run, flow_run))
    run.summary = summary(client, run.deployment, created.id)


def deployment_id(client: SyncPrefectClient, name: str) -> UUID:
    """The id of the deployment with that name; names are unique in our prefect.yaml."""
    from prefect.client.schemas import filters

    named = filters.DeploymentFilter(name=filters.DeploymentFilterName(any_=[name]))
    found = client.read_deployments(deployment_filter=named)
    if len(found) == 1:
        return found[0].id
    there = ", ".join(sorted(deployment.name for deployment in client.read_deployments())) or "none"
    raise RunFailed(
        f"The server has {len(found)} deployments named {name!r}, expected one (it has: {there}). See prefect.yaml."
    )


def progress(client: SyncPrefectClient, flow_run: UUID) -> float | None:
    """The newest progress artifact of the run, in percent; None when it keeps none."""
    newest = [artifact for artifact in _artifacts(client, flow_run) if artifact.type == "progress"]
    return None if not newest else float(str(newest[0].data))


def summary(client: SyncPrefectClient, deployment: str, flow_run: UUID) -> dict[str, Any]:
    """The single row of the table artifact `<deployment>-summary` that this very run left; empty when it left none."""
    for artifact in _artifacts(client, flow_run):
        if artifact.key == f"{deployment}-summary" and artifact.type == "table":
            rows = json.loads(artifact.data) if isinstance(artifact.data, str) else artifact.data
            if isinstance(rows, list) and rows:
                return dict(rows[0])
    return {}


def close_interrupted_runs(client: SyncPrefectClient, *, pool: str, queue: str | None = None) -> int:
    """Mark the pool's runs Crashed whose worker is gone, cancel what waits in the queue; return how many had begun.

    Only for a server that has just been started on a home of our own: no worker of it can be alive then.
    Without this such a run stays Running, and keeps its deployment's only slot for minutes.
    """
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import State, StateType
    from prefect.states import Cancelled, Crashed

    def in_state(*types: StateType) -> list[FlowRun]:
        of_type = filters.FlowRunFilterStateType(any_=list(types))
        return client.read_flow_runs(
            flow_run_filter=filters.FlowRunFilter(state=filters.FlowRunFilterState(type=of_type)),
            work_pool_filter=filters.WorkPoolFilter(name=filters.WorkPoolFilterName(any_=[pool])),
        )

    begun = in_state(StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
    crashed: State[None] = Crashed(message="Its worker was stopped before the run had ended.")
    for run in begun:
        client.set_flow_run_state(run.id, crashed, force=True)
    if queue:
        cancelled: State[None] = Cancelled(message="The command that asked for it has ended.")
        for run in in_state(StateType.SCHEDULED):
            if run.work_queue_name == queue:
                client.set_flow_run_state(run.id, cancelled, force=True)
    return len(begun)


def log_tail(client: SyncPrefectClient, flow_run: UUID, lines: int = 30) -> str:
    """The last log lines of a flow run, oldest first, indented."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.sorting import LogSort

    of_run = filters.LogFilter(flow_run_id=filters.LogFilterFlowRunId(any_=[flow_run]))
    newest = client.read_logs(log_filter=of_run, limit=lines, sort=LogSort.TIMESTAMP_DESC)
    # Of an error that the flow raised, the engine logs the whole trace again.
    said = [log.message for log in reversed(newest) if not log.message.startswith("Engine execution exited")]
    written = "\n".join(said).splitlines()[-lines:]
    return "\n".join(f"    {line}" for line in written) or "    (it logged nothing)"


def _failure(client: SyncPrefectClient, run: Run, flow_run: FlowRun) -> str:
    message = f": {flow_run.state.message}" if flow_run.state and flow_run.state.message else ""
    return (
        f"{run.deployment} ended {run.state} after {run.seconds:.0f} s (run {flow_run.name}){message}\n"
        f"Its last log lines:\n{log_tail(client, flow_run.id)}"
    )


def _artifacts(client: SyncPrefectClient, flow_run: UUID) -> list[Artifact]:
    from prefect.client.schemas import filters
    from prefect.client.schemas.sorting import ArtifactSort

    of_run = filters.ArtifactFilter(flow_run_id=filters.ArtifactFilterFlowRunId(any_=[flow_run]))
    return client.read_artifacts(artifact_filter=of_run, sort=ArtifactSort.UPDATED_DESC, limit=50)
