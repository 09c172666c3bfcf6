"""What a batch says beyond the sums of its terms: the observed values, and the terms of each datum.

A bound on TC(x) needs the entropies of the very data that the terms are from, its standard error
the terms of each datum, and a layer's share the draws of the layers.  A :class:`Batch` keeps
references to tensors that exist anyway; what they amount to, an :class:`Evidence`, is worked out
when somebody asks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_corex.objective import sites
from pyro_corex.objective.sites import Factored, Site

Axes = Mapping[str | int, int]
Key = tuple[str, str]  # the kind of a term and its site

_NOT_A_LIKELIHOOD = (
    "cross-entropy on grey values is the log-likelihood of nothing, so no bound on TC(x) could be "
    "stated. Binarise them (x > 0.5, or transform=torch.bernoulli), or use the "
    "'continuous_bernoulli' or 'normal' likelihood."
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


@dataclass(frozen=True)
class Below:
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
    """Terms in nats, summed over dimensions: shape ``(N,)``."""
    layers: tuple[str, ...]
    """The latent sites from the data upwards."""
    below: Mapping[str, Below]
    """All of them but the top."""
    no_layers: str = ""
    """Why the latents are not layers, if so."""

    @property
    def evidence(self) -> Evidence:
        """Itself: a :class:`Batch` gives one, too."""
        return self

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

    @staticmethod
    def join(parts: Sequence[Evidence]) -> Evidence:
        """The evidence of several batches."""
        first = parts[0]
        return Evidence(
            inputs={
                name: Inputs(
                    torch.cat([part.inputs[name].values for part in parts]),
                    first.inputs[name].kind,
                    next((p.inputs[name].problem for p in parts if p.inputs[name].problem), ""),
                )
                for name in first.inputs
            },
            per_datum={
                key: torch.cat([part.per_datum[key] for part in parts]) for key in first.per_datum
            },
            layers=first.layers,
            below={
                name: Below(
                    torch.cat([part.below[name].values for part in parts]),
                    torch.cat([part.below[name].log_prob for part in parts]),
                )
                for name in first.below
            },
            no_layers=first.no_layers,
        )

    @staticmethod
    def average(particles: Sequence[Evidence]) -> Evidence:
        """The evidence of several draws from the guide for the same data."""
        first = particles[0]
        if len(particles) == 1:
            return first
        return Evidence(
            inputs=first.inputs,
            per_datum={
                key: torch.stack([p.per_datum[key] for p in particles]).mean(0)
                for key in first.per_datum
            },
            layers=first.layers,
            below={
                name: Below(
                    below.values,
                    torch.stack([p.below[name].log_prob for p in particles]).mean(0),
                )
                for name, below in first.below.items()
            },
            no_layers=first.no_layers,
        )


class Detail(NamedTuple):
    """A term, or a part of it, before it is summed."""

    kind: str
    name: str
    sign: float
    value: Tensor  # batch + dims
    n_dims: int
    weight: Tensor | float  # of the guide's enumerated values; broadcasts against the batch
    axes: Axes


class Observed(NamedTuple):
    """An observed site, without its distribution, which would hold the graph."""

    value: Tensor
    support: Any
    events: int  # event dimensions that the likelihood has
    likelihood: str
    masked: bool
    delta: bool
    scale: Any
    frames: Any


class Latent(NamedTuple):
    """What the guide drew at a site."""

    value: Tensor
    events: int
    discrete: bool


@dataclass
class Batch:
    """References to the tensors of one trace; see the module's docstring."""

    data_axes: Collection[str | int] = ()
    analytic: Collection[str] = ()
    details: list[Detail] = field(default_factory=list)
    observed: dict[str, Observed] = field(default_factory=dict)
    latents: dict[str, Latent] = field(default_factory=dict)
    """In the guide's order."""
    model_order: tuple[str, ...] = ()
    below: dict[str, Factored] = field(default_factory=dict)
    """The model's log density of a latent, where it is not a detail of its own."""
    summed_out: list[str] = field(default_factory=list)
    """Labels of the terms that have no value for each datum."""
    partial: bool = False
    """Whether the trace is one of several that make up the estimate of a particle."""

    # ------------------------------------------------------------------ noting down

    def note(
        self,
        kind: str,
        name: str,
        sign: float,
        detail: Factored,
        weight: Tensor | float,
        axes: Axes,
    ) -> None:
        """Keeps a term before it is summed."""
        weight = weight.detach() if isinstance(weight, Tensor) else weight
        value, n_dims = detail
        self.details.append(Detail(kind, name, sign, value.detach(), n_dims, weight, axes))

    def note_observed(self, name: str, site: Site) -> None:
        """Keeps what was observed."""
        fn: Any = site["fn"]
        masked = site["mask"] is not None and site["mask"] is not True
        base = fn
        while hasattr(base, "base_dist") and not hasattr(base, "transforms"):
            masked = masked or hasattr(base, "_mask")
            base = base.base_dist
        self.observed[name] = Observed(
            site["value"],
            getattr(base, "support", None),
            len(getattr(fn, "event_shape", ())),
            type(base).__name__,
            masked,
            sites.is_delta(base),
            site["scale"],
            site["cond_indep_stack"],
        )

    def note_latent(self, name: str, site: Site) -> None:
        """Keeps what the guide drew."""
        fn: Any = site["fn"]
        discrete = bool(getattr(fn, "has_enumerate_support", False))
        self.latents[name] = Latent(site["value"].detach(), len(fn.event_shape), discrete)

    # ------------------------------------------------------------------ reading

    @cached_property
    def evidence(self) -> Evidence:
        """What the references amount to."""
        terms = self._per_datum()
        drawn = {d.name for d in self.details if d.kind == "kl" and self._data_dims(d.axes)}
        layers = tuple(name for name in self.latents if name in drawn)
        no_layers = self._no_layers(layers)
        return Evidence(
            inputs={name: self._inputs(name, site) for name, site in self.observed.items()},
            per_datum=terms,
            layers=layers,
            below={} if no_layers else {name: self._below(name) for name in layers[:-1]},
            no_layers=no_layers,
        )

    @property
    def _particles(self) -> int:
        frames = (frame for site in self.observed.values() for frame in site.frames)
        return next((frame.size for frame in frames if frame.name == sites.PARTICLE_PLATE), 1)

    def _complete(self) -> bool:
        return not self.partial and not self.summed_out

    def _per_datum(self) -> dict[Key, Tensor]:
        """Terms of each datum; none, where some have no value for each datum."""
        terms: dict[Key, Tensor] = {}
        if not self._complete() or any(not self._data_dims(d.axes) for d in self.details):
            return terms
        for d in self.details:
            value = d.sign * self._reduced(Factored(d.value, d.n_dims), d.weight, d.axes)
            key = (d.kind, d.name)
            terms[key] = terms[key] + value if key in terms else value
        if len({len(term) for term in terms.values()}) > 1:
            return {}
        return terms

    def _data_dims(self, axes: Axes) -> list[int]:
        return sorted(dim for axis, dim in axes.items() if axis in self.data_axes)

    def _reduced(self, detail: Factored, weight: Tensor | float, axes: Axes) -> Tensor:
        """The expectation of a term for each datum: shape ``(B,)``."""
        value = detail.total().double()
        if isinstance(weight, Tensor):
            value = (value * weight).masked_fill(weight == 0, 0.0)
        elif weight != 1.0:
            value = value * weight
        keep = self._data_dims(axes)
        drop = [dim for dim in range(-value.dim(), 0) if dim not in keep]
        if drop:
            value = value.sum(drop)
        return value.flatten() / self._particles

    def _matrix(self, value: Tensor, events: int, axes: Axes) -> Tensor:
        """Values as ``(B, d)``: the data's axes first; of particles and the like, the first."""
        data = self._data_dims(axes)
        kept = sorted(dim for axis, dim in axes.items() if axis not in self.data_axes)
        rank = value.dim() - events
        for dim in range(-rank, 0):
            if dim not in data and dim not in kept:
                value = value.narrow(dim - events, 0, 1)
        others = [dim for dim in range(-rank, 0) if dim not in data]
        order = [dim - events for dim in [*data, *others]] + list(range(-events, 0))
        value = value.permute([dim % value.dim() for dim in order])
        if not data:
            return value.flatten()[None]
        value = value.flatten(0, len(data) - 1)
        return value.reshape(len(value), -1)

    def _inputs(self, name: str, site: Observed) -> Inputs:
        detail = next((d for d in self.details if d.name == name), None)
        discrete = bool(getattr(site.support, "is_discrete", False))
        boolean = site.likelihood == "Bernoulli"
        kind = "binary" if boolean else "categorical" if discrete else "continuous"
        if detail is None or (problem := self._problem(name, site, detail)):
            problem = problem if detail else _SUMMED_OUT.format(name=name)
            return Inputs(site.value.new_empty((1, 0)), kind, problem)
        value = site.value.detach()
        value = value.expand(torch.broadcast_shapes(value.shape, detail.value.shape))
        return Inputs(self._matrix(value, detail.n_dims, detail.axes), kind)

    def _problem(self, name: str, site: Observed, detail: Detail) -> str:
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
        if site.events != detail.n_dims:
            return (
                f"The likelihood of site {name!r}, {site.likelihood}, does not factorise over its "
                "input dimensions, as Eq. 10 needs. Declare independent dimensions with "
                ".to_event() or a plate."
            )
        if not self._data_dims(detail.axes):
            return (
                f"Site {name!r} is not in a plate of data, so it is one datum, and its entropies "
                "cannot be estimated. Put it in a plate, or name the data's plate with data_plates."
            )
        plates = 1.0
        for frame in site.frames:
            full = frame.full_size
            if full is not None and frame.size not in (full, -1):
                if frame.name not in self.data_axes:
                    return (
                        f"Site {name!r} sees {frame.size} of the {full} input dimensions in the "
                        f"plate {frame.name!r}. Evaluate without the subsampling."
                    )
                plates *= full / frame.size
        scale = torch.as_tensor(site.scale / plates)
        if bool(((scale - 1).abs() > 1e-6).any()):
            return (
                f"The likelihood of site {name!r} is scaled, by poutine.scale or similar, and is "
                "then no log-likelihood. Evaluate without the scale."
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

    # ------------------------------------------------------------------ layers

    def _no_layers(self, layers: tuple[str, ...]) -> str:
        if not self._complete():
            return (
                "some sites are summed out in the model or enumerated one value at a time, and "
                "have no term of their own"
            )
        others = {d.name for d in self.details if d.kind == "kl" and d.name not in layers}
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
            if name in self.analytic:
                return f"the model draws {name!r} without regard to the latents above it"
        return ""

    def draws(self) -> dict[str, Tensor]:
        """What the guide drew for each datum: latent site -> shape ``(B, m)``."""
        axes = {d.name: d.axes for d in self.details if d.kind == "kl"}
        return {
            name: self._matrix(latent.value, latent.events, axes[name])
            for name, latent in self.latents.items()
            if name in axes and self._data_dims(axes[name])
        }

    def _below(self, name: str) -> Below:
        latent = self.latents[name]
        shares = [d for d in self.details if d.kind == "kl" and d.name == name]
        last = shares[-1]
        log_prob = self.below.get(name) or Factored(last.value, last.n_dims)
        reduced = self._reduced(log_prob, last.weight, last.axes)
        return Below(self._matrix(latent.value, latent.events, last.axes), reduced)


_SUMMED_OUT = (
    "The likelihood of site {name!r} is summed with latents that the model enumerates, so it has "
    "no value for each input dimension. Enumerate them in the guide instead."
)
