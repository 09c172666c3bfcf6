"""Where a Gaussian program starts: a factor model of normal scores, written into it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri
from scipy.stats import norm
from torch import Tensor

from pyro_corex.estimator.columns import Array, Column
from pyro_corex.estimator.factors import FLOOR, nearest_correlation
from pyro_corex.estimator.layer import Batches
from pyro_corex.estimator.parameters import Options
from pyro_corex.estimator.rotation import varimax
from pyro_corex.programs.tables import TableVAE

_LOGIT = 1.702  # a logistic of this scale is as good as a normal of scale 1


@dataclass
class Moments:
    """Correlations of normal scores; a nominal column has one score for each of its states."""

    corr: Array
    column: Array
    """The column of each score."""
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
    n = 0
    for batch in batches():
        x = batch.numpy()
        seen = ~np.isnan(x)[:, column]
        s = np.empty(seen.shape)
        for i, table in enumerate(tables):
            at = slice(starts[i], starts[i + 1])
            if table is None:
                s[:, at] = x[:, [i]]
            else:
                s[:, at] = table[np.clip(np.nan_to_num(x[:, i]), 0, len(table) - 1).astype(int)]
        s[~seen] = 0.0
        products = products + s.T @ s
        counts = counts + seen.T.astype(s.dtype) @ seen
        sums = sums + s.sum(0)
        n += len(x)
    complete = bool(np.all(counts == n))
    counts = np.maximum(counts, 1.0)
    mean = sums / np.diag(counts)
    corr = products / counts - np.outer(mean, mean)
    has_table = np.array([tables[i] is not None and widths[i] == 1 for i in column])
    sd = np.where(has_table, 1.0, np.sqrt(np.maximum(np.diag(corr), 1e-12)))
    return Moments(nearest_correlation(corr / sd / sd[:, None]), column, complete, n)


def place_anchors(
    found: Moments, loadings: Array, program: TableVAE, options: Options
) -> tuple[Array, Array]:
    """Turns the factors so that each anchored latent points at its columns, and lets these columns
    load on nothing else.

    :returns: loadings and noise variances.
    """
    m, axes = options.n_hidden, []
    for latent, strengths in options.anchors.items():
        own = list(strengths)
        program.allowed[own] = 0.0
        program.allowed[own, latent] = 1.0
        program.column_weight[own] = torch.as_tensor(list(strengths.values())).to(program.weight)
        axes.append(np.linalg.svd(loadings[np.isin(found.column, own)])[2][0])
    k = len(axes)
    basis = np.linalg.qr(np.column_stack([*axes, np.eye(m)]))[0]  # and what is left
    turned = loadings @ basis
    if k < m:
        turned[:, k:] = turned[:, k:] @ varimax(turned[:, k:])
    placed = np.empty_like(turned)
    placed[:, [*options.anchors, *(j for j in range(m) if j not in options.anchors)]] = turned
    placed *= program.allowed.numpy()[found.column]
    return placed, np.maximum(np.diag(found.corr) - (placed**2).sum(1), FLOOR)


@torch.no_grad()
def initialise(
    program: TableVAE, columns: Sequence[Column], found: Moments, loadings: Array, psi: Array
) -> None:
    """Writes a factor model of normal scores into the program."""
    slot = {column: row for row, column in enumerate(program.scalar)}
    first = {int(c): u for u, c in reversed(list(enumerate(found.column)))}
    place = dict.fromkeys(("continuous", "ordinal", "counts", "nominal"), 0)

    def put(parameter: Tensor, index: Any, value: Any) -> None:
        parameter[index] = torch.as_tensor(np.asarray(value), dtype=parameter.dtype)

    for i, column in enumerate(columns):
        kind, u = column.program_kind, first[i]
        at = place[kind]
        place[kind] += 1
        w, noise = loadings[u], max(psi[u], FLOOR)
        if kind == "continuous":
            put(program.weight, slot[i], w)
            put(program.log_scale, at, 0.5 * math.log(noise))
        elif kind == "ordinal":
            _initialise_ordinal(program, column, slot[i], at, w, max(noise, 0.02), put)
        elif kind == "counts":
            p = np.exp(column.marginal)
            mean = (p * np.arange(len(p))).sum()
            variance = (p * np.arange(len(p)) ** 2).sum() - mean**2
            spread = math.log1p(max(variance - mean, 0.02 * mean) / mean**2)
            common = 1 - noise
            put(program.weight, slot[i], w * math.sqrt(spread))
            put(program.bias, slot[i], math.log(mean) - 0.5 * common * spread)
            size = 1 / max(math.expm1(noise * spread), 1e-3)
            put(program.log_size, at, math.log(size))
        else:
            k = column.n_levels
            p = np.exp(column.marginal)
            slope = loadings[u : u + k] / np.sqrt(p * (1 - p))[:, None]
            put(program.state_weight, (at, slice(k)), np.clip(slope - p @ slope, -4, 4))
            put(program.state_bias, (at, slice(k)), column.marginal)


def _initialise_ordinal(
    program: TableVAE, column: Column, row: int, at: int, w: Array, noise: float, put: Any
) -> None:
    p = np.exp(column.marginal)
    edges = ndtri(np.clip(np.concatenate([[0], np.cumsum(p)]), 1e-9, 1 - 1e-9))
    unit = _LOGIT / math.sqrt(noise)
    thresholds = edges[1:-1] * unit
    score = -np.diff(norm.pdf(edges)) / p
    within = 1 - np.diff(edges * norm.pdf(edges)) / p - score**2
    common = np.clip(1 - noise, 1e-3, 0.98)
    # the moments of the predictor given a level, as if one normal observation had given them
    variance = common - common**2 * np.clip(1 - within, 0, 1)
    precision = np.maximum(1 / variance - 1 / common, 1e-4)
    y = common * score / variance / precision
    k = len(p)
    put(program.weight, row, w * unit)
    put(program.first_threshold, at, thresholds[0])
    put(program.log_gap, (at, slice(k - 2)), np.log(np.maximum(np.diff(thresholds), 1e-3)))
    put(program.site_loc, (at, slice(k)), y * unit)
    put(program.site_log_precision, (at, slice(k)), np.log(precision) - 2 * math.log(unit))
