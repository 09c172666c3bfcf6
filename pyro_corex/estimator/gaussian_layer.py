"""What a trained Gaussian program says: terms of the bound, informations, predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import qmc
from torch import Tensor

from pyro_corex.estimator.columns import Column
from pyro_corex.estimator.gaussian import Fitted
from pyro_corex.estimator.results import proportional

Array = NDArray[Any]

_CHUNK = 1000  # rows whose terms are computed at once


@dataclass
class Terms:
    """Terms of the bound for each row, in nats."""

    log_prob: Array
    """E ln q(x_i|z), ``(N, d)``, 0 where missing."""
    kl: Array
    """``(N,)``: that of all latents together."""
    latent_kl: Array
    """``(N, m)``: the KL of each reported latent; they add up to ``kl``."""


class GaussianLayer:
    """A trained :class:`~pyro_corex.programs.TableVAE` and the rotation of its latents."""

    discrete = False

    def __init__(self, fitted: Fitted, columns: Sequence[Column]) -> None:
        self.program = fitted.program.eval()
        self.rotation = fitted.rotation
        self.style = fitted.style
        """Whether the last latent is a style of answering, which is no latent to the user."""
        self.columns = list(columns)
        self.history = fitted.history
        self.n_iter = fitted.n_iter
        self.converged = fitted.converged

    @property
    def n_hidden(self) -> int:
        """The number of latents, with that of a style of answering."""
        return self.program.latent_dim

    @property
    def _reported(self) -> Array:
        return self.rotation[:, : self.n_hidden - self.style]

    @property
    def n_parameters(self) -> int:
        """Free parameters of the dependence among the columns; 0 where it is not known."""
        if self.program.hidden:
            return 0
        m = self.n_hidden
        per_column = [
            max(1, c.n_levels - 1) if c.kind == "categorical" else 1 for c in self.columns
        ]
        return max(0, m * sum(per_column) - m * (m - 1) // 2)

    def parameters_by_latent(self) -> Array:
        """How many of them each latent has."""
        return np.full(self.n_hidden, self.n_parameters / self.n_hidden)

    def shares(self, mis: Array) -> Array:
        """Shares of the latents in each column's relevance, ``(m, d)``."""
        return proportional(mis)

    def clusters(self, mis: Array) -> Array:
        """The latent of each column: the one that tells most, among those it may load on.

        :param mis: ``(m, d)``, without a style of answering.
        """
        if self.style:
            return mis.argmax(0)
        allowed = self.program.allowed.numpy().T
        if np.all(allowed == 1):
            return mis.argmax(0)
        return np.where(allowed > 0, mis, -1.0).argmax(0)

    def reorder(self, order: Array) -> None:
        """Puts the reported latents into another order."""
        self.rotation = self.rotation[:, order]

    @torch.no_grad()
    def encode(self, x: Tensor) -> Array:
        """The reported latents' means, ``(N, m)``."""
        return self.program.encode(x).loc.numpy() @ self._reported

    @torch.no_grad()
    def terms(self, x: Tensor) -> Terms:
        """The terms of the bound at these rows, with the same draws for each of them."""
        if len(x) > _CHUNK:  # what a row takes is many times its size
            parts = [vars(self.terms(rows)) for rows in x.split(_CHUNK)]
            return Terms(**{key: np.concatenate([p[key] for p in parts]) for key in parts[0]})
        program = self.program
        q = program.encode(x)
        log_prob = self._expected(x, q)
        kl = program.kl(q).sum(-1)
        r = torch.as_tensor(self.rotation, dtype=x.dtype)
        loc, variance = q.loc @ r, q.scale.square() @ r.square()
        marginal = 0.5 * (loc.square() + variance - 1 - variance.log()).clamp(min=0)
        share = marginal / marginal.sum(-1, keepdim=True).clamp(min=1e-12)
        latent_kl = marginal + (kl - marginal.sum(-1))[:, None] * share
        return Terms(log_prob.numpy(), kl.numpy(), latent_kl.numpy())

    def _expected(self, x: Tensor, q: Any) -> Tensor:
        program = self.program
        continuous = program.spec.columns("continuous")
        linear = program.decoder_net is None
        out = x.new_zeros(x.shape)
        if len(continuous) < x.shape[1] or not linear:
            draws = _normal_draws(program.latent_dim, 32).to(x.dtype)
            for eps in draws:
                out += program.log_prob_columns(x, q.loc + q.scale * eps) / len(draws)
        if continuous and linear:  # in closed form
            n = len(continuous)
            w = program.loadings()[:n]
            mean = q.loc @ w.T + program.bias[:n]
            spread = q.scale.square() @ w.square().T
            noise = (2 * program.log_scale).exp()
            value = x[:, continuous]
            exact = -0.5 * (((value - mean).square() + spread) / noise + noise.log())
            exact = exact - 0.5 * float(np.log(2 * np.pi))
            out[:, continuous] = exact.nan_to_num(nan=0.0)
        return out

    @torch.no_grad()
    def draw(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Array]:
        """Fills missing entries with draws from the model; and the latents drawn, ``(N, m)``."""
        q = self.program.encode(x)
        z = q.loc + q.scale * torch.randn(q.loc.shape, generator=generator, dtype=x.dtype)
        filled = x.clone()
        for _, columns, fn in self.program.column_distributions(z):
            missing = x[:, columns].isnan()
            if missing.any():
                with _seeded(generator):
                    value = fn.sample().to(x.dtype)
                filled[:, columns] = torch.where(missing, value, filled[:, columns])
        return filled, z.numpy() @ self._reported

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator, latents: Array | None = None) -> Tensor:
        """Rows from the model, coded: ``(n, d)``."""
        if latents is None:
            m = self.n_hidden
            z = torch.randn(n, m, generator=generator, dtype=self.program.weight.dtype)
            if not torch.equal(self.program.prior_precision, torch.eye(m, dtype=z.dtype)):
                cov = torch.linalg.inv(self.program.prior_precision)
                z = z @ torch.linalg.cholesky(cov).T
        else:
            z = torch.as_tensor(latents @ self._reported.T, dtype=self.program.weight.dtype)
            if self.style:
                axis = torch.as_tensor(self.rotation[:, -1], dtype=z.dtype)
                z = z + torch.randn(len(z), 1, generator=generator, dtype=z.dtype) * axis
        x = z.new_empty(len(z), len(self.columns))
        for _, columns, fn in self.program.column_distributions(z):
            with _seeded(generator):
                x[:, columns] = fn.sample().to(x.dtype)
        return x

    @torch.no_grad()
    def predict(self, x: Tensor | None, latents: Array | None = None) -> list[Array]:
        """What the model expects of each column, given the observed entries or the latents.

        :returns: for each column, probabilities of its levels ``(N, K)``, or means and standard
            deviations of its code ``(N, 2)``.
        """
        program = self.program
        if latents is None:
            assert x is not None
            q = program.encode(x)
            loc, scale = q.loc, q.scale
            draws = _normal_draws(program.latent_dim, 16).to(loc.dtype)
        else:
            loc = torch.as_tensor(latents @ self._reported.T, dtype=program.weight.dtype)
            scale = torch.zeros_like(loc)
            draws = loc.new_zeros(1, program.latent_dim)
        out: list[Any] = [None] * len(self.columns)
        parts: dict[int, list[Tensor]] = {}
        for eps in draws:
            for kind, columns, fn in program.column_distributions(loc + scale * eps):
                if kind in ("ordinal", "nominal"):
                    value: Tensor = fn.probs
                else:
                    value = torch.stack([fn.mean, fn.variance + fn.mean**2], -1)
                for at, i in enumerate(columns):
                    parts.setdefault(i, []).append(value[:, at])
        for i, values in parts.items():
            mean = torch.stack(values).mean(0).numpy()
            if self.columns[i].n_levels:
                out[i] = mean[:, : self.columns[i].n_levels]
            else:
                sd = np.sqrt(np.maximum(mean[:, 1] - mean[:, 0] ** 2, 1e-12))
                out[i] = np.stack([mean[:, 0], sd], 1)
        return out

    @torch.no_grad()
    def covariance(self) -> Array:
        """The covariance of coded continuous columns under the model, ``(d, d)``."""
        w = self.program.loadings()
        prior = torch.linalg.inv(self.program.prior_precision)
        return (w @ prior @ w.T + (2 * self.program.log_scale).exp().diag()).numpy()

    @torch.no_grad()
    def mutual_information(self, n_data: Array) -> tuple[Array, Array]:
        """I(z_j : x_i) in nats under the model, and standard errors: ``(m, d)`` each.

        :param n_data: how many entries of each column were observed.
        """
        program, m = self.program, self.n_hidden
        at_nodes, at_weights = np.polynomial.hermite_e.hermegauss(15)
        weights = torch.as_tensor(at_weights / at_weights.sum(), dtype=program.weight.dtype)
        nodes = torch.as_tensor(at_nodes, dtype=program.weight.dtype)
        others = _normal_draws(m, 64).to(nodes.dtype)
        r = torch.as_tensor(self.rotation, dtype=nodes.dtype)
        corr = torch.linalg.inv(program.prior_precision)
        chol = torch.linalg.cholesky(r.T @ corr @ r)  # of the reported latents
        value, spread = np.zeros((m, len(self.columns))), np.zeros((m, len(self.columns)))
        for j in range(m):
            z = others @ chol.T
            slope = (chol @ chol.T)[:, j]
            z = z - z[:, j : j + 1] * slope  # given z_j = 0
            z = z + nodes[:, None, None] * slope
            for _, columns, fn in program.column_distributions(z @ r.T):
                for at, i in enumerate(columns):
                    value[j, i], spread[j, i] = self._information(i, at, fn, weights)
        return value, np.sqrt(np.maximum(spread, 0.5 / n_data) / n_data)

    def _information(self, i: int, at: int, fn: Any, weights: Tensor) -> tuple[float, float]:
        column = self.columns[i]
        if column.kind == "continuous":  # shape (nodes, draws)
            mean = fn.mean[..., at]
            inner = mean.mean(1)
            total = float(weights @ (mean.square().mean(1))) - float(weights @ inner) ** 2
            noise = float(fn.stddev[..., at].square().mean())
            between = float(weights @ inner.square()) - float(weights @ inner) ** 2
            share = min(max(between / (total + noise), 0.0), 1 - 1e-9)
            return -0.5 * float(np.log1p(-share)), share
        if column.n_levels:
            p = fn.probs[:, :, at, : column.n_levels].mean(1)
        else:
            top = len(column.marginal)
            grid = torch.arange(top, dtype=weights.dtype)
            counts = torch.distributions.NegativeBinomial(
                fn.total_count[..., at], logits=fn.logits[..., at], validate_args=False
            )
            p = counts.log_prob(grid[:, None, None]).exp().mean(2).T
        p = (p / p.sum(1, keepdim=True)).clamp(min=1e-12)
        ratio = p.log() - (weights @ p).log()
        joint = weights[:, None] * p
        information = float((joint * ratio).sum())
        variance = float((joint * ratio.square()).sum()) - information**2
        return max(information, 0.0), variance


def _normal_draws(m: int, n: int) -> Tensor:
    """Quasi-random standard normal draws ``(n, m)`` with mean 0 in every dimension."""
    half = qmc.MultivariateNormalQMC(np.zeros(m), seed=0).random(n // 2)
    draws = np.concatenate([half, -half])
    return torch.as_tensor(draws / np.sqrt((draws**2).mean(0)))


class _seeded:  # noqa: N801
    """Torch's global random state taken from a generator for a while."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def __enter__(self) -> None:
        self.state = torch.get_rng_state()
        torch.set_rng_state(self.generator.get_state())

    def __exit__(self, *error: object) -> None:
        self.generator.set_state(torch.get_rng_state())
        torch.set_rng_state(self.state)
