"""Child processes that are started, watched and stopped as one.

Every process is started with a mark in its environment, which its own children inherit. That is how the
processes that a worker started in sessions of their own are found and stopped too, and how the next start
recognises what an earlier one, killed without warning, has left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

import httpx
import psutil

MARK = "TRIPTYCH_STARTED_BY"
TAIL_LINES = 25


class ProcessError(RuntimeError):
    """A process that could not be started or did not stay up; the message ends with its last log lines."""


class AlreadyRunning(ProcessError):
    """Another `make demo` or `make up` is using the same home."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised like Ctrl-C so that both take the same way out."""


@contextlib.contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the block by an exception, so that its `finally` clauses run.

    Also where SIGINT was ignored, as in anything a script starts with `&`: children would inherit that,
    and a Prefect worker stops by SIGINT only.
    """

    def terminated(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGTERM: signal.signal(signal.SIGTERM, terminated),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _signals_ignored() -> Iterator[None]:
    """A second, impatient Ctrl-C must not leave half of the processes running."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Port:
    """A port of 127.0.0.1 that nobody else here is given while this is held: the server takes seconds to listen on it.

    Two commands that start at once would both find the same port free, and one of them would then talk to the server
    of the other.
    """

    def __init__(self, number: int, lock: IO[str]) -> None:
        self.number = number
        self._lock = lock

    @classmethod
    def reserve(cls, preferred: int) -> Port:
        """The preferred port if it is free, otherwise one of the next ten, otherwise any free one.

        Raises:
            ProcessError: not one port is free.

        >>> first, second = Port.reserve(4200), Port.reserve(4200)
        >>> first.number == second.number
        False
        >>> first.release(), second.release()
        (None, None)
        """
        for wanted in (*range(preferred, min(preferred + 11, 65536)), *[0] * 10):
            if (number := _free(wanted)) is not None:
                lock = (Path(tempfile.gettempdir()) / f"triptych-{os.getuid()}-port-{number}.lock").open("a")
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    lock.close()
                else:
                    return cls(number, lock)
        raise ProcessError("No free port on 127.0.0.1. Close something that listens, then try again.")

    def release(self) -> None:
        """Let others have it."""
        self._lock.close()


def _free(port: int) -> int | None:
    """The port if nobody listens on it; for 0 any free one."""
    with contextlib.closing(socket.socket()) as candidate:
        # As servers do it: a port whose last connection has just been closed counts as free.
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            return int(candidate.getsockname()[1])
    return None


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log file, indented; says so when there are none."""
    text = log.read_text(errors="replace") if log.exists() else ""
    kept = [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]
    return "\n".join(f"    {line}" for line in kept) or "    (its log is empty)"


def marked(mark: str) -> list[psutil.Process]:
    """All living processes that carry the mark, whoever their parent is now; never this one."""
    found = []
    for process in psutil.process_iter():
        # Processes end while we look, and those of other users cannot be looked into.
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def stop_marked(mark: str, *, patience_seconds: float) -> int:
    """Stop every process that carries the mark, by force when asking does not help; return how many there were."""
    stopped: set[psutil.Process] = set()
    for _ in range(5):  # one may have started another while we looked
        if not (found := marked(mark)):
            break
        stopped.update(found)
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.terminate()
        _, stubborn = psutil.wait_procs(found, timeout=patience_seconds)
        for process in stubborn:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(stubborn, timeout=patience_seconds)
    return len(stopped)


def _noted(lock: IO[str]) -> dict[str, str]:
    """What the holder of a lock wrote into it; empty when it ended well, or was killed before it started anything."""
    lock.seek(0)
    try:
        return dict(json.loads(lock.read()))
    except json.JSONDecodeError:
        return {}


class Processes:
    """The processes of one home. Use it as a context manager: leaving it stops all of them.

    Entering takes the home's lock (a second one raises AlreadyRunning) and stops what an earlier run,
    killed without warning, has left; `leftovers` says how many processes that were. Who does not stop when
    asked is killed after `patience_seconds`.
    """

    def __init__(self, home: Path, *, command: str, patience_seconds: float = 10.0) -> None:
        self.home = home
        self.logs = home / "logs"
        self.leftovers = 0
        self._command = command
        self._patience_seconds = patience_seconds
        self._mark = uuid.uuid4().hex
        self._lock: IO[str] | None = None
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._ending: set[str] = set()
        self._ports: list[Port] = []

    def __enter__(self) -> Processes:
        self.logs.mkdir(parents=True, exist_ok=True)
        path = self.home / "running.json"
        lock = path.open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            with lock:
                other = _noted(lock)
            raise AlreadyRunning(
                f"{other.get('command', 'Another command')} (process {other.get('pid', 'unknown')}) is already "
                f"running in {self.home}. Stop it with Ctrl-C, or give this one a home of its own: "
                f"TRIPTYCH_HOME=<folder> {self._command}"
            ) from error
        if before := _noted(lock):
            self.leftovers = stop_marked(before["mark"], patience_seconds=self._patience_seconds)
        lock.truncate(0)
        json.dump({"mark": self._mark, "pid": os.getpid(), "command": self._command}, lock)
        lock.flush()
        self._lock = lock
        return self

    def __exit__(self, *error: object) -> None:
        with _signals_ignored():
            self.stop()
            for port in self._ports:
                port.release()
            assert self._lock is not None
            self._lock.truncate(0)
            self._lock.close()

    def reserve_port(self, preferred: int) -> int:
        """A port for a process to listen on, ours until all of them are stopped: the preferred one if it is free."""
        self._ports.append(port := Port.reserve(preferred))
        return port.number

    def start(
        self, name: str, arguments: Sequence[str], *, environment: Mapping[str, str], folder: Path, ends: bool = False
    ) -> None:
        """Start `python -m <arguments>` in a session of its own, with its output in logs/<name>.log.

        `ends` says that it has one thing to do and then ends by itself; the others stay until they are stopped.
        """
        if ends:
            self._ending.add(name)
        with self.log(name).open("wb") as log:
            self._started[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env={**environment, MARK: self._mark},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the terminal's Ctrl-C comes to us alone; we stop them in order
            )

    def log(self, name: str) -> Path:
        """Where the output of a process goes."""
        return self.logs / f"{name}.log"

    def is_started(self, name: str) -> bool:
        """Whether a process of that name was started and not yet stopped or waited for."""
        return name in self._started

    def check(self) -> None:
        """Raise ProcessError if a process that should stay up has ended, or one that should end has failed."""
        for name, process in self._started.items():
            code = process.poll()
            if code is not None and not (code == 0 and name in self._ending):
                raise self._error(name, f"ended by itself (exit code {code})")

    def finish(self, name: str, *, timeout_seconds: float) -> None:
        """Wait for a process that is meant to end; raise ProcessError when it fails or takes too long."""
        try:
            code = self._started[name].wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise self._error(name, f"was not done after {timeout_seconds:.0f} s") from None
        del self._started[name]
        if code != 0:
            raise self._error(name, f"failed (exit code {code})")

    def wait_until_healthy(self, name: str, url: str, *, timeout_seconds: float) -> None:
        """Wait until the address answers 200; raise ProcessError when its process dies or takes too long."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            self.check()
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(url, timeout=2.0).status_code == httpx.codes.OK:
                    return
            time.sleep(0.1)
        raise self._error(name, f"did not answer at {url} within {timeout_seconds:.0f} s")

    def kill(self, name: str) -> None:
        """Kill a process with all it has started, without asking: what a machine does that loses power."""
        process = self._started.pop(name)
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            for child in family:
                with contextlib.suppress(psutil.Error):
                    child.kill()
        process.wait()

    def stop(self) -> None:
        """Stop all processes, last started first, and then whatever they had started and left."""
        while self._started:
            _, process = self._started.popitem()
            process.terminate()
            try:
                process.wait(self._patience_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        stop_marked(self._mark, patience_seconds=self._patience_seconds)

    def _error(self, name: str, what: str) -> ProcessError:
        log = self.log(name)
        return ProcessError(f"{name} {what}. Its last lines, from {log}:\n{tail(log)}")
