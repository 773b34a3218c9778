"""Homes with simulated prices in them, and a stub of Yahoo and of a news feed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from flows import registry
from flows.settings import Settings
from flows.stock.sessions import close_of, is_session
from tests.flows.stub_server import Reply, StubServer, serving

NEW_YORK = ZoneInfo("America/New_York")


@contextmanager
def living_in(home: Path, *, source: str = "simulated") -> Iterator[Settings]:
    """Let flows use this home and source, whatever the person who runs the tests has set."""
    told = ("SYMBOLS", "YAHOO_URL", "NEWS_URL", "NEWS_API_TOKEN")
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            "FEATURESTORE_HOME",
            "TRIPTYCH_DATA",
            "TRIPTYCH_MLFLOW_URI",
            *(f"TRIPTYCH_STOCK_{n}" for n in told),
        ):
            patch.delenv(name, raising=False)
        patch.setenv("TRIPTYCH_HOME", str(home))
        patch.setenv("TRIPTYCH_SOURCE", source)
        yield Settings()


# --- a stub of Yahoo ----------------------------------------------------------------------------------


def traded_close(day: date) -> float:
    """What the stub says a share cost at the close of a day, as traded: cents, and each day another."""
    return 700.0 + day.toordinal() % 100 + day.toordinal() % 7 / 4


def close_at(day: date) -> datetime:
    """The close of a trading day, UTC."""
    return close_of(pd.Series(pd.to_datetime([day])))[0].to_pydatetime()


def days_between(first: date, last: date) -> list[date]:
    """The trading days from the first to the last, both included."""
    return [day for n in range((last - first).days + 1) if is_session(day := first + timedelta(days=n))]


@dataclass
class Yahoo:
    """A stub of the chart endpoint: prices re-based on every split up to today, as Yahoo's are.

    `now` is its clock (a server's thread does not see a frozen one); `splits` and `dividends` by day; `missing` days
    have no bar, `null` days one of nulls; `lagging` days at the end are not there yet; `meta` overrides.
    """

    now: datetime = datetime(2026, 7, 11, tzinfo=UTC)
    splits: dict[date, float] = field(default_factory=dict)
    dividends: dict[date, float] = field(default_factory=dict)
    missing: set[date] = field(default_factory=set)
    null: set[date] = field(default_factory=set)
    lagging: set[date] = field(default_factory=set)
    meta: dict[str, Any] = field(default_factory=dict)

    def answer(self, symbol: str, query: Mapping[str, str]) -> dict[str, Any]:
        """The answer to a query, as it would be now."""
        now = self.now.astimezone(NEW_YORK)
        first, end = (
            datetime.fromtimestamp(int(query[name]), UTC).astimezone(NEW_YORK) for name in ("period1", "period2")
        )
        days = [
            day
            for day in days_between(first.date(), min(end, now).date())
            if day not in self.missing | self.lagging and opens_at(day) <= now and opens_at(day) >= first
        ]
        told = {day: ratio for day, ratio in self.splits.items() if first.date() <= day <= now.date()}
        quote: dict[str, list[float | None]] = {name: [] for name in ("open", "high", "low", "close", "volume")}
        for day in days:
            later = float(np.prod([ratio for when, ratio in self.splits.items() if day < when <= now.date()]))
            before = float(np.prod([ratio for when, ratio in self.splits.items() if when <= day]))
            close = traded_close(day) / before / later
            bar = {"open": close * 0.99, "high": close * 1.02, "low": close * 0.98, "close": close}
            for name, value in bar.items():
                quote[name].append(None if day in self.null else float(np.float32(value)))
            quote["volume"].append(None if day in self.null else round(1_000_000 * before * later))
        finished = [day for day in days if close_at(day) <= now]
        last_trade = close_at(finished[-1]) if finished else now
        if days and days[-1] not in finished:
            last_trade = now
        meta = {
            "currency": "USD", "symbol": symbol, "exchangeName": "NMS", "exchangeTimezoneName": "America/New_York",
            "gmtoffset": -14400, "dataGranularity": "1d", "regularMarketTime": int(last_trade.timestamp()),
        }  # fmt: skip
        result = {
            "meta": meta | self.meta,
            "timestamp": [int(opens_at(day).timestamp()) for day in days],
            "indicators": {"quote": [quote], "adjclose": [{"adjclose": quote["close"]}]},
        }
        events: dict[str, Any] = {}
        if told:
            events["splits"] = {
                str(stamp := int(opens_at(day).timestamp())): {
                    "date": stamp, "numerator": ratio, "denominator": 1, "splitRatio": f"{ratio:g}:1",
                }
                for day, ratio in told.items()
            }  # fmt: skip
        if self.dividends:
            events["dividends"] = {
                str(stamp := int(opens_at(day).timestamp())): {"date": stamp, "amount": amount}
                for day, amount in self.dividends.items()
            }
        return {"chart": {"result": [result | ({"events": events} if events else {})], "error": None}}

    def reply(self, path: str, query: Mapping[str, str]) -> Reply | None:
        """The endpoint; a symbol that nobody knows is not found."""
        family, _, symbol = path.rpartition("/")
        if family != "/v8/finance/chart":
            return None
        if symbol not in ("TSLA", "SPY"):
            error = {"code": "Not Found", "description": "No data found, symbol may be delisted"}
            return Reply.of_json({"chart": {"result": None, "error": error}}, status=404)
        return Reply.of_json(self.answer(symbol, query))


def opens_at(day: date) -> datetime:
    """09:30 New York."""
    return datetime(day.year, day.month, day.day, 9, 30, tzinfo=NEW_YORK)


def sentiments_answer(query: Mapping[str, str]) -> dict[str, Any]:
    """The feed's answer: no row on Mondays, no article on Sundays, and a real 0.0 on Tuesdays."""
    first, last = date.fromisoformat(query["from"]), date.fromisoformat(query["to"])
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    return {
        query["s"]: [
            {"date": f"{day}", "count": 0 if day.weekday() == 6 else 3,
             "normalized": 0.0 if day.weekday() in (1, 6) else 0.25}
            for day in days if day.weekday() != 0
        ]
    }  # fmt: skip


class Services:
    """The stubs, and the home in which raw answers are kept."""

    def __init__(self, home: Path, server: StubServer, yahoo: Yahoo, news: StubServer) -> None:
        self.home, self.server, self.yahoo, self.news = home, server, yahoo, news


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """Yahoo as a stub, patient for seconds only; a news feed that is there but not set."""
    yahoo = Yahoo()
    with (
        serving(fallback=yahoo.reply) as server,
        serving({"/sentiments": lambda query: Reply.of_json(sentiments_answer(query))}) as news,
        living_in(tmp_path / "home", source="live"),
    ):
        for name, value in {
            "TRIPTYCH_STOCK_YAHOO_URL": server.url,
            "TRIPTYCH_HTTP_ATTEMPTS": "2",
            "TRIPTYCH_HTTP_TIMEOUT_SECONDS": "2",
            "TRIPTYCH_HTTP_LONGEST_PAUSE_SECONDS": "0.01",
            "TRIPTYCH_HTTP_PATIENCE_SECONDS": "5",
        }.items():
            monkeypatch.setenv(name, value)
        yield Services(tmp_path / "home", server, yahoo, news)


# --- homes with simulated prices ---------------------------------------------------------------------

START, END = datetime(2023, 1, 1, tzinfo=UTC), datetime(2026, 3, 14, tzinfo=UTC)  # ends with a Friday's close


@pytest.fixture(scope="session")
def features_of_three_years(prefect_api: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three years of features. Do not write to it: take `with_features`."""
    from flows.stock.feature_pipeline import stock_features

    home = tmp_path_factory.mktemp("stock")
    with living_in(home):
        stock_features(start=START, end=END)
    return home


@pytest.fixture
def empty(prefect_api: None, tmp_path: Path) -> Iterator[Settings]:
    """A home with nothing in it."""
    with living_in(tmp_path / "home") as settings:
        yield settings


@pytest.fixture
def with_features(features_of_three_years: Path, tmp_path: Path) -> Iterator[Settings]:
    """A copy of the home with three years of features."""
    home = Path(shutil.copytree(features_of_three_years, tmp_path / "home"))
    with living_in(home) as settings:
        yield settings


@contextmanager
def training_in_a_hurry() -> Iterator[None]:
    """One trial and few trees: what is tested is the pipeline, not the model."""
    from flows.stock import modelling

    quick = {"learning_rate": 0.15, "n_estimators": 60, "n_jobs": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modelling, "SEARCH", replace(modelling.SEARCH, trials=1, folds=2))
        patch.setattr(modelling, "RETURN", {**modelling.RETURN, **quick})
        patch.setattr(modelling, "DIRECTION", {**modelling.DIRECTION, **quick})
        yield


@pytest.fixture(scope="session")
def trained_once(features_of_three_years: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two rejected models. Models know their folder, so it is used where it is, and not copied."""
    from flows.stock.training_pipeline import stock_training

    home = Path(shutil.copytree(features_of_three_years, tmp_path_factory.mktemp("trained") / "home"))
    with living_in(home), training_in_a_hurry():
        stock_training(end=END)
    return home


@pytest.fixture
def with_rejected(trained_once: Path) -> Iterator[Settings]:
    """The home with rejected models; what one test writes there, the next one finds."""
    with living_in(trained_once) as settings, training_in_a_hurry():
        registry.bootstrap(settings)
        yield settings
