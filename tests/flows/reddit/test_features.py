"""Reddit features worked out by hand, and what no feature may know."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from featurestore.errors import InvalidData, InvalidTime, SchemaMismatch
from flows.reddit import advising, features, schema, source
from flows.rules import columns

AT = datetime(2026, 3, 7, 14, 30, tzinfo=UTC)  # a Saturday
POLISH = "Zażółć gęślą jaźń 😀 i żółwia też! "


def posts(*rows: dict[str, object]) -> pd.DataFrame:
    base = {"post_id": "a", "created": AT, "subreddit": "s", "author": "x", "title": "Hello", "body": "Some text."}
    frame = pd.DataFrame([base | row for row in rows])
    return frame.assign(created=pd.to_datetime(frame["created"], utc=True), body=frame["body"].astype("str"))


def outcomes(*rows: tuple[str, float, int, float | None]) -> pd.DataFrame:
    """Author, days after AT at which it became known, likes, upvote ratio."""
    frame = pd.DataFrame(rows, columns=["author", "days", "likes", "upvote_ratio"])
    known_at = pd.to_datetime([AT + timedelta(days=days) for days in frame["days"]], utc=True).as_unit("us")
    return pd.DataFrame(
        {
            "post_id": [f"p{n}" for n in range(len(frame))],
            "created": known_at - schema.LABEL_DELAY,
            "subreddit": "s",
            "author": frame["author"].astype("str"),
            "likes": frame["likes"].astype("int64"),
            "upvote_ratio": frame["upvote_ratio"].astype("float64"),
            "known_at": known_at,
            "seen_at": known_at,
        }
    )


# --- text --------------------------------------------------------------------------------------------


def test_text_is_measured_as_a_person_would_count_it() -> None:
    body = (
        "I love my robot!\n\nSee [this page](https://example.org/x?y=1) or https://a.org\n\n- one\n- two\n\n"
        "TL;DR: it's 2 😀"
    )
    found = features.text_features("WHY does it break? 3 times!", body)
    assert found["title_characters"] == 27
    assert found["title_words"] == 6
    assert found["title_is_question"]
    assert (found["title_exclamations"], found["title_digits"], found["title_emoji"]) == (1, 1, 0)
    assert found["title_capitals_share"] == pytest.approx(3 / 19)
    assert (found["body_links"], found["body_list_items"], found["body_paragraphs"]) == (2, 2, 4)
    assert found["body_emoji"] == 1
    assert found["body_has_tldr"]
    assert found["body_questions"] == 1  # the one in the link: a reader sees it, too
    assert found["body_sentiment"] > 0.5 > 0 > features.text_features("I hate this", "")["title_sentiment"]


def test_what_was_added_later_is_not_read() -> None:
    """People thank for likes there: it would be a leak."""
    plain = features.text_features("t", "How do I bake?")
    for added in ("EDIT: thanks for 500 likes!", "**Edit 2:** wow", "Update - got in!", "*edit*: typo"):
        assert features.text_features("t", f"How do I bake?\n\n{added}\nmore") == plain, added
    assert features.text_features("t", "I edit: a film") == features.text_features("t", "I edit: a film ")
    assert features.text_features("t", "I edit films: all day")["body_words"] == 5


def test_removed_body_is_null_and_an_empty_one_is_zero() -> None:
    removed, empty = features.text_features("t", None), features.text_features("t", "")
    assert {removed[name] for name in removed if name.startswith("body_")} == {None}
    assert (empty["body_words"], empty["body_paragraphs"], empty["body_sentiment"]) == (0, 0, None)


@pytest.mark.parametrize(
    "text",
    [
        POLISH * 1143,
        "\ud800\x00\x07 broken",
        "[](",
        "* " * 20_000,
        "http://" * 5_000,
        "\n" * 40_000,
        "tl" + " " * 40_000,
        "[" * 40_000,
        "-\n" * 20_000,
        "🏳️‍🌈" * 500,
        "ﷺ",
    ],
    ids=[
        "polish",
        "surrogate",
        "markdown",
        "stars",
        "links",
        "lines",
        "spaces",
        "brackets",
        "dashes",
        "flags",
        "ligature",
    ],
)
def test_any_text_gives_numbers_that_fit_the_schema(text: str) -> None:
    rows = features.post_features(
        posts({"title": "x" + features.readable(text[:200]), "body": features.readable(text)[:40_000]})
    )
    numbers = rows[features.TEXT_FEATURES].astype("float64")
    assert np.isfinite(numbers.drop(columns=["body_sentiment", "body_first_person_share"]).to_numpy()).all()


def test_polish_is_told_by_its_letters() -> None:
    assert features.text_features(POLISH, POLISH)["foreign_letters_share"] > features.FOREIGN
    assert features.text_features("A naïve café", "Plain English text about a room.")["foreign_letters_share"] < 0.06


# --- posts and drafts --------------------------------------------------------------------------------


def test_draft_has_the_numbers_of_its_row_in_history() -> None:
    """No skew: one definition for both."""
    rows = source.read_posts(AT, AT + timedelta(days=2), source="simulated")
    rows = rows[rows["body"].notna()].reset_index(drop=True)
    table = features.post_features(rows).set_index("post_id")
    for row in rows.itertuples():
        drafted = features.request_features(
            {"title": row.title, "body": row.body, "subreddit": row.subreddit, "time": row.created.to_pydatetime()}
        )
        stored = table.loc[row.post_id]
        for name, value in drafted.items():
            assert stored[name] == value or (pd.isna(stored[name]) and value is None), name
    assert set(drafted) == {feature.name for feature in schema.POSTS if feature.on_demand}


def test_neither_title_nor_body_nor_name_is_among_the_columns() -> None:
    assert not {"title", "body", "selftext", "num_comments_captured", "score"} & set(columns(schema.POSTS))


def test_post_that_is_there_twice_is_taken_once() -> None:
    assert len(features.post_features(posts({}, {"body": "Some text. And more."}))) == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"title": "  \u200b\x00".replace("\u200b", "")}, InvalidData, "title is empty"),
        ({"title": "x" * 301}, InvalidData, "301 characters; Reddit takes at most 300"),
        ({"body": "x" * 40_001}, InvalidData, "40,001 characters"),
        ({"title": None}, SchemaMismatch, "needs .'title'."),
        ({"title": 7}, InvalidData, "title = 7: expected text"),
        ({"time": datetime(2026, 1, 1)}, InvalidTime, "no time zone"),
        ({"time": "now"}, InvalidData, "expected a datetime"),
    ],
)
def test_draft_that_nothing_can_be_said_about_is_refused(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        features.check_draft({"title": "t", "body": "b", "subreddit": "s", "time": AT} | change)


# --- histories ---------------------------------------------------------------------------------------


def test_author_history_is_of_settled_posts_of_90_days() -> None:
    rows = features.author_history(
        outcomes(("a", 0, 0, 0.5), ("a", 10, 9, None), ("b", 10, 99, 1.0), ("a", 95, 99, 0.9), ("a", 95, 0, 0.7))
    )
    a = rows[rows["author"] == "a"]
    assert a["author_posts_90d"].tolist() == [1, 2, 3]
    assert a["author_mean_log_likes_90d"].tolist() == pytest.approx([0, np.log(10) / 2, (np.log(10) + np.log(100)) / 3])
    assert a["author_best_log_likes_90d"].tolist() == pytest.approx([0, np.log(10), np.log(100)])
    assert a["author_mean_upvote_ratio_90d"].tolist() == pytest.approx([0.5, 0.5, 0.8])


def test_author_without_any_known_ratio_has_none_and_nobody_has_no_history() -> None:
    some = outcomes(("a", 0, 3, None))
    assert features.author_history(some)["author_mean_upvote_ratio_90d"].isna().all()
    assert features.author_history(some.assign(author=pd.Series([None], dtype="str"))).empty


def test_changing_the_outcome_of_a_post_changes_nothing_that_the_post_sees() -> None:
    """The history a post is joined to ends 48 hours before it: it never holds the post itself."""
    before = outcomes(("a", 0, 5, 0.9), ("a", 4, 7, 0.9))
    changed = before.assign(likes=before["likes"].where(before["post_id"] != "p1", 10_000))
    created = before["created"][1]
    for function, name in ((features.author_history, "author"), (features.subreddit_statistics, "subreddit")):
        first, second = (function(rows) for rows in (before, changed))
        pd.testing.assert_frame_equal(first[first["known_at"] <= created], second[second["known_at"] <= created])
        assert len(first[first["known_at"] <= created]) == 1, name


def test_subreddit_statistics_are_medians_over_hours_not_rows() -> None:
    rows = features.subreddit_statistics(outcomes(("a", 0, 0, 1.0), ("b", 1, 9, 0.5), ("c", 9, 99, 0.6)))
    assert rows["subreddit_posts_7d"].tolist() == [1, 2, 1]
    assert rows["subreddit_median_log_likes_7d"].tolist() == pytest.approx([0, np.log(10) / 2, np.log(100)])
    assert rows["subreddit_median_upvote_ratio_30d"].tolist() == pytest.approx([1.0, 0.75, 0.6])


def test_count_that_is_younger_than_two_days_is_no_outcome() -> None:
    young = outcomes(("a", 0, 5, 0.9)).assign(seen_at=pd.to_datetime([AT - timedelta(hours=1)], utc=True))
    with pytest.raises(InvalidData, match="votes had not settled"):
        features.known_outcomes(young)


# --- advice ------------------------------------------------------------------------------------------


def test_each_variant_changes_one_thing_and_can_be_posted() -> None:
    draft = {"title": "MY GARDEN IS GREAT!", "body": "word " * 200 + "https://x.org", "subreddit": "s", "time": AT}
    for text, changed in advising.variants(draft):
        features.check_draft(changed)
        assert sum(changed[name] != draft[name] for name in draft) == 1, text
    assert len({text for text, _ in advising.variants(draft)}) > 8


def test_little_gains_are_not_worth_saying() -> None:
    assert advising.worth_saying([("Ask", {}), ("Shout", {})], [10.4, 9.0], 10.0) == []
