"""After an outage many runs of a deployment are due at once: the newest does the work of all of them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, cast
from uuid import UUID

if TYPE_CHECKING:
    from datetime import datetime

    from prefect.client.schemas.objects import FlowRun

P = ParamSpec("P")
R = TypeVar("R")


class Due(NamedTuple):
    """A run that is due, as far as it matters here."""

    id: UUID
    at: datetime
    parameters: Mapping[str, Any]


def newest_only(function: Callable[P, R]) -> Callable[P, R]:
    """Let a run of a deployment give way when a newer one with the same parameters is due as well.

    For flows that go on where the last one ended. The run that starts first cancels those between itself and the
    newest, and ends as "Skipped"; the newest is left to run, for the time it was scheduled for. So it costs one short
    process and one call for each cancelled run, not a process for each: after three days without a worker 72 hourly
    runs become one. Put it below `@flow`. Outside of a deployment's run it does nothing.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        others = _give_way()
        if others:
            from prefect.states import Completed

            told = f"{others} newer run(s) of this deployment are due; the newest does the work of all."
            return cast(R, Completed(name="Skipped", message=told))
        return function(*args, **kwargs)

    # Prefect would look up the names of types in this module, not in the flow's.
    run.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
    return run


def in_between(mine: Due, others: Sequence[Due]) -> tuple[list[Due], Due | None]:
    """Of the runs that are due with the same parameters: those that can be cancelled, and the newest if it is not mine.

    Two that are due at the same moment are told apart by their ids.

    >>> from datetime import datetime
    >>> first, second, third = (Due(UUID(int=n), datetime(2026, 1, n), {}) for n in (1, 2, 3))
    >>> cancelled, newest = in_between(first, [third, second])
    >>> cancelled == [second], newest == third
    (True, True)
    >>> cancelled, newest = in_between(third, [first, second])
    >>> cancelled == [first, second], newest
    (True, None)
    """
    alike = sorted((each for each in others if each.parameters == mine.parameters), key=lambda each: each[1::-1])
    if not alike:
        return [], None
    newest = alike[-1]
    return (alike, None) if newest[1::-1] < mine[1::-1] else (alike[:-1], newest)


def _give_way() -> int:
    """Cancel the runs that another one makes up for; return how many newer ones this one gives way to."""
    if "prefect" not in sys.modules:
        return 0
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.deployment_id is None:
        return 0
    from prefect import get_run_logger
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled

    mine = _due(context.flow_run)
    try:
        with get_client(sync_client=True) as client:
            others = [_due(run) for run in _siblings(client, context.flow_run) if run.id != mine.id]
            cancelled, newest = in_between(mine, others)
            for each in cancelled:
                client.set_flow_run_state(each.id, Cancelled(message="A newer run of this deployment does its work."))
    except Exception as error:  # noqa: BLE001 - to run once too often is harmless, not to run is not
        get_run_logger().warning("Whether other runs of this deployment are due is not known: %s", error)
        return 0
    if cancelled:
        get_run_logger().info("%d other due run(s) of this deployment were cancelled.", len(cancelled))
    return 0 if newest is None else 1 + sum(each[1::-1] > mine[1::-1] for each in cancelled)


def _siblings(client: Any, run: FlowRun) -> list[FlowRun]:
    """The runs of the same deployment and queue that are due and have not begun."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType

    from flows import windows

    waiting = filters.FlowRunFilterStateType(any_=[StateType.SCHEDULED])
    assert run.deployment_id is not None
    chosen = filters.FlowRunFilter(
        deployment_id=filters.FlowRunFilterDeploymentId(any_=[run.deployment_id]),
        state=filters.FlowRunFilterState(type=waiting),
        expected_start_time=filters.FlowRunFilterExpectedStartTime.model_validate({"before_": windows.now()}),
    )
    found: list[FlowRun] = []
    while page := client.read_flow_runs(flow_run_filter=chosen, limit=200, offset=len(found)):
        found += page
    return [each for each in found if each.work_queue_name == run.work_queue_name and not each.run_count]


def _due(run: FlowRun) -> Due:
    assert run.expected_start_time is not None
    return Due(run.id, run.expected_start_time, run.parameters)
