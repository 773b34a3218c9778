"""The electricity system's feature pipeline: demand and forecasts in, four feature groups out."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from prefect import flow, get_run_logger, task

import featurestore
from featurestore.times import Window
from flows import command_line, events, late, retries, rules, windows
from flows.electricity import schema
from flows.settings import Settings
from flows.writing import Writing, check_source, summary

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import FeatureGroup, FeatureStore


FRESH_WITHIN_HOURS = 3
"""What the groups promise to `flows.freshness`. Two hourly runs may be missed before somebody is told."""

TILE = timedelta(days=120)
"""A backfill is cut into pieces of this length: what was committed before a kill stays, and memory stays small."""


@flow(name="electricity-features")
@late.newest_only
def electricity_features(start: datetime | None = None, end: datetime | None = None) -> int:
    """Write what became known of New York's demand and weather in [start, end); return the rows written.

    Without start it goes on where the last commit ended, and reads the three days before again, because sources
    complete and correct them; without end it goes to the last full hour. Running a window again writes only what has
    changed since.
    """
    from flows.electricity import source  # pandas is not needed to deploy this flow

    fs = featurestore.connect(home=Settings().store_home)
    groups = feature_groups(fs, source=source.source_name())
    seen_at = windows.scheduled_time()
    last = groups[schema.DAY_AHEAD_GROUP].watermark
    window = windows.next_window(
        last, start, end, earliest=source.span().start, at=source.available_until(seen_at)
    )  # fmt: skip
    if window is None:
        get_run_logger().info("Skipped: there is nothing newer than what is committed.")
        events.name_run("nothing new")
        events.summary_artifact("electricity-features-summary", [summary(groups, None, [])])
        return 0
    spine = groups[schema.DAY_AHEAD_GROUP]
    events.name_run(str(window))
    with Writing() as written:
        for tile in events.progress(windows.tiles(window, TILE), f"Features of {window}"):
            goes_on = start is None and tile.start == window.start
            reading = Window(looking_back(spine, tile.start) if goes_on else tile.start, tile.end)
            rows_of = compute(
                read_demand(reading, seen_at), read_weather(reading), read_operator_forecasts(reading, seen_at),
                read_prices(reading, seen_at), reading,
            )  # fmt: skip
            # The spine comes last: its watermark says that all before it is complete, so a killed run is repaired.
            for name, rows in rows_of.items():
                written.write(groups[name], rows, tile)
    events.summary_artifact("electricity-features-summary", [summary(groups, window, written.commits)])
    return written.rows_written


def feature_groups(fs: FeatureStore, *, source: str) -> dict[str, FeatureGroup]:
    """The groups this pipeline writes, by name; made where they are not there yet.

    Raises:
        InvalidData: the store holds rows of another source.
    """
    check_source(
        fs, source, group_name=schema.DAY_AHEAD_GROUP,
        settings="TRIPTYCH_SOURCE, TRIPTYCH_DATA and TRIPTYCH_ELECTRICITY_TABLE",
    )  # fmt: skip
    tags = {"source": source, "system": "electricity", "max_age_hours": FRESH_WITHIN_HOURS}
    groups = [
        fs.get_or_create_feature_group(
            name=schema.WEATHER_GROUP, version=schema.VERSION,
            description="Temperature expected for each zone and hour, since when it was expected.",
            primary_key=["zone", "hour"], event_time="issued_at",
            features=list(schema.WEATHER), expectation_suite=schema.WEATHER_RULES, tags=tags,
        ),
        fs.get_or_create_feature_group(
            name=schema.DEMAND_GROUP, version=schema.VERSION,
            description="Demand of each zone and hour, beside the issue of the forecast it judges.",
            primary_key=["zone", "hour"], event_time="issued_at",
            features=list(schema.DEMAND), expectation_suite=schema.DEMAND_RULES, tags=tags,
        ),
        fs.get_or_create_feature_group(
            name=schema.OPERATOR_GROUP, version=schema.VERSION,
            description="The operator's own day-ahead forecast, to compare with.",
            primary_key=["zone", "hour"], event_time="issued_at",
            features=list(schema.OPERATOR), expectation_suite=schema.OPERATOR_RULES, tags=tags,
        ),
        fs.get_or_create_feature_group(
            name=schema.PRICE_GROUP, version=schema.VERSION,
            description="Price of each zone and hour, beside the issue of the forecast it judges.",
            primary_key=["zone", "hour"], event_time="issued_at",
            features=list(schema.PRICE), expectation_suite=schema.PRICE_RULES, tags=tags,
        ),
        fs.get_or_create_feature_group(
            name=schema.PRICE_DAY_AHEAD_GROUP, version=schema.VERSION,
            description="The hours of the next day, with the prices that are known when the forecast is issued.",
            primary_key=["zone", "hour"], event_time="issued_at",
            features=list(schema.PRICE_DAY_AHEAD), expectation_suite=schema.PRICE_DAY_AHEAD_RULES, tags=tags,
        ),
        fs.get_or_create_feature_group(
            name=schema.DAY_AHEAD_GROUP, version=schema.VERSION,
            description="The hours of the next day, with what is known of them when the forecast is issued.",
            primary_key=["zone", "hour"], event_time="issued_at",
            features=list(schema.DAY_AHEAD), expectation_suite=schema.DAY_AHEAD_RULES, tags=tags,
        ),
    ]  # fmt: skip
    return {group.name: group for group in groups}


def looking_back(group: FeatureGroup, start: datetime) -> datetime:
    """From when on a run that goes on reads again: the lookback before its start, within the group's history."""
    return max(start - schema.LOOKBACK, min((window.start for window in group.windows()), default=start))


@task(task_run_name="demand before {reading.end:%Y-%m-%d %H:%M}", **retries.READING)
def read_demand(reading: Window, seen_at: datetime) -> pd.DataFrame:
    """Demand that became known in the window, and the history before it that its first rows need."""
    from flows.electricity import features, source

    return source.read_demand(reading.start - features.DEMAND_WARM_UP, reading.end, as_of=seen_at)


@task(task_run_name="weather before {reading.end:%Y-%m-%d %H:%M}", **retries.READING)
def read_weather(reading: Window) -> pd.DataFrame:
    """Weather forecasts that became known in the window, and the history before it that its first rows need."""
    from flows.electricity import features, source

    return source.read_weather(reading.start - features.WEATHER_WARM_UP, reading.end)


@task(task_run_name="operator's forecasts before {reading.end:%Y-%m-%d %H:%M}", **retries.READING)
def read_operator_forecasts(reading: Window, seen_at: datetime) -> pd.DataFrame:
    """The operator's forecasts issued in the window."""
    from flows.electricity import source

    return source.read_operator_forecasts(reading.start, reading.end, as_of=seen_at)


@task(task_run_name="prices before {reading.end:%Y-%m-%d %H:%M}", **retries.READING)
def read_prices(reading: Window, seen_at: datetime) -> pd.DataFrame:
    """Prices that became known in the window, and the history before it that its first rows need."""
    from flows.electricity import features, source

    return source.read_prices(reading.start - features.PRICE_WARM_UP, reading.end, as_of=seen_at)


def compute(
    demand: pd.DataFrame, weather: pd.DataFrame, operator: pd.DataFrame, prices: pd.DataFrame, reading: Window
) -> dict[str, pd.DataFrame]:
    """The rows of each group that belong to the window, in the order in which they are to be written."""
    from flows.electricity import features, source

    targets = features.day_ahead_hours(reading.start, reading.end, source.zones())
    return {
        schema.WEATHER_GROUP: features.since(features.weather_features(weather), "issued_at", reading.start),
        schema.DEMAND_GROUP: features.since(features.known_demand(demand), "known_at", reading.start),
        schema.OPERATOR_GROUP: operator[rules.columns(schema.OPERATOR)],
        schema.PRICE_GROUP: features.since(features.known_prices(prices), "known_at", reading.start),
        schema.PRICE_DAY_AHEAD_GROUP: features.price_features(targets if len(prices) else targets.head(0), prices),
        schema.DAY_AHEAD_GROUP: features.day_ahead_features(targets, demand),
    }


if __name__ == "__main__":
    command_line.run(electricity_features)
