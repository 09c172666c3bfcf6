"""Rotations to simple structure."""

import numpy as np
import pytest

from pyro_corex.estimator.rotation import simplicity, style_rotation, varimax


def test_varimax_leaves_a_saddle():
    simple = np.kron(np.eye(2), np.ones((3, 1)))
    turn = np.array([[1.0, 1], [1, -1]]) / np.sqrt(2)  # the gradient vanishes here
    assert simplicity(simple @ turn) == pytest.approx(1)


def test_varimax_and_the_axis_of_a_style():
    rng = np.random.default_rng(0)
    simple = np.kron(np.eye(3), np.ones((6, 1))) * np.where(rng.random((18, 1)) < 0.5, -1, 1)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    back = simple @ turn @ varimax(simple @ turn)
    assert simplicity(simple @ turn) == pytest.approx(1)
    np.testing.assert_allclose(np.sort(np.abs(back), 1), np.sort(np.abs(simple), 1), atol=1e-4)
    styled = np.column_stack([simple, np.full(18, 0.5)])
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    back = styled @ turn @ style_rotation(styled @ turn)
    np.testing.assert_allclose(back[:, 3], 0.5, atol=1e-4)
    np.testing.assert_allclose(np.abs(back[:, :3]).max(1), 1, atol=1e-4)
