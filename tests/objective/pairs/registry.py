"""The registry of pairs, and the parameters and data that they are made of."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor
from torch.distributions import constraints

from pyro_corex import CorExELBO

Program = Callable[..., Any]

N, D, M = 5, 4, 3  # data, input dimensions, latents: different, so that no axis passes for another


@dataclass
class Pair:
    """A model and a guide, and what their loss and its gradients must equal.

    :param reference: a class of objectives, or a function of ``args`` that computes the loss by
        hand, from the same parameters and the same random numbers.
    :param options: given to the objectives, ``CorExELBO`` and the reference.
    """

    model: Program
    guide: Program
    args: tuple[Any, ...]
    reference: type[ELBO] | Callable[..., Tensor]
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Runs the programs once, so that all parameters exist before anyone counts draws."""
        guide_trace = poutine.trace(self.guide).get_trace(*self.args)
        poutine.replay(self.model, guide_trace)(*self.args)

    def objective(self) -> CorExELBO:
        return CorExELBO(**self.options)

    def reference_loss(self) -> Tensor:
        if isinstance(self.reference, type):
            elbo = self.reference(**self.options)
            return elbo.differentiable_loss(self.model, self.guide, *self.args)
        return self.reference(*self.args)


PAIRS: dict[str, Callable[[], Pair]] = {}
LIKE_PYRO: list[str] = []  # those whose reference is one of Pyro's objectives


def pair(reference: type[ELBO] | None = None, **options: Any) -> Callable[..., Any]:
    """Registers a function that returns ``(model, guide, args)``.

    Without a ``reference`` it returns ``(model, guide, args, by_hand)``.
    """

    def register(build: Callable[[], tuple[Any, ...]]) -> Callable[[], Pair]:
        def make() -> Pair:
            model, guide, args, *by_hand = build()
            return Pair(model, guide, args, reference or by_hand[0], options)

        assert build.__name__ not in PAIRS
        PAIRS[build.__name__] = make
        if reference is not None:
            LIKE_PYRO.append(build.__name__)
        return make

    return register


# ---------------------------------------------------------------------- parameters and data


def _noise(name: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers that depend on the name only, and draw nothing from the global generator."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return 0.6 * torch.randn(shape, generator=generator)


def real(name: str, *shape: int) -> Tensor:
    """An unconstrained parameter."""
    return pyro.param(name, lambda: _noise(name, shape))


def positive(name: str, *shape: int) -> Tensor:
    """A positive parameter, near 1."""
    return pyro.param(name, lambda: _noise(name, shape).exp(), constraint=constraints.positive)


def simplex(name: str, *shape: int) -> Tensor:
    """Probabilities along the last axis."""
    return pyro.param(name, lambda: _noise(name, shape).softmax(-1), constraint=constraints.simplex)


def reals(*shape: int) -> Tensor:
    """Real data."""
    return 1.5 * _noise("data", shape)


def bits(*shape: int) -> Tensor:
    """Binary data."""
    return (_noise("bits", shape) > 0).to(torch.get_default_dtype())


def linear(x: Tensor, name: str, n_out: int) -> Tensor:
    """``x W + b`` over the last axis, with parameters of its own."""
    return x @ real(f"{name}.weight", x.shape[-1], n_out) + real(f"{name}.bias", n_out)
