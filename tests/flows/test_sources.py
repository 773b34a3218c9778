"""What the sources of all systems share."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from featurestore.errors import InvalidTime, NotFound, SchemaMismatch
from flows import sources

DAY, NEXT = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "zoo" / "animals.parquet"
    path.parent.mkdir()
    pd.DataFrame({"name": ["a", "b", "c"], "hour": [1, 2, 3]}).to_parquet(path)
    return path


def test_a_window_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(InvalidTime, match="2026-01-02"):
        sources.half_open(NEXT, DAY)


def test_rows_are_cut_to_the_told_half_open_stretch(table: Path) -> None:
    assert sources.read_table(table, ["name"], time="hour", between=(1, 3))["name"].tolist() == ["a", "b"]


def test_a_missing_table_is_named_beside_those_that_are_there(table: Path) -> None:
    with pytest.raises(NotFound, match=r"plants\.parquet, but it is not there .*animals\.parquet.*TRIPTYCH_DATA"):
        sources.read_table(table.with_name("plants.parquet"), ["name"])


def test_a_changed_column_of_a_table_is_named(table: Path) -> None:
    with pytest.raises(SchemaMismatch, match=r"no column \['weight'\]; it has \['hour', 'name'\]"):
        sources.read_table(table, ["name", "weight"])


def test_no_data_folder_says_which_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIPTYCH_DATA", raising=False)
    with pytest.raises(NotFound, match=r"TRIPTYCH_DATA=<folder> that holds zoo/"):
        sources.data_folder("zoo", of="animals")


def test_another_dtype_is_refused_with_both_names() -> None:
    rows = pd.DataFrame({"mw": [1, 2]})
    with pytest.raises(SchemaMismatch, match="'live' gives 'mw' as int64, expected float64"):
        sources.in_shape(rows, {"mw": "float64"}, "live", order=["mw"])


def test_a_text_column_of_nothing_but_nulls_is_still_text() -> None:
    rows = sources.in_shape(pd.DataFrame({"name": [None, None]}), {"name": "str"}, "live", order=["name"])
    assert str(rows["name"].dtype) == "str"


def test_the_argument_is_left_as_it_was() -> None:
    rows = pd.DataFrame({"name": ["b", "a"]}, index=[7, 3])
    before = rows.copy()
    sources.in_shape(rows, {"name": "str", "source": "str"}, "live", order=["name"])
    pd.testing.assert_frame_equal(rows, before)
