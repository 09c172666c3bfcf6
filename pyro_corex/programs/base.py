"""What the ready-made programs share."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from pyro.nn import PyroModule
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_corex.batches import place_of
from pyro_corex.programs.likelihoods import Likelihood, make_likelihood
from pyro_corex.programs.plates import latent_plate

_counter = itertools.count()


class CorExProgram(PyroModule):
    """A model and a guide over one observed site ``"x"``.

    Input dimensions and latents are plates of their own, which is how Eq. 10's factorised decoder
    and encoder are written in Pyro, and what gives each of them a term.
    """

    likelihood: Likelihood
    takes_x_alone = True  # of a batch of several things; a subclass that takes more sets it False

    def __init__(self, likelihood: str | Likelihood) -> None:
        super().__init__()
        self.likelihood = make_likelihood(likelihood)
        self._number = next(_counter)

    def model(self, x: Tensor) -> Any:
        """The generative program; ``x`` of shape ``(B, ...)`` is observed."""
        raise NotImplementedError

    def guide(self, x: Tensor) -> Any:
        """The inference program, which draws the latents given ``x``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Any:
        """``encode(x)``, for ``x`` of shape ``(B, ...)``."""
        return self.encode(x)

    def encode(self, x: Tensor) -> Any:
        """The distribution of the latents given ``x``."""
        raise NotImplementedError

    # ------------------------------------------------------------------ for subclasses

    def _observe(self, x: Tensor, params: Tensor) -> Tensor:
        """The observed site, in the plates of the data and of the input dimensions."""
        if not isinstance(params, Tensor):
            raise TypeError(
                "The decoder must give one tensor with the parameters of "
                f"{type(self.likelihood).__name__}, but gave {type(params).__name__}. Parameters "
                "for each input dimension are its last axis."
            )
        n_params = self.likelihood.n_params
        tail = () if n_params == 1 else (n_params,)
        expected = (*x.shape[1:], *tail)
        lead = params.dim() - len(expected)
        if params.shape[lead:] != torch.Size(expected):
            got = tuple(params.shape[max(lead, 1) :])
            raise ValueError(
                f"The decoder gives the shape {got} for each datum, but x "
                f"has the shape {tuple(x.shape[1:])} and {type(self.likelihood).__name__} needs "
                f"{expected}: {n_params} parameter(s) for each input dimension"
            )
        flat = x.reshape(len(x), -1)
        fn = self.likelihood(params.reshape(*params.shape[:lead], -1, *tail))
        with latent_plate("inputs", flat.shape[1]):
            return pyro.sample("x", fn, obs=flat)

    def _check_batch(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor of shape (B, ...), but got {type(x).__name__}")
        if x.dim() < 2 or not x.numel():
            raise ValueError(
                f"x must be a non-empty batch of shape (B, ...), but got {tuple(x.shape)}. "
                "A single datum is a batch of one: x.unsqueeze(0)."
            )
        if is_validation_enabled():
            self._check_dtype(x)
            self.likelihood.check(x)

    def _check_dtype(self, x: Tensor) -> None:
        dtype = place_of(self)[1] or x.dtype
        if x.is_floating_point():
            fits = x.dtype == dtype or torch.is_autocast_enabled(x.device.type)
            other = ", or convert the program with .to(x.dtype)"
        else:  # codes are for networks that look them up
            fits = any(isinstance(module, nn.Embedding) for module in self.modules())
            other = ""
        if not fits:
            raise TypeError(
                f"x has the dtype {x.dtype}, but the networks have {dtype}: pass x.to({dtype})"
                f"{other}"
            )

    def _check_encoded(self, q: Distribution, x: Tensor) -> None:
        if q.batch_shape[:-1] != (len(x),):
            raise ValueError(
                f"The encoder gives latents of batch shape {tuple(q.batch_shape)}, but a batch of "
                f"{len(x)} data needs {(len(x), *q.batch_shape[-1:])}. Flatten inputs with several "
                "axes first, as mlp_encoder does: nn.Sequential(nn.Flatten(), encoder)."
            )

    def _register(self, modules: Iterable[nn.Module]) -> None:
        """Lets ``SVI`` see the parameters, under a name that no other instance has."""
        tracers = (handler for handler in _PYRO_STACK if isinstance(handler, TraceMessenger))
        if not any(getattr(tracer, "records_params", True) for tracer in tracers):
            return  # nobody listens
        for module in modules:
            for name, parameter in module.named_parameters():
                if not parameter.requires_grad:
                    continue
                if not parameter.is_contiguous():  # Pyro's store would copy it
                    parameter.data = parameter.data.contiguous()
                full = f"{type(self).__name__}_{self._number}.{id(module)}.{name}"
                if pyro.param(full, parameter) is not parameter:  # a copy of another instance
                    self._number = next(_counter)
                    self._register(modules)
                    return


def apply_network(network: nn.Module, z: Tensor) -> Any:
    """Runs a network over the last axis of ``z``, whatever axes stand before it."""
    if z.dim() <= 2:
        return network(z)
    out = network(z.reshape(-1, z.shape[-1]))
    if isinstance(out, (tuple, list)):
        return tuple(o.reshape(z.shape[:-1] + o.shape[1:]) for o in out)
    return out.reshape(z.shape[:-1] + out.shape[1:])


def normal_from(output: Any, dim: int, name: str) -> dist.Normal:
    """The normal that a network's output describes.

    :param output: a tensor whose last axis holds ``dim`` locations and ``dim`` log-scales, or a
        pair of locations and scales.  Log-scales are held between -12 and 8.
    """
    if isinstance(output, Tensor):
        if output.shape[-1] != 2 * dim:
            raise ValueError(
                f"{name} gives {output.shape[-1]} numbers for each datum, but a Gaussian over "
                f"{dim} dimensions needs {2 * dim}: locations and log-scales, or else the pair "
                "(loc, scale)"
            )
        loc, log_scale = output.chunk(2, dim=-1)
        # a network that is not trained yet may ask for e^100 in a stack, where layers feed layers
        scale = log_scale.clamp(-12.0, 8.0).exp()
    elif not isinstance(output, (tuple, list)):
        raise TypeError(
            f"{name} must give a tensor of locations and log-scales, or the pair (loc, scale), but "
            f"gave {type(output).__name__}"
        )
    elif len(output) != 2:
        raise ValueError(f"{name} must give (loc, scale), but gave {len(output)} tensors")
    else:
        loc, scale = output
    if loc.shape[-1] != dim or scale.shape != loc.shape:
        raise ValueError(
            f"{name} gives locations of shape {tuple(loc.shape)} and scales of shape "
            f"{tuple(scale.shape)}, but both must end in {dim}"
        )
    return dist.Normal(loc, scale, validate_args=False)
