"""CorEx for tables: a scikit-learn estimator, and figures of what it found."""

from pyro_corex.estimator.corex import CorEx
from pyro_corex.estimator.description import Description
from pyro_corex.estimator.goodness import GoodnessOfFit
from pyro_corex.estimator.reading import read_table
from pyro_corex.figures import hierarchy, information_map, latent_against_column

__all__ = [
    "CorEx",
    "Description",
    "GoodnessOfFit",
    "hierarchy",
    "information_map",
    "latent_against_column",
    "read_table",
]
