"""What a transformation function does: it learns from columns, and becomes a kernel over columns and single values.

A kernel holds the same computation twice, once over a column and once over a plain Python number, because numpy takes
longer to start than a vector may take to serve. A law in the tests holds the two together to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

Parameters = Mapping[str, Any]
State = dict[str, Any]

DOUBLE, BIGINT = pa.float64(), pa.int64()


class Kernel(NamedTuple):
    """A fitted function: over columns, over plain Python values, and what comes out.

    `suffixes` is None for one output column. Otherwise `scalar` returns a tuple, and the columns are named
    `<column>_<suffix>`.
    """

    batch: Callable[..., list[pa.Array]]
    scalar: Callable[..., Any]
    types: tuple[pa.DataType, ...]
    suffixes: tuple[str, ...] | None = None


class Method(Protocol):
    """What a function does: one of the built-ins, or a user's own."""

    @property
    def defaults(self) -> Parameters: ...
    @property
    def inputs(self) -> tuple[str, ...] | None:
        """Parameter names that stand for columns; None for one column of any name."""

    @property
    def drop(self) -> tuple[str, ...]: ...
    @property
    def suffixes(self) -> tuple[str, ...] | None:
        """Of its several results, none of them if they are only known after fitting; None for one result."""

    def problem(self, parameters: Parameters) -> str | None: ...
    def output_types(self, types: Sequence[pa.DataType], parameters: Parameters, /) -> tuple[pa.DataType, ...] | None:
        """Types of the outputs; None when how many there are is only known after fitting."""

    def fit(self, columns: Sequence[pa.Array], parameters: Parameters) -> State: ...
    def kernel(self, state: State, types: Sequence[pa.DataType]) -> Kernel: ...


def is_finite_number(value: object) -> bool:
    """Whether it is a number that JSON can store; a boolean is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
