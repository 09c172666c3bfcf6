"""What a factor analyst reads of Gaussian latents: loadings, and the coordinates they belong to."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from pyro_corex.estimator.columns import Array, Coding
from pyro_corex.estimator.factors import FLOOR
from pyro_corex.estimator.parameters import Options
from pyro_corex.estimator.rotation import oblimin, varimax
from pyro_corex.programs.points import normal_points
from pyro_corex.programs.tables import TableVAE

_N_POINTS = 256  # over which a network is averaged


@torch.no_grad()
def correlation_loadings(program: TableVAE) -> Array:
    """Loadings of each column's predictor, seen through its noise, on the program's latents.

    The predictor and its noise have the variance 1 together.  Of a network it is the best linear
    predictor that counts, over the prior.

    :returns: a row for each column, of a nominal one for each state: ``(rows, m)``.
    """
    w, cov = program.loadings(), torch.linalg.inv(program.prior_precision)
    explained = ((w @ cov) * w).sum(1)
    if program.decoder_net is not None:
        z = normal_points(program.latent_dim, _N_POINTS)
        eta = program.predictor(z) - program.predictor(z).mean(0)
        w, explained = eta.T @ z / len(z), eta.square().mean(0)
    kinds = [program.spec.kinds[i] for i in program.scalar]
    noise = w.new_full((len(w),), math.pi**2 / 3)  # of the logistic distribution
    noise[: kinds.count("continuous")] = (2 * program.log_scale).exp()
    counts = [row for row, kind in enumerate(kinds) if kind == "counts"]
    if counts:
        noise[counts] = (-program.bias[counts]).exp() + (-program.log_size).exp()
    rows = [w / (explained + noise).sqrt()[:, None]]
    v = program.state_loadings()
    for at, column in enumerate(program.spec.columns("nominal")):
        k = program.spec.n_levels[column]
        p = program.state_bias[at, :k].softmax(-1)
        u = (v[at, :k] - p @ v[at, :k]) * (p * (1 - p)).sqrt()[:, None]
        rows.append(u / (1 + ((u @ cov) * u).sum(1)).sqrt()[:, None])
    return torch.cat(rows).numpy()


def reported_axes(
    program: TableVAE, rotation: str | None, n: int, start: Array | None = None, n_extra: int = 0
) -> Array:
    """The axes of simple structure: reported latents are the program's times this matrix.

    Most loadings on each are positive.

    :param rotation: "oblimin", "varimax", or ``None`` for the axes that the fit has.
    :param n: the number of rows that the program was fitted to.
    :param start: orthogonal axes to begin with ``(m, m)``; without them those of varimax.
    :param n_extra: how many of the last axes in ``start`` stay as they are, apart from the others.
    :returns: ``(m, m)``; columns have the length 1.
    """
    rows = correlation_loadings(program)
    m = program.latent_dim - n_extra
    if start is None:
        start = np.eye(m) if rotation is None else varimax(rows)
    axes = start.copy()
    if rotation == "oblimin":
        axes[:, :m] = start[:, :m] @ oblimin(rows @ start[:, :m], _noise(rows), n)
    return positive_axes(rows, axes)


@torch.no_grad()
def anchored_axes(program: TableVAE, options: Options, n: int) -> Array:
    """The axes that anchors have, and for the other latents those of simple structure."""
    rows, axes = correlation_loadings(program), program.unit_axes().double().numpy().T.copy()
    own, k = list(options.anchors), len(options.anchors)
    order = [*own, *(j for j in range(program.latent_dim) if j not in own)]
    if k < len(order):
        start = np.column_stack([axes[:, own], np.linalg.svd(axes[:, own])[0][:, k:]])
        if options.rotation is not None:
            start[:, k:] = start[:, k:] @ varimax((rows @ np.linalg.inv(start).T)[:, k:])
        if options.rotation == "oblimin":
            start = oblimin(rows, _noise(rows), n, start, k)
        axes[:, order] = start
    return positive_axes(rows, axes)


def _noise(rows: Array) -> Array:
    """What standardised loadings on uncorrelated latents leave of each column."""
    left: Array = np.maximum(1 - (rows**2).sum(1), FLOOR)
    return left


def positive_axes(rows: Array, axes: Array) -> Array:
    """Axes in directions in which most loadings are positive."""
    sign = np.sign((rows @ np.linalg.inv(axes).T).sum(0))
    return axes * np.where(sign == 0, 1.0, sign)


def pattern_loadings(layer: Any) -> tuple[Array, Array]:
    """Standardised loadings on the reported latents, those that are not shown included.

    What a column of states has is that of its best contrasts: Cramér's V with the latent, as far as
    frequencies are linear in it.  That has no sign.

    :returns: loadings ``(d, m)`` and communalities of the latents that are shown, ``(d,)``.
    """
    program, m = layer.program, layer.n_reported
    rows = correlation_loadings(program) @ np.linalg.inv(layer.rotation).T
    among = layer.correlations()[:m, :m]
    explained = ((rows[:, :m] @ among) * rows[:, :m]).sum(1)
    loadings = np.zeros((len(layer.columns), rows.shape[1]))
    communalities = np.zeros(len(layer.columns))
    loadings[program.scalar] = rows[: len(program.scalar)]
    communalities[program.scalar] = explained[: len(program.scalar)]
    start = len(program.scalar)
    for column in program.spec.columns("nominal"):
        p = np.exp(layer.columns[column].marginal)
        own = slice(start, start + len(p))
        weight = (1 - p) / (len(p) - 1)
        loadings[column] = np.sqrt(weight @ rows[own] ** 2)
        communalities[column] = weight @ explained[own]
        start += len(p)
    return loadings, communalities


def factor_figures(layer: Any, coding: Coding) -> dict[str, Array]:
    """Attributes of :class:`~pyro_corex.CorEx`, by name; 0 for columns that are left out."""
    m = layer.n_reported
    loadings, communalities = pattern_loadings(layer)
    loadings, among = loadings[:, :m], layer.correlations()[:m, :m]
    np.fill_diagonal(among, 1.0)
    return {
        "loadings_": coding.widen(loadings.T).T,
        "communalities_": coding.widen(communalities),
        "factor_correlations_": among,
        "explained_variance_ratio_": np.diag(among @ loadings.T @ loadings) / len(loadings),
    }
