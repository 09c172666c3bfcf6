"""Pyro programs: what is written with ``pyro.sample``."""

from pyro_corex.programs.anchoring import Warmup, anchor
from pyro_corex.programs.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    LearnedNormal,
    Likelihood,
    Normal,
)
from pyro_corex.programs.networks import (
    GroupedDecoder,
    LinearStart,
    conv_decoder,
    conv_encoder,
    mlp,
    mlp_decoder,
    mlp_encoder,
)
from pyro_corex.programs.plates import latent_plate
from pyro_corex.programs.priors import Flat, Prior
from pyro_corex.programs.stacked import Layer, StackedCorEx
from pyro_corex.programs.vae import AnchorVAE, CorExVAE

__all__ = [
    "AnchorVAE",
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "CorExVAE",
    "Flat",
    "GroupedDecoder",
    "Layer",
    "LearnedNormal",
    "Likelihood",
    "LinearStart",
    "Normal",
    "Prior",
    "StackedCorEx",
    "Warmup",
    "anchor",
    "conv_decoder",
    "conv_encoder",
    "latent_plate",
    "mlp",
    "mlp_decoder",
    "mlp_encoder",
]
