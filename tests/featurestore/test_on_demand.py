"""On-demand features: one function, run on history when it is inserted and on the request when it is served."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import (
    Feature,
    FeatureStore,
    FeatureView,
    InvalidData,
    NotReproducible,
    SchemaMismatch,
    connect,
    udf,
)
from featurestore.schema import as_arrow

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PEOPLE = [
    Feature("id", "bigint"),
    Feature("at", "timestamp"),
    Feature("born", "timestamp"),
    Feature("limit", "double"),
]


@udf("double", drop=["asked_at"])
def age_days(born, asked_at):
    return (asked_at - born) / timedelta(days=1)


@udf("double", drop=["amount"])
def share_of_limit(amount, limit, floor=1.0):
    return amount / max(limit, floor)


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[FeatureStore]:
    store = connect(tmp_path, clock=lambda: NOW)
    yield store
    store.close()


def people_group(fs: FeatureStore, **options: Any) -> Any:
    options = {"features": PEOPLE, "transformation_functions": [age_days, share_of_limit]} | options
    return fs.get_or_create_feature_group(
        "people", 1, primary_key=["id"], event_time="at", online_enabled=True, **options
    )  # fmt: skip


def history() -> pd.DataFrame:
    """Two people; the second has no limit yet."""
    return pd.DataFrame(
        {
            "id": [1, 2],
            "at": pd.to_datetime([NOW, NOW]),
            "born": pd.to_datetime(["2026-02-27", "2026-02-19"], utc=True),
            "limit": [200.0, None],
            "asked_at": pd.to_datetime([NOW, NOW]),
            "amount": [50.0, 10.0],
        }
    )


@pytest.fixture
def view(fs: FeatureStore) -> FeatureView:
    group = people_group(fs)
    group.insert(history())
    scaler = fs.get_transformation_function("min_max_scaler")
    view = fs.get_or_create_feature_view(
        "people", 1, query=group.select(["born", "age_days", "limit", "share_of_limit"]),
        transformation_functions={"age_days": scaler}, inference_helper_columns=["born"],
    )  # fmt: skip
    view.create_training_data()
    return view


def test_insert_computes_them_for_history(fs: FeatureStore) -> None:
    """V9: the frame brings the inputs, the group stores the results as features of its own."""
    group = people_group(fs)
    assert [(f.name, f.on_demand) for f in group.features[-2:]] == [("age_days", True), ("share_of_limit", True)]
    group.insert(history())
    stored = group.read()
    assert list(stored.columns) == ["id", "at", "born", "limit", "age_days", "share_of_limit"]
    assert stored["age_days"].tolist() == [2.0, 10.0]
    assert stored["share_of_limit"].tolist()[0] == 0.25
    assert stored["share_of_limit"].isna().tolist() == [False, True]


@pytest.mark.parametrize("kind", ["polars", "arrow", "stream"])
def test_every_kind_of_batch_is_computed(fs: FeatureStore, kind: str) -> None:
    """G2: also a stream of batches, one after the other."""
    table = as_arrow(history())
    frames = {
        "polars": pl.from_arrow(table), "arrow": table,
        "stream": pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=1)),
    }  # fmt: skip
    group = people_group(fs, features=None)
    group.insert(frames[kind])
    assert group.read()["age_days"].tolist() == [2.0, 10.0]
    assert [f.name for f in group.features if f.on_demand] == ["age_days", "share_of_limit"]


def test_the_request_brings_the_inputs(view: FeatureView) -> None:
    """V9: parameters come from the request, the view's own features stand in for those it leaves out."""
    request = {"asked_at": NOW + timedelta(days=2), "amount": 100.0}
    raw = view.get_feature_vector({"id": 1}, request_parameters=request, transform=False)
    assert raw == [4.0, 200.0, 0.5]
    assert view.get_feature_vector({"id": 1}, request_parameters=request) == [0.25, 200.0, 0.5]
    assert view.get_feature_vector({"id": 1}, request_parameters=request | {"limit": 400}, transform=False)[2] == 0.25
    both = view.get_feature_vectors([{"id": 1}, {"id": 2}], request_parameters=request, transform=False)
    assert both == [[4.0, 200.0, 0.5], [12.0, None, None]]
    each = [request, request | {"amount": 20.0}]
    assert view.get_feature_vectors([{"id": 1}, {"id": 1}], request_parameters=each, transform=False)[1][2] == 0.1


def test_a_passed_feature_needs_no_computing(view: FeatureView) -> None:
    """V11: what is passed is not asked for."""
    passed = {"age_days": 10.0, "share_of_limit": 1}
    assert view.get_feature_vector({"id": 1}, passed) == [1.0, 200.0, 1.0]


@pytest.mark.parametrize(
    ("request_parameters", "message"),
    [
        (None, r"computes \['age_days'\] from the request: put \['asked_at'\] in request_parameters"),
        ({"asked_at": NOW}, r"computes \['share_of_limit'\] .* put \['amount'\] in request_parameters"),
        ({"asked_at": NOW, "amount": 1.0, "amonut": 2.0}, r"request_parameters \['amonut'\] are no inputs"),
        ({"asked_at": NOW, "amount": 1.0, "limit": "2"}, r"request_parameters: 'limit' is double, got '2' \(str\)"),
    ],
)
def test_wrong_request_parameters_are_refused_before_any_read(
    view: FeatureView, request_parameters: Any, message: str
) -> None:
    """V11: missing, unknown and mistyped parameters are named."""
    view.init_serving()
    view._store.online.close()
    Path(str(view._store.online._url.database)).unlink()
    with pytest.raises(SchemaMismatch, match=message):
        view.get_feature_vector({"id": 1}, request_parameters=request_parameters)
    with pytest.raises(SchemaMismatch, match=message):
        view.get_feature_vectors([{"id": 1}], request_parameters=request_parameters)


def test_missing_parameters_are_nulls_when_missing_is_allowed(view: FeatureView) -> None:
    """V9: `allow_missing` covers the request too."""
    assert view.get_feature_vector({"id": 7}, allow_missing=True) == [None, None, None]
    with pytest.raises(InvalidData, match="2 entries but 1 request_parameters"):
        view.get_feature_vectors([{"id": 1}, {"id": 2}], request_parameters=[{}])


@settings(max_examples=40, deadline=None)
@given(
    days=st.integers(-5_000, 5_000),
    amount=st.one_of(st.none(), st.floats(allow_nan=False)),
    limit=st.one_of(st.none(), st.floats(allow_nan=False)),
)
def test_history_and_request_agree_to_the_bit(days: int, amount: float | None, limit: float | None) -> None:
    """V10: for any inputs the function gives an inserted row what it gives a request."""
    from featurestore import on_demand

    asked_at = NOW + timedelta(days=days, microseconds=1)
    frame = pa.table(
        {
            "born": pa.array([NOW], pa.timestamp("us", "UTC")), "asked_at": pa.array([asked_at]),
            "amount": pa.array([amount], pa.float64()), "limit": pa.array([limit], pa.float64()),
        }
    )  # fmt: skip
    functions = on_demand.parse([age_days, share_of_limit], "test")
    inserted = on_demand.computed(frame, functions, PEOPLE, "test").to_pylist()[0]
    for function, arguments in zip(functions, [(NOW, asked_at), (amount, limit)], strict=True):
        kernel = function.load().method.kernel({"parameters": {}}, [pa.null()] * 2)
        assert repr(kernel.scalar(*arguments)) == repr(inserted[function.outputs[0].name])


def test_they_are_computed_for_frames_and_mappings(view: FeatureView) -> None:
    """V9: `compute_on_demand_features` gives back the kind it was given."""
    request = {"asked_at": NOW, "amount": 50.0}
    row = {"limit": 200.0, "born": NOW - timedelta(days=2)}
    with pytest.raises(SchemaMismatch, match=r"read \['born'\], which neither the row"):
        view.compute_on_demand_features({"limit": 200.0}, request)
    assert view.compute_on_demand_features(row, request) == {**row, "age_days": 2.0, "share_of_limit": 0.25}
    assert view.compute_on_demand_features([row, row], [request, request | {"amount": 100}])[1]["share_of_limit"] == 0.5
    with pytest.raises(InvalidData, match="2 rows but 1 request_parameters"):
        view.compute_on_demand_features([row, row], [request])
    for frame in (history(), pl.from_arrow(as_arrow(history()))):
        computed = view.compute_on_demand_features(frame)
        assert type(computed) is type(frame)
        assert list(computed["age_days"]) == [2.0, 10.0]


def test_definitions_that_cannot_work_are_refused(fs: FeatureStore) -> None:
    """V9: before anything is stored."""
    with pytest.raises(SchemaMismatch, match="built-in functions are fitted on training data"):
        people_group(fs, transformation_functions=[fs.get_transformation_function("standard_scaler")("limit")])
    with pytest.raises(SchemaMismatch, match=r"reads \['born'\], which the group does not store"):
        people_group(fs, features=[f for f in PEOPLE if f.name != "born"])
    with pytest.raises(SchemaMismatch, match="declared as bigint, but its function gives double"):
        people_group(fs, features=[*PEOPLE, Feature("age_days", "bigint")])
    with pytest.raises(SchemaMismatch, match=r"several on-demand functions give \['age_days'\]"):
        people_group(fs, transformation_functions=[age_days, age_days])
    with pytest.raises(SchemaMismatch, match=r"reads \['age_days'\], which on-demand functions give"):
        people_group(fs, transformation_functions={"age_days": age_days, "late": age_days("age_days", "asked_at")})
    assert fs.get_feature_groups() == []


def test_a_batch_lacks_no_input_and_brings_no_result(fs: FeatureStore) -> None:
    """G6: the functions are part of the contract."""
    group = people_group(fs)
    with pytest.raises(SchemaMismatch, match=r"reads \['asked_at'\], which the frame lacks"):
        group.insert(history().drop(columns="asked_at"))
    with pytest.raises(SchemaMismatch, match=r"\['age_days'\] are computed by .*age_days: leave them out"):
        group.insert(history().assign(age_days=1.0))
    group.insert(history())
    with pytest.raises(SchemaMismatch, match="exists with the on-demand functions"):
        people_group(fs, features=None, transformation_functions=[age_days])
    assert people_group(fs, features=None, transformation_functions=None).insert(history()).rows_written == 0


def test_a_function_whose_source_changed_is_refused(
    fs: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V2: it is stored by module, name and hash of its source, as every custom function."""
    module = tmp_path / "doubling.py"
    source = "from featurestore import udf\n\n\n@udf('double')\ndef doubled(limit):\n    return limit * {}\n"
    module.write_text(source.format(2))
    monkeypatch.syspath_prepend(str(tmp_path))
    doubled = importlib.import_module("doubling").doubled
    people_group(fs, transformation_functions=[doubled]).insert(history().drop(columns=["asked_at", "amount"]))
    again = fs.get_feature_group("people", 1)
    assert again.read()["doubled"].tolist()[0] == 400.0
    from featurestore import transformations

    monkeypatch.setattr(transformations, "_DEFINED", {})  # as in another process
    module.write_text(source.format(3))
    monkeypatch.delitem(sys.modules, "doubling")
    importlib.invalidate_caches()
    with pytest.raises(NotReproducible, match="doubling:doubled"):
        again.insert(history().drop(columns=["asked_at", "amount"]))


def test_helper_columns_feed_functions_and_stay_out_of_vectors(fs: FeatureStore) -> None:
    """V9: an inference helper column stands in for a parameter; it has a call of its own."""
    group = people_group(fs)
    group.insert(history())
    view = fs.get_or_create_feature_view(
        "helped", 1, query=group.select(["born", "age_days", "limit"]), inference_helper_columns=["born"]
    )
    view.create_training_data()
    assert view.get_feature_vector({"id": 1}, request_parameters={"asked_at": NOW}) == [2.0, 200.0]
    born = NOW - timedelta(days=2)
    assert view.get_inference_helper({"id": 1}) == {"born": born}
    assert view.get_inference_helpers([{"id": 2}, {"id": 1}], return_type="list") == [
        [NOW - timedelta(days=10)],
        [born],
    ]
    batch = view.get_batch_data(inference_helper_columns=True, dataframe_type="arrow").to_pylist()
    assert batch[0] == {"born": born, "age_days": 2.0, "limit": 200.0}
    plain = fs.get_or_create_feature_view("plain", 1, query=group.select(["limit"]))
    with pytest.raises(SchemaMismatch, match="has no inference helper columns"):
        plain.get_inference_helper({"id": 1})
