"""What the ready-made programs share: hooks, the observed site, names in the param store."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Mapping, MutableMapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from pyro.nn import PyroModule
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn
from torch.distributions import Distribution, Independent
from torch.utils.weak import WeakIdKeyDictionary

from pyro_corex.batches import check_count, place_of
from pyro_corex.programs.checks import check_pyros, check_values, looked_at, warn_of_units
from pyro_corex.programs.likelihoods import (
    LearnedNormalLikelihood,
    Likelihood,
    flattened,
    make_likelihood,
)
from pyro_corex.programs.plates import latent_plate
from pyro_corex.programs.priors import Prior, check_support, factorised, make_prior
from pyro_corex.programs.vamp import Vamp

_KNOWN = ("torch.nn.", "pyro_corex.")
# whose a tensor in the param store is; one that was loaded is nobody's
_owners: MutableMapping[Tensor, weakref.ref[CorExProgram]] = WeakIdKeyDictionary()
_prefixes: MutableMapping[CorExProgram, str] = weakref.WeakKeyDictionary()


class CorExProgram(PyroModule):
    """A model and a guide over one observed site ``"x"``.

    Input dimensions and latents are plates of their own, which is how Eq. 10's factorised decoder
    and encoder are written in Pyro, and what gives each of them a term.

    Model and guide are made of ``prior()``, ``encode(x)`` and ``decode(z)``, which a subclass may
    replace.  The parameters that it adds are trained with the others.
    """

    likelihood: Likelihood
    prior: Any
    takes_x_alone = True  # of a batch of several things; a subclass that takes more sets it False

    def __init__(self, likelihood: str | Likelihood) -> None:
        super().__init__()
        self.likelihood = make_likelihood(likelihood)

    def model(self, x: Tensor | None = None, *, n: int = 1) -> Any:
        """The generative program; ``x`` of shape ``(B, ...)`` is observed.

        :param n: without ``x``, the number of data to draw.
        """
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

    def check_data(self, x: Tensor) -> None:
        """Raises ``ValueError`` where ``x``, of shape ``(B, ...)``, cannot be data of this program.

        :func:`~pyro_corex.fit` asks this once, before the data go to a device.
        """
        if not self._replaces("decode", "decode_layer"):
            self.likelihood.check(x)

    def check_units(self, x: Tensor) -> None:
        """Warns of ``x``, of shape ``(N, ...)``, whose unit a learned scale does not reach."""
        if isinstance(self.likelihood, LearnedNormalLikelihood):
            flat = x.reshape(len(x), -1)
            warn_of_units(flat, range(flat.shape[1]))

    # ------------------------------------------------------------------ for our own programs

    def _replaces(self, *hooks: str) -> bool:
        """Whether a subclass from elsewhere has a method of its own."""
        own = (getattr(type(self), hook, self.check_data).__module__ for hook in hooks)
        return not all(module.startswith("pyro_corex.") for module in own)

    def _make_prior(self, prior: Any, dim: int, encoder: nn.Module, encode: Any) -> Prior:
        if isinstance(prior, Vamp):
            return prior.bind(encode, dim)
        found = make_prior(prior, dim)
        others = any(
            isinstance(part, LogNormalEncoder) or not type(part).__module__.startswith(_KNOWN)
            for part in encoder.modules()
        )
        if not self._replaces("encode", "encode_layer") and not others:  # so it is Gaussian
            check_support(found())
        return found

    def _start(self, x: Tensor | None, n: int = 1) -> int:
        """Checks the batch, if there is one; returns the number of data, to observe or to draw."""
        if x is None:
            check_count("n", n)
        elif n != 1:
            raise ValueError(
                f"n must be left out where x is observed, since x has a number of data already, "
                f"but got {n!r}. To draw others, pass n alone."
            )
        else:
            self._check_batch(x)
        self._register()
        return n if x is None else len(x)

    def _prior(self, dim: int) -> Distribution:
        """The prior of ``dim`` latents, of batch shape ``(dim,)``."""
        found = self.prior()
        return found if isinstance(self.prior, Prior) else factorised(found, dim)

    def _parameters_of_x(self, params: Any) -> Tensor:
        """What a decoder gave, if it can be the likelihood's parameters."""
        name, n_params = type(self.likelihood).__name__, self.likelihood.n_params
        if not isinstance(params, Tensor):
            raise TypeError(
                f"The decoder must give one tensor with the parameters of {name}, but gave "
                f"{type(params).__name__}. Parameters for each input dimension are its last axis; "
                "for a distribution of your own, override decode(z) in a subclass."
            )
        if n_params > 1 and params.shape[-1] != n_params:
            raise ValueError(
                f"The decoder gives the shape {tuple(params.shape[1:])} for each datum, but {name} "
                f"needs {(*params.shape[1:], n_params)}: {n_params} parameter(s) for each input "
                "dimension, as the last axis"
            )
        return params

    def _observe(self, x: Tensor | None, fn: Any, z: Tensor, name: str = "x") -> Tensor:
        """The observed site, in the plates of the data and of the input dimensions."""
        check_pyros("decode(z)", fn)
        while isinstance(fn, Independent):
            fn = fn.base_dist
        shape = fn.batch_shape[z.dim() - 1 :]
        if fn.event_shape or not shape or (x is not None and x.shape[1:] != shape):
            wanted = "one for each input dimension" if x is None else tuple(x.shape[1:])
            events = f" and events of shape {tuple(fn.event_shape)}" if fn.event_shape else ""
            raise ValueError(
                f"The decoder gives the shape {tuple(shape)} for each datum{events}, but {name} "
                f"has the shape {wanted}: {type(fn).__name__} must have a batch shape of (B, ...) "
                f"as {name} has"
            )
        if x is not None and self._replaces("decode", "decode_layer") and looked_at(x):
            check_values(fn, x)
        with latent_plate("inputs", math.prod(shape)):
            obs = None if x is None else x.reshape(len(x), -1)
            drawn: Tensor = pyro.sample(name, flattened(fn, len(shape)), obs=obs)
        return drawn.unflatten(-1, shape) if len(shape) > 1 else drawn

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
            self.check_data(x)

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

    def _register(self) -> None:
        """Lets ``SVI`` see the parameters, under the names that ``state_dict`` gives them."""
        listeners = [
            tracer
            for tracer in _PYRO_STACK
            if isinstance(tracer, TraceMessenger) and getattr(tracer, "records_params", True)
        ]
        store = pyro.get_param_store()
        if not listeners and not len(store):
            return
        stored, own = store._params, dict(self.named_parameters())
        prefix = self._free_prefix(stored, own)
        known = all(stored.get(prefix + n, p) is p for n, p in own.items())
        trained = [prefix + n for n, p in own.items() if p.requires_grad]
        if known and all(n in each.trace.nodes for each in listeners for n in trained):
            return  # they have been told, as by the guide
        for name, parameter in own.items():
            if not parameter.requires_grad:
                continue
            full = prefix + name
            entry = stored.get(full)
            if entry is not None and entry is not parameter:
                if entry not in _owners:
                    _take_value(full, entry, parameter)
                del store[full]
                store.setdefault(full, _whole(parameter))
                _owners[parameter] = weakref.ref(self)
            if listeners:
                pyro.param(full, _whole(parameter))
                _owners.setdefault(parameter, weakref.ref(self))

    def _free_prefix(self, stored: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
        """What stands before the names: nothing, unless another program that lives has them."""
        kind = type(self).__name__
        for prefix in itertools.chain(
            [_prefixes.get(self, "")], [""], (f"{kind}_{i}." for i in itertools.count(2))
        ):
            for name, parameter in own.items():
                entry = stored.get(prefix + name)
                if entry is None or entry is parameter:
                    continue
                owner = _owners.get(entry)
                if owner is not None and owner() not in (None, self):
                    break
            else:
                break
        _prefixes[self] = prefix
        return prefix


def _whole(parameter: nn.Parameter) -> nn.Parameter:
    if not parameter.is_contiguous():  # Pyro's store would copy it
        parameter.data = parameter.data.contiguous()
    return parameter


def _take_value(name: str, entry: Tensor, parameter: nn.Parameter) -> None:
    """Copies what was loaded into the param store into the module's own parameter."""
    if entry.shape != parameter.shape:
        raise ValueError(
            f"The param store must hold {name!r} with the program's shape "
            f"{tuple(parameter.shape)}, but got {tuple(entry.shape)}. It was loaded from, or put "
            "there by, another program: call pyro.clear_param_store() first."
        )
    with torch.no_grad():
        parameter.copy_(entry)


def check_network(name: str, network: Any) -> nn.Module:
    """``network``, if it is a module and not, say, the class of one."""
    if isinstance(network, nn.Module):
        return network
    got = f"the class {network.__name__}" if isinstance(network, type) else type(network).__name__
    raise TypeError(
        f"{name} must be an nn.Module, e.g. mlp_{name}([...]), but got {got}. A class is called "
        "to make a module."
    )


def run_network(network: nn.Module, x: Tensor, name: str) -> Any:
    """What a network gives for ``x``.

    :raises ValueError: where it does not fit, saying which network it is and what it expects.
    """
    try:
        return network(x)
    except (RuntimeError, ValueError) as error:
        if (found := _misfit(network, x, name, error)) is None:
            raise
        raise ValueError(found) from error


def _misfit(network: nn.Module, x: Tensor, name: str, error: Exception) -> str | None:
    """What there is to say of an error that is about a shape."""
    text, shape = str(error), tuple(x.shape)
    if "more than 1 value per channel" in text:
        return (
            f"{name} was given a batch of the shape {shape}, but its batch normalisation needs "
            "more than one datum in training mode. Call .eval() first, or take another batch_size "
            "or a loader with drop_last=True, so that no batch is of one datum."
        )
    about_shapes = any(word in text for word in ("shape", "size", "channel", "dimension"))
    if not isinstance(error, RuntimeError) or not about_shapes or "out of memory" in text:
        return None
    first = next(
        (m for m in network.modules() if {"in_features", "in_channels"} & {*vars(m)}), None
    )
    expects = "" if first is None else f", but its first layer is {first}"
    return (
        f"{name} was given the shape {shape}{expects}. The encoder must start from the width of "
        f"the data, and the decoder from the number of latents ({text.splitlines()[0]})"
    )


def apply_network(network: nn.Module, z: Tensor, name: str) -> Any:
    """Runs a network over the last axis of ``z``, whatever axes stand before it."""
    if z.dim() <= 2:
        return run_network(network, z, name)
    out = run_network(network, z.reshape(-1, z.shape[-1]), name)
    if isinstance(out, Distribution):  # it can not be reshaped, but often its network needs none
        return run_network(network, z, name)
    if isinstance(out, (tuple, list)):
        return tuple(o.reshape(z.shape[:-1] + o.shape[1:]) for o in out)
    return out.reshape(z.shape[:-1] + out.shape[1:])


class LogNormalEncoder(nn.Module):
    r"""An encoder of log-normal latents, for positive codes as in Information Dropout.

    :math:`z = f(x)\, \varepsilon` with :math:`\ln \varepsilon \sim N(0, \alpha(x)^2)` (Achille &
    Soatto 2018) is LogNormal(ln f(x), α(x)).  Its KL is in closed form for the priors
    "log_normal" and "log_uniform".

    :param encoder: maps a batch of x to locations and log-scales, or to a pair (loc, scale), of the
        logarithm of the latents.
    :param max_scale: a limit that α(x) comes close to and does not reach; 0.7 in the paper.  Under
        the prior "log_uniform" noise without a limit is free for a latent that is not needed.
    :raises ValueError: for a limit that is not positive.
    :raises TypeError: for an encoder that is no module; when called, for one that gives others.

    >>> LogNormalEncoder(nn.Linear(6, 4))(torch.zeros(5, 6)).batch_shape
    torch.Size([5, 2])
    """

    def __init__(self, encoder: nn.Module, *, max_scale: float = math.inf) -> None:
        super().__init__()
        if not isinstance(max_scale, (int, float)) or not max_scale > 0:
            raise ValueError(f"max_scale must be a positive number, but got {max_scale!r}")
        self.encoder = check_network("encoder", encoder)
        self.max_scale = float(max_scale)

    def forward(self, x: Tensor) -> Distribution:
        """LogNormal of batch shape ``(B, m)``, for ``x`` of shape ``(B, ...)``.

        :raises TypeError: for an encoder that gives a distribution of another kind.
        """
        out = run_network(self.encoder, x, "The encoder")
        dim = out.shape[-1] // 2 if isinstance(out, Tensor) else -1
        dim = out[0].shape[-1] if isinstance(out, (tuple, list)) and len(out) else dim
        normal = latents_from(out, dim, "The encoder")
        if not isinstance(normal, dist.Normal):
            raise TypeError(
                "The encoder in a LogNormalEncoder must give locations and log-scales, but gave "
                f"{type(normal).__name__}: a program takes an encoder of that as it is"
            )
        scale = normal.scale / (1 + normal.scale / self.max_scale)
        return dist.LogNormal(normal.loc, scale, validate_args=False)

    def extra_repr(self) -> str:
        """What ``print`` shows of this module."""
        return f"max_scale={self.max_scale:g}"


def latents_from(output: Any, dim: int, name: str) -> Any:
    """The distribution that a network's output is, or the normal that it describes.

    :param output: a tensor whose last axis holds ``dim`` locations and ``dim`` log-scales, or a
        pair of locations and scales.  Log-scales are held between -12 and 8.
    """
    if isinstance(output, Distribution):
        return output
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
            f"{name} must give a tensor of locations and log-scales, the pair (loc, scale), or a "
            f"distribution, but gave {type(output).__name__}"
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
