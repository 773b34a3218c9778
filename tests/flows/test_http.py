"""The client of live sources against a real server that gives every trouble there is."""

from __future__ import annotations

import gzip
import json
import logging
import time
import traceback
from pathlib import Path

import pytest
from pydantic import SecretStr

from featurestore.errors import FeatureStoreError, NotFound
from flows import retries
from flows.http import (
    Bronze,
    Client,
    HttpSettings,
    RequestRefused,
    ServiceUnavailable,
    TooManyRequests,
    UnexpectedAnswer,
)
from tests.flows.stub_server import Reply, StubServer, serving

CANARY = "canary-4711-do-not-show"
FAST = HttpSettings(timeout_seconds=2, attempts=3, patience_seconds=5, longest_pause_seconds=0.01)


def client(server: StubServer, folder: Path, *, settings: HttpSettings = FAST, secret: bool = False) -> Client:
    hidden = {"api_key": SecretStr(CANARY)} if secret else None
    return Client(
        "stub", base_url=server.url, bronze=Bronze(folder), secret=hidden, per_second=500, settings=settings
    )  # fmt: skip


def test_answer_is_kept_with_its_request_and_can_be_replayed_with_the_network_off(tmp_path: Path) -> None:
    """F19: raw payloads are kept, so that features can be rebuilt with the network off."""
    with serving({"/data": lambda query: Reply.of_json({"asked": query})}) as server:
        first = client(server, tmp_path).get("/data", {"day": "2026-01-01", "none": None})
        address = server.url
    assert first.json() == {"asked": {"day": "2026-01-01"}}
    (about,) = (json.loads(path.read_text()) for path in tmp_path.glob("requests/stub/*/*.json"))
    assert (about["status"], about["params"], about["url"]) == (200, {"day": "2026-01-01"}, f"{address}/data")

    offline = Client(
        "stub", base_url=address, bronze=Bronze(tmp_path), settings=HttpSettings(replay=True)
    )  # nobody listens there any more
    assert offline.get("/data", {"day": "2026-01-01"}) == first
    with pytest.raises(NotFound, match="TRIPTYCH_HTTP_REPLAY allows no network"):
        offline.get("/data", {"day": "2026-01-02"})


def test_same_content_is_kept_once_and_every_request_for_it_is_noted(tmp_path: Path) -> None:
    with serving({"/data": Reply(body=b"same")}) as server:
        for _ in range(3):
            client(server, tmp_path).get("/data")
    assert len(list(tmp_path.glob("bodies/*/*"))) == 1
    assert len(list(tmp_path.glob("requests/stub/*/*.json"))) == 3


def test_service_that_fails_and_recovers_is_asked_again(tmp_path: Path) -> None:
    with serving({"/data": Reply(body=b"good")}) as server:
        server.troubles.extend([Reply(503), Reply(body=b"half", promised=100)])
        assert client(server, tmp_path).get("/data").content == b"good"
    assert len(server.asked) == 3


def test_service_that_stays_down_says_what_to_do_and_is_not_asked_for_ever(tmp_path: Path) -> None:
    with serving({"/data": Reply(500, b"oops")}) as server:
        with pytest.raises(ServiceUnavailable, match=r"HTTP 500, 'oops'.*Run again later"):
            client(server, tmp_path).get("/data")
        assert len(server.asked) == 3
        address = server.url
    gone = Client("stub", base_url=address, bronze=Bronze(tmp_path), settings=FAST)
    with pytest.raises(ServiceUnavailable, match=r"does not answer.*the next run covers this window too"):
        gone.get("/data")


def test_slow_service_is_given_up(tmp_path: Path) -> None:
    settings = HttpSettings(timeout_seconds=0.1, attempts=2, longest_pause_seconds=0.01)
    with (
        serving({"/data": Reply(body=b"late", delay_seconds=0.5)}) as server,
        pytest.raises(ServiceUnavailable, match="timed out"),
    ):
        client(server, tmp_path, settings=settings).get("/data")


def test_answer_broken_off_in_the_middle_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    with (
        serving({"/data": Reply(body=b'{"a": 1', promised=50)}) as server,
        pytest.raises(ServiceUnavailable),
    ):
        client(server, tmp_path).get("/data")
    assert not (tmp_path / "bodies").exists()


def test_half_an_answer_of_the_announced_length_is_refused_as_json(tmp_path: Path) -> None:
    with (
        serving({"/data": Reply(body=b'{"hourly": {"time": ["2026')}) as server,
        pytest.raises(UnexpectedAnswer, match=r"is not JSON.*answer was cut"),
    ):
        client(server, tmp_path).get("/data").json()


def test_service_that_asks_for_a_pause_gets_it(tmp_path: Path) -> None:
    with serving({"/data": Reply(body=b"good")}) as server:
        server.troubles.append(Reply(429, headers={"Retry-After": "1"}))
        began = time.monotonic()
        assert client(server, tmp_path).get("/data").content == b"good"
        assert time.monotonic() - began >= 1


def test_service_that_wants_us_back_in_an_hour_is_not_waited_for(tmp_path: Path) -> None:
    with serving({"/data": Reply(429, headers={"Retry-After": "3600"})}) as server:
        with pytest.raises(TooManyRequests, match=r"wants us back in 3600 s; we wait up to 5 s") as caught:
            client(server, tmp_path).get("/data")
        assert len(server.asked) == 1
    assert caught.value.retry_after_seconds == 3600


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_refusal_is_not_asked_again(tmp_path: Path, status: int) -> None:
    """F19: 4xx is not retried, but 429."""
    with serving({"/data": Reply(status, b"bad facet")}) as server:
        with pytest.raises(RequestRefused, match=rf"HTTP {status}, 'bad facet'") as caught:
            client(server, tmp_path).get("/data")
        assert len(server.asked) == 1
    assert caught.value.status == status


def test_errors_are_kept_but_never_replayed_where_there_was_a_success(tmp_path: Path) -> None:
    with serving({"/data": Reply(body=b"good")}) as server:
        good = client(server, tmp_path).get("/data")
        server.troubles.append(Reply(404, b"gone"))
        with pytest.raises(RequestRefused):
            client(server, tmp_path).get("/data")
    offline = Client("stub", base_url=server.url, bronze=Bronze(tmp_path), settings=HttpSettings(replay=True))
    assert offline.get("/data") == good
    assert len(list(tmp_path.glob("bodies/*/*"))) == 2


def test_refusal_is_replayed_where_there_never_was_an_answer(tmp_path: Path) -> None:
    """Some services refuse what they do not have: reading the same window again must meet the same refusal."""
    with serving(
        {"/none": Reply(400, b"no such sensor"), "/busy": Reply(429, headers={"Retry-After": "900"})}
    ) as server:
        for path in ("/none", "/busy"):
            with pytest.raises((RequestRefused, TooManyRequests)):
                client(server, tmp_path).get(path)
    offline = Client("stub", base_url=server.url, bronze=Bronze(tmp_path), settings=HttpSettings(replay=True))
    with pytest.raises(RequestRefused) as refused:
        offline.get("/none")
    assert refused.value.content == b"no such sensor"
    with pytest.raises(NotFound, match="No answer of stub"):
        offline.get("/busy")


def test_secret_reaches_the_service_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """F20: a canary in logs, messages, answers and files."""
    caplog.set_level(logging.DEBUG)
    said = []
    with serving({"/data": lambda query: Reply.of_json({"request": query, "data": []})}) as server:
        asking = client(server, tmp_path, secret=True)
        answer = asking.get("/data", {"day": "2026-01-01"})
        said += [str(answer), repr(answer), answer.text, repr(asking.__dict__["_http"])]
        for trouble in (Reply(403, f"invalid key {CANARY}".encode()), Reply(500), Reply(500), Reply(500)):
            server.troubles.append(trouble)
        for error in (RequestRefused, ServiceUnavailable):
            with pytest.raises(error) as caught:
                asking.get("/data")
            said += [str(caught.value), repr(caught.value), repr(caught.value.__cause__)]
        assert all(query.get("api_key") == CANARY for _, query in server.asked)
    with pytest.raises(ServiceUnavailable) as caught:
        asking.get("/data")
    said += [str(caught.value), repr(caught.value.__cause__), caplog.text]
    assert "HTTP Request" in caplog.text  # httpx did log: the canary had its chance
    assert not [text for text in said if CANARY in text]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_bearer_token_reaches_the_service_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """F20: as above, for the header. httpcore logs at the level of bytes, and gets it neither."""
    caplog.set_level(logging.DEBUG)
    with serving({"/data": Reply.of_json({"you sent": f"Bearer {CANARY}"})}) as server:
        asking = Client(
            "stub",
            base_url=server.url,
            bronze=Bronze(tmp_path),
            bearer=SecretStr(CANARY),
            per_second=500,
            settings=FAST,
        )
        answer = asking.get("/data")
        server.troubles.append(Reply(401, f"bad token {CANARY}".encode()))
        with pytest.raises(RequestRefused, match="refuses our key") as caught:
            asking.get("/data")
    assert [each["Authorization"] for each in server.headers] == [f"Bearer {CANARY}"] * 2
    said = [str(answer), repr(answer), str(caught.value), repr(caught.value.__cause__), repr(asking.__dict__["_http"])]
    assert not [text for text in [*said, caplog.text] if CANARY in text]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_redirect_to_another_host_does_not_take_the_secrets_along(tmp_path: Path) -> None:
    with serving({"/data": Reply(body=b"elsewhere")}) as other, serving() as server:
        server.routes["/data"] = Reply(302, headers={"Location": f"{other.url}/data"})
        asking = Client(
            "stub", base_url=server.url, bronze=Bronze(tmp_path), secret={"api_key": SecretStr(CANARY)},
            bearer=SecretStr(CANARY), settings=FAST,
        )  # fmt: skip
        assert asking.get("/data").content == b"elsewhere"
    assert server.asked == [("/data", {"api_key": CANARY})]
    assert other.asked == [("/data", {})]
    assert "Authorization" not in other.headers[0]


def test_requests_keep_their_distance(tmp_path: Path) -> None:
    with serving({"/data": Reply(body=b"good")}) as server:
        polite = Client("stub", base_url=server.url, bronze=Bronze(tmp_path), per_second=20, settings=FAST)
        began = time.monotonic()
        for _ in range(4):
            polite.get("/data")
        assert time.monotonic() - began >= 3 / 20


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_HTTP_ATTEMPTS", "7")
    assert HttpSettings().attempts == 7


def test_no_task_asks_again_what_the_client_has_asked_in_vain() -> None:
    assert not retries.worth_retrying(ServiceUnavailable("down"))
    assert isinstance(TooManyRequests("later"), FeatureStoreError)


# --- as a browser -------------------------------------------------------------------------------------


def test_client_as_browser_names_itself_as_one_and_is_the_same_client_in_all_else(tmp_path: Path) -> None:
    """Secrets, retries, redirects, packed answers, what is kept and what is said: as without."""
    packed = Reply(200, gzip.compress(b"[1, 2]"), {"Content-Encoding": "gzip"})
    with serving({"/data": packed, "/moved": Reply(302, b"", {"Location": "/data"})}) as server:
        ordinary = client(server, tmp_path / "a", secret=True)
        browser = Client(
            "stub", base_url=server.url, bronze=Bronze(tmp_path / "b"), secret={"api_key": SecretStr(CANARY)},
            per_second=500, as_browser=True, settings=FAST,
        )  # fmt: skip
        server.troubles.extend([Reply(503), Reply(429)])
        assert browser.get("/moved").json() == ordinary.get("/moved").json() == [1, 2]
        assert {query["api_key"] for _, query in server.asked if query} == {CANARY}
        assert {headers["User-Agent"].partition("/")[0] for headers in server.headers} == {"Mozilla", "triptych"}
        server.troubles.append(Reply(404))
        with pytest.raises(RequestRefused, match="HTTP 404"):
            browser.get("/data")
        address = server.url
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert CANARY.encode() not in kept
    with pytest.raises(ServiceUnavailable, match="does not answer") as failure:
        browser.get("/data")
    assert CANARY not in "".join(traceback.format_exception(failure.value))
    assert address in str(failure.value)


def test_client_as_browser_gives_up_on_a_silent_service(tmp_path: Path) -> None:
    with serving({"/data": Reply(delay_seconds=1)}) as server:
        silent = HttpSettings(timeout_seconds=0.1, attempts=2, patience_seconds=5, longest_pause_seconds=0.01)
        browser = Client("stub", base_url=server.url, bronze=Bronze(tmp_path), as_browser=True, settings=silent)
        with pytest.raises(ServiceUnavailable, match="does not answer"):
            browser.get("/data")
        assert len(server.asked) == 2
