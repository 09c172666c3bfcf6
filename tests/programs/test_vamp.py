import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

import pyro_corex as pc
from pyro_corex import CorExELBO, CorExVAE, StackedCorEx
from pyro_corex.programs import Vamp, mlp_decoder, mlp_encoder

D, M, K, B = 6, 3, 5, 8


@pytest.fixture
def x():
    return torch.bernoulli(torch.full((40, D), 0.4))


def make(x, joint=False, **options):
    prior = Vamp(x[:K], joint=joint)
    return CorExVAE(mlp_encoder([D, 4, M]), mlp_decoder([M, 4, D]), M, prior=prior, **options)


def drawn(vae, x):
    """The guide's draws at this seed, as the objective makes them."""
    pyro.set_rng_seed(3)
    return vae.guide(x).detach()


def published(vae, x, noise, joint):
    """Tomczak & Welling 2018, Eq. 3 with the prior of Eq. 9, from networks and numbers alone."""

    def encode(inputs):
        out = vae.encoder(inputs)
        return out[:, :M], out[:, M:].exp()

    def log_normal(z, loc, scale):
        return -0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)

    loc, scale = encode(x)
    z = loc + scale * noise
    each = log_normal(z[:, None], *encode(vae.prior.inputs))  # (B, K, M)
    if joint:
        log_r = (each.sum(-1).exp().sum(1) / K).log()
    else:
        log_r = (each.exp().sum(1) / K).log().sum(-1)
    log_x = -binary_cross_entropy_with_logits(vae.decoder(z), x, reduction="none").sum(-1)
    return -(log_x + log_r - log_normal(z, loc, scale).sum(-1)).sum()


@pytest.mark.parametrize("joint", [False, True])
def test_value_and_gradient_are_those_of_the_paper(x, joint):
    vae, x = make(x, joint).double(), x[:B].double()
    with torch.no_grad():
        q = vae.encode(x)
        noise = (drawn(vae, x) - q.loc) / q.scale
    parameters = dict(vae.named_parameters())
    assert "prior.inputs" in parameters
    right = published(vae, x, noise, joint)
    wanted = torch.autograd.grad(right, parameters.values())
    pyro.set_rng_seed(3)
    loss = CorExELBO().differentiable_loss(vae.model, vae.guide, x)
    torch.testing.assert_close(loss, right, rtol=0, atol=1e-10)
    found = torch.autograd.grad(loss, parameters.values())
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def test_each_latent_has_a_kl_or_all_have_one(x):
    for joint, shape in ((False, (M,)), (True, ())):
        vae = make(x, joint)
        for elbo in (CorExELBO(), CorExELBO(num_particles=3, vectorize_particles=True)):
            terms = elbo.terms(vae.model, vae.guide, x)
            assert terms.kl["z"].shape == shape
            assert terms.relevance["x"].shape == (D,)


def test_where_the_data_are_the_pseudo_inputs_the_kl_is_the_information(x):
    """Eq. 9 is tight: the mean KL is I(z_j : x) for x that is one of the pseudo-inputs."""
    vae = make(x)
    inputs = x[:K]
    draws = [CorExELBO(num_particles=2000, vectorize_particles=True)]
    kl = draws[0].terms(vae.model, vae.guide, inputs).kl["z"]
    post = pc.AggregatePosterior.from_data(vae, inputs)
    torch.testing.assert_close(kl, post.mutual_information().to(kl), rtol=0, atol=0.03)


@pytest.mark.parametrize("joint", [False, True])
def test_draws_are_of_the_density(joint):
    """Of two pseudo-inputs far apart: draws of a joint prior are both or neither."""
    encoder = nn.Linear(2, 4)
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.weight[:2] = 10 * torch.eye(2)
        encoder.bias.copy_(torch.tensor([0.0, 0.0, -3.0, -3.0]))
    u = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    vae = CorExVAE(encoder, nn.Linear(2, 2), 2, prior=Vamp(u, joint=joint))
    with torch.no_grad():
        z = vae.prior().expand((2000, 1) if joint else (2000, 2)).sample().reshape(2000, 2) > 5
    assert abs(float(z.float().mean()) - 0.5) < 0.05
    same = float((z[:, 0] == z[:, 1]).float().mean())
    assert same == 1 if joint else abs(same - 0.5) < 0.06
    assert vae.model(n=7).shape == (7, 2)
    at = torch.tensor([[[0.1, 9.8]]]) if joint else torch.tensor([[0.1, 9.8]])
    parts = dist.Normal(10 * u, math.exp(-3)).log_prob(torch.tensor([0.1, 9.8]))
    right = parts.sum(-1).logsumexp(0) if joint else parts.logsumexp(0).sum()
    torch.testing.assert_close(
        vae.prior().log_prob(at).sum(), right - (1 if joint else 2) * math.log(2)
    )


@pytest.mark.parametrize("joint", [False, True])
def test_it_is_trained_measured_and_kept(x, joint, tmp_path):
    vae = make(x, joint)
    before = vae.prior.inputs.detach().clone()
    pc.fit(vae, x, epochs=2, batch_size=10, progress=False)
    assert not torch.equal(before, vae.prior.inputs)
    assert vae.prior.limits.tolist() == [0, 1]
    bound = pc.tc_bound(vae, x)
    assert math.isfinite(bound.estimate)
    assert math.isfinite(pc.tc_bound(vae, x, importance_samples=3).estimate)
    pc.save(vae, tmp_path / "vae.pt")
    other = make(1 - x, joint)
    pc.load(tmp_path / "vae.pt", other)
    torch.testing.assert_close(other.prior().q.loc, vae.prior().q.loc)
    twin = copy.deepcopy(vae)
    with torch.no_grad():
        twin.encoder[-1].bias += 1.0  # its prior goes by its own encoder
    torch.testing.assert_close(twin.prior().q.loc, vae.prior().q.loc + 1.0)


def test_as_many_pseudo_inputs_as_data_are_no_covariate(x):
    vae = CorExVAE(mlp_encoder([D, M]), mlp_decoder([M, D]), M, prior=Vamp(x))
    assert math.isfinite(pc.tc_bound(vae, x).estimate)


def test_top_of_a_stack(x):
    stack = StackedCorEx([(D, 4), (4, 2)], n_classes=None, prior=Vamp(torch.randn(K, 4)))
    pc.fit(stack, x, epochs=1, progress=False)
    assert pc.CorExELBO().terms(stack.model, stack.guide, x).kl["z2"].shape == (2,)
    loc = stack.encode_layer(2, stack.prior.inputs).loc
    torch.testing.assert_close(stack.prior().q.loc, loc)


def test_pseudo_inputs_are_held_in_the_range_of_the_data_and_come_back(x):
    vae = make(x)
    with torch.no_grad():
        vae.prior.inputs += 7.0
    torch.testing.assert_close(vae.prior().q.loc, vae.encode(torch.ones(K, D)).loc)
    vae.prior().q.loc.sum().backward()
    assert bool((vae.prior.inputs.grad != 0).any())
