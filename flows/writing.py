"""Writing to feature groups from a flow: rules, report, event. And a store that holds rows of one source only."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any

from prefect import task

from featurestore.errors import InvalidData
from featurestore.times import Window
from flows import events, partitions, retries

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import Commit, FeatureGroup, FeatureStore


_whole: ContextVar[Writing | None] = ContextVar("triptych_whole", default=None)
"""What the run writes of which a flow's own writing is a part."""


class Writing:
    """What one run writes to its groups. Leaving it tells the last commit of each group as the last.

    So who waits for new rows starts once per run, into however many pieces a backfill was cut, and finds all groups
    complete: a commit is told when the next one of its group is there, and the last ones when everything is written. A
    run that is killed leaves its last ones untold; the schedules make up for it. Within another one, as in a backfill,
    it is a part of that run, which tells.

    >>> with Writing() as written:
    ...     written.commits
    []
    """

    def __init__(self) -> None:
        self.commits: list[Commit] = []
        self._untold: dict[str, tuple[FeatureGroup, Commit]] = {}
        self._has_rows: set[str] = set()
        self._token: Token[Writing | None] | None = None

    def __enter__(self) -> Writing:
        whole = _whole.get()
        if whole is None:
            self._token = _whole.set(self)
        else:
            self._untold, self._has_rows = whole._untold, whole._has_rows
        return self

    def __exit__(self, *error: object) -> None:
        if self._token is None:
            return
        _whole.reset(self._token)
        for name, (group, commit) in self._untold.items():
            events.committed(group, commit, last=True, any_rows=name in self._has_rows)

    def write(self, group: FeatureGroup, rows: pd.DataFrame, window: Window | None) -> Commit:
        """Write rows that pass their rules; a batch that does not is refused whole, and its report is kept."""
        commit = _insert(group, rows, window)
        if before := self._untold.pop(group.name, None):
            events.committed(*before, last=False, any_rows=group.name in self._has_rows)
        self._untold[group.name] = group, commit
        if commit.rows_written:
            self._has_rows.add(group.name)
        self.commits.append(commit)
        return commit

    @property
    def rows_written(self) -> int:
        """The rows of all commits."""
        return sum(commit.rows_written for commit in self.commits)


def write(group: FeatureGroup, rows: pd.DataFrame, window: Window | None) -> Commit:
    """Write all that a run has for a group, as `Writing.write` does it, and tell it at once."""
    with Writing() as written:
        return written.write(group, rows, window)


@task(name="write", task_run_name="write {group.name}", **retries.WRITING)
def _insert(group: FeatureGroup, rows: pd.DataFrame, window: Window | None) -> Commit:
    system = group.tags.get("system")
    try:
        commit = group.insert(rows, window=window, code=partitions.code_of(system) if system else "")
    except InvalidData as error:
        events.validation_artifact(group.name, error.report)
        events.validation_failed(group, error.report)
        raise
    events.validation_artifact(group.name, newest_report(group))
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
