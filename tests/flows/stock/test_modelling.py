"""What is measured of forecasts of returns, and a gate that lets a real edge pass, and neither noise nor a leak."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from featurestore.times import Window
from flows import boosting, splitting
from flows.stock import features, modelling, simulator
from flows.stock.modelling import ALWAYS_UP, BASELINE, LOGISTIC, MEAN, OURS, SHARE_UP, SIMPLE, Rows

START, END = datetime(2019, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
SPLITS = splitting.splits_of(START, END, modelling.SPLITS)


def rows_with(edge: float, *, symbols: int = 4) -> Rows:
    """Seven years of made-up stocks, with an edge planted in them."""
    names = ("TSLA", *simulator.OTHERS)[:symbols]
    window = Window(START - features.WARM_UP, END)
    bars = simulator.bars(window, symbols=names, as_of=END, trouble=replace(simulator.CALM, edge=edge))
    both = features.stock_features(bars, simulator.news(window, symbols=names)).merge(
        features.known_outcomes(bars)[["symbol", "day", "next_return", "next_up"]], on=["symbol", "day"]
    )
    both = both[both["closed_at"] >= START]
    labels = ["next_return", "next_up"]
    return Rows.of([both.drop(columns=labels)], [both[labels]])


def names_of(rows: Rows) -> list[str]:
    return boosting.feature_columns(rows.within(SPLITS.train).X, never=modelling.NEVER)


@pytest.fixture(scope="module")
def test_rows() -> Rows:
    """The test of one stock without an edge."""
    return rows_with(0.0, symbols=1).within(SPLITS.test)


def said_of_returns(test: Rows, ours: object) -> dict[str, modelling.Floats]:
    zero = np.zeros(len(test.X))
    return {OURS: np.asarray(ours, dtype=float), SIMPLE: zero + 0.0001, MEAN: zero + 0.0005, BASELINE: zero}


# --- the gate ----------------------------------------------------------------------------------------


def test_real_edge_is_accepted_though_it_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """T9: four stocks of whose next move a fifth is decided by the size of the day's."""
    monkeypatch.setattr(modelling, "SEARCH", replace(modelling.SEARCH, trials=1, folds=2))
    monkeypatch.setattr(
        modelling, "RETURN", {**modelling.RETURN, "learning_rate": 0.05, "n_estimators": 150, "n_jobs": 1}
    )
    rows = rows_with(0.2)
    fitted = modelling.fit_return(rows, SPLITS, names_of(rows))
    result = modelling.judge_return(rows.within(SPLITS.test), fitted.said, SPLITS)
    decision = modelling.decide_return(result, None)
    assert decision.accepted, decision.reasons
    assert result.skill[BASELINE].value < 0.02
    assert len(result.by_origin) == modelling.ORIGINS
    assert result.price_r2[BASELINE] > 0.98  # what the same price scores


def test_real_edge_in_directions_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modelling, "SEARCH", replace(modelling.SEARCH, trials=1, folds=2))
    monkeypatch.setattr(
        modelling, "DIRECTION", {**modelling.DIRECTION, "learning_rate": 0.1, "n_estimators": 80, "n_jobs": 1}
    )
    rows = rows_with(0.2)
    fitted = modelling.fit_direction(rows, SPLITS, names_of(rows))
    result = modelling.judge_direction(rows.within(SPLITS.test), fitted.said)
    decision = modelling.decide_direction(result, None)
    assert decision.accepted, decision.reasons
    assert 0.53 < result.accuracy[OURS].value < modelling.SUSPICIOUS


def test_noise_is_rejected_however_it_is_dressed(test_rows: Rows) -> None:
    """Forecasts of the right size and of no worth; the price's R² is as good as anybody's and has no say."""
    noise = np.random.default_rng(4).normal(scale=0.004, size=len(test_rows.X))
    result = modelling.judge_return(test_rows, said_of_returns(test_rows, noise), SPLITS)
    decision = modelling.decide_return(result, None)
    assert not decision.accepted
    assert result.price_r2[OURS] > 0.98
    assert not any("R²" in reason for reason in decision.reasons)
    assert result.significance.p > modelling.SIGNIFICANT
    same = modelling.judge_return(test_rows, said_of_returns(test_rows, np.zeros(len(test_rows.X))), SPLITS)
    assert not modelling.decide_return(same, None).accepted  # the same price is not better than the same price
    assert same.significance == modelling.Significance(0.0, 1.0, len(test_rows.X))


def test_leak_is_held_back_for_a_person_to_look_at(test_rows: Rows) -> None:
    """Beyond 56 % on 500 days nobody is honest: such a model is rejected for being too good."""
    leaked = test_rows.next_return * 0.3
    result = modelling.judge_return(test_rows, said_of_returns(test_rows, leaked), SPLITS)
    decision = modelling.decide_return(result, None)
    assert not decision.accepted
    assert [reason for reason in decision.reasons if reason.startswith("fails")] == [decision.reasons[-1]]
    assert "too good to be true (above 56%): look for a leak" in decision.reasons[-1]
    up = test_rows.next_up.to_numpy(float)
    said = {OURS: 0.4 + 0.2 * up, LOGISTIC: np.full(len(up), 0.5), SHARE_UP: np.full(len(up), 0.52)}
    assert "look for a leak" in modelling.decide_direction(modelling.judge_direction(test_rows, said), None).reasons[-1]


def test_same_champion_again_is_not_better_than_itself_on_the_newest_stretch(test_rows: Rows) -> None:
    """T15: on the same rows now, and on none that the champion may have learned from."""
    ours = test_rows.next_return * 0.3
    said = said_of_returns(test_rows, ours)
    champion = pd.Series(ours.to_numpy())
    same = modelling.beside_champion(test_rows, said, champion, SPLITS, of="return")
    assert same is not None
    assert same.value == 0.0
    _, newest = modelling.origins(SPLITS)[-1]
    assert same.n == int((test_rows.X["closed_at"] >= newest.start).sum())
    worse = modelling.beside_champion(test_rows, said, champion * 0, SPLITS, of="return")
    assert worse is not None
    assert worse.low > 0
    assert modelling.beside_champion(test_rows, said, None, SPLITS, of="return") is None
    result = modelling.judge_return(test_rows, said, SPLITS)
    reasons = modelling.decide_return(result, same).reasons
    assert any("fails" in reason and "champion on the newest stretch" in reason for reason in reasons)


# --- measures ----------------------------------------------------------------------------------------


def test_diebold_mariano_is_the_textbook_statistic_with_its_correction() -> None:
    """Diebold and Mariano (1995) at one step, times the factor of Harvey, Leybourne and Newbold (1997)."""
    rng = np.random.default_rng(1)
    ours, theirs = rng.gamma(2.0, size=200), rng.gamma(2.2, size=200)
    gain = theirs - ours
    statistic = gain.mean() / np.sqrt(gain.var() / 200) * np.sqrt(199 / 200)
    found = modelling.diebold_mariano(ours, theirs, np.arange(200))
    assert found.statistic == pytest.approx(statistic)
    assert found.days == 200
    back = modelling.diebold_mariano(theirs, ours, np.arange(200))
    assert back.statistic == pytest.approx(-statistic)
    assert found.p + back.p == pytest.approx(1.0)


def test_symbols_of_one_day_count_as_one_day() -> None:
    ours, theirs = np.array([1.0, 2.0, 1.0, 1.5]), np.array([1.5, 2.5, 1.5, 2.2])
    found = modelling.diebold_mariano(np.tile(ours, 5), np.tile(theirs, 5), np.tile([1, 2, 3, 4], 5))
    assert found == modelling.diebold_mariano(ours, theirs, [1, 2, 3, 4])


def test_price_is_the_close_times_one_plus_the_return_and_its_error_is_in_dollars(test_rows: Rows) -> None:
    off = test_rows.next_return + 0.01
    result = modelling.judge_return(test_rows, said_of_returns(test_rows, off), SPLITS)
    assert result.mae[OURS].value == pytest.approx(0.01)
    assert result.price_mae[OURS].value == pytest.approx(0.01 * test_rows.X["close"].mean())
    assert result.price_mae[BASELINE].value == pytest.approx(
        (test_rows.X["close"] * test_rows.next_return).abs().mean()
    )


def test_directions_are_counted_beside_always_up(test_rows: Rows) -> None:
    up = test_rows.next_up.to_numpy(float)
    said = {OURS: np.full(len(up), 0.6), LOGISTIC: np.full(len(up), 0.4), SHARE_UP: np.full(len(up), 0.5)}
    result = modelling.judge_direction(test_rows, said)
    assert result.accuracy[OURS].value == result.accuracy[ALWAYS_UP].value == pytest.approx(up.mean())
    assert result.accuracy[LOGISTIC].value == pytest.approx(1 - up.mean())
    assert result.accuracy[OURS].low < up.mean() < result.accuracy[OURS].high
    assert result.against_always_up.value == 0.0


def test_origins_train_on_the_past_only_and_together_test_the_whole_test() -> None:
    """T3, T5: the last label of each training is known before its test begins."""
    found = modelling.origins(SPLITS)
    assert len(found) == 6
    assert found[0][1].start == pytest.approx(SPLITS.test.start, abs=timedelta(seconds=1))
    assert found[-1][1].end == SPLITS.test.end
    for (train, test), (_, following) in zip(found, [*found[1:], (None, Window(SPLITS.test.end, END))], strict=True):
        assert train.start == SPLITS.train.start
        assert test.start - train.end == modelling.LABEL_DELAY
        assert test.end == following.start or following.start == SPLITS.test.end


def test_future_changes_nothing_that_was_said_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leak that a rolling evaluation could have: made-up labels in the last stretch change nothing."""
    monkeypatch.setattr(modelling, "SEARCH", replace(modelling.SEARCH, trials=1, folds=2))
    monkeypatch.setattr(modelling, "RETURN", {**modelling.RETURN, "n_estimators": 20, "n_jobs": 1})
    rows = rows_with(0.0, symbols=1)
    _, newest = modelling.origins(SPLITS)[-1]
    late = (rows.X["closed_at"] >= newest.start).to_numpy()
    other = rows._replace(next_return=rows.next_return.where(~late, 0.09))
    names = names_of(rows)
    one, two = (modelling.fit_return(some, SPLITS, names).said for some in (rows, other))
    for name in (OURS, SIMPLE, MEAN):
        np.testing.assert_array_equal(one[name], two[name])  # nothing is ever fitted on the newest stretch


def test_rows_without_a_known_volatility_are_neither_learned_from_nor_judged() -> None:
    closes = pd.date_range("2026-01-05", periods=3, tz="UTC")
    X = pd.DataFrame({"symbol": "TSLA", "closed_at": closes, "volatility_20d": [None, 0.0, 0.02]})
    y = pd.DataFrame({"next_return": [0.01, 0.01, 0.01], "next_up": 1})
    rows = Rows.of([X], [y])
    assert len(rows.X) == 1
    assert rows.scaled_return().tolist() == [0.5]
