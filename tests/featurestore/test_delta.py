"""The Delta table under a feature group: what a commit rewrites, races and crashes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from featurestore import Feature, connect, delta, delta_history, delta_table
from featurestore.engines.sql import COMMITTED_AT
from featurestore.errors import Conflict, FeatureStoreError, InvalidTime, NotFound, NotReproducible
from featurestore.schema import TIMESTAMP
from featurestore.snapshots import Commit
from featurestore.times import Window

ROOT = Path(__file__).parents[2]
T0 = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SCHEMA = pa.schema([
    pa.field("card", pa.int64(), nullable=False), pa.field("t", TIMESTAMP, nullable=False),
    pa.field("amount", pa.float64()),
])  # fmt: skip


def rows(*triples: tuple[int, float, float]) -> pa.Table:
    """Rows of (card, days after T0, amount)."""
    cards, days, amounts = zip(*triples, strict=True) if triples else ((), (), ())
    return pa.table(
        [
            pa.array(cards, pa.int64()),
            pa.array([T0 + d * DAY for d in days], TIMESTAMP),
            pa.array(amounts, pa.float64()),
        ],
        schema=SCHEMA,
    )


class Clock:
    """A clock that ticks one minute each time it is read."""

    def __init__(self) -> None:
        self.now = T0 + 365 * DAY

    def __call__(self) -> datetime:
        self.now += timedelta(minutes=1)
        return self.now


@pytest.fixture
def table(tmp_path: Path) -> str:
    location = str(tmp_path / "lake" / "cards_1")
    delta.create(location, SCHEMA, name="cards_1")
    return location


@pytest.fixture
def clock() -> Clock:
    return Clock()


def upsert(location: str, clock: Clock, *triples: tuple[int, float, float], window: Window | None = None) -> Commit:
    return delta.upsert(
        location, rows(*triples), identity=("card", "t"), order="t", who="me", window=window, clock=clock
    ).commit


def files(location: str) -> set[str]:
    return {f.path for f in delta_table.snapshot(location, "t").files}


def content(location: str, version: int | None = None) -> list[tuple[int, float, float]]:
    read = DeltaTable(location, version=version).to_pyarrow_table().to_pylist()
    return sorted((r["card"], (r["t"] - T0) / DAY, r["amount"]) for r in read)


def test_g11_an_append_newer_than_everything_adds_files_only(table, clock):
    """G11: no file goes."""
    upsert(table, clock, (1, 0, 1.0), (1, 1, 2.0))
    before = files(table)
    upsert(table, clock, (1, 2, 3.0))
    assert before < files(table)
    assert content(table) == [(1, 0, 1.0), (1, 1, 2.0), (1, 2, 3.0)]


def test_g11_an_append_newer_than_everything_reads_no_stored_file(table, clock):
    """G11: so it costs what the batch costs, whatever the table's size; the files are not even there any more."""
    upsert(table, clock, (1, 0, 1.0), (1, 1, 2.0))
    for path in files(table):
        Path(path).unlink()
    assert upsert(table, clock, (1, 2, 3.0)).rows_inserted == 1
    with pytest.raises(NotReproducible):
        upsert(table, clock, (1, 1, 3.0))


def test_g11_a_late_batch_rewrites_only_the_files_whose_time_range_it_touches(table, clock):
    """G11: of four days one."""
    for day in range(4):
        upsert(table, clock, (1, day, 0.0), (1, day + 0.5, 0.0))
    by_day = {f.low: f.path for f in delta_table.snapshot(table, "t").files}
    late = upsert(table, clock, (1, 1, 9.0), (1, 1.25, 9.0))
    assert (late.rows_inserted, late.rows_updated, late.rows_unchanged) == (1, 1, 0)
    after = files(table)
    assert {day for day, path in by_day.items() if path not in after} == {T0 + DAY}
    assert [c for c in content(table) if c[2] == 9.0] == [(1, 1.0, 9.0), (1, 1.25, 9.0)]
    assert len(content(table)) == 9


def test_g11_a_late_batch_of_new_rows_rewrites_nothing(table, clock):
    """G11: there is nothing to replace."""
    upsert(table, clock, (1, 0, 0.0), (1, 2, 0.0))
    before = files(table)
    assert upsert(table, clock, (1, 1, 0.0)).rows_inserted == 1
    assert before < files(table)


def test_g11_a_removal_rewrites_only_the_files_that_held_the_rows(table, clock):
    for day in range(3):
        upsert(table, clock, (1, day, 0.0), (2, day, 0.0))
    by_day = {f.low: f.path for f in delta_table.snapshot(table, "t").files}
    gone = delta.delete(table, rows((1, 1, 0.0)).select(["card", "t"]), order="t", who="me", clock=clock)
    assert gone.rows_deleted == 1
    assert {day for day, path in by_day.items() if path not in files(table)} == {T0 + DAY}
    assert (1, 1.0, 0.0) not in content(table)
    assert len(content(table)) == 5


def test_g3_the_same_rows_again_make_no_version(table, clock):
    first = upsert(table, clock, (1, 0, 1.0))
    again = upsert(table, clock, (1, 0, 1.0))
    assert (again.version, again.rows_written, again.rows_unchanged) == (first.version, 0, 1)


def test_g17_any_delta_reader_sees_the_truth_with_not_null_keys(table, clock):
    upsert(table, clock, (1, 0, 1.0))
    upsert(table, clock, (1, 0, 2.0))
    assert content(table) == [(1, 0.0, 2.0)]
    assert [f.name for f in DeltaTable(table).schema().fields if not f.nullable] == ["card", "t", COMMITTED_AT]


def test_g9_the_window_is_in_the_commit_and_the_watermark_never_falls(table, clock):
    """G9: with rows or without."""
    first, late = Window(T0 + DAY, T0 + 2 * DAY), Window(T0, T0 + DAY)
    assert delta_table.watermark(table) is None
    upsert(table, clock, (1, 1, 1.0), window=first)
    upsert(table, clock, (1, 0, 1.0), window=late)
    upsert(table, clock, (1, 3, 1.0))
    assert delta_table.watermark(table) == first.end
    assert [c.window for c in delta_history.commits(table)[1:]] == [first, late, None]


def test_g9_an_empty_batch_with_a_new_window_is_a_commit_once(table, clock):
    window = Window(T0, T0 + DAY)
    first = upsert(table, clock, window=window)
    assert (first.version, first.rows_written, delta_table.watermark(table)) == (1, 0, window.end)
    assert upsert(table, clock, window=window).version == 1


def test_g13_history_tells_what_each_commit_did(table, clock):
    upsert(table, clock, (1, 0, 1.0), (2, 0, 1.0))
    upsert(table, clock, (1, 0, 2.0), (3, 0, 1.0))
    delta.delete(table, rows((2, 0, 0.0)).select(["card", "t"]), order="t", who="me", clock=clock)
    told = delta_history.commits(table)[1:]
    assert [(c.version, c.operation, c.rows_inserted, c.rows_updated, c.rows_deleted, c.who) for c in told] == [
        (1, "upsert", 2, 0, 0, "me"), (2, "upsert", 1, 1, 0, "me"), (3, "delete", 0, 0, 1, "me"),
    ]  # fmt: skip
    assert [c.time for c in told] == [T0 + 365 * DAY + timedelta(minutes=m) for m in (1, 2, 3)]


def test_g13_a_time_means_the_version_that_was_current_then(table, clock):
    first, second = upsert(table, clock, (1, 0, 1.0)), upsert(table, clock, (1, 0, 2.0))
    assert delta_history.version_at(table, first.time) == 1
    assert delta_history.version_at(table, second.time - timedelta(microseconds=1)) == 1
    assert delta_history.version_at(table, second.time) == 2
    assert delta_history.version_at(table, 1) == 1
    with pytest.raises(InvalidTime, match="its first commit is of"):
        delta_history.version_at(table, datetime(2000, 1, 1, tzinfo=UTC))
    with pytest.raises(NotFound, match="versions: 0 to 2"):
        delta_history.version_at(table, 3)


def test_g10_a_write_that_fails_leaves_the_old_version(table, clock):
    """G10: and no file of its own."""
    upsert(table, clock, (1, 0, 1.0))
    with pytest.raises(FeatureStoreError, match="other"):
        delta.upsert(
            table,
            rows((1, 0, 2.0)).drop(["amount"]).append_column("other", pa.array([1.0])),
            identity=("card", "t"),
            order="t",
            who="me",
            clock=clock,
        )
    assert content(table) == [(1, 0.0, 1.0)]
    assert delta_table.snapshot(table, "t").version == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("no room for the checkpoint"), RuntimeError("odd")])
@pytest.mark.parametrize("after", [True, False])
def test_g10_what_goes_wrong_after_the_commit_takes_no_file_away(table, clock, monkeypatch, error, after):
    """G10: an interrupt or a failed checkpoint right behind the commit; the same before it leaves nothing behind."""
    upsert(table, clock, (1, 0, 1.0))
    commit = DeltaTable.create_write_transaction

    def broken(*arguments: object, **options: object) -> None:
        if after:
            commit(*arguments, **options)
        raise error

    with monkeypatch.context() as third_party:
        third_party.setattr(DeltaTable, "create_write_transaction", broken)
        try:
            upsert(table, clock, (1, 0, 2.0), (2, 0, 2.0))
        except (KeyboardInterrupt, FeatureStoreError):
            assert not after or error is KeyboardInterrupt
        else:
            assert after
    assert content(table) == ([(1, 0.0, 2.0), (2, 0.0, 2.0)] if after else [(1, 0.0, 1.0)])
    live = files(table)
    assert {str(path) for path in Path(table).glob("*.parquet")} >= live
    assert len(list(Path(table).glob("*.parquet"))) == (2 if after else 1)


def test_c3_a_writer_that_always_loses_gets_a_conflict_and_writes_nothing(table, clock, monkeypatch):
    """C3: after bounded retries; its files are gone again."""
    monkeypatch.setattr(delta, "_ATTEMPTS", 2)
    rounds = []

    def faster() -> datetime:
        """The clock is read between opening the table and committing: here another writer commits meanwhile."""
        rounds.append(1)
        upsert(table, clock, (2, len(rounds), 1.0))
        return clock()

    with pytest.raises(Conflict, match="2 times in a row"):
        delta.upsert(table, rows((1, 0, 1.0)), identity=("card", "t"), order="t", who="me", clock=faster)
    assert content(table) == [(2, 1.0, 1.0), (2, 2.0, 1.0)]
    assert {str(path) for path in Path(table).glob("*.parquet")} == files(table)


def test_c3_a_loser_of_a_race_computes_again_from_the_newer_version(table, clock):
    rounds = []

    def once_slower() -> datetime:
        rounds.append(1)
        if len(rounds) == 1:
            upsert(table, clock, (1, 0, 5.0))
        return clock()

    commit = delta.upsert(
        table, rows((1, 0, 7.0)), identity=("card", "t"), order="t", who="me", clock=once_slower
    ).commit
    assert (commit.version, commit.rows_inserted, commit.rows_updated) == (2, 0, 1)
    assert content(table) == [(1, 0.0, 7.0)]


def test_a_table_with_rows_that_the_catalog_does_not_know_is_left_alone(table, clock):
    upsert(table, clock, (1, 0, 1.0))
    with pytest.raises(Conflict, match="does not know"):
        delta.create(table, SCHEMA, name="cards_1", owner="another group")
    assert content(table) == [(1, 0.0, 1.0)]


def test_no_table_is_not_found_with_its_place(tmp_path):
    with pytest.raises(NotFound, match="nowhere"):
        delta_table.snapshot(str(tmp_path / "nowhere"), "t")


def test_a_data_file_that_is_gone_is_said_as_not_reproducible(tmp_path):
    group = cards_in(connect(tmp_path))
    group.insert(rows((1, 0, 1.0)))
    for file in group.snapshot().files:
        Path(file.path).unlink()
    with pytest.raises(NotReproducible, match="data file"):
        group.read()


# Races and crashes between processes

CARDS = [Feature("card", "bigint"), Feature("t", "timestamp"), Feature("amount", "double")]


def cards_in(store):
    return store.get_or_create_feature_group(
        "cards", 1, primary_key=["card"], event_time="t", features=CARDS, online_enabled=True, statistics_config=False
    )


WORKER = """
import sys
from datetime import timedelta
import pyarrow as pa
import featurestore
from featurestore import Feature
from featurestore.schema import TIMESTAMP
from featurestore.times import parse_time

home, me, size, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
group = featurestore.connect(home).get_feature_group("cards", 1)
t0 = parse_time("2026-01-01")


def batch(round_):
    own = [(1000 * (me + 1) + round_ * size + i, t0 + timedelta(days=round_)) for i in range(size)]
    shared = [(i, t0) for i in range(size)]
    cards, times = zip(*own, *shared)
    amounts = pa.array([float(round_)] * 2 * size)
    return pa.table({"card": pa.array(cards), "t": pa.array(times, TIMESTAMP), "amount": amounts})


print("ready", flush=True)
sys.stdin.readline()
for round_ in range(1, rounds + 1):
    group.insert(batch(round_))
    print(round_, flush=True)
"""


def start(home: Path, me: int, size: int, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(home), str(me), str(size), str(rounds)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def go(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()


def newest(group) -> dict[int, float]:
    return {r["card"]: r["amount"] for r in group.read(dataframe_type="arrow").to_pylist()}


def online(group, cards) -> dict[int, float | None]:
    found = {c: group.get_online({"card": c}, ["amount"]) for c in cards}
    return {c: None if row is None else row["amount"] for c, row in found.items()}


def test_c3_two_processes_lose_nothing_and_online_equals_offline(tmp_path):
    """C3, G2: two writers of overlapping and disjoint rows at once."""
    group = cards_in(connect(tmp_path))
    writers = [start(tmp_path, me, 3, 6) for me in (0, 1)]
    try:
        go(*writers)
        assert [w.wait(timeout=40) for w in writers] == [0, 0]
    finally:
        for w in writers:
            w.kill()
            w.communicate()
    stored = newest(group)
    own = {1000 * (me + 1) + round_ * 3 + i: float(round_) for me in (0, 1) for round_ in range(1, 7) for i in range(3)}
    assert {c: a for c, a in stored.items() if c >= 1000} == own
    assert group.read().shape == (39, 3)
    assert {stored[i] for i in range(3)} == {6.0}
    assert online(group, stored) == stored
    versions = [c.version for c in group.history()]
    assert versions == list(range(len(versions)))


@pytest.mark.parametrize("after", [1, 3])
def test_g10_kill_nine_leaves_the_old_or_the_new_version_and_online_catches_up(tmp_path, after):
    """G10: a writer killed in the middle of an insert, at an arbitrary moment."""
    group = cards_in(connect(tmp_path))
    writer = start(tmp_path, 0, 40, 10_000)
    try:
        go(writer)
        while writer.stdout.readline() != f"{after}\n":
            assert writer.poll() is None
        time.sleep(0.013 * after)
    finally:
        writer.send_signal(signal.SIGKILL)
        acknowledged = [after, *map(int, writer.communicate()[0].split())][-1]
    stored = newest(group)
    last = max(stored.values())
    assert last in (acknowledged, acknowledged + 1)
    assert [stored[i] for i in range(40)] == [last] * 40
    assert len(stored) == 40 + 40 * last
    if after == 1:
        group.sync_online()
        assert online(group, stored) == stored
    else:
        group.insert(rows((7_000_000, 0, 1.0)))
        assert online(group, [*stored, 7_000_000]) == stored | {7_000_000: 1.0}


def test_g10_online_catches_up_even_when_the_next_insert_has_nothing_new(tmp_path, monkeypatch):
    """G10: the writer of version 1 died between Delta and the online store; the next insert repeats one of its rows."""
    store = connect(tmp_path)
    group = cards_in(store)

    def die(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    for number in (1, 2):
        with monkeypatch.context() as crash:
            crash.setattr(store.online, "upsert", die)
            with pytest.raises(KeyboardInterrupt):
                group.insert(rows((10 * number, 0, 1.0), (10 * number + 1, 0, 2.0)))
        group.insert(rows((10 * number, 0, 1.0)))
        assert group.delta_version == number
        assert online(group, [10 * number, 10 * number + 1]) == {10 * number: 1.0, 10 * number + 1: 2.0}


def test_commits_of_a_stopped_clock_still_have_times_that_rise_and_statistics_of_their_own(tmp_path: Path) -> None:
    """G16: a commit's rows are found by its time, so no two commits share one."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    fs = connect(tmp_path, clock=lambda: moment)
    group = fs.get_or_create_feature_group("amounts", 1, primary_key=["id"])
    commits = [group.insert(pa.table({"id": [i], "amount": [float(i)]})) for i in (1, 2, 3)]
    assert [c.time for c in commits] == sorted({c.time for c in commits})
    assert [group.get_statistics(c)["amount"]["mean"] for c in commits] == [1.0, 2.0, 3.0]
