"""What categorical layers see of a table."""

import numpy as np

from pyro_corex import CorEx
from pyro_corex.estimator.design import Design
from tests.estimator.tables import factor_table

X, _ = factor_table(60, 1, 3, 0.5, seed=0)
X[:, 1] = X[:, 1] > 0.5
X[4, 2] = np.nan


def test_numbers_count_by_their_quartiles_and_by_their_values():
    coding = CorEx(1, latent="categorical", random_state=0, cv=None).fit(X)._coding
    design = Design(coding, X)
    assert design.width.tolist() == [4, 2, 4]
    assert design.exact.width.tolist() == [60, 2, 59]
    level = design.hot.levels([0, 1, 2])
    assert np.bincount(level[:, 0]).tolist() == [15, 15, 15, 15]
    np.testing.assert_array_equal(level[:, 1], X[:, 1])
    assert level[4, 2] == -1
    values = design.values[design.exact.starts[0] + design.exact.levels([0])[:, 0]]
    np.testing.assert_allclose(values, coding.column(X, 0))
    p = np.add.reduceat(design.marginal, design.starts[:-1])
    np.testing.assert_allclose(p, 1)
    assert Design(coding, X[:, :]).exact.n == 60


def test_without_numbers_both_are_one():
    x = np.random.default_rng(0).integers(2, size=(50, 3)).astype(float)
    coding = CorEx(1, latent="categorical", random_state=0, cv=None).fit(x)._coding
    often = np.arange(50) / 10
    design = Design(coding, x, often)
    assert design.hot is design.exact
    np.testing.assert_allclose(design.marginal[1], (often * x[:, 0]).sum() / often.sum())
