"""Scores of what a program has learned. Labels are for scoring only."""

from pyro_corex.evaluation.bound import TCBound, tc_bound
from pyro_corex.evaluation.clustering import cluster_accuracy
from pyro_corex.evaluation.depth import Depth, Trial, choose_depth
from pyro_corex.evaluation.disentanglement import (
    DCI,
    Matching,
    dci,
    factor_information,
    matched_information,
    mutual_information_gap,
)
from pyro_corex.evaluation.sample_quality import (
    SampleQuality,
    frechet_distance,
    sample_quality,
    train_features,
)

__all__ = [
    "DCI",
    "Depth",
    "Matching",
    "SampleQuality",
    "TCBound",
    "Trial",
    "choose_depth",
    "cluster_accuracy",
    "dci",
    "factor_information",
    "frechet_distance",
    "matched_information",
    "mutual_information_gap",
    "sample_quality",
    "tc_bound",
    "train_features",
]
