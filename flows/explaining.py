"""Why a model says what it says: what each feature of a row adds, as XGBoost computes it (SHAP values)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from flows.registry import LoadedModel

    Floats = np.ndarray[Any, np.dtype[np.float64]]

TOP = 5
"""How many features an answer or a stored prediction names."""


@dataclass(frozen=True)
class Reason:
    """A feature, its value in this row, and what it added to the model's output.

    The output is what the trees add up: log-odds of a classifier; of a regressor its target, times the feature that it
    is scaled by where there is one.
    """

    feature: str
    value: float | None
    contribution: float


def contributions(model: LoadedModel, features: pd.DataFrame) -> Floats:
    """What each feature adds to the output in each row: a matrix (rows x features, in the model's order).

    Args:
        features: a number (or null) per feature; columns are found by name, further ones ignored.
    Returns:
        float64; with the expected output of the model (the same for every row, not returned) they add up to its output.
        Where the model is scaled by a feature that is null, all are NaN.
    """
    return _added(model, features[list(model.feature_names)].to_numpy("float64"))


def reasons(model: LoadedModel, values: Mapping[str, Any]) -> tuple[Reason, ...]:
    """What each feature added to the output of one row, largest in size first."""
    import numpy as np

    row = np.array([[values[name] for name in model.feature_names]], dtype=np.float64)
    found = [
        Reason(name, None if value != value else float(value), float(each))
        for name, value, each in zip(model.feature_names, row[0], _added(model, row)[0], strict=True)
    ]
    return tuple(sorted(found, key=lambda reason: -abs(reason.contribution)))


def plain(values: Mapping[str, Any]) -> dict[str, float | None]:
    """The values of a vector as JSON has them: a missing one is null.

    >>> plain({"amount": 12, "risk": float("nan"), "age_days": None})
    {'amount': 12.0, 'risk': None, 'age_days': None}
    """
    return {
        name: None if value is None or value != value else float(value) for name, value in values.items()
    }  # fmt: skip


def reasons_of(model: LoadedModel, features: pd.DataFrame, *, top: int = TOP) -> pd.Series:
    """The reasons of each row as JSON text, as predictions keep them: a list, largest in size first.

    Args:
        features: as `contributions`.
        top: so many features for each row.
    Returns:
        Text in the order and with the index of the rows, such as
        `[{"feature": "amount", "value": 12.5, "contribution": 0.31}]`; "[]" where there is nothing to explain.
    """
    import numpy as np
    import pandas as pd

    names = list(model.feature_names)
    added = contributions(model, features)
    values = features[names].astype("float64").to_numpy()
    order = np.argsort(-np.abs(added), axis=1, kind="stable")[:, :top]
    texts = [
        "[]" if np.isnan(some).any()
        else json.dumps([
            {"feature": names[i], "value": None if np.isnan(row[i]) else float(f"{row[i]:.6g}"),
             "contribution": float(f"{some[i]:.4g}")}
            for i in chosen
        ])
        for row, some, chosen in zip(values, added, order, strict=True)
    ]  # fmt: skip
    return pd.Series(texts, index=features.index, dtype="str")


def mean_sizes(model: LoadedModel, features: pd.DataFrame) -> dict[str, float]:
    """The mean size of what each feature adds, largest first: what the model as a whole goes by.

    Args:
        features: rows such as those of the test.
    """
    import numpy as np

    sizes = np.nanmean(np.abs(contributions(model, features)), axis=0)
    pairs = zip(model.feature_names, sizes, strict=True)
    return {name: float(size) for name, size in sorted(pairs, key=lambda pair: -pair[1])}


def _added(model: LoadedModel, values: Floats) -> Floats:
    import numpy as np
    import xgboost

    names = list(model.feature_names)
    if not len(values):
        return np.empty((0, len(names)))
    matrix = xgboost.DMatrix(values, feature_names=names)
    added = model.booster.predict(matrix, pred_contribs=True)[:, :-1].astype("float64")  # the last one is the bias
    return added if model.scaled_by is None else added * values[:, [names.index(model.scaled_by)]]
