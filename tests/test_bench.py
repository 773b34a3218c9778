"""`make bench`: what it measures and how it judges; at its smallest every row, and nothing is said about time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.measure import MIB, Run, best, whole_process
from tests.benchmarks.rows import FEAST, ROWS, Bench

ROOT = Path(__file__).parents[1]


def test_every_row_is_measured_and_the_page_can_be_written(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    command = [sys.executable, "-m", "tests.benchmarks", "--scale", "small", "--no-feast", "--json", "--write-docs"]
    done = subprocess.run(
        [*command, "--docs", str(page), "--folder", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {verdict["row"] for verdict in found["verdicts"]} == set(ROWS)
    failed = [figure for figure in found["figures"] if figure["run"]["failure"] and figure["by"] != FEAST]
    assert failed == []
    [same] = [verdict for verdict in found["verdicts"] if verdict["must"] == "all give the same answer"]
    assert same["reached"], same["measured"]
    text = page.read_text()
    assert [verdict["must"] for verdict in found["verdicts"] if verdict["must"] not in text] == []


def test_a_whole_process_is_measured_with_its_memory_and_with_what_it_says() -> None:
    """From a small process, as the benchmarks do: a child's peak counts from its parent's."""
    work = "rows = bytearray(300 * 2**20); print('chatter'); print('{\"seconds\": 0.5}')"
    measured = (
        "import json, sys; from dataclasses import asdict; from tests.benchmarks.measure import whole_process; "
        "run = whole_process([sys.executable, '-c', sys.argv[1]]); print(json.dumps(asdict(run) | {'work': run.work}))"
    )
    ran = subprocess.run([sys.executable, "-c", measured, work], cwd=ROOT, check=True, capture_output=True, text=True)
    run = json.loads(ran.stdout)
    assert run["failure"] is None
    assert 300 * MIB < run["peak"] < 600 * MIB
    assert run["work"] == 0.5


def test_a_process_that_fails_says_why_and_stops_nobody() -> None:
    run = whole_process([sys.executable, "-c", "raise SystemExit('no such table')"])
    assert run.failure == "exit 1: no such table"


def test_the_best_run_has_the_fastest_work_and_the_largest_peak() -> None:
    runs = [Run(seconds=3.0, peak=1), Run(seconds=2.0, peak=5), Run(failure="out of memory"), Run(seconds=4.0, peak=9)]
    assert best(runs) == Run(seconds=2.0, peak=9, times=3)


def bench(tmp_path: Path) -> Bench:
    return Bench("small", tmp_path, feast=None, without_feast="no registry", tell=lambda _line: None)


@pytest.mark.parametrize(("ours", "reached"), [(1.5, True), (1.6, False)])
def test_a_promise_is_reached_up_to_its_limit(tmp_path: Path, ours: float, reached: bool) -> None:
    judged = bench(tmp_path)
    runs = {"ours": Run(seconds=ours), "theirs": Run(seconds=1.0)}
    judged.compare("join", "a join", "≤ 1.5 ×", runs, lambda r: r["ours"].work / r["theirs"].work, at_most=1.5)
    [verdict] = judged.verdicts
    assert (verdict.reached, verdict.measured) == (reached, f"{ours:.2f} ×")


def test_without_feast_its_promise_is_told_as_not_measured(tmp_path: Path) -> None:
    judged = bench(tmp_path)
    runs = judged.race("join", "a join", {FEAST: ("with_feast", "join")}, show=lambda run: f"{run.seconds:.2f} s")
    judged.compare("join", "a join", "≥ 20 ×", runs, lambda r: r[FEAST].work, at_least=20)
    [verdict] = judged.verdicts
    assert (verdict.reached, verdict.measured) == (None, f"not measured ({FEAST}: no registry)")
    assert judged.figures[0].shown == "no registry"


def test_a_ratio_can_be_told_by_processor_time_as_well(tmp_path: Path) -> None:
    judged = bench(tmp_path)
    runs = {"ours": Run(seconds=9.0, cpu_seconds=1.0), "theirs": Run(seconds=1.0, cpu_seconds=2.0)}
    judged.compare(
        "join", "a join", "≤ 1.5 ×", runs, lambda r: r["ours"].work / r["theirs"].work, at_most=1.5, processor=True
    )
    [verdict] = judged.verdicts
    assert (verdict.reached, verdict.measured) == (False, "9.00 × (0.50 × by processor time)")
