"""Tables of which most entries are not stored: scipy's sparse ones, never as one dense array."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

Array = NDArray[Any]

WHOLE = 1 << 27
"""Entries up to which a sparse table is made a dense one, where that is what is asked for."""


class SparseTable:
    """Numbers ``(N, d)`` that are indexed as an array's are: ``x[rows]`` is a table of this kind,
    and ``x[:, columns]`` an array, of these columns alone.
    """

    def __init__(self, stored: Any, rest: Array | None = None) -> None:
        """Takes what scipy stores, and what stands for all other entries of each column, ``(d,)``:
        0, unless it is told.
        """
        self.by_row = csr_array(stored)
        self.shape: tuple[int, int] = self.by_row.shape
        self.dtype = self.by_row.dtype
        self.rest = np.zeros(self.shape[1], self.dtype) if rest is None else rest

    @cached_property
    def by_column(self) -> Any:
        """What is stored, as ``by_row`` has it, column by column."""
        return csc_array(self.by_row)

    @property
    def size(self) -> int:
        """The number of entries, stored or not."""
        return self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, tuple):
            return SparseTable(self.by_row[key], self.rest)
        columns = key[1]
        if isinstance(columns, (int, np.integer)):
            values, rows = self.stored(int(columns))
            out = np.full(len(self), self.rest[columns])
            out[rows] = values
            return out
        return _filled(self.by_column[:, columns], self.rest[columns])

    def stored(self, column: int) -> tuple[Array, Array]:
        """The stored entries of a column, and their rows."""
        start, end = self.by_column.indptr[column : column + 2]
        return self.by_column.data[start:end], self.by_column.indices[start:end]

    def repeat(self, times: Array, axis: int = 0) -> SparseTable:
        """Each row so many times, as numpy has it."""
        return self[np.repeat(np.arange(len(self)), times)]


Table = Array | SparseTable
"""Numbers with NaN, ``(N, d)``."""


def _filled(stored: Any, rest: Array) -> Array:
    entries = stored.tocoo()
    out = np.empty(stored.shape, stored.dtype)
    out[:] = rest
    out[entries.row, entries.col] = entries.data
    return out


def dense(x: Table) -> Array:
    """A block of rows as an array."""
    return _filled(x.by_row, x.rest) if isinstance(x, SparseTable) else x


def map_columns(x: Table, function: Callable[[int, Array, Array], Array]) -> Table:
    """A table of the same shape, each column of which is a function of one, entry by entry.

    :param function: of the number of a column, some values, and how many entries have each.
    """
    if not isinstance(x, SparseTable):
        once = np.ones(len(x), dtype=int)
        return np.stack([function(i, x[:, i], once) for i in range(x.shape[1])], 1)
    out, rest = x.by_column.copy(), x.rest.copy()
    for i in range(x.shape[1]):
        values, rows = x.stored(i)
        k, left = len(rows), len(x) - len(rows)
        all_values, often = np.append(values, rest[i]), np.append(np.ones(k, dtype=int), left)
        some = slice(k + bool(left))
        found = function(i, all_values[some], often[some])
        out.data[out.indptr[i] : out.indptr[i + 1]] = found[:k]
        rest[i : i + 1] = found[k:] if left else rest[i]
    return SparseTable(out, rest)


def check_size(x: Table, cells: int, what: str, cure: str) -> None:
    """Raises ``ValueError`` for a sparse table of which so many dense numbers would be made."""
    if isinstance(x, SparseTable) and cells > WHOLE:
        n, d = x.shape
        raise ValueError(
            f"X is sparse and has {n} rows and {d} columns, of which {what} would make {cells} "
            f"dense numbers, {cells * 8 / 1e9:.1f} GB. {cure}"
        )
