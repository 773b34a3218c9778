"""Why a feature of one row has its value: which row of which group it came from, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurestore.engines.sql import COMMITTED_AT
from featurestore.errors import NotFound, SchemaMismatch
from featurestore.point_in_time import Output, Plan, Source
from featurestore.query import Column, Filter, GroupRef, both
from featurestore.scalars import acceptor
from featurestore.schema import TIMESTAMP, DataFrameType, Feature, to_frame
from featurestore.times import TimeLike, parse_time

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

_STAMP = Feature("committed_at", TIMESTAMP)


@dataclass(frozen=True)
class Explanation:
    """Where one feature of one row comes from.

    Args:
        feature, value: the untransformed value.
        group, group_version: the feature group.
        event_time: of the row that was chosen; None when none was, or the group has no event time.
        commit_version, committed_at: the Delta version that wrote the row's present values, and when.
        reason: why the value is null; None when it is not.
    """

    feature: str
    value: Any
    group: str
    group_version: int
    event_time: datetime | None
    commit_version: int | None
    committed_at: datetime | None
    reason: str | None


class Explainer:
    """Explains rows of a plan at pinned versions. The engine that makes training data answers, so it cannot differ."""

    def __init__(self, store: FeatureStore, plan: Plan, versions: Mapping[GroupRef, int]) -> None:
        self._store = store
        self._versions = versions
        # No row is left out: where an inner join or a filter would drop it, what it lacks is what is asked for.
        sources = [replace(s, inner=False) for s in plan.sources]
        self._plan = replace(plan, sources=tuple(sources), result_filter=None, limit=None)

    def explain(self, keys: Mapping[str, Any], time: TimeLike | None) -> list[Explanation]:
        """One explanation for each output of the plan, of the newest row of these keys not later than `time`.

        Args:
            keys: the primary key of the left-most group.
            time: None for the newest row.
        Raises:
            SchemaMismatch: other keys, or a key of another type.
            NotFound: the left-most group has no such row.
        """
        plan = self._of_row(keys, time)
        row = self._run(plan)
        found = {place: self._commit(plan.sources[place], row, place) for place in range(len(plan.sources))}
        reasons = {place: self._absence(plan, row, place) for place, (_, stamp) in found.items() if stamp is None}
        return [self._one(plan, row, place, found, reasons) for place in range(len(self._plan.outputs))]

    def _one(
        self, plan: Plan, row: Mapping[str, Any], place: int, found: Mapping[int, tuple[int | None, datetime | None]],
        reasons: Mapping[int, str],
    ) -> Explanation:  # fmt: skip
        output, value = self._plan.outputs[place], row[f"output {place}"]
        right = plan.sources[output.source].definition
        version, stamp = found[output.source]
        time = row[f"{output.source}.{right.event_time}"] if right.event_time else None
        reason = None if value is not None else reasons.get(output.source, "its value is null in that row")
        return Explanation(output.name, value, right.ref.name, right.ref.version, time, version, stamp, reason)

    def _of_row(self, keys: Mapping[str, Any], time: TimeLike | None) -> Plan:
        """The plan of the one row, with the keys, times and commits of every group beside the features."""
        spine = self._plan.spine
        if set(keys) != set(spine.primary_key):
            raise SchemaMismatch(
                f"A row of {spine.ref} is named by its primary key {list(spine.primary_key)}, got {list(keys)}."
            )
        features = {f.name: f for f in spine.features}
        chosen: Filter | None = self._plan.sources[0].row_filter
        for name in spine.primary_key:
            value = acceptor(features[name], f"The key {name!r} of {spine.ref}")(keys[name])
            chosen = both(chosen, Column(spine.ref, name) == value)
        if spine.event_time is not None:
            until = None if time is None else Column(spine.ref, spine.event_time) <= parse_time(time)
            newest = self._run(self._probe(both(chosen, until)), required=False).get(f"0.{spine.event_time}")
            chosen = None if newest is None else both(chosen, Column(spine.ref, spine.event_time) == newest)
        plan = self._probe(chosen) if chosen is not None else None
        if plan is None or not self._run(plan, required=False):
            when = "" if time is None or spine.event_time is None else f" at or before {parse_time(time)}"
            raise NotFound(f"{spine.ref} has no row of {dict(keys)}{when}. Look with fg.read().")
        sources = (plan.sources[0], *self._plan.sources[1:])
        outputs = [replace(o, name=f"output {place}") for place, o in enumerate(self._plan.outputs)]
        for place, source in enumerate(sources):
            wanted = {left for s in sources if s.parent == place for left, _ in s.keys}
            outputs += _outputs(source, place, wanted | {source.definition.event_time or ""})
        return replace(self._plan, sources=sources, outputs=tuple(outputs))

    def _probe(self, condition: Filter | None) -> Plan:
        """The left-most group alone, under a condition."""
        source = replace(self._plan.sources[0], row_filter=condition)
        return Plan((source,), tuple(_outputs(source, 0, {source.definition.event_time or ""})), now=self._plan.now)

    def _run(self, plan: Plan, *, required: bool = True) -> dict[str, Any]:
        rows = self._store.run(plan, self._versions)
        if not rows.num_rows and not required:
            return {}
        return {name: rows[name][rows.num_rows - 1].as_py() for name in rows.column_names}

    def _commit(self, source: Source, row: Mapping[str, Any], place: int) -> tuple[int | None, datetime | None]:
        stamp = row[f"{place}.{COMMITTED_AT}"]
        if stamp is None:
            return None, None
        commits = self._store.group(source.definition.ref).history()
        return next((c.version for c in commits if c.time == stamp), None), stamp

    def _absence(self, plan: Plan, row: Mapping[str, Any], place: int) -> str:
        """Why no row of a joined group was chosen."""
        source = plan.sources[place]
        right, parent = source.definition, plan.sources[source.parent].definition
        if row[f"{source.parent}.{COMMITTED_AT}"] is None:
            return f"there is no row of {parent.ref} to join {right.ref} to"
        given = {r: row[f"{source.parent}.{left}"] for left, r in source.keys}
        if nulls := [left for left, r in source.keys if given[r] is None]:
            return f"the key {nulls[0]!r} of {parent.ref} is null"
        named = ", ".join(f"{name}={value!r}" for name, value in given.items())
        moment = row.get(f"0.{plan.spine.event_time}")
        if plan.as_known and self._matches(replace(plan, as_known=False), place):
            return f"no row of {named} had been committed to {right.ref} by {moment}"
        timeless = _changed(plan, place, definition=replace(right, ttl=None))
        if right.ttl is not None and (older := self._matches(timeless, place)):
            return f"expired: the newest row of {named} is of {older}, more than {right.ttl} before"
        if source.row_filter is not None and self._matches(_changed(plan, place, row_filter=None), place):
            return f"no row of {named} meets the filter of {right.ref}"
        if source.match == "as of":
            later = self._matches(_changed(timeless, place, match="newest"), place)
            return f"no row of {named} at or before {moment}" + (" (there are later ones)" if later else "")
        return f"no row of {named}"

    def _matches(self, plan: Plan, place: int) -> datetime | bool:
        """Whether a source has a row in a changed plan: its event time where it has one."""
        row = self._run(plan)
        time = plan.sources[place].definition.event_time
        return row[f"{place}.{COMMITTED_AT}"] is not None and (row[f"{place}.{time}"] if time else True)


def _outputs(source: Source, place: int, columns: set[str]) -> list[Output]:
    """Columns of a source, and when its row was committed, named by the source's place."""
    kept = [Output(place, f.name, f"{place}.{f.name}", f) for f in source.definition.features if f.name in columns]
    return [*kept, Output(place, COMMITTED_AT, f"{place}.{COMMITTED_AT}", _STAMP)]


def _changed(plan: Plan, place: int, **changes: Any) -> Plan:
    sources = list(plan.sources)
    sources[place] = replace(sources[place], **changes)
    return replace(plan, sources=tuple(sources))


def as_frame(explanations: list[Explanation], dataframe_type: DataFrameType) -> Any:
    """One row per explanation; values, which are of many types, are text where a column has one type."""
    rows = [vars(e) | {"value": None if e.value is None else str(e.value)} for e in explanations]
    schema = pa.schema(
        [
            ("feature", pa.string()), ("value", pa.string()), ("group", pa.string()), ("group_version", pa.int64()),
            ("event_time", TIMESTAMP), ("commit_version", pa.int64()), ("committed_at", TIMESTAMP),
            ("reason", pa.string()),
        ]
    )  # fmt: skip
    frame = to_frame(pa.Table.from_pylist(rows, schema=schema), dataframe_type)
    if dataframe_type == "pandas":
        import pandas as pd

        frame["value"] = pd.Series([e.value for e in explanations], dtype="object")
    return frame
