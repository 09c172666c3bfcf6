"""Sizes and profiles of classes that are planted."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp

from pyro_corex import CorEx

SIZES = np.array([0.5, 0.3, 0.2])
YES = np.array([[0.9, 0.8, 0.9, 0.85], [0.1, 0.9, 0.1, 0.2], [0.2, 0.1, 0.2, 0.9]])


def planted(n, seed=0):
    rng = np.random.default_rng(seed)
    state = rng.choice(3, n, p=SIZES)
    answers = np.where(rng.random((n, 4)) < YES[state], "yes", "no")
    height = rng.normal(np.array([170.0, 150.0, 190.0])[state], 5.0)
    return pd.DataFrame(answers, columns=list("abcd")).assign(height=height), state


FRAME, STATE = planted(2000)


@pytest.mark.parametrize("seed", [0, 1])
def test_classes_in_the_order_of_their_size(seed):
    corex = CorEx(1, latent="categorical", n_states=3, cv=None, random_state=seed).fit(FRAME)
    np.testing.assert_allclose(corex.class_sizes_[0], SIZES, atol=0.03)
    profiles = corex.class_profiles_[0]
    assert list(profiles) == [*"abcd", "height"]
    for at, name in enumerate("abcd"):
        np.testing.assert_allclose(profiles[name].sum(1), 1)
        np.testing.assert_allclose(profiles[name][:, 1], YES[:, at], atol=0.05)
    np.testing.assert_allclose(profiles["height"], [[170, 5], [150, 5], [190, 5]], atol=0.7)
    assert (corex.labels_[:, 0] == STATE).mean() > 0.95


def test_classes_of_one_size_are_in_the_order_of_their_first_column():
    x = np.random.default_rng(0).integers(2, size=(500, 1)).repeat(3, 1).astype(float)
    x[:20] = 1 - x[:20] * np.array([0, 0, 1])
    for seed in range(2):
        corex = CorEx(1, latent="categorical", cv=None, random_state=seed).fit(x)
        assert (corex.labels_[:, 0] == 0)[20:].mean() == pytest.approx((x[20:, 0] == 1).mean())


def test_the_likelihood_is_that_of_the_classes():
    data = FRAME[list("abcd")].iloc[:300]
    corex = CorEx(1, latent="categorical", n_states=3, cv=None, random_state=0).fit(data)
    yes = np.stack([own[:, 1] for own in corex.class_profiles_[0].values()])
    log_p = np.where(data.to_numpy()[:, :, None] == "yes", np.log(yes), np.log(1 - yes)).sum(1)
    expected = logsumexp(log_p + np.log(corex.class_sizes_[0]), axis=1).sum()
    assert corex.fit_.log_likelihood == pytest.approx(expected)
    assert corex.fit_.n_parameters == 2 + 3 * 4
    assert corex.bic_ == pytest.approx(np.log(300) * 14 - 2 * expected)


def test_bic_finds_the_number_of_classes():
    corex = CorEx(1, latent="categorical", n_states="auto", cv=None, random_state=0).fit(FRAME)
    assert len(corex.class_sizes_[0]) == 3
    assert [trial["n_states"] for trial in corex.trials_] == [2, 3, 4, 5]
    assert corex.trials_[1]["bic"] == pytest.approx(corex.bic_)
    assert corex.bic_ == pytest.approx(min(trial["bic"] for trial in corex.trials_))
