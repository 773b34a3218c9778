"""A bank's feed as a stub over real HTTP: what the live door gives, and every way in which a feed goes wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import featurestore
from featurestore.errors import InvalidTime, NotFound
from flows import windows
from flows.fraud import schema, source
from flows.fraud.feature_pipeline import fraud_features
from flows.http import RequestRefused, ServiceUnavailable, TooManyRequests, UnexpectedAnswer
from flows.settings import Settings
from tests.flows.fraud.conftest import living_in
from tests.flows.stub_server import Reply, StubServer, serving

DAY = timedelta(days=1)
START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC)
CANARY = "canary-bank-token-4711"


def as_text(time: Any) -> str:
    """A time with its offset, as the feed writes it."""
    return str(pd.Timestamp(time).isoformat())


def or_none(value: Any) -> Any:
    return None if pd.isna(value) else value


class Bank:
    """A feed that serves what the simulator makes of its days, page by page, and can be told of corrections."""

    def __init__(self, until: datetime) -> None:
        rows = source.read_transactions(START, until, source="simulated")
        self.until = until
        self.transactions = [
            {
                "tid": row.tid, "datetime": as_text(row.datetime), "cc_num": row.cc_num, "merchant_id": row.merchant_id,
                "category": or_none(row.category), "amount": f"{row.amount:.2f}", "currency": "USD",
                "latitude": or_none(row.latitude), "longitude": or_none(row.longitude), "channel": "a further field",
            }
            for row in rows.itertuples()
        ]  # fmt: skip
        self.outcomes = [
            {
                "tid": row.tid, "datetime": as_text(row.datetime), "cc_num": row.cc_num,
                "merchant_id": row.merchant_id, "is_fraud": bool(row.is_fraud), "known_at": as_text(row.known_at),
            }
            for row in source.read_labels(START, until, source="simulated").itertuples()
        ]  # fmt: skip
        self.cards = [
            {
                "cc_num": row.cc_num, "opened": as_text(row.opened), "birthdate": f"{row.birthdate:%Y-%m-%d}",
                "expires": f"{row.expires:%Y-%m-%d}",
            }
            for row in source.read_cards(source="simulated").itertuples()
        ]  # fmt: skip

    def page(self, rows: list[dict[str, Any]], time: str | None) -> Callable[[Mapping[str, str]], Reply]:
        """A route that gives the rows of the window asked for."""

        def answer(query: Mapping[str, str]) -> Reply:
            within = rows
            window = {}
            if time is not None:
                window = {"from": query["from"], "to": query["to"]}
                first, end = (pd.Timestamp(query[name]) for name in ("from", "to"))
                within = [row for row in rows if first <= pd.Timestamp(row[time]) < end]
            at, limit = int(query.get("cursor", 0)), int(query["limit"])
            further = str(at + limit) if at + limit < len(within) else None
            page = within[at : at + limit]
            return Reply.of_json({**window, "total": len(within), "rows": page, "next": further})

        return answer

    def routes(self) -> dict[str, Any]:
        """The four lists."""
        return {
            "/status": lambda _: Reply.of_json(
                {"begins": as_text(START), "transactions_until": as_text(self.until),
                 "outcomes_until": as_text(self.until)}
            ),
            "/transactions": self.page(self.transactions, "datetime"),
            "/outcomes": self.page(self.outcomes, "known_at"),
            "/cards": self.page(self.cards, None),
        }  # fmt: skip


class Feed:
    """The stub, what it serves, and the home of who reads it."""

    def __init__(self, server: StubServer, bank: Bank, settings: Settings) -> None:
        self.server, self.bank, self.settings = server, bank, settings


@pytest.fixture
def feed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Feed]:
    """A bank that serves two days, read by a home whose source is live; patient for seconds only."""
    bank = Bank(END)
    with serving(bank.routes()) as server, living_in(tmp_path / "home", source="live") as settings:
        for name, value in {
            "TRIPTYCH_FRAUD_URL": server.url,
            "TRIPTYCH_FRAUD_TOKEN": CANARY,
            "TRIPTYCH_FRAUD_PAGE": "400",
            "TRIPTYCH_HTTP_ATTEMPTS": "2",
            "TRIPTYCH_HTTP_TIMEOUT_SECONDS": "5",
            "TRIPTYCH_HTTP_LONGEST_PAUSE_SECONDS": "0.01",
            "TRIPTYCH_HTTP_PATIENCE_SECONDS": "5",
        }.items():
            monkeypatch.setenv(name, value)
        yield Feed(server, bank, settings)


def read() -> pd.DataFrame:
    return source.read_transactions(START, END)


# --- the same frames ---------------------------------------------------------------------------------


def test_live_frames_are_those_of_the_simulator_that_the_bank_serves(feed: Feed) -> None:
    """Same columns, dtypes, units, order and index: what reads one source reads them all."""
    for live_rows, simulated in (
        (read(), source.read_transactions(START, END, source="simulated")),
        (source.read_labels(START, END), source.read_labels(START, END, source="simulated")),
    ):
        assert set(live_rows["source"]) <= {"live"}
        assert_frame_equal(live_rows.drop(columns="source"), simulated.drop(columns="source"), check_exact=True)
    assert_frame_equal(source.read_cards(), source.read_cards(source="simulated"), check_exact=True)
    assert source.span() == (START, END + DAY)
    assert source.source_name() == "live"


def test_lists_are_read_page_by_page_with_the_token_in_the_header(feed: Feed) -> None:
    rows = read()
    assert len(rows) > 800
    pages = [query for path, query in feed.server.asked if path == "/transactions"]
    assert [query.get("cursor") for query in pages] == [None, "400", "800"]
    assert {query["from"] for query in pages} == {"2026-01-01T00:00:00+00:00"}
    assert {headers["Authorization"] for headers in feed.server.headers} == {f"Bearer {CANARY}"}


def test_what_the_feed_has_not_completed_is_not_asked_for_yet(feed: Feed) -> None:
    assert source.available_until(END + DAY) == END
    assert source.available_until(END - DAY) == END - DAY
    late = {"begins": as_text(START), "transactions_until": as_text(END), "outcomes_until": as_text(END - DAY)}
    feed.server.routes["/status"] = Reply.of_json(late)
    assert source.available_until(END) == END - DAY


def test_empty_lists_are_frames_without_rows(feed: Feed) -> None:
    empty = source.read_transactions(START - 9 * DAY, START - 8 * DAY)
    assert {name: str(dtype) for name, dtype in empty.dtypes.items()} == dict(source.TRANSACTIONS)
    known = source.read_labels(START - 9 * DAY, START - 8 * DAY)
    assert {name: str(dtype) for name, dtype in known.dtypes.items()} == dict(source.LABELS)
    feed.server.routes["/cards"] = Reply.of_json({"total": 0, "rows": [], "next": None})
    assert {name: str(dtype) for name, dtype in source.read_cards().dtypes.items()} == dict(source.CARDS)


def test_repeated_and_disordered_rows_give_the_same_frame(feed: Feed) -> None:
    before = read()
    rows = feed.bank.transactions
    within = {"from": as_text(START), "to": as_text(END), "total": len(rows)}
    mixed = [*reversed(rows), *rows[:50]]
    feed.server.troubles.append(Reply.of_json({**within, "rows": mixed[:300], "next": "b"}))
    feed.server.troubles.append(Reply.of_json({**within, "rows": mixed[200:], "next": None}))
    assert_frame_equal(read(), before, check_exact=True)


def test_times_of_another_zone_are_the_same_moments(feed: Feed) -> None:
    before = read()
    rows = [
        row | {"datetime": pd.Timestamp(row["datetime"]).tz_convert("Asia/Tokyo").isoformat()}
        for row in feed.bank.transactions
    ]
    feed.server.routes["/transactions"] = feed.bank.page(rows, "datetime")
    assert_frame_equal(read(), before, check_exact=True)


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"amount": 9116}, "the amount of .* is 9116, expected USD as a text with two decimals"),
        ({"amount": "9116"}, "is '9116', expected USD as a text"),
        ({"amount": "-12.00"}, "is '-12.00', expected .* refunds are no purchases"),
        ({"amount": "1000000.01"}, "is '1000000.01', expected .* from 0 to 1,000,000"),
        ({"amount": None}, "is None, expected USD"),
        ({"currency": "EUR"}, "is in 'EUR', expected USD"),
        ({"currency": "USD cents"}, "is in 'USD cents', expected USD"),
        ({"datetime": "2026-01-01T10:00:00"}, "datetime is '2026-01-01T10:00:00', expected a time with its offset"),
        ({"datetime": "2026-02-30T10:00:00Z"}, "there is no such time"),
        ({"datetime": 1767262800}, "datetime is '1767262800', expected a time"),
        ({"datetime": "2025-12-31T10:00:00Z"}, "is 2025-12-31 10:00:00.*, outside of"),
        ({"latitude": 91}, "latitude of .* is 91, expected degrees from -90 to 90"),
        ({"longitude": "21.0"}, "longitude of .* is '21.0', expected degrees"),
        ({"cc_num": None}, "cc_num is None, expected a text"),
        ({"tid": 7}, "tid is 7, expected a text"),
        ({"merchant_id": {"id": "m1"}}, r"\['merchant_id'\] of a row are no single values"),
    ],
    ids=str,
)
def test_row_that_is_not_as_agreed_is_refused_and_says_what_is_strange(
    feed: Feed, change: dict[str, Any], message: str
) -> None:
    feed.bank.transactions[3].update(change)
    feed.server.routes["/transactions"] = lambda query: Reply.of_json(
        {"from": query["from"], "to": query["to"], "total": len(feed.bank.transactions),
         "rows": feed.bank.transactions, "next": None}
    )  # fmt: skip
    with pytest.raises(UnexpectedAnswer, match=f"{message}.*nothing was written"):
        read()


def test_renamed_column_is_named(feed: Feed) -> None:
    row = feed.bank.transactions[0]
    row["amount_usd"] = row.pop("amount")
    with pytest.raises(UnexpectedAnswer, match=r"a row has \['amount_usd', .*expected \['tid', .*'amount'"):
        read()


def test_outcome_that_is_none_or_was_known_too_early_is_refused(feed: Feed) -> None:
    now = as_text(START + DAY)
    known = {"tid": "x", "datetime": as_text(START), "cc_num": "1", "merchant_id": None, "known_at": now}
    of = {"from": as_text(START), "to": as_text(END), "total": 1, "next": None}
    feed.server.troubles.append(Reply.of_json({**of, "rows": [known | {"is_fraud": None}]}))
    with pytest.raises(UnexpectedAnswer, match="is_fraud is None, expected true or false"):
        source.read_labels(START, END)
    feed.server.troubles.append(Reply.of_json({**of, "rows": [known | {"is_fraud": True, "datetime": now}]}))
    with pytest.raises(UnexpectedAnswer, match=r"the outcome of x was known at .*, not after the transaction"):
        source.read_labels(START, END)


def test_two_different_rows_for_one_transaction_are_refused(feed: Feed) -> None:
    rows = [*feed.bank.transactions, feed.bank.transactions[0] | {"amount": "1.23"}]
    feed.server.routes["/transactions"] = feed.bank.page(rows, "datetime")
    with pytest.raises(UnexpectedAnswer, match=f"two different rows for {rows[0]['tid']}"):
        read()
    feed.server.routes["/cards"] = feed.bank.page(
        [*feed.bank.cards, feed.bank.cards[0] | {"expires": "2040-01-31"}], None
    )
    with pytest.raises(UnexpectedAnswer, match="two different rows for row 800") as caught:
        source.read_cards()
    assert feed.bank.cards[0]["cc_num"] not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"total": 1, "rows": [], "next": None}, r"lacks \['from', 'to'\]"),
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-01-03T00:00:00Z", "total": 5, "rows": [], "next": None},
         "hold 0 different rows, and it says they are 5: half an answer"),
        ({"from": "2025-12-31T00:00:00Z", "to": "2026-01-02T00:00:00Z", "total": 0, "rows": [], "next": None},
         "is of .2025-12-31 .*was asked for: an old answer"),
        ({"from": "2026-01-01T00:00:00", "to": "2026-01-03T00:00:00", "total": 0, "rows": [], "next": None},
         "expected a time with its offset"),
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-01-03T00:00:00Z", "total": "0", "rows": [], "next": None},
         "a whole number as total"),
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-01-03T00:00:00Z", "total": 9, "rows": [], "next": "a"},
         "leads in a circle"),
        ({"error": "maintenance"}, "lacks"),
        ([], "is a list, expected an object"),
    ],
    ids=["no window", "half", "yesterday", "naive", "total", "circle", "error with 200", "list"],
)  # fmt: skip
def test_page_that_is_not_as_agreed_is_refused(feed: Feed, body: Any, message: str) -> None:
    feed.server.troubles.append(Reply.of_json(body))
    with pytest.raises(UnexpectedAnswer, match=message):
        read()


def test_page_that_points_to_itself_is_not_followed_for_ever(feed: Feed) -> None:
    page = {"from": as_text(START), "to": as_text(END), "total": 900, "rows": feed.bank.transactions[:9], "next": "a"}
    feed.server.routes["/transactions"] = Reply.of_json(page)
    with pytest.raises(UnexpectedAnswer, match="its next page is 'a' again"):
        read()
    assert len(feed.server.asked) == 2


def test_half_an_answer_is_refused_whether_cut_or_broken_off(feed: Feed) -> None:
    body = Reply.of_json({"from": as_text(START), "rows": feed.bank.transactions}).body
    feed.server.troubles.append(Reply(body=body[: len(body) // 2]))
    with pytest.raises(UnexpectedAnswer, match=r"is not JSON.*answer was cut"):
        read()
    feed.server.troubles.extend([Reply(body=body[:100], promised=5000)] * 2)
    with pytest.raises(ServiceUnavailable, match="does not answer"):
        read()


@pytest.mark.parametrize(
    ("replies", "error"),
    [
        ([Reply(500), Reply(503)], ServiceUnavailable),
        ([Reply(429, headers={"Retry-After": "3600"})], TooManyRequests),
        ([Reply(200, b"slow", delay_seconds=1)] * 2, ServiceUnavailable),
        ([Reply(401, b"token expired")], RequestRefused),
    ],
    ids=["down", "429 for an hour", "slow", "token"],
)
def test_feed_in_trouble_fails_the_read_and_the_next_one_gives_everything(
    feed: Feed, monkeypatch: pytest.MonkeyPatch, replies: list[Reply], error: type[Exception]
) -> None:
    monkeypatch.setenv("TRIPTYCH_HTTP_TIMEOUT_SECONDS", "0.3")
    feed.server.troubles.extend(replies)
    with pytest.raises(error, match=r"covers this window too|Run again later|Check the service's API key"):
        read()
    monkeypatch.setenv("TRIPTYCH_HTTP_TIMEOUT_SECONDS", "5")
    assert len(read()) == len(feed.bank.transactions)


def test_pause_that_the_feed_asks_for_is_kept_and_then_it_goes_on(feed: Feed) -> None:
    feed.server.troubles.extend([Reply(429, headers={"Retry-After": "0"})])
    assert len(read()) == len(feed.bank.transactions)


def test_naive_window_is_refused(feed: Feed) -> None:
    with pytest.raises(InvalidTime, match="has no time zone"):
        source.read_transactions(START.replace(tzinfo=None), END)
    assert not feed.server.asked


def test_without_an_address_it_says_what_to_set(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIPTYCH_FRAUD_URL")
    for reading in (read, source.read_cards, source.span):
        with pytest.raises(NotFound, match=r"set TRIPTYCH_FRAUD_URL=<base URL> and TRIPTYCH_FRAUD_TOKEN"):
            reading()


# --- secrets and replay ------------------------------------------------------------------------------


def test_token_is_in_no_log_no_message_and_no_file(feed: Feed, caplog: pytest.LogCaptureFixture) -> None:
    """F20, with a bank that echoes it."""
    caplog.set_level(logging.DEBUG)
    read()
    feed.server.troubles.append(Reply(403, f"token {CANARY} is not known".encode()))
    with pytest.raises(RequestRefused) as refused:
        read()
    feed.server.troubles.append(Reply.of_json({"error": f"token {CANARY} has expired"}))
    with pytest.raises(UnexpectedAnswer) as strange:
        read()
    said = [str(caught.value) + repr(caught.value.__cause__) for caught in (refused, strange)]
    assert "HTTP Request" in caplog.text  # httpx did log: the canary had its chance
    assert not [text for text in [*said, caplog.text] if CANARY in text]
    kept = [path for path in feed.settings.home.rglob("*") if path.is_file()]
    assert kept
    assert not [path for path in kept if CANARY.encode() in path.read_bytes()]


def test_window_is_read_again_from_what_was_kept_with_the_network_off(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F19: raw payloads are kept."""
    first, asked = read(), len(feed.server.asked)
    monkeypatch.setenv("TRIPTYCH_HTTP_REPLAY", "true")
    assert_frame_equal(read(), first, check_exact=True)
    assert len(feed.server.asked) == asked
    with pytest.raises(NotFound, match="No answer of bank"):
        source.read_transactions(START - DAY, END)


# --- the feature pipeline on a live feed -------------------------------------------------------------


def rows_of(settings: Settings, group: str) -> pd.DataFrame:
    fs = featurestore.connect(home=settings.store_home)
    return fs.get_feature_group(group, schema.VERSION).read()


@pytest.fixture
def nine_days(prefect_api: None, feed: Feed, monkeypatch: pytest.MonkeyPatch) -> Feed:
    """Nine days of the bank, so that the first outcomes are known."""
    monkeypatch.setenv("TRIPTYCH_FRAUD_PAGE", "5000")
    feed.bank = Bank(START + 9 * DAY)
    feed.server.routes.update(feed.bank.routes())
    return feed


def test_live_features_are_those_of_the_simulator(nine_days: Feed, features_of_90_days: Path) -> None:
    end = START + 9 * DAY
    with windows.frozen(end):
        assert fraud_features() > 0
    with living_in(features_of_90_days) as simulated:
        for group, time in ((schema.LABELS_GROUP, "known_at"), (schema.TRANSACTIONS_GROUP, "datetime")):
            # The simulator has a past before its first day, and the bank has not: what needs one is not compared.
            needs_past = ("seconds_since_", "distance_", "speed_", "amount_to_")
            live_rows = rows_of(nine_days.settings, group)
            same = [name for name in live_rows if not name.startswith(needs_past)]
            there = rows_of(simulated, group)
            there = there[(there[time] >= START) & (there[time] < end)].reset_index(drop=True)
            assert_frame_equal(live_rows[same], there[same], check_exact=True)


def test_late_transaction_and_corrected_outcome_land_and_an_old_window_run_again_undoes_neither(
    nine_days: Feed,
) -> None:
    """F5, and late revisions: what the feed says later is upserted, and stays."""
    late, bank = nine_days.bank.transactions.pop(-5), nine_days.bank
    with windows.frozen(START + 9 * DAY):
        fraud_features()
    assert late["tid"] not in set(rows_of(nine_days.settings, schema.TRANSACTIONS_GROUP)["tid"])
    first = bank.outcomes[0]
    bank.transactions.append(late)
    bank.outcomes.append(
        first | {"is_fraud": not first["is_fraud"], "known_at": as_text(START + 9 * DAY + timedelta(minutes=5))}
    )
    bank.until = START + 9 * DAY + timedelta(hours=1)
    with windows.frozen(bank.until):
        fraud_features()
    transactions = rows_of(nine_days.settings, schema.TRANSACTIONS_GROUP)
    assert sorted(transactions["tid"]) == sorted(row["tid"] for row in bank.transactions)

    def outcome() -> tuple[int, int]:
        known = rows_of(nine_days.settings, schema.LABELS_GROUP)
        return len(known), known.set_index("tid")["is_fraud"][first["tid"]]

    assert outcome() == (len(bank.outcomes) - 1, int(not first["is_fraud"]))
    fraud_features(start=START, end=START + timedelta(hours=1))  # in which the first outcome became known
    assert outcome() == (len(bank.outcomes) - 1, int(not first["is_fraud"]))


def test_run_of_a_feed_that_fails_writes_nothing_and_the_next_one_covers_all(nine_days: Feed) -> None:
    nine_days.bank.transactions[7]["currency"] = "EUR"
    with windows.frozen(START + 9 * DAY):
        with pytest.raises(UnexpectedAnswer, match="is in 'EUR'"):
            fraud_features()
        nine_days.bank.transactions[7]["currency"] = "USD"
        fraud_features()
    assert len(rows_of(nine_days.settings, schema.TRANSACTIONS_GROUP)) == len(nine_days.bank.transactions)
