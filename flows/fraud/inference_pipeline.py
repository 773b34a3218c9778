"""The fraud system's inference pipeline: scores for the transactions of a window, and for a single one on request.

Both take everything from the registered model: weights, threshold, the view it was trained on and the training dataset
whose transformations it knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from prefect import flow, get_run_logger, task

import featurestore
from featurestore.errors import InvalidData
from featurestore.times import Window
from flows import command_line, events, explaining, registry, retries, rules, serving, windows
from flows.fraud import schema
from flows.settings import Settings
from flows.writing import write

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import Commit, FeatureGroup, FeatureStore


FIRST_WINDOW = timedelta(days=7)
"""What the first run scores: the transactions whose outcome nobody knows yet."""

SYSTEM = "fraud"


@flow(name="fraud-inference")
def fraud_inference(start: datetime | None = None, end: datetime | None = None) -> int:
    """Score the transactions of [start, end) with the champion and write the predictions; return the rows written.

    Without start it goes on where the last predictions ended, without end it goes to the newest features. Scoring a
    window again with the same version writes nothing.
    """
    settings = Settings()
    fs = featurestore.connect(home=settings.store_home)
    registry.bootstrap(settings)
    champion = registry.require_champion(schema.MODEL, trained_by=serving.trained_by(SYSTEM))
    predictions_fg = predictions_group(fs)
    window = serving.window_to_predict(
        fs.get_feature_group(schema.TRANSACTIONS_GROUP, schema.VERSION), predictions_fg, start, end,
        first_window=FIRST_WINDOW, system=SYSTEM,
    )  # fmt: skip
    if window is None:
        get_run_logger().info("Skipped: there are no features newer than the predictions.")
        events.summary_artifact("fraud-inference-summary", [summary(champion, None, None, 0)])
        return 0
    batch = with_cards(fs, serving.read_batch(fs, champion, window), window)
    predictions: pd.DataFrame = score(champion, batch, window)
    commit = write(predictions_fg, predictions, window)
    flagged = int(predictions["is_flagged"].sum())
    events.summary_artifact("fraud-inference-summary", [summary(champion, window, commit, flagged)])
    return commit.rows_written


def predictions_group(fs: FeatureStore) -> FeatureGroup:
    """The group of predictions; made where it is not there yet."""
    return fs.get_or_create_feature_group(
        name=schema.PREDICTIONS_GROUP, version=schema.VERSION,
        description="Score of each transaction by each model version that scored it.",
        primary_key=["tid", "model_version"], event_time="datetime", online_enabled=False,
        features=list(schema.PREDICTIONS), expectation_suite=schema.PREDICTIONS_RULES, tags={"system": "fraud"},
    )  # fmt: skip


@task(task_run_name="cards of {window}", **retries.READING)
def with_cards(fs: FeatureStore, batch: pd.DataFrame, window: Window) -> pd.DataFrame:
    """The batch with the card of each transaction, which is no feature of the model."""
    transactions = fs.get_feature_group(schema.TRANSACTIONS_GROUP, schema.VERSION)
    cards = transactions.read(start_time=window.start, end_time=window.end)[["tid", "cc_num"]]
    return batch.drop(columns="cc_num", errors="ignore").merge(cards, on="tid", validate="one_to_one")


@task(task_run_name="score {window}", **retries.COMPUTING)
def score(model: registry.ModelVersion, batch: pd.DataFrame, window: Window) -> pd.DataFrame:
    """The rows of the group of predictions: one per transaction of the batch.

    `scored_at` is the end of the window, and not the clock: scoring a window again gives the same rows.

    Raises:
        InvalidData: a score is not a number; nothing is published then.
    """
    loaded = registry.load(model)
    threshold = threshold_of(model)
    scores = loaded.score(batch).astype("float64")
    if (scores != scores).any():
        raise InvalidData(f"{model} gives no number for {int((scores != scores).sum())} of {len(scores)} rows.")
    lineage = model.lineage
    rows = batch[["tid", "datetime", "cc_num"]].assign(
        model_version=model.version,
        score=scores,
        threshold=threshold,
        is_flagged=scores >= threshold,
        feature_view=f"{lineage.feature_view}@{lineage.feature_view_version}",
        training_dataset_version=lineage.training_dataset_version,
        scored_at=window.end,
    )
    return rows[rules.columns(schema.PREDICTIONS)]


def summary(model: registry.ModelVersion, window: Window | None, commit: Commit | None, flagged: int) -> dict[str, Any]:
    """What the run did, as the one row of its summary."""
    lineage = model.lineage
    return {
        "window": "nothing new" if window is None else str(window),
        "rows_written": 0 if commit is None else commit.rows_written,
        "rows_unchanged": 0 if commit is None else commit.rows_unchanged,
        "rows_flagged": flagged,
        "model_version": model.version,
        "threshold": model.threshold,
        "feature_view": f"{lineage.feature_view}@{lineage.feature_view_version}",
        "training_dataset_version": lineage.training_dataset_version,
    }


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
    """The answer to one request; `degraded` says that something was not known, and `why` what."""

    is_fraud: bool
    score: float
    threshold: float
    model_version: int
    reasons: tuple[explaining.Reason, ...]
    degraded: bool
    why: tuple[str, ...]


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
        why = unknowns(inputs, known_card=card is not None, recent=recent is not None, values=values)
        return Prediction(
            is_fraud=score >= self.threshold,
            score=score,
            threshold=self.threshold,
            model_version=self.model.version,
            reasons=explaining.reasons(self._loaded, values)[: self._reasons],
            degraded=bool(why),
            why=why,
        )


def unknowns(
    inputs: Mapping[str, Any], *, known_card: bool, recent: bool, values: Mapping[str, Any]
) -> tuple[str, ...]:
    """What the score had to do without, in words.

    >>> unknowns({"cc_num": "1"}, known_card=True, recent=False, values={})
    ('card 1 has no transaction in the last 30 days',)
    """
    card, merchant = inputs["cc_num"], inputs.get("merchant_id")
    found = []
    if not known_card:
        found.append(f"card {card} is not known")
    if not recent:
        found.append(f"card {card} has no transaction in the last {schema.CARD_TTL.days} days")
    merchant_values = [values[name] for name in schema.MERCHANT_FEATURES if name in values]
    if merchant_values and all(value is None or value != value for value in merchant_values):
        found.append(f"merchant {merchant} has no outcome known in the last {schema.MERCHANT_TTL.days} days")
    return tuple(found)


if __name__ == "__main__":
    command_line.run(fraud_inference)
