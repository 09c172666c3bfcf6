"""How well a discrete latent agrees with classes that it has never seen."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pyro_corex.information.checks import held


def cluster_accuracy(labels: ArrayLike | Tensor, clusters: ArrayLike | Tensor) -> float:
    """The share of data whose cluster is matched to their class, by the best one-to-one matching.

    Sec. 6.1 calls it the unsupervised classification accuracy.  The matching is the Hungarian
    method's (Kuhn 1955).

    >>> cluster_accuracy([0, 0, 1, 1], [7, 7, 3, 7])
    0.75

    :param labels: classes, shape ``(N,)``; for scoring only.
    :param clusters: cluster indices, shape ``(N,)``.
    :raises ValueError: for empty inputs, NaN, or inputs of different or more than one dimension.
    :raises TypeError: for what is neither numbers nor words.
    """
    from scipy.optimize import linear_sum_assignment  # here, as they change the warning filters
    from sklearn.metrics.cluster import contingency_matrix

    a, b = _classes(labels, "labels"), _classes(clusters, "clusters")
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise ValueError(
            "labels and clusters must be non-empty and of the same shape (N,), but got "
            f"{a.shape} and {b.shape}"
        )
    table = contingency_matrix(a, b)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / table.sum())


def _classes(value: Any, name: str) -> NDArray[Any]:
    """Numbers, or words as they are."""
    x = value if isinstance(value, Tensor) else np.asanyarray(value)
    if not isinstance(x, Tensor) and x.dtype.kind in "OSU" and x.ndim:
        return x.astype(str)
    found = held(name, x)
    if bool(found.isnan().any()):
        raise ValueError(f"{name} must have a class for each datum, but holds NaN; leave those out")
    return found.detach().cpu().numpy()
