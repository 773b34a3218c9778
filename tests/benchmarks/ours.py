"""What Triptych's store does, a piece a process: `python -m tests.benchmarks.ours <piece> <scale> <folder>`."""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks import lake
from tests.benchmarks.measure import answer, latencies, timed
from tests.benchmarks.scale import Scale

if TYPE_CHECKING:
    from featurestore import FeatureStore, FeatureView

JOINED = (1, 2)


def connect(place: Path) -> FeatureStore:
    import featurestore

    return featurestore.connect(place)


# What everybody is measured on


def build(scale: Scale, folder: Path) -> dict[str, Any]:
    """Write all groups, a day at a time; nothing when they are there."""
    from tests.benchmarks import data

    place = lake.home(folder)
    if place.exists():
        return {"seconds": 0.0, "rows": 0}
    for old in [*folder.glob("store-*"), folder / "unfinished"]:
        shutil.rmtree(old, ignore_errors=True)
    begun = time.perf_counter()
    fs = connect(folder / "unfinished")

    def label(name: str, labels: int, days: int) -> None:
        group = fs.get_or_create_feature_group(name, 1, primary_key=["id"], event_time="t")
        group.insert(data.label_rows(labels=labels, keys=scale.keys, days=days))

    def write(name: str, number: int, rows: int, days: int, count: int = data.FEATURES) -> int:
        group = fs.get_or_create_feature_group(
            name, 1, primary_key=["card"], event_time="t", statistics_config=count == data.FEATURES
        )
        for day in range(days):
            group.insert(data.feature_rows(number, rows=rows // days, keys=scale.keys, day=day, count=count))
        return rows

    label("labels", scale.labels, scale.days)
    written = sum(write(f"group_{n}", n, scale.rows, scale.days) for n in JOINED)
    if scale.big:
        label("big_labels", scale.big[0], scale.days)
        written += sum(write(f"big_group_{n}", n, scale.big[1], scale.days) for n in JOINED)
    write("short", 1, scale.batch, 1)
    days = max(1, scale.wide_rows // 100_000)
    label("wide_labels", scale.wide_rows // 10, days)
    write("wide", 1, scale.wide_rows, days, data.WIDE)
    write("narrow", 1, scale.wide_rows, days, data.CHOSEN)
    label("few_labels", 1_000, 1)
    _online_view(fs, scale)
    fs.close()
    (folder / "unfinished").rename(place)
    return {"seconds": time.perf_counter() - begun, "rows": written}


def _online_view(fs: FeatureStore, scale: Scale) -> None:
    from tests.benchmarks import data

    query = fs.get_feature_group("few_labels", 1).select(["y"])
    for number in JOINED:
        group = fs.get_or_create_feature_group(
            f"online_{number}", 1, primary_key=["card"], event_time="t", online_enabled=True
        )
        group.insert(data.newest_rows(number, keys=scale.keys))
        query = query.join(group.select(data.names(number)))
    scalers = dict.fromkeys(data.names(1) + data.names(2), fs.get_transformation_function("standard_scaler"))
    view = fs.create_feature_view("vectors", 1, query=query, labels=["y"], transformation_functions=scalers)
    view.create_train_test_split(test_size=0.2)


def _import_libraries() -> None:
    """Where only the work counts, bare libraries are imported before the clock starts; so are the store's."""
    for name in ("deltalake", "duckdb", "pandas", "pyarrow.compute", "pyarrow.parquet", "sqlalchemy"):
        importlib.import_module(name)


# Reading


def join(scale: Scale, folder: Path, prefix: str = "") -> dict[str, Any]:
    """Labels joined to two groups as of their times, to an Arrow table."""
    from tests.benchmarks import data

    fs = connect(lake.home(folder))
    query = fs.get_feature_group(f"{prefix}labels", 1).select(["y"])
    for number in JOINED:
        query = query.join(fs.get_feature_group(f"{prefix}group_{number}", 1).select(data.names(number)))
    joined = query.read("arrow")
    return data.fingerprint(joined, data.names(1) + data.names(2)) | {"limit": fs.settings.memory_limit}


def big_join(scale: Scale, folder: Path) -> dict[str, Any]:
    """The same at the size that is watched for its memory."""
    return join(scale, folder, "big_")


def _twenty_columns(folder: Path, name: str) -> dict[str, Any]:
    from tests.benchmarks import data

    fs = connect(lake.home(folder))
    columns = data.names(1, data.CHOSEN)
    query = fs.get_feature_group("wide_labels", 1).select(["y"]).join(fs.get_feature_group(name, 1).select(columns))
    _import_libraries()
    seconds, joined = timed(lambda: query.read("arrow"))
    return data.fingerprint(joined, columns) | {"seconds": seconds}


def wide(scale: Scale, folder: Path) -> dict[str, Any]:
    """Labels joined to 20 of 200 columns."""
    return _twenty_columns(folder, "wide")


def narrow(scale: Scale, folder: Path) -> dict[str, Any]:
    """Labels joined to the same 20 columns of a group that has no more."""
    return _twenty_columns(folder, "narrow")


# Writing


def _insert(scale: Scale, folder: Path, name: str, day: int) -> dict[str, Any]:
    from tests.benchmarks import data

    rows = data.feature_rows(1, rows=scale.batch, keys=scale.keys, day=day)
    with lake.copied(folder) as place:
        _import_libraries()
        group = connect(place).get_feature_group(name, 1)
        seconds, commit = timed(lambda: group.insert(rows))
    return {"seconds": seconds, "rows": commit.rows_inserted}


def insert_short(scale: Scale, folder: Path) -> dict[str, Any]:
    """New rows, later than all stored ones, into a group of as many."""
    return _insert(scale, folder, "short", 1)


def insert_long(scale: Scale, folder: Path) -> dict[str, Any]:
    """As many new rows into a long group."""
    return _insert(scale, folder, "group_1", scale.days)


def insert_online(scale: Scale, folder: Path) -> dict[str, Any]:
    """New rows into a new group that is online as well."""
    from tests.benchmarks import data

    rows = data.newest_rows(1, keys=scale.batch)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        _import_libraries()
        group = connect(Path(place)).get_or_create_feature_group(
            "fresh", 1, primary_key=["card"], event_time="t", online_enabled=True
        )
        seconds, commit = timed(lambda: group.insert(rows))
    return {"seconds": seconds, "rows": commit.rows_inserted}


def upsert(scale: Scale, folder: Path) -> dict[str, Any]:
    """Corrections and late rows of one recent day into a long group; which files were rewritten."""
    from tests.benchmarks import data

    day, per_day = scale.days - 2, scale.rows // scale.days
    rows = data.corrections(1, rows=per_day, keys=scale.keys, day=day, count=scale.batch)
    start, end = data.moment(day), data.moment(day + 1)
    with lake.copied(folder) as place:
        _import_libraries()
        group = connect(place).get_feature_group("group_1", 1)
        before = lake.files(group.location)
        seconds, commit = timed(lambda: group.insert(rows))
        after = {file.path for file in lake.files(group.location)}
    gone = [file for file in before if file.path not in after]
    return {
        "seconds": seconds, "inserted": commit.rows_inserted, "updated": commit.rows_updated, "files": len(before),
        "rewritten": len(gone), "of_other_days": sum(file.high < start or file.low >= end for file in gone),
    }  # fmt: skip


def online_write(scale: Scale, folder: Path) -> dict[str, Any]:
    """A batch of keys written to an empty online table, as insert does after its Delta commit."""
    from tests.benchmarks import data

    rows = data.newest_rows(1, keys=scale.batch)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        fs = connect(Path(place))
        group = fs.get_or_create_feature_group("fresh", 1, primary_key=["card"], event_time="t", online_enabled=True)
        group.insert(rows.slice(0, 1))  # which makes the table
        table = group.online_table()
        held = fs.online.version(table)
        seconds, written = timed(
            lambda: fs.online.upsert(table, rows.slice(1), delta_version=held + 1, previous_version=held)
        )
    return {"seconds": seconds, "rows": written}


# Serving


def _served(scale: Scale, folder: Path) -> tuple[FeatureView, list[int]]:
    import numpy as np

    view = connect(lake.home(folder)).get_feature_view("vectors", 1)
    view.init_serving()
    return view, np.random.default_rng(5).integers(0, scale.keys, 4096).tolist()


def vector(scale: Scale, folder: Path) -> dict[str, Any]:
    """One vector of ten features from two groups, as stored."""
    view, cards = _served(scale, folder)
    return latencies(
        lambda n: view.get_feature_vector({"card": cards[n % 4096]}, transform=False), scale.vectors
    )  # fmt: skip


def vector_transformed(scale: Scale, folder: Path) -> dict[str, Any]:
    """The same, all ten standardised by what the training set was fitted with."""
    view, cards = _served(scale, folder)
    return latencies(lambda n: view.get_feature_vector({"card": cards[n % 4096]}), scale.vectors)


def vectors(scale: Scale, folder: Path) -> dict[str, Any]:
    """A hundred vectors in one call."""
    view, cards = _served(scale, folder)
    entries = [[{"card": card} for card in cards[n * 100 : n * 100 + 100]] for n in range(40)]
    return latencies(lambda n: view.get_feature_vectors(entries[n % 40], transform=False), max(scale.vectors // 50, 5))


def importing(scale: Scale, folder: Path) -> dict[str, Any]:
    """`import featurestore` in a fresh process, and what came with it that must not."""
    seconds, _ = timed(lambda: importlib.import_module("featurestore"))
    heavy = [name for name in ("prefect", "mlflow", "great_expectations") if name in sys.modules]
    return {"seconds": seconds, "heavy": heavy}


PIECES = {
    piece.__name__: piece
    for piece in (
        build, join, big_join, wide, narrow, insert_short, insert_long, insert_online, upsert, online_write, vector,
        vector_transformed, vectors, importing,
    )
}  # fmt: skip

if __name__ == "__main__":
    answer(PIECES)
