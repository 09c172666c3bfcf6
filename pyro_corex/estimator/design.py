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
        distinct: list[Array] = []
        exact = [self._exact(coding.column(x, i), c, distinct) for i, c in enumerate(self.columns)]
        self.exact = Indicators.of(exact, np.array([len(values) for values in distinct]))
        """Indicators of the levels of columns, and of the distinct values of numbers."""
        self.values = np.concatenate(distinct)
        """What the cells stand for."""
        rough = (self._rough(level, i, distinct[i]) for i, level in enumerate(exact))
        numbers = any(not c.n_levels for c in self.columns)
        width = np.array([c.n_levels or _BINS for c in self.columns])
        self.hot = Indicators.of(rough, width) if numbers else self.exact
        """Indicators of levels; numbers count by their quartiles while groups are sought."""
        self.width, self.starts = self.hot.width, self.hot.starts
        self.of = np.repeat(np.arange(self.d), self.width)
        share = self.hot.counts(self.often[:, None])[:, 0] + 1e-12
        self.marginal = share / np.add.reduceat(share, self.starts[:-1])[self.of]

    def _exact(self, code: Array, column: Column, distinct: list[Array]) -> Array:
        seen = ~np.isnan(code)
        level = np.full(self.n, -1, dtype=np.int32)
        if column.n_levels:
            level[seen] = code[seen]
            distinct.append(np.arange(column.n_levels, dtype=float))
        else:
            values, level[seen] = np.unique(code[seen], return_inverse=True)
            distinct.append(values)
        return level

    def _rough(self, level: Array, i: int, values: Array) -> Array:
        if self.columns[i].n_levels:
            return level
        seen = level >= 0
        code = values[level[seen]]
        out = np.full(self.n, -1)
        out[seen] = np.searchsorted(quantiles(code, self.often[seen], _BINS), code)
        return out
