"""What one sample site contributes: log densities and KL divergences, per dimension.

Pyro sums a site's log density over its event dimensions.  The CorEx bound (Eq. 10) is a sum over
input dimensions :math:`x_i` and latent dimensions :math:`z_j`, so the functions here keep those
dimensions apart for as long as the distribution factorises over them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.distribution import Distribution as PyroDistribution
from pyro.distributions.score_parts import ScoreParts
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

Site = dict[str, Any]
Factored = tuple[Tensor, int]

PARTICLE_PLATE = "num_particles_vectorized"
"""The plate that Pyro puts around programs whose particles are vectorised."""

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_SQRT_HALF = math.sqrt(0.5)


class Recorder(TraceMessenger):
    """``poutine.trace`` that says that it has no use for parameters.

    A program whose parameters are a module's own may then leave them unregistered, unless
    someone else, such as ``SVI``, is listening.
    """

    records_params = False


def log_prob(fn: Distribution, value: Tensor) -> Factored:
    """``fn.log_prob(value)`` in nats, with the factorising event dimensions kept apart.

    :returns: the log density, of shape ``batch_shape + dims``, and how many of its last axes are
        event dimensions over which the distribution is known to factorise.
    """
    if isinstance(fn, Independent):
        base, n = log_prob(fn.base_dist, value)
        return base, n + fn.reinterpreted_batch_ndims
    if isinstance(fn, MaskedDistribution) and isinstance(fn._mask, Tensor):
        base, n = log_prob(fn.base_dist, value)
        mask = fn._mask.reshape(fn._mask.shape + (1,) * n)
        return torch.where(mask, base, base.new_zeros(())), n
    if type(fn) is dist.Normal:
        return _normal_log_prob(fn, value), 0
    if type(fn) is dist.Bernoulli and "logits" in vars(fn):
        return _bernoulli_log_prob(fn, value), 0
    if type(fn) is dist.Categorical and hasattr(value, "_pyro_categorical_support"):
        return _enumerated_log_prob(fn, value), 0
    return fn.log_prob(value), 0


def total(found: Factored) -> Tensor:
    """The sum over the event dimensions, as ``fn.log_prob`` gives it: of shape ``batch_shape``."""
    value, n = found
    return value.sum(tuple(range(-n, 0))) if n else value


def _normal_log_prob(fn: dist.Normal, value: Tensor) -> Tensor:
    """As ``fn.log_prob``, but without repeating the work along dimensions that plates expanded."""
    if fn._validate_args:
        fn._validate_sample(value)
    loc, scale = fn.loc, _unexpand(fn.scale)
    standardised = (value - loc) * (scale.reciprocal() * _SQRT_HALF)
    log_prob = (-scale.log() - _HALF_LOG_2PI) - standardised.square()
    if log_prob.shape == fn.batch_shape:
        return log_prob
    return log_prob.expand(broadcast_shapes(log_prob.shape, fn.batch_shape))


def _bernoulli_log_prob(fn: dist.Bernoulli, value: Tensor) -> Tensor:
    """As ``fn.log_prob``, but without the ``log1p`` in it, which is slow on CPUs.

    With l the logits, x l - ln(1 + e^l) = (x - 1/2) l - |l| / 2 + ln sigmoid(|l|), of which the
    last term is between -ln 2 and 0; the gradient is right at l = 0, too.
    """
    if fn._validate_args:
        fn._validate_sample(value)
    size = fn.logits.abs()
    rest = torch.add(size.sigmoid().log(), size, alpha=-0.5)
    return torch.addcmul(rest, value - 0.5, fn.logits)


def _enumerated_log_prob(fn: dist.Categorical, value: Tensor) -> Tensor:
    """As ``fn.log_prob`` at the values of an enumerated categorical: no look-up is needed."""
    logits = fn.logits
    if value.dim() <= logits.dim() - 1 or value.shape != (logits.shape[-1],) + (1,) * (
        value.dim() - 1
    ):
        return fn.log_prob(value)
    lead = (1,) * (value.dim() - logits.dim())
    return logits.movedim(-1, 0).reshape(logits.shape[-1:] + lead + logits.shape[:-1])


def _unexpand(tensor: Tensor) -> Tensor:
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if size > 1 and stride == 0:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def log_prob_at(name: str, site: Site) -> Factored:
    """The site's log density at its value, with errors that name the site."""
    try:
        if site["args"] or site["kwargs"]:
            return site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]), 0
        return log_prob(site["fn"], site["value"])
    except ValueError as error:
        raise ValueError(f"Error while computing log_prob at site {name!r}:\n{error}") from error


def needs_weight(site: Site) -> bool:
    """Whether a guide site is summed over, or is drawn without a full reparameterisation."""
    if site["is_observed"]:  # a pyro.factor may stand for a draw that is not reparameterised
        return isinstance(site["fn"], dist.Unit) and not site["fn"].has_rsample
    if site["infer"].get("enumerate") in ("parallel", "sequential"):
        return True
    return not getattr(site["fn"], "has_rsample", False) or _has_own_score(site["fn"])


def score_parts(site: Site, total: Tensor) -> ScoreParts:
    """The site's log density (given as ``total``), score function and entropy term."""
    fn = site["fn"]
    if _has_own_score(fn):
        return fn.score_parts(site["value"])
    if getattr(fn, "has_rsample", False):
        return ScoreParts(total, 0.0, total)
    return ScoreParts(total, total, 0.0)


def _has_own_score(fn: Any) -> bool:
    """Whether ``fn`` defines its gradient estimator, as rejection samplers do."""
    while isinstance(fn, (MaskedDistribution, ExpandedDistribution)):
        fn = fn.base_dist
    own = getattr(type(fn), "score_parts", PyroDistribution.score_parts)
    return own is not PyroDistribution.score_parts


def analytic_kl(q: Distribution, p: Distribution) -> Factored | None:
    """KL(q ‖ p) in nats, per event dimension, or ``None`` where no closed form is registered.

    ``Delta`` guides are left to the sampled log-ratio: the registered closed form ignores their
    ``log_density``, which an autoguide uses for the Jacobian of its transform.
    """
    if (
        isinstance(q, Independent)
        and isinstance(p, Independent)
        and q.reinterpreted_batch_ndims == p.reinterpreted_batch_ndims
    ):
        inner = analytic_kl(q.base_dist, p.base_dist)
        if inner is None:
            return None
        return inner[0], inner[1] + q.reinterpreted_batch_ndims
    if is_delta(q):
        return None
    try:
        kl = kl_divergence(q, p)
    except NotImplementedError:
        return None
    if not isinstance(kl, Tensor):  # a fully masked distribution answers with the number 0
        return None
    return kl, 0


def is_delta(fn: Distribution) -> bool:
    """Whether ``fn`` puts all of its mass on one value."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)


def has_density_everywhere(fn: Distribution) -> bool:
    """Whether the log density is finite at every real number (a cheap, sufficient test)."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return type(fn) is dist.Normal


def batch_shape(site: Site) -> torch.Size:
    """The shape of the site's log density, without computing it."""
    fn, value = site["fn"], site["value"]
    shape = getattr(fn, "batch_shape", torch.Size())
    event_dim = len(getattr(fn, "event_shape", ()))
    return broadcast_shapes(shape, value.shape[: value.dim() - event_dim])


def broadcast_shapes(a: torch.Size, b: torch.Size) -> torch.Size:
    """``torch.broadcast_shapes``, fast where there is nothing to broadcast."""
    if a == b or not b:
        return a
    return torch.broadcast_shapes(a, b) if a else b


def plate_scale(site: Site) -> float:
    """The factor by which subsampled plates scale the site's log density."""
    scale = 1.0
    for frame in site["cond_indep_stack"]:
        full = frame.full_size
        if full is not None and frame.size not in (full, -1):
            scale *= full / frame.size
    return scale


def samples(trace: Any) -> dict[str, Site]:
    """The ``pyro.sample`` statements of a trace, by name."""
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}


def enumerated(site: Site) -> bool:
    """Whether the site is marked for enumeration and is free to be enumerated."""
    return not site["is_observed"] and site["infer"].get("enumerate") in ("parallel", "sequential")


def check_one_at_a_time(
    group: Collection[str], model: Mapping[str, Site], guide: Mapping[str, Site]
) -> None:
    """Refuses a guide site that takes one value at a time in all elements of a plate at once, where
    a group of sites that the model sums together multiplies over these elements.

    Such a site has the right weights for a sum over the elements of the plate, but not for the
    logarithm of a sum of their product.
    """
    every = frozenset[str]().union(*(_plates(model[name]) for name in group))
    summed = (n for n in group if n not in guide and "_enumerate_dim" in model[n]["infer"])
    mixed = every.difference(every.intersection(*(_plates(model[name]) for name in summed)))
    for name, site in guide.items():
        if "_enum_total" in site["infer"] and (where := sorted(mixed & _plates(site))):
            raise ValueError(
                f"infer={{'enumerate': 'sequential'}} must be in no plate whose elements share "
                f"what the model sums out, but got it at guide site {name!r} in plate "
                f"{where[0]!r}, whose elements the model sums together: {list(group)}. Enumerate "
                f"what they share in the guide, write the plate as a loop, or draw {name!r}."
            )


def _plates(site: Site) -> frozenset[str]:
    """The names of the vectorised plates, of more than one element, that a site is in."""
    return frozenset(f.name for f in site["cond_indep_stack"] if f.vectorized and f.size != 1)
