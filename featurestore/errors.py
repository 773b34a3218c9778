"""Everything the feature store raises on purpose.

    FeatureStoreError
    ├── NotFound            (LookupError)   a name or version that does not exist; lists what does
    ├── SchemaMismatch      (ValueError)    columns or types differ from the contract
    ├── InvalidData         (ValueError)    values break the contract or a rule; carries `.report`
    ├── InvalidTime         (ValueError)    a time, window or version that cannot be meant
    ├── JoinError           (ValueError)    a query whose join cannot be resolved
    ├── Conflict            (RuntimeError)  somebody else was faster; safe to retry
    └── NotReproducible     (RuntimeError)  a pinned version whose files are gone

A message says what was wrong, which name and value, what was expected, and what to do next.
Errors of other libraries are translated, with `from`, in the one module that imports the library.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any

_MOST_NAMES = 20


def listed(names: Collection[object], otherwise: str = "none yet") -> str:
    """What there is, as a message lists it: not more than a screen holds.

    >>> listed(["cards", "labs"]), listed([])
    ('cards, labs', 'none yet')
    >>> listed(range(23))[-21:]
    '17, 18, 19 and 3 more'
    """
    shown = ", ".join(map(str, islice(names, _MOST_NAMES))) or otherwise
    return f"{shown} and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else shown


class FeatureStoreError(Exception):
    """Anything this package raises on purpose."""


class NotFound(FeatureStoreError, LookupError):
    """A group, view, version, key or training dataset that does not exist."""


class SchemaMismatch(FeatureStoreError, ValueError):
    """Columns or types differ from the contract; nothing was written."""


class InvalidData(FeatureStoreError, ValueError):
    """Values break the contract or an expectation; nothing was written.

    `report` is the validation report (a JSON-like mapping) when an expectation suite rejected the batch, else None.
    """

    def __init__(self, message: str, report: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.report = report


class InvalidTime(FeatureStoreError, ValueError):
    """A time, window or commit that cannot be meant."""


class JoinError(FeatureStoreError, ValueError):
    """A query whose join cannot be resolved: no common key, clashing names, an unsupported join type."""


class Conflict(FeatureStoreError, RuntimeError):
    """Another process changed the same thing first. Nothing of this call was written: it is safe to retry."""


class NotReproducible(FeatureStoreError, RuntimeError):
    """A pinned version can no longer be read or no longer gives the recorded bytes."""
