"""What a model of PM2.5 is made of and worth: its splits in time, its origins, its gate, its report. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from flows import boosting, evaluation, regression, splitting
from flows.air_quality import schema
from flows.splitting import SplitPlan, Splits

if TYPE_CHECKING:
    import pandas as pd

    from featurestore.times import Window

    Floats = np.ndarray[Any, np.dtype[np.float64]]

SEED = 20260101
XGBOOST: Mapping[str, Any] = {
    "objective": "reg:absoluteerror",
    "eval_metric": "mae",
    "learning_rate": 0.05,
    "n_estimators": 600,
    "early_stopping_rounds": 40,
    "tree_method": "hist",
    "n_jobs": 2,
    "random_state": SEED,
}
"""What is not searched for. The absolute error is what the gate counts, and one smog does not rule it."""

LABEL_DELAY = timedelta(days=8)
"""All seven days that an issue forecasts are known eight days after it."""

SPLITS = SplitPlan(
    label_delay=LABEL_DELAY, validation_share=0.13, test_share=0.20, longest_test=timedelta(days=365),
    shortest=timedelta(days=90), label="PM2.5",
)  # fmt: skip

ORIGINS = 4
"""The test is cut into so many stretches, each forecast by a model of all that was known before it."""

SEARCH = boosting.Search(
    space={
        "max_depth": (2, 5),
        "min_child_weight": (10.0, 200.0),
        "subsample": (0.5, 0.9),
        "colsample_bytree": (0.3, 0.8),
        "reg_lambda": (0.5, 30.0),
    },
    start={
        "max_depth": 3, "min_child_weight": 50.0, "subsample": 0.7, "colsample_bytree": 0.6, "reg_lambda": 1.0,
    },
    gap=LABEL_DELAY,
    logarithmic=("min_child_weight", "reg_lambda"),
    changes={"learning_rate": 0.1, "n_estimators": 200, "early_stopping_rounds": 20},
    seed=SEED,
)  # fmt: skip

SEASON = "day_of_year"
NEVER = {*schema.NEVER_FEATURES, SEASON}
"""Keys and times are not learned from; baselines are: they are what is known of the past. Trees do not see the number
of the day: with a few years it names a few smogs, which they learn by heart. The climatology tells them the season."""

NEAR, FAR = (1,), (3, 4, 5, 6, 7)
"""The gate: tomorrow persistence must be beaten, from the third day on climatology."""


# --- the model ---------------------------------------------------------------------------------------


def learned_from(X_train: pd.DataFrame, X_validation: pd.DataFrame) -> list[str]:
    """The columns to learn from: those that have values in training and still have some in validation.

    A source may end (the tables' weather does): what is not there any more would be learned from and then be missing.

    >>> import pandas as pd
    >>> old = pd.DataFrame({"station": ["a"], "pm25_mean_24h": [1.0], "observed_temperature_c": [1.0]})
    >>> learned_from(old, old.assign(observed_temperature_c=None))
    ['pm25_mean_24h']
    """
    still = set(boosting.feature_columns(X_validation, never=NEVER))
    return [name for name in boosting.feature_columns(X_train, never=NEVER) if name in still]


def fit_ridge(X: pd.DataFrame, y: pd.Series) -> Any:
    """The simple model to beat: a ridge regression, with horizon and weekday as categories and the season as a circle.

    It learns the logarithm: concentrations are skewed, and the error is absolute.
    """
    from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    categories = [name for name in ("days_ahead", "weekday") if name in X]
    numbers = [name for name in X if name not in (*categories, SEASON)]
    model = make_pipeline(
        ColumnTransformer(
            [
                ("categories", OneHotEncoder(handle_unknown="ignore"), categories),
                ("season", FunctionTransformer(_circle), [SEASON]),
                ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), numbers),
            ]
        ),
        Ridge(alpha=1.0),
    )
    return TransformedTargetRegressor(model, func=np.log1p, inverse_func=np.expm1).fit(X, y)


def _circle(day_of_year: pd.DataFrame) -> Floats:
    angle = 2 * np.pi * day_of_year.to_numpy("float64") / 365.2425
    return np.hstack([np.sin(angle), np.cos(angle)])


def origins(splits: Splits) -> list[tuple[Window, Window]]:
    """The stretches of the test, each with the window of all issues whose days were known when it began.

    >>> from datetime import UTC, datetime
    >>> at = datetime(2026, 1, 1, tzinfo=UTC)
    >>> for train, test in origins(splitting.splits_of(at, at + timedelta(days=500), SPLITS)):
    ...     print(train, test)
    [2026-01-01 00:00, 2027-01-28 00:00) [2027-02-05 00:00, 2027-03-02 00:00)
    [2026-01-01 00:00, 2027-02-22 00:00) [2027-03-02 00:00, 2027-03-27 00:00)
    [2026-01-01 00:00, 2027-03-19 00:00) [2027-03-27 00:00, 2027-04-21 00:00)
    [2026-01-01 00:00, 2027-04-13 00:00) [2027-04-21 00:00, 2027-05-16 00:00)
    """
    start, end = splits.test
    return splitting.rolling_origin(
        splits.train.start, end, folds=ORIGINS, validation=(end - start) / ORIGINS, gap=LABEL_DELAY
    )


# --- what it is worth --------------------------------------------------------------------------------


@dataclass(frozen=True)
class AtHorizon:
    """What was measured of the forecasts so many days ahead, all on the same rows, in µg/m³."""

    days_ahead: int
    mae: Mapping[str, float]
    r2: float
    against_persistence: evaluation.Score
    against_climatology: evaluation.Score


@dataclass(frozen=True)
class Result:
    """What was measured on the test split, all forecasts on the same rows, in µg/m³."""

    mae: Mapping[str, evaluation.Score]
    rmse: Mapping[str, float]
    skill: evaluation.Score
    horizons: tuple[AtHorizon, ...]
    slices: tuple[regression.ErrorSlice, ...]
    rows_left_out: int

    def metrics(self) -> dict[str, float]:
        """The numbers by name, as the registry keeps them."""
        model = self.mae["xgboost"]
        found = {
            "test.mae": model.value,
            "test.mae.low": model.low,
            "test.mae.high": model.high,
            "test.rmse": self.rmse["xgboost"],
            "test.skill": self.skill.value,
            "test.skill.low": self.skill.low,
            "test.skill.high": self.skill.high,
            "test.rows": float(model.n),
        }
        for name, score in self.mae.items():
            if name != "xgboost":
                found[f"test.mae.{_slug(name)}"] = score.value
        for each in self.horizons:
            found[f"test.mae.day_{each.days_ahead}"] = each.mae["xgboost"]
            found[f"test.r2.day_{each.days_ahead}"] = each.r2
            for name, score in (("persistence", each.against_persistence), ("climatology", each.against_climatology)):
                found[f"test.skill.{name}.day_{each.days_ahead}"] = score.value
        return found


def judged_rows(X: pd.DataFrame) -> pd.Series:
    """The test rows on which all forecasts can be compared: those where every baseline has a value."""
    return X[list(schema.BASELINES.values())].notna().all(axis=1)


def baselines(X: pd.DataFrame) -> dict[str, Floats]:
    """What anybody could forecast of each row, by name."""
    return {name: X[column].to_numpy("float64") for name, column in schema.BASELINES.items()}


def judge(y: pd.Series, forecasts: Mapping[str, Floats], X: pd.DataFrame, *, left_out: int) -> Result:
    """Measure the model and what it must beat on the same test rows.

    Args:
        y: PM2.5 of each day, µg/m³.
        forecasts: "xgboost" first, then the simple model and the baselines, µg/m³.
        X: the rows' station, day, issued_at, days_ahead.
        left_out: test rows that could not be compared.
    """
    weeks, ours = weeks_of(X), forecasts["xgboost"]
    persistence, climatology = forecasts[schema.PERSISTENCE], forecasts[schema.CLIMATOLOGY]
    ahead = X["days_ahead"].to_numpy("int64")
    horizons = []
    for days in schema.HORIZONS:
        here = ahead == days
        truth, said, blocks = y[here], ours[here], weeks[here]
        horizons.append(
            AtHorizon(
                days,
                {name: regression.mae(truth, values[here]) for name, values in forecasts.items()},
                1 - float(((said - truth) ** 2).mean() / truth.var(ddof=0)),
                regression.skill(truth, said, persistence[here], blocks=blocks),
                regression.skill(truth, said, climatology[here], blocks=blocks),
            )
        )
    return Result(
        mae={
            name: regression.interval("mae", y, values, blocks=weeks, name=name) for name, values in forecasts.items()
        },
        rmse={name: regression.rmse(y, values) for name, values in forecasts.items()},
        skill=regression.skill(y, ours, persistence, blocks=weeks),
        horizons=tuple(horizons),
        slices=tuple(regression.slices(y, ours, climatology, slice_columns(X))),
        rows_left_out=left_out,
    )


def gate(
    y: pd.Series, forecasts: Mapping[str, Floats], X: pd.DataFrame, champion: tuple[str, Floats, Floats] | None
) -> evaluation.Decision:
    """Whether the forecasts from all origins are surely better than what anybody could say, and than the champion.

    Args:
        y, forecasts, X: as for `judge`.
        champion: its name, its forecasts of the rows, and those of the candidate itself, which has learned from none of
            them: weights against weights.

    Of the simple model it must not be surely worse: a tie is told in the report, and is no reason to serve neither.
    """
    ahead, weeks = X["days_ahead"].to_numpy("int64"), weeks_of(X)
    parts = [
        ("tomorrow", np.isin(ahead, NEAR), [schema.PERSISTENCE]),
        ("3 to 7 days ahead", np.isin(ahead, FAR), [schema.CLIMATOLOGY]),
        ("all days", np.full(len(y), True), ["30-day mean"]),
    ]
    decisions = [
        (what, regression.beats(
            y[rows], forecasts["xgboost"][rows], {name: forecasts[name][rows] for name in names}, blocks=weeks[rows]
        ))
        for what, rows, names in parts
    ]  # fmt: skip
    if champion is not None:
        name, theirs, ours = champion
        decisions.append(("all days, as trained", regression.beats(y, ours, {name: theirs}, blocks=weeks)))
    decisions.append(("all days", not_surely_worse(y, forecasts["xgboost"], forecasts["ridge"], weeks)))
    return evaluation.Decision(
        all(decision.accepted for _, decision in decisions),
        tuple(f"{what}: {reason}" for what, decision in decisions for reason in decision.reasons),
        tuple(difference for _, decision in decisions for difference in decision.differences),
    )


def not_surely_worse(y: pd.Series, ours: Floats, ridge: Floats, weeks: Any) -> evaluation.Decision:
    """Whether the interval of the skill against the simple model reaches zero."""
    gain = regression.skill(y, ours, ridge, blocks=weeks, name="against ridge")
    accepted = gain.high >= 0
    reason = f"{_share(gain)} % better than ridge in MAE on {gain.n:,} rows (needed: not surely worse)"
    return evaluation.Decision(accepted, (reason if accepted else f"only {reason}",), (gain,))


def weeks_of(X: pd.DataFrame) -> Any:
    """The week of each row's issue: stations, horizons and days of one weather are not independent."""
    return X["issued_at"].dt.tz_convert(None).dt.to_period("W").dt.start_time.to_numpy()


def days_of(X: pd.DataFrame) -> Any:
    """The day of each row's issue."""
    return X["issued_at"].dt.floor("D").to_numpy()


def slice_columns(X: pd.DataFrame) -> dict[str, Any]:
    """The corners that a good mean could hide: cities, horizons, seasons; and how dirty the air was at the issue."""
    from flows.air_quality import features

    local = features.local_day(X["day"])
    season = local.dt.month.map(lambda month: ("winter", "spring", "summer", "autumn")[month % 12 // 3])
    return {
        "city": X["station"].map({code: each.city for code, each in schema.STATIONS.items()}).to_numpy(),
        "days ahead": X["days_ahead"].astype("int64").astype("str").to_numpy(),
        "season": season.to_numpy(),
        "air at the issue": features.index_of(X["pm25_mean_24h"].astype("float64")).to_numpy(),
    }


# --- what is told about it ---------------------------------------------------------------------------


def training_report(result: Result, decision: evaluation.Decision, splits: Splits, rows: Mapping[str, int]) -> str:
    """What was measured, against what, and what was decided, as markdown."""
    names = list(result.mae)
    lines = [
        f"**{'Accepted' if decision.accepted else 'Rejected'}**: " + "; ".join(decision.reasons) + ".",
        "",
        *splitting.table(splits, rows, of="issues of"),
        "",
        f"The test is forecast from {ORIGINS} origins: each stretch by a model of all that was known before it.",
        "",
        "| origin | learned from issues of | forecast issues of |",
        "| ---: | --- | --- |",
        *(f"| {number} | {train} | {test} |" for number, (train, test) in enumerate(origins(splits), 1)),
        "",
        f"| on test, n {result.skill.n:,} | MAE, µg/m³ | 95 % interval over weeks of issues | RMSE, µg/m³ |",
        "| --- | ---: | --- | ---: |",
        *(
            f"| {name} | {score.value:,.2f} | {_interval(score)} | {result.rmse[name]:,.2f} |"
            for name, score in reversed(list(result.mae.items()))
        ),
        "",
        *horizon_table(result),
        "",
        f"- {result.rows_left_out:,} test rows lack a baseline, and are in none of these numbers.",
        f"- All baselines: {', '.join(name for name in names if name != 'xgboost')}.",
        "",
        "| slice | value | rows | MAE, µg/m³ | MAPE, % | better than climatology |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {s.column} | {s.value} | {s.n:,} | {s.note} | | |"
            if s.mae is None
            else f"| {s.column} | {s.value} | {s.n:,} | {s.mae:,.2f} | {s.mape:.1f} | {_percent(s.skill)} |"
            for s in result.slices
        ),
    ]
    return "\n".join(lines) + "\n"


def horizon_table(result: Result) -> list[str]:
    """Errors and skill of each horizon, as lines of a markdown table."""
    names = list(result.mae)
    return [
        f"| days ahead | n | {' | '.join(names)} | R² | better than persistence, % | better than climatology, % |",
        f"| ---: | ---: |{' ---: |' * len(names)} ---: | --- | --- |",
        *(
            f"| {each.days_ahead} | {each.against_persistence.n:,} | "
            f"{' | '.join(f'{each.mae[name]:.2f}' for name in names)} | {each.r2:.2f} | "
            f"{_share(each.against_persistence)} | {_share(each.against_climatology)} |"
            for each in result.horizons
        ),
    ]


def model_card(result: Result, splits: Splits, *, source: str, features: Sequence[str], dataset: str) -> str:
    """What the model is for, what it was made from, and what it must not be used for, as markdown."""
    weather = {
        "simulated": "made-up forecasts whose error grows with the horizon",
        "live": "Open-Meteo's forecasts made before the issue, six days far; its archive for the days before",
        "gios": "none: the tables have no forecasts, and their observed weather ends in 2018",
    }.get(source, "unknown")
    first, last = result.horizons[0], result.horizons[-1]
    return "\n".join(
        [
            "# PM2.5 in Polish cities, one to seven days ahead",
            "",
            "Says at 07:00 Warsaw the mean PM2.5 of each of the next seven days at each station, in µg/m³.",
            "",
            f"- **Made from**: {dataset}; source `{source}`; trained on issues of {splits.train}, trees counted on "
            f"{splits.validation} and then trained on both, judged on {splits.test} from {ORIGINS} origins.",
            f"- **Weather**: {weather}.",
            f"- **Worth, tomorrow**: MAE {first.mae['xgboost']:.2f}, {_share(first.against_persistence)} % better than "
            f"the last 24 hours, R² {first.r2:.2f}.",
            f"- **Worth, in seven days**: MAE {last.mae['xgboost']:.2f}, {_share(last.against_climatology)} % better "
            "than the median of the season.",
            "- **Limits**: it has seen these stations only; fires, fireworks and new rules for stoves are not known; a "
            f"station that is silent for a day is forecast and flagged, for a month not any more.{_simulated(source)}",
            "- **Do not use for**: warnings to the public, which are the authorities'; any other pollutant or unit.",
            "- **Output**: µg/m³.",
            f"- **Features** ({len(features)}): {', '.join(features)}.",
            "",
        ]
    )


def _simulated(source: str) -> str:
    return " The data are made up: no figure here says anything about Poland." if source == "simulated" else ""


def _slug(name: str) -> str:
    return name.replace(" ", "_").replace("-", "_").replace("(", "").replace(")", "")


def _interval(score: evaluation.Score) -> str:
    return f"[{score.low:,.2f}, {score.high:,.2f}]"


def _share(score: evaluation.Score) -> str:
    return f"{100 * score.value:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}".replace("%", " %")
