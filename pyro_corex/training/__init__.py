"""Training."""

from pyro_corex.training.fit import History, fit

__all__ = ["History", "fit"]
