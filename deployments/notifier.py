"""Tells alerts and failed runs on this machine: a line in `<home>/notifications.jsonl`, and one to read on the screen.

A process of `make up`. The file is all it remembers: what stands in it has been told, by the event's id, so nothing is
told twice, over restarts and kills too. It asks the server again and again for the events of the last minutes, because
they are stored some seconds after they occurred and in any order, and when it starts and every half hour for all that
the server still has. So nothing is lost that the server knows.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from deployments import automations
from flows import events
from flows.settings import Settings

FILE = "notifications.jsonl"
LOOK_SECONDS = 5.0
LATE = timedelta(minutes=15)
"""Events are looked for so long after they occurred at every look; still later ones by the look at all of them."""

ALL_EVERY = timedelta(minutes=30)

ALARM = "prefect.automation.triggered"


class Notifications:
    """The file of notifications: what was told, oldest first. One process writes it, any number may read.

    >>> import tempfile
    >>> told = Notifications(Path(tempfile.mkdtemp()))
    >>> event = {"id": "1", "occurred": "2026-01-01T00:00:00Z", "event": events.STALE, "payload": {"age_hours": 5},
    ...          "related": [], "resource": {"prefect.resource.id": "triptych.feature-group.fraud_cards.1"}}
    >>> told.tell(event), told.tell(event)
    ('2026-01-01 00:00:00 freshness violated: feature-group fraud_cards.1 (age_hours 5)', None)
    """

    def __init__(self, home: Path) -> None:
        self.path = home / FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._mend()
        self._told = {line["id"] for line in read(home)}

    def tell(self, event: Mapping[str, Any]) -> str | None:
        """Write the event down and return it as a line to read; None when it was told before."""
        if event["id"] in self._told:
            return None
        text = line_of(event)
        kept = {name: event[name] for name in ("id", "occurred", "event")}
        kept |= {"resource": event["resource"]["prefect.resource.id"], "text": text, "payload": event["payload"]}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(kept) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._told.add(event["id"])
        return text

    def _mend(self) -> None:
        """Cut off the end of a line whose writing was interrupted; its event is told again, whole."""
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self.path.open("r+b") as file:
                file.truncate(whole)


def read(home: Path, last: int | None = None) -> list[dict[str, Any]]:
    """What was told, oldest first: all of it, or the last few.

    >>> read(Path("/nowhere"))
    []
    """
    path = home / FILE
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in (lines if last is None else lines[-last:])]


def line_of(event: Mapping[str, Any]) -> str:
    """An event as people read it: when, what, about what, and the facts."""
    resource = event["resource"]
    when = datetime.fromisoformat(event["occurred"]).astimezone(UTC)
    what = event["event"].removeprefix("triptych.").removeprefix("prefect.").replace(".", " ").replace("_", " ")
    kind, _, name = resource["prefect.resource.id"].removeprefix("triptych.").removeprefix("prefect.").partition(".")
    facts = {**event["payload"]} if event["event"] in events.ALERTS else {}
    if message := resource.get("prefect.state-message"):
        facts = {"message": message}
    about = resource.get("prefect.resource.name") or f"{kind} {name}"
    if kind == "flow-run":  # a run that failed before it knew its window has a name that says nothing
        flows = [each["prefect.resource.name"] for each in event["related"] if each["prefect.resource.role"] == "flow"]
        about = " ".join([*(flow for flow in flows if flow not in about), about])
    said = ", ".join(f"{key} {value}" for key, value in facts.items() if value is not None)
    return " ".join(f"{when:%Y-%m-%d %H:%M:%S} {what}: {about}{f' ({said})' if said else ''}".split())


def is_told(event: Mapping[str, Any]) -> bool:
    """Whether an event is one that people are told of: of automations only those that are ours and watch."""
    name = str(event["resource"].get("prefect.resource.name", ""))
    return event["event"] != ALARM or (name.startswith("Triptych:") and "silent" in name)


def look(client: httpx.Client, since: datetime | None) -> Iterator[dict[str, Any]]:
    """The events that people are told of, as the server has them, oldest first as far as that goes.

    Args:
        since: only those that occurred after it; None means all.
    """
    wanted = [*events.ALERTS, *automations.FAILURES, ALARM]
    occurred = {"since": (since or datetime(2020, 1, 1, tzinfo=UTC)).isoformat()}
    body = {"filter": {"event": {"name": wanted}, "occurred": occurred, "order": "ASC"}, "limit": 50}
    answer = client.post("/events/filter", json=body)
    while True:
        page = answer.raise_for_status().json()
        yield from (event for event in page["events"] if is_told(event))
        if not page["next_page"]:
            return
        answer = client.get(page["next_page"])


def notify(home: Path, api: str, *, look_seconds: float = LOOK_SECONDS) -> None:
    """Tell what is new, for ever."""
    told = Notifications(home)
    seen_all = datetime.min.replace(tzinfo=UTC)
    with httpx.Client(base_url=api, timeout=30.0) as client:
        while True:
            now = datetime.now(UTC)
            everything = now - seen_all > ALL_EVERY
            # A server that does not answer is `make up`'s to notice; its events are still there later.
            with contextlib.suppress(httpx.HTTPError):
                for event in look(client, None if everything else now - LATE):
                    if line := told.tell(event):
                        print(line, flush=True)
                seen_all = now if everything else seen_all
            time.sleep(look_seconds)


if __name__ == "__main__":
    notify(Settings().home, os.environ["PREFECT_API_URL"])
