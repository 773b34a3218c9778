"""The fraud system's training pipeline: a model of the frauds known by now, beside its baselines, behind a gate."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from prefect import flow, get_run_logger, task

import featurestore
from featurestore.errors import InvalidTime, NotFound
from featurestore.times import Window
from flows import command_line, evaluation, events, registry, retries
from flows.deciding import decide
from flows.fraud import modelling, schema
from flows.settings import Settings

if TYPE_CHECKING:
    import pandas as pd
    import xgboost

    from featurestore import FeatureGroup, FeatureStore, FeatureView, TrainingDataset


FEATURES_FIRST = "Run the feature pipeline first: prefect deployment run fraud-features/fraud-features."


@flow(name="fraud-training")
def fraud_training(end: datetime | None = None, force: bool = False) -> int:
    """Train on what was known at the end, compare, register, and promote what passes; return the model's version.

    Without end it is the time up to which outcomes are committed. Nothing new since the last version trains nothing,
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
    evaluation.check_enough(data.labels_and_days())
    trained = fit(data)
    champion = registry.champion(schema.MODEL)
    result, decision = judge(fs, trained, data, champion, splits.test)
    model, report, picture = register(fs, view, dataset, trained, data, result, decision, splits, params)
    events.model_registered(model)
    model = decide(model, decision)
    events.training_report_artifact(model, report, picture=picture)
    events.summary_artifact("fraud-training-summary", [summary(model, "trained", "; ".join(decision.reasons))])
    return model.version


# --- data --------------------------------------------------------------------------------------------


class Data(NamedTuple):
    """The three splits: features with tid, datetime and cc_num, and the label."""

    X_train: pd.DataFrame
    X_validation: pd.DataFrame
    X_test: pd.DataFrame
    y_train: pd.Series
    y_validation: pd.Series
    y_test: pd.Series

    def labels_and_days(self) -> dict[str, tuple[Any, Any]]:
        """What `evaluation.check_enough` looks at."""
        return {
            "train": (self.y_train, modelling.days_of(self.X_train)),
            "validation": (self.y_validation, modelling.days_of(self.X_validation)),
            "test": (self.y_test, modelling.days_of(self.X_test)),
        }


def splits_for(fs: FeatureStore, end: datetime | None) -> modelling.Splits:
    """The splits of the transactions whose outcomes were known at the end.

    Raises:
        NotFound: there are no features or no outcomes yet.
        InvalidTime: outcomes are not committed up to the end.
        InvalidData: the span is too short.
    """
    transactions = group_of(fs, schema.TRANSACTIONS_GROUP)
    known_until = group_of(fs, schema.LABELS_GROUP).watermark
    if known_until is None or transactions.watermark is None:
        raise NotFound(f"There are no transactions with known outcomes in the store yet. {FEATURES_FIRST}")
    if end is not None and end > known_until:
        raise InvalidTime(f"Outcomes are committed until {known_until}, not until {end}. {FEATURES_FIRST}")
    mature = (known_until if end is None else end) - schema.LABEL_DELAY
    return modelling.splits_of(first_time(transactions, mature), mature)


def first_time(transactions: FeatureGroup, end: datetime) -> datetime:
    """Midnight of the day of the first transaction before the end."""
    times = transactions.select(["datetime"]).read(end_time=end)["datetime"]
    if times.empty:
        raise NotFound(f"There is no transaction before {end} in {transactions.name}. {FEATURES_FIRST}")
    return times.min().floor("D").to_pydatetime()


def group_of(fs: FeatureStore, name: str) -> FeatureGroup:
    """A group that the feature pipeline makes."""
    try:
        return fs.get_feature_group(name, schema.VERSION)
    except NotFound as error:
        raise NotFound(f"{error} {FEATURES_FIRST}") from error


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


@task(task_run_name="training dataset", **retries.READING)
def read_splits(view: FeatureView, splits: modelling.Splits) -> tuple[TrainingDataset, Data]:
    """A new version of the view's training dataset, and its rows."""
    train, validation, test = splits.train, splits.validation, splits.test
    version, _ = view.create_train_validation_test_split(
        train_start=train.start, train_end=train.end, validation_start=validation.start,
        validation_end=validation.end, test_start=test.start, test_end=test.end, embargo=schema.LABEL_DELAY,
        description=f"Outcomes known by {test.end + schema.LABEL_DELAY:%Y-%m-%d %H:%M}",
    )  # fmt: skip
    *features, y_train, y_validation, y_test = view.get_train_validation_test_split(
        version, primary_keys=True, event_time=True
    )
    labels = (y["is_fraud"].astype("int64") for y in (y_train, y_validation, y_test))
    return view.training_dataset(version), Data(*features, *labels)


def params_of(splits: modelling.Splits) -> dict[str, Any]:
    """All that a rerun must repeat, as the registry keeps it."""
    named = {f"{name}_window": str(window) for name, window in modelling.asdict_windows(splits).items()}
    return dict(modelling.XGBOOST) | named | {"cost_false_alarm_usd": modelling.FALSE_ALARM_USD}


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
    events.summary_artifact("fraud-training-summary", [summary(model, "skipped", "nothing new since this version")])
    return model.version


# --- model -------------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """The model, the simple one beside it, the columns both were fitted on, and the threshold."""

    model: xgboost.XGBClassifier
    logistic: Any
    names: list[str]
    threshold: float


@task(task_run_name="fit", **retries.COMPUTING)
def fit(data: Data) -> Trained:
    """Fit the model and the simple one on the training split, and choose the threshold on validation."""
    names = modelling.feature_columns(data.X_train)
    X_train, X_validation = (modelling.matrix(X, names) for X in (data.X_train, data.X_validation))
    model = modelling.fit_xgboost(X_train, data.y_train, X_validation, data.y_validation)
    threshold = evaluation.choose_threshold(
        data.y_validation, model.predict_proba(X_validation)[:, 1], data.X_validation["amount"],
        cost_false_alarm=modelling.FALSE_ALARM_USD,
    )  # fmt: skip
    return Trained(model, modelling.fit_logistic(X_train, data.y_train), names, threshold.value)


@task(task_run_name="judge", **retries.COMPUTING)
def judge(
    fs: FeatureStore, trained: Trained, data: Data, champion: registry.ModelVersion | None, window: Window
) -> tuple[modelling.Result, evaluation.Decision]:
    """Measure on test, and decide against prevalence, the simple model and the champion, all on the same rows."""
    X_test = modelling.matrix(data.X_test, trained.names)
    scores = trained.model.predict_proba(X_test)[:, 1]
    logistic = trained.logistic.predict_proba(X_test)[:, 1]
    others = {"prevalence": [float(data.y_train.mean())] * len(scores), "logistic": logistic}
    if champion is not None:
        others[f"champion (version {champion.version})"] = champion_scores(fs, champion, data.X_test["tid"], window)
    cards = by_tid(group_of(fs, schema.TRANSACTIONS_GROUP), "cc_num", data.X_test["tid"], window)
    result = modelling.judge(data.y_test, scores, logistic, data.X_test, cards, threshold=trained.threshold)
    decision = evaluation.beats(data.y_test, scores, others, blocks=modelling.days_of(data.X_test))
    return result, decision


def champion_scores(fs: FeatureStore, champion: registry.ModelVersion, tids: pd.Series, window: Window) -> pd.Series:
    """The champion's scores of these transactions, by its own view and training dataset."""
    import pandas as pd

    lineage = champion.lineage
    view = fs.get_feature_view(lineage.feature_view, lineage.feature_view_version)
    view.init_batch_scoring(lineage.training_dataset_version)
    batch = view.get_batch_data(window.start, window.end, primary_keys=True, event_time=True)
    scores = pd.Series(registry.load(champion).score(batch), index=batch["tid"])
    return scores.loc[tids].reset_index(drop=True)


def by_tid(transactions: FeatureGroup, column: str, tids: pd.Series, window: Window) -> pd.Series:
    """A column of these transactions that is no feature, in their order."""
    rows = transactions.read(start_time=window.start, end_time=window.end)
    return rows.set_index("tid")[column].loc[tids].reset_index(drop=True)


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
) -> tuple[registry.ModelVersion, str, bytes]:
    """Register the model with all it came from, its report and its pictures."""
    X_test = modelling.matrix(data.X_test, trained.names)
    source = group_of(fs, schema.TRANSACTIONS_GROUP).tags["source"]
    picture = evaluation.precision_recall_plot(
        data.y_test,
        {
            "XGBoost": trained.model.predict_proba(X_test)[:, 1],
            "logistic": trained.logistic.predict_proba(X_test)[:, 1],
        },
        title=f"Card fraud, {source}, {splits.test}",
        threshold=trained.threshold,
    )
    report = modelling.training_report(result, decision, splits, dataset.rows)
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
            threshold=trained.threshold,
        ),
        example=X_test,
        params=params,
        metrics=result.metrics(),
        model_card=modelling.model_card(
            result, splits, source=source, features=trained.names,
            dataset=f"view {view.name} version {view.version}, training dataset {dataset.version} "
            f"(`{dataset.content_hash[:12]}`)",
        ),
        training_report=report,
        plots={
            "precision_recall": picture,
            "importance": evaluation.importance_plot(modelling.gain(trained.model), title="Card fraud: what it uses"),
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
        "prevalence": metrics.get("test.average_precision.prevalence"),
        "precision_top_100": metrics.get("test.precision_top_100"),
        "threshold": model.threshold,
    }


if __name__ == "__main__":
    command_line.run(fraud_training)
