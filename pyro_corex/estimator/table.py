"""Reading tables into numbers with NaN, and describing their columns."""

from __future__ import annotations

import re
import warnings
from datetime import date, time, timedelta
from os import PathLike
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.utils.validation import validate_data
from torch import Tensor

from pyro_corex.arrays import tensor_of
from pyro_corex.estimator.columns import Array
from pyro_corex.estimator.numerals import (
    MISSING,
    NO_ANSWER,
    Numerals,
    Text,
    find_numerals,
    plain,
    read_text,
    without_units,
)
from pyro_corex.estimator.sparse import SparseTable, Table, map_columns
from pyro_corex.estimator.suspects import named, no_variable
from pyro_corex.estimator.told import as_code, read_kinds, read_levels, read_missing

_MISSING = ("None", "nan", "<NA>", "NaT")


class Words:
    """How a table's columns are read: what is missing, what is a number, what states are called.

    It is found in fit, and new rows are read in the same way.
    """

    def __init__(self) -> None:
        self.labels: dict[int, list[Any]] = {}
        """The states of columns that are not numbers, in the order of their codes."""
        self.ordered: set[int] = set()
        self.numerals: dict[int, Numerals] = {}
        """Columns of text that are numbers."""
        self.left_out: dict[int, str] = {}
        """Columns that are no variables, and why."""
        self.missing: dict[int, set[str]] = {}
        self.kinds: dict[int, str] = {}
        """The kinds that were told."""
        self.levels: dict[int | None, list[str]] = {}
        self.answers: dict[str, list[Any]] = {}
        """Words that may stand for missing entries, and the columns that hold them."""
        self.why: dict[int, str] = {}
        self.notes: list[str] = []
        """Sentences on what may be misread."""

    def read(self, estimator: Any, x: Any, *, reset: bool) -> Table:
        """A table as numbers, ``(N, d)``; on ``reset`` it becomes the estimator's.

        :raises ValueError: as scikit-learn's validation does, and for columns that are words in
            one table and numbers in the other.
        :raises TypeError: for what is no table.
        """
        x = as_table(x)
        least: dict[str, Any] = {"reset": reset, "ensure_min_samples": 2 if reset else 1}
        least["accept_sparse"] = "csr"
        words = _has_words(x)
        if words:
            least |= {"dtype": object, "ensure_all_finite": False}
        else:
            least |= {"dtype": [np.float64, np.float32], "ensure_all_finite": "allow-nan"}
        found = validate_data(estimator, x, **least)
        table = SparseTable(found) if issparse(found) else found
        names = column_names(estimator)
        if reset:
            self.__init__()  # type: ignore[misc]
            self.kinds = read_kinds(estimator.kinds, names)
            self.missing = read_missing(estimator.missing, names)
            self.levels = read_levels(estimator.levels, names)
        if not words:
            return self._numbers(table, names, reset)
        dtypes = list(x.dtypes) if hasattr(x, "columns") else [None] * len(names)
        out = np.empty(table.shape)
        parts = [self._seen(i, table[:, i]) for i in range(len(names))]
        if reset:
            self._find_numerals(parts, dtypes, names)
        for i, (raw, dtype) in enumerate(zip(parts, dtypes, strict=True)):
            read = self._learn if reset else self._again
            out[:, i] = read(i, names[i], raw, dtype)
        for word, own in self.answers.items() if reset else ():
            self.notes.append(
                f"{named(own)} {word!r}, which counts as an answer. If it stands for a missing "
                f"one, say missing=[{word!r}] (--missing)."
            )
        if np.isinf(out).any():
            raise ValueError("Input X contains infinity. Missing values are NaN or None.")
        return out

    def _numbers(self, table: Table, names: list[Any], reset: bool) -> Table:
        held = (i for i in self.labels if not np.isnan(table[:, i]).all())
        if (i := next(held, None)) is not None:
            raise ValueError(
                f"Column {names[i]!r} held words in fit, but this table "
                "holds only numbers. Give a table with the columns that were fitted."
            )
        if reset and (told := [i for i in self.levels if i is not None]):
            raise ValueError(_LEVELS_OF_NUMBERS.format(names[told[0]]))
        codes = {i: [float(c) for c in own if is_float(c)] for i, own in self.missing.items()}
        if any(codes.values()):
            return map_columns(
                table, lambda i, x, _: np.where(np.isin(x, codes.get(i, [])), np.nan, x)
            )
        return table

    def _seen(self, i: int, raw: Array) -> Array:
        """A column of objects with None for what is missing."""
        codes = self.missing.get(i, ())
        gone = [
            (not isinstance(v, str) and str(v) in _MISSING) or (bool(codes) and as_code(v) in codes)
            for v in raw
        ]
        out = raw.copy()
        out[np.array(gone, dtype=bool)] = None
        return out

    def _find_numerals(self, parts: list[Array], dtypes: list[Any], names: list[Any]) -> None:
        """Reads columns of text for numbers, as they are written in the whole of the table."""
        text = [i for i, raw in enumerate(parts) if any(isinstance(v, str) for v in raw)]
        text = [i for i in text if not hasattr(dtypes[i], "ordered")]
        seen = [[plain(v) for v in parts[i] if v is not None] for i in text]
        known = [[w for w in words if w.casefold() not in MISSING | NO_ANSWER] for words in seen]
        found, doubtful = find_numerals(known)
        self.numerals = dict(zip(text, found, strict=True))
        for k, word in doubtful.items():
            self.notes.append(ambiguous(names[text[k]], word, found[k]))

    def _learn(self, i: int, name: Any, raw: Array, dtype: Any) -> Array:
        """Finds how a column is read, and reads it."""
        seen = np.array([v is not None for v in raw])
        given = getattr(dtype, "ordered", None)  # of a pandas categorical
        words = any(isinstance(v, str) for v in raw)
        code = np.full(len(raw), np.nan)
        if any(isinstance(v, _TIMES) for v in raw):
            self.left_out[i] = "dates or times, which as days since a first one would be numbers"
            return np.zeros(len(raw))
        if given is None and not words:
            if i in self.levels:
                raise ValueError(_LEVELS_OF_NUMBERS.format(name))
            code[seen] = raw[seen].astype(float)
            return code
        order = self.levels.get(i, self.levels.get(None, []))
        if given or (given is not None and not words):
            found = {str(v) for v in raw[seen]}
            self.labels[i] = [c for c in dtype.categories if str(c) in found]
            self.why[i] = "ordered categories" if given else "categories"
            if given:
                self.ordered.add(i)
            return self._codes(i, raw)
        text = read_text(raw, self.numerals.get(i, Numerals()))
        if text.numbers and i not in self.levels:
            self.why[i] = text.why
            if text.remarks:
                shown = ", ".join(map(repr, text.remarks[:5]))
                self.notes.append(
                    f"Column {name!r} holds numbers, but also {shown}: that counts as missing. "
                    "Name in missing=[...] (--missing) what stands for missing entries, or clean "
                    "the column."
                )
            return text.values
        self.numerals.pop(i, None)
        seen = np.array([v is not None for v in text.values])
        found = set(text.values[seen])
        if found and found <= set(order):
            self.why[i], text.order = (
                "words, whose order was told",
                [w for w in order if w in found],
            )
        elif i in self.levels:
            raise ValueError(
                f"levels must name all words of column {name!r}, but "
                f"{min(found - set(order))!r} is not among {order}. Add it, or "
                "name it in missing=[...]."
            )
        elif i not in self.kinds and (why := no_variable(name, text.values)):
            self.left_out[i] = why
            return np.zeros(len(raw))
        else:
            self.why[i] = text.why or "words; if they have an order, say levels=[...]"
            self._doubt(name, text)
        self.labels[i] = text.order or sorted(found)
        if text.order:
            self.ordered.add(i)
        return self._codes(i, text.values)

    def _doubt(self, name: Any, text: Text) -> None:
        """Notes words that may be missing entries, or spellings of each other."""
        for word in text.answers:
            self.answers.setdefault(word, []).append(name)
        spelt: dict[str, str] = {}
        for word in dict.fromkeys(v for v in text.values if v is not None):
            other = spelt.setdefault(" ".join(word.casefold().split()), word)
            if other != word:
                self.notes.append(
                    f"Column {name!r} holds {other!r} and {word!r}, which count as two answers: "
                    "spell them alike."
                )
                return

    def _codes(self, i: int, raw: Array) -> Array:
        place = {str(label): k for k, label in enumerate(self.labels[i])}
        return np.array([np.nan if v is None else place.get(str(v), -1) for v in raw], dtype=float)

    def _again(self, i: int, name: Any, raw: Array, dtype: Any) -> Array:
        """Reads a column of new rows as it was read in fit."""
        code = np.full(len(raw), np.nan)
        seen = np.array([v is not None for v in raw])
        example = next((v for v in raw if isinstance(v, str)), None)
        words = example is not None or hasattr(dtype, "ordered")
        if i in self.left_out:
            return np.zeros(len(raw))
        if not seen.any():
            return code
        if i in self.labels:
            if not words:
                raise ValueError(
                    f"Column {name!r} held words in fit, but here it holds numbers. Give it in the "
                    "same form."
                )
            known = {str(label) for label in self.labels[i]}
            code = self._codes(i, np.array([_known(v, known) for v in raw], dtype=object))
            what = "states"
        elif not words:
            code[seen] = raw[seen].astype(float)
            return code
        else:
            text = [_known(v, set()) if isinstance(v, str) else v for v in raw]
            if i not in self.numerals:
                if any(isinstance(v, str) for v in text):
                    raise ValueError(
                        f"Column {name!r} held numbers in fit, but here it holds words, such as "
                        f"{example!r}. Give it in the same form."
                    )
                return np.array([np.nan if v is None else v for v in text], dtype=float)
            values = self.numerals[i].read(without_units([str(v) for v in text if v is not None]))
            code[[v is not None for v in text]] = np.where(np.isnan(values), -np.inf, values)
            what = "text"
        unknown = code == (-1 if i in self.labels else -np.inf)
        if unknown.any():
            warnings.warn(
                f"Column {name!r} holds {what} that it had not in fit, such as "
                f"{raw[unknown][0]!r}: they count as missing.",
                stacklevel=4,
            )
        return np.where(unknown, np.nan, code)


_TIMES = (date, time, timedelta, np.datetime64, np.timedelta64)
_LEVELS_OF_NUMBERS = (
    "levels is for words, but column {!r} holds numbers, whose order is their own. Leave it out."
)


def ambiguous(name: Any, word: str, numerals: Numerals) -> str:
    """A sentence on a number that can be read in two ways."""
    return (
        f"Column {name!r} holds {word!r}, which is read as {numerals.read([word])[0]:g}. If its "
        "mark stands for something else, say so: read_table(..., decimal=',') or --decimal."
    )


def is_float(text: str) -> bool:
    """Whether a text is a number to Python."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _known(value: Any, known: set[str]) -> Any:
    """A new entry as one of the known words; None for what stands for a missing entry."""
    if value is None or not isinstance(value, str) or value in known:
        return value
    word = plain(value)
    return None if word not in known and word.casefold() in MISSING else word


def as_table(x: Any) -> Any:
    """What scikit-learn and :func:`_has_words` read right; the same, but for lists and tensors."""
    if issparse(x) and x.ndim == 2 and x.dtype.kind != "c":
        x = x.tocsr(copy=True)
        x.sum_duplicates()
        return x
    masked = isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x)
    if masked or isinstance(x, Tensor):
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
    if not hasattr(x, "__array__") and not issparse(x):
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
    if hasattr(x, "columns"):
        names = list(x.columns)
        if len(set(names)) < len(names):
            twice = next(name for k, name in enumerate(names) if name in names[:k])
            raise ValueError(f"X has several columns named {twice!r}. Rename or drop one.")
        unnamed = names == list(range(len(names)))
        if not unnamed and any(not isinstance(name, str) for name in names):
            x = x.set_axis([str(name) for name in names], axis=1)
    if hasattr(x, "iloc"):  # pandas' sparse columns, and dates, which have no type with others
        held = dict(x.dtypes)
        change = {n: t.subtype for n, t in held.items() if hasattr(t, "fill_value")}
        if len(change) == len(held) and all(t.fill_value == 0 for t in held.values()):
            change = {}  # they stay sparse
        change |= {n: object for n, t in held.items() if getattr(t, "kind", "") in ("m", "M")}
        x = x.astype(change) if change else x
    dtypes = [getattr(x, "dtype", None)] if not hasattr(x, "columns") else x.dtypes
    kinds = {getattr(dtype, "kind", "") for dtype in dtypes}
    if "c" in kinds:  # in the words that scikit-learn's checks of estimators expect
        raise ValueError(
            "Complex data not supported: X must hold real numbers. Give real and imaginary parts "
            "as columns of their own."
        )
    if kinds & {"m", "M"} and not hasattr(x, "columns"):
        raise TypeError(
            "X must hold numbers or words, but holds dates or times. Give them as days since a "
            "first one."
        )
    return x


def _has_words(x: Any) -> bool:
    if hasattr(x, "dtypes") and hasattr(x, "columns"):
        names = [str(dtype).lower() for dtype in x.dtypes]
        return any(re.search("object|cat|str|enum|date|time|period", name) for name in names)
    if not isinstance(x, np.ndarray) or x.ndim != 2:
        return False
    return x.dtype.kind in "US" or (
        x.dtype == object and any(isinstance(value, (str, *_TIMES)) for value in x.ravel())
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
