"""Three sources of air quality, one shape; and a simulator that can be late, silent, closed and drifting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from featurestore.errors import InvalidTime, NotFound, SchemaMismatch
from featurestore.times import Window
from flows import windows
from flows.air_quality import features, schema, simulator, source
from flows.air_quality.simulator import CALM, Trouble
from tests.flows.air_quality.conftest import CODES, Services, living_in
from tests.flows.stub_server import data_folder

START = datetime(2026, 2, 1, tzinfo=UTC)
LATER = datetime(2026, 12, 1, tzinfo=UTC)
NOW = datetime(2026, 7, 10, 15, 20, tzinfo=UTC)

Read = Callable[..., pd.DataFrame]
READ: dict[str, tuple[Read, Mapping[str, str], list[str]]] = {
    "measurements": (source.read_measurements, source.MEASUREMENTS, ["hour", "station"]),
    "observed": (source.read_observed_weather, source.OBSERVED, ["day", "station"]),
    "forecasts": (source.read_weather_forecasts, source.FORECASTS, ["issued_at", "day", "station"]),
}
RANGES = {
    "pm25_ug_m3": (-10, schema.HIGHEST_HOUR), "temperature_c": (-45, 45), "wind_speed_ms": (0, 40),
    "wind_direction_deg": (0, 360), "precipitation_mm": (0, 300),
}  # fmt: skip


def assert_in_shape(rows: pd.DataFrame, columns: Mapping[str, str], order: list[str]) -> None:
    assert {name: str(dtype) for name, dtype in rows.dtypes.items()} == dict(columns)
    assert list(rows) == list(columns)
    assert rows.index.equals(pd.RangeIndex(len(rows)))
    assert not rows.duplicated(order).any()
    assert rows[order].equals(rows[order].sort_values(order))
    for name, (low, high) in RANGES.items():
        assert name not in rows or rows[name].dropna().between(low, high).all()


@pytest.mark.parametrize("kind", READ)
def test_simulated_and_live_give_the_same_frame(services: Services, kind: str) -> None:
    """Columns, dtypes, order and units."""
    read, columns, order = READ[kind]
    with windows.frozen(NOW):
        for name in ("live", "simulated"):
            rows = read(NOW - timedelta(days=2), NOW, source=name)
            assert len(rows)
            assert_in_shape(rows, columns, order)
            assert set(rows["station"]) == set(CODES)
            assert set(rows["source"]) == {name}


@pytest.mark.parametrize("kind", READ)
def test_tables_give_the_same_frame_and_have_no_forecasts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_DATA", str(data_folder("air_quality_poland")))
    read, columns, order = READ[kind]
    start = datetime(2016, 3, 20, tzinfo=UTC)
    rows = read(start, start + timedelta(days=10), source="gios")
    assert_in_shape(rows, columns, order)
    assert bool(len(rows)) is (kind != "forecasts")
    if kind == "observed":
        assert set(rows["station"]) == set(source.WEATHER_STATIONS)
        assert rows["temperature_c"].notna().mean() > 0.95


def test_stamps_of_tables_are_the_end_of_an_hour_in_winter_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hour is skipped or occurs twice: every local day of spring and autumn has all its hours."""
    folder = data_folder("air_quality_poland")
    monkeypatch.setenv("TRIPTYCH_DATA", str(folder))
    rows = source.read_measurements(
        datetime(2018, 10, 27, tzinfo=UTC), datetime(2018, 10, 30, tzinfo=UTC), source="gios"
    )
    row = rows[rows["station"] == "MpKrakAlKras"].iloc[0]
    table = pd.read_parquet(folder / "air_quality_poland" / source.PM25_TABLE)
    table = table[table["station_code"] == "MpKrakAlKras"].set_index("hour_end_cet")["pm25_ug_m3"]
    assert table[row["hour"].tz_localize(None) + pd.Timedelta(hours=2)] == row["pm25_ug_m3"]
    of_day = features.daily_means(rows).set_index(["station", "day"])["hours"]
    assert of_day["MpKrakAlKras", pd.Timestamp("2018-10-28", tz="Europe/Warsaw").tz_convert("UTC")] == 25


def test_stations_are_those_that_the_rule_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Urban, in all five years, at least 80 % of their hours; of several in a city the one with the most."""
    folder = data_folder("air_quality_poland") / "air_quality_poland"
    table = pd.read_parquet(folder / source.PM25_TABLE, columns=["hour_end_cet", "station_code"])
    ends = table["hour_end_cet"] - pd.Timedelta(hours=1)
    of_station = ends.groupby(table["station_code"])
    rows, years = of_station.size(), of_station.agg(lambda hours: hours.dt.year.nunique())
    register = pd.read_parquet(folder / "gios_stations.parquet").drop_duplicates("station_code")
    register = register.set_index("station_code")[["city", "area_type", "lat", "lon"]]
    chosen = register.assign(rows=rows, years=years).query("area_type == 'miejski' and years == 5")
    chosen = chosen[chosen["rows"] >= 0.8 * (4 * 8760 + 8784)]
    chosen = chosen.sort_values("rows", ascending=False).drop_duplicates("city").sort_index()
    assert chosen.index.tolist() == sorted(schema.STATIONS)
    for code, station in schema.STATIONS.items():
        assert (chosen.loc[code, "city"], round(chosen.loc[code, "lat"], 6)) == (station.city, station.latitude)


def test_any_window_of_the_simulator_is_the_same_whatever_was_asked_before() -> None:
    for read, _, order in READ.values():
        options = {"as_of": LATER} if read is source.read_measurements else {}
        whole = read(START, START + timedelta(days=4), source="simulated", **options)
        parts = [
            read(START + timedelta(days=n), START + timedelta(days=n + 1), source="simulated", **options)
            for n in range(4)
        ]
        joined = pd.concat(parts, ignore_index=True).sort_values(order, ignore_index=True)
        pd.testing.assert_frame_equal(whole, joined, check_exact=True)


def test_simulated_air_is_dirty_in_winter_evenings_cold_and_calm() -> None:
    window = Window.of("2025-01-01", "2026-01-01")
    rows = simulator.measurements(window, as_of=LATER, stations=["MpKrakAlKras"], trouble=CALM)
    local = rows["hour"].dt.tz_convert("Europe/Warsaw")
    by_month = rows.groupby(local.dt.month)["pm25_ug_m3"].mean()
    assert by_month[1] > 1.8 * by_month[7]
    assert rows.groupby(local.dt.hour)["pm25_ug_m3"].mean().idxmax() in range(20, 24)
    days = features.daily_means(rows).merge(simulator.observed_weather(window), on=["station", "day"])
    heated = days[days["day"].dt.month.isin([10, 11, 12, 1, 2, 3, 4])]
    assert heated["pm25_ug_m3"].corr(heated["wind_speed_ms"]) < -0.3
    assert heated["pm25_ug_m3"].corr(heated["temperature_c"]) < -0.2


def test_forecasts_are_worse_the_farther_they_look() -> None:
    window = Window.of("2026-01-01", "2026-06-01")
    both = simulator.weather_forecasts(window).merge(
        simulator.observed_weather(window), on=["station", "day"], suffixes=("", "_true")
    )
    off = (both["temperature_c"] - both["temperature_c_true"]).abs().groupby(both["horizon_days"]).mean()
    assert off.is_monotonic_increasing
    assert off[1] < 1.5 < off[6]


def test_late_hours_are_missing_at_first_and_there_a_day_and_a_half_later() -> None:
    """F5: a row may arrive after its time."""
    window = Window(START, START + timedelta(days=1))
    late = Trouble(late_share=0.2, negative_share=0.0, outage_share=0.0)
    soon = simulator.measurements(window, as_of=window.end + timedelta(hours=2), trouble=late)
    later = simulator.measurements(window, as_of=window.end + timedelta(hours=40), trouble=late)
    assert len(later) == 24 * len(CODES)
    assert 0.7 < len(soon) / len(later) < 0.9


def test_outages_closed_stations_negative_values_and_drift_can_be_switched_on() -> None:
    window = Window(START, START + timedelta(days=2))
    middle = START + timedelta(days=1)
    calm = simulator.measurements(window, as_of=LATER, trouble=CALM)

    def made(**trouble: object) -> pd.DataFrame:
        options = {"late_share": 0.0, "negative_share": 0.0, "outage_share": 0.0} | trouble
        return simulator.measurements(window, as_of=LATER, trouble=Trouble(**options))  # type: ignore[arg-type]

    silent = made(outages=(Window(middle, window.end),))
    assert silent["hour"].max() < middle
    closed = made(closed={CODES[0]: middle})
    assert len(closed) == len(calm) - 24
    assert (made(negative_share=0.5)["pm25_ug_m3"] < 0).mean() == pytest.approx(0.5, abs=0.1)
    assert len(made(outage_share=1.0)) == len(calm) / 2
    drifted = made(drift_from=middle, drift=1.0)
    ratio = (drifted["pm25_ug_m3"] / calm["pm25_ug_m3"]).groupby(calm["hour"] >= middle).mean()
    assert ratio.round(2).tolist() == [1.0, 2.0]


def test_changed_column_of_a_table_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_DATA", str(tmp_path))
    with pytest.raises(NotFound, match=f"Expected the table .*{source.PM25_TABLE}"):
        source.read_measurements(START, LATER, source="gios")
    (tmp_path / "air_quality_poland").mkdir()
    table = pd.DataFrame({"hour_end_cet": pd.to_datetime(["2016-01-01"]), "station_code": "a", "pm10_ug_m3": 1.0})
    table.to_parquet(tmp_path / "air_quality_poland" / source.PM25_TABLE)
    with pytest.raises(SchemaMismatch, match=r"has no column \['pm25_ug_m3'\]"):
        source.read_measurements(START, LATER, source="gios")


def test_unknown_source_and_naive_times_are_refused() -> None:
    with pytest.raises(NotFound, match="There is no source of air quality 'waqi'"):
        source.read_measurements(START, LATER, source="waqi")
    with pytest.raises(InvalidTime, match="has no time zone"):
        source.read_measurements(START.replace(tzinfo=None), LATER, source="simulated")


def test_settings_decide_about_the_source_and_never_choose_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with living_in(tmp_path, source="auto"):
        assert source.source_name() == "simulated"
        monkeypatch.setenv("TRIPTYCH_DATA", str(tmp_path))
        assert source.source_name() == "gios"
