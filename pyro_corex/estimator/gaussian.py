"""Gaussian latents: a :class:`~pyro_corex.programs.TableVAE`, trained, and what it says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.special import rel_entr
from scipy.stats import chi2
from torch import Tensor

from pyro_corex.estimator.columns import Array, Coding, Column
from pyro_corex.estimator.em import expectation_maximisation
from pyro_corex.estimator.factors import FLOOR, factor_analysis
from pyro_corex.estimator.initial import Moments, initialise, moments, place_anchors
from pyro_corex.estimator.layer import Layer, Points, Training, seeded, table_spec
from pyro_corex.estimator.loadings import (
    anchored_axes,
    correlation_loadings,
    pattern_loadings,
    positive_axes,
    reported_axes,
)
from pyro_corex.estimator.parameters import Options
from pyro_corex.estimator.results import row_terms
from pyro_corex.estimator.rotation import oblimin, varimax
from pyro_corex.estimator.shrinkage import shrunken_loadings
from pyro_corex.estimator.sparse import SparseTable, Table, check_size
from pyro_corex.estimator.style import style_rotation, with_style
from pyro_corex.estimator.table import as_tensor
from pyro_corex.estimator.weights import in_proportion
from pyro_corex.programs.points import normal_points
from pyro_corex.programs.tables import TableVAE
from pyro_corex.training import Optimization, fit

_SMALL = 20_000_000  # entries that are coded before training, and not in each epoch
_CURE = "Take latent='categorical', or leave out the columns with the fewest entries."
_LOOK = 1_000  # rows by which starts are compared
_CELLS = 1 << 18  # points, times columns, at which a mutual information is summed at once


class GaussianLayer(Layer):
    """A trained program and the rotation of its latents."""

    program: TableVAE

    def __init__(
        self,
        program: TableVAE,
        columns: Sequence[Column],
        rotation: Array,
        training: Training,
        n_extra: int = 0,
    ) -> None:
        self.program = program.to(torch.float64).eval()
        self.columns = list(columns)
        self.rotation = rotation
        self.training = training
        self.n_extra = n_extra

    def prior(self, n: int) -> Tensor:
        """Draws ``(n, m)`` of the latents."""
        chol = torch.linalg.cholesky(torch.linalg.inv(self.program.prior_precision))
        return torch.randn(n, self.n_hidden, dtype=torch.float64) @ chol.T

    def points(self, x: Tensor) -> Points:
        """Quasi-random ones, equally likely."""
        q, points = self.program.encode(x), normal_points(self.n_hidden, 16)
        weight = torch.full((1, 1), 1 / len(points), dtype=torch.float64)
        return ((weight, q.loc + q.scale * e) for e in points)

    def prior_points(self) -> Points:
        """Quasi-random ones, equally likely."""
        chol = torch.linalg.cholesky(torch.linalg.inv(self.program.prior_precision))
        z = normal_points(self.n_hidden, 256) @ chol.T
        return ((torch.full((1, 1), 1 / len(z), dtype=torch.float64), row[None]) for row in z)

    @torch.no_grad()
    def latent_kl(self, x: Tensor, kl: Mapping[str, Array]) -> Array:
        """In proportion to the KLs of the reported latents on their own."""
        q = self.program.encode(x)
        r = torch.as_tensor(self.rotation)
        loc, variance = q.loc @ r, q.scale.square() @ r.square()
        own = 0.5 * (loc.square() + variance - 1 - variance.log()).clamp(min=0).numpy()
        total = own.sum(-1, keepdims=True)
        return own + (kl["z"][:, None] - total) * own / np.maximum(total, 1e-12)

    @torch.no_grad()
    def doubts(self, x: Tensor, mis: Array, n_data: Array, often: Array | None = None) -> Array:
        """By the likelihood ratio of a loading, as far as the rows tell the latent."""
        known = 1 - self.program.encode(x).scale.square().mean(0) @ torch.as_tensor(
            self.rotation**2
        )
        df = np.array(
            [max(1, c.n_levels - 1) if c.kind == "categorical" else 1 for c in self.columns]
        )
        return np.asarray(chi2.sf(2 * n_data * mis * known.clamp(0.0, 1.0).numpy()[:, None], df))

    def shares(self, mis: Array) -> Array:
        """In proportion to what each would tell of the column if latents were independent."""
        told = -0.5 * np.log1p(-np.minimum(pattern_loadings(self)[0].T ** 2, 1 - 1e-9))
        total = told.sum(0)
        return np.where(total > 1e-12, told / np.maximum(total, 1e-12), 1 / len(told))

    @torch.no_grad()
    def correlations(self) -> Array:
        """Those of the reported latents under the model, ``(m, m)``."""
        cov = torch.linalg.inv(self.program.prior_precision).numpy()
        return self.rotation.T @ cov @ self.rotation

    def clusters(self, mis: Array) -> Array:
        """The latent that tells most, among those that the column may load on."""
        allowed = self.program.allowed.numpy().T[: len(mis)]
        return np.where(allowed > 0, mis, -1.0).argmax(0)

    def parameters_by_latent(self) -> Array:
        """0 for networks, of which it is not known."""
        m = self.n_hidden
        if self.program.hidden:
            return np.zeros(m)
        per_column = sum(c.n_levels - 1 if c.kind == "categorical" else 1 for c in self.columns)
        return np.full(m, max(0, per_column - (m - 1) / 2))

    @torch.no_grad()
    def covariance(self) -> Array:
        """The covariance of coded continuous columns under the model, ``(d, d)``."""
        w = self.program.loadings()
        prior = torch.linalg.inv(self.program.prior_precision)
        return (w @ prior @ w.T + (2 * self.program.log_scale).exp().diag()).numpy()

    @torch.no_grad()
    def mutual_information(
        self, x: Tensor, n_data: Array, often: Array | None = None
    ) -> tuple[Array, Array]:
        """Of the model, whatever the rows: in closed form for normal columns with a linear
        predictor, and else by quadrature over z_j and points of the others.
        """
        program, m = self.program, self.n_hidden
        value, spread = np.zeros((2, m, len(self.columns)))
        r = torch.as_tensor(self.rotation)
        corr = torch.as_tensor(self.correlations())
        linear = program.site_columns.get("continuous", []) if not program.hidden else []
        if linear:
            value[:, linear], spread[:, linear] = self._normal_information(
                torch.linalg.inv(r).T, corr
            )
        if len(linear) == len(self.columns):
            return value, np.sqrt(np.maximum(spread, 0.5 / n_data) / n_data)
        at_nodes, at_weights = np.polynomial.hermite_e.hermegauss(15)
        weights, nodes = torch.as_tensor(at_weights / at_weights.sum()), torch.as_tensor(at_nodes)
        others = normal_points(m, 64) @ torch.linalg.cholesky(corr).T
        step = max(1, _CELLS // (len(others) * len(self.columns)))
        for j in range(m):
            given_0 = others - others[:, j : j + 1] * corr[:, j]
            told: dict[str, list[Any]] = {}
            for some in nodes.split(step):
                z = given_0 + some[:, None, None] * corr[:, j]
                for kind, columns, fn in program.column_distributions(z @ torch.linalg.inv(r)):
                    if kind != "continuous" or not linear:
                        told.setdefault(kind, []).append(self._given_one(kind, columns, fn))
            for kind, parts in told.items():
                columns = program.site_columns[kind]
                if kind == "continuous":
                    found = _information_of_networks(torch.cat(parts, 1), weights)
                elif kind == "counts":
                    each = [torch.cat(p) for p in zip(*parts, strict=True)]
                    several = [_information(p[:, None], weights) for p in each]
                    found = (
                        np.hstack([pair[0] for pair in several]),
                        np.hstack([pair[1] for pair in several]),
                    )
                else:
                    found = _information(torch.cat(parts), weights)
                value[j, columns], spread[j, columns] = found
        return value, np.sqrt(np.maximum(spread, 0.5 / n_data) / n_data)

    def _given_one(self, kind: str, columns: Sequence[int], fn: Any) -> Any:
        """What is needed of columns given a latent, on average over draws of the others.

        :param fn: of shape (nodes of the latent, draws of the others, columns).
        :returns: probabilities ``(nodes, columns, levels)``, of counts for each column
            ``(nodes, levels)``; or the mean, its square and the variance, ``(3, nodes, columns)``.
        """
        if kind == "continuous":
            noise = fn.stddev.square().expand(fn.mean.shape)
            return torch.stack([fn.mean, fn.mean.square(), noise]).mean(2)
        if kind != "counts":
            return fn.probs.mean(1)
        out = []
        for at, i in enumerate(columns):
            grid = torch.arange(len(self.columns[i].marginal), dtype=torch.float64)
            counts = torch.distributions.NegativeBinomial(
                fn.total_count[..., at], logits=fn.logits[..., at], validate_args=False
            )
            out.append(counts.log_prob(grid[:, None, None]).exp().mean(2).T)
        return out

    def _normal_information(self, turn: Tensor, corr: Tensor) -> tuple[Array, Array]:
        """I(z_j : x_i) of linear normal columns, and the variance of its summand: ``(m, k)``.

        :param turn: loadings on the program's latents times this are those on the reported ones.
        """
        scale = self.program.log_scale.exp()
        w = self.program.loadings()[: len(scale)] @ turn
        with_latent = w @ corr
        variance = (with_latent * w).sum(1) + scale.square()
        share = (with_latent.square() / variance[:, None]).clamp(0.0, 1 - 1e-9).T
        return (-0.5 * torch.log1p(-share)).numpy(), share.numpy()

    @torch.no_grad()
    def make_oblique(self) -> None:
        """Makes the reported latents those of the program, for a layer above to explain.

        The model of the columns is the same; each latent is N(0, 1) on its own, as the bound's
        prior.
        """
        program, corr = self.program, torch.as_tensor(self.correlations())
        turn = torch.linalg.inv(torch.as_tensor(self.rotation)).T
        program.weight.copy_(program.loadings() @ turn)
        program.state_weight.copy_(program.state_loadings() @ turn)
        program.axes.copy_(torch.eye(self.n_hidden))
        program.prior_precision.copy_(torch.linalg.inv(corr))
        self.rotation = np.eye(self.n_hidden)


def _information_of_networks(given: Tensor, weights: Tensor) -> tuple[Array, Array]:
    """I(z_j : x_i) of continuous columns, and the variance of its summand: ``(k,)`` each.

    :param given: mean, its square and variance at each node of z_j, ``(3, nodes, k)``.
    """
    inner, square, noise = given
    mean = weights @ inner
    total = weights @ square - mean.square() + noise.mean(0)
    share = ((weights @ inner.square() - mean.square()) / total).clamp(0.0, 1 - 1e-9)
    return (-0.5 * torch.log1p(-share)).numpy(), share.numpy()


def _information(p: Tensor, weights: Tensor) -> tuple[Array, Array]:
    """The same of columns of levels or counts, from probabilities ``(nodes, k, levels)``."""
    total = p.sum(2, keepdim=True).clamp(min=1e-300)  # none of a far node is at levels that occur
    joint = (weights[:, None, None] * p / total).numpy()
    ratio = rel_entr(joint, joint.sum(2, keepdims=True) * joint.sum(0))
    value = ratio.sum((0, 2))
    variance = (ratio**2 / np.maximum(joint, 1e-12)).sum((0, 2)) - value**2
    return np.maximum(value, 0.0), variance


# ---------------------------------------------------------------------- fitting


def fit_gaussian(coding: Coding, x: Table, options: Options) -> GaussianLayer:
    """Starts from factor analysis and trains with the bound what that leaves open.

    :raises ValueError: for sparse tables with so many columns that their correlations, or the rows
        where these are fewer, are too large for dense numbers.
    """
    columns = coding.used
    check_size(x, min(x.shape) * x.shape[1], "the correlations of Gaussian latents", _CURE)
    found = moments(coding, x, options.weight)
    rounding = np.array([column.resolution**2 / 12 for column in columns])
    floor = np.maximum(FLOOR, rounding[found.column])
    found, (loadings, psi, n_iter) = _best_start(found, floor, coding, x, options)
    loadings, psi, style = with_style(found, columns, options, (loadings, psi, floor))
    linear_gaussian = all(c.kind == "continuous" for c in columns) and not options.hidden
    sparse = linear_gaussian and found.wide and found.complete and not (options.anchors or style)
    if sparse:
        pattern, among = loadings @ varimax(loadings), None
        if options.rotation == "oblimin":
            axes = oblimin(pattern, psi, found.n)
            pattern, among = pattern @ np.linalg.inv(axes).T, axes.T @ axes
        pattern, psi, among, more = shrunken_loadings(
            found.corr, pattern, psi, floor, among, found.n
        )
        mixing = np.linalg.cholesky(among)
        loadings = pattern @ mixing
        n_iter += more
    loadings, psi = found.restored(loadings, psi)
    with seeded(options.seed):
        oblique = bool(options.anchors) and options.rotation == "oblimin"
        program = TableVAE(table_spec(columns), loadings.shape[1], options.hidden, oblique)
    program = program.to(options.dtype)
    if options.anchors:
        loadings, psi = place_anchors(found, loadings, program, options)
    initialise(program, columns, found, loadings, psi)
    training = Training()
    if not linear_gaussian:
        training = train(program, coding, x, options)
    elif not found.complete or options.anchors:
        training = expectation_maximisation(program, coding, x, options)
    training.n_iter += n_iter
    turn = _to_principal(program) if linear_gaussian else np.eye(program.latent_dim)
    if options.anchors:
        rotation = anchored_axes(program, options, len(x))
    elif sparse and options.rotation:
        rotation = positive_axes(correlation_loadings(program), turn.T @ mixing.T)
    else:
        start = style_rotation(correlation_loadings(program)) if style else None
        rotation = reported_axes(program, options.rotation, len(x), start, int(style))
    layer = GaussianLayer(program, columns, rotation, training, int(style))
    if len(options.layers) > 1:
        layer.make_oblique()
    return layer


def _best_start(
    found: Moments, floor: Array, coding: Coding, x: Table, options: Options
) -> tuple[Moments, tuple[Array, Array, int]]:
    """The correlations from which training starts, and their factors.

    Of columns that are tied, they are those with or without what ties them, by the bound of some
    rows: factors of the ties alone are hardly left in training.
    """
    several = [found] if found.untied is None else [found, replace(found, corr=found.untied)]
    starts = [(own, factor_analysis(own.corr, options.n_hidden, floor)) for own in several]
    if len(starts) == 1:
        return starts[0]
    rng = np.random.default_rng(options.seed)
    rows = np.sort(rng.permutation(len(x))[:_LOOK])
    often = None if options.weight is None else options.weight[rows]

    def bound(start: tuple[Moments, tuple[Array, Array, int]]) -> float:
        own, (loadings, psi, _) = start
        program = TableVAE(table_spec(coding.used), options.n_hidden)
        program.to(torch.float64)
        initialise(program, coding.used, own, *own.restored(loadings, psi))
        layer = GaussianLayer(program, coding.used, np.eye(options.n_hidden), Training())
        return float(np.average(row_terms(layer, coding.encode(x[rows])).bound, weights=often))

    return max(starts, key=bound)


def train(program: TableVAE, coding: Coding, x: Table, options: Options) -> Training:
    """Trains with :func:`pyro_corex.fit`; the learning rate falls for the last third.

    :raises FloatingPointError: where the loss becomes NaN or infinite.
    """
    if options.weight is not None:
        x = x[in_proportion(options.weight, np.random.default_rng(options.seed))]
    n = len(x)
    batch_size = min(options.batch_size if n < 100_000 else 4 * options.batch_size, n)
    steps = math.ceil(n / batch_size)
    epochs = max(1, round(options.max_iter / steps))
    slow = (epochs - epochs // 3) * steps
    schedule = partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[slow], gamma=0.2)
    ended: list[int] = []

    def transform(batch: Tensor) -> Tensor:
        if isinstance(x, SparseTable):
            return coding.encode(x[batch.long().numpy()]).to(options.dtype)
        return (batch if small else coding.encode(batch.numpy())).to(options.dtype)

    small = x.size <= _SMALL  # coded once
    if isinstance(x, SparseTable):
        data = torch.arange(n)
    else:
        data = coding.encode(x) if small else as_tensor(x)
    try:
        elbo = fit(
            program, data, transform=transform, epochs=epochs, batch_size=batch_size,
            lr=options.lr, optimizer=Optimization(lr_schedule=schedule), seed=options.seed,
            device="cpu", callback=lambda epoch, *_: ended.append(epoch), progress=False,
        )["elbo"]  # fmt: skip
    except ValueError as error:  # the data have been checked: it is the loss
        raise FloatingPointError(
            f"Training diverged in epoch {len(ended) + 1}: {error}. Lower lr={options.lr}."
        ) from error
    history = [{"elbo": float(value)} for value in elbo]
    return Training(history, len(history), has_converged(np.array(elbo), options.tol))


def has_converged(elbos: Array, tol: float) -> bool:
    """Whether the last third rises by less than 100 tolerances, or less than its noise."""
    third = len(elbos) // 3
    if third < 2:
        return True
    tail, at = elbos[-third:], np.arange(third)
    line = np.polyfit(at, tail, 1)
    noise = np.std(tail - np.polyval(line, at))
    return bool(line[0] * third < max(100 * tol * abs(tail.mean()), 3 * noise))


@torch.no_grad()
def _to_principal(program: TableVAE) -> Array:
    """Turns the latents of a linear-Gaussian program so that its encoder is exact.

    :returns: the axes that it has then, as columns.
    """
    scaled = program.loadings() * (-program.log_scale).exp()[:, None]
    axes = torch.linalg.eigh(scaled.T @ scaled)[1].flip(1)
    if bool(program.allowed.all()):
        program.weight.copy_(program.weight @ axes)
    else:
        program.axes.copy_(program.unit_axes() @ axes)
    return axes.numpy()
