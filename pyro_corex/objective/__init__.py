"""The CorEx bound as a Pyro objective, its terms, and regularizers beside them."""

from pyro_corex.objective.elbo import CorExELBO
from pyro_corex.objective.regularizers import Invariance
from pyro_corex.objective.terms import CorExTerms

__all__ = ["CorExELBO", "CorExTerms", "Invariance"]
