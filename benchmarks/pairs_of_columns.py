"""How well pairs of discrete columns can be told from 100 rows at all, by exhaustive search.

    python benchmarks/pairs_of_columns.py

Four hidden causes, two columns each, half of the entries erased and 30 % missing, as in the hardest
cell of ``benchmarks/tables.py discrete``.  All 105 ways to pair eight columns are tried under three
scores: what they find and the estimator does not, its own search for groups loses.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, chi2_contingency
from scipy.stats.contingency import crosstab
from tables import erased_copies, same_groups

from pyro_corex import CorEx

SEEDS, ROWS, STATES = range(3), 100, (2, 3, 4)


def pairings(columns: list[int]) -> list[list[tuple[int, int]]]:
    if not columns:
        return [[]]
    first, *rest = columns
    return [
        [(first, other), *others]
        for other in rest
        for others in pairings([c for c in rest if c != other])
    ]


def scores(a: NDArray[np.float64], b: NDArray[np.float64]) -> list[float]:
    """Plug-in information, the same less its bias (Miller 1955), and the log of a p-value."""
    seen = ~np.isnan(a) & ~np.isnan(b)
    counts = crosstab(a[seen], b[seen]).count
    test = chi2_contingency(counts, correction=False, lambda_="log-likelihood")
    information, n = test.statistic / (2 * counts.sum()), counts.sum()
    bias = test.dof / (2 * n)
    return [information, information - bias, -chi2.logsf(test.statistic, test.dof)]


def main() -> None:
    warnings.simplefilter("ignore")
    truth = np.arange(4).repeat(2)
    names = ["plug-in information", "less its bias", "p-values", "CorEx"]
    right = dict.fromkeys(names, 0)
    tables = [(states, seed) for states in STATES for seed in SEEDS]
    for states, seed in tables:
        x, _ = erased_copies(ROWS, 4, 2, states, 0.5, seed)
        x = x.astype(float)
        x[np.random.default_rng(seed + 1).random(x.shape) < 0.3] = np.nan
        found = np.zeros((3, 8, 8))
        for i in range(8):
            for j in range(i):
                found[:, i, j] = found[:, j, i] = scores(x[:, i], x[:, j])
        for name, score in zip(names, found, strict=False):
            best = max(pairings(list(range(8))), key=lambda p: sum(score[i, j] for i, j in p))
            groups = np.empty(8, dtype=int)
            for k, pair in enumerate(best):
                groups[list(pair)] = k
            right[name] += same_groups(groups, truth)
        corex = CorEx(4, latent="categorical", n_states=states, random_state=0).fit(x)
        right["CorEx"] += same_groups(corex.clusters_, truth)
    for name, count in right.items():
        print(f"{name}: {count} of {len(tables)} tables")


if __name__ == "__main__":
    main()
