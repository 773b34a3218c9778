"""The three stock pipelines on a real store and registry: windows, repairs, a gate that says no, honest forecasts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import featurestore
from featurestore.errors import InvalidData, InvalidTime, NotFound
from featurestore.times import Window
from flows import events, hindcasting, registry, windows
from flows.http import ServiceUnavailable
from flows.settings import Settings
from flows.stock import feature_pipeline, inference_pipeline, schema, simulator
from flows.stock.feature_pipeline import stock_features
from flows.stock.inference_pipeline import Champions, stock_inference
from flows.stock.training_pipeline import stock_training
from flows.writing import Writing
from tests.flows import shadow_law
from tests.flows.stock.conftest import END, START, Services, close_at, living_in, traded_close
from tests.flows.stub_server import Reply

pytestmark = pytest.mark.long

GROUPS = [schema.NEWS_GROUP, schema.BARS_GROUP, schema.OUTCOMES_GROUP, schema.FEATURES_GROUP]


def evening(month: int, number: int) -> datetime:
    """17:05 New York on a day of 2026."""
    return close_at(date(2026, month, number)) + timedelta(hours=1, minutes=5)


def midnight(month: int, number: int) -> datetime:
    return datetime(2026, month, number, tzinfo=UTC)


def rows_of(settings: Settings, name: str) -> pd.DataFrame:
    return featurestore.connect(home=settings.store_home).get_feature_group(name, schema.VERSION).read()


def watermarks(settings: Settings) -> set[datetime | None]:
    fs = featurestore.connect(home=settings.store_home)
    return {fs.get_feature_group(name, schema.VERSION).watermark for name in GROUPS}


def days_of(settings: Settings, name: str = schema.FEATURES_GROUP) -> list[str]:
    return sorted(rows_of(settings, name)["day"])


# --- features ----------------------------------------------------------------------------------------


def test_window_is_written_to_every_group_and_again_writes_nothing(empty: Settings) -> None:
    """F3: idempotent. Two weeks with Martin Luther King's day."""
    assert stock_features(start=midnight(1, 12), end=midnight(1, 24)) > 0
    first = {name: rows_of(empty, name) for name in GROUPS}
    assert watermarks(empty) == {midnight(1, 24)}
    assert [len(first[name]) for name in GROUPS] == [12 + 28, 9, 9, 9]
    assert "2026-01-19" not in days_of(empty)
    assert stock_features(start=midnight(1, 12), end=midnight(1, 24)) == 0
    for name in GROUPS:
        pd.testing.assert_frame_equal(rows_of(empty, name), first[name], check_exact=True, obj=name)


def test_daily_runs_with_late_and_revised_bars_end_with_the_rows_of_one_backfill(
    empty: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F1, F5: a bar that is late is waited for; one that is corrected is read again within the week."""
    troubled = replace(simulator.CALM, late_share=0.3, revised_share=0.4, missing_share=0.05)
    ordinary = simulator.bars

    def bars(window: object, *, symbols: object, as_of: object) -> pd.DataFrame:
        return ordinary(window, symbols=symbols, as_of=as_of, trouble=troubled)  # type: ignore[arg-type]

    monkeypatch.setattr(simulator, "bars", bars)
    with windows.frozen(midnight(1, 21)):
        stock_features(start=midnight(1, 15), end=midnight(1, 21))
    with windows.frozen(evening(1, 21)):
        assert stock_features() == 0  # the bar is late
    with windows.frozen(evening(1, 22)):
        assert stock_features() > 0
    volumes = rows_of(empty, schema.BARS_GROUP).set_index("day")["volume"]
    assert volumes.index.max() == "2026-01-22"
    for number in (23, 26):
        with windows.frozen(evening(1, number)):
            stock_features()
    assert not rows_of(empty, schema.BARS_GROUP).set_index("day")["volume"].loc[volumes.index].equals(volumes)
    monkeypatch.setenv("TRIPTYCH_HOME", str(empty.home.with_name("backfill")))
    with windows.frozen(evening(1, 26)):
        stock_features(start=midnight(1, 15), end=midnight(1, 27))
    for name in GROUPS:
        pd.testing.assert_frame_equal(rows_of(empty, name), rows_of(Settings(), name), check_exact=True, obj=name)


def test_weekend_and_holiday_have_nothing_new_and_an_outage_is_made_up_for(empty: Settings) -> None:
    """The schedule knows weekdays; the exchange knows Independence Day, observed on Friday the 3rd. F2: one run."""
    with windows.frozen(evening(7, 2)):
        stock_features(start=midnight(6, 29))
    before = watermarks(empty)
    for moment in (datetime(2026, 7, 3, 21, 5, tzinfo=UTC), datetime(2026, 7, 5, 21, 5, tzinfo=UTC)):
        with windows.frozen(moment):
            assert stock_features() == 0
        assert watermarks(empty) == before
    with windows.frozen(evening(7, 8)):
        assert stock_features() > 0
    assert [day[5:] for day in days_of(empty)] == [
        "06-29", "06-30", "07-01", "07-02", "07-06", "07-07", "07-08",
    ]  # fmt: skip


def test_run_killed_before_the_spine_is_repaired_by_the_next(empty: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """F4: the spine is written last, and its watermark decides."""

    class Killed(BaseException):
        """What `kill -9` is to a process, in a test."""

    stock_features(start=midnight(5, 4), end=midnight(5, 6))
    with monkeypatch.context() as patch:
        write = Writing.write

        def until_the_spine(
            written: Writing, group: featurestore.FeatureGroup, rows: pd.DataFrame, window: object
        ) -> object:
            if group.name == schema.FEATURES_GROUP:
                raise Killed
            return write(written, group, rows, window)

        patch.setattr(Writing, "write", until_the_spine)
        with pytest.raises(Killed):
            stock_features(start=midnight(5, 6), end=midnight(5, 8))
    with windows.frozen(midnight(5, 8)):
        stock_features()
    assert watermarks(empty) == {midnight(5, 8)}
    assert len(days_of(empty)) == 4


def test_rows_of_another_source_are_not_mixed_in(empty: Settings) -> None:
    fs = featurestore.connect(home=empty.store_home)
    feature_pipeline.feature_groups(fs, source="simulated")
    with pytest.raises(InvalidData, match=r"rows of the source 'simulated'.*this run reads 'files'.*TRIPTYCH_DATA"):
        feature_pipeline.feature_groups(fs, source="files")


def test_impossible_bars_and_a_split_that_nobody_told_are_refused_and_kept_aside(empty: Settings) -> None:
    """F11: a batch with one such row is refused whole; its rows are in quarantine."""
    stock_features(start=midnight(5, 4), end=midnight(5, 9))
    fs = featurestore.connect(home=empty.store_home)
    bars = fs.get_feature_group(schema.BARS_GROUP, schema.VERSION)
    rows, before = bars.read(), bars.delta_version
    for column, value in [("volume", 0), ("high", rows["low"].min() / 2), ("low", -1.0), ("dividend", -1.0)]:
        with pytest.raises(InvalidData, match=column):
            bars.insert(rows.assign(**{column: rows[column].where(rows.index != 2, value)}))
    assert bars.delta_version == before
    assert len(bars.quarantine())
    features = fs.get_feature_group(schema.FEATURES_GROUP, schema.VERSION)
    with pytest.raises(InvalidData, match="return_1d"):
        features.insert(features.read().assign(return_1d=-2 / 3))


# --- live, on stubs ----------------------------------------------------------------------------------


def live_evening(services: Services, month: int, number: int, **window: datetime) -> int:
    services.yahoo.now = evening(month, number)
    with windows.frozen(evening(month, number)):
        return stock_features(**window)


def test_answer_of_yesterday_is_waited_for_and_a_bar_that_never_comes_is_a_gap_in_the_end(
    services: Services, prefect_api: None
) -> None:
    """Nothing is committed beyond the day that is missing, so nothing is lost; a bar after a gap ends the waiting."""
    live_evening(services, 7, 7, start=midnight(7, 1))
    services.yahoo.lagging.add(date(2026, 7, 8))
    assert live_evening(services, 7, 8) == 0
    assert days_of(Settings())[-1] == "2026-07-07"
    services.yahoo.lagging.clear()
    services.yahoo.missing.add(date(2026, 7, 9))
    assert live_evening(services, 7, 9) > 0
    assert days_of(Settings())[-1] == "2026-07-08"
    assert live_evening(services, 7, 10) > 0
    rows = rows_of(Settings(), schema.FEATURES_GROUP).set_index("day")
    assert rows.index.max() == "2026-07-10"
    assert "2026-07-09" not in rows.index
    assert np.isnan(rows.loc["2026-07-10", "return_1d"])
    assert "2026-07-08" not in days_of(Settings(), schema.OUTCOMES_GROUP)


def test_service_down_or_refusing_writes_nothing_and_the_next_run_covers_the_window(
    services: Services, prefect_api: None
) -> None:
    live_evening(services, 7, 7, start=midnight(7, 1))
    before = watermarks(Settings())
    services.server.troubles.extend([Reply(503), Reply(429, b"Too Many Requests")])
    with pytest.raises(ServiceUnavailable, match=r"covers this window too|Run again later"):
        live_evening(services, 7, 8)
    services.yahoo.meta["currency"] = "EUR"
    with pytest.raises(InvalidData, match="currency is 'EUR', expected 'USD'"):
        live_evening(services, 7, 8)
    assert watermarks(Settings()) == before
    services.yahoo.meta.clear()
    live_evening(services, 7, 9)
    assert days_of(Settings())[-2:] == ["2026-07-08", "2026-07-09"]


def test_split_between_two_runs_changes_no_row_and_no_feature(services: Services, prefect_api: None) -> None:
    """Yahoo re-bases all its history; ours is of prices as traded."""
    live_evening(services, 7, 8, start=midnight(7, 1))
    settings = Settings()
    before = {name: rows_of(settings, name) for name in (schema.BARS_GROUP, schema.FEATURES_GROUP)}
    services.yahoo.splits[date(2026, 7, 9)] = 3.0
    live_evening(services, 7, 9)
    for name, rows in before.items():
        now = rows_of(settings, name)
        pd.testing.assert_frame_equal(now[now["day"] < "2026-07-09"].reset_index(drop=True), rows, obj=name)
    row = rows_of(settings, schema.FEATURES_GROUP).set_index("day").loc["2026-07-09"]
    expected = traded_close(date(2026, 7, 9)) / traded_close(date(2026, 7, 8)) - 1
    assert row["return_1d"] == pytest.approx(expected, abs=1e-6)
    assert row["close"] == pytest.approx(traded_close(date(2026, 7, 9)) / 3, abs=1e-4)
    outcome = rows_of(settings, schema.OUTCOMES_GROUP).set_index("day").loc["2026-07-08"]
    assert outcome["next_close"] == pytest.approx(traded_close(date(2026, 7, 9)), abs=1e-3)


def test_news_that_is_not_there_or_fails_is_told_and_stops_nothing(
    services: Services, prefect_api: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An extra: what was written of it before stands in."""
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(events, "summary_artifact", lambda _, rows: said.extend(rows))
    live_evening(services, 7, 7, start=midnight(7, 1))
    assert said[-1]["news"] == "no feed is set"
    assert rows_of(Settings(), schema.FEATURES_GROUP)[schema.NEWS_FEATURES].isna().all(axis=None)
    monkeypatch.setenv("TRIPTYCH_STOCK_NEWS_URL", services.news.url)
    live_evening(services, 7, 8)
    assert said[-1]["news"] == "as the feed has it"
    before = rows_of(Settings(), schema.FEATURES_GROUP).set_index("day")
    assert before.loc["2026-07-08", "news_polarity_1d"] == 0.0  # Tuesday's articles are balanced, and not absent
    services.news.troubles.extend([Reply(503)] * 2)
    assert live_evening(services, 7, 9) > 0
    assert "the feed failed" in str(said[-1]["news"])
    after = rows_of(Settings(), schema.FEATURES_GROUP).set_index("day")
    assert np.isnan(after.loc["2026-07-09", "news_polarity_1d"])
    assert after.loc["2026-07-09", "news_polarity_7d"] == pytest.approx(0.25 * 3 / 4)
    pd.testing.assert_frame_equal(after.loc[before.index], before)
    live_evening(services, 7, 10)
    assert rows_of(Settings(), schema.FEATURES_GROUP).set_index("day").loc["2026-07-09", "news_polarity_1d"] == 0.25


# --- training ----------------------------------------------------------------------------------------


def test_both_models_are_measured_beside_baselines_and_rejected_with_all_they_came_from(
    with_rejected: Settings,
) -> None:
    """T8, T14, T17: a walk without an edge gives a model without one, and the registry says so."""
    for name, naive in ((schema.RETURN_MODEL, "mae.same_price"), (schema.DIRECTION_MODEL, "brier.share_of_up_days")):
        (model,) = registry.versions(name)
        assert model.decision == "rejected"
        assert "fails: " in model.tags["decision_why"]
        assert "Diebold-Mariano" in model.tags["decision_why"]
        assert registry.champion(name) is None
        kept = {f"test.{naive}", "test.accuracy", "test.accuracy.always_up", "test.diebold_mariano.p"}
        assert kept <= set(model.metrics)
        lineage = model.lineage
        assert lineage.source == "simulated"
        assert lineage.training_window.end == END - timedelta(days=5)
        view = featurestore.connect(home=with_rejected.store_home).get_feature_view(lineage.feature_view, 1)
        dataset = view.training_dataset(lineage.training_dataset_version)
        assert dataset.content_hash == lineage.training_dataset_hash
        assert not {"close", "day", "symbol", "next_return", "next_up"} & set(registry.load(model).feature_names)
        assert registry.explanation(model)
    price = registry.versions(schema.RETURN_MODEL)[0].metrics
    assert price["test.price_r2.same_price"] > 0.9  # worthless, and that is why it is shown
    assert registry.versions(schema.RETURN_MODEL)[0].lineage.scaled_by == schema.SCALE


def test_nothing_new_trains_no_new_version(with_rejected: Settings) -> None:
    """T23."""
    before = [len(registry.versions(name)) for name in (schema.RETURN_MODEL, schema.DIRECTION_MODEL)]
    assert stock_training(end=END) == registry.versions(schema.RETURN_MODEL)[-1].version
    assert [len(registry.versions(name)) for name in (schema.RETURN_MODEL, schema.DIRECTION_MODEL)] == before


def test_training_before_any_feature_beyond_the_known_or_on_too_little_says_what_to_do(empty: Settings) -> None:
    """T22."""
    with pytest.raises(NotFound, match="stock-features/stock-features"):
        stock_training()
    stock_features(start=midnight(5, 4), end=midnight(6, 6))
    with pytest.raises(InvalidTime, match=r"Labels \(next close\) are committed until 2026-06-06"):
        stock_training(end=midnight(7, 1))
    with pytest.raises(InvalidData, match="Run the feature pipeline for more history"):
        stock_training()


# --- inference ---------------------------------------------------------------------------------------


def predictions(settings: Settings) -> pd.DataFrame:
    return rows_of(settings, schema.PREDICTIONS_GROUP)


def test_without_any_model_the_same_price_is_published_flagged_and_its_truth_arrives(
    with_features: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I8: pending, then matured, joined by symbol and day; and the page's rows are these."""
    said: dict[str, list[dict[str, Any]]] = {}
    monkeypatch.setattr(events, "summary_artifact", lambda key, rows: said.update({key: rows}))
    with windows.frozen(datetime(2026, 3, 13, 21, 45, tzinfo=UTC)):
        assert stock_inference(start=midnight(3, 13), end=END) == 1
        assert stock_inference(start=midnight(3, 13), end=END) == 0
    (row,) = predictions(with_features).to_dict("records")
    assert (row["model_version"], row["direction_version"], row["training_dataset_version"]) == (0, 0, 0)
    assert row["forecast_close"] == row["baseline_close"] == row["close"]
    assert (row["degraded"], row["why"]) == (True, "no model has been trained yet; this is the same price")
    assert row["target_at"] == pd.Timestamp(close_at(date(2026, 3, 16)))  # Monday
    assert not row["backfilled"]
    (shown,) = said["stock-recent-predictions"]
    assert (shown["date"], shown["predicted_percent"], shown["true_usd"]) == ("2026-03-16", 0.0, None)
    assert (shown["state"], shown["model_version"]) == ("pending", None)
    with windows.frozen(evening(3, 16)):
        stock_features()
        stock_inference()
    truth = rows_of(with_features, schema.BARS_GROUP).set_index("day").loc["2026-03-16", "close"]
    newest, before = said["stock-recent-predictions"]
    assert (newest["date"], newest["true_usd"], newest["state"]) == ("2026-03-17", None, "pending")
    assert (before["true_usd"], before["state"]) == (round(truth, 2), "matured")
    assert before["true_percent"] == pytest.approx(100 * (truth / row["close"] - 1), abs=0.006)
    (summary,) = said["stock-inference-summary"]
    assert summary["errors_of"] == "forecasts made in time (hindcast)"
    assert summary["mae_usd"] == summary["same_price_mae_usd"] == pytest.approx(abs(truth - row["close"]))
    found = featurestore.connect(home=with_features.store_home).get_feature_group(schema.PREDICTIONS_GROUP, 1)
    key = {"symbol": "TSLA", "day": "2026-03-13", "model_version": 0, "direction_version": 0}
    assert found.get_online(key, ["forecast_close"]) == {"forecast_close": row["close"]}


def test_rejected_models_serve_nothing_and_the_row_says_why(with_rejected: Settings) -> None:
    with windows.frozen(datetime(2026, 3, 12, 21, 45, tzinfo=UTC)):
        stock_inference(start=midnight(3, 12), end=midnight(3, 13))
    row = predictions(with_rejected).set_index("day").loc["2026-03-12"]
    assert (row["model_version"], row["forecast_return"]) == (0, 0.0)
    assert row["why"] == "no model beats the same price; this is the same price"
    assert np.isnan(row["probability_up"])
    assert row["reasons"] == "[]"


def test_promoted_models_forecast_what_follows_and_what_was_said_stays_said(with_rejected: Settings) -> None:
    """I1, I2, I5: by hand, because the gate does not; versions, reasons, stand-ins for what is missing."""
    window = {"start": midnight(3, 9), "end": midnight(3, 12)}
    with windows.frozen(midnight(3, 12)):
        stock_inference(**window)
    try:
        for name in (schema.RETURN_MODEL, schema.DIRECTION_MODEL):
            registry.promote(registry.version(name, 1), why="the tests of inference need a champion")
        with windows.frozen(midnight(3, 12)):
            assert stock_inference(**window) == 3
            assert stock_inference(**window) == 0
        rows = predictions(with_rejected)
        rows = rows[(rows["closed_at"] >= window["start"]) & (rows["closed_at"] < window["end"])]
        assert sorted(rows["model_version"]) == [0, 0, 0, 1, 1, 1]
        ours = rows[rows["model_version"] == 1]
        assert not ours["degraded"].any()
        assert ours["probability_up"].between(0.2, 0.8).all()
        expected = ours["close"] * (1 + ours["forecast_return"])
        assert ours["forecast_close"].to_numpy() == pytest.approx(expected.to_numpy())
        assert ours["forecast_return"].abs().between(0, 0.05).all()  # returns, not multiples of volatility
        assert ours["reasons"].str.startswith('[{"feature": ').all()
        assert ours["backfilled"].tolist() == [True, True, False]  # two openings have passed
        assert set(ours["feature_view"]) == {"stock_next_day@1"}
        chosen = hindcasting.served(rows, ["symbol", "day"], which="last")
        assert chosen["day"].is_unique

        fs = featurestore.connect(home=with_rejected.store_home)
        champions = Champions.now()
        closes, of_return, of_direction = inference_pipeline.read_batches.fn(
            fs, champions, featurestore.Window.of("2026-03-09", "2026-03-12")
        )
        assert of_return is not None
        spoilt = of_return.sort_values("closed_at", ignore_index=True)
        spoilt.loc[0, schema.SCALE] = None
        spoilt.loc[1, "return_1d"] = None
        spoilt.loc[2, schema.NEWS_FEATURES] = None
        found = inference_pipeline.forecast.fn(champions, closes, spoilt, of_direction, midnight(3, 12))
        assert found["why"].tolist() == [
            "the volatility of the last 20 days is not known; this is the same price",
            "the bar of the day before is missing",
            "no news of the last week",
        ]
        assert found["degraded"].all()
        assert found.loc[0, "forecast_close"] == found.loc[0, "close"]
        absurd = spoilt.assign(**{schema.SCALE: 1e6})
        with pytest.raises(InvalidData, match="in a day"):
            inference_pipeline.forecast.fn(champions, closes, absurd, of_direction, midnight(3, 12))

        challenger = registry.version(schema.RETURN_MODEL, stock_training(end=END, force=True))
        assert challenger.version == 2
        assert "better than the champion on the newest stretch" in challenger.tags["decision_why"]
        assert registry.champion(schema.RETURN_MODEL) == registry.version(schema.RETURN_MODEL, 1)
    finally:
        client = registry._client()
        for name in (schema.RETURN_MODEL, schema.DIRECTION_MODEL):
            client.delete_registered_model_alias(name, registry.CHAMPION)


def test_window_beyond_the_features_and_no_features_at_all_are_refused(with_features: Settings) -> None:
    with pytest.raises(InvalidTime, match="ends after the features"):
        stock_inference(start=END, end=END + timedelta(days=1))


def test_inference_before_any_feature_says_what_to_run(empty: Settings) -> None:
    with pytest.raises(NotFound, match="stock-features/stock-features"):
        stock_inference()


def test_history_of_the_fixture_has_every_trading_day_but_those_that_never_came(with_features: Settings) -> None:
    rows = rows_of(with_features, schema.FEATURES_GROUP)
    assert rows["closed_at"].min() >= START
    assert len(rows) > 795


# --- the shadow --------------------------------------------------------------------------------------


def test_challengers_are_heard_on_the_same_closes_and_change_nothing_served(trained_once: Path, tmp_path: Path) -> None:
    shadow_law.check(
        trained_once, tmp_path, living_in, stock_inference,
        dict.fromkeys((schema.RETURN_MODEL, schema.DIRECTION_MODEL), schema.PREDICTIONS_GROUP),
        Window(midnight(3, 2), midnight(3, 5)),
    )  # fmt: skip
