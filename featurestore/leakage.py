"""Signs that a training set knows what a prediction will not: checks over its rows, and what each of them found.

Times tell some leaks for certain: a feature row newer than the label, a timestamp that lies beyond the row, one key on
both sides of a split. Values tell others: a copy of the label is one whatever it is called, and a single feature that
almost gives the label away is suspicious. These are judged by ranks alone:

- copy: over the rows that have both, feature and label stand in a one-to-one relation, which for numbers that hardly
  repeat must be monotone. An error from 20 rows on.
- score: for labels of at most 20 classes the largest area under the curve of one class against the others, for others
  the squared rank correlation. A warning from 0.99 on, with 20 rows and five of a class at least. A category counts
  as the mean label of the other half of its rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.findings import Finding
from featurestore.point_in_time import Output, Plan
from featurestore.schema import Feature

LEAST_ROWS = 20
LEAST_OF_A_CLASS = 5
MOST_CLASSES = 20
SUSPICIOUS = 0.99
MOST_ROWS = 200_000
"""Scores are of at most so many rows, evenly spaced."""

Numbers = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """What a view's rows are judged by: the values, and beside them when each joined row happened and was committed.

    Args:
        plan: the plan that gave them, made by `widened`.
        table: its outputs.
        labels: which outputs are labels.
    """

    plan: Plan
    table: pa.Table
    labels: Sequence[str]

    @property
    def features(self) -> list[Output]:
        """The outputs that are neither labels nor there for the checks."""
        return [o for o in self.plan.outputs if o.name not in self.labels and not o.name.startswith("__")]

    def time(self, place: int) -> pa.ChunkedArray | None:
        """The event time of the row that a source gave; None for a source without."""
        name = f"__event.{place}"
        return self.table.column(name) if name in self.table.column_names else None


def widened(plan: Plan, committed_at: str) -> Plan:
    """The plan with what the checks need beside its outputs: times, commit times, and the keys of entities.

    Args:
        committed_at: the hidden column of every table that says when a row was committed.
    """
    moment = Feature("moment", "timestamp")
    features = {f.name: f for f in plan.spine.features}
    extra = [Output(0, name, f"__entity.{name}", features[name]) for name in _entities(plan)]
    for place, source in enumerate(plan.sources):
        if (time := source.definition.event_time) is not None:
            extra.append(Output(place, time, f"__event.{place}", moment))
        if place:
            extra.append(Output(place, committed_at, f"__commit.{place}", moment))
    return replace(plan, outputs=(*plan.outputs, *extra))


def _entities(plan: Plan) -> list[str]:
    """Whose history the rows tell: the spine's keys, and those of groups joined in time. A country is no entity."""
    joined = [left for s in plan.sources[1:] if s.parent == 0 and s.match != "key" for left, _ in s.keys]
    return list(dict.fromkeys([*plan.spine.primary_key, *joined]))


def check(
    plan: Plan, parts: Mapping[str, pa.Table], labels: Sequence[str], split: Mapping[str, Any] | None
) -> list[Finding]:
    """Everything suspicious about the rows, worst first.

    Args:
        plan: made by `widened`.
        parts: its rows, of each split, training first.
        split: how they were split, as a manifest has it.
    """
    rows = Rows(plan, pa.concat_tables(parts.values()), labels)
    found = [
        *_joins(rows), *_newer_than_label(rows), *_beyond_the_row(rows), *_copies(rows), *_scores(rows),
        *_both_sides(parts, split), *_committed_late(rows),
    ]  # fmt: skip
    return sorted(found, key=lambda f: ("error", "warning", "info").index(f.severity))


# What times tell


def _joins(rows: Rows) -> Iterator[Finding]:
    for source in rows.plan.sources[1:]:
        group = f"feature group {source.definition.ref}"
        if source.match == "newest":
            yield Finding(
                "warning", group, f"{rows.plan.spine.ref} has no event time, so each row gets the newest row of this "
                "group, which may be newer than what the label tells of.",
                "Give the left-most group an event time.",
            )  # fmt: skip
        elif source.match == "key":
            yield Finding(
                "info", group, "It has no event time and is joined by key alone: its values are those of now.",
                "Where they change over time, give the group an event time.",
            )  # fmt: skip


def _newer_than_label(rows: Rows) -> Iterator[Finding]:
    label_places = {o.source for o in rows.plan.outputs if o.name in rows.labels}
    for label_place in sorted(label_places):
        label_time = rows.time(label_place)
        if label_time is None:
            continue
        for place in sorted({o.source for o in rows.features} - {label_place}):
            feature_time = rows.time(place)
            if feature_time is None:
                continue
            newer = pc.fill_null(pc.greater(feature_time, label_time), False)
            if count := pc.sum(newer).as_py():
                first = pc.index(newer, True).as_py()
                yield Finding(
                    "error", f"feature group {rows.plan.sources[place].definition.ref}",
                    f"{count:,} of {len(newer):,} rows use a row of {feature_time[first]} for a label of "
                    f"{label_time[first]}: the feature is newer than its label.",
                    "Make the label's group the left-most one, or join it at its own time.",
                )  # fmt: skip


def _beyond_the_row(rows: Rows) -> Iterator[Finding]:
    time = rows.time(0)
    if time is None:
        return
    for output in rows.features:
        dtype = output.feature.type
        if not (pa.types.is_timestamp(dtype) or pa.types.is_date(dtype)):
            continue
        values = rows.table.column(output.name)
        limit = time if pa.types.is_timestamp(dtype) else time.cast(pa.timestamp("us")).cast(pa.date32(), safe=False)
        beyond = pc.fill_null(pc.greater(values, limit), False)
        if count := pc.sum(beyond).as_py():
            first = pc.index(beyond, True).as_py()
            yield Finding(
                "error", f"feature {output.name!r}",
                f"{count:,} of {len(beyond):,} values lie beyond their row's time, such as {values[first]} in a row of "
                f"{time[first]}.",
                "If it is known in advance (a due date), give the model the time until then instead.",
            )  # fmt: skip


def _committed_late(rows: Rows) -> Iterator[Finding]:
    time = rows.time(0)
    if time is None:
        return
    for place, source in enumerate(rows.plan.sources[1:], start=1):
        names = [o.name for o in rows.features if o.source == place]
        late = pc.fill_null(pc.greater(rows.table.column(f"__commit.{place}"), time), False)
        if names and (count := pc.sum(late).as_py()):
            yield Finding(
                "info", f"feature group {source.definition.ref}",
                f"{count:,} of {len(late):,} rows use values of {names} that were committed after the row's time.",
                "A backfill is harmless; corrections are not: as_known=True shows what was known.",
            )  # fmt: skip


# What a split tells


def _both_sides(parts: Mapping[str, pa.Table], split: Mapping[str, Any] | None) -> Iterator[Finding]:
    if split is None or len(parts) < 2:
        return
    entity = split.get("entity") or []
    named = [entity] if isinstance(entity, str) else list(entity)
    if not named and split.get("kind") == "time":  # the same key at another time is what a time split is for
        return
    (train, first), *others = parts.items()
    prefix = "__entity."
    for name in first.column_names:
        column = name.removeprefix(prefix)
        if name == column or (named and column not in named):
            continue
        known = pc.unique(first.column(name)).drop_null()
        for other, part in others:
            values = part.column(name).combine_chunks()
            shared = values.filter(pc.is_in(values, value_set=known))
            if len(shared):
                keys = pc.unique(shared)
                yield Finding(
                    "error" if named else "warning", f"key {column!r}",
                    f"{len(keys):,} values are on both sides of the split ({train} and {other}), such as "
                    f"{keys[0].as_py()!r}; {len(shared):,} of {len(values):,} rows of {other} have one.",
                    f"Split by time, or by entity={column!r}, unless the model will score keys it was trained on.",
                )  # fmt: skip


# What values tell


def _copies(rows: Rows) -> Iterator[Finding]:
    for name in rows.labels:
        label = next(o for o in rows.plan.outputs if o.name == name)
        for output in rows.features:
            refs = [rows.plan.sources[o.source].definition.ref for o in (output, label)]
            if refs[0] == refs[1] and output.column == label.column:
                how = "the label's own column"
            else:
                relation = _relation(rows.table.column(output.name), rows.table.column(name))
                if relation is None:
                    continue
                how = f"{relation} of the label {name!r} in every row that has both"
            yield Finding(
                "error", f"feature {output.name!r}", f"It is {how}.", "Take it out of the view's query."
            )  # fmt: skip


def _relation(feature: pa.ChunkedArray, label: pa.ChunkedArray) -> str | None:
    """How a feature gives the label exactly, or None."""
    if pa.types.is_nested(feature.type) or pa.types.is_nested(label.type):
        return None
    both = pc.and_(pc.is_valid(feature), pc.is_valid(label))
    feature, label = feature.filter(both), label.filter(both)
    if len(label) < LEAST_ROWS:
        return None
    feature_codes, label_codes = _codes(feature), _codes(label)
    distinct, classes = int(feature_codes.max()) + 1, int(label_codes.max()) + 1
    if distinct != classes or classes < 2:
        return None
    pairs = len(np.unique(feature_codes * classes + label_codes))
    if pairs != classes:
        return None
    are_ordered = _is_ordered(feature.type) and _is_ordered(label.type)
    if np.array_equal(_numbers(feature), _numbers(label)) if are_ordered else feature.equals(label):
        return "a copy"
    if 2 * classes <= len(label):  # values repeat: that each always meets the same one is no accident
        return "another spelling"
    if not are_ordered:
        return None
    steps = np.diff(_numbers(feature)[np.argsort(_numbers(label), kind="stable")])
    return "a monotone copy" if np.all(steps >= 0) or np.all(steps <= 0) else None


def _scores(rows: Rows) -> Iterator[Finding]:
    for name in rows.labels:
        for output in rows.features:
            found = _score(rows.table.column(output.name), rows.table.column(name))
            if found is None or found[1] < SUSPICIOUS:
                continue
            yield Finding(
                "warning", f"feature {output.name!r}",
                f"Alone it almost gives the label {name!r} away: {found[0]} {found[1]:.4f}.",
                "Make sure that it is known when a prediction is asked for.",
            )  # fmt: skip


def _score(feature: pa.ChunkedArray, label: pa.ChunkedArray) -> tuple[str, float] | None:
    """What one feature tells of the label, and by which measure; None where that cannot be said."""
    if pa.types.is_nested(feature.type) or pa.types.is_nested(label.type):
        return None
    known = pc.is_valid(label)
    feature, label = feature.filter(known), label.filter(known)
    if len(label) > MOST_ROWS:
        places = pa.array(np.linspace(0, len(label) - 1, MOST_ROWS).astype(np.int64))
        feature, label = feature.take(places), label.take(places)
    if len(label) < LEAST_ROWS:
        return None
    codes = _codes(label)
    counts = np.bincount(codes)
    if len(counts) < 2:
        return None
    if len(counts) > MOST_CLASSES:
        if not _is_ordered(label.type):
            return None
        target = _numbers(label)
        return "squared rank correlation", _rank_correlation(_as_scores(feature, target), target) ** 2
    areas = []
    for code in np.flatnonzero(counts >= LEAST_OF_A_CLASS):
        target = (codes == code).astype(np.float64)
        if len(codes) - counts[code] < LEAST_OF_A_CLASS:
            continue
        area = _area_under_curve(_as_scores(feature, target), target > 0)
        areas.append(max(area, 1 - area))
    return ("area under the curve", max(areas)) if areas else None


def _as_scores(feature: pa.ChunkedArray, target: Numbers) -> Numbers:
    """The feature as numbers to rank, null below all others.

    A category's number is the mean target of its rows in the other half, so that no row tells its own label.
    """
    if _is_ordered(feature.type):
        values = _numbers(feature)
        return np.where(np.isnan(values), -np.inf, values)
    codes = _codes(feature)
    half = np.random.default_rng(0).random(len(codes)) < 0.5  # every other row would follow whatever repeats
    values = np.empty(len(codes))
    for learn, apply in ((half, ~half), (~half, half)):
        sums = np.bincount(codes[learn], weights=target[learn], minlength=codes.max() + 1)
        counts = np.bincount(codes[learn], minlength=codes.max() + 1)
        means = np.divide(sums, counts, out=np.full(len(sums), target[learn].mean()), where=counts > 0)
        values[apply] = means[codes[apply]]
    return values


def _area_under_curve(scores: Numbers, positive: npt.NDArray[np.bool_]) -> float:
    """The chance that a positive row scores above a negative one; ties count half."""
    ranks = _ranks(scores)
    wins = ranks[positive].sum() - positive.sum() * (positive.sum() + 1) / 2
    return float(wins / (positive.sum() * (~positive).sum()))


def _rank_correlation(left: Numbers, right: Numbers) -> float:
    """Spearman's rank correlation; 0 where one side is constant."""
    a, b = (ranks - ranks.mean() for ranks in (_ranks(left), _ranks(right)))
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / size if size else 0.0


def _ranks(values: Numbers) -> Numbers:
    """Ranks from 1; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _is_ordered(dtype: pa.DataType) -> bool:
    return not (pa.types.is_string(dtype) or pa.types.is_binary(dtype) or pa.types.is_nested(dtype))


def _numbers(column: pa.ChunkedArray) -> Numbers:
    dtype = column.type
    if pa.types.is_temporal(dtype):
        column = column.cast(pa.int32() if pa.types.is_date(dtype) else pa.int64())
    elif pa.types.is_boolean(dtype):
        column = column.cast(pa.int8())
    return column.cast(pa.float64(), safe=False).fill_null(float("nan")).to_numpy()


def _codes(column: pa.ChunkedArray) -> Codes:
    """A number from 0 for each distinct value, null among them."""
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
