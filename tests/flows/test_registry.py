"""The registry on a real MLflow database: lineage complete, aliases moved, nothing deleted, damage named."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from featurestore.errors import InvalidData, NotFound, NotReproducible, SchemaMismatch
from featurestore.times import Window
from flows import registry, windows
from flows.settings import Settings

LINEAGE = registry.Lineage(
    feature_view="fraud",
    feature_view_version=1,
    training_dataset_version=4,
    training_dataset_hash="sha256:" + "ab" * 32,
    delta_versions={"fraud_transactions_1": 12, "fraud_labels_1": 3},
    training_window=Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC)),
    source="simulated",
    threshold=0.125,
)
PNG = b"\x89PNG not much of a picture"


@dataclass(frozen=True)
class Trained:
    features: pd.DataFrame
    model: object


@pytest.fixture(scope="module")
def trained() -> Trained:
    import xgboost

    rng = np.random.default_rng(0)
    features = pd.DataFrame(rng.random((300, 3)), columns=["amount", "hour", "distance_km"])
    features.loc[:20, "distance_km"] = np.nan
    labels = (features["amount"] > 0.8).astype(int)
    model = xgboost.XGBClassifier(n_estimators=30, max_depth=2, early_stopping_rounds=2, n_jobs=1)
    return Trained(features, model.fit(features, labels, eval_set=[(features, labels)], verbose=False))


@pytest.fixture(scope="module")
def empty_home(tmp_path_factory) -> Path:
    """One database made once; each test works on a copy (making it takes most of a second)."""
    home = tmp_path_factory.mktemp("registry")
    registry._create_database(Settings(home=home).resolved_mlflow_uri)
    return home


@pytest.fixture
def home(empty_home, tmp_path) -> Path:
    shutil.copytree(empty_home, tmp_path, dirs_exist_ok=True)
    registry.bootstrap(Settings(home=tmp_path, mlflow_uri=None))
    return tmp_path


def log(trained: Trained, *, name: str = "fraud", **changes) -> registry.ModelVersion:
    return registry.log_model(
        name,
        trained.model,
        lineage=replace(LINEAGE, **changes),
        example=trained.features,
        params={"max_depth": 2, "seed": 0},
        metrics={"test.average_precision": 0.61, "test.rows": 300},
        model_card="# Card fraud\n\nNot for anything real.",
        training_report="# Report",
        plots={"precision_recall": PNG},
    )


# --- connecting


def test_two_processes_bootstrap_a_new_home_at_once(tmp_path):
    """Left to itself MLflow fails in both of them and leaves a broken file."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom flows import registry\nfrom flows.settings import Settings\n"
        "registry.bootstrap(Settings(home=Path(sys.argv[1]), mlflow_uri=None))\nprint(registry.champion('fraud'))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=Path(registry.__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out.strip(), err) == (0, "None", "")
    assert sorted(path.name for path in (tmp_path / "mlflow").iterdir()) == ["mlflow.db", "mlflow.db.lock"]


def test_database_half_made_by_a_killed_process_is_made_anew(tmp_path):
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "mlflow.db.new").write_bytes(b"half")
    (tmp_path / "mlflow" / "mlflow.db").touch()
    registry.bootstrap(Settings(home=tmp_path, mlflow_uri=None))
    assert registry.versions("fraud") == []


def test_broken_database_is_named_with_what_to_do(tmp_path):
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "mlflow.db").write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(registry.RegistryUnavailable, match=r"mlflow\.db cannot be read.*move it away"):
        registry.bootstrap(Settings(home=tmp_path, mlflow_uri=None))


def test_database_of_something_else_is_refused(tmp_path):
    import sqlite3

    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE notes (text)")
    with pytest.raises(registry.RegistryUnavailable, match=r"not a complete MLflow database \(tables: notes\)"):
        registry.bootstrap(Settings(home=tmp_path, mlflow_uri=f"sqlite:///{path}"))


def test_database_of_another_mlflow_says_how_to_upgrade(home):
    import sqlite3

    uri = Settings(home=home, mlflow_uri=None).resolved_mlflow_uri
    older = home / "mlflow" / "older.db"
    shutil.copy(home / "mlflow" / "mlflow.db", older)
    with sqlite3.connect(older) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'bd07f7e963c5'")
    older_uri = uri.replace("mlflow.db", "older.db")
    with pytest.raises(registry.RegistryUnavailable, match=f"another MLflow.*mlflow db upgrade {older_uri}"):
        registry.bootstrap(Settings(home=home, mlflow_uri=older_uri))


def test_server_that_does_not_answer_is_named():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(registry.RegistryUnavailable, match=f"{uri} does not answer.*mlflow server"):
        registry.bootstrap(Settings(mlflow_uri=uri))


def test_bootstrap_again_changes_nothing(home, trained):
    made = log(trained)
    registry.bootstrap(Settings(home=home, mlflow_uri=None))
    assert registry.versions("fraud") == [made]


# --- logging


def test_version_carries_its_whole_lineage(home, trained):
    made = log(trained)
    assert (made.name, made.version, made.aliases) == ("fraud", 1, ("challenger",))
    assert made.metrics == {"test.average_precision": 0.61, "test.rows": 300}
    assert made.decision == "registered"
    found = made.lineage
    code = {name: getattr(found, name) for name in ("git_commit", "git_dirty", "lock_hash", "flow_run_id")}
    assert found == replace(LINEAGE, **code)
    assert found.flow_run_id == "none"
    assert len(found.lock_hash) == 64
    assert json.loads(made.tags["delta_versions"]) == LINEAGE.delta_versions


def test_run_keeps_files_dataset_signature_and_example(home, trained):
    import mlflow

    made = log(trained)
    run = mlflow.MlflowClient().get_run(made.run_id)
    folder = registry._folder(made)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"max_depth": "2", "seed": "0"}
    [dataset] = [each.dataset for each in run.inputs.dataset_inputs]
    assert (dataset.name, dataset.digest) == ("fraud_v1_td4", LINEAGE.training_dataset_hash[:36])
    artifacts = home / "mlflow" / "artifacts" / made.run_id / "artifacts"
    assert (artifacts / "model_card.md").read_text().startswith("# Card fraud")
    assert (artifacts / "plots" / "precision_recall.png").read_bytes() == PNG
    assert not list(folder.glob("*.pkl"))
    assert "xgboost" in (folder / "requirements.txt").read_text()
    signature = mlflow.models.Model.load(str(folder / "MLmodel")).signature
    assert [(each.name, each.required) for each in signature.inputs] == [
        ("amount", True),
        ("hour", True),
        ("distance_km", True),  # though the example holds nulls: a column must be there, its values need not
    ]
    assert len(json.loads((folder / "input_example.json").read_text())["data"]) == 5


def test_version_keeps_what_it_goes_by_and_one_without_it_says_nothing(home, trained):
    model = log(trained)
    found = registry.explanation(model)
    assert set(found) == set(trained.features.columns)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    [kept] = home.rglob("explanation.json")
    kept.unlink()
    assert registry.explanation(model) == {}


def test_mlflow_itself_loads_the_version_and_refuses_a_missing_column(home, trained):
    import mlflow

    log(trained)
    model = mlflow.pyfunc.load_model("models:/fraud@challenger")
    expected = trained.model.predict_proba(trained.features)[:, 1]
    assert model.predict(trained.features[["hour", "distance_km", "amount"]]) == pytest.approx(expected)
    with pytest.raises(mlflow.exceptions.MlflowException, match="amount"):
        model.predict(trained.features.drop(columns="amount"))


def test_logging_inside_a_flow_keeps_the_run_id(home, trained, prefect_api):
    from prefect import flow
    from prefect.runtime import flow_run

    @flow
    def training() -> tuple[str, str]:
        made = registry.promote(log(trained), why="first")
        return made.lineage.flow_run_id, f"{made.tags['decision_by']} == flow run {flow_run.name}"

    run_id, by = training()
    assert len(run_id) == 36
    assert by.partition(" == ")[0] == by.partition(" == ")[2]


def test_model_fitted_on_an_array_is_refused(home, trained):
    import xgboost

    model = xgboost.XGBClassifier(n_estimators=2).fit(trained.features.to_numpy(), [0, 1] * 150)
    with pytest.raises(SchemaMismatch, match=r"Fit it on a DataFrame with the columns \['amount'"):
        log(replace(trained, model=model))
    assert registry.versions("fraud") == []


def test_bad_metric_name_leaves_no_version(home, trained):
    with pytest.raises(InvalidData, match="refuses"):
        registry.log_model(
            "fraud", trained.model, lineage=LINEAGE, example=trained.features, params={}, metrics={"a|b?": 1.0},
            model_card="", training_report="",
        )  # fmt: skip
    assert registry.versions("fraud") == []


def test_not_bootstrapped_says_so(home, monkeypatch):
    import mlflow

    monkeypatch.setattr(mlflow, "is_tracking_uri_set", lambda: False)
    with pytest.raises(registry.RegistryUnavailable, match=r"registry\.bootstrap"):
        registry.champion("fraud")


# --- finding


def test_no_champion_yet_is_none_and_the_error_names_the_flow(home, trained):
    assert registry.champion("fraud") is None
    log(trained)
    assert registry.champion("fraud") is None
    with pytest.raises(NotFound, match=r"no champion yet \(registered versions: 1\).*python -m flows\.fraud\.training"):
        registry.require_champion("fraud", trained_by="python -m flows.fraud.training_pipeline")


def test_unknown_version_lists_those_there_are(home, trained):
    log(trained)
    with pytest.raises(NotFound, match=r"'fraud' has no version 7 \(versions: 1\)"):
        registry.version("fraud", 7)


def test_same_data_and_params_are_found_again(home, trained):
    made = log(trained)
    assert registry.existing_for("fraud", LINEAGE.training_dataset_hash) == made
    assert registry.existing_for("fraud", LINEAGE.training_dataset_hash, params={"seed": 0, "max_depth": 2}) == made
    assert registry.existing_for("fraud", LINEAGE.training_dataset_hash, params={"seed": 1, "max_depth": 2}) is None
    assert registry.existing_for("fraud", "sha256:else") is None
    assert registry.existing_for("other", LINEAGE.training_dataset_hash) is None


# --- loading


def test_loaded_model_scores_like_the_trained_one_by_name(home, trained):
    loaded = registry.load(log(trained))
    expected = trained.model.predict_proba(trained.features)[:, 1]
    shuffled = trained.features[["distance_km", "amount", "hour"]].assign(more="ignored")
    assert loaded.feature_names == ("amount", "hour", "distance_km")
    assert loaded.threshold == 0.125
    assert (loaded.score(shuffled) == expected).all()
    row = shuffled.iloc[0]
    vector = [row["amount"], None, row["hour"]]
    alone = loaded.score_vector(vector, ["amount", "distance_km", "hour"])
    assert alone == expected[0]


def test_nullable_and_whole_numbers_score_like_floats(home, trained):
    loaded = registry.load(log(trained))
    whole = pd.DataFrame({"amount": pd.array([1, None], "Int64"), "hour": [True, False], "distance_km": [1, 2]})
    floats = pd.DataFrame({"amount": [1.0, np.nan], "hour": [1.0, 0.0], "distance_km": [1.0, 2.0]})
    assert (loaded.score(whole) == loaded.score(floats)).all()
    assert len(loaded.score(floats.head(0))) == 0


def test_wrong_features_are_named(home, trained):
    loaded = registry.load(log(trained))
    with pytest.raises(SchemaMismatch, match=r"\['hour'\] of the model are missing"):
        loaded.score(trained.features.drop(columns="hour"))
    with pytest.raises(SchemaMismatch, match=r"not: \{'hour': '(str|object)'\}"):
        loaded.score(trained.features.assign(hour="noon"))
    with pytest.raises(SchemaMismatch, match=r"lacks \['distance_km'\]"):
        loaded.score_vector([1.0, 2.0], ["amount", "hour"])
    with pytest.raises(SchemaMismatch, match="not a number"):
        loaded.score_vector([1.0, "noon", 2.0], ["amount", "hour", "distance_km"])


def test_copy_of_the_folder_loads_without_registry_or_network(home, trained, tmp_path, monkeypatch):
    made = log(trained)
    copy = tmp_path / "elsewhere"
    shutil.copytree(registry._folder(made), copy)
    shutil.rmtree(home / "mlflow")

    def refuse(*_args: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    loaded = registry.load(copy)
    assert loaded.threshold == 0.125
    assert len(loaded.score(trained.features)) == 300


@pytest.mark.parametrize("damage", ["changed", "model gone", "description gone", "description damaged"])
def test_damaged_files_are_named_with_what_to_do(home, trained, damage):
    made = log(trained)
    folder = registry._folder(made)
    path = folder / ("model.ubj" if damage in ("changed", "model gone") else "MLmodel")
    if damage == "changed":
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    elif damage == "description damaged":
        path.write_text("{ not yaml")
    else:
        path.unlink()
    with pytest.raises(NotReproducible, match=r"fraud version 1.*train again and promote"):
        registry.load(made)


# --- deciding


def test_promotion_moves_the_aliases_and_says_who_why_when(home, trained):
    first = registry.promote(log(trained), why="no champion before")
    second = log(trained)
    with windows.frozen(datetime(2026, 7, 1, 6, tzinfo=UTC)):
        second = registry.promote(second, why="better by 0.02 [0.01, 0.03]")
    assert second.aliases == ("champion",)
    assert registry.champion("fraud") == second
    assert registry.version("fraud", first.version).aliases == ("previous",)
    assert second.decision == "promoted"
    assert second.tags["decision_why"] == "better by 0.02 [0.01, 0.03]"
    assert second.tags["decision_at"] == "2026-07-01T06:00:00+00:00"
    assert second.tags["decision_by"]


def test_promoting_the_champion_again_keeps_previous(home, trained):
    registry.promote(log(trained), why="first")
    second = registry.promote(log(trained), why="second")
    assert registry.promote(second, why="again") == second
    assert registry.version("fraud", 1).aliases == ("previous",)


def test_rejected_challenger_is_as_visible_and_champion_stays(home, trained):
    champion = registry.promote(log(trained), why="first")
    rejected = registry.reject(log(trained), why="not better than champion")
    assert rejected.decision == "rejected"
    assert rejected.aliases == ("challenger",)
    assert rejected.tags["decision_why"] == "not better than champion"
    assert registry.champion("fraud") == champion


def test_challenger_is_the_newest_version_that_does_not_serve(home, trained):
    assert registry.challenger("fraud") is None
    first = log(trained)
    assert registry.challenger("fraud") == first
    registry.promote(first, why="first")
    assert registry.challenger("fraud") is None
    second = registry.reject(log(trained), why="not better than champion")
    assert registry.challenger("fraud") == second
    registry._client().set_registered_model_alias("fraud", registry.CHAMPION, "2")  # as in the midst of a promotion
    assert registry.challenger("fraud") is None


def test_champion_cannot_be_rejected(home, trained):
    champion = registry.promote(log(trained), why="first")
    with pytest.raises(InvalidData, match="rollback"):
        registry.reject(champion, why="regret")


def test_rollback_goes_back_step_by_step_and_deletes_nothing(home, trained):
    for why in ("first", "second", "third"):
        registry.promote(log(trained), why=why)
    assert registry.rollback("fraud", why="alarms doubled").version == 2
    assert {v.version: v.aliases for v in registry.versions("fraud")} == {1: ("previous",), 2: ("champion",), 3: ()}
    assert registry.version("fraud", 3).decision == "rolled back"
    assert [line.split(" by ")[0].split()[1:] for line in registry.version("fraud", 3).history] == [
        ["promoted"],
        ["rolled", "back"],
    ]
    assert registry.rollback("fraud", why="still").version == 1
    with pytest.raises(NotFound, match="first champion"):
        registry.rollback("fraud", why="again")
    assert [v.version for v in registry.versions("fraud")] == [1, 2, 3]
    assert all(len(registry.load(v).feature_names) == 3 for v in registry.versions("fraud"))


def test_rollback_without_champion_says_so(home):
    with pytest.raises(NotFound, match="no champion"):
        registry.rollback("fraud", why="hm")


def test_model_scaled_by_a_feature_gives_multiples_of_it_in_batch_and_for_one_vector(
    home: Path, trained: Trained
) -> None:
    loaded = registry.load(log(trained, scaled_by="hour"))
    plain = registry.load(log(trained, scaled_by=None))
    scores = loaded.score(trained.features)
    np.testing.assert_allclose(scores, plain.score(trained.features) * trained.features["hour"], rtol=1e-6)
    row = trained.features.iloc[30]
    assert loaded.score_vector(row.tolist(), list(row.index)) == pytest.approx(scores[30], rel=1e-6)
    assert np.isnan(loaded.score(trained.features.assign(hour=np.nan))).all()
    with pytest.raises(SchemaMismatch, match="scaled by 'weight'; its features are"):
        log(trained, scaled_by="weight")
