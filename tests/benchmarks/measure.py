"""Measuring one piece of work as a whole process of its own: wall time, processor time, peak memory, what it says.

Only the standard library: a child's peak memory counts from its parent's, so the parent stays small.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.benchmarks.scale import SCALES, Scale

ROOT = Path(__file__).parents[2]
MIB = 2**20


@dataclass(frozen=True)
class Run:
    """One run of a piece, or the best of several.

    Args:
        seconds: of the whole process, from its start to its end.
        peak: bytes of memory at the fullest moment.
        said: what the piece reported; `said["seconds"]` is the work alone, where that is what counts.
        times: of how many runs it is the best.
        failure: why there is nothing to report; None when it ran.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak: int = 0
    said: Mapping[str, Any] = field(default_factory=dict)
    times: int = 1
    failure: str | None = None

    @property
    def work(self) -> float:
        """Seconds of the work alone, or of the whole process where the piece names no others."""
        return self.said.get("seconds", self.seconds)


def whole_process(command: list[str]) -> Run:
    """Run a command from the repository's root; its last line of output is JSON of what it has to say."""
    foreign = ("FEATURESTORE_", "PYTHONDONTWRITEBYTECODE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment |= {"PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "1", "FEAST_USAGE": "False"}
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        begun = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
            return Run(failure=f"exit {process.returncode}: {''.join(last)[:300]}")
        said = json.loads(output.read().splitlines()[-1])
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit, said)


def best(runs: list[Run]) -> Run:
    """The run with the fastest work, with the largest peak any of them had."""
    ran = [run for run in runs if run.failure is None]
    if not ran:
        return runs[-1]
    return replace(min(ran, key=lambda run: run.work), peak=max(run.peak for run in ran), times=len(ran))


def answer(pieces: Mapping[str, Callable[[Scale, Path], Mapping[str, Any]]]) -> None:
    """A child's main: do the piece named on the command line, print what it says as JSON."""
    piece, scale, folder = sys.argv[1:]
    print("\n" + json.dumps(pieces[piece](SCALES[scale], Path(folder))))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that the work took, and its result."""
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def latencies(call: Callable[[int], object], calls: int) -> dict[str, float]:
    """p50 and p99 in microseconds (and p50 as `seconds`) of calls numbered 0, 1, ..., after a tenth to warm up."""
    for number in range(max(calls // 10, 1)):
        call(number)
    taken = []
    for number in range(calls):
        begun = time.perf_counter_ns()
        call(number)
        taken.append(time.perf_counter_ns() - begun)
    taken.sort()
    p50, p99 = taken[calls // 2], taken[calls * 99 // 100]
    return {"p50": p50 / 1e3, "p99": p99 / 1e3, "seconds": p50 / 1e9}
