"""Which stretches of a group's time are there, which are missing, and which were computed by older code. Pure."""

from __future__ import annotations

import ast
import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from featurestore.times import Window
from flows import windows

if TYPE_CHECKING:
    from featurestore import Commit, FeatureGroup

State = Literal["missing", "partly", "stale", "done"]

FEATURE_CODE = ("features", "schema", "sessions", "source", "live", "simulator", "feature_pipeline")
"""The modules of a system that decide what its feature groups hold."""


class Partition(NamedTuple):
    """A stretch of time and its state: "stale" is all there, but some of it was computed by older code."""

    window: Window
    state: State


@lru_cache
def code_of(system: str) -> str:
    """The version of a system's feature code: 12 hexadecimal digits of what its modules do.

    Comments, layout and docstrings change nothing; everything else does.

    >>> len(code_of("fraud"))
    12
    """
    folder = Path(__file__).parent / system
    found = hashlib.sha256()
    for name in FEATURE_CODE:
        path = folder / f"{name}.py"
        if path.is_file():
            found.update(f"{name}:{meaning(path.read_text(encoding='utf-8'))}\n".encode())
    return found.hexdigest()[:12]


def meaning(text: str) -> str:
    """Python code without its comments, layout and docstrings.

    >>> meaning('x = 1  # one') == meaning('"Doc."\\nx=1'), meaning("x = 1") == meaning("x = 2")
    (True, False)
    """
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [each for each in node.body if not _is_text(each)]
    return ast.dump(tree)


def partitions(commits: Sequence[Commit], span: Window, every: timedelta, *, code: str = "") -> list[Partition]:
    """The span in pieces, each with its state.

    Args:
        commits: of one group, oldest first; those without a window say nothing.
        span: what should be there.
        every: the pieces are cut at its multiples since 1970, whatever the windows were.
        code: the present version of the code; what was committed last by another is stale. Empty: nothing is.

    >>> from datetime import UTC
    >>> from featurestore import Commit
    >>> day = timedelta(days=1)
    >>> def committed(start, end, code):
    ...     return Commit(1, windows.now(), "upsert", window=Window.of(start, end), code=code)
    >>> found = partitions(
    ...     [committed("2026-01-01", "2026-01-03", "old"), committed("2026-01-02", "2026-01-03T12:00", "new")],
    ...     Window.of("2026-01-01", "2026-01-05"), day, code="new")
    >>> [piece.state for piece in found]
    ['stale', 'done', 'partly', 'missing']
    """
    covered = _covered(commits, span)
    found = []
    for piece in windows.tiles(span, every):
        inside = [
            (min(end, piece.end) - max(start, piece.start), by)
            for start, end, by in covered
            if start < piece.end and end > piece.start
        ]
        length = sum((part for part, _ in inside), timedelta(0))
        state: State = "done"
        if not inside:
            state = "missing"
        elif length < piece.end - piece.start:
            state = "partly"
        elif code and any(by != code for _, by in inside):
            state = "stale"
        found.append(Partition(piece, state))
    return found


def of_groups(groups: Iterable[FeatureGroup], span: Window, every: timedelta, *, code: str) -> list[Partition]:
    """The span in pieces, each with the state of that of the groups which has least of it.

    It reads the history of every group: too much for a run every hour, so flows do it only in a backfill.
    """
    return worst([partitions(group.history(), span, every, code=code) for group in groups])


def worst(of_groups: Sequence[Sequence[Partition]]) -> list[Partition]:
    """The pieces, each with the worst state it has in any group.

    >>> piece = Window.of("2026-01-01", "2026-02-01")
    >>> done, stale, missing = (Partition(piece, state) for state in ("done", "stale", "missing"))
    >>> [each.state for each in worst([[done], [stale], [done]])], worst([[stale], [missing]]) == [missing]
    (['stale'], True)
    """
    order: tuple[State, ...] = ("missing", "partly", "stale", "done")
    return [min(pieces, key=lambda piece: order.index(piece.state)) for pieces in zip(*of_groups, strict=True)]


def _covered(commits: Sequence[Commit], span: Window) -> list[tuple[datetime, datetime, str]]:
    """The stretches within the span that a window covers, each with the code of the last commit that did."""
    known = [(commit.window, commit.code) for commit in commits if commit.window is not None]
    cuts = sorted({span.start, span.end} | {time for window, _ in known for time in window})
    by: list[str | None] = [None] * (len(cuts) - 1)
    for window, code in known:  # a later commit rules over an earlier one
        first, last = bisect_left(cuts, window.start), bisect_left(cuts, window.end)
        by[first:last] = [code] * (last - first)
    return [
        (start, end, code)
        for (start, end), code in zip(pairwise(cuts), by, strict=True)
        if code is not None and start < span.end and end > span.start
    ]


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
