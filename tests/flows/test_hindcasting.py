"""Predictions beside what came."""

from __future__ import annotations

from datetime import timedelta

import pandas as pd
import pytest

from flows import hindcasting

HOURS = pd.date_range("2026-01-01", periods=4, freq="h", tz="UTC")
PREDICTIONS = pd.DataFrame({"zone": ["a", "a", "b", "b"], "hour": HOURS, "ours": [9.0, 8.0, 7.0, 6.0],
                            "naive": [6.0, 6.0, 6.0, None], "horizon": [1, 2, 1, 2]})  # fmt: skip
TRUTHS = pd.DataFrame({"zone": ["b", "a"], "hour": [HOURS[2], HOURS[0]], "mw": [10.0, 10.0], "more": 1})


def joined(
    truths: pd.DataFrame = TRUTHS, *, at: pd.Timestamp = HOURS[3], late: list[bool] | None = None
) -> pd.DataFrame:
    rows = hindcasting.with_truth(
        PREDICTIONS, truths, key=["zone", "hour"], truth="mw", target_time="hour", at=at,
        expires_after=timedelta(hours=2),
    )  # fmt: skip
    return rows.assign(backfilled=late or [False] * len(rows))


def test_truth_is_joined_by_key_and_target_time_never_by_position() -> None:
    """I8."""
    rows = joined()
    assert rows["mw"].isna().tolist() == [False, True, False, True]
    assert rows["state"].tolist() == ["matured", "pending", "matured", "pending"]
    assert "more" not in rows


def test_a_truth_that_is_not_waited_for_any_more_may_still_come() -> None:
    assert joined(TRUTHS.head(0), at=HOURS[0] + timedelta(hours=3))["state"].tolist() == [
        "expired", "pending", "pending", "pending",
    ]  # fmt: skip
    assert joined(at=HOURS[0] + timedelta(days=9))["state"].tolist() == ["matured", "expired", "matured", "expired"]


def test_no_predictions_are_no_rows() -> None:
    rows = hindcasting.with_truth(
        PREDICTIONS.head(0), TRUTHS, key=["zone", "hour"], truth="mw", target_time="hour", at=HOURS[0],
        expires_after=timedelta(0),
    ).assign(backfilled=pd.Series(dtype="bool"))  # fmt: skip
    judged = hindcasting.judged(rows)
    assert judged.states() == {"pending": 0, "matured": 0, "expired": 0}
    assert hindcasting.mean_absolute_errors(judged.matured(), "mw", {"mae": "ours"}) == {"mae": None}
    assert hindcasting.by_horizon(judged.matured(), "mw", horizon="horizon", forecast="ours", baseline="naive") == []


def test_two_truths_for_one_target_are_refused() -> None:
    with pytest.raises(pd.errors.MergeError):
        joined(pd.concat([TRUTHS, TRUTHS]))


def test_what_was_made_in_time_and_what_was_reconstructed_are_never_mixed() -> None:
    """I9."""
    some = hindcasting.judged(joined(late=[True, False, False, False]))
    assert (len(some.rows), some.kind) == (3, hindcasting.HINDCAST)
    none = hindcasting.judged(joined(late=[True] * 4))
    assert (len(none.rows), none.kind) == (4, hindcasting.BACKTEST)


def test_errors_are_on_the_rows_that_every_forecast_has() -> None:
    rows = hindcasting.judged(joined()).matured("ours", "naive")
    assert hindcasting.mean_absolute_errors(rows, "mw", {"mae": "ours", "baseline": "naive"}) == {
        "mae": 2.0, "baseline": 4.0,
    }  # fmt: skip
    assert [row["rows"] for row in hindcasting.by_horizon(
        rows, "mw", horizon="horizon", forecast="ours", baseline="naive"
    )] == [2]  # fmt: skip
