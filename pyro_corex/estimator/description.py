"""Describing the columns of a table: their kinds, and what may be misread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.special import ndtri

from pyro_corex.estimator.columns import Array, Column, by_columns
from pyro_corex.estimator.levels import count_levels
from pyro_corex.estimator.sparse import Table
from pyro_corex.estimator.standard import (
    SHAPE,
    is_one_value,
    moments_of,
    rounded,
    standard_columns,
)
from pyro_corex.estimator.suspects import (
    check_no_correlations,
    copies,
    in_equal_steps,
    missing_codes,
    named,
    no_variable,
    ranks,
    sums,
    totals,
)
from pyro_corex.estimator.table import Words

_MAX_LEVELS = 20  # integers with more distinct values are not levels
_MAX_STATES = 100
_LOOK = 50_000  # rows from which kinds and quantiles are found
_KNOTS = 1_000
_EMPTY = "no value in any row"
_SENTENCES = 8  # on columns that tell the same


@dataclass
class Description:
    """How :class:`~pyro_corex.CorEx` reads each column of a table; printed, it is a table."""

    columns: list[Column]
    """Kind, levels, missing entries and the reason, column by column."""
    n_rows: int
    """The number of rows."""
    notes: list[str] = field(default_factory=list)
    """Sentences on what may be misread, which name the column and the cure."""

    def __str__(self) -> str:
        rows = [("column", "kind", "missing", "values", "why")]
        for c in self.columns:
            missing = f"{c.missing} ({c.missing / self.n_rows:.0%})" if c.missing else "0"
            rows.append((_cut(str(c.name), 30), c.kind, missing, _cut(c.shown, 40), c.why))
        widths = [max(map(len, part)) for part in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        said = [f"! {note}" for note in self.notes]
        return "\n".join([f"{self.n_rows} rows, {len(self.columns)} columns", *lines, *said])

    __repr__ = __str__


def _cut(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 3] + "..."


def read_columns(
    x: Table, names: Sequence[Any], words: Words, rng: Any, weight: Array | None = None
) -> Description:
    """The columns of a table of numbers, as ``words`` read it, and what may be misread.

    :param weight: of the rows, ``(N,)``.
    :raises ValueError: for correlations in place of rows, columns without a value, and kinds that
        columns cannot be of.
    """
    columns = describe(x, names, words, rng, weight)
    own = [i for i, column in enumerate(columns) if not column.labels and i not in words.left_out]
    check_no_correlations(x, names, own)
    left = [
        f"Column {c.name!r} is left out: it holds {c.why}. To keep it, "
        f"name its kind: kinds={{{c.name!r}: ...}}."
        for c in columns
        if c.kind == "left out" and c.why != _EMPTY
    ]
    if empty := [c.name for c in columns if c.why == _EMPTY]:
        left.append(
            f"{named(empty)} no value in any row, and {'are' if len(empty) > 1 else 'is'} left out."
        )
    codes, values = missing_codes(columns, x)
    same = copies(columns, values)
    twins = list(same.values())
    if len(twins) > _SENTENCES:
        twins[_SENTENCES:] = [f"So do {len(twins) - _SENTENCES} more groups of columns."]
    found = [*totals(columns, values), *twins, *sums(columns, values, same)]
    found += rounded(columns, x.dtype)
    return Description(columns, len(x), [*words.notes, *left, *codes, *found])


def describe(
    x: Table, names: Sequence[str], words: Words, rng: Any, weight: Array | None = None
) -> list[Column]:
    """The columns of a table of numbers, as ``words`` read it."""
    n = len(x)
    some = np.arange(n) if n <= _LOOK else np.sort(rng.choice(n, _LOOK, replace=False))
    found = []
    plain = standard_columns(x, names, weight) if n <= _LOOK else {}
    doubtful = by_columns(_is_doubtful, x)
    counted = count_levels(x) if n <= _LOOK and weight is None else {}
    known = words.kinds.keys() | words.labels.keys() | words.left_out.keys()
    untold = [i for i in range(len(names)) if doubtful[i] and i not in known]
    none = {i: why for i in untold if (why := no_variable(names[i], x[:, i]))}
    ranked = ranks(x, names, none)
    words.left_out |= {i: why for i, why in none.items() if i not in ranked}
    if ranked:
        words.notes.append(
            f"{named([names[i] for i in ranked])} whole numbers that never repeat, in several "
            "orders. They are taken for ranks: if they are identifiers, leave them out (--drop)."
        )
    for i, name in enumerate(names):
        told = words.kinds.get(i, "continuous" if i in ranked else None)
        labels = words.labels.get(i)
        if told is None and not labels and i not in words.left_out and i in counted:
            kind = counted[i].kind()
            if kind:
                found.append(counted[i].column(name, kind))
                found[-1].why = _why(found[-1], words.why.get(i, ""))
                continue
        own = x[:, i]
        if i in plain and told in (None, "continuous") and not labels and i not in words.left_out:
            plain[i].low, plain[i].high = own.min(), own.max()
            plain[i].why = (
                "as you said" if i in words.kinds else _why(plain[i], words.why.get(i, ""))
            )
            found.append(plain[i])
            continue
        seen = ~np.isnan(own)
        whole, rows = own[seen], some[seen[some]]
        rows = rows if len(rows) else np.flatnonzero(seen)
        look = own[rows].astype(np.float64)
        if not len(look):
            words.left_out[i] = _EMPTY
        if i in words.left_out:
            found.append(Column(name, "left out", missing=n - len(whole), why=words.left_out[i]))
            continue
        if told and labels:
            _check_words(name, told, labels, i in words.ordered)
        kind = "ordinal" if i in words.ordered else "categorical" if labels else ""
        often = None if weight is None else weight[rows]
        column = _describe(name, told or kind, whole, look, labels, often)
        column.missing, column.low, column.high = n - len(whole), whole.min(), whole.max()
        column.why = "as you said" if i in words.kinds else _why(column, words.why.get(i, ""))
        found.append(column)
    return found


def _is_doubtful(x: Array) -> Array:
    """Which columns go in equal steps or hold whole numbers, as identifiers do."""
    return np.asarray(in_equal_steps(x) | (x == np.round(x)).all(0))


def _why(column: Column, text: str) -> str:
    """Why a column is of its kind, where nobody told."""
    if column.kind == "continuous":
        kind = "numbers, skewed or heavy-tailed: by ranks" if column.knots else "numbers"
    else:
        kind = {
            "constant": "one value up to rounding" if column.low < column.high else "one value",
            "binary": "two values",
            "ordinal": f"at most {_MAX_LEVELS} different numbers",
            "counts": f"whole numbers from 0, more than {_MAX_LEVELS} of them",
        }.get(column.kind, "words")
    return (
        text
        if column.labels and column.kind not in ("constant", "binary")
        else (f"{kind} ({text})" if text.startswith("numbers;") else kind)
    )


def _check_words(name: Any, kind: str, labels: list[Any], ordered: bool) -> None:
    """Raises where words are told to be of a kind that they cannot be."""
    shown = ", ".join(repr(str(label)) for label in labels[:6]) + ", ..." * (len(labels) > 6)
    if kind in ("counts", "continuous"):
        raise ValueError(
            f"Column {name!r} is told to be {kind}, but holds words: {shown}. Say 'categorical' or "
            "'ordinal', or give numbers."
        )
    if kind == "ordinal" and not ordered and len(labels) > 2:
        raise ValueError(
            f"Column {name!r} is told to be ordinal, but the order of its words is not known: "
            f"{shown}. Give them from least to most: levels={{{str(name)!r}: [...]}} (--levels), "
            "or an ordered pandas categorical."
        )


def describe_again(
    columns: Sequence[Column], x: Table, weight: Array | None = None
) -> list[Column]:
    """Columns of kinds that are known, from other rows ``(N, d)``; constant if so in them.

    Those that are taken by ranks keep their normal scores, which are standardised anew: a monotone
    map of each column on its own changes no dependence, and from few rows it is found worse.
    """
    plain = standard_columns(x, [column.name for column in columns], weight)
    counted = count_levels(x) if weight is None else {}
    return [
        counted[i].column(column.name, column.kind, column.labels)
        if i in counted and column.n_levels
        else plain[i]
        if i in plain and column.kind == "continuous" and column.knots is None
        else _again(column, x[:, i], weight)
        for i, column in enumerate(columns)
    ]


def _again(column: Column, x: Array, weight: Array | None) -> Column:
    rows = ~np.isnan(x)
    seen = x[rows].astype(np.float64)
    if column.kind == "left out":
        return column
    if column.kind == "constant" or not (seen != seen[:1]).any():
        return Column(column.name, "constant", seen[:1])
    own = None if weight is None else weight[rows]
    if column.kind != "continuous":
        return _describe(column.name, column.kind, seen, seen, column.labels, own)
    loc, scale = map(float, moments_of(column.encode(seen), own)[:2])
    scale = scale or 1.0
    again = replace(column, resolution=column.resolution / scale)
    if column.knots is None:
        again.loc, again.scale = column.loc + loc * column.scale, column.scale * scale
    else:
        again.knots = column.knots[0], (column.knots[1] - loc) / scale
    return again


def _describe(
    name: str,
    kind: str,
    whole: Array,
    look: Array,
    labels: list[Any] | None,
    weight: Array | None = None,
) -> Column:
    """A column from its observed values, and those of the rows that are looked at.

    :param kind: where it is empty, it is found.
    :param weight: of the rows that are looked at.
    """
    weight = np.ones(len(look)) if weight is None else weight
    if is_one_value(look[:1000]) and is_one_value(whole):
        return Column(name, "constant", whole[:1].astype(np.float64), labels=labels)
    told, kind = kind, kind or _detect(look, weight)
    if kind in ("binary", "categorical", "ordinal"):
        seen = np.unique(whole).astype(np.float64)
        if not told and len(seen) > len(np.unique(look)):  # others are rare
            kind = _detect(whole, np.ones(len(whole)))
    if kind in ("binary", "categorical", "ordinal"):
        kind = "binary" if len(seen) == 2 else kind
        return _levels(name, kind, look, seen, labels, weight)
    if kind == "counts":
        bad = look[(look < 0) | (look != np.round(look))]
        if len(bad):
            raise ValueError(
                f"Column {name!r} is told to hold counts, but has the value {bad[0]:g}: counts are "
                "0, 1, 2, ... Name another kind, such as 'continuous'."
            )
        frequency = np.bincount(look.astype(int), weight) + 0.5 / (1 + look.max())
        return Column(name, kind, marginal=np.log(frequency / frequency.sum()))
    return _continuous(name, look, weight)


def _levels(
    name: str, kind: str, look: Array, seen: Array, labels: list[Any] | None, weight: Array
) -> Column:
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
    frequency = np.bincount(np.searchsorted(seen, look), weight, len(seen)) + 0.5 / len(seen)
    return Column(name, kind, seen, labels=labels, marginal=np.log(frequency / frequency.sum()))


def _detect(look: Array, weight: Array) -> str:
    """The kind of numbers; but for counts it does not depend on their unit."""
    distinct, n = len(np.unique(look)), weight.sum()
    if distinct == 2:
        return "binary"
    if distinct <= _MAX_LEVELS and n >= 5 * distinct:
        return "ordinal"
    if np.all(look == np.round(look)):
        mean = moments_of(look, weight)[0]
        if look.min() >= 0 and mean <= 30 and distinct > 2 and n >= 50:
            return "counts"
    return "continuous"


def _continuous(name: str, look: Array, weight: Array) -> Column:
    """Standardised; by ranks where the tails are heavier, or the shape more skewed, than noise."""
    loc, scale, skew, kurtosis = map(float, moments_of(look, weight))
    n = weight.sum()
    if n < 3 or not scale > 0:
        return Column(name, "continuous", loc=loc, scale=scale if scale > 0 else 1.0)
    values, place = np.unique(look, return_inverse=True)
    counts = np.bincount(place, weight)
    normal = n / 6 * (skew**2 + kurtosis**2 / 4) < SHAPE
    repeats = len(values) < 0.9 * len(look)
    if normal or n < 20:
        gap = np.diff(values).min() / scale if repeats and len(values) > 1 else 0.0
        return Column(name, "continuous", loc=loc, scale=scale, resolution=float(gap))
    scores = ndtri((np.cumsum(counts) - 0.5 * counts) / n)
    scores -= (counts * scores).sum() / n
    scores /= np.sqrt((counts * scores**2).sum() / n)
    gap = np.diff(scores).min() if repeats else 0.0
    if len(values) > _KNOTS:
        pick = np.unique(np.linspace(0, len(values) - 1, _KNOTS).astype(int))
        values, scores = values[pick], scores[pick]
    knots = (values, scores)
    return Column(name, "continuous", loc=loc, scale=scale, knots=knots, resolution=float(gap))
