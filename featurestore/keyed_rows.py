"""Rows that carry the spine's keys and time beside the features, under names no feature can have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from featurestore.errors import SchemaMismatch
from featurestore.point_in_time import Output, Plan
from featurestore.schema import DataFrameType, Feature, as_arrow, conform, to_frame
from featurestore.transformations import FittedTransformations

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


def transform_frame(frame: Any, features: Sequence[Feature], fitted: FittedTransformations) -> Any:
    """A frame's features as the model sees them, in order, behind its other columns; a frame of the same library.

    Raises:
        SchemaMismatch: a feature is missing or of another type.
    """
    table = as_arrow(frame)
    names = [f.name for f in features]
    if missing := [n for n in names if n not in table.column_names]:
        raise SchemaMismatch(f"transform: the frame lacks {missing}; the view's features are {names}.")
    rows = fitted.transform(conform(table.select(names), features, what="transform"))
    for name in reversed([n for n in table.column_names if n not in names]):
        if name in rows.column_names:
            raise SchemaMismatch(
                f"transform: the frame's column {name!r} has the name of a transformed feature. Drop it."
            )
        column = table.column(name)
        rows = rows.add_column(0, table.schema.field(name).with_nullable(column.null_count > 0), column)
    library = type(frame).__module__.split(".")[0]
    kind: DataFrameType = "pandas" if library == "pandas" else "polars" if library == "polars" else "arrow"
    return to_frame(rows, kind, nullable=True)


def transform_vectors(vectors: Any, names: Sequence[str], fitted: FittedTransformations) -> Any:
    """One vector, as a list in the order of `names` or as a dict, or a list of vectors; the same comes back.

    Raises:
        SchemaMismatch: a vector with other names, or of another length.
    """
    outputs, transform = fitted.output_names_for(names), fitted.compile(names)

    def one(vector: Any) -> Any:
        if isinstance(vector, Mapping):
            if set(vector) != set(names):
                raise SchemaMismatch(f"transform: a vector has the features {list(vector)}, expected {list(names)}.")
            return dict(zip(outputs, transform([vector[n] for n in names]), strict=True))
        if len(vector) != len(names):
            raise SchemaMismatch(
                f"transform: a vector has {len(vector)} values, expected the {len(names)} of {list(names)}."
            )
        return transform(vector)

    several = not isinstance(vectors, Mapping) and len(vectors) and isinstance(vectors[0], Mapping | list | tuple)
    return [one(v) for v in vectors] if several else one(vectors)


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
