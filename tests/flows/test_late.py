"""After an outage exactly one of the runs that are due does the work: the newest."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import late
from flows.late import Due

START = datetime(2026, 1, 1, tzinfo=UTC)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["", "end"])), min_size=1, max_size=12), st.randoms())
def test_whatever_run_starts_first_one_of_each_kind_does_the_work_and_it_is_the_newest(
    scheduled: list[tuple[int, str]], random: object
) -> None:
    """Runs are alike when their parameters are; some are scheduled for the same moment."""
    waiting = [
        Due(UUID(int=n + 1), START + timedelta(hours=hour), {"end": end} if end else {})
        for n, (hour, end) in enumerate(scheduled)
    ]
    wanted = {
        max((each for each in waiting if each.parameters == run.parameters), key=lambda r: (r.at, r.id)).id
        for run in waiting
    }
    effective, started = set(), 0
    while waiting:
        mine = waiting.pop(random.randrange(len(waiting)))
        cancelled, newest = late.in_between(mine, waiting)
        waiting = [each for each in waiting if each not in cancelled]
        started += 1
        if newest is None:
            effective.add(mine.id)
    assert effective == wanted
    assert started <= 2 * len(wanted), "at most one run of each kind starts only to give way"


def test_a_flow_keeps_its_signature_and_runs_as_ever_outside_of_a_deployment(prefect_api: None) -> None:
    from prefect import flow

    @flow
    @late.newest_only
    def adding(end: datetime | None = None, number: int = 1) -> int:
        """Add one."""
        return number + 1

    assert adding.description == "Add one."
    assert adding.validate_parameters({"end": "2026-01-01T00:00Z"}) == {"end": START, "number": 1}
    with pytest.raises(Exception, match="number"):
        adding.validate_parameters({"number": "many"})
    assert adding(number=2) == 3
