"""When a training is asked for: by rule, after a cool-down, never because of bad data."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from flows.monitored import Retraining
from flows.retraining import Facts, verdict
from flows.splitting import SplitPlan

NOW = datetime(2026, 3, 1, tzinfo=UTC)
OLD = NOW - timedelta(days=30)
DAY = timedelta(days=1)
RULE = Retraining(SplitPlan(DAY, 0.2, 0.2), after=14 * DAY, cool_down=7 * DAY)
QUIET = Facts(newest_made=OLD, last_asked=None, new_labels=3 * DAY, regressed=False, drifted=[], bad_data=[])


def test_nothing_asks_for_it_when_nothing_has_happened() -> None:
    assert verdict(RULE, QUIET, NOW) == (False, "nothing asks for it")


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        (replace(QUIET, regressed=True), "the live metric has regressed"),
        (
            replace(QUIET, new_labels=14 * DAY),
            "labels of 14 days are new since the newest version (asked for from 14 on)",
        ),
        (
            replace(QUIET, regressed=True, new_labels=20 * DAY),
            "the live metric has regressed; labels of 20 days are new since the newest version (asked for from 14 on)",
        ),
    ],
)
def test_a_drop_or_enough_new_labels_ask_for_it(facts: Facts, why: str) -> None:
    assert verdict(RULE, facts, NOW) == (True, why)


def test_drift_alone_asks_only_where_that_was_declared() -> None:
    """I13: a model may hold on new ground, and the labels of the new ground may not be there yet."""
    drifted = replace(QUIET, drifted=["amount", "hour"])
    assert verdict(RULE, drifted, NOW) == (False, "nothing asks for it: drift alone does not")
    assert verdict(replace(RULE, on_drift=True), drifted, NOW) == (True, "drifted: amount, hour")


def test_not_twice_within_the_cool_down_whoever_made_the_newest_version() -> None:
    due = replace(QUIET, regressed=True)
    for when, asks in [(NOW - timedelta(days=6), False), (NOW - timedelta(days=7), True)]:
        assert verdict(RULE, replace(due, newest_made=when), NOW).ask is asks
        assert verdict(RULE, replace(due, last_asked=when), NOW).ask is asks
    refused = verdict(RULE, replace(due, last_asked=NOW - timedelta(days=1)), NOW)
    assert refused.why == (
        "the live metric has regressed; but it was asked for at 2026-02-28 00:00, less than 7 days ago"
    )


def test_bad_data_are_repaired_and_not_learned_from() -> None:
    spoilt = replace(QUIET, regressed=True, drifted=["amount"], bad_data=["fraud_transactions"])
    found = verdict(replace(RULE, on_drift=True), spoilt, NOW)
    assert not found.ask
    assert "the newest batch of fraud_transactions was refused: repair it first" in found.why


def test_the_first_version_is_left_to_the_schedule() -> None:
    assert not verdict(RULE, replace(QUIET, newest_made=None, regressed=True), NOW).ask
