"""The three air quality pipelines on a real store and registry: windows, repairs, gate, forecasts, refusals."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import featurestore
from featurestore.errors import InvalidData, InvalidTime, NotFound, SchemaMismatch
from featurestore.times import Window
from flows import hindcasting, registry, regression, serving, windows
from flows.air_quality import feature_pipeline, inference_pipeline, modelling, schema, simulator, training_pipeline
from flows.air_quality.feature_pipeline import air_quality_features
from flows.air_quality.inference_pipeline import air_quality_inference
from flows.air_quality.simulator import Trouble
from flows.air_quality.training_pipeline import air_quality_training
from flows.http import ServiceUnavailable, UnexpectedAnswer
from flows.settings import Settings
from flows.training import Labelled
from flows.writing import Writing
from tests.flows import shadow_law
from tests.flows.air_quality.conftest import END, Services, living_in, only_a_few_stations
from tests.flows.stub_server import Reply

pytestmark = pytest.mark.long

GROUPS = [schema.PM25_GROUP, schema.WEATHER_GROUP, schema.OUTLOOK_GROUP]
KRAKÓW = "MpKrakAlKras"


def day(number: int) -> datetime:
    return datetime(2026, 2, 1, tzinfo=UTC) + timedelta(days=number)


def rows_of(settings: Settings, name: str) -> pd.DataFrame:
    return featurestore.connect(home=settings.store_home).get_feature_group(name, schema.VERSION).read()


def everything(settings: Settings) -> dict[str, pd.DataFrame]:
    return {name: rows_of(settings, name) for name in GROUPS}


def watermarks(settings: Settings) -> set[datetime | None]:
    fs = featurestore.connect(home=settings.store_home)
    return {fs.get_feature_group(name, schema.VERSION).watermark for name in GROUPS}


def in_trouble(monkeypatch: pytest.MonkeyPatch, trouble: Trouble) -> None:
    made = simulator.measurements

    def measurements(window: Window, *, as_of: datetime) -> pd.DataFrame:
        return made(window, as_of=as_of, trouble=trouble)

    monkeypatch.setattr(simulator, "measurements", measurements)


# --- features ----------------------------------------------------------------------------------------


def test_window_is_written_to_every_group_with_a_past_and_again_writes_nothing(empty: Settings) -> None:
    """F3, F6: idempotent; the first rows of an empty store have their month before them."""
    assert air_quality_features(start=day(0), end=day(3)) > 0
    first = everything(empty)
    assert watermarks(empty) == {day(3)}
    outlook = first[schema.OUTLOOK_GROUP]
    assert len(outlook) == 3 * 7 * len(schema.STATIONS)
    assert outlook["pm25_mean_30d"].notna().all()
    assert air_quality_features(start=day(0), end=day(3)) == 0
    for name in GROUPS:
        pd.testing.assert_frame_equal(rows_of(empty, name), first[name], check_exact=True, obj=name)


def test_daily_runs_with_late_hours_end_with_the_rows_of_one_backfill(
    empty: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F1, F5: hours that come late are read again within the lookback, and change what depends on them."""
    in_trouble(monkeypatch, Trouble(late_share=0.3, negative_share=0.05, outage_share=0.1))
    with windows.frozen(day(1)):
        air_quality_features(start=day(0), end=day(1))
    first = rows_of(empty, schema.PM25_GROUP)
    for number in range(2, 5):
        with windows.frozen(day(number) + timedelta(minutes=5)):
            assert air_quality_features() > 0
    daily = everything(empty)
    again = daily[schema.PM25_GROUP].merge(first, on=["station", "day"], suffixes=("", "_first"))
    assert (again["hours"] > again["hours_first"]).any()  # yesterday was completed afterwards
    monkeypatch.setenv("TRIPTYCH_HOME", str(empty.home.with_name("backfill")))
    with windows.frozen(day(4) + timedelta(minutes=5)):
        air_quality_features(start=day(0), end=day(4))
    for name in GROUPS:
        pd.testing.assert_frame_equal(daily[name], rows_of(Settings(), name), check_exact=True, obj=name)


def test_issue_of_seven_is_there_at_a_quarter_past_and_an_outage_is_made_up_for(empty: Settings) -> None:
    """F2: the run of 07:15 covers the issue of 07:00; three days without a worker, one run."""
    air_quality_features(start=day(0), end=day(1))
    quarter_past = datetime(2026, 2, 5, 6, 15, tzinfo=UTC)
    with windows.frozen(quarter_past):
        air_quality_features()
    issues = rows_of(empty, schema.OUTLOOK_GROUP)["issued_at"]
    assert issues.max() == pd.Timestamp("2026-02-05 06:00", tz="UTC")  # 07:00 Warsaw
    assert issues.nunique() == 5
    with windows.frozen(quarter_past):
        assert air_quality_features() == 0


def test_run_killed_before_the_outlook_is_repaired_by_the_next(
    empty: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F4: the outlook is written last, and its watermark decides."""

    class Killed(BaseException):
        """What `kill -9` is to a process, in a test."""

    air_quality_features(start=day(0), end=day(1))
    with monkeypatch.context() as patch:
        write = Writing.write

        def until_the_outlook(
            written: Writing, group: featurestore.FeatureGroup, rows: pd.DataFrame, window: Window
        ) -> object:
            if group.name == schema.OUTLOOK_GROUP:
                raise Killed
            return write(written, group, rows, window)

        patch.setattr(Writing, "write", until_the_outlook)
        with pytest.raises(Killed):
            air_quality_features(start=day(1), end=day(2))
    with windows.frozen(day(2)):
        air_quality_features()
    assert watermarks(empty) == {day(2)}
    assert rows_of(empty, schema.OUTLOOK_GROUP)["issued_at"].nunique() == 2


def test_station_that_closes_is_forecast_for_a_month_and_then_not_any_more(
    empty: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_trouble(monkeypatch, Trouble(late_share=0, negative_share=0, outage_share=0, closed={KRAKÓW: day(3)}))
    air_quality_features(start=day(0), end=day(36))
    rows = rows_of(empty, schema.OUTLOOK_GROUP)
    closed = rows[rows["station"] == KRAKÓW]
    assert closed["issued_at"].max() < pd.Timestamp(day(33))
    assert closed.loc[closed["issued_at"] > day(4), "pm25_mean_24h"].isna().all()
    assert rows["issued_at"].max() > pd.Timestamp(day(35))


def test_rows_of_another_source_are_not_mixed_in(empty: Settings) -> None:
    fs = featurestore.connect(home=empty.store_home)
    feature_pipeline.feature_groups(fs, source="simulated")
    with pytest.raises(InvalidData, match=r"rows of the source 'simulated'.*this run reads 'gios'.*TRIPTYCH_DATA"):
        feature_pipeline.feature_groups(fs, source="gios")


def test_values_in_another_unit_and_below_zero_are_refused_and_kept_aside(empty: Settings) -> None:
    """F11, F15: a batch in ng/m³ or Fahrenheit is refused whole; its rows are in quarantine."""
    air_quality_features(start=day(0), end=day(1))
    fs = featurestore.connect(home=empty.store_home)
    for name, column, factor, more in [
        (schema.PM25_GROUP, "pm25_ug_m3", 1000, 0),
        (schema.PM25_GROUP, "pm25_ug_m3", -1, 0),
        (schema.WEATHER_GROUP, "forecast_temperature_c", 1.8, 70),
    ]:
        group = fs.get_feature_group(name, schema.VERSION)
        before, rows = group.delta_version, group.read()
        with pytest.raises(InvalidData, match=column):
            group.insert(rows.assign(**{column: rows[column] * factor + more}))
        assert group.delta_version == before
        assert len(group.quarantine())


def test_index_of_aqicn_does_not_get_into_the_group_of_concentrations(empty: Settings) -> None:
    """F15: not under its own name, which is not declared; there is no other way in."""
    air_quality_features(start=day(0), end=day(1))
    group = featurestore.connect(home=empty.store_home).get_feature_group(schema.PM25_GROUP, schema.VERSION)
    before, rows = group.delta_version, group.read()
    with pytest.raises(SchemaMismatch, match=r"lacks \['pm25_ug_m3'\] and also has \['pm25_aqi'\]"):
        group.insert(rows.rename(columns={"pm25_ug_m3": "pm25_aqi"}))
    assert group.delta_version == before


def test_live_run_on_stubs_writes_and_its_next_run_recovers_what_failures_left(
    services: Services, prefect_api: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Service down, answers of yesterday, weather cut short, then well again: nothing lost."""
    only_a_few_stations(monkeypatch)
    now, few = services.gios.now, len(schema.STATIONS)
    settings = Settings()
    with windows.frozen(now):
        air_quality_features(start=now - timedelta(days=2), end=now - timedelta(hours=15))
    before = watermarks(settings)
    services.server.troubles.extend([Reply(503), Reply(503)])
    with windows.frozen(now), pytest.raises(ServiceUnavailable, match="Run again later"):
        air_quality_features()
    services.gios.now = now - timedelta(days=1)
    with windows.frozen(now), pytest.raises(UnexpectedAnswer, match="an old answer"):
        air_quality_features()
    services.gios.now = now
    services.weather.troubles.append(Reply.of_json([]))
    with windows.frozen(now), pytest.raises(UnexpectedAnswer, match=f"expected a list of {few}"):
        air_quality_features()
    (outlook_before,) = before
    fs = featurestore.connect(home=settings.store_home)
    assert fs.get_feature_group(schema.OUTLOOK_GROUP, schema.VERSION).watermark == outlook_before
    with windows.frozen(now):
        air_quality_features()
    assert watermarks(settings) == {windows.floor(now, feature_pipeline.EVERY)}
    outlook = rows_of(settings, schema.OUTLOOK_GROUP)
    assert outlook.groupby("issued_at").size().tolist() == [7 * few, 7 * few]
    weather = rows_of(settings, schema.WEATHER_GROUP)
    assert weather.groupby("horizon_days")["forecast_temperature_c"].count().tolist() == [2 * few] * 6 + [0]


# --- training ----------------------------------------------------------------------------------------


def test_model_is_measured_by_horizon_beside_baselines_and_knows_all_it_came_from(with_champion: Settings) -> None:
    """T5, T8, T14: four origins, every horizon, and the lineage."""
    registry.bootstrap(with_champion)
    champion = registry.champion(schema.MODEL)
    assert champion is not None
    metrics, lineage = champion.metrics, champion.lineage
    assert metrics["test.skill"] == pytest.approx(1 - metrics["test.mae"] / metrics["test.mae.persistence"])
    assert {f"test.mae.day_{days}" for days in range(1, 8)} <= set(metrics)
    assert {"test.mae.ridge", "test.mae.30_day_mean", "test.mae.climatology", "test.r2.day_1"} <= set(metrics)
    assert metrics["test.mae"] < metrics["test.mae.persistence"]
    assert lineage.source == "simulated"
    assert lineage.training_window.end == END - modelling.LABEL_DELAY
    dataset = (
        featurestore.connect(home=with_champion.store_home)
        .get_feature_view(lineage.feature_view, lineage.feature_view_version)
        .training_dataset(lineage.training_dataset_version)
    )
    assert dataset.content_hash == lineage.training_dataset_hash
    names = registry.load(champion).feature_names
    assert not {"pm25_ug_m3", "day", "issued_at", "station", "horizon_days"} & set(names)
    assert {"days_ahead", "forecast_temperature_c", "pm25_upwind_24h"} <= set(names)
    assert modelling.SEASON not in names


def test_no_label_is_learned_from_before_it_was_known(with_champion: Settings) -> None:
    """T3: eight days lie between the issues of training and those it is judged on, at every origin."""
    from flows.air_quality.training_pipeline import splits_for

    splits = splits_for(featurestore.connect(home=with_champion.store_home), END)
    for train, test in modelling.origins(splits):
        assert train.end + timedelta(days=8) <= test.start
    starts = [test.start for _, test in modelling.origins(splits)]
    assert (starts[0], len(starts)) == (splits.test.start, 4)


def test_nothing_new_trains_no_new_version(with_champion: Settings) -> None:
    """T23."""
    registry.bootstrap(with_champion)
    before = len(registry.versions(schema.MODEL))
    assert air_quality_training(end=END) == registry.versions(schema.MODEL)[-1].version
    assert len(registry.versions(schema.MODEL)) == before


def test_training_before_any_feature_beyond_the_known_or_on_too_little_says_what_to_do(empty: Settings) -> None:
    """T22."""
    with pytest.raises(NotFound, match="air-quality-features/air-quality-features"):
        air_quality_training()
    air_quality_features(start=day(0), end=day(5))
    with pytest.raises(InvalidTime, match=r"Labels \(PM2.5\) are committed until 2026-02-06.*not until 2026-05-01"):
        air_quality_training(end=datetime(2026, 5, 1, tzinfo=UTC))
    with pytest.raises((InvalidData, NotFound), match="Run the feature pipeline"):
        air_quality_training()


def judged_by_hand(ours: float, climatology: float, persistence: float, ridge: float) -> tuple[bool, str]:
    """The gate on made-up errors of 60 days, all forecasts off by so much in every row."""
    issues = pd.date_range("2026-01-01T06:00", periods=60, freq="D", tz="UTC")
    X = pd.DataFrame({"issued_at": issues.repeat(7), "days_ahead": list(range(1, 8)) * 60})
    y = pd.Series(np.full(len(X), 20.0))
    noise = np.where(np.arange(len(X)) % 2, 1.0, -1.0)
    off = {
        "xgboost": ours, "ridge": ridge, "persistence": persistence, "30-day mean": 9.0, "climatology": climatology,
        "climatology (mean)": 9.0,
    }  # fmt: skip
    decision = modelling.gate(y, {name: (y + noise * by).to_numpy() for name, by in off.items()}, X, None)
    return decision.accepted, "; ".join(decision.reasons)


def test_test_without_other_years_to_compare_with_is_refused_in_words() -> None:
    """T22: a station's first winter has no climatology, and nothing could be judged beside it."""
    issued = pd.date_range("2026-01-01", periods=600, freq="h", tz="UTC")
    X = pd.DataFrame({"issued_at": issued} | dict.fromkeys(schema.BASELINES.values(), 1.0))
    first_winter = X.assign(**{schema.BASELINES["climatology"]: np.nan})
    y = pd.Series(1.0, index=X.index)
    with pytest.raises(InvalidData, match="the test split has 0 rows of 0 days"):
        regression.check_enough(training_pipeline.days_of(Labelled(X, X, first_winter, y, y, y)))
    regression.check_enough(training_pipeline.days_of(Labelled(X, X, X, y, y, y)))


def test_gate_wants_persistence_beaten_tomorrow_and_climatology_from_the_third_day() -> None:
    assert judged_by_hand(4.0, 5.0, 5.0, 5.0)[0]
    accepted, why = judged_by_hand(4.0, 3.9, 5.0, 5.0)
    assert not accepted
    assert "3 to 7 days ahead: only -2.6 %" in why
    accepted, why = judged_by_hand(4.0, 5.0, 3.9, 5.0)
    assert not accepted
    assert "tomorrow: only" in why


def test_gate_lets_a_tie_with_ridge_pass_but_not_a_model_that_is_surely_worse() -> None:
    accepted, why = judged_by_hand(4.0, 5.0, 5.0, 4.0)
    assert accepted
    assert "0.0 [0.0, 0.0] % better than ridge" in why
    assert not judged_by_hand(4.0, 5.0, 5.0, 3.9)[0]


# --- inference ---------------------------------------------------------------------------------------


def predictions(settings: Settings) -> pd.DataFrame:
    return rows_of(settings, schema.PREDICTIONS_GROUP)


def test_next_seven_days_are_forecast_once_before_they_begin_with_all_they_came_from(with_champion: Settings) -> None:
    """I1, I2, I7: issued before the target; horizon, version, view, training set, weather used, when it was made."""
    made_at = datetime(2026, 4, 4, 5, 30, tzinfo=UTC)  # 07:30 Warsaw
    stations = rows_of(with_champion, schema.OUTLOOK_GROUP)["station"].nunique()
    with windows.frozen(made_at):
        assert air_quality_inference(start=END - timedelta(days=1), end=END) == 7 * stations
        assert air_quality_inference(start=END - timedelta(days=1), end=END) == 0
    registry.bootstrap(with_champion)
    champion = registry.champion(schema.MODEL)
    assert champion is not None
    rows = predictions(with_champion)
    rows = rows[rows["issued_at"] >= END - timedelta(days=1)]
    assert set(rows["issued_at"]) == {pd.Timestamp("2026-04-04 05:00", tz="UTC")}
    local = rows["day"].dt.tz_convert(schema.TIME_ZONE).dt.tz_localize(None)
    assert (local - pd.Timestamp("2026-04-04") == pd.to_timedelta(rows["horizon_days"], unit="D")).all()
    assert set(rows["made_at"]) == {pd.Timestamp(made_at)}
    assert not rows["backfilled"].any()
    assert not rows["degraded"].any()
    assert set(rows["model_version"]) == {champion.version}
    assert set(rows["feature_view"]) == {"air_quality_outlook@1"}
    assert rows.loc[rows["horizon_days"] < 7, "forecast_wind_speed_ms"].notna().all()
    first = rows.iloc[0]
    reasons = json.loads(first["reasons"])
    assert len(reasons) == 5
    assert {"feature", "value", "contribution"} == set(reasons[0])
    assert first["polish_index"] in ("very good", "good", "moderate", "sufficient", "bad", "very bad")
    group = featurestore.connect(home=with_champion.store_home).get_feature_group(schema.PREDICTIONS_GROUP, 1)
    key = {name: first[name] for name in ("station", "day")}
    key |= {name: int(first[name]) for name in ("horizon_days", "model_version")}
    assert group.get_online(key, ["forecast_ug_m3"]) == {"forecast_ug_m3": first["forecast_ug_m3"]}


def test_forecast_once_made_is_not_changed_by_completed_features(with_champion: Settings) -> None:
    """I2: what was said stays said; what is computed after its day is marked as reconstructed."""
    window = {"start": END - timedelta(days=20), "end": END - timedelta(days=19)}
    air_quality_inference(**window)
    before = predictions(with_champion)
    fs = featurestore.connect(home=with_champion.store_home)
    outlook = fs.get_feature_group(schema.OUTLOOK_GROUP, schema.VERSION)
    rows = outlook.read(start_time=window["start"], end_time=window["end"])
    outlook.insert(rows.assign(pm25_mean_24h=rows["pm25_mean_24h"] * 1.5))
    assert air_quality_inference(**window) == 0
    pd.testing.assert_frame_equal(predictions(with_champion), before)
    assert before[before["issued_at"] < window["end"]]["backfilled"].all()  # this test run's clock is long past them


def test_missing_weather_and_silent_stations_give_flagged_forecasts_never_nothing(with_champion: Settings) -> None:
    """I5, I15: the row says what was missing; without any recent hour there still is a forecast."""
    registry.bootstrap(with_champion)
    champion = registry.champion(schema.MODEL)
    assert champion is not None
    fs = featurestore.connect(home=with_champion.store_home)
    batch = serving.read_batch.fn(fs, champion, Window(END - timedelta(days=1), END))
    batch = batch.sort_values(["horizon_days", "station"], ignore_index=True)
    spoilt = batch.copy()
    spoilt.loc[0, "forecast_temperature_c"] = None
    spoilt.loc[1, ["pm25_mean_24h", "pm25_mean_6h", "pm25_lag_1d"]] = None
    spoilt.loc[2, ["pm25_climatology", "pm25_climatology_mean"]] = None
    rows = inference_pipeline.forecast.fn(champion, spoilt, END)
    assert rows.loc[0, ["degraded", "why"]].tolist() == [True, "no weather forecast"]
    assert rows.loc[1, ["degraded", "why"]].tolist() == [True, "not enough measured in the last 24 hours"]
    assert rows.loc[1, "forecast_ug_m3"] > 0
    assert rows.loc[2, "why"] == "no other years to compare with"
    clean = inference_pipeline.forecast.fn(champion, batch, END)
    pd.testing.assert_frame_equal(rows.loc[3:], clean.loc[3:])
    assert not clean["degraded"].any()  # the seventh day never has a weather forecast


def test_no_champion_yet_names_the_training_deployment(with_features: Settings) -> None:
    with pytest.raises(NotFound, match=r"no champion yet.*air-quality-training/air-quality-training"):
        air_quality_inference()


def test_window_beyond_the_features_is_refused(with_champion: Settings) -> None:
    with pytest.raises(InvalidTime, match="ends after the features"):
        air_quality_inference(start=END, end=END + timedelta(days=1))


def test_hindcast_measures_each_horizon_beside_baselines_on_days_that_are_known() -> None:
    """I8, I9, I10: joined by station and day; a reconstruction is no forecast; pending is not counted as an error."""
    days = pd.date_range("2026-01-01T23:00", periods=3, freq="D", tz="UTC")
    rows = pd.DataFrame(
        {"station": KRAKÓW, "day": [*days, days[0]], "horizon_days": [1, 1, 2, 2],
         "forecast_ug_m3": [25.0, 40.0, 10.0, 500.0], "persistence_ug_m3": 20.0, "climatology_ug_m3": 32.0,
         "backfilled": [False, False, False, True]}
    )  # fmt: skip
    truth = pd.DataFrame({"station": KRAKÓW, "day": days[1::-1], "pm25_ug_m3": [44.0, 30.0]})
    joined = hindcasting.with_truth(
        rows, truth, key=["station", "day"], truth="pm25_ug_m3", target_time="day", at=days[2],
        expires_after=timedelta(days=14),
    )  # fmt: skip
    found = inference_pipeline.worth(joined)
    assert (found["pending"], found["matured"], found["rows_measured"]) == (1, 2, 2)
    assert (found["mae_ug_m3"], found["persistence_mae_ug_m3"], found["climatology_mae_ug_m3"]) == (4.5, 17.0, 7.0)
    assert found["mae_by_days_ahead"] == "1: 4.50"
    assert found["persistence_mae_by_days_ahead"] == "1: 17.00"


# --- the shadow --------------------------------------------------------------------------------------


def test_challengers_are_heard_on_the_same_days_and_change_nothing_served(trained_once: Path, tmp_path: Path) -> None:
    shadow_law.check(
        trained_once, tmp_path, living_in, air_quality_inference, {schema.MODEL: schema.PREDICTIONS_GROUP},
        Window(END - timedelta(days=17), END - timedelta(days=16)),
    )  # fmt: skip
