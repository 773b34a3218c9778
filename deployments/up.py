"""`make up`: Prefect server, worker, MLflow pages, inference server and notifications on one screen, until Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import httpx
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deployments import notifier
from deployments.processes import ProcessError, Processes, Terminated, signals_as_exceptions
from deployments.stack import (
    POOL,
    ROOT,
    Prefect,
    WrongSettings,
    become_client,
    settings_here,
    source_name,
    start_inference_server,
    start_mlflow_pages,
    start_prefect,
)

LOOK_SECONDS = 2.0
TOLD = 4
"""So many of the last notifications are shown."""


@dataclass(frozen=True)
class Part:
    """Something that runs: its address, and how to ask whether it is well."""

    name: str
    address: str
    health: str


def parts(prefect: Prefect, mlflow: str, answers: str) -> list[Part]:
    """What `make up` shows."""
    return [
        Part("Prefect", prefect.pages, f"{prefect.api}/health"),
        Part("MLflow", f"{mlflow}/#/models?workflowType=machine_learning", f"{mlflow}/health"),
        Part("Inference", f"{answers}/docs", f"{answers}/healthz"),
    ]


def is_healthy(part: Part) -> bool:
    """Whether the part answers."""
    try:
        return httpx.get(part.health, timeout=2.0).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def workers_online(prefect: Prefect) -> int:
    """How many workers of the pool have been heard of lately, as the server sees it."""
    try:
        answer = httpx.post(f"{prefect.api}/work_pools/{POOL}/workers/filter", json={}, timeout=2.0)
        return sum(worker["status"] == "ONLINE" for worker in answer.raise_for_status().json())
    except httpx.HTTPError:
        return 0


def screen(home: Path, health: Mapping[Part, bool], workers: int) -> RenderableType:
    """Addresses and health of all parts, where their files are, and the last few notifications."""
    table = Table.grid(padding=(0, 3))
    for part, healthy in health.items():
        state = Text("healthy", "green") if healthy else Text("not answering", "yellow")
        table.add_row(part.name, state, part.address)
    online = Text("online", "green") if workers else Text("not online yet", "yellow")
    table.add_row("Worker", online, f"takes runs from the pool {POOL}")
    table.add_row("Files", "", str(home))
    table.add_row("Logs", "", str(home / "logs"))
    table.add_row("Alerts", "", str(home / notifier.FILE))
    told = [Text(f"  {line['text']}", "yellow") for line in notifier.read(home, last=TOLD)]
    return Group(table, *told, Text("Ctrl-C stops all of it.", "dim"))


def up() -> None:
    """Keep Prefect server, worker, MLflow pages and inference server running until Ctrl-C."""
    console = Console(highlight=False, soft_wrap=True)
    try:
        settings = settings_here()
    except WrongSettings as error:
        console.print(Text(str(error), "bold red"))
        raise typer.Exit(2) from error
    become_client(settings)
    home = settings.home
    console.print(f"[bold]Triptych[/bold] · {source_name(settings)} data · {home}")
    try:
        with signals_as_exceptions(), Processes(home, command="make up") as processes:
            if processes.leftovers:
                console.print(f"Stopped {processes.leftovers} process(es) that an earlier, killed run had left behind.")
            with console.status("Starting Prefect server, process pool, worker, MLflow pages and inference server ..."):
                prefect = start_prefect(processes, settings, scheduling=True, say=console.print)
                environment = prefect.environment
                processes.start("notifier", ["deployments.notifier"], environment=environment, folder=ROOT)
                mlflow = start_mlflow_pages(processes, settings, environment=environment, say=console.print)
                answers = start_inference_server(processes, environment=environment, say=console.print)
                shown = parts(prefect, mlflow, answers)
                processes.wait_until_healthy("mlflow", shown[1].health, timeout_seconds=120)
            console.print(f"For another terminal: export PREFECT_API_URL={prefect.api} TRIPTYCH_HOME={home}")
            watch(console, processes, prefect, shown)
    except ProcessError as error:
        console.print(Text.assemble(("Something stopped, and with it the rest. ", "bold red"), str(error)))
        raise typer.Exit(1) from error
    except KeyboardInterrupt as stopped:
        console.print("Stopped.")
        raise typer.Exit(143 if isinstance(stopped, Terminated) else 0) from stopped


def watch(console: Console, processes: Processes, prefect: Prefect, shown: list[Part]) -> None:
    """Show addresses and health until interrupted; raise ProcessError when a process dies."""

    def look() -> RenderableType:
        return screen(processes.home, {part: is_healthy(part) for part in shown}, workers_online(prefect))

    with Live(look(), console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        if live is None:  # in a log file, once
            console.print(look())
        while True:
            processes.check()
            if live is not None:
                live.update(look(), refresh=True)
            time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    typer.run(up)
