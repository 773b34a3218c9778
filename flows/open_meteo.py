"""Open-Meteo, for every system that needs weather: hourly values of places, asked for in UTC and in known units.

No key; CC BY 4.0, so a page that shows its values names it. Archive, forecasts and archived forecasts answer in one
shape: only the base URL and the names of the variables differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from featurestore.times import Window
from flows.http import Client, UnexpectedAnswer

if TYPE_CHECKING:
    import pandas as pd

MOST_DAYS_ASKED = 90
"""Days in one request."""


class Place(NamedTuple):
    """Where the weather is asked for, in degrees (WGS84). The answer is of the grid cell around it."""

    latitude: float
    longitude: float


def hourly(
    weather: Client,
    path: str,
    places: Mapping[str, Place],
    variables: Mapping[str, str],
    window: Window,
    *,
    options: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """The variables in each hour of [start, end) at each place.

    Args:
        weather: of the base URL that has them.
        path: "forecast" or "archive".
        places: by name.
        variables: the unit that each must come in, by name: what comes in another unit is refused.
        options: further parameters, such as {"wind_speed_unit": "ms"}.
    Returns:
        place (str), hour (UTC, its beginning), and each variable (float64, null where the service has none); no order
        promised. Long windows are asked for in pieces.
    Raises:
        LiveSourceError: the service is down or refuses; see `flows.http`.
        UnexpectedAnswer: another unit or time zone, a missing variable, arrays of unequal length, other places, or an
            error that came with HTTP 200. The message says which; nothing is returned then.
    """
    import pandas as pd

    parts = [_nothing(variables)]
    for piece in _pieces(window):
        parts += _answer(weather, path, places, variables, piece, options or {})
    rows = pd.concat(parts, ignore_index=True)
    return rows[(rows["hour"] >= window.start) & (rows["hour"] < window.end)].reset_index(drop=True)


def _answer(
    weather: Client,
    path: str,
    places: Mapping[str, Place],
    variables: Mapping[str, str],
    window: Window,
    options: Mapping[str, object],
) -> list[pd.DataFrame]:
    last = (window.end - timedelta(microseconds=1)).astimezone(UTC)
    answer = weather.get(
        path,
        {
            "latitude": ",".join(str(place.latitude) for place in places.values()),
            "longitude": ",".join(str(place.longitude) for place in places.values()),
            "hourly": ",".join(variables),
            "start_date": f"{window.start.astimezone(UTC):%Y-%m-%d}",
            "end_date": f"{last:%Y-%m-%d}",
            "timezone": "UTC",
            **options,
        },
    )
    found = answer.json()
    if isinstance(found, dict) and found.get("error"):
        raise UnexpectedAnswer(f"{answer} says: {found.get('reason', 'error, without a reason')}. Check the request.")
    if isinstance(found, dict) and len(places) == 1:
        found = [found]  # one place is answered without a list
    if not isinstance(found, list) or len(found) != len(places):
        count = len(found) if isinstance(found, list) else type(found).__name__
        raise UnexpectedAnswer(f"{answer} has {count} places, expected a list of {len(places)}. {_CHANGED}")
    return [_of_place(each, name, variables, str(answer)) for each, name in zip(found, places, strict=True)]


def _of_place(place: Any, name: str, variables: Mapping[str, str], what: str) -> pd.DataFrame:
    import pandas as pd

    try:
        times, offset = place["hourly"]["time"], place["utc_offset_seconds"]
        values = {variable: place["hourly"][variable] for variable in variables}
        units = {variable: place["hourly_units"][variable] for variable in variables}
    except (KeyError, TypeError) as error:
        raise UnexpectedAnswer(f"{what}: {name} lacks {error}. {_CHANGED}") from error
    for variable, expected in variables.items():
        if units[variable] != expected or offset != 0:
            raise UnexpectedAnswer(
                f"{what}: {variable} of {name} is in {units[variable]} at UTC offset {offset} s, expected {expected} "
                f"and 0. {_CHANGED}"
            )
        if len(times) != len(values[variable]):
            raise UnexpectedAnswer(
                f"{what}: {name} has {len(times)} times and {len(values[variable])} values of {variable}. {_CHANGED}"
            )
    return pd.DataFrame(
        {
            "place": pd.Series(name, index=range(len(times)), dtype="str"),
            "hour": pd.to_datetime(pd.Series(times, dtype="str"), utc=True).dt.as_unit("us"),
            **{variable: pd.Series(values[variable], dtype="float64") for variable in variables},
        }
    )


def _nothing(variables: Mapping[str, str]) -> pd.DataFrame:
    import pandas as pd

    columns = {"place": "str", "hour": "datetime64[us, UTC]"} | dict.fromkeys(variables, "float64")
    return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in columns.items()})


def _pieces(window: Window) -> list[Window]:
    step = timedelta(days=MOST_DAYS_ASKED)
    starts = [window.start + step * n for n in range(-((window.start - window.end) // step))]
    return [Window(start, min(start + step, window.end)) for start in starts]


_CHANGED = (
    "The service has changed or mixes something up: nothing was written. Look at its raw answer in bronze/; when the "
    "change is meant, flows/open_meteo.py must learn it."
)
