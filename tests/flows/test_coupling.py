"""Who waits for new rows: a lost event delays what it would have started, and nothing else; new labels are counted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.times import Window
from flows import registry, serving, training
from flows.registry import Lineage, ModelVersion
from flows.splitting import SplitPlan

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=20))
def test_whatever_events_are_lost_the_windows_tile_time_and_the_schedule_catches_up(
    commits: list[tuple[int, bool]],
) -> None:
    """P3: features advance by hours; of each commit the event arrives or not; in the end comes a scheduled run."""
    spine = SimpleNamespace(watermark=START, name="spine")
    predictions = SimpleNamespace(watermark=None)
    written: list[Window] = []

    def inference() -> None:
        first = spine.watermark - START  # everything, at the first run
        window = serving.window_to_predict(spine, predictions, None, None, first_window=first, system="fraud")
        if window is not None:
            written.append(window)
            predictions.watermark = window.end

    for hours, arrives in commits:
        spine.watermark += hours * HOUR
        if arrives:
            inference()
    inference()
    assert written[0].start == START
    assert written[-1].end == spine.watermark
    assert all(before.end == after.start for before, after in pairwise(written))


PLAN = SplitPlan(label_delay=2 * DAY, validation_share=0.1, test_share=0.2, due_after=7 * DAY)


def labels(days: float) -> SimpleNamespace:
    """A group with labels of so many days."""
    window = Window(START, START + days * DAY)
    return SimpleNamespace(name="labels", watermark=window.end, windows=lambda: [window])


def version(days: float) -> ModelVersion:
    """A version that was trained up to so many days after the start, and rejected."""
    lineage = Lineage("view", 1, 1, "sha256:ab", {}, Window(START, START + days * DAY), "simulated")
    tags = {**registry._tags(lineage), "decision": "rejected"}
    return ModelVersion("fraud", 3, "run-1", (), START, {}, tags)


@pytest.mark.parametrize(
    ("newest", "labelled", "why"),
    [
        (None, 47, ""),
        (None, 46.9, "a first model needs labels of 45 days, 0:00:00"),
        (version(60), 69, ""),
        (version(60), 68.9, "fraud version 3 has learned all labels but those of 6 days"),
        (version(60), 62, "fraud version 3 has learned all labels but those of 0:00:00"),
    ],
)
def test_training_is_due_without_a_version_or_when_enough_labels_have_matured_since(
    newest: ModelVersion | None, labelled: float, why: str
) -> None:
    """A label is known two days after its row; a rejected version counts: the next one waits as long."""
    said = training.why_not_due(newest, labels(labelled), PLAN)
    assert said.startswith(why)
    assert bool(said) == bool(why)


def test_without_labels_nothing_is_due() -> None:
    empty = SimpleNamespace(name="labels", watermark=None, windows=list)
    assert training.why_not_due(None, empty, PLAN) == "labels has no labels yet"
