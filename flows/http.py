"""One polite HTTP client for all live sources: retries, rate limit, time-outs, secrets kept, raw answers kept."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from featurestore.errors import FeatureStoreError, InvalidData, NotFound
from flows import windows

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
USER_AGENT = "triptych/0.1 (machine learning pipelines; asks politely)"
HIDDEN = b"***"


class HttpSettings(BaseSettings):
    """How patient all live sources are, from `TRIPTYCH_HTTP_*` in the environment.

    Args:
        timeout_seconds: how long a service may be silent before the attempt counts as failed.
        attempts: how often a request is made before the service counts as down.
        patience_seconds: how long all attempts together may take; a service that asks for more is not waited for.
        longest_pause_seconds: the longest pause between two attempts that the service did not ask for.
        replay: answer from what was kept, never from the network.

    >>> HttpSettings(attempts=2).timeout_seconds
    30.0
    """

    model_config = SettingsConfigDict(
        env_prefix="TRIPTYCH_HTTP_", env_ignore_empty=True, extra="forbid", frozen=True
    )  # fmt: skip

    timeout_seconds: float = 30.0
    attempts: int = 5
    patience_seconds: float = 120.0
    longest_pause_seconds: float = 20.0
    replay: bool = False


# --- errors ------------------------------------------------------------------------------------------


class LiveSourceError(FeatureStoreError):
    """A live source did not give what was asked for. Nothing was written; the next run asks for the same window."""


class ServiceUnavailable(LiveSourceError, RuntimeError):
    """The service is down, too slow, breaks off its answers, or fails by itself (HTTP 5xx), attempt after attempt."""


class TooManyRequests(ServiceUnavailable):
    """The service asks to come back later (HTTP 429); `retry_after_seconds` says when, None if it did not say."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class RequestRefused(LiveSourceError, RuntimeError):
    """The service refuses this request (HTTP 4xx): asking again would change nothing.

    `status` and `content` are its answer: some services say in there that they have nothing, which is no error.
    """

    def __init__(self, message: str, status: int, content: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.content = content


class UnexpectedAnswer(LiveSourceError, InvalidData):
    """The service answered, but not with what it is known to answer: half of it, another unit, another day."""


# --- answers -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a service answered: the request without secrets, status, raw bytes, and when it was asked (UTC)."""

    service: str
    url: str
    params: Mapping[str, str]
    status: int
    content: bytes
    asked_at: datetime

    def __str__(self) -> str:
        query = "&".join(f"{name}={value}" for name, value in self.params.items())
        return f"{self.service} {self.url}" + (f"?{query}" if query else "")

    @property
    def text(self) -> str:
        """The content as UTF-8 text.

        Raises:
            UnexpectedAnswer: it is not UTF-8.
        """
        try:
            return self.content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UnexpectedAnswer(f"{self} is not UTF-8 text: {error}. Look at its raw answer in bronze/.") from error

    def json(self) -> Any:
        """The content as JSON.

        Raises:
            UnexpectedAnswer: it is not JSON, such as half an answer or a page that says "maintenance".
        """
        try:
            return json.loads(self.content)
        except ValueError as error:
            raise UnexpectedAnswer(
                f"{self} is not JSON but {_beginning(self.content)} ({error}). The service may be in maintenance, or "
                "the answer was cut. Run again later; nothing was written."
            ) from error


class Bronze:
    """Raw answers below a folder: each body once, by its hash; beside it who was asked for what and when.

    >>> import tempfile
    >>> bronze = Bronze(Path(tempfile.mkdtemp()))
    >>> bronze.keep(Answer("demo", "/a", {}, 200, b"first", datetime(2026, 1, 1, tzinfo=UTC)))
    >>> bronze.keep(Answer("demo", "/a", {}, 200, b"later", datetime(2026, 1, 2, tzinfo=UTC)))
    >>> bronze.newest("demo", "/a", {}).content
    b'later'
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, answer: Answer) -> None:
        """Write the answer down; the same answer again takes no further room."""
        digest = hashlib.sha256(answer.content).hexdigest()
        body = self._body(digest)
        if not body.exists():
            _write(body, answer.content)
        about = {
            "service": answer.service,
            "url": answer.url,
            "params": dict(answer.params),
            "status": answer.status,
            "asked_at": answer.asked_at.isoformat(),
            "content_sha256": digest,
        }
        folder = self._requests(answer.service, answer.url, answer.params)
        name = f"{answer.asked_at.astimezone(UTC):%Y%m%dT%H%M%S.%f}-{digest[:8]}.json"
        _write(folder / name, json.dumps(about, indent=1, sort_keys=True).encode())

    def newest(self, service: str, url: str, params: Mapping[str, str]) -> Answer:
        """The newest successful answer to this request; where there never was one, the newest refusal (HTTP 4xx).

        A refusal of our key, or for asking too often, is not one: it says nothing about what was asked.

        Raises:
            NotFound: none was kept.
        """
        folder = self._requests(service, url, params)
        kept = [json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"), reverse=True)]
        answered = [about for about in kept if about["status"] < 400]
        refused = [about for about in kept if 400 <= about["status"] < 500 and about["status"] not in (401, 403, 429)]
        for about in [*answered, *refused]:
            content = self._body(about["content_sha256"]).read_bytes()
            asked_at = datetime.fromisoformat(about["asked_at"])
            return Answer(service, url, params, about["status"], content, asked_at)
        raise NotFound(
            f"No answer of {service} to {url} {dict(params)} is kept in {self.folder}, and TRIPTYCH_HTTP_REPLAY allows "
            "no network. Unset it, or replay a window that was read before."
        )

    def _body(self, digest: str) -> Path:
        return self.folder / "bodies" / digest[:2] / digest

    def _requests(self, service: str, url: str, params: Mapping[str, str]) -> Path:
        asked = json.dumps([url, sorted(params.items())])
        return self.folder / "requests" / service / hashlib.sha256(asked.encode()).hexdigest()[:32]


# --- the client --------------------------------------------------------------------------------------


class Client:
    """Asks one service, at most so many times a second, and keeps what it answers.

    Args:
        service: its name, for messages and for the folder of its answers.
        base_url: what paths are appended to; a test's stub, a mirror or a proxy may stand in.
        bronze: where raw answers are kept.
        secret: query parameters that nobody may see, such as {"api_key": ...}. They join the request on the wire and
            are nowhere else: not in URLs that are logged, not in messages, not in what is kept. A redirect to another
            host does not get them.
        bearer: a token for the header `Authorization: Bearer ...`, guarded in the same way.
        sign_in: gives such a token where one has to be asked for first, such as `client_credentials`: called before the
            first request, and once more when the service no longer takes the token (HTTP 401).
        per_second: requests a second; the next one waits.
        as_browser: shake hands and name ourselves as a browser does: some services refuse all others by that. Nothing
            else changes: as few requests, as patient.
        user_agent: how we name ourselves where a service wants a name of its own for each client.
        settings: default: the environment's.
    """

    def __init__(
        self,
        service: str,
        *,
        base_url: str,
        bronze: Bronze,
        secret: Mapping[str, SecretStr] | None = None,
        bearer: SecretStr | None = None,
        sign_in: Callable[[], SecretStr] | None = None,
        per_second: float = 2.0,
        as_browser: bool = False,
        user_agent: str = USER_AGENT,
        settings: HttpSettings | None = None,
    ) -> None:
        import httpx

        self.service = service
        self.base_url = base_url.rstrip("/")
        self.settings = settings or HttpSettings()
        self._bronze = bronze
        query = {name: value.get_secret_value() for name, value in (secret or {}).items()}
        self._token = "" if bearer is None else bearer.get_secret_value()
        self._sign_in = sign_in
        self._hidden = [value for value in (*query.values(), self._token) if value]
        self._pause_seconds = 1 / per_second
        self._free_at = 0.0
        self._lock = Lock()
        self._http = httpx.Client(
            transport=_joining(
                query,
                lambda: self._token,
                httpx.URL(self.base_url),
                _browser() if as_browser else httpx.HTTPTransport(),
            ),
            timeout=self.settings.timeout_seconds,
            headers={"User-Agent": user_agent},
            follow_redirects=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def get(self, path: str, params: Mapping[str, object] | None = None) -> Answer:
        """The service's answer to GET, tried again while that may help.

        Args:
            path: appended to the base URL.
            params: query parameters; values are written as text, a None is left out.
        Raises:
            ServiceUnavailable: down, slow, broken off or HTTP 5xx, after all attempts.
            TooManyRequests: HTTP 429 until patience ended, or for longer than patience.
            RequestRefused: any other HTTP 4xx; not tried again.
            NotFound: replaying, and this was never answered.
        """
        url = f"{self.base_url}/{path.lstrip('/')}"
        asked = {name: str(value) for name, value in (params or {}).items() if value is not None}
        if self.settings.replay:
            answer = self._bronze.newest(self.service, url, asked)
            _refuse_for_good(answer)
            return answer
        return _patiently(lambda: self._ask(url, asked), self.settings)

    def _ask(self, url: str, params: Mapping[str, str]) -> Answer:
        if self._sign_in is not None and not self._token:
            self._renew_token(self._sign_in)
        answer, response = self._once(url, params)
        if response.status_code == 401 and self._sign_in is not None:  # tokens expire, also between two pages
            self._renew_token(self._sign_in)
            answer, response = self._once(url, params)
        _check(answer, response, self.settings)
        return answer

    def _renew_token(self, sign_in: Callable[[], SecretStr]) -> None:
        self._token = sign_in().get_secret_value()
        self._hidden.append(self._token)

    def _once(self, url: str, params: Mapping[str, str]) -> tuple[Answer, httpx.Response]:
        import httpx

        self._wait_for_turn()
        asked_at = windows.now()
        try:
            response = self._http.get(url, params=params)
        except httpx.TransportError as error:
            # `from None`: the cause is told in words, and a chain of library frames would hold the wire's request.
            said = self._clean(str(error) or type(error).__name__)
            raise _silent(self.service, url, said, self.settings) from None
        content = self._clean_bytes(response.content)
        answer = Answer(self.service, url, params, response.status_code, content, asked_at)
        self._bronze.keep(answer)
        self._heed(response)
        return answer, response

    def _heed(self, response: httpx.Response) -> None:
        """Wait with the next request when the service says that this was the last one for now."""
        left = _number(response.headers.get("x-ratelimit-remaining"))
        reset_seconds = _number(response.headers.get("x-ratelimit-reset"))
        if left is not None and left < 1 and reset_seconds is not None:
            with self._lock:
                self._free_at = max(self._free_at, time.monotonic() + reset_seconds)

    def _wait_for_turn(self) -> None:
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._free_at)
            if turn - now > self.settings.patience_seconds:
                raise TooManyRequests(
                    f"{self.service} has no more requests for us for {turn - now:.0f} s; we wait up to "
                    f"{self.settings.patience_seconds:g} s (TRIPTYCH_HTTP_PATIENCE_SECONDS). The next scheduled run "
                    "covers this window too.",
                    turn - now,
                )
            self._free_at = turn + self._pause_seconds
        time.sleep(turn - now)

    def _clean(self, text: str) -> str:
        return self._clean_bytes(text.encode()).decode(errors="replace")

    def _clean_bytes(self, content: bytes) -> bytes:
        # Some services echo the request, key included.
        for value in self._hidden:
            content = content.replace(value.encode(), HIDDEN)
        return content


def client_credentials(
    service: str,
    *,
    url: str,
    client_id: str,
    client_secret: SecretStr,
    user_agent: str = USER_AGENT,
    settings: HttpSettings | None = None,
) -> SecretStr:
    """An access token by OAuth's client credentials: POST with the id and the secret as HTTP Basic.

    The answer holds a secret, so it is kept nowhere and no message quotes it.

    Raises:
        ServiceUnavailable: down, slow, or HTTP 5xx, after all attempts.
        TooManyRequests: HTTP 429 until patience ended, or for longer than patience.
        RequestRefused: id or secret are wrong, or any other HTTP 4xx.
        UnexpectedAnswer: an answer without a token; the message has the names in it, never the values.
    """
    import httpx

    chosen = settings or HttpSettings()

    def ask() -> SecretStr:
        asked_at = windows.now()
        try:
            response = httpx.post(
                url, data={"grant_type": "client_credentials"}, auth=(client_id, client_secret.get_secret_value()),
                headers={"User-Agent": user_agent}, timeout=chosen.timeout_seconds,
            )  # fmt: skip
        except httpx.TransportError as error:
            raise _silent(service, url, type(error).__name__, chosen) from None
        _check(Answer(service, url, {}, response.status_code, b"(not shown)", asked_at), response, chosen)
        try:
            body = response.json()
        except ValueError:
            body = None
        token = body.get("access_token") if isinstance(body, dict) else None
        if not isinstance(token, str) or not token:
            held = sorted(body) if isinstance(body, dict) else "no object"
            raise UnexpectedAnswer(
                f"{service} {url} gave no access_token but {held}. Check client id, secret and base URL."
            )
        return SecretStr(token)

    return _patiently(ask, chosen)


def _patiently(ask: Callable[[], T], settings: HttpSettings) -> T:
    """What asking gives, tried again while that may help."""
    import stamina

    def pause_after(error: Exception) -> bool | float:
        # Whether another attempt may help, and how long the service asks us to wait before.
        if isinstance(error, TooManyRequests) and error.retry_after_seconds is not None:
            wait = error.retry_after_seconds
            return wait if wait <= settings.patience_seconds else False
        return isinstance(error, ServiceUnavailable)

    for attempt in stamina.retry_context(
        on=pause_after,
        attempts=settings.attempts,
        timeout=settings.patience_seconds,
        wait_max=settings.longest_pause_seconds,
        wait_initial=min(0.5, settings.longest_pause_seconds),
        wait_jitter=min(1.0, settings.longest_pause_seconds),
    ):
        with attempt:
            return ask()
    raise AssertionError("the loop ends with an answer or by raising")


def _silent(service: str, url: str, said: str, settings: HttpSettings) -> ServiceUnavailable:
    return ServiceUnavailable(
        f"{service} at {url} does not answer: {said}. {settings.attempts} attempts of {settings.timeout_seconds:g} s "
        "each. Run again later: nothing was written, and the next run covers this window too."
    )


def _check(answer: Answer, response: httpx.Response, settings: HttpSettings) -> None:
    status, said = answer.status, _beginning(answer.content)
    if status == 429:
        wait = _retry_after_seconds(response.headers.get("Retry-After"), answer.asked_at)
        asks = "later" if wait is None else f"in {wait:.0f} s"
        raise TooManyRequests(
            f"{answer} was asked too often (HTTP 429) and wants us back {asks}; we wait up to "
            f"{settings.patience_seconds:g} s (TRIPTYCH_HTTP_PATIENCE_SECONDS). The next scheduled run covers "
            "this window too.",
            wait,
        )
    if status >= 500:
        raise ServiceUnavailable(f"{answer} failed by itself (HTTP {status}, {said}). Run again later.")
    if status in (401, 403):
        raise RequestRefused(
            f"{answer} refuses our key or has none (HTTP {status}, {said}). Check the service's API key in the "
            "environment.",
            status,
            answer.content,
        )
    _refuse_for_good(answer)


def _joining(
    query: Mapping[str, str], token: Callable[[], str], base: httpx.URL, transport: httpx.BaseTransport
) -> httpx.BaseTransport:
    """A transport that adds secrets below everything that logs: httpx writes the URL of each request it is given."""
    import httpx

    class Joining(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if (request.url.scheme, request.url.netloc) == (base.scheme, base.netloc):  # else we were sent elsewhere
                url = request.url.copy_merge_params(query) if query else request.url
                bearer = token()
                given = [(b"Authorization", b"Bearer " + bearer.encode())] if bearer else []
                headers = [*request.headers.raw, *given]
                request = httpx.Request(
                    request.method, url, headers=headers, stream=request.stream, extensions=request.extensions
                )
            return transport.handle_request(request)

        def close(self) -> None:
            transport.close()

    return Joining()


def _browser() -> httpx.BaseTransport:
    """A transport whose TLS handshake and headers are those of a browser (curl_cffi)."""
    import httpx
    from curl_cffi import requests

    class Browser(httpx.BaseTransport):
        def __init__(self) -> None:
            self._session: requests.Session[requests.Response] = requests.Session(impersonate="chrome")

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            timeout = request.extensions["timeout"]["read"]
            try:
                # The browser's own headers, not ours: a handshake and a User-Agent that disagree are refused, too.
                answer = self._session.get(
                    str(request.url), timeout=timeout, allow_redirects=False,
                    headers={name: request.headers[name] for name in ("Authorization",) if name in request.headers},
                )  # fmt: skip
            except requests.exceptions.Timeout as error:
                raise httpx.ReadTimeout(str(error), request=request) from error
            except requests.exceptions.RequestException as error:
                raise httpx.ConnectError(str(error), request=request) from error
            # The content comes decoded: what says how it was packed is no longer true.
            packed = {"content-encoding", "content-length", "transfer-encoding"}
            kept = [(name, value) for name, value in answer.headers.items() if value and name.lower() not in packed]
            return httpx.Response(answer.status_code, headers=kept, content=answer.content, request=request)

        def close(self) -> None:
            self._session.close()

    return Browser()


def _refuse_for_good(answer: Answer) -> None:
    if answer.status >= 400:
        raise RequestRefused(
            f"{answer} is refused (HTTP {answer.status}, {_beginning(answer.content)}). Asking again changes nothing: "
            "check path, dates and parameters, or whether the service has moved.",
            answer.status,
            answer.content,
        )


def _retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """What the header asks for: seconds, or a date.

    >>> now = datetime(2026, 1, 1, tzinfo=UTC)
    >>> _retry_after_seconds("120", now), _retry_after_seconds("Thu, 01 Jan 2026 00:01:00 GMT", now)
    (120.0, 60.0)
    >>> _retry_after_seconds("soon", now) is None
    True
    """
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, (parsedate_to_datetime(header) - now).total_seconds())
    except (TypeError, ValueError):  # neither form: as if it had said nothing
        return None


def _number(header: str | None) -> float | None:
    """A header's number, such as "598.0"; None where it is none.

    >>> _number("598.0"), _number("many"), _number(None)
    (598.0, None, None)
    """
    try:
        return None if header is None else float(header)
    except ValueError:
        return None


def _beginning(content: bytes) -> str:
    text = " ".join(content[:200].decode(errors="replace").split())
    return repr(text[:120] + ("..." if len(text) > 120 or len(content) > 200 else ""))


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)
