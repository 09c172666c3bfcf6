"""What people look at."""

from pyro_corex.report.figures import (
    image_grid,
    latent_bars,
    variance_against_information,
    variance_distribution,
)
from pyro_corex.report.traversals import traversal

__all__ = [
    "image_grid",
    "latent_bars",
    "traversal",
    "variance_against_information",
    "variance_distribution",
]
