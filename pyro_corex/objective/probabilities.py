"""Probabilities: the tables of the guide's discrete sites, and their entropies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution, Independent
from torch.distributions import OneHotCategorical as TorchOneHot

from pyro_corex.objective import sites
from pyro_corex.objective.axes import is_deterministic
from pyro_corex.objective.sites import Site

if TYPE_CHECKING:
    from pyro_corex.objective.step import Step


class Table(NamedTuple):
    """The probabilities of a discrete guide site."""

    probs: Tensor
    """Shape ``batch + events + (K,)``."""
    data: int
    """The axis of the data, in a tensor without the last axis."""
    keep: tuple[int, ...]
    """The axes that index latents, likewise."""

    def by_latent(self, value: Tensor) -> Tensor:
        """The sum over all axes that index no latents, such as those of particles."""
        drop = [dim for dim in range(-value.dim(), 0) if dim not in self.keep]
        return value.sum(drop) if drop else value


def entropy(probs: Tensor) -> Tensor:
    """In nats, over the last axis; a probability of 0 adds 0, and has a finite gradient."""
    return -(probs * probs.clamp_min(torch.finfo(probs.dtype).tiny).log()).sum(-1)


def probability_table(option: str, name: str, guide: Mapping[str, Site], step: Step) -> Table:
    """The probabilities of the guide's site ``name``.

    :param option: what asks for them, for the messages.
    :param guide: the sites of a run of the guide.
    :raises ValueError: where the site does not qualify: there is none of the name, it is not
        categorical, is masked, is not over one data axis, depends on an enumerated site or on a
        draw without a reparameterisation, or is enumerated sequentially.
    """
    latents = [
        n for n, site in guide.items() if not site["is_observed"] and not is_deterministic(site)
    ]
    if name not in latents:
        raise ValueError(
            f"{option} names {name!r}, but the guide's latent sites are {sorted(latents)}. Name "
            "one of these."
        )
    blocked = sorted(n for n in latents if n != name and not exact_noise(guide[n]))
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
    probs, events = found
    data = data_dim(option, name, site, step) - events
    keep = [d - events for axis, d in step.axes(name).items() if axis not in step.data_axes]
    return Table(probs, data, (*sorted(keep), *range(-events, 0)))


def data_dim(option: str, name: str, site: Site, step: Step) -> int:
    """The batch dimension of the data, of a guide site of which a batch is a sample.

    :raises ValueError: where it is masked, not over one data axis, or given an enumerated site.
    """
    if site["mask"] is not None and site["mask"] is not True:
        raise ValueError(f"{option} names {name!r}, but the site is masked. Take the mask off.")
    batch = tuple(site["fn"].batch_shape)
    dims = [dim for axis, dim in step.axes(name).items() if axis in step.data_axes]
    if len(dims) != 1:
        raise ValueError(
            f"{option} names {name!r}, which needs exactly one data axis in its batch shape "
            f"{batch}, but there are {len(dims)}. Draw it in the data's plate, or name that plate "
            "with data_plates."
        )
    if any(size > 1 for size in batch[: max(0, len(batch) - int(min(step.max_plate_nesting, 99)))]):
        raise ValueError(
            f"{option} names {name!r}, which is drawn given an enumerated site, so that there are "
            "several distributions for each datum. Name the site that it is drawn from, or another."
        )
    return dims[0]


def exact_noise(site: Site) -> bool:
    """Whether a gradient passes a guide site without a score function.

    It does where the site is reparameterised, or summed over in one trace.
    """
    exact = site["infer"].get("enumerate") == "parallel" and "num_samples" not in site["infer"]
    return exact or not sites.needs_weight(site)


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
