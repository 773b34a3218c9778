"""Reddit as a stub over real HTTP: what it gives, and every way in which it goes wrong."""

from __future__ import annotations

import base64
import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest

import featurestore
from featurestore.errors import InvalidTime, NotFound
from featurestore.times import Window
from flows import windows
from flows.http import LiveSourceError, RequestRefused, ServiceUnavailable, TooManyRequests, UnexpectedAnswer
from flows.reddit import live, schema, source
from flows.reddit.feature_pipeline import reddit_features
from flows.reddit.features import author_key
from tests.flows.reddit.conftest import SECRET, TOKEN, Services, listing, post
from tests.flows.stub_server import Reply, sample

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
DAY = Window(NOW - timedelta(days=1), NOW)


def hours_ago(hours: float) -> datetime:
    return NOW - timedelta(hours=hours)


def posts(window: Window = DAY) -> pd.DataFrame:
    with windows.frozen(NOW):
        return source.read_posts(window.start, window.end)


def outcomes(known: pd.DataFrame, window: Window = DAY) -> pd.DataFrame:
    with windows.frozen(NOW):
        return source.read_outcomes(window.start, window.end, of=known)


# --- signing in --------------------------------------------------------------------------------------


def test_signs_in_once_and_reads_all_pages_back_to_the_start(services: Services) -> None:
    services.reddit.posts = [post(n, hours_ago(n * 7)) for n in range(1, 7)]
    rows = posts()
    assert rows["post_id"].tolist() == ["p3", "p2", "p1"]
    assert services.paths() == ["/token", *["/r/Emory/new"] * 3]  # the third page is older than the window
    assert services.server.posted == [b"grant_type=client_credentials"]
    basic = base64.b64encode(f"an-app:{SECRET}".encode()).decode()
    assert services.server.headers[0]["Authorization"] == f"Basic {basic}"
    assert services.server.headers[1]["User-Agent"].startswith("linux:triptych")


def test_token_that_expires_between_two_pages_is_renewed_and_nothing_is_lost(services: Services) -> None:
    services.reddit.posts = [post(n, hours_ago(n * 4)) for n in range(1, 6)]
    first_page = services.server.routes["/r/Emory/new"]
    served = []

    def then_expire(query: Any) -> Reply:
        reply = first_page(query)  # type: ignore[operator]
        served.append(reply.status)
        if len(served) == 1:
            services.reddit.valid = "another one"
        return reply

    services.server.routes["/r/Emory/new"] = then_expire
    assert posts()["post_id"].tolist() == ["p5", "p4", "p3", "p2", "p1"]
    assert served == [200, 401, 200, 200]
    assert len(services.reddit.given) == 2


def test_service_that_takes_no_token_at_all_is_refused_and_not_asked_for_ever(services: Services) -> None:
    services.server.routes["/r/Emory/new"] = Reply.of_json({"error": 401}, status=401)
    with pytest.raises(RequestRefused, match="HTTP 401"):
        posts()
    assert services.paths() == ["/token", "/r/Emory/new", "/token", "/r/Emory/new"]


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (
            Reply.of_json({"error": "invalid_grant", "token": TOKEN}),
            UnexpectedAnswer,
            "no access_token but .'error', 't",
        ),
        (Reply(200, f'{{"access_token": "{TOKEN}'.encode()), UnexpectedAnswer, "no access_token but no object"),
        (Reply.of_json({"message": SECRET}, status=401), RequestRefused, "HTTP 401"),
        (Reply(503, TOKEN.encode()), ServiceUnavailable, "HTTP 503"),
    ],
)
def test_token_that_is_not_given_says_why_and_shows_no_secret(
    services: Services, reply: Reply, error: type[Exception], message: str
) -> None:
    services.server.routes["/token"] = reply
    with pytest.raises(error, match=message) as caught:
        posts()
    assert "canary" not in str(caught.value)


def test_no_secret_and_no_token_is_logged_or_kept(services: Services, caplog: pytest.LogCaptureFixture) -> None:
    """F20: a canary in both."""
    services.reddit.posts = [post(1, hours_ago(1), selftext=f"echo {TOKEN}-0")]
    with caplog.at_level(logging.DEBUG):
        posts()
    kept = b"".join(path.read_bytes() for path in services.home.rglob("*") if path.is_file())
    assert b"Post number 1" in kept
    assert b"canary" not in kept
    assert "canary" not in caplog.text


def test_no_app_or_no_subreddit_says_what_to_set(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIPTYCH_REDDIT_CLIENT_SECRET")
    with pytest.raises(NotFound, match="TRIPTYCH_REDDIT_CLIENT_ID and TRIPTYCH_REDDIT_CLIENT_SECRET"):
        posts()
    monkeypatch.delenv("TRIPTYCH_REDDIT_SUBREDDITS")
    with pytest.raises(NotFound, match="Set TRIPTYCH_REDDIT_SUBREDDITS"):
        posts()


# --- posts -------------------------------------------------------------------------------------------


def test_recorded_listing_is_understood_as_it_was() -> None:
    body = json.loads(sample("reddit/r_popular_hot_listing_2026.json"))
    found, after = live._page(_answer(body), live.NEEDED)
    rows = live._post_rows(found, "the recording")
    assert (len(rows), after) == (5, "t3_1skbyfv")
    assert rows["subreddit"].iloc[0] == "anime"
    assert rows["title"].iloc[0].startswith("Demon Slayer Infinity Castle")


def _answer(body: Any) -> Any:
    from flows.http import Answer

    return Answer("reddit", "/r/x/new", {}, 200, json.dumps(body).encode(), NOW)


def test_deleted_author_removed_and_edited_text_are_null_and_a_link_has_an_empty_body(services: Services) -> None:
    services.reddit.posts = [
        post(1, hours_ago(1), author="[deleted]"),
        post(2, hours_ago(2), author=None, selftext="[removed]"),
        post(3, hours_ago(3), edited=1777890000.0),
        post(4, hours_ago(4), is_self=False, selftext=""),
    ]
    rows = posts().set_index("post_id")
    assert rows["author"].isna().to_dict() == {"p1": True, "p2": True, "p3": False, "p4": False}
    assert rows["body"].isna().to_dict() == {"p1": False, "p2": True, "p3": True, "p4": False}
    assert rows["author"]["p3"] == author_key("someone3")


def test_control_characters_and_lone_surrogates_become_readable_text(services: Services) -> None:
    services.reddit.posts = [post(1, hours_ago(1), title="bad \x00 \ud83d title", selftext="**bold**\r\n\ud800")]
    row = posts().iloc[0]
    assert (row["title"], row["body"]) == ("bad  � title", "**bold**\n�")


def test_duplicate_and_out_of_order_posts_are_read_once_as_seen_first(services: Services) -> None:
    """A post that a moderator lets through late is old among the new; one that moves between pages comes twice."""
    old = post(9, hours_ago(200))
    services.reddit.posts = [old, post(1, hours_ago(1)), post(3, hours_ago(3)), post(2, hours_ago(2), title="first")]
    services.reddit.posts += [post(2, hours_ago(2), title="again", name="t3_again"), post(4, hours_ago(5))]
    rows = posts()
    assert rows["post_id"].tolist() == ["p4", "p3", "p2", "p1"]
    assert rows.set_index("post_id")["title"]["p2"] == "first"


def test_empty_listing_has_the_columns_of_a_full_one(services: Services) -> None:
    rows = posts()
    assert rows.empty
    assert {name: str(dtype) for name, dtype in rows.dtypes.items()} == dict(source.POSTS)


def test_listing_that_ends_after_the_start_says_what_can_no_longer_be_read(services: Services) -> None:
    services.reddit.posts = [post(n, NOW - timedelta(minutes=n)) for n in range(1, 1001)]
    services.reddit.page = 500
    with pytest.raises(LiveSourceError, match=r"r/Emory ends at .* after 1,000 posts.*--start 2026-05-03T19:20:00Z"):
        posts()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"kind": "Listing", "data": {"children": []}}, "is no listing"),
        ([], "is no listing but list"),
        (listing([{k: v for k, v in post(1, NOW).items() if k != "selftext"}]), r"lacks \['selftext'\]"),
        (listing([post(1, NOW, created_utc="today")]), "created_utc is 'today'"),
        (listing([post(1, NOW, created_utc=1777890000000)]), "created_utc is 1777890000000"),
        (listing([post(1, NOW, title=None)]), "title is a NoneType"),
        ({"kind": "Listing", "data": {"after": None, "children": [{"kind": "t1", "data": {}}]}}, "no post"),
        (listing([post(1, NOW)], after="t3_p1"), "leads in a circle"),
    ],
)
def test_answer_of_another_shape_is_refused_and_named(services: Services, body: Any, message: str) -> None:
    services.server.routes["/r/Emory/new"] = Reply.of_json(body)
    with pytest.raises(UnexpectedAnswer, match=message):
        posts()


def test_half_an_answer_is_refused(services: Services) -> None:
    services.server.routes["/r/Emory/new"] = Reply(200, b'{"kind": "Listing", "data": {"chil')
    with pytest.raises(UnexpectedAnswer, match="is not JSON"):
        posts()


def test_429_for_an_hour_is_not_waited_for(services: Services) -> None:
    services.server.routes["/r/Emory/new"] = Reply(429, headers={"Retry-After": "3600"})
    with pytest.raises(TooManyRequests, match="wants us back in 3600 s"):
        posts()
    assert services.paths() == ["/token", "/r/Emory/new"]


def test_last_request_of_a_period_is_heeded(services: Services) -> None:
    services.reddit.posts = [post(n, hours_ago(n)) for n in range(1, 5)]
    full = services.reddit.new({})
    services.server.routes["/r/Emory/new"] = Reply(
        200, full.body, {"x-ratelimit-remaining": "0.0", "x-ratelimit-used": "100", "x-ratelimit-reset": "598"}
    )
    with pytest.raises(TooManyRequests, match=r"no more requests for us for 5\d\d s"):
        posts()
    assert services.paths() == ["/token", "/r/Emory/new"]


# --- votes -------------------------------------------------------------------------------------------


def known(numbers: range, created: datetime) -> pd.DataFrame:
    names = [f"p{n}" for n in numbers]
    at = pd.Series([created] * len(names)).astype("datetime64[us, UTC]")
    return pd.DataFrame({"post_id": names, "created": at, "subreddit": "Emory", "author": "abc"})


def test_votes_are_asked_for_by_hundreds_once_they_have_settled(services: Services) -> None:
    created = hours_ago(60)
    services.reddit.posts = [post(n, created) for n in range(1, 252)]
    some = pd.concat([known(range(1, 252), created), known(range(300, 310), hours_ago(40))])
    rows = outcomes(some)
    assert len(rows) == 251
    assert [len(query["id"].split(",")) for path, query in services.server.asked if path == "/api/info"] == [
        100,
        100,
        51,
    ]
    assert (rows["seen_at"] >= rows["known_at"]).all()
    assert rows.set_index("post_id")["likes"]["p7"] == 7


def test_gone_and_hidden_posts_are_missing_and_a_ratio_that_is_not_told_is_null(services: Services) -> None:
    created = hours_ago(60)
    without = {name: value for name, value in post(2, created, score=-4).items() if name != "upvote_ratio"}
    services.reddit.posts = [post(1, created, hide_score=True), without]
    rows = outcomes(known(range(1, 4), created))
    assert rows["post_id"].tolist() == ["p2"]
    assert (rows["likes"].iloc[0], bool(rows["upvote_ratio"].isna().iloc[0])) == (0, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"score": "many"}, "score is 'many'"), ({"upvote_ratio": 93}, "upvote_ratio is 93"), ({"id": "x"}, "not asked")],
)
def test_votes_of_another_shape_are_refused(services: Services, change: dict[str, Any], message: str) -> None:
    created = hours_ago(60)
    services.reddit.posts = [post(1, created, **change)]
    with pytest.raises(UnexpectedAnswer, match=message):
        outcomes(known(range(1, 2), created))


def test_votes_of_the_future_and_of_unknown_posts_are_refused(services: Services) -> None:
    with pytest.raises(InvalidTime, match="have not settled"):
        outcomes(known(range(1, 2), NOW), Window(NOW, NOW + timedelta(days=1)))
    with windows.frozen(NOW), pytest.raises(NotFound, match="pass the known posts"):
        source.read_outcomes(DAY.start, DAY.end)


# --- the pipeline over it ----------------------------------------------------------------------------


def test_daily_runs_keep_posts_as_they_were_posted_and_votes_as_they_were_after_two_days(
    prefect_api: None, services: Services
) -> None:
    services.reddit.posts = [post(1, hours_ago(5)), post(2, hours_ago(10))]
    with windows.frozen(NOW):
        reddit_features()
    posts_now = [post(3, NOW + timedelta(hours=70)), post(1, hours_ago(5), score=50, edited=1.0, selftext="EDIT: wow")]
    services.reddit.posts = posts_now  # the second post is gone
    with windows.frozen(NOW + timedelta(days=3)):
        assert reddit_features() > 0
    services.reddit.posts = [post(3, NOW + timedelta(hours=70)), post(1, hours_ago(5), score=9_000)]
    with windows.frozen(NOW + timedelta(days=4)):
        reddit_features()
    fs = featurestore.connect(home=services.home / "store")
    held = fs.get_feature_group(schema.POSTS_GROUP, schema.VERSION).read().set_index("post_id")
    settled = fs.get_feature_group(schema.OUTCOMES_GROUP, schema.VERSION).read()
    assert sorted(held.index) == ["p1", "p2", "p3"]
    assert held["body_words"]["p1"] == 6
    assert settled[["post_id", "likes"]].to_numpy().tolist() == [["p1", 50]]
    authors = fs.get_feature_group(schema.AUTHORS_GROUP, schema.VERSION).read()
    assert authors["author"].tolist() == [author_key("someone1")]


def test_service_that_is_down_leaves_the_watermark_and_the_next_run_covers_it(
    prefect_api: None, services: Services
) -> None:
    services.reddit.posts = [post(1, hours_ago(5))]
    with windows.frozen(NOW):
        reddit_features()
    up = services.server.routes["/r/Emory/new"]
    services.reddit.posts.insert(0, post(2, NOW + timedelta(hours=3)))
    services.server.routes["/r/Emory/new"] = Reply(503)
    with windows.frozen(NOW + timedelta(hours=12)), pytest.raises(ServiceUnavailable):
        reddit_features()
    services.server.routes["/r/Emory/new"] = up
    with windows.frozen(NOW + timedelta(hours=24)):
        assert reddit_features() == 1
