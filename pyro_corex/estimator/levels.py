"""Columns of a few whole numbers, counted all at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pyro_corex.estimator.columns import Array, Column

_SPAN = 20  # from the least number to the one above the largest
_DATES = 19000101  # numbers from here on may be dates
_LEAST = 10  # rows
_CELLS = 1 << 16  # entries that are looked at at once


class Levels(NamedTuple):
    """The numbers that a column holds, and how often."""

    values: Array
    counts: Array
    missing: int

    def kind(self) -> str:
        """What it is by itself; "" where it may be no variable, or hold too many numbers."""
        k, n = len(self.values), int(self.counts.sum())
        if n < _LEAST or self.values[0] >= _DATES or k < 2:
            return ""
        return "binary" if k == 2 else "ordinal" if n >= 5 * k else ""

    def column(self, name: str, kind: str, labels: list[Any] | None = None) -> Column:
        """The column, of a kind with levels; a constant where there is one number."""
        if len(self.values) == 1:
            return Column(name, "constant", self.values, labels=labels)
        frequency = self.counts + 0.5 / len(self.values)
        return Column(
            name,
            "binary" if len(self.values) == 2 else kind,
            self.values,
            labels=labels,
            marginal=np.log(frequency / frequency.sum()),
            low=float(self.values[0]),
            high=float(self.values[-1]),
            missing=self.missing,
        )


def count_levels(x: Array) -> dict[int, Levels]:
    """The levels of those columns of numbers ``(N, d)`` that hold whole numbers close together."""
    found: dict[int, Levels] = {}
    step = max(1, _CELLS // len(x))
    for start in range(0, x.shape[1], step):
        own = x[:, start : start + step]
        low = np.fmin.reduce(own, 0)
        few = (np.fmax.reduce(own, 0) - low < _SPAN) & (np.abs(low) < 2**31)
        few &= (np.isnan(own) | (own == np.round(own))).all(0)
        at = np.flatnonzero(few)
        if not len(at):
            continue
        place = own[:, at] - low[at]
        seen = ~np.isnan(place)
        cell = (np.nan_to_num(place) + _SPAN * np.arange(len(at))).astype(int)
        counts = np.bincount(cell[seen], minlength=_SPAN * len(at)).reshape(-1, _SPAN)
        for i, least, count in zip(at, low[at], counts, strict=True):
            levels = np.flatnonzero(count)
            values = (least + levels).astype(np.float64)
            found[start + int(i)] = Levels(values, count[levels], len(x) - int(count.sum()))
    return found
