"""Features as callers pass them, a frame, a vector, a mapping, or many of these, and given back in the same form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.errors import InvalidData, SchemaMismatch
from featurestore.scalars import acceptor
from featurestore.schema import Feature, as_arrow, conform


class Vectors:
    """One vector or many, as lists, arrays or by name, with every value checked.

    Args:
        given: a list of values, a mapping by name, a list of either, or an array of one or two dimensions.
        features: what the vectors are of, in order.
        what: how messages name the call.
    Raises:
        SchemaMismatch: a feature is missing, unknown, or of another type.
        InvalidData: a vector of another length.

    >>> one = Vectors({"b": 2, "a": 1}, [Feature("a", "double"), Feature("b", "bigint")], "transform")
    >>> one.rows, one.like([[0.5, 2]], ["a", "b"])
    ([[1.0, 2]], {'a': 0.5, 'b': 2})
    """

    def __init__(self, given: Any, features: Sequence[Feature], what: str) -> None:
        self._features = features
        names = [f.name for f in features]
        listed = given.tolist() if isinstance(given, np.ndarray) else given
        self._is_one = isinstance(listed, Mapping) or _is_one(listed, features)
        vectors = [listed] if self._is_one else list(listed)
        self._is_named = [isinstance(v, Mapping) for v in vectors]
        accept = [acceptor(f, what) for f in features]
        self.rows: list[list[Any]] = []
        """The vectors, in the features' order, as columns of their types would give them back."""
        for vector in vectors:
            if isinstance(vector, Mapping):
                if vector.keys() != set(names):
                    raise SchemaMismatch(f"{what}: the features are {names}, got {list(vector)}.")
                vector = [vector[n] for n in names]
            elif not isinstance(vector, list | tuple | np.ndarray) or len(vector) != len(names):
                raise InvalidData(f"{what}: {vector!r} is no vector of the {len(names)} features {', '.join(names)}.")
            self.rows.append([one(value) for one, value in zip(accept, vector, strict=True)])

    def table(self) -> pa.Table:
        """The vectors as rows."""
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self._features)
        arrays = [pa.array(list(c), f.type) for c, f in zip(columns, self._features, strict=True)]
        return pa.Table.from_arrays(arrays, names=[f.name for f in self._features])

    def like(self, rows: Sequence[Sequence[Any]], names: Sequence[str]) -> Any:
        """Other rows, one for each vector, in the form that the vectors had."""
        results = [
            dict(zip(names, row, strict=True)) if is_named else list(row)
            for row, is_named in zip(rows, self._is_named, strict=True)
        ]
        return results[0] if self._is_one else results


def _is_one(given: Any, features: Sequence[Feature]) -> bool:
    """Whether a list holds the values of one vector, rather than vectors. Values may be lists and mappings too."""
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise SchemaMismatch(f"{given!r} ({type(given).__name__}) is neither a frame, a vector, nor a list of vectors.")
    first = given[0] if len(given) else []
    if isinstance(first, Mapping):
        return first.keys() != {f.name for f in features} and pa.types.is_struct(features[0].type)
    if not isinstance(first, list | tuple | np.ndarray):
        return True
    is_vector = len(first) == len(features) and (first[0] is None or isinstance(first[0], list | tuple | np.ndarray))
    return bool(len(given)) and pa.types.is_list(features[0].type) and not is_vector


def conformed(frame: Any, features: Sequence[Feature], what: str) -> pa.Table:
    """A frame with its features as declared, in order, after its other columns.

    Raises:
        SchemaMismatch, InvalidData: as `schema.conform`.
    """
    table = as_arrow(frame)
    names = [f.name for f in features]
    typed = conform(table.select([n for n in names if n in table.column_names]), features, what=what)
    others = [n for n in table.column_names if n not in names]
    fields = [*(table.schema.field(n) for n in others), *typed.schema]
    return pa.Table.from_arrays([*(table.column(n) for n in others), *typed.columns], schema=pa.schema(fields))
