"""A feature view: the features one model needs, for training, batch scoring and single vectors alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from featurestore import splits
from featurestore.errors import InvalidData, NotFound, SchemaMismatch
from featurestore.keyed_rows import KEY, chosen, transform_rows, with_keys
from featurestore.point_in_time import Plan
from featurestore.point_in_time import plan as plan_of
from featurestore.query import Filter, Query, query_from_json
from featurestore.schema import DataFrameType, Feature, to_frame
from featurestore.serving import Serving
from featurestore.splits import RandomSplit, Split, TimeSplit
from featurestore.times import TimeLike
from featurestore.training_data import ALL, TrainingData
from featurestore.training_dataset import TrainingDataset
from featurestore.transformations import TransformationPlan, parse

if TYPE_CHECKING:
    from featurestore.store import FeatureStore


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
        self._training = TrainingData(store, self)
        self._batch_version: int | None = None
        self._serving: Serving | None = None
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

    def plan(self, *, labels: bool) -> Plan:
        """How the query runs point in time; without labels, only the groups that give features."""
        plan = plan_of(self.query, self._store.definitions(self.query))
        return plan if labels else plan.without(self.labels)

    @property
    def features(self) -> list[Feature]:
        """The untransformed features, in order, without labels."""
        return [replace(o.feature, name=o.name) for o in self.plan(labels=True).outputs if o.name not in self.labels]

    @property
    def feature_names(self) -> list[str]:
        """Names of the model's inputs, in order: transformed as the training dataset in use does (else the newest)."""
        fitted = self._training.fitted(self._serving_version or self._batch_version or self._training.newest())
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
        return self._training.create(None, description, extra_filter, start_time, end_time), None

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
        return self._training.create(split, description, extra_filter), None

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
        return self._training.create(split, description, extra_filter), None

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
        return self._training.frames(version, (ALL,), **frames)

    def get_train_test_split(self, version: int, **frames: Any) -> tuple[Any, ...]:
        """`X_train, X_test, y_train, y_test` of a training dataset, the same bytes as when it was made.

        `primary_keys=True` and `event_time=True` put the spine's key and time columns before the features.
        """
        return self._training.frames(version, (splits.TRAIN, splits.TEST), **frames)

    def get_train_validation_test_split(self, version: int, **frames: Any) -> tuple[Any, ...]:
        """`X_train, X_val, X_test, y_train, y_val, y_test` of a training dataset."""
        return self._training.frames(version, (splits.TRAIN, splits.VALIDATION, splits.TEST), **frames)

    def training_datasets(self) -> list[TrainingDataset]:
        """All training datasets of this view, oldest first."""
        return self._training.list()

    def training_dataset(self, version: int) -> TrainingDataset:
        """One training dataset: its pins, hash, split and rows.

        Raises:
            NotFound: there is no such version.
        """
        return self._training.get(version)

    def verify_training_dataset(self, version: int) -> TrainingDataset:
        """Build the training dataset again from its pins and compare the bytes.

        Raises:
            NotReproducible: a pinned version cannot be read any more, or gives other bytes.
        """
        dataset = self._training.get(version)
        self._training.parts(dataset)
        return dataset

    def delete_training_dataset(self, version: int) -> None:
        """Forget a training dataset and release its pins."""
        self._training.delete(version)

    # Batch scoring

    def init_batch_scoring(self, training_dataset_version: int | None = None) -> None:
        """Choose the training dataset whose fitted transformations batch data get (default: the newest)."""
        version = self._training.newest() if training_dataset_version is None else training_dataset_version
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
        plan = with_keys(self.plan(labels=False))
        rows = self._store.run(plan, self._store.versions(self.query), start=start_time, end=end_time)
        if transformed and self._batch_version is not None:
            rows = transform_rows(rows, self._training.fitted(self._batch_version))
        features = [n for n in rows.column_names if not n.startswith(KEY)]
        return to_frame(chosen(rows, features, plan.spine, primary_keys, event_time), dataframe_type, nullable=True)

    # Online serving

    def init_serving(self, training_dataset_version: int | None = None) -> None:
        """Prepare single vectors with the fitted transformations of a training dataset (default: the newest).

        Raises:
            SchemaMismatch: a group that gives features is not online.
        """
        version = self._training.newest() if training_dataset_version is None else training_dataset_version
        fitted = self._training.fitted(version)
        self._serving_version = version
        self._serving = Serving.of(self._store, self.name, self.plan(labels=False), fitted)

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
        return self._ready().vectors(entries, passed_features, transform=transform, allow_missing=allow_missing)

    def _ready(self) -> Serving:
        if self._serving is None:
            self.init_serving()
        if self._serving is None:
            raise NotFound(f"{self.name} is not ready to serve. Call init_serving() first.")
        return self._serving

    def delete(self) -> None:
        """Remove the view and its training datasets."""
        self._store.catalog.remove(self.id)
