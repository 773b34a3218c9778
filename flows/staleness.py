"""How fast do the models of a system grow stale, and so: how often to train? Asked now and then, by hand.

Versions old and new, also those that never served, score the newest rows whose truth is known, by the function that
scores for the champion, each with its own view and training dataset. All these predictions are reconstructed: a
backtest, which is written nowhere and never a live metric. It reads, and starts nothing: who decides about a schedule
is whoever reads the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from prefect import flow, get_run_logger, task

from featurestore.errors import FeatureStoreError
from featurestore.times import Window
from flows import command_line, events, live_metrics, monitored, registry, retries, serving, windows
from flows.monitored import Monitored
from flows.settings import connect

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import FeatureStore
    from flows.ageing import Aged


@flow(name="staleness", flow_run_name="staleness-{system}")
def staleness(system: str, versions: int = 12) -> int:
    """Compare versions of each model of a system on the same new rows, say how often to train; return how many it was.

    With more versions than that, some are left out, evenly over their ages.
    """
    fs = connect()
    now = windows.scheduled_time()
    predictors: Mapping[str, serving.PredictedBy] = import_module(f"flows.{system}.inference_pipeline").PREDICTED_BY
    studies = [
        study(fs, watched, predictors[watched.model], registry.versions(watched.model), versions, now)
        for watched in monitored.of(system)
    ]
    events.summary_artifact(f"{system}-staleness-summary", [each.summary for each in studies])
    return sum(len(each.aged) for each in studies)


class Study(NamedTuple):
    """The versions that could be compared, the freshest first, and the row of the summary."""

    aged: Sequence[Aged]
    summary: Mapping[str, Any]


def study(
    fs: FeatureStore,
    watched: Monitored,
    predicted_by: serving.PredictedBy,
    versions: Sequence[registry.ModelVersion],
    most: int,
    now: datetime,
) -> Study:
    """Compare the versions of one model, and keep the curve as `staleness-<model>`."""
    from flows import ageing

    said, left_out, window = score_all(fs, watched, predicted_by, versions, most, now)
    aged: list[Aged] = []
    blocks, compared = 0, 0
    if said:
        rows = ageing.side_by_side({version.version: rows for version, rows in said}, watched)
        ends = {version.version: version.lineage.training_window.end for version, _ in said}
        aged = ageing.compare(rows, ends, watched)
        blocks, compared = live_metrics.blocks_of(rows, watched).nunique(), len(rows)
    advice = ageing.advice(aged)
    get_run_logger().info("%s: %s", watched.model, advice.text)
    summary = {
        "model": watched.model,
        "advice": advice.text,
        "train_every_days": None if advice.every is None else advice.every / ageing.DAY,
        "versions_compared": len(aged),
        "versions_left_out": "; ".join(left_out),
        "rows": compared,
        "blocks": blocks,
        "window": str(window) if window is not None else "none",
        "metric": watched.measure.metric,
    }
    if aged:
        keep(watched, aged, summary)
    return Study(aged, summary)


class Scored(NamedTuple):
    """What each version says, the freshest first; why others are left out; and the window that all were scored on."""

    said: list[tuple[registry.ModelVersion, pd.DataFrame]]
    left_out: list[str]
    window: Window | None


def score_all(
    fs: FeatureStore,
    watched: Monitored,
    predicted_by: serving.PredictedBy,
    versions: Sequence[registry.ModelVersion],
    most: int,
    now: datetime,
) -> Scored:
    """Score the freshest version since whose training enough has become known, and older ones, on the same window."""
    from flows import ageing

    # Of versions that learned from the same time, the last one made.
    by_end = {version.lineage.training_window.end: version for version in versions}
    ends, found = sorted(by_end, reverse=True), Scored([], [], None)
    while ends and not found.said:
        end = ends.pop(0)
        window = Window(max(end, now - watched.measure.span), now)
        found = found._replace(window=window)
        if window.end - window.start < live_metrics.LEAST_BLOCKS * watched.measure.block:
            found.left_out.append(f"{by_end[end].version} too young")
        else:
            score_one(found, fs, watched, predicted_by, by_end[end])
    for end in ageing.spread(ends, most - 1):
        score_one(found, fs, watched, predicted_by, by_end[end])
    return found if found.said else found._replace(window=None)


def score_one(
    found: Scored, fs: FeatureStore, watched: Monitored, predicted_by: serving.PredictedBy,
    version: registry.ModelVersion,
) -> None:  # fmt: skip
    """Add what a version says of the window, or why it says nothing."""
    assert found.window is not None
    try:
        rows: pd.DataFrame = matured(fs, watched, predicted_by, version, found.window)
    except FeatureStoreError as error:  # a version whose data are gone must not hide what the others say
        found.left_out.append(f"{version.version} {type(error).__name__}: {error}")
        return
    if not found.said and not live_metrics.are_enough(rows, watched):
        found.left_out.append(f"{version.version} too young: {len(rows)} rows have a known truth since it was trained")
        return
    found.said.append((version, rows))


@task(task_run_name="versions of {watched.model} on new rows: {version}", **retries.READING)
def matured(
    fs: FeatureStore,
    watched: Monitored,
    predicted_by: serving.PredictedBy,
    version: registry.ModelVersion,
    window: Window,
) -> pd.DataFrame:
    """What a version says of a window, beside what came: only rows whose truth is known."""
    from flows import hindcasting

    predictions = predicted_by(fs, window.end, version, window)
    rows = monitored.with_truth(fs, watched, predictions, *window, window.end)
    judged = hindcasting.Judged(rows, "forecasts reconstructed later (backtest)")
    return judged.matured(watched.said.forecast, watched.said.baseline)


def keep(watched: Monitored, aged: Sequence[Aged], summary: Mapping[str, Any]) -> None:
    """The curve as a table and a picture: `staleness-<model>`, `staleness-plot-<model>`."""
    from flows import ageing

    metric = watched.measure.metric
    rows = [
        {
            "version": each.version,
            "trained_until": each.trained_until,
            "days_older": each.older_by / ageing.DAY,
            "metric": metric,
            "unit": watched.measure.unit,
            "value": each.value,
            "behind_freshest": None if each.behind is None else each.behind.value,
            "low": None if each.behind is None else each.behind.low,
            "high": None if each.behind is None else each.behind.high,
            "surely_worse": each.is_surely_worse,
        }
        for each in aged
    ]
    text = f"{summary['advice']} Reconstructed on {summary['rows']:,} rows of {summary['window']} (a backtest)."
    picture = ageing.picture(
        aged, title=f"{watched.model}: how versions age", unit="share of the error" if metric == "mae" else metric
    )
    events.staleness_artifact(watched.model, rows, text, picture if len(aged) > 1 else None)


if __name__ == "__main__":
    command_line.run(staleness)
