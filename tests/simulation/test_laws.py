"""Each law of the simulator sees the violation that it is there for, and says nothing of a sound replay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pandas as pd
import pytest

from featurestore.times import Window
from tests.simulation import disturbances as happens
from tests.simulation import laws
from tests.simulation.disturbances import Disturbance
from tests.simulation.evidence import Decided, Evidence, Group, Told, Version
from tests.simulation.laws import LAWS, Law
from tests.simulation.worlds import BEGINS, DAY, HOUR, Predictions, World, before, days

OUTAGE = Disturbance("outage", "", "source", "read", days(2, 3), happens.outage, error=("ServiceUnavailable",))
WORLD = World(
    "toy", history=(before(10),), every=1, hours=(5, 6), train_every=7, spine="toy_spine", labels="toy_labels",
    known_at=("time", "known_at"), models=("toy",), happens=(OUTAGE,), spoilt=(days(0, 1), days(3, 4)),
    predictions=(Predictions("toy_predictions", "time", (("model_version", "toy"),), after=2 * DAY),),
)  # fmt: skip


def at(day: float) -> datetime:
    return BEGINS + day * DAY


def frame(**columns: list[Any]) -> pd.DataFrame:
    return pd.DataFrame(columns)


def call(day: float, step: str = "features", error: str | None = None, after: int = 1) -> dict[str, Any]:
    versions = {"toy_spine": 1, "toy_labels": 1}
    return {
        "at": at(day), "what": "call", "state": "ended", "step": step, "error": error, "message": "", "answer": 3,
        "before": {"versions": versions}, "after": {"versions": versions | {"toy_spine": after}},
    }  # fmt: skip


def note(name: str, **facts: Any) -> dict[str, Any]:
    return {"at": at(4), "what": "note", "note": name, **facts}


def decided(day: float, what: str, why: str = "") -> Decided:
    return Decided(at(day), what, f"{at(day).isoformat()} {what} by flow run x: {why}")


WINDOWS = (*WORLD.history, *(days(n, n + 1) for n in range(4)))
SOUND = Evidence(
    WORLD, at(4),
    calls=(
        call(1, after=2), call(2.2, error="ServiceUnavailable"), call(3, after=2), call(3, step="inference"),
        call(3.5, error="InvalidData"),
        note("recomputed", window="w", rows_written=0, before={"toy_spine": "a"}, after={"toy_spine": "a"}),
        note("kept", group="toy_spine", version=1, content="a"),
        note("read again", group="toy_spine", version=1, content="a"),
    ),
    groups={
        "toy_spine": Group(("key", "time"), frame(key=[1, 2], time=[at(1), at(2)]), WINDOWS),
        "toy_labels": Group(
            ("key",), frame(key=[1, 2], time=[at(1), at(2)], known_at=[at(1.5), at(2.5)]), WINDOWS
        ),
        "toy_predictions": Group(
            ("key", "model_version"),
            frame(key=[1, 2, 3], time=[at(-3), at(1), at(3)], made_at=[at(0.1), at(1.25), at(3.25)],
                  model_version=[1, 1, 2], backfilled=[True, False, False]),
            WINDOWS,
        ),
        "freshness": Group(
            ("feature_group", "checked_at"),
            frame(feature_group=["toy_spine@1"] * 4, checked_at=[at(n) for n in range(4)],
                  state=["fresh", "stale", "stale", "fresh"]),
        ),
        "live_metrics": Group(
            ("model", "slice", "horizon", "measured_at"),
            frame(model=["toy"] * 3, slice=["all", "all", "zone=a"], horizon=[0] * 3, measured_at=[at(1), at(2), at(2)],
                  state=["too few", "fine", "regressed"], matured=[0, 100, 0], expired=[0, 2, 9]),
        ),
        "drift": Group(
            ("model", "feature", "measured_at"),
            frame(model=["toy"] * 3, feature=["amount"] * 3, measured_at=[at(n) for n in range(3)],
                  state=["same", "drifted", "drifted"]),
        ),
    },
    versions=(
        Version("toy", 1, (decided(0, "rejected", "only 1 % better"), decided(0, "promoted", laws.BY_HAND)), at(-1)),
        Version("toy", 2, (decided(2, "promoted", "5 % better than champion (version 1)"),), at(1)),
        Version("toy", 3, (decided(3.1, "rejected", "only -5 % better than champion (version 2)"),), at(2)),
    ),
    told=(
        Told(laws.STALE, "triptych.feature-group.toy_spine.1"), Told(laws.FRESH, "triptych.feature-group.toy_spine.1"),
        *(Told(laws.REGISTERED, f"triptych.model.toy.{n}") for n in (1, 2, 3)),
        Told(laws.REJECTED, "triptych.model.toy.1"), Told(laws.PROMOTED, "triptych.model.toy.2"),
        Told(laws.REJECTED, "triptych.model.toy.3"), Told(laws.INVALID, "triptych.feature-group.toy_labels.1"),
        Told(laws.DRIFT, "triptych.model.toy"),
    ),
    status={"state": "yellow", "why": ["toy: 1 of its features have drifted"]},
)  # fmt: skip
"""Four days: an outage, a refused batch, a model put there by hand, a better and a worse one, stale rows, a drift."""


def bad_batch_on(evidence: Evidence) -> Evidence:
    """The refused batch is expected: the world's only disturbance with that error."""
    spoilt = Disturbance("bad batch", "", "source", "read", days(3, 4), happens.outage, error=("InvalidData",))
    return replace(evidence, world=replace(WORLD, happens=(OUTAGE, spoilt)), calls=tuple(
        each for each in evidence.calls if not (each.get("step") == "features" and each["at"] == at(3))
    ))  # fmt: skip


SOUND = bad_batch_on(SOUND)


def with_group(name: str, **changes: Any) -> Evidence:
    group = SOUND.groups[name]
    rows = group.rows.assign(**{k: v for k, v in changes.items() if k != "windows"})
    return replace(SOUND, groups=SOUND.groups | {name: Group(group.key, rows, changes.get("windows", group.windows))})


def with_calls(*calls: dict[str, Any], without: Callable[[dict[str, Any]], bool] = lambda _: False) -> Evidence:
    return replace(SOUND, calls=(*(each for each in SOUND.calls if not without(each)), *calls))


def with_versions(*versions: Version) -> Evidence:
    return replace(SOUND, versions=versions)


def is_note(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda each: each.get("note") == name


FIRST, BETTER, WORSE = SOUND.versions

BROKEN: list[tuple[str, Law, Evidence]] = [
    ("a window is missing", laws.no_gap, with_group("toy_spine", windows=WINDOWS[:2] + WINDOWS[3:])),
    ("labels end earlier", laws.no_gap, with_group("toy_labels", windows=WINDOWS[:-1])),
    ("features end long before", laws.caught_up, replace(SOUND, ends=at(4) + 3 * HOUR)),
    ("nothing was committed", laws.caught_up, with_group("toy_spine", windows=())),
    ("a key twice", laws.no_duplicate, with_group("toy_labels", key=[1, 1])),
    ("a label known before", laws.no_leak, with_group("toy_labels", known_at=[at(1), at(3)])),
    ("a label of the future", laws.no_leak, with_group("toy_labels", known_at=[at(1.5), at(4.5)])),
    ("learned after its gate", laws.no_leak, with_versions(FIRST, replace(BETTER, learned_until=at(2.1)))),
    ("other features", laws.no_skew, with_calls(
        note("recomputed", window="w", rows_written=0, before={"toy_spine": "a"}, after={"toy_spine": "b"}))),
    ("rows written again", laws.no_skew, with_calls(
        note("recomputed", window="w", rows_written=1, before={"toy_spine": "a"}, after={"toy_spine": "a"}))),
    ("nothing computed again", laws.no_skew, with_calls(without=is_note("recomputed"))),
    ("another past", laws.the_past_stays, with_calls(note("read again", group="toy_spine", version=1, content="b"))),
    ("no past", laws.the_past_stays, with_calls(without=is_note("read again"))),
    ("an outage that wrote", laws.refused_batches_change_nothing, with_calls(
        call(2.3, error="ServiceUnavailable", after=2))),
    ("a bad batch that wrote", laws.bad_batches_stop_before_the_spine, with_calls(
        call(3.6, error="InvalidData", after=2))),
    ("a failure in peace", laws.only_what_was_disturbed_failed, with_calls(call(1.5, error="KeyError"))),
    ("a failing inference", laws.only_what_was_disturbed_failed, with_calls(call(2.5, "inference", "NotFound"))),
    ("an outage unnoticed", laws.only_what_was_disturbed_failed, with_calls(call(2.4))),
    ("an outage as another error", laws.only_what_was_disturbed_failed, with_calls(call(2.4, error="KeyError"))),
    ("a spoilt model promoted", laws.no_false_promotion, with_versions(
        FIRST, BETTER, replace(WORSE, decisions=(decided(3.1, "promoted", "-5 % better"),)))),
    ("promoted against a reason", laws.no_false_promotion, with_versions(
        FIRST, replace(BETTER, decisions=(decided(2, "promoted", "only 5 % better"),)))),
    ("no spoilt model rejected", laws.the_gate_tells_worse_from_better, with_versions(
        replace(FIRST, decisions=FIRST.decisions[1:]), BETTER)),
    ("no better model promoted", laws.the_gate_tells_worse_from_better, with_versions(FIRST, WORSE)),
    ("late and not flagged", laws.predictions_in_time, with_group("toy_predictions", backfilled=[False] * 3)),
    ("never in time", laws.predictions_in_time, with_group(
        "toy_predictions", made_at=[at(9)] * 3, backfilled=[True] * 3)),
    ("an old version", laws.predictions_by_the_champion, with_group("toy_predictions", model_version=[1, 1, 1])),
    ("a version to come", laws.predictions_by_the_champion, with_group("toy_predictions", model_version=[1, 2, 2])),
    ("promoted and not used", laws.promoted_models_serve, with_group("toy_predictions", model_version=[1, 1, 1])),
    ("no look at the champion", laws.judged_beside_the_champion, with_versions(
        FIRST, replace(BETTER, decisions=(decided(2, "promoted", "5 % better than ridge"),)))),
    ("a look at another one", laws.judged_beside_the_champion, with_versions(
        FIRST, BETTER, replace(WORSE, decisions=(decided(3.1, "rejected", "better than champion (version 1)"),)))),
    ("no truth", laws.truth_arrives, with_group("live_metrics", matured=[0, 0, 0])),
    ("given up", laws.truth_arrives, with_group("live_metrics", expired=[0, 20, 0])),
    ("red in peace", laws.status_says_what_is, replace(SOUND, status={"state": "red", "why": []})),
    ("stale and not red", laws.status_says_what_is, with_group("freshness", state=["fresh"] * 3 + ["stale"])),
    ("regressed and not red", laws.status_says_what_is, with_group(
        "live_metrics", state=["too few", "regressed", "regressed"])),
    *((f"untold: {each.name}", laws.every_alert_once, replace(
        SOUND, told=tuple(other for other in SOUND.told if other is not each))) for each in SOUND.told),
    *((f"told twice: {each.name}", laws.every_alert_once, replace(SOUND, told=(*SOUND.told, each)))
      for each in SOUND.told),
]  # fmt: skip


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_a_sound_replay_breaks_no_law(law: Law) -> None:
    assert law(SOUND) == []


@pytest.mark.parametrize(("law", "evidence"), [each[1:] for each in BROKEN], ids=[each[0] for each in BROKEN])
def test_a_law_sees_the_violation_it_is_there_for(law: Law, evidence: Evidence) -> None:
    assert len(law(evidence)) >= 1
    assert all(isinstance(each, str) and each for each in law(evidence))


def test_every_law_has_a_violation_that_it_sees() -> None:
    assert {law for _, law, _ in BROKEN} == set(LAWS)


def test_what_was_committed_twice_or_overlaps_is_no_gap() -> None:
    """A run that was killed before its last group writes the others again."""
    again = (*WINDOWS, WINDOWS[-1], Window(at(1), at(3)))
    assert laws.no_gap(with_group("toy_spine", windows=again)) == []


@pytest.mark.parametrize(
    ("states", "found"),
    [([], []), (["fine"] * 3, []), (["bad"], ["bad"]), (["fine", "bad", "bad", "fine", "bad"], ["bad", "fine", "bad"])],
)
def test_changes_are_counted_once_however_long_they_last(states: list[str], found: list[str]) -> None:
    assert laws.changes(states, usual="fine") == found


def test_a_model_is_told_of_as_a_whole_and_too_few_rows_are_no_change() -> None:
    states = ["fine", "too few", "regressed", "too few", "regressed", "fine"]
    whole = frame(model=["toy"] * 6, slice=["all"] * 6, horizon=[0] * 6, measured_at=[*range(6)], state=states)
    part = whole.assign(slice="zone=J_NYC", state="regressed")
    assert laws.live_changes(pd.concat([part, whole])) == [("toy", "regressed"), ("toy", "fine")]


def test_columns_that_drift_at_one_measurement_are_told_of_at_once() -> None:
    rows = frame(
        model=["toy"] * 6, feature=["amount", "hour"] * 3, measured_at=[1, 1, 2, 2, 3, 3],
        state=["drifted", "drifted", "drifted", "same", "drifted", "drifted"],
    )  # fmt: skip
    assert laws.drift_changes(rows) == [("toy", "drifted"), ("toy", "same"), ("toy", "drifted")]


def test_the_champion_at_a_time_is_the_last_one_promoted() -> None:
    assert laws.champions(SOUND.versions, "toy") == [(at(0), 1), (at(2), 2)]
