import math

import pyro
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import pyro_corex as pc
from pyro_corex import Bottleneck, CorExELBO
from pyro_corex.programs import LearnedNormalLikelihood, Vamp, mlp, mlp_encoder

D, M, C, N = 6, 3, 4, 30


@pytest.fixture
def x():
    return torch.randn(N, D)


def make(labels=C, outputs=None, **options):
    outputs = outputs or (labels if isinstance(labels, int) else 1)
    return Bottleneck(mlp_encoder([D, 8, M]), mlp([M, outputs]), M, labels=labels, **options)


def classes(x):
    return (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()


def published(vib, x, y, noise, beta):
    """Alemi et al. 2017, Eq. 17, times the number of data, from networks and numbers alone."""
    loc, log_scale = vib.encoder(x).split(M, -1)
    out = vib.decoder(loc + log_scale.exp() * noise)
    if y.is_floating_point():
        log_s = vib.likelihood.log_scale
        fit = 0.5 * ((y - out[:, 0]) / log_s.exp()) ** 2 + log_s + 0.5 * math.log(2 * math.pi)
        fit = fit.sum()
    else:
        fit = cross_entropy(out, y, reduction="sum")
    return fit + beta * 0.5 * (loc**2 + (2 * log_scale).exp() - 1 - 2 * log_scale).sum()


@pytest.mark.parametrize("labels", [C, "learned_normal"])
def test_value_and_gradient_are_those_of_vib(x, labels):
    vib, x = make(labels, beta=0.3).double(), x.double()
    y = classes(x) if labels == C else x[:, 0] * x[:, 1]
    pyro.set_rng_seed(3)
    with torch.no_grad():
        q = vib.encode(x)
        noise = (vib.guide(x, y) - q.loc) / q.scale
    parameters = list(vib.parameters())
    right = published(vib, x, y, noise, 0.3)
    wanted = torch.autograd.grad(right, parameters)
    pyro.set_rng_seed(3)
    loss = CorExELBO().differentiable_loss(vib.model, vib.guide, x, y)
    torch.testing.assert_close(loss, right, rtol=1e-6, atol=0)  # beta is kept in single precision
    found = torch.autograd.grad(loss, parameters)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_the_information_plane(x):
    vib, y = make(beta=1e-3), classes(x)
    pc.fit(vib, (x, y), epochs=60, batch_size=N, lr=0.02, progress=False)
    terms = CorExELBO(num_particles=20).terms(vib.model, vib.guide, x, y)
    assert terms.kl["z"].shape == (M,)
    assert terms.relevance["y"].shape == (1,)
    frequencies = y.bincount() / N
    entropy = -(frequencies * frequencies.log()).sum() + (C - 1) / (2 * N)  # Miller's bias
    torch.testing.assert_close(
        terms.relevance["y"], entropy + terms.reconstruction["y"], rtol=0, atol=1e-5
    )
    assert float(terms.relevance["y"]) > 0.8 * float(entropy)
    assert float((vib.predict(x).argmax(-1) == y).float().mean()) > 0.9


def test_a_large_beta_forgets(x):
    vib, y = make(beta=100.0), classes(x)
    pc.fit(vib, {"x": x, "y": y}, epochs=60, batch_size=N, lr=0.02, progress=False)
    assert float(CorExELBO().terms(vib.model, vib.guide, x, y).kl["z"].sum()) < 0.05


def test_predictions_are_means_over_draws(x):
    vib = make()
    torch.manual_seed(0)
    found = vib.predict(x, n_draws=3)
    torch.manual_seed(0)
    q = vib.encode(x)
    draws = q.sample((3,))
    torch.testing.assert_close(found, vib.decoder(draws).softmax(-1).mean(0))
    torch.testing.assert_close(found.sum(-1), torch.ones(N))
    assert make("bernoulli", outputs=2).predict(x).shape == (N, 2)
    head = nn.Sequential(nn.Linear(M, 2 * C), nn.Unflatten(-1, (2, C)))
    several = Bottleneck(mlp_encoder([D, M]), head, M, labels=C)
    assert several.predict(x).shape == (N, 2, C)
    y = classes(x)[:, None].repeat(1, 2)
    terms = CorExELBO().terms(several.model, several.guide, x, y)
    assert terms.relevance["y"].shape == (2,)


def test_with_particles_a_prior_of_pseudo_inputs_and_a_file(x, tmp_path):
    vib, y = make(LearnedNormalLikelihood(), prior=Vamp(x[:5]), beta=0.1), x[:, :1]
    pc.fit(vib, (x, y), epochs=2, progress=False)
    elbo = CorExELBO(num_particles=3, vectorize_particles=True)
    assert math.isfinite(elbo.loss(vib.model, vib.guide, x, y))
    pc.save(vib, tmp_path / "vib.pt")
    other = make(LearnedNormalLikelihood(), prior=Vamp(x[5:10]))
    pc.load(tmp_path / "vib.pt", other)
    assert torch.equal(other.kl_weights, torch.full((M,), 0.1))
    post = pc.AggregatePosterior.from_data(vib, (x, y))
    assert post.mutual_information().shape == (M,)
    assert vib.model(n=7).shape == (7, 1)
    assert vib.model(x).shape == (N, 1)
