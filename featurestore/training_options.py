"""What a training dataset is asked to hold: which rows, how divided, narrowed by what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypedDict, Unpack

from featurestore.errors import InvalidData
from featurestore.query import Filter
from featurestore.schema import DataFrameType
from featurestore.splits import RandomSplit, Split, TimeSplit
from featurestore.times import TimeLike, parse_time


class RowOptions(TypedDict, total=False):
    """Which rows a training dataset holds, whatever its splits; explained at `FeatureView.create_training_data`."""

    description: str
    extra_filter: Filter | None
    as_known: bool
    max_age: timedelta | None


class SplitTimes(TypedDict, total=False):
    """Half-open windows of a split by time."""

    train_start: TimeLike | None
    train_end: TimeLike | None
    validation_start: TimeLike | None
    validation_end: TimeLike | None
    test_start: TimeLike | None
    test_end: TimeLike | None


class SplitOptions(RowOptions, SplitTimes, total=False):
    """How its rows are divided; explained at `FeatureView.create_train_test_split`."""

    seed: int
    embargo: timedelta | None
    entity: str | Sequence[str] | None


class FrameOptions(TypedDict, total=False):
    """What frames of a training dataset look like; explained at `FeatureView.get_training_data`."""

    dataframe_type: DataFrameType
    primary_keys: bool
    event_time: bool
    training_helper_columns: bool


@dataclass(frozen=True)
class Wanted:
    """What a training dataset is to hold.

    Args:
        split: how rows are divided; None for all rows in one.
        start, end: only spine rows of `[start, end)`.
        extra_filter: only rows that meet it.
        max_age: feature rows older than this at the spine's time count as missing.
        as_known: of each feature row only what had been committed by the spine's time.
    """

    split: Split | None = None
    start: TimeLike | None = None
    end: TimeLike | None = None
    description: str = ""
    extra_filter: Filter | None = None
    max_age: timedelta | None = None
    as_known: bool = False

    def __post_init__(self) -> None:
        if self.max_age is not None and (not isinstance(self.max_age, timedelta) or self.max_age < timedelta(0)):
            raise InvalidData(f"max_age is {self.max_age!r}: expected a timedelta, such as timedelta(days=7).")

    def to_json(self) -> dict[str, Any]:
        """The part of a manifest that says which rows these are."""
        return {
            "split": self.split and self.split.to_json(), "seed": getattr(self.split, "seed", None),
            "start": None if self.start is None else parse_time(self.start).isoformat(),
            "end": None if self.end is None else parse_time(self.end).isoformat(),
            "description": self.description,
            "extra_filter": None if self.extra_filter is None else self.extra_filter.to_json(),
            "max_age_microseconds": None if self.max_age is None else self.max_age // timedelta(microseconds=1),
            "as_known": self.as_known,
        }  # fmt: skip


def wanted_split(
    test_size: float | None, validation_size: float | None = None, *, validation: bool = False, seed: int = 42,
    embargo: timedelta | None = None, entity: str | Sequence[str] | None = None, description: str = "",
    extra_filter: Filter | None = None, as_known: bool = False, max_age: timedelta | None = None,
    **times: Unpack[SplitTimes],
) -> Wanted:  # fmt: skip
    """A split at random when sizes are given, else by time.

    Raises:
        InvalidData, InvalidTime: sizes or windows that cannot be, or some of both.
    """
    given = {name: time for name, time in times.items() if time is not None}
    if validation and (test_size is None) != (validation_size is None):
        raise InvalidData("Give both validation_size and test_size, or neither of them and times.")
    split: Split
    if test_size is None:
        if not validation and (third := [name for name in given if name.startswith("validation")]):
            raise InvalidData(f"{third} belong to a split in three: use (create_)train_validation_test_split.")
        split = TimeSplit(**times, embargo=embargo, entity=entity, validation=validation)
    elif given or embargo is not None:
        also = [*given, *(["embargo"] if embargo is not None else [])]
        raise InvalidData(
            f"A split by size is at random, so {also} cannot hold as well. Leave the sizes out to split by time, or "
            "narrow the rows with extra_filter."
        )
    else:
        split = RandomSplit(test_size, validation_size, seed, entity)
    return Wanted(split, None, None, description, extra_filter, max_age, as_known)
