"""How well a discrete latent agrees with classes that it has never seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor


def cluster_accuracy(labels: ArrayLike | Tensor, clusters: ArrayLike | Tensor) -> float:
    """The share of data whose cluster is matched to their class, by the best one-to-one matching.

    Sec. 6.1 calls it the unsupervised classification accuracy.  The matching is the Hungarian
    method's (Kuhn 1955).

    >>> cluster_accuracy([0, 0, 1, 1], [7, 7, 3, 7])
    0.75

    :param labels: classes, shape ``(N,)``; for scoring only.
    :param clusters: cluster indices, shape ``(N,)``.
    :raises ValueError: for empty inputs, or inputs of different or more than one dimension.
    """
    from scipy.optimize import linear_sum_assignment  # here, as they change the warning filters
    from sklearn.metrics.cluster import contingency_matrix

    a, b = np.asarray(labels), np.asarray(clusters)
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise ValueError(
            "labels and clusters must be non-empty and of the same shape (N,), but got "
            f"{a.shape} and {b.shape}"
        )
    table = contingency_matrix(a, b)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / table.sum())
