"""What every layer does, by its protocol."""

import numpy as np
import pytest
import torch

from pyro_corex import CorEx
from pyro_corex.estimator.layer import Layer, draw, predict, sample, seeded
from tests.estimator.tables import factor_table

X, _ = factor_table(300, 2, 3, 0.5, seed=0)


@pytest.fixture(scope="module", params=["gaussian", "categorical"])
def layer(request):
    return CorEx(2, latent=request.param, random_state=0).fit(X)._layer


@pytest.fixture(scope="module")
def code():
    x = torch.as_tensor((X - X.mean(0)) / X.std(0))
    x[::5, 0] = torch.nan
    return x


def test_both_have_all_that_the_protocol_names(layer):
    names = {name for name in vars(Layer) if not name.startswith("_")} | set(Layer.__annotations__)
    assert {"program", "columns", "training", "points", "latent_kl", "shares"} <= names
    assert [name for name in names if not hasattr(layer, name)] == []


def test_reported_latents_and_the_programs_are_turned_into_each_other(layer):
    layer.reorder(np.array([1, 0]))
    z = layer.prior(10)
    assert z.shape == (10, 2)
    torch.testing.assert_close(layer.latents(layer.reported(z)).double(), z.double())
    layer.reorder(np.array([1, 0]))


def test_points_are_weighted_like_the_encoder(layer, code):
    total, mean = 0.0, 0.0
    for weight, z in layer.points(code):
        assert z.shape in ((1, 2), (len(code), 2))
        total, mean = total + weight, mean + weight[:, :1] * z[:, :1]
    torch.testing.assert_close(
        total.expand(len(code), -1), torch.ones(len(code), total.shape[1]).double()
    )
    q = layer.program.encode(code)
    if hasattr(q, "loc"):
        torch.testing.assert_close(mean, q.loc[:, :1])


def test_draws_fill_what_is_missing_and_nothing_else(layer, code):
    filled, latents = draw(layer, code, seed=3)
    assert latents.shape == (len(code), 2)
    missing = code.isnan()
    assert not filled.isnan().any()
    assert torch.equal(filled[~missing], code[~missing])
    again, _ = draw(layer, code, seed=3)
    assert torch.equal(filled, again)
    other, _ = draw(layer, code, seed=4)
    assert not torch.equal(filled, other)


def test_samples_for_latents_are_near_what_is_predicted_for_them(layer):
    latents = layer.reported(layer.prior(1)).repeat(4000, 0)
    rows = sample(layer, 4000, 0, latents)
    one = torch.ones(1, 1, dtype=torch.float64)
    predicted = predict(layer, [(one, layer.latents(latents[:1]))])
    for i, p in enumerate(predicted):
        assert rows[:, i].mean().item() == pytest.approx(p[0, 0], abs=5 * p[0, 1] / 4000**0.5)
        assert rows[:, i].std().item() == pytest.approx(p[0, 1], rel=0.1)


def test_shares_add_up_and_clusters_are_latents(layer, code):
    mis, stderr = layer.mutual_information(code, np.full(6, 300.0))
    assert mis.shape == stderr.shape == (2, 6)
    np.testing.assert_allclose(layer.shares(mis).sum(0), 1)
    assert set(layer.clusters(mis)) <= {0, 1}
    assert (layer.parameters_by_latent() > 0).all()


def test_a_seed_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    with seeded(0):
        first = torch.rand(1)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(0):
        assert torch.equal(torch.rand(1), first)
