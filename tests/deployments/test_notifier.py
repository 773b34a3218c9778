"""Alerts and failed runs on this machine: none is lost and none told twice, whatever is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from rich.console import Console

from deployments import notifier
from deployments.stack import ROOT
from deployments.up import screen
from flows import events

NOW = datetime.now(UTC)


def event(number: int, name: str = events.STALE, *, age: timedelta = timedelta(0), **labels: str) -> dict[str, Any]:
    return {
        "id": f"id-{number}", "occurred": (NOW - age).isoformat(), "event": name, "payload": {"age_hours": number},
        "related": [], "resource": {"prefect.resource.id": "triptych.feature-group.fraud_cards.1", **labels},
    }  # fmt: skip


class Events:
    """What Prefect's events API does: pages of what it has stored by now, of the names and the time asked for."""

    PAGE = 2

    def __init__(self) -> None:
        self.stored: list[dict[str, Any]] = []
        self.asked = 0

    def page(self, asked: Mapping[str, Any], start: int, url: str) -> dict[str, Any]:
        since = datetime.fromisoformat(asked["filter"]["occurred"]["since"])
        wanted = [
            each for each in self.stored
            if each["event"] in asked["filter"]["event"]["name"] and datetime.fromisoformat(each["occurred"]) >= since
        ]  # fmt: skip
        wanted.sort(key=lambda each: each["occurred"])
        more = start + self.PAGE < len(wanted)
        following = (
            f"{url}/next?start={start + self.PAGE}&asked={urllib.parse.quote(json.dumps(asked))}" if more else None
        )
        return {"events": wanted[start : start + self.PAGE], "total": len(wanted), "next_page": following}


@pytest.fixture
def api() -> Iterator[tuple[str, Events]]:
    held = Events()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            held.asked += 1
            self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))), 0)

        def do_GET(self) -> None:
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
            self.answer(json.loads(query["asked"][0]), int(query["start"][0]))

        def answer(self, asked: Mapping[str, Any], start: int) -> None:
            said = json.dumps(held.page(asked, start, url)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    yield url, held
    server.shutdown()


def told(home: Path) -> list[str]:
    return [line["id"] for line in notifier.read(home)]


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def started(tmp_path: Path, api: tuple[str, Events]) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts the notifier, and ends what a test has left of it."""
    processes: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        told_of = f"from pathlib import Path; notify(Path({str(tmp_path)!r}), {api[0]!r}, look_seconds=0.1)"
        command = [sys.executable, "-c", f"from deployments.notifier import notify; {told_of}"]
        processes.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_none_is_lost_and_none_is_told_twice_over_kills_and_events_out_of_order(
    tmp_path: Path, api: tuple[str, Events], started: Callable[[], subprocess.Popen[bytes]]
) -> None:
    _, held = api
    held.stored = [event(n, age=timedelta(minutes=n)) for n in range(5)]
    process = started()
    until(lambda: len(told(tmp_path)) == 5)
    # Stored later, occurred earlier than what was told; and what nobody is told of.
    held.stored += [event(5, age=timedelta(minutes=10)), event(6, events.COMMITTED)]
    until(lambda: len(told(tmp_path)) == 6)
    process.kill()
    process.wait()
    # While nobody looked: an old one, a new one; and the last line was cut by the kill.
    held.stored += [event(7, age=timedelta(days=3)), event(8, "prefect.flow-run.Crashed")]
    path = tmp_path / notifier.FILE
    path.write_text(path.read_text()[:-20])
    process = started()
    until(lambda: len(told(tmp_path)) == 8)
    before = held.asked
    until(lambda: held.asked > before + 3)
    process.send_signal(signal.SIGTERM)
    process.wait()
    assert sorted(told(tmp_path)) == [f"id-{n}" for n in (0, 1, 2, 3, 4, 5, 7, 8)]


def test_a_line_says_when_what_about_what_and_why() -> None:
    failed = event(1, "prefect.flow-run.Failed", **{
        "prefect.resource.id": "prefect.flow-run.7", "prefect.resource.name": "fraud-features [2026-01-01, 2026-01-02)",
        "prefect.state-message": "Flow run encountered an exception: DataError",
    })  # fmt: skip
    said = notifier.line_of(failed | {"occurred": "2026-01-02T03:04:05+01:00"})
    assert said == (
        "2026-01-02 02:04:05 flow-run Failed: fraud-features [2026-01-01, 2026-01-02) "
        "(message Flow run encountered an exception: DataError)"
    )


def test_a_run_that_failed_before_it_had_a_name_is_told_with_its_flow() -> None:
    failed = event(1, "prefect.flow-run.Failed", **{
        "prefect.resource.id": "prefect.flow-run.7", "prefect.resource.name": "zealous-crane",
    })  # fmt: skip
    flow = {"prefect.resource.role": "flow", "prefect.resource.name": "fraud-features"}
    assert notifier.line_of(failed | {"related": [flow]}).endswith("flow-run Failed: fraud-features zealous-crane")


@pytest.mark.parametrize(
    ("name", "is_told"),
    [
        ("Triptych: the check of freshness is silent", True),
        ("Triptych: tell of runs that fail", False),
        ("mine", False),
    ],
)
def test_of_automations_only_those_that_watch_are_told(name: str, is_told: bool) -> None:
    assert notifier.is_told(event(1, notifier.ALARM, **{"prefect.resource.name": name})) is is_told


def test_screen_shows_the_last_few(tmp_path: Path) -> None:
    kept = notifier.Notifications(tmp_path)
    for number in range(10):
        kept.tell(event(number))
    console = Console(width=200, record=True, file=StringIO())
    console.print(screen(tmp_path, {}, 1))
    shown = console.export_text()
    assert "age_hours 9" in shown
    assert "age_hours 5" not in shown
