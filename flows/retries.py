"""Which failures of a task are worth another try: those of the machine, never those of the data."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from prefect.cache_policies import NO_CACHE

from featurestore.errors import Conflict, FeatureStoreError


def worth_retrying(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later.

    What the store raises on purpose is about data, names or times: a second try gives the same answer, only later.
    The exception is `Conflict`: somebody else was faster.

    >>> worth_retrying(OSError("disk")), worth_retrying(FeatureStoreError("bad row")), worth_retrying(Conflict("busy"))
    (True, False, True)
    """
    return isinstance(error, Conflict) or not isinstance(error, FeatureStoreError | TypeError | KeyError)


def _failed_in_passing(_task: Any, _run: Any, state: Any) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and worth_retrying(error)


READING: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": [1, 5],
    "retry_condition_fn": _failed_in_passing,
    "cache_policy": NO_CACHE,
}
"""Options of a task that reads: twice more, unless the failure is about the data."""

WRITING: dict[str, Any] = READING
"""Options of a task that writes. Writes are upserts, so a second try of one that had half succeeded is harmless."""

COMPUTING: dict[str, Any] = {"cache_policy": NO_CACHE, "timeout_seconds": timedelta(hours=2).total_seconds()}
"""Options of a task that computes: the same input fails the same way, so it is not tried again."""
