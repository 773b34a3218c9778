"""Do the rows of late look like those the model was judged on? Features, predictions and nulls, told once. Pure.

**Against what.** The test split of the champion's training dataset: rows it was judged on and has not learned from. On
its training rows a model's scores look like nothing that comes later.

**How far is far.** The Hellinger distance of two distributions (0 the same, 1 nothing in common; nulls are a category
of their own) is an effect size: unlike a p-value it does not find everything once there are enough rows, and its size
means the same for every column, so looking at fifty of them invites no fifty chances of a false alarm. Two limits must
both be passed:

- `LIMIT`, a distance worth a look whatever the column (0.2 is about a PSI of 0.3);
- what the column does by itself: the test split is cut into stretches as long as the recent window, and each is
  compared with the rest; one more stretch of the kind lies below the limit with 99.9 % (Student's t: the fewer
  stretches, the wider). A column with seasons, or with one value per day, has a wide limit, and one that never moves a
  narrow one.

Values with a fraction must moreover have moved: by a tenth of the test split's standard deviation on average
(Wasserstein). A monthly median that has few values and changes in its second digit has a whole new distribution, and
means the same. Whole numbers may be codes, between which there is no distance.

The share of nulls alone is compared in the same way, with limits of its own, because a column with a wide limit may
still not go missing. With fewer than `LEAST_ROWS` on a side nothing is said. A drifted column is back when its distance
is below four fifths of its limit.

Features that say what time it is are left out: declared in `Monitored.calendar`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore import drift
from featurestore.schema import Feature
from flows.rules import Suite, columns, in_set, never_null

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import FeatureGroup, FeatureStore

GROUP, VERSION = "drift", 1
SAME, DRIFTED = "same", "drifted"
PREDICTION = "(prediction)"
"""The name under which what the model says is compared, too."""

LIMIT, HIGHEST_LIMIT = 0.2, 0.95
LEAST_MOVED = 0.1
"""Standard deviations."""

BACK = 0.8
LEAST_ROWS = 50
LEAST_STRETCHES, MOST_STRETCHES = 4, 12
CONFIDENCE = 0.999
MOST_ROWS = 50_000
"""A longer test split is thinned evenly: distances to a hundredth need no more."""

DISTANCE, NULLS = "hellinger", "hellinger of nulls"

FEATURES = (
    Feature("model", "string", "The registered model's name."),
    Feature("feature", "string", "A feature that the model uses, or (prediction): what it says."),
    Feature("measured_at", "timestamp", "Midnight (UTC) of the day of the measurement; a later one of it replaces it."),
    Feature("system", "string", "Whose model it is."),
    Feature("model_version", "int", "The champion, whose test split is compared with."),
    Feature("window_start", "timestamp", "Rows from this event time on ..."),
    Feature("window_end", "timestamp", "... and before this one."),
    Feature("rows", "int", "Rows of the window."),
    Feature("reference_rows", "int", "Rows of the test split that were compared with."),
    Feature("distance", "string", "hellinger, or hellinger of nulls where those alone went furthest beyond."),
    Feature("value", "double", "That distance: 0 the same, 1 nothing in common."),
    Feature("limit", "double", "From where on it counts as drifted."),
    Feature("moved", "double", "How far values moved on average, in standard deviations of the test split; null where "
            "they are whole numbers, or none."),
    Feature("null_share_then", "double", "Of the test split."),
    Feature("null_share_now", "double", "Of the window."),
    Feature("importance", "double", "Mean size of what the feature adds to the output; null for the prediction."),
    Feature("state", "string", "same or drifted."),
    Feature("since", "timestamp", "The measurement that first found it in this state."),
)  # fmt: skip
"""One row per model, column and day."""

RULES: Suite = {
    "name": GROUP,
    "expectations": [
        *never_null("model", "feature", "measured_at", "system", "distance", "value", "limit", "state", "since"),
        in_set("state", [SAME, DRIFTED]),
    ],
}


def group(fs: FeatureStore) -> FeatureGroup:
    """The group; made where it is not there yet."""
    return fs.get_or_create_feature_group(
        name=GROUP, version=VERSION,
        description="How far each model's inputs and outputs of late are from those it was judged on: a row a day.",
        primary_key=["model", "feature"], event_time="measured_at", features=list(FEATURES), expectation_suite=RULES,
    )  # fmt: skip


@dataclass(frozen=True)
class Before:
    """How a column was found last, and since when."""

    state: str
    since: datetime


def before(kept: pd.DataFrame, model: str) -> dict[str, Before]:
    """How each column of a model was found last.

    Args:
        kept: rows of the group, in any order.
    """
    newest = kept[kept["model"] == model].sort_values("measured_at").drop_duplicates("feature", keep="last")
    return {row["feature"]: Before(row["state"], row["since"].to_pydatetime()) for row in newest.to_dict("records")}


def length_of(times: pd.Series, longest: timedelta) -> timedelta:
    """How long the recent window is: so that the test split has enough stretches of that length, in whole days.

    Args:
        times: event times of the test split.

    >>> import pandas as pd
    >>> year = pd.Series(pd.date_range("2026-01-01", periods=365, freq="D"))
    >>> length_of(year, timedelta(days=28)).days, length_of(year.head(41), timedelta(days=28)).days
    (28, 8)
    """
    day = timedelta(days=1)
    return max(day, min(longest, (times.max() - times.min()) // (LEAST_STRETCHES + 1) // day * day))


def compare(
    reference: pd.DataFrame,
    recent: pd.DataFrame,
    times: pd.Series,
    *,
    length: timedelta,
    importance: Mapping[str, float],
    before: Mapping[str, Before],
    now: datetime,
) -> list[dict[str, Any]]:
    """How far each column of late is from the test split; drifted ones first, then by importance.

    Args:
        reference: rows of the test split; a column for each feature, and PREDICTION.
        recent: rows of late, with the same columns of the same types. Neither has to be in any order.
        times: event times of the reference's rows.
        length: of the recent window; `length_of`.
        importance: by feature; a column that is not in it ranks last, the prediction first.
        before: how each column was found last.
    Returns:
        One dictionary for each column, with the names of the group's columns that are about it alone. Empty where a
        side has too few rows.
    """
    if min(len(reference), len(recent)) < LEAST_ROWS:
        return []
    order = np.argsort(times.to_numpy(), kind="stable")[:: max(1, len(times) // MOST_ROWS)]
    ordered, when = reference.iloc[order], times.iloc[order]
    stretches = ((when.max() - when) // length).to_numpy()  # 0 is the newest
    found = [
        _column(name, ordered[name], recent[name], stretches, importance.get(name), before.get(name), now)
        for name in reference.columns
    ]
    return sorted(found, key=lambda row: (row["state"] != DRIFTED, *_rank(row)))


def changes(found: Sequence[Mapping[str, Any]], before: Mapping[str, Before]) -> dict[str, list[str]]:
    """Columns by their new state ("drifted" or "same") where that has changed, in the order of `found`.

    >>> changes([{"feature": "amount", "state": "drifted"}, {"feature": "hour", "state": "same"}], {})
    {'drifted': ['amount'], 'same': []}
    """
    changed = [
        (row["state"], row["feature"])
        for row in found
        if row["state"] != (before[row["feature"]].state if row["feature"] in before else SAME)
    ]
    return {state: [name for new, name in changed if new == state] for state in (DRIFTED, SAME)}


def as_frame(found: Sequence[Mapping[str, Any]], **about_all: Any) -> pd.DataFrame:
    """Rows of the group.

    Args:
        found: of `compare`.
        about_all: the columns that are the same for every row: model, system, model_version, measured_at, window_start,
            window_end, rows, reference_rows.
    """
    import pandas as pd

    rows = pd.DataFrame(list(found)).assign(**about_all)
    by_type = {kind: [each.name for each in FEATURES if each.dtype == kind] for kind in ("double", "int", "timestamp")}
    rows = rows.astype(dict.fromkeys(by_type["double"], "float64") | dict.fromkeys(by_type["int"], "int32"))
    times = {name: pd.to_datetime(rows[name], utc=True).dt.as_unit("us") for name in by_type["timestamp"]}
    return rows.assign(**times)[columns(FEATURES)]


# --- inside ------------------------------------------------------------------------------------------


def _column(
    name: str,
    then: pd.Series,
    now_: pd.Series,
    stretches: np.ndarray[Any, Any],
    importance: float | None,
    before: Before | None,
    now: datetime,
) -> dict[str, Any]:
    summary_then, summary_now = _summary(then), _summary(now_)
    whole, nulls = _distances(name, summary_then, summary_now)
    usual = [
        _distances(name, _summary(then[stretches != number]), _summary(then[stretches == number]))
        for number in range(min(int(stretches.max()) + 1, MOST_STRETCHES))
        if LEAST_ROWS // 5 <= (stretches == number).sum() < len(then)
    ]
    limits = [_limit([pair[part] for pair in usual]) for part in (0, 1)]
    moved = _moved(name, then, summary_then, summary_now)
    beyond = [whole / limits[0] if moved is None or moved >= LEAST_MOVED else 0.0, nulls / limits[1]]
    worst = int(beyond[1] > beyond[0] and beyond[1] >= 1)
    was_drifted = before is not None and before.state == DRIFTED
    state = DRIFTED if max(beyond) >= (BACK if was_drifted else 1) else SAME
    return {
        "feature": name,
        "distance": (DISTANCE, NULLS)[worst],
        "value": (whole, nulls)[worst],
        "limit": limits[worst],
        "moved": moved,
        "null_share_then": 1 - summary_then["completeness"],
        "null_share_now": 1 - summary_now["completeness"],
        "importance": importance,
        "state": state,
        "since": before.since if before is not None and before.state == state else now,
    }


def _limit(usual: Sequence[float]) -> float:
    if len(usual) < 2:
        return LIMIT
    from scipy.special import stdtrit

    number = len(usual)
    deviations = float(stdtrit(number - 1, CONFIDENCE)) * (1 + 1 / number) ** 0.5
    return min(HIGHEST_LIMIT, max(LIMIT, float(np.mean(usual) + deviations * np.std(usual, ddof=1))))


def _distances(name: str, then: dict[str, Any], now: dict[str, Any]) -> tuple[float, float]:
    """The Hellinger distance with nulls as a category, and that of null or not alone."""
    shares = [(summary["completeness"], 1 - summary["completeness"]) for summary in (then, now)]
    return drift.compare_column(name, then, now)["hellinger"], drift.hellinger(*shares)


def _moved(name: str, values: pd.Series, then: dict[str, Any], now: dict[str, Any]) -> float | None:
    known = values.dropna()
    deviation = then["std_dev"]
    if not deviation or (known % 1 == 0).all():
        return None
    distance: float | None = drift.compare_column(name, then, now)["wasserstein"]
    return None if distance is None else distance / float(deviation)


def _summary(column: pd.Series) -> dict[str, Any]:
    import pyarrow as pa

    from featurestore.statistics import summarise_column

    # By way of float64: a column of whole numbers has no nulls in pandas, and gets them when one is missing.
    values = pa.Array.from_pandas(column.astype("float64"))
    return summarise_column(pa.chunked_array([values]))


def _rank(row: Mapping[str, Any]) -> tuple[bool, float, str]:
    importance = row["importance"]
    return row["feature"] != PREDICTION, -(-1.0 if importance is None else importance), row["feature"]
