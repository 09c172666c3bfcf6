"""How many latents there are: eigenvalues above those of noise, and what held-out rows ask for."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from pyro_corex import CorEx
from pyro_corex.estimator.number import Scores, _likelihood_ratios, _standardised, scree
from tests.estimator.tables import erased_copies, factor_table


def test_eigenvalues_are_those_of_the_correlations():
    x, _ = factor_table(200, 3, 4, 0.6, seed=0)
    corex = CorEx(2, cv=None, random_state=0).fit(x)
    values = np.linalg.eigvalsh(np.corrcoef(x.T))[::-1]
    np.testing.assert_allclose(corex.scree_.eigenvalues, values, atol=1e-10)
    assert corex.scree_.n_above == 3
    wide = CorEx(2, random_state=0).fit(x[:10]).scree_
    own = np.linalg.eigvalsh(np.corrcoef(x[:10].T))[::-1]
    np.testing.assert_allclose(wide.eigenvalues, own[:9], atol=1e-10)


def test_the_reference_is_that_of_independent_columns_with_the_same_values():
    rng = np.random.default_rng(0)
    values = np.column_stack([rng.standard_normal((150, 6)), np.eye(150)[:, :1]])
    found = scree(Scores(values, np.arange(7)), rng)
    drawn = [np.column_stack([rng.permutation(column) for column in values.T]) for _ in range(400)]
    ends = np.array([np.linalg.eigvalsh(np.corrcoef(x.T))[::-1] for x in drawn])
    error = ends.std(0) * np.sqrt(1 / 20 + 1.645**2 / 40)  # of a mean and 1.645 deviations of 20
    assert np.all(np.abs(found.reference - ends.mean(0) - 1.645 * ends.std(0)) < 4 * error)


def test_states_of_a_nominal_column_are_permuted_together():
    rng = np.random.default_rng(0)
    states = rng.integers(3, size=400)
    kinds = ["categorical", "continuous"]
    corex = CorEx(1, kinds=kinds, max_iter=1, tol=1e9, cv=None, random_state=0)
    found = corex.fit(np.column_stack([states, rng.standard_normal(400)])).scree_
    assert found.eigenvalues.shape == found.reference.shape == (4,)
    assert found.n_above == 0  # two eigenvalues of 1.5 are the three states' own


def test_likelihood_ratios_are_those_of_normal_densities():
    rng = np.random.default_rng(0)
    loadings = rng.normal(0, 0.4, (5, 2))
    psi = 1 - (loadings**2).sum(1)
    z = rng.standard_normal((4, 5))
    z[1, 2], z[2, [0, 4]] = np.nan, np.nan
    for rows in (z, z[[0, 3]]):
        for row, value in zip(rows, _likelihood_ratios(rows, loadings, psi), strict=True):
            seen = ~np.isnan(row)
            cov = (loadings @ loadings.T + np.diag(psi))[np.ix_(seen, seen)]
            whole = multivariate_normal.logpdf(row[seen], cov=cov)
            alone = multivariate_normal.logpdf(row[seen], cov=np.eye(seen.sum()))
            assert value == pytest.approx(whole - alone, abs=1e-10)


def test_columns_that_are_constant_or_missing_in_a_fold_say_nothing():
    by = np.array([[1.0, np.nan, 0.0], [1.0, np.nan, 2.0]])
    z = _standardised(np.array([[7.0, 3.0, 3.0]]), by)
    assert z[0, 0] == 0
    assert z[0, 1:].tolist() == [0, 2]


def oblique(n, factors, size, seed):
    """Columns of factors that correlate by 0.3."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, factors)) + np.sqrt(3 / 7) * rng.standard_normal((n, 1))
    return z.repeat(size, 1) + rng.standard_normal((n, factors * size))


TABLES = {
    "one": (factor_table(800, 1, 4, 0.6, seed=0)[0], 1),
    "pairs": (factor_table(200, 2, 2, 0.5, seed=0)[0], 2),
    "oblique": (oblique(600, 7, 4, seed=0), 7),
    "wide": (np.column_stack([oblique(60, 3, 20, 0), oblique(60, 40, 1, 1)[:, :20]]), 3),
}


@pytest.mark.parametrize("name", TABLES)
def test_auto_finds_the_number_of_latents(name):
    x, number = TABLES[name]
    if name == "wide":  # whose other columns have nothing to do with each other
        x[:, 60:] = np.random.default_rng(2).standard_normal((60, 20))
    corex = CorEx("auto", random_state=0).fit(x)
    assert corex.n_hidden_ == number
    assert number in [trial["n_hidden"] for trial in corex.trials_]
    assert corex.transform(x).shape == (len(x), number)


def test_gaps_and_levels_do_not_change_the_number():
    x = oblique(400, 3, 5, seed=0)
    gaps = np.where(np.random.default_rng(0).random(x.shape) < 0.3, np.nan, x)
    assert CorEx("auto", cv=None, tol=0.01, random_state=0).fit(gaps).n_hidden_ == 3
    levels = np.digitize(x, [-1, 0, 1])
    corex = CorEx("auto", cv=None, max_iter=20, tol=1.0, random_state=0).fit(levels)
    assert corex.n_hidden_ == 3
    assert [trial["n_hidden"] for trial in corex.trials_] == [2, 3]  # by the bound itself


def test_auto_finds_the_number_of_causes():
    x, _ = erased_copies(1000, 3, 4, 2, 0.3, seed=0)
    assert CorEx("auto", latent="categorical", cv=None, random_state=0).fit(x).n_hidden_ == 3


@pytest.mark.parametrize(
    ("n", "d", "latent"), [(40, 60, "gaussian"), (100, 8, "gaussian"), (60, 6, "categorical")]
)
def test_in_noise_auto_finds_nothing_and_says_so(n, d, latent):
    x = np.random.default_rng(0).standard_normal((n, d))
    if latent == "categorical":
        x = x > 0
    corex = CorEx("auto", latent=latent, random_state=0).fit(x)
    assert corex.n_hidden_ == 1
    assert corex.clusters_.tolist() == [-1] * d
    assert corex.tc_ <= 2 * corex.tc_stderr_
    assert corex.transform(x).shape == (n, 1)
    assert "the columns look independent" in corex.summary()
    assert f"may be chance: {d} (" in corex.summary()


def test_of_few_rows_auto_says_nothing():
    corex = CorEx("auto", random_state=0).fit(np.random.default_rng(0).standard_normal((3, 5)))
    assert corex.n_hidden_ == 1
    assert corex.trials_ == []
    assert corex.clusters_.tolist() == [-1] * 5
    assert np.isinf(corex.tc_stderr_)
