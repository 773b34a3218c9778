"""What forecasts were worth once the demand is known: joined by zone and hour, each with its state. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd

from flows import regression

PENDING, MATURED, EXPIRED = "pending", "matured", "expired"


def with_truth(
    predictions: pd.DataFrame, demand: pd.DataFrame, *, at: pd.Timestamp, expires_after: timedelta
) -> pd.DataFrame:
    """Each forecast beside what came, and its state.

    Args:
        predictions: zone, hour, forecast_mw and whatever else: one row per forecast.
        demand: zone, hour, demand_mw (MW): one row per hour whose demand is known.
        at: the time it is looked at.
        expires_after: a demand still unknown this long after its hour is not waited for.
    Returns:
        The rows of predictions in their order, index 0..n-1, with demand_mw (null if unknown) and state: "matured" once
        the demand is known, "expired" if it is not waited for any more, else "pending". A demand that comes late makes
        an expired row matured. Empty in, empty out.

    >>> hours = pd.to_datetime(["2026-01-01", "2026-01-09", "2026-01-15"], utc=True)
    >>> rows = with_truth(
    ...     pd.DataFrame({"zone": "J_NYC", "hour": hours, "forecast_mw": 1.0}),
    ...     pd.DataFrame({"zone": "J_NYC", "hour": hours[1:2], "demand_mw": 2.0}),
    ...     at=hours[2], expires_after=timedelta(days=10))
    >>> rows["state"].tolist()
    ['expired', 'matured', 'pending']
    """
    joined = predictions.merge(demand[["zone", "hour", "demand_mw"]], on=["zone", "hour"], how="left", validate="m:1")
    age = at - joined["hour"]
    state = np.where(joined["demand_mw"].notna(), MATURED, np.where(age > expires_after, EXPIRED, PENDING))
    return joined.assign(state=state)


def worth(joined: pd.DataFrame, operator: pd.DataFrame) -> dict[str, Any]:
    """The errors of matured forecasts, beside the baseline's and the operator's on the same hours.

    Args:
        joined: of `with_truth`, with baseline_mw and backfilled.
        operator: zone, hour, forecast_mw.
    Returns:
        `errors_of` says what was measured: forecasts made in time; or, only where there is none of them, rows computed
        after their hour had begun, which make no hindcast but a backtest. The two are never mixed. Then counts by
        state; MAE and MAPE of forecast, baseline and operator, null where there is nothing to measure on.

    >>> rows = pd.DataFrame({"zone": "J_NYC", "hour": [1, 2], "forecast_mw": [90.0, 100.0], "baseline_mw": [80.0, 80.0],
    ...                      "demand_mw": [100.0, None], "state": ["matured", "pending"], "backfilled": False})
    >>> found = worth(rows, pd.DataFrame({"zone": "J_NYC", "hour": [1], "forecast_mw": [95.0]}))
    >>> found["mae_mw"], found["baseline_mae_mw"], found["operator_mae_mw"], found["pending"]
    (10.0, 20.0, 5.0, 1)
    >>> found["errors_of"], worth(rows.assign(backfilled=True), rows)["errors_of"]
    ('forecasts made in time (hindcast)', 'forecasts reconstructed later (backtest)')
    """
    late = joined["backfilled"].astype("bool")
    in_time = joined[~late] if len(joined) > late.sum() else joined
    is_backtest = bool(late.any()) and in_time is joined
    rows = in_time[(in_time["state"] == MATURED) & in_time["baseline_mw"].notna()]
    rows = rows.merge(
        operator[["zone", "hour", "forecast_mw"]].rename(columns={"forecast_mw": "operator_mw"}),
        on=["zone", "hour"], how="left",
    )  # fmt: skip
    both = rows[rows["operator_mw"].notna()]
    return {
        "errors_of": "forecasts reconstructed later (backtest)" if is_backtest else "forecasts made in time (hindcast)",
        **{state: int((in_time["state"] == state).sum()) for state in (PENDING, MATURED, EXPIRED)},
        "rows_measured": len(rows),
        "mae_mw": _error("mae", rows, "forecast_mw"),
        "mape": _error("mape", rows, "forecast_mw"),
        "baseline_mae_mw": _error("mae", rows, "baseline_mw"),
        "operator_mae_mw": _error("mae", both, "operator_mw"),
        "mae_mw_beside_operator": _error("mae", both, "forecast_mw"),
    }


def _error(metric: regression.Metric, rows: pd.DataFrame, column: str) -> float | None:
    if rows.empty:
        return None
    return (regression.mae if metric == "mae" else regression.mape)(rows["demand_mw"], rows[column])
