"""What the monitor found of a model, as markdown and a picture for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flows import regression

if TYPE_CHECKING:
    import pandas as pd

    from flows.estimating import Soundness
    from flows.monitored import Monitored

MOST_ROWS = 60


def hindcast(
    found: pd.DataFrame,
    watched: Monitored,
    *,
    over_time: Sequence[Mapping[str, Any]],
    soundness: Soundness | None,
    shadow: Mapping[str, Any] | None,
    note: str,
) -> str:
    """The measurement of a day, in all and in parts; estimated beside realised; and the challenger on the same rows.

    Args:
        found: of `live_metrics.measure`.
        over_time: of `live_metrics.over_time`.
        soundness: whether performance may be estimated; None for models of which it never is.
        shadow: of `live_metrics.beside`; None without a challenger in the shadow.
        note: what has to be said first, such as that there is no champion; empty if nothing has.
    """
    whole = found.iloc[0]
    unit = f", {whole['unit']}" if whole["unit"] else ""
    lines = [
        f"# {watched.model}: what its predictions turned out to be worth",
        "",
        *([note, ""] if note else []),
        f"**{str(whole['state']).capitalize()}** since {whole['since']:%Y-%m-%d %H:%M}. Measured: {whole['kind']} of "
        f"{whole['window_start']:%Y-%m-%d} to {whole['window_end']:%Y-%m-%d}, versions {whole['model_versions'] or '-'}"
        f"; {whole['pending']:,} pending, {whole['matured']:,} matured, {whole['expired']:,} expired.",
        "",
        f"| part | rows | {whole['metric']}{unit} | 95 % interval | {whole['baseline']} | skill | 95 % interval "
        "| state |",
        "| --- | ---: | ---: | --- | ---: | ---: | --- | --- |",
        *(
            f"| {_part(row, watched)} | {row['rows']:,} | {_number(row['value'])} | "
            f"{_interval(row['low'], row['high'])} | {_number(row['baseline_value'])} | {_number(row['skill'])} | "
            f"{_interval(row['skill_low'], row['skill_high'])} | {row['state']} |"
            for row in found.head(MOST_ROWS).to_dict("records")
        ),
        "",
    ]
    if len(found) > MOST_ROWS:
        lines += [f"{len(found) - MOST_ROWS} more parts are in the feature group live_metrics.", ""]
    if soundness is not None:
        lines += _estimates(over_time, soundness)
    if shadow is not None:
        lines += _shadow(shadow)
    return "\n".join(lines)


def _estimates(over_time: Sequence[Mapping[str, Any]], soundness: Soundness) -> list[str]:
    lines = ["## Estimated before the outcomes are known", ""]
    if not soundness.is_sound:
        return [*lines, f"Not estimated: {soundness.why}.", ""]
    return [
        *lines,
        f"From the scores alone: {soundness.why}. It holds while what makes a positive stays as it is.",
        "",
        "| from | known rows | estimated, of all rows | realised |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {row['start']:%Y-%m-%d} | {row['rows']:,} | {_number(row['estimated'])} | {_number(row['value'])} |"
            for row in over_time
        ),
        "",
    ]


def _shadow(found: Mapping[str, Any]) -> list[str]:
    return [
        "## The challenger in the shadow, on exactly the same rows",
        "",
        "| rows | champion | challenger | challenger better by | 95 % interval, paired |",
        "| ---: | ---: | ---: | ---: | --- |",
        f"| {found['rows']:,} | {_number(found['champion'])} (version {found['champion_versions']}) | "
        f"{_number(found['challenger'])} (version {found['challenger_versions']}) | "
        f"{_number(found['challenger_better_by'])} | {_interval(found['low'], found['high'])} |",
        "",
    ]


def drift(found: Sequence[Mapping[str, Any]], model: str, *, note: str) -> str:
    """How far each column of late is from the rows that the model was judged on.

    Args:
        found: of `drifting.compare`; empty where the note says why.
        note: what was compared with what.
    """
    drifted = [row for row in found if row["state"] == "drifted"]
    head = [f"# {model}: do its rows of late look like those it was judged on?", "", note, ""]
    if not found:
        return "\n".join(head)
    named = ", ".join(f"{row['feature']} (since {row['since']:%Y-%m-%d})" for row in drifted)
    return "\n".join(
        [
            *head,
            f"**Drifted: {named}.**" if drifted else f"**None of {len(found)} columns has drifted.**",
            "",
            "| column | importance | distance | value | limit | moved, std | nulls then | nulls now | state |",
            "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |",
            *(
                f"| {row['feature']} | {_number(row['importance'])} | {row['distance']} | {row['value']:.3f} | "
                f"{row['limit']:.3f} | {_number(row['moved'])} | {row['null_share_then']:.1%} | "
                f"{row['null_share_now']:.1%} | {row['state']} |"
                for row in found
            ),
            "",
        ]
    )


def picture(over_time: Sequence[Mapping[str, Any]], watched: Monitored) -> bytes | None:
    """The metric over time beside the baseline's, and what was estimated where it was; None with nothing to draw."""
    if sum(row["value"] is not None for row in over_time) < 2:
        return None
    series = {
        watched.model: [row["value"] for row in over_time],
        watched.said.baseline_name: [row["baseline"] for row in over_time],
    }
    if any(row["estimated"] is not None for row in over_time):
        series["estimated from the scores"] = [row["estimated"] for row in over_time]
    title = f"{watched.model}: live {watched.measure.metric.replace('_', ' ')}"
    return regression.curves_plot(
        [row["start"] for row in over_time], series, title=title, unit=watched.measure.unit or watched.measure.metric
    )


def _part(row: Mapping[str, Any], watched: Monitored) -> str:
    if row["slice"] != "all":
        return str(row["slice"])
    return f"{watched.said.horizon} {row['horizon']}" if row["horizon"] else "all"


def _number(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.4g}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or low != low else f"[{_number(low)}, {_number(high)}]"
