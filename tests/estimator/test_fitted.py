"""What a fitted estimator does with tables."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError

from pyro_corex import CorEx, CorExELBO, estimator
from tests.estimator.tables import (
    erased_copies,
    factor_table,
    matched,
    same_groups,
    survey,
)

X, _ = factor_table(100, 2, 3, 0.5, seed=0)

D, _ = erased_copies(100, 2, 3, 3, 0.2, seed=0)


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


def test_the_covariance_is_that_of_the_columns():
    x, _ = factor_table(20_000, 2, 3, 0.5, seed=0)
    x = x * np.array([1, 2, 3, 1, 2, 3.0])
    corex = CorEx(2, random_state=0).fit(np.column_stack([x, np.ones(len(x))]))
    np.testing.assert_allclose(corex.get_covariance()[:6, :6], np.cov(x.T), atol=0.15)
    np.testing.assert_array_equal(corex.get_covariance()[6], 0)


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


def test_posteriors_labels_and_transform_agree():
    x, _ = erased_copies(300, 2, 3, 3, 0.3, seed=0)
    corex = CorEx(2, latent="categorical", n_states=[3, 2], random_state=0).fit(x)
    p = corex.posterior(x)
    assert p.shape == (300, 2, 3)
    np.testing.assert_allclose(p.sum(-1), 1)
    np.testing.assert_array_equal(p.argmax(-1), corex.labels_)
    np.testing.assert_array_equal(corex.transform(x), corex.labels_)
    assert sorted(len(np.unique(column)) for column in corex.labels_.T) == [2, 3]


NEW = [
    (lambda c: c.transform(X[:, :5]), r"X has 5 features, but CorEx is expecting 6"),
    (lambda c: c.inverse_transform(np.zeros((3, 5))), r"Z must have the shape \(N, 2\)"),
    (lambda c: c.impute(X, how="median"), r"how must be 'best', 'mean' or 'draw'.*'median'"),
    (lambda c: c.sample(0), r"n_samples must be an integer >= 1, but got 0"),
    (lambda c: c.posterior(X), r"probabilities of states, which Gaussian latents have not"),
    (lambda c: estimator.latent_against_column(c, X, 2), r"latent must be one of 0 to 1"),
    (lambda c: estimator.latent_against_column(c, X, 0, 6), r"column must be one of 0 to 5"),
]


@pytest.mark.parametrize(("call", "message"), NEW)
def test_what_a_fitted_one_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call(CorEx(2, random_state=0).fit(X))


def test_a_covariance_needs_continuous_columns():
    corex = CorEx(2, latent="categorical", random_state=0).fit(D)
    with pytest.raises(ValueError, match=r"get_covariance is for linear programs"):
        corex.get_covariance()


@pytest.mark.parametrize(
    "name", ["transform", "score", "surprise", "impute", "inverse_transform", "posterior"]
)
def test_before_fit(name):
    with pytest.raises(NotFittedError):
        getattr(CorEx(), name)(X)


@pytest.mark.parametrize("name", ["sample", "summary", "get_covariance"])
def test_before_fit_without_data(name):
    with pytest.raises(NotFittedError):
        getattr(CorEx(), name)()


def test_levels_that_were_not_seen_are_named_and_count_as_missing():
    rng = np.random.default_rng(0)
    trait = rng.standard_normal(300)
    x = np.stack([np.digitize(trait + rng.standard_normal(300), [-1, 0, 1]) for _ in range(4)], 1)
    corex = CorEx(1, random_state=0, max_iter=20, tol=10.0, cv=None).fit(x)
    new, gap = (x[:3].astype(float) for _ in range(2))
    new[1, 2], gap[1, 2] = 9, np.nan
    with pytest.warns(UserWarning, match=r"Column 'x2' .* no level .* 9, in 1 of 3 .* 0, 1, 2, 3"):
        found = corex.transform(new)
    np.testing.assert_array_equal(found, corex.transform(gap))


@pytest.mark.parametrize("gap", [None, np.nan, pd.Categorical([None])[0]])
@pytest.mark.parametrize("latent", ["gaussian", "categorical"])
def test_a_person_with_all_words_missing(latent, gap):
    z = np.random.default_rng(0).standard_normal((200, 1)) > 0
    words = pd.DataFrame(np.where(z ^ (np.arange(200) % [[7], [9], [11]] == 0).T, "yes", "no"))
    corex = CorEx(1, latent=latent, cv=None, max_iter=5, tol=9.0, random_state=0)
    corex.fit(words.set_axis(list("abc"), axis=1))
    for rows in (
        pd.DataFrame([[gap] * 3], columns=list("abc")),
        pd.DataFrame({name: pd.Categorical([None]) for name in "abc"}),
    ):
        assert corex.score(rows) == pytest.approx(0.0, abs=1e-6)
        assert set(corex.impute(rows).iloc[0]) <= {"yes", "no"}
    one = pd.DataFrame([["yes", "never", None]], columns=list("abc"))
    with pytest.warns(UserWarning, match=r"'b' holds states that it had not in fit, such as 'nev"):
        found = corex.transform(one)
    np.testing.assert_array_equal(found, corex.transform(one.assign(b=[None])))


@pytest.mark.parametrize(
    ("rho", "rotation"), [(0.0, "oblimin"), (0.5, "oblimin"), (0.5, "varimax")]
)
def test_tc_of_latents_is_that_of_their_correlations(rho, rotation):
    """Of normal ones it is known; those that are turned orthogonally stay independent."""
    rng = np.random.default_rng(1)
    z = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], 2000)
    x = 0.7 * z.repeat(6, 1) + 0.7 * rng.standard_normal((2000, 12))
    corex = CorEx(2, rotation=rotation, random_state=0).fit(x)
    truth = -0.5 * np.log(1 - rho**2) if rotation == "oblimin" else 0.0
    assert truth in corex.tc_z_
    assert corex.tc_z_.upper - corex.tc_z_.lower < 0.15
    shown = f"from {corex.tc_z_.lower:.2f} to {corex.tc_z_.upper:.2f} nats"
    assert f"TC(z), what the latents tell of each other: {shown}" in corex.summary()


def test_tc_of_discrete_latents_is_that_of_the_table_of_their_states():
    rng = np.random.default_rng(0)
    a = rng.random((3000, 1)) < 0.5
    hidden = np.hstack([a, a ^ (rng.random((3000, 1)) < 0.2)])
    x = (hidden.repeat(5, 1) ^ (rng.random((3000, 10)) < 0.02)).astype(float)
    corex = CorEx(2, latent="categorical", cv=None, random_state=0).fit(x)
    q = corex.posterior(x)
    table = np.einsum("ni,nj->ij", q[:, 0], q[:, 1]) / len(q)
    truth = (table * np.log(table / table.sum(1, keepdims=True) / table.sum(0))).sum()
    found = corex.tc_z_
    assert found.held_out.value < truth < found.multi_sample.value < found.held_out.value + 0.01


def test_tc_of_a_single_latent_is_zero_and_few_rows_say_nothing():
    x = np.random.default_rng(0).standard_normal((8, 3)) + np.arange(8)[:, None]
    assert CorEx(1, random_state=0).fit(x).tc_z_.upper == 0
    few = CorEx(2, random_state=0).fit(x).tc_z_
    assert few.open
    assert (few.lower, few.upper) == (0.0, np.inf)
