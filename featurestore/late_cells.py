"""Counts the cells of training rows that only hindsight could fill: committed after the row's own time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore import delta_history
from featurestore.errors import FeatureStoreError
from featurestore.keyed_rows import KEY
from featurestore.point_in_time import Plan
from featurestore.query import GroupRef
from featurestore.snapshots import Snapshot
from featurestore.splits import row_hashes
from featurestore.times import TimeLike

if TYPE_CHECKING:
    from featurestore.store import FeatureStore


ROWS_AT_ONCE = 300_000
"""Joined groups with more rows than this in all take longer than the training dataset itself: count when asked."""


def is_quick(store: FeatureStore, plan: Plan, versions: Mapping[GroupRef, int]) -> bool:
    """Whether `count` takes no longer than making a training dataset does."""
    known = replace(plan, as_known=True)
    places = [p for p in range(len(plan.sources)) if known.is_as_known(p)]
    return sum(_snapshot(store, plan, versions, p).rows for p in places) <= ROWS_AT_ONCE


def count(
    store: FeatureStore, plan: Plan, versions: Mapping[GroupRef, int], rows: pa.Table, *, start: TimeLike | None,
    end: TimeLike | None,
) -> dict[str, int] | None:  # fmt: skip
    """How many cells of each feature would differ under `as_known=True`.

    Args:
        plan: of the rows, their keys included, without as_known. What `in_hindsight` names does not count.
        rows: what it gave, or part of it.
    Returns:
        Counts by the names of the columns that joined groups give; None when the files that tell what was known are
        gone.
    """
    known = replace(plan, as_known=True)
    places = [p for p in range(len(plan.sources)) if known.is_as_known(p)]
    counted = {o.name: o.source for o in plan.outputs if o.source in places and o.name in rows.column_names}
    if not counted or not rows.num_rows:
        return dict.fromkeys(counted, 0)
    times = pc.min_max(rows.column(KEY + str(plan.spine.event_time))).as_py()
    try:
        spans = {p: _span(store, plan, versions, p) for p in places}
        if all(last is None or last <= times["min"] for _, last in spans.values()):
            return dict.fromkeys(counted, 0)  # everything was there before the first row
        late = {p for p, (first, _) in spans.items() if first is None or first > times["max"]}
        late |= {c for p in late for c in plan.branch(p)}  # what is joined to nothing is nothing
        if late.issuperset(places):  # a backfill: at the time of the last row nothing was there yet
            return {name: len(rows) - rows.column(name).null_count for name in counted}
        # No row is left out: where an inner join or a filter would drop it, its cells differ.
        sources = [replace(s, inner=s.inner and s.parent != 0) for s in known.sources]
        seen = store.run(
            replace(known, sources=tuple(sources), result_filter=None, limit=None), versions, start=start, end=end
        )
    except FeatureStoreError:  # of a vacuum before: the rows are here, what was known of them is not
        return None
    return _differences(rows, seen, list(counted))


def _span(
    store: FeatureStore, plan: Plan, versions: Mapping[GroupRef, int], place: int
) -> tuple[datetime | None, datetime | None]:
    """When a table's first rows were committed, and when it last changed; None for one that never had rows."""
    snapshot = _snapshot(store, plan, versions, place)
    files = delta_history.row_files(snapshot.location, snapshot.version)
    changes = [f.added for f in files] + [f.removed for f in files if f.removed is not None]
    return min((f.added for f in files), default=None), max(changes, default=None)


def _snapshot(store: FeatureStore, plan: Plan, versions: Mapping[GroupRef, int], place: int) -> Snapshot:
    source = plan.sources[place]
    ref = source.definition.ref
    return store.group(ref).snapshot(versions[ref] if source.version is None else source.version)


def _differences(rows: pa.Table, seen: pa.Table, columns: Sequence[str]) -> dict[str, int]:
    keys = [n for n in rows.column_names if n.startswith(KEY)]
    wanted, there = row_hashes(rows, keys), row_hashes(seen, keys)
    order = np.argsort(there)
    seen = seen.take(pa.array(order[np.searchsorted(there, wanted, sorter=order)]))
    return {name: _different(rows.column(name), seen.column(name)) for name in columns}


def _different(left: pa.ChunkedArray, right: pa.ChunkedArray) -> int:
    if pa.types.is_nested(left.type):  # Arrow compares no lists and structs
        return sum(a != b for a, b in zip(left.to_pylist(), right.to_pylist(), strict=True))
    one_null = pc.xor(pc.is_null(left), pc.is_null(right))
    return int(pc.sum(pc.or_(one_null, pc.fill_null(pc.not_equal(left, right), False)), min_count=0).as_py())
