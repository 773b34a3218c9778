"""The SQL of a plan: what a query means, in the words of DuckDB (which runs it) or of Spark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from featurestore.errors import FeatureStoreError
from featurestore.point_in_time import Plan
from featurestore.query import Column, Combined, Comparison, Filter

COMMITTED_AT, REMOVED_AT = "__committed_at", "__removed_at"
"""Columns of a table whose past counts: since when, and until when (null: still) a row was part of it."""


def quote(name: str) -> str:
    """A name as an SQL identifier, whatever characters it holds."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A text as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def literal(value: Any) -> str:
    """A Python value as an SQL literal."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"'{value!r}'::DOUBLE"  # from text, because a decimal of 17 digits would be rounded twice
    if isinstance(value, datetime):
        return f"TIMESTAMPTZ '{value.isoformat(sep=' ')}'"
    if isinstance(value, date):
        return f"DATE '{value.isoformat()}'"
    if isinstance(value, Decimal):
        return f"{value:f}::DECIMAL(38, {max(-int(value.as_tuple().exponent), 0)})"
    if isinstance(value, bytes):
        return "'" + "".join(f"\\x{b:02X}" for b in value) + "'::BLOB"
    return text(str(value))


def spark_quote(name: str) -> str:
    """A name as Spark writes it."""
    return "`" + name.replace("`", "``") + "`"


def spark_literal(value: Any) -> str:
    """A Python value as a literal of Spark SQL."""
    if isinstance(value, float):
        return f"DOUBLE('{value!r}')"
    if isinstance(value, datetime):
        return f"TIMESTAMP '{value.isoformat(sep=' ')}'"
    if isinstance(value, Decimal):
        return f"{value:f}BD"
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return literal(value)


@dataclass(frozen=True)
class Dialect:
    """How one engine writes what others write otherwise."""

    quote: Callable[[str], str]
    literal: Callable[[Any], str]
    pattern: Callable[[str], str]
    micros: str
    has_asof: bool


DUCKDB = Dialect(quote, literal, literal, "epoch_us", has_asof=True)
# Spark's LIKE takes a backslash as an escape, and knows no as-of join.
SPARK = Dialect(
    spark_quote, spark_literal, lambda p: spark_literal(p.replace("\\", "\\\\")), "unix_micros", has_asof=False
)


def dialect(name: str) -> Dialect:
    """The dialect of a name.

    Raises:
        FeatureStoreError: there is no such dialect.
    """
    known = {"duckdb": DUCKDB, "spark": SPARK}
    if name not in known:
        raise FeatureStoreError(f"The SQL dialect {name!r} is unknown. Use one of {list(known)}.")
    return known[name]


def statement(
    plan: Plan, tables: Sequence[str], *, start: datetime | None = None, end: datetime | None = None,
    ordered: bool = True, dialect: Dialect = DUCKDB,
) -> str:  # fmt: skip
    """The SQL of a plan.

    Args:
        tables: the table expression of each source, in order. One whose past counts (`plan.is_as_known`) also has the
            columns `__committed_at` and `__removed_at`.
        start, end: only the spine's rows of `[start, end)` by event time.
        ordered: False leaves the rows in any order.

    A table expression `s<n>` is a source, `j<n>` the spine with everything up to that source. Columns are called
    `<n>.<name>` inside, so that no two clash.
    """
    return _Statement(plan, tables, dialect).text(start, end, ordered)


@dataclass
class _Statement:
    """The parts of one statement, in the order in which they need each other."""

    plan: Plan
    tables: Sequence[str]
    dialect: Dialect
    parts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.needed = self.plan.needed_columns()

    def text(self, start: datetime | None, end: datetime | None, ordered: bool) -> str:
        plan, quoted = self.plan, self.dialect.quote
        for place in range(len(plan.sources)):
            self.source(place, start, end)
        row = [self.name(0, c) for c in plan.order]
        last = self.joins(0, "s0", row)
        outputs = ", ".join(f"{self.name(o.source, o.column)} AS {quoted(o.name)}" for o in plan.outputs)
        where = "" if plan.result_filter is None else f"\nWHERE {self.condition(plan.result_filter, 0)}"
        tail = f"\nORDER BY {', '.join(row)}" if ordered else ""
        tail += f"\nLIMIT {plan.limit:d}" if plan.limit is not None else ""
        return "WITH " + ",\n     ".join(self.parts) + f"\nSELECT {outputs or '1'} FROM {last}{where}{tail}"

    def part(self, name: str, query: str) -> str:
        self.parts.append(f"{name} AS ({query})")
        return name

    def name(self, place: int, column: str) -> str:
        return self.dialect.quote(f"{place}.{column}")

    def names(self, place: int) -> list[str]:
        return [self.name(place, c) for c in self.needed[place]]

    def condition(self, condition: Filter, place: int) -> str:
        """A filter on a table and what is joined to it."""
        return condition_sql(condition, lambda c: self.name(self.plan.source_of(c, place), c.name), self.dialect)

    def source(self, place: int, start: datetime | None, end: datetime | None) -> None:
        """`s<n>`: the columns and rows of one table that take part."""
        source, quoted, literal_of = self.plan.sources[place], self.dialect.quote, self.dialect.literal
        time = source.definition.event_time
        conditions = []
        if source.row_filter is not None:
            conditions.append(condition_sql(source.row_filter, lambda c: quoted(c.name), self.dialect))
        if place == 0 and time is not None:
            conditions += [f"{quoted(time)} >= {literal_of(start)}"] if start is not None else []
            conditions += [f"{quoted(time)} < {literal_of(end)}"] if end is not None else []
        newest = source.match == "newest" and place > 0
        if newest and source.definition.ttl is not None and self.plan.now is not None:
            conditions.append(f"{quoted(str(time))} >= {literal_of(self.plan.now - source.definition.ttl)}")
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        table = f"{self.tables[place]}{where}"
        if newest and not self.plan.chooses(place):
            keys = ", ".join(quoted(r) for _, r in source.keys)
            number = f"row_number() OVER (PARTITION BY {keys} ORDER BY {quoted(str(time))} DESC)"
            table = f"(SELECT *, {number} AS __newest FROM {table}) AS numbered WHERE __newest = 1"
        known = [COMMITTED_AT, REMOVED_AT] if self.plan.is_as_known(place) else []
        # DuckDB 2.0's as-of join loses the sign of a zero on its right side when it is 32 bits wide. The wider value is
        # equal, and the result gets its declared type back.
        features = source.definition.features if self.dialect.has_asof and place else ()
        narrow = {f.name for f in features if f.type == pa.float32()}
        columns = ", ".join(
            f"{f'CAST({quoted(c)} AS DOUBLE)' if c in narrow else quoted(c)} AS {self.name(place, c)}"
            for c in [*self.needed[place], *known]
        )
        self.part(f"s{place}", f"SELECT {columns} FROM {table}")

    def joins(self, place: int, left: str, row: list[str]) -> str:
        """The tables joined to a table, one after the other; `row` names what tells the left's rows apart."""
        for child in self.plan.joined(place):
            left = self.choose(child, left, row) if self.plan.chooses(child) else self.match(child, left, row)
        return left

    def match(self, place: int, left: str, row: list[str]) -> str:
        """Each row of the left side with its newest row of a table, then what is joined to that."""
        source, columns = self.plan.sources[place], self.names(place)
        how = "JOIN" if source.inner else "LEFT JOIN"
        keys = [self.name(place, r) for _, r in source.keys]

        def at_keys(right: str) -> list[str]:
            return [f"{left}.{a} = {right}.{b}" for a, b in zip(self.parent_keys(place), keys, strict=True)]

        if self.plan.is_as_known(place):
            steps, right = self.known(place)
            number = self.name(place, "__n")
            on = [*at_keys(steps), f"{left}.{self.spine_time} >= {steps}.{self.name(place, '__from')}"]
            value = [*(f"{right}.{c} = {steps}.{c}" for c in keys), f"{right}.{number} = {steps}.{number}"]
            join = f"ASOF {how} {steps} ON {_all(on)} {how} {right} ON {_all(value)}"
        elif source.match == "as of":
            right = f"s{place}"
            time = self.name(place, str(source.definition.event_time))
            on = [*at_keys(right), f"{left}.{self.spine_time} >= {right}.{time}"]
            join = f"{'ASOF ' if self.dialect.has_asof else ''}{how} {right} ON {_all(on)}"
        else:
            right = f"s{place}"
            join = f"{how} {right} ON {_all(at_keys(right))}"
        fresh = self.fresh(place, left, right) if source.match == "as of" else None
        if source.match == "as of" and not self.dialect.has_asof:
            number = f"row_number() OVER (PARTITION BY {', '.join(row)} ORDER BY {right}.{time} DESC)"
            newest = self.dialect.quote(f"newest{place}")
            picked = ", ".join(f"{right}.{c}" for c in columns)
            still = f" AND {fresh}" if fresh is not None else ""
            candidates = f"SELECT {left}.*, {picked}, {number} AS {newest} FROM {left} {join}{still}"
            query = f"SELECT * FROM ({candidates}) AS candidates WHERE {newest} = 1"
        else:  # the newest row that is too old is no match, and those before it are older still
            where = f" WHERE {fresh}" if fresh is not None and source.inner else ""
            either = "CASE WHEN {} THEN {} END AS {}" if fresh is not None and not source.inner else "{1}"
            picked = ", ".join(either.format(fresh, f"{right}.{c}", c) for c in columns)
            query = f"SELECT {left}.*, {picked} FROM {left} {join}{where}"
        return self.joins(place, self.part(f"j{place}", query), row)

    def choose(self, place: int, left: str, row: list[str]) -> str:
        """Each row of the left side with the newest row of a table that what is joined to it lets pass.

        All candidates are looked at (`c<n>`), so this costs more than `match`, which is why it is for these plans only.
        """
        source, time = self.plan.sources[place], self.plan.sources[place].definition.event_time
        right = f"s{place}"
        on = [
            f"{left}.{a} = {right}.{self.name(place, b)}"
            for a, (_, b) in zip(self.parent_keys(place), source.keys, strict=True)
        ]
        if self.plan.is_as_known(place):
            removed = f"{right}.{self.name(place, REMOVED_AT)}"
            on.append(f"{left}.{self.spine_time} >= {self.since(place, right)}")
            on.append(f"({removed} IS NULL OR {left}.{self.spine_time} < {removed})")
        elif source.match == "as of":
            on.append(f"{left}.{self.spine_time} >= {right}.{self.name(place, str(time))}")
        if source.match == "as of" and (fresh := self.fresh(place, left, right)) is not None:
            on.append(fresh)
        picked = ", ".join(f"{right}.{c}" for c in self.names(place))
        candidates = self.part(f"c{place}", f"SELECT {left}.*, {picked} FROM {left} JOIN {right} ON {_all(on)}")
        age = [self.name(place, time)] if time is not None else []
        last = self.joins(place, candidates, [*row, *age])
        where = "" if source.result_filter is None else f" WHERE {self.condition(source.result_filter, place)}"
        order = f" ORDER BY {age[0]} DESC" if age else f" ORDER BY {row[0]}"
        number = f"row_number() OVER (PARTITION BY {', '.join(row)}{order}) AS __newest"
        passing = f"SELECT *, {number} FROM {last}{where}"
        chosen = self.part(f"p{place}", f"SELECT * FROM ({passing}) AS passing WHERE __newest = 1")
        branch = [c for p in self.plan.branch(place) for c in self.names(p)]
        picked = ", ".join(f"{chosen}.{c}" for c in branch)
        same = _all([f"{left}.{c} = {chosen}.{c}" for c in row])
        how = "JOIN" if source.inner else "LEFT JOIN"
        return self.part(f"j{place}", f"SELECT {left}.*, {picked} FROM {left} {how} {chosen} ON {same}")

    @property
    def spine_time(self) -> str:
        return self.name(0, str(self.plan.spine.event_time))

    def parent_keys(self, place: int) -> list[str]:
        source = self.plan.sources[place]
        return [self.name(source.parent, a) for a, _ in source.keys]

    def fresh(self, place: int, left: str, right: str) -> str | None:
        """The condition that a row is not older than its group's ttl at the spine's time."""
        definition, micros = self.plan.sources[place].definition, self.dialect.micros
        if definition.ttl is None:
            return None
        time = self.name(place, str(definition.event_time))
        age = definition.ttl // timedelta(microseconds=1)
        return f"{micros}({left}.{self.spine_time}) - {micros}({right}.{time}) <= {age}"

    # A table as it was known. Its rows are values of an identity (key and event time) that counted from their commit
    # until they were replaced or deleted; at a time t the newest by event time counts of those that count at t.

    def since(self, place: int, table: str) -> str:
        """From when on a row can be used: it must have happened and been committed."""
        committed, time = self.name(place, COMMITTED_AT), self.plan.sources[place].definition.event_time
        return (
            f"{table}.{committed}"
            if time is None
            else f"greatest({table}.{self.name(place, time)}, {table}.{committed})"
        )

    def known(self, place: int) -> tuple[str, str]:
        """For each key the number of the row that counts from `__from` on, as steps in time; and the numbered rows.

        A step's row is the largest so far by (event time, commit). That holds until a row ends without a newer value
        of its identity: there (`e<n>`) the steps start anew from the largest of the rows that still count.
        """
        source, time = self.plan.sources[place], self.plan.sources[place].definition.event_time
        committed, removed = self.name(place, COMMITTED_AT), self.name(place, REMOVED_AT)
        since, number, cut, part = (self.name(place, c) for c in ("__from", "__n", "__cut", "__part"))
        keys = [self.name(place, r) for _, r in source.keys]
        identity = [*keys, *([self.name(place, time)] if time is not None else [])]
        listed, columns = ", ".join(keys), [*self.names(place), committed]
        s, g, h, v, d, e, u, w, x = (f"{letter}{place}" for letter in "sghvdeuwx")

        def same(names: Sequence[str], one: str, other: str) -> str:
            return _all([f"{one}.{c} = {other}.{c}" for c in names])

        def counts(table: str, moment: str) -> str:
            return f"({table}.{removed} IS NULL OR {table}.{removed} > {moment})"

        # Each value once, with the time it went: whoever changes one row of a file copies all others into another.
        version = [*identity, committed]
        copied = ", ".join(c if c in version else f"any_value({c}) AS {c}" for c in columns)
        lives_on = f"SELECT 1 FROM {s} AS live WHERE live.{removed} IS NULL AND {same(version, 'live', s)}"
        self.part(g, f"SELECT {copied}, max({removed}) AS {removed} FROM {s} WHERE {removed} IS NOT NULL "
                     f"AND NOT EXISTS ({lives_on}) GROUP BY {', '.join(version)}")  # fmt: skip
        every = ", ".join([*columns, removed])
        self.part(h, f"SELECT {every} FROM {s} WHERE {removed} IS NULL UNION ALL SELECT {every} FROM {g}")
        order = ", ".join([*identity[len(keys) :], committed])
        self.part(v, f"SELECT *, {self.since(place, h)} AS {since}, "
                     f"row_number() OVER (PARTITION BY {listed} ORDER BY {order}) AS {number} "
                     f"FROM {h} WHERE {counts(h, self.since(place, h))}")  # fmt: skip
        replaced = f"SELECT 1 FROM {h} WHERE {same(identity, h, v)} AND {h}.{committed} = {v}.{removed}"
        self.part(d, f"SELECT DISTINCT {listed}, {removed} AS {cut} FROM {v} "
                     f"WHERE {removed} IS NOT NULL AND NOT EXISTS ({replaced})")  # fmt: skip
        left = f"{same(keys, v, d)} AND {v}.{since} <= {d}.{cut} AND {counts(v, f'{d}.{cut}')}"
        grouped = ", ".join(f"{d}.{c}" for c in [*keys, cut])
        self.part(e, f"SELECT {grouped}, max({v}.{number}) AS {number} FROM {d} LEFT JOIN {v} ON {left} "
                     f"GROUP BY {grouped}")  # fmt: skip
        self.part(u, f"SELECT {listed}, {since}, {number}, 0 AS {part} FROM {v} "
                     f"UNION ALL SELECT {listed}, {cut}, {number}, 1 FROM {e}")  # fmt: skip
        window = f"ORDER BY {since} RANGE UNBOUNDED PRECEDING"
        self.part(w, f"SELECT {listed}, {since}, {number}, "
                     f"sum({part}) OVER (PARTITION BY {listed} {window}) AS {part} FROM {u}")  # fmt: skip
        self.part(x, f"SELECT {listed}, {since}, "
                     f"max({number}) OVER (PARTITION BY {listed}, {part} {window}) AS {number} FROM {w}")  # fmt: skip
        return x, v


def _all(conditions: Sequence[str]) -> str:
    return " AND ".join(conditions)


_OPERATORS = {"==": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


def condition_sql(condition: Filter, name: Callable[[Column], str], dialect: Dialect = DUCKDB) -> str:
    """A filter as an SQL condition; `name` says how each of its columns is called there."""
    if isinstance(condition, Combined):
        parts = [condition_sql(p, name, dialect) for p in condition.parts]
        return f"(NOT {parts[0]})" if condition.how == "not" else f"({f' {condition.how.upper()} '.join(parts)})"
    if not isinstance(condition, Comparison):
        raise FeatureStoreError(f"{condition!r} is not a filter this engine knows.")
    column, value = name(condition.column), condition.value
    if condition.operator == "is_null":
        return f"({column} IS NULL)"
    if condition.operator == "in":
        return f"({column} IN ({', '.join(dialect.literal(v) for v in value)}))" if value else "FALSE"
    if condition.operator == "between":
        return f"({column} BETWEEN {dialect.literal(value[0])} AND {dialect.literal(value[1])})"
    if condition.operator == "like":
        return f"({column} LIKE {dialect.pattern(value)})"
    return f"({column} {_OPERATORS[condition.operator]} {dialect.literal(value)})"
