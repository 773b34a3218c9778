"""The challenger in the champion's shadow: it predicts the same window, is written beside it, and never served.

What it says goes to a group of its own, `<predictions group>_shadow`, with the columns, rules and key of the group of
predictions. Nothing that serves reads it: it is there to be measured beside the champion, on the same rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger

from flows import registry, serving
from flows.writing import write

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import FeatureGroup, FeatureStore
    from featurestore.times import Window


def score(
    fs: FeatureStore,
    predictions: FeatureGroup,
    window: Window | None,
    predicted_by: Callable[..., pd.DataFrame],
    *names: str,
    prefix: str = "",
) -> dict[str, Any]:
    """Let the challenger predict the window, and write what it has not said yet; columns for the run's summary.

    Call it when the champion's predictions are committed: whatever goes wrong here is logged and told in the summary,
    and the run goes on. A window that failed is made up for when the flow runs over it again.

    Args:
        window: what the champion has predicted; None: nothing new, so the challenger rests too.
        predicted_by: what predicted for the champion; called with the challenger of each name (None for one that has
            none: its champion stays in its place) and the window.
        names: of the registered models that make one row of the group together; mostly one.
        prefix: of the columns, where a run has several such rows.
    Returns:
        shadow_version (None: no challenger, or nothing new), shadow_rows_written, shadow_failure (None: all is well).
    """
    found, written, failure = [], 0, None
    try:
        found = [] if window is None else [registry.challenger(name) for name in names]
        if window is not None and any(found):
            rows = predicted_by(*found, window)
            group = group_beside(fs, predictions)
            written = write(group, serving.not_yet_made(group, rows, window), window).rows_written
    except Exception as error:  # noqa: BLE001 - whatever a challenger does, the champion has served already
        failure = f"{type(error).__name__}: {error}"
        who = ", ".join(str(each or name) for each, name in zip(found, names, strict=False)) or ", ".join(names)
        get_run_logger().warning("No shadow of %s: %s. What the champion predicted is written.", who, failure)
    versions = ", ".join("none" if each is None else str(each.version) for each in found)
    return {
        f"{prefix}shadow_version": versions if any(found) else None,
        f"{prefix}shadow_rows_written": written,
        f"{prefix}shadow_failure": failure,
    }


def name_of(predictions: str) -> str:
    """The group in which challengers' predictions lie.

    >>> name_of("fraud_predictions")
    'fraud_predictions_shadow'
    """
    return f"{predictions}_shadow"


def group_beside(fs: FeatureStore, predictions: FeatureGroup) -> FeatureGroup:
    """The group of the challengers' predictions: made, or widened, as the group of predictions is now."""
    name, features = name_of(predictions.name), predictions.features
    serving.widen(fs, name, predictions.version, features)
    return fs.get_or_create_feature_group(
        name=name, version=predictions.version,
        description=f"{predictions.description} By challengers, never served: to be measured beside the champion.",
        primary_key=predictions.primary_key, event_time=predictions.event_time, online_enabled=False,
        features=features, expectation_suite=predictions.expectation_suite, tags=predictions.tags,
    )  # fmt: skip
