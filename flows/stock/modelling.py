"""What models of the next return and its direction are made of and worth: fits, measures, gate, report. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from featurestore.times import Window
from flows import boosting, evaluation, regression, splitting
from flows.splitting import SplitPlan, Splits
from flows.stock import schema

if TYPE_CHECKING:
    import pandas as pd
    import xgboost

    Floats = np.ndarray[Any, np.dtype[np.float64]]

SEED = 20260101

_COMMON: Mapping[str, Any] = {
    "learning_rate": 0.03,
    "n_estimators": 300,
    "early_stopping_rounds": 30,
    "tree_method": "hist",
    "n_jobs": 2,
    "random_state": SEED,
}
RETURN: Mapping[str, Any] = {**_COMMON, "objective": "reg:absoluteerror", "eval_metric": "mae"}
"""What is not searched for. The absolute error is what the gate counts, and one wild day does not rule it."""

DIRECTION: Mapping[str, Any] = {**_COMMON, "objective": "binary:logistic", "eval_metric": "logloss"}

LABEL_DELAY = timedelta(days=5)
"""The next close is known a trading day later: after the longest of usual weekends four days, and a day to spare."""

SPLITS = SplitPlan(
    label_delay=LABEL_DELAY, validation_share=0.12, test_share=0.25, longest_test=timedelta(days=3 * 365),
    shortest=timedelta(days=730), due_after=timedelta(days=28), label="next close",
)  # fmt: skip

ORIGINS = 6
"""Stretches of the test, one after another: before each, all models are fitted again on everything known by then."""

SEARCH = boosting.Search(
    # Shallow and slow: there is little to find, and what deep trees find in noise is noise.
    space={
        "max_depth": (1, 4),
        "min_child_weight": (5.0, 100.0),
        "subsample": (0.5, 1.0),
        "colsample_bytree": (0.3, 0.9),
        "reg_lambda": (1.0, 100.0),
    },
    start={"max_depth": 2, "min_child_weight": 20.0, "subsample": 0.7, "colsample_bytree": 0.5, "reg_lambda": 10.0},
    gap=LABEL_DELAY,
    logarithmic=("min_child_weight", "reg_lambda"),
    trials=8,
    folds=3,
    changes={"learning_rate": 0.06, "n_estimators": 120, "early_stopping_rounds": 15},
    seed=SEED,
)

SIGNIFICANT = 0.05
SUSPICIOUS, SUSPICIOUS_ROWS = 0.56, 500
"""Nobody is right so often on so many days: such a model is held back until a person has looked for the leak. On fewer
days luck reaches further, as the square root of their number; on more the line stays."""

NEVER = {"symbol", "day", "closed_at", "close"}
"""Keys, times and prices are not learned from."""

BASELINE, MEAN, SIMPLE, OURS = "same price", "mean return", "ridge", "xgboost"
ALWAYS_UP, SHARE_UP, LOGISTIC = "always up", "share of up days", "logistic"


# --- the models --------------------------------------------------------------------------------------


def usable(X: pd.DataFrame) -> pd.Series:
    """Rows a model can learn from and be judged on: those whose volatility is known, to measure by."""
    return X[schema.SCALE].notna() & (X[schema.SCALE] > 0)


def fit_ridge(X: pd.DataFrame, y: pd.Series) -> Any:
    """The simple model of the return: a ridge regression on standardised features."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(SimpleImputer(), StandardScaler(), Ridge(alpha=1000.0)).fit(X, y)


def fit_logistic(X: pd.DataFrame, y: pd.Series) -> Any:
    """The simple model of the direction: a logistic regression on standardised features."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = LogisticRegression(C=0.01, max_iter=1000, random_state=SEED)
    return make_pipeline(SimpleImputer(), StandardScaler(), model).fit(X, y)


class Rows(NamedTuple):
    """Usable rows of all splits in order of time: features with keys and close, the return, and whether it was up."""

    X: pd.DataFrame
    next_return: pd.Series
    next_up: pd.Series

    @classmethod
    def of(cls, X: Sequence[pd.DataFrame], y: Sequence[pd.DataFrame]) -> Rows:
        """The rows of some splits, in order of time and symbol."""
        import pandas as pd

        rows = pd.concat([pd.concat([a, b], axis=1) for a, b in zip(X, y, strict=True)])
        rows = rows[usable(rows)].sort_values(["closed_at", "symbol"], ignore_index=True)
        return cls(
            rows.drop(columns=["next_return", "next_up"]),
            rows["next_return"].astype("float64"), rows["next_up"].astype("int64"),
        )  # fmt: skip

    def within(self, window: Window) -> Rows:
        """The rows whose close lies in the window."""
        chosen = (self.X["closed_at"] >= window.start) & (self.X["closed_at"] < window.end)
        return Rows(*(part[chosen].reset_index(drop=True) for part in self))

    def scaled_return(self) -> pd.Series:
        """The return in units of the 20 days' volatility: what the model of the return learns."""
        return self.next_return / self.X[schema.SCALE].astype("float64")


class Fitted(NamedTuple):
    """A boosted model of the newest origin, what it and its simple rival said on the whole test, and the search."""

    model: xgboost.XGBModel
    said: Mapping[str, Floats]
    found: boosting.Found


def origins(splits: Splits) -> list[tuple[Window, Window]]:
    """The windows of training and test of each origin, earliest first; together the tests are the whole test.

    >>> from datetime import UTC, datetime
    >>> found = origins(splitting.splits_of(
    ...     datetime(2015, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC), SPLITS))
    >>> len(found), str(found[0][1].start.date()), str(found[-1][1].end.date())
    (6, '2023-04-03', '2026-01-01')
    """
    start, end = splits.test
    return splitting.rolling_origin(
        splits.train.start, end, folds=ORIGINS, validation=(end - start) / ORIGINS, gap=LABEL_DELAY
    )


def fit_return(rows: Rows, splits: Splits, names: Sequence[str]) -> Fitted:
    """The model of the return: searched on training, trees counted on validation, fitted again at every origin.

    Its output is in units of volatility; what it said of the test is in returns.
    """

    def simple(known: Rows, asked: Rows) -> dict[str, Floats]:
        scale = asked.X[schema.SCALE].to_numpy("float64")
        ridge = fit_ridge(boosting.matrix(known.X, names), known.scaled_return())
        return {
            SIMPLE: ridge.predict(boosting.matrix(asked.X, names)) * scale,
            MEAN: np.full(len(asked.X), known.next_return.mean()),
            BASELINE: np.zeros(len(asked.X)),
        }

    return _fit(rows, splits, names, RETURN, Rows.scaled_return, simple, scaled=True)


def fit_direction(rows: Rows, splits: Splits, names: Sequence[str]) -> Fitted:
    """The model of the direction, in the same way; its output is the probability that the next close is higher."""

    def simple(known: Rows, asked: Rows) -> dict[str, Floats]:
        logistic = fit_logistic(boosting.matrix(known.X, names), known.next_up)
        return {
            LOGISTIC: logistic.predict_proba(boosting.matrix(asked.X, names))[:, 1],
            SHARE_UP: np.full(len(asked.X), known.next_up.mean()),
        }

    return _fit(rows, splits, names, DIRECTION, lambda some: some.next_up, simple, scaled=False)


def _fit(
    rows: Rows, splits: Splits, names: Sequence[str], params: Mapping[str, Any], target: Any, simple: Any, *,
    scaled: bool,
) -> Fitted:  # fmt: skip
    train, validation = rows.within(splits.train), rows.within(splits.validation)
    X_train, X_validation = (boosting.matrix(some.X, names) for some in (train, validation))
    found = boosting.search(X_train, target(train), train.X["closed_at"], params, SEARCH)
    counted = boosting.fit(X_train, target(train), X_validation, target(validation), {**params, **found.params})
    said: dict[str, list[Floats]] = {}
    model = counted
    for known_in, asked_in in origins(splits):
        known, asked = rows.within(known_in), rows.within(asked_in)
        model = boosting.refit(counted, boosting.matrix(known.X, names), target(known))
        ours = boosting.predict(model, boosting.matrix(asked.X, names))
        if scaled:
            ours = ours * asked.X[schema.SCALE].to_numpy("float64")
        for name, values in {OURS: ours, **simple(known, asked)}.items():
            said.setdefault(name, []).append(values)
    return Fitted(model, {name: np.concatenate(parts) for name, parts in said.items()}, found)


# --- what they are worth -----------------------------------------------------------------------------


class Significance(NamedTuple):
    """How sure it is that one forecast's losses are lower than another's."""

    statistic: float
    p: float
    days: int

    def __str__(self) -> str:
        return f"Diebold-Mariano {self.statistic:.2f}, p {self.p:.3f} on {self.days:,} days"


def diebold_mariano(ours: Floats, theirs: Floats, times: Any) -> Significance:
    """Diebold and Mariano's test that our losses are lower than theirs, one-sided, for forecasts one step ahead.

    With the correction of Harvey, Leybourne and Newbold (1997) the test at one step is Student's t test on the
    differences, which scipy has: their factor sqrt((n - 1) / n) makes of Diebold and Mariano's variance (1995) that of
    the sample, and they compare with Student's distribution. Symbols of one day are not independent, so a day's
    differences count as their mean.

    Args:
        ours, theirs: losses of each row, such as absolute errors.
        times: the close of each row.
    Returns:
        The statistic, above zero where ours are lower; the chance of one so high without any difference (1 where all
        differences are the same nothing); the number of days.

    >>> diebold_mariano(np.array([1.0, 2.0, 1.0, 3.0]), np.array([2.0, 4.0, 2.0, 5.0]), [1, 2, 3, 4]).p < 0.05
    True
    >>> diebold_mariano(np.ones(3), np.ones(3), [1, 2, 3])
    Significance(statistic=0.0, p=1.0, days=3)
    """
    import pandas as pd
    from scipy import stats

    daily = pd.Series(theirs - ours).groupby(np.asarray(times)).mean().to_numpy()
    if not daily.any():
        return Significance(0.0, 1.0, len(daily))
    found = stats.ttest_1samp(daily, 0.0, alternative="greater")
    return Significance(float(found.statistic), float(found.pvalue), len(daily))


@dataclass(frozen=True)
class ReturnResult:
    """What forecasts of the return were worth on the test, all on the same rows."""

    mae: Mapping[str, evaluation.Score]
    price_mae: Mapping[str, evaluation.Score]
    price_r2: Mapping[str, float]
    skill: Mapping[str, evaluation.Score]
    significance: Significance
    accuracy: evaluation.Score
    up: float
    by_origin: tuple[tuple[Window, int, float, float], ...]
    slices: tuple[regression.ErrorSlice, ...]

    def metrics(self) -> dict[str, float]:
        """The numbers by name, as the registry keeps them; returns as shares, prices in USD."""
        naive = self.skill[BASELINE]
        found = {
            "test.rows": float(naive.n),
            "test.skill": naive.value,
            "test.skill.low": naive.low,
            "test.skill.high": naive.high,
            "test.diebold_mariano.p": self.significance.p,
            "test.accuracy": self.accuracy.value,
            "test.accuracy.low": self.accuracy.low,
            "test.accuracy.high": self.accuracy.high,
            "test.accuracy.always_up": self.up,
        }
        for name, score in self.mae.items():
            found[f"test.mae.{name.replace(' ', '_')}"] = score.value
            found[f"test.price_mae.{name.replace(' ', '_')}"] = self.price_mae[name].value
            found[f"test.price_r2.{name.replace(' ', '_')}"] = self.price_r2[name]
        return found


def judge_return(rows: Rows, said: Mapping[str, Floats], splits: Splits) -> ReturnResult:
    """Measure forecasts of the return on the test rows. Intervals are over whole months, of directions over weeks."""
    y, close = rows.next_return, rows.X["close"].astype("float64")
    price = close * (1 + y)
    prices = {name: (close * (1 + values)).to_numpy() for name, values in said.items()}
    months = months_of(rows)
    up = rows.next_up.to_numpy("float64")
    parts = [
        (window, ((rows.X["closed_at"] >= window.start) & (rows.X["closed_at"] < window.end)).to_numpy())
        for _, window in origins(splits)
    ]
    return ReturnResult(
        mae={name: regression.interval("mae", y, values, blocks=months, name=name) for name, values in said.items()},
        price_mae={
            name: regression.interval("mae", price, values, blocks=months, name=name) for name, values in prices.items()
        },
        price_r2={name: r2(price.to_numpy(), values) for name, values in prices.items()},
        skill={
            name: regression.skill(y, said[OURS], values, blocks=months, name=f"against {name}")
            for name, values in said.items() if name != OURS
        },
        significance=diebold_mariano(
            np.abs(y.to_numpy() - said[OURS]), np.abs(y.to_numpy() - said[BASELINE]), rows.X["closed_at"]
        ),
        accuracy=accuracy(up, said[OURS] > 0, blocks=weeks_of(rows), name=OURS),
        up=float(up.mean()),
        by_origin=tuple(
            (
                window, int(some.sum()),
                regression.mae(y[some], said[OURS][some]), regression.mae(y[some], said[BASELINE][some]),
            )
            for window, some in parts if some.any()
        ),
        # On prices: percents of a return of nothing mean nothing.
        slices=tuple(regression.slices(price, prices[OURS], prices[BASELINE], slice_columns(rows), minimum_rows=60)),
    )  # fmt: skip


@dataclass(frozen=True)
class DirectionResult:
    """What forecasts of the direction were worth on the test, all on the same rows."""

    brier: Mapping[str, float]
    better: Mapping[str, evaluation.Score]
    significance: Significance
    accuracy: Mapping[str, evaluation.Score]
    against_always_up: evaluation.Score
    calibration_error: float

    def metrics(self) -> dict[str, float]:
        """The numbers by name, as the registry keeps them."""
        ours = self.accuracy[OURS]
        found = {
            "test.rows": float(ours.n),
            "test.accuracy": ours.value,
            "test.accuracy.low": ours.low,
            "test.accuracy.high": ours.high,
            "test.diebold_mariano.p": self.significance.p,
            "test.calibration_error": self.calibration_error,
        }
        found |= {f"test.accuracy.{name.replace(' ', '_')}": score.value for name, score in self.accuracy.items()}
        found |= {f"test.brier.{name.replace(' ', '_')}": value for name, value in self.brier.items()}
        return found


def judge_direction(rows: Rows, said: Mapping[str, Floats]) -> DirectionResult:
    """Measure probabilities on the test rows; intervals are over whole weeks."""
    up, weeks = rows.next_up.to_numpy("float64"), weeks_of(rows)
    said_up = {OURS: said[OURS] > 0.5, LOGISTIC: said[LOGISTIC] > 0.5, ALWAYS_UP: np.ones(len(up), dtype=bool)}
    return DirectionResult(
        brier={name: evaluation.brier(up, values) for name, values in said.items()},
        better={
            name: evaluation.difference("brier", up, said[OURS], values, blocks=weeks, name=f"against {name}")
            for name, values in said.items()
            if name != OURS
        },
        significance=diebold_mariano((up - said[OURS]) ** 2, (up - said[SHARE_UP]) ** 2, rows.X["closed_at"]),
        accuracy={name: accuracy(up, values, blocks=weeks, name=name) for name, values in said_up.items()},
        against_always_up=regression.skill(
            up, said_up[OURS].astype("float64"), said_up[ALWAYS_UP].astype("float64"), blocks=weeks
        ),
        calibration_error=evaluation.calibration_error(up, said[OURS]),
    )


def accuracy(up: Floats, said_up: Any, *, blocks: Any, name: str) -> evaluation.Score:
    """The share of rows whose direction was said rightly, with its interval over blocks.

    >>> print(accuracy(np.array([1.0, 0.0, 1.0]), [True, True, True], blocks=[1, 1, 2], name="always up"))
    always up 0.667 [0.500, 1.000], n 3
    """
    wrong = regression.interval("mae", up, np.asarray(said_up, dtype=np.float64), blocks=blocks, name=name)
    return evaluation.Score(name, 1 - wrong.value, 1 - wrong.high, 1 - wrong.low, wrong.n)


def r2(y: Floats, forecast: Floats) -> float:
    """The share of the variance of y that a forecast explains: of prices, which hardly move, nearly all.

    >>> r2(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]))
    1.0
    """
    return float(1 - ((y - forecast) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def months_of(rows: Rows) -> Any:
    """The month of each close: days near each other are not independent, volatility least of all."""
    return rows.X["closed_at"].dt.strftime("%Y-%m").to_numpy()


def weeks_of(rows: Rows) -> Any:
    """The Monday of the week of each close, in days since 1970."""
    days = rows.X["closed_at"].dt.tz_localize(None).dt.normalize()
    return (days - days.dt.day_of_week * np.timedelta64(1, "D")).to_numpy().astype("datetime64[D]").astype(np.int64)


def slice_columns(rows: Rows) -> dict[str, Any]:
    """The corners that a good mean could hide: years, calm and wild days, weekdays, news."""
    volatility = rows.X[schema.SCALE].to_numpy("float64")
    names = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
    news = (
        rows.X["news_polarity_1d"].isna().to_numpy() if "news_polarity_1d" in rows.X else np.ones(len(rows.X), bool)
    )  # fmt: skip
    return {
        "year": rows.X["closed_at"].dt.year.astype("str").to_numpy(),
        "volatility": np.select([volatility < 0.025, volatility < 0.04], ["below 2.5 %", "2.5 to 4 %"], "above 4 %"),
        "weekday": [names[day] for day in rows.X["weekday"].astype("int64")],
        "news": np.where(news, "none", "some"),
    }


def beside_champion(
    test: Rows, said: Mapping[str, Floats], champion: Any, splits: Splits, *, of: Literal["return", "direction"]
) -> evaluation.Score | None:
    """By how much we are better than the champion on the newest stretch of the test; None without a champion.

    Of the stretches before it the champion may have learned.

    Args:
        champion: what it says of each test row, null where it says nothing; or None.
    """
    if champion is None:
        return None
    _, newest = origins(splits)[-1]
    scores = champion.to_numpy("float64")
    rows = (test.X["closed_at"] >= newest.start).to_numpy() & ~np.isnan(scores)
    ours, theirs, months = said[OURS][rows], scores[rows], months_of(test)[rows]
    if of == "return":
        return regression.skill(test.next_return[rows], ours, theirs, blocks=months, name="against the champion")
    return evaluation.difference(
        "brier", test.next_up[rows], ours, theirs, blocks=weeks_of(test)[rows], name="against the champion"
    )


# --- the gate ----------------------------------------------------------------------------------------


def decide_return(result: ReturnResult, champion: evaluation.Score | None) -> evaluation.Decision:
    """Whether a model of the return may serve. The R² of prices has no say: persistence scores 0.99.

    Args:
        champion: the skill against the champion's forecasts on the newest stretch, which it has not learned from.
    """
    gate = _Gate()
    for name in (BASELINE, MEAN):
        gate.surely(result.skill[name], f"than {name} in MAE of the return")
    gate.holds(result.significance.p < SIGNIFICANT, f"{result.significance} (needed p < {SIGNIFICANT})")
    simple = result.skill[SIMPLE]
    gate.holds(simple.value >= 0, f"{_shares(simple)} better than {SIMPLE} (needed not worse)")
    if champion is not None:
        gate.surely(champion, "than the champion on the newest stretch")
    gate.not_too_good(result.accuracy)
    return gate.decision()


def decide_direction(result: DirectionResult, champion: evaluation.Score | None) -> evaluation.Decision:
    """Whether a model of the direction may serve.

    Args:
        champion: by how much our Brier score is better than the champion's on the newest stretch.
    """
    gate = _Gate()
    gate.surely(result.against_always_up, f"than {ALWAYS_UP} in wrong directions")
    constant = result.better[SHARE_UP]
    gate.holds(constant.low > 0, f"Brier score {_points(constant)} better than the {SHARE_UP} (needed interval > 0)")
    gate.holds(result.significance.p < SIGNIFICANT, f"{result.significance} (needed p < {SIGNIFICANT})")
    simple = result.better[LOGISTIC]
    gate.holds(simple.value >= 0, f"Brier score {_points(simple)} better than {LOGISTIC} (needed not worse)")
    if champion is not None:
        gate.holds(
            champion.low > 0, f"Brier score {_points(champion)} better than the champion's (needed interval > 0)"
        )
    gate.not_too_good(result.accuracy[OURS])
    return gate.decision()


class _Gate:
    """Conditions, all of which must hold, in words that are the same either way."""

    def __init__(self) -> None:
        self._passed: list[bool] = []
        self._reasons: list[str] = []

    def holds(self, condition: bool, said: str) -> None:
        self._passed.append(condition)
        self._reasons.append(said if condition else f"fails: {said}")

    def surely(self, skill: evaluation.Score, than: str) -> None:
        self.holds(skill.low > 0, f"{_shares(skill)} better {than} on {skill.n:,} rows (needed interval > 0)")

    def not_too_good(self, accuracy: evaluation.Score) -> None:
        line = 0.5 + (SUSPICIOUS - 0.5) * (SUSPICIOUS_ROWS / min(accuracy.n, SUSPICIOUS_ROWS)) ** 0.5
        said = f"{accuracy.value:.1%} of {accuracy.n:,} directions right"
        if accuracy.value <= line:
            self.holds(True, f"{said}, nothing suspicious")
        else:
            self.holds(
                False,
                f"{said} is too good to be true (above {line:.0%}): look for a leak; whoever finds none may promote it "
                "by registry.promote",
            )

    def decision(self) -> evaluation.Decision:
        return evaluation.Decision(all(self._passed), tuple(self._reasons))


# --- what is told about them -------------------------------------------------------------------------


class Told(NamedTuple):
    """What is said of a model in its report and its card."""

    title: str
    report: str
    worth: str
    output: str
    scaled_by: str | None


def told_of(
    result: ReturnResult | DirectionResult, decision: evaluation.Decision, splits: Splits, rows: Mapping[str, int]
) -> Told:
    """The words about a model of either kind."""
    if isinstance(result, ReturnResult):
        naive, ours = result.price_mae[BASELINE], result.price_mae[OURS]
        return Told(
            "The next day's return",
            return_report(result, decision, splits, rows),
            f"{_shares(result.skill[BASELINE])} below the error of the same price ({result.significance}); "
            f"{ours.value:.2f} USD against {naive.value:.2f} USD.",
            f"a multiple of `{schema.SCALE}`; `registry.load` gives the return; the price is close x (1 + return).",
            schema.SCALE,
        )
    ours = result.accuracy[OURS]
    return Told(
        "The next day's direction",
        direction_report(result, decision, splits, rows),
        f"{ours.value:.1%} [{ours.low:.1%}, {ours.high:.1%}] of directions right, always up "
        f"{result.accuracy[ALWAYS_UP].value:.1%} ({result.significance}).",
        "the probability that the next close is higher.",
        None,
    )


def return_report(
    result: ReturnResult, decision: evaluation.Decision, splits: Splits, rows: Mapping[str, int]
) -> str:  # fmt: skip
    """What was measured of the return, against what, and what was decided, as markdown."""
    lines = [
        _verdict(decision),
        "",
        *splitting.table(splits, rows, of="closes of"),
        "",
        f"| on test, n {result.accuracy.n:,}, {ORIGINS} origins | MAE of the return, % | 95 % interval over months "
        "| MAE of the price, USD | interval | R² of the price |",
        "| --- | ---: | --- | ---: | --- | ---: |",
        *(
            f"| {name} | {100 * score.value:.3f} | {_percents(score)} | {result.price_mae[name].value:.2f} "
            f"| {_dollars(result.price_mae[name])} | {result.price_r2[name]:.4f} |"
            for name, score in reversed(list(result.mae.items()))
        ),
        "",
        f"- {_shares(result.skill[BASELINE])} below the error of the same price; {result.significance}.",
        f"- {result.accuracy.value:.1%} [{result.accuracy.low:.1%}, {result.accuracy.high:.1%}] of directions right; "
        f"always up {result.up:.1%}.",
        "- The R² of the price is shown to explain why it is worthless: the same price scores as much as anybody.",
        "",
        "| origin: test of | rows | MAE of the return, % | same price, % |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {window} | {n:,} | {100 * ours:.3f} | {100 * naive:.3f} |"
            for window, n, ours, naive in result.by_origin
        ),
        "",
        "| slice | value | rows | MAE of the price, USD | skill |",
        "| --- | --- | ---: | ---: | ---: |",
        *(
            f"| {s.column} | {s.value} | {s.n:,} | {s.note} | |"
            if s.mae is None
            else f"| {s.column} | {s.value} | {s.n:,} | {s.mae:.2f} | {s.skill or 0:.1%} |"
            for s in result.slices
        ),
    ]
    return "\n".join(lines) + "\n"


def direction_report(
    result: DirectionResult, decision: evaluation.Decision, splits: Splits, rows: Mapping[str, int]
) -> str:  # fmt: skip
    """What was measured of the direction, against what, and what was decided, as markdown."""
    ours = result.accuracy[OURS]
    lines = [
        _verdict(decision),
        "",
        *splitting.table(splits, rows, of="closes of"),
        "",
        f"| on test, n {ours.n:,}, {ORIGINS} origins | directions right | 95 % interval over weeks |",
        "| --- | ---: | --- |",
        *(
            f"| {name} | {score.value:.1%} | [{score.low:.1%}, {score.high:.1%}] |"
            for name, score in reversed(list(result.accuracy.items()))
        ),
        "",
        "| | Brier score |",
        "| --- | ---: |",
        *(f"| {name} | {value:.5f} |" for name, value in reversed(list(result.brier.items()))),
        "",
        f"- {result.significance}, of the Brier score against the share of up days.",
        f"- Calibration error {result.calibration_error:.4f}.",
    ]
    return "\n".join(lines) + "\n"


def model_card(
    worth: str, decision: evaluation.Decision, splits: Splits, *, title: str, output: str, source: str,
    features: Sequence[str], dataset: str,
) -> str:  # fmt: skip
    """What a model is for, what it was made from, and what it must not be used for, as markdown."""
    simulated = (
        " The data are made up, without any edge by construction: no figure here says anything about a stock."
        if source == "simulated" else ""
    )  # fmt: skip
    return "\n".join(
        [
            f"# {title}",
            "",
            "**No edge expected.** What can be read from past prices and news is in the price already; a model of it "
            "is here to show how such a claim is tested, and normally fails.",
            "",
            f"- **Decision**: {'accepted' if decision.accepted else 'rejected'}: {'; '.join(decision.reasons)}.",
            f"- **Made from**: {dataset}; source `{source}`; searched on {splits.train}, trees counted on "
            f"{splits.validation}, judged on {splits.test} at {ORIGINS} origins, each time fitted on all before; this "
            "is the model of the newest origin.",
            f"- **Worth**: {worth}",
            f"- **Output**: {output}",
            "- **Limits**: one kind of stock, one day ahead, at the close, without costs. A day's news is known to it "
            f"a day late.{simulated}",
            "- **Do not use for**: trading, advice, or any claim that prices can be forecast.",
            f"- **Features** ({len(features)}): {', '.join(features)}.",
            "",
        ]
    )


def _verdict(decision: evaluation.Decision) -> str:
    return f"**{'Accepted' if decision.accepted else 'Rejected'}**: " + "; ".join(decision.reasons) + "."


def _shares(score: evaluation.Score) -> str:
    return f"{100 * score.value:.2f} % [{100 * score.low:.2f}, {100 * score.high:.2f}]"


def _points(score: evaluation.Score) -> str:
    return f"{score.value:.5f} [{score.low:.5f}, {score.high:.5f}]"


def _percents(score: evaluation.Score) -> str:
    return f"[{100 * score.low:.3f}, {100 * score.high:.3f}]"


def _dollars(score: evaluation.Score) -> str:
    return f"[{score.low:.2f}, {score.high:.2f}]"
