"""Correlations of all rows, and of those of wide tables that are looked at."""

import numpy as np
import pytest

from pyro_corex import CorEx
from pyro_corex.estimator import correlations
from pyro_corex.estimator.correlations import Correlations
from tests.estimator.tables import factor_table

LONG, _ = factor_table(45_000, 1, 4, 0.5, seed=0)


def test_gaps_and_weights_of_long_tables():
    rng = np.random.default_rng(2)
    x = np.where(rng.random(LONG.shape) < 0.1, np.nan, LONG)
    weight = 0.5 + rng.random(len(x))
    corex = CorEx(1, cv=None).fit(x, sample_weight=weight)

    def mean(values):
        seen = ~np.isnan(values)
        return np.average(values[seen], weights=weight[seen])

    z = x - [mean(own) for own in x.T]
    z /= np.sqrt([mean(own**2) for own in z.T])
    expected = np.array([[mean(a * b) for a in z.T] for b in z.T])
    own = np.sqrt(np.diag(corex.get_covariance()))
    rest = (expected - corex.get_covariance() / np.outer(own, own))[np.tril_indices(4, -1)]
    assert corex.fit_.srmr == pytest.approx(np.sqrt((rest**2).mean()), abs=1e-4)
    assert corex.alpha_[0] == pytest.approx(4 / 3 * (1 - 4 / expected.sum()), rel=1e-9)


@pytest.mark.parametrize("gaps", [0.0, 0.2])
def test_wide_tables_have_the_same_from_their_columns_a_block_at_a_time(gaps, monkeypatch):
    x, _ = factor_table(300, 2, 3, 0.5, seed=1)
    x[np.random.default_rng(0).random(x.shape) < gaps] = np.nan
    weight = 0.5 + np.random.default_rng(3).random(len(x))
    corex = CorEx(2, cv=None, random_state=0).fit(x, sample_weight=weight)
    code = corex._coding.encode(x)
    found = Correlations(corex._layer, code, weight)
    monkeypatch.setattr(correlations, "_MOST", 5)
    wide = Correlations(corex._layer, code, weight)
    own, other, sign = np.array([0, 3, 4]), slice(2, 6), np.array([1.0, -1.0, 1.0])
    assert wide.all is None
    np.testing.assert_allclose(wide.scale, found.scale)
    np.testing.assert_allclose(wide.between(own, other), found.between(own, other))
    assert wide.variance(own, sign) == pytest.approx(found.variance(own, sign))
    assert found.complete == wide.complete == (gaps == 0)
    monkeypatch.setattr(correlations, "_PRODUCTS", 1.0)
    assert wide.many(3)
    assert not found.many(3)
    assert np.isnan(wide.variance(own, sign)) == (gaps > 0)
