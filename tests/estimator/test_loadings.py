"""Loadings, and correlations of factors, against closed forms."""

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_corex import CorEx
from pyro_corex.estimator.loadings import correlation_loadings
from pyro_corex.programs.tables import TableSpec, TableVAE
from tests.estimator.tables import mixed_table, same_groups

LOADINGS = np.kron(np.eye(2), np.ones((4, 1))) * np.array([[0.8, -0.7, 0.6, 0.75] * 2]).T
OPTIONS = {"random_state": 0, "cv": None, "tol": 1.0}


def correlated(n, phi, seed=0):
    """Columns with the variance 1, their traits, and their correlations."""
    rng = np.random.default_rng(seed)
    corr = np.array([[1, phi], [phi, 1.0]])
    z = rng.standard_normal((n, 2)) @ np.linalg.cholesky(corr).T
    psi = 1 - ((LOADINGS @ corr) * LOADINGS).sum(1)
    x = z @ LOADINGS.T + np.sqrt(psi) * rng.standard_normal((n, 8))
    return x, z, LOADINGS @ corr @ LOADINGS.T + np.diag(psi)


@pytest.fixture(scope="module")
def fitted():
    x, z, _ = correlated(20_000, 0.5)
    frame = pd.DataFrame(x * 7 + 3, columns=list("abcdefgh"), index=np.arange(len(x)) + 100)
    return CorEx(2, random_state=0).set_output(transform="pandas").fit(frame), frame, z


def placed(corex):
    """The latents in the order of the traits, and their signs."""
    product = LOADINGS.T @ corex.loadings_
    order = np.abs(product).argmax(1)
    return order, np.sign(product[np.arange(2), order])


def test_loadings_and_correlations_are_those_behind_the_columns(fitted):
    corex, _, _ = fitted
    order, sign = placed(corex)
    np.testing.assert_allclose(corex.loadings_[:, order] * sign, LOADINGS, atol=0.04)
    assert corex.factor_correlations_[0, 1] * sign.prod() == pytest.approx(0.5, abs=0.03)
    assert (corex.loadings_.sum(0) > 0).all()


def test_they_are_one_model(fitted):
    """The correlations that they imply are those of the columns; the figures are sums of these."""
    corex, frame, _ = fitted
    loadings, among = corex.loadings_, corex.factor_correlations_
    model = loadings @ among @ loadings.T
    np.testing.assert_allclose(corex.communalities_, np.diag(model), atol=1e-12)
    np.fill_diagonal(model, 1.0)
    np.testing.assert_allclose(model, np.corrcoef(frame.to_numpy().T), atol=0.02)
    share = corex.explained_variance_ratio_
    assert share.sum() == pytest.approx(corex.communalities_.mean())
    sd = frame.to_numpy().std(0)
    np.testing.assert_allclose(corex.get_covariance() / np.outer(sd, sd), model, atol=1e-3)


def test_scores_are_the_regression_scores_of_the_oblique_model(fitted):
    corex, frame, z = fitted
    scores = corex.transform(frame)
    assert scores.index.equals(frame.index)
    assert list(scores) == list(corex.get_feature_names_out())
    loadings, among = corex.loadings_, corex.factor_correlations_
    model = loadings @ among @ loadings.T
    np.fill_diagonal(model, 1.0)
    x = ((frame - frame.mean()) / frame.std(ddof=0)).to_numpy()
    np.testing.assert_allclose(scores, x @ np.linalg.solve(model, loadings @ among), atol=1e-5)
    order, sign = placed(corex)
    reached = [
        np.corrcoef(scores.iloc[:, j] * s, t)[0, 1]
        for j, s, t in zip(order, sign, z.T, strict=True)
    ]
    assert min(reached) > 0.85


def test_columns_for_scores_are_what_the_loadings_say(fitted):
    corex, frame, _ = fitted
    z = np.array([[0.0, 0.0], [1.0, -0.5], [2.0, 2.0]])
    rows = np.asarray(corex.inverse_transform(z))
    expected = z @ corex.loadings_.T * frame.to_numpy().std(0) + frame.to_numpy().mean(0)
    np.testing.assert_allclose(rows, expected, atol=1e-4)


def test_informations_are_those_of_correlated_latents(fitted):
    corex, _, _ = fitted
    structure = corex.loadings_ @ corex.factor_correlations_
    np.testing.assert_allclose(corex.mis_, -0.5 * np.log(1 - structure.T**2), atol=1e-9)
    assert corex.tcs_.sum() == pytest.approx(corex.tc_)


def test_the_bound_depends_on_no_rotation():
    x, _, _ = correlated(400, 0.5)
    found = [CorEx(2, rotation=r, random_state=0).fit(x) for r in ("oblimin", "varimax", None)]
    for corex in found[1:]:
        assert corex.tc_ == pytest.approx(found[0].tc_, abs=1e-9)
        np.testing.assert_allclose(corex.communalities_, found[0].communalities_)
        np.testing.assert_allclose(corex.factor_correlations_, np.eye(2), atol=1e-9)
        np.testing.assert_allclose(corex.score_samples(x), found[0].score_samples(x))
    w = found[2].loadings_ / np.sqrt(1 - found[2].communalities_)[:, None]
    assert (w.T @ w)[0, 1] == pytest.approx(0, abs=1e-4)  # principal axes
    assert abs(found[0].factor_correlations_[0, 1]) > 0.3


def test_uncorrelated_traits_stay_so():
    x, _, _ = correlated(5000, 0.0)
    corex = CorEx(2, random_state=0).fit(x)
    assert abs(corex.factor_correlations_[0, 1]) < 0.06


@pytest.mark.parametrize("anchors", [{0: [1, 2, 3], 1: [4, 5, 6, 7]}, {1: [1, 2]}])
@pytest.mark.parametrize("gaps", [False, True])
def test_anchored_latents_correlate(anchors, gaps):
    x, _, corr = correlated(5000, 0.5)
    if gaps:
        x[np.random.default_rng(1).random(x.shape) < 0.2] = np.nan
    corex = CorEx(2, anchors=anchors, random_state=0, tol=1e-3).fit(x)
    _, sign = placed(corex)
    assert corex.factor_correlations_[0, 1] * sign.prod() == pytest.approx(0.5, abs=0.06)
    if not gaps:
        assert corex.tc_ == pytest.approx(-0.5 * np.linalg.slogdet(corr)[1], abs=0.05)
    apart = CorEx(2, anchors=anchors, rotation="varimax", random_state=0, tol=1e-3).fit(x)
    assert apart.factor_correlations_[0, 1] == pytest.approx(0, abs=1e-9)


def test_a_layer_above_explains_what_correlated_latents_share():
    x, _, corr = correlated(5000, 0.5)
    tree = CorEx((2, 1), random_state=0).fit(x)
    flat = CorEx(2, random_state=0).fit(x)
    np.testing.assert_allclose(tree.loadings_, flat.loadings_, atol=1e-6)
    np.testing.assert_allclose(tree.factor_correlations_, flat.factor_correlations_, atol=1e-6)
    assert tree.layer_tcs_[0] < flat.tc_  # the factorised prior of the first layer
    assert tree.tc_ <= -0.5 * np.linalg.slogdet(corr)[1] + 2 * tree.tc_stderr_


def test_all_kinds_of_columns_have_loadings():
    x, kinds = mixed_table(200, seed=0)
    corex = CorEx(2, kinds=kinds, max_iter=15, **OPTIONS).fit(x)
    assert np.isfinite(corex.loadings_).all()
    assert (corex.loadings_[10] == 0).all()  # a constant
    assert ((corex.communalities_ >= 0) & (corex.communalities_ <= 1)).all()
    told = [0, 1, 2, 3, 4, 8, 9]
    assert same_groups(np.abs(corex.loadings_[told]).argmax(1), np.array(told) > 4)


def test_loadings_of_a_network_are_those_of_its_best_linear_predictor():
    program = TableVAE(TableSpec(("continuous",), (0,)), 2, (3,)).double()
    with torch.no_grad():
        program.weight.copy_(torch.tensor([[0.5, 0.2]]))
        program.log_scale.zero_()
        last = program.decoder_net[-1]
        last.weight.copy_(torch.randn(last.weight.shape, generator=torch.manual_seed(0)))
    z = np.random.default_rng(0).standard_normal((200_000, 2))
    with torch.no_grad():
        eta = program.predictor(torch.as_tensor(z)).numpy()[:, 0]
    slope = np.linalg.lstsq(z, eta - eta.mean(), rcond=None)[0]
    found = correlation_loadings(program)[0]
    np.testing.assert_allclose(found, slope / np.sqrt(eta.var() + 1), atol=0.02)


def test_categorical_latents_have_none():
    x, _, _ = correlated(200, 0.0)
    assert not hasattr(CorEx(2, latent="categorical", **OPTIONS).fit(x), "loadings_")
