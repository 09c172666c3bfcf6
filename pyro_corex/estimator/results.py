"""From a trained layer to the figures that the estimator shows, in nats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_corex.estimator.columns import Column

Array = NDArray[Any]

MAX_ROWS = 20_000
"""Rows on which the bound is evaluated; of longer tables a random subset."""
_DRAWS = 10  # of what is missing, at most


@dataclass
class Results:
    """What the bound says of a table."""

    tc: float
    tc_stderr: float
    tcs: Array
    tcs_stderr: Array
    mis: Array
    mis_stderr: Array
    tc_observed: float
    """The bound for the observed entries alone; that of complete rows is ``tc``."""
    optimism: float
    """What was taken off ``tc`` because the program was trained on these rows."""
    draws: Array
    """Latents drawn for the rows looked at."""


def marginals(columns: Sequence[Column], code: Array) -> Array:
    """Log p(x_i) of each entry in nats, ``(N, d)``, 0 where missing."""
    parts = [column.log_marginal(code[:, i]) for i, column in enumerate(columns)]
    return np.nan_to_num(np.stack(parts, 1), nan=0.0)


def row_bounds(layer: Any, columns: Sequence[Column], code: Tensor) -> Array:
    """What each row adds to the bound on TC(x), in nats: ``(N,)``."""
    terms = layer.terms(code)
    return (terms.log_prob - marginals(columns, code.numpy())).sum(1) - terms.kl


def evaluate(
    layer: Any, columns: Sequence[Column], code: Tensor, n_data: int, seed: int
) -> Results:
    r"""The bound of Eq. 10 on a table, and how it is shared among latents and columns.

    Missing entries are filled with draws from the model given the observed ones, several times
    where rows are few, so that the bound is that of complete rows; on the observed entries alone it
    bounds the mean over rows of the TC of what is observed in them.

    The relevance of column i, :math:`H(x_i) + \langle\ln q(x_i|z)\rangle`, is shared among the
    latents in proportion to ``mis``, so that the shares of the latents add up to the whole.

    :param code: coded rows, at most ``MAX_ROWS``.
    :param n_data: the number of rows that the layer was trained on.
    """
    generator = torch.Generator().manual_seed(seed)
    missing = code.isnan()
    n, m = len(code), layer.n_hidden
    n_draws = int(np.clip(MAX_ROWS // n, 1, _DRAWS)) if missing.any() else 1
    counts = (~missing).double().mean(0).clamp(min=1e-12).numpy() * n_data
    observed = row_bounds(layer, columns, code)
    fills = [layer.draw(code, generator) for _ in range(n_draws)]
    mis, mis_stderr = layer.mutual_information(counts)  # of the last
    share = layer.shares(mis)
    mean, square, whole = np.zeros(m), np.zeros(m), 0.0
    for filled, _ in fills:
        terms = layer.terms(filled)
        relevance = terms.log_prob - marginals(columns, filled.numpy())
        per_latent = relevance @ share.T - terms.latent_kl  # rows, latents
        mean += per_latent.mean(0) / n_draws
        square += per_latent.var(0, ddof=1) / n_draws
        whole += per_latent.sum(1).var(ddof=1) / n_draws
    known = informative_rows(~missing.numpy(), share) * n_data / n
    optimism = layer.parameters_by_latent() / (2 * known)
    tcs = mean - optimism
    return Results(
        tc=float(tcs.sum()),
        tc_stderr=float(np.sqrt(whole / known.mean())) if m else 0.0,
        tcs=tcs,
        tcs_stderr=np.sqrt(square / known),
        mis=mis,
        mis_stderr=mis_stderr,
        tc_observed=float(observed.mean()) - optimism.sum() * float((~missing).double().mean()),
        optimism=float(optimism.sum()),
        draws=fills[-1][1],
    )


def informative_rows(seen: Array, share: Array) -> Array:
    """How many complete rows the observed entries are worth to each latent: ``(m,)``.

    The mean over its columns of the entries in rows that have two or more of them: a single one
    tells nothing of how columns agree.

    :param seen: ``(N, d)``; *share* ``(m, d)``, how much of a column is a latent's.
    """
    out = np.zeros(len(share))
    for j, weight in enumerate(share):
        own = seen[:, weight > 0]
        several = own.sum(1) > 1
        total = weight.sum()
        out[j] = own[several].sum(0) @ weight[weight > 0] / total if total else len(seen)
    return np.maximum(out, 1.0)


def proportional(mis: Array) -> Array:
    """Shares of the latents in each column's relevance: ``(m, d)``, summing to 1 over latents."""
    total = mis.sum(0)
    return np.where(total > 1e-12, mis / np.maximum(total, 1e-12), 1 / len(mis))


def complete(
    columns: Sequence[Column], predictions: Sequence[Array], how: str, rng: np.random.RandomState
) -> Array:
    """Data from what the model expects of each column: ``(N, d)``."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    weights = weights / weights.sum()
    parts = []
    for column, p in zip(columns, predictions, strict=True):
        if column.kind == "constant":
            parts.append(np.full(len(p), column.values[0]))
        elif column.n_levels:
            parts.append(_level(column, p, how, rng))
        elif how == "draw":
            code = p[:, 0] + p[:, 1] * rng.standard_normal(len(p))
            if column.kind == "counts":
                code = np.maximum(np.round(code), 0)
            parts.append(column.decode(code))
        elif column.knots is not None:  # the mean of the data is not the code's
            code = p[:, :1] + p[:, 1:] * nodes
            parts.append(column.decode(code) @ weights)
        else:
            parts.append(column.decode(p[:, 0]))
    return np.stack(parts, 1)


def _level(column: Column, p: Array, how: str, rng: np.random.RandomState) -> Array:
    p = p / p.sum(1, keepdims=True)
    if how == "mean" and column.kind != "categorical" and column.labels is None:
        return p @ column.values
    if how == "draw":
        below = p.cumsum(1) < rng.random_sample((len(p), 1))
        return column.decode(below.sum(1).astype(float))
    if column.kind == "ordinal":  # the median
        return column.decode((p.cumsum(1) < 0.5).sum(1).astype(float))
    return column.decode(p.argmax(1).astype(float))
