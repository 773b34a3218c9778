"""The reddit system's feature pipeline: posts and their settled votes in, four feature groups out."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from prefect import flow, get_run_logger, task

import featurestore
from featurestore.times import Window
from flows import command_line, events, late, retries, windows
from flows.reddit import schema
from flows.settings import Settings
from flows.writing import Writing, check_source, summary

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import FeatureGroup, FeatureStore


FRESH_WITHIN_HOURS = 30
"""What the groups promise to `flows.freshness`. A daily run may be late by six hours."""

TILE = timedelta(days=30)
"""A backfill is cut into pieces of this length: what was committed before a kill stays, and memory stays small."""

LOOKBACK = timedelta(days=1)
"""How far back a run that goes on reads again: moderators let some posts through hours later."""


@flow(name="reddit-features")
@late.newest_only
def reddit_features(start: datetime | None = None, end: datetime | None = None) -> int:
    """Write the features of the posts, and of the votes settled, in [start, end); return the rows written.

    Without start it goes on where the last commit ended, and reads the day before again; without end it goes to the
    last full hour. A post stays as it was read first. Running a window again writes only what was not there.
    """
    from flows.reddit import source  # pandas is not needed to deploy this flow

    fs = featurestore.connect(home=Settings().store_home)
    groups = feature_groups(fs, source=source.source_name())
    posts_fg = groups[schema.POSTS_GROUP]
    window = windows.next_window(
        posts_fg.watermark, start, end,
        earliest=source.span().start, at=source.available_until(windows.scheduled_time()),
    )  # fmt: skip
    if window is None:
        get_run_logger().info("Skipped: there is nothing newer than what is committed.")
        events.name_run("nothing new")
        events.summary_artifact("reddit-features-summary", [summary(groups, None, [])])
        return 0
    events.name_run(str(window))
    with Writing() as written:
        for tile in events.progress(windows.tiles(window, TILE), f"Features of {window}"):
            goes_on = start is None and tile.start == window.start
            reading = Window(looking_back(posts_fg, tile.start) if goes_on else tile.start, tile.end)
            posts = not_yet_known(posts_fg, read_posts(reading), reading)
            outcomes = read_outcomes(groups[schema.OUTCOMES_GROUP], known_posts(posts_fg, posts, tile), tile)
            # The spine comes last: its watermark says that all before it is complete, so a killed run is repaired.
            for name, rows in compute(posts, outcomes, tile).items():
                written.write(groups[name], rows, tile)
    events.summary_artifact("reddit-features-summary", [summary(groups, window, written.commits)])
    return written.rows_written


def feature_groups(fs: FeatureStore, *, source: str) -> dict[str, FeatureGroup]:
    """The groups this pipeline writes, by name; made where they are not there yet.

    Raises:
        InvalidData: the store holds rows of another source.
    """
    check_source(
        fs, source, group_name=schema.POSTS_GROUP, settings="TRIPTYCH_SOURCE and TRIPTYCH_DATA"
    )  # fmt: skip
    tags = {"source": source, "system": "reddit", "max_age_hours": FRESH_WITHIN_HOURS}
    groups = [
        fs.get_or_create_feature_group(
            name=schema.AUTHORS_GROUP, version=schema.VERSION,
            description="What the settled posts of an author got. Hashes of names: personal data all the same.",
            primary_key=["author"], event_time="known_at", online_enabled=True, ttl=schema.AUTHOR_TTL,
            features=list(schema.AUTHORS), expectation_suite=schema.AUTHORS_RULES, tags=tags,
        ),
        fs.get_or_create_feature_group(
            name=schema.SUBREDDITS_GROUP, version=schema.VERSION,
            description="What the settled posts of a subreddit got.",
            primary_key=["subreddit"], event_time="known_at", online_enabled=True, ttl=schema.SUBREDDIT_TTL,
            features=list(schema.SUBREDDITS), expectation_suite=schema.SUBREDDITS_RULES, tags=tags,
        ),
        fs.get_or_create_feature_group(
            name=schema.OUTCOMES_GROUP, version=schema.VERSION,
            description="Likes and upvote ratio of each post, 48 hours after it was made.",
            primary_key=["post_id"], event_time="created", online_enabled=False,
            features=list(schema.OUTCOMES), expectation_suite=schema.OUTCOMES_RULES, tags=tags,
        ),
        fs.get_or_create_feature_group(
            name=schema.POSTS_GROUP, version=schema.VERSION,
            description="What can be measured of a post before it is posted; neither its title nor its body.",
            primary_key=["post_id"], event_time="created", online_enabled=False, foreign_key=["author", "subreddit"],
            features=list(schema.POSTS), expectation_suite=schema.POSTS_RULES, tags=tags,
        ),
    ]  # fmt: skip
    return {group.name: group for group in groups}


def looking_back(group: FeatureGroup, start: datetime) -> datetime:
    """From when on a run that goes on reads again: the lookback before its start, within the group's history."""
    return max(start - LOOKBACK, min((window.start for window in group.windows()), default=start))


@task(task_run_name="posts of {reading}", **retries.READING)
def read_posts(reading: Window) -> pd.DataFrame:
    """Posts made in the window."""
    from flows.reddit import source

    return source.read_posts(reading.start, reading.end)


@task(task_run_name="posts not known yet", **retries.READING)
def not_yet_known(posts_fg: FeatureGroup, posts: pd.DataFrame, reading: Window) -> pd.DataFrame:
    """The posts that the group does not hold: edited later, they are kept as they were posted."""
    held = posts_fg.select(["post_id"]).read(start_time=reading.start, end_time=reading.end)["post_id"]
    return posts[~posts["post_id"].isin(held)].reset_index(drop=True)


@task(task_run_name="known posts", **retries.READING)
def known_posts(posts_fg: FeatureGroup, new: pd.DataFrame, tile: Window) -> pd.DataFrame:
    """Whose votes settle in the window, as far as the store and these new posts know."""
    import pandas as pd

    names = ["post_id", "created", "subreddit", "author"]
    held = posts_fg.read(start_time=tile.start - schema.LABEL_DELAY, end_time=tile.end - schema.LABEL_DELAY)
    return pd.concat([held[names], new[names]], ignore_index=True)


@task(task_run_name="votes settled before {tile.end:%Y-%m-%d %H:%M}", **retries.READING)
def read_outcomes(outcomes_fg: FeatureGroup, known: pd.DataFrame, tile: Window) -> pd.DataFrame:
    """Votes that settled in the window, and the history before it that its first rows need.

    A live service tells the votes of now: the history is then what the store has kept of it.
    """
    import pandas as pd

    from flows.reddit import features, source

    before = tile.start - max(features.AUTHOR_WARM_UP, features.SUBREDDIT_WARM_UP)
    if source.remembers():
        return source.read_outcomes(before, tile.end)
    kept = outcomes_fg.read(start_time=before - schema.LABEL_DELAY, end_time=tile.start - schema.LABEL_DELAY)
    fresh = source.read_outcomes(tile.start, tile.end, of=known)
    return pd.concat([kept[[name for name in fresh if name in kept]], fresh], ignore_index=True)


def compute(posts: pd.DataFrame, outcomes: pd.DataFrame, tile: Window) -> dict[str, pd.DataFrame]:
    """The rows of each group that belong to the window, in the order in which they are to be written."""
    from flows.reddit import features

    start = tile.start
    return {
        schema.AUTHORS_GROUP: features.since(features.author_history(outcomes), "known_at", start),
        schema.SUBREDDITS_GROUP: features.since(features.subreddit_statistics(outcomes), "known_at", start),
        schema.OUTCOMES_GROUP: features.since(features.known_outcomes(outcomes), "known_at", start),
        schema.POSTS_GROUP: features.post_features(posts),
    }


if __name__ == "__main__":
    command_line.run(reddit_features)
