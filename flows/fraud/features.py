"""The fraud system's features: pure functions from frames of raw rows to the rows of its feature groups.

No clock, no environment, no network, no store. Money is added up in whole cents, so a sum does not depend on the rows
before its window: a row computed by an hourly run is equal, to the last bit, to the same row of a backfill.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from featurestore.errors import InvalidData, InvalidTime, SchemaMismatch
from flows.fraud.schema import (
    CARD_SPANS,
    CARD_TTL,
    CARD_WINDOWS,
    LABELS,
    MERCHANT_RISK,
    RISK_SPANS,
    TRANSACTIONS,
)
from flows.rules import columns

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

BOOKING = timedelta(microseconds=1)
"""A transaction counts from this long after it was asked for: never for itself, always for the next one."""

CARD_WARM_UP = max(CARD_SPANS.values())
"""History that `card_windows` needs before its first row."""

TRANSACTION_WARM_UP = CARD_TTL + CARD_WARM_UP
"""History that `transaction_features` needs: the previous booking, and the windows of that booking."""

RISK_WARM_UP = max(RISK_SPANS.values())
"""History, by the time labels became known, that `merchant_risk` needs before its first row."""

EARTH_RADIUS_KM = 6371.0088
NIGHT_ENDS_AT_HOUR = 6
EVENT_TIMES = {"datetime", "known_at", "opened"}
MAX_AMOUNT_USD = 1_000_000
MOST_DEGREES = {"latitude": 90, "longitude": 180}

_HOUR = 3_600_000_000
_DAY = 24 * _HOUR
_YEAR = 365.2425 * _DAY
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = _EPOCH.date()


def card_windows(transactions: pd.DataFrame) -> pd.DataFrame:
    """Spending of each card over trailing windows, one row per card and booking.

    Args:
        transactions: tid (str), datetime (UTC), cc_num (str), amount (USD, in whole cents), latitude, longitude
            (degrees, null where there is no place). Any order, any index; other columns are not looked at.
    Returns:
        cc_num, datetime, then count, mean, std and max of amount for each span of `schema.CARD_SPANS`, then
        last_datetime, last_latitude, last_longitude; ordered by card and time, index 0..n-1.
        `datetime` is one microsecond after the transaction, so that the transaction itself cannot see the row.
        The windows end with the transaction and hold it: (t - span, t]. The deviation is the sample's (n - 1), and
        0.0 for a single row, never null. Transactions of one card at the same microsecond share one row, with the
        place of the one with the largest tid. Empty in, empty out, same columns.
    Raises:
        SchemaMismatch: a column is missing; the message names it and the columns there are.
        InvalidTime: datetime has no time zone.
        InvalidData: an amount is missing, negative, beyond a million or not in whole cents; a place is not on Earth.
    Source: seed, slide "Feature Pipelines"; the slide names a mean trans_freq, here a count is called count.

    >>> transactions = pd.DataFrame({
    ...     "tid": ["a", "b"], "cc_num": "1", "amount": [10.0, 20.0], "latitude": 52.2, "longitude": 21.0,
    ...     "datetime": pd.to_datetime(["2026-01-01 10:00", "2026-01-01 10:30"], utc=True)})
    >>> windows = card_windows(transactions)
    >>> windows[["amount_count_1h", "amount_mean_1h", "amount_max_1h"]].to_numpy().tolist()
    [[1.0, 10.0, 10.0], [2.0, 15.0, 20.0]]
    >>> windows["datetime"].iloc[0].isoformat()
    '2026-01-01T10:00:00.000001+00:00'
    >>> card_windows(transactions.drop(columns="amount"))
    Traceback (most recent call last):
        ...
    featurestore.errors.SchemaMismatch: card_windows needs the columns ['amount']; transactions has ['tid', ...
    """
    needed = ["tid", "datetime", "cc_num", "amount", "latitude", "longitude"]
    by = ["cc_num", "datetime", "tid"]
    ordered = _ordered(transactions, needed, by=by, what="card_windows", name="transactions")
    times = _micros(ordered["datetime"])
    cards = _codes(ordered["cc_num"])
    cents = _cents(ordered["amount"])
    _check_places(ordered)
    booked = _last_of_each(cards, times)
    sums = _prefix_sums(cents)
    squares = _prefix_sums(cents * cents)

    result = {
        "cc_num": ordered["cc_num"].array[booked],
        "datetime": _timestamps(times[booked] + BOOKING // timedelta(microseconds=1)),
    }
    for name, span in CARD_SPANS.items():
        first = _window_starts(cards, times, span)[booked]
        count = booked + 1 - first
        total = sums[booked + 1] - sums[first]
        total_of_squares = squares[booked + 1] - squares[first]
        result[f"amount_count_{name}"] = count
        result[f"amount_mean_{name}"] = total / (100 * count)
        result[f"amount_std_{name}"] = _deviation(count, total, total_of_squares) / 100
        result[f"amount_max_{name}"] = _range_max(cents, first, booked) / 100
    result["last_datetime"] = _timestamps(times[booked])
    for side in ("latitude", "longitude"):
        result[f"last_{side}"] = ordered[side].to_numpy(np.float64)[booked]
    return _frame(result, columns(CARD_WINDOWS))


def merchant_risk(labels: pd.DataFrame) -> pd.DataFrame:
    """How often each merchant's transactions turned out to be frauds, by what was known at the time.

    Args:
        labels: merchant_id (str, null where the source names none), known_at (UTC), is_fraud (0 or 1). Any order, any
            index; other columns are not looked at.
    Returns:
        merchant_id, known_at, then merchant_label_count and merchant_fraud_share (0..1) for each span of
        `schema.RISK_SPANS`; ordered by merchant and time, index 0..n-1. One row per merchant and time at which labels
        of it became known; the windows hold them: (known_at - span, known_at]. Labels without a merchant count
        nowhere. A corrected outcome counts once more at the time of its correction: what was believed before, was
        believed. Empty in, empty out, same columns.
    Raises:
        SchemaMismatch: a column is missing.
        InvalidTime: known_at has no time zone.
    Source: the seed's "terminal risk"; labels are used from the time they are known, not from the transaction's.

    >>> labels = pd.DataFrame({
    ...     "merchant_id": "m", "is_fraud": [0, 1],
    ...     "known_at": pd.to_datetime(["2026-01-08 10:00", "2026-01-10 10:00"], utc=True)})
    >>> merchant_risk(labels)[["merchant_fraud_share_1d", "merchant_fraud_share_7d"]].to_numpy().tolist()
    [[0.0, 0.0], [1.0, 0.5]]
    """
    needed = ["merchant_id", "known_at", "is_fraud"]
    ordered = _ordered(labels, needed, by=["merchant_id", "known_at"], what="merchant_risk", name="labels")
    ordered = ordered[ordered["merchant_id"].notna()]
    times = _micros(ordered["known_at"])
    merchants = _codes(ordered["merchant_id"])
    known = _last_of_each(merchants, times)
    frauds = _prefix_sums(ordered["is_fraud"].to_numpy(np.int64))

    result = {"merchant_id": ordered["merchant_id"].array[known], "known_at": _timestamps(times[known])}
    for name, span in RISK_SPANS.items():
        first = _window_starts(merchants, times, span)[known]
        count = known + 1 - first
        result[f"merchant_label_count_{name}"] = count
        result[f"merchant_fraud_share_{name}"] = (frauds[known + 1] - frauds[first]) / count
    return _frame(result, columns(MERCHANT_RISK))


def transaction_features(transactions: pd.DataFrame, card_windows: pd.DataFrame, cards: pd.DataFrame) -> pd.DataFrame:
    """Each transaction with all that is computed at its request, one row per transaction.

    Args:
        transactions: tid, cc_num, merchant_id, category (str, the last two may be null), datetime (UTC), amount (USD),
            latitude, longitude (degrees or null). Any order, any index; other columns are not looked at.
        card_windows: what the function of that name returns for these cards, from `TRANSACTION_WARM_UP` on.
        cards: cc_num (str), opened (UTC), birthdate, expires (dates or null).
    Returns:
        The columns of `schema.TRANSACTIONS`; ordered by datetime and tid, index 0..n-1. A transaction is compared with
        the card's newest booking before it, if that is at most `schema.CARD_TTL` old, and never with a later one.
        What there is nothing to compare with is null. Empty in, empty out, same columns.
    Raises:
        SchemaMismatch: a column is missing.
        InvalidTime: a time has no time zone.
    Source: `on_demand_features`, which `request_features` applies to a single request.

    >>> transactions = pd.DataFrame({
    ...     "tid": ["a", "b"], "cc_num": "1", "merchant_id": "m", "category": None, "amount": [10.0, 20.0],
    ...     "latitude": [52.23, 50.06], "longitude": [21.01, 19.94],
    ...     "datetime": pd.to_datetime(["2026-01-01 10:00", "2026-01-01 12:30"], utc=True)})
    >>> cards = pd.DataFrame({"cc_num": ["1"], "opened": pd.to_datetime(["2020-01-01"], utc=True),
    ...     "birthdate": [date(1990, 1, 1)], "expires": [date(2026, 1, 31)]})
    >>> features = transaction_features(transactions, card_windows(transactions), cards)
    >>> features[["distance_km", "speed_kmh", "amount_to_mean_7d", "days_to_expiry"]].iloc[1].round(1).tolist()
    [252.6, 101.0, 2.0, 30.5]
    """
    needed = ["tid", "datetime", "cc_num", "merchant_id", "category", "amount", "latitude", "longitude"]
    what = "transaction_features"
    ordered = _ordered(transactions, needed, by=["datetime", "tid"], what=what, name="transactions")
    helpers = ["cc_num", "datetime", "last_datetime", "last_latitude", "last_longitude"]
    helpers += ["amount_mean_7d", "amount_mean_30d"]
    windows = _ordered(card_windows, helpers, by=["datetime", "cc_num"], what=what, name="card_windows")
    dates = ["cc_num", "opened", "birthdate", "expires"]
    opened = _ordered(cards, dates, by=["opened", "cc_num"], what=what, name="cards")

    before = pd.merge_asof(
        ordered, windows.rename(columns={"datetime": "booked"}),
        left_on="datetime", right_on="booked", by="cc_num", tolerance=pd.Timedelta(CARD_TTL),
    )  # fmt: skip
    before = pd.merge_asof(before, opened, left_on="datetime", right_on="opened", by="cc_num")
    computed = on_demand_features(
        time=_micros(before["datetime"]),
        amount=before["amount"].to_numpy(np.float64),
        latitude=before["latitude"].to_numpy(np.float64),
        longitude=before["longitude"].to_numpy(np.float64),
        last_time=_micros_or_nan(before["last_datetime"]),
        last_latitude=before["last_latitude"].to_numpy(np.float64),
        last_longitude=before["last_longitude"].to_numpy(np.float64),
        amount_mean_7d=before["amount_mean_7d"].to_numpy(np.float64),
        amount_mean_30d=before["amount_mean_30d"].to_numpy(np.float64),
        birthdate=_micros_or_nan(before["birthdate"]),
        expires=_micros_or_nan(before["expires"]),
    )
    return _frame({**{name: before[name] for name in needed}, **computed}, columns(TRANSACTIONS))


def request_features(
    request: Mapping[str, Any], *, card_windows: Mapping[str, Any], card: Mapping[str, Any]
) -> dict[str, Any]:
    """All that is computed for one transaction at its request: the numbers its row in history will have.

    Args:
        request: datetime (with time zone), amount (USD), and where there is a place latitude and longitude.
        card_windows: the card's newest row of that group: last_datetime, last_latitude, last_longitude,
            amount_mean_7d, amount_mean_30d. Empty for a card never seen, or silent for longer than `schema.CARD_TTL`.
        card: the card's row of the group of cards: birthdate, expires. Empty for an unknown card.
    Returns:
        The values of `on_demand_features` by name; None where there is nothing to compare with.
    Raises:
        SchemaMismatch: the request lacks datetime or amount.
        InvalidTime: a time has no time zone, or the card's previous booking is not before the request.
    Source: `on_demand_features`, which `transaction_features` applies to history.

    >>> at = datetime(2026, 1, 3, 2, 30, tzinfo=UTC)
    >>> features = request_features({"datetime": at, "amount": 30.0}, card_windows={"amount_mean_7d": 20.0}, card={})
    >>> features["hour"], features["is_weekend"], features["amount_to_mean_7d"], features["distance_km"]
    (2, True, 1.5, None)
    """
    missing = [name for name in ("datetime", "amount") if request.get(name) is None]
    if missing:
        raise SchemaMismatch(
            f"A request needs {missing}; it has {list(request)}. Pass the transaction's time and amount."
        )
    time = _moment(request["datetime"], "datetime")
    last_time = _moment(card_windows.get("last_datetime"), "last_datetime")
    if last_time >= time:
        raise InvalidTime(
            f"The request is of {request['datetime']}, but the card's newest booking is of "
            f"{card_windows['last_datetime']}. A transaction is compared with earlier ones only: score it before it is "
            "booked."
        )
    computed = on_demand_features(
        time=np.array([time], np.int64),
        amount=_one(request["amount"]),
        latitude=_one(request.get("latitude")),
        longitude=_one(request.get("longitude")),
        last_time=_one(last_time),
        last_latitude=_one(card_windows.get("last_latitude")),
        last_longitude=_one(card_windows.get("last_longitude")),
        amount_mean_7d=_one(card_windows.get("amount_mean_7d")),
        amount_mean_30d=_one(card_windows.get("amount_mean_30d")),
        birthdate=_one(_moment(card.get("birthdate"), "birthdate")),
        expires=_one(_moment(card.get("expires"), "expires")),
    )
    values = {name: value.item() for name, value in computed.items()}
    return {name: None if value != value else value for name, value in values.items()}


def on_demand_features(
    *,
    time: Integers,
    amount: Floats,
    latitude: Floats,
    longitude: Floats,
    last_time: Floats,
    last_latitude: Floats,
    last_longitude: Floats,
    amount_mean_7d: Floats,
    amount_mean_30d: Floats,
    birthdate: Floats,
    expires: Floats,
) -> dict[str, npt.NDArray[Any]]:
    """What is computed at a request, for any number of requests at once: the one definition for history and for now.

    Args:
        time: of the request; microseconds since 1970, as all times here (a float holds them exactly until 2255).
        amount: USD.
        latitude, longitude: degrees.
        last_time, last_latitude, last_longitude: of the card's newest booking before the request.
        amount_mean_7d, amount_mean_30d: the card's means at that booking, USD.
        birthdate, expires: midnight of these days.
    Returns:
        Arrays of the same length: hour (0..23), is_weekend, is_night (UTC), seconds_since_previous (s), distance_km,
        speed_kmh, amount_to_mean_7d, amount_to_mean_30d, age_years, days_to_expiry. NaN is null, in and out. A mean
        of zero gives no ratio. For the speed a second is the shortest time, so it is always finite.
    """
    seconds_since_previous = (time - last_time) / 1_000_000
    distance = distance_km(last_latitude, last_longitude, latitude, longitude)
    return {
        "hour": time // _HOUR % 24,
        "is_weekend": (time // _DAY + 3) % 7 >= 5,  # 1970-01-01 was a Thursday
        "is_night": time // _HOUR % 24 < NIGHT_ENDS_AT_HOUR,
        "seconds_since_previous": seconds_since_previous,
        "distance_km": distance,
        "speed_kmh": distance / (np.maximum(seconds_since_previous, 1.0) / 3600),
        "amount_to_mean_7d": amount / np.where(amount_mean_7d > 0, amount_mean_7d, np.nan),
        "amount_to_mean_30d": amount / np.where(amount_mean_30d > 0, amount_mean_30d, np.nan),
        "age_years": (time - birthdate) / _YEAR,
        "days_to_expiry": (expires + _DAY - time) / _DAY,
    }


def distance_km(from_latitude: Floats, from_longitude: Floats, to_latitude: Floats, to_longitude: Floats) -> Floats:
    """Great-circle distance between places given in degrees, in km (haversine); NaN where a place is missing.

    >>> quarter = distance_km(np.array([0.0]), np.array([0.0]), np.array([0.0]), np.array([90.0]))
    >>> quarter.round(1).tolist()
    [10007.6]
    """
    from_phi, to_phi = np.radians(from_latitude), np.radians(to_latitude)
    half_height = np.sin((to_phi - from_phi) / 2)
    half_width = np.sin(np.radians(to_longitude - from_longitude) / 2)
    chord = half_height * half_height + np.cos(from_phi) * np.cos(to_phi) * (half_width * half_width)
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.minimum(chord, 1.0)))


def known_labels(labels: pd.DataFrame) -> pd.DataFrame:
    """The outcome of each transaction, one row per transaction: the newest, where it was corrected.

    Args:
        labels: tid (str), datetime, known_at (UTC), is_fraud (0 or 1). Any order, any index; other columns are dropped.
    Returns:
        tid, datetime, is_fraud, known_at; ordered by datetime and tid, index 0..n-1. Of several outcomes of one
        transaction it is the one known last.
    Raises:
        SchemaMismatch: a column is missing.

    >>> at = pd.to_datetime(["2026-01-01"], utc=True)
    >>> known_labels(pd.DataFrame({"tid": ["a"], "datetime": at, "is_fraud": 0, "known_at": at, "more": 1})).shape
    (1, 4)
    """
    ordered = _ordered(labels, columns(LABELS), by=["datetime", "tid", "known_at"], what="known_labels", name="labels")
    return ordered.drop_duplicates("tid", keep="last", ignore_index=True)


def check_request(request: Mapping[str, Any]) -> None:
    """Refuse a request that cannot be scored.

    Raises:
        SchemaMismatch: the card, the time or the amount is missing.
        InvalidTime: the time has no time zone.
        InvalidData: the amount is negative, beyond a million or no number; or the place is not on Earth.

    >>> check_request({"cc_num": "1", "amount": 10.0})
    Traceback (most recent call last):
        ...
    featurestore.errors.SchemaMismatch: A request needs ['datetime']; it has ['cc_num', 'amount']. ...
    """
    missing = [name for name in ("cc_num", "datetime", "amount") if request.get(name) is None]
    if missing:
        raise SchemaMismatch(
            f"A request needs {missing}; it has {list(request)}. Pass the transaction's card, time and amount."
        )
    _moment(request["datetime"], "datetime")
    amount = request["amount"]
    if isinstance(amount, bool | str) or not 0 <= amount <= MAX_AMOUNT_USD:
        raise InvalidData(f"amount = {amount!r}: expected USD from 0 to {MAX_AMOUNT_USD:,}. Correct the request.")
    for side, most in MOST_DEGREES.items():
        degrees = request.get(side)
        if degrees is None or degrees != degrees:  # NaN is how a frame says that there is no place
            continue
        if isinstance(degrees, bool | str) or not -most <= degrees <= most:
            raise InvalidData(
                f"{side} = {degrees!r}: expected degrees from {-most} to {most}, or none. Correct the request."
            )


def since(rows: pd.DataFrame, time: str, start: datetime) -> pd.DataFrame:
    """The rows whose time is not before the start: what is left when the warm-up has done its work.

    >>> at = pd.to_datetime(["2026-01-01", "2026-01-02"], utc=True)
    >>> len(since(pd.DataFrame({"datetime": at}), "datetime", datetime(2026, 1, 2, tzinfo=UTC)))
    1
    """
    return rows[rows[time] >= start].reset_index(drop=True)


def _ordered(frame: pd.DataFrame, needed: Sequence[str], *, by: list[str], what: str, name: str) -> pd.DataFrame:
    """The needed columns of a frame, ordered, times in UTC microseconds; refuses a frame that breaks the contract."""
    missing = [column for column in needed if column not in frame.columns]
    if missing:
        raise SchemaMismatch(f"{what} needs the columns {missing}; {name} has {list(frame.columns)}.")
    times = {}
    for column in EVENT_TIMES & set(needed):
        if not isinstance(frame[column].dtype, pd.DatetimeTZDtype):
            raise InvalidTime(
                f"{what}: {name}[{column!r}] is {frame[column].dtype}, expected times with a time zone. Say which zone "
                f"they are in, such as {name}[{column!r}].dt.tz_localize('UTC')."
            )
        times[column] = frame[column].dt.tz_convert("UTC").dt.as_unit("us")
    return frame[list(needed)].assign(**times).sort_values(by, ignore_index=True)


def _frame(values: Mapping[str, Any], names: list[str]) -> pd.DataFrame:
    return pd.DataFrame(values, columns=names)


def _codes(keys: pd.Series) -> Integers:
    return pd.factorize(keys)[0].astype(np.int64)


def _micros(times: pd.Series) -> Integers:
    return times.dt.as_unit("us").astype("int64").to_numpy()


def _micros_or_nan(times: pd.Series) -> Floats:
    moments = pd.to_datetime(times, utc=True).dt.as_unit("us")
    return np.where(moments.notna(), moments.astype("int64"), np.nan)


def _timestamps(micros: Integers) -> pd.Series:
    return pd.Series(micros.astype("datetime64[us]")).dt.tz_localize("UTC")


def _moment(value: date | datetime | None, name: str) -> float:
    """Microseconds since 1970 of a time or of a day's midnight; NaN for none."""
    if value is None or value != value:  # NaT differs from itself
        return np.nan
    if not isinstance(value, datetime):
        return (value - _EPOCH_DAY).days * _DAY
    if value.tzinfo is None:
        raise InvalidTime(f"{name} {value} has no time zone. Say which one, such as value.replace(tzinfo=UTC).")
    return (value - _EPOCH) // timedelta(microseconds=1)


def _one(value: float | None) -> Floats:
    return np.array([np.nan if value is None else value], np.float64)


def _cents(amounts: pd.Series) -> Integers:
    dollars = amounts.to_numpy(np.float64)
    cents = np.rint(dollars * 100)
    with np.errstate(invalid="ignore"):  # infinity less infinity; refused below all the same
        wrong = ~((dollars >= 0) & (dollars <= MAX_AMOUNT_USD)) | (np.abs(dollars * 100 - cents) > 1e-4)
    if wrong.any():
        raise InvalidData(
            f"Amount {dollars[wrong][0]} ({int(wrong.sum())} of {len(dollars)} rows) is not a number of whole cents "
            f"from 0 to {MAX_AMOUNT_USD:,} USD. Round or drop such rows in the source; refunds are no purchases."
        )
    return cents.astype(np.int64)


def _check_places(rows: pd.DataFrame) -> None:
    for side, most in MOST_DEGREES.items():
        degrees = rows[side].to_numpy(np.float64)
        wrong = np.abs(degrees) > most
        if wrong.any():
            raise InvalidData(
                f"{side} {degrees[wrong][0]} of transaction {rows['tid'][wrong].iloc[0]} ({int(wrong.sum())} of "
                f"{len(rows)} rows): expected degrees from {-most} to {most}, or null. Correct or empty it in the "
                "source."
            )


def _last_of_each(groups: Integers, times: Integers) -> Integers:
    """Positions of the last row of each run of equal group and time; both are sorted together."""
    if not len(groups):
        return np.empty(0, np.int64)
    changes = (groups[1:] != groups[:-1]) | (times[1:] != times[:-1])
    return np.flatnonzero(np.append(changes, True))


def _prefix_sums(values: Integers) -> Integers:
    # Whole numbers: the difference of two is the window's own sum, whatever came before it, even beyond 2**63.
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(values)])


def _window_starts(groups: Integers, times: Integers, span: timedelta) -> Integers:
    """For each row the position of the first row of its group within (time - span, time]."""
    starts = np.empty(len(times), np.int64)
    opens = times - span // timedelta(microseconds=1)
    for first, end in _runs(groups):
        starts[first:end] = first + np.searchsorted(times[first:end], opens[first:end], side="right")
    return starts


def _runs(groups: Integers) -> Iterable[tuple[int, int]]:
    edges = [0, *(np.flatnonzero(groups[1:] != groups[:-1]) + 1).tolist(), len(groups)]
    return pairwise(edges)


def _deviation(count: Integers, total: Integers, total_of_squares: Integers) -> Floats:
    """Sample standard deviation from exact sums; 0.0 for a single value."""
    mean = total // count
    rest = total - mean * count
    # Squares around the whole-number mean, still exact; only the mean's fraction is left to floating point.
    around = total_of_squares - 2 * mean * total + count * mean * mean
    return np.sqrt(np.maximum(around - rest * rest / count, 0.0) / np.maximum(count - 1, 1))


def _range_max(values: Integers, first: Integers, last: Integers) -> Integers:
    """The largest of values[first..last] for each pair, by maxima over stretches of 1, 2, 4, ... values."""
    level = np.frexp(last - first + 1.0)[1] - 1  # whole part of log2 of the length
    result = np.empty(len(first), np.int64)
    largest = values
    for power in range(int(level.max(initial=-1)) + 1):
        of_level = level == power
        ends = last[of_level] - 2**power + 1
        result[of_level] = np.maximum(largest[first[of_level]], largest[ends])
        largest = np.maximum(largest[: -(2**power)], largest[2**power :]) if len(largest) > 2**power else largest
    return result
