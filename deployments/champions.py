"""The models that answer: each system's `Predictor` of its present champions, exchanged while requests go on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from featurestore.errors import NotFound
from flows import registry, systems
from flows.requests import Request
from flows.settings import Settings

logger = logging.getLogger("triptych.server")


class Predictor(Protocol):
    """What a system's class `Predictor` has."""

    @property
    def models(self) -> tuple[registry.ModelVersion, ...]:
        """The versions that answer."""

    def predict(self, inputs: Mapping[str, Any]) -> Any:
        """The answer to one request, a dataclass with `degraded`, `why` and `features`."""


@dataclass(frozen=True)
class Served:
    """A predictor and the versions it answers with, by model."""

    predictor: Predictor
    versions: Mapping[str, int]


def requests() -> dict[str, Request]:
    """What each system is asked; systems that only predict in batches are left out.

    >>> sorted(requests())
    ['fraud', 'reddit']
    """
    declared = {name: getattr(import_module(f"flows.{name}.schema"), "REQUEST", None) for name in systems()}
    return {name: request for name, request in declared.items() if request is not None}


class Champions:
    """Knows the predictors, and looks for new champions from a thread of its own until `close`.

    A new champion is loaded beside the old one, which answers until the new one is ready; if it cannot be loaded the
    old one goes on, and `trouble` says why.

    Args:
        settings: where store and registry are.
        watch_seconds: how often the registry is asked.
    """

    def __init__(self, settings: Settings, *, watch_seconds: float = 2.0) -> None:
        self.requests = requests()
        self.trouble: dict[str, str] = {}
        self._settings = settings
        self._served: dict[str, Served] = {}
        self._watch_seconds = watch_seconds
        self._closed = threading.Event()
        self._looking = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="champions", daemon=True)

    def start(self) -> None:
        """Load what there is, and begin to watch."""
        self.look()
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def of(self, system: str) -> Served:
        """The system's predictor.

        Raises:
            NotFound: it has no champion yet; the message says what trains one, or why it could not be loaded.
        """
        if (served := self._served.get(system)) is None:
            raise NotFound(self.trouble.get(system, f"The models of {system} are still being loaded. Ask again."))
        return served

    def now(self) -> dict[str, Served]:
        """All that is loaded, by system."""
        return dict(self._served)

    def look(self) -> None:
        """Load the champions that are not the ones loaded."""
        with self._looking:
            for system, request in self.requests.items():
                try:
                    self._exchange(system, request)
                except Exception as error:  # noqa: BLE001 - whatever it is: the others, and the old one, go on
                    if self.trouble.get(system) != str(error):
                        logger.warning("%s: %s", system, error)
                    self.trouble[system] = str(error)

    def _exchange(self, system: str, request: Request) -> None:
        registry.bootstrap(self._settings)
        found = {name: registry.champion(name) for name in request.models}
        wanted = {name: model.version for name, model in found.items() if model is not None}
        served = self._served.get(system)
        if served is None or served.versions != wanted:
            pipeline = import_module(f"flows.{system}.inference_pipeline")
            predictor = pipeline.Predictor(settings=self._settings)
            versions = {model.name: model.version for model in predictor.models}
            self._served[system] = Served(predictor, versions)
            logger.info("%s answers with %s.", system, ", ".join(map(str, predictor.models)))
        self.trouble.pop(system, None)

    def _watch(self) -> None:
        while not self._closed.wait(self._watch_seconds):
            self.look()
