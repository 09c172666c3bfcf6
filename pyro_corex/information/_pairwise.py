"""Log densities of draws under every encoder of the data, reduced without holding all pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# (rows of the draws, rows of the data) -> (draws, data, m) log densities
PairLogDensity = Callable[[slice, slice], Tensor]

_ELEMENTS = 1 << 22  # bound on draws * data * m held at once


class Aggregate(NamedTuple):
    """Per draw s: ln p(z_s | its own datum), ln p(z_s) and ln p(z_sj) of the aggregate."""

    own: Tensor  # (S, m)
    joint: Tensor  # (S,)
    marginal: Tensor  # (S, m)


def normal_log_density(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Log density of N(loc, scale^2) at z, broadcast."""
    return -0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)


def aggregate_log_density(
    log_density: PairLogDensity,
    source: Tensor,
    n: int,
    m: int,
    leave_one_out: bool = False,
) -> Aggregate:
    """Reduce the log densities of S draws under n encoders by log-sum-exp, block by block.

    Args:
        log_density: gives the (draws, data, m) block for a slice of the draws and one of the data.
        source: (S,) the datum that each draw came from.
        n: number of data.
        m: number of latents.
        leave_one_out: whether p(z_s) leaves out the draw's own datum.

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
                    f"{shape}, one value per latent, but has {tuple(block.shape)}."
                )
            here = mine[:, None] == torch.arange(start, columns.stop, device=block.device)
            own = own + torch.where(here[:, :, None], block, 0.0).sum(1)
            total = block.sum(2)
            if leave_one_out:
                total = total.masked_fill(here, -math.inf)
                block = block.masked_fill(here[:, :, None], -math.inf)
            # added up here, as results kept from every block would be in the way of the next ones
            joint = torch.logaddexp(total.logsumexp(1), joint)
            marginal = torch.logaddexp(block.logsumexp(1), marginal)
        parts.append((own, joint, marginal))
    own_all, joint_all, marginal_all = (torch.cat(part) for part in zip(*parts, strict=True))
    norm = math.log(n - 1 if leave_one_out else n)
    return Aggregate(own_all, joint_all - norm, marginal_all - norm)
