"""Problems: why a bound on TC(x) cannot be stated for an observed site, and how to mend it."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from pyro_corex.objective.sites import Site, is_delta
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
    masked: bool
    delta: bool
    frames: Any


def observe(site: Site) -> Observed:
    """An observed site as it is kept."""
    fn: Any = site["fn"]
    masked = site["mask"] is not None and site["mask"] is not True
    base = fn
    while hasattr(base, "base_dist") and not hasattr(base, "transforms"):
        masked = masked or hasattr(base, "_mask")
        base = base.base_dist
    return Observed(
        site["value"],
        getattr(base, "support", None),
        len(getattr(fn, "event_shape", ())),
        type(base).__name__,
        masked,
        is_delta(base),
        site["cond_indep_stack"],
    )


def problem_of(name: str, site: Observed, term: Term) -> str:
    """Why the likelihood of a site is not a proper one of its data; nothing, where it is."""
    if site.masked:
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
            "input dimensions, as Eq. 10 needs. Declare independent dimensions with "
            ".to_event() or a plate."
        )
    if not term.data_dims:
        return (
            f"Site {name!r} is not in a plate of data, so it is one datum, and its entropies "
            "cannot be estimated. Put it in a plate, or name the data's plate with data_plates."
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
