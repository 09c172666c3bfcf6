"""CorEx for tables: a scikit-learn estimator, and figures of what it found."""

from pyro_corex.estimator.corex import CorEx
from pyro_corex.estimator.figures import hierarchy, information_map, latent_against_column

__all__ = ["CorEx", "hierarchy", "information_map", "latent_against_column"]
