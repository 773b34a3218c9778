"""Resampling by blocks: rows of one day are not independent, so whole days are drawn. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featurestore.errors import InvalidData

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]


def draws(blocks: NDArray[np.intp], *, resamples: int, seed: int) -> NDArray[np.int64]:
    """How often each block is drawn in each resample: a matrix (resamples x blocks).

    Args:
        blocks: the block of each row, 0..n-1, of `codes`.
    Raises:
        InvalidData: there is only one block.

    >>> draws(np.array([0, 0, 1]), resamples=2, seed=0).sum(axis=1).tolist()
    [2, 2]
    """
    number = int(blocks.max(initial=-1)) + 1
    if number < 2:
        raise InvalidData("An interval needs at least two blocks (days) to resample; all rows are in one.")
    return np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=resamples)


def bounds(values: Floats, confidence: float) -> tuple[float, float]:
    """The percentile interval of resampled values; those that are no number are left out.

    >>> bounds(np.array([1.0, 2.0, 3.0, np.nan]), 1.0)
    (1.0, 3.0)
    """
    usable = values[~np.isnan(values)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(usable, [tail, 1 - tail])
    return float(low), float(high)


def floats(values: ArrayLike, name: str) -> Floats:
    """The values as float64.

    Raises:
        InvalidData: one is null or infinite.

    >>> floats([1, 2], "score").tolist()
    [1.0, 2.0]
    """
    import pandas as pd

    # By way of a Series: it turns every kind of null (None, pd.NA of a nullable integer) into NaN.
    numbers = pd.Series(values).to_numpy(dtype=np.float64, na_value=np.nan)
    if not np.isfinite(numbers).all():
        bad = int((~np.isfinite(numbers)).sum())
        raise InvalidData(
            f"{name} has {bad:,} null or infinite values in {len(numbers):,} rows. Drop or fill them first."
        )
    return numbers


def codes(values: ArrayLike, name: str, n: int) -> NDArray[np.intp]:
    """The values numbered from 0 in their order, one number per row.

    Raises:
        InvalidData: there are not n of them.

    >>> codes(["mon", "tue", "mon"], "blocks", 3).tolist()
    [0, 1, 0]
    """
    array = np.asarray(values)
    if len(array) != n:
        raise InvalidData(f"{name} has {len(array):,} rows, y has {n:,}; expected as many.")
    return np.unique(array, return_inverse=True)[1].astype(np.intp)


def texts(values: ArrayLike, name: str, n: int) -> NDArray[np.str_]:
    """The values of a slice column as text; a null is called "null".

    Raises:
        InvalidData: there are not n of them.

    >>> texts([1, None], "age", 2).tolist()
    ['1', 'null']
    """
    import pandas as pd

    items = np.asarray(values, dtype=object)
    if len(items) != n:
        raise InvalidData(f"Slice column {name!r} has {len(items):,} rows, y has {n:,}; expected as many.")
    return np.where(pd.isna(items), "null", items.astype(str))
