"""Loadings of columns that exceed rows: what chance alone explains is taken out of them.

With fewer rows than columns each loading is an estimate with an error that rivals it, and the noise
of a column seems less than it is: factor analysis then explains little of new rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit

from pyro_corex.estimator.columns import Array

_SWEEPS = 50
_TOL = 1e-3  # of loadings


class _Entries(NamedTuple):
    """What is believed of loadings, ``(d, m)`` or ``(d,)``."""

    mean: Array
    variance: Array
    kept: Array
    """The probability that it is not zero."""


def shrunken_loadings(
    factor: Array,
    loadings: Array,
    psi: Array,
    floor: Array,
    among: Array | None = None,
    n: float | None = None,
) -> tuple[Array, Array, Array, int]:
    r"""Empirical Bayes factor analysis (Wang and Stephens 2021), from loadings that are rotated.

    A loading on latent j is zero, or :math:`N(0, \sigma_j^2)` with the probability
    :math:`\pi_j`; both are found from all of the latent's loadings, so that it shrinks as much as
    the errors of most say that it should.  Each sweep is one of coordinate ascent on the evidence
    lower bound, and costs O(n d m).

    :param factor: F of the correlations :math:`F F^T`, ``(d, n)``, the standardised data.
    :param floor: the least noise variances, ``(d,)``.
    :param among: correlations of the latents to begin with, ``(m, m)``; without them there are
        none.
    :param n: how many rows there are, where they have weights: that is their sum.
    :returns: means of the loadings ``(d, m)``, what they leave of the variances ``(d,)``, the
        correlations of the latents, and the number of sweeps.
    """
    n, m = n or factor.shape[1], loadings.shape[1]
    found = _Entries(loadings, np.zeros_like(loadings), np.ones_like(loadings))
    psi, share, slab = (
        np.maximum(psi, floor),
        np.full(m, 0.5),
        np.maximum((loadings**2).mean(0), _TOL),
    )
    sweeps, moved, corr = 0, np.inf, np.eye(m) if among is None else among
    while sweeps < _SWEEPS and moved > _TOL:
        sweeps += 1
        weighted = found.mean / psi[:, None]
        cov = np.linalg.inv(
            np.linalg.inv(corr) + found.mean.T @ weighted + np.diag(found.variance.T @ (1 / psi))
        )
        z = np.sqrt(n) * (factor.T @ weighted) @ cov
        del weighted
        gram = z.T @ z + n * cov
        cross = factor @ (np.sqrt(n) * z)
        # the latents have the variance 1: what they lack of it, their loadings are given (Liu et
        # al. 1998)
        scale = np.sqrt(np.diag(gram) / n)
        gram, cross = gram / scale / scale[:, None], np.divide(cross, scale, out=cross)
        corr = corr if among is None else gram / n
        before = found.mean
        mean, variance, kept = before * scale, found.variance, found.kept
        slab = slab * scale**2
        for j in range(m):
            rest = cross[:, j] - mean @ gram[:, j] + mean[:, j] * n
            own = _shrink(rest / n, psi / n, share[j], slab[j])
            mean[:, j], variance[:, j], kept[:, j] = own
        found = _Entries(mean, variance, kept)
        total = kept.sum(0)
        share = np.clip(total / len(psi), 1e-6, 1 - 1e-6)
        square = np.einsum("ij,ij->j", mean, mean) + variance.sum(0)
        slab = np.maximum(square / np.maximum(total, 1e-6), 1e-6)
        fitted = 2 * np.einsum("ij,ij->i", mean, cross) - n * variance.sum(1)
        fitted -= np.einsum("ij,ij->i", mean @ gram, mean)
        # so many of the rows' degrees of freedom went into the latents
        psi = np.clip((n - fitted) / max(n - m, 1), floor, 1.0)
        moved = np.abs(mean - before).max()
    common = ((found.mean @ corr) * found.mean).sum(1)
    return found.mean, np.maximum(1 - common, floor), corr, sweeps


def _shrink(value: Array, error: Array, share: float, slab: float) -> _Entries:
    """Estimates with the variances ``error``, of what is zero or ``N(0, slab)``."""
    total = slab + error
    odds = np.log(share / (1 - share)) + 0.5 * (
        np.log(error / total) + value**2 * slab / (error * total)
    )
    kept = expit(odds)
    mean, variance = value * slab / total, error * slab / total
    return _Entries(kept * mean, kept * (variance + (1 - kept) * mean**2), kept)
