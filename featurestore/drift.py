"""How far apart two distributions are: of one column then and now, from their summaries or from probability vectors.

A null is a category of its own, so a column that suddenly goes missing has drifted. Numbers are put into the bins that
the reference's deciles make (its values, when it has at most 50), the usual ground for reading a PSI: below 0.1
little, above 0.25 much. Numbers with more than 50 values are known by their percentiles alone, so their distances are
exact to about one percent of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.errors import InvalidData, SchemaMismatch
from featurestore.statistics import Summary

EPSILON = 1e-6
Probabilities = Sequence[float] | npt.NDArray[np.float64]
_Vector = npt.NDArray[np.float64]

DISTANCES = (
    "psi", "kl", "js", "hellinger", "ks", "ks_p_value", "chi_squared", "chi_squared_p_value", "wasserstein",
)  # fmt: skip


def psi(reference: Probabilities, current: Probabilities, *, epsilon: float = EPSILON) -> float:
    """Population stability index, symmetric, 0 and up; shares below `epsilon` are raised to it.

    >>> round(psi([0.8, 0.2], [0.4, 0.6]), 4)
    0.7167
    """
    p, q = _smoothed(*_shares(reference, current), epsilon)
    return float(np.sum((p - q) * np.log(p / q)))


def kullback_leibler(reference: Probabilities, current: Probabilities, *, epsilon: float = EPSILON) -> float:
    """Divergence of the reference from the current distribution in nats, 0 and up, not symmetric.

    >>> round(kullback_leibler([0.8, 0.2], [0.4, 0.6]), 4)
    0.3348
    """
    p, q = _smoothed(*_shares(reference, current), epsilon)
    return max(0.0, float(np.sum(p * np.log(p / q))))


def jensen_shannon(reference: Probabilities, current: Probabilities) -> float:
    """The Jensen-Shannon distance: root of the divergence in bits. A metric from 0 to 1.

    >>> jensen_shannon([1, 0], [0, 1])
    1.0
    """
    p, q = _shares(reference, current)
    both = p + q  # not halved: half of the smallest float is 0
    divergence = 0.0
    for side in (p, q):
        there = side > 0
        divergence += float(np.sum(side[there] * np.log2(2 * side[there] / both[there]))) / 2
    return min(max(divergence, 0.0), 1.0) ** 0.5


def hellinger(reference: Probabilities, current: Probabilities) -> float:
    """The Hellinger distance. A metric from 0 to 1."""
    p, q = _shares(reference, current)
    return min(1.0, float(np.sqrt(np.sum((np.sqrt(p) - np.sqrt(q)) ** 2) / 2)))


def kolmogorov_smirnov(reference: Probabilities, current: Probabilities) -> float:
    """The largest gap between two cumulative distributions over categories in order. A metric from 0 to 1.

    >>> round(kolmogorov_smirnov([0.8, 0.2], [0.4, 0.6]), 4)
    0.4
    """
    p, q = _shares(reference, current)
    return min(1.0, float(np.max(np.abs(np.cumsum(p) - np.cumsum(q)))))


def wasserstein(
    reference: Probabilities, current: Probabilities, *, positions: Sequence[float] | _Vector | None = None
) -> float:
    """How far mass must move on average, in units of `positions` (ascending; default 0, 1, 2, ...). A metric.

    >>> wasserstein([1, 0, 0], [0, 0, 1], positions=[0, 10, 25])
    25.0
    """
    p, q = _shares(reference, current)
    places = np.arange(len(p), dtype=np.float64) if positions is None else np.asarray(positions, dtype=np.float64)
    if len(places) != len(p) or np.any(np.diff(places) < 0):
        raise InvalidData(f"Expected {len(p)} ascending positions, one per category; got {places.tolist()}.")
    return float(np.sum(np.abs(np.cumsum(p - q))[:-1] * np.diff(places)))


def chi_squared(
    reference_counts: Sequence[float] | _Vector, current_counts: Sequence[float] | _Vector
) -> tuple[float, float]:
    """Pearson's test that two samples come from one distribution: the statistic and its p-value.

    Args:
        reference_counts, current_counts: rows per category, same categories in the same order. Categories empty in both
            do not count; with fewer than two left, or an empty sample, the result is (0.0, 1.0).

    >>> statistic, p_value = chi_squared([80, 20], [40, 60])
    >>> round(statistic, 4), p_value < 1e-6
    (33.3333, True)
    """
    table = np.asarray([reference_counts, current_counts], dtype=np.float64)
    if not np.all(np.isfinite(table)) or np.any(table < 0):
        raise InvalidData(f"Counts must be finite and not negative; got {table.tolist()}.")
    table = table[:, table.sum(axis=0) > 0]
    rows = table.sum(axis=1, keepdims=True)
    if table.shape[1] < 2 or np.any(rows == 0):
        return 0.0, 1.0
    from scipy.special import chdtrc  # 0.1 s, and only tests of significance need it

    expected = rows * table.sum(axis=0) / table.sum()
    statistic = float(np.sum((table - expected) ** 2 / expected))
    return statistic, float(chdtrc(table.shape[1] - 1, statistic))


def ks_p_value(distance: float, reference_count: float, current_count: float) -> float:
    """Probability of a Kolmogorov-Smirnov distance at least this large when nothing changed; good from about 30 rows.

    >>> ks_p_value(0.0, 100, 100)
    1.0
    """
    if not reference_count or not current_count:
        return 1.0
    from scipy.special import kolmogorov

    size = reference_count * current_count / (reference_count + current_count)
    return float(kolmogorov(size**0.5 * distance))


def compare(reference: dict[str, Summary], current: dict[str, Summary]) -> dict[str, dict[str, Any]]:
    """Every distance for every column, from two results of `featurestore.statistics.summarise`; ready for JSON.

    Args:
        reference: what is normal: the training set, or last month.
        current: what is compared with it. Both have the same columns of the same kinds.
    Returns:
        For each column, in the reference's order, a dict with: kind; reference_count, current_count (rows with nulls);
        reference_null_share, current_null_share; and the distances psi, kl, js, hellinger, ks, ks_p_value, chi_squared,
        chi_squared_p_value, wasserstein. None: all distances when a side has no rows; ks and wasserstein for text (no
        order); wasserstein without finite values on a side: it is in the column's unit and looks at those alone.
        Times, bytes and nested columns are compared by their nulls alone: new times are always others.
    Raises:
        SchemaMismatch: a column is on one side only, or changed its kind.

    >>> import pyarrow as pa
    >>> from featurestore.statistics import summarise
    >>> then, now = summarise(pa.table({"x": [0, 0, 0, 0, 1]})), summarise(pa.table({"x": [0, 0, 1, 1, 1]}))
    >>> found = compare(then, now)["x"]
    >>> round(found["psi"], 4), round(found["kl"], 4), round(found["ks"], 4)
    (0.7167, 0.3348, 0.4)
    """
    if only := sorted(reference.keys() ^ current.keys()):
        raise SchemaMismatch(
            f"Drift needs the same columns on both sides; only one side has {only}. Summarise the columns both have."
        )
    return {name: compare_column(name, reference[name], current[name]) for name in reference}


def compare_column(name: str, reference: Summary, current: Summary) -> dict[str, Any]:
    """Every distance for one column; see `compare`."""
    kind = reference["kind"]
    if kind != current["kind"]:
        raise SchemaMismatch(
            f"Column {name!r} is {kind} in the reference and {current['kind']} now; drift needs one kind."
        )
    sizes = [summary["count"] + summary["null_count"] for summary in (reference, current)]
    found: dict[str, Any] = {
        "kind": kind,
        "reference_count": sizes[0],
        "current_count": sizes[1],
        "reference_null_share": 1 - reference["completeness"],
        "current_null_share": 1 - current["completeness"],
        **dict.fromkeys(DISTANCES),
    }
    if not all(sizes):
        return found
    is_ordered = kind in ("number", "boolean")
    if is_ordered:
        p, q = _number_masses(reference, current)
    else:
        p, q = _category_masses(reference, current)
    found["psi"], found["kl"] = psi(p, q), kullback_leibler(p, q)
    found["js"], found["hellinger"] = jensen_shannon(p, q), hellinger(p, q)
    found["chi_squared"], found["chi_squared_p_value"] = chi_squared(p * sizes[0], q * sizes[1])
    if is_ordered:
        found["ks"] = _largest_gap(reference, current)
        found["ks_p_value"] = ks_p_value(found["ks"], *sizes)
        found["wasserstein"] = _distance_moved(reference, current)
    return found


def _shares(reference: Probabilities, current: Probabilities) -> tuple[_Vector, _Vector]:
    p, q = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    if p.ndim != 1 or p.shape != q.shape or not len(p):
        raise InvalidData(f"Expected two vectors over the same categories; got shapes {p.shape} and {q.shape}.")
    for vector in (p, q):
        if not np.all(vector >= 0) or abs(vector.sum() - 1) > 1e-6:
            raise InvalidData(f"Probabilities must not be negative and sum to 1; got {vector.tolist()}.")
    return p / p.sum(), q / q.sum()


def _smoothed(p: _Vector, q: _Vector, epsilon: float) -> tuple[_Vector, _Vector]:
    p, q = np.maximum(p, epsilon), np.maximum(q, epsilon)
    return p / p.sum(), q / q.sum()


def _category_masses(reference: Summary, current: Summary) -> tuple[_Vector, _Vector]:
    """Shares of the values known on both sides, of all other values, and of nulls."""
    # Of text alone: a time or a key of bytes that comes back says nothing, one that is new is no drift.
    tops = [
        {entry["value"]: entry["count"] for entry in (s["top_values"] or ()) if s["kind"] == "text"}
        for s in (reference, current)
    ]
    is_complete = [sum(top.values()) == s["count"] for top, s in zip(tops, (reference, current), strict=True)]
    # A value missing from a list that is cut off may be frequent or absent: it belongs to the others on both sides.
    values = [
        value for value in tops[0] | tops[1]
        if all(value in top or complete for top, complete in zip(tops, is_complete, strict=True))
    ]  # fmt: skip
    masses = []
    for top, summary in zip(tops, (reference, current), strict=True):
        counts = [top.get(value, 0) for value in values]
        masses.append(_over_rows([*counts, summary["count"] - sum(counts), summary["null_count"]]))
    return masses[0], masses[1]


def _over_rows(counts: Sequence[float]) -> _Vector:
    vector = np.asarray(counts, dtype=np.float64)
    return vector / vector.sum()


def _number_masses(reference: Summary, current: Summary) -> tuple[_Vector, _Vector]:
    """Shares of the reference's cuts, of the gaps between them, of infinities, and of nulls."""
    values, _ = _complete(reference) or (np.empty(0), np.empty(0))
    percentiles = reference["percentiles"]
    cuts = np.unique(values) if len(values) else np.unique(percentiles[9::10]) if percentiles else values
    masses = []
    for summary in (reference, current):
        finite, infinite = _finite(summary), summary["infinite_count"] or 0
        before, upto = _cumulative(summary, cuts)
        edges = np.concatenate(([0.0], np.ravel(np.column_stack((before, upto))), [1.0]))
        shares = np.maximum(np.diff(edges), 0.0) * finite
        masses.append(_over_rows([*shares, infinite, summary["null_count"]]))
    return masses[0], masses[1]


def _largest_gap(reference: Summary, current: Summary) -> float:
    """Kolmogorov-Smirnov over all values that either summary knows; infinities, then nulls, come last."""
    knots = np.unique(np.concatenate([_knots(reference), _knots(current)]))
    sides = []
    for summary in (reference, current):
        rows = summary["count"] + summary["null_count"]
        before, upto = _cumulative(summary, knots)
        finite = _finite(summary) / rows
        sides.append(np.concatenate((before * finite, upto * finite, [finite, summary["count"] / rows])))
    return float(np.max(np.abs(sides[0] - sides[1])))


def _distance_moved(reference: Summary, current: Summary) -> float | None:
    """Wasserstein distance of the finite values: between cumulative steps where both are complete, else percentiles."""
    if not _finite(reference) or not _finite(current):
        return None
    with np.errstate(over="ignore", invalid="ignore"):  # a distance beyond the largest float is None, below
        if _complete(reference) and _complete(current):
            knots = np.unique(np.concatenate([_knots(reference), _knots(current)]))
            gaps = np.abs(_cumulative(reference, knots)[1] - _cumulative(current, knots)[1])
            moved = float(np.sum(gaps[:-1] * np.diff(knots)))
        else:
            moved = float(np.trapezoid(np.abs(_quantiles(reference) - _quantiles(current)), dx=0.01))
    return moved if np.isfinite(moved) else None


def _finite(summary: Summary) -> int:
    return int(summary["count"]) - int(summary["infinite_count"] or 0)


def _complete(summary: Summary) -> tuple[_Vector, _Vector] | None:
    """Every finite value in order and its count, when the most frequent ones are all there are."""
    entries = sorted((float(entry["value"]), entry["count"]) for entry in summary["top_values"] or ())
    counts = np.array([count for _, count in entries], dtype=np.float64)
    if not entries or counts.sum() != _finite(summary):
        return None
    return np.array([value for value, _ in entries]), counts


def _knots(summary: Summary) -> _Vector:
    """The values at which the cumulative distribution is known: all of them, or the percentiles with both ends."""
    if complete := _complete(summary):
        return complete[0]
    return np.empty(0) if summary["percentiles"] is None else _quantiles(summary)


def _quantiles(summary: Summary) -> _Vector:
    return np.array([summary["min"], *summary["percentiles"], summary["max"]], dtype=np.float64)


def _cumulative(summary: Summary, points: _Vector) -> tuple[_Vector, _Vector]:
    """Shares of the finite values below each point, and up to it."""
    if complete := _complete(summary):
        values, counts = complete
        upto = np.concatenate(([0.0], np.cumsum(counts))) / counts.sum()
        return upto[np.searchsorted(values, points, side="left")], upto[np.searchsorted(values, points, side="right")]
    knots = _knots(summary)
    if not len(knots):
        return np.zeros(len(points)), np.zeros(len(points))
    shares = np.arange(len(knots)) / (len(knots) - 1)
    before, upto = np.searchsorted(knots, points, side="left"), np.searchsorted(knots, points, side="right")
    inside = (before == upto) & (before > 0) & (before < len(knots))
    place = np.clip(before, 1, len(knots) - 1)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        way = (points / 2 - knots[place - 1] / 2) / (knots[place] / 2 - knots[place - 1] / 2)  # halves cannot overflow
        between = shares[place - 1] + 0.01 * np.clip(np.nan_to_num(way), 0, 1)
    below = np.where(inside, between, np.where(before == len(knots), 1.0, shares[np.minimum(before, len(knots) - 1)]))
    above = np.where(inside, between, np.where(upto == 0, 0.0, shares[upto - 1]))
    return np.minimum(below, above), above
