"""Figures, as plain functions that take and return matplotlib axes."""

from pyro_corex.figures.plots import (
    image_grid,
    information_plane,
    latent_bars,
    tiles,
    training_curves,
    variance_against_information,
    variance_distribution,
)
from pyro_corex.figures.tables import (
    class_profiles,
    hierarchy,
    information_map,
    latent_against_column,
    loadings,
    scree,
)
from pyro_corex.figures.traversals import traversal

__all__ = [
    "class_profiles",
    "hierarchy",
    "image_grid",
    "information_map",
    "information_plane",
    "latent_against_column",
    "latent_bars",
    "loadings",
    "scree",
    "tiles",
    "training_curves",
    "traversal",
    "variance_against_information",
    "variance_distribution",
]
