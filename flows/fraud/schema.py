"""The contract of the fraud system's feature groups: columns, units, and the rules a batch must pass."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from featurestore.schema import Feature
from flows.requests import Request
from flows.rules import Suite, between, columns, in_set, later, never_null

LABEL_DELAY = timedelta(days=7)
"""A fraud is known this long after the transaction: the card's owner has to notice it."""

FALSE_ALARM_USD = 10.0
"""What it costs to ask an honest owner whether it was them; a missed fraud costs its amount."""

CARD_SPANS: Mapping[str, timedelta] = {
    "1h": timedelta(hours=1),
    "4h": timedelta(hours=4),
    "1d": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
"""The trailing windows of a card, in hours and days, never in rows."""

RISK_SPANS: Mapping[str, timedelta] = {"1d": timedelta(days=1), "7d": timedelta(days=7), "30d": timedelta(days=30)}
"""The trailing windows of a merchant, counted by the time labels became known."""

CARD_TTL = timedelta(days=30)
"""A card silent for longer has no windows and no previous place, in training and online alike."""

MERCHANT_TTL = timedelta(days=30)
"""A merchant without a new label for longer has no known risk."""

VERSION = 1
"""Of every group and of the view: a column that changes its meaning gets a new version beside the old one."""

TRANSACTIONS_GROUP = "fraud_transactions"
CARD_WINDOWS_GROUP = "fraud_card_windows"
CARDS_GROUP = "fraud_cards"
MERCHANT_RISK_GROUP = "fraud_merchant_risk"
LABELS_GROUP = "fraud_labels"
PREDICTIONS_GROUP = "fraud_predictions"

VIEW = "fraud_detection"
MODEL = "fraud_detection"
"""The registered model's name. All else about a model is in its lineage, never in a constant."""


TRANSACTIONS = (
    Feature("tid", "string", "The transaction."),
    Feature("datetime", "timestamp", "When it was asked for."),
    Feature("cc_num", "string", "The card, as text: a number has no arithmetic."),
    Feature("merchant_id", "string", "Merchant or terminal; null where the source names none."),
    Feature("category", "string", "What is sold; null where the source does not say.", on_demand=True),
    Feature("amount", "double", "What was asked for.", unit="USD", on_demand=True),
    Feature("latitude", "double", "Where; null where there is no place.", unit="degrees", on_demand=True),
    Feature("longitude", "double", "Where; null where there is no place.", unit="degrees", on_demand=True),
    Feature("hour", "int", "Hour of the day, UTC.", unit="h", on_demand=True),
    Feature("is_weekend", "boolean", "Saturday or Sunday, UTC.", on_demand=True),
    Feature("is_night", "boolean", "From midnight to 06:00, UTC.", on_demand=True),
    Feature("seconds_since_previous", "double", "Since the card's previous transaction.", unit="s", on_demand=True),
    Feature("distance_km", "double", "From the place of the card's previous transaction.", unit="km", on_demand=True),
    Feature("speed_kmh", "double", "That distance over that time.", unit="km/h", on_demand=True),
    Feature("amount_to_mean_7d", "double", "Amount over the card's 7-day mean before it.", on_demand=True),
    Feature("amount_to_mean_30d", "double", "Amount over the card's 30-day mean before it.", on_demand=True),
    Feature("age_years", "double", "Age of the card's owner.", unit="years", on_demand=True),
    Feature("days_to_expiry", "double", "To the end of the card's last valid day.", unit="days", on_demand=True),
)
"""One row per transaction, known the moment it is asked for."""

CARD_WINDOWS = (
    Feature("cc_num", "string", "The card."),
    Feature("datetime", "timestamp", "One microsecond after a transaction: it is booked, the next one may see it."),
    *(
        feature
        for span in CARD_SPANS
        for feature in (
            Feature(f"amount_count_{span}", "int", f"Transactions in the {span} up to and with this booking."),
            Feature(f"amount_mean_{span}", "double", f"Mean amount in these {span}.", unit="USD"),
            Feature(f"amount_std_{span}", "double", "Their standard deviation; 0 for a single one.", unit="USD"),
            Feature(f"amount_max_{span}", "double", f"Largest amount in these {span}.", unit="USD"),
        )
    ),
    Feature("last_datetime", "timestamp", "Time of the booked transaction, for what is computed at a request."),
    Feature("last_latitude", "double", "Its place; null where there is none.", unit="degrees"),
    Feature("last_longitude", "double", "Its place; null where there is none.", unit="degrees"),
)
"""One row per card and booking."""

CARDS = (
    Feature("cc_num", "string", "The card."),
    Feature("opened", "timestamp", "Since when the card is known."),
    Feature("birthdate", "date", "Of its owner; null where the source does not say."),
    Feature("expires", "date", "Last valid day; null where the source does not say."),
)
"""One row per card."""

MERCHANT_RISK = (
    Feature("merchant_id", "string", "Merchant or terminal."),
    Feature("known_at", "timestamp", "When labels of it became known."),
    *(
        feature
        for span in RISK_SPANS
        for feature in (
            Feature(f"merchant_label_count_{span}", "int", f"Its transactions labelled in the last {span}."),
            Feature(f"merchant_fraud_share_{span}", "double", "Share of frauds among them."),
        )
    ),
)
"""One row per merchant and time at which labels became known."""

LABELS = (
    Feature("tid", "string", "The transaction."),
    Feature("datetime", "timestamp", "When it was asked for."),
    Feature("is_fraud", "int", "1 if it turned out to be a fraud, else 0."),
    Feature("known_at", "timestamp", "When that became known."),
)
"""One row per transaction whose outcome is known."""

ADDED_TO_PREDICTIONS = (
    Feature("degraded", "boolean", "Something was missing that the model had when it was judged."),
    Feature("why", "string", "What was missing; empty if nothing."),
    Feature("reasons", "string", "The features that weighed most, as JSON: feature, value, contribution to log-odds."),
    Feature("made_at", "timestamp", "When this row was computed."),
    Feature("backfilled", "boolean", "Computed when the outcome was known: a reconstruction, no prediction."),
)
"""Columns that the group got later; null in rows made before."""

PREDICTIONS = (
    Feature("tid", "string", "The transaction."),
    Feature("model_version", "int", "Version of the registered model that scored it."),
    Feature("datetime", "timestamp", "When it was asked for."),
    Feature("cc_num", "string", "The card."),
    Feature("score", "double", "The model's probability of fraud."),
    Feature("threshold", "double", "Scores from here on are flagged."),
    Feature("is_flagged", "boolean", "Score at or above the threshold."),
    Feature("feature_view", "string", "The view the model was trained on, as name@version."),
    Feature("training_dataset_version", "int", "The training set whose transformations were used."),
    Feature("scored_at", "timestamp", "End of the batch it was scored in."),
    *ADDED_TO_PREDICTIONS,
)
"""One row per transaction and model version; what was once said of a transaction is never changed."""

NEVER_FEATURES = {"tid", "cc_num", "merchant_id", "datetime", "known_at", "opened", "latitude", "longitude"}
"""Keys and times would be learned by heart; a place matters only as the distance from the card's previous place."""

SPINE_FEATURES = [name for name in columns(TRANSACTIONS) if name not in NEVER_FEATURES]
CARD_FEATURES = [name for name in columns(CARD_WINDOWS) if name.startswith("amount_")]
MERCHANT_FEATURES = [name for name in columns(MERCHANT_RISK) if name not in NEVER_FEATURES]

REQUEST_FEATURES = ["category", "amount"]
"""What a request brings itself; the other spine features are computed from it."""

ASKED = {"cc_num", "datetime", "amount", "merchant_id", "category", "latitude", "longitude"}
REQUEST = Request(
    models=[MODEL],
    fields=[feature for feature in TRANSACTIONS if feature.name in ASKED],
    required=["cc_num", "datetime", "amount"],
    example={
        "cc_num": "4000123400000501", "datetime": "2026-07-01T02:30:00Z", "amount": 940.0, "merchant_id": "m1",
        "category": "travel", "latitude": 52.2, "longitude": 21.0,
    },
)  # fmt: skip
"""What a bank asks before it books."""

CARD_HELPERS = ["last_datetime", "last_latitude", "last_longitude", "amount_mean_7d", "amount_mean_30d"]
"""What a request looks up of its card's newest booking, to compute the on-demand features."""

CARD_DATES = ["birthdate", "expires"]
"""What a request looks up of its card."""


TRANSACTIONS_RULES: Suite = {
    "name": "fraud_transactions",
    "expectations": [
        *never_null("tid", "datetime", "cc_num", "amount", "hour", "is_weekend", "is_night"),
        between("amount", 0, 1_000_000),
        between("latitude", -90, 90),
        between("longitude", -180, 180),
        between("hour", 0, 23),
        between("seconds_since_previous", 0, CARD_TTL.total_seconds() + 1),
        between("distance_km", 0, 20_040),
        between("speed_kmh", 0, None),
        between("amount_to_mean_30d", 0, None),
        # Sources have been seen with owners of 14 and of 106 years: worth a look, not worth stopping the hour's data.
        between("age_years", 10, 120, severity="warning"),
        between("days_to_expiry", 0, 4_000, severity="warning"),
    ],
}

CARD_WINDOWS_RULES: Suite = {
    "name": "fraud_card_windows",
    "expectations": [
        *never_null("cc_num", "datetime", "last_datetime"),
        *(
            each
            for span in CARD_SPANS
            for each in (
                *never_null(f"amount_count_{span}", f"amount_mean_{span}", f"amount_std_{span}", f"amount_max_{span}"),
                between(f"amount_count_{span}", 1, None),
                between(f"amount_mean_{span}", 0, 1_000_000),
                between(f"amount_std_{span}", 0, None),
                between(f"amount_max_{span}", 0, 1_000_000),
            )
        ),
        later("datetime", than="last_datetime"),
    ],
}

CARDS_RULES: Suite = {"name": "fraud_cards", "expectations": never_null("cc_num", "opened")}

MERCHANT_RISK_RULES: Suite = {
    "name": "fraud_merchant_risk",
    "expectations": [
        *never_null("merchant_id", "known_at"),
        *(
            each
            for span in RISK_SPANS
            for each in (
                *never_null(f"merchant_label_count_{span}", f"merchant_fraud_share_{span}"),
                between(f"merchant_label_count_{span}", 1, None),
                between(f"merchant_fraud_share_{span}", 0, 1),
            )
        ),
    ],
}

LABELS_RULES: Suite = {
    "name": "fraud_labels",
    "expectations": [
        *never_null("tid", "datetime", "is_fraud", "known_at"),
        in_set("is_fraud", [0, 1]),
        later("known_at", than="datetime"),
    ],
}

PREDICTIONS_RULES: Suite = {
    "name": "fraud_predictions",
    "expectations": [
        *never_null("tid", "model_version", "datetime", "score", "threshold", "is_flagged", "scored_at"),
        *never_null(*columns(ADDED_TO_PREDICTIONS)),
        between("score", 0, 1),
        between("threshold", 0, 1),
    ],
}
