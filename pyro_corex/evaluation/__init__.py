"""Scores of what a program has learned. Labels are for scoring only."""

from pyro_corex.evaluation.bound import TCBound, tc_bound
from pyro_corex.evaluation.clustering import cluster_accuracy, contingency
from pyro_corex.evaluation.depth import Depth, Trial, choose_depth
from pyro_corex.evaluation.disentanglement import (
    DCI,
    Matching,
    beta_vae_score,
    dci,
    factor_information,
    factor_vae_score,
    matched_information,
    mutual_information_gap,
)
from pyro_corex.evaluation.sample_quality import (
    SampleQuality,
    Score,
    frechet_distance,
    sample_quality,
    train_features,
)

__all__ = [
    "DCI",
    "Depth",
    "Matching",
    "SampleQuality",
    "Score",
    "TCBound",
    "Trial",
    "beta_vae_score",
    "choose_depth",
    "cluster_accuracy",
    "contingency",
    "dci",
    "factor_information",
    "factor_vae_score",
    "frechet_distance",
    "matched_information",
    "mutual_information_gap",
    "sample_quality",
    "tc_bound",
    "train_features",
]
