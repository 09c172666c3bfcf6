"""What scikit-learn and pandas expect of an estimator."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import pyro_corex
from pyro_corex import CorEx
from tests.estimator.tables import erased_copies, factor_table

X, _ = factor_table(300, 2, 3, 0.5, seed=0)


def test_scikit_learns_own_checks_pass():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(CorEx(), on_fail=None)
    failed = [r["check_name"] for r in results if r["status"] == "failed"]
    assert failed == []
    assert sum(r["status"] == "passed" for r in results) > 30


@pytest.mark.parametrize("latent", ["gaussian", "categorical"])
def test_scikit_learns_own_checks_pass_for_two_latents(latent):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(CorEx(2, latent=latent, max_iter=50), on_fail=None)
    assert [r["check_name"] for r in results if r["status"] == "failed"] == []


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
    import torch

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


def test_a_frame_of_mixed_columns_is_read_by_kind():
    rng = np.random.default_rng(0)
    z = rng.standard_normal(400)

    def noisy(scale=0.6):
        return z + scale * rng.standard_normal(400)

    frame = pd.DataFrame(
        {
            "flag": noisy() > 0,
            "level": np.digitize(noisy(), [-1, 0, 1]),
            "word": np.array(["low", "mid", "high"])[np.digitize(noisy(), [-0.5, 0.5])],
            "grade": pd.Categorical.from_codes(
                np.digitize(noisy(), [-0.5, 0.5]), ["C", "B", "A"], ordered=True
            ),
            "visits": rng.poisson(np.exp(2.5 + 0.7 * noisy(0.1))),
            "size": noisy(),
            "income": np.exp(2 * noisy()),
            "same": 1.0,
        }
    )
    frame["flag"] = frame["flag"].astype(float)
    frame.loc[::10, "word"] = None
    frame.loc[::7, "size"] = np.nan
    corex = CorEx(1, random_state=0, max_iter=100).fit(frame)
    kinds = {column.name: column.kind for column in corex.columns_}
    assert kinds == {
        "flag": "binary", "level": "ordinal", "word": "categorical", "grade": "ordinal",
        "visits": "counts", "size": "continuous", "income": "continuous", "same": "constant",
    }  # fmt: skip
    assert corex.columns_[6].knots is not None  # heavy tails are taken by ranks
    assert corex.columns_[5].knots is None
    assert corex.clusters_.tolist() == [0] * 7 + [-1]
    assert abs(np.corrcoef(corex.transform(frame)[:, 0], z)[0, 1]) > 0.85
    assert np.all(corex.mis_[0, :7] > 0.1)
    assert corex.mis_[0, 7] == 0
    filled = corex.impute(frame)
    assert isinstance(filled, pd.DataFrame)
    assert not filled.isna().any().any()
    assert set(filled["word"]) == {"low", "mid", "high"}
    rows = corex.sample(50, random_state=0)
    assert set(rows["word"]) <= {"low", "mid", "high"}
    assert set(rows["grade"]) <= {"A", "B", "C"}
    assert (rows["same"] == 1).all()
    assert (rows["visits"] == rows["visits"].round()).all()


def test_kinds_can_be_told():
    answers, _ = erased_copies(200, 2, 3, 3, 0.2, seed=0)
    assert {c.kind for c in CorEx(1, max_iter=5).fit(answers).columns_} == {"ordinal"}
    told = CorEx(1, kinds={0: "categorical", -1: "counts"}, max_iter=5).fit(answers)
    assert [c.kind for c in told.columns_] == ["categorical", *["ordinal"] * 4, "counts"]
    assert {c.kind for c in CorEx(1, kinds="continuous").fit(answers).columns_} == {"continuous"}


def test_the_public_name():
    assert pyro_corex.CorEx is CorEx
    assert "CorEx" in pyro_corex.__all__
    with pytest.raises(AttributeError, match="no attribute 'CorEks'"):
        _ = pyro_corex.CorEks
