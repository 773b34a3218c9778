"""From posts and settled votes to feature rows. Pure: frames in, new frames out; the same for history and a draft.

Text is measured as it was posted: what was added later under "EDIT:" is cut off, because people thank for the likes
there.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from featurestore.errors import InvalidData, InvalidTime, SchemaMismatch
from flows.reddit import schema
from flows.rules import columns

if TYPE_CHECKING:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

AUTHOR_WARM_UP = schema.AUTHOR_TTL
SUBREDDIT_WARM_UP = max(schema.HISTORY_SPANS.values())

LONGEST_TITLE = 300
LONGEST_BODY = 40_000
"""Reddit's own bounds for a post."""

SENTIMENT_CHARACTERS = 2_000
"""The lexicon reads the beginning of a body: what sets its tone, and no draft takes seconds."""

FOREIGN = 0.02
"""From this share of letters beyond a to z on a text is taken for another language than the lexicon's."""

TOP_QUANTILE = 0.9

# Every repetition has a bound or cannot cross a line: a body of 40,000 line ends shall not take minutes.
_ADDED_LATER = re.compile(r"^(?:[^\w\n]|_){0,12}(?:edit|update)\b[^\n]{0,20}?[:\-–—]", re.IGNORECASE | re.MULTILINE)
LINK = re.compile(r"\[([^\]\n]{0,100})\]\((?:[^()\s]{1,2000})\)|https?://\S+|www\.\S+")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_QUESTION_WORD = re.compile(
    r"\W*(?:how|what|why|when|where|who|which|is|are|am|do|does|did|can|could|should|would|will|has|have|any)\b",
    re.IGNORECASE,
)
_FIRST_PERSON = {"i", "me", "my", "mine", "myself", "i'm", "i've", "i'd", "i'll"}
TLDR = re.compile(r"\btl[ \t]{0,3}[;:,/]?[ \t]{0,3}dr\b", re.IGNORECASE)
_LIST_ITEM = re.compile(r"^[ \t]{0,20}(?:[-*+•]|\d{1,3}[.)])[ \t]{1,20}\S", re.MULTILINE)
_EMOJI = re.compile("[\U0001f300-\U0001faff\U00002600-\U000027bf\U0001f1e6-\U0001f1ff]")


# --- text --------------------------------------------------------------------------------------------


def readable(text: str) -> str:
    """The text without what no table can hold or nobody can see: lone surrogates, control characters.

    Line ends are all written as one newline; letters are composed (NFC), so that one word has one spelling.

    >>> readable("a\\x00b\\r\\nc\\ud800")
    'ab\\nc�'
    """
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    lines = whole.replace("\r\n", "\n").replace("\r", "\n")
    return unicodedata.normalize(
        "NFC", "".join(each for each in lines if each in "\n\t" or unicodedata.category(each) != "Cc")
    )


def as_posted(body: str) -> str:
    """The body up to the first line that says it was added later.

    >>> as_posted("I made a robot.\\n\\n**EDIT:** wow, thanks for all the likes!")
    'I made a robot.'
    """
    found = _ADDED_LATER.search(body)
    return body if found is None else body[: found.start()].rstrip()


def text_features(title: str, body: str | None) -> dict[str, Any]:
    """What is measured of a post's text: the one definition for history and for a draft.

    Args:
        title: never empty.
        body: None where it is not known what was posted.
    Returns:
        The text columns of `schema.POSTS` by name; those of the body are None where it is not known. An empty body has
        lengths of 0 and no sentiment.

    >>> found = text_features("How do I love my robot?", "It is great! See [this](https://example.org).")
    >>> found["title_is_question"], found["title_words"], found["body_links"], found["title_sentiment"] > 0.5
    (True, 6, 1, True)
    """
    title = readable(title).strip()
    letters = [each for each in title if each.isalpha()]
    measured: dict[str, Any] = {
        "title_characters": len(title),
        "title_words": len(_WORD.findall(title)),
        "title_is_question": "?" in title or _QUESTION_WORD.match(title) is not None,
        "title_exclamations": title.count("!"),
        "title_capitals_share": sum(each.isupper() for each in letters) / len(letters) if letters else 0.0,
        "title_digits": sum(each.isdigit() for each in title),
        "title_emoji": len(_EMOJI.findall(title)),
        "title_sentiment": _sentiment(title),
    }
    text = None if body is None else as_posted(readable(body)).strip()
    measured |= dict.fromkeys(_BODY) if text is None else _of_body(text)
    measured["foreign_letters_share"] = _foreign_letters_share(title + " " + (text or ""))
    return measured


def _of_body(text: str) -> dict[str, Any]:
    plain = LINK.sub(lambda match: match[1] or " ", text)
    words = _WORD.findall(plain)
    first_person = sum(word.lower().replace("’", "'") in _FIRST_PERSON for word in words)
    return {
        "body_characters": len(text),
        "body_words": len(words),
        "body_paragraphs": _paragraphs(text),
        "body_questions": text.count("?"),
        "body_exclamations": text.count("!"),
        "body_first_person_share": first_person / len(words) if words else None,
        "body_links": len(LINK.findall(text)),
        "body_list_items": len(_LIST_ITEM.findall(text)),
        "body_emoji": len(_EMOJI.findall(text)),
        "body_has_tldr": TLDR.search(text) is not None,
        "body_sentiment": _sentiment(plain[:SENTIMENT_CHARACTERS]) if words else None,
    }


def _paragraphs(text: str) -> int:
    """Runs of lines that are not empty."""
    filled = [bool(line.strip()) for line in text.split("\n")]
    return sum(now and not before for before, now in pairwise([False, *filled]))


_BODY = [name for name in columns(schema.POSTS) if name.startswith("body_")]
TEXT_FEATURES = [name for name in columns(schema.POSTS) if name.startswith(("title_", "body_", "foreign_"))]


def _foreign_letters_share(text: str) -> float:
    letters = [each for each in text if each.isalpha()]
    return sum(not each.isascii() for each in letters) / len(letters) if letters else 0.0


def _sentiment(text: str) -> float:
    return float(_lexicon().polarity_scores(text)["compound"])


@cache
def _lexicon() -> SentimentIntensityAnalyzer:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


# --- posts -------------------------------------------------------------------------------------------


def post_features(posts: pd.DataFrame) -> pd.DataFrame:
    """What can be measured of each post before it is posted, one row per post.

    Args:
        posts: post_id, subreddit, title (str), created (UTC), author, body (str, nullable). Any order, any index; other
            columns are dropped. A post that is there twice is taken once, as it was seen first (by the order of rows
            that are otherwise equal in time and name, the longer text last).
    Returns:
        The columns of `schema.POSTS`, ordered by created and post_id, index 0..n-1. Title and body are not among them.
    Raises:
        SchemaMismatch: a column is missing.
        InvalidTime: created has no time zone.

    >>> at = pd.to_datetime(["2026-01-03 02:30"], utc=True)
    >>> rows = post_features(pd.DataFrame({"post_id": "a", "created": at, "subreddit": "s", "author": None,
    ...                                    "title": "Hello", "body": ""}))
    >>> rows[["hour", "weekday", "title_words", "body_words"]].iloc[0].tolist()
    [2, 5, 1, 0]
    """
    needed = ["post_id", "created", "subreddit", "author", "title", "body"]
    ordered = _ordered(posts, needed, by=["created", "post_id", "title", "body"], what="post_features", name="posts")
    ordered = ordered.drop_duplicates("post_id", ignore_index=True)
    bodies = [None if missing else body for body, missing in zip(ordered["body"], ordered["body"].isna(), strict=True)]
    measured = [text_features(title, body) for title, body in zip(ordered["title"], bodies, strict=True)]
    by_name = {name: _typed([row[name] for row in measured], name) for name in TEXT_FEATURES}
    return pd.DataFrame(
        {
            **{name: ordered[name] for name in ("post_id", "created", "subreddit", "author")},
            "community": ordered["subreddit"],
            "hour": ordered["created"].dt.hour.astype("int64"),
            "weekday": ordered["created"].dt.day_of_week.astype("int64"),
            **by_name,
        },
        columns=columns(schema.POSTS),
    )


def request_features(draft: Mapping[str, Any]) -> dict[str, Any]:
    """What is computed of a draft: the numbers its row in history will have if it is posted as it is.

    Args:
        draft: of `check_draft`.
    Returns:
        The on-demand columns of `schema.POSTS` by name; None where there is nothing to measure.

    >>> at = datetime(2026, 1, 3, 2, 30, tzinfo=UTC)
    >>> found = request_features({"title": "Hello", "subreddit": "s", "time": at})
    >>> found["hour"], found["weekday"], found["community"], found["body_words"]
    (2, 5, 's', 0)
    """
    time = draft["time"].astimezone(UTC)
    return {
        "community": draft["subreddit"],
        "hour": time.hour,
        "weekday": time.weekday(),
        **text_features(draft["title"], draft.get("body") or ""),
    }


def check_draft(draft: Mapping[str, Any]) -> None:
    """Refuse a draft that Reddit would refuse, or that nothing can be said about.

    Raises:
        SchemaMismatch: title, subreddit or time is missing.
        InvalidTime: the time has no time zone.
        InvalidData: an empty or too long title, a too long body, or no text where text should be.

    >>> check_draft({"title": " ", "subreddit": "s", "time": datetime(2026, 1, 3, tzinfo=UTC)})
    Traceback (most recent call last):
        ...
    featurestore.errors.InvalidData: The title is empty: Reddit takes no post without one. Write one.
    """
    if missing := [name for name in ("title", "subreddit", "time") if draft.get(name) is None]:
        raise SchemaMismatch(
            f"A draft needs {missing}; it has {list(draft)}. Pass title, subreddit and the time of posting."
        )
    for name in ("title", "body", "subreddit", "author"):
        if not isinstance(draft.get(name) or "", str):
            raise InvalidData(f"{name} = {draft[name]!r}: expected text. Correct the draft.")
    if not isinstance(draft["time"], datetime):
        raise InvalidData(f"time = {draft['time']!r}: expected a datetime with its time zone. Correct the draft.")
    if draft["time"].tzinfo is None:
        raise InvalidTime(
            f"time {draft['time']} has no time zone. Say which one, such as draft['time'].replace(tzinfo=UTC)."
        )
    title = readable(draft["title"]).strip()
    if not title:
        raise InvalidData("The title is empty: Reddit takes no post without one. Write one.")
    for name, text, most in (
        ("title", title, LONGEST_TITLE), ("body", readable(draft.get("body") or ""), LONGEST_BODY),
    ):  # fmt: skip
        if len(text) > most:
            raise InvalidData(f"The {name} has {len(text):,} characters; Reddit takes at most {most:,}. Shorten it.")


# --- histories ---------------------------------------------------------------------------------------


def author_history(outcomes: pd.DataFrame) -> pd.DataFrame:
    """What an author's posts got, of those whose outcome became known in the 90 days until then.

    A post is joined to the newest row at or before its making, so it sees only posts at least 48 hours older than
    itself, and never itself.

    Args:
        outcomes: author (str, nullable), known_at (UTC), likes (>= 0), upvote_ratio (0..1, nullable). Any order.
    Returns:
        The columns of `schema.AUTHORS`, one row per author and time at which outcomes became known; ordered by known_at
        and author, index 0..n-1. Posts without author are in no history.
    Raises:
        SchemaMismatch, InvalidTime: as `post_features`.

    >>> at = pd.to_datetime(["2026-01-01", "2026-01-02"], utc=True)
    >>> rows = author_history(pd.DataFrame({"author": "a", "known_at": at, "likes": [0, 9], "upvote_ratio": [0.5, 1]}))
    >>> rows["author_posts_90d"].tolist(), rows["author_mean_upvote_ratio_90d"].tolist()
    ([1, 2], [0.5, 0.75])
    """
    rows = _ordered(
        outcomes, ["author", "known_at", "likes", "upvote_ratio"], by=["author", "known_at", "likes", "upvote_ratio"],
        what="author_history", name="outcomes",
    )  # fmt: skip
    rows = rows[rows["author"].notna()].reset_index(drop=True)
    history = _History.of(rows, "author")
    count, mean, ratio = history.means(schema.AUTHOR_TTL)
    found = pd.DataFrame(
        {
            "author": rows["author"],
            "known_at": rows["known_at"],
            "author_posts_90d": count,
            "author_mean_log_likes_90d": mean,
            "author_best_log_likes_90d": history.rolling(schema.AUTHOR_TTL, "likes").max().to_numpy(),
            "author_mean_upvote_ratio_90d": ratio,
        },
        columns=columns(schema.AUTHORS),
    )
    return history.newest(found, "author")


def subreddit_statistics(outcomes: pd.DataFrame) -> pd.DataFrame:
    """What the posts of a subreddit got, of those whose outcome became known within each span until then.

    Args:
        outcomes: subreddit (str), known_at (UTC), likes (>= 0), upvote_ratio (0..1, nullable). Any order, any index.
    Returns:
        The columns of `schema.SUBREDDITS`, one row per subreddit and time at which outcomes became known; ordered by
        known_at and subreddit, index 0..n-1. Medians of upvote ratios are null where none is known.
    Raises:
        SchemaMismatch, InvalidTime: as `post_features`.
    """
    rows = _ordered(
        outcomes, ["subreddit", "known_at", "likes", "upvote_ratio"],
        by=["subreddit", "known_at", "likes", "upvote_ratio"], what="subreddit_statistics", name="outcomes",
    )  # fmt: skip
    history = _History.of(rows, "subreddit")
    found: dict[str, Any] = {"subreddit": rows["subreddit"], "known_at": rows["known_at"]}
    for span, length in schema.HISTORY_SPANS.items():
        likes, ratios = history.rolling(length, "likes"), history.rolling(length, "upvote_ratio")
        found[f"subreddit_posts_{span}"] = history.means(length)[0]
        found[f"subreddit_median_log_likes_{span}"] = likes.median().to_numpy()
        found[f"subreddit_top_log_likes_{span}"] = likes.quantile(TOP_QUANTILE).to_numpy()
        found[f"subreddit_median_upvote_ratio_{span}"] = ratios.median().to_numpy()
    return history.newest(pd.DataFrame(found, columns=columns(schema.SUBREDDITS)), "subreddit")


def known_outcomes(outcomes: pd.DataFrame) -> pd.DataFrame:
    """The outcome of each post, one row per post: as it was looked at first once it had settled.

    Args:
        outcomes: post_id, subreddit, author (str, nullable), created, known_at, seen_at (UTC), likes, upvote_ratio.
    Returns:
        The columns of `schema.OUTCOMES`, ordered by known_at and post_id, index 0..n-1.
    Raises:
        SchemaMismatch, InvalidTime: as `post_features`.
        InvalidData: an outcome was looked at before it had settled, or votes that are none.
    """
    needed = [name for name in columns(schema.OUTCOMES) if name != "log_likes"]
    rows = _ordered(outcomes, needed, by=["known_at", "post_id", "seen_at"], what="known_outcomes", name="outcomes")
    if len(early := rows[rows["seen_at"] < rows["created"] + schema.LABEL_DELAY]):
        raise InvalidData(
            f"Post {early['post_id'].iloc[0]} ({len(early)} of {len(rows)} outcomes) was looked at "
            f"{early['seen_at'].iloc[0] - early['created'].iloc[0]} after it was made: its votes had not settled. "
            f"Look again once it is {schema.LABEL_DELAY} old."
        )
    if (rows["likes"] < 0).any():
        raise InvalidData("likes below 0: Reddit shows no score below 0. Clip it in the source.")
    rows = rows.drop_duplicates("post_id", ignore_index=True)
    return rows.assign(log_likes=np.log1p(rows["likes"].to_numpy("float64")))[columns(schema.OUTCOMES)]


def author_key(name: str) -> str:
    """What stands for an author's name everywhere: the first twelve hex digits of its SHA-256.

    >>> author_key("someone")
    'cd93a1f1a2ac'
    """
    return hashlib.sha256(f"reddit:{name}".encode()).hexdigest()[:12]


def since(rows: pd.DataFrame, time: str, start: datetime) -> pd.DataFrame:
    """The rows whose time is not before the start: what is left when the warm-up has done its work.

    >>> at = pd.to_datetime(["2026-01-01", "2026-01-02"], utc=True)
    >>> len(since(pd.DataFrame({"known_at": at}), "known_at", datetime(2026, 1, 2, tzinfo=UTC)))
    1
    """
    return rows[rows[time] >= start].reset_index(drop=True)


class _History:
    """Outcomes by entity and time, and windows over them that give the same to the last bit wherever they begin.

    Sums are of whole numbers (millionths), so that a mean does not depend on what came before its window.
    """

    def __init__(self, entities: Integers, times: Integers, log_likes: Floats, ratios: Floats, index: pd.Series):
        self.entities, self.times, self.index = entities, times, index
        self.values = {"likes": log_likes, "upvote_ratio": ratios}

    @classmethod
    def of(cls, rows: pd.DataFrame, entity: str) -> _History:
        times = rows["known_at"].astype("int64").to_numpy()
        codes = pd.factorize(rows[entity])[0].astype(np.int64)
        log_likes = np.log1p(rows["likes"].to_numpy("float64"))
        return cls(codes, times, log_likes, rows["upvote_ratio"].to_numpy("float64"), rows["known_at"])

    def rolling(self, span: timedelta, of: str) -> Any:
        """Order statistics over (time - span, time] of each entity; they are exact in any window."""
        frame = pd.DataFrame({"value": self.values[of], "entity": self.entities}).set_index(
            pd.DatetimeIndex(self.index)
        )
        return frame.groupby("entity", sort=False)["value"].rolling(span)

    def means(self, span: timedelta) -> tuple[Integers, Floats, Floats]:
        """How many outcomes lie in (time - span, time], and the means of log likes and of the ratios that are known."""
        ends = np.arange(1, len(self.times) + 1)
        starts = np.empty(len(self.times), np.int64)
        opens = self.times - span // timedelta(microseconds=1)
        edges = [0, *(np.flatnonzero(np.diff(self.entities)) + 1).tolist(), len(self.times)]
        for first, end in pairwise(edges):
            starts[first:end] = first + np.searchsorted(self.times[first:end], opens[first:end], side="right")
        known = ~np.isnan(self.values["upvote_ratio"])

        def total(values: Integers) -> Integers:
            sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(values)])
            return np.asarray(sums[ends] - sums[starts])

        ratios = total(_millionths(np.where(known, self.values["upvote_ratio"], 0.0)))
        with np.errstate(invalid="ignore"):  # 0 / 0: no ratio is known, and null is right
            ratio = ratios / 1e6 / total(known.astype(np.int64))
        return ends - starts, total(_millionths(self.values["likes"])) / 1e6 / (ends - starts), ratio

    def newest(self, found: pd.DataFrame, entity: str) -> pd.DataFrame:
        """The last row of each entity and time: the one that has seen all outcomes of that moment."""
        last = found.drop_duplicates([entity, "known_at"], keep="last")
        return last.sort_values(["known_at", entity], ignore_index=True)


def _millionths(values: Floats) -> Integers:
    return np.asarray(np.rint(values * 1e6).astype(np.int64))


_DTYPES = {"int": "Int64", "boolean": "boolean", "double": "float64"}
_DTYPE_OF = {feature.name: _DTYPES.get(feature.dtype, "str") for feature in schema.POSTS}


def _typed(values: Sequence[Any], name: str) -> pd.Series:
    return pd.Series(values, dtype=_DTYPE_OF[name])


def _ordered(frame: pd.DataFrame, needed: Sequence[str], *, by: list[str], what: str, name: str) -> pd.DataFrame:
    """The needed columns, ordered, times in UTC microseconds; refuses a frame that breaks the contract."""
    if missing := [column for column in needed if column not in frame.columns]:
        raise SchemaMismatch(f"{what} needs the columns {missing}; {name} has {list(frame.columns)}.")
    times = {}
    for column in {"created", "known_at", "seen_at"} & set(needed):
        if not isinstance(frame[column].dtype, pd.DatetimeTZDtype):
            raise InvalidTime(
                f"{what}: {name}[{column!r}] is {frame[column].dtype}, expected times with a time zone. Say which zone "
                f"they are in, such as {name}[{column!r}].dt.tz_localize('UTC')."
            )
        times[column] = frame[column].dt.tz_convert("UTC").dt.as_unit("us")
    return frame[list(needed)].assign(**times).sort_values(by, ignore_index=True)
