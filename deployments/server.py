"""The inference server: answers requests with the champions, over HTTP, and keeps what it said.

    python -m deployments.server        http://127.0.0.1:8000, its description on /docs

One process, on localhost unless told otherwise. `ServerSettings` lists what can be set.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hmac
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Annotated, Any

import orjson
import typer
from fastapi import APIRouter, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from pydantic import BaseModel, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

import featurestore
from deployments import answers, request_models
from deployments.champions import Champions, Served
from deployments.request_journal import Journal
from deployments.server_metrics import Metrics
from featurestore.errors import FeatureStoreError, InvalidData, InvalidTime, JoinError, NotFound, SchemaMismatch
from flows import registry, systems, windows
from flows.settings import Settings

logger = logging.getLogger("triptych.server")

MOST_AT_ONCE = 1_000
"""Requests, entries or rows in one call: more belong into a batch."""

THREADS = 4
"""They wait for the online store; Python computes in one of them at a time."""


class ServerSettings(BaseSettings):
    """Settings of the server, from arguments or `TRIPTYCH_SERVER_*` in the environment.

    Args:
        host: what it listens on. Anything but localhost should come with a token.
        port: where it listens.
        token: what callers send as `Authorization: Bearer <token>`; without one anybody who reaches it may ask.
        rate: how often one caller (address) may ask, such as "600/minute"; empty for no limit.
        most_bytes: the largest body.
        timeout_seconds: how long a caller waits at most.
        watch_seconds: how often it looks for a new champion.
        keep_seconds: how long answers wait at most before they are moved into the store.
    """

    model_config = SettingsConfigDict(env_prefix="TRIPTYCH_SERVER_", env_ignore_empty=True, extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    port: int = 8000
    token: SecretStr | None = None
    rate: str = ""
    most_bytes: Annotated[int, Field(gt=0)] = 1_000_000
    timeout_seconds: Annotated[float, Field(gt=0)] = 10.0
    watch_seconds: Annotated[float, Field(gt=0)] = 2.0
    keep_seconds: Annotated[float, Field(gt=0)] = 5.0


class JSON(Response):
    """JSON by orjson, which knows times and numpy's numbers, and writes NaN as null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The content as JSON."""
        return orjson.dumps(content, default=str, option=orjson.OPT_SERIALIZE_NUMPY)


class Server:
    """What all requests share: the store, the predictors, the journal of answers.

    Args:
        settings: where store and registry are.
        own: the server's own settings.
    """

    def __init__(self, settings: Settings, own: ServerSettings) -> None:
        self.settings, self.own = settings, own
        self.store = featurestore.connect(home=settings.store_home, clock=windows.now)
        self.champions = Champions(settings, watch_seconds=own.watch_seconds)
        self.metrics = Metrics()
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="answer")
        self.journal: Journal | None = None
        self._views: dict[tuple[str, int, int], Any] = {}

    def start(self) -> None:
        """Load the champions and open the journal."""
        folder = self.settings.home / "server" / "journal"
        self.journal = Journal(folder, self._keep, every_seconds=self.own.keep_seconds)
        self.champions.start()

    def close(self) -> None:
        """Move the last answers into the store, and stop."""
        self.threads.shutdown(wait=True)
        self.champions.close()
        if self.journal is not None:
            self.journal.close()

    async def run(self, work: Callable[[], Any]) -> Any:
        """Do something slow in a thread; raise 504 when the caller would wait too long."""
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(loop.run_in_executor(self.threads, work), self.own.timeout_seconds)
        except TimeoutError:
            raise HTTPException(504, f"No answer within {self.own.timeout_seconds:g} s. Ask again, or less.") from None

    def answer(self, system: str, inputs: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
        """One answer, kept in the journal before it is given.

        Args:
            inputs: the fields as the predictor takes them.
            asked: the same, JSON-ready.
        """
        served = self.champions.of(system)
        began = time.perf_counter()
        prediction = dataclasses.asdict(served.predictor.predict(inputs))
        milliseconds = 1000 * (time.perf_counter() - began)
        features, degraded, why = (prediction.pop(name) for name in ("features", "degraded", "why"))
        answer = {
            "request_id": uuid.uuid4().hex,
            "answered_at": windows.now().isoformat(),
            "system": system,
            "prediction": prediction,
            "models": models_of(served),
            "degraded": degraded,
            "why": why,
            "milliseconds": round(milliseconds, 3),
        }
        self.metrics.answered(system, milliseconds / 1000, degraded=degraded)
        return answer | {"logged": self._log(answers.record(answer, asked, features))}

    def vectors(self, view: str, asked: request_models.Vectors) -> dict[str, Any]:
        """Feature vectors of a view for many keys."""
        found = self._view(view, asked.version, asked.training_dataset_version)
        vectors = found.get_feature_vectors(
            asked.entries, asked.passed_features, request_parameters=asked.request_parameters,
            transform=asked.transform, allow_missing=asked.allow_missing, return_type="dict",
        )  # fmt: skip
        return {"view": found.name, "version": found.version, "vectors": vectors}

    def _view(self, name: str, version: int | None, dataset: int | None) -> Any:
        """A view made ready to serve, once for each training dataset: that takes many times as long as asking."""
        view = self.store.get_feature_view(name, version)
        if dataset is None:
            made = [each.version for each in view.training_datasets()]
            if not made:
                raise NotFound(f"View {name} has no training dataset, so its features have no fitted transformations.")
            dataset = max(made)
        key = (view.name, view.version, dataset)
        if key not in self._views:
            view.init_serving(dataset)
            self._views[key] = view
        return self._views[key]

    def _log(self, record: Mapping[str, Any]) -> bool:
        assert self.journal is not None
        try:
            self.journal.append(record)
        except OSError as error:  # an answer is worth more than its record; it says that it was not kept
            logger.error("The answer %s could not be kept: %s", record["request_id"], error)
            self.metrics.lost()
            return False
        return True

    def _keep(self, records: Sequence[Mapping[str, Any]]) -> None:
        answers.write(self.store, records)


def models_of(served: Served) -> list[dict[str, Any]]:
    """The versions that answered, as an answer names them."""
    return [
        {
            "name": model.name,
            "version": model.version,
            "feature_view": f"{model.lineage.feature_view}@{model.lineage.feature_view_version}",
            "training_dataset_version": model.lineage.training_dataset_version,
        }
        for model in served.predictor.models
    ]


# --- the application ---------------------------------------------------------------------------------


def create_app(settings: Settings, own: ServerSettings | None = None) -> FastAPI:
    """The application; it loads the champions when it starts."""
    own = own or ServerSettings()
    server = Server(settings, own)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(server.start)
        try:
            yield
        finally:
            await asyncio.to_thread(server.close)

    app = FastAPI(
        title="Triptych", version="1", lifespan=lifespan, default_response_class=JSON,
        description="Predictions of the champions, feature vectors, and what was predicted before.",
        responses={422: {"description": "What was asked cannot be meant; `detail` says why.", "model": Refused}},
    )  # fmt: skip
    app.state.server = server
    app.include_router(_health(server))
    for system, request in server.champions.requests.items():
        app.include_router(_predict(server, system, request_models.model_of(system, request), request.example))
    app.include_router(_reading(server))
    app.middleware("http")(_guard(server))
    app.exception_handler(FeatureStoreError)(_refused)
    app.exception_handler(RequestValidationError)(_not_meant)
    return app


class Refused(BaseModel):
    """Why there is no answer."""

    detail: str = Field(description="What was wrong, what was expected, what to do next.")


async def _refused(_: Request, error: Exception) -> Response:
    """An error of the store or a flow as HTTP says it."""
    if isinstance(error, NotFound):
        return JSON({"detail": str(error)}, 404)
    told = SchemaMismatch | InvalidData | InvalidTime | JoinError
    return JSON({"detail": str(error)}, 422 if isinstance(error, told) else 503)


async def _not_meant(_: Request, error: Exception) -> Response:
    """What is wrong with a body or a query, in one sentence for each field."""
    assert isinstance(error, RequestValidationError)
    return JSON({"detail": " ".join(request_models.sentence(each) for each in error.errors())}, 422)


def _guard(server: Server) -> Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]:
    """Who may ask, how much, how often; and what is counted."""
    own = server.own
    token = None if own.token is None else own.token.get_secret_value()
    rate: RateLimitItem | None = parse(own.rate) if own.rate else None
    limiter = MovingWindowRateLimiter(MemoryStorage())

    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if not request.url.path.startswith("/v1/"):
            return await call_next(request)
        began = time.perf_counter()
        response = refuse(request) or await call_next(request)
        route = request.scope.get("route")
        server.metrics.served(getattr(route, "path", "none"), response.status_code, time.perf_counter() - began)
        return response

    def refuse(request: Request) -> Response | None:
        sent = request.headers.get("authorization", "")
        if token is not None and not hmac.compare_digest(sent.encode(), f"Bearer {token}".encode()):
            return JSON(
                {"detail": "Send the server's token as `Authorization: Bearer <token>`."}, 401,
                {"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        if rate is not None and not limiter.hit(rate, request.client.host if request.client else "unknown"):
            wait = rate.get_expiry()
            return JSON({"detail": f"More than {rate}. Wait, and ask again."}, 429, {"Retry-After": str(wait)})
        if request.method == "POST":
            length = request.headers.get("content-length", "")
            if not length.isdecimal():
                return JSON({"detail": "Send a body of known length (Content-Length)."}, 411)
            if int(length) > own.most_bytes:
                return JSON({"detail": f"The body has {length} bytes; at most {own.most_bytes} are taken."}, 413)
        return None

    return guard


def _predict(server: Server, system: str, model: type[BaseModel], example: Mapping[str, Any]) -> APIRouter:
    """The route of one system that answers on request."""
    router = APIRouter(tags=[system])
    one_or_many = request_models.one_or_many(model, most=MOST_AT_ONCE)

    async def predict(asked: Any) -> Any:
        many = asked if isinstance(asked, list) else [asked]

        def work() -> list[dict[str, Any]]:
            found = []
            for place, one in enumerate(many):
                try:
                    found.append(server.answer(system, one.model_dump(), one.model_dump(mode="json")))
                except (SchemaMismatch, InvalidData, InvalidTime) as error:
                    if not isinstance(asked, list):
                        raise
                    raise InvalidData(f"Request {place} of {len(many)}: {error}") from error
            return found

        found = await server.run(work)
        return JSON(found if isinstance(asked, list) else found[0])

    predict.__annotations__["asked"] = one_or_many
    router.post(
        f"/v1/{system}/predict",
        summary=f"Ask the champions of {system}",
        description=f"One request, or a list of up to {MOST_AT_ONCE}: answers come in the same order. Nothing is "
        "answered when one of them cannot be meant.",
        response_model=request_models.answer_model(system),
        openapi_extra={"requestBody": {"content": {"application/json": {"example": dict(example)}}}},
    )(predict)
    return router


def _reading(server: Server) -> APIRouter:
    """Routes that read: models, earlier predictions, feature vectors."""
    router = APIRouter()
    known = systems()

    def check(system: str) -> None:
        if system not in known:
            raise NotFound(f"There is no system {system!r}; there are {', '.join(known)}.")

    @router.post("/v1/{system}/predict", include_in_schema=False)
    async def predict_in_batches(system: str) -> Any:
        check(system)
        raise NotFound(
            f"{system} predicts in batches, on its schedule: GET /v1/{system}/predictions has what it said. "
            f"On request answer {', '.join(server.champions.requests)}."
        )

    @router.get("/v1/{system}/model", summary="The champions of a system: what they came from, what they are worth")
    async def model(system: str) -> Any:
        check(system)
        return JSON(await server.run(lambda: _models(server, system)))

    @router.get("/v1/{system}/predictions", summary="What was predicted in batches, newest first")
    async def predictions(
        system: str,
        limit: Annotated[int, Query(ge=1, le=MOST_AT_ONCE)] = 100,
        days: Annotated[float, Query(gt=0, le=3660, description="How far back from the newest one.")] = 7.0,
        group: Annotated[str | None, Query(description="Which group, where the system has several.")] = None,
    ) -> Any:
        check(system)
        return JSON(await server.run(lambda: _predictions(server, system, group, limit, timedelta(days=days))))

    @router.post("/v1/features/{view}", summary="Feature vectors, as the view's models are given them")
    async def features(view: str, asked: request_models.Vectors) -> Any:
        return JSON(await server.run(lambda: server.vectors(view, asked)))

    return router


def _models(server: Server, system: str) -> list[dict[str, Any]]:
    registry.bootstrap(server.settings)
    found = [registry.champion(name) for name in request_models.models_of(system)]
    if not any(found):
        name = f"{system.replace('_', '-')}-training"
        raise NotFound(f"{system} has no champion yet. Train one: prefect deployment run {name}/{name}.")
    return [
        {
            "name": model.name, "version": model.version, "created": model.created, "aliases": model.aliases,
            "decision": model.decision, "history": model.history, "metrics": dict(model.metrics),
            "lineage": {**dataclasses.asdict(model.lineage), "training_window": str(model.lineage.training_window)},
        }
        for model in found
        if model is not None
    ]  # fmt: skip


def _predictions(server: Server, system: str, name: str | None, limit: int, span: timedelta) -> dict[str, Any]:
    names = request_models.prediction_groups(system)
    if name is not None and name not in names:
        raise NotFound(f"{system} has no predictions {name!r}; it has {', '.join(names)}.")
    group = server.store.get_feature_group(name or names[0], 1)
    if group.watermark is None:
        raise NotFound(f"{group.name} is empty: nothing was predicted yet.")
    rows = group.read(start_time=group.watermark - span, dataframe_type="arrow")
    newest = rows.slice(max(0, rows.num_rows - limit)).to_pylist()[::-1]
    return {"group": group.name, "watermark": group.watermark, "rows": newest}


def _health(server: Server) -> APIRouter:
    """Whether it lives, whether it can answer, and what it counts."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz", summary="Whether the process answers")
    async def healthz() -> Any:
        return JSON({"status": "alive"})

    @router.get("/readyz", summary="Whether a system can be asked; 503 when none can")
    async def readyz() -> Any:
        loaded = {system: served.versions for system, served in server.champions.now().items()}
        ready = bool(loaded)
        body = {"status": "ready" if ready else "not ready", "champions": loaded, "trouble": server.champions.trouble}
        return JSON(body, 200 if ready else 503)

    @router.get("/metrics", summary="Counts and times for Prometheus", response_class=Response)
    async def metrics() -> Any:
        pending = 0 if server.journal is None else server.journal.pending
        return Response(server.metrics.text(pending, server.champions.now()), media_type=Metrics.MEDIA_TYPE)

    return router


def serve(
    host: Annotated[str | None, typer.Option(help="What to listen on [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Where to listen [default: 8000]")] = None,
) -> None:
    """Answer requests with the champions until Ctrl-C. TRIPTYCH_SERVER_* in the environment sets the rest."""
    import uvicorn

    from deployments.stack import settings_here

    told = ServerSettings()
    own = told.model_copy(update={"host": host or told.host, "port": port or told.port})
    settings = settings_here()
    # A line for each request would cost as much as the request, and keep who asked; `/metrics` counts them.
    uvicorn.run(create_app(settings, own), host=own.host, port=own.port, timeout_graceful_shutdown=15, access_log=False)


if __name__ == "__main__":
    typer.run(serve)
