from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import InvalidTime
from featurestore.times import Window, from_micros, parse_time, to_micros

NEW_YEAR = datetime(2022, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2022, 1, 1), NEW_YEAR),
        (datetime(2022, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), NEW_YEAR),
        (date(2022, 1, 1), NEW_YEAR),
        (pd.Timestamp("2022-01-01"), NEW_YEAR),
        (pd.Timestamp("2022-01-01 01:00", tz="Europe/Berlin"), NEW_YEAR),
        ("2022/01/01", NEW_YEAR),
        ("2022-01-01", NEW_YEAR),
        ("20220101", NEW_YEAR),
        ("2022010100", NEW_YEAR),
        ("202201010000", NEW_YEAR),
        ("20220101000000", NEW_YEAR),
        ("2022-01-01 00:00:01", NEW_YEAR + timedelta(seconds=1)),
        ("2022/01/01 00:00:01", NEW_YEAR + timedelta(seconds=1)),
        ("2022-01-01T00:00:01.000002Z", NEW_YEAR + timedelta(seconds=1, microseconds=2)),
        ("2022-01-01T02:00:00+02:00", NEW_YEAR),
        (1_640_995_200, NEW_YEAR),
        (1_640_995_200_000, NEW_YEAR),
        (1_640_995_200.5, NEW_YEAR + timedelta(seconds=0.5)),
    ],
)
def test_g12_every_spelling_of_a_time_is_read_as_utc(value, expected):
    parsed = parse_time(value)
    assert parsed == expected
    assert parsed.utcoffset() == timedelta(0)
    assert type(parsed) is datetime


@pytest.mark.parametrize("value", ["", "tomorrow", "2022-13-01", "2022011", "٢٠٢٢٠١٠١", True, None, pd.NaT, 1e300, [1]])
def test_g12_what_is_no_time_is_refused_with_its_value(value):
    with pytest.raises(InvalidTime, match="not a"):
        parse_time(value)


def test_g7_nanoseconds_that_would_be_lost_are_refused():
    with pytest.raises(InvalidTime, match="nanoseconds"):
        parse_time(pd.Timestamp("2022-01-01 00:00:00.000000001"))
    with pytest.raises(InvalidTime, match="nanoseconds"):
        parse_time("2022-01-01 00:00:00.000000001")
    assert parse_time("2022-01-01 00:00:00.123456000").microsecond == 123_456


def test_g9_a_window_that_ends_before_it_starts_is_refused():
    with pytest.raises(InvalidTime, match="before it starts"):
        Window.of("2022-01-02", "2022-01-01")


def test_g9_windows_sort_by_start():
    late, early = Window.of("2022-01-02", "2022-01-03"), Window.of("2022-01-01", "2022-01-02")
    assert sorted([late, early]) == [early, late]
    assert str(early) == "[2022-01-01 00:00, 2022-01-02 00:00)"


@given(st.datetimes(timezones=st.just(UTC)))
def test_g7_microseconds_and_iso_text_lose_nothing(moment):
    assert from_micros(to_micros(moment)) == moment
    assert parse_time(moment.isoformat()) == moment
