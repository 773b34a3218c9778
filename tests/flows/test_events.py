"""Events and artifacts against a real Prefect API, and silence without one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import numpy as np
import pytest

from featurestore.times import Window
from flows import events, facts
from flows.registry import ModelVersion

JANUARY = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
GROUP = SimpleNamespace(name="fraud_card_windows", version=1)
COMMIT = SimpleNamespace(version=7, rows_written=42, window=JANUARY)
MODEL = ModelVersion("fraud", 3, "run-1", ("challenger",), JANUARY.start, {}, {})
PNG = b"\x89PNG not much of a picture"


def run_in_flow(tell) -> UUID:
    """The id of a flow run that called `tell`."""
    from prefect import flow
    from prefect.runtime import flow_run

    @flow
    def telling() -> str:
        tell()
        return flow_run.id

    return UUID(telling())


def artifacts_of(run_id: UUID) -> dict:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    chosen = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    with get_client(sync_client=True) as client:
        return {artifact.key: artifact for artifact in client.read_artifacts(artifact_filter=chosen)}


def events_of(run_id: UUID, *, count: int) -> list[dict]:
    """Our events of a run, by name. They arrive some moments later, in any order."""
    from prefect.client.orchestration import get_client

    chosen = {
        "event": {"prefix": ["triptych."]},
        "related": {"id": [f"prefect.flow-run.{run_id}"]},
        "occurred": {"since": "2020-01-01T00:00:00Z", "until": "2100-01-01T00:00:00Z"},
    }
    found: list[dict] = []
    with get_client(sync_client=True) as client:
        for _ in range(100):
            found = client._client.post("/events/filter", json={"filter": chosen}).json()["events"]
            if len(found) >= count:
                break
            time.sleep(0.1)
    return sorted(found, key=lambda event: event["event"])


def tell_everything() -> None:
    events.committed(GROUP, COMMIT, last=True, any_rows=True)
    events.model_registered(MODEL)
    events.model_promoted(MODEL, why="better")
    events.model_rejected(MODEL, why="worse")
    events.validation_artifact("fraud_labels", {"success": True})
    events.summary_artifact("fraud-features-summary", [{"rows": 1}])
    events.training_report_artifact(MODEL, "# Report", picture=PNG)
    assert list(events.progress([1, 2, 3], "Counting")) == [1, 2, 3]


@pytest.fixture(scope="module")
def told(prefect_api) -> dict[str, dict]:
    """Events by name, all told by one run: the server stores them every five seconds only."""

    def tell() -> None:
        events.committed(GROUP, COMMIT, last=True, any_rows=True)
        spine = SimpleNamespace(name="spine", version=2)
        events.committed(spine, SimpleNamespace(version=8, rows_written=0, window=None), last=False, any_rows=False)
        events.model_registered(MODEL)
        events.model_rejected(MODEL, why="not better than champion")
        events.model_promoted(MODEL, why="better than champion")

    found = events_of(run_in_flow(tell), count=5)
    return {f"{event['event']} {event['resource']['prefect.resource.id']}": event["payload"] for event in found}


def test_commit_event_names_group_version_and_window(told):
    assert told["triptych.feature_group.committed triptych.feature-group.fraud_card_windows.1"] == {
        "delta_version": 7,
        "start": "2026-01-01T00:00:00+00:00",
        "end": "2026-02-01T00:00:00+00:00",
        "rows": 42,
    }


def test_commit_without_a_window_has_no_times(told):
    assert told["triptych.feature_group.committed triptych.feature-group.spine.2"] == {
        "delta_version": 8,
        "start": None,
        "end": None,
        "rows": 0,
    }


def test_last_commit_of_a_run_for_a_group_says_so_and_whether_the_run_wrote_rows(prefect_api, tmp_path):
    """What triggers match: one run of three pieces starts those who wait once, and after all of it is written."""
    import pandas as pd

    import featurestore
    from flows.writing import Writing

    fs = featurestore.connect(home=tmp_path)
    labels, spine = (
        fs.get_or_create_feature_group(name=name, version=1, primary_key=["k"], event_time="t")
        for name in ("labels", "spine")
    )

    def rows(day: int) -> pd.DataFrame:
        return pd.DataFrame({"k": [1], "t": [pd.Timestamp(f"2026-01-0{day}T12:00Z")]})

    def three_days() -> None:
        with Writing() as written:
            for day in (1, 2, 3):
                window = Window.of(f"2026-01-0{day}", f"2026-01-0{day + 1}")
                written.write(labels, rows(day).head(1 if day == 1 else 0), window)
                written.write(spine, rows(day), window)
        assert written.rows_written == sum(commit.rows_written for commit in written.commits)

    def labelled(found: list[dict]) -> list[tuple[str, ...]]:
        chosen = [each for each in found if each["event"] == events.COMMITTED]
        names = ("prefect.resource.id", events.LAST, events.ROWS)
        ordered = sorted(chosen, key=lambda each: each["occurred"])
        return [
            tuple(each["resource"][name].removeprefix("triptych.feature-group.") for name in names) for each in ordered
        ]

    first, again = run_in_flow(three_days), run_in_flow(three_days)
    assert labelled(events_of(first, count=6)) == [
        ("labels.1", "false", "some"), ("spine.1", "false", "some"), ("labels.1", "false", "some"),
        ("spine.1", "false", "some"), ("labels.1", "true", "some"), ("spine.1", "true", "some"),
    ]  # fmt: skip
    assert {each[2] for each in labelled(events_of(again, count=6))} == {"none"}


def test_model_events_say_which_version_and_why(told):
    assert {name: payload["why"] for name, payload in told.items() if "model" in name} == {
        "triptych.model.promoted triptych.model.fraud.3": "better than champion",
        "triptych.model.registered triptych.model.fraud.3": "",
        "triptych.model.rejected triptych.model.fraud.3": "not better than champion",
    }


def test_summary_is_a_table_of_plain_values(prefect_api):
    row = {"rows": np.int64(3), "share": np.float64(0.5), "end": JANUARY.end, "model": None, "hash": "ab"}
    run_id = run_in_flow(lambda: events.summary_artifact("fraud-features-summary", [row]))
    artifact = artifacts_of(run_id)["fraud-features-summary"]
    assert artifact.type == "table"
    assert json.loads(artifact.data) == [
        {"rows": 3, "share": 0.5, "end": "2026-02-01T00:00:00+00:00", "model": None, "hash": "ab"}
    ]


def test_validation_report_becomes_facts_and_a_table(prefect_api):
    report = {
        "success": False,
        "rows": 100,
        "results": [
            {"rule": "amount > 0", "success": False, "failed": 3, "kwargs": {"nested": 1}},
            {"rule": "a|b not null", "success": True, "failed": 0},
        ],
    }
    run_id = run_in_flow(lambda: events.validation_artifact("fraud_card_windows", report))
    markdown = artifacts_of(run_id)["validation-fraud-card-windows"].data
    assert "- **success**: **no**\n- **rows**: 100\n" in markdown
    assert "| rule | success | failed |\n| --- | --- | --- |\n" in markdown
    assert "| amount > 0 | **no** | 3 |\n| a\\|b not null | yes | 0 |" in markdown
    assert "nested" not in markdown


def test_group_without_rules_says_so(prefect_api):
    run_id = run_in_flow(lambda: events.validation_artifact("fraud_labels", None))
    assert "No expectation suite" in artifacts_of(run_id)["validation-fraud-labels"].data


def test_training_report_links_to_mlflow_and_brings_its_picture(prefect_api):
    page = "http://127.0.0.1:5000/#/models/fraud/versions/3"
    run_id = run_in_flow(lambda: events.training_report_artifact(MODEL, "| who | value |", picture=PNG, page=page))
    found = artifacts_of(run_id)
    assert found["training-report-fraud"].data.startswith(f"[fraud version 3 in MLflow]({page})")
    assert found["training-report-fraud"].data.endswith("| who | value |")
    assert found["training-plot-fraud"].data == "data:image/png;base64,iVBORyBub3QgbXVjaCBvZiBhIHBpY3R1cmU="


def test_progress_ends_at_a_hundred(prefect_api):
    run_id = run_in_flow(lambda: list(events.progress(range(7), "Scoring days")))
    [bar] = artifacts_of(run_id).values()
    assert (bar.type, bar.description, float(bar.data)) == ("progress", "Scoring days", 100.0)


def test_a_task_tells_for_its_flow_run(prefect_api):
    from prefect import task

    @task
    def step() -> None:
        events.summary_artifact("fraud-inference-summary", [{"rows": 1}])

    assert "fraud-inference-summary" in artifacts_of(run_in_flow(step))


def test_lost_report_does_not_fail_the_run(prefect_api, monkeypatch, caplog):
    """The API is gone for a moment, after the data were written."""
    import prefect.artifacts
    import prefect.events

    def gone(*_args: object, **_named: object) -> None:
        raise ConnectionError("nobody answers")

    for module, names in {
        prefect.artifacts: [f"create_{kind}_artifact" for kind in ("table", "markdown", "image", "progress")],
        prefect.events: ["emit_event"],
    }.items():
        for name in names:
            monkeypatch.setattr(module, name, gone)
    assert artifacts_of(run_in_flow(tell_everything)) == {}
    assert "The artifact fraud-features-summary could not be kept: nobody answers. The run goes on." in caplog.text
    assert "The event triptych.feature_group.committed of" in caplog.text


def test_outside_a_run_nothing_is_told(prefect_api):
    """Though Prefect is imported and its API is there."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        before = len(client.read_artifacts())
        tell_everything()
        assert len(client.read_artifacts()) == before


def test_without_prefect_it_is_not_even_imported():
    code = (
        "import sys, importlib.util\n"
        "spec = importlib.util.spec_from_file_location('told', sys.argv[1])\n"
        "told = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(told)\n"
        "told.tell_everything()\nprint(sorted({'prefect', 'mlflow', 'matplotlib', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, __file__],
        cwd=Path(events.__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize("key", ["Fraud_Features Summary", "fraud--features__summary-"])
def test_keys_become_what_prefect_accepts(key):
    assert facts.slug(key) == "fraud-features-summary"
