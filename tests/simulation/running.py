"""Running the replays as deployments on a real worker, two at a time; and killing that worker in the middle."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from deployments.processes import Processes
from deployments.runs import RunFailed, close_interrupted_runs, log_tail
from deployments.stack import POOL, Prefect, start_worker
from tests.simulation import ledger
from tests.simulation.worlds import BEGINS, DAY, World

if TYPE_CHECKING:  # a client of the server is made once it is known where that keeps its state
    from prefect.client.orchestration import SyncPrefectClient

QUEUE = "simulate"  # the worker takes only what this command asks for, never a run that an event or a schedule has left
AT_A_TIME = 2
LOOK_SECONDS = 1.0


@dataclass
class Progress:
    """How far one system has come, for whoever watches."""

    system: str
    state: str = "Waiting"
    at: datetime | None = None
    seconds: float = 0.0
    runs: int = 0

    @property
    def day(self) -> int:
        """The simulated day."""
        return 0 if self.at is None else max(0, (self.at - BEGINS) // DAY)


class Runs:
    """The replays of some systems on one Prefect server."""

    def __init__(
        self, processes: Processes, prefect: Prefect, client: SyncPrefectClient, worlds: Sequence[World], days: int,
        *, home: Path, say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.progress = [Progress(world.system) for world in worlds]
        self.ends: dict[str, datetime] = {}
        self.killed: dict[str, int] = {}
        self._processes, self._prefect, self._client, self._home, self._say = processes, prefect, client, home, say
        self._days = days
        self._deployments = {world.system: self._deploy(world) for world in worlds}
        self._running: dict[str, tuple[UUID, float]] = {}

    def go(self, *, kill_at: int | None, changed: Callable[[], None] = lambda: None) -> None:
        """Run all replays to their end; kill the worker once, when a system has reached that simulated day.

        Args:
            changed: called every second, for whoever shows the progress.
        Raises:
            RunFailed: a replay ended otherwise than Completed, and not because we killed it.
        """
        waiting = [each.system for each in self.progress]
        while waiting or self._running:
            while waiting and len(self._running) < AT_A_TIME:
                self._start(waiting.pop(0))
            time.sleep(LOOK_SECONDS)
            self._processes.check()
            self._look()
            changed()
            if kill_at is not None and any(self._of(system).day >= kill_at for system in self._running):
                self._kill_worker()
                self._say(f"The worker was killed with its runs: {', '.join(self.killed)}; another takes over.")
                kill_at = None

    def _deploy(self, world: World) -> UUID:
        flow_id = self._client.create_flow_from_name("simulate")
        return self._client.create_deployment(
            flow_id=flow_id, name=f"simulate-{world.system.replace('_', '-')}",
            entrypoint="tests.simulation.replay.simulate", work_pool_name=POOL, work_queue_name=QUEUE,
            parameters={"system": world.system, "until": self._days}, tags=[world.system, "simulation"],
            description=f"Replays the flows of {world.system} over {self._days} simulated days.",
            job_variables={"env": self._environment(world)},
        )  # fmt: skip

    def _environment(self, world: World) -> dict[str, str]:
        """A home of its own for each system: freshness looks at all groups of a store at one time."""
        home = self._home / world.system
        return {"TRIPTYCH_HOME": str(home), "FEATURESTORE_HOME": str(home / "store")}

    def _start(self, system: str) -> None:
        run = self._client.create_flow_run_from_deployment(self._deployments[system], work_queue_name=QUEUE)
        self._running[system] = run.id, time.monotonic()
        self._of(system).runs += 1

    def _look(self) -> None:
        for system, (run_id, began) in list(self._running.items()):
            shown = self._of(system)
            run = self._client.read_flow_run(run_id)
            shown.state = run.state_name or "Unknown"
            lines = ledger.read(self._home / system / "ledger.jsonl")
            shown.at = next((line["at"] for line in reversed(lines) if line["what"] == ledger.CALL), None)
            if run.state is None or not run.state.is_final():
                continue
            del self._running[system]
            shown.seconds += time.monotonic() - began
            if not run.state.is_completed():
                raise RunFailed(f"simulate-{system} ended {shown.state}:\n{log_tail(self._client, run_id)}")
            self.ends[system] = datetime.fromisoformat(str(_answer(lines)))

    def _kill_worker(self) -> None:
        """As a machine that loses power: the worker and every run of it are gone at once, and nobody is told."""
        self._processes.kill("worker")
        self.killed = {system: self._of(system).day for system in self._running}
        close_interrupted_runs(self._client, pool=POOL)  # as the next start does it
        start_worker(self._processes, self._prefect.environment, queue=QUEUE, name="worker-again")
        for system, (_, began) in list(self._running.items()):
            self._of(system).seconds += time.monotonic() - began
            self._start(system)

    def _of(self, system: str) -> Progress:
        return next(each for each in self.progress if each.system == system)


def _answer(lines: Sequence[dict[str, Any]]) -> str:
    """The simulated time that a replay has reached: it is the last thing it writes down."""
    return next(line["end"] for line in reversed(lines) if line.get("note") == "ended")
