"""What leaves the library: a page to look at, and an object for ArviZ."""

from pyro_corex.export.arviz import to_arviz
from pyro_corex.export.page import report

__all__ = ["report", "to_arviz"]
