"""The contract of the air quality feature groups: stations, columns, units, and the rules a batch must pass."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from math import atan2, cos, degrees, hypot, radians
from typing import NamedTuple

from featurestore.schema import Feature
from flows.rules import Suite, between, columns, in_set, later, never_null

TIME_ZONE = "Europe/Warsaw"
"""Days and hours of the day are Poland's; all times are stored in UTC, and a day is named by its local midnight."""

ISSUE_HOUR = 7
"""A forecast is issued at 07:00 Warsaw, for the seven days after the running one."""

HORIZONS = range(1, 8)
"""Days ahead: 1 is tomorrow."""

KNOWN_AFTER = timedelta(hours=2)
"""An hour is known this long after it began: when it is over, and its value has had an hour to be published."""

DAY_KNOWN_AFTER = timedelta(hours=1)
"""A day's mean is known this long after the day is over."""

OBSERVED_AFTER = timedelta(days=2)
"""The weather of a day counts as observed this long after the day is over: archives are filled days later."""

LOOKBACK = timedelta(days=3)
"""The service completes its last days: every run reads and writes them again."""

HOURS_OF_A_DAY = 18
"""A day with fewer measured hours has no mean."""


class Station(NamedTuple):
    """A measuring station of the Chief Inspectorate of Environmental Protection (GIOŚ), by its national code."""

    city: str
    latitude: float
    longitude: float


STATIONS: Mapping[str, Station] = {
    "DsWrocAlWisn": Station("Wrocław", 51.086225, 17.012689),
    "KpBydPlPozna": Station("Bydgoszcz", 53.121764, 17.987906),
    "LdLodzCzerni": Station("Łódź", 51.758050, 19.529786),
    "LdZgieMielcz": Station("Zgierz", 51.856692, 19.421231),
    "LuZielKrotka": Station("Zielona Góra", 51.939783, 15.518861),
    "MpKrakAlKras": Station("Kraków", 50.057678, 19.926189),
    "MzPlocMiReja": Station("Płock", 52.550938, 19.709791),
    "MzRadTochter": Station("Radom", 51.399084, 21.147474),
    "MzSiedKonars": Station("Siedlce", 52.172145, 22.282001),
    "MzWarAlNiepo": Station("Warszawa", 52.219298, 21.004724),
    "MzZyraRoosev": Station("Żyrardów", 52.053811, 20.429892),
    "OpKKozBSmial": Station("Kędzierzyn-Koźle", 50.349608, 18.236575),
    "PdBialWaszyn": Station("Białystok", 53.126689, 23.155869),
    "PkPrzemGrunw": Station("Przemyśl", 49.784339, 22.756239),
    "PmGdaLeczkow": Station("Gdańsk", 54.380279, 18.620274),
    "SlKatoKossut": Station("Katowice", 50.264611, 18.975028),
    "WmOlsPuszkin": Station("Olsztyn", 53.789233, 20.486075),
    "WpKaliSawick": Station("Kalisz", 51.747950, 18.049063),
    "ZpSzczPilsud": Station("Szczecin", 53.432169, 14.553900),
}
"""Chosen by a rule, not by result: urban stations with hourly PM2.5 in each of 2014, 2015, 2016, 2018 and 2019 and at
least 80 % of the hours of these five years; of several in one city the one with the most hours."""


class Neighbour(NamedTuple):
    """A station near another one: how far, and in which direction it lies (0 is north, 90 is east)."""

    station: str
    distance_km: float
    bearing_deg: float


def neighbours(station: str, *, nearest: int = 4) -> list[Neighbour]:
    """The nearest stations, nearest first.

    >>> [(each.station, round(each.distance_km), round(each.bearing_deg)) for each in neighbours("LdLodzCzerni")][:2]
    [('LdZgieMielcz', 13, 326), ('MzZyraRoosev', 70, 62)]
    """
    here = STATIONS[station]
    found = []
    for code, there in STATIONS.items():
        if code != station:
            # Flat enough within one country: degrees to kilometres at the latitude between the two.
            north = 111.2 * (there.latitude - here.latitude)
            east = 111.2 * (there.longitude - here.longitude) * cos(radians((there.latitude + here.latitude) / 2))
            found.append(Neighbour(code, hypot(north, east), degrees(atan2(east, north)) % 360))
    return sorted(found, key=lambda each: each.distance_km)[:nearest]


VERSION = 1
"""Of every group and of the view: a column that changes its meaning gets a new version beside the old one."""

PM25_GROUP = "air_quality_pm25"
OUTLOOK_GROUP = "air_quality_outlook"
WEATHER_GROUP = "air_quality_weather"
PREDICTIONS_GROUP = "air_quality_predictions"

VIEW = "air_quality_outlook"
MODEL = "air_quality_pm25"
"""The registered model's name. All else about a model is in its lineage, never in a constant."""

LAG_DAYS = range(1, 8)
"""Lags by calendar: 1 is yesterday, the newest whole day at the issue."""

UNIT = "µg/m³"
"""Of every concentration. An air quality index is another quantity and has no column in these groups."""

PM25 = (
    Feature("station", "string", "National code of the station."),
    Feature("day", "timestamp", "Local midnight at which the day begins."),
    Feature("issued_at", "timestamp", "The first issue that forecasts this day: seven days before it."),
    Feature("pm25_ug_m3", "double", "Mean PM2.5 of the day, of at least 18 measured hours.", unit=UNIT),
    Feature("hours", "int", "Measured hours.", unit="h"),
    Feature("known_at", "timestamp", "An hour after the day is over: when its mean became known."),
)
"""One row per station and day that has a mean."""

RECENT = (
    Feature("station", "string", "National code of the station."),
    Feature("issued_at", "timestamp", "07:00 Warsaw."),
    Feature("pm25_mean_24h", "double", "Mean of the 24 newest known hours: 06:00 to 06:00.", unit=UNIT),
    Feature("pm25_mean_6h", "double", "Mean of the 6 newest: the night.", unit=UNIT),
)
"""One row per station and issue; stored as part of the outlook."""

KEY = (
    Feature("station", "string", "National code of the station."),
    Feature("day", "timestamp", "Local midnight at which the forecast day begins."),
    Feature("horizon_days", "int", "1 is the day after the issue, 7 the last one.", unit="d"),
    Feature("issued_at", "timestamp", "When the forecast is made: 07:00 Warsaw."),
)

OUTLOOK = (
    *KEY,
    Feature("days_ahead", "int", "The horizon once more: a view learns from this one, and the key stays a key.",
            unit="d"),
    Feature("latitude", "double", "Of the station.", unit="°"),
    Feature("longitude", "double", "Of the station.", unit="°"),
    Feature("day_of_year", "int", "Of the forecast day, Warsaw.", unit="d"),
    Feature("weekday", "int", "Of the forecast day; Monday is 0."),
    Feature("is_weekend", "boolean", "Saturday or Sunday."),
    Feature("is_holiday", "boolean", "A public holiday of Poland."),
    Feature("is_heating_season", "boolean", "October to April."),
    Feature("pm25_mean_24h", "double", "Mean of the 24 newest known hours at the issue: 06:00 to 06:00.", unit=UNIT),
    Feature("pm25_mean_6h", "double", "Mean of the 6 newest: the night.", unit=UNIT),
    *(Feature(f"pm25_lag_{days}d", "double", f"Mean of the day {days} d before the issue; null if it has none.",
              unit=UNIT) for days in LAG_DAYS),
    Feature("pm25_mean_3d", "double", "Mean of the 3 days before the issue.", unit=UNIT),
    Feature("pm25_mean_7d", "double", "Mean of the 7 days before the issue.", unit=UNIT),
    Feature("pm25_mean_30d", "double", "Mean of the 30 days before the issue.", unit=UNIT),
    Feature("pm25_min_7d", "double", "The cleanest of the 7 days before the issue.", unit=UNIT),
    Feature("pm25_max_7d", "double", "The dirtiest of the 7 days before the issue.", unit=UNIT),
    Feature("pm25_std_7d", "double", "Their deviation.", unit=UNIT),
    Feature("pm25_climatology", "double", "Median of the days within 15 of this date in the 5 years before.",
            unit=UNIT),
    Feature("pm25_climatology_mean", "double", "Mean of the same days.", unit=UNIT),
    Feature("pm25_nearby_24h", "double", "Mean of the nearest stations' 24 newest hours.", unit=UNIT),
    Feature("pm25_nearby_6h", "double", "Mean of the nearest stations' 6 newest hours.", unit=UNIT),
)  # fmt: skip
"""One row per station, day to forecast and issue; none for a station that has been silent for 30 days."""

FORECAST = {
    "temperature_c": "°C",
    "temperature_min_c": "°C",
    "wind_speed_ms": "m/s",
    "wind_direction_deg": "°",
    "precipitation_mm": "mm",
}
"""What daily weather consists of, by name, with units; the direction is the one the wind comes from."""

WEATHER = (
    *KEY,
    Feature("forecast_temperature_c", "double", "Mean expected for the day.", unit="°C"),
    Feature("forecast_temperature_min_c", "double", "Lowest expected.", unit="°C"),
    Feature("forecast_wind_speed_ms", "double", "Mean expected.", unit="m/s"),
    Feature("forecast_wind_south", "double", "1 where it is expected to come from the south, -1 from the north."),
    Feature("forecast_wind_west", "double", "1 where it is expected to come from the west, -1 from the east."),
    Feature("forecast_precipitation_mm", "double", "Sum expected.", unit="mm"),
    Feature("observed_temperature_c", "double", "Of the newest day whose weather is known at the issue.", unit="°C"),
    Feature("observed_wind_speed_ms", "double", "Of that day.", unit="m/s"),
    Feature("observed_precipitation_mm", "double", "Of that day.", unit="mm"),
    Feature("observed_temperature_mean_7d_c", "double", "Of the 7 days up to it.", unit="°C"),
    Feature("observed_wind_speed_mean_7d_ms", "double", "Of the 7 days up to it.", unit="m/s"),
    Feature("temperature_change_c", "double", "Expected less observed: warmer or colder than it was.", unit="°C"),
    Feature("pm25_upwind_24h", "double", "24 newest hours of the near stations from where the wind is expected.",
            unit=UNIT),
)  # fmt: skip
"""One row per row of the outlook. What was observed and what is expected are never in one column."""

PREDICTIONS = (
    *KEY,
    Feature("model_version", "int", "Version of the registered model that forecast it."),
    Feature("city", "string", "Where the station is."),
    Feature("forecast_ug_m3", "double", "Mean PM2.5 that we expect.", unit=UNIT),
    Feature("polish_index", "string", "Category of the Polish air quality index for that concentration."),
    Feature("persistence_ug_m3", "double", "As in the 24 newest hours: what anybody can expect.", unit=UNIT),
    Feature("climatology_ug_m3", "double", "As in this month of other years; null where there are none.", unit=UNIT),
    Feature("forecast_temperature_c", "double", "The weather forecast that was used; null if none.", unit="°C"),
    Feature("forecast_wind_speed_ms", "double", "The weather forecast that was used; null if none.", unit="m/s"),
    Feature("degraded", "boolean", "Something was missing: less than the model had when it was judged."),
    Feature("why", "string", "What was missing; empty if nothing."),
    Feature("reasons", "string", "What each of the strongest features added to the forecast, as JSON."),
    Feature("feature_view", "string", "The view the model was trained on, as name@version."),
    Feature("training_dataset_version", "int", "The training set it was trained on."),
    Feature("made_at", "timestamp", "When this row was computed."),
    Feature("backfilled", "boolean", "Computed after the day had begun: a reconstruction, no forecast."),
)
"""One row per station, day, horizon and model version; what was once forecast is never changed."""

NEVER_FEATURES = {"station", "day", "horizon_days", "issued_at", "known_at"}
"""Keys and times would be learned by heart."""

PERSISTENCE, CLIMATOLOGY = "persistence", "climatology"
BASELINES = {
    PERSISTENCE: "pm25_mean_24h",
    "30-day mean": "pm25_mean_30d",
    CLIMATOLOGY: "pm25_climatology",
    "climatology (mean)": "pm25_climatology_mean",
}
"""What anybody could forecast, by name: a column of the outlook. Errors are absolute, so the median is the stronger."""

OUTLOOK_FEATURES = [name for name in columns(OUTLOOK) if name not in NEVER_FEATURES]
WEATHER_FEATURES = [name for name in columns(WEATHER) if name not in NEVER_FEATURES]

HIGHEST_HOUR, HIGHEST_DAY = 1_000, 600
"""The highest hour of 1.9 million is 583 µg/m³; what is far above is in another unit, such as ng/m³."""

PM25_RULES: Suite = {
    "name": "air_quality_pm25",
    "expectations": [
        *never_null("station", "day", "issued_at", "pm25_ug_m3", "hours", "known_at"),
        in_set("station", list(STATIONS)),
        between("pm25_ug_m3", 0, HIGHEST_DAY),
        between("hours", HOURS_OF_A_DAY, 25),
        later("known_at", than="day"),
        later("day", than="issued_at"),
    ],
}

OUTLOOK_RULES: Suite = {
    "name": "air_quality_outlook",
    "expectations": [
        *never_null("station", "day", "horizon_days", "issued_at", "weekday", "is_heating_season"),
        in_set("station", list(STATIONS)),
        between("horizon_days", 1, 7),
        # Lags and their means come from daily means that have passed their own rules.
        *(between(name, 0, HIGHEST_HOUR) for name in ("pm25_mean_24h", "pm25_mean_6h", "pm25_lag_1d")),
        *(between(name, 0, HIGHEST_HOUR) for name in ("pm25_nearby_24h", "pm25_climatology")),
        later("day", than="issued_at"),
        # Worth a look, not worth stopping a day's forecasts: they are then made without, and say so.
        *never_null("pm25_mean_24h", "pm25_climatology", severity="warning"),
    ],
}

WEATHER_RULES: Suite = {
    "name": "air_quality_weather",
    "expectations": [
        *never_null("station", "day", "horizon_days", "issued_at"),
        in_set("station", list(STATIONS)),
        # Fahrenheit in this column would be above 45 on any summer day; km/h above 40 in any storm.
        *(between(f"{kind}_temperature_c", -45, 45) for kind in ("forecast", "observed")),
        *(between(f"{kind}_wind_speed_ms", 0, 40) for kind in ("forecast", "observed")),
        *(between(f"{kind}_precipitation_mm", 0, 300) for kind in ("forecast", "observed")),
        later("day", than="issued_at"),
    ],
}

PREDICTIONS_RULES: Suite = {
    "name": "air_quality_predictions",
    "expectations": [
        *never_null("station", "day", "model_version", "issued_at", "forecast_ug_m3", "degraded", "made_at"),
        in_set("station", list(STATIONS)),
        between("forecast_ug_m3", 0, HIGHEST_DAY),
        later("day", than="issued_at"),
    ],
}
