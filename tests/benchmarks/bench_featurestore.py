"""Speed as ratios in one run: the store beside the same work done by hand with bare libraries. Prints, asserts nothing.

`BENCH_ROWS` (default 1,000,000) is the rows of each feature group; the labels are a tenth of that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import write_deltalake
from rich.console import Console
from rich.table import Table

import featurestore

ROWS = int(os.environ.get("BENCH_ROWS", "1000000"))
KEYS = max(ROWS // 100, 1)
FEATURES = [f"f{i}" for i in range(5)]
START = np.datetime64("2026-01-01T00:00:00", "us")


def feature_rows(rows: int, *, seed: int, first_second: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    columns = {
        "card": random.integers(0, KEYS, rows),
        "t": pa.array(
            START + np.sort(first_second + random.permutation(rows)).astype("m8[s]"), pa.timestamp("us", "UTC")
        ),
    }
    return pa.table(columns | {f"{name}_{seed}": random.normal(size=rows) for name in FEATURES})


def seconds(work: Callable[[], object], times: int = 3) -> float:
    """The best of a few runs."""
    best = float("inf")
    for _ in range(times):
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return best


def test_speed_beside_bare_libraries(tmp_path: Path) -> None:
    fs = featurestore.connect(tmp_path / "store")
    tables = [feature_rows(ROWS, seed=seed) for seed in (1, 2)]
    groups = []
    for seed, table in enumerate(tables, start=1):
        group = fs.get_or_create_feature_group(f"features_{seed}", 1, primary_key=["card"], event_time="t")
        group.insert(table)
        groups.append(group)
    random = np.random.default_rng(3)
    spine = pa.table(
        {
            "id": np.arange(ROWS // 10),
            "card": random.integers(0, KEYS, ROWS // 10),
            "t": pa.array(START + random.integers(0, ROWS, ROWS // 10).astype("m8[s]"), pa.timestamp("us", "UTC")),
            "y": random.integers(0, 2, ROWS // 10),
        }
    )
    labels = fs.get_or_create_feature_group("labels", 1, primary_key=["id"], event_time="t")
    labels.insert(spine)
    query = labels.select(["y"])
    for seed, group in enumerate(groups, start=1):
        query = query.join(group.select([f"{name}_{seed}" for name in FEATURES]))

    def by_hand() -> pd.DataFrame:
        left = pq.read_table(labels.snapshot().between()).to_pandas().sort_values("t")
        for group in groups:
            right = (
                pq.read_table(group.snapshot().between()).to_pandas().sort_values("t").drop(columns="__committed_at")
            )
            left = pd.merge_asof(left, right, on="t", by="card")
        return left

    def scan() -> None:
        for group in groups:
            pq.read_table(group.snapshot().between())

    report = Table("work", "store, s", "beside", "by hand, s", "ratio", title=f"{ROWS:,} rows a group")

    def row(work: str, ours: float, beside: str, theirs: float) -> None:
        report.add_row(work, f"{ours:.3g}", beside, f"{theirs:.3g}", f"{ours / theirs:.2f}")

    joined = seconds(lambda: query.read("arrow"))
    row("point-in-time join", joined, "pandas.merge_asof", seconds(by_hand, 1))
    row("point-in-time join", joined, "scan of the columns", seconds(scan))

    batch = feature_rows(100_000, seed=1, first_second=ROWS)
    bare = seconds(lambda: write_deltalake(str(tmp_path / "bare"), batch, mode="append"))
    begun = time.perf_counter()
    groups[0].insert(batch)
    row("insert of 100,000 new rows", time.perf_counter() - begun, "write_deltalake", bare)

    online = fs.get_or_create_feature_group("online", 1, primary_key=["card"], event_time="t", online_enabled=True)
    newest = feature_rows(100_000, seed=1)
    begun = time.perf_counter()
    online.insert(newest)
    row("the same, online too", time.perf_counter() - begun, "write_deltalake", bare)
    view = fs.create_feature_view(
        "vectors", 1, query=labels.select(["y"]).join(online.select([f"{n}_1" for n in FEATURES])), labels=["y"]
    )
    view.create_train_test_split(test_size=0.2)
    view.init_serving()
    card = int(newest["card"][0].as_py())
    single = seconds(lambda: [view.get_feature_vector({"card": card}) for _ in range(1000)]) / 1000
    raw = fs.online.reader([(online.online_table(), [f"{n}_1" for n in FEATURES])])
    row(
        "one vector",
        single,
        "one row of the online store",
        seconds(lambda: [raw.one([(card,)]) for _ in range(1000)]) / 1000,
    )
    Console(width=110).print(report)
