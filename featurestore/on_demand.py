"""On-demand features: a group's own functions, run on history when it is inserted and on each request when served.

    @udf(float, drop=["now"])
    def age_years(born, now):
        return None if born is None else (now - born).days / 365.25

    people = fs.get_or_create_feature_group("people", 1, primary_key=["id"], ..., transformation_functions=[age_years])
    people.insert(frame)                                    # `frame` has `now`; the group stores `age_years` instead
    view.get_feature_vector({"id": 1}, request_parameters={"now": datetime.now(UTC)})

One definition serves both, so history and requests cannot differ. It is stored by reference, as every custom function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from featurestore.errors import InvalidData, SchemaMismatch
from featurestore.point_in_time import Plan
from featurestore.scalars import Accept, acceptor, plain
from featurestore.schema import Feature, as_arrow, conform
from featurestore.transformations import TransformationFunction

Spec = Mapping[str, TransformationFunction] | Sequence[TransformationFunction]


@dataclass(frozen=True)
class OnDemandFunction:
    """One function of a group: the columns or request parameters it reads, and the features it gives.

    Args:
        drop: inputs that are no columns of the group: frames bring them, requests bring them, nobody stores them.
        reference: where the function is found again; it is imported only when it has to run.
    """

    inputs: tuple[str, ...]
    outputs: tuple[Feature, ...]
    drop: tuple[str, ...]
    reference: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The function as JSON-ready data."""
        return {
            "inputs": list(self.inputs), "outputs": [o.to_json() for o in self.outputs], "drop": list(self.drop),
            "function": dict(self.reference),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> OnDemandFunction:
        """What `to_json` described."""
        outputs = tuple(Feature.from_json(o) for o in data["outputs"])
        return cls(tuple(data["inputs"]), outputs, tuple(data["drop"]), data["function"])

    def load(self) -> TransformationFunction:
        """The function itself.

        Raises:
            NotFound: it is no longer where it was defined.
            NotReproducible: its source has changed since.
        """
        return TransformationFunction.from_json(dict(self.reference))


def parse(spec: Spec | None, what: str) -> tuple[OnDemandFunction, ...]:
    """The functions that a group's `transformation_functions` describe: a list, or a dict by name of the feature.

    Raises:
        SchemaMismatch: a built-in, two functions of one output, or one that reads what another gives.
    """
    named = spec.items() if isinstance(spec, Mapping) else [(None, function) for function in spec or ()]
    parsed = tuple(_parsed(name, function, what) for name, function in named)
    given = [o.name for f in parsed for o in f.outputs]
    if repeated := sorted({n for n in given if given.count(n) > 1}):
        raise SchemaMismatch(f"{what}: several on-demand functions give {repeated}. Name them by a dict.")
    for function in parsed:
        if chained := [n for n in function.inputs if n in given]:
            raise SchemaMismatch(
                f"{what}: the on-demand function of {function.outputs[0].name!r} reads {chained}, which on-demand "
                "functions give. Compute both in one function with several results."
            )
    return parsed


def _parsed(name: str | None, function: TransformationFunction, what: str) -> OnDemandFunction:
    reference = function.to_json() if isinstance(function, TransformationFunction) else {}
    if "reference" not in reference or not isinstance(function, TransformationFunction):
        raise SchemaMismatch(
            f"{what}: {function!r} is not an on-demand function. Write your own with @udf; built-in functions are "
            "fitted on training data and belong to a feature view."
        )
    parameters = function.method.inputs or ()
    inputs = function.columns or parameters
    dropped = function.method.drop
    drop = tuple(column for parameter, column in zip(parameters, inputs, strict=True) if parameter in dropped)
    if drop and getattr(function.method, "mode", "scalar") == "pandas":
        raise SchemaMismatch(
            f"{what}: {function.name} drops {list(drop)} and takes Series. Of an input that is not stored nobody knows "
            "the dtype: write it with mode='scalar', or keep the column."
        )
    types = function.method.output_types((), function.parameters) or ()
    output = name or function.name
    names = [output] if len(types) == 1 else [f"{output}_{i}" for i in range(len(types))]
    outputs = tuple(
        Feature(n, t, function.description, on_demand=True) for n, t in zip(names, types, strict=True)
    )  # fmt: skip
    return OnDemandFunction(tuple(inputs), outputs, drop, reference)


def declared(features: Sequence[Feature], functions: Sequence[OnDemandFunction], what: str) -> list[Feature]:
    """The group's columns with what its functions give, behind the others or where it was declared.

    Raises:
        SchemaMismatch: an input is neither a column nor dropped, or an output is declared with another dtype.
    """
    outputs = {o.name: o for f in functions for o in f.outputs}
    columns = []
    for feature in features:
        output = outputs.pop(feature.name, None)
        if output is not None and output.type != feature.type:
            raise SchemaMismatch(
                f"{what}: {feature.name!r} is declared as {feature.dtype}, but its function gives {output.dtype}."
            )
        columns.append(feature if output is None else replace(feature, on_demand=True))
    columns += outputs.values()
    names = {f.name for f in columns}
    for function in functions:
        if unknown := [n for n in function.inputs if n not in names and n not in function.drop]:
            raise SchemaMismatch(
                f"{what}: the on-demand function of {function.outputs[0].name!r} reads {unknown}, which the group does "
                f"not store (columns: {sorted(names)}). Store them, or name them in the function's drop=[...]."
            )
        if stored := [n for n in function.drop if n in names]:
            raise SchemaMismatch(f"{what}: {stored} are columns of the group, and its function drops them. Do one.")
    return columns


def computed(frame: Any, functions: Sequence[OnDemandFunction], features: Sequence[Feature], what: str) -> Any:
    """A batch, or a stream of batches, with the functions' results in place of the inputs that are not stored.

    Raises:
        SchemaMismatch: an input is missing, or the frame already has a result.
        InvalidData: a function failed, or its result is not of the declared type.
    """
    if not functions:
        return frame
    is_frame = isinstance(frame, pa.Table | pa.RecordBatch) or hasattr(frame, "shape")
    if is_frame or not hasattr(frame, "__arrow_c_stream__"):
        return _computed(as_arrow(frame), functions, features, what)
    stream = pa.RecordBatchReader.from_stream(frame)
    schema = _computed(stream.schema.empty_table(), functions, features, what).schema

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in stream:
            yield from _computed(pa.Table.from_batches([batch]), functions, features, what).to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())


def _computed(
    table: pa.Table, functions: Sequence[OnDemandFunction], features: Sequence[Feature], what: str
) -> pa.Table:
    known = {f.name: f for f in features}
    dropped = {n for f in functions for n in f.drop}
    results: list[tuple[str, pa.Array]] = []
    for function in functions:
        names = [o.name for o in function.outputs]
        if there := [n for n in names if n in table.column_names]:
            raise SchemaMismatch(f"{what}: {there} are computed by {function.reference['reference']}: leave them out.")
        if missing := [n for n in function.inputs if n not in table.column_names]:
            raise SchemaMismatch(
                f"{what}: the on-demand function of {names[0]!r} reads {missing}, which the frame lacks; it has "
                f"{table.column_names}."
            )
        wanted = [known.get(n) or Feature(n, table.schema.field(n).type) for n in dict.fromkeys(function.inputs)]
        inputs = conform(table.select([f.name for f in wanted]), wanted, what=what).combine_chunks()
        arrays = [_one_chunk(inputs.column(n)) for n in function.inputs]
        method = (loaded := function.load()).method
        state = method.fit(arrays, loaded.parameters)
        results += zip(names, method.kernel(state, [a.type for a in arrays]).batch(*arrays), strict=True)
    kept = table.select([n for n in table.column_names if n not in dropped])
    for name, array in results:
        kept = kept.append_column(name, array)
    return kept


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.array([], column.type)


@dataclass(frozen=True)
class _Input:
    """One input: its request parameter, and the slot of the view's own feature that stands in for it."""

    name: str
    slot: int | None
    accept: Accept


@dataclass(frozen=True)
class _Step:
    function: Callable[..., Any]
    inputs: tuple[_Input, ...]
    slots: tuple[int | None, ...]  # where each result goes; None where the view does not select it
    names: tuple[str, ...]
    is_several: bool


class RequestFunctions:
    """The on-demand functions that a view's features come from, over the slots of its vectors.

    Args:
        plan: the view's plan; its outputs are the slots.
        functions: the functions of each source's group, by its place in the plan.
        view: for messages.
    """

    def __init__(self, plan: Plan, functions: Mapping[int, Sequence[OnDemandFunction]], view: str) -> None:
        self._view = view
        self._names = [o.name for o in plan.outputs]
        self._types = [o.feature.type for o in plan.outputs]
        self._steps: list[_Step] = []
        for place, of_group in functions.items():
            slots = {o.column: slot for slot, o in enumerate(plan.outputs) if o.source == place}
            features = {f.name: f for f in plan.sources[place].definition.features}
            for function in of_group:
                if any(o.name in slots for o in function.outputs):
                    self._steps.append(self._step(function, slots, features, plan))
        self.slots = frozenset(slot for step in self._steps for slot in step.slots if slot is not None)
        """The slots that functions fill."""
        self.reads = frozenset(i.slot for step in self._steps for i in step.inputs if i.slot is not None)
        """The slots that functions read."""
        self._accept = {i.name: i.accept for step in self._steps for i in step.inputs}
        self.parameters = list(dict.fromkeys(i.name for s in self._steps for i in s.inputs if i.slot is None))
        """What every request must bring: inputs that no feature of the view stands in for."""

    @staticmethod
    def _step(
        function: OnDemandFunction, slots: Mapping[str, int], features: Mapping[str, Feature], plan: Plan
    ) -> _Step:
        loaded = function.load()
        types = [features[n].type if n in features else pa.null() for n in function.inputs]
        kernel = loaded.method.kernel(loaded.method.fit([pa.nulls(0, t) for t in types], loaded.parameters), types)
        inputs = tuple(
            _Input(n, slots.get(n), acceptor(features[n], "request_parameters") if n in features else plain)
            for n in function.inputs
        )
        targets = tuple(slots.get(o.name) for o in function.outputs)
        names = tuple(plan.outputs[t].name for t in targets if t is not None)
        return _Step(kernel.scalar, inputs, targets, names, kernel.suffixes is not None)

    def rows(
        self, rows: Sequence[Mapping[str, Any]], request: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
    ) -> list[dict[str, Any]]:
        """Rows by name with the results of all functions, from the rows' own values and from the request's parameters.

        Raises:
            SchemaMismatch: as `accepted`; InvalidData: not one mapping for each row.
        """
        requests = [request or {}] * len(rows) if request is None or isinstance(request, Mapping) else request
        if len(requests) != len(rows):
            raise InvalidData(f"{len(rows)} rows but {len(requests)} request_parameters; give one for each, or one.")
        stand_ins = {i.name: self._names[i.slot] for s in self._steps for i in s.inputs if i.slot is not None}
        stand_ins |= {name: name for name in self.parameters}
        computed = []
        for row, asked in zip(rows, requests, strict=True):
            own = {name: row[stand_in] for name, stand_in in stand_ins.items() if stand_in in row}
            if lacking := [n for n in stand_ins if n not in own and n not in asked]:
                raise SchemaMismatch(
                    f"{self._view}: on-demand functions read {lacking}, which neither the row (it has {list(row)}) nor "
                    "request_parameters bring."
                )
            values: list[Any] = [None] * len(self._names)
            self.fill(values, self.accepted({**own, **asked}, {}, allow_missing=False), {})
            computed.append({**row, **{self._names[slot]: values[slot] for slot in sorted(self.slots)}})
        return computed

    def table(self, table: pa.Table, request: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> pa.Table:
        """`rows` over a table: the results in place of columns of their names, or at the end."""
        rows = self.rows(table.to_pylist(), request)
        for slot in sorted(self.slots):
            name = self._names[slot]
            place = table.schema.get_field_index(name)
            table = table.remove_column(place) if place >= 0 else table
            column = pa.array([row[name] for row in rows], self._types[slot])
            table = table.add_column(place if place >= 0 else table.num_columns, name, column)
        return table

    def accepted(self, request: Mapping[str, Any], given: Mapping[int, Any], *, allow_missing: bool) -> dict[str, Any]:
        """The request's parameters, checked by name and type.

        Raises:
            SchemaMismatch: an unknown name, a value of another type, or a parameter that is missing.
        """
        if unknown := [n for n in request if n not in self._accept]:
            raise SchemaMismatch(
                f"request_parameters {unknown} are no inputs of on-demand functions of {self._view}; there are "
                f"{list(self._accept)}."
            )
        accepted = {name: self._accept[name](value) for name, value in request.items()}
        for step in [] if allow_missing else self._steps:
            if _is_given(step, given):
                continue
            if missing := [i.name for i in step.inputs if i.slot is None and i.name not in request]:
                raise SchemaMismatch(
                    f"{self._view} computes {list(step.names)} from the request: put {missing} in request_parameters."
                )
        return accepted

    def fill(self, vector: list[Any], request: Mapping[str, Any], given: Mapping[int, Any]) -> None:
        """Compute the slots that did not come with the request, in place; null where a parameter is missing."""
        for step in self._steps:
            if _is_given(step, given):
                continue
            if any(i.slot is None and i.name not in request for i in step.inputs):
                continue
            values = [request[i.name] if i.name in request else vector[i.slot or 0] for i in step.inputs]
            result = step.function(*values)
            for slot, value in zip(step.slots, result if step.is_several else (result,), strict=True):
                if slot is not None and slot not in given:
                    vector[slot] = value


def _is_given(step: _Step, given: Mapping[int, Any]) -> bool:
    return all(slot is None or slot in given for slot in step.slots)
