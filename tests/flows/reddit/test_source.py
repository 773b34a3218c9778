"""Three sources of posts and votes, one shape; and a simulator that can be late, wrong and silent."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from featurestore.errors import InvalidTime, NotFound
from featurestore.times import Window
from flows import windows
from flows.reddit import simulator, source
from flows.reddit.schema import LABEL_DELAY
from flows.reddit.simulator import CALM, Trouble
from tests.flows.reddit.conftest import living_in
from tests.flows.stub_server import data_folder

DAY = timedelta(days=1)
START = datetime(2026, 3, 1, tzinfo=UTC)
WEEK = Window(START, START + 7 * DAY)
LATER = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = data_folder("reddit")
    monkeypatch.setenv("TRIPTYCH_DATA", str(folder))
    return folder


def dtypes(rows: pd.DataFrame) -> dict[str, str]:
    return {name: str(dtype) for name, dtype in rows.dtypes.items()}


def test_simulated_rows_have_the_declared_shape() -> None:
    assert dtypes(source.read_posts(*WEEK, source="simulated")) == dict(source.POSTS)
    assert dtypes(source.read_outcomes(*WEEK, source="simulated")) == dict(source.OUTCOMES)


def test_table_has_the_shape_of_the_simulator_and_only_settled_votes(tables: Path) -> None:
    start = datetime(2021, 10, 20, tzinfo=UTC)
    posts = source.read_posts(start, start + 3 * DAY, source="files")
    votes = source.read_outcomes(start, start + 3 * DAY, source="files")
    assert dtypes(posts) == dict(source.POSTS)
    assert dtypes(votes) == dict(source.OUTCOMES)
    assert posts["created"].between(start, start + 3 * DAY, inclusive="left").all()
    assert (votes["seen_at"] >= votes["created"] + LABEL_DELAY).all()
    raw = pd.read_parquet(tables / "reddit" / source.POSTS_TABLE).set_index("post_id")
    row = votes.iloc[7]
    assert (row["likes"], row["upvote_ratio"]) == tuple(raw.loc[row["post_id"], ["score", "upvote_ratio"]])
    young = raw[(raw["snapshot_utc"] - raw["created_utc"]) < LABEL_DELAY].index
    assert not votes["post_id"].isin(young).any()


def test_table_is_learned_from_only_where_it_is_no_list_of_the_best() -> None:
    assert source.span(source="files").start == datetime(2021, 10, 4, tzinfo=UTC)


def test_rows_are_the_same_whatever_the_window() -> None:
    whole = source.read_posts(*WEEK, source="simulated", as_of=LATER)
    parts = [
        source.read_posts(START + n * DAY, START + (n + 1) * DAY, source="simulated", as_of=LATER) for n in range(7)
    ]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole)
    assert whole["post_id"].is_unique


def test_every_outcome_is_of_a_post_two_days_before() -> None:
    posts = simulator.posts(Window(START - 3 * DAY, WEEK.end), as_of=LATER, trouble=CALM).set_index("post_id")
    votes = simulator.outcomes(WEEK, trouble=CALM)
    assert set(votes["post_id"]) <= set(posts.index)
    assert (votes["known_at"] - votes["created"] == LABEL_DELAY).all()
    assert (posts["author"].loc[votes["post_id"]].to_numpy() == votes["author"].to_numpy()).all()


def test_late_posts_are_shown_twenty_hours_later() -> None:
    troubled = replace(CALM, late_share=0.5)
    day = Window(START, START + DAY)
    early = simulator.posts(day, as_of=day.end, trouble=troubled)
    late = simulator.posts(day, as_of=day.end + simulator.LATE, trouble=troubled)
    assert len(early) < len(late) == len(simulator.posts(day, as_of=LATER, trouble=CALM))


def test_deleted_authors_removed_texts_and_untold_ratios_are_null() -> None:
    troubled = Trouble(deleted_share=0.3, removed_share=0.3, without_ratio_share=0.3, missing_share=0.3)
    posts, votes = simulator.posts(WEEK, as_of=LATER, trouble=troubled), simulator.outcomes(WEEK, trouble=troubled)
    for share in (posts["author"].isna(), posts["body"].isna(), votes["upvote_ratio"].isna()):
        assert 0.15 < share.mean() < 0.45
    assert len(votes) < 0.85 * len(simulator.outcomes(WEEK, trouble=CALM))


def test_outage_drift_and_renaming_can_be_switched_on() -> None:
    noon = START + DAY / 2
    silent = simulator.posts(WEEK, as_of=LATER, trouble=replace(CALM, outages=(Window(START, noon),)))
    assert silent["created"].min() >= noon
    turned = replace(CALM, drift_from=START + LABEL_DELAY, renamed=(("WoodShed", "Woodwork"),))
    settled = Window(START + 2 * LABEL_DELAY, WEEK.end + 2 * LABEL_DELAY)
    calm, drifted = (simulator.outcomes(settled, trouble=each) for each in (CALM, turned))
    assert not np.array_equal(calm["likes"], drifted["likes"])
    assert "Woodwork" in set(drifted["subreddit"])
    assert "WoodShed" not in set(drifted["subreddit"])


def test_likes_are_partly_told_by_what_is_known_before() -> None:
    """Learnable, and mostly luck: talent of authors alone explains something, and not the most."""
    votes = simulator.outcomes(Window(START, START + 60 * DAY), trouble=CALM)
    log_likes = np.log1p(votes["likes"])
    level = log_likes - log_likes.groupby(votes["subreddit"]).transform("mean")
    halves = votes.index % 2 == 0
    talent = level[halves].groupby(votes["author"][halves]).mean()
    seen = votes["author"][~halves].map(talent)
    correlation = level[~halves].corr(seen)
    assert 0.15 < correlation < 0.6


def test_unknown_source_and_naive_times_are_refused() -> None:
    with pytest.raises(NotFound, match="no source of posts 'twitter'"):
        source.read_posts(*WEEK, source="twitter")
    with pytest.raises(InvalidTime, match="no time zone"):
        source.read_posts(datetime(2026, 1, 1), WEEK.end, source="simulated")


def test_missing_table_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_DATA", str(tmp_path))
    with pytest.raises(NotFound, match="college_subreddits_posts"):
        source.read_posts(*WEEK, source="files")


def test_live_begins_two_days_ago_and_ends_now(tmp_path: Path) -> None:
    with living_in(tmp_path, source="live"), windows.frozen(START + timedelta(minutes=20)):
        assert source.span() == Window(START - 2 * DAY, START)
        assert source.available_until(START) == START
        assert not source.remembers()
