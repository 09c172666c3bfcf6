"""Correlations of normal scores, from all pairs of observed entries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import norm
from torch import Tensor

from pyro_corex.estimator.columns import Column
from pyro_corex.estimator.factors import nearest_correlation

Array = NDArray[Any]
Batches = Callable[[], Iterator[Tensor]]  # coded data, batch by batch


@dataclass
class Moments:
    """Correlations of normal scores; a nominal column has one score for each of its states."""

    corr: Array
    column: Array
    """The column of each score."""
    state: Array
    """Its state, -1 where the column has one score."""
    complete: bool
    n: int


def score_tables(columns: Sequence[Column]) -> list[Array | None]:
    """Normal scores of levels, counts and states: (levels, scores), None for continuous ones."""
    tables: list[Array | None] = []
    for column in columns:
        if column.kind == "continuous":
            tables.append(None)
            continue
        p = np.exp(column.marginal)
        if column.kind == "categorical":
            tables.append((np.eye(len(p)) - p) / np.sqrt(p * (1 - p)))
            continue
        edges = ndtri(np.clip(np.concatenate([[0], np.cumsum(p)]), 1e-12, 1 - 1e-12))
        score = -np.diff(norm.pdf(edges)) / p
        variance = (p * score**2).sum()  # attenuates a correlation: divide by it
        tables.append((score / max(variance, 0.05))[:, None])
    return tables


def moments(columns: Sequence[Column], batches: Batches) -> Moments:
    """Correlations from all pairs of observed entries, in one pass over the data."""
    tables = score_tables(columns)
    widths = [1 if t is None else t.shape[1] for t in tables]
    column = np.repeat(np.arange(len(columns)), widths)
    starts = np.concatenate([[0], np.cumsum(widths)])
    products: Any = 0.0
    counts: Any = 0.0
    sums: Any = 0.0
    n, complete = 0, True
    for batch in batches():
        x = batch.numpy()
        seen = ~np.isnan(x)
        whole = bool(seen.all())
        s = np.empty((len(x), len(column)))
        for i, table in enumerate(tables):
            if table is None:
                s[:, starts[i]] = x[:, i]
            else:
                at = np.clip(np.nan_to_num(x[:, i]), 0, len(table) - 1).astype(int)
                s[:, starts[i] : starts[i + 1]] = table[at]
        if not whole:
            s[~seen[:, column]] = 0.0
        complete = complete and whole
        n += len(x)
        products = products + s.T @ s
        sums = sums + s.sum(0)
        counts = counts + (len(x) if whole else seen[:, column].T.astype(float) @ seen[:, column])
    counts = np.maximum(counts * np.ones_like(products), 1.0)
    mean = sums / np.diag(counts)
    corr = products / counts - np.outer(mean, mean)
    has_table = np.array([tables[i] is not None and widths[i] == 1 for i in column])
    sd = np.where(has_table, 1.0, np.sqrt(np.maximum(np.diag(corr), 1e-12)))
    corr = corr / sd / sd[:, None]
    state = np.concatenate([np.arange(w) if w > 1 else [-1] for w in widths])
    return Moments(nearest_correlation(corr), column, state, complete, n)
