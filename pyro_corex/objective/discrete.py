r"""What a discrete latent of the guide knows of the datum, as a reward in the objective (Eq. 20).

For a guide site whose distribution is a table of probabilities q, a difference of entropies is
exact for the batch, with no sample of the site in it:
:math:`H(\langle q(z|x) \rangle_x) - \langle H(q(z|x)) \rangle_x`, which is I(z:x) of the batch's
own aggregate posterior.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution, Independent
from torch.distributions import OneHotCategorical as TorchOneHot

from pyro_corex.objective import sites
from pyro_corex.objective.sites import Site, is_sample

Axis = str | int


class Table(NamedTuple):
    """The probabilities of a discrete guide site."""

    probs: Tensor
    """Shape ``batch + events + (K,)``."""
    data: int
    """The axis of the data, in a tensor without the last axis."""
    keep: tuple[int, ...]
    """The axes that index latents, likewise."""


def check_weights(option: str, weights: Mapping[str, float] | None) -> dict[str, float]:
    """The weights of sites, as a dictionary.

    :raises TypeError: where they are not a mapping from names to numbers.
    :raises ValueError: where a weight is negative or not finite.
    """
    if weights is None:
        return {}
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"{option} must map the names of latent sites to weights, e.g. {{'z2': 10.0}}, but got "
            f"{weights!r}"
        )
    for name, weight in weights.items():
        if not isinstance(weight, (int, float)):
            raise TypeError(f"{option}[{name!r}] must be a number >= 0, but got {weight!r}")
        if not 0 <= weight < math.inf:
            raise ValueError(f"{option}[{name!r}] must be a finite number >= 0, but got {weight!r}")
    return dict(weights)


def table(
    option: str,
    name: str,
    guide: Mapping[str, Site],
    *,
    axes: Mapping[Axis, int],
    data_axes: Collection[Axis],
    max_plate_nesting: float,
) -> Table:
    """The probabilities of the guide's site ``name``.

    :param option: what asks for them, for the messages.
    :param guide: the sites of the guide's trace.
    :param axes: the site's batch axes and their dimensions.
    :raises ValueError: where the site does not qualify: there is none of the name, it is not
        categorical, is masked, is not over one data axis, depends on an enumerated site or on a
        draw without a reparameterisation, or is enumerated sequentially.
    """
    latents = [n for n, site in guide.items() if _is_latent(site)]
    if name not in latents:
        raise ValueError(
            f"{option} names {name!r}, but the guide's latent sites are {sorted(latents)}. Name "
            "one of these."
        )
    blocked = sorted(n for n in latents if _is_noisy(guide[n], own=n == name))
    if blocked:
        raise ValueError(
            f"{option} names {name!r}, but the guide's {blocked} would add noise to its gradient: "
            'they are neither reparameterised nor enumerated with infer={"enumerate": "parallel"}. '
            f"Mark them so, or take {name!r} out of {option}."
        )
    site = guide[name]
    found = _probs(site["fn"])
    if found is None:
        raise ValueError(
            f"{option} names {name!r}, which the guide draws from {_describe(site['fn'])}, but the "
            "estimate is for Categorical, OneHotCategorical and Bernoulli sites only. Name a "
            "discrete site. (For continuous latents see kl, an upper bound on I(z:x), and "
            "AggregatePosterior.)"
        )
    if site["mask"] is not None and site["mask"] is not True:
        raise ValueError(f"{option} names {name!r}, but the site is masked. Take the mask off.")
    dims = [dim for axis, dim in axes.items() if axis in data_axes]
    batch = tuple(site["fn"].batch_shape)
    if len(dims) != 1:
        raise ValueError(
            f"{option} names {name!r}, which needs exactly one data axis in its batch shape "
            f"{batch}, but there are {len(dims)}. Draw it in the data's plate, or name that plate "
            "with data_plates."
        )
    lead = batch[: max(0, len(batch) - int(min(max_plate_nesting, 99)))]
    if any(size > 1 for size in lead):
        raise ValueError(
            f"{option} names {name!r}, which is drawn given an enumerated site, so that there are "
            "several distributions for each datum. Name the site that it is drawn from."
        )
    probs, events = found
    keep = [dim - events for axis, dim in axes.items() if axis not in data_axes]
    return Table(probs, dims[0] - events, (*sorted(keep), *range(-events, 0)))


def mutual_information(at: Table) -> Tensor:
    """I(z:x) of the batch in nats, one value a latent; summed over vectorised particles."""
    mean = at.probs.mean(at.data - 1, keepdim=True)
    return _kept(_entropy(mean) - _entropy(at.probs).mean(at.data, keepdim=True), at)


def _kept(value: Tensor, at: Table) -> Tensor:
    drop = [dim for dim in range(-value.dim(), 0) if dim not in at.keep]
    return value.sum(drop) if drop else value


def _entropy(probs: Tensor) -> Tensor:
    """In nats, over the last axis; a probability of 0 adds 0, and has a finite gradient."""
    return -(probs * probs.clamp_min(torch.finfo(probs.dtype).tiny).log()).sum(-1)


def _probs(fn: Distribution) -> tuple[Tensor, int] | None:
    """The probabilities, classes last, and the event axes over which ``fn`` factorises."""
    events = 0
    while isinstance(fn, Independent):
        events += fn.reinterpreted_batch_ndims
        fn = fn.base_dist
    if isinstance(fn, (TorchCategorical, TorchOneHot)):
        return fn.probs, events
    if isinstance(fn, TorchBernoulli):
        return torch.stack([1 - fn.probs, fn.probs], -1), events
    return None


def _describe(fn: Any) -> str:
    names = [type(fn).__name__]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
        names.append(type(fn).__name__)
    return " of ".join(names)


def _is_latent(site: Site) -> bool:
    return (
        is_sample(site)
        and not site["is_observed"]
        and not sites.is_subsample(site)
        and not sites.is_deterministic(site)
    )


def _is_noisy(site: Site, own: bool) -> bool:
    """Whether a gradient past the site needs a score function, or several traces stand for one.

    The draw of the site itself has no part in what it knows.
    """
    if site["infer"].get("enumerate") == "sequential":
        return True
    exact = site["infer"].get("enumerate") == "parallel" and "num_samples" not in site["infer"]
    return sites.needs_weight(site) and not exact and not own
