"""Yahoo and a news feed as stubs over real HTTP: what they give, and every way in which they go wrong."""

from __future__ import annotations

import json
import logging
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from featurestore.errors import NotFound
from featurestore.times import Window
from flows import windows
from flows.http import Answer, RequestRefused, ServiceUnavailable, TooManyRequests, UnexpectedAnswer
from flows.stock import live, source
from tests.flows.stock.conftest import Services, close_at, days_between, traded_close
from tests.flows.stub_server import Reply, sample

NOW = datetime(2026, 7, 10, 21, 5, tzinfo=UTC)  # Friday, 17:05 EDT
WEEK = Window(datetime(2026, 7, 1, tzinfo=UTC), NOW)
DAYS = days_between(date(2026, 7, 1), date(2026, 7, 10))


def bars(
    services: Services, *, window: Window = WEEK, as_of: datetime = NOW, symbols: tuple[str, ...] = ("TSLA",)
) -> pd.DataFrame:
    services.yahoo.now = as_of
    with windows.frozen(as_of):
        return live.bars(window, symbols=symbols, as_of=as_of).reset_index(drop=True)


def answer_now(services: Services) -> dict[str, Any]:
    services.yahoo.now = NOW
    return services.yahoo.answer("TSLA", {"period1": "1782000000", "period2": "1783900000"})


# --- bars --------------------------------------------------------------------------------------------


def test_bars_are_of_each_trading_day_at_its_close_in_utc(services: Services) -> None:
    rows = bars(services)
    assert rows["closed_at"].tolist() == [close_at(day) for day in DAYS]
    assert rows["close"].tolist() == [traded_close(day) for day in DAYS]
    assert set(rows["split"]) == {1.0}
    ((path, query),) = services.server.asked
    assert path == "/v8/finance/chart/TSLA"
    assert (query["interval"], query["events"]) == ("1d", "div,splits")


def test_recorded_answer_is_understood_as_it_was() -> None:
    """The recording: five days of SPY in February 2026, a holiday on Monday the 16th."""
    content = sample("yahoo/chart_v8_SPY_5d.json")
    answer = Answer("yahoo", "/chart", {}, 200, content, NOW)
    rows = live.chart_rows(answer, symbol="SPY", as_of=NOW)
    assert [f"{time:%m-%d %H:%M}" for time in rows["closed_at"]] == [
        "02-13 21:00", "02-17 21:00", "02-18 21:00", "02-19 21:00", "02-20 21:00",
    ]  # fmt: skip
    assert rows["close"].tolist() == [681.75, 682.85, 686.29, 684.48, 689.43]
    assert rows["volume"].tolist()[-1] == 99952100


def test_bar_of_the_running_day_is_left_out_until_its_close(services: Services) -> None:
    noon = datetime(2026, 7, 10, 16, 0, tzinfo=UTC)
    window = Window(WEEK.start, NOW)
    assert bars(services, window=window, as_of=noon)["closed_at"].max() == close_at(date(2026, 7, 9))
    assert bars(services)["closed_at"].max() == close_at(date(2026, 7, 10))


def test_bar_whose_last_trade_is_of_noon_is_unfinished_though_the_day_is_over(services: Services) -> None:
    """An answer that was made before the close and reaches us after it."""
    services.yahoo.meta["regularMarketTime"] = int(datetime(2026, 7, 10, 16, 0, tzinfo=UTC).timestamp())
    assert bars(services)["closed_at"].max() == close_at(date(2026, 7, 9))


def test_early_close_is_known_at_one_o_clock_and_a_holiday_has_no_bar(services: Services) -> None:
    window = Window(datetime(2026, 11, 23, tzinfo=UTC), datetime(2026, 11, 30, tzinfo=UTC))
    rows = bars(services, window=window, as_of=datetime(2026, 11, 27, 18, 10, tzinfo=UTC))
    assert [f"{time:%d %H:%M}" for time in rows["closed_at"]] == ["23 21:00", "24 21:00", "25 21:00", "27 18:00"]


def test_nulls_are_missing_days_and_no_zeros(services: Services) -> None:
    services.yahoo.null.add(DAYS[2])
    services.yahoo.missing.add(DAYS[4])
    assert bars(services)["closed_at"].tolist() == [close_at(day) for n, day in enumerate(DAYS) if n not in (2, 4)]


def test_split_between_two_runs_re_bases_yahoo_and_changes_no_row_of_ours(services: Services) -> None:
    """Prices as traded: the same numbers before and after, and the split told on its day."""
    before = bars(
        services,
        window=Window(WEEK.start, datetime(2026, 7, 8, tzinfo=UTC)),
        as_of=datetime(2026, 7, 7, 21, tzinfo=UTC),
    )
    services.yahoo.splits[date(2026, 7, 9)] = 3.0
    after = bars(services)
    pd.testing.assert_frame_equal(after.head(len(before)), before)
    assert after["split"].tolist() == [3.0 if day == date(2026, 7, 9) else 1.0 for day in DAYS]
    on_the_day = after.set_index("closed_at").loc[close_at(date(2026, 7, 9))]
    assert on_the_day["close"] == pytest.approx(traded_close(date(2026, 7, 9)) / 3, abs=1e-4)
    assert on_the_day["volume"] == 3_000_000


def test_old_window_is_asked_for_up_to_today_so_that_later_splits_are_told(services: Services) -> None:
    services.yahoo.splits[date(2026, 7, 9)] = 5.0
    rows = bars(services, window=Window(datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 6, 6, tzinfo=UTC)))
    assert rows["close"].tolist() == [traded_close(day) for day in days_between(date(2026, 6, 1), date(2026, 6, 5))]


def test_split_on_a_day_without_a_bar_is_told_by_the_next_bar(services: Services) -> None:
    services.yahoo.splits[DAYS[3]] = 2.0
    services.yahoo.null.add(DAYS[3])
    rows = bars(services)
    assert rows.loc[rows["split"] != 1.0, "closed_at"].tolist() == [close_at(DAYS[4])]


def test_split_that_is_told_before_history_is_re_based_is_refused(services: Services) -> None:
    body = answer_now(services)
    stamp = body["chart"]["result"][0]["timestamp"][-2]
    event = {"date": stamp, "numerator": 3, "denominator": 1, "splitRatio": "3:1"}
    body["chart"]["result"][0]["events"] = {"splits": {str(stamp): event}}
    quote = body["chart"]["result"][0]["indicators"]["quote"][0]
    for name in ("open", "high", "low", "close"):
        quote[name][-2:] = [value / 3 for value in quote[name][-2:]]
    services.server.troubles.append(Reply.of_json(body))
    with pytest.raises(UnexpectedAnswer, match=r"split on 2026-07-09 \(3 for 1\).*has not re-based its history yet"):
        bars(services)


def test_dividend_is_told_on_its_day_and_changes_no_price(services: Services) -> None:
    services.yahoo.dividends[DAYS[1]] = 0.88
    rows = bars(services)
    assert rows["dividend"].tolist() == [0.88 if day == DAYS[1] else 0.0 for day in DAYS]
    assert rows["close"].tolist() == [traded_close(day) for day in DAYS]


def test_bars_out_of_order_and_twice_are_the_same_bars_and_two_for_one_day_are_refused(services: Services) -> None:
    body = answer_now(services)
    result = body["chart"]["result"][0]
    quote = result["indicators"]["quote"][0]
    order = [*reversed(range(len(result["timestamp"]))), 0]
    result["timestamp"] = [result["timestamp"][n] for n in order]
    for name, values in quote.items():
        quote[name] = [values[n] for n in order]
    services.server.troubles.append(Reply.of_json(body))
    pd.testing.assert_frame_equal(bars(services), bars(services))
    quote["close"][-1] += 1
    services.server.troubles.append(Reply.of_json(body))
    with pytest.raises(UnexpectedAnswer, match="two different bars for"):
        bars(services)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"currency": "EUR"}, "currency is 'EUR', expected 'USD'"),
        ({"symbol": "TSLL"}, "symbol is 'TSLL', expected 'TSLA'"),
        ({"dataGranularity": "1wk"}, "dataGranularity is '1wk'"),
        ({"exchangeTimezoneName": "Europe/Berlin"}, "exchangeTimezoneName is 'Europe/Berlin'"),
    ],
    ids=["currency", "key", "interval", "exchange"],
)
def test_answer_about_something_else_is_refused(services: Services, meta: dict[str, str], message: str) -> None:
    services.yahoo.meta.update(meta)
    with pytest.raises(UnexpectedAnswer, match=f"{message}.*nothing was written"):
        bars(services)


def test_bar_on_a_holiday_is_refused(services: Services) -> None:
    body = answer_now(services)
    body["chart"]["result"][0]["timestamp"][-6] = int(datetime(2026, 7, 3, 13, 30, tzinfo=UTC).timestamp())
    services.server.troubles.append(Reply.of_json(body))
    with pytest.raises(UnexpectedAnswer, match="a bar on 2026-07-03, when the New York Stock Exchange was closed"):
        bars(services)


def test_half_an_answer_no_json_and_errors_with_http_200_are_refused(services: Services) -> None:
    body = answer_now(services)
    body["chart"]["result"][0]["indicators"]["quote"][0]["close"].pop()
    for reply, message in [
        (Reply.of_json(body), "half an answer"),
        (Reply.of_text("<html>Will be right back"), "is not JSON"),
        (Reply(body=json.dumps(body).encode()[:900]), "is not JSON"),
        (Reply.of_json({"finance": {}}), "has no chart"),
        (Reply.of_json({"chart": {"result": [], "error": None}}), "expected 1"),
        (Reply.of_json({"chart": {"result": None, "error": {"code": "Not Found", "description": "No data found"}}}),
         "says: No data found"),
    ]:  # fmt: skip
        services.server.troubles.append(reply)
        with pytest.raises(UnexpectedAnswer, match=message):
            bars(services)


def test_answer_without_any_bar_is_no_bars(services: Services) -> None:
    body = answer_now(services)
    del body["chart"]["result"][0]["timestamp"]
    body["chart"]["result"][0]["indicators"] = {"quote": [{}], "adjclose": [{}]}
    services.server.troubles.append(Reply.of_json(body))
    assert bars(services).empty


def test_unknown_symbol_and_a_bad_range_say_what_to_check(services: Services) -> None:
    with pytest.raises(NotFound, match=r"knows no stock 'TSLAX'.*TRIPTYCH_STOCK_SYMBOLS"):
        bars(services, symbols=("TSLAX",))
    error = {"code": "Unprocessable Entity", "description": "Invalid input - start date cannot be after end date"}
    services.server.troubles.append(Reply.of_json({"chart": {"result": None, "error": error}}, status=422))
    with pytest.raises(RequestRefused, match="HTTP 422"):
        bars(services)


@pytest.mark.parametrize(
    ("replies", "error"),
    [
        ([Reply(503), Reply(503)], ServiceUnavailable),
        ([Reply(429, b"Too Many Requests\r\n")] * 2, TooManyRequests),
        ([Reply(429, b"Too Many Requests\r\n", {"Retry-After": "3600"})], TooManyRequests),
        ([Reply(200, b"slow", delay_seconds=3)] * 2, ServiceUnavailable),
        ([Reply(200, b'{"chart":', promised=500)] * 2, ServiceUnavailable),
    ],
    ids=["down", "429 as text", "429 for an hour", "slow", "broken off"],
)
def test_service_in_trouble_fails_the_run_and_the_next_one_covers_the_window(
    services: Services, monkeypatch: pytest.MonkeyPatch, replies: list[Reply], error: type[Exception]
) -> None:
    monkeypatch.setenv("TRIPTYCH_HTTP_TIMEOUT_SECONDS", "0.5")
    services.server.troubles.extend(replies)
    with pytest.raises(error, match=r"covers this window too|Run again later"):
        bars(services)
    monkeypatch.setenv("TRIPTYCH_HTTP_TIMEOUT_SECONDS", "2")
    assert len(bars(services)) == len(DAYS)


def test_window_is_read_again_from_what_was_kept_with_the_network_off(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F19: raw payloads are kept, and any time of the same day asks for the same."""
    first = bars(services)
    asked = len(services.server.asked)
    monkeypatch.setenv("TRIPTYCH_HTTP_REPLAY", "true")
    pd.testing.assert_frame_equal(bars(services, as_of=NOW + timedelta(minutes=40)), first)
    assert len(services.server.asked) == asked
    with pytest.raises(NotFound, match="No answer of yahoo"):
        bars(services, as_of=NOW + timedelta(days=3))


def test_several_symbols_are_asked_one_after_another(services: Services) -> None:
    rows = bars(services, symbols=("TSLA", "SPY"))
    assert rows.groupby("symbol").size().to_dict() == {"TSLA": len(DAYS), "SPY": len(DAYS)}


# --- news --------------------------------------------------------------------------------------------


def test_without_a_feed_there_is_no_news_and_nobody_is_asked(services: Services) -> None:
    assert not live.has_news()
    assert live.news(WEEK, symbols=["TSLA"]).empty
    assert not services.news.asked


def test_feed_gives_a_row_for_each_day_and_null_where_there_is_no_article(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No articles is null, balanced articles are 0.0. F20: the token is in the request and nowhere else."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TRIPTYCH_STOCK_NEWS_URL", services.news.url)
    monkeypatch.setenv("TRIPTYCH_STOCK_NEWS_API_TOKEN", "canary-news-token")
    rows = live.news(WEEK, symbols=["TSLA"])
    assert rows["known_at"].tolist() == list(pd.date_range("2026-07-01", "2026-07-10", tz="UTC"))
    of_day = dict(zip((rows["known_at"] - pd.Timedelta(days=1)).dt.strftime("%a"), rows["news_polarity"], strict=True))
    assert (of_day["Tue"], of_day["Wed"]) == (0.0, 0.25)
    assert np.isnan([of_day["Sun"], of_day["Mon"]]).all()
    ((_, query),) = services.news.asked
    assert (query["s"], query["from"], query["to"]) == ("TSLA.US", "2026-06-30", "2026-07-09")
    assert query["api_token"] == "canary-news-token"
    kept = b"".join(path.read_bytes() for path in services.home.rglob("*") if path.is_file())
    assert b"canary-news-token" not in kept
    assert "canary-news-token" not in caplog.text


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"TSLA.US": [{"date": "2026-07-01", "count": 1, "normalized": 7}]}, "a sentiment of 7.0, expected -1 to 1"),
        ({"AAPL.US": []}, "is not the sentiment of TSLA.US"),
        ({"TSLA.US": [{"date": "2026-07-01", "normalized": 0.1}]}, "is not the sentiment.*'count'"),
        (["TSLA"], "is not the sentiment"),
    ],
    ids=["unit", "key", "column", "shape"],
)
def test_news_that_is_not_as_known_is_refused(
    services: Services, monkeypatch: pytest.MonkeyPatch, body: object, message: str
) -> None:
    monkeypatch.setenv("TRIPTYCH_STOCK_NEWS_URL", services.news.url)
    services.news.troubles.append(Reply.of_json(body))
    with pytest.raises(UnexpectedAnswer, match=message):
        live.news(WEEK, symbols=["TSLA"])


def test_feed_that_knows_nothing_of_the_days_gives_nulls(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_STOCK_NEWS_URL", services.news.url)
    nothing: list[dict[str, list[object]]] = [{}, {"TSLA.US": []}]
    for body in nothing:
        services.news.troubles.append(Reply.of_json(body))
        rows = live.news(WEEK, symbols=["TSLA"])
        assert len(rows) == 10
        assert rows["news_polarity"].isna().all()


# --- the source --------------------------------------------------------------------------------------


def test_source_reads_live_by_the_close(services: Services) -> None:
    services.yahoo.now = NOW
    start, end = datetime(2026, 7, 8, 20, tzinfo=UTC), datetime(2026, 7, 9, 20, tzinfo=UTC)
    with windows.frozen(NOW):
        rows = source.read_bars(start, end)
    assert rows["closed_at"].tolist() == [close_at(date(2026, 7, 8))]
    assert set(rows["source"]) == {"live"}
