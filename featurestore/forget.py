"""Erases everything the store holds of some keys: rows, old files, logs, copies, and traces in databases.

The order of the steps is what makes it safe to be killed between any two: what later steps need to find their work is
removed last, every step can be done twice, and a note in the catalog says until the end that a `forget` is unfinished.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurestore import delta, delta_history, delta_log, delta_table, loose_tables, training_files
from featurestore.catch_up import catch_up
from featurestore.engines import duckdb as engine
from featurestore.engines import staging
from featurestore.errors import FeatureStoreError, NotReproducible
from featurestore.pins import Registered
from featurestore.point_in_time import Plan
from featurestore.query import GroupRef
from featurestore.times import from_micros, to_micros
from featurestore.training_dataset import content_hash

if TYPE_CHECKING:
    from featurestore.feature_group import FeatureGroup
    from featurestore.store import FeatureStore

UNFINISHED = "forgetting "
"""How the kind of the catalog's note starts, under version 0, of a `forget` that has begun and not ended."""
DONE = "forgotten"
"""Kind of the catalog's note of a `forget` that ended, under the version that no longer has the rows."""


@dataclass
class Forgotten:
    """What `forget` erased, and what else had held the rows.

    Args:
        group: the feature group, such as "cards_v1".
        keys: how many different keys were asked for.
        version: the first Delta version without them.
        rows_deleted: rows of the newest version that are gone.
        files_removed: data files of older versions that held the keys, in the group's folder.
        rows_elsewhere: rows deleted from the quarantine and from logs of views, by folder below home.
        unsearched: folders, below home, of logs that do not hold the group's keys, and of views that are gone: nobody
            can tell whose rows they hold.
        training_datasets: those made of such rows; they can no longer be made again.
        training_files: their files, all of them removed.
        reports: commits whose statistics went, or whose validation report lost its values.
    """

    group: str
    keys: int
    version: int = 0
    rows_deleted: int = 0
    files_removed: list[str] = field(default_factory=list)
    rows_elsewhere: dict[str, int] = field(default_factory=dict)
    unsearched: list[str] = field(default_factory=list)
    training_datasets: list[str] = field(default_factory=list)
    training_files: list[str] = field(default_factory=list)
    reports: list[int] = field(default_factory=list)

    @property
    def models(self) -> str:
        """How to find the models that were trained on these training datasets, and what they still know."""
        if not self.training_datasets:
            return "No training dataset held them, so no model was trained on them."
        return (
            f"Models trained on {'; '.join(self.training_datasets)} have seen them: the registry names the training "
            "dataset of each model (tags feature_view, feature_view_version, training_dataset_version). Fitted numbers "
            "and categories of the transformations stay with those training datasets as long as models need them: "
            "train anew, then delete_training_dataset."
        )


_ATTEMPTS = 20


class Erasure:
    """One call of `forget`: `STEPS` in their order.

    Args:
        keys: the primary key columns, each key once.
    """

    def __init__(self, store: FeatureStore, group: FeatureGroup, keys: pa.Table) -> None:
        self._store, self._group, self._keys = store, group, keys
        self._root = Path(group.location)
        self._home = store.settings.home.resolve()
        self._since = to_micros(store.clock())
        self._unfinished = UNFINISHED + content_hash(keys)[:16]
        self.report = Forgotten(str(group.ref), keys.num_rows)

    def run(self) -> Forgotten:
        """Every step, from the first: what an interrupted call had done is found done."""
        # A damaged table is refused before anything is touched.
        delta_log.lifetimes(self._group.location)
        delta_table.live_files(self._group.location)
        for step in self.STEPS:
            try:
                step(self)
            except OSError as error:
                raise FeatureStoreError(
                    f"{self._group.ref}: forget has not ended, because a file cannot be written or removed: {error}. "
                    "Check the disk and the rights, then call it again with the same keys."
                ) from error
        return self.report

    def record_intent(self) -> None:
        """Say in the catalog that it has begun; the keys, which are to be forgotten, only as a hash."""
        if begun := self._store.catalog.notes(self._group.id, self._unfinished).get(0):
            self._since = begun["since"]
            return
        note = {"since": self._since, "who": self._store.settings.who, "keys": self._keys.num_rows}
        self._store.catalog.note(self._group.id, 0, self._unfinished, note)

    def delete_rows(self) -> None:
        """Delete the rows from the newest version: from here on no reader sees them, and no older write can land."""
        commit = delta.delete(
            self._group.location, self._keys, order=self._group.definition.order, who=self._store.settings.who,
            clock=self._store.clock,
        )  # fmt: skip
        self.report.version, self.report.rows_deleted = commit.version, commit.rows_deleted

    def purge_online(self) -> None:
        """Delete the keys online and rewrite the database; before the files go that tell what changed."""
        if self._group.online_enabled:
            table = self._group.online_table()
            catch_up(self._store.online, table, self._group.location)
            self._store.online.purge(table, self._keys)

    def mark_training_datasets(self) -> None:
        """Mark what pins a version with such rows; before the files go that tell which versions had them."""
        since = from_micros(self._since).isoformat()
        tainted = self._tainted()
        for dataset in self._store.catalog.all_training_datasets():
            is_marked = dataset.manifest.get("not_reproducible_since") == since
            if is_marked or dataset.versions(self._group.ref) & tainted:
                if str(dataset) not in self.report.training_datasets:
                    self.report.training_datasets.append(str(dataset))
                if dataset.is_live:
                    because = f"rows of {self._group.ref} that it was made of were erased by forget()"
                    told = {k: v for k, v in dataset.manifest.items() if k != "statistics"}
                    told |= {"not_reproducible_since": since, "not_reproducible_because": because}
                    self._store.catalog.update_training_dataset(dataset.view_id, dataset.version, told)
                self._remove_training_files(dataset)

    def _tainted(self) -> set[int]:
        """The versions that have such rows and can still be read."""
        lives = delta_log.lifetimes(self._group.location)
        newest = max((life.added for life in lives.values()), default=0)
        return {v for path in self._holders() if path in lives for v in lives[path].versions(newest)}

    def _remove_training_files(self, dataset: Registered) -> None:
        folder = self._training_folder(dataset.view, dataset.view_version) / str(dataset.version)
        files = [p for p in folder.rglob("*") if p.is_file()]
        self.report.training_files += [p.relative_to(self._home).as_posix() for p in files]
        training_files.remove(folder)

    def _training_folder(self, view: str, version: int) -> Path:
        return self._home / training_files.FOLDER / f"{view}_{version}"

    def drop_reports(self) -> None:
        """Drop statistics and validation reports that may tell values of the rows.

        Of commits whose files are whole, those that wrote such rows; of others nobody can tell. A validation report
        is about a batch, of which the commit may have written a part: all of them lose their values, not their verdict.
        """
        catalog, location = self._store.catalog, self._group.location
        moments = set(self._found(["__committed_at"])["__committed_at"].to_pylist())
        wrote = {c.version for c in delta_history.commits(location) if c.time in moments}
        for path, life in delta_log.lifetimes(location).items():
            if not (self._root / path).exists():
                wrote.add(life.added)
        for version in sorted(wrote & catalog.noted(self._group.id, "statistics")):
            catalog.remove_note(self._group.id, version, "statistics")
            self.report.reports.append(version)
        for version, report in catalog.notes(self._group.id, "validation").items():
            if (told := _without_values(report)) != report:
                catalog.note(self._group.id, version, "validation", told)
                self.report.reports.append(version)
        self.report.reports = sorted(set(self.report.reports))

    def remove_files(self) -> None:
        """Remove the files of older versions, and of crashed writers, that hold such rows."""
        while True:
            tainted, doomed = self._tainted(), _doomed(self._root, self._keys)
            with self._store.catalog.no_new_training_datasets() as datasets:
                if not any(d.is_live and d.versions(self._group.ref) & tainted for d in datasets):
                    self.report.files_removed += _remove(doomed)
                    return
            self.mark_training_datasets()  # one was registered since they were marked

    def erase_copies(self) -> None:
        """Erase the quarantine's rows, those of logs of views that read the group, and what dead processes left."""
        staging.sweep(self._home / "staging")
        engine.sweep(self._store.settings.temp_directory)
        names = list(self._keys.column_names)
        self._erase_loose(Path(self._group.quarantine_location), [names])
        views = self._store.get_feature_views()
        for view in views:
            if self._group.ref in view.query.groups():
                registered = partial(self._store.catalog.training_dataset_versions, view.id)
                training_files.sweep(self._training_folder(view.name, view.version), registered)
                try:
                    spellings = _key_names(view.plan(labels=True), self._group.ref, names)
                except FeatureStoreError:  # another group of its query is gone: keys may still have their own names
                    spellings = [names]
                self._erase_loose(self._home / "logs" / f"{view.name}_{view.version}", spellings)
        known = {f"{view.name}_{view.version}" for view in views}
        for folder in ("logs", training_files.FOLDER):
            left = sorted(p.name for p in (self._home / folder).glob("*") if p.is_dir() and p.name not in known)
            self.report.unsearched += [f"{folder}/{name}" for name in left]

    def _erase_loose(self, location: Path, spellings: list[list[str]]) -> None:
        if not delta_table.exists(str(location)):
            return
        shown = location.relative_to(self._home).as_posix()
        columns = set(delta_table.column_names(str(location)))
        known = [names for names in spellings if columns.issuperset(names)]
        if not known:
            self.report.unsearched.append(shown)
        for names in known:
            keys = self._keys.rename_columns(names)
            count = loose_tables.delete(str(location), keys)
            self.report.rows_elsewhere[shown] = self.report.rows_elsewhere.get(shown, 0) + count
            self.report.files_removed += _remove(_doomed(location, keys))
            self._clean_log(location)

    def clean_logs(self) -> None:
        """Take out of Delta's log what it tells of files that are gone."""
        self._clean_log(self._root)

    @staticmethod
    def _clean_log(location: Path) -> None:
        # The checkpoint first: from then on the newest version is read from it, not from the entries below.
        newest = delta.checkpoint(str(location))
        delta_log.clean(str(location), newest)

    def scrub_catalog(self) -> None:
        """Rewrite the catalog, so that no freed page holds what was removed from it."""
        self._store.catalog.scrub()

    def finish(self) -> None:
        """Note that it is done, and how much it was."""
        done = {
            "since": self._since, "who": self._store.settings.who, "keys": self._keys.num_rows,
            "rows": self.report.rows_deleted, "files": len(self.report.files_removed),
            "training_datasets": self.report.training_datasets,
        }  # fmt: skip
        self._store.catalog.note(self._group.id, self.report.version, DONE, done)
        self._store.catalog.remove_note(self._group.id, 0, self._unfinished)

    STEPS = (
        record_intent, delete_rows, purge_online, mark_training_datasets, drop_reports, remove_files, erase_copies,
        clean_logs, scrub_catalog, finish,
    )  # fmt: skip

    def _holders(self) -> set[str]:
        return {Path(f).relative_to(self._root).as_posix() for f in self._found(["__file"])["__file"].to_pylist()}

    def _found(self, columns: list[str]) -> pa.Table:
        """Distinct values of some columns over the rows of the keys, in all files that the newest version lacks."""
        return _search(self._root, self._keys, columns)


def _search(root: Path, keys: pa.Table, columns: list[str]) -> pa.Table:
    """Distinct values of some columns over the rows with one of the keys, in files that the newest version lacks."""
    attempts = _ATTEMPTS
    while True:
        try:
            return engine.where_found([str(f) for f in _old_files(root) if _is_whole(f)], keys, columns)
        except (FileNotFoundError, NotReproducible):  # a writer that lost a race removed what it had written
            attempts -= 1
            if not attempts:
                raise


def _old_files(root: Path) -> list[Path]:
    """The files on disk that are not part of the newest version: of older ones, or of writers that never committed."""
    live = {Path(f).name for f in delta_table.live_files(str(root))}
    return [
        file for file in sorted(root.rglob("*"))
        if file.is_file() and file.name not in live and delta_log.FOLDER not in file.parts
    ]  # fmt: skip


def _is_whole(file: Path) -> bool:
    """Whether it is a Parquet file with its end, which a writer that is killed does not come to."""
    if file.suffix != ".parquet":
        return False
    with file.open("rb") as opened:
        opened.seek(max(opened.seek(0, 2) - 4, 0))
        return opened.read() == b"PAR1"


def _doomed(root: Path, keys: pa.Table) -> set[Path]:
    """The files that are not part of the newest version and hold a key, or are cut off.

    A file of a writer that has not committed yet holds none of the keys: what it began with had them, and then it lost
    the race against their deletion, or it began later. One that is cut off and older than the deletion lost as well.
    """
    last = max(p.stat().st_mtime for p in delta_log.entry_files(str(root)).values())
    found = {Path(f) for f in _search(root, keys, ["__file"])["__file"].to_pylist()}
    for file in _old_files(root):
        with suppress(FileNotFoundError):
            if not _is_whole(file) and file.stat().st_mtime < last:
                found.add(file)
    return found


def _remove(files: set[Path]) -> list[str]:
    for file in files:
        file.unlink(missing_ok=True)
    return sorted(file.name for file in files)


def _key_names(plan: Plan, ref: GroupRef, keys: list[str]) -> list[list[str]]:
    """How a view's entries spell the group's keys: one list for each place where its query looks the group up."""
    found = []
    for place, source in enumerate(plan.sources):
        left = {right: left for left, right in source.keys} if place else {k: k for k in keys}
        if source.definition.ref == ref and left.keys() >= set(keys):
            found.append([left[k] for k in keys])
    return found


def _without_values(report: Mapping[str, Any]) -> dict[str, Any]:
    """A validation report that tells which rules were broken how often, and no value of the data."""
    results = [{**r, "observed_value": None, "examples": [], "exception": None} for r in report["results"]]
    return {**report, "results": results}
