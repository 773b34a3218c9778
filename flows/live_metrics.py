"""What served predictions turn out to be worth: beside a baseline on the same rows, with intervals, told once. Pure.

One row of the group `live_metrics` is one measurement of a day: of a model, or of a part of its predictions (a horizon,
a value of a slice column). A later measurement on the same day replaces it, so labels that came late change the number
and add no row.

**When a model has regressed.** When the whole interval of its skill against the baseline lies below what the gate
demanded of it (where it demanded nothing in numbers, below zero: the baseline is surely better). It stays so until the
skill itself is back at what is demanded, so that a number near the edge is not told every day. Events are about the
model as a whole: of thirty slices, one looks bad by chance in most weeks, so they are shown and start nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.schema import Feature
from featurestore.times import Window
from flows import bootstrap, estimating, evaluation, hindcasting, ranking, regression, windows
from flows.evaluation import Score
from flows.rules import Suite, columns, in_set, never_null

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import FeatureGroup, FeatureStore
    from flows.monitored import Monitored

DAY = timedelta(days=1)
GROUP, VERSION = "live_metrics", 1
FINE, REGRESSED, TOO_FEW = "fine", "regressed", "too few"
ALL, ALL_HORIZONS = "all", 0

LEAST_ROWS, LEAST_BLOCKS, LEAST_POSITIVES = 30, 4, 10
"""Below any of these a part has numbers but no interval, and its state is "too few"."""

RESAMPLES = 500

FEATURES = (
    Feature("model", "string", "The registered model's name."),
    Feature("slice", "string", 'Of which predictions: "all", or one value of a column, such as "zone=J_NYC".'),
    Feature("horizon", "int", "How far ahead they looked, in the unit of the predictions' own column; 0 is all."),
    Feature("measured_at", "timestamp", "Midnight (UTC) of the day of the measurement; a later one of it replaces it."),
    Feature("system", "string", "Whose model it is."),
    Feature("window_start", "timestamp", "Predictions from this event time on ..."),
    Feature("window_end", "timestamp", "... and before this one; the truths known by then."),
    Feature("model_versions", "string", "The versions that made the measured predictions, such as 3, 4; 0 is none."),
    Feature("metric", "string", "mae, spearman, average_precision or brier."),
    Feature("unit", "string", "Of value and baseline_value; empty for a share or a correlation."),
    Feature("rows", "int", "Predictions measured: matured, with a forecast and a baseline."),
    Feature("value", "double", "The metric; null without a row that it can be measured on."),
    Feature("low", "double", "Lower end of its 95 % interval, over whole blocks of time; null if there are too few."),
    Feature("high", "double", "Upper end."),
    Feature("baseline", "string", "What anybody could have said, in words."),
    Feature("baseline_value", "double", "The same metric of the baseline on the same rows."),
    Feature("skill", "double", "Against the baseline: for mae the share of its error that is saved, else the "
            "difference; positive is better."),
    Feature("skill_low", "double", "Lower end of its 95 % interval, both measured on the same resamples."),
    Feature("skill_high", "double", "Upper end."),
    Feature("kind", "string", "Whether predictions made in time were measured or reconstructions; never both."),
    Feature("pending", "int", "Predictions of the window whose truth is still waited for."),
    Feature("matured", "int", "Those whose truth is known."),
    Feature("expired", "int", "Those whose truth is not waited for any more."),
    Feature("state", "string", "fine, regressed or too few."),
    Feature("since", "timestamp", "The measurement that first found it in this state."),
    Feature("estimated", "double", "The metric that the scores themselves let expect of all predictions of the window, "
            "those without a truth too; null where that would not be sound."),
)  # fmt: skip
"""One row per model, part and day."""

RULES: Suite = {
    "name": GROUP,
    "expectations": [
        *never_null("model", "slice", "horizon", "measured_at", "system", "metric", "rows", "kind", "state", "since"),
        in_set("state", [FINE, REGRESSED, TOO_FEW]),
        in_set("metric", ["mae", "spearman", "average_precision", "brier"]),
        in_set("kind", [hindcasting.HINDCAST, hindcasting.BACKTEST]),
    ],
}

Part = tuple[str, int]
"""Slice and horizon."""


def group(fs: FeatureStore) -> FeatureGroup:
    """The group; made where it is not there yet."""
    return fs.get_or_create_feature_group(
        name=GROUP, version=VERSION,
        description="What served predictions were worth, beside what anybody could have said: a row per part and day.",
        primary_key=["model", "slice", "horizon"], event_time="measured_at", features=list(FEATURES),
        expectation_suite=RULES,
    )  # fmt: skip


@dataclass(frozen=True)
class Before:
    """How a part was found last: its state, since when, and the last state that was not "too few"."""

    state: str
    since: datetime
    told: str


def before(kept: pd.DataFrame, model: str) -> dict[Part, Before]:
    """How each part of a model was found last.

    Args:
        kept: rows of the group, in any order.
    """
    mine = kept[kept["model"] == model].sort_values("measured_at", kind="stable")
    found = {}
    for (part, horizon), rows in mine.groupby(["slice", "horizon"]):
        known = rows["state"][rows["state"] != TOO_FEW]
        last = rows.iloc[-1]
        found[(str(part), int(horizon))] = Before(
            last["state"], last["since"].to_pydatetime(), FINE if known.empty else known.iloc[-1]
        )
    return found


def measure(
    rows: pd.DataFrame,
    watched: Monitored,
    *,
    system: str,
    window: Window,
    before: Mapping[Part, Before],
    estimated: bool = False,
) -> pd.DataFrame:
    """What the predictions of a window were worth, as rows of the group: in all, by horizon, and by slice.

    Args:
        rows: of `monitored.read`: predictions beside what came, in any order.
        window: of the predictions' event times; it ends when the measurement is made.
        before: how each part was found last.
        estimated: whether to say, too, what the scores themselves let expect; see `estimating`.
    Returns:
        One row for the whole, then one for each horizon and each value of each slice column. Where there are
        predictions made in time only they are looked at, else reconstructions. Where a model made some of them, those
        that stand in without a model are left out.
    """
    import pandas as pd

    judged = hindcasting.judged(_of_a_model(rows, watched.said.version))
    parts = [
        _row(judged._replace(rows=some), watched, part, window=window, before=before.get(part))
        for part, some in _parts(judged.rows, watched)
    ]
    found = pd.DataFrame(parts).assign(system=system)
    whole = (found["slice"] == ALL) & (found["horizon"] == ALL_HORIZONS)
    found["estimated"] = np.nan
    if estimated:
        found.loc[whole, "estimated"] = expected(judged.rows, watched)
    return _as_declared(found)


def changes(found: pd.DataFrame, before: Mapping[Part, Before]) -> list[tuple[str, dict[str, Any]]]:
    """What is to be told of a measurement: the new state ("fine" or "regressed") and the row, where it changed.

    Only the model as a whole is told of. What is too few to be judged changes nothing.

    >>> import pandas as pd
    >>> row = pd.DataFrame({"slice": ["all"], "horizon": [0], "state": ["regressed"]})
    >>> [state for state, _ in changes(row, {})]
    ['regressed']
    >>> changes(row, {("all", 0): Before("too few", datetime(2026, 1, 1), told="regressed")})
    []
    """
    told = before[(ALL, ALL_HORIZONS)].told if (ALL, ALL_HORIZONS) in before else FINE
    whole = found[(found["slice"] == ALL) & (found["horizon"] == ALL_HORIZONS)]
    return [(row["state"], row) for row in whole.to_dict("records") if row["state"] not in (TOO_FEW, told)]


def beside(champion: pd.DataFrame, challenger: pd.DataFrame, watched: Monitored) -> dict[str, Any] | None:
    """Champion and challenger on exactly the same rows; None where they have none in common.

    Args:
        champion, challenger: of `monitored.read`. Where two models make one row, a row of the challenger of the one has
            the other as it served: such rows compare nothing, and are left out.
    Returns:
        rows, both values, and how much better the challenger is, with its paired interval (None if there are too few).
    """
    target, forecast = list(watched.target), watched.said.forecast
    ours = hindcasting.judged(_of_a_model(champion, watched.said.version)).matured(forecast)
    theirs = challenger[[*target, forecast, watched.said.version]].dropna(subset=[forecast])
    both = ours.merge(theirs, on=target, suffixes=("", "_challenger"), validate="one_to_one")
    both = both[both[watched.said.version] != both[f"{watched.said.version}_challenger"]]
    if both.empty:
        return None
    said = f"{forecast}_challenger"
    enough = are_enough(both, watched)
    gain = better_by(both, watched, said, forecast) if enough else None
    return {
        "rows": len(both),
        "champion_versions": _versions(both[watched.said.version]),
        "challenger_versions": _versions(both[f"{watched.said.version}_challenger"]),
        "champion": value(both, watched, forecast),
        "challenger": value(both, watched, said),
        "challenger_better_by": None if gain is None else gain.value,
        "low": None if gain is None else gain.low,
        "high": None if gain is None else gain.high,
    }


def over_time(
    rows: pd.DataFrame, watched: Monitored, *, estimated: bool = False, buckets: int = 12
) -> list[dict[str, Any]]:
    """The metric in stretches of the window, oldest first: for the picture.

    Args:
        rows: of `monitored.read`.
        estimated: whether to say, too, what the scores themselves let expect; see `estimating`.
        buckets: about so many stretches at most, each a whole number of blocks.
    Returns:
        For each: start, rows, value and baseline (None where there is nothing to measure on), estimated (of all
        predictions of the stretch, those without a truth too; None where it is not asked for).
    """
    judged = hindcasting.judged(_of_a_model(rows, watched.said.version))
    if judged.rows.empty:
        return []
    times = judged.rows[watched.said.time]
    blocks = max(1, int(np.ceil((times.max() - times.min()) / watched.measure.block / buckets)))
    start = _floor(times, watched.measure.block * blocks)
    return [
        {
            "start": when.to_pydatetime(),
            "rows": len(some),
            "value": value(some, watched, watched.said.forecast),
            "baseline": value(some, watched, watched.said.baseline),
            "estimated": expected(part, watched) if estimated else None,
        }
        for when, part in judged.rows.groupby(start)
        for some in [_measurable(judged._replace(rows=part), watched)]
    ]


def value(rows: pd.DataFrame, watched: Monitored, column: str) -> float | None:
    """The metric of one column against the truth; None where the rows do not give one."""
    if len(rows) < (2 if watched.measure.metric == "spearman" else 1):
        return None
    y, said = _scaled(rows, watched, watched.truth.column), _scaled(rows, watched, column)
    match watched.measure.metric:
        case "mae":
            return regression.mae(y, said)
        case "spearman":
            return ranking.spearman(y, said)
        case "brier":
            return evaluation.brier(y, said)
        case "average_precision":
            return evaluation.average_precision(y, said) if y.any() else None


def expected(rows: pd.DataFrame, watched: Monitored) -> float | None:
    """What the scores of these predictions let expect of them, with or without a truth; None without any."""
    return estimating.average_precision(rows[watched.said.forecast].dropna())


# --- inside ------------------------------------------------------------------------------------------


def _of_a_model(rows: pd.DataFrame, version: str) -> pd.DataFrame:
    has_model = rows[version] > 0
    return rows[has_model] if has_model.any() else rows


def _parts(rows: pd.DataFrame, watched: Monitored) -> list[tuple[Part, pd.DataFrame]]:
    found: list[tuple[Part, pd.DataFrame]] = [((ALL, ALL_HORIZONS), rows)]
    if watched.said.horizon is not None:
        found += [((ALL, int(ahead)), some) for ahead, some in rows.groupby(watched.said.horizon)]
    for column in watched.measure.slices:
        found += [((f"{column}={name}", ALL_HORIZONS), some) for name, some in rows.groupby(column)]
    return found


def _measurable(judged: hindcasting.Judged, watched: Monitored) -> pd.DataFrame:
    """The matured rows that forecast and baseline both have, in an order of their own: sums are then the same, too."""
    rows = judged.matured(watched.said.forecast, watched.said.baseline)
    return rows.sort_values(list(watched.target), ignore_index=True)


def _row(
    judged: hindcasting.Judged, watched: Monitored, part: Part, *, window: Window, before: Before | None
) -> dict[str, Any]:
    said, rows = watched.said, _measurable(judged, watched)
    enough = are_enough(rows, watched)
    whole = _interval(rows, watched) if enough else None
    skill = better_by(rows, watched, said.forecast, said.baseline) if enough else None
    has_model = bool((rows[said.version] > 0).any())
    demanded = watched.measure.demanded if part == (ALL, ALL_HORIZONS) else 0.0
    state = _state(skill if has_model else None, demanded, before) if enough else TOO_FEW
    return {
        "model": watched.model,
        "slice": part[0],
        "horizon": part[1],
        "measured_at": windows.floor(window.end, DAY),
        "window_start": window.start,
        "window_end": window.end,
        "model_versions": _versions(rows[said.version]),
        "metric": watched.measure.metric,
        "unit": watched.measure.unit,
        "rows": len(rows),
        "value": value(rows, watched, said.forecast),
        "low": None if whole is None else whole.low,
        "high": None if whole is None else whole.high,
        "baseline": said.baseline_name,
        "baseline_value": value(rows, watched, said.baseline),
        "skill": None if skill is None else skill.value,
        "skill_low": None if skill is None else skill.low,
        "skill_high": None if skill is None else skill.high,
        "kind": judged.kind,
        **judged.states(),
        "state": state,
        "since": before.since if before is not None and before.state == state else window.end,
    }


def _state(skill: Score | None, demanded: float, before: Before | None) -> str:
    if skill is None:  # no model said anything, or the baseline is perfect: nothing can have become worse
        return FINE
    was_regressed = before is not None and before.told == REGRESSED
    if skill.high < demanded or (was_regressed and skill.value < demanded):
        return REGRESSED
    return FINE


def are_enough(rows: pd.DataFrame, watched: Monitored) -> bool:
    """Whether these matured rows give an interval: rows, blocks, and positives where there are any."""
    if len(rows) < LEAST_ROWS or blocks_of(rows, watched).nunique() < LEAST_BLOCKS:
        return False
    if watched.measure.metric != "average_precision":
        return True
    positives = int(rows[watched.truth.column].sum())
    return LEAST_POSITIVES <= positives < len(rows)


def _interval(rows: pd.DataFrame, watched: Monitored) -> Score:
    y, said = _scaled(rows, watched, watched.truth.column), _scaled(rows, watched, watched.said.forecast)
    blocks = blocks_of(rows, watched).to_numpy()
    match watched.measure.metric:
        case "mae":
            return regression.interval("mae", y, said, blocks=blocks, name=watched.model, resamples=RESAMPLES)
        case "spearman":
            return ranking.interval(y, said, blocks=blocks, name=watched.model)
        case "brier" | "average_precision" as metric:
            return evaluation.interval(metric, y, said, blocks=blocks, name=watched.model, resamples=RESAMPLES)


def better_by(rows: pd.DataFrame, watched: Monitored, ours: str, theirs: str) -> Score | None:
    """How much better one column is than another; None against one without any error."""
    y = _scaled(rows, watched, watched.truth.column)
    one, other = _scaled(rows, watched, ours), _scaled(rows, watched, theirs)
    blocks, name = blocks_of(rows, watched).to_numpy(), f"{ours} against {theirs}"
    match watched.measure.metric:
        case "mae":
            if not np.abs(other - y).sum():
                return None
            return regression.skill(y, one, other, blocks=blocks, name=name, resamples=RESAMPLES)
        case "spearman":
            return ranking.lift(y, one, other, blocks=blocks, name=name)
        case "brier" | "average_precision" as metric:
            return evaluation.difference(metric, y, one, other, blocks=blocks, name=name, resamples=RESAMPLES)


def _scaled(rows: pd.DataFrame, watched: Monitored, column: str) -> bootstrap.Floats:
    values = rows[column].to_numpy("float64")
    return values if watched.measure.scale is None else np.asarray(watched.measure.scale(values), np.float64)


def blocks_of(rows: pd.DataFrame, watched: Monitored) -> pd.Series:
    """The block of each row: rows of one are not independent."""
    return _floor(rows[watched.said.time], watched.measure.block)


def _floor(times: pd.Series, every: timedelta) -> pd.Series:
    return times.dt.floor(every)


def _versions(versions: pd.Series) -> str:
    return ", ".join(str(int(version)) for version in sorted(versions.dropna().unique()))


def _as_declared(found: pd.DataFrame) -> pd.DataFrame:
    """The frame with the columns, order and types of the group."""
    import pandas as pd

    types: dict[str, Sequence[str]] = {
        kind: [feature.name for feature in FEATURES if feature.dtype == kind] for kind in ("double", "int", "timestamp")
    }
    found = found.astype(dict.fromkeys(types["double"], "float64") | dict.fromkeys(types["int"], "int32"))
    times = {name: pd.to_datetime(found[name], utc=True).dt.as_unit("us") for name in types["timestamp"]}
    return found.assign(**times)[columns(FEATURES)]
