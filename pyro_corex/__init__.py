"""Total Correlation Explanation in Pyro."""

from pyro_corex.objective import CorExELBO, CorExTerms
from pyro_corex.programs import (
    AnchorVAE,
    CorExVAE,
    Layer,
    StackedCorEx,
    Warmup,
    anchor,
    latent_plate,
)

__version__ = "0.1.0"

__all__ = [
    "AnchorVAE",
    "CorExELBO",
    "CorExTerms",
    "CorExVAE",
    "Layer",
    "StackedCorEx",
    "Warmup",
    "anchor",
    "latent_plate",
]
