"""The electricity features worked out by hand: calendar lags, gaps, and the two days on which the clock changes."""

from __future__ import annotations

from datetime import date, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import InvalidData, InvalidTime, SchemaMismatch
from flows.electricity import features, schema


def utc(text: str) -> pd.Timestamp:
    return pd.Timestamp(text, tz="UTC")


def demand_between(start: str, end: str, *, zone: str = "J_NYC") -> pd.DataFrame:
    """Every hour; its demand is the number of hours since the start, plus 1000."""
    hour = pd.Series(pd.date_range(start, end, freq="h", inclusive="left", tz="UTC", unit="us"))
    return pd.DataFrame({"zone": zone, "hour": hour, "demand_mw": 1000.0 + np.arange(len(hour))})


def rows_of_day(day: str, demand: pd.DataFrame, zones: tuple[str, ...] = ("J_NYC",)) -> pd.DataFrame:
    """The features of the hours of one local day, by hour (UTC)."""
    issued = pd.Timestamp(day, tz=schema.TIME_ZONE) - pd.Timedelta(days=1)
    targets = features.day_ahead_hours(issued.to_pydatetime(), (issued + pd.Timedelta(days=1)).to_pydatetime(), zones)
    return features.day_ahead_features(targets, demand).set_index("hour")


def value_at(demand: pd.DataFrame, hour: str) -> float:
    return float(demand.set_index("hour")["demand_mw"][utc(hour)])


def test_issue_of_every_hour_of_a_day_is_five_in_the_morning_of_the_day_before() -> None:
    rows = rows_of_day("2026-01-15", demand_between("2025-12-01", "2026-01-15"))
    assert set(rows["issued_at"]) == {utc("2026-01-14 10:00")}  # 05:00 EST
    assert rows["horizon_hours"].tolist() == list(range(19, 43))
    assert rows["local_hour"].tolist() == list(range(24))


def test_lag_is_the_same_local_hour_and_null_when_it_is_not_over_at_the_issue() -> None:
    demand = demand_between("2025-12-01", "2026-01-20")
    rows = rows_of_day("2026-01-15", demand)
    hour = utc("2026-01-15 09:00")  # 04:00 EST; a day earlier it ended at 05:00, the very moment of the issue
    assert rows.loc[hour, "demand_lag_24h_mw"] == value_at(demand, "2026-01-14 09:00")
    assert rows["demand_lag_24h_mw"].notna().sum() == 5
    assert np.isnan(rows.loc[utc("2026-01-15 10:00"), "demand_lag_24h_mw"])
    assert rows.loc[utc("2026-01-15 10:00"), "demand_lag_48h_mw"] == value_at(demand, "2026-01-13 10:00")
    assert rows.loc[utc("2026-01-15 10:00"), "demand_same_hour_mw"] == value_at(demand, "2026-01-13 10:00")
    assert rows.loc[hour, "demand_lag_168h_mw"] == value_at(demand, "2026-01-08 09:00")


def test_missing_hour_gives_a_null_lag_not_the_row_before_it() -> None:
    demand = demand_between("2025-12-01", "2026-01-20")
    missing = utc("2026-01-08 12:00")
    rows = rows_of_day("2026-01-15", demand[demand["hour"] != missing])
    assert np.isnan(rows.loc[utc("2026-01-15 12:00"), "demand_lag_168h_mw"])
    assert rows["demand_lag_168h_mw"].notna().sum() == 23


def test_means_end_with_the_issue_and_are_null_when_too_much_is_missing() -> None:
    demand = demand_between("2025-12-01", "2026-01-20")
    issue = utc("2026-01-14 10:00")
    rows = rows_of_day("2026-01-15", demand)
    last_24 = demand[(demand["hour"] < issue) & (demand["hour"] >= issue - pd.Timedelta(hours=24))]["demand_mw"]
    assert set(rows["demand_mean_24h_mw"]) == {last_24.mean()}
    holes = demand[(demand["hour"] < issue - pd.Timedelta(hours=17)) | (demand["hour"] >= issue)]
    assert rows_of_day("2026-01-15", holes)["demand_mean_24h_mw"].isna().all()
    assert rows_of_day("2026-01-15", holes)["demand_mean_168h_mw"].notna().all()


def test_day_of_23_hours_has_no_two_o_clock_and_its_lags_keep_the_wall_clock() -> None:
    """F21: the clock goes forward on 8 March 2026."""
    demand = demand_between("2026-02-01", "2026-03-20")
    rows = rows_of_day("2026-03-08", demand)
    assert rows["local_hour"].tolist() == [0, 1, *range(3, 24)]
    assert set(rows["hours_in_day"]) == {23}
    assert rows["is_dst"].tolist() == [False, False] + [True] * 21
    noon = utc("2026-03-08 16:00")  # noon EDT; noon EST a week earlier was 17:00 UTC
    assert rows.loc[noon, "demand_lag_168h_mw"] == value_at(demand, "2026-03-01 17:00")


def test_lag_that_falls_into_the_hour_the_clock_skips_is_null() -> None:
    """F21: 02:00 on 8 March 2026 does not exist."""
    rows = rows_of_day("2026-03-15", demand_between("2026-02-01", "2026-03-20"))
    assert rows.index[rows["demand_lag_168h_mw"].isna()].tolist() == [utc("2026-03-15 06:00")]  # 02:00 EDT


def test_day_of_25_hours_has_one_o_clock_twice_each_with_its_own_lags() -> None:
    """F21: the clock goes back on 1 November 2026; the hour that occurs twice is two rows."""
    demand = demand_between("2026-10-01", "2026-11-12")
    rows = rows_of_day("2026-11-01", demand)
    assert rows["local_hour"].tolist() == [0, 1, 1, *range(2, 24)]
    assert set(rows["hours_in_day"]) == {25}
    assert rows["horizon_hours"].tolist() == list(range(19, 44))
    first, second = utc("2026-11-01 05:00"), utc("2026-11-01 06:00")
    assert rows.loc[first, "demand_lag_168h_mw"] == value_at(demand, "2026-10-25 05:00")
    assert rows.loc[second, "demand_lag_168h_mw"] == value_at(demand, "2026-10-25 05:00")
    week_later = rows_of_day("2026-11-08", demand)  # 01:00 EST looks back at 01:00 EST, the second of the two
    assert week_later.loc[utc("2026-11-08 06:00"), "demand_lag_168h_mw"] == value_at(demand, "2026-11-01 06:00")


@pytest.mark.parametrize(
    ("day", "flags"),
    [
        ("2026-07-03", {"is_federal_holiday", "is_before_holiday"}),  # the 4th is a Saturday, observed on the Friday
        ("2026-02-12", {"is_new_york_holiday"}),  # Lincoln's Birthday
        ("2026-11-27", {"is_after_holiday"}),  # the day after Thanksgiving
        ("2026-12-24", {"is_before_holiday"}),
        ("2027-01-01", {"is_federal_holiday", "was_holiday_168h"}),  # a week after Christmas
        ("2026-09-16", set()),
    ],
)
def test_holidays_are_those_of_the_united_states_and_of_new_york(day: str, flags: set[str]) -> None:
    noon = pd.Series(pd.DatetimeIndex([pd.Timestamp(f"{day} 12:00", tz=schema.TIME_ZONE)]).tz_convert("UTC"))
    found = features.calendar_of(noon)
    assert {name for name in found if "holiday" in name and found[name][0]} == flags


def test_zones_do_not_see_each_other() -> None:
    demand = pd.concat(
        [demand_between("2025-12-01", "2026-01-20"), demand_between("2025-12-01", "2026-01-20", zone="A_WEST")]
    )
    demand.loc[demand["zone"] == "A_WEST", "demand_mw"] += 5000
    both = rows_of_day("2026-01-15", demand, ("A_WEST", "J_NYC")).reset_index()
    gap = both[both["zone"] == "A_WEST"]["demand_lag_168h_mw"].to_numpy() - (
        both[both["zone"] == "J_NYC"]["demand_lag_168h_mw"].to_numpy()
    )
    assert set(gap) == {5000.0}


def test_zone_without_any_history_has_nulls_and_loses_no_row() -> None:
    rows = rows_of_day("2026-01-15", demand_between("2025-12-01", "2026-01-20"), ("J_NYC", "K_LONGIL"))
    new = rows[rows["zone"] == "K_LONGIL"]
    assert len(new) == 24
    assert new["demand_mean_168h_mw"].isna().all()
    assert new["is_weekend"].notna().all()


def test_demand_that_has_an_hour_twice_is_refused_with_the_hour() -> None:
    demand = demand_between("2026-01-01", "2026-01-20")
    with pytest.raises(InvalidData, match=r"demand has zone J_NYC at 2026-01-01 00:00:00\+00:00 more than once"):
        rows_of_day("2026-01-15", pd.concat([demand, demand.iloc[:1]]))


def test_half_hours_naive_times_and_missing_columns_are_refused() -> None:
    demand = demand_between("2026-01-01", "2026-01-20")
    with pytest.raises(InvalidTime, match="which is no whole hour"):
        rows_of_day("2026-01-15", demand.assign(hour=demand["hour"] + pd.Timedelta(minutes=30)))
    with pytest.raises(InvalidTime, match="expected times with a time zone"):
        rows_of_day("2026-01-15", demand.assign(hour=demand["hour"].dt.tz_localize(None)))
    with pytest.raises(SchemaMismatch, match=r"needs the columns \['demand_mw'\]"):
        rows_of_day("2026-01-15", demand.drop(columns="demand_mw"))


def test_forecasts_of_a_week_are_averaged_and_a_missing_one_is_null() -> None:
    hour = pd.Series(pd.date_range("2026-01-01", periods=200, freq="h", tz="UTC"))
    weather = pd.DataFrame(
        {"zone": "J_NYC", "hour": hour, "issued_at": hour - schema.WEATHER_LEAD, "temperature_c": np.arange(200) / 10}
    )
    weather.loc[10, "temperature_c"] = np.nan
    rows = features.weather_features(weather)
    assert rows.loc[199, "temperature_mean_24h_c"] == pytest.approx(np.arange(176, 200).mean() / 10)
    assert rows.loc[199, "temperature_change_168h_c"] == pytest.approx(16.8)
    assert np.isnan(rows.loc[10, "heating_degrees_c"])
    assert np.isnan(rows.loc[178, "temperature_change_168h_c"])
    assert np.isnan(rows.loc[5, "temperature_mean_24h_c"])  # six hours are no day


@settings(max_examples=30, deadline=None)
@given(day=st.dates(datetime(2020, 1, 1).date(), datetime(2030, 12, 31).date()))
def test_every_day_has_each_of_its_hours_once_and_they_add_up(day: date) -> None:
    """F21: for any day, the hours forecast are those between its two midnights, all issued before it begins."""
    issued = pd.Timestamp(day, tz=schema.TIME_ZONE) - pd.Timedelta(days=1)
    start = issued.tz_localize(None).tz_localize(schema.TIME_ZONE)
    hours = features.day_ahead_hours(start.to_pydatetime(), (start + pd.Timedelta(hours=12)).to_pydatetime(), ["J_NYC"])
    local = hours["hour"].dt.tz_convert(schema.TIME_ZONE)
    assert len(hours) in (23, 24, 25)
    assert hours["hour"].diff().dropna().eq(pd.Timedelta(hours=1)).all()
    assert local.dt.date.nunique() == 1
    assert (hours["issued_at"] < hours["hour"].min()).all()
    assert len(hours) == features.calendar_of(hours["hour"])["hours_in_day"][0]


# --- prices ------------------------------------------------------------------------------------------


def test_price_known_after_the_issue_is_not_seen_whichever_market_it_is_of() -> None:
    hours = pd.Series(pd.date_range("2026-01-01", periods=24 * 32, freq="h", tz="UTC", unit="us"))
    prices = pd.DataFrame(
        {"zone": "J_NYC", "hour": hours, "price_usd_per_mwh": [float(n) - 50 for n in range(24 * 32)]}
    )
    targets = features.day_ahead_hours(hours.iloc[-48], hours.iloc[-24], ["J_NYC"])
    at_the_end = features.price_features(targets, prices.assign(known_at=hours + pd.Timedelta(hours=1)))
    day_before = features.local_time_on_the_day_before(hours, hours=schema.PRICE_KNOWN_HOUR)
    published = features.price_features(targets, prices.assign(known_at=day_before))
    issue, first = targets["issued_at"].iloc[0], targets["hour"].iloc[0]
    assert (first - issue) == pd.Timedelta(hours=19)
    number = int((first - hours.iloc[0]) / pd.Timedelta(hours=1))
    assert at_the_end["price_lag_24h"].notna().sum() == 5  # at 05:00 only five hours of the day are over
    assert published["price_lag_24h"].tolist() == [float(n) - 24 - 50 for n in range(number, number + 24)]
    assert at_the_end["price_same_hour"].tolist()[5] == number + 5 - 48 - 50
    assert at_the_end["price_mean_24h"].iloc[0] == np.mean([number - 19 - n - 50 for n in range(1, 25)])
    assert published["price_scale"].iloc[0] == np.mean([number - 19 - n - 50 for n in range(1, 673)])
    assert published["price_same_hour_ratio"].iloc[0] == (number - 24 - 50) / published["price_scale"].iloc[0]


def test_scale_of_prices_is_never_below_five_dollars() -> None:
    hours = pd.Series(pd.date_range("2026-01-01", periods=24 * 32, freq="h", tz="UTC", unit="us"))
    prices = pd.DataFrame({"zone": "D_NORTH", "hour": hours, "price_usd_per_mwh": -2.5, "known_at": hours})
    targets = features.day_ahead_hours(hours.iloc[-48], hours.iloc[-24], ["D_NORTH"])
    found = features.price_features(targets, prices)
    assert set(found["price_scale"]) == {5.0}
    assert set(found["price_lag_168h_ratio"]) == {-0.5}
