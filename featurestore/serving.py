"""Feature vectors: one key's features from the online store, as the training data has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurestore.errors import InvalidData, NotFound, SchemaMismatch
from featurestore.online import OnlineTable, Reader
from featurestore.point_in_time import Plan
from featurestore.schema import Feature
from featurestore.transformations import FittedTransformations

if TYPE_CHECKING:
    from featurestore.feature_group import FeatureGroup
    from featurestore.store import FeatureStore


@dataclass(frozen=True)
class _Lookup:
    """One table the serving reads: which entry names make its key, where its values go."""

    group: FeatureGroup
    table: OnlineTable
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    slots: tuple[int, ...]


@dataclass(frozen=True)
class Serving:
    """A view made ready for single vectors by `FeatureView.init_serving`."""

    view: str
    names: list[str]
    lookups: tuple[_Lookup, ...]
    reader: Reader | None
    keys: tuple[str, ...]
    on_demand: tuple[str, ...]
    features: Mapping[str, Feature]
    transform: Callable[[Sequence[Any]], list[Any]]

    @staticmethod
    def of(store: FeatureStore, view: str, plan: Plan, fitted: FittedTransformations) -> Serving:
        """The lookups of a plan without labels, and the transformations fitted on a training dataset.

        Raises:
            SchemaMismatch: a group that gives features is not online, or is joined in a way its online rows are not.
        """
        names = [o.name for o in plan.outputs]
        lookups = [found for place in range(len(plan.sources)) if (found := _lookup(store, plan, place, names))]
        parts = [(lookup.table, lookup.columns) for lookup in lookups]
        return Serving(
            view=view, names=names, lookups=tuple(lookups), reader=store.online.reader(parts) if parts else None,
            keys=tuple(dict.fromkeys(k for lookup in lookups for k in lookup.keys)),
            on_demand=tuple(o.name for o in plan.outputs if o.feature.on_demand),
            features={o.name: o.feature for o in plan.outputs}, transform=fitted.compile(names),
        )  # fmt: skip

    def vectors(
        self, entries: Sequence[Mapping[str, Any]], passed_features: Sequence[Mapping[str, Any]] | None, *,
        transform: bool, allow_missing: bool,
    ) -> list[list[Any]]:  # fmt: skip
        """As many vectors as entries, in their order; `passed_features` has one mapping per entry."""
        passed = passed_features if passed_features is not None else [{}] * len(entries)
        if len(passed) != len(entries):
            raise InvalidData(f"{len(entries)} entries but {len(passed)} passed_features; give one for each entry.")
        keys = [self._keys(entry) for entry in entries]
        rows = self.reader.many(keys) if self.reader is not None else [[] for _ in entries]
        vectors = []
        for entry, found, values in zip(entries, rows, passed, strict=True):
            vector: list[Any] = [None] * len(self.names)
            for lookup, row in zip(self.lookups, found, strict=True):
                if row is not None and lookup.group.counts(row[0]):
                    for slot, value in zip(lookup.slots, row[1:], strict=True):
                        vector[slot] = value
                elif not allow_missing and not all(self.names[s] in values for s in lookup.slots):
                    shown = {k: entry[k] for k in lookup.keys}
                    raise NotFound(
                        f"{lookup.group.ref} has no current row online for {shown}. "
                        "Use allow_missing=True for nulls, or pass its features with the request."
                    )
            self._overlay(vector, values, allow_missing)
            vectors.append(self.transform(vector) if transform else vector)
        return vectors

    def _keys(self, entry: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        missing = [k for k in self.keys if k not in entry]
        unknown = [k for k in entry if k not in self.keys]
        if missing or unknown:
            raise SchemaMismatch(
                f"{self.view} is looked up by {list(self.keys)}; the entry "
                + " and ".join(
                    p
                    for p in (f"lacks {missing}" if missing else "", f"has the unknown {unknown}" if unknown else "")
                    if p
                )
                + "."
            )
        return [tuple(entry[k] for k in lookup.keys) for lookup in self.lookups]

    def _overlay(self, vector: list[Any], passed: Mapping[str, Any], allow_missing: bool) -> None:
        if unknown := [n for n in passed if n not in self.names]:
            raise SchemaMismatch(f"passed_features {unknown} are no features of {self.view}; it has {self.names}.")
        if not allow_missing and (missing := [n for n in self.on_demand if n not in passed]):
            raise SchemaMismatch(
                f"The features {missing} of {self.view} come with each request: put them in passed_features."
            )
        for name, value in passed.items():
            null = value is None or value != value
            vector[self.names.index(name)] = None if null else _passed(self.features[name], value)


def _lookup(store: FeatureStore, plan: Plan, place: int, names: list[str]) -> _Lookup | None:
    source = plan.sources[place]
    outputs = [o for o in plan.outputs if o.source == place and not o.feature.on_demand]
    if not outputs:
        return None
    group = store.group(source.definition.ref)
    if not group.online_enabled:
        raise SchemaMismatch(
            f"{group.ref} gives the features {[o.name for o in outputs]} but is not online. Create it with "
            "online_enabled=True, or declare them Feature(..., on_demand=True) and pass them with each request."
        )
    if source.parent > 0:
        raise SchemaMismatch(
            f"{group.ref} is joined to {plan.sources[source.parent].definition.ref}, whose row gives its "
            "key; serving looks up groups joined to the left-most group only."
        )
    if place and (source.row_filter is not None or source.version is not None):
        raise SchemaMismatch(
            f"{group.ref} is joined with a filter or as of a version, which its online rows do not have, so "
            "vectors would differ from the training data. Filter in the feature pipeline, into a group of its own."
        )
    group.sync_online()
    names_by_key = {right: left for left, right in source.keys} if place else {k: k for k in group.primary_key}
    return _Lookup(
        group, group.online_table(), tuple(names_by_key[k] for k in group.primary_key),
        tuple(o.column for o in outputs), tuple(names.index(o.name) for o in outputs),
    )  # fmt: skip


def _passed(feature: Feature, value: Any) -> Any:
    """A value of a request as training has it: 5 is 5.0 in a column of floats, and text is no number."""
    dtype = feature.type
    number = not isinstance(value, bool)
    if pa.types.is_floating(dtype):
        if number and isinstance(value, Real):
            return float(value)
    elif pa.types.is_integer(dtype):
        if number and isinstance(value, Integral):
            return int(value)
    elif not pa.types.is_string(dtype) or isinstance(value, str):
        return value
    raise SchemaMismatch(
        f"passed_features: {feature.name!r} is {feature.dtype}, got {value!r} ({type(value).__name__})."
    )
