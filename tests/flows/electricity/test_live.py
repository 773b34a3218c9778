"""The live services as stubs over real HTTP: what they give, and every way in which they go wrong."""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pytest

from featurestore.errors import InvalidData, NotFound
from featurestore.times import Window
from flows.electricity import live, schema, source
from flows.http import RequestRefused, ServiceUnavailable, TooManyRequests, UnexpectedAnswer
from tests.flows.electricity.conftest import (
    Services,
    as_json,
    damlbmp,
    hours_of,
    isolf,
    load_mw,
    pal_integrated,
    price_usd,
    weather_answer,
)
from tests.flows.stub_server import Reply, sample

NOW = datetime(2026, 7, 10, 15, 20, tzinfo=UTC)  # 11:20 EDT
DAY = date(2026, 7, 9)
FIRST, LAST = hours_of(DAY)[0], hours_of(DAY)[-1]


def demand_of(day: date, *, as_of: datetime = NOW) -> pd.DataFrame:
    hours = hours_of(day)
    return live.demand(Window(hours[0], hours[-1] + timedelta(hours=1)), as_of=as_of)


# --- NYISO's demand ----------------------------------------------------------------------------------


def test_day_of_demand_has_each_zone_and_hour_in_utc(services: Services) -> None:
    rows = demand_of(DAY)
    assert len(rows) == 24 * 11
    nyc = rows[(rows["zone"] == "J_NYC") & (rows["hour"] == FIRST)]["demand_mw"]
    assert nyc.tolist() == [load_mw(schema.ZONES["J_NYC"], FIRST)]
    assert services.nyiso.asked == [("/palIntegrated/20260709palIntegrated.csv", {})]


def test_old_days_come_from_the_zip_of_their_month_asked_once(services: Services) -> None:
    window = Window(datetime(2026, 3, 1, 5, tzinfo=UTC), datetime(2026, 3, 31, tzinfo=UTC))
    rows = live.demand(window, as_of=NOW)
    assert services.nyiso.asked == [("/palIntegrated/20260301palIntegrated_csv.zip", {})]
    assert len(rows) == 11 * ((window.end - window.start) // timedelta(hours=1))


def test_month_that_is_partly_a_zip_and_partly_files_has_each_hour_once(services: Services) -> None:
    window = Window(datetime(2026, 6, 29, tzinfo=UTC), datetime(2026, 7, 9, tzinfo=UTC))
    rows = live.demand(window, as_of=NOW)
    assert not rows.duplicated(["zone", "hour"]).any()
    assert len(rows) == 11 * ((window.end - window.start) // timedelta(hours=1))


@pytest.mark.parametrize(("day", "hours"), [(date(2026, 3, 8), 23), (date(2025, 11, 2), 25)])
def test_days_on_which_the_clock_changes_have_all_their_hours_once(services: Services, day: date, hours: int) -> None:
    """F21: an hour that occurs twice is two rows, told apart by EDT and EST."""
    rows = demand_of(day, as_of=datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=3))
    nyc = rows[rows["zone"] == "J_NYC"].sort_values("hour")
    assert nyc["hour"].tolist() == hours_of(day)
    assert len(nyc) == hours


def test_hours_that_are_not_over_are_not_known_yet(services: Services) -> None:
    rows = live.demand(Window(NOW - timedelta(hours=5), NOW + timedelta(hours=5)), as_of=NOW)
    assert rows["hour"].max() == pd.Timestamp("2026-07-10 14:00", tz="UTC")


def test_file_of_a_day_that_has_just_begun_is_not_there_yet(services: Services) -> None:
    services.nyiso.troubles.append(Reply(404))
    midnight = datetime(2026, 7, 10, 4, 10, tzinfo=UTC)
    assert live.demand(Window(midnight - timedelta(minutes=10), midnight), as_of=midnight).empty
    services.nyiso.troubles.append(Reply(404))
    with pytest.raises(RequestRefused, match="HTTP 404"):
        demand_of(DAY)


def test_rows_out_of_order_and_repeated_give_the_same_demand(services: Services) -> None:
    header, *lines = pal_integrated(DAY).splitlines()
    services.nyiso.troubles.append(Reply.of_text("\n".join([header, *reversed(lines), *lines[:50]]) + "\n"))
    by = ["hour", "zone"]
    pd.testing.assert_frame_equal(
        demand_of(DAY).sort_values(by, ignore_index=True), demand_of(DAY).sort_values(by, ignore_index=True)
    )


def test_two_loads_for_one_hour_are_refused(services: Services) -> None:
    text = pal_integrated(DAY)
    twice = text.splitlines()[1].rpartition(",")[0] + ",1.5"
    services.nyiso.troubles.append(Reply.of_text(text + twice + "\n"))
    with pytest.raises(UnexpectedAnswer, match=r"two different loads for A_WEST at 2026-07-09 04:00"):
        demand_of(DAY)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Integrated Load", "Load (kW)", r"has the columns .*'Load \(kW\)'.*expected"),
        ("N.Y.C.", "NYC", r"unknown zones \['NYC'\]"),
        ("61761", "61799", r"N.Y.C. has PTID 61799"),
        ('"EDT"', '"CET"', r"Time Zone is \['CET'\], expected EDT or EST"),
        ("07/09/2026", "07/08/2026", r"holds rows of 2026-07-08, expected 2026-07-09: an old answer"),
        ("07/09/2026", "2026-07-09", r"is no time as expected"),
        (",61761,", ",61761,n/a ", r"is no number"),
    ],
    ids=["unit and column", "zone", "key", "time zone", "yesterday's answer", "format", "no number"],
)
def test_file_that_is_not_as_known_is_refused_and_says_what_is_strange(
    services: Services, old: str, new: str, message: str
) -> None:
    services.nyiso.troubles.append(Reply.of_text(pal_integrated(DAY).replace(old, new)))
    with pytest.raises(UnexpectedAnswer, match=f"{message}.*nothing was written"):
        demand_of(DAY)


def test_half_a_file_is_refused(services: Services) -> None:
    services.nyiso.troubles.append(Reply.of_text(pal_integrated(DAY)[:5000]))
    with pytest.raises(UnexpectedAnswer, match=r"half an answer|is no"):
        demand_of(DAY)
    services.nyiso.troubles.append(Reply(body=b"PK\x03\x04 broken"))
    with pytest.raises(UnexpectedAnswer, match="not a whole zip"):
        live.demand(Window.of("2026-03-01", "2026-03-02"), as_of=NOW)


def test_load_that_is_missing_is_a_missing_hour_and_no_zero(services: Services) -> None:
    lines = pal_integrated(DAY).splitlines()
    lines[1] = lines[1].rpartition(",")[0] + ","
    services.nyiso.troubles.append(Reply.of_text("\n".join(lines) + "\n"))
    assert len(demand_of(DAY)) == 24 * 11 - 1


def test_empty_file_is_a_day_without_demand(services: Services) -> None:
    services.nyiso.troubles.append(Reply.of_text(pal_integrated(DAY).splitlines()[0] + "\n"))
    assert demand_of(DAY).empty


@pytest.mark.parametrize(
    ("replies", "error"),
    [
        ([Reply(503), Reply(503)], ServiceUnavailable),
        ([Reply(429, headers={"Retry-After": "3600"})], TooManyRequests),
        ([Reply(200, b"slow", delay_seconds=3)] * 2, ServiceUnavailable),
    ],
    ids=["down", "429 for an hour", "slow"],
)
def test_service_in_trouble_fails_the_run_and_the_next_one_covers_the_window(
    services: Services, monkeypatch: pytest.MonkeyPatch, replies: list[Reply], error: type[Exception]
) -> None:
    monkeypatch.setenv("TRIPTYCH_HTTP_TIMEOUT_SECONDS", "0.2")
    services.nyiso.troubles.extend(replies)
    with pytest.raises(error, match=r"covers this window too|Run again later"):
        demand_of(DAY)
    monkeypatch.setenv("TRIPTYCH_HTTP_TIMEOUT_SECONDS", "2")
    assert len(demand_of(DAY)) == 24 * 11


def test_window_is_read_again_from_what_was_kept_with_the_network_off(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F19: raw payloads are kept."""
    first = demand_of(DAY)
    asked = len(services.nyiso.asked)
    monkeypatch.setenv("TRIPTYCH_HTTP_REPLAY", "true")
    pd.testing.assert_frame_equal(demand_of(DAY), first)
    assert len(services.nyiso.asked) == asked
    with pytest.raises(NotFound, match="No answer of nyiso"):
        demand_of(DAY - timedelta(days=1))


def test_correction_of_a_day_replaces_what_was_read_before(services: Services) -> None:
    first = demand_of(DAY)
    load = f"{load_mw(schema.ZONES['J_NYC'], FIRST)}"
    services.nyiso.troubles.append(Reply.of_text(pal_integrated(DAY).replace(f",61761,{load}", ",61761,5555.5", 1)))
    later = demand_of(DAY)
    assert sorted(set(later["demand_mw"]) - set(first["demand_mw"])) == [5555.5]


def test_recorded_day_of_five_minute_load_read_as_hours_is_in_the_known_range(services: Services) -> None:
    """The recording is of the 5-minute family; its hourly means in the shape of the hourly one."""
    rows = pd.read_csv(pd.io.common.BytesIO(sample("nyiso/20190701pal.csv")))
    rows["Time Stamp"] = pd.to_datetime(rows["Time Stamp"]).dt.floor("h").dt.strftime("%m/%d/%Y %H:%M:%S")
    hourly = rows.groupby(["Time Stamp", "Time Zone", "Name", "PTID"], as_index=False)["Load"].mean()
    hourly = hourly[hourly["Time Stamp"].str.startswith("07/01/2019")]
    text = hourly.rename(columns={"Load": "Integrated Load"}).to_csv(index=False)
    found = live.integrated_load(text, day=date(2019, 7, 1), what="the recording")
    assert set(found["zone"]) == set(schema.ZONES)
    total = found.groupby("hour")["demand_mw"].sum()
    assert total.between(12_000, 27_000).all()


# --- NYISO's forecasts -------------------------------------------------------------------------------


def test_operator_forecast_is_of_the_files_own_day(services: Services) -> None:
    rows = live.operator_forecasts([DAY], as_of=NOW)
    assert sorted(rows["hour"].unique()) == sorted(hours_of(DAY))
    assert len(rows) == 24 * 11


def test_operator_forecast_of_an_hour_that_occurs_twice_is_first_summer_then_winter(services: Services) -> None:
    day = date(2026, 11, 1)
    rows = live.load_forecast(isolf(day), day=day, what="a file")
    nyc = rows[rows["zone"] == "J_NYC"].sort_values("hour")
    assert nyc["hour"].tolist() == hours_of(day)
    assert nyc["forecast_mw"].tolist() == [round(load_mw(schema.ZONES["J_NYC"], hour)) for hour in hours_of(day)]


def test_recorded_operator_forecast_is_understood() -> None:
    rows = live.load_forecast(sample("nyiso/20190701isolf.csv").decode(), day=date(2019, 7, 1), what="the recording")
    assert len(rows) == 24 * 11
    first = rows[rows["hour"] == pd.Timestamp("2019-07-01 04:00", tz="UTC")].set_index("zone")["forecast_mw"]
    assert (first["J_NYC"], first["F_CAPITL"]) == (5996, 1172)


def test_operator_forecast_with_another_zone_or_an_old_day_is_refused() -> None:
    with pytest.raises(UnexpectedAnswer, match="has the columns"):
        live.load_forecast(isolf(DAY).replace("Longil", "Long Island"), day=DAY, what="a file")
    with pytest.raises(UnexpectedAnswer, match="an old answer"):
        live.load_forecast(isolf(DAY), day=DAY + timedelta(days=1), what="a file")


def test_operator_forecast_not_written_yet_or_no_longer_kept_is_none(services: Services) -> None:
    services.nyiso.troubles.extend([Reply(404), Reply(404)])
    assert live.operator_forecasts([date(2026, 7, 11), date(2020, 1, 1)], as_of=NOW).empty
    services.nyiso.troubles.append(Reply(404))
    with pytest.raises(RequestRefused):
        live.operator_forecasts([DAY], as_of=NOW)


# --- NYISO's day-ahead prices ------------------------------------------------------------------------


def prices_of(day: date, *, as_of: datetime = NOW) -> pd.DataFrame:
    hours = hours_of(day)
    return live.prices(Window(hours[0], hours[-1] + timedelta(hours=1)), as_of=as_of)


def test_day_of_prices_has_each_zone_and_hour_and_no_border(services: Services) -> None:
    rows = prices_of(DAY)
    assert len(rows) == 24 * 11
    assert set(rows["zone"]) == set(schema.ZONES)
    nyc = rows[(rows["zone"] == "J_NYC") & (rows["hour"] == FIRST)]["price_usd_per_mwh"]
    assert nyc.tolist() == [price_usd(schema.ZONES["J_NYC"], FIRST)]
    assert (rows["price_usd_per_mwh"] < 0).any()  # below zero is real
    assert services.nyiso.asked == [("/damlbmp/20260709damlbmp_zone.csv", {})]


@pytest.mark.parametrize(("day", "hours"), [(date(2026, 3, 8), 23), (date(2025, 11, 2), 25)])
def test_prices_of_days_on_which_the_clock_changes_have_all_their_hours_once(
    services: Services, day: date, hours: int
) -> None:
    """F21: of the hour that occurs twice the first row is daylight saving time."""
    rows = prices_of(day, as_of=datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=3))
    nyc = rows[rows["zone"] == "J_NYC"].sort_values("hour")
    assert nyc["hour"].tolist() == hours_of(day)
    assert len(nyc) == hours
    assert nyc["price_usd_per_mwh"].tolist() == [price_usd(schema.ZONES["J_NYC"], hour) for hour in hours_of(day)]


def test_old_prices_come_from_the_zip_of_their_month_and_header_variants_are_known(services: Services) -> None:
    window = Window(datetime(2026, 3, 1, 5, tzinfo=UTC), datetime(2026, 3, 31, tzinfo=UTC))
    assert len(live.prices(window, as_of=NOW)) == 11 * ((window.end - window.start) // timedelta(hours=1))
    assert services.nyiso.asked == [("/damlbmp/20260301damlbmp_zone_csv.zip", {})]
    cut = damlbmp(DAY).replace("Congestion ($/MWHr)", "Congestion ($/MWH")
    assert len(live.day_ahead_prices(cut, day=DAY, what="a file")) == 24 * 11


def test_prices_of_tomorrow_are_not_there_before_they_are_published(services: Services) -> None:
    services.nyiso.troubles.append(Reply(404))
    assert prices_of(NOW.date() + timedelta(days=1)).empty
    services.nyiso.troubles.append(Reply(404))
    with pytest.raises(RequestRefused, match="HTTP 404"):
        prices_of(DAY)
    at = datetime(2026, 7, 10, 14, 59, tzinfo=UTC)  # 10:59 EDT
    known = source.read_prices(NOW - timedelta(days=2), NOW + timedelta(days=1), as_of=at)
    assert known["known_at"].max() == pd.Timestamp("2026-07-09 15:00", tz="UTC")
    assert known["hour"].max() == pd.Timestamp("2026-07-11 03:00", tz="UTC")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("LBMP ($/MWHr)", "LBMP (cent/kWh)", r"has the columns .*'LBMP \(cent/kWh\)'.*expected"),
        ("N.Y.C.", "NYC", r"unknown zones \['NYC'\]"),
        ("61761", "61799", r"N.Y.C. has PTID 61799"),
        ("07/09/2026", "07/08/2026", r"holds rows of 2026-07-08, expected 2026-07-09: an old answer"),
        (",61761,", ",61761,n/a ", r"is no number"),
    ],
    ids=["unit and column", "zone", "key", "yesterday's answer", "no number"],
)
def test_price_file_that_is_not_as_known_is_refused(services: Services, old: str, new: str, message: str) -> None:
    services.nyiso.troubles.append(Reply.of_text(damlbmp(DAY).replace(old, new)))
    with pytest.raises(UnexpectedAnswer, match=f"{message}.*nothing was written"):
        prices_of(DAY)


def test_half_a_price_file_and_repeated_or_contradicting_rows(services: Services) -> None:
    services.nyiso.troubles.append(Reply.of_text(damlbmp(DAY)[:5000]))
    with pytest.raises(UnexpectedAnswer, match=r"half an answer|is no"):
        prices_of(DAY)
    twice = damlbmp(DAY).splitlines()[-1].replace(",1.0,-2.0", ",1.5,-2.0")
    services.nyiso.troubles.append(Reply.of_text(damlbmp(DAY) + twice + "\n"))
    with pytest.raises(UnexpectedAnswer, match="more than once"):
        prices_of(DAY)
    header, *lines = damlbmp(DAY).splitlines()
    services.nyiso.troubles.append(Reply.of_text("\n".join([header, *reversed(lines), *lines[:50]]) + "\n"))
    by = ["hour", "zone"]
    pd.testing.assert_frame_equal(
        prices_of(DAY).sort_values(by, ignore_index=True), prices_of(DAY).sort_values(by, ignore_index=True)
    )
    services.nyiso.troubles.append(Reply.of_text(header + "\n"))
    assert prices_of(DAY).empty


# --- Open-Meteo --------------------------------------------------------------------------------------


def test_weather_is_the_forecast_of_two_days_before_for_each_zone(services: Services) -> None:
    rows = live.weather_forecasts(Window(FIRST, LAST))
    assert set(rows["zone"]) == set(schema.ZONES)
    assert len(rows) == 23 * 11
    (asked,) = services.weather.asked
    assert asked[1]["hourly"] == "temperature_2m_previous_day2"
    assert (asked[1]["start_date"], asked[1]["end_date"], asked[1]["timezone"]) == ("2026-07-09", "2026-07-10", "UTC")


def test_newest_hours_without_a_forecast_are_null(services: Services) -> None:
    rows = live.weather_forecasts(Window.of("2026-07-09", "2026-07-10"))
    assert rows["temperature_c"].isna().sum() == 11


def test_long_window_is_asked_in_pieces(services: Services) -> None:
    rows = live.weather_forecasts(Window.of("2026-01-01", "2026-05-01"))
    assert [query["start_date"] for _, query in services.weather.asked] == ["2026-01-01", "2026-04-01"]
    assert not rows.duplicated(["zone", "hour"]).any()
    assert len(rows) == 120 * 24 * 11


def broken(**changes: object) -> Reply:
    query = {
        "start_date": "2026-07-09",
        "end_date": "2026-07-09",
        "hourly": live.FORECAST,
        "latitude": ",".join("1" * 11),
    }
    return Reply(body=as_json([place | changes for place in weather_answer(query)]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hourly_units": {live.FORECAST: "°F"}}, "of A_WEST is in °F at UTC offset 0 s, expected °C"),
        ({"utc_offset_seconds": -14400}, "at UTC offset -14400 s"),
        ({"hourly": {"time": ["2026-07-09T00:00"]}}, f"A_WEST lacks '{live.FORECAST}'"),
        ({"hourly": {"time": ["2026-07-09T00:00"], live.FORECAST: []}}, "1 times and 0 values"),
    ],
    ids=["unit", "local times", "column", "half"],
)
def test_weather_that_is_not_as_known_is_refused(services: Services, changes: dict[str, object], message: str) -> None:
    services.weather.troubles.append(broken(**changes))
    with pytest.raises(UnexpectedAnswer, match=message):
        live.weather_forecasts(Window.of("2026-07-09", "2026-07-10"))


def test_error_that_comes_with_http_200_and_an_empty_list_are_refused(services: Services) -> None:
    services.weather.troubles.append(Reply.of_json({"error": True, "reason": "Minutely API request limit exceeded"}))
    with pytest.raises(UnexpectedAnswer, match="says: Minutely API request limit exceeded"):
        live.weather_forecasts(Window.of("2026-07-09", "2026-07-10"))
    services.weather.troubles.append(Reply.of_json([]))
    with pytest.raises(UnexpectedAnswer, match="has 0 places, expected a list of 11"):
        live.weather_forecasts(Window.of("2026-07-09", "2026-07-10"))


def test_recorded_forecast_in_fahrenheit_would_be_refused(services: Services) -> None:
    recorded = sample("open_meteo/forecast_hourly_nyc_2023-10-05.json")
    services.weather.troubles.append(Reply(body=b"[" + b",".join([recorded] * 11) + b"]"))
    with pytest.raises(UnexpectedAnswer, match="A_WEST lacks"):
        live.weather_forecasts(Window.of("2023-10-05", "2023-10-06"))


# --- EIA ---------------------------------------------------------------------------------------------


def test_eia_is_read_page_by_page_and_its_hours_end_where_ours_begin(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """F20: the key is in the request and nowhere else."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TRIPTYCH_ELECTRICITY_DEMAND_FROM", "eia")
    monkeypatch.setenv("TRIPTYCH_ELECTRICITY_EIA_API_KEY", "canary-eia-key")
    monkeypatch.setattr(live, "EIA_PAGE", 100)
    rows = demand_of(DAY)
    assert len(rows) == 24 * 11 - 1  # one value is null
    nyc = rows[(rows["zone"] == "J_NYC") & (rows["hour"] == FIRST)]["demand_mw"]
    assert nyc.tolist() == [load_mw(schema.ZONES["J_NYC"], FIRST)]
    assert [query["offset"] for _, query in services.eia.asked] == ["0", "100", "200"]
    assert {query["api_key"] for _, query in services.eia.asked} == {"canary-eia-key"}
    kept = b"".join(path.read_bytes() for path in services.home.rglob("*") if path.is_file())
    assert b"canary-eia-key" not in kept
    assert "canary-eia-key" not in caplog.text


def test_eia_without_a_key_or_in_another_unit_says_so(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_ELECTRICITY_DEMAND_FROM", "eia")
    with pytest.raises(InvalidData, match="TRIPTYCH_ELECTRICITY_EIA_API_KEY"):
        demand_of(DAY)
    monkeypatch.setenv("TRIPTYCH_ELECTRICITY_EIA_API_KEY", "canary-eia-key")
    row = {"period": "2026-07-09T05", "subba": "ZONA", "value": "1", "value-units": "kilowatthours"}
    services.eia.troubles.append(Reply.of_json({"response": {"total": 1, "data": [row]}}))
    with pytest.raises(UnexpectedAnswer, match=r"values are in \['kilowatthours'\], expected megawatthours"):
        demand_of(DAY)
    services.eia.troubles.append(Reply.of_json({"error": "API_KEY_INVALID"}))
    with pytest.raises(UnexpectedAnswer, match="has no response with data and total"):
        demand_of(DAY)


# --- the source --------------------------------------------------------------------------------------


def test_source_reads_live_by_when_things_became_known(services: Services) -> None:
    rows = source.read_demand(NOW - timedelta(hours=3), NOW, as_of=NOW)
    assert rows["known_at"].between(pd.Timestamp(NOW - timedelta(hours=3)), pd.Timestamp(NOW), inclusive="left").all()
    assert set(rows["source"]) == {"live"}
    weather = source.read_weather(NOW - timedelta(hours=3), NOW)
    assert (weather["issued_at"] < NOW).all()
    assert (weather["hour"] > NOW).all()
