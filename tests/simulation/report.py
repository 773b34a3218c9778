"""What the simulator shows: progress while it runs, then what happened, which laws hold, and the figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from rich import box
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tests.simulation import ledger
from tests.simulation.evidence import Evidence
from tests.simulation.laws import LAWS
from tests.simulation.running import Progress as Shown
from tests.simulation.worlds import World


class Verdict(NamedTuple):
    """A law over one system, and what breaks it."""

    law: str
    system: str
    violations: list[str]


def judge(found: Sequence[Evidence]) -> list[Verdict]:
    """Every law over every system."""
    return [Verdict(law.__name__, each.world.system, law(each)) for law in LAWS for each in found]


def cadence(world: World) -> str:
    """How a system is replayed, in one line."""
    history = sum((window.end - window.start for window in world.history), timedelta(0)).days
    return (
        f"  {world.system:<12} {history} days of history, then features and inference every "
        f"{'day' if world.every == 1 else f'{world.every} days'}, training every {world.train_every} days"
    )


EVERY_DAYS = 10
"""In a log file, a line for each system after so many simulated days."""


STARTING = ("Waiting", "Scheduled", "Pending", "Submitting", "Late")
"""States that pass by themselves, and are not worth a line."""


class Progress:
    """The simulated date of each system: redrawn in a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, shown: Sequence[Shown]) -> None:
        self._console, self._shown = console, shown
        self._said: dict[str, tuple[str, int]] = {}
        self._live = Live(get_renderable=self._table, console=console) if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def changed(self) -> None:
        """Show the systems as they are now."""
        for each in self._shown if self._live is None else ():
            said = each.state, each.day // EVERY_DAYS
            if each.at is not None and each.state not in STARTING and said != self._said.get(each.system):
                self._said[each.system] = said
                self._console.print(f"  {each.system:<12} {each.state:<10} {each.at:%Y-%m-%d} (day {each.day})")

    def _table(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for each in self._shown:
            date = "" if each.at is None else f"{each.at:%Y-%m-%d}"
            table.add_row(" ", each.system, each.state, date, f"day {each.day}", "again" if each.runs > 1 else "")
        return table


def what_happened(found: Sequence[Evidence]) -> RenderableType:
    """Each disturbance, and what the feature flow answered while it lasted."""
    table = Table(title="What the world did", title_justify="left", title_style="bold", box=box.SIMPLE)
    for name in ("system", "what", "the features answered", "then"):
        table.add_column(name)
    for row in disturbed(found):
        table.add_row(row["system"], row["says"], row["answered"], row["then"])
    return table


def disturbed(found: Sequence[Evidence]) -> list[dict[str, str]]:
    """One row for each disturbance."""
    rows = []
    for evidence in found:
        for each in evidence.world.happens:
            calls = [call for call in evidence.ended("features") if each.window.start <= call["at"] < each.window.end]
            after = [
                c for c in evidence.ended("features") if c["at"] >= each.window.end and not c["error"] and c["answer"]
            ]
            answers = Counter(call["error"] or "wrote" for call in calls)
            then = f"wrote {after[0]['answer']:,} rows" if after else ""
            rows.append(
                {
                    "system": evidence.world.system,
                    "kind": each.kind,
                    "says": each.says,
                    "answered": ", ".join(f"{number} x {name}" for name, number in answers.items()) or "not reached",
                    "then": then,
                }
            )
    return rows


def table(verdicts: Sequence[Verdict]) -> RenderableType:
    """Laws down, systems across; below it every violation in words."""
    systems = list(dict.fromkeys(verdict.system for verdict in verdicts))
    shown = Table(title="What must hold", title_justify="left", title_style="bold", box=box.SIMPLE)
    shown.add_column("law")
    for system in systems:
        shown.add_column(system, justify="center")
    for law in dict.fromkeys(verdict.law for verdict in verdicts):
        cells = [len(v.violations) for v in verdicts if v.law == law]
        shown.add_row(
            law.replace("_", " "), *(Text("holds", "green") if not n else Text(f"{n} x", "red") for n in cells)
        )
    broken = [f"{v.system}: {v.law}: {each}" for v in verdicts for each in v.violations]
    outer = Table.grid()
    outer.add_row(shown)
    for line in broken:
        outer.add_row(Text(line, "red"))
    return outer


def figures(found: Sequence[Evidence], *, seconds: float, killed: dict[str, int], days: int) -> str:
    """How much was run, in a few lines."""
    calls = Counter(call["step"] for each in found for call in each.calls if call.get("state") == "ended")
    rows = sum(len(group.rows) for each in found for group in each.groups.values())
    at = ", ".join(f"{system} on day {day}" for system, day in killed.items()) or "never"
    return (
        f"{days} simulated days of {len(found)} systems in {seconds / 60:.1f} minutes: "
        f"{sum(calls.values())} flow runs ({', '.join(f'{number} {name}' for name, number in calls.items())}), "
        f"{rows:,} rows in {sum(len(each.groups) for each in found)} groups, "
        f"{sum(len(each.versions) for each in found)} model versions, "
        f"{sum(len(each.told) for each in found)} events.\nThe worker was killed: {at}; "
        "what it left was picked up from the watermarks."
    )


def as_json(
    found: Sequence[Evidence], verdicts: Sequence[Verdict], *, seconds: float, killed: dict[str, int]
) -> dict[str, Any]:
    """The same for programs."""
    return {
        "seconds": round(seconds, 1),
        "killed": killed,
        "status": {each.world.system: each.status.get("state") for each in found},
        "happened": disturbed(found),
        "laws": [verdict._asdict() for verdict in verdicts],
        "decisions": {
            each.world.system: [d.text for v in each.versions for d in v.decisions] for each in found
        },
        "calls": {
            each.world.system: Counter(c["step"] for c in each.calls if c.get("state") == "ended") for each in found
        },
        "disturbed": {
            each.world.system: sorted({c["kind"] for c in each.calls if c["what"] == ledger.WORLD}) for each in found
        },
    }  # fmt: skip
