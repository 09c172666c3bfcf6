"""Data whose total correlation, or whose number of layers, is known."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_corex.batches import check_count
from pyro_corex.information import gaussian_total_correlation


class Synthetic(NamedTuple):
    """Data, the latents that they were made from, and their TC(x) (Eq. 1)."""

    x: Tensor
    """Shape ``(n, d)``."""

    latents: tuple[Tensor, ...]
    """From the layer above the data upwards, each of shape ``(n, m_l)``."""

    total_correlation: float
    """TC(x) in nats, in closed form; NaN where there is none."""


def linear_gaussian(
    n: int,
    d: int,
    m: int,
    *,
    noise: float = 1.0,
    groups: bool = False,
    seed: int = 0,
    sample_seed: int | None = None,
) -> Synthetic:
    r"""A factor model :math:`x = W z + \epsilon` with z and the noise standard normal, scaled.

    Its TC (Eq. 1) is that of its covariance :math:`W W^T + \mathrm{diag}(s^2)`:
    :math:`\frac12 (\sum_i \ln \Sigma_{ii} - \ln \det \Sigma)`, by the determinant lemma from a
    matrix of m x m.

    :param d: input dimensions.
    :param m: latents.
    :param noise: the typical standard deviation of the noise; that of each dimension is within a
        factor of 1.5 of it.
    :param groups: if true, every dimension loads on one latent, in turn; if false, the loadings
        are dense, :math:`W_{ij} \sim N(0, 1/m)`.
    :param seed: of the model.
    :param sample_seed: of the data; by default it follows ``seed``.  Two data sets of one model
        have the same ``seed``.
    :raises ValueError: for sizes below one, m above d, or a noise that is not positive.
    """
    _check_sizes(n=n, d=d, m=m)
    if m > d:
        raise ValueError(f"m must be at most d, but got {m} latents for {d} dimensions")
    if not noise > 0:
        raise ValueError(f"noise must be > 0, but got {noise!r}")
    g = torch.Generator().manual_seed(seed)
    loadings = torch.randn(d, m, generator=g, dtype=torch.float64) / math.sqrt(m)
    if groups:
        own = torch.arange(d) % m
        sign = torch.where(loadings[torch.arange(d), own] < 0, -1.0, 1.0)
        loadings = torch.zeros_like(loadings)
        loadings[torch.arange(d), own] = sign.double()
    spread = torch.rand(d, generator=g, dtype=torch.float64) * 2 - 1
    scale = noise * 1.5**spread
    # draws apart from those of the model, which has the seed itself
    chosen = seed + 1 if sample_seed is None else sample_seed
    s = torch.Generator().manual_seed(chosen * 7919 + 104729)
    z = torch.randn(n, m, generator=s)
    x = z @ loadings.T.float() + scale.float() * torch.randn(n, d, generator=s)
    scaled = loadings / scale[:, None]
    communal = scaled.square().sum(1).log1p().sum()  # ln of the variances in units of the noise's
    inner = torch.eye(m, dtype=torch.float64) + scaled.T @ scaled
    return Synthetic(x, (z,), 0.5 * float(communal - inner.logdet()))


def noisy_coins(
    n: int, groups: int, copies: int, *, flip: float = 0.05, seed: int = 0
) -> Synthetic:
    r"""Independent fair coins, each copied through a noisy channel: binary data.

    A group of c copies has the entropy of its number k of heads, and of which these are,

    .. math::

        H = -\sum_k \binom{c}{k} p_k \ln p_k, \qquad
        p_k = \tfrac12 [f^k (1-f)^{c-k} + f^{c-k} (1-f)^k],

    and each copy the entropy ln 2, so that TC(x) (Eq. 1) is, in nats, the number of
    groups times c ln 2 - H.

    :param groups: the number of coins; ``d = groups * copies``, the copies of a coin side by side.
    :param flip: the probability f that a copy is wrong.
    :raises ValueError: for sizes below one, or a flip probability outside of [0, 1].

    >>> data = noisy_coins(100, groups=2, copies=3, flip=0.0)
    >>> data.x.shape, round(data.total_correlation, 4)  # 2 * 2 ln 2
    (torch.Size([100, 6]), 2.7726)
    """
    _check_sizes(n=n, groups=groups, copies=copies)
    if not 0 <= flip <= 1:
        raise ValueError(f"flip must be a probability, but got {flip!r}")
    s = torch.Generator().manual_seed(seed)
    coins = torch.randint(2, (n, groups), generator=s)
    wrong = torch.rand(n, groups, copies, generator=s) < flip
    x = (coins[:, :, None] != wrong.long()).float().flatten(1)
    entropy = 0.0
    for k in range(copies + 1):
        p = 0.5 * (flip**k * (1 - flip) ** (copies - k) + flip ** (copies - k) * (1 - flip) ** k)
        entropy -= math.comb(copies, k) * p * math.log(p) if p > 0 else 0.0
    return Synthetic(x, (coins,), groups * (copies * math.log(2) - entropy))


def layered(
    n: int,
    depth: int,
    *,
    tops: int = 2,
    branching: int = 3,
    max_depth: int = 3,
    correlation: float = 0.8,
    seed: int = 0,
) -> Synthetic:
    r"""A Gaussian latent tree with ``depth`` layers of latents above the data.

    The layers have ``tops``, ``tops * branching``, ... variables from level ``max_depth`` down to
    x, so that data of every depth have the same size, ``tops * branching**max_depth``.  The layer
    at ``depth`` is independent; below it, each variable has its parent's value times the root of
    ``correlation``, plus noise, with variance 1.  TC(x) (Eq. 1) is that of the covariance of x.

    How deep data are depends on what one layer can express: a linear layer can rotate its latents
    until Gaussian ones are independent, and leaves nothing to explain.  Here "layer" means a
    latent for each group of variables: :class:`~pyro_corex.programs.GroupedDecoder`.

    :param depth: the number of layers, 1 to ``max_depth``.
    :param tops: variables at level ``max_depth``.
    :param branching: children of each variable.
    :param correlation: squared correlation of a variable with its parent, in (0, 1).
    :raises ValueError: for sizes below one and options out of range.
    """
    _check_sizes(n=n, depth=depth, tops=tops, branching=branching, max_depth=max_depth)
    if depth > max_depth:
        raise ValueError(f"depth must be at most max_depth={max_depth}, but got {depth}")
    if not 0 < correlation < 1:
        raise ValueError(f"correlation must be between 0 and 1, but got {correlation!r}")
    s = torch.Generator().manual_seed(seed)
    size = tops * branching ** (max_depth - depth)
    level = torch.randn(n, size, generator=s)
    cov = torch.eye(size, dtype=torch.float64)
    levels = [level]
    for _ in range(depth):
        level = math.sqrt(correlation) * level.repeat_interleave(branching, 1)
        level = level + math.sqrt(1 - correlation) * torch.randn(level.shape, generator=s)
        cov = cov.repeat_interleave(branching, 0).repeat_interleave(branching, 1) * correlation
        cov = cov + (1 - correlation) * torch.eye(len(cov), dtype=torch.float64)
        levels.insert(0, level)
    return Synthetic(level, tuple(levels[1:]), float(gaussian_total_correlation(cov)))


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        check_count(name, size)
