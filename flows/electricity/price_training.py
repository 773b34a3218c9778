"""The second target of the electricity system's training pipeline: a model of known prices, behind its own gate."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from prefect import get_run_logger, task

from featurestore.errors import InvalidData, NotFound
from flows import boosting, evaluation, registry, regression, retries, training
from flows.deciding import conclude
from flows.electricity import modelling, pricing, schema
from flows.splitting import Splits
from flows.training import Labelled

if TYPE_CHECKING:
    from featurestore import FeatureGroup, FeatureStore, FeatureView

SYSTEM = "electricity"


def train_price(fs: FeatureStore, end: datetime | None, *, force: bool) -> registry.ModelVersion | None:
    """Train the price model on what was known at the end, and promote it if it passes; the version, or None.

    None where a source has no prices, or too few yet: demand is forecast all the same. Nothing new since the last
    version trains nothing, unless forced, and returns that version.
    """
    try:
        splits = splits_for(fs, end)
    except (NotFound, InvalidData) as error:
        get_run_logger().info("No price model: %s", error)
        return None
    view = feature_view(fs)
    params = training.params_of(splits, pricing.XGBOOST, pricing.SEARCH.params())
    if not force and (last := training.trained_already(schema.PRICE_MODEL, view, splits, params)) is not None:
        return last
    dataset, rows = training.read_splits(view, splits, label_delay=modelling.LABEL_DELAY)
    data = rows.labelled("price_usd_per_mwh", "float64")
    regression.check_enough({"train": modelling.days_of(data.X_train), "test": modelling.days_of(data.X_test)})
    trained = fit_price(data)
    result, decision = judge_price(fs, trained, data, splits)
    report = pricing.training_report(result, decision, splits, dataset.rows)
    report += f"\nWhat the search tried:\n\n{trained.found.report()}\n"
    group = group_of(fs, schema.PRICE_GROUP)
    market = group.read(start_time=splits.test.start, end_time=splits.test.end)["market"].iloc[0]
    model = registry.log_model(
        schema.PRICE_MODEL,
        trained.model,
        lineage=training.lineage_of(
            view, dataset, splits, source=group.tags["source"], scaled_by=schema.PRICE_SCALE
        ),
        example=boosting.matrix(data.X_test[pricing.usable(data.X_test)], trained.names),
        params=params,
        metrics=result.metrics(),
        model_card=pricing.model_card(
            result, splits, source=group.tags["source"], market=market, features=trained.names,
            dataset=training.named_dataset(view, dataset),
        ),
        training_report=report,
        plots={
            "importance": evaluation.importance_plot(boosting.gain(trained.model), title="Price: what it uses"),
        },
    )  # fmt: skip
    model = conclude(model, decision, report)
    return model


def splits_for(fs: FeatureStore, end: datetime | None) -> Splits:
    """The splits of the issues whose prices were all known at the end; raises what `training.splits_for` does."""
    spine, labels = group_of(fs, schema.PRICE_DAY_AHEAD_GROUP), group_of(fs, schema.PRICE_GROUP)
    return training.splits_for(spine, labels, end, pricing.SPLITS, system=SYSTEM)


def group_of(fs: FeatureStore, name: str) -> FeatureGroup:
    """A group that the feature pipeline makes."""
    return training.group_of(fs, name, schema.VERSION, system=SYSTEM)


def feature_view(fs: FeatureStore) -> FeatureView:
    """What the model sees of an hour of tomorrow: its past prices, its calendar, the zone's demand, and the weather."""
    baselines = list(schema.PRICE_BASELINES.values())
    of_hour = ["load_zone", *schema.CALENDAR_FEATURES, *schema.RATIO_FEATURES]
    query = (
        group_of(fs, schema.PRICE_DAY_AHEAD_GROUP).select([*schema.PRICE_FEATURES, *baselines])
        .join(group_of(fs, schema.DAY_AHEAD_GROUP).select(of_hour), on=["zone", "hour"])
        .join(group_of(fs, schema.WEATHER_GROUP).select(schema.WEATHER_FEATURES), on=["zone", "hour"])
        .join(group_of(fs, schema.PRICE_GROUP).select(["price_usd_per_mwh"]), on=["zone", "hour"], join_type="inner")
    )  # fmt: skip
    return fs.get_or_create_feature_view(
        name=schema.PRICE_VIEW,
        version=schema.VERSION,
        description="An hour of the next day as seen at 05:00 the day before, and what a megawatt hour cost in it.",
        query=query,
        labels=["price_usd_per_mwh"],
        transformation_functions={"load_zone": fs.get_transformation_function("label_encoder")},
        training_helper_columns=baselines,
        inference_helper_columns=baselines,
    )


class Trained(NamedTuple):
    """The model, the simple one beside it, the columns both were fitted on, and what the search found."""

    model: Any
    ridge: Any
    names: list[str]
    found: boosting.Found


@task(task_run_name="fit price", **retries.COMPUTING)
def fit_price(data: Labelled) -> Trained:
    """Search on training, count trees on validation, then fit both models on training and validation."""
    import pandas as pd

    names = boosting.feature_columns(data.X_train, never=pricing.NEVER)
    (X_train, y_train), (X_validation, y_validation) = (
        (boosting.matrix(X[pricing.usable(X)], names), pricing.ratio(y, X)[pricing.usable(X)])
        for X, y in ((data.X_train, data.y_train), (data.X_validation, data.y_validation))
    )
    found = boosting.search(
        X_train, y_train, data.X_train.loc[X_train.index, "issued_at"], pricing.XGBOOST, pricing.SEARCH
    )
    counted = boosting.fit(X_train, y_train, X_validation, y_validation, {**pricing.XGBOOST, **found.params})
    X_both, y_both = pd.concat([X_train, X_validation]), pd.concat([y_train, y_validation])
    return Trained(boosting.refit(counted, X_both, y_both), modelling.fit_ridge(X_both, y_both), names, found)


@task(task_run_name="judge price", **retries.COMPUTING)
def judge_price(
    fs: FeatureStore, trained: Trained, data: Labelled, splits: Splits
) -> tuple[pricing.Result, evaluation.Decision]:
    """Measure on test, and decide against the baselines, the simple model and the champion, all on the same rows."""
    comparable = pricing.judged_rows(data.X_test)
    X, y = data.X_test[comparable].reset_index(drop=True), data.y_test[comparable].reset_index(drop=True)
    scale = X[schema.PRICE_SCALE].to_numpy("float64")
    inputs = boosting.matrix(X, trained.names)
    forecasts = {
        "xgboost": boosting.predict(trained.model, inputs) * scale,
        "ridge": trained.ridge.predict(inputs) * scale,
        **{name: X[column].to_numpy("float64") for name, column in schema.PRICE_BASELINES.items()},
    }
    result = pricing.judge(y, forecasts, X, left_out=int((~comparable).sum()))
    others = {name: values for name, values in forecasts.items() if name != "xgboost"}
    champion = registry.champion(schema.PRICE_MODEL)
    if champion is not None:
        others[f"champion (version {champion.version})"] = training.champion_scores(
            fs, champion, X, splits, key=["zone", "hour"]
        )
    return result, regression.beats(y, forecasts["xgboost"], others, blocks=modelling.days_of(X))


def price_summary(model: registry.ModelVersion) -> Mapping[str, Any]:
    """What the price model is worth, as a row of the run's summary."""
    metrics = model.metrics
    return {
        "model_version": model.version,
        "decision": model.decision,
        "rows_tested": int(metrics["test.rows"]),
        "mae_usd_per_mwh": metrics["test.mae"],
        "interval": "{:.2f} to {:.2f}".format(*(metrics[f"test.mae.{end}"] for end in ("low", "high"))),
        "ridge": metrics["test.mae.ridge"],
        "same_hour_last_week": metrics["test.mae.same_hour_last_week"],
        "same_hour_yesterday": metrics["test.mae.same_hour_yesterday"],
        "skill_to_yesterday": metrics["test.skill.same_hour_yesterday"],
    }
