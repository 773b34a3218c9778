"""The reddit system's inference pipeline: what each day's new posts will get, and what a draft would get.

Both take everything from the registered models: weights, bands, the view they were trained on and the training dataset
whose transformations they know. A prediction once made is never changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from prefect import flow, task

import featurestore
from featurestore.errors import InvalidData
from featurestore.times import Window
from flows import command_line, events, explaining, late, registry, retries, rules, serving, shadow, windows
from flows.reddit import modelling, schema
from flows.reddit.schema import Target
from flows.settings import Settings, connect

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import FeatureGroup, FeatureStore


FIRST_WINDOW = schema.LABEL_DELAY
"""What the first run predicts: the posts whose votes have not settled yet."""

SYSTEM = "reddit"


@flow(name="reddit-inference")
@late.newest_only
def reddit_inference(
    start: datetime | None = None, end: datetime | None = None, only_with_champion: bool = False
) -> int:
    """Predict both targets of the posts of [start, end) with the champions and write them; return the rows written.

    Without start it goes on where the last predictions ended, without end it goes to the newest features. What the same
    version has predicted before stays as it is.

    Without a champion it fails; with only_with_champion it returns 0 at once.
    """
    fs = connect()
    if only_with_champion and not serving.has_champion(*schema.MODELS.values()):
        return 0
    models = champions()
    predictions_fg = predictions_group(fs)
    made_at = windows.scheduled_time()
    window = serving.window_to_predict(
        fs.get_feature_group(schema.POSTS_GROUP, schema.VERSION), predictions_fg, start, end,
        first_window=FIRST_WINDOW, system=SYSTEM,
    )  # fmt: skip
    events.name_run(str(window or "nothing new"))
    made = serving.publish(predictions_fg, window, partial(predict_all, fs, made_at, models))
    worth = hindcast(fs, made_at if window is None else window.end, made_at)
    for target, model in models.items():
        worth |= shadow.score(
            fs, predictions_fg, window, partial(predicted_by, target, fs, made_at), model.name, prefix=f"{target}_"
        )
    events.summary_artifact("reddit-inference-summary", [summary(models, made, worth)])
    return made.rows_written


def champions() -> dict[Target, registry.ModelVersion]:
    """The champion of each target that has one: a target whose model has not passed the gate is not predicted.

    Raises:
        NotFound: no target has one.
    """
    found = {target: registry.champion(name) for target, name in schema.MODELS.items()}
    known = {target: model for target, model in found.items() if model is not None}
    if not known:
        registry.require_champion(schema.MODELS["likes"], trained_by=serving.trained_by(SYSTEM))
    return known


def predictions_group(fs: FeatureStore) -> FeatureGroup:
    """The group of predictions; made where it is not there yet."""
    return fs.get_or_create_feature_group(
        name=schema.PREDICTIONS_GROUP, version=schema.VERSION,
        description="Likes and upvote ratio of each post as each model version predicted them.",
        primary_key=["post_id", "target", "model_version"], event_time="created", online_enabled=False,
        features=list(schema.PREDICTIONS), expectation_suite=schema.PREDICTIONS_RULES, tags={"system": "reddit"},
    )  # fmt: skip


def predict_all(
    fs: FeatureStore, made_at: datetime, models: Mapping[Target, registry.ModelVersion], window: Window
) -> pd.DataFrame:
    """The rows of the group of predictions for all targets, each by its own model's view."""
    import pandas as pd

    parts = [predicted_by(target, fs, made_at, model, window) for target, model in models.items()]
    return pd.concat(parts, ignore_index=True)


def predicted_by(
    target: Target, fs: FeatureStore, made_at: datetime, model: registry.ModelVersion, window: Window
) -> pd.DataFrame:
    """What a version predicts of a window, by its own view and training dataset: rows of the group of predictions."""
    rows: pd.DataFrame = predict(target, model, serving.read_batch(fs, model, window), made_at)
    return rows


@task(task_run_name="predict {target}", **retries.COMPUTING)
def predict(target: Target, model: registry.ModelVersion, batch: pd.DataFrame, made_at: datetime) -> pd.DataFrame:
    """The rows of the group of predictions of one target: one for each post of the batch.

    Raises:
        InvalidData: the model gives no number; nothing is published then.
    """
    loaded = registry.load(model)
    output = loaded.score(batch).astype("float64")
    if (output != output).any():
        raise InvalidData(f"{model} gives no number for {int((output != output).sum())} of {len(output)} posts.")
    predicted, low, high = band(target, model, output)
    why = ["; ".join(unknowns(row)) for row in batch.to_dict("records")]
    rows = batch[["post_id", "created"]].assign(
        target=target,
        **serving.came_from(model),
        known_at=batch["created"] + schema.LABEL_DELAY,
        predicted=predicted,
        low=low,
        high=high,
        baseline=modelling.baseline_shown(target, batch[schema.BASELINES[target]].astype("float64")),
        degraded=[text != "" for text in why],
        why=why,
        reasons=explaining.reasons_of(loaded, batch),
        made_at=made_at,
    )
    rows = rows.assign(backfilled=rows["made_at"] > rows["known_at"])
    return rows[rules.columns(schema.PREDICTIONS)]


def band(target: Target, model: registry.ModelVersion, output: Any) -> tuple[Any, Any, Any]:
    """Prediction, low and high in the target's own unit; the prediction is never outside of its band."""
    import numpy as np

    low, high = modelling.Bands.from_metrics(model.metrics).around(output)
    predicted, low, high = (modelling.shown(target, each) for each in (output, low, high))
    return predicted, np.minimum(low, predicted), np.maximum(high, predicted)


def unknowns(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What a prediction had to do without, in words.

    Args:
        row: the model's features by name.

    >>> unknowns({"community": None, "body_words": 0})
    ('the subreddit was not in training', 'nothing of the subreddit has settled in the last 30 days')
    """
    from flows.reddit.features import FOREIGN

    found = []
    community = row.get("community")
    if _missing(community) or float(community) < 0:  # type: ignore[arg-type]  # how the encoder says "unseen"
        found.append("the subreddit was not in training")
    if _missing(row.get("subreddit_median_log_likes_30d")):
        found.append(f"nothing of the subreddit has settled in the last {schema.SUBREDDIT_TTL.days} days")
    if _missing(row.get("body_words")):
        found.append("the body was removed or edited before it was read")
    share = row.get("foreign_letters_share")
    if not _missing(share) and float(share) > FOREIGN:  # type: ignore[arg-type]  # not None
        found.append("the text does not look English: its sentiment is not known")
    return tuple(found)


def _missing(value: Any) -> bool:
    return value is None or value != value


# --- what predictions were worth ---------------------------------------------------------------------


@task(task_run_name="hindcast", **retries.READING)
def hindcast(fs: FeatureStore, until: datetime, now: datetime) -> dict[str, Any]:
    """What the predictions of the last four weeks were worth, beside the subreddit's median on the same posts."""
    from flows import monitored
    from flows.reddit.monitored import watched

    found: dict[str, Any] = {}
    for target in schema.TARGETS:
        mine = watched(target)
        joined = monitored.read(fs, mine, until - mine.measure.span, until, now)
        found |= {f"{target}_{name}": value for name, value in worth(target, joined).items()}
    return found


def worth(target: Target, joined: pd.DataFrame) -> dict[str, Any]:
    """The order and the errors of one target's matured predictions, beside the subreddit's median on the same posts.

    Args:
        joined: of `monitored.read`: predictions of that target beside the votes.
    Returns:
        `errors_of` says what was measured: predictions made before the votes settled; or, only where there is none of
        them, rows computed later, which make no hindcast but a backtest. Then counts by state; Spearman and mean
        absolute error (of log1p(likes), or of the ratio) of both, and the share of truths within their bands; null
        where there is nothing to measure on.
    """
    from flows import hindcasting, ranking, regression

    judged = hindcasting.judged(joined)
    rows = judged.matured("baseline")
    found: dict[str, Any] = {"errors_of": judged.kind, **judged.states(), "rows_measured": len(rows)}
    names = {"spearman": "predicted", "baseline_spearman": "baseline"}
    if len(rows) < 2:
        return found | dict.fromkeys([*names, "mae", "baseline_mae", "band_coverage"])
    truth, predicted, baseline = (
        modelling.on_label_scale(target, rows[name].to_numpy("float64")) for name in (target, "predicted", "baseline")
    )
    return found | {
        **{name: ranking.spearman(truth, rows[column]) for name, column in names.items()},
        "mae": regression.mae(truth, predicted),
        "baseline_mae": regression.mae(truth, baseline),
        "band_coverage": modelling.covered(
            *(rows[column].to_numpy("float64") for column in (target, "low", "high"))
        ),
    }  # fmt: skip


def summary(
    models: Mapping[Target, registry.ModelVersion], made: serving.Published, rest: dict[str, Any]
) -> dict[str, Any]:
    """What the run did, as the one row of its summary."""
    versions = {
        f"{target}_model_version": models[target].version if target in models else None for target in schema.TARGETS
    }
    return made.summary() | versions | rest


# --- a draft -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """What a draft would get, in the target's own unit: eight of ten such posts lie between low and high.

    `baseline` is the subreddit's median of the last 30 days (None without any); `reasons` say what each feature added
    on the scale that the model learns: log1p(likes), or ratio ** 10.
    """

    value: float
    low: float
    high: float
    baseline: float | None
    model_version: int
    reasons: tuple[explaining.Reason, ...]


@dataclass(frozen=True)
class Advice:
    """A change of the draft, in words, and the likes that the model expects with it. Correlation, not a promise."""

    text: str
    likes: float


@dataclass(frozen=True)
class Prediction:
    """The answer to one draft; an estimate is None where no model of that target has passed the gate yet.

    `degraded` says that something was not known, and `why` what. `features` is what the models were given.
    """

    likes: Estimate | None
    upvote_ratio: Estimate | None
    advice: tuple[Advice, ...]
    degraded: bool
    why: tuple[str, ...]
    features: Mapping[str, float | None]


@dataclass(frozen=True)
class _Served:
    """A champion and what it needs to answer: its view, the names of its vector, its weights."""

    model: registry.ModelVersion
    loaded: registry.LoadedModel
    view: Any

    def values(self, draft: Mapping[str, Any], computed: Mapping[str, Any], author: str | None) -> dict[str, Any]:
        vector = self.view.get_feature_vector(
            {key: {"author": author, "subreddit": draft["subreddit"]}.get(key) for key in self.view.serving_keys},
            passed_features=dict(computed),
            allow_missing=True,
        )
        return dict(zip(self.view.feature_names, vector, strict=True))


class Predictor:
    """Answers for one draft at a time with the models that were champions when it was made.

    Args:
        versions: by target, to serve instead of the champions, such as for comparing two.
        settings: where store and registry are; default the environment's.
        reasons: how many features an estimate names; the default is all of them.
    Raises:
        NotFound: no champion yet, or no such version.
    """

    def __init__(
        self,
        versions: Mapping[Target, int] | None = None,
        *,
        settings: Settings | None = None,
        reasons: int | None = None,
    ) -> None:
        settings = settings or Settings()
        # What is too old to count is told by the draft's time, not by the wall clock: `predict` sets it.
        fs = featurestore.connect(home=settings.store_home, clock=windows.now)
        registry.bootstrap(settings)
        models = (
            champions()
            if versions is None
            else {target: registry.version(schema.MODELS[target], number) for target, number in versions.items()}
        )
        self._served: dict[Target, _Served] = {}
        for target, model in models.items():
            view = serving.view_of(fs, model)
            view.init_serving(model.lineage.training_dataset_version)
            self._served[target] = _Served(model, registry.load(model), view)
        self._reasons = reasons

    def predict(self, inputs: Mapping[str, Any]) -> Prediction:
        """What this draft would get two days after it is posted.

        Args:
            inputs: title, subreddit, time (of posting, with time zone); body and author where there are any. The
                author's name is hashed at once and kept nowhere.
        Raises:
            SchemaMismatch: title, subreddit or time is missing.
            InvalidTime: the time has no zone.
            InvalidData: an empty title, or longer texts than Reddit takes.
        """
        from flows.reddit import features

        features.check_draft(inputs)
        name = inputs.get("author")
        author = features.author_key(name) if name else None
        computed = features.request_features(inputs)
        with windows.frozen(inputs["time"]):
            values = {target: served.values(inputs, computed, author) for target, served in self._served.items()}
        any_values = next(iter(values.values()))
        why = unknowns(any_values)
        if name and _missing(any_values.get("author_mean_log_likes_90d")):
            why = (*why, f"nothing of this author has settled in the last {schema.AUTHOR_TTL.days} days")
        for target in schema.TARGETS:
            if target not in self._served:
                why = (*why, f"no model of {target.replace('_', ' ')} has passed its gate yet")
        estimates = {target: self._estimate(target, some) for target, some in values.items()}
        likes = estimates.get("likes")
        return Prediction(
            likes=likes,
            upvote_ratio=estimates.get("upvote_ratio"),
            advice=() if likes is None else self._advice(inputs, values["likes"], likes.value),
            degraded=bool(why),
            why=why,
            features=explaining.plain({name: each for some in values.values() for name, each in some.items()}),
        )

    @property
    def models(self) -> tuple[registry.ModelVersion, ...]:
        """The versions that answer, one for each target that has a champion."""
        return tuple(served.model for served in self._served.values())

    def _estimate(self, target: Target, values: Mapping[str, Any]) -> Estimate:
        import numpy as np

        served = self._served[target]
        names = list(values)
        output = np.array([served.loaded.score_vector([values[name] for name in names], names)], dtype=np.float64)
        predicted, low, high = band(target, served.model, output)
        median = values.get(schema.BASELINES[target])
        return Estimate(
            value=float(predicted[0]),
            low=float(low[0]),
            high=float(high[0]),
            baseline=None if _missing(median) else float(modelling.baseline_shown(target, [median])[0]),
            model_version=served.model.version,
            reasons=explaining.reasons(served.loaded, values)[: self._reasons],
        )

    def _advice(self, draft: Mapping[str, Any], values: Mapping[str, Any], likes: float) -> tuple[Advice, ...]:
        import pandas as pd

        from flows.reddit import advising, features

        variants = advising.variants(draft)
        if not variants:
            return ()
        rows = [dict(values) | _numbers(features.request_features(changed)) for _, changed in variants]
        served = self._served["likes"]
        scored = modelling.shown("likes", served.loaded.score(pd.DataFrame(rows).astype("float64")))
        return tuple(
            Advice(text, value) for text, value in advising.worth_saying(variants, scored.tolist(), likes)
        )  # fmt: skip


def _numbers(computed: Mapping[str, Any]) -> dict[str, float | None]:
    """What is computed of a variant, but for the subreddit, which stays and is encoded already."""
    return {
        name: None if value is None else float(value) for name, value in computed.items() if name != "community"
    }  # fmt: skip


PREDICTED_BY: Mapping[str, serving.PredictedBy] = {
    name: partial(predicted_by, target) for target, name in schema.MODELS.items()
}


if __name__ == "__main__":
    command_line.run(reddit_inference)
