"""The code of the talk's slides, with one import changed.

The slides' numbers are made consistent here: their own output ignores the key and changes the year.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import featurestore as hsfs

NAMES = ["amount_last_week", "amount_last_month"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home that `connection()` finds by itself, as on the slides."""
    monkeypatch.setenv("FEATURESTORE_HOME", str(tmp_path / "store"))
    return tmp_path


def feature_pipeline() -> hsfs.FeatureGroup:
    fs = hsfs.connection().get_feature_store()
    transactions_fg = fs.get_or_create_feature_group(
        name="transactions",
        version=1,
        description="What each customer spent in the last week and month.",
        primary_key=["customer_id"],
        event_time="day",
        online_enabled=True,
    )
    transactions_fg.insert(
        pd.DataFrame(
            {
                "customer_id": [1, 1, 1],
                "day": pd.to_datetime(["2021-01-01", "2021-01-07", "2021-01-14"]),
                "amount_last_week": [14, 44, 78],
                "amount_last_month": [87, 80, 82],
            }
        )
    )
    return transactions_fg


def label_pipeline(customers: list[int], ids: list[int]) -> hsfs.FeatureGroup:
    fs = hsfs.login().get_feature_store()
    label_fg = fs.get_or_create_feature_group(name="labels", version=1, primary_key=["id"], event_time="day")
    label_fg.insert(
        pd.DataFrame(
            {
                "id": ids,
                "customer_id": customers,
                "day": pd.to_datetime(["2021-01-01", "2021-01-02", "2021-01-16"]),
                "category": ["short_term", "long_term", "short_term"],
            }
        )
    )
    return label_fg


def feature_view(label_fg: hsfs.FeatureGroup, transactions_fg: hsfs.FeatureGroup) -> hsfs.FeatureView:
    fs = hsfs.connection().get_feature_store()
    min_max_scaler = fs.get_transformation_function(name="min_max_scaler")
    query = label_fg.select(["category"]).join(transactions_fg.select(["amount_last_week", "amount_last_month"]))
    return fs.create_feature_view(
        name="customers",
        version=1,
        query=query,
        labels=["category"],
        transformation_functions={"amount_last_week": min_max_scaler},
    )


class Predict:
    """What a model server calls: made once, asked often."""

    def __init__(self, model_path: Path) -> None:
        fs = hsfs.connection().get_feature_store()
        self.fv = fs.get_feature_view("customers", version=1)
        self.fv.init_serving(1)
        self.model: dict[str, Any] = pickle.loads(model_path.read_bytes())

    def predict(self, customer_id: int) -> str:
        feature_vector = self.fv.get_feature_vector({"customer_id": customer_id})
        values = dict(zip(self.fv.feature_names, feature_vector, strict=True))
        return "short_term" if values["amount_last_week"] >= self.model["threshold"] else "long_term"


def test_point_in_time_query_of_three_customers(home: Path) -> None:
    transactions_fg, label_fg = feature_pipeline(), label_pipeline([1, 2, 3], [1, 2, 3])
    training_df = label_fg.select(["category"]).join(transactions_fg.select(NAMES)).read()
    assert training_df.columns.tolist() == ["category", *NAMES]
    assert training_df["category"].tolist() == ["short_term", "long_term", "short_term"]
    assert training_df["amount_last_week"].tolist() == [14, pd.NA, pd.NA]
    assert training_df["amount_last_month"].tolist() == [87, pd.NA, pd.NA]


def test_point_in_time_query_of_one_customer(home: Path) -> None:
    transactions_fg, label_fg = feature_pipeline(), label_pipeline([1, 1, 1], [1, 2, 3])
    training_df = label_fg.select(["category"]).join(transactions_fg.select(NAMES)).read()
    assert training_df[NAMES].to_numpy().tolist() == [[14, 87], [14, 87], [78, 82]]


def test_split_batch_data_vector_and_predict(home: Path) -> None:
    transactions_fg, label_fg = feature_pipeline(), label_pipeline([1, 1, 1], [1, 2, 3])
    fv = feature_view(label_fg, transactions_fg)

    version, job = fv.create_training_data(description="all labels")
    X, y = fv.get_training_data(version)
    assert (version, job.get_state()) == (1, "FINISHED")
    assert X["amount_last_week"].tolist() == [0.0, 0.0, 1.0]
    assert y["category"].tolist() == ["short_term", "long_term", "short_term"]

    fv.init_batch_scoring(1)
    batch = fv.get_batch_data("2021-01-02", "2021-02-01")
    assert batch.columns.tolist() == NAMES
    assert batch.to_numpy().tolist() == [[0.0, 87], [1.0, 82]]

    assert fv.get_feature_vector({"customer_id": 1}) == [1.0, 82]

    (home / "model.pkl").write_bytes(pickle.dumps({"threshold": 0.5}))
    predictor = Predict(home / "model.pkl")
    assert predictor.predict(1) == "short_term"
    transactions_fg.insert(
        pd.DataFrame(
            {
                "customer_id": [1],
                "day": pd.to_datetime(["2021-01-21"]),
                "amount_last_week": [20],
                "amount_last_month": [90],
            }
        )
    )
    assert predictor.predict(1) == "long_term", "what was inserted is served, without a new Predict"
    with pytest.raises(hsfs.NotFound, match="2"):
        predictor.predict(2)


def test_train_test_split_by_time(home: Path) -> None:
    fv = feature_view(label_pipeline([1, 1, 1], [1, 2, 3]), feature_pipeline())
    X_train, X_test, y_train, y_test = fv.train_test_split(
        train_start="2021-01-01", train_end="2021/01/10", test_start="20210110", test_end="2021-02-01 00:00:00"
    )
    assert X_train["amount_last_month"].tolist() == [87, 87]
    assert X_test["amount_last_month"].tolist() == [82]
    assert X_train["amount_last_week"].tolist() == [0.0, 0.0], "a constant column scales to 0"
    assert (len(y_train), len(y_test)) == (2, 1)


def test_a_feature_pipeline_run_twice_writes_nothing_the_second_time(home: Path) -> None:
    version = feature_pipeline().delta_version
    assert feature_pipeline().delta_version == version
