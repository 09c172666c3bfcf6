"""CorExTerms: its terms add up to the loss, exactly, one for each dimension."""

import dataclasses

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, config_enumerate
from torch.testing import assert_close

from pyro_corex import CorExELBO, CorExTerms, anchor

from .pairs import PAIRS
from .pairs.continuous import bottom_up_guide, event_vae, matrix_vae, plate_vae, two_layer_model
from .pairs.discrete import PARALLEL, bernoulli_mixture
from .pairs.registry import D, M, N, bits, linear, reals
from .pairs.scaled import WEIGHTS, anchored


class Counter:
    """A program that counts how often it is run."""

    def __init__(self, fn):
        self.fn, self.calls = fn, 0

    def __call__(self, *args):
        self.calls += 1
        return self.fn(*args)


def total(values):
    return sum(float(value.sum()) for value in values)


def loss_of(terms):
    """Minus the sum of all terms per dimension, over all data."""
    weighted = [terms.kl_weight[name] * kl for name, kl in terms.kl.items()]
    seen = [terms.reconstruction_weight[name] * x for name, x in terms.reconstruction.items()]
    return -(total(seen) - total(weighted)) * terms.num_data


def terms_of(model, guide, *args, **options):
    pyro.set_rng_seed(1)
    return CorExELBO(**options).terms(model, guide, *args)


def shapes(values):
    return {name: tuple(value.shape) for name, value in values.items()}


# ---------------------------------------------------------------------- adding up, for every pair


@pytest.fixture(params=PAIRS)
def pair(request):
    return PAIRS[request.param]()


@pytest.mark.parametrize("method", ["differentiable_loss", "loss_and_grads", "loss"])
def test_last_terms_add_up_to_the_loss(pair, method):
    elbo = pair.objective()
    pyro.set_rng_seed(1)
    loss = getattr(elbo, method)(pair.model, pair.guide, *pair.args)
    loss = float(torch.as_tensor(loss).detach())
    state = torch.get_rng_state()
    terms = elbo.last_terms
    assert torch.equal(torch.get_rng_state(), state), "reading the terms ran a program"
    assert loss_of(terms) == pytest.approx(loss, rel=1e-10)
    assert -terms.objective * terms.num_data == pytest.approx(loss, rel=1e-10)


def test_terms_add_up_to_the_loss(pair):
    elbo = pair.objective()
    pyro.set_rng_seed(1)
    loss = elbo.loss(pair.model, pair.guide, *pair.args)
    pyro.set_rng_seed(1)
    if elbo.max_plate_nesting != float("inf") and "max_plate_nesting" not in pair.options:
        elbo = pair.objective()  # forget the nesting, to draw the same numbers
    terms = elbo.terms(pair.model, pair.guide, *pair.args)
    assert loss_of(terms) == pytest.approx(loss, rel=1e-10)


def test_terms_are_detached_and_consistent(pair):
    terms = terms_of(pair.model, pair.guide, *pair.args, **pair.options)
    everything = [*terms.reconstruction.values(), *terms.kl.values(), *terms.kl_weight.values()]
    assert not any(value.requires_grad for value in everything)
    assert all(value.dtype == torch.float64 for value in everything)
    assert shapes(terms.kl) == shapes(terms.kl_weight)
    assert shapes(terms.reconstruction) == shapes(terms.reconstruction_weight)
    elbo = total(terms.reconstruction.values()) - total(terms.kl.values())
    assert terms.elbo == pytest.approx(elbo, rel=1e-10)


# ---------------------------------------------------------------------- shapes


def test_event_dimensions():
    terms = terms_of(*event_vae()[:2], bits(N, D))
    assert shapes(terms.reconstruction) == {"x": (D,)}
    assert shapes(terms.kl) == {"z": (M,)}
    assert terms.num_data == N


def test_event_matrix():
    terms = terms_of(*matrix_vae()[:2], reals(N, D))
    assert shapes(terms.kl) == {"z": (2, M)}


@pytest.mark.parametrize("vectorize", [False, True])
def test_plates(vectorize):
    model, guide, args = plate_vae()
    terms = terms_of(model, guide, *args, num_particles=3, vectorize_particles=vectorize)
    assert shapes(terms.reconstruction) == {"x": (D,)}
    assert shapes(terms.kl) == {"z": (M,)}
    assert terms.num_data == N


def test_events_and_plates_agree():
    """The same programs, written both ways, have the same terms dimension by dimension."""

    def program(x, obs, as_event):
        def fn(mean):
            normal = dist.Normal(mean, 0.5)
            return normal.to_event(1) if as_event else normal

        def plate(name, size):
            return pyro.plate(name, 1 if as_event else size, dim=-1)

        def unsqueeze(t):
            return t.unsqueeze(-2) if as_event else t

        with pyro.plate("data", N, dim=-2):
            loc = linear(x, "encoder", M) if obs is None else torch.zeros(N, M)
            with plate("latents", M):
                z = pyro.sample("z", fn(unsqueeze(loc)))
            if obs is not None:
                with plate("inputs", D):
                    pyro.sample("x", fn(linear(z, "decoder", D)), obs=unsqueeze(obs))

    def pair(as_event):
        return (lambda x: program(x, x, as_event)), (lambda x: program(x, None, as_event))

    x = reals(N, D)
    events, plates = (terms_of(*pair(as_event), x) for as_event in (True, False))
    assert_close(events.kl["z"].flatten(), plates.kl["z"])
    assert_close(events.reconstruction["x"].flatten(), plates.reconstruction["x"])
    assert plates.kl["z"].shape == (M,)


def test_sites_that_do_not_factorise_have_one_value():
    pair = PAIRS["multivariate_normal"]()
    terms = terms_of(pair.model, pair.guide, *pair.args)
    assert shapes(terms.kl) == {"z": ()}


def test_sites_of_a_stack():
    guide = bottom_up_guide({"analytic_kl": False})
    terms = terms_of(two_layer_model, guide, bits(N, D))
    assert shapes(terms.kl) == {"z1": (M,), "z2": (2,)}


def test_enumerated_sites_have_one_value():
    terms = terms_of(*bernoulli_mixture(PARALLEL)[:2], bits(N, D))
    assert shapes(terms.kl) == {"z": ()}
    assert shapes(terms.reconstruction) == {"x": (D,)}


def test_observed_sites_of_a_sum_in_the_model_share_one_value():
    pair = PAIRS["hidden_markov"]()
    terms = terms_of(pair.model, pair.guide, *pair.args)
    assert shapes(terms.reconstruction) == {"x_0+x_1+x_2": ()}


# ---------------------------------------------------------------------- values


def test_values_of_each_dimension():
    """Against the closed form, latent by latent and input by input."""
    model, guide, (x,) = event_vae()
    terms = terms_of(model, guide, x)
    pyro.set_rng_seed(1)
    trace = poutine.trace(guide).get_trace(x)
    z = trace.nodes["z"]["value"]
    prior = dist.Normal(pyro.param("r.loc"), pyro.param("r.scale"))
    kl = torch.distributions.kl_divergence(trace.nodes["z"]["fn"].base_dist, prior)
    log_lik = dist.Bernoulli(logits=linear(z, "decoder", D)).log_prob(x)
    assert_close(terms.kl["z"], kl.mean(0).detach())
    assert_close(terms.reconstruction["x"], log_lik.mean(0).detach())


@pytest.mark.parametrize("programs", [event_vae, plate_vae])
def test_kl_is_unweighted_under_anchoring(programs):
    free = terms_of(*(p := programs())[:2], *p[2])
    model, guide, args = anchored(programs(), {"z": WEIGHTS})
    anchored_terms = terms_of(model, guide, *args)
    assert_close(anchored_terms.kl["z"], free.kl["z"])
    assert_close(anchored_terms.kl_weight["z"], WEIGHTS)
    assert_close(free.kl_weight["z"], torch.ones(M))
    assert anchored_terms.elbo == pytest.approx(free.elbo)
    pressure = float(((1 - WEIGHTS) * free.kl["z"]).sum())
    assert anchored_terms.objective == pytest.approx(free.objective + pressure)
    assert free.objective == pytest.approx(free.elbo)


def test_kl_is_unweighted_where_it_is_sampled():
    guide = bottom_up_guide({"analytic_kl": False})
    x = bits(N, D)
    free = terms_of(two_layer_model, guide, x)
    weights = {"z1": WEIGHTS, "z2": 0.5}
    terms = terms_of(anchor(two_layer_model, weights), anchor(guide, weights), x)
    assert_close(terms.kl["z1"], free.kl["z1"])
    assert_close(terms.kl["z2"], free.kl["z2"])
    assert_close(terms.kl_weight["z1"], WEIGHTS)
    assert_close(terms.kl_weight["z2"], torch.full((2,), 0.5))


def test_kl_is_unweighted_where_it_is_enumerated():
    model, guide, (x,) = bernoulli_mixture(PARALLEL)
    free = terms_of(model, guide, x)
    weights = {"z": 0.25}
    terms = terms_of(anchor(model, weights), anchor(guide, weights), x)
    assert_close(terms.kl["z"], free.kl["z"])
    assert float(terms.kl_weight["z"]) == 0.25


EACH = 0.5 + torch.arange(N)
SCALED = {
    "both programs": (0.3, 0.3, 1.0),
    "the likelihood": (1.0, 1.0, 10.0),
    "the KL": (0.3, 0.3, 1 / 0.3),
    "each datum": (EACH, EACH, 1.0),
    "the likelihood of each datum": (1.0, 1.0, EACH),
}


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("subsample", [None, 2])
def test_the_elbo_is_the_elbo_whatever_is_scaled(name, subsample):
    """The sum of unscaled terms; a plate's factor is no scale, and the objective is the loss."""
    x = reals(N, D)
    size, part = (N, x) if subsample is None else (N, x[:subsample])

    def programs(of_model, of_guide, of_x):
        def cut(scale):
            return scale[: len(part)] if isinstance(scale, torch.Tensor) else scale

        def model(x):
            with pyro.plate("data", size, subsample=x), poutine.scale(scale=cut(of_model)):
                z = pyro.sample("z", dist.Normal(torch.zeros(M), 1.0).to_event(1))
                with poutine.scale(scale=cut(of_x)):
                    fn = dist.Normal(linear(z, "decoder", D), 1.0).to_event(1)
                    pyro.sample("x", fn, obs=x)

        def guide(x):
            with pyro.plate("data", size, subsample=x), poutine.scale(scale=cut(of_guide)):
                pyro.sample("z", dist.Normal(linear(x, "encoder", M), 0.5).to_event(1))

        return model, guide

    scales = SCALED[name]
    free, terms = (terms_of(*programs(*s), part) for s in ((1.0, 1.0, 1.0), scales))
    assert terms.elbo == pytest.approx(free.elbo, rel=1e-10)
    assert free.objective == pytest.approx(free.elbo, rel=1e-10)
    assert_close(terms.reconstruction["x"], free.reconstruction["x"])
    pyro.set_rng_seed(1)
    loss = CorExELBO().loss(*programs(*scales), part)
    assert loss_of(terms) == pytest.approx(loss, rel=1e-10)
    assert -terms.objective * terms.num_data == pytest.approx(loss, rel=1e-10)
    joined = CorExTerms.join([terms, free])
    assert joined.objective == pytest.approx((terms.objective + free.objective) / 2, rel=1e-10)
    assert joined.elbo == pytest.approx(free.elbo, rel=1e-10)
    assert ("weight" in repr(terms).split("\n")[1]) == (name != "the KL")


def test_weights_of_data_are_reported_as_their_effect():
    """Weights that differ between data have no one value; their ratio is what adds up."""
    pair = PAIRS["scale_each_datum"]()
    terms = terms_of(pair.model, pair.guide, *pair.args, **pair.options)
    free = terms_of(*event_vae()[:2], *pair.args, **pair.options)
    assert_close(terms.kl["z"], free.kl["z"])
    assert ((terms.kl_weight["z"] > 0.5) & (terms.kl_weight["z"] < N)).all()


def test_terms_of_a_subsample_stand_for_all_data():
    pair = PAIRS["subsampling"]()
    terms = terms_of(pair.model, pair.guide, *pair.args)
    assert terms.num_data == N
    assert float(terms.kl_weight["z"].max()) == 1.0


def test_terms_do_not_depend_on_how_particles_are_drawn():
    """A KL that does not depend on the draw is the same for one particle and for many."""
    model, guide, args = plate_vae()
    one = terms_of(model, guide, *args)
    many = terms_of(model, guide, *args, num_particles=3)
    vectorised = terms_of(model, guide, *args, num_particles=3, vectorize_particles=True)
    assert_close(many.kl["z"], one.kl["z"])
    assert_close(vectorised.kl["z"], one.kl["z"])


# ---------------------------------------------------------------------- which axes are the data's


def sensors(x, latent):
    """Latents and inputs share two plates; only one of them indexes data."""
    with pyro.plate("data", N, dim=-2), pyro.plate("sensors", D, dim=-1):
        loc = linear(x, "encoder", D) if latent else torch.zeros(())
        z = pyro.sample("z", dist.Normal(loc, 1.0))
        if not latent:
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_data_plates_are_those_that_latents_and_inputs_share():
    terms = terms_of(lambda x: sensors(x, False), lambda x: sensors(x, True), reals(N, D))
    assert shapes(terms.kl) == {"z": ()}
    assert terms.num_data == N * D


@pytest.mark.parametrize("data_plates", [["data"], {"data"}, ("data",)])
def test_data_plates_can_be_told(data_plates):
    model, guide, x = (lambda x: sensors(x, False)), (lambda x: sensors(x, True)), reals(N, D)
    told = terms_of(model, guide, x, data_plates=data_plates)
    found = terms_of(model, guide, x)
    assert shapes(told.kl) == {"z": (D,)}
    assert shapes(told.reconstruction) == {"x": (D,)}
    assert told.num_data == N
    assert told.objective * N == pytest.approx(found.objective * N * D)


def test_no_plate_indexes_data():
    model, guide, x = (lambda x: sensors(x, False)), (lambda x: sensors(x, True)), reals(N, D)
    terms = terms_of(model, guide, x, data_plates=[])
    assert shapes(terms.kl) == {"z": (N, D)}
    assert terms.num_data == 1


def test_latents_outside_of_the_data_plate():
    pair = PAIRS["global_and_local_latents"]()
    terms = terms_of(pair.model, pair.guide, *pair.args)
    assert shapes(terms.kl) == {"mu": (M,), "z": (M,)}
    assert terms.num_data == N


def test_deterministic_sites_are_no_terms():
    """They neither have a value in nats nor say which plates index data."""

    def model(x):
        with pyro.plate("data", N, dim=-2):
            with pyro.plate("latents", M, dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                h = pyro.deterministic("h", z.tanh())
            with pyro.plate("inputs", D, dim=-1):
                pyro.sample("x", dist.Normal(linear(h, "decoder", D), 1.0), obs=x)

    terms = terms_of(model, plate_vae()[1], reals(N, D))
    assert shapes(terms.kl) == {"z": (M,)}
    assert shapes(terms.reconstruction) == {"x": (D,)}
    assert terms.num_data == N


def test_deterministic_sites_of_a_sum_in_the_model_are_no_terms():
    @config_enumerate
    def model(x):
        with pyro.plate("data", N):
            c = pyro.sample("c", dist.Categorical(torch.ones(2)))
            loc = pyro.deterministic("loc", torch.tensor([-1.0, 1.0])[c])
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    terms = terms_of(model, lambda x: None, reals(N))
    assert shapes(terms.reconstruction) == {"x": ()}


# ---------------------------------------------------------------------- the dataclass


@pytest.fixture
def terms():
    return terms_of(*anchored(event_vae(), {"z": WEIGHTS})[:2], bits(N, D))


def test_is_frozen(terms):
    assert isinstance(terms, CorExTerms)
    with pytest.raises(dataclasses.FrozenInstanceError):
        terms.kl = {}


def test_fields_are_the_same_for_every_program(terms):
    pair = PAIRS["hidden_markov"]()
    other = terms_of(pair.model, pair.guide, *pair.args)
    names = [field.name for field in dataclasses.fields(terms)]
    assert {"reconstruction", "kl", "kl_weight"} <= set(names)
    assert [field.name for field in dataclasses.fields(other)] == names
    assert all(hasattr(other, name) for name in [*names, "elbo", "objective"])


def test_elbo_and_objective_are_floats(terms):
    assert isinstance(terms.elbo, float)
    assert isinstance(terms.objective, float)


def test_repr(terms):
    text = repr(terms)
    assert f"elbo={terms.elbo:.4g}, objective={terms.objective:.4g} nats per datum" in text
    assert f"num_data={N}" in text
    reconstruction = f"{float(terms.reconstruction['x'].sum()):.4g} over {D} dimensions (largest"
    assert f"reconstruction['x']: {reconstruction}" in text
    assert f"kl['z']: {float(terms.kl['z'].sum()):.4g} over {M} latents (largest" in text
    assert "weight 0 to 3" in text


def test_repr_of_single_values():
    text = repr(terms_of(*anchored(bernoulli_mixture(PARALLEL), {"z": 0.5})[:2], bits(N, D)))
    assert "weight 0.5" in text
    assert "latents" not in text


def test_last_terms_are_of_the_last_step():
    """After an SVI step, without another run of either program."""
    model, guide = (Counter(p) for p in event_vae()[:2])
    elbo = CorExELBO()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo)
    for step in (1, 2):
        loss = svi.step(bits(N, D))
        assert loss_of(elbo.last_terms) == pytest.approx(loss, rel=1e-10)
        assert (model.calls, guide.calls) == (step, step)
