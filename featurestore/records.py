"""Groups, views, commits and training sets as plain records: what the command line prints, as tables or JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from featurestore.errors import FeatureStoreError
from featurestore.times import parse_time

if TYPE_CHECKING:
    import pandas as pd

    from featurestore.feature_group import FeatureGroup
    from featurestore.feature_view import FeatureView
    from featurestore.findings import Finding
    from featurestore.forget import Forgotten
    from featurestore.maintenance import Optimized, Vacuumed
    from featurestore.snapshots import Commit
    from featurestore.training_dataset import TrainingDataset

Record = dict[str, Any]


def of_commit(commit: Commit) -> Record:
    """A commit: its version, time, rows, window and author."""
    return {
        # Of Delta's own "create or replace table" the first word says it.
        "version": commit.version, "time": commit.time, "operation": commit.operation.partition(" ")[0],
        "inserted": commit.rows_inserted, "updated": commit.rows_updated, "deleted": commit.rows_deleted,
        "unchanged": commit.rows_unchanged, "deduplicated": commit.rows_deduplicated,
        "window": None if commit.window is None else [commit.window.start, commit.window.end], "who": commit.who,
        "code": commit.code,
    }  # fmt: skip


def of_history(group: FeatureGroup) -> list[Record]:
    """The commits of a group, newest first."""
    return [of_commit(c) for c in reversed(group.history())]


def of_group(group: FeatureGroup) -> Record:
    """A group in one line: what a list shows. Reads no rows and no older commits."""
    last = group.last_commit
    return {
        "name": group.name, "version": group.version, "description": group.description,
        "primary_key": group.primary_key, "event_time": group.event_time, "online": group.online_enabled,
        "rows": 0 if last is None else group.snapshot().rows, "delta_version": last and last.version,
        "written": last and last.time, "watermark": group.watermark,
    }  # fmt: skip


def of_group_in_full(group: FeatureGroup, now: datetime) -> Record:
    """A group with columns, statistics, freshness (ages of newest row and watermark at `now`), history newest first."""
    definition = group.definition
    statistics = group.statistics if definition.features else {}
    newest = statistics[group.event_time]["max"] if group.event_time and statistics else None
    newest = None if newest is None else parse_time(newest)
    columns = [
        {
            "name": f.name, "type": f.dtype, "unit": f.unit, "description": f.description, "on_demand": f.on_demand,
            "statistics": statistics[f.name],
        }
        for f in definition.features
    ]  # fmt: skip
    return of_group(group) | {
        "newest_row": newest, "newest_row_age": None if newest is None else now - newest,
        "watermark_age": None if group.watermark is None else now - group.watermark,
        "window_gaps": [[gap.start, gap.end] for gap in group.window_gaps()] if columns else [],
        "ttl": definition.ttl, "partition_key": list(definition.partition_key),
        "foreign_key": list(definition.foreign_key), "tags": group.tags, "location": group.location,
        "columns": columns, "history": of_history(group),
    }  # fmt: skip


def of_view(view: FeatureView) -> Record:
    """A view in one line: what a list shows."""
    return {
        "name": view.name, "version": view.version, "description": view.description,
        "groups": [str(ref) for ref in dict.fromkeys(view.query.groups())], "labels": view.labels,
        "training_sets": [dataset.version for dataset in view.training_datasets()],
    }  # fmt: skip


def of_view_in_full(view: FeatureView) -> Record:
    """A view with its query in words, its features, transformations and training sets."""
    return of_view(view) | {
        "query": view.query.explain().splitlines(),
        "features": [
            {"name": f.name, "type": f.dtype, "unit": f.unit, "on_demand": f.on_demand, "description": f.description}
            for f in view.features
        ],
        "transformations": _steps(view),
        "training_sets": [of_training_set(dataset) for dataset in view.training_datasets()],
    }


def _steps(view: FeatureView) -> list[str]:
    """The transformations in words, or why they cannot be told: a function of one's own may be elsewhere."""
    try:
        return [str(step) for step in view.transformations.steps]
    except FeatureStoreError as error:
        return [str(error)]


def of_training_set(dataset: TrainingDataset) -> Record:
    """A training set in one line: rows of each split, the pinned Delta versions, its hash."""
    return {
        "version": dataset.version, "created_at": parse_time(dataset.manifest["created_at"]),
        "created_by": dataset.manifest["created_by"], "rows": dataset.rows, "pins": dataset.delta_versions,
        "content_hash": dataset.content_hash, "description": dataset.manifest["description"],
    }  # fmt: skip


def of_training_columns(statistics: Mapping[str, Any]) -> Record:
    """The statistics of a training set's first split, untransformed: what drift is measured on."""
    return next(iter(statistics.values()))["raw"]


def of_explanation(explained: pd.DataFrame) -> list[Record]:
    """What `view.explain` gives: one record per feature, None where there is nothing."""
    plain = explained.astype(object).where(explained.notna(), None)
    return [
        {"feature": row["feature"], "value": row["value"], "group": f"{row['group']}_v{row['group_version']}"}
        | {name: row[name] for name in ("event_time", "commit_version", "committed_at", "reason")}
        for row in plain.to_dict("records")
    ]  # fmt: skip


def of_optimized(group: FeatureGroup, optimized: Optimized) -> Record:
    """What compaction read and wrote in a group."""
    return {
        "group": str(group.ref), "delta_version": optimized.version, "files_before": optimized.files_before,
        "files_after": optimized.files_after, "rows": optimized.rows,
    }  # fmt: skip


def of_vacuum(group: FeatureGroup, vacuumed: Vacuumed) -> Record:
    """What a vacuum removed from a group, and which pinned versions it kept for whom."""
    return {
        "group": str(group.ref), "dry_run": vacuumed.dry_run, "files": [*vacuumed.files, *vacuumed.orphans],
        "bytes": vacuumed.bytes, "versions_lost": list(vacuumed.versions),
        "held": {version: list(by) for version, by in vacuumed.held.items()}, "held_bytes": vacuumed.held_bytes,
    }  # fmt: skip


def of_forgotten(report: Forgotten) -> Record:
    """What a forget erased, and what else had held the rows."""
    return asdict(report) | {"models": report.models}


def of_finding(finding: Finding) -> Record:
    """What a check has to say."""
    return {
        "severity": finding.severity, "subject": finding.subject, "message": finding.message, "remedy": finding.remedy
    }  # fmt: skip


def of_column_statistics(name: str, summary: Record) -> Record:
    """A column's statistics in one line: its median and most frequent value instead of all of them."""
    percentiles, top = summary["percentiles"], summary["top_values"]
    found = {
        "column": name, "kind": summary["kind"], "count": summary["count"], "nulls": summary["null_count"],
        "distinct": summary["distinct_count"], "min": summary["min"],
        "median": percentiles[49] if percentiles else None, "max": summary["max"], "mean": summary["mean"],
        "std_dev": summary["std_dev"], "most_frequent": top[0]["value"] if top else None,
    }  # fmt: skip
    if summary["kind"] == "time" and summary["count"]:
        moments = {key: parse_time(found[key]) for key in ("mean", "min", "median", "max")}
        found |= moments | {"std_dev": timedelta(seconds=found["std_dev"]), "most_frequent": None}
    return found
