"""The electricity system's training pipeline: a model of known demand, beside its baselines, behind a gate."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from prefect import flow, task

from flows import boosting, command_line, evaluation, events, late, registry, regression, retries, training
from flows.deciding import conclude
from flows.electricity import modelling, price_training, schema
from flows.settings import connect
from flows.splitting import Splits
from flows.training import Labelled

if TYPE_CHECKING:
    import pandas as pd
    import xgboost

    from featurestore import FeatureGroup, FeatureStore, FeatureView, TrainingDataset


SYSTEM = "electricity"


@flow(name="electricity-training")
@late.newest_only
def electricity_training(end: datetime | None = None, force: bool = False, only_if_due: bool = False) -> int:
    """Train on what was known at the end, compare, register, and promote what passes; return the model's version.

    Without end it is the time up to which demand is committed. Nothing new since the last version trains nothing,
    unless forced, and returns that version. After demand comes the second target, the price, where the source has one.

    With only_if_due it returns 0 at once unless there is no version yet, or enough labels have matured since the
    window of the newest one.
    """
    fs = connect()
    if only_if_due and not training.is_due(schema.MODEL, group_of(fs, schema.DEMAND_GROUP), modelling.SPLITS):
        return 0
    version = train_demand(fs, end, force=force)
    price = price_training.train_price(fs, end, force=force)
    if price is not None:
        events.summary_artifact("electricity-price-training-summary", [price_training.price_summary(price)])
    return version


def train_demand(fs: FeatureStore, end: datetime | None, *, force: bool) -> int:
    """Train, compare, register and decide about the model of demand; its version."""
    splits = splits_for(fs, end)
    events.name_run(f"of {splits.whole}")
    view = feature_view(fs)
    params = training.params_of(splits, modelling.XGBOOST, modelling.SEARCH.params())
    if not force and (last := training.trained_already(schema.MODEL, view, splits, params)) is not None:
        return skipped(last)
    dataset, rows = training.read_splits(view, splits, label_delay=modelling.LABEL_DELAY)
    if not force and (last := registry.existing_for(schema.MODEL, dataset.content_hash, params=params)) is not None:
        return skipped(last)
    data = rows.labelled("demand_mw", "float64")
    usable = {name: X[modelling.usable(X)] for name, (X, _) in data.by_split().items()}
    regression.check_enough({name: modelling.days_of(X) for name, X in usable.items()})
    trained = fit(data)
    champion = registry.champion(schema.MODEL)
    result, decision, picture = judge(fs, trained, data, champion, splits)
    model, report = register(fs, view, dataset, trained, data, result, decision, splits, params, picture)
    model = conclude(model, decision, report, picture=picture)
    events.summary_artifact("electricity-training-summary", [summary(model, "trained", "; ".join(decision.reasons))])
    return model.version


# --- data --------------------------------------------------------------------------------------------


def splits_for(fs: FeatureStore, end: datetime | None) -> Splits:
    """The splits of the issues whose hours were all known at the end; raises what `training.splits_for` does."""
    spine, labels = group_of(fs, schema.DAY_AHEAD_GROUP), group_of(fs, schema.DEMAND_GROUP)
    return training.splits_for(spine, labels, end, modelling.SPLITS, system=SYSTEM)


def group_of(fs: FeatureStore, name: str) -> FeatureGroup:
    """A group that the feature pipeline makes."""
    return training.group_of(fs, name, schema.VERSION, system=SYSTEM)


def feature_view(fs: FeatureStore) -> FeatureView:
    """What the model sees of an hour of tomorrow: its calendar, the zone's past, and the weather expected for it."""
    baselines = list(schema.BASELINES.values())
    query = (
        group_of(fs, schema.DAY_AHEAD_GROUP).select([*schema.SPINE_FEATURES, *baselines])
        .join(group_of(fs, schema.WEATHER_GROUP).select(schema.WEATHER_FEATURES), on=["zone", "hour"])
        .join(group_of(fs, schema.DEMAND_GROUP).select(["demand_mw"]), on=["zone", "hour"], join_type="inner")
    )  # fmt: skip
    return fs.get_or_create_feature_view(
        name=schema.VIEW,
        version=schema.VERSION,
        description="An hour of the next day as seen at 05:00 the day before, and what was then needed in it.",
        query=query,
        labels=["demand_mw"],
        transformation_functions={"load_zone": fs.get_transformation_function("label_encoder")},
        training_helper_columns=baselines,
        inference_helper_columns=baselines,
    )


def skipped(model: registry.ModelVersion) -> int:
    """Say that there is nothing new to learn from."""
    row = summary(model, "skipped", "nothing new since this version")
    return training.skipped(model, "electricity-training-summary", row)


# --- model -------------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """The model, the simple one beside it, the columns both were fitted on, and what the search found."""

    model: xgboost.XGBModel
    ridge: Any
    names: list[str]
    found: boosting.Found


@task(task_run_name="fit", **retries.COMPUTING)
def fit(data: Labelled) -> Trained:
    """Search on training, count trees on validation, then fit both models on training and validation."""
    import pandas as pd

    names = boosting.feature_columns(data.X_train, never=modelling.NEVER)
    (X_train, y_train), (X_validation, y_validation) = (
        (boosting.matrix(X[modelling.usable(X)], names), modelling.ratio(y, X)[modelling.usable(X)])
        for X, y in ((data.X_train, data.y_train), (data.X_validation, data.y_validation))
    )
    issued_at = data.X_train.loc[X_train.index, "issued_at"]
    found = boosting.search(X_train, y_train, issued_at, modelling.XGBOOST, modelling.SEARCH)
    counted = boosting.fit(X_train, y_train, X_validation, y_validation, {**modelling.XGBOOST, **found.params})
    X_both, y_both = pd.concat([X_train, X_validation]), pd.concat([y_train, y_validation])
    return Trained(boosting.refit(counted, X_both, y_both), modelling.fit_ridge(X_both, y_both), names, found)


@task(task_run_name="judge", **retries.COMPUTING)
def judge(
    fs: FeatureStore, trained: Trained, data: Labelled, champion: registry.ModelVersion | None, splits: Splits
) -> tuple[modelling.Result, evaluation.Decision, bytes]:
    """Measure on test, and decide against the baselines, the simple model and the champion, all on the same rows."""
    comparable = modelling.judged_rows(data.X_test)
    X, y = data.X_test[comparable].reset_index(drop=True), data.y_test[comparable].reset_index(drop=True)
    scale = X[schema.SCALE].to_numpy("float64")
    inputs = boosting.matrix(X, trained.names)
    forecasts = {
        "xgboost": boosting.predict(trained.model, inputs) * scale,
        "ridge": trained.ridge.predict(inputs) * scale,
        **{name: X[column].to_numpy("float64") for name, column in schema.BASELINES.items()},
    }
    operator = operator_forecasts(fs, X, splits)
    result = modelling.judge(y, forecasts, X, operator, left_out=int((~comparable).sum()))
    others = {name: values for name, values in forecasts.items() if name != "xgboost"}
    if champion is not None:
        others[f"champion (version {champion.version})"] = training.champion_scores(
            fs, champion, X, splits, key=["zone", "hour"]
        )
    decision = regression.beats(
        y, forecasts["xgboost"], others, blocks=modelling.days_of(X), least_skill=modelling.LEAST_SKILL
    )  # fmt: skip
    shown = {"demand": y, "XGBoost": forecasts["xgboost"], "same hour last week": forecasts["same hour last week"]}
    return result, decision, picture_of(X, shown | ({"operator": operator} if operator.notna().any() else {}))


def operator_forecasts(fs: FeatureStore, X: pd.DataFrame, splits: Splits) -> pd.Series:
    """The operator's forecast for each row, by zone and hour; null where there is none."""
    start, end = splits.test
    rows = group_of(fs, schema.OPERATOR_GROUP).read(start_time=start, end_time=end + timedelta(days=1))
    return X[["zone", "hour"]].merge(rows, on=["zone", "hour"], how="left")["forecast_mw"]


def picture_of(X: pd.DataFrame, series: Mapping[str, Any]) -> bytes:
    """The last week of the test, of the zone with the greatest demand."""
    zone = X.groupby("zone")[schema.SCALE].mean().astype("float64").idxmax()
    rows = (X["zone"] == zone) & (X["hour"] >= X["hour"].max() - timedelta(days=7))
    order = X[rows].sort_values("hour").index
    return regression.curves_plot(
        X["hour"][order].dt.tz_convert(schema.TIME_ZONE).dt.tz_localize(None).tolist(),
        {name: [float(values[i]) for i in order] for name, values in series.items()},
        title=f"{zone}: demand a day ahead, the last week of the test",
        unit="MW",
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
    source = group_of(fs, schema.DAY_AHEAD_GROUP).tags["source"]
    report = modelling.training_report(result, decision, splits, dataset.rows)
    report += f"\nWhat the search tried:\n\n{trained.found.report()}\n"
    model = registry.log_model(
        schema.MODEL,
        trained.model,
        lineage=training.lineage_of(view, dataset, splits, source=source, scaled_by=schema.SCALE),
        example=boosting.matrix(data.X_test[modelling.usable(data.X_test)], trained.names),
        params=params,
        metrics=result.metrics(),
        model_card=modelling.model_card(
            result, splits, source=source, features=trained.names,
            dataset=training.named_dataset(view, dataset),
        ),
        training_report=report,
        plots={
            "last_week": picture,
            "importance": evaluation.importance_plot(boosting.gain(trained.model), title="Demand: what it uses"),
        },
    )  # fmt: skip
    return model, report


def summary(model: registry.ModelVersion, status: str, why: str) -> dict[str, Any]:
    """What the run did, as the one row of its summary."""
    lineage, metrics = model.lineage, model.metrics
    operator = {
        f"operator_{name}": metrics[f"test.operator.{key}"]
        for name, key in (("mape", "mape_theirs"), ("mape_of_ours_there", "mape_ours"))
        if f"test.operator.{key}" in metrics
    }
    return {
        "status": status,
        "model_version": model.version,
        "decision": model.decision,
        "why": why,
        "training_dataset_version": lineage.training_dataset_version,
        "training_dataset_hash": lineage.training_dataset_hash[:12],
        "rows_tested": int(metrics["test.rows"]),
        "mae_mw": metrics.get("test.mae"),
        "interval": "{:.1f} to {:.1f}".format(*(metrics[f"test.mae.{end}"] for end in ("low", "high"))),
        "mape": metrics.get("test.mape"),
        "ridge_mae_mw": metrics.get("test.mae.ridge"),
        "same_hour_last_week_mae_mw": metrics.get("test.mae.same_hour_last_week"),
        "same_hour_yesterday_mae_mw": metrics.get("test.mae.same_hour_yesterday"),
        "skill": metrics.get("test.skill"),
        **operator,
    }


if __name__ == "__main__":
    command_line.run(electricity_training)
