"""EM for linear-Gaussian programs: closed-form steps up the bound where entries are missing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_corex.estimator.factors import FLOOR
from pyro_corex.estimator.layer import Batches, Training
from pyro_corex.estimator.parameters import Options
from pyro_corex.programs.tables import TableVAE


@dataclass
class _Moments:
    """Sums over rows, of what the M step regresses each column on: the latents and 1."""

    gram: Tensor
    cross: Tensor
    square: Tensor
    count: Tensor
    log_likelihood: float = 0.0
    n: int = 0


@torch.no_grad()
def expectation_maximisation(program: TableVAE, batches: Batches, options: Options) -> Training:
    """EM for continuous columns with missing entries.

    The expectations are those of the full posterior, of which the encoder keeps the diagonal.
    """
    history: list[dict[str, float]] = []
    last = -math.inf
    for _ in range(options.max_iter):
        found = _expect(program, batches)
        _maximise(program, found)
        value = found.log_likelihood / found.n
        history.append({"elbo": value})
        if value - last < options.tol * 0.1:
            return Training(history, len(history))
        last = value
    return Training(history, len(history), converged=False)


def _expect(program: TableVAE, batches: Batches) -> _Moments:
    m, w = program.latent_dim, program.loadings()
    noise = (-2 * program.log_scale).exp()
    weight = program.column_weight * noise
    outer = (w[:, :, None] * w[:, None, :]).flatten(1)
    eye, d = torch.eye(m, dtype=w.dtype), len(w)
    zero = w.new_zeros(d)
    out = _Moments(w.new_zeros(d, (m + 1) ** 2), w.new_zeros(d, m + 1), zero, zero)
    for x in batches():
        seen = (~x.isnan()).to(x.dtype)
        raw = x.nan_to_num()
        value = (raw - program.bias) * seen
        precision = eye + ((seen * weight) @ outer).unflatten(-1, (m, m))
        right = (value * weight) @ w
        chol = torch.linalg.cholesky(precision)
        cov = torch.cholesky_inverse(chol)
        mean = (cov @ right.unsqueeze(-1)).squeeze(-1)
        z = torch.cat([mean, mean.new_ones(len(mean), 1)], 1)
        zz = z[:, :, None] * z[:, None, :]
        zz[:, :m, :m] += cov
        out.gram += seen.T @ zz.flatten(1)
        out.cross += raw.T @ z
        out.square = out.square + (raw**2).sum(0)
        out.count = out.count + seen.sum(0)
        quadratic = (value**2 * weight).sum() - (mean * right).sum()
        log_det = 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum() - (seen * weight.log()).sum()
        out.log_likelihood += float(-0.5 * (quadratic + log_det))
        out.n += len(x)
    return out


def _maximise(program: TableVAE, found: _Moments) -> None:
    """Regresses each column on the latents that it may load on."""
    m = program.latent_dim
    gram = found.gram.unflatten(-1, (m + 1, m + 1)) + 1e-9 * torch.eye(m + 1, dtype=torch.float64)
    cross, allowed = found.cross, program.allowed[program.scalar].bool()
    solved = torch.linalg.solve(gram, cross.unsqueeze(-1)).squeeze(-1)
    for i in (~allowed.all(1)).nonzero().flatten().tolist():
        free = [*allowed[i].nonzero().flatten().tolist(), m]
        solved[i] = 0.0
        solved[i, free] = torch.linalg.solve(gram[i][free][:, free], cross[i, free])
    fitted = torch.einsum("da,dab,db->d", solved, gram, solved)
    rest = (found.square - 2 * (solved * cross).sum(1) + fitted) / found.count.clamp(min=1)
    program.weight.copy_(solved[:, :m])
    program.bias.copy_(solved[:, m])
    program.log_scale.copy_(0.5 * rest.clamp(min=FLOOR).log())
