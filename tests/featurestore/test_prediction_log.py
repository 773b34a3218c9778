"""The log of a view: what went in, what came out, and who said so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from featurestore import Feature, FeatureStore, FeatureView, InvalidData, NotFound, SchemaMismatch, connect

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[FeatureStore]:
    store = connect(tmp_path, clock=lambda: NOW)
    yield store
    store.close()


def scored_view(fs: FeatureStore, **options: Any) -> FeatureView:
    """Orders of customers whose balance and segment are known; the price comes with the request."""
    orders = fs.get_or_create_feature_group(
        "orders", 1, primary_key=["id"], event_time="at",
        features=[
            Feature("id", "bigint"), Feature("at", "timestamp"), Feature("buyer", "string"),
            Feature("price", "double", on_demand=True), Feature("y", "bigint"),
        ],
    )  # fmt: skip
    orders.insert(pd.DataFrame({"id": [1, 2], "at": NOW, "buyer": ["a", "b"], "price": [1.0, 3.0], "y": [0, 1]}))
    customers = fs.get_or_create_feature_group(
        "customers", 1, primary_key=["name"], event_time="at", online_enabled=True
    )
    customers.insert(pd.DataFrame({"name": ["a", "b"], "at": NOW, "balance": [10.0, 20.0], "segment": ["x", None]}))
    query = orders.select(["price", "y"]).join(
        customers.select(["balance", "segment"]), left_on=["buyer"], right_on=["name"]
    )
    scaler, encoder = (fs.get_transformation_function(n) for n in ("min_max_scaler", "one_hot_encoder"))
    view = fs.get_or_create_feature_view(
        "orders", 1, query=query, labels=["y"], transformation_functions={"balance": scaler, "segment": encoder},
        **{"logging_enabled": True} | options,
    )  # fmt: skip
    view.create_training_data()
    return view


def test_a_logged_vector_is_read_again_raw_and_transformed(fs: FeatureStore) -> None:
    """V13: features as they came and as the model got them, prediction, model, view, training set, request id, time."""
    view = scored_view(fs)
    entry, passed = {"buyer": "b"}, {"price": 3.0}
    raw = view.get_feature_vector(entry, passed, transform=False)
    assert view.log(raw, 0.75, "fraud", entries=entry, model_version=3, request_id="r1") == 1
    (row,) = view.read_log(dataframe_type="arrow").to_pylist()
    assert row == {
        "__request_time": NOW, "__request_id": "r1", "__model": "fraud", "__model_version": "3", "__view": "orders",
        "__view_version": 1, "__training_dataset_version": 1, "buyer": "b", "price": 3.0, "balance": 20.0,
        "segment": None, "__prediction": 0.75,
    }  # fmt: skip
    (given,) = view.read_log(transformed=True, dataframe_type="arrow").to_pylist()
    assert [given[n] for n in view.feature_names] == view.get_feature_vector(entry, passed) == [3.0, 1.0, False]
    assert type(view.read_log()) is pd.DataFrame
    assert type(view.read_log(dataframe_type="polars")) is pl.DataFrame


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow", "vectors", "mappings"])
def test_a_batch_of_any_kind_is_one_commit(fs: FeatureStore, kind: str) -> None:
    """V13: a frame brings its keys, vectors come with their entries."""
    view = scored_view(fs)
    frame = pa.table({"buyer": ["a", "b"], "price": [1.0, 3.0], "balance": [10.0, 20.0], "segment": ["x", None]})
    vectors: Any = [list(row.values())[1:] for row in frame.to_pylist()]
    given = {
        "pandas": frame.to_pandas(), "polars": pl.from_arrow(frame), "arrow": frame, "vectors": vectors,
        "mappings": [dict(zip(["price", "balance", "segment"], v, strict=True)) for v in vectors],
    }[kind]  # fmt: skip
    entries = [{"buyer": "a"}, {"buyer": "b"}] if isinstance(given, list) else None
    for predictions in ([0, 1], np.array([0.0, 1.0]), pd.Series([0, 1]), pa.array([0, 1])):
        assert view.log(given, predictions, entries=entries) == 2
    logged = view.read_log(dataframe_type="arrow").sort_by([("buyer", "ascending")])
    assert logged["__prediction"].to_pylist() == [0.0] * 4 + [1.0] * 4
    assert logged["balance"].to_pylist() == [10.0] * 4 + [20.0] * 4
    assert len(set(logged["__request_id"].to_pylist())) == 8


def test_the_log_is_read_by_time_model_and_training_dataset(fs: FeatureStore) -> None:
    """V13: half-open, by request time; what another training dataset one-hot encoded is null, not lost."""
    view = scored_view(fs)
    row, key = [1.0, 10.0, "x"], {"buyer": "a"}
    fs.get_feature_group("customers", 1).insert(
        pd.DataFrame({"name": ["b"], "at": [NOW], "balance": [20.0], "segment": ["z"]})
    )
    view.create_training_data()
    for hour in range(4):
        view.log(
            row, float(hour), f"m{hour % 2}", entries=key, request_time=NOW + hour * HOUR, model_version=hour,
            training_dataset_version=1 + hour // 2,
        )  # fmt: skip

    def predictions(*times: Any, **chosen: Any) -> list[float]:
        return view.read_log(*times, dataframe_type="arrow", **chosen)["__prediction"].to_pylist()

    assert predictions() == [0.0, 1.0, 2.0, 3.0]
    assert predictions(NOW + HOUR, NOW + 3 * HOUR) == [1.0, 2.0]
    assert predictions(model="m1") == [1.0, 3.0]
    assert predictions(model="m1", model_version=3) == predictions(training_dataset_version=2, model="m1") == [3.0]
    assert predictions(model="nobody") == predictions(NOW + 9 * HOUR) == []
    encoded = view.read_log(transformed=True, dataframe_type="arrow")
    assert encoded["segment_z"].to_pylist() == [None, None, False, False]
    first = view.read_log(NOW, NOW + HOUR, transformed=True, dataframe_type="arrow")
    assert first["segment_z"].to_pylist() == [None]


def test_a_request_logged_twice_in_a_batch_counts_once(fs: FeatureStore) -> None:
    """V13: a retried request is still one request."""
    view = scored_view(fs)
    rows, keys = [[1.0, 10.0, "x"]] * 3, [{"buyer": n} for n in "aba"]
    assert view.log(rows, [0.1, 0.2, 0.3], entries=keys, request_id=["r1", "r2", "r1"]) == 2
    logged = view.read_log(dataframe_type="arrow").to_pylist()
    assert [(r["__request_id"], r["buyer"], r["__prediction"]) for r in logged] == [("r1", "a", 0.1), ("r2", "b", 0.2)]


def test_predictions_may_be_several_lists_or_text(fs: FeatureStore) -> None:
    """V13: named outputs have a column each."""
    view = scored_view(fs)
    row, key = [1.0, 10.0, "x"], {"buyer": "a"}
    view.log([row], pd.DataFrame({"score": [0.5], "class": ["fraud"]}), entries=[key])
    view.log([row], {"score": [1]}, entries=[key])
    logged = view.read_log(dataframe_type="arrow")
    assert sorted(logged["__prediction.score"].to_pylist()) == [0.5, 1.0]
    assert sorted(logged["__prediction.class"].to_pylist(), key=str) == [None, "fraud"]
    view.log([row], np.array([[0.25, 0.75]]), entries=[key], request_id="list")
    with pytest.raises(InvalidData, match="Predictions are numbers, lists of numbers or text"):
        view.log([row], [b"fraud"], entries=[key])
    (found,) = [r for r in view.read_log(dataframe_type="arrow").to_pylist() if r["__request_id"] == "list"]
    assert found["__prediction"] == [0.25, 0.75]


def test_what_cannot_be_logged_is_refused_and_leaves_no_row(fs: FeatureStore) -> None:
    """V13: a view without a log says so; keys, features and lengths are checked before anything is written."""
    view = scored_view(fs)
    row, key = [1.0, 10.0, "x"], {"buyer": "a"}
    with pytest.raises(SchemaMismatch, match=r"needs the keys \['buyer'\] of each row"):
        view.log(row, 1.0)
    with pytest.raises(SchemaMismatch, match="'balance' is double, got 'ten'"):
        view.log([1.0, "ten", "x"], 1.0, entries=key)
    with pytest.raises(InvalidData, match="is no vector of the 3 features price, balance, segment"):
        view.log([[1.0, 10.0]], [1.0], entries=[key])
    with pytest.raises(InvalidData, match=r"1 rows of features, but {'__prediction': 2} of other columns"):
        view.log(row, [1.0, 2.0], entries=key)
    with pytest.raises(SchemaMismatch, match="is bigint, expected string"):
        view.log(row, 1.0, entries={"buyer": 7})
    with pytest.raises(NotFound, match="no training dataset 9"):
        view.log(row, 1.0, entries=key, training_dataset_version=9)
    assert view.read_log(dataframe_type="arrow").num_rows == 0
    assert view.read_log().columns[-3:].tolist() == ["price", "balance", "segment"]
    silent = fs.get_or_create_feature_view(
        "silent", 1, query=fs.get_feature_group("customers", 1).select(["balance"])
    )  # fmt: skip
    for call in (lambda: silent.log([[1.0]], [1.0]), silent.read_log):
        with pytest.raises(SchemaMismatch, match=r"keeps no log\. Create its next version with logging_enabled=True"):
            call()


def test_a_forgotten_key_leaves_the_log(fs: FeatureStore) -> None:
    """G14: keys are plain columns, so that they can be found."""
    view = scored_view(fs)
    view.log([[1.0, 10.0, "x"], [3.0, 20.0, None]], [0.1, 0.2], entries=[{"buyer": "a"}, {"buyer": "b"}])
    report = fs.get_feature_group("customers", 1).forget(pd.DataFrame({"name": ["a"]}))
    assert report.rows_elsewhere == {"logs/orders_1": 1}
    assert view.read_log(dataframe_type="arrow")["buyer"].to_pylist() == ["b"]


def test_two_processes_log_at_once_and_lose_nothing(fs: FeatureStore, tmp_path: Path) -> None:
    """C3: from the first row on, when the table is not there yet."""
    scored_view(fs)
    code = (
        "import sys, featurestore\n"
        "view = featurestore.connect(sys.argv[1]).get_feature_view('orders', 1)\n"
        "for n in range(5):\n"
        "    view.log([1.0, 10.0, 'x'], float(n), entries={'buyer': sys.argv[2]})\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "ab"]
    assert [process.wait() for process in running] == [0, 0]
    logged = fs.get_feature_view("orders", 1).read_log(dataframe_type="arrow")
    assert sorted(logged["buyer"].to_pylist()) == ["a"] * 5 + ["b"] * 5
