"""Where the lake, the catalog and the online store live."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from featurestore.errors import FeatureStoreError


class Settings(BaseSettings):
    """Settings from arguments, then `FEATURESTORE_*` in the environment, then defaults below `home`.

    Args:
        home: folder of everything local.
        catalog_url: SQLAlchemy URL of the catalog; default a SQLite file in `home`.
        online_url: SQLAlchemy URL of the online store; default a SQLite file in `home`.
        memory_limit: what one offline query may hold in memory before it spills to disk, as DuckDB spells it.
        threads: threads of one offline query; 0 = all cores.
        who: name recorded with each commit; default the operating system's user.
    """

    model_config = SettingsConfigDict(env_prefix="FEATURESTORE_", extra="forbid", frozen=True)

    home: Path = Path(".triptych/store")
    catalog_url: str | None = None
    online_url: str | None = None
    memory_limit: str = Field(default="4GB", pattern=r"^\d+(\.\d+)? ?([KMGT]i?B|%)$")
    threads: int = Field(default=0, ge=0)
    who: str = Field(default_factory=lambda: os.environ.get("USER") or os.environ.get("LOGNAME") or "unknown")

    @property
    def lake(self) -> Path:
        """The folder of the Delta tables."""
        return self.home / "lake"

    @property
    def temp_directory(self) -> str:
        """Where queries put what does not fit into memory, while they run."""
        return str(self.home.resolve() / "tmp")

    @property
    def resolved_catalog_url(self) -> str:
        """The catalog's URL with the default filled in."""
        return self.catalog_url or f"sqlite:///{self.home / 'catalog.db'}"

    @property
    def resolved_online_url(self) -> str:
        """The online store's URL with the default filled in."""
        return self.online_url or f"sqlite:///{self.home / 'online.db'}"


def load(**given: Any) -> Settings:
    """The settings, from arguments, environment and defaults.

    Raises:
        FeatureStoreError: one cannot be meant; the message names it, its variable and what was expected.

    >>> load(threads=-1)
    Traceback (most recent call last):
        ...
    featurestore.errors.FeatureStoreError: The setting threads=-1 cannot be: Input should be greater than or equal ...
    """
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if name not in Settings.model_fields:
            raise FeatureStoreError(
                f"There is no setting {name!r} (settings: {', '.join(Settings.model_fields)})."
            ) from error
        raise FeatureStoreError(
            f"The setting {name}={first['input']!r} cannot be: {first['msg']}. "
            f"Change the argument of connect() or FEATURESTORE_{name.upper()}."
        ) from error
