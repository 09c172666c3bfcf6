"""A style of answering: a latent of its own among traits."""

import numpy as np
import pytest

from pyro_corex import CorEx
from pyro_corex.estimator.style import style_rotation
from tests.estimator.tables import same_groups, survey


def test_the_axis_of_a_style():
    rng = np.random.default_rng(0)
    simple = np.kron(np.eye(3), np.ones((6, 1))) * np.where(rng.random((18, 1)) < 0.5, -1, 1)
    styled = np.column_stack([simple, np.full(18, 0.5)])
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    back = styled @ turn @ style_rotation(styled @ turn)
    np.testing.assert_allclose(back[:, 3], 0.5, atol=1e-4)
    np.testing.assert_allclose(np.abs(back[:, :3]).max(1), 1, atol=1e-4)


@pytest.mark.parametrize("acquiescence", [0.0, 0.3])
def test_questions_of_a_trait_end_in_one_latent(acquiescence):
    answers, trait = survey(1500, 4, 8, seed=0, acquiescence=acquiescence)
    corex = CorEx(4, random_state=0, max_iter=60, tol=1.0).fit(answers)
    assert same_groups(corex.clusters_, trait)
    assert (corex.style_tc_ > 0.1) == (acquiescence > 0)
    assert corex.tcs_.sum() + corex.style_tc_ == pytest.approx(corex.tc_)
    z = corex.transform(answers)
    assert z.shape == (1500, 4)
    assert corex.inverse_transform(z).shape == answers.shape
    assert corex.loadings_.shape == (32, 4)
    assert np.array_equal(np.abs(corex.loadings_).argmax(1), corex.clusters_)


def test_a_common_trait_is_no_style():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((1000, 3)) + rng.standard_normal((1000, 1))
    y = z.repeat(5, 1) + rng.standard_normal((1000, 15))  # all keyed one way
    for n_hidden in (1, 2, 3):
        answers = np.digitize(y, [-2, -0.7, 0.7, 2])
        corex = CorEx(n_hidden, random_state=0, max_iter=20, tol=1.0).fit(answers)
        assert corex.style_tc_ == 0, n_hidden


def test_a_style_is_looked_for_or_not_as_is_said():
    answers, _ = survey(400, 2, 5, seed=0, acquiescence=0.5)
    options = {"random_state": 0, "max_iter": 5, "tol": 1.0, "cv": None}
    assert CorEx(2, style=False, **options).fit(answers).style_tc_ == 0
    assert CorEx(2, style=True, **options).fit(answers + 0.01).style_tc_ != 0
