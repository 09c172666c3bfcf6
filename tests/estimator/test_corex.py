"""The estimator: what scikit-learn expects, layers, how many latents, and what it refuses."""

import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import pyro_corex
from pyro_corex import CorEx
from tests.estimator.tables import (
    factor_table,
    same_groups,
)

X, _ = factor_table(300, 2, 3, 0.5, seed=0)
GIVE_SPLITS = {
    f"check_sample_weight_equivalence_on_{kind}_data": "cv is a number of folds, and no splits"
    for kind in ("dense", "sparse")
}


@pytest.mark.parametrize(
    "options", [{"cv": 2}, {"latent": "categorical", "cv": None}], ids=["gaussian", "categorical"]
)
def test_scikit_learns_own_checks_pass(options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(
            CorEx(2, max_iter=20, **options), on_fail=None, expected_failed_checks=GIVE_SPLITS
        )
    assert [r["check_name"] for r in results if r["status"] == "failed"] == []
    assert sum(r["status"] == "passed" for r in results) > 30


def test_a_clone_has_the_parameters_and_is_not_fitted():
    corex = CorEx(2, anchors={0: [1]}, random_state=3).fit(X)
    copy = clone(corex)
    assert copy.get_params() == corex.get_params()
    assert not hasattr(copy, "tc_")


def test_a_seed_makes_fits_equal():
    answers = np.digitize(X, [-1, 0, 1]).astype(float)
    a, b = (CorEx(2, random_state=5, max_iter=20).fit(answers) for _ in range(2))
    assert a.tc_ == b.tc_
    np.testing.assert_array_equal(a.transform(answers), b.transform(answers))


def test_fitting_leaves_global_random_states_alone():

    answers = np.digitize(X, [-1, 0, 1]).astype(float)
    np.random.seed(1)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    corex = CorEx(2, random_state=0, max_iter=20).fit(answers)
    corex.sample(3, random_state=0)
    np.testing.assert_array_equal(before[0], np.random.get_state()[1])
    assert torch.equal(before[1], torch.get_rng_state())


@pytest.mark.parametrize("latent", ["gaussian", "categorical"])
def test_a_pickle_does_what_the_original_does(latent):
    corex = CorEx(2, latent=latent, random_state=0).fit(X)
    back = pickle.loads(pickle.dumps(corex))
    np.testing.assert_array_equal(back.transform(X), corex.transform(X))
    assert back.score(X) == corex.score(X)
    assert back.summary() == corex.summary()


def test_in_a_pipeline_and_a_grid_search():
    y = X[:, :3].sum(1)
    pipeline = make_pipeline(StandardScaler(), CorEx(random_state=0), LinearRegression())
    search = GridSearchCV(pipeline, {"corex__n_hidden": [1, 2]}, cv=3).fit(X, y)
    assert search.best_params_ == {"corex__n_hidden": 2}
    assert search.best_score_ > 0.9
    bounds = GridSearchCV(CorEx(random_state=0), {"n_hidden": [1, 2]}, cv=3).fit(X)
    assert bounds.best_params_ == {"n_hidden": 2}  # by the bound on held-out rows


def test_names_of_features_in_and_out():
    frame = pd.DataFrame(X, columns=list("abcdef"))
    corex = CorEx(2, random_state=0).fit(frame)
    assert corex.feature_names_in_.tolist() == list("abcdef")
    assert corex.get_feature_names_out().tolist() == ["corex0", "corex1"]
    assert [column.name for column in corex.columns_] == list("abcdef")
    out = corex.set_output(transform="pandas").transform(frame)
    assert out.columns.tolist() == ["corex0", "corex1"]
    with pytest.raises(ValueError, match="feature names"):
        corex.transform(frame[list("bacdef")])


def test_the_public_name():
    assert pyro_corex.CorEx is CorEx
    assert "CorEx" in pyro_corex.__all__
    with pytest.raises(AttributeError, match="no attribute 'CorEks'"):
        _ = pyro_corex.CorEks


def test_a_second_layer_explains_the_dependence_among_the_latents_of_the_first():
    rng = np.random.default_rng(0)
    top = rng.standard_normal((4000, 1))
    middle = 0.8 * top + 0.6 * rng.standard_normal((4000, 4))
    x = middle.repeat(4, 1) + 0.5 * rng.standard_normal((4000, 16))
    corex = CorEx((4, 1), random_state=0).fit(x)
    assert same_groups(corex.clusters_, np.arange(16) // 4)
    assert corex.upper_.clusters_.tolist() == [0] * 4
    assert len(corex.layer_tcs_) == 2
    corr = np.full((4, 4), 0.64) + 0.36 * np.eye(4)
    above = -0.5 * np.linalg.slogdet(corr)[1]
    assert 0.4 * above < corex.layer_tcs_[1] < 1.15 * above
    assert corex.tc_ == pytest.approx(sum(corex.layer_tcs_))
    cov = np.kron(corr, np.ones((4, 4))) + 0.25 * np.eye(16)
    truth = 0.5 * (np.log(np.diag(cov)).sum() - np.linalg.slogdet(cov)[1])
    assert 0.85 * truth < corex.tc_ < 1.02 * truth


def test_an_anchor_on_a_constant_column():
    with pytest.raises(ValueError, match=r"anchors names column 'x6', which is constant"):
        CorEx(2, anchors={0: [6]}).fit(np.column_stack([X, np.ones(len(X))]))


def test_training_that_has_not_ended():
    holes = np.where(np.random.default_rng(0).random(X.shape) < 0.3, np.nan, X)
    with pytest.warns(ConvergenceWarning, match=r"has not converged in .* Increase max_iter=3"):
        CorEx(2, random_state=0, max_iter=3, tol=0.0).fit(holes)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_fit_that_fails_late_leaves_the_estimator_as_it_was(error, monkeypatch):
    fitted = CorEx(2, max_iter=5, tol=1e9, cv=None, random_state=0).fit(X)
    fresh, before = clone(fitted), fitted.transform(X)
    attributes = dict(fitted.__dict__)

    def fail(*_):
        raise error("late")

    monkeypatch.setattr(CorEx, "_fit_upper", fail)
    for corex in (fitted, fresh):
        with pytest.raises(error, match="late"):
            corex.fit(X[:50, :4])
    assert fitted.__dict__ == attributes
    np.testing.assert_array_equal(fitted.transform(X), before)
    assert fresh.__dict__ == fresh.get_params()


@pytest.mark.parametrize("latent", ["gaussian", "categorical"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_search_in_threads_gives_the_scores_of_one_after_another(latent):
    corex = CorEx(latent=latent, max_iter=5, cv=None, random_state=0)
    scores = []
    for jobs in (1, 2):
        with joblib.parallel_backend("threading"):
            search = GridSearchCV(corex, {"n_hidden": [1, 2]}, n_jobs=jobs, cv=2, refit=False)
            scores.append(search.fit(X[:60]).cv_results_["mean_test_score"])
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(*scores)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_two_fits_in_two_threads_are_those_of_one_after_another():
    def fit(seed):
        return CorEx(2, max_iter=5, cv=None, random_state=seed).fit(X[:60])

    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(fit, (0, 1)))
    for seed, corex in enumerate(together):
        assert corex.tc_ == fit(seed).tc_
