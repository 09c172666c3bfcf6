"""How far apart two sets of data are, by their means and covariances."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_corex.information.checks import check_finite


def frechet_distance(a: Tensor, b: Tensor) -> float:
    r"""Squared Fréchet distance of the Gaussians with the mean and covariance of each set.

    The closed form is that of Dowson & Landau (1982).

    .. math:: |\mu_a - \mu_b|^2 + \mathrm{tr}(\Sigma_a + \Sigma_b - 2 (\Sigma_a \Sigma_b)^{1/2})

    :param a: features ``(N, f)``.
    :param b: features ``(M, f)``.
    :raises ValueError: for other shapes, fewer than two rows, and values that are not finite.
    :raises TypeError: for what is no array of numbers.

    >>> x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    >>> round(frechet_distance(x, x + torch.tensor([3.0, 0.0])), 3)
    9.0
    """
    a, b = check_finite("a", a).detach(), check_finite("b", b).detach()
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            "features must have the shapes (N, f) and (M, f) with at least 2 rows, but have "
            f"{tuple(a.shape)} and {tuple(b.shape)}"
        )
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(a.shape[1], -1)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(0.0, float(distance))
