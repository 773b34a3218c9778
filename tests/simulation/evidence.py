"""What is left when a replay has ended: rows, windows, versions and events of one system, as plain values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.times import Window
from tests.simulation import ledger
from tests.simulation.worlds import World

if TYPE_CHECKING:
    import pandas as pd
    from prefect.client.orchestration import SyncPrefectClient

    from featurestore import FeatureGroup, FeatureStore
    from flows.settings import Settings


EVER = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Group:
    """A feature group: what names a row, its rows, and the windows that were committed, in the order of the commits."""

    key: tuple[str, ...]
    rows: pd.DataFrame
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True)
class Decided:
    """A decision about a version: when, by simulated time; what ("promoted", "rejected"); in full."""

    at: datetime
    what: str
    text: str


@dataclass(frozen=True)
class Version:
    """A registered version: its model, number, decisions in order, and up to when it has learned."""

    model: str
    number: int
    decisions: tuple[Decided, ...]
    learned_until: datetime


@dataclass(frozen=True)
class Told:
    """An event of ours as Prefect's server keeps it."""

    name: str
    resource: str
    payload: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """All that the laws look at."""

    world: World
    ends: datetime
    calls: tuple[dict[str, Any], ...]
    groups: dict[str, Group]
    versions: tuple[Version, ...]
    told: tuple[Told, ...]
    status: dict[str, Any] = field(default_factory=dict)

    def ended(self, step: str) -> list[dict[str, Any]]:
        """The calls of a step that have ended, oldest first."""
        return [each for each in self.calls if each.get("step") == step and each.get("state") == "ended"]

    def noted(self, what: str) -> list[dict[str, Any]]:
        """What the simulator itself wrote down."""
        return [each for each in self.calls if each["what"] == ledger.NOTE and each["note"] == what]


def gather(world: World, home: Path, ends: datetime, events: list[dict[str, Any]]) -> Evidence:
    """The evidence of a home whose replay has ended."""
    import featurestore
    from flows import registry
    from flows.settings import Settings

    settings = Settings(home=home, source="simulated")
    registry.bootstrap(settings)
    fs = featurestore.connect(home=home / "store")
    return Evidence(
        world, ends, tuple(ledger.read(home / "ledger.jsonl")),
        {group.name: _group(group) for group in groups_of(fs, world.system, shared=True)},
        tuple(_version(each) for name in world.models for each in registry.versions(name)),
        tuple(Told(e["event"], e["resource"]["prefect.resource.id"], e["payload"]) for e in events),
        _status(settings, world.system, ends),
    )  # fmt: skip


def groups_of(fs: FeatureStore, system: str, *, shared: bool = False) -> list[FeatureGroup]:
    """The groups of a system that hold something; with those that all systems share, such as freshness."""
    return [
        group
        for group in fs.get_feature_groups()
        if group.features and (group.tags.get("system") == system or (shared and "system" not in group.tags))
    ]


def state_of(fs: FeatureStore, system: str) -> dict[str, int]:
    """The Delta version of each group of a system."""
    return {group.name: group.delta_version for group in groups_of(fs, system)}


def content(group: FeatureGroup, window: Window, *, as_of: int | None = None) -> str:
    """A hash of the rows of a window: equal for equal rows, whatever files they lie in."""
    import pandas as pd

    rows = group.read(start_time=window.start, end_time=window.end, as_of=as_of)
    return hashlib.sha256(pd.util.hash_pandas_object(rows, index=False).to_numpy().tobytes()).hexdigest()[:16]


def events_of(client: SyncPrefectClient, system: str, since: datetime = EVER) -> list[dict[str, Any]]:
    """Our events about a system's groups and models, oldest first: their names begin with the system's."""
    chosen = {
        "event": {"prefix": ["triptych."]},
        "occurred": {"since": since.isoformat(), "until": "2100-01-01T00:00:00Z"},
    }
    found: list[dict[str, Any]] = []
    answer = client._client.post("/events/filter", json={"filter": chosen, "limit": 50}).json()
    while True:
        found += answer["events"]
        if not (following := answer.get("next_page")):
            break
        answer = client._client.get(following).json()
    about = [event for event in found if event["resource"]["prefect.resource.id"].split(".")[2].startswith(system)]
    return sorted(about, key=lambda event: event["occurred"])


def _status(settings: Settings, system: str, ends: datetime) -> dict[str, Any]:
    """What `triptych status` says at the end of the replay."""
    from deployments.inventory import Home
    from deployments.status import of_system
    from flows import windows

    with windows.frozen(ends):
        return of_system(Home(settings), system)


def _group(group: FeatureGroup) -> Group:
    key = (*group.primary_key, *([group.event_time] if group.event_time else []))
    windows = tuple(commit.window for commit in group.history() if commit.window is not None)
    return Group(tuple(dict.fromkeys(key)), group.read(), windows)


def _version(model: Any) -> Version:
    decisions = []
    for text in model.history:
        when, what, _ = text.split(" ", 2)
        decisions.append(Decided(datetime.fromisoformat(when), what, text))
    return Version(model.name, model.version, tuple(decisions), model.lineage.training_window.end)
