"""The air quality system's feature pipeline: measurements and weather in, three feature groups out."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from prefect import flow, get_run_logger, task

import featurestore
from featurestore.times import Window
from flows import command_line, events, late, retries, windows
from flows.air_quality import schema
from flows.settings import Settings
from flows.writing import Writing, check_source, summary

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import FeatureGroup, FeatureStore


FRESH_WITHIN_HOURS = 3
"""What the groups promise to `flows.freshness`. Two hourly runs may be missed before somebody is told."""

TILE = timedelta(days=365)
"""A backfill is cut into pieces of this length: what was committed before a kill stays, and memory stays small."""

EVERY = timedelta(minutes=15)
"""Grid of a run's end: that of 07:15 covers the issue of 07:00, half an hour before it is forecast."""

FIRST_HISTORY = timedelta(days=40)
"""What the first run of a store reads before its start, so that its first rows have a past."""


@flow(name="air-quality-features")
@late.newest_only
def air_quality_features(start: datetime | None = None, end: datetime | None = None) -> int:
    """Write what became known of Poland's air and weather in [start, end); return the rows written.

    Without start it goes on where the last commit ended, and reads the three days before again, because the service
    completes them; without end it goes to the last quarter of an hour. Running a window again writes only what has
    changed since.
    """
    from flows.air_quality import source  # pandas is not needed to deploy this flow

    fs = featurestore.connect(home=Settings().store_home)
    groups = feature_groups(fs, source=source.source_name())
    pm25_fg, outlook_fg = groups[schema.PM25_GROUP], groups[schema.OUTLOOK_GROUP]
    seen_at = windows.scheduled_time()
    window = windows.next_window(
        outlook_fg.watermark, start, end, earliest=source.span().start, every=EVERY, at=source.available_until(seen_at)
    )
    if window is None:
        get_run_logger().info("Skipped: there is nothing newer than what is committed.")
        events.name_run("nothing new")
        events.summary_artifact("air-quality-features-summary", [summary(groups, None, [])])
        return 0
    events.name_run(str(window))
    with Writing() as written:
        for tile in events.progress(windows.tiles(window, TILE), f"Features of {window}"):
            goes_on = start is None and tile.start == window.start
            reading = Window(looking_back(outlook_fg, tile.start) if goes_on else tile.start, tile.end)
            history = FIRST_HISTORY if pm25_fg.watermark is None else timedelta(0)
            measurements = read_measurements(reading, history, seen_at)
            written.write(pm25_fg, days_of(measurements, reading, history), tile)
            # The years before are in our own group: no service is asked for them again.
            rows_of = compute(measurements, read_days(pm25_fg, reading), *read_weather(reading), reading)
            # The outlook comes last: its watermark says that all before it is complete, so a killed run is repaired.
            for name, rows in rows_of.items():
                written.write(groups[name], rows, tile)
    events.summary_artifact("air-quality-features-summary", [summary(groups, window, written.commits)])
    return written.rows_written


def feature_groups(fs: FeatureStore, *, source: str) -> dict[str, FeatureGroup]:
    """The groups this pipeline writes, by name; made where they are not there yet.

    Raises:
        InvalidData: the store holds rows of another source.
    """
    check_source(fs, source, group_name=schema.OUTLOOK_GROUP, settings="TRIPTYCH_SOURCE and TRIPTYCH_DATA")
    tags = {"source": source, "system": "air_quality", "max_age_hours": FRESH_WITHIN_HOURS}
    groups = [
        fs.get_or_create_feature_group(
            name=schema.PM25_GROUP, version=schema.VERSION,
            description="Mean PM2.5 of each station and day: what is forecast, and what forecasts are made from.",
            primary_key=["station", "day"], event_time="issued_at",
            features=list(schema.PM25), expectation_suite=schema.PM25_RULES, tags=tags,
        ),
        fs.get_or_create_feature_group(
            name=schema.WEATHER_GROUP, version=schema.VERSION,
            description="Weather expected for each station and day at each issue, and what it had been before.",
            primary_key=["station", "day", "horizon_days"], event_time="issued_at",
            features=list(schema.WEATHER), expectation_suite=schema.WEATHER_RULES, tags=tags,
        ),
        fs.get_or_create_feature_group(
            name=schema.OUTLOOK_GROUP, version=schema.VERSION,
            description="The next seven days of each station, with what is known of them at each issue.",
            primary_key=["station", "day", "horizon_days"], event_time="issued_at",
            features=list(schema.OUTLOOK), expectation_suite=schema.OUTLOOK_RULES, tags=tags,
        ),
    ]  # fmt: skip
    return {group.name: group for group in groups}


def looking_back(group: FeatureGroup, start: datetime) -> datetime:
    """From when on a run that goes on reads again: the lookback before its start, within the group's history."""
    return max(start - schema.LOOKBACK, min((window.start for window in group.windows()), default=start))


@task(task_run_name="measurements before {reading.end:%Y-%m-%d %H:%M}", **retries.READING)
def read_measurements(reading: Window, history: timedelta, seen_at: datetime) -> pd.DataFrame:
    """Measurements that became known in the window, and the history before it that its first rows need."""
    from flows.air_quality import features, source

    return source.read_measurements(reading.start - history - features.HOURS_WARM_UP, reading.end, as_of=seen_at)


@task(task_run_name="weather before {reading.end:%Y-%m-%d %H:%M}", **retries.READING)
def read_weather(reading: Window) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Forecasts that were there at the window's issues, and the weather observed until then."""
    from flows.air_quality import features, source

    forecasts = source.read_weather_forecasts(reading.start, reading.end)
    return forecasts, source.read_observed_weather(reading.start - features.WEATHER_WARM_UP, reading.end)


@task(task_run_name="days before {reading.end:%Y-%m-%d %H:%M}", **retries.READING)
def read_days(pm25_fg: FeatureGroup, reading: Window) -> pd.DataFrame:
    """The daily means of the years before the window's end, as the store has them."""
    from flows.air_quality import features

    first = reading.start - features.DAYS_WARM_UP - timedelta(days=schema.HORIZONS[-1] + 2)  # days lie at their issue
    return pm25_fg.select(["station", "day", "issued_at", "pm25_ug_m3", "known_at"]).read(
        start_time=first, end_time=reading.end
    )


def days_of(measurements: pd.DataFrame, reading: Window, history: timedelta) -> pd.DataFrame:
    """The daily means that became known in the window, and in the history before it."""
    from flows.air_quality import features

    rows = features.daily_means(measurements)
    return features.since(rows, "known_at", reading.start - history, reading.end)


def compute(
    measurements: pd.DataFrame,
    days: pd.DataFrame,
    forecasts: pd.DataFrame,
    observed: pd.DataFrame,
    reading: Window,
) -> dict[str, pd.DataFrame]:
    """The rows of each group that belong to the window, in the order in which they are to be written."""
    from flows.air_quality import features

    targets = features.outlook_days(reading.start, reading.end, list(schema.STATIONS))
    issues = targets[["station", "issued_at"]].drop_duplicates(ignore_index=True)
    recent = features.recent_means(issues, measurements)
    nearby = features.seen_from(recent)
    outlook = features.outlook_features(targets, recent, days, nearby)
    # A station that is not forecast needs no weather.
    weather = features.weather_features(outlook, forecasts, observed, nearby)
    return {schema.WEATHER_GROUP: weather, schema.OUTLOOK_GROUP: outlook}


if __name__ == "__main__":
    command_line.run(air_quality_features)
