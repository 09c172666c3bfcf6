"""EM for linear-Gaussian programs: closed-form steps up the bound where entries are missing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_corex.estimator.columns import Coding
from pyro_corex.estimator.factors import FLOOR
from pyro_corex.estimator.layer import Training
from pyro_corex.estimator.parameters import Options
from pyro_corex.estimator.sparse import Table
from pyro_corex.programs.tables import TableVAE


@torch.no_grad()
def expectation_maximisation(
    program: TableVAE, coding: Coding, x: Table, options: Options
) -> Training:
    """EM for continuous columns with missing entries.

    The expectations are those of the full posterior, of which the encoder keeps the diagonal.
    """
    history: list[dict[str, float]] = []
    last, converged = -math.inf, False
    whole = torch.as_tensor(np.ones(len(x)) if options.weight is None else options.weight)
    weights = [whole[rows, None] for rows in coding.parts(x)]
    while len(history) < options.max_iter and not converged:
        value, *moments = _expect(program, zip(coding.batches(x), weights, strict=True))
        _maximise(program, *moments)
        history.append({"elbo": value})
        converged, last = value - last < options.tol * 0.1, value
    return Training(history, len(history), converged)


def _expect(program: TableVAE, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Any, ...]:
    """The log-likelihood of a row, less a constant, and sums over rows for :func:`_maximise`.

    :param batches: coded rows ``(B, d)`` and their weights ``(B, 1)``.
    """
    m, w = program.latent_dim, program.loadings()
    noise = (-2 * program.log_scale).exp()
    weight = program.column_weight * noise
    outer = (w[:, :, None] * w[:, None, :]).flatten(1)
    eye = torch.eye(m, dtype=w.dtype)
    sums: list[Any] = [0.0] * 5
    total, n = 0.0, 0.0
    for x, often in batches:
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
        known, data = seen * often, raw * often
        parts = (
            known.T @ zz.flatten(1), data.T @ z, (data * raw).sum(0), known.sum(0),
            (zz * often[:, :, None]).sum(0),
        )  # fmt: skip
        sums = [a + b for a, b in zip(sums, parts, strict=True)]
        quadratic = (value**2 * weight).sum(1) - (mean * right).sum(1)
        log_det = 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum(1) - (seen * weight.log()).sum(1)
        total -= 0.5 * float(often[:, 0] @ (quadratic + log_det))
        n += float(often.sum())
    return total / n, *sums


def _maximise(
    program: TableVAE, gram: Tensor, cross: Tensor, square: Tensor, seen: Tensor, of_z: Tensor
) -> None:
    """Regresses each column on 1 and the axes that it may load on; and the axes correlate, where
    they are oblique, as what is known of the latents does.
    """
    m = program.latent_dim
    axes = torch.block_diag(program.unit_axes(), torch.ones(1, 1, dtype=torch.float64))
    gram = axes @ gram.unflatten(-1, (m + 1, m + 1)) @ axes.T
    gram = gram + 1e-9 * torch.eye(m + 1, dtype=torch.float64)
    cross = cross @ axes.T
    allowed = program.allowed[program.scalar].bool()
    solved = torch.linalg.solve(gram, cross.unsqueeze(-1)).squeeze(-1)
    for i in (~allowed.all(1)).nonzero().flatten().tolist():
        free = [*allowed[i].nonzero().flatten().tolist(), m]
        solved[i] = 0.0
        solved[i, free] = torch.linalg.solve(gram[i][free][:, free], cross[i, free])
    fitted = torch.einsum("da,dab,db->d", solved, gram, solved)
    rest = (square - 2 * (solved * cross).sum(1) + fitted) / seen.clamp(min=1e-12)
    spread = torch.ones(m, dtype=torch.float64)
    if program.oblique:
        cov = (axes @ of_z @ axes.T)[:m, :m] / of_z[m, m]
        spread = cov.diag().sqrt()
        program.axes.copy_(torch.linalg.cholesky(cov / spread / spread[:, None]))
    program.weight.copy_(solved[:, :m] * spread)
    program.bias.copy_(solved[:, m])
    program.log_scale.copy_(0.5 * rest.clamp(min=FLOOR).log())
