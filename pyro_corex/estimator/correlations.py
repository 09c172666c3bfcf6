"""Correlations of the columns of a table, and those that a Gaussian layer expects."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
from scipy.special import ndtri
from scipy.stats import norm
from torch import Tensor

from pyro_corex.estimator.blocks import blocks
from pyro_corex.estimator.columns import Array, Column
from pyro_corex.estimator.gaussian import GaussianLayer
from pyro_corex.estimator.loadings import correlation_loadings

Parts = Iterable[tuple[Tensor, Array]]
"""Coded rows ``(B, d)`` and how often each counts, ``(B,)``, a part of them at a time."""

_PRODUCTS = 2e10  # of entries, from which pairs of columns are too many to be looked at
_MOST = 1_000  # columns up to which all correlations are held


class Correlations:
    """Those of codes of columns that are not categorical, and what the model says of them.

    Of up to 1,000 columns they are of all rows, and else of those that are looked at.

    :param x: coded rows that are looked at, ``(N, d)``, which count so ``often``.
    :param parts: gives all rows, a part at a time; without it these are all.
    """

    all: Array | None = None
    """``(k, k)``, of few columns."""

    def __init__(
        self,
        layer: GaussianLayer,
        x: Tensor,
        often: Array | None,
        parts: Callable[[], Parts] | None = None,
    ) -> None:
        scalar = np.array(layer.program.scalar, dtype=int)
        order = np.argsort(scalar)
        self.columns = scalar[order]
        self.names = [str(layer.columns[i].name) for i in self.columns]
        self._code = x.numpy()
        self.often = np.ones(len(x)) if often is None else often
        self.complete = True
        k = len(self.columns)
        if k <= _MOST:
            self._of_all(parts or (lambda: [(x, self.often)]))
        else:
            self._of_some()
        # loadings of the codes themselves: levels are coarser than what the latents predict
        rows = correlation_loadings(layer.program)[: len(scalar)][order]
        fine = np.array([_fineness(layer.columns[i]) for i in self.columns])
        self.loadings = rows * fine[:, None] @ np.linalg.inv(layer.rotation).T
        self.among = layer.correlations()

    def _of_all(self, parts: Callable[[], Parts]) -> None:
        known, total = np.zeros((2, k := len(self.columns)))
        for x, often in parts():
            z = x.numpy()[:, self.columns]
            seen = ~np.isnan(z)
            self.complete &= bool(seen.all())
            known += often @ seen
            total += often @ np.nan_to_num(z)
        self._loc = total / known
        products, counts = np.zeros((2, k, k))
        for x, often in parts():
            z = x.numpy()[:, self.columns] - self._loc
            if not self.complete:
                seen = (~np.isnan(z)).astype(float)
                counts += (seen * often[:, None]).T @ seen
            z = np.nan_to_num(z, copy=False)
            products += (z * often[:, None]).T @ z
        self.scale = np.sqrt(products.diagonal() / known)
        safe = np.maximum(self.scale, 1e-6)
        self.all = products / safe / safe[:, None]
        self.all /= known.max() if self.complete else np.maximum(counts, 1e-12)

    def _of_some(self) -> None:
        k = len(self.columns)
        self._loc, self.scale = np.zeros((2, k))
        for own in blocks(k, len(self._code)):
            z = self._code[:, self.columns[own]]
            seen = ~np.isnan(z)
            known = self.often @ seen
            loc = self.often @ np.nan_to_num(z) / known
            square = np.nan_to_num(z - loc) ** 2
            self._loc[own], self.scale[own] = loc, np.sqrt(self.often @ square / known)
            self.complete &= bool(seen.all())

    def _standardised(self, own: Array | slice) -> tuple[Array, Array]:
        """Standardised columns, 0 where they are missing, and where they are observed."""
        z = self._code[:, self.columns[own]] - self._loc[own]
        z /= np.maximum(self.scale[own], 1e-6)
        seen = ~np.isnan(z)
        return np.nan_to_num(z, copy=False), seen

    def between(self, a: Array | slice, b: Array | slice) -> Array:
        """Those of some columns with others, from all rows that have both."""
        if self.all is not None:
            return np.array(self.all[a][:, b])
        (z, known), (other, also) = self._standardised(a), self._standardised(b)
        w = self.often[:, None]
        products = (z * w).T @ other
        if self.complete:
            return np.asarray(products / self.often.sum())
        counts = (known * w).T @ also.astype(float)
        return np.asarray(products / np.maximum(counts, 1e-12))

    def variance(self, own: Array, sign: Array) -> float:
        """That of the sum of standardised columns times their signs; NaN for too many of them."""
        if self.all is not None or not (self.complete or self.many(len(own))):
            return float(sign @ self.between(own, own) @ sign)
        z, known = self._standardised(own)
        return float(np.average((z @ sign) ** 2, weights=self.often)) if known.all() else math.nan

    def many(self, k: int) -> bool:
        """Whether pairs of so many columns are too many to be looked at."""
        return self.all is None and len(self._code) * float(k) ** 2 > _PRODUCTS


def _fineness(column: Column) -> float:
    """The correlation of a code with the normal variable that it stands for."""
    if column.kind == "continuous":
        return 1.0
    p, code = np.exp(column.marginal), np.arange(len(column.marginal))
    edges = ndtri(np.concatenate([[0.0], np.cumsum(p)[:-1], [1.0]]))
    spread = math.sqrt((p * code**2).sum() - (p * code).sum() ** 2)
    return float(-(np.diff(norm.pdf(edges)) * code).sum() / spread)
