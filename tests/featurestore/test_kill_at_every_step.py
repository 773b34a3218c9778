"""G10: killed between any two steps of an insert, a process leaves the old version or the new one in a working store.

One process imports everything and forks a child for each step. A child counts the steps of the functions that change
something on disk, before and after each of their calls, and kills itself (SIGKILL) at its own number.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

import featurestore
from featurestore import Feature, FeatureGroup
from featurestore.errors import NotFound
from featurestore.schema import TIMESTAMP

ROOT = Path(__file__).parents[2]
CARDS = [Feature("card", "bigint"), Feature("t", "timestamp"), Feature("amount", "double")]
MOST_STEPS = 60

FORKER = """
import os, shutil, signal, sys
from pathlib import Path
import deltalake, duckdb, pyarrow as pa, pyarrow.compute, pyarrow.parquet as pq, sqlalchemy, sqlite3
import featurestore
from featurestore import catalog, catch_up, data_files, delta, feature_group, forget, inserting, online
from featurestore.engines import as_of, staging

base, target, scenario, most = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
inserting.ROWS_AT_ONCE = 2 if scenario == "stream" else 1 << 20
left = 0


def step():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def watch(owner, name):
    function = getattr(owner, name)

    def watched(*arguments, **options):
        step()
        result = function(*arguments, **options)
        step()
        return result

    setattr(owner, name, watched)


for owner, name in [
    (catalog.Catalog, "change"), (catalog.Catalog, "note"), (delta, "create"), (pq, "write_table"),
    (deltalake.DeltaTable, "create_write_transaction"), (online.OnlineStore, "create"),
    (online.OnlineStore, "_advance"), (online.OnlineStore, "_write"), (staging.Staged, "_copy"),
]:
    watch(owner, name)

schema = pa.schema([("card", pa.int64()), ("t", pa.timestamp("us", "UTC")), ("amount", pa.float64())])
batch = pa.table([[1, 2, 9], [0, 3600_000_000, 7200_000_000], [10.0, 20.0, 90.0]], schema=schema)
for number in range(1, most):
    home = target / str(number)
    shutil.copytree(base, home)
    child = os.fork()
    if child == 0:
        left = number
        group = featurestore.connect(home).get_feature_group("cards", 1)
        frame = pa.RecordBatchReader.from_batches(schema, batch.to_batches()) if scenario == "stream" else batch
        group.insert(frame, overwrite=scenario == "overwrite")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(number, status, flush=True)
    if status != signal.SIGKILL:
        break
"""


def rows(*triples: tuple[int, int, float]) -> pa.Table:
    """Rows of (card, hours after 1970, amount)."""
    cards, hours, amounts = zip(*triples, strict=True)
    times = pa.array([h * 3_600_000_000 for h in hours], TIMESTAMP)
    return pa.table({"card": pa.array(cards, pa.int64()), "t": times, "amount": pa.array(amounts, pa.float64())})


OLD = {(1, 0): 1.0, (2, 1): 2.0, (3, 9): 3.0}
BATCH = {(1, 0): 10.0, (2, 1): 20.0, (9, 2): 90.0}


def content(group: FeatureGroup) -> dict[tuple[int, int], float]:
    read = group.read(dataframe_type="arrow")
    hours = [micros // 3_600_000_000 for micros in read["t"].cast(pa.int64()).to_pylist()]
    return dict(zip(zip(read["card"].to_pylist(), hours, strict=True), read["amount"].to_pylist(), strict=True))


def online(group: FeatureGroup) -> dict[int, float]:
    found = {card: group.get_online({"card": card}, ["amount"]) for card in (1, 2, 3, 9, 50)}
    return {card: row["amount"] for card, row in found.items() if row is not None}


@pytest.mark.parametrize("scenario", ["first", "upsert", "overwrite", "stream"])
def test_g10_killed_between_any_two_steps(tmp_path, scenario):
    """G10, G2, G16: old or new, never between; reopened it reads; the next insert repairs what was left undone."""
    base, target = tmp_path / "base", tmp_path / "killed"
    store = featurestore.connect(base)
    columns = None if scenario == "first" else CARDS
    group = store.get_or_create_feature_group(
        "cards", 1, primary_key=["card"], event_time="t", features=columns, online_enabled=True
    )
    old = {} if scenario == "first" else OLD
    if old:
        group.insert(rows(*[(card, hour, amount) for (card, hour), amount in old.items()]))
    store.close()
    new = BATCH if scenario == "overwrite" else old | BATCH
    command = [sys.executable, "-c", FORKER, str(base), str(target), scenario, str(MOST_STEPS)]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    statuses = dict(zip(map(int, told[::2]), map(int, told[1::2]), strict=True))
    assert list(statuses.values()) == [9] * (len(statuses) - 1) + [0]
    assert len(statuses) > 10
    seen = []
    for number in statuses:
        reopened = featurestore.connect(target / str(number))
        cards = reopened.get_feature_group("cards", 1)
        try:
            found = content(cards)
        except NotFound:
            assert scenario == "first"
            found = {}
        assert found in (old, new), f"step {number}"
        seen.append(found == new)
        if number % 2:
            cards.insert(rows((50, 0, 5.0)), overwrite=False)
            found = found | {(50, 0): 5.0}
        elif cards.features:
            cards.prepare()
            cards.sync_online()
        if cards.features:
            assert content(cards) == found, f"step {number}"
            assert online(cards) == {card: amount for (card, _), amount in found.items()}, f"step {number}"
            if found != old and not number % 2:
                assert cards.get_statistics(cards.delta_version)["card"]["count"] == 3
        assert [p for p in (target / str(number) / "staging").rglob("*") if number % 2] == []
        reopened.close()
    assert seen == sorted(seen)
    assert set(seen) == {False, True}


def test_c3_two_first_inserts_of_two_processes_lose_nothing(tmp_path):
    """C3: nobody has declared the columns; both processes bring the same ones, and rows of their own."""
    store = featurestore.connect(tmp_path)
    store.get_or_create_feature_group("cards", 1, primary_key=["card"], event_time="t", online_enabled=True)
    worker = """
import sys
import pyarrow as pa
import featurestore, deltalake, duckdb
group = featurestore.connect(sys.argv[1]).get_feature_group("cards", 1)
me = int(sys.argv[2])
times = pa.array([0, 0], pa.timestamp("us", "UTC"))
batch = pa.table({"card": pa.array([me, 7]), "t": times, "amount": pa.array([1.0, float(me)])})
print("ready", flush=True)
sys.stdin.readline()
print(group.insert(batch).rows_written)
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    processes = [subprocess.Popen([sys.executable, "-c", worker, str(tmp_path), str(me)], **pipes) for me in (0, 1)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate(timeout=60)[0] for process in processes]
    assert (told, [p.returncode for p in processes]) == (["2\n", "2\n"], [0, 0])
    cards = store.get_feature_group("cards", 1)
    found = content(cards)
    assert found == {(0, 0): 1.0, (1, 0): 1.0, (7, 0): found[7, 0]}
    assert cards.get_online({"card": 7}, ["amount"]) == {"amount": found[7, 0]}
