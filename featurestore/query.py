"""What to read, as frozen data: selected features, joins and filters. Nothing here reads anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from featurestore.errors import InvalidTime, JoinError, SchemaMismatch
from featurestore.times import TimeLike, is_version, parse_time

if TYPE_CHECKING:
    from featurestore.schema import DataFrameType

JoinType = Literal["left", "inner"]
SqlDialect = Literal["duckdb", "spark"]
Operator = Literal["==", "!=", "<", "<=", ">", ">=", "in", "like", "between", "is_null"]


class GroupRef(NamedTuple):
    """A feature group by name and version."""

    name: str
    version: int

    def __str__(self) -> str:
        # A frame that is not stored takes part in a plan as a group without versions.
        return f"{self.name}_v{self.version}" if self.version else self.name


class Reader(Protocol):
    """Who runs a query: the feature store it was made by."""

    def read_query(
        self, query: Query, *, dataframe_type: DataFrameType, start_time: TimeLike | None, end_time: TimeLike | None,
        as_known: bool, ordered: bool,
    ) -> Any:  # fmt: skip
        """The query's rows."""

    def version_at(self, ref: GroupRef, moment: int | TimeLike) -> int:
        """The Delta version of a group that was current at a time; a whole number is the version itself."""

    def query_sql(self, query: Query, dialect: SqlDialect) -> str:
        """The query as SQL."""

    def explain_query(self, query: Query) -> str:
        """The plan in words."""


class Filter:
    """A condition on rows; combine with `&`, `|` and `~`."""

    def __and__(self, other: Filter) -> Filter:
        return Combined("and", (self, other)) if isinstance(other, Filter) else NotImplemented

    def __or__(self, other: Filter) -> Filter:
        return Combined("or", (self, other)) if isinstance(other, Filter) else NotImplemented

    def __invert__(self) -> Filter:
        return Combined("not", (self,))

    def __bool__(self) -> bool:
        raise SchemaMismatch("A filter has no truth value. Combine filters with &, | and ~, each side in parentheses.")

    def columns(self) -> Iterable[Column]:
        """The columns the filter reads."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """The filter as JSON-ready data; `filter_from_json` reads it back."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Comparison(Filter):
    """One column against a value."""

    column: Column
    operator: Operator
    value: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", _plain(self.value, self.column))

    def __eq__(self, other: object) -> bool:
        # Written out, because the == of two columns is a filter, which has no truth value.
        return isinstance(other, Comparison) and self._parts == other._parts

    def __hash__(self) -> int:
        return hash(self._parts)

    def __str__(self) -> str:
        if self.operator == "is_null":
            return f"{self.column.name} is null"
        return f"{self.column.name} {self.operator} {self.value!r}"

    @property
    def _parts(self) -> tuple[Any, ...]:
        return (self.column.group, self.column.name, self.operator, type(self.value), self.value)

    def columns(self) -> Iterable[Column]:
        """The one column compared."""
        return (self.column,)

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON-ready data."""
        return {"column": self.column.to_json(), "operator": self.operator, "value": _value_to_json(self.value)}


@dataclass(frozen=True)
class Combined(Filter):
    """Filters joined by and, or, not."""

    how: Literal["and", "or", "not"]
    parts: tuple[Filter, ...]

    def __str__(self) -> str:
        return f"not ({self.parts[0]})" if self.how == "not" else f"({f' {self.how} '.join(map(str, self.parts))})"

    def columns(self) -> Iterable[Column]:
        """The columns of all parts."""
        return [c for part in self.parts for c in part.columns()]

    def to_json(self) -> dict[str, Any]:
        """The combination as JSON-ready data."""
        return {"how": self.how, "parts": [p.to_json() for p in self.parts]}


@dataclass(frozen=True, eq=False)
class Column:
    """A feature of a group, to compare with: `fg["amount"] > 10`. Comparisons give filters."""

    group: GroupRef
    name: str

    def __eq__(self, other: object) -> Comparison:  # type: ignore[override]  # a comparison is what users write it for
        return Comparison(self, "==", other)

    def __ne__(self, other: object) -> Comparison:  # type: ignore[override]  # as for ==
        return Comparison(self, "!=", other)

    def __lt__(self, other: Any) -> Comparison:
        return Comparison(self, "<", other)

    def __le__(self, other: Any) -> Comparison:
        return Comparison(self, "<=", other)

    def __gt__(self, other: Any) -> Comparison:
        return Comparison(self, ">", other)

    def __ge__(self, other: Any) -> Comparison:
        return Comparison(self, ">=", other)

    def __hash__(self) -> int:
        return hash((self.group, self.name))

    def __and__(self, other: object) -> Filter:
        raise self._not_compared("&")

    def __or__(self, other: object) -> Filter:
        raise self._not_compared("|")

    def __rand__(self, other: object) -> Filter:
        raise self._not_compared("&")

    def __ror__(self, other: object) -> Filter:
        raise self._not_compared("|")

    def _not_compared(self, operator: str) -> SchemaMismatch:
        return SchemaMismatch(
            f"{operator} combines conditions, and {self.name!r} beside it is a column: in Python {operator} binds "
            f"closer than ==. Put each comparison in parentheses: (fg.a == 1) {operator} (fg.b > 0)."
        )

    def isin(self, values: Iterable[Any]) -> Comparison:
        """Equal to one of the values."""
        if isinstance(values, str | bytes):
            raise SchemaMismatch(f"isin({values!r}): expected a list of values, such as [{values!r}].")
        return Comparison(self, "in", tuple(values))

    def like(self, pattern: str) -> Comparison:
        """Matches an SQL pattern (`%` any text, `_` one character)."""
        return Comparison(self, "like", pattern)

    def between(self, low: Any, high: Any) -> Comparison:
        """`low <= value <= high`."""
        return Comparison(self, "between", (low, high))

    def is_null(self) -> Comparison:
        """Has no value."""
        return Comparison(self, "is_null")

    def to_json(self) -> list[Any]:
        """Group name, group version, column name."""
        return [self.group.name, self.group.version, self.name]


@dataclass(frozen=True)
class Join:
    """A query joined to the one on its left."""

    query: Query
    on: tuple[str, ...] | None = None
    left_on: tuple[str, ...] | None = None
    right_on: tuple[str, ...] | None = None
    join_type: JoinType = "left"
    prefix: str | None = None


@dataclass(frozen=True)
class Query:
    """Selected features of a group, and the queries joined to it. Every method gives a new query."""

    group: GroupRef
    features: tuple[str, ...]
    joins: tuple[Join, ...] = ()
    row_filter: Filter | None = None
    result_filter: Filter | None = None
    version: int | None = None
    row_limit: int | None = None
    reader: Reader | None = field(default=None, repr=False, compare=False)

    def join(
        self, other: Query, on: Sequence[str] | None = None, left_on: Sequence[str] | None = None,
        right_on: Sequence[str] | None = None, join_type: JoinType = "left", prefix: str | None = None,
    ) -> Query:  # fmt: skip
        """Join another query: to each row its newest row of equal keys that is not later.

        Args:
            on: key columns of equal name on both sides; default: the right group's primary key.
            left_on, right_on: key columns of different names, in pairs.
            join_type: "left" keeps every row of the left side, "inner" drops those without a match.
            prefix: put before the name of every column the join contributes.
        Raises:
            JoinError: another join type, keys given in two ways, or `other` is no query.
        """
        if not isinstance(other, Query):
            raise JoinError(f"{other!r} is not a query. Join what select([...]) or select_all() of a group gives.")
        if join_type not in ("left", "inner"):
            raise JoinError(f"join_type {join_type!r} is not possible here. Use 'left' or 'inner'.")
        if (on is not None and (left_on or right_on)) or bool(left_on) != bool(right_on):
            raise JoinError("Give either on=[...], or left_on=[...] and right_on=[...] together.")
        if left_on and right_on and len(left_on) != len(right_on):
            raise JoinError(f"left_on {list(left_on)} and right_on {list(right_on)} differ in length.")
        if other.row_limit is not None:
            raise JoinError(
                "A query with a limit cannot be joined: which rows it keeps says nothing. Limit the whole query."
            )
        joined = Join(other, _names(on), _names(left_on), _names(right_on), join_type, prefix)
        return replace(self, joins=(*self.joins, joined))

    def filter(self, condition: Filter) -> Query:
        """Keep the rows that meet a condition: before joins, of the group's own rows; after joins, of the result."""
        if self.row_limit is not None:
            raise JoinError("A filter after a limit would keep fewer rows than asked for. Filter first, then limit.")
        if not isinstance(condition, Filter):
            raise SchemaMismatch(f"{condition!r} is not a filter. Write fg['amount'] > 10, combined with &, | and ~.")
        if self.joins:
            return replace(self, result_filter=both(self.result_filter, condition))
        return replace(self, row_filter=both(self.row_filter, condition))

    def limit(self, n: int) -> Query:
        """Only the first rows."""
        if not isinstance(n, int) or isinstance(n, bool) or n < 0:
            raise SchemaMismatch(f"limit({n!r}): expected a whole number of rows, from 0.")
        return replace(self, row_limit=n if self.row_limit is None else min(n, self.row_limit))

    def as_of(self, moment: int | TimeLike) -> Query:
        """The query over its groups as they were stored at a time (or, of a single group, at a Delta version).

        Raises:
            InvalidTime: a version for several groups, which do not share their versions; or nothing was stored then.
            NotFound: there is no such version.
        """
        if self.joins and is_version(moment):
            raise InvalidTime(
                f"{moment!r} is a Delta version, and the query has the groups {[str(g) for g in self.groups()]}, each "
                "with versions of its own. Give a time, or join fg.select([...]).as_of(version) of each group."
            )
        joins = tuple(replace(j, query=replace(j.query, reader=self.reader).as_of(moment)) for j in self.joins)
        return replace(self, version=self._reader().version_at(self.group, moment), joins=joins)

    def read(
        self, dataframe_type: DataFrameType = "pandas", start_time: TimeLike | None = None,
        end_time: TimeLike | None = None, as_known: bool = False, ordered: bool = True,
    ) -> Any:  # fmt: skip
        """The rows as a frame, ordered by the left-most group's event time and key.

        Args:
            start_time, end_time: only the left-most group's rows of `[start_time, end_time)` by event time.
            as_known: of each joined group use, for each row, only what had been committed by that row's time.
            ordered: False gives the rows in any order, which is faster.
        """
        return self._reader().read_query(
            self, dataframe_type=dataframe_type, start_time=start_time, end_time=end_time, as_known=as_known,
            ordered=ordered,
        )  # fmt: skip

    def show(self, n: int = 5) -> Any:
        """The first rows, to look at."""
        return self.limit(n).read()

    def to_string(self, dialect: SqlDialect = "duckdb") -> str:
        """The SQL that runs, with the groups' names in place of their files; or "spark": the same for Spark."""
        return self._reader().query_sql(self, dialect)

    def explain(self) -> str:
        """How each group is joined and filtered, and what would be read, in words."""
        return self._reader().explain_query(self)

    def groups(self) -> list[GroupRef]:
        """All groups of the query, left-most first."""
        return [self.group, *(g for j in self.joins for g in j.query.groups())]

    def versions(self) -> list[tuple[GroupRef, int | None]]:
        """All groups of the query with the Delta version it asks for, left-most first; None for the present one."""
        return [(self.group, self.version), *(g for j in self.joins for g in j.query.versions())]

    def _reader(self) -> Reader:
        if self.reader is None:
            raise JoinError("This query belongs to no feature store. Make queries with fg.select([...]).")
        return self.reader

    def to_json(self) -> dict[str, Any]:
        """The query as JSON-ready data; `query_from_json` reads it back."""
        return {
            "group": list(self.group), "features": list(self.features), "version": self.version,
            "limit": self.row_limit,
            "row_filter": None if self.row_filter is None else self.row_filter.to_json(),
            "result_filter": None if self.result_filter is None else self.result_filter.to_json(),
            "joins": [
                {
                    "query": j.query.to_json(), "on": j.on, "left_on": j.left_on, "right_on": j.right_on,
                    "join_type": j.join_type, "prefix": j.prefix,
                }
                for j in self.joins
            ],
        }  # fmt: skip


def _plain(value: Any, column: Column) -> Any:
    """A value as Python's own type, so that a filter is data that JSON can hold."""
    if isinstance(value, tuple):
        return tuple(_plain(v, column) for v in value)
    if isinstance(value, Column):
        raise SchemaMismatch(
            f"The filter compares {column.name!r} of {column.group} with another column, {value.name!r}. "
            "A filter compares with a value; compute the comparison as a feature of its own."
        )
    if hasattr(value, "dtype"):
        if getattr(value, "ndim", 0):
            raise SchemaMismatch(
                f"The filter on {column.name!r} of {column.group} has a {type(value).__name__} of many values. "
                "Use isin([...]) to compare with several."
            )
        value = value.astype("datetime64[us]").item() if value.dtype.kind == "M" else value.item()
    return value


def both(first: Filter | None, second: Filter | None) -> Filter | None:
    """The filter that asks for both; None asks for nothing."""
    return second if first is None else first if second is None else first & second


def selected(features: str | Column | Sequence[str | Column]) -> tuple[str, ...]:
    """The names of columns given as text or as columns, one or several.

    >>> selected("amount"), selected(["amount", Column(GroupRef("orders", 1), "day")])
    (('amount',), ('amount', 'day'))
    """
    several = [features] if isinstance(features, str | Column) else features
    return tuple(f.name if isinstance(f, Column) else f for f in several)


def _names(names: Sequence[str] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    return (names,) if isinstance(names, str) else tuple(names)


def query_from_json(data: dict[str, Any], reader: Reader | None = None) -> Query:
    """The query that `to_json` described."""
    joins = tuple(
        Join(
            query_from_json(j["query"], reader), _names(j["on"]), _names(j["left_on"]), _names(j["right_on"]),
            j["join_type"], j["prefix"],
        )
        for j in data["joins"]
    )  # fmt: skip
    return Query(
        GroupRef(*data["group"]), tuple(data["features"]), joins, filter_from_json(data["row_filter"]),
        filter_from_json(data["result_filter"]), data["version"], data["limit"], reader,
    )  # fmt: skip


def filter_from_json(data: dict[str, Any] | None) -> Filter | None:
    """The filter that `to_json` described."""
    if data is None:
        return None
    if "how" in data:
        return Combined(data["how"], tuple(f for p in data["parts"] if (f := filter_from_json(p)) is not None))
    name, version, column = data["column"]
    return Comparison(Column(GroupRef(name, version), column), data["operator"], _value_from_json(data["value"]))


def _value_to_json(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return {"list": [_value_to_json(v) for v in value]}
    if isinstance(value, datetime):
        return {"time": parse_time(value).isoformat()}
    if isinstance(value, date):
        return {"date": value.isoformat()}
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    return value


def _value_from_json(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "list" in value:
        return tuple(_value_from_json(v) for v in value["list"])
    if "time" in value:
        return parse_time(value["time"])
    if "date" in value:
        return date.fromisoformat(value["date"])
    if "bytes" in value:
        return bytes.fromhex(value["bytes"])
    return Decimal(value["decimal"])
