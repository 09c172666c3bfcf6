"""Pyro programs: what is written with ``pyro.sample``."""

from pyro_corex.programs.anchoring import Warmup, anchor
from pyro_corex.programs.base import LogNormalEncoder
from pyro_corex.programs.bottleneck import Bottleneck
from pyro_corex.programs.gaussian_mixture import GaussianMixture
from pyro_corex.programs.ladder import LadderVAE
from pyro_corex.programs.likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    LearnedNormalLikelihood,
    Likelihood,
    NormalLikelihood,
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
from pyro_corex.programs.vamp import Vamp

__all__ = [
    "AnchorVAE",
    "BernoulliLikelihood",
    "Bottleneck",
    "CategoricalLikelihood",
    "ContinuousBernoulliLikelihood",
    "CorExVAE",
    "Flat",
    "GaussianMixture",
    "GroupedDecoder",
    "LadderVAE",
    "Layer",
    "LearnedNormalLikelihood",
    "Likelihood",
    "LinearStart",
    "LogNormalEncoder",
    "NormalLikelihood",
    "Prior",
    "StackedCorEx",
    "Vamp",
    "Warmup",
    "anchor",
    "conv_decoder",
    "conv_encoder",
    "latent_plate",
    "mlp",
    "mlp_decoder",
    "mlp_encoder",
]
