"""The training datasets of one feature view: made once, then the same bytes from their files or pins, or an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import pyarrow as pa

from featurestore import splits
from featurestore.errors import InvalidData, NotFound, NotReproducible, SchemaMismatch
from featurestore.keyed_rows import KEY, chosen, transform_rows, values, with_keys
from featurestore.point_in_time import Output, Plan
from featurestore.query import Filter, GroupRef, both, filter_from_json
from featurestore.schema import DataFrameType, to_frame
from featurestore.splits import RandomSplit, Split, TimeSplit, split_from_json
from featurestore.times import TimeLike, parse_time
from featurestore.training_dataset import TrainingDataset, combined_hash, content_hash
from featurestore.transformations import FittedTransformations

if TYPE_CHECKING:
    from featurestore.feature_view import FeatureView
    from featurestore.store import FeatureStore

ALL = ("all",)
TWO = (splits.TRAIN, splits.TEST)
THREE = (splits.TRAIN, splits.VALIDATION, splits.TEST)
_GETTERS = {ALL: "get_training_data", TWO: "get_train_test_split", THREE: "get_train_validation_test_split"}
_LIBRARIES = ("deltalake", "duckdb", "numpy", "pyarrow")


class RowOptions(TypedDict, total=False):
    """Which rows a training dataset holds, whatever its splits; explained at `FeatureView.create_training_data`."""

    description: str
    extra_filter: Filter | None
    as_known: bool
    max_age: timedelta | None


class SplitTimes(TypedDict, total=False):
    """Half-open windows of a split by time."""

    train_start: TimeLike | None
    train_end: TimeLike | None
    validation_start: TimeLike | None
    validation_end: TimeLike | None
    test_start: TimeLike | None
    test_end: TimeLike | None


class SplitOptions(RowOptions, SplitTimes, total=False):
    """How its rows are divided; explained at `FeatureView.create_train_test_split`."""

    seed: int
    embargo: timedelta | None
    entity: str | Sequence[str] | None


class FrameOptions(TypedDict, total=False):
    """What frames of a training dataset look like; explained at `FeatureView.get_training_data`."""

    dataframe_type: DataFrameType
    primary_keys: bool
    event_time: bool
    training_helper_columns: bool


@dataclass(frozen=True)
class Wanted:
    """What a training dataset is to hold.

    Args:
        split: how rows are divided; None for all rows in one.
        start, end: only spine rows of `[start, end)`.
        extra_filter: only rows that meet it.
        max_age: feature rows older than this at the spine's time count as missing.
        as_known: of each feature row only what had been committed by the spine's time.
    """

    split: Split | None = None
    start: TimeLike | None = None
    end: TimeLike | None = None
    description: str = ""
    extra_filter: Filter | None = None
    max_age: timedelta | None = None
    as_known: bool = False

    def __post_init__(self) -> None:
        if self.max_age is not None and (not isinstance(self.max_age, timedelta) or self.max_age < timedelta(0)):
            raise InvalidData(f"max_age is {self.max_age!r}: expected a timedelta, such as timedelta(days=7).")
        if self.as_known:
            raise InvalidData("as_known=True cannot be made yet. Leave it out.")

    def to_json(self) -> dict[str, Any]:
        """The part of a manifest that says which rows these are."""
        return {
            "split": self.split and self.split.to_json(), "seed": getattr(self.split, "seed", None),
            "start": None if self.start is None else parse_time(self.start).isoformat(),
            "end": None if self.end is None else parse_time(self.end).isoformat(),
            "description": self.description,
            "extra_filter": None if self.extra_filter is None else self.extra_filter.to_json(),
            "max_age_microseconds": None if self.max_age is None else self.max_age // timedelta(microseconds=1),
            "as_known": self.as_known,
        }  # fmt: skip


def wanted_split(
    test_size: float | None, validation_size: float | None = None, *, validation: bool = False, seed: int = 42,
    embargo: timedelta | None = None, entity: str | Sequence[str] | None = None, description: str = "",
    extra_filter: Filter | None = None, as_known: bool = False, max_age: timedelta | None = None,
    **times: Unpack[SplitTimes],
) -> Wanted:  # fmt: skip
    """A split at random when sizes are given, else by time.

    Raises:
        InvalidData, InvalidTime: sizes or windows that cannot be, or some of both.
    """
    given = {name: time for name, time in times.items() if time is not None}
    if validation and (test_size is None) != (validation_size is None):
        raise InvalidData("Give both validation_size and test_size, or neither of them and times.")
    split: Split
    if test_size is None:
        if not validation and (third := [name for name in given if name.startswith("validation")]):
            raise InvalidData(f"{third} belong to a split in three: use (create_)train_validation_test_split.")
        split = TimeSplit(**times, embargo=embargo, entity=entity, validation=validation)
    elif given or embargo is not None:
        also = [*given, *(["embargo"] if embargo is not None else [])]
        raise InvalidData(
            f"A split by size is at random, so {also} cannot hold as well. Leave the sizes out to split by time, or "
            "narrow the rows with extra_filter."
        )
    else:
        split = RandomSplit(test_size, validation_size, seed, entity)
    return Wanted(split, None, None, description, extra_filter, max_age, as_known)


class TrainingData:
    """What a feature view's training methods do."""

    def __init__(self, store: FeatureStore, view: FeatureView) -> None:
        self._store = store
        self._view = view

    # What there is

    def list(self) -> list[TrainingDataset]:
        """All training datasets, oldest first."""
        found = self._store.catalog.training_datasets(self._view.id)
        return [TrainingDataset(self._view.name, self._view.version, v, m) for v, m in found.items()]

    def get(self, version: int) -> TrainingDataset:
        """One training dataset.

        Raises:
            NotFound: there is no such version.
        """
        view, found = self._view, {d.version: d for d in self.list()}
        if version not in found:
            raise NotFound(
                f"{view.name} version {view.version} has no training dataset {version} "
                f"(versions: {', '.join(map(str, found)) or 'none yet'}). Make one with create_train_test_split(...)."
            )
        return found[version]

    def newest(self) -> int:
        """The newest version.

        Raises:
            NotFound: there is none yet.
        """
        found = self._store.catalog.training_datasets(self._view.id)
        if not found:
            raise NotFound(
                f"{self._view.name} version {self._view.version} has no training dataset yet, so nothing was fitted. "
                "Make one with create_train_test_split(...) first."
            )
        return max(found)

    def fitted(self, version: int) -> FittedTransformations:
        """The transformations as a training dataset's training rows fitted them."""
        return self.get(version).fitted

    def delete(self, version: int) -> None:
        """Forget a training dataset and release its pins."""
        self.get(version)
        self._store.catalog.remove_training_dataset(self._view.id, version)

    # Making one

    def create(self, wanted: Wanted) -> tuple[TrainingDataset, dict[str, pa.Table]]:
        """Pin the present rows as a new training dataset; return it with the transformed rows of each split.

        Raises:
            InvalidData, InvalidTime: there are no rows, a split is empty, or a row has no label.
        """
        versions = self._view.versions()
        recipe: dict[str, Any] = {
            "groups": {
                str(ref): {
                    "name": ref.name, "version": ref.version, "delta_version": pinned,
                    "table_id": self._store.table_id(ref),
                }
                for ref, pinned in versions.items()
            },
            "query": self._view.query.to_json(), "labels": self._view.labels,
            "training_helper_columns": self._view.training_helper_columns, **wanted.to_json(),
        }  # fmt: skip
        raw = self._raw_parts(recipe)
        fitted = self._view.transformations.fit(values(next(iter(raw.values()))))
        parts = {name: transform_rows(part, fitted) for name, part in raw.items()}
        self._check_labels(parts, fitted)
        hashes = {name: content_hash(part) for name, part in parts.items()}
        manifest = recipe | {
            "created_by": self._store.settings.who, "created_at": self._store.clock().isoformat(),
            "transformations": fitted.to_json(),
            "libraries": {name: installed_version(name) for name in _LIBRARIES},
            "splits": {name: {"rows": part.num_rows, "content_hash": hashes[name]} for name, part in parts.items()},
            "content_hash": combined_hash(hashes),
        }  # fmt: skip
        version = self._store.catalog.add_training_dataset(self._view.id, manifest)
        return TrainingDataset(self._view.name, self._view.version, version, manifest), parts

    def _check_labels(self, parts: Mapping[str, pa.Table], fitted: FittedTransformations) -> None:
        """Refuse rows without any label: no model can learn from them. Of several labels some may be missing."""
        labels = [o for name in self._view.labels for o in fitted.outputs_of(name)]
        if not labels:
            return
        missing = {
            name: sum(all(v is None for v in row) for row in zip(*(part[n].to_pylist() for n in labels), strict=True))
            for name, part in parts.items() if any(part[n].null_count for n in labels)
        }  # fmt: skip
        if any(missing.values()):
            raise InvalidData(
                f"{self._view.name}: rows without a label {labels}: "
                f"{', '.join(f'{n} in the {name} split' for name, n in missing.items() if n)}. Join the labels' group "
                "with join_type='inner', or leave the rows out with extra_filter=~labels_fg['...'].is_null()."
            )

    def _raw_parts(self, recipe: Mapping[str, Any]) -> dict[str, pa.Table]:
        """The untransformed rows of each split, from the pinned versions."""
        pins = {GroupRef(p["name"], p["version"]): p["delta_version"] for p in recipe["groups"].values()}
        split = split_from_json(recipe["split"]) if recipe["split"] else None
        plan = self._plan_of(recipe)
        entity = _entity_outputs(plan, getattr(split, "entity", None) or ())
        keyed = with_keys(plan)
        extra = tuple(o for o in entity if o.name not in {k.name for k in keyed.outputs})
        rows = self._store.run(
            replace(keyed, outputs=(*keyed.outputs, *extra)), pins, start=recipe["start"], end=recipe["end"]
        )
        if split is None:
            if not rows.num_rows:
                raise InvalidData(
                    f"{self._view.name}: no labelled rows to train on. Insert some, or widen the time range."
                )
            return {ALL[0]: rows}
        spine = plan.spine
        positions = splits.assign(
            replace(split, entity=[o.name for o in entity]), rows, primary_key=[KEY + k for k in spine.primary_key],
            event_time=None if spine.event_time is None else KEY + spine.event_time,
        )  # fmt: skip
        kept = rows.drop_columns([o.name for o in extra])
        return {name: kept.take(pa.array(where)) for name, where in positions.items()}

    def _plan_of(self, recipe: Mapping[str, Any]) -> Plan:
        """The view's plan, narrowed as the recipe says."""
        plan = self._view.plan(labels=True, helpers="training")
        plan = replace(plan, result_filter=both(plan.result_filter, filter_from_json(recipe["extra_filter"])))
        if (micros := recipe.get("max_age_microseconds")) is not None:
            plan = plan.not_older(timedelta(microseconds=micros), except_for=self._view.labels)
        return plan

    # Reading it back

    def parts(self, dataset: TrainingDataset) -> dict[str, pa.Table]:
        """The transformed rows of each split, with their keys, the same bytes as when they were made.

        Raises:
            NotReproducible: a pinned version cannot be read any more, or gives other bytes.
        """
        fitted = dataset.fitted
        parts = {name: transform_rows(raw, fitted) for name, raw in self._raw_parts(dataset.manifest).items()}
        for name, part in parts.items():
            recorded = dataset.manifest["splits"][name]["content_hash"]
            if (found := content_hash(part)) != recorded:
                raise NotReproducible(
                    f"Training dataset {dataset.version} of {self._view.name}: the {name} split has the hash "
                    f"{found[:12]}, recorded was {recorded[:12]}. The pinned data or a library changed "
                    f"({dataset.manifest['libraries']} made it)."
                )
        return parts

    def frames(
        self, dataset: TrainingDataset, parts: Mapping[str, pa.Table] | None, *, splits: tuple[str, ...],
        dataframe_type: DataFrameType = "pandas", primary_keys: bool = False, event_time: bool = False,
        training_helper_columns: bool = False,
    ) -> tuple[Any, ...]:  # fmt: skip
        """The features of the splits, then their labels; read back when no `parts` are at hand.

        Raises:
            InvalidData: the dataset has other splits.
        """
        made = tuple(dataset.manifest["splits"])
        if made != splits:
            raise InvalidData(
                f"Training dataset {dataset.version} of {self._view.name} has the splits {list(made)}, asked for "
                f"{list(splits)}. Use {_GETTERS[made]}({dataset.version})."
            )
        parts = self.parts(dataset) if parts is None else parts
        labels = [o for name in self._view.labels for o in dataset.fitted.outputs_of(name)]
        helpers = list(dataset.manifest.get("training_helper_columns", []))
        spine = self._view.plan(labels=True).spine
        xs, ys = [], []
        for name in splits:
            part = parts[name]
            features = [n for n in values(part).column_names if n not in labels and n not in helpers]
            x = chosen(
                part, features, spine, primary_keys=primary_keys, event_time=event_time,
                helpers=helpers if training_helper_columns else (),
            )  # fmt: skip
            xs.append(to_frame(x, dataframe_type, nullable=True))
            ys.append(to_frame(part.select(labels), dataframe_type, nullable=True) if labels else None)
        return (*xs, *ys)


def _entity_outputs(plan: Plan, entity: Sequence[str]) -> tuple[Output, ...]:
    """The columns whose values stay on one side: columns of the spine, selected or not, or of the query.

    Raises:
        SchemaMismatch: there is no such column.
    """
    spine = {f.name: f for f in plan.spine.features}
    outputs = {o.name: o for o in plan.outputs}
    if unknown := [n for n in entity if n not in spine and n not in outputs]:
        raise SchemaMismatch(
            f"There is no column {unknown} to keep on one side: {plan.spine.ref} has {list(spine)}, and the view has "
            f"{list(outputs)}."
        )
    return tuple(Output(0, n, KEY + n, spine[n]) if n in spine else outputs[n] for n in entity)
