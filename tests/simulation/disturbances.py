"""What the outside world does to a source, by simulated time: each wraps one function at its door, none of ours.

A disturbance depends on times and rows alone, never on what was asked before: a replay that goes on after a kill, and a
backfill at the end, meet the same world.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any

import pandas as pd

from featurestore.times import Window
from flows import windows
from flows.http import ServiceUnavailable

Read = Callable[..., pd.DataFrame]


@dataclass(frozen=True)
class Disturbance:
    """Something that happens at a source's door.

    Args:
        kind: one word for it, such as "outage".
        says: what happens, as a sentence.
        module, door: the function that is wrapped, such as `read_demand` of flows.<system>.source.
        window: the simulated time in which it happens.
        wrap: from the function to the disturbed one.
        error: what the feature flow may answer while it lasts, one of it; empty: it must cope.
        feeds: the feature groups that are made from this door; empty: all.
    """

    kind: str
    says: str
    module: str
    door: str
    window: Window
    wrap: Callable[[Read, Window], Read]
    error: tuple[str, ...] = ()
    feeds: tuple[str, ...] = ()

    def lasted(self, at: datetime) -> bool:
        """Whether it happened at a simulated time."""
        return self.window.start <= at < self.window.end


@contextmanager
def happening(system: str, disturbances: Sequence[Disturbance]) -> Iterator[None]:
    """Let them happen at the doors of a system's source."""
    with ExitStack() as stack:
        for each in disturbances:
            stack.enter_context(_door(f"flows.{system}.{each.module}", each))
        yield


@contextmanager
def _door(module_name: str, disturbance: Disturbance) -> Iterator[None]:
    module = import_module(module_name)
    ordinary = getattr(module, disturbance.door)
    setattr(module, disturbance.door, disturbance.wrap(ordinary, disturbance.window))
    try:
        yield
    finally:
        setattr(module, disturbance.door, ordinary)


def lasts(window: Window) -> bool:
    """Whether it happens at this simulated time."""
    return window.start <= windows.now() < window.end


# --- what can happen ---------------------------------------------------------------------------------


def outage(read: Read, window: Window) -> Read:
    """The service does not answer."""

    def door(*args: Any, **named: Any) -> pd.DataFrame:
        if lasts(window):
            raise ServiceUnavailable(f"The source does not answer until {window.end:%Y-%m-%d %H:%M}.")
        return read(*args, **named)

    return door


def renamed(column: str, other: str) -> Callable[[Read, Window], Read]:
    """A column comes under another name."""

    def wrap(read: Read, window: Window) -> Read:
        def door(*args: Any, **named: Any) -> pd.DataFrame:
            rows = read(*args, **named)
            return rows.rename(columns={column: other}) if lasts(window) else rows

        return door

    return wrap


def retyped(column: str, dtype: str) -> Callable[[Read, Window], Read]:
    """A column comes with another type, such as numbers as text."""

    def wrap(read: Read, window: Window) -> Read:
        def door(*args: Any, **named: Any) -> pd.DataFrame:
            rows = read(*args, **named)
            return rows.astype({column: dtype}) if lasts(window) else rows

        return door

    return wrap


def spoilt(column: str, value: Any, *, newest: int) -> Callable[[Read, Window], Read]:
    """The newest rows have a value that cannot be."""

    def wrap(read: Read, window: Window) -> Read:
        def door(*args: Any, **named: Any) -> pd.DataFrame:
            rows = read(*args, **named)
            if not lasts(window):
                return rows
            return rows.assign(**{column: rows[column].mask(rows.index >= len(rows) - newest, value)})

        return door

    return wrap


def late(key: str, time: str, delay: timedelta, *, share: float) -> Callable[[Read, Window], Read]:
    """Some rows of the window are there only a delay after their time."""

    def wrap(read: Read, window: Window) -> Read:
        def door(*args: Any, **named: Any) -> pd.DataFrame:
            rows = read(*args, **named)
            chosen = inside(rows[time], window) & drawn(rows[key], share)
            return rows[~(chosen & (rows[time] + delay > windows.now()))].reset_index(drop=True)

        return door

    return wrap


def corrected_outcomes(delay: timedelta, *, share: float) -> Callable[[Read, Window], Read]:
    """Some outcomes that become known in the window are wrong, and told again as they are a delay later.

    Of `read_labels(known_start, known_end)` with tid, is_fraud and known_at, as a bank corrects: by a second row.
    """

    def wrap(read: Read, window: Window) -> Read:
        def door(start: datetime, end: datetime, **named: Any) -> pd.DataFrame:
            rows = read(start - delay, end, **named)
            wrong = inside(rows["known_at"], window) & drawn(rows["tid"], share)
            first = rows.assign(is_fraud=rows["is_fraud"].where(~wrong, 1 - rows["is_fraud"]))
            again = rows[wrong].assign(known_at=rows.loc[wrong, "known_at"] + delay)
            both = pd.concat([first, again], ignore_index=True)
            asked = (both["known_at"] >= start) & (both["known_at"] < end)
            return both[asked].sort_values(["known_at", "tid"], ignore_index=True)

        return door

    return wrap


def delayed_outcomes(read: Read, window: Window) -> Read:
    """Outcomes that would become known in the window are told at its end, all at once."""
    longest = window.end - window.start

    def door(start: datetime, end: datetime, **named: Any) -> pd.DataFrame:
        rows = read(start - longest, end, **named)
        held = inside(rows["known_at"], window)
        told = rows.assign(known_at=rows["known_at"].mask(held, pd.Timestamp(window.end)))
        asked = (told["known_at"] >= start) & (told["known_at"] < end)
        return told[asked].sort_values(["known_at", "tid"], ignore_index=True)

    return door


def told_of(**trouble: Any) -> Callable[[Read, Window], Read]:
    """The simulator's own trouble, such as drift=0.15; `drift_from` is the window's start."""

    def wrap(read: Read, window: Window) -> Read:
        kind = import_module(read.__module__).Trouble

        def door(*args: Any, **named: Any) -> pd.DataFrame:
            return read(*args, **named, trouble=kind(drift_from=window.start, **trouble))

        return door

    return wrap


def inside(times: pd.Series, window: Window) -> pd.Series:
    """Which times lie in the window."""
    return (times >= window.start) & (times < window.end)


def drawn(keys: pd.Series, share: float) -> pd.Series:
    """A share of the keys, the same ones each time."""
    return pd.Series(pd.util.hash_pandas_object(keys, index=False).to_numpy() % 10_000 < 10_000 * share, keys.index)
