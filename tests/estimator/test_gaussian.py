"""Gaussian latents: closed forms, training, and what cannot be told."""

import numpy as np
import pytest

from pyro_corex import CorEx
from pyro_corex.datasets import linear_gaussian
from pyro_corex.estimator.gaussian import has_converged
from tests.estimator.tables import (
    factor_table,
    same_groups,
    survey,
)

X, _ = factor_table(100, 2, 3, 0.5, seed=0)


@pytest.mark.parametrize("groups", [True, False])
def test_the_tc_of_linear_gaussian_data_is_found(groups):
    data = linear_gaussian(20_000, 20, 4, groups=groups, noise=0.7, seed=1)
    corex = CorEx(4, random_state=0).fit(data.x.double().numpy())
    assert corex.tc_ == pytest.approx(data.total_correlation, rel=0.02)
    assert corex.tcs_.sum() == pytest.approx(corex.tc_)
    assert np.all(np.diff(corex.tcs_) <= 0)
    if groups:
        assert same_groups(corex.clusters_, np.arange(20) % 4)


def test_mutual_informations_are_those_of_the_closed_form():
    x, _ = factor_table(50_000, 2, 3, 0.5, seed=0)
    corex = CorEx(2, random_state=0).fit(x)
    own = corex.clusters_ == np.arange(2)[:, None]
    np.testing.assert_allclose(corex.mis_[own], 0.5 * np.log(1 + 1 / 0.25), atol=0.02)
    np.testing.assert_allclose(corex.mis_[~own], 0, atol=0.002)
    assert np.all(corex.mis_stderr_ > 0)


def test_networks_see_what_a_linear_program_cannot():
    rng = np.random.default_rng(0)
    z = rng.uniform(-1.7, 1.7, (1500, 1))
    x = np.column_stack([z, z, z**2, z**2]) + 0.2 * rng.standard_normal((1500, 4))
    linear = CorEx(1, kinds="continuous", random_state=0).fit(x)
    options = {"kinds": "continuous", "max_iter": 200, "tol": 1.0, "cv": None, "random_state": 0}
    neural = CorEx(1, hidden=(16,), **options).fit(x)
    assert neural.score(x) > linear.score(x) + 0.5


def test_what_a_missing_entry_held_makes_no_difference():
    answers, _ = survey(300, 2, 5, seed=0)
    answers[::3, 2] = np.nan
    corex = CorEx(2, random_state=0, max_iter=30).fit(answers)
    assert np.isfinite(corex.transform(answers)).all()
    alone = answers[:1].copy()
    alone[0, 1:] = np.nan
    z = corex.transform(alone)
    assert np.abs(z).max() > 0  # the one entry counts
    assert np.abs(z).max() < np.abs(corex.transform(answers[:1])).max() + 1


def test_a_column_that_a_latent_tells_exactly():
    """Its predictor is far beyond what a logistic function can tell from 0 and 1."""
    nan = np.nan
    likes = [[5, 4], [2, 1], [4, 4], [1, 2], [5, 5], [1, 1], [4, 5], [2, nan]]
    age, city = [34, 28, 45, 31, 52, 23, 38, 29], [1, 0, 1, 0, 1, 0, nan, 0]
    corex = CorEx(1, cv=None, random_state=0).fit(np.column_stack([age, likes, city]))
    assert np.isfinite(corex.mis_).all()
    assert 0.3 < corex.mis_[0, 3] <= np.log(2)


def test_a_bound_that_rises_beyond_its_noise_has_not_converged():
    noise = 0.01 * np.random.default_rng(0).standard_normal(60)
    rising = np.linspace(-10, -5, 60)
    assert not has_converged(rising + noise, 1e-4)
    assert has_converged(np.minimum(rising, -9) + noise, 1e-4)
    assert has_converged(rising[:3], 1e-4)  # too few to tell


def test_training_that_diverges():
    answers = np.digitize(X, [-1, 0, 1]).astype(float)
    with (
        pytest.raises(FloatingPointError, match=r"Training diverged in epoch .* Lower lr"),
        np.errstate(all="ignore"),
    ):
        CorEx(2, random_state=0, lr=1e8).fit(answers)


def test_one_of_several_columns_takes_no_latent_from_the_others():
    x, _ = factor_table(150, 2, 3, 0.5, seed=0)
    one = np.eye(4)[np.random.default_rng(1).integers(4, size=150)]
    alone = CorEx(2, cv=None, random_state=0).fit(x)
    with pytest.warns(UserWarning, match="tied|add up"):
        beside = CorEx(2, cv=None, random_state=0).fit(np.column_stack([x, one]))
    assert beside.tc_ > alone.tc_ - alone.tc_stderr_ / 2
    assert (beside.clusters_[:6] == alone.clusters_).all()
    copies = (x[:, [0, 0, 3]] > 0).astype(float)  # those of columns are what latents are for
    with pytest.warns(UserWarning, match="tell the same"):
        found = CorEx(2, cv=None, random_state=0).fit(np.column_stack([x[:, 3:], copies]))
    assert found.clusters_[3] == found.clusters_[4] >= 0
