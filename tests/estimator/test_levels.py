"""Columns of a few whole numbers."""

import numpy as np

from pyro_corex.estimator.columns import by_columns
from pyro_corex.estimator.description import _describe, describe_again
from pyro_corex.estimator.levels import count_levels

NAMES = [f"x{i}" for i in range(6)]


def table():
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 5, (200, 6)).astype(float)
    x[:, 1] = rng.integers(0, 2, 200) * 3 + 7  # two values apart
    x[:50, 2] = np.nan
    x[:, 3] *= 10.0  # too far apart
    x[7, 4] = 0.5
    x[:, 5] = 3.0
    return x


def test_they_are_counted_as_one_by_one():
    x = table()
    found = count_levels(x)
    assert list(found) == [0, 1, 2, 5]
    assert [found[i].kind() for i in found] == ["ordinal", "binary", "ordinal", ""]
    for i in (0, 1, 2):
        seen = x[~np.isnan(x[:, i]), i]
        column, alone = (
            found[i].column(NAMES[i], "ordinal"),
            _describe(NAMES[i], "ordinal", seen, seen, None),
        )
        assert (column.name, column.kind, column.missing) == (NAMES[i], alone.kind, 200 - len(seen))
        np.testing.assert_array_equal(column.values, alone.values)
        np.testing.assert_allclose(column.marginal, alone.marginal)
    assert found[5].column("same", "ordinal").kind == "constant"


def test_columns_that_may_be_dates_or_hold_many_numbers_are_looked_at_alone():
    x = np.array([[20240100.0 + k % 5, k % 8] for k in range(30)])
    assert [levels.kind() for levels in count_levels(x).values()] == ["", ""]


def test_other_rows_are_described_alike():
    x = table()[:, :3]
    columns = [count_levels(x)[i].column(NAMES[i], "ordinal") for i in range(3)]
    again = describe_again(columns, x[100:])
    for column, rows in zip(again, x[100:].T, strict=True):
        values, counts = np.unique(rows[~np.isnan(rows)], return_counts=True)
        np.testing.assert_array_equal(column.values, values)
        p = np.exp(column.marginal) * (counts.sum() + 0.5)
        np.testing.assert_allclose(p, counts + 0.5 / len(counts))


def test_a_table_is_looked_at_some_columns_at_a_time():
    x = np.arange(4.0)[:, None] * np.ones((1, 200_000))
    np.testing.assert_array_equal(by_columns(lambda part: part.sum(0), x), 6.0)
