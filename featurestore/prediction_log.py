"""The log of a feature view: what a model was given, what it said, and which model, view and training data that was.

One Delta table per view, in `<home>/logs/<view>_<version>`, appended to by batches. Keys are plain columns, so that
`forget` finds them; everything else has a name that no column of a query can have.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from featurestore import delta_table, loose_tables
from featurestore.engines import duckdb as engine
from featurestore.errors import InvalidData, SchemaMismatch
from featurestore.point_in_time import Plan
from featurestore.scalars import plain
from featurestore.schema import TIMESTAMP, Feature, as_arrow, conform, frame_type
from featurestore.times import TimeLike, parse_time

TIME, REQUEST, PREDICTION = "__request_time", "__request_id", "__prediction"
_RAW, _TRANSFORMED = "__raw.", "__transformed."
_CONTEXT = pa.schema(
    [
        (TIME, TIMESTAMP), (REQUEST, pa.string()), ("__model", pa.string()), ("__model_version", pa.string()),
        ("__view", pa.string()), ("__view_version", pa.int64()), ("__training_dataset_version", pa.int64()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class PredictionLog:
    """The log of one view.

    Args:
        home: the store's folder.
        view, version: the feature view.
        plan: its plan without labels and helper columns.
    """

    home: Path
    view: str
    version: int
    plan: Plan

    @property
    def location(self) -> str:
        """Where the Delta table lies."""
        return str(self.home.resolve() / "logs" / f"{self.view}_{self.version}")

    @property
    def keys(self) -> list[str]:
        """The columns of the left-most group by which features are looked up; each logged row has them."""
        sources, spine = self.plan.sources, self.plan.spine
        giving = {o.source for o in self.plan.outputs if not o.feature.on_demand}
        joined = [left for place, s in enumerate(sources) if s.parent == 0 and place in giving for left, _ in s.keys]
        return list(dict.fromkeys([*(spine.primary_key if 0 in giving else ()), *joined]))

    @property
    def _known_keys(self) -> dict[str, Feature]:
        """The keys there must be, and those of the left-most group that there may be."""
        spine = self.plan.spine
        return {name: spine.feature(name) for name in dict.fromkeys([*self.keys, *spine.primary_key])}

    def append(
        self, raw: pa.Table, transformed: pa.Table, *, keys: pa.Table, predictions: Any, model: str | None,
        model_version: int | str | None, training_dataset_version: int, request_id: Any, request_time: Any,
    ) -> int:  # fmt: skip
        """Write a batch; return how many rows that were: of rows with one request id only the first counts.

        Raises:
            SchemaMismatch: a key is missing; InvalidData: not as many of one thing as of another.
        """
        count = raw.num_rows
        known = self._known_keys
        if missing := [n for n in self.keys if n not in keys.column_names]:
            raise SchemaMismatch(
                f"The log of {self.view} needs the keys {missing} of each row: pass entries=[...], as you passed them "
                "to get_feature_vectors, or a frame that has them."
            )
        given = [feature for name, feature in known.items() if name in keys.column_names]
        keys = conform(keys.select([f.name for f in given]), given, what=f"The log of {self.view}")
        given_ids = [uuid.uuid4().hex for _ in range(count)] if request_id is None else _each(request_id, count)
        ids = [str(i) for i in given_ids]
        times = [parse_time(t) for t in _each(request_time, count)]
        context = {
            TIME: times, REQUEST: ids, "__model": [model] * count, "__view": [self.view] * count,
            "__model_version": [None if model_version is None else str(model_version)] * count,
            "__view_version": [self.version] * count, "__training_dataset_version": [training_dataset_version] * count,
        }  # fmt: skip
        named = {
            **{f.name: pa.array(context[f.name], f.type) for f in _CONTEXT},
            **_named("", keys), **_named(_RAW, raw), **_named(_TRANSFORMED, transformed),
            **_predicted(predictions),
        }  # fmt: skip
        lengths = {name: len(column) for name, column in named.items()}
        if wrong := {name: length for name, length in lengths.items() if length != count}:
            raise InvalidData(f"The log of {self.view}: {count} rows of features, but {wrong} of other columns.")
        rows = pa.table(named)
        if request_id is not None:
            first = {request: place for place, request in reversed(list(enumerate(ids)))}
            rows = rows.take(pa.array(sorted(first.values()), pa.int64()))
        if rows.num_rows:
            loose_tables.append(self.location, rows)
        return rows.num_rows

    def read(
        self, start: TimeLike | None, end: TimeLike | None, *, model: str | None, model_version: int | str | None,
        training_dataset_version: int | None, transformed: bool,
    ) -> pa.Table:  # fmt: skip
        """The rows of `[start, end)` by request time, oldest first; of the features the raw or the transformed ones."""
        low, high = (None if t is None else parse_time(t) for t in (start, end))
        prefix = _TRANSFORMED if transformed else _RAW
        snapshot = delta_table.snapshot(self.location, TIME) if delta_table.exists(self.location) else None
        if snapshot is None or not snapshot.rows:
            raw = [] if transformed else [(o.name, o.feature.type) for o in self.plan.outputs]
            keys = [(n, self._known_keys[n].type) for n in self.keys]
            return pa.schema([*_CONTEXT, *dict([*keys, *raw]).items()]).empty_table()
        schema = delta_table.arrow_schema(self.location)
        there = schema.names
        features = {n.removeprefix(prefix): n for n in there if n.startswith(prefix)}
        columns = {n: n for n in there if not n.startswith("__") or n in _CONTEXT.names}
        columns |= features | {n: n for n in there if n.startswith(PREDICTION)}
        wanted = {"__model": model, "__training_dataset_version": training_dataset_version}
        wanted["__model_version"] = None if model_version is None else str(model_version)
        conditions = [f"{engine.quote(n)} = {engine.literal(v)}" for n, v in wanted.items() if v is not None]
        conditions += [f"{TIME} >= {engine.literal(low)}"] if low is not None else []
        conditions += [f"{TIME} < {engine.literal(high)}"] if high is not None else []
        selected = ", ".join(f"{engine.quote(stored)} AS {engine.quote(name)}" for name, stored in columns.items())
        files = snapshot.between(low, high)
        # With all columns first: files, or a window without files, may lack those that came with other batches.
        parts = ["SELECT * FROM declared", *([f"SELECT * FROM {engine.scan(files, evolved=True)}"] if files else [])]
        rows = f"({' UNION ALL BY NAME '.join(parts)}) WHERE {' AND '.join(conditions or ['TRUE'])}"
        return engine.run(
            f"SELECT {selected} FROM {rows} ORDER BY {TIME}, {REQUEST}", {"declared": schema.empty_table()}
        )


def _named(prefix: str, table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return {prefix + name: column for name, column in zip(table.column_names, table.columns, strict=True)}


def _each(given: Any, count: int) -> list[Any]:
    """One value for all rows, or one for each."""
    if isinstance(given, str | int | float | datetime) or not isinstance(given, Iterable):
        return [given] * count
    return list(given)


def _predicted(predictions: Any) -> dict[str, pa.Array]:
    """The predictions as columns: one without a name, or one for each name; numbers as double, whatever the batch."""
    if predictions is None:
        return {}
    if frame_type(predictions) is not None and not hasattr(predictions, "name"):
        table = as_arrow(predictions)
        return {f"{PREDICTION}.{n}": _column(table.column(n).to_pylist()) for n in table.column_names}
    if isinstance(predictions, Mapping):
        return {f"{PREDICTION}.{n}": _column(values) for n, values in predictions.items()}
    return {PREDICTION: _column(predictions)}


def _column(values: Any) -> pa.Array:
    method = next((m for m in ("tolist", "to_pylist", "to_list") if hasattr(values, m)), None)  # numpy, Arrow, Polars
    listed = values if method is None else getattr(values, method)()
    given = [plain(v) for v in (listed if isinstance(listed, list | tuple) else [listed])]
    if all(v is None or isinstance(v, str) for v in given) and any(given):
        return pa.array(given, pa.string())
    try:
        is_nested = any(isinstance(v, list | tuple) for v in given)
        numbers = [v if v is None or is_nested else float(v) for v in given]
        return pa.array(numbers, pa.list_(pa.float64()) if is_nested else pa.float64())
    except (TypeError, ValueError, pa.ArrowInvalid) as error:
        raise InvalidData(f"Predictions are numbers, lists of numbers or text, got {given[:3]!r}: {error}.") from error
