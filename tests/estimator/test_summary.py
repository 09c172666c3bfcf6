"""The summary in words."""

import numpy as np
import pytest

from pyro_corex import CorEx
from pyro_corex.estimator.summary import apart, upper_rows
from pyro_corex.information import Bracket, Estimate
from tests.estimator.tables import survey


def test_the_summary_names_what_matters(fitted):
    corex, _ = fitted
    text = corex.summary(n_columns=2)
    assert "500 rows and 6 columns (6 continuous)" in text
    assert f"{corex.tc_:.2f}" in text
    assert f"By layer, from the columns upwards: {corex.layer_tcs_[0]:.2f} ±" in text
    assert "Layer 2, which explains the latents of layer 1:" in text
    assert f"omega {corex.omega_[0]:.2f}, alpha {corex.alpha_[0]:.2f}" in text
    assert str(corex.fit_) in text
    assert "and 1 more" in text
    first = next(line for line in text.splitlines() if line.startswith("  0:"))
    best = "aAbBcC"[int(np.where(corex.clusters_ == 0, corex.mis_[0], -1).argmax())]
    assert f"nats. {best} (" in first


def test_a_total_that_is_no_bound_is_said_to_be_none():
    """Two in three of a column's values are 0, as those who do a thing never are."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, 1)) + 0.5 * rng.standard_normal((600, 3))
    assert "(a lower bound)" in CorEx(1, random_state=0).fit(x).summary()
    x[:, 2] = np.maximum(x[:, 2] - 0.4, 0.0)
    corex = CorEx(1, random_state=0).fit(x)
    more = corex.corrections_["marginals"]
    assert f"(no bound: {more:.2f} nats of this correct" in corex.summary()
    assert more > 0.2


def test_the_layers_above_as_rows(fitted):
    corex, _ = fitted
    upper = corex.upper_
    told = upper.mis_[0, 1], upper.mis_stderr_[0, 1]
    assert upper_rows(corex)[1] == (2, 0, 1, *told, int(upper.clusters_[1] == 0))
    assert len(upper_rows(corex)) == 2


def test_the_summary_tells_of_classes_weights_and_columns_without_a_latent():
    rng = np.random.default_rng(0)
    hidden = rng.random((400, 1)) < 0.3
    x = np.column_stack([np.repeat(hidden, 3, 1) ^ (rng.random((400, 3)) < 0.05),
                         rng.random(400) < 0.5]).astype(float)  # fmt: skip
    weight = rng.uniform(0.5, 1.5, 400)
    corex = CorEx(1, latent="categorical", cv=None, random_state=0).fit(x, sample_weight=weight)
    text = corex.summary()
    sizes = corex.class_sizes_[0]
    assert f"classes of {sizes[0]:.0%}, {sizes[1]:.0%} of the rows" in text
    assert f"by which they count as {corex.n_effective_:.0f}." in text
    assert "what they tell may be chance: 1 (x3)." in text
    assert f"BIC {corex.bic_:.1f}" in text


def test_the_summary_tells_of_a_style():
    answers, _ = survey(1000, 2, 8, seed=0)
    corex = CorEx(2, random_state=0, max_iter=20, tol=10.0).fit(answers)
    corex.style_tc_stderr_ = 0.123
    style = f"{corex.style_tc_:.2f} ± 0.12"
    assert f"A style of answering (agreeing with everything): {style} nats" in corex.summary()
    assert f"from {corex.tc_z_.lower:.2f} to {corex.tc_z_.upper:.2f} nats" in corex.summary()


def test_where_rows_are_too_few_for_an_upper_end():
    shown = apart(Bracket(0.1, 3.0, Estimate(0.2, 0.0), Estimate(2.0, 0.3), open=True))
    assert "from 0.10 to 3.00 nats" in shown
    assert "The rows are too few for a closer upper end" in shown


def test_a_bound_below_zero_says_that_it_says_nothing():
    x = np.random.default_rng(0).normal(size=(14, 90))  # less more than was learned of noise
    with pytest.warns(UserWarning, match=r"more columns \(90\) than rows \(14\): the asymptotic"):
        text = CorEx(6, cv=None, random_state=0).fit(x).summary()
    assert "says nothing" in text
    assert "14 rows are too few for 6 latents" in text
