"""The model registry: log a model with all it came from, decide which version serves, load it. Only importer of mlflow.

Versions are never deleted; three aliases move:

    challenger   the newest version, until the gate has decided about it; stays on a rejected one
    champion     the version that serves
    previous     the version that served before; `rollback` returns to it
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from featurestore.errors import FeatureStoreError, InvalidData, NotFound, NotReproducible, SchemaMismatch
from featurestore.times import Window, parse_time
from flows import explaining, windows

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import xgboost
    from mlflow import MlflowClient

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
EXPERIMENT = "triptych"

_MODEL_FILE = "model.ubj"
_ROOT = Path(__file__).resolve().parents[1]
_HISTORY = "decision_history."
_EXPLANATION = "explanation.json"
_EXPLAINED_ROWS = 2_000
_NONE = "none"
_UNKNOWN = "unknown"
_LONGEST_DESCRIPTION = 5000  # a column of that width in MLflow's database


class RegistryUnavailable(FeatureStoreError, RuntimeError):
    """The model registry's database or server is missing, broken, of another version, or does not answer."""


class RegistrySettings(Protocol):
    """What `bootstrap` reads; `flows.settings.Settings` has it."""

    @property
    def resolved_mlflow_uri(self) -> str:
        """Tracking server and registry, such as sqlite:////data/mlflow.db or http://mlflow:5000."""

    @property
    def mlflow_artifacts(self) -> Path:
        """Folder of models and plots; not used with a server, which has its own."""


@dataclass(frozen=True)
class Lineage:
    """What a model was made from: enough to rebuild its data and to serve it with the features it knows.

    `threshold` is the score from which a row is flagged; None for models that flag nothing. `scaled_by` names the
    feature that a model's output is a multiple of; None where the output is the score itself. The last four are found
    by `log_model`: the code (git commit, "unknown" without git), whether it had uncommitted changes, the hash of
    requirements.lock, and the Prefect flow run ("none" outside of one).
    """

    feature_view: str
    feature_view_version: int
    training_dataset_version: int
    training_dataset_hash: str
    delta_versions: Mapping[str, int]
    training_window: Window
    source: str
    threshold: float | None = None
    scaled_by: str | None = None
    git_commit: str = _UNKNOWN
    git_dirty: bool = False
    lock_hash: str = _UNKNOWN
    flow_run_id: str = _NONE


@dataclass(frozen=True)
class ModelVersion:
    """One registered version: never changes, except for its aliases and the decisions about it."""

    name: str
    version: int
    run_id: str
    aliases: tuple[str, ...]
    created: datetime
    metrics: Mapping[str, float] = field(repr=False)
    tags: Mapping[str, str] = field(repr=False)

    @property
    def lineage(self) -> Lineage:
        """What it was made from."""
        return _lineage(self.tags)

    @property
    def threshold(self) -> float | None:
        """The score from which a row is flagged."""
        return self.lineage.threshold

    @property
    def decision(self) -> str:
        """The newest decision: "registered", "promoted", "rejected" or "rolled back"."""
        return self.tags.get("decision", "registered")

    @property
    def history(self) -> list[str]:
        """All decisions, oldest first: time, decision, who, why."""
        return [self.tags[key] for key in sorted(self.tags) if key.startswith(_HISTORY)]

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to score: the booster, the names of its features in order, its threshold and its hash.

    With `scaled_by` the score is the booster's output times that feature of the row, and no number where it is null.
    """

    booster: xgboost.Booster
    feature_names: tuple[str, ...]
    threshold: float | None
    model_hash: str
    scaled_by: str | None = None

    def score(self, features: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The score of each row, in the order of the rows.

        Args:
            features: a number (or null) per feature; columns are found by name, in any order, further ones ignored.
        Returns:
            float32, as many as rows; empty in, empty out.
        Raises:
            SchemaMismatch: a feature is missing or is not numeric; the message names it.
        """
        import numpy as np

        values = _numbers(features, self.feature_names)
        if len(values) == 0:
            return np.empty(0, dtype=np.float32)
        scores = self.booster.inplace_predict(values.to_numpy(), validate_features=False)
        return scores if self.scaled_by is None else scores * values[self.scaled_by].to_numpy(np.float32)

    def score_vector(self, vector: Sequence[float | None], names: Sequence[str]) -> float:
        """The score of one feature vector whose entries are named in its own order, such as by `fv.feature_names`.

        Raises:
            SchemaMismatch: as many names as values are needed, and every feature of the model among them.
        """
        import numpy as np

        given = dict(zip(names, vector, strict=False))
        missing = [name for name in self.feature_names if name not in given]
        if missing or len(names) != len(vector):
            raise SchemaMismatch(
                f"The vector has {len(vector)} values for {len(names)} names and lacks {missing}; "
                f"the model needs {list(self.feature_names)}."
            )
        try:
            row = np.array([[given[name] for name in self.feature_names]], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise SchemaMismatch(
                f"The vector holds something that is not a number: {given}. "
                "Encode text by a transformation of the feature view, such as label_encoder."
            ) from error
        score = float(self.booster.inplace_predict(row, validate_features=False)[0])
        return score if self.scaled_by is None else score * row[0, self.feature_names.index(self.scaled_by)]


# --- connecting --------------------------------------------------------------------------------------


def bootstrap(settings: RegistrySettings) -> None:
    """Connect this process to the registry, and make its database and experiment when they are not there yet.

    Call it first in every process; it takes milliseconds once the database exists. Several processes may do so at
    once: one makes the database, the others wait.

    Raises:
        RegistryUnavailable: the database is broken or of another MLflow, or the server does not answer.
    """
    uri = settings.resolved_mlflow_uri
    mlflow = _mlflow()
    # Older revisions are left to the check below: migrating somebody's database is their decision.
    if uri.startswith("sqlite:///"):
        _create_database(uri)
    elif uri.startswith("http"):
        _check_server(uri)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    with _translated():
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            location = None if uri.startswith("http") else settings.mlflow_artifacts.absolute().as_uri()
            try:
                client.create_experiment(EXPERIMENT, artifact_location=location)
            except mlflow.exceptions.MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # else another process was faster: as good
                    raise
        elif experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)


def _mlflow() -> ModuleType:
    # Before the import: MLflow reads these while it is imported.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow
    import mlflow.exceptions

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow


def _client() -> MlflowClient:
    mlflow = _mlflow()
    if not mlflow.is_tracking_uri_set():
        raise RegistryUnavailable("No model registry is connected. Call registry.bootstrap(Settings()) first.")
    return mlflow.MlflowClient()


def _create_database(uri: str) -> None:
    path = Path(uri.removeprefix("sqlite:///"))
    if _is_database(path):
        return
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_database(path):
            return
        # Built beside and renamed: whoever is killed while the tables are made leaves no half-made database.
        unfinished = path.with_name(path.name + ".new")
        unfinished.unlink(missing_ok=True)
        import mlflow.db

        with _translated(), _quiet_warnings():
            mlflow.db.upgrade.main([f"sqlite:///{unfinished}"], standalone_mode=False)
        os.replace(unfinished, path)


def _is_database(path: Path) -> bool:
    """Whether MLflow's tables are there. A file that is neither empty nor MLflow's is refused."""
    if not path.exists() or path.stat().st_size == 0:
        return False
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        raise RegistryUnavailable(
            f"The model registry {path} cannot be read: {error}. Restore it from a backup, or move it away: "
            "the next run makes a new one (models logged so far are then unknown)."
        ) from error
    if not {"alembic_version", "registered_models", "model_versions", "runs"} <= tables:
        raise RegistryUnavailable(
            f"{path} is not a complete MLflow database (tables: {', '.join(sorted(tables)) or 'none'}). "
            "Move it away, or set TRIPTYCH_MLFLOW_URI to another one."
        )
    return True


def _check_server(uri: str) -> None:
    # MLflow itself would retry for minutes before it says that nobody answers.
    from urllib.error import URLError
    from urllib.request import urlopen

    try:
        with urlopen(f"{uri.rstrip('/')}/health", timeout=5):
            pass
    except (URLError, OSError) as error:
        raise RegistryUnavailable(
            f"The model registry {uri} does not answer: {error}. Start `mlflow server` there, "
            "or unset TRIPTYCH_MLFLOW_URI to use a local file."
        ) from error


@contextmanager
def _translated() -> Iterator[None]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        first = str(error).partition("\n")[0]
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
            raise NotFound(f"The model registry says: {first}") from error
        if error.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST") and "(sqlite3." not in first:
            raise InvalidData(f"The model registry refuses: {first}") from error
        raise RegistryUnavailable(_unavailable(first)) from error
    except (SQLAlchemyError, OSError) as error:
        raise RegistryUnavailable(_unavailable(str(error).partition("\n")[0])) from error


def _unavailable(reason: str) -> str:
    uri = _mlflow().get_tracking_uri()
    if "out-of-date" in reason:
        return f"The model registry was made by another MLflow. Back it up, then run: mlflow db upgrade {uri}"
    return f"The model registry {uri} cannot be used: {reason}. Check that it exists and can be written."


@contextmanager
def _quiet_warnings() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# --- logging a model ---------------------------------------------------------------------------------


def log_model(
    name: str,
    model: xgboost.XGBModel | xgboost.Booster,
    *,
    lineage: Lineage,
    example: pd.DataFrame,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    model_card: str,
    training_report: str,
    plots: Mapping[str, bytes] | None = None,
    requirements: Sequence[str] | None = None,
) -> ModelVersion:
    """Log one training run and register its model as the next version, with the alias "challenger".

    The version appears with all its tags in one step, after everything else is stored: a run killed before leaves no
    version. The model is kept in XGBoost's own format (no pickle), cut to its best iteration, and scores probabilities.

    Args:
        model: fitted, on a frame whose column names are the features.
        lineage: what it was made from; the code and flow run fields are filled in here.
        example: rows of its features such as those of the test. Kept are the first five, as input example and for the
            signature; and, of up to 2,000 spread evenly, the mean size of what each feature adds (`explanation`).
        params: what was chosen: hyper-parameters, seed, windows, anything a rerun must repeat.
        metrics: numbers by name, such as "test.average_precision".
        model_card, training_report: markdown.
        plots: PNG bytes by name without ending.
        requirements: pip requirements to load it; default the installed versions of what it needs.
    Raises:
        SchemaMismatch: the example lacks a feature of the model, or holds something not numeric.
        RegistryUnavailable: not bootstrapped, or the registry does not answer.
    """
    client = _client()
    mlflow = _mlflow()
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    booster = _booster(model, example)
    names = tuple(booster.feature_names or ())
    if lineage.scaled_by not in (None, *names):
        raise SchemaMismatch(
            f"The model is said to be scaled by {lineage.scaled_by!r}; its features are {list(names)}."
        )
    rows = _numbers(example.head(5), names)
    digest = hashlib.sha256(bytes(booster.save_raw("ubj"))).hexdigest()
    loaded = LoadedModel(booster, names, lineage.threshold, digest, lineage.scaled_by)
    sizes = explaining.mean_sizes(loaded, example.iloc[:: max(1, len(example) // _EXPLAINED_ROWS)])
    tags = _tags(_with_code(lineage)) | {
        "model_hash": digest,
        "params_hash": _params_hash(params),
        "decision": "registered",
    }
    # By name and required, whatever nulls the example happens to hold: MLflow would call such a column optional.
    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.double, feature) for feature in names]),
        outputs=Schema([ColSpec(DataType.float)]),
    )
    dataset = MetaDataset(  # type: ignore[abstract]  # MLflow's own example makes one; mypy misses its `profile`
        CodeDatasetSource({key: tags[key] for key in ("feature_view", "training_dataset_hash", "source")}),
        name=f"{lineage.feature_view}_v{lineage.feature_view_version}_td{lineage.training_dataset_version}",
        digest=lineage.training_dataset_hash[:36],  # all that MLflow's column holds; the tag has the whole hash
    )
    with _translated(), _quiet_warnings():
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            raise RegistryUnavailable("The registry has no experiment yet. Call registry.bootstrap(Settings()) first.")
        with mlflow.start_run(
            experiment_id=experiment.experiment_id,
            run_name=f"{name} on training dataset {lineage.training_dataset_version}",
            tags=tags,
            nested=True,
        ) as run:
            mlflow.log_params(dict(params))
            mlflow.log_input(dataset, context="training")
            _log_files(mlflow, model_card, training_report, plots or {})
            mlflow.log_dict(sizes, _EXPLANATION)
            info = mlflow.xgboost.log_model(
                booster,
                name="model",
                model_format="ubj",
                signature=signature,
                input_example=rows,
                pip_requirements=list(requirements or _installed("xgboost-cpu", "xgboost", "numpy", "pandas")),
                metadata=tags | {"name": name},
            )
            mlflow.log_metrics(dict(metrics), model_id=info.model_id)
        try:
            client.create_registered_model(name)
        except mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # every model but the first of its name
                raise
        registered = client.create_model_version(
            name, source=info.model_uri, run_id=run.info.run_id, tags=tags, description=_description(model_card)
        )
        client.set_registered_model_alias(name, CHALLENGER, registered.version)
    return version(name, int(registered.version))


def _booster(model: xgboost.XGBModel | xgboost.Booster, example: pd.DataFrame) -> xgboost.Booster:
    if hasattr(model, "get_booster"):
        booster = model.get_booster()
        # Predictions of the booster alone would use the trees after the best iteration too.
        best = getattr(model, "best_iteration", None) if getattr(model, "early_stopping_rounds", None) else None
        if best is not None:
            booster = booster[: best + 1]
    else:
        booster = model
    if not booster.feature_names:
        raise SchemaMismatch(
            "The model does not know the names of its features: it was fitted on an array. "
            f"Fit it on a DataFrame with the columns {[str(column) for column in example.columns]}."
        )
    return booster


def _numbers(features: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The named columns as float64 (nulls are NaN), in the order of the names."""
    missing = [name for name in names if name not in features.columns]
    if missing:
        raise SchemaMismatch(
            f"The features {missing} of the model are missing. The frame has {[str(c) for c in features.columns]}."
        )
    chosen = features[list(names)]
    try:
        return chosen.astype("float64")
    except (TypeError, ValueError) as error:
        wrong = {name: str(dtype) for name, dtype in chosen.dtypes.items() if not _is_numeric(chosen[name])}
        raise SchemaMismatch(
            f"The model takes numbers, but these features are not: {wrong}. "
            "Encode them by a transformation of the feature view, such as label_encoder."
        ) from error


def _is_numeric(column: pd.Series[Any]) -> bool:
    from pandas.api.types import is_numeric_dtype

    return bool(is_numeric_dtype(column.dtype))


def _log_files(mlflow: ModuleType, model_card: str, training_report: str, plots: Mapping[str, bytes]) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "model_card.md").write_text(model_card, encoding="utf-8")
        (root / "training_report.md").write_text(training_report, encoding="utf-8")
        for name, png in plots.items():
            (root / "plots").mkdir(exist_ok=True)
            (root / "plots" / f"{name}.png").write_bytes(png)
        mlflow.log_artifacts(folder)


def _description(model_card: str) -> str:
    if len(model_card) <= _LONGEST_DESCRIPTION:
        return model_card
    note = "\n\n(cut here; the whole card is the run's artifact model_card.md)"
    return model_card[: _LONGEST_DESCRIPTION - len(note)] + note


def _installed(*distributions: str) -> list[str]:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed_version

    found = []
    for name in distributions:
        try:
            found.append(f"{name}=={installed_version(name)}")
        except PackageNotFoundError:
            continue  # xgboost comes under one of two names
    return found


# --- lineage as tags ---------------------------------------------------------------------------------


def _tags(lineage: Lineage) -> dict[str, str]:
    return {
        "feature_view": lineage.feature_view,
        "feature_view_version": str(lineage.feature_view_version),
        "training_dataset_version": str(lineage.training_dataset_version),
        "training_dataset_hash": lineage.training_dataset_hash,
        "delta_versions": json.dumps(dict(lineage.delta_versions), sort_keys=True),
        "training_start": lineage.training_window.start.isoformat(),
        "training_end": lineage.training_window.end.isoformat(),
        "source": lineage.source,
        "threshold": _NONE if lineage.threshold is None else repr(float(lineage.threshold)),
        "scaled_by": lineage.scaled_by or _NONE,
        "git_commit": lineage.git_commit,
        "git_dirty": str(lineage.git_dirty).lower(),
        "lock_hash": lineage.lock_hash,
        "flow_run_id": lineage.flow_run_id,
    }


def _lineage(tags: Mapping[str, str]) -> Lineage:
    try:
        return Lineage(
            feature_view=tags["feature_view"],
            feature_view_version=int(tags["feature_view_version"]),
            training_dataset_version=int(tags["training_dataset_version"]),
            training_dataset_hash=tags["training_dataset_hash"],
            delta_versions=json.loads(tags["delta_versions"]),
            training_window=Window(parse_time(tags["training_start"]), parse_time(tags["training_end"])),
            source=tags["source"],
            threshold=None if tags["threshold"] == _NONE else float(tags["threshold"]),
            # Versions logged before there were scaled ones lack the tag.
            scaled_by=None if tags.get("scaled_by", _NONE) == _NONE else tags["scaled_by"],
            git_commit=tags["git_commit"],
            git_dirty=tags["git_dirty"] == "true",
            lock_hash=tags["lock_hash"],
            flow_run_id=tags["flow_run_id"],
        )
    except KeyError as error:
        raise InvalidData(
            f"The model version lacks the tag {error}: it was not logged by flows.registry.log_model. Train it again."
        ) from error


def _with_code(lineage: Lineage) -> Lineage:
    from dataclasses import replace

    commit, dirty = _git()
    lock = _ROOT / "requirements.lock"
    return replace(
        lineage,
        git_commit=commit,
        git_dirty=dirty,
        lock_hash=hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else _UNKNOWN,
        flow_run_id=_flow_run_id(),
    )


def _git() -> tuple[str, bool]:
    """The commit of this code, and whether files differ from it; unknown when it is not a git checkout."""
    if not (_ROOT / ".git").exists():  # installed inside somebody else's checkout: their commit says nothing
        return _UNKNOWN, False
    try:
        commit, changes = (
            subprocess.run(["git", "-C", str(_ROOT), *command], capture_output=True, text=True, timeout=5, check=True)
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return _UNKNOWN, False
    return commit.stdout.strip(), bool(changes.stdout.strip())


def _flow_run_id() -> str:
    if "prefect" not in sys.modules:
        return _NONE
    from prefect.runtime import flow_run

    return str(flow_run.id or _NONE)


def _params_hash(params: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(params), sort_keys=True, default=str).encode()).hexdigest()


# --- finding and loading -----------------------------------------------------------------------------


def champion(name: str) -> ModelVersion | None:
    """The concrete version that serves now, or None when no version was promoted yet.

    Look it up once per run and use that version throughout: the alias may move while the run goes on.
    """
    return _by_alias(_client(), name, CHAMPION)


def challenger(name: str) -> ModelVersion | None:
    """The newest version that the gate has not let serve, to be scored in the shadow; None where there is none.

    It is waiting for the gate, or was rejected: then what it would have said shows whether the gate was right.
    """
    found = _by_alias(_client(), name, CHALLENGER)
    # While a version is promoted it has both aliases for a moment: then it is the champion.
    return None if found is None or CHAMPION in found.aliases else found


def require_champion(name: str, *, trained_by: str) -> ModelVersion:
    """The champion, or an error that says which flow makes one.

    Args:
        trained_by: how to run the training flow, such as "python -m flows.fraud.training_pipeline".
    Raises:
        NotFound: no version was promoted yet.
    """
    found = champion(name)
    if found is None:
        numbers = ", ".join(str(v.version) for v in versions(name)) or "none"
        raise NotFound(
            f"Model {name!r} has no champion yet (registered versions: {numbers}). Run its training flow first: "
            f"{trained_by}. A version that the gate rejected does not serve."
        )
    return found


def version(name: str, number: int) -> ModelVersion:
    """One version by its number.

    Raises:
        NotFound: the model has no such version; the message lists those there are.
    """
    client = _client()
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_model_version(name, str(number))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            with _translated():
                raise
        there = ", ".join(str(v.version) for v in versions(name)) or "none"
        raise NotFound(f"Model {name!r} has no version {number} (versions: {there}).") from error
    return _model_version(client, found)


def models() -> list[str]:
    """The names of all registered models, sorted."""
    client = _client()
    with _translated():
        return sorted(model.name for model in client.search_registered_models(max_results=1000))


def versions(name: str) -> list[ModelVersion]:
    """All versions, oldest first; empty when the model is not known."""
    client = _client()
    with _translated():
        found = client.search_model_versions(f"name = '{_quoted(name)}'", order_by=["version_number ASC"])
        if not found:
            return []
        aliases = client.get_registered_model(name).aliases  # the search leaves the aliases out
    return [
        _model_version(client, each, tuple(sorted(a for a, v in aliases.items() if int(v) == int(each.version))))
        for each in found
    ]


def existing_for(
    name: str, training_dataset_hash: str, *, params: Mapping[str, Any] | None = None
) -> ModelVersion | None:
    """The newest version trained on exactly these data, so that training can end as "Skipped"; None when there is none.

    Args:
        params: when given, the version must also have been logged with exactly these params.
    """
    client = _client()
    query = f"name = '{_quoted(name)}' and tags.training_dataset_hash = '{_quoted(training_dataset_hash)}'"
    if params is not None:
        query += f" and tags.params_hash = '{_params_hash(params)}'"
    with _translated():
        found = client.search_model_versions(query, order_by=["version_number DESC"], max_results=1)
    return version(name, int(found[0].version)) if found else None


def load(model: ModelVersion | Path) -> LoadedModel:
    """The model of a version, or of a folder that holds a copy of its files (then without registry or network).

    Raises:
        NotReproducible: its files are gone, damaged, or not the ones that were registered.
    """
    _mlflow()
    from mlflow.models import Model

    folder = model if isinstance(model, Path) else _folder(model)
    path = folder / _MODEL_FILE
    try:
        described = Model.load(str(folder / "MLmodel"))
        raw = path.read_bytes()
    except Exception as error:  # MLflow and YAML raise a dozen kinds for a damaged file
        there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else "no such folder"
        raise NotReproducible(
            f"The files of {model} in {folder} cannot be read ({type(error).__name__}; there: {there}). "
            "Restore the folder from a backup, or train again and promote the new version."
        ) from error
    metadata = described.metadata or {}
    expected = metadata.get("model_hash") if isinstance(model, Path) else model.tags.get("model_hash")
    found = hashlib.sha256(raw).hexdigest()
    if found != expected:
        raise NotReproducible(
            f"The model file {path} is not the one that was registered as {model}: its SHA-256 is {found[:12]}..., "
            f"expected {str(expected)[:12]}... . "
            "Restore the file from a backup, or train again and promote the new version."
        )
    import xgboost

    booster = xgboost.Booster()
    booster.load_model(bytearray(raw))
    lineage, names = _lineage(metadata), tuple(described.signature.inputs.input_names())
    return LoadedModel(booster, names, lineage.threshold, found, lineage.scaled_by)


def explanation(model: ModelVersion) -> dict[str, float]:
    """What a version as a whole goes by: the mean size of what each feature adds to its output, largest first.

    Empty for a version that was registered before this was kept.
    """
    mlflow = _mlflow()
    with _translated():
        kept = {file.path for file in _client().list_artifacts(model.run_id)}
        if _EXPLANATION not in kept:
            return {}
        found: dict[str, float] = mlflow.artifacts.load_dict(f"runs:/{model.run_id}/{_EXPLANATION}")
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def _folder(model: ModelVersion) -> Path:
    mlflow = _mlflow()
    with _translated():
        uri = _client().get_model_version_download_uri(model.name, str(model.version))
        if uri.startswith("file:"):
            from urllib.parse import unquote, urlsplit

            return Path(unquote(urlsplit(uri).path))
        return Path(mlflow.artifacts.download_artifacts(uri))


def page(model: ModelVersion, *, server: str) -> str:
    """The address of a version's page on an MLflow server.

    >>> model = ModelVersion("fraud", 3, "r", (), windows.now(), {}, {})
    >>> page(model, server="http://127.0.0.1:5000/")
    'http://127.0.0.1:5000/#/models/fraud/versions/3'
    """
    return f"{server.rstrip('/')}/#/models/{model.name}/versions/{model.version}"


def _by_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    from mlflow.exceptions import MlflowException

    with _translated():
        try:
            found = client.get_model_version_by_alias(name, alias)
        except MlflowException as error:
            # No such model, and a model without this alias: MLflow has a code of its own for each.
            if error.error_code == "RESOURCE_DOES_NOT_EXIST" or "alias" in str(error):
                return None
            raise
    return _model_version(client, found)


def _model_version(client: MlflowClient, found: Any, aliases: tuple[str, ...] | None = None) -> ModelVersion:
    with _translated():
        metrics = client.get_run(found.run_id).data.metrics
    return ModelVersion(
        name=found.name,
        version=int(found.version),
        run_id=found.run_id,
        aliases=tuple(sorted(found.aliases)) if aliases is None else aliases,
        created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
        metrics=dict(metrics),
        tags=dict(found.tags),
    )


def _quoted(text: str) -> str:
    if "'" in text:
        raise InvalidData(f"{text!r} has a quote; names and hashes in the registry have none.")
    return text


# --- deciding ----------------------------------------------------------------------------------------


def promote(model: ModelVersion, *, why: str) -> ModelVersion:
    """Let this version serve: it becomes champion, the champion until now becomes "previous".

    There is no moment without a champion, and nothing is deleted. Promoting the champion changes nothing.

    Args:
        why: the reason, kept with the version beside who and when.
    """
    client = _client()
    current = champion(model.name)
    if current is not None and current.version == model.version:
        return current
    with _translated():
        if current is not None:
            client.set_registered_model_alias(model.name, PREVIOUS, str(current.version))
        client.set_model_version_tag(
            model.name, str(model.version), "replaced_version", _NONE if current is None else str(current.version)
        )
        _record(client, model, "promoted", why)
        client.set_registered_model_alias(model.name, CHAMPION, str(model.version))
        if CHALLENGER in version(model.name, model.version).aliases:
            client.delete_registered_model_alias(model.name, CHALLENGER)
    return version(model.name, model.version)


def reject(model: ModelVersion, *, why: str) -> ModelVersion:
    """Record that this version shall not serve, as visibly as a promotion; it keeps its alias "challenger".

    Raises:
        InvalidData: it serves now; use `rollback`.
    """
    client = _client()
    if CHAMPION in version(model.name, model.version).aliases:
        raise InvalidData(
            f"{model} is the champion and cannot be rejected. Use registry.rollback({model.name!r}, ...)."
        )
    with _translated():
        _record(client, model, "rejected", why)
    return version(model.name, model.version)


def rollback(name: str, *, why: str) -> ModelVersion:
    """Return to the version that the champion replaced, and return that version. Again goes back one further.

    Raises:
        NotFound: there is no champion, or it replaced none.
    """
    client = _client()
    current = champion(name)
    if current is None:
        raise NotFound(f"Model {name!r} has no champion to roll back from. Promote a version first.")
    replaced = current.tags.get("replaced_version", _NONE)
    if replaced == _NONE:
        raise NotFound(
            f"{current} is the first champion of {name!r}: there is none before it to return to. "
            "Promote another version: triptych promote, or registry.promote(...)."
        )
    target = version(name, int(replaced))
    before = target.tags.get("replaced_version", _NONE)
    with _translated():
        client.set_registered_model_alias(name, CHAMPION, str(target.version))
        if before == _NONE:
            client.delete_registered_model_alias(name, PREVIOUS)
        else:
            client.set_registered_model_alias(name, PREVIOUS, before)
        _record(client, current, "rolled back", why)
        _record(client, target, "promoted", f"rolled back from version {current.version}: {why}")
    return version(name, target.version)


def _record(client: MlflowClient, model: ModelVersion, decision: str, why: str) -> None:
    tags = client.get_model_version(model.name, str(model.version)).tags
    number = 1 + sum(key.startswith(_HISTORY) for key in tags)
    when = windows.now().isoformat(timespec="seconds")
    entries = {
        "decision": decision,
        "decision_why": why,
        "decision_by": _who(),
        "decision_at": when,
        # Those above are overwritten by the next decision; this one stays.
        f"{_HISTORY}{number:03d}": f"{when} {decision} by {_who()}: {why}",
    }
    for key, value in entries.items():
        client.set_model_version_tag(model.name, str(model.version), key, value)


def _who() -> str:
    if _flow_run_id() != _NONE:
        from prefect.runtime import flow_run

        return f"flow run {flow_run.name}"
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return f"uid {os.getuid()}"
