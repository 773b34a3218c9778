"""What predictions were worth once the truth is known: joined by key and target time, each with its state. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from flows import regression

PENDING, MATURED, EXPIRED = "pending", "matured", "expired"

HINDCAST = "forecasts made in time (hindcast)"
BACKTEST = "forecasts reconstructed later (backtest)"


def with_truth(
    predictions: pd.DataFrame,
    truths: pd.DataFrame,
    *,
    key: Sequence[str],
    truth: str,
    target_time: str,
    at: pd.Timestamp,
    expires_after: timedelta,
) -> pd.DataFrame:
    """Each prediction beside what came, and its state.

    Args:
        predictions: the columns of `key`, `target_time` and whatever else: one row per prediction.
        truths: the columns of `key` and `truth`: one row per target whose truth is known.
        key: what names a target, its time among them where an entity has more than one.
        target_time: the column with the time that a prediction is about, UTC.
        at: the time it is looked at.
        expires_after: a truth still unknown this long after its target time is not waited for.
    Returns:
        The rows of predictions in their order, index 0..n-1, with the truth (null if unknown) and state: "matured" once
        the truth is known, "expired" if it is not waited for any more, else "pending". A truth that comes late makes
        an expired row matured. Empty in, empty out.

    >>> hours = pd.to_datetime(["2026-01-01", "2026-01-09", "2026-01-15"], utc=True)
    >>> rows = with_truth(
    ...     pd.DataFrame({"zone": "J_NYC", "hour": hours, "forecast_mw": 1.0}),
    ...     pd.DataFrame({"zone": "J_NYC", "hour": hours[1:2], "demand_mw": 2.0}),
    ...     key=["zone", "hour"], truth="demand_mw", target_time="hour", at=hours[2], expires_after=timedelta(days=10))
    >>> rows["state"].tolist()
    ['expired', 'matured', 'pending']
    """
    names = list(key)
    joined = predictions.merge(truths[[*names, truth]], on=names, how="left", validate="m:1")
    age = at - joined[target_time]
    state = np.where(joined[truth].notna(), MATURED, np.where(age > expires_after, EXPIRED, PENDING))
    return joined.assign(state=state)


def served(predictions: pd.DataFrame, target: Sequence[str], *, which: Literal["first", "last"]) -> pd.DataFrame:
    """One prediction for each target, of those made in time; where none was, of those made later.

    Args:
        predictions: the columns of `target`, made_at, model_version and backfilled. A null backfilled is a row made
            before that was noted, and counts as made later.
        target: what names a target, and how far ahead it was looked.
        which: the first said, where it is acted on at once; or the last, where the newest is read until its time comes.
    Returns:
        The chosen rows in their order, index 0..n-1, with a backfilled that is never null.

    >>> late = [False, False, True]
    >>> rows = pd.DataFrame({"day": "d", "made_at": [1, 2, 9], "model_version": 1, "backfilled": late})
    >>> [served(rows, ["day"], which=which)["made_at"].tolist() for which in ("first", "last")]
    [[1], [2]]
    """
    late = predictions["backfilled"].astype("boolean").fillna(True).astype("bool")
    numbered = predictions.assign(backfilled=late).reset_index(drop=True)
    said = numbered.sort_values(["made_at", "model_version"], na_position="first", kind="stable")
    if which == "last":
        said = said.iloc[::-1]
    chosen = said.sort_values("backfilled", kind="stable").drop_duplicates(list(target))
    return chosen.sort_index().reset_index(drop=True)


class Judged(NamedTuple):
    """The rows that may be judged together, and what they are: a hindcast or a backtest; the two are never mixed."""

    rows: pd.DataFrame
    kind: Literal["forecasts made in time (hindcast)", "forecasts reconstructed later (backtest)"]

    def states(self) -> dict[str, int]:
        """How many rows are in each state."""
        return {state: int((self.rows["state"] == state).sum()) for state in (PENDING, MATURED, EXPIRED)}

    def matured(self, *columns: str) -> pd.DataFrame:
        """The rows whose truth is known and that have a value in each of these columns."""
        rows = self.rows[self.rows["state"] == MATURED]
        return rows[rows[list(columns)].notna().all(axis=1)]


def judged(joined: pd.DataFrame) -> Judged:
    """The predictions made in time; or, only where there is none of them, those made after their target had begun.

    Args:
        joined: of `with_truth`, with `backfilled` (bool).

    >>> rows = pd.DataFrame({"state": ["matured", "pending"], "backfilled": [True, False]})
    >>> judged(rows).states(), judged(rows.head(1)).kind
    ({'pending': 1, 'matured': 0, 'expired': 0}, 'forecasts reconstructed later (backtest)')
    """
    late = joined["backfilled"].astype("bool")
    if len(joined) and late.all():
        return Judged(joined, "forecasts reconstructed later (backtest)")
    return Judged(joined[~late], "forecasts made in time (hindcast)")


def mean_absolute_errors(rows: pd.DataFrame, truth: str, forecasts: Mapping[str, str]) -> dict[str, float | None]:
    """The mean absolute error of each forecast on the same rows; None where there is no row.

    Args:
        rows: with the columns truth and all of forecasts; none null.
        forecasts: column by the name of the result.

    >>> rows = pd.DataFrame({"mw": [100.0], "ours": [90.0], "naive": [80.0]})
    >>> mean_absolute_errors(rows, "mw", {"mae_mw": "ours", "baseline_mae_mw": "naive"})
    {'mae_mw': 10.0, 'baseline_mae_mw': 20.0}
    """
    return {
        name: None if rows.empty else regression.mae(rows[truth], rows[column]) for name, column in forecasts.items()
    }


def by_horizon(rows: pd.DataFrame, truth: str, *, horizon: str, forecast: str, baseline: str) -> list[dict[str, Any]]:
    """The errors at each horizon beside the baseline's on the same rows, nearest first.

    Args:
        rows: with these columns; none null.
    Returns:
        One dictionary for each horizon: horizon, rows, mae, baseline_mae, skill (None where the baseline is perfect).

    >>> rows = pd.DataFrame({"h": [2, 1], "pm25": [10.0, 10.0], "ours": [9.0, 8.0], "naive": [6.0, 6.0]})
    >>> by_horizon(rows, "pm25", horizon="h", forecast="ours", baseline="naive")[0]
    {'horizon': 1, 'rows': 1, 'mae': 2.0, 'baseline_mae': 4.0, 'skill': 0.5}
    """
    found = []
    for value, some in rows.groupby(horizon):
        ours, theirs = regression.mae(some[truth], some[forecast]), regression.mae(some[truth], some[baseline])
        skill = None if theirs == 0 else 1 - ours / theirs
        found.append({"horizon": int(value), "rows": len(some), "mae": ours, "baseline_mae": theirs, "skill": skill})
    return found
