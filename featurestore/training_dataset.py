"""What pins a training set: its manifest, and the hash that says it came out the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.transformation_plan import FittedTransformations


@dataclass(frozen=True)
class TrainingDataset:
    """One version of a view's training data: everything that decides its bytes.

    Args:
        view, view_version: the feature view.
        version: this training dataset's version, from 1.
        manifest: tables with their Delta versions, query, filter, split, seed, state of the transformations, library
            versions, rows and content hash of each split. JSON-ready.
        count_late: counts the late cells of a manifest that does not have them yet.
    """

    view: str
    view_version: int
    version: int
    manifest: Mapping[str, Any]
    count_late: Callable[[], dict[str, int] | None] | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        name = f"{self.view!r}, view_version={self.view_version}, version={self.version}"
        return f"TrainingDataset({name}, rows={self.rows}, content_hash='{self.content_hash[:12]}...')"

    def __str__(self) -> str:
        return f"Training dataset {self.version} of {self.view} version {self.view_version}"

    @property
    def content_hash(self) -> str:
        """One hash over the hashes of all splits."""
        return self.manifest["content_hash"]

    @property
    def fitted(self) -> FittedTransformations:
        """The transformations as the training rows fitted them."""
        return FittedTransformations.from_json(self.manifest["transformations"])

    @property
    def label_columns(self) -> list[str]:
        """The columns of the labels after the transformations."""
        if "label_columns" in self.manifest:
            return list(self.manifest["label_columns"])
        return [output for name in self.manifest["labels"] for output in self.fitted.outputs_of(name)]

    @property
    def late_cells(self) -> dict[str, int] | None:
        """Cells of each joined feature that would differ under `as_known=True`: the model will not have them in time.

        All zero for a dataset made with `as_known=True`; None when vacuum or forget had taken what was known back
        then. Of large groups they are counted when first asked for, and kept.
        """
        if "late_cells" not in self.manifest and self.count_late is not None:
            return self.count_late()
        found = self.manifest.get("late_cells")
        return None if found is None else dict(found)

    @property
    def files(self) -> list[str]:
        """The files of the splits, relative to the store's home; empty when it is not materialised."""
        return list(self.manifest.get("files", []))

    @property
    def max_age(self) -> timedelta | None:
        """The age beyond which a feature row counted as missing; None where only the groups' ttl did."""
        micros = self.manifest.get("max_age_microseconds")
        return None if micros is None else timedelta(microseconds=micros)

    @property
    def delta_versions(self) -> dict[str, int]:
        """The pinned Delta version of each feature group, by `<name>_v<version>`."""
        return {name: pin["delta_version"] for name, pin in self.manifest["groups"].items()}

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each split."""
        return {name: part["rows"] for name, part in self.manifest["splits"].items()}


@dataclass(frozen=True)
class Job:
    """What hsfs returns beside the version of a new training dataset. Here the work is done when the call returns."""

    name: str
    state: Literal["FINISHED"] = "FINISHED"
    final_state: Literal["SUCCEEDED"] = "SUCCEEDED"

    def get_state(self) -> str:
        """Always "FINISHED"."""
        return self.state

    def get_final_state(self) -> str:
        """Always "SUCCEEDED": what fails raises instead."""
        return self.final_state


def content_hash(table: pa.Table) -> str:
    """SHA-256 over names, types, nulls and values, whatever the chunks, offsets and padding in memory.

    >>> halves = pa.chunked_array([["a"], [None, "b"]])
    >>> content_hash(pa.table({"x": halves})) == content_hash(pa.table({"x": ["a", None, "b"]}))
    True
    """
    digest = hashlib.sha256()
    for named, column in zip(table.schema, table.columns, strict=True):
        digest.update(json.dumps([named.name, str(named.type), len(column)]).encode())
        _feed(digest, column.combine_chunks())
    return digest.hexdigest()


def _feed(digest: Any, array: pa.Array) -> None:
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    digest.update(np.packbits(pc.is_valid(array).to_numpy(zero_copy_only=False)).tobytes())
    dtype = array.type
    if pa.types.is_string(dtype) or pa.types.is_binary(dtype):
        filled = pc.fill_null(array.cast(pa.binary()), b"")
        digest.update(pc.binary_length(filled).to_numpy(zero_copy_only=False).astype("<i8").tobytes())
        digest.update(_bytes_of(filled))
    elif pa.types.is_boolean(dtype):
        digest.update(np.packbits(pc.fill_null(array, False).to_numpy(zero_copy_only=False)).tobytes())
    elif pa.types.is_timestamp(dtype) or pa.types.is_integer(dtype):
        filled = pc.fill_null(array.cast(pa.int64()), 0)
        digest.update(filled.to_numpy(zero_copy_only=False).astype("<i8").tobytes())
    elif pa.types.is_date32(dtype):
        filled = pc.fill_null(array.cast(pa.int32()), 0)
        digest.update(filled.to_numpy(zero_copy_only=False).astype("<i4").tobytes())
    elif pa.types.is_floating(dtype):
        filled = pc.fill_null(array.cast(pa.float64()), 0.0)
        digest.update(filled.to_numpy(zero_copy_only=False).astype("<f8").tobytes())
    else:  # decimals, lists and structs are rare and small: their text is exact
        digest.update(repr(array.to_pylist()).encode())


def _bytes_of(array: pa.Array) -> Any:
    """The values of a binary array without nulls, end to end."""
    _, offsets, data = array.buffers()
    if data is None:
        return b""
    ends = np.frombuffer(offsets, "<i4")[array.offset : array.offset + len(array) + 1]
    return data.slice(int(ends[0]), int(ends[-1] - ends[0])) if len(ends) else b""


def combined_hash(hashes: Mapping[str, str]) -> str:
    """One hash over the hashes of several splits."""
    return hashlib.sha256(json.dumps(dict(sorted(hashes.items()))).encode()).hexdigest()
