"""Results do not depend on the units of columns."""

import numpy as np
import pytest

from pyro_corex import CorEx
from pyro_corex.estimator.standard import moments_of
from pyro_corex.estimator.suspects import check_no_correlations, rows_with
from tests.estimator.tables import factor_table

Z, _ = factor_table(300, 2, 3, 0.5, seed=0)
X = Z.copy()
X[:, 0] = np.exp(Z[:, 0])  # skewed
X[:, 3] = np.tan(1.4 * np.tanh(Z[:, 3]))  # heavy-tailed
X[:, 4] = Z[:, 4].round(1)  # repeats
FITTED = CorEx(2, cv=None).fit(X)
EACH = np.array([1e-13, 1e13, 1e-30, 1e30, 1e-300, 1e300])


@pytest.mark.parametrize("unit", [1e-300, 1e-13, 1e13, 1e300, EACH, EACH[::-1]], ids=str)
def test_another_unit(unit):
    corex = CorEx(2, cv=None).fit(X * unit)
    assert corex.tc_ == pytest.approx(FITTED.tc_, rel=1e-6)
    np.testing.assert_array_equal(corex.clusters_, FITTED.clusters_)
    np.testing.assert_allclose(corex.transform(X * unit), FITTED.transform(X), atol=1e-5)
    np.testing.assert_allclose(corex.inverse_transform(np.eye(2)) / unit,
                               FITTED.inverse_transform(np.eye(2)), rtol=1e-5)  # fmt: skip


@pytest.mark.parametrize("shift", [2000.0, -1e9])
def test_another_origin(shift):
    assert CorEx(2, cv=None).fit(X + shift).tc_ == pytest.approx(FITTED.tc_, rel=1e-4)


@pytest.mark.parametrize("unit", [1e-13, 0.5, 1e13])
def test_kinds_have_no_unit(unit):
    levels = np.digitize(Z, [-1, 0, 1]).astype(float)
    levels[:, 0] = levels[:, 0] > 1
    told = CorEx().describe(levels * unit)
    assert [c.kind for c in told.columns] == ["binary", *["ordinal"] * 5]
    assert told.notes == []
    table = np.column_stack([Z * unit, np.arange(1.0, 301) * unit, Z[:, 0] * unit])
    told = CorEx().describe(table)
    assert [c.kind for c in told.columns] == [*["continuous"] * 6, "left out", "continuous"]
    assert "tell the same" in told.notes[1]


@pytest.mark.parametrize("unit", [1e-100, 1e-13, 1.0, 1e100])
def test_covariances_in_any_unit(unit):
    sd = unit * np.array([1.0, 1e3, 1e-3])
    cov = np.outer(sd, sd) * np.array([[1.0, 0.5, 0.2], [0.5, 1.0, 0.3], [0.2, 0.3, 1.0]])
    rows = rows_with(cov, 50)
    np.testing.assert_allclose(rows.T @ rows / 50 / np.outer(sd, sd), cov / np.outer(sd, sd))
    with pytest.raises(ValueError, match="covariances of its columns"):
        check_no_correlations(cov, list("abc"), range(3))
    check_no_correlations(Z[:3, :3] * unit, list("abc"), range(3))  # rows, however small
    with pytest.raises(ValueError, match=r"variances above 0 in their diagonal, but it holds 0"):
        rows_with(np.diag([1.0, 0.0]), 50)


def test_digits_that_are_lost_are_said():
    with pytest.warns(UserWarning, match=r"'x0' varies by 1.* 64 bits are 0.125 apart"):
        CorEx(2, cv=None).fit(Z + np.array([1e15, 0, 0, 0, 0, 0]))
    seconds = (1.7e9 + 100 * Z).astype(np.float32)
    told = CorEx().describe(seconds)
    assert sum("numbers of 32 bits are 128 apart" in note for note in told.notes) == 6
    noise = CorEx().describe(np.column_stack([Z, np.where(Z[:, 0] > 0, 0.1 + 0.2, 0.3)]))
    assert (noise.columns[6].kind, noise.columns[6].why) == ("constant", "one value up to rounding")
    assert "'x6' varies by 5.55112e-17 about 0.3" in noise.notes[0]


def test_moments_with_weights_are_those_of_repeated_rows():
    weight = np.random.default_rng(0).integers(0, 4, len(X))
    found = moments_of(X, weight.astype(float))
    for a, b in zip(found, moments_of(X.repeat(weight, 0)), strict=True):
        np.testing.assert_allclose(a, b)
    np.testing.assert_allclose(moments_of(X)[:2], [X.mean(0), X.std(0)])
