"""Times as the store means them: UTC, whole microseconds, half-open windows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from featurestore.errors import InvalidTime

TimeLike = datetime | date | str | int | float

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# Larger epoch numbers are milliseconds: as seconds this is the year 5138, as milliseconds it is March 1973.
_SECONDS_END = 100_000_000_000
_DIGIT_FORMATS = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
# Smaller whole numbers are Delta versions where either may be given: as an epoch this is March 1973.
_VERSIONS_END = 100_000_000
_EXPECTED = (
    "a datetime or date, ISO text such as '2022-01-31', '2022/01/31 12:00:01', '20220131' or "
    "'2022-01-31T12:00:00+02:00', or an epoch in seconds or milliseconds"
)


class Window(NamedTuple):
    """A half-open stretch of time `[start, end)`, both timezone-aware UTC.

    >>> Window.of("2022-01-01", "2022-01-02").end
    datetime.datetime(2022, 1, 2, 0, 0, tzinfo=datetime.timezone.utc)
    """

    start: datetime
    end: datetime

    @classmethod
    def of(cls, start: TimeLike, end: TimeLike) -> Window:
        """The window between two times of any accepted form.

        Raises:
            InvalidTime: one of them cannot be read, or the end lies before the start.
        """
        window = cls(parse_time(start), parse_time(end))
        if window.end < window.start:
            raise InvalidTime(f"The window ends at {window.end} before it starts at {window.start}. Swap the two.")
        return window

    def __str__(self) -> str:
        return f"[{self.start:%Y-%m-%d %H:%M}, {self.end:%Y-%m-%d %H:%M})"


def gaps_between(windows: Sequence[Window]) -> list[Window]:
    """What no window covers between the first start and the last end, in order of time.

    >>> first, second = Window.of("2022-01-01", "2022-01-02"), Window.of("2022-01-04", "2022-01-05")
    >>> gaps_between([second, first]) == [Window(first.end, second.start)]
    True
    """
    gaps: list[Window] = []
    ordered = sorted(windows)
    reached = ordered[0].start if ordered else EPOCH
    for window in ordered:
        if window.start > reached:
            gaps.append(Window(reached, window.start))
        reached = max(reached, window.end)
    return gaps


def parse_time(value: TimeLike) -> datetime:
    """The UTC datetime, to the microsecond, that a value stands for. Naive times are taken as UTC, dates as midnight.

    Raises:
        InvalidTime: the value is none of the accepted forms, or has nanoseconds that would be lost.

    >>> parse_time("2022/01/01 02:00:01+02:00")
    datetime.datetime(2022, 1, 1, 0, 0, 1, tzinfo=datetime.timezone.utc)
    >>> parse_time(1_640_995_200) == parse_time(1_640_995_200_000) == parse_time("20220101")
    True
    >>> parse_time("tomorrow")
    Traceback (most recent call last):
        ...
    featurestore.errors.InvalidTime: 'tomorrow' is not a time. Expected a datetime or date, ISO text such as ...
    """
    if isinstance(value, datetime):
        if value != value:  # pandas' NaT is a datetime that differs from itself
            raise InvalidTime("NaT is not a time. Drop missing times first.")
        if getattr(value, "nanosecond", 0):
            raise InvalidTime(f"{value!r} has nanoseconds; times are whole microseconds. Round it first.")
        plain = datetime.fromisoformat(value.isoformat()) if hasattr(value, "nanosecond") else value
        return plain.replace(tzinfo=UTC) if plain.tzinfo is None else plain.astimezone(UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, str):
        return _parse_text(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value if abs(value) < _SECONDS_END else value / 1000
        try:
            return EPOCH + timedelta(seconds=seconds)
        except (OverflowError, ValueError) as error:
            raise InvalidTime(f"{value!r} is not an epoch a datetime can hold. Expected {_EXPECTED}.") from error
    raise InvalidTime(f"{value!r} ({type(value).__name__}) is not a time. Expected {_EXPECTED}.")


def is_version(value: object) -> bool:
    """Whether "a version or a time" is meant as a version: a whole number below 100,000,000.

    >>> is_version(7), is_version(1_640_995_200), is_version("20220101")
    (True, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and value < _VERSIONS_END


def _parse_text(text: str) -> datetime:
    cleaned = text.strip().replace("/", "-")
    try:
        if re.fullmatch(r"\d+", cleaned, re.ASCII) and len(cleaned) in _DIGIT_FORMATS:
            return datetime.strptime(cleaned, _DIGIT_FORMATS[len(cleaned)]).replace(tzinfo=UTC)
        if re.search(r"\.\d{6}\d*[1-9]", cleaned, re.ASCII):  # Python would cut them off
            raise InvalidTime(f"{text!r} has nanoseconds; times are whole microseconds. Round it first.")
        return parse_time(datetime.fromisoformat(cleaned))
    except InvalidTime:
        raise
    except ValueError as error:
        raise InvalidTime(f"{text!r} is not a time. Expected {_EXPECTED}.") from error


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970, exactly (a float of seconds would lose them)."""
    return (moment - EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The UTC datetime of `to_micros`."""
    return EPOCH + timedelta(microseconds=micros)
