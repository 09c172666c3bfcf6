"""Reading tables into numbers with NaN, and describing their columns."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.utils.validation import check_array, validate_data
from torch import Tensor

from pyro_corex.estimator.columns import Array, by_columns
from pyro_corex.estimator.frames import TIMES, as_objects, as_table, categories, has_words
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
        least: dict[str, Any] = {"ensure_min_samples": 2 if reset else 1}
        least["ensure_all_finite"] = False
        words = has_words(x) or (bool(self.labels) and not reset)
        if words:
            objects = as_objects(x)
            validate_data(estimator, x, reset=reset, skip_check_array=True)
            check_array(objects, dtype=object, estimator=estimator, **least)
        else:
            least |= {"dtype": [np.float64, np.float32], "accept_sparse": "csr"}
            found = validate_data(estimator, x, reset=reset, **least)
            table: Table = SparseTable(found) if issparse(found) else found
        names = column_names(estimator)
        if reset:
            self.__init__()  # type: ignore[misc]
            self.kinds = read_kinds(estimator.kinds, names)
            self.missing = read_missing(estimator.missing, names)
            self.levels = read_levels(estimator.levels, names)
        if words:
            table = self._mixed(x, objects, names, reset)
        else:
            table = self._numbers(table, names, reset)
        _check_finite(table, names)
        return table

    def _mixed(self, x: Any, objects: Array, names: list[Any], reset: bool) -> Array:
        """A table of objects as numbers."""
        out = np.empty(objects.shape)
        parts = [self._seen(i, objects[:, i]) for i in range(len(names))]
        if not reset:
            for i, raw in enumerate(parts):
                out[:, i] = self._again(i, names[i], raw)
            return out
        self._find_numerals(parts, names)
        for i, given in enumerate(categories(x, objects)):
            out[:, i] = self._learn(i, names[i], parts[i], given)
        for word, own in self.answers.items():
            self.notes.append(
                f"{named(own)} {word!r}, which counts as an answer. If it stands for a missing "
                f"one, say missing=[{word!r}] (--missing)."
            )
        return out

    def _numbers(self, table: Table, names: list[Any], reset: bool) -> Table:
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

    def _find_numerals(self, parts: list[Array], names: list[Any]) -> None:
        """Reads columns of text for numbers, as they are written in the whole of the table."""
        text = [i for i, raw in enumerate(parts) if any(isinstance(v, str) for v in raw)]
        seen = [[as_word(v) for v in parts[i] if v is not None] for i in text]
        known = [[w for w in words if w.casefold() not in MISSING | NO_ANSWER] for words in seen]
        found, doubtful = find_numerals(known)
        self.numerals = dict(zip(text, found, strict=True))
        for k, word in doubtful.items():
            self.notes.append(ambiguous(names[text[k]], word, found[k]))

    def _learn(self, i: int, name: Any, raw: Array, given: tuple[list[Any], bool] | None) -> Array:
        """Finds how a column is read, and reads it.

        :param given: its categories, and whether they are in order.
        """
        words = any(isinstance(v, str) for v in raw)
        if any(isinstance(v, TIMES) or hasattr(v, "to_timestamp") for v in raw):
            self.left_out[i] = "dates or times, which as days since a first one would be numbers"
            return np.zeros(len(raw))
        if i in self.levels and not words:
            raise ValueError(_LEVELS_OF_NUMBERS.format(name))
        if given is None and not words:
            return _as_floats(name, raw)
        if given is not None and i not in self.levels and (given[1] or not words):
            return self._categories(i, name, raw, *given)
        order = self.levels.get(i, self.levels.get(None, []))
        raw = np.array([None if v is None else as_word(v) for v in raw], dtype=object)
        text = read_text(raw, self.numerals.get(i, Numerals()), answers=order)
        if text.numbers and i not in self.levels:
            self.why[i] = text.why
            if remarks := with_infinities(text, raw):
                self.notes.append(remarked(name, remarks))
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

    def _categories(
        self, i: int, name: Any, raw: Array, categories: list[Any], ordered: bool
    ) -> Array:
        """Reads a column of categories that are in order, or are no words."""
        held = {as_word(v) for v in raw if v is not None}
        gone = [c for c in categories if as_word(c) in held and _is_no_step(c)] if ordered else []
        self.labels[i] = [c for c in categories if as_word(c) in held and c not in gone]
        self.why[i] = "ordered categories" if ordered else "categories"
        if ordered:
            self.ordered.add(i)
        if gone:
            self.notes.append(
                f"Column {name!r} has an order, of which {', '.join(map(repr, gone))} can be no "
                f"step: that counts as missing. If it is one, say levels={{{str(name)!r}: [...]}}."
            )
        return self._codes(i, raw)

    def _codes(self, i: int, raw: Array) -> Array:
        """The places of entries among a column's states, NaN for those that are not there."""
        states = [as_word(label) for label in self.labels[i]]
        place = {word: k for k, word in enumerate(states)}
        number = {v: k for k, v in enumerate(Numerals().read(states)) if not np.isnan(v)}
        if {word.casefold() for word in states} == {"true", "false"}:
            for word, k in tuple(place.items()):
                number[float(word.casefold() == "true")] = k
                place |= dict.fromkeys((word.lower(), word.upper(), word.title()), k)
        words = [None if v is None else as_word(v) for v in raw]
        held = list({word for word in words if word is not None})
        code = {
            word: place.get(word, number.get(value, np.nan))
            for word, value in zip(held, Numerals().read(held), strict=True)
        }
        return np.array([code.get(word or "", np.nan) for word in words], dtype=float)

    def _again(self, i: int, name: Any, raw: Array) -> Array:
        """Reads a column of new rows as it was read in fit."""
        if i in self.left_out:
            return np.zeros(len(raw))
        known = {as_word(label) for label in self.labels.get(i, ())}
        raw = np.array([_known(v, known) for v in raw], dtype=object)
        seen = np.array([v is not None for v in raw], dtype=bool)
        words = np.array([isinstance(v, str) for v in raw], dtype=bool)
        if i in self.labels:
            code, what = self._codes(i, raw), "states"
            never = np.isnan(Numerals().read(list(known))).all()  # a state is a number
            if seen.any() and np.isnan(code).all() and never and not words.any():
                raise ValueError(
                    f"Column {name!r} held words in fit, but here it holds only numbers, such as "
                    f"{raw[seen][0]}. Give it in the same form."
                )
        else:
            code, what = np.full(len(raw), np.nan), "text"
            code[~words] = _as_floats(name, raw[~words])
            text = without_units([plain(v) for v in raw[words]])
            code[words] = self.numerals.get(i, Numerals()).read(text)
            strange = (v for v in raw[words] if v.casefold() not in NO_ANSWER)
            if i not in self.numerals and (example := next(strange, None)) is not None:
                raise ValueError(
                    f"Column {name!r} held numbers in fit, but here it holds words, such as "
                    f"{example!r}. Give it in the same form."
                )
        unknown = seen & np.isnan(code)
        if unknown.any():
            warnings.warn(
                f"Column {name!r} holds {what} that it had not in fit, such as "
                f"{raw[unknown][0]!r}: they count as missing.",
                stacklevel=5,
            )
        return code


_LEVELS_OF_NUMBERS = (
    "levels is for words, but column {!r} holds numbers, whose order is their own. Leave it out."
)


def ambiguous(name: Any, word: str, numerals: Numerals) -> str:
    """A sentence on a number that can be read in two ways."""
    return (
        f"Column {name!r} holds {word!r}, which is read as {numerals.read([word])[0]:g}. If its "
        "mark stands for something else, say so: read_table(..., decimal=',') or --decimal."
    )


def as_word(value: Any) -> str:
    """An entry as the text of a state: of a whole number without a decimal mark."""
    whole = isinstance(value, (float, np.floating)) and float(value).is_integer()
    return str(int(value)) if whole else plain(value)


def _as_floats(name: Any, raw: Array) -> Array:
    """A column of numbers and None as floats."""
    code = np.full(len(raw), np.nan)
    seen = np.array([v is not None for v in raw], dtype=bool)
    try:
        code[seen] = raw[seen].astype(float)
    except (TypeError, ValueError):
        raise TypeError(
            f"Column {name!r} must hold numbers or words, but holds {type(raw[seen][0]).__name__}, "
            f"such as {raw[seen][0]!r}. Give it as numbers or text."
        ) from None
    return code


def _is_no_step(category: Any) -> bool:
    """Whether a category stands for a missing entry, where the others are in order."""
    word = as_word(category).casefold()
    return word in MISSING | NO_ANSWER and word != "none" and any(map(str.isalpha, word))


def remarked(name: Any, remarks: Sequence[str]) -> str:
    """A sentence on words among numbers."""
    return (
        f"Column {name!r} holds numbers, but also {', '.join(map(repr, remarks[:5]))}: that counts "
        "as missing. Name in missing=[...] (--missing) what stands for missing entries, or clean "
        "the column."
    )


def with_infinities(text: Text, raw: Array) -> list[str]:
    """The words among a column's numbers; of these, infinities become numbers."""
    found = [w for w in text.remarks if w.lstrip("+-").casefold() in ("inf", "infinity")]
    for word in found:
        text.values[raw == word] = float(word)
    return [w for w in text.remarks if w not in found]


def _check_finite(x: Table, names: list[Any]) -> None:
    if isinstance(x, SparseTable):
        own = x.by_column
        at = np.searchsorted(own.indptr, np.flatnonzero(np.isinf(own.data)), "right") - 1
    else:
        at = np.flatnonzero(by_columns(lambda part: np.asarray(np.isinf(part).any(0)), x))
    if len(at):
        raise ValueError(
            f"Input X contains infinity, in column {names[at[0]]!r}. Give finite numbers. If it "
            "stands for a missing entry, say missing=[np.inf, -np.inf] (--missing=inf,-inf)."
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
    if not isinstance(value, str) or value in known:
        return value
    word = plain(value)
    return None if word not in known and word.casefold() in MISSING else word


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
