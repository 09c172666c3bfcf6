r"""Stacked layers of latents, each for the dependence left in the layer below: Sec. 5 and 6.1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_corex.batches import argument, check_count
from pyro_corex.programs.anchoring import AnchorMessenger, Weight, check_weights
from pyro_corex.programs.base import (
    CorExProgram,
    apply_network,
    check_network,
    latents_from,
    run_network,
)
from pyro_corex.programs.checks import as_latents, check_prior
from pyro_corex.programs.likelihoods import Likelihood
from pyro_corex.programs.networks import mlp, mlp_decoder, mlp_encoder
from pyro_corex.programs.plates import data_plate, latent_plate
from pyro_corex.programs.priors import LearnedCategorical, Prior


@dataclass(frozen=True)
class Layer:
    """One layer of a :class:`StackedCorEx`: the networks between it and the layer below.

    :param encoder: from the layer below (x for the first) to ``2 * dim`` numbers for each datum,
        locations and log-scales, or to ``dim`` logits for a discrete layer.
    :param decoder: back again: to the likelihood's parameters for the first layer, to locations
        and log-scales of the layer below for the others.
    :param dim: the number of latents, or of classes for a discrete layer.
    :raises TypeError: for networks that are no modules.
    """

    encoder: nn.Module
    decoder: nn.Module
    dim: int

    def __post_init__(self) -> None:
        check_network("encoder", self.encoder)
        check_network("decoder", self.decoder)


class StackedCorEx(CorExProgram):
    r"""Layers of latents with a factorised guide and model in each (Eq. 18).

    Sites: ``"z1"``, ``"z2"``, … from the data upwards, each in a plate ``"latents_1"``, … of its
    own, and ``"x"``.  A discrete top is one categorical site, marked for exact enumeration.

    :param layers: from the data upwards.  Each is a :class:`Layer`, or the sizes of a fully
        connected network from the layer below, ReLU between, with a mirrored decoder.
    :param likelihood: see :class:`~pyro_corex.CorExVAE`.
    :param n_classes: if a number, the last of ``layers`` is discrete and has that many classes; if
        ``None``, all layers are continuous.
    :param prior: of the top layer.  A discrete top has learned class probabilities.
    :param anchors: KL weights of whole layers or of their latents, e.g. ``{"z2": 0.5}``: see
        :func:`~pyro_corex.anchor`.
    :raises ValueError: for layers that do not start where the one below ends, another number of
        outputs than classes, a ``prior`` for a discrete top, and weights out of range.
    :raises TypeError: for weights that are none.

    The paper's MNIST network (Sec. 6.1):

    >>> stack = StackedCorEx([(784, 512, 512, 64), (64, 32, 32, 16, 16, 10)])
    >>> [tuple(q.batch_shape) for q in stack.encode(torch.zeros(5, 784))]
    [(5, 64), (5,)]
    """

    def __init__(
        self,
        layers: Sequence[Layer | Sequence[int]],
        *,
        likelihood: str | Likelihood = "bernoulli",
        n_classes: int | None = 10,
        prior: str | Prior | Distribution | Callable[[], Any] = "standard_normal",
        anchors: Mapping[str, Weight] | None = None,
    ) -> None:
        super().__init__(likelihood)
        given = layers if isinstance(layers, Sequence) else ()
        if not given or not all(isinstance(e, (Layer, list, tuple)) and e for e in given):
            raise ValueError(
                "layers must be a non-empty sequence of layers, e.g. [(784, 512, 64), (64, 32, 10)]"
                f", but got {layers!r}"
            )
        if n_classes is not None and (not isinstance(n_classes, int) or n_classes < 2):
            raise ValueError(f"n_classes must be None or an integer >= 2, but got {n_classes!r}")
        if n_classes is not None and prior != "standard_normal":
            raise ValueError(
                f"prior={prior!r} is for a continuous top layer, but n_classes={n_classes} makes "
                "the top discrete: its class probabilities are learned. Leave prior out, or pass "
                "n_classes=None."
            )
        if getattr(prior, "joint", False):
            raise ValueError(
                f"prior must factorise in a StackedCorEx, but got a joint one: {prior!r}. Leave "
                "joint out of a Vamp; for classes, let the top be discrete (n_classes=10)."
            )
        _check_chain(layers)
        self.n_classes = n_classes
        self.anchors = {} if anchors is None else anchors
        self.dims = [entry.dim if isinstance(entry, Layer) else entry[-1] for entry in layers]
        for i, dim in enumerate(self.dims, 1):
            check_count(f"The size of layer {i}", dim)
        built = [self._build(i, layer) for i, layer in enumerate(layers, 1)]
        if n_classes is not None and self.dims[-1] != n_classes:
            raise ValueError(
                f"The top layer has {self.dims[-1]} outputs, but n_classes={n_classes} makes it "
                "discrete. Make them equal, or pass n_classes=None for continuous layers only."
            )
        self.encoders = nn.ModuleList([b.encoder for b in built])
        self.decoders = nn.ModuleList([b.decoder for b in built])
        check_weights(self.anchors)
        for name in self.anchors:
            if name not in [f"z{i}" for i in range(1, len(built) + 1)]:
                raise ValueError(f"anchors names {name!r}, but the layers are z1 to z{len(built)}")
        self.prior: Prior = (
            self._make_prior(
                prior, self.dims[-1], built[-1].encoder, partial(self.encode_layer, self.n_layers)
            )
            if n_classes is None
            else LearnedCategorical(n_classes)
        )

    def _build(self, index: int, layer: Layer | Sequence[int]) -> Layer:
        if isinstance(layer, Layer):
            return layer
        *inner, outer = down = layer[::-1]
        discrete = self._is_discrete(index)
        encoder = nn.Sequential(nn.Flatten(), *mlp(layer)) if discrete else mlp_encoder(layer)
        n_params = self.likelihood.n_params
        decoder = mlp_decoder(down, n_params) if index == 1 else mlp([*inner, 2 * outer])
        return Layer(encoder, decoder, layer[-1])

    def _arguments(self) -> dict[str, Any]:
        parts = zip(self.encoders, self.decoders, self.dims, strict=True)
        prior = self.prior if self.n_classes is None else "standard_normal"
        return {"layers": [Layer(*part) for part in parts], "prior": prior}

    @property
    def n_layers(self) -> int:
        """The number of layers of latents."""
        return len(self.dims)

    def _is_discrete(self, layer: int) -> bool:
        return self.n_classes is not None and layer == self.n_layers

    # ------------------------------------------------------------------ the programs

    def guide(self, x: Tensor) -> Tensor:
        """Draws z1 given ``x``, z2 given z1, and so on; returns the top layer.

        ``(B, ...)`` to ``(B, m_L)``; a discrete top is one column of classes.
        """
        self._check_batch(x)
        self._register()
        with data_plate(len(x)), AnchorMessenger(self.anchors):
            below = x
            for layer, dim in enumerate(self.dims, 1):
                lead = x.shape[:1] if layer == 1 else below.shape[:-1]
                shape = (*lead, 1 if self._is_discrete(layer) else dim)
                below = self._sample(layer, as_latents(self.encode_layer(layer, below), shape))
        return below

    def model(self, x: Tensor | None = None, *, n: int = 1) -> Tensor:
        """Draws the layers from the top down and observes ``x``, or draws it as well.

        :param x: shape ``(B, ...)``, or ``None``.
        :param n: without ``x``, the number of data to draw, B.
        :returns: x, of shape ``(B, ...)``.
        :raises ValueError: for data that are no batch or cannot occur, for ``n`` together with
            ``x``, and for networks that do not fit.
        :raises TypeError: for data that are no tensor of the program's dtype.
        """
        with data_plate(self._start(x, n)), AnchorMessenger(self.anchors):
            prior = self._prior(1 if self.n_classes is not None else self.dims[-1])
            z = self._sample(self.n_layers, prior)
            check_prior(prior, z)
            for layer in range(self.n_layers, 1, -1):
                z = self._sample(layer - 1, self.decode_layer(layer, z))
            return self._observe(x, self.decode_layer(1, z), z)

    def _sample(self, layer: int, fn: Distribution) -> Tensor:
        name = f"z{layer}"
        if self._is_discrete(layer):
            return pyro.sample(name, fn, infer={"enumerate": "parallel"})
        with latent_plate(f"latents_{layer}", self.dims[layer - 1]):
            return pyro.sample(name, fn, infer={"analytic_kl": self._closed_form(layer)})

    def _closed_form(self, layer: int) -> bool:
        # In the model z1 depends on z2, which the guide draws from z1: its KL has to be sampled.
        return layer == self.n_layers

    def encode_layer(self, layer: int, below: Tensor) -> Distribution:
        """q(z^(l)|z^(l-1)), of which the guide is made; a subclass may replace it.

        :param layer: 1 for the first, whose ``below`` is x.
        :param below: shape ``(B, m_(l-1))``, or of x.
        :returns: batch shape ``(B, m_l)``; of a discrete top ``(B, 1)``.
        :raises ValueError: for what is below of another width than the encoder takes.
        """
        self._check_layer(layer)
        network, dim = self.encoders[layer - 1], self.dims[layer - 1]
        name = f"The encoder of layer {layer}"
        out = (run_network if layer == 1 else apply_network)(network, below, name)
        if self._is_discrete(layer):
            if out.shape[-1] != dim:
                raise ValueError(
                    f"{name} gives {out.shape[-1]} logits for each datum, but there are {dim} "
                    "classes"
                )
            return dist.Categorical(logits=out.unsqueeze(-2), validate_args=False)
        return latents_from(out, dim, name)

    def decode_layer(self, layer: int, z: Tensor) -> Distribution:
        """q(z^(l-1)|z^(l)), of which the model is made; a subclass may replace it.

        :param layer: that of ``z``; what is below the first is x.
        :param z: shape ``(B, m_l)``; classes of a discrete top have the shape ``(B, 1)``.
        :returns: batch shape ``(B, m_(l-1))``, or ``(B, ...)`` as x has.
        :raises ValueError: for latents of another width than the decoder takes.
        """
        self._check_layer(layer)
        name = f"The decoder of layer {layer}"
        out = apply_network(self.decoders[layer - 1], self._as_vector(layer, z), name)
        if layer == 1:
            return self.likelihood(self._parameters_of_x(out))
        return latents_from(out, self.dims[layer - 2], name)

    def _as_vector(self, layer: int, z: Tensor) -> Tensor:
        """``z`` with its latents as the last axis; classes become one-hot vectors."""
        if not self._is_discrete(layer):
            return z
        classes = torch.arange(self.dims[layer - 1], device=z.device)
        # z ends in an axis of size 1, where the other layers have their latents
        return (z == classes).to(self.prior.logits.dtype)  # type: ignore[arg-type]

    # ------------------------------------------------------------------ up and down

    def encode(self, x: Tensor, *, sample: bool = False) -> list[Distribution]:
        """q(z^(l)|x) of each layer, from the data upwards.

        :param x: shape ``(B, ...)``.
        :param sample: condition each layer on a draw of the layer below rather than its mean, as
            the guide does.  Information about a layer needs that: at the mean an upper layer is
            told the layer below without its noise.
        :returns: normals of batch shape ``(B, m_l)``; a discrete top is a categorical of batch
            shape ``(B,)``.
        """
        found: list[Distribution] = []
        below = argument(x, self)
        for layer in range(1, self.n_layers + 1):
            q = self.encode_layer(layer, below)
            if self._is_discrete(layer):
                q = dist.Categorical(logits=q.logits.squeeze(-2), validate_args=False)  # type: ignore[attr-defined]
            else:
                below = q.rsample() if sample else q.mean
            found.append(q)
        return found

    def encode_with_draws(self, x: Tensor) -> list[Distribution]:
        """:meth:`encode` at draws, by which :class:`~pyro_corex.AggregatePosterior` encodes data.

        :param x: shape ``(B, ...)``.
        :returns: as :meth:`encode`, over ``(B, m_l)``.
        """
        return self.encode(x, sample=True)

    def decode(self, z: Tensor, *, layer: int | None = None) -> Distribution:
        """q(x|z) for latents of one layer, at the mean of the layers in between.

        :param z: shape ``(n, m_l)``, or ``(n,)`` classes of a discrete top.
        :param layer: the layer of ``z``, 1 for the first; the top by default.
        :returns: a distribution of batch shape ``(n, ...)``, as x has.
        :raises ValueError: for a layer, a number of latents or a class that is not there.
        """
        layer = self.n_layers if layer is None else layer
        z = self._checked(layer, z)
        while layer > 1:
            z = self.decode_layer(layer, z).mean
            layer -= 1
        return self.decode_layer(1, z)

    def _check_layer(self, layer: int) -> None:
        if layer not in range(1, self.n_layers + 1):
            raise ValueError(f"layer must be 1 to {self.n_layers}, but got {layer!r}")

    def _checked(self, layer: int, z: Tensor) -> Tensor:
        """The latents of a layer, classes with an axis of size 1, if they can be that."""
        self._check_layer(layer)
        discrete, dim = self._is_discrete(layer), self.dims[layer - 1]
        z = argument(z, self, "z", least=1)
        z = z.unsqueeze(-1) if discrete and z.dim() == 1 else z
        if z.shape[-1:] != (1 if discrete else dim,):
            shape = "(n,), a class each" if discrete else f"(n, {dim})"
            raise ValueError(
                f"z of layer {layer} must have the shape {shape}, but got {tuple(z.shape)}"
            )
        if discrete and not bool(torch.isin(z, torch.arange(dim, device=z.device)).all()):
            raise ValueError(
                f"z must hold classes from 0 to {dim - 1}, but holds "
                f"{float(z.min()):g} to {float(z.max()):g}"
            )
        return z

    def given_top(self, z: Tensor) -> Distribution:
        """q(z^(L-1)|z^(L)): what the model draws below the top layer (Sec. 6.1, Fig. 3).

        :param z: shape ``(n, m_L)``, or ``(n,)`` classes of a discrete top.
        :returns: a normal of batch shape ``(n, m_(L-1))``.
        :raises ValueError: for a stack of one layer, and latents that are not there.
        """
        if self.n_layers < 2:
            raise ValueError("given_top needs at least two layers; see decode")
        return self.decode_layer(self.n_layers, self._checked(self.n_layers, z))

    def extra_repr(self) -> str:
        """What ``print`` shows of this module."""
        top = f", {self.n_classes} classes on top" if self.n_classes is not None else ""
        return f"layers={self.dims}{top}"


def _check_chain(layers: Sequence[Layer | Sequence[int]]) -> None:
    for i, (below, above) in enumerate(pairwise(layers), 1):
        size = below.dim if isinstance(below, Layer) else below[-1]
        if not isinstance(above, Layer) and above[0] != size:
            raise ValueError(
                f"Layer {i} has {size} latents, but layer {i + 1} starts from {above[0]}. Each "
                "layer starts where the one below ends, e.g. [(784, 512, 64), (64, 32, 10)]."
            )
