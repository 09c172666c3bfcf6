"""Evidence: what a batch says of the data beyond the sums of its terms.

A bound on TC(x) needs the entropies of the very data that the terms are from, its standard error
the terms of each datum, and a layer's share the draws of the layers.  :class:`Recorded` keeps
references to tensors that exist anyway; what they amount to, an :class:`Evidence`, is worked out
when somebody asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from pyro_corex.batches import together
from pyro_corex.objective.arguments import Programs
from pyro_corex.objective.axes import Axes
from pyro_corex.objective.inputs import sight
from pyro_corex.objective.problems import Observed, examine, problem_of, shared
from pyro_corex.objective.sight import Sight
from pyro_corex.objective.sites import Factored, Site
from pyro_corex.objective.term import Term, layout

Key = tuple[str, str]  # the kind of a term and its site
K = TypeVar("K")
Shares = tuple[Tensor, list[tuple[Tensor, str, float]]]
"""Shares of the data in nats, ``(N,)``, and triples of values, kind and sign of their entropies."""

_SUMMED_OUT = (
    "The likelihood of site {name!r} is summed with latents that the model enumerates, so it has "
    "no value for each input dimension. Enumerate them in the guide instead."
)


@dataclass(frozen=True)
class Inputs:
    """The values of an observed site."""

    values: Tensor
    """Shape ``(N, d)``."""
    kind: str
    """The kind of entropy that goes with the likelihood."""
    problem: str = ""
    """Why the likelihood is not a proper one of these data, if so."""


class Below(NamedTuple):
    """One continuous layer of a stack that has another one above it."""

    values: Tensor
    """Draws from the guide, shape ``(N, m)``."""
    log_prob: Tensor
    r"""The sum over j of :math:`\ln q(z_j | \text{above})`, shape ``(N,)``, in nats."""


@dataclass(frozen=True)
class Evidence:
    """What the bound and its error need to know of the data."""

    inputs: Mapping[str, Inputs]
    per_datum: Mapping[Key, Tensor]
    """Kind and site -> the term in nats, summed over dimensions: shape ``(N,)``."""
    layers: tuple[str, ...]
    """The latent sites from the data upwards."""
    below: Mapping[str, Below]
    """All of them but the top."""
    no_layers: str = ""
    """Why the latents are not layers, if so."""
    problem: str = ""
    """Why no bound can be stated, whatever the observed sites, if so."""
    sources: tuple[Recorded, ...] = ()
    """What it was worked out from, one for each draw from the guide, until :meth:`compact`."""
    seen: Sight | None = None
    """:meth:`sight`, where it has been asked for before :meth:`compact`."""
    given: Mapping[int, Tensor] = field(default_factory=dict)
    """What the programs were given beside what is observed: see ``Programs.given``."""

    def sight(self, reference: Sequence[Tensor] = (), *, run: bool = True) -> Sight:
        """What the model's densities depend on beside the latents; runs the programs, once.

        :param reference: see :func:`~pyro_corex.objective.inputs.sight`.
        :param run: ``False`` takes it that there is nothing to be seen.
        """
        if self.seen is not None or not self.sources:
            return self.seen or Sight()
        return self.sources[0].sight(reference, run)

    @property
    def size(self) -> int:
        """The number of data, 0 where the terms are not known for each of them."""
        return next((len(term) for term in self.per_datum.values()), 0)

    def signed(self, name: str) -> Tensor:
        """What a site adds to the bound for each datum: shape ``(N,)``."""
        parts = [
            term if kind == "reconstruction" else -term
            for (kind, site), term in self.per_datum.items()
            if site == name
        ]
        return torch.stack(parts).sum(0)

    def shares(self) -> Tensor:
        """What each datum adds to the bound, but for the entropies: shape ``(N,)``."""
        names = {name: None for _, name in self.per_datum}
        return torch.stack([self.signed(name) for name in names]).sum(0)

    def whole(self) -> Shares:
        """What each datum adds to the bound on TC(x), and the entropies that go with it."""
        entropies = [(found.values, found.kind, 1.0) for found in self.inputs.values()]
        told = [] if self.covariate is None else [(self.covariate, "categorical", -1.0)]
        return self.shares(), [*entropies, *told]

    @cached_property
    def covariate(self) -> Tensor | None:
        """The number of the distinct value of what the model is told, shape ``(N, 1)``.

        :raises ValueError: where that has too many values for an entropy.
        """
        return self.sight().values(self.given, self.size)

    def by_layer(self) -> list[Shares]:
        """The same for each layer of a stack, from the data upwards (Eq. 13 to 17).

        What a layer is explained with by the one above is taken off its own and given to that.
        """
        rest, entropies = self.whole()
        rest = rest - torch.stack([self.signed(name) for name in self.layers]).sum(0)
        found = []
        for name in self.layers:
            share, above = rest + self.signed(name), list[tuple[Tensor, str, float]]()
            if name in self.below:
                rest = self.below[name].log_prob
                share, above = share - rest, [(self.below[name].values, "continuous", 1.0)]
            found.append((share, [*entropies, *((x, kind, -sign) for x, kind, sign in above)]))
            entropies = above
        return found

    def matrix(self, kind: str, name: str) -> Tensor:
        """A term for each datum and dimension of one batch, in nats: shape ``(B, d)``.

        :raises ValueError: after :meth:`compact`, and for a term that is not known by datum.
        """
        return torch.stack([source.matrix(kind, name) for source in self._sources()]).mean(0)

    @property
    def draws(self) -> dict[str, Tensor]:
        """What the guide drew for each datum of one batch: latent site -> shape ``(B, m)``.

        :raises ValueError: after :meth:`compact`.
        """
        return self._sources()[0].draws()

    def _sources(self) -> tuple[Recorded, ...]:
        if not self.sources:
            raise ValueError(
                "The terms of single data and dimensions, and the draws, are known for one batch "
                "at a time: they have been let go of."
            )
        return self.sources

    def compact(self) -> Evidence:
        """The same without the terms of each dimension and the draws: for keeping many batches."""
        for source in self.sources:  # else they hold each other until Python looks for cycles
            vars(source).pop("evidence", None)
        return replace(self, sources=(), seen=self.sources[0].seen if self.sources else self.seen)

    @staticmethod
    def join(parts: Sequence[Evidence]) -> Evidence:
        """The evidence of several batches."""
        first = parts[0]
        if len(parts) == 1:
            return first
        sizes = [{(at, given.shape[1]) for at, given in part.given.items()} for part in parts]
        problems = {name: [part.inputs[name].problem for part in parts] for name in first.inputs}
        values = [{name: of.values for name, of in part.inputs.items()} for part in parts]
        return replace(
            first,
            inputs={
                name: Inputs(whole, first.inputs[name].kind, next(filter(None, problems[name]), ""))
                for name, whole in by_key(values).items()
            },
            per_datum=by_key([part.per_datum for part in parts]),
            below={
                name: Below(
                    *map(torch.cat, zip(*(part.below[name] for part in parts), strict=True))
                )
                for name in first.below
            },
            problem=next((part.problem for part in parts if part.problem), ""),
            seen=Sight.join(part.sight() for part in parts),
            given=by_key([{at: p.given[at] for at, _ in set.intersection(*sizes)} for p in parts]),
            sources=(),
        )

    @staticmethod
    def average(particles: Sequence[Evidence]) -> Evidence:
        """The evidence of several draws from the guide for the same data."""
        first = particles[0]
        if len(particles) == 1:
            return first

        def mean(values: list[Tensor]) -> Tensor:
            return torch.stack(values).mean(0)

        return replace(
            first,
            per_datum=by_key([p.per_datum for p in particles], mean),
            below={
                name: Below(below.values, mean([p.below[name].log_prob for p in particles]))
                for name, below in first.below.items()
            },
            sources=tuple(source for particle in particles for source in particle.sources),
        )


def by_key(
    parts: Sequence[Mapping[K, Tensor]], merge: Callable[[list[Tensor]], Tensor] = together
) -> dict[K, Tensor]:
    """The values of several mappings with the same keys, put together key by key."""
    return {key: merge([part[key] for part in parts]) for key in parts[0]}


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
        no_layers = self._no_layers(layers)
        inputs = {name: self._inputs(name, site) for name, site in self.observed.items()}
        return Evidence(
            inputs=inputs,
            per_datum=self._per_datum(),
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
