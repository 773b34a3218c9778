"""How much is measured: four scales, from a smoke test to more rows than memory likes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Sizes of everything. Groups are written a day at a time, as a feature pipeline does.

    Args:
        labels: rows of the spine.
        rows: of each of the two feature groups, in `days` commits.
        keys: distinct keys of both, and rows of each online group.
        wide_rows: of the group with 200 columns and of the one with 20.
        batch: rows of one insert, upsert or online write.
        vectors: calls from which the percentiles of a latency are taken.
        repeat: the best of so many runs counts.
        big: labels and rows of the join that is watched for its memory; None: the join above is.
    """

    labels: int
    rows: int
    keys: int
    days: int
    wide_rows: int
    batch: int
    vectors: int
    repeat: int
    big: tuple[int, int] | None = None


SCALES = {
    "small": Scale(2_000, 20_000, 200, 4, 4_000, 1_000, 300, 1),
    "moderate": Scale(100_000, 1_000_000, 10_000, 10, 100_000, 100_000, 5_000, 3),
    "full": Scale(1_000_000, 10_000_000, 100_000, 100, 1_000_000, 100_000, 20_000, 3),
    "large": Scale(
        1_000_000, 10_000_000, 100_000, 100, 1_000_000, 100_000, 20_000, 3, big=(5_000_000, 50_000_000)
    ),
}  # fmt: skip
