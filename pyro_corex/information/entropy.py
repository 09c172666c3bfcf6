"""Entropy of each dimension of the data, H(x_i), in nats.

It turns the evidence lower bound into a bound on TC(x) (Gao et al. 2018, Eq. 8 and 10):
:func:`mean_with_entropies` adds the two up with the standard error of the sum.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_corex.arrays import as_tensor
from pyro_corex.information.checks import check_finite, check_matrix
from pyro_corex.information.estimate import Estimate
from pyro_corex.information.spacings import count_tied, new_run, spacings

_KINDS = ("auto", "binary", "categorical", "continuous")
_ELEMENTS = 1 << 16  # bound on data * dimensions held at once
_logger = logging.getLogger(__name__)


def marginal_entropy(x: Tensor, kind: str = "auto") -> Tensor:
    """Entropy H(x_i) of every dimension, in nats; see :func:`entropy_estimate` for its error.

    :param x: ``(N, d)`` data.
    :param kind: ``"binary"`` (values 0 and 1), ``"categorical"`` (any repeating values),
        ``"continuous"`` (differential entropy, which may be negative), or ``"auto"``, which decides
        from the data and logs its decision at level INFO.
    :returns: ``(d,)`` tensor of x's dtype (the default dtype when x has integers), on x's device.
    :raises ValueError: as :func:`entropy_estimate`.

    >>> x = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    >>> marginal_entropy(x, kind="binary")  # ln 2, and 1 / (2 N) for the bias
    tensor([0.8181])
    """
    return entropy_estimate(x, kind).value


def entropy_estimate(x: Tensor, kind: str = "auto") -> Estimate[Tensor]:
    """Entropy H(x_i) of every dimension with its standard error, in nats.

    Discrete: the entropy of the observed frequencies plus (K - 1) / (2 N) for K observed values
    (Miller 1955, Madow 1948); it may exceed ln K slightly, so that it is unbiased to O(1/N). Where
    K rivals N it is too low, by 0.26 nats for N data of N equally likely values.
    Continuous: from the spacings of sorted data (Vasicek 1976),

        H_m = (1/N) sum_i [ln(x_(b_i) - x_(a_i)) - psi(b_i - a_i)] + psi(N + 1),
        H = 2 H_2 - H_4,    a_i = max(i - m, 1),  b_i = min(i + m, N).

    Windows are shortened at the ends (Ebrahimi et al. 1994), and the digamma function psi makes the
    expectation of each exact for uniform data. Windows average the density, which puts H_m too high
    by a multiple of m / N where the density jumps or has a tail; 2 H_2 - H_4 is free of that. Gaps
    far beyond what the spacings beside them explain split the data into K clusters with shares p_k,
    and H = sum_k p_k (H_k - ln p_k) + (K - 1) / (2 N). Where up to r data share a value, because
    they are rounded, windows are r times as wide.

    The bias is between -3 / N and 0.5 / N nats on smooth data and on clusters of 20 or more data
    with flat sides, and about -1 / N more for each cluster with tails. Clusters of
    few data (50 in N = 200) leave up to 0.7 nats upwards; the difference between H_2 and single
    spacings tells, and twice of it, beyond its noise, is part of the standard error. Cost: one
    sort, O(d N log N).

    Standard errors are those of the mean of -ln p(x_n), plus what the spacings themselves add
    (0.2 / N in the variance), and the second order (K - 1) / (2 N^2) of discrete data.

    :param x: ``(N, d)`` data.
    :param kind: ``"binary"``, ``"categorical"``, ``"continuous"`` or ``"auto"``.  For "auto", data
        of zeros and ones are binary; otherwise dimensions with ten or more data to the distinct
        value are categorical, as is every tensor of integers; the rest is continuous.
    :returns: an :class:`Estimate` with ``value`` and ``stderr`` of shape ``(d,)``, the ``kind``
        taken and the ``correction`` contained.
    :raises ValueError: where x is not ``(N, d)``, is empty, has NaN or infinite entries or fewer
        than two data; ``kind`` is unknown; "binary" data hold other values than 0 and 1;
        "continuous" data have atoms or many ties, where the differential entropy is not finite;
        "auto" finds dimensions of both kinds.
    :raises TypeError: for what is no tensor, array or list of numbers.
    """
    x = check_finite("x", check_matrix("x", x))
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(_KINDS)}, but got {kind!r}")
    if x.shape[0] < 2:
        raise ValueError(
            f"x has {x.shape[0]} datum, but an entropy needs at least 2; is x transposed?"
        )
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    x = x.detach()
    if kind == "auto":
        kind = _decide(x)
        _logger.info("marginal entropy: x of shape %s is taken as %s", tuple(x.shape), kind)
    if kind == "binary":
        value, stderr = _binary(x)
    elif kind == "categorical":
        found = [_categorical(ordered) for ordered in _sorted(x, x.dtype)]
        value, stderr = map(torch.cat, zip(*found, strict=True))
    else:
        value, stderr = _continuous(x)
    correction = "spacings (digamma)" if kind == "continuous" else "Miller-Madow"
    return Estimate(value.to(dtype), stderr.to(dtype), kind=kind, correction=correction)


def _sorted(x: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """The dimensions of (N, d) as sorted rows, some at a time."""
    step = max(1, _ELEMENTS // x.shape[0])
    return (block.t().to(dtype).sort(dim=1).values for block in x.split(step, dim=1))


def _decide(x: Tensor) -> str:
    if bool(((x == 0) | (x == 1)).all()):
        return "binary"
    if not x.is_floating_point():
        return "categorical"
    distinct = new_run(x.t().sort(dim=1).values).sum(1)
    repeats = distinct * 10 <= x.shape[0]
    if bool(repeats.all()):
        return "categorical"
    if bool(repeats.any()):
        raise ValueError(
            f'kind="auto" finds {int(repeats.sum())} of {x.shape[1]} dimensions with ten or more '
            "data to the distinct value and the others without; give each sort of dimension on its "
            "own, or name the kind"
        )
    return "continuous"


def _binary(x: Tensor) -> tuple[Tensor, Tensor]:
    other = int(((x != 0) & (x != 1)).sum())
    if other:
        raise ValueError(
            f'kind="binary" expects zeros and ones, but {other} of {x.numel()} entries are '
            'neither; binarise them, as by (x > 0.5), or use kind="categorical" or "continuous"'
        )
    n = x.shape[0]
    p = x.sum(0, dtype=torch.float64) / n
    observed = (p > 0) & (p < 1)
    value = -(torch.special.xlogy(p, p) + torch.special.xlog1py(1 - p, -p))
    slope = torch.where(observed, torch.logit(p, eps=1e-300), 0.0)
    variance = slope.square() * p * (1 - p) / n + _second_order(observed, n)
    return value + observed / (2 * n), variance.sqrt()


def _second_order(more: Tensor, n: int) -> Tensor:
    """Variance of an entropy with ``more`` + 1 equally frequent values, which lacks a slope."""
    return more / (2.0 * n * n)


def _categorical(ordered: Tensor) -> tuple[Tensor, Tensor]:
    d, n = ordered.shape
    new = new_run(ordered)
    start = new.flatten().nonzero().flatten()
    count = torch.diff(start, append=start.new_tensor([d * n]))
    row = start // n
    p = count.double() / n
    information = -p.log()
    zero = p.new_zeros(d)
    value = zero.index_add(0, row, p * information)
    square = zero.index_add(0, row, p * (information - value[row]) ** 2)
    more = new.sum(1) - 1
    return value + more / (2 * n), (square / n + _second_order(more, n)).sqrt()


def _continuous(x: Tensor) -> tuple[Tensor, Tensor]:
    n, d = x.shape
    value, variance, n_tied = [], [], 0
    for ordered in _sorted(x, torch.float64):  # so that the gaps between float32 data are exact
        n_tied += count_tied(ordered)
        if n_tied:
            continue
        found = spacings(ordered)
        spread = (found.surprisal.var(1) - found.excess).clamp(min=0)
        variance.append(torch.maximum(spread, found.noise) / n)
        variance[-1] += _doubt(found.drift, found.drift_noise)
        value.append(found.value)
    if n_tied:
        raise ValueError(
            f'kind="continuous" expects data that hardly repeat, but {n_tied} of {d} dimensions '
            "have atoms or mostly tied values, so that their differential entropy is not finite; "
            'use kind="categorical", or add noise as wide as the rounding (dequantise). Float32 '
            "rounds data far from 0: centre them before they are converted"
        )
    return torch.cat(value), torch.cat(variance).sqrt()


def _doubt(drift: Tensor, noise: Tensor) -> Tensor:
    """The square of the bias, taken as twice the drift, beyond what the noise of it explains."""
    return 4 * (drift.clamp(min=0).square() - 4 * noise).clamp(min=0)


class Influence(NamedTuple):
    """How each datum sways the sum over i of the entropies H(x_i), in nats."""

    total: Tensor
    """(N,) in float64: the sums over i of -ln p(x_ni)."""

    excess: Tensor
    """A scalar to take off the variance of ``total`` before it is divided by N."""

    drift: Tensor
    """A scalar: how far entropies from middle and from narrow windows differ, summed over i."""

    drift_noise: Tensor
    """The variance of ``drift`` where its expectation is 0."""


def summed_surprisal(x: Tensor, kind: str) -> Influence:
    """How each datum sways the entropies, summed over dimensions, in nats.

    The influence of datum n on an estimate of H(x_i) is -ln p(x_ni) - H(x_i), so that the standard
    error of sum_i H(x_i) + mean_n t_n is that of the mean of sum_i -ln p(x_ni) + t_n, however the
    two are correlated (the delta method). Here p is the observed frequency, or the density from
    the spacings of :func:`entropy_estimate`. The noise of the spacings in a single datum is another
    than N times that in the mean (neighbours share their spacings); ``excess`` is the difference.

    :param x: ``(N, d)`` data, N >= 2.
    :param kind: ``"binary"``, ``"categorical"`` or ``"continuous"``, of data that
        :func:`entropy_estimate` accepts.
    """
    if kind == "binary":
        return _binary_surprisal(x.detach())
    n = x.shape[0]
    total = x.new_zeros(n, dtype=torch.float64)
    excess = drift = drift_noise = x.new_zeros((), dtype=torch.float64)
    for block in x.detach().split(max(1, _ELEMENTS // n), dim=1):
        if kind == "continuous":
            ordered, order = block.t().double().sort(dim=1)
            found = spacings(ordered)
            information = torch.empty_like(ordered).scatter_(1, order, found.surprisal)
            excess = excess + found.excess.sum()
            drift = drift + found.drift.sum()
            drift_noise = drift_noise + found.drift_noise.sum()
        else:
            ordered, order = block.t().sort(dim=1)
            new = new_run(ordered)
            start = new.flatten().nonzero().flatten()
            count = torch.diff(start, append=start.new_tensor([ordered.numel()]))
            run = new.flatten().cumsum(0) - 1
            p = (count[run].double() / n).view_as(ordered)
            information = torch.empty_like(p).scatter_(1, order, -p.log())
            excess = excess - n * _second_order(new.sum(1) - 1, n).sum()
        total += information.sum(0)
    return Influence(total, excess, drift, drift_noise)


def _binary_surprisal(x: Tensor) -> Influence:
    """The same for zeros and ones, which need not be sorted."""
    n = x.shape[0]
    p = x.sum(0, dtype=torch.float64) / n
    observed = (p > 0) & (p < 1)
    one, zero = (-torch.where(observed, share, 1.0).log() for share in (p, 1 - p))
    total = x.new_zeros(n, dtype=torch.float64)
    step = max(1, _ELEMENTS // x.shape[1])
    for rows, block in zip(total.split(step), x.split(step), strict=True):
        rows.copy_(block.double() @ (one - zero) + zero.sum())
    zeros = total.new_zeros(())
    return Influence(total, -n * _second_order(observed.double(), n).sum(), zeros, zeros)


Swayed = dict[tuple[int, str], tuple[Tensor, Tensor, Influence]]
"""By the ``id`` of data and their kind: the data, the sum of their entropies and what sways it."""


def mean_with_entropies(
    per_datum: Tensor,
    entropies: Iterable[tuple[Tensor, str, float]],
    known: Swayed | None = None,
) -> Estimate[Tensor]:
    """A mean over data plus or minus the entropies of the same data, in nats.

        mean_n t_n + sum over (x, kind, sign) of sign * sum_i H(x_i)

    With t_n the evidence lower bound at datum n and the entropies of x it is the lower bound on
    TC(x) of Eq. 10. The entropies and the mean are strongly correlated, most often negatively, so
    that the standard error is much less than that of either; see :func:`summed_surprisal`. It
    contains an upward bias of the entropies where one shows (:func:`entropy_estimate`).

    :param per_datum: ``(N,)`` values t_n.
    :param entropies: triples of data ``(N, d)``, the ``kind`` of their entropies ("binary",
        "categorical" or "continuous") and a sign, 1 or -1.
    :param known: of the same data in an earlier call, which are filled in and not computed twice.
    :returns: a scalar :class:`Estimate` in float64.
    :raises ValueError: where N < 2, data of another length, or as :func:`entropy_estimate`.
    :raises TypeError: for what is no tensor, array or list of numbers.
    """
    per_datum = as_tensor(per_datum, "per_datum")
    n = len(per_datum) if per_datum.dim() == 1 else 0
    if n < 2:
        raise ValueError(
            f"per_datum must have shape (N,) with N >= 2, but got {tuple(per_datum.shape)}"
        )
    influence = per_datum.detach().double()
    value = influence.mean()
    excess = value.new_zeros(())
    drift, drift_noise = value.new_zeros(()), value.new_zeros(())
    known = {} if known is None else known
    for given, kind, sign in entropies:
        x = check_matrix("x", given)
        if x.shape[:1] != per_datum.shape:
            raise ValueError(
                f"per_datum is of {n} data, but the entropies are of {x.shape[0]}; give both for "
                "the same data"
            )
        if (key := (id(given), kind)) not in known:
            total = entropy_estimate(x, kind).value.double().sum()
            known[key] = given, total, summed_surprisal(x, kind)
        _, entropy, each = known[key]
        value = value + sign * entropy
        influence = influence + sign * each.total
        excess = excess + each.excess
        drift = drift + sign * each.drift
        drift_noise = drift_noise + each.drift_noise
    spread = influence.var()
    # the noise of the spacings is common to dimensions that are copies; keep some of the variance
    variance = torch.maximum(spread - excess, 0.1 * spread) / n + _doubt(drift, drift_noise)
    return Estimate(
        value, variance.sqrt(), kind="mean with entropies", correction="of the entropies"
    )
