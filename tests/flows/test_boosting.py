"""Boosted trees for all systems."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from featurestore.errors import InvalidData
from flows import boosting

FIXED = {"objective": "reg:squarederror", "eval_metric": "rmse", "n_estimators": 20, "early_stopping_rounds": 3,
         "random_state": 1, "n_jobs": 1}  # fmt: skip
SEARCH = boosting.Search(
    space={"max_depth": (2, 4), "reg_lambda": (0.5, 30.0)}, start={"max_depth": 3, "reg_lambda": 1.0},
    logarithmic=("reg_lambda",), gap=timedelta(days=2), trials=3, rows=500,
)  # fmt: skip


@pytest.fixture
def rows() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    times = pd.date_range("2026-01-01 10:00", periods=60, freq="D", tz="UTC").repeat(24)
    return pd.DataFrame({"time": times, "a": rng.normal(size=len(times)), "b": rng.normal(size=len(times))})


def test_the_same_rows_give_the_same_parameters(rows: pd.DataFrame) -> None:
    """T18."""
    y = rows["a"] * 0.1 + 1
    found = [boosting.search(rows[["a", "b"]], y, rows["time"], FIXED, SEARCH) for _ in range(2)]
    assert found[0] == found[1]
    assert set(found[0].params) == {"max_depth", "reg_lambda"}
    assert isinstance(found[0].params["max_depth"], int)


def test_every_trial_is_reported_and_the_best_one_is_chosen(rows: pd.DataFrame) -> None:
    """T7."""
    found = boosting.search(rows[["a", "b"]], rows["a"] * 0.1 + 1, rows["time"], FIXED, SEARCH)
    assert len(found.trials) == 3
    assert found.trials[0][0] == SEARCH.start
    assert found.params == min(found.trials, key=lambda trial: trial[1])[0]
    assert found.report().count("**") == 2
    assert len(found.report().splitlines()) == 2 + 3


def test_a_metric_of_which_more_is_better_is_maximised(rows: pd.DataFrame) -> None:
    fixed = {**FIXED, "objective": "binary:logistic", "eval_metric": "aucpr"}
    y = (rows["a"] + np.random.default_rng(2).normal(size=len(rows)) > 1).astype("int64")
    found = boosting.search(rows[["a", "b"]], y, rows["time"], fixed, SEARCH)
    assert found.params == max(found.trials, key=lambda trial: trial[1])[0]


def test_a_span_too_short_for_the_folds_is_refused(rows: pd.DataFrame) -> None:
    day = rows.head(24)
    with pytest.raises(InvalidData, match="No room for 2 folds"):
        boosting.search(day[["a"]], day["a"], day["time"], FIXED, SEARCH)


def test_folds_without_a_positive_are_refused_in_words(rows: pd.DataFrame) -> None:
    """T22: with few frauds and few rows the precision is not defined in any fold."""
    fixed = {**FIXED, "objective": "binary:logistic", "eval_metric": "aucpr"}
    y = (rows.index < 5).astype("int64")
    with pytest.raises(InvalidData, match=r"Every trial gave aucpr = NaN: a fold of the .* rows"):
        boosting.search(rows[["a", "b"]], pd.Series(y), rows["time"], fixed, SEARCH)


def test_refitting_keeps_the_parameters_and_the_number_of_trees_that_validation_asked_for(rows: pd.DataFrame) -> None:
    X, y = rows[["a", "b"]], rows["a"]
    counted = boosting.fit(X[:700], y[:700], X[700:], y[700:], {**FIXED, "max_depth": 2})
    again = boosting.refit(counted, X, y)
    assert again.get_booster().num_boosted_rounds() == counted.best_iteration + 1
    assert again.get_params()["max_depth"] == 2


def test_a_classifier_says_probabilities_and_a_regressor_numbers(rows: pd.DataFrame) -> None:
    X, y = rows[["a", "b"]], rows["a"] * 100
    number = boosting.fit(X[:700], y[:700], X[700:], y[700:], FIXED)
    chance = boosting.fit(
        X[:700], (y[:700] > 0).astype(int), X[700:], (y[700:] > 0).astype(int),
        {**FIXED, "objective": "binary:logistic", "eval_metric": "logloss"},
    )  # fmt: skip
    assert boosting.predict(number, X).max() > 50
    assert 0 <= boosting.predict(chance, X).min() < boosting.predict(chance, X).max() <= 1
    assert set(boosting.gain(number)) <= {"a", "b"}
