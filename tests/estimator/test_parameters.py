"""Parameters that do not fit."""

import pytest

from pyro_corex import CorEx
from tests.estimator.tables import (
    factor_table,
)

X, _ = factor_table(100, 2, 3, 0.5, seed=0)

PARAMETERS = [
    ({"n_hidden": 0}, ValueError, r"n_hidden must be >= 1 in every layer, but got 0"),
    ({"n_hidden": 2.5}, TypeError, r"n_hidden must be an integer, a tuple .* but got 2\.5"),
    ({"n_hidden": "many"}, ValueError, r"a tuple of them or 'auto', but got 'many'"),
    ({"n_hidden": ()}, TypeError, r"n_hidden must be an integer, a tuple"),
    ({"n_hidden": (2, 2)}, ValueError, r"does not get smaller from the data upwards"),
    ({"n_hidden": (2, 1), "latent": "categorical"}, ValueError, r"several layers"),
    ({"latent": "normal"}, ValueError, r"latent must be 'gaussian' or 'categorical'"),
    ({"n_states": 1}, ValueError, r"n_states must be >= 2, but got 1"),
    ({"n_states": "two"}, TypeError, r"n_states must be an integer, a list"),
    ({"n_states": [2, 1], "n_hidden": 2}, ValueError, r"n_states must be >= 2 for every latent"),
    ({"n_states": [2, 2, 2], "n_hidden": 2}, ValueError, r"n_states has 3 entries.*n_hidden=2"),
    ({"n_states": [2, 2], "n_hidden": "auto"}, ValueError, r"one layer of a given size"),
    ({"max_iter": 0}, ValueError, r"max_iter must be an integer >= 1, but got 0"),
    ({"batch_size": 1.5}, ValueError, r"batch_size must be an integer >= 1, but got 1\.5"),
    ({"lr": 0.0}, ValueError, r"lr must be a number > 0, but got 0\.0"),
    ({"lr": float("nan")}, ValueError, r"lr must be a number > 0, but got nan"),
    ({"tol": -1}, ValueError, r"tol must be a number >= 0, but got -1"),
    ({"cv": 1}, ValueError, r"cv must be 'auto', None or an integer >= 2, but got 1"),
    ({"cv": "loo"}, ValueError, r"cv must be 'auto', None or an integer >= 2, but got 'loo'"),
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
    ({"rotation": "promax"}, ValueError, r"rotation must be 'oblimin', 'varimax' or None, but got"),
    ({"rotation": None, "n_hidden": (2, 1)}, ValueError, r"a layer above has nothing to explain"),
    ({"style": "yes"}, ValueError, r"style must be 'auto', True or False, but got 'yes'"),
    ({"style": True, "anchors": {0: [0]}}, ValueError, r"style=True needs Gaussian latents"),
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
