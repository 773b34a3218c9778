"""The five systems as the simulator replays them: history, cadence, what goes wrong when, what is checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

from featurestore.times import Window
from tests.simulation import disturbances as happens
from tests.simulation.disturbances import Disturbance

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
BEGINS = datetime(2026, 1, 19, tzinfo=UTC)
"""The first simulated day. Within the two months New York's clock goes forward (8 March)."""


SAMPLE = Window(BEGINS + 3 * DAY, BEGINS + 6 * DAY)


@dataclass(frozen=True)
class Predictions:
    """A group of predictions, and what its rows are judged by.

    Args:
        group: its name.
        target: the column with the time from which the truth is known or the target begins.
        after: how long after that column's time that is.
        versions: the registered model by the column that names its version; with `only`, of the rows where that column
            has that value.
    """

    group: str
    target: str
    versions: tuple[tuple[str, str], ...]
    after: timedelta = timedelta(0)
    only: tuple[str, str] | None = None


@dataclass(frozen=True)
class World:
    """One system as it is replayed.

    Args:
        system: its name.
        history: windows that are backfilled before the first day: what its training needs, and no more.
        every: days from one tick to the next: features, then training where it is due, then inference.
        hours: at which hour (UTC) of a tick's day features and inference run.
        train_every: days after which a model is trained again.
        spine: the feature group whose watermark says how far time has gone.
        labels, known_at: the group of labels; its columns of what is judged and of when the label became known.
        models: the registered models.
        predictions: what is checked of predictions.
        happens: what goes wrong at the source.
        spoilt: windows in which models are trained so badly that the gate must say no.
        needs_champion: whether nothing is predicted without a champion.
        silent: for how long the source may have nothing new of its own accord, such as over a long weekend.
        sample: the days whose features are computed again at the end, and whose past is read again.
    """

    system: str
    history: tuple[Window, ...]
    every: int
    hours: tuple[float, float]
    train_every: int
    spine: str
    labels: str
    known_at: tuple[str, str]
    models: tuple[str, ...]
    predictions: tuple[Predictions, ...]
    happens: tuple[Disturbance, ...] = ()
    spoilt: tuple[Window, ...] = ()
    needs_champion: bool = True
    silent: timedelta = HOUR
    sample: Window = SAMPLE

    def ticks(self, days: int) -> list[datetime]:
        """When features run."""
        return [BEGINS + n * DAY + self.hours[0] * HOUR for n in range(self.every, days + 1, self.every)]

    def flow(self, step: str) -> Any:
        """A flow of the system: features, training or inference."""
        module = import_module(f"flows.{self.system}.{'feature' if step == 'features' else step}_pipeline")
        return getattr(module, f"{self.system}_{step}")


def days(first: int, last: int) -> Window:
    """Simulated days, the last one not included."""
    return Window(BEGINS + first * DAY, BEGINS + last * DAY)


def before(longest: int, shortest: int = 0) -> Window:
    """A stretch of history, in days before the first one."""
    return Window(BEGINS - longest * DAY, BEGINS - shortest * DAY)


REFUSED = ("SchemaMismatch",)

WORLDS = {
    world.system: world
    for world in (
        World(
            "fraud", history=(before(84),), every=5, hours=(5, 6), train_every=14,
            spine="fraud_transactions", labels="fraud_labels", known_at=("datetime", "known_at"),
            models=("fraud_detection",),
            predictions=(
                Predictions("fraud_predictions", "datetime", (("model_version", "fraud_detection"),), 7 * DAY),
            ),
            # The first champion is a bad one, put there by a person: what is trained next must replace it.
            spoilt=(days(-1, 1), days(28, 42)),
            happens=(
                Disturbance(
                    "late rows", "3 % of the transactions of days 4 to 40 are booked 30 hours late",
                    "source", "read_transactions", days(4, 40),
                    happens.late("tid", "datetime", timedelta(hours=30), share=0.03),
                ),
                Disturbance(
                    "corrected rows", "10 % of the outcomes told on days 6 to 12 are wrong and corrected 4 days later",
                    "source", "read_labels", days(6, 12), happens.corrected_outcomes(4 * DAY, share=0.1),
                ),
                Disturbance(
                    "delayed labels", "no outcome is told from day 20 to 26; then all at once",
                    "source", "read_labels", days(20, 26), happens.delayed_outcomes,
                ),
                Disturbance(
                    "bad batch", "on day 30 the newest outcomes are neither fraud nor honest",
                    "source", "read_labels", days(30, 31), happens.spoilt("is_fraud", 7, newest=20),
                    error=("InvalidData",),
                ),
            ),
        ),
        World(
            "electricity", history=(before(70),), every=3, hours=(11.25, 11.5), train_every=20,
            spine="electricity_day_ahead", labels="electricity_demand", known_at=("hour", "known_at"),
            models=("electricity_day_ahead", "electricity_price"),
            predictions=(
                Predictions("electricity_predictions", "hour", (("model_version", "electricity_day_ahead"),)),
                Predictions("electricity_price_predictions", "hour", (("model_version", "electricity_price"),)),
            ),
            happens=(
                Disturbance(
                    "outage", "the demand service does not answer from day 12 to 17",
                    "source", "read_demand", days(12, 17), happens.outage, error=("ServiceUnavailable",),
                ),
                Disturbance(
                    "drift", "demand is 25 % higher from day 34 on, which no calendar explains",
                    "simulator", "demand", days(34, 400), happens.told_of(drift=0.25),
                ),
            ),
        ),
        World(
            "air_quality", history=(before(390, 170), before(100)), every=3, hours=(6.25, 6.5), train_every=30,
            spine="air_quality_outlook", labels="air_quality_pm25", known_at=("day", "known_at"),
            models=("air_quality_pm25",),
            predictions=(Predictions("air_quality_predictions", "day", (("model_version", "air_quality_pm25"),)),),
            happens=(
                Disturbance(
                    "schema change", "on days 10 to 14 the measurements' column pm25 has another name",
                    "source", "read_measurements", days(10, 14), happens.renamed("pm25_ug_m3", "PM2.5"), error=REFUSED,
                ),
            ),
        ),
        World(
            "reddit", history=(before(84),), every=5, hours=(4.25, 5.5), train_every=20,
            spine="reddit_posts", labels="reddit_outcomes", known_at=("created", "known_at"),
            models=("reddit_likes", "reddit_upvote_ratio"),
            predictions=(
                Predictions("reddit_predictions", "known_at", (("model_version", "reddit_likes"),),
                            only=("target", "likes")),
                Predictions("reddit_predictions", "known_at", (("model_version", "reddit_upvote_ratio"),),
                            only=("target", "upvote_ratio")),
            ),
            happens=(
                Disturbance(
                    "outage", "listings do not answer from day 21 to 27",
                    "source", "read_posts", days(21, 27), happens.outage, error=("ServiceUnavailable",),
                ),
            ),
        ),
        World(
            "stock", history=(before(900),), every=2, hours=(22.25, 22.75), train_every=30,
            spine="stock_features", labels="stock_outcomes", known_at=("closed_at", "known_at"), needs_champion=False,
            silent=4 * DAY,
            models=("stock_return", "stock_direction"),
            predictions=(
                Predictions("stock_predictions", "target_at",
                            (("model_version", "stock_return"), ("direction_version", "stock_direction"))),
            ),
            happens=(
                Disturbance(
                    "schema change", "on days 8 to 10 volumes come as text",
                    "source", "read_bars", days(8, 11), happens.retyped("volume", "str"),
                    error=REFUSED, feeds=("stock_bars", "stock_outcomes", "stock_features"),
                ),
                Disturbance(
                    "bad batch", "on day 16 the newest volume is negative",
                    "source", "read_bars", days(16, 17), happens.spoilt("volume", -1, newest=1),
                    error=("InvalidData",),
                ),
            ),
        ),
    )
}  # fmt: skip


@contextmanager
def in_a_hurry(system: str, *, spoilt: bool = False) -> Iterator[None]:
    """Few trees and two trials, as the tests of the pipelines train; spoilt: a single tree that learns nearly nothing.

    Parameters are what a person may set; how a model is trained, judged and decided about stays as it is.
    """
    quick = {"learning_rate": 0.15, "n_estimators": 80, "n_jobs": 1}
    if spoilt:
        quick |= {"learning_rate": 0.001, "n_estimators": 1, "max_depth": 1}
    with ExitStack() as stack:
        for name in ("modelling", "pricing"):
            try:
                module = import_module(f"flows.{system}.{name}")
            except ModuleNotFoundError:
                continue
            search: dict[str, Any] = {"trials": 1}
            if spoilt:  # or the search would put the depth right
                search |= {"space": {"reg_lambda": (1.0, 2.0)}, "start": {"reg_lambda": 1.0}, "logarithmic": ()}
            _set(stack, module, "SEARCH", replace(module.SEARCH, **search))
            for constant, value in vars(module).copy().items():
                if constant.isupper() and isinstance(value, dict) and "n_estimators" in value:
                    _set(stack, module, constant, {**value, **quick})
        yield


def _set(stack: ExitStack, module: Any, name: str, value: Any) -> None:
    stack.callback(setattr, module, name, getattr(module, name))
    setattr(module, name, value)


def chosen(names: Sequence[str]) -> list[World]:
    """The worlds of these systems; of all for none."""
    return [WORLDS[name] for name in names or WORLDS]
