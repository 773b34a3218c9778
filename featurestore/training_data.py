"""The training datasets of one feature view: made once, then the same bytes from their files or pins, or an error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurestore import late_cells, splits, training_files
from featurestore.errors import (
    Conflict,
    FeatureStoreError,
    InvalidData,
    NotFound,
    NotReproducible,
    SchemaMismatch,
    listed,
)
from featurestore.keyed_rows import KEY, chosen, transform_rows, values, with_keys
from featurestore.point_in_time import Output, Plan
from featurestore.query import GroupRef, filter_from_json
from featurestore.schema import DataFrameType, parse_dtype, spell_dtype, to_frame
from featurestore.splits import split_from_json
from featurestore.statistics import summarise
from featurestore.times import parse_time
from featurestore.training_dataset import TrainingDataset, combined_hash, content_hash
from featurestore.training_files import DataFormat
from featurestore.training_options import Wanted
from featurestore.transformation_plan import FittedTransformations

if TYPE_CHECKING:
    from featurestore.feature_view import FeatureView
    from featurestore.store import FeatureStore

_log = logging.getLogger(__name__)

ALL = ("all",)
TWO = (splits.TRAIN, splits.TEST)
THREE = (splits.TRAIN, splits.VALIDATION, splits.TEST)
_GETTERS = {ALL: "get_training_data", TWO: "get_train_test_split", THREE: "get_train_validation_test_split"}
_LIBRARIES = ("deltalake", "duckdb", "numpy", "pyarrow")


Made = tuple[TrainingDataset, dict[str, pa.Table]]
"""A new training dataset, and the transformed rows of each split with their keys."""


class TrainingData:
    """What a feature view's training methods do."""

    def __init__(self, store: FeatureStore, view: FeatureView) -> None:
        self._store = store
        self._view = view

    # What there is

    def all(self) -> list[TrainingDataset]:
        """All training datasets, oldest first."""
        found = self._store.catalog.training_datasets(self._view.id)
        return [self._dataset(version, manifest) for version, manifest in found.items()]

    def _dataset(self, version: int, manifest: Mapping[str, Any]) -> TrainingDataset:
        view = self._view
        return TrainingDataset(view.name, view.version, version, manifest, partial(self._count_late, version))

    def get(self, version: int) -> TrainingDataset:
        """One training dataset.

        Raises:
            NotFound: there is no such version.
        """
        manifest = self._store.catalog.training_dataset(self._view.id, version)
        if manifest is None:
            there = self._store.catalog.training_dataset_versions(self._view.id)
            raise NotFound(
                f"{self._view.name} version {self._view.version} has no training dataset {version} "
                f"(versions: {listed(there)}). Make one with create_train_test_split(...)."
            )
        return self._dataset(version, manifest)

    def newest(self) -> int:
        """The newest version.

        Raises:
            NotFound: there is none yet.
        """
        found = self._store.catalog.training_dataset_versions(self._view.id)
        if not found:
            raise NotFound(
                f"{self._view.name} version {self._view.version} has no training dataset yet, so nothing was fitted. "
                "Make one with create_train_test_split(...) first."
            )
        return found[-1]

    def fitted(self, version: int) -> FittedTransformations:
        """The transformations as a training dataset's training rows fitted them."""
        return self.get(version).fitted

    # Making one

    def create(self, wanted: Wanted, data_format: DataFormat | None = None) -> Made:
        """Pin the present rows as a new training dataset, and write its files if it has a format.

        Raises:
            InvalidData, InvalidTime: there are no rows, a split is empty, or a row has no label.
            Conflict: the rows were vacuumed or forgotten meanwhile; nothing was registered.
        """
        view, store = self._view, self._store
        plan, versions = view.plan(labels=True), view.versions()
        if wanted.as_known and plan.spine.event_time is None:
            raise InvalidData(
                f"as_known=True needs the time of each row, and {plan.spine.ref} has no event time. Leave it out."
            )
        recipe: dict[str, Any] = {
            "groups": {
                str(ref): {
                    "name": ref.name, "version": ref.version, "delta_version": pinned,
                    "table_id": store.table_id(ref), "ttl_microseconds": _micros(ttls[ref]),
                }
                for ttls in [{s.definition.ref: s.definition.ttl for s in plan.sources}]
                for ref, pinned in versions.items()
            },
            "query": view.query.to_json(), "labels": view.labels, **wanted.to_json(),
            "training_helper_columns": view.training_helper_columns,
            "primary_key": list(plan.spine.primary_key), "event_time": plan.spine.event_time,
            "created_by": store.settings.who, "created_at": store.clock().isoformat(),
        }  # fmt: skip
        try:
            check = store.check_of_files(self._plan_of(recipe), versions)
            raw = self._raw_parts(recipe)
        except NotReproducible as error:
            if view.versions() == versions:
                raise
            raise self._overtaken(error) from error
        fitted = view.transformations.fit(values(next(iter(raw.values()))))
        parts = {name: transform_rows(part, fitted) for name, part in raw.items()}
        labels = [o for name in view.labels for o in fitted.outputs_of(name)]
        self._check_labels(parts, labels)
        hashes = {name: content_hash(part) for name, part in parts.items()}
        columns = [[f.name, spell_dtype(f.type)] for f in next(iter(parts.values())).schema]
        manifest = recipe | {
            "transformations": fitted.to_json(), "label_columns": labels, "columns": columns,
            "libraries": {name: installed_version(name) for name in _LIBRARIES},
            "splits": {name: {"rows": part.num_rows, "content_hash": hashes[name]} for name, part in parts.items()},
            "content_hash": combined_hash(hashes), "data_format": data_format, "files": [],
            **self._late_cells(recipe, raw, quickly=True),
        }  # fmt: skip
        try:
            if data_format is None:
                version = store.catalog.add_training_dataset(view.id, manifest, check=check)
            else:
                with self._writing(parts, data_format) as place:
                    version = store.catalog.add_training_dataset(view.id, manifest, check=check, place=place)
        except NotReproducible as error:
            raise self._overtaken(error) from error
        return self.get(version), parts

    def _late_cells(
        self, manifest: Mapping[str, Any], raw: Mapping[str, pa.Table], *, quickly: bool
    ) -> dict[str, dict[str, int] | None]:
        """The manifest's entry about late cells; none where counting them takes long and `quickly` was asked."""
        versions = _pins_of(manifest)
        plan, rows = with_keys(self._plan_of(manifest)), pa.concat_tables(raw.values())
        if plan.as_known:
            rows = rows.slice(0, 0)  # each cell is what was known then
        elif quickly and not late_cells.is_quick(self._store, plan, versions):
            return {}
        rows = rows.drop_columns([*self._view.labels, *self._view.training_helper_columns])
        plan = replace(plan, as_known=False)
        times = {"start": manifest["start"], "end": manifest["end"]}
        return {"late_cells": late_cells.count(self._store, plan, versions, rows, **times)}

    def _count_late(self, version: int) -> dict[str, int] | None:
        dataset = self.get(version)
        try:
            _check_not_erased(dataset)
            found = self._late_cells(dataset.manifest, self._raw_parts(dataset.manifest), quickly=False)
        except FeatureStoreError:  # its rows are gone, and what was known of them with them
            return None
        self._store.catalog.amend_training_dataset(self._view.id, version, **found)
        return found["late_cells"]

    def _overtaken(self, error: NotReproducible) -> Conflict:
        return Conflict(f"{self._view.name}: {error} This happened meanwhile. Nothing was registered: try again.")

    @contextmanager
    def _writing(self, parts: Mapping[str, pa.Table], data_format: DataFormat) -> Iterator[Callable[[int], list[str]]]:
        """Write the splits' files; what is yielded moves them to a version's place and returns their names."""
        registered = partial(self._store.catalog.training_dataset_versions, self._view.id)
        with training_files.writing(self._folder, registered) as unfinished:
            for name, part in parts.items():
                training_files.write(part, unfinished / f"{name}.{data_format}", data_format)

            def place(version: int) -> list[str]:
                training_files.publish(unfinished, version)
                folder = (self._folder / str(version)).relative_to(self._store.settings.home)
                return [f"{folder.as_posix()}/{name}.{data_format}" for name in parts]

            yield place

    @property
    def _folder(self) -> Path:
        return self._store.settings.home / training_files.FOLDER / f"{self._view.name}_{self._view.version}"

    def _check_labels(self, parts: Mapping[str, pa.Table], labels: Sequence[str]) -> None:
        """Refuse rows without any label: no model can learn from them. Of several labels some may be missing."""
        missing = {
            name: sum(all(v is None for v in row) for row in zip(*(part[n].to_pylist() for n in labels), strict=True))
            for name, part in parts.items() if labels and all(part[n].null_count for n in labels)
        }  # fmt: skip
        if any(missing.values()):
            raise InvalidData(
                f"{self._view.name}: rows without a label {labels}: "
                f"{', '.join(f'{n} in the {name} split' for name, n in missing.items() if n)}. Join the labels' group "
                "with join_type='inner', or leave the rows out with extra_filter=~labels_fg['...'].is_null()."
            )

    def widened(self, version: int, widen: Callable[[Plan], Plan]) -> tuple[Plan, dict[str, pa.Table]]:
        """The untransformed rows of each split with what a wider plan gives beside them, and that plan."""
        dataset = self.get(version)
        _check_not_erased(dataset)
        return widen(with_keys(self._plan_of(dataset.manifest))), self._raw_parts(dataset.manifest, widen)

    def _raw_parts(
        self, recipe: Mapping[str, Any], widen: Callable[[Plan], Plan] = lambda plan: plan
    ) -> dict[str, pa.Table]:
        """The untransformed rows of each split, from the pinned versions.

        Raises:
            NotReproducible: a pinned version or its table is gone.
        """
        for ref, pin in recipe["groups"].items():
            if (found := self._store.table_id(GroupRef(pin["name"], pin["version"]))) != pin["table_id"]:
                raise NotReproducible(
                    f"{ref} is not the group it was: its table is {found}, pinned was {pin['table_id']}. "
                    "It was deleted and made again, and the pinned rows went with it."
                )
        split = split_from_json(recipe["split"]) if recipe["split"] else None
        plan = self._plan_of(recipe)
        entity = _entity_outputs(plan, getattr(split, "entity", None) or ())
        keyed = widen(with_keys(plan))
        extra = tuple(o for o in entity if o.name not in {k.name for k in keyed.outputs})
        rows = self._store.run(
            replace(keyed, outputs=(*keyed.outputs, *extra)), _pins_of(recipe), start=recipe["start"],
            end=recipe["end"],
        )  # fmt: skip
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
        """The view's plan, with the ttl the groups had, narrowed as the recipe says."""
        plan = self._view.plan(labels=True, helpers="training")
        extra = filter_from_json(recipe["extra_filter"])
        plan = plan if extra is None else plan.filtered(extra)
        pinned = [recipe["groups"][str(s.definition.ref)] for s in plan.sources]
        sources = [
            replace(s, definition=replace(s.definition, ttl=_length(pin["ttl_microseconds"])))
            if "ttl_microseconds" in pin else s  # made before manifests pinned it
            for s, pin in zip(plan.sources, pinned, strict=True)
        ]  # fmt: skip
        plan = replace(plan, sources=tuple(sources))
        if plan.spine.event_time is None:
            plan = replace(plan, now=parse_time(recipe["created_at"]))
        plan = replace(plan.with_hindsight(self._view.labels), as_known=recipe.get("as_known", False))
        if (age := _length(recipe.get("max_age_microseconds"))) is not None:
            plan = plan.not_older(age, except_for=self._view.labels)
        return plan

    # Reading it back

    def parts(self, dataset: TrainingDataset) -> dict[str, pa.Table]:
        """The transformed rows of each split, with their keys, the same bytes as when they were made.

        They come from the files; where one is missing or damaged, from the pins.

        Raises:
            NotReproducible: neither gives the recorded bytes, or data of it were erased.
        """
        _check_not_erased(dataset)
        if dataset.manifest.get("files"):
            try:
                return {name: self._file(dataset, name) for name in dataset.rows}
            except NotReproducible as error:
                _log.warning("%s Rebuilt from its pins; recreate_training_dataset() writes the files anew.", error)
        parts = self._rebuilt(dataset)
        if wrong := [w for n, part in parts.items() if (w := _differs(dataset, n, part, "rebuilt from its pins"))]:
            raise NotReproducible(f"{dataset}: {' '.join(wrong)} {_changed_libraries(dataset)}")
        return parts

    def _rebuilt(self, dataset: TrainingDataset) -> dict[str, pa.Table]:
        fitted = dataset.fitted
        return {name: transform_rows(raw, fitted) for name, raw in self._raw_parts(dataset.manifest).items()}

    def _file(self, dataset: TrainingDataset, split: str) -> pa.Table:
        """One split from its file.

        Raises:
            NotReproducible: it is missing, damaged, or holds something else.
        """
        manifest = dataset.manifest
        name = manifest["files"][list(manifest["splits"]).index(split)]
        schema = pa.schema([(column, parse_dtype(dtype, column)) for column, dtype in manifest["columns"]])
        try:
            part = training_files.read(self._store.settings.home / name, manifest["data_format"], schema)
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise NotReproducible(f"{dataset}: the file {name} is missing or damaged: {error}") from error
        if wrong := _differs(dataset, split, part, f"in the file {name}"):
            raise NotReproducible(f"{dataset}: {wrong}")
        return part

    def verify(self, version: int) -> TrainingDataset:
        """Build a training dataset again from its pins, read its files, and compare both with what was recorded.

        Raises:
            NotReproducible: the message says which split differs, and whether pin, file or library is to blame.
        """
        dataset = self.get(version)
        _check_not_erased(dataset)
        pins, files = [], []
        try:
            for name, part in self._rebuilt(dataset).items():
                if wrong := _differs(dataset, name, part, "rebuilt from its pins"):
                    pins.append(wrong)
        except FeatureStoreError as error:
            pins.append(f"its pins cannot be read: {error}")
        for split in dataset.rows if dataset.manifest.get("files") else ():
            try:
                self._file(dataset, split)
            except NotReproducible as error:
                files.append(str(error).removeprefix(f"{dataset}: "))
        if pins or files:
            remedy = f"recreate_training_dataset({version}) writes the files again." if not pins else ""
            raise NotReproducible(
                " ".join(w for w in (f"{dataset}:", *pins, *files, _changed_libraries(dataset), remedy) if w)
            )
        return dataset

    def statistics(self, version: int) -> dict[str, dict[str, Any]]:
        """Column statistics of each split, raw and transformed; computed once and kept."""
        dataset = self.get(version)
        _check_not_erased(dataset)
        if "statistics" in dataset.manifest:
            return dataset.manifest["statistics"]
        raw, fitted = self._raw_parts(dataset.manifest), dataset.fitted
        found = {
            name: {"raw": summarise(values(part)), "transformed": summarise(fitted.transform(values(part)))}
            for name, part in raw.items()
        }
        # In the manifest, because they may tell values: what erases the dataset's rows erases them as well.
        self._store.catalog.amend_training_dataset(self._view.id, version, statistics=found)
        return found

    def pinned(self, version: int) -> tuple[Plan, dict[GroupRef, int]]:
        """The plan of a training dataset and the Delta versions it reads."""
        dataset = self.get(version)
        _check_not_erased(dataset)
        return self._plan_of(dataset.manifest), _pins_of(dataset.manifest)

    # Its files

    def recreate(self, version: int, data_format: DataFormat | None = None) -> None:
        """Write the files of a training dataset again from its pins.

        Raises:
            NotReproducible: the pins do not give the recorded bytes any more; its files stay as they are.
        """
        dataset = self.get(version)
        _check_not_erased(dataset)
        manifest = dataset.manifest
        parts = self.parts(replace(dataset, manifest={**manifest, "files": []}))
        data_format = data_format or manifest.get("data_format") or "parquet"
        columns = [[f.name, spell_dtype(f.type)] for f in next(iter(parts.values())).schema]
        with self._writing(parts, data_format) as place:
            self._store.catalog.amend_training_dataset(
                self._view.id, version, columns=columns, data_format=data_format, files=place(version)
            )

    def purge(self, version: int) -> None:
        """Remove the files of a training dataset; it stays registered and pinned."""
        self.get(version)
        training_files.remove(self._folder / str(version))
        self._store.catalog.amend_training_dataset(self._view.id, version, files=[])

    def delete(self, version: int) -> None:
        """Forget a training dataset, release its pins and remove its files."""
        self.get(version)
        self._store.catalog.remove_training_dataset(self._view.id, version)
        training_files.remove(self._folder / str(version))

    def delete_files(self) -> None:
        """Remove what is left of a view that was deleted."""
        training_files.remove(self._folder)

    # Frames

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
                f"Training dataset {dataset.version} of {self._view.name} {_split(made)}, and {_GETTERS[splits]} "
                f"gets one that {_split(splits)}. Use {_GETTERS[made]}({dataset.version})."
            )
        parts = self.parts(dataset) if parts is None else parts
        manifest = dataset.manifest
        labels, helpers = dataset.label_columns, manifest.get("training_helper_columns", [])
        if "primary_key" not in manifest:  # made before manifests knew
            spine = self._view.plan(labels=True).spine
            manifest = {**manifest, "primary_key": list(spine.primary_key), "event_time": spine.event_time}
        time = [manifest["event_time"]] if event_time and manifest["event_time"] else []
        keys = [*(manifest["primary_key"] if primary_keys else ()), *time]
        xs, ys = [], []
        for name in splits:
            part = parts[name]
            features = [n for n in values(part).column_names if n not in labels and n not in helpers]
            x = chosen(part, features, keys=keys, helpers=helpers if training_helper_columns else ())
            xs.append(to_frame(x, dataframe_type, nullable=True))
            ys.append(to_frame(part.select(labels), dataframe_type, nullable=True) if labels else None)
        return (*xs, *ys)


def _differs(dataset: TrainingDataset, split: str, part: pa.Table, where: str) -> str | None:
    recorded = dataset.manifest["splits"][split]["content_hash"]
    found = content_hash(part)
    if found == recorded:
        return None
    rows = "" if part.num_rows == dataset.rows[split] else f" ({part.num_rows} rows instead of {dataset.rows[split]})"
    return f"the {split} split {where} has the hash {found[:12]}, recorded was {recorded[:12]}{rows}."


def _changed_libraries(dataset: TrainingDataset) -> str:
    there = {name: installed_version(name) for name in dataset.manifest["libraries"]}
    changed = [f"{n} {v} is now {there[n]}" for n, v in dataset.manifest["libraries"].items() if there[n] != v]
    return f"Libraries changed since: {', '.join(changed)}." if changed else "No library changed since."


def _pins_of(manifest: Mapping[str, Any]) -> dict[GroupRef, int]:
    return {GroupRef(p["name"], p["version"]): p["delta_version"] for p in manifest["groups"].values()}


def _check_not_erased(dataset: TrainingDataset) -> None:
    if since := dataset.manifest.get("not_reproducible_since"):
        raise NotReproducible(
            f"{dataset} is not reproducible since {since}: {dataset.manifest.get('not_reproducible_because')}. "
            "Make a new one from the data there are."
        )


def _micros(length: timedelta | None) -> int | None:
    return None if length is None else length // timedelta(microseconds=1)


def _length(micros: int | None) -> timedelta | None:
    return None if micros is None else timedelta(microseconds=micros)


def _split(names: Sequence[str]) -> str:
    return "was not split" if tuple(names) == ALL else f"was split into {', '.join(names)}"


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
