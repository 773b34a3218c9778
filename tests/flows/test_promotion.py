"""T16, T17: a version serves because the gate or a person says so; each decision is recorded, told and kept alike."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from featurestore.errors import InvalidData, NotFound
from flows import deciding, evaluation, registry, windows
from flows.decision_report import Decided, decisions, report
from flows.promotion import promote, rollback
from tests.flows.test_registry import empty_home, home, log, trained  # noqa: F401 - fixtures

Log = Callable[[], registry.ModelVersion]


@pytest.fixture
def two_versions(home: Path, trained, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Version 1 serves, version 2 is a challenger."""
    monkeypatch.setenv("TRIPTYCH_HOME", str(home))
    registry.promote(log(trained), why="the first one")
    log(trained)


def serving() -> int | None:
    champion = registry.champion("fraud")
    return None if champion is None else champion.version


def artifacts() -> list[str]:
    """The promotion artifacts of the model, oldest first."""
    client = get_client(sync_client=True)
    assert isinstance(client, SyncPrefectClient)
    with client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["promotion-fraud"])))
    return [str(each.data) for each in sorted(found, key=lambda artifact: str(artifact.created))]


def test_promote_and_roll_back_as_flows_keep_who_when_and_why_as_an_artifact_with_a_history(
    prefect_api: None, two_versions: None
) -> None:
    tomorrow = windows.now() + timedelta(days=1)
    with windows.frozen(tomorrow):
        assert promote("fraud", 2, why="better at night") == 2
    assert serving() == 2
    with windows.frozen(tomorrow + timedelta(days=1)):
        assert rollback("fraud", why="complaints") == 1
    assert serving() == 1
    promoted, rolled_back = artifacts()[-2:]
    assert promoted.startswith("# fraud version 2: promoted\n")
    assert "- **serving until then**: version 1" in promoted
    assert "    - better at night" in promoted
    assert "| metric | champion until then (1) | this version (2) |" in promoted
    assert rolled_back.startswith("# fraud version 1: promoted\n")
    assert "rolled back from version 2: complaints" in rolled_back
    lines = [line.split(" | ")[1:3] for line in rolled_back.partition("## All decisions")[2].splitlines()[4:]]
    assert lines == [["2", "rolled back"], ["1", "promoted"], ["2", "promoted"], ["1", "promoted"]]


def test_a_rejection_looks_like_a_promotion_but_for_the_word(prefect_api: None, two_versions: None) -> None:
    """T17: the same sections, the same columns."""
    from prefect import flow

    newest = registry.version("fraud", 2)
    differences = (evaluation.Score("against logistic", 0.1, -0.02, 0.2, 300),)

    @flow
    def gate(accepted: bool) -> None:
        deciding.decide(newest, evaluation.Decision(accepted, ("0.1 against logistic",), differences))

    gate(False)
    gate(True)
    rejected, accepted = artifacts()[-2:]
    assert rejected.startswith("# fraud version 2: rejected\n")
    assert accepted.startswith("# fraud version 2: promoted\n")
    assert "| against logistic | 0.1 | -0.02 to 0.2 | 300 |" in rejected

    def skeleton(markdown: str) -> list[str]:
        return [
            line for line in markdown.splitlines() if line.startswith(("## ", "- **serving", "| metric", "| when |"))
        ]

    assert skeleton(rejected) == skeleton(accepted)


def test_without_a_run_the_decision_counts_and_nothing_is_emitted(two_versions: None) -> None:
    deciding.promote("fraud", 2, why="by hand")
    assert serving() == 2
    assert registry.version("fraud", 2).tags["decision_why"] == "by hand"


def test_what_cannot_be_meant_is_refused_and_changes_nothing(two_versions: None) -> None:
    refused: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: deciding.promote("fruad", 2, why="x"), NotFound, r"There is no model 'fruad' \(models: fraud\)"),
        (lambda: deciding.promote("fraud", 9, why="x"), NotFound, r"no version 9 \(versions: 1, 2\)"),
        (lambda: deciding.promote("fraud", 1, why="x"), InvalidData, "is the champion already"),
        (lambda: deciding.promote("fraud", 2, why=" "), InvalidData, "reason .* is empty"),
        (lambda: deciding.roll_back("fraud", why=""), InvalidData, "reason .* is empty"),
        (lambda: deciding.roll_back("fraud", why="x"), NotFound, "first champion"),
    ]
    for call, error, message in refused:
        with pytest.raises(error, match=message):
            call()
    assert serving() == 1
    assert [each.decision for each in decisions(registry.versions("fraud"))] == ["promoted"]


def test_a_history_is_read_back_as_it_was_written(two_versions: None) -> None:
    with windows.frozen(windows.now() + timedelta(days=1)):
        deciding.promote("fraud", 2, why="at 12:00: better | cheaper")
    [newest, first] = decisions(registry.versions("fraud"))
    assert newest == Decided(2, newest.when, "promoted", newest.who, "at 12:00: better | cheaper")
    assert first.why == "the first one"
    markdown = report(registry.version("fraud", 2), None, registry.versions("fraud"))
    assert "better \\| cheaper |" in markdown
    assert "- **serving until then**: none" in markdown
