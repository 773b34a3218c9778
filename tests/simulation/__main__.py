"""`make simulate`: two months of all systems in minutes, on a real Prefect server and worker, in an unquiet world."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from deployments import shown
from deployments.processes import ProcessError, Processes, Terminated, signals_as_exceptions
from deployments.runs import RunFailed
from deployments.stack import ROOT, become_client, start_prefect
from flows.settings import Settings
from tests.simulation import report
from tests.simulation.evidence import events_of, gather
from tests.simulation.running import QUEUE, Runs
from tests.simulation.worlds import WORLDS, chosen

WIDTH = 150
"""Of a log file, so that a sentence of the tables is one line."""

EVENTS_ARRIVE_SECONDS = 8
"""The server stores events some seconds after they were emitted."""


def main(
    days: Annotated[int, typer.Option(min=10, help="Simulated days.")] = 60,
    system: Annotated[list[str] | None, typer.Option(help=f"A system, of {', '.join(WORLDS)}; again for more.")] = None,
    home: Annotated[Path, typer.Option(help="Emptied first.")] = ROOT / ".triptych" / "simulation",
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON, progress to stderr.")] = False,
    kill: Annotated[bool, typer.Option(help="Kill the worker with its runs half-way, and start another.")] = True,
) -> None:
    """Replay the flows of the systems over simulated days; exit with 1 if a law does not hold at the end."""
    terminal = Console(stderr=as_json)
    console = Console(stderr=as_json, highlight=False, soft_wrap=True, width=None if terminal.is_terminal else WIDTH)
    names = [name for name in system or () if name]
    if unknown := sorted(set(names) - set(WORLDS)):
        raise typer.BadParameter(f"there are no systems {unknown}; there are {', '.join(WORLDS)}.")
    worlds = chosen(names)
    home = home.absolute()
    settings = Settings(home=home, source="simulated", data=None, mlflow_uri=None)
    _empty(home)
    become_client(settings)
    from prefect.client.orchestration import SyncPrefectClient

    console.print(f"[bold]Triptych[/bold] · {days} simulated days of {', '.join(each.system for each in worlds)}")
    for each in worlds:
        console.print(report.cadence(each), style="dim")
    began = time.monotonic()
    try:
        with signals_as_exceptions(), Processes(home, command="make simulate") as processes:
            prefect = start_prefect(processes, settings, scheduling=False, queue=QUEUE, say=console.print)
            console.print(f"Prefect is up after {time.monotonic() - began:.0f} s: {prefect.pages} (while this runs)")
            with SyncPrefectClient(prefect.api) as client:
                runs = Runs(processes, prefect, client, worlds, days, home=home, say=console.print)
                with report.Progress(console, runs.progress) as progress:
                    runs.go(kill_at=days // 2 if kill else None, changed=progress.changed)
                time.sleep(EVENTS_ARRIVE_SECONDS)
                told = {world.system: events_of(client, world.system) for world in worlds}
    except (ProcessError, RunFailed) as error:
        console.print(Text.assemble(("The simulation failed. ", "bold red"), str(error)))
        raise typer.Exit(1) from error
    except KeyboardInterrupt as stopped:
        console.print("Stopped, and all it had started.")
        raise typer.Exit(143 if isinstance(stopped, Terminated) else 130) from stopped
    found = [gather(world, home / world.system, runs.ends[world.system], told[world.system]) for world in worlds]
    verdicts = report.judge(found)
    seconds = time.monotonic() - began
    if as_json:
        print(json.dumps(report.as_json(found, verdicts, seconds=seconds, killed=runs.killed), indent=1, default=str))
    else:
        console.print(report.what_happened(found))
        console.print(report.table(verdicts))
        shown.status([each.status for each in found])
        console.print(report.figures(found, seconds=seconds, killed=runs.killed, days=days))
    if any(verdict.violations for verdict in verdicts):
        raise typer.Exit(1)


def _empty(home: Path) -> None:
    """Begin with an empty folder; only what an earlier simulation has left is taken away."""
    if home.exists() and any(home.iterdir()) and not (home / "logs").is_dir():
        raise typer.BadParameter(f"{home} holds something else than a simulation. Name an empty folder by --home.")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)  # Prefect makes its own folder below it, but not this one


if __name__ == "__main__":
    typer.run(main)
