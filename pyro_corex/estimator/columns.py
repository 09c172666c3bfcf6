"""From a user's table to numbers and back: the kinds of its columns, and how each is coded."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Array = NDArray[Any]

USER_KINDS = ("binary", "categorical", "ordinal", "counts", "continuous")
_MAX_LEVELS = 20  # integers with more distinct values are not levels
_MAX_STATES = 100
_LOOK = 50_000  # rows from which kinds and quantiles are found
_KNOTS = 1_000


@dataclass
class Column:
    """One column: its kind and its code."""

    name: str
    kind: str
    """"binary", "categorical", "ordinal", "counts", "continuous" or "constant"."""
    values: Array = field(default_factory=lambda: np.zeros(0))
    """The levels or states, as numbers, in order; of a constant, its value."""
    loc: float = 0.0
    scale: float = 1.0
    knots: tuple[Array, Array] | None = None
    """Of heavy-tailed columns: data and their normal scores, both increasing."""
    labels: list[Any] | None = None
    """What the states are called, where they are not numbers."""
    marginal: Array = field(default_factory=lambda: np.zeros(0))
    """Log p of each level, or of each count up to the largest."""
    resolution: float = 0.0
    """The smallest gap between data, in units of the code; 0 where they hardly repeat."""

    @property
    def program_kind(self) -> str:
        """The kind as :class:`~pyro_corex.programs.TableSpec` calls it."""
        names = {"binary": "ordinal", "categorical": "nominal"}
        return names.get(self.kind, self.kind)

    @property
    def n_levels(self) -> int:
        """The number of levels or states, 0 for counts and continuous columns."""
        return len(self.values) if self.kind in ("binary", "categorical", "ordinal") else 0

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
        at = np.searchsorted(self.values, np.where(missing, self.values[0], x))
        at = np.clip(at, 0, len(self.values) - 1)
        if self.kind == "categorical":
            unknown = ~missing & (self.values[at] != x)
            if unknown.any():
                warnings.warn(
                    f"Column {self.name!r} holds {int(unknown.sum())} values of states that it had "
                    "not in fit: they count as missing.",
                    stacklevel=2,
                )
            missing = missing | unknown
        else:  # the nearest level
            below = np.maximum(at - 1, 0)
            at = np.where(np.abs(x - self.values[below]) <= np.abs(self.values[at] - x), below, at)
        code = at.astype(x.dtype)
        code[missing] = np.nan
        return code

    def decode(self, code: Array) -> Array:
        """Data from codes; levels are taken at the nearest code."""
        if self.kind == "constant":
            return np.full_like(code, self.values[0])
        if self.knots is not None:
            return np.interp(code, self.knots[1], self.knots[0])
        if self.kind == "continuous":
            return code * self.scale + self.loc
        if self.kind == "counts":
            return code
        return self.values[np.clip(np.round(code), 0, len(self.values) - 1).astype(int)]

    def log_marginal(self, code: Array) -> Array:
        """Log-probability of the column on its own, in nats: N(0, 1) for continuous codes."""
        if self.kind == "continuous":
            return -0.5 * code**2 - 0.5 * np.log(2 * np.pi)
        at = np.clip(np.nan_to_num(code), 0, len(self.marginal) - 1).astype(int)
        return np.where(np.isnan(code), np.nan, self.marginal[at])


def _interpolate(x: Array, xs: Array, ys: Array) -> Array:
    """Linear between the knots, and beyond the ends with the slope of the outer twentieth."""
    out = np.interp(x, xs, ys)
    k = max(1, len(xs) // 20)
    for end, inner, beyond in ((0, k, x < xs[0]), (-1, -1 - k, x > xs[-1])):
        slope = (ys[end] - ys[inner]) / (xs[end] - xs[inner])
        out[beyond] = ys[end] + slope * (x[beyond] - xs[end])
    out[np.isnan(x)] = np.nan
    return out


def describe(
    x: Array,
    names: Sequence[str],
    kinds: Mapping[int, str],
    labels: Mapping[int, list[Any]],
    ordered: Mapping[int, bool],
    rng: np.random.RandomState,
) -> list[Column]:
    """The columns of a table of numbers, NaN where a value is missing.

    :param kinds: the kinds that were told, by column.
    :param labels: what the states of columns that are no numbers are called, by column.
    :param ordered: which of these have an order.
    """
    n = len(x)
    some = np.arange(n) if n <= _LOOK else np.sort(rng.choice(n, _LOOK, replace=False))
    return [
        _column(
            name,
            x[:, i],
            x[some, i].astype(np.float64),
            kinds.get(i),
            labels.get(i),
            ordered.get(i, False),
        )
        for i, name in enumerate(names)
    ]


def _column(
    name: str,
    whole: Array,
    look: Array,
    told: str | None,
    labels: list[Any] | None,
    ordered: bool,
) -> Column:
    look = look[~np.isnan(look)]
    if not len(look):
        look = whole[~np.isnan(whole)].astype(np.float64)
    if not len(look):
        raise ValueError(
            f"Column {name!r} has no observed value: all of its {len(whole)} entries are missing. "
            "Drop it."
        )
    kind = told or ("ordinal" if ordered else "categorical" if labels else _detect(look))
    if kind in ("binary", "categorical", "ordinal") or len(np.unique(look[:1000])) == 1:
        seen = np.unique(whole[~np.isnan(whole)]).astype(np.float64)
        if len(seen) == 1:
            return Column(name, "constant", seen, labels=labels)
        if kind in ("binary", "categorical", "ordinal"):
            kind = "binary" if len(seen) == 2 and kind != "binary" else kind
            return _levels(name, kind, look, seen, labels)
    if kind == "counts":
        if np.any((look < 0) | (look != np.round(look))):
            bad = look[(look < 0) | (look != np.round(look))][0]
            raise ValueError(
                f"Column {name!r} is told to hold counts, but has the value {bad:g}: counts are "
                "0, 1, 2, ... Name another kind, such as 'continuous'."
            )
        frequency = np.bincount(look.astype(int)) + 0.5 / (1 + look.max())
        return Column(name, kind, marginal=np.log(frequency / frequency.sum()))
    return _continuous(name, look)


def _levels(name: str, kind: str, look: Array, seen: Array, labels: list[Any] | None) -> Column:
    if kind == "binary" and len(seen) > 2:
        raise ValueError(
            f"Column {name!r} is told to be binary, but has {len(seen)} distinct values: "
            f"{', '.join(f'{v:g}' for v in seen[:5])}{', ...' if len(seen) > 5 else ''}. Use "
            "'ordinal' or 'categorical'."
        )
    if len(seen) > _MAX_STATES:
        mend = "Drop it if it is an identifier" if labels else "Use 'continuous' or 'counts'"
        raise ValueError(
            f"Column {name!r} has {len(seen)} distinct values, and at most {_MAX_STATES} can be "
            f"levels or states. {mend}, or merge rare ones."
        )
    frequency = np.array([(look == value).sum() for value in seen]) + 0.5 / len(seen)
    return Column(name, kind, seen, labels=labels, marginal=np.log(frequency / frequency.sum()))


def _detect(look: Array) -> str:
    distinct = len(np.unique(look))
    if distinct == 2:
        return "binary"
    if np.all(look == np.round(look)):
        if distinct <= _MAX_LEVELS and len(look) >= 5 * distinct:
            return "ordinal"
        if look.min() >= 0 and look.mean() <= 30 and distinct > 2 and len(look) >= 50:
            return "counts"
    return "continuous"


def _continuous(name: str, look: Array) -> Column:
    """Standardised; by ranks where the tails are heavier, or the shape more skewed, than noise."""
    loc, scale = float(look.mean()), float(look.std())
    n = len(look)
    if n < 3 or not scale > 1e-12 * max(1.0, abs(loc)):
        return Column(name, "continuous", loc=loc, scale=scale if scale > 0 else 1.0)
    code = (look - loc) / scale
    skew, kurtosis = (code**3).mean(), (code**4).mean() - 3
    values, counts = np.unique(look, return_counts=True)
    normal = n / 6 * (skew**2 + kurtosis**2 / 4) < 12.0  # Jarque-Bera, p = 0.0025
    repeats = len(values) < 0.9 * n
    if normal or n < 20:
        gap = np.diff(values).min() / scale if repeats and len(values) > 1 else 0.0
        return Column(name, "continuous", loc=loc, scale=scale, resolution=float(gap))
    middle = (np.cumsum(counts) - 0.5 * counts) / n
    scores = ndtri(middle)
    mean = (counts * scores).sum() / n
    sd = np.sqrt((counts * (scores - mean) ** 2).sum() / n)
    scores = (scores - mean) / sd
    gap = np.diff(scores).min() if repeats else 0.0
    if len(values) > _KNOTS:
        pick = np.unique(np.linspace(0, len(values) - 1, _KNOTS).astype(int))
        values, scores = values[pick], scores[pick]
    return Column(
        name, "continuous", loc=loc, scale=scale, knots=(values, scores), resolution=float(gap)
    )
