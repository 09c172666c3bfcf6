"""What the report says, as numbers and tensors, from which :mod:`.page` makes a page."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Categorical, Distribution

from pyro_corex.batches import Batch, for_program
from pyro_corex.evaluation.bound import evaluating
from pyro_corex.export.evaluated import Evaluated
from pyro_corex.figures.traversals import mean_of
from pyro_corex.information import AggregatePosterior, Bracket
from pyro_corex.programs import StackedCorEx

STEPS = 13
REACH = 3.0  # standard deviations of the aggregate posterior, to either side
IMAGES = 8
ROWS = 256  # of a table, over which decoded means are averaged

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Latents:
    """The latents of one site."""

    site: str
    layer: int
    kl: Tensor
    """Shape ``(m,)``, nats."""
    weight: Tensor
    information: Tensor
    """I(z_j : x), shape ``(m,)``, nats."""
    stderr: Tensor
    discrete: bool
    aggregate: AggregatePosterior
    total_correlation: Bracket | None
    """TC(z), where there are several latents."""

    @cached_property
    def mean(self) -> Tensor:
        """Of each marginal, shape ``(m,)``."""
        return self.aggregate.mean

    @cached_property
    def variance(self) -> Tensor:
        """Of each marginal, shape ``(m,)``."""
        return self.aggregate.variance

    @cached_property
    def anchors(self) -> list[int]:
        """The latents whose KL weight is not 1."""
        return (self.weight != 1).nonzero().flatten().tolist()


@dataclass(frozen=True)
class Traversal:
    """What one latent does to the data."""

    site: str
    latent: int | None
    """``None`` for a discrete site."""
    information: float
    positions: Sequence[str]
    frames: Tensor
    """Decoded means: shape ``(positions, rows, ...)``, the rows being data (or draws)."""


@dataclass(frozen=True)
class Content:
    """What the report says."""

    program: str
    found: Evaluated
    latents: Sequence[Latents]
    traversals: Sequence[Traversal]
    samples: dict[str, Tensor]
    """Of the prior, and of the product of the marginals: means of x for images, else draws."""
    pairs: tuple[Tensor, Tensor] | None
    """Some data, and their reconstructions: ``(n, ...)`` each."""
    notes: Sequence[str]


def gather(
    module: Any, found: Evaluated, *, images: bool, n_traversals: int, batch_size: int, seed: int
) -> Content:
    """Asks a program for what the report tells beyond the bound; a note tells what it lacks."""
    notes: list[str] = []

    def attempt(what: str, ask: Callable[[], Answer], default: Answer) -> Answer:
        try:
            return ask()
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            notes.append(f"{what}: {error}")
            return default

    latents: list[Latents] = []
    traversals: list[Traversal] = []
    samples: dict[str, Tensor] = {}
    pairs: tuple[Tensor, Tensor] | None = None
    with warnings.catch_warnings(record=True) as caught, evaluating(module, seed), torch.no_grad():
        warnings.simplefilter("always")
        what = "Of the latents only the KL is known"
        latents = attempt(what, lambda: _latents(module, found, batch_size), latents)
        if not callable(getattr(module, "decode", None)):
            notes.append("Without decode(z) there are neither traversals nor samples.")
        elif latents:
            what = "There are no reconstructions"
            pairs = attempt(what, lambda: _pairs(module, found, latents[0], images), pairs)
            what = "There are no traversals"
            traversals = attempt(
                what, lambda: _traversals(module, found, latents, images, n_traversals), traversals
            )
            what = "There are no samples"
            samples = attempt(what, lambda: _samples(module, found, latents[0], images), samples)
    notes += sorted({str(warning.message) for warning in caught})
    return Content(type(module).__name__, found, latents, traversals, samples, pairs, notes)


def _latents(module: Any, found: Evaluated, batch_size: int) -> list[Latents]:
    """The latents of each site, from the data upwards."""
    terms = found.terms
    encoded = _encode(module, _some(found.data, 1))
    sites = list(terms.evidence.layers) or list(terms.kl)
    if len(encoded) != len(sites):
        raise ValueError(f"encode gives {len(encoded)} distributions for the sites {sites}")
    made = []
    for layer, (site, q) in enumerate(zip(sites, encoded, strict=True)):
        post = AggregatePosterior.from_data(module, found.data, layer=layer, batch_size=batch_size)
        information, kl = post.mutual_information(), terms.kl[site].flatten()
        tc = None
        if len(information) > 1:
            with warnings.catch_warnings():  # the page shows both ends
                warnings.filterwarnings("ignore", "TC.z. can be bounded from above only loosely")
                tc = post.total_correlation()
        weight = terms.kl_weight[site].flatten().expand_as(kl)
        error, discrete = post.mutual_information_stderr(), isinstance(q, Categorical)
        made.append(Latents(site, layer, kl, weight, information, error, discrete, post, tc))
    return made


# ---------------------------------------------------------------------- encoding and decoding


def _encode(module: Any, data: Batch) -> list[Distribution]:
    """The distribution of each layer's latents, from the data upwards."""
    encoded = for_program(data, module, "encode").call(module.encode)
    return list(encoded) if isinstance(encoded, (list, tuple)) else [encoded]


def _decode(module: Any, z: Tensor, layer: int, x: Tensor) -> Distribution:
    """q(x|z), for latents ``(n, m)`` of a layer, 0 for the first."""
    decoded = (
        module.decode(z, layer=layer + 1) if isinstance(module, StackedCorEx) else module.decode(z)
    )
    if not isinstance(decoded, Distribution):
        raise TypeError(f"decode must give a distribution, but gave {type(decoded).__name__}")
    shape = decoded.batch_shape + decoded.event_shape
    if shape[1:].numel() != x[0].numel():
        raise ValueError(
            f"decode must give {x[0].numel()} numbers for each datum, as x has, but gave "
            f"{tuple(shape[1:])}"
        )
    return decoded


def _frames(module: Any, z: Tensor, layer: int, x: Tensor) -> Tensor:
    """Decoded means for latents of shape ``(k, n, m)``."""
    return mean_of(_decode(module, z.flatten(0, 1), layer, x)).unflatten(0, z.shape[:2])


def _some(data: Batch, number: int) -> Batch:
    """Rows that are spread over the data."""
    return data.map(lambda x: _rows(x, number))


def _rows(x: Tensor, number: int) -> Tensor:
    picked = torch.linspace(0, len(x) - 1, min(number, len(x)), device=x.device)
    return x[picked.round().long()]


# ---------------------------------------------------------------------- traversals and samples


def _traversals(
    module: Any, found: Evaluated, latents: Sequence[Latents], images: bool, number: int
) -> list[Traversal]:
    _, x = found.shown
    ranked = sorted(
        ((float(value), of, j) for of in latents for j, value in enumerate(of.information)),
        key=lambda entry: (not entry[1].discrete, -entry[0]),
    )
    start = _some(found.data, IMAGES if images else ROWS)
    encoded = _encode(module, start)
    made = []
    for information, of, j in ranked[:number]:
        if of.discrete:
            frames = _of_classes(module, of.layer, encoded[of.layer], len(start), x)
            if frames is not None:
                names = [f"state {k}" for k in range(len(frames))]
                made.append(Traversal(of.site, None, information, names, frames))
            continue
        steps = torch.linspace(-REACH, REACH, STEPS, device=x.device, dtype=x.dtype)
        z = encoded[of.layer].mean.unsqueeze(0).repeat(STEPS, 1, 1)
        z[:, :, j] = (of.mean[j] + steps * of.variance[j].sqrt())[:, None]
        names = [f"{step:+.1f} sd" for step in steps.tolist()]
        frames = _frames(module, z, of.layer, x)
        made.append(Traversal(of.site, j, information, names, frames))
    return made


def _of_classes(module: Any, layer: int, q: Distribution, rows: int, x: Tensor) -> Tensor | None:
    """The data for each class of a discrete top: draws of the layer below, of the same noise."""
    if not isinstance(module, StackedCorEx) or not isinstance(q, Categorical):
        return None
    classes = torch.arange(q.probs.shape[-1], device=q.probs.device)
    if layer == 0:
        return mean_of(module.decode(classes)).unsqueeze(1)
    below = module.given_top(classes)
    noise = torch.randn_like(below.mean[:1].repeat(rows, 1))
    return _frames(module, below.mean[:, None] + below.stddev[:, None] * noise, layer - 1, x)


def _pairs(
    module: Any, found: Evaluated, first: Latents, images: bool
) -> tuple[Tensor, Tensor] | None:
    """Some data, and what is decoded of the means of their encodings."""
    if first.discrete and not isinstance(module, StackedCorEx):
        return None
    number = IMAGES if images else ROWS
    q, x = _encode(module, _some(found.data, number))[0], _rows(found.shown[1], number)
    z = q.probs.argmax(-1) if isinstance(q, Categorical) else q.mean
    return x, mean_of(_decode(module, z, 0, x)).reshape(x.shape)


def _samples(module: Any, found: Evaluated, first: Latents, images: bool) -> dict[str, Tensor]:
    """New data from the model, and from the product of the marginals of the first layer."""
    site, x = found.shown
    like = _some(found.data, 4 * IMAGES if images else 4 * ROWS)
    shape = (len(like), *x.shape[1:])
    show: Callable[[Distribution], Tensor] = mean_of if images else (lambda fn: fn.sample())
    made: dict[str, Tensor] = {}
    if site is not None:
        trace = like.call(poutine.trace(poutine.uncondition(module.model)).get_trace)
        drawn = show(trace.nodes[site]["fn"])
        if drawn.numel() == torch.Size(shape).numel():
            made["the prior"] = drawn.reshape(shape)
    z = first.aggregate.sample(len(like))
    if isinstance(module, StackedCorEx):
        z = z[:, 0] if first.discrete else z
    if isinstance(module, StackedCorEx) or not first.discrete:
        made["the product of the marginals"] = show(_decode(module, z, 0, x))
    return made
