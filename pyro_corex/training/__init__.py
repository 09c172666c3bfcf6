"""Training: fit, what it keeps, and where the top of a stack starts from."""

from pyro_corex.training.files import CheckpointError
from pyro_corex.training.fit import fit
from pyro_corex.training.history import History
from pyro_corex.training.start import Start, start_top
from pyro_corex.training.storage import load, save

__all__ = ["CheckpointError", "History", "Start", "fit", "load", "save", "start_top"]
