"""A bench's verdicts and figures: as tables on a screen, as Markdown for docs/benchmarks.md, as JSON for machines."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table

from tests.benchmarks.measure import MIB, ROOT
from tests.benchmarks.rows import OURS, ROWS, Bench, Figure, Verdict

LIBRARIES = ("deltalake", "duckdb", "polars", "pandas", "pyarrow", "numpy", "SQLAlchemy")

PAGE = Path(__file__).with_name("page.md")


def _commit() -> str:
    """The last commit that touched the store; "unknown" where there is no repository."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        return "unknown"
    command = ["git", "log", "-1", "--format=%h", "--", "featurestore"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def machine(bench: Bench) -> dict[str, Any]:
    """What it ran on."""
    model = ""
    if (cpu := Path("/proc/cpuinfo")).exists():
        lines = dict(line.split(":", 1) for line in cpu.read_text().splitlines() if ":" in line)
        model = next((value.strip() for name, value in lines.items() if name.strip() == "model name"), "")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        system = platform.platform(terse=True)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "scale": bench.scale_name, "commit": _commit(),
        "cpu": model or platform.machine(), "cores": os.cpu_count(), "memory_gib": round(pages / 2**30, 1),
        "system": f"{system}, {platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(), "libraries": {name: version(name) for name in LIBRARIES},
    }  # fmt: skip


def as_json(bench: Bench) -> dict[str, Any]:
    """Everything, for machines."""
    return {
        "machine": machine(bench),
        "verdicts": [asdict(verdict) for verdict in bench.verdicts],
        "figures": [asdict(figure) for figure in bench.figures],
    }


def _outcome(verdict: Verdict) -> str:
    return {True: "reached", False: "falls short", None: "-"}[verdict.reached]


def _verdict_cells(verdicts: Iterable[Verdict]) -> list[list[str]]:
    return [[v.work, v.must, v.measured, _outcome(v)] for v in verdicts]


def _beside(figure: Figure, ours: Figure) -> str:
    if figure.run.failure is not None or ours.run.failure is not None or figure is ours:
        return ""
    return f"{figure.run.work / ours.run.work:.2f} ×"


def _figure_cells(figures: Sequence[Figure]) -> list[list[str]]:
    cells = []
    for figure in figures:
        run = figure.run
        # Two sizes in one row: each contestant stands beside us at its own.
        mine = [f for f in figures if f.row == figure.row and f.by.startswith(OURS)]
        size = figure.by.partition(",")[2]
        ours = next((f for f in mine if f.by.partition(",")[2] == size), mine[0])
        ran = run.failure is None
        cells.append(
            [
                figure.work, figure.by, figure.shown, _beside(figure, ours),
                f"{run.cpu_seconds:.1f} s" if ran else "", f"{run.peak / MIB:,.0f} MiB" if ran else "",
                str(run.times) if ran else "", f"{figure.load:.1f}",
            ]
        )  # fmt: skip
    return cells


def sizes(bench: Bench) -> str:
    """What the reader must know of the scale."""
    meant = {
        "full": "All sizes are those of the promises, but the largest join's.",
        "large": "All sizes are those of the promises.",
    }
    smaller = f"SCALE={bench.scale_name} is smaller than what is promised: starting up weighs more. SCALE=full is it."
    return meant.get(bench.scale_name, smaller)


VERDICTS = ("work", "must reach", "measured", "")
FIGURES = ("work", "by", "measured", "beside", "processor", "peak memory", "runs", "load")


def on_screen(bench: Bench) -> Group:
    """Both tables, for a terminal."""
    colours = {"reached": "green", "falls short": "red", "-": "yellow"}
    first = Table(*VERDICTS, title="Promised and reached", caption=sizes(bench), box=box.SIMPLE)
    for cells in _merged(_verdict_cells(bench.verdicts)):
        first.add_row(*cells[:-1], f"[{colours[cells[-1]]}]{cells[-1]}")
    second = Table(*FIGURES, title="All figures", box=box.SIMPLE)
    for cells in _merged(_figure_cells(bench.figures)):
        second.add_row(*cells)
    return Group(first, second)


def _merged(rows: Sequence[list[str]]) -> list[list[str]]:
    """The rows, each piece of work named once."""
    return [
        ["" if number and rows[number - 1][0] == row[0] else row[0], *row[1:]] for number, row in enumerate(rows)
    ]  # fmt: skip


def _markdown(header: Sequence[str], rows: Sequence[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *_merged(rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def as_page(bench: Bench) -> str:
    """The whole of docs/benchmarks.md."""
    about = machine(bench)
    libraries = ", ".join(f"{name} {number}" for name, number in about["libraries"].items())
    short = [verdict for verdict in bench.verdicts if verdict.reached is False]
    missing = [verdict for verdict in bench.verdicts if verdict.reached is None]
    counts = f"{len(bench.verdicts) - len(short) - len(missing)} of {len(bench.verdicts)} promises are reached"
    return PAGE.read_text().format(
        scale=bench.scale_name, date=about["date"], commit=about["commit"], cores=about["cores"], rows=", ".join(ROWS),
        vectors=f"{bench.scale.vectors:,}",
        machine=f"- {about['cores']} cores ({about['cpu']}), {about['memory_gib']} GiB of memory, {about['system']}\n"
        f"- Python {about['python']}, {libraries}",
        verdicts=_markdown(VERDICTS, _verdict_cells(bench.verdicts)),
        falls_short=f"{sizes(bench)} " + counts + (f", {len(missing)} could not be measured" if missing else "") + ".",
        figures=_markdown(FIGURES, _figure_cells(bench.figures)),
    )  # fmt: skip
