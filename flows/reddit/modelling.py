"""What the two models of a post are made of and worth: splits, scales, baselines, bands, report. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.errors import InvalidData
from flows import boosting, evaluation, ranking, regression, splitting
from flows.evaluation import canvas, png
from flows.reddit import schema
from flows.reddit.schema import Target
from flows.splitting import SplitPlan, Splits

if TYPE_CHECKING:
    import pandas as pd

    Floats = np.ndarray[Any, np.dtype[np.float64]]

SEED = 20260101
XGBOOST: Mapping[str, Any] = {
    "objective": "reg:squarederror",
    "eval_metric": "rmse",
    "learning_rate": 0.04,
    "n_estimators": 500,
    "early_stopping_rounds": 40,
    "tree_method": "hist",
    "n_jobs": 2,
    "random_state": SEED,
}
"""What is not searched for."""

SPLITS = SplitPlan(label_delay=schema.LABEL_DELAY, validation_share=0.15, test_share=0.20, label="settled votes")

SEARCH = boosting.Search(
    space={
        "max_depth": (2, 7),
        "min_child_weight": (5.0, 80.0),
        "subsample": (0.5, 1.0),
        "colsample_bytree": (0.3, 0.9),
        "reg_lambda": (1.0, 40.0),
    },
    start={
        "max_depth": 4, "min_child_weight": 20.0, "subsample": 0.7, "colsample_bytree": 0.5, "reg_lambda": 10.0,
    },
    gap=schema.LABEL_DELAY,
    logarithmic=("min_child_weight", "reg_lambda"),
    changes={"learning_rate": 0.1, "n_estimators": 150, "early_stopping_rounds": 15},
    seed=SEED,
)  # fmt: skip

RATIO_POWER = 10
"""The ratio model learns ratio ** 10. Half of all posts have a ratio of 1 and a few have 0.2: on the plain scale these
few are all that counts, and the order of the others is not learned. Chosen on the validation rows of the college table
(1, 2, 4, 6 and 10 were tried)."""

COVERAGE = 0.8
"""What a band is meant to hold: from the 10 % to the 90 % quantile."""

BINS = 3
MEDIAN, TRAILING, RIDGE, XGB = "subreddit median", "subreddit median, last 30 days", "ridge", "xgboost"


# --- scales ------------------------------------------------------------------------------------------


def learned(target: Target, label: Any) -> Any:
    """The label on the scale that the model learns.

    >>> learned("likes", 2.0), round(learned("upvote_ratio", 0.9), 3)
    (2.0, 0.349)
    """
    return label if target == "likes" else label**RATIO_POWER


def shown(target: Target, output: Any) -> Floats:
    """What a model's output means: likes, or a ratio from 0 to 1; what lies beyond is cut off.

    >>> shown("likes", [-0.1, np.log(11)]).round(6).tolist(), shown("upvote_ratio", [1.2, 0.9**10]).tolist()
    ([0.0, 10.0], [1.0, 0.9])
    """
    values = np.maximum(np.asarray(output, dtype=np.float64), 0.0)
    return np.expm1(values) if target == "likes" else np.minimum(values, 1.0) ** (1 / RATIO_POWER)


def baseline_shown(target: Target, median: Any) -> Floats:
    """A median of the label in the target's own unit."""
    values = np.asarray(median, dtype=np.float64)
    return np.expm1(values) if target == "likes" else values


# --- bands -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bands:
    """What to add to a model's output for the ends of its band: quantiles of the residuals on validation.

    There is one pair for each third of the predictions, because the higher a prediction, the wider it may miss.
    """

    edges: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, truth: Floats, output: Floats) -> Bands:
        """From validation rows that the model was not fitted on, on the scale it learns.

        >>> bands = Bands.of(np.array([0.0, 1.0, 2.0] * 10), np.array([1.0] * 30))
        >>> bands.low, bands.high
        ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
        """
        edges = tuple(float(each) for each in np.quantile(output, [n / BINS for n in range(1, BINS)]))
        bins, residuals = np.searchsorted(edges, output, side="right"), truth - output
        tail = (1 - COVERAGE) / 2
        pairs = [
            np.quantile(some if len(some := residuals[bins == n]) else residuals, [tail, 1 - tail]) for n in range(BINS)
        ]
        return cls(edges, tuple(float(low) for low, _ in pairs), tuple(float(high) for _, high in pairs))

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, float]) -> Bands:
        """As the registry keeps them.

        Raises:
            InvalidData: the model was registered without.
        """
        try:
            return cls(
                tuple(metrics[f"band.edge.{n}"] for n in range(BINS - 1)),
                tuple(metrics[f"band.low.{n}"] for n in range(BINS)),
                tuple(metrics[f"band.high.{n}"] for n in range(BINS)),
            )
        except KeyError as error:
            raise InvalidData(f"The model has no {error.args[0]}: train it again with the reddit flow.") from error

    def metrics(self) -> dict[str, float]:
        """The numbers by name, as the registry keeps them."""
        parts = {"edge": self.edges, "low": self.low, "high": self.high}
        return {f"band.{name}.{n}": value for name, values in parts.items() for n, value in enumerate(values)}

    def around(self, output: Floats) -> tuple[Floats, Floats]:
        """The ends of each prediction's band, on the scale that the model learns."""
        bins = np.searchsorted(self.edges, output, side="right")
        return output + np.array(self.low)[bins], output + np.array(self.high)[bins]


# --- the models --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Medians:
    """The median label of each subreddit in training, and of all of training for a subreddit that is not in it."""

    by_community: Mapping[float, float]
    overall: float

    @classmethod
    def of(cls, communities: pd.Series, y: pd.Series) -> Medians:
        """From training rows; communities are encoded."""
        found = y.groupby(communities.to_numpy("float64")).median()
        return cls({float(code): float(value) for code, value in found.items()}, float(y.median()))

    def predict(self, communities: pd.Series) -> Floats:
        """The median of each row's subreddit."""
        codes = communities.to_numpy("float64")
        return np.array([self.by_community.get(code, self.overall) for code in codes], dtype=np.float64)


def fit_ridge(X: pd.DataFrame, y: pd.Series) -> Any:
    """The simple model to beat: ridge regression; subreddit, hour and weekday as categories, logarithms of lengths."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    categories = [name for name in ("community", "hour", "weekday") if name in X]
    lengths = [name for name in X if name.endswith(("_characters", "_words", "_paragraphs", "_posts_90d"))]
    numbers = [name for name in X if name not in {*categories, *lengths}]
    logarithm = FunctionTransformer(np.log1p, feature_names_out="one-to-one")
    model = make_pipeline(
        ColumnTransformer(
            [
                ("categories", OneHotEncoder(handle_unknown="ignore"), categories),
                ("lengths", make_pipeline(SimpleImputer(), logarithm, StandardScaler()), lengths),
                ("numbers", make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), numbers),
            ]
        ),
        Ridge(alpha=10.0),
    )
    return model.fit(X, y)


# --- what it is worth --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What was measured of one target on the test split, all predictions on the same rows."""

    target: Target
    spearman: Mapping[str, evaluation.Score]
    lift: evaluation.Score
    top_decile: Mapping[str, float]
    mae: Mapping[str, evaluation.Score]
    r2: Mapping[str, float]
    coverage: float
    slices: tuple[ranking.RankSlice, ...]

    def metrics(self) -> dict[str, float]:
        """The numbers by name, as the registry keeps them."""
        found = {
            "test.rows": float(self.lift.n),
            "test.spearman_lift": self.lift.value,
            "test.spearman_lift.low": self.lift.low,
            "test.spearman_lift.high": self.lift.high,
            "test.spearman.low": self.spearman[XGB].low,
            "test.spearman.high": self.spearman[XGB].high,
            "test.band_coverage": self.coverage,
        }
        for name in self.spearman:
            end = "" if name == XGB else "." + name.replace(",", "").replace(" ", "_")
            found[f"test.spearman{end}"] = self.spearman[name].value
            found[f"test.top_decile_lift{end}"] = self.top_decile[name]
            found[f"test.mae{end}"] = self.mae[name].value
            found[f"test.r2{end}"] = self.r2[name]
        return found


def judge(
    target: Target,
    label: pd.Series,
    outputs: Mapping[str, Floats],
    X: pd.DataFrame,
    bands: Bands,
    communities: pd.Series,
) -> Result:
    """Measure the model, the simple one and the baselines on the same test rows.

    Args:
        label: log1p(likes), or the upvote ratio.
        outputs: `XGB` and `RIDGE` on the scale that the model learns, the medians on the label's.
        X: the rows with created and their features.
        communities: their names.
    """
    days = days_of(X)
    on_label = {
        name: label_of(target, values) if name in (XGB, RIDGE) else np.asarray(values)
        for name, values in outputs.items()
    }
    low, high = bands.around(np.asarray(outputs[XGB], dtype=np.float64))
    low_label, high_label = label_of(target, low), label_of(target, high)
    truth = label.to_numpy("float64")
    return Result(
        target=target,
        spearman={name: ranking.interval(truth, said, blocks=days, name=name) for name, said in outputs.items()},
        lift=ranking.lift(truth, outputs[XGB], outputs[MEDIAN], blocks=days, name="lift over the subreddit's median"),
        top_decile={name: ranking.top_decile_lift(truth, said) for name, said in outputs.items()},
        mae={name: regression.interval("mae", truth, said, blocks=days, name=name) for name, said in on_label.items()},
        r2={name: r2(truth, said) for name, said in on_label.items()},
        coverage=covered(truth, low_label, high_label),
        slices=tuple(ranking.slices(truth, outputs[XGB], outputs[MEDIAN], slice_columns(X, communities))),
    )


def label_of(target: Target, output: Any) -> Floats:
    """A model's output on the scale of the label: log1p(likes), or the ratio."""
    return on_label_scale(target, shown(target, output))


def on_label_scale(target: Target, values: Any) -> Floats:
    """Likes, or ratios, on the scale of the label.

    >>> on_label_scale("likes", [0.0]).tolist(), on_label_scale("upvote_ratio", [0.5]).tolist()
    ([0.0], [0.5])
    """
    numbers = np.asarray(values, dtype=np.float64)
    return np.log1p(numbers) if target == "likes" else numbers


def covered(truth: Floats, low: Floats, high: Floats) -> float:
    """The share of truths within their bands; a hair's breadth beyond, as rounding leaves it, is within.

    >>> covered(np.array([1.0, 2.0]), np.array([1.0, 0.0]), np.array([1.5, 1.0]))
    0.5
    """
    return float(((truth >= low - 1e-9) & (truth <= high + 1e-9)).mean())


def r2(truth: Floats, said: Floats) -> float:
    """Share of the variance that is explained; 0 is what the mean of these very rows would have, less is worse.

    >>> r2(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0])), r2(np.array([1.0, 3.0]), np.array([2.0, 2.0]))
    (1.0, 0.0)
    """
    return float(1 - ((truth - said) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())


def days_of(X: pd.DataFrame) -> Any:
    """The day of each row: posts of one day compete for the same readers, so intervals are made of whole days."""
    return X["created"].dt.floor("D").to_numpy()


def slice_columns(X: pd.DataFrame, communities: pd.Series) -> dict[str, Any]:
    """The corners that a good mean could hide: subreddits, known and new authors, questions, weekends."""
    return {
        "subreddit": communities.to_numpy(),
        "author": np.where(X["author_mean_log_likes_90d"].isna(), "no settled post in 90 days", "known"),
        "title": np.where(X["title_is_question"].astype("bool"), "a question", "no question"),
        "day": np.where(X["weekday"].astype("float64") >= 5, "weekend", "weekday"),
    }


# --- what is told about it ---------------------------------------------------------------------------


def training_report(
    result: Result, decision: evaluation.Decision, splits: Splits, rows: Mapping[str, int], *, n: int
) -> str:
    """What was measured, against what, and what was decided, as markdown."""
    unit = "log1p(likes)" if result.target == "likes" else "upvote ratio"
    lines = [
        f"**{'Accepted' if decision.accepted else 'Rejected'}**: " + "; ".join(decision.reasons) + ".",
        "",
        *splitting.table(splits, rows, of="posts of"),
        "",
        f"| on test, n {n:,} | Spearman | 95 % interval over days | top-decile lift | MAE, {unit} | R2 |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
        *(
            f"| {name} | {score.value:.3f} | {_interval(score)} | {result.top_decile[name]:.2f} | "
            f"{result.mae[name].value:.3f} | {result.r2[name]:.3f} |"
            for name, score in reversed(list(result.spearman.items()))
        ),
        "",
        f"- Spearman lift over the subreddit's median {result.lift.value:.3f} {_interval(result.lift)}.",
        f"- Bands from the residuals on validation are meant to hold {COVERAGE:.0%} and held {result.coverage:.1%}.",
        "",
        "| slice | value | rows | Spearman | the median's |",
        "| --- | --- | ---: | ---: | ---: |",
        *(
            f"| {s.column} | {s.value} | {s.n:,} | {s.note} | |"
            if s.spearman is None or s.baseline is None
            else f"| {s.column} | {s.value} | {s.n:,} | {s.spearman:.3f} | {s.baseline:.3f} |"
            for s in result.slices
        ),
    ]
    return "\n".join(lines) + "\n"


def model_card(result: Result, splits: Splits, *, source: str, features: Sequence[str], dataset: str) -> str:
    """What the model is for, what it was made from, and what it must not be used for, as markdown."""
    likes = result.target == "likes"
    what = "likes (score) a Reddit post" if likes else "share of up-votes among all votes a Reddit post"
    scale = "log1p(likes)" if likes else f"ratio ** {RATIO_POWER}"
    return "\n".join(
        [
            f"# {'Likes' if likes else 'Upvote ratio'} of a Reddit post",
            "",
            f"Says before posting what {what} will have two days later.",
            "",
            f"- **Made from**: {dataset}; source `{source}`; trained on posts of {splits.train}, trees counted and "
            f"bands measured on {splits.validation}, then trained on both, judged once on {splits.test}.",
            f"- **Worth**: Spearman {result.spearman[XGB].value:.3f} {_interval(result.spearman[XGB])}, "
            f"{result.lift.value:.3f} {_interval(result.lift)} above the subreddit's median; R2 {result.r2[XGB]:.3f}.",
            f"- **Bands**: 10 % and 90 % quantiles of the residuals on validation; on test they held "
            f"{result.coverage:.1%} instead of {COVERAGE:.0%}.",
            "- **Limits**: the most of a post's votes is luck, and who else posts that day. English only: other "
            "languages have no sentiment here. What is true of these subreddits and weeks need not be of others."
            + (" The data are made up: no figure here says anything about Reddit." if source == "simulated" else ""),
            "- **Advice is correlation**: a changed title moves the prediction, and need not move the readers.",
            "- **Do not use for**: judging a person, moderating, paying by likes, or flooding a subreddit with what "
            "the model likes.",
            f"- **Output**: {scale}.",
            f"- **Features** ({len(features)}): {', '.join(features)}.",
            "",
        ]
    )


def deciles_plot(target: Target, label: pd.Series, output: Floats, *, title: str) -> bytes:
    """The truth of the test posts by tenths of their predictions, as a PNG: medians, and the middle half."""
    order = np.argsort(np.asarray(output), kind="stable")
    truth = baseline_shown(target, label.to_numpy("float64"))[order]
    parts = np.array_split(truth, 10)
    figure, axes = canvas(title)
    middle = [np.median(part) for part in parts]
    low, high = ([float(np.quantile(part, q)) for part in parts] for q in (0.25, 0.75))
    axes.fill_between(range(1, 11), low, high, alpha=0.25, label="middle half")
    axes.plot(range(1, 11), middle, marker="o", label="median")
    if target == "likes":
        axes.set_yscale("symlog", linthresh=1)
    axes.set_xlabel("tenth of the posts by prediction")
    axes.set_ylabel("likes" if target == "likes" else "upvote ratio")
    axes.legend(frameon=False)
    return png(figure)


def _interval(score: evaluation.Score) -> str:
    return f"[{score.low:.3f}, {score.high:.3f}]"
