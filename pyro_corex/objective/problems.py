"""Problems: why a bound on TC(x) cannot be stated, and how to mend it.

:func:`examine` says what is kept of the traces of a training step.  Why there is no bound is worked
out from that when somebody asks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pyro.distributions import Delta, ImproperUniform
from torch import Tensor

from pyro_corex.objective.axes import Axes
from pyro_corex.objective.sites import Site
from pyro_corex.objective.term import Term

_NOT_A_LIKELIHOOD = (
    "cross-entropy on grey values is the log-likelihood of nothing, so no bound on TC(x) could be "
    "stated. Binarise them (x > 0.5, or transform=torch.bernoulli), or use the "
    "'continuous_bernoulli' or 'normal' likelihood."
)


class Observed(NamedTuple):
    """An observed site, without its distribution, which would hold the graph."""

    value: Tensor
    support: Any
    events: int  # event dimensions that the likelihood has
    likelihood: str
    masks: list[Any]
    delta: bool
    frames: Any


def _observe(site: Site) -> Observed:
    """An observed site as it is kept."""
    fn: Any = site["fn"]
    base = fn
    while hasattr(base, "base_dist") and not hasattr(base, "transforms"):
        base = base.base_dist
    return Observed(
        site["value"].detach(),
        getattr(base, "support", None),
        len(getattr(fn, "event_shape", ())),
        type(base).__name__,
        _masks(site),
        isinstance(base, Delta),
        site["cond_indep_stack"],
    )


def problem_of(name: str, site: Observed, term: Term) -> str:
    """Why the likelihood of a site is not a proper one of its data; nothing, where it is."""
    if any(not torch.as_tensor(mask).all() for mask in site.masks):
        return (
            f"Site {name!r} is masked: the entropies of what is missing are not known. "
            "Evaluate on complete data without the mask."
        )
    if site.delta:
        return (
            f"Site {name!r} has a Delta likelihood, which is no density. Give it a scale, "
            "e.g. Normal(loc, scale)."
        )
    if site.events != term.event_dims:
        return (
            f"The likelihood of site {name!r}, {site.likelihood}, does not factorise over its "
            "input dimensions, as Eq. 10 needs. Declare independent dimensions with .to_event(), "
            "around all transforms, or a plate, and observe a one-hot label by its index, with "
            "Categorical."
        )
    if not term.data_dims:
        return (
            f"Site {name!r} is not in a plate of data, so it is one datum, and its entropies "
            "cannot be estimated. Put it in a plate, or name the data's plate with data_plates."
        )
    others = [str(axis) for axis in term.data_axes if axis not in term.axes]
    if others:
        return (
            f"Site {name!r} is not in all plates of data, but outside of {sorted(others)}, so that "
            "it is observed for other data than the rest. Name the plates that index data with "
            "data_plates, or evaluate each part of the data on its own."
        )
    for frame in site.frames:
        full = frame.full_size
        if full is not None and frame.size not in (full, -1) and frame.name not in term.data_axes:
            return (
                f"Site {name!r} sees {frame.size} of the {full} input dimensions in the plate "
                f"{frame.name!r}. Evaluate without the subsampling."
            )
    if site.support is None or bool(site.support.check(site.value).all()):
        return ""
    if site.likelihood == "Bernoulli":
        return (
            f"Site {name!r} is Bernoulli, but its data hold other values than 0 and 1: "
            + _NOT_A_LIKELIHOOD
        )
    return (
        f"Site {name!r} holds values outside of the support of its likelihood, "
        f"{site.likelihood}: {site.support}. Choose a likelihood that fits the data, or "
        "transform them."
    )


# ---------------------------------------------------------------------- latents

_FACTOR = (
    "The {role} has the factor {name!r}, and an unnormalised program bounds nothing. Evaluate "
    "programs without pyro.factor: let a distribution say what it says."
)
_GUIDE_OBSERVES = (
    "The guide observes site {name!r}, so it is no normalised distribution of the latents, and "
    "what it adds is no KL. Evaluate a guide without it."
)
_IMPROPER = (
    "The prior of site {name!r} is improper: a KL to it is known up to a constant only. Use a "
    "normalised prior."
)
_MASKED = (
    "The latent site {name!r} is masked in the {role}, which leaves a part of its KL out. Evaluate "
    "without the mask."
)


class Doubt(NamedTuple):
    """A reason for which there is no bound where ``value`` is anywhere other than ``harmless``."""

    reason: str
    value: Any = False
    harmless: Any = True

    @property
    def holds(self) -> bool:
        """Whether that is so; waits for the device."""
        return bool((torch.as_tensor(self.value) != self.harmless).any())


def examine(
    model: Mapping[str, Site], guide: Mapping[str, Site], absorbed: Collection[str], axes: Axes
) -> tuple[dict[str, Observed], list[Doubt]]:
    """What is kept of two traces: the observed sites, and what may keep the KLs from being those of
    normalised programs.  Nothing is read from a device.
    """
    observed, doubts = {}, list[Doubt]()
    for role, nodes in (("model", model), ("guide", guide)):
        for name, site in nodes.items():
            text, base = {"role": role, "name": name}, _base(site["fn"])
            if (role, name) in axes.factors:
                doubts.append(Doubt(_FACTOR.format(**text), base.log_factor.detach(), 0))
            elif (role, name) in axes.deterministic:
                continue
            elif role == "model" and site["is_observed"]:
                observed[name] = _observe(site)
            elif name in absorbed:
                continue
            elif site["is_observed"]:
                if not (name in model and model[name]["is_observed"]):
                    doubts.append(Doubt(_GUIDE_OBSERVES.format(**text)))
            elif role == "model" and isinstance(base, ImproperUniform):
                doubts.append(Doubt(_IMPROPER.format(**text)))
            else:
                doubts += [Doubt(_MASKED.format(**text), mask) for mask in _masks(site)]
    return observed, doubts


def shared(terms: Sequence[Term]) -> str:
    """Why data that share a latent, but not with all others, leave no bound."""
    for term in terms:
        own = [axis for axis in term.axes if axis in term.data_axes]
        others = [axis for axis in term.data_axes if axis not in own]
        if term.kind == "kl" and own and others:
            return (
                f"Site {term.site!r} is drawn once for all of {others}, which index data with "
                f"{own}. Such data are not independent, and what they share would count as total "
                f"correlation. Make them dimensions of one datum, data_plates={own}."
            )
    return ""


def _masks(site: Site) -> list[Any]:
    """The masks that are in force at a site."""
    found, fn = [site["mask"]], site["fn"]
    while hasattr(fn, "base_dist"):
        found.append(getattr(fn, "_mask", None))
        fn = fn.base_dist
    return [mask for mask in found if mask is not None and mask is not True]


def _base(fn: Any) -> Any:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn
