"""Daily bars and news sentiment from outside, in one shape: live, from tables, or made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd

from featurestore.errors import NotFound
from featurestore.times import Window
from flows import windows
from flows.settings import Settings
from flows.sources import data_folder, half_open, in_shape, read_table
from flows.stock import live, simulator
from flows.stock.sessions import close_of

BARS: Mapping[str, str] = {
    "symbol": "str",
    "closed_at": "datetime64[us, UTC]",
    "open": "float64",
    "high": "float64",
    "low": "float64",
    "close": "float64",
    "volume": "int64",
    "split": "float64",
    "dividend": "float64",
    "source": "str",
}
"""The columns every source gives, in order: prices in USD and shares as traded on the day, whatever was split since."""

NEWS: Mapping[str, str] = {
    "symbol": "str",
    "known_at": "datetime64[us, UTC]",
    "news_polarity": "float64",
    "source": "str",
}
"""Mean sentiment of a calendar day's articles, known at the midnight (UTC) that ends it; null without any article."""

SIMULATED, LIVE, TABLE = "simulated", "live", "files"
SOURCES = (SIMULATED, LIVE, TABLE)

PRICES_TABLE = "tsla_daily_ohlcv.parquet"
NEWS_TABLE = "tsla_news_sentiment_daily.parquet"
TABLE_SYMBOL = "TSLA"
TABLE_SPLITS: Mapping[date, float] = {date(2020, 8, 31): 5.0, date(2022, 8, 25): 3.0}
"""The splits that the table's prices are adjusted for."""

SPANS = {
    SIMULATED: simulator.SPAN,
    # A hundred days of the table are warm-up.
    TABLE: Window(datetime(2010, 10, 8, tzinfo=UTC), datetime(2023, 12, 30, tzinfo=UTC)),
}
LIVE_HISTORY = timedelta(days=3650)


def read_bars(
    start: datetime,
    end: datetime,
    *,
    as_of: datetime | None = None,
    source: str | None = None,
    symbols: Sequence[str] | None = None,
) -> pd.DataFrame:
    """The bars of the trading days that closed in [start, end), one row per symbol and day.

    Args:
        start, end: half-open, by the close; with a time zone.
        as_of: what the source gave at that time: bars it published late or corrected since are as they were. Default:
            now. Tables have no memory of that.
        source: one of `SOURCES`; default: what the settings say (`TRIPTYCH_DATA`, `TRIPTYCH_SOURCE`).
        symbols: default: `TRIPTYCH_STOCK_SYMBOLS`. The table has TSLA only.
    Returns:
        The columns and dtypes of `BARS`, the same from every source; ordered by close and symbol, index 0..n-1. Missing
        days are missing; the running day is not there before its close.
    Raises:
        InvalidTime: a time without time zone, or an end before the start.
        NotFound: an unknown source or symbol, or a missing folder or table.
        LiveSourceError: a live service failed; see `flows.http`.

    >>> week = read_bars(datetime(2026, 6, 29, tzinfo=UTC), datetime(2026, 7, 6, tzinfo=UTC), source="simulated",
    ...                  as_of=datetime(2026, 7, 6, tzinfo=UTC))
    >>> week["closed_at"].dt.day.tolist()  # Friday the 3rd is a holiday
    [29, 30, 1, 2]
    """
    window, name = half_open(start, end), _source_name(source)
    moment = windows.now() if as_of is None else as_of
    wanted = _symbols(symbols)
    if name == SIMULATED:
        rows = simulator.bars(window, symbols=wanted, as_of=moment)
    elif name == LIVE:
        rows = live.bars(window, symbols=wanted, as_of=moment)
    else:
        rows = _table_bars(window, wanted)
    return in_shape(rows, BARS, name, order=["closed_at", "symbol"])


def read_news(
    start: datetime, end: datetime, *, source: str | None = None, symbols: Sequence[str] | None = None
) -> pd.DataFrame:
    """The news sentiment that became known in [start, end), one row per symbol and calendar day that a feed covers.

    Args:
        start, end: half-open, by the midnight that ends the day.
        source, symbols: as for `read_bars`.
    Returns:
        The columns and dtypes of `NEWS`; ordered by time and symbol, index 0..n-1. A day without any article is null
        and never 0.0, which would be balanced news. Without a feed there are no rows.
    Raises:
        InvalidTime, NotFound, LiveSourceError: as `read_bars`.

    >>> days = read_news(datetime(2026, 7, 1, tzinfo=UTC), datetime(2026, 7, 8, tzinfo=UTC), source="simulated")
    >>> len(days), bool(days["news_polarity"].isna().any())
    (7, True)
    """
    window, name = half_open(start, end), _source_name(source)
    wanted = _symbols(symbols)
    if name == SIMULATED:
        rows = simulator.news(window, symbols=wanted)
    elif name == LIVE:
        rows = live.news(window, symbols=wanted)
    else:
        rows = _table_news(window)
    return in_shape(rows, NEWS, name, order=["known_at", "symbol"])


def has_news(*, source: str | None = None) -> bool:
    """Whether the source has a news feed at all."""
    return _source_name(source) != LIVE or live.has_news()


def span(*, source: str | None = None) -> Window:
    """The time a source has rows of, half-open; for the simulator that of the demo, live the last ten years.

    >>> str(span(source="files"))
    '[2010-10-08 00:00, 2023-12-30 00:00)'
    """
    name = _source_name(source)
    if name == LIVE:
        today = windows.floor(windows.scheduled_time(), timedelta(days=1))
        return Window(today - LIVE_HISTORY, today + timedelta(days=1))
    return SPANS[name]


def available_until(at: datetime, *, source: str | None = None) -> datetime:
    """Until when a source has rows, seen at a time: live and simulated until then, a table until its own end.

    >>> available_until(datetime(2026, 9, 1, tzinfo=UTC), source="files").isoformat()
    '2023-12-30T00:00:00+00:00'
    """
    name = _source_name(source)
    return at if name in (SIMULATED, LIVE) else min(at, SPANS[name].end)


def source_name() -> str:
    """The source the settings mean; a home holds rows of one source only."""
    return _source_name(None)


def _source_name(source: str | None) -> str:
    name = Settings().chosen_source if source is None else source
    if name not in SOURCES:
        raise NotFound(f"There is no source of stock prices {name!r}. Use one of {list(SOURCES)}.")
    return name


def _symbols(symbols: Sequence[str] | None) -> tuple[str, ...]:
    wanted = live.Services().each_symbol if symbols is None else tuple(symbols)
    if not wanted:
        raise NotFound("No stock is asked for. Set TRIPTYCH_STOCK_SYMBOLS, such as TSLA.")
    return wanted


# --- tables ------------------------------------------------------------------------------------------


def _table_bars(window: Window, symbols: Sequence[str]) -> pd.DataFrame:
    if other := sorted(set(symbols) - {TABLE_SYMBOL}):
        raise NotFound(
            f"The table {PRICES_TABLE} has {TABLE_SYMBOL} only, not {other}. Set TRIPTYCH_STOCK_SYMBOLS=TSLA."
        )
    names = ["date", "symbol", "open", "high", "low", "close", "volume"]
    rows = read_table(data_folder("tesla_stock", of="stock prices") / PRICES_TABLE, names)
    later, split = np.ones(len(rows)), np.ones(len(rows))
    for day, ratio in TABLE_SPLITS.items():
        later = np.where(rows["date"].dt.date < day, later * ratio, later)
        split = np.where(rows["date"].dt.date == day, ratio, split)
    prices = {name: (rows[name] * later).round(4) for name in ("open", "high", "low", "close")}
    rows = rows.assign(
        **prices, volume=np.rint(rows["volume"] / later).astype("int64"), split=split, dividend=0.0,
        closed_at=close_of(rows["date"]),
    )  # fmt: skip
    return rows[(rows["closed_at"] >= window.start) & (rows["closed_at"] < window.end)]


def _table_news(window: Window) -> pd.DataFrame:
    rows = read_table(
        data_folder("tesla_stock", of="news") / NEWS_TABLE, ["date", "symbol", "news_polarity_mean"]
    )  # fmt: skip
    polarity = rows["news_polarity_mean"]
    rows = rows.assign(
        known_at=(rows["date"] + pd.Timedelta(days=1)).dt.tz_localize("UTC").dt.as_unit("us"),
        # The table's authors filled days without articles with 0; a mean of several scores is never exactly that.
        news_polarity=polarity.where(polarity != 0.0),
    )
    return rows[(rows["known_at"] >= window.start) & (rows["known_at"] < window.end)]
