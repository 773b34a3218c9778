"""The three electricity pipelines on a real store and registry: windows, repairs, gate, forecasts, refusals."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from prefect import flow

import featurestore
from featurestore.errors import InvalidData, InvalidTime, NotFound
from featurestore.times import Window
from flows import hindcasting, registry, serving, windows
from flows.electricity import (
    feature_pipeline,
    inference_pipeline,
    modelling,
    price_inference,
    price_training,
    schema,
    simulator,
    source,
)
from flows.electricity.feature_pipeline import electricity_features
from flows.electricity.inference_pipeline import electricity_inference
from flows.electricity.simulator import Trouble
from flows.electricity.training_pipeline import electricity_training
from flows.http import ServiceUnavailable, UnexpectedAnswer
from flows.settings import Settings
from flows.writing import Writing
from tests.flows import shadow_law
from tests.flows.electricity.conftest import END, START, Services, living_in
from tests.flows.stub_server import Reply

pytestmark = pytest.mark.long

GROUPS = [
    schema.WEATHER_GROUP, schema.DEMAND_GROUP, schema.OPERATOR_GROUP, schema.PRICE_GROUP,
    schema.PRICE_DAY_AHEAD_GROUP, schema.DAY_AHEAD_GROUP,
]  # fmt: skip


def day(number: int) -> datetime:
    return datetime(2026, 2, 1, tzinfo=UTC) + timedelta(days=number)


def rows_of(settings: Settings, name: str) -> pd.DataFrame:
    return featurestore.connect(home=settings.store_home).get_feature_group(name, schema.VERSION).read()


def everything(settings: Settings) -> dict[str, pd.DataFrame]:
    return {name: rows_of(settings, name) for name in GROUPS}


def watermarks(settings: Settings) -> set[datetime | None]:
    fs = featurestore.connect(home=settings.store_home)
    return {fs.get_feature_group(name, schema.VERSION).watermark for name in GROUPS}


# --- features ----------------------------------------------------------------------------------------


def test_window_is_written_to_every_group_and_again_writes_nothing(empty: Settings) -> None:
    """F3: idempotent."""
    assert electricity_features(start=day(0), end=day(3)) > 0
    first = everything(empty)
    assert watermarks(empty) == {day(3)}
    assert len(first[schema.DAY_AHEAD_GROUP]) == 3 * 24 * 11
    assert electricity_features(start=day(0), end=day(3)) == 0
    for name in GROUPS:
        pd.testing.assert_frame_equal(rows_of(empty, name), first[name], check_exact=True, obj=name)


def test_daily_runs_with_late_and_revised_rows_end_with_the_rows_of_one_backfill(
    empty: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F1, F5: rows that come late or corrected are read again within the lookback, and change what depends on them."""
    troubled = Trouble(late_share=0.1, revised_share=0.1, outage_share=0.3)
    calm_demand = simulator.demand
    monkeypatch.setattr(
        simulator, "demand", lambda window, *, as_of: calm_demand(window, as_of=as_of, trouble=troubled)
    )  # fmt: skip
    daily, versions = empty, set()
    with windows.frozen(day(1)):
        electricity_features(start=day(0), end=day(1))
    versions.add(tuple(rows_of(daily, schema.DEMAND_GROUP)["demand_mw"].head(200)))
    for number in range(2, 6):
        with windows.frozen(day(number) + timedelta(minutes=5)):
            assert electricity_features() > 0
        versions.add(tuple(rows_of(daily, schema.DEMAND_GROUP)["demand_mw"].head(200)))
    assert len(versions) > 1  # the first day did change afterwards
    monkeypatch.setenv("TRIPTYCH_HOME", str(empty.home.with_name("backfill")))
    with windows.frozen(day(5) + timedelta(minutes=5)):
        electricity_features(start=day(0), end=day(5))
    for name in GROUPS:
        pd.testing.assert_frame_equal(rows_of(daily, name), rows_of(Settings(), name), check_exact=True, obj=name)


def test_run_after_an_outage_covers_all_that_was_missed(empty: Settings) -> None:
    """F2: three days without a worker, one run."""
    electricity_features(start=day(0), end=day(1))
    with windows.frozen(day(4) + timedelta(minutes=59)):
        electricity_features()
    assert watermarks(empty) == {day(4)}
    assert rows_of(empty, schema.DAY_AHEAD_GROUP)["issued_at"].nunique() == 4
    with windows.frozen(day(4) + timedelta(minutes=59)):
        assert electricity_features() == 0


def test_run_killed_before_the_spine_is_repaired_by_the_next(empty: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """F4: the spine is written last, and its watermark decides."""

    class Killed(BaseException):
        """What `kill -9` is to a process, in a test."""

    electricity_features(start=day(0), end=day(1))
    with monkeypatch.context() as patch:
        write = Writing.write

        def until_the_spine(written: Writing, group: object, rows: pd.DataFrame, window: object) -> object:
            if group.name == schema.DAY_AHEAD_GROUP:
                raise Killed
            return write(written, group, rows, window)

        patch.setattr(Writing, "write", until_the_spine)
        with pytest.raises(Killed):
            electricity_features(start=day(1), end=day(2))
    with windows.frozen(day(2)):
        electricity_features()
    assert watermarks(empty) == {day(2)}
    assert rows_of(empty, schema.DAY_AHEAD_GROUP)["issued_at"].nunique() == 2


def test_rows_of_another_source_are_not_mixed_in(empty: Settings) -> None:
    fs = featurestore.connect(home=empty.store_home)
    feature_pipeline.feature_groups(fs, source="simulated")
    with pytest.raises(InvalidData, match=r"rows of the source 'simulated'.*this run reads 'zones'.*ELECTRICITY_TABLE"):
        feature_pipeline.feature_groups(fs, source="zones")


def test_demand_in_kilowatts_and_temperature_in_fahrenheit_are_refused_and_kept_aside(empty: Settings) -> None:
    """F11, F15: a batch in another unit is refused whole; its rows are in quarantine."""
    electricity_features(start=day(0), end=day(1))
    fs = featurestore.connect(home=empty.store_home)
    for name, column, factor in [
        (schema.DEMAND_GROUP, "demand_mw", 1000),
        (schema.WEATHER_GROUP, "temperature_c", -30),
    ]:
        group = fs.get_feature_group(name, schema.VERSION)
        before = group.delta_version
        rows = group.read()
        with pytest.raises(InvalidData, match=column):
            group.insert(rows.assign(**{column: rows[column] * factor + 60}))
        assert group.delta_version == before
        assert len(group.quarantine())


def test_live_run_on_stubs_writes_and_its_next_run_recovers_what_a_failure_left(
    services: Services, prefect_api: None
) -> None:
    """Service down, then an answer of yesterday, then well again: nothing written in between, nothing lost after."""
    now = datetime(2026, 7, 10, 15, 20, tzinfo=UTC)
    settings = Settings()
    with windows.frozen(now):
        electricity_features(start=now - timedelta(days=2), end=now - timedelta(hours=15))
    before = watermarks(settings)
    services.nyiso.troubles.extend([Reply(503), Reply(503)])
    with windows.frozen(now), pytest.raises(ServiceUnavailable, match="Run again later"):
        electricity_features()
    services.weather.troubles.append(Reply.of_json([]))
    with windows.frozen(now), pytest.raises(UnexpectedAnswer, match="expected a list of 11"):
        electricity_features()
    assert watermarks(settings) == before
    with windows.frozen(now):
        electricity_features()
    assert watermarks(settings) == {windows.floor(now)}
    hours = rows_of(settings, schema.DEMAND_GROUP)["hour"]
    assert hours.nunique() == (hours.max() - hours.min()) // pd.Timedelta(hours=1) + 1


# --- training ----------------------------------------------------------------------------------------


def test_model_is_measured_beside_baselines_and_operator_and_knows_all_it_came_from(with_champion: Settings) -> None:
    """T8, T14."""
    registry.bootstrap(with_champion)
    champion = registry.champion(schema.MODEL)
    assert champion is not None
    metrics, lineage = champion.metrics, champion.lineage
    assert metrics["test.skill"] == pytest.approx(1 - metrics["test.mae"] / metrics["test.mae.same_hour_last_week"])
    assert metrics["test.skill"] > 0.2
    assert {"test.mae.ridge", "test.mae.same_hour_yesterday", "test.skill.low", "test.mape"} <= set(metrics)
    assert metrics["test.operator.mape_theirs"] == pytest.approx(3.5, abs=1.5)
    assert lineage.scaled_by == schema.SCALE
    assert lineage.source == "simulated"
    dataset = (
        featurestore.connect(home=with_champion.store_home)
        .get_feature_view(lineage.feature_view, lineage.feature_view_version)
        .training_dataset(lineage.training_dataset_version)
    )
    assert dataset.content_hash == lineage.training_dataset_hash
    names = registry.load(champion).feature_names
    assert not {"demand_mw", "hour", "issued_at", *schema.BASELINES.values()} & set(names)
    assert lineage.training_window.end == END - modelling.LABEL_DELAY


def test_nothing_new_trains_no_new_version(with_champion: Settings) -> None:
    """T23."""
    registry.bootstrap(with_champion)
    before = len(registry.versions(schema.MODEL))
    assert electricity_training(end=END) == registry.versions(schema.MODEL)[-1].version
    assert len(registry.versions(schema.MODEL)) == before


def test_training_before_any_feature_beyond_the_known_or_on_too_little_says_what_to_do(empty: Settings) -> None:
    """T22."""
    with pytest.raises(NotFound, match="electricity-features/electricity-features"):
        electricity_training()
    electricity_features(start=day(0), end=day(5))
    with pytest.raises(InvalidTime, match=r"Labels \(demand\) are committed until 2026-02-06.*not until 2026-05-01"):
        electricity_training(end=datetime(2026, 5, 1, tzinfo=UTC))
    with pytest.raises(InvalidData, match="Run the feature pipeline for more history"):
        electricity_training()


# --- inference ---------------------------------------------------------------------------------------


def predictions(settings: Settings) -> pd.DataFrame:
    return rows_of(settings, schema.PREDICTIONS_GROUP)


def test_next_days_hours_are_forecast_once_before_they_begin_with_all_they_came_from(with_champion: Settings) -> None:
    """I1, I2, I7: issued before the target; horizon, version, view, training set, weather used, when it was made."""
    made_at = datetime(2026, 3, 14, 10, 25, tzinfo=UTC)
    with windows.frozen(made_at):
        assert electricity_inference(start=END - timedelta(days=1), end=END) == 24 * 11
        assert electricity_inference(start=END - timedelta(days=1), end=END) == 0
    registry.bootstrap(with_champion)
    champion = registry.champion(schema.MODEL)
    rows = predictions(with_champion)
    rows = rows[rows["issued_at"] >= END - timedelta(days=1)]
    assert set(rows["issued_at"]) == {pd.Timestamp("2026-03-14 09:00", tz="UTC")}  # 05:00 EDT
    assert (rows["hour"] - rows["issued_at"] == pd.to_timedelta(rows["horizon_hours"], unit="h")).all()
    assert sorted(rows["horizon_hours"].unique()) == list(range(19, 43))
    assert set(rows["made_at"]) == {pd.Timestamp(made_at)}
    assert not rows["backfilled"].any()
    assert set(rows["model_version"]) == {champion.version}
    assert set(rows["feature_view"]) == {"electricity_day_ahead@1"}
    truth = source.read_demand(END, END + timedelta(days=2), as_of=END + timedelta(days=9), source="simulated")
    both = rows.merge(truth, on=["zone", "hour"])
    off = ((both["forecast_mw"] - both["demand_mw"]).abs() / both["demand_mw"]).mean()
    assert off < 0.15  # megawatts, not multiples; few trees from seven weeks of winter
    found = featurestore.connect(home=with_champion.store_home).get_feature_group(schema.PREDICTIONS_GROUP, 1)
    first = rows.iloc[0]
    key = {"zone": first["zone"], "hour": first["hour"], "model_version": int(first["model_version"])}
    assert found.get_online(key, ["forecast_mw"]) == {"forecast_mw": first["forecast_mw"]}


def test_forecast_once_made_is_not_changed_by_corrected_features(with_champion: Settings) -> None:
    """I2: what was said stays said; what is computed after its hour is marked as reconstructed."""
    window = {"start": END - timedelta(days=3), "end": END - timedelta(days=2)}
    electricity_inference(**window)
    before = predictions(with_champion)
    fs = featurestore.connect(home=with_champion.store_home)
    spine = fs.get_feature_group(schema.DAY_AHEAD_GROUP, schema.VERSION)
    rows = spine.read(start_time=window["start"], end_time=window["end"])
    spine.insert(rows.assign(lag_168h_ratio=rows["lag_168h_ratio"] * 1.5))
    assert electricity_inference(**window) == 0
    pd.testing.assert_frame_equal(predictions(with_champion), before)
    made_now = before[before["issued_at"].between(window["start"], window["end"])]
    assert made_now["backfilled"].all()  # the clock of this test run is long past 2026-03


def test_missing_weather_and_missing_demand_give_flagged_forecasts_never_nothing(with_champion: Settings) -> None:
    """I5, I15: a declared stand-in, and the row says so."""
    registry.bootstrap(with_champion)
    champion = registry.champion(schema.MODEL)
    fs = featurestore.connect(home=with_champion.store_home)
    window = windows.next_window(None, END - timedelta(days=1), END, earliest=START)
    batch = serving.read_batch.fn(fs, champion, window)
    spoilt = batch.copy()
    spoilt.loc[0, "temperature_c"] = None
    spoilt.loc[1, schema.SCALE] = None
    spoilt.loc[2, [schema.SCALE, *schema.BASELINES.values()]] = None
    rows = inference_pipeline.forecast.fn(champion, spoilt, END)
    assert rows.loc[0, ["degraded", "why"]].tolist() == [True, "no weather forecast"]
    assert rows.loc[1, "forecast_mw"] == batch.loc[1, "demand_same_hour_mw"]
    assert rows.loc[1, "degraded"]
    assert 2 not in rows.index  # nothing at all is known of it
    clean = inference_pipeline.forecast.fn(champion, batch, END)
    pd.testing.assert_frame_equal(rows.loc[3:], clean.loc[3:])
    assert rows.loc[1, "reasons"] == "[]"
    reasons = json.loads(rows.loc[3, "reasons"])
    assert len(reasons) == 5
    assert set(reasons[0]) == {"feature", "value", "contribution"}


def test_no_champion_yet_names_the_training_deployment(with_features: Settings) -> None:
    with pytest.raises(NotFound, match=r"no champion yet.*electricity-training/electricity-training"):
        electricity_inference()


def test_window_beyond_the_features_is_refused(with_champion: Settings) -> None:
    with pytest.raises(InvalidTime, match="ends after the features"):
        electricity_inference(start=END, end=END + timedelta(days=1))


def test_hindcast_measures_forecasts_made_in_time_and_never_mixes_in_reconstructions() -> None:
    """I8, I9: joined by zone and hour; a reconstruction is no forecast."""
    hours = pd.date_range("2026-01-01", periods=3, freq="h", tz="UTC")
    rows = pd.DataFrame(
        {"zone": "J_NYC", "hour": hours, "forecast_mw": [90.0, 100.0, 500.0], "baseline_mw": 80.0,
         "backfilled": [False, False, True]}
    )  # fmt: skip
    truth = pd.DataFrame({"zone": "J_NYC", "hour": hours[::-1], "demand_mw": [100.0, 104.0, 100.0]})
    joined = hindcasting.with_truth(
        rows, truth, key=["zone", "hour"], truth="demand_mw", target_time="hour", at=hours[2],
        expires_after=timedelta(days=10),
    )  # fmt: skip
    assert joined["demand_mw"].tolist() == [100.0, 104.0, 100.0]
    found = inference_pipeline.worth(
        joined, pd.DataFrame({"zone": ["J_NYC"], "hour": hours[:1], "forecast_mw": [97.0]})
    )
    assert (found["mae_mw"], found["baseline_mae_mw"], found["operator_mae_mw"]) == (7.0, 22.0, 3.0)
    assert found["mae_mw_beside_operator"] == 10.0
    assert found["rows_measured"] == 2


# --- the second target -------------------------------------------------------------------------------


def test_price_model_is_judged_beside_its_baselines_and_knows_all_it_came_from(with_champion: Settings) -> None:
    registry.bootstrap(with_champion)
    model = registry.champion(schema.PRICE_MODEL)
    assert model is not None
    metrics = model.metrics
    assert metrics["test.mae"] < metrics["test.mae.same_hour_last_week"]
    assert {"test.mae.ridge", "test.mae.same_hour_yesterday", "test.mae.low", "test.mae.high"} <= set(metrics)
    assert (model.lineage.source, model.lineage.scaled_by) == ("simulated", schema.PRICE_SCALE)
    assert next(iter(registry.explanation(model).values())) > 0


def test_prices_are_forecast_once_with_reasons_and_judged_when_they_are_known(with_champion: Settings) -> None:
    window = {"start": END - timedelta(days=6), "end": END - timedelta(days=5)}
    with windows.frozen(window["end"]):
        electricity_inference(**window)
    rows = rows_of(with_champion, schema.PRICE_PREDICTIONS_GROUP)
    electricity_inference(**window)
    pd.testing.assert_frame_equal(rows_of(with_champion, schema.PRICE_PREDICTIONS_GROUP), rows)
    rows = rows[(rows["issued_at"] >= window["start"]) & (rows["issued_at"] < window["end"])]
    assert len(rows) in (23 * 11, 24 * 11)
    assert not rows["backfilled"].all()
    assert (rows["horizon_hours"] >= 18).all()
    assert all(len(json.loads(text)) == 5 for text in rows["reasons"])
    fs = featurestore.connect(home=with_champion.store_home)
    worth = price_inference.hindcast.fn(fs, END, END)
    assert worth["matured"] == worth["rows_measured"] > 200
    assert 0 < worth["mae_usd_per_mwh"] < 40
    assert worth["baseline_mae_usd_per_mwh"] > 0


def test_missing_prices_give_flagged_forecasts_and_nothing_known_gives_none(with_champion: Settings) -> None:
    registry.bootstrap(with_champion)
    champion = registry.champion(schema.PRICE_MODEL)
    fs = featurestore.connect(home=with_champion.store_home)
    batch = serving.read_batch.fn(fs, champion, windows.next_window(None, END - timedelta(days=1), END, earliest=START))
    spoilt = batch.copy()
    spoilt.loc[0, schema.PRICE_SCALE] = None
    spoilt.loc[1, [schema.PRICE_SCALE, "price_same_hour"]] = None
    spoilt.loc[2, "temperature_c"] = None
    rows = price_inference.forecast.fn(champion, spoilt, END)
    assert rows.loc[0, "forecast_usd_per_mwh"] == batch.loc[0, "price_same_hour"]
    assert rows.loc[0, "why"].startswith("no prices known of the last weeks")
    assert rows.loc[0, "reasons"] == "[]"
    assert 1 not in rows.index
    assert rows.loc[2, "why"] == "no weather forecast"


def test_source_without_prices_or_with_too_few_trains_and_forecasts_demand_all_the_same(
    with_features: Settings,
) -> None:
    registry.bootstrap(with_features)
    fs = featurestore.connect(home=with_features.store_home)

    @flow
    def without_prices() -> list[object]:
        trained = price_training.train_price(fs, START + timedelta(days=20), force=False)
        return [trained, price_inference.forecast_prices(fs, None, None, END)]

    assert without_prices() == [None, None]


# --- the shadow --------------------------------------------------------------------------------------


def test_challengers_are_heard_on_the_champions_hours_and_change_nothing_served(
    trained_once: Path, tmp_path: Path
) -> None:
    shadow_law.check(
        trained_once, tmp_path, living_in, electricity_inference,
        {schema.MODEL: schema.PREDICTIONS_GROUP, schema.PRICE_MODEL: schema.PRICE_PREDICTIONS_GROUP},
        Window(END - timedelta(days=10), END - timedelta(days=9)),
    )  # fmt: skip
