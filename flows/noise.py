"""Noise that depends on nothing but a seed, an entity and a number: a simulator's rows are the same in any window."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def uniform(seed: int, stream: int, entity: Integers, number: Integers) -> Floats:
    """A number in [0, 1) for each entity and number: hashed, so that it depends on nothing else (splitmix64).

    Args:
        stream: numbers of different streams have nothing to do with each other.

    >>> again = [uniform(5, 1, np.array([0, 0]), np.array([7, 8])).round(3).tolist() for _ in range(2)]
    >>> again[0] == again[1], again[0][0] != again[0][1]
    (True, True)
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is what a hash is made of
        mixed = np.uint64(seed * 1_000_003 + stream) * np.uint64(0x9E3779B97F4A7C15)
        bits = number.astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9) + mixed
        bits = bits + entity.astype(np.uint64) * np.uint64(0x94D049BB133111EB)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
        bits ^= bits >> np.uint64(31)
    return np.asarray((bits >> np.uint64(11)).astype(np.float64) / 2.0**53)


def normal(seed: int, stream: int, entity: Integers, number: Integers) -> Floats:
    """A number of mean 0 and variance 1 for each entity and number.

    >>> bool(abs(normal(5, 1, np.zeros(10_000, np.int64), np.arange(10_000)).std() - 1) < 0.03)
    True
    """
    # The sum of twelve uniform numbers: close enough to a normal one, and cheap.
    draws = [uniform(seed, 1000 * stream + draw, entity, number) for draw in range(12)]
    return np.asarray(np.sum(draws, axis=0) - 6.0)


def smooth(seed: int, stream: int, entity: Integers, number: Integers, every: int) -> Floats:
    """Noise of about unit variance: drawn at knots `every` numbers apart, a smooth curve between.

    >>> curve = smooth(5, 1, np.zeros(100, np.int64), np.arange(100), 50)
    >>> bool(np.abs(np.diff(curve)).max() < 0.2)
    True
    """
    knot, at = number // every, (number % every) / every
    before, after = (normal(seed, stream, entity, knot + step) for step in (0, 1))
    weight = at * at * (3 - 2 * at)
    mixed = before * (1 - weight) + after * weight
    return np.asarray(mixed / np.sqrt((1 - weight) ** 2 + weight**2))
