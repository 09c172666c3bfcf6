"""Rotations of loadings to simple structure, orthogonal and oblique."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pyro_corex.estimator.columns import Array


def simplicity(loadings: Array) -> float:
    """The share of the largest loading of each column, after varimax."""
    square = (loadings @ varimax(loadings)) ** 2
    return float(square.max(1).sum() / max(square.sum(), 1e-12))


def varimax(loadings: Array, max_sweeps: int = 100) -> Array:
    """The orthogonal rotation ``(m, m)`` to simple structure (Kaiser 1958), rows normalised.

    Each plane is turned by its best angle in closed form, again and again, so that saddles, where
    the gradient vanishes, are left.
    """
    d, m = loadings.shape
    turned, rotation = np.ascontiguousarray(_normalised(loadings).T), np.eye(m)
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


def oblimin(loadings: Array, max_iter: int = 500, tol: float = 1e-5) -> Array:
    r"""The oblique rotation to simple structure: direct oblimin with gamma 0, rows normalised.

    It makes :math:`\frac14 \sum_{j \ne k} \sum_i \lambda_{ij}^2 \lambda_{ik}^2` least by gradient
    projection (Jennrich 2002), from the loadings as they are: those of varimax, say.  It has no
    noise to feed on where varimax was right: there, the factors stay nearly uncorrelated.

    :returns: axes ``(m, m)``, columns of length 1: factors are the old ones times them, the pattern
        of loadings is the old times the inverse, transposed, and the factors correlate as
        :math:`T^T T`.
    """
    rows = _normalised(loadings)
    axes, step = np.eye(loadings.shape[1]), 1 / len(rows)
    value, slope = _quartimin(rows, axes)
    for _ in range(max_iter):
        tangent = slope - axes * (axes * slope).sum(0)
        square = float((tangent**2).sum())
        if square < (tol * len(rows)) ** 2:
            break
        step *= 2
        for _ in range(30):
            moved = axes - step * tangent
            moved /= np.linalg.norm(moved, axis=0)
            found = _quartimin(rows, moved)
            if found[0] < value - 0.5 * step * square:
                break
            step /= 2
        else:  # no step goes down: rounding
            break
        axes, (value, slope) = moved, found
    return axes


def _quartimin(rows: Array, axes: Array) -> tuple[float, Array]:
    """The criterion, and its gradient with respect to the axes."""
    inverse = np.linalg.inv(axes)
    pattern = rows @ inverse.T
    square = pattern**2
    others = square.sum(1, keepdims=True) - square
    return float((square * others).sum() / 4), -(pattern.T @ (pattern * others) @ inverse).T


def _normalised(loadings: Array) -> Array:
    """Rows of length 1 (Kaiser 1958).

    Columns that carry next to nothing keep their small weight: the norm of a row has a floor.
    """
    norm = np.sqrt((loadings**2).sum(1))
    rows: Array = loadings / np.maximum(norm, 0.3 * max(norm.max(), 1e-12))[:, None]
    return rows
