"""What must hold when two months are over: each law looks at the evidence and returns what breaks it, as sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from tests.simulation.evidence import Decided, Evidence, Version

if TYPE_CHECKING:
    import pandas as pd

Law = Callable[[Evidence], list[str]]
MOMENT = timedelta(seconds=1)
SHADOW = "_shadow"
BY_HAND = "by hand"
"""In the reason of every decision that the simulator makes in a person's place."""


# --- the store ---------------------------------------------------------------------------------------


def no_gap(evidence: Evidence) -> list[str]:
    """The windows of every group tile time, and all groups of the features end together."""
    found = []
    for name, group in evidence.groups.items():
        if name.endswith(SHADOW):  # there is only one while a challenger waits
            continue
        covered: datetime | None = None
        for window in sorted(group.windows):
            # History is backfilled in stretches that are meant to be apart; from the first day on there is no gap.
            if covered is not None and window.start > covered and window.start > evidence.world.history[-1].start:
                found.append(f"{name}: nothing was committed for {covered} to {window.start}")
            covered = window.end if covered is None else max(covered, window.end)
    ends = {name: max(w.end for w in group.windows) for name, group in _of_features(evidence).items() if group.windows}
    if len(set(ends.values())) > 1:
        found.append(f"the groups of the features end apart: {ends}")
    return found


def caught_up(evidence: Evidence) -> list[str]:
    """The features reach the end of the replay, whatever happened on the way."""
    windows = evidence.groups[evidence.world.spine].windows
    newest = max((window.end for window in windows), default=None)
    if newest is None or evidence.ends - newest > evidence.world.silent + timedelta(hours=1):
        return [f"the replay ended at {evidence.ends}, and {evidence.world.spine} only reaches {newest}"]
    return []


def no_duplicate(evidence: Evidence) -> list[str]:
    """Every key is there once."""
    return [
        f"{name}: {int(twice)} rows have the key of another one ({', '.join(group.key)})"
        for name, group in evidence.groups.items()
        if (twice := group.rows.duplicated(list(group.key)).sum())
    ]


def no_leak(evidence: Evidence) -> list[str]:
    """A label is known after what it is about, and not after the replay's end; no row of features is of the future."""
    world, found = evidence.world, []
    labels, (about, known_at) = evidence.groups[world.labels].rows, world.known_at
    if early := int((labels[known_at] <= labels[about]).sum()):
        found.append(f"{world.labels}: {early} labels were known before what they are about")
    if future := int((labels[known_at] > evidence.ends).sum()):
        found.append(f"{world.labels}: {future} labels are there that nobody can know yet")
    for version in evidence.versions:
        for decided in version.decisions[:1]:
            if version.learned_until > decided.at:
                found.append(f"{_named(version)} learned from {version.learned_until}, after its gate at {decided.at}")
    return found


def no_skew(evidence: Evidence) -> list[str]:
    """Features computed again at the end, from what the source says then, are those that are stored."""
    compared = evidence.noted("recomputed")
    found = [] if compared else ["nothing was computed again at the end"]
    for each in compared:
        differing = [name for name, digest in each["before"].items() if each["after"][name] != digest]
        if differing or each["rows_written"]:
            found.append(f"{each['window']}: computed again, {each['rows_written']} rows differ, of {differing}")
    return found


def the_past_stays(evidence: Evidence) -> list[str]:
    """What a version of a table said in the middle of the replay, it says at its end."""
    kept = {(each["group"], each["version"]): each["content"] for each in evidence.noted("kept")}
    again = {(each["group"], each["version"]): each["content"] for each in evidence.noted("read again")}
    found = [] if again else ["no version was read again"]
    return found + [
        f"{group} as of version {version} was {kept.get((group, version))} and is {now}"
        for (group, version), now in again.items()
        if kept.get((group, version)) != now
    ]


def refused_batches_change_nothing(evidence: Evidence) -> list[str]:
    """A schema that changed, and a source that is silent, leave every table that is fed by it at its version."""
    found = []
    for call in evidence.calls:
        if call.get("state") != "ended" or call["error"] in (None, "InvalidData"):
            continue
        fed = {name for each in evidence.world.happens if each.lasted(call["at"]) for name in each.feeds}
        before, after = call["before"]["versions"], call["after"]["versions"]
        if changed := [name for name in before if before[name] != after.get(name) and (not fed or name in fed)]:
            found.append(f"{call['at']}: {call['step']} failed ({call['error']}), and yet {changed} changed")
    return found


def bad_batches_stop_before_the_spine(evidence: Evidence) -> list[str]:
    """A batch that breaks a rule is not written, and neither is the spine: the next run does all of it."""
    spine = evidence.world.spine
    return [
        f"{call['at']}: {call['step']} refused a batch and yet wrote {spine}"
        for call in evidence.ended("features")
        if call["error"] == "InvalidData"
        and call["before"]["versions"].get(spine) != call["after"]["versions"].get(spine)
    ]


def only_what_was_disturbed_failed(evidence: Evidence) -> list[str]:
    """While the world is as usual every flow ends well; while it is not, features answer with the error they should."""
    found = []
    for call in evidence.calls:
        if call.get("state") != "ended":
            continue
        expected = [
            each for each in evidence.world.happens
            if each.error and call["step"] == "features" and each.lasted(call["at"])
        ]  # fmt: skip
        if not expected and call["error"]:
            found.append(f"{call['at']}: {call['step']} failed: {call['error']}: {call['message']}")
        for each in expected:
            if call["error"] not in each.error and not _nothing_to_read(call):
                found.append(
                    f"{call['at']}: {each.kind}, and {call['step']} answered {call['error'] or 'that all is well'}"
                )
    return found


# --- models and predictions --------------------------------------------------------------------------


def no_false_promotion(evidence: Evidence) -> list[str]:
    """What was trained badly on purpose serves only where a person put it; every other champion passed its gate."""
    found = []
    for version in evidence.versions:
        for decided in version.decisions:
            if decided.what != "promoted" or BY_HAND in decided.text:
                continue
            if any(window.start <= decided.at < window.end for window in evidence.world.spoilt):
                found.append(f"{_named(version)} was spoilt on purpose, and the gate let it pass: {decided.text}")
            if "only " in decided.text:
                found.append(f"{_named(version)} was promoted against a reason: {decided.text}")
    return found


def judged_beside_the_champion(evidence: Evidence) -> list[str]:
    """Where a version serves, every later one is measured beside it on the same rows before the gate decides."""
    found = []
    for version in evidence.versions:
        for decided in version.decisions:
            serving = [n for at, n in champions(evidence.versions, version.model) if at < decided.at]
            if serving and BY_HAND not in decided.text and f"champion (version {serving[-1]})" not in decided.text:
                found.append(f"{_named(version)} was {decided.what} without a look at version {serving[-1]}")
    return found


def the_gate_tells_worse_from_better(evidence: Evidence) -> list[str]:
    """Where models are spoilt on purpose, one was rejected, and a sound one replaced what a person had put there."""
    if not evidence.world.spoilt:
        return []
    rejected = [
        v for v in evidence.versions for d in v.decisions
        if d.what == "rejected" and any(w.start <= d.at < w.end for w in evidence.world.spoilt)
    ]  # fmt: skip
    better = [
        v for v in evidence.versions for d in v.decisions if d.what == "promoted" and BY_HAND not in d.text
    ]  # fmt: skip
    found = []
    if evidence.ends > max(window.start for window in evidence.world.spoilt) and not rejected:
        found.append("no spoilt model was rejected")
    if not better:
        found.append("no better model was promoted")
    return found


def predictions_in_time(evidence: Evidence) -> list[str]:
    """What was computed after its target is flagged as such, and each tick that ended well predicted in time."""
    found = []
    for each in evidence.world.predictions:
        rows = _rows(evidence, each.group, each.only)
        if rows is None:
            continue
        if rows.empty and not any(champions(evidence.versions, model) for _, model in each.versions):
            continue  # the gate never let one serve
        target = rows[each.target] + each.after
        late = rows["made_at"] > target
        if unflagged := int((late & ~rows["backfilled"].astype("bool")).sum()):
            found.append(
                f"{each.group}: {unflagged} rows were computed after their target and are no backfill by their flag"
            )
        if not len(rows) or bool(late.all()):
            found.append(f"{each.group}: of {len(rows)} predictions not one was made in time")
    return found


def predictions_by_the_champion(evidence: Evidence) -> list[str]:
    """Every prediction comes from the version that was champion when it was made."""
    found = []
    for each in evidence.world.predictions:
        rows = _rows(evidence, each.group, each.only)
        if rows is None:
            continue
        for column, model in each.versions:
            line = champions(evidence.versions, model)
            for (made_at, number), some in rows.groupby(["made_at", column]):
                served = max((d for d in line if d[0] <= made_at), default=(made_at, 0))[1]
                if number != served:
                    found.append(
                        f"{each.group}: {len(some)} rows made at {made_at} name {model} {number}, not {served}"
                    )
    return found


def promoted_models_serve(evidence: Evidence) -> list[str]:
    """The next inference after a promotion uses the version that was promoted."""
    found = []
    for each in evidence.world.predictions:
        rows = _rows(evidence, each.group, each.only)
        if rows is None:
            continue
        for column, model in each.versions:
            for at, number in champions(evidence.versions, model):
                later = rows[rows["made_at"] >= at]
                first = later[later["made_at"] == later["made_at"].min()]
                if len(first) and set(first[column]) != {number}:
                    found.append(
                        f"{each.group}: {model} {number} was promoted at {at}; then {set(first[column])} predicted"
                    )
    return found


def truth_arrives(evidence: Evidence) -> list[str]:
    """In the end the truth of most predictions is known, however late it came, and little is given up for lost."""
    if "live_metrics" not in evidence.groups:
        return ["nothing was ever measured"]
    rows = evidence.groups["live_metrics"].rows
    whole = rows[(rows["slice"] == "all") & (rows["horizon"] == 0)].sort_values("measured_at")
    return [
        f"{row['model']}: of the last predictions {row['matured']} have matured, {row['expired']} have expired"
        for row in whole.drop_duplicates("model", keep="last").to_dict("records")
        if row["matured"] == 0 or row["expired"] > 0.05 * row["matured"]
    ]


def champions(versions: Sequence[Version], model: str) -> list[tuple[datetime, int]]:
    """Since when which version served."""
    decided: list[tuple[Decided, int]] = [
        (each, v.number) for v in versions if v.model == model for each in v.decisions if each.what == "promoted"
    ]
    return sorted((each.at, number) for each, number in decided)


def status_says_what_is(evidence: Evidence) -> list[str]:
    """`triptych status` is red exactly where a promise is broken: a group too old, a model regressed."""
    changed = _freshness(evidence) + _monitored(evidence)
    mended = {STALE: FRESH, WORSE: RECOVERED}
    why = [
        f"{name} of {resource}"
        for (name, resource), number in changed.items()
        if name in mended and number > changed[mended[name], resource]
    ]
    is_red = evidence.status.get("state") == "red"
    if is_red != bool(why):
        return [f"the status is {evidence.status.get('state')} ({evidence.status.get('why')}); broken are {why}"]
    return []


# --- alerts ------------------------------------------------------------------------------------------


def every_alert_once(evidence: Evidence) -> list[str]:
    """Each change was told once: freshness, decisions about models, refused batches, and what the monitor found."""
    told = Counter((each.name, each.resource) for each in evidence.told)
    wanted = _freshness(evidence) + _decisions(evidence) + _monitored(evidence)
    found = []
    refused = [each for each in evidence.calls if each.get("error") == "InvalidData"]
    if (number := sum(each.name == INVALID for each in evidence.told)) != len(refused):
        found.append(f"{INVALID}: {len(refused)} batches were refused, told {number} times")
    for name, resource in sorted(set(wanted) | {key for key in told if key[0] in ALERTED}):
        if told[name, resource] != wanted[name, resource]:
            found.append(f"{name} of {resource}: {wanted[name, resource]} changes, told {told[name, resource]} times")
    return found


STALE, FRESH = "triptych.freshness.violated", "triptych.freshness.restored"
REGISTERED, PROMOTED, REJECTED = (f"triptych.model.{name}" for name in ("registered", "promoted", "rejected"))
INVALID = "triptych.validation.failed"
DRIFT, NO_DRIFT = "triptych.drift.found", "triptych.drift.gone"
WORSE, RECOVERED = "triptych.live_metric.regressed", "triptych.live_metric.recovered"
ALERTED = {STALE, FRESH, REGISTERED, PROMOTED, REJECTED, DRIFT, NO_DRIFT, WORSE, RECOVERED}


def changes(states: Sequence[str], *, usual: str) -> list[str]:
    """The states to which something changed, one after another, beginning as usual.

    >>> changes(["fine", "late", "late", "fine"], usual="fine")
    ['late', 'fine']
    """
    found, last = [], usual
    for state in states:
        if state != last:
            found.append(state)
        last = state
    return found


def _freshness(evidence: Evidence) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    if "freshness" in evidence.groups:
        rows = evidence.groups["freshness"].rows.sort_values("checked_at")
        for name, some in rows.groupby("feature_group"):
            resource = "triptych.feature-group." + str(name).replace("@", ".")
            for state in changes(some["state"].tolist(), usual="fresh"):
                found[STALE if state == "stale" else FRESH, resource] += 1
    return found


def _decisions(evidence: Evidence) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for version in evidence.versions:
        resource = f"triptych.model.{version.model}.{version.number}"
        found[REGISTERED, resource] += 1
        for decided in version.decisions:
            if BY_HAND not in decided.text:
                found[{"promoted": PROMOTED}.get(decided.what, REJECTED), resource] += 1
    return found


def _monitored(evidence: Evidence) -> Counter[tuple[str, str]]:
    """What the monitor's own groups say: drift of a model's columns, and the live metric of a model as a whole."""
    found: Counter[tuple[str, str]] = Counter()
    for group, usual, bad, gone, changed in (
        ("drift", "same", DRIFT, NO_DRIFT, drift_changes),
        ("live_metrics", "fine", WORSE, RECOVERED, live_changes),
    ):
        if group in evidence.groups:
            for model, state in changed(evidence.groups[group].rows):
                found[gone if state == usual else bad, f"triptych.model.{model}"] += 1
    return found


def drift_changes(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Model and new state of each measurement that found columns in another state: all columns are told of at once."""
    found = set()
    for (model, _), some in rows.sort_values("measured_at").groupby(["model", "feature"]):
        before = some["state"].shift(fill_value="same")
        for at, state in zip(some["measured_at"], some["state"].where(some["state"] != before), strict=True):
            if state == state:
                found.add((model, at, state))
    return [(model, state) for model, _, state in sorted(found)]


def live_changes(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Model and new state of each change of a model as a whole; "too few" changes nothing."""
    whole = rows[(rows["slice"] == "all") & (rows["horizon"] == 0) & (rows["state"] != "too few")]
    return [
        (str(model), state)
        for model, some in whole.sort_values("measured_at").groupby("model")
        for state in changes(some["state"].tolist(), usual="fine")
    ]


# --- helpers -----------------------------------------------------------------------------------------


def _of_features(evidence: Evidence) -> dict[str, Any]:
    predictions = {each.group for each in evidence.world.predictions}
    shared = {"freshness", "drift", "live_metrics"}
    return {
        name: group for name, group in evidence.groups.items()
        if name not in predictions | shared and not name.endswith(SHADOW)
    }  # fmt: skip


def _nothing_to_read(call: dict[str, Any]) -> bool:
    """A tick on which the source has nothing new, such as a stock exchange's Sunday."""
    return call["error"] is None and call.get("answer") == 0


def _named(version: Version) -> str:
    return f"{version.model} {version.number}"


def _rows(evidence: Evidence, group: str, only: tuple[str, str] | None) -> pd.DataFrame | None:
    if group not in evidence.groups:
        return None
    rows = evidence.groups[group].rows
    return rows if only is None else rows[rows[only[0]] == only[1]]


LAWS: tuple[Law, ...] = (
    no_gap,
    caught_up,
    no_duplicate,
    no_leak,
    no_skew,
    the_past_stays,
    refused_batches_change_nothing,
    bad_batches_stop_before_the_spine,
    only_what_was_disturbed_failed,
    no_false_promotion,
    judged_beside_the_champion,
    the_gate_tells_worse_from_better,
    predictions_in_time,
    predictions_by_the_champion,
    promoted_models_serve,
    truth_arrives,
    status_says_what_is,
    every_alert_once,
)
