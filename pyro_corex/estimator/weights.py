"""Weights of rows: how often each counts."""

from __future__ import annotations

import reprlib
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.validation import _num_samples

from pyro_corex.estimator.columns import Array
from pyro_corex.estimator.frames import as_table
from pyro_corex.estimator.sparse import Table

_MANY = 100  # rows for each one that is there, from which whole numbers are doubted
_PATTERNS = 200  # rows that a table of frequencies has hardly
_CELLS = 1 << 29  # entries of repeated rows that memory should take
_CLOSE = 4  # copies of a row by which a weight is approximated


@dataclass
class Weights:
    """How the rows of a table ``(N, d)`` count."""

    given: Array | None = None
    """As the user has them, ``(N,)``."""
    behind: int | None = None
    """How many rows are behind correlations, for which the rows are made up."""

    @classmethod
    def read(cls, sample_weight: Any, x: Any, n_rows: int | None = None) -> Weights:
        """The weights that a user gives.

        :param n_rows: how many rows are behind correlations; ``x`` are those that have them.
        :raises TypeError: for what are no numbers.
        :raises ValueError: for other shapes, negative weights, NaN, weights that are all 0, and
            where correlations stand for ``n_rows`` rows.
        """
        if sample_weight is None:
            return cls() if n_rows is None else cls(np.full(len(x), n_rows / len(x)), n_rows)
        if n_rows is not None:
            raise ValueError(
                "sample_weight must be None where n_rows is given: correlations are those of rows "
                "that had their weights already"
            )
        n = _num_samples(as_table(x))
        try:
            found = np.asarray(sample_weight, dtype=np.float64)
        except (TypeError, ValueError):
            raise TypeError(
                f"sample_weight must be a number for each of the {n} rows, but got "
                f"{reprlib.repr(sample_weight)}"
            ) from None
        if found.shape != (n,):
            raise ValueError(
                f"sample_weight must have the shape ({n},), a weight for each row, but got "
                f"{found.shape}"
            )
        wrong = ~(np.isfinite(found) & (found >= 0))
        if wrong.any():
            raise ValueError(
                f"sample_weight must be numbers >= 0, but got {found[wrong][0]:g}. Give 0 to rows "
                "that shall not count."
            )
        if not found.any():
            raise ValueError("sample_weight must be above 0 for some rows, but all are zero")
        same = found[found > 0]
        return cls(found / same[0] if (same == same[0]).all() and same[0] % 1 else found)

    @property
    def own(self) -> Array | None:
        """Those of the rows that count; survey weights add up to their effective number."""
        if self.given is None:
            return None
        own = self.given[self.given > 0]
        return own if self.whole or self.behind else own * (own.sum() / (own**2).sum())

    @property
    def described(self) -> Array | None:
        """Those by which the shape of columns is told: that of rows made up says nothing."""
        return self.own if self.given is None or not self.behind else self.given / self.behind

    @property
    def whole(self) -> bool:
        """Whether the weights say how often each row is there."""
        if self.given is None:
            return True
        return bool((self.given == (1 if self.behind else np.round(self.given))).all())

    @property
    def survey(self) -> Array | None:
        """Those of a survey, of the rows that count."""
        return None if self.whole else self.own

    def total(self, n: int) -> float:
        """How many rows n are, those that count."""
        return float(self.behind or (n if self.own is None else self.own.sum()))

    def keep(self, x: Any) -> Any:
        """The table without the rows that count for nothing."""
        if self.given is None or self.given.all():
            return x
        x, rows = as_table(x), np.flatnonzero(self.given)
        return x.iloc[rows] if hasattr(x, "iloc") else x[rows]

    def repeat(self, x: Table) -> Table:
        """The rows that are kept, as often as whole numbers say that they are there.

        :raises ValueError: for more than memory can take.
        """
        if self.own is None or not self.whole or (self.own == 1).all():
            return x
        total = self.own.sum()
        cure = "If they are weights of a survey, divide them by their mean."
        if total * x.shape[1] > _CELLS:
            raise ValueError(
                f"sample_weight has whole numbers, which say how often a row is there: {total:.0f} "
                f"rows are too many. {cure}"
            )
        if total > _MANY * len(x) and len(x) >= _PATTERNS:
            warnings.warn(
                f"sample_weight has whole numbers, which say how often a row is there: "
                f"{total:.0f} rows in all. {cure}",
                stacklevel=3,
            )
        return x.repeat(self.own.astype(int), 0)


def in_proportion(weight: Array, rng: np.random.Generator, total: int | None = None) -> Array:
    """Rows ``(total,)``, each in proportion to its weight, but for a fraction of one.

    By systematic sampling.
    """
    n = len(weight)
    total = total or max(n, min(_CLOSE * n, 400_000))
    ends = np.cumsum(weight) * (total / weight.sum())
    counts = np.diff(np.floor(ends + rng.random()), prepend=0.0)
    return np.repeat(np.arange(n), counts.astype(int))


def variance(values: Array, weight: Array | None, axis: int = 0) -> Array:
    """That of rows, of which one degree of freedom is lost."""
    if weight is None:
        return np.asarray(np.var(values, axis=axis, ddof=1))
    mean = np.expand_dims(np.average(values, axis, weight), axis)
    spread = np.average((values - mean) ** 2, axis, weight)
    n = weight.sum()
    return np.asarray(spread * n / max(n - 1.0, 1e-12))


def quantiles(x: Array, weight: Array, n: int) -> Array:
    """The inner ones that divide data ``(N,)`` into n parts of one weight: ``(n - 1,)``."""
    order = np.argsort(x, kind="stable")
    ends = np.cumsum(weight[order])
    at = np.searchsorted(ends, np.arange(1, n) / n * ends[-1])
    return np.asarray(x[order[np.minimum(at, len(x) - 1)]])
