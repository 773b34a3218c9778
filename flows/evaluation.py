"""How good a score is, how sure we are of it, and whether that is good enough to be served."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np  # featurestore has imported it already: costs a flow nothing

from featurestore.errors import InvalidData
from flows import bootstrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    # One prepared sample: a matrix of row weights (resamples x rows) in, one value per resample out.
    Weighted = Callable[[Floats], Floats]

Metric = Literal["average_precision", "roc_auc", "brier"]

# Cells of one (resamples x rows) matrix held at a time: 16 MB of float64, measured faster than larger ones (cache).
_CELLS = 2_000_000


# --- results -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """A number with its interval: whose it is, the value, the bounds of the interval, on how many rows.

    >>> print(Score("logistic", 0.6123, 0.58, 0.64, 12_345))
    logistic 0.612 [0.580, 0.640], n 12,345
    """

    name: str
    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.name} {self.value:.3f} [{self.low:.3f}, {self.high:.3f}], n {self.n:,}"


@dataclass(frozen=True)
class Decision:
    """What the gate decided, why, and the paired differences it looked at."""

    accepted: bool
    reasons: tuple[str, ...]
    differences: tuple[Score, ...] = ()


@dataclass(frozen=True)
class Slice:
    """A metric on the rows where `column` is `value`; `score` is None where `note` says why there is none."""

    column: str
    value: str
    n: int
    positives: int
    score: float | None
    note: str = ""


@dataclass(frozen=True)
class CalibrationBin:
    """Rows with neighbouring scores: what was predicted on average, and the share that came true."""

    n: int
    mean_score: float
    share: float


@dataclass(frozen=True)
class Threshold:
    """Flag what scores `value` or more: what that costs, beside the cost of flagging nothing."""

    value: float
    cost: float
    cost_without: float
    alarms: int
    caught: int
    n: int


# --- metrics -----------------------------------------------------------------------------------------


def average_precision(y: ArrayLike, score: ArrayLike) -> float:
    """Precision averaged over the recall gained at each distinct score. A constant score gives the share of positives.

    Args:
        y: 1 for a positive row, else 0; at least one positive.
        score: higher means more likely positive; equal scores are one step.
    Raises:
        InvalidData: no positive row, a null, a label other than 0 and 1, or lengths that differ.

    >>> round(average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 3)  # 1/2 * 1/1 + 1/2 * 2/3
    0.833
    """
    return _point("average_precision", y, score)


def roc_auc(y: ArrayLike, score: ArrayLike) -> float:
    """The share of (positive, negative) pairs that the score orders rightly; a tie counts half.

    Raises:
        InvalidData: not both classes there, a null, a label other than 0 and 1, or lengths that differ.

    >>> roc_auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    return _point("roc_auc", y, score)


def brier(y: ArrayLike, score: ArrayLike) -> float:
    """The mean squared distance of a probability from what happened; 0 is perfect.

    Raises:
        InvalidData: a null, a label other than 0 and 1, or lengths that differ.

    >>> round(brier([1, 0], [0.8, 0.4]), 3)  # (0.04 + 0.16) / 2
    0.1
    """
    return _point("brier", y, score)


def precision_top_k(y: ArrayLike, score: ArrayLike, *, k: int) -> float:
    """The share of positives among the k rows with the highest score; of equal scores the earlier rows are taken.

    Fewer than k rows count as they are.

    >>> precision_top_k([0, 1, 1, 0], [0.9, 0.8, 0.7, 0.1], k=2)
    0.5
    """
    labels, scores = _labels_and_scores(y, score)
    return float(labels[np.argsort(-scores, kind="stable")[:k]].mean())


def precision_top_k_per_day(
    y: ArrayLike,
    score: ArrayLike,
    *,
    days: ArrayLike,
    entities: ArrayLike,
    k: int,
    block_detected: bool = True,
    name: str = "precision_top_k",
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Score:
    """Of the k cards an investigator may call each day, the share with a fraud that day; mean over days, with interval.

    A card's score on a day is its highest, and it counts as a hit when any of its rows that day is positive.

    Args:
        days: the day of each row, anything that sorts.
        entities: whose row it is, such as the card number.
        k: calls per day. On a day with fewer cards all are called.
        block_detected: a card once called and found is blocked: its later rows are left out.
    Returns:
        The mean over days; the interval is over resampled days; n is the number of days.
    Raises:
        InvalidData: a null, a label other than 0 and 1, or lengths that differ.

    >>> score = precision_top_k_per_day(
    ...     [1, 0, 0, 1, 1, 0], [0.9, 0.8, 0.1, 0.9, 0.2, 0.1], k=1,
    ...     days=[1, 1, 1, 2, 2, 2], entities=["a", "b", "c", "a", "b", "c"])
    >>> score.value, score.n  # day 1 finds a; on day 2 a is blocked, b is called and found
    (1.0, 2)
    """
    labels, scores = _labels_and_scores(y, score)
    day_codes, entity_codes = (
        bootstrap.codes(days, "days", len(labels)),
        bootstrap.codes(entities, "entities", len(labels)),
    )
    order = np.lexsort((np.arange(len(labels)), -scores, day_codes))
    blocked = np.zeros(entity_codes.max(initial=-1) + 1, dtype=bool)
    precisions = []
    for rows in np.split(order, np.flatnonzero(np.diff(day_codes[order])) + 1):
        called: dict[int, None] = {}
        for entity in entity_codes[rows]:
            if len(called) == k:
                break
            if not blocked[entity]:
                called[int(entity)] = None
        hits = np.intersect1d(list(called), entity_codes[rows][labels[rows] == 1])
        if called:
            precisions.append(len(hits) / len(called))
        if block_detected:
            blocked[hits] = True
    daily = np.array(precisions)
    counts = np.random.default_rng(seed).multinomial(len(daily), np.full(len(daily), 1 / len(daily)), size=resamples)
    low, high = bootstrap.bounds(counts @ daily / len(daily), confidence)
    return Score(name, float(daily.mean()), low, high, len(daily))


def calibration(y: ArrayLike, score: ArrayLike, *, bins: int = 10) -> list[CalibrationBin]:
    """Mean score against the share of positives, in bins of about equally many rows, lowest scores first.

    Equal scores stay in one bin, so a score with few distinct values has fewer bins.

    >>> calibration([0, 0, 0, 1], [0.1, 0.1, 0.6, 0.6], bins=2)
    [CalibrationBin(n=2, mean_score=0.1, share=0.0), CalibrationBin(n=2, mean_score=0.6, share=0.5)]
    """
    labels, scores = _labels_and_scores(y, score)
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1]))
    codes = np.searchsorted(edges, scores, side="left")
    rows = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    return [CalibrationBin(len(r), float(scores[r].mean()), float(labels[r].mean())) for r in rows]


def calibration_error(y: ArrayLike, score: ArrayLike, *, bins: int = 10) -> float:
    """The mean distance between score and share of positives over the bins of `calibration`, weighted by rows.

    >>> round(calibration_error([0, 0, 0, 1], [0.1, 0.1, 0.6, 0.6], bins=2), 3)  # (2 * 0.1 + 2 * 0.1) / 4
    0.1
    """
    parts = calibration(y, score, bins=bins)
    return sum(p.n * abs(p.mean_score - p.share) for p in parts) / sum(p.n for p in parts)


# --- intervals ---------------------------------------------------------------------------------------


def interval(
    metric: Metric,
    y: ArrayLike,
    score: ArrayLike,
    *,
    blocks: ArrayLike,
    name: str,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Score:
    """A metric with its percentile interval from a block bootstrap.

    Rows of one day, or of one card, are not independent: whole blocks are drawn, so the interval is as wide as the
    number of blocks allows. Resamples without the classes the metric needs are left out.

    Args:
        metric: "average_precision", "roc_auc" or "brier".
        blocks: block of each row, such as its day; any values that sort; at least two different ones.
        name: whose score this is ("xgboost", "logistic"), for the result.
    Returns:
        The metric on all rows, its bounds, and the number of rows. The same seed gives the same bounds.
    Raises:
        InvalidData: fewer than two blocks, no positive row, a null, or lengths that differ.

    >>> y, score = [0, 1, 0, 1], [0.2, 0.9, 0.4, 0.3]
    >>> print(interval("roc_auc", y, score, blocks=["mon", "mon", "tue", "tue"], name="demo"))
    demo 0.750 [0.000, 1.000], n 4
    """
    labels, scores = _labels_and_scores(y, score)
    value = _point(metric, labels, scores)
    values = _resampled([_prepare(metric, labels, scores)], _blocks(blocks, len(labels)), resamples, seed)[0]
    return Score(name, value, *bootstrap.bounds(values, confidence), len(labels))


def difference(
    metric: Metric,
    y: ArrayLike,
    challenger: ArrayLike,
    other: ArrayLike,
    *,
    blocks: ArrayLike,
    name: str = "challenger - other",
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Score:
    """How much better the challenger's scores are than the other's on the same rows, with a paired interval.

    Both are scored on the same resampled blocks: what makes a day hard for both cancels, so the interval is narrower
    than two separate ones suggest. Positive is better, also for "brier", where lower scores are better.

    Raises:
        InvalidData: as `interval`.

    >>> y, blocks = [0, 1, 0, 1], [1, 1, 2, 2]
    >>> print(difference("roc_auc", y, [0.1, 0.9, 0.2, 0.8], [0.5] * 4, blocks=blocks))
    challenger - other 0.500 [0.500, 0.500], n 4
    """
    labels, ours = _labels_and_scores(y, challenger)
    _, theirs = _labels_and_scores(y, other)
    sign = -1.0 if metric == "brier" else 1.0
    value = sign * (_point(metric, labels, ours) - _point(metric, labels, theirs))
    prepared = [_prepare(metric, labels, ours), _prepare(metric, labels, theirs)]
    our_values, their_values = _resampled(prepared, _blocks(blocks, len(labels)), resamples, seed)
    return Score(name, value, *bootstrap.bounds(sign * (our_values - their_values), confidence), len(labels))


def beats(
    y: ArrayLike,
    challenger: ArrayLike,
    others: Mapping[str, ArrayLike],
    *,
    blocks: ArrayLike,
    metric: Metric = "average_precision",
    margin: float = 0.0,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Decision:
    """Whether the challenger is better than every other by at least `margin`, and surely better than nothing gained.

    All are scored on the same rows now: stored metrics of other windows say nothing about today. For each other two
    things must hold: the difference reaches the margin, and its whole interval lies above zero.

    Args:
        others: scores by name, such as the baselines and the champion; at least one.
    Returns:
        Accepted or not, one reason per other (the same wording either way), and the differences.
    Raises:
        InvalidData: nothing to beat, or as `interval`.

    >>> y, blocks = [0, 1, 0, 1], [1, 1, 2, 2]
    >>> decision = beats(y, [0.1, 0.9, 0.2, 0.8], {"prevalence": [0.5] * 4}, blocks=blocks)
    >>> decision.accepted, decision.reasons
    (True, ('better than prevalence by 0.500 [0.500, 0.500] average precision on 4 rows (needed 0.000, interval > 0)',))
    """
    if not others:
        raise InvalidData("Nothing to beat: give the scores of at least one baseline, such as the share of positives.")
    differences, reasons, passed = [], [], []
    for name, scores in others.items():
        gain = difference(
            metric, y, challenger, scores,
            blocks=blocks, name=f"challenger - {name}", confidence=confidence, resamples=resamples, seed=seed,
        )  # fmt: skip
        better = gain.value >= margin and gain.low > 0
        reasons.append(
            f"{'better' if better else 'not better'} than {name} by {gain.value:.3f} "
            f"[{gain.low:.3f}, {gain.high:.3f}] {metric.replace('_', ' ')} on {gain.n:,} rows "
            f"(needed {margin:.3f}, interval > 0)"
        )
        differences.append(gain)
        passed.append(better)
    return Decision(all(passed), tuple(reasons), tuple(differences))


def slices(
    y: ArrayLike,
    score: ArrayLike,
    columns: Mapping[str, ArrayLike],
    *,
    metric: Metric = "average_precision",
    minimum_rows: int = 200,
    minimum_positives: int = 10,
) -> list[Slice]:
    """A metric for every value of every declared column, so that a good mean does not hide a bad corner.

    Args:
        columns: values per row by column name; a null is a slice of its own, called "null". Cut numbers into bands
            before.
        minimum_rows, minimum_positives: below either, there is a note instead of a score that would be noise.
    Returns:
        Slices in the order of the columns, then of their values as text.
    Raises:
        InvalidData: a null label or score, or lengths that differ.

    >>> for part in slices([0, 1, 1], [0.1, 0.9, 0.2], {"night": ["no", "no", "yes"]},
    ...                    minimum_rows=2, minimum_positives=1):
    ...     print(part.column, part.value, part.n, part.score, part.note)
    night no 2 1.0
    night yes 1 None n too small (1 row, 1 positive; needs 2 and 1)
    """
    labels, scores = _labels_and_scores(y, score)
    found = []
    for column, values in columns.items():
        texts = bootstrap.texts(values, column, len(labels))
        for value in np.unique(texts):
            rows = texts == value
            n, positives = int(rows.sum()), int(labels[rows].sum())
            if n < minimum_rows or positives < minimum_positives:
                note = (
                    f"n too small ({n} row{'s' * (n != 1)}, {positives} positive{'s' * (positives != 1)}; "
                    f"needs {minimum_rows} and {minimum_positives})"
                )
                found.append(Slice(column, str(value), n, positives, None, note))
            elif metric == "roc_auc" and positives == n:
                found.append(Slice(column, str(value), n, positives, None, "positives only"))
            else:
                found.append(Slice(column, str(value), n, positives, _point(metric, labels[rows], scores[rows])))
    return found


# --- thresholds --------------------------------------------------------------------------------------


def cost_of_threshold(
    y: ArrayLike, score: ArrayLike, amounts: ArrayLike, *, threshold: float, cost_false_alarm: float
) -> float:
    """What flagging every score at or above the threshold costs: false alarms, and the amounts of missed positives.

    Args:
        amounts: what each row loses when it is a positive and not flagged, in the currency of `cost_false_alarm`.

    >>> cost_of_threshold([1, 0, 1], [0.9, 0.8, 0.2], [100, 10, 30], threshold=0.5, cost_false_alarm=4)
    34.0
    """
    labels, scores = _labels_and_scores(y, score)
    losses = _amounts(amounts, len(labels))
    flagged = scores >= threshold
    return float(cost_false_alarm * np.sum(flagged & (labels == 0)) + losses[~flagged & (labels == 1)].sum())


def choose_threshold(y: ArrayLike, score: ArrayLike, amounts: ArrayLike, *, cost_false_alarm: float) -> Threshold:
    """The threshold with the lowest cost on these rows; choose it on validation, never on test.

    It lies half-way between two neighbouring scores, so that a score survives being stored as float32. Of equally
    cheap thresholds the highest wins (fewest alarms). When no alarm pays, it lies just above the highest score.

    Args:
        amounts: as `cost_of_threshold`.
        cost_false_alarm: what one false alarm costs; positive.
    Raises:
        InvalidData: a null, a negative amount, or a cost that is not positive.

    >>> choose_threshold([1, 0, 1, 0], [0.9, 0.75, 0.5, 0.25], [100, 10, 30, 10], cost_false_alarm=4)
    Threshold(value=0.375, cost=4.0, cost_without=130.0, alarms=3, caught=2, n=4)
    """
    if not cost_false_alarm > 0:
        raise InvalidData(
            f"cost_false_alarm = {cost_false_alarm}: a free alarm would flag everything. Give a positive cost."
        )
    labels, scores = _labels_and_scores(y, score)
    losses = _amounts(amounts, len(labels))
    order, ends = _steps(scores)
    missed = losses[labels == 1].sum()
    # Entry i flags the i highest groups of equal scores; entry 0 flags nothing.
    false_alarms = np.concatenate([[0], np.cumsum(labels[order] == 0)[ends]])
    saved = np.concatenate([[0.0], np.cumsum(np.where(labels == 1, losses, 0.0)[order])[ends]])
    costs = cost_false_alarm * false_alarms + missed - saved
    best = int(np.argmin(costs))
    levels = scores[order][ends]
    if best == 0:
        value = float(np.nextafter(levels[0], np.inf))
    elif best == len(levels):
        value = float(levels[-1])
    else:
        value = float((levels[best - 1] + levels[best]) / 2)
    alarms = 0 if best == 0 else int(ends[best - 1]) + 1
    return Threshold(value, float(costs[best]), float(missed), alarms, alarms - int(false_alarms[best]), len(labels))


# --- guards ------------------------------------------------------------------------------------------


def check_enough(
    splits: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    minimum_rows: int = 500,
    minimum_positives: int = 20,
    minimum_days: int = 5,
) -> None:
    """Refuse to train or judge on too little.

    Args:
        splits: by name ("train", "validation", "test"): the labels, and the day of each row.
    Raises:
        InvalidData: a split has too few rows, positives, negatives or distinct days; the message names every shortage.

    >>> check_enough({"train": ([0, 0, 0], [1, 2, 3])}, minimum_rows=3, minimum_positives=1, minimum_days=3)
    Traceback (most recent call last):
        ...
    featurestore.errors.InvalidData: Too little to train on: the train split has 0 positives (needs 1) in 3 rows...
    """
    shortages = []
    for name, (y, days) in splits.items():
        labels = np.asarray(y)
        rows, positives, distinct = len(labels), int((labels == 1).sum()), len(np.unique(np.asarray(days)))
        found = [
            f"{count:,} {what} (needs {minimum:,})"
            for count, what, minimum in [
                (rows, "rows", minimum_rows),
                (positives, "positives", minimum_positives),
                (rows - positives, "negatives", 1),
                (distinct, "distinct days", minimum_days),
            ]
            if count < minimum
        ]
        if found:
            shortages.append(f"the {name} split has {', '.join(found)} in {rows:,} rows of {distinct:,} days")
    if shortages:
        raise InvalidData(
            f"Too little to train on: {'; '.join(shortages)}. Widen the windows of these splits, run the feature "
            "pipeline for more history, or wait until the labels of the last days are known."
        )


# --- pictures ----------------------------------------------------------------------------------------

# Okabe and Ito's palette: told apart with any colour vision, and the line styles in black and white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
STYLES = ("-", "--", "-.", ":")
INK, PALE = "#333333", "#8A8A8A"


def precision_recall_plot(
    y: ArrayLike, scores: Mapping[str, ArrayLike], *, title: str, threshold: float | None = None
) -> bytes:
    """Precision against recall for each named score, as a PNG.

    Args:
        scores: by name, the model first: it is drawn boldest. At most six.
        threshold: of the first score; its point is marked.

    >>> precision_recall_plot([0, 1, 0, 1], {"model": [0.1, 0.9, 0.3, 0.6]}, title="demo")[:4]
    b'\\x89PNG'
    """
    figure, axes = canvas(title)
    for i, (name, score) in enumerate(scores.items()):
        labels, values = _labels_and_scores(y, score)
        order, ends = _steps(values)
        hits, flagged = np.cumsum(labels[order])[ends], ends + 1
        recall, precision = hits / labels.sum(), hits / flagged
        axes.step(
            np.concatenate([[0.0], recall]),
            np.concatenate([[precision[0]], precision]),
            where="pre",
            color=COLOURS[i % len(COLOURS)],
            linestyle=STYLES[i % len(STYLES)],
            linewidth=2.4 if i == 0 else 1.6,
            label=f"{name}  (average precision {average_precision(labels, values):.3f})",
            zorder=10 - i,
        )
        if i == 0 and threshold is not None and (values >= threshold).any():
            at = int(np.flatnonzero(values[order][ends] >= threshold)[-1])
            axes.plot(
                recall[at], precision[at], "o", markersize=9, color=COLOURS[0], markeredgecolor="white", zorder=11
            )
            right, high = recall[at] > 0.6, precision[at] > 0.8  # keep the words inside the axes
            axes.annotate(
                f"threshold {threshold:.3g}\nprecision {precision[at]:.2f}, recall {recall[at]:.2f}",
                (recall[at], precision[at]),
                xytext=(-12 if right else 12, -30 if high else 8), textcoords="offset points",
                ha="right" if right else "left", fontsize=9, color=INK, zorder=12,
                bbox={"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
            )  # fmt: skip
    axes.set(xlabel="recall: share of the positives found", ylabel="precision: share of the alarms that are right")
    axes.set(xlim=(0, 1.005), ylim=(0, 1.03))
    axes.grid(color="#E6E6E6", linewidth=0.8)
    # Below the axes: inside, it would hide the curves of a good model or of a bad one.
    figure.legend(loc="outside lower center", frameon=False, fontsize=9)
    return png(figure)


def importance_plot(
    importances: Mapping[str, float], *, title: str, label: str = "gain, share of all", top: int = 15
) -> bytes:
    """What the model relies on: a bar per feature, largest first, as a PNG. Values are drawn as shares of their sum.

    >>> importance_plot({"amount": 3.0, "hour": 1.0}, title="demo")[:4]
    b'\\x89PNG'
    """
    total = sum(importances.values()) or 1.0
    ranked = sorted(importances.items(), key=lambda item: (-item[1], item[0]))
    shown = ranked[:top]
    figure, axes = canvas(title, height=1.4 + 0.3 * max(len(shown), 2))
    shares = [value / total for _, value in shown]
    bars = axes.barh([name for name, _ in shown], shares, color=COLOURS[0], height=0.7)
    axes.bar_label(bars, labels=[f"{share:.1%}" for share in shares], padding=4, fontsize=9, color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, max(shares, default=1.0) * 1.15)
    axes.set_xlabel(label + (f" (top {top} of {len(ranked)})" if len(ranked) > top else ""))
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return png(figure)


def canvas(title: str, *, height: float = 4.8) -> tuple[Figure, Axes]:
    """A figure with one pair of axes in our style."""
    # Figure() and not pyplot: no global state, no display, safe in the threads of a task runner.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    axes.tick_params(colors=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return figure, axes


def png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    from io import BytesIO

    buffer = BytesIO()
    # Without the software tag the same plot has the same bytes on every version of matplotlib's name.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


# --- the bootstrap -----------------------------------------------------------------------------------


def _point(metric: Metric, y: ArrayLike, score: ArrayLike) -> float:
    labels, scores = _labels_and_scores(y, score)
    positives = int(labels.sum())
    if metric != "brier" and positives == 0:
        raise InvalidData(
            f"{metric} needs at least one positive row; there are none in {len(labels):,}. Widen the window."
        )
    if metric == "roc_auc" and positives == len(labels):
        raise InvalidData(f"roc_auc needs at least one negative row; all {len(labels):,} are positive.")
    return float(_prepare(metric, labels, scores)(np.ones((1, len(labels))))[0])


def _prepare(metric: Metric, labels: Floats, scores: Floats) -> Weighted:
    """The metric as a function of row weights, with the sorting done once. NaN where a class has no weight."""
    if metric == "brier":
        errors = (scores - labels) ** 2
        return lambda weights: weights @ errors / weights.sum(axis=1)
    order, ends = _steps(scores)
    positive = labels[order]

    def steps(weights: Floats) -> tuple[Floats, Floats]:
        ordered = weights[:, order]
        flagged = np.cumsum(ordered, axis=1)[:, ends]
        ordered *= positive
        return np.cumsum(ordered, axis=1)[:, ends], flagged

    def weighted_average_precision(weights: Floats) -> Floats:
        hits, flagged = steps(weights)
        precision = np.divide(hits, flagged, out=np.zeros_like(hits), where=flagged > 0)
        gained = np.diff(hits, axis=1, prepend=0.0)
        with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN promised above
            return np.einsum("ij,ij->i", precision, gained) / hits[:, -1]

    def weighted_roc_auc(weights: Floats) -> Floats:
        hits, flagged = steps(weights)
        misses = flagged - hits
        area = np.einsum(
            "ij,ij->i", np.diff(misses, axis=1, prepend=0.0), hits - np.diff(hits, axis=1, prepend=0.0) / 2
        )
        with np.errstate(invalid="ignore"):
            return area / (hits[:, -1] * misses[:, -1])

    return weighted_average_precision if metric == "average_precision" else weighted_roc_auc


def _resampled(prepared: Sequence[Weighted], blocks: NDArray[np.intp], resamples: int, seed: int) -> list[Floats]:
    """Each prepared metric on the same resamples of blocks. A row's weight is how often its block was drawn."""
    drawn = bootstrap.draws(blocks, resamples=resamples, seed=seed)
    step = max(1, _CELLS // len(blocks))
    parts: list[list[Floats]] = [[] for _ in prepared]
    for first in range(0, resamples, step):
        weights = drawn[first : first + step].astype(np.float64)[:, blocks]
        for part, metric in zip(parts, prepared, strict=True):
            part.append(metric(weights))
    return [np.concatenate(part) for part in parts]


def _steps(scores: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The order from high to low, and the last position of every group of equal scores in it."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    return order, ends


def _labels_and_scores(y: ArrayLike, score: ArrayLike) -> tuple[Floats, Floats]:
    labels, scores = bootstrap.floats(y, "y"), bootstrap.floats(score, "score")
    if len(labels) != len(scores) or len(labels) == 0:
        raise InvalidData(f"y has {len(labels):,} rows and score {len(scores):,}; expected as many, and at least one.")
    if not np.isin(labels, (0.0, 1.0)).all():
        other = labels[~np.isin(labels, (0.0, 1.0))][0]
        raise InvalidData(f"y holds {other:g}; expected 1 for a positive row and 0 for any other.")
    return labels, scores


def _amounts(amounts: ArrayLike, n: int) -> Floats:
    losses = bootstrap.floats(amounts, "amounts")
    if len(losses) != n:
        raise InvalidData(f"amounts has {len(losses):,} rows, y has {n:,}; expected as many.")
    if (losses < 0).any():
        raise InvalidData(f"amounts holds {losses.min():g}; a missed positive cannot earn money. Expected >= 0.")
    return losses


def _blocks(blocks: ArrayLike, n: int) -> NDArray[np.intp]:
    return bootstrap.codes(blocks, "blocks", n)
