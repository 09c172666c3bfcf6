"""Where a Gaussian program starts: a factor model of normal scores, written into it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri
from scipy.stats import norm
from torch import Tensor

from pyro_corex.estimator.columns import Array, Coding, Column
from pyro_corex.estimator.factors import FLOOR, nearest_correlation, without_ties
from pyro_corex.estimator.parameters import Options
from pyro_corex.estimator.rotation import varimax
from pyro_corex.estimator.sparse import Table
from pyro_corex.programs.tables import TableVAE

_FAR = 10.0  # condition number from which anchored latents are too close to tell apart
_LOGIT = 1.702  # a logistic of this scale is as good as a normal of scale 1


@dataclass
class Moments:
    """Correlations of normal scores; a nominal column has one score for each of its states."""

    corr: Array
    """``(k, k)``; where scores exceed rows, F of :math:`F F^T`, ``(k, n)``."""
    column: Array
    """The column of each score."""
    complete: bool
    n: float
    """Of rows, or what their weights add up to."""
    scale: Array
    """What loadings have lost as levels are no normal scores, ``(k,)``: 1 in ``(k, k)``."""
    untied: Array | None = None
    """``corr`` without ties, see :func:`.without_ties`, where scores are no normal ones."""

    @property
    def wide(self) -> bool:
        """Whether scores exceed rows."""
        return len(self.corr) > self.corr.shape[1]

    def restored(self, loadings: Array, psi: Array) -> tuple[Array, Array]:
        """Loadings and noise variances of the normal scores that the levels stand for."""
        if (self.scale == 1).all():
            return loadings, psi
        whole = loadings * self.scale[:, None]
        share = (whole**2).sum(1)
        whole *= np.sqrt(np.minimum(1.0, (1 - FLOOR) / np.maximum(share, FLOOR)))[:, None]
        return whole, 1 - (whole**2).sum(1)


def level_scores(column: Column) -> Array:
    """Normal scores of levels, counts or states: ``(levels, scores)``."""
    p = np.exp(column.marginal)
    if column.kind == "categorical":
        return (np.eye(len(p)) - p) / np.sqrt(p * (1 - p))
    edges = ndtri(np.clip(np.concatenate([[0], np.cumsum(p)]), 1e-12, 1 - 1e-12))
    score = -np.diff(norm.pdf(edges)) / p
    variance = (p * score**2).sum()  # attenuates a correlation: divide by it
    return (score / max(variance, 0.05))[:, None]


def moments(coding: Coding, x: Table, weight: Array | None = None) -> Moments:
    """Correlations from all pairs of observed entries, in one pass over the data.

    Where scores exceed rows, in place of the matrix a factor of it: missing entries count as 0.

    :param weight: of the rows, ``(N,)``.
    """
    column = columns_of_scores(coding)
    has_table = np.array([coding.used[i].kind not in ("continuous", "categorical") for i in column])
    weight = np.ones(len(x)) if weight is None else weight
    if len(column) > len(x):
        return _of_few_rows(all_scores(coding, x), column, has_table, weight)
    sums: list[Any] = [0.0] * 3
    complete = True
    for s, rows in zip(scores(coding, x), coding.parts(x), strict=True):
        root = np.sqrt(weight[rows, None])
        seen = (~np.isnan(s)).astype(s.dtype)
        complete &= bool(seen.all())
        s = np.nan_to_num(s)
        s *= root
        seen *= root
        own = (s.T @ s, seen.T @ seen, (s * root).sum(0))
        sums = [a + b for a, b in zip(sums, own, strict=True)]
    products, counts, totals = sums
    counts = np.maximum(counts, 1e-12)
    mean = totals / np.diag(counts)
    corr = products / counts - np.outer(mean, mean)
    sd = np.where(has_table, 1.0, np.sqrt(np.maximum(np.diag(corr), 1e-12)))
    corr = corr / sd / sd[:, None]
    untied = without_ties(corr) if has_table.any() else None
    corr = nearest_correlation(corr)
    return Moments(corr, column, complete, float(weight.sum()), np.ones(len(column)), untied)


def columns_of_scores(coding: Coding) -> Array:
    """The column of each normal score: one, but of a nominal column one for each state."""
    widths = [c.n_levels if c.kind == "categorical" else 1 for c in coding.used]
    return np.repeat(np.arange(len(widths)), widths)


def scores(coding: Coding, x: Table) -> Iterator[Array]:
    """The scores of a table ``(N, d)``, NaN where an entry is missing: some rows at a time."""
    tables = [None if c.kind == "continuous" else level_scores(c) for c in coding.used]
    column = columns_of_scores(coding)
    first = np.searchsorted(column, np.arange(len(tables)))
    for code in map(Tensor.numpy, coding.batches(x)):
        found = code if len(column) == len(tables) else code[:, column]
        for i, table in enumerate(tables):
            if table is not None:
                own = code[:, [i]]
                level = np.clip(np.nan_to_num(own[:, 0]), 0, len(table) - 1).astype(int)
                own = np.where(np.isnan(own), np.nan, table[level])
                found[:, first[i] : first[i] + table.shape[1]] = own
        yield found


def all_scores(coding: Coding, x: Table) -> Array:
    """The scores of all rows at once, ``(N, k)``."""
    out = np.empty((len(x), len(columns_of_scores(coding))))
    for rows, part in zip(coding.parts(x), scores(coding, x), strict=True):
        out[rows] = part
    return out


def _of_few_rows(s: Array, column: Array, has_table: Array, weight: Array) -> Moments:
    gaps = np.isnan(s)
    s[gaps] = 0.0
    known = np.maximum(weight.sum() - (weight @ gaps if gaps.any() else 0.0), 1e-12)
    s -= weight @ s / known
    s[gaps] = 0.0
    s *= np.sqrt(weight)[:, None]
    norm = np.sqrt(np.maximum(np.einsum("ni,ni->i", s, s), 1e-12))
    s /= norm
    sd = norm / np.sqrt(known)
    scale = np.where(has_table, np.maximum(sd, 1.0), 1.0)
    return Moments(s.T, column, not gaps.any(), float(weight.sum()), scale)


def place_anchors(
    found: Moments, loadings: Array, program: TableVAE, options: Options
) -> tuple[Array, Array]:
    """Finds axes so that each anchored latent points at its columns, and lets these columns load on
    nothing else.

    :returns: loadings and noise variances.
    """
    m, axes = options.n_hidden, []
    for latent, strengths in options.anchors.items():
        own = list(strengths)
        program.allowed[own] = 0.0
        program.allowed[own, latent] = 1.0
        program.column_weight[own] = torch.as_tensor(list(strengths.values())).to(program.weight)
        axes.append(np.linalg.svd(loadings[np.isin(found.column, own)])[2][0])
    k, at = len(axes), [*options.anchors, *(j for j in range(m) if j not in options.anchors)]
    basis: Array = np.linalg.qr(np.column_stack([*axes, np.eye(m)]))[0]  # and what is left
    if program.oblique and np.linalg.cond(axes) < _FAR:
        basis[:, :k] = np.column_stack(axes)
    if k < m:
        basis[:, k:] = basis[:, k:] @ varimax(loadings @ basis[:, k:])
    basis[:, at] = basis.copy()
    placed: Array = loadings @ np.linalg.inv(basis).T
    placed *= program.allowed.numpy()[found.column]
    with torch.no_grad():
        program.axes.copy_(torch.as_tensor(basis.T))
    return placed, np.maximum(1 - ((placed @ basis.T) ** 2).sum(1), FLOOR)


@torch.no_grad()
def initialise(
    program: TableVAE, columns: Sequence[Column], found: Moments, loadings: Array, psi: Array
) -> None:
    """Writes a factor model of normal scores into the program."""
    place = {i: at for own in program.site_columns.values() for at, i in enumerate(own)}
    rows = {i: row for row, i in enumerate(program.scalar)}
    first = np.searchsorted(found.column, np.arange(len(columns)))
    own = program.site_columns.get("continuous", [])
    program.weight[: len(own)] = torch.as_tensor(loadings[first[own]]).to(program.weight)
    noise = torch.as_tensor(np.maximum(psi[first[own]], FLOOR))
    program.log_scale.copy_(0.5 * noise.log())
    for i, column in enumerate(columns):
        if column.kind == "continuous":
            continue
        kind, at, u = column.program_kind, place[i], first[i]
        w, noise = loadings[u], max(psi[u], FLOOR)
        p = np.exp(column.marginal)
        if kind == "nominal":
            k = column.n_levels
            slope = loadings[u : u + k] / np.sqrt(p * (1 - p))[:, None]
            program.state_weight[at, :k] = torch.as_tensor(np.clip(slope - p @ slope, -4, 4))
            program.state_bias[at, :k] = torch.as_tensor(column.marginal)
            continue
        row = rows[i]
        if kind == "ordinal":
            w = w * _initialise_ordinal(program, p, at, max(noise, 0.02))
        elif kind == "counts":
            mean = (p * np.arange(len(p))).sum()
            variance = (p * np.arange(len(p)) ** 2).sum() - mean**2
            spread = math.log1p(max(variance - mean, 0.02 * mean) / mean**2)
            w = w * math.sqrt(spread)
            program.bias[row] = math.log(mean) - 0.5 * (1 - noise) * spread
            program.log_size[at] = -math.log(max(math.expm1(noise * spread), 1e-3))
        program.weight[row] = torch.as_tensor(w)


def _initialise_ordinal(program: TableVAE, p: Array, at: int, noise: float) -> float:
    """Sets what levels have of their own; gives the scale of the predictor."""
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
    gaps = np.maximum(np.diff(thresholds), 1e-3)
    program.first_threshold[at] = thresholds[0]
    program.log_gap[at, : k - 2] = torch.as_tensor(np.log(gaps))
    program.site_loc[at, :k] = torch.as_tensor(y * unit)
    program.site_log_precision[at, :k] = torch.as_tensor(np.log(precision) - 2 * math.log(unit))
    return unit
