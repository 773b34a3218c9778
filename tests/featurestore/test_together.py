"""Real processes that insert, compact, vacuum, train and forget at once on one home."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

import featurestore
from featurestore import Feature
from featurestore.schema import TIMESTAMP

ROOT = Path(__file__).parents[2]
ROUNDS = 10

WORKER = """
import json, sys, time
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import featurestore
from featurestore.errors import Conflict
from featurestore.schema import TIMESTAMP
from featurestore.times import parse_time

home, role, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = featurestore.connect(home)
group, view = store.get_feature_group("cards", 1), store.get_feature_view("view", 1)
t0 = parse_time("2026-01-01")
told = {"conflicts": 0, "done": 0, "removed": 0}


def batch(me, round_):
    keys = [1000 * me + round_ * 5 + i for i in range(5)] + [0, 1]  # its own, and two that all insert
    times = [t0 + timedelta(hours=round_, minutes=me)] * 5 + [t0, t0]
    amounts = [float(round_)] * 5 + [1000.0 * me + round_] * 2
    return pa.table({"card": pa.array(keys), "t": pa.array(times, TIMESTAMP), "amount": pa.array(amounts)})


def once(work):
    while True:
        try:
            told["done"] += 1
            return work()
        except Conflict:
            told["conflicts"] += 1


stop = Path(home, "stop")
print("ready", flush=True)
sys.stdin.readline()
if role.isdigit():
    for round_ in range(1, rounds + 1):
        once(lambda: group.insert(batch(int(role), round_), window=(t0, t0 + timedelta(hours=round_))))
else:
    work = {
        "compact": group.optimize,
        "vacuum": lambda: group.vacuum(timedelta(seconds=0.5)).files,
        "train": view.create_training_data,
        "forget": lambda: group.forget(pa.table({"card": [9000 + told["done"] - told["conflicts"]]})),
    }[role]
    while not stop.exists() and told["done"] < 15:
        result = once(work)
        told["removed"] += len(result) if role == "vacuum" else 0
        time.sleep(0.1)
print(json.dumps(told), flush=True)
"""


def test_c3_inserting_compacting_vacuuming_training_and_forgetting_at_once_loses_nothing(tmp_path):
    """C3, V2, V3, G10, G14: only Conflicts appear; every row is there, online too; training datasets verify."""
    store = featurestore.connect(tmp_path)
    group = store.get_or_create_feature_group(
        "cards", 1, primary_key=["card"], event_time="t", online_enabled=True, statistics_config=False,
        features=[Feature("card", "bigint"), Feature("t", "timestamp"), Feature("amount", "double")],
    )  # fmt: skip
    view = store.get_or_create_feature_view("view", 1, query=group.select(["amount"]))
    hour = datetime(2026, 1, 1, tzinfo=UTC)
    for n in range(6):
        group.insert(pa.table({"card": [0, 1], "t": pa.array([hour] * 2, TIMESTAMP), "amount": [float(n)] * 2}))
    group.insert(pa.table({"card": range(9000, 9020), "t": pa.array([hour] * 20, TIMESTAMP), "amount": [0.0] * 20}))
    roles = ["1", "2", "compact", "vacuum", "train", "forget"]
    workers = {role: start(tmp_path, role) for role in roles}
    try:
        for worker in workers.values():
            assert worker.stdout.readline() == "ready\n"
        for worker in workers.values():
            worker.stdin.write("go\n")
            worker.stdin.flush()
        for role in ("1", "2"):
            workers[role].wait(timeout=100)
        (tmp_path / "stop").touch()
        told = {role: json.loads(worker.communicate(timeout=60)[0]) for role, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.kill()
            worker.communicate()
    assert [worker.returncode for worker in workers.values()] == [0] * len(roles), told
    rows = {r["card"]: r["amount"] for r in group.read(dataframe_type="arrow").to_pylist()}
    own = {
        1000 * me + round_ * 5 + i: float(round_) for me in (1, 2) for round_ in range(1, ROUNDS + 1) for i in range(5)
    }
    assert {card: amount for card, amount in rows.items() if 1 < card < 9000} == own
    forgotten = told["forget"]["done"] - told["forget"]["conflicts"]
    assert forgotten > 0
    assert {card for card in rows if card >= 9000} == {9000, *range(9001 + forgotten, 9020)}
    assert rows[0] == rows[1] in (1000.0 + ROUNDS, 2000.0 + ROUNDS)
    assert all(group.get_online({"card": card}, ["amount"]) == {"amount": amount} for card, amount in rows.items())
    assert [c.version for c in group.history()] == list(range(group.delta_version + 1))
    assert told["vacuum"]["removed"] >= 5  # at least what was there before the others began
    assert len(view.training_datasets()) > 0
    live = [d.version for d in view.training_datasets() if "not_reproducible_since" not in d.manifest]
    for version in live:
        view.verify_training_dataset(version)
    group.vacuum(timedelta(0))
    for version in live:
        view.verify_training_dataset(version)
    assert not [f for f in store.check(deep=True) if f.severity != "info"]
    store.close()


def start(home: Path, role: str) -> Any:
    command = [sys.executable, "-c", WORKER, str(home), role, str(ROUNDS)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
