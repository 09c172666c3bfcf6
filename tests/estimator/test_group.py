"""A latent class model of a group of columns."""

import numpy as np

from pyro_corex import CorEx
from pyro_corex.estimator.group import Design, Group, fit_group
from tests.estimator.tables import (
    erased_copies,
    same_groups,
    with_gaps,
)


def test_of_explanations_as_likely_that_with_more_zeros_is_taken():
    right = 0
    for seed in range(8):
        x, hidden, known = with_gaps(100, 3, 5, 4, 0.5, 0.3, seed)
        anchors = {j: list(range(5 * j, 5 * j + 5)) for j in range(3)}
        labels = CorEx(3, latent="categorical", n_states=4, anchors=anchors).fit(x).labels_
        right += sum(same_groups(labels[known[:, j], j], hidden[known[:, j], j]) for j in range(3))
    assert right >= 22  # of 24


def design(seed=0):
    x, _ = erased_copies(300, 1, 4, 3, 0.3, seed)
    x[::7, 1] = np.nan
    coding = CorEx(1, latent="categorical", random_state=0).fit(x)._coding
    return Design(coding.used, coding.encode(x).numpy())


def test_each_step_of_em_raises_the_likelihood_with_what_it_is_given_beforehand():
    group = Group(design(), range(4), 3, np.ones(4))
    q = np.random.default_rng(0).dirichlet(np.ones(3), 300)
    values = [group.run(q, n, 0.0)[1] for n in (1, 2, 4, 8, 16)]
    assert (np.diff(values) > -0.01).all()
    assert values[-1] > values[0] + 0.1


def test_a_columns_own_say_is_left_out():
    fitted = fit_group(design(), range(4), 3, np.ones(4), 100, 1e-6, np.random.RandomState(0))
    group, q = fitted.group, fitted.q
    assert fitted.converged
    group.maximise(q)
    np.testing.assert_allclose(group.without(0).sum(1), 1)
    rest = Group(group.design, [1, 2, 3], 3, np.ones(4))
    rest.maximise(q)
    joint = rest.log_joint()
    expected = np.exp(joint - np.logaddexp.reduce(joint, 1, keepdims=True))
    np.testing.assert_allclose(group.without(0), expected, atol=1e-6)


def test_a_lone_column_has_one_state_and_no_parameters():
    fitted = fit_group(design(), [2], 3, np.ones(4), 100, 1e-6, np.random.RandomState(0))
    assert fitted.group.n_parameters() == 0.0
    assert (fitted.q[:, 0] == 1).all()
