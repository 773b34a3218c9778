"""What the flows need around them: Prefect server, work pool, deployments, worker and the MLflow pages."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from deployments import automations
from deployments.processes import ProcessError, Processes
from deployments.runs import close_interrupted_runs
from flows.settings import Settings

if TYPE_CHECKING:  # importing Prefect takes 1.7 s; inside functions it happens while the server starts
    from prefect.client.orchestration import SyncPrefectClient

ROOT = Path(__file__).resolve().parents[1]
POOL = "triptych-process"
BACKFILL_QUEUE = "backfill"
PREFECT_PORT = 4200
MLFLOW_PORT = 5000
SERVER_PORT = 8000

Say = Callable[[str], None]


@dataclass(frozen=True)
class Prefect:
    """A running Prefect server: its pages, its API, and the environment that leads a process to it."""

    pages: str
    api: str
    environment: Mapping[str, str]


class WrongSettings(ValueError):
    """Settings that cannot be meant; the message says which and what was expected."""


def source_name(settings: Settings) -> str:
    """Where raw rows come from, as one word; homes are kept apart by it, because a store holds one source.

    For files it names the tables that are not the usual ones.

    >>> source_name(Settings(source="simulated")), source_name(Settings(source="files"))
    ('simulated', 'files')
    >>> source_name(Settings(source="files", fraud_table="sparkov", electricity_table="system"))
    'files-sparkov-system'
    """
    usual = {name: field.default for name, field in Settings.model_fields.items() if name.endswith("_table")}
    other = [getattr(settings, name) for name, table in usual.items() if getattr(settings, name) != table]
    return "-".join([settings.chosen_source, *(other if settings.chosen_source == "files" else [])])


def settings_here() -> Settings:
    """The settings of the environment, with a home named after the source unless TRIPTYCH_HOME names one.

    Raises:
        WrongSettings: a value that is not allowed, or a data folder that is not there.
    """
    try:
        told = Settings()
    except ValidationError as error:
        wrong = "; ".join(f"TRIPTYCH_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        raise WrongSettings(f"{wrong}. flows/settings.py lists the settings.") from error
    if told.data is not None and not told.data.is_dir():
        raise WrongSettings(f"TRIPTYCH_DATA={told.data} is no folder. Name one, or unset it for simulated data.")
    return told if "home" in told.model_fields_set else Settings(home=ROOT / ".triptych" / source_name(told))


def prefect_environment(
    settings: Settings, port: int, *, scheduling: bool, triggers: bool | None = None, root: Path = ROOT
) -> dict[str, str]:
    """Environment of everything that talks to our server: nothing leaves the machine, nothing is asked at a prompt.

    Settings of the user's own Prefect (PREFECT_*) are left out: they may lead to another server.
    `scheduling=False` keeps the server from adding scheduled runs, and `triggers=False` (the default then) from
    starting runs and alarms by events; runs asked for by hand are not affected.
    """
    foreign = ("PREFECT_", "PYTHONDONTWRITEBYTECODE", automations.WEBHOOK)  # a secret that no run needs to know
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    # The flows run in another folder than this command: what is relative is relative to here. They are told by
    # exactly these settings, so a variable that was overruled must not reach them.
    told = {f"TRIPTYCH_{name.upper()}": value for name, value in settings.model_dump().items()}
    kept = {name: value for name, value in kept.items() if name not in told}
    folders = {name: str(value) for name, value in told.items() if value is not None}
    folders["FEATURESTORE_HOME"] = str(settings.store_home.absolute())
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    ours = {
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # XGBoost's threads would wait for each other by spinning: on a busy machine that took minutes, not seconds.
        "OMP_WAIT_POLICY": "passive",
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": f"{automations.HEARTBEAT.total_seconds():.0f}",
        "PREFECT_HOME": str(settings.home / "prefect"),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # Runs go with their logs and artifacts after 90 days, so the newest of a monthly schedule is always there.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(90 * 86400),
        "PREFECT_SERVER_SERVICES_DB_VACUUM_EVENT_RETENTION_OVERRIDES": '{"prefect.flow-run.heartbeat": 86400}',
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P30D",
        "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": str(scheduling).lower(),
        "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": str(scheduling if triggers is None else triggers).lower(),
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "5" if scheduling else "1",
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
    }
    return kept | folders | ours


def become_client(settings: Settings) -> None:
    """Keep Prefect, once it is imported into this process, away from the user's own profile and from long waits.

    By default its client would go on asking a dead server for more than a minute. Three times it must ask: the server
    answers 503 while its SQLite file is locked.
    """
    home = {"PREFECT_HOME": str(settings.home / "prefect"), "PREFECT_CLIENT_MAX_RETRIES": "3", "DO_NOT_TRACK": "1"}
    os.environ.update(home)


def start_prefect(
    processes: Processes,
    settings: Settings,
    *,
    scheduling: bool,
    triggers: bool | None = None,
    queue: str | None = None,
    say: Say = print,
    root: Path = ROOT,
) -> Prefect:
    """Start server and worker, create the pool, deploy everything in prefect.yaml; return once a run can be asked for.

    Args:
        processes: where they are started and logged.
        settings: where everything is kept; its home is that of `processes`.
        scheduling: whether the server adds the runs that the schedules ask for.
        triggers: whether events start runs; default: as with scheduling.
        queue: the only work queue that the worker takes runs from; None means all of the pool.
        say: told what a user would want to know, such as another port than usual.
        root: the folder with prefect.yaml and the packages.
    Raises:
        ProcessError: something did not start; the message ends with its last log lines.
    """
    port = processes.reserve_port(PREFECT_PORT)
    if port != PREFECT_PORT:
        say(f"Port {PREFECT_PORT} is taken, so Prefect's pages are on port {port} this time.")
    environment = prefect_environment(settings, port, scheduling=scheduling, triggers=triggers, root=root)
    prefect = Prefect(f"http://127.0.0.1:{port}", environment["PREFECT_API_URL"], environment)

    server = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    processes.start("server", server, environment=environment, folder=root)
    start_mlflow_database(processes, settings, environment=environment, root=root)
    from prefect.client.orchestration import SyncPrefectClient

    processes.wait_until_healthy("server", f"{prefect.api}/health", timeout_seconds=120)
    with SyncPrefectClient(prefect.api) as client:
        create_pool(client)
        automations.apply(client)
        interrupted = close_interrupted_runs(client, pool=POOL, queue=queue)
    if interrupted:
        say(f"{interrupted} flow run(s) of an earlier start had lost their worker; they are marked Crashed now.")

    start_worker(processes, environment, queue=queue, root=root)
    deploy(processes, prefect, root=root)
    finish_mlflow_database(processes)
    return prefect


def start_worker(
    processes: Processes, environment: Mapping[str, str], *, queue: str | None, name: str = "worker", root: Path = ROOT
) -> None:
    """Start a worker of the pool; `name` is that of the process and its log."""
    worker = f"prefect worker start --pool {POOL} --type process --name triptych-{queue or 'worker'}".split()
    only = ["--work-queue", queue] if queue else []
    processes.start(name, worker + only, environment=environment, folder=root)


def create_pool(client: SyncPrefectClient) -> None:
    """Create the process pool and its queue for backfills unless they are there.

    The worker fills in the job template when it starts. A queue's priority is the smaller number: of runs that wait it
    takes those of the default queue (1) first.
    """
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
    with suppress(ObjectAlreadyExists):
        client.create_work_queue(name=BACKFILL_QUEUE, work_pool_name=POOL, priority=100)


def deploy(processes: Processes, prefect: Prefect, *, root: Path = ROOT) -> None:
    """Run `prefect deploy --all` in the folder of prefect.yaml.

    Raises:
        ProcessError: the pool does not exist, an entry point does not import, prefect.yaml is wrong.
    """
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.exceptions import ObjectNotFound

    with SyncPrefectClient(prefect.api) as client:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound as error:
            raise ProcessError(
                f"The server at {prefect.api} has no work pool {POOL!r}, so nothing can be deployed. "
                f"`make up` creates it; on a server of your own: prefect work-pool create {POOL} --type process"
            ) from error
    command = ["prefect", "--no-prompt", "deploy", "--all"]
    processes.start("deploy", command, environment=prefect.environment, folder=root, ends=True)
    processes.finish("deploy", timeout_seconds=120)


def start_mlflow_database(
    processes: Processes, settings: Settings, *, environment: Mapping[str, str], root: Path = ROOT
) -> None:
    """Begin to create MLflow's SQLite file, unless it exists or a database is named by TRIPTYCH_MLFLOW_URI.

    Two processes that both find no file break it for good, so it is made here, once, before any flow runs; under
    another name, so that a file whose making was interrupted is never used.
    """
    database = processes.home / "mlflow" / "mlflow.db"
    if database.exists() or settings.mlflow_uri:
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    unfinished = database.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    command = ["mlflow", "db", "upgrade", f"sqlite:///{unfinished}"]
    processes.start("mlflow-database", command, environment=environment, folder=root, ends=True)


def finish_mlflow_database(processes: Processes) -> None:
    """Wait until MLflow's SQLite file is made and give it its name."""
    unfinished = processes.home / "mlflow" / "mlflow.new"
    if processes.is_started("mlflow-database"):
        processes.finish("mlflow-database", timeout_seconds=120)
        unfinished.rename(unfinished.with_suffix(".db"))


def start_mlflow_pages(
    processes: Processes, settings: Settings, *, environment: Mapping[str, str], say: Say = print, root: Path = ROOT
) -> str:
    """Start MLflow's pages over the database and return their address; do not wait for them.

    One worker and no job runner: 0.5 GB of memory where the defaults take 2.2 GB.
    """
    port = processes.reserve_port(MLFLOW_PORT)
    if port != MLFLOW_PORT:
        say(f"Port {MLFLOW_PORT} is taken, so MLflow's pages are on port {port} this time.")
    arguments = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    arguments += ["--backend-store-uri", settings.resolved_mlflow_uri]
    arguments += ["--default-artifact-root", settings.mlflow_artifacts.as_uri()]
    quiet = {**environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    processes.start("mlflow", arguments, environment=quiet, folder=root)
    return f"http://127.0.0.1:{port}"


def start_inference_server(
    processes: Processes, *, environment: Mapping[str, str], say: Say = print, root: Path = ROOT
) -> str:
    """Start the inference server and return its address; do not wait for it. It answers once there is a champion."""
    wanted = int(os.environ.get("TRIPTYCH_SERVER_PORT") or SERVER_PORT)
    port = processes.reserve_port(wanted)
    if port != wanted:
        say(f"Port {wanted} is taken, so the inference server is on port {port} this time.")
    processes.start("answers", ["deployments.server", "--port", str(port)], environment=environment, folder=root)
    return f"http://127.0.0.1:{port}"
