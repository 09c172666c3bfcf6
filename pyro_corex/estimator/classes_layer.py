"""What a trained program with discrete latents says: see :mod:`.gaussian_layer`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_corex.estimator.columns import Column
from pyro_corex.estimator.gaussian_layer import Terms
from pyro_corex.programs.classes import LatentClasses

Array = NDArray[Any]


class ClassesLayer:
    """A trained :class:`~pyro_corex.programs.LatentClasses`."""

    discrete = True
    style = False

    def __init__(
        self,
        program: LatentClasses,
        columns: Sequence[Column],
        *,
        n_parameters: Array,
        history: list[dict[str, float]],
        n_iter: int,
        converged: bool,
    ) -> None:
        self.program = program.eval()
        self.columns = list(columns)
        self._n_parameters = n_parameters
        self.history = history
        self.n_iter = n_iter
        self.converged = converged
        self.order = np.arange(len(program.n_states))
        """Reported latent -> the program's."""
        self._joint: tuple[Array, ...] | None = None

    @property
    def n_hidden(self) -> int:
        """The number of latents."""
        return len(self.order)

    @property
    def parents(self) -> Array:
        """The reported latent of each column."""
        back = np.argsort(self.order)
        return back[self.program.parents.numpy()]

    def parameters_by_latent(self) -> Array:
        """Free parameters of the dependence among each latent's columns."""
        return self._n_parameters[self.order]

    @property
    def n_parameters(self) -> float:
        """The sum of :meth:`parameters_by_latent`."""
        return float(self.parameters_by_latent().sum())

    def shares(self, mis: Array) -> Array:
        """All of a column's relevance is its parent's: ``(m, d)``."""
        return (self.parents == np.arange(self.n_hidden)[:, None]).astype(float)

    def clusters(self, mis: Array) -> Array:
        """The latent that each column belongs to."""
        return self.parents

    def reorder(self, order: Array) -> None:
        """Puts the reported latents into another order."""
        self.order = self.order[order]

    @torch.no_grad()
    def posterior(self, x: Tensor) -> Array:
        """Probabilities of the states, ``(N, m, max n_states)``."""
        return self.program.log_posterior(x).exp().numpy()[:, self.order]

    def encode(self, x: Tensor) -> Array:
        """The most probable states, ``(N, m)``, as numbers."""
        return self.posterior(x).argmax(-1).astype(float)

    @torch.no_grad()
    def terms(self, x: Tensor) -> Terms:
        """The terms of the bound at these rows."""
        log_q = self.program.log_posterior(x)
        q = log_q.exp()
        log_prob = self.program.expected_log_prob(x, q)
        kl = (q * (log_q - self.program.prior()).masked_fill(q == 0, 0.0)).sum(-1)
        return Terms(log_prob.numpy(), kl.sum(-1).numpy(), kl.numpy()[:, self.order])

    @torch.no_grad()
    def draw(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Array]:
        """Fills missing entries with draws from the model; and the states drawn."""
        q = self.program.log_posterior(x).exp()
        z = torch.multinomial(q.flatten(0, 1), 1, generator=generator).view(q.shape[:2])
        self._joint = (x.numpy(), q.numpy()[:, self.order])
        filled = torch.where(x.isnan(), self._columns_given(z, generator).to(x.dtype), x)
        return filled, z.numpy()[:, self.order].astype(float)

    def _columns_given(self, z: Tensor, generator: torch.Generator) -> Tensor:
        out = torch.zeros(len(z), len(self.columns), dtype=torch.float64)
        for j in range(self.n_hidden):
            for kind, columns in self.program.members(j):
                fn: Any = self.program.column_distribution(kind, columns, z[:, j : j + 1])
                if kind == "levels":
                    flat = fn.probs.flatten(0, 1)
                    draws = torch.multinomial(flat, 1, generator=generator)
                    out[:, columns] = draws.view(len(z), -1).double()
                elif kind == "continuous":
                    noise = torch.randn(fn.loc.shape, generator=generator, dtype=torch.float64)
                    out[:, columns] = fn.loc + fn.scale * noise
                else:
                    rate = torch._standard_gamma(
                        fn.total_count.expand(fn.logits.shape).contiguous(), generator=generator
                    )
                    rate = rate * fn.logits.exp()
                    out[:, columns] = torch.poisson(rate, generator=generator)
        return out

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator, latents: Array | None = None) -> Tensor:
        """Rows from the model, coded: ``(n, d)``."""
        if latents is None:
            p = self.program.prior().exp()
            z = torch.multinomial(p, n, replacement=True, generator=generator).T
        else:
            z = torch.as_tensor(latents).long()[:, np.argsort(self.order)]
        return self._columns_given(z, generator)

    @torch.no_grad()
    def predict(self, x: Tensor | None, latents: Array | None = None) -> list[Array]:
        """What the model expects of each column: see :class:`.GaussianLayer`."""
        if latents is None:
            assert x is not None
            q = self.program.log_posterior(x).exp()
        else:
            s = max(self.program.n_states)
            z = np.clip(np.round(latents), 0, s - 1).astype(int)[:, np.argsort(self.order)]
            q = torch.as_tensor(np.eye(s)[z])
        states = torch.arange(q.shape[-1])[:, None]
        out: list[Any] = [None] * len(self.columns)
        for j in range(self.n_hidden):
            for kind, columns in self.program.members(j):
                fn: Any = self.program.column_distribution(kind, columns, states)
                for at, i in enumerate(columns):
                    if kind == "levels":
                        k = self.columns[i].n_levels
                        out[i] = (q[:, j] @ fn.probs[:, at, :k]).numpy()
                        continue
                    mean, square = fn.mean[:, at], fn.variance[:, at] + fn.mean[:, at] ** 2
                    loc = q[:, j] @ mean
                    sd = (q[:, j] @ square - loc**2).clamp(min=1e-12).sqrt()
                    out[i] = torch.stack([loc, sd], 1).numpy()
        return out

    def mutual_information(self, n_data: Array) -> tuple[Array, Array]:
        """I(z_j : x_i) in nats and standard errors, ``(m, d)``: of the rows last drawn for.

        For levels from the joint frequencies with the states' probabilities, less the bias of so
        many cells; for numbers from the variance within states, as if they were normal.
        """
        assert self._joint is not None
        x, q = self._joint
        value = np.zeros((self.n_hidden, len(self.columns)))
        spread = np.zeros_like(value)
        for i, column in enumerate(self.columns):
            seen = ~np.isnan(x[:, i])
            for j, latent in enumerate(self.order):
                w = q[seen, j, : self.program.n_states[latent]]
                value[j, i], spread[j, i] = _mutual_information(column, x[seen, i], w)
        self._joint = None
        return value, np.sqrt(np.maximum(spread, 0.5 / n_data) / n_data)


def _mutual_information(column: Column, x: Array, w: Array) -> tuple[float, float]:
    n = max(len(x), 1)
    if not column.n_levels:
        x = np.log(x + 0.5) if column.kind == "counts" else x
        total = w.sum(0) + 1e-12
        mean = (w.T @ x) / total
        within = ((x[:, None] - mean) ** 2 * w).sum(0) / total
        p = total / total.sum()
        variance = max(x.var(), 1e-12)
        value = 0.5 * np.log(variance) - p @ (0.5 * np.log(np.maximum(within, 1e-3 * variance)))
        return max(0.0, float(value)), min(1.0, 2 * max(0.0, float(value)))
    joint = np.eye(column.n_levels)[x.astype(int)].T @ w / n
    outer = joint.sum(1, keepdims=True) * joint.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(joint > 1e-12, np.log(joint / outer), 0.0)
    value = float((joint * ratio).sum())
    variance = float((joint * ratio**2).sum()) - value**2
    cells = ((joint.sum(1) > 1e-9).sum() - 1) * ((joint.sum(0) > 1e-3).sum() - 1)
    return max(0.0, value - cells / (2 * n)), max(variance, 0.0)
