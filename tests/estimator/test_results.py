"""The bound of a fitted table: one number, its corrections, and how it is shared."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch

import pyro_corex
from pyro_corex import CorEx, CorExELBO
from pyro_corex.estimator.results import assign, informative_rows, row_terms, spread_ties
from tests.estimator.tables import (
    erased_copies,
    erased_tc,
    factor_table,
    mixed_table,
    with_gaps,
)


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


def test_standard_errors_are_those_of_repetitions():
    found = []
    for seed in range(30):
        x, _ = factor_table(400, 2, 3, 0.5, seed)
        corex = CorEx(2, random_state=0).fit(x)
        found.append((corex.tc_, corex.tc_stderr_))
    tcs, stderrs = np.array(found).T
    _, truth = factor_table(400, 2, 3, 0.5, 0)
    assert tcs.mean() == pytest.approx(truth, abs=4 * tcs.std(ddof=1) / np.sqrt(30) + 0.02)
    assert 0.6 < stderrs.mean() / tcs.std(ddof=1) < 1.7


def test_standard_errors_are_those_of_the_errors_where_entries_are_missing():
    errors, told = [], []
    for seed in range(12):
        x, _, _ = with_gaps(200, 4, 2, 2, 0.1, 0.3, seed)
        anchors = {j: [2 * j, 2 * j + 1] for j in range(4)}
        corex = CorEx(4, latent="categorical", anchors=anchors, cv=None, random_state=0).fit(x)
        errors += list(corex.tcs_ - erased_tc(2, 2, 0.1))
        told += list(corex.tcs_stderr_)
    ratio = np.sqrt(np.mean(np.square(errors)) / np.mean(np.square(told)))
    assert 0.75 < ratio < 1.25


def test_what_is_drawn_for_gaps_hardly_counts():
    x, _, _ = with_gaps(300, 2, 2, 2, 0.3, 0.3, 0)
    anchors = {0: [0, 1], 1: [2, 3]}
    fits = [
        CorEx(2, latent="categorical", anchors=anchors, cv=None, random_state=seed).fit(x)
        for seed in range(6)
    ]
    spread = np.std([corex.tcs_ for corex in fits], axis=0)
    assert (spread < 0.15 * fits[0].tcs_stderr_).all()


def test_rows_with_a_single_entry_tell_nothing_of_the_dependence():
    seen = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=bool)
    share = np.array([[1.0, 1.0, 0.0], [0.2, 0.4, 0.4], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(informative_rows(seen, share), [2.0, 3.0, 4.0])


# ---------------------------------------------------------------------- one bound


@pytest.fixture(scope="module", params=["gaussian", "categorical"])
def mixed(request):
    x, kinds = mixed_table(400, seed=0)
    options = {
        "latent": request.param, "kinds": kinds, "max_iter": 60, "tol": 1.0, "cv": None,
    }  # fmt: skip
    return CorEx(2, random_state=0, **options).fit(x), x


def test_the_estimator_the_terms_and_tc_bound_say_one_number(mixed):
    corex, x = mixed
    assert {c.kind for c in corex.columns_} == {
        "continuous", "binary", "ordinal", "counts", "categorical", "constant",
    }  # fmt: skip
    rows = corex.coded(x)
    assert rows.shape == (400, 10)
    assert not rows.isnan().any()
    before_corrections = corex.tc_ - sum(corex.corrections_.values())
    program = corex.program_
    terms = CorExELBO(strict_enumeration_warning=False).terms(program.model, program.guide, rows)
    bound = pyro_corex.tc_bound(program, rows)
    assert terms.tc_bound == pytest.approx(before_corrections, abs=1e-6)
    assert bound.estimate == pytest.approx(before_corrections, abs=1e-6)
    assert corex.bound_.estimate == pytest.approx(before_corrections, abs=1e-6)
    assert corex.bound_.terms.tc_bound == pytest.approx(before_corrections, abs=1e-6)


def test_the_bound_depends_on_no_seed_batch_or_number_of_draws(mixed):
    corex, x = mixed
    rows = corex.coded(x)
    for options in ({"seed": 7}, {"batch_size": 64}, {"num_particles": 3}):
        other = pyro_corex.tc_bound(corex.program_, rows, **options)
        assert other.estimate == pytest.approx(corex.bound_.estimate, abs=1e-6)


def test_corrections_are_named_and_add_up(mixed):
    corex, _ = mixed
    assert set(corex.corrections_) == {"marginals", "completion", "optimism"}
    assert corex.tc_ == corex.bound_.estimate + sum(corex.corrections_.values())
    assert corex.tcs_.sum() + corex.style_tc_ == pytest.approx(corex.tc_, abs=1e-9)
    assert corex.optimism_ == -corex.corrections_["optimism"] > 0


def test_the_layers_above_are_a_correction_of_their_own():
    x, _ = factor_table(500, 3, 3, 0.5, seed=0)
    corex = CorEx((3, 1), random_state=0).fit(x)
    assert corex.corrections_["layers above"] == corex.upper_.tc_
    total = corex.bound_.estimate + sum(corex.corrections_.values())
    assert corex.tc_ == pytest.approx(total, abs=1e-9)


def test_of_complete_normal_columns_the_corrections_are_small():
    x, truth = factor_table(5000, 2, 4, 0.5, seed=0)
    corex = CorEx(2, random_state=0).fit(x)
    assert corex.corrections_["completion"] == 0.0
    assert corex.corrections_["optimism"] == -(2 * 8 - 1) / (2 * 5000)  # half a nat a parameter
    # entropies by spacings in place of fitted ones: no bias, but a noise of its own
    assert abs(corex.corrections_["marginals"]) < corex.bound_.stderr
    assert corex.bound_.estimate == pytest.approx(truth, abs=3 * corex.tc_stderr_)


def test_a_rows_terms_do_not_depend_on_the_others(mixed):
    corex, x = mixed
    code = corex._coding.encode(x[:20])  # with gaps
    together, alone = row_terms(corex._layer, code), row_terms(corex._layer, code[3:4])
    np.testing.assert_allclose(together.bound[3:4], alone.bound, atol=1e-9)
    np.testing.assert_allclose(together.latent_kl.sum(1), together.kl, atol=1e-9)
    assert (together.reconstruction[code.isnan().numpy()] == 0).all()


def test_values_that_repeat_are_spread_half_way_to_their_neighbours():
    rng = np.random.default_rng(0)
    x = np.array([0.0, 0.0, 0.0, 1.0, 1.5, 1.5])
    spread = spread_ties(x, rng)
    assert len(set(spread)) == 6
    assert spread[3] == 1.0  # alone
    assert (np.abs(spread[:3]) <= 0.5).all()
    assert (np.abs(spread[4:] - 1.5) <= 0.25).all()
    np.testing.assert_array_equal(spread_ties(np.arange(5.0), rng), np.arange(5.0))
    assert len(set(spread_ties(np.ones(9), rng))) == 9


def test_rounding_hardly_lowers_the_bound():
    x, truth = factor_table(5000, 2, 3, 0.5, seed=0)
    corex = CorEx(2, kinds="continuous", random_state=0).fit(x.round(1))
    assert corex.bound_.estimate == pytest.approx(truth, abs=0.05)


def test_columns_by_chance_have_no_latent():
    layer = Mock(clusters=lambda mis: mis.argmax(0))
    mis = np.array([[3.0, 3.0, 0.0, 2.0, 2.0, 2.0], [0.0, 0.0, 3.0, 1.0, 1.0, 1.0]])
    doubts = np.where(mis > 2, 0.002, [1, 1, 1, 0.01, 0.022, 0.5])
    both, first = np.array([True, True]), np.array([True, False])
    # Benjamini and Hochberg: of p = 0.004, 0.004, 0.004, 0.02, 0.044, 1 the first four are below
    # 0.05 k / 6; of one latent, 0.01 and 0.022 are, and the second latent's column has none
    assert assign(layer, mis, doubts, both, {}).tolist() == [0, 0, 1, 0, -1, -1]
    assert assign(layer, mis, doubts, first, {}).tolist() == [0, 0, -1, 0, 0, -1]
    assert assign(layer, mis, doubts, both, {0: {5: 1.0}}).tolist() == [0, 0, 1, 0, 0, 0]


def test_independent_columns_beside_a_pair_belong_to_no_latent():
    rng = np.random.default_rng(0)
    x = rng.integers(2, size=(300, 5))
    x[:, 4] = x[:, 3] ^ (rng.random(300) < 0.1)
    for latent in ("gaussian", "categorical"):
        corex = CorEx(1, latent=latent, max_iter=30, tol=1.0, cv=None, random_state=0).fit(x)
        assert corex.clusters_.tolist() == [-1, -1, -1, 0, 0]


def test_counts_are_not_compared_with_frequencies_that_know_the_rows():
    x = np.random.default_rng(0).negative_binomial(3, 0.2, (150, 4)) * 1.0
    corex = CorEx(1, kinds="counts", max_iter=60, tol=1.0, cv=None, random_state=0).fit(x)
    assert abs(corex.tc_) < 0.1


def test_of_long_tables_errors_are_those_of_the_rows_that_are_looked_at(monkeypatch):
    x, _ = factor_table(2000, 1, 4, 0.5, seed=0)
    whole = CorEx(1, cv=None, random_state=0).fit(x)
    monkeypatch.setattr("pyro_corex.estimator.blocks.MAX_ROWS", 500)
    part = CorEx(1, cv=None, random_state=0).fit(x)
    np.testing.assert_allclose(part.loadings_, whole.loadings_)
    assert part.tc_stderr_ == pytest.approx(2 * whole.tc_stderr_, rel=0.1)
    assert part.tcs_stderr_ == pytest.approx(2 * whole.tcs_stderr_, rel=0.1)
