"""Where Gaussian programs start: normal scores, and anchors."""

import numpy as np
import pytest

from pyro_corex import CorEx
from pyro_corex.estimator.initial import moments
from tests.estimator.tables import (
    factor_table,
)


def test_anchors_say_which_latent_a_column_is_in_and_cost_nothing_when_true():
    x, truth = factor_table(2000, 3, 4, 0.5, seed=0)
    corex = CorEx(3, anchors={2: [0], 0: [4, 5], 1: 8}, random_state=0).fit(x)
    assert corex.clusters_.tolist() == [2] * 4 + [0] * 4 + [1] * 4
    assert corex.tc_ == pytest.approx(truth, rel=0.03)


def test_anchored_columns_load_on_no_other_latent():
    x, _ = factor_table(2000, 2, 4, 0.5, seed=0)
    corex = CorEx(2, anchors={0: [0, 4]}, random_state=0).fit(x)
    assert corex.clusters_[[0, 4]].tolist() == [0, 0]
    np.testing.assert_allclose(corex.loadings_[[0, 4], 1], 0, atol=1e-9)
    assert corex.tc_ < CorEx(2, random_state=0).fit(x).tc_  # what is not so costs something


def test_stronger_anchors_pull_harder():
    rng = np.random.default_rng(1)
    x, _ = factor_table(1000, 1, 5, 0.5, seed=0)
    x = np.column_stack([x, 0.3 * x[:, 0] + rng.standard_normal(1000)])
    told = [
        CorEx(1, anchors={0: {5: strength}}, random_state=0, tol=0.01).fit(x).mis_[0, 5]
        for strength in (1.0, 20.0)
    ]
    assert told[1] > 1.5 * told[0]
    by_default = CorEx(1, anchors={0: [5]}, anchor_strength=20.0, random_state=0, tol=0.01).fit(x)
    assert by_default.mis_[0, 5] == pytest.approx(told[1])


# ---------------------------------------------------------------------- normal scores


def described(x):
    corex = CorEx(1, random_state=0, max_iter=1).fit(x)
    return corex._coding


def test_scores_of_complete_continuous_columns_have_their_correlations():
    x, _ = factor_table(300, 2, 3, 0.5, seed=0)
    coding = described(x)
    found = moments(coding, x)
    np.testing.assert_allclose(found.corr, np.corrcoef(x.T), atol=1e-9)
    assert found.complete
    assert found.n == 300


def test_scores_of_levels_have_nearly_the_correlations_of_what_was_cut():
    x, _ = factor_table(20_000, 1, 4, 0.7, seed=0)
    levels = np.digitize(x, [-1.0, 0.0, 1.0]).astype(float)
    levels[::3, 0] = np.nan
    coding = described(levels[:1000])
    found = moments(coding, levels)
    np.testing.assert_allclose(found.corr, np.corrcoef(x.T), atol=0.04)
    assert not found.complete


def test_where_columns_exceed_rows_there_is_a_factor_of_the_correlations():
    x, _ = factor_table(40, 10, 6, 0.5, seed=0)
    coding = described(x)
    found = moments(coding, x)
    assert found.wide
    assert found.complete
    assert found.corr.shape == (60, 40)
    code = coding.encode(x).numpy()
    np.testing.assert_allclose(found.corr @ found.corr.T, np.corrcoef(code.T), atol=1e-9)
    levels = np.digitize(x, [-1.0, 0.0, 1.0]).astype(float)
    told = moments(described(levels), levels)
    loadings, psi = told.restored(np.full((60, 1), 0.6), np.full(60, 0.64))
    assert (loadings > 0.6).all()  # levels are less than what was cut
    np.testing.assert_allclose((loadings**2).sum(1) + psi, 1)
