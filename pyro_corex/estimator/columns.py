"""The kinds of columns: how each is coded, what it is on its own, and how it is filled."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_corex.estimator.blocks import blocks

Array = NDArray[Any]
"""A numpy array, most often of floats."""

_NONE = np.zeros(0)  # one for all columns: there may be more of these than rows
_HALF_LN_2PI = 0.5 * math.log(2 * math.pi)
_CELLS = 1 << 18  # entries that are coded at once
_FEW_CELLS = 1 << 16  # and that are looked at at once


@dataclass
class Column:
    """One column: its kind and its code."""

    name: str
    kind: str
    """"binary", "categorical", "ordinal", "counts", "continuous", "constant" or "left out"."""
    values: Array = field(default_factory=lambda: _NONE)
    """The levels or states, as numbers, in order; of a constant, its value."""
    loc: float = 0.0
    scale: float = 1.0
    knots: tuple[Array, Array] | None = None
    """Of heavy-tailed columns: data and their normal scores, both increasing."""
    labels: list[Any] | None = None
    """What the states are called, where they are not numbers."""
    marginal: Array = field(default_factory=lambda: _NONE)
    """Log p of each level, or of each count up to the largest."""
    resolution: float = 0.0
    """The smallest gap between data, in units of the code; 0 where they hardly repeat."""
    low: float = 0.0
    high: float = 0.0
    """The smallest and the largest value, where there are no levels."""
    missing: int = 0
    """How many entries were missing in fit."""
    why: str = ""
    """Why it is of its kind, or left out."""

    @property
    def varies(self) -> bool:
        """Whether there is anything to explain: it is neither constant nor left out."""
        return self.kind not in ("constant", "left out")

    @property
    def shown(self) -> str:
        """The levels, states or range in words."""
        if self.kind == "left out":
            return ""
        if len(self.values):
            return ", ".join(map(str, self.labels or [f"{v:g}" for v in self.values]))
        return f"{self.low:g} to {self.high:g}"

    @property
    def program_kind(self) -> str:
        """The kind as :class:`~pyro_corex.programs.TableSpec` calls it."""
        names = {"binary": "ordinal", "categorical": "nominal"}
        return names.get(self.kind, self.kind)

    @property
    def n_levels(self) -> int:
        """The number of levels or states, 0 for counts and continuous columns."""
        return len(self.values) if self.kind in ("binary", "categorical", "ordinal") else 0

    def known(self, x: Array) -> Array:
        """The data without levels that the column had not in fit, which count as missing."""
        if self.kind not in ("binary", "ordinal"):
            return x
        unseen = ~np.isnan(x) & ~np.isin(x, self.values)
        if not unseen.any():
            return x
        shown = ", ".join(f"{value:g}" for value in np.unique(x[unseen])[:5])
        levels = ", ".join(f"{value:g}" for value in self.values[:8])
        warnings.warn(
            f"Column {self.name!r} holds what was no level of it in fit, {shown}, in "
            f"{int(unseen.sum())} of {len(x)} rows: that counts as missing. Its levels are {levels}"
            + ("." if len(self.values) <= 8 else ", ..."),
            stacklevel=2,
        )
        return np.where(unseen, np.nan, x)

    def encode(self, x: Array) -> Array:
        """The code of data as they come, NaN where they are missing."""
        if self.knots is not None:
            return _interpolate(x, *self.knots)
        if self.kind == "continuous":
            return (x - self.loc) / self.scale
        if self.kind == "counts":
            if np.any(x[~np.isnan(x)] < 0):
                raise ValueError(
                    f"Column {self.name!r} holds counts, but {np.nanmin(x):g} is negative. Name "
                    f"its kind: kinds={{{self.name!r}: 'continuous'}}."
                )
            return np.round(x)
        missing = np.isnan(x)
        at = np.searchsorted(self.values, x).clip(0, len(self.values) - 1)
        if self.kind == "categorical":
            unknown = ~missing & (self.values[at] != x)
            if unknown.any():
                warnings.warn(
                    f"Column {self.name!r} holds {int(unknown.sum())} values of states that it had "
                    "not in fit: they count as missing.",
                    stacklevel=2,
                )
            missing |= unknown
        else:  # the nearest level
            below = np.maximum(at - 1, 0)
            at = np.where(np.abs(x - self.values[below]) <= np.abs(self.values[at] - x), below, at)
        return np.where(missing, np.nan, at)

    def decode(self, code: Array) -> Array:
        """Data from codes; levels are taken at the nearest code."""
        if not self.varies:
            return np.full_like(code, self.values[0] if len(self.values) else np.nan)
        if self.knots is not None:
            return np.interp(code, self.knots[1], self.knots[0])
        if self.kind == "continuous":
            return code * self.scale + self.loc
        if self.kind == "counts":
            return code
        return self.values[np.clip(np.round(code), 0, len(self.values) - 1).astype(int)]

    def log_marginal(self, code: Array) -> Array:
        """Log-probability of the column on its own, in nats, 0 where an entry is missing."""
        if self.kind == "continuous":
            value = -0.5 * code**2 - _HALF_LN_2PI
        else:
            at = np.nan_to_num(code).clip(0, len(self.marginal) - 1).astype(int)
            value = self.marginal[at]
        return np.where(np.isnan(code), 0.0, value)

    def fill(self, p: Array, how: str, rng: np.random.RandomState) -> Array:
        """Data from what a program expects of the column: ``(N,)``.

        :param p: probabilities of the levels ``(N, K)``, or the mean and standard deviation of the
            code ``(N, 2)``; see :func:`.layer.predict`.
        :param how: "best", "mean" or "draw", as :meth:`~pyro_corex.CorEx.impute` has it.
        """
        if not self.varies:
            return self.decode(np.zeros(len(p)))
        if self.n_levels:
            return self._fill_level(p / p.sum(1, keepdims=True), how, rng)
        if how == "draw":
            code = p[:, 0] + p[:, 1] * rng.standard_normal(len(p))
            return self.decode(np.maximum(np.round(code), 0) if self.kind == "counts" else code)
        if self.knots is None:
            return self.decode(p[:, 0])
        nodes, weights = np.polynomial.hermite_e.hermegauss(9)  # the mean of the data is not that
        return self.decode(p[:, :1] + p[:, 1:] * nodes) @ (weights / weights.sum())  # of the code

    def _fill_level(self, p: Array, how: str, rng: np.random.RandomState) -> Array:
        if how == "mean" and self.kind != "categorical" and self.labels is None:
            return p @ self.values
        if how == "draw":
            level = (p.cumsum(1) < rng.random_sample((len(p), 1))).sum(1)
        elif self.kind == "ordinal":
            level = (p.cumsum(1) < 0.5).sum(1)  # the median
        else:
            level = p.argmax(1)
        return self.decode(level.astype(float))


def _interpolate(x: Array, xs: Array, ys: Array) -> Array:
    """Linear between the knots, and beyond the ends with the slope of the outer twentieth."""
    out = np.interp(x, xs, ys)
    k = max(1, len(xs) // 20)
    for end, inner, beyond in ((0, k, x < xs[0]), (-1, -1 - k, x > xs[-1])):
        slope = (ys[end] - ys[inner]) / (xs[end] - xs[inner])
        out[beyond] = ys[end] + slope * (x[beyond] - xs[end])
    return out


def by_columns(function: Callable[[Array], Array], x: Array) -> Array:
    """What a function says of each column of a table, ``(N, d)`` to ``(d,)``, some at a time."""
    step = max(1, _FEW_CELLS // len(x))
    return np.concatenate([function(x[:, at : at + step]) for at in range(0, x.shape[1], step)])


def log_marginals(columns: Sequence[Column], code: Array) -> Array:
    """:meth:`Column.log_marginal` of coded rows, ``(N, d)``."""
    out = np.square(code)
    out *= -0.5
    out -= _HALF_LN_2PI
    discrete = [i for i, column in enumerate(columns) if column.kind != "continuous"]
    if discrete:  # all tables one after the other
        tables = [columns[i].marginal for i in discrete]
        last = np.array([len(table) for table in tables]) - 1
        first = np.cumsum(last + 1) - last - 1
        level = np.nan_to_num(code[:, discrete]).clip(0, last).astype(int)
        out[:, discrete] = np.concatenate(tables)[first + level]
    out[np.isnan(code)] = 0.0
    return out


class Coding:
    """The columns of a table, and the code of those that vary."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = list(columns)
        self.varies = np.array([column.varies for column in columns])
        self.used = [column for column in columns if column.varies]
        self._at = np.flatnonzero(self.varies)
        self._plain = np.array(
            [c.kind == "continuous" and c.knots is None for c in self.used], dtype=bool
        )
        self._loc = np.array([c.loc for c in self.used])
        self._scale = np.array([c.scale for c in self.used])
        self._levels: dict[int, list[int]] = {}
        """Columns of ordered levels, by how many these are."""
        for at, c in enumerate(self.used):
            if c.kind in ("binary", "ordinal"):
                self._levels.setdefault(len(c.values), []).append(at)
        self._alone = [
            at
            for at, c in enumerate(self.used)
            if not self._plain[at] and c.kind not in ("binary", "ordinal")
        ]

    def encode(self, x: Array) -> Tensor:
        """The codes of data ``(N, d)``, in a column each for those that vary."""
        if self._plain.all() and self.varies.all():
            out = np.subtract(x, self._loc, dtype=np.float64)
            out /= self._scale
            return torch.as_tensor(out)
        out = np.empty((len(x), len(self.used)))
        plain = np.flatnonzero(self._plain)
        for rows in blocks(*x.shape):
            own = x[rows][:, self._at[plain]] - self._loc[plain]
            out[rows, plain] = own / self._scale[plain]
            for k, levels in self._levels.items():  # the nearest level, the lower of two
                values = np.array([self.used[at].values for at in levels])
                part = x[rows][:, self._at[levels]].astype(np.float64)
                code = np.where(np.isnan(part), np.nan, 0.0)
                for level in range(k - 1):
                    code += part > (values[:, level] + values[:, level + 1]) / 2
                out[rows, levels] = code
        for at in self._alone:
            out[:, at] = self.used[at].encode(x[:, self._at[at]].astype(np.float64))
        return torch.as_tensor(out)

    def decode(self, code: Array) -> Array:
        """Data ``(N, d)`` from codes."""
        whole = self.widen(code)
        return np.stack([c.decode(whole[:, i]) for i, c in enumerate(self.columns)], 1)

    def fill(self, predicted: Sequence[Array], how: str, rng: Any) -> Array:
        """Data ``(N, d)`` from predictions for the columns that vary: see :meth:`Column.fill`."""
        rest, n = iter(predicted), len(predicted[0])
        parts = [next(rest) if on else np.zeros((n, 1)) for on in self.varies]
        return np.stack([c.fill(p, how, rng) for c, p in zip(self.columns, parts, strict=True)], 1)

    def widen(self, values: Array) -> Array:
        """Values of the columns that vary, ``(..., d')``, as those of all: 0 for constants."""
        out = np.zeros((*values.shape[:-1], len(self.columns)))
        out[..., self.varies] = values
        return out

    def parts(self, x: Array) -> Iterator[slice]:
        """The rows of a table, as many at once as memory should take."""
        step = max(1, _CELLS // len(self.columns))
        return (slice(start, min(start + step, len(x))) for start in range(0, len(x), step))

    def batches(self, x: Array) -> Iterator[Tensor]:
        """The codes of a table, batch by batch."""
        return (self.encode(x[rows]) for rows in self.parts(x))
