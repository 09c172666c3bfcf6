"""Groups of columns: what the search finds, and what it maximises."""

import itertools

import numpy as np
import pytest

from pyro_corex.estimator.grouping import find_groups, find_groups_of_many, pairwise_scores
from pyro_corex.estimator.indicators import Indicators
from tests.estimator.tables import erased_copies, same_groups


def indicators(x, levels):
    """Of columns with so many levels, NaN where an entry is missing."""
    level = np.nan_to_num(x, nan=-1).astype(int)
    return Indicators.of((own, levels) for own in level.T)


def total(scores, label, n_groups):
    """The sum that is maximised, by its definition."""
    out = 0.0
    for k in range(n_groups):
        own = np.flatnonzero(label == k)
        pairs = [scores[i, j] - 1 for i in own for j in own if i < j]
        out += (len(own) - 1) * np.mean(pairs) if pairs else -1e4
    return out


def test_scores_are_those_of_the_contingency_table():
    from scipy.stats import chi2_contingency, norm

    rng = np.random.default_rng(0)
    x = np.column_stack([rng.integers(3, size=200), rng.integers(2, size=200)]).astype(float)
    x[:, 1] = np.where(rng.random(200) < 0.3, x[:, 0] > 0, x[:, 1])
    x[rng.random(x.shape) < 0.2] = np.nan
    both = x[~np.isnan(x).any(1)].astype(int)
    counts = np.zeros((3, 2))
    np.add.at(counts, tuple(both.T), 1)
    test = chi2_contingency(counts, lambda_="log-likelihood")
    found = pairwise_scores(indicators(x, 3))
    assert norm.sf(found[0, 1]) == pytest.approx(test.pvalue, rel=0.2)
    np.testing.assert_allclose(found, found.T)
    assert found[0, 0] == 0.0


def test_scores_of_independent_columns_are_standard_normal():
    x = np.random.default_rng(0).integers(3, size=(500, 60)).astype(float)
    found = pairwise_scores(indicators(x, 3))[np.triu_indices(60, 1)]
    assert found.mean() == pytest.approx(0.0, abs=0.1)
    assert found.std() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_no_grouping_is_better(seed):
    rng = np.random.default_rng(seed)
    scores = rng.normal(2.0, 2.0, (7, 7))
    scores = np.triu(scores, 1) + np.triu(scores, 1).T
    every = map(np.array, itertools.product(range(4), repeat=7))
    best = max(total(scores, label, 3) for label in every)
    label = find_groups(scores, 3, np.random.RandomState(0))
    assert total(scores, label, 3) == pytest.approx(best)


def test_pairs_that_depend_weakly_are_found():
    right = 0
    for seed in range(5):
        x, _ = erased_copies(100, 4, 2, 3, 0.5, seed)
        x[np.random.default_rng(seed + 1).random(x.shape) < 0.3] = np.nan
        label = find_groups(pairwise_scores(indicators(x, 4)), 4, np.random.RandomState(0))
        right += same_groups(label, np.arange(4).repeat(2))
    assert right == 5


def test_independent_columns_are_left_out():
    x, _ = erased_copies(200, 3, 4, 2, 0.3, seed=0)
    noise = np.random.default_rng(1).integers(2, size=(200, 20)).astype(float)
    scores = pairwise_scores(indicators(np.hstack([x, noise]), 3))
    label = find_groups(scores, 3, np.random.RandomState(0))
    assert same_groups(label[:12], np.arange(3).repeat(4))
    assert (label[12:] == 3).all()


def test_columns_stay_together():
    x, _ = erased_copies(300, 3, 3, 2, 0.2, seed=0)
    scores = pairwise_scores(indicators(x, 3))
    rng = np.random.RandomState(0)
    assert find_groups(scores, 3, rng, [[8], [0, 3]])[[8, 0, 3]].tolist() == [0, 1, 1]
    label = find_groups(scores, 3, rng, [[8], [0]])
    assert label.tolist() == [1] * 3 + [2] * 3 + [0] * 3


def test_scores_with_other_columns_are_those_of_all_pairs():
    x = np.random.default_rng(0).integers(3, size=(100, 9)).astype(float)
    x[np.random.default_rng(1).random(x.shape) < 0.1] = np.nan
    whole = pairwise_scores(indicators(x, 3))
    part = pairwise_scores(indicators(x[:, :4], 3), indicators(x[:, 4:], 3))
    np.testing.assert_allclose(part, whole[:4, 4:])


def test_groups_of_more_columns_than_rows():
    x, _ = erased_copies(60, 4, 100, 2, 0.3, seed=0)
    noise = np.random.default_rng(1).integers(2, size=(60, 100)).astype(float)
    x = np.hstack([x, noise])
    rng = np.random.RandomState(0)
    label = find_groups_of_many(indicators(x, 3), 4, rng, [[399], [0]])
    assert same_groups(label[:400], np.arange(4).repeat(100))
    assert label[[399, 0]].tolist() == [0, 1]
    assert (label[400:] == 4).mean() > 0.8
