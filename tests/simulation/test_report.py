"""What the simulator shows of the evidence."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import timedelta

from rich.console import Console

from tests.simulation import laws, report
from tests.simulation.running import Progress as Shown
from tests.simulation.test_laws import SOUND
from tests.simulation.worlds import BEGINS, WORLDS


def shown(renderable: object) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_every_law_of_every_system_has_a_verdict() -> None:
    verdicts = report.judge([SOUND, replace(SOUND, world=replace(SOUND.world, system="other"))])
    assert len(verdicts) == 2 * len(laws.LAWS)
    assert shown(report.table(verdicts)).count("holds") == 2 * len(laws.LAWS)


def test_a_violation_is_counted_and_told_in_words() -> None:
    broken = replace(SOUND, told=SOUND.told[1:])
    text = shown(report.table(report.judge([broken])))
    assert "1 x" in text
    assert "toy: every_alert_once: triptych.freshness.violated of triptych.feature-group.toy_spine.1" in text


def test_each_disturbance_is_shown_with_what_the_features_answered() -> None:
    rows = report.disturbed([SOUND])
    assert [(row["kind"], row["answered"]) for row in rows] == [
        ("outage", "1 x ServiceUnavailable"), ("bad batch", "1 x InvalidData"),
    ]  # fmt: skip
    assert "1 x InvalidData" in shown(report.what_happened([SOUND]))


def test_programs_get_the_same_as_json() -> None:
    verdicts = report.judge([SOUND])
    found = json.loads(json.dumps(report.as_json([SOUND], verdicts, seconds=61.0, killed={"toy": 2}), default=str))
    assert [law["violations"] for law in found["laws"]] == [[]] * len(laws.LAWS)
    assert found["killed"] == {"toy": 2}
    assert "toy on day 2" in report.figures([SOUND], seconds=61.0, killed={"toy": 2}, days=4)


def test_in_a_log_file_progress_is_a_line_now_and_then() -> None:
    """However often it is looked at."""
    system = Shown("toy", "Running")
    console = Console(file=io.StringIO(), width=200)
    with report.Progress(console, [system]) as progress:
        for hours in range(0, 21 * 24, 6):
            system.at = BEGINS + timedelta(hours=hours)
            progress.changed()
    assert [line.split()[-1] for line in console.file.getvalue().splitlines()] == ["0)", "10)", "20)"]  # type: ignore[attr-defined]


def test_the_cadence_of_each_system_is_said_as_it_is() -> None:
    assert [f"every {world.every} days" in report.cadence(world) for world in WORLDS.values()] == [True] * len(WORLDS)
