"""How each system is: how far its data reach, what serves, what that is worth, and whether a person should look.

A system is **red** when a promise is broken: a group is older than it may be, or what serves is surely worse than its
baseline asks for. It is **yellow** when something is missing or worth a look, else **green**; and "not started" while
none of its pipelines has run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from deployments import inventory
from deployments.inventory import Home
from flows import windows

if TYPE_CHECKING:
    from featurestore import FeatureGroup
    from flows.monitored import Monitored
    from flows.registry import ModelVersion

State = Literal["green", "yellow", "red", "not started"]
Record = dict[str, Any]

LIVE_METRICS, DRIFT, FRESHNESS = "live_metrics", "drift", "freshness"
"""Groups of all systems together; each may not be there yet."""

UNDECIDED = "registered"
"""The decision of a version about which the gate has not spoken."""


def of_system(home: Home, system: str) -> Record:
    """Everything about one system at this moment, and the verdict."""
    now = windows.now()
    groups = [_of_group(home, group, now) for group in home.groups_of(system) if not inventory.is_shadow(group)]
    declared = [watched for owner, watched in inventory.watched().values() if owner == system]
    models = [_of_model(home, watched, now) for watched in declared]
    found: Record = {"system": system, "groups": groups, "models": models}
    state, why = verdict(groups, models)
    return {"system": system, "state": state, "why": why, "checked_at": now} | found


def verdict(groups: Sequence[Record], models: Sequence[Record]) -> tuple[State, list[str]]:
    """The state of a system, and every reason for it; the worst reasons first.

    Args:
        groups: what `of_system` says of each feature group.
        models: what `of_system` says of each model.

    >>> fresh = {"group": "demand@1", "freshness": "fresh"}
    >>> serving = {"model": "demand", "champion": {"version": 1}, "challenger": None, "drifted": 0,
    ...            "predictions": {"made": 24}, "live": {"state": "fine"}}
    >>> verdict([fresh], [serving]), verdict([], [])
    (('green', ['all promises are kept']), ('not started', ['no pipeline of it has run']))
    >>> verdict([fresh], [serving | {"live": None}])
    ('yellow', ['demand: its predictions have not been measured yet'])
    """
    if not groups:
        return "not started", ["no pipeline of it has run"]
    broken = _staleness([group for group in groups if group["freshness"] == "stale"])
    lacking: list[str] = []
    for model in models:
        name = model["model"]
        live = model["live"]
        if live is not None and live["state"] == "regressed":
            broken.append(f"{name}: regressed, skill {live['skill']:.3g} against {live['baseline']}")
        lacking += [f"{name}: {reason}" for reason in _lacking(model)]
    if broken:
        return "red", broken + lacking
    return ("yellow", lacking) if lacking else ("green", ["all promises are kept"])


def _staleness(groups: Sequence[Record]) -> list[str]:
    """A reason for each age, with all groups of that age."""
    names: dict[str, list[str]] = {}
    for group in groups:
        age, may = group["age_hours"], hours(group["max_age_hours"])
        names.setdefault("empty" if age is None else f"{hours(age)} old, may be {may}", []).append(group["group"])
    return [f"{', '.join(which)}: {what}" for what, which in names.items()]


def hours(count: float) -> str:
    """A number of hours for people.

    >>> hours(3), hours(0.4), hours(1234.5)
    ('3 h', '24 min', '51 days')
    """
    if count < 1:
        return f"{count * 60:.0f} min"
    return f"{count:.0f} h" if count < 72 else f"{count / 24:.0f} days"


def _lacking(model: Record) -> list[str]:
    """What a person may want to look at, though no promise is broken."""
    challenger, live, found = model["challenger"], model["live"], []
    if model["champion"] is None:
        found.append("nothing serves: " + ("the gate rejected " if challenger else "no version is registered yet")
                     + (f"version {challenger['version']}" if challenger else ""))  # fmt: skip
    if challenger is not None and challenger["decision"] == UNDECIDED:
        found.append(f"nothing was decided about version {challenger['version']}")
    if model["champion"] is not None and not model["predictions"]["made"]:
        found.append("no predictions yet")
    elif model["champion"] is not None and live is None:
        found.append("its predictions have not been measured yet")
    if live is not None and live["state"] == "too few":
        found.append("too few predictions with a known truth to judge")
    if model["drifted"]:
        found.append(f"{model['drifted']} of its features have drifted")
    return found


# --- groups ------------------------------------------------------------------------------------------


def _of_group(home: Home, group: FeatureGroup, now: datetime) -> Record:
    """A group's watermark and whether it keeps its promise now; `since` is the check that first found it so."""
    from flows import freshness

    found: Record = {
        "group": inventory.name_of(group), "watermark": group.watermark,
        "age_hours": None if group.watermark is None else _hours_between(group.watermark, now),
        "max_age_hours": None, "freshness": None, "since": None, "checked_at": None,
    }  # fmt: skip
    if not freshness.promises(group):
        return found
    last = _newest_checks(home).get(freshness.named(group))
    check = freshness.check(group, now, last)
    return found | {
        "max_age_hours": check["max_age_hours"],
        "freshness": check["state"],
        "since": inventory.plain(check["since"]) if last is not None else None,
        "checked_at": None if last is None else inventory.plain(last["checked_at"]),
    }


def _hours_between(earlier: datetime, later: datetime) -> float:
    return round((later - earlier) / timedelta(hours=1), 3)


def _newest_checks(home: Home) -> Mapping[str, Any]:
    from flows import freshness

    group = _shared(home, FRESHNESS)
    return {} if group is None else freshness.last_states(group)


def _shared(home: Home, name: str) -> FeatureGroup | None:
    """A group of all systems together, once it has rows."""
    return next((group for group in home.groups if group.name == name and group.delta_version > 0), None)


# --- models ------------------------------------------------------------------------------------------


def _of_model(home: Home, watched: Monitored, now: datetime) -> Record:
    """What serves, what wants to, what was predicted, and what that was worth."""
    from flows import registry

    versions = home.versions.get(watched.model, [])
    champion = inventory.by(versions, registry.CHAMPION)
    challenger = inventory.by(versions, registry.CHALLENGER)
    return {
        "model": watched.model,
        "versions": len(versions),
        "champion": None if champion is None else _of_version(champion, now),
        "challenger": None if challenger is None else _of_version(challenger, now),
        "live": _live(home, watched.model),
        "drifted": _drifted(home, watched.model),
        "predictions": predictions_of(home, watched, now),
    }


def _of_version(model: ModelVersion, now: datetime) -> Record:
    from featurestore.times import parse_time

    told = model.tags.get("decision_at")
    decided = None if told is None else parse_time(told)
    return {
        "version": model.version, "registered": model.created,
        "age_hours": _hours_between(decided or model.created, now),  # a replay decides in a time of its own
        "trained_until": model.lineage.training_window.end, "decision": model.decision,
        "decided": decided,
        "by": model.tags.get("decision_by"), "why": model.tags.get("decision_why"),
    }  # fmt: skip


def _live(home: Home, model: str) -> Record | None:
    """The newest measurement of a model's predictions as a whole; None before the first."""
    if _shared(home, LIVE_METRICS) is None:
        return None
    rows = home.existing_store().sql(
        f"SELECT * FROM {LIVE_METRICS} WHERE model = '{model}' AND slice = 'all' AND horizon = 0 "
        "ORDER BY measured_at DESC LIMIT 1"
    )
    wanted = (
        "measured_at", "metric", "unit", "rows", "value", "low", "high", "baseline", "baseline_value", "skill",
        "skill_low", "skill_high", "kind", "state", "since", "model_versions",
    )  # fmt: skip
    return None if rows.empty else {name: inventory.plain(rows[name].iloc[0]) for name in wanted}


def _drifted(home: Home, model: str) -> int:
    """How many features of a model have drifted, by the newest measurement of each."""
    if _shared(home, DRIFT) is None:
        return 0
    rows = home.existing_store().sql(
        f"SELECT arg_max(state, measured_at) AS state FROM {DRIFT} WHERE model = '{model}' GROUP BY feature"
    )
    return int((rows["state"] == "drifted").sum())


def predictions_of(home: Home, watched: Monitored, now: datetime) -> Record:
    """How many predictions of a model there are, and of how many the truth is known.

    Returns:
        made = matured (the truth is known) + expired (it is not waited for any more) + pending; and for each model
        version how many it made, with the event times of the first and the last.
    """
    nothing: Record = {
        "made": 0, "pending": 0, "matured": 0, "expired": 0, "group": None, "versions": {}
    }  # fmt: skip
    said, truth = watched.said, watched.truth
    if not {said.group, truth.group} <= {group.name for group in home.groups}:
        return nothing
    moment = f"TIMESTAMPTZ '{now.isoformat()}'"
    too_old = f"TIMESTAMPTZ '{(now - truth.expires_after).isoformat()}'"
    columns = {feature.name for feature in home.existing_store().get_feature_group(truth.group).features}
    known = f"t.{truth.known_at} <= {moment}" if truth.known_at in columns else "TRUE"
    only = "TRUE" if said.only is None else f"p.{said.only[0]} = '{said.only[1]}'"
    on = " AND ".join(f"p.{key} = t.{key}" for key in truth.key)
    rows = home.existing_store().sql(
        f"SELECT p.{said.version} AS version, count(*) AS made, count(t.{truth.column}) AS matured, "
        f"count(*) FILTER (WHERE t.{truth.column} IS NULL AND p.{truth.target_time} < {too_old}) AS expired, "
        f"min(p.{said.time}) AS first, max(p.{said.time}) AS last "
        f"FROM {said.group} p LEFT JOIN {truth.group} t ON {on} AND {known} WHERE {only} "
        f"GROUP BY p.{said.version} ORDER BY version"
    )
    if rows.empty:
        return nothing
    made, matured, expired = (int(rows[name].sum()) for name in ("made", "matured", "expired"))
    return {
        "made": made, "pending": made - matured - expired, "matured": matured, "expired": expired,
        "group": said.group,
        "versions": {
            row["version"]: {name: inventory.plain(row[name]) for name in ("made", "first", "last")}
            for row in rows.to_dict("records")
        },
    }  # fmt: skip
