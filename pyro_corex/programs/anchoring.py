"""Anchoring: weights on the KL of chosen latents (Eq. 20 and 21)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.util import sum_rightmost
from pyro.nn import PyroModule
from pyro.poutine.scale_messenger import ScaleMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent, kl_divergence, register_kl

from pyro_corex.arrays import on_hand
from pyro_corex.batches import check_count

Weight = float | Tensor | Callable[[], float | Tensor]
"""A KL weight, or a function that returns the weight in force (a schedule)."""


def anchor(fn: Callable[..., Any], weights: Mapping[str, Weight]) -> Callable[..., Any]:
    r"""Weights the KL term of chosen latents: Eq. 21, with weight :math:`1 - \lambda`.

    A weight below 1 lets a latent carry more information about the data, a weight above 1 less;
    0 takes the pressure off altogether.  With one weight :math:`\beta` for every latent this is
    the beta-VAE.  Wrap the model and the guide with the *same* weights::

        weights = {"z": torch.tensor([0.5, 0.5, 1.0, 1.0])}
        svi = SVI(anchor(model, weights), anchor(guide, weights), optim, CorExELBO())

    The mapping is read whenever the program runs, so a weight can change with training without
    rebuilding anything: replace it in the mapping, write into its tensor, or give a function such
    as :class:`Warmup`.

    >>> import pyro, pyro.distributions as dist
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x, 1.0).to_event(1))
    >>> anchored = anchor(guide, {"z": torch.tensor([0.5, 1.0])})
    >>> pyro.poutine.trace(anchored).get_trace(torch.zeros(10, 2)).nodes["z"]["scale"]
    1.0

    :param fn: a model or a guide: a function, or an ``nn.Module``, which then stays one.
    :param weights: latent site -> weight: a number for the whole site, or a tensor with one weight
        per latent dimension.  For a site whose latents are event dimensions (``.to_event``) the
        tensor has the event's shape; for one whose latents are a plate it broadcasts against the
        batch shape.
    :returns: the wrapped program.
    :raises ValueError: for a weight that is negative or NaN (where that can be told without
        synchronising with a device), whose shape does not fit its site, that is not the same for
        all latents of an autoguide that draws them at once, or whose site does not
        occur.
    :raises TypeError: for ``weights`` that are not a mapping from names to weights.
    """
    if not callable(fn) or isinstance(fn, type):
        what = "a class" if isinstance(fn, type) else "not callable"
        raise TypeError(f"anchor wraps a model or a guide, but got {fn!r}, which is {what}")
    check_weights(weights)
    if isinstance(fn, torch.nn.Module):
        return _AnchoredModule(fn, weights)

    @functools.wraps(fn)
    def anchored(*args: Any, **kwargs: Any) -> Any:
        with AnchorMessenger(weights):
            return fn(*args, **kwargs)

    return anchored


class _AnchoredModule(PyroModule):
    def __init__(self, module: torch.nn.Module, weights: Mapping[str, Weight]) -> None:
        super().__init__()
        self._modules["module"] = module  # a PyroModule that has run keeps its names and context
        self.weights = weights

    def __getattr__(self, name: str) -> Any:
        if name == "module" and isinstance(self._modules[name], PyroModule):
            return self._modules[name]
        return super().__getattr__(name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with AnchorMessenger(self.weights):
            return self.module(*args, **kwargs)


_ONE_WEIGHT = (
    "weights must give one and the same number to each latent of an autoguide that draws them all "
    "at once, as {!r}, but got {}. With AutoNormal each latent can have its own."
)


class AnchorMessenger(ScaleMessenger):
    """:func:`pyro.poutine.scale` with a weight for each site, 0 allowed."""

    def __init__(self, weights: Mapping[str, Weight]) -> None:
        super().__init__(1.0)
        self.weights = weights
        self.seen: set[str] = set()  # the latent sites that the program has
        self.joint = ""  # the site at which an autoguide draws them all

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        missed = [name for name in self.weights if name not in self.seen]
        if missed and error[0] is None:
            raise ValueError(
                f"weights names {', '.join(map(repr, missed))}, but the program has no latent site "
                f"of that name. Those that it has: {sorted(self.seen)}."
            )
        if self.joint and error[0] is None and self.seen - set(self.weights):
            left = sorted(self.seen - set(self.weights))
            raise ValueError(_ONE_WEIGHT.format(self.joint, f"none for {left}"))

    def _weight_of_all(self, joint: str) -> float | Tensor:
        """The one weight of latents that an autoguide draws at once, as the site ``joint``."""
        self.joint = joint
        weights = [weight() if callable(weight) else weight for weight in self.weights.values()]
        for name, weight in zip(self.weights, weights, strict=True):
            check_weight(name, weight)
        if (
            any(isinstance(w, Tensor) and w.dim() for w in weights)
            or len(set(map(float, weights))) > 1
        ):
            raise ValueError(
                _ONE_WEIGHT.format(joint, dict(zip(self.weights, weights, strict=True)))
            )
        return weights[0]

    def _process_message(self, msg: Any) -> None:
        if msg["type"] != "sample" or msg["is_observed"] or site_is_subsample(msg):
            return
        name, fn = msg["name"], msg["fn"]
        if msg["infer"].get("is_auxiliary"):
            if self.weights and name.startswith("_") and name.endswith("_latent"):
                self.scale = self._weight_of_all(name)
                super()._process_message(msg)
                return
            # AutoNormal draws here, and at the site itself only transforms
            name = name.removesuffix("_unconstrained")
        self.seen.add(name)
        if name not in self.weights:
            return
        weight = self.weights[name]
        if callable(weight):
            weight = weight()
        check_weight(name, weight)
        if isinstance(weight, Tensor) and weight.dim():
            if getattr(fn, "event_dim", 0):
                msg["fn"] = _weight_events(name, fn, weight)
                return
            plates = sorted(f.dim for f in msg["cond_indep_stack"] if f.vectorized)
            _check_batch_weight(name, weight, plates, getattr(fn, "batch_shape", ()))
        self.scale = weight
        super()._process_message(msg)


def check_weights(weights: Mapping[str, Weight]) -> None:
    """Raises unless ``weights`` maps names to what can be KL weights."""
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"weights must map site names to KL weights, e.g. {{'z': 0.5}}, but got {weights!r}"
        )
    for name, weight in weights.items():
        if not callable(weight):
            check_weight(name, weight)


def check_weight(name: str, weight: float | Tensor) -> None:
    """Raises unless ``weight`` can be a KL weight; a tensor on a device is not looked at."""
    if isinstance(weight, Tensor):
        if not on_hand(weight):
            return
        valid = bool(((weight >= 0) & weight.isfinite()).all())
    elif isinstance(weight, Real):
        valid = bool(0 <= weight < math.inf)
    else:
        raise TypeError(
            f"The KL weight of {name!r} must be a number, a tensor or a function that returns "
            f"one, but got {type(weight).__name__}"
        )
    if not valid:
        raise ValueError(
            f"The KL weight of {name!r} must be >= 0 and finite, but got {weight}. 1 is the bound "
            "itself, less than 1 lets a latent carry more, 0 takes the pressure off."
        )


def _check_batch_weight(name: str, weight: Tensor, plates: list[int], batch: Any) -> None:
    """Raises unless a weight per latent lies on plates, never on dimensions that index data."""
    try:
        fits = torch.broadcast_shapes(weight.shape, batch)
    except RuntimeError:
        fits = None
    inside = all(dim in plates for dim in range(-weight.dim(), 0) if weight.shape[dim] > 1)
    if fits is None or not inside:
        raise ValueError(
            f"The KL weights of {name!r} have the shape {tuple(weight.shape)}, which does not fit "
            f"the site's batch shape {tuple(batch)} with plates at dimensions {plates}. Give one "
            "weight for the site, or one for each element of the plate of latents."
        )


class _WeightedEvents(dist.Independent):
    """``Independent`` whose log density weights each event dimension."""

    def __init__(self, base: Any, ndims: int, event_weight: Tensor) -> None:
        super().__init__(base, ndims, validate_args=False)
        self.event_weight = event_weight

    def expand(self, batch_shape: Any, _instance: Any = None) -> _WeightedEvents:
        ndims = self.reinterpreted_batch_ndims
        shape = torch.Size(batch_shape) + self.event_shape[:ndims]
        return _WeightedEvents(self.base_dist.expand(shape), ndims, self.event_weight)

    def log_prob(self, value: Tensor) -> Tensor:
        weighted = self.event_weight * self.base_dist.log_prob(value)
        return sum_rightmost(weighted, self.reinterpreted_batch_ndims)


@register_kl(_WeightedEvents, _WeightedEvents)
def _kl_weighted(p: _WeightedEvents, q: _WeightedEvents) -> Tensor:
    kl = p.event_weight * kl_divergence(p.base_dist, q.base_dist)
    return sum_rightmost(kl, p.reinterpreted_batch_ndims)


def _weight_events(name: str, fn: Any, weight: Tensor) -> _WeightedEvents:
    ndims = getattr(fn, "reinterpreted_batch_ndims", 0)
    if not isinstance(fn, Independent) or ndims != len(fn.event_shape):
        raise ValueError(
            f"Site {name!r} does not factorise over its event dimensions ({fn}), so they cannot "
            "have a weight each. Give one weight for the whole site."
        )
    if weight.shape != fn.event_shape:
        raise ValueError(
            f"The KL weights of {name!r} have the shape {tuple(weight.shape)}, but its latents are "
            f"event dimensions of shape {tuple(fn.event_shape)}. Give one weight for the site, or "
            "one for each event dimension."
        )
    inner = getattr(fn, "event_weight", 1.0)  # of an anchor inside of this one
    return _WeightedEvents(fn.base_dist, ndims, weight * inner)


class Warmup:
    """A KL weight that moves linearly from ``start`` to ``stop`` in ``steps`` training steps.

    A weight that starts at 0 is KL warm-up (Bowman et al. 2016), against latents that are given up
    before the decoder has learned to use them.  Give it to :func:`anchor` as a weight and call
    :meth:`step` after each training step.

    >>> weight = Warmup(0.0, 1.0, steps=4)
    >>> weight.step()
    >>> weight()
    0.25

    :raises ValueError: for weights that are negative or not finite, and ``steps`` below 1.
    :raises TypeError: for weights that are no numbers.
    """

    def __init__(self, start: float, stop: float, steps: int) -> None:
        check_weight("start", start)
        check_weight("stop", stop)
        check_count("steps", steps)
        self.start, self.stop, self.steps = start, stop, steps
        self.taken = 0
        self.place: Tensor | None = None
        """Where the weight is to be read from, while a step is recorded that is to follow it."""

    def __call__(self) -> float | Tensor:
        """The weight in force, a number."""
        return self._now() if self.place is None else self.place

    def _now(self) -> float:
        done = min(self.taken / self.steps, 1.0)
        return self.start + done * (self.stop - self.start)

    def step(self) -> None:
        """Counts one training step."""
        self.taken += 1

    def state_dict(self) -> dict[str, int]:
        """The steps counted so far, for a checkpoint."""
        return {"taken": self.taken}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Goes on from :meth:`state_dict`."""
        self.taken = int(state["taken"])

    def __repr__(self) -> str:
        return f"Warmup({self.start:g} -> {self.stop:g} in {self.steps} steps, now {self._now():g})"
