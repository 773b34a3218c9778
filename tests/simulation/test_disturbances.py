"""What the simulated world does to a source: by time and row alone, the same however often it is asked."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from featurestore.times import Window
from flows import windows
from flows.electricity import simulator
from flows.fraud import source
from flows.http import ServiceUnavailable
from tests.simulation import disturbances, ledger
from tests.simulation.disturbances import Disturbance, Read
from tests.simulation.worlds import BEGINS, DAY, WORLDS, days


def labels(start: datetime, end: datetime) -> pd.DataFrame:
    """One outcome every hour, known when it happens."""
    hours = pd.date_range(BEGINS - 9 * DAY, BEGINS + 9 * DAY, freq="h", unit="us")
    rows = pd.DataFrame({"tid": [f"t{n}" for n in range(len(hours))], "is_fraud": 0, "known_at": hours})
    return rows[(rows["known_at"] >= start) & (rows["known_at"] < end)].reset_index(drop=True)


@pytest.mark.parametrize(
    "disturbed",
    [
        disturbances.delayed_outcomes(labels, days(1, 3)),
        disturbances.corrected_outcomes(2 * DAY, share=0.2)(labels, days(1, 3)),
    ],
    ids=["delayed", "corrected"],
)
def test_two_windows_give_what_one_does(disturbed: Read) -> None:
    """A backfill over all days meets the outcomes that daily runs met."""
    whole = disturbed(BEGINS - DAY, BEGINS + 8 * DAY)
    parts = [disturbed(BEGINS + n * DAY, BEGINS + (n + 1) * DAY) for n in range(-1, 8)]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole)


def test_delayed_outcomes_are_all_told_at_the_end() -> None:
    disturbed = disturbances.delayed_outcomes(labels, days(1, 3))
    assert disturbed(BEGINS + DAY, BEGINS + 3 * DAY).empty
    assert len(disturbed(BEGINS + 3 * DAY, BEGINS + 3 * DAY + timedelta(hours=1))) == 48 + 1


def test_a_wrong_outcome_is_told_again_as_it_is() -> None:
    rows = disturbances.corrected_outcomes(2 * DAY, share=0.2)(labels, days(1, 3))(BEGINS, BEGINS + 8 * DAY)
    wrong = rows[rows["is_fraud"] == 1]
    assert 0 < len(wrong) < 48
    assert sorted(wrong["known_at"] + 2 * DAY) == sorted(rows[rows["tid"].duplicated()]["known_at"])


def test_late_rows_are_there_after_their_delay() -> None:
    disturbed = disturbances.late("tid", "known_at", timedelta(hours=30), share=0.3)(labels, days(0, 1))
    with windows.frozen(BEGINS + DAY):
        assert len(disturbed(BEGINS, BEGINS + DAY)) < 24
    with windows.frozen(BEGINS + 3 * DAY):
        assert len(disturbed(BEGINS, BEGINS + DAY)) == 24


def test_outside_of_its_window_nothing_happens() -> None:
    ordinary = labels(BEGINS, BEGINS + DAY)
    with windows.frozen(BEGINS + 5 * DAY):
        for wrap in (disturbances.outage, disturbances.renamed("tid", "x"), disturbances.retyped("is_fraud", "str"),
                     disturbances.spoilt("is_fraud", 7, newest=3)):  # fmt: skip
            pd.testing.assert_frame_equal(wrap(labels, days(1, 3))(BEGINS, BEGINS + DAY), ordinary)


def test_within_it_the_source_is_silent_or_gives_something_else() -> None:
    with windows.frozen(BEGINS + 2 * DAY):
        with pytest.raises(ServiceUnavailable):
            disturbances.outage(labels, days(1, 3))(BEGINS, BEGINS + DAY)
        assert "x" in disturbances.renamed("tid", "x")(labels, days(1, 3))(BEGINS, BEGINS + DAY)
        spoilt = disturbances.spoilt("is_fraud", 7, newest=3)(labels, days(1, 3))(BEGINS, BEGINS + DAY)
        assert (spoilt["is_fraud"] == 7).tolist() == [False] * 21 + [True] * 3


def test_the_door_is_as_it_was_afterwards() -> None:
    ordinary = source.read_labels
    disturbance = Disturbance("outage", "", "source", "read_labels", days(0, 9), disturbances.outage)
    with disturbances.happening("fraud", [disturbance]):
        assert source.read_labels is not ordinary
    assert source.read_labels is ordinary


def test_drift_is_the_simulators_own() -> None:
    window = Window(BEGINS, BEGINS + 2 * DAY)
    drifting = disturbances.told_of(drift=0.5)(simulator.demand, days(1, 9))(window, as_of=window.end)
    usual = simulator.demand(window, as_of=window.end)
    ratio = drifting["demand_mw"] / usual["demand_mw"]
    assert ratio[drifting["hour"] < BEGINS + DAY].eq(1).all()
    assert ratio[drifting["hour"] >= BEGINS + DAY].between(1.49, 1.51).all()


def test_every_disturbance_of_the_issue_happens_to_some_system() -> None:
    """X5: outage, late and corrected rows, schema change, bad batch, drift, delayed labels; worse and better models."""
    kinds = {each.kind for world in WORLDS.values() for each in world.happens}
    assert kinds == {
        "outage", "late rows", "corrected rows", "schema change", "bad batch", "drift", "delayed labels",
    }  # fmt: skip
    assert any(len(world.spoilt) > 1 for world in WORLDS.values())


def test_every_disturbance_lasts_over_a_tick() -> None:
    for world in WORLDS.values():
        for each in world.happens:
            assert [at for at in world.ticks(60) if each.lasted(at)], f"{world.system}: {each.says}"


# --- the ledger --------------------------------------------------------------------------------------


def test_a_ledger_keeps_answers_and_errors_and_goes_on(tmp_path: Path) -> None:
    book = ledger.Ledger(tmp_path / "ledger.jsonl")
    counted = iter(range(9))
    with windows.frozen(BEGINS):
        with book.call("features", {"n": lambda: next(counted)}) as told:
            told["answer"] = 3
        with book.call("features", {"n": lambda: next(counted)}):
            raise ValueError("no")
    found = [(each["at"], each["state"], each.get("answer"), each.get("error")) for each in ledger.read(book.path)]
    assert found == [
        (BEGINS, "begun", None, None), (BEGINS, "ended", 3, None),
        (BEGINS, "begun", None, None), (BEGINS, "ended", None, "ValueError"),
    ]  # fmt: skip
    assert ledger.read(book.path)[1]["before"] == {"n": 0}


def test_a_line_that_a_kill_cut_off_is_left_out(tmp_path: Path) -> None:
    book = ledger.Ledger(tmp_path / "ledger.jsonl")
    with windows.frozen(BEGINS):
        book.write(ledger.NOTE, note="one")
    with book.path.open("a") as file:
        file.write(json.dumps({"at": "2026-01-01", "what": "no"})[:17])
    assert [each["note"] for each in ledger.read(book.path)] == ["one"]
