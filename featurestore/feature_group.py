"""A feature group: rows that one pipeline writes and every other may read, offline and online."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from featurestore import (
    catch_up,
    data_files,
    delta,
    delta_history,
    delta_table,
    inserting,
    maintenance,
    statistics,
    validation,
)
from featurestore.engines import duckdb as engine
from featurestore.engines import staging
from featurestore.engines.sql import COMMITTED_AT
from featurestore.errors import Conflict, FeatureStoreError, InvalidData, InvalidTime, NotFound, SchemaMismatch
from featurestore.forget import Erasure, Forgotten
from featurestore.group_definition import GroupDefinition
from featurestore.lineage import Lineage, of_group
from featurestore.maintenance import Optimized, Vacuumed
from featurestore.online_table import OnlineTable
from featurestore.pins import pins_of
from featurestore.point_in_time import Definition
from featurestore.query import Column, Filter, GroupRef, Query, selected
from featurestore.rewriting import ColumnsMissing
from featurestore.schema import TIMESTAMP, DataFrameType, Feature, as_arrow, check_index, conform, to_frame
from featurestore.snapshots import Commit, Snapshot
from featurestore.times import TimeLike, Window, gaps_between

if TYPE_CHECKING:
    from featurestore.feature_view import FeatureView
    from featurestore.online_reader import Reader
    from featurestore.store import FeatureStore


class FeatureGroup:
    """Rows by primary key and event time. Get one from `FeatureStore.get_or_create_feature_group`.

    `fg["amount"]` (or `fg.amount`, unless the group itself has something of that name, such as `fg.ttl`) names a
    column for filters; `fg.select([...])` starts a query.
    """

    def __init__(self, store: FeatureStore, identifier: str, definition: GroupDefinition) -> None:
        self._store = store
        self.id = identifier
        self.definition = definition
        self._readers: dict[tuple[str, ...], Reader] = {}

    # What it is

    @property
    def name(self) -> str:
        """The group's name."""
        return self.definition.ref.name

    @property
    def version(self) -> int:
        """The group's version."""
        return self.definition.ref.version

    @property
    def ref(self) -> GroupRef:
        """Name and version."""
        return self.definition.ref

    @property
    def description(self) -> str:
        """What one row is."""
        return self.definition.description

    @property
    def primary_key(self) -> list[str]:
        """The key columns."""
        return list(self.definition.primary_key)

    @property
    def event_time(self) -> str | None:
        """The column that says when a row's values became true."""
        return self.definition.event_time

    @property
    def features(self) -> list[Feature]:
        """All columns, keys and event time included; empty before the first insert of an undeclared group."""
        return list(self.definition.features)

    @property
    def schema(self) -> list[Feature]:
        """The name that hsfs has for `features`."""
        return self.features

    def get_feature(self, name: str) -> Feature:
        """What a column holds; for filters write `fg[name]`.

        Raises:
            SchemaMismatch: there is no such column; the message lists those there are.
        """
        column = self[name]
        return next(f for f in self.definition.features if f.name == column.name)

    @property
    def ttl(self) -> timedelta | None:
        """The age beyond which a row no longer counts, in joins and online."""
        return self.definition.ttl

    @property
    def expectation_suite(self) -> dict[str, Any] | None:
        """The rules that are checked before each write, JSON-ready; None without any."""
        return self.definition.expectation_suite

    @property
    def online_enabled(self) -> bool:
        """Whether the newest row of each key can be looked up."""
        return self.definition.online_enabled

    @property
    def tags(self) -> dict[str, Any]:
        """What the group was tagged with."""
        return dict(self.definition.tags or {})

    @property
    def location(self) -> str:
        """Where the Delta table lies; any Delta reader can open it."""
        return str(self._store.settings.lake.resolve() / f"{self.name}_{self.version}")

    @property
    def delta_version(self) -> int:
        """The newest Delta version."""
        return self._snapshot().version

    @property
    def watermark(self) -> datetime | None:
        """The largest end of a committed window; None before the first."""
        return delta_table.watermark(self.location) if self.definition.features else None

    def __repr__(self) -> str:
        return f"FeatureGroup({self.name!r}, version={self.version})"

    def __getitem__(self, name: str) -> Column:
        names = [f.name for f in self.definition.features]
        if name not in names:
            raise SchemaMismatch(f"{self.ref} has no column {name!r}; it has {names}.")
        return Column(self.ref, name)

    def __getattr__(self, name: str) -> Column:
        if name.startswith("_") or "definition" not in self.__dict__:
            raise AttributeError(name)
        try:
            return self[name]
        except SchemaMismatch as error:
            raise AttributeError(str(error)) from error

    # Writing

    def insert(
        self, frame: Any, overwrite: bool = False, *, operation: Literal["upsert"] = "upsert",
        window: Window | tuple[TimeLike, TimeLike] | None = None, code: str = "",
        validation_options: Mapping[str, bool] | None = None,
    ) -> Commit:  # fmt: skip
        """Insert rows that are new and update those that differ; when it returns they are readable, also online.

        Args:
            frame: pandas or Polars DataFrame, Arrow table, or a stream: an Arrow reader, a lazy Polars frame, anything
                with `__arrow_c_stream__`. A stream may be larger than memory: it is staged on disk, and the
                expectation suite judges it in pieces of a million rows. Columns in any order.
            overwrite: replace everything stored.
            window: the half-open stretch of time this batch completes; committed with the rows. An empty frame with a
                window is a commit too.
            code: names the version of the code that computed the rows, such as a git commit; kept in the history, so
                that windows computed by older code can be found.
            validation_options: `{"run_validation": False}` skips the expectation suite for this batch.
        Returns:
            What was written; inserting the same rows again gives `rows_written == 0`.
        Raises:
            SchemaMismatch: columns or types differ from the contract.
            InvalidData: a null key or time, a value its type cannot hold, or a rule that failed (`.report` says which).
            Conflict: other writers were faster many times in a row.
            All of them leave the group as it was.

        Of rows with the same key and event time in one batch the last one wins.
        """
        if operation != "upsert":
            raise InvalidData(f"operation {operation!r} is not known: insert always is an upsert.")
        if window is not None and (isinstance(window, str) or len(window) != 2):
            raise InvalidTime(
                f"window is {window!r}: expected a start and an end, such as ('2026-01-01', '2026-02-01')."
            )
        stretch = None if window is None else Window.of(*window)
        judge = self._judge(stretch) if (validation_options or {}).get("run_validation", True) else None
        with self._prepared(frame, judge) as batch:
            self._declare(batch.definition)
            if judge is None and self.definition.expectation_suite:
                self._keep_check(None)  # rows may enter that break it
            definition, catalog = self.definition, self._store.catalog
            write = delta.overwrite if overwrite else delta.upsert
            arguments: dict[str, Any] = {
                "identity": definition.identity, "order": definition.order, "who": self._store.settings.who,
                "window": stretch, "code": code, "deduplicated": batch.deduplicated, "clock": self._store.clock,
                "report": None if batch.report is None else validation.without_values(batch.report),
            }  # fmt: skip
            try:
                written = write(self.location, batch.rows, **arguments)
            except ColumnsMissing:
                self._add_columns()
                written = write(self.location, batch.rows, **arguments)
            commit, rows = written.commit, written.rows
            if commit.rows_written and definition.statistics_config:
                found = self._summary_of(commit) if rows is None else statistics.summarise(rows)
                catalog.note(self.id, commit.version, "statistics", found)
            if batch.report is not None and commit.operation != "none":
                catalog.note(self.id, commit.version, "validation", batch.report)
            if self.online_enabled:
                if not isinstance(batch.rows, pa.Table) and commit.operation != "none":
                    rows = batch.rows.newest(definition.primary_key)
                catch_up.after(
                    commit, rows, online=self._store.online, table=self.online_table(), location=self.location
                )
        return commit

    def _prepared(self, frame: Any, judge: inserting.Judge | None) -> AbstractContextManager[inserting.Batch]:
        self._refresh()
        return inserting.prepared(frame, self.definition, self._store.settings, judge)

    def _judge(self, window: Window | None) -> inserting.Judge:
        return lambda rows: inserting.judged(
            rows, self.definition, quarantine=self.quarantine_location, window=window, clock=self._store.clock
        )

    @property
    def quarantine_location(self) -> str:
        """Where the table of rejected rows lies."""
        return str(self._store.settings.home.resolve() / "quarantine" / f"{self.name}_{self.version}")

    def quarantine(self, dataframe_type: DataFrameType = "pandas") -> Any:
        """Rows that a STRICT suite rejected, with `__rule` (the rules they broke) and `__rejected_at`; oldest first."""
        location = self.quarantine_location
        if not delta_table.exists(location):
            extra = [pa.field("__rule", pa.string()), pa.field("__rejected_at", TIMESTAMP)]
            return to_frame(pa.schema([*self.definition.schema, *extra]).empty_table(), dataframe_type)
        files = delta_table.snapshot(location, self.definition.order).between()
        rows = engine.run(f"SELECT * FROM {engine.scan(files, evolved=True)} ORDER BY __rejected_at")
        return to_frame(rows, dataframe_type)

    def validate(self, frame: Any) -> dict[str, Any]:
        """Check a frame against the contract and the expectation suite without writing; return the report."""
        suite = self.definition.expectation_suite or {"name": "none", "expectations": []}
        with self._prepared(frame, lambda rows: validation.check(rows, suite).to_json()) as batch:
            return batch.report or {}

    def validation_reports(self) -> dict[int, dict[str, Any]]:
        """The validation report of each commit, by Delta version.

        Reports have examples of what broke a rule, but for those of writers that died right after their commit.
        """
        if not self.definition.features:
            return {}
        committed = {c.version: dict(c.report) for c in delta_history.commits(self.location) if c.report is not None}
        return committed | self._store.catalog.notes(self.id, "validation")

    def remove_rows(self, keys: Any) -> Commit:
        """Delete the rows whose primary key and event time the frame lists, offline and online.

        Online falls back to the newest row left. Keys that are not stored are ignored, and so are the frame's other
        columns of the group.
        """
        definition = self._declared()
        rows = self._only(definition.identity, keys, "remove_rows")
        commit = delta.delete(
            self.location, rows, order=definition.order, who=self._store.settings.who, clock=self._store.clock
        )
        self.sync_online()
        return commit

    def commit_delete_record(self, frame: Any) -> Commit:
        """The name that hsfs has for `remove_rows`."""
        return self.remove_rows(frame)

    def _only(self, names: Sequence[str], frame: Any, method: str) -> pa.Table:
        """Some columns of a frame, which may have others of the group too."""
        what, features = f"{method} of {self.ref}", self.definition.features
        check_index(frame, names, what)
        others = {f.name for f in features}.difference(names)
        rows = as_arrow(frame)
        rows = rows.select([name for name in rows.column_names if name not in others])
        return conform(rows, [f for f in features if f.name in names], required=names, what=what)

    # Maintenance

    def optimize(self) -> Optimized:
        """Put small files together and files that share a stretch of time in order, so that reads open few of them.

        No row, statistic or watermark changes, nor when a row was committed; others may insert meanwhile. Files of
        older versions stay until `vacuum`.

        Raises:
            Conflict: other writers were faster many times in a row; nothing is lost, and it may be called again.
        """
        definition = self._declared()
        done = maintenance.optimize(
            self.location, identity=definition.identity, order=definition.order, settings=self._store.settings,
            clock=self._store.clock,
        )  # fmt: skip
        self.sync_online()
        return done

    def vacuum(self, retention: timedelta = maintenance.RETENTION, *, dry_run: bool = False) -> Vacuumed:
        """Remove files that no version needs which is current, was so within `retention`, or is pinned.

        Training datasets pin the versions they were made of, views those their query names; the result says who holds
        what. What crashed writers left behind goes as well. The history keeps every commit.

        Args:
            retention: how long versions that nothing pins stay readable.
            dry_run: only say what would be removed.
        """
        self._declared()
        if not dry_run:
            staging.sweep(self._store.settings.home.resolve() / "staging")
            engine.sweep(self._store.settings.temp_directory)
        views = self._store.catalog.list("feature view")
        with self._store.catalog.no_new_training_datasets() as datasets:
            return maintenance.vacuum(
                self.location, pins=pins_of(self.ref, datasets, views), now=self._store.clock(), retention=retention,
                dry_run=dry_run,
            )  # fmt: skip

    def forget(self, keys: Any) -> Forgotten:
        """Erase everything the store holds of some keys, for good: rows, files of old versions, copies and traces.

        Deletes the rows offline and online, in the quarantine and in the logs of views; removes the files of older
        versions that held them, pinned or not, and the files of training datasets made of them, which are marked as
        no longer reproducible; takes values out of Delta's log, statistics and validation reports; rewrites the
        databases' free pages. Copies outside the store (backups, models, PostgreSQL's own log) it does not reach.

        Args:
            keys: a frame of the primary key columns. Other columns are refused, for all rows of these keys go,
                whatever a time beside them may seem to say. Unknown keys are no error: copies of them may be left of
                rows that were removed before.
        Returns:
            What was erased, and which training datasets had held the rows.
        Raises:
            Conflict: somebody kept a database or the table busy. Call it again: it completes what was begun, as it
                does after a crash.
        """
        definition = self._declared()
        what, wanted = f"forget of {self.ref}", [f for f in definition.features if f.name in definition.primary_key]
        check_index(keys, definition.primary_key, what)
        rows = conform(keys, wanted, required=definition.primary_key, what=what)
        return Erasure(
            self._store, self, data_files.in_order(rows, definition.primary_key[0], definition.primary_key)
        ).run()

    # Changing the contract

    def append_features(self, features: Feature | Sequence[Feature]) -> FeatureGroup:
        """Add columns behind the others; they are null in every stored row, offline and online.

        Views, training datasets and reads of the past stay as they are. Columns that are there already stay, so it may
        be called again after a crash; the next insert completes it too.

        Raises:
            SchemaMismatch: a column exists with another dtype, or the group has no columns yet.
        """
        wanted = [features] if isinstance(features, Feature) else list(features)
        self._declared()

        def widened(data: dict[str, Any]) -> dict[str, Any]:
            stored = GroupDefinition.from_json(self.ref, data)
            known = {f.name: f for f in stored.features}
            for feature in wanted:
                if known.setdefault(feature.name, feature).type != feature.type:
                    raise SchemaMismatch(
                        f"{self.ref} has a column {feature.name!r} of dtype {known[feature.name].dtype}, asked for "
                        f"{feature.dtype}. Choose another name, or declare a new version of the group."
                    )
            return replace(stored, features=tuple(known.values())).to_json()

        self.definition = GroupDefinition.from_json(self.ref, self._store.catalog.change(self.id, widened))
        self._add_columns()
        self.sync_online()
        return self

    def _add_columns(self) -> None:
        d, settings = self.definition, self._store.settings
        delta.add_columns(
            self.location, d.schema, notes=d.column_notes(), who=settings.who, order=d.order, clock=self._store.clock
        )

    def update_description(self, description: str) -> FeatureGroup:
        """Say anew what one row is."""
        return self._changed(description=description)

    def add_tag(self, name: str, value: Any = None) -> None:
        """Tag the group; the value is anything JSON-ready and replaces an earlier one."""
        self._changed(tags={**self.tags, name: value})

    def get_tag(self, name: str) -> Any:
        """The value of a tag; None when there is no such tag."""
        return self.tags.get(name)

    def get_tags(self) -> dict[str, Any]:
        """All tags."""
        return self.tags

    def delete_tag(self, name: str) -> None:
        """Take a tag away.

        Raises:
            NotFound: there is no such tag.
        """
        if name not in self.tags:
            raise NotFound(f"{self.ref} has no tag {name!r} (tags: {sorted(self.tags)}).")
        self._changed(tags={n: v for n, v in self.tags.items() if n != name})

    def _changed(self, **fields: Any) -> FeatureGroup:
        changed = self._store.catalog.change(
            self.id, lambda data: replace(GroupDefinition.from_json(self.ref, data), **fields).to_json()
        )
        self.definition = GroupDefinition.from_json(self.ref, changed)
        return self

    # Reading

    def select(self, features: str | Column | Sequence[str | Column]) -> Query:
        """A query of some columns, by name or as `fg.column`."""
        names = selected(features)
        self.point_in_time_definition().check(names)
        return Query(self.ref, names, reader=self._store)

    def select_all(self) -> Query:
        """A query of all columns."""
        return self.select([f.name for f in self._declared().features])

    def select_except(self, features: str | Column | Sequence[str | Column]) -> Query:
        """A query of all columns but these."""
        names = selected(features)
        self.point_in_time_definition().check(names)
        return self.select([f.name for f in self.definition.features if f.name not in names])

    def select_features(self) -> Query:
        """A query of all columns but keys and event time."""
        definition = self._declared()
        return self.select_except([*definition.identity, *definition.foreign_key])

    def filter(self, condition: Filter) -> Query:
        """A query of all columns, of the rows that meet a condition."""
        return self.select_all().filter(condition)

    def join(self, other: Query, on: Sequence[str] | None = None, **options: Any) -> Query:
        """A query of all columns, joined to another; arguments as of `Query.join`."""
        return self.select_all().join(other, on, **options)

    def read(
        self, start_time: TimeLike | None = None, end_time: TimeLike | None = None, *,
        as_of: int | TimeLike | None = None, dataframe_type: DataFrameType = "pandas", ordered: bool = True,
    ) -> Any:  # fmt: skip
        """All rows of `[start_time, end_time)` by event time, ordered by event time and key.

        Args:
            as_of: a Delta version or a time: the rows as they were then.
            ordered: False gives the rows in any order, which is faster.
        Raises:
            NotFound: the group has no rows yet because nothing was ever inserted, or there is no such version.
            InvalidTime: the group has no event time to select by, the end lies before the start, or `as_of` before the
                first commit.
        """
        query = self.select_all() if as_of is None else self.as_of(as_of)
        return query.read(dataframe_type, start_time, end_time, ordered=ordered)

    def show(self, n: int = 5) -> Any:
        """The first rows, to look at."""
        return self.select_all().show(n)

    def as_of(self, moment: int | TimeLike) -> Query:
        """A query of all columns that there were at a Delta version or time, as they were then."""
        there = delta_table.column_names(self.location, delta_history.version_at(self.location, moment))
        return self.select([f.name for f in self._declared().features if f.name in there]).as_of(moment)

    def history(self, dataframe_type: DataFrameType | None = None) -> Any:
        """One row per commit, oldest first: version, time, operation, rows, window, who, code, id of the statistics.

        Optimizing and vacuuming take nothing away from it. A list of `Commit`, or a frame when a type is named.
        """
        commits = self._commits()
        return commits if dataframe_type is None else to_frame(delta_history.as_table(commits), dataframe_type)

    @property
    def last_commit(self) -> Commit | None:
        """The newest commit, read without the others; None before the first insert of an undeclared group."""
        return next(iter(self._commits(newest=1)), None)

    def _commits(self, newest: int | None = None) -> list[Commit]:
        if not self.definition.features:
            return []
        known = self._store.catalog.noted(self.id, "statistics")
        commits = delta_history.commits(self.location, newest)
        return [replace(c, statistics_id=c.version if c.version in known else None) for c in commits]

    def commit_details(self, version: int) -> Commit:
        """One commit of the history.

        Raises:
            NotFound: there is no such version; the message lists what there is.
        """
        commits = self.history()
        for commit in commits:
            if commit.version == version:
                return commit
        there = f"0 to {commits[-1].version}" if commits else "none yet"
        raise NotFound(f"{self.ref} has no commit {version} (versions: {there}). fg.history() shows them all.")

    def read_changes(
        self, since: int | TimeLike, until: int | TimeLike | None = None, dataframe_type: DataFrameType = "pandas"
    ) -> Any:
        """Net changes between two commits: what happened after `since`, up to and including `until`.

        Args:
            since, until: Delta versions or times; `until` is the newest version by default.
        Returns:
            All columns, `__committed_at` (when the row's values were committed) and `__change`: "insert" and "update"
            with the values at `until`, "delete" with the last ones. Each key and event time once, in that order. Files
            that both versions share are not read, so compaction alone gives no changes.
        Raises:
            InvalidTime: `since` lies after `until`, or a time before the first commit.
            NotFound: there is no such version.
            NotReproducible: a version's files were vacuumed.
        """
        definition = self._declared()
        first = delta_history.version_at(self.location, since)
        last = self.delta_version if until is None else delta_history.version_at(self.location, until)
        if first > last:
            raise InvalidTime(
                f"{self.ref}: changes since version {first} until version {last} go backwards. Swap the two."
            )
        found = delta_history.changes(self.location, first, last, identity=definition.identity, order=definition.order)
        return to_frame(found.select([*definition.schema.names, COMMITTED_AT, delta_history.CHANGE]), dataframe_type)

    def windows(self) -> list[Window]:
        """The committed windows, in order of time."""
        commits = delta_history.commits(self.location) if self.definition.features else []
        return sorted({c.window for c in commits if c.window is not None})

    def window_gaps(self) -> list[Window]:
        """The stretches of time between the first committed window and the watermark that no window covers."""
        return gaps_between(self.windows())

    def get_statistics(self, commit: Commit | int | None = None) -> dict[str, Any]:
        """Column statistics: of the rows a commit wrote, or of the whole group now.

        Raises:
            NotFound: the commit wrote no rows, or the group has no columns yet.
        """
        self._declared()
        if commit is None:
            return self._summary(self._snapshot().between())
        version = commit if isinstance(commit, int) else commit.version
        known = self._store.catalog.notes(self.id, "statistics").get(version)
        if known is None:
            made = next((c for c in delta_history.commits(self.location) if c.version == version), None)
            if made is None or not made.rows_written:
                raise NotFound(f"{self.ref}: commit {version} wrote no rows, so it has no statistics.")
            known = self._summary_of(made)
            self._store.catalog.note(self.id, version, "statistics", known)
        return known

    @property
    def statistics(self) -> dict[str, Any]:
        """Column statistics of the group now."""
        return self.get_statistics()

    def get_online(self, keys: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any] | None:
        """Columns of a key's newest row, from the online store; None when it has no row that still counts."""
        if not self.online_enabled:
            raise SchemaMismatch(f"{self.ref} is not online. Create it with online_enabled=True.")
        definition = self._declared()
        if set(keys) != set(definition.primary_key):
            raise SchemaMismatch(f"{self.ref} is looked up by {list(definition.primary_key)}, got {sorted(keys)}.")
        key = tuple(keys[k] for k in definition.primary_key)
        row = self._reader(tuple(columns)).one([key])[0]
        if row is None or not self.counts(row[0]):
            return None
        return dict(zip(columns, row[1:], strict=True))

    def _reader(self, columns: tuple[str, ...]) -> Reader:
        """A lookup of these columns, made once: writing its statement takes many times as long as running it."""
        if (reader := self._readers.get(columns)) is None:
            self.point_in_time_definition().check(columns)
            table = self.online_table()
            if self._store.online.version(table) is None:  # who made the group online has not filled it yet, or died
                self.sync_online()
            reader = self._readers[columns] = self._store.online.reader([(table, columns)])
        return reader

    def counts(self, event_time_micros: int | None) -> bool:
        """Whether a row of that event time is still within the group's ttl."""
        if self.definition.ttl is None or event_time_micros is None:
            return True
        oldest = self._store.now_micros() - self.definition.ttl // timedelta(microseconds=1)
        return event_time_micros >= oldest

    # What the store and the views need

    def point_in_time_definition(self) -> Definition:
        """What a query plan must know of this group."""
        d = self._declared()
        return Definition(d.ref, d.features, d.primary_key, d.event_time, d.ttl)

    def online_table(self) -> OnlineTable:
        """The group's table in the online store."""
        d = self._declared()
        name = f"fg_{self.id.replace('-', '')}"
        return OnlineTable(name, d.primary_key, d.event_time, d.features, label=str(self.ref))

    def snapshot(self, version: int | None = None) -> Snapshot:
        """The Delta table at a version."""
        return self._snapshot(version)

    def sync_online(self) -> None:
        """Bring the online store up to the newest Delta version, at the cost of what changed since the one it holds."""
        if self.online_enabled and self.definition.features:
            catch_up.catch_up(self._store.online, self.online_table(), self.location)

    def prepare(self) -> None:
        """Make the tables of a declared group, so that it can be read before its first insert."""
        if self.definition.features:
            self._make_table()
            if self.online_enabled:
                self._store.online.create(self.online_table())

    def _declared(self) -> GroupDefinition:
        if not self.definition.features:
            self._refresh()
        if not self.definition.features:
            raise NotFound(f"{self.ref} has no columns yet: declare features=[...] or insert a first batch.")
        return self.definition

    def _refresh(self) -> None:
        """Take over what other processes declared since: columns, description, tags."""
        self.definition = GroupDefinition.from_json(self.ref, self._store.catalog.definition(self.id))

    def _declare(self, definition: GroupDefinition) -> None:
        """Fix the columns of a group that had none, and make its table unless it is there."""
        if not self.definition.features:
            stored = self._store.catalog.change(self.id, lambda d: d if d["features"] else definition.to_json())
            self.definition = GroupDefinition.from_json(self.ref, stored)
            if self.definition.features != definition.features:
                raise Conflict(
                    f"{self.ref}: another process declared the columns {[f.name for f in self.definition.features]} "
                    "first. Nothing was written: get the group again and retry."
                )
        if not delta_table.exists(self.location):
            self._make_table()

    def _make_table(self) -> None:
        d, catalog = self.definition, self._store.catalog
        is_strict = d.validation_ingestion_policy == "STRICT"
        check = validation.check_expression(d.expectation_suite, d.schema) if is_strict else None
        was_there = catalog.noted(self.id, "statistics") or catalog.noted(self.id, "validation")
        if (was_there or self._is_online()) and not delta_table.exists(self.location):
            raise NotFound(
                f"The Delta table of {self.ref} is no longer at {self.location}. Restore the folder from a backup; or "
                "delete the group with fg.delete() and create it anew."
            )
        delta.create(
            self.location, d.schema, name=str(self.ref), description=d.description, partition_by=d.partition_key,
            owner=self.id, notes=d.column_notes(), check=check,
        )  # fmt: skip
        self._keep_check(check)

    def _keep_check(self, condition: str | None) -> None:
        who, order = self._store.settings.who, self.definition.order
        delta.keep_check(self.location, condition, who=who, order=order, clock=self._store.clock)

    def _is_online(self) -> bool:
        return self.online_enabled and self._store.online.version(self.online_table()) is not None

    def _snapshot(self, version: int | None = None) -> Snapshot:
        self._declared()
        return delta_table.snapshot(self.location, self.definition.order, version)

    def _summary_of(self, commit: Commit) -> dict[str, Any]:
        """Statistics of the rows a commit wrote."""
        files = self._snapshot(commit.version).committed_at(commit.time)
        return self._summary(files, where=f"{COMMITTED_AT} = {engine.literal(commit.time)}")

    def _summary(self, files: Sequence[str], *, where: str = "TRUE") -> dict[str, Any]:
        """Statistics of the rows of some files, of which never more than one column is in memory."""
        return {
            f.name: statistics.summarise_column(engine.rows_of(files, pa.schema([f]), where=where).column(0))
            for f in self.definition.schema
        }

    # What is made of it

    def lineage(self) -> Lineage:
        """The views that read this group, and the training datasets made of it with their Delta versions."""
        catalog = self._store.catalog
        return of_group(self.ref, catalog.list("feature view"), catalog.all_training_datasets())

    def get_generated_feature_views(self) -> list[FeatureView]:
        """The feature views that read this group."""
        return [v for v in self._store.get_feature_views() if self.ref in v.query.groups()]

    def delete(self, *, force: bool = False) -> None:
        """Remove the group: rows, online table, catalog entry.

        Args:
            force: also when views read it. They stop working, and so do their training datasets that have no files.
        Raises:
            FeatureStoreError: views read it; the message lists them and their training datasets.
        """
        lineage = self.lineage()
        if lineage.related and not force:
            raise FeatureStoreError(
                f"{self.ref} is in use and was not deleted:\n{lineage}\nDelete these views first, or delete the group "
                "with force=True, and they stop working."
            )
        if self.definition.features:
            if self.online_enabled:
                self._store.online.drop(self.online_table())
            delta.drop(self.location)
            delta.drop(self.quarantine_location)
        self._store.catalog.remove(self.id)
