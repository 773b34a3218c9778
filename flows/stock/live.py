"""The live services: Yahoo's daily bars, and a news sentiment feed where one is set.

What they are not known to answer is refused. Yahoo's prices are of shares as they are today: after a split it re-bases
all its history. Bars are turned back into prices as people paid them, by the splits of the same answer, so a split to
come changes no row that was ever written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from featurestore.errors import NotFound
from featurestore.times import Window
from flows.http import Answer, Bronze, Client, RequestRefused, UnexpectedAnswer
from flows.settings import Settings
from flows.stock.sessions import TIME_ZONE, close_of

DAY = timedelta(days=1)
CURRENCY = "USD"
PRICES = ("open", "high", "low", "close")

CLOSING_TRADES = timedelta(minutes=15)
"""The last trade of a day may be seconds before its close: a bar whose last trade is this much older is unfinished."""


class Services(BaseSettings):
    """Where the services are, from `TRIPTYCH_STOCK_*` in the environment.

    Args:
        symbols: whose bars are read, with commas between: "TSLA,SPY". Of every source but the table.
        yahoo_url: base URL; a test's stub or a mirror may stand in.
        news_url: base URL of a sentiment feed in EOD Historical Data's shape, such as https://eodhd.com/api; None:
            there is no feed, and all features of news are null.
        news_api_token: the feed's key; never logged, never kept.
    """

    model_config = SettingsConfigDict(env_prefix="TRIPTYCH_STOCK_", env_ignore_empty=True, extra="forbid", frozen=True)

    symbols: str = "TSLA"
    yahoo_url: str = "https://query1.finance.yahoo.com"
    news_url: str | None = None
    news_api_token: SecretStr | None = None

    @property
    def each_symbol(self) -> tuple[str, ...]:
        """The symbols, one by one.

        >>> Services(symbols="TSLA, SPY").each_symbol
        ('TSLA', 'SPY')
        """
        return tuple(part.strip() for part in self.symbols.split(",") if part.strip())


# --- bars --------------------------------------------------------------------------------------------


def bars(window: Window, *, symbols: Sequence[str], as_of: datetime) -> pd.DataFrame:
    """The bars of the closes in [start, end) that were over by `as_of`: as `chart_rows`; no order promised.

    Raises:
        LiveSourceError: the service is down, refuses, or answers something unknown; see `flows.http`.
        NotFound: Yahoo does not know a symbol.
    """
    today = as_of.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    asked = {
        "period1": int((window.start.astimezone(UTC) - DAY).replace(hour=0, minute=0, second=0).timestamp()),
        # Up to today whatever the window: prices are re-based on every split up to today, and only those asked for are
        # told. Whole days, so that a replay asks for the same.
        "period2": int((today + DAY).timestamp()),
        "interval": "1d",
        "events": "div,splits",
        "includeAdjustedClose": "true",
    }
    with Client(
        "yahoo", base_url=Services().yahoo_url, bronze=Bronze(Settings().home / "bronze"), as_browser=True
    ) as yahoo:
        parts = [chart_rows(_chart(yahoo, symbol, asked), symbol=symbol, as_of=as_of) for symbol in symbols]
    rows = pd.concat([NO_BARS, *parts], ignore_index=True)
    return rows[(rows["closed_at"] >= window.start) & (rows["closed_at"] < window.end)]


def _chart(yahoo: Client, symbol: str, asked: Mapping[str, object]) -> Answer:
    try:
        return yahoo.get(f"v8/finance/chart/{symbol}", asked)
    except RequestRefused as error:
        if error.status == 404:
            raise NotFound(
                f"Yahoo knows no stock {symbol!r} (HTTP 404). Check TRIPTYCH_STOCK_SYMBOLS; a stock that was renamed "
                f"or is no longer traded must be taken out of it. {error}"
            ) from error
        raise


def chart_rows(answer: Answer, *, symbol: str, as_of: datetime) -> pd.DataFrame:
    """The bars of one answer: symbol, closed_at (UTC), prices (USD as traded), volume, split, dividend.

    Left out are the bar of a day that is not over by `as_of`, or whose last trade is not of its close, and days that
    have a null where a price or the volume should be. The same bar twice is one. Of a split on a day without a bar the
    next bar tells.

    Raises:
        UnexpectedAnswer: an error told with HTTP 200; another symbol, currency, time zone or interval; arrays of
            different lengths; a bar on a day when the exchange was closed; two different bars for one day; a history
            that is not re-based on a split that it tells.
    """
    result = _result(answer)
    meta = _part(result, "meta", answer)
    for name, expected in (
        ("symbol", symbol), ("currency", CURRENCY), ("dataGranularity", "1d"), ("exchangeTimezoneName", TIME_ZONE),
    ):  # fmt: skip
        if meta.get(name) != expected:
            raise UnexpectedAnswer(f"{answer}: {name} is {meta.get(name)!r}, expected {expected!r}. {_CHANGED}")
    stamps = result.get("timestamp") or []
    quote = _part(result, "indicators", answer).get("quote") or [{}]
    arrays = {name: quote[0].get(name) or [] for name in (*PRICES, "volume")}
    if wrong := {name: len(values) for name, values in arrays.items() if len(values) != len(stamps)}:
        raise UnexpectedAnswer(f"{answer}: {len(stamps)} times, but {wrong} values: half an answer. {_CHANGED}")
    if not stamps:
        return NO_BARS
    rows = pd.DataFrame({name: pd.to_numeric(pd.Series(values), errors="coerce") for name, values in arrays.items()})
    rows["day"] = _local_days(pd.Series(stamps))
    rows["closed_at"] = close_of(rows["day"])
    if rows["closed_at"].isna().any():
        day = rows.loc[rows["closed_at"].isna(), "day"].iloc[0]
        raise UnexpectedAnswer(
            f"{answer}: a bar on {day:%Y-%m-%d}, when the New York Stock Exchange was closed. {_CHANGED} If it was "
            "open, update exchange-calendars."
        )
    last_trade = pd.to_datetime(meta.get("regularMarketTime"), unit="s", utc=True)
    is_over = (rows["closed_at"] <= as_of) & ~(rows["closed_at"] - CLOSING_TRADES > last_trade)
    rows = rows[is_over].dropna(subset=list(arrays)).drop_duplicates().sort_values("day", ignore_index=True)
    if rows["day"].duplicated().any():
        day = rows.loc[rows["day"].duplicated(), "day"].iloc[0]
        raise UnexpectedAnswer(f"{answer}: two different bars for {day:%Y-%m-%d}. {_CHANGED}")
    return _as_traded(rows, result.get("events") or {}, symbol, answer)


def _as_traded(rows: pd.DataFrame, events: Mapping[str, Any], symbol: str, answer: Answer) -> pd.DataFrame:
    splits = dict(_splits(events.get("splits") or {}, answer))
    dividends = _dividends(events.get("dividends") or {}, answer)
    later = np.ones(len(rows))  # how many of today's shares a share of the day is
    split = np.ones(len(rows))
    for day, ratio in splits.items():
        later = np.where(rows["day"] < day, later * ratio, later)
        first = int(np.searchsorted(rows["day"].to_numpy(), np.datetime64(day)))
        if first < len(rows):
            split[first] *= ratio
            _check_rebased(rows["close"], first, ratio, f"{answer}: {symbol} split on {day:%Y-%m-%d}")
    paid = np.array([dividends.get(day, 0.0) for day in rows["day"]])
    return pd.DataFrame(
        {
            "symbol": pd.Series(symbol, index=rows.index, dtype="str"),
            "closed_at": rows["closed_at"],
            # Yahoo's numbers are 32 bits wide: what is beyond a hundredth of a cent is noise.
            **{name: (rows[name] * later).round(4) for name in PRICES},
            "volume": np.rint(rows["volume"] / later).astype("int64"),
            "split": split,
            "dividend": np.round(paid * later, 6),
        }
    )


def _check_rebased(close: pd.Series, first: int, ratio: float, what: str) -> None:
    """Refuse a history that tells of a split and still has the prices from before it: it would be counted twice."""
    if first == 0 or 0.5 < ratio < 2:  # what an ordinary day could be, too
        return
    move = float(np.log(close[first] / close[first - 1]))
    if abs(move + np.log(ratio)) < abs(move):
        raise UnexpectedAnswer(
            f"{what} ({ratio:g} for 1), but the price before it is still {close[first - 1]:.2f} after "
            f"{close[first]:.2f}: Yahoo has not re-based its history yet. Nothing was written; run again later."
        )


def _splits(events: Mapping[str, Any], answer: Answer) -> Iterator[tuple[pd.Timestamp, float]]:
    for event in events.values():
        try:
            ratio = float(event["numerator"]) / float(event["denominator"])
            yield _local_days(pd.Series([event["date"]]))[0], ratio
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise UnexpectedAnswer(f"{answer}: a split {event} is not understood ({error}). {_CHANGED}") from error


def _dividends(events: Mapping[str, Any], answer: Answer) -> dict[pd.Timestamp, float]:
    try:
        return {_local_days(pd.Series([event["date"]]))[0]: float(event["amount"]) for event in events.values()}
    except (KeyError, TypeError, ValueError) as error:
        raise UnexpectedAnswer(f"{answer}: a dividend is not understood ({error}). {_CHANGED}") from error


def _result(answer: Answer) -> Mapping[str, Any]:
    body = answer.json()
    chart = body.get("chart") if isinstance(body, dict) else None
    if not isinstance(chart, dict):
        raise UnexpectedAnswer(f"{answer} has no chart. {_CHANGED}")
    if chart.get("error"):
        said = chart["error"].get("description") or chart["error"].get("code")
        raise UnexpectedAnswer(f"{answer} says: {said}. Check symbol and dates.")
    result = chart.get("result")
    if not isinstance(result, list) or len(result) != 1:
        raise UnexpectedAnswer(f"{answer} has {result if not result else len(result)} results, expected 1. {_CHANGED}")
    found: Mapping[str, Any] = result[0]
    return found


def _part(result: Mapping[str, Any], name: str, answer: Answer) -> Mapping[str, Any]:
    part = result.get(name)
    if not isinstance(part, dict):
        raise UnexpectedAnswer(f"{answer} has no {name}. {_CHANGED}")
    return part


def _local_days(stamps: pd.Series) -> pd.Series:
    """The New York day of each time (seconds since 1970), without zone."""
    local = pd.to_datetime(stamps, unit="s", utc=True).dt.tz_convert(TIME_ZONE)
    return local.dt.tz_localize(None).dt.normalize().dt.as_unit("us")


# --- news --------------------------------------------------------------------------------------------


def has_news() -> bool:
    """Whether a news feed is set."""
    return Services().news_url is not None


def news(window: Window, *, symbols: Sequence[str]) -> pd.DataFrame:
    """The news of the days that ended in [start, end): symbol, known_at, news_polarity; nothing without a feed.

    A day without articles has a null; a day that the feed does not tell of has no articles.

    Raises:
        LiveSourceError: as `bars`.
    """
    services = Services()
    if services.news_url is None:
        return NO_NEWS
    days = pd.date_range(
        pd.Timestamp(window.start).ceil("D"), window.end, freq="D", inclusive="left", unit="us"
    ) - pd.Timedelta(days=1)  # fmt: skip
    if days.empty:
        return NO_NEWS
    secret = {} if services.news_api_token is None else {"api_token": services.news_api_token}
    parts = [NO_NEWS]
    with Client("news", base_url=services.news_url, bronze=Bronze(Settings().home / "bronze"), secret=secret) as feed:
        for symbol in symbols:
            asked = {"s": f"{symbol}.US", "from": f"{days[0]:%Y-%m-%d}", "to": f"{days[-1]:%Y-%m-%d}", "fmt": "json"}
            polarity = sentiments(feed.get("sentiments", asked), symbol=symbol)
            parts.append(
                pd.DataFrame(
                    {
                        "symbol": pd.Series(symbol, index=range(len(days)), dtype="str"),
                        "known_at": days + pd.Timedelta(days=1),
                        "news_polarity": polarity.reindex(days.tz_localize(None)).to_numpy("float64"),
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def sentiments(answer: Answer, *, symbol: str) -> pd.Series:
    """Mean sentiment by day (datetime64, without zone) of one answer; null where it counts no article.

    Raises:
        UnexpectedAnswer: another shape, or a sentiment outside of -1 to 1.

    >>> body = b'{"TSLA.US": [{"date": "2026-07-09", "count": 0, "normalized": 0}]}'
    >>> sentiments(Answer("news", "/sentiments", {}, 200, body, datetime.now(UTC)), symbol="TSLA").tolist()
    [nan]
    """
    body = answer.json()
    rows = body.get(f"{symbol}.US", []) if isinstance(body, dict) and (not body or f"{symbol}.US" in body) else None
    try:
        if rows is None:
            raise TypeError(f"it is about {list(body) if isinstance(body, dict) else type(body).__name__}")
        days = pd.to_datetime(pd.Series([row["date"] for row in rows], dtype="str"), format="%Y-%m-%d")
        counts = np.array([int(row["count"]) for row in rows], dtype=np.int64)
        values = np.array([float(row["normalized"]) for row in rows], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise UnexpectedAnswer(f"{answer} is not the sentiment of {symbol}.US by day ({error}). {_CHANGED}") from error
    if (np.abs(values) > 1).any():
        raise UnexpectedAnswer(
            f"{answer}: a sentiment of {values[np.abs(values) > 1][0]}, expected -1 to 1. {_CHANGED}"
        )
    polarity = pd.Series(np.where(counts > 0, values, np.nan), index=pd.DatetimeIndex(days).as_unit("us"))
    return polarity[~polarity.index.duplicated(keep="last")]


NO_BARS = pd.DataFrame(
    {"symbol": pd.Series(dtype="str"), "closed_at": pd.Series(dtype="datetime64[us, UTC]")}
    | {name: pd.Series(dtype="float64") for name in PRICES}
    | {"volume": pd.Series(dtype="int64"), "split": pd.Series(dtype="float64"), "dividend": pd.Series(dtype="float64")}
)
NO_NEWS = pd.DataFrame(
    {
        "symbol": pd.Series(dtype="str"),
        "known_at": pd.Series(dtype="datetime64[us, UTC]"),
        "news_polarity": pd.Series(dtype="float64"),
    }
)
"""No rows, with the columns and dtypes of an answer."""

_CHANGED = (
    "The service has changed or mixes something up: nothing was written. Look at its raw answer in bronze/; when the "
    "change is meant, flows/stock/live.py must learn it."
)
