"""What is started is watched, and stopped whatever happens: real processes, real signals."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deployments.processes import (
    MARK,
    AlreadyRunning,
    Port,
    ProcessError,
    Processes,
    signals_as_exceptions,
    stop_marked,
)
from deployments.stack import ROOT

# A server as stubborn as they come: deaf to SIGTERM, with a child in a session of its own, as a worker's flow runs are.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[1:] != ["child"]:
    subprocess.Popen([sys.executable, "-m", "stubborn", "child"], start_new_session=True)
print("ready", *sys.argv[1:], flush=True)
time.sleep(60)
"""

# What make demo does, without Prefect: start something, wait, and leave by whatever comes.
SUPERVISOR = """
import os, sys, time
from pathlib import Path
from deployments.processes import Processes, signals_as_exceptions
home = Path(sys.argv[1])
with signals_as_exceptions(), Processes(home, command="make demo", patience_seconds=0.3) as processes:
    processes.start("server", ["stubborn"], environment=os.environ, folder=home)
    while processes.log("server").read_text().count("ready") < 2:
        time.sleep(0.05)
    print("waiting", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home with the module to start; nothing started for it outlives the test."""
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    (tmp_path / "dies.py").write_text("print('opening the database', flush=True); raise SystemExit('disk full')")
    (tmp_path / "ends.py").write_text("print('done')")
    yield tmp_path
    for process in started_for(tmp_path):
        process.kill()


def started_for(home: Path) -> list[psutil.Process]:
    """Living processes that were started in this home, found without the code under test."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if MARK in process.environ() and process.cwd() == str(home):
                found.append(process)
    return found


@contextlib.contextmanager
def supervisor(home: Path, **how: object) -> Iterator[subprocess.Popen[str]]:
    """A process that has started the stubborn server and its child, and waits."""
    command = [sys.executable, "-c", SUPERVISOR, str(home)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **how) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline() == "waiting\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_after_a_signal(home: Path, number: signal.Signals) -> None:
    with supervisor(home) as process:
        assert len(started_for(home)) == 2
        process.send_signal(number)
        process.wait(30)
    assert started_for(home) == []


def test_sigint_works_also_where_a_script_had_switched_it_off(home: Path) -> None:
    """`make demo &` in a script starts with SIGINT ignored, and so would everything it starts."""
    ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    with supervisor(home, **ignoring) as process:
        for child in started_for(home):
            assert "SIGINT" not in ignored_signals(child.pid)
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert started_for(home) == []


def ignored_signals(pid: int) -> set[str]:
    mask = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn"))
    bits = int(mask.split()[1], 16)
    return {number.name for number in signal.Signals if bits >> (number - 1) & 1}


def test_next_start_stops_what_a_killed_one_left(home: Path) -> None:
    with supervisor(home) as process:
        process.kill()
        process.wait()
        assert len(started_for(home)) == 2
    with Processes(home, command="make demo", patience_seconds=0.3) as processes:
        assert processes.leftovers == 2
        assert started_for(home) == []


def test_a_killed_process_takes_what_it_had_started_along_and_is_not_missed(home: Path) -> None:
    with Processes(home, command="make simulate", patience_seconds=0.3) as processes:
        processes.start("worker", ["stubborn"], environment=os.environ, folder=home)
        while processes.log("worker").read_text().count("ready") < 2:
            time.sleep(0.05)
        processes.kill("worker")
        psutil.wait_procs(started_for(home), timeout=10)
        assert started_for(home) == []
        processes.check()


def test_second_start_in_the_same_home_is_refused_and_told_what_to_do(home: Path) -> None:
    with Processes(home, command="make up"), pytest.raises(AlreadyRunning) as refused:
        Processes(home, command="make demo").__enter__()
    message = str(refused.value)
    assert f"make up (process {os.getpid()}) is already running in {home}" in message
    assert "Ctrl-C" in message
    assert "TRIPTYCH_HOME=<folder> make demo" in message
    with Processes(home, command="make demo") as later:
        assert later.leftovers == 0


def test_server_that_dies_is_named_with_its_exit_code_and_last_words(home: Path) -> None:
    with Processes(home, command="make demo") as processes:
        processes.start("server", ["dies"], environment=os.environ, folder=home)
        with pytest.raises(ProcessError) as died:
            processes.wait_until_healthy("server", "http://127.0.0.1:9/health", timeout_seconds=30)
    assert str(died.value) == (
        f"server ended by itself (exit code 1). Its last lines, from {home}/logs/server.log:\n"
        "    opening the database\n"
        "    disk full"
    )


def test_server_that_never_answers_is_given_up_and_its_log_shown(home: Path) -> None:
    with Processes(home, command="make demo", patience_seconds=0.3) as processes:
        processes.start("server", ["stubborn", "child"], environment=os.environ, folder=home)
        with pytest.raises(ProcessError, match=r"server did not answer at http://127.0.0.1:9/health within 1 s"):
            processes.wait_until_healthy("server", "http://127.0.0.1:9/health", timeout_seconds=1)


def test_command_that_should_end_may_end_but_not_fail(home: Path) -> None:
    with Processes(home, command="make demo") as processes:
        processes.start("good", ["ends"], environment=os.environ, folder=home, ends=True)
        processes.finish("good", timeout_seconds=10)
        processes.start("bad", ["dies"], environment=os.environ, folder=home, ends=True)
        with pytest.raises(ProcessError, match=r"(?s)bad failed \(exit code 1\).*disk full"):
            processes.finish("bad", timeout_seconds=10)


def test_port_that_is_taken_or_promised_to_another_is_not_reserved() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        other = Port.reserve(number)
        assert other.number != number
    first = Port.reserve(number)
    assert first.number == number
    second = Port.reserve(number)  # nobody listens there yet
    assert second.number != number
    first.release()
    again = Port.reserve(number)
    assert again.number == number
    for port in (other, second, again):
        port.release()


def test_two_homes_are_given_two_ports_before_anything_listens(tmp_path: Path) -> None:
    with Processes(tmp_path / "a", command="a") as one, Processes(tmp_path / "b", command="b") as two:
        number = one.reserve_port(0)
        assert two.reserve_port(number) != number
    with Processes(tmp_path / "c", command="c") as three:
        assert three.reserve_port(number) == number


def test_signals_are_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with signals_as_exceptions():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_mark_nobody_carries_stops_nobody() -> None:
    assert stop_marked("no such mark", patience_seconds=1) == 0
