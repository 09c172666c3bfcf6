"""From a pair of traces to the terms of the bound.

This is the only place where a term is computed: the loss that is trained is the sum of the terms
made here, and :class:`~pyro_corex.CorExTerms` reports the very same ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_corex.objective import sites
from pyro_corex.objective.arguments import Programs
from pyro_corex.objective.auxiliary import Plan, density
from pyro_corex.objective.axes import Known
from pyro_corex.objective.closed_form import check_same_scale, holds
from pyro_corex.objective.enumeration import Expectation, Marginal, marginalise
from pyro_corex.objective.recorded import Recorded
from pyro_corex.objective.sites import Factored, Site
from pyro_corex.objective.term import Axis, Kind, Term

Key = tuple[Kind, str]


class Sum(NamedTuple):
    """The terms of one site, summed over data and particles: one value a dimension."""

    value: Tensor
    """What is reported: without weights."""
    weighted: Tensor
    """What is trained."""
    weight: Tensor | float | None
    """What lies between them; ``None`` where it differs between data."""

    def plus(self, other: Sum) -> Sum:
        """The sum of two; where only one of them factorises, a sum over its dimensions, too."""
        if self.value.shape == other.value.shape:
            value, weighted = self.value + other.value, self.weighted + other.weighted
        else:
            value = self.value.sum() + other.value.sum()
            weighted = self.weighted.sum() + other.weighted.sum()
            if isinstance(self.weight, Tensor) and self.weight.dim():
                return Sum(value, weighted, None)
        return Sum(value, weighted, self.weight)

    def weights(self) -> Tensor:
        """The weights in the shape of ``value``, such that the products add up."""
        if self.weight is None:
            return ratio(self.weighted, self.value)
        if isinstance(self.weight, Tensor):
            return self.weight.detach().to(self.value).expand(self.value.shape)
        return torch.full_like(self.value, self.weight)


def ratio(weighted: Tensor, value: Tensor) -> Tensor:
    """The weight that lies between two sums, 1 where it cannot be told."""
    found = weighted / value
    return found.where(found.isfinite() & (value != 0), torch.ones_like(found))


def _check_mask(name: str, model_site: Site, guide_site: Site) -> None:
    """Raises ``ValueError`` where the guide leaves out of a latent what the model counts.

    What the model alone leaves out, such as entries that are observed, has no KL.
    """
    p, q = model_site["mask"], guide_site["mask"]
    if q is None or q is True or q is p or p is False:
        return
    p, q = (m if isinstance(m, Tensor) else torch.tensor(m) for m in (True if p is None else p, q))
    if holds(lambda a, b: a & ~b, p, q):
        raise ValueError(
            f"Site {name!r} is masked in the guide where it is not in the model: the latents left "
            "out would be free of charge. Mask both programs, e.g. with poutine.mask around each."
        )


class Contributions:
    """The terms of one pair of traces.

    :param model: the sites of the model's trace; ``guide`` those of the guide's.
    :param cleared: the sites whose KL may be taken in closed form.
    :param plan: what becomes of the guide's auxiliary sites.
    :param data_plates: the plates that index data, or ``None`` to find them from the traces.
    :param programs: the model and the guide, with what they were called with.
    :param known: the axes that such traces were found to have.
    """

    def __init__(
        self,
        model_trace: Any,
        guide_trace: Any,
        model: Mapping[str, Site],
        guide: Mapping[str, Site],
        *,
        cleared: Collection[str],
        plan: Plan,
        max_plate_nesting: float,
        data_plates: Collection[str] | None,
        programs: Programs,
        known: Known,
    ) -> None:
        self.plan = plan
        self.model, self.guide = model, guide
        self.cleared = cleared
        self.max_plate_nesting = max_plate_nesting
        self.terms: list[Term] = []
        self.below: dict[str, Factored] = {}
        """Of log-ratios the model's half, without its graph: what a layer of a stack explains."""
        self.baseline: Tensor | None = None
        """0, with the gradient of the baselines of score-function sites."""
        self.regularizers: dict[str, tuple[Tensor, Tensor | float]] = {}
        """Name -> value in nats per datum, and weight: what is taken off the bound."""
        self.own_losses: Tensor | None = None
        """0, with the gradients of what regularizers train for themselves."""
        self.sequential = any("_enum_total" in site["infer"] for site in guide.values())
        """Whether the trace is one of several for a particle, which share tensors."""
        found = known.axes(
            model,
            guide,
            max_plate_nesting=max_plate_nesting,
            told=data_plates,
            first=programs.first,
        )
        self.axes, self.data_axes, self.guess = found.of, found.data, found.guess
        self.num_data, self.particles = found.num_data, found.particles
        self.batch_size = found.batch_size
        self.deterministic = found.deterministic
        absorbed = self._fill(model_trace, guide_trace)
        self.sums = self._sums()
        self.recorded = Recorded(
            model,
            guide,
            below=self.below,
            cleared=cleared,
            absorbed=absorbed,
            partial=self.sequential,
            axes=found,
            programs=programs,
            problem=self.plan.problem,
        )

    def objective(self) -> Tensor | float:
        """What is to be maximised, in nats summed over data and particles, with its graph."""
        total: Tensor | float = 0.0
        for (kind, _), found in self.sums.items():
            part = found.weighted.sum()
            total = total + part if kind == "reconstruction" else total - part
        for value, weight in self.regularizers.values():
            total = total - (weight * value).sum() * (self.num_data * self.particles)
        for zero in (self.baseline, self.own_losses):
            total = total if zero is None else total - zero
        return total

    def detach(self) -> Contributions:
        """Lets go of the graph and of the traces, and keeps what is reported."""
        self.recorded.terms = self.terms = [term.detach() for term in self.terms]
        self.sums = {
            key: Sum(found.value.detach(), found.weighted.detach(), found.weight)
            for key, found in self.sums.items()
        }
        self.regularizers = {n: (v.detach(), w) for n, (v, w) in self.regularizers.items()}
        self.model = self.guide = {}
        self.baseline = self.own_losses = None
        return self

    # ------------------------------------------------------------------ the terms

    def _fill(self, model_trace: Any, guide_trace: Any) -> set[str]:
        """Makes the terms; returns the sites that the model sums out or observes in such a sum."""
        summed_out = any(
            name not in self.guide and site["infer"].get("_enumerate_dim") is not None
            for name, site in self.model.items()
        )
        weighted = [n for n, s in self.guide.items() if summed_out or sites.needs_weight(s)]
        sampled = {
            name: sites.log_prob_at(name, site)
            for name, site in self.guide.items()
            if name in weighted or name not in self.cleared
        }
        expectation, absorbed = None, set[str]()
        self._transform(sampled)
        if summed_out or weighted:
            log_q = {name: sampled[name] for name in weighted}
            expectation = Expectation(model_trace, guide_trace, log_q, self.max_plate_nesting)
        labels: dict[str, str] = {}
        if summed_out and expectation is not None:
            found, absorbed = marginalise(
                model_trace, guide_trace, self.model, self.guide, expectation
            )
            labels = self._marginals(found)

        def add(kind: Kind, name: str, role: str, found: Factored, sign: float = 1.0) -> None:
            site = (self.model if role == "model" else self.guide)[name]
            mask = self._mask(name, site)
            term = self._term(kind, name, site, found, mask, self.axes[role, name], sign)
            if expectation is not None:
                expectation.weigh(term, site)
            self.terms.append(term)
            if name in self.plan.joint and kind == "kl":
                term.site = self.plan.joint[name]

        for name, site in self.model.items():
            q = self.guide.get(name)
            if name in absorbed:
                if q is not None:
                    self._check_absorbed(name, site, q)
                    add("kl", name, "guide", (sites.total(sampled[name]), 0))
                    self._move(self.terms[-1], labels[name])
            elif ("model", name) in self.deterministic:
                continue
            elif site["is_observed"]:
                add("reconstruction", name, "model", sites.log_prob_at(name, site))
            elif q is None:
                add("kl", name, "model", sites.log_prob_at(name, site), -1.0)
            else:
                check_same_scale(name, site, q)
                for sign, share in self._kl(name, q, site, sampled, expectation):
                    add("kl", name, "guide", share, sign)
        for name in self._auxiliary():
            add("kl", name, "guide", sampled[name])
        self._weigh_together()
        if expectation is not None:
            self.baseline = expectation.baselines()
        return absorbed

    def _mask(self, name: str, site: Site) -> Tensor | bool | None:
        """The mask of a site; of a latent in both programs the model's, which counts no more."""
        of_model = self.model.get(name, site)
        if of_model is not site and site["mask"] is not None:
            _check_mask(name, of_model, site)
        mask: Tensor | bool | None = of_model["mask"]
        return mask

    def _transform(self, sampled: dict[str, Factored]) -> None:
        """Gives latents that are made of auxiliary sites the density of those."""
        for name, image in self.plan.images.items():
            log_q = sampled[image.auxiliary]
            sampled[name] = density(name, image, self.model[name], self.guide, log_q)

    def _auxiliary(self) -> list[str]:
        """The sites that only the guide has, and whose density is not yet another site's."""
        made = {image.auxiliary for image in self.plan.images.values()}
        return [
            name
            for name in self.guide
            if name not in self.model
            and name not in made
            and ("guide", name) not in self.deterministic
        ]

    def _weigh_together(self) -> None:
        """Gives auxiliary sites the one weight of the latents that are made of them, and all of
        these the axes of data that they have in common.
        """
        for label in set(self.plan.joint.values()):
            names = [n for n, of in self.plan.joint.items() if of == label]
            drawn = [n for n in names if n not in self.model]
            terms = [t for t in self.terms if (t.kind, t.site) == ("kl", label)]
            weights = [t.weight for t in terms[: len(terms) - len(drawn)]]
            one = weights[0]
            if any(w is not one and holds(lambda a, b: a != b, w, one) for w in weights[1:]):
                raise ValueError(
                    f"The sites {[n for n in names if n not in drawn]} have different weights, but "
                    f"the guide makes them from {drawn}, so that they have one KL together. Give "
                    "them one weight, or take a guide that draws each by itself, e.g. AutoNormal."
                )
            shared = set(self.data_axes).intersection(*(t.axes for t in terms))
            for term in terms:
                term.weight = one
                term.axes = {axis: dim for axis, dim in term.axes.items() if axis in shared}

    def _marginals(self, found: Sequence[Marginal]) -> dict[str, str]:
        """Adds what is left of a sum over sites; returns the label of each of the guide's sites."""
        for each in found:
            alike = [m.axes.keys() for m in found if (m.kind, m.label) == (each.kind, each.label)]
            shared = set.intersection(*map(set, alike))
            if len(each.drawn) > 1:  # a term that several sites have together, by datum only
                shared &= set(self.data_axes)
            subsampling = sites.plate_scale(self.model[each.sites[0]])
            self.terms.append(
                Term(
                    each.kind,
                    each.label,
                    each.value,
                    0,
                    {axis: dim for axis, dim in each.axes.items() if axis in shared},
                    self.data_axes,
                    sign=each.sign,
                    probability=each.probability,
                    subsampling=subsampling,
                    weight=each.scale / subsampling,
                    particles=self.particles,
                )
            )
        return {n: each.label for each in found if each.kind == "kl" for n in each.drawn}

    def _move(self, term: Term, label: str) -> None:
        """Lists a term under another name, with the axes of what stands there."""
        known = next((t.axes for t in self.terms if (t.kind, t.site) == (term.kind, label)), {})
        term.site, term.axes = label, {a: d for a, d in term.axes.items() if a in known}

    @staticmethod
    def _check_absorbed(name: str, site: Site, q: Site) -> None:
        check_same_scale(name, site, q)
        if getattr(q["fn"], "event_weight", None) is not None:
            raise ValueError(
                f"Site {name!r} has a weight for each latent, but depends on what the model sums "
                "out, so that its KL is no sum over latents. Give one weight for the site."
            )

    def _kl(
        self,
        name: str,
        q: Site,
        p: Site,
        sampled: dict[str, Factored],
        expectation: Expectation | None,
    ) -> list[tuple[float, Factored]]:
        """KL per latent dimension: in closed form, or the log-ratio at the guide's sample.

        The two halves of a log-ratio are kept apart where one of them has more enumerated
        dimensions than the other, so that the smaller one is not repeated along them.
        """
        if name in self.cleared:
            kl = sites.analytic_kl(q["fn"], p["fn"])
            if kl is not None:
                return [(1.0, kl)]
        if name not in sampled:
            sampled[name] = sites.log_prob_at(name, q)
        up, down = sampled[name], sites.log_prob_at(name, p)
        if up[1] != down[1]:
            up, down = (sites.total(up), 0), (sites.total(down), 0)
        if expectation is None or up[0].shape == down[0].shape:
            self.below[name] = down[0].detach(), down[1]
            return [(1.0, (up[0] - down[0], up[1]))]
        return [(1.0, up), (-1.0, down)]

    def _term(
        self,
        kind: Kind,
        name: str,
        site: Site,
        found: Factored,
        mask: Tensor | bool | None,
        axes: Mapping[Axis, int],
        sign: float,
    ) -> Term:
        value, event_dims = found
        if mask is False:
            value = torch.zeros_like(value)
        elif isinstance(mask, Tensor):
            mask = mask.reshape(mask.shape + (1,) * event_dims)
            value = torch.where(mask, value, value.new_zeros(()))
        subsampling, scale = sites.plate_scale(site), site["scale"]
        if isinstance(scale, Tensor) or subsampling != 1.0:
            scale = scale / subsampling
        return Term(
            kind,
            name,
            value,
            event_dims,
            axes,
            self.data_axes,
            sign=sign,
            subsampling=subsampling,
            weight=scale,
            event_weight=getattr(site["fn"], "event_weight", None) if kind == "kl" else None,
            finite=sites.has_density_everywhere(site["fn"]),
            particles=self.particles,
        )

    def _sums(self) -> dict[Key, Sum]:
        found: dict[Key, Sum] = {}
        for term in self.terms:
            key, own = (term.kind, term.site), Sum(*term.sums)
            found[key] = found[key].plus(own) if key in found else own
        return found
