"""The trading days of the New York Stock Exchange: when each opens and closes, early closes included. Pure.

What `exchange_calendars` knows: regular holidays to come, and the closures that nobody could foresee once they were
announced (two days of hurricane Sandy in 2012, days of mourning). A closure newer than the installed package is a day
without a bar.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from featurestore.errors import InvalidTime
from featurestore.times import EPOCH

Integers = npt.NDArray[np.int64]

EXCHANGE = "XNYS"
TIME_ZONE = "America/New_York"
FIRST, LAST = "1990-01-02", "2049-12-31"  # fixed, because the package's own default ends a year after today

DAY_US = 86_400_000_000


class Sessions(NamedTuple):
    """Trading days in order: local date (days since 1970), opening and close (microseconds since 1970, UTC)."""

    days: Integers
    opens: Integers
    closes: Integers


@lru_cache
def sessions() -> Sessions:
    """All trading days from 1990 to 2049."""
    import exchange_calendars

    table = exchange_calendars.get_calendar(EXCHANGE, start=FIRST, end=LAST).schedule
    days = table.index.to_numpy().astype("datetime64[D]").astype(np.int64)
    opens, closes = (table[name].dt.as_unit("us").astype("int64").to_numpy() for name in ("open", "close"))
    return Sessions(days, opens, closes)


def numbers_of(closed_at: pd.Series) -> Integers:
    """The number of each close among all closes: neighbours differ by one, whatever lies between.

    Raises:
        InvalidTime: a time that is no close of the exchange; the message has it.

    >>> numbers = numbers_of(pd.Series(pd.to_datetime(["2026-07-02T20:00Z", "2026-07-06T20:00Z"])))
    >>> int(numbers[1] - numbers[0])  # the 3rd is Independence Day, observed
    1
    >>> numbers_of(pd.Series(pd.to_datetime(["2026-07-03T20:00Z"])))
    Traceback (most recent call last):
        ...
    featurestore.errors.InvalidTime: 2026-07-03 20:00:00+00:00 is no close of the New York Stock Exchange...
    """
    closes = sessions().closes
    asked = closed_at.dt.as_unit("us").astype("int64").to_numpy()
    found = np.searchsorted(closes, asked)
    wrong = closes[np.minimum(found, len(closes) - 1)] != asked
    if wrong.any():
        raise InvalidTime(
            f"{closed_at.to_numpy()[wrong][0] if closed_at.dt.tz is None else closed_at[wrong].iloc[0]} is no close of "
            "the New York Stock Exchange (16:00 New York, 13:00 on early closes, never on a holiday). The source must "
            "say which trading day it means; if the exchange was open, exchange-calendars is out of date."
        )
    return found


def closes_between(start: datetime, end: datetime) -> pd.Series:
    """The closes in [start, end), UTC, in order.

    >>> from datetime import UTC
    >>> [str(close) for close in closes_between(datetime(2026, 11, 25, tzinfo=UTC), datetime(2026, 11, 28, tzinfo=UTC))]
    ['2026-11-25 21:00:00+00:00', '2026-11-27 18:00:00+00:00']
    """
    closes = sessions().closes
    first, last = (np.searchsorted(closes, micros(time)) for time in (start, end))
    return times(closes[first:last])


def close_of(days: pd.Series) -> pd.Series:
    """The close of each local day (datetime64, without zone); null where the exchange was closed.

    >>> close_of(pd.Series(pd.to_datetime(["2012-10-29", "2012-10-31"]))).isna().tolist()  # hurricane Sandy
    [True, False]
    """
    known = sessions()
    wanted = days.to_numpy().astype("datetime64[D]").astype(np.int64)
    found = np.minimum(np.searchsorted(known.days, wanted), len(known.days) - 1)
    return times(known.closes[found]).where(pd.Series(known.days[found] == wanted))


def is_session(day: date) -> bool:
    """Whether the exchange opens on a local day.

    >>> is_session(date(2026, 7, 3)), is_session(date(2026, 7, 6))
    (False, True)
    """
    return bool(np.isin(np.datetime64(day).astype("datetime64[D]").astype(np.int64), sessions().days))


def opens_of(numbers: Integers) -> pd.Series:
    """The openings of sessions by number, UTC."""
    return times(sessions().opens[numbers])


def closes_of(numbers: Integers) -> pd.Series:
    """The closes of sessions by number, UTC."""
    return times(sessions().closes[numbers])


def micros(time: datetime) -> int:
    """Microseconds since 1970."""
    return (time - EPOCH) // timedelta(microseconds=1)


def times(micros: Integers) -> pd.Series:
    """Microseconds since 1970 as times, UTC.

    >>> str(times(np.array([0]))[0])
    '1970-01-01 00:00:00+00:00'
    """
    return pd.Series(micros.astype("datetime64[us]")).dt.tz_localize("UTC")
