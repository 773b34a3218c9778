"""Boosted trees for all systems: the matrix they take, fitting, searching within a budget, fitting again. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidData
from flows import splitting

if TYPE_CHECKING:
    import numpy as np
    import optuna
    import pandas as pd
    import xgboost

Params = Mapping[str, Any]
GREATER_IS_BETTER = {"auc", "aucpr", "map", "ndcg"}
"""XGBoost's metrics of which more is better; of all others less."""


@dataclass(frozen=True)
class Search:
    """A budget for looking for parameters, and where to look.

    Args:
        space: bounds by name; whole numbers where the bounds are.
        start: where the search begins: what it proposes must be better than this.
        logarithmic: names of the space whose scale is a ratio.
        trials: how many proposals are tried, the start among them.
        folds: rolling-origin folds that each is tried on. Each validates on 1 / (folds + 4) of the span.
        gap: left out before each validation stretch: the label delay.
        rows: beyond so many only every n-th day is searched on: finding good parameters needs no more.
        changes: what is different while searching, such as fewer and faster trees.
        seed: the same rows and seed give the same parameters.
    """

    space: Mapping[str, tuple[float, float]]
    start: Params
    gap: timedelta
    logarithmic: Collection[str] = ()
    trials: int = 8
    folds: int = 2
    rows: int = 20_000
    changes: Params = field(default_factory=dict)
    seed: int = 20260101

    def params(self) -> dict[str, Any]:
        """What a rerun must repeat, for the registry."""
        return {"search_trials": self.trials, "search_folds": self.folds, "search_rows": self.rows}


@dataclass(frozen=True)
class Found:
    """What a search found, and every trial: its parameters and the mean of the metric over the folds."""

    params: Params
    trials: tuple[tuple[Params, float], ...]
    metric: str

    def report(self) -> str:
        """All trials as a markdown table, the best one bold."""
        names = list(self.params)
        lines = [
            f"| trial | {' | '.join(names)} | {self.metric} over folds |",
            f"| ---: |{' ---: |' * (len(names) + 1)}",
        ]
        for number, (params, value) in enumerate(self.trials):
            bold = "**" if params == self.params else ""
            cells = [f"{number}", *(f"{params[name]:.4g}" for name in names), f"{bold}{value:.5g}{bold}"]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)


def feature_columns(X_train: pd.DataFrame, *, never: Collection[str]) -> list[str]:
    """The columns to learn from, in order: none of `never`, and nothing that is null throughout training.

    >>> import pandas as pd
    >>> feature_columns(pd.DataFrame({"tid": ["a"], "amount": [1.0], "distance_km": [None]}), never={"tid"})
    ['amount']
    """
    return [name for name in X_train if name not in never and bool(X_train[name].notna().any())]


def matrix(X: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The named columns as float64, nulls as NaN.

    >>> import pandas as pd
    >>> matrix(pd.DataFrame({"a": [True, None], "b": [1, 2]}), ["a"])["a"].tolist()
    [1.0, nan]
    """
    return X[list(names)].astype("float64")


def fit(
    X_train: pd.DataFrame, y_train: pd.Series, X_validation: pd.DataFrame, y_validation: pd.Series, params: Params,
) -> xgboost.XGBModel:  # fmt: skip
    """Boosted trees, stopped where the metric on validation no longer gets better.

    Args:
        params: XGBoost's, with eval_metric and early_stopping_rounds. An objective "binary:..." makes a classifier.
    """
    model = _model_of(params)
    return model.fit(X_train, y_train, eval_set=[(X_validation, y_validation)], verbose=False)


def refit(model: xgboost.XGBModel, X: pd.DataFrame, y: pd.Series) -> xgboost.XGBModel:
    """The same model on training and validation together, with as many trees as validation asked for.

    The newest rows teach most; what was tuned on them is judged on none of them.
    """
    params = {name: value for name, value in model.get_params().items() if value is not None}
    params |= {"n_estimators": model.best_iteration + 1}
    params.pop("early_stopping_rounds", None)
    return type(model)(**params).fit(X, y, verbose=False)


def predict(model: xgboost.XGBModel, X: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What the model says of each row, float64: the probability of a classifier, the number of a regressor."""
    said = model.predict_proba(X)[:, 1] if hasattr(model, "predict_proba") else model.predict(X)
    return said.astype("float64")


def gain(model: xgboost.XGBModel) -> dict[str, float]:
    """How much each feature improved the trees, by name."""
    found = model.get_booster().get_score(importance_type="total_gain")
    return {name: float(value) for name, value in found.items() if not isinstance(value, list)}


def search(X: pd.DataFrame, y: pd.Series, times: pd.Series, fixed: Params, plan: Search) -> Found:
    """Parameters with the best metric on folds that move forward in time, found within a budget of trials.

    Args:
        X, y, times: training rows as the model takes them, what they should give, and their event times. Validation
            and test are not among them.
        fixed: XGBoost's parameters that are not searched for, with eval_metric and early_stopping_rounds.
    Returns:
        One value for each name of the space. The same rows give the same values.
    Raises:
        InvalidData: no room for the folds, or the metric is not defined on any of them.
    """
    import numpy as np
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    metric = str(fixed["eval_metric"])
    start, end = times.min().to_pydatetime(), times.max().to_pydatetime() + timedelta(hours=1)
    length = (end - start) / (plan.folds + 4)
    day = (times - times.min()).dt.days.to_numpy()
    every = max(1, -(-len(X) // plan.rows))
    parts = []
    for windows in splitting.rolling_origin(start, end, folds=plan.folds, validation=length, gap=plan.gap):
        rows = [((times >= w.start) & (times < w.end)).to_numpy() & (day % every == 0) for w in windows]
        parts.append([(X[chosen], y[chosen]) for chosen in rows])

    def value(trial: optuna.Trial) -> float:
        proposed = {name: _suggested(trial, name, bounds, plan) for name, bounds in plan.space.items()}
        params = {**fixed, **proposed, **plan.changes}
        return float(np.mean([fit(*train, *validation, params).best_score for train, validation in parts]))

    study = optuna.create_study(
        direction="maximize" if metric in GREATER_IS_BETTER else "minimize",
        sampler=optuna.samplers.TPESampler(seed=plan.seed),
    )
    study.enqueue_trial(dict(plan.start))
    study.optimize(value, n_trials=plan.trials)
    if not study.get_trials(states=[optuna.trial.TrialState.COMPLETE]):  # each gave NaN
        raise InvalidData(
            f"Every trial gave {metric} = NaN: a fold of the {int((day % every == 0).sum()):,} rows from {start} to "
            f"{end} has none of the labels that it needs. Search on more rows, or run the feature pipeline "
            "for more history."
        )
    return Found(
        dict(study.best_params), tuple((dict(each.params), float(each.value or 0.0)) for each in study.trials), metric
    )


def _suggested(trial: optuna.Trial, name: str, bounds: tuple[float, float], plan: Search) -> float:
    low, high = bounds
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high)
    return trial.suggest_float(name, low, high, log=name in plan.logarithmic)


def _model_of(params: Params) -> xgboost.XGBModel:
    from xgboost import XGBClassifier, XGBRegressor

    kind = XGBClassifier if str(params.get("objective", "")).startswith("binary:") else XGBRegressor
    return kind(**params)
