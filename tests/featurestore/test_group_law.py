"""One feature group against a dictionary: whatever happens to it, in whatever order, both say the same."""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import featurestore
from featurestore import Feature, FeatureGroup, delta
from featurestore.errors import NotReproducible
from featurestore.schema import TIMESTAMP
from featurestore.times import Window

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
CARDS = range(4)
Identity = tuple[int, int]
Model = dict[Identity, float | None]

identities = st.tuples(st.sampled_from(CARDS), st.integers(0, 5))
batches = st.lists(st.tuples(identities, st.none() | st.integers(0, 3).map(float)), min_size=1, max_size=5)
windows = st.none() | st.tuples(st.integers(0, 3), st.integers(1, 2))


def frame(pairs: list[tuple[Identity, float | None]]) -> pa.Table:
    return pa.table({
        "card": pa.array([card for (card, _), _ in pairs], pa.int64()),
        "t": pa.array([T0 + hour * HOUR for (_, hour), _ in pairs], TIMESTAMP),
        "amount": pa.array([amount for _, amount in pairs], pa.float64()),
    })  # fmt: skip


def content(rows: pa.Table) -> Model:
    found = {(r["card"], (r["t"] - T0) // HOUR): r["amount"] for r in rows.to_pylist()}
    assert len(found) == rows.num_rows
    return found


class Clock:
    def __init__(self) -> None:
        self.now = T0 + timedelta(days=365)

    def __call__(self) -> datetime:
        self.now += HOUR
        return self.now


class GroupLaw(RuleBasedStateMachine):
    """G1-G4, G8-G10, G13, G14, V2, V3 together."""

    @initialize()
    def start(self) -> None:
        self.home, self.clock = Path(tempfile.mkdtemp()), Clock()
        self.connect()
        self.group.prepare()
        self.past: list[Model] = [{}]  # by version
        self.times: list[datetime] = []  # of the versions from 1 on
        self.windows: set[Window] = set()
        self.lost: set[int] = set()
        self.pins: dict[int, tuple[int, list[float | None]]] = {}  # training dataset -> version, amounts in order
        self.broken: set[int] = set()
        self.is_online_behind = False

    def connect(self) -> None:
        self.store = featurestore.connect(self.home, clock=self.clock)
        features = [Feature("card", "bigint"), Feature("t", "timestamp"), Feature("amount", "double")]
        self.group: FeatureGroup = self.store.get_or_create_feature_group(
            "cards", 1, primary_key=["card"], event_time="t", features=features, online_enabled=True,
            statistics_config=False,
        )  # fmt: skip
        self.view = self.store.get_or_create_feature_view("view", 1, query=self.group.select(["amount"]))

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.home)

    @property
    def model(self) -> Model:
        return self.past[-1]

    def committed(self, model: Model, commit: Any) -> None:
        assert commit.version == len(self.past)
        self.past.append(model)
        self.times.append(commit.time)
        self.is_online_behind = False

    # What people do to it

    @rule(batch=batches, window=windows)
    def insert(self, batch: list[tuple[Identity, float | None]], window: tuple[int, int] | None) -> None:
        stretch = window and Window(T0 + window[0] * HOUR, T0 + sum(window) * HOUR)
        wanted = dict(batch)
        new = [k for k in wanted if k not in self.model]
        changed = [k for k in wanted if k in self.model and self.model[k] != wanted[k]]
        commit = self.group.insert(frame(batch), window=stretch)
        counts = (commit.rows_inserted, commit.rows_updated, commit.rows_deduplicated)
        assert counts == (len(new), len(changed), len(batch) - len(wanted))
        if new or changed or (stretch and stretch not in self.windows):
            self.committed({**self.model, **wanted}, commit)
        else:
            assert commit.version == len(self.past) - 1
        self.windows |= {stretch} if stretch else set()
        self.is_online_behind = False

    @rule(batch=batches)
    def insert_and_die_before_online(self, batch: list[tuple[Identity, float | None]]) -> None:
        last = dict(batch)
        rows = frame(sorted(last.items(), key=lambda pair: (pair[0][1], pair[0][0]))).cast(self.group.definition.schema)
        written = delta.upsert(
            self.group.location, rows, identity=("card", "t"), order="t", who="me", clock=self.clock
        )  # fmt: skip
        if written.commit.rows_written:
            self.committed({**self.model, **last}, written.commit)
            self.is_online_behind = True

    @rule(batch=batches)
    def overwrite(self, batch: list[tuple[Identity, float | None]]) -> None:
        commit = self.group.insert(frame(batch), overwrite=True)
        if commit.version == len(self.past):
            self.committed(dict(batch), commit)
        assert dict(batch) == self.model
        self.is_online_behind = False

    @rule(keys=st.lists(identities, min_size=1, max_size=3))
    def remove_rows(self, keys: list[Identity]) -> None:
        gone = set(keys) & self.model.keys()
        commit = self.group.remove_rows(frame([(k, None) for k in keys]).select(["card", "t"]))
        assert commit.rows_deleted == len(gone)
        if gone:
            self.committed({k: v for k, v in self.model.items() if k not in gone}, commit)
        self.is_online_behind = False

    @rule()
    def optimize(self) -> None:
        self.group.optimize()
        for commit in self.group.history()[len(self.past) :]:
            assert commit.operation == "optimize"
            self.committed(self.model, commit)
        self.is_online_behind = False

    @rule(hours=st.sampled_from([0, 2, 8]))
    def vacuum(self, hours: int) -> None:
        done = self.group.vacuum(hours * HOUR)
        needed = {len(self.past) - 1} | {version for version, _ in self.pins.values()}
        assert not needed & set(done.versions)
        assert set(done.held) <= {version for version, _ in self.pins.values()}
        self.lost |= set(done.versions)

    @precondition(lambda self: self.model)
    @rule()
    def pin(self) -> None:
        version, _ = self.view.create_training_data()
        self.pins[version] = (len(self.past) - 1, self.amounts(self.model))

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(sorted(self.pins)))
        self.view.delete_training_dataset(version)
        del self.pins[version]

    @rule(card=st.sampled_from(CARDS))
    def forget(self, card: int) -> None:
        held = {v for v, rows in enumerate(self.past) if any(c == card for c, _ in rows)} - self.lost
        report = self.group.forget(pa.table({"card": [card]}))
        broken = {t for t, (version, _) in self.pins.items() if version in held}
        assert report.training_datasets == [f"view v1, training dataset {t}" for t in sorted(broken)]
        self.broken |= broken
        self.pins = {t: pin for t, pin in self.pins.items() if t not in broken}
        if any(c == card for c, _ in self.model):
            self.committed({k: v for k, v in self.model.items() if k[0] != card}, self.group.history()[-1])
        self.lost |= held - {len(self.past) - 1}
        self.is_online_behind = False

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.connect()

    @rule()
    def start_serving(self) -> None:
        self.group.sync_online()
        self.is_online_behind = False

    # What it says then

    @invariant()
    def the_rows_are_the_models(self) -> None:
        assert content(self.group.read(dataframe_type="arrow")) == self.model
        assert len(self.group.history()) == len(self.past)
        assert self.group.watermark == max((w.end for w in self.windows), default=None)

    @invariant()
    def online_has_the_newest_row_of_each_key(self) -> None:
        if not self.is_online_behind:
            for card in CARDS:
                hours = [hour for c, hour in self.model if c == card]
                found = self.group.get_online({"card": card}, ["amount"])
                assert found == ({"amount": self.model[card, max(hours)]} if hours else None)

    @rule(data=st.data())
    def the_past_is_as_it_was_or_said_to_be_gone(self, data: st.DataObject) -> None:
        version = data.draw(st.integers(0, len(self.past) - 1))
        by_time = version > 0 and data.draw(st.booleans())
        moment = self.times[version - 1] + data.draw(st.sampled_from([timedelta(0), HOUR / 2])) if by_time else version
        try:
            assert content(self.group.read(as_of=moment, dataframe_type="arrow")) == self.past[version]
            assert version not in self.lost
        except NotReproducible:
            assert version in self.lost

    @rule(data=st.data())
    def changes_are_the_difference_of_two_versions(self, data: st.DataObject) -> None:
        since, until = sorted(data.draw(st.tuples(*[st.integers(0, len(self.past) - 1)] * 2)))
        old, new = self.past[since], self.past[until]
        try:
            rows = self.group.read_changes(since, until, dataframe_type="arrow")
        except NotReproducible:
            assert {since, until} & self.lost
            return
        kinds = rows["__change"].to_pylist()
        found = {
            k: (kind, v) for (k, v), kind in zip(content(rows.drop_columns("__change")).items(), kinds, strict=True)
        }
        expected: dict[Identity, tuple[str, float | None]] = {k: ("delete", old[k]) for k in old.keys() - new.keys()}
        expected |= {k: ("insert", new[k]) for k in new.keys() - old.keys()}
        expected |= {k: ("update", new[k]) for k in new.keys() & old.keys() if new[k] != old[k]}
        assert found == expected

    @rule()
    def training_datasets_are_the_same_bytes(self) -> None:
        for dataset, (_, amounts) in self.pins.items():
            self.view.verify_training_dataset(dataset)
            assert self.view.get_training_data(dataset, dataframe_type="arrow")[0]["amount"].to_pylist() == amounts
        for dataset in self.broken:
            try:
                self.view.get_training_data(dataset)
                raise AssertionError(f"training dataset {dataset} was made of forgotten rows")
            except NotReproducible:
                pass

    @staticmethod
    def amounts(model: Model) -> list[float | None]:
        return [model[k] for k in sorted(model, key=lambda k: (k[1], k[0]))]


TestGroupLaw = GroupLaw.TestCase
TestGroupLaw.settings = settings(
    max_examples=int(__import__("os").environ.get("LAW", "12")),
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
