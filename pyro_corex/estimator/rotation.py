"""Rotations of loadings to simple structure, orthogonal and oblique."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.optimize import minimize

from pyro_corex.estimator.columns import Array

_LEAST = 0.05  # eigenvalue of the correlations of factors
_BLOCK = 1024  # rows that are treated at once
_OPTIONS = {"maxiter": 300, "ftol": 1e-12, "gtol": 1e-7}


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


def oblimin(
    loadings: Array,
    psi: Array | float = 0.0,
    n: float = 1,
    start: Array | None = None,
    n_fixed: int = 0,
) -> Array:
    r"""The oblique rotation to simple structure: direct oblimin with gamma 0 (Jennrich 2002).

    It makes :math:`\sum_i \sum_{j \ne k} \lambda_{ij}^2 \lambda_{ik}^2` least.  Loadings that are
    estimated have errors, which grow with the correlations of the factors, so that these come out
    too small: with noise variances and a number of rows, an unbiased estimate of the sum is taken.

    :param loadings: those of varimax, say: ``(d, m)``, standardised, on uncorrelated factors.
    :param psi: noise variances ``(d,)`` of the columns; 0 for loadings without an error.
    :param n: the number of rows behind them.
    :param start: axes to begin with; the first ``n_fixed`` stay.
    :returns: axes T ``(m, m)``, columns of length 1: the factors are the old ones times them, the
        pattern of loadings is the old times :math:`T^{-T}`, and the factors correlate as
        :math:`T^T T`.
    """
    d, m = loadings.shape
    start = np.eye(m) if start is None else start
    psi = np.broadcast_to(psi, (d,))
    values, vectors = np.linalg.eigh((loadings / np.maximum(psi, 1e-9)[:, None]).T @ loadings)
    information = np.maximum(values / (1 + values), 0.1)  # of scores on factors
    cov = (vectors / (n * information)) @ vectors.T
    own, scale = (loadings * psi[:, None]).T @ loadings, float(psi @ psi)

    def loss(flat: Array) -> tuple[float, Array]:
        raw = flat.reshape(m, m)
        length = np.linalg.norm(raw, axis=0)
        value, slope = _crossings(loadings, own, scale, cov, raw / length)
        across = (slope - raw * (raw * slope).sum(0) / length**2) / length
        across[:, :n_fixed] = 0.0
        return value, across.ravel()

    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options=_OPTIONS)
    axes: Array = found.x.reshape(m, m) / np.linalg.norm(found.x.reshape(m, m), axis=0)
    if np.linalg.eigvalsh(axes.T @ axes)[0] > _LEAST:
        return axes
    if psi.any():  # factors that fall together
        return oblimin(loadings, 0.0, n, start, n_fixed)
    return start


def _crossings(
    loadings: Array, own: Array, scale: float, cov: Array, axes: Array
) -> tuple[float, Array]:
    r"""The mean of :math:`\frac14 \sum_{j \ne k} \lambda_{ij}^2 \lambda_{ik}^2` over rows, less
    what errors of the covariance ``psi[i] * cov`` add to it; and its gradient by the axes.

    :param own: products of the loadings, weighted by psi, ``(m, m)``; *scale* is that of psi.
    """
    inverse = np.linalg.inv(axes)
    value, by_inverse = 0.0, np.zeros_like(inverse)
    for start in range(0, len(loadings), _BLOCK):
        rows = loadings[start : start + _BLOCK]
        pattern = rows @ inverse.T
        others = pattern**2
        total = others.sum(1)
        value += total @ total - (others**2).sum()
        others -= total[:, None]
        others *= pattern
        by_inverse -= others.T @ rows
    error, by_psi = inverse @ cov @ inverse.T, inverse @ own
    variance = np.diag(error)
    apart = error - np.diag(variance)
    rest = variance.sum() - variance
    gram = by_psi @ inverse.T
    sizes = np.diag(gram)
    value += scale * (variance @ rest + 2 * (apart**2).sum())
    value -= 2 * sizes @ rest + 4 * (gram * apart).sum()
    by_error = scale * apart - gram + np.diag(sizes)
    by_error += np.diag(scale * rest - sizes.sum() + sizes) / 2
    by_inverse += 2 * by_error @ inverse @ cov - rest[:, None] * by_psi - 2 * apart @ by_psi
    n = len(loadings)
    return float(value) / (4 * n), -inverse.T @ by_inverse @ inverse.T / n
