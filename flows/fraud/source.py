"""Card transactions from outside, in one shape: live, from tables of a data folder, or from the built-in simulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from featurestore.errors import NotFound
from featurestore.times import EPOCH, Window
from flows import windows
from flows.fraud import live
from flows.fraud.schema import LABEL_DELAY
from flows.settings import Settings
from flows.sources import data_folder, half_open, in_shape, read_table

TRANSACTIONS: Mapping[str, str] = {
    "tid": "str",
    "datetime": "datetime64[us, UTC]",
    "cc_num": "str",
    "merchant_id": "str",
    "category": "str",
    "amount": "float64",
    "latitude": "float64",
    "longitude": "float64",
    "source": "str",
}
"""The columns every source gives, in order, with their dtypes: amount in USD, places in degrees (WGS84)."""

LABELS: Mapping[str, str] = {
    "tid": "str",
    "datetime": "datetime64[us, UTC]",
    "cc_num": "str",
    "merchant_id": "str",
    "is_fraud": "int64",
    "known_at": "datetime64[us, UTC]",
    "source": "str",
}
"""The columns of `read_labels`: whether a transaction was a fraud (1) or not (0), and since when that is known."""

CARDS: Mapping[str, str] = {
    "cc_num": "str",
    "opened": "datetime64[us, UTC]",
    "birthdate": "datetime64[us]",
    "expires": "datetime64[us]",
}
"""The columns of `read_cards`; birthdate and expires are days (midnight, no zone), null where a source has none."""

SIMULATED, LIVE = "simulated", "live"
SIMULATED_SPAN = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC))
"""What the demo reads. The simulator itself makes up any day."""

SEED = 2


def read_transactions(start: datetime, end: datetime, *, source: str | None = None) -> pd.DataFrame:
    """Card transactions of [start, end) as they were asked for, one row per transaction.

    Args:
        start, end: half-open, by the time of the transaction; with a time zone.
        source: "simulated", "live", "handbook", "sparkov" or "serverless"; default: what the settings say
            (`TRIPTYCH_DATA`, `TRIPTYCH_SOURCE`, `TRIPTYCH_FRAUD_TABLE`).
    Returns:
        The columns and dtypes of `TRANSACTIONS`, the same from every source; ordered by datetime and tid, index 0..n-1.
        merchant_id, category, latitude and longitude are null where a source has none. How a transaction turned out is
        not among them: nobody knows it yet. `read_labels` says it, by the time it became known.
    Raises:
        InvalidTime: a time without time zone, or an end before the start.
        NotFound: an unknown source, a missing folder or table, or a live source without address.
        LiveSourceError: the live source failed; see `flows.http`.

    >>> day = read_transactions(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC), source="simulated")
    >>> 300 < len(day) < 800, set(day["source"]) == {"simulated"}, "is_fraud" in day
    (True, True, False)
    >>> read_transactions(datetime(2026, 1, 1), datetime(2026, 1, 2), source="simulated")  # noqa: DTZ001 - refused
    Traceback (most recent call last):
        ...
    featurestore.errors.InvalidTime: The start 2026-01-01 00:00:00 has no time zone. ...
    """
    window, name = half_open(start, end), _source_name(source)
    rows = live.transactions(window) if name == LIVE else _with_outcomes(name, window)
    return in_shape(rows, TRANSACTIONS, name, order=["datetime", "tid"])


def read_labels(known_start: datetime, known_end: datetime, *, source: str | None = None) -> pd.DataFrame:
    """The outcomes that became known in [known_start, known_end), one row per transaction and time it became known.

    Args:
        known_start, known_end: half-open, by the time the outcome became known; with a time zone.
        source: as for `read_transactions`.
    Returns:
        The columns and dtypes of `LABELS`; ordered by known_at and tid, index 0..n-1. In tables and the simulator each
        transaction has one outcome, seven days after it. Live it is known when the bank knows it, and an outcome that
        was corrected is a second row with a later known_at.
    Raises:
        InvalidTime, NotFound, LiveSourceError: as `read_transactions`.

    >>> known = read_labels(datetime(2026, 1, 8, tzinfo=UTC), datetime(2026, 1, 9, tzinfo=UTC), source="simulated")
    >>> str(known["datetime"].min().date()), str(known["known_at"].min().date())
    ('2026-01-01', '2026-01-08')
    """
    window, name = half_open(known_start, known_end), _source_name(source)
    if name == LIVE:
        rows = live.outcomes(window)
    else:
        rows = _with_outcomes(name, Window(window.start - LABEL_DELAY, window.end - LABEL_DELAY))
        rows = rows.assign(known_at=rows["datetime"] + LABEL_DELAY)
    return in_shape(rows, LABELS, name, order=["known_at", "tid"])


def read_cards(*, source: str | None = None) -> pd.DataFrame:
    """The cards of a source, one row per card.

    Args:
        source: as for `read_transactions`.
    Returns:
        The columns and dtypes of `CARDS`, ordered by card, index 0..n-1. Where a source does not say since when a card
        is open, it is the first moment of the source. birthdate and expires are null where it does not say.
    Raises:
        NotFound, LiveSourceError: as `read_transactions`.

    >>> read_cards(source="simulated").columns.tolist()
    ['cc_num', 'opened', 'birthdate', 'expires']
    """
    name = _source_name(source)
    if name == LIVE:
        cards = live.cards()
    else:
        cards = _world(SEED).cards_table() if name == SIMULATED else TABLES[name].cards(_folder())
    return in_shape(cards, CARDS, name, order=["cc_num"])


def span(*, source: str | None = None) -> Window:
    """The whole days a source has transactions of, half-open; for the simulator the days of the demo.

    >>> str(span(source="simulated"))
    '[2026-01-01 00:00, 2026-07-01 00:00)'
    """
    name = _source_name(source)
    if name == LIVE:
        day, told = timedelta(days=1), live.status()
        return Window(windows.floor(told.begins, day), windows.floor(told.complete_until, day) + day)
    return SIMULATED_SPAN if name == SIMULATED else TABLES[name].span(_folder())


def available_until(at: datetime, *, source: str | None = None) -> datetime:
    """Until when a source has rows, seen at a time: the simulator until then, a table until its own end, a live source
    until its lists are complete.

    >>> available_until(datetime(2026, 9, 1, tzinfo=UTC), source="simulated").isoformat()
    '2026-09-01T00:00:00+00:00'
    """
    name = _source_name(source)
    if name == LIVE:
        return min(at, live.status().complete_until)
    return at if name == SIMULATED else min(at, TABLES[name].span(_folder()).end)


def source_name() -> str:
    """The source the settings mean: "simulated", or the name of a table. A home holds rows of one source only."""
    return _source_name(None)


def _source_name(source: str | None) -> str:
    if source is None:
        settings = Settings()
        source = settings.fraud_table if settings.chosen_source == "files" else settings.chosen_source
    if source not in (SIMULATED, LIVE, *TABLES):
        raise NotFound(f"There is no source of card transactions {source!r}. Use one of {[SIMULATED, LIVE, *TABLES]}.")
    return source


def _with_outcomes(name: str, window: Window) -> pd.DataFrame:
    """Transactions of a made-up or stored world, in which the outcome lies beside them from the beginning."""
    return _simulated(window) if name == SIMULATED else TABLES[name].transactions(_folder(), window)


def _folder() -> Path:
    return data_folder("fraud", of="card transactions")


# --- tables ------------------------------------------------------------------------------------------


class Table(NamedTuple):
    """How one folder of tables becomes the shape of `TRANSACTIONS` and `CARDS`."""

    transactions: Callable[[Path, Window], pd.DataFrame]
    cards: Callable[[Path], pd.DataFrame]
    span: Callable[[Path], Window]


HANDBOOK = "handbook_transactions_customers_0000_0999.parquet"
SPARKOV, SPARKOV_CARDS = "sparkov_transactions.parquet", "sparkov_customers.parquet"
SERVERLESS, SERVERLESS_CARDS = "serverless_ml_transactions.parquet", "serverless_ml_credit_cards.parquet"
SERVERLESS_PROFILES = "serverless_ml_profiles.parquet"


def _handbook_transactions(folder: Path, window: Window) -> pd.DataFrame:
    # tx_fraud_scenario says why a row is a fraud: it is a label, and stays in the file.
    names = ["transaction_id", "tx_datetime", "customer_id", "terminal_id", "tx_amount", "tx_fraud"]
    rows = read_table(folder / HANDBOOK, names, time="tx_datetime", between=_naive(window))
    return pd.DataFrame(
        {
            "tid": rows["transaction_id"].astype("str"),
            "datetime": rows["tx_datetime"].dt.tz_localize("UTC"),
            "cc_num": rows["customer_id"].astype("str"),
            "merchant_id": rows["terminal_id"].astype("str"),
            "category": None,
            "amount": rows["tx_amount"],
            "latitude": np.nan,
            "longitude": np.nan,
            "is_fraud": rows["tx_fraud"],
        }
    )


def _handbook_cards(folder: Path) -> pd.DataFrame:
    numbers = read_table(folder / HANDBOOK, ["customer_id"])["customer_id"].drop_duplicates()
    return _cards(numbers, opened=_handbook_span(folder).start)


def _handbook_span(folder: Path) -> Window:
    return _days(read_table(folder / HANDBOOK, ["tx_datetime"])["tx_datetime"].dt.tz_localize("UTC"))


def _sparkov_transactions(folder: Path, window: Window) -> pd.DataFrame:
    # The wall clock of the table has no zone; unix_time is the unambiguous one.
    names = ["transaction_id", "unix_time", "cc_num", "category", "amount_usd", "is_fraud"]
    names += ["merchant", "merchant_lat", "merchant_lon"]
    seconds = tuple(-((time - EPOCH) // timedelta(seconds=-1)) for time in window)  # up to the next whole second
    rows = read_table(folder / SPARKOV, names, time="unix_time", between=(seconds[0], seconds[1]))
    return pd.DataFrame(
        {
            "tid": rows["transaction_id"],
            "datetime": _from_seconds(rows["unix_time"]),
            "cc_num": rows["cc_num"].astype("str"),
            "merchant_id": rows["merchant"].str.removeprefix("fraud_"),  # every merchant has it: the simulator's habit
            "category": rows["category"],
            "amount": rows["amount_usd"],
            "latitude": rows["merchant_lat"],
            "longitude": rows["merchant_lon"],
            "is_fraud": rows["is_fraud"],
        }
    )


def _sparkov_cards(folder: Path) -> pd.DataFrame:
    rows = read_table(folder / SPARKOV_CARDS, ["cc_num", "date_of_birth", "has_transactions_here"])
    rows = rows[rows["has_transactions_here"]]
    return _cards(rows["cc_num"], opened=_sparkov_span(folder).start, birthdate=rows["date_of_birth"])


def _sparkov_span(folder: Path) -> Window:
    return _days(_from_seconds(read_table(folder / SPARKOV, ["unix_time"])["unix_time"]))


def _serverless_transactions(folder: Path, window: Window) -> pd.DataFrame:
    # The table names no merchant; its city is where a place was drawn at random, not who sold: merchant_id is null.
    names = ["tid", "datetime", "cc_num", "category", "amount", "latitude", "longitude", "fraud_label"]
    rows = read_table(folder / SERVERLESS, names, time="datetime", between=_naive(window))
    return rows.rename(columns={"fraud_label": "is_fraud"}).assign(
        datetime=rows["datetime"].dt.tz_localize("UTC"), cc_num=rows["cc_num"].astype("str"), merchant_id=None
    )


def _serverless_cards(folder: Path) -> pd.DataFrame:
    rows = read_table(folder / SERVERLESS_CARDS, ["cc_num", "expires"])
    rows = rows.merge(
        read_table(folder / SERVERLESS_PROFILES, ["cc_num", "birthdate"]), on="cc_num", validate="one_to_one"
    )
    last_day = (pd.to_datetime(rows["expires"], format="%m/%y") + pd.offsets.MonthEnd(0)).dt.as_unit("us")
    opened = _serverless_span(folder).start
    return _cards(rows["cc_num"], opened=opened, birthdate=rows["birthdate"], expires=last_day)


def _serverless_span(folder: Path) -> Window:
    return _days(read_table(folder / SERVERLESS, ["datetime"])["datetime"].dt.tz_localize("UTC"))


TABLES: Mapping[str, Table] = {
    "handbook": Table(_handbook_transactions, _handbook_cards, _handbook_span),
    "sparkov": Table(_sparkov_transactions, _sparkov_cards, _sparkov_span),
    "serverless": Table(_serverless_transactions, _serverless_cards, _serverless_span),
}


def _cards(
    numbers: pd.Series, *, opened: datetime, birthdate: pd.Series | None = None, expires: pd.Series | None = None
) -> pd.DataFrame:
    unknown = pd.Series(pd.NaT, index=numbers.index, dtype="datetime64[us]")
    return pd.DataFrame(
        {
            "cc_num": numbers.astype("str"),
            "opened": pd.Series(opened, index=numbers.index, dtype="datetime64[us, UTC]"),
            "birthdate": unknown if birthdate is None else birthdate,
            "expires": unknown if expires is None else expires,
        }
    )


def _from_seconds(seconds: pd.Series) -> pd.Series:
    return pd.to_datetime(seconds, unit="s", utc=True).dt.as_unit("us")


def _naive_utc(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(tzinfo=None)


def _naive(window: Window) -> tuple[datetime, datetime]:
    # The tables' clocks have no zone; they are simulated, and taken as UTC.
    return _naive_utc(window.start), _naive_utc(window.end)


def _days(times: pd.Series) -> Window:
    first, last = times.min().floor("D"), times.max().floor("D") + timedelta(days=1)
    return Window(first.to_pydatetime(), last.to_pydatetime())


# --- the simulator -----------------------------------------------------------------------------------
#
# Every day is made from a seed and its date alone, so any window can be made without the days before it. What lasts
# several days (a journey, a merchant that is robbed of card data) belongs to the day it starts on; a day looks back at
# the starts that may still last.

CITIES: Mapping[str, tuple[float, float]] = {
    "New York": (40.71, -74.01), "Los Angeles": (34.05, -118.24), "Chicago": (41.88, -87.63),
    "Houston": (29.76, -95.37), "Phoenix": (33.45, -112.07), "Philadelphia": (39.95, -75.17),
    "Atlanta": (33.75, -84.39), "Miami": (25.76, -80.19), "Denver": (39.74, -104.99),
    "Seattle": (47.61, -122.33), "Boston": (42.36, -71.06), "Minneapolis": (44.98, -93.27),
}  # fmt: skip


class Category(NamedTuple):
    """What is sold: share of purchases, median amount, spread of its logarithm, share of thieves' purchases."""

    share: float
    median_usd: float
    spread: float
    stolen_share: float


CATEGORIES: Mapping[str, Category] = {
    "grocery": Category(0.30, 32, 0.6, 0.05),
    "restaurant": Category(0.20, 24, 0.5, 0.08),
    "fuel": Category(0.12, 40, 0.3, 0.10),
    "health": Category(0.08, 28, 0.7, 0.04),
    "clothing": Category(0.07, 60, 0.7, 0.10),
    "home": Category(0.06, 55, 0.9, 0.06),
    "electronics": Category(0.05, 130, 0.9, 0.27),
    "travel": Category(0.03, 190, 0.8, 0.05),
    "jewellery": Category(0.01, 160, 0.9, 0.15),
    "online": Category(0.08, 38, 0.9, 0.10),
}
ONLINE = list(CATEGORIES).index("online")


class Burst(NamedTuple):
    """Purchases in quick succession, as arrays of the same length; hours since midnight."""

    card: Any
    merchant: Any
    amount: Any
    hour: Any
    is_first: Any


CARD_COUNT = 800
MERCHANT_COUNT = 480
PURCHASES_PER_CARD_AND_DAY = 0.55
JOURNEYS_PER_DAY, JOURNEY_DAYS = 6.0, 5
AWAY_SHARE = 0.03  # purchases elsewhere without a journey: a border town, a delivery, a wrong address
NIGHT_SHARE = 0.06

SPREES_PER_DAY = 14.0  # honest bursts of purchases: in town, in the shops' hours

# Per day, so that about 0.8 % of all transactions are frauds.
STOLEN_CARDS_PER_DAY = 0.45  # a burst of purchases, mostly at night and far from home, after one that tries the card
ROBBED_MERCHANTS_PER_DAY, ROBBED_DAYS, ROBBED_SHARE = 0.08, 35, 0.85  # its customers' cards are abused there for weeks
LARGE_FRAUDS_PER_DAY = 0.5  # one purchase well above what the card usually spends
UNSEEN_FRAUDS_PER_DAY = 0.2  # nothing sets them apart: no model can find them


def _simulated(window: Window) -> pd.DataFrame:
    world = _world(SEED)
    first = window.start.date()
    days = (window.end - timedelta(microseconds=1)).date().toordinal() - first.toordinal() + 1
    made = [world.day(first + timedelta(days=n)) for n in range(max(days, 1))]
    rows = pd.concat(made, ignore_index=True)
    return rows[(rows["datetime"] >= window.start) & (rows["datetime"] < window.end)]


@lru_cache(maxsize=1)
def _world(seed: int) -> World:
    return World(seed)


class World:
    """The simulator's cards and merchants, and what they do on any day; all of it follows from the seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = np.random.default_rng([seed, 0])
        self.cities = np.array(list(CITIES.values()))
        self.medians = np.array([c.median_usd for c in CATEGORIES.values()])
        self.spreads = np.array([c.spread for c in CATEGORIES.values()])
        self.tastes = _shares([c.stolen_share for c in CATEGORIES.values()])
        self.shares = _shares([c.share for c in CATEGORIES.values()])

        self.home = rng.integers(len(CITIES), size=CARD_COUNT)
        self.rate = rng.gamma(2.0, PURCHASES_PER_CARD_AND_DAY / 2, CARD_COUNT)
        self.wealth = rng.lognormal(0.0, 0.45, CARD_COUNT)
        self.night_share = np.minimum(rng.gamma(0.7, NIGHT_SHARE / 0.7, CARD_COUNT), 0.6)
        self.habits = np.cumsum(rng.dirichlet(12 * self.shares, CARD_COUNT), axis=1)
        self.opened = np.datetime64("2012-01-01") + rng.integers(0, 13 * 365, CARD_COUNT)
        self.birthdate = np.datetime64("1940-01-01") + rng.integers(0, 65 * 365, CARD_COUNT)
        self.expires = np.datetime64("2028-01") + rng.integers(0, 60, CARD_COUNT)

        # Each city has merchants of each category; who sells online has no place.
        self.sells = np.arange(MERCHANT_COUNT) % len(CATEGORIES)
        self.town = np.arange(MERCHANT_COUNT) // len(CATEGORIES) % len(CITIES)
        self.place = self.cities[self.town] + rng.normal(0, 0.12, (MERCHANT_COUNT, 2))
        self.place[self.sells == ONLINE] = np.nan
        self.price = rng.lognormal(0.0, 0.25, MERCHANT_COUNT)

    def cards_table(self) -> pd.DataFrame:
        """The shape of `CARDS`."""
        return pd.DataFrame(
            {
                "cc_num": _card_numbers(np.arange(CARD_COUNT)),
                "opened": pd.Series(self.opened.astype("datetime64[us]")).dt.tz_localize("UTC"),
                "birthdate": self.birthdate.astype("datetime64[us]"),
                "expires": ((self.expires + 1).astype("datetime64[D]") - 1).astype("datetime64[us]"),
            }
        )

    def day(self, day: date) -> pd.DataFrame:
        """The transactions of one day, without known_at and source."""
        rng = self._rng(day, 1)
        card = np.repeat(np.arange(CARD_COUNT), rng.poisson(self.rate * (1.25 if day.weekday() >= 5 else 0.9)))
        is_away = rng.random(len(card)) < AWAY_SHARE
        town = np.where(is_away, rng.integers(len(CITIES), size=len(card)), self._towns(day)[card])
        category = (rng.random((len(card), 1)) > self.habits[card]).sum(axis=1).clip(max=len(CATEGORIES) - 1)
        merchant = self._merchant(rng, town, category)
        amount = self._amount(rng, card, category, merchant)
        at_night = rng.random(len(card)) < self.night_share[card]
        hour = np.where(at_night, rng.uniform(0, 6, len(card)), 6 + 18 * rng.beta(2.2, 1.8, len(card)))
        is_fraud = self._robbed(day)[merchant] & (rng.random(len(card)) < ROBBED_SHARE)
        is_fraud[rng.integers(len(card), size=rng.poisson(UNSEEN_FRAUDS_PER_DAY))] = True
        large = rng.integers(len(card), size=rng.poisson(LARGE_FRAUDS_PER_DAY))
        amount[large] *= rng.uniform(4, 12, len(large))
        is_fraud[large] = True

        spree, stolen = self._spree(day), self._stolen(day)
        card = np.concatenate([card, spree.card, stolen.card])
        merchant = np.concatenate([merchant, spree.merchant, stolen.merchant])
        amount = np.concatenate([amount, spree.amount, stolen.amount])
        micros = np.concatenate([hour, spree.hour, stolen.hour]) * 3_600_000_000
        is_fraud = np.concatenate([is_fraud, np.zeros(len(spree.card), bool), np.ones(len(stolen.card), bool)])

        order = np.argsort(micros, kind="stable")
        midnight = np.datetime64(day, "us")
        names = pd.array(list(CATEGORIES), dtype="str")
        return pd.DataFrame(
            {
                "tid": [f"{day:%Y%m%d}-{n:04d}" for n in range(len(order))],
                "datetime": pd.Series(midnight + micros[order].astype("timedelta64[us]")).dt.tz_localize("UTC"),
                "cc_num": _card_numbers(card[order]),
                "merchant_id": pd.array([f"m{m:03d}" for m in merchant[order]], dtype="str"),
                "category": names[self.sells[merchant[order]]],
                "amount": np.maximum(np.rint(amount[order] * 100), 50) / 100,
                "latitude": self.place[merchant[order], 0],
                "longitude": self.place[merchant[order], 1],
                "is_fraud": is_fraud[order].astype(np.int64),
            }
        )

    def _rng(self, day: date, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, day.toordinal(), stream])

    def _towns(self, day: date) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Where each card is on a day: at home, or on a journey that began some days ago."""
        towns = self.home.copy()
        for ago in range(JOURNEY_DAYS):
            rng = self._rng(day - timedelta(days=ago), 2)
            count = rng.poisson(JOURNEYS_PER_DAY)
            card, town = rng.integers(CARD_COUNT, size=count), rng.integers(len(CITIES), size=count)
            lasts = rng.integers(1, JOURNEY_DAYS + 1, count) > ago
            towns[card[lasts]] = town[lasts]
        return towns

    def _robbed(self, day: date) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which merchants' customers are being robbed on a day."""
        robbed = np.zeros(MERCHANT_COUNT, bool)
        for ago in range(ROBBED_DAYS):
            rng = self._rng(day - timedelta(days=ago), 3)
            count = rng.poisson(ROBBED_MERCHANTS_PER_DAY)
            category = rng.choice(len(CATEGORIES), count, p=self.tastes)
            merchant = self._merchant(rng, rng.integers(len(CITIES), size=count), category)
            days = rng.integers(ROBBED_DAYS // 2, ROBBED_DAYS + 1, count)
            robbed[merchant[days > ago]] = True
        return robbed

    def _spree(self, day: date) -> Burst:
        """The purchases that owners make in one go on a day, each in the town where the card is."""
        rng = self._rng(day, 5)
        card = rng.integers(CARD_COUNT, size=rng.poisson(SPREES_PER_DAY))
        return self._burst(rng, card, self._towns(day)[card], rng.uniform(9, 21, len(card)), self.shares)

    def _stolen(self, day: date) -> Burst:
        """The purchases that thieves make on a day, each with one card in one town."""
        rng = self._rng(day, 4)
        card = rng.integers(CARD_COUNT, size=rng.poisson(STOLEN_CARDS_PER_DAY))
        at_night = rng.random(len(card)) < 0.7
        begins = np.where(at_night, rng.uniform(0, 4, len(card)), rng.uniform(4, 20, len(card)))
        burst = self._burst(rng, card, rng.integers(len(CITIES), size=len(card)), begins, self.tastes)
        greed = np.where(burst.is_first, 0.2, rng.uniform(0.8, 2.2, len(burst.card)))
        return burst._replace(amount=burst.amount * greed)

    def _burst(self, rng: np.random.Generator, card: Any, town: Any, begins: Any, tastes: Any) -> Burst:
        """Some purchases with each card within a few hours, ten minutes apart on average."""
        size = rng.integers(3, 10, len(card))
        card, town, begins = np.repeat(card, size), np.repeat(town, size), np.repeat(begins, size)
        is_first = np.zeros(len(card), bool)
        is_first[np.cumsum(size) - size] = True
        gaps = np.where(is_first, 0.0, rng.exponential(1 / 6, len(card)))
        elapsed = np.cumsum(gaps)
        category = rng.choice(len(CATEGORIES), len(card), p=tastes)
        merchant = self._merchant(rng, town, category)
        hour = np.minimum(begins + elapsed - np.repeat(elapsed[is_first], size), 23.99)
        return Burst(card, merchant, self._amount(rng, card, category, merchant), hour, is_first)

    def _merchant(self, rng: np.random.Generator, town: Any, category: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
        per_city = MERCHANT_COUNT // (len(CATEGORIES) * len(CITIES))
        which = rng.integers(per_city, size=len(town))
        return (which * len(CITIES) + town) * len(CATEGORIES) + category

    def _amount(self, rng: np.random.Generator, card: Any, category: Any, merchant: Any) -> Any:
        typical = self.medians[category] * self.wealth[card] * self.price[merchant]
        return typical * np.exp(rng.normal(0, 1, len(card)) * self.spreads[category])


def _shares(weights: list[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(weights) / sum(weights)


def _card_numbers(cards: Any) -> Any:
    return pd.array([f"40001234{n:08d}" for n in cards], dtype="str")
