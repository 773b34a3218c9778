"""The contract of the stock system's feature groups: columns, units, and the rules a batch must pass."""

from __future__ import annotations

from datetime import timedelta

from featurestore.schema import Feature
from flows.rules import Suite, between, columns, in_set, later, never_null, rule

SYSTEM = "stock"

LOOKBACK = timedelta(days=7)
"""Yahoo completes and corrects its last days: every run reads and writes them again. A week holds four trading days."""

WAITING = timedelta(days=3)
"""How long the bar of a close is waited for before it counts as missing: the exchange may have been closed."""

VERSION = 1
"""Of every group and of the view: a column that changes its meaning gets a new version beside the old one."""

BARS_GROUP = "stock_bars"
NEWS_GROUP = "stock_news"
FEATURES_GROUP = "stock_features"
OUTCOMES_GROUP = "stock_outcomes"
PREDICTIONS_GROUP = "stock_predictions"

VIEW = "stock_next_day"
RETURN_MODEL, DIRECTION_MODEL = "stock_return", "stock_direction"
"""The registered models' names. All else about a model is in its lineage, never in a constant."""

_KEYS = (
    Feature("symbol", "string", "The stock, such as TSLA."),
    Feature("day", "string", "The trading day in New York, such as 2026-07-10."),
    Feature("closed_at", "timestamp", "Close of the trading day: 16:00 New York, 13:00 on early closes."),
)

BARS = (
    *_KEYS,
    Feature("open", "double", "First price of the day, as traded on that day.", unit="USD"),
    Feature("high", "double", "Highest price of the day, as traded.", unit="USD"),
    Feature("low", "double", "Lowest price of the day, as traded.", unit="USD"),
    Feature("close", "double", "Last price of the day, as traded.", unit="USD"),
    Feature("volume", "bigint", "Shares traded, as counted on that day.", unit="shares"),
    Feature("split", "double", "Shares that one share became since the bar before: 3.0 on a 3:1 split, else 1.0."),
    Feature("dividend", "double", "Paid per share with this ex-date; 0.0 on other days.", unit="USD"),
)
"""One row per symbol and trading day. Prices are those people paid that day: a later split changes no row."""

NEWS = (
    Feature("symbol", "string", "The stock the articles are about."),
    Feature("known_at", "timestamp", "The midnight (UTC) that ends the day of the articles: when their mean is known."),
    Feature("news_polarity", "double", "Mean sentiment of the day's articles, -1 to 1; null without any article."),
)
"""One row per symbol and calendar day that the feed covers. No row: there was no feed."""

RETURN_DAYS = (1, 2, 3, 5, 10, 20)
VOLATILITY_DAYS = (5, 20, 60)
MEAN_DAYS = (5, 10, 20, 60)

FEATURES = (
    *_KEYS,
    *(Feature(f"return_{days}d", "double", f"Return over {days} trading days, splits adjusted.")
      for days in RETURN_DAYS),
    *(Feature(f"volatility_{days}d", "double", f"Root mean square of the daily log returns of {days} trading days.")
      for days in VOLATILITY_DAYS),
    Feature("volatility_5d_to_20d", "double", "Volatility of 5 days over that of 20: calming down or stirring up."),
    Feature("volatility_20d_to_60d", "double", "Volatility of 20 days over that of 60."),
    Feature("return_1d_in_volatility", "double", "The day's log return in units of the 20 days' volatility."),
    *(Feature(f"close_to_mean_{days}d", "double", f"Log of the close over the geometric mean of {days} closes.")
      for days in MEAN_DAYS),
    Feature("close_to_high_60d", "double", "Log of the close over the highest of 60 closes: 0 at the top."),
    Feature("volume_to_mean_20d", "double", "Log of the volume over the geometric mean of 20 days."),
    Feature("volume_5d_to_60d", "double", "Log of the geometric mean volume of 5 days over that of 60."),
    Feature("range_1d", "double", "Log of the day's high over its low."),
    Feature("range_to_mean_20d", "double", "The day's range over the mean range of 20 days."),
    Feature("close_in_range", "double", "Where the close lies between low (0) and high (1); null if they are one."),
    Feature("gap_1d", "double", "Log of the open over the close before, splits adjusted."),
    Feature("return_intraday", "double", "Log of the close over the open."),
    Feature("weekday", "int", "Of the close; Monday is 0."),
    Feature("month", "int", "Of the close, 1 to 12."),
    Feature("days_since_previous", "int", "Calendar days since the trading day before.", unit="d"),
    Feature("days_to_next", "int", "Calendar days to the next trading day: 3 over a weekend, 4 over a long one.",
            unit="d"),
    Feature("is_early_close", "boolean", "The day ended at 13:00."),
    Feature("news_polarity_1d", "double", "Sentiment of the newest whole day before the close; null without articles."),
    Feature("news_polarity_7d", "double", "Mean over the days with articles among the last 7; null without any."),
    Feature("news_polarity_ewm_7d", "double", "Weighted mean of the last 28 days with articles, newest most (span 7)."),
    Feature("news_days_7d", "int", "Days with articles among the last 7; null where there was no feed.", unit="d"),
    Feature("close", "double", "The close as traded: what a forecast return is a return on.", unit="USD"),
)  # fmt: skip
"""One row per symbol and trading day: what is known at its close. All but the close are free of scale."""

OUTCOMES = (
    *_KEYS,
    Feature("next_return", "double", "Return to the next trading day's close, splits adjusted."),
    Feature("next_up", "int", "1 if that return is above zero, else 0."),
    Feature("next_close", "double", "What one share of this day is worth at the next close.", unit="USD"),
    Feature("known_at", "timestamp", "The next trading day's close: when that became known."),
)
"""One row per symbol and trading day whose next close is known."""

PREDICTIONS = (
    *_KEYS,
    Feature("model_version", "int", "Version of stock_return that forecast it; 0: none, this is the same price."),
    Feature("direction_version", "int", "Version of stock_direction that forecast it; 0: none, no probability."),
    Feature("target_at", "timestamp", "The next trading day's close, which is forecast."),
    Feature("close", "double", "The close that is known.", unit="USD"),
    Feature("forecast_return", "double", "Expected return to the next close."),
    Feature("forecast_close", "double", "Expected next close, for one share of today.", unit="USD"),
    Feature("baseline_close", "double", "The same price as today: what anybody can say.", unit="USD"),
    Feature("probability_up", "double", "That the next close is higher; null without a model."),
    Feature("degraded", "boolean", "No model, or less than the model had when it was judged."),
    Feature("why", "string", "Why it is degraded; empty if it is not."),
    Feature("reasons", "string", "What moved the forecast most, as JSON; [] for the same price."),
    Feature("feature_view", "string", "The view the model was trained on, as name@version; empty without a model."),
    Feature("training_dataset_version", "int", "The training set the model was made from; 0 without a model."),
    Feature("made_at", "timestamp", "When this row was computed."),
    Feature("backfilled", "boolean", "Computed after the next opening: a reconstruction, no forecast."),
)
"""One row per symbol, trading day and pair of versions; what was once forecast is never changed."""

SCALE = "volatility_20d"
"""The return model learns returns as multiples of this, so that calm and wild years teach each other."""

NEWS_FEATURES = [name for name in columns(FEATURES) if name.startswith("news_")]
MODEL_FEATURES = [name for name in columns(FEATURES) if name not in ("symbol", "day", "closed_at", "close")]

BARS_RULES: Suite = {
    "name": "stock_bars",
    "expectations": [
        *never_null("open", "high", "low", "close", "volume", "split"),
        between("low", 0.0001, None),
        # No listed share but Berkshire's has ever cost so much: what is above is in cents or in another currency.
        between("high", None, 1_000_000),
        *(
            rule("column_pair_values_a_to_be_greater_than_b", column_A=a, column_B=b, or_equal=True)
            for a, b in (("high", "low"), ("high", "open"), ("high", "close"), ("open", "low"), ("close", "low"))
        ),
        # A day on which nobody traded is no trading day: such a bar is made up.
        between("volume", 1, None),
        between("split", 0.01, 100),
        between("dividend", 0, None),
    ],
}

NEWS_RULES: Suite = {
    "name": "stock_news",
    "expectations": [*never_null("symbol", "known_at"), between("news_polarity", -1, 1)],
}

FEATURES_RULES: Suite = {
    "name": "stock_features",
    "expectations": [
        *never_null("symbol", "closed_at", "close", "weekday", "days_to_next"),
        # Tesla's worst day was -21 %. Beyond half a price in one day there is a split that nobody told.
        between("return_1d", -0.5, 1.0),
        between("gap_1d", -0.7, 0.7),
        between("weekday", 0, 4),
        between("days_to_next", 1, 7),
        between("close_in_range", 0, 1),
        *(between(name, -1, 1) for name in NEWS_FEATURES if "polarity" in name),
        *never_null("return_1d", SCALE, severity="warning"),
    ],
}

OUTCOMES_RULES: Suite = {
    "name": "stock_outcomes",
    "expectations": [
        *never_null("next_return", "next_up", "next_close", "known_at"),
        between("next_return", -0.5, 1.0),
        in_set("next_up", [0, 1]),
        later("known_at", than="closed_at"),
    ],
}

PREDICTIONS_RULES: Suite = {
    "name": "stock_predictions",
    "expectations": [
        *never_null(
            "target_at", "forecast_return", "forecast_close", "baseline_close", "degraded", "why", "backfilled"
        ),
        between("forecast_return", -0.5, 0.5),
        between("forecast_close", 0.0001, None),
        between("probability_up", 0, 1),
        later("target_at", than="closed_at"),
    ],
}
