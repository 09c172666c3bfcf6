"""Factor analysis."""

import numpy as np
import pytest

from pyro_corex.estimator.factors import bic, factor_analysis, without_ties


def test_factor_analysis_finds_the_model_of_an_exact_matrix():
    rng = np.random.default_rng(0)
    loadings = rng.uniform(-0.6, 0.6, (12, 2))
    psi = 1 - (loadings**2).sum(1)
    found, noise, _ = factor_analysis(loadings @ loadings.T + np.diag(psi), 2)
    np.testing.assert_allclose(found @ found.T, loadings @ loadings.T, atol=1e-3)
    np.testing.assert_allclose(noise, psi, atol=1e-3)


def test_a_factor_of_the_matrix_is_as_good_as_the_matrix():
    x = np.random.default_rng(0).standard_normal((60, 3)).repeat(30, 1)
    x += np.random.default_rng(1).standard_normal(x.shape)
    factor = ((x - x.mean(0)) / x.std(0) / np.sqrt(60)).T
    matrix = 0.9999 * factor @ factor.T + 0.0001 * np.eye(90)
    loadings, psi, _ = factor_analysis(factor, 3, 0.1)
    other, noise, _ = factor_analysis(matrix, 3, 0.1)
    np.testing.assert_allclose(loadings @ loadings.T, other @ other.T, atol=2e-3)
    np.testing.assert_allclose(psi, noise, atol=2e-3)
    found, same = (bic(corr, 60, loadings, psi) for corr in (factor, factor @ factor.T))
    assert found == pytest.approx(same)
    model = loadings @ loadings.T + np.diag(psi)
    fit = np.linalg.slogdet(model)[1] + np.trace(np.linalg.solve(model, factor @ factor.T))
    assert found == pytest.approx(60 * fit + np.log(60) * (90 * 3 - 3))


def test_ties_are_taken_out_of_correlations():
    """Columns of which one holds a 1 correlate less than normal scores can."""
    corr = np.eye(7)
    corr[:4, :4] -= 0.6 * (1 - np.eye(4))
    corr[4:, 4:] += 0.5 * (1 - np.eye(3))
    corr[0, 4] = corr[4, 0] = 0.1
    expected = corr.copy()
    expected[:4, :4] = np.eye(4)
    np.testing.assert_allclose(without_ties(corr), expected)
    assert without_ties(expected) is None
