"""The air quality features worked out by hand: days of 23 and 25 hours, gaps, seasons, neighbours and the wind."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import InvalidData, InvalidTime, SchemaMismatch
from flows.air_quality import features, schema

KRAKÓW, ŁÓDŹ, ZGIERZ = "MpKrakAlKras", "LdLodzCzerni", "LdZgieMielcz"


def utc(text: str) -> pd.Timestamp:
    return pd.Timestamp(text, tz="UTC")


def hours_between(start: str, end: str, *, value: float = 20.0, station: str = KRAKÓW) -> pd.DataFrame:
    """Every hour of Warsaw time from start to end."""
    hour = pd.Series(pd.date_range(start, end, freq="h", inclusive="left", tz="Europe/Warsaw").tz_convert("UTC"))
    return pd.DataFrame({"station": station, "hour": hour, "pm25_ug_m3": value})


def days_between(start: str, end: str, *, station: str = KRAKÓW, first: float = 1.0) -> pd.DataFrame:
    """Every day; its mean is the number of days since the start, plus the first value."""
    local = pd.Series(pd.date_range(start, end, freq="D", unit="us"))
    return pd.DataFrame(
        {
            "station": station,
            "day": features.midnight_of(local),
            "pm25_ug_m3": first + np.arange(len(local)),
            "known_at": features.midnight_of(local + pd.Timedelta(days=1)) + schema.DAY_KNOWN_AFTER,
        }
    )


def mean_of(days: pd.DataFrame, day: str) -> float:
    return float(days.set_index("day")["pm25_ug_m3"][pd.Timestamp(day, tz="Europe/Warsaw").tz_convert("UTC")])


def issue_of(day: str) -> pd.Timestamp:
    return pd.Timestamp(f"{day} 07:00", tz="Europe/Warsaw").tz_convert("UTC")


def outlook(day: str, days: pd.DataFrame, *, recent: pd.DataFrame | None = None, station: str = KRAKÓW) -> pd.DataFrame:
    """The outlook issued on a day, by horizon."""
    issue = issue_of(day)
    targets = features.outlook_days(issue.to_pydatetime(), (issue + pd.Timedelta(hours=1)).to_pydatetime(), [station])
    if recent is None:
        recent = just_before(day, {station: 33.0})
    return features.outlook_features(targets, recent, days, features.seen_from(recent)).set_index("horizon_days")


def just_before(day: str, means: dict[str, float]) -> pd.DataFrame:
    return pd.DataFrame(
        {"station": list(means), "issued_at": issue_of(day), "pm25_mean_24h": list(means.values()), "pm25_mean_6h": 1.0}
    )


# --- daily means -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-07-01", 24)])
def test_a_day_is_local_and_has_23_to_25_hours(day: str, hours: int) -> None:
    """F21: the clock changes on 29 March and 25 October 2026."""
    after = str((pd.Timestamp(day) + pd.Timedelta(days=1)).date())
    before = str((pd.Timestamp(day) - pd.Timedelta(days=1)).date())
    rows = pd.concat(
        [
            hours_between(before, day, value=1),
            hours_between(day, after),
            hours_between(after, f"{after} 20:00", value=9),
        ]
    )
    found = features.daily_means(rows).set_index("day").loc[pd.Timestamp(day, tz="Europe/Warsaw").tz_convert("UTC")]
    assert (found["pm25_ug_m3"], found["hours"]) == (20.0, hours)
    assert found["known_at"] == pd.Timestamp(f"{after} 01:00", tz="Europe/Warsaw")
    first_issue = pd.Timestamp(day) - pd.Timedelta(days=7) + pd.Timedelta(hours=7)
    assert found["issued_at"] == first_issue.tz_localize("Europe/Warsaw")


def test_day_with_fewer_than_18_hours_has_no_mean() -> None:
    rows = hours_between("2026-01-05", "2026-01-06")
    assert len(features.daily_means(rows.iloc[:18])) == 1
    assert features.daily_means(rows.iloc[:17]).empty


def test_values_below_zero_are_missing_and_zero_is_a_value() -> None:
    rows = hours_between("2026-01-05", "2026-01-06", value=30.0)
    rows.loc[:2, "pm25_ug_m3"] = -4.5
    rows.loc[3, "pm25_ug_m3"] = 0.0
    found = features.daily_means(rows).iloc[0]
    assert (found["hours"], found["pm25_ug_m3"]) == (21, round(20 * 30.0 / 21, 2))
    rows.loc[:7, "pm25_ug_m3"] = -0.1
    assert features.daily_means(rows).empty


def test_hour_that_is_there_twice_is_refused_with_station_and_hour() -> None:
    rows = hours_between("2026-01-05", "2026-01-06")
    with pytest.raises(InvalidData, match=r"station MpKrakAlKras, hour 2026-01-04 23:00:00\+00:00 more than once"):
        features.daily_means(pd.concat([rows, rows.iloc[:1]]))


def test_half_hours_naive_times_days_that_are_no_midnight_and_missing_columns_are_refused() -> None:
    rows = hours_between("2026-01-05", "2026-01-06")
    with pytest.raises(InvalidTime, match="which is no whole hour"):
        features.daily_means(rows.assign(hour=rows["hour"] + pd.Timedelta(minutes=30)))
    with pytest.raises(InvalidTime, match=r"expected times with a time zone.*Europe/Warsaw"):
        features.daily_means(rows.assign(hour=rows["hour"].dt.tz_localize(None)))
    with pytest.raises(SchemaMismatch, match=r"needs the columns \['pm25_ug_m3'\]"):
        features.daily_means(rows.drop(columns="pm25_ug_m3"))
    days = days_between("2025-12-01", "2026-01-04")
    with pytest.raises(InvalidTime, match="which is no midnight in Europe/Warsaw"):
        outlook("2026-01-05", days.assign(day=days["day"] + pd.Timedelta(hours=1)))


# --- just before the issue ---------------------------------------------------------------------------


def test_newest_hours_end_at_six_and_what_is_measured_later_does_not_reach_the_issue() -> None:
    rows = hours_between("2026-01-04", "2026-01-06", value=10.0)
    late = rows["hour"] >= utc("2026-01-05 05:00")  # the hour from 06:00 Warsaw is published at 08:00
    rows.loc[late, "pm25_ug_m3"] = 1000.0
    issues = pd.DataFrame({"station": [KRAKÓW], "issued_at": [issue_of("2026-01-05")]})
    assert features.recent_means(issues, rows)[["pm25_mean_24h", "pm25_mean_6h"]].values.tolist() == [[10.0, 10.0]]


def test_mean_of_24_hours_is_null_when_more_than_a_quarter_is_missing() -> None:
    """The newest hours are often null: then the mean is of the others, down to 18."""
    rows = hours_between("2026-01-04 06:00", "2026-01-05 06:00")
    issues = pd.DataFrame({"station": [KRAKÓW], "issued_at": [issue_of("2026-01-05")]})
    enough, too_few = (features.recent_means(issues, rows.iloc[:n]).iloc[0] for n in (18, 17))
    assert (enough["pm25_mean_24h"], np.isnan(enough["pm25_mean_6h"])) == (20.0, True)
    assert np.isnan(too_few["pm25_mean_24h"])


# --- the outlook -------------------------------------------------------------------------------------


def test_lags_count_back_from_the_issue_whatever_the_horizon() -> None:
    days = days_between("2025-11-01", "2026-01-10")
    rows = outlook("2026-01-05", days)
    assert rows.index.tolist() == [1, 2, 3, 4, 5, 6, 7]
    for lag in schema.LAG_DAYS:
        before = str((pd.Timestamp("2026-01-05") - pd.Timedelta(days=lag)).date())
        assert set(rows[f"pm25_lag_{lag}d"]) == {mean_of(days, before)}
    assert set(rows["pm25_mean_24h"]) == {33.0}
    assert rows["day"].iloc[0] == pd.Timestamp("2026-01-06", tz="Europe/Warsaw")


def test_day_without_a_mean_gives_a_null_lag_and_not_the_day_before_it() -> None:
    days = days_between("2025-11-01", "2026-01-10")
    gone = days["day"] == pd.Timestamp("2026-01-03", tz="Europe/Warsaw")
    row = outlook("2026-01-05", days[~gone]).loc[1]
    assert np.isnan(row["pm25_lag_2d"])
    assert row["pm25_lag_3d"] == mean_of(days, "2026-01-02")
    assert row["pm25_mean_3d"] == (mean_of(days, "2026-01-02") + mean_of(days, "2026-01-04")) / 2


def test_mean_of_yesterday_that_is_not_known_at_the_issue_is_null() -> None:
    """A day's mean may come late: what was known then is what counts, by its known_at."""
    days = days_between("2025-11-01", "2026-01-10")
    yesterday = days["day"] == pd.Timestamp("2026-01-04", tz="Europe/Warsaw")
    days.loc[yesterday, "known_at"] = issue_of("2026-01-05") + pd.Timedelta(minutes=1)
    assert np.isnan(outlook("2026-01-05", days).loc[1, "pm25_lag_1d"])


def test_station_that_has_been_silent_for_30_days_is_closed_and_has_no_outlook() -> None:
    days = days_between("2025-11-01", "2025-12-06")
    rows = outlook("2026-01-05", days)  # silent for 29 days
    assert rows["pm25_mean_30d"].isna().all()
    assert len(rows) == 7
    assert outlook("2026-01-06", days).empty


def test_climatology_is_of_the_same_dates_in_years_before_and_never_of_this_year() -> None:
    """The median and the mean of the 31 days around the date, in each of five years back."""
    parts = [days_between(f"{year}-11-01", f"{year + 1}-02-01", first=100.0 * (2025 - year)) for year in (2023, 2024)]
    this_year = days_between("2025-11-01", "2026-02-01", first=9000.0)
    row = outlook("2026-01-05", pd.concat([*parts, this_year])).loc[1]
    around = [d for part in parts for d in part["pm25_ug_m3"].iloc[66 - 15 : 66 + 16]]  # 6 January is the 67th day
    assert row["pm25_climatology"] == np.median(around)
    assert row["pm25_climatology_mean"] == pytest.approx(np.mean(around), abs=0.01)
    assert np.isnan(outlook("2026-01-05", this_year).loc[1, "pm25_climatology"])


def test_nearby_stations_are_averaged_and_the_station_itself_is_not() -> None:
    days = days_between("2025-11-01", "2026-01-10", station=ŁÓDŹ)
    near = [each.station for each in schema.neighbours(ŁÓDŹ)]
    recent = just_before("2026-01-05", {ŁÓDŹ: 500.0, near[0]: 10.0, near[1]: 30.0, "ZpSzczPilsud": 900.0})
    row = outlook("2026-01-05", days, recent=recent, station=ŁÓDŹ).loc[1]
    assert row["pm25_nearby_24h"] == 20.0
    alone = just_before("2026-01-05", {ŁÓDŹ: 500.0})
    assert np.isnan(outlook("2026-01-05", days, recent=alone, station=ŁÓDŹ).loc[1, "pm25_nearby_24h"])


@pytest.mark.parametrize(
    ("day", "flags"),
    [
        ("2026-05-01", {"is_holiday"}),
        ("2026-06-04", {"is_holiday"}),  # Corpus Christi
        ("2026-11-11", {"is_holiday", "is_heating_season"}),
        ("2026-04-30", {"is_heating_season"}),
        ("2026-07-04", {"is_weekend"}),
    ],
)
def test_calendar_is_that_of_poland(day: str, flags: set[str]) -> None:
    found = features.calendar_of(features.midnight_of(pd.Series(pd.to_datetime([day]))))
    assert {name for name in found if name.startswith("is_") and found[name][0]} == flags


@given(day=st.dates(date(2020, 1, 1), date(2030, 12, 31)))
def test_every_issue_forecasts_the_seven_days_that_follow_each_once(day: date) -> None:
    """F21: for any day, all midnights are local ones after the issue."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    rows = features.outlook_days(start, start + timedelta(days=1), [KRAKÓW])
    assert rows["horizon_days"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    local = rows["day"].dt.tz_convert("Europe/Warsaw")
    assert local.dt.date.tolist() == [day + timedelta(days=n) for n in range(1, 8)]
    assert (local == local.dt.normalize()).all()
    assert (rows["issued_at"] < rows["day"]).all()


# --- the weather -------------------------------------------------------------------------------------


def weather_rows(issue_day: str, **changes: object) -> pd.DataFrame:
    """Features of the weather of the seven days after an issue, with wind from the west."""
    issue = issue_of(issue_day)
    targets = features.outlook_days(issue.to_pydatetime(), (issue + pd.Timedelta(hours=1)).to_pydatetime(), [ZGIERZ])
    told = {
        "temperature_c": 5.0, "temperature_min_c": 1.0, "wind_speed_ms": 3.0, "wind_direction_deg": 270.0,
        "precipitation_mm": 0.5,
    }  # fmt: skip
    forecasts = targets[["station", "day", "issued_at"]].head(6).assign(**{**told, **changes})
    local = pd.Series(pd.date_range("2025-12-15", "2026-01-10", freq="D", unit="us"))
    observed = pd.DataFrame({"station": ZGIERZ, "day": features.midnight_of(local), **told})
    observed = observed.assign(
        temperature_c=np.arange(len(local), dtype="float64"),
        known_at=features.midnight_of(local + pd.Timedelta(days=1)) + schema.OBSERVED_AFTER,
    )
    recent = just_before(issue_day, {each.station: each.bearing_deg for each in schema.neighbours(ZGIERZ)})
    rows = features.weather_features(targets, forecasts, observed, features.seen_from(recent))
    return rows.set_index("horizon_days")


def test_observed_weather_is_of_the_newest_known_day_and_never_of_the_day_to_come() -> None:
    rows = weather_rows("2026-01-05")
    assert set(rows["observed_temperature_c"]) == {18.0}  # 2 January, the 19th day: known on the 5th at midnight
    assert set(rows["observed_temperature_mean_7d_c"]) == {15.0}
    assert rows["temperature_change_c"].iloc[:6].tolist() == [-13.0] * 6


def test_day_without_a_forecast_has_nulls_and_what_was_observed_does_not_stand_in() -> None:
    last = weather_rows("2026-01-05").loc[7]
    assert last.filter(like="forecast_").isna().all()
    assert np.isnan(last["pm25_upwind_24h"])
    assert last["observed_temperature_c"] == 18.0


def test_upwind_stations_lie_where_the_wind_comes_from() -> None:
    """Zgierz: Łódź lies south-east, Żyrardów and Płock north-east, Kalisz west. Here each value is its bearing."""
    bearing = {each.station: each.bearing_deg for each in schema.neighbours(ZGIERZ)}
    assert weather_rows("2026-01-05").loc[1, "pm25_upwind_24h"] == round(bearing["WpKaliSawick"], 2)
    east = weather_rows("2026-01-05", wind_direction_deg=60.0).loc[1]
    near = [each for each in bearing.values() if abs(each - 60) <= features.UPWIND_DEG]
    assert east["pm25_upwind_24h"] == pytest.approx(np.mean(near), abs=0.01)
    assert (east["forecast_wind_south"], east["forecast_wind_west"]) == (-0.5, -0.866)


def test_weather_of_a_day_is_the_same_whether_it_was_observed_or_expected() -> None:
    """F14: one function for both; fewer than 18 hours give null, and rain is a sum."""
    hours = hours_between("2026-07-01", "2026-07-03")[["station", "hour"]].assign(
        temperature_c=np.arange(48.0), wind_speed_ms=2.0, wind_direction_deg=90.0, precipitation_mm=0.25
    )
    hours.loc[30:, "temperature_c"] = np.nan
    rows = features.daily_weather(hours)
    assert rows["precipitation_mm"].tolist() == [6.0, 6.0]
    assert rows["temperature_c"].tolist()[0] == 11.5
    assert rows[["temperature_c", "temperature_min_c"]].iloc[1].isna().all()
    assert rows["wind_direction_deg"].tolist() == [90.0, 90.0]


# --- the index ---------------------------------------------------------------------------------------


def test_index_has_the_categories_of_gios_and_null_has_none() -> None:
    found = features.index_of(pd.Series([0.0, 13.04, 13.06, 35.0, 55.1, 75.0, 110.0, 110.1, np.nan]))
    assert found.isna().tolist() == [False] * 8 + [True]
    assert found.tolist()[:8] == [
        "very good", "very good", "good", "good", "sufficient", "sufficient", "bad", "very bad",
    ]  # fmt: skip
