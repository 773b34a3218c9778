"""The transformations of a view: a plan, fitted on the training split, applied alike to frames and single vectors.

plan = parse({"amount": [impute_median, standard_scaler], "category": one_hot_encoder}, features)
fitted = plan.fit(train)                  # numbers learned from the training rows alone
fitted.transform(table)                   # training and batch data
fitted.compile(names)(row)                # one feature vector, the same bits
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from featurestore.built_in_arithmetic import value_from_json
from featurestore.errors import InvalidData, NotFound, SchemaMismatch, listed
from featurestore.kernels import Kernel, State
from featurestore.schema import parse_dtype, spell_dtype
from featurestore.transformations import TransformationFunction


@dataclass(frozen=True)
class Step:
    """One output name: the columns its first function reads, and the functions in order.

    `drop` are columns the model does not get. Other steps that read `output` read what the last function gave.
    """

    output: str
    inputs: tuple[str, ...]
    functions: tuple[TransformationFunction, ...]
    drop: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{' -> '.join(f.name for f in self.functions)} of {self.output!r}"


@dataclass(frozen=True)
class TransformationPlan:
    """What a view does to its columns, in the order in which it runs; nothing fitted yet. Made by `parse`."""

    columns: tuple[tuple[str, str], ...]
    labels: tuple[str, ...]
    steps: tuple[Step, ...]

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON-ready data; `from_json` reads it back."""
        steps = [
            {
                "output": step.output, "inputs": list(step.inputs), "drop": list(step.drop),
                "functions": [function.to_json() for function in step.functions],
            }
            for step in self.steps
        ]  # fmt: skip
        return {"columns": [list(column) for column in self.columns], "labels": list(self.labels), "steps": steps}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TransformationPlan:
        """The plan that `to_json` described; raises as `TransformationFunction.from_json`."""
        steps = tuple(
            Step(
                step["output"], tuple(step["inputs"]),
                tuple(TransformationFunction.from_json(function) for function in step["functions"]),
                tuple(step["drop"]),
            )
            for step in data["steps"]
        )  # fmt: skip
        return cls(tuple((name, dtype) for name, dtype in data["columns"]), tuple(data["labels"]), steps)

    def fit(self, train: pa.Table) -> FittedTransformations:
        """Learn from the training split, and from nothing else.

        Args:
            train: at least the columns that transformations read, in their declared types; any order of rows.
        Raises:
            SchemaMismatch: a column is missing or of another type, or two outputs have one name.
            InvalidData: a function failed, or looks at other rows.
        """
        columns = _columns(train.schema.names, self)
        _check_present(self, columns)
        known = {name: _declared(train, name, self).combine_chunks() for name in columns & _needed(self.steps)}
        state: dict[str, list[State]] = {}
        for step in _runnable(self, columns):
            arrays = [known[name] for name in step.inputs]
            state[step.output] = []
            for function in step.functions:
                types = [array.type for array in arrays]
                learned = _named(step, function.method.fit, arrays, function.parameters)
                state[step.output].append(learned)
                kernel = function.method.kernel(learned, types)
                arrays = kernel.batch(*arrays)
            known.update(zip(_outputs(step, kernel), arrays, strict=True))
        fitted = FittedTransformations(self, state)
        fitted.output_names_for(train.schema.names)
        return fitted


@dataclass(frozen=True)
class FittedTransformations:
    """A plan and what it learned; the part of a training set that batch and online inference share.

    `state` is JSON-ready: for each output the learned numbers of each function of its chain. Labels and their
    transformations are left out wherever a table or row comes without them.
    """

    plan: TransformationPlan
    state: dict[str, list[State]]

    def to_json(self) -> dict[str, Any]:
        """Plan and state as JSON-ready data; floats come back to the bit."""
        return {"plan": self.plan.to_json(), "state": self.state}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FittedTransformations:
        """What `to_json` described; raises as `TransformationFunction.from_json`."""
        return cls(TransformationPlan.from_json(data["plan"]), data["state"])

    @property
    def output_names(self) -> list[str]:
        """Columns after the transformations, labels included, in order."""
        return self.output_names_for([name for name, _ in self.plan.columns])

    @property
    def output_schema(self) -> pa.Schema:
        """Names and types of all columns after the transformations, labels included, in order."""
        return self._schema(pa.schema([(name, parse_dtype(dtype, name)) for name, dtype in self.plan.columns]))

    def output_names_for(self, names: Sequence[str]) -> list[str]:
        """Columns after the transformations, of a table or row with the columns `names`."""
        return [output for output, _ in self._layout(names)]

    def outputs_of(self, name: str) -> list[str]:
        """The columns that stand for a column, or new output, after the transformations: itself, several, or none."""
        return [output for output, key in self._layout([column for column, _ in self.plan.columns]) if key == name]

    def transform(self, table: pa.Table) -> pa.Table:
        """The table with its columns transformed in place; rows, and columns the plan does not know, as they were.

        Raises:
            SchemaMismatch: a feature that is transformed is missing or of another type than declared, or an output has
                the name of another column.
        """
        names = table.schema.names
        columns = _columns(names, self.plan)
        _check_present(self.plan, columns)
        if not (steps := _runnable(self.plan, columns)):
            return table
        for name in columns & _needed(steps):
            table = table.set_column(names.index(name), name, _declared(table, name, self.plan))
        order = [output for output, _ in self._layout(names)]
        schema = self._schema(table.schema)
        batches = []
        for batch in table.to_batches():  # functions see one row at a time, so chunks change nothing
            known = dict(zip(names, batch.columns, strict=True))
            for step in steps:
                arrays = [known[name] for name in step.inputs]
                for kernel in self._kernels[step.output]:
                    arrays = kernel.batch(*arrays)
                known.update(zip(_outputs(step, kernel), arrays, strict=True))
            batches.append(pa.RecordBatch.from_arrays([known[name] for name in order], schema=schema))
        return pa.Table.from_batches(batches, schema)

    def compile(self, input_names: Sequence[str]) -> Callable[[Sequence[Any]], list[Any]]:
        """The same for one row: plain values in the order of `input_names` to plain values in `output_names_for` them.

        Raises:
            SchemaMismatch: as `transform`; InvalidData, by what is returned, when a row has another length.

        >>> from featurestore.schema import Feature
        >>> from featurestore.transformation_spec import parse
        >>> from featurestore.transformations import min_max_scaler, one_hot_encoder
        >>> columns = [Feature("amount", "double"), Feature("city", "string")]
        >>> plan = parse({"amount": min_max_scaler, "city": one_hot_encoder}, columns)
        >>> fitted = plan.fit(pa.table({"amount": [10.0, 20.0], "city": ["Oslo", "Bern"]}))
        >>> fitted.output_names, fitted.compile(["amount", "city"])([12.5, "Oslo"])
        (['amount', 'city_Bern', 'city_Oslo'], [0.25, False, True])
        """
        names = list(input_names)
        columns = _columns(names, self.plan)
        _check_present(self.plan, columns)
        slots = {name: position for position, name in enumerate(names)}
        operations: list[_Operation] = []
        size = len(names)
        for step in _runnable(self.plan, columns):
            sources = tuple(slots[name] for name in step.inputs)
            kernels = self._kernels[step.output]
            outputs = _outputs(step, kernels[-1])
            function = _composed([kernel.scalar for kernel in kernels])
            operations.append(_Operation(function, sources, size, kernels[-1].suffixes is not None))
            slots.update({output: size + offset for offset, output in enumerate(outputs)})
            size += len(outputs)
        return _program(operations, [slots[output] for output, _ in self._layout(names)], names)

    def inverse(self, name: str, values: Sequence[int | None] | np.ndarray) -> list[Any]:
        """The values that codes of a column encoded by `label_encoder` stand for; None for -1 and null.

        Raises:
            NotFound: the column's last function is not `label_encoder`.
            InvalidData: a code that was never given out.
        """
        step = next((step for step in self.plan.steps if step.output == name), None)
        if step is None or step.functions[-1].name != "label_encoder" or name not in self.state:
            encoded = [s.output for s in self.plan.steps if s.functions[-1].name == "label_encoder"]
            raise NotFound(f"{name!r} is not encoded by label_encoder (encoded are: {listed(encoded, 'none')}).")
        dtype = self._input_types[name][-1][0]
        categories = [value_from_json(category, dtype) for category in self.state[name][-1]["categories"]]
        decoded: list[Any] = []
        for code in values:
            if code is None or code != code or code == -1:
                decoded.append(None)
            elif 0 <= code < len(categories) and int(code) == code:
                decoded.append(categories[int(code)])
            else:
                raise InvalidData(f"{code!r} is no code of {name!r}: expected -1 to {len(categories) - 1}.")
        return decoded

    @cached_property
    def _fitted(self) -> tuple[dict[str, list[Kernel]], dict[str, list[tuple[pa.DataType, ...]]]]:
        """Kernels of each step, and the types each of them reads, by output name."""
        types = {name: parse_dtype(dtype, name) for name, dtype in self.plan.columns}
        kernels: dict[str, list[Kernel]] = {}
        read: dict[str, list[tuple[pa.DataType, ...]]] = {}
        for step in self.plan.steps:
            if step.output not in self.state:  # a label that the training split came without
                continue
            current = tuple(types[name] for name in step.inputs)
            kernels[step.output], read[step.output] = [], []
            for function, state in zip(step.functions, self.state[step.output], strict=True):
                read[step.output].append(current)
                kernel = function.method.kernel(state, current)
                kernels[step.output].append(kernel)
                current = kernel.types
            types.update(zip(_outputs(step, kernel), current, strict=True))
        return kernels, read

    @property
    def _kernels(self) -> dict[str, list[Kernel]]:
        return self._fitted[0]

    @property
    def _input_types(self) -> dict[str, list[tuple[pa.DataType, ...]]]:
        return self._fitted[1]

    def _layout(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """Output columns in order, each with the input column or new output it stands for."""
        steps = {step.output: step for step in _runnable(self.plan, set(names)) if step.output in self._kernels}
        key_of = {output: key for key, step in steps.items() for output in _outputs(step, self._kernels[key][-1])}
        order, added = list(names), set()
        for step in steps.values():
            if step.output not in order:
                behind = 1 + max(order.index(name if name in order else key_of[name]) for name in step.inputs)
                while behind < len(order) and order[behind] in added:
                    behind += 1
                order.insert(behind, step.output)
                added.add(step.output)
        dropped = {column for step in steps.values() for column in step.drop}
        layout: list[tuple[str, str]] = []
        origin: dict[str, str] = {}
        for key in order:
            if key in dropped:
                continue
            made_by = steps.get(key)
            what = "a column of the view" if made_by is None else f"a result of {made_by}"
            for output in [key] if made_by is None else _outputs(made_by, self._kernels[key][-1]):
                if output in origin:
                    raise SchemaMismatch(name_clash(output, what, origin[output]))
                origin[output] = what
                layout.append((output, key))
        return layout

    def _schema(self, schema: pa.Schema) -> pa.Schema:
        made = {
            output: dtype
            for step in self.plan.steps
            if step.output in self._kernels
            for kernel in self._kernels[step.output][-1:]
            for output, dtype in zip(_outputs(step, kernel), kernel.types, strict=True)
        }
        replaced = {step.output for step in self.plan.steps}
        return pa.schema(
            [
                pa.field(output, made[output]) if key in replaced else schema.field(output)
                for output, key in self._layout(schema.names)
            ]
        )


def _columns(names: Sequence[str], plan: TransformationPlan) -> set[str]:
    return set(names).intersection(name for name, _ in plan.columns)


def _needed(steps: Sequence[Step]) -> set[str]:
    return {name for step in steps for name in step.inputs}


def _writes_label(step: Step, plan: TransformationPlan) -> bool:
    return step.output in plan.labels


def _runnable(plan: TransformationPlan, names: set[str]) -> list[Step]:
    """The steps without those of labels that are not there."""
    return [step for step in plan.steps if not _writes_label(step, plan) or step.output in names]


def _check_present(plan: TransformationPlan, names: set[str]) -> None:
    declared = {name for name, _ in plan.columns}
    for step in _runnable(plan, names):
        for name in step.inputs:
            if name in declared and name not in names:
                listed = ", ".join(sorted(names)) or "none"
                raise SchemaMismatch(
                    f"{step} reads the column {name!r}, which is missing (of the view's there are: {listed})."
                )


def _declared(table: pa.Table, name: str, plan: TransformationPlan) -> pa.ChunkedArray:
    """A column in its declared type; other spellings of the type (large or dictionary-encoded text) are cast."""
    column = table.column(name)
    declared = parse_dtype(dict(plan.columns)[name], name)
    if column.type == declared:
        return column
    if parse_dtype(column.type, name) != declared:
        raise SchemaMismatch(
            f"Column {name!r} is {column.type}, but the transformations were declared for {spell_dtype(declared)}. "
            "Pass the view's own data, or create the view's next version."
        )
    return column.cast(declared)


def _outputs(step: Step, kernel: Kernel) -> list[str]:
    return [step.output] if kernel.suffixes is None else [f"{step.output}_{suffix}" for suffix in kernel.suffixes]


def _named(step: Step, fit: Callable[..., State], *arguments: Any) -> State:
    try:
        return fit(*arguments)
    except InvalidData as error:
        raise InvalidData(f"{step}: {error}") from error


def _composed(functions: list[Callable[..., Any]]) -> Callable[..., Any]:
    first, *rest = functions
    if not rest:
        return first
    if len(rest) == 1:
        second = rest[0]
        return lambda *values: second(first(*values))

    def chain(*values: Any) -> Any:
        value = first(*values)
        for function in rest:
            value = function(value)
        return value

    return chain


class _Operation(NamedTuple):
    """One step over slots: a row's values first, behind them what the steps gave."""

    function: Callable[..., Any]
    sources: tuple[int, ...]
    target: int
    is_several: bool


def _program(operations: list[_Operation], order: list[int], names: list[str]) -> Callable[[Sequence[Any]], list[Any]]:
    """A function that fills the slots and picks the outputs from them."""
    expected = len(names)

    def slots_of(row: Sequence[Any]) -> list[Any]:
        slots = list(row)
        if len(slots) != expected:
            raise InvalidData(f"The row has {len(slots)} values, expected {expected}: {', '.join(names)}.")
        return slots

    # Where each step replaces the one value it reads, which is the usual view, the slots are already the outputs.
    replaced = {op.target: op.sources[0] for op in operations if len(op.sources) == 1 and not op.is_several}
    in_place = len(replaced) == len(operations) and set(replaced) <= set(order)
    if in_place and [replaced.get(slot, slot) for slot in order] == list(range(expected)):
        steps = [(op.function, op.sources[0]) for op in operations]

        def replace_values(row: Sequence[Any]) -> list[Any]:
            slots = slots_of(row)
            for function, position in steps:
                slots[position] = function(slots[position])
            return slots

        return replace_values

    def run(row: Sequence[Any]) -> list[Any]:
        slots = slots_of(row)
        for function, sources, _, is_several in operations:
            result = function(slots[sources[0]]) if len(sources) == 1 else function(*[slots[s] for s in sources])
            if is_several:
                slots.extend(result)
            else:
                slots.append(result)
        return [slots[position] for position in order]

    return run


def name_clash(name: str, one: str, other: str) -> str:
    """What to say of two columns with one name; `one` and `other` say where they come from."""
    return (
        f"Two columns would be called {name!r}: {one}, and {other}. Rename the column, or give the transformation "
        "another output name."
    )
