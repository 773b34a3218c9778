"""The contract of the reddit system's feature groups: columns, units, and the rules a batch must pass."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Literal

from featurestore.schema import Feature
from flows.requests import Request
from flows.rules import Suite, between, columns, in_set, later, never_null

LABEL_DELAY = timedelta(hours=48)
"""Votes of a post have settled this long after it was made; a younger count is no label."""

HISTORY_SPANS: Mapping[str, timedelta] = {"7d": timedelta(days=7), "30d": timedelta(days=30)}
"""The trailing windows of a subreddit, counted by the time outcomes became known."""

AUTHOR_TTL = timedelta(days=90)
"""An author without a settled post for longer has no history; also the window of that history."""

SUBREDDIT_TTL = timedelta(days=30)
"""A subreddit without a settled post for longer has no statistics."""

VERSION = 1
"""Of every group and of the view: a column that changes its meaning gets a new version beside the old one."""

POSTS_GROUP = "reddit_posts"
AUTHORS_GROUP = "reddit_author_history"
SUBREDDITS_GROUP = "reddit_subreddit_statistics"
OUTCOMES_GROUP = "reddit_outcomes"
PREDICTIONS_GROUP = "reddit_predictions"

VIEW = "reddit_posts_before_posting"

Target = Literal["likes", "upvote_ratio"]
TARGETS: tuple[Target, ...] = ("likes", "upvote_ratio")
MODELS: Mapping[Target, str] = {"likes": "reddit_likes", "upvote_ratio": "reddit_upvote_ratio"}
"""The registered models, one for each target. All else about a model is in its lineage."""

LABELS: Mapping[Target, str] = {"likes": "log_likes", "upvote_ratio": "upvote_ratio"}
"""What a model learns: likes on a logarithmic scale, because one post in a hundred has a thousand times the median."""


POSTS = (
    Feature("post_id", "string", "The post, without Reddit's prefix t3_."),
    Feature("created", "timestamp", "When it was posted."),
    Feature("subreddit", "string", "Where it was posted."),
    Feature("author", "string", "Hash of the author's name; null where the author is not known.", ),
    Feature("community", "string", "The subreddit again, as what a model learns from.", on_demand=True),
    Feature("hour", "int", "Hour of the day, UTC.", unit="h", on_demand=True),
    Feature("weekday", "int", "Day of the week, UTC; Monday is 0.", on_demand=True),
    Feature("title_characters", "int", "Length of the title.", on_demand=True),
    Feature("title_words", "int", "Words of the title.", on_demand=True),
    Feature("title_is_question", "boolean", "It has a question mark or begins as a question does.", on_demand=True),
    Feature("title_exclamations", "int", "Exclamation marks of the title.", on_demand=True),
    Feature("title_capitals_share", "double", "Share of capitals among the letters of the title.", on_demand=True),
    Feature("title_digits", "int", "Digits of the title.", on_demand=True),
    Feature("title_emoji", "int", "Emoji of the title.", on_demand=True),
    Feature("title_sentiment", "double", "VADER's compound sentiment of the title, -1 to 1.", on_demand=True),
    Feature("body_characters", "int", "Length of the body; 0 without any, null where it was removed.", on_demand=True),
    Feature("body_words", "int", "Words of the body.", on_demand=True),
    Feature("body_paragraphs", "int", "Paragraphs of the body.", on_demand=True),
    Feature("body_questions", "int", "Question marks of the body.", on_demand=True),
    Feature("body_exclamations", "int", "Exclamation marks of the body.", on_demand=True),
    Feature("body_first_person_share", "double", "Share of I, me, my among its words.", on_demand=True),
    Feature("body_links", "int", "Links in the body.", on_demand=True),
    Feature("body_list_items", "int", "Lines of the body that are items of a list.", on_demand=True),
    Feature("body_emoji", "int", "Emoji of the body.", on_demand=True),
    Feature("body_has_tldr", "boolean", "The body has a tl;dr.", on_demand=True),
    Feature("body_sentiment", "double", "VADER's compound sentiment of the body's beginning.", on_demand=True),
    Feature("foreign_letters_share", "double", "Share of letters beyond a to z in title and body.", on_demand=True),
)  # fmt: skip
"""One row per post: what can be measured of it before it is posted. Neither title nor body are kept."""

AUTHORS = (
    Feature("author", "string", "Hash of the author's name."),
    Feature("known_at", "timestamp", "When outcomes of posts of this author became known."),
    Feature("author_posts_90d", "int", "Posts of the author whose outcome became known in the 90 days until then."),
    Feature("author_mean_log_likes_90d", "double", "Mean log1p(likes) of these posts."),
    Feature("author_best_log_likes_90d", "double", "The best of them."),
    Feature("author_mean_upvote_ratio_90d", "double", "Their mean upvote ratio; null where none is known."),
)
"""One row per author and time at which outcomes became known."""

SUBREDDITS = (
    Feature("subreddit", "string", "The subreddit."),
    Feature("known_at", "timestamp", "When outcomes of its posts became known."),
    *(
        feature
        for span in HISTORY_SPANS
        for feature in (
            Feature(f"subreddit_posts_{span}", "int", f"Its posts whose outcome became known in the last {span}."),
            Feature(f"subreddit_median_log_likes_{span}", "double", "Median log1p(likes) of these posts."),
            Feature(f"subreddit_top_log_likes_{span}", "double", "Their 90 % quantile."),
            Feature(f"subreddit_median_upvote_ratio_{span}", "double", "Median of their upvote ratios."),
        )
    ),
)
"""One row per subreddit and time at which outcomes became known."""

OUTCOMES = (
    Feature("post_id", "string", "The post."),
    Feature("created", "timestamp", "When it was posted."),
    Feature("subreddit", "string", "Where it was posted."),
    Feature("author", "string", "Hash of the author's name; null where the author is not known."),
    Feature("likes", "bigint", "Its score when it was looked at: up-votes less down-votes, never below 0."),
    Feature("log_likes", "double", "log1p(likes)."),
    Feature("upvote_ratio", "double", "Share of up-votes among all votes; null where the service does not say."),
    Feature("known_at", "timestamp", "48 hours after it was posted."),
    Feature("seen_at", "timestamp", "When it was looked at: not before known_at."),
)
"""One row per post whose votes have settled."""

PREDICTIONS = (
    Feature("post_id", "string", "The post."),
    Feature("target", "string", "likes or upvote_ratio."),
    Feature("model_version", "int", "Version of the registered model of that target."),
    Feature("created", "timestamp", "When it was posted."),
    Feature("known_at", "timestamp", "When the truth can be known: 48 hours later."),
    Feature("predicted", "double", "The prediction, in the target's own unit."),
    Feature("low", "double", "Nine of ten truths lie above ..."),
    Feature("high", "double", "... and nine of ten below: the band holds eight of ten."),
    Feature("baseline", "double", "The subreddit's median of the last 30 days, as known then; null without any."),
    Feature("degraded", "boolean", "Whether something was not known."),
    Feature("why", "string", "What was not known; empty otherwise."),
    Feature("reasons", "string", "What the largest contributions are, as JSON; on the scale of the label."),
    Feature("feature_view", "string", "The view the model was trained on, as name@version."),
    Feature("training_dataset_version", "int", "The training set whose transformations were used."),
    Feature("made_at", "timestamp", "When the prediction was made."),
    Feature("backfilled", "boolean", "Made when the truth could already be known: never counted as a prediction."),
)
"""One row per post, target and model version."""

REQUEST = Request(
    models=list(MODELS.values()),
    fields=[
        Feature("title", "string", "Title of the post, 1 to 300 characters."),
        Feature("subreddit", "string", "Where it is to be posted, without r/."),
        Feature("time", "timestamp", "When it is to be posted."),
        Feature("body", "string", "Text of the post, up to 40,000 characters; none for a link or a picture."),
        Feature("author", "string", "Name of the author: hashed at once and kept nowhere."),
    ],
    required=["title", "subreddit", "time"],
    example={
        "title": "What I learned from my first year of beekeeping", "subreddit": "AskReddit",
        "time": "2026-07-01T18:00:00Z", "body": "I started with two hives in April. What would you do differently?",
    },
)  # fmt: skip
"""A draft that somebody wants to know the worth of."""

NEVER_FEATURES = {"post_id", "created", "known_at", "subreddit", "author"}
"""Keys and times would be learned by heart; the subreddit is learned from as `community`."""

SPINE_FEATURES = [name for name in columns(POSTS) if name not in NEVER_FEATURES]
AUTHOR_FEATURES = [name for name in columns(AUTHORS) if name not in NEVER_FEATURES]
SUBREDDIT_FEATURES = [
    name for name in columns(SUBREDDITS) if name not in NEVER_FEATURES and not name.startswith("subreddit_posts_")
]
"""Without the counts: they tell how much of a subreddit a source has caught, more than how busy it is."""

BASELINES: Mapping[Target, str] = {
    "likes": "subreddit_median_log_likes_30d",
    "upvote_ratio": "subreddit_median_upvote_ratio_30d",
}
"""What anybody could say of a post before it is posted: the median of its subreddit, as known then."""

WHOLE_LOGS = (0, 30)

POSTS_RULES: Suite = {
    "name": "reddit_posts",
    "expectations": [
        *never_null("post_id", "created", "subreddit", "community", "hour", "weekday", "title_characters"),
        between("hour", 0, 23),
        between("weekday", 0, 6),
        between("title_characters", 1, 2_000),
        # Reddit's own bound is 40,000; moderators' megathreads have been longer.
        between("body_characters", 0, 200_000),
        between("title_sentiment", -1, 1),
        between("body_sentiment", -1, 1),
        between("title_capitals_share", 0, 1),
        between("foreign_letters_share", 0, 1),
    ],
}

AUTHORS_RULES: Suite = {
    "name": "reddit_author_history",
    "expectations": [
        *never_null("author", "known_at", "author_posts_90d", "author_mean_log_likes_90d", "author_best_log_likes_90d"),
        between("author_posts_90d", 1, None),
        between("author_mean_log_likes_90d", *WHOLE_LOGS),
        between("author_best_log_likes_90d", *WHOLE_LOGS),
        between("author_mean_upvote_ratio_90d", 0, 1),
    ],
}

SUBREDDITS_RULES: Suite = {
    "name": "reddit_subreddit_statistics",
    "expectations": [
        *never_null("subreddit", "known_at"),
        *(
            each
            for span in HISTORY_SPANS
            for each in (
                *never_null(f"subreddit_posts_{span}", f"subreddit_median_log_likes_{span}"),
                between(f"subreddit_posts_{span}", 1, None),
                between(f"subreddit_median_log_likes_{span}", *WHOLE_LOGS),
                between(f"subreddit_top_log_likes_{span}", *WHOLE_LOGS),
                between(f"subreddit_median_upvote_ratio_{span}", 0, 1),
            )
        ),
    ],
}

OUTCOMES_RULES: Suite = {
    "name": "reddit_outcomes",
    "expectations": [
        *never_null("post_id", "created", "subreddit", "likes", "log_likes", "known_at", "seen_at"),
        between("likes", 0, 10_000_000),
        between("log_likes", *WHOLE_LOGS),
        between("upvote_ratio", 0, 1),
        later("known_at", than="created"),
    ],
}

PREDICTIONS_RULES: Suite = {
    "name": "reddit_predictions",
    "expectations": [
        *never_null("post_id", "target", "model_version", "created", "predicted", "low", "high", "made_at"),
        in_set("target", list(TARGETS)),
        between("predicted", 0, None),
        between("low", 0, None),
    ],
}
