"""Five days of the cheapest system, disturbed on three and broken off once; then every law of the simulator holds."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tests.simulation import disturbances as happens
from tests.simulation.disturbances import Disturbance
from tests.simulation.evidence import Evidence, Told, events_of, gather
from tests.simulation.laws import INVALID, LAWS, STALE, Law
from tests.simulation.replay import Replay
from tests.simulation.worlds import WORLDS, before, days

pytestmark = pytest.mark.long

FED = ("stock_bars", "stock_outcomes", "stock_features")
WORLD = replace(
    WORLDS["stock"], every=1, history=(before(30),), models=(), sample=days(0, 3),
    happens=(
        Disturbance(
            "outage", "no bar on Wednesday", "source", "read_bars", days(2, 3), happens.outage,
            error=("ServiceUnavailable",),
        ),
        Disturbance(
            "schema change", "volumes as text on Thursday", "source", "read_bars", days(3, 4),
            happens.retyped("volume", "str"), error=("SchemaMismatch",), feeds=FED,
        ),
        Disturbance(
            "bad batch", "a negative volume on Friday", "source", "read_bars", days(4, 5),
            happens.spoilt("volume", -1, newest=1), error=("InvalidData",),
        ),
    ),
)  # fmt: skip
"""From Martin Luther King's day on, without models: what is published is the same price."""


@pytest.fixture(scope="module")
def week(prefect_api: None, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Two replays of one home: the second goes on where the store says that the first has come."""
    from prefect import flow
    from prefect.client.orchestration import get_client

    home, began = tmp_path_factory.mktemp("simulation"), datetime.now(UTC)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FEATURESTORE_HOME", "TRIPTYCH_DATA", "TRIPTYCH_MLFLOW_URI", "TRIPTYCH_STOCK_SYMBOLS"):
            patch.delenv(name, raising=False)
        patch.setenv("TRIPTYCH_HOME", str(home))
        patch.setenv("TRIPTYCH_SOURCE", "simulated")
        flow(Replay(WORLD).go, name="broken off")(3)
        ends = flow(Replay(WORLD).run, name="to its end")(5)
    with get_client(sync_client=True) as client:
        for _ in range(60):  # the server stores events some seconds later
            told = events_of(client, "stock", began)
            if any(event["event"] == INVALID for event in told):
                break
            time.sleep(0.2)
    return gather(WORLD, home, ends, told)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_every_law_holds_after_a_disturbed_week(week: Evidence, law: Law) -> None:
    assert law(week) == []


def test_the_features_answered_each_disturbance_as_they_should(week: Evidence) -> None:
    """One run on Saturday writes what three had not been able to."""
    answers = {call["at"].day: call["error"] or call["answer"] > 0 for call in week.ended("features")}
    assert answers == {
        19: True, 20: True, 21: "ServiceUnavailable", 22: "SchemaMismatch", 23: "InvalidData", 24: True,
    }  # fmt: skip


def test_a_replay_goes_on_where_the_store_says_and_not_from_the_beginning(week: Evidence) -> None:
    """What failed before the break is tried again; what was committed is not."""
    ended = [call["at"].day for call in week.ended("features")]
    assert ended.count(19) == 1
    assert ended.count(20) == 1


def test_an_alert_too_many_would_be_seen(week: Evidence) -> None:
    from tests.simulation.laws import every_alert_once

    twice = replace(week, told=(*week.told, Told(STALE, "triptych.feature-group.stock_bars.1")))
    assert len(every_alert_once(twice)) == 1
