"""What is wrong with a store, or about to be, and what to do about it: the findings of `featurestore doctor`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore import delta_log, delta_table, maintenance, training_files
from featurestore.delta_log import Life
from featurestore.errors import FeatureStoreError
from featurestore.findings import Finding
from featurestore.forget import UNFINISHED
from featurestore.pins import pins_of
from featurestore.snapshots import Snapshot

if TYPE_CHECKING:
    from featurestore.feature_group import FeatureGroup
    from featurestore.store import FeatureStore

LITTLE_SPACE_BYTES = 1 << 30
MANY_FILES = 10
"""Files that compaction would write anew before it is worth a word."""
_OLD_SECONDS = maintenance.GRACE.total_seconds()
_LIBRARIES = ("deltalake", "duckdb", "pandas", "pyarrow", "sqlalchemy")


def check(store: FeatureStore, *, deep: bool) -> list[Finding]:
    """All findings: errors first, then warnings, then what is worth knowing.

    A home that cannot be opened at all, such as one whose catalog a newer version wrote, is said by `connect`.
    """
    found = [*_of_home(store), *_of_training_datasets(store, deep=deep)]
    for group in store.get_feature_groups():
        found += _of_group(store, group)
    order = ("error", "warning", "info")
    return sorted(found, key=lambda f: order.index(f.severity))


def _of_home(store: FeatureStore) -> Iterator[Finding]:
    home = store.settings.home.resolve()
    free = shutil.disk_usage(home).free
    if free < LITTLE_SPACE_BYTES:
        yield Finding("warning", "disk", f"{free / 1e6:,.0f} MB are free at {home}.", "Make room, or vacuum groups.")
    else:
        yield Finding("info", "disk", f"{free / 1e9:,.1f} GB are free at {home}.")
    yield Finding("info", "libraries", ", ".join(f"{name} {installed_version(name)}" for name in _LIBRARIES))
    left = [p for p in (home / "staging").glob("*") if p.stat().st_mtime < time.time() - _OLD_SECONDS]
    if left:
        yield Finding(
            "info", "staging", f"{len(left)} leftovers of inserts lie there.", "The next insert removes them."
        )
    groups = {f"{g.name}_{g.version}" for g in store.get_feature_groups()}
    views = {f"{v.name}_{v.version}" for v in store.get_feature_views()}
    for folder, known in (("lake", groups), ("quarantine", groups), ("logs", views), (training_files.FOLDER, views)):
        there = home / folder
        for place in sorted(p for p in there.iterdir() if p.is_dir()) if there.is_dir() else ():
            if place.name not in known:
                what = "feature view" if known is views else "feature group"
                yield Finding(
                    "warning", f"{folder}/{place.name}", f"The catalog knows no {what} that it belongs to.",
                    f"Move {place} away, or restore the catalog that knows it from a backup.",
                )  # fmt: skip


def _of_training_datasets(store: FeatureStore, *, deep: bool) -> Iterator[Finding]:
    home = store.settings.home.resolve()
    views = {view.id: view for view in store.get_feature_views()}
    for dataset in store.catalog.all_training_datasets():
        subject = str(dataset)
        if not dataset.is_live:
            since, because = (dataset.manifest[f"not_reproducible_{word}"] for word in ("since", "because"))
            yield Finding("info", subject, f"It cannot be made again since {since}: {because}.")
            continue
        if gone := [file for file in dataset.manifest.get("files") or () if not (home / file).exists()]:
            yield Finding(
                "warning", subject, f"Its files {gone} are gone.",
                f"recreate_training_dataset({dataset.version}) writes them again.",
            )  # fmt: skip
        if deep:
            try:
                views[dataset.view_id].verify_training_dataset(dataset.version)
            except FeatureStoreError as error:
                yield Finding("error", subject, f"It does not verify: {error}", "Restore the files from a backup.")
    for view in views.values():
        folder = home / training_files.FOLDER / f"{view.name}_{view.version}"
        made = {str(d.version) for d in view.training_datasets()}
        left = [p for p in folder.iterdir() if p.is_dir() and p.name not in made] if folder.is_dir() else []
        if left:
            yield Finding(
                "info", f"{view.name} v{view.version}", f"{len(left)} folders of unfinished training datasets lie in "
                f"{folder}.", "The next training dataset of the view removes them.",
            )  # fmt: skip


def _of_group(store: FeatureStore, group: FeatureGroup) -> Iterator[Finding]:
    subject = f"feature group {group.ref}"
    for kind in sorted(store.catalog.kinds_of_notes(group.id)):
        if kind.startswith(UNFINISHED):
            (note,) = store.catalog.notes(group.id, kind).values()
            yield Finding(
                "error", subject, f"Forgetting {note['keys']} keys was begun by {note['who']} and has not ended.",
                "Call forget(keys) again with the same keys: it completes what was begun.",
            )  # fmt: skip
    if not group.features:
        yield Finding("info", subject, "It has no columns yet.", "Insert a first batch.")
        return
    if not delta_table.exists(group.location):
        yield Finding(
            "error", subject, f"The catalog knows it, but there is no Delta table at {group.location}.",
            "Restore the folder from a backup, or remove the group with delete().",
        )  # fmt: skip
        return
    try:
        lives = delta_log.lifetimes(group.location)  # first: it names the file that is damaged
        snapshot = group.snapshot()
    except FeatureStoreError as error:
        yield Finding("error", subject, str(error), "Until then insert and read refuse; nothing gets worse.")
        return
    yield from _of_files(store, group, snapshot, lives)
    if group.online_enabled:
        yield _of_online(store, group, snapshot.version)


def _of_files(
    store: FeatureStore, group: FeatureGroup, snapshot: Snapshot, lives: dict[str, Life]
) -> Iterator[Finding]:
    subject, root = f"feature group {group.ref}", Path(group.location)
    if gone := delta_table.missing_files(f.path for f in snapshot.files):
        yield Finding(
            "error", subject, f"{len(gone)} of its {len(snapshot.files)} data files are gone, such as {gone[0]}.",
            "Restore them from a backup, or write all rows anew with insert(..., overwrite=True).",
        )  # fmt: skip
    pins = pins_of(group.ref, store.catalog.all_training_datasets(), store.catalog.list("feature view"))
    missing = {path: life for path, life in lives.items() if life.removed is not None and not (root / path).exists()}
    for version, holders in pins.items():
        if any(version in life.versions(snapshot.version) for life in missing.values()):
            yield Finding(
                "error", subject, f"Files of version {version} are gone, which is pinned by {'; '.join(holders)}.",
                "Restore them from a backup; vacuum() keeps what is pinned, other tools' vacuum does not.",
            )  # fmt: skip
    is_many = len(snapshot.files) >= MANY_FILES and not gone
    if is_many and (count := sum(map(len, maintenance.untidy_groups(snapshot)))) >= MANY_FILES:
        yield Finding(
            "info", subject, f"{count} of its {len(snapshot.files)} data files are small or overlap in time.",
            "optimize() puts them together, so that reads are faster.",
        )  # fmt: skip
    if left := maintenance.orphans(root, lives):
        yield Finding(
            "info", subject, f"{len(left)} files of writers that crashed lie in {root}.", "vacuum() removes them."
        )


def _of_online(store: FeatureStore, group: FeatureGroup, newest: int) -> Finding:
    subject = f"feature group {group.ref}"
    try:
        held = store.online.version(group.online_table())
    except FeatureStoreError as error:
        return Finding(
            "error", subject, f"The online store does not answer: {error}",
            "Offline has every row: the online store is built again from it.",
        )  # fmt: skip
    if held == newest:
        return Finding("info", subject, f"Online holds version {held}, the newest.")
    behind = "nothing" if held is None else f"version {held}"
    return Finding(
        "warning", subject, f"Online holds {behind}, offline is at version {newest}.",
        "The next insert or init_serving catches up; sync_online() does it now.",
    )  # fmt: skip
