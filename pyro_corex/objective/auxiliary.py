"""Auxiliary sites: what a guide draws in order to transform it into latents of the model.

Pyro's autoguides draw unconstrained values u at a site that the model lacks, and give the model's
site z a ``Delta`` at its transform, whose log density is that of the Jacobian.  The density of z is
that of u times the Jacobian, so the KL of z is made of both; a weight of z weighs both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import IndependentTransform

from pyro_corex.objective import sites
from pyro_corex.objective.axes import is_deterministic
from pyro_corex.objective.closed_form import guide_parents
from pyro_corex.objective.sites import Factored, Site


class Image(NamedTuple):
    """A site of the model that is the transform of an auxiliary site, or of a part of it."""

    auxiliary: str
    start: int | None
    """Where it starts in a flat draw for several sites; ``None`` for the whole draw."""
    by_dimension: bool
    """Whether the transform goes dimension by dimension."""


class Plan(NamedTuple):
    """Under which names the terms of auxiliary sites and their images are listed."""

    images: dict[str, Image]
    """The sites that have a density of their own."""
    joint: dict[str, str]
    """The others, and the auxiliary sites that they are from -> the name of what they share."""
    problem: str = ""
    """Why the terms of the guide's sites are no KLs, if so."""


class Auxiliaries:
    """What is known of the auxiliary sites of a guide, found once for each set of sites."""

    def __init__(self, guide: Any) -> None:
        self.guide = guide
        self._plans: dict[Any, Plan] = {}

    def plan(
        self, model: Mapping[str, Site], guide: Mapping[str, Site], args: Any, kwargs: Any
    ) -> Plan:
        """The plan for the sites of two traces."""
        key = tuple(model), tuple((n, sites.is_delta(s["fn"])) for n, s in guide.items())
        if key not in self._plans:
            drawn = [n for n, s in guide.items() if n not in model and not s["is_observed"]]
            drawn = [n for n in drawn if not is_deterministic(guide[n])]
            images = [n for n in guide if n in model and sites.is_delta(guide[n]["fn"])]
            found = Plan({}, {})
            if drawn and images:
                parents = guide_parents(self.guide, args, kwargs)
                for auxiliary, of_them in _groups(drawn, images, parents):
                    _decide(auxiliary, of_them, model, guide, found)
            self._plans[key] = found._replace(problem=_problem(model, guide, found))
        return self._plans[key]


def density(
    name: str, image: Image, site: Site, guide: Mapping[str, Site], log_q: Factored
) -> Factored:
    """The guide's log density of a site of the model, from that of the auxiliary site.

    :param site: the model's.
    """
    value, own = log_q[0], guide[name]
    z, batch = own["value"], sites.batch_shape(own)
    if image.start is None:
        events = log_q[1]
    else:
        shape = _unconstrained(site["fn"].support, z).shape
        size = shape.numel() // guide[image.auxiliary]["fn"].batch_shape.numel()
        value = value[..., image.start : image.start + size].reshape(shape)
        events = len(shape) - len(batch)
    if image.by_dimension:
        return value + _log_jacobian(site["fn"].support, z), events
    return sites.total((value, events)) + own["fn"].log_prob(z), 0


def _problem(model: Mapping[str, Site], guide: Mapping[str, Site], plan: Plan) -> str:
    """Why the terms of a guide's sites are no KLs; nothing, where they are."""
    of_plan = {*plan.images, *plan.joint, *(image.auxiliary for image in plan.images.values())}
    for name, site in guide.items():
        if name in of_plan or site["is_observed"] or is_deterministic(site):
            continue
        if name not in model:
            return (
                f"The guide draws {name!r}, which the model lacks, so its density has nothing to "
                "be compared with, and no bound follows. Draw it in the model, too."
            )
        fn = model[name]["fn"]
        discrete = getattr(getattr(fn, "support", None), "is_discrete", False)
        if sites.is_delta(site["fn"]) and not sites.is_delta(fn) and not discrete:
            return (
                f"The guide puts {name!r} at a point: ln p of a point is a density and no KL, and "
                "no bound follows. Give it a scale, e.g. Normal(loc, scale), or make a parameter "
                "of it in the model, with pyro.param."
            )
    return ""


def _groups(
    drawn: list[str], images: list[str], parents: Mapping[str, frozenset[str]] | None
) -> list[tuple[list[str], list[str]]]:
    """Auxiliary sites and what is made of them; all together, if that cannot be followed."""
    groups: list[tuple[list[str], list[str]]] = []
    for name in images:
        above = [n for n in drawn if parents is None or n in parents.get(name, ())]
        if not above:
            continue
        touching = [group for group in groups if set(group[0]) & set(above)]
        groups = [group for group in groups if group not in touching]
        from_them = {n for group in touching for n in group[0]}.union(above)
        found = [n for group in touching for n in group[1]]
        groups.append(([n for n in drawn if n in from_them], [*found, name]))
    return groups


@torch.no_grad()
def _decide(
    drawn: list[str],
    images: list[str],
    model: Mapping[str, Site],
    guide: Mapping[str, Site],
    plan: Plan,
) -> None:
    """Adds to the plan what is known of one group."""
    found: dict[str, Image] = {}
    if len(drawn) == 1:
        (auxiliary,) = drawn
        draw, start = guide[auxiliary]["value"], 0
        _, events = sites.log_prob(guide[auxiliary]["fn"], draw)
        for name in images:
            own, support = guide[name], getattr(model[name]["fn"], "support", None)
            if sites.plate_scale(own) != sites.plate_scale(guide[auxiliary]):
                break
            try:
                whole = _unconstrained(support, own["value"])
                same = sites.batch_shape(own) == sites.batch_shape(guide[auxiliary])
                if same and len(images) == 1 and _close(whole, draw):
                    place: int | None = None
                else:
                    size = whole.numel() // max(draw.shape[:-1].numel(), 1)
                    place, start = start, start + size
                    part = draw[..., place:start].reshape(whole.shape)
                    if events != 1 or draw.dim() < 1 or not _close(whole, part):
                        break
                exact = place is not None or events == len(own["fn"].event_shape)
                by_dimension = exact and _goes_by_dimension(support, own)
            except (NotImplementedError, RuntimeError, ValueError, AttributeError):
                break  # a support without a transform, or a draw that is made in another way
            found[name] = Image(auxiliary, place, by_dimension)
    if set(found) == set(images):
        plan.images.update(found)
    else:
        plan.joint.update(dict.fromkeys([*drawn, *images], "+".join(images)))


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-3)


def _unconstrained(support: Any, z: Tensor) -> Tensor:
    return biject_to(support).inv(z)


def _elementwise(support: Any) -> Any:
    """The transform onto a support, as one of single numbers; ``None`` where it is not."""
    transform = biject_to(support)
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return None if transform.domain.event_dim else transform


def _log_jacobian(support: Any, z: Tensor) -> Tensor:
    """The logarithm of the derivative of u by z, for each dimension."""
    transform = _elementwise(support)
    return -transform.log_abs_det_jacobian(transform.inv(z), z)


def _goes_by_dimension(support: Any, own: Site) -> bool:
    """Whether the Jacobian in a ``Delta`` is a sum over its dimensions, of the usual transform."""
    if _elementwise(support) is None:
        return False
    events = len(own["fn"].event_shape)
    found = sites.total((_log_jacobian(support, own["value"]), events))
    return _close(found, own["fn"].log_prob(own["value"]))
