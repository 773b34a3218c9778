"""`make demo`: the three pipelines of a system, one after another, on a real Prefect server and worker."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import httpx
import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from deployments.processes import ProcessError, Processes, Terminated, signals_as_exceptions
from deployments.runs import Run, RunFailed, run_deployment
from deployments.stack import WrongSettings, become_client, settings_here, start_prefect
from featurestore.errors import FeatureStoreError
from featurestore.times import Window
from flows import systems
from flows.settings import Settings

QUEUE = "demo"  # the worker takes only what this command asks for, never a run that a schedule has left
PREDICTED = timedelta(days=7)  # fraud: the label delay, so nobody knows yet which are frauds; others: a week of issues

ALL = "all"


class Step(NamedTuple):
    """A deployment, and the parameters the demo runs it with."""

    deployment: str
    parameters: Mapping[str, Any]


class Plan(NamedTuple):
    """What the demo runs of one system: its source, over which time, and its steps in order.

    The demo always runs over the same time, so that its figures can be compared from one day to the next.
    """

    system: str
    source: str
    window: Window
    steps: list[Step]


def systems_of(name: str) -> list[str]:
    """The systems that are meant: one, or all.

    Raises:
        WrongSettings: there is no such system.

    >>> systems_of("fraud")
    ['fraud']
    """
    if name == ALL:
        return systems()
    if name not in systems():
        raise WrongSettings(f"There is no system {name!r}. SYSTEM is one of {', '.join([*systems(), ALL])}.")
    return [name]


def plan(system: str, settings: Settings) -> Plan:
    """Features of all that the source has; a model of what was known at its end; predictions for the last week.

    Raises:
        WrongSettings: the source is live: what it has is other rows every day.
        NotFound: a table is not there.
    """
    if settings.chosen_source == "live":
        raise WrongSettings(
            "The demo runs over a fixed time, which live sources do not have. Use TRIPTYCH_SOURCE=simulated, or "
            "TRIPTYCH_DATA=<folder> for tables; `make up` runs the schedules on live sources."
        )
    source = import_module(f"flows.{system}.source")
    start, end = window = source.span()
    name = system.replace("_", "-")
    steps = [
        Step(f"{name}-features", {"start": start, "end": end}),
        Step(f"{name}-training", {"end": end}),
        Step(f"{name}-inference", {"start": end - PREDICTED, "end": end}),
    ]
    return Plan(system, source.source_name(), window, steps)


class Progress:
    """What is going on, as a table that redraws itself in a terminal and as one line for each change elsewhere."""

    def __init__(self, console: Console, runs: list[Run]) -> None:
        self._console = console
        self._runs = runs
        self._said: dict[str, str] = {}
        self._live = Live(self._table(), console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def changed(self) -> None:
        """Show the runs as they are now."""
        if self._live:
            self._live.update(self._table())
            return
        for run in self._runs:
            if run.state not in ("Waiting", self._said.get(run.deployment)):
                self._said[run.deployment] = run.state
                self._console.print(f"  {run.deployment:<24} {run.state:<10} {run.seconds:5.1f} s")

    def _table(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for run in self._runs:
            working = run.state in ("Pending", "Running", "Scheduled", "Late")
            colour = {"Completed": "green", "Waiting": "dim"}.get(run.state, "cyan" if working else "red")
            percent = "" if run.percent is None or not working else f"{run.percent:.0f} %"
            state: RenderableType = Text(run.state, style=colour)
            if working:
                state = Spinner("dots", text=Text(run.state, style=colour))
            table.add_row(" ", run.deployment, state, f"{run.seconds:5.1f} s" if run.seconds else "", percent)
        return table


def spelled(value: object) -> str:
    """A value of a summary as people read it.

    >>> spelled(1234567), spelled(0.68314), spelled([0.61, 0.7321]), spelled("2026-01-01"), spelled(None)
    ('1,234,567', '0.683', '0.610 to 0.732', '2026-01-01', '-')
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}"
    if isinstance(value, list | tuple):
        return " to ".join(spelled(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {spelled(item)}" for name, item in value.items())
    return str(value)


def nothing_new(run: Run) -> bool:
    """Whether the run says that it found its window already written.

    >>> nothing_new(Run("fraud-features", summary={"rows_written": 0})), nothing_new(Run("fraud-training"))
    (True, False)
    """
    return run.summary.get("rows_written") == 0


def results(runs: Iterable[Run]) -> Table:
    """What the runs say about themselves, one block for each."""
    table = Table(title="What came out", title_justify="left", title_style="bold", show_header=False, box=box.SIMPLE)
    table.add_column(style="bold")
    table.add_column()
    table.add_column()
    for run in runs:
        name = run.deployment
        for key, value in run.summary.items():
            note = " (nothing new: windows already committed)" if key == "rows_written" and nothing_new(run) else ""
            # A version may be spelled with digits, yet it is a name: no thousands separator.
            shown = str(value) if key.endswith("version") else spelled(value)
            table.add_row(name, key.replace("_", " "), shown + note)
            name = ""
        if not run.summary:
            table.add_row(name, "", "left no summary")
        table.add_section()
    return table


def pages_command() -> str:
    """The command that shows the pages over what the demo wrote."""
    deciding = sorted(f"TRIPTYCH_{name.upper()}" for name in Settings.model_fields)
    return " ".join(
        [*(f"{name}={shlex.quote(os.environ[name])}" for name in deciding if os.environ.get(name)), "make up"]
    )


def demo(
    system: Annotated[str, typer.Option(help="The system whose three pipelines run, or all.")] = "fraud",
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON, progress to stderr.")] = False,
) -> None:
    """Run a system's feature, training and inference deployment on a real Prefect server and worker, then stop both."""
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    began = time.monotonic()
    try:
        settings = settings_here()
        plans = [plan(name, settings) for name in systems_of(system)]
    except (WrongSettings, FeatureStoreError) as error:
        console.print(Text(str(error), "bold red"))
        raise typer.Exit(2) from error
    become_client(settings)
    home = settings.home
    for system, source, (start, end), _ in plans:
        console.print(f"[bold]Triptych[/bold] · {system} · {source} data, {start:%Y-%m-%d} to {end:%Y-%m-%d} · {home}")
    runs = [Run(step.deployment) for each in plans for step in each.steps]
    try:
        with signals_as_exceptions(), Processes(home, command="make demo") as processes:
            if processes.leftovers:
                console.print(f"Stopped {processes.leftovers} process(es) that an earlier, killed run had left behind.")
            with console.status("Starting a Prefect server, a process pool and a worker, deploying prefect.yaml ..."):
                prefect = start_prefect(processes, settings, scheduling=False, queue=QUEUE, say=console.print)
            console.print(f"Prefect is up after {time.monotonic() - began:.0f} s: {prefect.pages} (while this runs)")
            run_all(processes, prefect.api, plans, runs, Progress(console, runs))
    except (ProcessError, RunFailed) as error:
        console.print(Text.assemble(("The demo failed. ", "bold red"), str(error)))
        console.print(
            f"All logs: {home / 'logs'}. It is safe to run it again: what was committed is not written twice."
        )
        raise typer.Exit(1) from error
    except KeyboardInterrupt as stopped:
        console.print("Stopped, and all it had started. Run it again: what was committed is not written twice.")
        raise typer.Exit(143 if isinstance(stopped, Terminated) else 130) from stopped
    seconds = time.monotonic() - began
    if as_json:
        said = {run.deployment: {"state": run.state, "seconds": round(run.seconds, 1), **run.summary} for run in runs}
        sources = {each.system: each.source for each in plans}
        print(json.dumps({"sources": sources, "home": str(home), "seconds": round(seconds, 1), "runs": said}, indent=2))
        return
    console.print(Group("", results(runs)))
    if all(nothing_new(run) for run in runs if "rows_written" in run.summary):
        console.print("Nothing new was written: every window was committed by an earlier run.")
    console.print(f"Done in {seconds:.0f} s; everything that was started is stopped again.")
    console.print(f"  rows      {settings.store_home}")
    console.print(f"  models    {settings.resolved_mlflow_uri}")
    console.print(f"  pages     {pages_command()}    (Prefect and MLflow, until Ctrl-C)")


def run_all(processes: Processes, api: str, plans: list[Plan], runs: list[Run], progress: Progress) -> None:
    """Run the steps one after another. When one fails, the rest of its system is left out, and the others run on.

    Args:
        runs: one for each step of each plan, in order; kept up to date.
    Raises:
        RunFailed: a step failed; the message has all that did.
        ProcessError: a process that they need has died.
    """
    from prefect.client.orchestration import SyncPrefectClient

    def changed() -> None:
        progress.changed()
        processes.check()

    failures: dict[str, str] = {}
    steps = [(each.system, step) for each in plans for step in each.steps]
    with SyncPrefectClient(api) as client, progress:
        for (system, step), run in zip(steps, runs, strict=True):
            if system in failures:
                run.state = "Left out"
                continue
            try:
                run_deployment(client, run, parameters=step.parameters, queue=QUEUE, changed=changed)
            except RunFailed as error:
                failures[system] = str(error)
            except httpx.TransportError as error:
                processes.check()  # says so if the server has died
                raise ProcessError(f"The Prefect server at {api} no longer answers: {error}") from error
    if failures:
        raise RunFailed("\n\n".join(failures.values()))


if __name__ == "__main__":
    typer.run(demo)
