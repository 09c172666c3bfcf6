"""Gaussian latents: closed forms, missing entries, anchors, layers, surveys."""

import numpy as np
import pytest
import torch

from pyro_corex import CorEx, CorExELBO
from pyro_corex.datasets import linear_gaussian
from pyro_corex.estimator.factors import factor_analysis
from pyro_corex.estimator.rotation import simplicity, style_rotation, varimax
from pyro_corex.programs.tables import OrderedLogit
from tests.estimator.tables import factor_table, same_groups, survey


@pytest.mark.parametrize("groups", [True, False])
def test_the_tc_of_linear_gaussian_data_is_found(groups):
    data = linear_gaussian(20_000, 20, 4, groups=groups, noise=0.7, seed=1)
    corex = CorEx(4, random_state=0).fit(data.x.double().numpy())
    assert corex.tc_ == pytest.approx(data.total_correlation, rel=0.02)
    assert corex.tcs_.sum() == pytest.approx(corex.tc_)
    assert np.all(np.diff(corex.tcs_) <= 0)
    if groups:
        assert same_groups(corex.clusters_, np.arange(20) % 4)


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


def test_score_on_new_rows_and_what_the_program_says_agree():
    x, truth = factor_table(2000, 2, 3, 0.5, seed=0)
    corex = CorEx(2, random_state=0).fit(x)
    new, _ = factor_table(20_000, 2, 3, 0.5, seed=1)
    assert corex.score(new) == pytest.approx(truth, abs=0.05)
    assert corex.score(x) == pytest.approx(corex.tc_ - corex.corrections_["optimism"], abs=1e-9)
    code = torch.as_tensor(np.stack([c.encode(x[:, i]) for i, c in enumerate(corex.columns_)], 1))
    terms = CorExELBO(num_particles=200).terms(
        corex.program_.model, corex.program_.guide, code[:200]
    )
    assert -corex.surprise(x[:200]).mean() == pytest.approx(float(terms.elbo), abs=0.05)


def test_a_row_that_breaks_the_dependence_is_surprising():
    x, _ = factor_table(1000, 2, 3, 0.3, seed=0)
    corex = CorEx(2, random_state=0).fit(x)
    usual, odd = np.array([[1.0, 1, 1, 0, 0, 0], [1.0, 1, -1, 0, 0, 0]])
    surprise = corex.surprise([usual, odd])
    assert surprise[1] > surprise[0] + 5
    np.testing.assert_allclose(corex.score_samples([usual, odd]), -surprise)


def test_mutual_informations_are_those_of_the_closed_form():
    x, _ = factor_table(50_000, 2, 3, 0.5, seed=0)
    corex = CorEx(2, random_state=0).fit(x)
    own = corex.clusters_ == np.arange(2)[:, None]
    np.testing.assert_allclose(corex.mis_[own], 0.5 * np.log(1 + 1 / 0.25), atol=0.02)
    np.testing.assert_allclose(corex.mis_[~own], 0, atol=0.002)
    assert np.all(corex.mis_stderr_ > 0)


def test_the_covariance_is_that_of_the_columns():
    x, _ = factor_table(20_000, 2, 3, 0.5, seed=0)
    x = x * np.array([1, 2, 3, 1, 2, 3.0])
    corex = CorEx(2, random_state=0).fit(np.column_stack([x, np.ones(len(x))]))
    np.testing.assert_allclose(corex.get_covariance()[:6, :6], np.cov(x.T), atol=0.15)
    np.testing.assert_array_equal(corex.get_covariance()[6], 0)


def test_networks_see_what_a_linear_program_cannot():
    rng = np.random.default_rng(0)
    z = rng.uniform(-1.7, 1.7, (1500, 1))
    x = np.column_stack([z, z, z**2, z**2]) + 0.2 * rng.standard_normal((1500, 4))
    linear = CorEx(1, kinds="continuous", random_state=0).fit(x)
    neural = CorEx(1, kinds="continuous", hidden=(16,), random_state=0, max_iter=200, tol=1.0).fit(
        x
    )
    assert neural.fit(x).score(x) > linear.score(x) + 0.5


# ---------------------------------------------------------------------- missing entries


def test_missing_entries_are_masked_and_not_filled():
    x, truth = factor_table(4000, 2, 4, 0.5, seed=0)
    holes = np.random.default_rng(1).random(x.shape) < 0.2
    corex = CorEx(2, random_state=0).fit(np.where(holes, np.nan, x))
    assert corex.tc_ == pytest.approx(truth, rel=0.05)
    assert corex.tc_observed_ < 0.85 * truth
    assert same_groups(corex.clusters_, [0] * 4 + [1] * 4)
    row = np.full((1, 8), np.nan)
    np.testing.assert_allclose(corex.transform(row), 0, atol=1e-9)  # nothing is known
    assert corex.score(row) == pytest.approx(0, abs=1e-9)
    assert corex.surprise(row) == pytest.approx(0, abs=1e-9)


def test_what_a_missing_entry_held_makes_no_difference():
    answers, _ = survey(300, 2, 5, seed=0)
    answers[::3, 2] = np.nan
    corex = CorEx(2, random_state=0, max_iter=30).fit(answers)
    assert np.isfinite(corex.transform(answers)).all()
    alone = answers[:1].copy()
    alone[0, 1:] = np.nan
    z = corex.transform(alone)
    assert np.abs(z).max() > 0  # the one entry counts
    assert np.abs(z).max() < np.abs(corex.transform(answers[:1])).max() + 1


def test_imputation_by_the_model_is_the_conditional_mean():
    x, _ = factor_table(5000, 1, 4, 0.5, seed=0)
    corex = CorEx(1, random_state=0).fit(x)
    holes = np.zeros(x.shape, bool)
    holes[:, 0] = True
    filled = corex.impute(np.where(holes, np.nan, x))
    np.testing.assert_array_equal(filled[:, 1:], x[:, 1:])
    expected = x[:, 1:].sum(1) / (3 + 0.25)  # E[z | three columns], in closed form
    assert np.abs(filled[:, 0] - expected).mean() < 0.05
    drawn = corex.impute(np.where(holes, np.nan, x), how="draw", random_state=0)
    assert drawn[:, 0].std() == pytest.approx(x[:, 0].std(), rel=0.05)
    assert filled[:, 0].std() < 0.95 * x[:, 0].std()


# ---------------------------------------------------------------------- latents and back


def test_inverse_transform_brings_back_what_the_latents_know():
    x, _ = factor_table(2000, 2, 4, 0.3, seed=0)
    corex = CorEx(2, random_state=0).fit(x)
    back = corex.inverse_transform(corex.transform(x))
    assert np.mean((back - x) ** 2) == pytest.approx(0.3**2, rel=0.35)


def test_samples_have_the_dependence_of_the_data():
    x, _ = factor_table(5000, 2, 3, 0.5, seed=0)
    for n_hidden in (2, (2, 1)):
        corex = CorEx(n_hidden, random_state=0).fit(x)
        rows = corex.sample(20_000, random_state=1)
        np.testing.assert_allclose(np.corrcoef(rows.T), np.corrcoef(x.T), atol=0.05)
        np.testing.assert_array_equal(rows, corex.sample(20_000, random_state=1))


def test_samples_of_a_survey_keep_the_style_of_answering():
    answers, _ = survey(2000, 2, 8, seed=0)
    corex = CorEx(2, random_state=0, max_iter=80, tol=1.0).fit(answers)
    rows = corex.sample(4000, random_state=0)
    assert set(np.unique(rows)) == {1, 2, 3, 4, 5}
    np.testing.assert_allclose(np.corrcoef(rows.T), np.corrcoef(answers.T), atol=0.12)


# ---------------------------------------------------------------------- anchors


def test_anchors_say_which_latent_a_column_is_in_and_cost_nothing_when_true():
    x, truth = factor_table(2000, 3, 4, 0.5, seed=0)
    corex = CorEx(3, anchors={2: [0], 0: [4, 5], 1: 8}, random_state=0).fit(x)
    assert corex.clusters_.tolist() == [2] * 4 + [0] * 4 + [1] * 4
    assert corex.tc_ == pytest.approx(truth, rel=0.03)


def test_anchored_columns_load_on_no_other_latent():
    x, _ = factor_table(2000, 2, 4, 0.5, seed=0)
    corex = CorEx(2, anchors={0: [0, 4]}, random_state=0).fit(x)
    assert corex.clusters_[[0, 4]].tolist() == [0, 0]
    np.testing.assert_allclose(corex.mis_[1, [0, 4]], 0, atol=1e-9)
    assert corex.tc_ < CorEx(2, random_state=0).fit(x).tc_  # what is not so costs something


def test_stronger_anchors_pull_harder():
    rng = np.random.default_rng(1)
    x, _ = factor_table(1000, 1, 5, 0.5, seed=0)
    x = np.column_stack([x, 0.3 * x[:, 0] + rng.standard_normal(1000)])
    told = [
        CorEx(1, anchors={0: {5: strength}}, random_state=0, tol=0.01).fit(x).mis_[0, 5]
        for strength in (1.0, 20.0)
    ]
    assert told[1] > 1.5 * told[0]
    by_default = CorEx(1, anchors={0: [5]}, anchor_strength=20.0, random_state=0, tol=0.01).fit(x)
    assert by_default.mis_[0, 5] == pytest.approx(told[1])


# ---------------------------------------------------------------------- layers, and how many


def test_a_second_layer_explains_the_dependence_among_the_latents_of_the_first():
    rng = np.random.default_rng(0)
    top = rng.standard_normal((4000, 1))
    middle = 0.8 * top + 0.6 * rng.standard_normal((4000, 4))
    x = middle.repeat(4, 1) + 0.5 * rng.standard_normal((4000, 16))
    corex = CorEx((4, 1), random_state=0).fit(x)
    assert same_groups(corex.clusters_, np.arange(16) // 4)
    assert corex.upper_.clusters_.tolist() == [0] * 4
    assert len(corex.layer_tcs_) == 2
    corr = np.full((4, 4), 0.64) + 0.36 * np.eye(4)
    above = -0.5 * np.linalg.slogdet(corr)[1]
    assert 0.4 * above < corex.layer_tcs_[1] < 1.15 * above
    assert corex.tc_ == pytest.approx(sum(corex.layer_tcs_))
    cov = np.kron(corr, np.ones((4, 4))) + 0.25 * np.eye(16)
    truth = 0.5 * (np.log(np.diag(cov)).sum() - np.linalg.slogdet(cov)[1])
    assert 0.85 * truth < corex.tc_ < 1.02 * truth


@pytest.mark.parametrize("groups", [1, 3])
def test_auto_finds_the_number_of_latents(groups):
    x, _ = factor_table(800, groups, 4, 0.6, seed=0)
    corex = CorEx("auto", random_state=0).fit(x)
    assert corex.n_hidden_ == groups
    assert [trial["n_hidden"] for trial in corex.trials_][:2] == [1, 2]
    assert corex.transform(x).shape == (800, groups)


# ---------------------------------------------------------------------- surveys


@pytest.mark.parametrize("acquiescence", [0.0, 0.3])
def test_questions_of_a_trait_end_in_one_latent(acquiescence):
    answers, trait = survey(1500, 4, 8, seed=0, acquiescence=acquiescence)
    corex = CorEx(4, random_state=0, max_iter=60, tol=1.0).fit(answers)
    assert same_groups(corex.clusters_, trait)
    assert (corex.style_tc_ > 0.1) == (acquiescence > 0)
    assert corex.tcs_.sum() + corex.style_tc_ == pytest.approx(corex.tc_)
    assert corex.transform(answers).shape == (1500, 4)


def test_a_common_trait_is_no_style():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((1000, 3)) + rng.standard_normal((1000, 1))
    y = z.repeat(5, 1) + rng.standard_normal((1000, 15))  # all keyed one way
    for n_hidden in (1, 2, 3):
        answers = np.digitize(y, [-2, -0.7, 0.7, 2])
        corex = CorEx(n_hidden, random_state=0, max_iter=20, tol=1.0).fit(answers)
        assert corex.style_tc_ == 0, n_hidden


def test_varimax_leaves_a_saddle():
    simple = np.kron(np.eye(2), np.ones((3, 1)))
    turn = np.array([[1.0, 1], [1, -1]]) / np.sqrt(2)  # the gradient vanishes here
    assert simplicity(simple @ turn) == pytest.approx(1)


def test_varimax_and_the_axis_of_a_style():
    rng = np.random.default_rng(0)
    simple = np.kron(np.eye(3), np.ones((6, 1))) * np.where(rng.random((18, 1)) < 0.5, -1, 1)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    back = simple @ turn @ varimax(simple @ turn)
    assert simplicity(simple @ turn) == pytest.approx(1)
    np.testing.assert_allclose(np.sort(np.abs(back), 1), np.sort(np.abs(simple), 1), atol=1e-4)
    styled = np.column_stack([simple, np.full(18, 0.5)])
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    back = styled @ turn @ style_rotation(styled @ turn)
    np.testing.assert_allclose(back[:, 3], 0.5, atol=1e-4)
    np.testing.assert_allclose(np.abs(back[:, :3]).max(1), 1, atol=1e-4)


def test_factor_analysis_finds_the_model_of_an_exact_matrix():
    rng = np.random.default_rng(0)
    loadings = rng.uniform(-0.6, 0.6, (12, 2))
    psi = 1 - (loadings**2).sum(1)
    found, noise, _ = factor_analysis(loadings @ loadings.T + np.diag(psi), 2)
    np.testing.assert_allclose(found @ found.T, loadings @ loadings.T, atol=1e-3)
    np.testing.assert_allclose(noise, psi, atol=1e-3)


def test_a_column_that_a_latent_tells_exactly():
    """Its predictor is far beyond what a logistic function can tell from 0 and 1."""
    nan = np.nan
    likes = [[5, 4], [2, 1], [4, 4], [1, 2], [5, 5], [1, 1], [4, 5], [2, nan]]
    age, city = [34, 28, 45, 31, 52, 23, 38, 29], [1, 0, 1, 0, 1, 0, nan, 0]
    corex = CorEx(1, random_state=0).fit(np.column_stack([age, likes, city]))
    assert np.isfinite(corex.mis_).all()
    assert 0.3 < corex.mis_[0, 3] <= np.log(2)


@pytest.mark.parametrize("far", [-200.0, -50.0, 0.0, 50.0, 200.0])
def test_the_probabilities_of_ordered_levels_sum_to_one(far):
    thresholds = torch.tensor([[-1.0, 0.5, 2.0]])
    probs = OrderedLogit(torch.tensor([far]), thresholds).probs
    assert probs.sum(-1).item() == pytest.approx(1.0)
    assert int(probs.argmax()) == (0 if far < -1 else 3 if far > 2 else 1)
