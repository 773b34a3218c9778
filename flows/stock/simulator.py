"""A made-up stock exchange: bars and news of any trading days, from a seed alone, without any edge in them.

Prices are a geometric random walk with volatility that clusters. Nothing known at a close says anything about the sign
of the next return, unless an edge is planted (`Trouble.edge`), which is how tests show that the gate accepts a real
one. Every random number is made from the seed, the symbol and the day's number, and every walk begins on the same day,
so any window has the same rows whatever was asked before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd

from featurestore.times import Window
from flows.noise import normal, smooth, uniform
from flows.stock.sessions import DAY_US, Integers, closes_between, micros, numbers_of, sessions, times

SEED = 7
BEGIN = datetime(2014, 1, 1, tzinfo=UTC)
"""Where the walks begin; there is nothing before."""

OTHERS = ("AAXA", "BBYB", "CCZC", "DDWD", "EEVE", "FFUF", "GGTG", "HHSH")
"""Further made-up symbols. Any other text is one too."""

FIRST_PRICE = 150.0
DRIFT = 0.0006
VOLATILITY = 0.033


@dataclass(frozen=True)
class Trouble:
    """What goes wrong in the made-up world; by default a little of what does go wrong in the real one.

    Args:
        late_share: share of bars that are published 20 hours late.
        revised_share: share of bars whose volume is first published 1 % too high and corrected after a day.
        missing_share: share of bars that are never published.
        outages: windows of closes in which nothing is ever published.
        quiet_news_share: share of days without any article.
        drift_from: from then on volatility is `drift` times as high.
        splits: shares that one share becomes, by the day on which it does.
        edge: how much of the next day's move the size of the day's own move decides: up after quiet days, down after
            wild ones. 0 is the real world.
    """

    late_share: float = 0.002
    revised_share: float = 0.004
    missing_share: float = 0.001
    outages: tuple[Window, ...] = ()
    quiet_news_share: float = 0.35
    drift_from: datetime | None = None
    drift: float = 1.8
    splits: Mapping[date, float] = field(default_factory=lambda: {date(2020, 8, 31): 5.0, date(2025, 8, 25): 3.0})
    edge: float = 0.0


LATE = timedelta(hours=20)
REVISED_AFTER = timedelta(hours=24)
CALM = Trouble(late_share=0.0, revised_share=0.0, missing_share=0.0)


def bars(
    window: Window, *, symbols: Sequence[str], as_of: datetime, trouble: Trouble | None = None, seed: int = SEED
) -> pd.DataFrame:
    """The bars of the closes in [start, end), as published by a time.

    Returns:
        symbol, closed_at, open, high, low, close (USD as traded), volume, split, dividend: no order promised; bars not
        published by then are missing.

    >>> week = Window.of("2025-08-18", "2025-08-30")
    >>> rows = bars(week, symbols=["TSLA"], as_of=week.end, trouble=CALM)
    >>> len(rows), rows["split"].tolist()[5]
    (10, 3.0)
    """
    trouble = trouble or Trouble()
    closes = closes_between(BEGIN, window.end)
    parts = [_walk(symbol, closes, trouble, seed) for symbol in symbols]
    rows = pd.concat([_NO_BARS, *parts], ignore_index=True) if len(closes) else _NO_BARS
    rows = rows[(rows["closed_at"] >= window.start) & (rows["closed_at"] <= as_of)]
    symbol, number = _codes(rows["symbol"]), numbers_of(rows["closed_at"])
    draw = uniform(seed, 11, symbol, number)
    is_missing = draw < trouble.missing_share
    is_late = ~is_missing & (draw < trouble.missing_share + trouble.late_share)
    is_revised = ~is_missing & ~is_late & (draw > 1 - trouble.revised_share)
    age = as_of - rows["closed_at"]
    for outage in trouble.outages:
        is_missing |= ((rows["closed_at"] >= outage.start) & (rows["closed_at"] < outage.end)).to_numpy()
    too_high = is_revised & (age < REVISED_AFTER).to_numpy()
    volume = np.where(too_high, rows["volume"] * 1.01, rows["volume"]).astype(np.int64)
    published = ~is_missing & ~(is_late & (age < LATE).to_numpy())
    return rows.assign(volume=volume)[published]


def news(
    window: Window, *, symbols: Sequence[str], trouble: Trouble | None = None, seed: int = SEED
) -> pd.DataFrame:  # fmt: skip
    """The news whose day ended in [start, end): of every calendar day, and of nothing to come.

    Returns:
        symbol, known_at, news_polarity (null on a day without articles).
    """
    trouble = trouble or Trouble()
    first, last = (-(-micros(time) // DAY_US) for time in (window.start, window.end))
    day = np.arange(max(first, micros(BEGIN) // DAY_US), last, dtype=np.int64)
    parts = [_NO_NEWS]
    for symbol in symbols if len(day) else ():
        code = np.full(len(day), _code(symbol))
        mood = 0.16 + 0.25 * normal(seed, 41, code, day // 9) + 0.3 * normal(seed, 42, code, day)
        quiet = uniform(seed, 43, code, day) < trouble.quiet_news_share
        polarity = np.where(quiet, np.nan, np.round(np.clip(mood, -1, 1), 3))
        parts.append(pd.DataFrame({"symbol": _text(symbol, len(day)), "known_at": times(day * DAY_US),
                                   "news_polarity": polarity}))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


_NO_BARS = pd.DataFrame(
    {"symbol": pd.Series(dtype="str"), "closed_at": pd.Series(dtype="datetime64[us, UTC]")}
    | {name: pd.Series(dtype="float64") for name in ("open", "high", "low", "close")}
    | {"volume": pd.Series(dtype="int64")}
    | {name: pd.Series(dtype="float64") for name in ("split", "dividend")}
)
_NO_NEWS = pd.DataFrame(
    {"symbol": pd.Series(dtype="str"), "known_at": pd.Series(dtype="datetime64[us, UTC]"),
     "news_polarity": pd.Series(dtype="float64")}
)  # fmt: skip


def _walk(symbol: str, closes: pd.Series, trouble: Trouble, seed: int) -> pd.DataFrame:
    """All bars of a symbol from the beginning on, whole and in time."""
    number = numbers_of(closes)
    code = np.full(len(number), _code(symbol))
    level = np.exp(0.35 * smooth(seed, 1, code, number, 60) + 0.25 * smooth(seed, 2, code, number, 9))
    volatility = VOLATILITY * level
    if trouble.drift_from is not None:
        volatility = np.where(closes >= trouble.drift_from, volatility * trouble.drift, volatility)
    shock = normal(seed, 3, code, number)
    yesterday = normal(seed, 3, code, number - 1)
    told = trouble.edge * 1.5 * (np.cos(2 * yesterday) - np.exp(-2))  # of mean 0 and about unit variance
    move = DRIFT + volatility * (np.sqrt(1 - trouble.edge**2) * shock + told)
    overnight = 0.35 * move + 0.3 * volatility * normal(seed, 4, code, number)
    path = np.cumsum(move)
    close, opening = np.exp(path), np.exp(path - move + overnight)
    reach = volatility * np.abs(normal(seed, 5, code, number)) * 0.6
    depth = volatility * np.abs(normal(seed, 6, code, number)) * 0.6
    shares = np.ones(len(number))
    split = np.ones(len(number))
    day = sessions().days[number]
    for when, ratio in trouble.splits.items():
        since = np.datetime64(when).astype("datetime64[D]").astype(np.int64)
        shares = np.where(day >= since, shares * ratio, shares)
        split = np.where(np.arange(len(day)) == np.searchsorted(day, since), ratio, split)
    price = FIRST_PRICE * 10 ** (0.5 * uniform(seed, 7, code, 0 * number) - 0.2) / shares
    activity = np.exp(0.6 * np.abs(shock) + 0.5 * smooth(seed, 8, code, number, 20) + 0.2 * level)
    high = np.maximum(opening, close) * np.exp(reach)
    low = np.minimum(opening, close) * np.exp(-depth)
    rounded = {name: np.round(value * price, 4) for name, value in
               (("open", opening), ("high", high), ("low", low), ("close", close))}  # fmt: skip
    return pd.DataFrame(
        {"symbol": _text(symbol, len(number)), "closed_at": closes.to_numpy(), **rounded,
         "volume": np.rint(2e7 * shares * activity).astype(np.int64), "split": split, "dividend": 0.0}
    ).assign(closed_at=closes)  # fmt: skip


def _text(symbol: str, n: int) -> pd.Series:
    return pd.Series(symbol, index=range(n), dtype="str")


def _codes(symbols: pd.Series) -> Integers:
    known = {symbol: _code(symbol) for symbol in set(symbols)}
    return symbols.map(known).to_numpy(np.int64) if len(symbols) else np.empty(0, np.int64)


def _code(symbol: str) -> int:
    return int.from_bytes(symbol.encode()[:7], "big")


SPAN = Window(datetime(2015, 1, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC))
"""What the demo reads. The simulator itself makes up any day from 2014 on."""
