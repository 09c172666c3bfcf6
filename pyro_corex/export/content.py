"""What the report says, as numbers and tensors, from which :mod:`.page` makes a page."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Categorical, Distribution

from pyro_corex.evaluation import TCBound
from pyro_corex.evaluation.bound import evaluating
from pyro_corex.export.evaluated import evaluate
from pyro_corex.information import AggregatePosterior
from pyro_corex.objective import CorExTerms
from pyro_corex.programs import StackedCorEx

STEPS = 13
REACH = 3.0  # standard deviations of the aggregate posterior, to either side
IMAGES = 8
ROWS = 256  # of a table, over which decoded means are averaged


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
    variance: Tensor
    mean: Tensor
    discrete: bool
    aggregate: AggregatePosterior
    total_correlation: tuple[float, float] | None
    """TC(z) and its standard error, where there are several latents."""


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
    x: Tensor
    terms: CorExTerms
    bound: TCBound | None
    problem: str
    """Why there is no bound, if so."""
    latents: Sequence[Latents]
    traversals: Sequence[Traversal]
    samples: dict[str, Tensor]
    """Of the prior, and of the product of the marginals: means of x for images, else draws."""
    notes: Sequence[str]


def gather(
    module: Any, x: Tensor, *, images: bool, n_traversals: int, batch_size: int, seed: int
) -> Content:
    """Evaluates a program on data for the report."""
    terms, bound, problem = evaluate(module, x, batch_size=batch_size, data_plates=None, seed=seed)
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught, evaluating(module, seed), torch.no_grad():
        warnings.simplefilter("always")
        latents = _latents(module, x, terms, batch_size, notes)
        traversals: list[Traversal] = []
        samples: dict[str, Tensor] = {}
        if not callable(getattr(module, "decode", None)):
            notes.append("Without decode(z) there are neither traversals nor samples.")
        elif latents:
            traversals = _traversals(module, x, latents, images, n_traversals)
            samples = _samples(module, x, terms, latents[0], images)
    notes += sorted({str(warning.message) for warning in caught})
    return Content(
        type(module).__name__, x, terms, bound, problem, latents, traversals, samples, notes
    )


def _latents(
    module: Any, x: Tensor, terms: CorExTerms, batch_size: int, notes: list[str]
) -> list[Latents]:
    """The latents of each site, from the data upwards; none, with a note, where they are opaque."""
    try:
        encoded = module.encode(x[:1])
        of_layers = encoded if isinstance(encoded, (list, tuple)) else [encoded]
        sites = list(terms.evidence.layers) or list(terms.kl)
        if len(of_layers) != len(sites):
            raise ValueError(f"encode gives {len(of_layers)} distributions for the sites {sites}")
        return [
            _one_site(
                site,
                layer,
                isinstance(q, Categorical),
                AggregatePosterior.from_data(module, x, layer=layer, batch_size=batch_size),
                terms,
            )
            for layer, (site, q) in enumerate(zip(sites, of_layers, strict=True))
        ]
    except (AttributeError, TypeError, ValueError) as error:
        notes.append(f"Of the latents only the KL is known: {error}")
        return []


def _one_site(
    site: str, layer: int, discrete: bool, aggregate: AggregatePosterior, terms: CorExTerms
) -> Latents:
    information = aggregate.mutual_information()
    tc = None
    if len(information) > 1:
        tc = (aggregate.total_correlation(), aggregate.total_correlation_stderr())
    kl = terms.kl[site].flatten()
    return Latents(
        site=site,
        layer=layer,
        kl=kl,
        weight=terms.kl_weight[site].flatten().expand_as(kl),
        information=information,
        stderr=aggregate.mutual_information_stderr(),
        variance=aggregate.variance,
        mean=aggregate.mean,
        discrete=discrete,
        aggregate=aggregate,
        total_correlation=tc,
    )


# ---------------------------------------------------------------------- traversals


def _traversals(
    module: Any, x: Tensor, latents: Sequence[Latents], images: bool, number: int
) -> list[Traversal]:
    ranked = sorted(
        (
            (float(value), found, j)
            for found in latents
            for j, value in enumerate(found.information)
        ),
        key=lambda entry: (not entry[1].discrete, -entry[0]),
    )
    start = _some(x, IMAGES if images else ROWS)
    encoded = module.encode(start)
    of_layers = encoded if isinstance(encoded, (list, tuple)) else [encoded]
    made = []
    for information, found, j in ranked[:number]:
        if found.discrete:
            frames = _of_classes(module, found.layer, of_layers[found.layer], len(start))
            if frames is not None:
                names = [f"state {k}" for k in range(len(frames))]
                made.append(Traversal(found.site, None, information, names, frames))
            continue
        steps = torch.linspace(-REACH, REACH, STEPS, device=x.device, dtype=x.dtype)
        values = found.mean[j] + steps * found.variance[j].sqrt()
        z = of_layers[found.layer].mean.unsqueeze(0).repeat(STEPS, 1, 1)
        z[:, :, j] = values[:, None]
        frames = _decode(module, z, found.layer)
        names = [f"{step:+.1f} sd" for step in steps.tolist()]
        made.append(Traversal(found.site, j, information, names, frames))
    return made


def _of_classes(module: Any, layer: int, q: Distribution, rows: int) -> Tensor | None:
    """The data for each class of a discrete top: draws of the layer below, of the same noise."""
    if not isinstance(module, StackedCorEx) or not isinstance(q, Categorical):
        return None
    classes = torch.arange(q.probs.shape[-1], device=q.probs.device)
    if layer == 0:
        return mean_of(module.decode(classes)).unsqueeze(1)
    below = module.given_top(classes)
    noise = torch.randn_like(below.mean[:1].repeat(rows, 1))
    return _decode(module, below.mean[:, None] + below.stddev[:, None] * noise, layer - 1)


def _decode(module: Any, z: Tensor, layer: int) -> Tensor:
    """Means for latents of shape ``(k, n, m)``."""
    flat = z.flatten(0, 1)
    stacked = isinstance(module, StackedCorEx)
    decoded = module.decode(flat, layer=layer + 1) if stacked else module.decode(flat)
    return mean_of(decoded).unflatten(0, z.shape[:2])


def mean_of(fn: Distribution) -> Tensor:
    """The mean; of states, as numbers, for a categorical."""
    if isinstance(fn, Categorical):
        states = torch.arange(fn.probs.shape[-1], device=fn.probs.device, dtype=fn.probs.dtype)
        return fn.probs @ states
    mean: Tensor = fn.mean
    return mean


def _some(x: Tensor, number: int) -> Tensor:
    """Rows that are spread over the data."""
    picked = torch.linspace(0, len(x) - 1, min(number, len(x)), device=x.device)
    return x[picked.round().long()]


# ---------------------------------------------------------------------- samples


def _samples(
    module: Any,
    x: Tensor,
    terms: CorExTerms,
    first: Latents,
    images: bool,
) -> dict[str, Tensor]:
    """New data from the model, and from the product of the marginals of the first layer."""
    like = _some(x, 4 * IMAGES if images else 4 * ROWS)
    show: Callable[[Distribution], Tensor] = mean_of if images else (lambda fn: fn.sample())
    found: dict[str, Tensor] = {}
    observed = list(terms.reconstruction)
    if len(observed) == 1:
        trace = poutine.trace(poutine.uncondition(module.model)).get_trace(like)
        drawn = show(trace.nodes[observed[0]]["fn"])
        if drawn.numel() == like.numel():
            found["the prior"] = drawn.reshape(like.shape)
    z = first.aggregate.sample(len(like))
    if isinstance(module, StackedCorEx):
        z = z[:, 0] if first.discrete else z
        found["the product of the marginals"] = show(module.decode(z, layer=1))
    elif not first.discrete:
        found["the product of the marginals"] = show(module.decode(z))
    return found
