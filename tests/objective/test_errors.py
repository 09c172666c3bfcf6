"""Every wrong use of the objective, and the sentence that it gets."""

import math
import warnings
from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.messenger import Messenger
from torch import nn

from pyro_corex import CorExELBO, anchor

from .pairs.continuous import event_vae, plate_vae
from .pairs.discrete import PARALLEL, bernoulli_mixture
from .pairs.registry import D, M, N, bits, linear, positive, real, reals, simplex

# ---------------------------------------------------------------------- arguments


@pytest.mark.parametrize("num_particles", [0, -1, 1.5, "2", None])
def test_num_particles(num_particles):
    message = f"num_particles must be an integer >= 1, but got {num_particles!r}"
    with pytest.raises(ValueError, match=message):
        CorExELBO(num_particles=num_particles)


@pytest.mark.parametrize("tc_weight", [-0.5, math.nan])
def test_tc_weight(tc_weight):
    with pytest.raises(ValueError, match=f"tc_weight must be a number >= 0, but got {tc_weight}"):
        CorExELBO(tc_weight=tc_weight)


def test_data_plates_as_a_string():
    with pytest.raises(TypeError, match=r"data_plates must be a collection.*e\.g\. \['data'\]"):
        CorExELBO(data_plates="data")


def test_data_plates_that_do_not_exist():
    model, guide, (x,) = plate_vae()
    match = r"data_plates names \['batch'\], but the programs have the plates \['data', 'inputs'"
    with pytest.raises(ValueError, match=match):
        CorExELBO(data_plates=["data", "batch"]).loss(model, guide, x)


def test_last_terms_before_the_first_call():
    with pytest.raises(RuntimeError, match=r"CorExELBO has no terms yet.*take a step first"):
        _ = CorExELBO().last_terms


def test_last_terms_after_a_call_that_failed():
    elbo = CorExELBO()
    with pytest.raises(ZeroDivisionError):
        elbo.loss(lambda: None, lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="has no terms yet"):
        _ = elbo.last_terms


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "CorExELBO()"),
        ({"num_particles": 3}, "CorExELBO(num_particles=3)"),
        (
            {"tc_weight": 0.5, "data_plates": {"b", "a"}, "vectorize_particles": True},
            "CorExELBO(vectorize_particles=True, regularizers=[TotalCorrelation(0.5)], "
            "data_plates=['a', 'b'])",
        ),
    ],
)
def test_repr(options, expected):
    assert repr(CorExELBO(**options)) == expected


# ---------------------------------------------------------------------- scales


class ScaleZ(Messenger):
    """A scale on the site "z" only, which nobody has checked."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def _pyro_sample(self, msg):
        if msg["name"] == "z":
            msg["scale"] = self.scale * msg["scale"]


def scaled(model_scale, guide_scale):
    model, guide, args = plate_vae()
    return ScaleZ(model_scale)(model), ScaleZ(guide_scale)(guide), args


VARYING = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("model_scale", "guide_scale"),
    [
        (0.5, 1.0),
        (1.0, 0.5),
        (torch.tensor(0.5), 1.0),
        (torch.tensor(0.5), torch.tensor(0.25)),
        (VARYING, 1.0),
        (VARYING, VARYING.flip(0)),
    ],
)
def test_scales_that_differ(model_scale, guide_scale):
    model, guide, args = scaled(model_scale, guide_scale)
    with pytest.raises(ValueError, match=r"Site 'z' has the scale .* in the model but .* guide"):
        CorExELBO().loss(model, guide, *args)


def test_scales_that_differ_say_how_to_mend_it():
    model, guide, args = event_vae()
    with pytest.raises(ValueError, match=r"scale 0\.5 in the model but 1\.0 in the guide") as seen:
        CorExELBO().loss(anchor(model, {"z": 0.5}), guide, *args)
    assert "anchor(model, weights) and anchor(guide, weights)" in str(seen.value)


@pytest.mark.parametrize("infer", [{}, {"analytic_kl": False}])
@pytest.mark.parametrize("side", ["model", "guide"])
def test_scale_on_one_side_only(side, infer):
    """In closed form and sampled: Pyro's mean-field objective looks at the guide's scale only."""

    def program(x, latent, observe):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(real(latent), 1.0), infer=infer)
            if observe:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    programs = {
        "model": lambda x: program(x, "r.loc", True),
        "guide": lambda x: program(x, "q.loc", False),
    }
    programs[side] = anchor(programs[side], {"z": 2.0})
    with pytest.raises(ValueError, match="Site 'z' has the scale"):
        CorExELBO().loss(programs["model"], programs["guide"], reals(N))


def test_equal_tensors_are_the_same_scale():
    model, guide, args = scaled(VARYING, VARYING.clone())
    CorExELBO().loss(model, guide, *args)
    model, guide, args = scaled(torch.tensor(0.5), 0.5)
    CorExELBO().loss(model, guide, *args)


@pytest.mark.parametrize("scale", [-0.5, torch.tensor(-0.5), torch.tensor([1.0, -1.0, 1.0])])
def test_negative_scale(scale):
    model, guide, args = scaled(scale, scale)
    with pytest.raises(ValueError, match=r"Site 'z' has the negative scale .*weight must be >= 0"):
        CorExELBO().loss(model, guide, *args)


@pytest.mark.parametrize(
    "guide_weights",
    [{}, {"z": torch.tensor([1.0, 1.0, 2.0])}],
    ids=["none on the guide", "others on the guide"],
)
def test_weights_per_dimension_that_differ(guide_weights):
    model, guide, args = event_vae()
    model = anchor(model, {"z": torch.tensor([1.0, 2.0, 1.0])})
    match = r"Site 'z' has the per-dimension weight tensor.* in the model but .* in the guide"
    with pytest.raises(ValueError, match=match):
        CorExELBO().loss(model, anchor(guide, guide_weights), *args)


def test_number_on_one_side_and_weights_per_dimension_on_the_other():
    model, guide, args = event_vae()
    model, guide = anchor(model, {"z": 0.5}), anchor(guide, {"z": torch.full((M,), 0.5)})
    with pytest.raises(ValueError, match=r"Site 'z' has the (scale|per-dimension weight)"):
        CorExELBO().loss(model, guide, *args)


def test_negative_weights_per_dimension():
    """A parameter as a weight, which has become negative after anchoring looked at it."""
    weights = {"z": nn.Parameter(torch.ones(3))}
    model, guide, args = event_vae()
    model, guide = anchor(model, weights), anchor(guide, weights)
    weights["z"].data[1] = -1.0
    with pytest.raises(ValueError, match=r"The KL weight of 'z' must be >= 0 and finite, but got"):
        CorExELBO().loss(model, guide, *args)


def test_scales_that_differ_where_the_model_sums_out():
    """A mixture's latents under a class that is summed over: the weight has no place of its own."""

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(simplex("c.prior", 2)), infer=PARALLEL)
            z = pyro.sample("z", dist.Normal(real("z.loc", 2)[c], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(real("q.loc"), 1.0))

    weights = {"z": 0.5}
    with pytest.raises(ValueError, match=r"share a common poutine\.scale"):
        CorExELBO().loss(anchor(model, weights), anchor(guide, weights), reals(N))


# ---------------------------------------------------------------------- what is not finite


def vae_with(loc=0.0, x_loc=0.0, prior_scale=1.0):
    """A VAE whose guide, decoder or prior can be spoilt."""

    def model(x):
        with pyro.plate("data", len(x)):
            prior = dist.Normal(torch.zeros(M), prior_scale, validate_args=False)
            z = pyro.sample("z", prior.to_event(1))
            fn = dist.Normal(linear(z, "decoder", D) + x_loc, 1.0, validate_args=False)
            pyro.sample("x", fn.to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            q_loc = linear(x, "encoder", M) + loc
            q = dist.Normal(q_loc, positive("q.scale", M), validate_args=False)
            pyro.sample("z", q.to_event(1))

    return model, guide


NAN = torch.tensor(math.nan)
ONE_NAN = torch.tensor([0.0, math.nan, 0.0, 0.0])
METHODS = ["loss", "loss_and_grads", "terms"]


@pytest.mark.parametrize("method", METHODS)
def test_nan_in_the_likelihood(method):
    model, guide = vae_with(x_loc=ONE_NAN)
    match = f"the reconstruction of site 'x' is NaN in 1 of {D} dimensions"
    with pytest.raises(ValueError, match=match) as seen:
        getattr(CorExELBO(), method)(model, guide, reals(N, D))
    assert "KL of site 'z'" not in str(seen.value)
    assert "Check the data and the parameters" in str(seen.value)


@pytest.mark.parametrize("method", METHODS)
def test_nan_in_the_prior(method):
    model, guide = vae_with(prior_scale=torch.tensor([1.0, math.nan, math.nan]))
    with pytest.raises(ValueError, match=f"the KL of site 'z' is NaN in 2 of {M} dimensions"):
        getattr(CorExELBO(), method)(model, guide, reals(N, D))


def test_nan_in_the_guide_is_found_in_both_terms():
    model, guide = vae_with(loc=NAN)
    match = "the reconstruction of site 'x' is NaN.*; the KL of site 'z' is NaN|the KL.*; the rec"
    with pytest.raises(ValueError, match=match):
        CorExELBO().loss(model, guide, reals(N, D))


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("vectorize", [False, True])
def test_nan_leaves_the_gradients_alone(num_particles, vectorize):
    x = reals(N, D)
    elbo = CorExELBO(num_particles=num_particles, vectorize_particles=vectorize)
    elbo.loss_and_grads(*vae_with(), x)
    before = {n: p.grad.clone() for n, p in pyro.get_param_store().named_parameters()}
    with pytest.raises(ValueError, match="NaN"):
        elbo.loss_and_grads(*vae_with(x_loc=ONE_NAN), x)
    for name, parameter in pyro.get_param_store().named_parameters():
        assert torch.equal(parameter.grad, before[name])


def test_nan_in_a_later_particle_adds_no_nan_to_the_gradients():
    x, calls = reals(N, D), []
    clean, spoilt = vae_with()[0], vae_with(x_loc=ONE_NAN)[0]

    def model(x):
        calls.append(len(calls))
        (clean if len(calls) == 1 else spoilt)(x)

    with pytest.raises(ValueError, match="the reconstruction of site 'x' is NaN"):
        CorExELBO(num_particles=2).loss_and_grads(model, vae_with()[1], x)
    assert len(calls) == 2
    for _, parameter in pyro.get_param_store().named_parameters():
        assert parameter.grad.isfinite().all()


def test_nan_in_an_enumerated_site():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(simplex("prior", 3)), infer=PARALLEL)
            loc = torch.tensor([0.0, math.nan, 0.0])[z]
            pyro.sample("x", dist.Normal(loc, 1.0, validate_args=False), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(simplex("guide", 3)), infer=PARALLEL)

    with pytest.raises(ValueError, match="the reconstruction of site 'x' is NaN"):
        CorExELBO().loss(model, guide, reals(N))


def test_differentiable_loss_does_not_look():
    """Reading the value would stop the device."""
    loss = CorExELBO().differentiable_loss(*vae_with(x_loc=NAN), reals(N, D))
    assert loss.isnan()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_particles", [1, 2])
def test_infinity_warns_once(method, num_particles):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(M), 1.0).to_event(1))
            fn = dist.Uniform(0.0, positive("width"), validate_args=False)
            pyro.sample("x", fn, obs=torch.full((len(x),), -1.0))

    elbo = CorExELBO(num_particles=num_particles)
    match = "the reconstruction of site 'x' is infinite"
    with pytest.warns(UserWarning, match=match) as seen:
        getattr(elbo, method)(model, vae_with()[1], reals(N, D))
    assert len(seen) == 1


def test_infinite_kl_names_the_site():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(torch.zeros(M), 1.0, validate_args=False).to_event(1))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[:, 0])

    with pytest.warns(UserWarning, match=f"the KL of site 'z' is infinite in {M} of {M}"):
        loss = CorExELBO().loss(model, vae_with()[1], reals(N, D))
    assert loss == math.inf


def test_infinite_terms_that_cancel_are_nan():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(torch.zeros(M), 1.0, validate_args=False).to_event(1))
            pyro.factor("gift", torch.full((len(x),), math.inf))

    with pytest.raises(ValueError, match="'gift' is infinite") as seen:
        CorExELBO().loss(model, vae_with()[1], reals(N, D))
    assert "'z' is infinite" in str(seen.value)


# ---------------------------------------------------------------------- batch dimensions


def discrete_and_reals(infer, plate):
    def model():
        z = pyro.sample("z", dist.Bernoulli(simplex("prior", 2)[0]), infer=infer)
        with plate():
            pyro.sample("x", dist.Normal(z + torch.zeros(3), 1.0), obs=torch.zeros(3))

    def guide():
        pyro.sample("z", dist.Bernoulli(simplex("guide", 2)[0]), infer=infer)

    return model, guide


def test_batch_dimension_outside_of_plates():
    """Without validation, which would have said so before."""
    match = r"Site 'x' has the batch shape .*3.*not all of its dimensions are in a plate.*to_event"
    with pyro.validation_enabled(False), pytest.raises(ValueError, match=match):
        CorExELBO(max_plate_nesting=1).loss(*discrete_and_reals({}, nullcontext))


def test_batch_dimension_outside_of_plates_with_one_enumerated_site():
    """Its weight needs no names for the dimensions, so the sum is right."""
    with pyro.validation_enabled(False):
        loose = CorExELBO(max_plate_nesting=1).loss(*discrete_and_reals(PARALLEL, nullcontext))
    plated = CorExELBO().loss(*discrete_and_reals(PARALLEL, lambda: pyro.plate("three", 3)))
    assert loose == pytest.approx(plated, rel=1e-12)


def test_batch_dimension_outside_of_plates_without_enumeration():
    """Here nothing needs a plate: the sum is right, and so are the terms."""

    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(3))

    def guide():
        pyro.sample("z", dist.Normal(torch.ones(3), 1.0))

    with pyro.validation_enabled(False):
        terms = CorExELBO(data_plates=[]).terms(model, guide)
    torch.testing.assert_close(terms.kl["z"], torch.full((3,), 0.5))


def test_max_plate_nesting_that_is_too_small():
    model, guide, args = bernoulli_mixture(PARALLEL)
    with pytest.raises(ValueError, match=r"Shape mismatch inside plate\('data'\)"):
        CorExELBO(max_plate_nesting=0).loss(model, guide, *args)


# ---------------------------------------------------------------------- distributions


def test_value_outside_of_the_support_of_an_event():
    """Per dimension, where the base distribution's own check speaks."""
    model, guide, _ = event_vae()
    with pytest.raises(ValueError, match="Error while computing log_prob at site 'x'"):
        CorExELBO().loss(model, guide, 0.5 * torch.ones(N, D))


def test_an_error_of_the_programs_is_not_disguised():
    def model(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        CorExELBO().loss(model, lambda x: None, bits(N, D))


def test_right_uses_are_silent():
    """No warning of any kind on a plain program, the first time or later."""
    model, guide, args = plate_vae()
    elbo = CorExELBO(num_particles=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in ("loss", "loss_and_grads", "differentiable_loss", "terms"):
            getattr(elbo, method)(model, guide, *args)
