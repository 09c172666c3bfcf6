"""What the estimator says to wrong input."""

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from pyro_corex import CorEx, estimator
from pyro_corex.estimator.gaussian import has_converged
from tests.estimator.tables import erased_copies, factor_table

X, _ = factor_table(100, 2, 3, 0.5, seed=0)
D, _ = erased_copies(100, 2, 3, 3, 0.2, seed=0)
FRAME = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "word": ["yes", "no"] * 50})


def with_value(value):
    x = X.copy()
    x[3, 2] = value
    return x


PARAMETERS = [
    ({"n_hidden": 0}, ValueError, r"n_hidden must be >= 1 in every layer, but got 0"),
    ({"n_hidden": 2.5}, TypeError, r"n_hidden must be an integer, a tuple .* but got 2\.5"),
    ({"n_hidden": "many"}, ValueError, r"a tuple of them or 'auto', but got 'many'"),
    ({"n_hidden": ()}, TypeError, r"n_hidden must be an integer, a tuple"),
    ({"n_hidden": (2, 2)}, ValueError, r"does not get smaller from the data upwards"),
    ({"n_hidden": (2, 1), "latent": "categorical"}, ValueError, r"several layers"),
    ({"latent": "normal"}, ValueError, r"latent must be 'gaussian' or 'categorical'"),
    ({"n_states": 1}, ValueError, r"n_states must be >= 2, but got 1"),
    ({"n_states": "two"}, TypeError, r"n_states must be an integer, or a list"),
    ({"n_states": [2, 1], "n_hidden": 2}, ValueError, r"n_states must be >= 2 for every latent"),
    ({"n_states": [2, 2, 2], "n_hidden": 2}, ValueError, r"n_states has 3 entries.*n_hidden=2"),
    ({"n_states": [2, 2], "n_hidden": "auto"}, ValueError, r"one layer of a given size"),
    ({"max_iter": 0}, ValueError, r"max_iter must be an integer >= 1, but got 0"),
    ({"batch_size": 1.5}, ValueError, r"batch_size must be an integer >= 1, but got 1\.5"),
    ({"lr": 0.0}, ValueError, r"lr must be a number > 0, but got 0\.0"),
    ({"lr": float("nan")}, ValueError, r"lr must be a number > 0, but got nan"),
    ({"tol": -1}, ValueError, r"tol must be a number >= 0, but got -1"),
    ({"hidden": "big"}, ValueError, r"hidden must be the sizes of hidden layers"),
    ({"hidden": (0,)}, ValueError, r"hidden must be the sizes of hidden layers"),
    ({"hidden": (8,), "latent": "categorical"}, ValueError, r"is for Gaussian latents"),
    ({"hidden": (8,), "anchors": {0: [0]}}, ValueError, r"anchors need a linear program"),
    ({"anchors": {0: [0]}, "n_hidden": "auto"}, ValueError, r"their number must be known"),
    ({"anchors": [0]}, TypeError, r"anchors must map latents to columns.*got list"),
    ({"anchors": {9: [0]}}, ValueError, r"anchors names latent 9, but there are 2, 0 to 1"),
    ({"anchors": {0: [17]}}, ValueError, r"anchors names column 17, but the table has 6"),
    ({"anchors": {0: ["age"]}}, ValueError, r"anchors names column 'age', but the table has 'x0'"),
    ({"anchors": {0: []}}, ValueError, r"anchors names no column for latent 0"),
    ({"anchors": {0: {1: 0.5}}}, ValueError, r"strength of an anchor must be a number >= 1"),
    ({"anchors": {0: [1], 1: [1]}}, ValueError, r"'x1' is anchored to latents 0 and 1"),
    ({"anchor_strength": 0.5}, ValueError, r"anchor_strength must be a number >= 1"),
    ({"kinds": 3}, TypeError, r"kinds must be 'auto', one kind, a list.*got int"),
    ({"kinds": "numbers"}, ValueError, r"kind of column 'x0' must be one of binary"),
    ({"kinds": ["continuous"]}, ValueError, r"kinds has 1 entries, but the table has 6 columns"),
    ({"kinds": {8: "counts"}}, ValueError, r"kinds names column 8, but the table has 6 columns"),
    ({"kinds": "counts"}, ValueError, r"is told to hold counts, but has the value"),
    ({"kinds": "binary"}, ValueError, r"is told to be binary, but has 100 distinct values"),
]


@pytest.mark.parametrize(("options", "error", "message"), PARAMETERS)
def test_parameters_that_do_not_fit(options, error, message):
    with pytest.raises(error, match=message):
        CorEx(**{"n_hidden": 2, **options}).fit(X)


TABLES = [
    (with_value(np.inf), r"contains infinity"),
    (X[:1], r"minimum of 2 is required"),
    (X[:, 0], r"Expected 2D array, got 1D array"),
    (np.ones((10, 3)), r"All 3 columns are constant"),
    (np.column_stack([X, np.full(100, np.nan)]), r"'x6' has no observed value: all of its 100"),
    (FRAME.iloc[:1], r"Found array with 1 sample"),
    (FRAME.assign(a=np.inf), r"contains infinity"),
]


@pytest.mark.parametrize(("table", "message"), TABLES)
def test_tables_that_do_not_fit(table, message):
    with pytest.raises(ValueError, match=message):
        CorEx(2).fit(table)


def test_an_identifier_is_no_category():
    frame = pd.DataFrame({"id": [f"person {i}" for i in range(150)], "a": np.arange(150.0)})
    with pytest.raises(ValueError, match=r"'id' has 150 distinct values.*Drop it"):
        CorEx(1).fit(frame)


def test_an_anchor_on_a_constant_column():
    with pytest.raises(ValueError, match=r"anchors names column 'x6', which is constant"):
        CorEx(2, anchors={0: [6]}).fit(np.column_stack([X, np.ones(100)]))


def test_auto_needs_rows_to_hold_out():
    with pytest.raises(ValueError, match=r"needs at least 20, but got 10"):
        CorEx("auto").fit(X[:10])


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


def test_words_where_numbers_were_and_the_other_way_round():
    corex = CorEx(1, random_state=0, max_iter=20, tol=10.0).fit(FRAME)
    with pytest.raises(ValueError, match=r"'word' held words in fit, but .* holds only numbers"):
        corex.transform(FRAME.assign(word=1.0))
    with pytest.raises(ValueError, match=r"'a' held numbers in fit, but here it holds words"):
        corex.transform(FRAME.assign(a="many"))
    with pytest.warns(UserWarning, match=r"'word' holds states that it had not in fit"):
        corex.transform(FRAME.assign(word="perhaps"))


def test_negative_counts_in_new_rows():
    x = np.random.default_rng(0).poisson(3, (100, 3)).astype(float)
    corex = CorEx(1, kinds="counts", random_state=0, max_iter=20, tol=10.0).fit(x)
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


def test_training_that_has_not_ended():
    holes = np.where(np.random.default_rng(0).random(X.shape) < 0.3, np.nan, X)
    with pytest.warns(ConvergenceWarning, match=r"has not converged in .* Increase max_iter=3"):
        CorEx(2, random_state=0, max_iter=3, tol=0.0).fit(holes)


def test_a_bound_that_rises_beyond_its_noise_has_not_converged():
    noise = 0.01 * np.random.default_rng(0).standard_normal(60)
    rising = np.linspace(-10, -5, 60)
    assert not has_converged(rising + noise, 1e-4)
    assert has_converged(np.minimum(rising, -9) + noise, 1e-4)
    assert has_converged(rising[:3], 1e-4)  # too few to tell


def test_training_that_diverges():
    answers = np.digitize(X, [-1, 0, 1]).astype(float)
    with (
        pytest.raises(FloatingPointError, match=r"Training diverged in epoch .* Lower lr"),
        np.errstate(all="ignore"),
    ):
        CorEx(2, random_state=0, lr=1e8).fit(answers)
