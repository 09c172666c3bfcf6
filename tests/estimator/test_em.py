"""EM for linear-Gaussian tables with gaps."""

import numpy as np
import pytest

from pyro_corex import CorEx
from tests.estimator.tables import factor_table


def gaps(n, seed=0):
    x, truth = factor_table(n, 2, 4, 0.5, seed)
    return np.where(np.random.default_rng(1).random(x.shape) < 0.3, np.nan, x), x, truth


def test_each_step_raises_the_likelihood():
    x, _, _ = gaps(500)
    corex = CorEx(2, random_state=0).fit(x)
    elbo = [record["elbo"] for record in corex.history_]
    assert len(elbo) > 2
    assert (np.diff(elbo) > -1e-9).all()


def test_the_covariance_is_that_without_gaps():
    x, whole, _ = gaps(20_000)
    found = CorEx(2, random_state=0).fit(x).get_covariance()
    np.testing.assert_allclose(found, np.cov(whole.T), atol=0.04)


def test_forbidden_loadings_stay_zero():
    x, _, truth = gaps(2000)
    corex = CorEx(2, anchors={0: [0, 1], 1: [4]}, random_state=0).fit(x)
    np.testing.assert_allclose(corex.loadings_[[0, 1, 4], [1, 1, 0]], 0, atol=1e-9)
    assert corex.tc_ == pytest.approx(truth, rel=0.05)
