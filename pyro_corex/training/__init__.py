"""Training: fit, what it keeps, and where anchors and the top of a stack start from."""

from pyro_corex.training.anchors import AnchoredEncoder, start_anchors
from pyro_corex.training.checkpoint import Checkpoint, CheckpointError, load, save
from pyro_corex.training.fit import fit
from pyro_corex.training.history import History
from pyro_corex.training.optimization import Optimization
from pyro_corex.training.runners import Devices
from pyro_corex.training.stack import Stages, fit_stack
from pyro_corex.training.start import Start, start_top

__all__ = [
    "AnchoredEncoder",
    "Checkpoint",
    "CheckpointError",
    "Devices",
    "History",
    "Optimization",
    "Stages",
    "Start",
    "fit",
    "fit_stack",
    "load",
    "save",
    "start_anchors",
    "start_top",
]
