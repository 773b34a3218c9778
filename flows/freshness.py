"""Is every feature group as fresh as it promises? Told once when a promise breaks, and once when it is kept again.

A group promises by its tag `max_age_hours`: so long after now its watermark may lie. Groups without the tag promise
nothing; tables of the past cannot grow older and are left out.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from prefect import flow, get_run_logger

import featurestore
from featurestore.schema import Feature
from flows import command_line, events, late, windows
from flows.rules import Suite, between, in_set, never_null
from flows.settings import Settings
from flows.writing import write

if TYPE_CHECKING:
    from featurestore import FeatureGroup

GROUP, VERSION = "freshness", 1
PROMISE = "max_age_hours"
"""The tag of a feature group by which it promises."""

GROWING = ("simulated", "live")
"""Sources that go on; a table ends where it ends."""

FRESH, STALE = "fresh", "stale"
HOUR = timedelta(hours=1)

FEATURES = (
    Feature("feature_group", "string", "The group looked at, as name@version."),
    Feature("checked_at", "timestamp", "When it was looked at."),
    Feature("watermark", "timestamp", "End of its last committed window; null while it is empty."),
    Feature("age_hours", "double", "From the watermark to the check; null while it is empty.", unit="h"),
    Feature("max_age_hours", "double", "What it promises.", unit="h"),
    Feature("state", "string", "fresh or stale."),
    Feature("since", "timestamp", "The check that first found it in this state."),
)
"""One row per group and check."""

RULES: Suite = {
    "name": GROUP,
    "expectations": [
        *never_null("feature_group", "checked_at", "max_age_hours", "state", "since"),
        in_set("state", [FRESH, STALE]),
        between("max_age_hours", 0, None),
    ],
}


@flow(name="freshness", flow_run_name="freshness")
@late.newest_only
def freshness() -> int:
    """Look at the watermark of every group that promises to be fresh; return how many break their promise."""
    fs = featurestore.connect(home=Settings().store_home)
    checks_fg = fs.get_or_create_feature_group(
        name=GROUP, version=VERSION, description="How old each feature group was at each check.",
        primary_key=["feature_group"], event_time="checked_at", features=list(FEATURES), expectation_suite=RULES,
    )  # fmt: skip
    now = windows.scheduled_time()
    promising = [group for group in fs.get_feature_groups() if promises(group)]
    if not promising:
        get_run_logger().info("Skipped: no feature group has the tag %s.", PROMISE)
        return 0
    before = last_states(checks_fg)
    checks = [check(group, now, before.get(named(group))) for group in promising]
    # Told before it is kept: a run that is killed in between tells again, and no alert is lost.
    for group, found in zip(promising, checks, strict=True):
        was = before.get(named(group), {}).get("state", FRESH)
        if found["state"] != was:
            events.freshness_changed(group, is_stale=found["state"] == STALE, facts=found)
    write(checks_fg, as_rows(checks), None)
    events.summary_artifact("freshness", checks)
    return sum(found["state"] == STALE for found in checks)


def promises(group: FeatureGroup) -> bool:
    """Whether the group says how old it may be, and has a source that goes on."""
    return PROMISE in group.tags and group.tags.get("source", GROWING[0]) in GROWING


def named(group: FeatureGroup) -> str:
    """The group as name@version."""
    return f"{group.name}@{group.version}"


def check(group: FeatureGroup, now: datetime, before: dict[str, Any] | None) -> dict[str, Any]:
    """One row of the checks.

    Args:
        before: the row of the last check of this group; None for the first.
    """
    promised = float(group.tags[PROMISE])
    age = None if group.watermark is None else (now - group.watermark) / HOUR
    state = FRESH if age is not None and age <= promised else STALE
    since = before["since"] if before is not None and before["state"] == state else now
    return {
        "feature_group": named(group),
        "checked_at": now,
        "watermark": group.watermark,
        "age_hours": None if age is None else round(age, 3),
        "max_age_hours": promised,
        "state": state,
        "since": since,
    }


def last_states(checks: FeatureGroup) -> dict[str, dict[str, Any]]:
    """The newest row of each group, by its name."""
    rows = checks.read().sort_values("checked_at").drop_duplicates("feature_group", keep="last")
    return {row["feature_group"]: row for row in rows.to_dict("records")}


def as_rows(checks: list[dict[str, Any]]) -> Any:
    """The checks as a frame of the group's columns."""
    import pandas as pd

    rows = pd.DataFrame(checks)
    times = {name: pd.to_datetime(rows[name], utc=True) for name in ("checked_at", "watermark", "since")}
    return rows.assign(**times, age_hours=rows["age_hours"].astype("float64"))


if __name__ == "__main__":
    command_line.run(freshness)
