"""When a training is asked for beside its schedule: by rule, not too often, and never because of bad data. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from featurestore.schema import Feature
from flows.rules import Suite, never_null

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import FeatureGroup, FeatureStore
    from flows.monitored import Retraining

GROUP, VERSION = "retraining", 1

FEATURES = (
    Feature("model", "string", "The registered model's name."),
    Feature("asked_at", "timestamp", "When its training was asked for."),
    Feature("system", "string", "Whose model it is."),
    Feature("why", "string", "By which rule."),
    Feature("newest_version", "int", "The version there was: the one asked for is a later one."),
)
"""One row for each time that a training was asked for."""

RULES: Suite = {"name": GROUP, "expectations": never_null("model", "asked_at", "system", "why", "newest_version")}


def group(fs: FeatureStore) -> FeatureGroup:
    """The group; made where it is not there yet."""
    return fs.get_or_create_feature_group(
        name=GROUP, version=VERSION, description="When and why the monitor asked for a training.",
        primary_key=["model"], event_time="asked_at", features=list(FEATURES), expectation_suite=RULES,
    )  # fmt: skip


def as_frame(*, model: str, asked_at: datetime, system: str, why: str, newest_version: int) -> pd.DataFrame:
    """One row of the group."""
    import pandas as pd

    return pd.DataFrame({
        "model": [model], "asked_at": pd.to_datetime([asked_at], utc=True), "system": [system], "why": [why],
        "newest_version": pd.array([newest_version], dtype="int32"),
    })  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What the rule looks at.

    Args:
        newest_made: when the newest version was made; None before there is one.
        last_asked: when a training was last asked for; None if never.
        new_labels: of how much time labels are known since the newest version's training window ended.
        regressed: whether the live metric is.
        drifted: the features that are, most important first.
        bad_data: the groups whose newest batch was refused.
    """

    newest_made: datetime | None
    last_asked: datetime | None
    new_labels: timedelta
    regressed: bool
    drifted: Sequence[str]
    bad_data: Sequence[str]


class Verdict(NamedTuple):
    """Whether to ask for a training, and why or why not."""

    ask: bool
    why: str


def verdict(rule: Retraining, facts: Facts, now: datetime) -> Verdict:
    """Whether a training is due by the rule; what is due may still have to wait, and bad data are repaired first.

    >>> from datetime import UTC
    >>> from flows.fraud.monitored import FRAUD
    >>> now, day = datetime(2026, 3, 1, tzinfo=UTC), timedelta(days=1)
    >>> verdict(FRAUD.retraining, Facts(now - 30 * day, None, 20 * day, False, [], []), now)
    Verdict(ask=True, why='labels of 20 days are new since the newest version (asked for from 14 on)')
    >>> verdict(FRAUD.retraining, Facts(now - 30 * day, None, 5 * day, False, ["amount"], []), now).ask
    False
    """
    if facts.newest_made is None:
        return Verdict(False, "there is no version yet: its schedule trains the first")
    reasons = []
    if facts.regressed:
        reasons.append("the live metric has regressed")
    if facts.new_labels >= rule.after:
        reasons.append(
            f"labels of {facts.new_labels.days} days are new since the newest version (asked for from "
            f"{rule.after.days} on)"
        )
    if facts.drifted and rule.on_drift:
        reasons.append(f"drifted: {', '.join(facts.drifted[:5])}")
    if not reasons:
        return Verdict(False, "nothing asks for it" + (": drift alone does not" if facts.drifted else ""))
    why = "; ".join(reasons)
    if facts.bad_data:
        return Verdict(
            False, f"{why}; but the newest batch of {', '.join(facts.bad_data)} was refused: repair it first"
        )
    for what, when in (("the newest version was made", facts.newest_made), ("it was asked for", facts.last_asked)):
        if when is not None and now < when + rule.cool_down:
            return Verdict(
                False, f"{why}; but {what} at {when:%Y-%m-%d %H:%M}, less than {rule.cool_down.days} days ago"
            )
    return Verdict(True, why)
