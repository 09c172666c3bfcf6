"""Columns that standardising is enough for."""

import numpy as np

from pyro_corex.estimator.description import _describe, describe_again
from pyro_corex.estimator.standard import standard_columns


def test_they_are_those_that_one_by_one_are_standardised():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 12)) * 3 + 1
    x[:, 0] = np.exp(x[:, 0])  # skewed
    x[5, 1] = np.nan
    x[:, 2] = x[:, 2].round()
    x[:, 3] = x[:, 3].round(1)
    x[:, 4] = 7.5
    x[0, 5] = 100.0
    names = [f"x{i}" for i in range(12)]
    found = standard_columns(x, names)
    assert list(found) == [6, 7, 8, 9, 10, 11]
    for i, column in found.items():
        alone = _describe(names[i], "continuous", x[:, i], x[:, i], None)
        assert (column.name, column.kind, alone.knots) == (names[i], "continuous", None)
        np.testing.assert_allclose([column.loc, column.scale], [alone.loc, alone.scale])
    again = describe_again(list(found.values()), x[:, list(found)])
    scales = [[column.scale for column in own] for own in (again, found.values())]
    np.testing.assert_allclose(*scales)
    assert standard_columns(x[:19], names) == {}
