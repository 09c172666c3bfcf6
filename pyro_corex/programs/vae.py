"""One layer of continuous latents: the CorEx bound as a VAE, and AnchorVAE."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_corex.batches import argument, check_count
from pyro_corex.programs.anchoring import AnchorMessenger, check_weight
from pyro_corex.programs.base import (
    CorExProgram,
    apply_network,
    check_network,
    latents_from,
    run_network,
)
from pyro_corex.programs.checks import as_event, as_latents, check_prior
from pyro_corex.programs.likelihoods import Likelihood
from pyro_corex.programs.plates import data_plate, latent_plate
from pyro_corex.programs.priors import Prior


class CorExVAE(CorExProgram):
    r"""A factorised Gaussian encoder, a factorised decoder and a factorised prior (Eq. 10).

    Trained with :class:`~pyro_corex.CorExELBO` it maximises a lower bound on the total correlation
    that its latents explain.  Sites: the latents ``"z"`` in the plate ``"latents"``, and ``"x"``.

    :param encoder: maps a batch of x to ``2 * latent_dim`` numbers for each datum (locations and
        log-scales), to a pair (loc, scale), or to a distribution of batch shape
        ``(B, latent_dim)``, e.g. ``dist.Laplace``.
    :param decoder: maps latents of shape ``(B, latent_dim)`` to the likelihood's parameters, of
        shape ``x.shape``, or ``x.shape + (n_params,)`` if the likelihood has several.
    :param latent_dim: the number of latents, m.
    :param likelihood: "bernoulli", "continuous_bernoulli", "normal", "learned_normal", or a
        :class:`~pyro_corex.programs.likelihoods.Likelihood`.
    :param prior: "standard_normal", "learned_normal", "learned_mixture", "flat", "log_normal",
        "log_uniform", a :class:`~pyro_corex.programs.Vamp` or
        :class:`~pyro_corex.programs.GaussianMixture`, or a distribution (or a module or
        function that returns one) of batch shape ``(latent_dim,)``.
    :raises ValueError: for a prior that does not factorise, and for an unknown name; when run, for
        data or latents of another width than a network takes.
    :raises TypeError: for networks that are no modules.

    >>> from pyro_corex.programs import mlp_decoder, mlp_encoder
    >>> vae = CorExVAE(mlp_encoder([784, 400, 20]), mlp_decoder([20, 400, 784]), 20)
    >>> vae.encode(torch.zeros(5, 784)).batch_shape
    torch.Size([5, 20])

    Trained with ``SVI(vae.model, vae.guide, optim, CorExELBO())`` or :func:`~pyro_corex.fit`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        latent_dim: int,
        *,
        likelihood: str | Likelihood = "bernoulli",
        prior: str | Prior | Distribution | Callable[[], Any] = "standard_normal",
    ) -> None:
        super().__init__(likelihood)
        self.latent_dim = check_count("latent_dim", latent_dim)
        self.encoder = check_network("encoder", encoder)
        self.decoder = check_network("decoder", decoder)
        self.prior = self._make_prior(prior, latent_dim, self.encoder, self.encode)

    def model(self, x: Tensor | None = None, *, n: int = 1) -> Tensor:
        """Draws the latents from the prior and observes ``x``, or draws it as well.

        :param x: shape ``(B, ...)``, or ``None``.
        :param n: without ``x``, the number of data to draw, B.
        :returns: x, of shape ``(B, ...)``.
        :raises ValueError: for data that are no batch or cannot occur, for ``n`` together with
            ``x``, and for networks that do not fit.
        :raises TypeError: for data that are no tensor of the program's dtype.
        """
        with data_plate(self._start(x, n)):
            prior = self._prior(self.latent_dim)
            z = self._sample(prior)
            check_prior(prior, z)
            return self._observe(x, self.decode(z), z)

    def guide(self, x: Tensor) -> Tensor:
        """Draws the latents given ``x``: ``(B, ...)`` to ``(B, latent_dim)``."""
        self._check_batch(x)
        self._register()
        with data_plate(len(x)):
            return self._sample(as_latents(self.encode(x), (len(x), self.latent_dim)))

    def _sample(self, fn: Any) -> Tensor:
        if getattr(self.prior, "joint", False):  # so that its latents are one event, of one KL
            return pyro.sample("z", fn if fn.event_shape else as_event(fn)).squeeze(-2)
        with latent_plate("latents", self.latent_dim):
            return pyro.sample("z", fn)

    def encode(self, x: Tensor) -> Distribution:
        """q(z|x) for ``(B, ...)`` data: a normal, or what else the encoder gives, of batch shape
        ``(B, latent_dim)``.
        """
        out = run_network(self.encoder, argument(x, self), "The encoder")
        return latents_from(out, self.latent_dim, "The encoder")

    def decode(self, z: Tensor) -> Distribution:
        """q(x|z) for latents of shape ``(n, latent_dim)``: batch shape ``(n, ...)``, as x has.

        :raises ValueError: for another number of latents.
        """
        z = argument(z, self, "z")
        if z.shape[-1:] != (self.latent_dim,):
            raise ValueError(
                f"z must have the shape (n, {self.latent_dim}), but got {tuple(z.shape)}"
            )
        return self.likelihood(self._parameters_of_x(self._decoded(z)))

    def _decoded(self, z: Tensor) -> Any:
        return apply_network(self.decoder, z, "The decoder")


class AnchorVAE(CorExVAE):
    r"""A :class:`CorExVAE` in which chosen latents carry more: Eq. 21.

    :param anchors: latent index -> KL weight, :math:`1 - \lambda` in the paper, whose own choice
        is 0.5 on five latents.
    :param free_weight: the KL weight of all other latents.  With no anchors, this is beta-VAE.

    The other parameters are those of :class:`CorExVAE`.

    :raises ValueError: for an anchor on a latent that is not there, and a weight that is negative
        or not finite.
    :raises TypeError: for anchors that are no mapping to numbers.

    >>> from pyro_corex.programs import mlp_decoder, mlp_encoder
    >>> encoder, decoder = mlp_encoder([784, 400, 64]), mlp_decoder([64, 400, 784])
    >>> vae = AnchorVAE(encoder, decoder, 64, anchors={0: 0.5, 1: 0.5}, likelihood="normal")
    >>> vae.kl_weights[:3]
    tensor([0.5000, 0.5000, 1.0000])
    """

    kl_weights: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        latent_dim: int,
        *,
        anchors: Mapping[int, float],
        free_weight: float = 1.0,
        likelihood: str | Likelihood = "bernoulli",
        prior: str | Prior | Distribution | Callable[[], Any] = "standard_normal",
    ) -> None:
        if getattr(prior, "joint", False):
            raise ValueError(
                "prior must factorise where each latent has a KL weight, but got a joint one, with "
                f"one KL for all: {prior!r}. Take a factorised one, or CorExVAE and "
                "pc.anchor(fn, {'z': 0.5})."
            )
        super().__init__(encoder, decoder, latent_dim, likelihood=likelihood, prior=prior)
        self.register_buffer("kl_weights", torch.ones(latent_dim))
        self.set_anchors(anchors, free_weight)

    def set_anchors(self, anchors: Mapping[int, float], free_weight: float = 1.0) -> None:
        """Changes the weights; parameters, ``ValueError``, ``TypeError`` as :class:`AnchorVAE`."""
        if not isinstance(anchors, Mapping):
            raise TypeError(
                "anchors must map latent indices to KL weights, e.g. {0: 0.5}, but got "
                f"{anchors!r}"
            )
        check_weight("the free latents", free_weight)
        weights = torch.full((self.latent_dim,), float(free_weight))
        for index, weight in anchors.items():
            if not isinstance(index, Integral) or not 0 <= index < self.latent_dim:
                raise ValueError(
                    f"anchors has the latent {index!r}, but there are latents 0 to "
                    f"{self.latent_dim - 1}"
                )
            if not isinstance(weight, Real):
                raise TypeError(
                    f"The KL weight of latent {index} must be a number, but got "
                    f"{type(weight).__name__}. For a schedule, call set_anchors between steps."
                )
            check_weight(f"latent {index}", weight)
            weights[int(index)] = float(weight)
        self.anchors, self.free_weight = dict(anchors), float(free_weight)
        self.kl_weights.copy_(weights)

    def _sample(self, fn: Distribution) -> Tensor:
        with AnchorMessenger({"z": self.kl_weights}):
            return super()._sample(fn)

    def extra_repr(self) -> str:
        """What ``print`` shows of this module."""
        return f"anchors={self.anchors}"
