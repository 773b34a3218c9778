"""A feature store on Delta Lake, in one process: feature groups, point-in-time joins, training sets as versions.

>>> import tempfile, pandas as pd
>>> fs = connect(tempfile.mkdtemp())
>>> fg = fs.get_or_create_feature_group("amounts", 1, primary_key=["customer"], event_time="day", online_enabled=True)
>>> fg.insert(pd.DataFrame({"customer": [1], "day": pd.to_datetime(["2021-01-01"]), "amount": [14.0]})).rows_written
1
>>> fg.get_online({"customer": 1}, ["amount"])
{'amount': 14.0}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurestore.errors import (
    Conflict,
    FeatureStoreError,
    InvalidData,
    InvalidTime,
    JoinError,
    NotFound,
    NotReproducible,
    SchemaMismatch,
)
from featurestore.feature_group import FeatureGroup
from featurestore.feature_view import FeatureView
from featurestore.findings import Finding
from featurestore.forget import Forgotten
from featurestore.lineage import Lineage
from featurestore.maintenance import Optimized, Vacuumed
from featurestore.query import Query
from featurestore.schema import Feature
from featurestore.snapshots import Commit
from featurestore.store import FeatureStore, connect
from featurestore.times import Window
from featurestore.training_dataset import Job, TrainingDataset
from featurestore.transformations import TransformationFunction, udf

if TYPE_CHECKING:
    from featurestore.settings import Settings

connection = connect
"""The slides' spelling: `connection().get_feature_store()`."""

login = connect
"""The newer spelling: `login().get_feature_store()`."""

__all__ = [
    "Commit",
    "Conflict",
    "Feature",
    "FeatureGroup",
    "FeatureStore",
    "FeatureStoreError",
    "FeatureView",
    "Finding",
    "Forgotten",
    "InvalidData",
    "InvalidTime",
    "Job",
    "JoinError",
    "Lineage",
    "NotFound",
    "NotReproducible",
    "Optimized",
    "Query",
    "SchemaMismatch",
    "Settings",
    "TrainingDataset",
    "TransformationFunction",
    "Vacuumed",
    "Window",
    "connect",
    "connection",
    "login",
    "udf",
]


def __getattr__(name: str) -> Any:
    # Its library takes a third of the time that all the rest takes to import, and most users never name it.
    if name == "Settings":
        from featurestore.settings import Settings

        return Settings
    raise AttributeError(f"module 'featurestore' has no attribute {name!r}")
