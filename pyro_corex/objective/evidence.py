"""Evidence: what a batch says of the data beyond the sums of its terms.

A bound on TC(x) needs the entropies of the very data that the terms are from, its standard error
the terms of each datum, and a layer's share the draws of the layers.  An :class:`Evidence` has all
of these, of one batch or of several, and is worked out when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from pyro_corex.batches import together
from pyro_corex.objective.sight import Sight
from pyro_corex.objective.term import Term

Key = tuple[str, str]  # the kind of a term and its site
K = TypeVar("K")
Shares = tuple[Tensor, list[tuple[Tensor, str, float]]]
"""Shares of the data in nats, ``(N,)``, and triples of values, kind and sign of their entropies."""


class Source(Protocol):
    """What one draw from the guide left behind."""

    terms: Sequence[Term]
    seen: Sight | None

    def sight(self, reference: Sequence[Tensor], run: bool) -> Sight:
        """What the model's densities depend on: see :meth:`Evidence.sight`."""

    def matrix(self, kind: str, name: str) -> Tensor:
        """A term for each datum and dimension: see :meth:`Evidence.matrix`."""

    def draws(self) -> dict[str, Tensor]:
        """What the guide drew for each datum: latent site -> shape ``(B, m)``."""


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
    shared: frozenset[str] = frozenset()
    """The latent sites of whose KL each datum bears a part, smaller where more data are joined."""
    no_layers: str = ""
    """Why the latents are not layers, if so."""
    problem: str = ""
    """Why no bound can be stated, whatever the observed sites, if so."""
    sources: tuple[Source, ...] = ()
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

    def _sources(self) -> tuple[Source, ...]:
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

    def _per_datum_of(self, size: int) -> dict[Key, Tensor]:
        """``per_datum`` as a part of so many data."""
        return {
            (kind, site): value * (self.size / size) if site in self.shared else value
            for (kind, site), value in self.per_datum.items()
        }

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
            per_datum=by_key([part._per_datum_of(sum(p.size for p in parts)) for part in parts]),
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
