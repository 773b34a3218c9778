"""What was decided about a model version, as people read it: who, when, why, beside what served until then. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from flows.evaluation import Score
    from flows.registry import ModelVersion


class Decided(NamedTuple):
    """One line of a version's history."""

    version: int
    when: str
    decision: str
    who: str
    why: str


def decisions(versions: Sequence[ModelVersion]) -> list[Decided]:
    """All that was ever decided about these versions, newest first; within a second the later version first."""
    found = [(place, _decided(model.version, line)) for model in versions for place, line in enumerate(model.history)]
    return [each for _, each in sorted(found, key=lambda pair: (pair[1].when, pair[1].version, pair[0]), reverse=True)]


def newest(model: ModelVersion) -> Decided:
    """What was decided last about a version."""
    return _decided(model.version, model.history[-1])


def report(
    model: ModelVersion,
    other: ModelVersion | None,
    versions: Sequence[ModelVersion],
    *,
    differences: Sequence[Score] = (),
) -> str:
    """A decision as markdown; accepted and rejected look alike.

    Args:
        model: the version that was decided about, with its decision.
        other: the version that served until then; None if none did.
        versions: all versions of the model, for the history.
        differences: what the gate measured against each other on the same rows; empty where a person decided.
    """
    last = newest(model)
    served = "none" if other is None else f"version {other.version}"
    lines = [
        f"# {model}: {last.decision}",
        "",
        f"- **when**: {last.when}",
        f"- **by**: {last.who}",
        f"- **serving until then**: {served}",
        "- **why**:",
        *(f"    - {_cell(reason)}" for reason in last.why.split("; ")),
        "",
        *_measured(differences),
        *_metrics(model, other),
        "## All decisions",
        "",
        "| when | version | decision | by | why |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {each.when} | {each.version} | {each.decision} | {_cell(each.who)} | {_cell(each.why)} |"
            for each in decisions(versions)
        ),
    ]
    return "\n".join(lines) + "\n"


def _measured(differences: Sequence[Score]) -> list[str]:
    """What the gate measured, each pair on the same rows."""
    if not differences:
        return []
    rows = [f"| {_cell(d.name)} | {d.value:.4g} | {d.low:.4g} to {d.high:.4g} | {d.n:,} |" for d in differences]
    return [
        "## Measured on the same rows", "", "| | better by | interval | rows |", "| --- | --- | --- | --- |", *rows, "",
    ]  # fmt: skip


def _metrics(model: ModelVersion, other: ModelVersion | None) -> list[str]:
    """The metrics that each version was registered with."""
    sides = [("champion until then", other), ("this version", model)] if other else [("this version", model)]
    shown = [(f"{name} ({side.version})", side) for name, side in sides if side is not None]
    names = [name for name in sorted({key for _, side in shown for key in side.metrics}) if name.startswith("test.")]
    head = ["metric", *(name for name, _ in shown)]
    rows = [
        [name.removeprefix("test."), *(_number(side.metrics.get(name)) for _, side in shown)] for name in names
    ]  # fmt: skip
    windows = ["trained and tested on", *(str(side.lineage.training_window) for _, side in shown)]
    return [
        "## Metrics as registered",
        "",
        "Each on the test rows of its own time: they compare two versions only where the time is the same.",
        "",
        *(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), windows, *rows]),
        "",
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _decided(version: int, line: str) -> Decided:
    """A line as the registry keeps it, such as "2026-01-01T00:00:00+00:00 promoted by ada: better"."""
    when, _, rest = line.partition(" ")
    decision, _, rest = rest.partition(" by ")
    who, _, why = rest.partition(": ")
    return Decided(version, when, decision, who, why)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
