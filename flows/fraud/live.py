"""The live door: a bank's own feed of card transactions. Nobody publishes one, so here is what a bank has to serve.

Four lists over GET, JSON in UTF-8, below one base URL; the token goes into `Authorization: Bearer ...`:

| path | parameters | rows |
| --- | --- | --- |
| /status | none | none; begins, transactions_until, outcomes_until |
| /transactions | from, to (by datetime), limit, cursor | tid, datetime, cc_num, merchant_id, category, amount, |
| | | currency, latitude, longitude |
| /outcomes | from, to (by known_at), limit, cursor | tid, datetime, cc_num, merchant_id, is_fraud, known_at |
| /cards | limit, cursor | cc_num, opened, birthdate, expires |

A page is `{"from": ..., "to": ..., "total": 2, "rows": [...], "next": null}`: the window that was asked for (not of
cards), how many rows it has on all pages together, and the cursor of the next page or null. Times are ISO 8601 with an
offset, the window is half-open. An amount is a text with two decimals ("91.16") in USD: cents or another currency
cannot be taken for it. merchant_id, category, latitude (degrees), longitude, birthdate and expires (days) may be null.
Fields that are not named here are not looked at. cc_num may be, and better is, a token that stands for the card.

`transactions_until` and `outcomes_until` say up to which time the lists are complete: what is not complete yet is read
by a later run. A transaction without complaint has an outcome (false) after `schema.LABEL_DELAY`; a fraud has one as
soon as it is known, and an outcome that is corrected later is a further row with a later known_at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from featurestore.errors import NotFound
from featurestore.times import Window
from flows.fraud.features import MAX_AMOUNT_USD
from flows.http import Answer, Bronze, Client, UnexpectedAnswer
from flows.settings import Settings

TRANSACTIONS = ["tid", "datetime", "cc_num", "merchant_id", "category", "amount", "currency", "latitude", "longitude"]
OUTCOMES = ["tid", "datetime", "cc_num", "merchant_id", "is_fraud", "known_at"]
CARDS = ["cc_num", "opened", "birthdate", "expires"]
CURRENCY = "USD"

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)"
AMOUNT = r"\d+\.\d\d"
REQUESTS_PER_SECOND = 20  # the service is the bank's own

_CHANGED = (
    "The feed has changed or mixes something up: nothing was written. Look at its raw answer in bronze/; when the "
    "change is meant, flows/fraud/live.py must learn it."
)


class Services(BaseSettings):
    """Where the bank's feed is, from `TRIPTYCH_FRAUD_*` in the environment.

    Args:
        url: base URL of the four lists; a test's stub may stand in.
        token: what the bank gave out for reading them; never logged, never kept.
        page: rows asked for at once.
    """

    model_config = SettingsConfigDict(env_prefix="TRIPTYCH_FRAUD_", env_ignore_empty=True, extra="ignore", frozen=True)

    url: str | None = None
    token: SecretStr | None = None
    page: int = 5000


class Status(NamedTuple):
    """When the feed's history begins, and up to when each list is complete."""

    begins: datetime
    transactions_until: datetime
    outcomes_until: datetime

    @property
    def complete_until(self) -> datetime:
        """Up to when both lists are complete."""
        return min(self.transactions_until, self.outcomes_until)


def status() -> Status:
    """What the feed has.

    Raises:
        NotFound: no base URL is set.
        LiveSourceError: the service is down, refuses, or answers something unknown; see `flows.http`.
    """
    with _bank(Services()) as bank:
        answer = bank.get("status")
    body = _mapping(answer)
    if missing := [name for name in Status._fields if name not in body]:
        raise UnexpectedAnswer(f"{answer} lacks {missing}; it has {sorted(body)}. {_CHANGED}")
    told = pd.Series({name: body[name] for name in Status._fields}, dtype="object")
    begins, transactions_until, outcomes_until = _times(told, "status", str(answer))
    return Status(begins.to_pydatetime(), transactions_until.to_pydatetime(), outcomes_until.to_pydatetime())


def transactions(window: Window) -> pd.DataFrame:
    """The transactions of [start, end), one row each: tid, datetime (UTC), cc_num, merchant_id, category (text or
    null), amount (USD), latitude, longitude (degrees or null); no order promised.

    Raises:
        NotFound, LiveSourceError: as `status`.
        UnexpectedAnswer: what the module's text does not allow, such as half a list, a naive time, an amount that is no
            purchase, a place that is none, or two different rows for one transaction.
    """
    rows, what = _rows("transactions", TRANSACTIONS, window, unique=["tid"])
    if len(other := rows[rows["currency"] != CURRENCY]):
        raise UnexpectedAnswer(
            f"{what}: transaction {other['tid'].iloc[0]} is in {other['currency'].iloc[0]!r}, expected {CURRENCY}. "
            f"{_CHANGED}"
        )
    found = pd.DataFrame(
        {
            "tid": _texts(rows, "tid", what),
            "datetime": _times(rows["datetime"], "datetime", what),
            "cc_num": _texts(rows, "cc_num", what),
            "merchant_id": _texts(rows, "merchant_id", what, nullable=True),
            "category": _texts(rows, "category", what, nullable=True),
            "amount": _amounts(rows, what),
            "latitude": _degrees(rows, "latitude", 90, what),
            "longitude": _degrees(rows, "longitude", 180, what),
        }
    )
    return _within(found, "datetime", window, what)


def outcomes(window: Window) -> pd.DataFrame:
    """The outcomes that became known in [start, end): tid, datetime, cc_num, merchant_id, is_fraud (0 or 1), known_at.

    A corrected outcome is a row of its own; no order promised.

    Raises:
        NotFound, LiveSourceError: as `status`.
        UnexpectedAnswer: as `transactions`; also an outcome that was known before its transaction.
    """
    rows, what = _rows("outcomes", OUTCOMES, window, unique=["tid", "known_at"])
    if len(wrong := [value for value in rows["is_fraud"] if not isinstance(value, bool)]):
        raise UnexpectedAnswer(f"{what}: is_fraud is {wrong[0]!r}, expected true or false. {_CHANGED}")
    found = pd.DataFrame(
        {
            "tid": _texts(rows, "tid", what),
            "datetime": _times(rows["datetime"], "datetime", what),
            "cc_num": _texts(rows, "cc_num", what),
            "merchant_id": _texts(rows, "merchant_id", what, nullable=True),
            "is_fraud": rows["is_fraud"].astype("int64"),
            "known_at": _times(rows["known_at"], "known_at", what),
        }
    )
    if len(early := found[found["known_at"] <= found["datetime"]]):
        raise UnexpectedAnswer(
            f"{what}: the outcome of {early['tid'].iloc[0]} was known at {early['known_at'].iloc[0]}, not after the "
            f"transaction at {early['datetime'].iloc[0]}. {_CHANGED}"
        )
    return _within(found, "known_at", window, what)


def cards() -> pd.DataFrame:
    """All cards: cc_num, opened (UTC), birthdate, expires (days without zone, or null); no order promised.

    Raises:
        NotFound, LiveSourceError: as `status`.
    """
    rows, what = _rows("cards", CARDS, None, unique=["cc_num"])
    return pd.DataFrame(
        {
            "cc_num": _texts(rows, "cc_num", what),
            "opened": _times(rows["opened"], "opened", what),
            "birthdate": _days(rows, "birthdate", what),
            "expires": _days(rows, "expires", what),
        }
    )


# --- pages -------------------------------------------------------------------------------------------


def _bank(services: Services) -> Client:
    if services.url is None:
        raise NotFound(
            "There is no public feed of card transactions, so TRIPTYCH_SOURCE=live needs your bank's own: set "
            "TRIPTYCH_FRAUD_URL=<base URL> and TRIPTYCH_FRAUD_TOKEN (flows/fraud/live.py says what it has to serve). "
            "Or use TRIPTYCH_SOURCE=simulated, or TRIPTYCH_DATA=<folder> for tables."
        )
    return Client(
        "bank", base_url=services.url, bronze=Bronze(Settings().home / "bronze"), bearer=services.token,
        per_second=REQUESTS_PER_SECOND,
    )  # fmt: skip


def _rows(
    path: str, columns: Sequence[str], window: Window | None, *, unique: Sequence[str]
) -> tuple[pd.DataFrame, str]:
    """All rows of a list, repeated ones once, as they lie in the answers; and the list's name for messages."""
    services = Services()
    asked: dict[str, object] = {"limit": services.page}
    if window is not None:
        asked |= {"from": window.start.isoformat(), "to": window.end.isoformat()}
    found: list[Mapping[str, Any]] = []
    total, cursor, seen, what = 0, None, set(), f"bank {path}"
    with _bank(services) as bank:
        while True:
            answer = bank.get(path, asked | {"cursor": cursor})
            rows, total, cursor = _page(answer, columns, window)
            found += rows
            what = str(answer)
            if cursor is None:
                break
            if cursor in seen or not rows:
                raise UnexpectedAnswer(f"{answer} leads in a circle: its next page is {cursor!r} again. {_CHANGED}")
            seen.add(cursor)
    table = pd.DataFrame([[row[name] for name in columns] for row in found], columns=list(columns), dtype="object")
    table = table.drop_duplicates(ignore_index=True)
    if (twice := table.duplicated(unique)).any():
        raise UnexpectedAnswer(f"{what}: two different rows for {_key(table[twice], unique)}. {_CHANGED}")
    if len(table) != total:
        raise UnexpectedAnswer(
            f"{what}: its pages hold {len(table)} different rows, and it says they are {total}: half an answer. Run "
            "again later; nothing was written."
        )
    return table, what


def _key(rows: pd.DataFrame, unique: Sequence[str]) -> str:
    # A card's number is in no message: the row is named by its place in the list.
    return f"row {rows.index[0]}" if "cc_num" in unique else " at ".join(str(rows[name].iloc[0]) for name in unique)


def _page(
    answer: Answer, columns: Sequence[str], window: Window | None
) -> tuple[list[Mapping[str, Any]], int, str | None]:
    body = _mapping(answer)
    needed = ["total", "rows", "next", *(["from", "to"] if window is not None else [])]
    if missing := [name for name in needed if name not in body]:
        raise UnexpectedAnswer(f"{answer} lacks {missing}; it has {sorted(body)}. {_CHANGED}")
    rows, total, cursor = body["rows"], body["total"], body["next"]
    if not isinstance(rows, list) or isinstance(total, bool) or not isinstance(total, int):
        raise UnexpectedAnswer(f"{answer}: expected a list of rows and a whole number as total. {_CHANGED}")
    if cursor is not None and not isinstance(cursor, str):
        raise UnexpectedAnswer(f"{answer}: next is {cursor!r}, expected a text or null. {_CHANGED}")
    if window is not None:
        of = _times(pd.Series([body["from"], body["to"]], dtype="object"), "from or to", str(answer))
        if Window(of[0].to_pydatetime(), of[1].to_pydatetime()) != window:
            raise UnexpectedAnswer(
                f"{answer} is of [{of[0]}, {of[1]}), and {window} was asked for: an old answer. {_CHANGED}"
            )
    for row in rows:
        if not isinstance(row, dict) or (missing := [name for name in columns if name not in row]):
            held = sorted(row) if isinstance(row, dict) else type(row).__name__
            raise UnexpectedAnswer(f"{answer}: a row has {held}, expected {list(columns)}. {_CHANGED}")
        if nested := [name for name in columns if isinstance(row[name], list | dict)]:
            raise UnexpectedAnswer(f"{answer}: {nested} of a row are no single values. {_CHANGED}")
    return rows, total, cursor


def _mapping(answer: Answer) -> Mapping[str, Any]:
    body = answer.json()
    if not isinstance(body, dict):
        raise UnexpectedAnswer(f"{answer} is a {type(body).__name__}, expected an object. {_CHANGED}")
    return body


# --- values ------------------------------------------------------------------------------------------


def _texts(rows: pd.DataFrame, name: str, what: str, *, nullable: bool = False) -> pd.Series:
    values = rows[name]
    wrong = [value for value in values if not (isinstance(value, str) and value) and not (nullable and value is None)]
    if wrong:
        raise UnexpectedAnswer(f"{what}: {name} is {wrong[0]!r}, expected a text. {_CHANGED}")
    return values.astype("str")


def _times(values: pd.Series, name: str, what: str) -> pd.Series:
    texts = values.map(lambda value: value if isinstance(value, str) else repr(value)).astype("str")
    wrong = texts[~texts.str.fullmatch(TIME)]
    if len(wrong):
        raise UnexpectedAnswer(
            f"{what}: {name} is {wrong.iloc[0]!r}, expected a time with its offset, such as 2026-01-01T10:00:00Z. "
            f"{_CHANGED}"
        )
    times = pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce").dt.as_unit("us")
    if times.isna().any():
        raise UnexpectedAnswer(f"{what}: {name} is {texts[times.isna()].iloc[0]!r}: there is no such time. {_CHANGED}")
    return times


def _days(rows: pd.DataFrame, name: str, what: str) -> pd.Series:
    days = pd.to_datetime(rows[name].astype("str"), format="%Y-%m-%d", errors="coerce").dt.as_unit("us")
    if len(wrong := rows[name][days.isna() & rows[name].notna()]):
        raise UnexpectedAnswer(f"{what}: {name} is {wrong.iloc[0]!r}, expected a day such as 1990-12-31. {_CHANGED}")
    return days


def _amounts(rows: pd.DataFrame, what: str) -> pd.Series:
    is_amount = rows["amount"].map(lambda value: isinstance(value, str)) & rows["amount"].astype("str").str.fullmatch(
        AMOUNT
    )
    amounts = rows["amount"].where(is_amount).astype("float64")
    wrong = rows[~(amounts <= MAX_AMOUNT_USD)]
    if len(wrong):
        raise UnexpectedAnswer(
            f"{what}: the amount of {wrong['tid'].iloc[0]} is {wrong['amount'].iloc[0]!r}, expected USD as a text with "
            f'two decimals such as "91.16", from 0 to {MAX_AMOUNT_USD:,}; refunds are no purchases. {_CHANGED}'
        )
    return amounts


def _degrees(rows: pd.DataFrame, name: str, most: float, what: str) -> pd.Series:
    values = rows[name]
    is_number = values.map(lambda value: isinstance(value, int | float) and not isinstance(value, bool))
    degrees = values.where(is_number).astype("float64")
    wrong = rows[values.notna() & ~(np.abs(degrees) <= most)]
    if len(wrong):
        raise UnexpectedAnswer(
            f"{what}: the {name} of {wrong['tid'].iloc[0]} is {wrong[name].iloc[0]!r}, expected degrees from {-most} "
            f"to {most}, or null. {_CHANGED}"
        )
    return degrees


def _within(rows: pd.DataFrame, time: str, window: Window, what: str) -> pd.DataFrame:
    outside = rows[(rows[time] < window.start) | (rows[time] >= window.end)]
    if len(outside):
        raise UnexpectedAnswer(
            f"{what}: {time} of {outside['tid'].iloc[0]} is {outside[time].iloc[0]}, outside of {window}. {_CHANGED}"
        )
    return rows
