"""mi_weight: the reward for what a discrete latent knows of the datum."""

import math
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.special import entr
from torch.testing import assert_close

from pyro_corex import CorExELBO, CorExTerms, StackedCorEx

from .pairs.continuous import plate_vae
from .pairs.discrete import PARALLEL, SEQUENTIAL, K, bernoulli_mixture
from .pairs.registry import D, M, N, bits, linear, positive, real, reals, simplex

WEIGHT = 0.7
FULL = 50  # data, of which a subsampled plate shows N


def information(probs):
    """H(mean q) - mean H(q) for probabilities of shape (data, ..., classes)."""
    return entr(probs.mean(0)).sum(-1) - entr(probs).sum(-1).mean(0)


def mixture():
    model, guide, args = bernoulli_mixture(PARALLEL)
    return model, guide, args, (lambda: linear(args[0], "encoder", K).softmax(-1))


def units():
    """Binary units in a plate of their own, drawn from scores of the data."""

    def program(x, latent):
        with pyro.plate("data", N, dim=-2), pyro.plate("latents", M, dim=-1):
            logits = linear(x, "encoder", M) if latent else torch.zeros(N, M)
            z = pyro.sample("z", dist.Bernoulli(logits=logits), infer=PARALLEL)
            if not latent:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, :M])

    x = reals(N, D)

    def probs():
        on = linear(x, "encoder", M).sigmoid()
        return torch.stack([on, 1 - on], -1)

    return (lambda x: program(x, False)), (lambda x: program(x, True)), (x,), probs


def one_hot():
    def program(x, latent):
        with pyro.plate("data", N):
            logits = linear(x, "encoder", K) if latent else torch.zeros(N, K)
            z = pyro.sample("z", dist.OneHotCategorical(logits=logits), infer=PARALLEL)
            if not latent:
                pyro.sample("x", dist.Bernoulli(logits=z @ real("W", K, D)).to_event(1), obs=x)

    x = bits(N, D)
    return ((lambda x: program(x, False)), (lambda x: program(x, True)), (x,),
            lambda: linear(x, "encoder", K).softmax(-1))  # fmt: skip


def terms_of(model, guide, *args, weight=WEIGHT, name="z", **options):
    pyro.set_rng_seed(1)
    elbo = CorExELBO(mi_weight={name: weight}, data_plates=["data"], **options)
    return elbo.terms(model, guide, *args)


PARTICLES = [{}, {"num_particles": 3}, {"num_particles": 3, "vectorize_particles": True}]

# ---------------------------------------------------------------------- values


@pytest.mark.parametrize("programs", [mixture, units, one_hot])
@pytest.mark.parametrize("options", PARTICLES)
def test_value(programs, options):
    model, guide, args, probs = programs()
    terms = terms_of(model, guide, *args, **options)
    want = information(probs().detach())
    assert want.min() > 1e-3
    assert_close(terms.regularizers["mutual_information"], want)
    assert terms.regularizer_weight == {"mutual_information": -WEIGHT}


def certain(x):
    """A guide that says which of four kinds a datum is, without a doubt, in a model of noise."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Categorical(logits=real("s", 1) * 0 + x), infer=PARALLEL)


def of_noise(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Categorical(torch.ones(4) / 4), infer=PARALLEL)
        pyro.sample("x", dist.Normal(torch.zeros(4), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize(("x", "known"), [(1e3 * torch.eye(4), math.log(4)),
                                          (torch.ones(6, 4), 0.0),
                                          (torch.ones(1, 4), 0.0)])  # fmt: skip
def test_a_known_value(x, known):
    x = x.double()
    elbo = CorExELBO(mi_weight={"z": 1.0})
    elbo.differentiable_loss(of_noise, certain, x).backward()
    assert float(elbo.last_terms.regularizers["mutual_information"]) == pytest.approx(
        known, abs=1e-12
    )
    gradients = [p.grad for p in pyro.get_param_store()._params.values()]
    assert all(bool(g.isfinite().all()) for g in gradients), "a probability of 0"


@pytest.mark.parametrize("programs", [mixture, units, one_hot])
@pytest.mark.parametrize("options", PARTICLES)
@pytest.mark.parametrize("method", ["loss", "differentiable_loss", "loss_and_grads"])
def test_loss_is_minus_the_objective(programs, options, method):
    model, guide, args, _ = programs()
    options = {"max_plate_nesting": 2, "data_plates": ["data"], **options}
    elbo = CorExELBO(mi_weight={"z": WEIGHT}, **options)
    loss = float(torch.as_tensor(getattr(elbo, method)(model, guide, *args)).detach())
    terms = elbo.last_terms
    assert loss == pytest.approx(-terms.objective * terms.num_data, rel=1e-10)
    reward = WEIGHT * float(terms.regularizers["mutual_information"].sum())
    assert terms.objective - terms.elbo == pytest.approx(reward, rel=1e-9)
    assert not terms.regularizers["mutual_information"].requires_grad


@pytest.mark.parametrize("programs", [mixture, units, one_hot])
@pytest.mark.parametrize("options", [{}, {"num_particles": 2, "vectorize_particles": True}])
def test_gradient(programs, options):
    """That of the closed form, on top of the gradient without the reward."""
    model, guide, args, probs = programs()
    parameter = []

    def gradient(**more):
        elbo = CorExELBO(max_plate_nesting=2, data_plates=["data"], **options, **more)
        pyro.set_rng_seed(1)
        value = elbo.differentiable_loss(model, guide, *args)
        parameter[:] = [p for n, p in pyro.get_param_store()._params.items() if "encoder" in n]
        return torch.autograd.grad(value, parameter)

    with_reward, without = gradient(mi_weight={"z": WEIGHT}), gradient()
    want = torch.autograd.grad(-WEIGHT * N * information(probs()).sum(), parameter)
    for a, b, g in zip(with_reward, without, want, strict=True):
        assert_close(a - b, g, rtol=1e-8, atol=1e-10)
    assert max(float(g.abs().max()) for g in want) > 1e-3


def stack():
    pyro.set_rng_seed(0)
    return StackedCorEx([(D, M), (M, K)], n_classes=K).double()


@pytest.mark.parametrize("particles", [1, 3])
def test_top_of_a_stack(particles):
    """Given draws of z1: the mean over particles of I(z2 : z1)."""
    program, x = stack(), bits(N, D)
    elbo = CorExELBO(particles, vectorize_particles=particles > 1, max_plate_nesting=2,
                     mi_weight={"z2": WEIGHT})  # fmt: skip
    guide = elbo._vectorized_num_particles(program.guide) if particles > 1 else program.guide
    # enumerated as the objective does, so that both draw the same
    guide = poutine.enum(guide, first_available_dim=-3 - (particles > 1))
    pyro.set_rng_seed(1)
    z1 = poutine.trace(guide).get_trace(x).nodes["z1"]["value"].reshape(particles, N, M)
    probs = program.encoders[1](z1.flatten(0, 1)).softmax(-1).reshape(particles, N, K)
    want = torch.stack([information(p) for p in probs.detach()]).mean()
    pyro.set_rng_seed(1)
    terms = elbo.terms(program.model, program.guide, x)
    assert_close(terms.regularizers["mutual_information"].sum(), want)
    assert terms.regularizers["mutual_information"].numel() == 1


def test_a_subsampled_plate_scales_the_reward_with_the_data():
    def program(x, latent):
        with pyro.plate("data", FULL, subsample_size=N) as rows:
            x = x[rows]
            logits = linear(x, "encoder", K) if latent else simplex("prior", K).log()
            z = pyro.sample("z", dist.Categorical(logits=logits), infer=PARALLEL)
            if not latent:
                pyro.sample("x", dist.Bernoulli(logits=real("W", K, D)[z]).to_event(1), obs=x)
        return x

    seen = []
    pair = (lambda x: program(x, False)), (lambda x: seen.append(program(x, True)))
    x = bits(FULL, D)
    losses = []
    for options in ({}, {"mi_weight": {"z": WEIGHT}}):
        pyro.set_rng_seed(1)
        elbo = CorExELBO(max_plate_nesting=1, **options)
        losses.append(elbo.loss(*pair, x))
    terms = elbo.last_terms
    want = information(linear(seen[-1], "encoder", K).softmax(-1)).detach()
    assert_close(terms.regularizers["mutual_information"], want)
    assert terms.num_data == FULL
    assert losses[0] - losses[1] == pytest.approx(WEIGHT * FULL * float(want), rel=1e-9)


def test_a_weight_of_0_reports_only():
    model, guide, args, probs = mixture()
    terms = terms_of(model, guide, *args, weight=0)
    assert_close(terms.regularizers["mutual_information"], information(probs().detach()))
    assert terms.objective == pytest.approx(terms.elbo, rel=1e-12)
    assert CorExELBO().terms(model, guide, *args).regularizers == {}


def test_beside_the_penalty_on_tc():
    program, x = stack(), bits(N, D)
    elbo = CorExELBO(mi_weight={"z2": WEIGHT}, tc_weight=2.0, tc_sites=["z1"])
    loss = elbo.loss(program.model, program.guide, x)
    terms = elbo.last_terms
    assert loss == pytest.approx(-terms.objective * N, rel=1e-10)
    extras = (
        WEIGHT * terms.regularizers["mutual_information"].sum()
        - 2.0 * terms.regularizers["total_correlation"]
    )
    assert terms.objective - terms.elbo == pytest.approx(float(extras), rel=1e-9)


# ---------------------------------------------------------------------- terms


def test_join_and_without_data():
    model, guide, _, _ = mixture()
    parts = [terms_of(model, guide, bits(n, D)) for n in (3, 6)]
    one, two = (float(part.regularizers["mutual_information"]) for part in parts)
    joined = CorExTerms.join(parts)
    assert float(joined.regularizers["mutual_information"]) == pytest.approx(
        (3 * one + 6 * two) / 9
    )
    assert joined.regularizer_weight == {"mutual_information": -WEIGHT}
    objective = (3 * parts[0].objective + 6 * parts[1].objective) / 9
    assert joined.objective == pytest.approx(objective, rel=1e-10)
    assert joined.without_data().objective == joined.objective


def test_repr():
    model, guide, args, _ = mixture()
    assert (
        repr(CorExELBO(mi_weight={"z": 2.0}))
        == "CorExELBO(regularizers=[MutualInformation({'z': 2.0})])"
    )
    terms = terms_of(model, guide, *args)
    shown = (
        "regularizers['mutual_information']: "
        f"{float(terms.regularizers['mutual_information']):.4g}, weight -0.7"
    )
    assert shown in repr(terms)
    many = repr(terms_of(*units()[:2], *units()[2]))
    assert re.search(r"regularizers\['mutual_information'\]: \S+ over 3 latents", many)


# ---------------------------------------------------------------------- errors


def refuses(message, model, guide, *args, **options):
    with pytest.raises(ValueError, match=message):
        terms_of(model, guide, *args, **options)


def test_unknown_names_are_refused():
    model, guide, args, _ = mixture()
    refuses(re.escape("mi_weight names 'y', but the guide's latent sites are ['z']"), model, guide,
            *args, name="y")  # fmt: skip


def test_a_continuous_site_is_refused():
    model, guide, args = plate_vae()
    refuses("mi_weight names 'z', which the guide draws from Normal, but the estimate is for "
            "Categorical", model, guide, *args)  # fmt: skip


def test_a_masked_site_is_refused():
    model, guide, args, _ = mixture()
    mask = torch.arange(N) > 0
    refuses("mi_weight names 'z', but the site is masked", poutine.mask(model, mask),
            poutine.mask(guide, mask), *args)  # fmt: skip


def test_a_sequential_site_is_refused():
    model, guide, args = bernoulli_mixture(SEQUENTIAL)
    refuses(
        "need a single trace, but the guide enumerates a site one value at a time",
        model,
        guide,
        *args,
    )


def test_a_site_outside_the_data_plate_is_refused():
    def model(x):
        z = pyro.sample("z", dist.Categorical(torch.ones(K) / K), infer=PARALLEL)
        with pyro.plate("data", N):
            pyro.sample("x", dist.Normal(real("loc", K)[z], 1.0), obs=x)

    def guide(x):
        pyro.sample("z", dist.Categorical(simplex("q", K)), infer=PARALLEL)

    refuses("needs exactly one data axis in its batch shape \\(\\), but there are 0", model, guide,
            reals(N))  # fmt: skip


def chained(above):
    """The guide draws z given an "above" that it summed over, or drew."""

    def program(x, latent):
        with pyro.plate("data", N):
            c = pyro.sample("c", dist.Bernoulli(positive("p", N) / 9 if latent else 0.5),
                            infer=above)  # fmt: skip
            logits = (linear(x, "e", K) if latent else torch.zeros(K)) + c.unsqueeze(-1)
            z = pyro.sample("z", dist.Categorical(logits=logits), infer=PARALLEL)
            if not latent:
                pyro.sample("x", dist.Normal(z * 1.0 + c, 1.0), obs=x[:, 0])

    return (lambda x: program(x, False)), (lambda x: program(x, True)), reals(N, D)


def test_a_site_drawn_given_an_enumerated_one_is_refused():
    refuses("mi_weight names 'z', which is drawn given an enumerated site", *chained(PARALLEL))


def test_a_site_drawn_given_a_noisy_one_is_refused():
    refuses(re.escape("""the guide's ['c'] would add noise to its gradient"""), *chained({}))


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_weights_that_are_none_are_refused(weight):
    message = rf"mi_weight\['z'\] must be a finite number >= 0, but got {weight}"
    with pytest.raises(ValueError, match=message):
        CorExELBO(mi_weight={"z": weight})


def test_types_are_checked():
    with pytest.raises(TypeError, match=r"mi_weight must map the names .* but got \['z'\]"):
        CorExELBO(mi_weight=["z"])
    with pytest.raises(TypeError, match=r"mi_weight\['z'\] must be a number >= 0, but got 'a'"):
        CorExELBO(mi_weight={"z": "a"})


def test_a_reward_that_is_not_finite_is_named():
    model, guide, args, _ = mixture()
    guide(*args)
    pyro.get_param_store()._params["encoder.weight"].data[0] = math.nan
    with pyro.validation_enabled(False):
        refuses("the regularizer 'mutual_information' is NaN", model, guide, *args,
                max_plate_nesting=1)  # fmt: skip
