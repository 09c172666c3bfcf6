"""A latent class model of a group of columns."""

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from pyro_corex import CorEx
from pyro_corex.estimator.design import Design
from pyro_corex.estimator.group import Group, fit_group, refine, relevances, tables_information
from pyro_corex.estimator.parameters import Options
from tests.estimator.tables import (
    erased_copies,
    same_groups,
    with_gaps,
)


def test_of_explanations_as_likely_that_with_more_zeros_is_taken():
    right = 0
    for seed in range(8):
        x, hidden, known = with_gaps(100, 3, 5, 4, 0.5, 0.3, seed)
        anchors = {j: list(range(5 * j, 5 * j + 5)) for j in range(3)}
        labels = CorEx(3, latent="categorical", n_states=4, anchors=anchors, cv=None).fit(x).labels_
        right += sum(same_groups(labels[known[:, j], j], hidden[known[:, j], j]) for j in range(3))
    assert right >= 22  # of 24


def design(seed=0):
    x, _ = erased_copies(300, 1, 4, 3, 0.3, seed)
    x[::7, 1] = np.nan
    coding = CorEx(1, latent="categorical", random_state=0).fit(x)._coding
    return Design(coding, x)


def test_each_step_of_em_raises_the_likelihood_with_what_it_is_given_beforehand():
    group = Group(design(), range(4), 3)
    q = np.random.default_rng(0).dirichlet(np.ones(3), 300)
    values = [group.run(q, n, 0.0) for n in (1, 2, 4, 8, 16)]
    assert (np.diff(values) > -0.01).all()
    assert values[-1] > values[0] + 0.1


def test_a_columns_own_say_is_left_out():
    group = fit_group(design(), range(4), 3, Options((1,)), np.random.RandomState(0))
    q = group.q
    assert group.converged
    group.maximise(q)
    rest = Group(group.design, [1, 2, 3], 3)
    rest.maximise(q)
    joint = rest.log_joint()
    without = np.exp(joint - np.logaddexp.reduce(joint, 1, keepdims=True))
    counts, starts = group.counts_without_own(group.log_joint())
    expected = group.design.hot.take([0]).counts(without)
    np.testing.assert_allclose(counts[: starts[1]], expected, atol=1e-4)


def test_relevances_are_those_of_each_columns_own_table():
    table = design()
    groups = [fit_group(table, own, 2, Options((2,)), np.random.RandomState(0))
              for own in ([0, 1, 3], [2])]  # fmt: skip
    found = relevances(table, groups)
    counts, starts = groups[0].counts_without_own(groups[0].log_joint())
    own = tables_information(counts, starts[:-1])[0]
    np.testing.assert_allclose(found[0, [0, 1, 3]], own)
    other = table.hot.take([2]).counts(groups[0].q)
    assert found[0, 2] == pytest.approx(tables_information(other, np.array([0]))[0][0])
    assert found[1, 2] == pytest.approx(-1.0, abs=0.02)  # better off anywhere


def test_a_lone_column_has_one_state_and_no_parameters():
    group = fit_group(design(), [2], 3, Options((1,)), np.random.RandomState(0))
    assert group.n_parameters() == 0.0
    assert (group.q[:, 0] == 1).all()


def test_pairs_that_depend_weakly_stay_together():
    for seed in range(4):
        x, _, _ = with_gaps(100, 4, 2, 3, 0.5, 0.3, seed)
        corex = CorEx(4, latent="categorical", n_states=3, cv=None, random_state=0).fit(x)
        assert same_groups(corex.clusters_, np.arange(4).repeat(2))


def test_the_information_of_a_table_is_the_plug_in_less_its_bias():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 20, (3, 4))
    (value,), (variance,) = tables_information(counts.astype(float), np.array([0]))
    plug_in = mutual_info_score(None, None, contingency=counts)
    assert value == pytest.approx(plug_in - 6 / (2 * counts.sum()))
    assert variance > 0
    assert tables_information(np.outer([1.0, 2.0], [3.0, 4.0]), np.array([0]))[1] == pytest.approx(
        0
    )


def test_a_column_that_starts_in_the_wrong_group_is_moved():
    x, _ = erased_copies(500, 2, 4, 2, 0.2, seed=0)
    coding = CorEx(2, latent="categorical", random_state=0).fit(x)._coding
    design = Design(coding, x)
    parent = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    groups = refine(design, parent, [2, 2], [], Options((2,)), np.random.RandomState(0))
    assert sorted(group.columns for group in groups) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    held = refine(design, parent, [2, 2], [3], Options((2,)), np.random.RandomState(0))
    assert 3 in held[1].columns
