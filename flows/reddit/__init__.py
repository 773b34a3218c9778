"""Likes and upvote ratio of a Reddit post before it is posted: for a draft on request, and for each day's posts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from flows import FeatureFunction

if TYPE_CHECKING:
    import pandas as pd


def feature_functions() -> tuple[FeatureFunction, ...]:
    """The system's feature functions, fed by the simulator, for the laws that hold for every system.

    >>> [declared.name for declared in feature_functions()]
    ['post_features', 'author_history', 'subreddit_statistics', 'known_outcomes']
    """
    from flows.reddit import features, schema, source  # pandas is not needed to know that this system exists

    seen = datetime(2026, 12, 1, tzinfo=UTC)  # late posts are there: all functions see the same

    def posts(start: datetime, end: datetime) -> Mapping[str, pd.DataFrame]:
        return {"posts": source.read_posts(start, end, as_of=seen, source=source.SIMULATED)}

    def outcomes(start: datetime, end: datetime) -> Mapping[str, pd.DataFrame]:
        return {"outcomes": source.read_outcomes(start, end, source=source.SIMULATED)}

    end = datetime(2026, 3, 20, tzinfo=UTC)
    checked = timedelta(days=4)
    return (
        FeatureFunction(
            features.post_features, posts, input_times={"posts": "created"}, key=("post_id",), event_time="created",
            features=schema.POSTS, warm_up=timedelta(0), sample=(end - checked, end),
        ),
        FeatureFunction(
            features.author_history, outcomes, input_times={"outcomes": "known_at"}, key=("author",),
            event_time="known_at", features=schema.AUTHORS, warm_up=features.AUTHOR_WARM_UP,
            sample=(end - checked - features.AUTHOR_WARM_UP, end),
        ),
        FeatureFunction(
            features.subreddit_statistics, outcomes, input_times={"outcomes": "known_at"}, key=("subreddit",),
            event_time="known_at", features=schema.SUBREDDITS, warm_up=features.SUBREDDIT_WARM_UP,
            sample=(end - checked - features.SUBREDDIT_WARM_UP, end),
        ),
        FeatureFunction(
            features.known_outcomes, outcomes, input_times={"outcomes": "known_at"}, key=("post_id",),
            event_time="known_at", features=schema.OUTCOMES, warm_up=timedelta(0), sample=(end - checked, end),
        ),
    )  # fmt: skip
