"""Training."""

from pyro_corex.training.files import CheckpointError
from pyro_corex.training.fit import fit
from pyro_corex.training.history import History
from pyro_corex.training.storage import load, save

__all__ = ["CheckpointError", "History", "fit", "load", "save"]
