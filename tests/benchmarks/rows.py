"""What the store must reach (the rows of the contract's section on speed), and how each row is measured."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.benchmarks.measure import Run, best, whole_process
from tests.benchmarks.scale import SCALES, Scale

GIGABYTE = 1_000_000_000
OURS = "Triptych"
FEAST = "Feast 0.67"
SCANS = ("scan, pyarrow", "scan, Polars")


@dataclass(frozen=True)
class Verdict:
    """One promise and what came of it. `reached` is None where there is nothing to compare; `measured` says why."""

    row: str
    work: str
    must: str
    measured: str
    number: float | None = None
    reached: bool | None = None


@dataclass(frozen=True)
class Figure:
    """What one contestant took for one row."""

    row: str
    work: str
    by: str
    run: Run
    shown: str
    load: float


@dataclass
class Bench:
    """Runs pieces, and collects figures and verdicts.

    Args:
        feast: the interpreter that has Feast; None: `without_feast` says why not.
        tell: called with a line on what is running.
    """

    scale_name: str
    folder: Path
    feast: str | None
    without_feast: str
    tell: Callable[[str], None]
    repeat: int | None = None
    figures: list[Figure] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    _measured: dict[tuple[str, str], Run] = field(default_factory=dict)

    @property
    def scale(self) -> Scale:
        """The sizes."""
        return SCALES[self.scale_name]

    def piece(self, module: str, piece: str) -> Run:
        """One run of a piece of one of the modules beside this one."""
        python = sys.executable if module != "with_feast" else self.feast
        if python is None:
            return Run(failure=self.without_feast)
        return whole_process([python, "-m", f"tests.benchmarks.{module}", piece, self.scale_name, str(self.folder)])

    def prepare(self) -> None:
        """Write what everybody is measured on, and fill Feast's online store; kept for the next time.

        Raises:
            RuntimeError: the store itself cannot be written; the message says how it ended.
        """
        self.tell("Writing the store, once for each state of its code ...")
        made = self.piece("ours", "build")
        if made.failure is not None:
            raise RuntimeError(f"The store to measure could not be written: {made.failure}")
        if made.said["rows"]:
            self.tell(f"... {made.said['rows']:,} feature rows and the rest in {made.said['seconds']:.0f} s")
        if self.feast is not None:
            self.tell("Filling Feast's online store, once ...")
            if (failure := self.piece("with_feast", "build").failure) is not None:
                self.feast, self.without_feast = None, failure

    def race(
        self, row: str, work: str, contestants: Mapping[str, tuple[str, str]], show: Callable[[Run], str],
        once: Sequence[str] = (),
    ) -> dict[str, Run]:  # fmt: skip
        """The best of several runs of each, in turns, so that a noisy moment hits all; what is measured already stands.

        Args:
            contestants: by name, the module and the piece.
            show: what is worth telling of a run.
            once: those too slow to repeat.
        """
        load = os.getloadavg()[0]
        runs: dict[str, list[Run]] = {name: [] for name, piece in contestants.items() if piece not in self._measured}
        for turn in range(self.repeat or self.scale.repeat):
            for name, several in runs.items():
                if turn and (name in once or several[-1].failure):
                    continue
                self.tell(f"{row}: {name}, run {turn + 1}")
                several.append(self.piece(*contestants[name]))
                load = max(load, os.getloadavg()[0])
        self._measured |= {contestants[name]: best(several) for name, several in runs.items()}
        bests = {name: self._measured[piece] for name, piece in contestants.items()}
        for name, run in bests.items():
            self.figures.append(Figure(row, work, name, run, show(run) if run.failure is None else run.failure, load))
        return bests

    def compare(
        self, row: str, work: str, must: str, runs: Mapping[str, Run], value: Callable[[Mapping[str, Run]], float],
        *, at_most: float | None = None, at_least: float | None = None, show: str = "{:.2f} ×", processor: bool = False,
    ) -> None:  # fmt: skip
        """Note whether a number made of some runs keeps to its limit.

        Args:
            show: may name what the first of the runs said.
            processor: tell the same number made of processor times too, which other work on the machine changes less.
        """
        if failed := {name: run.failure for name, run in runs.items() if run.failure is not None}:
            why = "; ".join(f"{name}: {failure}" for name, failure in failed.items())
            self.verdicts.append(Verdict(row, work, must, f"not measured ({why})"))
            return
        number = value(runs)
        reached = number <= at_most if at_most is not None else number >= (at_least or 0.0)
        shown = show.format(number, **next(iter(runs.values())).said)
        if processor:
            alone = {name: replace(run, seconds=run.cpu_seconds) for name, run in runs.items()}
            shown += f" ({value(alone):.2f} × by processor time)"
        self.verdicts.append(Verdict(row, work, must, shown, number, reached))


def _millions(count: int) -> str:
    return f"{count / 1e6:g} M" if count >= 1e6 else f"{count / 1e3:g} k"


def _process(run: Run) -> str:
    return f"{run.seconds:.2f} s"


def _work(run: Run) -> str:
    return f"{run.work * 1000:.0f} ms" if run.work < 1 else f"{run.work:.2f} s"


def _percentiles(run: Run) -> str:
    return f"p50 {run.said['p50']:.0f} µs, p99 {run.said['p99']:.0f} µs"


def _ratio(left: str, right: str) -> Callable[[Mapping[str, Run]], float]:
    return lambda runs: runs[left].work / runs[right].work


def _beside_scan(runs: Mapping[str, Run]) -> float:
    return runs[OURS].work / min(runs[name].work for name in SCANS)


def _both(runs: Mapping[str, Run], *names: str) -> dict[str, Run]:
    return {name: runs[name] for name in names}


def join(bench: Bench) -> None:
    """Labels joined to two groups, whole processes."""
    scale = bench.scale
    work = f"point-in-time join, {_millions(scale.labels)} labels × two groups of {_millions(scale.rows)}"
    contestants = {
        OURS: ("ours", "join"), "scan, pyarrow": ("by_hand", "scan"), "scan, Polars": ("by_hand", "scan_polars"),
        "DuckDB ASOF": ("by_hand", "duckdb"),
        "Polars, sorting": ("by_hand", "polars"), "Polars, set_sorted": ("by_hand", "polars_sorted"),
        "pandas.merge_asof": ("by_hand", "merge_asof"), FEAST: ("with_feast", "join"),
    }  # fmt: skip
    runs = bench.race("join", work, contestants, _process, once=[FEAST])
    bench.compare(
        "join",
        work,
        "≥ 20 × faster than Feast",
        _both(runs, OURS, FEAST),
        _ratio(FEAST, OURS),
        at_least=20,
        processor=True,
    )
    bench.compare(
        "join", work, "≤ 1.5 × the faster scan", _both(runs, OURS, *SCANS), _beside_scan, at_most=1.5, processor=True
    )
    bench.compare(
        "join", work, "≥ 3 × faster than pandas.merge_asof", _both(runs, OURS, "pandas.merge_asof"),
        _ratio("pandas.merge_asof", OURS), at_least=3, processor=True,
    )  # fmt: skip
    answers = {name: run.said for name, run in runs.items() if "filled" in run.said}
    different = [name for name, said in answers.items() if not _same(said, answers[OURS])] if OURS in answers else []
    bench.verdicts.append(
        Verdict(
            "join", work, "all give the same answer", ", ".join(different) + " differ" if different else
            f"{len(answers)} results with equal rows, cells and sums", None, not different if OURS in answers else None,
        )
    )  # fmt: skip


def _same(said: Mapping[str, float], ours: Mapping[str, float]) -> bool:
    close = abs(said["sum"] - ours["sum"]) <= 1e-6 * max(1.0, ours["filled"])  # the order of summing differs
    return (said["rows"], said["filled"]) == (ours["rows"], ours["filled"]) and close


def memory(bench: Bench) -> None:
    """The join at the largest size: memory beside the limit, time beside the scan."""
    labels, rows = bench.scale.big or (bench.scale.labels, bench.scale.rows)
    work = f"point-in-time join, {_millions(labels)} labels × two groups of {_millions(rows)}"
    big = "big_" if bench.scale.big else ""
    contestants = {
        OURS: ("ours", f"{big}join"), "scan, pyarrow": ("by_hand", f"{big}scan"),
        "scan, Polars": ("by_hand", f"{big}scan_polars"), "DuckDB ASOF": ("by_hand", f"{big}duckdb"),
    }  # fmt: skip
    runs = bench.race("memory", work, contestants, _process, once=list(contestants) if big else ())
    limit = runs[OURS].said.get("limit", "4GB")
    bench.compare(
        "memory", work, f"peak memory below the limit ({limit})", _both(runs, OURS),
        lambda r: r[OURS].peak / (float(limit.removesuffix("GB")) * GIGABYTE), at_most=1,
        show=f"{runs[OURS].peak / GIGABYTE:.2f} GB",
    )  # fmt: skip
    bench.compare(
        "memory", work, "≤ 2.5 × the faster scan", _both(runs, OURS, *SCANS), _beside_scan, at_most=2.5, processor=True
    )


def wide(bench: Bench) -> None:
    """Twenty of 200 columns beside a group of twenty."""
    work = f"wide groups, {_millions(bench.scale.wide_rows)} rows: 200 columns, 20 selected"
    runs = bench.race(
        "wide", work, {OURS: ("ours", "wide"), f"{OURS}, a group of 20 columns": ("ours", "narrow")}, _work
    )
    bench.compare(
        "wide", work, "≤ 1.3 × a group of 20 columns", runs, _ratio(OURS, f"{OURS}, a group of 20 columns"), at_most=1.3
    )


def insert(bench: Bench) -> None:
    """New rows into a short and a long group."""
    scale = bench.scale
    short, long = (f"into {_millions(rows)}" for rows in (scale.batch, scale.rows))
    work = f"insert of {_millions(scale.batch)} new rows"
    contestants = {
        f"{OURS}, {short}": ("ours", "insert_short"), f"write_deltalake, {short}": ("by_hand", "append_short"),
        f"{OURS}, {long}": ("ours", "insert_long"), f"write_deltalake, {long}": ("by_hand", "append_long"),
        f"{OURS}, online too": ("ours", "insert_online"),
    }  # fmt: skip
    runs = bench.race("insert", work, contestants, _work)
    bench.compare(
        "insert", work, f"{long} ≤ 1.3 × {short}", _both(runs, f"{OURS}, {long}", f"{OURS}, {short}"),
        _ratio(f"{OURS}, {long}", f"{OURS}, {short}"), at_most=1.3,
    )  # fmt: skip
    for size in (short, long):
        names = f"{OURS}, {size}", f"write_deltalake, {size}"
        bench.compare("insert", work, f"{size} ≤ 2 × write_deltalake", _both(runs, *names), _ratio(*names), at_most=2)


def upsert(bench: Bench) -> None:
    """One recent day corrected in a long group."""
    scale = bench.scale
    work = f"upsert of {_millions(scale.batch)} rows of one recent day into {_millions(scale.rows)}"
    contestants = {OURS: ("ours", "upsert"), "DeltaTable.merge": ("by_hand", "merge")}
    runs = bench.race(
        "upsert", work, contestants,
        lambda run: f"{_work(run)}, {run.said['rewritten']} of {run.said['files']} files rewritten",
    )  # fmt: skip
    ours = _both(runs, OURS)
    bench.compare(
        "upsert", work, "peak memory < 1 GB", ours, lambda r: r[OURS].peak / GIGABYTE, at_most=1, show="{:.2f} GB"
    )
    bench.compare(
        "upsert", work, "rewrites only that day's files", ours, lambda r: r[OURS].said["of_other_days"], at_most=0,
        show="{:.0f} files of other days",
    )  # fmt: skip


def online(bench: Bench) -> None:
    """A batch into the online store."""
    work = f"online write of {_millions(bench.scale.batch)} rows × 5 features, SQLite"
    contestants = {OURS: ("ours", "online_write"), "sqlite3": ("by_hand", "sqlite_write")}
    contestants[FEAST] = ("with_feast", "online_write")
    runs = bench.race(
        "online", work, contestants,
        lambda run: f"{_work(run)}, {run.said['rows'] / run.work / 1000:.0f} k rows/s", once=[FEAST],
    )  # fmt: skip
    bench.compare(
        "online", work, "≥ 100 k rows/s", _both(runs, OURS), lambda r: r[OURS].said["rows"] / r[OURS].work / 1000,
        at_least=100, show="{:.0f} k rows/s",
    )  # fmt: skip


def vector(bench: Bench) -> None:
    """One vector."""
    work = "one vector of 10 features from two groups, SQLite"
    contestants = {
        OURS: ("ours", "vector"), f"{OURS}, transformed": ("ours", "vector_transformed"),
        "sqlite3, two selects": ("by_hand", "vector"), FEAST: ("with_feast", "vector"),
    }  # fmt: skip
    runs = bench.race("vector", work, contestants, _percentiles, once=[FEAST])
    for name, limit in ((OURS, 60), (f"{OURS}, transformed", 100)):
        kind = "transformed" if name != OURS else "as stored"
        bench.compare(
            "vector", work, f"{kind}: p50 ≤ {limit} µs", _both(runs, name), lambda r, name=name: r[name].said["p50"],
            at_most=limit, show="{:.0f} µs (p99 {p99:.0f} µs)",
        )  # fmt: skip


def vectors(bench: Bench) -> None:
    """A hundred vectors in one call."""
    work = "100 vectors of 10 features from two groups, SQLite"
    contestants = {
        OURS: ("ours", "vectors"), "sqlite3, two selects": ("by_hand", "vectors"), FEAST: ("with_feast", "vectors")
    }  # fmt: skip
    runs = bench.race("vectors", work, contestants, _percentiles, once=[FEAST])
    bench.compare(
        "vectors", work, "p50 ≤ 1 ms", _both(runs, OURS), lambda r: r[OURS].said["p50"] / 1000, at_most=1,
        show="{:.2f} ms",
    )  # fmt: skip


def importing(bench: Bench) -> None:
    """The price of the import line."""
    work = "import featurestore"
    runs = bench.race("import", work, {OURS: ("ours", "importing")}, _work)
    bench.compare("import", work, "≤ 0.4 s", runs, lambda r: r[OURS].work, at_most=0.4, show="{:.2f} s")
    bench.compare(
        "import", work, "imports no prefect, mlflow, great_expectations", runs, lambda r: len(r[OURS].said["heavy"]),
        at_most=0, show="{:.0f} of them",
    )  # fmt: skip


ROWS: dict[str, Callable[[Bench], None]] = {
    "join": join, "wide": wide, "insert": insert, "upsert": upsert, "online": online, "vector": vector,
    "vectors": vectors, "import": importing, "memory": memory,
}  # fmt: skip
