"""Training, validation and test as stretches of time, one after another, with the label delay between them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from featurestore.errors import InvalidData
from featurestore.times import Window

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Splits:
    """Three windows, one after another. Labels of each are known when the next one begins."""

    train: Window
    validation: Window
    test: Window

    def by_name(self) -> dict[str, Window]:
        """The windows by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def whole(self) -> Window:
        """From the first row of training to the end of the test."""
        return Window(self.train.start, self.test.end)


@dataclass(frozen=True)
class SplitPlan:
    """How a system cuts its history.

    Args:
        label_delay: a label is known this long after its row's event time. So much is left out before the test; between
            training and validation it is the embargo of the training dataset that leaves it out.
        validation_share, test_share: of the whole days of the span.
        burn_in_share: of the span's beginning that is not learned from, where features have no past yet.
        longest_test: the test is never longer, however long the span.
        shortest: a shorter span is refused.
        due_after: a model is due for training again when labels of so much time have become known.
        label: what is known of the rows in the end, for messages, such as "demand".
    """

    label_delay: timedelta
    validation_share: float
    test_share: float
    burn_in_share: float = 0.0
    longest_test: timedelta | None = None
    shortest: timedelta = timedelta(days=45)
    due_after: timedelta = timedelta(days=7)
    label: str = "label"


def splits_of(first: datetime, end: datetime, plan: SplitPlan) -> Splits:
    """The splits of the rows of [first, end), in whole days from the end.

    Args:
        first: midnight of the day of the first row.
        end: the labels of all rows before it are known.
    Raises:
        InvalidData: the span is too short for all three.

    >>> from datetime import UTC
    >>> plan = SplitPlan(label_delay=timedelta(days=2), validation_share=0.13, test_share=0.20)
    >>> splits = splits_of(datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC), plan)
    >>> print(*splits.by_name().values(), sep="\\n")
    [2025-01-01 00:00, 2025-09-01 00:00)
    [2025-09-01 00:00, 2025-10-18 00:00)
    [2025-10-20 00:00, 2026-01-01 00:00)
    >>> splits_of(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 9, tzinfo=UTC), plan)
    Traceback (most recent call last):
        ...
    featurestore.errors.InvalidData: Labels (label) are known of the rows from 2026-01-01 00:00:00+00:00 to 2026-01-09
    00:00:00+00:00 only, 8 days: too few for training, validation and test with 2 days between them (at least 45). ...
    """
    days = max((end - first) // DAY, 0)
    test = DAY * max(1, round(plan.test_share * days))
    test_start = end - (test if plan.longest_test is None else min(test, plan.longest_test))
    validation_end = test_start - plan.label_delay
    validation_start = validation_end - DAY * max(1, round(plan.validation_share * days))
    train_start = first + DAY * int(plan.burn_in_share * days)
    if days * DAY < plan.shortest or train_start >= validation_start - plan.label_delay:
        raise InvalidData(
            f"Labels ({plan.label}) are known of the rows from {first} to {end} only, {days} days: too few for "
            f"training, validation and test with {plan.label_delay / DAY:g} days between them (at least "
            f"{plan.shortest / DAY:g}). Run the feature pipeline for more history, or give a later end."
        )
    return Splits(
        Window(train_start, validation_start), Window(validation_start, validation_end), Window(test_start, end)
    )


def table(splits: Splits, rows: Mapping[str, int], *, of: str) -> list[str]:
    """The splits as lines of a markdown table.

    Args:
        rows: how many are in each split, by name.
        of: what the windows are cut by, such as "issues of".
    """
    return [
        f"| split | {of} | rows |",
        "| --- | --- | ---: |",
        *(f"| {name} | {window} | {rows.get(name, 0):,} |" for name, window in splits.by_name().items()),
    ]


def rolling_origin(start: datetime, end: datetime, *, folds: int, validation: timedelta, gap: timedelta) -> list[
    tuple[Window, Window]
]:  # fmt: skip
    """Folds that move forward in time: each trains on all before its validation stretch, less a gap.

    Args:
        validation: length of each validation stretch; the last one ends at `end`.
        gap: left out before each, so that no label of training was unknown when validation began.
    Returns:
        (training, validation) windows, earliest first.
    Raises:
        InvalidData: there is no room for the first fold's training.

    >>> from datetime import UTC
    >>> for train, valid in rolling_origin(
    ...     datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 31, tzinfo=UTC), folds=2, validation=5 * DAY, gap=DAY):
    ...     print(train, valid)
    [2026-01-01 00:00, 2026-01-20 00:00) [2026-01-21 00:00, 2026-01-26 00:00)
    [2026-01-01 00:00, 2026-01-25 00:00) [2026-01-26 00:00, 2026-01-31 00:00)
    """
    found = []
    for fold in range(folds, 0, -1):
        begins = end - fold * validation
        if begins - gap <= start:
            raise InvalidData(
                f"No room for {folds} folds of {validation} between {start} and {end}. Use fewer or shorter ones, or "
                "run the feature pipeline for more history."
            )
        found.append((Window(start, begins - gap), Window(begins, begins + validation)))
    return found
