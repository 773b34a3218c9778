"""The stock system's feature pipeline: daily bars and news in, four feature groups out."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from prefect import flow, get_run_logger, task

import featurestore
from featurestore.times import Window
from flows import command_line, events, late, retries, rules, windows
from flows.settings import Settings
from flows.stock import schema
from flows.writing import Writing, check_source, summary

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import FeatureGroup, FeatureStore


FRESH_WITHIN_HOURS = 100
"""What the groups promise to `flows.freshness`: from Thursday to Monday there may be four days without a close."""

TILE = timedelta(days=3650)
"""A backfill is cut into pieces of this length. A year of a stock is 250 rows, and Yahoo answers ten years at once."""

NO_FEED, READ = "no feed is set", "as the feed has it"


@flow(name="stock-features")
@late.newest_only
def stock_features(start: datetime | None = None, end: datetime | None = None) -> int:
    """Write the trading days that closed in [start, end) and what is known at their closes; return the rows written.

    Without start it goes on where the last commit ended, and reads the week before again, because bars are completed
    and corrected; without end it goes to the last full hour. On a day without a close there is nothing new. Where the
    bar of the newest close is not there yet it is waited for: the window ends before it, and the next run begins there.
    """
    from flows.stock import sessions, source  # pandas is not needed to deploy this flow

    fs = featurestore.connect(home=Settings().store_home)
    groups = feature_groups(fs, source=source.source_name())
    seen_at = windows.scheduled_time()
    spine = groups[schema.FEATURES_GROUP]
    window = windows.next_window(
        spine.watermark, start, end, earliest=source.span().start, at=source.available_until(seen_at)
    )  # fmt: skip
    waiting_for, news_are = None, READ if source.has_news() else NO_FEED
    if window is not None and sessions.closes_between(*window).empty:
        window = None
    begins = None if window is None else window.start
    events.name_run(str(window or "nothing new"))
    with Writing() as written:
        for tile in [] if window is None else events.progress(windows.tiles(window, TILE), f"Features of {window}"):
            goes_on = start is None and tile.start == begins
            reading = Window(looking_back(spine, tile.start) if goes_on else tile.start, tile.end)
            bars = read_bars(reading, seen_at)
            tile, waiting_for = arrived(tile, bars, seen_at)
            if waiting_for is not None:
                get_run_logger().warning(
                    "The bar of the close at %s is not there yet; the next run asks again.", waiting_for
                )
            if tile.start == tile.end:
                break
            news, failure = read_news(groups[schema.NEWS_GROUP], reading)
            news_are = failure or news_are
            # The spine comes last: its watermark says that all before it is complete, so a killed run is repaired.
            for name, rows in compute(bars, news, Window(reading.start, tile.end)).items():
                written.write(groups[name], rows, tile)
    if not written.commits:
        get_run_logger().info("Skipped: there is nothing newer than what is committed.")
    row = summary(groups, window if written.commits else None, written.commits) | {
        "news": news_are,
        "waiting_for": None if waiting_for is None else waiting_for.isoformat(),
    }
    events.summary_artifact("stock-features-summary", [row])
    return written.rows_written


def feature_groups(fs: FeatureStore, *, source: str) -> dict[str, FeatureGroup]:
    """The groups this pipeline writes, by name; made where they are not there yet.

    Raises:
        InvalidData: the store holds rows of another source.
    """
    check_source(
        fs, source, group_name=schema.FEATURES_GROUP, settings="TRIPTYCH_SOURCE and TRIPTYCH_DATA"
    )  # fmt: skip
    tags = {"source": source, "system": schema.SYSTEM, "max_age_hours": FRESH_WITHIN_HOURS}
    groups = [
        fs.get_or_create_feature_group(
            name=schema.BARS_GROUP, version=schema.VERSION,
            description="Daily bars as traded, with splits and dividends on their days.",
            primary_key=["symbol", "day"], event_time="closed_at",
            features=list(schema.BARS), expectation_suite=schema.BARS_RULES, tags=tags,
        ),
        fs.get_or_create_feature_group(
            name=schema.NEWS_GROUP, version=schema.VERSION,
            description="Mean sentiment of each day's articles; null without any.",
            primary_key=["symbol"], event_time="known_at",
            features=list(schema.NEWS), expectation_suite=schema.NEWS_RULES, tags=tags,
        ),
        fs.get_or_create_feature_group(
            name=schema.OUTCOMES_GROUP, version=schema.VERSION,
            description="What came of each trading day at the next one's close.",
            primary_key=["symbol", "day"], event_time="closed_at",
            features=list(schema.OUTCOMES), expectation_suite=schema.OUTCOMES_RULES, tags=tags,
        ),
        fs.get_or_create_feature_group(
            name=schema.FEATURES_GROUP, version=schema.VERSION,
            description="What is known of a stock at the close of a trading day, whatever was split.",
            primary_key=["symbol", "day"], event_time="closed_at",
            features=list(schema.FEATURES), expectation_suite=schema.FEATURES_RULES, tags=tags,
        ),
    ]  # fmt: skip
    return {group.name: group for group in groups}


def looking_back(group: FeatureGroup, start: datetime) -> datetime:
    """From when on a run that goes on reads again: the lookback before its start, within the group's history."""
    return max(start - schema.LOOKBACK, min((window.start for window in group.windows()), default=start))


def arrived(tile: Window, bars: pd.DataFrame, seen_at: datetime) -> tuple[Window, datetime | None]:
    """The part of the window whose bars are there, and the close that is waited for; None: all are there.

    A window without any close before the one that is waited for is empty.
    """
    from flows.stock import features, sessions

    missing = features.newest_missing(bars, tile, waits_until=seen_at - schema.WAITING)
    if missing is None:
        return tile, None
    has_any = not sessions.closes_between(tile.start, missing).empty
    return Window(tile.start, missing if has_any else tile.start), missing


@task(task_run_name="bars before {reading.end:%Y-%m-%d %H:%M}", **retries.READING)
def read_bars(reading: Window, seen_at: datetime) -> pd.DataFrame:
    """The bars of the window, and the history before it that its first rows need."""
    from flows.stock import features, source

    return source.read_bars(reading.start - features.WARM_UP, reading.end, as_of=seen_at)


@task(task_run_name="news before {reading.end:%Y-%m-%d %H:%M}", **retries.READING)
def read_news(news_fg: FeatureGroup, reading: Window) -> tuple[pd.DataFrame, str]:
    """The news of the window and of the weeks before it, and what went wrong (else empty).

    News is an extra: a feed that fails stops nothing. What was written of it before stands in, and the run says so.
    """
    from flows.http import LiveSourceError
    from flows.stock import features, source

    start = reading.start - timedelta(days=features.NEWS_DAYS)
    try:
        return source.read_news(start, reading.end), ""
    except LiveSourceError as error:
        get_run_logger().warning("Without new news: %s", error)
        return news_fg.read(start_time=start, end_time=reading.end), f"the feed failed: {error}"


def compute(bars: pd.DataFrame, news: pd.DataFrame, reading: Window) -> dict[str, pd.DataFrame]:
    """The rows of each group that belong to the window, in the order in which they are to be written."""
    from flows.stock import features

    bars = bars[bars["closed_at"] < reading.end]
    traded = bars.assign(day=features.day_of(bars["closed_at"]))
    return {
        # With the weeks before the window: should the feed fail one day, all that features need is here.
        schema.NEWS_GROUP: news[rules.columns(schema.NEWS)],
        schema.BARS_GROUP: features.since(traded, "closed_at", reading.start)[rules.columns(schema.BARS)],
        schema.OUTCOMES_GROUP: features.since(features.known_outcomes(bars), "known_at", reading.start),
        schema.FEATURES_GROUP: features.since(features.stock_features(bars, news), "closed_at", reading.start),
    }


if __name__ == "__main__":
    command_line.run(stock_features)
