"""What becomes of a registered version: the gate or a person lets it serve, rejects it, or returns to an earlier one.

Whatever is decided is recorded with the version and, inside a flow run, told by an event and by the artifact
`promotion-<model>`: a rejection as visibly as a promotion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from featurestore.errors import InvalidData, NotFound
from flows import decision_report, events, registry

if TYPE_CHECKING:
    from flows import evaluation


def decide(model: registry.ModelVersion, decision: evaluation.Decision) -> registry.ModelVersion:
    """What the gate has found: let the version serve, or record that it shall not."""
    why = "; ".join(decision.reasons)
    served = registry.champion(model.name)
    if decision.accepted:
        model = registry.promote(model, why=why)
        events.model_promoted(model, why=why)
    else:
        model = registry.reject(model, why=why)
        events.model_rejected(model, why=why)
    _keep(model, served, differences=decision.differences)
    return model


def conclude(
    model: registry.ModelVersion, decision: evaluation.Decision, report: str, *, picture: bytes | None = None
) -> registry.ModelVersion:
    """The end of every training: tell of the new version, decide about it, keep its report; the version as decided.

    Args:
        report, picture: what `events.training_report_artifact` keeps.
    """
    events.model_registered(model)
    model = decide(model, decision)
    events.training_report_artifact(model, report, picture=picture)
    return model


def promote(name: str, number: int, *, why: str) -> registry.ModelVersion:
    """Let a version serve because a person says so, whatever the gate said; the version.

    Args:
        why: the person's reason, kept with the version.
    Raises:
        NotFound: no such model or version; the message lists those there are.
        InvalidData: it serves already, or there is no reason.
    """
    _check(name, why)
    model, served = registry.version(name, number), registry.champion(name)
    if served is not None and served.version == number:
        raise InvalidData(
            f"{model} is the champion already, since {model.tags.get('decision_at', 'it was registered')}. "
            "Nothing was changed."
        )
    model = registry.promote(model, why=why)
    events.model_promoted(model, why=why)
    _keep(model, served)
    return model


def roll_back(name: str, *, why: str) -> registry.ModelVersion:
    """Return to the version that the champion replaced; that version.

    Raises:
        NotFound: no such model, no champion, or none before it.
        InvalidData: there is no reason.
    """
    _check(name, why)
    served = registry.champion(name)
    model = registry.rollback(name, why=why)
    events.model_promoted(model, why=model.tags["decision_why"])
    _keep(model, served)
    return model


def _check(name: str, why: str) -> None:
    if name not in (known := registry.models()):
        raise NotFound(f"There is no model {name!r} (models: {', '.join(known) or 'none yet, train one first'}).")
    if not why.strip():
        raise InvalidData("The reason (why) is empty. Say in a sentence why; it is kept with the version.")


def _keep(
    model: registry.ModelVersion, served: registry.ModelVersion | None, *, differences: Sequence[evaluation.Score] = ()
) -> None:
    def write() -> str:
        return decision_report.report(model, served, registry.versions(model.name), differences=differences)

    events.promotion_artifact(model.name, write)
