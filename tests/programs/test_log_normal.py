import math

import pyro
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import pyro_corex as pc
from pyro_corex import Bottleneck, CorExELBO, CorExVAE
from pyro_corex.programs import LogNormalEncoder, mlp, mlp_decoder, mlp_encoder

D, M, N = 5, 3, 20


@pytest.fixture
def x():
    return torch.randn(N, D)


def make(prior):
    encoder = LogNormalEncoder(mlp_encoder([D, 4, M]))
    return CorExVAE(encoder, mlp_decoder([M, D]), M, prior=prior, likelihood="normal")


def published(vae, x, noise, kl):
    """Achille & Soatto 2018, z = f(x) exp(alpha(x) noise), with ``kl`` of ln f(x) and alpha(x)."""
    out = vae.encoder.encoder(x)
    f, alpha = out[:, :M].exp(), out[:, M:].exp()
    z = f * (alpha * noise).exp()
    squares = mse_loss(vae.decoder(z), x, reduction="sum")
    return squares / 2 + N * D * 0.5 * math.log(2 * math.pi) + kl(f.log(), alpha).sum()


def to_log_normal(vae):
    """Their Prop. 4: between the normals of the logarithms."""
    m, s = vae.prior.loc, vae.prior.log_scale.exp()
    return lambda mu, alpha: (alpha**2 + (mu - m) ** 2) / (2 * s**2) - (alpha / s).log() - 0.5


def to_log_uniform(vae):
    """Their Prop. 3: less ln alpha, up to a constant."""
    return lambda mu, alpha: -alpha.log() - 0.5 * math.log(2 * math.pi * math.e)


@pytest.mark.parametrize(
    ("prior", "kl"), [("log_normal", to_log_normal), ("log_uniform", to_log_uniform)]
)
def test_value_and_gradient_are_those_of_the_paper(x, prior, kl):
    vae, x = make(prior).double(), x.double()
    if prior == "log_normal":
        with torch.no_grad():
            vae.prior.loc += 0.3
            vae.prior.log_scale -= 0.2
    pyro.set_rng_seed(3)
    with torch.no_grad():
        base = vae.encode(x).base_dist
        noise = (vae.guide(x).log() - base.loc) / base.scale
    parameters = list(vae.parameters())
    right = published(vae, x, noise, kl(vae))
    wanted = torch.autograd.grad(right, parameters)
    pyro.set_rng_seed(3)
    loss = CorExELBO().differentiable_loss(vae.model, vae.guide, x)
    torch.testing.assert_close(loss, right, rtol=0, atol=1e-10)
    found = torch.autograd.grad(loss, parameters)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def test_the_closed_kl_is_what_draws_give(x):
    for prior in ("log_normal", "log_uniform"):
        vae = make(prior)
        q, p = vae.encode(x), vae.prior()
        z = q.sample((20_000,))
        sampled = (q.log_prob(z) - p.expand((N, M)).log_prob(z)).mean(0)
        kl = CorExELBO().terms(vae.model, vae.guide, x).kl["z"]
        torch.testing.assert_close(kl, sampled.mean(0), rtol=0, atol=0.02)


def test_they_are_trained_and_measured(x):
    vae = make("log_normal")
    pc.fit(vae, x, epochs=1, progress=False)
    assert math.isfinite(pc.tc_bound(vae, x).estimate)
    assert pc.AggregatePosterior.from_data(vae, x).mutual_information().shape == (M,)
    assert vae.model(n=4).shape == (4, D)
    dropout = Bottleneck(
        LogNormalEncoder(mlp_encoder([D, M])), mlp([M, 2]), M, labels=2, prior="log_uniform"
    )
    y = (x[:, 0] > 0).long()
    pc.fit(dropout, (x, y), epochs=1, progress=False)
    assert dropout.predict(x).shape == (N, 2)


def test_there_is_no_bound_to_an_improper_prior(x):
    vae = make("log_uniform")
    with pytest.raises(ValueError, match="improper"):
        pc.tc_bound(vae, x)
    with pytest.raises(ValueError, match="improper, so that nothing can be drawn"):
        vae.model(n=3)


def test_a_pair_is_taken(x):
    class Pair(nn.Module):
        def forward(self, x):
            return x[:, :2], x[:, :2].exp()

    q = LogNormalEncoder(Pair())(x)
    torch.testing.assert_close(q.base_dist.scale, x[:, :2].exp())


def test_noise_has_a_limit_where_one_is_given(x):
    encoder = nn.Linear(D, 2 * M)
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.bias[M:] = torch.tensor([-9.0, 0.0, 9.0])
    found = LogNormalEncoder(encoder, max_scale=0.7)(x).base_dist.scale[0]
    free = torch.tensor([-9.0, 0.0, 8.0]).exp()  # log-scales end at 8
    torch.testing.assert_close(found, 1 / (1 / free + 1 / 0.7))
    assert bool((found < 0.7).all())
