"""The summary in words."""

import numpy as np

from pyro_corex import CorEx
from tests.estimator.tables import (
    survey,
)


def test_the_summary_names_what_matters(fitted):
    corex, _ = fitted
    text = corex.summary(n_columns=2)
    assert "500 rows and 6 columns (6 continuous)" in text
    assert f"{corex.tc_:.2f}" in text
    assert "By layer" in text
    assert "and 1 more" in text
    first = next(line for line in text.splitlines() if line.startswith("  0:"))
    best = "aAbBcC"[int(np.where(corex.clusters_ == 0, corex.mis_[0], -1).argmax())]
    assert f"nats. {best} (" in first


def test_the_summary_tells_of_a_style():
    answers, _ = survey(1000, 2, 8, seed=0)
    corex = CorEx(2, random_state=0, max_iter=20, tol=10.0).fit(answers)
    assert f"A style of answering (agreeing with everything): {corex.style_tc_:.2f}" in (
        corex.summary()
    )


def test_a_bound_below_zero_says_that_it_says_nothing():
    x = np.random.default_rng(0).normal(size=(14, 90))  # less more than was learned of noise
    text = CorEx(6, cv=None, random_state=0).fit(x).summary()
    assert "says nothing" in text
    assert "14 rows are too few for 6 latents" in text
