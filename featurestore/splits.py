"""Which rows of a training set go to train, validation and test: by a hash of their keys, or by time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import FeatureStoreError, InvalidData, InvalidTime, SchemaMismatch
from featurestore.schema import TIMESTAMP, parse_dtype
from featurestore.times import TimeLike, from_micros, parse_time, to_micros

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_MICROS_PER_DAY = 86_400_000_000
_MASK = 2**64 - 1


@dataclass(frozen=True)
class RandomSplit:
    """Each row's side is drawn from a hash of its keys and the seed.

    A row never changes sides when rows are added, removed or reordered, and lands on the same side in every home.
    The price: sizes are approximate. A larger `test_size` only adds rows to the test split.

    Args:
        test_size: share of the rows in the test split, between 0 and 1.
        validation_size: share in the validation split; None for a split into train and test only.
        seed: another whole number is another draw.
        entity: columns whose equal values stay on one side (such as "cc_num"); empty for row by row. Shares are then
            shares of entities.
    Raises:
        InvalidData: a share is not between 0 and 1, the shares leave nothing to train on, or the seed is no number.

    >>> RandomSplit(0.2, validation_size=0.1).names
    ('train', 'validation', 'test')
    >>> RandomSplit(20)
    Traceback (most recent call last):
        ...
    featurestore.errors.InvalidData: test_size is 20: expected a share between 0 and 1, such as 0.2.
    """

    test_size: float
    validation_size: float | None = None
    seed: int = 42
    entity: str | Sequence[str] | None = ()

    def __post_init__(self) -> None:
        _check_share("test_size", self.test_size)
        if self.validation_size is not None:
            _check_share("validation_size", self.validation_size)
        if self.test_size + (self.validation_size or 0) >= 1:
            raise InvalidData(
                f"test_size {self.test_size} and validation_size {self.validation_size} sum to 1 or more and leave "
                "nothing to train on. Lower them, for example to 0.2 and 0.1."
            )
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise InvalidData(f"seed is {self.seed!r}: expected a whole number, such as 42.")
        object.__setattr__(self, "entity", _entity_columns(self.entity))

    @property
    def names(self) -> tuple[str, ...]:
        """The splits there are, in the order of time."""
        return (TRAIN, TEST) if self.validation_size is None else (TRAIN, VALIDATION, TEST)

    def to_json(self) -> dict[str, Any]:
        """The split as JSON-ready data; `split_from_json` reads it back."""
        return {
            "kind": "random", "test_size": self.test_size, "validation_size": self.validation_size,
            "seed": self.seed, "entity": list(self.entity or ()),
        }  # fmt: skip


@dataclass(frozen=True)
class TimeSplit:
    """Each row's side is the half-open window `[start, end)` its event time lies in; rows in no window are left out.

    A missing boundary is where the neighbour begins or ends: without `train_end` training ends where the next split
    starts, without `test_start` the test begins where the split before it ends. The first start and the last end may
    be open. After construction every inner boundary is filled in.

    Args:
        train_start, train_end, validation_start, validation_end, test_start, test_end: times of any form that
            `times.parse_time` takes.
        validation: whether there is a validation split; any validation time says so too.
        embargo: training rows in `[boundary - embargo, boundary)` are left out, where the boundary is the start of the
            split that follows training. Take the label delay: then every training label was known at the boundary.
        entity: columns whose equal values stay on one side (such as "cc_num"). An entity belongs to the latest split
            in which it has rows, and its rows in earlier splits are left out: the test stays what it would be without
            `entity`, and training gives way. A null counts as a key like any other.
    Raises:
        InvalidTime: a window ends before it starts, windows overlap, a boundary is missing on both sides, or the
            embargo is negative or leaves no time to train on.

    >>> split = TimeSplit(train_end="2026-03-01", validation_end="2026-04-01")
    >>> split.names, split.test_start == split.validation_end
    (('train', 'validation', 'test'), True)
    >>> TimeSplit(train_end="2026-03-01", test_start="2026-02-01")
    Traceback (most recent call last):
        ...
    featurestore.errors.InvalidTime: The train split ends at 2026-03-01 00:00:00+00:00, after the test split starts ...
    """

    train_start: TimeLike | None = None
    train_end: TimeLike | None = None
    validation_start: TimeLike | None = None
    validation_end: TimeLike | None = None
    test_start: TimeLike | None = None
    test_end: TimeLike | None = None
    embargo: timedelta | None = None
    entity: str | Sequence[str] | None = ()
    validation: bool = False

    def __post_init__(self) -> None:
        has_validation = self.validation or self.validation_start is not None or self.validation_end is not None
        object.__setattr__(self, "validation", has_validation)
        object.__setattr__(self, "entity", _entity_columns(self.entity))
        for name in ("train_start", "train_end", "validation_start", "validation_end", "test_start", "test_end"):
            given = getattr(self, name)
            object.__setattr__(self, name, None if given is None else parse_time(given))
        for before, after in zip(self.names, self.names[1:], strict=False):
            self._meet(before, after)
        for name in self.names:
            start, end = getattr(self, f"{name}_start"), getattr(self, f"{name}_end")
            if start is not None and end is not None and end <= start:
                raise InvalidTime(
                    f"The {name} split is empty: it starts at {start} and ends at {end}, and its end does not count. "
                    f"Give a later {name}_end or an earlier {name}_start."
                )
        self._check_embargo()

    def _meet(self, before: str, after: str) -> None:
        end, start = getattr(self, f"{before}_end"), getattr(self, f"{after}_start")
        if end is None and start is None:
            raise InvalidTime(
                f"Nothing says where the {before} split ends and the {after} split starts. "
                f"Give {before}_end or {after}_start."
            )
        if end is None:
            object.__setattr__(self, f"{before}_end", start)
        elif start is None:
            object.__setattr__(self, f"{after}_start", end)
        elif end > start:
            raise InvalidTime(
                f"The {before} split ends at {end}, after the {after} split starts at {start}: they overlap. "
                f"Move {before}_end back to {start} or {after}_start up to {end}."
            )

    def _check_embargo(self) -> None:
        if self.embargo is None:
            return
        if not isinstance(self.embargo, timedelta) or self.embargo < timedelta(0):
            raise InvalidTime(
                f"embargo is {self.embargo!r}: expected a timedelta of at least zero, such as timedelta(days=7)."
            )
        try:
            start, end = self.window(TRAIN)
        except OverflowError as error:
            raise InvalidTime(f"The embargo of {self.embargo} reaches before all times. Shorten it.") from error
        if start is not None and end is not None and end <= start:
            raise InvalidTime(
                f"The embargo of {self.embargo} takes the whole train split, which starts at {start}. "
                "Start training earlier or shorten the embargo."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The splits there are, in the order of time."""
        return (TRAIN, VALIDATION, TEST) if self.validation else (TRAIN, TEST)

    def window(self, name: str) -> tuple[datetime | None, datetime | None]:
        """Start and end of a split after the embargo; None where it is open."""
        start, end = getattr(self, f"{name}_start"), getattr(self, f"{name}_end")
        if name == TRAIN and self.embargo:
            boundary = getattr(self, f"{self.names[1]}_start")
            end = min(end, boundary - self.embargo)
        return start, end

    def to_json(self) -> dict[str, Any]:
        """The split as JSON-ready data; `split_from_json` reads it back."""
        times = {
            f"{name}_{side}": None if (value := getattr(self, f"{name}_{side}")) is None else value.isoformat()
            for name in self.names
            for side in ("start", "end")
        }
        embargo = None if self.embargo is None else self.embargo // timedelta(microseconds=1)
        return {"kind": "time", **times, "embargo_microseconds": embargo, "entity": list(self.entity or ())}


Split = RandomSplit | TimeSplit


def split_from_json(data: dict[str, Any]) -> Split:
    """The split that `to_json` described.

    >>> split_from_json(RandomSplit(0.3, seed=7).to_json())
    RandomSplit(test_size=0.3, validation_size=None, seed=7, entity=())
    """
    fields = {name: value for name, value in data.items() if name not in ("kind", "embargo_microseconds")}
    if data["kind"] == "random":
        return RandomSplit(**fields)
    micros = data["embargo_microseconds"]
    return TimeSplit(**fields, embargo=None if micros is None else timedelta(microseconds=micros))


def assign(
    split: Split, table: pa.Table, *, primary_key: Sequence[str], event_time: str | None = None
) -> dict[str, np.ndarray]:
    """Row positions of each split, by name in the order of time.

    Args:
        table: the rows to split; the key columns (and event time, entity) are read, everything else is ignored.
        primary_key: columns that with `event_time` identify a row. Rows of equal identity land on the same side.
        event_time: a timestamp or date column; needed by a time split. Rows without a time are in no split.
    Returns:
        int64 positions, ascending, so that `table.take` keeps the rows' order. No position is in two splits.
        A random split covers all rows.
    Raises:
        SchemaMismatch: a column is missing, or the event time is not a time.
        InvalidData, InvalidTime: a split is empty; the message says what the data hold.

    >>> trips = pa.table({"id": range(10), "day": pa.array(range(10), pa.date32())})
    >>> parts = assign(TimeSplit(train_end="1970-01-08", embargo=timedelta(days=2)), trips,
    ...                primary_key=["id"], event_time="day")
    >>> parts["train"].tolist(), parts["test"].tolist()
    ([0, 1, 2, 3, 4], [7, 8, 9])
    """
    if isinstance(split, RandomSplit):
        identity = [*primary_key] if event_time is None else [*primary_key, event_time]
        positions = _assign_randomly(split, table, list(split.entity or identity))
    else:
        positions = _assign_by_time(split, table, event_time)
    for name in split.names:
        if not len(positions[name]):
            raise _empty(split, name, table, event_time)
    return positions


def _assign_randomly(split: RandomSplit, table: pa.Table, columns: list[str]) -> dict[str, np.ndarray]:
    hashes = row_hashes(table, columns, seed=split.seed)
    # Whole numbers compare the same everywhere; `hash / 2**64 < share` would round.
    test_below = np.uint64(min(_MASK, int(split.test_size * 2**64)))
    held_below = np.uint64(min(_MASK, int((split.test_size + (split.validation_size or 0)) * 2**64)))
    positions = {TRAIN: np.flatnonzero(hashes >= held_below)}
    if split.validation_size is not None:
        positions[VALIDATION] = np.flatnonzero((hashes >= test_below) & (hashes < held_below))
    positions[TEST] = np.flatnonzero(hashes < test_below)
    return positions


def _assign_by_time(split: TimeSplit, table: pa.Table, event_time: str | None) -> dict[str, np.ndarray]:
    if event_time is None:
        raise SchemaMismatch(
            "A split by time needs an event time, and these rows have none. Split at random with test_size instead."
        )
    micros, known = _micros(table, event_time)
    side = np.full(table.num_rows, -1, np.int8)
    for rank, name in enumerate(split.names):
        start, end = split.window(name)
        inside = known.copy()
        if start is not None:
            inside &= micros >= to_micros(start)
        if end is not None:
            inside &= micros < to_micros(end)
        side[inside] = rank
    if split.entity:
        entities = np.unique(row_hashes(table, list(split.entity), seed=0), return_inverse=True)[1]
        latest = np.full(table.num_rows, -1, np.int8)
        np.maximum.at(latest, entities, side)
        side[side < latest[entities]] = -1
    return {name: np.flatnonzero(side == rank) for rank, name in enumerate(split.names)}


def _micros(table: pa.Table, event_time: str) -> tuple[np.ndarray, np.ndarray]:
    """Event times as whole microseconds since 1970, and which are known."""
    column = _column(table, event_time)
    if parse_dtype(column.type, event_time) not in (TIMESTAMP, pa.date32()):
        raise SchemaMismatch(
            f"Event time {event_time!r} is {column.type}: a split by time needs a timestamp or a date. "
            "Split at random with test_size, or convert the column."
        )
    known = pc.is_valid(column).to_numpy()
    if pa.types.is_date(column.type):
        days = pc.fill_null(column.cast(pa.date32()).cast(pa.int32()), 0).to_numpy()
        return days.astype(np.int64) * _MICROS_PER_DAY, known
    return pc.fill_null(column.cast(TIMESTAMP).cast(pa.int64()), 0).to_numpy(), known


def _empty(split: Split, name: str, table: pa.Table, event_time: str | None) -> FeatureStoreError:
    if not table.num_rows:
        return InvalidData("There are no rows to split. Insert rows first, or widen the times and filters.")
    if isinstance(split, RandomSplit):
        what = "entities" if split.entity else "rows"
        return InvalidData(
            f"The {name} split is empty: {table.num_rows} rows hold too few {what} for test_size {split.test_size}, "
            f"validation_size {split.validation_size}. Insert more rows, or change the sizes or the seed."
        )
    assert event_time is not None  # _assign_by_time has refused it
    micros, known = _micros(table, event_time)
    times = micros[known]
    held = (
        f"the event times run from {from_micros(int(times.min()))} to {from_micros(int(times.max()))}"
        if len(times)
        else f"every {event_time!r} is null"
    )
    start, end = split.window(name)
    others = " (rows of entities that appear in a later split are left out)" if split.entity else ""
    return InvalidTime(
        f"The {name} split [{start or '...'}, {end or '...'}) is empty{others}: {held}. "
        f"Move {name}_start or {name}_end, shorten the embargo, or insert rows for that time."
    )


def row_hashes(table: pa.Table, columns: Sequence[str], *, seed: int = 42) -> np.ndarray:
    """A 64-bit hash of each row's values in some columns (uint64), the same on every machine and in every release.

    It depends on the values, their kind and the columns' order alone: not on column names, other rows, row order,
    chunks, or the width of a number (1 as int32 is 1 as int64). It tells kinds apart: 1, 1.0, "1", b"1", true and
    null differ. -0.0 is 0.0, and a NaN is a null. The rounds are those of SplitMix64, over eight bytes of text at a
    time: a hundred times faster than a cryptographic hash per value, and a split needs no more than an even spread.

    >>> row_hashes(pa.table({"id": [1, 2]}), ["id"]).tolist()
    [3911558024588667448, 11334541212104180665]
    """
    selected = pa.table([_column(table, name) for name in columns], names=[str(n) for n in range(len(columns))])
    start = _mix(np.uint64(seed & _MASK))
    hashes = [np.empty(0, np.uint64)]
    for batch in selected.to_batches(max_chunksize=262_144):  # stays within the processor's cache
        rows = np.full(batch.num_rows, start)
        for column in batch.columns:
            rows = _mix(rows ^ _value_hashes(column))
        hashes.append(rows)
    return np.concatenate(hashes)


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise SchemaMismatch(f"There is no column {name!r} to split by (columns: {', '.join(table.column_names)}).")
    return table.column(name)


def _mix(words: Any) -> Any:
    """SplitMix64: one step and its output function, over an array or scalar of uint64."""
    with np.errstate(over="ignore"):
        words = words + np.uint64(0x9E3779B97F4A7C15)
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return words ^ (words >> np.uint64(31))


def _value_hashes(column: pa.Array) -> np.ndarray:
    stored = parse_dtype(column.type)
    column = column.cast(stored)
    if pa.types.is_floating(stored):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, stored), column)
    kind, words = _words(column)
    hashes = _mix(words ^ _kind_hash(kind))
    if column.null_count:
        hashes[pc.is_null(column).to_numpy(zero_copy_only=False)] = _kind_hash("null")
    return hashes


def _kind_hash(kind: str) -> np.uint64:
    return np.uint64(_mix(np.uint64(int.from_bytes(kind.encode(), "little"))))


def _words(column: pa.Array) -> tuple[str, np.ndarray]:
    """The kind of a column's values and a uint64 for each; equal for equal values, anything for nulls."""
    dtype = column.type
    if pa.types.is_boolean(dtype) or pa.types.is_integer(dtype):
        kind = "bool" if pa.types.is_boolean(dtype) else "int"
        return kind, _filled(column.cast(pa.int64())).view(np.uint64)
    if pa.types.is_floating(dtype):
        doubles = _filled(column.cast(pa.float64())) + 0.0  # makes -0.0 the 0.0 it equals
        return "float", doubles.view(np.uint64)
    if pa.types.is_timestamp(dtype):
        return "time", _filled(column.cast(pa.int64())).view(np.uint64)
    if pa.types.is_date(dtype):
        return "date", _filled(column.cast(pa.int32()).cast(pa.int64())).view(np.uint64)
    if pa.types.is_string(dtype):
        return "text", _byte_words(column.cast(pa.binary()))
    if pa.types.is_binary(dtype):
        return "bytes", _byte_words(column)
    canonical = pa.array([_canonical(value) for value in column.to_pylist()], pa.binary())
    return "decimal" if pa.types.is_decimal(dtype) else "nested", _byte_words(canonical)


def _filled(column: pa.Array) -> np.ndarray:
    zero = pa.scalar(0, column.type)
    values: np.ndarray = pc.fill_null(column, zero).to_numpy(zero_copy_only=False)
    return values


def _byte_words(column: pa.Array) -> np.ndarray:
    """A hash of each value's length and bytes, eight bytes per round for all rows at once."""
    _, offset_buffer, data_buffer = column.buffers()
    if not len(column):
        return np.empty(0, np.uint64)
    offsets = np.frombuffer(offset_buffer, "<i4")[column.offset : column.offset + len(column) + 1].astype(np.int64)
    lengths = np.diff(offsets)
    first, last = int(offsets[0]), int(offsets[-1])
    data = b"" if data_buffer is None else data_buffer.slice(first, last - first).to_pybytes()
    # Every position of the text as the start of an eight-byte little-endian word; zeros after the end.
    words_at = np.ndarray((last - first + 1,), "<u8", data + bytes(8), strides=(1,))
    hashes = _mix(lengths.astype(np.uint64))
    done = 0
    rows = np.flatnonzero(lengths > 0)
    while len(rows):
        words = words_at[offsets[rows] - first + done]
        bytes_left = lengths[rows] - done
        unused_bits = (8 * (8 - np.minimum(bytes_left, 8))).astype(np.uint64)
        hashes[rows] = _mix(hashes[rows] ^ (words << unused_bits))
        done += 8
        rows = rows[bytes_left > 8]
    return hashes


def _canonical(value: Any) -> bytes:
    """Bytes that are equal exactly when two decimals, lists or structs are."""
    if value is None:
        return b"n"
    if isinstance(value, list):
        parts = [_canonical(item) for item in value]
        return b"l%d:" % len(parts) + b"".join(b"%d:" % len(part) + part for part in parts)
    if isinstance(value, dict):
        return b"s" + _canonical([item for pair in value.items() for item in pair])
    if isinstance(value, Decimal):
        return b"d" + format(value.normalize() + 0, "f").encode()
    if isinstance(value, float):
        return b"n" if math.isnan(value) else b"f" + (value + 0.0).hex().encode()
    if isinstance(value, bytes):
        return b"b" + value
    if isinstance(value, datetime):
        return b"t%d" % to_micros(value)
    return type(value).__name__.encode() + b":" + str(value).encode()


def _check_share(name: str, share: object) -> None:
    if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share < 1:
        raise InvalidData(f"{name} is {share!r}: expected a share between 0 and 1, such as 0.2.")


def _entity_columns(entity: str | Sequence[str] | None) -> tuple[str, ...]:
    return (entity,) if isinstance(entity, str) else tuple(entity or ())
