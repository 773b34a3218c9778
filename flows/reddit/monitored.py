"""What is watched of the reddit system's two models once they serve."""

from __future__ import annotations

from datetime import timedelta

from flows.monitored import Beside, Measure, Monitored, Retraining, Said, Truth
from flows.reddit import modelling, schema
from flows.reddit.schema import Target


def watched(target: Target) -> Monitored:
    """The declaration of one target: measured by the order that its gate asks for, beside the subreddit's median."""
    return Monitored(
        model=schema.MODELS[target],
        said=Said(
            schema.PREDICTIONS_GROUP, time="created", forecast="predicted", baseline="baseline",
            baseline_name="median of the subreddit", only=("target", target), served="first",
        ),
        truth=Truth(
            # A vote is known when it was looked at, which may be later than the hour from which it counts.
            schema.OUTCOMES_GROUP, key=("post_id",), column=target, target_time="created", known_at="seen_at",
            expires_after=timedelta(days=10), beside=(Beside(schema.OUTCOMES_GROUP, ("post_id",), ("subreddit",)),),
        ),
        measure=Measure("spearman", unit="", span=timedelta(days=28), slices=("subreddit",)),
        retraining=Retraining(modelling.SPLITS),
        calendar=frozenset({"hour", "weekday"}),
    )  # fmt: skip


MONITORED = tuple(watched(target) for target in schema.TARGETS)
