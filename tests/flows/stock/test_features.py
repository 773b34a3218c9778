"""The stock features worked out by hand: trading days, splits, gaps, and news that is known in time."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import InvalidData, InvalidTime, SchemaMismatch
from featurestore.times import Window
from flows.stock import features, schema, simulator
from flows.stock.sessions import close_of, closes_between, numbers_of, sessions
from tests.flows.stock.conftest import close_at, days_between

NO_NEWS = pd.DataFrame(
    {"symbol": pd.Series(dtype="str"), "known_at": pd.Series(dtype="datetime64[us, UTC]"),
     "news_polarity": pd.Series(dtype="float64")}
)  # fmt: skip


def bars_of(first: date, closes: list[float], *, symbol: str = "TSLA") -> pd.DataFrame:
    """A bar for each trading day from the first on; it opens at its close less 1 %, and ranges 2 % around it."""
    days = days_between(first, first + timedelta(days=2 * len(closes) + 10))[: len(closes)]
    close = np.array(closes, dtype=float)
    return pd.DataFrame(
        {"symbol": symbol, "closed_at": close_of(pd.Series(pd.to_datetime(days))), "open": close * 0.99,
         "high": close * 1.02, "low": close * 0.98, "close": close, "volume": 1_000_000, "split": 1.0}
    )  # fmt: skip


def news_of(days: dict[date, float | None]) -> pd.DataFrame:
    """Articles by the day they are of; known when it is over."""
    return pd.DataFrame(
        {"symbol": "TSLA", "known_at": pd.to_datetime(list(days)).tz_localize("UTC") + pd.Timedelta(days=1),
         "news_polarity": pd.array(list(days.values()), dtype="Float64").to_numpy(float, na_value=np.nan)}
    )  # fmt: skip


def last(bars: pd.DataFrame, news: pd.DataFrame = NO_NEWS) -> pd.Series:
    return features.stock_features(bars, news).iloc[-1]


# --- bars --------------------------------------------------------------------------------------------


def test_returns_are_over_trading_days_with_the_close_before_as_their_base() -> None:
    row = last(bars_of(date(2026, 1, 5), [100, 102, 99, 110, 121]))
    assert row["return_1d"] == pytest.approx(0.10)
    assert row["return_2d"] == pytest.approx(121 / 99 - 1)
    assert row["return_3d"] == pytest.approx(121 / 102 - 1)
    assert np.isnan(row["return_5d"])
    assert row["close"] == 121
    assert row["return_intraday"] == pytest.approx(-np.log(0.99))
    assert row["gap_1d"] == pytest.approx(np.log(121 * 0.99 / 110))
    assert row["range_1d"] == pytest.approx(np.log(1.02 / 0.98))
    assert row["close_in_range"] == pytest.approx(0.5)


def test_volatility_is_the_root_mean_square_of_daily_returns_and_null_when_too_many_are_missing() -> None:
    closes = [100.0]
    for n in range(21):
        closes.append(closes[-1] * np.exp(0.02 if n % 2 else -0.02))
    bars = bars_of(date(2026, 1, 5), closes)
    assert last(bars)["volatility_20d"] == pytest.approx(0.02, rel=1e-6)
    assert last(bars)["volatility_5d_to_20d"] == pytest.approx(1.0, rel=1e-6)
    assert last(bars)["return_1d_in_volatility"] == pytest.approx(-1.0, rel=1e-6)
    assert np.isnan(last(bars)["volatility_60d"])
    assert np.isnan(last(bars.drop(index=[18, 20]))["volatility_5d"])


def test_missing_day_gives_nulls_not_the_row_before_it() -> None:
    bars = bars_of(date(2026, 1, 5), [100, 102, 99, 110, 121]).drop(index=3)
    row = last(bars)
    assert np.isnan(row["return_1d"])
    assert np.isnan(row["gap_1d"])
    assert row["return_2d"] == pytest.approx(121 / 99 - 1)
    assert features.known_outcomes(bars)["next_close"].tolist() == [102, 99]


def test_means_and_highs_are_of_closes_whatever_was_split() -> None:
    row = last(bars_of(date(2026, 1, 5), [100, 100, 400, 100, 100]))
    assert row["close_to_mean_5d"] == pytest.approx(-np.log(4) / 5)
    rising = last(bars_of(date(2026, 1, 5), list(np.linspace(100, 200, 60))))
    assert rising["close_to_high_60d"] == 0.0
    falling = last(bars_of(date(2026, 1, 5), list(np.linspace(200, 100, 60))))
    assert falling["close_to_high_60d"] == pytest.approx(np.log(0.5))


SPRING = Window.of("2014-01-01", "2014-06-01")
NEVER_SPLIT = simulator.bars(
    SPRING, symbols=["TSLA"], as_of=SPRING.end,
    trouble=simulator.Trouble(late_share=0, revised_share=0, missing_share=0.05, splits={}),
).reset_index(drop=True)  # fmt: skip


@settings(max_examples=25)
@given(day=st.integers(1, 89), ratio=st.sampled_from([2.0, 3.0, 5.0, 1.5, 0.1]))
def test_split_changes_no_feature_but_the_close(day: int, ratio: float) -> None:
    """The law of scale: the day before or after, all prices and volumes in other shares, and the same features."""
    whole = NEVER_SPLIT
    later = whole.index >= day
    split = whole.assign(
        **{name: np.where(later, whole[name] / ratio, whole[name]) for name in ("open", "high", "low", "close")},
        volume=np.where(later, whole["volume"] * ratio, whole["volume"]),
        split=np.where(whole.index == day, ratio, 1.0),
    )
    names = [feature.name for feature in schema.FEATURES if feature.name != "close"]
    pd.testing.assert_frame_equal(
        features.stock_features(split, NO_NEWS)[names], features.stock_features(whole, NO_NEWS)[names],
        rtol=1e-4, atol=1e-6,
    )  # fmt: skip
    same, other = features.known_outcomes(whole), features.known_outcomes(split)
    assert other["next_return"].to_numpy() == pytest.approx(same["next_return"].to_numpy(), abs=1e-9)


def test_outcome_over_a_split_is_the_worth_of_one_old_share() -> None:
    bars = bars_of(date(2026, 1, 5), [900.0, 310.0]).assign(split=[1.0, 3.0])
    (row,) = features.known_outcomes(bars).to_dict("records")
    assert row["next_close"] == 930.0
    assert row["next_return"] == pytest.approx(930 / 900 - 1)
    assert row["next_up"] == 1
    assert row["known_at"] == pd.Timestamp(close_at(date(2026, 1, 6)))


def test_unchanged_price_is_not_up() -> None:
    assert features.known_outcomes(bars_of(date(2026, 1, 5), [100.0, 100.0]))["next_up"].tolist() == [0]


def test_symbols_do_not_see_each_other() -> None:
    one, other = bars_of(date(2026, 1, 5), [100, 110]), bars_of(date(2026, 1, 5), [7, 14], symbol="SPY")
    rows = features.stock_features(pd.concat([one, other]), NO_NEWS)
    found = rows[rows["closed_at"] == rows["closed_at"].max()].set_index("symbol")["return_1d"]
    assert found.to_dict() == pytest.approx({"SPY": 1.0, "TSLA": 0.1})


def test_day_without_any_range_or_trade_has_nulls_where_a_number_would_be_made_up() -> None:
    bars = bars_of(date(2026, 1, 5), [100, 101]).assign(open=100.0, high=100.0, low=100.0, close=100.0, volume=[5, 0])
    row = last(bars)
    assert np.isnan(row["close_in_range"])
    assert np.isnan(row["volume_to_mean_20d"])


# --- calendar ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "since", "to_next", "early"),
    [
        (date(2026, 7, 2), 1, 4, False),  # Independence Day is observed on Friday the 3rd
        (date(2026, 7, 6), 4, 1, False),
        (date(2026, 11, 27), 2, 3, True),  # the day after Thanksgiving ends at 13:00
        (date(2012, 10, 26), 1, 5, False),  # hurricane Sandy closed Monday and Tuesday
        (date(2026, 3, 9), 3, 1, False),  # the clock went forward on Sunday: days are days
    ],
)
def test_calendar_knows_weekends_holidays_early_closes_and_the_hurricane(
    day: date, since: int, to_next: int, early: bool
) -> None:
    row = last(bars_of(day, [100.0]))
    assert (row["days_since_previous"], row["days_to_next"]) == (since, to_next)
    assert bool(row["is_early_close"]) is early
    assert (row["weekday"], row["month"]) == (day.weekday(), day.month)


def test_close_is_at_four_in_new_york_in_summer_and_in_winter() -> None:
    assert close_at(date(2026, 1, 15)).hour == 21
    assert close_at(date(2026, 7, 15)).hour == 20


def test_every_trading_day_of_the_table_of_real_prices_is_a_session() -> None:
    known = sessions()
    assert (np.diff(known.closes) > 0).all()
    assert (known.closes > known.opens).all()
    closes = closes_between(Window.of("2010-06-29", "2023-12-30").start, Window.of("2010-06-29", "2023-12-30").end)
    assert len(closes) == 3400
    assert (np.diff(numbers_of(closes)) == 1).all()


# --- news --------------------------------------------------------------------------------------------


def test_news_counts_once_its_day_is_over_which_is_after_the_close_of_that_day() -> None:
    bars = bars_of(date(2026, 1, 5), [100.0])
    monday = news_of({date(2026, 1, 4): 0.2, date(2026, 1, 5): 0.9})
    assert last(bars, monday)["news_polarity_1d"] == 0.2


def test_days_without_articles_are_null_and_are_in_no_mean() -> None:
    bars = bars_of(date(2026, 1, 12), [100.0])
    news = news_of({date(2026, 1, 11): None, date(2026, 1, 10): 0.4, date(2026, 1, 9): None, date(2026, 1, 8): 0.0})
    row = last(bars, news)
    assert np.isnan(row["news_polarity_1d"])
    assert row["news_polarity_7d"] == pytest.approx(0.2)
    assert row["news_days_7d"] == 2
    weights = np.array([0.75, 0.75**3])  # one and three days before the newest
    assert row["news_polarity_ewm_7d"] == pytest.approx(0.4 * weights[0] / weights.sum())
    silent = last(bars, news_of({date(2026, 1, 11): None}))
    assert np.isnan(silent["news_polarity_7d"])
    assert silent["news_days_7d"] == 0


def test_without_a_feed_all_of_news_is_null_and_nothing_else_is() -> None:
    row = features.stock_features(bars_of(date(2026, 1, 5), [100.0, 101.0]), NO_NEWS).iloc[-1]
    assert row[schema.NEWS_FEATURES].isna().all()
    assert row["return_1d"] == pytest.approx(0.01)


# --- refusals ----------------------------------------------------------------------------------------


def test_bars_twice_prices_below_zero_naive_times_and_missing_columns_are_refused() -> None:
    bars = bars_of(date(2026, 1, 5), [100.0, 101.0])
    with pytest.raises(InvalidData, match=r"TSLA at 2026-01-05 21:00:00\+00:00 more than once"):
        features.stock_features(pd.concat([bars, bars.head(1)]), NO_NEWS)
    with pytest.raises(InvalidData, match=r"low -3.0 for TSLA at 2026-01-05"):
        features.stock_features(bars.assign(low=-3.0), NO_NEWS)
    with pytest.raises(InvalidTime, match="expected times with a time zone"):
        features.stock_features(bars.assign(closed_at=bars["closed_at"].dt.tz_localize(None)), NO_NEWS)
    with pytest.raises(InvalidTime, match="is no close of the New York Stock Exchange"):
        features.stock_features(bars.assign(closed_at=bars["closed_at"] + pd.Timedelta(minutes=1)), NO_NEWS)
    with pytest.raises(SchemaMismatch, match=r"need the columns \['split'\]"):
        features.stock_features(bars.drop(columns="split"), NO_NEWS)
    twice = pd.concat([news_of({date(2026, 1, 4): 0.2}), news_of({date(2026, 1, 4): 0.3})])
    with pytest.raises(InvalidData, match="news has TSLA"):
        features.stock_features(bars, twice)
