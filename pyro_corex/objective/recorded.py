"""What a pair of traces leaves behind: references to tensors that exist anyway.

What they amount to is an :class:`~pyro_corex.objective.evidence.Evidence`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_corex.objective.arguments import Programs
from pyro_corex.objective.axes import Axes
from pyro_corex.objective.evidence import Below, Evidence, Inputs, Key
from pyro_corex.objective.inputs import sight
from pyro_corex.objective.problems import Observed, examine, problem_of, shared
from pyro_corex.objective.sight import Sight
from pyro_corex.objective.sites import Factored, Site
from pyro_corex.objective.term import Term, layout

_SUMMED_OUT = (
    "The likelihood of site {name!r} is summed with latents that the model enumerates, so it has "
    "no value for each input dimension. Enumerate them in the guide instead."
)


class _Latent(NamedTuple):
    """What the guide drew at a site."""

    value: Tensor
    events: int
    discrete: bool


class Recorded:
    """References to the tensors of one pair of traces; see the module's docstring."""

    def __init__(
        self,
        model: Mapping[str, Site],
        guide: Mapping[str, Site],
        *,
        below: Mapping[str, Factored],
        cleared: Collection[str],
        absorbed: Collection[str],
        partial: bool,
        axes: Axes,
        programs: Programs,
        problem: str,
    ) -> None:
        self.terms: Sequence[Term] = ()
        """The terms of the traces, without their graph."""
        self.below, self.cleared, self.absorbed = below, cleared, absorbed
        self.partial, self.problem = partial, problem
        """Whether the trace is one of several that make up the estimate of a particle."""
        self.num_data, self.data_axes, self.programs = axes.num_data, axes.data, programs
        self.local = {name for (_, name), own in axes.of.items() if not axes.data.isdisjoint(own)}
        """Sites that are drawn or observed for each datum."""
        self.model_order = tuple(model)
        self.latents = {
            name: _latent(site)
            for name, site in guide.items()
            if ("guide", name) not in axes.deterministic
        }
        self.observed, self.doubts = examine(model, guide, absorbed, axes)
        self.seen: Sight | None = None

    @cached_property
    def evidence(self) -> Evidence:
        """What the references amount to."""
        drawn = {t.site for t in self.terms if t.kind == "kl" and t.data_dims}
        layers = tuple(name for name in self.latents if name in drawn)
        no_layers, per_datum = self._no_layers(layers), self._per_datum()
        whole = any(len(value) == self.num_data for value in per_datum.values())
        inputs = {name: self._inputs(name, site) for name, site in self.observed.items()}
        return Evidence(
            inputs=inputs,
            per_datum=per_datum,
            shared=frozenset(self.shared if whole else ()),
            given=self.programs.given(self._rows(), [each.values for each in inputs.values()]),
            layers=layers,
            below={} if no_layers else {name: self._below(name) for name in layers[:-1]},
            no_layers=no_layers,
            problem=self._problem(),
            sources=(self,),
        )

    def sight(self, reference: Sequence[Tensor], run: bool) -> Sight:
        """What the model's densities depend on: see :meth:`Evidence.sight`."""
        if self.seen is None:
            found = sight(self.programs, self.terms, self._rows(), reference) if run else Sight()
            self.seen = found
        return self.seen

    @property
    def shared(self) -> list[str]:
        """The latent sites that are drawn for all data at once, as the data share them."""
        of_data = {t.site for t in self.terms if t.data_dims} | self.local
        found = dict.fromkeys(t.site for t in self.terms if t.kind == "kl")
        return [site for site in found if of_data.isdisjoint({site, *site.split("+")})]

    def matrix(self, kind: str, name: str) -> Tensor:
        """A term for each datum and dimension: see :meth:`Evidence.matrix`."""
        found = [term.matrix for term in self._of(kind, name) if term.data_dims]
        if not found:
            raise ValueError(f"The {kind} of site {name!r} is not known for each datum.")
        return torch.stack(found).sum(0)

    def draws(self) -> dict[str, Tensor]:
        """What the guide drew for each datum: latent site -> shape ``(B, m)``."""
        terms = {term.site: term for term in self.terms if term.kind == "kl" and term.data_dims}
        return {
            name: layout(latent.value, latent.events, terms[name])
            for name, latent in self.latents.items()
            if name in terms
        }

    # ------------------------------------------------------------------ inside

    def _of(self, kind: str, name: str) -> list[Term]:
        return [term for term in self.terms if (term.kind, term.site) == (kind, name)]

    def _rows(self) -> set[int]:
        """How many rows an argument may have that holds something of each datum."""
        found = set[int]()
        for term in self.terms:
            if term.kind == "reconstruction":
                own = [term.value.shape[dim - term.event_dims] for dim in term.data_dims]
                found |= {*own, math.prod(own)}
        frames = [frame for site in self.observed.values() for frame in site.frames]
        return found | {f.full_size for f in frames if f.name in self.data_axes and f.full_size}

    def _per_datum(self) -> dict[Key, Tensor]:
        """Terms of each datum; none, where some have no value for each datum.

        The KL of a latent that all data share is a cost that they share, too.
        """
        sizes = {len(term.per_datum) for term in self.terms if term.data_dims}
        found: dict[Key, Tensor] = {}
        if self.partial or len(sizes) != 1:
            return found
        size = sizes.pop()
        for term in self.terms:
            key, value = (term.kind, term.site), term.per_datum
            if not term.data_dims:
                if not self.local.isdisjoint(term.site.split("+")):
                    return {}  # of latents of each datum that the guide draws all at once
                value = (value * (term.subsampling / self.num_data)).expand(size)
            found[key] = found[key] + value if key in found else value
        return found

    def _problem(self) -> str:
        """Why no bound can be stated, apart from what is observed; nothing, where it can."""
        reason = next((doubt.reason for doubt in self.doubts if doubt.holds), "")
        return reason or shared(self.terms) or self.problem

    def _inputs(self, name: str, site: Observed) -> Inputs:
        discrete = bool(getattr(site.support, "is_discrete", False))
        boolean = site.likelihood == "Bernoulli"
        kind = "binary" if boolean else "categorical" if discrete else "continuous"
        term = next(iter(self._of("reconstruction", name)), None)
        if term is None or name in self.absorbed:
            return Inputs(site.value.new_empty((1, 0)), kind, _SUMMED_OUT.format(name=name))
        problem = problem_of(name, site, term)
        if problem:
            return Inputs(site.value.new_empty((1, 0)), kind, problem)
        value = site.value.detach()
        value = value.expand(torch.broadcast_shapes(value.shape, term.value.shape))
        return Inputs(layout(value, term.event_dims, term), kind)

    # ------------------------------------------------------------------ layers

    def _no_layers(self, layers: tuple[str, ...]) -> str:
        if self.partial or self.absorbed:
            return (
                "some sites are summed out in the model or enumerated one value at a time, and "
                "have no term of their own"
            )
        others = {t.site for t in self.terms if t.kind == "kl" and t.site not in layers}
        if others:
            return f"the latent sites {sorted(others)} are not drawn by the guide for each datum"
        if len(layers) < 2:
            return "" if layers else "there are no latent sites"
        model = [name for name in self.model_order if name in layers]
        if model[::-1] != list(layers):
            return (
                f"the guide draws {', '.join(layers)} and the model {', '.join(model)}; in a stack "
                "the guide goes up from the data and the model comes down, in reverse order"
            )
        for name in layers[:-1]:
            if self.latents[name].discrete:
                return f"site {name!r} is discrete and not the top layer"
            if name in self.cleared:
                return f"the model draws {name!r} without regard to the latents above it"
        return ""

    def _below(self, name: str) -> Below:
        latent, last = self.latents[name], self._of("kl", name)[-1]
        value, event_dims = self.below.get(name) or (last.value, last.event_dims)
        down = replace(last, value=value, event_dims=event_dims, sign=1.0)
        return Below(layout(latent.value, latent.events, last), down.per_datum)


def _latent(site: Site) -> _Latent:
    fn: Any = site["fn"]
    discrete = bool(getattr(fn, "has_enumerate_support", False))
    return _Latent(site["value"].detach(), len(fn.event_shape), discrete)
