"""What the `triptych` command found, as tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from deployments.predictions import as_they_were
from deployments.status import hours
from featurestore import terminal
from featurestore.lineage import Lineage

Record = dict[str, Any]

STYLES = {
    "green": "green", "fresh": "green", "fine": "green", "done": "green", "yellow": "yellow", "partly": "yellow",
    "red": "bold red", "stale": "bold red", "regressed": "bold red", "missing": "bold red", "not started": "dim",
}  # fmt: skip


def status(found: Sequence[Record]) -> None:
    """Systems, models and groups, a table for each."""
    terminal.heading("Systems")
    terminal.table([each | {"why": "; ".join(each["why"])} for each in found], ["system", "state"], flexible="why",
                   styles=STYLES)  # fmt: skip
    started = [each for each in found if each["state"] != "not started"]
    if not started:
        return
    terminal.line()
    terminal.heading("Models")
    models = [_model(model) for each in started for model in each["models"]]
    terminal.table(models, ["model", "serves", "challenger", "worth", "beside"], flexible="predictions", styles=STYLES)
    terminal.line()
    terminal.heading("Feature groups")
    groups = [_group(group) for each in started for group in each["groups"]]
    terminal.table(groups, ["group", "complete_until", "age", "may_be", "freshness"], flexible="since", styles=STYLES)


def _model(model: Record) -> Record:
    champion, challenger, live, made = (model[name] for name in ("champion", "challenger", "live", "predictions"))
    return {
        "model": model["model"],
        "serves": None if champion is None else f"{champion['version']}, {hours(champion['age_hours'])} old",
        "challenger": None if challenger is None else f"{challenger['version']} {challenger['decision']}",
        "worth": None if live is None else _measured(live),
        "beside": None if live is None or live["baseline_value"] is None
        else f"{live['baseline_value']:.3g} {live['baseline']}",
        "predictions": f"{made['made']:,}: {made['matured']:,} matured, {made['pending']:,} pending, "
        f"{made['expired']:,} expired" if made["made"] else "none",
    }  # fmt: skip


def _measured(live: Record) -> str:
    if live["value"] is None:
        return str(live["state"])
    interval = "" if live["low"] is None else f" [{live['low']:.3g}, {live['high']:.3g}]"
    unit = f" {live['unit']}" if live["unit"] else ""
    return f"{live['metric']} {live['value']:.3g}{interval}{unit}, {live['state']}"


def _group(group: Record) -> Record:
    return {
        "group": group["group"],
        "complete_until": group["watermark"],
        "age": _ago(group["age_hours"]),
        "may_be": None if group["max_age_hours"] is None else hours(group["max_age_hours"]),
        "freshness": group["freshness"],
        "since": _moment(group["since"]),
    }


def _ago(count: float | None) -> str | None:
    return None if count is None else f"{hours(abs(count))}{' ahead' if count < 0 else ''}"


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else terminal.short(moment)


def broken(group: str, columns: Sequence[str], found: Sequence[Record]) -> None:
    """Whom a change of these columns of a group concerns."""
    untouched = [column for column in columns if column not in {each["column"] for each in found}]
    if untouched:
        names = ", ".join(f"{group}.{column}" for column in untouched)
        terminal.line(f"No view and no monitoring reads {names}. Code may: grep -rn {untouched[0]} flows")
    if found:
        lines = [each | {"serves": "yes" if each["serves"] else "no"} for each in found]
        terminal.table(lines, ["change", "column", "what", "serves"], flexible="how")


def explained(found: Record) -> None:
    """One prediction: its row, then for each model what it was given and where it comes from."""
    terminal.heading(f"Prediction {found['id']}")
    terminal.facts(found["prediction"])
    for each in found["models"]:
        terminal.line()
        terminal.heading(f"{each['model']} version {each['version']}")
        unit = f" {each['unit']}" if each["unit"] else ""
        truth = each["state"] if each["truth"] is None else f"{terminal.short(each['truth'])} ({each['state']})"
        terminal.facts({
            "said": f"{terminal.short(each['said'])}{unit}", "truth": truth, "output of the model now": each["output"],
            "features": each["why_none"] or _sameness(each["features"]),
            "written later": _later(each["features"]),
        })  # fmt: skip
        terminal.line()
        columns = ["feature", "given", "contribution", "raw", "given_then", "group", "event_time", "delta_version"]
        terminal.table(each["features"], columns, flexible="why_null")
        terminal.line()
        for line in str(Lineage.from_json(each["lineage"])).splitlines():
            terminal.line(terminal.literal(line))
    if not found["models"]:
        terminal.line()
        terminal.line("No model said this: the row says why (why), and the forecast is that of the baseline.")


def _sameness(features: Sequence[Record]) -> str:
    kept, same = as_they_were(features)
    return f"of {kept} that were kept with the prediction {same} are the same now" if kept else "none were kept"


def _later(features: Sequence[Record]) -> str | None:
    """How many values were written after the prediction was made, if any: then it may have seen others."""
    count = sum(bool(feature["committed_later"]) for feature in features)
    return f"{count} of {len(features)} values, after the prediction was made" if count else None


def scores(found: Sequence[Record]) -> None:
    """The ML Test Score of each system: its sections; and every test of a system that is looked at alone."""
    lines = [{"system": each["system"], "score": each["score"]} | each["sections"] for each in found]
    terminal.table(lines, list(lines[0]))
    if len(found) == 1:
        terminal.line()
        terminal.table(found[0]["tests"], ["section", "test", "points"], flexible="evidence")
