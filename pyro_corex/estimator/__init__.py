"""CorEx for tables, after scikit-learn's conventions."""

from pyro_corex.estimator.corex import CorEx

__all__ = ["CorEx"]
