"""A table a part at a time, so that what is made of it in passing stays small."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from pyro_corex.estimator.sparse import Table, dense

MAX_ROWS = 20_000
"""Rows on which the bound is evaluated; of longer tables a random subset, see :func:`most_rows`."""
_MOST_CELLS = 1 << 23  # entries of these rows
_LEAST_ROWS = 1_000  # that are looked at even so
_CELLS = 1 << 17  # entries, 1 MB in 64 bits


def blocks(count: int, each: int) -> Iterator[slice]:
    """Slices of ``count`` rows or columns, as many as hold 2^17 entries, and at least one.

    :param each: how many entries each of them has.
    """
    step = max(1, _CELLS // max(each, 1))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def most_rows(d: int) -> int:
    """On how many rows of d columns the bound is evaluated: so many as memory should take."""
    return min(MAX_ROWS, max(_LEAST_ROWS, _MOST_CELLS // d))


def some_rows(x: Table, rng: np.random.RandomState) -> Any:
    """Which rows of a table are looked at."""
    most = most_rows(x.shape[1])
    return slice(None) if len(x) <= most else np.sort(rng.choice(len(x), most, replace=False))


def fingerprint(x: Table) -> str:
    """Tells tables of one size apart, by the rows that come first."""
    some = np.ascontiguousarray(dense(x[: most_rows(x.shape[1])]))
    return hashlib.sha256(some.data).hexdigest()
