"""Penalties on TC(z) in the objective (Sec. 7)."""

import math
import re
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.testing import assert_close

from pyro_corex import CorExELBO, CorExVAE, StackedCorEx, fit
from pyro_corex.information import (
    gaussian_total_correlation,
    minibatch_total_correlation,
    sample_total_correlation,
)
from pyro_corex.programs import mlp_decoder, mlp_encoder
from pyro_corex.regularizers import DensityRatio, MinibatchTotalCorrelation, TotalCorrelation

from .pairs.continuous import bottom_up_guide, event_vae, matrix_vae, plate_vae, two_layer_model
from .pairs.discrete import PARALLEL, bernoulli_mixture
from .pairs.registry import D, M, N, bits, linear, positive, reals

pytestmark = pytest.mark.filterwarnings("ignore:MinibatchTotalCorrelation does not see")

WEIGHT, NAME = 0.7, "minibatch_total_correlation"


def by_hand(guide, args, name="z", num_data=N):
    pyro.set_rng_seed(1)
    site = poutine.trace(guide).get_trace(*args).nodes[name]
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    value = site["value"]
    z, loc, scale = (t.expand(value.shape).flatten(1) for t in (value, fn.loc, fn.scale))
    return minibatch_total_correlation(z, loc, scale, num_data)


def objective(sites=None, num_data=None, **options):
    penalty = MinibatchTotalCorrelation(WEIGHT, sites, num_data)
    return CorExELBO(regularizers=[penalty], **options)


def terms_of(model, guide, *args, **options):
    pyro.set_rng_seed(1)
    return objective(**options).terms(model, guide, *args)


@pytest.mark.parametrize("programs", [event_vae, plate_vae, matrix_vae])
def test_value(programs):
    model, guide, args = programs()
    terms = terms_of(model, guide, *args)
    assert terms.regularizer_weight == {"minibatch_total_correlation": WEIGHT}
    assert_close(terms.regularizers[NAME], by_hand(guide, args).detach())


@pytest.mark.parametrize("programs", [event_vae, plate_vae, matrix_vae])
@pytest.mark.parametrize("options", [{}, {"num_particles": 3, "vectorize_particles": True},
                                     {"num_particles": 3}])  # fmt: skip
@pytest.mark.parametrize("method", ["loss", "differentiable_loss", "loss_and_grads"])
def test_loss_is_minus_the_objective(programs, options, method):
    model, guide, args = programs()
    elbo = objective(max_plate_nesting=2, **options)
    loss = float(torch.as_tensor(getattr(elbo, method)(model, guide, *args)).detach())
    terms = elbo.last_terms
    assert loss == pytest.approx(-terms.objective * terms.num_data, rel=1e-10)
    without = terms.elbo - terms.objective
    assert without == pytest.approx(WEIGHT * float(terms.regularizers[NAME]), rel=1e-9)
    assert "minibatch_total_correlation" in repr(terms)


@pytest.mark.parametrize("programs", [event_vae, plate_vae])
def test_vectorised_particles_are_averaged(programs):
    """Against one call for each particle, with the same draws."""
    model, guide, args = programs()
    options = {"num_particles": 3, "vectorize_particles": True, "max_plate_nesting": 2}
    elbo = objective(**options)
    vectorised = poutine.trace(elbo._vectorized_num_particles(guide))
    pyro.set_rng_seed(1)
    site = vectorised.get_trace(*args).nodes["z"]
    fn = site["fn"].base_dist if programs is event_vae else site["fn"]
    draws = zip(*(t.expand(site["value"].shape).reshape(3, N, M)
                  for t in (site["value"], fn.loc, fn.scale)), strict=True)  # fmt: skip
    want = torch.stack([minibatch_total_correlation(*draw, N) for draw in draws]).mean()
    pyro.set_rng_seed(1)
    found = elbo.terms(model, guide, *args).regularizers["minibatch_total_correlation"]
    assert_close(found, want.detach())


@pytest.mark.parametrize("programs", [event_vae, plate_vae])
@pytest.mark.parametrize("options", [{}, {"num_particles": 2, "vectorize_particles": True}])
def test_gradient_by_finite_differences(programs, options):
    model, guide, args = programs()
    elbo = objective(max_plate_nesting=2, **options)

    def loss():
        pyro.set_rng_seed(1)
        return elbo.differentiable_loss(model, guide, *args)

    loss().backward()
    step = 1e-5
    for name in ("encoder.weight", "encoder.bias", "q.scale"):
        parameter = pyro.get_param_store()._params[name]
        gradient = parameter.grad.flatten()
        flat = parameter.data.view(-1)
        for i in range(0, len(flat), 3):
            flat[i] += step
            up = float(loss().detach())
            flat[i] -= 2 * step
            down = float(loss().detach())
            flat[i] += step
            assert float(gradient[i]) == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-7)


def test_a_subsampled_plate_tells_the_size_of_the_data():
    def program(x, latent):
        with pyro.plate("data", 50, subsample_size=N, dim=-2) as rows:
            x = x[rows]
            with pyro.plate("latents", M):
                loc = linear(x, "encoder", M) if latent else 0.0
                z = pyro.sample("z", dist.Normal(loc, positive("q.scale", M) if latent else 1.0))
            if not latent:
                with pyro.plate("inputs", D):
                    pyro.sample("x", dist.Normal(linear(z, "decoder", D), 1.0), obs=x)

    def model(x):
        program(x, False)

    def guide(x):
        program(x, True)

    x = reals(50, D)
    terms = terms_of(model, guide, x)
    assert terms.num_data == 50
    assert_close(
        terms.regularizers[NAME],
        by_hand(guide, (x,), num_data=50).detach(),
    )


def test_the_size_of_the_data_can_be_told():
    model, guide, args = plate_vae()
    terms = terms_of(model, guide, *args, num_data=1000)
    assert_close(
        terms.regularizers[NAME],
        by_hand(guide, args, num_data=1000).detach(),
    )
    assert terms.num_data == N


def test_a_density_that_is_not_normal():
    def program(x, latent):
        with pyro.plate("data", N, dim=-2):
            loc = linear(x, "encoder", M) if latent else torch.zeros(M)
            with pyro.plate("latents", M):
                z = pyro.sample("z", dist.Laplace(loc, 1.0))
            if not latent:
                pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0), obs=x[:, :1])

    def guide(x):
        program(x, True)

    x = reals(N, D)
    terms = terms_of(lambda x: program(x, False), guide, x)
    pyro.set_rng_seed(1)
    site = poutine.trace(guide).get_trace(x).nodes["z"]
    pairs = site["fn"].log_prob(site["value"].unsqueeze(1))  # (N, N, M)
    joint = pairs.sum(-1).logsumexp(1) - math.log(N)
    marginal = pairs.logsumexp(1) - math.log(N)
    assert_close(
        terms.regularizers[NAME],
        (joint - marginal.sum(-1)).mean().detach(),
    )


# ---------------------------------------------------------------------- several sites


def siblings_model(x):
    with pyro.plate("data", N, dim=-2):
        with pyro.plate("latents", M, dim=-1):
            style = pyro.sample("style", dist.Normal(0.0, 1.0))
            content = pyro.sample("content", dist.Normal(0.0, 1.0))
        with pyro.plate("inputs", D, dim=-1):
            pyro.sample("x", dist.Normal(linear(style + content, "decoder", D), 1.0), obs=x)


def siblings_guide(x):
    with pyro.plate("data", N, dim=-2), pyro.plate("latents", M, dim=-1):
        pyro.sample("style", dist.Normal(linear(x, "style", M), 0.5))
        pyro.sample("content", dist.Normal(linear(x, "content", M), 0.5))


def test_latents_of_one_layer_are_taken_together():
    x = reals(N, D)
    terms = terms_of(siblings_model, siblings_guide, x)
    pyro.set_rng_seed(1)
    nodes = poutine.trace(siblings_guide).get_trace(x).nodes
    both = [nodes[name] for name in ("style", "content")]
    z, loc, scale = (
        torch.cat([part(site) for site in both], -1)
        for part in (lambda s: s["value"], lambda s: s["fn"].loc, lambda s: s["fn"].scale)
    )
    assert_close(
        terms.regularizers[NAME],
        minibatch_total_correlation(z, loc, scale, N).detach(),
    )


def test_a_stack_has_its_top_layer_penalised():
    guide = bottom_up_guide({"analytic_kl": False})
    x = bits(N, D)
    terms = terms_of(two_layer_model, guide, x)
    assert_close(terms.regularizers[NAME], by_hand(guide, (x,), "z2").detach())
    terms = terms_of(two_layer_model, guide, x, sites=["z1"])
    assert_close(terms.regularizers[NAME], by_hand(guide, (x,), "z1").detach())


def test_below_an_enumerated_top():
    stack = StackedCorEx([(D, M), (M, 2)], n_classes=2)
    x = bits(N, D)
    elbo = objective(sites=["z1"])
    loss = elbo.differentiable_loss(stack.model, stack.guide, x)
    loss.backward()
    terms = elbo.last_terms
    assert float(loss.detach()) == pytest.approx(-terms.objective * N, rel=1e-5)
    assert float(terms.regularizers[NAME]) != 0


# ---------------------------------------------------------------------- training


def test_fit_tells_the_size_and_trains_the_penalty():
    x = torch.randn(65, D)  # the last batch has one datum
    elbo = CorExELBO(regularizers=[MinibatchTotalCorrelation(2.0)])
    seen = []

    class Spy(CorExVAE):
        def guide(self, x):
            seen.append(elbo.num_data)
            return super().guide(x)

    vae = Spy(mlp_encoder([D, M]), mlp_decoder([M, D]), M, likelihood="normal")
    history = fit(vae, x, epochs=1, batch_size=16, elbo=elbo, progress=False)
    assert set(seen[1:]) == {65}  # but for the first run, for parameters
    assert elbo.num_data is None
    assert history["objective"][0] != history["elbo"][0]


def test_no_penalty_is_no_work():
    model, guide, args = plate_vae()
    terms = CorExELBO().terms(model, guide, *args)
    assert terms.regularizers == {}


# ---------------------------------------------------------------------- errors


def refuses(message, model, guide, *args, **options):
    with pytest.raises(ValueError, match=message):
        terms_of(model, guide, *args, **options)


def test_an_enumerated_site_is_refused():
    stack = StackedCorEx([(D, M), (M, 2)], n_classes=2)
    refuses(f"{NAME} of site 'z2' is asked for, but it is enumerated", stack.model, stack.guide,
            bits(N, D))  # fmt: skip


@pytest.mark.filterwarnings("ignore:The guide sites")
def test_a_score_function_site_is_refused():
    model, guide, args = bernoulli_mixture({})[:3]
    refuses(r"the guide draws \['z'\] without a reparameterisation", model, guide, *args)


def test_a_guide_without_latents_for_each_datum_is_refused():
    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", N):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    def guide(x):
        pyro.sample("mean", dist.Normal(positive("q.loc"), 1.0))

    refuses("needs latents that the guide draws for each datum", model, guide, reals(N))


def test_a_site_that_does_not_factorise_is_refused():
    def model(x):
        with pyro.plate("data", N):
            z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(M), torch.eye(M)))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", N):
            pyro.sample("z", dist.MultivariateNormal(torch.zeros(M), torch.eye(M)))

    refuses("needs a guide that factorises over its latents, but its event shape is \\(3,\\) and "
            "MultivariateNormal does not", model, guide, reals(N))  # fmt: skip


def test_a_masked_site_is_refused():
    model, guide, args = plate_vae()
    mask = torch.arange(N)[:, None] > 0
    refuses(f"{NAME} names 'z', but the site is masked", poutine.mask(model, mask),
            poutine.mask(guide, mask), *args)  # fmt: skip


def test_several_data_axes_are_refused():
    model, guide, args = plate_vae()
    refuses("needs exactly one data axis .* but there are 2", model, guide, *args,
            data_plates=["data", "latents"])  # fmt: skip


def test_a_site_drawn_given_an_enumerated_one_is_refused():
    def program(x, latent):
        with pyro.plate("data", N):
            probs = linear(x, "classes", 2).softmax(-1) if latent else torch.ones(2) / 2
            c = pyro.sample("c", dist.Categorical(probs), infer=PARALLEL if latent else {})
            z = pyro.sample("z", dist.Normal(c * 1.0, 1.0))
            if not latent:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    refuses("minibatch_total_correlation names 'z', which is drawn given an enumerated site",
            lambda x: program(x, False), lambda x: program(x, True), reals(N, D),
            max_plate_nesting=1, sites=["z"])  # fmt: skip


def test_latents_over_different_data_are_refused():
    def program(x, latent):
        for name, size in (("a", N), ("b", N - 1)):
            with pyro.plate(f"data_{name}", size):
                loc = positive(f"q.{name}") if latent else 0.0
                z = pyro.sample(f"z_{name}", dist.Normal(loc, 1.0))
                if not latent:
                    pyro.sample(f"x_{name}", dist.Normal(z, 1.0), obs=x[:size])

    refuses("are not over the same data", lambda x: program(x, False), lambda x: program(x, True),
            reals(N))  # fmt: skip


def test_an_order_that_cannot_be_followed_is_refused():
    def guide(x):
        with pyro.plate("data", N, dim=-2), pyro.plate("latents", M, dim=-1):
            pyro.sample("style", dist.Normal(linear(x, "style", M), 0.5))
            pyro.sample("content", dist.Normal(linear(x, "content", M), 0.5))

    def model(x):
        with pyro.plate("data", N, dim=-2), pyro.plate("latents", M, dim=-1):
            style = pyro.sample("style", dist.Normal(0.0, 1.0))
            shift = float(style.mean())
            content = pyro.sample("content", dist.Normal(shift, 1.0))
            pyro.sample("x", dist.Normal(style + content, 1.0), obs=x[:, :M])

    refuses(r"could not be followed.*sites=\['content'\]", model, guide, reals(N, D))


@pytest.mark.parametrize("names", [["z", "y"], []])
def test_unknown_names_are_refused(names):
    model, guide, args = plate_vae()
    refuses(re.escape("the latents that the guide draws for each datum are ['z']"), model, guide,
            *args, sites=names)  # fmt: skip


def test_a_size_that_is_too_small_is_refused():
    model, guide, args = plate_vae()
    refuses("n_data = 2 is less than the batch of 5", model, guide, *args, num_data=2)
    with pytest.raises(ValueError, match="num_data must be an integer >= 1, but got 0"):
        MinibatchTotalCorrelation(1.0, num_data=0)


def test_a_string_is_refused():
    with pytest.raises(TypeError, match=r"sites must be a collection of names, e.g. \['z'\]"):
        CorExELBO(tc_sites="z")


def test_a_penalty_that_is_not_finite_is_named():
    model, guide, args = plate_vae()
    guide(*args)
    pyro.get_param_store()._params["q.scale"].data[0] = math.nan
    with pyro.validation_enabled(False):
        refuses("the regularizer 'minibatch_total_correlation' is NaN", model, guide, *args)


# ---------------------------------------------------------------------- what is penalised


class Linear(torch.nn.Module):
    """Encodes x as A x + s eps, with a scale that is learned."""

    def __init__(self, m, rho, scale):
        super().__init__()
        cov = torch.full((m, m), rho).fill_diagonal_(1.0)
        self.factor = torch.linalg.cholesky(cov)
        self.log_scale = torch.nn.Parameter(torch.tensor(math.log(scale)))
        whole = cov.double() + (2 * self.log_scale.double()).exp() * torch.eye(m)
        self.tc = gaussian_total_correlation(whole)
        self.slope = float(torch.autograd.grad(self.tc, self.log_scale)[0])
        self.tc = float(self.tc.detach())
        self.slope_of_information = -m / (1 + scale**2)  # of sum_j I(z_j:x)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc = x @ self.factor.T
            pyro.sample("z", dist.Normal(loc, self.log_scale.exp()).to_event(1))

    def slope_under(self, penalty, batches, generator):
        """The mean gradient of the penalty alone in the log scale, and its error."""
        found = []
        elbos = CorExELBO(regularizers=[penalty]), CorExELBO()
        elbos[0].num_data = 10_000
        for seed in range(batches):
            x = torch.randn(128, len(self.factor), generator=generator)
            grads = []
            for elbo in elbos:
                pyro.set_rng_seed(seed)
                loss = elbo.differentiable_loss(self.model, self.guide, x) / 128
                grads.append(float(torch.autograd.grad(loss, self.log_scale)[0]))
            found.append(grads[0] - grads[1])
        found = torch.tensor(found)
        return float(found.mean()), float(found.std()) / math.sqrt(batches)


def trained_critic(program, m, steps, generator):
    critic = DensityRatio(1.0, m)
    elbo, optimiser = CorExELBO(regularizers=[critic]), torch.optim.Adam(critic.parameters(), 2e-3)
    program.requires_grad_(False)
    for _ in range(steps):
        x = torch.randn(128, m, generator=generator)
        optimiser.zero_grad()
        elbo.differentiable_loss(program.model, program.guide, x).backward()
        optimiser.step()
    program.requires_grad_(True)
    return critic


def test_independent_latents_far_above_the_cap_are_not_compressed():
    """I(x:z) is 24 nats and ln N is 9: TC(z) is 0 whatever the scale.  The minibatch estimate
    penalises what the latents know; the others do not."""
    generator = torch.Generator().manual_seed(0)
    program = Linear(20, 0.0, 0.3)
    allowed = 0.05 * abs(program.slope_of_information)
    slope, error = program.slope_under(TotalCorrelation(1.0), 40, generator)
    assert abs(slope) < 3.5 * error < allowed
    critic = trained_critic(program, 20, 150, generator)
    slope, error = program.slope_under(critic, 20, generator)
    assert abs(slope) + 2 * error < allowed
    slope, _ = program.slope_under(MinibatchTotalCorrelation(1.0), 5, generator)
    assert slope == pytest.approx(program.slope_of_information, rel=0.1)


def test_the_gradient_on_dependent_latents_is_that_of_the_closed_form():
    generator = torch.Generator().manual_seed(1)
    program = Linear(5, 0.8, 0.3)
    slope, error = program.slope_under(TotalCorrelation(1.0), 60, generator)
    assert abs(slope - program.slope) < 3.5 * error < 0.1 * abs(program.slope)
    critic = trained_critic(program, 5, 250, generator)
    slope, _ = program.slope_under(critic, 20, generator)
    assert slope == pytest.approx(program.slope, rel=0.3)


def test_the_critic_learns_the_value():
    generator = torch.Generator().manual_seed(2)
    program = Linear(3, 0.6, 0.5)
    critic = trained_critic(program, 3, 200, generator)
    x = torch.randn(5000, 3, generator=generator)
    terms = CorExELBO(regularizers=[critic]).terms(program.model, program.guide, x)
    assert float(terms.regularizers["density_ratio"]) == pytest.approx(program.tc, rel=0.3)


def test_a_warning_says_where_the_minibatch_does_not_see_tc():
    program, penalty = Linear(20, 0.0, 0.3), MinibatchTotalCorrelation(1.0)
    elbo, x = CorExELBO(regularizers=[penalty]), torch.randn(64, 20)
    with pytest.warns(UserWarning, match=r"does not see TC\(z\) here.*ln N = 4\.16"):
        elbo.loss(program.model, program.guide, x)
    elbo = CorExELBO(regularizers=[MinibatchTotalCorrelation(1.0, None, 10**9, method="weighted")])
    with pytest.warns(UserWarning, match=r"within one nat of ln B = 4\.16"):
        elbo.loss(program.model, program.guide, x)
    with warnings.catch_warnings():  # calls 3, 5, 6, 7 do not look, and noise of 5 is seen
        warnings.simplefilter("error")
        elbo = CorExELBO(regularizers=[MinibatchTotalCorrelation(1.0)])
        loose = Linear(2, 0.0, 2.0)
        elbo.loss(loose.model, loose.guide, x[:, :2])


# ---------------------------------------------------------------------- from the draws


@pytest.mark.parametrize("programs", [event_vae, plate_vae, matrix_vae])
@pytest.mark.parametrize("options", [{}, {"num_particles": 3, "vectorize_particles": True}])
def test_draws_are_those_of_the_guide(programs, options):
    model, guide, args = programs()
    elbo = CorExELBO(tc_weight=WEIGHT, max_plate_nesting=2, **options)
    run = elbo._vectorized_num_particles(guide) if options else guide
    pyro.set_rng_seed(1)
    value = (
        poutine.trace(run)
        .get_trace(*args)
        .nodes["z"]["value"]
        .reshape(options.get("num_particles", 1), N, -1)
    )
    want = torch.stack([sample_total_correlation(z) for z in value]).mean()
    pyro.set_rng_seed(1)
    terms = elbo.terms(model, guide, *args)
    assert_close(terms.regularizers["total_correlation"], want.detach())
    assert terms.regularizer_weight == {"total_correlation": WEIGHT}
    assert terms.objective == pytest.approx(terms.elbo - WEIGHT * float(want.detach()), rel=1e-10)


def test_a_guide_that_does_not_factorise_has_a_tc():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(M), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            cov = torch.full((M, M), 0.5).fill_diagonal_(1.0)
            pyro.sample("z", dist.MultivariateNormal(torch.zeros(M), cov))

    found = CorExELBO(tc_weight=1.0).terms(model, guide, torch.zeros(20_000))
    want = gaussian_total_correlation(torch.full((M, M), 0.5).fill_diagonal_(1.0))
    assert float(found.regularizers["total_correlation"]) == pytest.approx(float(want), abs=0.02)


def test_a_critic_of_another_width_is_refused():
    with pytest.raises(ValueError, match="latent_dim must be an integer >= 1, but got 0"):
        DensityRatio(1.0, 0)
    with pytest.raises(TypeError, match=r"critic must be an nn.Module from \(B, 3\) to \(B,\)"):
        DensityRatio(1.0, 3, critic=torch.nn.Linear)
    model, guide, args = plate_vae()
    elbo = CorExELBO(regularizers=[DensityRatio(1.0, M + 1).double()])
    with pytest.raises(ValueError, match=f"latent_dim of DensityRatio must be .* {M}, but got"):
        elbo.loss(model, guide, *args)


def test_a_last_batch_of_one_datum_says_nothing():
    x = torch.randn(9, D)
    for penalty in (TotalCorrelation(1.0), DensityRatio(1.0, M)):
        elbo = CorExELBO(regularizers=[penalty])
        vae = CorExVAE(mlp_encoder([D, M]), mlp_decoder([M, D]), M, likelihood="normal")
        fit(vae, x, epochs=1, batch_size=4, elbo=elbo, progress=False)
        value = elbo.terms(vae.model, vae.guide, x[:1]).regularizers[penalty.name]
        assert bool(value.isfinite())


def test_fit_trains_the_critic():
    torch.manual_seed(0)
    x = torch.randn(2000, 1).repeat(1, D) + 0.1 * torch.randn(2000, D)
    critic = DensityRatio(0.0, M)
    vae = CorExVAE(mlp_encoder([D, M]), mlp_decoder([M, D]), M, likelihood="normal")
    history = fit(vae, x, epochs=5, elbo=CorExELBO(regularizers=[critic]), lr=1e-2, progress=False)
    assert history["density_ratio"][-1] > history["density_ratio"][0] + 0.1


def test_penalties_say_what_they_are():
    assert repr(TotalCorrelation(2.0, ["z"])) == "TotalCorrelation(2.0, sites=['z'])"
    assert repr(MinibatchTotalCorrelation(2.0, num_data=9)) == (
        "MinibatchTotalCorrelation(2.0, num_data=9)"
    )
    assert repr(MinibatchTotalCorrelation(2.0, method="weighted")).endswith(
        "(2.0, method='weighted')"
    )
    assert repr(DensityRatio(2.0, 3)).startswith("DensityRatio(\n  2.0, 3")
