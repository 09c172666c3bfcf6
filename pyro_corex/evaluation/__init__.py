"""Scores of what a program has learned. Labels are for scoring only."""

from pyro_corex.evaluation.bound import Bound, TCBound, tc_bound
from pyro_corex.evaluation.clustering import cluster_accuracy, contingency
from pyro_corex.evaluation.depth import Depth, Trial, choose_depth

__all__ = [
    "Bound",
    "Depth",
    "TCBound",
    "Trial",
    "choose_depth",
    "cluster_accuracy",
    "contingency",
    "tc_bound",
]
