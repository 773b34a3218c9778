"""The fraud system's training pipeline: a model of the frauds known by now, beside its baselines, behind a gate."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from prefect import flow, task

from flows import boosting, command_line, evaluation, events, late, registry, retries, training
from flows.deciding import conclude
from flows.fraud import modelling, schema
from flows.settings import connect
from flows.splitting import Splits
from flows.training import Labelled

if TYPE_CHECKING:
    import pandas as pd
    import xgboost

    from featurestore import FeatureGroup, FeatureStore, FeatureView, TrainingDataset


SYSTEM = "fraud"


@flow(name="fraud-training")
@late.newest_only
def fraud_training(end: datetime | None = None, force: bool = False, only_if_due: bool = False) -> int:
    """Train on what was known at the end, compare, register, and promote what passes; return the model's version.

    Without end it is the time up to which outcomes are committed. Nothing new since the last version trains nothing,
    unless forced, and returns that version.

    With only_if_due it returns 0 at once unless there is no version yet, or enough labels have matured since the
    window of the newest one.
    """
    fs = connect()
    if only_if_due and not training.is_due(schema.MODEL, group_of(fs, schema.LABELS_GROUP), modelling.SPLITS):
        return 0
    splits = splits_for(fs, end)
    events.name_run(f"of {splits.whole}")
    view = feature_view(fs)
    params = training.params_of(
        splits, modelling.XGBOOST, modelling.SEARCH.params(), {"cost_false_alarm_usd": schema.FALSE_ALARM_USD}
    )  # fmt: skip
    if not force and (last := training.trained_already(schema.MODEL, view, splits, params)) is not None:
        return skipped(last)
    dataset, rows = training.read_splits(view, splits, label_delay=schema.LABEL_DELAY)
    if not force and (last := registry.existing_for(schema.MODEL, dataset.content_hash, params=params)) is not None:
        return skipped(last)
    data = rows.labelled("is_fraud", "int64")
    evaluation.check_enough({name: (y, modelling.days_of(X)) for name, (X, y) in data.by_split().items()})
    trained = fit(data)
    champion = registry.champion(schema.MODEL)
    result, decision = judge(fs, trained, data, champion, splits)
    model, report, picture = register(fs, view, dataset, trained, data, result, decision, splits, params)
    model = conclude(model, decision, report, picture=picture)
    events.summary_artifact("fraud-training-summary", [summary(model, "trained", "; ".join(decision.reasons))])
    return model.version


# --- data --------------------------------------------------------------------------------------------


def splits_for(fs: FeatureStore, end: datetime | None) -> Splits:
    """The splits of the transactions whose outcomes were known at the end; raises what `training.splits_for` does."""
    spine, labels = group_of(fs, schema.TRANSACTIONS_GROUP), group_of(fs, schema.LABELS_GROUP)
    return training.splits_for(spine, labels, end, modelling.SPLITS, system=SYSTEM)


def group_of(fs: FeatureStore, name: str) -> FeatureGroup:
    """A group that the feature pipeline makes."""
    return training.group_of(fs, name, schema.VERSION, system=SYSTEM)


def feature_view(fs: FeatureStore) -> FeatureView:
    """What the model sees of a transaction: what is known at its request, its card's and its merchant's past."""
    query = (
        group_of(fs, schema.TRANSACTIONS_GROUP).select(schema.SPINE_FEATURES)
        .join(group_of(fs, schema.CARD_WINDOWS_GROUP).select(schema.CARD_FEATURES), on=["cc_num"])
        .join(group_of(fs, schema.MERCHANT_RISK_GROUP).select(schema.MERCHANT_FEATURES), on=["merchant_id"])
        .join(group_of(fs, schema.LABELS_GROUP).select(["is_fraud"]), on=["tid"], join_type="inner")
    )  # fmt: skip
    return fs.get_or_create_feature_view(
        name=schema.VIEW,
        version=schema.VERSION,
        description="A card transaction at the moment it is asked for, and whether it turned out to be a fraud.",
        query=query,
        labels=["is_fraud"],
        transformation_functions={"category": fs.get_transformation_function("label_encoder")},
    )


def skipped(model: registry.ModelVersion) -> int:
    """Say that there is nothing new to learn from."""
    return training.skipped(
        model, "fraud-training-summary", summary(model, "skipped", "nothing new since this version")
    )


# --- model -------------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """The model, the simple ones beside it, the columns all were fitted on, the threshold, and what was searched."""

    model: xgboost.XGBModel
    logistic: Any
    tree: Any
    names: list[str]
    threshold: float
    found: boosting.Found


@task(task_run_name="fit", **retries.COMPUTING)
def fit(data: Labelled) -> Trained:
    """Search on training; count trees and choose the threshold on validation; then fit all models on both.

    The threshold is that of the model which has not seen validation: of its own training rows a model is too sure.
    """
    import pandas as pd

    names = boosting.feature_columns(data.X_train, never=schema.NEVER_FEATURES)
    X_train, X_validation = (boosting.matrix(X, names) for X in (data.X_train, data.X_validation))
    found = boosting.search(X_train, data.y_train, data.X_train["datetime"], modelling.XGBOOST, modelling.SEARCH)
    counted = boosting.fit(
        X_train, data.y_train, X_validation, data.y_validation, {**modelling.XGBOOST, **found.params}
    )  # fmt: skip
    threshold = evaluation.choose_threshold(
        data.y_validation, boosting.predict(counted, X_validation), data.X_validation["amount"],
        cost_false_alarm=schema.FALSE_ALARM_USD,
    )  # fmt: skip
    X_both = pd.concat([X_train, X_validation], ignore_index=True)
    y_both = pd.concat([data.y_train, data.y_validation], ignore_index=True)
    return Trained(
        boosting.refit(counted, X_both, y_both), modelling.fit_logistic(X_both, y_both),
        modelling.fit_tree(X_both, y_both), names, threshold.value, found,
    )  # fmt: skip


@task(task_run_name="judge", **retries.COMPUTING)
def judge(
    fs: FeatureStore, trained: Trained, data: Labelled, champion: registry.ModelVersion | None, splits: Splits
) -> tuple[modelling.Result, evaluation.Decision]:
    """Measure on test, and decide against prevalence, the simple models and the champion, all on the same rows."""
    X_test = boosting.matrix(data.X_test, trained.names)
    scores = boosting.predict(trained.model, X_test)
    logistic = trained.logistic.predict_proba(X_test)[:, 1]
    tree = trained.tree.predict_proba(X_test)[:, 1]
    others = {
        "prevalence": [float(data.y_train.mean())] * len(scores), "depth-2 tree": tree, "logistic": logistic
    }  # fmt: skip
    if champion is not None:
        others[f"champion (version {champion.version})"] = training.champion_scores(
            fs, champion, data.X_test, splits, key=["tid"]
        )
    cards = by_tid(group_of(fs, schema.TRANSACTIONS_GROUP), "cc_num", data.X_test["tid"], splits)
    result = modelling.judge(data.y_test, scores, logistic, tree, data.X_test, cards, threshold=trained.threshold)
    decision = evaluation.beats(data.y_test, scores, others, blocks=modelling.days_of(data.X_test))
    return result, modelling.with_cost(decision, result)


def by_tid(transactions: FeatureGroup, column: str, tids: pd.Series, splits: Splits) -> pd.Series:
    """A column of these transactions that is no feature, in their order."""
    rows = transactions.read(start_time=splits.test.start, end_time=splits.test.end)
    return rows.set_index("tid")[column].loc[tids].reset_index(drop=True)


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
) -> tuple[registry.ModelVersion, str, bytes]:
    """Register the model with all it came from, its report and its pictures."""
    X_test = boosting.matrix(data.X_test, trained.names)
    source = group_of(fs, schema.TRANSACTIONS_GROUP).tags["source"]
    picture = evaluation.precision_recall_plot(
        data.y_test,
        {
            "XGBoost": boosting.predict(trained.model, X_test),
            "logistic": trained.logistic.predict_proba(X_test)[:, 1],
        },
        title=f"Card fraud, {source}, {splits.test}",
        threshold=trained.threshold,
    )
    report = modelling.training_report(result, decision, splits, dataset.rows)
    report += f"\nWhat the search tried:\n\n{trained.found.report()}\n"
    model = registry.log_model(
        schema.MODEL,
        trained.model,
        lineage=training.lineage_of(view, dataset, splits, source=source, threshold=trained.threshold),
        example=X_test,
        params=params,
        metrics=result.metrics(),
        model_card=modelling.model_card(
            result, splits, source=source, features=trained.names,
            dataset=training.named_dataset(view, dataset),
        ),
        training_report=report,
        plots={
            "precision_recall": picture,
            "importance": evaluation.importance_plot(boosting.gain(trained.model), title="Card fraud: what it uses"),
        },
    )  # fmt: skip
    return model, report, picture


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
        "average_precision": metrics.get("test.average_precision"),
        "interval": "{:.3f} to {:.3f}".format(*(metrics[f"test.average_precision.{end}"] for end in ("low", "high"))),
        "logistic": metrics.get("test.average_precision.logistic"),
        "depth_2_tree": metrics.get("test.average_precision.tree"),
        "prevalence": metrics.get("test.average_precision.prevalence"),
        "precision_top_100": metrics.get("test.precision_top_100"),
        "threshold": model.threshold,
    }


if __name__ == "__main__":
    command_line.run(fraud_training)
