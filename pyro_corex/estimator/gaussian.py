"""Gaussian latents: from coded data to a trained :class:`~pyro_corex.programs.TableVAE`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import norm
from torch import Tensor

from pyro_corex.estimator.columns import Column
from pyro_corex.estimator.factors import (
    FLOOR,
    constrained_factors,
    factor_analysis,
    promax,
    style_rotation,
    varimax,
    with_style,
)
from pyro_corex.estimator.moments import Batches, Moments, moments
from pyro_corex.estimator.steps import Options, expectation_maximisation, train
from pyro_corex.programs.tables import TableSpec, TableVAE

Array = NDArray[Any]

_LOGIT = 1.702  # a logistic of this scale is as good as a normal of scale 1


@dataclass
class Fitted:
    """A trained program, and how its latents are reported."""

    program: TableVAE
    rotation: Array
    """Reported latents are the program's times this matrix, ``(m, m)``."""
    style: bool = False
    """Whether the last of them is a style of answering."""
    history: list[dict[str, float]] = field(default_factory=list)
    n_iter: int = 0
    converged: bool = True


def fit_gaussian(
    columns: Sequence[Column],
    batches: Batches,
    data: Any,
    transform: Callable[[Tensor], Tensor],
    options: Options,
) -> Fitted:
    """Starts from factor analysis and trains with the bound what that leaves open.

    :param data: what :func:`pyro_corex.fit` gets, whose batches ``transform`` codes.
    """
    m = options.n_hidden
    found = moments(columns, batches)
    floor = np.full(len(found.column), FLOOR)
    for u, i in enumerate(found.column):
        floor[u] = max(FLOOR, columns[i].resolution ** 2 / 12)
    loadings, psi, n_iter = factor_analysis(found.corr, m, floor)
    style = False
    asks = all(c.kind in ("binary", "ordinal") for c in columns)
    if asks and not options.anchors and not options.hidden:
        loadings, psi, style = with_style(found.corr, found.n, loadings, psi, floor)
        m = loadings.shape[1]
    spec = TableSpec(tuple(c.program_kind for c in columns), tuple(c.n_levels for c in columns))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        program = TableVAE(spec, m, options.hidden).to(options.dtype)
    if options.anchors:
        loadings, psi = _anchored(found, loadings, psi, program, options)
    _initialise(program, columns, found, loadings, psi)
    linear_gaussian = set(spec.kinds) == {"continuous"} and not options.hidden
    history: list[dict[str, float]] = []
    converged = True
    if linear_gaussian and (not found.complete or options.anchors):
        history, converged = expectation_maximisation(program, batches, options)
    elif not linear_gaussian:
        history, converged = train(program, data, transform, options)
    rotation = np.eye(m)
    if not options.anchors:
        if linear_gaussian:
            _to_principal(program)
        rotation = reported_rotation(program, style)
    return Fitted(program, rotation, style, history, n_iter + len(history), converged)


def _anchored(
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
def _initialise(
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


@torch.no_grad()
def _to_principal(program: TableVAE) -> None:
    """Turns the latents of a linear-Gaussian program so that its encoder is exact."""
    scaled = program.weight * (-program.log_scale).exp()[:, None]
    _, _, vt = torch.linalg.svd(scaled, full_matrices=True)
    program.weight.copy_(program.weight @ vt.T)


@torch.no_grad()
def correlation_loadings(program: TableVAE) -> tuple[Array, Array]:
    """Correlations of each score with the program's latents: (rows, m), and the row's column."""
    w = program.loadings()
    kinds = [program.spec.kinds[i] for i in program.scalar]
    noise = w.new_full((len(w),), math.pi**2 / 3)
    n = kinds.count("continuous")
    noise[:n] = (2 * program.log_scale).exp()
    counts = [row for row, kind in enumerate(kinds) if kind == "counts"]
    if counts:
        noise[counts] = (-program.bias[counts]).exp() + (-program.log_size).exp()
    rows = w / (w.square().sum(1) + noise).sqrt()[:, None]
    index = list(program.scalar)
    v = program.state_loadings()
    for at, column in enumerate(program.spec.columns("nominal")):
        k = program.spec.n_levels[column]
        p = (program.state_bias[at, :k]).softmax(-1)
        u = (v[at, :k] - p @ v[at, :k]) * (p * (1 - p)).sqrt()[:, None]
        rows = torch.cat([rows, u / (1 + u.square().sum(1)).sqrt()[:, None]])
        index += [column] * k
    return rows.numpy(), np.array(index)


def reported_rotation(program: TableVAE, style: bool) -> Array:
    """Varimax, with most loadings positive; a style of answering is last."""
    rows, _ = correlation_loadings(program)
    rotation = style_rotation(rows) if style else varimax(rows)
    sign = np.sign((rows @ rotation).sum(0))
    return rotation * np.where(sign == 0, 1.0, sign)


@torch.no_grad()
def make_oblique(fitted: Fitted) -> None:
    """Lets the reported latents be correlated (promax), for a layer above to explain.

    The model of the columns is the same; each latent is N(0, 1) on its own, as the bound's prior.
    """
    program = fitted.program
    r = torch.as_tensor(fitted.rotation, dtype=program.weight.dtype)
    rows, _ = correlation_loadings(program)
    turned = rows @ fitted.rotation
    m = turned.shape[1] - fitted.style
    pattern, among = promax(turned[:, :m])
    solved, corr = np.eye(len(r)), np.eye(len(r))
    solved[:m, :m] = np.linalg.lstsq(turned[:, :m], pattern, rcond=None)[0]
    corr[:m, :m] = among
    turn = r @ torch.as_tensor(solved, dtype=r.dtype)
    program.weight.copy_(program.weight @ turn)
    program.state_weight.copy_(program.state_weight @ turn)
    program.prior_precision.copy_(torch.linalg.inv(torch.as_tensor(corr, dtype=r.dtype)))
    fitted.rotation = np.eye(program.latent_dim)
