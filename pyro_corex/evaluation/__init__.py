"""Scores of what a program has learned. Labels are for scoring only."""

from pyro_corex.evaluation.clustering import cluster_accuracy, contingency

__all__ = ["cluster_accuracy", "contingency"]
