"""What a feature view promises: its query, labels, helper columns and transformations, as the catalog keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from featurestore.errors import SchemaMismatch
from featurestore.point_in_time import Definition
from featurestore.point_in_time import plan as plan_of
from featurestore.query import GroupRef, Query
from featurestore.transformation_spec import parse


def view_definition(
    query: Query, groups: Mapping[GroupRef, Definition], *, labels: Sequence[str] = (),
    transformation_functions: Any = None, training_helper_columns: Sequence[str] = (),
    inference_helper_columns: Sequence[str] = (), description: str = "", logging_enabled: bool = False,
    tags: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The checked definition of a view, JSON-ready.

    Args:
        groups: what the plan must know of the query's groups.
        The others are those of `FeatureStore.get_or_create_feature_view`.
    Raises:
        SchemaMismatch: a label, helper or transformed column that the query does not give, or a helper column
            that is a label, or is transformed.
    """
    plan = plan_of(query, groups)
    names = [o.name for o in plan.outputs]
    helpers = {"training": list(training_helper_columns), "inference": list(inference_helper_columns)}
    for what, columns in (("labels", labels), *((f"{k} helper columns", v) for k, v in helpers.items())):
        if unknown := [n for n in columns if n not in names]:
            raise SchemaMismatch(f"The {what} {unknown} are not among the query's columns {names}.")
        if repeated := sorted({n for n in columns if list(columns).count(n) > 1}):
            raise SchemaMismatch(f"The {what} name {repeated} more than once.")
    helping = [*helpers["training"], *helpers["inference"]]
    if both := [n for n in labels if n in helping]:
        raise SchemaMismatch(f"{both} are both labels and helper columns. A label is known in training as it is.")
    if all(n in labels or n in helping for n in names):
        raise SchemaMismatch(f"No feature is left: of the query's columns {names} all are labels or helpers.")
    features = [replace(o.feature, name=o.name) for o in plan.outputs]
    transformations = parse(transformation_functions, features, labels=list(labels))
    for step in transformations.steps:
        if touched := [n for n in helping if n == step.output or n in step.inputs or n in step.drop]:
            raise SchemaMismatch(
                f"{step} reads or replaces the helper column {touched[0]!r}, and helper columns are neither "
                "features nor transformed. Take it off the helper columns, or out of the transformations."
            )
    return {
        "query": query.to_json(), "labels": list(labels), "transformations": transformations.to_json(),
        "training_helper_columns": helpers["training"], "inference_helper_columns": helpers["inference"],
        "description": description, "logging_enabled": logging_enabled, "tags": dict(tags or {}),
    }  # fmt: skip
