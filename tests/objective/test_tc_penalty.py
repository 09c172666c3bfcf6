"""tc_weight: the penalty on TC(z) in the objective (Sec. 7)."""

import math
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.testing import assert_close

from pyro_corex import CorExELBO, CorExVAE, StackedCorEx, fit
from pyro_corex.information import minibatch_total_correlation
from pyro_corex.programs import mlp_decoder, mlp_encoder

from .pairs.continuous import bottom_up_guide, event_vae, matrix_vae, plate_vae, two_layer_model
from .pairs.discrete import PARALLEL, bernoulli_mixture
from .pairs.registry import D, M, N, bits, linear, positive, reals

WEIGHT = 0.7


def by_hand(guide, args, name="z", num_data=N):
    pyro.set_rng_seed(1)
    site = poutine.trace(guide).get_trace(*args).nodes[name]
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    value = site["value"]
    z, loc, scale = (t.expand(value.shape).flatten(1) for t in (value, fn.loc, fn.scale))
    return minibatch_total_correlation(z, loc, scale, num_data)


def terms_of(model, guide, *args, **options):
    pyro.set_rng_seed(1)
    return CorExELBO(tc_weight=WEIGHT, **options).terms(model, guide, *args)


@pytest.mark.parametrize("programs", [event_vae, plate_vae, matrix_vae])
def test_value(programs):
    model, guide, args = programs()
    terms = terms_of(model, guide, *args)
    assert terms.regularizer_weight == {"total_correlation": WEIGHT}
    assert_close(terms.regularizers["total_correlation"], by_hand(guide, args).detach())


@pytest.mark.parametrize("programs", [event_vae, plate_vae, matrix_vae])
@pytest.mark.parametrize("options", [{}, {"num_particles": 3, "vectorize_particles": True},
                                     {"num_particles": 3}])  # fmt: skip
@pytest.mark.parametrize("method", ["loss", "differentiable_loss", "loss_and_grads"])
def test_loss_is_minus_the_objective(programs, options, method):
    model, guide, args = programs()
    elbo = CorExELBO(tc_weight=WEIGHT, max_plate_nesting=2, **options)
    loss = float(torch.as_tensor(getattr(elbo, method)(model, guide, *args)).detach())
    terms = elbo.last_terms
    assert loss == pytest.approx(-terms.objective * terms.num_data, rel=1e-10)
    without = terms.elbo - terms.objective
    assert without == pytest.approx(
        WEIGHT * float(terms.regularizers["total_correlation"]), rel=1e-9
    )
    assert "total_correlation" in repr(terms)


@pytest.mark.parametrize("programs", [event_vae, plate_vae])
def test_vectorised_particles_are_averaged(programs):
    """Against one call for each particle, with the same draws."""
    model, guide, args = programs()
    options = {"num_particles": 3, "vectorize_particles": True, "max_plate_nesting": 2}
    elbo = CorExELBO(tc_weight=WEIGHT, **options)
    vectorised = poutine.trace(elbo._vectorized_num_particles(guide))
    pyro.set_rng_seed(1)
    site = vectorised.get_trace(*args).nodes["z"]
    fn = site["fn"].base_dist if programs is event_vae else site["fn"]
    draws = zip(*(t.expand(site["value"].shape).reshape(3, N, M)
                  for t in (site["value"], fn.loc, fn.scale)), strict=True)  # fmt: skip
    want = torch.stack([minibatch_total_correlation(*draw, N) for draw in draws]).mean()
    pyro.set_rng_seed(1)
    found = elbo.terms(model, guide, *args).regularizers["total_correlation"]
    assert_close(found, want.detach())


@pytest.mark.parametrize("programs", [event_vae, plate_vae])
@pytest.mark.parametrize("options", [{}, {"num_particles": 2, "vectorize_particles": True}])
def test_gradient_by_finite_differences(programs, options):
    model, guide, args = programs()
    elbo = CorExELBO(tc_weight=WEIGHT, max_plate_nesting=2, **options)

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
        terms.regularizers["total_correlation"], by_hand(guide, (x,), num_data=50).detach()
    )


def test_the_size_of_the_data_can_be_told():
    model, guide, args = plate_vae()
    terms = terms_of(model, guide, *args, tc_num_data=1000)
    assert_close(
        terms.regularizers["total_correlation"], by_hand(guide, args, num_data=1000).detach()
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
        terms.regularizers["total_correlation"], (joint - marginal.sum(-1)).mean().detach()
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
        terms.regularizers["total_correlation"],
        minibatch_total_correlation(z, loc, scale, N).detach(),
    )


def test_a_stack_has_its_top_layer_penalised():
    guide = bottom_up_guide({"analytic_kl": False})
    x = bits(N, D)
    terms = terms_of(two_layer_model, guide, x)
    assert_close(terms.regularizers["total_correlation"], by_hand(guide, (x,), "z2").detach())
    terms = terms_of(two_layer_model, guide, x, tc_sites=["z1"])
    assert_close(terms.regularizers["total_correlation"], by_hand(guide, (x,), "z1").detach())


def test_below_an_enumerated_top():
    stack = StackedCorEx([(D, M), (M, 2)], n_classes=2)
    x = bits(N, D)
    elbo = CorExELBO(tc_weight=WEIGHT, tc_sites=["z1"])
    loss = elbo.differentiable_loss(stack.model, stack.guide, x)
    loss.backward()
    terms = elbo.last_terms
    assert float(loss.detach()) == pytest.approx(-terms.objective * N, rel=1e-5)
    assert float(terms.regularizers["total_correlation"]) != 0


# ---------------------------------------------------------------------- training


def test_fit_tells_the_size_and_trains_the_penalty():
    x = torch.randn(65, D)  # the last batch has one datum
    elbo = CorExELBO(tc_weight=2.0)
    seen = []

    class Spy(CorExVAE):
        def guide(self, x):
            seen.append(elbo.num_data)
            return super().guide(x)

    vae = Spy(mlp_encoder([D, M]), mlp_decoder([M, D]), M, likelihood="normal")
    history = fit(vae, x, epochs=1, batch_size=16, elbo=elbo, progress=False)
    assert set(seen) == {65}
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
    refuses("TC\\(z\\) of site 'z2' is asked for, but it is enumerated", stack.model, stack.guide,
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
    refuses("TotalCorrelation names 'z', but the site is masked", poutine.mask(model, mask),
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

    refuses("TotalCorrelation names 'z', which is drawn given an enumerated site",
            lambda x: program(x, False), lambda x: program(x, True), reals(N, D),
            max_plate_nesting=1)  # fmt: skip


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
            style = pyro.sample("style", dist.Normal(linear(x, "style", M), 0.5))
            shift = float(style.mean())
            pyro.sample("content", dist.Normal(linear(x, "content", M) + shift, 0.5))

    refuses(r"could not be followed.*tc_sites=\['content'\]", siblings_model, guide, reals(N, D))


@pytest.mark.parametrize("names", [["z", "y"], []])
def test_unknown_names_are_refused(names):
    model, guide, args = plate_vae()
    refuses(re.escape("the latents that the guide draws for each datum are ['z']"), model, guide,
            *args, tc_sites=names)  # fmt: skip


def test_a_size_that_is_too_small_is_refused():
    model, guide, args = plate_vae()
    refuses("n_data = 2 is less than the batch of 5", model, guide, *args, tc_num_data=2)
    with pytest.raises(ValueError, match="tc_num_data must be an integer >= 1, but got 0"):
        CorExELBO(tc_num_data=0)


def test_a_string_is_refused():
    with pytest.raises(TypeError, match=r"tc_sites must be a collection of names, e.g. \['z'\]"):
        CorExELBO(tc_sites="z")


def test_a_penalty_that_is_not_finite_is_named():
    model, guide, args = plate_vae()
    guide(*args)
    pyro.get_param_store()._params["q.scale"].data[0] = math.nan
    with pyro.validation_enabled(False):
        refuses("the regularizer 'total_correlation' is NaN", model, guide, *args)
