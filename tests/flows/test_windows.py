"""Windows tile time: no gap, no overlap, the same cuts for schedule and backfill."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import InvalidTime
from featurestore.times import Window
from flows import windows

EARLIEST = datetime(2026, 1, 1, tzinfo=UTC)

times = st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))
lengths = st.timedeltas(timedelta(0), timedelta(days=20))
grids = st.sampled_from([timedelta(minutes=30), timedelta(hours=1), timedelta(hours=7), timedelta(days=1)])


def utc(day: int, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(2026, 1, day, hour, minute, tzinfo=UTC)


def test_empty_group_starts_at_the_earliest_time_of_the_source():
    assert windows.next_window(None, earliest=EARLIEST, at=utc(2, 5, 59)) == Window(utc(1), utc(2, 5))


def test_next_window_starts_where_the_last_ended():
    assert windows.next_window(utc(2), earliest=EARLIEST, at=utc(2, 3, 30)) == Window(utc(2), utc(2, 3))


def test_three_days_of_outage_are_one_window():
    assert windows.next_window(utc(2), earliest=EARLIEST, at=utc(5)) == Window(utc(2), utc(5))


def test_nothing_new_within_the_hour_gives_no_window():
    assert windows.next_window(utc(2, 3), earliest=EARLIEST, at=utc(2, 3, 59)) is None


def test_watermark_ahead_of_the_schedule_gives_no_window():
    """A late run that finds its window already written by a later one has nothing to do."""
    assert windows.next_window(utc(3), earliest=EARLIEST, at=utc(2)) is None


def test_given_start_and_end_win_over_the_watermark():
    assert windows.next_window(utc(9), utc(2), utc(3, 0, 30), earliest=EARLIEST) == Window(utc(2), utc(3, 0, 30))


def test_given_end_alone_starts_at_the_watermark():
    assert windows.next_window(utc(2), None, utc(4), earliest=EARLIEST) == Window(utc(2), utc(4))


def test_given_start_alone_ends_at_the_last_full_hour():
    assert windows.next_window(utc(9), utc(2), earliest=EARLIEST, at=utc(10, 1, 1)) == Window(utc(2), utc(10, 1))


def test_given_empty_window_is_skipped():
    assert windows.next_window(None, utc(2), utc(2), earliest=EARLIEST) is None


def test_start_after_end_names_both():
    with pytest.raises(InvalidTime, match=r"2026-01-03 00:00:00\+00:00.*2026-01-02 00:00:00\+00:00"):
        windows.next_window(None, utc(3), utc(2), earliest=EARLIEST)


@pytest.mark.parametrize("name", ["start", "end", "watermark", "earliest"])
def test_naive_time_is_refused_by_name(name):
    naive = datetime(2026, 1, 1)
    given_times: dict = {"watermark": None, "start": None, "end": utc(2), "earliest": EARLIEST, name: naive}
    with pytest.raises(InvalidTime, match=f"{name} = 2026-01-01.*no time zone"):
        windows.next_window(**given_times)


def test_other_zones_become_utc():
    warsaw_winter = timezone(timedelta(hours=1))
    window = windows.next_window(None, datetime(2026, 1, 2, tzinfo=warsaw_winter), utc(2), earliest=EARLIEST)
    assert window == Window(utc(1, 23), utc(2))
    assert window.start.tzinfo is UTC


@pytest.mark.parametrize("every", [timedelta(0), -timedelta(hours=1)])
def test_grid_that_is_not_positive_is_refused(every):
    with pytest.raises(InvalidTime, match="every"):
        windows.tiles(Window(utc(1), utc(2)), every)


@given(times, lengths, grids)
def test_tiles_cover_the_window_without_gap_or_overlap(start, length, every):
    window = Window(start, start + length)
    pieces = windows.tiles(window, every)
    edges = [window.start, *(piece.end for piece in pieces)]
    assert [piece.start for piece in pieces] == edges[:-1]
    assert edges[-1] == window.end
    assert all(timedelta(0) < piece.end - piece.start <= every for piece in pieces)


@given(times, lengths, grids)
def test_inner_cuts_are_multiples_whatever_the_start(start, length, every):
    pieces = windows.tiles(Window(start, start + length), every)
    assert all(windows.floor(piece.start, every) == piece.start for piece in pieces[1:])


@given(times, lengths, grids)
def test_tiling_a_tile_changes_nothing(start, length, every):
    for piece in windows.tiles(Window(start, start + length), every):
        assert windows.tiles(piece, every) == [piece]


@given(times, lengths, grids, st.integers(0, 30))
def test_backfill_cuts_where_the_increments_cut(start, length, every, steps):
    """[a, c) cut at once == [a, b) then [b, c), for every b on the grid."""
    end = start + length
    middle = min(max(windows.floor(start, every) + steps * every, start), end)
    whole = windows.tiles(Window(start, end), every)
    assert whole == windows.tiles(Window(start, middle), every) + windows.tiles(Window(middle, end), every)


@given(times, grids)
def test_floor_is_at_most_one_step_back_and_stays(time, every):
    below = windows.floor(time, every)
    assert timedelta(0) <= time - below < every
    assert windows.floor(below, every) == below


@given(st.lists(st.timedeltas(timedelta(0), timedelta(days=3)), max_size=8))
def test_runs_at_any_times_tile_what_one_run_covers(pauses):
    """The watermark law: whenever runs happen, their windows joined are the window of one run at the end."""
    clock, watermark, written = EARLIEST, None, []
    for pause in pauses:
        clock += pause
        window = windows.next_window(watermark, earliest=EARLIEST, at=clock)
        if window is not None:
            written.append(window)
            watermark = window.end
    whole = windows.next_window(None, earliest=EARLIEST, at=clock)
    assert [piece for window in written for piece in windows.tiles(window, windows.HOUR)] == (
        [] if whole is None else windows.tiles(whole, windows.HOUR)
    )


def test_frozen_clock_is_given_back():
    with windows.frozen(utc(1)):
        assert windows.now() == windows.scheduled_time() == utc(1)
    assert windows.now() > utc(1)


def test_outside_a_run_the_scheduled_time_is_now():
    before = windows.now()
    assert before <= windows.scheduled_time() <= windows.now()


def test_late_run_is_for_its_schedule(prefect_api):
    """A run scheduled for 03:10 that a worker starts days later ends its window at 03:00 of that day."""
    from prefect import flow, task
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow
    from prefect.states import Scheduled

    @task
    def in_a_task() -> datetime:
        return windows.scheduled_time()

    @flow
    def late() -> tuple[Window | None, datetime]:
        return windows.next_window(utc(2), earliest=EARLIEST), in_a_task()

    with get_client(sync_client=True) as client:
        run = client.create_flow_run(late, state=Scheduled(scheduled_time=utc(2, 3, 10)))
    window, task_time = run_flow(late, flow_run=run)
    assert window == Window(utc(2), utc(2, 3))
    assert task_time == utc(2, 3, 10)
