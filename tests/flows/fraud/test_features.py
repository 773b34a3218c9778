"""Worked examples of the fraud features, and the laws their arithmetic rests on."""

from __future__ import annotations

import math
import timeit
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import InvalidData, InvalidTime, SchemaMismatch
from flows.fraud import features, schema

START = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
WARSAW, CRACOW = (52.23, 21.01), (50.06, 19.94)


def transactions(*rows: tuple[str, str, float, float], places: list[tuple[float, float]] | None = None) -> pd.DataFrame:
    """Rows of (tid, card, hours after START, amount)."""
    tids, cards, hours, amounts = zip(*rows, strict=True)
    places = places or [WARSAW] * len(rows)
    return pd.DataFrame(
        {
            "tid": list(tids),
            "datetime": pd.Series([START + timedelta(hours=h) for h in hours], dtype="datetime64[us, UTC]"),
            "cc_num": list(cards),
            "merchant_id": "m1",
            "category": pd.Series([None] * len(rows), dtype="str"),
            "amount": [float(a) for a in amounts],
            "latitude": [place[0] for place in places],
            "longitude": [place[1] for place in places],
        }
    )


def cards(**values: Any) -> pd.DataFrame:
    card = {"cc_num": "1", "opened": START - timedelta(days=900)}
    card |= {"birthdate": date(1990, 1, 5), "expires": date(2026, 1, 31)}
    return pd.DataFrame([card | values]).astype({"opened": "datetime64[us, UTC]"})


def features_of(table: pd.DataFrame, of_cards: pd.DataFrame | None = None) -> pd.DataFrame:
    return features.transaction_features(table, features.card_windows(table), cards() if of_cards is None else of_cards)


# --- card windows ------------------------------------------------------------------------------------


def test_a_window_is_hours_and_holds_its_own_transaction_but_not_one_exactly_its_length_ago() -> None:
    windows = features.card_windows(transactions(("a", "1", 0, 10), ("b", "1", 1, 20), ("c", "1", 1.5, 60)))
    # At 1:00 the row of 0:00 has just left the hour (t - 1h, t]; at 1:30 the hour holds 20 and 60.
    assert windows["amount_count_1h"].tolist() == [1, 1, 2]
    assert windows["amount_mean_1h"].tolist() == [10, 20, 40]
    assert windows["amount_max_1h"].tolist() == [10, 20, 60]
    assert windows["amount_count_4h"].tolist() == [1, 2, 3]
    assert windows["amount_mean_4h"].tolist() == [10, 15, 30]


def test_deviation_is_the_samples_and_zero_for_a_single_row() -> None:
    windows = features.card_windows(transactions(("a", "1", 0, 10), ("b", "1", 1, 20), ("c", "1", 2, 60)))
    assert windows["amount_std_1h"].tolist() == [0, 0, 0]
    assert windows["amount_std_4h"].tolist() == [0, math.sqrt(50), math.sqrt((400 + 100 + 900) / 2)]


def test_deviation_of_equal_amounts_is_exactly_zero() -> None:
    windows = features.card_windows(transactions(*[(str(n), "1", n / 10, 19_999.99) for n in range(7)]))
    assert windows["amount_std_1d"].tolist() == [0.0] * 7


def test_a_booking_is_one_microsecond_after_its_transaction_and_keeps_the_transactions_time_and_place() -> None:
    windows = features.card_windows(transactions(("a", "1", 0, 10), places=[CRACOW]))
    assert windows["datetime"].tolist() == [pd.Timestamp(START + timedelta(microseconds=1))]
    assert windows["last_datetime"].tolist() == [pd.Timestamp(START)]
    assert (windows["last_latitude"].item(), windows["last_longitude"].item()) == CRACOW


def test_two_transactions_of_a_card_at_the_same_microsecond_share_one_booking() -> None:
    windows = features.card_windows(
        transactions(("b", "1", 0, 10), ("a", "1", 0, 30), ("c", "2", 0, 5), places=[WARSAW, CRACOW, CRACOW])
    )
    assert windows["cc_num"].tolist() == ["1", "2"]
    assert windows["amount_count_1h"].tolist() == [2, 1]
    assert windows["amount_mean_1h"].tolist() == [20, 5]
    assert windows["last_latitude"].tolist() == [WARSAW[0], CRACOW[0]]  # of tid b, the largest


def test_cards_do_not_mix() -> None:
    windows = features.card_windows(transactions(("a", "1", 0, 10), ("b", "2", 0.1, 20), ("c", "1", 0.2, 30)))
    assert windows[["cc_num", "amount_count_1h"]].to_numpy().tolist() == [["1", 1], ["1", 2], ["2", 1]]


amounts = st.integers(0, 2_000_000).map(lambda cents: cents / 100)
moments = st.integers(0, 70 * 24 * 6).map(lambda n: n / 6)
tables = st.lists(st.tuples(st.sampled_from("12"), moments, amounts), min_size=1, max_size=40).map(
    lambda rows: transactions(*[(f"{n:03d}", *row) for n, row in enumerate(rows)])
)


@given(tables)
@settings(max_examples=40, deadline=None)
def test_windows_equal_a_loop_over_all_rows(table: pd.DataFrame) -> None:
    windows = features.card_windows(table)
    assert len(windows) == len(table.drop_duplicates(["cc_num", "datetime"]))
    for row in windows.itertuples():
        for name, span in schema.CARD_SPANS.items():
            age = row.last_datetime - table["datetime"]
            inside = table[(table["cc_num"] == row.cc_num) & (age >= timedelta(0)) & (age < span)]["amount"]
            assert getattr(row, f"amount_count_{name}") == len(inside)
            assert getattr(row, f"amount_max_{name}") == inside.max()
            assert getattr(row, f"amount_mean_{name}") == pytest.approx(inside.mean(), rel=1e-12)
            std = inside.std() if len(inside) > 1 else 0.0
            assert getattr(row, f"amount_std_{name}") == pytest.approx(std, rel=1e-9, abs=1e-6)


@given(tables, st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_windows_do_not_depend_on_what_lies_before_the_warm_up(table: pd.DataFrame, days: int) -> None:
    """Equal to the last bit: sums are whole cents, so what was added before leaves no trace."""
    since = pd.Timestamp(START + timedelta(days=days))
    read = table[table["datetime"] >= since - features.CARD_WARM_UP]
    full, increment = features.card_windows(table), features.card_windows(read)
    pd.testing.assert_frame_equal(
        full[full["datetime"] >= since].reset_index(drop=True),
        increment[increment["datetime"] >= since].reset_index(drop=True),
        check_exact=True,
    )


def test_a_missing_column_is_named() -> None:
    with pytest.raises(SchemaMismatch, match=r"card_windows needs the columns \['amount'\]; transactions has \['tid'"):
        features.card_windows(transactions(("a", "1", 0, 1)).drop(columns="amount"))


def test_naive_times_are_refused() -> None:
    table = transactions(("a", "1", 0, 1))
    with pytest.raises(InvalidTime, match="expected times with a time zone"):
        features.card_windows(table.assign(datetime=table["datetime"].dt.tz_localize(None)))


@pytest.mark.parametrize("amount", [0.001, math.nan, math.inf, 2e6, -0.01])
def test_an_amount_that_is_no_whole_number_of_cents_is_refused(amount: float) -> None:
    with pytest.raises(InvalidData, match=r"1 of 2 rows\) is not a number of whole cents"):
        features.card_windows(transactions(("a", "1", 0, 1), ("b", "1", 1, amount)))


@pytest.mark.parametrize("place", [(90.5, 21.0), (52.2, -181.0), (math.inf, 0.0)])
def test_a_place_that_is_not_on_earth_is_refused_and_names_its_transaction(place: tuple[float, float]) -> None:
    table = transactions(("a", "1", 0, 1), ("b", "1", 1, 1), places=[WARSAW, place])
    with pytest.raises(InvalidData, match=r"of transaction b \(1 of 2 rows\): expected degrees from -(90|180) to"):
        features.card_windows(table)


# --- merchant risk -----------------------------------------------------------------------------------


def labels(*rows: tuple[str | None, float, int]) -> pd.DataFrame:
    """Rows of (merchant, known at days after START, is_fraud)."""
    merchants, days, frauds = zip(*rows, strict=True)
    known_at = pd.Series([START + timedelta(days=d) for d in days], dtype="datetime64[us, UTC]")
    return pd.DataFrame({"merchant_id": pd.Series(merchants, dtype="str"), "known_at": known_at, "is_fraud": frauds})


def test_merchant_risk_counts_labels_by_the_time_they_became_known() -> None:
    risk = features.merchant_risk(labels(("m", 0, 1), ("m", 0.5, 0), ("m", 7, 0), ("n", 7, 1)))
    assert risk["merchant_id"].tolist() == ["m", "m", "m", "n"]
    assert risk["merchant_label_count_1d"].tolist() == [1, 2, 1, 1]
    assert risk["merchant_fraud_share_1d"].tolist() == [1.0, 0.5, 0.0, 1.0]
    assert risk["merchant_label_count_7d"].tolist() == [1, 2, 2, 1]  # at day 7 the label of day 0 has just left
    assert risk["merchant_fraud_share_30d"].tolist() == [1.0, 0.5, 1 / 3, 1.0]


def test_labels_known_at_the_same_moment_share_one_row_and_a_missing_merchant_has_no_risk() -> None:
    risk = features.merchant_risk(labels(("m", 0, 1), ("m", 0, 0), (None, 0, 1)))
    assert risk[["merchant_label_count_1d", "merchant_fraud_share_1d"]].to_numpy().tolist() == [[2, 0.5]]


# --- what is computed at a request -------------------------------------------------------------------


def test_distance_and_speed_are_from_the_previous_place_never_from_the_next() -> None:
    table = transactions(("a", "1", 0, 10), ("b", "1", 2, 10), ("c", "1", 4, 10), places=[WARSAW, CRACOW, CRACOW])
    result = features_of(table)
    assert result["distance_km"].round(0).tolist()[1:] == [253, 0]
    assert result["speed_kmh"].round(0).tolist()[1:] == [126, 0]
    assert result["seconds_since_previous"].tolist()[1:] == [7200, 7200]
    assert result.loc[0, ["distance_km", "speed_kmh", "seconds_since_previous"]].isna().all()


def test_an_amount_is_compared_with_the_mean_before_it() -> None:
    result = features_of(transactions(("a", "1", 0, 10), ("b", "1", 1, 30), ("c", "1", 2, 100)))
    assert result["amount_to_mean_7d"].tolist()[1:] == [3.0, 5.0]  # 30 to 10, 100 to the mean of 10 and 30
    assert math.isnan(result["amount_to_mean_7d"][0])


def test_a_mean_of_zero_gives_no_ratio() -> None:
    assert features_of(transactions(("a", "1", 0, 0), ("b", "1", 1, 30)))["amount_to_mean_7d"].isna().all()


def test_two_transactions_at_the_same_moment_do_not_see_each_other() -> None:
    result = features_of(transactions(("a", "1", 0, 10), ("b", "1", 0, 30)))
    assert result["seconds_since_previous"].isna().all()
    assert result["amount_to_mean_7d"].isna().all()


def test_a_microsecond_between_two_places_gives_a_finite_speed() -> None:
    table = transactions(("a", "1", 0, 10), ("b", "1", 1e-6 / 3600, 10), places=[WARSAW, CRACOW])
    table.loc[1, "datetime"] = pd.Timestamp(START + timedelta(microseconds=1))
    result = features_of(table)
    assert result["seconds_since_previous"][1] == 1e-6
    assert result["speed_kmh"][1] == pytest.approx(result["distance_km"][1] * 3600)  # as over one second


@pytest.mark.parametrize(("microseconds", "is_known"), [(0, True), (1, False)])
def test_a_booking_older_than_its_time_to_live_is_forgotten(microseconds: int, is_known: bool) -> None:
    table = transactions(("a", "1", 0, 10), ("b", "1", 0, 20))
    late = START + features.BOOKING + schema.CARD_TTL + timedelta(microseconds=microseconds)
    table.loc[1, "datetime"] = pd.Timestamp(late)
    assert features_of(table)["amount_to_mean_30d"].notna()[1] == is_known


def test_calendar_features_are_utc() -> None:
    saturday = 5 * 24
    hours = [5.99, 6, saturday - 0.01, saturday]
    result = features_of(transactions(*[(tid, "1", hour, 1) for tid, hour in zip("abcd", hours, strict=True)]))
    assert result["hour"].tolist() == [5, 6, 23, 0]
    assert result["is_night"].tolist() == [True, False, False, True]
    assert result["is_weekend"].tolist() == [False, False, False, True]


def test_age_and_expiry_are_of_the_transactions_time() -> None:
    result = features_of(transactions(("a", "1", 0, 1), ("b", "1", 24, 1)))
    # From 1990-01-05 to 2026-01-05 are 13149 days; the card is valid to the end of the 31st, 27 days from the 5th.
    assert result["age_years"][0] == 13149 / 365.2425
    assert result["days_to_expiry"].tolist() == [27.0, 26.0]


def test_a_card_without_dates_or_not_yet_opened_has_null_age_and_expiry() -> None:
    for table in (cards(birthdate=None, expires=None), cards(opened=START + timedelta(days=1)), cards(cc_num="9")):
        result = features_of(transactions(("a", "1", 0, 1)), table)
        assert result[["age_years", "days_to_expiry"]].isna().all(axis=None)


def test_the_outcome_of_a_transaction_changes_no_feature() -> None:
    table = transactions(("a", "1", 0, 10), ("b", "1", 1, 30))
    pd.testing.assert_frame_equal(features_of(table.assign(is_fraud=0)), features_of(table.assign(is_fraud=1)))


places = st.tuples(st.floats(-90, 90), st.floats(-180, 180)) | st.just((math.nan, math.nan))


@given(
    st.lists(st.tuples(st.sampled_from("12"), st.integers(0, 5 * 10**12), amounts, places), min_size=2, max_size=20),
    st.sampled_from([None, date(1950, 2, 28)]),
)
@settings(max_examples=60, deadline=None)
def test_a_request_gives_the_numbers_of_history_to_the_last_bit(
    rows: list[tuple[str, int, float, tuple[float, float]]], birthdate: date | None
) -> None:
    table = transactions(
        *[(f"{n:03d}", card, 0.0, amount) for n, (card, _, amount, _) in enumerate(rows)],
        places=[place for *_, place in rows],
    )
    table["datetime"] = pd.Series(
        [START + timedelta(microseconds=micros) for _, micros, _, _ in rows], dtype="datetime64[us, UTC]"
    )
    windows, card = features.card_windows(table), cards(birthdate=birthdate)
    history = features.transaction_features(table, windows, card)
    for row in history.to_dict("records"):
        of_card = windows[(windows["cc_num"] == row["cc_num"]) & (windows["datetime"] <= row["datetime"])]
        known = card.iloc[0].to_dict() if row["cc_num"] == "1" else {}
        booking = {} if of_card.empty else of_card.iloc[-1].to_dict()
        if booking and row["datetime"] - booking["datetime"] > schema.CARD_TTL:
            booking = {}
        computed = features.request_features(row, card_windows=booking, card=known)
        for name, value in computed.items():
            stored = row[name]
            assert (value is None and pd.isna(stored)) or value == stored, name


def test_a_request_returns_plain_values_of_the_declared_types() -> None:
    at = START + timedelta(hours=3)
    booking = {"last_datetime": START, "last_latitude": WARSAW[0], "last_longitude": WARSAW[1], "amount_mean_7d": 5.0}
    request = {"datetime": at, "amount": 10, "latitude": CRACOW[0], "longitude": CRACOW[1]}
    computed = features.request_features(request, card_windows=booking, card={"birthdate": date(1990, 1, 5)})
    declared = {f.name: f.dtype for f in schema.TRANSACTIONS if f.on_demand}
    kinds = {"int": int, "boolean": bool, "double": float}
    assert set(computed) == set(declared) - {"category", "amount", "latitude", "longitude"}
    for name, value in computed.items():
        assert value is None or type(value) is kinds[declared[name]], name
    assert computed["days_to_expiry"] is None
    assert computed["amount_to_mean_7d"] == 2.0


def test_a_request_needs_its_time_and_amount() -> None:
    with pytest.raises(SchemaMismatch, match=r"A request needs \['amount'\]; it has \['datetime'\]"):
        features.request_features({"datetime": START}, card_windows={}, card={})


def test_a_request_with_a_naive_time_is_refused() -> None:
    with pytest.raises(InvalidTime, match="has no time zone"):
        features.request_features({"datetime": datetime(2026, 1, 1), "amount": 1.0}, card_windows={}, card={})


def test_a_request_is_not_compared_with_a_booking_of_its_own_time_or_later() -> None:
    with pytest.raises(InvalidTime, match="score it before it is booked"):
        features.request_features({"datetime": START, "amount": 1.0}, card_windows={"last_datetime": START}, card={})


def test_a_request_takes_far_less_than_a_millisecond() -> None:
    booking = {"last_datetime": START, "last_latitude": 52.0, "last_longitude": 21.0, "amount_mean_7d": 5.0}
    request = {"datetime": START + timedelta(hours=1), "amount": 10.0, "latitude": 50.0, "longitude": 20.0}
    card = {"birthdate": date(1990, 1, 1), "expires": date(2027, 1, 1)}
    seconds = timeit.repeat(
        lambda: features.request_features(request, card_windows=booking, card=card), number=50, repeat=5
    )
    assert min(seconds) / 50 < 0.001  # 0.06 ms alone on a core; the rest is for a busy machine


def test_distance_is_symmetric_and_survives_opposite_ends_of_the_earth() -> None:
    here, there = np.array([0.0]), np.array([180.0])
    assert features.distance_km(here, here, here, there).item() == pytest.approx(math.pi * features.EARTH_RADIUS_KM)
    assert features.distance_km(here, there, here, here).item() == features.distance_km(here, here, here, there).item()
