"""From a query to a plan: which table is joined by which keys at which time. Pure: it sees definitions, never rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

import pyarrow as pa

from featurestore.errors import JoinError, SchemaMismatch
from featurestore.filters import typed
from featurestore.query import Column, Combined, Filter, GroupRef, Join, Query, both
from featurestore.schema import Feature, check_column_name

Match = Literal["as of", "newest", "key"]

ROW = "__row"
"""Hidden column that numbers the rows of an ad-hoc frame: their order, and their key."""


@dataclass(frozen=True)
class Definition:
    """What a plan must know of a group."""

    ref: GroupRef
    features: tuple[Feature, ...]
    primary_key: tuple[str, ...]
    event_time: str | None
    ttl: timedelta | None = None

    def columns(self) -> list[str]:
        """The names of all columns."""
        return [f.name for f in self.features]

    def check(self, names: Sequence[str]) -> None:
        """Refuse names the group does not have."""
        if unknown := [n for n in names if n not in self.columns()]:
            shown = [n for n in self.columns() if n != ROW]
            raise SchemaMismatch(f"{self.ref} has no column {unknown}; it has {shown}.")

    def feature(self, name: str) -> Feature:
        """The column of a name that `check` lets pass."""
        self.check([name])
        return next(f for f in self.features if f.name == name)


@dataclass(frozen=True)
class Output:
    """A column of the result: where it comes from and what it is called."""

    source: int
    column: str
    name: str
    feature: Feature


@dataclass(frozen=True)
class Source:
    """One table of the plan. The first is the spine; each other is joined to the row of an earlier one.

    The tables joined to a table follow it before any other does. `row_filter` reads the table's own columns,
    `result_filter` also those of the tables joined to it: both say which of its rows can be matched.
    """

    definition: Definition
    parent: int = -1
    keys: tuple[tuple[str, str], ...] = ()
    match: Match = "as of"
    inner: bool = False
    row_filter: Filter | None = None
    version: int | None = None
    result_filter: Filter | None = None
    in_hindsight: bool = False
    """Seen as it is also by a plan that is `as_known`: labels are known only afterwards."""


@dataclass(frozen=True)
class Plan:
    """Everything an engine needs to run a query."""

    sources: tuple[Source, ...]
    outputs: tuple[Output, ...]
    result_filter: Filter | None = None
    limit: int | None = None
    as_known: bool = False
    """Of each joined group, a row of the spine sees only what had been committed by its time."""
    now: datetime | None = None
    """The time asked for, where the spine has no event time: what is older than its ttl by then does not count."""

    @property
    def spine(self) -> Definition:
        """The left-most group."""
        return self.sources[0].definition

    @property
    def order(self) -> tuple[str, ...]:
        """The spine's columns that order the result; together they tell its rows apart."""
        spine = self.spine
        if ROW in spine.primary_key:
            return (ROW,)
        return (*([spine.event_time] if spine.event_time else []), *spine.primary_key)

    def is_as_known(self, place: int) -> bool:
        """Whether a table is seen as it was known at each row's time, so that its past versions are read."""
        hindsight = place == 0 or self.sources[place].in_hindsight
        return self.as_known and not hindsight and self.spine.event_time is not None

    def chooses(self, place: int) -> bool:
        """Whether a table's newest candidate may be passed over for an older one: what is joined to it decides."""
        source = self.sources[place]
        return place > 0 and (
            source.result_filter is not None or any(self.sources[c].inner for c in self.joined(place))
        )

    def joined(self, place: int) -> list[int]:
        """The tables joined directly to a table."""
        return [i for i, s in enumerate(self.sources) if s.parent == place]

    def branch(self, place: int) -> range:
        """A table and everything joined to it, directly or not."""
        end = place + 1
        while end < len(self.sources) and self.sources[end].parent >= place:
            end += 1
        return range(place, end)

    @property
    def is_plain(self) -> bool:
        """Whether each table gives the newest row of equal keys at or before the row's time, and nothing more is asked.

        Not so with `as_known`, where what is joined to a table decides which of its rows can be matched, and where
        columns are asked for that no group declares, such as when a row was committed.
        """
        hidden = any(o.column not in self.sources[o.source].definition.columns() for o in self.outputs)
        return not hidden and not any(self.chooses(p) or self.is_as_known(p) for p in range(len(self.sources)))

    def source_of(self, column: Column, within: int = 0) -> int:
        """The one source a filter's column belongs to, among a table and what is joined to it."""
        found = [i for i in self.branch(within) if self.sources[i].definition.ref == column.group]
        if len(found) != 1:
            raise JoinError(
                f"The filter's column {column.name!r} of {column.group} belongs to {len(found)} tables of the query; "
                "filter that group before joining it."
            )
        self.sources[found[0]].definition.check([column.name])
        return found[0]

    def filtered(self, condition: Filter) -> Plan:
        """The plan of the rows that also meet a condition, which may read any column of its groups.

        Raises:
            SchemaMismatch: a column that does not exist, or a value of another type than its column's.
            JoinError: a column of no group of the query, or of one that is joined twice.
        """
        condition = typed(condition, lambda c: self.sources[self.source_of(c)].definition.feature(c.name))
        return replace(self, result_filter=both(self.result_filter, condition))

    def given_columns(self) -> list[list[str]]:
        """Of each source the columns that the result, its filters, or the keys of a nested join are made of."""
        given: list[dict[str, None]] = [{} for _ in self.sources]
        for output in self.outputs:
            given[output.source][output.column] = None
        for source in self.sources[1:]:
            given[source.parent] |= dict.fromkeys(left for left, _ in source.keys)
        for place, column in self._filter_columns():
            given[place][column] = None
        return [list(g) for g in given]

    def needed_columns(self) -> list[list[str]]:
        """Of each source the columns to read: those given, and those that order and match its rows."""
        needed = [dict.fromkeys(g) for g in self.given_columns()]
        needed[0] |= dict.fromkeys(self.order)
        for place, source in enumerate(self.sources):
            time = source.definition.event_time
            needed[place] |= dict.fromkeys([*([time] if time else []), *(right for _, right in source.keys)])
        return [list(n) for n in needed]

    def _filter_columns(self) -> Iterable[tuple[int, str]]:
        """Places and names of the columns that filters on several tables read."""
        filters = [(0, self.result_filter), *enumerate(s.result_filter for s in self.sources)]
        for place, condition in filters:
            for column in condition.columns() if condition is not None else ():
                yield self.source_of(column, place), column.name

    def without(self, dropped: Sequence[str]) -> Plan:
        """The plan for scoring: without these outputs, and without joins that give nothing else."""
        outputs = [o for o in self.outputs if o.name not in dropped]
        giving = {o.source for o in self.outputs}
        # An inner join that never gave anything is there for its choice of rows.
        todo = [
            0,
            *(o.source for o in outputs),
            *(i for i, s in enumerate(self.sources) if s.inner and i not in giving),
        ]
        needed: set[int] = set()
        while todo:
            place = todo.pop()
            if place < 0 or place in needed:
                continue
            needed.add(place)
            todo.append(self.sources[place].parent)
            condition = self.sources[place].result_filter if place else self.result_filter
            todo += [self.source_of(c, place) for c in (condition.columns() if condition is not None else ())]
        kept = sorted(needed)
        moved = {old: new for new, old in enumerate(kept)} | {-1: -1}
        return replace(
            self,
            sources=tuple(replace(self.sources[i], parent=moved[self.sources[i].parent]) for i in kept),
            outputs=tuple(replace(o, source=moved[o.source]) for o in outputs),
        )

    def not_older(self, age: timedelta, *, except_for: Sequence[str] = ()) -> Plan:
        """The plan in which joined rows count up to this age only; a stricter ttl stays.

        Groups that give nothing but `except_for`, such as the labels', keep theirs.
        """
        exempt = self._giving_only(except_for)
        sources = [
            replace(s, definition=replace(s.definition, ttl=min(age, s.definition.ttl or age)))
            if place and place not in exempt and s.match != "key" else s
            for place, s in enumerate(self.sources)
        ]  # fmt: skip
        return replace(self, sources=tuple(sources))

    def with_hindsight(self, names: Sequence[str]) -> Plan:
        """The plan in which groups that give nothing but these outputs, the labels, are seen as they came to be."""
        exempt = self._giving_only(names)
        sources = [replace(s, in_hindsight=place in exempt) for place, s in enumerate(self.sources)]
        return replace(self, sources=tuple(sources))

    def _giving_only(self, names: Sequence[str]) -> set[int]:
        """The joined tables that, with all that is joined to them, give some of these outputs and no other."""
        found = set()
        for place in range(1, len(self.sources)):
            given = {o.name for o in self.outputs if o.source in self.branch(place)}
            if given and given.issubset(names):
                found.add(place)
        return found

    def explain(self) -> str:
        """How each table is joined and filtered, one line each; then what is asked of the whole."""
        lines = [self._explain_spine(), *(self._explain_join(s) for s in self.sources[1:])]
        if self.result_filter is not None:
            lines.append(f"of the result the rows with {self.result_filter}")
        if self.limit is not None:
            lines.append(f"the first {self.limit} rows")
        return "\n".join(lines)

    def _explain_spine(self) -> str:
        spine, source = self.spine, self.sources[0]
        order = "in its own order" if ROW in self.order else f"ordered by {', '.join(self.order)}"
        where = f", of the rows with {source.row_filter}" if source.row_filter is not None else ""
        return f"{spine.ref}{_pinned(source)}: one row each, {order}{where}"

    def _explain_join(self, source: Source) -> str:
        spine, right = self.spine, source.definition
        keys = ", ".join(left if left == r else f"{left} = {r}" for left, r in source.keys)
        how = {
            "as of": f"newest row with {right.event_time} <= {spine.event_time}",
            "newest": f"newest row by {right.event_time}, because {spine.ref} has no event time",
            "key": "by key alone, because it has no event time",
        }[source.match]
        if right.ttl is not None:
            how += f", not older than {right.ttl}" + (" now" if source.match == "newest" else "")
        for condition in (source.row_filter, source.result_filter):
            how += f", of the rows with {condition}" if condition is not None else ""
        if self.is_as_known(1):
            how += f", as it was known at {spine.event_time}"
        parent = self.sources[source.parent].definition.ref
        kind = "inner" if source.inner else "left"
        return f"{kind} join {right.ref}{_pinned(source)} to {parent} on {keys}: {how}"


def _pinned(source: Source) -> str:
    return f" (Delta version {source.version})" if source.version is not None else ""


@dataclass
class _Builder:
    """Adds the tables of a query, depth first; each call gives the columns as that query names them."""

    groups: Mapping[GroupRef, Definition]
    sources: list[Source] = field(default_factory=list)

    def add(
        self, query: Query, parent: int = -1, keys: tuple[tuple[str, str], ...] = (), inner: bool = False
    ) -> list[Output]:
        definition = self.groups[query.group]
        definition.check(query.features)
        if repeated := sorted({n for n in query.features if query.features.count(n) > 1}):
            raise SchemaMismatch(f"The columns {repeated} of {query.group} are selected twice. Select each once.")
        place = len(self.sources)
        spine = self.sources[0].definition if self.sources else definition
        if definition.event_time is None:
            match: Match = "key"
        else:
            match = "as of" if spine.event_time is not None else "newest"
        own, whole = _parted(query)
        for column in own.columns() if own is not None else ():
            if column.group != query.group:
                raise JoinError(
                    f"A filter on {query.group} names {column.name!r} of {column.group}. "
                    "Filter each group's own query before it is joined, or the whole query after its joins."
                )
        own = None if own is None else typed(own, lambda c: definition.feature(c.name))
        self.sources.append(Source(definition, parent, keys, match, inner, own, query.version, whole))
        outputs = [Output(place, n, n, definition.feature(n)) for n in query.features]
        for join in query.joins:
            outputs = self.join(outputs, place, join)
        if whole is not None:
            branch = Plan(tuple(self.sources), ())
            whole = typed(whole, lambda c: self.sources[branch.source_of(c, place)].definition.feature(c.name))
            self.sources[place] = replace(self.sources[place], result_filter=whole)
        return outputs

    def join(self, left: list[Output], place: int, join: Join) -> list[Output]:
        """The columns of the left side, then those a join contributes, prefixed or without what the left has."""
        keys = _keys(self.sources[place].definition, self.groups[join.query.group], join)
        right = self.add(join.query, place, keys, join.join_type == "inner")
        if join.prefix:
            outputs = [*left, *(replace(o, name=join.prefix + o.name) for o in right)]
        else:
            outputs = list(left)
            for output in right:
                copy = self.left_copy(output, place)
                if not any(o.name == output.name and self.stands(o, output, place, copy) for o in outputs):
                    outputs.append(copy)
        self.refuse_clashes(outputs)
        return outputs

    def left_copy(self, output: Output, place: int) -> Output:
        """The left side's column that a right one repeats, else the right one itself."""
        source, left = self.sources[output.source], self.sources[place].definition
        is_key = source.parent == place and (output.column, output.column) in source.keys
        is_time = output.column == source.definition.event_time == left.event_time
        if output.name == output.column and (is_key or is_time):
            return Output(place, output.column, output.name, left.feature(output.column))
        return output

    def stands(self, left: Output, right: Output, place: int, copy: Output) -> bool:
        """Whether a left column says what a right one of the same name would: they are a join key or an event time."""
        if (left.source, left.column) == (copy.source, copy.column):
            return True
        sources = [self.sources[o.source] for o in (left, right)]
        if all(s.definition.event_time == o.column for s, o in zip(sources, (left, right), strict=True)):
            return True
        matched = [
            {a for a, b in s.keys if b == o.column and s.parent == place}
            for s, o in zip(sources, (left, right), strict=True)
        ]
        return bool(matched[0] & matched[1])

    def refuse_clashes(self, outputs: Sequence[Output]) -> None:
        seen: dict[str, Output] = {}
        clashing: dict[tuple[GroupRef, GroupRef], list[str]] = {}
        for output in outputs:
            check_column_name(output.name)
            other = seen.setdefault(output.name.casefold(), output)
            if other is not output:
                refs = [self.sources[o.source].definition.ref for o in (other, output)]
                clashing.setdefault((refs[0], refs[1]), []).append(output.name)
        for (first, second), names in clashing.items():
            raise JoinError(
                f"Both {first} and {second} give {'a column' if len(names) == 1 else 'columns'} "
                f"{', '.join(map(repr, names))}. Join one of them with prefix='...', or select fewer columns."
            )


def _parted(query: Query) -> tuple[Filter | None, Filter | None]:
    """The filter that reads the group's own columns alone, and the rest of the filter on the whole query."""
    own, whole = query.row_filter, None
    mine = query.groups().count(query.group) == 1
    for part in _conjuncts(query.result_filter):
        if mine and all(c.group == query.group for c in part.columns()):
            own = both(own, part)
        else:
            whole = both(whole, part)
    return own, whole


def _conjuncts(condition: Filter | None) -> list[Filter]:
    if condition is None:
        return []
    if isinstance(condition, Combined) and condition.how == "and":
        return [c for part in condition.parts for c in _conjuncts(part)]
    return [condition]


def _keys(left: Definition, right: Definition, join: Join) -> tuple[tuple[str, str], ...]:
    if join.on is not None:
        pairs = tuple((c, c) for c in join.on)
    elif join.left_on and join.right_on:
        pairs = tuple(zip(join.left_on, join.right_on, strict=True))
    else:
        pairs = tuple((c, c) for c in right.primary_key if c in left.columns())
    given = [r for _, r in pairs]
    if not pairs or sorted(given) != sorted(right.primary_key):
        shown = [n for n in left.columns() if n != ROW]
        raise JoinError(
            f"{right.ref} has the primary key {list(right.primary_key)}, which the join to {left.ref} does not cover "
            f"(its columns: {shown}; keys used: {given}). Name the pairs with left_on=[...], right_on=[...]."
        )
    left.check([name for name, _ in pairs])
    for a, b in pairs:
        types = left.feature(a).type, right.feature(b).type
        if types[0] != types[1] and not all(pa.types.is_integer(t) for t in types):
            raise JoinError(
                f"Key {a!r} of {left.ref} is {types[0]}, key {b!r} of {right.ref} is {types[1]}. "
                "Keys compare only with keys of their own type: 1 is not '1'."
            )
    return pairs


def plan(query: Query, groups: Mapping[GroupRef, Definition]) -> Plan:
    """The plan of a query.

    Raises:
        SchemaMismatch: a selected or filtered column does not exist, with those that do; or a filter's value is of
            another type than its column.
        JoinError: keys that do not identify a row, two columns of one name, or a filter on a table joined twice.
    """
    builder = _Builder(groups)
    outputs = builder.add(query)
    spine = builder.sources[0]
    sources = (replace(spine, result_filter=None), *builder.sources[1:])
    return Plan(sources, tuple(outputs), spine.result_filter, query.row_limit)
