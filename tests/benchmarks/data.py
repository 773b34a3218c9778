"""The rows that are measured, the same in every process. Feast's environment imports this too: numpy and pyarrow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

START = np.datetime64("2026-01-01T00:00:00", "us")
DAY = 86_400_000_000  # microseconds
FEATURES = 5
WIDE, CHOSEN = 200, 20


def moment(day: int) -> datetime:
    """When a day begins."""
    return START.astype(datetime).replace(tzinfo=UTC) + timedelta(days=day)


def names(group: int, count: int = FEATURES) -> list[str]:
    """The feature columns of a group."""
    return [f"g{group}_f{i}" for i in range(count)]


def feature_rows(group: int, *, rows: int, keys: int, day: int, count: int = FEATURES) -> pa.Table:
    """One day of a group: card (int64), t (UTC microseconds, rising, each once), `count` doubles without nulls."""
    random = np.random.default_rng([group, day])
    step = DAY // rows
    times = START + (day * DAY + np.arange(rows) * step + random.integers(0, step - 1, rows)).astype("m8[us]")
    columns = {"card": random.integers(0, keys, rows), "t": pa.array(times, pa.timestamp("us", "UTC"))}
    return pa.table(columns | {name: random.standard_normal(rows) for name in names(group, count)})


def corrections(group: int, *, rows: int, keys: int, day: int, count: int) -> pa.Table:
    """`count` rows for a day that is stored: every other one of its rows with new values, the rest at new times."""
    stored = feature_rows(group, rows=rows, keys=keys, day=day).slice(0, count)
    moved = (np.arange(stored.num_rows) % 2).astype("m8[us]")
    times = stored["t"].to_numpy().astype("M8[us]") + moved
    columns = {"card": stored["card"], "t": pa.array(times, pa.timestamp("us", "UTC"))}
    return pa.table(columns | {name: pc.add(stored[name], 1.0) for name in names(group)})


def newest_rows(group: int, *, keys: int) -> pa.Table:
    """One row of each key: what an online store holds."""
    rows = feature_rows(group, rows=keys, keys=keys, day=0)
    return rows.set_column(0, "card", pa.array(np.arange(keys)))


def label_rows(*, labels: int, keys: int, days: int) -> pa.Table:
    """The spine: id, card, t in order, y. One card in fifty is known to no feature group."""
    random = np.random.default_rng(99)
    times = START + np.sort(random.integers(0, days * DAY, labels)).astype("m8[us]")
    return pa.table(
        {
            "id": np.arange(labels),
            "card": random.integers(0, keys + keys // 50, labels),
            "t": pa.array(times, pa.timestamp("us", "UTC")),
            "y": random.integers(0, 2, labels),
        }
    )


def fingerprint(table: pa.Table, columns: list[str]) -> dict[str, float]:
    """Rows, filled cells and their sum: what all who do the same work must agree on."""
    cells = [table.column(name) for name in columns]
    return {
        "rows": table.num_rows,
        "filled": sum(len(c) - c.null_count for c in cells),
        "sum": round(sum(pc.sum(c).as_py() or 0.0 for c in cells), 3),
    }
