"""The live connectors against stubs over real HTTP, and against recorded answers: pages, 429, DST, manual sensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from featurestore.errors import InvalidData, NotFound, SchemaMismatch
from featurestore.times import Window
from flows import windows
from flows.air_quality import features, live, schema, source
from flows.http import RequestRefused, ServiceUnavailable, TooManyRequests, UnexpectedAnswer
from tests.flows.air_quality.conftest import ARCHIVE, CODES, MANUAL, VALUES, Services, paged, readings, ug_m3
from tests.flows.stub_server import Reply, sample

NOW = datetime(2026, 7, 10, 15, 20, tzinfo=UTC)
DAY = Window(NOW - timedelta(hours=24), NOW)
TWO = CODES[:2]
HOURS = 22  # from 16:00 to 13:00: the hour that ends at 15:00 is null yet


def measured(window: Window = DAY, stations: list[str] = TWO, as_of: datetime = NOW) -> pd.DataFrame:
    rows = live.measurements(window, as_of=as_of, stations=stations)
    return rows.sort_values(["hour", "station"], ignore_index=True)


def change_readings(services: Services, change: Callable[[Any], object]) -> None:
    """Let the stub answer changed readings for every sensor."""
    answer = services.gios.answer

    def changed(path: str, query: Mapping[str, str]) -> Reply | None:
        reply = answer(path, query)
        if "getData" not in path or reply is None or reply.status != 200:
            return reply
        body = json.loads(reply.body)
        key = VALUES if VALUES in body else ARCHIVE
        return Reply.of_json(body | {key: change(body[key])})

    services.server.fallback = changed


# --- GIOŚ --------------------------------------------------------------------------------------------


def test_stamps_are_the_end_of_an_hour_in_warsaw_and_nulls_are_missing(services: Services) -> None:
    rows = measured()
    assert set(rows.groupby("station")["hour"].max()) == {pd.Timestamp("2026-07-10 13:00", tz="UTC")}
    first = rows.iloc[0]
    assert first["pm25_ug_m3"] == ug_m3(first["station"], first["hour"].to_pydatetime())
    assert len(rows) == 2 * HOURS


def test_lists_are_read_page_by_page_until_the_number_of_pages(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link to a next page is there on the last page too."""
    monkeypatch.setattr(live, "PAGE", 7)
    in_pages = measured()
    asked = [query["page"] for path, query in services.server.asked if path == "/station/findAll"]
    assert asked == ["0", "1", "2"]
    monkeypatch.setattr(live, "PAGE", 500)
    pd.testing.assert_frame_equal(in_pages, measured())


def test_manual_sensor_beside_the_automatic_one_gives_no_hours(services: Services) -> None:
    """Its live data are an error, with HTTP 400 or 200; its archive has means of days."""
    assert 99.0 not in set(measured()["pm25_ug_m3"])
    answer = services.gios.answer

    def with_200(path: str, query: Mapping[str, str]) -> Reply | None:
        reply = answer(path, query)
        return Reply.of_json(MANUAL) if reply is not None and reply.status == 400 else reply

    services.server.fallback = with_200
    assert len(measured()) == 2 * HOURS


def test_recorded_answers_are_understood(services: Services) -> None:
    """The recorded station has two sensors of PM2.5, one of them manual. The recorded values are of PM10."""
    recorded, as_of = sample("gios_v1/data_getData_3764.json"), datetime(2025, 7, 4, 13, 40, tzinfo=UTC)
    empty = Reply.of_json({ARCHIVE: [], "totalPages": 1})
    services.server.routes |= {
        "/station/findAll": Reply(body=sample("gios_v1/station_findAll.json")),
        "/station/sensors/552": Reply(body=sample("gios_v1/station_sensors_552.json")),
        "/data/getData/3765": Reply(body=sample("gios_v1/data_getData_3765_error.json")),
        "/data/getData/14688": Reply(body=recorded.replace(b"-PM10-1g", b"-PM2.5-1g")),
        "/archivalData/getDataBySensor/3765": empty,
        "/archivalData/getDataBySensor/14688": empty,
    }
    window = Window(as_of - timedelta(hours=30), as_of)
    rows = measured(window, ["MzWarKondrat"], as_of)
    assert rows.set_index("hour")["pm25_ug_m3"][pd.Timestamp("2025-07-04 12:00", tz="UTC")] == 7.6  # ends at 15:00
    assert len(rows) == 20
    services.server.routes["/data/getData/14688"] = Reply(body=recorded)
    with pytest.raises(UnexpectedAnswer, match=r"is of MzWarKondrat-PM10-1g, expected a sensor of PM2.5"):
        measured(window, ["MzWarKondrat"], as_of)


def test_station_that_has_closed_is_silent_and_the_others_are_read(services: Services) -> None:
    services.gios.closed = {TWO[0]}
    assert set(measured()["station"]) == {TWO[1]}


def test_old_hours_come_from_the_archive_a_year_at_a_time_and_each_once(services: Services) -> None:
    window = Window(NOW.replace(minute=0) - timedelta(days=400), NOW)
    rows = measured(window, [CODES[0]])
    asked = [query for path, query in services.server.asked if "archivalData" in path and query["page"] == "0"]
    assert [query["dateFrom"][:10] for query in asked] == ["2025-06-05", "2026-06-05"]
    assert not rows.duplicated(["station", "hour"]).any()
    night = pd.Timestamp("2025-10-26 00:00", tz="UTC")  # 02:00 to 02:00 on the clock
    assert {night - pd.Timedelta(hours=1), night, night + pd.Timedelta(hours=1)} <= set(rows["hour"])
    assert len(rows) == 400 * 24 - 1  # the newest hour is null


@pytest.mark.parametrize(
    ("stamps", "begin"),
    [
        # Summer time ends on 25 October 2026 at 03:00: two hours end at 02:00.
        (["03:00", "02:00", "02:00", "01:00"], ["01:00", "00:00", "23:00", "22:00"]),
        (["03:00", "02:00", "01:00"], ["01:00", "22:00"]),  # which of the two it is, nobody can say
    ],
    ids=["both", "one of two"],
)
def test_hour_that_occurs_twice_is_two_rows_or_left_out(stamps: list[str], begin: list[str]) -> None:
    pairs = [(datetime.fromisoformat(f"2026-10-25T{stamp}"), float(n)) for n, stamp in enumerate(stamps)]
    rows = live.hourly(pairs, station=CODES[0], what="an answer")
    assert [f"{hour:%H:%M}" for hour in rows["hour"]] == begin


def test_hour_that_the_clock_skips_and_two_values_for_one_hour_are_refused() -> None:
    skipped = [(datetime(2026, 3, 29, 2, 0), 5.0)]
    with pytest.raises(UnexpectedAnswer, match="2026-03-29 02:00:00 is skipped by the clock of Europe/Warsaw"):
        live.hourly(skipped, station=CODES[0], what="an answer")
    twice = [(datetime(2026, 3, 30, 5, 0), 5.0), (datetime(2026, 3, 30, 5, 0), 6.0)]
    with pytest.raises(UnexpectedAnswer, match="two different values for the hour from 2026-03-30 02:00"):
        live.hourly(twice, station=CODES[0], what="an answer")
    assert len(live.hourly(twice[:1] * 2, station=CODES[0], what="an answer")) == 1


def test_rows_out_of_order_and_repeated_give_the_same_hours(services: Services) -> None:
    first = measured()
    change_readings(services, lambda rows: [*reversed(rows), *rows[:5]])
    pd.testing.assert_frame_equal(measured(), first)


def without_accent(row: dict[str, Any]) -> dict[str, Any]:
    return {"Wartosc" if key == "Wartość" else key: value for key, value in row.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [{**row, "Kod stanowiska": "MpKrak-PM10-1g"} for row in rows], "expected a sensor of PM2.5"),
        (lambda rows: [without_accent(row) for row in rows], r"a row has .*'Wartosc'\], expected 'Wartość'"),
        (lambda rows: [{**row, "Wartość": "brak"} for row in rows], "is no hour with a value"),
        (lambda rows: [{**row, "Data": "10.07.2026 15:00"} for row in rows if row["Wartość"]], "is no hour with a"),
        (lambda rows: {"rows": rows}, "expected a list called"),
    ],
    ids=["pollutant", "key", "no number", "format", "shape"],
)
def test_answer_that_is_not_as_known_is_refused_and_says_what_is_strange(
    services: Services, change: Callable[[Any], object], message: str
) -> None:
    change_readings(services, change)
    with pytest.raises(UnexpectedAnswer, match=f"{message}.*nothing was written"):
        measured()


def test_changed_polish_key_of_a_list_and_another_unit_are_refused(services: Services) -> None:
    services.server.troubles.append(Reply.of_json({"Lista stacji": [], "totalPages": 1}))
    with pytest.raises(UnexpectedAnswer, match=r"has \['Lista stacji', 'totalPages'\], expected .*'Lista stacji pom"):
        measured()
    services.server.routes["/data/getData/2000"] = paged(VALUES, readings(CODES[0], NOW, NOW), {}, unit="mg/m3")
    with pytest.raises(UnexpectedAnswer, match="expected μg/m3"):
        measured(stations=[CODES[0]])


def test_answers_of_yesterday_are_refused_but_one_silent_station_is_not(services: Services) -> None:
    """Caches have served old answers; a single station may well be silent for days."""
    services.gios.now = NOW - timedelta(days=1)
    with pytest.raises(UnexpectedAnswer, match=r"ends at 2026-07-09 16:00:00.*an old answer"):
        measured()
    services.gios.now = NOW
    services.server.routes["/data/getData/2000"] = paged(VALUES, [], {})
    assert len(measured())


def test_empty_lists_are_stations_without_values_and_no_station_at_all_is_refused(services: Services) -> None:
    change_readings(services, lambda rows: rows[:0])
    assert measured().empty
    services.server.troubles.append(paged("Lista stacji pomiarowych", [], {}))
    with pytest.raises(UnexpectedAnswer, match="lists no station at all"):
        measured()


def test_error_body_with_http_200_and_half_an_answer_are_refused(services: Services) -> None:
    services.server.troubles.append(Reply.of_json({"error_code": "API-ERR-100001", "error_reason": "Brak danych"}))
    with pytest.raises(UnexpectedAnswer, match="says: API-ERR-100001, Brak danych"):
        measured()
    services.server.troubles.append(Reply(body=b'{"Lista stacji pomiarowych": [{"Identyf'))
    with pytest.raises(UnexpectedAnswer, match="is not JSON"):
        measured()
    services.server.troubles.append(Reply(404))
    with pytest.raises(RequestRefused, match="HTTP 404"):
        measured()


@pytest.mark.parametrize(
    ("replies", "error"),
    [
        ([Reply(503), Reply(503)], ServiceUnavailable),
        ([Reply(429, headers={"Retry-After": "3600"})], TooManyRequests),
        ([Reply(200, b"slow", delay_seconds=1)] * 2, ServiceUnavailable),
    ],
    ids=["down", "429 for an hour", "slow"],
)
def test_service_in_trouble_fails_the_run_and_the_next_one_covers_the_window(
    services: Services, monkeypatch: pytest.MonkeyPatch, replies: list[Reply], error: type[Exception]
) -> None:
    monkeypatch.setenv("TRIPTYCH_HTTP_TIMEOUT_SECONDS", "0.2")
    services.server.troubles.extend(replies)
    with pytest.raises(error, match=r"covers this window too|Run again later"):
        measured()
    monkeypatch.setenv("TRIPTYCH_HTTP_TIMEOUT_SECONDS", "2")
    assert len(measured()) == 2 * HOURS


def test_short_429_is_waited_for(services: Services) -> None:
    services.server.troubles.append(Reply(429, headers={"Retry-After": "0"}))
    assert len(measured()) == 2 * HOURS


def test_window_is_read_again_from_what_was_kept_with_the_network_off(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F19: raw payloads are kept, the manual sensor's refusal among them."""
    first = measured()
    asked = len(services.server.asked)
    monkeypatch.setenv("TRIPTYCH_HTTP_REPLAY", "true")
    pd.testing.assert_frame_equal(measured(), first)
    assert len(services.server.asked) == asked
    with pytest.raises(NotFound, match="No answer of gios"):
        measured(Window(DAY.start - timedelta(days=5), DAY.end))


def test_correction_replaces_what_was_read_before(services: Services) -> None:
    first = measured()
    change_readings(services, lambda rows: [{**row, "Wartość": 55.5} if n == 3 else row for n, row in enumerate(rows)])
    assert 55.5 in set(measured()["pm25_ug_m3"]) - set(first["pm25_ug_m3"])


# --- Open-Meteo --------------------------------------------------------------------------------------


def test_forecast_for_each_day_was_made_before_its_issue_and_the_seventh_has_none(services: Services) -> None:
    """For the last hour of a day h days ahead the run of h + 1 days before is older than 07:00 of the issue."""
    start = datetime(2026, 7, 10, tzinfo=UTC)
    rows = source.read_weather_forecasts(start, start + timedelta(days=1), source="live")
    assert rows.groupby("horizon_days")["temperature_c"].first().to_dict() == {h: 12.5 + h + 1 for h in range(1, 7)}
    assert set(rows["issued_at"]) == {pd.Timestamp("2026-07-10 05:00", tz="UTC")}
    (asked,) = services.weather.asked
    assert "temperature_2m_previous_day8" not in asked[1]["hourly"]
    assert asked[1]["wind_speed_unit"] == "ms"


def test_observed_weather_is_known_two_days_after_its_day(services: Services) -> None:
    rows = source.read_observed_weather(NOW - timedelta(days=2), NOW, source="live")
    assert set(rows["temperature_c"]) == {12.5}
    assert set(rows["precipitation_mm"]) == {2.4}
    assert (rows["known_at"] - rows["day"] == pd.Timedelta(days=3)).all()


# --- AQICN -------------------------------------------------------------------------------------------

FEED: dict[str, Any] = {
    "status": "ok",
    "data": {"iaqi": {"pm25": {"v": 57}}, "time": {"iso": "2026-07-10T17:00:00+02:00"}},
}


@pytest.fixture
def aqicn(services: Services, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Lets AQICN answer this."""
    monkeypatch.setenv("TRIPTYCH_AIR_QUALITY_AQICN_TOKEN", "canary-aqicn-token")

    def says(body: object) -> None:
        places = [schema.STATIONS[code] for code in TWO]
        services.aqicn.routes |= {f"/feed/geo:{p.latitude};{p.longitude}/": Reply.of_json(body) for p in places}

    return says


def test_index_of_aqicn_is_another_quantity_and_never_enters_a_group_of_concentrations(
    services: Services, aqicn: Callable[[object], None]
) -> None:
    """F15, F20: an index has no place among concentrations, whatever number it is; and the token is kept nowhere."""
    aqicn(FEED)
    rows = live.air_quality_index(TWO)
    assert rows.columns.tolist() == ["station", "measured_at", "pm25_aqi"]
    assert rows["pm25_aqi"].tolist() == [57.0, 57.0]
    assert {query["token"] for _, query in services.aqicn.asked} == {"canary-aqicn-token"}
    kept = b"".join(path.read_bytes() for path in services.home.rglob("*") if path.is_file())
    assert b"canary-aqicn-token" not in kept
    with pytest.raises(SchemaMismatch, match=r"needs the columns \['hour', 'pm25_ug_m3'\]"):
        features.daily_means(rows)
    every = {feature.name: feature.unit for group in (schema.PM25, schema.OUTLOOK, schema.WEATHER) for feature in group}
    assert not [name for name in every if "aqi" in name]
    assert {unit for name, unit in every.items() if name.startswith("pm25")} == {"µg/m³"}


@pytest.mark.parametrize("said", ["Unknown station", "Invalid key", "Over quota"])
def test_errors_of_aqicn_come_with_http_200_and_are_errors(aqicn: Callable[[object], None], said: str) -> None:
    aqicn({"status": "error", "data": said})
    with pytest.raises(UnexpectedAnswer, match=f"says: {said}"):
        live.air_quality_index(TWO)


def test_recorded_feed_is_read_and_a_dash_is_null(aqicn: Callable[[object], None]) -> None:
    aqicn({"status": "ok", "data": {**FEED["data"], "iaqi": {"pm25": {"v": "-"}}}})
    assert live.air_quality_index(TWO)["pm25_aqi"].isna().all()
    aqicn(json.loads(sample("aqicn/feed.json")))
    rows = live.air_quality_index(TWO)
    assert rows["pm25_aqi"].tolist() == [17.0, 17.0]
    assert set(rows["measured_at"]) == {pd.Timestamp("2023-08-07 15:00", tz="UTC")}


def test_aqicn_without_a_token_says_where_to_get_one(services: Services) -> None:
    with pytest.raises(InvalidData, match="TRIPTYCH_AIR_QUALITY_AQICN_TOKEN"):
        live.air_quality_index()


# --- the source --------------------------------------------------------------------------------------


def test_source_reads_live_by_when_things_became_known(services: Services) -> None:
    with windows.frozen(NOW):
        rows = source.read_measurements(NOW - timedelta(hours=6), NOW)
    assert rows["known_at"].between(pd.Timestamp(NOW - timedelta(hours=6)), pd.Timestamp(NOW), inclusive="left").all()
    assert set(rows["source"]) == {"live"}
    assert set(rows["station"]) == set(CODES)
