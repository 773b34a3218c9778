"""A user's own function as a transformation: over values or Series, checked against the types it declares."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import InvalidData, SchemaMismatch
from featurestore.kernels import DOUBLE, Kernel, Parameters, State, is_finite_number
from featurestore.schema import parse_dtype, spell_dtype
from featurestore.times import parse_time

if TYPE_CHECKING:
    import pandas as pd

Mode = Literal["scalar", "pandas"]

_PYTHON_TYPES: dict[type, str] = {
    float: "double", int: "bigint", str: "string", bool: "boolean", bytes: "binary",
    datetime: "timestamp", date: "date",
}  # fmt: skip


@dataclass(frozen=True)
class CustomFunction:
    """What a user's function does, and where it is found again: it learns nothing but the parameters it was given."""

    function: Callable[..., Any] = field(compare=False)
    inputs: tuple[str, ...]
    defaults: Parameters = field(hash=False)
    drop: tuple[str, ...]
    returns: tuple[pa.DataType, ...]
    mode: Mode
    reference: str
    source_hash: str
    nulls: bool = False

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return None if len(self.returns) == 1 else tuple(str(i) for i in range(len(self.returns)))

    def problem(self, parameters: Parameters) -> str | None:
        for name, value in parameters.items():
            if value is not None and not isinstance(value, str | bool) and not is_finite_number(value):
                return f"{name}={value!r}: expected text, a finite number, a boolean or None, which can be stored."
        return None

    def output_types(self, _types: Sequence[pa.DataType], _parameters: Parameters) -> tuple[pa.DataType, ...]:
        return self.returns

    def fit(self, columns: Sequence[pa.Array], parameters: Parameters) -> State:
        if self.mode == "pandas" and len(columns[0]):
            self._check_row_wise(columns, parameters)
        return {"parameters": dict(parameters)}

    def _check_row_wise(self, columns: Sequence[pa.Array], parameters: Parameters) -> None:
        whole = self._on_series(parameters, *columns)
        for row in {0, len(columns[0]) // 2, len(columns[0]) - 1}:
            alone = self._on_series(parameters, *(column.slice(row, 1) for column in columns))
            for together, single in zip(whole, alone, strict=True):
                if not together.slice(row, 1).equals(single):
                    raise InvalidData(
                        f"Function {self.function.__name__!r} gives {together[row].as_py()!r} for row {row} among the "
                        f"others and {single[0].as_py()!r} for the row alone: it looks at other rows, so a feature "
                        "vector would differ from the training data. Compute from the row alone, or use a built-in."
                    )

    def kernel(self, state: State, types: Sequence[pa.DataType]) -> Kernel:
        parameters = state["parameters"]
        suffixes = self.suffixes
        if self.mode == "scalar":
            scalar = self._on_values(parameters)
            return Kernel(partial(self._on_columns, scalar), scalar, self.returns, suffixes)
        batch = partial(self._on_series, parameters)

        def one_row(*values: Any) -> Any:
            row = [pa.array([value], dtype) for value, dtype in zip(values, types, strict=True)]
            results = tuple(column[0].as_py() for column in batch(*row))
            return results[0] if suffixes is None else results

        return Kernel(batch, one_row, self.returns, suffixes)

    def _on_values(self, parameters: Parameters) -> Callable[..., Any]:
        function = partial(self.function, **parameters) if parameters else self.function
        exact = [partial(_exact, dtype=dtype, function=self.function.__name__) for dtype in self.returns]

        def scalar(*values: Any) -> Any:
            values = tuple(None if value != value else value for value in values)
            if not self.nulls and None in values:
                return None if len(exact) == 1 else (None,) * len(exact)
            try:
                result = function(*values)
            except Exception as error:  # a user's function may raise anything; say which one and on what
                raise InvalidData(f"Function {self.function.__name__!r} failed on {values!r}: {error!r}.") from error
            if len(exact) == 1:
                return exact[0](result)
            if not isinstance(result, tuple | list) or len(result) != len(exact):
                raise InvalidData(
                    f"Function {self.function.__name__!r} returned {result!r}: expected a tuple of {len(exact)} values."
                )
            return tuple(convert(value) for convert, value in zip(exact, result, strict=True))

        return scalar

    def _on_columns(self, scalar: Callable[..., Any], *columns: pa.Array) -> list[pa.Array]:
        rows = [scalar(*values) for values in zip(*(column.to_pylist() for column in columns), strict=True)]
        if len(self.returns) == 1:
            return [pa.array(rows, self.returns[0])]
        return [pa.array([row[i] for row in rows], dtype) for i, dtype in enumerate(self.returns)]

    def _on_series(self, parameters: Parameters, *columns: pa.Array) -> list[pa.Array]:
        import pandas as pd

        name = self.function.__name__
        try:
            result = self.function(*(_to_series(column) for column in columns), **parameters)
        except Exception as error:  # a user's function may raise anything; say which one
            raise InvalidData(f"Function {name!r} failed on {len(columns[0])} rows: {error!r}.") from error
        if isinstance(result, pd.DataFrame):
            results = [result[column] for column in result.columns]
        else:
            results = list(result) if isinstance(result, tuple) else [result]
        if len(results) != len(self.returns) or any(len(series) != len(columns[0]) for series in results):
            raise InvalidData(
                f"Function {name!r} returned {len(results)} columns of {', '.join(str(len(s)) for s in results)} rows: "
                f"expected {len(self.returns)} of {len(columns[0])}."
            )
        return [_from_series(s, dtype, name) for s, dtype in zip(results, self.returns, strict=True)]


def _to_series(column: pa.Array) -> pd.Series:
    """A Series whose dtype depends on the column's type alone, not on whether there are nulls in it."""
    import pandas as pd

    if pa.types.is_integer(column.type):
        nullable = {pa.int8(): pd.Int8Dtype(), pa.int16(): pd.Int16Dtype(), pa.int32(): pd.Int32Dtype()}
        dtype = nullable.get(column.type, pd.Int64Dtype())
        return column.to_pandas(types_mapper={column.type: dtype}.get)
    if pa.types.is_boolean(column.type):
        return column.to_pandas(types_mapper={column.type: pd.BooleanDtype()}.get)
    return column.to_pandas()


def _from_series(values: Any, dtype: pa.DataType, function: str) -> pa.Array:
    import pandas as pd

    try:
        array = pa.Array.from_pandas(pd.Series(values))
        if pa.types.is_string(array.type) != pa.types.is_string(dtype) and not pa.types.is_null(array.type):
            array = array.cast(pa.string()) if pa.types.is_large_string(array.type) else array
            if pa.types.is_string(array.type) != pa.types.is_string(dtype):
                raise pa.ArrowInvalid(f"it is {array.type}")
        array = array.cast(dtype)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise InvalidData(
            f"Function {function!r} returned a column that is not {spell_dtype(dtype)}, which it declares: {error}."
        ) from error
    if pa.types.is_floating(dtype):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, dtype), array)
    return array


def _exact(value: Any, *, dtype: pa.DataType, function: str) -> Any:
    """What a user's function returned, as the plain value that a column of the declared type gives back."""
    if value is None or value != value:
        return None
    if hasattr(value, "item"):  # a numpy number
        value = value.item()
    fits = (
        isinstance(value, bool) if pa.types.is_boolean(dtype)
        else isinstance(value, str) if pa.types.is_string(dtype)
        else isinstance(value, int) or (isinstance(value, float) and value.is_integer()) if pa.types.is_integer(dtype)
        else isinstance(value, int | float) if pa.types.is_floating(dtype)
        else True
    )  # fmt: skip
    try:
        if fits and dtype == DOUBLE:
            return float(value)
        if fits and pa.types.is_integer(dtype):
            return pa.scalar(int(value), dtype).as_py()
        if fits and pa.types.is_timestamp(dtype):
            return parse_time(value)
        if fits:
            return pa.scalar(value, dtype).as_py()
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, ValueError):
        pass  # refused below, with the function's name
    raise InvalidData(f"Function {function!r} returned {value!r}, which is no {spell_dtype(dtype)} as it declares.")


def custom_function(
    function: Callable[..., Any],
    return_type: str | type | pa.DataType | Sequence[str | type | pa.DataType],
    drop: str | Sequence[str],
    mode: Mode | Literal["python"] | None,
    nulls: bool,
) -> CustomFunction:
    """The function with what its signature says; the arguments are those of `featurestore.udf`.

    Raises:
        SchemaMismatch: no column to read, `*args`, an unknown column to drop, mode or dtype, or a default that
            cannot be stored.
    """
    name = function.__name__
    signature = inspect.signature(function).parameters.values()
    if any(parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) for parameter in signature):
        raise SchemaMismatch(f"Function {name!r} takes *args or **kwargs: name its columns as parameters.")
    inputs = tuple(p.name for p in signature if p.default is p.empty)
    defaults = {p.name: p.default for p in signature if p.default is not p.empty}
    if not inputs:
        raise SchemaMismatch(f"Function {name!r} reads no column: give it a parameter without a default for each.")
    dropped = (drop,) if isinstance(drop, str) else tuple(drop)
    for parameter in dropped:
        if parameter not in inputs:
            raise SchemaMismatch(f"Function {name!r} cannot drop {parameter!r}: its columns are {', '.join(inputs)}.")
    if mode not in (None, "scalar", "python", "pandas"):
        raise SchemaMismatch(f"Function {name!r} has the mode {mode!r}: expected 'scalar' or 'pandas'.")
    if mode is None:
        annotations = [str(p.annotation) for p in signature]
        mode = "pandas" if any("Series" in annotation for annotation in annotations) else "scalar"
    listed = list(return_type) if isinstance(return_type, list | tuple) else [return_type]
    types = tuple(parse_dtype(_PYTHON_TYPES.get(t, t) if isinstance(t, type) else t, name) for t in listed)
    custom = CustomFunction(
        function, inputs, defaults, dropped, types, "pandas" if mode == "pandas" else "scalar",
        _reference(function), _source_hash(function), nulls,
    )  # fmt: skip
    if problem := custom.problem(defaults):
        raise SchemaMismatch(f"Function {name!r}: {problem}")
    return custom


def _reference(function: Callable[..., Any]) -> str:
    module = function.__module__
    if module == "__main__":  # run by `python -m`: others import it by its real name
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        module = spec.name if spec else module
    return f"{module}:{function.__qualname__}"


def _source_hash(function: Callable[..., Any]) -> str:
    try:
        source = inspect.getsource(function).encode()
    except (OSError, TypeError):  # typed into a plain interpreter: it lives as long as the process
        source = function.__code__.co_code
    return hashlib.sha256(inspect.cleandoc(source.decode(errors="replace")).encode()).hexdigest()
