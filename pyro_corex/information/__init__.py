"""Estimators of information on plain tensors, in nats. They need PyTorch and NumPy only.

Wherever a tensor is taken, so are a NumPy array, a pandas table or column and a list of numbers;
what comes back are tensors.
"""

from pyro_corex.information.aggregate import AggregatePosterior
from pyro_corex.information.bracket import Bracket, aggregate_total_correlation
from pyro_corex.information.entropy import entropy_estimate, marginal_entropy, mean_with_entropies
from pyro_corex.information.estimate import Estimate
from pyro_corex.information.joint import JointDensity
from pyro_corex.information.linear import LinearOptimum, lead_weight, linear_optimum
from pyro_corex.information.mixture import Mixture, fit_mixture, merge_states
from pyro_corex.information.mutual_information import (
    CAP_MARGIN,
    aggregate_entropy,
    categorical_mutual_information,
    categorical_mutual_information_estimate,
    gaussian_mutual_information,
    gaussian_mutual_information_estimate,
    sampled_mutual_information,
)
from pyro_corex.information.total_correlation import (
    batch_log_weight,
    discrete_total_correlation,
    gaussian_total_correlation,
    minibatch_total_correlation,
    pairwise_total_correlation,
    sample_total_correlation,
    total_correlation,
)

__all__ = [
    "CAP_MARGIN",
    "AggregatePosterior",
    "Bracket",
    "Estimate",
    "JointDensity",
    "LinearOptimum",
    "Mixture",
    "aggregate_entropy",
    "aggregate_total_correlation",
    "batch_log_weight",
    "categorical_mutual_information",
    "categorical_mutual_information_estimate",
    "discrete_total_correlation",
    "entropy_estimate",
    "fit_mixture",
    "gaussian_mutual_information",
    "gaussian_mutual_information_estimate",
    "gaussian_total_correlation",
    "lead_weight",
    "linear_optimum",
    "marginal_entropy",
    "mean_with_entropies",
    "merge_states",
    "minibatch_total_correlation",
    "pairwise_total_correlation",
    "sample_total_correlation",
    "sampled_mutual_information",
    "total_correlation",
]
