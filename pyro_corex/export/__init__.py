"""What leaves the library: for ArviZ, and as a page to look at."""

from pyro_corex.export.arviz import to_arviz

__all__ = ["to_arviz"]
