"""Fixtures that start something: each only when a test asks for it, and then once for the whole session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from deployments.processes import Processes
    from deployments.stack import Prefect

# A slow machine breaks no law.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
# A library that asks for it must not report that our tests ran; and each flow run must find bytecode.
os.environ["DO_NOT_TRACK"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Threads that wait by spinning take the processor from the servers that the tests talk to.
os.environ["OMP_WAIT_POLICY"] = "passive"
# What the person who runs the tests has set up for real work is not for tests to write to.
for name in ("FEATURESTORE_HOME", "PREFECT_API_URL", "TRIPTYCH_HOME", "TRIPTYCH_MLFLOW_URI", "TRIPTYCH_SOURCE"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests share one process of `make test`: those that share what is dear to make.

    All that starts servers on our ports goes together, and so does each system, whose homes are made once; else a file.
    """
    for item in items:
        place = item.path.relative_to(Path(__file__).parents[1])
        shared = place.parts[:2] == ("tests", "deployments") or len(place.parts) == 4
        item.add_marker(pytest.mark.xdist_group(str(place.parent if shared else place)))


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[None]:
    """A Prefect API for flows that a test calls as functions: about 12 s once, then 0.2 s a flow."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    # Without a heartbeat: every flow ends by waiting up to a second for its thread.
    quiet = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_LOGGING_TO_API_ENABLED: False}
    with prefect_test_harness(server_startup_timeout=90), temporary_settings(quiet):
        yield


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """A schema of its own in a real PostgreSQL; without one at TRIPTYCH_TEST_POSTGRES the test is skipped."""
    import uuid

    sa = pytest.importorskip("sqlalchemy")
    pytest.importorskip("psycopg", reason="PostgreSQL tests need psycopg: pip install triptych[postgres]")
    server = os.environ.get("TRIPTYCH_TEST_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1:5432/test")
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 3})
    schema = f"triptych_test_{uuid.uuid4().hex}"
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    except sa.exc.OperationalError as error:
        pytest.skip(f"no PostgreSQL answers at {server}: {error.orig}")
    yield f"{server}?options=-csearch_path%3D{schema}"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
    engine.dispose()


class Stack(NamedTuple):
    """A real server and worker with everything in prefect.yaml deployed, and a client of that server."""

    home: Path
    processes: Processes
    prefect: Prefect
    client: SyncPrefectClient


def switch_triggers(client: SyncPrefectClient, *, on: bool, of: str = "") -> None:
    """Let the triggers of prefect.yaml start runs, or not: those whose name begins so."""
    for each in client.read_automations(limit=200):
        if each.actions[0].type == "run-deployment" and each.name.startswith(of):
            (client.resume_automation if on else client.pause_automation)(each.id)


@pytest.fixture(scope="session")
def prefect_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """What `make demo` starts, on simulated data in a home of its own: about 15 s, once.

    Its schedules and triggers start nothing, unless a test switches a trigger on. Use it as:

        run = Run("fraud-features")
        run_deployment(prefect_stack.client, run, parameters={...})
        assert run.summary["rows_written"] == 3
    """
    from prefect.client.orchestration import SyncPrefectClient

    from deployments.processes import Processes, signals_as_exceptions
    from deployments.stack import start_prefect
    from flows.settings import Settings

    home = tmp_path_factory.mktemp("triptych")
    settings = Settings(home=home, source="simulated", data=None, mlflow_uri=None)
    with signals_as_exceptions(), Processes(home, command="make test") as processes:
        prefect = start_prefect(processes, settings, scheduling=False, triggers=True)
        with SyncPrefectClient(prefect.api) as client:
            switch_triggers(client, on=False)
            yield Stack(home, processes, prefect, client)
