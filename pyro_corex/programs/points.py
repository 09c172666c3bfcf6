"""Points over which a mean is that under N(0, 1), or nearly so."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.linalg import helmert
from scipy.stats import qmc
from torch import Tensor


def normal_points(m: int, n: int) -> Tensor:
    r"""Quasi-random points ``(K, m)`` over which a mean is nearly that under N(0, 1).

    They come in pairs :math:`\pm e` with :math:`\frac1K \sum_k e_k e_k^T = 1`, so that the mean of
    a polynomial of degree 3 is exact; ``K`` is ``n``, or what that takes, a power of 2.
    """
    log_half = math.ceil(math.log2(max(n // 2, m)))
    half = qmc.MultivariateNormalQMC(np.zeros(m), seed=0).random(2**log_half)
    chol = np.linalg.cholesky(half.T @ half / len(half))
    half = half @ np.linalg.inv(chol).T
    return torch.as_tensor(np.concatenate([half, -half]))


def simplex(m: int) -> Tensor:
    """The corners ``(m + 1, m)`` of a simplex: the fewest points over which the mean of a quadratic
    form is that under N(0, 1).
    """
    return torch.as_tensor(math.sqrt(m + 1) * helmert(m + 1).T)
