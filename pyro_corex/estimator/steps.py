"""What trains Gaussian programs: gradient steps up the bound, and EM where it has a closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_corex.estimator.factors import FLOOR
from pyro_corex.estimator.moments import Batches
from pyro_corex.objective import CorExELBO
from pyro_corex.programs.tables import TableVAE

Array = NDArray[Any]


@dataclass
class Options:
    """What the estimator's parameters amount to for a Gaussian fit."""

    n_hidden: int
    hidden: tuple[int, ...] = ()
    max_iter: int = 400
    batch_size: int = 256
    lr: float = 0.02
    tol: float = 1e-4
    seed: int = 0
    anchors: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    """Latent -> column -> strength."""
    dtype: torch.dtype = torch.float64


@torch.no_grad()
def expectation_maximisation(
    program: TableVAE, batches: Batches, options: Options
) -> tuple[list[dict[str, float]], bool]:
    """EM for continuous columns with missing entries: closed-form steps up the same bound.

    The expectations are those of the full posterior, of which the encoder keeps the diagonal.
    """
    m = program.latent_dim
    eye = torch.eye(m, dtype=program.weight.dtype)
    history: list[dict[str, float]] = []
    allowed = program.allowed[program.scalar]
    gated = (~allowed.bool().all(1)).nonzero().flatten().tolist()
    last = -math.inf
    for _ in range(options.max_iter):
        gram = program.weight.new_zeros(len(allowed), (m + 1) ** 2)
        cross = program.weight.new_zeros(len(allowed), m + 1)
        square = program.weight.new_zeros(len(allowed))
        count = program.weight.new_zeros(len(allowed))
        log_likelihood, n = 0.0, 0
        w = program.loadings()
        for x in batches():
            seen = (~x.isnan()).to(x.dtype)
            value = (x.nan_to_num() - program.bias) * seen
            noise = (-2 * program.log_scale).exp()
            weight = program.column_weight * noise
            outer = (w[:, :, None] * w[:, None, :]).flatten(1)
            precision = eye + ((seen * weight) @ outer).unflatten(-1, (m, m))
            right = (value * weight) @ w
            chol = torch.linalg.cholesky(precision)
            cov = torch.cholesky_inverse(chol)
            mean = (cov @ right.unsqueeze(-1)).squeeze(-1)
            one = mean.new_ones(len(mean), 1)
            z = torch.cat([mean, one], 1)
            zz = z[:, :, None] * z[:, None, :]
            zz[:, :m, :m] += cov
            gram += seen.T @ zz.flatten(1)
            raw = x.nan_to_num() * seen
            cross += raw.T @ z
            square += (raw**2).sum(0)
            count += seen.sum(0)
            quadratic = (value**2 * weight).sum() - (mean * right).sum()
            log_det = 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum() - (seen * weight.log()).sum()
            log_likelihood += float(-0.5 * (quadratic + log_det))
            n += len(x)
        gram = gram.unflatten(-1, (m + 1, m + 1)) + 1e-9 * torch.eye(m + 1, dtype=gram.dtype)
        solved = torch.linalg.solve(gram, cross.unsqueeze(-1)).squeeze(-1)
        for i in gated:
            free = [*allowed[i].nonzero().flatten().tolist(), m]
            solved[i] = 0.0
            solved[i, free] = torch.linalg.solve(gram[i][free][:, free], cross[i, free])
        rest = (
            square
            - 2 * (solved * cross).sum(1)
            + torch.einsum("da,dab,db->d", solved, gram, solved)
        )
        program.weight.copy_(solved[:, :m])
        program.bias.copy_(solved[:, m])
        program.log_scale.copy_(0.5 * (rest / count.clamp(min=1)).clamp(min=FLOOR).log())
        history.append({"elbo": log_likelihood / n})
        if log_likelihood / n - last < options.tol * 0.1:
            return history, True
        last = log_likelihood / n
    return history, False


def train(
    program: TableVAE,
    data: Tensor,
    transform: Callable[[Tensor], Tensor],
    options: Options,
) -> tuple[list[dict[str, float]], bool]:
    """Trains with :class:`~pyro_corex.CorExELBO`; the learning rate falls for the last third.

    :func:`pyro_corex.fit` would do the same steps, but its :mod:`lightning_fabric` takes longer to
    import than a table of usual size takes to train.
    """
    n = len(data)
    batch = min(options.batch_size if n < 100_000 else 4 * options.batch_size, n)
    epochs = max(1, round(options.max_iter / math.ceil(n / batch)))
    slow = epochs - epochs // 3
    elbo = CorExELBO()
    order = torch.Generator().manual_seed(options.seed)
    optimiser = torch.optim.Adam(program.parameters(), lr=options.lr)
    history: list[dict[str, float]] = []
    program.train()
    with torch.random.fork_rng(devices=[]), pyro.validation_enabled(False):
        torch.manual_seed(options.seed)
        for epoch in range(epochs):
            if epoch == slow:
                optimiser.param_groups[0]["lr"] = options.lr / 5
            total = 0.0
            for rows in torch.randperm(n, generator=order).split(batch):
                optimiser.zero_grad(set_to_none=True)
                model: Any = program.model
                loss = elbo.differentiable_loss(model, program.guide, transform(data[rows]))
                loss.backward()
                optimiser.step()
                total += float(loss.detach())
            if not math.isfinite(total):
                raise FloatingPointError(
                    f"Training diverged in epoch {epoch + 1}: the loss is {total}. Lower "
                    f"lr={options.lr}."
                )
            history.append({"elbo": -total / n})
    return history, has_converged(np.array([epoch["elbo"] for epoch in history]), options.tol)


def has_converged(elbos: Array, tol: float) -> bool:
    """Whether the last third rises by less than 100 tolerances, or less than its noise."""
    third = len(elbos) // 3
    if third < 2:
        return True
    tail, at = elbos[-third:], np.arange(third)
    line = np.polyfit(at, tail, 1)
    noise = np.std(tail - np.polyval(line, at))
    return bool(line[0] * third < max(100 * tol * abs(tail.mean()), 3 * noise))
