"""Entropy of each dimension of the data, H(x_i), in nats.

It turns the evidence lower bound into a bound on TC(x) (Gao et al. 2018, Eq. 8 and 10):
:func:`mean_with_entropies` adds the two up with the standard error of the sum.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable

import torch
from torch import Tensor

from pyro_corex.information.checks import check_finite, check_matrix
from pyro_corex.information.estimate import Estimate

_KINDS = ("auto", "binary", "categorical", "continuous")
_ELEMENTS = 1 << 22  # bound on data * dimensions held at once
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
    (Miller 1955, Madow 1948); it may exceed ln K slightly, so that it is unbiased to O(1/N).
    Continuous: with sorted data x_(1) <= ... <= x_(N) and m = round(N^(1/4)),

        H = (1/N) sum_i [ln(x_(b_i) - x_(a_i)) - psi(b_i - a_i)] + psi(N + 1),
        a_i = max(i - m, 1),  b_i = min(i + m, N),

    the spacings estimator (Vasicek 1976) with windows shortened at the ends (Ebrahimi et al. 1994),
    and the digamma function psi that makes the expectation of every window exact for uniform data.
    Bias on Normal, Exponential and Laplace data is at most 0.002 nats at N = 1,000 and 0.0008 at
    N = 10,000. Cost: one sort, O(d N log N).

    Standard errors are those of the mean of -ln p(x_n), plus what the spacings themselves add
    (Cressie 1976).

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
    """
    check_matrix("x", x)
    check_finite("x", x)
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(_KINDS)}, but got {kind!r}")
    if x.is_complex():
        raise ValueError("x must be real, but is complex; stack its real and imaginary parts")
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
    else:
        # one dimension a row; float64, so that the gaps between float32 data are exact
        ordered = (x if kind == "categorical" else x.double()).t().sort(dim=1).values
        value, stderr = (_categorical if kind == "categorical" else _continuous)(ordered)
    correction = "spacings (digamma)" if kind == "continuous" else "Miller-Madow"
    return Estimate(value.to(dtype), stderr.to(dtype), kind=kind, correction=correction)


def _decide(x: Tensor) -> str:
    if bool(((x == 0) | (x == 1)).all()):
        return "binary"
    if not x.is_floating_point():
        return "categorical"
    distinct = _new_run(x.t().sort(dim=1).values).sum(1)
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


def _new_run(ordered: Tensor) -> Tensor:
    """Where a value of a sorted row differs from the one before it."""
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return new


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
    return value + observed / (2 * n), slope.abs() * (p * (1 - p) / n).sqrt()


def _categorical(ordered: Tensor) -> tuple[Tensor, Tensor]:
    d, n = ordered.shape
    new = _new_run(ordered)
    start = new.flatten().nonzero().flatten()
    count = torch.diff(start, append=start.new_tensor([d * n]))
    row = start // n
    p = count.double() / n
    information = -p.log()
    zero = p.new_zeros(d)
    value = zero.index_add(0, row, p * information)
    square = zero.index_add(0, row, p * (information - value[row]) ** 2)
    return value + (new.sum(1) - 1) / (2 * n), (square / n).sqrt()


def _continuous(ordered: Tensor) -> tuple[Tensor, Tensor]:
    d, n = ordered.shape
    gap, width = _gaps(ordered)
    atoms = (gap <= 0).any(1)
    ties = _new_run(ordered).sum(1) * 2 < n
    bad = int((atoms | ties).sum())
    if bad:
        raise ValueError(
            f'kind="continuous" expects data that hardly repeat, but {bad} of {d} dimensions have '
            "atoms or mostly tied values, so that their differential entropy is not finite; use "
            'kind="categorical", or add noise as wide as the rounding (dequantise)'
        )
    log_gap = gap.log()
    value = (log_gap - width.digamma()).mean(1) + torch.digamma(width.new_tensor(n + 1.0))
    trigamma, spacings = _spacings_noise(n, ordered.device)
    surprise = (log_gap.var(1) - trigamma).clamp(min=0)  # Var ln p(x), without the spacings' noise
    return value, ((surprise + spacings) / n).sqrt()


def _window(n: int) -> int:
    return min(max(1, round(n**0.25)), n - 1)


def _gaps(ordered: Tensor) -> tuple[Tensor, Tensor]:
    """The spacings (d, N) of sorted rows, and how many data each of them spans (N,)."""
    n, m = ordered.shape[1], _window(ordered.shape[1])
    i = torch.arange(n, device=ordered.device)
    low, high = (i - m).clamp(min=0), (i + m).clamp(max=n - 1)
    return ordered[:, high] - ordered[:, low], (high - low).double()


def _spacings_noise(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Variance of a single log-spacing, and what one adds to N times the variance of the mean."""
    k = torch.tensor(2.0 * _window(n), dtype=torch.float64, device=device)
    trigamma = torch.special.polygamma(1, k)
    return trigamma, ((2 * k * k - 2 * k + 1) * trigamma - 2 * k + 1).clamp(min=0)


def summed_surprisal(x: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """How each datum sways the entropies, summed over dimensions, in nats.

    The influence of datum n on an estimate of H(x_i) is -ln p(x_ni) - H(x_i), so that the standard
    error of sum_i H(x_i) + mean_n t_n is that of the mean of sum_i -ln p(x_ni) + t_n, however the
    two are correlated (the delta method). Here p is the observed frequency, or the density from
    the spacings of :func:`entropy_estimate`. The noise of the spacings is larger in a single datum
    than its share in the mean (neighbours share their spacings); ``excess`` is the difference.

    :param x: ``(N, d)`` data, N >= 2.
    :param kind: ``"binary"``, ``"categorical"`` or ``"continuous"``, of data that
        :func:`entropy_estimate` accepts.
    :returns: ``(N,)`` tensor of float64, the sums over i of -ln p(x_ni); and a scalar tensor, what
        to take off the variance of these before it is divided by N.
    """
    n, d = x.shape
    total = x.new_zeros(n, dtype=torch.float64)
    excess = x.new_zeros((), dtype=torch.float64)
    if kind == "continuous":
        trigamma, spacings = _spacings_noise(n, x.device)
        excess = d * (trigamma - spacings)
    for block in x.detach().split(max(1, _ELEMENTS // n), dim=1):
        rows = block.t()
        if kind == "binary":
            p = rows.double().mean(1, keepdim=True)
            information = -torch.where(rows > 0, p, 1 - p).log()
        elif kind == "categorical":
            ordered, order = rows.sort(dim=1)
            new = _new_run(ordered)
            start = new.flatten().nonzero().flatten()
            count = torch.diff(start, append=start.new_tensor([rows.numel()]))
            run = new.flatten().cumsum(0) - 1
            p = (count[run].double() / n).view_as(ordered)
            information = torch.empty_like(p).scatter_(1, order, -p.log())
        else:
            ordered, order = rows.double().sort(dim=1)
            gap, width = _gaps(ordered)
            sorted_information = gap.log() - width.digamma() + math.log(n)
            information = torch.empty_like(gap).scatter_(1, order, sorted_information)
        total += information.sum(0)
    return total, excess


def mean_with_entropies(
    per_datum: Tensor, entropies: Iterable[tuple[Tensor, str, float]]
) -> Estimate[Tensor]:
    """A mean over data plus or minus the entropies of the same data, in nats.

        mean_n t_n + sum over (x, kind, sign) of sign * sum_i H(x_i)

    With t_n the evidence lower bound at datum n and the entropies of x it is the lower bound on
    TC(x) of Eq. 10. The entropies and the mean are strongly correlated, most often negatively, so
    that the standard error is much less than that of either; see :func:`summed_surprisal`. It
    measures the noise of the data, not the bias of the entropies (below 0.001 nats a dimension
    at N = 10,000).

    :param per_datum: ``(N,)`` values t_n.
    :param entropies: triples of data ``(N, d)``, the ``kind`` of their entropies ("binary",
        "categorical" or "continuous") and a sign, 1 or -1.
    :returns: a scalar :class:`Estimate` in float64.
    :raises ValueError: where N < 2, data of another length, or as :func:`entropy_estimate`.
    """
    n = per_datum.shape[0]
    if per_datum.dim() != 1 or n < 2:
        raise ValueError(
            f"per_datum must have shape (N,) with N >= 2, but got {tuple(per_datum.shape)}"
        )
    influence = per_datum.detach().double()
    value = influence.mean()
    excess = value.new_zeros(())
    for x, kind, sign in entropies:
        if x.shape[:1] != per_datum.shape:
            raise ValueError(
                f"per_datum is of {n} data, but the entropies are of {x.shape[0]}; give both for "
                "the same data"
            )
        value = value + sign * entropy_estimate(x, kind).value.double().sum()
        surprisal, more = summed_surprisal(x, kind)
        influence = influence + sign * surprisal
        excess = excess + more
    spread = influence.var()
    # the noise of the spacings is common to dimensions that are copies; keep some of the variance
    variance = torch.maximum(spread - excess, 0.1 * spread)
    return Estimate(
        value, (variance / n).sqrt(), kind="mean with entropies", correction="of the entropies"
    )
