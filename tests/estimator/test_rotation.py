"""Rotations to simple structure."""

import numpy as np
import pytest

from pyro_corex.estimator.rotation import _crossings, oblimin, simplicity, varimax

SIMPLE = np.kron(np.eye(3), np.ones((6, 1))) * np.linspace(-0.7, 0.8, 18)[:, None]


def crossings(rows, psi, cov, axes):
    """The criterion from the noise of each row."""
    return _crossings(rows, (rows * psi[:, None]).T @ rows, psi @ psi, cov, axes)


def test_varimax_leaves_a_saddle():
    simple = np.kron(np.eye(2), np.ones((3, 1)))
    turn = np.array([[1.0, 1], [1, -1]]) / np.sqrt(2)  # the gradient vanishes here
    assert simplicity(simple @ turn) == pytest.approx(1)


def test_varimax_undoes_a_rotation():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    back = SIMPLE @ turn @ varimax(SIMPLE @ turn)
    np.testing.assert_allclose(np.sort(np.abs(back), 1), np.sort(np.abs(SIMPLE), 1), atol=1e-4)


@pytest.mark.parametrize("phi", [[0.0, 0.0, 0.0], [0.5, 0.3, -0.4]])
def test_oblimin_finds_simple_structure_and_the_correlations_behind_it(phi):
    corr = np.eye(3)
    corr[[0, 0, 1], [1, 2, 2]] = corr[[1, 2, 2], [0, 0, 1]] = phi
    known = SIMPLE @ np.linalg.cholesky(corr)  # on uncorrelated factors
    start = known @ varimax(known)
    axes = oblimin(start)
    pattern = start @ np.linalg.inv(axes).T
    order = np.abs(pattern.T @ SIMPLE).argmax(0)
    sign = np.sign((pattern[:, order] * SIMPLE).sum(0))
    np.testing.assert_allclose(pattern[:, order] * sign, SIMPLE, atol=1e-4)
    found = (axes.T @ axes)[np.ix_(order, order)] * np.outer(sign, sign)
    np.testing.assert_allclose(found, corr, atol=1e-4)


def test_the_criterion_is_free_of_errors_of_loadings_on_average():
    rng = np.random.default_rng(0)
    psi, axes = rng.uniform(0.3, 0.9, 18), rng.standard_normal((3, 3))
    cov = 0.02 * np.cov(rng.standard_normal((3, 9)))
    none, _ = crossings(SIMPLE, 0 * psi, cov, axes)
    pattern = (SIMPLE @ np.linalg.inv(axes).T) ** 2
    by_hand = sum(pattern[:, j] @ pattern[:, k] for j in range(3) for k in range(3) if j != k)
    assert none == pytest.approx(by_hand / 4 / 18)
    errors = rng.standard_normal((4000, 18, 3)) @ np.linalg.cholesky(cov).T
    noisy = SIMPLE + np.sqrt(psi)[:, None] * errors
    with_errors, free = (
        np.array([crossings(rows, own, cov, axes)[0] for rows in noisy]) for own in (0 * psi, psi)
    )
    assert free.mean() == pytest.approx(none, abs=4 * free.std() / np.sqrt(4000))
    assert with_errors.mean() > none + 10 * free.std() / np.sqrt(4000)


def test_the_gradient_of_the_criterion():
    rng = np.random.default_rng(0)
    rows, psi, axes = rng.standard_normal((9, 3)), rng.random(9), rng.standard_normal((3, 3))
    cov = np.cov(rng.standard_normal((3, 9)))
    slope = crossings(rows, psi, cov, axes)[1]
    for at in np.ndindex(3, 3):
        moved = np.zeros((3, 3))
        moved[at] = 1e-6
        up, down = (crossings(rows, psi, cov, axes + s * moved)[0] for s in (1, -1))
        assert slope[at] == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-6)


def test_factors_that_would_fall_together_stay_apart():
    rng = np.random.default_rng(0)
    for seed in range(5):
        noise = 0.1 * np.random.default_rng(seed).standard_normal((12, 4))
        axes = oblimin(noise + np.outer(rng.random(12), [1, 0, 0, 0]), 0.5, 50)
        assert np.linalg.eigvalsh(axes.T @ axes)[0] >= 0.05
