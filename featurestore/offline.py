"""Runs a plan over the stored files of its groups, with the engine that suits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from featurestore import delta_history, delta_table
from featurestore.engines import as_of, read_only
from featurestore.engines import duckdb as engine
from featurestore.errors import FeatureStoreError, InvalidTime, NotFound, NotReproducible, listed
from featurestore.point_in_time import Plan
from featurestore.query import GroupRef
from featurestore.times import TimeLike, Window, parse_time

if TYPE_CHECKING:
    from featurestore.feature_group import FeatureGroup
    from featurestore.store import FeatureStore

ROWS_TO_STREAM = 100_000
"""Joined groups with fewer rows than this in all are joined by DuckDB: it is then as fast as streaming them."""


def run(
    store: FeatureStore, plan: Plan, versions: Mapping[GroupRef, int], *, start: TimeLike | None,
    end: TimeLike | None, ordered: bool, entities: pa.Table | None,
) -> pa.Table:  # fmt: skip
    """The rows of a plan; arguments and errors as of `FeatureStore.run`."""
    plan = replace(plan, now=plan.now or store.clock())
    first, last = (None if t is None else parse_time(t) for t in (start, end))
    time = plan.spine.event_time
    if time is None and not (first is None and last is None):
        raise InvalidTime(
            f"{plan.spine.ref} has no event time, so its rows cannot be chosen by time. Leave the start and end out."
        )
    if first is not None and last is not None:
        Window.of(first, last)  # refuses an end before the start
    inputs: list[engine.Input] = []
    earliest, joined = first, 0
    for place, source in enumerate(plan.sources):
        if place == 0 and entities is not None:
            inputs.append(entities)
            earliest = None if time is None else pc.min(entities.column(time)).as_py()
            continue
        group = store.group(source.definition.ref)
        snapshot = group.snapshot(source.version if source.version is not None else versions[group.ref])
        timed = source.definition.event_time is not None and time is not None
        # Later than the spine's end nothing can match; earlier than its start everything may, but in the spine.
        files: engine.Input = snapshot.between(first if timed and place == 0 else None, last if timed else None)
        if place == 0:
            lows = [f.low for f in snapshot.files if f.path in set(files)]
            if timed and lows and None not in lows:
                earliest = max([min(lows), *([first] if first else [])])
        elif plan.is_as_known(place):
            files = _past(group, snapshot.version, earliest)
        joined += snapshot.rows if place else 0
        inputs.append(files)
    # The statement is the definition; the other engine gives the same rows sooner, from about this size on.
    streams = plan.is_plain and (joined >= ROWS_TO_STREAM or _has_floats_inside(plan))
    return (as_of if streams else engine).execute(
        plan, inputs, start=first, end=last, ordered=ordered, memory_limit=store.settings.memory_limit,
        threads=store.settings.threads, temp_directory=store.settings.temp_directory,
    )  # fmt: skip


def _has_floats_inside(plan: Plan) -> bool:
    """Whether a joined list or struct holds floats: DuckDB 2.0's as-of join loses the sign of a zero in there."""
    nested = (o.feature.type for o in plan.outputs if o.source and pa.types.is_nested(o.feature.type))
    return any("double" in str(dtype) or "float" in str(dtype) for dtype in nested)


def reads(store: FeatureStore, plan: Plan, versions: Mapping[GroupRef, int]) -> list[str]:
    """What running a plan reads of each group, one line each."""
    lines = []
    for source, columns in zip(plan.sources, plan.needed_columns(), strict=True):
        ref = source.definition.ref
        snapshot = store.group(ref).snapshot(source.version if source.version is not None else versions[ref])
        lines.append(
            f"reads {ref} at Delta version {snapshot.version}: "
            f"{len(snapshot.between())} file(s), {snapshot.rows} row(s), columns {', '.join(columns)}"
        )
    return lines


def plain_sql(store: FeatureStore, query: str) -> pa.Table:
    """The rows of a query over groups by name; errors as of `FeatureStore.sql`."""
    groups = _by_table_name(store)
    tables = {}
    for name, is_own in read_only.tables_of(query).items():
        found = groups.get(name.casefold(), [])
        if len(found) > 1:
            raise FeatureStoreError(
                f"The table {name!r} could be {' or '.join(str(g.ref) for g in found)}. "
                f"Say which: {' or '.join(str(g.ref) for g in found)} are table names too."
            )
        if found:
            tables[name] = (found[0].definition.schema, found[0].snapshot().between())
        elif not is_own:
            raise NotFound(f"The SQL reads {name!r}, which is no feature group. There are: {listed(groups)}.")
    settings = store.settings
    return read_only.run(
        query, tables, memory_limit=settings.memory_limit, threads=settings.threads,
        temp_directory=settings.temp_directory,
    )  # fmt: skip


def _by_table_name(store: FeatureStore) -> dict[str, list[FeatureGroup]]:
    """The groups that have columns, by each name that SQL may call them by: name, name_1 and name_v1."""
    groups = [g for g in store.get_feature_groups() if g.features]
    newest = {g.name: g for g in groups}  # they come by version
    found: dict[str, list[FeatureGroup]] = {name: [g] for name, g in newest.items()}
    for group in groups:
        for name in (f"{group.name}_{group.version}", str(group.ref)):
            found.setdefault(name, []).append(group)
    return found


def _past(group: FeatureGroup, version: int, earliest: datetime | None) -> list[engine.Past]:
    """The files that tell what was known of a group at any time from `earliest` on."""
    found = [
        f for f in delta_history.row_files(group.location, version)
        if earliest is None or f.removed is None or f.removed > earliest
    ]  # fmt: skip
    if gone := delta_table.missing_files(f.path for f in found):
        raise NotReproducible(
            f"What was known of {group.ref} at {earliest or 'every time'} can no longer be told: {len(gone)} of the "
            f"files that held its earlier values are gone, removed by vacuum() or forget(). Read without as_known, "
            "or only rows that are newer than the last correction before that vacuum."
        )
    return [engine.Past(f.path, f.removed) for f in found]
