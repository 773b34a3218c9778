"""The laws that every feature function of every system obeys, each as a function that fails with what broke it.

A feature function takes raw rows and gives the rows of a feature group. These laws need to know nothing of what it
computes; `FeatureFunction` says how it is fed. `tests/flows/test_every_system.py` applies all of them to all systems.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import pairwise

import pandas as pd
from pandas.testing import assert_frame_equal

from featurestore.schema import conform
from flows import FeatureFunction

Frames = Mapping[str, pd.DataFrame]

CUTS = (0.3, 0.61, 0.97)  # where in the sample time is stopped, so that rows fall on both sides
ENTITIES = 8
INCREMENTS = 5


def input_unchanged(declared: FeatureFunction) -> None:
    """The frames given are the same afterwards, and the same frames give the same result again."""
    inputs = _sample(declared)
    before = {name: frame.copy(deep=True) for name, frame in inputs.items()}
    first, second = declared.function(**inputs), declared.function(**inputs)
    for name, frame in inputs.items():
        _assert_same(frame, before[name], f"{declared.name} changed its argument {name}")
    _assert_same(first, second, f"{declared.name} gives another result the second time")


def row_order_irrelevant(declared: FeatureFunction) -> None:
    """Neither the order of the rows nor their index changes the result."""
    inputs = _sample(declared)
    shuffled = {name: frame.sample(frac=1, random_state=7) for name, frame in inputs.items()}
    _assert_same(
        declared.function(**shuffled), declared.function(**inputs), f"{declared.name} depends on the order of its rows"
    )


def only_the_past(declared: FeatureFunction) -> None:
    """Rows later than a moment change nothing at or before it."""
    inputs = _sample(declared)
    start, end = declared.sample
    full = declared.function(**inputs)
    for part in CUTS:
        now = pd.Timestamp(start + (end - start) * part)
        past = {
            name: frame[frame[declared.input_times[name]] <= now] if name in declared.input_times else frame
            for name, frame in inputs.items()
        }
        _assert_same(
            _until(declared, declared.function(**past), now), _until(declared, full, now),
            f"{declared.name} looks past {now}",
        )  # fmt: skip


def own_entity(declared: FeatureFunction) -> None:
    """Rows of other entities change nothing."""
    inputs = _sample(declared)
    full = declared.function(**inputs)
    key = list(declared.key)
    for entity in full[key].drop_duplicates().sample(ENTITIES, random_state=7).itertuples(index=False):
        alone = {name: _of(frame, entity) if set(key) <= set(frame) else frame for name, frame in inputs.items()}
        _assert_same(
            _of(declared.function(**alone), entity), _of(full, entity), f"{declared.name} mixes {entity} with others"
        )


def backfill_equals_increments(declared: FeatureFunction) -> None:
    """One run over the whole window gives the rows of many runs, each with the declared warm-up and no more."""
    start, end = declared.sample
    first = start + declared.warm_up
    step = (end - first) / INCREMENTS
    edges = [first + step * n for n in range(INCREMENTS)] + [end]
    parts = [_run(declared, a, b) for a, b in pairwise(edges)]
    # An earlier start than needed: what lies before the warm-up must not matter either.
    whole = _within(declared, declared.function(**declared.inputs(start - timedelta(days=9), end)), first, end)
    assert len(whole), f"{declared.name}: the sample has no rows to compare"
    by = [declared.event_time, *declared.key]
    _assert_same(
        pd.concat(parts).sort_values(by), whole.sort_values(by), f"{declared.name}: increments differ from the backfill"
    )


def declared_schema(declared: FeatureFunction) -> None:
    """The result has the declared columns in their order, and every value fits its declared type exactly."""
    result = declared.function(**_sample(declared))
    assert list(result.columns) == [feature.name for feature in declared.features]
    assert result.index.equals(pd.RangeIndex(len(result))), f"{declared.name}: the index is not 0..n-1"
    conform(result, declared.features, required=[declared.event_time], what=declared.name)


def empty_in_empty_out(declared: FeatureFunction) -> None:
    """No rows give no rows, with the same columns and dtypes as ever."""
    inputs = _sample(declared)
    nothing = declared.function(**{name: frame.iloc[:0] for name, frame in inputs.items()})
    assert nothing.empty
    _assert_same(nothing, declared.function(**inputs).iloc[:0], f"{declared.name}: empty input changes the columns")


LAWS = (
    input_unchanged,
    row_order_irrelevant,
    only_the_past,
    own_entity,
    backfill_equals_increments,
    declared_schema,
    empty_in_empty_out,
)


def _sample(declared: FeatureFunction) -> Frames:
    return declared.inputs(*declared.sample)


def _run(declared: FeatureFunction, start: datetime, end: datetime) -> pd.DataFrame:
    return _within(declared, declared.function(**declared.inputs(start - declared.warm_up, end)), start, end)


def _within(declared: FeatureFunction, result: pd.DataFrame, start: datetime, end: datetime) -> pd.DataFrame:
    times = result[declared.event_time]
    return result[(times >= start) & (times < end)]


def _until(declared: FeatureFunction, result: pd.DataFrame, now: pd.Timestamp) -> pd.DataFrame:
    return result[result[declared.event_time] <= now]


def _of(frame: pd.DataFrame, entity: tuple[object, ...]) -> pd.DataFrame:
    for name, value in zip(entity._fields, entity, strict=True):  # type: ignore[attr-defined]
        frame = frame[frame[name] == value]
    return frame


def _assert_same(left: pd.DataFrame, right: pd.DataFrame, broken: str) -> None:
    """Equal to the last bit; the index apart."""
    try:
        assert_frame_equal(left.reset_index(drop=True), right.reset_index(drop=True), check_exact=True)
    except AssertionError as error:
        raise AssertionError(f"{broken}:\n{error}") from error
