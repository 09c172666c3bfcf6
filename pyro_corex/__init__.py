"""Total Correlation Explanation in Pyro."""

from pyro_corex import datasets, evaluation, export, figures, information, programs
from pyro_corex.evaluation import TCBound, choose_depth, tc_bound
from pyro_corex.export import report, to_arviz
from pyro_corex.information import AggregatePosterior
from pyro_corex.objective import CorExELBO, CorExTerms, Invariance
from pyro_corex.programs import (
    AnchorVAE,
    CorExVAE,
    Layer,
    StackedCorEx,
    Warmup,
    anchor,
    latent_plate,
)
from pyro_corex.training import CheckpointError, History, fit, load, save, start_top

__version__ = "0.1.0"

__all__ = [
    "AggregatePosterior",
    "AnchorVAE",
    "CheckpointError",
    "CorExELBO",
    "CorExTerms",
    "CorExVAE",
    "History",
    "Invariance",
    "Layer",
    "StackedCorEx",
    "TCBound",
    "Warmup",
    "anchor",
    "choose_depth",
    "datasets",
    "evaluation",
    "export",
    "figures",
    "fit",
    "information",
    "latent_plate",
    "load",
    "programs",
    "report",
    "save",
    "start_top",
    "tc_bound",
    "to_arviz",
]
