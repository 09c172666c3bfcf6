"""Loadings of columns that exceed rows: shrunk as far as they are chance."""

import numpy as np
import pytest
from scipy.stats import norm

from pyro_corex import CorEx
from pyro_corex.estimator.factors import factor_analysis
from pyro_corex.estimator.rotation import varimax
from pyro_corex.estimator.shrinkage import _shrink, shrunken_loadings


def found_in(x, m):
    factor = ((x - x.mean(0)) / x.std(0) / np.sqrt(len(x))).T
    loadings, psi, _ = factor_analysis(factor, m)
    turned = loadings @ varimax(loadings)
    return turned, *shrunken_loadings(factor, turned, psi, np.full(len(psi), 0.004))[:2]


@pytest.mark.parametrize("value", [0.05, 0.4])
def test_one_loading_has_the_posterior_of_a_spike_and_a_slab(value):
    share, slab, error = 0.3, 0.2, 0.01
    found = _shrink(np.array([value]), np.array([error]), share, slab)
    grid = np.linspace(-3, 3, 60_001)
    dense = share * norm.pdf(grid, 0, slab**0.5) * norm.pdf(value, grid, error**0.5)
    dense *= grid[1] - grid[0]
    spike = (1 - share) * norm.pdf(value, 0, error**0.5)
    total = dense.sum() + spike
    mean = (grid * dense).sum() / total
    assert found.kept[0] == pytest.approx(dense.sum() / total, rel=1e-6)
    assert found.mean[0] == pytest.approx(mean, rel=1e-6)
    assert found.variance[0] == pytest.approx((grid**2 * dense).sum() / total - mean**2, rel=1e-6)


def loss(loadings, psi):
    """What a model of independent standard normal columns costs a new row, in nats."""
    model = loadings @ loadings.T + np.diag(psi)
    fit = np.linalg.slogdet(model)[1] + np.trace(np.linalg.inv(model))
    return 0.5 * (fit - len(psi))


def test_in_noise_hardly_anything_is_claimed():
    x = np.random.default_rng(0).standard_normal((60, 200))
    full, shrunken, psi = found_in(x, 3)
    unshrunken = np.maximum(1 - (full**2).sum(1), 0.004)
    assert loss(shrunken, psi) < 0.3 * loss(full, unshrunken)


def test_columns_that_depend_keep_their_loadings_and_the_others_lose_them():
    rng = np.random.default_rng(0)
    true = np.zeros((300, 3))
    true[np.arange(90), np.arange(90) % 3] = 0.75
    x = rng.standard_normal((80, 3)) @ true.T + 0.66 * rng.standard_normal((80, 300))
    full, shrunken, psi = found_in(x, 3)
    own = np.abs(shrunken[:90]).max(1)
    assert own.mean() == pytest.approx(0.75, abs=0.05)
    assert np.abs(shrunken[90:]).mean() < 0.2 * np.abs(full[90:]).mean()
    assert psi[90:].mean() == pytest.approx(1, abs=0.02)


def test_latents_that_correlate_are_found_to():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((390, 2)) + rng.standard_normal((390, 1))  # they correlate by 0.5
    x, new = np.split(z.repeat(60, 1) + rng.standard_normal((390, 120)), [90])
    corex = CorEx(2, random_state=0).fit(x)
    sample = np.corrcoef(z[:90].T)[0, 1]
    assert abs(corex.factor_correlations_[0, 1]) == pytest.approx(sample, abs=0.1)
    assert np.median(np.abs(corex.loadings_).min(1)) < 0.02
    apart = CorEx(2, rotation="varimax", random_state=0).fit(x)
    assert corex.score(new) > apart.score(new)
