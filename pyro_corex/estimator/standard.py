"""Continuous columns that standardising is enough for, all of a table at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyro_corex.estimator.columns import Array, Column

SHAPE = 12.0
"""Jarque and Bera's statistic from which a column is no normal one: p = 0.0025."""
WHOLE = 2.0**53
"""From here on each number is a whole one, because no more digits are kept."""
_FEW = 20  # rows below which its shape is not asked for
_CELLS = 1 << 16  # entries that are looked at at once
_COARSE = 0.05  # standard deviations by which rounded numbers may be apart


def unit_of(x: Array) -> Any:
    """Powers of 2 about as large as the largest entry of each column: ``(d,)``, or a number.

    To divide by them costs no digit, and squares of what is left neither overflow nor vanish.
    """
    return np.ldexp(1.0, np.frexp(np.abs(x).max(0))[1] - 1)


def moments_of(x: Array, weight: Array | None = None) -> tuple[Any, Any, Any, Any]:
    """Mean, standard deviation, skewness and excess kurtosis of columns, in any unit.

    :param x: ``(N,)`` or ``(N, d)``; constant columns have a standard deviation of 0, or nearly.
    :param weight: of the rows, ``(N,)``.
    """
    unit = unit_of(x)
    z = x / np.where(unit > 0, unit, 1.0)

    def mean(values: Array) -> Any:
        return values.mean(0) if weight is None else weight @ values / weight.sum()

    centre = mean(z)
    z = z - centre
    square = z * z
    scale = np.sqrt(mean(square))
    safe = np.where(scale > 0, scale, 1.0)
    skew, kurtosis = mean(square * z) / safe**3, mean(square * square) / safe**4 - 3
    return centre * unit, scale * unit, skew, kurtosis


def standard_columns(
    x: Array, names: Sequence[str], weight: Array | None = None
) -> dict[int, Column]:
    """Those columns of numbers ``(N, d)`` that are complete, continuous and about normal.

    They have more than two values, not all of them integers, that hardly repeat; the others are to
    be looked at one by one.
    """
    found: dict[int, Column] = {}
    n, d = x.shape
    if n < _FEW:
        return found
    total = n if weight is None else weight.sum()
    step = max(1, _CELLS // n)
    for start in range(0, d, step):
        own = np.asarray(x[:, start : start + step], dtype=np.float64)
        ordered = np.sort(own, 0)
        distinct = 1 + (ordered[1:] != ordered[:-1]).sum(0)
        fine = np.isfinite(ordered[-1]) & (distinct >= 0.9 * n)
        fine &= (own != np.round(own)).any(0) | (np.abs(ordered[-1]) >= WHOLE)
        at = np.flatnonzero(fine)
        loc, scale, skew, kurtosis = moments_of(own[:, at], weight)
        normal = (scale > 0) & (total / 6 * (skew**2 + kurtosis**2 / 4) < SHAPE)
        for i, centre, spread in zip(at[normal], loc[normal], scale[normal], strict=True):
            name = names[start + int(i)]
            found[start + int(i)] = Column(
                name, "continuous", loc=float(centre), scale=float(spread)
            )
    return found


def is_one_value(x: Array) -> bool:
    """Whether numbers ``(N,)`` differ by no more than they are rounded."""
    most = np.abs(x).max()
    return bool(np.ptp(x / (most or 1.0)) <= 4 * np.finfo(x.dtype).eps)


def rounded(columns: Sequence[Column], dtype: Any) -> list[str]:
    """Sentences on columns of which numbers of so many bits keep little."""
    said = []
    for column in columns:
        if column.labels or not column.low < column.high:
            continue
        spread = column.scale if column.kind == "continuous" else column.high - column.low
        gap = float(np.spacing(np.asarray(max(abs(column.low), abs(column.high)), dtype)))
        if gap > _COARSE * spread:
            said.append(
                f"Column {column.name!r} varies by {spread:g} about {column.low:g}, where "
                f"numbers of {8 * np.dtype(dtype).itemsize} bits are {gap:g} apart: most of what "
                "it tells is rounded away. Subtract a constant from it where the table is made, or "
                "hold it in numbers of 64 bits."
            )
    return said
