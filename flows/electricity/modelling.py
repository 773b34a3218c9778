"""What a demand model is made of and worth: its splits in time, its search, its baselines, its report. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from flows import boosting, evaluation, regression, splitting
from flows.electricity import schema
from flows.splitting import SplitPlan, Splits

if TYPE_CHECKING:
    import pandas as pd

    Floats = np.ndarray[Any, np.dtype[np.float64]]

SEED = 20260101
XGBOOST: Mapping[str, Any] = {
    "objective": "reg:absoluteerror",
    "eval_metric": "mae",
    "learning_rate": 0.08,
    "n_estimators": 500,
    "early_stopping_rounds": 30,
    "tree_method": "hist",
    "n_jobs": 2,
    "random_state": SEED,
}
"""What is not searched for. The absolute error is what the gate counts, and a storm does not rule it."""

LABEL_DELAY = timedelta(days=2)
"""All hours that an issue forecasts are known two days after it."""

SPLITS = SplitPlan(
    label_delay=LABEL_DELAY, validation_share=0.13, test_share=0.20, longest_test=timedelta(days=365),
    label="demand",
)  # fmt: skip

SEARCH = boosting.Search(
    space={
        "max_depth": (4, 9),
        "min_child_weight": (2.0, 60.0),
        "subsample": (0.6, 1.0),
        "colsample_bytree": (0.4, 0.9),
        "reg_lambda": (0.5, 30.0),
    },
    start={
        "max_depth": 6, "min_child_weight": 10.0, "subsample": 0.8, "colsample_bytree": 0.6, "reg_lambda": 1.0,
    },
    gap=LABEL_DELAY,
    logarithmic=("min_child_weight", "reg_lambda"),
    changes={"learning_rate": 0.15, "n_estimators": 150, "early_stopping_rounds": 15},
    seed=SEED,
)  # fmt: skip

LEAST_SKILL = {"same hour last week": 0.30}
"""The gate: an error this much lower than the seasonal-naive forecast's. Every other baseline must be beaten too."""

NEVER = {"zone", *schema.NEVER_FEATURES, *schema.BASELINES.values()}
"""Keys, times and baselines are not learned from."""


# --- the model ---------------------------------------------------------------------------------------


def usable(X: pd.DataFrame) -> pd.Series:
    """Rows a model can learn from: those whose zone has a recent mean to measure by."""
    return X[schema.SCALE].notna()


def ratio(y: pd.Series, X: pd.DataFrame) -> pd.Series:
    """What the model learns: demand as a multiple of the zone's last 168 hours."""
    return y / X[schema.SCALE].astype("float64")


def fit_ridge(X: pd.DataFrame, y: pd.Series) -> Any:
    """The simple model to beat: a ridge regression on lags and calendar, hour and weekday as categories."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    categories = [name for name in ("load_zone", "local_hour", "weekday") if name in X]
    numbers = [name for name in X if name not in categories]
    model = make_pipeline(
        ColumnTransformer(
            [
                ("categories", OneHotEncoder(handle_unknown="ignore"), categories),
                ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), numbers),
            ]
        ),
        Ridge(alpha=1.0),
    )
    return model.fit(X, y)


# --- what it is worth --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What was measured on the test split, all forecasts on the same rows, in MW."""

    mae: Mapping[str, evaluation.Score]
    mape: Mapping[str, float]
    rmse: Mapping[str, float]
    skill: evaluation.Score
    slices: tuple[regression.ErrorSlice, ...]
    operator: tuple[evaluation.Score, evaluation.Score, float, float] | None
    rows_left_out: int

    def metrics(self) -> dict[str, float]:
        """The numbers by name, as the registry keeps them."""
        model = self.mae["xgboost"]
        found = {
            "test.mae": model.value,
            "test.mae.low": model.low,
            "test.mae.high": model.high,
            "test.mape": self.mape["xgboost"],
            "test.rmse": self.rmse["xgboost"],
            "test.skill": self.skill.value,
            "test.skill.low": self.skill.low,
            "test.skill.high": self.skill.high,
            "test.rows": float(model.n),
        }
        for name, score in self.mae.items():
            if name != "xgboost":
                found[f"test.mae.{name.replace(' ', '_')}"] = score.value
        if self.operator is not None:
            ours, theirs, our_mape, their_mape = self.operator
            found |= {"test.operator.mae_ours": ours.value, "test.operator.mae_theirs": theirs.value}
            found |= {"test.operator.mape_ours": our_mape, "test.operator.mape_theirs": their_mape}
        return found


def judged_rows(X: pd.DataFrame) -> pd.Series:
    """The test rows on which all forecasts can be compared: those where every baseline and the model have a value."""
    columns = list(schema.BASELINES.values())
    return usable(X) & X[columns].notna().all(axis=1)


def judge(
    y: pd.Series, forecasts: Mapping[str, Floats], X: pd.DataFrame, operator: pd.Series, *, left_out: int
) -> Result:
    """Measure the model and its baselines on the same test rows.

    Args:
        y: demand, MW.
        forecasts: "xgboost" first, then the simple model and the baselines, MW.
        X: the rows' zone, hour, issued_at and calendar.
        operator: the operator's forecast for each row, MW; null where there is none.
        left_out: test rows that could not be compared.
    """
    days = days_of(X)
    naive = forecasts[next(iter(schema.BASELINES))]
    ours = forecasts["xgboost"]
    return Result(
        mae={name: regression.interval("mae", y, values, blocks=days, name=name) for name, values in forecasts.items()},
        mape={name: regression.mape(y, values) for name, values in forecasts.items()},
        rmse={name: regression.rmse(y, values) for name, values in forecasts.items()},
        skill=regression.skill(y, ours, naive, blocks=days),
        slices=tuple(regression.slices(y, ours, naive, slice_columns(X))),
        operator=beside_operator(y, ours, X, operator),
        rows_left_out=left_out,
    )


def beside_operator(
    y: pd.Series, ours: Floats, X: pd.DataFrame, operator: pd.Series
) -> tuple[evaluation.Score, evaluation.Score, float, float] | None:
    """Our error and the operator's on identical hours: MAE of both with intervals, MAPE of both. None without any."""
    there = operator.notna().to_numpy()
    if not there.any():
        return None
    truth, mine, theirs, days = y[there], ours[there], operator[there], days_of(X)[there]
    return (
        regression.interval("mae", truth, mine, blocks=days, name="xgboost"),
        regression.interval("mae", truth, theirs, blocks=days, name="operator"),
        regression.mape(truth, mine),
        regression.mape(truth, theirs),
    )


def days_of(X: pd.DataFrame) -> Any:
    """The issue of each row: hours and zones of one issue are not independent, so intervals are of whole issues."""
    return X["issued_at"].dt.floor("D").to_numpy()


def slice_columns(X: pd.DataFrame) -> dict[str, Any]:
    """The corners that a good mean could hide: zones, hours of the day, holidays, the days the clock changes."""
    season = X["hour"].dt.month.map(lambda month: ("winter", "spring", "summer", "autumn")[month % 12 // 3])
    return {
        "zone": X["zone"].to_numpy(),
        "hour": X["local_hour"].astype("int64").astype("str").to_numpy(),
        "season": season.to_numpy(),
        "federal holiday": X["is_federal_holiday"].astype("bool").astype("str").to_numpy(),
        "hours in the day": X["hours_in_day"].astype("int64").astype("str").to_numpy(),
        "temperature": np.where(X["temperature_c"].isna(), "unknown", "known"),
    }


# --- what is told about it ---------------------------------------------------------------------------


def training_report(result: Result, decision: evaluation.Decision, splits: Splits, rows: Mapping[str, int]) -> str:
    """What was measured, against what, and what was decided, as markdown."""
    lines = [
        f"**{'Accepted' if decision.accepted else 'Rejected'}**: " + "; ".join(decision.reasons) + ".",
        "",
        *splitting.table(splits, rows, of="issues of"),
        "",
        f"| on test, n {result.skill.n:,} | MAE, MW | 95 % interval over issues | MAPE, % | RMSE, MW |",
        "| --- | ---: | --- | ---: | ---: |",
        *(
            f"| {name} | {score.value:,.1f} | {_interval(score)} | {result.mape[name]:.2f} | {result.rmse[name]:,.1f} |"
            for name, score in reversed(list(result.mae.items()))
        ),
        "",
        f"- {result.skill.value:.1%} [{result.skill.low:.1%}, {result.skill.high:.1%}] below the error of the same "
        f"hour last week (needed {next(iter(LEAST_SKILL.values())):.0%}).",
        f"- {result.rows_left_out:,} test rows had no baseline or no recent demand, and are in none of these numbers.",
        f"- {operator_sentence(result)}",
        "",
        "| slice | value | rows | MAE, MW | MAPE, % | skill |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {s.column} | {s.value} | {s.n:,} | {s.note} | | |"
            if s.mae is None
            else f"| {s.column} | {s.value} | {s.n:,} | {s.mae:,.1f} | {s.mape:.2f} | {_percent(s.skill)} |"
            for s in result.slices
        ),
    ]
    return "\n".join(lines) + "\n"


def operator_sentence(result: Result) -> str:
    """The comparison with the operator, in words."""
    if result.operator is None:
        return "There is no forecast of the operator for these hours to compare with."
    ours, theirs, our_mape, their_mape = result.operator
    return (
        f"On the {ours.n:,} hours that the operator forecast too (two hours later, with weather forecasts of its own): "
        f"MAE {ours.value:,.1f} MW {_interval(ours)} against its {theirs.value:,.1f} MW {_interval(theirs)}, MAPE "
        f"{our_mape:.2f} % against {their_mape:.2f} %."
    )


def model_card(result: Result, splits: Splits, *, source: str, features: Sequence[str], dataset: str) -> str:
    """What the model is for, what it was made from, and what it must not be used for, as markdown."""
    weather = {
        "simulated": "made-up forecasts with an error of about 2 °C",
        "live": "Open-Meteo's forecasts of two days before",
        "zones": "no forecasts: temperatures measured 48 hours before the hour stand in for them",
        "system": "no forecasts: the mean of the last whole day stands in for them",
    }.get(source, "unknown")
    xgboost, naive = result.mae["xgboost"], result.mae[next(iter(schema.BASELINES))]
    return "\n".join(
        [
            "# Electricity demand of New York, a day ahead",
            "",
            "Says at 05:00 New York how much each load zone will need in each hour of the next day.",
            "",
            f"- **Made from**: {dataset}; source `{source}`; trained on issues of {splits.train}, trees counted on "
            f"{splits.validation} and then trained on both, judged once on {splits.test}.",
            f"- **Weather**: {weather}.",
            f"- **Worth**: MAE {xgboost.value:,.1f} MW {_interval(xgboost)} (MAPE {result.mape['xgboost']:.2f} %), "
            f"same hour last week {naive.value:,.1f} MW; skill {result.skill.value:.1%}.",
            f"- **Beside the operator**: {operator_sentence(result)}",
            "- **Limits**: demand behind the meter (rooftop sun) is not seen; storms and outages are not known; a zone "
            f"without demand in the last week gets the same hour of an earlier day, flagged.{_simulated(source)}",
            "- **Do not use for**: dispatching or trading; the operator's own forecast knows the weather better.",
            f"- **Output**: a multiple of `{schema.SCALE}`; `registry.load` gives MW.",
            f"- **Features** ({len(features)}): {', '.join(features)}.",
            "",
        ]
    )


def _simulated(source: str) -> str:
    return " The data are made up: no figure here says anything about New York." if source == "simulated" else ""


def _interval(score: evaluation.Score) -> str:
    return f"[{score.low:,.1f}, {score.high:,.1f}]"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
