"""The reddit system's training pipeline: two models of settled posts, each beside its baselines and behind its gate."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from prefect import flow, get_run_logger, task

from flows import boosting, command_line, evaluation, events, late, registry, regression, retries, training
from flows.deciding import conclude
from flows.reddit import modelling, schema
from flows.reddit.schema import Target
from flows.settings import connect
from flows.splitting import Splits

if TYPE_CHECKING:
    import pandas as pd
    import xgboost

    from featurestore import FeatureGroup, FeatureStore, FeatureView, TrainingDataset


SYSTEM = "reddit"


@flow(name="reddit-training")
@late.newest_only
def reddit_training(end: datetime | None = None, force: bool = False, only_if_due: bool = False) -> dict[str, int]:
    """Train on what was known at the end, compare, register, and promote what passes; return the versions by target.

    Without end it is the time up to which settled votes are committed. A target that has learned from nothing new is
    not trained again, unless forced, and its newest version is returned.

    With only_if_due it returns none at once unless there is no version yet, or enough labels have matured since the
    window of the newest one.
    """
    fs = connect()
    if only_if_due and not training.is_due(
        schema.MODELS["likes"], group_of(fs, schema.OUTCOMES_GROUP), modelling.SPLITS
    ):
        return {}
    splits = splits_for(fs, end)
    events.name_run(f"of {splits.whole}")
    view = feature_view(fs)
    params = training.params_of(splits, modelling.XGBOOST, modelling.SEARCH.params())
    models = {} if force else already_trained(view, splits, params)
    why = dict.fromkeys(models, "nothing new since this version")
    if todo := [target for target in schema.TARGETS if target not in models]:
        dataset, rows = training.read_splits(view, splits, label_delay=schema.LABEL_DELAY)
        for target in todo:
            model, decision = train(fs, view, dataset, Data.of(rows, target), splits, params)
            models[target], why[target] = model, "; ".join(decision.reasons)
    else:
        get_run_logger().info("Skipped: both models were trained on these very data. Use force to train again.")
    events.summary_artifact("reddit-training-summary", [summary(models, why, todo)])
    return {target: models[target].version for target in schema.TARGETS}


def already_trained(
    view: FeatureView, splits: Splits, params: Mapping[str, Any]
) -> dict[Target, registry.ModelVersion]:  # fmt: skip
    """The newest versions of the targets that were trained on these very data in this very way."""
    found = {target: training.trained_already(schema.MODELS[target], view, splits, params) for target in schema.TARGETS}
    return {target: model for target, model in found.items() if model is not None}


def train(
    fs: FeatureStore,
    view: FeatureView,
    dataset: TrainingDataset,
    data: Data,
    splits: Splits,
    params: Mapping[str, Any],
) -> tuple[registry.ModelVersion, evaluation.Decision]:
    """One target's model: fitted, judged, registered, and promoted if it passes."""
    regression.check_enough(data.days())
    trained = fit(data)
    champion = registry.champion(schema.MODELS[data.target])
    result, decision = judge(fs, trained, data, champion, splits)
    model, report, picture = register(fs, view, dataset, trained, data, result, decision, splits, params)
    model = conclude(model, decision, report, picture=picture)
    return model, decision


# --- data --------------------------------------------------------------------------------------------


class Data(NamedTuple):
    """The three splits of one target: features with post_id and created, and the label; rows without one left out."""

    target: Target
    X_train: pd.DataFrame
    X_validation: pd.DataFrame
    X_test: pd.DataFrame
    y_train: pd.Series
    y_validation: pd.Series
    y_test: pd.Series

    @classmethod
    def of(cls, rows: training.Data, target: Target) -> Data:
        """The splits with this target's label."""
        given = rows.labelled(schema.LABELS[target], "float64").by_split().values()
        known = [(X[y.notna()].reset_index(drop=True), y[y.notna()].reset_index(drop=True)) for X, y in given]
        return cls(target, *(X for X, _ in known), *(y for _, y in known))

    def days(self) -> dict[str, Any]:
        """What `regression.check_enough` looks at."""
        return {
            name: modelling.days_of(X)
            for name, X in (("train", self.X_train), ("validation", self.X_validation), ("test", self.X_test))
        }


def splits_for(fs: FeatureStore, end: datetime | None) -> Splits:
    """The splits of the posts whose votes had settled at the end; raises what `training.splits_for` does."""
    spine, labels = group_of(fs, schema.POSTS_GROUP), group_of(fs, schema.OUTCOMES_GROUP)
    return training.splits_for(spine, labels, end, modelling.SPLITS, system=SYSTEM)


def group_of(fs: FeatureStore, name: str) -> FeatureGroup:
    """A group that the feature pipeline makes."""
    return training.group_of(fs, name, schema.VERSION, system=SYSTEM)


def feature_view(fs: FeatureStore) -> FeatureView:
    """What the models see of a post before it is posted, and what became of it."""
    query = (
        group_of(fs, schema.POSTS_GROUP).select(schema.SPINE_FEATURES)
        .join(group_of(fs, schema.AUTHORS_GROUP).select(schema.AUTHOR_FEATURES), on=["author"])
        .join(group_of(fs, schema.SUBREDDITS_GROUP).select(schema.SUBREDDIT_FEATURES), on=["subreddit"])
        .join(group_of(fs, schema.OUTCOMES_GROUP).select(list(schema.LABELS.values())), on=["post_id"],
              join_type="inner")
    )  # fmt: skip
    return fs.get_or_create_feature_view(
        name=schema.VIEW,
        version=schema.VERSION,
        description="A post before it is posted, its author's and its subreddit's past, and what it got in 48 hours.",
        query=query,
        labels=list(schema.LABELS.values()),
        transformation_functions={"community": fs.get_transformation_function("label_encoder")},
    )


# --- model -------------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """The model, the simple one and the medians beside it, their columns, what the search found, and the bands."""

    model: xgboost.XGBModel
    ridge: Any
    medians: modelling.Medians
    names: list[str]
    found: boosting.Found
    bands: modelling.Bands


@task(task_run_name="fit {data.target}", **retries.COMPUTING)
def fit(data: Data) -> Trained:
    """Search on training, count trees and measure bands on validation, then fit on training and validation."""
    import pandas as pd

    names = boosting.feature_columns(data.X_train, never=schema.NEVER_FEATURES)
    X_train, X_validation = (boosting.matrix(X, names) for X in (data.X_train, data.X_validation))
    y_train, y_validation = (modelling.learned(data.target, y) for y in (data.y_train, data.y_validation))
    found = boosting.search(X_train, y_train, data.X_train["created"], modelling.XGBOOST, modelling.SEARCH)
    counted = boosting.fit(X_train, y_train, X_validation, y_validation, {**modelling.XGBOOST, **found.params})
    bands = modelling.Bands.of(y_validation.to_numpy("float64"), boosting.predict(counted, X_validation))
    X_both, y_both = pd.concat([X_train, X_validation]), pd.concat([y_train, y_validation])
    return Trained(
        boosting.refit(counted, X_both, y_both),
        modelling.fit_ridge(X_both, y_both),
        modelling.Medians.of(X_both["community"], pd.concat([data.y_train, data.y_validation])),
        names,
        found,
        bands,
    )


@task(task_run_name="judge {data.target}", **retries.COMPUTING)
def judge(
    fs: FeatureStore, trained: Trained, data: Data, champion: registry.ModelVersion | None, splits: Splits
) -> tuple[modelling.Result, evaluation.Decision]:
    """Measure on test, and decide against the medians, the simple model and the champion, all on the same rows."""
    X = data.X_test
    inputs = boosting.matrix(X, trained.names)
    medians = trained.medians.predict(inputs["community"])
    trailing = X[schema.BASELINES[data.target]].to_numpy("float64")
    outputs = {
        modelling.XGB: boosting.predict(trained.model, inputs),
        modelling.RIDGE: trained.ridge.predict(inputs),
        # Where nothing of a subreddit has settled in 30 days the median of training stands in.
        modelling.TRAILING: [m if t != t else t for t, m in zip(trailing, medians, strict=True)],
        modelling.MEDIAN: medians,
    }
    communities = by_post(group_of(fs, schema.POSTS_GROUP), "subreddit", X["post_id"], splits)
    result = modelling.judge(data.target, data.y_test, outputs, X, trained.bands, communities)
    others = {name: values for name, values in outputs.items() if name != modelling.XGB}
    if champion is not None:
        others[f"champion (version {champion.version})"] = training.champion_scores(
            fs, champion, X, splits, key=["post_id"]
        )
    from flows import ranking

    return result, ranking.beats(data.y_test, outputs[modelling.XGB], others, blocks=modelling.days_of(X))


def by_post(posts: FeatureGroup, column: str, post_ids: pd.Series, splits: Splits) -> pd.Series:
    """A column of these posts that is no feature, in their order."""
    rows = posts.read(start_time=splits.test.start, end_time=splits.test.end)
    return rows.set_index("post_id")[column].loc[post_ids].reset_index(drop=True)


@task(task_run_name="register {data.target}", **retries.COMPUTING)
def register(
    fs: FeatureStore,
    view: FeatureView,
    dataset: TrainingDataset,
    trained: Trained,
    data: Data,
    result: modelling.Result,
    decision: evaluation.Decision,
    splits: Splits,
    params: Mapping[str, Any],
) -> tuple[registry.ModelVersion, str, bytes]:
    """Register the model with all it came from, its bands, its report and its pictures."""
    X_test = boosting.matrix(data.X_test, trained.names)
    source = group_of(fs, schema.POSTS_GROUP).tags["source"]
    report = modelling.training_report(result, decision, splits, dataset.rows, n=len(X_test))
    report += f"\nWhat the search tried:\n\n{trained.found.report()}\n"
    name = data.target.replace("_", " ")
    picture = modelling.deciles_plot(
        data.target, data.y_test, boosting.predict(trained.model, X_test), title=f"{name}, {source}, {splits.test}"
    )
    model = registry.log_model(
        schema.MODELS[data.target],
        trained.model,
        lineage=training.lineage_of(view, dataset, splits, source=source),
        example=X_test,
        params=params,
        metrics=result.metrics() | trained.bands.metrics(),
        model_card=modelling.model_card(
            result, splits, source=source, features=trained.names, dataset=training.named_dataset(view, dataset)
        ),
        training_report=report,
        plots={
            "deciles": picture,
            "importance": evaluation.importance_plot(boosting.gain(trained.model), title=f"{name}: what it uses"),
        },
    )
    return model, report, picture


def summary(
    models: Mapping[Target, registry.ModelVersion], why: Mapping[Target, str], trained: list[Target]
) -> dict[str, Any]:
    """What the run did, as the one row of its summary: for each target its columns."""
    row: dict[str, Any] = {"status": "trained" if trained else "skipped"}
    for target in schema.TARGETS:
        model = models[target]
        metrics = model.metrics
        row |= {
            f"{target}_model_version": model.version,
            f"{target}_decision": model.decision,
            f"{target}_why": why[target],
            f"{target}_spearman": metrics.get("test.spearman"),
            f"{target}_spearman_of_subreddit_median": metrics.get("test.spearman.subreddit_median"),
            f"{target}_spearman_of_ridge": metrics.get("test.spearman.ridge"),
            f"{target}_lift": metrics.get("test.spearman_lift"),
            f"{target}_lift_interval": "{:.3f} to {:.3f}".format(
                *(metrics[f"test.spearman_lift.{end}"] for end in ("low", "high"))
            ),
            f"{target}_top_decile_lift": metrics.get("test.top_decile_lift"),
            f"{target}_r2": metrics.get("test.r2"),
            f"{target}_band_coverage": metrics.get("test.band_coverage"),
        }
    lineage = models[schema.TARGETS[0]].lineage
    return row | {
        "training_dataset_version": lineage.training_dataset_version,
        "training_dataset_hash": lineage.training_dataset_hash[:12],
    }


if __name__ == "__main__":
    command_line.run(reddit_training)
