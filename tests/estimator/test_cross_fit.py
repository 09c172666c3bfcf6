"""Cross-fitted figures: no dependence is found in noise, and no more than there is elsewhere."""

import numpy as np
import pytest

from pyro_corex import CorEx
from pyro_corex.estimator.cross_fit import _confirmed, _mean, _stderr
from tests.estimator.tables import factor_table

RNG = np.random.default_rng(0)
OTHER = np.random.default_rng([17, 100, 20])
NOISE = {
    "normal": (RNG.standard_normal((40, 60)), {}),
    "few": (RNG.standard_normal((12, 30)), {}),
    "binary": (RNG.integers(2, size=(60, 20)).astype(float), {"latent": "categorical"}),
    "groups": (  # one of which is below 0, by less than its error, for rows held out
        (OTHER.random((100, 20)) < OTHER.uniform(0.2, 0.8, 20)).astype(float),
        {"latent": "categorical", "n_hidden": 4},
    ),
    "words": (
        RNG.integers(40, size=(150, 3)).astype(float),
        {"n_hidden": 1, "latent": "categorical", "kinds": "categorical"},
    ),
}


@pytest.mark.parametrize("name", NOISE)
def test_nothing_is_found_in_noise(name):
    x, options = NOISE[name]
    corex = CorEx(random_state=0, **options).fit(x)
    assert corex.n_folds_ == 5
    assert corex.tc_ <= 2 * corex.tc_stderr_
    if name not in ("normal", "few"):  # whose loadings are shrunk, as columns exceed rows
        assert corex.bound_.estimate > 2 * corex.bound_.stderr  # on the rows that were fitted
    assert "nothing found beyond the error" in corex.summary()
    assert "in 5 folds" in corex.summary()
    assert (corex.clusters_ == -1).all()
    assert "of the rows that the program was fitted to" in repr(corex.bound_)
    assert corex.tcs_.sum() == pytest.approx(corex.tc_)
    assert corex.bound_.estimate + sum(corex.corrections_.values()) == pytest.approx(corex.tc_)
    assert "optimism" not in corex.corrections_
    assert corex.optimism_ == -corex.corrections_["held-out rows"]


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_of_a_known_tc_as_much_is_found_as_there_is(share):
    found = []
    for seed in range(8):
        x, truth = factor_table(200, 2, 4, 0.5, seed)
        x[np.random.default_rng(seed).random(x.shape) < share] = np.nan
        corex = CorEx(2, cv=4, random_state=0).fit(x)
        assert corex.n_folds_ == 4
        found.append((corex.tc_, corex.tc_stderr_))
        assert np.all(corex.mis_ >= 0)
    tcs, errors = np.array(found).T
    assert np.all(tcs < truth + 3 * errors)
    assert 0.8 * truth < tcs.mean() < truth + 3 * tcs.std(ddof=1) / np.sqrt(8)
    assert 0.5 < errors.mean() / tcs.std(ddof=1) < 2


def test_cross_fitting_and_the_asymptotic_correction_agree_where_rows_abound():
    x, _ = factor_table(5000, 2, 4, 0.5, seed=0)
    asymptotic, held = CorEx(2, random_state=0).fit(x), CorEx(2, cv=5, random_state=0).fit(x)
    assert asymptotic.n_folds_ == 0
    assert "by Akaike's formula" in asymptotic.summary()
    assert "on rows held out, in 5 folds" in held.summary()
    assert held.tc_ == pytest.approx(asymptotic.tc_, abs=0.01)
    np.testing.assert_allclose(held.tcs_, asymptotic.tcs_, atol=0.01)
    np.testing.assert_array_equal(held.transform(x), asymptotic.transform(x))  # one model


@pytest.mark.parametrize("n", [2, 3, 9])
def test_few_rows_say_nothing(n):
    x = np.random.default_rng(0).standard_normal((n, 5))
    corex = CorEx(2, random_state=0, max_iter=20, tol=10.0).fit(x)
    assert corex.tc_ == 0
    assert np.isinf(corex.tc_stderr_)
    assert f"{n} rows say nothing of that: at least 10 are needed" in corex.summary()


def test_layers_are_cross_fitted_together():
    x = np.random.default_rng(0).standard_normal((40, 20))
    corex = CorEx((4, 2), random_state=0).fit(x)
    assert len(corex.layer_tcs_) == 2
    assert corex.tc_ == pytest.approx(sum(corex.layer_tcs_))
    assert corex.tc_ <= 2 * corex.tc_stderr_


def test_anchors_keep_their_latents_and_columns_constant_in_a_fold_cost_nothing():
    x, _ = factor_table(100, 2, 3, 0.5, seed=0)
    x = np.column_stack([np.eye(100)[0], x])  # one row is different
    anchors = {1: [1, 2], 0: [4]}
    corex = CorEx(2, anchors=anchors, cv=5, tol=0.01, max_iter=50, random_state=0).fit(x)
    assert corex.clusters_[[1, 2, 4]].tolist() == [1, 1, 0]
    assert (corex.tcs_ > 0.3).all()


def test_more_folds_than_rows():
    with pytest.raises(ValueError, match=r"cv must be at most the number of rows, 20, but got 21"):
        CorEx(2, cv=21).fit(np.random.default_rng(0).standard_normal((20, 4)))


def test_errors_count_rows_and_what_folds_differ():
    rng = np.random.default_rng(0)
    alike = [rng.standard_normal(100) for _ in range(5)]
    assert _stderr(alike) == pytest.approx(1 / np.sqrt(500), rel=0.2)
    far = [values + 3 * k for k, values in enumerate(alike)]
    assert _stderr(far) == pytest.approx(3 * np.std(range(5), ddof=1) / np.sqrt(5), rel=0.1)


def test_a_fold_counts_where_the_others_confirm_it():
    parts = [np.array([[1.0, 2.0]]), np.array([[-3.0, 1.0]]), np.array([[1.5, -5.0]])]
    kept = _confirmed(parts)  # by the sums of the other two
    assert kept.tolist() == [[False, False], [True, False], [False, True]]
    np.testing.assert_allclose(_mean(parts, kept), [-1.0, -5 / 3])
