"""Where a Gaussian program starts: a factor model of normal scores, written into it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import norm
from torch import Tensor

from pyro_corex.estimator.columns import Column
from pyro_corex.estimator.factors import FLOOR, constrained_factors, nearest_correlation
from pyro_corex.estimator.layer import Batches
from pyro_corex.estimator.parameters import Options
from pyro_corex.estimator.rotation import varimax
from pyro_corex.programs.tables import TableVAE

Array = NDArray[Any]

_LOGIT = 1.702  # a logistic of this scale is as good as a normal of scale 1


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


def place_anchors(
    found: Moments, loadings: Array, psi: Array, program: TableVAE, options: Options
) -> tuple[Array, Array]:
    """Turns the factors so that each anchored latent points at its columns, and lets these columns
    load on nothing else.
    """
    m = options.n_hidden
    allowed = np.ones((len(program.spec.kinds), m))
    weight = np.ones(len(program.spec.kinds))
    for latent, strengths in options.anchors.items():
        for i, strength in strengths.items():
            if allowed[i].all():
                allowed[i] = 0.0
            allowed[i, latent] = 1.0
            weight[i] = max(weight[i], strength)
    axes = np.zeros((m, 0))
    for strengths in options.anchors.values():
        units = np.flatnonzero(np.isin(found.column, list(strengths)))
        v = loadings[units]
        _, s, vt = np.linalg.svd(v, full_matrices=False)
        axis = vt[0] if s[0] > 1e-9 else np.eye(m)[0]
        axis = axis - axes @ (axes.T @ axis)
        size = float(np.linalg.norm(axis))
        if size < 1e-6:
            rest = np.linalg.svd(np.eye(m) - axes @ axes.T)[0][:, 0]
            axis, size = rest, 1.0
        axes = np.concatenate([axes, (axis / size)[:, None]], 1)
    basis = np.linalg.qr(np.concatenate([axes, np.eye(m)], 1))[0][:, :m]
    free = [j for j in range(m) if j not in options.anchors]
    order = [*options.anchors, *free]
    turned = loadings @ basis
    k = axes.shape[1]
    turned[:, k:] = turned[:, k:] @ varimax(turned[:, k:]) if k < m else turned[:, k:]
    placed = np.empty_like(turned)
    placed[:, order] = turned
    w, psi = constrained_factors(
        found.corr, placed, psi, allowed[found.column], weight[found.column]
    )
    program.allowed.copy_(torch.as_tensor(allowed))
    program.column_weight.copy_(torch.as_tensor(weight))
    return w, psi


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
