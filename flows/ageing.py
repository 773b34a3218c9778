"""How a model ages: versions old and new on the same rows, which none of them has learned from. Pure.

On different rows an old version could look good because its weeks were easy. On the same rows only the version differs:
what it learned from ended earlier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flows import evaluation, live_metrics
from flows.evaluation import Score

if TYPE_CHECKING:
    import pandas as pd

    from flows.monitored import Monitored

LEAST_VERSIONS = 3
"""The freshest and two older ones: with fewer there is no curve."""

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Aged:
    """One version on the rows of the study.

    Args:
        trained_until: the end of the time that it was trained and judged on.
        older_by: than the freshest version of the study; zero for that.
        value: the metric.
        behind: how much better the freshest is (for mae the share of this version's error that it saves, else the
            difference), with its paired interval; None for the freshest, and where there are too few rows.
    """

    version: int
    trained_until: datetime
    older_by: timedelta
    value: float | None
    behind: Score | None = None

    @property
    def is_surely_worse(self) -> bool:
        """Whether the whole interval says that the freshest is better."""
        return self.behind is not None and self.behind.low > 0


class Advice(NamedTuple):
    """How often to train, as far as the study says: at least every so many days (None: it does not say), in words."""

    every: timedelta | None
    text: str


def spread(ends: Sequence[datetime], most: int) -> list[datetime]:
    """At most so many of the times, spread evenly over them, the first and the last among them; in their order.

    >>> spread([1, 2, 3, 4, 5], 3), spread([1, 2], 3)
    ([1, 3, 5], [1, 2])
    """
    if len(ends) <= most:
        return list(ends)
    return [ends[i] for i in np.linspace(0, len(ends) - 1, most).round().astype(int)]


def side_by_side(said: Mapping[int, pd.DataFrame], watched: Monitored) -> pd.DataFrame:
    """The rows that every version has something to say of, with a column for each.

    Args:
        said: by version: matured rows of `monitored.with_truth`, the freshest version's first.
    Returns:
        The rows of the freshest, with `version_<number>` for each; ordered by target.
    """
    target, forecast = list(watched.target), watched.said.forecast
    (freshest, rows), *older = said.items()
    rows = rows.rename(columns={forecast: column_of(freshest)})
    for number, others in older:
        others = others[[*target, forecast]].rename(columns={forecast: column_of(number)})
        rows = rows.merge(others, on=target, validate="one_to_one")
    return rows.sort_values(target, ignore_index=True)


def column_of(version: int) -> str:
    """The column of `side_by_side` with what a version says.

    >>> column_of(3)
    'version_3'
    """
    return f"version_{version}"


def compare(rows: pd.DataFrame, trained_until: Mapping[int, datetime], watched: Monitored) -> list[Aged]:
    """Each version on the rows, the freshest first.

    Args:
        rows: of `side_by_side`.
        trained_until: by version, the freshest first.
    """
    (freshest, newest), *_ = trained_until.items()
    enough = live_metrics.are_enough(rows, watched)
    return [
        Aged(
            number, until, newest - until, live_metrics.value(rows, watched, column_of(number)),
            None
            if number == freshest or not enough
            else live_metrics.better_by(rows, watched, column_of(freshest), column_of(number)),
        )
        for number, until in trained_until.items()
    ]  # fmt: skip


def advice(aged: Sequence[Aged]) -> Advice:
    """How often to train, as far as these versions say.

    A version counts as too old when it and every older one are surely worse than the freshest: of ten comparisons one
    looks so by chance now and then, but not all beyond an age.

    Args:
        aged: of `compare`: the freshest first, then older and older.

    >>> def version(days, behind, low, high):
    ...     trained = datetime(2026, 3, 1) - days * DAY
    ...     return Aged(9 - days // 7, trained, days * DAY, 5.0, Score("", behind, low, high, 900))
    >>> fresh = Aged(9, datetime(2026, 3, 1), 0 * DAY, 4.0)
    >>> print(advice([fresh, version(7, 0.01, -0.02, 0.04), version(14, 0.05, 0.02, 0.08)]).text)
    Train at least every 14 days: from 14 days on every version is surely worse than the freshest (0.05 [0.02, 0.08], n
    900). Up to 7 days none is (at 7 days 0.01 [-0.02, 0.04], n 900): training more often than that has shown no gain.
    >>> print(advice([fresh, version(7, 0.01, -0.02, 0.04)]).text)
    Too few versions to say (2, needs 3): keep the schedule, and look again when there are more.
    """
    older = [each for each in aged[1:] if each.behind is not None]
    compared = len(older) + 1 if aged else 0
    if compared < LEAST_VERSIONS:
        return Advice(
            None,
            f"Too few versions to say ({compared}, needs {LEAST_VERSIONS}): keep the schedule, and look again when "
            "there are more.",
        )
    good = [i for i, each in enumerate(older) if not each.is_surely_worse]
    first_bad = good[-1] + 1 if good else 0
    if first_bad == len(older):
        oldest, worse = older[-1], sum(each.is_surely_worse for each in older)
        some = f"; of the younger ones {worse} surely worse, which is not their age then" if worse else ""
        return Advice(
            None,
            f"No reason to train more often than every {_days(oldest)}: a version so much older is not surely worse "
            f"than the freshest ({_score(oldest)}{some}).",
        )
    bad = older[first_bad]
    text = (
        f"Train at least every {_days(bad)}: from {_days(bad)} on every version is surely worse than the freshest "
        f"({_score(bad)})."
    )
    if not good:
        rest = "So is every one: training more often may be better still."
    elif any(each.is_surely_worse for each in older[:first_bad]):
        rest = "Of the younger ones some are and some are not: that is not their age."
    else:
        last = older[good[-1]]
        rest = (
            f"Up to {_days(last)} none is (at {_days(last)} {_score(last)}): training more often than that has shown "
            "no gain."
        )
    return Advice(bad.older_by, f"{text} {rest}")


def picture(aged: Sequence[Aged], *, title: str, unit: str) -> bytes:
    """How far each version is behind the freshest, by how much older it is, with intervals: a PNG.

    >>> older = Aged(1, datetime(2026, 1, 1), 7 * DAY, 5.0, Score("", 0.1, 0.05, 0.2, 900))
    >>> picture([Aged(2, datetime(2026, 1, 8), 0 * DAY, 4.0), older], title="demo", unit="share")[:4]
    b'\\x89PNG'
    """
    known = [each for each in aged if each.behind is not None]
    days = [each.older_by / DAY for each in known]
    scores = [each.behind for each in known if each.behind is not None]
    figure, axes = evaluation.canvas(title)
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.errorbar(
        days, [score.value for score in scores],
        yerr=[
            [max(0.0, score.value - score.low) for score in scores],
            [max(0.0, score.high - score.value) for score in scores],
        ],
        fmt="o-", capsize=3, linewidth=1.4,
    )  # fmt: skip
    axes.set_xlabel("days older than the freshest version")
    axes.set_ylabel(f"behind the freshest ({unit})")
    return evaluation.png(figure)


def _days(aged: Aged) -> str:
    return f"{aged.older_by / DAY:.0f} days"


def _score(aged: Aged) -> str:
    score = aged.behind
    assert score is not None
    return f"{score.value:.2g} [{score.low:.2g}, {score.high:.2g}], n {score.n:,}"
