"""What our runs tell Prefect: events that other deployments start on, and artifacts that people read.

Everything here is a quiet no-op outside of a flow run, and never fails a run: a lost event or report delays (schedules
remain the safety net), a failed write loses data.

| event | resource | payload |
| --- | --- | --- |
| triptych.feature_group.committed | triptych.feature-group.<name>.<version>, labels LAST, ROWS | window, rows |
| triptych.validation.failed | triptych.feature-group.<name>.<version> | rules, rows |
| triptych.freshness.violated, .restored | triptych.feature-group.<name>.<version> | watermark, ages in hours |
| triptych.model.registered, .promoted, .rejected | triptych.model.<name>.<version> | version, run_id, why |
| triptych.live_metric.regressed, .recovered | triptych.model.<name> | metric, value, baseline, skill, rows |
| triptych.drift.found, .gone | triptych.model.<name> | features, the first one's distance and limit |
| triptych.retraining.asked | triptych.model.<name> | system, why |
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from uuid import UUID

from flows.facts import as_markdown, plain, slug

if TYPE_CHECKING:
    from featurestore import Commit, FeatureGroup
    from flows.registry import ModelVersion

T = TypeVar("T")

COMMITTED = "triptych.feature_group.committed"
REGISTERED = "triptych.model.registered"
PROMOTED = "triptych.model.promoted"
REJECTED = "triptych.model.rejected"
VALIDATION_FAILED = "triptych.validation.failed"
STALE, FRESH = "triptych.freshness.violated", "triptych.freshness.restored"
DRIFT_FOUND, DRIFT_GONE = "triptych.drift.found", "triptych.drift.gone"
REGRESSED, RECOVERED = "triptych.live_metric.regressed", "triptych.live_metric.recovered"
RETRAINING_ASKED = "triptych.retraining.asked"

ALERTS = (VALIDATION_FAILED, STALE, REJECTED, REGRESSED, DRIFT_FOUND)
"""What a person wants to be told of, beside runs that fail."""

LAST, ROWS = "triptych.last", "triptych.rows"
"""Labels of a commit: "true" on the last one of a run for that group, "some" once the run has written rows to it."""


# --- events ------------------------------------------------------------------------------------------


def committed(feature_group: FeatureGroup, commit: Commit, *, last: bool, any_rows: bool) -> None:
    """Tell that rows of a group were committed; also when a rerun changed none, because the watermark counts too.

    Args:
        last: whether the run writes no more to this group.
        any_rows: whether the run has written any row to it by now.
    """
    window = commit.window
    _emit(
        COMMITTED,
        _resource_of(feature_group),
        {
            "delta_version": commit.version,
            "start": None if window is None else window.start.isoformat(),
            "end": None if window is None else window.end.isoformat(),
            "rows": commit.rows_written,
        },
        labels={LAST: "true" if last else "false", ROWS: "some" if any_rows else "none"},
    )


def validation_failed(feature_group: FeatureGroup, report: Mapping[str, Any] | None) -> None:
    """Tell that a batch was refused whole: nothing of it was committed."""
    known = report or {"results": [], "statistics": {}}
    rules = [f"{rule['type']} {rule['column'] or ''}".strip() for rule in known["results"] if not rule["success"]]
    _emit(VALIDATION_FAILED, _resource_of(feature_group), {"rules": rules, "rows": known["statistics"].get("rows")})


def freshness_changed(feature_group: FeatureGroup, *, is_stale: bool, facts: Mapping[str, Any]) -> None:
    """Tell that a group no longer keeps its promise of freshness, or keeps it again; once for each change."""
    names = ("watermark", "age_hours", "max_age_hours")
    _emit(STALE if is_stale else FRESH, _resource_of(feature_group), {name: plain(facts[name]) for name in names})


def model_registered(model: ModelVersion) -> None:
    """Tell that a version was registered, before the gate decided about it."""
    _emit_model(REGISTERED, model, "")


def model_promoted(model: ModelVersion, *, why: str) -> None:
    """Tell that a version serves from now on."""
    _emit_model(PROMOTED, model, why)


def model_rejected(model: ModelVersion, *, why: str) -> None:
    """Tell that the gate rejected a version."""
    _emit_model(REJECTED, model, why)


def live_metric_changed(model: str, *, is_regressed: bool, facts: Mapping[str, Any]) -> None:
    """Tell that what a model's predictions turn out to be worth is too little, or enough again; once for each change.

    Args:
        facts: a row of the group `live_metrics`.
    """
    names = (
        "metric", "unit", "value", "baseline", "baseline_value", "skill", "skill_low", "skill_high", "rows",
        "model_versions", "kind",
    )  # fmt: skip
    _emit(REGRESSED if is_regressed else RECOVERED, _resource_of_name(model), _plain_of(facts, names))


def drift_changed(model: str, *, is_found: bool, features: Sequence[str], facts: Mapping[str, Any]) -> None:
    """Tell that columns of a model's rows look unlike those it was judged on, or like them again; once for each change.

    Args:
        features: the columns that changed, most important first.
        facts: the row of the group `drift` of the first of them.
    """
    names = ("feature", "distance", "value", "limit", "null_share_then", "null_share_now", "model_version")
    payload = {"features": list(features), **_plain_of(facts, names)}
    _emit(DRIFT_FOUND if is_found else DRIFT_GONE, _resource_of_name(model), payload)


def retraining_asked(model: str, *, system: str, why: str) -> None:
    """Ask for a training of a model: whoever trains may answer, and nobody is called."""
    _emit(RETRAINING_ASKED, _resource_of_name(model), {"system": system, "why": why})


def _plain_of(facts: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: None if (value := plain(facts[name])) != value else value for name in names}  # no NaN in JSON


def _emit_model(event: str, model: ModelVersion, why: str) -> None:
    payload = {"version": model.version, "run_id": model.run_id, "why": why}
    _emit(event, _resource_of_model(model), payload)


def _resource_of(feature_group: FeatureGroup) -> str:
    return f"triptych.feature-group.{feature_group.name}.{feature_group.version}"


def _resource_of_name(model: str) -> str:
    return f"triptych.model.{model}"


def _resource_of_model(model: ModelVersion) -> str:
    return f"triptych.model.{model.name}.{model.version}"


def _emit(event: str, resource: str, payload: Mapping[str, Any], *, labels: Mapping[str, str] | None = None) -> None:
    if not _in_a_run():
        return
    from prefect.events import emit_event

    with _never_fails(f"The event {event} of {resource}"):
        emit_event(event, resource={"prefect.resource.id": resource, **(labels or {})}, payload=dict(payload))


def name_run(what: str) -> None:
    """Name the flow run for what it does, such as its window: "fraud-features [2026-01-01 00:00, 2026-01-02 00:00)"."""
    if not _in_a_run():
        return
    from prefect.client.orchestration import get_client
    from prefect.runtime import flow_run

    with _never_fails(f"The name {what}"), get_client(sync_client=True) as client:
        client.update_flow_run(UUID(flow_run.id), name=f"{flow_run.flow_name} {what}")


# --- artifacts ---------------------------------------------------------------------------------------


def validation_artifact(group: str, report: Mapping[str, Any] | None) -> None:
    """Keep a validation report as the artifact `validation-<group>`: its facts, and a table of its rules.

    Args:
        group: name of the feature group.
        report: JSON-like, such as `InvalidData.report` or what `fg.validate(df)` gives; None when there were no rules.
    """
    markdown = f"# Validation of {group}\n\n" + (
        "No expectation suite is attached: only the schema was checked.\n" if report is None else as_markdown(report)
    )
    _markdown(f"validation-{group}", markdown, f"Rules checked before rows of {group} were written")


def summary_artifact(key: str, rows: Sequence[Mapping[str, Any]], description: str | None = None) -> None:
    """Keep what a run did as a table artifact, such as `fraud-features-summary`; one row per thing, same columns.

    Args:
        key: what is not a lowercase letter, digit or dash becomes a dash.
        rows: numbers, texts, times and nulls by column; times are written as ISO text.
    """
    if not _in_a_run():
        return
    from prefect.artifacts import create_table_artifact

    table = [{column: plain(value) for column, value in row.items()} for row in rows]
    with _never_fails(f"The artifact {key}"):
        create_table_artifact(key=slug(key), table=table, description=description)


def training_report_artifact(
    model: ModelVersion, markdown: str, *, picture: bytes | None = None, page: str | None = None
) -> None:
    """Keep a training report as `training-report-<model>`, and its picture as `training-plot-<model>`.

    Prefect's pages drop pictures that stand inside markdown unless they come from a web server, so the picture is an
    image artifact of its own that carries its bytes.

    Args:
        markdown: the report: metrics, baselines, decision.
        picture: PNG bytes, such as of `evaluation.precision_recall_plot`.
        page: address of the version on the MLflow pages, to be linked.
    """
    link = f"[{model} in MLflow]({page})\n\n" if page else f"MLflow: {model}, run `{model.run_id}`\n\n"
    _markdown(f"training-report-{model.name}", link + markdown, f"How {model} was trained and what it is worth")
    if picture is not None:
        _picture(f"training-plot-{model.name}", picture, f"{model}: the picture of its training report")


def monitoring_artifact(kind: Literal["hindcast", "drift"], model: str, markdown: str, picture: bytes | None) -> None:
    """Keep what the monitor found of a model as `hindcast-<model>` or `drift-<model>`; each run adds to their history.

    Args:
        markdown: what was found, as tables.
        picture: PNG bytes, for `hindcast-plot-<model>`; None where there is nothing to draw.
    """
    what = {"hindcast": "What predictions turned out to be worth", "drift": "Rows of late beside those of the test"}
    _markdown(f"{kind}-{model}", markdown, f"{what[kind]}: {model}")
    if picture is not None:
        _picture(f"{kind}-plot-{model}", picture, f"{what[kind]}: {model}")


def staleness_artifact(model: str, rows: Sequence[Mapping[str, Any]], text: str, picture: bytes | None) -> None:
    """Keep how a model ages as the table `staleness-<model>`, with what follows from it as its description.

    Args:
        rows: one per version, as `summary_artifact` has them.
        picture: PNG bytes, for `staleness-plot-<model>`; None where there is nothing to draw.
    """
    summary_artifact(f"staleness-{model}", rows, text)
    if picture is not None:
        _picture(f"staleness-plot-{model}", picture, text)


def promotion_artifact(model: str, write: Callable[[], str]) -> None:
    """Keep a decision about a version as `promotion-<model>`: promoted, rejected and rolled back alike.

    Args:
        write: gives the markdown; called in a run only, and the decision stands when it fails.
    """
    key = f"promotion-{model}"
    if _in_a_run():
        with _never_fails(f"The artifact {key}"):
            _markdown(key, write(), f"Which version of {model} serves, who decided so and why")


def progress(items: Sequence[T], description: str) -> Iterator[T]:
    """Go through the items and show how far we are as a bar on the run's page.

    >>> list(progress(["january", "february"], "Backfill"))
    ['january', 'february']
    """
    report = _progress_bar(description)
    shown = 0
    for done, item in enumerate(items, start=1):
        yield item
        percent = 100 * done // len(items)
        if percent > shown:  # at most a hundred calls, however many items
            report(percent)
            shown = percent


def _markdown(key: str, markdown: str, description: str) -> None:
    if not _in_a_run():
        return
    from prefect.artifacts import create_markdown_artifact

    with _never_fails(f"The artifact {key}"):
        create_markdown_artifact(markdown, key=slug(key), description=description)


def _picture(key: str, picture: bytes, description: str) -> None:
    if not _in_a_run():
        return
    from prefect.artifacts import create_image_artifact

    with _never_fails(f"The artifact {key}"):
        create_image_artifact(
            image_url="data:image/png;base64," + base64.b64encode(picture).decode(),
            key=slug(key),
            description=description,
        )


def _progress_bar(description: str) -> Callable[[int], None]:
    if not _in_a_run():
        return lambda _: None
    from prefect.artifacts import create_progress_artifact, update_progress_artifact

    bar = None
    with _never_fails(f"The progress of {description}"):
        bar = create_progress_artifact(progress=0.0, description=description)

    def report(percent: int) -> None:
        if bar is not None:
            with _never_fails(f"The progress of {description}"):
                update_progress_artifact(bar, progress=float(percent))  # type: ignore[arg-type]  # an id

    return report


# --- the run -----------------------------------------------------------------------------------------


def _in_a_run() -> bool:
    if "prefect" not in sys.modules:  # never pay Prefect's import to learn that there is no run
        return False
    from prefect.context import FlowRunContext, TaskRunContext

    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


@contextmanager
def _never_fails(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the data are written; telling about them must not fail the run
        from prefect import get_run_logger

        get_run_logger().warning("%s could not be kept: %s. The run goes on.", what, error)
