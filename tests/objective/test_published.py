"""Terms of published objectives: each against its paper's formula, written in plain torch."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch.testing import assert_close

from pyro_corex import AnchorVAE, CorExELBO, CorExVAE, StackedCorEx, Warmup, anchor, fit
from pyro_corex.programs import CategoricalLikelihood, mlp_decoder, mlp_encoder
from pyro_corex.regularizers import (
    Capacity,
    FreeBits,
    GeneratedInformation,
    MaximumMeanDiscrepancy,
)

B, D, M = 12, 5, 3
WEIGHTS = torch.tensor([0.5, 2.0, 1.0], dtype=torch.double)


def networks(m=M):
    return mlp_encoder([D, 6, m]), mlp_decoder([m, 6, D]), m


def vae(**options):
    return CorExVAE(*networks(), **options)


def anchored():
    return AnchorVAE(*networks(), anchors={0: 0.5, 1: 2.0})


def binary():
    return torch.bernoulli(torch.full((B, D), 0.4))


def normals(*shape):
    return torch.normal(torch.zeros(shape), torch.ones(shape))


def pieces(program, x):
    """Draws, reconstruction per datum, and the KL of each latent, of a Bernoulli VAE."""
    loc, log_scale = program.encoder(x).chunk(2, -1)
    z = loc + log_scale.exp() * normals(len(x), M)
    kl = 0.5 * (loc**2 + (2 * log_scale).exp() - 1 - 2 * log_scale).mean(0)
    probs = program.decoder(z).sigmoid()
    seen = (x * probs.log() + (1 - x) * (1 - probs).log()).sum(-1).mean()
    return z, seen, kl


def loss_and_gradient(of, program):
    pyro.set_rng_seed(3)
    loss = of()
    own = list(program.parameters())
    found = torch.autograd.grad(loss, own, allow_unused=True)
    return loss, [torch.zeros_like(p) if g is None else g for p, g in zip(own, found, strict=True)]


def loss_of(program, x, *regularizers):
    elbo = CorExELBO(regularizers=regularizers, max_plate_nesting=2)
    return lambda: elbo.differentiable_loss(program.model, program.guide, x)


def agrees(program, x, regularizer, objective):
    """The loss with its gradient is minus the published objective, for all data."""
    found = loss_and_gradient(loss_of(program, x, regularizer), program)
    want = loss_and_gradient(lambda: -objective() * len(x), program)
    assert_close(found, want, rtol=1e-9, atol=1e-9)


def adds(program, x, regularizer, value):
    """What it adds to loss and gradient is the published term."""
    found = loss_and_gradient(loss_of(program, x, regularizer), program)
    without = loss_and_gradient(loss_of(program, x), program)
    want = loss_and_gradient(lambda: value() * len(x), program)
    assert_close(found[0] - without[0], want[0], rtol=1e-9, atol=1e-9)
    for a, b, c in zip(found[1], without[1], want[1], strict=True):
        assert_close(a - b, c, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------- InfoVAE


@pytest.mark.parametrize(
    ("kernel", "scale", "k"),
    [
        ("imq", None, lambda square: 2 * M / (2 * M + square)),
        ("rbf", None, lambda square: torch.exp(-square / (2 * M))),
        ("rbf", M**2, lambda square: torch.exp(-square / M**2)),
    ],
)
def test_maximum_mean_discrepancy(kernel, scale, k):
    program, x = vae(), binary()

    def objective():
        z, seen, kl = pieces(program, x)
        prior, total = normals(B, M), 0.0
        for i in range(B):
            for j in range(B):
                total = total - 2 * k(((z[i] - prior[j]) ** 2).sum()) / B**2
                for draws in (z, prior) if i != j else ():
                    total = total + k(((draws[i] - draws[j]) ** 2).sum()) / (B * (B - 1))
        return seen - kl.sum() - 4.0 * total

    agrees(program, x, MaximumMeanDiscrepancy(4.0, kernel=kernel, scale=scale), objective)


class Normals:
    """A guide whose draws are normals of their own, with a normal prior."""

    loc, scale, prior = torch.tensor([0.8, -0.3]), torch.tensor([0.5, 1.7]), torch.tensor(1.2)

    def model(self, x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("latents", 2, dim=-1):
            pyro.sample("z", dist.Normal(0.0, self.prior))

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("latents", 2, dim=-1):
            pyro.sample("z", dist.Normal(self.loc, self.scale))


def test_the_discrepancy_of_normals_is_their_closed_form():
    program, c = Normals(), 3.0
    penalty = MaximumMeanDiscrepancy(1.0, kernel="rbf", scale=c)
    elbo = CorExELBO(
        500,
        vectorize_particles=True,
        max_plate_nesting=2,
        regularizers=[penalty],
        data_plates=["data"],
    )

    def expected(shift, variance):  # of the kernel, for a normal difference
        width = c + 2 * variance
        return float(((c / width).sqrt() * (-(shift**2) / width).exp()).prod())

    v, r = program.scale**2, (program.prior**2).expand(2)
    want = expected(0 * v, 2 * v) + expected(0 * r, 2 * r) - 2 * expected(program.loc, v + r)
    runs = [elbo.terms(program.model, program.guide, torch.zeros(6)) for _ in range(20)]
    found = torch.stack([run.regularizers["maximum_mean_discrepancy"] for run in runs])
    assert abs(float(found.mean()) - want) < 4 * float(found.std()) / math.sqrt(20) < 0.1 * want


def test_one_datum_has_no_discrepancy_and_a_stack_has_that_of_its_top():
    program = StackedCorEx([(D, 4, M), (M, 2)], n_classes=None)
    elbo = CorExELBO(regularizers=[MaximumMeanDiscrepancy(1.0)])
    found = elbo.terms(program.model, program.guide, binary()[:1])
    assert float(found.regularizers["maximum_mean_discrepancy"]) == 0
    pyro.set_rng_seed(1)
    top = elbo.terms(program.model, program.guide, binary())
    pyro.set_rng_seed(1)
    elbo = CorExELBO(regularizers=[MaximumMeanDiscrepancy(1.0, ["z2"])])
    told = elbo.terms(program.model, program.guide, binary())
    assert_close(top.regularizers, told.regularizers)


def test_draws_given_an_enumerated_class_are_no_prior():
    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(c, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    elbo = CorExELBO(regularizers=[MaximumMeanDiscrepancy(1.0)], max_plate_nesting=1)
    with pytest.raises(ValueError, match="'z_unconstrained' it does not draw"):
        elbo.loss(Linear().model, AutoNormal(Linear().model), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="from one prior, but 'z' it draws given an enumerated"):
        elbo.loss(model, guide, torch.zeros(4))


# ---------------------------------------------------------------------- functions of the KL


@pytest.mark.parametrize("make", [vae, anchored])
@pytest.mark.parametrize("per", ["latent", "site"])
def test_free_bits(make, per):
    program, x = make(), binary()
    kl = pieces(program, x)[2].detach()
    nats = float(kl.median()) + 1e-3 if per == "latent" else float(kl.sum()) + 1.0
    weights = WEIGHTS if make is anchored else torch.ones(M)

    def objective():
        _, seen, kl = pieces(program, x)
        if per == "latent":
            return seen - (weights * kl.clamp_min(nats)).sum()
        mean = ((weights * kl).sum() / kl.sum()).detach()
        return seen - (mean * nats if kl.sum() < nats else (weights * kl).sum())

    agrees(program, x, FreeBits(nats, per=per), objective)
    agrees(program, x, FreeBits(1e-9, per=per), lambda: _elbo(program, x, weights))


def _elbo(program, x, weights):
    _, seen, kl = pieces(program, x)
    return seen - (weights * kl).sum()


@pytest.mark.parametrize("make", [vae, anchored])
@pytest.mark.parametrize("capacity", [0.0, 30.0])
def test_capacity(make, capacity):
    program, x = make(), binary()

    def objective():
        _, seen, kl = pieces(program, x)
        return seen - 7.0 * abs(kl.sum() - capacity)

    agrees(program, x, Capacity(7.0, capacity), objective)


def test_of_a_stack_all_latents_are_taken_or_those_that_are_named():
    program, x = StackedCorEx([(D, 4, M), (M, 2)], n_classes=None), binary()[:5]
    terms = CorExELBO(regularizers=[FreeBits(50.0)]).terms(program.model, program.guide, x)
    want = 50 - torch.cat([*terms.kl.values()])
    assert_close(terms.regularizers["free_bits"], want)  # 5 values for 5 data are no mistake
    elbo = CorExELBO(regularizers=[Capacity(2.0, 50.0, ["z2"])])
    terms = elbo.terms(program.model, program.guide, x)
    kl = terms.kl["z2"].sum()
    assert_close(terms.regularizers["capacity"], 2 * (50 - kl) - kl)
    assert terms.objective == pytest.approx(terms.elbo - float(2 * (50 - kl) - kl))


def test_fit_moves_a_capacity_on():
    capacity, nats = Warmup(0.0, 10.0, steps=8), Warmup(1.0, 0.0, steps=8)
    elbo = CorExELBO(regularizers=[Capacity(1.0, capacity, ["z2"]), FreeBits(nats, ["z1"])])
    program = StackedCorEx([(D, M), (M, 2)], n_classes=None)
    fit(program, binary(), epochs=2, batch_size=4, elbo=elbo, progress=False)
    assert (capacity(), nats()) == (7.5, 0.25)


# ---------------------------------------------------------------------- InfoGAN


def log_normal(x, loc, log_scale):
    return -0.5 * ((x - loc) / log_scale.exp()) ** 2 - log_scale - 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize("likelihood", ["bernoulli", "normal"])
def test_generated_information(likelihood):
    program, x = vae(likelihood=likelihood, prior="learned_normal"), binary()

    def term():
        normals(B, M)  # the guide's draw at the data
        code = normals(B, M)
        out = program.decoder(code)
        drawn = out.sigmoid() if likelihood == "bernoulli" else out + normals(B, D)
        loc, log_scale = program.encoder(drawn).chunk(2, -1)
        gain = log_normal(code, loc, log_scale) - log_normal(code, 0.0 * code, 0.0 * code)
        return -0.7 * gain.mean(0).sum()

    adds(program, x, GeneratedInformation(-0.7), term)
    elbo = CorExELBO(regularizers=[GeneratedInformation(-0.7)])
    found = elbo.terms(program.model, program.guide, x)
    assert found.regularizers["generated_information"].shape == (M,)


def test_generated_information_of_a_class():
    program, x = StackedCorEx([(D, 4, M), (M, 6, 4)], n_classes=4), binary()
    with torch.no_grad():
        program.prior.logits.copy_(torch.tensor([0.0, 1.0, -1.0, 0.5]))

    def term():
        normals(B, M)
        prior = program.prior.logits.detach().log_softmax(-1).flatten()
        code = torch.multinomial(prior.exp().expand(B, 4), 1).squeeze(-1)
        loc, log_scale = program.decoders[1](torch.eye(4)[code]).chunk(2, -1)
        z1 = loc + log_scale.exp() * normals(B, M)
        loc, log_scale = program.encoders[0](program.decoders[0](z1).sigmoid()).chunk(2, -1)
        logits = program.encoders[1](loc + log_scale.exp() * normals(B, M))
        told = logits.log_softmax(-1)[torch.arange(B), code]
        return -2.0 * (told - prior[code]).mean()

    adds(program, x, GeneratedInformation(-2.0), term)


class Linear:
    """One cause of three readings, with its exact posterior; latents are events or a plate."""

    slope, noise = 0.9, 0.6

    def model(self, x=None, *, n=1):
        n = n if x is None else len(x)
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            loc = self.slope * z.expand((*z.shape[:-1], 3))
            return pyro.sample("x", dist.Normal(loc, self.noise).to_event(1), obs=x)

    def guide(self, x):
        precision = 1 + 3 * self.slope**2 / self.noise**2
        with pyro.plate("data", len(x)):
            loc = x.sum(-1, keepdim=True) * self.slope / self.noise**2 / precision
            pyro.sample("z", dist.Normal(loc, precision**-0.5).to_event(1))


@pytest.mark.parametrize("particles", [1, 3])
def test_with_the_posterior_the_bound_is_the_information(particles):
    program = Linear()
    elbo = CorExELBO(
        particles, particles > 1, max_plate_nesting=1, regularizers=[GeneratedInformation(-1.0)]
    )
    runs = [elbo.terms(program.model, program.guide, torch.zeros(400, 3)) for _ in range(10)]
    found = torch.stack([run.regularizers["generated_information"] for run in runs])
    assert found.shape == (10, 1)
    want = 0.5 * math.log(1 + 3 * program.slope**2 / program.noise**2)
    assert abs(float(found.mean()) - want) < 4 * float(found.std()) / math.sqrt(10) < 0.1


def test_anchored_programs_generate():
    program, x = vae(), binary()
    weights, elbo = {"z": WEIGHTS}, CorExELBO(regularizers=[GeneratedInformation(-1.0)])
    found = []
    for change in (lambda fn: fn, lambda fn: anchor(fn, weights)):
        pyro.set_rng_seed(1)
        found.append(elbo.terms(change(program.model), change(program.guide), x).regularizers)
    assert_close(*found)


def generated(program, x, *sites):
    elbo = CorExELBO(regularizers=[GeneratedInformation(-1.0, *sites)], max_plate_nesting=2)
    return elbo.loss(program.model, program.guide, x)


def test_programs_that_cannot_be_generated_from_are_refused():
    with pytest.raises(ValueError, match=r"model must draw data, as model\(n=100\), and guide"):
        generated(Normals(), torch.zeros(4))
    stack = StackedCorEx([(D, 4, M), (M, 2)], n_classes=None)
    with pytest.raises(ValueError, match=r"latents of the top layer, \['z2'\], but got \['z1'\]"):
        generated(stack, binary(), ["z1"])
    decoder = torch.nn.Sequential(torch.nn.Linear(M, 2 * D), torch.nn.Unflatten(-1, (D, 2)))
    states = CorExVAE(networks()[0], decoder, M, likelihood=CategoricalLikelihood(2))
    with pytest.raises(ValueError, match=r"draws or a mean for .* 'x' is drawn from Categorical"):
        generated(states, binary())


def test_a_guide_that_draws_without_a_gradient_is_refused():
    class Noisy(Linear):
        def guide(self, x):
            with pyro.plate("data", len(x)):
                flip = pyro.sample("flip", dist.Poisson(0.5), infer={"is_auxiliary": True})
                loc = x[:, :1] + flip.unsqueeze(-1)
                pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"reparameterised draws, but \['flip'\] are not"):
        generated(Noisy(), torch.zeros(4, 3))


@pytest.mark.parametrize("sites", [None, ["z"], ["y", "z"]])
def test_a_kl_is_replaced_once(sites):
    each = FreeBits(0.1, ["z"]), Capacity(1.0, 1.0, sites)
    with pytest.raises(ValueError, match="'free_bits' and 'capacity' both do"):
        CorExELBO(regularizers=each)
    CorExELBO(regularizers=[each[0], Capacity(1.0, 1.0, ["y"])])
