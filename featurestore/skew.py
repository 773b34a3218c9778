"""Skew: whether the online store gives for a key what the offline store gives for it, to the bit."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurestore.errors import InvalidData
from featurestore.findings import Finding
from featurestore.point_in_time import Definition, Output, Plan, Source
from featurestore.query import GroupRef
from featurestore.schema import TIMESTAMP, Feature
from featurestore.serving import Lookup, Serving
from featurestore.times import from_micros
from featurestore.transformation_plan import FittedTransformations

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

_EXAMPLES = 3
_Compared = tuple[Mapping[str, Any], Any, Any]


def check(store: FeatureStore, view: str, plan: Plan, fitted: FittedTransformations, *, sample: int) -> list[Finding]:
    """Compare vectors of some keys with the rows that the offline store gives for them, as of what is online.

    Args:
        plan: the view's plan without labels and helper columns.
        sample: of how many keys; the same ones each time, as long as the keys stay the same.
    Returns:
        Errors: a table that was never written, and values that differ. Warnings: a table behind its Delta version, and
        rows older than their ttl. Infos: keys without a row. Empty when there is nothing to say.
    """
    if sample < 1:
        raise InvalidData(f"sample is {sample}: expected a number of keys, from 1.")
    now = store.now_micros()  # once, or a row might expire between the two sides
    serving = Serving(store, view, plan, fitted, now=now, catch_up=False)
    held = {lookup.group.ref: store.online.version(lookup.table) for lookup in serving.lookups}
    found = list(_lags(serving.lookups, held))
    versions = {ref: version for ref, version in held.items() if version is not None}
    if serving.lookups and len(versions) == len(held):
        keys = _sampled(store, plan, serving.keys, sample)
        moment = from_micros(now)
        offline = store.run(_at_present(serving, keys), versions, entities=_entities(keys, moment))
        entries = keys.to_pylist()
        online = serving.vectors(entries, None, {}, transform=False, allow_missing=True)
        found += _differing_values(serving, entries, online, offline)
        found += _absent(serving, entries)
        if not serving.on_demand and not serving.request_parameters:
            found += _differing_transformations(serving, entries, offline.select(serving.names), fitted)
    return sorted(found, key=lambda f: ("error", "warning", "info").index(f.severity))


def _lags(lookups: Sequence[Lookup], held: Mapping[GroupRef, int | None]) -> Iterator[Finding]:
    for group in {lookup.group.ref: lookup.group for lookup in lookups}.values():
        version, newest = held[group.ref], group.delta_version
        if version is None:
            yield Finding(
                "error", f"feature group {group.ref}", "Its online table was never written.",
                "init_serving() writes it.",
            )  # fmt: skip
        elif version != newest:
            yield Finding(
                "warning", f"feature group {group.ref}",
                f"Its online table holds Delta version {version}, the newest is {newest}: vectors lag behind.",
                "init_serving(), or the next insert, brings it up.",
            )  # fmt: skip


def _sampled(store: FeatureStore, plan: Plan, names: Sequence[str], sample: int) -> pa.Table:
    """Distinct serving keys of the view's rows, without nulls: some of them, in a fixed order."""
    features = {f.name: f for f in plan.spine.features}
    outputs = tuple(Output(0, name, name, features[name]) for name in names)
    spine = Plan(plan.sources[:1], outputs)
    ref = plan.spine.ref
    rows = store.run(spine, {ref: store.group(ref).delta_version}, ordered=False).drop_null()
    keys = rows.group_by(list(names)).aggregate([]).sort_by([(name, "ascending") for name in names])
    if keys.num_rows <= sample:
        return keys
    return keys.take(pa.array(sorted(random.Random(0).sample(range(keys.num_rows), sample))))


def _at_present(serving: Serving, keys: pa.Table) -> Plan:
    """The plan that gives each key's newest row of every table at one time, and when that row happened."""
    columns = {name: f"key{place}" for place, name in enumerate(keys.column_names)}
    spine = Definition(
        GroupRef("sampled_keys", 1),
        (Feature("row", "bigint"), Feature("time", "timestamp"), *(
            Feature(columns[f.name], f.type) for f in keys.schema
        )),
        ("row",), "time",
    )  # fmt: skip
    sources, outputs = [Source(spine)], []
    for place, lookup in enumerate(serving.lookups, start=1):
        definition = lookup.group.point_in_time_definition()
        pairs = zip(lookup.keys, definition.primary_key, strict=True)
        match = "key" if definition.event_time is None else "as of"
        sources.append(Source(definition, 0, tuple((columns[a], b) for a, b in pairs), match))  # type: ignore[arg-type]  # mypy widens the two texts
        features = {f.name: f for f in definition.features}
        outputs += [
            Output(place, column, serving.names[slot], features[column])
            for column, slot in zip(lookup.columns, lookup.slots, strict=True)
        ]
    return Plan(tuple(sources), tuple(outputs))


def _entities(keys: pa.Table, moment: datetime) -> pa.Table:
    named = keys.rename_columns([f"key{place}" for place in range(keys.num_columns)])
    rows = pa.array(range(keys.num_rows), pa.int64())
    return named.append_column("row", rows).append_column("time", pa.repeat(pa.scalar(moment, TIMESTAMP), len(rows)))


def _absent(serving: Serving, entries: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    absent = list(serving.absent(entries))
    for lookup in serving.lookups:
        mine = [(entry, time) for found, entry, time in absent if found is lookup]
        expired = [(entry, time) for entry, time in mine if time is not None]
        missing = [entry for entry, time in mine if time is None]
        group = lookup.group
        if expired:
            (entry, time), ttl = expired[0], group.definition.ttl
            shown = {k: entry[k] for k in lookup.keys}
            yield Finding(
                "warning", f"feature group {group.ref}",
                f"The newest rows of {len(expired)} of {len(entries)} keys are older than the ttl {ttl}, such as that "
                f"of {shown}, of {from_micros(time)}: their features are null.",
                "Run the feature pipeline, or allow a longer ttl in the group's next version.",
            )  # fmt: skip
        if missing:
            shown = {k: missing[0][k] for k in lookup.keys}
            yield Finding(
                "info", f"feature group {group.ref}",
                f"{len(missing)} of {len(entries)} keys have no row, neither online nor offline, such as {shown}.",
            )  # fmt: skip


def _differing_values(
    serving: Serving, entries: Sequence[Mapping[str, Any]], online: Sequence[Sequence[Any]], offline: pa.Table
) -> Iterator[Finding]:
    for name in offline.column_names:
        values = [vector[serving.names.index(name)] for vector in online]
        yield from _differing(
            f"feature {name!r}", zip(entries, values, offline.column(name).to_pylist(), strict=True),
            "Somebody wrote one side alone: drop the online table, then init_serving() rebuilds it from Delta.",
        )  # fmt: skip


def _differing_transformations(
    serving: Serving, entries: Sequence[Mapping[str, Any]], raw: pa.Table, fitted: FittedTransformations
) -> Iterator[Finding]:
    """Where the same values give something else as a vector than as a row of a frame."""
    frame = fitted.transform(raw)
    vectors = [serving.transform(list(row.values())) for row in raw.to_pylist()]
    for place, (name, column) in enumerate(zip(frame.column_names, frame.columns, strict=True)):
        values = [vector[place] for vector in vectors]
        yield from _differing(
            f"transformed feature {name!r}", zip(entries, values, column.to_pylist(), strict=True),
            "Its function looks at more than the row: compute from the row alone.",
        )  # fmt: skip


def _differing(subject: str, compared: Iterable[_Compared], remedy: str) -> Iterator[Finding]:
    rows = list(compared)
    differing = [row for row in rows if bits(row[1]) != bits(row[2])]
    if differing:
        shown = "; ".join(f"{dict(key)}: online {a!r}, offline {b!r}" for key, a, b in differing[:_EXAMPLES])
        more = f", and {len(differing) - _EXAMPLES} more" if len(differing) > _EXAMPLES else ""
        yield Finding("error", subject, f"{len(differing)} of {len(rows)} keys differ: {shown}{more}.", remedy)


def bits(value: Any) -> Any:
    """Something that is equal for equal bits alone: 0.0 is not -0.0, 1 is not 1.0."""
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, Mapping):
        return {k: bits(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [bits(v) for v in value]
    return (type(value), str(value) if isinstance(value, Decimal) else value)
