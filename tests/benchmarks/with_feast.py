"""The same work by Feast, in its own environment: `python -m tests.benchmarks.with_feast <piece> <scale> <folder>`.

Its DuckDB offline store and its SQLite online store, set up as its documentation does, on the store's own files.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.repo_config import RepoConfig
from feast.types import Float64

from tests.benchmarks import data, lake
from tests.benchmarks.measure import answer, latencies, timed
from tests.benchmarks.scale import Scale

warnings.filterwarnings("ignore")
REFERENCES = [f"group_{number}:{name}" for number in (1, 2) for name in data.names(number)]


def _home(folder: Path) -> Path:
    return folder / f"feast-{lake.home(folder).name}"


def _store(place: Path) -> FeatureStore:
    return FeatureStore(
        config=RepoConfig(
            project="bench", provider="local", registry=str(place / "registry.db"), offline_store={"type": "duckdb"},
            online_store={"type": "sqlite", "path": str(place / "online.db")}, entity_key_serialization_version=3,
        )
    )  # fmt: skip


def _applied(place: Path, folder: Path) -> FeatureStore:
    """A new store that knows both groups; their source is the Parquet files."""
    store = _store(place)
    card = Entity(name="card", join_keys=["card"], value_type=ValueType.INT64)
    views = []
    for number in (1, 2):
        # All Parquet files in the table's folder are live: its rows were only ever appended.
        table = lake.location(lake.home(folder), f"group_{number}")
        source = FileSource(path=f"{table}/*.parquet", timestamp_field="t")
        schema = [Field(name=name, dtype=Float64) for name in data.names(number)]
        views.append(
            FeatureView(name=f"group_{number}", entities=[card], ttl=timedelta(0), schema=schema, source=source)
        )
    store.apply([card, *views])
    return store


def build(scale: Scale, folder: Path) -> dict[str, Any]:
    """Register both groups and fill the online store; nothing when that is done."""
    place = _home(folder)
    if place.exists():
        return {"rows": 0}
    for old in [*folder.glob("feast-*"), folder / "feast"]:
        shutil.rmtree(old, ignore_errors=True)
    unfinished = folder / "feast"
    unfinished.mkdir()
    store = _applied(unfinished, folder)
    for number in (1, 2):
        store.write_to_online_store(f"group_{number}", data.newest_rows(number, keys=scale.keys).to_pandas())
    unfinished.rename(place)
    return {"rows": 2 * scale.keys}


def join(scale: Scale, folder: Path) -> dict[str, Any]:
    """get_historical_features to an Arrow table."""
    labels = pq.read_table(
        sorted(Path(lake.location(lake.home(folder), "labels")).glob("*.parquet")), columns=["card", "t", "y"]
    )
    entities = labels.to_pandas().rename(columns={"t": "event_timestamp"})
    joined = _store(_home(folder)).get_historical_features(entity_df=entities, features=REFERENCES).to_arrow()
    return data.fingerprint(joined, data.names(1) + data.names(2))


def online_write(scale: Scale, folder: Path) -> dict[str, Any]:
    """write_to_online_store of a batch of keys into an empty table."""
    rows = data.newest_rows(1, keys=scale.batch).to_pandas()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        store = _applied(Path(place), folder)
        seconds, _ = timed(lambda: store.write_to_online_store("group_1", rows))
    return {"seconds": seconds, "rows": len(rows)}


def _served(scale: Scale, folder: Path, size: int) -> dict[str, Any]:
    store = _store(_home(folder))
    cards = np.random.default_rng(5).integers(0, scale.keys, 4096).tolist()

    def call(n: int) -> object:
        first = n * size % (4096 - size)
        entities = [{"card": card} for card in cards[first : first + size]]
        return store.get_online_features(features=REFERENCES, entity_rows=entities).to_dict()

    return latencies(call, max(scale.vectors // (5 if size == 1 else 100), 5))


def vector(scale: Scale, folder: Path) -> dict[str, Any]:
    """get_online_features of ten features from two views for one card."""
    return _served(scale, folder, 1)


def vectors(scale: Scale, folder: Path) -> dict[str, Any]:
    """The same for a hundred cards."""
    return _served(scale, folder, 100)


PIECES = {piece.__name__: piece for piece in (build, join, online_write, vector, vectors)}

if __name__ == "__main__":
    answer(PIECES)
