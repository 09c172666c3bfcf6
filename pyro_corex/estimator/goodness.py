"""How well a fitted layer describes its table: likelihood, residuals, reliability."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.stats import ncx2
from torch import Tensor

from pyro_corex.estimator.blocks import blocks
from pyro_corex.estimator.categorical import MAX_ROWS, CategoricalLayer, fit_categorical
from pyro_corex.estimator.classes import class_figures, n_parameters
from pyro_corex.estimator.columns import Array, Coding
from pyro_corex.estimator.correlations import Correlations, Parts
from pyro_corex.estimator.gaussian import GaussianLayer
from pyro_corex.estimator.layer import Layer
from pyro_corex.estimator.parameters import Options
from pyro_corex.estimator.sparse import Table

_BLOCK = 256  # columns whose pairs with twice as many are looked at at once
_MAX_STATES = 20  # that are tried
_CLOSE, _REASONABLE = 0.05, 0.08  # RMSEA (Browne and Cudeck 1993)
_LN_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class GoodnessOfFit:
    """How well a model of one layer describes the table that it was fitted to.

    Likelihoods are in nats; the measures of fit are those of factor analysis (Steiger 1990).  What
    does not apply is NaN.
    """

    log_likelihood: float
    """Of the coded entries that are observed, in nats, of all rows together."""
    exact: bool
    """Whether it is the log-likelihood itself, and not a lower bound on it."""
    n_parameters: float
    """Free parameters of the model; those of networks are not counted."""
    n_rows: float
    """The number of rows, or what their weights count."""
    chi_square: float
    """Of normal columns without gaps, against a covariance matrix that is free."""
    df: float
    """The degrees of freedom of ``chi_square``."""
    srmr: float
    """Root mean square difference of correlations in the table and under the model; for Gaussian
    latents, and columns that are not categorical.  Up to 0.08 is good (Hu and Bentler 1999).  It
    has no standard error, as it is above 0 in any table, whether or not the model is right.  Of
    more than 1,000 columns it is that of the rows that ``bound_`` looks at."""
    largest_residual: float
    """The largest such difference, table less model."""
    largest_pair: tuple[str, str] | None
    """The two columns that it is of: what they share beside the latents."""

    @property
    def bic(self) -> float:
        """The Bayesian information criterion (Schwarz 1978), in nats times 2: smaller is better."""
        return math.log(self.n_rows) * self.n_parameters - 2 * self.log_likelihood

    @property
    def rmsea(self) -> float:
        """Root mean square error of approximation (Steiger 1990): how far the model's correlations
        are from free ones, for each degree of freedom.  Up to 0.05 is close, up to 0.08 reasonable,
        above 0.1 poor (Browne and Cudeck 1993).
        """
        return math.sqrt(max(0.0, self.chi_square / self.df - 1) / self.n_rows)

    @property
    def rmsea_interval(self) -> tuple[float, float]:
        """The 90 % confidence interval of ``rmsea`` (Browne and Cudeck 1993), for normal columns.

        There is no standard error: where the model is right, ``rmsea`` is 0 in half the tables.
        """
        most = self.chi_square + 10 * math.sqrt(2 * self.df + 4 * self.chi_square)

        def end(share: float) -> float:
            def excess(noncentrality: float) -> float:
                return float(ncx2.cdf(self.chi_square, self.df, noncentrality)) - share

            far = brentq(excess, 0.0, most) if excess(0.0) > 0 else 0.0
            return math.sqrt(far / self.df / self.n_rows)

        return (math.nan, math.nan) if math.isnan(most) else (end(0.95), end(0.05))

    @property
    def _reading(self) -> str:
        if self.rmsea > _REASONABLE:
            return f"above {_REASONABLE}, the latents leave correlations unexplained"
        return "a close fit" if self.rmsea <= _CLOSE else f"a reasonable fit, up to {_REASONABLE}"

    def __str__(self) -> str:
        least = "" if self.exact else "at least "
        lines = [
            f"Log-likelihood {least}{self.log_likelihood:.1f} nats"
            + ("." if math.isnan(self.bic) else f", BIC {self.bic:.1f} (smaller is better).")
        ]
        if not math.isnan(self.chi_square):
            low, high = self.rmsea_interval
            lines.append(
                f"RMSEA {self.rmsea:.3f} (90 % interval {low:.3f} to {high:.3f}; chi-square "
                f"{self.chi_square:.1f} with {self.df:.0f} degrees of freedom): {self._reading}."
            )
        if self.largest_pair is not None:
            a, b = self.largest_pair
            lines.append(
                f"Correlations that the latents leave unexplained: {self.srmr:.3f} on average "
                f"(SRMR, good up to 0.08); the largest is {self.largest_residual:+.3f}, between "
                f"{a} and {b}."
            )
        return "\n".join(lines)


def choose_states(
    x: Table, coding: Coding, options: Options, n: float
) -> tuple[int, list[dict[str, float]]]:
    """The number of states of all latents with the lowest BIC, and what was tried.

    From 2 upwards, until two more have not been better.

    :param x: the table, ``(N, d)``.
    :param n: the number of its rows, or what they count.
    """
    often = None if options.weight is None else options.weight[:MAX_ROWS]
    bics: dict[int, float] = {}
    best = 2
    for s in range(2, min(_MAX_STATES, len(x)) + 1):
        program = fit_categorical(coding, x, replace(options, n_states=s)).program
        with torch.no_grad():
            parts = coding.batches(x[:MAX_ROWS])
            each = [program.log_joint(rows).logsumexp(-1).sum(-1) for rows in parts]
        likelihood = float(np.average(torch.cat(each).numpy(), weights=often))
        bics[s] = math.log(n) * n_parameters(program) - 2 * n * likelihood
        best = min(bics, key=lambda k: bics[k])
        if s >= best + 2:
            break
    return best, [{"n_states": s, "bic": bic} for s, bic in bics.items()]


Rows = tuple[Any, Array | None]
"""Rows ``(N, d)``, of a table or coded, and how often each counts."""


def fit_figures(
    layer: Layer,
    coding: Coding,
    whole: Rows,
    some: Rows,
    n: float,
    elbo: float,
    clusters: Array,
) -> dict[str, object]:
    """Attributes of :class:`~pyro_corex.CorEx`, by name, that say how well a layer fits.

    :param whole: the table ``(N, d)``.
    :param some: coded rows of it, of which the bound is.
    :param n: the number of rows of the whole table, or what they count.
    :param elbo: the bound on ln p of a row, in nats, which is exact for categorical latents.
    :param clusters: the latent of each column, ``(d,)``.
    """
    nothing = math.nan, math.nan
    if isinstance(layer, CategoricalLayer):
        free = float(n_parameters(layer.program))
        fit = GoodnessOfFit(n * elbo, True, free, n, *nothing, *nothing, None)
        x, often = some
        each = np.ones(len(x)) if often is None else often
        profiles = class_figures(layer.program, layer.columns, layer.order, x, each)
        return {"fit_": fit, "bic_": fit.bic, **profiles}
    layer = cast(GaussianLayer, layer)
    free, chi = _free_parameters(layer), nothing
    found = Correlations(layer, *some, partial(_parts, coding, *whole))
    normal = not layer.program.hidden and all(c.kind == "continuous" for c in layer.columns)
    if normal:
        elbo = _normal_log_likelihood(layer, _parts(coding, *whole))
        chi = _chi_square(found, n, elbo, free)
    srmr, largest, pair = _residuals(found)
    fit = GoodnessOfFit(n * elbo, normal, free, n, *chi, srmr, largest, pair)
    return {"fit_": fit, "bic_": fit.bic, **reliability(found, layer.n_reported, clusters)}


def _parts(coding: Coding, x: Table, often: Array | None) -> Iterator[tuple[Tensor, Array]]:
    often = np.ones(len(x)) if often is None else often
    return ((coding.encode(x[own]), often[own]) for own in coding.parts(x))


def _free_parameters(layer: GaussianLayer) -> float:
    """Loadings, less what a rotation may choose, and each column's own parameters."""
    program, m = layer.program, layer.n_hidden
    if program.hidden:
        return math.nan
    allowed = program.allowed.sum(1).numpy()
    found = -m * (m - 1) / 2 if (allowed == m).all() and not program.oblique else 0.0
    for column, loadings in zip(layer.columns, allowed, strict=True):
        if column.kind == "categorical":
            found += (column.n_levels - 1) * (1 + loadings)
        else:
            found += loadings + (column.n_levels - 1 if column.n_levels else 2)
    return float(found)


@torch.no_grad()
def _normal_log_likelihood(layer: GaussianLayer, parts: Parts) -> float:
    """That of the observed entries of a row, on average, of a linear program of normal columns."""
    program = layer.program
    w, noise, prior = program.loadings(), (2 * program.log_scale).exp(), program.prior_precision
    whole = prior + (w / noise[:, None]).T @ w
    total, n = 0.0, 0.0
    for x, often in parts:
        seen = (~x.isnan()).to(x.dtype)
        rest = (x - program.bias).nan_to_num() * seen
        inner = whole
        if not bool(seen.all()):
            outer = (w[:, :, None] * w[:, None, :] / noise[:, None, None]).flatten(1)
            inner = prior + (seen @ outer).unflatten(-1, prior.shape)
        right = (rest / noise) @ w
        solved = torch.linalg.solve(inner, right[..., None])[..., 0]
        quadratic = (rest.square() / noise).sum(1) - (right * solved).sum(1)
        log_det = seen @ noise.log() + inner.logdet() - prior.logdet()
        total -= 0.5 * float(often @ (quadratic + log_det + _LN_2PI * seen.sum(1)).numpy())
        n += float(often.sum())
    return total / n


def _chi_square(
    found: Correlations, n: float, likelihood: float, free: float
) -> tuple[float, float]:
    """Against a covariance matrix that is free, and the degrees of freedom."""
    d = len(found.columns)
    df = d * (d + 3) / 2 - free
    if found.all is None or d > n - 2 or df <= 0 or not found.complete:
        return math.nan, math.nan
    sign, log_det = np.linalg.slogdet(found.all)
    if sign <= 0:
        return math.nan, math.nan
    log_det += 2 * np.log(found.scale).sum()
    saturated = -0.5 * (log_det + d * (1 + _LN_2PI))
    return max(0.0, float(2 * n * (saturated - likelihood))), df


def _residuals(found: Correlations) -> tuple[float, float, tuple[str, str] | None]:
    """SRMR, the largest residual, and the columns that it is of."""
    k = len(found.columns)
    if k < 2 or found.many(k):
        return math.nan, math.nan, None
    total, largest, pair = 0.0, 0.0, (0, 1)
    for a in blocks(k, _BLOCK):
        model = found.loadings[a] @ found.among
        for b in blocks(a.stop, _BLOCK):  # each pair of blocks once
            rest = found.between(a, b) - model @ found.loadings[b].T
            if a == b:
                np.fill_diagonal(rest, 0.0)
            total += float((rest**2).sum()) * (1 if a == b else 2)
            i, j = np.unravel_index(np.abs(rest).argmax(), rest.shape)
            if abs(rest[i, j]) > abs(largest):
                largest, pair = float(rest[i, j]), (a.start + int(i), b.start + int(j))
    first, second = sorted(pair)
    names = found.names[first], found.names[second]
    return math.sqrt(total / (k * (k - 1))), largest, names


def reliability(found: Correlations, m: int, clusters: Array) -> dict[str, Array]:
    """Omega and alpha of the sum of each latent's columns, NaN for fewer than two: ``(m,)`` each.

    Columns that load negatively are turned, and all are standardised.
    """
    out = {"omega_": np.full(m, np.nan), "alpha_": np.full(m, np.nan)}
    for j in range(m):
        own = np.flatnonzero(clusters[found.columns] == j)
        k = len(own)
        if k < 2:
            continue
        loadings = found.loadings[own]
        sign = np.where(loadings[:, j] < 0, -1.0, 1.0)
        common = sign @ loadings
        explained = float(common @ found.among @ common)
        noise = k - float(((loadings @ found.among) * loadings).sum())
        out["omega_"][j] = common[j] ** 2 / (explained + noise)
        out["alpha_"][j] = k / (k - 1) * (1 - k / found.variance(own, sign))
    return out
