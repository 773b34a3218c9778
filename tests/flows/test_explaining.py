"""What each feature of a row adds to what a model says."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import xgboost

from flows import explaining
from flows.registry import LoadedModel

RNG = np.random.default_rng(3)
X = pd.DataFrame({"amount": RNG.normal(size=300), "hour": RNG.normal(size=300), "scale": RNG.uniform(1, 2, 300)})
X.loc[5, "amount"] = np.nan


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    y = 3 * X["amount"].fillna(0) + X["hour"]
    fitted = xgboost.XGBRegressor(n_estimators=20, max_depth=3, n_jobs=1).fit(X, y)
    return LoadedModel(fitted.get_booster(), tuple(X), None, "hash")


def scaled(model: LoadedModel) -> LoadedModel:
    return LoadedModel(model.booster, model.feature_names, None, "hash", scaled_by="scale")


def test_contributions_and_the_expected_output_add_up_to_what_the_model_says(model: LoadedModel) -> None:
    added = explaining.contributions(model, X)
    expected = model.score(X) - added.sum(axis=1)
    assert expected == pytest.approx(np.full(len(X), expected[0]), abs=1e-4)


def test_contributions_of_a_scaled_model_are_in_the_unit_of_its_score(model: LoadedModel) -> None:
    assert explaining.contributions(scaled(model), X) == pytest.approx(
        explaining.contributions(model, X) * X[["scale"]].to_numpy()
    )


def test_stored_reasons_of_a_row_are_those_of_the_single_request(model: LoadedModel) -> None:
    """One definition for batch and online."""
    stored = explaining.reasons_of(model, X.iloc[[5, 9]].assign(more="text"), top=2)
    assert stored.index.tolist() == [5, 9]
    online = explaining.reasons(model, X.iloc[9].to_dict())[:2]
    assert [each["feature"] for each in json.loads(stored[9])] == [reason.feature for reason in online]
    assert [each["contribution"] for each in json.loads(stored[9])] == pytest.approx(
        [reason.contribution for reason in online], rel=1e-3
    )
    assert {each["feature"]: each["value"] for each in json.loads(stored[5])}["amount"] is None


def test_no_rows_have_no_reasons_and_a_row_without_a_score_has_none(model: LoadedModel) -> None:
    assert explaining.reasons_of(model, X.head(0)).tolist() == []
    assert explaining.reasons_of(scaled(model), X.head(1).assign(scale=np.nan)).tolist() == ["[]"]


def test_mean_sizes_are_largest_first(model: LoadedModel) -> None:
    sizes = explaining.mean_sizes(model, X)
    assert next(iter(sizes)) == "amount"
    assert list(sizes.values()) == sorted(sizes.values(), reverse=True)
    assert set(sizes) == set(X)
