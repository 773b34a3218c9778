"""What was forecast of late, and what came of it: the "Recent predictions" of the talk, and their worth. Pure."""

from __future__ import annotations

from typing import Any

import pandas as pd

from flows import hindcasting
from flows.stock.sessions import TIME_ZONE


def worth(joined: pd.DataFrame) -> dict[str, Any]:
    """The errors of matured forecasts beside those of the same price on the same closes.

    Args:
        joined: of `monitored.read`.
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
        joined: of `monitored.read`.
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
            "true_percent": _known(100 * (row["next_close"] / row["close"] - 1), 2),
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
