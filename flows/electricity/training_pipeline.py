"""The electricity system's training pipeline: a model of known demand, beside its baselines, behind a gate."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from prefect import flow, get_run_logger, task

import featurestore
from featurestore.errors import InvalidTime, NotFound
from featurestore.times import Window
from flows import command_line, evaluation, events, registry, regression, retries
from flows.deciding import decide
from flows.electricity import modelling, schema
from flows.settings import Settings

if TYPE_CHECKING:
    import pandas as pd
    import xgboost

    from featurestore import FeatureGroup, FeatureStore, FeatureView, TrainingDataset


FEATURES_FIRST = "Run the feature pipeline first: prefect deployment run electricity-features/electricity-features."


@flow(name="electricity-training")
def electricity_training(end: datetime | None = None, force: bool = False) -> int:
    """Train on what was known at the end, compare, register, and promote what passes; return the model's version.

    Without end it is the time up to which demand is committed. Nothing new since the last version trains nothing,
    unless forced, and returns that version.
    """
    settings = Settings()
    fs = featurestore.connect(home=settings.store_home)
    registry.bootstrap(settings)
    splits = splits_for(fs, end)
    view = feature_view(fs)
    params = params_of(splits)
    if not force and (last := trained_already(view, splits, params)) is not None:
        return skipped(last)
    dataset, data = read_splits(view, splits)
    if not force and (last := registry.existing_for(schema.MODEL, dataset.content_hash, params=params)) is not None:
        return skipped(last)
    regression.check_enough(data.days())
    trained = fit(data)
    champion = registry.champion(schema.MODEL)
    result, decision, picture = judge(fs, trained, data, champion, splits.test)
    model, report = register(fs, view, dataset, trained, data, result, decision, splits, params, picture)
    events.model_registered(model)
    model = decide(model, decision)
    events.training_report_artifact(model, report, picture=picture)
    events.summary_artifact("electricity-training-summary", [summary(model, "trained", "; ".join(decision.reasons))])
    return model.version


# --- data --------------------------------------------------------------------------------------------


class Data(NamedTuple):
    """The three splits: features with zone, hour and issued_at and the baselines, and the demand in MW."""

    X_train: pd.DataFrame
    X_validation: pd.DataFrame
    X_test: pd.DataFrame
    y_train: pd.Series
    y_validation: pd.Series
    y_test: pd.Series

    def days(self) -> dict[str, Any]:
        """What `regression.check_enough` looks at."""
        return {
            name: modelling.days_of(X[modelling.usable(X)])
            for name, X in (("train", self.X_train), ("validation", self.X_validation), ("test", self.X_test))
        }


def splits_for(fs: FeatureStore, end: datetime | None) -> modelling.Splits:
    """The splits of the issues whose hours were all known at the end.

    Raises:
        NotFound: there are no features or no demand yet.
        InvalidTime: demand is not committed up to the end.
        InvalidData: the span is too short.
    """
    issues = group_of(fs, schema.DAY_AHEAD_GROUP)
    known_until = group_of(fs, schema.DEMAND_GROUP).watermark
    if known_until is None or issues.watermark is None:
        raise NotFound(f"There is no known demand in the store yet. {FEATURES_FIRST}")
    if end is not None and end > known_until:
        raise InvalidTime(f"Demand is committed until {known_until}, not until {end}. {FEATURES_FIRST}")
    mature = (known_until if end is None else end) - modelling.LABEL_DELAY
    return modelling.splits_of(first_time(issues, mature), mature)


def first_time(issues: FeatureGroup, end: datetime) -> datetime:
    """Midnight of the day of the first issue before the end."""
    times = issues.select(["issued_at"]).read(end_time=end)["issued_at"]
    if times.empty:
        raise NotFound(f"There is no issue before {end} in {issues.name}. {FEATURES_FIRST}")
    return times.min().floor("D").to_pydatetime()


def group_of(fs: FeatureStore, name: str) -> FeatureGroup:
    """A group that the feature pipeline makes."""
    try:
        return fs.get_feature_group(name, schema.VERSION)
    except NotFound as error:
        raise NotFound(f"{error} {FEATURES_FIRST}") from error


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


@task(task_run_name="training dataset", **retries.READING)
def read_splits(view: FeatureView, splits: modelling.Splits) -> tuple[TrainingDataset, Data]:
    """A new version of the view's training dataset, and its rows."""
    train, validation, test = splits.train, splits.validation, splits.test
    version, _ = view.create_train_validation_test_split(
        train_start=train.start, train_end=train.end, validation_start=validation.start,
        validation_end=validation.end, test_start=test.start, test_end=test.end, embargo=modelling.LABEL_DELAY,
        description=f"Demand known by {test.end + modelling.LABEL_DELAY:%Y-%m-%d %H:%M}",
    )  # fmt: skip
    *features, y_train, y_validation, y_test = view.get_train_validation_test_split(
        version, primary_keys=True, event_time=True, training_helper_columns=True
    )
    labels = (y["demand_mw"].astype("float64") for y in (y_train, y_validation, y_test))
    return view.training_dataset(version), Data(*features, *labels)


def params_of(splits: modelling.Splits) -> dict[str, Any]:
    """All that a rerun must repeat, as the registry keeps it; what the search finds follows from it."""
    named = {f"{name}_window": str(window) for name, window in modelling.windows_by_name(splits).items()}
    searched = {
        "search_trials": modelling.TRIALS,
        "search_folds": modelling.FOLDS,
        "search_rows": modelling.SEARCH_ROWS,
    }
    return dict(modelling.XGBOOST) | named | searched


def trained_already(
    view: FeatureView, splits: modelling.Splits, params: Mapping[str, Any]
) -> registry.ModelVersion | None:
    """The newest version, if it was trained on these very splits of these very commits, in this very way."""
    versions = registry.versions(schema.MODEL)
    if not versions:
        return None
    lineage = versions[-1].lineage
    same = (
        (lineage.feature_view, lineage.feature_view_version) == (view.name, view.version)
        and lineage.training_window == Window(splits.train.start, splits.test.end)
        and dict(lineage.delta_versions) == dict(view.delta_versions())
    )
    return registry.existing_for(schema.MODEL, lineage.training_dataset_hash, params=params) if same else None


def skipped(model: registry.ModelVersion) -> int:
    """Say that there is nothing new to learn from."""
    get_run_logger().info("Skipped: %s was trained on these very data. Use force to train again.", model)
    events.summary_artifact(
        "electricity-training-summary", [summary(model, "skipped", "nothing new since this version")]
    )
    return model.version


# --- model -------------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """The model, the simple one beside it, the columns both were fitted on, and what the search found."""

    model: xgboost.XGBRegressor
    ridge: Any
    names: list[str]
    found: Mapping[str, Any]


@task(task_run_name="fit", **retries.COMPUTING)
def fit(data: Data) -> Trained:
    """Search on training, count trees on validation, then fit both models on training and validation."""
    import pandas as pd

    names = modelling.feature_columns(data.X_train)
    (X_train, y_train), (X_validation, y_validation) = (
        (X[modelling.usable(X)], modelling.ratio(y, X)[modelling.usable(X)])
        for X, y in ((data.X_train, data.y_train), (data.X_validation, data.y_validation))
    )
    found = modelling.search(X_train, y_train, X_train["issued_at"], names=names)
    counted = modelling.fit_xgboost(
        modelling.matrix(X_train, names), y_train, modelling.matrix(X_validation, names), y_validation, found
    )  # fmt: skip
    X_both, y_both = pd.concat([X_train, X_validation]), pd.concat([y_train, y_validation])
    both = modelling.matrix(X_both, names)
    return Trained(modelling.refit(counted, both, y_both), modelling.fit_ridge(both, y_both), names, found)


@task(task_run_name="judge", **retries.COMPUTING)
def judge(
    fs: FeatureStore, trained: Trained, data: Data, champion: registry.ModelVersion | None, window: Window
) -> tuple[modelling.Result, evaluation.Decision, bytes]:
    """Measure on test, and decide against the baselines, the simple model and the champion, all on the same rows."""
    comparable = modelling.judged_rows(data.X_test)
    X, y = data.X_test[comparable].reset_index(drop=True), data.y_test[comparable].reset_index(drop=True)
    scale = X[schema.SCALE].to_numpy("float64")
    inputs = modelling.matrix(X, trained.names)
    forecasts = {
        "xgboost": trained.model.predict(inputs).astype("float64") * scale,
        "ridge": trained.ridge.predict(inputs) * scale,
        **{name: X[column].to_numpy("float64") for name, column in schema.BASELINES.items()},
    }
    operator = operator_forecasts(fs, X, window)
    result = modelling.judge(y, forecasts, X, operator, left_out=int((~comparable).sum()))
    others = {name: values for name, values in forecasts.items() if name != "xgboost"}
    if champion is not None:
        others[f"champion (version {champion.version})"] = champion_forecasts(fs, champion, X, window)
    decision = regression.beats(
        y, forecasts["xgboost"], others, blocks=modelling.days_of(X), least_skill=modelling.LEAST_SKILL
    )  # fmt: skip
    shown = {"demand": y, "XGBoost": forecasts["xgboost"], "same hour last week": forecasts["same hour last week"]}
    return result, decision, picture_of(X, shown | ({"operator": operator} if operator.notna().any() else {}))


def operator_forecasts(fs: FeatureStore, X: pd.DataFrame, window: Window) -> pd.Series:
    """The operator's forecast for each row, by zone and hour; null where there is none."""
    rows = group_of(fs, schema.OPERATOR_GROUP).read(start_time=window.start, end_time=window.end + timedelta(days=1))
    return X[["zone", "hour"]].merge(rows, on=["zone", "hour"], how="left")["forecast_mw"]


def champion_forecasts(fs: FeatureStore, champion: registry.ModelVersion, X: pd.DataFrame, window: Window) -> pd.Series:
    """The champion's forecasts of these hours, by its own view and training dataset."""
    lineage = champion.lineage
    view = fs.get_feature_view(lineage.feature_view, lineage.feature_view_version)
    view.init_batch_scoring(lineage.training_dataset_version)
    batch = view.get_batch_data(window.start, window.end, primary_keys=True, event_time=True)
    scores = batch[["zone", "hour"]].assign(score=registry.load(champion).score(batch).astype("float64"))
    return X[["zone", "hour"]].merge(scores, on=["zone", "hour"], how="left", validate="one_to_one")["score"]


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
    data: Data,
    result: modelling.Result,
    decision: evaluation.Decision,
    splits: modelling.Splits,
    params: Mapping[str, Any],
    picture: bytes,
) -> tuple[registry.ModelVersion, str]:
    """Register the model with all it came from, its report and its pictures."""
    source = group_of(fs, schema.DAY_AHEAD_GROUP).tags["source"]
    report = modelling.training_report(result, decision, splits, dataset.rows)
    report += f"\nFound by the search: {', '.join(f'{name} {value:.4g}' for name, value in trained.found.items())}.\n"
    model = registry.log_model(
        schema.MODEL,
        trained.model,
        lineage=registry.Lineage(
            feature_view=view.name,
            feature_view_version=view.version,
            training_dataset_version=dataset.version,
            training_dataset_hash=dataset.content_hash,
            delta_versions=dataset.delta_versions,
            training_window=Window(splits.train.start, splits.test.end),
            source=source,
            scaled_by=schema.SCALE,
        ),
        example=modelling.matrix(data.X_test[modelling.usable(data.X_test)], trained.names),
        params=params,
        metrics=result.metrics(),
        model_card=modelling.model_card(
            result, splits, source=source, features=trained.names,
            dataset=f"view {view.name} version {view.version}, training dataset {dataset.version} "
            f"(`{dataset.content_hash[:12]}`)",
        ),
        training_report=report,
        plots={
            "last_week": picture,
            "importance": evaluation.importance_plot(modelling.gain(trained.model), title="Demand: what it uses"),
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
