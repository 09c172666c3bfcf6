"""Which of its values each entry of a column has, as a sparse matrix that counts and sums."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy.sparse import csc_array
from scipy.sparse.linalg import LinearOperator, eigsh

from pyro_corex.estimator.columns import Array

_NONE = 1e-9  # a count that is 0 but for rounding
_CELLS = 1 << 20  # entries of a matrix that is decomposed as a whole


class Indicators:
    """The 0/1 matrix ``(N, cells)`` of the values of columns: a cell for each value that a column
    may have, all 0 where its entry is missing.

    Of each column the most frequent value is not stored, so that a column which is mostly zero
    takes the memory and the time of its other entries.
    """

    def __init__(self, entries: Any, width: Array, own: Array, most: Array) -> None:
        """See :meth:`of`, which makes them.

        :param entries: ``(N, cells)``, with a cell more for the gaps of columns that have some.
        :param width: how many values each column may have, ``(k,)``.
        :param own: how many of the cells are a column's, ``(k,)``.
        :param most: the cell of each column that is not stored, counted from its first, ``(k,)``.
        """
        self._entries, self.width, self._own, self._most = entries, width, own, most
        self.n = entries.shape[0]
        self.starts = np.concatenate([[0], np.cumsum(width)]).astype(int)
        """Where the cells of each column start, and the end: ``(k + 1,)``."""
        self._first = np.concatenate([[0], np.cumsum(own)]).astype(int)
        self._cells = np.repeat(self._first[:-1] - self.starts[:-1], width) + np.arange(
            self.starts[-1]
        )
        self._base = self._first[:-1] + most

    @classmethod
    def of(cls, columns: Iterable[tuple[Array, int]]) -> Indicators:
        """From columns: their values counted from 0, ``(N,)``, -1 where missing, and how many
        values they may have.
        """
        rows, cells, most = [np.zeros(0, int)], [np.zeros(0, int)], []
        width, own, first, n = [], [], 0, 0
        for level, k in columns:
            n, gaps = len(level), level < 0
            width.append(k)
            own.append(k + int(gaps.any()))
            level = np.where(gaps, k, level)
            most.append(int(np.bincount(level).argmax()))
            rows.append(np.flatnonzero(level != most[-1]))
            cells.append(first + level[rows[-1]])
            first += own[-1]
        at = np.concatenate(rows), np.concatenate(cells)
        entries = csc_array((np.ones(len(at[0])), at), shape=(n, first))
        return cls(entries, *(np.array(each, dtype=int) for each in (width, own, most)))

    def __len__(self) -> int:
        """The number of columns."""
        return len(self.width)

    def take(self, columns: Any) -> Indicators:
        """Those of some columns, in this order."""
        columns = np.asarray(columns, dtype=int)
        own = self._own[columns]
        ends = np.cumsum(own)
        cells = np.repeat(self._first[columns] - ends + own, own) + np.arange(own.sum())
        return Indicators(self._entries[:, cells], self.width[columns], own, self._most[columns])

    def blocks(self, cells: int) -> list[Array]:
        """The columns in parts that have about so many cells each, or a single column."""
        part = (self.starts[:-1]) // max(1, cells)
        return np.split(np.arange(len(self)), np.flatnonzero(np.diff(part)) + 1)

    def counts(self, q: Array) -> Array:
        """The transpose times weights of the rows, ``(N, S)``: ``(cells, S)``."""
        return self._whole(q)[self._cells]

    def _whole(self, q: Array) -> Array:
        out: Array = self._entries.T @ q
        if len(self):
            rest = q.sum(0) - np.add.reduceat(out, self._first[:-1])
            out[self._base] = np.where(np.abs(rest) > _NONE, rest, 0.0)
        return out

    def dot(self, table: Array) -> Array:
        """The matrix times a table, ``(cells, S)``: for each row the sum of what its values have
        there, ``(N, S)``.
        """
        out = np.zeros((self._entries.shape[1], table.shape[1]))
        out[self._cells] = table
        base = out[self._base]
        out -= np.repeat(base, self._own, 0)
        return np.asarray(base.sum(0) + self._entries @ out)

    def joint(self, other: Indicators, often: Array) -> Array:
        """How often cells occur together with those of other columns of the same rows, each of
        which counts so ``often``: ``(cells, other's cells)``.
        """
        own = self._entries
        weighted = csc_array((often[own.indices], own.indices, own.indptr), shape=own.shape)
        out: Array = (weighted.T @ other._entries).toarray()
        mine, others = self._whole(often[:, None])[:, 0], other._whole(often[:, None])[:, 0]
        out[:, other._base] = mine[:, None] - np.add.reduceat(out, other._first[:-1], 1)
        out[self._base] = 0.0
        out[self._base] = others - np.add.reduceat(out, self._first[:-1], 0)
        out[out < _NONE] = 0.0
        return np.asarray(out[self._cells][:, other._cells])

    def levels(self, columns: Any) -> Array:
        """The values of some columns, ``(N, len(columns))``, -1 where missing."""
        out = np.empty((self.n, len(columns)), dtype=int)
        entries = self._entries
        for at, i in enumerate(columns):
            start, end = self._first[i], self._first[i + 1]
            bounds = entries.indptr[start : end + 1]
            cell = np.repeat(np.arange(end - start), np.diff(bounds))
            out[:, at] = self._most[i]
            out[entries.indices[bounds[0] : bounds[-1]], at] = cell
            out[out[:, at] == self.width[i], at] = -1
        return out


def leading(
    forward: Callable[[Array], Array],
    back: Callable[[Array], Array],
    shape: tuple[int, int],
    k: int,
) -> Array:
    """The rows of a matrix by its first principal components, the last of them the largest:
    ``(N, k)``, the left singular vectors times the singular values.

    :param forward: the matrix times vectors, ``(columns, S)``.
    :param back: its transpose times vectors, ``(N, S)``.
    :param shape: that of the matrix.
    """
    n, columns = shape
    side = min(shape)
    k = min(k, side)

    def gram(v: Array) -> Array:
        return back(forward(v)) if columns <= n else forward(back(v))

    if n * columns <= _CELLS or k >= side - 1:
        values, vectors = np.linalg.eigh(gram(np.eye(side)))
        values, vectors = values[-k:], vectors[:, -k:]
    else:
        products = LinearOperator(
            (side, side), matvec=lambda v: gram(v.reshape(-1, 1))[:, 0], dtype=np.float64
        )
        start = np.random.default_rng(0).standard_normal(side)
        values, vectors = eigsh(products, k, which="LA", v0=start, tol=1e-6)
    return forward(vectors) if columns <= n else vectors * np.sqrt(np.maximum(values, 0.0))
