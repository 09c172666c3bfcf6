"""Estimators of information on plain tensors, in nats. They need PyTorch and NumPy only."""

from .aggregate import AggregatePosterior
from .bound import mean_with_entropies, tc_bound
from .entropy import entropy_estimate, gaussian_entropy, marginal_entropy
from .estimate import Estimate
from .mixture import Mixture, fit_mixture, merge_states
from .mutual_information import (
    CAP_MARGIN,
    aggregate_entropy,
    categorical_mutual_information,
    categorical_mutual_information_estimate,
    gaussian_mutual_information,
    gaussian_mutual_information_estimate,
    gaussian_mutual_information_stderr,
    relevance,
    sampled_mutual_information,
)
from .total_correlation import (
    aggregate_total_correlation,
    batch_log_weight,
    discrete_total_correlation,
    gaussian_total_correlation,
    minibatch_total_correlation,
    pairwise_total_correlation,
    total_correlation,
)

__all__ = [
    "CAP_MARGIN",
    "AggregatePosterior",
    "Estimate",
    "Mixture",
    "aggregate_entropy",
    "aggregate_total_correlation",
    "batch_log_weight",
    "categorical_mutual_information",
    "categorical_mutual_information_estimate",
    "discrete_total_correlation",
    "entropy_estimate",
    "fit_mixture",
    "gaussian_entropy",
    "gaussian_mutual_information",
    "gaussian_mutual_information_estimate",
    "gaussian_mutual_information_stderr",
    "gaussian_total_correlation",
    "marginal_entropy",
    "mean_with_entropies",
    "merge_states",
    "minibatch_total_correlation",
    "pairwise_total_correlation",
    "relevance",
    "sampled_mutual_information",
    "tc_bound",
    "total_correlation",
]
