"""`make bench`: every promise about speed and memory beside what it is compared with, in one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tests.benchmarks import feast_environment, report
from tests.benchmarks.measure import ROOT
from tests.benchmarks.rows import ROWS, Bench
from tests.benchmarks.scale import SCALES

progress = Console(stderr=True, highlight=False)


def main(
    scale: Annotated[str, typer.Option(help=f"How much: {', '.join(SCALES)}.")] = "moderate",
    only: Annotated[list[str] | None, typer.Option(help=f"A row, of {', '.join(ROWS)}; again for more.")] = None,
    repeat: Annotated[int | None, typer.Option(min=1, help="Runs of each, of which the best counts.")] = None,
    feast: Annotated[bool | None, typer.Option(help="Measure Feast too; left out at the small scale.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    write_docs: Annotated[bool, typer.Option("--write-docs", help="Write the page of the documentation.")] = False,
    docs: Annotated[Path, typer.Option(help="Where that page lies.")] = ROOT / "docs" / "benchmarks.md",
    folder: Annotated[Path, typer.Option(help="Where data and Feast are kept.")] = ROOT / ".triptych/bench",
) -> None:  # fmt: skip
    """Measure the feature store beside bare libraries and Feast; print what was promised and what is reached."""
    if scale not in SCALES:
        raise typer.BadParameter(f"there is no scale {scale!r}; there are {', '.join(SCALES)}.")
    if unknown := [name for name in only or () if name not in ROWS]:
        raise typer.BadParameter(f"there are no rows {unknown}; there are {', '.join(ROWS)}.")
    folder = folder.resolve()
    sizes = folder / scale
    sizes.mkdir(parents=True, exist_ok=True)
    interpreter, without = None, "left out: --no-feast, or the small scale"
    if feast if feast is not None else scale != "small":
        progress.print("Building Feast's environment, once ...")
        try:
            interpreter = feast_environment.python(folder)
        except feast_environment.NotBuilt as error:
            without = f"Feast could not be installed: {error}"
            progress.print(without)
    bench = Bench(scale, sizes, interpreter, without, progress.print, repeat)
    bench.prepare()
    for name in only or ROWS:
        ROWS[name](bench)
        if write_docs:  # after each row: the last one takes longest
            docs.parent.mkdir(parents=True, exist_ok=True)
            docs.write_text(report.as_page(bench))
    if as_json:
        print(json.dumps(report.as_json(bench), indent=1))
    else:
        Console(width=170).print(report.on_screen(bench))


if __name__ == "__main__":
    typer.run(main)
