"""Densities of draws under every encoder of the data, reduced without holding all pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# (rows of the draws, rows of the data) -> (draws, data, m) log densities
PairLogDensity = Callable[[slice, slice], Tensor]

_ELEMENTS = 1 << 22  # bound on draws * data * m held at once
_PAIRS = 1 << 16  # of a block of NormalPairs: few enough for the processor's cache
_LN_2PI = math.log(2 * math.pi)


class Aggregate(NamedTuple):
    """Per draw s: ln p(z_s | its own datum), ln p(z_s) and ln p(z_sj) of the aggregate."""

    own: Tensor  # (S, m)
    joint: Tensor  # (S,)
    marginal: Tensor  # (S, m)


def normal_log_density(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Log density of N(loc, scale^2) at z, broadcast."""
    return -0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * _LN_2PI


def aggregate_log_density(
    log_density: PairLogDensity,
    source: Tensor,
    n: int,
    m: int,
) -> Aggregate:
    """Reduce the log densities of S draws under n encoders by log-sum-exp, block by block.

    :param log_density: gives the ``(draws, data, m)`` block for a slice of the draws and one of the
        data.
    :param source: ``(S,)`` the datum that each draw came from.
    :param n: number of data.
    :param m: number of latents.
    """
    draws = source.numel()
    data_step = max(1, min(n, 1024, _ELEMENTS // m))
    draw_step = max(1, _ELEMENTS // (m * data_step))
    parts = []
    for first in range(0, draws, draw_step):
        rows = slice(first, min(first + draw_step, draws))
        mine = source[rows]
        own: Tensor | float = 0.0
        joint = marginal = torch.tensor(-math.inf, device=source.device)
        for start in range(0, n, data_step):
            columns = slice(start, min(start + data_step, n))
            shape = (mine.numel(), columns.stop - start, m)
            block = log_density(rows, columns)
            if block.shape != shape:
                raise ValueError(
                    f"the log density of {shape[0]} draws under {shape[1]} data must have shape "
                    f"{shape}, one value per latent, but got {tuple(block.shape)}"
                )
            here = mine[:, None] == torch.arange(start, columns.stop, device=block.device)
            own = own + torch.where(here[:, :, None], block, 0.0).sum(1)
            # added up here, as results kept from every block would be in the way of the next ones
            joint = torch.logaddexp(block.sum(2).logsumexp(1), joint)
            marginal = torch.logaddexp(block.logsumexp(1), marginal)
        parts.append((own, joint, marginal))
    own_all, joint_all, marginal_all = (torch.cat(part) for part in zip(*parts, strict=True))
    return Aggregate(own_all, joint_all - math.log(n), marginal_all - math.log(n))


class NormalPairs(torch.autograd.Function):
    r"""mean_b [ln p(z_b) - sum_j ln p(z_bj)], with gradient, the densities weighted sums over b.

    The value of :func:`~pyro_corex.information.pairwise_total_correlation` without holding all
    B² m log densities.  The gradient is found block by block on the way: with :math:`w_{bi}` and
    :math:`w_{bij}` the shares of datum i in the joint density and in the marginals at draw b, that
    of ln N(z_bj; loc_ij, scale_ij) is :math:`(w_{bi} - w_{bij}) / B`.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, loc: Tensor, scale: Tensor, log_weight: Tensor) -> Tensor:
        """See :func:`~pyro_corex.information.minibatch_total_correlation`, for the shapes, too."""
        batch, m = z.shape
        inverse, shift = scale.reciprocal(), -loc / scale
        constant = -scale.log() - 0.5 * _LN_2PI
        grad_z, grad_loc, grad_scale = (torch.zeros_like(x) for x in (z, loc, scale))
        total = z.new_zeros(())
        step = max(1, _PAIRS // (batch * m))
        for first in range(0, batch, step):
            rows = slice(first, first + step)
            u = torch.addcmul(shift, z[rows, None], inverse)  # (z - loc) / scale: (rows, B, m)
            density = torch.addcmul(constant, u, u, value=-0.5)
            weight = log_weight[rows]
            joint = density.sum(2).add_(weight)
            log_joint = joint.logsumexp(1, keepdim=True)
            density += weight[:, :, None]
            largest = density.amax(1, keepdim=True)
            share = density.sub_(largest).exp_()
            marginal = share.sum(1, keepdim=True)
            total = total + log_joint.sum() - (marginal.log() + largest).sum()
            share.div_(-marginal).add_((joint - log_joint).exp()[:, :, None])
            grad_scale -= share.sum(0)
            share *= u
            grad_z[rows] = -(share * inverse).sum(1)
            grad_loc += share.sum(0)
            grad_scale += (share * u).sum(0)
        ctx.save_for_backward(
            grad_z / batch, grad_loc * inverse / batch, grad_scale * inverse / batch
        )
        return total / batch

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients, which :meth:`forward` found."""
        return (*(grad * x for x in ctx.saved_tensors), None)
