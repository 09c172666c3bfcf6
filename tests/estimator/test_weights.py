"""Weights of rows: whole numbers repeat them, weights of a survey are normalised."""

import numpy as np
import pandas as pd
import pytest

from pyro_corex import CorEx
from pyro_corex.estimator.columns import Coding, Column
from pyro_corex.estimator.initial import moments
from pyro_corex.estimator.shrinkage import shrunken_loadings
from pyro_corex.estimator.weights import in_proportion, quantiles, variance
from tests.estimator.tables import erased_copies, factor_table, same_groups

RNG = np.random.default_rng(0)
X, _ = factor_table(200, 2, 3, 0.5, seed=0)
GAPS = np.where(RNG.random(X.shape) < 0.2, np.nan, X)
STATES, HIDDEN = erased_copies(200, 2, 3, 2, 0.2, seed=0)
W = RNG.integers(0, 4, 200).astype(float)
REAL = W + np.where(W > 0, 1e-9 * RNG.random(200), 0)  # which are no whole numbers


NUMBERS = HIDDEN.repeat(3, 1) + 0.2 * RNG.standard_normal(STATES.shape)


def fit(x, weight=None, **options):
    options = {"n_hidden": 2, "cv": None, "random_state": 0, **options}
    return CorEx(**options).fit(x, sample_weight=weight)


@pytest.mark.parametrize(("x", "options"), [
    (X, {}), (GAPS, {}), (X, {"cv": 5}), (STATES, {"latent": "categorical"}),
], ids=["factors", "em", "folds", "classes"])  # fmt: skip
def test_whole_numbers_are_rows_that_are_repeated(x, options):
    weighted, repeated = fit(x, W, **options), fit(x.repeat(W.astype(int), 0), **options)
    assert weighted.tc_ == pytest.approx(repeated.tc_, rel=1e-9)
    assert weighted.tc_stderr_ == pytest.approx(repeated.tc_stderr_, rel=1e-9)
    np.testing.assert_allclose(weighted.mis_, repeated.mis_, atol=1e-9)
    rows = x[W > 0]
    np.testing.assert_allclose(weighted.transform(rows), repeated.transform(rows), atol=1e-9)
    assert weighted.n_samples_ == (W > 0).sum()
    assert weighted.n_effective_ == repeated.n_effective_ == W.sum()


@pytest.mark.parametrize(("x", "options"), [
    (X, {}), (GAPS, {}), (STATES, {"latent": "categorical"}),
    (NUMBERS, {"latent": "categorical"}),
], ids=["factors", "em", "classes", "numbers"])  # fmt: skip
def test_weights_of_a_survey_give_what_rows_give_that_are_repeated(x, options):
    n = len(x)
    weighted, repeated = fit(x, REAL[:n], **options), fit(x.repeat(W[:n].astype(int), 0), **options)
    np.testing.assert_array_equal(weighted.clusters_, repeated.clusters_)
    np.testing.assert_allclose(weighted.mis_, repeated.mis_, atol=0.02)
    np.testing.assert_allclose(weighted.transform(x), repeated.transform(x), atol=0.05)
    assert weighted.n_effective_ == pytest.approx(W[:n].sum() ** 2 / (W[:n] ** 2).sum())
    # but for the optimism, which is that of their effective number
    assert weighted.tc_ + weighted.optimism_ == pytest.approx(
        repeated.tc_ + repeated.optimism_, rel=0.01
    )
    ratio = np.sqrt(repeated.n_effective_ / weighted.n_effective_)
    assert weighted.tc_stderr_ == pytest.approx(repeated.tc_stderr_ * ratio, rel=0.02)


def test_steps_of_a_gradient_see_rows_in_proportion():
    options = {"n_hidden": 1, "max_iter": 30, "tol": 9.0}
    x = X[:, :3] > 0
    found = fit(x, REAL, **options), fit(x.repeat(W.astype(int), 0), **options)
    np.testing.assert_allclose(found[0].mis_, found[1].mis_, atol=0.03)


def test_their_scale_does_not_matter_nor_do_rows_of_weight_0():
    found = [fit(x, w) for x, w in [(X, REAL), (X, 0.37 * REAL), (X[W > 0], REAL[W > 0])]]
    for other in found[1:]:
        assert other.tc_ == pytest.approx(found[0].tc_, rel=1e-6)
        assert other.tc_stderr_ == pytest.approx(found[0].tc_stderr_, rel=1e-6)
    assert fit(X, np.full(200, 0.25)).tc_ == pytest.approx(fit(X).tc_)


def test_rows_of_weight_0_are_not_there_in_words_either():
    frame = pd.DataFrame(STATES).replace({0: "no", 1: "yes", 2: "gone"})
    weight = (frame[0] != "gone") * 1.0
    corex = CorEx(2, latent="categorical", cv=None).fit(frame, sample_weight=weight)
    assert corex.columns_[0].labels == ["no", "yes"]
    assert corex.labels_.shape == (200, 2)


def test_a_survey_undoes_that_some_are_asked_more_often():
    rng = np.random.default_rng(1)
    z = rng.standard_normal((4000, 1))
    x = z + 0.7 * rng.standard_normal((4000, 5))
    weight = np.where(x[:, 0] > 1, 0.2, 1.0)  # of whom five times as many were asked
    asked = np.r_[np.arange(4000), np.flatnonzero(x[:, 0] > 1).repeat(4)]
    whole, biased, undone = fit(x), fit(x[asked]), fit(x[asked], weight[asked])
    assert abs(biased.tc_ - whole.tc_) > 0.1
    assert undone.tc_ == pytest.approx(whole.tc_, abs=0.02)


def test_folds_and_layers_with_weights():
    x = factor_table(300, 4, 3, 0.5, seed=2)[0] + np.random.default_rng(3).normal(size=(300, 1))
    weight = np.random.default_rng(4).uniform(0.1, 2, 300)
    corex = CorEx((4, 1), cv=3, random_state=0).fit(x, sample_weight=weight)
    assert same_groups(corex.clusters_, np.arange(12) // 3)
    assert corex.upper_.n_effective_ == pytest.approx(corex.n_effective_)
    assert corex.tc_ == pytest.approx(fit(x, weight, n_hidden=(4, 1)).tc_, rel=0.1)


def test_more_columns_than_rows():
    x, w = factor_table(40, 2, 80, 0.5, seed=0)[0], W[:40]
    repeated = x.repeat(w.astype(int), 0)
    coding = Coding([Column("x", "continuous")] * 160)
    found, whole = moments(coding, x, w), moments(coding, repeated)
    assert found.n == whole.n == w.sum()
    np.testing.assert_allclose(found.corr @ found.corr.T, whole.corr @ whole.corr.T)
    start = np.full((160, 2), 0.4) * np.repeat(np.eye(2), 80, 0)
    arguments = (start, np.full(160, 0.5), np.full(160, 0.01))
    for a, b in zip(
        shrunken_loadings(found.corr, *arguments, n=found.n),
        shrunken_loadings(whole.corr, *arguments),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_rows_in_proportion():
    weight = np.array([0.0, 0.5, 1.0, 2.5])
    found = np.bincount(in_proportion(weight, np.random.default_rng(0)), minlength=4)
    assert found.sum() == 16
    np.testing.assert_allclose(found, 4 * weight, atol=1)


def test_the_variance_with_weights():
    x, w = RNG.normal(size=(5, 2)), np.array([1.0, 2, 0, 3, 1])
    expected = np.var(x.repeat(w.astype(int), 0), axis=0, ddof=1)
    np.testing.assert_allclose(variance(x, w), expected)


def test_quantiles_with_weights():
    x = np.array([3.0, 1.0, 2.0, 9.0])
    assert quantiles(x, np.array([1.0, 4.0, 2.0, 1.0]), 4).tolist() == [1.0, 1.0, 2.0]


def test_many_rows_of_whole_numbers_are_doubted():
    with pytest.warns(UserWarning, match=r"60000 rows in all. If they are weights of a survey"):
        corex = fit(X, np.full(200, 300), max_iter=1)
    assert corex.n_effective_ == 60_000
    with pytest.raises(ValueError, match=r"too many. If they are weights of a survey, divide"):
        fit(X, np.full(200, 1e9))
