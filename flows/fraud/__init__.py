"""Card fraud: is this transaction made by the card's owner? Answered for each request, and for the day's batch."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from flows import FeatureFunction

if TYPE_CHECKING:
    import pandas as pd


def feature_functions() -> tuple[FeatureFunction, ...]:
    """The system's feature functions, fed by the simulator, for the laws that hold for every system.

    >>> [declared.name for declared in feature_functions()]
    ['card_windows', 'merchant_risk', 'transaction_features', 'known_labels']
    """
    from flows.fraud import features, schema, source  # pandas is not needed to know that this system exists

    def transactions(start: datetime, end: datetime) -> Mapping[str, pd.DataFrame]:
        return {"transactions": source.read_transactions(start, end, source=source.SIMULATED)}

    def labels(start: datetime, end: datetime) -> Mapping[str, pd.DataFrame]:
        return {"labels": source.read_labels(start, end, source=source.SIMULATED)}

    def requests(start: datetime, end: datetime) -> Mapping[str, pd.DataFrame]:
        rows = source.read_transactions(start, end, source=source.SIMULATED)
        cards = source.read_cards(source=source.SIMULATED)
        return {"transactions": rows, "card_windows": features.card_windows(rows), "cards": cards}

    end = datetime(2026, 3, 20, tzinfo=UTC)
    checked = timedelta(days=4)
    return (
        FeatureFunction(
            features.card_windows, transactions, input_times={"transactions": "datetime"}, key=("cc_num",),
            event_time="datetime", features=schema.CARD_WINDOWS, warm_up=features.CARD_WARM_UP,
            sample=(end - checked - features.CARD_WARM_UP, end),
        ),
        FeatureFunction(
            features.merchant_risk, labels, input_times={"labels": "known_at"}, key=("merchant_id",),
            event_time="known_at", features=schema.MERCHANT_RISK, warm_up=features.RISK_WARM_UP,
            sample=(end - checked - features.RISK_WARM_UP, end),
        ),
        FeatureFunction(
            features.transaction_features, requests,
            input_times={"transactions": "datetime", "card_windows": "datetime", "cards": "opened"}, key=("cc_num",),
            event_time="datetime", features=schema.TRANSACTIONS, warm_up=features.TRANSACTION_WARM_UP,
            sample=(end - checked - features.TRANSACTION_WARM_UP, end),
        ),
        FeatureFunction(
            features.known_labels, labels, input_times={"labels": "known_at"}, key=("tid",), event_time="known_at",
            features=schema.LABELS, warm_up=timedelta(0), sample=(end - checked, end),
        ),
    )  # fmt: skip
