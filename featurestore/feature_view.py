"""A feature view: the features one model needs, for training, batch scoring and single vectors alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Unpack

import pyarrow as pa

from featurestore import leakage, skew
from featurestore.engines.sql import COMMITTED_AT
from featurestore.errors import FeatureStoreError, NotFound, SchemaMismatch
from featurestore.explanation import Explainer, as_frame
from featurestore.findings import Finding
from featurestore.inputs import Vectors, conformed
from featurestore.keyed_rows import chosen, transform_rows, values, with_keys
from featurestore.lineage import Lineage, of_view
from featurestore.point_in_time import Definition, Plan
from featurestore.point_in_time import plan as plan_of
from featurestore.prediction_log import PredictionLog
from featurestore.query import Filter, GroupRef, query_from_json
from featurestore.schema import DataFrameType, Feature, as_arrow, frame_type, to_frame
from featurestore.serving import ReturnType, Serving, key_names, request_functions
from featurestore.times import TimeLike
from featurestore.training_data import ALL, THREE, TWO, TrainingData
from featurestore.training_dataset import Job, TrainingDataset
from featurestore.training_files import DataFormat, check_format
from featurestore.training_options import FrameOptions, RowOptions, SplitOptions, Wanted, wanted_split
from featurestore.transformation_plan import FittedTransformations, TransformationPlan
from featurestore.transformations import TransformationFunction

if TYPE_CHECKING:
    from featurestore.feature_group import FeatureGroup
    from featurestore.store import FeatureStore


class _InUse(NamedTuple):
    """What `transform` needs of a training dataset."""

    version: int
    features: list[Feature]
    fitted: FittedTransformations
    compiled: Callable[[Sequence[Any]], list[Any]]


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
        # Definitions of before there were helper columns, tags and logs have no word about them.
        self.training_helper_columns: list[str] = definition.get("training_helper_columns", [])
        self.inference_helper_columns: list[str] = definition.get("inference_helper_columns", [])
        self.logging_enabled: bool = definition.get("logging_enabled", False)
        self.tags: dict[str, Any] = definition.get("tags", {})
        self.query = query_from_json(definition["query"], store)
        self._transformations: dict[str, Any] = definition["transformations"]
        self._training = TrainingData(store, self)
        self._batch_version: int | None = None
        self._serving: Serving | None = None
        self._serving_version: int | None = None
        self._helpers: Serving | None = None
        self._in_use: _InUse | None = None

    def __repr__(self) -> str:
        return f"FeatureView({self.name!r}, version={self.version})"

    @cached_property
    def transformations(self) -> TransformationPlan:
        """What is done to the features. Functions of one's own are imported only here, so that a view can be listed,
        explained and deleted where they are not.

        Raises:
            NotFound: such a function is no longer where it was defined.
            NotReproducible: its source has changed since.
        """
        return TransformationPlan.from_json(self._transformations)

    # Names

    def plan(
        self, *, labels: bool = False, helpers: Literal["training", "inference"] | None = None,
        dataset: TrainingDataset | None = None,
    ) -> Plan:  # fmt: skip
        """How the query runs point in time: the features, and what else is asked for.

        Without labels, groups that give only labels or training helper columns are left out: when a row is scored
        they know nothing of it yet. For a training dataset made with a `max_age`, rows count up to that age only.
        """
        training, inference = self.training_helper_columns, self.inference_helper_columns
        kept = {"training": training, "inference": inference, None: []}[helpers]
        hidden = {n for n in (*training, *inference) if n not in kept}
        plan = plan_of(self.query, self._definitions())
        if not labels:
            plan = plan.without([*self.labels, *(n for n in training if n not in inference)])
        plan = replace(plan, outputs=tuple(o for o in plan.outputs if o.name not in hidden))
        if dataset is None or dataset.max_age is None:
            return plan
        return plan.not_older(dataset.max_age, except_for=self.labels)

    def _definitions(self) -> dict[GroupRef, Definition]:
        try:
            return self._store.definitions(self.query)
        except NotFound as error:
            raise NotFound(
                f"{self.name} version {self.version} reads a feature group that is not there any more: {error} "
                "Insert it again under the same name, or create the view's next version without it."
            ) from error

    @property
    def features(self) -> list[Feature]:
        """The untransformed features, in order, without labels and helper columns."""
        return [replace(o.feature, name=o.name) for o in self.plan().outputs]

    @property
    def schema(self) -> list[Feature]:
        """The features, as `features` has them."""
        return self.features

    @property
    def primary_keys(self) -> list[str]:
        """The entry names a vector is looked up by: `serving_keys`, told without anything being made ready."""
        return key_names(self.plan(helpers="inference"))

    @property
    def transformation_functions(self) -> dict[str, list[TransformationFunction]]:
        """The functions that make each output, in order; the first is bound to the columns it reads.

        As it is, it can be given to another view. Raises as `transformations`.
        """
        return {
            step.output: [step.functions[0](*step.inputs), *step.functions[1:]] for step in self.transformations.steps
        }

    @property
    def feature_names(self) -> list[str]:
        """Names of the model's inputs, in order: transformed as the training dataset in use does (else the newest)."""
        in_use = self._fitted_in_use()
        return in_use.fitted.output_names_for([f.name for f in in_use.features])

    def delta_versions(self) -> dict[str, int]:
        """The Delta version each group of the view has now, by `<name>_v<version>`."""
        return {str(ref): v for ref, v in self.versions().items()}

    def versions(self) -> dict[GroupRef, int]:
        """The Delta version each group of the view has now."""
        self._definitions()
        return self._store.versions(self.query)

    # Tags

    def add_tag(self, name: str, value: Any = None) -> None:
        """Tag the view; the value is anything JSON-ready and replaces an earlier one."""
        self._tag(lambda tags: {**tags, name: value})

    def get_tag(self, name: str) -> Any:
        """The value of a tag; None when there is no such tag."""
        return self.tags.get(name)

    def get_tags(self) -> dict[str, Any]:
        """All tags."""
        return dict(self.tags)

    def delete_tag(self, name: str) -> None:
        """Take a tag away.

        Raises:
            NotFound: there is no such tag.
        """
        if name not in self.tags:
            raise NotFound(f"{self.name} version {self.version} has no tag {name!r} (tags: {sorted(self.tags)}).")
        self._tag(lambda tags: {n: v for n, v in tags.items() if n != name})

    def _tag(self, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        changed = self._store.catalog.change(self.id, lambda data: {**data, "tags": edit(data.get("tags", {}))})
        self.tags = changed["tags"]

    # Training data

    def create_training_data(
        self, *, start_time: TimeLike | None = None, end_time: TimeLike | None = None, description: str = "",
        data_format: DataFormat = "parquet", extra_filter: Filter | None = None, as_known: bool = False,
        max_age: timedelta | None = None,
    ) -> tuple[int, Job]:  # fmt: skip
        """Write all labelled rows (of `[start_time, end_time)`) as one new training dataset; return its version.

        Args:
            data_format: of the files: "parquet", "csv", "arrow" or "feather". What is read back is the same; csv alone
                has no types, the manifest does.
            extra_filter: only rows that meet it.
            as_known: of each feature row only what had been committed by the spine's time.
            max_age: feature rows older than this at the spine's time count as missing, as beyond a group's ttl.
        Raises:
            InvalidData: there are no rows, or a row has no label.
        """
        wanted = Wanted(None, start_time, end_time, description, extra_filter, max_age, as_known)
        return self._kept(wanted, data_format)

    def create_train_test_split(
        self, test_size: float | None = None, *, train_start: TimeLike | None = None,
        train_end: TimeLike | None = None, test_start: TimeLike | None = None, test_end: TimeLike | None = None,
        description: str = "", data_format: DataFormat = "parquet", extra_filter: Filter | None = None, seed: int = 42,
        as_known: bool = False, embargo: timedelta | None = None, entity: str | Sequence[str] | None = None,
        max_age: timedelta | None = None,
    ) -> tuple[int, Job]:  # fmt: skip
        """Write a training and a test set, at random by `test_size` or by time; return the version.

        Args:
            test_size: share of the rows in the test set; leave it out and give times instead.
            seed: decides, with each row's keys, on which side of a random split it falls.
            embargo: leaves out the training rows this close before the next set, so that their labels were known.
            entity: columns of the left-most group (or of the query) whose equal values stay on one side.
        Raises:
            InvalidData, InvalidTime: sizes or windows that cannot be, a split without rows, a row without label.
        """
        wanted = wanted_split(
            test_size, train_start=train_start, train_end=train_end, test_start=test_start, test_end=test_end,
            description=description, extra_filter=extra_filter, seed=seed, as_known=as_known, embargo=embargo,
            entity=entity, max_age=max_age,
        )  # fmt: skip
        return self._kept(wanted, data_format)

    def create_train_validation_test_split(
        self, validation_size: float | None = None, test_size: float | None = None, *,
        train_start: TimeLike | None = None, train_end: TimeLike | None = None,
        validation_start: TimeLike | None = None, validation_end: TimeLike | None = None,
        test_start: TimeLike | None = None, test_end: TimeLike | None = None, description: str = "",
        data_format: DataFormat = "parquet", extra_filter: Filter | None = None, seed: int = 42,
        as_known: bool = False, embargo: timedelta | None = None, entity: str | Sequence[str] | None = None,
        max_age: timedelta | None = None,
    ) -> tuple[int, Job]:  # fmt: skip
        """Write a training, a validation and a test set; options and errors as in `create_train_test_split`."""
        wanted = wanted_split(
            test_size, validation_size, validation=True, train_start=train_start, train_end=train_end,
            validation_start=validation_start, validation_end=validation_end, test_start=test_start,
            test_end=test_end, description=description, extra_filter=extra_filter, seed=seed, as_known=as_known,
            embargo=embargo, entity=entity, max_age=max_age,
        )  # fmt: skip
        return self._kept(wanted, data_format)

    def _kept(self, wanted: Wanted, data_format: DataFormat) -> tuple[int, Job]:
        check_format(data_format)
        version = self._training.create(wanted, data_format)[0].version
        return version, self._job(version)

    def _job(self, version: int) -> Job:
        return Job(f"{self.name}_{self.version}_training_dataset_{version}")

    def training_data(
        self, *, start_time: TimeLike | None = None, end_time: TimeLike | None = None,
        dataframe_type: DataFrameType = "pandas", primary_keys: bool = False, event_time: bool = False,
        training_helper_columns: bool = False, **options: Unpack[RowOptions],
    ) -> tuple[Any, Any]:  # fmt: skip
        """`X, y` of all labelled rows, registered as a new version without files.

        Options are those of `create_training_data` and `get_training_data`.
        """
        return self._training.frames(
            *self._training.create(Wanted(None, start_time, end_time, **options)), splits=ALL,
            dataframe_type=dataframe_type, primary_keys=primary_keys, event_time=event_time,
            training_helper_columns=training_helper_columns,
        )  # fmt: skip

    def train_test_split(
        self, test_size: float | None = None, *, dataframe_type: DataFrameType = "pandas", primary_keys: bool = False,
        event_time: bool = False, training_helper_columns: bool = False, **options: Unpack[SplitOptions],
    ) -> tuple[Any, ...]:  # fmt: skip
        """`X_train, X_test, y_train, y_test`, registered as a new version without files.

        Options are those of `create_train_test_split` and `get_train_test_split`.
        """
        return self._training.frames(
            *self._training.create(wanted_split(test_size, **options)), splits=TWO, dataframe_type=dataframe_type,
            primary_keys=primary_keys, event_time=event_time, training_helper_columns=training_helper_columns,
        )  # fmt: skip

    def train_validation_test_split(
        self, validation_size: float | None = None, test_size: float | None = None, *,
        dataframe_type: DataFrameType = "pandas", primary_keys: bool = False, event_time: bool = False,
        training_helper_columns: bool = False, **options: Unpack[SplitOptions],
    ) -> tuple[Any, ...]:  # fmt: skip
        """`X_train, X_val, X_test, y_train, y_val, y_test`, registered as a new version without files.

        Options are those of `create_train_validation_test_split` and `get_train_validation_test_split`.
        """
        return self._training.frames(
            *self._training.create(wanted_split(test_size, validation_size, validation=True, **options)), splits=THREE,
            dataframe_type=dataframe_type, primary_keys=primary_keys, event_time=event_time,
            training_helper_columns=training_helper_columns,
        )  # fmt: skip

    def get_training_data(self, version: int, **options: Unpack[FrameOptions]) -> tuple[Any, Any]:
        """`X, y` of a training dataset, the same bytes as when it was made.

        Args:
            primary_keys, event_time, training_helper_columns: put the spine's keys, its time, and the view's training
                helper columns before the features.
            dataframe_type: "pandas", "polars" or "arrow".
        Raises:
            NotFound: there is no such version.
            InvalidData: it was split; the message names the method that gets it.
            NotReproducible: neither its files nor its pins give the recorded bytes.
        """
        return self._frames(version, ALL, options)

    def get_train_test_split(self, version: int, **options: Unpack[FrameOptions]) -> tuple[Any, ...]:
        """`X_train, X_test, y_train, y_test` of a training dataset; options and errors as in `get_training_data`."""
        return self._frames(version, TWO, options)

    def get_train_validation_test_split(self, version: int, **options: Unpack[FrameOptions]) -> tuple[Any, ...]:
        """`X_train, X_val, X_test, y_train, y_val, y_test`; options and errors as in `get_training_data`."""
        return self._frames(version, THREE, options)

    def _frames(self, version: int, splits: tuple[str, ...], options: FrameOptions) -> tuple[Any, ...]:
        dataset = self._training.get(version)
        return self._training.frames(dataset, None, splits=splits, **options)

    def training_datasets(self) -> list[TrainingDataset]:
        """All training datasets of this view, oldest first."""
        return self._training.all()

    def get_training_datasets(self) -> list[TrainingDataset]:
        """The same as `training_datasets`, as hsfs names it."""
        return self.training_datasets()

    def training_dataset(self, version: int) -> TrainingDataset:
        """One training dataset: its pins, hash, split and rows.

        Raises:
            NotFound: there is no such version.
        """
        return self._training.get(version)

    def verify_training_dataset(self, version: int) -> TrainingDataset:
        """Build a training dataset again from its pins, read its files, and compare the bytes of both.

        Raises:
            NotReproducible: says which split differs, and whether its pins, its files or a library is to blame.
        """
        return self._training.verify(version)

    def training_dataset_statistics(self, version: int) -> dict[str, dict[str, Any]]:
        """Column statistics of each split, raw and as the model sees it: `statistics["train"]["raw"]["amount"]`.

        They are computed when first asked for and kept; what each holds says `featurestore.statistics.summarise`.

        Raises:
            NotReproducible: they were never asked for, and the pins do not give the recorded rows any more.
        """
        return self._training.statistics(version)

    def recreate_training_dataset(self, version: int, *, data_format: DataFormat | None = None) -> Job:
        """Write the files of a training dataset again from its pins, also when it had none.

        Raises:
            NotReproducible: the pins do not give the recorded bytes any more.
        """
        self._training.recreate(version, data_format)
        return self._job(version)

    def purge_training_data(self, version: int) -> None:
        """Remove the files of a training dataset. It stays registered and pinned, and is built again when read."""
        self._training.purge(version)

    def delete_training_dataset(self, version: int) -> None:
        """Forget a training dataset: its files go and its pins are released. Its version is not given again."""
        self._training.delete(version)

    def delete_all_training_datasets(self) -> None:
        """Forget all training datasets of this view, with their files and pins."""
        for dataset in self.training_datasets():
            self._training.delete(dataset.version)

    # What is behind it

    def explain(
        self, keys: Mapping[str, Any], time: TimeLike | None = None, *, training_dataset_version: int | None = None,
        dataframe_type: DataFrameType = "pandas",
    ) -> Any:  # fmt: skip
        """Where each feature of one row comes from, or why it is null: one row per feature.

        Args:
            keys: the primary key of the left-most group; its newest row not later than `time` is explained.
            time: None for its newest row.
            training_dataset_version: explain what this training dataset holds; None for the groups as they are now.
        Returns:
            feature, value (untransformed; as text in Polars and Arrow, whose columns have one type), group,
            group_version, event_time of the chosen row, commit_version and committed_at of its values, and the reason
            when the value is null.
        Raises:
            NotFound: the left-most group has no such row.
        """
        if training_dataset_version is None:
            plan, versions = self.plan(), self.versions()
        else:
            plan, versions = self._training.pinned(training_dataset_version)
        names = [f.name for f in self.features]
        plan = replace(plan, outputs=tuple(o for o in plan.outputs if o.name in names))
        found = Explainer(self._store, plan, versions).explain(keys, time)
        return as_frame(found, dataframe_type)

    def lineage(self) -> Lineage:
        """The groups this view reads, with their Delta versions, and the training datasets made with it."""
        catalog = self._store.catalog
        there = {g.ref: g.delta_version for g in self._store.get_feature_groups() if g.ref in self.query.groups()}
        view = next(v for v in catalog.list("feature view") if v[0] == self.id)
        return of_view(view, catalog.all_training_datasets(), there)

    def get_parent_feature_groups(self) -> list[FeatureGroup]:
        """The feature groups this view reads, left-most first."""
        return [self._store.group(ref) for ref in dict.fromkeys(self.query.groups())]

    # Batch scoring

    def init_batch_scoring(self, training_dataset_version: int | None = None) -> None:
        """Choose the training dataset whose fitted transformations batch data get (default: the newest)."""
        version = self._training.newest() if training_dataset_version is None else training_dataset_version
        self.training_dataset(version)
        self._batch_version = version

    def get_batch_data(
        self, start_time: TimeLike | None = None, end_time: TimeLike | None = None, *, transformed: bool = True,
        primary_keys: bool = False, event_time: bool = False, inference_helper_columns: bool = False,
        dataframe_type: DataFrameType = "pandas",
    ) -> Any:  # fmt: skip
        """The features of the spine's rows in `[start_time, end_time)`, without labels.

        Groups that only give labels are left out: when a row is scored its label is not known. Columns, order and
        dtypes are those of the training data.
        """
        if transformed and self._batch_version is None:
            self.init_batch_scoring()
        dataset = None if self._batch_version is None else self._training.get(self._batch_version)
        plan = with_keys(self.plan(helpers="inference" if inference_helper_columns else None, dataset=dataset))
        rows = self._store.run(plan, self.versions(), start=start_time, end=end_time)
        if transformed and dataset is not None:
            rows = transform_rows(rows, dataset.fitted)
        helpers = self.inference_helper_columns if inference_helper_columns else []
        features = [n for n in values(rows).column_names if n not in helpers]
        time = [plan.spine.event_time] if event_time and plan.spine.event_time else []
        keys = [*(plan.spine.primary_key if primary_keys else ()), *time]
        return to_frame(chosen(rows, features, keys=keys, helpers=helpers), dataframe_type, nullable=True)

    # Online serving

    def init_serving(self, training_dataset_version: int | None = None) -> None:
        """Prepare single vectors with the fitted transformations of a training dataset (default: the newest).

        Raises:
            SchemaMismatch: a group that gives features is not online.
        """
        version = self._training.newest() if training_dataset_version is None else training_dataset_version
        dataset = self._training.get(version)
        self._serving_version = version
        self._serving = Serving(
            self._store, self.name, self.plan(helpers="inference", dataset=dataset), dataset.fitted,
            hidden=self.inference_helper_columns,
        )  # fmt: skip
        self._helpers = None

    @property
    def serving_keys(self) -> list[str]:
        """The entry names a vector is looked up by."""
        return list(self._ready().keys)

    def get_feature_vector(
        self, entry: Mapping[str, Any], passed_features: Mapping[str, Any] | None = None, *,
        request_parameters: Mapping[str, Any] | None = None, transform: bool = True, return_type: ReturnType = "list",
        allow_missing: bool = False,
    ) -> Any:  # fmt: skip
        """The model's inputs for one key, in the order and with the values of the training data.

        Args:
            entry: the serving keys, such as `{"cc_num": "4111"}`.
            passed_features: values that come with the request; on-demand features must be among them, unless a
                function of their group computes them. They also replace looked-up values.
            request_parameters: inputs of on-demand functions; the view's own features stand in for those left out.
            return_type: "list", "dict" by name, "numpy" (one dimension), or a frame of one row: "pandas", "polars",
                "arrow".
            allow_missing: nulls for a key that has no row, instead of `NotFound`.
        Raises:
            SchemaMismatch: a serving key or an on-demand feature is missing, a key is null (unless `allow_missing`), a
                name is unknown, or a value is of another type; before anything is read.
            InvalidData: a key of another type; before anything is read.
            NotFound: the key has no row online that still counts.
        """
        serving = self._ready()
        vector = serving.vector(
            entry, passed_features, request_parameters, transform=transform, allow_missing=allow_missing
        )
        if return_type == "list":
            return vector
        rows = serving.as_type([vector], return_type, transformed=transform)
        return rows[0] if return_type in ("dict", "numpy") else rows

    def get_feature_vectors(
        self, entries: Sequence[Mapping[str, Any]] | Any, passed_features: Sequence[Mapping[str, Any]] | None = None, *,
        request_parameters: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None, transform: bool = True,
        return_type: ReturnType = "list", allow_missing: bool = False,
    ) -> Any:  # fmt: skip
        """Vectors of many keys, as many as entries and in their order, all as of one moment.

        Args:
            entries: a list of mappings, or a pandas, Polars or Arrow frame with a row for each.
            passed_features: one mapping per entry.
            request_parameters: one mapping per entry, or one for all.
            The others are those of `get_feature_vector`; numpy arrays have two dimensions, frames a row per entry.
        Raises:
            InvalidData: not one mapping per entry.
            And as `get_feature_vector`.
        """
        serving = self._ready()
        vectors = serving.vectors(
            entries, passed_features, request_parameters, transform=transform, allow_missing=allow_missing
        )
        return serving.as_type(vectors, return_type, transformed=transform)

    def get_inference_helper(
        self, entry: Mapping[str, Any], *, return_type: ReturnType = "dict", allow_missing: bool = False
    ) -> Any:
        """The view's inference helper columns for one key; they are no features, so vectors leave them out."""
        rows = self.get_inference_helpers([entry], return_type=return_type, allow_missing=allow_missing)
        return rows[0] if return_type in ("list", "dict", "numpy") else rows

    def get_inference_helpers(
        self, entries: Sequence[Mapping[str, Any]], *, return_type: ReturnType = "dict", allow_missing: bool = False
    ) -> Any:
        """The inference helper columns of many keys, as many as entries and in their order.

        Raises:
            SchemaMismatch: the view has no inference helper columns, or as `get_feature_vector`.
            NotFound: a key has no row online that still counts.
        """
        if not self.inference_helper_columns:
            raise SchemaMismatch(
                f"{self.name} has no inference helper columns. Create its next version with "
                "inference_helper_columns=[...]."
            )
        if self._helpers is None:
            plan = self.plan(helpers="inference").without([f.name for f in self.features])
            self._helpers = Serving(self._store, self.name, plan)
        rows = self._helpers.vectors(entries, None, None, transform=False, allow_missing=allow_missing)
        return self._helpers.as_type(rows, return_type, transformed=False)

    def transform(self, features: Any) -> Any:
        """Untransformed features as the model gets them, by the training dataset in use (serving, batch, or newest).

        Args:
            features: a frame, whose columns may be in any order and may have others beside the features; one vector,
                as a list or by name; or a list of either.
        Returns:
            The same kind. In a frame the model's inputs, in order, come after the other columns.
        Raises:
            SchemaMismatch: a feature is missing, unknown, or of another type.
            InvalidData: a vector of another length.
        """
        _, declared, fitted, compiled = self._fitted_in_use()
        if (kind := frame_type(features)) is not None:
            return to_frame(fitted.transform(conformed(features, declared, str(self))), kind, nullable=True)
        given = Vectors(features, declared, str(self))
        return given.like([compiled(row) for row in given.rows], fitted.output_names_for([f.name for f in declared]))

    def compute_on_demand_features(
        self, features: Any, request_parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    ) -> Any:
        """The features with those that on-demand functions of their groups give, computed as serving does.

        Args:
            features: a frame, one mapping by name, or a list of them; of the view's features as many as the functions
                read, beside anything else.
            request_parameters: the functions' other inputs: one mapping for all, or one for each row.
        Returns:
            The same kind, with the results in place or at the end.
        Raises:
            SchemaMismatch: a parameter is missing, unknown, or of another type.
            InvalidData: not one mapping for each row.
        """
        functions = request_functions(self._store, self.name, self.plan(helpers="inference"))
        if (kind := frame_type(features)) is not None:
            return to_frame(functions.table(as_arrow(features), request_parameters), kind, nullable=True)
        if isinstance(features, Mapping):
            return functions.rows([features], request_parameters)[0]
        return functions.rows(features, request_parameters)

    def _fitted_version(self) -> int:
        return self._serving_version or self._batch_version or self._training.newest()

    def _fitted_in_use(self) -> _InUse:
        version = self._fitted_version()
        if self._in_use is None or self._in_use.version != version:
            fitted, features = self._training.fitted(version), self.features
            self._in_use = _InUse(version, features, fitted, fitted.compile([f.name for f in features]))
        return self._in_use

    # Log

    def log(
        self, features: Any, predictions: Any = None, model: str | None = None, *,
        entries: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None, model_version: int | str | None = None,
        training_dataset_version: int | None = None, request_id: str | Sequence[str] | None = None,
        request_time: TimeLike | Sequence[TimeLike] | None = None,
    ) -> int:  # fmt: skip
        """Keep what a model was given and what it said; return how many rows were written, in one commit.

        A commit costs milliseconds, whatever its size: log a batch of requests rather than each one.

        Args:
            features: untransformed: a frame, one vector as a list or mapping, or a list of those. They are kept as they
                are, and transformed.
            predictions: one for each row: a list or array of numbers, lists of numbers, or text; or a frame or mapping
                of several, by name.
            entries: the serving keys of each row; not needed where the frame has them.
            model, model_version: which model said so.
            training_dataset_version: whose transformations the model was given; default the one in use.
            request_id: of each row; of rows with the same one the first is kept. Default: a new one for each row.
            request_time: of all rows, or of each; default now.
        Raises:
            SchemaMismatch: the view was made without logging_enabled=True; a key or a feature is missing or of another
                type.
            InvalidData: not as many predictions, keys, ids or times as rows.
        """
        log = self._log()
        version = training_dataset_version or self._fitted_version()
        declared, what = self.features, f"The log of {self.name}"
        if frame_type(features) is not None:
            table = conformed(features, declared, what)
        else:
            table = Vectors(features, declared, what).table()
        raw = table.select([f.name for f in declared])
        keys = table
        if entries is not None:
            keys = pa.Table.from_pylist([entries] if isinstance(entries, Mapping) else [dict(e) for e in entries])
        return log.append(
            raw, self._training.fitted(version).transform(raw), keys=keys, predictions=predictions, model=model,
            model_version=model_version, training_dataset_version=version, request_id=request_id,
            request_time=self._store.clock() if request_time is None else request_time,
        )  # fmt: skip

    def read_log(
        self, start_time: TimeLike | None = None, end_time: TimeLike | None = None, *, model: str | None = None,
        model_version: int | str | None = None, training_dataset_version: int | None = None,
        transformed: bool = False, dataframe_type: DataFrameType = "pandas",
    ) -> Any:  # fmt: skip
        """What was logged in `[start_time, end_time)`, by request time.

        Returns:
            `__request_time`, `__request_id`, `__model`, `__model_version`, `__view`, `__view_version` and
            `__training_dataset_version`, the keys, the features (untransformed unless `transformed`), and
            `__prediction`, or `__prediction.<name>` for several.
        Raises:
            SchemaMismatch: the view was made without logging_enabled=True.
        """
        rows = self._log().read(
            start_time, end_time, model=model, model_version=model_version,
            training_dataset_version=training_dataset_version, transformed=transformed,
        )  # fmt: skip
        return to_frame(rows, dataframe_type, nullable=True)

    def _log(self) -> PredictionLog:
        if not self.logging_enabled:
            raise SchemaMismatch(
                f"{self.name} version {self.version} keeps no log. Create its next version with logging_enabled=True."
            )
        return PredictionLog(self._store.settings.home, self.name, self.version, self.plan())

    # Checks

    def check_leakage(self, version: int | None = None) -> list[Finding]:
        """What suggests that the training rows know what a prediction will not; worst first, empty when nothing does.

        Args:
            version: a training dataset, whose split is judged too; None for the rows there are now.
        Returns:
            Errors: a feature newer than its label, a copy of the label among the features, a timestamp beyond its row,
            a key on both sides of a split by entity. Warnings: a spine without event time, a key on both sides of a
            random split, one feature that almost gives the label away. Infos: groups joined by key alone, and values
            committed after their row's time. How each is judged: `featurestore.leakage`.
        """
        if version is None:
            plan = leakage.widened(self.plan(labels=True), COMMITTED_AT)
            parts = {ALL[0]: self._store.run(plan, self.versions())}
            return leakage.check(plan, parts, self.labels, None)
        plan, parts = self._training.widened(version, lambda plan: leakage.widened(plan, COMMITTED_AT))
        return leakage.check(plan, parts, self.labels, self._training.get(version).manifest["split"])

    def check_skew(self, version: int | None = None, sample: int = 100) -> list[Finding]:
        """Where the online store would give a model something else than it was trained on; empty when nowhere.

        The vectors of some keys are compared, to the bit, with what the offline store gives for them now, as of the
        Delta version that is online. Nothing is repaired.

        Args:
            version: the training dataset whose transformations are compared too; default the newest.
            sample: of how many keys of the view's rows.
        Returns:
            Errors name feature, key and both values; warnings an online table that lags, and rows older than their ttl.
        Raises:
            SchemaMismatch: a group that gives features is not online.
        """
        fitted = self._training.fitted(self._training.newest() if version is None else version)
        return skew.check(self._store, self.name, self.plan(), fitted, sample=sample)

    def _ready(self) -> Serving:
        if self._serving is None:
            self.init_serving()
        if self._serving is None:
            raise NotFound(f"{self.name} is not ready to serve. Call init_serving() first.")
        return self._serving

    def delete(self, *, force: bool = False) -> None:
        """Remove the view.

        Args:
            force: also when it has training datasets. They go with it, with their files and pins.
        Raises:
            FeatureStoreError: it has training datasets; the message lists them.
        """
        if not force and (datasets := self.training_datasets()):
            raise FeatureStoreError(
                f"{self.name} version {self.version} was not deleted: it has the training datasets "
                f"{[d.version for d in datasets]}. Delete them first with delete_all_training_datasets(), or delete "
                "the view with force=True, and they go with it."
            )
        self._store.catalog.remove(self.id)
        self._training.delete_files()
