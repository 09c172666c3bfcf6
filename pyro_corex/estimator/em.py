"""EM for linear-Gaussian programs: closed-form steps up the bound where entries are missing."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_corex.estimator.factors import FLOOR
from pyro_corex.estimator.layer import Batches, Training
from pyro_corex.estimator.parameters import Options
from pyro_corex.programs.tables import TableVAE


class _Moments(NamedTuple):
    """Sums over rows for the M step, which regresses each column on the latents and 1."""

    gram: Tensor
    cross: Tensor
    square: Tensor
    seen: Tensor


@torch.no_grad()
def expectation_maximisation(program: TableVAE, batches: Batches, options: Options) -> Training:
    """EM for continuous columns with missing entries.

    The expectations are those of the full posterior, of which the encoder keeps the diagonal.
    """
    history: list[dict[str, float]] = []
    last = -math.inf
    for _ in range(options.max_iter):
        value, found = _expect(program, batches)
        _maximise(program, found)
        history.append({"elbo": value})
        if value - last < options.tol * 0.1:
            return Training(history, len(history))
        last = value
    return Training(history, len(history), converged=False)


def _expect(program: TableVAE, batches: Batches) -> tuple[float, _Moments]:
    """The log-likelihood of a row, less a constant, and the moments given the observed entries."""
    m, w = program.latent_dim, program.loadings()
    noise = (-2 * program.log_scale).exp()
    weight = program.column_weight * noise
    outer = (w[:, :, None] * w[:, None, :]).flatten(1)
    eye, d = torch.eye(m, dtype=w.dtype), len(w)
    shapes = ((d, (m + 1) ** 2), (d, m + 1), (d,), (d,))
    out = _Moments(*(w.new_zeros(shape) for shape in shapes))
    total, n = 0.0, 0
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
        parts = (seen.T @ zz.flatten(1), raw.T @ z, (raw**2).sum(0), seen.sum(0))
        out = _Moments(*(a + b for a, b in zip(out, parts, strict=True)))
        quadratic = (value**2 * weight).sum() - (mean * right).sum()
        log_det = 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum() - (seen * weight.log()).sum()
        total -= 0.5 * float(quadratic + log_det)
        n += len(x)
    return total / n, out


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
    rest = (found.square - 2 * (solved * cross).sum(1) + fitted) / found.seen.clamp(min=1)
    program.weight.copy_(solved[:, :m])
    program.bias.copy_(solved[:, m])
    program.log_scale.copy_(0.5 * rest.clamp(min=FLOOR).log())
