"""What a price model is made of and worth: its search, its baselines, its report. Pure.

The metric is the mean absolute error. Prices are zero and below at times, so percents of them mean nothing; and a spike
of an hour would rule any squared error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from flows import evaluation, regression, splitting
from flows.electricity import modelling, schema
from flows.splitting import Splits

if TYPE_CHECKING:
    import pandas as pd

    Floats = np.ndarray[Any, np.dtype[np.float64]]

XGBOOST: Mapping[str, Any] = modelling.XGBOOST
SEARCH = replace(modelling.SEARCH, trials=4, rows=15_000)
"""Half of demand's budget: the second target must not double the time of a training run."""

SPLITS = replace(modelling.SPLITS, label="prices")

SPIKE_USD_PER_MWH = 150.0

NEVER = {"zone", *schema.NEVER_FEATURES, *schema.PRICE_BASELINES.values()}
"""Keys, times and baselines are not learned from."""

FEWEST_ROWS = 100
"""A slice of fewer rows has no number."""


def usable(X: pd.DataFrame) -> pd.Series:
    """Rows a model can learn from: those whose zone has prices of the last four weeks to measure by."""
    return X[schema.PRICE_SCALE].notna()


def ratio(y: pd.Series, X: pd.DataFrame) -> pd.Series:
    """What the model learns: the price as a multiple of the scale."""
    return y / X[schema.PRICE_SCALE].astype("float64")


def judged_rows(X: pd.DataFrame) -> pd.Series:
    """The test rows on which all forecasts can be compared."""
    return usable(X) & X[list(schema.PRICE_BASELINES.values())].notna().all(axis=1)


@dataclass(frozen=True)
class Result:
    """What was measured on the test split, all forecasts on the same rows: MAE in USD/MWh, and its slices."""

    mae: Mapping[str, evaluation.Score]
    skill: Mapping[str, evaluation.Score]
    slices: tuple[tuple[str, str, int, float | None, float | None], ...]
    rows_left_out: int

    def metrics(self) -> dict[str, float]:
        """The numbers by name, as the registry keeps them."""
        ours = self.mae["xgboost"]
        found = {
            "test.mae": ours.value,
            "test.mae.low": ours.low,
            "test.mae.high": ours.high,
            "test.rows": float(ours.n),
        }
        for name, score in self.mae.items():
            if name != "xgboost":
                found[f"test.mae.{name.replace(' ', '_')}"] = score.value
        for name, score in self.skill.items():
            key = f"test.skill.{name.replace(' ', '_')}"
            found |= {key: score.value, f"{key}.low": score.low, f"{key}.high": score.high}
        return found


def judge(y: pd.Series, forecasts: Mapping[str, Floats], X: pd.DataFrame, *, left_out: int) -> Result:
    """Measure the model and its baselines on the same test rows.

    Args:
        y: price, USD/MWh.
        forecasts: "xgboost" first, then the simple model and the baselines, USD/MWh.
        X: the rows' zone, hour, issued_at and calendar.
        left_out: test rows that could not be compared.
    """
    days, ours = modelling.days_of(X), forecasts["xgboost"]
    yesterday = forecasts["same hour yesterday"]
    found = []
    for column, values in slice_columns(y, X).items():
        for value in sorted(set(values)):
            rows = np.asarray(values) == value
            few = rows.sum() < FEWEST_ROWS
            mine, theirs = (None if few else regression.mae(y[rows], each[rows]) for each in (ours, yesterday))
            found.append((column, str(value), int(rows.sum()), mine, theirs))
    return Result(
        mae={name: regression.interval("mae", y, values, blocks=days, name=name) for name, values in forecasts.items()},
        skill={name: regression.skill(y, ours, forecasts[name], blocks=days) for name in schema.PRICE_BASELINES},
        slices=tuple(found),
        rows_left_out=left_out,
    )


def slice_columns(y: pd.Series, X: pd.DataFrame) -> dict[str, Any]:
    """The corners that a good mean could hide: zones, seasons, spikes and prices below zero."""
    season = X["hour"].dt.month.map(lambda month: ("winter", "spring", "summer", "autumn")[month % 12 // 3])
    kind = np.select([y < 0, y >= SPIKE_USD_PER_MWH], ["below zero", f"{SPIKE_USD_PER_MWH:.0f} and more"], "between")
    return {"zone": X["zone"].astype("str").tolist(), "season": season.tolist(), "price, USD/MWh": kind.tolist()}


def training_report(result: Result, decision: evaluation.Decision, splits: Splits, rows: Mapping[str, int]) -> str:
    """What was measured, against what, and what was decided, as markdown."""
    lines = [
        f"**{'Accepted' if decision.accepted else 'Rejected'}**: " + "; ".join(decision.reasons) + ".",
        "",
        *splitting.table(splits, rows, of="issues of"),
        "",
        f"| on test, n {result.mae['xgboost'].n:,} | MAE, USD/MWh | 95 % interval over issues |",
        "| --- | ---: | --- |",
        *(f"| {name} | {score.value:.2f} | {_interval(score)} |" for name, score in reversed(list(result.mae.items()))),
        "",
        f"- {result.rows_left_out:,} test rows had no baseline or no recent price, and are in none of these numbers.",
        "",
        "| slice | value | rows | MAE, USD/MWh | same hour yesterday |",
        "| --- | --- | ---: | ---: | ---: |",
        *(
            f"| {column} | {value} | {n:,} | {'n too small' if ours is None else format(ours, '.2f')} | "
            f"{'' if theirs is None else format(theirs, '.2f')} |"
            for column, value, n, ours, theirs in result.slices
        ),
    ]
    return "\n".join(lines) + "\n"


def model_card(
    result: Result, splits: Splits, *, source: str, market: str, features: Sequence[str], dataset: str
) -> str:
    """What the model is for, what it was made from, and what it must not be used for, as markdown."""
    ours, yesterday = result.mae["xgboost"], result.mae["same hour yesterday"]
    return "\n".join(
        [
            "# Electricity price of New York, a day ahead",
            "",
            "Says at 05:00 New York what a megawatt hour will cost in each zone and hour of the next day, in the "
            f"{market} market.",
            "",
            f"- **Made from**: {dataset}; source `{source}`; trained on issues of {splits.train}, trees counted on "
            f"{splits.validation} and then trained on both, judged once on {splits.test}.",
            f"- **Worth**: MAE {ours.value:.2f} USD/MWh {_interval(ours)}, same hour yesterday {yesterday.value:.2f}.",
            "- **Limits**: it knows no gas price, no outage and no neighbour; it says the middle of what is likely, so "
            "it never says a spike. Prices of another market are another quantity.",
            "- **Do not use for**: bidding or trading.",
            f"- **Output**: a multiple of `{schema.PRICE_SCALE}`; `registry.load` gives USD/MWh.",
            f"- **Features** ({len(features)}): {', '.join(features)}.",
            "",
        ]
    )


def _interval(score: evaluation.Score) -> str:
    return f"[{score.low:.2f}, {score.high:.2f}]"
