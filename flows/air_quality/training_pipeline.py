"""The air quality system's training pipeline: a model of known days, beside its baselines, behind a gate."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from prefect import flow, task

from flows import boosting, command_line, evaluation, events, late, registry, regression, retries, training
from flows.air_quality import modelling, schema
from flows.deciding import conclude
from flows.settings import connect
from flows.splitting import Splits
from flows.training import Labelled

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import xgboost

    from featurestore import FeatureGroup, FeatureStore, FeatureView, TrainingDataset

    Floats = np.ndarray[Any, np.dtype[np.float64]]


SYSTEM = "air_quality"


@flow(name="air-quality-training")
@late.newest_only
def air_quality_training(end: datetime | None = None, force: bool = False, only_if_due: bool = False) -> int:
    """Train on what was known at the end, compare, register, and promote what passes; return the model's version.

    Without end it is the time up to which daily means are committed. Nothing new since the last version trains nothing,
    unless forced, and returns that version.

    With only_if_due it returns 0 at once unless there is no version yet, or enough labels have matured since the
    window of the newest one.
    """
    fs = connect()
    if only_if_due and not training.is_due(schema.MODEL, group_of(fs, schema.PM25_GROUP), modelling.SPLITS):
        return 0
    splits = splits_for(fs, end)
    events.name_run(f"of {splits.whole}")
    view = feature_view(fs)
    choices = {"test_origins": modelling.ORIGINS, "not_learned_from": modelling.SEASON}
    params = training.params_of(splits, modelling.XGBOOST, modelling.SEARCH.params(), choices)
    if not force and (last := training.trained_already(schema.MODEL, view, splits, params)) is not None:
        return skipped(last)
    dataset, rows = training.read_splits(view, splits, label_delay=modelling.LABEL_DELAY)
    if not force and (last := registry.existing_for(schema.MODEL, dataset.content_hash, params=params)) is not None:
        return skipped(last)
    data = rows.labelled("pm25_ug_m3", "float64")
    regression.check_enough(days_of(data))
    trained = fit(data)
    champion = registry.champion(schema.MODEL)
    result, decision, picture = judge(fs, trained, data, champion, splits)
    model, report = register(fs, view, dataset, trained, data, result, decision, splits, params, picture)
    model = conclude(model, decision, report, picture=picture)
    events.summary_artifact("air-quality-training-summary", [summary(model, "trained", "; ".join(decision.reasons))])
    return model.version


# --- data --------------------------------------------------------------------------------------------


def days_of(data: Labelled) -> dict[str, Any]:
    """What `regression.check_enough` looks at; of the test only what can be judged beside every baseline."""
    rows = {name: X for name, (X, _) in data.by_split().items()}
    rows["test"] = data.X_test[modelling.judged_rows(data.X_test)]
    return {name: modelling.days_of(X) for name, X in rows.items()}


def splits_for(fs: FeatureStore, end: datetime | None) -> Splits:
    """The splits of the issues whose days were all known at the end; raises what `training.splits_for` does."""
    spine, labels = group_of(fs, schema.OUTLOOK_GROUP), group_of(fs, schema.PM25_GROUP)
    return training.splits_for(spine, labels, end, modelling.SPLITS, system=SYSTEM)


def group_of(fs: FeatureStore, name: str) -> FeatureGroup:
    """A group that the feature pipeline makes."""
    return training.group_of(fs, name, schema.VERSION, system=SYSTEM)


def feature_view(fs: FeatureStore) -> FeatureView:
    """What the model sees of a day to come: its calendar, the air before the issue, and the weather expected for it."""
    key = ["station", "day", "horizon_days"]
    query = (
        group_of(fs, schema.OUTLOOK_GROUP).select(schema.OUTLOOK_FEATURES)
        .join(group_of(fs, schema.WEATHER_GROUP).select(schema.WEATHER_FEATURES), on=key)
        .join(group_of(fs, schema.PM25_GROUP).select(["pm25_ug_m3"]), on=["station", "day"], join_type="inner")
    )  # fmt: skip
    return fs.get_or_create_feature_view(
        name=schema.VIEW,
        version=schema.VERSION,
        description="A day of the next seven as seen at 07:00, and the mean PM2.5 that it had.",
        query=query,
        labels=["pm25_ug_m3"],
    )


def skipped(model: registry.ModelVersion) -> int:
    """Say that there is nothing new to learn from."""
    row = summary(model, "skipped", "nothing new since this version")
    return training.skipped(model, "air-quality-training-summary", row)


# --- model -------------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """The model, the columns it was fitted on, and what the search found."""

    model: xgboost.XGBModel
    names: list[str]
    found: boosting.Found


@task(task_run_name="fit", **retries.COMPUTING)
def fit(data: Labelled) -> Trained:
    """Search on training, count trees on validation, then fit on training and validation."""
    import pandas as pd

    names = modelling.learned_from(data.X_train, data.X_validation)
    X_train, X_validation = (boosting.matrix(X, names) for X in (data.X_train, data.X_validation))
    found = boosting.search(X_train, data.y_train, data.X_train["issued_at"], modelling.XGBOOST, modelling.SEARCH)
    params = {**modelling.XGBOOST, **found.params}
    counted = boosting.fit(X_train, data.y_train, X_validation, data.y_validation, params)
    X_both, y_both = pd.concat([X_train, X_validation]), pd.concat([data.y_train, data.y_validation])
    # `refit` cuts the trees at the best iteration of `counted`, and later origins at as many.
    return Trained(boosting.refit(counted, X_both, y_both), names, found)


@task(task_run_name="judge", **retries.COMPUTING)
def judge(
    fs: FeatureStore, trained: Trained, data: Labelled, champion: registry.ModelVersion | None, splits: Splits
) -> tuple[modelling.Result, evaluation.Decision, bytes]:
    """Measure on test from all origins, and decide against baselines, simple model and champion on the same rows."""
    comparable = modelling.judged_rows(data.X_test)
    X, y = data.X_test[comparable].reset_index(drop=True), data.y_test[comparable].reset_index(drop=True)
    forecasts = {**from_all_origins(trained, data, X, splits), **modelling.baselines(X)}
    result = modelling.judge(y, forecasts, X, left_out=int((~comparable).sum()))
    beside = None
    if champion is not None:
        theirs = training.champion_scores(fs, champion, X, splits, key=["station", "day", "horizon_days"])
        ours = boosting.predict(trained.model, boosting.matrix(X, trained.names))
        beside = (f"champion (version {champion.version})", theirs.to_numpy("float64"), ours)
    decision = modelling.gate(y, forecasts, X, beside)
    return result, decision, picture_of(X, y, forecasts)


def from_all_origins(trained: Trained, data: Labelled, X: pd.DataFrame, splits: Splits) -> dict[str, Floats]:
    """What the model and a ridge regression say of test rows, each stretch learned from all that was known before."""
    import numpy as np
    import pandas as pd

    X_all = pd.concat([data.X_train, data.X_validation, data.X_test], ignore_index=True)
    y_all = pd.concat([data.y_train, data.y_validation, data.y_test], ignore_index=True)
    said = {name: np.full(len(X), np.nan) for name in ("xgboost", "ridge")}
    for number, (train, test) in enumerate(modelling.origins(splits)):
        known = ((X_all["issued_at"] >= train.start) & (X_all["issued_at"] < train.end)).to_numpy()
        here = ((X["issued_at"] >= test.start) & (X["issued_at"] < test.end)).to_numpy()
        if not here.any():  # no row of this stretch can be compared with every baseline
            continue
        past, now = (boosting.matrix(rows, [*trained.names, modelling.SEASON]) for rows in (X_all[known], X[here]))
        # The first origin is the model itself: training and validation are all that was known then.
        params = {name: value for name, value in trained.model.get_params().items() if value is not None}
        model = trained.model
        if number:
            model = type(trained.model)(**params).fit(past[trained.names], y_all[known])
        said["xgboost"][here] = boosting.predict(model, now[trained.names])
        said["ridge"][here] = modelling.fit_ridge(past, y_all[known]).predict(now)
    return said


def picture_of(X: pd.DataFrame, y: pd.Series, forecasts: Mapping[str, Any]) -> bytes:
    """The last two months of the test in the city with the dirtiest air, forecast the day before."""
    station = X.groupby("station")["pm25_mean_30d"].mean().astype("float64").idxmax()
    rows = (X["station"] == station) & (X["days_ahead"] == 1) & (X["day"] >= X["day"].max() - timedelta(days=60))
    order = X[rows].sort_values("day").index
    shown = {
        "came": y,
        "XGBoost": forecasts["xgboost"],
        **{name: forecasts[name] for name in list(schema.BASELINES)[:3]},
    }
    return regression.curves_plot(
        X["day"][order].dt.tz_convert(schema.TIME_ZONE).dt.tz_localize(None).tolist(),
        {name: [float(values[i]) for i in order] for name, values in shown.items()},
        title=f"{schema.STATIONS[station].city}: PM2.5 a day ahead, the last two months of the test",
        unit=schema.UNIT,
    )


@task(task_run_name="register", **retries.COMPUTING)
def register(
    fs: FeatureStore,
    view: FeatureView,
    dataset: TrainingDataset,
    trained: Trained,
    data: Labelled,
    result: modelling.Result,
    decision: evaluation.Decision,
    splits: Splits,
    params: Mapping[str, Any],
    picture: bytes,
) -> tuple[registry.ModelVersion, str]:
    """Register the model with all it came from, its report and its pictures."""
    source = group_of(fs, schema.OUTLOOK_GROUP).tags["source"]
    report = modelling.training_report(result, decision, splits, dataset.rows)
    report += f"\nWhat the search tried:\n\n{trained.found.report()}\n"
    model = registry.log_model(
        schema.MODEL,
        trained.model,
        lineage=training.lineage_of(view, dataset, splits, source=source),
        example=boosting.matrix(data.X_test, trained.names),
        params=params,
        metrics=result.metrics(),
        model_card=modelling.model_card(
            result, splits, source=source, features=trained.names, dataset=training.named_dataset(view, dataset)
        ),
        training_report=report,
        plots={
            "last_months": picture,
            "importance": evaluation.importance_plot(boosting.gain(trained.model), title="PM2.5: what it uses"),
        },
    )
    return model, report


def summary(model: registry.ModelVersion, status: str, why: str) -> dict[str, Any]:
    """What the run did, as the one row of its summary."""
    lineage, metrics = model.lineage, model.metrics
    return {
        "status": status,
        "model_version": model.version,
        "decision": model.decision,
        "why": why,
        "training_dataset_version": lineage.training_dataset_version,
        "training_dataset_hash": lineage.training_dataset_hash[:12],
        "rows_tested": int(metrics["test.rows"]),
        "mae_ug_m3": metrics.get("test.mae"),
        "interval": "{:.2f} to {:.2f}".format(*(metrics[f"test.mae.{end}"] for end in ("low", "high"))),
        "ridge_mae_ug_m3": metrics.get("test.mae.ridge"),
        "persistence_mae_ug_m3": metrics.get("test.mae.persistence"),
        "climatology_mae_ug_m3": metrics.get("test.mae.climatology"),
        "better_than_persistence_day_1": metrics.get("test.skill.persistence.day_1"),
        "better_than_climatology_day_3": metrics.get("test.skill.climatology.day_3"),
        "r2_day_1": metrics.get("test.r2.day_1"),
    }


if __name__ == "__main__":
    command_line.run(air_quality_training)
