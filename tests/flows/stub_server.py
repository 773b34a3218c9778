"""A server that answers like the live services: real HTTP on 127.0.0.1, with every trouble that a service can give.

`serving(routes)` runs one. A route is a path and a `Reply`, or a function of the query that gives one.
`server.troubles` holds replies that come first, one per request, before the routes are asked again:

    with serving({"/v1/forecast": lambda query: Reply.of_json({...})}) as server:
        server.troubles.append(Reply(429, headers={"Retry-After": "1"}))
        httpx.get(server.url + "/v1/forecast")
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest


@dataclass(frozen=True)
class Reply:
    """An answer. `promised` more bytes are announced than sent: the connection then breaks in the middle."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    promised: int = 0

    @classmethod
    def of_json(cls, data: Any, status: int = 200) -> Reply:
        """JSON in UTF-8, letters as they are (Polish keys)."""
        return cls(status, json.dumps(data, ensure_ascii=False).encode(), {"Content-Type": "application/json"})

    @classmethod
    def of_text(cls, text: str, status: int = 200) -> Reply:
        """Text such as CSV."""
        return cls(status, text.encode(), {"Content-Type": "text/csv"})


Route = Reply | Callable[[Mapping[str, str]], Reply]
Fallback = Callable[[str, Mapping[str, str]], Reply | None]


@dataclass
class StubServer:
    """A running server: its address, what it answers, the troubles that come first, and what it was asked."""

    url: str
    routes: dict[str, Route]
    fallback: Fallback | None = None
    troubles: deque[Reply] = field(default_factory=deque)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    posted: list[bytes] = field(default_factory=list)

    def answer(self, path: str, query: dict[str, str]) -> Reply:
        """The next trouble, else the route's reply, else 404."""
        self.asked.append((path, query))
        if self.troubles:
            return self.troubles.popleft()
        if path in self.routes:
            route = self.routes[path]
            return route if isinstance(route, Reply) else route(query)
        found = self.fallback(path, query) if self.fallback else None
        return found or Reply(404, b"no such file")


@contextmanager
def serving(
    routes: Mapping[str, Route] | None = None,
    fallback: Fallback | None = None,
) -> Iterator[StubServer]:
    """Run a stub until the block ends.

    Args:
        routes: by path.
        fallback: asked for every other path, for families such as `/pal/<day>pal.csv`.
    """
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    stub = StubServer(f"http://127.0.0.1:{http.server_port}", dict(routes or {}), fallback)
    http.stub = stub  # type: ignore[attr-defined]
    http.daemon_threads = True
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer from the stub."""
        parts = urlsplit(self.path)
        self.server.stub.headers.append(dict(self.headers.items()))  # type: ignore[attr-defined]
        reply = self.server.stub.answer(parts.path, dict(parse_qsl(parts.query)))  # type: ignore[attr-defined]
        time.sleep(reply.delay_seconds)
        try:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body) + reply.promised))
            self.end_headers()
            self.wfile.write(reply.body)
        except (BrokenPipeError, ConnectionResetError):  # the client gave up waiting: that is what delays are for
            pass
        if reply.promised:
            self.close_connection = True

    def do_POST(self) -> None:
        """Keep what was sent, and answer as to GET."""
        length = int(self.headers.get("Content-Length", 0))
        self.server.stub.posted.append(self.rfile.read(length))  # type: ignore[attr-defined]
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def sample(name: str) -> bytes:
    """A recorded answer, such as "nyiso/20190701pal.csv"; skips the test where the recordings are not at hand."""
    return (data_folder("api_samples") / "api_samples" / name).read_bytes()


def data_folder(holding: str) -> Path:
    """The folder of real tables and recordings that holds this one; skips the test where it is not at hand.

    It is TRIPTYCH_DATA, or ../shared/data beside the checkout.
    """
    root = Path(__file__).resolve().parents[2]
    told = [Path(os.environ["TRIPTYCH_DATA"])] if os.environ.get("TRIPTYCH_DATA") else []
    for folder in [*told, root.parent / "shared" / "data", root.parents[1] / "shared" / "data"]:
        if (folder / holding).is_dir():
            return folder
    pytest.skip(f"needs real data: set TRIPTYCH_DATA to the folder that holds {holding}/")
