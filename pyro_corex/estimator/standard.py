"""Continuous columns that standardising is enough for, all of a table at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyro_corex.estimator.columns import Array, Column

SHAPE = 12.0
"""Jarque and Bera's statistic from which a column is no normal one: p = 0.0025."""
_FEW = 20  # rows below which its shape is not asked for
_CELLS = 1 << 18  # entries that are looked at at once


def standard_columns(x: Array, names: Sequence[str]) -> dict[int, Column]:
    """Those columns of numbers ``(N, d)`` that are complete, continuous and about normal.

    They have more than two values, not all of them integers, that hardly repeat; the others are to
    be looked at one by one.
    """
    found: dict[int, Column] = {}
    n, d = x.shape
    if n < _FEW:
        return found
    step = max(1, _CELLS // n)
    for start in range(0, d, step):
        own = np.asarray(x[:, start : start + step], dtype=np.float64)
        ordered = np.sort(own, 0)
        distinct = 1 + (ordered[1:] != ordered[:-1]).sum(0)
        fine = np.isfinite(ordered[-1]) & (distinct >= 0.9 * n) & (own != np.round(own)).any(0)
        loc, scale = own.mean(0), own.std(0)
        fine &= scale > 1e-12 * np.maximum(1.0, np.abs(loc))
        code = (own - loc) / np.where(fine, scale, 1.0)
        square = code * code
        skew, kurtosis = (square * code).mean(0), (square * square).mean(0) - 3
        fine &= n / 6 * (skew**2 + kurtosis**2 / 4) < SHAPE
        for i in np.flatnonzero(fine):
            at = start + int(i)
            found[at] = Column(names[at], "continuous", loc=float(loc[i]), scale=float(scale[i]))
    return found
