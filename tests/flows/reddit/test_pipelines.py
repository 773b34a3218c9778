"""The three reddit pipelines on a real store and registry: windows, repairs, gates, predictions, drafts, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

import featurestore
from featurestore.errors import InvalidData, InvalidTime, NotFound
from featurestore.times import Window
from flows import hindcasting, registry, windows
from flows.reddit import inference_pipeline, schema, simulator, source
from flows.reddit.feature_pipeline import reddit_features
from flows.reddit.features import author_key
from flows.reddit.inference_pipeline import Predictor, reddit_inference
from flows.reddit.training_pipeline import reddit_training
from flows.settings import Settings
from tests.flows import shadow_law
from tests.flows.reddit.conftest import END, START, living_in

pytestmark = pytest.mark.long

GROUPS = [schema.AUTHORS_GROUP, schema.SUBREDDITS_GROUP, schema.OUTCOMES_GROUP, schema.POSTS_GROUP]
DAY = timedelta(days=1)
DRAFT = {
    "title": "How do I love my oven?", "body": "It is beautiful. " * 10, "subreddit": "SlowCooking", "time": END,
    "author": "author-0",
}  # fmt: skip


def rows_of(settings: Settings, name: str) -> pd.DataFrame:
    return featurestore.connect(home=settings.store_home).get_feature_group(name, schema.VERSION).read()


def predictions(settings: Settings) -> pd.DataFrame:
    return rows_of(settings, schema.PREDICTIONS_GROUP)


# --- features ----------------------------------------------------------------------------------------


def test_window_is_written_to_every_group_and_again_writes_nothing(empty: Settings) -> None:
    """F3: idempotent."""
    assert reddit_features(start=START, end=START + 2 * DAY) > 0
    first = {name: rows_of(empty, name) for name in GROUPS}
    assert all(len(rows) for rows in first.values())
    assert reddit_features(start=START, end=START + 2 * DAY) == 0
    for name in GROUPS:
        pd.testing.assert_frame_equal(rows_of(empty, name), first[name], check_exact=True, obj=name)


def test_daily_runs_with_late_posts_end_with_the_rows_of_one_backfill(
    empty: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F1, F5, F9: an outage of two days, then one run covers it."""
    calm = simulator.posts
    troubled = replace(simulator.Trouble(), late_share=0.3)
    monkeypatch.setattr(simulator, "posts", lambda window, *, as_of: calm(window, as_of=as_of, trouble=troubled))
    with windows.frozen(START + DAY):
        reddit_features(start=START, end=START + DAY)
    for number in (2, 4):
        with windows.frozen(START + number * DAY + timedelta(minutes=5)):
            assert reddit_features() > 0
    daily = {name: rows_of(empty, name) for name in GROUPS}
    monkeypatch.setenv("TRIPTYCH_HOME", str(empty.home.with_name("backfill")))
    with windows.frozen(START + 4 * DAY + timedelta(minutes=5)):
        reddit_features(start=START, end=START + 4 * DAY)
    for name in GROUPS:
        pd.testing.assert_frame_equal(daily[name], rows_of(Settings(), name), check_exact=True, obj=name)


def test_bad_votes_are_refused_whole_and_the_next_run_repairs(empty: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """F11: the posts, whose watermark counts, are not written either."""
    with pytest.MonkeyPatch.context() as patch:
        good = simulator.outcomes
        patch.setattr(simulator, "outcomes", lambda window: good(window).assign(upvote_ratio=93.0))
        with pytest.raises(InvalidData, match="upvote_ratio"):
            reddit_features(start=START, end=START + DAY)
    fs = featurestore.connect(home=empty.store_home)
    assert fs.get_feature_group(schema.POSTS_GROUP, schema.VERSION).watermark is None
    assert reddit_features(start=START, end=START + DAY) > 0


def test_store_of_another_source_is_refused(empty: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    reddit_features(start=START, end=START + DAY)
    monkeypatch.setattr(source, "source_name", lambda: "files")
    with pytest.raises(InvalidData, match="holds rows of the source 'simulated'"):
        reddit_features(start=START, end=START + DAY)


def test_author_can_be_forgotten(empty: Settings) -> None:
    """The deletion path for personal data: history and outcomes by their keys, in the store and online."""
    reddit_features(start=START, end=START + 2 * DAY)
    # What is too old to count online is told by this clock.
    fs = featurestore.connect(home=empty.store_home, clock=lambda: START + 2 * DAY)
    group = fs.get_feature_group(schema.AUTHORS_GROUP, schema.VERSION)
    author = group.read()["author"].iloc[0]
    assert group.get_online({"author": author}, ["author_posts_90d"]) is not None
    group.forget(pd.DataFrame({"author": [author]}))
    assert author not in set(group.read()["author"])
    assert group.get_online({"author": author}, ["author_posts_90d"]) is None


# --- training ----------------------------------------------------------------------------------------


def test_both_targets_have_a_champion_that_knows_what_it_came_from(with_champions: Settings) -> None:
    registry.bootstrap(with_champions)
    for target, name in schema.MODELS.items():
        champion = registry.champion(name)
        assert champion is not None, target
        metrics = champion.metrics
        assert metrics["test.spearman_lift.low"] > 0
        assert metrics["test.spearman"] > metrics["test.spearman.ridge"] > metrics["test.spearman.subreddit_median"]
        assert 0.7 < metrics["test.band_coverage"] < 0.9
        assert champion.lineage.source == "simulated"
        assert champion.lineage.training_window.end == END - schema.LABEL_DELAY
        names = registry.load(champion).feature_names
        assert not {"likes", "log_likes", "upvote_ratio", "post_id", "author", "subreddit"} & set(names)
        assert set(registry.explanation(champion)) == set(names)


def test_nothing_new_trains_no_new_version(with_champions: Settings) -> None:
    registry.bootstrap(with_champions)
    before = {target: registry.versions(name)[-1].version for target, name in schema.MODELS.items()}
    assert reddit_training(end=END) == before
    assert {target: registry.versions(name)[-1].version for target, name in schema.MODELS.items()} == before


def test_training_before_any_feature_names_the_flow_to_run(empty: Settings) -> None:
    with pytest.raises(NotFound, match="reddit-features/reddit-features"):
        reddit_training()


def test_history_too_short_and_votes_not_known_say_what_to_do(empty: Settings) -> None:
    reddit_features(start=START, end=START + 3 * DAY)
    with pytest.raises(InvalidData, match="Run the feature pipeline for more history"):
        reddit_training()
    with pytest.raises(InvalidTime, match="settled votes"):
        reddit_training(end=END)


# --- predictions -------------------------------------------------------------------------------------


def test_new_posts_are_predicted_before_their_votes_settle_and_judged_when_they_have(
    with_champions: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I2, I8: pending, then matured; what was said stays said."""
    with windows.frozen(END + timedelta(minutes=30)):
        assert reddit_inference(start=END - DAY, end=END) > 0
        assert reddit_inference(start=END - DAY, end=END) == 0
    rows = predictions(with_champions)
    posts = rows_of(with_champions, schema.POSTS_GROUP)
    assert sorted(set(rows["post_id"])) == sorted(posts[posts["created"] >= END - DAY]["post_id"])
    assert set(rows["target"]) == set(schema.TARGETS)
    assert not rows["backfilled"].any()
    assert (rows["low"] <= rows["predicted"]).all()
    assert (rows["predicted"] <= rows["high"]).all()
    assert rows.loc[rows["target"] == "upvote_ratio", "high"].max() <= 1
    assert len(json.loads(rows["reasons"].iloc[0])) == 5

    truths = source.read_outcomes(END, END + 3 * DAY, source="simulated")
    likes = rows[rows["target"] == "likes"].reset_index(drop=True)
    soon, later = (pd.Timestamp(END + n * DAY) for n in (1, 20))
    none = inference_pipeline.worth("likes", beside(likes, truths.head(0), soon))
    assert (none["pending"], none["matured"], none["mae"]) == (len(likes), 0, None)
    known = inference_pipeline.worth("likes", beside(likes, truths, later))
    assert known["errors_of"] == hindcasting.HINDCAST
    assert known["matured"] + known["expired"] == len(likes)
    assert known["rows_measured"] == known["matured"] > 20
    assert known["spearman"] > known["baseline_spearman"]


def beside(predictions: pd.DataFrame, truths: pd.DataFrame, at: pd.Timestamp) -> pd.DataFrame:
    return hindcasting.with_truth(
        predictions, truths, key=["post_id"], truth="likes", target_time="created", at=at,
        expires_after=timedelta(days=10),
    )  # fmt: skip


def test_predictions_of_settled_posts_are_marked_as_made_afterwards(with_champions: Settings) -> None:
    with windows.frozen(END):
        reddit_inference(start=END - 20 * DAY, end=END - 19 * DAY)
    rows = predictions(with_champions)
    assert rows.loc[rows["created"] < END - 19 * DAY, "backfilled"].all()


def test_no_champion_yet_names_the_training_deployment(with_features: Settings) -> None:
    with pytest.raises(NotFound, match=r"no champion yet.*reddit-training/reddit-training"):
        reddit_inference()
    with pytest.raises(NotFound, match="no champion yet"):
        Predictor()


def test_window_beyond_the_features_is_refused(with_champions: Settings) -> None:
    with pytest.raises(InvalidTime, match="ends after the features"):
        reddit_inference(start=END, end=END + DAY)


# --- a draft -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def predictor(trained_once: object) -> Predictor:
    from tests.flows.reddit.conftest import living_in

    with living_in(trained_once) as settings:  # type: ignore[arg-type]
        return Predictor(settings=settings)


def test_draft_gets_both_numbers_with_bands_reasons_and_advice(predictor: Predictor) -> None:
    answer = predictor.predict(DRAFT)
    assert answer.likes is not None
    assert answer.upvote_ratio is not None
    assert 0 <= answer.likes.low <= answer.likes.value <= answer.likes.high
    assert 0 <= answer.upvote_ratio.low <= answer.upvote_ratio.value <= answer.upvote_ratio.high <= 1
    assert answer.likes.baseline is not None
    assert not answer.degraded, answer.why
    assert {"hour", "title_sentiment", "author_mean_log_likes_90d"} <= {each.feature for each in answer.likes.reasons}
    assert len(answer.advice) <= 3
    for advice in answer.advice:
        assert advice.likes > answer.likes.value
        assert advice.text.endswith(f"about {advice.likes:,.3g} likes instead of {answer.likes.value:,.3g}")


def test_cheerful_question_is_worth_more_where_these_are_liked(predictor: Predictor) -> None:
    """In SlowCooking questions and cheerful posts are liked: that is how the simulator is made."""
    good = predictor.predict(DRAFT | {"title": "How do I love my happy wonderful oven?"}).likes
    bad = predictor.predict(DRAFT | {"title": "My oven is terrible", "body": "I hate it. It is awful. " * 10}).likes
    assert good is not None
    assert bad is not None
    assert good.value > bad.value


def test_draft_is_scored_as_the_batch_scores_it_once_it_is_posted(with_champions: Settings) -> None:
    """I4: no skew. The newest posts see what is online: the last outcomes before them."""
    with windows.frozen(END):
        reddit_inference(start=END - timedelta(hours=3), end=END)
    rows = predictions(with_champions)
    rows = rows[rows["created"] >= END - timedelta(hours=3)]
    posts = source.read_posts(END - timedelta(hours=3), END, source="simulated").dropna(subset=["body"])
    names = {author_key(f"author-{n}"): f"author-{n}" for n in range(simulator.AUTHORS)}
    predictor, compared = Predictor(), 0
    last = {name: rows_of(with_champions, name)["known_at"].max() for name in (schema.AUTHORS_GROUP,)}
    for post in posts.itertuples():
        if post.created < last[schema.AUTHORS_GROUP] or pd.isna(post.author):
            continue
        answer = predictor.predict(
            {"title": post.title, "body": post.body, "subreddit": post.subreddit, "author": names[post.author],
             "time": post.created.to_pydatetime()}
        )  # fmt: skip
        for target, estimate in (("likes", answer.likes), ("upvote_ratio", answer.upvote_ratio)):
            stored = rows[(rows["post_id"] == post.post_id) & (rows["target"] == target)].iloc[-1]
            assert estimate is not None
            assert estimate.value == pytest.approx(stored["predicted"], rel=1e-6)
            compared += 1
    if not compared:
        pytest.skip("no post after the last outcome in this sample")


def test_unknown_subreddit_and_author_are_answered_and_said(predictor: Predictor) -> None:
    answer = predictor.predict(DRAFT | {"subreddit": "NobodyKnows", "author": "nobody"})
    assert answer.likes is not None
    assert answer.likes.baseline is None
    assert answer.degraded
    assert answer.why == (
        "the subreddit was not in training",
        "nothing of the subreddit has settled in the last 30 days",
        "nothing of this author has settled in the last 90 days",
    )


def test_long_polish_draft_with_emoji_is_answered_and_flagged(predictor: Predictor) -> None:
    body = ("Zażółć gęślą jaźń 😀 i żółwia też! " * 1300)[:40_000]
    answer = predictor.predict(DRAFT | {"title": "Jak upiec chleb, żeby wyrósł? 🍞", "body": body})
    assert answer.why == ("the text does not look English: its sentiment is not known",)


@pytest.mark.parametrize(
    "change",
    [{"title": "a\x00\x07\ud800"}, {"body": "\ud83d **b** [x](y) \x1b[31m"}, {"body": None}, {"author": None}],
)
def test_odd_drafts_are_answered(predictor: Predictor, change: dict[str, object]) -> None:
    answer = predictor.predict(DRAFT | change)
    assert answer.likes is not None
    assert answer.likes.value >= 0


def test_empty_title_is_refused(predictor: Predictor) -> None:
    with pytest.raises(InvalidData, match="The title is empty"):
        predictor.predict(DRAFT | {"title": " \n"})
    with pytest.raises(InvalidTime, match="no time zone"):
        predictor.predict(DRAFT | {"time": datetime(2026, 3, 1, tzinfo=UTC).replace(tzinfo=None)})


# --- the shadow --------------------------------------------------------------------------------------


def test_challengers_are_heard_on_the_same_posts_and_change_nothing_served(trained_once: Path, tmp_path: Path) -> None:
    shadow_law.check(
        trained_once, tmp_path, living_in, reddit_inference,
        dict.fromkeys(schema.MODELS.values(), schema.PREDICTIONS_GROUP), Window(END - 17 * DAY, END - 16 * DAY),
    )  # fmt: skip
