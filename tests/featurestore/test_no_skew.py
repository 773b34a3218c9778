"""The law of serving: a vector, its transformed raw form and the batch row of the same key are equal to the bit."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from featurestore import Feature, FeatureStore, FeatureView, NotFound, connect
from featurestore.skew import bits
from featurestore.transformations import BUILT_INS

NOW = datetime(2026, 3, 1, 12, 0, 0, 123_457, tzinfo=UTC)
TTL = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)
AGES = [timedelta(0), TTL - MICROSECOND, TTL, TTL + MICROSECOND, timedelta(days=400)]
KEYS = [("a", 1), ("a", 11), ("a1", 1), ("", -(2**63)), ("é\x00", 2**63 - 1)]

DOUBLES = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=64), st.sampled_from([0.0, -0.0, math.inf, -math.inf, 1e308])
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "tinyint": st.integers(-(2**7), 2**7 - 1),
    "smallint": st.integers(-(2**15), 2**15 - 1),
    "int": st.integers(-(2**31), 2**31 - 1),
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=False, width=32),
    "double": DOUBLES,
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
    "binary": st.binary(max_size=3),
    "date": st.dates(date(1900, 1, 1), date(2200, 1, 1)),
    "timestamp": st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
    "decimal(9,3)": st.decimals(-999_999, 999_999, places=3),
    "array<double>": st.lists(st.one_of(st.none(), DOUBLES), max_size=2),
    "struct<lat:double,at:timestamp>": st.fixed_dictionaries({"lat": DOUBLES, "at": st.just(NOW)}),
}
NUMBERS = ["boolean", "tinyint", "smallint", "int", "bigint", "float", "double", "decimal(9,3)"]
CATEGORIES = [*NUMBERS, "string", "date", "timestamp"]
PARAMETERS = {"impute_constant": {"value": 1}, "top_k_categorical_binner": {"top_n": 2}, "log_transform": {"offset": 1}}
# Which dtypes each built-in is tried on; the parameters' 1 is no boolean, and no category.
ACCEPTS = dict.fromkeys(BUILT_INS, NUMBERS) | {
    "impute_constant": [d for d in NUMBERS if d != "boolean"], "impute_category": ["string"],
    "label_encoder": CATEGORIES, "one_hot_encoder": CATEGORIES, "top_k_categorical_binner": CATEGORIES,
    "impute_mode": CATEGORIES,
}  # fmt: skip


@st.composite
def facts(draw: st.DrawFn) -> tuple[list[Feature], dict[str, str], list[dict[str, Any]]]:
    """Columns: one of each dtype, and one for each built-in; their transformation; a row or none for each key."""
    transformed = {f"by {name}": draw(st.sampled_from(ACCEPTS[name])) for name in BUILT_INS}
    dtypes = {f"raw {dtype}": dtype for dtype in VALUES} | transformed
    features = [Feature(name, dtype) for name, dtype in dtypes.items()]
    rows = []
    for bank, account in KEYS:
        if draw(st.integers(0, 4)):
            values = {n: draw(st.one_of(st.none(), VALUES[dtype])) for n, dtype in dtypes.items()}
            rows.append({"bank": bank, "account": account, "at": NOW - draw(st.sampled_from(AGES)), **values})
    return features, {name: name.removeprefix("by ") for name in transformed}, rows


def scored_view(fs: FeatureStore, features: list[Feature], functions: dict[str, str], rows: list[Any]) -> FeatureView:
    """A view over facts, asked for all keys at the present, and fitted on what there is."""
    keys = [Feature("bank", "string"), Feature("account", "bigint"), Feature("at", "timestamp")]
    group = fs.get_or_create_feature_group(
        "facts", 1, primary_key=["bank", "account"], event_time="at", online_enabled=True, ttl=TTL,
        features=[*keys, *features], statistics_config=False,
    )  # fmt: skip
    if rows:
        group.insert(pa.Table.from_pylist(rows, group.definition.schema))
    asked = fs.get_or_create_feature_group(
        "asked", 1, primary_key=["bank", "account"], event_time="at", online_enabled=True, statistics_config=False,
        features=[*keys, Feature("own", "double")],
    )  # fmt: skip
    own = [{"bank": b, "account": a, "at": NOW, "own": -0.0 if a == 1 else None} for b, a in KEYS]
    asked.insert(pa.Table.from_pylist(own, asked.definition.schema))
    query = asked.select(["own"]).join(group.select([f.name for f in features]))
    view = fs.get_or_create_feature_view(
        "facts", 1, query=query, transformation_functions={
            column: fs.get_transformation_function(name)(**PARAMETERS.get(name, {}))
            for column, name in functions.items()
        },
    )  # fmt: skip
    view.create_training_data()
    view.init_serving()
    view.init_batch_scoring()
    return view


@settings(
    max_examples=6, deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture
    ],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a store per example: shrinking would take minutes
)  # fmt: skip
@given(drawn=facts())
def test_vector_and_batch_row_are_equal_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, database_settings: dict[str, str],
    drawn: tuple[list[Feature], dict[str, str], list[dict[str, Any]]],
) -> None:  # fmt: skip
    """V10, G18: for every dtype and built-in, composite keys, nulls, missing keys, rows on both sides of the ttl."""
    online = {name: url for name, url in database_settings.items() if name == "online_url"}
    fs = connect(tmp_path_factory.mktemp("home"), clock=lambda: NOW, **online)
    view = scored_view(fs, *drawn)
    options: dict[str, Any] = {"primary_keys": True, "dataframe_type": "arrow"}
    batch, raw = view.get_batch_data(**options), view.get_batch_data(transformed=False, **options)
    entries = raw.select(["bank", "account"]).to_pylist()
    features, inputs = (table.select(table.column_names[2:]).to_pylist() for table in (batch, raw))
    assert view.feature_names == batch.column_names[2:]

    vectors = view.get_feature_vectors(entries, allow_missing=True)
    raw_vectors = view.get_feature_vectors(entries, allow_missing=True, transform=False)
    for entry, vector, raw_vector, row, raw_row in zip(entries, vectors, raw_vectors, features, inputs, strict=True):
        assert bits(raw_vector) == bits(list(raw_row.values()))
        assert bits(vector) == bits(list(row.values()))
        assert bits(view.transform(raw_vector)) == bits(vector)
        assert bits(view.get_feature_vector(entry, allow_missing=True)) == bits(vector)
        by_name = view.get_feature_vector(entry, allow_missing=True, transform=False, return_type="dict")
        assert bits(view.transform(by_name)) == bits(row)
    assert view.transform(raw.select(raw.column_names[2:])).equals(batch.select(batch.column_names[2:]))
    assert bits(view.transform(raw_vectors)) == bits(vectors)

    counting = {(r["bank"], r["account"]) for r in drawn[2] if NOW - r["at"] <= TTL}
    for entry in entries:
        if (entry["bank"], entry["account"]) not in counting:
            with pytest.raises(NotFound):
                view.get_feature_vector(entry)
    fs.close()
