"""Standard errors of what is shown of latents: those of tables that are drawn again."""

import numpy as np
import pytest

from pyro_corex import CorEx
from tests.estimator.tables import factor_table


def traits(seed, n=400):
    """Two traits that correlate by 0.5, of five columns each."""
    rng = np.random.default_rng(seed)
    z = rng.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], n)
    return 0.7 * z.repeat(5, 1) + 0.7 * rng.standard_normal((n, 10))


def test_errors_are_as_large_as_tables_differ():
    """Of loadings, and of the correlation of two traits, over 40 tables."""
    loadings, correlations = [], []
    for seed in range(40):
        corex = CorEx(2, cv=None, random_state=0).fit(traits(seed))
        first = int(np.abs(corex.loadings_[0]).argmax())
        loadings.append(corex.loadings_[:, [first, 1 - first]])
        correlations.append(corex.factor_correlations_[0, 1])
    stated, between = [], []
    for seed in range(3):
        corex = CorEx(2, cv=None, random_state=0).fit(traits(seed)).bootstrap(traits(seed), 40)
        assert corex.loadings_stderr_.shape == (10, 2)
        stated.append((corex.loadings_stderr_**2).mean())
        between.append(corex.factor_correlations_stderr_[0, 1])
    spread = np.sqrt(np.var(loadings, 0, ddof=1).mean())
    assert np.sqrt(np.mean(stated)) == pytest.approx(spread, rel=0.25)
    assert np.mean(between) == pytest.approx(np.std(correlations, ddof=1), rel=0.25)
    assert (corex.omega_stderr_ < 0.05).all()
    assert (np.diag(corex.factor_correlations_stderr_) == 0).all()
    assert not hasattr(corex.fit(traits(0)), "loadings_stderr_")


def test_the_error_of_a_style_has_that_of_its_loadings():
    """Which makes most of it; the same for what single latents add."""
    rng = np.random.default_rng(0)
    loadings = np.kron(np.eye(2), rng.uniform(0.4, 0.8, (6, 1))) * np.tile([1, -1], 6)[:, None]

    def fitted(seed):
        draw = np.random.default_rng(seed).standard_normal
        x = draw((400, 2)) @ loadings.T + 0.5 * draw((400, 1)) + 0.6 * draw((400, 12))
        return CorEx(2, style=True, cv=None, random_state=0).fit(x), x

    found = [fitted(seed)[0] for seed in range(40)]
    first, x = fitted(0)
    rows = first.tcs_stderr_.copy()
    first.bootstrap(x, 40)
    spread = np.std([corex.style_tc_ for corex in found], ddof=1)
    assert first.style_tc_stderr_ == pytest.approx(spread, rel=0.3)
    assert (first.tcs_stderr_ > rows).all()
    assert not hasattr(first.fit(x), "style_tc_stderr_")


def test_errors_of_classes_that_are_seen_are_those_of_a_share():
    rng = np.random.default_rng(0)
    n, share = 500, np.array([0.6, 0.4])
    which = rng.random(n) < share[1]
    x = (which[:, None] ^ (rng.random((n, 6)) < 0.03)).astype(float)
    corex = CorEx(1, latent="categorical", cv=None, random_state=0).fit(x).bootstrap(x, 60)
    expected = np.sqrt(share.prod() / n)
    np.testing.assert_allclose(corex.class_sizes_stderr_[0], expected, rtol=0.25)
    for name, profile in corex.class_profiles_[0].items():
        expected = np.sqrt(profile.prod(1) / (n * corex.class_sizes_[0]))
        stated = corex.class_profiles_stderr_[0][name]
        np.testing.assert_allclose(stated, np.stack([expected] * 2, 1), rtol=0.3)
    shown = f"classes of {corex.class_sizes_[0][0]:.0%} ± {corex.class_sizes_stderr_[0][0]:.0%}, "
    assert shown in corex.summary()


def test_rows_that_are_counted_are_rows():
    x = traits(0, n=60)
    counts = np.random.default_rng(0).integers(1, 4, 60)
    one = CorEx(2, cv=None, random_state=0).fit(x, sample_weight=counts)
    one.bootstrap(x, 4, sample_weight=counts)
    x = x.repeat(counts, 0)
    two = CorEx(2, cv=None, random_state=0).fit(x).bootstrap(x, 4)
    np.testing.assert_allclose(one.loadings_stderr_, two.loadings_stderr_)


def test_anchors_and_weights_of_a_survey_are_those_of_the_fit():
    x = traits(0)
    weight = np.random.default_rng(0).uniform(0.2, 2.0, len(x))
    corex = CorEx(2, anchors={1: ["x0", "x1"]}, cv=None, max_iter=20, random_state=0)
    corex.fit(x, sample_weight=weight).bootstrap(x, 3, sample_weight=weight)
    np.testing.assert_allclose(corex.loadings_stderr_[:2, 0], 0, atol=1e-9)
    assert (corex.loadings_stderr_[:2, 1] > 0).all()


def test_a_model_keeps_its_errors_and_shows_them(tmp_path):
    x, _ = factor_table(80, 2, 3, 0.5, seed=0)
    corex = CorEx(2, cv=None, random_state=0).fit(x).bootstrap(x, 3)
    corex.save(tmp_path / "m")
    found = CorEx.load(tmp_path / "m")
    np.testing.assert_array_equal(found.loadings_stderr_, corex.loadings_stderr_)
    assert f"omega {corex.omega_[0]:.2f} ± {corex.omega_stderr_[0]:.2f}, alpha" in found.summary()


def test_another_table_is_refused():
    corex = CorEx(2, cv=None, random_state=0).fit(traits(0))
    for other in (traits(0)[:30], traits(1), traits(0)[::-1]):
        with pytest.raises(ValueError, match="the table that was fitted, of 400 rows, but got an"):
            corex.bootstrap(other)
    with pytest.raises(ValueError, match="n_draws must be an integer >= 2, but got 1"):
        corex.bootstrap(traits(0), 1)
