"""Open-Meteo in general: one place or several, several variables, units. What systems ask for is in their own tests."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from featurestore.times import Window
from flows import open_meteo
from flows.http import Bronze, Client, HttpSettings, UnexpectedAnswer
from flows.open_meteo import Place
from tests.flows.stub_server import Reply, sample, serving

UNITS = {"temperature_2m": "°C", "wind_speed_10m": "m/s"}
DAY = Window.of("2026-01-05", "2026-01-05T02:00")


def answer(*, hours: int = 3, wind: str = "m/s") -> dict[str, object]:
    return {
        "utc_offset_seconds": 0,
        "hourly_units": {"time": "iso8601", "temperature_2m": "°C", "wind_speed_10m": wind},
        "hourly": {
            "time": [f"2026-01-05T{hour:02}:00" for hour in range(hours)],
            "temperature_2m": [1.5] * (hours - 1) + [None],
            "wind_speed_10m": [3] * hours,
        },
    }


def asked(folder: Path, reply: Reply, places: dict[str, Place], units: dict[str, str] = UNITS) -> pd.DataFrame:
    with (
        serving({"/archive": reply}) as server,
        Client("open-meteo", base_url=server.url, bronze=Bronze(folder), settings=HttpSettings(attempts=1)) as weather,
    ):
        rows = open_meteo.hourly(weather, "archive", places, units, DAY, options={"wind_speed_unit": "ms"})
        assert server.asked[0][1]["wind_speed_unit"] == "ms"
    return rows


def test_one_place_is_answered_without_a_list_and_several_with_one(tmp_path: Path) -> None:
    one = asked(tmp_path, Reply.of_json(answer()), {"Kraków": Place(50.06, 19.94)})
    assert one["place"].tolist() == ["Kraków"] * 2  # the third hour was not asked for
    assert one["temperature_2m"].tolist() == [1.5, 1.5]
    both = asked(tmp_path, Reply.of_json([answer(hours=2)] * 2), {"Kraków": Place(50, 20), "Łódź": Place(52, 19)})
    assert both.groupby("place").size().to_dict() == {"Kraków": 2, "Łódź": 2}
    assert both["temperature_2m"].isna().sum() == 2


def test_any_variable_in_another_unit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnexpectedAnswer, match=r"wind_speed_10m of Kraków is in km/h at UTC offset 0 s, expected m/s"):
        asked(tmp_path, Reply.of_json(answer(wind="km/h")), {"Kraków": Place(50, 20)})


def test_recorded_answer_in_local_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnexpectedAnswer, match="at UTC offset 7200 s"):
        asked(
            tmp_path,
            Reply(body=sample("open_meteo/archive_hourly_daily.json")),
            {"Enschede": Place(52.27, 6.82)},
            UNITS,
        )
