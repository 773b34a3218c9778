"""Keeps the store small and quick: compacts files, and removes what no version, training set or view needs."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from prefect import flow, task

import featurestore
from flows import command_line, events, late, retries
from flows.settings import Settings

if TYPE_CHECKING:
    from featurestore import FeatureGroup


@flow(name="maintenance", flow_run_name="maintenance")
@late.newest_only
def maintenance(keep_days: int = 7) -> int:
    """Compact and vacuum every feature group; return the bytes that were freed.

    What a training dataset or a view pins stays readable, and so does every version that was current within the days to
    keep. Prefect's server, as `make up` starts it, removes its own runs after 90 days and events after 30. MLflow's
    versions and their runs stay for good: predictions name them, and a rollback needs them.
    """
    fs = featurestore.connect(home=Settings().store_home)
    groups = [group for group in fs.get_feature_groups() if group.features]
    rows = [tidy(group, timedelta(days=keep_days)) for group in events.progress(groups, "Maintenance of the store")]
    events.summary_artifact("maintenance", rows)
    return sum(row["bytes_freed"] for row in rows)


@task(task_run_name="tidy {group.name}", **retries.WRITING)
def tidy(group: FeatureGroup, retention: timedelta) -> dict[str, Any]:
    """Compact and vacuum one group; what was done, as one row."""
    compacted = group.optimize()
    removed = group.vacuum(retention)
    return {
        "feature_group": f"{group.name}@{group.version}",
        "files_before": compacted.files_before,
        "files_after": compacted.files_after,
        "files_removed": len(removed.files) + len(removed.orphans),
        "bytes_freed": removed.bytes,
        "versions_gone": len(removed.versions),
        "held_by_pins_bytes": removed.held_bytes,
    }


if __name__ == "__main__":
    command_line.run(maintenance)
