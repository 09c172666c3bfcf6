import itertools

import numpy as np
import pytest
import torch

from pyro_corex.evaluation import cluster_accuracy


def test_a_relabelled_clustering_is_perfect():
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    assert cluster_accuracy(labels, torch.tensor([7, 7, 3, 5, 5, 5])) == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_matches_the_best_of_all_assignments(seed):
    rng = np.random.default_rng(seed)
    labels, clusters = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    best = max(
        np.mean(np.array(order)[clusters] == labels) for order in itertools.permutations(range(4))
    )
    assert cluster_accuracy(labels, clusters) == pytest.approx(best)


def test_clusters_without_a_class_count_as_wrong():
    assert cluster_accuracy([0, 0, 1, 1], [0, 2, 1, 1]) == 0.75


@pytest.mark.parametrize(("labels", "clusters"), [([], []), ([0, 1], [0]), ([[0]], [[0]])])
def test_refuses_what_cannot_be_matched(labels, clusters):
    with pytest.raises(ValueError, match=r"non-empty and of the same shape \(N,\), but got"):
        cluster_accuracy(labels, clusters)
