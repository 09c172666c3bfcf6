"""Indicators of levels, held against the dense 0/1 matrix."""

import numpy as np
import pytest

from pyro_corex.estimator import indicators as module
from pyro_corex.estimator.indicators import Indicators, leading

RNG = np.random.default_rng(0)
WIDTH = np.array([2, 4, 3])
LEVEL = np.column_stack([RNG.integers(-1, k, 50) for k in WIDTH])
LEVEL[:, 0] = RNG.random(50) < 0.1  # no gaps, and mostly 0
DENSE = np.concatenate([LEVEL[:, [i]] == np.arange(k) for i, k in enumerate(WIDTH)], 1).astype(
    float
)
HOT = Indicators.of(zip(LEVEL.T, WIDTH, strict=True))
OFTEN = RNG.uniform(0.1, 2.0, 50)


def test_what_is_counted_and_summed_is_that_of_the_matrix():
    q, table = RNG.standard_normal((50, 3)), RNG.standard_normal((9, 2))
    np.testing.assert_allclose(HOT.counts(q), DENSE.T @ q, atol=1e-8)
    np.testing.assert_allclose(HOT.dot(table), DENSE @ table)
    assert HOT.starts.tolist() == [0, 2, 6, 9]
    np.testing.assert_array_equal(HOT.levels([2, 0, 1]), LEVEL[:, [2, 0, 1]])


def test_some_columns_are_taken_in_any_order():
    some = HOT.take([2, 0])
    cells = [6, 7, 8, 0, 1]
    q = RNG.random((50, 1))
    np.testing.assert_allclose(some.counts(q), DENSE[:, cells].T @ q, atol=1e-8)
    np.testing.assert_array_equal(some.levels([0, 1]), LEVEL[:, [2, 0]])
    assert len(HOT.take([])) == 0
    assert HOT.take([]).counts(q).shape == (0, 1)


def test_pairs_are_counted_as_often_as_rows_count():
    found = HOT.joint(HOT.take([1, 0]), OFTEN)
    expected = DENSE.T @ (DENSE[:, [2, 3, 4, 5, 0, 1]] * OFTEN[:, None])
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_blocks_have_so_many_cells():
    assert [block.tolist() for block in HOT.blocks(3)] == [[0, 1], [2]]
    assert [block.tolist() for block in HOT.blocks(0)] == [[0], [1], [2]]


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
@pytest.mark.parametrize("cells", [0, 1 << 20], ids=["by steps", "whole"])
def test_principal_components_are_those_of_a_matrix_that_is_known_by_its_products(
    shape, cells, monkeypatch
):
    monkeypatch.setattr(module, "_CELLS", cells)
    matrix = RNG.standard_normal(shape) @ np.diag(0.8 ** np.arange(shape[1]))
    found = leading(lambda v: matrix @ v, lambda u: matrix.T @ u, shape, 3)
    u, s, _ = np.linalg.svd(matrix)
    expected = (u[:, :3] * s[:3])[:, ::-1]
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-3)
