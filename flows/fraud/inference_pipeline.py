"""The fraud system's inference pipeline: scores for the transactions of a window, and for a single one on request.

Both take everything from the registered model: weights, threshold, the view it was trained on and the training dataset
whose transformations it knows. A prediction once made is never changed; what the earlier ones were worth is in the
run's summary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from prefect import flow, task

import featurestore
from featurestore.errors import InvalidData
from featurestore.times import Window
from flows import boosting, command_line, events, explaining, late, registry, retries, rules, serving, shadow, windows
from flows.fraud import schema
from flows.settings import Settings, connect

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import FeatureGroup, FeatureStore


FIRST_WINDOW = timedelta(days=7)
"""What the first run scores: the transactions whose outcome nobody knows yet."""

SYSTEM = "fraud"


@flow(name="fraud-inference")
@late.newest_only
def fraud_inference(
    start: datetime | None = None, end: datetime | None = None, only_with_champion: bool = False
) -> int:
    """Score the transactions of [start, end) with the champion and write the predictions; return the rows written.

    Without start it goes on where the last predictions ended, without end it goes to the newest features. What the same
    version has scored before stays as it is.

    Without a champion it fails; with only_with_champion it returns 0 at once.
    """
    fs = connect()
    if only_with_champion and not serving.has_champion(schema.MODEL):
        return 0
    champion = registry.require_champion(schema.MODEL, trained_by=serving.trained_by(SYSTEM))
    predictions_fg = predictions_group(fs)
    made_at = windows.scheduled_time()
    window = serving.window_to_predict(
        fs.get_feature_group(schema.TRANSACTIONS_GROUP, schema.VERSION), predictions_fg, start, end,
        first_window=FIRST_WINDOW, system=SYSTEM,
    )  # fmt: skip
    events.name_run(str(window or "nothing new"))
    predicted_by = partial(scored_by, fs, made_at)
    made = serving.publish(predictions_fg, window, partial(predicted_by, champion))
    worth = hindcast(fs, predictions_fg.watermark or made_at, made_at)
    shadowed = shadow.score(fs, predictions_fg, window, predicted_by, schema.MODEL)
    events.summary_artifact("fraud-inference-summary", [summary(champion, made, worth | shadowed)])
    return made.rows_written


def predictions_group(fs: FeatureStore) -> FeatureGroup:
    """The group of predictions; made where it is not there yet, and widened where it has been made before."""
    serving.widen(fs, schema.PREDICTIONS_GROUP, schema.VERSION, schema.PREDICTIONS)
    return fs.get_or_create_feature_group(
        name=schema.PREDICTIONS_GROUP, version=schema.VERSION,
        description="Score of each transaction by each model version that scored it.",
        primary_key=["tid", "model_version"], event_time="datetime", online_enabled=False,
        features=list(schema.PREDICTIONS), expectation_suite=schema.PREDICTIONS_RULES, tags={"system": "fraud"},
    )  # fmt: skip


def scored_by(fs: FeatureStore, made_at: datetime, model: registry.ModelVersion, window: Window) -> pd.DataFrame:
    """What a version predicts of a window, by its own view and training dataset: rows of the group of predictions."""
    batch: pd.DataFrame = serving.read_batch(fs, model, window)
    asked: pd.DataFrame = asked_of(fs, batch["tid"], window)
    rows: pd.DataFrame = score(model, batch, asked, window, made_at)
    return rows


@task(task_run_name="what was asked in {window}", **retries.READING)
def asked_of(fs: FeatureStore, tids: pd.Series, window: Window) -> pd.DataFrame:
    """What these transactions asked for, in their order: cc_num, merchant_id, category; and is_known_card."""
    names = ["tid", "cc_num", "merchant_id", "category"]
    rows = fs.get_feature_group(schema.TRANSACTIONS_GROUP, schema.VERSION).read(
        start_time=window.start, end_time=window.end
    )
    cards = fs.get_feature_group(schema.CARDS_GROUP, schema.VERSION).read()["cc_num"]
    asked = tids.to_frame().merge(rows[names], on="tid", how="left", validate="one_to_one")
    return asked.assign(is_known_card=asked["cc_num"].isin(cards))


@task(task_run_name="score {window}", **retries.COMPUTING)
def score(
    model: registry.ModelVersion, batch: pd.DataFrame, asked: pd.DataFrame, window: Window, made_at: datetime
) -> pd.DataFrame:
    """The rows of the group of predictions: one per transaction of the batch.

    Raises:
        InvalidData: a score is not a number; nothing is published then.
    """
    loaded = registry.load(model)
    threshold = threshold_of(model)
    names = list(loaded.feature_names)
    inputs = boosting.matrix(batch, names)
    scores = loaded.score(batch).astype("float64")
    if (scores != scores).any():
        raise InvalidData(f"{model} gives no number for {int((scores != scores).sum())} of {len(scores)} rows.")
    why = [
        "; ".join(unknowns(each, known_card=each["is_known_card"], values=dict(zip(names, values, strict=True))))
        for each, values in zip(asked.to_dict("records"), inputs.to_numpy(), strict=True)
    ]
    rows = batch[["tid", "datetime"]].assign(
        cc_num=asked["cc_num"].array,
        **serving.came_from(model),
        score=scores,
        threshold=threshold,
        is_flagged=scores >= threshold,
        scored_at=window.end,
        degraded=[bool(text) for text in why],
        why=why,
        reasons=explaining.reasons_of(loaded, inputs).array,
        made_at=made_at,
        backfilled=made_at > batch["datetime"] + schema.LABEL_DELAY,
    )
    return rows[rules.columns(schema.PREDICTIONS)]


# --- what predictions were worth ---------------------------------------------------------------------


@task(task_run_name="hindcast", **retries.READING)
def hindcast(fs: FeatureStore, until: datetime, now: datetime) -> dict[str, Any]:
    """What the newest predictions were worth, once the outcomes are known; what was said first is what counts."""
    from flows import monitored
    from flows.fraud.monitored import FRAUD

    return worth(monitored.read(fs, FRAUD, until - FRAUD.measure.span, until, now))


def worth(joined: pd.DataFrame) -> dict[str, Any]:
    """What matured predictions found and cost, beside the prevalence and flagging nothing on the same transactions.

    Args:
        joined: of `monitored.read`, with score, is_flagged, amount, is_fraud and backfilled.
    Returns:
        `measured_on` says whether they were made in time or reconstructed; counts by state; then rows, frauds, average
        precision beside the prevalence, precision and recall of what was flagged, and the cost beside that of flagging
        nothing (USD). Null where there is nothing to measure on.

    >>> import pandas as pd
    >>> found = worth(pd.DataFrame({
    ...     "score": [0.9, 0.8, 0.1, 0.2], "is_flagged": [True, True, False, False], "amount": [50.0, 5.0, 70.0, 5.0],
    ...     "is_fraud": [1, 0, 1, None], "state": ["matured"] * 3 + ["pending"], "backfilled": False}))
    >>> found["precision_of_flagged"], found["recall"], found["cost_usd"], found["cost_usd_flagging_nothing"]
    (0.5, 0.5, 80.0, 120.0)
    >>> found["pending"], round(found["prevalence"], 2), round(found["average_precision"], 2)
    (1, 0.67, 0.83)
    """
    from flows import evaluation, hindcasting

    judged = hindcasting.judged(joined)
    rows = judged.matured("score", "amount")
    is_fraud, is_flagged = rows["is_fraud"].astype("int64") == 1, rows["is_flagged"].astype("bool")
    frauds, hits = int(is_fraud.sum()), int((is_fraud & is_flagged).sum())
    lost = float(rows["amount"][is_fraud].sum())
    missed = float(rows["amount"][is_fraud & ~is_flagged].sum())
    return {
        "measured_on": judged.kind,
        **judged.states(),
        "rows_measured": len(rows),
        "frauds": frauds,
        "average_precision": evaluation.average_precision(is_fraud, rows["score"]) if 0 < frauds < len(rows) else None,
        "prevalence": frauds / len(rows) if len(rows) else None,
        "precision_of_flagged": hits / int(is_flagged.sum()) if is_flagged.any() else None,
        "recall": hits / frauds if frauds else None,
        "cost_usd": missed + schema.FALSE_ALARM_USD * int((is_flagged & ~is_fraud).sum()) if len(rows) else None,
        "cost_usd_flagging_nothing": lost if len(rows) else None,
    }


def summary(model: registry.ModelVersion, made: serving.Published, rest: dict[str, Any]) -> dict[str, Any]:
    """What the run did, as the one row of its summary."""
    flagged = {"rows_flagged": made.count("is_flagged"), "threshold": model.threshold}
    return made.summary() | flagged | serving.came_from(model) | rest


def threshold_of(model: registry.ModelVersion) -> float:
    """The score from which the model flags.

    Raises:
        InvalidData: it was registered without one.
    """
    if model.threshold is None:
        raise InvalidData(f"{model} has no threshold, so nothing can be flagged. Train it again with the fraud flow.")
    return model.threshold


# --- online ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """The answer to one request; `degraded` says that something was not known, and `why` what.

    `features` is what the model was given, as it was given; a category is a number there.
    """

    is_fraud: bool
    score: float
    threshold: float
    model_version: int
    reasons: tuple[explaining.Reason, ...]
    degraded: bool
    why: tuple[str, ...]
    features: Mapping[str, float | None]


class Predictor:
    """Scores one transaction at a time with the model that was champion when it was made.

    Args:
        version: a version to serve instead of the champion, such as for comparing the two.
        settings: where store and registry are; default the environment's.
        reasons: how many features an answer names.
    Raises:
        NotFound: no champion yet, or no such version.
    """

    def __init__(self, version: int | None = None, *, settings: Settings | None = None, reasons: int = 5) -> None:
        settings = settings or Settings()
        # What is too old to count is told by the request's time, not by the wall clock: `predict` sets it.
        fs = featurestore.connect(home=settings.store_home, clock=windows.now)
        registry.bootstrap(settings)
        self.model = (
            registry.require_champion(schema.MODEL, trained_by=serving.trained_by(SYSTEM))
            if version is None
            else registry.version(schema.MODEL, version)
        )
        self.threshold = threshold_of(self.model)
        self._loaded = registry.load(self.model)
        self._view = serving.view_of(fs, self.model)
        self._view.init_serving(self.model.lineage.training_dataset_version)
        self._names = self._view.feature_names
        self._card_windows = fs.get_feature_group(schema.CARD_WINDOWS_GROUP, schema.VERSION)
        self._cards = fs.get_feature_group(schema.CARDS_GROUP, schema.VERSION)
        self._reasons = reasons

    def predict(self, inputs: Mapping[str, Any]) -> Prediction:
        """Whether this transaction is a fraud, scored before it is booked.

        Args:
            inputs: cc_num, datetime (with time zone), amount (USD); merchant_id, category, latitude, longitude where
                there are any.
        Raises:
            SchemaMismatch: cc_num, datetime or amount is missing.
            InvalidTime: the time has no zone, or the card has a later booking already.
            InvalidData: the amount is negative, beyond a million or no number; or the place is not on Earth.
        """
        from flows.fraud import features

        features.check_request(inputs)
        card_key = {"cc_num": inputs["cc_num"]}
        with windows.frozen(inputs["datetime"]):
            recent = self._card_windows.get_online(card_key, schema.CARD_HELPERS)
            card = self._cards.get_online(card_key, schema.CARD_DATES)
            computed = features.request_features(inputs, card_windows=recent or {}, card=card or {})
            requested = {name: inputs.get(name) for name in schema.REQUEST_FEATURES}
            vector = self._view.get_feature_vector(
                {key: inputs.get(key) for key in self._view.serving_keys},
                passed_features=requested | computed,
                allow_missing=True,
            )
        values = dict(zip(self._names, vector, strict=True))
        score = self._loaded.score_vector(vector, self._names)
        used = {name: values[name] for name in self._loaded.feature_names}
        why = unknowns(inputs, known_card=card is not None, values=used)
        return Prediction(
            is_fraud=score >= self.threshold,
            score=score,
            threshold=self.threshold,
            model_version=self.model.version,
            reasons=explaining.reasons(self._loaded, values)[: self._reasons],
            degraded=bool(why),
            why=why,
            features=explaining.plain(used),
        )

    @property
    def models(self) -> tuple[registry.ModelVersion, ...]:
        """The versions that answer."""
        return (self.model,)


def unknowns(inputs: Mapping[str, Any], *, known_card: bool, values: Mapping[str, Any]) -> tuple[str, ...]:
    """What the score of a transaction had to do without, in words; in a batch and at a request alike.

    Args:
        inputs: cc_num, merchant_id, category as they were asked for.
        known_card: whether the card is among the known ones.
        values: what the model was given, by feature: nulls are what it had to do without, -1 is a category that it had
            never seen in training.

    >>> unknowns({"cc_num": "1"}, known_card=True, values={"amount_count_30d": None})
    ('card 1 has no transaction in the last 30 days',)
    >>> unknowns({"cc_num": "1", "category": "gambling"}, known_card=True, values={"category": -1.0})
    ("the category 'gambling' was never seen in training",)
    """
    card, merchant = inputs["cc_num"], inputs.get("merchant_id")
    found = []
    if not known_card:
        found.append(f"card {card} is not known")
    if _all_null(values, schema.CARD_FEATURES):
        found.append(f"card {card} has no transaction in the last {schema.CARD_TTL.days} days")
    if _all_null(values, schema.MERCHANT_FEATURES):
        found.append(f"merchant {merchant} has no outcome known in the last {schema.MERCHANT_TTL.days} days")
    if values.get("category") == -1:
        found.append(f"the category {inputs.get('category')!r} was never seen in training")
    return tuple(found)


def _all_null(values: Mapping[str, Any], names: Sequence[str]) -> bool:
    held = [values[name] for name in names if name in values]
    return bool(held) and all(value is None or value != value for value in held)


PREDICTED_BY: Mapping[str, serving.PredictedBy] = {schema.MODEL: scored_by}


if __name__ == "__main__":
    command_line.run(fraud_inference)
