"""Made-up posts in made-up subreddits, from a seed alone: what is liked can partly be learned, as in the real ones.

What a post gets depends on its author's talent and its length, and on what its subreddit likes: the hour, questions,
and cheerful posts or complaints. The rest is luck. Every random number is made from the seed, the hour and the post's
place in it, so any window has the same rows whatever was asked before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd

from featurestore.times import EPOCH, Window
from flows.noise import Floats, Integers, normal, uniform
from flows.reddit.features import author_key
from flows.reddit.schema import LABEL_DELAY

SEED = 11
HOUR = timedelta(hours=1)
SPAN = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC))
"""What the demo reads. The simulator itself makes up any day."""

SUBREDDITS = (
    "AskBakers", "CityGardens", "FirstFlat", "NightTrains", "OldMaps", "RainyRuns", "SlowCooking", "TinyRobots",
    "WoodShed",
)  # fmt: skip
LEVEL = np.array([1.2, 2.4, 0.8, 1.9, 2.2, 1.0, 2.9, 1.5, 1.7])
"""The mean log1p(likes) of each."""

TASTE = np.array([0.8, -0.8, 0.8, 0.8, -0.8, 0.0, 0.8, -0.8, 0.6])
"""How much each likes a cheerful post more than a plain one; some like complaints."""

PER_HOUR = np.array([0.30, 0.22, 0.40, 0.15, 0.15, 0.20, 0.25, 0.20, 0.15])
"""Posts an hour in each, on average; at most `MOST`."""

MOST = 3
AUTHORS = 300

PLAIN = (
    "today", "oven", "garden", "train", "robot", "dough", "flat", "window", "sensor", "tomato", "night", "pot", "wheel",
    "light", "rent", "stove", "soil", "track", "code", "spoon", "wall", "seed", "ticket", "motor", "onion", "door",
    "neighbour", "kitchen", "station", "battery",
)  # fmt: skip
GOOD = ("love", "great", "happy", "beautiful", "wonderful", "proud", "finally", "perfect", "thanks", "delicious")
BAD = ("hate", "terrible", "broken", "sad", "awful", "angry", "ruined", "lost", "worried", "horrible")


@dataclass(frozen=True)
class Trouble:
    """What goes wrong in the made-up world; by default a little of what does go wrong in the real one.

    Args:
        late_share: share of posts that listings show only 20 hours later.
        deleted_share: share of posts whose author is not known.
        removed_share: share of posts whose text was removed before it was read.
        without_ratio_share: share of outcomes that come without an upvote ratio.
        missing_share: share of outcomes that are never told: the post is gone.
        outages: windows in which nothing was posted.
        drift_from: from then on tastes have turned: where cheerful posts were liked, complaints are.
        renamed: name by name: subreddits whose name changes for good at `drift_from`, as a changed schema would.
    """

    late_share: float = 0.01
    deleted_share: float = 0.02
    removed_share: float = 0.01
    without_ratio_share: float = 0.01
    missing_share: float = 0.01
    outages: tuple[Window, ...] = ()
    drift_from: datetime | None = None
    renamed: tuple[tuple[str, str], ...] = ()


Flags = npt.NDArray[np.bool_]
LATE = timedelta(hours=20)
CALM = Trouble(late_share=0.0, deleted_share=0.0, removed_share=0.0, without_ratio_share=0.0, missing_share=0.0)


def posts(window: Window, *, as_of: datetime, trouble: Trouble | None = None, seed: int = SEED) -> pd.DataFrame:
    """The posts of [start, end), as listings show them at a time.

    Returns:
        post_id, created, subreddit, author, title, body: no order promised.

    >>> day = Window.of("2026-01-05", "2026-01-06")
    >>> rows = posts(day, as_of=day.end, trouble=CALM)
    >>> len(rows) > 30, rows["post_id"].is_unique, bool(rows["title"].str.len().min() > 5)
    (True, True, True)
    """
    trouble = trouble or Trouble()
    made = _made(window, trouble, seed)
    is_late = uniform(seed, 31, made.place, made.hour) < trouble.late_share
    shown = made.created + np.where(is_late, LATE // timedelta(microseconds=1), 0) <= _micros(as_of)
    made = made.only(shown & (made.created < _micros(as_of)))
    removed = uniform(seed, 32, made.place, made.hour) < trouble.removed_share
    title, body = _texts(made)
    return _keys(made, trouble, seed).assign(
        title=pd.Series(title, dtype="str"), body=pd.Series(body, dtype="str").mask(removed)
    )


def outcomes(window: Window, *, trouble: Trouble | None = None, seed: int = SEED) -> pd.DataFrame:
    """The outcomes that became known in [start, end).

    Returns:
        post_id, created, subreddit, author, likes, upvote_ratio, known_at, seen_at: no order promised.
    """
    trouble = trouble or Trouble()
    made = _made(Window(window.start - LABEL_DELAY, window.end - LABEL_DELAY), trouble, seed)
    made = made.only(uniform(seed, 33, made.place, made.hour) >= trouble.missing_share)
    worth = _worth(made, trouble, seed)
    log_likes = np.maximum(worth + 0.95 * normal(seed, 21, made.place, made.hour), 0.0)
    liked = 1.7 + 0.9 * (worth - 1.8) + 0.5 * normal(seed, 22, made.place, made.hour)
    ratio = np.round(0.35 + 0.65 / (1 + np.exp(-liked)), 2)
    untold = uniform(seed, 34, made.place, made.hour) < trouble.without_ratio_share
    keys = _keys(made, trouble, seed)
    known_at = keys["created"] + LABEL_DELAY
    return keys.assign(
        likes=np.rint(np.expm1(log_likes)).astype(np.int64),
        upvote_ratio=np.where(untold, np.nan, ratio),
        known_at=known_at,
        seen_at=known_at,
    )


@dataclass(frozen=True)
class _Made:
    """The drawn posts: hour (since 1970), place (subreddit and number within the hour), and what follows from it."""

    hour: Integers
    place: Integers
    created: Integers
    author: Integers
    draws: Floats

    @property
    def code(self) -> Integers:
        return self.place // MOST

    def only(self, rows: Flags) -> _Made:
        return _Made(self.hour[rows], self.place[rows], self.created[rows], self.author[rows], self.draws[rows])


def _made(window: Window, trouble: Trouble, seed: int) -> _Made:
    first, last = ((_micros(time) // 3_600_000_000) for time in (window.start, window.end))
    hours = np.arange(first, last + 1, dtype=np.int64)
    places = np.arange(len(SUBREDDITS) * MOST, dtype=np.int64)
    hour, place = (grid.ravel() for grid in np.meshgrid(hours, places, indexing="ij"))
    busy = 0.5 + 0.5 * np.sin((hour % 24 - 8) / 24 * 2 * np.pi) + 0.5
    exists = uniform(seed, 1, place, hour) < PER_HOUR[place // MOST] * busy / MOST
    hour, place = hour[exists], place[exists]
    created = (hour * 3600 + (uniform(seed, 2, place, hour) * 3600).astype(np.int64)) * 1_000_000
    inside = (created >= _micros(window.start)) & (created < _micros(window.end))
    for outage in trouble.outages:
        inside &= ~((created >= _micros(outage.start)) & (created < _micros(outage.end)))
    hour, place, created = hour[inside], place[inside], created[inside]
    # Few authors write much: a draw squared.
    author = (uniform(seed, 3, place, hour) ** 2 * AUTHORS).astype(np.int64)
    draws = np.stack([uniform(seed, 40 + n, place, hour) for n in range(8)], axis=1) if len(hour) else np.empty((0, 8))
    return _Made(hour, place, created, author, draws)


def _worth(made: _Made, trouble: Trouble, seed: int) -> Floats:
    """The part of log1p(likes) that is no luck."""
    talent = 0.55 * normal(seed, 5, made.author, np.zeros_like(made.author))
    mood = _mood(made)
    if trouble.drift_from is not None:
        mood = np.where(made.created >= _micros(trouble.drift_from), -mood, mood)
    words = 8 + made.draws[:, 2] * 80
    length = 0.5 - ((np.log(words) - np.log(45)) ** 2) * 0.6
    # What one subreddit likes another does not: taste, hour and questions each depend on where it is posted.
    of_day = 0.45 * np.sin((made.hour % 24 - 9 - 5 * (made.code % 3)) / 24 * 2 * np.pi)
    asks = np.where(_asks(made), np.where(made.code % 2 == 0, 0.9, -0.9), 0.0)
    return np.asarray(LEVEL[made.code] + talent + TASTE[made.code] * mood + length + of_day + asks)


def _asks(made: _Made) -> Flags:
    return np.asarray(made.draws[:, 0] < 0.4)


def _mood(made: _Made) -> Floats:
    """-1, 0 or 1: how the post feels."""
    return np.asarray(np.floor(made.draws[:, 1] * 3) - 1)


def _texts(made: _Made) -> tuple[list[str], list[str]]:
    titles, bodies = [], []
    for draws, asks, mood in zip(made.draws, _asks(made), _mood(made), strict=True):
        feeling = {-1: BAD, 0: PLAIN, 1: GOOD}[int(mood)]
        said = [*_words(draws[3], 6), feeling[int(draws[4] * len(feeling))]]
        titles.append(("How do I " if asks else "My ") + " ".join(said) + ("?" if asks else ""))
        body = _words(draws[5], int(8 + draws[2] * 80))
        body[len(body) // 2] = feeling[int(draws[6] * len(feeling))]
        text = " ".join(body) + "."
        if draws[7] < 0.1:
            text += "\n\nTL;DR: " + " ".join(body[:3])
        elif draws[7] > 0.93:
            text += " https://example.org/" + body[0]
        bodies.append(text)
    return titles, bodies


def _words(draw: float, n: int) -> list[str]:
    step = 1 + int(draw * 1_000_003) % 28
    start = int(draw * 7_919)
    return [PLAIN[(start + step * i + i * i) % len(PLAIN)] for i in range(n)]


def _keys(made: _Made, trouble: Trouble, seed: int) -> pd.DataFrame:
    names = np.array(SUBREDDITS, dtype=object)[made.code] if len(made.code) else np.empty(0, dtype=object)
    if trouble.drift_from is not None:
        for old, new in trouble.renamed:
            names = np.where((names == old) & (made.created >= _micros(trouble.drift_from)), new, names)
    known = {code: author_key(f"author-{code}") for code in set(made.author.tolist())}
    deleted = uniform(seed, 35, made.place, made.hour) < trouble.deleted_share
    author = pd.Series([known[code] for code in made.author.tolist()], dtype="str").mask(pd.Series(deleted))
    return pd.DataFrame(
        {
            "post_id": pd.Series(_ids(made.hour, made.place), dtype="str"),
            "created": pd.Series(made.created.astype("datetime64[us]")).dt.tz_localize("UTC"),
            "subreddit": pd.Series(names.tolist(), dtype="str"),
            "author": author,
        }
    )


def _ids(hour: Integers, place: Integers) -> Sequence[str]:
    return [f"s{number:x}" for number in (hour * 64 + place).tolist()]


def _micros(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1)
