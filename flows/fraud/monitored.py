"""What is watched of the fraud system's model once it serves."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from flows.fraud import modelling, schema
from flows.monitored import Beside, Measure, Monitored, Retraining, Said, Truth

if TYPE_CHECKING:
    import pandas as pd

NOT_KNOWN = "is not known"
"""How a prediction says that it had never heard of its card."""


def with_slices(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with what they are measured by, too.

    Args:
        rows: amount, and why: what a prediction had to do without.
    Returns:
        With card ("known" or "unknown") and amount_band ("50 to 100 USD"; null without an amount).

    >>> import pandas as pd
    >>> rows = with_slices(pd.DataFrame({"amount": [19.9, 20.0, 500.0], "why": ["", "card 7 is not known", None]}))
    >>> rows["amount_band"].tolist(), rows["card"].tolist()
    (['0 to 20 USD', '20 to 50 USD', 'from 200 USD'], ['known', 'unknown', 'known'])
    """
    import numpy as np
    import pandas as pd

    bands = modelling.AMOUNT_BANDS
    names = [*(f"{low:g} to {high:g} USD" for low, high in pairwise(bands)), f"from {bands[-1]:g} USD"]
    band = pd.cut(rows["amount"], [*bands, np.inf], right=False, labels=names)
    is_unknown = rows["why"].fillna("").str.contains(NOT_KNOWN, regex=False)
    return rows.assign(amount_band=band.astype(object), card=np.where(is_unknown, "unknown", "known"))


FRAUD = Monitored(
    model=schema.MODEL,
    # Training compares with a logistic regression and a tree, which nobody stores the scores of. The order of the
    # amounts is what anybody can say of a transaction, and says more than the prevalence.
    said=Said(
        schema.PREDICTIONS_GROUP, time="datetime", forecast="score", baseline="amount",
        baseline_name="the larger the amount", served="first",
    ),
    truth=Truth(
        schema.LABELS_GROUP, key=("tid",), column="is_fraud", target_time="datetime",
        expires_after=timedelta(days=30),
        beside=(Beside(schema.TRANSACTIONS_GROUP, ("tid",), ("amount",)),), derive=with_slices,
    ),
    # Four weeks, and one that is not known yet.
    measure=Measure("average_precision", unit="", span=timedelta(days=35), slices=("card", "amount_band")),
    retraining=Retraining(modelling.SPLITS),
    calendar=frozenset({"hour", "is_weekend", "is_night"}),
    estimated=True,
)  # fmt: skip

MONITORED = (FRAUD,)
