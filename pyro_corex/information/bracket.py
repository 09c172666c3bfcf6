"""TC(z) of an aggregate posterior as an interval, in nats.

    TC(z) = sum_j h(z_j) - h(z),    p(z) = E_x p(z | x)    (Gao et al. 2018, Eq. 4)

N data give the density of a single latent well, and that of all of them together hardly ever: as
soon as I(x:z) exceeds ln N, a draw is explained by its own datum alone, and the aggregate of the N
encoders claims TC(z) = sum_j I(z_j:x) - ln N, whatever the truth.  So each entropy is bounded on
both sides, which needs no assumption about p(z):

- from below by the aggregate of the N data at their own draws, since the entropy of a mixture is
  concave: on average over data it is no more than that of p(z).  For all latents together this is
  the multi-sample bound on I(x:z) with a known encoder (Poole et al. 2019, Eq. 12);
- from above by the cross-entropy to any density that has not seen the datum of the draw: a mixture
  of the aggregate of the other data, the product of its marginals, and Gaussian mixtures fitted to
  draws of other data.

The lower end takes the single latents from below and all together from above, the upper end the
other way round.  No estimate can close the gap where I(x:z) is far above ln N: N data cannot be
told from data of which there are N^2 different ones (McAllester & Stratos 2020).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_corex.information.checks import as_floats, check_gaussian
from pyro_corex.information.estimate import Estimate
from pyro_corex.information.mixture import fit_mixture
from pyro_corex.information.mutual_information import check_probs
from pyro_corex.information.pairwise import Aggregate, aggregate_log_density, normal_log_density

_ERRORS = 3.0
"""Standard errors by which each end is moved outwards."""
_COMPONENTS = (1, 4, 16)
_FIT = 10_000
"""Draws to which a mixture is fitted, at most."""
_TABLE = 1 << 21
"""Data times joint states of discrete latents that are summed over, at most."""


@dataclass(frozen=True, repr=False)
class Bracket:
    """An interval that contains TC(z) (Eq. 4), in nats.

    Its ends are two bounds, each moved outwards by three of its standard errors, and never below 0.
    It formats as a number does: ``f"{bracket:.2f}"`` is ``"0.00 to 1.31"``.
    """

    lower: float
    """The lower end, in nats."""

    upper: float
    """The upper end, in nats."""

    held_out: Estimate[float]
    """The bound that is too low on average, in nats, against a joint density fitted to other data.
    It does not suffer from few data as the other one does, and is most often the closer one."""

    multi_sample: Estimate[float]
    """The bound that is too high on average, in nats, against the aggregate of all N encoders.
    Where the latents together know more than ln N, it is the sum of what each of them knows, less
    ln N, whatever TC(z) is."""

    open: bool = False
    """Whether the data are too few to close it, since the latents know ln N or more together."""

    def __contains__(self, value: float) -> bool:
        return self.lower <= value <= self.upper

    def __format__(self, spec: str) -> str:
        return f"{self.lower:{spec}} to {self.upper:{spec}}"

    def __repr__(self) -> str:
        return (
            f"Bracket({self:.4g} nats: at least {self.held_out!r} by a held-out joint density, "
            f"at most {self.multi_sample!r} by the aggregate of the data)"
        )


def aggregate_total_correlation(
    loc: Tensor,
    scale: Tensor | None = None,
    *,
    num_samples: int = 1024,
    seed: int = 0,
    turn: Tensor | None = None,
) -> Bracket:
    """An interval that contains TC(z) (Eq. 4) of factorised encoders, in nats.

    It is about the distribution that the data are from, not about these N data alone.  A warning
    says where N is too small to close it.  Time ``num_samples`` N m, memory bounded.  Discrete
    latents with few joint states for the data are summed over exactly, without draws.

    :param loc: ``(N, m)`` means of Gaussian encoders; without ``scale``, ``(N, m, K)``
        probabilities of discrete latents.
    :param scale: ``(N, m)`` standard deviations.
    :param num_samples: draws, at most one for each datum.
    :param seed: of the draws and of the fitted mixtures; the global random state is left alone.
    :param turn: an invertible matrix ``(m, m)``: the interval is for TC of the Gaussian latents
        times it, whose encoders need not factorise.
    :raises ValueError: for fewer than 4 draws or data, shapes that do not fit, and parameters that
        are not finite or out of range.
    :raises TypeError: where loc or scale is not floating.

    >>> loc = torch.randn(500, 1, generator=torch.Generator().manual_seed(0)).repeat(1, 2)
    >>> found = aggregate_total_correlation(loc, torch.full((500, 2), 0.5))
    >>> -0.5 * math.log(1 - 0.8**2) in found  # correlation 0.8
    True
    """
    if scale is None:
        loc = check_probs(loc).detach()
    else:
        loc, scale = (x.detach() for x in check_gaussian(loc, scale))
    n, device = len(loc), loc.device
    if num_samples < 4 or n < 4:
        raise ValueError(f"TC(z) needs at least 4 draws and 4 data, but got {num_samples} and {n}")
    if scale is None and loc.shape[2] ** loc.shape[1] <= min(n / 3, _TABLE / n):
        return _bracket(*_summed(loc.double()), False)
    generator = torch.Generator(device).manual_seed(seed)
    order = torch.randperm(n, generator=generator, device=device)
    source = order[:num_samples]
    if scale is None:
        aggregate, fitted = _discrete(loc, source, generator), None
        joint, own = aggregate.joint, aggregate.own.sum(1)
        broad = torch.full_like(aggregate.marginal, -math.log(loc.shape[2]))
    else:
        z = _draw(loc, scale, order[: len(source) + _FIT], generator)
        aggregate = _gaussian(z[: len(source)], loc, scale, source)
        joint, own = aggregate.joint, aggregate.own.sum(1)
        if turn is not None:
            turn = _check_turn(turn, loc)
            z, loc, scale = z @ turn, loc.double() @ turn, (scale.double() ** 2 @ turn**2).sqrt()
            aggregate = _gaussian(z[: len(source)], loc, scale, source)
            stretched = torch.linalg.slogdet(turn).logabsdet
            joint, own = joint - stretched, own - stretched
        broad, fitted = _fitted(z, len(source), seed)
    apart = _others(aggregate.marginal, aggregate.own, n)
    rare = n**-0.5  # the share of the broad density, for draws that are far from all other data
    apart = torch.logaddexp(apart + math.log1p(-rare), broad + math.log(rare)).sum(1)
    densities = [_others(joint, own, n), apart]
    densities += [] if fitted is None else list(fitted.T)
    low = _held_out(torch.stack(densities, 1)) - aggregate.marginal.sum(1)
    high = joint - apart
    information = float((own - joint).mean())
    few = information > math.log(n) - 1
    if few:
        warnings.warn(
            f"TC(z) can be bounded from above only loosely: I(x:z) of the latents together is "
            f"within one nat of ln N = {math.log(n):.2f}, the most that N = {n} data can show. The "
            "lower end still holds, and is most often close. Encode more data to lower the upper "
            "end, or look at fewer latents at once.",
            UserWarning,
            stacklevel=2,
        )
    return _bracket(_mean(low), _mean(high), few)


def _check_turn(turn: Tensor, loc: Tensor) -> Tensor:
    turn, m = as_floats("turn", turn).to(loc.device, torch.double), loc.shape[1]
    if turn.shape != (m, m) or not bool(torch.linalg.slogdet(turn).logabsdet.isfinite()):
        raise ValueError(
            f"turn must be an invertible matrix ({m}, {m}) for these {m} latents, but got "
            f"{turn.tolist()}"
        )
    return turn


def _bracket(low: Estimate[float], high: Estimate[float], few: bool) -> Bracket:
    lower = max(0.0, low.value - _ERRORS * low.stderr)
    return Bracket(lower, max(lower, high.value + _ERRORS * high.stderr), low, high, few)


def _mean(values: Tensor) -> Estimate[float]:
    return Estimate(float(values.mean()), float(values.std() / math.sqrt(len(values))))


def _draw(loc: Tensor, scale: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    loc, scale = loc[rows].double(), scale[rows].double()
    noise = torch.randn(loc.shape, generator=generator, device=loc.device, dtype=loc.dtype)
    return loc + scale * noise


def _gaussian(z: Tensor, loc: Tensor, scale: Tensor, source: Tensor) -> Aggregate:
    def log_density(draws: slice, data: slice) -> Tensor:
        # in double precision, so that a datum's own share can be taken out
        return normal_log_density(z[draws, None], loc[data].double(), scale[data].double())

    return aggregate_log_density(log_density, source, *loc.shape)


def _discrete(probs: Tensor, source: Tensor, generator: torch.Generator) -> Aggregate:
    n, m, k = probs.shape
    drawn = probs[source].reshape(-1, k).multinomial(1, generator=generator).view(-1, m)
    latent = torch.arange(m, device=probs.device)

    def log_density(draws: slice, data: slice) -> Tensor:
        return probs[data].double().log()[:, latent, drawn[draws]].transpose(0, 1)

    return aggregate_log_density(log_density, source, n, m)


def _summed(probs: Tensor) -> tuple[Estimate[float], Estimate[float]]:
    """Both bounds of discrete latents, summed over their joint states."""
    n, m, k = probs.shape
    states = torch.cartesian_prod(*[torch.arange(k, device=probs.device)] * m).view(-1, m)
    latent = torch.arange(m, device=probs.device)
    each = probs[:, latent, states].prod(2)  # (N, joint states)
    joint, single = each.mean(0), probs.mean(0)
    marginal = single.log()[latent, states].sum(1)
    without = ((n * single - probs) / (n - 1)).clamp(min=1 / n**2)  # for states of one datum only
    apart = without.log()[:, latent, states].sum(2)
    rest = torch.logaddexp(
        ((n * joint - each).clamp(min=0) / (n - 1)).log() + math.log1p(-1 / n), apart - math.log(n)
    )
    low = torch.where(each > 0, each * (rest - marginal), 0.0).sum(1)
    high = torch.where(each > 0, each * (joint.log() - apart), 0.0).sum(1)
    return _mean(low), _mean(high)


def _others(whole: Tensor, own: Tensor, n: int) -> Tensor:
    """The log density of the aggregate without the datum that a draw is from."""
    rest = 1 - (own - whole - math.log(n)).clamp(max=0).exp()
    rest = torch.where(rest < 1e-9, 0.0, rest)  # lost to rounding: count it as nothing
    return whole + rest.log() + math.log(n / (n - 1))


def _fitted(z: Tensor, draws: int, seed: int) -> tuple[Tensor, Tensor]:
    """Log densities of the first draws: of broad normals for each latent, and of mixtures.

    The mixtures are fitted to draws of other data, those of one half of the draws to the other half
    and to all that come after them.
    """
    centre, spread = z.mean(0), z.std(0)
    u, jacobian = (z - centre) / spread, spread.log()
    broad = normal_log_density(u[:draws], u.new_zeros(()), u.new_full((), 1.5)) - jacobian
    m = z.shape[1]
    half = torch.arange(len(z), device=z.device) % 2
    half[draws:] = -1
    fewest = len(z) - (draws + 1) // 2
    counts = [k for k in _COMPONENTS if k == 1 or 2 * k * m * (m + 3) < fewest]
    found = broad.new_empty(draws, len(counts))
    for which in (0, 1):
        test, train = (half == which)[:draws], u[half != which]
        for column, count in enumerate(counts):
            rivals = 2 * count * m * (m + 3) > len(train)  # parameters rival draws
            ridge = m / len(train) if rivals else 1e-3
            mixture = fit_mixture(
                train, count, seed=seed, max_iterations=30, tolerance=1e-3, ridge=ridge
            )
            found[test, column] = mixture.log_density(u[:draws][test]) - jacobian.sum()
    return broad, found


def _held_out(densities: Tensor) -> Tensor:
    """The log density of a mixture of densities (S, C), its weights found on the other half."""
    found = densities.new_empty(len(densities))
    for which in (0, 1):
        mine, other = densities[which::2], densities[1 - which :: 2]
        weights = torch.full_like(densities[0], 1 / densities.shape[1])
        for _ in range(100):  # EM; the likelihood is concave
            weights = (other + weights.log()).softmax(1).mean(0)
        weights = 0.99 * weights + 0.01 / len(weights)
        found[which::2] = (mine + weights.log()).logsumexp(1)
    return found
