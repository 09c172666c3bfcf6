"""Columns that are no variables, and entries that are no values: found, and said in a sentence."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.linalg import qr

from pyro_corex.estimator.blocks import most_rows
from pyro_corex.estimator.columns import Array, Column, by_columns
from pyro_corex.estimator.sparse import Table, map_columns
from pyro_corex.estimator.standard import WHOLE, unit_of

_DATE = re.compile(
    r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})|"
    r"\d{1,2}[-. ][a-z]{3,9}[-. ,]+\d{2,4}|[a-z]{3,9} \d{1,2},? \d{4})([ t]\d{1,2}:\d{2}.*)?|"
    r"\d{1,2}:\d{2}(:\d{2})?( ?[ap]m)?",
    re.IGNORECASE,
)
_MAIL = re.compile(r"[^@\s]+@[^@\s]+\.[a-z]+", re.IGNORECASE)
_ID = re.compile(
    r"(^|[\W_])(id|ids|uid|uuid|nr|no|num|number|index|idx|key|code|row|rownames|case|subject|person|"
    r"participant|respondent|phone|tel)\.?\d*$",
    re.IGNORECASE,
)
_PERSON = re.compile(
    r"(^|[\W_])(id|uid|uuid|case|subject|person|participant|respondent)$", re.IGNORECASE
)
_CODE = re.compile(r"9{1,5}|8{1,4}|7{1,4}|9+[678]|-\d{1,5}|-?[1-9]0{3,}")
_UNIQUE = "an identifier: whole numbers that never repeat"
_LEAST = 10  # rows from which entries that never repeat tell an identifier
_CODES = 4  # of a kind in a column, such as 6, 7, 8 and 9
_MOST = 400  # columns among which sums are sought
_SAME = 1e-4  # of a column's variance that may be left by the others
_SHOWN = 5
_ROWS = 2_000  # that are looked at at once, or of a square table in all


def no_variable(name: Any, raw: Array) -> str:
    """Why a column ``(N,)``, of numbers with NaN or of words with None, is left out; else ""."""
    numbers = raw.dtype != object
    seen = raw[~np.isnan(raw)] if numbers else np.array([v for v in raw if v is not None], object)
    n = len(seen)
    if numbers:
        return _no_measurement(name, seen) if n >= _LEAST and n == len(raw) else ""
    words = [str(word) for word in seen]
    if n and all(map(_DATE.fullmatch, words)):
        return "dates or times, which as days since a first one would be numbers"
    if n and all(map(_MAIL.fullmatch, words)):
        return "e-mail addresses"
    distinct = len(set(words))
    if n >= _LEAST and distinct > 0.9 * n:
        return f"{distinct} different words in {n} rows, as names, identifiers or comments are"
    if _PERSON.search(str(name)) and distinct > max(_LEAST, 0.1 * n):
        return f"an identifier: {distinct} different words in {n} rows"
    return ""


def ranks(x: Table, names: Sequence[Any], none: Mapping[int, str]) -> list[int]:
    """The columns, of those that are left out and why, that hold ranks of the rows.

    They are whole numbers that never repeat, in several orders, and no name says that they are
    identifiers.
    """
    own = [i for i, why in none.items() if why == _UNIQUE and not _ID.search(str(names[i]))]
    orders = {np.argsort(x[:, i]).tobytes() for i in own}
    return own if len(orders) > 1 else []


def in_equal_steps(x: Array) -> Array:
    """Whether each column ``(N, d)`` goes up or down in equal steps, as far as digits are kept."""
    error = 8 * np.finfo(x.dtype).eps * np.abs(x).max(0)
    steps = np.diff(x, axis=0)
    found: Array = (np.ptp(steps, axis=0) <= error) & (np.abs(steps[0]) > 100 * error)
    return found


def _no_measurement(name: Any, seen: Array) -> str:
    steps = np.diff(seen)
    if in_equal_steps(seen[:, None])[0]:
        return f"a running number: it goes from {seen[0]:g} to {seen[-1]:g} in equal steps"
    day, month = seen % 100, seen // 100 % 100
    dated = (seen >= 19000101) & (seen < 21010101) & (month <= 12) & (day <= 31) & (day > 0)
    if dated.all():
        return "dates, which as days since a first one would be numbers"
    if _PERSON.search(str(name)) and len(np.unique(seen)) > max(2 * _LEAST, 0.1 * len(seen)):
        return "an identifier: a number for each person or case"
    spread = seen.max() - seen.min()
    if spread < len(seen) - 1 or np.any(seen != np.round(seen)):
        return ""
    if len(np.unique(seen)) < len(seen):
        return ""
    if np.all(steps > 0) and np.abs(seen).max() < WHOLE:
        return "a running number: whole numbers, each larger than the one before"
    if _ID.search(str(name)) or spread < 1.1 * len(seen):
        return _UNIQUE
    return ""


def missing_codes(columns: Sequence[Column], x: Table) -> tuple[list[str], Table]:
    """Sentences on values that may be codes of missing entries: those far from all others.

    :returns: the sentences, and the table with NaN in place of these values.
    """
    found: dict[float, list[int]] = {}
    codes: dict[int, list[float]] = {}
    for i, column in enumerate(columns):
        if column.kind in ("constant", "left out", "categorical") or column.labels:
            continue
        zero = column.kind == "continuous" and column.low == 0
        if not zero and not any(_CODE.fullmatch(f"{v:.10g}") for v in (column.low, column.high)):
            continue
        own = x[:, i]
        values, counts = np.unique(own[~np.isnan(own)], return_counts=True)
        for down in (False, True):
            if down:
                values, counts = values[::-1], counts[::-1]
            n = _codes(values, counts, column.kind)
            for code in values[:n]:
                found.setdefault(float(code), []).append(i)
                codes.setdefault(i, []).append(float(code))
            values, counts = values[n:], counts[n:]
    said = []
    for code, several in found.items():
        held = np.zeros(len(x), dtype=bool)
        for i in several:
            held |= x[:, i] == code
        rows = int(held.sum())
        said.append(
            f"{named([columns[i].name for i in several])} {code:g} in {rows} of {len(x)} rows, "
            "which is far from the other values. It counts as a value: if it stands for a missing "
            f"one, say missing=[{code:g}] (--missing={code:g})."
        )
    if codes:
        x = map_columns(x, lambda i, v, _: np.where(np.isin(v, codes.get(i, [])), np.nan, v))
    return said, x


def named(names: Sequence[Any], verb: str = "hold") -> str:
    """Columns by name, and what they do."""
    shown = ", ".join(repr(str(name)) for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"Column{'s' * (len(names) > 1)} {shown}{more} {verb}{'s' * (len(names) == 1)}"


def _codes(values: Array, counts: Array, kind: str) -> int:
    """How many of the first of sorted values stand apart from all others, as codes would."""
    for k in range(1, min(_CODES, len(values) - 1) + 1):
        several = np.r_[counts[:k].sum(), counts[k:]]
        apart = k == 1 or abs(values[k] - values[k - 1]) >= 2
        if apart and _is_code(values[k - 1 :], several, kind):
            return k
        if not _CODE.fullmatch(f"{values[k - 1]:.10g}"):
            break
    return 0


def _is_code(values: Array, counts: Array, kind: str) -> bool:
    """Whether the first of sorted values stands apart from the others, as a code would."""
    value, rest = values[0], np.sort(values[1:])
    gap, spread = abs(values[1] - value), rest[-1] - rest[0]
    apart = counts[0] > 1 and gap > 1.9 * np.diff(rest).max(initial=0.0)
    if value == 0:  # as of a blood pressure
        return bool(kind == "continuous" and apart and rest[0] > 0 and len(rest) > 2)
    if not _CODE.fullmatch(f"{value:.10g}"):
        return False
    if value < 0 <= rest[0] and np.all(rest == np.round(rest)):
        usual = gap >= 2 or rest[-1] >= 3 * abs(value)
        return bool((counts[0] > 1 and usual) or gap > max(spread, 2))
    if abs(value) < 10:  # a level more, or a code
        apart = apart and (gap > 2 or (gap > 1 and counts[0] > counts[1]))
        return bool(apart and (value > 0 or rest[0] >= 0) and len(rest) > 1)
    return bool(gap > max(spread, 1.0) or (apart and gap >= 2))


def copies(columns: Sequence[Column], x: Table) -> dict[tuple[int, ...], str]:
    """Sentences on columns that say the same: equal, recoded, or in another unit."""
    if len(x) < 2 * _LEAST:
        return {}
    seen = [i for i, column in enumerate(columns) if column.varies]
    lowest = by_columns(lambda own: np.where(np.isnan(own), np.inf, own).argmin(0), x)
    highest = by_columns(lambda own: np.where(np.isnan(own), -np.inf, own).argmax(0), x)
    alike: dict[Any, list[int]] = {}
    for i in seen:  # of numbers, those whose extremes are in the same rows
        if not _is_rare(x[:, i], columns[i]):
            key = 0 if columns[i].n_levels else tuple(sorted((int(lowest[i]), int(highest[i]))))
            alike.setdefault(key, []).append(i)
    groups: dict[Any, list[int]] = {}
    for key, several in alike.items():
        for i in several if len(several) > 1 else ():
            pattern = _pattern(x[:, i], columns[i].n_levels > 0)
            groups.setdefault((key, pattern), []).append(i)
    return {tuple(own): _same(columns, own) for own in groups.values() if len(own) > 1}


def _same(columns: Sequence[Column], own: Sequence[int]) -> str:
    return (
        f"{named([columns[i].name for i in own], 'tell')} the same: each can be computed from the "
        "other, which counts as dependence. Leave out all but one (--drop)."
    )


def _is_rare(values: Array, column: Column) -> bool:
    """Whether so few entries differ from the others that two columns may agree by chance."""
    counts = [(values == level).sum() for level in column.values] if column.n_levels else [0]
    return len(counts) > 1 and sum(counts) - max(counts) < _LEAST // 2


def _pattern(values: Array, levels: bool) -> bytes:
    """A digest of what two columns have in common exactly if each is a function of the other, a
    monotone one for what has no levels.
    """
    seen = ~np.isnan(values)
    code = np.full(len(values), -1)
    _, first, place = np.unique(values[seen], return_index=True, return_inverse=True)
    if levels:  # in the order of their first rows
        place = np.argsort(np.argsort(first))[place]
    elif len(place) and place[0] > place[-1]:
        place = len(first) - 1 - place
    code[seen] = place
    return hashlib.sha256(code.tobytes()).digest()


def sums(columns: Sequence[Column], x: Table, known: Collection[tuple[int, ...]] = ()) -> list[str]:
    """Sentences on columns that are sums, means or other linear functions of others.

    By a pivoted QR decomposition of the complete rows, of which there must be more than columns.

    :param known: columns of which it is known that they tell the same.
    """
    kinds = ("constant", "left out", "categorical")
    own = [i for i, c in enumerate(columns) if c.kind not in kinds and not c.labels]
    rows = _complete(x, own) if 2 < len(own) <= _MOST else np.zeros((0, 0))
    if len(rows) < len(own) + 2 * _LEAST:
        return []
    unit = unit_of(rows)
    z = rows / np.where(unit > 0, unit, 1.0)
    z = z - z.mean(0)
    scale = z.std(0)
    varies = scale > 0
    own, z, scale = (
        [i for i, on in zip(own, varies, strict=True) if on],
        z[:, varies],
        scale[varies],
    )
    if len(own) < 3:
        return []
    r, pivot = qr(z / scale, mode="r", pivoting=True)
    rank = int((np.abs(r.diagonal()) > np.sqrt(_SAME * len(z))).sum())
    said = []
    for k in range(rank, len(own)):
        weights, *_ = np.linalg.lstsq(r[:rank, :rank], r[:rank, k], rcond=None)
        used = [int(j) for j in np.flatnonzero(np.abs(weights) > 1e-2)]
        if len(used) < 2:
            pair = sorted(own[int(pivot[j])] for j in (*used, k))
            if not any(set(pair) <= set(same) for same in known):
                said.append(_same(columns, pair))
            continue
        vector = {int(pivot[j]): weights[j] / scale[pivot[j]] for j in used}
        vector[int(pivot[k])] = -1 / scale[pivot[k]]
        signs = np.sign(list(vector.values()))
        odd = [j for j, sign in zip(vector, signs, strict=True) if (signs == sign).sum() == 1]
        names = [columns[own[j]].name for j in sorted(vector) if j not in odd[:1]]
        if len(odd) == 1 and len(vector) > 2:
            text = f"Column {columns[own[odd[0]]].name!r} is a sum or mean of {_listed(names)}"
        else:
            text = f"Columns {_listed([columns[own[j]].name for j in sorted(vector)])} are tied: "
            text += "each can be computed from the others, as shares that add up to 100 %"
        said.append(f"{text}, which counts as dependence. Leave one of them out (--drop).")
    return said


def _complete(x: Table, own: list[int]) -> Array:
    """The first rows that have all of these columns, so many as are looked at."""
    parts, n = [np.zeros((0, len(own)))], 0
    for start in range(0, len(x), _ROWS):
        part = x[start : start + _ROWS][:, own]
        parts.append(part[~np.isnan(part).any(1)])
        n += len(parts[-1])
        if n >= 4 * _MOST:
            break
    return np.concatenate(parts)[: 4 * _MOST]


def _listed(names: Sequence[Any]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(str(name)) for name in names[:_SHOWN]) + more


def totals(columns: Sequence[Column], x: Table) -> list[str]:
    """A sentence where the last row holds the sums or means of those above it."""
    own = [i for i, c in enumerate(columns) if c.kind not in ("constant", "left out") and
           not c.labels]  # fmt: skip
    if len(own) < 2 or len(x) < _LEAST:
        return []
    last = x[-1:][:, own][0]

    def above(function: Callable[[Array], Array]) -> Array:
        return np.asarray(by_columns(lambda part: function(part[:-1]), x)[own])

    sums, counts = above(lambda part: np.nansum(part, 0)), above(lambda p: (~np.isnan(p)).sum(0))
    spread = above(lambda part: np.fmax.reduce(part) - np.fmin.reduce(part))
    means = sums / np.maximum(counts, 1)  # which a row of zeros is not, however small they are
    for what, expected, error in (
        ("sums", sums, 1e-3 * np.abs(sums)),
        ("means", means, np.minimum(3e-3 * spread, 0.5 * np.abs(means))),
    ):
        if np.all(np.abs(last - expected) <= error):
            return [f"The last row holds the {what} of the rows above it, in "
                    f"{_listed([columns[i].name for i in own])}: leave it out."]  # fmt: skip
    return []


def rows_with(covariance: Any, n_rows: Any) -> Any:
    """Rows that have given correlations or covariances exactly, as a normal sample has them.

    A linear Gaussian program sees nothing else of its rows.

    :param covariance: shape ``(d, d)``, as an array or a frame, whose names are kept.
    :param n_rows: how many are behind them.
    :returns: shape ``(n, d)``: so many, or as many as results are evaluated on, if that is fewer.
    :raises ValueError: for what are no covariances, and for as many columns as rows.
    """
    table = np.asarray(covariance, dtype=float)
    d = len(table)
    if table.shape != (d, d) or not _is_symmetric(table):
        raise ValueError(
            f"X must be a symmetric table of correlations where n_rows is given, but has the shape "
            f"{table.shape}. Leave n_rows out for a table of rows."
        )
    if not isinstance(n_rows, (int, np.integer)) or n_rows <= d:
        raise ValueError(
            f"n_rows must be the number of rows behind the correlations, more than the {d} "
            f"columns, but got {n_rows!r}"
        )
    root = np.sqrt(table.diagonal())
    if not (table.diagonal() > 0).all():
        raise ValueError(
            "X must be correlations or covariances, with variances above 0 in their diagonal, but "
            f"it holds {table.diagonal().min():g}. Leave constant columns out."
        )
    values, vectors = np.linalg.eigh(table / root / root[:, None])
    if values[0] < -1e-3 * values[-1]:
        raise ValueError(
            "X must be correlations of the same rows, but has the negative eigenvalue "
            f"{values[0]:g}, as correlations of pairs with gaps have. Give the rows."
        )
    n = min(n_rows, max(most_rows(d), d + 1))
    z = np.random.default_rng(0).standard_normal((n, d))
    q, _ = np.linalg.qr(z - z.mean(0))
    rows = root * (np.sqrt(n) * q * np.sqrt(values.clip(0)) @ vectors.T)
    if not hasattr(covariance, "iloc"):
        return rows
    return type(covariance)(rows, columns=list(covariance.columns))


def _is_symmetric(table: Array) -> bool:
    """Whether a table is its transpose, as far as its columns' own variances measure."""
    root = np.sqrt(np.abs(table.diagonal()))
    error = 1e-6 * np.outer(root, root)
    return bool(np.all((np.abs(table - table.T) <= error) | (np.isnan(table) & np.isnan(table.T))))


def check_no_correlations(x: Table, names: Sequence[Any], some: Sequence[int]) -> None:
    """Raises ``ValueError`` for correlations or covariances of columns in place of rows.

    :param some: the columns that hold numbers.
    """
    if len(some) < max(3, len(x)):
        return
    gaps = by_columns(lambda part: np.asarray(np.isnan(part).all(0)), x)
    own = np.array([i for i in some if not gaps[i]], dtype=int)
    if len(own) < 3 or len(own) != len(x):
        return
    names, own = [names[i] for i in own], own[:_ROWS]
    table = x[:_ROWS][:, own]
    half = np.isnan(table[np.triu_indices(len(table), 1)]).all()
    half |= bool(np.isnan(table[np.tril_indices(len(table), -1)]).all())
    diagonal = table.diagonal()
    if not half and not _is_symmetric(table):
        return
    if (half and not np.allclose(diagonal, 1)) or not np.all(diagonal > 0):
        return
    root = np.sqrt(diagonal)
    if np.all(np.nan_to_num(np.abs(table / root / root[:, None])) <= 1 + 1e-9):
        what = "correlations" if np.allclose(diagonal, 1) else "covariances"
        raise ValueError(
            f"X must be a table of rows, but holds {what} of its columns, {_listed(names)}: it is "
            "square and symmetric. Give the rows that they were computed from, or say how many "
            "these were: fit(X, n_rows=...) (--n-rows)."
        )
