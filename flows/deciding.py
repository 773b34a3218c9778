"""What becomes of a registered version once the gate has spoken: it serves, or it is visibly rejected."""

from __future__ import annotations

from flows import evaluation, events, registry


def decide(model: registry.ModelVersion, decision: evaluation.Decision) -> registry.ModelVersion:
    """Let the version serve, or record that it shall not."""
    why = "; ".join(decision.reasons)
    if decision.accepted:
        model = registry.promote(model, why=why)
        events.model_promoted(model, why=why)
    else:
        model = registry.reject(model, why=why)
        events.model_rejected(model, why=why)
    return model
