"""Running plans over stored files: wherever they lie, whatever columns they have, in the memory there is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from featurestore import Feature, FeatureStore, connect, offline
from featurestore.engines import duckdb as engine


def days(*numbers: int) -> pd.DatetimeIndex:
    return pd.to_datetime([f"2021-01-{n:02d}" for n in numbers])


@pytest.mark.parametrize("folder", ["k=5", "k=5/x=9", "a[b]*c", "it's ü"])
def test_the_folders_above_the_lake_change_nothing(tmp_path: Path, folder: str) -> None:
    """C2, J6: no path is a partition or a pattern: DuckDB alone would read k=5 as the value of every row's k."""
    fs = connect(tmp_path / folder)
    group = fs.get_or_create_feature_group("values", 1, primary_key=["k"], event_time="day")
    group.insert(pd.DataFrame({"k": [1, 2], "day": days(1, 1), "x": [10, 20], "filename": ["a", "b"]}))
    group.insert(pd.DataFrame({"k": [2], "day": days(1), "x": [21], "filename": ["c"]}))
    found = group.select(["k", "x"]).join(group.select(["x", "filename"]), prefix="r_").read("arrow").to_pydict()
    assert found == {"k": [1, 2], "x": [10, 21], "r_x": [10, 21], "r_filename": ["a", "c"]}
    assert fs.sql("SELECT sum(k) AS k FROM values_1")["k"].tolist() == [3]
    fs.close()


def test_partitions_are_columns_like_any_other(tmp_path: Path) -> None:
    """G12: text that looks like a number stays text, and null stays null."""
    fs = connect(tmp_path)
    group = fs.get_or_create_feature_group("values", 1, primary_key=["k"], event_time="day", partition_key=["city"])
    group.insert(pd.DataFrame({"k": [1, 2, 3], "day": days(1, 2, 3), "city": ["01", "a/b =c", None]}))
    assert group.read(dataframe_type="arrow").column("city").to_pylist() == ["01", "a/b =c", None]
    fs.close()


@pytest.mark.parametrize("rows_to_stream", [0, 10**9])
def test_versions_of_before_a_column_read_as_null_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_to_stream: int
) -> None:
    """G13: every version gives the columns of today, as the spine and as a joined group, with either engine."""
    monkeypatch.setattr(offline, "ROWS_TO_STREAM", rows_to_stream)
    fs = connect(tmp_path)
    group = fs.get_or_create_feature_group("values", 1, primary_key=["k"], event_time="day")
    group.insert(pd.DataFrame({"k": [1], "day": days(1), "x": [10]}))
    before = group.delta_version
    group.append_features(Feature("y", "double"))
    group.insert(pd.DataFrame({"k": [2], "day": days(2), "x": [20], "y": [0.5]}))
    query = group.select(["k", "x", "y"])
    assert query.read("arrow").column("y").to_pylist() == [None, 0.5]
    assert query.as_of(before).read("arrow").to_pydict() == {"k": [1], "x": [10], "y": [None]}
    joined = query.as_of(before).join(group.select(["y"]).as_of(before), prefix="r_")
    assert joined.read("arrow").to_pydict() == {"k": [1], "x": [10], "y": [None], "r_y": [None]}
    now = query.join(group.select(["y"]), prefix="r_")
    assert now.read("arrow").column("r_y").to_pylist() == [None, 0.5]
    fs.close()


def test_without_a_time_of_its_own_a_row_asks_for_the_present(tmp_path: Path) -> None:
    """G18, J2: what outlived its ttl by now is absent; an age equal to it counts."""
    now = [datetime(2021, 1, 4, tzinfo=UTC)]
    fs = connect(tmp_path, clock=lambda: now[0])
    people = fs.get_or_create_feature_group("people", 1, primary_key=["k"])
    people.insert(pd.DataFrame({"k": [1, 2]}))
    group = fs.get_or_create_feature_group(
        "values", 1, primary_key=["k"], event_time="day", ttl=timedelta(days=2)
    )  # fmt: skip
    group.insert(pd.DataFrame({"k": [1, 2], "day": days(1, 2), "x": [10, 20]}))
    query = people.select(["k"]).join(group.select(["x"]))
    assert query.read("arrow").column("x").to_pylist() == [None, 20]
    assert "newest row by day, because people_v1 has no event time, not older than 2 days" in query.explain()
    now[0] += timedelta(microseconds=1)
    assert query.read("arrow").column("x").to_pylist() == [None, None]
    fs.close()


def test_both_engines_read_the_same_from_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """J11: the one for large groups and the statement, over many files with corrections, in order."""
    fs = connect(tmp_path)
    labels, values = _random_groups(fs)
    query = labels.select(["id", "k"]).join(values.select(["x", "at"]), prefix="v_")
    monkeypatch.setattr(offline, "ROWS_TO_STREAM", 10**9)
    by_statement = query.read("arrow")
    monkeypatch.setattr(offline, "ROWS_TO_STREAM", 0)
    assert query.read("arrow").equals(by_statement)
    assert by_statement.column("v_x").null_count < by_statement.num_rows == 300
    fs.close()


def _random_groups(fs: FeatureStore):  # type: ignore[no-untyped-def]  # two groups
    random = np.random.default_rng(3)
    labels = fs.get_or_create_feature_group("labels", 1, primary_key=["id"], event_time="at")
    values = fs.get_or_create_feature_group("values", 1, primary_key=["k"], event_time="at")

    def moments(count: int) -> pd.DatetimeIndex:
        return pd.Timestamp("2021-01-01", tz="UTC") + pd.to_timedelta(random.integers(0, 999, count), unit="h")

    labels.insert(pd.DataFrame({"id": range(300), "k": random.integers(0, 9, 300), "at": moments(300)}))
    for _ in range(4):
        values.insert(pd.DataFrame({"k": random.integers(0, 9, 90), "at": moments(90), "x": random.normal(size=90)}))
    return labels, values


def test_what_does_not_fit_into_memory_is_spilled_into_the_home(tmp_path: Path) -> None:
    """Section 6: a sort of more than the limit ends, and what it spilled is gone."""
    numbers = np.random.default_rng(0).permutation(2_000_000)
    rows = pa.table({"a": numbers, "b": numbers, "c": numbers})
    spill = str(tmp_path / "home" / "tmp")
    found = engine.run("SELECT * FROM t ORDER BY a", {"t": rows}, memory_limit="40MB", threads=1, temp_directory=spill)
    assert found.column("b").to_numpy()[[0, -1]].tolist() == [0, 1_999_999]
    assert list(Path(spill).iterdir()), "it did spill, there"
    assert sum(p.stat().st_size for p in Path(spill).rglob("*") if p.is_file()) < 1000
