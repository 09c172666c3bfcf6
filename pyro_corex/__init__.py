"""Total Correlation Explanation in Pyro."""

from typing import TYPE_CHECKING, Any

from pyro_corex import datasets, evaluation, export, figures, information, programs, regularizers
from pyro_corex.evaluation import TCBound, choose_depth, tc_bound
from pyro_corex.export import report, to_arviz
from pyro_corex.information import AggregatePosterior
from pyro_corex.objective import CorExELBO, CorExTerms, Invariance
from pyro_corex.programs import (
    AnchorVAE,
    Bottleneck,
    CorExVAE,
    Layer,
    StackedCorEx,
    Warmup,
    anchor,
    latent_plate,
)
from pyro_corex.training import (
    Checkpoint,
    CheckpointError,
    Devices,
    History,
    Optimization,
    fit,
    fit_stack,
    load,
    save,
    start_anchors,
    start_top,
)

if TYPE_CHECKING:
    from pyro_corex.estimator import CorEx

__version__ = "0.2.0"

__all__ = [
    "AggregatePosterior",
    "AnchorVAE",
    "Bottleneck",
    "Checkpoint",
    "CheckpointError",
    "CorEx",
    "CorExELBO",
    "CorExTerms",
    "CorExVAE",
    "Devices",
    "History",
    "Invariance",
    "Layer",
    "Optimization",
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
    "fit_stack",
    "information",
    "latent_plate",
    "load",
    "programs",
    "regularizers",
    "report",
    "save",
    "start_anchors",
    "start_top",
    "tc_bound",
    "to_arviz",
]


def __getattr__(name: str) -> Any:
    """Loads the estimator when it is first asked for: scikit-learn sets filters of warnings."""
    if name == "CorEx":
        from pyro_corex.estimator import CorEx

        return CorEx
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
