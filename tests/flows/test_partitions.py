"""What of a group's time is there, and by which code."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

import featurestore
from featurestore import Commit
from featurestore.times import Window
from flows import partitions

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def committed(start_hour: int, hours: int, code: str) -> Commit:
    window = Window(START + start_hour * HOUR, START + (start_hour + hours) * HOUR)
    return Commit(1, START, "upsert", window=window, code=code)


@given(
    st.lists(st.tuples(st.integers(-10, 80), st.integers(1, 30), st.sampled_from(["old", "new"])), max_size=8),
    st.integers(1, 72),
)
def test_partitions_say_what_a_look_at_every_hour_says(windows: list[tuple[int, int, str]], length: int) -> None:
    found = partitions.partitions(
        [committed(*window) for window in windows], Window(START, START + length * HOUR), DAY, code="new"
    )
    by_hour: list[str | None] = [None] * length
    for start, hours, code in windows:
        for hour in range(max(start, 0), min(start + hours, length)):
            by_hour[hour] = code
    expected = []
    for start in range(0, length, 24):
        codes = set(by_hour[start : start + 24])
        expected.append(
            "missing" if codes == {None} else "partly" if None in codes else "stale" if "old" in codes else "done"
        )
    assert [piece.state for piece in found] == expected
    assert sum((piece.window.end - piece.window.start for piece in found), timedelta(0)) == length * HOUR


def test_without_a_code_nothing_is_stale() -> None:
    [piece] = partitions.partitions([committed(0, 24, "old")], Window(START, START + DAY), DAY)
    assert piece.state == "done"


def test_a_rerun_by_newer_code_makes_a_stale_window_done_though_no_row_changed(tmp_path: Path) -> None:
    """The table keeps what was computed when by what, also where the new code says the same."""
    fs = featurestore.connect(home=tmp_path)
    group = fs.get_or_create_feature_group(name="g", version=1, primary_key=["k"], event_time="t")
    window = Window(START, START + DAY)
    rows = pd.DataFrame({"k": [1], "t": pd.to_datetime([START])})
    group.insert(rows, window=window, code="old")

    def state() -> str:
        [piece] = partitions.partitions(group.history(), window, DAY, code="new")
        return piece.state

    assert state() == "stale"
    again = group.insert(rows, window=window, code="new")
    assert (again.rows_written, again.code, state()) == (0, "new", "done")
    version = group.delta_version
    group.insert(rows, window=window, code="new")
    group.insert(rows, window=window)
    assert group.delta_version == version, "the same code on the same window says nothing new"
    assert group.history("pandas")["code"].tolist()[-1] == "new"


def test_what_code_does_is_its_version_and_how_it_is_written_is_not(tmp_path: Path) -> None:
    text = '"""What."""\ndef f(x: int) -> int:\n    """Doc."""\n    return x + 1  # more\n'
    assert partitions.meaning(text) == partitions.meaning("def f(x: int) -> int:\n    return (x + 1)\n")
    assert partitions.meaning(text) != partitions.meaning(text.replace("+ 1", "+ 2"))
    assert partitions.code_of("fraud") != partitions.code_of("electricity")
