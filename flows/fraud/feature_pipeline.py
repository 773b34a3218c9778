"""The fraud system's feature pipeline: card transactions and their outcomes in, five feature groups out."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from prefect import flow, get_run_logger, task

import featurestore
from featurestore.times import Window
from flows import command_line, events, late, retries, windows
from flows.fraud import schema
from flows.settings import Settings
from flows.writing import Writing, check_source, summary

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import FeatureGroup, FeatureStore


FRESH_WITHIN_HOURS = 3
"""What the groups promise to `flows.freshness`. Two hourly runs may be missed before somebody is told."""

TILE = timedelta(days=30)
"""A backfill is cut into pieces of this length: what was committed before a kill stays, and memory stays small."""

LOOKBACK = timedelta(days=2)
"""How far back a run that goes on reads again: a live source books late, and corrects."""


@flow(name="fraud-features")
@late.newest_only
def fraud_features(start: datetime | None = None, end: datetime | None = None) -> int:
    """Write the features of the transactions, and of the outcomes known, in [start, end); return the rows written.

    Without start it goes on where the last commit ended, and reads the two days before again, because a live source
    books some transactions late; without end it goes to the last full hour. Running a window again writes only what has
    changed since.
    """
    from flows.fraud import source  # pandas is not needed to deploy this flow

    fs = featurestore.connect(home=Settings().store_home)
    groups = feature_groups(fs, source=source.source_name())
    window = windows.next_window(
        groups[schema.TRANSACTIONS_GROUP].watermark, start, end,
        earliest=source.span().start, at=source.available_until(windows.scheduled_time()),
    )  # fmt: skip
    if window is None:
        get_run_logger().info("Skipped: there is nothing newer than what is committed.")
        events.name_run("nothing new")
        events.summary_artifact("fraud-features-summary", [summary(groups, None, [])])
        return 0
    events.name_run(str(window))
    with Writing() as written:
        written.write(groups[schema.CARDS_GROUP], read_cards(), window)
        for tile in events.progress(windows.tiles(window, TILE), f"Features of {window}"):
            goes_on = start is None and tile.start == window.start
            spine = groups[schema.TRANSACTIONS_GROUP]
            reading = Window(looking_back(spine, tile.start) if goes_on else tile.start, tile.end)
            rows_of = compute(read_transactions(reading), read_labels(reading), read_cards(), reading)
            labels_fg = groups[schema.LABELS_GROUP]
            rows_of[labels_fg.name] = not_superseded(labels_fg, rows_of[labels_fg.name])
            # The spine comes last: its watermark says that all before it is complete, so a killed run is repaired.
            for name, rows in rows_of.items():
                written.write(groups[name], rows, tile)
    events.summary_artifact("fraud-features-summary", [summary(groups, window, written.commits)])
    return written.rows_written


def feature_groups(fs: FeatureStore, *, source: str) -> dict[str, FeatureGroup]:
    """The groups this pipeline writes, by name; made where they are not there yet.

    Raises:
        InvalidData: the store holds rows of another source.
    """
    check_source(
        fs, source, group_name=schema.TRANSACTIONS_GROUP,
        settings="TRIPTYCH_SOURCE, TRIPTYCH_DATA and TRIPTYCH_FRAUD_TABLE",
    )  # fmt: skip
    tags = {"source": source, "system": "fraud", "max_age_hours": FRESH_WITHIN_HOURS}
    groups = [
        fs.get_or_create_feature_group(
            name=schema.CARDS_GROUP, version=schema.VERSION, description="Cards and their owners.",
            primary_key=["cc_num"], event_time="opened", online_enabled=True,
            features=list(schema.CARDS), expectation_suite=schema.CARDS_RULES, tags=tags,
        ),
        fs.get_or_create_feature_group(
            name=schema.CARD_WINDOWS_GROUP, version=schema.VERSION,
            description="Spending of each card over trailing windows, one row per booked transaction.",
            primary_key=["cc_num"], event_time="datetime", online_enabled=True, ttl=schema.CARD_TTL,
            features=list(schema.CARD_WINDOWS), expectation_suite=schema.CARD_WINDOWS_RULES, tags=tags,
        ),
        fs.get_or_create_feature_group(
            name=schema.MERCHANT_RISK_GROUP, version=schema.VERSION,
            description="Share of frauds at each merchant among the outcomes known by then.",
            primary_key=["merchant_id"], event_time="known_at", online_enabled=True, ttl=schema.MERCHANT_TTL,
            features=list(schema.MERCHANT_RISK), expectation_suite=schema.MERCHANT_RISK_RULES, tags=tags,
        ),
        fs.get_or_create_feature_group(
            name=schema.LABELS_GROUP, version=schema.VERSION,
            description="Outcome of each transaction, and when it became known.",
            primary_key=["tid"], event_time="datetime", online_enabled=False,
            features=list(schema.LABELS), expectation_suite=schema.LABELS_RULES, tags=tags,
        ),
        fs.get_or_create_feature_group(
            name=schema.TRANSACTIONS_GROUP, version=schema.VERSION,
            description="Card transactions with all that is computed at their request.",
            primary_key=["tid"], event_time="datetime", online_enabled=False, foreign_key=["cc_num", "merchant_id"],
            features=list(schema.TRANSACTIONS), expectation_suite=schema.TRANSACTIONS_RULES, tags=tags,
        ),
    ]  # fmt: skip
    return {group.name: group for group in groups}


def looking_back(group: FeatureGroup, start: datetime) -> datetime:
    """From when on a run that goes on reads again: the lookback before its start, within the group's history."""
    return max(start - LOOKBACK, min((window.start for window in group.windows()), default=start))


@task(task_run_name="transactions before {reading.end:%Y-%m-%d %H:%M}", **retries.READING)
def read_transactions(reading: Window) -> pd.DataFrame:
    """Transactions of the window, and the history before it that its first rows need."""
    from flows.fraud import features, source

    return source.read_transactions(reading.start - features.TRANSACTION_WARM_UP, reading.end)


@task(task_run_name="labels before {reading.end:%Y-%m-%d %H:%M}", **retries.READING)
def read_labels(reading: Window) -> pd.DataFrame:
    """Outcomes that became known in the window, and the history before it that its first rows need."""
    from flows.fraud import features, source

    return source.read_labels(reading.start - features.RISK_WARM_UP, reading.end)


@task(task_run_name="cards", **retries.READING)
def read_cards() -> pd.DataFrame:
    """All cards of the source."""
    from flows.fraud import source

    return source.read_cards()


def compute(
    transactions: pd.DataFrame, labels: pd.DataFrame, cards: pd.DataFrame, reading: Window
) -> dict[str, pd.DataFrame]:
    """The rows of each group that belong to the window, in the order in which they are to be written."""
    from flows.fraud import features

    card_windows = features.card_windows(transactions)
    with_features = features.transaction_features(transactions, card_windows, cards)
    return {
        schema.CARD_WINDOWS_GROUP: features.since(card_windows, "last_datetime", reading.start),
        schema.MERCHANT_RISK_GROUP: features.since(features.merchant_risk(labels), "known_at", reading.start),
        schema.LABELS_GROUP: features.since(features.known_labels(labels), "known_at", reading.start),
        schema.TRANSACTIONS_GROUP: features.since(with_features, "datetime", reading.start),
    }


@task(task_run_name="outcomes that were not corrected since", **retries.READING)
def not_superseded(labels_fg: FeatureGroup, rows: pd.DataFrame) -> pd.DataFrame:
    """The outcomes of which the group holds no later one: an old window that runs again undoes no correction."""
    if rows.empty:
        return rows
    held = labels_fg.read(
        start_time=rows["datetime"].min(), end_time=rows["datetime"].max() + timedelta(microseconds=1)
    )
    held_since = rows[["tid"]].merge(held[["tid", "known_at"]], on="tid", how="left", validate="m:1")["known_at"]
    return rows[~(held_since > rows["known_at"])].reset_index(drop=True)


if __name__ == "__main__":
    command_line.run(fraud_features)
