"""The fraud inference pipeline on a real store and registry: a batch, a request, and their agreement."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

import featurestore
from featurestore.errors import InvalidData, InvalidTime, NotFound, SchemaMismatch
from flows import registry
from flows.fraud import schema, source
from flows.fraud.feature_pipeline import fraud_features
from flows.fraud.inference_pipeline import Predictor, fraud_inference
from flows.fraud.training_pipeline import fraud_training
from flows.settings import Settings

END = datetime(2026, 4, 1, tzinfo=UTC)


def predictions(settings: Settings) -> pd.DataFrame:
    fs = featurestore.connect(home=settings.store_home)
    return fs.get_feature_group(schema.PREDICTIONS_GROUP, schema.VERSION).read()


def transactions(settings: Settings, start: datetime, end: datetime) -> pd.DataFrame:
    fs = featurestore.connect(home=settings.store_home)
    return fs.get_feature_group(schema.TRANSACTIONS_GROUP, schema.VERSION).read(start_time=start, end_time=end)


def test_every_transaction_of_the_window_is_scored_once_by_the_champion(with_champion: Settings) -> None:
    start = END - timedelta(days=2)
    fraud_inference(start=start, end=END)
    registry.bootstrap(with_champion)
    champion = registry.champion(schema.MODEL)
    assert champion is not None
    rows = predictions(with_champion)
    rows = rows[(rows["datetime"] >= start) & (rows["model_version"] == champion.version)]
    assert sorted(rows["tid"]) == sorted(transactions(with_champion, start, END)["tid"])
    assert rows["score"].between(0, 1).all()
    assert set(rows["threshold"]) == {champion.threshold}
    assert (rows["is_flagged"] == (rows["score"] >= rows["threshold"])).all()
    assert set(rows["training_dataset_version"]) == {champion.lineage.training_dataset_version}


def test_scoring_a_window_again_writes_nothing(with_champion: Settings) -> None:
    fraud_inference(start=END - timedelta(days=1), end=END)
    before = predictions(with_champion)
    assert fraud_inference(start=END - timedelta(days=1), end=END) == 0
    pd.testing.assert_frame_equal(predictions(with_champion), before)


def test_without_dates_it_goes_on_until_the_features_end_and_then_rests(with_champion: Settings) -> None:
    fraud_inference(start=END - timedelta(days=1), end=END)
    assert fraud_inference() == 0


def test_no_champion_yet_names_the_training_deployment(with_features: Settings) -> None:
    with pytest.raises(NotFound, match=r"no champion yet.*fraud-training/fraud-training"):
        fraud_inference()
    with pytest.raises(NotFound, match="no champion yet"):
        Predictor()


def test_window_beyond_the_features_is_refused(with_champion: Settings) -> None:
    with pytest.raises(InvalidTime, match="ends after the features"):
        fraud_inference(start=END, end=END + timedelta(days=1))


def test_window_that_ends_before_it_starts_is_refused(with_champion: Settings) -> None:
    with pytest.raises(InvalidTime, match="after its end"):
        fraud_inference(start=END, end=END - timedelta(days=1))


# --- one transaction ---------------------------------------------------------------------------------


def test_request_for_a_card_and_merchant_never_seen_is_answered_and_says_so(with_champion: Settings) -> None:
    answer = Predictor().predict({"cc_num": "nobody", "merchant_id": "nowhere", "datetime": END, "amount": 12.5})
    assert 0 <= answer.score <= 1
    assert answer.degraded
    assert answer.why == (
        "card nobody is not known",
        "card nobody has no transaction in the last 30 days",
        "merchant nowhere has no outcome known in the last 30 days",
    )


def test_request_is_scored_as_the_batch_scores_it_once_it_is_booked(with_features: Settings) -> None:
    fraud_training(end=END)
    until = END + timedelta(hours=2)
    coming = source.read_transactions(END, until, source="simulated").drop_duplicates("cc_num")
    told = source.read_labels(END, until, source="simulated")["merchant_id"]
    coming = coming[~coming["merchant_id"].isin(told)]  # what becomes known meanwhile, the request cannot know
    predictor = Predictor()
    names = ["cc_num", "merchant_id", "category", "amount", "datetime", "latitude", "longitude"]
    answers = {row["tid"]: predictor.predict({name: row[name] for name in names}) for _, row in coming.iterrows()}

    fraud_features(start=END, end=until)
    fraud_inference(start=END, end=until)
    batch = predictions(with_features).set_index("tid")["score"]
    assert len(answers) > 5
    assert {tid: answer.score for tid, answer in answers.items()} == pytest.approx(
        {tid: batch[tid] for tid in answers}, abs=1e-6
    )


def test_answer_names_the_features_that_weighed_most(with_champion: Settings) -> None:
    last = transactions(with_champion, END - timedelta(days=1), END).iloc[-1]
    request = {"cc_num": last["cc_num"], "merchant_id": last["merchant_id"], "category": last["category"]}
    answer = Predictor(reasons=3).predict(request | {"datetime": END, "amount": 900.0})
    assert len(answer.reasons) == 3
    sizes = [abs(reason.contribution) for reason in answer.reasons]
    assert sizes == sorted(sizes, reverse=True)
    assert answer.is_fraud == (answer.score >= answer.threshold)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"cc_num": None}, SchemaMismatch, "needs .'cc_num'."),
        ({"datetime": datetime(2026, 4, 1)}, InvalidTime, "has no time zone"),
        ({"amount": -1.0}, InvalidData, "amount = -1.0"),
        ({"amount": "ten"}, InvalidData, "amount = 'ten'"),
    ],
)
def test_request_that_cannot_be_scored_is_refused(
    with_champion: Settings, change: dict[str, object], error: type[Exception], message: str
) -> None:
    request = {"cc_num": "1", "merchant_id": "m", "datetime": END, "amount": 1.0}
    with pytest.raises(error, match=message):
        Predictor().predict(request | change)
