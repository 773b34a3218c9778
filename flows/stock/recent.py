"""What was forecast of late, and what came of it: the "Recent predictions" of the talk, and their worth. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from flows import hindcasting
from flows.stock.sessions import TIME_ZONE


def with_truth(
    predictions: pd.DataFrame, outcomes: pd.DataFrame, *, at: datetime, expires_after: timedelta
) -> pd.DataFrame:
    """One forecast for each symbol and close beside what came of it.

    Args:
        predictions: rows of `schema.PREDICTIONS`.
        outcomes: rows of `schema.OUTCOMES`.
        at: the time it is looked at.
        expires_after: a close still unknown this long after its time is not waited for.
    Returns:
        The rows of `said_last`, with next_close (USD, for one share of the day of the forecast) and true_return, both
        null until known, and the state of `hindcasting.with_truth`: joined by symbol and day, never by position.
    """
    joined = hindcasting.with_truth(
        said_last(predictions), outcomes, key=["symbol", "day"], truth="next_close", target_time="target_at",
        at=pd.Timestamp(at), expires_after=expires_after,
    )  # fmt: skip
    return joined.assign(true_return=joined["next_close"] / joined["close"] - 1)


def said_last(predictions: pd.DataFrame) -> pd.DataFrame:
    """One forecast for each symbol and close: the last one made in time, or where there is none the last one made.

    >>> late = [False, False, True]
    >>> rows = pd.DataFrame({"symbol": "TSLA", "day": "d", "closed_at": 1, "made_at": [1, 2, 9], "backfilled": late})
    >>> said_last(rows)["made_at"].tolist()
    [2]
    """
    ordered = predictions.assign(in_time=~predictions["backfilled"].astype("bool")).sort_values(["in_time", "made_at"])
    chosen = ordered.drop_duplicates(["symbol", "day"], keep="last").drop(columns="in_time")
    return chosen.sort_values(["closed_at", "symbol"], ignore_index=True)


def worth(joined: pd.DataFrame) -> dict[str, Any]:
    """The errors of matured forecasts beside those of the same price on the same closes.

    Args:
        joined: of `with_truth`.
    Returns:
        `errors_of` says what was measured: forecasts made in time; or, only where there is none of them, rows computed
        after the next opening, which make no hindcast but a backtest. Then counts by state, and mean absolute errors in
        USD, null where there is nothing to measure on.

    >>> rows = pd.DataFrame({"state": "matured", "forecast_close": [101.0, 500.0], "baseline_close": [100.0, 100.0],
    ...                      "next_close": [103.0, 100.0], "backfilled": [False, True]})
    >>> found = worth(rows)
    >>> found["mae_usd"], found["same_price_mae_usd"], found["rows_measured"]
    (2.0, 3.0, 1)
    """
    judged = hindcasting.judged(joined)
    rows = judged.matured("forecast_close")
    errors = {"mae_usd": "forecast_close", "same_price_mae_usd": "baseline_close"}
    return {
        "errors_of": judged.kind,
        **judged.states(),
        "rows_measured": len(rows),
        **hindcasting.mean_absolute_errors(rows, "next_close", errors),
    }


def table(joined: pd.DataFrame, *, rows: int = 10) -> list[dict[str, Any]]:
    """The newest forecasts, newest first, as people read them.

    Args:
        joined: of `with_truth`.
        rows: so many at most.
    Returns:
        For each: symbol, date (of the close that is forecast, New York), predicted_usd and _percent, true_usd and
        _percent (None until known), same_price_usd, probability_up (None without a model), state, model_version (None:
        no model, this is the same price), and a note that says why it is degraded.
    """
    newest = joined.sort_values(["target_at", "symbol"], ascending=[False, True]).head(rows)
    return [
        {
            "symbol": row["symbol"],
            "date": f"{row['target_at'].tz_convert(TIME_ZONE):%Y-%m-%d}",
            "predicted_usd": _known(row["forecast_close"], 2),
            "predicted_percent": _known(100 * row["forecast_return"], 2),
            "true_usd": _known(row["next_close"], 2),
            "true_percent": _known(100 * row["true_return"], 2),
            "same_price_usd": _known(row["baseline_close"], 2),
            "probability_up": _known(row["probability_up"], 3),
            "state": row["state"],
            "model_version": row["model_version"] or None,
            "note": row["why"],
        }
        for row in newest.to_dict("records")
    ]


def _known(value: float, digits: int) -> float | None:
    return None if pd.isna(value) else round(float(value), digits)
