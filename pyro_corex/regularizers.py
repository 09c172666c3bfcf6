"""Regularizers: the protocol, what a call of one is given, and those that come with the library."""

from pyro_corex.objective.regularizers import (
    Invariance,
    MutualInformation,
    Regularizer,
    Step,
    TotalCorrelation,
)

__all__ = ["Invariance", "MutualInformation", "Regularizer", "Step", "TotalCorrelation"]
