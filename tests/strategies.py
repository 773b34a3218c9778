"""Random worlds for laws about joins: groups, rows and a query over them; and what a loop over all rows says it gives.

The loop is the promise, word for word: for each row of the spine, of the rows with equal keys that had happened (and,
where asked, were known) by its time, that are not too old and meet the filter, the newest one that everything joined to
it lets pass. It knows nothing of plans, engines or SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from featurestore import Feature
from featurestore.point_in_time import ROW, Definition
from featurestore.query import Column, Combined, Comparison, Filter, GroupRef, Join, Query
from featurestore.schema import TIMESTAMP

Row = dict[str, Any]
COMMITTED, REMOVED = "__committed_at", "__removed_at"

START = datetime(2021, 1, 1, tzinfo=UTC)
ODD_NAMES = [
    "x_y", "rank", "index", "select", "event time", 'quo"te', "per`cent%", "0.k0", "s0", "filename", "ünï", "ROW",
    "_x'", "n" * 200, "key", "newest1", "from",
]  # fmt: skip
# One domain for each type: small, so that keys meet; with values that look alike across columns.
DOMAINS: dict[str, list[Any]] = {
    "bigint": [1, 11],
    "int": [1, 11],
    "string": ["1", "11'é"],
    "date": [date(2021, 1, 1), date(1969, 12, 31)],
    "decimal(6,2)": [Decimal("1.00"), Decimal("11.10")],
    "binary": [b"1", b"\x00\xff"],
}


@dataclass(frozen=True)
class World:
    """Groups with their rows, and a query over them.

    With `as_known` the rows of groups are all values they ever had, each with its commit and the time it was removed.
    """

    query: Query
    definitions: Mapping[GroupRef, Definition]
    rows: Mapping[GroupRef, Sequence[Row]]
    now: datetime
    as_known: bool = False

    @property
    def spine(self) -> Definition:
        """The left-most group."""
        return self.definitions[self.query.group]

    def table(self, ref: GroupRef) -> pa.Table:
        """The rows of a group as an engine reads them."""
        definition = self.definitions[ref]
        hidden = [(ROW, pa.int64())] if ROW in definition.primary_key else []
        hidden += [(COMMITTED, TIMESTAMP), (REMOVED, TIMESTAMP)] if self.as_known and ref != self.query.group else []
        schema = pa.schema([*((f.name, f.type) for f in definition.features), *hidden])
        return pa.Table.from_pylist(list(self.rows[ref]), schema=schema)


def expected(world: World) -> list[Row]:
    """The rows that the promise gives, in order."""
    query, spine = world.query, world.spine
    key = (
        (ROW,) if ROW in spine.primary_key else (*([spine.event_time] if spine.event_time else []), *spine.primary_key)
    )
    found = []
    for row in sorted(world.rows[spine.ref], key=lambda r: tuple(r[c] for c in key)):
        if query.row_filter is None or truth(query.row_filter, {spine.ref: row}) is True:
            moment = row[spine.event_time] if spine.event_time is not None else _ANY_TIME
            found += [columns for columns, _ in [_with_joins(world, query, row, moment)] if columns is not None]
    return found[: query.row_limit]


_ANY_TIME = object()
_Groups = dict[GroupRef, Row | None]


def _with_joins(world: World, query: Query, row: Row, moment: Any) -> tuple[Row | None, _Groups]:
    """The query's columns of one row and what is joined to it (None when an inner join or the filter drops it)."""
    columns, groups = {name: row[name] for name in query.features}, {query.group: row}
    for join in query.joins:
        found, theirs = _joined(world, join, row, moment)
        if found is None and join.join_type == "inner":
            return None, {}
        values = dict.fromkeys(names_of(join.query)) if found is None else found
        columns |= {(join.prefix or "") + n: v for n, v in values.items()}
        groups |= theirs
    if query.result_filter is not None and truth(query.result_filter, groups) is not True:
        return None, {}
    return columns, groups


def _joined(world: World, join: Join, left: Row, moment: Any) -> tuple[Row | None, _Groups]:
    """The newest row of a joined query that may be used and that its own joins let pass."""
    query, right = join.query, world.definitions[join.query.group]
    pairs = list(zip(join.left_on or (), join.right_on or (), strict=True))
    candidates = [
        row for row in world.rows[right.ref]
        if all(left[a] is not None and left[a] == row[b] for a, b in pairs)
        and _happened(world, right, row, moment)
        and (query.row_filter is None or truth(query.row_filter, {right.ref: row}) is True)
    ]  # fmt: skip
    if right.event_time is not None:
        candidates.sort(key=lambda r: r[right.event_time], reverse=True)
    for candidate in candidates:
        found, groups = _with_joins(world, query, candidate, moment)
        if found is not None:
            return found, groups
    return None, dict.fromkeys(query.groups())


def _happened(world: World, right: Definition, row: Row, moment: Any) -> bool:
    if moment is not _ANY_TIME and COMMITTED in row and (
        moment is None or row[COMMITTED] > moment or (row[REMOVED] is not None and row[REMOVED] <= moment)
    ):  # fmt: skip
        return False
    if right.event_time is None:
        return True
    if moment is None:
        return False
    asked = world.now if moment is _ANY_TIME else moment
    if moment is not _ANY_TIME and row[right.event_time] > moment:
        return False
    return right.ttl is None or asked - row[right.event_time] <= right.ttl


def names_of(query: Query) -> list[str]:
    """The names of a query's columns."""
    return [*query.features, *((j.prefix or "") + n for j in query.joins for n in names_of(j.query))]


def truth(condition: Filter, rows: Mapping[GroupRef, Row | None]) -> bool | None:
    """Whether a filter holds, in SQL's three values."""
    if isinstance(condition, Combined):
        parts = [truth(p, rows) for p in condition.parts]
        if condition.how == "not":
            return None if parts[0] is None else not parts[0]
        deciding = condition.how == "or"
        return deciding if deciding in parts else None if None in parts else not deciding
    assert isinstance(condition, Comparison)
    row, wanted = rows[condition.column.group], condition.value
    value = None if row is None else row[condition.column.name]
    if condition.operator == "is_null":
        return value is None
    if condition.operator == "in":
        if not wanted:
            return False
        hits = [None if value is None or w is None else value == w for w in wanted]
        return True if True in hits else None if None in hits else False
    if value is None:
        return None
    compare: dict[str, Callable[[], bool]] = {
        "==": lambda: value == wanted, "!=": lambda: value != wanted, "<": lambda: value < wanted,
        "<=": lambda: value <= wanted, ">": lambda: value > wanted, ">=": lambda: value >= wanted,
        "between": lambda: wanted[0] <= value <= wanted[1],
    }  # fmt: skip
    return compare[condition.operator]()


# Worlds

_hours = st.integers(0, 12).map(lambda n: START + timedelta(hours=n))
_values = st.one_of(st.none(), st.integers(-3, 3))
_ttls = st.one_of(st.none(), st.integers(0, 6).map(lambda n: timedelta(hours=n)), st.just(timedelta(microseconds=1)))


def _nullable(dtype: str) -> st.SearchStrategy[Any]:
    """A value to join by, sometimes null. Most are one and the same, so that rows meet."""
    first, *rest = DOMAINS[dtype]
    return st.sampled_from([first, first, first, *rest, None])


def comparisons(column: Column) -> st.SearchStrategy[Filter]:
    """Filters on one column of small whole numbers."""
    numbers = st.integers(-3, 3)
    return st.one_of(
        st.builds(
            lambda op, v: Comparison(column, op, v), st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), numbers
        ),
        st.lists(st.one_of(numbers, st.none()), max_size=3).map(column.isin),
        st.tuples(numbers, numbers).map(lambda pair: column.between(*pair)),
        st.just(column.is_null()),
    )


def filters(columns: Sequence[Column]) -> st.SearchStrategy[Filter]:
    """Filters on several columns, combined."""
    return st.recursive(
        st.sampled_from(columns).flatmap(comparisons),
        lambda inner: st.one_of(
            inner.map(lambda f: ~f),
            st.tuples(inner, inner).map(lambda pair: pair[0] & pair[1]),
            st.tuples(inner, inner).map(lambda pair: pair[0] | pair[1]),
        ),
        max_leaves=3,
    )


@dataclass(frozen=True)
class Shape:
    """What a world may have."""

    stored: bool = True
    """The spine is a stored group: it has a key, and each row a time. Else a frame: rows may repeat and lack a time."""
    choosing: bool = True
    """Filters and inner joins inside joined queries."""
    as_known: bool = False
    timed_spine: bool | None = None
    filtered: bool = True


@st.composite
def worlds(draw: st.DrawFn, shape: Shape = Shape()) -> World:
    """A spine and up to four groups, joined to it or to each other."""
    names = iter(draw(st.permutations(ODD_NAMES)))
    timed = draw(st.booleans()) if shape.timed_spine is None else shape.timed_spine
    definitions: dict[GroupRef, Definition] = {}
    rows: dict[GroupRef, list[Row]] = {}
    spine = _definition(
        draw, names, "labels" if shape.stored else "entities", ["bigint"] if shape.stored else [], timed
    )
    if not shape.stored:
        spine = replace(spine, ref=GroupRef("entities", 0), primary_key=(ROW,))
    definitions[spine.ref] = spine
    rows[spine.ref] = _spine_rows(draw, spine)
    room = [draw(st.integers(1, 4))]
    query = _query(draw, names, spine, definitions, rows, room, shape, depth=0)
    if draw(st.integers(0, 4)) == 0:
        query = query.limit(draw(st.integers(0, 3)))
    return World(query, definitions, rows, START + timedelta(hours=draw(st.integers(0, 14))), shape.as_known)


def _definition(
    draw: st.DrawFn, names: Iterator[str], group: str, key: Sequence[str], timed: bool, ttl: timedelta | None = None
) -> Definition:
    """A group with a key of the given types, one column of each type to join by, and a value."""
    keys = [Feature(f"{next(names)[:250]}_{i}" if draw(st.booleans()) else f"k{i}", t) for i, t in enumerate(key)]
    others = [Feature(f"by {t}", t) for t in DOMAINS]
    time = [Feature("at", "timestamp")] if timed else []
    features = (*keys, *time, *others, Feature("v", "bigint"))
    return Definition(GroupRef(group, 1), features, tuple(f.name for f in keys), "at" if timed else None, ttl)


def _spine_rows(draw: st.DrawFn, spine: Definition) -> list[Row]:
    stored = ROW not in spine.primary_key
    times = _hours if stored else st.one_of(_hours, _hours, _hours, st.none())
    row = st.fixed_dictionaries({
        **{f.name: _nullable(str(f.dtype)) for f in spine.features if f.name.startswith("by ")}, "v": _values,
        **({} if spine.event_time is None else {"at": times}),
    })  # fmt: skip
    found = draw(st.lists(row, max_size=8))
    number = spine.primary_key[0]
    return [{**r, number: i} for i, r in enumerate(found)]


def _group_rows(draw: st.DrawFn, definition: Definition, shape: Shape) -> list[Row]:
    types = {f.name: str(f.dtype) for f in definition.features}
    keys = [st.sampled_from([DOMAINS[types[k]][0], *DOMAINS[types[k]]]) for k in definition.primary_key]
    identities = st.tuples(*keys, *([_hours] if definition.event_time else []))
    identity = (*definition.primary_key, *([definition.event_time] if definition.event_time else []))
    rest = st.fixed_dictionaries({
        f.name: _values if f.name == "v" else _nullable(str(f.dtype))
        for f in definition.features if f.name not in identity
    })  # fmt: skip
    found: list[Row] = []
    for key in draw(st.lists(identities, max_size=12, unique=True)):
        row = dict(zip(identity, key, strict=True))
        if not shape.as_known:
            found.append(row | draw(rest))
            continue
        # Committed at some time, replaced or removed at later ones, perhaps inserted again after a gap.
        marks = sorted(draw(st.lists(_hours, min_size=1, max_size=4, unique=True)))
        for since, until in zip(marks, [*marks[1:], None], strict=True):
            if draw(st.integers(0, 3)):
                found.append(row | draw(rest) | {COMMITTED: since, REMOVED: until})
    return found


def _query(
    draw: st.DrawFn, names: Iterator[str], definition: Definition, definitions: dict[GroupRef, Definition],
    rows: dict[GroupRef, list[Row]], room: list[int], shape: Shape, depth: int,
) -> Query:  # fmt: skip
    """A query of a group that is in the world already, with joins to new ones as long as there is room."""
    selected = [*(f.name for f in definition.features if f.name != ROW and draw(st.integers(0, 2)) == 0), "v"]
    query = Query(definition.ref, tuple(dict.fromkeys(selected)))
    mine = Column(definition.ref, "v")
    if shape.filtered and draw(st.integers(0, 3)) == 0:
        query = query.filter(draw(filters([mine])))
    columns = [mine]
    while room[0] > 0 and (depth == 0 or draw(st.integers(0, 2)) == 0):
        room[0] -= 1
        key = draw(st.lists(st.sampled_from(list(DOMAINS)), min_size=1, max_size=draw(st.integers(1, 2)), unique=True))
        ttl = draw(_ttls)
        timed = draw(st.integers(0, 3)) > 0
        right = _definition(draw, names, f"group{len(definitions)}", key, timed, ttl if timed else None)
        definitions[right.ref] = right
        rows[right.ref] = _group_rows(draw, right, shape)
        inner_query = _query(draw, names, right, definitions, rows, room, shape, depth + 1)
        # Whole numbers of two widths compare.
        left_on = ["by bigint" if t == "int" and draw(st.booleans()) else f"by {t}" for t in key]
        may_drop = depth == 0 or shape.choosing
        query = query.join(
            inner_query, left_on=left_on, right_on=list(right.primary_key), prefix=f"{right.ref.name}.",
            join_type="inner" if may_drop and draw(st.integers(0, 3)) == 0 else "left",
        )  # fmt: skip
        columns += [Column(ref, "v") for ref in inner_query.groups()]
    if shape.filtered and query.joins and (depth == 0 or shape.choosing) and draw(st.integers(0, 2)) == 0:
        query = query.filter(draw(filters(columns)))
    return query
