"""What the columns of a join are called: whose copy stands, what clashes, and that any name works."""

from __future__ import annotations

import pyarrow as pa
import pytest

from featurestore import Feature, JoinError, SchemaMismatch
from featurestore.engines import duckdb as engine
from featurestore.point_in_time import Definition, Plan, plan
from featurestore.query import Column, GroupRef, Query


def group(name: str, columns: str, *, key: str = "k", time: str | None = "day") -> Definition:
    """A group with whole numbers but for its time; the first columns are its key."""
    names = [*columns.split(), *([time] if time and time not in columns.split() else [])]
    features = tuple(Feature(n, "timestamp" if n == time else "bigint") for n in names)
    return Definition(GroupRef(name, 1), features, tuple(key.split()), time)


def select(definition: Definition, columns: str) -> Query:
    return Query(definition.ref, tuple(columns.split()))


def planned(query: Query, *definitions: Definition) -> Plan:
    return plan(query, {d.ref: d for d in definitions})


def outputs(query: Query, *definitions: Definition) -> dict[str, str]:
    """Each column of the result and the column it comes from."""
    found = planned(query, *definitions)
    return {o.name: f"{found.sources[o.source].definition.ref.name}.{o.column}" for o in found.outputs}


A = group("a", "k m y")
B = group("b", "k m x")


def test_left_copy_of_key_and_time_stands_also_where_only_the_right_asks_for_it() -> None:
    """J6: the key and the time of the row itself, also where nothing matches."""
    both = select(A, "k day y").join(select(B, "k day x"))
    assert outputs(both, A, B) == {"k": "a.k", "day": "a.day", "y": "a.y", "x": "b.x"}
    right = select(A, "y").join(select(B, "k day x"))
    assert outputs(right, A, B) == {"y": "a.y", "k": "a.k", "day": "a.day", "x": "b.x"}


def test_with_a_prefix_both_copies_stand() -> None:
    """J6: a prefix renames every column that the join contributes."""
    both = select(A, "k day").join(select(B, "k day x"), prefix="b_")
    assert outputs(both, A, B) == {"k": "a.k", "day": "a.day", "b_k": "b.k", "b_day": "b.day", "b_x": "b.x"}


def test_copy_in_a_nested_join_is_that_of_the_row_it_joined_to() -> None:
    """J6, J7: c is matched by b's m, so b's m stands, and not another m of the spine."""
    c = group("c", "m z", key="m")
    nested = select(A, "y").join(select(B, "x").join(select(c, "m z")), on=["k"])
    assert outputs(nested, A, B, c) == {"y": "a.y", "x": "b.x", "m": "b.m", "z": "c.z"}
    by_key = select(A, "y").join(select(B, "x").join(select(group("c", "k z"), "k day z")))
    assert outputs(by_key, A, B, group("c", "k z")) == {"y": "a.y", "x": "b.x", "k": "a.k", "day": "a.day", "z": "c.z"}
    within = select(A, "k").join(select(B, "k x").join(select(group("c", "k z"), "k z")), prefix="b_")
    assert outputs(within, A, B, group("c", "k z")) == {"k": "a.k", "b_k": "b.k", "b_x": "b.x", "b_z": "c.z"}


def test_a_key_of_another_name_is_a_column_like_any_other() -> None:
    """J6: matched by who = m it does not repeat an unrelated m; two groups matched by it repeat each other."""
    left = group("left", "who m y", key="who")
    right, other = group("right", "m x", key="m"), group("other", "m z", key="m")
    with pytest.raises(JoinError, match=r"left_v1 and right_v1.*'m'.*prefix"):
        planned(select(left, "m").join(select(right, "m"), left_on=["who"], right_on=["m"]), left, right)
    twice = (
        select(left, "y")
        .join(select(right, "m x"), left_on=["who"], right_on=["m"])
        .join(select(other, "m z"), left_on=["who"], right_on=["m"])
    )
    assert outputs(twice, left, right, other) == {"y": "left.y", "m": "right.m", "x": "right.x", "z": "other.z"}


def test_a_time_of_the_same_name_as_a_plain_column_clashes() -> None:
    """J6: the left day is a number and no event time, so it says something else."""
    left = group("left", "k day", time="at")
    with pytest.raises(JoinError, match=r"left_v1 and b_v1.*'day'"):
        planned(select(left, "day").join(select(B, "day")), left, B)
    assert outputs(select(left, "k").join(select(B, "day")), left, B) == {"k": "left.k", "day": "b.day"}


def test_a_clash_names_all_columns_and_offers_a_prefix() -> None:
    """J6: all at once."""
    wide, other = group("a", "k m x"), group("b", "k m X")
    with pytest.raises(JoinError, match=r"Both a_v1 and b_v1 give columns 'm', 'X'\. Join one of them with prefix="):
        planned(select(wide, "m x").join(select(other, "m X")), wide, other)


def test_one_group_joined_twice_needs_a_prefix_once() -> None:
    """J6: and each copy keeps its own keys."""
    left = group("left", "buyer seller y", key="y")
    twice = (
        select(left, "y")
        .join(select(B, "x"), left_on=["buyer"], right_on=["k"])
        .join(select(B, "x"), left_on=["seller"], right_on=["k"], prefix="seller_")
    )
    found = planned(twice, left, B)
    assert [o.name for o in found.outputs] == ["y", "x", "seller_x"]
    assert [s.keys for s in found.sources[1:]] == [(("buyer", "k"),), (("seller", "k"),)]


def test_keys_default_to_the_right_groups_primary_key() -> None:
    """J5: all of it, found in the left; else both key lists are named."""
    left, right = group("left", "b a y", key="y"), group("right", "a b x", key="a b")
    assert planned(select(left, "y").join(select(right, "x")), left, right).sources[1].keys == (("a", "a"), ("b", "b"))
    with pytest.raises(JoinError, match=r"primary key \['a', 'b'\].*left_v1 does not cover.*keys used: \['a'\]"):
        planned(select(left, "y").join(select(right, "x"), on=["a"]), left, right)
    with pytest.raises(JoinError, match="does not cover"):
        planned(select(left, "y").join(select(right, "x"), left_on=["a", "b"], right_on=["a", "a"]), left, right)


def test_columns_are_selected_once() -> None:
    """J6: twice is an error that says so."""
    with pytest.raises(SchemaMismatch, match=r"\['y'\] of a_v1 are selected twice"):
        planned(select(A, "y y"), A)


def test_a_prefixed_name_must_be_a_name() -> None:
    """J6, C2: at most 255 characters, not starting with two underscores."""
    for prefix in ("x" * 255, "__"):
        with pytest.raises(SchemaMismatch, match="olumn name"):
            planned(select(A, "y").join(select(B, "x"), prefix=prefix), A, B)


ODD = ["n" * 255, "ключ", 'a"b', "a'b", "a`b", "select", "event time", "0.k", "s0", "filename", "rowid", "*", "?", "_%"]


@pytest.mark.parametrize("name", ODD)
def test_names_of_any_kind_work_as_keys_times_and_values(name: str) -> None:
    """J6: of 255 characters, in other scripts, with quotes, like keywords, like the names inside the statement."""
    time, value = f"t{name}"[:255], f"v{name}"[:255]
    shape = (Feature(name, "bigint"), Feature(time, "timestamp"), Feature(value, "bigint"))
    left, right = (Definition(GroupRef(ref, 1), shape, (name,), time) for ref in ("left", "right"))
    query = select_all(left).join(Query(right.ref, (name, time)).filter(Column(right.ref, value) > 1))
    times = pa.array([10, 20], pa.timestamp("us", "UTC"))
    tables = [
        pa.table({name: [1, 2], time: times, value: [5, 6]}),
        pa.table({name: [1, 1], time: times, value: [7, 8]}),
    ]
    found = engine.execute(plan(query, {left.ref: left, right.ref: right}), tables)
    assert found.column_names == [name, time, value]
    joined = Query(left.ref, (name,)).join(Query(right.ref, (value,)))
    found = engine.execute(plan(joined, {left.ref: left, right.ref: right}), tables)
    assert found.to_pydict() == {name: [1, 2], value: [7, None]}


def select_all(definition: Definition) -> Query:
    return Query(definition.ref, tuple(definition.columns()))
