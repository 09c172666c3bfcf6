"""Reading tables: arrays, data frames, and columns of words, into numbers with NaN."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import validate_data
from torch import Tensor

from pyro_corex.estimator.columns import USER_KINDS

Array = NDArray[Any]


class Words:
    """The names of the states of columns that are not numbers, in the order of their codes."""

    def __init__(self) -> None:
        self.labels: dict[int, list[Any]] = {}
        self.ordered: dict[int, bool] = {}

    def read(self, estimator: Any, x: Any, *, reset: bool) -> Array:
        """A table as numbers, ``(N, d)``; on ``reset`` it becomes the estimator's.

        :raises ValueError: as scikit-learn's validation does, and for columns that are words in
            one table and numbers in the other.
        """
        if reset:
            self.labels, self.ordered = {}, {}
        if not self._has_words(x):
            if self.labels and not reset:
                name = _names(estimator)[next(iter(self.labels))]
                raise ValueError(
                    f"Column {name!r} held words in fit, but this table holds only numbers. Give a "
                    "table with the columns that were fitted."
                )
            return validate_data(
                estimator,
                x,
                reset=reset,
                dtype=[np.float64, np.float32],
                ensure_all_finite="allow-nan",
                ensure_min_samples=2 if reset else 1,
            )
        validate_data(estimator, x, reset=reset, skip_check_array=True)
        columns = _columns(x)
        n = len(columns[0]) if columns else 0
        if n < (2 if reset else 1):
            raise ValueError(f"Found array with {n} sample(s) while a minimum of 2 is required.")
        out = np.empty((n, len(columns)))
        for i, values in enumerate(columns):
            out[:, i] = self._column(i, _names(estimator)[i], values, reset)
        if np.isinf(out).any():
            raise ValueError("Input X contains infinity. Missing values are NaN or None.")
        return out

    def _has_words(self, x: Any) -> bool:
        dtypes = getattr(x, "dtypes", None)
        if dtypes is not None and hasattr(x, "columns"):
            return any(_is_word_dtype(dtype) for dtype in dtypes)
        if isinstance(x, np.ndarray):
            if x.dtype.kind in "US":
                return x.ndim == 2
            if x.dtype == object and x.ndim == 2:
                return any(isinstance(value, str) for value in x.ravel())
        return False

    def _column(self, i: int, name: Any, values: Any, reset: bool) -> Array:
        categories = getattr(getattr(values, "dtype", None), "categories", None)
        raw = np.asarray(values, dtype=object)
        missing = np.array([_is_missing(value) for value in raw])
        words = any(isinstance(value, str) for value in raw[~missing])
        if not words and categories is None:
            if i in self.labels and not reset:
                raise ValueError(
                    f"Column {name!r} held words in fit, but here it holds numbers. Give it in the "
                    "same form."
                )
            out = np.full(len(raw), np.nan)
            out[~missing] = raw[~missing].astype(float)
            return out
        if reset:
            if categories is not None:
                seen = [c for c in categories if any(v == c for v in raw[~missing])]
                self.ordered[i] = bool(getattr(values.dtype, "ordered", False))
            else:
                seen = sorted({str(value) for value in raw[~missing]})
            self.labels[i] = list(seen)
        elif i not in self.labels:
            example = next(value for value in raw[~missing] if isinstance(value, str))
            raise ValueError(
                f"Column {name!r} held numbers in fit, but here it holds words, such as "
                f"{example!r}. Give it in the same form."
            )
        code = {label: float(k) for k, label in enumerate(self.labels[i])}
        code |= {str(label): value for label, value in code.items()}
        out = np.array(
            [np.nan if gone else code.get(v, code.get(str(v), np.inf))
             for v, gone in zip(raw, missing, strict=True)]
        )  # fmt: skip
        unknown = np.isinf(out)
        if unknown.any():
            warnings.warn(
                f"Column {name!r} holds states that it had not in fit, such as "
                f"{raw[unknown][0]!r}: they count as missing.",
                stacklevel=4,
            )
            out[unknown] = np.nan
        return out


def _is_word_dtype(dtype: Any) -> bool:
    text = str(dtype).lower()
    return text in ("object", "category", "str") or "string" in text or "enum" in text


def _is_missing(value: Any) -> bool:
    if value is None or str(value) in ("<NA>", "NaT"):
        return True
    return isinstance(value, float) and np.isnan(value)


def _columns(x: Any) -> list[Any]:
    if hasattr(x, "columns"):
        return [x[name] for name in x.columns]
    return [x[:, i] for i in range(x.shape[1])]


def _names(estimator: Any) -> list[Any]:
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        return [f"x{i}" for i in range(estimator.n_features_in_)]
    return list(names)


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
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        if key in names:
            return list(names).index(key)
        if not -len(names) <= key < len(names):
            raise ValueError(
                f"{option} names column {key}, but the table has {len(names)} columns, 0 to "
                f"{len(names) - 1}"
            )
        return int(key) % len(names)
    if key in names:
        return list(names).index(key)
    shown = ", ".join(repr(str(name)) for name in list(names)[:8])
    raise ValueError(
        f"{option} names column {key!r}, but the table has {shown}"
        f"{', ...' if len(names) > 8 else ''}"
    )


def read_anchors(
    anchors: Any, names: Sequence[Any], n_hidden: int, strength: float
) -> dict[int, dict[int, float]]:
    """Latent -> column index -> strength.

    :raises ValueError: for latents or columns that there are not, strengths below 1, and a column
        that is anchored twice.
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
    owner: dict[int, int] = {}
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
        for key, value in entries.items():
            i = find_column(key, names, "anchors")
            if not isinstance(value, (int, float, np.number)) or not 1 <= value < np.inf:
                raise ValueError(
                    f"The strength of an anchor must be a number >= 1, but column {key!r} has "
                    f"{value!r}. It says how often the column's likelihood counts; 1 only holds "
                    "the column in its latent."
                )
            if i in owner:
                raise ValueError(
                    f"Column {names[i]!r} is anchored to latents {owner[i]} and {latent}: a column "
                    "has one anchor."
                )
            owner[i] = int(latent)
            found.setdefault(int(latent), {})[i] = float(value)
    return found
