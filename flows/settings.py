"""What the pipelines are told from outside: where their state lives and which source feeds them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

if TYPE_CHECKING:
    from featurestore import FeatureStore


class Settings(BaseSettings):
    """Settings from arguments, then `TRIPTYCH_*` in the environment, then defaults below `home`.

    Args:
        home: folder of everything local: store, model registry, Prefect's own state.
        data: folder with the tables of the file sources (`fraud/handbook_transactions_....parquet`, ...), or None.
        source: where raw rows come from. "auto" is "files" when `data` is given, else "simulated"; never live.
        fraud_table: which card transactions the files give: "handbook", "sparkov" or "serverless".
        electricity_table: which demand the files give: "zones" (2021 to 2024) or "system" (2017 to 2020, the whole
            state, with the operator's own forecast).
        mlflow_uri: tracking server and model registry; default a SQLite file in `home`.

    >>> Settings(home="/tmp/demo", data=None, source="auto").chosen_source
    'simulated'
    >>> Settings(home="/tmp/demo", mlflow_uri=None).resolved_mlflow_uri
    'sqlite:////tmp/demo/mlflow/mlflow.db'
    """

    model_config = SettingsConfigDict(env_prefix="TRIPTYCH_", env_ignore_empty=True, extra="forbid", frozen=True)

    home: Path = Path(".triptych")
    data: Path | None = None
    source: Literal["auto", "simulated", "files", "live"] = "auto"
    fraud_table: str = "handbook"
    electricity_table: Literal["zones", "system"] = "zones"
    mlflow_uri: str | None = None

    @field_validator("home", "data")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        # Workers start flow runs in folders of their own: what is relative is relative to here.
        return None if path is None else path.expanduser().absolute()

    @property
    def chosen_source(self) -> Literal["simulated", "files", "live"]:
        """The source with "auto" decided."""
        if self.source == "auto":
            return "files" if self.data is not None else "simulated"
        return self.source

    @property
    def store_home(self) -> Path:
        """The feature store's folder: `FEATURESTORE_HOME`, else below `home`."""
        return Path(os.environ.get("FEATURESTORE_HOME") or self.home / "store")

    @property
    def resolved_mlflow_uri(self) -> str:
        """The model registry's address with the default filled in."""
        return self.mlflow_uri or f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> Path:
        """The folder of models, plots and reports."""
        return self.home / "mlflow" / "artifacts"


def connect() -> FeatureStore:
    """The feature store of this environment, with its model registry connected: how a flow that needs both begins.

    Raises:
        RegistryUnavailable: as `registry.bootstrap`.
    """
    import featurestore
    from flows import registry

    settings = Settings()
    fs = featurestore.connect(home=settings.store_home)
    registry.bootstrap(settings)
    return fs
