"""Databases to test on: a SQLite file, and a schema of its own in a real PostgreSQL server."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVER = os.environ.get("TRIPTYCH_TEST_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1:5432/test")


@pytest.fixture
def postgresql_url() -> Iterator[str]:
    """An empty schema, dropped afterwards; without a server the test is skipped."""
    import sqlalchemy as sa

    pytest.importorskip("psycopg", reason="PostgreSQL tests need psycopg: pip install triptych[postgres]")
    engine = sa.create_engine(SERVER, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 3})
    schema = f"triptych_test_{uuid.uuid4().hex}"
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    except sa.exc.OperationalError as error:
        pytest.skip(f"no PostgreSQL answers at {SERVER} (set TRIPTYCH_TEST_POSTGRES): {error.orig}")
    yield f"{SERVER}?options=-csearch_path%3D{schema}"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same test on both."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'deep' / 'database.db'}"
    return request.getfixturevalue("postgresql_url")


@pytest.fixture
def database_settings(database_url: str) -> dict[str, str]:
    """What to connect with, so that catalog and online store lie in that database."""
    return {} if database_url.startswith("sqlite") else {"catalog_url": database_url, "online_url": database_url}
