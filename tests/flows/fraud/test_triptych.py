"""The `triptych` command on a home where card fraud has run: tables and JSON say the same, refusals change nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from deployments.cli import app
from flows import deciding, evaluation, registry, windows
from flows.fraud import schema
from tests.flows.fraud.conftest import END, living_in

MODEL = schema.MODEL
SCORED = timedelta(days=10)  # of the first three days the outcome is known


@pytest.fixture(scope="module")
def lived_in(trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A champion with ten days of predictions, and a second version that the gate rejected."""
    from flows.fraud.inference_pipeline import fraud_inference

    home = Path(shutil.copytree(trained_once, tmp_path_factory.mktemp("command") / "home"))
    with living_in(home) as settings, windows.frozen(END):
        registry.bootstrap(settings)
        fraud_inference(start=END - SCORED, end=END)
        first = registry.champion(MODEL)
        assert first is not None
        loaded = registry.load(first)
        second = registry.log_model(
            MODEL, loaded.booster, lineage=first.lineage, params={"seed": 2}, metrics=first.metrics,
            example=pd.DataFrame([dict.fromkeys(loaded.feature_names, 0.5)] * 3),
            model_card="# The same once more", training_report="# Report", requirements=["xgboost-cpu"],
        )  # fmt: skip
        deciding.decide(second, evaluation.Decision(False, ("no better than version 1",)))
    return home


@pytest.fixture
def here(lived_in: Path) -> Iterator[Path]:
    with living_in(lived_in) as settings, windows.frozen(END + timedelta(hours=1)):
        registry.bootstrap(settings)
        yield lived_in


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "400"})


def said(*arguments: str, code: int = 0) -> str:
    """What a command prints, in one line where it wraps."""
    found = run(*arguments)
    assert found.exit_code == code, found.output
    return found.stdout if code == 0 else found.output


def facts(*arguments: str, code: int = 0) -> Any:
    found = run(*arguments, "--json")
    assert found.exit_code == code, found.output
    return json.loads(found.stdout)


# --- status ------------------------------------------------------------------------------------------


def test_status_says_what_serves_and_how_many_predictions_wait_for_their_truth(here: Path) -> None:
    [fraud] = facts("status", "fraud")["systems"]
    [model] = fraud["models"]
    assert (model["champion"]["version"], model["challenger"]["version"]) == (1, 2)
    assert model["challenger"]["decision"] == "rejected"
    made = model["predictions"]
    assert made["made"] == made["pending"] + made["matured"] + made["expired"] == made["versions"]["1"]["made"]
    assert made["pending"] > made["matured"] > 0 == made["expired"]
    table = said("status", "fraud")
    assert f"{made['made']:,}: {made['matured']:,} matured, {made['pending']:,} pending, 0 expired" in table
    assert "2 rejected" in table
    assert all(group["group"] in table for group in fraud["groups"])


def test_status_is_red_and_its_exit_code_1_when_a_group_breaks_its_promise(here: Path) -> None:
    with windows.frozen(END + timedelta(hours=4)):
        [fraud] = facts("status", "fraud", code=1)["systems"]
    assert fraud["state"] == "red"
    assert "fraud_transactions@1" in fraud["why"][0]
    assert fraud["why"][0].endswith("4 h old, may be 3 h")


def test_a_system_that_never_ran_is_not_started_and_not_red(here: Path) -> None:
    by_name = {each["system"]: each for each in facts("status")["systems"]}
    assert by_name["stock"]["state"] == "not started"
    assert by_name["fraud"]["state"] in ("green", "yellow")


# --- lineage and impact ------------------------------------------------------------------------------


def of_kind(tree: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    below = [each for related in tree["related"] for each in of_kind(related, kind)]
    return [tree, *below] if tree["kind"] == kind else below


def test_lineage_goes_from_the_version_to_the_source_and_to_its_predictions(here: Path) -> None:
    """T14, X2."""
    tree = facts("lineage", f"{MODEL}@1")
    [dataset], [view] = of_kind(tree, "training dataset"), of_kind(tree, "feature view")
    groups = {each["name"]: each["facts"] for each in of_kind(tree, "feature group")}
    version = registry.version(MODEL, 1)
    assert (dataset["version"], view["name"]) == (version.lineage.training_dataset_version, schema.VIEW)
    assert version.lineage.training_dataset_hash.startswith(dataset["facts"]["hash"])
    assert {f"{name}_v1": each["Delta_version"] for name, each in groups.items()} == dict(
        version.lineage.delta_versions
    )
    assert [each["name"] for each in of_kind(tree, "source")] == ["simulated"] * len(groups)
    assert of_kind(tree, "git commit")[0]["name"] == version.lineage.git_commit
    [predictions] = of_kind(tree, "predictions")
    assert predictions["facts"]["rows"] == facts("status", "fraud")["systems"][0]["models"][0]["predictions"]["made"]
    table = said("lineage", f"{MODEL}@champion")
    assert table == said("lineage", MODEL)
    for each in (dataset["facts"]["hash"], version.run_id, version.lineage.flow_run_id, *groups):
        assert str(each) in table


def test_impact_goes_from_the_group_to_what_serves(here: Path) -> None:
    """X2, F18."""
    tree = facts("impact", schema.LABELS_GROUP)
    models = {each["version"]: each for each in of_kind(tree, "model")}
    assert {number: each["facts"]["as"] for number, each in models.items()} == {1: "champion", 2: "challenger"}
    assert [each["name"] for each in of_kind(models[1], "predictions")] == [schema.PREDICTIONS_GROUP]
    assert of_kind(models[2], "predictions") == []
    assert f"trained model {MODEL} version 1 (as champion)" in said("impact", f"{schema.LABELS_GROUP}@1")


def test_dropping_a_column_that_the_champion_learned_from_exits_with_1_and_names_it(here: Path) -> None:
    """F18: whom a change breaks."""
    found = facts("impact", schema.TRANSACTIONS_GROUP, "--drop", "amount", code=1)
    assert {each["what"]: each["serves"] for each in found} == {
        f"feature view {schema.VIEW}@1": True,
        f"training dataset 1 of {schema.VIEW}@1": False,
        f"model {MODEL}@1 (champion)": True,
        f"model {MODEL}@2 (challenger)": False,
    }
    assert "learned from amount: mean effect" in said("impact", schema.TRANSACTIONS_GROUP, "--drop", "amount", code=1)
    keys = facts("impact", schema.CARD_WINDOWS_GROUP, "--drop", "cc_num", code=1)
    assert keys[1]["how"] == "did not learn from it, but its view cannot be read without it"


def test_a_change_of_the_label_concerns_training_and_monitoring_but_nothing_that_serves(here: Path) -> None:
    found = facts("impact", schema.LABELS_GROUP, "--change", "is_fraud")
    assert [each["what"] for each in found] == [
        f"feature view {schema.VIEW}@1", f"training dataset 1 of {schema.VIEW}@1", f"monitoring of {MODEL}",
    ]  # fmt: skip
    assert "No view and no monitoring reads fraud_cards.opened" in said("impact", "fraud_cards", "--drop", "opened")


# --- predictions -------------------------------------------------------------------------------------


def test_a_prediction_is_explained_by_its_id_down_to_the_rows_that_gave_its_features(here: Path) -> None:
    """Story 24: raw and transformed features, Delta versions, training dataset, code."""
    [listed] = facts("predictions", "fraud", "--limit", "1")
    assert listed["state"] == "pending"
    found = facts("explain", listed["id"])
    assert found == facts("explain", f"fraud:tid={listed['id'].partition('tid=')[2].partition(',')[0]}")
    [model] = found["models"]
    assert model["said"] == listed["said"] == found["prediction"]["score"] == pytest.approx(model["output"], abs=1e-6)
    by_name = {each["feature"]: each for each in model["features"]}
    category, hour = by_name["category"], by_name["hour"]
    assert isinstance(category["raw"], str)  # as the view gives it
    assert category["given"] >= 0  # as the model is given it: encoded
    assert hour["raw"] == hour["given"] == pd.Timestamp(found["prediction"]["datetime"]).hour
    assert hour["event_time"] == found["prediction"]["datetime"]
    assert by_name["amount_count_7d"]["event_time"] < hour["event_time"]
    assert by_name["amount_count_7d"]["group"] == "fraud_card_windows@1"
    assert {each["delta_version"] for each in model["features"]} <= set(range(100))
    sizes = [abs(each["contribution"]) for each in model["features"]]
    assert sizes == sorted(sizes, reverse=True)
    then = [each["feature"] for each in model["features"] if each["given_then"] is not None]
    assert then == [each["feature"] for each in model["features"][: len(then)]]  # the strongest were kept
    assert of_kind(model["lineage"], "training dataset")
    table = said("explain", listed["id"])
    assert f"of {len(then)} that were kept with the prediction {len(then)} are the same now" in table
    assert category["raw"] in table


def test_the_truth_is_shown_once_it_is_known(here: Path) -> None:
    listed = facts("predictions", "fraud", "--limit", "100000")
    counts = facts("status", "fraud")["systems"][0]["models"][0]["predictions"]
    assert {state: sum(each["state"] == state for each in listed) for state in ("pending", "matured", "expired")} == {
        state: counts[state] for state in ("pending", "matured", "expired")
    }
    matured = next(each for each in listed if each["state"] == "matured")
    assert facts("explain", matured["id"])["models"][0]["truth"] == matured["truth"]
    assert matured["truth"] in (0, 1)
    assert "(matured)" in said("explain", matured["id"])


# --- partitions --------------------------------------------------------------------------------------


def test_partitions_are_done_where_windows_were_committed_and_missing_after(here: Path) -> None:
    found = facts("partitions", "fraud", "--every", "1w", "--end", "2026-04-15")
    states = {
        group: [each["state"] for each in found if each["group"] == group] for group in {f["group"] for f in found}
    }
    assert set(map(tuple, states.values())) == {
        ("done", "partly", "missing")
    }  # a week begins on a Thursday, as 1970 did
    assert all(each["end"] == "2026-04-02T00:00:00+00:00" for each in found if each["state"] == "partly")
    table = said("partitions", "fraud", "--every", "1w", "--end", "2026-04-15").splitlines()
    assert len(table) == len(found) + 1
    assert said("partitions", "stock").strip() == "stock has written no window yet."


# --- score -------------------------------------------------------------------------------------------


def test_the_score_is_the_lowest_section_and_every_point_names_what_it_is_for(here: Path) -> None:
    [fraud] = facts("score", "fraud")
    tests = fraud["tests"]
    assert len(tests) == 28
    sums = {name: sum(each["points"] for each in tests if each["section"] == name) for name in fraud["sections"]}
    assert fraud["sections"] == sums
    assert fraud["score"] == min(sums.values())
    assert all(each["points"] in (0, 0.5, 1) and each["evidence"] for each in tests)
    table = said("score", "fraud")
    assert all(each["test"] in table and each["evidence"] in table for each in tests)


def test_a_system_that_never_ran_earns_nothing_for_what_only_a_run_can_show(here: Path) -> None:
    points = {
        system: {each["test"]: each["points"] for each in found["tests"]}
        for found in facts("score")
        if (system := found["system"]) in ("fraud", "stock")
    }
    shown_by_runs = [
        "feature expectations are in a schema", "specifications are committed", "a simpler model is not better",
        "quality is validated before serving", "a single example can be debugged", "data invariants hold for inputs",
        "models are numerically stable", "prediction quality has not regressed",
    ]  # fmt: skip
    assert {name: points["stock"][name] for name in shown_by_runs} == dict.fromkeys(shown_by_runs, 0)
    assert points["fraud"]["feature expectations are in a schema"] == 1
    assert points["fraud"]["a single example can be debugged"] == 0.5
    assert points["fraud"]["no feature costs too much"] == 0


# --- promote and rollback ----------------------------------------------------------------------------


def test_promote_and_rollback_are_one_command_each_and_keep_the_reason(here: Path) -> None:
    """T16."""
    promoted = facts("promote", MODEL, "2", "--why", "a drill")
    assert (promoted["version"], promoted["previous"]) == (2, 1)
    assert promoted["decided"]["why"] == registry.version(MODEL, 2).tags["decision_why"] == "a drill"
    assert "is the champion already" in said("promote", MODEL, "2", "--why", "again", code=2)
    assert facts("status", "fraud")["systems"][0]["models"][0]["champion"]["version"] == 2
    back = said("rollback", MODEL, "--why", "the drill is over")
    assert back.startswith(f"{MODEL} version 1 serves from now on; no version is previous.")
    assert "rolled back from version 2: the drill is over" in back
    assert "none before it to return to" in said("rollback", MODEL, "--why", "further", code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["promote", MODEL, "7", "--why", "x"], r"no version 7 (versions: 1, 2)"),
        (["promote", "frued", "1", "--why", "x"], f"There is no model 'frued' (models: {MODEL})"),
        (["promote", MODEL, "2", "--why", " "], "The reason (why) is empty"),
        (["promote", MODEL, "2"], "Missing option '--why'"),
        (["rollback", MODEL], "Missing option '--why'"),
        (["lineage", f"{MODEL}@9"], f"Model '{MODEL}' has no version 9 (versions: 1 (champion), 2"),
        (["lineage", f"{MODEL}@best"], "has no best"),
        (["lineage", "nothing"], f"There is no model 'nothing' (models: {MODEL})"),
        (["impact", "nothing"], "nothing"),
        (["impact", "fraud_labels@9"], "no version 9"),
        (["impact", "fraud_labels@x"], "after the @ comes a number"),
        (["impact", "fraud_labels", "--drop", "nope"], "fraud_labels@1 has no column 'nope' (columns: tid,"),
        (["explain", "nonsense"], "'nonsense' names no prediction"),
        (["explain", "fraud:tid=none"], "There is no prediction fraud:tid=none"),
        (["explain", "fraud:card=1"], "fraud_predictions@1 has no column 'card'"),
        (["explain", "fraud:model_version=1"], "Name one of them, such as fraud_predictions:tid="),
        (["explain", "fraud_labels:tid=1"], "holds no predictions"),
        (["predictions", "stock"], "prefect deployment run stock-inference/stock-inference"),
        (["partitions", "fraud", "--every", "1 day"], "'1 day' is no length of a piece"),
        (["partitions", "fraud", "--start", "2027-01-01"], "is not after the start"),
        (["status", "weather"], "There is no system 'weather' (systems: air_quality"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence(here: Path, arguments: list[str], message: str) -> None:
    assert message in said(*arguments, code=2)
    assert registry.champion(MODEL) == registry.version(MODEL, 1)
