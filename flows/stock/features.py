"""The stock system's features: pure functions from daily bars and news to the rows of its feature groups.

No clock, no environment, no network, no store. Prices enter as logarithms in whole units of 1e-8, so that sums do not
depend on the rows before their window: a row computed by a daily run is equal, to the last bit, to the same row of a
backfill. Nothing but the close itself depends on a share's size: after a split all features are what they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from featurestore.errors import InvalidData, InvalidTime, SchemaMismatch
from featurestore.times import Window
from flows.rules import columns
from flows.stock.schema import FEATURES, MEAN_DAYS, OUTCOMES, RETURN_DAYS, VOLATILITY_DAYS
from flows.stock.sessions import DAY_US, TIME_ZONE, closes_between, closes_of, numbers_of, sessions

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

WARM_UP = timedelta(days=100)
"""History that `stock_features` needs before its first row: 61 trading days, holidays included."""

OUTCOME_WARM_UP = timedelta(days=8)
"""History that `known_outcomes` needs: the trading day before, also over the longest closure (a week, in 2001)."""

NEWS_DAYS = 28
_ALPHA = 2 / (7 + 1)  # of an exponential mean with a span of seven days
_ENOUGH = 0.75  # of a window's days: a mean over fewer is null
_UNIT = 1e8  # of a logarithm: a ten-thousandth of a basis point


def stock_features(bars: pd.DataFrame, news: pd.DataFrame) -> pd.DataFrame:
    """What is known of a stock at the close of a trading day.

    Args:
        bars: symbol (str), closed_at (UTC, a close of the exchange), open, high, low, close (USD as traded), volume
            (shares as traded), split (shares that one share became since the bar before). Missing days may be missing.
            Any order, any index.
        news: symbol (str), known_at (UTC, midnight), news_polarity (-1..1, null for a day without articles): a row for
            each day that the feed covers. May be empty: then all of news is null.
    Returns:
        The columns of `schema.FEATURES`, one row per bar, ordered by closed_at and symbol, index 0..n-1.
        A day earlier is a trading day earlier, not a row earlier: where that day's bar is missing, what needs it is
        null. Means and volatilities are null when more than a quarter of their days are missing. News counts once its
        day is over, which is after the close of that day: at a close the newest is of the day before.
        Empty in, empty out, same columns.
    Raises:
        SchemaMismatch: a column is missing; the message names it and the columns there are.
        InvalidTime: a time has no time zone, or is no close of the exchange.
        InvalidData: a symbol has a close twice, or a price that is not above zero.

    >>> bars = pd.DataFrame({
    ...     "symbol": "TSLA", "closed_at": pd.to_datetime(["2022-08-24T20:00Z", "2022-08-25T20:00Z"]),
    ...     "open": [893.6, 302.36], "high": [902.28, 302.96], "low": [883.1, 291.6], "close": [891.29, 296.07],
    ...     "volume": [19_086_000, 53_230_000], "split": [1.0, 3.0]})
    >>> rows = stock_features(bars, pd.DataFrame({"symbol": [], "known_at": pd.to_datetime([], utc=True),
    ...                                           "news_polarity": []}))
    >>> rows["return_1d"].round(4).tolist()  # 296.07 * 3 / 891.29 - 1: a split is no loss
    [nan, -0.0035]
    """
    given = _checked(bars, ["symbol", "closed_at", "open", "high", "low", "close", "volume", "split"], name="bars")
    given = given.sort_values(["closed_at", "symbol"], ignore_index=True)
    grid = _Grid.of(given)
    at = grid.place(given)
    price, volume = grid.price, grid.volume

    result: dict[str, Any] = {name: given[name].array for name in ("symbol", "closed_at", "close")}
    result["day"] = day_of(given["closed_at"]).array
    for days in RETURN_DAYS:
        result[f"return_{days}d"] = np.expm1(price.change(at, days))
    daily = grid.daily_returns
    volatility = {days: np.sqrt(daily.mean_of_squares(at, days)) for days in VOLATILITY_DAYS}
    result |= {f"volatility_{days}d": volatility[days] for days in VOLATILITY_DAYS}
    result["volatility_5d_to_20d"] = _over(volatility[5], volatility[20])
    result["volatility_20d_to_60d"] = _over(volatility[20], volatility[60])
    result["return_1d_in_volatility"] = _over(price.change(at, 1), volatility[20])
    now = price.at(at)
    result |= {f"close_to_mean_{days}d": now - price.mean(at, days) for days in MEAN_DAYS}
    result["close_to_high_60d"] = now - price.highest(at, 60)
    result["volume_to_mean_20d"] = volume.at(at) - volume.mean(at, 20)
    result["volume_5d_to_60d"] = volume.mean(at, 5) - volume.mean(at, 60)
    day_range = grid.day_range.at(at)
    result["range_1d"] = day_range
    result["range_to_mean_20d"] = _over(day_range, grid.day_range.mean(at, 20))
    high, low, close = (given[name].to_numpy(np.float64) for name in ("high", "low", "close"))
    result["close_in_range"] = _over(close - low, high - low)
    result["gap_1d"] = grid.opening.at(at) - price.at(at, earlier=1)
    result["return_intraday"] = now - grid.opening.at(at)
    result |= _calendar(given["closed_at"])
    result |= _news(given, _checked(news, ["symbol", "known_at", "news_polarity"], name="news"))
    return pd.DataFrame(result, columns=columns(FEATURES))


def known_outcomes(bars: pd.DataFrame) -> pd.DataFrame:
    """What came of each trading day at the next one's close: what a model learns from.

    Args:
        bars: symbol, closed_at, close (USD as traded), split, as `stock_features`.
    Returns:
        The columns of `schema.OUTCOMES`, one row per bar whose next trading day has a bar too, ordered by known_at and
        symbol, index 0..n-1. Where the next day's bar is missing there is no outcome: the day after it is another
        question. Empty in, empty out, same columns.
    Raises:
        SchemaMismatch, InvalidTime, InvalidData: as `stock_features`.

    >>> bars = pd.DataFrame({
    ...     "symbol": "TSLA", "closed_at": pd.to_datetime(["2022-08-24T20:00Z", "2022-08-25T20:00Z"]),
    ...     "close": [891.29, 296.07], "split": [1.0, 3.0]})
    >>> known_outcomes(bars)[["next_return", "next_up", "next_close"]].round(4).to_numpy().tolist()
    [[-0.0035, 0.0, 888.21]]
    """
    given = _checked(bars, ["symbol", "closed_at", "close", "split"], name="bars")
    given = given.assign(number=numbers_of(given["closed_at"]))
    following = given.assign(number=given["number"] - 1, known_at=given["closed_at"])
    rows = given[["symbol", "closed_at", "close", "number"]].merge(
        following[["symbol", "number", "known_at", "close", "split"]], on=["symbol", "number"], suffixes=("", "_next")
    )
    rows = rows.sort_values(["known_at", "symbol"], ignore_index=True)
    next_close = rows["close_next"] * rows["split"]
    change = next_close / rows["close"] - 1
    rows = rows.assign(
        day=day_of(rows["closed_at"]), next_return=change, next_up=(change > 0).astype("int64"), next_close=next_close
    )
    return rows[columns(OUTCOMES)]


def since(rows: pd.DataFrame, time: str, start: datetime) -> pd.DataFrame:
    """The rows whose time is not before the start: what is left when the warm-up has done its work.

    >>> at = pd.to_datetime(["2026-01-01", "2026-01-02"], utc=True)
    >>> len(since(pd.DataFrame({"closed_at": at}), "closed_at", at[1].to_pydatetime()))
    1
    """
    return rows[rows[time] >= start].reset_index(drop=True)


# --- calendar and news -------------------------------------------------------------------------------


def _calendar(closed_at: pd.Series) -> dict[str, Any]:
    number, known = numbers_of(closed_at), sessions()
    local = closed_at.dt.tz_convert(TIME_ZONE)
    return {
        "weekday": local.dt.day_of_week.to_numpy(np.int64),
        "month": local.dt.month.to_numpy(np.int64),
        "days_since_previous": known.days[number] - known.days[number - 1],
        "days_to_next": known.days[number + 1] - known.days[number],
        "is_early_close": local.dt.hour.to_numpy() < 16,
    }


def _news(given: pd.DataFrame, news: pd.DataFrame) -> dict[str, Any]:
    """News of the whole days before each close; a day's articles are known when the day is over (UTC)."""
    if news.duplicated(["symbol", "known_at"]).any():
        twice = news[news.duplicated(["symbol", "known_at"])].iloc[0]
        raise InvalidData(f"news has {twice['symbol']} at {twice['known_at']} more than once. The source must choose.")
    newest = _days(given["closed_at"])  # the midnight before the close ends the newest whole day
    polarity = pd.Series(
        news["news_polarity"].to_numpy(np.float64),
        index=pd.MultiIndex.from_arrays([news["symbol"].astype("str"), _days(news["known_at"])]),
    )
    symbols = given["symbol"].astype("str")
    found, covered = [], []
    for back in range(NEWS_DAYS):
        wanted = pd.MultiIndex.from_arrays([symbols, newest - back])
        place = polarity.index.get_indexer(wanted)
        value = polarity.to_numpy()[place] if len(polarity) else np.full(len(given), np.nan)
        found.append(np.where(place >= 0, value, np.nan))
        covered.append(place >= 0)
    values, there = np.stack(found), ~np.isnan(np.stack(found))
    weights = np.where(there, (1 - _ALPHA) ** np.arange(NEWS_DAYS)[:, None], 0.0)
    filled = np.where(there, values, 0.0)
    days_7d = there[:7].sum(axis=0)
    return {
        "news_polarity_1d": values[0],
        "news_polarity_7d": _over(_total(filled[:7]), days_7d.astype(np.float64)),
        "news_polarity_ewm_7d": _over(_total(filled * weights), _total(weights)),
        "news_days_7d": pd.array(
            np.where(np.stack(covered[:7]).any(axis=0), days_7d.astype(object), None), dtype="Int64"
        ),
    }


def _total(rows: Floats) -> Floats:
    """The sum over the first axis, term by term: the same for a row wherever it stands in its frame."""
    total = np.zeros(rows.shape[1])
    for row in rows:
        total = total + row
    return total


# --- days as a grid ----------------------------------------------------------------------------------


class _Series(NamedTuple):
    """Whole numbers of each symbol at each trading day; `there` says which there are. Places are (row, column)."""

    values: Integers
    there: Booleans
    sums: Integers
    counts: Integers

    @classmethod
    def of(cls, values: Integers, there: Booleans) -> _Series:
        values = np.where(there, values, 0)
        nothing = np.zeros((len(values), 1), np.int64)
        sums, counts = (np.hstack([nothing, np.cumsum(grid, axis=1)]) for grid in (values, there.astype(np.int64)))
        return cls(values, there, sums, counts)

    def at(self, place: tuple[Integers, Integers], *, earlier: int = 0) -> Floats:
        """The values so many trading days earlier; NaN where there is none."""
        row, column = place[0], place[1] - earlier
        usable = column >= 0
        usable &= self.there[row, np.where(usable, column, 0)]
        return np.where(usable, self.values[row, np.where(usable, column, 0)] / _UNIT, np.nan)

    def change(self, place: tuple[Integers, Integers], days: int) -> Floats:
        """By how much the value has grown in so many trading days; NaN where either end is missing."""
        row, column = place[0], place[1] - days
        usable = column >= 0
        column = np.where(usable, column, 0)
        usable &= self.there[row, column] & self.there[place]
        return np.where(usable, (self.values[place] - self.values[row, column]) / _UNIT, np.nan)

    def mean(self, place: tuple[Integers, Integers], days: int) -> Floats:
        """The mean over the last trading days, this one included; NaN where too few are there."""
        row, end = place[0], place[1] + 1
        begin = np.maximum(end - days, 0)
        count = self.counts[row, end] - self.counts[row, begin]
        total = self.sums[row, end] - self.sums[row, begin]
        with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 is one of the means that are not enough
            return np.where(count >= _ENOUGH * days, total / (count * _UNIT), np.nan)

    def mean_of_squares(self, place: tuple[Integers, Integers], days: int) -> Floats:
        """The mean of the squares, as `mean`."""
        return _Series.of(self.values**2, self.there).mean(place, days) / _UNIT

    def highest(self, place: tuple[Integers, Integers], days: int) -> Floats:
        """The highest value of the last trading days, this one included; NaN where too few are there."""
        lowest = np.iinfo(np.int64).min
        filled = np.where(self.there, self.values, lowest)
        padded = np.hstack([np.full((len(filled), days - 1), lowest), filled])
        top = np.lib.stride_tricks.sliding_window_view(padded, days, axis=1).max(axis=2)
        return np.where(np.isnan(self.mean(place, days)), np.nan, top[place] / _UNIT)


class _Grid(NamedTuple):
    """The bars of each symbol on one axis of trading days, as logarithms; prices and volumes as if never split."""

    symbols: tuple[str, ...]
    first: int
    price: _Series
    opening: _Series
    volume: _Series
    day_range: _Series
    daily_returns: _Series

    @classmethod
    def of(cls, given: pd.DataFrame) -> _Grid:
        if given.duplicated(["symbol", "closed_at"]).any():
            twice = given[given.duplicated(["symbol", "closed_at"])].iloc[0]
            raise InvalidData(
                f"bars has {twice['symbol']} at {twice['closed_at']} more than once. The source must say which row "
                "counts; flows.stock.source does."
            )
        symbols = tuple(sorted(set(given["symbol"]))) or ("",)  # a grid of one empty row answers for no symbols
        number = numbers_of(given["closed_at"])
        first = int(number.min()) if len(number) else 0
        shape = len(symbols), (int(number.max()) - first + 1 if len(number) else 1)
        place = pd.Categorical(given["symbol"], categories=list(symbols)).codes.astype(np.int64), number - first
        there = np.zeros(shape, dtype=bool)
        there[place] = True

        def spread(name: str) -> Integers:
            values = np.zeros(shape, np.int64)
            values[place] = _log(given, name)
            return values

        # Shares that one share of the first day has become: with it, prices of all days are of one size of share.
        shares = np.cumsum(spread("split"), axis=1)
        price = spread("close") + shares
        before = np.roll(there, 1, axis=1) & there
        before[:, 0] = False
        return cls(
            symbols, first,
            price=_Series.of(price, there),
            opening=_Series.of(spread("open") + shares, there),
            # A day without any trade has no logarithm; the rules of the group refuse its bar.
            volume=_Series.of(spread("volume") - shares, there & (spread("volume") >= 0)),
            day_range=_Series.of(spread("high") - spread("low"), there),
            daily_returns=_Series.of(price - np.roll(price, 1, axis=1), before),
        )  # fmt: skip

    def place(self, given: pd.DataFrame) -> tuple[Integers, Integers]:
        """Row and column of each bar."""
        row = pd.Categorical(given["symbol"], categories=list(self.symbols)).codes.astype(np.int64)
        return row, numbers_of(given["closed_at"]) - self.first


def _log(given: pd.DataFrame, name: str) -> Integers:
    values = given[name].to_numpy(np.float64)
    if name != "volume" and (broken := ~(values > 0)).any():
        row = given[broken].iloc[0]
        raise InvalidData(
            f"bars has {name} {row[name]} for {row['symbol']} at {row['closed_at']}, expected more than 0. The source "
            "must leave such a bar out."
        )
    return np.rint(np.log(np.where(values > 0, values, 0.5)) * _UNIT).astype(np.int64)


def _over(some: Floats, other: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(other != 0, some / other, np.nan)


def _checked(frame: pd.DataFrame, needed: Sequence[str], *, name: str) -> pd.DataFrame:
    """The needed columns of a frame, times in UTC microseconds; refuses a frame that breaks the contract."""
    missing = [column for column in needed if column not in frame.columns]
    if missing:
        raise SchemaMismatch(f"Stock features need the columns {missing}; {name} has {list(frame.columns)}.")
    times = {}
    for column in ("closed_at", "known_at"):
        if column not in needed:
            continue
        if not isinstance(frame[column].dtype, pd.DatetimeTZDtype):
            raise InvalidTime(
                f"Stock features: {name}[{column!r}] is {frame[column].dtype}, expected times with a time zone. Say "
                f"which zone they are in, such as {name}[{column!r}].dt.tz_localize('UTC')."
            )
        times[column] = frame[column].dt.tz_convert("UTC").dt.as_unit("us")
    return frame[list(needed)].assign(**times).reset_index(drop=True)


def _days(times: pd.Series) -> Integers:
    return times.dt.as_unit("us").astype("int64").to_numpy() // DAY_US


def day_of(closed_at: pd.Series) -> pd.Series:
    """The New York day of each close, as text.

    >>> day_of(pd.Series(pd.to_datetime(["2026-07-10T20:00Z"])))[0]
    '2026-07-10'
    """
    return closed_at.dt.tz_convert(TIME_ZONE).dt.strftime("%Y-%m-%d").astype("str")


def next_close_of(closed_at: pd.Series) -> pd.Series:
    """The close of the trading day after each, UTC.

    >>> str(next_close_of(pd.Series(pd.to_datetime(["2026-11-25T21:00Z"])))[0])  # Thanksgiving, then an early close
    '2026-11-27 18:00:00+00:00'
    """
    return closes_of(numbers_of(closed_at) + 1)


def newest_missing(bars: pd.DataFrame, window: Window, *, waits_until: datetime) -> datetime | None:
    """The first of the closes at the end of a window that a symbol has no bar of; None where all symbols have the last.

    Args:
        bars: symbol, closed_at: more than the window's, so that every symbol is in it.
        window: half-open, by the close.
        waits_until: closes before it are not waited for: the exchange may have been closed, or the bar never made.

    >>> friday = pd.to_datetime(["2026-07-10T20:00Z"])
    >>> week = Window.of("2026-07-10", "2026-07-14")
    >>> str(newest_missing(pd.DataFrame({"symbol": "TSLA", "closed_at": friday}), week, waits_until=week.start))
    '2026-07-13 20:00:00+00:00'
    """
    closes = closes_between(max(window.start, waits_until), window.end)
    newest = bars.groupby("symbol")["closed_at"].max().min() if len(bars) else None
    late = closes if newest is None else closes[closes > newest]
    return None if late.empty else late.iloc[0].to_pydatetime()
