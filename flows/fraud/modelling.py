"""What a fraud model is made of and worth: its splits in time, its search, its baselines, its report. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from flows import boosting, evaluation, splitting
from flows.fraud import schema
from flows.splitting import SplitPlan, Splits

if TYPE_CHECKING:
    import pandas as pd

    Floats = np.ndarray[Any, np.dtype[np.float64]]

SEED = 20260101
XGBOOST: Mapping[str, Any] = {
    "objective": "binary:logistic",
    "learning_rate": 0.05,
    "n_estimators": 400,
    "early_stopping_rounds": 50,
    "eval_metric": "aucpr",
    "tree_method": "hist",
    "n_jobs": 2,
    "random_state": SEED,
}
"""What is not searched for."""

SEARCH = boosting.Search(
    space={
        "max_depth": (3, 8),
        "min_child_weight": (0.5, 20.0),
        "subsample": (0.6, 1.0),
        "colsample_bytree": (0.3, 1.0),
        "reg_lambda": (0.5, 50.0),
    },
    start={"max_depth": 5, "min_child_weight": 5.0, "subsample": 0.8, "colsample_bytree": 0.6, "reg_lambda": 5.0},
    logarithmic=("min_child_weight", "reg_lambda"),
    trials=8, folds=2, gap=schema.LABEL_DELAY,
    # Frauds are few: with every third day left out of the handbook's table, all that mattered was min_child_weight.
    rows=250_000,
    changes={"learning_rate": 0.1, "n_estimators": 150, "early_stopping_rounds": 15},
    seed=SEED,
)  # fmt: skip

CALLS_PER_DAY = 100
"""Cards that the investigators can call in a day."""

SPLITS = SplitPlan(
    label_delay=schema.LABEL_DELAY, validation_share=0.14, test_share=0.16, burn_in_share=1 / 6, shortest=timedelta(0),
    label="outcomes",
)  # fmt: skip
"""The span's beginning, where merchants have no known outcomes yet, is not learned from. Between validation and test
lies the label delay: who chose the threshold at the start of the test knew all the outcomes used."""

LOG_COLUMNS = ("amount", "distance_km", "speed_kmh", "seconds_since_previous")
AMOUNT_BANDS = (0.0, 20.0, 50.0, 100.0, 200.0)


def fit_logistic(X_train: pd.DataFrame, y_train: pd.Series) -> Any:
    """The simple model to beat: medians for nulls, logarithms of what is skewed, then a logistic regression."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    skewed = [name for name in X_train if name.startswith(LOG_COLUMNS)]
    logarithm = FunctionTransformer(np.log1p, feature_names_out="one-to-one")
    model = make_pipeline(
        ColumnTransformer([("log", logarithm, skewed)], remainder="passthrough"),
        SimpleImputer(strategy="median"),
        StandardScaler(),
        LogisticRegression(max_iter=1000, random_state=SEED),
    )
    return model.fit(X_train, y_train)


def fit_tree(X_train: pd.DataFrame, y_train: pd.Series) -> Any:
    """Two questions about a transaction: what can be had for next to nothing."""
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(max_depth=2, random_state=SEED).fit(X_train, y_train)


@dataclass(frozen=True)
class Result:
    """What was measured on the test split, all on the same rows."""

    average_precision: evaluation.Score
    logistic: evaluation.Score
    tree: evaluation.Score
    prevalence: float
    precision_top_k: evaluation.Score
    logistic_top_k: evaluation.Score
    roc_auc: evaluation.Score
    brier: float
    calibration_error: float
    threshold: float
    cost: float
    cost_without: float
    flagged: int
    slices: tuple[evaluation.Slice, ...]

    def metrics(self) -> dict[str, float]:
        """The numbers by name, as the registry keeps them."""
        return {
            "test.average_precision": self.average_precision.value,
            "test.average_precision.low": self.average_precision.low,
            "test.average_precision.high": self.average_precision.high,
            "test.average_precision.logistic": self.logistic.value,
            "test.average_precision.tree": self.tree.value,
            "test.average_precision.prevalence": self.prevalence,
            "test.precision_top_100": self.precision_top_k.value,
            "test.precision_top_100.logistic": self.logistic_top_k.value,
            "test.roc_auc": self.roc_auc.value,
            "test.brier": self.brier,
            "test.calibration_error": self.calibration_error,
            "test.cost": self.cost,
            "test.cost_without": self.cost_without,
        }


def days_of(X: pd.DataFrame) -> Any:
    """The day of each row: rows of one day are not independent, so intervals are made of whole days."""
    return X["datetime"].dt.floor("D").to_numpy()


def judge(
    y: pd.Series, scores: Floats, logistic: Floats, tree: Floats, X: pd.DataFrame, cards: pd.Series, *, threshold: float
) -> Result:
    """Measure the model and its baselines on the test rows.

    Args:
        scores, logistic, tree: what the three models say of each row.
        X: the test rows with datetime and amount.
        cards: the card of each row.
        threshold: chosen on validation.
    """
    days = days_of(X)
    return Result(
        average_precision=evaluation.interval("average_precision", y, scores, blocks=days, name="xgboost"),
        logistic=evaluation.interval("average_precision", y, logistic, blocks=days, name="logistic"),
        tree=evaluation.interval("average_precision", y, tree, blocks=days, name="depth-2 tree"),
        prevalence=float(y.mean()),
        precision_top_k=evaluation.precision_top_k_per_day(y, scores, days=days, entities=cards, k=CALLS_PER_DAY),
        logistic_top_k=evaluation.precision_top_k_per_day(y, logistic, days=days, entities=cards, k=CALLS_PER_DAY),
        roc_auc=evaluation.interval("roc_auc", y, scores, blocks=days, name="xgboost"),
        brier=evaluation.brier(y, scores),
        calibration_error=evaluation.calibration_error(y, scores),
        threshold=threshold,
        cost=evaluation.cost_of_threshold(
            y, scores, X["amount"], threshold=threshold, cost_false_alarm=schema.FALSE_ALARM_USD
        ),
        cost_without=float(X["amount"].to_numpy()[y.to_numpy() == 1].sum()),
        flagged=int((scores >= threshold).sum()),
        slices=tuple(evaluation.slices(y, scores, slice_columns(X))),
    )


def with_cost(decision: evaluation.Decision, result: Result) -> evaluation.Decision:
    """The decision, and whether flagging by the model is cheaper than flagging nothing: if not, it is a no.

    >>> from types import SimpleNamespace as Some
    >>> yes = evaluation.Decision(accepted=True, reasons=("better than logistic",))
    >>> with_cost(yes, Some(cost=900.0, cost_without=800.0)).reasons  # type: ignore[arg-type]  # a stand-in
    ('better than logistic', 'costs 900 USD on the test rows, and flagging nothing 800 USD (needed less)')
    """
    is_cheaper = result.cost < result.cost_without
    reason = (
        f"costs {result.cost:,.0f} USD on the test rows, and flagging nothing {result.cost_without:,.0f} USD "
        "(needed less)"
    )
    return replace(decision, accepted=decision.accepted and is_cheaper, reasons=(*decision.reasons, reason))


def slice_columns(X: pd.DataFrame) -> dict[str, Any]:
    """The corners that a good mean could hide: small and large amounts, night, cards with and without history."""
    import pandas as pd

    bands = pd.cut(X["amount"], [*AMOUNT_BANDS, np.inf], right=False)
    return {
        "amount, USD": bands.astype("str"),
        "night": X["is_night"].astype("str"),
        "card": np.where(X["amount_count_30d"].isna(), "new", "known"),
    }


def training_report(result: Result, decision: evaluation.Decision, splits: Splits, rows: Mapping[str, int]) -> str:
    """What was measured, against what, and what was decided, as markdown."""
    tested = result.average_precision
    lines = [
        f"**{'Accepted' if decision.accepted else 'Rejected'}**: " + "; ".join(decision.reasons) + ".",
        "",
        *splitting.table(splits, rows, of="window"),
        "",
        "| on test | average precision | 95 % interval over days |",
        "| --- | ---: | --- |",
        f"| prevalence | {result.prevalence:.3f} | |",
        f"| depth-2 tree | {result.tree.value:.3f} | {_interval(result.tree)} |",
        f"| logistic regression | {result.logistic.value:.3f} | {_interval(result.logistic)} |",
        f"| **XGBoost** | **{tested.value:.3f}** | {_interval(tested)} |",
        "",
        f"- Of {CALLS_PER_DAY} cards called a day, {result.precision_top_k.value:.3f} "
        f"{_interval(result.precision_top_k)} had a fraud that day; with the logistic regression "
        f"{result.logistic_top_k.value:.3f}.",
        f"- ROC AUC {result.roc_auc.value:.3f}, Brier {result.brier:.5f}, calibration error "
        f"{result.calibration_error:.5f}.",
        f"- Threshold {result.threshold:.4f}, chosen on validation for {schema.FALSE_ALARM_USD:.0f} USD a false alarm: "
        f"{result.flagged:,} of {tested.n:,} flagged, cost {result.cost:,.0f} USD instead of "
        f"{result.cost_without:,.0f} USD.",
        "",
        "| slice | value | rows | frauds | average precision |",
        "| --- | --- | ---: | ---: | --- |",
        *(
            f"| {s.column} | {s.value} | {s.n:,} | {s.positives:,} | "
            f"{s.note if s.score is None else format(s.score, '.3f')} |"
            for s in result.slices
        ),
    ]
    return "\n".join(lines) + "\n"


def model_card(result: Result, splits: Splits, *, source: str, features: Sequence[str], dataset: str) -> str:
    """What the model is for, what it was made from, and what it must not be used for, as markdown."""
    return "\n".join(
        [
            "# Card fraud",
            "",
            "Scores a card transaction, before it is booked, with the probability that its owner did not make it.",
            "",
            f"- **Made from**: {dataset}; source `{source}`; parameters searched on {splits.train}, number of "
            f"trees and threshold chosen on {splits.validation}, fitted again on both, judged once on {splits.test}.",
            f"- **Worth**: average precision {result.average_precision.value:.3f} {_interval(result.average_precision)}"
            f", logistic regression {result.logistic.value:.3f}, depth-2 tree {result.tree.value:.3f}, prevalence "
            f"{result.prevalence:.3f}.",
            f"- **Threshold**: {result.threshold:.4f}, for {schema.FALSE_ALARM_USD:.0f} USD a false alarm against the "
            "amount of a missed fraud.",
            "- **Limits**: outcomes are known after 7 days, so the newest week teaches nothing. Cards and merchants "
            "without history in 30 days are scored without it. The data are simulated, by us or by the table's "
            "authors: no figure here says anything about a real bank.",
            "- **Do not use for**: declining a payment without a person's look, judging a card's owner, or credit.",
            f"- **Features** ({len(features)}): {', '.join(features)}.",
            "",
        ]
    )


def _interval(score: evaluation.Score) -> str:
    return f"[{score.low:.3f}, {score.high:.3f}]"
