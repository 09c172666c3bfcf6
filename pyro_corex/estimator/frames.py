"""What may be given as a table: arrays, lists, tensors, sparse matrices and frames of all kinds."""

from __future__ import annotations

import re
from datetime import date, time, timedelta
from os import PathLike
from typing import Any

import numpy as np
from scipy.sparse import issparse
from torch import Tensor

from pyro_corex.arrays import tensor_of
from pyro_corex.estimator.columns import Array

TIMES = (date, time, timedelta, np.datetime64, np.timedelta64)


def as_table(x: Any) -> Any:
    """What scikit-learn and :func:`has_words` read right; the same, but for lists and tensors."""
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
    if hasattr(x, "column_names") and hasattr(x, "to_pandas"):  # pyarrow
        x = x.to_pandas()
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
    if hasattr(x, "iloc"):
        held = dict(x.dtypes)
        change = {n: t.subtype for n, t in held.items() if hasattr(t, "fill_value")}
        if len(change) == len(held) and all(t.fill_value == 0 for t in held.values()):
            change = {}  # they stay sparse
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


def has_words(x: Any) -> bool:
    """Whether columns of a table may hold other than numbers."""
    if hasattr(x, "dtypes") and hasattr(x, "columns"):
        names = [str(dtype).lower() for dtype in x.dtypes]
        return any(
            re.search("object|cat|str|enum|date|time|period|interval|duration", name)
            for name in names
        )
    if not isinstance(x, np.ndarray) or x.ndim != 2:
        return False
    return x.dtype.kind in "US" or (
        x.dtype == object and any(isinstance(value, (str, *TIMES)) for value in x.ravel())
    )


def as_objects(x: Any) -> Array:
    """A table as an array of Python's objects ``(N, d)``, in which each column keeps its type."""
    if not hasattr(x, "columns"):
        return np.asarray(x.toarray() if issparse(x) else x).astype(object)
    out = np.empty(x.shape, dtype=object)
    for i, name in enumerate(x.columns):
        out[:, i] = np.fromiter(x[name].to_list(), dtype=object, count=len(x))
    return out


def categories(x: Any, objects: Array) -> list[tuple[list[Any], bool] | None]:
    """The categories of each column that has such, and whether they are in order.

    Those of an interval are in order, as are those of an Enum of polars.
    """
    found: list[tuple[list[Any], bool] | None] = [None] * objects.shape[1]
    for i, dtype in enumerate(x.dtypes if hasattr(x, "columns") else ()):
        if hasattr(dtype, "ordered"):
            found[i] = list(dtype.categories), bool(dtype.ordered)
        elif str(dtype).startswith("Enum"):
            found[i] = list(dtype.categories), True
        elif str(dtype).startswith("interval"):
            found[i] = sorted({v for v in objects[:, i] if v == v}), True
    return found
