"""A feature view: the features one model needs, for training, batch scoring and single vectors alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.metadata import version as installed_version
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurestore import splits
from featurestore.errors import InvalidData, NotFound, NotReproducible, SchemaMismatch
from featurestore.online import OnlineTable, Reader
from featurestore.point_in_time import Output, Plan
from featurestore.point_in_time import plan as plan_of
from featurestore.query import Filter, GroupRef, Query, filter_from_json, query_from_json
from featurestore.schema import DataFrameType, Feature, to_frame
from featurestore.splits import RandomSplit, Split, TimeSplit, split_from_json
from featurestore.times import TimeLike
from featurestore.training_dataset import TrainingDataset, combined_hash, content_hash
from featurestore.transformations import FittedTransformations, TransformationPlan, parse

if TYPE_CHECKING:
    from featurestore.feature_group import FeatureGroup
    from featurestore.store import FeatureStore

_KEY = "__key."
_ALL = "all"
_LIBRARIES = ("deltalake", "duckdb", "numpy", "pyarrow")


@dataclass(frozen=True)
class _Lookup:
    """One table the serving reads: which entry names make its key, where its values go."""

    group: FeatureGroup
    table: OnlineTable
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    slots: tuple[int, ...]


@dataclass(frozen=True)
class _Serving:
    names: list[str]
    lookups: tuple[_Lookup, ...]
    reader: Reader | None
    keys: tuple[str, ...]
    on_demand: tuple[str, ...]
    features: Mapping[str, Feature]
    transform: Callable[[Sequence[Any]], list[Any]]


class FeatureView:
    """A query with labels and transformations. Get one from `FeatureStore.get_or_create_feature_view`."""

    def __init__(
        self, store: FeatureStore, identifier: str, name: str, version: int, definition: dict[str, Any]
    ) -> None:
        self._store = store
        self.id = identifier
        self.name = name
        self.version = version
        self.description: str = definition["description"]
        self.labels: list[str] = definition["labels"]
        self.query = query_from_json(definition["query"], store)
        self.transformations = TransformationPlan.from_json(definition["transformations"])
        self._batch_version: int | None = None
        self._serving: _Serving | None = None
        self._serving_version: int | None = None

    @staticmethod
    def define(
        store: FeatureStore, query: Query, labels: Sequence[str], transformation_functions: Any, description: str
    ) -> dict[str, Any]:
        """A checked definition for the catalog.

        Raises:
            SchemaMismatch: a label or a transformed column that the query does not give.
        """
        plan = plan_of(query, store.definitions(query))
        names = [o.name for o in plan.outputs]
        if unknown := [n for n in labels if n not in names]:
            raise SchemaMismatch(f"The labels {unknown} are not among the query's columns {names}.")
        features = [replace(o.feature, name=o.name) for o in plan.outputs]
        transformations = parse(transformation_functions, features, labels=list(labels))
        return {
            "query": query.to_json(), "labels": list(labels), "transformations": transformations.to_json(),
            "description": description,
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"FeatureView({self.name!r}, version={self.version})"

    # Names

    def _plan(self, *, labels: bool) -> Plan:
        plan = plan_of(self.query, self._store.definitions(self.query))
        return plan if labels else plan.without(self.labels)

    @property
    def features(self) -> list[Feature]:
        """The untransformed features, in order, without labels."""
        return [replace(o.feature, name=o.name) for o in self._plan(labels=True).outputs if o.name not in self.labels]

    @property
    def feature_names(self) -> list[str]:
        """Names of the model's inputs, in order: transformed as the training dataset in use does (else the newest)."""
        fitted = self._fitted(self._serving_version or self._batch_version or self._newest())
        return fitted.output_names_for([f.name for f in self.features])

    def delta_versions(self) -> dict[str, int]:
        """The Delta version each group of the view has now, by `<name>_v<version>`."""
        return {str(ref): v for ref, v in self._store.versions(self.query).items()}

    # Training data

    def create_training_data(
        self, *, start_time: TimeLike | None = None, end_time: TimeLike | None = None, description: str = "",
        extra_filter: Filter | None = None,
    ) -> tuple[int, None]:  # fmt: skip
        """Pin all labelled rows (of `[start_time, end_time)`) as one new training dataset; return its version."""
        return self._create(None, description, extra_filter, start_time, end_time), None

    def create_train_test_split(
        self, test_size: float | None = None, *, train_start: TimeLike | None = None,
        train_end: TimeLike | None = None, test_start: TimeLike | None = None, test_end: TimeLike | None = None,
        description: str = "", extra_filter: Filter | None = None, seed: int = 42,
        embargo: timedelta | None = None, entity: str | Sequence[str] | None = None,
    ) -> tuple[int, None]:  # fmt: skip
        """Pin a training and a test set, at random by `test_size` or by time; return the version.

        Raises:
            InvalidData, InvalidTime: sizes or windows that cannot be, or a split without rows.
        """
        if test_size is not None:
            split: Split = RandomSplit(test_size, None, seed, entity)
        else:
            split = TimeSplit(
                train_start=train_start, train_end=train_end, test_start=test_start, test_end=test_end,
                embargo=embargo, entity=entity,
            )  # fmt: skip
        return self._create(split, description, extra_filter), None

    def create_train_validation_test_split(
        self, validation_size: float | None = None, test_size: float | None = None, *,
        train_start: TimeLike | None = None, train_end: TimeLike | None = None,
        validation_start: TimeLike | None = None, validation_end: TimeLike | None = None,
        test_start: TimeLike | None = None, test_end: TimeLike | None = None, description: str = "",
        extra_filter: Filter | None = None, seed: int = 42, embargo: timedelta | None = None,
        entity: str | Sequence[str] | None = None,
    ) -> tuple[int, None]:  # fmt: skip
        """Pin a training, a validation and a test set, at random by sizes or by time; return the version."""
        if validation_size is not None and test_size is not None:
            split: Split = RandomSplit(test_size, validation_size, seed, entity)
        elif validation_size is None and test_size is None:
            split = TimeSplit(
                train_start=train_start, train_end=train_end, validation_start=validation_start,
                validation_end=validation_end, test_start=test_start, test_end=test_end, embargo=embargo,
                entity=entity, validation=True,
            )  # fmt: skip
        else:
            raise InvalidData("Give both validation_size and test_size, or neither of them and times.")
        return self._create(split, description, extra_filter), None

    def training_data(self, *, dataframe_type: DataFrameType = "pandas", **options: Any) -> tuple[Any, Any]:
        """`X, y` of all labelled rows, registered as a new version; options as in `create_training_data`."""
        version, _ = self.create_training_data(**options)
        return self.get_training_data(version, dataframe_type=dataframe_type)

    def train_test_split(
        self, test_size: float | None = None, *, dataframe_type: DataFrameType = "pandas", **options: Any
    ) -> tuple[Any, ...]:
        """`X_train, X_test, y_train, y_test`, registered as a new version; options as in `create_train_test_split`."""
        version, _ = self.create_train_test_split(test_size, **options)
        return self.get_train_test_split(version, dataframe_type=dataframe_type)

    def train_validation_test_split(
        self, validation_size: float | None = None, test_size: float | None = None, *,
        dataframe_type: DataFrameType = "pandas", **options: Any,
    ) -> tuple[Any, ...]:  # fmt: skip
        """`X_train, X_val, X_test, y_train, y_val, y_test`, registered as a new version."""
        version, _ = self.create_train_validation_test_split(validation_size, test_size, **options)
        return self.get_train_validation_test_split(version, dataframe_type=dataframe_type)

    def get_training_data(self, version: int, **frames: Any) -> tuple[Any, Any]:
        """`X, y` of a training dataset, the same bytes as when it was made."""
        return self._frames(version, (_ALL,), **frames)

    def get_train_test_split(self, version: int, **frames: Any) -> tuple[Any, ...]:
        """`X_train, X_test, y_train, y_test` of a training dataset, the same bytes as when it was made.

        `primary_keys=True` and `event_time=True` put the spine's key and time columns before the features.
        """
        return self._frames(version, (splits.TRAIN, splits.TEST), **frames)

    def get_train_validation_test_split(self, version: int, **frames: Any) -> tuple[Any, ...]:
        """`X_train, X_val, X_test, y_train, y_val, y_test` of a training dataset."""
        return self._frames(version, (splits.TRAIN, splits.VALIDATION, splits.TEST), **frames)

    def training_datasets(self) -> list[TrainingDataset]:
        """All training datasets of this view, oldest first."""
        found = self._store.catalog.training_datasets(self.id)
        return [TrainingDataset(self.name, self.version, v, m) for v, m in found.items()]

    def training_dataset(self, version: int) -> TrainingDataset:
        """One training dataset: its pins, hash, split and rows.

        Raises:
            NotFound: there is no such version.
        """
        found = self._store.catalog.training_datasets(self.id)
        if version not in found:
            raise NotFound(
                f"{self.name} version {self.version} has no training dataset {version} "
                f"(versions: {', '.join(map(str, found)) or 'none yet'}). Make one with create_train_test_split(...)."
            )
        return TrainingDataset(self.name, self.version, version, found[version])

    def verify_training_dataset(self, version: int) -> TrainingDataset:
        """Build the training dataset again from its pins and compare the bytes.

        Raises:
            NotReproducible: a pinned version cannot be read any more, or gives other bytes.
        """
        dataset = self.training_dataset(version)
        self._parts(dataset)
        return dataset

    def delete_training_dataset(self, version: int) -> None:
        """Forget a training dataset and release its pins."""
        self.training_dataset(version)
        self._store.catalog.remove_training_dataset(self.id, version)

    def _create(
        self, split: Split | None, description: str, extra_filter: Filter | None,
        start: TimeLike | None = None, end: TimeLike | None = None,
    ) -> int:  # fmt: skip
        versions = self._store.versions(self.query)
        recipe: dict[str, Any] = {
            "groups": {
                str(ref): {
                    "name": ref.name, "version": ref.version, "delta_version": pinned,
                    "table_id": self._store.table_id(ref),
                }
                for ref, pinned in versions.items()
            },
            "query": self.query.to_json(), "labels": self.labels,
            "extra_filter": None if extra_filter is None else extra_filter.to_json(),
            "split": split and split.to_json(), "seed": getattr(split, "seed", None),
            "start": None if start is None else str(start), "end": None if end is None else str(end),
        }  # fmt: skip
        raw = self._raw_parts(recipe)
        train = next(iter(raw.values()))
        fitted = self.transformations.fit(train.select([n for n in train.column_names if not n.startswith(_KEY)]))
        parts = {name: self._transformed(part, fitted) for name, part in raw.items()}
        hashes = {name: content_hash(part) for name, part in parts.items()}
        manifest = recipe | {
            "description": description, "created_by": self._store.settings.who,
            "created_at": self._store.clock().isoformat(), "transformations": fitted.to_json(),
            "libraries": {name: installed_version(name) for name in _LIBRARIES},
            "splits": {name: {"rows": part.num_rows, "content_hash": hashes[name]} for name, part in parts.items()},
            "content_hash": combined_hash(hashes),
        }  # fmt: skip
        return self._store.catalog.add_training_dataset(self.id, manifest)

    def _raw_parts(self, recipe: Mapping[str, Any]) -> dict[str, pa.Table]:
        """The untransformed rows of each split, from the pinned versions."""
        pins = {GroupRef(p["name"], p["version"]): p["delta_version"] for p in recipe["groups"].values()}
        plan = _with_keys(self._plan(labels=True))
        extra = filter_from_json(recipe["extra_filter"])
        if extra is not None:
            plan = replace(plan, result_filter=extra if plan.result_filter is None else plan.result_filter & extra)
        rows = self._store.run(plan, pins, start=recipe["start"], end=recipe["end"])
        if recipe["split"] is None:
            if not rows.num_rows:
                raise InvalidData(f"{self.name}: no labelled rows to train on. Insert some, or widen the time range.")
            return {_ALL: rows}
        spine = plan.spine
        time = None if spine.event_time is None else _KEY + spine.event_time
        positions = splits.assign(
            split_from_json(recipe["split"]), rows, primary_key=[_KEY + k for k in spine.primary_key], event_time=time
        )
        return {name: rows.take(pa.array(where)) for name, where in positions.items()}

    def _transformed(self, part: pa.Table, fitted: FittedTransformations) -> pa.Table:
        keys = [n for n in part.column_names if n.startswith(_KEY)]
        values = fitted.transform(part.select([n for n in part.column_names if n not in keys]))
        for name in reversed(keys):
            values = values.add_column(0, part.schema.field(name), part.column(name))
        return values

    def _parts(self, dataset: TrainingDataset) -> dict[str, pa.Table]:
        fitted = FittedTransformations.from_json(dataset.manifest["transformations"])
        parts = {name: self._transformed(raw, fitted) for name, raw in self._raw_parts(dataset.manifest).items()}
        for name, part in parts.items():
            recorded = dataset.manifest["splits"][name]["content_hash"]
            if (found := content_hash(part)) != recorded:
                raise NotReproducible(
                    f"Training dataset {dataset.version} of {self.name}: the {name} split has the hash {found[:12]}, "
                    f"recorded was {recorded[:12]}. The pinned data or a library changed "
                    f"({dataset.manifest['libraries']} made it)."
                )
        return parts

    def _frames(
        self, version: int, names: Sequence[str], *, dataframe_type: DataFrameType = "pandas",
        primary_keys: bool = False, event_time: bool = False,
    ) -> tuple[Any, ...]:  # fmt: skip
        parts = self._parts(self.training_dataset(version))
        if set(parts) != set(names):
            raise InvalidData(
                f"Training dataset {version} of {self.name} has the splits {list(parts)}, asked for {list(names)}. "
                "Use the get_... method of the same name as the create_... method that made it."
            )
        fitted = self._fitted(version)
        labels = [o for name in self.labels for o in fitted.outputs_of(name)]
        spine = self._plan(labels=True).spine
        xs, ys = [], []
        for name in names:
            part = parts[name]
            features = [n for n in part.column_names if n not in labels and not n.startswith(_KEY)]
            xs.append(to_frame(_keyed(part, features, spine, primary_keys, event_time), dataframe_type, nullable=True))
            ys.append(to_frame(part.select(labels), dataframe_type, nullable=True) if labels else None)
        return (*xs, *ys)

    def _newest(self) -> int:
        found = self._store.catalog.training_datasets(self.id)
        if not found:
            raise NotFound(
                f"{self.name} version {self.version} has no training dataset yet, so nothing was fitted. "
                "Make one with create_train_test_split(...) first."
            )
        return max(found)

    def _fitted(self, version: int) -> FittedTransformations:
        return FittedTransformations.from_json(self.training_dataset(version).manifest["transformations"])

    # Batch scoring

    def init_batch_scoring(self, training_dataset_version: int | None = None) -> None:
        """Choose the training dataset whose fitted transformations batch data get (default: the newest)."""
        version = self._newest() if training_dataset_version is None else training_dataset_version
        self.training_dataset(version)
        self._batch_version = version

    def get_batch_data(
        self, start_time: TimeLike | None = None, end_time: TimeLike | None = None, *, transformed: bool = True,
        primary_keys: bool = False, event_time: bool = False, dataframe_type: DataFrameType = "pandas",
    ) -> Any:  # fmt: skip
        """The features of the spine's rows in `[start_time, end_time)`, without labels.

        Groups that only give labels are left out: when a row is scored its label is not known. Columns, order and
        dtypes are those of the training data.
        """
        if transformed and self._batch_version is None:
            self.init_batch_scoring()
        plan = _with_keys(self._plan(labels=False))
        rows = self._store.run(plan, self._store.versions(self.query), start=start_time, end=end_time)
        if transformed and self._batch_version is not None:
            rows = self._transformed(rows, self._fitted(self._batch_version))
        features = [n for n in rows.column_names if not n.startswith(_KEY)]
        return to_frame(_keyed(rows, features, plan.spine, primary_keys, event_time), dataframe_type, nullable=True)

    # Online serving

    def init_serving(self, training_dataset_version: int | None = None) -> None:
        """Prepare single vectors with the fitted transformations of a training dataset (default: the newest).

        Raises:
            SchemaMismatch: a group that gives features is not online.
        """
        version = self._newest() if training_dataset_version is None else training_dataset_version
        fitted = self._fitted(version)
        self._serving_version = version
        plan = self._plan(labels=False)
        names = [o.name for o in plan.outputs]
        lookups = [
            found for place in range(len(plan.sources)) if (found := self._lookup(plan, place, names)) is not None
        ]
        parts = [(lookup.table, lookup.columns) for lookup in lookups]
        self._serving = _Serving(
            names=names, lookups=tuple(lookups), reader=self._store.online.reader(parts) if parts else None,
            keys=tuple(dict.fromkeys(k for lookup in lookups for k in lookup.keys)),
            on_demand=tuple(o.name for o in plan.outputs if o.feature.on_demand),
            features={o.name: o.feature for o in plan.outputs}, transform=fitted.compile(names),
        )  # fmt: skip

    def _lookup(self, plan: Plan, place: int, names: list[str]) -> _Lookup | None:
        source = plan.sources[place]
        outputs = [o for o in plan.outputs if o.source == place and not o.feature.on_demand]
        if not outputs:
            return None
        group = self._store.group(source.definition.ref)
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

    @property
    def serving_keys(self) -> list[str]:
        """The entry names a vector is looked up by."""
        return list(self._ready().keys)

    def get_feature_vector(
        self, entry: Mapping[str, Any], *, passed_features: Mapping[str, Any] | None = None, transform: bool = True,
        allow_missing: bool = False,
    ) -> list[Any]:  # fmt: skip
        """The model's inputs for one key, in the order and with the values of the training data.

        Args:
            entry: the serving keys, such as `{"cc_num": "4111"}`.
            passed_features: values that come with the request; on-demand features must be among them. They also
                replace looked-up values.
            allow_missing: nulls for a key that has no row, instead of `NotFound`.
        Raises:
            SchemaMismatch: a serving key or an on-demand feature is missing, a name is unknown, or a value is of
                another type.
            NotFound: the key has no row online that still counts.
        """
        return self.get_feature_vectors(
            [entry], passed_features=None if passed_features is None else [passed_features], transform=transform,
            allow_missing=allow_missing,
        )[0]  # fmt: skip

    def get_feature_vectors(
        self, entries: Sequence[Mapping[str, Any]], *, passed_features: Sequence[Mapping[str, Any]] | None = None,
        transform: bool = True, allow_missing: bool = False,
    ) -> list[list[Any]]:  # fmt: skip
        """Vectors of many keys: as many as entries, in their order; `passed_features` has one mapping per entry."""
        serving = self._ready()
        passed = passed_features if passed_features is not None else [{}] * len(entries)
        if len(passed) != len(entries):
            raise InvalidData(f"{len(entries)} entries but {len(passed)} passed_features; give one for each entry.")
        keys = [self._keys(serving, entry) for entry in entries]
        rows = serving.reader.many(keys) if serving.reader is not None else [[] for _ in entries]
        vectors = []
        for entry, found, values in zip(entries, rows, passed, strict=True):
            vector: list[Any] = [None] * len(serving.names)
            for lookup, row in zip(serving.lookups, found, strict=True):
                if row is not None and lookup.group.counts(row[0]):
                    for slot, value in zip(lookup.slots, row[1:], strict=True):
                        vector[slot] = value
                elif not allow_missing and not all(serving.names[s] in values for s in lookup.slots):
                    shown = {k: entry[k] for k in lookup.keys}
                    raise NotFound(
                        f"{lookup.group.ref} has no current row online for {shown}. "
                        "Use allow_missing=True for nulls, or pass its features with the request."
                    )
            self._overlay(serving, vector, values, allow_missing)
            vectors.append(serving.transform(vector) if transform else vector)
        return vectors

    def _keys(self, serving: _Serving, entry: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        missing = [k for k in serving.keys if k not in entry]
        unknown = [k for k in entry if k not in serving.keys]
        if missing or unknown:
            raise SchemaMismatch(
                f"{self.name} is looked up by {list(serving.keys)}; the entry "
                + " and ".join(
                    p
                    for p in (f"lacks {missing}" if missing else "", f"has the unknown {unknown}" if unknown else "")
                    if p
                )
                + "."
            )
        return [tuple(entry[k] for k in lookup.keys) for lookup in serving.lookups]

    def _overlay(self, serving: _Serving, vector: list[Any], passed: Mapping[str, Any], allow_missing: bool) -> None:
        if unknown := [n for n in passed if n not in serving.names]:
            raise SchemaMismatch(f"passed_features {unknown} are no features of {self.name}; it has {serving.names}.")
        if not allow_missing and (missing := [n for n in serving.on_demand if n not in passed]):
            raise SchemaMismatch(
                f"The features {missing} of {self.name} come with each request: put them in passed_features."
            )
        for name, value in passed.items():
            null = value is None or value != value
            vector[serving.names.index(name)] = None if null else _passed(serving.features[name], value)

    def _ready(self) -> _Serving:
        if self._serving is None:
            self.init_serving()
        if self._serving is None:
            raise NotFound(f"{self.name} is not ready to serve. Call init_serving() first.")
        return self._serving

    def delete(self) -> None:
        """Remove the view and its training datasets."""
        self._store.catalog.remove(self.id)


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


def _with_keys(plan: Plan) -> Plan:
    """The plan with the spine's key and time as extra outputs under names of their own."""
    spine = plan.spine
    features = {f.name: f for f in spine.features}
    names = [*spine.primary_key, *([spine.event_time] if spine.event_time else [])]
    extra = tuple(Output(0, n, _KEY + n, features[n]) for n in names)
    return replace(plan, outputs=(*extra, *plan.outputs))


def _keyed(rows: pa.Table, features: list[str], spine: Any, primary_keys: bool, event_time: bool) -> pa.Table:
    keys = [
        *(spine.primary_key if primary_keys else ()),
        *([spine.event_time] if event_time and spine.event_time else ()),
    ]
    keys = [k for k in keys if k not in features]
    chosen = rows.select([*(_KEY + k for k in keys), *features])
    fields = [
        chosen.schema.field(i).with_name(n).with_nullable(n not in keys) for i, n in enumerate([*keys, *features])
    ]
    return pa.Table.from_arrays(chosen.columns, schema=pa.schema(fields))
