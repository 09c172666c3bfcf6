"""The CorEx bound as a Pyro objective, and its terms."""

from pyro_corex.objective.elbo import CorExELBO
from pyro_corex.objective.invariance import Invariance
from pyro_corex.objective.terms import CorExTerms

__all__ = ["CorExELBO", "CorExTerms", "Invariance"]
