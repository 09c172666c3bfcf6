"""TC(z) from a minibatch of Gaussian encoders, block by block, with its gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_ELEMENTS = 1 << 16  # of a block: few enough for the processor's cache
_LN_2PI = math.log(2 * math.pi)


class NormalPairs(torch.autograd.Function):
    r"""mean_b [ln p(z_b) - sum_j ln p(z_bj)] with the densities weighted sums over the batch.

    The same as the general way, which holds all B² m log densities several times over, for the
    price of a formula for the gradient: with :math:`w_{bi}` and :math:`w_{bij}` the shares of
    datum i in the joint density and in the marginals at draw b, that of ln N(z_bj; loc_ij,
    scale_ij) is :math:`(w_{bi} - w_{bij}) / B`.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, loc: Tensor, scale: Tensor, log_weight: Tensor) -> Tensor:
        """See :func:`~pyro_corex.information.minibatch_total_correlation`, for the shapes, too."""
        batch, m = z.shape
        inverse, shift = scale.reciprocal(), -loc / scale
        constant = -scale.log() - 0.5 * _LN_2PI
        grad_z, grad_loc, grad_scale = (torch.zeros_like(x) for x in (z, loc, scale))
        total = z.new_zeros(())
        step = max(1, _ELEMENTS // (batch * m))
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
        """The gradients were found on the way."""
        return (*(grad * x for x in ctx.saved_tensors), None)
