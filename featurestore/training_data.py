"""The training datasets of one feature view: made once, then the same bytes from their pins or an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurestore import splits
from featurestore.errors import InvalidData, NotFound, NotReproducible
from featurestore.keyed_rows import KEY, chosen, transform_rows, values, with_keys
from featurestore.query import Filter, GroupRef, filter_from_json
from featurestore.schema import DataFrameType, to_frame
from featurestore.splits import Split, split_from_json
from featurestore.times import TimeLike
from featurestore.training_dataset import TrainingDataset, combined_hash, content_hash
from featurestore.transformations import FittedTransformations

if TYPE_CHECKING:
    from featurestore.feature_view import FeatureView
    from featurestore.store import FeatureStore

ALL = "all"
_LIBRARIES = ("deltalake", "duckdb", "numpy", "pyarrow")


class TrainingData:
    """What a feature view's training methods do."""

    def __init__(self, store: FeatureStore, view: FeatureView) -> None:
        self._store = store
        self._view = view

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
        return FittedTransformations.from_json(self.get(version).manifest["transformations"])

    def delete(self, version: int) -> None:
        """Forget a training dataset and release its pins."""
        self.get(version)
        self._store.catalog.remove_training_dataset(self._view.id, version)

    def create(
        self, split: Split | None, description: str, extra_filter: Filter | None,
        start: TimeLike | None = None, end: TimeLike | None = None,
    ) -> int:  # fmt: skip
        """Pin the present rows as a new training dataset; return its version."""
        versions = self._store.versions(self._view.query)
        recipe: dict[str, Any] = {
            "groups": {
                str(ref): {
                    "name": ref.name, "version": ref.version, "delta_version": pinned,
                    "table_id": self._store.table_id(ref),
                }
                for ref, pinned in versions.items()
            },
            "query": self._view.query.to_json(), "labels": self._view.labels,
            "extra_filter": None if extra_filter is None else extra_filter.to_json(),
            "split": split and split.to_json(), "seed": getattr(split, "seed", None),
            "start": None if start is None else str(start), "end": None if end is None else str(end),
        }  # fmt: skip
        raw = self._raw_parts(recipe)
        train = next(iter(raw.values()))
        fitted = self._view.transformations.fit(values(train))
        parts = {name: transform_rows(part, fitted) for name, part in raw.items()}
        hashes = {name: content_hash(part) for name, part in parts.items()}
        manifest = recipe | {
            "description": description, "created_by": self._store.settings.who,
            "created_at": self._store.clock().isoformat(), "transformations": fitted.to_json(),
            "libraries": {name: installed_version(name) for name in _LIBRARIES},
            "splits": {name: {"rows": part.num_rows, "content_hash": hashes[name]} for name, part in parts.items()},
            "content_hash": combined_hash(hashes),
        }  # fmt: skip
        return self._store.catalog.add_training_dataset(self._view.id, manifest)

    def _raw_parts(self, recipe: Mapping[str, Any]) -> dict[str, pa.Table]:
        """The untransformed rows of each split, from the pinned versions."""
        pins = {GroupRef(p["name"], p["version"]): p["delta_version"] for p in recipe["groups"].values()}
        plan = with_keys(self._view.plan(labels=True))
        extra = filter_from_json(recipe["extra_filter"])
        if extra is not None:
            plan = replace(plan, result_filter=extra if plan.result_filter is None else plan.result_filter & extra)
        rows = self._store.run(plan, pins, start=recipe["start"], end=recipe["end"])
        if recipe["split"] is None:
            if not rows.num_rows:
                raise InvalidData(
                    f"{self._view.name}: no labelled rows to train on. Insert some, or widen the time range."
                )
            return {ALL: rows}
        spine = plan.spine
        time = None if spine.event_time is None else KEY + spine.event_time
        positions = splits.assign(
            split_from_json(recipe["split"]), rows, primary_key=[KEY + k for k in spine.primary_key], event_time=time
        )
        return {name: rows.take(pa.array(where)) for name, where in positions.items()}

    def parts(self, dataset: TrainingDataset) -> dict[str, pa.Table]:
        """The transformed rows of each split, with their keys, the same bytes as when they were made.

        Raises:
            NotReproducible: a pinned version cannot be read any more, or gives other bytes.
        """
        fitted = FittedTransformations.from_json(dataset.manifest["transformations"])
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
        self, version: int, names: Sequence[str], *, dataframe_type: DataFrameType = "pandas",
        primary_keys: bool = False, event_time: bool = False,
    ) -> tuple[Any, ...]:  # fmt: skip
        """The features of the named splits, then their labels."""
        parts = self.parts(self.get(version))
        if set(parts) != set(names):
            raise InvalidData(
                f"Training dataset {version} of {self._view.name} has the splits {list(parts)}, asked for "
                f"{list(names)}. Use the get_... method of the same name as the create_... method that made it."
            )
        fitted = self.fitted(version)
        labels = [o for name in self._view.labels for o in fitted.outputs_of(name)]
        spine = self._view.plan(labels=True).spine
        xs, ys = [], []
        for name in names:
            part = parts[name]
            features = [n for n in part.column_names if n not in labels and not n.startswith(KEY)]
            xs.append(to_frame(chosen(part, features, spine, primary_keys, event_time), dataframe_type, nullable=True))
            ys.append(to_frame(part.select(labels), dataframe_type, nullable=True) if labels else None)
        return (*xs, *ys)
