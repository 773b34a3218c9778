"""Which stretches of time a system's feature groups hold, lack, or hold as older code computed them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING

from deployments import inventory
from deployments.inventory import Home
from featurestore.errors import InvalidTime
from featurestore.times import Window
from flows import partitions

if TYPE_CHECKING:
    from featurestore import FeatureGroup

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


@dataclass(frozen=True)
class Stretch:
    """Neighbouring pieces of a group's time that are in the same state."""

    group: str
    start: datetime
    end: datetime
    state: partitions.State
    pieces: int


def of_system(
    home: Home, system: str, every: timedelta, *, start: datetime | None = None, end: datetime | None = None
) -> list[Stretch]:
    """The stretches of every feature group of a system, oldest first, one group after another; predictions left out.

    Args:
        every: the length of a piece; pieces are cut at its multiples since 1970.
        start: default the beginning of the group's first window.
        end: default the end of its last one; a later one shows what is not there yet.
    Raises:
        InvalidTime: the end is not after the start.
    """
    code = partitions.code_of(system)
    found: list[Stretch] = []
    for group in home.groups_of(system):
        if not inventory.is_of_predictions(group):
            found += _stretches(group, every, code, start, end)
    return found


def _stretches(
    group: FeatureGroup, every: timedelta, code: str, start: datetime | None, end: datetime | None
) -> list[Stretch]:
    committed = group.windows()
    first, last = (committed[0].start, committed[-1].end) if committed else (None, None)
    since, until = start or first, end or last
    if since is None or until is None:  # never written with a window, and not asked for a time
        return []
    if since >= until:
        raise InvalidTime(f"The end {until} is not after the start {since} for {group.name}. Give a later --end.")
    pieces = partitions.partitions(group.history(), Window(since, until), every, code=code)
    return merged(inventory.name_of(group), pieces)


def merged(group: str, pieces: Sequence[partitions.Partition]) -> list[Stretch]:
    """Neighbours of one state as one stretch.

    >>> from flows import windows
    >>> days = windows.tiles(Window.of("2026-01-01", "2026-01-04"), timedelta(days=1))
    >>> found = merged("demand@1", [partitions.Partition(day, state)
    ...                             for day, state in zip(days, ["done", "done", "missing"], strict=True)])
    >>> [(stretch.state, stretch.pieces, str(stretch.end.date())) for stretch in found]
    [('done', 2, '2026-01-03'), ('missing', 1, '2026-01-04')]
    """
    runs = [list(run) for _, run in groupby(pieces, key=lambda piece: piece.state)]
    return [Stretch(group, run[0].window.start, run[-1].window.end, run[0].state, len(run)) for run in runs]


def length_of(text: str) -> timedelta:
    """A length of time such as 6h, 1d or 2w.

    Raises:
        InvalidTime: anything else.

    >>> length_of("6h"), length_of("2w")
    (datetime.timedelta(seconds=21600), datetime.timedelta(days=14))
    """
    match = re.fullmatch(r"([1-9]\d{0,4})([hdw])", text)
    if match is None:
        raise InvalidTime(f"{text!r} is no length of a piece. Give hours, days or weeks, such as 6h, 1d or 2w.")
    return int(match[1]) * _UNITS[match[2]]
