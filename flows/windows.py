"""Which stretch of time a run is for: half-open UTC windows that tile time from a group's watermark; the only clock."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta

from featurestore.errors import InvalidTime
from featurestore.times import EPOCH, Window

HOUR = timedelta(hours=1)

_frozen: ContextVar[datetime | None] = ContextVar("triptych_frozen_time", default=None)


def now() -> datetime:
    """The present, UTC: what the clock says, or the time set by `frozen`.

    >>> now().tzinfo
    datetime.timezone.utc
    """
    return _frozen.get() or datetime.now(UTC)


def scheduled_time() -> datetime:
    """The time this run is *for*, UTC: a Prefect run's scheduled start, else `now()`.

    A late run must write what it would have written on time, so windows end at its schedule and not at the moment
    a worker found time for it. A run started by hand is scheduled for the moment it was started.
    """
    frozen_time = _frozen.get()
    if frozen_time is not None:
        return frozen_time
    if "prefect" in sys.modules:  # never pay Prefect's import to learn that there is no run
        from prefect.context import FlowRunContext, TaskRunContext

        if FlowRunContext.get() is not None or TaskRunContext.get() is not None:
            from prefect.runtime import flow_run

            scheduled: datetime | None = flow_run.scheduled_start_time
            if scheduled is not None:
                return _utc(datetime.fromisoformat(scheduled.isoformat()), "the scheduled start time")
    return now()


@contextmanager
def frozen(at: datetime) -> Iterator[None]:
    """Stop the clock at a time, for tests and replays; in this thread and the tasks it starts.

    >>> with frozen(datetime(2026, 1, 1, tzinfo=UTC)):
    ...     print(now(), scheduled_time())
    2026-01-01 00:00:00+00:00 2026-01-01 00:00:00+00:00
    """
    token = _frozen.set(_utc(at, "the frozen time"))
    try:
        yield
    finally:
        _frozen.reset(token)


def floor(time: datetime, every: timedelta = HOUR) -> datetime:
    """The last multiple of `every` since 1970-01-01 00:00 UTC that is not after `time`.

    Raises:
        InvalidTime: the time is naive, or `every` is not positive.

    >>> floor(datetime(2026, 1, 1, 13, 59, tzinfo=UTC))
    datetime.datetime(2026, 1, 1, 13, 0, tzinfo=datetime.timezone.utc)
    >>> floor(datetime(2026, 1, 1, 13, 59, tzinfo=UTC), timedelta(days=1)).hour
    0
    """
    _check_positive(every)
    moment = _utc(time, "time")
    return moment - (moment - EPOCH) % every


def next_window(
    watermark: datetime | None,
    start: datetime | None = None,
    end: datetime | None = None,
    *,
    earliest: datetime,
    every: timedelta = HOUR,
    at: datetime | None = None,
) -> Window | None:
    """The window a run should write, or None when there is nothing to do and the run should end as "Skipped".

    What is given wins. Else it starts where the group's last committed window ended (`watermark`), or at `earliest`
    for an empty group, and ends at the last full multiple of `every` before the run's scheduled time: so runs tile
    time without gap or overlap, and one run after an outage covers all that was missed.

    Args:
        watermark: end of the last committed window of the group; None while it is empty.
        start, end: the run's parameters, timezone-aware. A rerun or a backfill gives both.
        earliest: where the source's history begins.
        every: grid of the end when it is not given.
        at: the time the run is for; default `scheduled_time()`.
    Raises:
        InvalidTime: the start lies after the end; the message has both. Or a time is naive.

    >>> at = datetime(2026, 1, 2, 10, 20, tzinfo=UTC)
    >>> print(next_window(datetime(2026, 1, 2, 8, tzinfo=UTC), earliest=datetime(2026, 1, 1, tzinfo=UTC), at=at))
    [2026-01-02 08:00, 2026-01-02 10:00)
    >>> print(next_window(datetime(2026, 1, 2, 10, tzinfo=UTC), earliest=datetime(2026, 1, 1, tzinfo=UTC), at=at))
    None
    >>> next_window(None, datetime(2026, 3, 1, tzinfo=UTC), earliest=datetime(2026, 1, 1, tzinfo=UTC), at=at)
    Traceback (most recent call last):
        ...
    featurestore.errors.InvalidTime: The window would start at 2026-03-01 00:00:00+00:00, after its end
    2026-01-02 10:00:00+00:00 (the last full 1:00:00 before the run's time). Give an earlier start or a later end.
    """
    window_end = floor(at or scheduled_time(), every) if end is None else _utc(end, "end")
    if start is None:
        begin = _utc(earliest, "earliest") if watermark is None else _utc(watermark, "the watermark")
        return Window(begin, window_end) if begin < window_end else None
    window_start = _utc(start, "start")
    if window_start > window_end:
        source = f" (the last full {every} before the run's time)" if end is None else ""
        raise InvalidTime(
            f"The window would start at {window_start}, after its end {window_end}{source}. "
            "Give an earlier start or a later end."
        )
    return Window(window_start, window_end) if window_start < window_end else None


def tiles(window: Window, every: timedelta) -> list[Window]:
    """The window cut at every multiple of `every` since 1970: the pieces cover it exactly, in order, without overlap.

    The first and the last piece are shorter where the window does not begin or end on a multiple, so the cuts do not
    depend on where somebody began: a backfill and the schedule cut at the same times. An empty window has no tiles.

    Raises:
        InvalidTime: the window ends before it starts, a time is naive, or `every` is not positive.

    >>> day = timedelta(days=1)
    >>> for tile in tiles(Window.of("2026-01-01T18:00", "2026-01-03T06:00"), day):
    ...     print(tile)
    [2026-01-01 18:00, 2026-01-02 00:00)
    [2026-01-02 00:00, 2026-01-03 00:00)
    [2026-01-03 00:00, 2026-01-03 06:00)
    """
    start, end = _utc(window.start, "the window's start"), _utc(window.end, "the window's end")
    if start > end:
        raise InvalidTime(f"The window ends at {end} before it starts at {start}. Swap the two.")
    pieces = []
    while start < end:
        stop = min(floor(start, every) + every, end)
        pieces.append(Window(start, stop))
        start = stop
    return pieces


def _utc(time: datetime, what: str) -> datetime:
    if time.tzinfo is None:
        raise InvalidTime(
            f"{what} = {time} has no time zone. Windows are UTC: write {time.isoformat()}+00:00 "
            "or pass datetime(..., tzinfo=UTC)."
        )
    return time.astimezone(UTC)


def _check_positive(every: timedelta) -> None:
    if every <= timedelta(0):
        raise InvalidTime(f"every = {every} is not a length of time. Give a positive one, such as one hour.")
