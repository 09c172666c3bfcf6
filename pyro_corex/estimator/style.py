"""A style of answering: people agree with all questions more or less readily (acquiescence).

It is shared by all answers, whichever way the questions are keyed, and would take the place of a
trait.  So it gets a latent of its own, the last one, which is not among those that are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyro_corex.estimator.columns import Array, Column
from pyro_corex.estimator.factors import bic, factor_analysis
from pyro_corex.estimator.initial import Moments
from pyro_corex.estimator.parameters import Options
from pyro_corex.estimator.rotation import simplicity, varimax

_EVEN = 0.9  # (mean loading)^2 / mean square loading of a style of answering


def with_style(
    found: Moments, columns: Sequence[Column], options: Options, factors: tuple[Any, ...]
) -> tuple[Array, Array, bool]:
    """Factors of questions, and one more for a style, where it is wanted and the data show it.

    With "auto" it counts as found where all columns are binary or ordinal, one factor more is worth
    its parameters (BIC), some direction among the factors loads on all questions alike, and without
    it the others have a simpler structure.

    :param factors: loadings ``(d, m)``, noise variances, and the least that these may be.
    :returns: loadings ``(d, m + 1)`` with the style last, noise variances and True; or what was
        given and False.
    """
    loadings, psi, floor = factors
    d, m = loadings.shape
    sure = options.style is True
    asks = sure or all(c.kind in ("binary", "ordinal") for c in columns)
    if not (options.style and asks) or options.anchors or options.hidden:
        return loadings, psi, False
    if d < 2 * m + 4 and not sure:
        return loadings, psi, False
    more, more_psi, _ = factor_analysis(found.corr, m + 1, floor)
    if not sure and bic(found.corr, found.n, loadings, psi) < bic(
        found.corr, found.n, more, more_psi
    ):
        return loadings, psi, False
    turned = more @ style_rotation(more)
    style, rest = turned[:, -1], turned[:, :-1]
    even = style.sum() ** 2 / (d * (style**2).sum())
    simpler = simplicity(rest) > max(simplicity(loadings), simplicity(more))
    if not sure and (even < _EVEN or not simpler):
        return loadings, psi, False
    return turned, more_psi, True


def style_rotation(loadings: Array) -> Array:
    """The rotation ``(m, m)`` whose last axis loads on all columns alike; varimax of the others."""
    d, m = loadings.shape
    axis = np.linalg.lstsq(loadings, np.ones(d), rcond=None)[0]
    axis /= np.linalg.norm(axis)
    rest = np.linalg.svd(np.eye(m) - np.outer(axis, axis))[0][:, : m - 1]
    return np.column_stack([rest @ varimax(loadings @ rest), axis])
