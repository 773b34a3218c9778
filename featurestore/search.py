"""Finding groups, views and features by what is said of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from featurestore.schema import Feature


@dataclass(frozen=True)
class Found:
    """A feature group, a feature view or a feature of a group. A larger score is a better match."""

    kind: Literal["feature group", "feature view", "feature"]
    name: str
    version: int
    feature: str | None
    description: str
    score: int

    def __str__(self) -> str:
        what = f"{self.name} version {self.version}" + (f": {self.feature}" if self.feature else "")
        return f"{self.kind} {what}" + (f" ({self.description})" if self.description else "")


@dataclass(frozen=True)
class Entry:
    """What a search looks through of one group or view."""

    kind: Literal["feature group", "feature view"]
    name: str
    version: int
    description: str
    tags: Mapping[str, Any]
    features: tuple[Feature, ...] = ()


def search(text: str, entries: Iterable[Entry]) -> list[Found]:
    """What holds every word of a text in its name, tags or description; the best match first.

    A name counts more than a tag, a tag more than a description, a whole name most. A feature is found by words of its
    own, beside which there may be its group's. Case does not matter. No words find nothing.

    >>> amount = Feature("amount", "double", description="What was paid.", unit="EUR")
    >>> orders = Entry("feature group", "orders", 1, "One row per order.", {"team": "fraud"}, (amount,))
    >>> [str(found) for found in search("PAID", [orders])]
    ['feature orders version 1: amount (What was paid.)']
    >>> [found.name for found in search("fraud", [orders])]
    ['orders']
    """
    words = text.casefold().split()
    found = []
    for entry in entries:
        tags = " ".join(f"{key} {value}" for key, value in entry.tags.items())
        score = _score(words, entry.name, tags, entry.description)
        if score:
            found.append(Found(entry.kind, entry.name, entry.version, None, entry.description, score))
        for feature in entry.features if entry.kind == "feature group" else ():
            own = f"{feature.description} {feature.unit or ''}"
            score = _score(words, feature.name, entry.name, own)
            if score and _score([w for w in words if w not in entry.name.casefold()], feature.name, "", own):
                found.append(Found("feature", entry.name, entry.version, feature.name, feature.description, score))
    return sorted(found, key=lambda f: (-f.score, f.kind, f.name, -f.version, f.feature or ""))


def _score(words: list[str], name: str, tags: str, description: str) -> int:
    """The sum of what each word is worth; 0 when one of them is nowhere, or there are none."""
    total = 0
    for word in words:
        if word == name.casefold():
            total += 8
        elif word in name.casefold():
            total += 4
        elif word in tags.casefold():
            total += 2
        elif word in description.casefold():
            total += 1
        else:
            return 0
    return total
