import json
import math
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import FeatureStoreError, InvalidData, InvalidTime, SchemaMismatch
from featurestore.schema import TIMESTAMP
from featurestore.splits import RandomSplit, TimeSplit, assign, row_hashes, split_from_json

DAY = timedelta(days=1)


def day(number):
    return datetime(2026, 1, 1, tzinfo=UTC) + number * DAY


def rows(days, **columns):
    """One row per day number (None for a null time), with an id that is its position."""
    times = pa.array([None if d is None else day(d) for d in days], TIMESTAMP)
    return pa.table({"id": pa.array(range(len(days)), pa.int64()), "time": times, **columns})


def by_time(split, table):
    positions = assign(split, table, primary_key=["id"], event_time="time")
    return {name: found.tolist() for name, found in positions.items()}


# --- By time (V5) -----------------------------------------------------------------------------------------------------


def test_windows_are_half_open():
    """V5: a row at the boundary is on the later side."""
    split = TimeSplit(day(0), day(2), day(2), day(3), day(3), day(4))
    assert by_time(split, rows([0, 1, 2, 3, 4, -1])) == {"train": [0, 1], "validation": [2], "test": [3]}


def test_missing_boundaries_are_those_of_the_neighbour_and_the_outer_ones_are_open():
    assert by_time(TimeSplit(train_end=day(2)), rows([-99, 1, 2, 99])) == {"train": [0, 1], "test": [2, 3]}
    assert TimeSplit(test_start=day(2)).train_end == day(2)
    three = TimeSplit(validation_start=day(2), test_start=day(5))
    assert (three.train_end, three.validation_end) == (day(2), day(5))
    between = TimeSplit(train_end=day(2), test_start=day(5), validation=True)
    assert between.window("validation") == (day(2), day(5))


def test_a_gap_between_windows_leaves_its_rows_out():
    split = TimeSplit(train_end=day(2), test_start=day(4))
    assert by_time(split, rows([1, 2, 3, 4])) == {"train": [0], "test": [3]}


def test_rows_keep_their_order_and_rows_without_a_time_are_in_no_split():
    assert by_time(TimeSplit(train_end=day(2)), rows([5, 1, None, 0, 3])) == {"train": [1, 3], "test": [0, 4]}


def test_the_embargo_drops_the_training_rows_before_the_boundary_only():
    """V5: rows of [boundary - embargo, boundary) are in no split."""
    split = TimeSplit(train_end=day(4), validation_end=day(6), embargo=2 * DAY)
    # boundary 4, embargo 2: training keeps what is before day 2; validation keeps its last days
    assert by_time(split, rows([0, 1, 2, 3, 4, 5, 6])) == {"train": [0, 1], "validation": [4, 5], "test": [6]}


def test_a_gap_as_long_as_the_embargo_is_embargo_enough():
    split = TimeSplit(train_end=day(2), test_start=day(4), embargo=2 * DAY)
    assert by_time(split, rows([1, 2, 4])) == {"train": [0], "test": [2]}


def test_an_entity_belongs_to_the_latest_split_it_appears_in():
    """V5: every key on one side; the earlier split gives way."""
    card = pa.array(["a", "b", "a", "c", None, None])
    split = TimeSplit(train_end=day(2), entity="card")
    # a and the null key appear in the test, so their training rows go; b stays; c is in the test alone
    assert by_time(split, rows([0, 1, 3, 4, 0, 5], card=card)) == {"train": [1], "test": [2, 3, 5]}
    without = TimeSplit(train_end=day(2))
    assert by_time(without, rows([0, 1, 3, 4, 0, 5], card=card))["test"] == [2, 3, 5]


def test_dates_are_midnight():
    table = pa.table({"id": [1, 2], "time": pa.array([date(2026, 1, 1), date(2026, 1, 2)])})
    assert by_time(TimeSplit(train_end="2026-01-02"), table) == {"train": [0], "test": [1]}


@given(
    st.lists(st.none() | st.integers(0, 20), min_size=1, max_size=60),
    st.integers(1, 6), st.integers(1, 6), st.integers(0, 8), st.booleans(), st.lists(st.integers(0, 5), min_size=60),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_time_splits_are_disjoint_in_their_bounds_and_keep_entities_apart(days, first, second, embargo, by_card, cards):
    """V5: whatever the times, windows, embargo and entities."""
    table = rows(days, card=pa.array(cards[: len(days)]))
    split = TimeSplit(
        train_end=day(first),
        validation_end=day(first + second),
        embargo=embargo * DAY,
        entity="card" if by_card else None,
    )
    try:
        found = by_time(split, table)
    except FeatureStoreError:
        return  # an empty split
    train, validation, test = found["train"], found["validation"], found["test"]
    assert train == sorted(train)
    assert all(days[i] < first - embargo for i in train)
    assert all(first <= days[i] < first + second for i in validation)
    assert test == [i for i, d in enumerate(days) if d is not None and d >= first + second]
    if not by_card:
        assert train == [i for i, d in enumerate(days) if d is not None and d < first - embargo]
    else:
        sides = [{cards[i] for i in side} for side in (train, validation, test)]
        assert sum(map(len, sides)) == len(set().union(*sides))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"train_end": day(3), "test_start": day(2)}, ["overlap", "Move train_end"]),
        (
            {"validation_start": day(1), "validation_end": day(3), "test_start": day(2)},
            ["validation split ends", "overlap"],
        ),
        ({"train_start": day(3), "train_end": day(2)}, ["train split is empty", "train_start"]),
        ({"test_start": day(3), "test_end": day(3)}, ["test split is empty"]),
        ({}, ["Give train_end or test_start"]),
        ({"train_end": day(1), "validation": True}, ["Give validation_end or test_start"]),
        ({"test_end": day(1)}, ["Give train_end or test_start"]),
        ({"train_end": day(1), "embargo": -DAY}, ["embargo", "at least zero"]),
        ({"train_end": day(1), "embargo": 7}, ["timedelta(days=7)"]),
        ({"train_start": day(0), "train_end": day(1), "embargo": DAY}, ["embargo", "whole train split"]),
        ({"train_end": day(1), "embargo": timedelta(days=10**6)}, ["embargo", "before all times"]),
        ({"train_end": "soon"}, ["'soon' is not a time"]),
    ],
)
def test_time_splits_that_cannot_be_meant_say_what_to_do(arguments, words):
    """V4: overlapping and empty windows are ValueErrors with the next step."""
    with pytest.raises(ValueError) as caught:
        TimeSplit(**arguments)
    assert isinstance(caught.value, InvalidTime)
    assert all(word in str(caught.value) for word in words), caught.value


def test_an_empty_split_says_which_times_the_data_hold():
    """V4: the message says where the rows are."""
    with pytest.raises(
        InvalidTime, match=r"test split \[2026-01-10.*from 2026-01-01 .* to 2026-01-03.*Move test_start"
    ):
        by_time(TimeSplit(train_end=day(9)), rows([0, 2]))
    with pytest.raises(InvalidTime, match="every 'time' is null"):
        by_time(TimeSplit(train_end=day(9)), rows([None]))
    with pytest.raises(InvalidData, match="no rows to split"):
        by_time(TimeSplit(train_end=day(9)), rows([]))


def test_a_time_split_needs_a_time():
    with pytest.raises(SchemaMismatch, match="Split at random"):
        assign(TimeSplit(train_end=day(1)), rows([0]), primary_key=["id"])
    with pytest.raises(SchemaMismatch, match="'id' is int64"):
        assign(TimeSplit(train_end=day(1)), rows([0]), primary_key=["id"], event_time="id")
    with pytest.raises(SchemaMismatch, match=r"no column 'when'.*columns: id, time"):
        assign(TimeSplit(train_end=day(1)), rows([0]), primary_key=["id"], event_time="when")


# --- At random (V4) ---------------------------------------------------------------------------------------------------


def sides(split, table, **arguments):
    """The side of each id."""
    found = assign(split, table, primary_key=["id"], **arguments)
    ids = table.column("id").to_pylist()
    return {ids[i]: name for name, positions in found.items() for i in positions}


def test_every_row_is_in_exactly_one_split_in_order():
    """V4: no row is lost and none is on two sides."""
    table = pa.table({"id": range(1000)})
    found = assign(RandomSplit(0.2, validation_size=0.3), table, primary_key=["id"])
    assert list(found) == ["train", "validation", "test"]
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(1000))
    assert all((np.diff(positions) > 0).all() for positions in found.values())


@pytest.mark.parametrize("test_size", [0.01, 0.2, 0.5, 0.99])
@pytest.mark.parametrize(
    "key", [range(50_000), [f"tx-{i}" for i in range(50_000)], [i * 86_400e6 for i in range(50_000)]]
)
def test_sizes_are_approximately_what_was_asked_for(test_size, key):
    """V4: sizes are approximate, and near."""
    found = assign(RandomSplit(test_size), pa.table({"id": key}), primary_key=["id"])
    deviation = math.sqrt(50_000 * test_size * (1 - test_size))
    assert abs(len(found["test"]) - 50_000 * test_size) < 5 * deviation


@given(
    st.sets(st.integers(-(2**63), 2**63 - 1), min_size=60, max_size=90),
    st.randoms(use_true_random=False),
    st.integers(),
)
@settings(max_examples=60, deadline=None)
def test_a_row_never_changes_sides_when_rows_are_added_or_reordered(ids, random, seed):
    """V4: the side depends on seed and row key alone."""
    split = RandomSplit(0.4, seed=seed)
    ids = list(ids)
    before = sides(split, pa.table({"id": ids[:50]}))
    random.shuffle(ids)
    after = sides(split, pa.table({"id": pa.chunked_array([ids[:7], [], ids[7:]], pa.int64())}))
    assert all(after[i] == side for i, side in before.items())


def test_a_larger_test_size_only_adds_rows_to_the_test():
    table = pa.table({"id": range(500)})
    small = set(assign(RandomSplit(0.2), table, primary_key=["id"])["test"].tolist())
    large = set(assign(RandomSplit(0.3, validation_size=0.1), table, primary_key=["id"])["test"].tolist())
    assert small < large


def test_seeds_and_event_times_draw_anew():
    table = pa.table({"id": range(500), "time": pa.array([day(i) for i in range(500)], TIMESTAMP)})
    drawn = [
        sides(RandomSplit(0.5), table), sides(RandomSplit(0.5, seed=1), table), sides(RandomSplit(0.5, seed=-1), table),
        sides(RandomSplit(0.5), table, event_time="time"),
    ]  # fmt: skip
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            same = sum(one[key] == other[key] for key in one)
            assert 180 < same < 320  # independent draws agree half of the time


def test_an_entity_stays_on_one_side():
    """V5: also of a random split."""
    table = pa.table({"id": range(300), "card": [i % 50 for i in range(300)]})
    drawn = sides(RandomSplit(0.5, entity="card"), table)
    assert all(drawn[i] == drawn[i + 50 * k] for i in range(50) for k in range(6))
    assert len(set(drawn.values())) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"test_size": 0}, "test_size is 0"),
        ({"test_size": 1.0}, "test_size is 1.0"),
        ({"test_size": -0.1}, "between 0 and 1"),
        ({"test_size": math.nan}, "between 0 and 1"),
        ({"test_size": "0.2"}, "between 0 and 1"),
        ({"test_size": 0.2, "validation_size": 0}, "validation_size is 0"),
        ({"test_size": 0.5, "validation_size": 0.5}, "sum to 1 or more"),
        ({"test_size": 0.5, "seed": 1.5}, "seed is 1.5"),
        ({"test_size": 0.5, "seed": True}, "seed is True"),
    ],
)
def test_sizes_that_cannot_be_meant_say_what_to_do(arguments, words):
    """V4: sizes outside (0, 1) or summing to 1 or more."""
    with pytest.raises(ValueError, match=words) as caught:
        RandomSplit(**arguments)
    assert isinstance(caught.value, InvalidData)


def test_too_few_rows_for_a_split_say_so():
    with pytest.raises(InvalidData, match=r"test split is empty: 3 rows hold too few rows for test_size 0.001"):
        assign(RandomSplit(0.001), pa.table({"id": [1, 2, 3]}), primary_key=["id"])
    with pytest.raises(InvalidData, match="too few entities"):
        assign(RandomSplit(0.5, entity="card"), pa.table({"id": [1, 2], "card": [1, 1]}), primary_key=["id"])
    with pytest.raises(SchemaMismatch, match=r"no column 'cc_num'.*columns: id"):
        assign(RandomSplit(0.5, entity="cc_num"), pa.table({"id": [1]}), primary_key=["id"])


# --- The row hash -----------------------------------------------------------------------------------------------------

VALUES = [
    (pa.int64(), 1), (pa.int64(), 0), (pa.int64(), -1), (pa.float64(), 1.0), (pa.float64(), 0.0), (pa.string(), "1"),
    (pa.string(), ""), (pa.string(), "\x00"), (pa.string(), "12345678"), (pa.string(), "123456789"),
    (pa.binary(), b"1"), (pa.binary(), b""), (pa.bool_(), True), (pa.bool_(), False), (pa.date32(), date(1970, 1, 2)),
    (TIMESTAMP, datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)), (pa.decimal128(5, 2), Decimal("1.00")),
    (pa.decimal128(5, 2), Decimal("10.00")), (pa.list_(pa.string()), ["1"]), (pa.list_(pa.string()), ["1", ""]),
    (pa.list_(pa.string()), ["", "1"]), (pa.list_(pa.int64()), [1]), (pa.list_(pa.int64()), []),
    (pa.struct([("a", pa.int64())]), {"a": 1}), (pa.struct([("a", pa.float64())]), {"a": 1.0}), (pa.int64(), None),
]  # fmt: skip


PINNED = [3911558024588667448, 83781552804800678, 8873478477049928558]


def hash_of(value, dtype, seed=42):
    return int(row_hashes(pa.table({"x": pa.array([value], dtype)}), ["x"], seed=seed)[0])


def test_values_of_different_kinds_have_different_hashes():
    hashes = [hash_of(value, dtype) for dtype, value in VALUES]
    assert len(set(hashes)) == len(VALUES)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, pa.int8()), (1, pa.int64())),
        ((0.5, pa.float32()), (0.5, pa.float64())),
        ((0.0, pa.float64()), (-0.0, pa.float64())),
        ((math.nan, pa.float64()), (None, pa.string())),
        (("é", pa.string()), ("é", pa.large_string())),
        (("a", pa.string()), ("a", pa.dictionary(pa.int8(), pa.string()))),
        ((Decimal("1.50"), pa.decimal128(5, 2)), (Decimal("1.5000"), pa.decimal128(12, 4))),
        ((datetime(2026, 1, 1), pa.timestamp("s")), (day(0), TIMESTAMP)),
        (([-0.0], pa.list_(pa.float64())), ([0.0], pa.list_(pa.float64()))),
    ],
)
def test_equal_values_have_equal_hashes_whatever_their_width(one, other):
    assert hash_of(*one) == hash_of(*other)


def test_composite_keys_keep_their_columns_apart():
    table = pa.table({"a": ["1", "11", "", None], "b": ["11", "1", "x", "x"]})
    assert len(set(row_hashes(table, ["a", "b"]).tolist())) == 4
    assert row_hashes(table, ["a", "b"])[0] != row_hashes(table, ["b", "a"])[0]


def test_the_hash_is_the_same_in_every_process_and_release():
    """These numbers are part of the store's promise: a change of them moves rows of every home's training sets."""
    assert [hash_of(*pair) for pair in [(1, pa.int64()), ("tx-000001", pa.string()), (None, pa.string())]] == PINNED
    code = (
        "import pyarrow as pa; from featurestore.splits import row_hashes;"
        "print(row_hashes(pa.table({'x': ['tx-000001']}), ['x'])[0])"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(PINNED[1])


@given(st.lists(st.none() | st.text(max_size=30), min_size=1, max_size=30), st.integers(0, 29), st.integers(0, 29))
@settings(max_examples=150, deadline=None)
def test_a_hash_depends_on_the_row_alone(texts, start, cut):
    whole = row_hashes(pa.table({"x": pa.array(texts, pa.string())}), ["x"]).tolist()
    assert whole == [hash_of(text, pa.string()) for text in texts]
    chunks = pa.chunked_array([texts[:cut], texts[cut:]], pa.string())
    assert row_hashes(pa.table({"x": chunks}).slice(start), ["x"]).tolist() == whole[start:]
    assert len(set(whole)) == len(set(texts))


def test_no_rows_have_no_hashes():
    assert row_hashes(pa.table({"x": pa.array([], pa.string())}), ["x"]).tolist() == []


# --- Storage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "split",
    [
        RandomSplit(0.1),
        RandomSplit(0.1, validation_size=1 / 3, seed=-7, entity=["card", "shop"]),
        TimeSplit(train_end="2026-03-01"),
        TimeSplit(day(0), day(2), day(3), day(4), day(5), day(6), embargo=timedelta(microseconds=1), entity="card"),
        TimeSplit(train_end=day(2), test_start=day(3), validation=True),
    ],
)
def test_a_split_comes_back_from_json(split):
    assert split_from_json(json.loads(json.dumps(split.to_json()))) == split
    assert hash(split) == hash(split_from_json(split.to_json()))
