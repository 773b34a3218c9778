"""Three sources of demand, one shape; and a simulator that can be late, wrong, silent and drifting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from featurestore.errors import InvalidTime, NotFound
from featurestore.times import Window
from flows.electricity import schema, simulator, source
from flows.electricity.simulator import CALM, Trouble
from tests.flows.electricity.conftest import Services, living_in
from tests.flows.stub_server import data_folder

START = datetime(2026, 2, 1, tzinfo=UTC)
LATER = datetime(2026, 12, 1, tzinfo=UTC)

READ = {
    "demand": (source.read_demand, source.DEMAND),
    "weather": (source.read_weather, source.WEATHER),
    "operator": (source.read_operator_forecasts, source.OPERATOR),
}


def test_prices_have_the_same_frame_from_every_source_and_say_whose_price_they_are(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """USD/MWh; the zone table has the real-time market, which is another quantity, and known when the hour is over."""
    start, end = datetime(2026, 7, 6, tzinfo=UTC), datetime(2026, 7, 8, tzinfo=UTC)
    for name in ("live", "simulated"):
        rows = source.read_prices(start, end, source=name)
        assert_in_shape(rows, dict(source.PRICES))
        assert set(rows["zone"]) == set(schema.ZONES)
        assert set(rows["market"]) == {"day-ahead"}
        assert len(rows) == 2 * 24 * 11
        assert rows["price_usd_per_mwh"].between(-100, 500).all()
        assert (rows["known_at"] < rows["hour"]).all()
    empty = source.read_prices(start, start, source="simulated")
    assert dtypes(empty) == dict(source.PRICES)
    monkeypatch.setenv("TRIPTYCH_DATA", str(data_folder("electricity_ny")))
    day = datetime(2023, 3, 11, tzinfo=UTC)
    rows = source.read_prices(day, day + timedelta(days=3), source="zones")
    assert_in_shape(rows, dict(source.PRICES))
    assert set(rows["market"]) == {"real-time"}
    assert (rows["known_at"] - rows["hour"] == timedelta(hours=1)).all()
    assert source.read_prices(day, day + timedelta(days=3), source="system").empty


def dtypes(rows: pd.DataFrame) -> dict[str, str]:
    return {name: str(dtype) for name, dtype in rows.dtypes.items()}


def assert_in_shape(rows: pd.DataFrame, columns: dict[str, str]) -> None:
    assert dtypes(rows) == columns
    assert rows.index.equals(pd.RangeIndex(len(rows)))
    assert not rows.duplicated(["zone", "hour"]).any()
    assert rows[["hour", "zone"]].equals(rows[["hour", "zone"]].sort_values(["hour", "zone"]))


@pytest.mark.parametrize("kind", READ)
def test_simulated_and_live_give_the_same_frame(services: Services, kind: str) -> None:
    """Columns, dtypes, order and units: MW and °C within what New York can be."""
    read, columns = READ[kind]
    start, end = datetime(2026, 7, 6, tzinfo=UTC), datetime(2026, 7, 8, tzinfo=UTC)
    for name in ("live", "simulated"):
        rows = read(start, end, source=name)
        assert len(rows)
        assert_in_shape(rows, dict(columns))
        assert set(rows["zone"]) == set(schema.ZONES)
        values = rows[list(columns)[-2] if kind != "demand" else "demand_mw"].dropna()
        low, high = {"weather": (-45, 48)}.get(kind, (1, schema.HIGHEST_MW))
        assert values.between(low, high).all()


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize(("table", "day"), [("zones", datetime(2023, 3, 11, tzinfo=UTC)), ("system", START)])
def test_tables_give_the_same_frame(kind: str, table: str, day: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_DATA", str(data_folder("electricity_ny")))
    read, columns = READ[kind]
    day = day.replace(year=2019) if table == "system" else day
    rows = read(day, day + timedelta(days=3), source=table)
    assert_in_shape(rows, dict(columns))
    has_rows = (kind, table) != ("operator", "zones")
    assert bool(len(rows)) is has_rows
    assert set(rows["zone"]) == (set(source.zones(source=table)) if has_rows else set())


def test_weather_of_tables_is_what_had_been_measured_two_days_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """No observation of the future: the stand-in for a forecast is older than the issue that uses it."""
    folder = data_folder("electricity_ny")
    monkeypatch.setenv("TRIPTYCH_DATA", str(folder))
    rows = source.read_weather(datetime(2023, 7, 1, tzinfo=UTC), datetime(2023, 7, 2, tzinfo=UTC), source="zones")
    row = rows[rows["zone"] == "J_NYC"].iloc[0]
    measured = pd.read_parquet(folder / "electricity_ny" / source.ZONE_TEMPERATURE)
    measured = measured[measured["weather_station"] == "NYC_JFK"].set_index("interval_end_utc")["temperature_f"]
    ends = row["hour"] + pd.Timedelta(hours=1) - source.PERSISTENCE
    assert row["temperature_c"] == pytest.approx((measured[ends] - 32) / 1.8, abs=0.01)
    assert ends <= row["issued_at"]


def test_hours_flagged_by_the_tables_authors_are_left_out_not_imputed(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = data_folder("electricity_ny")
    monkeypatch.setenv("TRIPTYCH_DATA", str(folder))
    table = pd.read_parquet(folder / "electricity_ny" / source.ZONE_DEMAND)
    flagged = table[(table["quality_category"] != "OKAY") & (table["interval_end_utc"].dt.year == 2023)].iloc[0]
    end = flagged["interval_end_utc"].to_pydatetime()
    rows = source.read_demand(end, end + timedelta(hours=1), source="zones")
    assert flagged["zone"] not in set(rows["zone"])


def test_any_window_of_the_simulator_is_the_same_whatever_was_asked_before() -> None:
    whole = source.read_demand(START, START + timedelta(days=4), as_of=LATER, source="simulated")
    parts = [
        source.read_demand(START + timedelta(days=n), START + timedelta(days=n + 1), as_of=LATER, source="simulated")
        for n in range(4)
    ]
    pd.testing.assert_frame_equal(whole, pd.concat(parts, ignore_index=True), check_exact=True)


def test_simulated_rows_are_marked_and_have_the_shape_of_a_day() -> None:
    rows = source.read_demand(START, START + timedelta(days=28), as_of=LATER, source="simulated")
    assert set(rows["source"]) == {"simulated"}
    hour = rows["hour"].dt.tz_convert(schema.TIME_ZONE).dt.hour
    mean = rows.groupby(hour)["demand_mw"].mean()
    assert mean.idxmin() in range(2, 6)
    assert mean.idxmax() in range(16, 21)


def test_late_rows_are_missing_at_first_and_there_a_day_and_a_half_later() -> None:
    """F5: a row may arrive after its time."""
    window = Window(START, START + timedelta(days=2))
    trouble = Trouble(late_share=0.2, revised_share=0, outage_share=0)
    at_once = simulator.demand(window, as_of=window.end, trouble=trouble)
    later = simulator.demand(window, as_of=window.end + simulator.LATE, trouble=trouble)
    assert len(later) == 48 * 11
    assert 0 < len(at_once) < len(later)


def test_revised_rows_change_once_and_only_they() -> None:
    window = Window(START, START + timedelta(days=1))
    trouble = Trouble(late_share=0, revised_share=0.1, outage_share=0)
    first = simulator.demand(window, as_of=window.end, trouble=trouble)["demand_mw"]
    final = simulator.demand(window, as_of=window.end + timedelta(days=1), trouble=trouble)["demand_mw"]
    changed = first[first != final] / final[first != final]
    assert 5 < len(changed) < 60
    assert changed.between(1.009, 1.011).all()


def test_outages_and_drift_can_be_switched_on() -> None:
    window = Window(START, START + timedelta(days=2))
    outage = Window(START + timedelta(hours=5), START + timedelta(hours=9))
    silent = simulator.demand(window, as_of=LATER, trouble=Trouble(0, 0, 0, outages=(outage,)))
    assert len(silent) == (48 - 4) * 11
    calm = simulator.demand(window, as_of=LATER, trouble=CALM)["demand_mw"]
    drifting = simulator.demand(
        window, as_of=LATER, trouble=Trouble(0, 0, 0, drift_from=START + timedelta(days=1), drift=0.15)
    )["demand_mw"]  # fmt: skip
    assert (drifting.iloc[: 24 * 11] == calm.iloc[: 24 * 11]).all()
    assert (drifting / calm).iloc[24 * 11 :].mean() == pytest.approx(1.15, abs=0.001)


def test_simulated_forecasts_are_near_the_truth_and_not_the_truth() -> None:
    window = Window(START, START + timedelta(days=60))
    rows = simulator.weather_forecasts(window)
    other = simulator.weather_forecasts(window, seed=6)
    assert not rows["temperature_c"].equals(other["temperature_c"])
    expected = source.read_operator_forecasts(window.start, window.end, source="simulated")
    truth = source.read_demand(window.start, window.end + timedelta(days=3), as_of=LATER, source="simulated")
    both = expected.merge(truth, on=["zone", "hour"])
    error = (both["forecast_mw"] - both["demand_mw"]).abs() / both["demand_mw"]
    assert error.mean() == pytest.approx(0.035, abs=0.015)


def test_unknown_source_missing_folder_and_naive_times_say_what_to_do(tmp_path: object) -> None:
    end = START + timedelta(days=1)
    with pytest.raises(NotFound, match="Use one of"):
        source.read_demand(START, end, source="california")
    with living_in(tmp_path), pytest.raises(NotFound, match="Set TRIPTYCH_DATA"):
        source.read_demand(START, end, source="zones")
    with pytest.raises(InvalidTime, match="has no time zone"):
        source.read_demand(START.replace(tzinfo=None), end, source="simulated")


def test_table_that_is_not_there_is_named(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_DATA", str(tmp_path))
    with pytest.raises(NotFound, match=r"Expected the table .*eia_nyiso_zone_demand_hourly.parquet.*no such folder"):
        source.read_demand(START, START + timedelta(days=1), source="zones")
