"""What is there of each system: its groups in the store, its models in the registry, where their predictions are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.errors import NotFound
from flows import systems, windows
from flows.settings import Settings

if TYPE_CHECKING:
    from featurestore import FeatureGroup, FeatureStore
    from flows import registry
    from flows.monitored import Monitored

SHADOW = "_shadow"
"""How groups end whose predictions serve nobody."""


@dataclass
class Home:
    """The store and the registry of a home, opened when first asked for; nothing is made that is not there."""

    settings: Settings

    @cached_property
    def store(self) -> FeatureStore | None:
        """The feature store; None where there is none yet."""
        from featurestore import settings as of_store
        from featurestore.store import connect

        home = self.settings.store_home
        found = of_store.load(home=home)
        if found.catalog_url is None and not (home / "catalog.db").exists():
            return None
        return connect(home, clock=windows.now)

    @property
    def is_empty(self) -> bool:
        """Whether no pipeline has run here yet."""
        return self.store is None or not self.store.get_feature_groups()

    def existing_store(self) -> FeatureStore:
        """The feature store.

        Raises:
            NotFound: there is none yet; the message says what to run.
        """
        if self.store is None:
            raise NotFound(nothing_yet(self.settings))
        return self.store

    @cached_property
    def has_registry(self) -> bool:
        """Whether there is a model registry; if so this process is connected to it."""
        from flows import registry

        uri = self.settings.resolved_mlflow_uri
        if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
            return False
        registry.bootstrap(self.settings)
        return True

    @cached_property
    def versions(self) -> dict[str, list[registry.ModelVersion]]:
        """All versions of every registered model, oldest first."""
        from flows import registry

        return {name: registry.versions(name) for name in registry.models()} if self.has_registry else {}

    def versions_of(self, model: str) -> list[registry.ModelVersion]:
        """The versions of one model, oldest first.

        Raises:
            NotFound: there is no such model; the message lists those there are.
        """
        if model not in self.versions:
            there = ", ".join(self.versions) or f"none yet. {nothing_yet(self.settings)}"
            raise NotFound(f"There is no model {model!r} (models: {there}).")
        return self.versions[model]

    @cached_property
    def groups(self) -> list[FeatureGroup]:
        """All feature groups that hold or held rows."""
        return [] if self.store is None else [group for group in self.store.get_feature_groups() if group.features]

    def groups_of(self, system: str) -> list[FeatureGroup]:
        """The feature groups of a system, those of its predictions last."""
        own = [group for group in self.groups if group.tags.get("system") == system]
        return sorted(own, key=lambda group: (is_of_predictions(group), group.name, group.version))

    def find_group(self, name: str) -> FeatureGroup:
        """A group by its name, or by name@version; without a version its newest.

        Raises:
            NotFound: there is no such group.
        """
        store = self.existing_store()
        plain, at, number = name.partition("@")
        if at and not number.isdecimal():
            raise NotFound(f"{name!r} names no version of a group: after the @ comes a number, as in {plain}@1.")
        return store.get_feature_group(plain, int(number) if at else None)


def check_system(name: str) -> str:
    """The name, if there is such a system.

    Raises:
        NotFound: there is none.

    >>> check_system("fraud")
    'fraud'
    """
    if name not in systems():
        raise NotFound(f"There is no system {name!r} (systems: {', '.join(systems())}).")
    return name


def nothing_yet(settings: Settings) -> str:
    """What to do in a home where nothing has run.

    >>> nothing_yet(Settings(home="/tmp/nowhere"))  # doctest: +ELLIPSIS
    'Nothing has run in /tmp/nowhere yet. `make demo` runs ... Another home is named by TRIPTYCH_HOME.'
    """
    return (
        f"Nothing has run in {settings.home} yet. `make demo` runs the three pipelines of a system, `make up` all of "
        "them by their schedules. Another home is named by TRIPTYCH_HOME."
    )


def is_of_predictions(group: FeatureGroup) -> bool:
    """Whether the rows of a group are predictions: they are told apart by the version of the model that made them."""
    return "model_version" in group.primary_key


def is_shadow(group: FeatureGroup) -> bool:
    """Whether its predictions serve nobody."""
    return is_of_predictions(group) and group.name.endswith(SHADOW)


def watched() -> dict[str, tuple[str, Monitored]]:
    """Each declared model with its system, and where its predictions and what came are."""
    from flows import monitored

    return {each.model: (system, each) for system in systems() for each in monitored.of(system)}


def by(versions: list[registry.ModelVersion], alias: str) -> registry.ModelVersion | None:
    """The version under an alias, or None."""
    return next((version for version in versions if alias in version.aliases), None)


def name_of(group: FeatureGroup) -> str:
    """A group as name@version."""
    return f"{group.name}@{group.version}"


def plain(value: Any) -> Any:
    """A value of a frame as Python has it: None for any null, UTC times as datetime."""
    if value is None or value != value:  # NaN and NaT differ from themselves
        return None
    if hasattr(value, "to_pydatetime"):
        return value.to_pydatetime()
    return value.item() if hasattr(value, "item") else value
