"""Categorical latents: hidden causes that are known."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from pyro_corex import CorEx
from tests.estimator.tables import (
    erased_copies,
    erased_tc,
    matched,
    same_groups,
)


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


def test_anchors_place_groups():
    x, _ = erased_copies(500, 3, 3, 2, 0.2, seed=0)
    corex = CorEx(3, latent="categorical", anchors={2: [0], 0: [3, 4]}, random_state=0).fit(x)
    assert corex.clusters_.tolist() == [2] * 3 + [0] * 3 + [1] * 3


def test_independent_columns_have_no_total_correlation():
    x = np.random.default_rng(0).integers(2, size=(2000, 6)).astype(float)
    corex = CorEx(2, latent="categorical", random_state=0, max_iter=2000).fit(x)
    assert abs(corex.tc_) < 0.01


def test_doubts_are_those_of_the_other_columns():
    rng = np.random.default_rng(0)
    x = rng.integers(2, size=(60, 1)) ^ (rng.random((60, 3)) < 0.3)
    layer = CorEx(1, latent="categorical", cv=None, random_state=0).fit(x)._layer
    code = torch.as_tensor(1.0 * x)
    code[::7, 1] = torch.nan
    found = layer.doubts(code, np.zeros((1, 3)), np.full(3, 60.0))
    for i in range(3):
        rest = code.clone()
        rest[:, i] = torch.nan
        seen = ~code[:, i].isnan().numpy()
        r = np.corrcoef(layer.posterior(rest)[seen, 0, 0], code[seen, i])[0, 1]
        assert found[0, i] == pytest.approx(chi2.sf(seen.sum() * r**2, 1), rel=1e-6)
