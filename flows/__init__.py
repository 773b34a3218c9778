"""The ML systems: each sub-package holds one system's feature, training and inference pipelines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.schema import Feature

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class FeatureFunction:
    """What a pure feature function promises, and how it is fed: all that the laws in `tests/checks.py` need.

    A system lists its own in `feature_functions()` of its package; `tests/flows/test_every_system.py` finds them.

    Args:
        function: takes the frames of `inputs` by name and returns a new frame.
        inputs: frames by argument name for a half-open window of time, from a source that needs no network.
        input_times: the time column of each input; an input without an entry is not cut by time.
        key: the entity columns: rows of other entities change nothing.
        event_time: the result's column that says when a row is known: it cuts the windows, and nothing later changes
            the row.
        features: the declared columns of the result, in order.
        warm_up: history needed before the first row for it to equal its backfilled value.
        sample: a window of `inputs` worth checking, its warm-up included: small, but with every case in it.
    """

    function: Callable[..., pd.DataFrame]
    inputs: Callable[[datetime, datetime], Mapping[str, pd.DataFrame]]
    input_times: Mapping[str, str]
    key: tuple[str, ...]
    event_time: str
    features: Sequence[Feature]
    warm_up: timedelta
    sample: tuple[datetime, datetime]

    @property
    def name(self) -> str:
        """The function's own name."""
        return self.function.__name__


def systems() -> list[str]:
    """Names of the sub-packages that are ML systems: those with a feature pipeline.

    >>> "settings" in systems()
    False
    """
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/feature_pipeline.py"))
