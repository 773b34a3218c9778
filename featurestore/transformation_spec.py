"""A view's `transformation_functions` as a plan: chains of functions, checked, in the order of their dependencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from featurestore.errors import SchemaMismatch
from featurestore.schema import Feature, spell_dtype
from featurestore.transformation_plan import Step, TransformationPlan, name_clash
from featurestore.transformations import TransformationFunction

Spec = Mapping[str, "TransformationFunction | Sequence[TransformationFunction]"] | Sequence[TransformationFunction]


def parse(spec: Spec | None, features: Sequence[Feature], *, labels: Sequence[str] = ()) -> TransformationPlan:
    """The plan that a view's `transformation_functions` describe.

    Args:
        spec: functions by the name of the column they give, `{"amount": [impute_median, standard_scaler]}`; or a list
            of functions, each bound to its columns, `[min_max_scaler("amount"), ratio]`, where one column's functions
            form a chain in their order. An existing column is replaced in place. A new name is a column added behind
            those it is made of: `{"log_amount": log_transform("amount")}`, or in a list a function of several columns
            under its own name.
        features: the view's columns, labels included.
        labels: which of them are labels. They may be transformed, but no feature may be made from them.
    Returns:
        The steps in dependency order: a function that reads a column another one gives reads the result.
    Raises:
        SchemaMismatch: a column does not exist or is of the wrong type, functions depend on each other in a circle, a
            function after the first of a chain reads several columns, a feature is made from a label, or two outputs
            have one name.

    >>> from featurestore.transformations import impute_mean, min_max_scaler, standard_scaler
    >>> columns = [Feature("amount", "double"), Feature("city", "string")]
    >>> [str(step) for step in parse({"amount": [impute_mean, min_max_scaler]}, columns).steps]
    ["impute_mean -> min_max_scaler of 'amount'"]
    >>> parse({"city": standard_scaler}, columns)
    Traceback (most recent call last):
        ...
    featurestore.errors.SchemaMismatch: standard_scaler of 'city': 'city' is string, expected a number; encode text ...
    """
    types = {feature.name: feature.type for feature in features}
    steps = [_step(output, chain, types) for output, chain in _chains(spec).items()]
    ordered = _in_dependency_order(steps, types)
    _check_labels(ordered, set(labels))
    _check_types(ordered, types)
    columns = tuple((feature.name, spell_dtype(feature.type)) for feature in features)
    return TransformationPlan(columns, tuple(labels), tuple(ordered))


def _chains(spec: Spec | None) -> dict[str, list[TransformationFunction]]:
    """Functions by output name, in the order given."""
    chains: dict[str, list[TransformationFunction]] = {}
    if isinstance(spec, Mapping):
        for output, given in spec.items():
            chains[output] = [given] if isinstance(given, str) or not isinstance(given, Sequence) else list(given)
            if not chains[output]:
                raise SchemaMismatch(
                    f"The list of transformations of {output!r} is empty. Leave the column out instead."
                )
    else:
        for function in [spec] if isinstance(spec, TransformationFunction) else list(spec or []):
            _check_function(function, "the list of transformations")
            chains.setdefault(_listed_output(function), []).append(function)
    for output, chain in chains.items():
        for function in chain:
            _check_function(function, f"the transformations of {output!r}")
    return chains


def _check_function(function: object, where: str) -> None:
    if isinstance(function, TransformationFunction):
        return
    what = (
        repr(function) if not callable(function) else f"{getattr(function, '__name__', function)!r}, a plain function"
    )
    raise SchemaMismatch(
        f"Among {where} is {what}: expected a transformation function. Use a built-in such as "
        "featurestore.transformations.standard_scaler, or put @udf on your own."
    )


def _listed_output(function: TransformationFunction) -> str:
    columns = function.columns or function.method.inputs
    if columns is None:
        raise SchemaMismatch(
            f"{function.name} in a list needs its column: write {function.name}('amount'), or use a dict."
        )
    return columns[0] if len(columns) == 1 else function.name


def _step(output: str, chain: list[TransformationFunction], types: Mapping[str, pa.DataType]) -> Step:
    first = chain[0]
    names = first.method.inputs
    inputs = first.columns or names or (output,)
    if not first.columns and names is not None and len(names) == 1 and output in types:
        inputs = (output,)
    for later in chain[1:]:
        if later.method.inputs is not None and len(later.method.inputs) > 1:
            raise SchemaMismatch(
                f"{later.name} in the chain of {output!r} reads {len(later.method.inputs)} columns; behind another "
                "function it would get one. Give it an output of its own."
            )
        if later.columns and later.columns != (output,):
            raise SchemaMismatch(
                f"{later!r} in the chain of {output!r} is bound to another column, but gets what the function before "
                f"it returned. Write {later.name} without a column."
            )
    # Only the first function reads columns, so only it can take them from the model.
    drop = {column for parameter, column in zip(names or (), inputs, strict=False) if parameter in first.method.drop}
    return Step(output, tuple(inputs), tuple(chain), tuple(sorted(drop - {output})))


def _static_outputs(step: Step) -> tuple[str, ...]:
    """The column names a step gives, as far as they are known before fitting."""
    suffixes = step.functions[-1].method.suffixes
    return (step.output,) if suffixes is None else tuple(f"{step.output}_{suffix}" for suffix in suffixes)


def _in_dependency_order(steps: list[Step], types: Mapping[str, pa.DataType]) -> list[Step]:
    giver = {name: step for step in steps for name in _static_outputs(step)}
    replaced = {step.output: step for step in steps}
    ordered: list[Step] = []

    def visit(step: Step, path: list[Step]) -> None:
        if step in ordered:
            return
        if step in path:
            circle = [*path[path.index(step) :], step]
            raise SchemaMismatch(
                f"Transformations depend on each other in a circle: {' needs '.join(repr(s.output) for s in circle)}. "
                "Give one of them an output name of its own, so that the other can read the raw column."
            )
        for name in step.inputs:
            if name in giver and giver[name] is not step:
                visit(giver[name], [*path, step])
            elif name in replaced and replaced[name] is not step:
                raise SchemaMismatch(
                    f"{step} reads {name!r}, which {replaced[name]} turns into several columns. "
                    "Give that one an output name of its own, so that the column stays."
                )
            elif name not in types:
                made = sorted(set(giver) - set(types) - {step.output})
                listed = ", ".join([*types, *made]) or "none"
                raise SchemaMismatch(f"{step} reads the column {name!r}, which does not exist (columns: {listed}).")
        ordered.append(step)

    for step in steps:
        visit(step, [])
    return ordered


def _check_labels(steps: list[Step], labels: set[str]) -> None:
    known_late = labels.union(*(_static_outputs(step) for step in steps if step.output in labels))
    for step in steps:
        if (read := known_late.intersection(step.inputs)) and step.output not in labels:
            raise SchemaMismatch(
                f"{step} makes a feature from the label {sorted(read)[0]!r}, which is not known at prediction time. "
                "Leave the label out, or transform it under its own name."
            )


def _check_types(steps: list[Step], types: Mapping[str, pa.DataType]) -> None:
    known = dict(types)
    origin = dict.fromkeys(types, "a column of the view")
    for step in steps:
        for output in _static_outputs(step):
            if output in origin and not (output == step.output and output in types):
                raise SchemaMismatch(name_clash(output, f"a result of {step}", origin[output]))
            origin[output] = f"a result of {step}"
        current: tuple[pa.DataType, ...] | None = tuple(known[name] for name in step.inputs)
        for position, function in enumerate(step.functions):
            if current is None or (position and len(current) != 1):
                raise SchemaMismatch(
                    f"{function.name} follows {step.functions[position - 1].name} in the chain of {step.output!r}, "
                    "which gives several columns. Put it last."
                )
            try:
                current = function.method.output_types(current, function.parameters)
            except SchemaMismatch as error:
                what = repr(step.inputs[0]) if not position else f"what {step.functions[position - 1].name} gives"
                raise SchemaMismatch(f"{function.name} of {step.output!r}: {what} {error}.") from None
        known.update(zip(_static_outputs(step), current or (), strict=False))
