"""Reddit's API: posts of subreddits as they are made, and their votes once these have settled.

Access is by OAuth's client credentials of an app that its owner registers with Reddit. Names of authors are hashed the
moment an answer is read; the raw answers below `<home>/bronze` still have them. What Reddit is not known to answer is
refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import pandas as pd
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from featurestore.errors import InvalidTime, NotFound
from featurestore.times import Window
from flows import windows
from flows.http import Answer, Bronze, Client, LiveSourceError, UnexpectedAnswer, client_credentials
from flows.reddit.features import author_key, readable
from flows.reddit.schema import LABEL_DELAY
from flows.settings import Settings

PAGE = 100
"""The most that Reddit gives at once, of a listing and of posts by name."""

LISTING_END = 950
"""A listing ends at about a thousand posts: one that ends before so many has told of all there are."""

REQUESTS_PER_SECOND = 1.5
"""Reddit allows an app 100 requests a minute."""

REMOVED = ("[removed]", "[deleted]")
NOBODY = (None, "[deleted]", "[removed]")
NEEDED = ("id", "subreddit", "title", "selftext", "author", "created_utc", "edited")
NEEDED_OF_VOTES = ("id", "score")


class Services(BaseSettings):
    """Which subreddits, and by which app, from `TRIPTYCH_REDDIT_*` in the environment.

    Args:
        subreddits: whose posts are read, with commas between: "College,CollegeRant".
        client_id, client_secret: of the app; the secret is never logged, never kept.
        user_agent: Reddit wants a name of its own for each app, such as "linux:triptych:0.1 (by /u/you)".
        url, token_url: base URLs; a test's stub may stand in.
    """

    model_config = SettingsConfigDict(env_prefix="TRIPTYCH_REDDIT_", env_ignore_empty=True, extra="ignore", frozen=True)

    subreddits: str = ""
    client_id: str | None = None
    client_secret: SecretStr | None = None
    user_agent: str = "linux:triptych:0.1 (machine learning pipelines)"
    url: str = "https://oauth.reddit.com"
    token_url: str = "https://www.reddit.com/api/v1/access_token"

    @property
    def each_subreddit(self) -> tuple[str, ...]:
        """The subreddits, one by one, without r/.

        >>> Services(subreddits="College, r/Emory").each_subreddit
        ('College', 'Emory')
        """
        return tuple(part.strip().removeprefix("r/") for part in self.subreddits.split(",") if part.strip())


# --- posts -------------------------------------------------------------------------------------------


def posts(window: Window) -> pd.DataFrame:
    """The posts of [start, end) in all subreddits: post_id, created, subreddit, author, title, body; no order promised.

    The author is a hash. Author, or body, are null where they are deleted or removed; the body also where it was edited
    since, because that is not what was posted.

    Raises:
        NotFound: no subreddit or no app is set.
        LiveSourceError: the service is down, refuses, or answers something unknown; or the listing ends
            after its start, so that posts of the window can no longer be read.
    """
    services = Services()
    if not services.each_subreddit:
        raise NotFound("No subreddit is asked for. Set TRIPTYCH_REDDIT_SUBREDDITS, such as College,CollegeRant.")
    parts = [NO_POSTS]
    with _reddit(services) as reddit:
        for subreddit in services.each_subreddit:
            parts.append(_listing(reddit, subreddit, window))
    rows = pd.concat(parts, ignore_index=True)
    return rows[(rows["created"] >= window.start) & (rows["created"] < window.end)]


def _listing(reddit: Client, subreddit: str, window: Window) -> pd.DataFrame:
    """The newest posts of a subreddit back to the window's start, each once, as it was read first."""
    found: dict[str, Mapping[str, Any]] = {}
    after, seen = None, set()
    what = ""
    while True:
        # Not `before` or a time: Reddit has no listing by time, only pages back from the newest post.
        answer = reddit.get(f"r/{subreddit}/new", {"limit": PAGE, "raw_json": 1, "after": after})
        what = str(answer)
        page, after = _page(answer, NEEDED)
        for post in page:
            found.setdefault(post["id"], post)
        # Old posts come late when a moderator lets them through, so one of them does not end the listing.
        if after is None or (page and all(_created(post, what) < window.start for post in page)):
            break
        if after in seen:
            raise UnexpectedAnswer(f"{answer} leads in a circle: its next page is {after!r} again. {_CHANGED}")
        seen.add(after)
    rows = _post_rows(list(found.values()), what)
    if after is None and len(rows) >= LISTING_END and (first := rows["created"].min()) > window.start:
        raise LiveSourceError(
            f"The listing of r/{subreddit} ends at {first} after {len(rows):,} posts, and {window} was asked for: what "
            "was posted before can no longer be read. Run more often; to go on without it, give --start "
            f"{first:%Y-%m-%dT%H:%M:%S}Z."
        )
    return rows


def _post_rows(found: Sequence[Mapping[str, Any]], what: str) -> pd.DataFrame:
    rows = [
        {
            "post_id": _text(post, "id", what),
            "created": _created(post, what),
            "subreddit": _text(post, "subreddit", what),
            "author": None if post["author"] in NOBODY else author_key(_text(post, "author", what)),
            "title": readable(_text(post, "title", what)),
            "body": _body(post, what),
        }
        for post in found
    ]
    return pd.concat([NO_POSTS, pd.DataFrame(rows).astype(NO_POSTS.dtypes)]) if rows else NO_POSTS


def _body(post: Mapping[str, Any], what: str) -> str | None:
    body = post["selftext"]
    if body in REMOVED or post["edited"] or post.get("removed_by_category"):
        return None
    if body is None:
        return ""
    return readable(_text(post, "selftext", what, empty=True))


# --- votes -------------------------------------------------------------------------------------------


def outcomes(window: Window, *, of: pd.DataFrame | None) -> pd.DataFrame:
    """The votes of known posts that settled in [start, end): post_id, created, subreddit, author, likes, upvote_ratio,
    known_at, seen_at; no order promised.

    Posts that are gone, or whose score is hidden, are missing; an upvote ratio that is not told is null.

    Args:
        of: the posts that are known: post_id, created, subreddit, author.
    Raises:
        InvalidTime: the window ends in the future: votes of then have not settled.
        NotFound, LiveSourceError: as `posts`.
    """
    if window.end > windows.now():
        raise InvalidTime(f"Votes of {window} have not settled at {windows.now()}. Give an end up to now.")
    if of is None:
        raise NotFound("Reddit tells votes of posts by their names only: pass the known posts.")
    settled = of["created"] + LABEL_DELAY
    wanted = of[(settled >= window.start) & (settled < window.end)].drop_duplicates("post_id")
    names = [f"t3_{post_id}" for post_id in wanted["post_id"]]
    rows = []
    if names:
        with _reddit(Services()) as reddit:
            for first in range(0, len(names), PAGE):
                answer = reddit.get("api/info", {"id": ",".join(names[first : first + PAGE]), "raw_json": 1})
                rows += list(_votes(answer, set(names[first : first + PAGE])))
    votes = pd.DataFrame(rows, columns=list(NO_VOTES)).astype(NO_VOTES.dtypes).drop_duplicates("post_id")
    known = wanted[["post_id", "created", "subreddit", "author"]].merge(votes, on="post_id", validate="one_to_one")
    return known.assign(known_at=known["created"] + LABEL_DELAY)


def _votes(answer: Answer, asked: set[str]) -> Iterator[dict[str, Any]]:
    found, _ = _page(answer, NEEDED_OF_VOTES)
    for post in found:
        if f"t3_{post['id']}" not in asked:
            raise UnexpectedAnswer(f"{answer} has post {post['id']!r}, which was not asked for. {_CHANGED}")
        if post.get("hide_score"):
            continue
        score, ratio = post["score"], post.get("upvote_ratio")
        if isinstance(score, bool) or not isinstance(score, int):
            raise UnexpectedAnswer(f"{answer}: score is {score!r}, expected a whole number. {_CHANGED}")
        if ratio is not None and (isinstance(ratio, bool | str) or not 0 <= ratio <= 1):
            raise UnexpectedAnswer(f"{answer}: upvote_ratio is {ratio!r}, expected 0 to 1 or none. {_CHANGED}")
        yield {
            "post_id": post["id"],
            "likes": max(score, 0),
            "upvote_ratio": ratio,
            "seen_at": answer.asked_at,
        }


# --- answers -----------------------------------------------------------------------------------------


def _reddit(services: Services) -> Client:
    client_id, secret = services.client_id, services.client_secret
    if client_id is None or secret is None:
        raise NotFound(
            "Reddit lets nobody read without an app of their own: register one at reddit.com/prefs/apps and set "
            "TRIPTYCH_REDDIT_CLIENT_ID and TRIPTYCH_REDDIT_CLIENT_SECRET. Or use TRIPTYCH_SOURCE=simulated, or "
            "TRIPTYCH_DATA=<folder> for tables."
        )
    return Client(
        "reddit", base_url=services.url, bronze=Bronze(Settings().home / "bronze"), user_agent=services.user_agent,
        per_second=REQUESTS_PER_SECOND,
        sign_in=lambda: client_credentials(
            "reddit", url=services.token_url, client_id=client_id, client_secret=secret, user_agent=services.user_agent
        ),
    )  # fmt: skip


def _page(answer: Answer, needed: Sequence[str]) -> tuple[list[Mapping[str, Any]], str | None]:
    """The posts of a listing's page, and the name after which the next page begins; None at the end.

    Raises:
        UnexpectedAnswer: no listing of posts, or a post without what is needed; the message names it.
    """
    body = answer.json()
    data = body.get("data") if isinstance(body, dict) and body.get("kind") == "Listing" else None
    if not isinstance(data, dict) or not isinstance(data.get("children"), list) or "after" not in data:
        held = sorted(body) if isinstance(body, dict) else type(body).__name__
        raise UnexpectedAnswer(f"{answer} is no listing but {held}. {_CHANGED}")
    found: list[Mapping[str, Any]] = []
    for child in data["children"]:
        post = child.get("data") if isinstance(child, dict) and child.get("kind") == "t3" else None
        if not isinstance(post, dict):
            raise UnexpectedAnswer(f"{answer}: a child of the listing is no post (t3). {_CHANGED}")
        if missing := [name for name in needed if name not in post]:
            raise UnexpectedAnswer(f"{answer}: a post lacks {missing}. {_CHANGED}")
        found.append(post)
    after = data["after"]
    if after is not None and not isinstance(after, str):
        raise UnexpectedAnswer(f"{answer}: after is {after!r}, expected a name or null. {_CHANGED}")
    return found, after


def _created(post: Mapping[str, Any], what: str) -> datetime:
    seconds = post["created_utc"]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 1e9 < seconds < 1e10:
        raise UnexpectedAnswer(f"{what}: created_utc is {seconds!r}, expected seconds since 1970. {_CHANGED}")
    created: datetime = pd.Timestamp(round(seconds * 1e6), unit="us", tz="UTC").to_pydatetime()
    return created


def _text(post: Mapping[str, Any], name: str, what: str, *, empty: bool = False) -> str:
    value = post[name]
    if not isinstance(value, str) or not (value or empty):
        raise UnexpectedAnswer(f"{what}: {name} is a {type(value).__name__}, expected text. {_CHANGED}")
    return value


NO_POSTS = pd.DataFrame(
    {
        "post_id": pd.Series(dtype="str"),
        "created": pd.Series(dtype="datetime64[us, UTC]"),
        "subreddit": pd.Series(dtype="str"),
        "author": pd.Series(dtype="str"),
        "title": pd.Series(dtype="str"),
        "body": pd.Series(dtype="str"),
    }
)
NO_VOTES = pd.DataFrame(
    {
        "post_id": pd.Series(dtype="str"),
        "likes": pd.Series(dtype="int64"),
        "upvote_ratio": pd.Series(dtype="float64"),
        "seen_at": pd.Series(dtype="datetime64[us, UTC]"),
    }
)
"""No rows, with the columns and dtypes of an answer."""

_CHANGED = (
    "The service has changed or mixes something up: nothing was written. Look at its raw answer in bronze/; when the "
    "change is meant, flows/reddit/live.py must learn it."
)
