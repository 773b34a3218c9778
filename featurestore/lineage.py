"""Which groups a view and its training datasets are made of, and what is made of a group. Pure over the catalog."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from featurestore.pins import Registered
from featurestore.query import GroupRef

View = tuple[str, str, int, Mapping[str, Any]]
"""Id, name, version and definition of a feature view, as the catalog lists them."""


@dataclass(frozen=True)
class Lineage:
    """One thing of the store, and below it what it is made of and what is made of it. `print` shows the tree.

    Args:
        kind: "feature group", "feature view" or "training dataset".
        name, version: of the thing; a training dataset has its view's name. Some things have no version, such as a run.
        relation: to the thing above: "read by", "made of" or "gives"; empty at the top.
        facts: what else there is to say, such as the pinned Delta versions. JSON-ready.
    """

    kind: str
    name: str
    version: int | None
    relation: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    related: tuple[Lineage, ...] = ()

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        facts = ", ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in self.facts.items())
        relation = f"{self.relation} " if self.relation else ""
        what = f"{self.kind} {self.version}" if self.kind == "training dataset" else f"{self.kind} {self.name}"
        has_version = self.version is not None and self.kind != "training dataset"
        version = f" version {self.version}" if has_version else ""
        yield f"{relation}{what}{version}{f' ({facts})' if facts else ''}"
        for place, below in enumerate(self.related):
            first, rest = ("└── ", "    ") if place == len(self.related) - 1 else ("├── ", "│   ")
            for number, line in enumerate(below._lines()):
                yield (rest if number else first) + line

    def to_json(self) -> dict[str, Any]:
        """The tree as JSON-ready data."""
        return {
            "kind": self.kind, "name": self.name, "version": self.version, "relation": self.relation,
            "facts": dict(self.facts), "related": [below.to_json() for below in self.related],
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Lineage:
        """The tree that `to_json` gave.

        >>> tree = Lineage("feature group", "sales", 1, related=(Lineage("source", "tills", None, "from"),))
        >>> Lineage.from_json(tree.to_json()) == tree
        True
        """
        return cls(**{**data, "related": tuple(cls.from_json(below) for below in data["related"])})


def _shown(value: Any) -> str:
    return ", ".join(f"{k} at {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)


def groups_of(definition: Mapping[str, Any]) -> list[GroupRef]:
    """The groups that a view's definition reads, left-most first, each once."""

    def refs(query: Mapping[str, Any]) -> Iterator[GroupRef]:
        yield GroupRef(*query["group"])
        for join in query["joins"]:
            yield from refs(join["query"])

    return list(dict.fromkeys(refs(definition["query"])))


def of_view(view: View, datasets: Iterable[Registered], versions: Mapping[GroupRef, int]) -> Lineage:
    """The groups of a view, and the training datasets made with it.

    Args:
        datasets: the training datasets of all views.
        versions: the Delta versions that the groups have now.
    """
    identifier, name, version, definition = view
    groups = [
        Lineage("feature group", ref.name, ref.version, "made of", {"Delta_version": versions.get(ref, "gone")})
        for ref in groups_of(definition)
    ]
    made = [_dataset(d) for d in datasets if d.view_id == identifier]
    return Lineage("feature view", name, version, "", _view_facts(definition), (*groups, *made))


def of_group(ref: GroupRef, views: Iterable[View], datasets: Iterable[Registered]) -> Lineage:
    """The views that read a group, and the training datasets that were made of it."""
    known = list(datasets)
    users = []
    for identifier, name, version, definition in views:
        if ref in groups_of(definition):
            made = [_dataset(d, of=ref) for d in known if d.view_id == identifier]
            users.append(
                Lineage("feature view", name, version, "read by", _view_facts(definition), tuple(made))
            )  # fmt: skip
    return Lineage("feature group", ref.name, ref.version, "", {}, tuple(users))


def _view_facts(definition: Mapping[str, Any]) -> dict[str, Any]:
    return {"predicts": ", ".join(definition["labels"])} if definition["labels"] else {}


def _dataset(dataset: Registered, of: GroupRef | None = None) -> Lineage:
    manifest = dataset.manifest
    pinned = {n: p["delta_version"] for n, p in manifest["groups"].items() if of is None or n == str(of)}
    facts: dict[str, Any] = {"pins": pinned, "made": manifest["created_at"], "by": manifest["created_by"]}
    if not dataset.is_live:
        facts["not_reproducible_since"] = manifest["not_reproducible_since"]
    return Lineage("training dataset", dataset.view, dataset.version, "gives", facts)
