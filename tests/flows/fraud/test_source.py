"""Every source gives the same shape, any window is the sum of its parts, and what is missing is said."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from featurestore.errors import InvalidTime, NotFound, SchemaMismatch
from flows.fraud import schema, source

DAY = timedelta(days=1)
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
SOURCES = ["simulated", "handbook", "sparkov", "serverless"]


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with three rows of each table, in its own columns and units."""
    folder = tmp_path / "data" / "fraud"
    folder.mkdir(parents=True)
    times = pd.to_datetime(["2022-03-01 10:00:00", "2022-03-02 10:00:00", "2022-03-02 23:59:59"]).as_unit("us")
    pd.DataFrame({
        "transaction_id": [10, 9, 11], "tx_datetime": times, "customer_id": [596, 596, 7], "terminal_id": [3156, 1, 2],
        "tx_amount": [57.16, 1.0, 2.5], "tx_time_seconds": 0, "tx_time_days": 0, "tx_fraud": [0, 1, 0],
        "tx_fraud_scenario": [0, 2, 0],
    }).to_parquet(folder / source.HANDBOOK)  # fmt: skip
    pd.DataFrame({
        "transaction_id": ["a", "b", "c"], "cc_num": [2704895543937690, 2704895543937690, 180032174357488],
        "transaction_time_local": times - pd.Timedelta(hours=5), "unix_time": times.astype("int64") // 1_000_000,
        "category": ["home", "home", "travel"], "amount_usd": [91.47, 1.0, 2.5],
        "merchant": ["fraud_Sporer Inc", "fraud_Kris", "fraud_Kris"], "merchant_lat": [44.3, 1.0, 2.0],
        "merchant_lon": [-98.2, 1.0, 2.0], "is_fraud": [0, 1, 0],
    }).to_parquet(folder / source.SPARKOV)  # fmt: skip
    pd.DataFrame({
        "cc_num": [2704895543937690, 180032174357488, 5], "has_transactions_here": [True, True, False], "lat": 1.0,
        "date_of_birth": pd.to_datetime(["1942-03-21", "1980-06-01", "1990-01-01"]).as_unit("us"), "lon": 2.0,
    }).to_parquet(folder / source.SPARKOV_CARDS)  # fmt: skip
    pd.DataFrame({
        "tid": ["x", "y", "z"], "datetime": times, "cc_num": [4000323325541926, 4000323325541926, 4001468975474818],
        "category": ["Grocery", "Grocery", "Jewelery"], "amount": [91.16, 1.0, 2.5], "latitude": [40.6, 1.0, 2.0],
        "longitude": [-73.9, 1.0, 2.0], "city": "Salem", "country": "US", "fraud_label": [0, 1, 0],
    }).to_parquet(folder / source.SERVERLESS)  # fmt: skip
    numbers = [4000323325541926, 4001468975474818]
    pd.DataFrame({"cc_num": numbers, "provider": "visa", "expires": ["02/24", "06/26"]}).to_parquet(
        folder / source.SERVERLESS_CARDS
    )
    births = pd.to_datetime(["1996-09-06", "1976-10-16"]).as_unit("us")
    profiles = pd.DataFrame({"cc_num": numbers[::-1], "name": "N", "birthdate": births})
    profiles.to_parquet(folder / source.SERVERLESS_PROFILES)
    monkeypatch.setenv("TRIPTYCH_DATA", str(tmp_path / "data"))
    for name in ("TRIPTYCH_SOURCE", "TRIPTYCH_FRAUD_TABLE"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_columns_and_dtypes_in_the_same_order(tables: Path, name: str) -> None:
    window = source.span(source=name)
    rows = source.read_transactions(window.start, min(window.end, window.start + 3 * DAY), source=name)
    assert {column: str(dtype) for column, dtype in rows.dtypes.items()} == dict(source.TRANSACTIONS)
    assert rows.equals(rows.sort_values(["datetime", "tid"], ignore_index=True))
    assert rows["tid"].is_unique
    labels = source.read_labels(*(time + schema.LABEL_DELAY for time in window), source=name).head(500)
    assert {column: str(dtype) for column, dtype in labels.dtypes.items()} == dict(source.LABELS)
    assert (labels["known_at"] - labels["datetime"] == schema.LABEL_DELAY).all()
    assert set(rows["source"]) == {name}
    cards = source.read_cards(source=name)
    assert {column: str(dtype) for column, dtype in cards.dtypes.items()} == dict(source.CARDS)
    assert set(rows["cc_num"]) <= set(cards["cc_num"])
    assert (cards["opened"] <= rows["datetime"].min()).all()


@pytest.mark.parametrize("name", SOURCES)
def test_an_empty_window_has_the_same_columns_and_dtypes(tables: Path, name: str) -> None:
    rows = source.read_transactions(NEW_YEAR - 9000 * DAY, NEW_YEAR - 9000 * DAY, source=name)
    labels = source.read_labels(NEW_YEAR - 9000 * DAY, NEW_YEAR - 9000 * DAY, source=name)
    assert {column: str(dtype) for column, dtype in rows.dtypes.items()} == dict(source.TRANSACTIONS)
    assert {column: str(dtype) for column, dtype in labels.dtypes.items()} == dict(source.LABELS)
    assert rows.empty
    assert labels.empty


@pytest.mark.parametrize("name", SOURCES[1:])
def test_tables_are_read_half_open(tables: Path, name: str) -> None:
    noon = datetime(2022, 3, 1, 10, tzinfo=UTC)
    assert source.read_transactions(noon, noon + DAY, source=name)["amount"].size == 1
    assert source.read_transactions(noon, noon + DAY + timedelta(microseconds=1), source=name)["amount"].size == 2
    assert source.span(source=name) == (datetime(2022, 3, 1, tzinfo=UTC), datetime(2022, 3, 3, tzinfo=UTC))


def test_handbook_rows_have_no_place_no_category_and_no_scenario(tables: Path) -> None:
    rows = source.read_transactions(datetime(2022, 3, 1, tzinfo=UTC), datetime(2022, 3, 3, tzinfo=UTC))
    assert rows["tid"].tolist() == ["10", "9", "11"]
    assert rows["cc_num"].tolist() == ["596", "596", "7"]
    assert rows["merchant_id"].tolist() == ["3156", "1", "2"]
    assert rows[["category", "latitude", "longitude"]].isna().all(axis=None)
    assert "tx_fraud_scenario" not in rows


def test_sparkov_places_are_the_merchants_and_times_are_the_unambiguous_ones(tables: Path) -> None:
    rows = source.read_transactions(*source.span(source="sparkov"), source="sparkov")
    assert rows["datetime"][0] == pd.Timestamp("2022-03-01 10:00", tz="UTC")  # the wall clock says 05:00
    assert rows["merchant_id"].tolist() == ["Sporer Inc", "Kris", "Kris"]
    assert (rows["latitude"][0], rows["longitude"][0]) == (44.3, -98.2)
    assert source.read_cards(source="sparkov")["cc_num"].tolist() == ["180032174357488", "2704895543937690"]


def test_serverless_rows_have_no_merchant_and_cards_expire_on_the_last_day_of_their_month(tables: Path) -> None:
    rows = source.read_transactions(*source.span(source="serverless"), source="serverless")
    assert rows["merchant_id"].isna().all()
    cards = source.read_cards(source="serverless")
    assert cards["expires"].tolist() == [pd.Timestamp("2024-02-29"), pd.Timestamp("2026-06-30")]
    assert cards["birthdate"].tolist() == [pd.Timestamp("1976-10-16"), pd.Timestamp("1996-09-06")]


# --- the simulator -----------------------------------------------------------------------------------

minutes = st.integers(-60 * 24 * 400, 60 * 24 * 400)


@given(minutes, st.integers(0, 4000), st.integers(0, 4000))
@settings(max_examples=15, deadline=None)
def test_the_simulator_gives_the_same_rows_in_one_window_or_in_two(start: int, first: int, second: int) -> None:
    a = NEW_YEAR + timedelta(minutes=start)
    b, c = a + timedelta(minutes=first), a + timedelta(minutes=first + second)
    read = [source.read_transactions(*window, source="simulated") for window in ((a, b), (b, c), (a, c))]
    assert_frame_equal(pd.concat(read[:2], ignore_index=True), read[2], check_exact=True)


def test_the_simulator_gives_the_same_rows_when_asked_in_another_zone() -> None:
    zone = ZoneInfo("Asia/Tokyo")
    there = source.read_transactions(NEW_YEAR.astimezone(zone), (NEW_YEAR + DAY).astimezone(zone), source="simulated")
    here = source.read_transactions(NEW_YEAR, NEW_YEAR + DAY, source="simulated")
    assert_frame_equal(here, there, check_exact=True)


def outcomes(start: datetime, end: datetime) -> pd.DataFrame:
    """How the simulator's transactions of [start, end) turned out."""
    return source.read_labels(start + schema.LABEL_DELAY, end + schema.LABEL_DELAY, source="simulated")


def test_the_simulators_first_day_is_what_it_was() -> None:
    """Whoever changes these figures changes every figure that the demo shows."""
    rows = source.read_transactions(NEW_YEAR, NEW_YEAR + DAY, source="simulated")
    frauds = outcomes(NEW_YEAR, NEW_YEAR + DAY)["is_fraud"].sum()
    assert (len(rows), rows["amount"].sum().round(2), frauds) == (434, 34001.73, 11)


def test_the_simulator_has_a_believable_number_of_transactions_and_frauds() -> None:
    rows = source.read_transactions(NEW_YEAR, NEW_YEAR + 60 * DAY, source="simulated")
    rows = rows.merge(outcomes(NEW_YEAR, NEW_YEAR + 60 * DAY)[["tid", "is_fraud"]], on="tid", validate="1:1")
    assert 300 < len(rows) / 60 < 600
    assert 0.005 < rows["is_fraud"].mean() < 0.012
    legit, fraud = (rows.loc[rows["is_fraud"] == n, "amount"] for n in (0, 1))
    assert legit.quantile(0.99) > fraud.median()  # amounts overlap: no threshold tells them apart
    assert (rows["amount"] * 100).round().sub(rows["amount"] * 100).abs().max() < 1e-6


# --- labels ------------------------------------------------------------------------------------------


def test_labels_are_read_by_the_time_they_became_known() -> None:
    known = source.read_labels(NEW_YEAR + schema.LABEL_DELAY, NEW_YEAR + schema.LABEL_DELAY + DAY, source="simulated")
    rows = source.read_transactions(NEW_YEAR, NEW_YEAR + DAY, source="simulated")
    assert known.columns.tolist() == list(source.LABELS)
    assert known["tid"].tolist() == rows["tid"].tolist()
    assert known["known_at"].between(NEW_YEAR + schema.LABEL_DELAY, NEW_YEAR + schema.LABEL_DELAY + DAY).all()


# --- what can be wrong -------------------------------------------------------------------------------


NAIVE = NEW_YEAR.replace(tzinfo=None)


@pytest.mark.parametrize("bounds", [(NAIVE, NEW_YEAR), (NEW_YEAR, NAIVE)])
def test_naive_times_are_refused(bounds: tuple[datetime, datetime]) -> None:
    with pytest.raises(InvalidTime, match=r"2026-01-01 00:00:00 has no time zone"):
        source.read_transactions(*bounds, source="simulated")


def test_a_window_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(InvalidTime, match="Swap the two"):
        source.read_transactions(NEW_YEAR + DAY, NEW_YEAR, source="simulated")


def test_a_missing_table_is_named_with_what_is_there_instead(tables: Path) -> None:
    (tables / source.HANDBOOK).unlink()
    with pytest.raises(NotFound, match=r"Expected the table .*handbook_transactions.*sparkov_customers"):
        source.read_transactions(NEW_YEAR, NEW_YEAR + DAY)


def test_a_missing_folder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRIPTYCH_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(NotFound, match=r"nowhere/fraud: no such folder"):
        source.read_cards()


def test_files_without_a_folder_ask_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIPTYCH_DATA", raising=False)
    monkeypatch.setenv("TRIPTYCH_SOURCE", "files")
    with pytest.raises(NotFound, match="Set TRIPTYCH_DATA"):
        source.read_cards()


def test_an_unknown_table_lists_the_known_ones(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_FRAUD_TABLE", "kaggle")
    with pytest.raises(
        NotFound, match=r"'kaggle'. Use one of \['simulated', 'live', 'handbook', 'sparkov', 'serverless'\]"
    ):
        source.read_transactions(NEW_YEAR, NEW_YEAR + DAY)


def test_a_live_source_needs_an_address_and_the_simulator_does_not_stand_in_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRIPTYCH_SOURCE", "live")
    monkeypatch.delenv("TRIPTYCH_FRAUD_URL", raising=False)
    with pytest.raises(NotFound, match=r"no public feed of card transactions.*set TRIPTYCH_FRAUD_URL=<base URL>"):
        source.read_transactions(NEW_YEAR, NEW_YEAR + DAY)


def test_a_column_of_another_type_is_named(tables: Path) -> None:
    rows = pd.read_parquet(tables / source.HANDBOOK)
    rows.assign(tx_amount=rows["tx_amount"].astype("str")).to_parquet(tables / source.HANDBOOK)
    with pytest.raises(SchemaMismatch, match="Source 'handbook' gives 'amount' as str, expected float64"):
        source.read_transactions(*source.span())


def test_the_settings_choose_the_source(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert source.source_name() == "handbook"
    monkeypatch.setenv("TRIPTYCH_FRAUD_TABLE", "sparkov")
    assert source.source_name() == "sparkov"
    monkeypatch.setenv("TRIPTYCH_SOURCE", "simulated")
    assert source.source_name() == "simulated"
    monkeypatch.delenv("TRIPTYCH_SOURCE")
    monkeypatch.delenv("TRIPTYCH_DATA")
    assert source.source_name() == "simulated"
