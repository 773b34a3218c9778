"""Rows that carry the spine's keys and time beside the features, under names no feature can have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from featurestore.point_in_time import Output, Plan
from featurestore.transformation_plan import FittedTransformations

KEY = "__key."


def with_keys(plan: Plan) -> Plan:
    """The plan with the spine's key and time as extra outputs under names of their own."""
    spine = plan.spine
    features = {f.name: f for f in spine.features}
    names = [*spine.primary_key, *([spine.event_time] if spine.event_time else [])]
    extra = tuple(Output(0, n, KEY + n, features[n]) for n in names)
    return replace(plan, outputs=(*extra, *plan.outputs))


def values(rows: pa.Table) -> pa.Table:
    """The rows without their keys."""
    return rows.select([n for n in rows.column_names if not n.startswith(KEY)])


def transform_rows(rows: pa.Table, fitted: FittedTransformations) -> pa.Table:
    """The rows as the model sees them, their keys untouched and still before them."""
    result = fitted.transform(values(rows))
    for name in reversed([n for n in rows.column_names if n.startswith(KEY)]):
        result = result.add_column(0, rows.schema.field(name), rows.column(name))
    return result


def chosen(
    rows: pa.Table, features: Sequence[str], *, keys: Sequence[str] = (), helpers: Sequence[str] = ()
) -> pa.Table:
    """The features, after those of the spine's keys and of the helper columns that are no features themselves."""
    keys = [k for k in keys if k not in features]
    helpers = [h for h in helpers if h not in keys]
    names = [*keys, *helpers, *features]
    picked = rows.select([*(KEY + k for k in keys), *helpers, *features])
    fields = [picked.schema.field(i).with_name(n).with_nullable(n not in keys) for i, n in enumerate(names)]
    return pa.Table.from_arrays(picked.columns, schema=pa.schema(fields))
