"""The fraud inference pipeline on a real store and registry: a batch, a request, and their agreement."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

import featurestore
from featurestore.errors import InvalidData, InvalidTime, NotFound, SchemaMismatch
from featurestore.times import Window
from flows import registry, windows
from flows.fraud import inference_pipeline, schema, source
from flows.fraud.feature_pipeline import fraud_features
from flows.fraud.inference_pipeline import Predictor, fraud_inference
from flows.fraud.monitored import FRAUD
from flows.fraud.training_pipeline import fraud_training
from flows.settings import Settings
from tests.flows import shadow_law
from tests.flows.fraud.conftest import living_in, training_in_a_hurry

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


def test_prediction_says_what_it_was_made_of_when_and_why(with_champion: Settings) -> None:
    """I5, I6: reasons, what was missing, view, training set, and when it was made."""
    made_at = END + timedelta(hours=6)
    start = END - timedelta(days=4)  # which no other test has asked for
    end = start + timedelta(hours=5)
    with windows.frozen(made_at):
        fraud_inference(start=start, end=end)
    registry.bootstrap(with_champion)
    champion = registry.champion(schema.MODEL)
    assert champion is not None
    rows = predictions(with_champion)
    rows = rows[(rows["made_at"] == made_at) & (rows["model_version"] == champion.version)]
    assert len(rows) == len(transactions(with_champion, start, end))
    assert set(rows["feature_view"]) == {f"{champion.lineage.feature_view}@{champion.lineage.feature_view_version}"}
    assert not rows["backfilled"].any()
    assert (rows["degraded"] == (rows["why"] != "")).all()
    told = rows["why"][rows["degraded"]].str.contains("has no transaction|has no outcome known").all()
    assert told
    for text in rows["reasons"]:
        reasons = json.loads(text)
        assert len(reasons) == 5
        assert set(reasons[0]) == {"feature", "value", "contribution"}
    with windows.frozen(END + schema.LABEL_DELAY):
        fraud_inference(start=start, end=end)
    again = predictions(with_champion)
    assert set(again[again["tid"].isin(rows["tid"])]["made_at"]) == {made_at}  # what was said stays said


def test_predictions_are_judged_once_their_outcomes_are_known(with_champion: Settings) -> None:
    """I8, I9: by transaction; pending, matured, expired; made in time and reconstructed are never mixed."""
    fs = featurestore.connect(home=with_champion.store_home)
    start = END - timedelta(days=12)
    with windows.frozen(END):
        fraud_inference(start=start, end=END)
        predictions_fg = inference_pipeline.predictions_group(fs)
        worth = inference_pipeline.hindcast.fn(fs, END, END)
    held = predictions_fg.read(start_time=END - FRAUD.measure.span, end_time=END).drop_duplicates("tid")
    late = held["backfilled"].astype("bool")
    assert late.sum() > 1000  # older than the label delay when they were made
    assert worth["measured_on"] == "forecasts made in time (hindcast)"
    assert (worth["pending"], worth["matured"], worth["expired"]) == (int((~late).sum()), 0, 0)
    assert worth["rows_measured"] == 0
    assert worth["average_precision"] is None

    reconstructed = held[late]
    labels = fs.get_feature_group(schema.LABELS_GROUP, schema.VERSION).read()
    joined = reconstructed.merge(labels[["tid", "is_fraud"]], on="tid").assign(state="matured", amount=10.0)
    found = inference_pipeline.worth(joined)
    assert found["measured_on"] == "forecasts reconstructed later (backtest)"
    assert found["average_precision"] > 5 * found["prevalence"]
    assert found["cost_usd_flagging_nothing"] == 10.0 * joined["is_fraud"].sum()


def test_group_of_predictions_made_before_gets_the_new_columns_and_keeps_its_rows(with_features: Settings) -> None:
    fs = featurestore.connect(home=with_features.store_home)
    before = [f for f in schema.PREDICTIONS if f not in schema.ADDED_TO_PREDICTIONS]
    old = fs.get_or_create_feature_group(
        name=schema.PREDICTIONS_GROUP, version=schema.VERSION, primary_key=["tid", "model_version"],
        event_time="datetime", features=before,
    )  # fmt: skip
    row = {
        "tid": "a", "model_version": 1, "datetime": END, "cc_num": "1", "score": 0.5, "threshold": 0.1,
        "is_flagged": True, "feature_view": "v@1", "training_dataset_version": 1, "scored_at": END,
    }  # fmt: skip
    old.insert(pd.DataFrame([row]), window=Window(END, END + timedelta(hours=1)))
    wider = inference_pipeline.predictions_group(fs)
    assert wider.read()[[f.name for f in schema.ADDED_TO_PREDICTIONS]].isna().all(axis=None)
    assert inference_pipeline.predictions_group(fs).delta_version == wider.delta_version
    worth = inference_pipeline.hindcast.fn(fs, wider.watermark or END, END)
    assert worth["measured_on"] == "forecasts reconstructed later (backtest)"  # nobody knows when it was made


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


def request_of(settings: Settings, **changes: object) -> dict[str, object]:
    """A request of a card and merchant that are known, with nothing missing."""
    rows = transactions(settings, END - timedelta(days=1), END)
    known = predictions(settings)
    known = known[known["why"] == ""]["tid"] if len(known) else rows["tid"]
    row = rows[rows["tid"].isin(known)].iloc[-1]
    names = ["cc_num", "merchant_id", "category", "amount"]
    return {name: row[name] for name in names} | {"datetime": END} | changes


def test_request_in_a_category_never_seen_is_answered_and_says_so(with_champion: Settings) -> None:
    fraud_inference(start=END - timedelta(days=1), end=END)
    predictor = Predictor()
    assert not predictor.predict(request_of(with_champion)).degraded
    answer = predictor.predict(request_of(with_champion, category="gambling"))
    assert answer.why == ("the category 'gambling' was never seen in training",)
    assert answer.degraded
    assert 0 <= answer.score <= 1


@pytest.mark.parametrize("amount", [0.0, 0.01, 1_000_000.0])
def test_smallest_and_largest_amounts_are_scored(with_champion: Settings, amount: float) -> None:
    assert 0 <= Predictor().predict({"cc_num": "nobody", "datetime": END, "amount": amount}).score <= 1


def test_request_is_scored_as_the_batch_scores_it_once_it_is_booked(with_features: Settings) -> None:
    with training_in_a_hurry():
        version = fraud_training(end=END)
    until = END + timedelta(hours=2)
    coming = source.read_transactions(END, until, source="simulated").drop_duplicates("cc_num")
    told = source.read_labels(END, until, source="simulated")["merchant_id"]
    coming = coming[~coming["merchant_id"].isin(told)]  # what becomes known meanwhile, the request cannot know
    predictor = Predictor(version)
    names = ["cc_num", "merchant_id", "category", "amount", "datetime", "latitude", "longitude"]
    answers = {row["tid"]: predictor.predict({name: row[name] for name in names}) for _, row in coming.iterrows()}

    fraud_features(start=END, end=until)
    registry.promote(registry.version(schema.MODEL, version), why="a batch is scored by the champion")
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
        ({"amount": 1_000_000.01}, InvalidData, "amount = 1000000.01: expected USD from 0 to 1,000,000"),
        ({"amount": float("nan")}, InvalidData, "amount = nan"),
        ({"latitude": 91.0}, InvalidData, "latitude = 91.0: expected degrees from -90 to 90"),
        ({"longitude": "east"}, InvalidData, "longitude = 'east': expected degrees from -180 to 180"),
    ],
)
def test_request_that_cannot_be_scored_is_refused(
    with_champion: Settings, change: dict[str, object], error: type[Exception], message: str
) -> None:
    request = {"cc_num": "1", "merchant_id": "m", "datetime": END, "amount": 1.0}
    with pytest.raises(error, match=message):
        Predictor().predict(request | change)


# --- the shadow --------------------------------------------------------------------------------------


def test_challengers_are_heard_on_the_same_transactions_and_change_nothing_served(
    trained_once: Path, tmp_path: Path
) -> None:
    shadow_law.check(
        trained_once, tmp_path, living_in, fraud_inference, {schema.MODEL: schema.PREDICTIONS_GROUP},
        Window(END - timedelta(days=17), END - timedelta(days=16)),
    )  # fmt: skip


def test_after_a_rollback_the_next_run_serves_the_version_before_and_nothing_is_left_out(
    trained_once: Path, tmp_path: Path
) -> None:
    """T16: one call; no moment without a champion, no redeploy, no transaction that nobody scored."""
    window = Window(END - timedelta(days=18), END - timedelta(days=17))
    middle = window.start + timedelta(hours=12)
    with living_in(Path(shutil.copytree(trained_once, tmp_path / "home"))) as settings:
        registry.bootstrap(settings)
        before = registry.require_champion(schema.MODEL, trained_by="the fixture")
        after = shadow_law.half_of(before)
        decided = threading.Event()

        def who_serves() -> set[int | None]:
            found = set()
            while not decided.wait(0.02):
                champion = registry.champion(schema.MODEL)
                found.add(None if champion is None else champion.version)
            return found

        with ThreadPoolExecutor() as others:
            asked = others.submit(who_serves)
            registry.promote(after, why="it seemed better")
            fraud_inference(start=window.start, end=middle)
            registry.rollback(schema.MODEL, why="it was not")
            fraud_inference(start=middle, end=window.end)
            decided.set()
            assert asked.result() == {before.version, after.version}
        rows = predictions(settings)
        rows = rows[rows["datetime"].between(window.start, window.end, inclusive="left")]
        assert sorted(rows["tid"]) == sorted(transactions(settings, *window)["tid"])
        late = rows["datetime"] >= middle
        assert set(rows["model_version"][late]) == {before.version}
        assert set(rows["model_version"][~late]) == {after.version}
