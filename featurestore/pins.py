"""Which Delta versions of a group training datasets and views hold on to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from featurestore.query import GroupRef


@dataclass(frozen=True)
class Registered:
    """A training dataset as the catalog knows it: whose it is and its manifest."""

    view_id: str
    view: str
    view_version: int
    version: int
    manifest: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.view} v{self.view_version}, training dataset {self.version}"

    @property
    def is_live(self) -> bool:
        """Whether it can still be made again; `forget` takes that from a training dataset."""
        return "not_reproducible_since" not in self.manifest

    def versions(self, ref: GroupRef) -> set[int]:
        """The Delta versions of a group that making it again reads."""
        pin = self.manifest["groups"].get(str(ref))
        named = set(_named(self.manifest["query"], ref))
        if pin is None:
            return named
        version = pin["delta_version"]
        return named | (set(range(version + 1)) if self.manifest.get("as_known") else {version})


def pins_of(
    ref: GroupRef, datasets: Iterable[Registered], views: Iterable[tuple[str, str, int, Mapping[str, Any]]]
) -> dict[int, list[str]]:
    """The pinned versions of a group and who pins each.

    Args:
        datasets: training datasets; those that are not live pin nothing.
        views: id, name, version and definition; a view whose query reads a group as of a version pins that one.
    """
    found: dict[int, list[str]] = {}
    for dataset in datasets:
        for version in dataset.versions(ref) if dataset.is_live else ():
            found.setdefault(version, []).append(str(dataset))
    for _, name, number, definition in views:
        for version in set(_named(definition["query"], ref)):
            found.setdefault(version, []).append(f"{name} v{number}, whose query reads as of it")
    return dict(sorted(found.items()))


def _named(query: Mapping[str, Any], ref: GroupRef) -> Iterator[int]:
    """The versions of a group that a query names itself (`as_of`)."""
    if GroupRef(*query["group"]) == ref and query["version"] is not None:
        yield query["version"]
    for join in query["joins"]:
        yield from _named(join["query"], ref)
