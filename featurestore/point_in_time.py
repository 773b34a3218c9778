"""From a query to a plan: which table is joined by which keys at which time. Pure: it sees definitions, never rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

import pyarrow as pa

from featurestore.errors import JoinError, SchemaMismatch
from featurestore.query import Column, Filter, GroupRef, Query
from featurestore.schema import Feature

Match = Literal["as of", "newest", "key"]


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
            raise SchemaMismatch(f"{self.ref} has no column {unknown}; it has {self.columns()}.")


@dataclass(frozen=True)
class Output:
    """A column of the result: where it comes from and what it is called."""

    source: int
    column: str
    name: str
    feature: Feature


@dataclass(frozen=True)
class Source:
    """One table of the plan. The first is the spine; each other is joined to the row of an earlier one."""

    definition: Definition
    parent: int = -1
    keys: tuple[tuple[str, str], ...] = ()
    match: Match = "as of"
    inner: bool = False
    row_filter: Filter | None = None
    version: int | None = None


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

    def source_of(self, column: Column) -> int:
        """The one source a filter's column belongs to."""
        found = [i for i, s in enumerate(self.sources) if s.definition.ref == column.group]
        if len(found) != 1:
            raise JoinError(
                f"The filter's column {column.name!r} of {column.group} belongs to {len(found)} tables of the query; "
                "filter that group before joining it."
            )
        self.sources[found[0]].definition.check([column.name])
        return found[0]

    def given_columns(self) -> list[list[str]]:
        """Of each source the columns that the result, its filter, or the keys of a nested join are made of."""
        given: list[dict[str, None]] = [{} for _ in self.sources]
        for output in self.outputs:
            given[output.source][output.column] = None
        for source in self.sources[1:]:
            given[source.parent] |= dict.fromkeys(left for left, _ in source.keys)
        for column in self.result_filter.columns() if self.result_filter is not None else ():
            given[self.source_of(column)][column.name] = None
        return [list(g) for g in given]

    def needed_columns(self) -> list[list[str]]:
        """Of each source the columns to read: those given, and those that order and match its rows."""
        needed = [dict.fromkeys(g) for g in self.given_columns()]
        needed[0] |= dict.fromkeys(self.spine.primary_key)
        for place, source in enumerate(self.sources):
            time = source.definition.event_time
            needed[place] |= dict.fromkeys([*([time] if time else []), *(right for _, right in source.keys)])
        return [list(n) for n in needed]

    def without(self, dropped: Sequence[str]) -> Plan:
        """The plan for scoring: without these outputs, and without joins that give nothing else."""
        outputs = [o for o in self.outputs if o.name not in dropped]
        needed = {0} | {o.source for o in outputs}
        if self.result_filter is not None:
            needed |= {self.source_of(c) for c in self.result_filter.columns()}
        for i in reversed(range(len(self.sources))):
            if i in needed and self.sources[i].parent >= 0:
                needed.add(self.sources[i].parent)
        kept = sorted(needed)
        place = {old: new for new, old in enumerate(kept)}
        return replace(
            self,
            sources=tuple(_moved(self.sources[i], place) for i in kept),
            outputs=tuple(replace(o, source=place[o.source]) for o in outputs),
        )

    def not_older(self, age: timedelta, *, except_for: Sequence[str] = ()) -> Plan:
        """The plan in which joined rows count up to this age only; a stricter ttl stays.

        Groups of which nothing but `except_for` is selected, such as the labels', keep theirs.
        """
        giving = {o.source for o in self.outputs if o.name not in except_for}
        sources = [
            replace(s, definition=replace(s.definition, ttl=min(age, s.definition.ttl or age)))
            if place in giving and s.match == "as of" and place else s
            for place, s in enumerate(self.sources)
        ]  # fmt: skip
        return replace(self, sources=tuple(sources))

    def explain(self) -> str:
        """How each table is joined, one line each."""
        spine = self.spine
        order = [*([spine.event_time] if spine.event_time else []), *spine.primary_key]
        lines = [f"{spine.ref}: one row each, ordered by {', '.join(order)}"]
        for source in self.sources[1:]:
            right = source.definition
            keys = ", ".join(left if left == r else f"{left} = {r}" for left, r in source.keys)
            how = {
                "as of": f"newest row with {right.event_time} <= {spine.event_time}",
                "newest": f"newest row by {right.event_time}, because {spine.ref} has no event time",
                "key": "by key alone, because it has no event time",
            }[source.match]
            ttl = f", not older than {right.ttl}" if right.ttl and source.match == "as of" else ""
            parent = self.sources[source.parent].definition.ref
            lines.append(f"{'inner' if source.inner else 'left'} join {right.ref} to {parent} on {keys}: {how}{ttl}")
        return "\n".join(lines)


def _moved(source: Source, place: Mapping[int, int]) -> Source:
    return replace(source, parent=place[source.parent] if source.parent >= 0 else -1)


@dataclass
class _Builder:
    groups: Mapping[GroupRef, Definition]
    sources: list[Source] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)

    def add(
        self, query: Query, parent: int, join: tuple[tuple[str, str], ...], inner: bool, prefix: str, hidden: set[str]
    ) -> None:
        definition = self.groups[query.group]
        definition.check(query.features)
        place = len(self.sources)
        spine = self.sources[0].definition if self.sources else definition
        if definition.event_time is None:
            match: Match = "key"
        else:
            match = "as of" if spine.event_time is not None else "newest"
        self.sources.append(Source(definition, parent, join, match, inner, query.row_filter, query.version))
        features = {f.name: f for f in definition.features}
        for name in query.features:
            if name not in hidden or prefix:
                self.outputs.append(Output(place, name, prefix + name, features[name]))
            elif name not in {
                o.name for o in self.outputs
            }:  # the left copy stands, also where only the right asks for it
                self.outputs.append(Output(0, name, name, next(f for f in spine.features if f.name == name)))
        for joined in query.joins:
            right = self.groups[joined.query.group]
            keys = _keys(definition, right, joined.on, joined.left_on, joined.right_on)
            repeated = {r for _, r in keys} | ({right.event_time} if right.event_time else set())
            taken = {o.name for o in self.outputs}
            quiet = {n for n in repeated if n in taken or n in spine.columns()}
            # A nested join's columns carry the prefixes of all joins around them.
            self.add(joined.query, place, keys, joined.join_type == "inner", prefix + (joined.prefix or ""), quiet)


def _keys(
    left: Definition, right: Definition, on: tuple[str, ...] | None, left_on: tuple[str, ...] | None,
    right_on: tuple[str, ...] | None,
) -> tuple[tuple[str, str], ...]:  # fmt: skip
    if on is not None:
        pairs = tuple((c, c) for c in on)
    elif left_on and right_on:
        pairs = tuple(zip(left_on, right_on, strict=True))
    else:
        pairs = tuple((c, c) for c in right.primary_key if c in left.columns())
    given = [r for _, r in pairs]
    if not pairs or set(given) != set(right.primary_key):
        raise JoinError(
            f"{right.ref} has the primary key {list(right.primary_key)}, which the join to {left.ref} does not cover "
            f"(its columns: {left.columns()}; keys used: {given}). Name the pairs with left_on=[...], right_on=[...]."
        )
    left.check([name for name, _ in pairs])
    left_types, right_types = ({f.name: f.type for f in d.features} for d in (left, right))
    for a, b in pairs:
        whole = pa.types.is_integer(left_types[a]) and pa.types.is_integer(right_types[b])
        if left_types[a] != right_types[b] and not whole:
            raise JoinError(
                f"Key {a!r} of {left.ref} is {left_types[a]}, key {b!r} of {right.ref} is {right_types[b]}. "
                "Keys compare only with keys of their own type: 1 is not '1'."
            )
    return pairs


def plan(query: Query, groups: Mapping[GroupRef, Definition]) -> Plan:
    """The plan of a query.

    Raises:
        SchemaMismatch: a selected or filtered column does not exist; the message lists those that do.
        JoinError: keys that do not identify a row, or two columns of one name.
    """
    builder = _Builder(groups)
    builder.add(query, -1, (), False, "", set())
    seen: dict[str, Output] = {}
    for output in builder.outputs:
        other = seen.setdefault(output.name.casefold(), output)
        if other is not output:
            refs = [builder.sources[o.source].definition.ref for o in (other, output)]
            raise JoinError(
                f"Both {refs[0]} and {refs[1]} give a column {output.name!r}. "
                "Join one of them with prefix='...', or select fewer columns."
            )
    built = Plan(tuple(builder.sources), tuple(builder.outputs), query.result_filter, query.row_limit)
    for source in built.sources:
        if source.row_filter is not None:
            for column in source.row_filter.columns():
                if column.group != source.definition.ref:
                    raise JoinError(f"A filter on {source.definition.ref} names {column.name!r} of {column.group}.")
                source.definition.check([column.name])
    if built.result_filter is not None:
        for column in built.result_filter.columns():
            built.source_of(column)
    return built
