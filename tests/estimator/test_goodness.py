"""Fit and reliability, against closed forms and computations written independently."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from pyro_corex import CorEx
from pyro_corex.estimator import GoodnessOfFit
from tests.estimator.tables import factor_table

LOADINGS = np.array([0.8, 0.7, -0.6, 0.5])
PSI = 1 - LOADINGS**2
Z = np.random.default_rng(0).standard_normal((4000, 5))
X = Z[:, :1] * LOADINGS + Z[:, 1:] * np.sqrt(PSI)
ONE = CorEx(1, cv=None).fit(X)


def test_omega_and_alpha_of_one_factor():
    total = np.abs(LOADINGS).sum() ** 2
    assert ONE.omega_[0] == pytest.approx(total / (total + PSI.sum()), abs=0.02)
    turned = X * np.sign(LOADINGS) / X.std(0)
    alpha = 4 / 3 * (1 - turned.var(0).sum() / turned.sum(1).var())
    assert ONE.alpha_[0] == pytest.approx(alpha)
    gaps = np.where(np.random.default_rng(1).random(X.shape) < 0.1, np.nan, X)
    assert CorEx(1, cv=None).fit(gaps).alpha_[0] == pytest.approx(alpha, abs=0.01)


def test_they_are_of_levels_as_people_add_them_up():
    answers = np.digitize(X, [-1, 0, 1]).astype(float)
    turned = (answers * np.sign(LOADINGS)) / answers.std(0)
    alpha = 4 / 3 * (1 - 4 / turned.sum(1).var())
    corex = CorEx(1, cv=None, max_iter=20, tol=9.0, random_state=0).fit(answers)
    assert corex.alpha_[0] == pytest.approx(alpha)
    score = (answers * np.sign(LOADINGS) / answers.std(0)).sum(1)
    assert corex.omega_[0] == pytest.approx(np.corrcoef(score, Z[:, 0])[0, 1] ** 2, abs=0.02)


def test_reliability_of_a_latent_with_one_column():
    x = np.column_stack([X, Z[:, 0] - 3 * np.random.default_rng(3).standard_normal(4000)])
    corex = CorEx(2, cv=None, anchors={0: [0, 1, 2, 3], 1: [4]}).fit(x)
    assert np.isnan(corex.omega_[1])
    assert np.isnan(corex.alpha_[1])
    assert corex.omega_[0] == pytest.approx(ONE.omega_[0], abs=0.02)


def test_the_likelihood_is_that_of_the_covariance():
    code = (X - X.mean(0)) / X.std(0)
    cov = ONE.get_covariance() / np.outer(X.std(0), X.std(0))
    expected = multivariate_normal(np.zeros(4), cov).logpdf(code).sum()
    fit = ONE.fit_
    assert fit.exact
    assert fit.log_likelihood == pytest.approx(expected)
    assert fit.n_parameters == 12  # means, loadings, noise
    assert ONE.bic_ == fit.bic == pytest.approx(np.log(4000) * 12 - 2 * expected)
    corr = np.corrcoef(X.T)
    saturated = multivariate_normal(np.zeros(4), corr).logpdf(code).sum()
    assert fit.chi_square == pytest.approx(2 * (saturated - expected), rel=1e-4)
    assert fit.df == 2
    assert fit.chi_square < 15  # it is the right model
    assert fit.rmsea < 0.05


def test_gaps_are_left_out_of_the_likelihood():
    x = factor_table(60, 1, 3, 0.5, seed=0)[0]
    x[np.random.default_rng(0).random(x.shape) < 0.3] = np.nan
    corex = CorEx(1, cv=None).fit(x)
    scale = np.array([c.scale for c in corex.columns_])
    code = (x - [c.loc for c in corex.columns_]) / scale
    cov = corex.get_covariance() / np.outer(scale, scale)
    bias = corex.program_.bias.detach().numpy()
    expected = 0.0
    for row in code:
        own = np.flatnonzero(~np.isnan(row))
        if len(own):
            expected += multivariate_normal(bias[own], cov[np.ix_(own, own)]).logpdf(row[own])
    assert corex.fit_.log_likelihood == pytest.approx(expected)
    assert np.isnan(corex.fit_.chi_square)


def test_what_two_columns_share_beside_the_latents_is_named():
    x = X.copy()
    x[:, 2:] += 0.6 * np.random.default_rng(5).standard_normal((4000, 1))
    fit = CorEx(1, cv=None).fit(x).fit_
    assert fit.largest_pair == ("x2", "x3")
    assert fit.largest_residual > 0.1
    assert fit.rmsea > 0.1
    expected = np.corrcoef(x.T) - (own := CorEx(1, cv=None).fit(x).get_covariance()) / np.sqrt(
        np.outer(own.diagonal(), own.diagonal())
    )
    low = expected[np.tril_indices(4, -1)]
    assert fit.srmr == pytest.approx(np.sqrt((low**2).mean()), abs=1e-3)
    assert "the largest is +0." in str(fit)
    assert "between x2 and x3" in str(fit)


def test_what_does_not_apply():
    fit = CorEx(1, cv=None, hidden=(2,), max_iter=2, tol=9.0, random_state=0).fit(X[:50]).fit_
    assert not fit.exact
    assert np.isnan(fit.bic)
    assert "at least" in str(fit)
    assert "BIC" not in str(fit)


@pytest.mark.parametrize(("chi", "reading"), [
    (30.0, "a close fit."),
    (39.0, "a reasonable fit, up to 0.08."),
    (90.0, "above 0.08, the latents leave correlations unexplained."),
])  # fmt: skip
def test_rmsea_is_read_by_its_interval(chi, reading):
    """Its ends are those noncentralities of which 5 % of statistics are above, or below."""
    fit = GoodnessOfFit(-1.0, True, 3.0, 200, chi, 20.0, 0.1, 0.2, ("a", "b"))
    low, high = fit.rmsea_interval
    rng = np.random.default_rng(0)
    for end, share in ((low, 0.95), (high, 0.05)):
        if end:
            drawn = rng.noncentral_chisquare(20, end**2 * 20 * 200, 100_000)
            assert (drawn < chi).mean() == pytest.approx(share, abs=0.003)
    assert low <= fit.rmsea <= high
    assert f"RMSEA {fit.rmsea:.3f} (90 % interval {low:.3f} to {high:.3f}; chi-square" in str(fit)
    assert reading in str(fit)
    assert "0.100 on average (SRMR, good up to 0.08); the largest is +0.200, between a" in str(fit)


LONG = np.random.default_rng(1).standard_normal((45_000, 5))
LONG = LONG[:, :1] * LOADINGS + LONG[:, 1:] * np.sqrt(PSI)


def test_long_tables_are_judged_by_all_rows():
    """Likelihood, chi-square, residuals and reliability, of which the bound has some rows."""
    corex = CorEx(1, random_state=0).fit(LONG)
    fit, scale = corex.fit_, LONG.std(0)
    code, corr = (LONG - LONG.mean(0)) / scale, np.corrcoef(LONG.T)
    model = corex.get_covariance() / np.outer(scale, scale)
    expected = multivariate_normal(np.zeros(4), model).logpdf(code).sum()
    assert fit.log_likelihood == pytest.approx(expected)
    saturated = multivariate_normal(np.zeros(4), corr).logpdf(code).sum()
    assert fit.chi_square == pytest.approx(2 * (saturated - expected), rel=1e-4)
    low = (corr - model)[np.tril_indices(4, -1)]
    assert fit.srmr == pytest.approx(np.sqrt((low**2).mean()), rel=1e-4)
    turned = code * np.sign(LOADINGS)
    alpha = 4 / 3 * (1 - 4 / turned.sum(1).var())
    assert np.abs(corex.alpha_[0]) == pytest.approx(alpha, rel=1e-9)


def test_no_chi_square_no_interval():
    fit = replace(ONE.fit_, chi_square=np.nan, df=np.nan)
    assert np.isnan(fit.rmsea_interval).all()
    assert "RMSEA" not in str(fit)
    assert replace(ONE.fit_, chi_square=1.0, df=20.0).rmsea_interval == (0.0, 0.0)
