"""The fraud feature pipeline on a real store: windows, repairs, and what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

import featurestore
from featurestore.errors import InvalidData, InvalidTime, SchemaMismatch
from flows import windows
from flows.fraud import feature_pipeline, schema, source
from flows.fraud.feature_pipeline import fraud_features
from flows.settings import Settings
from flows.writing import Writing

GROUPS = [
    schema.CARDS_GROUP,
    schema.CARD_WINDOWS_GROUP,
    schema.MERCHANT_RISK_GROUP,
    schema.LABELS_GROUP,
    schema.TRANSACTIONS_GROUP,
]


def day(number: int) -> datetime:
    return datetime(2026, 2, 1, tzinfo=UTC) + timedelta(days=number)


def everything(settings: Settings) -> dict[str, pd.DataFrame]:
    """All rows of all groups."""
    fs = featurestore.connect(home=settings.store_home)
    return {name: fs.get_feature_group(name, schema.VERSION).read() for name in GROUPS}


def assert_same(one: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> None:
    for name in GROUPS:
        pd.testing.assert_frame_equal(one[name], other[name], check_exact=True, obj=name)


def watermarks(settings: Settings) -> set[datetime | None]:
    fs = featurestore.connect(home=settings.store_home)
    return {fs.get_feature_group(name, schema.VERSION).watermark for name in GROUPS}


def test_window_is_written_to_every_group_and_again_writes_nothing(empty: Settings) -> None:
    assert fraud_features(start=day(0), end=day(3)) > 0
    first = everything(empty)
    assert watermarks(empty) == {day(3)}
    transactions = source.read_transactions(day(0), day(3), source="simulated")
    assert first[schema.TRANSACTIONS_GROUP]["tid"].tolist() == transactions["tid"].tolist()
    assert fraud_features(start=day(0), end=day(3)) == 0
    assert_same(everything(empty), first)


def test_daily_runs_write_the_rows_of_one_backfill(empty: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    home = empty.home
    fraud_features(start=day(0), end=day(4))
    backfilled = everything(empty)
    monkeypatch.setenv("TRIPTYCH_HOME", str(home.with_name("daily")))
    daily = Settings()
    fraud_features(start=day(0), end=day(1))
    for number in range(2, 5):
        with windows.frozen(day(number) + timedelta(minutes=5)):
            fraud_features()
    assert_same(everything(daily), backfilled)


def test_run_after_an_outage_covers_all_that_was_missed(empty: Settings) -> None:
    fraud_features(start=day(0), end=day(1))
    with windows.frozen(day(4) + timedelta(minutes=59)):
        fraud_features()
    times = everything(empty)[schema.TRANSACTIONS_GROUP]["datetime"]
    assert watermarks(empty) == {day(4)}
    assert times.dt.floor("D").nunique() == 4


def test_run_without_anything_new_writes_nothing_and_ends_well(empty: Settings) -> None:
    fraud_features(start=day(0), end=day(1))
    with windows.frozen(day(1) + timedelta(minutes=30)):
        assert fraud_features() == 0


def test_run_killed_before_the_spine_is_repaired_by_the_next(empty: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        """What `kill -9` is to a process, in a test."""

    fraud_features(start=day(0), end=day(1))
    with monkeypatch.context() as patch:
        write = Writing.write

        def until_the_spine(written: Writing, group: object, rows: pd.DataFrame, window: object) -> object:
            if group.name == schema.TRANSACTIONS_GROUP:
                raise Killed
            return write(written, group, rows, window)

        patch.setattr(Writing, "write", until_the_spine)
        with pytest.raises(Killed):
            fraud_features(start=day(1), end=day(2))
    with windows.frozen(day(2)):
        fraud_features()
    assert watermarks(empty) == {day(2)}
    monkeypatch.setenv("TRIPTYCH_HOME", str(empty.home.with_name("undisturbed")))
    undisturbed = Settings()
    fraud_features(start=day(0), end=day(1))
    fraud_features(start=day(1), end=day(2))
    killed = featurestore.connect(home=empty.store_home)
    other = featurestore.connect(home=undisturbed.store_home)
    for name in GROUPS:
        pd.testing.assert_frame_equal(
            killed.get_feature_group(name, 1).read(), other.get_feature_group(name, 1).read(), check_exact=True
        )


def test_window_that_ends_before_it_starts_is_refused(empty: Settings) -> None:
    with pytest.raises(InvalidTime, match="after its end"):
        fraud_features(start=day(2), end=day(1))


def test_rows_of_another_source_are_not_mixed_in(empty: Settings) -> None:
    fs = featurestore.connect(home=empty.store_home)
    feature_pipeline.feature_groups(fs, source="simulated")
    with pytest.raises(InvalidData, match=r"holds rows of the source 'simulated', and this run reads 'handbook'.*TRIP"):
        feature_pipeline.feature_groups(fs, source="handbook")


def test_null_card_number_and_wrong_type_write_nothing(empty: Settings) -> None:
    fraud_features(start=day(0), end=day(1))
    fs = featurestore.connect(home=empty.store_home)
    group = fs.get_feature_group(schema.TRANSACTIONS_GROUP, schema.VERSION)
    rows, before = group.read(), group.delta_version
    with pytest.raises(InvalidData, match="cc_num"):
        group.insert(rows.assign(cc_num=rows["cc_num"].where(rows.index > 0)))
    with pytest.raises(SchemaMismatch, match="amount"):
        group.insert(rows.assign(amount=rows["amount"].astype("str")))
    assert group.delta_version == before


def test_duplicate_batch_changes_nothing(empty: Settings) -> None:
    fraud_features(start=day(0), end=day(1))
    fs = featurestore.connect(home=empty.store_home)
    group = fs.get_feature_group(schema.TRANSACTIONS_GROUP, schema.VERSION)
    rows, before = group.read(), group.delta_version
    commit = group.insert(pd.concat([rows, rows], ignore_index=True))
    assert (commit.rows_written, commit.rows_deduplicated) == (0, len(rows))
    assert group.delta_version == before
