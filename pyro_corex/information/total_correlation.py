"""Total correlation TC(x) = sum_i H(x_i) - H(x) (Gao et al. 2018, Eq. 1), in nats."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.amp.autocast_mode import is_autocast_available

from pyro_corex.arrays import as_tensor
from pyro_corex.information.checks import as_floats, check_finite, check_matrix
from pyro_corex.information.entropy import entropy_estimate
from pyro_corex.information.estimate import Estimate
from pyro_corex.information.pairwise import NormalPairs


def gaussian_total_correlation(cov: Tensor) -> Tensor:
    """TC of a Gaussian (Eq. 1): (sum_i ln cov_ii - ln det cov) / 2, in nats.

    :param cov: covariance or correlation matrices, of shape ``(..., d, d)``.
    :returns: tensor of shape ``(...,)``, non-negative.
    :raises ValueError: where cov is not square, symmetric, finite and positive definite.
    :raises TypeError: for what is no tensor, array or list of numbers.

    >>> gaussian_total_correlation(torch.tensor([[1.0, 0.8], [0.8, 1.0]]))  # -ln(1 - 0.64) / 2
    tensor(0.5108)
    """
    cov = as_floats("cov", cov)
    if cov.dim() < 2 or cov.shape[-1] != cov.shape[-2]:
        raise ValueError(
            f"cov must have shape (..., d, d), but got {tuple(cov.shape)}; from data of shape "
            "(N, d) it is torch.cov(x.T)"
        )
    check_finite("cov", cov)
    if not torch.allclose(cov, cov.mT, rtol=1e-4, atol=1e-6 * float(cov.detach().abs().amax())):
        raise ValueError("cov must be symmetric; use (cov + cov.mT) / 2")
    factor, info = torch.linalg.cholesky_ex(cov)
    if bool((info != 0).any()):
        raise ValueError(
            "cov must be positive definite, but its Cholesky factorisation fails: a dimension is "
            "a combination of others and TC infinite; drop it or add noise to the diagonal"
        )
    log_variance = cov.diagonal(dim1=-2, dim2=-1).log()
    log_pivot = factor.diagonal(dim1=-2, dim2=-1).log()
    total: Tensor = (0.5 * log_variance - log_pivot).sum(-1)
    return total.clamp(min=0)


def discrete_total_correlation(table: Tensor) -> Tensor:
    """TC of discrete variables (Eq. 1) from the table of their joint probabilities, in nats.

    :param table: ``(K_1, ..., K_d)`` non-negative weights; they are normalised, so that counts will
        do.
    :returns: scalar tensor.
    :raises ValueError: where table is empty, not finite, negative or all zero.
    :raises TypeError: for what is no tensor, array or list of numbers.
    """
    table = check_finite("table", as_floats("table", table))
    if bool((table < 0).any()) or not bool((table > 0).any()):
        raise ValueError("table must hold non-negative probabilities or counts, not all zero")
    p = table / table.sum()
    axes = range(p.dim())
    marginals = [p.sum([j for j in axes if j != i]) if p.dim() > 1 else p for i in axes]
    entropy = [torch.special.entr(q).sum() for q in (p, *marginals)]
    value: Tensor = torch.stack(entropy[1:]).sum() - entropy[0]
    return value.clamp(min=0)


def total_correlation(x: Tensor, kind: str = "gaussian") -> Estimate[Tensor]:
    """TC(x) (Eq. 1) of a sample with its standard error, in nats.

    ``kind="gaussian"``: the closed form at the sample covariance, less its exact expected excess
    over the truth, (d psi((N-1)/2) - sum_i psi((N-i)/2)) / 2 for Gaussian data (Wishart).
    ``kind="discrete"``: entropies of the observed frequencies, of the dimensions and of whole rows,
    each with its Miller-Madow correction. Too high where many rows occur once; what rows not seen
    yet may add to their entropy (Chao 1984) is part of the standard error.

    :param x: ``(N, d)`` data.
    :param kind: ``"gaussian"`` or ``"discrete"``.
    :returns: a scalar :class:`Estimate`; unbiasedness lets it fall below 0 when TC is near 0.
    :raises ValueError: where x is not ``(N, d)``, is empty or not finite, or ``kind`` is unknown;
        for "gaussian" N <= d, or dimensions are constant or combinations of others; for "discrete"
        more than half of the rows are distinct, or a column of fractions has fewer than ten data
        to the distinct value.
    :raises TypeError: for what is no tensor, array or list of numbers.

    >>> coin = torch.tensor([[0], [1]]).repeat(500, 1)
    >>> total_correlation(coin.expand(1000, 3), kind="discrete").value  # 2 ln 2, and 0.001
    tensor(1.3873)
    """
    x = check_finite("x", check_matrix("x", x))
    if kind == "discrete":
        return _discrete_sample(x)
    if kind != "gaussian":
        raise ValueError(f'kind must be "gaussian" or "discrete", but got {kind!r}')
    n, d = x.shape
    if n <= d + 1:
        raise ValueError(
            f"a covariance of {d} dimensions needs more than {d + 1} data, but x has {n}; give "
            "more data, or bound TC(x) with a model"
        )
    centred = x.detach().double()
    centred = centred - centred.mean(0)
    deviation = centred.square().mean(0).sqrt()
    if bool((deviation == 0).any()):
        raise ValueError("x has constant dimensions, whose correlation is undefined; drop them")
    centred = centred / deviation
    correlation = centred.T @ centred / n
    plug_in = gaussian_total_correlation(correlation)
    excess = _wishart_excess(n, d, centred)
    # ln p(x) - sum_i ln p(x_i), up to a constant
    quadratic = (centred @ torch.linalg.inv(correlation) * centred).sum(1)
    term = 0.5 * (centred.square().sum(1) - quadratic)
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    stderr = term.std() / math.sqrt(n)
    return Estimate(
        (plug_in - excess).to(dtype),
        stderr.to(dtype),
        kind="gaussian",
        correction="Wishart (digamma)",
    )


def _wishart_excess(n: int, d: int, like: Tensor) -> Tensor:
    """What the Gaussian plug-in is too high by on average, exact for Gaussian data."""
    half = (n - torch.arange(1, d + 1, device=like.device, dtype=like.dtype)) / 2
    return 0.5 * (d * half[0].digamma() - half.digamma().sum())


def sample_total_correlation(z: Tensor) -> Tensor:
    """TC(z) of draws (Sec. 7) as far as their correlations show it, for training, in nats.

    -ln det corr(z) / 2, less its expected excess for Gaussian data (Wishart), as in
    :func:`total_correlation`; differentiable, and nothing is read back from the device.  For
    Gaussian draws it is unbiased at any N >= 4 m, and so is its gradient.  It does not change with
    location and scale of a dimension.  For other draws it is what a Gaussian with their
    correlations has: no more than TC(z) where the marginals are Gaussian.  For N < 4 m correlations
    are shrunk towards 0 by m / (N + m), and the value is too low.

    :param z: ``(N, m)`` draws.
    :returns: scalar tensor; 0 for a single draw or a single latent.
    :raises ValueError: where z is not ``(N, m)``.
    :raises TypeError: for what is no tensor, array or list of numbers.

    >>> z = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, 0.0], [-1.0, 0.0]]).repeat(500, 1)
    >>> sample_total_correlation(z)  # correlation 1 / sqrt(2), so ln(2) / 2, less 1 / 4000
    tensor(0.3463)
    """
    z = check_matrix("z", as_floats("z", z), "(N, m)")
    n, m = z.shape
    if n < 2 or m < 2:
        return z.sum() * 0.0
    centred = z - z.mean(0)
    tiny = torch.finfo(z.dtype).tiny
    centred = centred * centred.square().mean(0).clamp_min(tiny).rsqrt()
    kind = z.device.type
    with torch.autocast(kind, enabled=False) if is_autocast_available(kind) else nullcontext():
        correlation = centred.T @ centred / n
    identity = torch.eye(m, dtype=z.dtype, device=z.device)
    few = n < 4 * m
    # with enough draws so little that it changes nothing, and no combination of latents stops it
    share = m / (n + m) if few else 10 * torch.finfo(z.dtype).eps
    factor, _ = torch.linalg.cholesky_ex(torch.lerp(correlation, identity, share))
    value = -factor.diagonal().log().sum()
    return value if few else value - _wishart_excess(n, m, z)


def _discrete_sample(x: Tensor) -> Estimate[Tensor]:
    n, d = x.shape
    rows, row, times = torch.unique(x.detach(), dim=0, return_inverse=True, return_counts=True)
    if 2 * len(rows) > n:
        raise ValueError(
            f'kind="discrete" needs rows that repeat, but {len(rows)} of the {n} rows of x are '
            "distinct, so that their entropy cannot be told; give more data, fewer or coarser "
            'dimensions, kind="gaussian" for continuous data, or bound TC(x) with a model'
        )
    for i, column in enumerate(x.detach().T):
        values = len(column.unique())
        if 10 * values > n and bool((column != column.round()).any()):
            raise ValueError(
                f'kind="discrete" needs values that repeat, but column {i} of x holds fractions, '
                f"{values} different ones in {n} data, as continuous data that are there more than "
                'once do; give kind="gaussian", or bins of them'
            )
    marginal = entropy_estimate(x, "categorical")
    whole = entropy_estimate(row[:, None], "categorical")
    value = marginal.value.sum() - whole.value.sum().to(marginal.value.dtype)
    # ln p(x) - sum_i ln p(x_i), with observed frequencies
    term = (row.bincount(minlength=rows.shape[0])[row].double() / n).log()
    for i in range(d):
        _, inverse, count = torch.unique(x[:, i], return_inverse=True, return_counts=True)
        term = term - (count[inverse].double() / n).log()
    # noise where frequencies are equal; rows not seen (Chao 1984) put the entropy of rows too low
    values = sum(len(x[:, i].unique()) - 1 for i in range(d)) + len(rows) - 1
    once, twice = int((times == 1).sum()), int((times == 2).sum())
    unseen = once * (once - 1) / (2 * (twice + 1))
    stderr = (term.var() / n + values / (2 * n * n) + (unseen / n) ** 2).sqrt()
    return Estimate(value, stderr.to(value.dtype), kind="discrete", correction="Miller-Madow")


def minibatch_total_correlation(
    z: Tensor, loc: Tensor, scale: Tensor, n_data: int, method: str = "stratified"
) -> Tensor:
    """TC(z) of the aggregate posterior from one minibatch, for training, in nats.

    See :func:`pairwise_total_correlation` for the two methods (Chen et al. 2018).
    Differentiable once in z, loc and scale; nothing is read back from the device. Memory does not
    grow with B² m.

    :param z: ``(B, m)`` draws, one from the encoder of each datum of the batch.
    :param loc: ``(B, m)`` means.
    :param scale: ``(B, m)`` standard deviations, positive (not checked, as that would stop a GPU).
    :param n_data: N, the size of the data set.
    :param method: ``"stratified"`` or ``"weighted"``.
    :returns: scalar tensor.
    :raises ValueError: where shapes differ, or as :func:`pairwise_total_correlation`.
    :raises TypeError: for what is no tensor, array or list of numbers.
    """
    z, loc, scale = as_tensor(z, "z"), as_tensor(loc, "loc"), as_tensor(scale, "scale")
    if z.dim() != 2 or not z.shape == loc.shape == scale.shape:
        raise ValueError(
            "z, loc and scale must have the same shape (B, m), but have "
            f"{tuple(z.shape)}, {tuple(loc.shape)} and {tuple(scale.shape)}"
        )
    weight = batch_log_weight(z, n_data, method)
    value: Tensor = NormalPairs.apply(z, loc, scale, weight)
    return value


def pairwise_total_correlation(
    log_density: Tensor, n_data: int, method: str = "stratified"
) -> Tensor:
    """TC(z) from a minibatch, given the log density of every draw under every datum, in nats.

    The aggregate densities p(z_b) and p(z_bj) are weighted sums over the batch, inside
    TC(z) = mean_b [ln p(z_b) - sum_j ln p(z_bj)] (Chen et al. 2018, appendix C).

    ``"stratified"``: datum b, which z_b was drawn from, stands for itself and has weight 1/N; the
    B - 1 others stand for the remaining N - 1 data and have (N - 1) / (N (B - 1)) each. Over random
    batches the densities are unbiased, and exact when B = N; their logarithms are biased downwards
    by about half their relative variance, which for small batches is much and of either sign in
    TC(z): compare values at one batch size, and report :func:`aggregate_total_correlation`.
    (Chen et al. put a larger weight on one of the others, with the same expectation and more
    variance.)

    ``"weighted"``: every datum of the batch has weight 1/(N B). The densities come out too low by a
    factor between 1/N and 1/B, so that the value is too large by up to (m - 1) ln N; its gradient
    is what it is used for.

    :param log_density: ``(B, B, m)``, entry ``(b, i, j)`` being ln p(z_bj | x_i).  The draws of
        datum b are in row b; discrete latents give log-probabilities.
    :param n_data: N, at least B.
    :param method: ``"stratified"`` or ``"weighted"``.
    :returns: scalar tensor, differentiable.
    :raises ValueError: where log_density is not ``(B, B, m)`` with B >= 2, ``n_data`` < B, or
        ``method`` is unknown.
    :raises TypeError: for what is no tensor, array or list of numbers.
    """
    log_density = as_tensor(log_density, "log_density")
    if log_density.dim() != 3 or log_density.shape[0] != log_density.shape[1]:
        raise ValueError(
            f"log_density must have shape (B, B, m), but got {tuple(log_density.shape)}"
        )
    weight = batch_log_weight(log_density, n_data, method)
    joint = (log_density.sum(2) + weight).logsumexp(1)
    marginal = (log_density + weight[:, :, None]).logsumexp(1)
    return (joint - marginal.sum(1)).mean()


def batch_log_weight(like: Tensor, n_data: int, method: str = "stratified") -> Tensor:
    """Log weights (B, B) of datum i of a batch in the density of draw b (Chen et al. 2018).

    :param like: ``(B, ...)`` tensor that gives B, dtype and device.
    :param n_data: N, at least B.
    :param method: see :func:`pairwise_total_correlation`.
    :raises ValueError: where B < 2, ``n_data`` < B or ``method`` unknown.
    :raises TypeError: for what is no tensor, array or list of numbers.
    """
    like = as_tensor(like, "like")
    if not like.is_floating_point():
        raise TypeError(f"like must have a floating dtype, but got {like.dtype}; use .float()")
    batch = len(like) if like.dim() else 0
    if batch < 2:
        raise ValueError(f"a minibatch estimate of TC(z) needs at least 2 data, but got {batch}")
    if n_data < batch:
        raise ValueError(
            f"n_data = {n_data} is less than the batch of {batch}; give the size of the data set"
        )
    if method == "weighted":
        return like.new_full((batch, batch), -math.log(n_data * batch))
    if method != "stratified":
        raise ValueError(f'method must be "stratified" or "weighted", but got {method!r}')
    weight = like.new_full((batch, batch), math.log((n_data - 1) / (n_data * (batch - 1))))
    weight.fill_diagonal_(-math.log(n_data))
    return weight
