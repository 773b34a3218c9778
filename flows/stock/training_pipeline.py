"""The stock system's training pipeline: models of the next return and its direction, behind a gate they rarely pass."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from prefect import flow, get_run_logger, task

from flows import boosting, command_line, evaluation, events, late, registry, regression, retries, training
from flows.deciding import conclude
from flows.settings import connect
from flows.splitting import Splits
from flows.stock import modelling, schema

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import FeatureGroup, FeatureStore, FeatureView, TrainingDataset

MODELS = (schema.RETURN_MODEL, schema.DIRECTION_MODEL)


@flow(name="stock-training")
@late.newest_only
def stock_training(end: datetime | None = None, force: bool = False, only_if_due: bool = False) -> int:
    """Train both models on what was known at the end, compare, register, promote what passes; return a version.

    The version is that of the model of the return. Without end it is the time up to which outcomes are committed.
    Nothing new since the last versions trains nothing, unless forced. Normally both are rejected: that is the honest
    result.

    With only_if_due it returns 0 at once unless there is no version yet, or enough labels have matured since the
    window of the newest one.
    """
    fs = connect()
    if only_if_due and not training.is_due(schema.RETURN_MODEL, group_of(fs, schema.OUTCOMES_GROUP), modelling.SPLITS):
        return 0
    splits = splits_for(fs, end)
    events.name_run(f"of {splits.whole}")
    view = feature_view(fs)
    params = {name: params_of(name, splits) for name in MODELS}
    if not force:
        last = [training.trained_already(name, view, splits, params[name]) for name in MODELS]
        if all(last):
            return skipped([model for model in last if model is not None])
    dataset, data = training.read_splits(view, splits, label_delay=modelling.LABEL_DELAY)
    if not force:
        last = [registry.existing_for(name, dataset.content_hash, params=params[name]) for name in MODELS]
        if all(last):
            return skipped([model for model in last if model is not None])
    judged = judge(fs, data, splits)
    models = []
    for name in MODELS:
        model, report = register(fs, view, dataset, judged[name], splits, name=name, params=params[name])
        model = conclude(model, judged[name].decision, report, picture=judged[name].picture)
        models.append(model)
    events.summary_artifact("stock-training-summary", [summary(models, "trained")])
    return models[0].version


# --- data --------------------------------------------------------------------------------------------


def splits_for(fs: FeatureStore, end: datetime | None) -> Splits:
    """The splits of the closes whose next close was known at the end; raises what `training.splits_for` does."""
    spine, labels = group_of(fs, schema.FEATURES_GROUP), group_of(fs, schema.OUTCOMES_GROUP)
    return training.splits_for(spine, labels, end, modelling.SPLITS, system=schema.SYSTEM)


def group_of(fs: FeatureStore, name: str) -> FeatureGroup:
    """A group that the feature pipeline makes."""
    return training.group_of(fs, name, schema.VERSION, system=schema.SYSTEM)


def feature_view(fs: FeatureStore) -> FeatureView:
    """What the models see of a stock at a close, and what came of it at the next one."""
    query = group_of(fs, schema.FEATURES_GROUP).select([*schema.MODEL_FEATURES, "close"]).join(
        group_of(fs, schema.OUTCOMES_GROUP).select(["next_return", "next_up"]), on=["symbol", "day"], join_type="inner",
    )  # fmt: skip
    return fs.get_or_create_feature_view(
        name=schema.VIEW,
        version=schema.VERSION,
        description="A stock at the close of a trading day, and its return to the next close.",
        query=query,
        labels=["next_return", "next_up"],
        training_helper_columns=["close"],
        inference_helper_columns=["close"],
    )


def params_of(name: str, splits: Splits) -> dict[str, Any]:
    """All that a rerun of one model must repeat."""
    own = modelling.RETURN if name == schema.RETURN_MODEL else modelling.DIRECTION
    return training.params_of(splits, own, modelling.SEARCH.params(), {"origins": modelling.ORIGINS})


def skipped(models: list[registry.ModelVersion]) -> int:
    """Say that there is nothing new to learn from, and return the version of the model of the return."""
    get_run_logger().info("Skipped: %s were trained on these very data. Use force to train again.", models)
    events.summary_artifact("stock-training-summary", [summary(models, "skipped: nothing new")])
    return models[0].version


# --- models ------------------------------------------------------------------------------------------


class Judged(NamedTuple):
    """A model with all that was measured of it, and what the gate says."""

    fitted: modelling.Fitted
    names: list[str]
    example: pd.DataFrame
    result: modelling.ReturnResult | modelling.DirectionResult
    decision: evaluation.Decision
    picture: bytes


@task(task_run_name="fit and judge", **retries.COMPUTING)
def judge(fs: FeatureStore, data: training.Data, splits: Splits) -> dict[str, Judged]:
    """Fit both models at every origin, measure them on the same test rows, and decide about each.

    Raises:
        InvalidData: too few rows in a split.
    """
    rows = modelling.Rows.of(data[:3], data[3:])
    test = rows.within(splits.test)
    regression.check_enough(
        {name: rows.within(window).X["closed_at"].dt.date.to_numpy() for name, window in splits.by_name().items()},
        minimum_rows=60, minimum_days=60,
    )  # fmt: skip
    names = boosting.feature_columns(rows.within(splits.train).X, never=modelling.NEVER)
    example = boosting.matrix(test.X, names)
    returns = modelling.fit_return(rows, splits, names)
    worth = modelling.judge_return(test, returns.said, splits)
    champion = champion_scores(fs, registry.champion(schema.RETURN_MODEL), test, splits)
    beside = modelling.beside_champion(test, returns.said, champion, splits, of="return")
    return_decision = modelling.decide_return(worth, beside)
    directions = modelling.fit_direction(rows, splits, names)
    right = modelling.judge_direction(test, directions.said)
    champion = champion_scores(fs, registry.champion(schema.DIRECTION_MODEL), test, splits)
    beside = modelling.beside_champion(test, directions.said, champion, splits, of="direction")
    direction_decision = modelling.decide_direction(right, beside)
    return {
        schema.RETURN_MODEL: Judged(returns, names, example, worth, return_decision, picture_of(test, returns.said)),
        schema.DIRECTION_MODEL: Judged(
            directions, names, example, right, direction_decision,
            evaluation.importance_plot(boosting.gain(directions.model), title="Direction: what it uses"),
        ),
    }  # fmt: skip


def champion_scores(
    fs: FeatureStore, champion: registry.ModelVersion | None, test: modelling.Rows, splits: Splits
) -> pd.Series | None:
    """What the champion says of the test rows; None where there is none."""
    if champion is None:
        return None
    return training.champion_scores(fs, champion, test.X, splits, key=["symbol", "closed_at"])


def picture_of(test: modelling.Rows, said: Mapping[str, Any]) -> bytes:
    """The last three months of the test: next closes as they came, as forecast, and the same price; of one symbol."""
    symbol = "TSLA" if (test.X["symbol"] == "TSLA").any() else test.X["symbol"].iloc[0]
    rows = test.X.index[test.X["symbol"] == symbol][-63:]
    close = test.X["close"].astype("float64").to_numpy()
    series = {"came": test.next_return.to_numpy(), "XGBoost": said[modelling.OURS], "same price": 0 * close}
    return regression.curves_plot(
        test.X["closed_at"][rows].dt.tz_localize(None).tolist(),
        {name: [float(close[i] * (1 + values[i])) for i in rows] for name, values in series.items()},
        title=f"{symbol}: the next close, the last of the test",
        unit="USD",
    )


@task(task_run_name="register {name}", **retries.COMPUTING)
def register(
    fs: FeatureStore, view: FeatureView, dataset: TrainingDataset, judged: Judged, splits: Splits, *, name: str,
    params: Mapping[str, Any],
) -> tuple[registry.ModelVersion, str]:  # fmt: skip
    """Register a model with all it came from, its report and its pictures."""
    source = group_of(fs, schema.FEATURES_GROUP).tags["source"]
    told = modelling.told_of(judged.result, judged.decision, splits, dataset.rows)
    report = told.report + f"\nWhat the search tried:\n\n{judged.fitted.found.report()}\n"
    model = registry.log_model(
        name,
        judged.fitted.model,
        lineage=training.lineage_of(view, dataset, splits, source=source, scaled_by=told.scaled_by),
        example=judged.example,
        params=params,
        metrics=judged.result.metrics(),
        model_card=modelling.model_card(
            told.worth, judged.decision, splits, title=told.title, output=told.output, source=source,
            features=judged.names, dataset=training.named_dataset(view, dataset),
        ),
        training_report=report,
        plots={
            "picture": judged.picture,
            "importance": evaluation.importance_plot(boosting.gain(judged.fitted.model), title=told.title),
        },
    )  # fmt: skip
    return model, report


def summary(models: list[registry.ModelVersion], status: str) -> dict[str, Any]:
    """What the run did, as the one row of its summary: the model of the return, then that of the direction."""
    of_return, of_direction = models
    lineage, metrics, right = of_return.lineage, of_return.metrics, of_direction.metrics
    return {
        "status": status,
        "model_version": of_return.version,
        "decision": of_return.decision,
        "why": of_return.tags.get("decision_why"),
        "direction_version": of_direction.version,
        "direction_decision": of_direction.decision,
        "direction_why": of_direction.tags.get("decision_why"),
        "training_dataset_version": lineage.training_dataset_version,
        "training_dataset_hash": lineage.training_dataset_hash[:12],
        "rows_tested": int(metrics["test.rows"]),
        "mae_usd": metrics["test.price_mae.xgboost"],
        "same_price_mae_usd": metrics["test.price_mae.same_price"],
        "skill": metrics["test.skill"],
        "diebold_mariano_p": metrics["test.diebold_mariano.p"],
        "directions_right": right["test.accuracy"],
        "interval": "{:.3f} to {:.3f}".format(*(right[f"test.accuracy.{end}"] for end in ("low", "high"))),
        "always_up": right["test.accuracy.always_up"],
    }


if __name__ == "__main__":
    command_line.run(stock_training)
