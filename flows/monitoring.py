"""Watches the models of a system: what their predictions were worth, whether their rows drift, and when to train again.

It reads predictions, truths and the registry, and writes measurements. It starts nothing: what it finds it tells by
events, once for each change, and a training that is due by rule it asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from prefect import flow, get_run_logger, task

from featurestore.errors import FeatureStoreError
from featurestore.times import Window
from flows import (
    command_line,
    drifting,
    events,
    late,
    live_metrics,
    monitored,
    registry,
    retraining,
    retries,
    shadow,
    windows,
)
from flows.monitored import Monitored
from flows.settings import connect
from flows.writing import write

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import FeatureGroup, FeatureStore
    from flows.estimating import Soundness

HISTORY = timedelta(days=400)
"""How far back earlier measurements are looked at for the state that was told last."""


@flow(name="monitor", flow_run_name="monitor-{system}")
@late.newest_only
def monitor(system: str) -> int:
    """Measure what the models of a system turn out to be worth and how far their rows drift; return the alerts told.

    Without a champion, or without predictions, it says so and ends. A rerun on the same day replaces what it measured.
    """
    fs = connect()
    now = windows.scheduled_time()
    found = [look_at(fs, system, watched, now) for watched in monitored.of(system)]
    events.summary_artifact(f"{system}-monitor-summary", found)
    return sum(row["alerts"] for row in found)


def look_at(fs: FeatureStore, system: str, watched: Monitored, now: datetime) -> dict[str, Any]:
    """All about one model, as a row of the summary."""
    champion = registry.champion(watched.model)
    judged_on = None if champion is None else read_test_split(fs, watched, champion)
    window = Window(now - watched.measure.span, now)
    rows = monitored.read(fs, watched, *window, now) if monitored.there_is(fs, watched.said.group) else None
    notes = [] if champion else [f"{watched.model} has no champion: no version has passed the gate yet."]
    measured, drift = Told(0, {}), Told(0, {})
    if rows is None or rows.empty:
        notes.append(f"There are no predictions of {window} yet.")
    else:
        measured = live_metric(fs, system, watched, rows, window, judged_on, " ".join(notes))
    if champion is not None and judged_on is not None:
        drift = watch_drift(fs, system, watched, champion, judged_on, now)
    for note in notes:
        get_run_logger().info(note)
    verdict = ask_for_training(
        fs, system, watched, now, regressed=measured.row.get("state") == live_metrics.REGRESSED,
        drifted=drift.row.get("drifted", ()),
    )  # fmt: skip
    return {
        "model": watched.model,
        "champion": None if champion is None else champion.version,
        "note": " ".join(notes),
        **{name: measured.row.get(name) for name in SHOWN},
        "drifted": ", ".join(drift.row.get("drifted", ())),
        "retraining_asked": verdict.ask,
        "retraining_why": verdict.why,
        "alerts": measured.alerts + drift.alerts,
    }


SHOWN = (
    "state", "metric", "value", "low", "high", "baseline", "baseline_value", "skill", "skill_low", "skill_high", "rows",
    "kind", "pending", "matured", "expired", "estimated",
)  # fmt: skip
"""What the summary shows of a measurement."""


class Told(NamedTuple):
    """How many alerts were told, and what was found of the model as a whole."""

    alerts: int
    row: Mapping[str, Any]


# --- what predictions were worth ---------------------------------------------------------------------


@task(task_run_name="live metric of {watched.model}", **retries.READING)
def live_metric(
    fs: FeatureStore, system: str, watched: Monitored, rows: pd.DataFrame, window: Window,
    judged_on: TestSplit | None, note: str,
) -> Told:  # fmt: skip
    """Measure the predictions of the last weeks, tell what has changed, and keep the measurement.

    Args:
        rows: of `monitored.read`, of the window.
        note: what has to be said first, such as that there is no champion.
    """
    from flows import monitoring_report

    soundness = None if judged_on is None else judged_on.soundness
    estimated = soundness is not None and soundness.is_sound
    metrics_fg = live_metrics.group(fs)
    before = live_metrics.before(kept_by(metrics_fg, window.end), watched.model)
    found = live_metrics.measure(
        rows, watched, system=system, window=window, before=before, estimated=estimated
    )  # fmt: skip
    over_time = live_metrics.over_time(rows, watched, estimated=estimated)
    report = monitoring_report.hindcast(
        found, watched, over_time=over_time, soundness=soundness,
        shadow=in_the_shadow(fs, watched, rows, window), note=note,
    )  # fmt: skip
    # Told before it is kept: a run that is killed in between tells again, and no alert is lost.
    alerts = 0
    for state, row in live_metrics.changes(found, before):
        is_regressed = state == live_metrics.REGRESSED
        events.live_metric_changed(watched.model, is_regressed=is_regressed, facts=row)
        alerts += is_regressed
    write(metrics_fg, found, None)
    events.monitoring_artifact("hindcast", watched.model, report, monitoring_report.picture(over_time, watched))
    whole = {name: None if value != value else value for name, value in found.iloc[0].to_dict().items()}
    return Told(alerts, whole)


def in_the_shadow(fs: FeatureStore, watched: Monitored, rows: pd.DataFrame, window: Window) -> dict[str, Any] | None:
    """The challenger beside the champion on the same rows; None where there is none, or it has not predicted yet."""
    challenger, name = registry.challenger(watched.model), shadow.name_of(watched.said.group)
    if challenger is None or not monitored.there_is(fs, name):
        return None
    said = monitored.read(fs, watched, *window, window.end, group=name, version=challenger.version)
    return live_metrics.beside(rows, said, watched)


def kept_by(group: FeatureGroup, now: datetime) -> pd.DataFrame:
    """What was measured before, and on this day."""
    return group.read(start_time=now - HISTORY, end_time=now + timedelta(days=1))


# --- drift -------------------------------------------------------------------------------------------


class TestSplit(NamedTuple):
    """The rows that a champion was judged on, as it sees them, with what it says of them; and whether its scores on
    them say that performance may be estimated (None for a model of which it never is)."""

    rows: pd.DataFrame
    times: pd.Series
    soundness: Soundness | None


@task(task_run_name="test split of {champion}", **retries.READING)
def read_test_split(fs: FeatureStore, watched: Monitored, champion: registry.ModelVersion) -> TestSplit | None:
    """The test split of the champion's training dataset; None where it cannot be had any more, which is said."""
    from flows import estimating, serving

    try:
        view = serving.view_of(fs, champion)
        _, _, features, _, _, labels = view.get_train_validation_test_split(
            champion.lineage.training_dataset_version, event_time=True
        )
        loaded = registry.load(champion)
    except FeatureStoreError as error:
        get_run_logger().warning("Drift of %s cannot be judged: %s", champion, error)
        return None
    times = features.iloc[:, 0]  # the event time comes first
    scores = loaded.score(features).astype("float64")
    soundness = None
    if watched.estimated:
        blocks = times.dt.floor(watched.measure.block).to_numpy()
        soundness = estimating.soundness(labels[watched.truth.column], scores, blocks=blocks)
    return TestSplit(of_interest(features, loaded, watched, scores), times, soundness)


def of_interest(features: pd.DataFrame, loaded: registry.LoadedModel, watched: Monitored, scores: Any) -> pd.DataFrame:
    """What the model says and the features it uses, without those that only say what time it is."""
    names = [name for name in loaded.feature_names if name not in watched.calendar]
    return features[names].assign(**{drifting.PREDICTION: scores})


@task(task_run_name="drift of {watched.model}", **retries.READING)
def watch_drift(
    fs: FeatureStore, system: str, watched: Monitored, champion: registry.ModelVersion, judged_on: TestSplit,
    now: datetime,
) -> Told:  # fmt: skip
    """Compare the rows of late with the test split, tell what has changed, and keep the measurement."""
    from flows import monitoring_report, serving

    view = serving.view_of(fs, champion)
    spine = view.get_parent_feature_groups()[0]
    until = min(now, spine.watermark or now)
    length = drifting.length_of(judged_on.times, watched.measure.span)
    window = Window(until - length, until)
    view.init_batch_scoring(champion.lineage.training_dataset_version)
    batch = view.get_batch_data(*window)
    loaded = registry.load(champion)
    recent = of_interest(batch, loaded, watched, loaded.score(batch).astype("float64"))
    drift_fg = drifting.group(fs)
    before = drifting.before(kept_by(drift_fg, now), watched.model)
    found = drifting.compare(
        judged_on.rows, recent, judged_on.times, length=length, importance=registry.explanation(champion),
        before=before, now=now,
    )  # fmt: skip
    note = (
        f"{len(recent):,} rows of {window} beside {len(judged_on.rows):,} of the test split of {champion} (training "
        f"dataset {champion.lineage.training_dataset_version}, until {judged_on.times.max():%Y-%m-%d})."
    )
    if not found:
        note += f" Too few to compare: at least {drifting.LEAST_ROWS} are needed on either side."
    by_name = {row["feature"]: row | {"model_version": champion.version} for row in found}
    alerts = 0
    for state, names in drifting.changes(found, before).items():
        if names:
            is_found = state == drifting.DRIFTED
            events.drift_changed(watched.model, is_found=is_found, features=names, facts=by_name[names[0]])
            alerts += is_found
    if found:
        rows = drifting.as_frame(
            found, model=watched.model, system=system, model_version=champion.version,
            measured_at=windows.floor(now, timedelta(days=1)), window_start=window.start, window_end=window.end,
            rows=len(recent), reference_rows=len(judged_on.rows),
        )  # fmt: skip
        write(drift_fg, rows, None)
    events.monitoring_artifact("drift", watched.model, monitoring_report.drift(found, watched.model, note=note), None)
    return Told(alerts, {"drifted": [name for name, row in by_name.items() if row["state"] == drifting.DRIFTED]})


# --- training again ----------------------------------------------------------------------------------


@task(task_run_name="is {watched.model} to be trained again", **retries.READING)
def ask_for_training(
    fs: FeatureStore, system: str, watched: Monitored, now: datetime, *, regressed: bool, drifted: Sequence[str]
) -> retraining.Verdict:
    """Ask for a training where the rule says so, and keep that it was asked for."""
    asked_fg = retraining.group(fs)
    asked = kept_by(asked_fg, now)
    asked = asked[asked["model"] == watched.model]
    versions = registry.versions(watched.model)
    newest = versions[-1] if versions else None
    facts = retraining.Facts(
        newest_made=None if newest is None else made_at(newest),
        last_asked=None if asked.empty else asked["asked_at"].max().to_pydatetime(),
        new_labels=timedelta(0) if newest is None else new_labels(fs, watched, newest),
        regressed=regressed,
        drifted=drifted,
        bad_data=[] if newest is None else refused(fs, newest),
    )
    verdict = retraining.verdict(watched.retraining, facts, now)
    if verdict.ask and newest is not None:
        events.retraining_asked(watched.model, system=system, why=verdict.why)
        row = retraining.as_frame(
            model=watched.model, asked_at=now, system=system, why=verdict.why, newest_version=newest.version
        )
        write(asked_fg, row, None)
    return verdict


def made_at(model: registry.ModelVersion) -> datetime:
    """When it was decided about a version, which is when its training ended; else when it was registered."""
    decided = model.tags.get("decision_at")
    return model.created if decided is None else datetime.fromisoformat(decided)


def new_labels(fs: FeatureStore, watched: Monitored, model: registry.ModelVersion) -> timedelta:
    """Of how much time labels are known that a version was neither trained nor judged on."""
    from flows import training

    if not monitored.there_is(fs, watched.truth.group):
        return timedelta(0)
    labels = fs.get_feature_group(watched.truth.group, monitored.VERSION)
    end = training.known_labels_end(labels, watched.retraining.splits)
    return timedelta(0) if end is None else end - model.lineage.training_window.end


def refused(fs: FeatureStore, model: registry.ModelVersion) -> list[str]:
    """The groups behind a model whose newest batch was refused and not repaired yet, those of its labels among them."""
    from flows import serving

    try:
        groups = serving.view_of(fs, model).get_parent_feature_groups()
    except FeatureStoreError:  # a view that is gone has no groups to look at
        groups = []
    return sorted({group.name for group in groups if newest_batch_was_refused(group)})


def newest_batch_was_refused(group: FeatureGroup) -> bool:
    """Whether rows were refused after the last commit of a group."""
    rejected = group.quarantine()["__rejected_at"]
    last = group.last_commit
    return len(rejected) > 0 and (last is None or rejected.max() > last.time)


if __name__ == "__main__":
    command_line.run(monitor)
