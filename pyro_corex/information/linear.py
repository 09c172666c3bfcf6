"""What a linear AnchorVAE comes to, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from pyro_corex.arrays import as_tensor
from pyro_corex.information.checks import check_finite


@dataclass(frozen=True)
class LinearOptimum:
    r"""The optimum of a linear AnchorVAE: each latent that is used has a principal direction.

    The decoder is linear, its likelihood a normal of fixed scale :math:`\sigma`, the prior a
    standard normal, and latent j has the KL weight :math:`w_j`.  The smallest weight takes the
    largest eigenvalue :math:`\lambda` of the covariance of x, and so on, and a latent is used where
    :math:`\lambda > w_j \sigma^2`:

    .. math:: I(z_j : x) = \tfrac{1}{2} \ln \frac{\lambda}{w_j \sigma^2}

    So a weight puts a latent :math:`\tfrac{1}{2} \ln (1 / w)` nats above its place; see
    :func:`lead_weight`.  Each :math:`p(z_j)` is the prior, so that Eq. 9 is tight.  Among equal
    weights any order of the latents will do, and any rotation of those with equal eigenvalues.

    :param eigenvalues: of the direction of each latent, shape ``(m,)``.
    :param information: I(z_j:x) in nats, shape ``(m,)``.
    :param kept: the share of the variance along its direction that a latent explains, ``(m,)``.
    :param elbo: the evidence lower bound in nats per datum, with all weights at 1.
    """

    eigenvalues: Tensor
    information: Tensor
    kept: Tensor
    elbo: float

    def __repr__(self) -> str:
        used = int((self.information > 0).sum())
        return (
            f"LinearOptimum({used} of {len(self.information)} latents used, "
            f"{float(self.information.sum()):.4g} nats in all, the largest "
            f"{float(self.information.max()):.4g}; elbo {self.elbo:.4g} nats per datum)"
        )


def linear_optimum(x: Any, scale: float, kl_weights: Any) -> LinearOptimum:
    r"""The optimum of a linear AnchorVAE on given data, without training (Eq. 21).

    :param x: data, shape ``(N, ...)``.
    :param scale: :math:`\sigma` of the likelihood.
    :param kl_weights: of each latent, shape ``(m,)``; 1 for those that are not anchored.
    :returns: see :class:`LinearOptimum`.
    :raises ValueError: for data that are no batch or not finite, a scale or a weight that is not
        positive and finite, and no latents.
    :raises TypeError: for what holds no numbers.
    """
    data = as_tensor(x, "x")
    check_finite("x", data)
    if data.dim() < 2 or len(data) < 2:
        raise ValueError(f"x must be a batch of shape (N, ...), but got {tuple(data.shape)}")
    weights = as_tensor(kl_weights, "kl_weights").to(data.device, torch.float64).flatten()
    if not isinstance(scale, Real) or not 0 < scale < math.inf:
        raise ValueError(f"scale must be a positive number, but got {scale!r}")
    if not len(weights) or not bool(((weights > 0) & weights.isfinite()).all()):
        raise ValueError(
            "kl_weights must hold a positive number for each latent, but got "
            f"{weights.tolist()[:8]}. Without a price a latent would know everything."
        )
    rows = data.double().flatten(1)
    rows = rows - rows.mean(0)
    gram = rows.T @ rows if rows.shape[1] <= len(rows) else rows @ rows.T
    spectrum = (torch.linalg.eigvalsh(gram).flip(0) / len(rows)).clamp(min=0)
    largest = spectrum.new_zeros(len(weights))
    count = min(len(weights), len(spectrum))
    largest[:count] = spectrum[:count]
    eigenvalues = torch.empty_like(weights)
    eigenvalues[weights.argsort(stable=True)] = largest.to(weights)
    noise = weights * scale**2
    information = (eigenvalues / noise).log().clamp(min=0) / 2
    left = torch.where(eigenvalues > noise, noise, eigenvalues)
    error = spectrum.sum() - eigenvalues.sum() + left.sum()
    log_x = -rows.shape[1] / 2 * math.log(2 * math.pi * scale**2) - error / (2 * scale**2)
    kept = torch.where(eigenvalues > noise, 1 - noise / eigenvalues, 0.0)
    return LinearOptimum(eigenvalues, information, kept, float(log_x - information.sum()))


def lead_weight(nats: float) -> float:
    r"""The KL weight that puts a latent so many nats above its place, :math:`e^{-2k}`.

    Of Eq. 21 it is exact where the decoder is linear: see :class:`LinearOptimum`.  The paper's
    weight of 0.5 makes a lead of 0.35 nats.

    :param nats: the lead, k.
    :raises ValueError: for a lead that is not a finite number.

    >>> round(lead_weight(0.35), 2)
    0.5
    """
    if not isinstance(nats, Real) or not math.isfinite(nats):
        raise ValueError(f"nats must be a finite number, but got {nats!r}")
    return math.exp(-2 * float(nats))
