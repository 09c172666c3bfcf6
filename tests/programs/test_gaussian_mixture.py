"""The mixture with its class summed out, and what VaDE and GMVAE make of the class."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

import pyro_corex as pc
from pyro_corex import AggregatePosterior, CorExELBO, CorExVAE
from pyro_corex.programs import GaussianMixture, mlp_decoder, mlp_encoder

D, M, K, B = 6, 3, 4, 8


def make(prior=None, **options):
    networks = mlp_encoder([D, 5, M]), mlp_decoder([M, 5, D])
    return CorExVAE(*networks, M, prior=prior or GaussianMixture(M, K), **options)


@pytest.fixture
def x():
    return torch.bernoulli(torch.full((40, D), 0.4))


@pytest.fixture
def vae(x):
    found = make().double()
    with torch.no_grad():
        for p in found.prior.parameters():
            p.normal_(0, 0.7)
    return found


def log_normal(z, loc, scale):
    return -0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)


def of_classes(vae, z):
    """ln pi_c N(z; mu_c, sigma_c), of shape (B, K)."""
    prior = vae.prior
    each = log_normal(z[:, None], prior.loc, prior.log_scale.exp()).sum(-1)
    return each + prior.logits - prior.logits.exp().sum().log()


def log_x(vae, z, x):
    return -binary_cross_entropy_with_logits(vae.decoder(z), x, reduction="none").sum(-1)


def check(loss, right, parameters):
    torch.testing.assert_close(loss, right, rtol=0, atol=1e-10)
    found = torch.autograd.grad(loss, parameters)
    torch.testing.assert_close(found, torch.autograd.grad(right, parameters), rtol=0, atol=1e-10)


def test_value_and_gradient_are_those_of_an_exact_class_posterior(vae, x):
    """VaDE (Jiang et al. 2017, Eq. 9) with q(c|x) = p(c|z), its Eq. 16, at the guide's draws."""
    x = x[:B].double()
    pyro.set_rng_seed(3)
    drawn = vae.guide(x).detach()
    q = vae.encode(x)
    noise = ((drawn - q.loc) / q.scale).detach()
    z = q.loc + q.scale * noise
    logs = of_classes(vae, z)
    gamma = logs.exp() / logs.exp().sum(-1, keepdim=True)
    inner = (gamma * (logs - gamma.log())).sum(-1)
    right = -(log_x(vae, z, x) + inner - log_normal(z, q.loc, q.scale).sum(-1)).sum()
    pyro.set_rng_seed(3)
    loss = CorExELBO().differentiable_loss(vae.model, vae.guide, x)
    check(loss, right, list(vae.parameters()))
    torch.testing.assert_close(vae.prior.classes(z).probs, gamma)


class VaDE(nn.Module):
    """As published: the class is a latent, whose posterior is of the data alone."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae
        self.classes = nn.Linear(D, K)

    def model(self, x):
        prior = self.vae.prior
        with pyro.plate("data", len(x), dim=-2):
            c = pyro.sample("c", dist.Categorical(logits=prior.logits.expand(len(x), 1, K)))
            with pc.latent_plate("latents", M):
                q = dist.Normal(prior.loc[c.squeeze(-1)], prior.log_scale[c.squeeze(-1)].exp())
                z = pyro.sample("z", q)
            with pc.latent_plate("dims", D):
                pyro.sample("x", self.vae.decode(z), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-2):
            with pc.latent_plate("latents", M):
                pyro.sample("z", self.vae.encode(x))
            logits = self.classes(x).unsqueeze(-2)
            pyro.sample("c", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})


def test_value_and_gradient_of_vade_as_published(vae, x):
    """Jiang et al. 2017, Eq. 12: KLs of the latents to each class, weighted by gamma_c."""
    x = x[:B].double()
    program = VaDE(vae).double()
    pyro.set_rng_seed(3)
    with pyro.poutine.trace() as trace, torch.no_grad():
        program.guide(x)
    q, prior = vae.encode(x), vae.prior
    z = q.loc + q.scale * ((trace.trace.nodes["z"]["value"] - q.loc) / q.scale).detach()
    gamma = program.classes(x).softmax(-1)
    var, own = prior.log_scale.exp() ** 2, (q.scale**2)[:, None]
    each = var.log() + own / var + (q.loc[:, None] - prior.loc) ** 2 / var  # (B, K, M)
    pi = prior.logits.softmax(-1)
    right = log_x(vae, z, x) - 0.5 * (gamma * each.sum(-1)).sum(-1)
    right = right + (gamma * (pi / gamma).log()).sum(-1) + 0.5 * (1 + own.log()).sum((-1, -2))
    pyro.set_rng_seed(3)
    loss = CorExELBO(max_plate_nesting=2).differentiable_loss(program.model, program.guide, x)
    check(loss, -right.sum(), list(program.parameters()))


def test_no_class_posterior_of_the_data_alone_has_a_better_bound(vae, x):
    x = x[:B].double()
    elbo = CorExELBO(num_particles=4000, vectorize_particles=True)
    with torch.no_grad():
        summed = elbo.terms(vae.model, vae.guide, x).kl["z"]
        q = vae.encode(x)
        mean = vae.prior.classes(q.rsample((4000,))).probs.mean(0)  # the best of the data alone
        each = torch.stack(
            [
                torch.distributions.kl_divergence(q, dist.Normal(loc, scale)).sum(-1)
                for loc, scale in zip(vae.prior.loc, vae.prior.log_scale.exp(), strict=True)
            ],
            -1,
        )
        pi = vae.prior.logits.log_softmax(-1)
        split = (mean * (each + mean.log() - pi)).sum(-1).mean()
    assert summed < split - 0.01


class GMVAE(nn.Module):
    """Dilokthanakul et al. 2016: an inner latent w makes the mixture of z, its class c exact."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae
        self.inner = nn.Linear(D, 2 * 2)
        self.components = nn.Linear(2, K * 2 * M)

    def mixture(self, w):
        loc, log_scale = self.components(w).unflatten(-1, (K, 2, M)).unbind(-2)
        return dist.Normal(loc, log_scale.exp())

    def model(self, x):
        with pyro.plate("data", len(x), dim=-2):
            w = pyro.sample("w", dist.Normal(x.new_zeros(len(x), 1, 2), 1.0).to_event(1))
            c = pyro.sample("c", dist.Categorical(logits=x.new_zeros(len(x), 1, K)))
            of = self.mixture(w.squeeze(-2))
            chosen = nn.functional.one_hot(c.squeeze(-1), K).to(x.dtype).unsqueeze(-1)
            with pc.latent_plate("latents", M):
                at = dist.Normal((chosen * of.loc).sum(-2), (chosen * of.scale).sum(-2))
                z = pyro.sample("z", at)
            with pc.latent_plate("dims", D):
                pyro.sample("x", self.vae.decode(z), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-2):
            loc, log_scale = self.inner(x).unsqueeze(-2).chunk(2, -1)
            w = pyro.sample("w", dist.Normal(loc, log_scale.exp()).to_event(1))
            with pc.latent_plate("latents", M):
                z = pyro.sample("z", self.vae.encode(x), infer={"analytic_kl": False})
            logits = self.mixture(w.squeeze(-2)).log_prob(z.unsqueeze(-2)).sum(-1)
            exact = dist.Categorical(logits=logits.unsqueeze(-2))
            pyro.sample("c", exact, infer={"enumerate": "parallel"})


def test_value_and_gradient_of_gmvae(vae, x):
    """Its Eq. 4: reconstruction, conditional prior, w-prior and c-prior, at the same draws."""
    x = x[:B].double()
    program = GMVAE(vae).double()
    pyro.set_rng_seed(3)
    with pyro.poutine.trace() as trace, torch.no_grad():
        program.guide(x)
    values = {name: trace.trace.nodes[name]["value"] for name in ("w", "z")}
    q = vae.encode(x)
    z = q.loc + q.scale * ((values["z"] - q.loc) / q.scale).detach()
    loc, log_scale = program.inner(x).chunk(2, -1)
    w = loc + log_scale.exp() * ((values["w"].squeeze(-2) - loc) / log_scale.exp()).detach()
    of = program.components(w).unflatten(-1, (K, 2, M))
    each = log_normal(z[:, None], of[:, :, 0], of[:, :, 1].exp()).sum(-1)
    c = each.softmax(-1)
    conditional = (c * (log_normal(z, q.loc, q.scale).sum(-1, keepdim=True) - each)).sum(-1)
    inner = 0.5 * ((2 * log_scale).exp() + loc**2 - 1 - 2 * log_scale).sum(-1)
    classes = (c * (c * K).log()).sum(-1)
    right = -(log_x(vae, z, x) - conditional - inner - classes).sum()
    pyro.set_rng_seed(3)
    loss = CorExELBO(max_plate_nesting=2).differentiable_loss(program.model, program.guide, x)
    parameters = [p for n, p in program.named_parameters() if ".prior." not in n]
    check(loss, right, parameters)


def test_it_is_trained_measured_and_kept(x, tmp_path):
    vae = make()
    pc.fit(vae, x, epochs=2, batch_size=10, progress=False)
    assert CorExELBO().terms(vae.model, vae.guide, x).kl["z"].shape == ()
    bounds = [pc.tc_bound(vae, x), pc.tc_bound(vae, x, importance_samples=3)]
    assert all(math.isfinite(bound.estimate) for bound in bounds)
    assert AggregatePosterior.from_data(vae, x).mutual_information().shape == (M,)
    pc.save(vae, tmp_path / "vae.pt")
    other = make()
    pc.load(tmp_path / "vae.pt", other)
    torch.testing.assert_close(other.prior.loc, vae.prior.loc)
    assert vae.model(n=5).shape == (5, D)


def test_draws_have_the_moments_of_the_mixture():
    prior = GaussianMixture(2, 3)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.2, 0.3, 0.5]).log())
        prior.loc.copy_(torch.tensor([[-4.0, 0.0], [0.0, 4.0], [4.0, -4.0]]))
        z = prior().sample((20_000,))
    mean = 0.2 * prior.loc[0] + 0.3 * prior.loc[1] + 0.5 * prior.loc[2]
    torch.testing.assert_close(z.mean(0), mean.detach(), rtol=0, atol=0.1)
    shares = prior.classes(z).probs.mean(0)
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.3, 0.5]), rtol=0, atol=0.02)


def test_em_finds_the_classes_it_starts_from():
    centres = torch.tensor([[-5.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    classes = torch.randint(3, (900,))
    z = centres[classes] + torch.tensor([0.5, 1.5]) * torch.randn(900, 2)
    prior = GaussianMixture(2, 3).start(z, n_starts=2)
    order = prior.loc.detach()[:, 0].argsort()
    torch.testing.assert_close(prior.loc[order], centres[[0, 2, 1]], rtol=0, atol=0.3)
    spread = torch.tensor([0.5, 1.5]).log().expand(3, 2)
    torch.testing.assert_close(prior.log_scale.detach(), spread, rtol=0, atol=0.2)
    found = prior.classes(z).probs.argmax(-1)
    assert all(len(found[classes == c].unique()) == 1 for c in range(3))
