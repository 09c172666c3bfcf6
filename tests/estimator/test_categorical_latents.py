"""Categorical latents: hidden causes that are known."""

import numpy as np
import pytest
import torch

from pyro_corex import CorEx, CorExELBO
from pyro_corex.estimator.results import informative_rows
from tests.estimator.tables import erased_copies, erased_tc, same_groups


def matched(labels, hidden):
    """The share of rows whose state is right, with states renamed one to one."""
    from scipy.optimize import linear_sum_assignment

    k = int(max(labels.max(), hidden.max())) + 1
    table = np.zeros((k, k))
    np.add.at(table, (labels.astype(int), hidden.astype(int)), 1)
    return table[linear_sum_assignment(-table)].sum() / len(labels)


@pytest.mark.parametrize(
    ("n", "size", "states", "erasure", "missing"),
    [
        (1000, 2, 2, 0.1, 0.0),
        (1000, 5, 3, 0.5, 0.0),
        (1000, 4, 4, 0.3, 0.2),
        (2000, 10, 2, 0.5, 0.3),
    ],
)
def test_hidden_causes_are_found(n, size, states, erasure, missing):
    x, hidden = erased_copies(n, 3, size, states, erasure, seed=0)
    x[np.random.default_rng(1).random(x.shape) < missing] = np.nan
    corex = CorEx(3, latent="categorical", n_states=states, random_state=0).fit(x)
    assert same_groups(corex.clusters_, np.arange(3).repeat(size))
    np.testing.assert_allclose(corex.tcs_, erased_tc(size, states, erasure), rtol=0.1)
    for j in range(3):
        cause = corex.clusters_[::size].tolist().index(j)
        own = x[:, cause * size : (cause + 1) * size]
        known = np.any(own < states, axis=1)  # else nothing says what the state is
        assert matched(corex.labels_[known, j], hidden[known, cause]) == 1.0


def test_the_bound_is_the_likelihood_and_the_programs_own():
    x, _ = erased_copies(300, 2, 3, 2, 0.2, seed=0)
    corex = CorEx(2, latent="categorical", random_state=0).fit(x)
    code = torch.as_tensor(x)
    terms = CorExELBO(strict_enumeration_warning=False).terms(
        corex.program_.model, corex.program_.guide, code
    )
    assert -corex.surprise(x).mean() == pytest.approx(float(terms.elbo), abs=1e-6)
    evidence = corex.program_.log_joint(code).logsumexp(-1).sum(-1).mean().item()
    assert float(terms.elbo) == pytest.approx(evidence, abs=1e-6)


def test_posteriors_labels_and_transform_agree():
    x, _ = erased_copies(300, 2, 3, 3, 0.3, seed=0)
    corex = CorEx(2, latent="categorical", n_states=[3, 2], random_state=0).fit(x)
    p = corex.posterior(x)
    assert p.shape == (300, 2, 3)
    np.testing.assert_allclose(p.sum(-1), 1)
    np.testing.assert_array_equal(p.argmax(-1), corex.labels_)
    np.testing.assert_array_equal(corex.transform(x), corex.labels_)
    assert sorted(len(np.unique(column)) for column in corex.labels_.T) == [2, 3]


def test_mixed_columns_of_one_cause():
    rng = np.random.default_rng(0)
    hidden = rng.integers(2, size=(1000, 2))
    x = np.column_stack(
        [
            hidden[:, 0] * 3 + rng.standard_normal(1000),
            hidden[:, 0] ^ (rng.random(1000) < 0.1),
            rng.poisson(np.where(hidden[:, 0], 12, 2)),
            hidden[:, 1] * 3 + rng.standard_normal(1000),
            hidden[:, 1] ^ (rng.random(1000) < 0.1),
        ]
    )
    kinds = ["continuous", "binary", "counts", "continuous", "binary"]
    corex = CorEx(2, latent="categorical", kinds=kinds, random_state=0).fit(x)
    assert same_groups(corex.clusters_, [0, 0, 0, 1, 1])
    assert matched(corex.labels_[:, corex.clusters_[0]], hidden[:, 0]) > 0.97
    rows = corex.sample(3000, random_state=0)
    np.testing.assert_allclose(np.corrcoef(rows.T), np.corrcoef(x.T), atol=0.1)


def test_filled_entries_are_the_states_that_the_others_show():
    x, hidden = erased_copies(500, 2, 4, 3, 0.0, seed=0)
    holes = np.random.default_rng(1).random(x.shape) < 0.2
    corex = CorEx(2, latent="categorical", n_states=3, random_state=0)
    filled = corex.fit(np.where(holes, np.nan, x)).impute(np.where(holes, np.nan, x))
    known = ~np.column_stack([holes[:, :4].all(1), holes[:, 4:].all(1)]).repeat(4, 1)
    assert np.mean(filled[known] == x[known]) == 1.0
    back = corex.inverse_transform(corex.transform(x))
    np.testing.assert_array_equal(back, x)
    assert matched(corex.labels_[:, corex.clusters_[0]], hidden[:, 0]) > 0.99


def test_anchors_place_groups():
    x, _ = erased_copies(500, 3, 3, 2, 0.2, seed=0)
    corex = CorEx(3, latent="categorical", anchors={2: [0], 0: [3, 4]}, random_state=0).fit(x)
    assert corex.clusters_.tolist() == [2] * 3 + [0] * 3 + [1] * 3


def test_auto_finds_the_number_of_causes():
    x, _ = erased_copies(1000, 3, 4, 2, 0.3, seed=0)
    assert CorEx("auto", latent="categorical", random_state=0).fit(x).n_hidden_ == 3


def test_independent_columns_have_no_total_correlation():
    x = np.random.default_rng(0).integers(2, size=(2000, 6)).astype(float)
    corex = CorEx(2, latent="categorical", random_state=0, max_iter=2000).fit(x)
    assert abs(corex.tc_) < 0.01


def with_gaps(n, groups, size, states, erasure, missing, seed):
    """Erased copies with gaps; their states; and where an entry shows its state."""
    x, hidden = erased_copies(n, groups, size, states, erasure, seed)
    x[np.random.default_rng(seed + 1).random(x.shape) < missing] = np.nan
    return x, hidden, (x < states).reshape(n, groups, size).any(2)


def test_pairs_that_depend_weakly_stay_together():
    for seed in range(4):
        x, _, _ = with_gaps(100, 4, 2, 3, 0.5, 0.3, seed)
        corex = CorEx(4, latent="categorical", n_states=3, random_state=0).fit(x)
        assert same_groups(corex.clusters_, np.arange(4).repeat(2))


def test_of_explanations_as_likely_that_with_more_zeros_is_taken():
    right = 0
    for seed in range(8):
        x, hidden, known = with_gaps(100, 3, 5, 4, 0.5, 0.3, seed)
        anchors = {j: list(range(5 * j, 5 * j + 5)) for j in range(3)}
        labels = CorEx(3, latent="categorical", n_states=4, anchors=anchors).fit(x).labels_
        right += sum(same_groups(labels[known[:, j], j], hidden[known[:, j], j]) for j in range(3))
    assert right >= 22  # of 24


def test_what_is_drawn_for_gaps_hardly_counts():
    x, _, _ = with_gaps(300, 2, 2, 2, 0.3, 0.3, 0)
    anchors = {0: [0, 1], 1: [2, 3]}
    fits = [
        CorEx(2, latent="categorical", anchors=anchors, random_state=seed).fit(x)
        for seed in range(6)
    ]
    spread = np.std([corex.tcs_ for corex in fits], axis=0)
    assert (spread < 0.15 * fits[0].tcs_stderr_).all()


def test_standard_errors_are_those_of_the_errors_where_entries_are_missing():
    errors, told = [], []
    for seed in range(12):
        x, _, _ = with_gaps(200, 4, 2, 2, 0.1, 0.3, seed)
        anchors = {j: [2 * j, 2 * j + 1] for j in range(4)}
        corex = CorEx(4, latent="categorical", anchors=anchors, random_state=0).fit(x)
        errors += list(corex.tcs_ - erased_tc(2, 2, 0.1))
        told += list(corex.tcs_stderr_)
    ratio = np.sqrt(np.mean(np.square(errors)) / np.mean(np.square(told)))
    assert 0.75 < ratio < 1.25


def test_rows_with_a_single_entry_tell_nothing_of_the_dependence():
    seen = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=bool)
    share = np.array([[1.0, 1.0, 0.0], [0.2, 0.4, 0.4], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(informative_rows(seen, share), [2.0, 3.0, 4.0])
