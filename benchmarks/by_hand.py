"""The losses of the benchmarked programs, with nothing but PyTorch, and pythae's models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional

import pyro_corex as pc


def vae_loss(vae: pc.CorExVAE, x: Tensor) -> Tensor:
    """Minus the bound of a ``CorExVAE`` with a Bernoulli likelihood."""
    loc, log_scale = vae.encoder(x).chunk(2, dim=-1)
    scale = log_scale.exp()
    z = loc + scale * torch.randn_like(loc)
    reconstruction = functional.binary_cross_entropy_with_logits(vae.decoder(z), x, reduction="sum")
    kl = 0.5 * (loc.square() + scale.square() - 1).sum() - log_scale.sum()
    return reconstruction + kl


def anchor_loss(vae: pc.AnchorVAE, x: Tensor) -> Tensor:
    """Minus the objective of an ``AnchorVAE`` with a Bernoulli likelihood."""
    loc, log_scale = vae.encoder(x).chunk(2, dim=-1)
    scale = log_scale.exp()
    z = loc + scale * torch.randn_like(loc)
    reconstruction = functional.binary_cross_entropy_with_logits(vae.decoder(z), x, reduction="sum")
    kl = 0.5 * (loc.square() + scale.square() - 1) - log_scale
    return reconstruction + (kl.sum(0) * vae.kl_weights).sum()


def stack_loss(stack: pc.StackedCorEx, x: Tensor) -> Tensor:
    """Minus the bound of the two-layer stack, its discrete top summed over."""
    loc, log_scale = stack.encoders[0](x).chunk(2, dim=-1)
    scale = log_scale.exp()
    z = loc + scale * torch.randn_like(loc)
    log_q = functional.log_softmax(stack.encoders[1](z), dim=-1)
    q = log_q.exp()
    classes = torch.eye(stack.dims[-1], device=x.device)
    prior_loc, prior_log_scale = stack.decoders[1](classes).chunk(2, dim=-1)
    prior = Normal(prior_loc, prior_log_scale.exp(), validate_args=False)
    log_prior = functional.log_softmax(stack.prior.logits, dim=-1)
    log_p = prior.log_prob(z.unsqueeze(1)).sum(-1) + log_prior
    log_q1 = Normal(loc, scale, validate_args=False).log_prob(z).sum()
    reconstruction = -functional.binary_cross_entropy_with_logits(
        stack.decoders[0](z), x, reduction="sum"
    )
    return -(reconstruction + (q * (log_p - log_q)).sum() - log_q1)


def pythae_model(vae: pc.CorExVAE, shape: tuple[int, ...], tc_weight: float) -> Any:
    """pythae's ``VAE``, or its ``BetaTCVAE``, around the networks of ``vae``."""
    from pythae.models import VAE, BetaTCVAE, BetaTCVAEConfig, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = vae.encoder

        def forward(self, x: Tensor) -> ModelOutput:
            loc, log_scale = self.network(x).chunk(2, dim=-1)
            return ModelOutput(embedding=loc, log_covariance=2 * log_scale)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Sequential(vae.decoder, nn.Sigmoid())

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.network(z))

    options = {
        "input_dim": shape, "latent_dim": vae.latent_dim, "reconstruction_loss": "bce",
    }  # fmt: skip
    if tc_weight:
        config = BetaTCVAEConfig(**options, beta=1 + tc_weight)
        return BetaTCVAE(config, encoder=Encoder(), decoder=Decoder())
    return VAE(VAEConfig(**options), encoder=Encoder(), decoder=Decoder())
