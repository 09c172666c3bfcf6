"""Regularizers: the protocol, what a call of one is given, and those that come with the library."""

from pyro_corex.objective.dependence import (
    DensityRatio,
    MinibatchTotalCorrelation,
    TotalCorrelation,
)
from pyro_corex.objective.published import (
    Capacity,
    FreeBits,
    GeneratedInformation,
    MaximumMeanDiscrepancy,
)
from pyro_corex.objective.regularizers import Invariance, MutualInformation, Regularizer, Step

__all__ = [
    "Capacity",
    "DensityRatio",
    "FreeBits",
    "GeneratedInformation",
    "Invariance",
    "MaximumMeanDiscrepancy",
    "MinibatchTotalCorrelation",
    "MutualInformation",
    "Regularizer",
    "Step",
    "TotalCorrelation",
]
