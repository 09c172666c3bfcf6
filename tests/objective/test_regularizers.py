"""Regularizers of one's own: value, gradient, terms, and critics that train beside the programs."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from torch import nn
from torch.testing import assert_close

from pyro_corex import CorExELBO, CorExTerms, CorExVAE, Warmup, regularizers
from pyro_corex.programs import mlp_decoder, mlp_encoder
from pyro_corex.regularizers import Invariance, MutualInformation, Regularizer, TotalCorrelation

N, D, M = 32, 6, 3


def vae():
    torch.manual_seed(0)
    return CorExVAE(mlp_encoder([D, M]), mlp_decoder([M, D]), M).double()


def bits(n=N):
    return torch.bernoulli(torch.full((n, D), 0.3, dtype=torch.double))


def similarity(a, b):
    return (-(a[:, None] - b).square().sum(-1) / (2 * M)).exp().mean()


class MMD:
    """Maximum mean discrepancy between the guide's draws and the prior (Gretton et al. 2012)."""

    name = "mmd"

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, step):
        z = step.draw("z")
        prior = torch.randn_like(z)
        return similarity(z, z) + similarity(prior, prior) - 2 * similarity(z, prior)


class DensityRatio(nn.Module):
    """TC(z) by a critic that tells draws from shuffled ones (Kim & Mnih 2018)."""

    name = "tc_critic"

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = weight
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(M, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def forward(self, step):
        return self.net(step.draw("z")).mean()

    def own_loss(self, step):
        z = step.draw("z")
        apart = torch.stack([z[torch.randperm(len(z)), j] for j in range(z.shape[1])], 1)
        real, fake = self.net(z), self.net(apart)
        return (nn.functional.softplus(-real) + nn.functional.softplus(fake)).mean()


def gradients(loss, parameters):
    return torch.autograd.grad(loss, parameters, allow_unused=True)


# ---------------------------------------------------------------------- a regularizer of ten lines


def test_value_and_gradient_are_those_by_hand():
    program, x, weight = vae(), bits(), 7.0
    parameters = list(program.parameters())
    elbo = CorExELBO(regularizers=[MMD(weight)])
    pyro.set_rng_seed(1)
    loss = elbo.differentiable_loss(program.model, program.guide, x)
    pyro.set_rng_seed(1)
    plain = CorExELBO().differentiable_loss(program.model, program.guide, x)
    pyro.set_rng_seed(1)
    z = program.encode(x).rsample()
    prior = torch.randn_like(z)
    mmd = similarity(z, z) + similarity(prior, prior) - 2 * similarity(z, prior)
    want = plain + N * weight * mmd
    assert float(mmd.detach()) > 1e-3
    assert_close(loss, want, rtol=1e-10, atol=0)
    assert_close(elbo.last_terms.regularizers["mmd"], mmd.detach(), rtol=1e-10, atol=0)
    for got, by_hand in zip(gradients(loss, parameters), gradients(want, parameters), strict=True):
        assert_close(got, by_hand, rtol=1e-8, atol=1e-10)


def test_terms_show_it():
    program, x = vae(), bits()
    elbo = CorExELBO(regularizers=[MMD(7.0)], num_particles=3)
    terms = elbo.terms(program.model, program.guide, x)
    assert terms.regularizer_weight == {"mmd": 7.0}
    want = terms.elbo - 7.0 * float(terms.regularizers["mmd"])
    assert terms.objective == pytest.approx(want, rel=1e-10)
    shown = f"regularizers['mmd']: {float(terms.regularizers['mmd']):.4g}, weight 7"
    assert shown in repr(terms)
    mean = float(elbo.last_sums["regularizer", "mmd"][0]) / elbo.last_num_data
    assert mean == pytest.approx(float(terms.regularizers["mmd"]), rel=1e-12)


def test_a_value_for_each_latent():
    class Energy:
        name, weight = "energy", torch.tensor([1.0, 0.0, 2.0], dtype=torch.double)

        def __call__(self, step):
            return step.draw("z").square().mean(0)

    program, x = vae(), bits()
    elbo = CorExELBO(regularizers=[Energy()])
    terms = elbo.terms(program.model, program.guide, x)
    value = terms.regularizers["energy"]
    assert value.shape == (M,)
    want = terms.elbo - float(value[0]) - 2 * float(value[2])
    assert terms.objective == pytest.approx(want, rel=1e-10)
    assert "over 3 latents" in repr(terms)
    assert isinstance(Energy(), Regularizer)


def test_it_trains_in_svi():
    """A large weight brings the draws to the prior: without a KL the encoder would go anywhere."""
    program, x = vae(), bits(200)
    far = nn.init.constant_(program.encoder[-1].bias, 2.0)
    assert far.mean() == 2.0
    elbo = CorExELBO(regularizers=[MMD(1e3)])
    svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.02}), elbo)
    first = float(elbo.terms(program.model, program.guide, x).regularizers["mmd"])
    for _ in range(150):
        svi.step(x)
    last = float(elbo.terms(program.model, program.guide, x).regularizers["mmd"])
    assert last < 0.1 * first


def test_a_schedule_is_read_at_each_step():
    program, x = vae(), bits()
    weight = Warmup(0.0, 4.0, steps=2)
    elbo = CorExELBO(regularizers=[MMD(weight)])
    for want in (0.0, 2.0, 4.0):
        terms = elbo.terms(program.model, program.guide, x)
        assert terms.regularizer_weight == {"mmd": want}
        weight.step()


@pytest.mark.parametrize("vectorize", [False, True])
def test_particles_are_averaged(vectorize):
    class One:
        name, weight = "one", 1.0

        def __call__(self, step):
            assert step.particles == (3 if vectorize else 1)
            return step.draw("z").new_ones(())

    program, x = vae(), bits()
    elbo = CorExELBO(3, vectorize, max_plate_nesting=2, regularizers=[One()])
    loss = elbo.loss(program.model, program.guide, x)
    terms = elbo.last_terms
    assert float(terms.regularizers["one"]) == 1.0
    assert loss == pytest.approx(-N * terms.objective, rel=1e-10)
    assert terms.objective == pytest.approx(terms.elbo - 1.0, rel=1e-10)


def test_joined_terms_have_the_mean():
    program = vae()
    parts = [
        CorExELBO(regularizers=[MMD(1.0)]).terms(program.model, program.guide, bits(n))
        for n in (3, 6)
    ]
    one, two = (float(part.regularizers["mmd"]) for part in parts)
    joined = CorExTerms.join(parts)
    assert float(joined.regularizers["mmd"]) == pytest.approx((3 * one + 6 * two) / 9)


# ---------------------------------------------------------------------- a critic


def critic_by_hand(program, critic, x, weight):
    """The gradients of programs and critic, each from its own loss."""
    pyro.set_rng_seed(1)
    plain = CorExELBO().differentiable_loss(program.model, program.guide, x)
    pyro.set_rng_seed(1)
    z = program.encode(x).rsample()
    of_program = gradients(plain + N * weight * critic.net(z).mean(), list(program.parameters()))
    apart = torch.stack([z[torch.randperm(N), j] for j in range(M)], 1)
    real, fake = critic.net(z), critic.net(apart)
    own = (nn.functional.softplus(-real) + nn.functional.softplus(fake)).mean()
    return of_program, gradients(own, list(critic.parameters()))


@pytest.mark.parametrize("method", ["differentiable_loss", "loss_and_grads"])
def test_a_critic_and_the_programs_have_gradients_of_their_own(method):
    program, x, weight = vae(), bits(), 3.0
    critic = DensityRatio(weight)
    want_program, want_critic = critic_by_hand(program, critic, x, weight)
    elbo = CorExELBO(regularizers=[critic])
    pyro.set_rng_seed(1)
    loss = getattr(elbo, method)(program.model, program.guide, x)
    if method == "differentiable_loss":
        loss.backward()
    for parameters, wanted in ((program.parameters(), want_program),
                               (critic.parameters(), want_critic)):  # fmt: skip
        for parameter, want in zip(parameters, wanted, strict=True):
            if want is None:
                assert parameter.grad is None
                continue
            assert_close(parameter.grad, want, rtol=1e-8, atol=1e-10)
    assert max(float(p.grad.abs().max()) for p in critic.parameters()) > 1e-4
    terms = elbo.last_terms
    loss = float(torch.as_tensor(loss).detach())  # without its own loss
    assert loss == pytest.approx(-N * terms.objective, rel=1e-10)


def test_a_critic_that_looks_at_the_programs_moves_none_of_them():
    """Its own loss may run the encoder anew: the encoder's parameters stay without a gradient."""

    class Nosy(DensityRatio):
        def forward(self, step):
            return step.draw("z").new_zeros(())

        def own_loss(self, step):
            return self.net(step.guide.__self__.encode(step.args[0]).rsample()).mean()

    program, x = vae(), bits()

    def grads(options):
        program.zero_grad(set_to_none=True)
        pyro.set_rng_seed(1)
        CorExELBO(**options).loss_and_grads(program.model, program.guide, x)
        return [p.grad.clone() for p in program.parameters()]

    for got, want in zip(grads({"regularizers": [Nosy()]}), grads({}), strict=True):
        assert torch.equal(got, want)


TWICE = {"num_particles": 2}


@pytest.mark.parametrize("options", [{}, TWICE, {**TWICE, "vectorize_particles": True}])
def test_own_losses_are_averaged_over_particles(options):
    class Fixed(DensityRatio):
        def own_loss(self, step):
            return self.net.weight.sum()

    critic = Fixed()
    critic.net = nn.Linear(M, 1).double()
    program, x = vae(), bits()
    elbo = CorExELBO(max_plate_nesting=2, regularizers=[critic], **options)
    elbo.loss_and_grads(program.model, program.guide, x)
    assert_close(critic.net.weight.grad, torch.ones(1, M, dtype=torch.double))


def test_svi_trains_programs_and_critic():
    program, x = vae(), bits()
    critic = DensityRatio()
    before = [p.detach().clone() for p in (*critic.parameters(), *program.parameters())]
    elbo = CorExELBO(regularizers=[critic])
    svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.01}), elbo)
    svi.step(x)
    after = [*critic.parameters(), *program.parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(after, before, strict=True))
    names = [name for name in pyro.get_param_store() if name.startswith("tc_critic")]
    assert names == [f"tc_critic.net.{k}.{w}" for k in (0, 2) for w in ("weight", "bias")]
    other = DensityRatio()  # a second critic of one name is no copy of the first
    svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.01}),
              CorExELBO(regularizers=[other]))  # fmt: skip
    svi.step(x)
    assert "tc_critic_1.net.0.weight" in pyro.get_param_store()
    assert not torch.equal(next(other.parameters()), next(critic.parameters()))


def test_evaluating_trains_nothing():
    program, x = vae(), bits()
    critic = DensityRatio()
    CorExELBO(regularizers=[critic]).terms(program.model, program.guide, x)
    assert all(p.grad is None and p.requires_grad for p in critic.parameters())
    assert not [name for name in pyro.get_param_store() if name.startswith("tc_critic")]


def test_a_module_without_a_loss_of_its_own_follows_the_objective():
    class Learned(nn.Module):
        name, weight = "learned", 2.0

        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.ones(M, dtype=torch.double))

        def forward(self, step):
            return (step.draw("z") - self.shift).square().mean(0)

    learned, program, x = Learned(), vae(), bits()
    pyro.set_rng_seed(1)
    CorExELBO(regularizers=[learned]).loss_and_grads(program.model, program.guide, x)
    pyro.set_rng_seed(1)
    z = program.encode(x).sample()
    assert_close(learned.shift.grad, 2.0 * N * 2 * (learned.shift.detach() - z.mean(0)))


# ---------------------------------------------------------------------- the shorthands


def test_shorthands_build_regularizers():
    invariance = Invariance(torch.neg, {"y": 3.0})
    elbo = CorExELBO(tc_weight=0.5, tc_sites=["z"], mi_weight={"y": 2.0},
                     invariance=invariance, regularizers=[MMD(1.0)])  # fmt: skip
    kinds = [type(each) for each in elbo.regularizers]
    assert kinds == [TotalCorrelation, MutualInformation, Invariance, MMD]
    tc, mi, invariance, _ = elbo.regularizers
    assert (tc.weight, tc.sites) == (0.5, ("z",))
    assert (mi.weight, invariance.weight) == (-2.0, 3.0)
    assert CorExELBO(mi_weight={}).regularizers == ()
    assert regularizers.TotalCorrelation is TotalCorrelation


def test_as_given_or_as_shorthand():
    program, x = vae(), bits()
    losses = []
    for options in ({"tc_weight": 0.5}, {"regularizers": [TotalCorrelation(0.5)]}):
        pyro.set_rng_seed(1)
        losses.append(CorExELBO(**options).loss(program.model, program.guide, x))
    assert losses[0] == losses[1]


def test_sites_with_weights_that_differ():
    def guide(x):
        with pyro.plate("data", len(x)):
            for name, shift in (("a", 0.0), ("b", 1.0)):
                logits = torch.stack([x[:, 0] + shift, x[:, 1], x[:, 2]], -1)
                pyro.sample(name, dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

    def model(x):
        with pyro.plate("data", len(x)):
            for name in "ab":
                pyro.sample(name, dist.Categorical(torch.ones(3, dtype=torch.double)))
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([D]).to_event(1), obs=x)

    x = torch.randn(N, D, dtype=torch.double)
    together = CorExELBO(mi_weight={"a": 1.0, "b": 4.0}).terms(model, guide, x)
    apart = [CorExELBO(mi_weight={name: 1.0}).terms(model, guide, x) for name in "ab"]
    a, b = (float(terms.regularizers["mutual_information"]) for terms in apart)
    assert together.regularizers["mutual_information"].tolist() == pytest.approx([a, b])
    assert together.objective == pytest.approx(together.elbo + a + 4 * b, rel=1e-9)
    assert "weight -4 to -1" in repr(together)


# ---------------------------------------------------------------------- wrong uses


class Returns:
    name, weight = "odd", 1.0

    def __init__(self, value):
        self.value = value

    def __call__(self, step):
        return self.value


@pytest.mark.parametrize(("value", "error", "message"), [
    (1.0, TypeError, "Regularizer 'odd' must return a tensor in nats per datum, but got 1.0"),
    (torch.ones(N, M), ValueError, r"one for each latent, but got the shape \(32, 3\)"),
    (torch.ones(N), ValueError, r"the shape \(32,\): take the mean over the data"),
])  # fmt: skip
def test_values_that_do_not_fit(value, error, message):
    program = vae()
    with pytest.raises(error, match=message):
        CorExELBO(regularizers=[Returns(value)]).loss(program.model, program.guide, bits())


@pytest.mark.parametrize(("given", "error", "message"), [
    (MMD(1.0), TypeError, "regularizers must be a list of regularizers, but got"),
    ("mmd", TypeError, "regularizers must be a list of regularizers, but got 'mmd'"),
    ([MMD], TypeError, "it is a class, not an instance"),
    ([torch.nn.Linear(2, 2)], TypeError, "it lacks name"),
    ([MMD(1.0), MMD(2.0)], ValueError, "Two regularizers have the name 'mmd'"),
    ([MMD("much")], TypeError, "The weight of regularizer 'mmd' must be a number, a tensor or a"),
    ([MMD(math.nan)], ValueError, "The weight of regularizer 'mmd' must be finite, but got nan"),
])  # fmt: skip
def test_what_is_no_regularizer_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        CorExELBO(regularizers=given)


def test_an_own_loss_that_is_no_number():
    class Wrong(DensityRatio):
        def own_loss(self, step):
            return self.net(step.draw("z"))

    program = vae()
    elbo = CorExELBO(regularizers=[Wrong()])
    message = r"own_loss of regularizer 'tc_critic' must return a scalar .* the shape \(32, 1\)"
    with pytest.raises(TypeError, match=message):
        elbo.loss_and_grads(program.model, program.guide, bits())


@pytest.mark.parametrize("value", [torch.ones(()), torch.ones(M)])
def test_a_weight_that_does_not_fit_its_value(value):
    """A weight for each of five would count a scalar five times."""
    program, regularizer = vae(), Returns(value.double())
    regularizer.weight = torch.ones(5, dtype=torch.double)
    message = r"weight of regularizer 'odd' must be a number or have the shape .* the shape \(5,\)"
    with pytest.raises(ValueError, match=message):
        CorExELBO(regularizers=[regularizer]).loss(program.model, program.guide, bits())


def test_weights_of_no_site():
    with pytest.raises(ValueError, match="mi_weight must name at least one latent site"):
        MutualInformation({})
