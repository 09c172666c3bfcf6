"""Moving columns between groups."""

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from pyro_corex import CorEx
from pyro_corex.estimator.group import Design
from pyro_corex.estimator.parameters import Options
from pyro_corex.estimator.refine import refine, table_information
from tests.estimator.tables import (
    erased_copies,
    same_groups,
    with_gaps,
)


def test_pairs_that_depend_weakly_stay_together():
    for seed in range(4):
        x, _, _ = with_gaps(100, 4, 2, 3, 0.5, 0.3, seed)
        corex = CorEx(4, latent="categorical", n_states=3, random_state=0).fit(x)
        assert same_groups(corex.clusters_, np.arange(4).repeat(2))


def test_the_information_of_a_table_is_the_plug_in_less_its_bias():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 20, (3, 4))
    value, variance = table_information(counts.astype(float))
    plug_in = mutual_info_score(None, None, contingency=counts)
    assert value == pytest.approx(plug_in - 6 / (2 * counts.sum()))
    assert variance > 0
    assert table_information(np.outer([1.0, 2.0], [3.0, 4.0]))[1] == pytest.approx(0)


def test_a_column_that_starts_in_the_wrong_group_is_moved():
    x, _ = erased_copies(500, 2, 4, 2, 0.2, seed=0)
    coding = CorEx(2, latent="categorical", random_state=0).fit(x)._coding
    design = Design(coding.used, coding.encode(x).numpy())
    parent = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    fitted = refine(design, parent, [2, 2], np.ones(8), {}, Options((2,)), np.random.RandomState(0))
    assert sorted(each.group.columns for each in fitted) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    held = refine(
        design, parent, [2, 2], np.ones(8), {3: 1}, Options((2,)), np.random.RandomState(0)
    )
    assert 3 in held[1].group.columns
