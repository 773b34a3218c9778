"""One system through simulated time: its flows called in their order, as a scheduler would, in a world that misbehaves.

How far time has gone is read from the store and the registry, never remembered: a replay that is killed goes on where
the committed watermarks say.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from prefect import flow

import featurestore
from flows import registry, windows
from flows.freshness import freshness
from flows.settings import Settings
from tests.simulation import disturbances, ledger
from tests.simulation.evidence import content, groups_of, state_of
from tests.simulation.laws import BY_HAND, SHADOW
from tests.simulation.worlds import BEGINS, DAY, HOUR, WORLDS, World, in_a_hurry

if TYPE_CHECKING:
    from featurestore import FeatureStore
    from featurestore.times import Window


@flow(name="simulate", flow_run_name="simulate-{system}")
def simulate(system: str, until: int) -> str:
    """Replay a system's flows up to a simulated day; return the simulated time that was reached."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    # Every flow ends by waiting up to a second for its heartbeat's thread; here there are hundreds of them.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        return Replay(WORLDS[system]).run(until).isoformat()


class Replay:
    """One system's replay in the home of the environment."""

    def __init__(self, world: World) -> None:
        settings = Settings()
        self.world = world
        self.fs: FeatureStore = featurestore.connect(home=settings.store_home)
        self.ledger = ledger.Ledger(settings.home / "ledger.jsonl")
        registry.bootstrap(settings)

    def run(self, until: int) -> datetime:
        """From where the store is to the end of the last tick; then the audit. Returns the simulated time."""
        self.go(until)
        end = self.world.ticks(until)[-1] + HOUR * (self.world.hours[1] - self.world.hours[0])
        # What the source says in the end: with all that was late, corrected and drifting, and nothing broken.
        intact = [each for each in self.world.happens if not each.error]
        with disturbances.happening(self.world.system, intact), windows.frozen(end):
            self.audit()
            self.ledger.write(ledger.NOTE, note="ended", end=end)
        return end

    def go(self, until: int) -> None:
        """The history, and every tick that the store does not have yet."""
        with disturbances.happening(self.world.system, self.world.happens):
            self.backfill()
            for at in self.world.ticks(until):
                if not self.is_done(at):
                    self.tick(at)

    # --- how far time has gone ---

    def is_done(self, at: datetime) -> bool:
        """Whether features and predictions are committed up to a tick."""
        names = [self.world.spine, self.world.predictions[0].group]
        marks = [group.watermark for group in groups_of(self.fs, self.world.system) if group.name in names]
        return len(marks) == len(names) and all(mark is not None and at - mark < HOUR for mark in marks)

    def is_training_due(self, at: datetime) -> bool:
        """Whether the newest decision about a version is so long ago."""
        if not self.world.models:
            return False
        found = registry.versions(self.world.models[0])
        if not found:
            return True
        newest = max(datetime.fromisoformat(each.history[-1].split(" ", 1)[0]) for each in found)
        return at - newest >= self.world.train_every * DAY - HOUR

    # --- what happens ---

    def backfill(self) -> None:
        """The history before the first day, and a first champion: put there by a person where the gate says no."""
        with windows.frozen(BEGINS):
            for window in self.world.history:
                if not self._has(window):
                    self.call("features", start=window.start, end=window.end)
        at = BEGINS + HOUR / 2
        with windows.frozen(at):
            if self.world.models and not registry.versions(self.world.models[0]):
                self.train(at)
            if self.world.needs_champion and not any(map(registry.champion, self.world.models)):
                newest = registry.versions(self.world.models[0])[-1]
                registry.promote(newest, why=f"{BY_HAND}: predictions need a first champion")
                self.ledger.write(ledger.NOTE, note=BY_HAND, model=newest.name, version=newest.version)

    def _has(self, window: Window) -> bool:
        there = [g for g in groups_of(self.fs, self.world.system) if g.name == self.world.spine]
        return any(w.end == window.end for group in there for w in group.windows())

    def tick(self, at: datetime) -> None:
        """One tick: features, freshness, training where it is due, inference, monitoring."""
        inference_at = at + HOUR * (self.world.hours[1] - self.world.hours[0])
        with windows.frozen(at):
            for each in self.world.happens:
                if disturbances.lasts(each.window):
                    self.ledger.write(ledger.WORLD, kind=each.kind, says=each.says)
            self.call("features")
            with self.ledger.call("freshness", {}) as told:
                told["answer"] = freshness()
        with windows.frozen(at + timedelta(minutes=5)):
            if self.is_training_due(at):
                self.train(at)
        with windows.frozen(inference_at):
            self.call("inference")
        with windows.frozen(inference_at + timedelta(minutes=5)):
            self.monitor()
            self.keep(at)

    def train(self, at: datetime) -> None:
        """Train in a hurry; badly where the world says so."""
        spoilt = any(window.start <= at < window.end for window in self.world.spoilt)
        with in_a_hurry(self.world.system, spoilt=spoilt):
            self.call("training", note="spoilt on purpose" if spoilt else "")

    def monitor(self) -> None:
        """The monitor, which measures and tells."""
        from flows.monitoring import monitor

        with self.ledger.call("monitor", {}) as told:
            told["answer"] = _plain(monitor(system=self.world.system))

    def call(self, step: str, note: str = "", **parameters: Any) -> None:
        """Call a flow of the system; whatever it answers goes into the ledger, and time goes on."""
        facts: Mapping[str, Any] = {"versions": lambda: state_of(self.fs, self.world.system)}
        with self.ledger.call(step, facts) as told:
            told["note"] = note
            told["answer"] = _plain(self.world.flow(step)(**parameters))

    # --- what the laws need ---

    def keep(self, at: datetime) -> None:
        """Once, in the middle: what the features of the sample's days are at this version of their tables."""
        if at < self.world.sample.end or any(e.get("note") == "kept" for e in ledger.read(self.ledger.path)):
            return
        for group in self._of_features():
            self.ledger.write(
                ledger.NOTE,
                note="kept",
                group=group.name,
                version=group.delta_version,
                content=content(group, self.world.sample),
            )

    def audit(self) -> None:
        """Compute the sample's days again from the source as it is now, and read again what was kept of the past."""
        before = {group.name: content(group, self.world.sample) for group in self._of_features()}
        written = self.world.flow("features")(start=self.world.sample.start, end=self.world.sample.end)
        after = {group.name: content(group, self.world.sample) for group in self._of_features()}
        self.ledger.write(
            ledger.NOTE,
            note="recomputed",
            window=str(self.world.sample),
            rows_written=written,
            before=before,
            after=after,
        )
        there = {group.name: group for group in self._of_features()}
        for each in ledger.read(self.ledger.path):
            if each.get("note") == "kept":
                again = content(there[each["group"]], self.world.sample, as_of=each["version"])
                self.ledger.write(
                    ledger.NOTE, note="read again", group=each["group"], version=each["version"], content=again
                )

    def _of_features(self) -> list[Any]:
        predictions = {each.group for each in self.world.predictions}
        return [
            group for group in groups_of(self.fs, self.world.system)
            if group.event_time and group.name not in predictions and not group.name.endswith(SHADOW)
        ]  # fmt: skip


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | None) else str(value)
