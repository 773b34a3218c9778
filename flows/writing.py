"""Writing to a feature group from a flow: rules, report, event. And a store that holds rows of one source only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prefect import task

from featurestore.errors import InvalidData
from featurestore.times import Window
from flows import events, partitions, retries

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import Commit, FeatureGroup, FeatureStore


@task(task_run_name="write {group.name}", **retries.WRITING)
def write(group: FeatureGroup, rows: pd.DataFrame, window: Window | None) -> Commit:
    """Write rows that pass their rules; a batch that does not is refused whole, and its report is kept."""
    system = group.tags.get("system")
    try:
        commit = group.insert(rows, window=window, code=partitions.code_of(system) if system else "")
    except InvalidData as error:
        events.validation_artifact(group.name, error.report)
        events.validation_failed(group, error.report)
        raise
    events.validation_artifact(group.name, newest_report(group))
    events.committed(group, commit)
    return commit


def newest_report(group: FeatureGroup) -> Mapping[str, Any] | None:
    """The report of the group's newest batch; None when its rules have judged none."""
    reports = group.validation_reports()
    return reports[max(reports)] if reports else None


def check_source(fs: FeatureStore, source: str, *, group_name: str, settings: str) -> None:
    """Refuse to mix: what happened in one source says nothing about the entity of that name in another.

    Args:
        source: what this run reads.
        group_name: the system's group that is tagged with its source.
        settings: the environment variables that decide about the source, for the message.
    Raises:
        InvalidData: the store holds rows of another source.
    """
    for group in fs.get_feature_groups():
        held = group.tags.get("source", source) if group.name == group_name else source
        if held != source:
            raise InvalidData(
                f"Feature group {group.name} holds rows of the source {held!r}, and this run reads {source!r}; one "
                "store holds rows of one source only. Set TRIPTYCH_HOME to another folder, or "
                f"{settings} back to what they were."
            )


def summary(groups: Mapping[str, FeatureGroup], window: Window | None, commits: list[Commit]) -> dict[str, Any]:
    """What a feature run did, as the one row of its summary."""
    return {
        "window": "nothing new" if window is None else str(window),
        "rows_written": sum(commit.rows_written for commit in commits),
        "rows_unchanged": sum(commit.rows_unchanged for commit in commits),
        "source": next(iter(groups.values())).tags["source"],
        "delta_versions": ", ".join(f"{name} {group.delta_version}" for name, group in groups.items()),
    }
