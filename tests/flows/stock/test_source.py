"""Three sources of bars and news, one shape; and a simulator without an edge that can be late, wrong and silent."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from featurestore.errors import InvalidTime, NotFound
from featurestore.times import Window
from flows import windows
from flows.stock import features, simulator, source
from flows.stock.simulator import CALM, Trouble
from tests.flows.stock.conftest import Services, close_at, living_in
from tests.flows.stub_server import data_folder

START = datetime(2026, 2, 2, tzinfo=UTC)
LATER = datetime(2026, 12, 1, tzinfo=UTC)
YEAR = Window(datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))


def simulated(window: Window, trouble: Trouble = CALM, as_of: datetime = LATER) -> pd.DataFrame:
    return simulator.bars(window, symbols=["TSLA"], as_of=as_of, trouble=trouble).reset_index(drop=True)


def assert_in_shape(rows: pd.DataFrame, columns: dict[str, str], time: str) -> None:
    assert {name: str(dtype) for name, dtype in rows.dtypes.items()} == columns
    assert rows.index.equals(pd.RangeIndex(len(rows)))
    assert not rows.duplicated(["symbol", time]).any()
    assert rows[[time, "symbol"]].equals(rows[[time, "symbol"]].sort_values([time, "symbol"]))


def test_live_and_simulated_give_the_same_frame(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns, dtypes, order, units, and the same trading days."""
    monkeypatch.setenv("TRIPTYCH_STOCK_NEWS_URL", services.news.url)
    start, end = datetime(2026, 7, 1, tzinfo=UTC), datetime(2026, 7, 11, tzinfo=UTC)
    services.yahoo.now = end
    closes = {}
    for name in (source.LIVE, source.SIMULATED):
        with windows.frozen(end):
            bars, news = source.read_bars(start, end, source=name), source.read_news(start, end, source=name)
        assert_in_shape(bars, dict(source.BARS), "closed_at")
        assert_in_shape(news, dict(source.NEWS), "known_at")
        assert (bars["low"] <= bars[["open", "close"]].min(axis=1)).all()
        assert (bars["high"] >= bars[["open", "close"]].max(axis=1)).all()
        assert bars["close"].between(10, 2000).all()
        assert bars["volume"].between(100_000, 1_000_000_000).all()
        assert news["news_polarity"].dropna().between(-1, 1).all()
        closes[name] = (bars["closed_at"].tolist(), news["known_at"].tolist())
    assert closes[source.LIVE] == closes[source.SIMULATED]


def test_tables_give_the_same_frame_with_prices_as_traded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last close before the split of 25 August 2022 was 891.29 USD, and 19 million shares were traded."""
    monkeypatch.setenv("TRIPTYCH_DATA", str(data_folder("tesla_stock")))
    start, end = datetime(2022, 8, 22, tzinfo=UTC), datetime(2022, 8, 27, tzinfo=UTC)
    bars, news = source.read_bars(start, end), source.read_news(start, end)
    assert_in_shape(bars, dict(source.BARS), "closed_at")
    assert_in_shape(news, dict(source.NEWS), "known_at")
    of_day = bars.set_index(bars["closed_at"].dt.day)
    assert of_day.loc[24, "close"] == pytest.approx(891.29, abs=0.01)
    assert of_day.loc[24, "volume"] == pytest.approx(19_086_000, rel=0.01)
    assert of_day.loc[25, "close"] == pytest.approx(296.07, abs=0.01)
    assert of_day["split"].tolist() == [1.0, 1.0, 1.0, 3.0, 1.0]


def test_tables_hold_every_trading_day_and_null_where_there_was_no_article(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_DATA", str(data_folder("tesla_stock")))
    start, end = datetime(2010, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)
    bars, news = source.read_bars(start, end), source.read_news(start, end)
    assert len(bars) == 3400
    assert (len(news), int(news["news_polarity"].isna().sum())) == (2730, 1770)
    assert not (news["news_polarity"] == 0.0).any()


def test_truth_of_the_talks_table_is_joined_by_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """The "True [$]" that the talk shows for 6 to 13 January 2023: outcomes of the trading days before."""
    monkeypatch.setenv("TRIPTYCH_DATA", str(data_folder("tesla_stock")))
    bars = source.read_bars(datetime(2023, 1, 3, tzinfo=UTC), datetime(2023, 1, 14, tzinfo=UTC))
    outcomes = features.known_outcomes(bars)
    shown = {
        date(2023, 1, 6): 113.06, date(2023, 1, 9): 119.77, date(2023, 1, 10): 118.85,
        date(2023, 1, 11): 123.22, date(2023, 1, 12): 123.56, date(2023, 1, 13): 122.40,
    }  # fmt: skip
    found = outcomes.set_index("known_at")["next_close"]
    assert {day: round(found[close_at(day)], 2) for day in shown} == shown


def test_features_of_the_real_table_stay_within_what_their_rules_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two splits in it, and no return that looks like one."""
    monkeypatch.setenv("TRIPTYCH_DATA", str(data_folder("tesla_stock")))
    start, end = datetime(2010, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)
    rows = features.stock_features(source.read_bars(start, end), source.read_news(start, end))
    assert rows["return_1d"].dropna().between(-0.25, 0.25).all()
    assert rows["return_1d"].notna().sum() == 3399
    assert rows["volume_to_mean_20d"].dropna().between(-3, 3).all()
    assert rows["news_polarity_7d"].notna().sum() > 1000


def test_any_window_of_the_simulator_is_the_same_whatever_was_asked_before() -> None:
    end = START + timedelta(days=28)
    whole = source.read_bars(START, end, as_of=LATER, source="simulated", symbols=["TSLA", "SPY"])
    parts = [
        source.read_bars(START + timedelta(days=7 * n), START + timedelta(days=7 * n + 7), as_of=LATER,
                         source="simulated", symbols=["TSLA", "SPY"])
        for n in range(4)
    ]  # fmt: skip
    pd.testing.assert_frame_equal(whole, pd.concat(parts, ignore_index=True), check_exact=True)
    assert set(whole["source"]) == {"simulated"}


def test_simulated_returns_have_no_edge_fat_tails_and_clusters_of_volatility() -> None:
    """What is known of a day says nothing about the sign of the next return, and something about its size."""
    rows = simulated(Window(simulator.BEGIN, LATER), replace(CALM, splits={}))
    change = np.diff(np.log(rows["close"]))
    assert abs(np.corrcoef(change[1:], change[:-1])[0, 1]) < 0.04
    assert np.corrcoef(np.abs(change[1:]), np.abs(change[:-1]))[0, 1] > 0.1
    assert float(pd.Series(change).kurt()) > 1.0
    assert 0.02 < change.std() < 0.06


def test_planted_edge_is_there_and_no_straight_line_finds_it() -> None:
    rows = simulated(Window(simulator.BEGIN, LATER), replace(CALM, splits={}, edge=0.3))
    change = np.diff(np.log(rows["close"]))
    quiet = np.abs(change[:-1]) < np.quantile(np.abs(change), 0.4)
    assert (change[1:][quiet] > 0).mean() - (change[1:][~quiet] > 0).mean() > 0.08
    assert abs(np.corrcoef(change[1:], change[:-1])[0, 1]) < 0.05


def test_split_divides_prices_and_is_told_on_its_day_only() -> None:
    whole, split = simulated(YEAR, replace(CALM, splits={})), simulated(YEAR)
    day = split.index[split["split"] != 1.0]
    assert split.loc[day, "closed_at"].tolist() == [close_at(date(2025, 8, 25))]
    ratio = (whole["close"] / split["close"]) / (whole["close"] / split["close"]).iloc[0]
    assert ratio[: day[0]].to_numpy() == pytest.approx(1, abs=1e-4)
    assert ratio[day[0] :].to_numpy() == pytest.approx(3, abs=1e-3)


def test_late_bars_are_missing_at_first_and_revised_ones_change_once() -> None:
    """F5: a bar may arrive after its time."""
    window = Window(START, START + timedelta(days=60))
    troubled = replace(CALM, late_share=0.9, revised_share=0.0)
    assert len(simulated(window, troubled, as_of=close_at(date(2026, 3, 31)))) < len(simulated(window, troubled))
    troubled = replace(CALM, revised_share=0.999)
    close = close_at(date(2026, 3, 31))
    first, final = simulated(window, troubled, as_of=close), simulated(window, troubled)
    newest = first["closed_at"] == close
    assert first.loc[newest, "volume"].item() > final.loc[final["closed_at"] == close, "volume"].item()


def test_outages_and_drift_can_be_switched_on() -> None:
    outage = Window(START + timedelta(days=2), START + timedelta(days=4))
    window = Window(START, START + timedelta(days=200))
    assert len(simulated(window)) - len(simulated(window, replace(CALM, outages=(outage,)))) == 2
    drifting = simulated(window, replace(CALM, drift_from=START + timedelta(days=100), drift=3.0))
    change, calm = (np.diff(np.log(rows["close"])) for rows in (drifting, simulated(window)))
    half = len(change) // 2
    assert change[:half].std() == pytest.approx(calm[:half].std())
    assert change[half + 5 :].std() > 2 * calm[half + 5 :].std()


def test_unknown_source_or_symbol_missing_folder_and_naive_times_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = START + timedelta(days=1)
    with pytest.raises(NotFound, match="Use one of"):
        source.read_bars(START, end, source="frankfurt")
    with living_in(tmp_path), pytest.raises(NotFound, match="Set TRIPTYCH_DATA"):
        source.read_bars(START, end, source="files")
    with pytest.raises(NotFound, match=r"has TSLA only, not \['SPY'\]"):
        source.read_bars(START, end, source="files", symbols=["SPY"])
    monkeypatch.setenv("TRIPTYCH_STOCK_SYMBOLS", " , ")
    with pytest.raises(NotFound, match="Set TRIPTYCH_STOCK_SYMBOLS"):
        source.read_bars(START, end, source="simulated")
    with pytest.raises(InvalidTime, match="has no time zone"):
        source.read_bars(START.replace(tzinfo=None), end, source="simulated")
