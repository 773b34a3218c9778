"""The feature store: creates and finds groups and views, and runs their queries."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurestore import delta_history, delta_table, offline, on_demand, transformations, validation
from featurestore.engines import sql
from featurestore.entities import spine_of
from featurestore.errors import Conflict, SchemaMismatch
from featurestore.feature_group import FeatureGroup
from featurestore.feature_view import FeatureView
from featurestore.findings import Finding
from featurestore.group_definition import GroupDefinition, Policy
from featurestore.pins import pins_of
from featurestore.point_in_time import Definition, Plan
from featurestore.point_in_time import plan as plan_of
from featurestore.query import GroupRef, Query, SqlDialect
from featurestore.schema import DataFrameType, Feature, check_name, check_version, to_frame
from featurestore.search import Entry, Found, search
from featurestore.times import TimeLike, to_micros
from featurestore.transformations import TransformationFunction
from featurestore.view_definition import view_definition

if TYPE_CHECKING:
    from featurestore.catalog import Kind
    from featurestore.settings import Settings

_log = logging.getLogger(__name__)


class FeatureStore:
    """All feature groups and views of one home. Get one from `featurestore.connect()`.

    Args:
        settings: where things live.
        clock: the present, for commit times and ttl; tests may stop it.
    """

    def __init__(self, settings: Settings, clock: Callable[[], datetime] | None = None) -> None:
        self.settings = settings
        self.clock = clock or (lambda: datetime.now(UTC))
        # SQLAlchemy takes longer to import than everything else here: who only defines functions need not wait for it.
        from featurestore.catalog import Catalog
        from featurestore.online import OnlineStore

        self.catalog = Catalog(settings.resolved_catalog_url)
        self.online = OnlineStore(settings.resolved_online_url)

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.settings.home)!r})"

    def get_feature_store(self) -> FeatureStore:
        """The store itself: the slides write `connection().get_feature_store()`."""
        return self

    def close(self) -> None:
        """Close all database connections."""
        self.catalog.close()
        self.online.close()

    # Feature groups

    def get_or_create_feature_group(
        self, name: str, version: int, *, primary_key: Sequence[str], description: str = "",
        event_time: str | None = None, features: Sequence[Feature] | None = None, online_enabled: bool | None = None,
        partition_key: Sequence[str] | None = None, foreign_key: Sequence[str] | None = None,
        expectation_suite: Any = None, validation_ingestion_policy: Policy | None = None,
        statistics_config: bool | None = None,
        ttl: timedelta | None = None, transformation_functions: on_demand.Spec | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> FeatureGroup:  # fmt: skip
        """The feature group of that name and version; created when it does not exist.

        What is left out stays as it is in a group that exists: whoever only wants to read it changes nothing.

        Args:
            name: `[a-z][a-z0-9_]{0,62}`.
            version: from 1; another definition (keys, event time, features) is another version.
            primary_key: columns that with the event time tell rows apart.
            event_time: the column that says when a row's values became true; None for rows without time.
            features: the columns, keys included; None lets the first insert decide.
            online_enabled: keep the newest row of each key for lookups; a new group's default is False. Of a group
                that has rows already, they are online when the call returns.
            partition_key: columns whose values part the table's files, for good.
            expectation_suite: rules checked before each write: a Great Expectations suite, a dict or JSON text; one
                without expectations takes the rules away.
            validation_ingestion_policy: "STRICT", a new group's default, refuses a batch that fails, "ALWAYS" writes it
                with its report.
            statistics_config: keep statistics of each commit; a new group's default is True.
            ttl: age beyond which a row no longer counts, in joins and online.
            transformation_functions: on-demand functions, each made with `@udf`: computed on insert for history, and
                from `request_parameters` for a feature vector. Their results are features of the group.
        Raises:
            SchemaMismatch: it exists with other keys, event time, partitions or features; or a name not allowed.
        """
        check_name(name, "Feature group")
        check_version(version, f"Feature group {name!r}")
        options = {
            "online_enabled": online_enabled,
            "partition_key": None if partition_key is None else _names(partition_key),
            "foreign_key": None if foreign_key is None else _names(foreign_key),
            "expectation_suite": None if expectation_suite is None else validation.normalise(expectation_suite),
            "validation_ingestion_policy": validation_ingestion_policy, "statistics_config": statistics_config,
            "ttl": ttl,
        }  # fmt: skip
        given: dict[str, Any] = {option: value for option, value in options.items() if value is not None}
        wanted = GroupDefinition(
            GroupRef(name, version), _names(primary_key), event_time, description=description, tags=dict(tags or {}),
            transformation_functions=on_demand.parse(transformation_functions, f"Feature group {name!r}"), **given,
        )  # fmt: skip
        if features is not None:
            wanted = wanted.with_features(features)
        existing = {(n, v): (i, d) for i, n, v, d in self.catalog.list("feature group")}.get((name, version))
        if existing is None:
            try:
                group = FeatureGroup(self, self.catalog.add("feature group", name, version, wanted.to_json()), wanted)
            except Conflict:
                existing = self.catalog.find("feature group", name, version)[::2]
            else:
                group.prepare()
                return group
        identifier = existing[0]

        def merged(data: dict[str, Any]) -> dict[str, Any]:
            stored = GroupDefinition.from_json(wanted.ref, data)
            _check_same(stored, wanted, partitions_given=partition_key is not None)
            both = replace(
                stored, **given, features=stored.features or wanted.features,
                description=description or stored.description, tags={**(stored.tags or {}), **(wanted.tags or {})},
            )  # fmt: skip
            return both.to_json()

        definition = GroupDefinition.from_json(wanted.ref, self.catalog.change(identifier, merged))
        group = FeatureGroup(self, identifier, definition)
        group.prepare()
        if not existing[1]["online_enabled"]:  # rows may have been written while nobody kept them online
            group.sync_online()
        return group

    def create_feature_group(
        self, name: str, version: int | None = None, *, primary_key: Sequence[str], description: str = "",
        event_time: str | None = None, features: Sequence[Feature] | None = None, online_enabled: bool | None = None,
        partition_key: Sequence[str] | None = None, foreign_key: Sequence[str] | None = None,
        expectation_suite: Any = None, validation_ingestion_policy: Policy | None = None,
        statistics_config: bool | None = None,
        ttl: timedelta | None = None, transformation_functions: on_demand.Spec | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> FeatureGroup:  # fmt: skip
        """Create a group that must not exist yet; without a version, the next one. As `get_or_create_feature_group`.

        Raises:
            Conflict: the name and version exist.
        """
        return self.get_or_create_feature_group(
            name, self._new_version("feature group", name, version), primary_key=primary_key, description=description,
            event_time=event_time, features=features, online_enabled=online_enabled, partition_key=partition_key,
            foreign_key=foreign_key, expectation_suite=expectation_suite,
            validation_ingestion_policy=validation_ingestion_policy, statistics_config=statistics_config, ttl=ttl,
            transformation_functions=transformation_functions, tags=tags,
        )  # fmt: skip

    def _new_version(self, kind: Kind, name: str, version: int | None) -> int:
        """A version that does not exist yet: the one asked for, else the next."""
        there = [v for _, n, v, _ in self.catalog.list(kind) if n == name]
        chosen = max(there, default=0) + 1 if version is None else version
        if chosen in there:
            raise Conflict(f"{kind.capitalize()} {name!r} version {chosen} exists. Get it, or create another version.")
        return chosen

    def get_feature_group(self, name: str, version: int | None = None) -> FeatureGroup:
        """A feature group; the newest version when none is given (a log line says which).

        Raises:
            NotFound: no such name or version; the message lists what there is.
        """
        identifier, found, data = self.catalog.find("feature group", name, version)
        if version is None:
            _log.info("feature group %s: using version %d, the newest", name, found)
        ref = GroupRef(name, found)
        return FeatureGroup(self, identifier, GroupDefinition.from_json(ref, data))

    def get_feature_groups(self) -> list[FeatureGroup]:
        """All feature groups, by name and version."""
        return [
            FeatureGroup(self, i, GroupDefinition.from_json(GroupRef(n, v), d))
            for i, n, v, d in self.catalog.list("feature group")
        ]

    # Feature views

    def get_or_create_feature_view(
        self, name: str, version: int = 1, *, query: Query, labels: Sequence[str] | None = None,
        transformation_functions: Any = None, training_helper_columns: Sequence[str] | None = None,
        inference_helper_columns: Sequence[str] | None = None, description: str = "", logging_enabled: bool = False,
        tags: Mapping[str, Any] | None = None,
    ) -> FeatureView:  # fmt: skip
        """The feature view of that name and version; created when it does not exist.

        Args:
            query: the features, joined point in time; the left-most group gives the rows.
            labels: columns of the query to predict.
            transformation_functions: `{"amount": fs.get_transformation_function("standard_scaler")}`, a chain as a list
                of functions, or a list of functions bound to columns. Fitted on the training split only.
            training_helper_columns: columns of the query that come with training frames on request. They are no
                features: never transformed, never an input of the model.
            inference_helper_columns: the same for batch data and vectors.
            logging_enabled: keep what `log` is given.
            tags: anything JSON-ready; of a view that exists, the given tags are added.
        Raises:
            SchemaMismatch: it exists with another query, labels, transformations or helper columns; or a column does
                not exist.
        """
        check_name(name, "Feature view")
        check_version(version, f"Feature view {name!r}")
        wanted = view_definition(
            query, self.definitions(query), labels=_names(labels or ()),
            transformation_functions=transformation_functions,
            training_helper_columns=_names(training_helper_columns or ()),
            inference_helper_columns=_names(inference_helper_columns or ()), description=description,
            logging_enabled=logging_enabled, tags=tags,
        )  # fmt: skip
        existing = {(n, v): (i, d) for i, n, v, d in self.catalog.list("feature view")}.get((name, version))
        if existing is None:
            try:
                return FeatureView(self, self.catalog.add("feature view", name, version, wanted), name, version, wanted)
            except Conflict:
                existing = self.catalog.find("feature view", name, version)[::2]
        identifier, data = existing
        fixed = ("query", "labels", "transformations", "training_helper_columns", "inference_helper_columns")
        if changed := [k for k in fixed if _plain(data.get(k, [])) != _plain(wanted[k])]:
            raise SchemaMismatch(
                f"Feature view {name!r} version {version} exists with another "
                f"{' and '.join(k.replace('_', ' ') for k in changed)}. "
                f"A changed view is a new version: version={version + 1}."
            )
        merged = wanted | {
            "description": description or data["description"], "tags": {**data.get("tags", {}), **wanted["tags"]},
            "logging_enabled": logging_enabled or data.get("logging_enabled", False),
        }  # fmt: skip
        if _plain(merged) != _plain(data):
            self.catalog.update(identifier, merged)
        return FeatureView(self, identifier, name, version, merged)

    def create_feature_view(
        self, name: str, version: int | None = None, *, query: Query, labels: Sequence[str] | None = None,
        transformation_functions: Any = None, training_helper_columns: Sequence[str] | None = None,
        inference_helper_columns: Sequence[str] | None = None, description: str = "", logging_enabled: bool = False,
        tags: Mapping[str, Any] | None = None,
    ) -> FeatureView:  # fmt: skip
        """Create a view that must not exist yet; without a version, the next one. As `get_or_create_feature_view`.

        Raises:
            Conflict: the name and version exist.
        """
        return self.get_or_create_feature_view(
            name, self._new_version("feature view", name, version), query=query, labels=labels,
            transformation_functions=transformation_functions, training_helper_columns=training_helper_columns,
            inference_helper_columns=inference_helper_columns, description=description,
            logging_enabled=logging_enabled, tags=tags,
        )  # fmt: skip

    def get_feature_view(self, name: str, version: int | None = None) -> FeatureView:
        """A feature view; the newest version when none is given (a log line says which).

        Raises:
            NotFound: no such name or version; the message lists what there is.
        """
        identifier, found, data = self.catalog.find("feature view", name, version)
        if version is None:
            _log.info("feature view %s: using version %d, the newest", name, found)
        return FeatureView(self, identifier, name, found, data)

    def get_feature_views(self) -> list[FeatureView]:
        """All feature views, by name and version."""
        return [FeatureView(self, i, n, v, d) for i, n, v, d in self.catalog.list("feature view")]

    def get_transformation_function(self, name: str) -> TransformationFunction:
        """A built-in transformation function by name, such as "standard_scaler"."""
        return transformations.get(name)

    def get_transformation_functions(self) -> list[TransformationFunction]:
        """All built-in transformation functions."""
        return list(transformations.BUILT_INS.values())

    # Queries

    def read_query(
        self, query: Query, *, dataframe_type: DataFrameType = "pandas", start_time: TimeLike | None = None,
        end_time: TimeLike | None = None, as_known: bool = False, ordered: bool = True,
    ) -> Any:  # fmt: skip
        """Run a query at the present versions of its groups."""
        plan = plan_of(query, self.definitions(query))
        rows = self.run(plan, self.versions(query), start=start_time, end=end_time, as_known=as_known, ordered=ordered)
        return to_frame(rows, dataframe_type)

    def training_frame(
        self, entities: Any, query: Query, event_time: str | None = None, as_known: bool = False,
        dataframe_type: DataFrameType | None = None,
    ) -> Any:  # fmt: skip
        """The frame with the query's features as of each row's time; it keeps its rows, columns, order and index.

        Args:
            entities: keys and times, stored nowhere: pandas, Polars or Arrow. Rows may repeat; those whose key or time
                is null are kept, with null features.
            query: every group of it joins to the frame, the left-most too; each finds its keys among the frame's
                columns. Only an inner join or a filter on the whole query drops rows.
            event_time: the frame's time column; default the left-most group's name for it. Naive times are UTC.
            as_known: use, for each row, only what had been committed by its time.
            dataframe_type: default: the library of `entities`.
        Raises:
            JoinError: the frame lacks a key or the time, a key is of another type, or names clash.
            SchemaMismatch: not a frame, or its time column holds no times.
        """
        spine = spine_of(entities, query, self.definitions(query), event_time)
        rows = self.run(spine.plan, self.versions(query), as_known=as_known, entities=spine.rows)
        return spine.with_features(rows, dataframe_type)

    def version_at(self, ref: GroupRef, moment: int | TimeLike) -> int:
        """The Delta version of a group that was current at a time; a whole number is the version itself.

        Raises:
            InvalidTime: nothing was stored then.
            NotFound: there is no such version.
        """
        return delta_history.version_at(self.group(ref).location, moment)

    def query_sql(self, query: Query, dialect: SqlDialect = "duckdb") -> str:
        """The SQL that runs a query, with the tables' names in place of their files; or the same for Spark."""
        spelling = sql.dialect(dialect)
        plan = replace(plan_of(query, self.definitions(query)), now=self.clock())
        tables = [spelling.quote(str(s.definition.ref)) for s in plan.sources]
        return sql.statement(plan, tables, dialect=spelling)

    def explain_query(self, query: Query) -> str:
        """The plan of a query in words, then what would be read: versions, files, rows and columns."""
        plan = plan_of(query, self.definitions(query))
        return "\n".join([plan.explain(), *offline.reads(self, plan, self.versions(query))])

    def sql(self, query: str, dataframe_type: DataFrameType = "pandas") -> Any:
        """The rows of plain SQL, in DuckDB's dialect, over the groups as they are now.

        Each group is a table under its name (its newest version) and under `name_version`, such as `transactions` and
        `transactions_1`. Only reading is possible: one SELECT, of these tables.

        Raises:
            NotFound: a table that is no group; the message lists those there are.
            FeatureStoreError: not a query, one that reads files, or one that DuckDB refuses.
        """
        return to_frame(offline.plain_sql(self, query), dataframe_type)

    def search(self, text: str) -> list[Found]:
        """Groups, views and features that hold every word of a text in name, tags or description; the best first."""
        groups = [
            Entry("feature group", g.name, g.version, g.description, g.tags, tuple(g.features))
            for g in self.get_feature_groups()
        ]
        views = [Entry("feature view", v.name, v.version, v.description, v.tags) for v in self.get_feature_views()]
        return search(text, [*groups, *views])

    def group(self, ref: GroupRef) -> FeatureGroup:
        """A feature group by name and version."""
        return self.get_feature_group(ref.name, ref.version)

    def definitions(self, query: Query) -> dict[GroupRef, Definition]:
        """What a plan must know of the query's groups."""
        if not isinstance(query, Query):
            raise SchemaMismatch(f"{query!r} is not a query. Pass what select([...]) or select_all() of a group gives.")
        return {ref: self.group(ref).point_in_time_definition() for ref in dict.fromkeys(query.groups())}

    def versions(self, query: Query) -> dict[GroupRef, int]:
        """The Delta version of each group of a query: the one that the query asks for, else the present one."""
        found = {}
        for ref in query.groups():
            asked = {version for group, version in query.versions() if group == ref}
            only = asked.pop() if len(asked) == 1 else None
            found[ref] = self.group(ref).delta_version if only is None else only
        return found

    def table_id(self, ref: GroupRef) -> str:
        """The id of a group's Delta table."""
        return self.group(ref).snapshot().table_id

    def run(
        self, plan: Plan, versions: Mapping[GroupRef, int], *, start: TimeLike | None = None,
        end: TimeLike | None = None, as_known: bool = False, ordered: bool = True,
        entities: pa.Table | None = None,
    ) -> pa.Table:  # fmt: skip
        """Run a plan over the given Delta versions of its groups; rows of `[start, end)` by the spine's event time.

        Args:
            as_known: use, for each row of the spine, only what had been committed by its time.
            ordered: False leaves the rows in any order.
            entities: the spine's rows, when they are not stored.
        Raises:
            InvalidTime: a start or end, and the spine has no event time; or the end lies before the start.
            NotReproducible: files of a version, or with `as_known` of an earlier one, are gone.
        """
        return offline.run(
            self, replace(plan, as_known=plan.as_known or as_known), versions, start=start, end=end, ordered=ordered,
            entities=entities,
        )  # fmt: skip

    def pins(self, ref: GroupRef) -> dict[int, list[str]]:
        """The Delta versions of a group that must stay readable, and who needs each: training datasets and views."""
        return pins_of(ref, self.catalog.all_training_datasets(), self.catalog.list("feature view"))

    def check(self, *, deep: bool = False) -> list[Finding]:
        """What is wrong with the store, or about to be: errors first, then warnings, then what is worth knowing.

        Looks for missing files, damaged logs, an online store that lags or does not answer, what crashed processes left
        behind, groups without table and tables without group, an unfinished `forget`, little space.

        Args:
            deep: also make every training dataset again and compare.
        """
        from featurestore import health

        return health.check(self, deep=deep)

    def check_of_files(self, plan: Plan, versions: Mapping[GroupRef, int]) -> Callable[[], None]:
        """A check, without the catalog, that the files a plan reads at the given versions are still there.

        Of groups seen as they were known, also those of earlier versions that are there now. The check raises
        NotReproducible.
        """
        pinned = []
        for place, source in enumerate(plan.sources):
            ref = source.definition.ref
            version = versions[ref] if source.version is None else source.version
            snapshot = self.group(ref).snapshot(version)
            paths = [f.path for f in snapshot.files]
            if plan.is_as_known(place):
                past = [f.path for f in delta_history.row_files(snapshot.location, version)]
                gone = set(delta_table.missing_files(past))
                paths += [p for p in past if p not in gone]
            pinned.append((snapshot.location, version, paths))

        def check() -> None:
            for location, version, paths in pinned:
                delta_table.check_there(location, version, paths)

        return check

    def now_micros(self) -> int:
        """The present in microseconds since 1970."""
        return to_micros(self.clock())


def connect(
    home: str | Path | None = None, *, clock: Callable[[], datetime] | None = None, **overrides: Any
) -> FeatureStore:
    """Open (or make) the feature store in a home.

    Args:
        home: folder; default `FEATURESTORE_HOME`, else `./.triptych/store`.
        overrides: any other setting, such as `online_url="postgresql+psycopg://..."`.
    Raises:
        FeatureStoreError: a setting that cannot be, a home that cannot be made, a database that does not answer.
    """
    from featurestore.settings import load

    given = overrides if home is None else {"home": Path(home), **overrides}
    return FeatureStore(load(**given), clock)


def _names(names: Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _plain(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {k: _plain(v) for k, v in data.items()}
    return [_plain(v) for v in data] if isinstance(data, list | tuple) else data


def _check_same(stored: GroupDefinition, wanted: GroupDefinition, *, partitions_given: bool) -> None:
    def shape(features: Sequence[Feature]) -> list[str]:
        return [f"{f.name} {f.dtype}{' on demand' if f.on_demand else ''}" for f in features]

    both: list[tuple[str, Any, Any]] = [
        ("primary key", list(stored.primary_key), list(wanted.primary_key)),
        ("event time", stored.event_time, wanted.event_time),
    ]
    if stored.features and wanted.features:
        both.append(("features", shape(stored.features), shape(wanted.features)))
    if partitions_given:
        both.append(("partition key", list(stored.partition_key), list(wanted.partition_key)))
    if wanted.transformation_functions:
        stored_functions, functions = ([f.to_json() for f in d.transformation_functions] for d in (stored, wanted))
        both.append(("on-demand functions", stored_functions, functions))
    for what, there, here in both:
        if there != here:
            raise SchemaMismatch(
                f"Feature group {stored.ref.name!r} version {stored.ref.version} exists with the {what} {there}, "
                f"asked for {here}. Another definition is another version: version={stored.ref.version + 1}."
            )
