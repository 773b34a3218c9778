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
    model_name: str,
    predicted_by: Callable[[registry.ModelVersion, Window], pd.DataFrame],
    *,
    prefix: str = "",
) -> dict[str, Any]:
    """Let the model's challenger predict the window, and write what it has not said yet; columns for the summary.

    Call it when the champion's predictions are committed: whatever goes wrong here is logged and told in the summary,
    and the run goes on. A window that failed is made up for when the flow runs over it again.

    Args:
        window: what the champion has predicted; None: nothing new, so the challenger rests too.
        predicted_by: what predicted for the champion.
        prefix: of the columns, where a system has more than one model.
    Returns:
        shadow_version (None: no challenger, or nothing new), shadow_rows_written, shadow_failure (None: all is well).
    """
    challenger, written, failure = None, 0, None
    try:
        challenger = None if window is None else registry.challenger(model_name)
        if window is not None and challenger is not None:
            rows = predicted_by(challenger, window)
            group = group_beside(fs, predictions)
            written = write(group, serving.not_yet_made(group, rows, window), window).rows_written
    except Exception as error:  # noqa: BLE001 - whatever a challenger does, the champion has served already
        failure = f"{type(error).__name__}: {error}"
        who = f"challenger of {model_name}" if challenger is None else f"challenger {challenger}"
        get_run_logger().warning("The %s was not scored in the shadow: %s. The champion has served.", who, failure)
    return {
        f"{prefix}shadow_version": None if challenger is None else challenger.version,
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
