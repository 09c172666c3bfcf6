"""Reading tables into numbers with NaN, and describing their columns."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from scipy.special import ndtri
from sklearn.utils.validation import validate_data
from torch import Tensor

from pyro_corex.arrays import tensor_of
from pyro_corex.estimator.columns import Array, Column
from pyro_corex.estimator.standard import SHAPE, standard_columns

USER_KINDS = ("binary", "categorical", "ordinal", "counts", "continuous")
_MISSING = ("None", "nan", "<NA>", "NaT")
_MAX_LEVELS = 20  # integers with more distinct values are not levels
_MAX_STATES = 100
_LOOK = 50_000  # rows from which kinds and quantiles are found
_KNOTS = 1_000


class Words:
    """The names of the states of columns that are not numbers, in the order of their codes."""

    def __init__(self) -> None:
        self.labels: dict[int, list[Any]] = {}
        self.ordered: set[int] = set()

    def read(self, estimator: Any, x: Any, *, reset: bool) -> Array:
        """A table as numbers, ``(N, d)``; on ``reset`` it becomes the estimator's.

        :raises ValueError: as scikit-learn's validation does, and for columns that are words in
            one table and numbers in the other.
        :raises TypeError: for what is no table.
        """
        x = _as_table(x)
        least: dict[str, Any] = {"reset": reset, "ensure_min_samples": 2 if reset else 1}
        if reset:
            self.labels, self.ordered = {}, set()
        if not _has_words(x):
            dtypes = [np.float64, np.float32]
            least |= {"dtype": dtypes, "ensure_all_finite": "allow-nan"}
            numbers: Array = validate_data(estimator, x, **least)
            held = (i for i in self.labels if not np.isnan(numbers[:, i]).all())
            if (i := next(held, None)) is not None:
                raise ValueError(
                    f"Column {column_names(estimator)[i]!r} held words in fit, but this table "
                    "holds only numbers. Give a table with the columns that were fitted."
                )
            return numbers
        table = validate_data(estimator, x, dtype=object, ensure_all_finite=False, **least)
        out = np.empty(table.shape)
        for i, name in enumerate(column_names(estimator)):
            dtype = list(x.dtypes)[i] if hasattr(x, "dtypes") else None
            out[:, i] = self._column(i, name, table[:, i], dtype, reset)
        if np.isinf(out).any():
            raise ValueError("Input X contains infinity. Missing values are NaN or None.")
        return out

    def _column(self, i: int, name: Any, raw: Array, dtype: Any, reset: bool) -> Array:
        categories = getattr(dtype, "categories", None)
        seen = np.array([isinstance(v, str) or str(v) not in _MISSING for v in raw])
        code = np.full(len(raw), np.nan)
        example = next((value for value in raw[seen] if isinstance(value, str)), None)
        if categories is None and example is None:
            if i in self.labels and not reset and seen.any():
                raise ValueError(
                    f"Column {name!r} held words in fit, but here it holds numbers. Give it in the "
                    "same form."
                )
            code[seen] = raw[seen].astype(float)
            return code
        words = [str(value) for value in raw[seen]]
        if reset:
            if getattr(dtype, "ordered", False):
                self.ordered.add(i)
            found = set(words)
            names = sorted(found) if categories is None else categories
            self.labels[i] = [label for label in names if str(label) in found]
        elif i not in self.labels:
            raise ValueError(
                f"Column {name!r} held numbers in fit, but here it holds words, such as "
                f"{example!r}. Give it in the same form."
            )
        place = {str(label): k for k, label in enumerate(self.labels[i])}
        code[seen] = [place.get(word, -1) for word in words]
        if (code < 0).any():
            warnings.warn(
                f"Column {name!r} holds states that it had not in fit, such as "
                f"{raw[code < 0][0]!r}: they count as missing.",
                stacklevel=4,
            )
            code[code < 0] = np.nan
        return code


def _as_table(x: Any) -> Any:
    """What scikit-learn and :func:`_has_words` read right; the same, but for lists and tensors."""
    masked = isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x)
    if masked or issparse(x) or isinstance(x, Tensor):
        found = tensor_of(x, "X")  # which has no mask
        return found.detach().cpu()
    if isinstance(x, (list, tuple)):
        try:
            found = np.asarray(x)
        except ValueError:
            raise ValueError(
                f"X must be one table with rows of one length, but is a {type(x).__name__} whose "
                "parts differ in length. Fill gaps with NaN, and leave labels out."
            ) from None
        x = np.asarray(x, dtype=object) if found.dtype.kind in "US" else found
    if not hasattr(x, "__array__"):
        path = isinstance(x, (str, bytes, PathLike))
        raise TypeError(
            "X must be a table of shape (N, d), as an array, a data frame or a list of rows, but "
            + (f"got the path {x!r}. pandas.read_csv reads one." if path else f"is {type(x)}.")
        )
    if getattr(x, "ndim", 2) == 1:
        raise ValueError(
            f"X must be a table of shape (N, d), but got the shape {tuple(x.shape)}. Reshape your "
            "data: X.reshape(-1, 1), or X.to_frame(), if it is a column, X.reshape(1, -1) if a row."
        )
    if hasattr(x, "columns"):  # pandas' sparse columns
        sparse = {n: t.subtype for n, t in dict(x.dtypes).items() if hasattr(t, "fill_value")}
        x = x.astype(sparse) if sparse else x
    dtypes = x.dtypes if hasattr(x, "columns") else [getattr(x, "dtype", None)]
    kinds = {getattr(dtype, "kind", "") for dtype in dtypes}
    if "c" in kinds:  # in the words that scikit-learn's checks of estimators expect
        raise ValueError(
            "Complex data not supported: X must hold real numbers. Give real and imaginary parts "
            "as columns of their own."
        )
    if kinds & {"m", "M"}:
        raise TypeError(
            "X must hold numbers or words, but holds dates or times. Give them as days since a "
            "first one."
        )
    return x


def _has_words(x: Any) -> bool:
    if hasattr(x, "dtypes") and hasattr(x, "columns"):
        names = [str(dtype).lower() for dtype in x.dtypes]
        return any(re.search("object|category|str|enum", name) for name in names)
    if not isinstance(x, np.ndarray) or x.ndim != 2:
        return False
    return x.dtype.kind in "US" or (
        x.dtype == object and any(isinstance(value, str) for value in x.ravel())
    )


def column_names(estimator: Any) -> list[Any]:
    """The names of a data frame's columns, or x0, x1, ..."""
    names = getattr(estimator, "feature_names_in_", None)
    return [f"x{i}" for i in range(estimator.n_features_in_)] if names is None else list(names)


def as_tensor(x: Array) -> Tensor:
    """A tensor that shares the array's memory, also where that is read-only."""
    if not x.flags.c_contiguous and any(s < 0 for s in x.strides):
        x = np.ascontiguousarray(x)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(x)


def read_kinds(kinds: Any, names: Sequence[Any]) -> dict[int, str]:
    """The kinds that a user told, by column index.

    :raises ValueError: for kinds, columns or numbers of columns that there are not.
    :raises TypeError: for another type.
    """
    if kinds is None or (isinstance(kinds, str) and kinds == "auto"):
        return {}
    if isinstance(kinds, str):
        told = dict.fromkeys(range(len(names)), kinds)
    elif isinstance(kinds, Mapping):
        told = {find_column(key, names, "kinds"): kind for key, kind in kinds.items()}
    elif isinstance(kinds, (list, tuple, np.ndarray)):
        if len(kinds) != len(names):
            raise ValueError(
                f"kinds has {len(kinds)} entries, but the table has {len(names)} columns. Give one "
                "for each, or a mapping from some columns to their kinds."
            )
        told = {i: kind for i, kind in enumerate(kinds) if kind not in (None, "auto")}
    else:
        raise TypeError(
            "kinds must be 'auto', one kind, a list with one for each column or a mapping from "
            f"columns to kinds, but got {type(kinds).__name__}"
        )
    for i, kind in told.items():
        if kind not in USER_KINDS:
            raise ValueError(
                f"The kind of column {names[i]!r} must be one of {', '.join(USER_KINDS)}, but got "
                f"{kind!r}"
            )
    return told


def find_column(key: Any, names: Sequence[Any], option: str) -> int:
    """The index of a column that is given by name or index."""
    n = len(names)
    if key in names:
        return list(names).index(key)
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        if -n <= key < n:
            return int(key) % n
        shown = f"{n} columns, 0 to {n - 1}"
    else:
        shown = ", ".join(repr(str(name)) for name in list(names)[:8]) + ", ..." * (n > 8)
    raise ValueError(f"{option} names column {key!r}, but the table has {shown}")


def read_anchors(
    anchors: Any, names: Sequence[Any], varies: Array, n_hidden: int, strength: float
) -> dict[int, dict[int, float]]:
    """Latent -> column, counted among those that vary -> strength.

    :raises ValueError: for latents or columns that there are not, strengths below 1, and a column
        that is constant or anchored twice.
    :raises TypeError: for what is no mapping.
    """
    if anchors is None:
        return {}
    if not isinstance(anchors, Mapping):
        raise TypeError(
            "anchors must map latents to columns, e.g. {0: ['col_a', 'col_b']}, but got "
            f"{type(anchors).__name__}"
        )
    found: dict[int, dict[int, float]] = {}
    place = np.cumsum(varies) - 1
    for latent, columns in anchors.items():
        if not isinstance(latent, (int, np.integer)) or not 0 <= latent < n_hidden:
            raise ValueError(
                f"anchors names latent {latent!r}, but there are {n_hidden}, 0 to {n_hidden - 1}"
            )
        if isinstance(columns, (str, int, np.integer)):
            columns = [columns]
        entries = columns if isinstance(columns, Mapping) else dict.fromkeys(columns, strength)
        if not entries:
            raise ValueError(f"anchors names no column for latent {latent}")
        own = found[int(latent)] = {}
        for key, value in entries.items():
            i = find_column(key, names, "anchors")
            if not isinstance(value, (int, float, np.number)) or not 1 <= value < np.inf:
                raise ValueError(
                    f"The strength of an anchor must be a number >= 1, but column {key!r} has "
                    f"{value!r}. It says how often the column's likelihood counts."
                )
            if not varies[i]:
                raise ValueError(
                    f"anchors names column {names[i]!r}, which is constant and tells nothing of "
                    "any latent. Leave it out."
                )
            other = next((j for j, taken in found.items() if place[i] in taken), None)
            if other is not None:
                raise ValueError(
                    f"Column {names[i]!r} is anchored to latents {other} and {latent}: a column "
                    "has one anchor."
                )
            own[int(place[i])] = float(value)
    return found


def describe(
    x: Array, names: Sequence[str], kinds: Mapping[int, str], words: Words, rng: Any
) -> list[Column]:
    """The columns of a table of numbers; ``kinds`` are those that were told, by column."""
    n = len(x)
    some = np.arange(n) if n <= _LOOK else np.sort(rng.choice(n, _LOOK, replace=False))
    found = []
    plain = standard_columns(x, names) if n <= _LOOK else {}
    for i, name in enumerate(names):
        if i in plain and kinds.get(i, "continuous") == "continuous" and i not in words.labels:
            found.append(plain[i])
            continue
        whole, look = (values[~np.isnan(values)] for values in (x[:, i], x[some, i]))
        look = (look if len(look) else whole).astype(np.float64)
        if not len(look):
            raise ValueError(
                f"Column {name!r} has no observed value: all of its {n} entries are missing. "
                "Drop it."
            )
        labels = words.labels.get(i)
        kind = "ordinal" if i in words.ordered else "categorical" if labels else _detect(look)
        found.append(_describe(name, kinds.get(i) or kind, whole, look, labels))
    return found


def describe_again(columns: Sequence[Column], x: Array) -> list[Column]:
    """Columns of kinds that are known, from other rows ``(N, d)``; constant if so in them."""
    plain = standard_columns(x, [column.name for column in columns])
    return [
        plain[i] if i in plain and column.kind == "continuous" else _again(column, x[:, i])
        for i, column in enumerate(columns)
    ]


def _again(column: Column, x: Array) -> Column:
    seen = x[~np.isnan(x)].astype(np.float64)
    if column.kind == "constant" or not (seen != seen[:1]).any():
        return Column(column.name, "constant", seen[:1])
    return _describe(column.name, column.kind, seen, seen, column.labels)


def _describe(name: str, kind: str, whole: Array, look: Array, labels: list[Any] | None) -> Column:
    """A column from its observed values, and those of the rows that are looked at."""
    discrete = kind in ("binary", "categorical", "ordinal")
    if discrete or not (look[:1000] != look[0]).any():
        seen = np.unique(whole).astype(np.float64)
        if len(seen) == 1:
            return Column(name, "constant", seen, labels=labels)
        if discrete:
            return _levels(name, "binary" if len(seen) == 2 else kind, look, seen, labels)
    if kind == "counts":
        bad = look[(look < 0) | (look != np.round(look))]
        if len(bad):
            raise ValueError(
                f"Column {name!r} is told to hold counts, but has the value {bad[0]:g}: counts are "
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
    square = code * code
    skew, kurtosis = (square * code).mean(), (square * square).mean() - 3
    values, counts = np.unique(look, return_counts=True)
    normal = n / 6 * (skew**2 + kurtosis**2 / 4) < SHAPE
    repeats = len(values) < 0.9 * n
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
