"""What the server counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from deployments.champions import Served

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """Counters of one server, apart from those of others in the same process."""

    MEDIA_TYPE = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "triptych_requests", "Requests by route and status.", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "triptych_request_seconds", "From request to answer.", ["route"], buckets=SECONDS, registry=self._registry
        )
        self._predictions = Counter(
            "triptych_predictions", "Predictions by system.", ["system", "degraded"], registry=self._registry
        )
        self._predicting = Histogram(
            "triptych_prediction_seconds", "Features, score and reasons of one prediction.", ["system"],
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self._lost = Counter("triptych_answers_not_kept", "Answers that could not be logged.", registry=self._registry)
        self._pending = Gauge(
            "triptych_answers_pending", "Answers not yet moved into the store.", registry=self._registry
        )
        self._champion = Gauge(
            "triptych_champion_version", "The version that answers.", ["system", "model"], registry=self._registry
        )

    def served(self, route: str, status: int, seconds: float) -> None:
        """Count a request; the route is its template, so that callers cannot make up new ones."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def answered(self, system: str, seconds: float, *, degraded: bool) -> None:
        """Count a prediction."""
        self._predictions.labels(system, str(degraded).lower()).inc()
        self._predicting.labels(system).observe(seconds)

    def lost(self) -> None:
        """Count an answer that could not be kept."""
        self._lost.inc()

    def text(self, pending: int, champions: Mapping[str, Served]) -> bytes:
        """All of it in Prometheus' own format."""
        self._pending.set(pending)
        for system, served in champions.items():
            for model, version in served.versions.items():
                self._champion.labels(system, model).set(version)
        return generate_latest(self._registry)
