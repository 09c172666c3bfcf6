"""Loadings and their rotations to simple structure, orthogonal and oblique."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from pyro_corex.estimator.columns import Array
from pyro_corex.programs.tables import TableVAE


@torch.no_grad()
def correlation_loadings(program: TableVAE) -> Array:
    """Correlations with the program's latents of each column's predictor, seen through its noise.

    :returns: a row for each column, of a nominal one for each state: ``(rows, m)``.
    """
    w = program.loadings()
    kinds = [program.spec.kinds[i] for i in program.scalar]
    noise = w.new_full((len(w),), math.pi**2 / 3)  # of the logistic distribution
    noise[: kinds.count("continuous")] = (2 * program.log_scale).exp()
    counts = [row for row, kind in enumerate(kinds) if kind == "counts"]
    if counts:
        noise[counts] = (-program.bias[counts]).exp() + (-program.log_size).exp()
    rows = [w / (w.square().sum(1) + noise).sqrt()[:, None]]
    v = program.state_loadings()
    for at, column in enumerate(program.spec.columns("nominal")):
        k = program.spec.n_levels[column]
        p = program.state_bias[at, :k].softmax(-1)
        u = (v[at, :k] - p @ v[at, :k]) * (p * (1 - p)).sqrt()[:, None]
        rows.append(u / (1 + u.square().sum(1)).sqrt()[:, None])
    return torch.cat(rows).numpy()


def reported_rotation(program: TableVAE, style: bool) -> Array:
    """Varimax, with most loadings positive; a style of answering is last."""
    rows = correlation_loadings(program)
    rotation = style_rotation(rows) if style else varimax(rows)
    sign = np.sign((rows @ rotation).sum(0))
    return rotation * np.where(sign == 0, 1.0, sign)


def style_rotation(loadings: Array) -> Array:
    """The rotation ``(m, m)`` whose last axis loads on all columns alike; varimax of the others."""
    d, m = loadings.shape
    axis = np.linalg.lstsq(loadings, np.ones(d), rcond=None)[0]
    axis /= np.linalg.norm(axis)
    rest = np.linalg.svd(np.eye(m) - np.outer(axis, axis))[0][:, : m - 1]
    return np.column_stack([rest @ varimax(loadings @ rest), axis])


def simplicity(loadings: Array) -> float:
    """The share of the largest loading of each column, after varimax."""
    square = (loadings @ varimax(loadings)) ** 2
    return float(square.max(1).sum() / max(square.sum(), 1e-12))


def varimax(loadings: Array, max_sweeps: int = 100) -> Array:
    """The orthogonal rotation ``(m, m)`` to simple structure (Kaiser 1958), rows normalised.

    Each plane is turned by its best angle in closed form, again and again, so that saddles, where
    the gradient vanishes, are left.  Columns that carry next to nothing keep their small weight:
    the norm of a row has a floor.
    """
    d, m = loadings.shape
    norm = np.sqrt((loadings**2).sum(1))
    rows = loadings / np.maximum(norm, 0.3 * max(norm.max(), 1e-12))[:, None]
    turned, rotation = np.ascontiguousarray(rows.T), np.eye(m)
    for _ in range(max_sweeps):
        largest = 0.0
        for a, b in _planes(m):
            x, y = turned[a], turned[b]
            u, v = x**2 - y**2, 2 * x * y
            total = u.sum(1), v.sum(1)
            sine = 2 * ((u * v).sum(1) - total[0] * total[1] / d)
            cosine = (u**2 - v**2).sum(1) - (total[0] ** 2 - total[1] ** 2) / d
            angle = np.where(np.hypot(sine, cosine) > 1e-12, np.arctan2(sine, cosine) / 4, 0.0)
            largest = max(largest, np.abs(angle).max())
            c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
            turned[a], turned[b] = c * x + s * y, c * y - s * x
            x, y = rotation[a], rotation[b]
            rotation[a], rotation[b] = c * x + s * y, c * y - s * x
        if largest < 1e-7:
            break
    return rotation.T


def _planes(m: int) -> Iterator[tuple[Array, Array]]:
    """All planes of m axes, in rounds of which each has an axis once, as in a tournament."""
    axes = np.arange(m + m % 2)
    half = len(axes) // 2
    for _ in range(len(axes) - 1):
        a, b = axes[:half], axes[half:][::-1]
        real = (a < m) & (b < m)
        if real.any():
            yield np.minimum(a, b)[real], np.maximum(a, b)[real]
        axes[1:] = np.roll(axes[1:], 1)


def promax(loadings: Array, power: int = 4) -> tuple[Array, Array]:
    """An oblique rotation of loadings that are varimax-rotated (Hendrickson and White 1964).

    :returns: the pattern of loadings ``(d, m)`` and the correlations of the factors ``(m, m)``.
    """
    norm = np.sqrt((loadings**2).sum(1, keepdims=True)).clip(1e-12)
    rows = loadings / norm
    target = rows * np.abs(rows) ** (power - 1)
    turn = np.linalg.lstsq(rows, target, rcond=None)[0]
    if np.linalg.cond(turn) > 1e6:
        return loadings, np.eye(loadings.shape[1])
    turn = turn * np.sqrt(np.diag(np.linalg.inv(turn.T @ turn)))
    inverse = np.linalg.inv(turn)
    return loadings @ turn, inverse @ inverse.T
