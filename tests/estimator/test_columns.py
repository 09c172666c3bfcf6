"""Kinds of columns: codes, and data from them."""

import numpy as np
import pytest

from pyro_corex import CorEx
from pyro_corex.estimator.columns import Coding, Column, log_marginals
from tests.estimator.tables import (
    erased_copies,
)

D, _ = erased_copies(100, 2, 3, 3, 0.2, seed=0)


def test_negative_counts_in_new_rows():
    x = np.random.default_rng(0).poisson(3, (100, 3)).astype(float)
    corex = CorEx(1, kinds="counts", random_state=0, max_iter=20, tol=10.0, cv=None).fit(x)
    with pytest.raises(ValueError, match=r"'x0' holds counts, but -1 is negative"):
        corex.transform(-np.ones((1, 3)))


def test_unknown_states_count_as_missing():
    corex = CorEx(2, latent="categorical", kinds="categorical", random_state=0).fit(D)
    row = D[:1].copy()
    row[0, 0] = 9
    with pytest.warns(UserWarning, match=r"'x0' holds 1 values of states that it had not in fit"):
        found = corex.posterior(row)
    row[0, 0] = np.nan
    np.testing.assert_allclose(found, corex.posterior(row))


# ---------------------------------------------------------------------- codes

LEVELS = Column("answer", "ordinal", np.array([1.0, 2.0, 5.0]), marginal=np.log([0.2, 0.5, 0.3]))
SKEWED = Column("income", "continuous", knots=(np.exp(np.arange(-3.0, 4)), np.arange(-3.0, 4)))
CONSTANT = Column("same", "constant", np.array([7.0]))
PLAIN = Column("size", "continuous", loc=2.0, scale=3.0)


@pytest.mark.parametrize("column", [LEVELS, SKEWED, PLAIN])
def test_codes_are_turned_back_into_data(column):
    x = np.array([1.0, 2.0, 5.0, np.nan])
    code = column.encode(x)
    assert np.isnan(code[3])
    np.testing.assert_allclose(column.decode(code[:3]), x[:3])


def test_levels_are_the_nearest():
    np.testing.assert_array_equal(LEVELS.encode(np.array([0.0, 1.6, 9.0])), [0, 1, 2])


def test_columns_are_filled_by_the_mean_the_median_and_draws():
    p = np.array([[0.45, 0.1, 0.45], [0.6, 0.2, 0.2]])
    rng = np.random.RandomState(0)
    np.testing.assert_allclose(LEVELS.fill(p, "mean", rng), p @ LEVELS.values)
    np.testing.assert_array_equal(LEVELS.fill(p, "best", rng), [2.0, 1.0])
    drawn = LEVELS.fill(p[:1].repeat(5000, 0), "draw", rng)
    assert (drawn == 5).mean() == pytest.approx(0.45, abs=0.03)
    np.testing.assert_array_equal(CONSTANT.fill(p, "draw", rng), 7.0)
    normal = np.array([[0.0, 0.5]])
    np.testing.assert_allclose(PLAIN.fill(normal, "best", rng), 2.0)
    assert SKEWED.fill(normal, "best", rng)[0] == pytest.approx(np.exp(0.125), rel=0.1)


def test_constant_columns_have_no_code():
    coding = Coding([PLAIN, CONSTANT, LEVELS])
    x = np.array([[2.0, 7.0, 5.0], [5.0, 7.0, np.nan]])
    code = coding.encode(x)
    np.testing.assert_array_equal(code, [[0.0, 2.0], [1.0, np.nan]])
    np.testing.assert_array_equal(coding.decode(code.numpy()[:1]), x[:1])
    np.testing.assert_array_equal(coding.widen(np.array([3.0, 4.0])), [3.0, 0.0, 4.0])
    assert [len(batch) for batch in coding.batches(x)] == [2]


def test_a_table_is_coded_as_its_columns_are_one_by_one():
    rng = np.random.default_rng(0)
    columns = [PLAIN, LEVELS, CONSTANT, SKEWED, LEVELS, PLAIN]
    x = rng.choice([1.0, 1.4, 1.5, 2.0, 3.5, 3.6, 5.0, 9.0, np.nan], (50, 6))
    used = [i for i, column in enumerate(columns) if column.varies]
    alone = np.stack([columns[i].encode(x[:, i]) for i in used], 1)
    np.testing.assert_allclose(Coding(columns).encode(x).numpy(), alone)
    np.testing.assert_allclose(Coding([PLAIN] * 6).encode(x).numpy(), (x - 2) / 3)
    each = [columns[i].log_marginal(alone[:, k]) for k, i in enumerate(used)]
    own = [columns[i] for i in used]
    np.testing.assert_allclose(log_marginals(own, alone), np.stack(each, 1))
