"""The online store's tables as the database has them, and the one statement that reads several of them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

from featurestore.errors import InvalidData, SchemaMismatch
from featurestore.online_table import Key, OnlineTable, Row
from featurestore.online_values import decoder, key_encoder

if TYPE_CHECKING:
    from featurestore.online import OnlineStore

LARGEST_BLOCK = 256  # keys looked up by one statement; larger blocks are no faster per key
_MANY = 2  # stands for any number of entries where they come as arrays
MOST_PARAMETERS = 32_000  # SQLite allows 32,766 in one statement, PostgreSQL 65,535


class Reader:
    """Looks rows up in several online tables at once; made by `OnlineStore.reader`.

    A row is `(event time in microseconds or None, *values)`; timestamps among the values are UTC datetimes, decimals,
    dates, lists and dicts are Python's. An unknown key, and a key with a null, gives None instead of a row.

    Whoever serves single vectors compiles its own way through `encoders`, `row`, `rows` and `parts`: a wide row is
    `(position of the entry, *columns of the first table, *columns of the second, ...)`, as the database gives it.
    """

    def __init__(self, store: OnlineStore, parts: Sequence[tuple[OnlineTable, Sequence[str]]]) -> None:
        self._store = store
        self._tables = list(parts)
        self.encoders = [
            [key_encoder(table, table.positions()[name][1], store.is_sqlite) for name in table.primary_key]
            for table, _ in parts
        ]
        """For each table and each column of its key, from a Python value to what a statement takes."""
        self.parts: list[Part] = []
        """For each table where its columns are in a wide row."""
        start = 1
        for table, columns in parts:
            positions = table.positions()
            if unknown := [name for name in columns if name not in positions]:
                raise SchemaMismatch(
                    f"Online table {table.shown!r} has no columns {unknown}. Columns: {list(positions)}."
                )
            decoders = [decoder(positions[name][1].type, store.is_sqlite) for name in columns]
            self.parts.append(Part(start, start + 1 + len(columns), table.event_time is not None, tuple(decoders)))
            start += 1 + len(columns)
        self._width = sum(len(encoders) for encoders in self.encoders)
        self._most = min(LARGEST_BLOCK, 1 << (MOST_PARAMETERS // self._width).bit_length() - 1)
        self._statements: dict[int, str] = {}
        self._one = self._statement(1)

    def _statement(self, size: int) -> str:
        """The statement for `size` entries: their keys as a VALUES list, each table joined to it.

        On PostgreSQL many entries come as one array per key column, whatever their number: planning a list of hundreds
        of parameters takes it several times as long as looking them up.
        """
        if size in self._statements:
            return self._statements[size]
        tables = [physical_table(table).alias(f"g{g}") for g, (table, _) in enumerate(self._tables)]
        keys = [(f"g{g}_{key.name}", key.type) for g, table in enumerate(tables) for key in table.primary_key]
        wanted: Any
        if size == 1 or self._store.is_sqlite:
            rows = [
                (sa.literal_column(str(row)), *(sa.bindparam(f"{name}_{row}", type_=dtype) for name, dtype in keys))
                for row in range(size)
            ]
            columns = [sa.column("i", sa.Integer), *(sa.column(name, dtype) for name, dtype in keys)]
            wanted = sa.values(*columns).data(rows).cte("wanted")
        else:
            arrays = [sa.bindparam(name, type_=postgresql.ARRAY(dtype)) for name, dtype in keys]
            unpacked = [sa.column(name, dtype) for name, dtype in keys]
            wanted = (
                sa.func.unnest(*arrays).table_valued(*unpacked, with_ordinality="i", name="wanted").render_derived()
            )
        source: sa.FromClause = wanted
        selected: list[sa.ColumnElement[Any]] = [wanted.c.i]
        for g, (table, (definition, names)) in enumerate(zip(tables, self._tables, strict=True)):
            matches = [key == wanted.c[f"g{g}_{key.name}"] for key in table.primary_key]
            source = source.outerjoin(table, sa.and_(*matches))
            positions = definition.positions()
            physical = ["t", *(positions[name][0] for name in names)]
            selected += [table.c[name].label(f"c{len(selected) + i}") for i, name in enumerate(physical)]
        sql = self._store._sql(sa.select(*selected).select_from(source))
        self._statements[size] = sql
        return sql

    def row(self, parameters: Sequence[Any]) -> Row:
        """The wide row of one entry; `parameters` are its encoded keys, table by table."""
        store = self._store
        try:
            (row,) = store._local.cursor.execute(self._one, parameters).fetchall()
        except (AttributeError, store.driver_error):  # this thread's first read, or a connection that was lost
            (row,) = store.fetch(self._one, parameters)
        return row

    def rows(self, parameters: list[Any]) -> list[Row]:
        """The wide rows of many entries, in their order; `parameters` are all their encoded keys, end to end."""
        width, found = self._width, []
        step = self._most * width
        for start in range(0, len(parameters), step):
            block = parameters[start : start + step] if len(parameters) > step else parameters
            count = len(block) // width
            if count == 1 or self._store.is_sqlite:
                size = _rounded_up(count)
                sql, block = self._statement(size), block + [None] * (width * (size - count))
            else:
                sql, block = self._statement(_MANY), [block[place::width] for place in range(width)]
            rows = self._store.fetch(sql, block)
            rows.sort(key=_first)
            found += rows[:count]
        return found

    def one(self, keys: Sequence[Key]) -> list[Row | None]:
        """The row of each table for its key; keys in the order of the reader's tables."""
        row = self.row(self._parameters(keys))
        return [part.of(row) for part in self.parts]

    def many(self, entries: Sequence[Sequence[Key]]) -> list[list[Row | None]]:
        """`one` for each entry, in the order given, with one statement per 256 entries."""
        rows = self.rows([value for keys in entries for value in self._parameters(keys)])
        return [[part.of(row) for part in self.parts] for row in rows]

    def _parameters(self, keys: Sequence[Key]) -> list[Any]:
        parameters = []
        try:
            for encode_key, key in zip(self.encoders, keys, strict=True):
                for encode, value in zip(encode_key, key, strict=True):
                    parameters.append(encode(value))
        except InvalidData:
            raise
        except ValueError as error:  # zip: another number of keys, or of values in a key
            expected = [table.primary_key for table, _ in self._tables]
            raise InvalidData(f"The keys {keys!r} do not fit. Expected one value for each of {expected}.") from error
        return parameters


def _rounded_up(count: int) -> int:
    """The next of few sizes (1 to 8, then four from each power of two to the next): few statements, little padding.

    >>> [_rounded_up(n) for n in (1, 8, 9, 100, 113, 256)]
    [1, 8, 10, 112, 128, 256]
    """
    step = 1 << max((count - 1).bit_length() - 3, 0)
    return -(-count // step) * step


@dataclass(frozen=True)
class Part:
    """Where one table's columns are in a wide row: `[start, end)`, its event time first (null: there is no row).

    `decoders` turn the values behind it into Python's; None where they are that already.
    """

    start: int
    end: int
    has_event_time: bool
    decoders: tuple[Callable[[Any], Any] | None, ...]

    def of(self, row: Row) -> Row | None:
        """This table's row out of the wide one, as Python values."""
        if row[self.start] is None:
            return None
        values = [
            value if decode is None or value is None else decode(value)
            for value, decode in zip(row[self.start + 1 : self.end], self.decoders, strict=True)
        ]
        return (row[self.start] if self.has_event_time else None, *values)


class _Bytes(sa.LargeBinary):
    render_bind_cast = True  # a block of keys that are all null would be taken for text


class _Real(sa.Double[float]):
    render_bind_cast = True


# A SQLite column declared BLOB has no affinity: it keeps every value as it came.
_INTEGER = sa.BigInteger().with_variant(sa.BLOB(), "sqlite")
_REAL = _Real().with_variant(sa.BLOB(), "sqlite")
_BYTES = _Bytes().with_variant(sa.BLOB(), "sqlite")


def physical_table(table: OnlineTable) -> sa.Table:
    """The table that the database has: k0 and on for the keys, t for the event time, f0 and on for the values."""
    dtypes = {feature.name: feature.type for feature in table.features}
    return sa.Table(
        table.name,
        sa.MetaData(),
        *(
            sa.Column(f"k{i}", _column_type(dtypes[name]), primary_key=True, autoincrement=False)
            for i, name in enumerate(table.primary_key)
        ),
        sa.Column("t", _INTEGER, nullable=False),
        *(sa.Column(f"f{i}", _column_type(feature.type)) for i, feature in enumerate(table.values)),
        sqlite_with_rowid=False,
    )


def _column_type(dtype: pa.DataType) -> TypeEngine[Any]:
    if pa.types.is_floating(dtype):
        return _REAL
    if pa.types.is_integer(dtype) or pa.types.is_boolean(dtype) or pa.types.is_temporal(dtype):
        return _INTEGER
    return _BYTES


def _first(row: Row) -> Any:
    return row[0]
