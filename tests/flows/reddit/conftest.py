"""Homes with simulated posts in them, and a stub of Reddit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows.reddit import modelling
from flows.settings import Settings
from tests.flows.stub_server import Reply, StubServer, serving

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 3, 25, tzinfo=UTC)
TOKEN, SECRET = "canary-token-4711", "canary-secret-4711"


@contextmanager
def living_in(home: Path, *, source: str = "simulated") -> Iterator[Settings]:
    """Let flows use this home and source, whatever the person who runs the tests has set."""
    told = ("SUBREDDITS", "CLIENT_ID", "CLIENT_SECRET", "USER_AGENT", "URL", "TOKEN_URL")
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            "FEATURESTORE_HOME",
            "TRIPTYCH_DATA",
            "TRIPTYCH_MLFLOW_URI",
            *(f"TRIPTYCH_REDDIT_{n}" for n in told),
        ):
            patch.delenv(name, raising=False)
        patch.setenv("TRIPTYCH_HOME", str(home))
        patch.setenv("TRIPTYCH_SOURCE", source)
        patch.setattr(modelling, "SEARCH", replace(modelling.SEARCH, trials=2))  # a small budget: tests are not timed
        yield Settings()


@pytest.fixture
def empty(prefect_api: None, tmp_path: Path) -> Iterator[Settings]:
    """A home with nothing in it."""
    with living_in(tmp_path / "home") as settings:
        yield settings


@pytest.fixture(scope="session")
def features_once(prefect_api: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with twelve weeks of features. Do not write to it: take `with_features`."""
    from flows.reddit.feature_pipeline import reddit_features

    home = tmp_path_factory.mktemp("features")
    with living_in(home):
        reddit_features(start=START, end=END)
    return home


@pytest.fixture
def with_features(features_once: Path, tmp_path: Path) -> Iterator[Settings]:
    """A copy of the home with features."""
    home = Path(shutil.copytree(features_once, tmp_path / "home"))
    with living_in(home) as settings:
        yield settings


@pytest.fixture(scope="session")
def trained_once(features_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with champions. Models know their folder, so it is used where it is, and not copied."""
    from flows.reddit.training_pipeline import reddit_training

    home = Path(shutil.copytree(features_once, tmp_path_factory.mktemp("trained") / "home"))
    with living_in(home):
        reddit_training(end=END)
    return home


@pytest.fixture
def with_champions(trained_once: Path) -> Iterator[Settings]:
    """The home with champions; what one test writes there, the next one finds."""
    with living_in(trained_once) as settings:
        yield settings


# --- a stub of Reddit ---------------------------------------------------------------------------------


def post(number: int, created: datetime, **changes: Any) -> dict[str, Any]:
    """A post as listings have it, in the shape of the recorded ones."""
    return {
        "id": f"p{number}", "name": f"t3_p{number}", "subreddit": "Emory", "title": f"Post number {number}",
        "selftext": "How do I find a room?", "author": f"someone{number}", "created_utc": created.timestamp(),
        "score": number, "upvote_ratio": 0.9, "num_comments": 3, "is_self": True, "hide_score": False, "edited": False,
        "removed_by_category": None,
    } | changes  # fmt: skip


def listing(posts: list[dict[str, Any]], after: str | None = None) -> dict[str, Any]:
    """An answer with these posts."""
    return {"kind": "Listing", "data": {"after": after, "children": [{"kind": "t3", "data": each} for each in posts]}}


@dataclass
class Reddit:
    """What the stub has: posts newest first; how many lie on a page; a token that is taken, and those given out."""

    posts: list[dict[str, Any]] = field(default_factory=list)
    page: int = 2
    valid: str = TOKEN
    given: list[str] = field(default_factory=list)

    def token(self, _query: Mapping[str, str]) -> Reply:
        """A new token each time; only the newest is taken."""
        self.valid = f"{TOKEN}-{len(self.given)}"
        self.given.append(self.valid)
        return Reply.of_json({"access_token": self.valid, "token_type": "bearer", "expires_in": 3600, "scope": "*"})

    def new(self, query: Mapping[str, str]) -> Reply:
        """A page of the listing, beginning after the post that was named."""
        names = [each["name"] for each in self.posts]
        first = names.index(query["after"]) + 1 if "after" in query else 0
        some = self.posts[first : first + self.page]
        more = first + self.page < len(self.posts)
        # With escapes, as Reddit writes it: half a pair of surrogates can only be told so.
        return Reply(200, json.dumps(listing(some, some[-1]["name"] if more else None)).encode())

    def info(self, query: Mapping[str, str]) -> Reply:
        """The posts that were named, as far as they are there."""
        asked = query["id"].split(",")
        return Reply.of_json(listing([each for each in self.posts if each["name"] in asked]))


class Services:
    """The stub, what it has, and the home in which raw answers are kept."""

    def __init__(self, home: Path, server: StubServer, reddit: Reddit) -> None:
        self.home, self.server, self.reddit = home, server, reddit

    def paths(self) -> list[str]:
        """What was asked, in order."""
        return [path for path, _ in self.server.asked]


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """Reddit as a stub that checks tokens, patient for seconds only."""
    reddit = Reddit()
    with serving({"/token": reddit.token}) as server, living_in(tmp_path / "home", source="live"):

        def signed_in(route: Any) -> Any:
            def answer(query: Mapping[str, str]) -> Reply:
                if server.headers[-1].get("Authorization") != f"Bearer {reddit.valid}":
                    return Reply.of_json({"message": "Unauthorized", "error": 401}, status=401)
                reply: Reply = route(query)
                return reply

            return answer

        server.routes |= {"/r/Emory/new": signed_in(reddit.new), "/api/info": signed_in(reddit.info)}
        for name, value in {
            "TRIPTYCH_REDDIT_SUBREDDITS": "Emory",
            "TRIPTYCH_REDDIT_CLIENT_ID": "an-app",
            "TRIPTYCH_REDDIT_CLIENT_SECRET": SECRET,
            "TRIPTYCH_REDDIT_URL": server.url,
            "TRIPTYCH_REDDIT_TOKEN_URL": server.url + "/token",
            "TRIPTYCH_HTTP_ATTEMPTS": "2",
            "TRIPTYCH_HTTP_TIMEOUT_SECONDS": "2",
            "TRIPTYCH_HTTP_LONGEST_PAUSE_SECONDS": "0.01",
            "TRIPTYCH_HTTP_PATIENCE_SECONDS": "5",
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("flows.reddit.live.REQUESTS_PER_SECOND", 500)
        yield Services(tmp_path / "home", server, reddit)
