"""Posts and what became of them, from outside, in one shape: live, from tables, or made up."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pandas as pd

from featurestore.errors import NotFound
from featurestore.times import Window
from flows import windows
from flows.reddit import live, simulator
from flows.reddit.schema import LABEL_DELAY
from flows.settings import Settings
from flows.sources import data_folder, half_open, in_shape, read_table

POSTS: Mapping[str, str] = {
    "post_id": "str",
    "created": "datetime64[us, UTC]",
    "subreddit": "str",
    "author": "str",
    "title": "str",
    "body": "str",
    "source": "str",
}
"""The columns every source gives, in order. The author is a hash, null where not known; the body is null where it was
removed or edited before it was read: it is not what was posted then."""

OUTCOMES: Mapping[str, str] = {
    "post_id": "str",
    "created": "datetime64[us, UTC]",
    "subreddit": "str",
    "author": "str",
    "likes": "int64",
    "upvote_ratio": "float64",
    "known_at": "datetime64[us, UTC]",
    "seen_at": "datetime64[us, UTC]",
    "source": "str",
}
"""Settled votes: the score (never below 0) and the share of up-votes (0..1, null where not told), known 48 hours after
the post and looked at at `seen_at`."""

SIMULATED, LIVE, TABLE = "simulated", "live", "files"
SOURCES = (SIMULATED, LIVE, TABLE)

POSTS_TABLE = "college_subreddits_posts.parquet"

SPANS = {
    SIMULATED: simulator.SPAN,
    # Before October 2021 the table has posts of "top" listings only: they would teach that every post is liked. They
    # are read as history of authors and subreddits, and neither learned from nor judged on.
    TABLE: Window(datetime(2021, 10, 4, tzinfo=UTC), datetime(2021, 12, 21, tzinfo=UTC)),
}
LIVE_HISTORY = timedelta(days=2)
"""What the first live run asks for: a listing goes back a thousand posts and no further."""


def read_posts(
    start: datetime, end: datetime, *, as_of: datetime | None = None, source: str | None = None
) -> pd.DataFrame:
    """The posts made in [start, end), one row each, as they were posted.

    Args:
        start, end: half-open, by the time of posting; with a time zone.
        as_of: what listings showed at that time. Default: now. Tables have no memory of that.
        source: one of `SOURCES`; default: what the settings say (`TRIPTYCH_DATA`, `TRIPTYCH_SOURCE`).
    Returns:
        The columns and dtypes of `POSTS`, the same from every source; ordered by time and post, index 0..n-1.
    Raises:
        InvalidTime: a time without time zone, or an end before the start.
        NotFound: an unknown source, or a missing folder or table.
        LiveSourceError: a live service failed; see `flows.http`.

    >>> day = datetime(2026, 1, 5, tzinfo=UTC)
    >>> read_posts(day, day + timedelta(days=1), source="simulated")["subreddit"].nunique()
    9
    """
    window, name = half_open(start, end), _source_name(source)
    moment = windows.now() if as_of is None else as_of
    if name == SIMULATED:
        rows = simulator.posts(window, as_of=moment)
    elif name == LIVE:
        rows = live.posts(window)
    else:
        rows = _table_posts(window)
    return in_shape(rows, POSTS, name, order=["created", "post_id"])


def read_outcomes(
    start: datetime, end: datetime, *, of: pd.DataFrame | None = None, source: str | None = None
) -> pd.DataFrame:
    """What became of the posts whose votes settled in [start, end): those made 48 hours before, one row each.

    Args:
        start, end: half-open, by `known_at`; with a time zone.
        of: known posts (post_id, created, subreddit, author). A live service can only be asked about posts by their
            names; the other sources do not need it.
        source: as for `read_posts`.
    Returns:
        The columns and dtypes of `OUTCOMES`; ordered by known_at and post, index 0..n-1. Posts that are gone, or were
        never looked at once they were 48 hours old, are missing.
    Raises:
        InvalidTime, NotFound, LiveSourceError: as `read_posts`.

    >>> day = datetime(2026, 1, 5, tzinfo=UTC)
    >>> settled = read_outcomes(day, day + timedelta(days=1), source="simulated")
    >>> (settled["known_at"] - settled["created"]).unique().tolist()
    [Timedelta('2 days 00:00:00')]
    """
    window, name = half_open(start, end), _source_name(source)
    if name == SIMULATED:
        rows = simulator.outcomes(window)
    elif name == LIVE:
        rows = live.outcomes(window, of=of)
    else:
        rows = _table_outcomes(window)
    return in_shape(rows, OUTCOMES, name, order=["known_at", "post_id"])


def remembers() -> bool:
    """Whether outcomes of long ago can be read again; a live service tells the votes of now, not of then."""
    return source_name() != LIVE


def span(*, source: str | None = None) -> Window:
    """The time a source has rows of, half-open; for the simulator that of the demo, live the last two days.

    >>> str(span(source="files"))
    '[2021-10-04 00:00, 2021-12-21 00:00)'
    """
    name = _source_name(source)
    if name == LIVE:
        now = windows.floor(windows.scheduled_time())
        return Window(now - LIVE_HISTORY, now)
    return SPANS[name]


def available_until(at: datetime, *, source: str | None = None) -> datetime:
    """Until when a source has rows, seen at a time: live and simulated until then, a table until its own end.

    >>> available_until(datetime(2026, 9, 1, tzinfo=UTC), source="files").isoformat()
    '2021-12-21T00:00:00+00:00'
    """
    name = _source_name(source)
    return at if name in (SIMULATED, LIVE) else min(at, SPANS[name].end)


def source_name() -> str:
    """The source the settings mean; a home holds rows of one source only."""
    return _source_name(None)


def _source_name(source: str | None) -> str:
    name = Settings().chosen_source if source is None else source
    if name not in SOURCES:
        raise NotFound(f"There is no source of posts {name!r}. Use one of {list(SOURCES)}.")
    return name


# --- tables ------------------------------------------------------------------------------------------

_RENAMED = {"created_utc": "created", "author_key": "author", "selftext": "body", "score": "likes"}


def _table_posts(window: Window) -> pd.DataFrame:
    names = ["post_id", "created_utc", "subreddit", "author_key", "title", "selftext"]
    rows = _table(names, window).rename(columns=_RENAMED)
    return rows.assign(body=rows["body"].mask(rows["body"].isin(live.REMOVED)))


def _table_outcomes(window: Window) -> pd.DataFrame:
    names = ["post_id", "created_utc", "snapshot_utc", "subreddit", "author_key", "score", "upvote_ratio"]
    rows = _table(names, Window(window.start - LABEL_DELAY, window.end - LABEL_DELAY)).rename(columns=_RENAMED)
    rows = rows.assign(
        known_at=rows["created"] + LABEL_DELAY,
        seen_at=rows["snapshot_utc"].dt.as_unit("us"),
        likes=rows["likes"].clip(lower=0),
    )
    return rows[rows["seen_at"] >= rows["known_at"]]  # a younger count is no label


def _table(names: list[str], window: Window) -> pd.DataFrame:
    path = data_folder("reddit", of="posts") / POSTS_TABLE
    rows = read_table(path, names, time="created_utc", between=(window.start, window.end))
    return rows.assign(created_utc=rows["created_utc"].dt.as_unit("us"))
