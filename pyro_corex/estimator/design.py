"""The columns of a table as categorical layers see them: indicators of levels and values."""

from __future__ import annotations

import numpy as np

from pyro_corex.estimator.columns import Array, Coding, Column
from pyro_corex.estimator.indicators import Indicators
from pyro_corex.estimator.sparse import Table
from pyro_corex.estimator.weights import quantiles

_BINS = 4


class Design:
    """The columns of a table as indicators of their levels and values."""

    def __init__(self, coding: Coding, x: Table, often: Array | None = None) -> None:
        self.columns = coding.used
        self.n, self.d = len(x), len(coding.used)
        self.often = np.ones(self.n) if often is None else often  # each row counts
        self.total = float(self.often.sum())
        self.weight = np.ones(self.d)
        """How often the likelihood of each column counts."""
        values: list[Array] = []
        self.exact = Indicators.of(
            self._exact(coding.column(x, i), column, values)
            for i, column in enumerate(self.columns)
        )
        """Indicators of the levels of columns, and of the distinct values of numbers."""
        self.values = np.concatenate(values)
        """What the cells stand for."""
        self.hot = self.exact
        """Indicators of levels; numbers count by their quartiles while groups are sought."""
        if any(not c.n_levels for c in self.columns):
            self.hot = Indicators.of(self._rough(i, values[i]) for i in range(self.d))
        self.width, self.starts = self.hot.width, self.hot.starts
        self.of = np.repeat(np.arange(self.d), self.width)
        share = self.hot.counts(self.often[:, None])[:, 0] + 1e-12
        self.marginal = share / np.add.reduceat(share, self.starts[:-1])[self.of]

    def _exact(self, code: Array, column: Column, values: list[Array]) -> tuple[Array, int]:
        seen = ~np.isnan(code)
        level = np.full(self.n, -1)
        if column.n_levels:
            level[seen] = code[seen]
            values.append(np.arange(column.n_levels, dtype=float))
        else:
            own, level[seen] = np.unique(code[seen], return_inverse=True)
            values.append(own)
        return level, len(values[-1])

    def _rough(self, i: int, values: Array) -> tuple[Array, int]:
        level = self.exact.levels([i])[:, 0]
        if self.columns[i].n_levels:
            return level, len(values)
        seen = level >= 0
        code = values[level[seen]]
        level[seen] = np.searchsorted(quantiles(code, self.often[seen], _BINS), code)
        return level, _BINS
