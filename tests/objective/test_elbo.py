"""CorExELBO stands wherever Pyro's objectives may stand."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoNormal, AutoNormalMessenger
from pyro.nn import PyroModule
from pyro.optim import Adam
from torch import nn

from pyro_corex import CorExELBO

from .pairs.continuous import bottom_up_guide, event_vae, two_layer_model
from .pairs.discrete import PARALLEL, bernoulli_mixture, hidden_markov_model
from .pairs.registry import D, M, N, bits, linear, positive, real, reals, simplex


class Counter:
    """A program that counts how often it is run."""

    def __init__(self, fn):
        self.fn, self.calls = fn, 0

    def __call__(self, *args):
        self.calls += 1
        return self.fn(*args)


def snapshot():
    return {name: p.detach().clone() for name, p in pyro.get_param_store().named_parameters()}


def same(before, after):
    return before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)


# ---------------------------------------------------------------------- training


def conjugate():
    """A normal mean with a normal prior; the posterior is N(0.75 * mean, 0.25) for three data."""

    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    def guide(x):
        pyro.sample("mu", dist.Normal(real("mu.loc"), positive("mu.scale")))

    return model, guide


def test_svi_finds_the_posterior():
    x = torch.tensor([0.5, 1.0, 1.5])
    model, guide = conjugate()
    elbo = CorExELBO(num_particles=20, vectorize_particles=True)
    svi = SVI(model, guide, Adam({"lr": 0.05}), elbo)
    losses = [svi.step(x) for _ in range(300)]
    assert all(isinstance(loss, float) for loss in losses)
    assert sum(losses[-20:]) < sum(losses[:20])
    assert float(pyro.param("mu.loc").detach()) == pytest.approx(0.75, abs=0.1)
    assert float(pyro.param("mu.scale").detach()) == pytest.approx(0.5, abs=0.1)
    evidence = dist.MultivariateNormal(torch.zeros(3), torch.eye(3) + 1).log_prob(x)
    assert -sum(losses[-50:]) / 50 == pytest.approx(float(evidence), abs=0.1)


@pytest.mark.parametrize(
    "programs",
    [
        event_vae,
        lambda: bernoulli_mixture(PARALLEL),
        lambda: bernoulli_mixture({"enumerate": "sequential"}),
        lambda: (two_layer_model, bottom_up_guide({"analytic_kl": False}), (bits(N, D),)),
    ],
    ids=["continuous", "parallel", "sequential", "stack"],
)
def test_svi_step_lowers_the_loss(programs):
    model, guide, args = programs()
    svi = SVI(model, guide, Adam({"lr": 0.05}), CorExELBO())
    losses = [svi.step(*args) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])


@pytest.mark.parametrize("autoguide", [AutoNormal, AutoNormalMessenger])
def test_svi_with_autoguides(autoguide):
    model, _ = conjugate()
    x = torch.tensor([0.5, 1.0, 1.5])
    guide = autoguide(model)
    svi = SVI(model, guide, Adam({"lr": 0.05}), CorExELBO(10, vectorize_particles=True))
    losses = [svi.step(x) for _ in range(120)]
    assert sum(losses[-10:]) < sum(losses[:10])
    assert float(guide.median(x)["mu"].detach()) == pytest.approx(0.75, abs=0.25)


class Model(PyroModule):
    def __init__(self):
        super().__init__()
        self.decoder = PyroModule[nn.Linear](M, D)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(M), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self):
        super().__init__()
        self.encoder = PyroModule[nn.Linear](D, M)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


@pytest.mark.parametrize("make_guide", [lambda model: Guide(), AutoNormal])
def test_as_a_module_with_a_torch_optimiser(make_guide):
    with pyro.settings.context(module_local_params=True):
        x = reals(N, D)
        model = Model()
        guide = make_guide(model)
        module = CorExELBO()(model, guide)
        assert isinstance(module, nn.Module)
        module(x)  # an autoguide has no parameters before
        assert set(module.parameters()) == {*model.parameters(), *guide.parameters()}
        optimiser = torch.optim.Adam(module.parameters(), lr=0.05)
        losses = []
        for _ in range(80):
            optimiser.zero_grad()
            loss = module(x)
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        assert sum(losses[-10:]) < sum(losses[:10])
        assert not list(pyro.get_param_store().keys())


def test_the_module_keeps_the_terms_of_its_last_call():
    elbo = CorExELBO()
    loss = elbo(*event_vae()[:2])(bits(N, D))
    assert -elbo.last_terms.objective * N == pytest.approx(float(loss.detach()))


# ---------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("evaluate", ["evaluate_loss", "terms"])
def test_evaluation_changes_nothing(evaluate):
    model, guide, (x,) = event_vae()
    elbo = CorExELBO()
    optimiser = Adam({"lr": 0.1})
    svi = SVI(model, guide, optimiser, elbo)
    svi.step(x)
    before, state = snapshot(), optimiser.get_state()
    steps = {name: s["state"][0]["step"].clone() for name, s in state.items()}
    if evaluate == "terms":
        elbo.terms(model, guide, x)
    else:
        svi.evaluate_loss(x)
    assert same(before, snapshot())
    after = {name: s["state"][0]["step"] for name, s in optimiser.get_state().items()}
    assert steps == after
    for _, parameter in pyro.get_param_store().named_parameters():
        assert parameter.grad is None or not parameter.grad.any()


def test_terms_record_no_graph():
    model, guide, (x,) = event_vae()
    seen = []

    def watched(x):
        seen.append(torch.is_grad_enabled())
        model(x)

    CorExELBO().terms(watched, guide, x)
    assert seen == [False]


def test_loss_and_grads_adds_to_the_gradients_that_are_there():
    model, guide, (x,) = event_vae()
    elbo = CorExELBO()
    for _ in range(2):
        pyro.set_rng_seed(1)
        elbo.loss_and_grads(model, guide, x)
    twice = {n: p.grad.clone() for n, p in pyro.get_param_store().named_parameters()}
    for _, parameter in pyro.get_param_store().named_parameters():
        parameter.grad = None
    pyro.set_rng_seed(1)
    elbo.loss_and_grads(model, guide, x)
    for name, parameter in pyro.get_param_store().named_parameters():
        torch.testing.assert_close(2 * parameter.grad, twice[name])


@pytest.mark.parametrize("num_particles", [1, 2])
def test_retain_graph(num_particles):
    _, guide, (x,) = event_vae()
    shared = (real("shared") ** 2).exp()  # a part of the graph that outlives the step

    def scaled(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(M), shared).to_event(1))
            pyro.sample("x", dist.Normal(linear(z, "decoder", D), 1.0).to_event(1), obs=x)

    elbo = CorExELBO(num_particles=num_particles, retain_graph=True)
    for _ in range(2):
        elbo.loss_and_grads(scaled, guide, x)
    elbo = CorExELBO(num_particles=num_particles)
    if num_particles == 1:
        elbo.loss_and_grads(scaled, guide, x)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        elbo.loss_and_grads(scaled, guide, x)


def test_a_loss_without_parameters():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))

    def guide():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    assert isinstance(CorExELBO().loss_and_grads(model, guide), float)
    assert CorExELBO().differentiable_loss(model, guide).shape == ()


def test_a_loss_of_nothing():
    def empty():
        pass

    assert CorExELBO().loss_and_grads(empty, empty) == 0.0
    assert float(CorExELBO().differentiable_loss(empty, empty)) == 0.0


# ---------------------------------------------------------------------- dependency analysis


def stack_programs():
    return Counter(two_layer_model), Counter(bottom_up_guide({}))


def calls(*pairs):
    return [program.calls for pair in pairs for program in pair]


@pytest.mark.filterwarnings("ignore:The KL of")
@pytest.mark.parametrize("method", ["loss", "loss_and_grads", "differentiable_loss", "terms"])
def test_analysis_runs_once(method):
    """The first call runs the programs more than once, later calls never."""
    pair, elbo = stack_programs(), CorExELBO()
    getattr(elbo, method)(*pair, bits(N, D))
    first = calls(pair)
    assert min(first) > 1
    for _ in range(3):
        getattr(elbo, method)(*pair, bits(N, D))
    assert calls(pair) == [n + 3 for n in first]


@pytest.mark.filterwarnings("ignore:The KL of")
def test_analysis_runs_once_for_all_particles():
    one, many = stack_programs(), stack_programs()
    CorExELBO().loss(*one, bits(N, D))
    CorExELBO(num_particles=4).loss(*many, bits(N, D))
    assert calls(many) == [n + 3 for n in calls(one)]


@pytest.mark.filterwarnings("ignore:The KL of")
def test_analysis_runs_once_where_two_pairs_take_turns():
    """As in training on one pair of programs and evaluating another."""
    pairs, elbo = [stack_programs(), stack_programs()], CorExELBO()
    for pair in pairs:
        elbo.loss(*pair, bits(N, D))
    first = calls(*pairs)
    for pair in 2 * pairs:
        elbo.loss(*pair, bits(N, D))
    assert calls(*pairs) == [n + 2 for n in first]


@pytest.mark.filterwarnings("ignore:The KL of")
def test_analysis_runs_once_for_bound_methods():
    """``vae.model`` is a new object at each look, and the same program."""

    class Programs:
        def __init__(self):
            self.counted = stack_programs()

        def model(self, x):
            self.counted[0](x)

        def guide(self, x):
            self.counted[1](x)

    programs, elbo = Programs(), CorExELBO()
    elbo.loss(programs.model, programs.guide, bits(N, D))
    first = calls(programs.counted)
    elbo.loss(programs.model, programs.guide, bits(N, D))
    assert calls(programs.counted) == [n + 1 for n in first]


def test_analysis_is_not_run_where_the_order_clears_every_site():
    model, guide, (x,) = event_vae()
    model, guide = Counter(model), Counter(guide)
    CorExELBO().loss(model, guide, x)
    assert (model.calls, guide.calls) == (1, 1)


def test_analysis_is_not_run_where_no_closed_form_is_wanted():
    model, guide = Counter(two_layer_model), Counter(bottom_up_guide({"analytic_kl": False}))
    CorExELBO().loss(model, guide, bits(N, D))
    assert (model.calls, guide.calls) == (1, 1)


# ---------------------------------------------------------------------- warnings


def test_mean_field_violation_warns_once_and_names_the_site():
    elbo, guide = CorExELBO(), bottom_up_guide({})
    with pytest.warns(UserWarning, match=r"The KL of \['z1'\] is estimated from a") as seen:
        elbo.loss(two_layer_model, guide, bits(N, D))
    assert len(seen) == 1
    assert 'infer={"analytic_kl": False}' in str(seen[0].message)
    elbo.loss(two_layer_model, guide, bits(N, D))  # a second warning would be an error here


def test_mean_field_violation_is_silent_without_validation():
    with pyro.validation_enabled(False):
        CorExELBO().loss(two_layer_model, bottom_up_guide({}), bits(N, D))


def test_analytic_kl_false_silences_the_warning_and_changes_nothing_else():
    x = bits(N, D)
    pyro.set_rng_seed(1)
    silent = CorExELBO().loss(two_layer_model, bottom_up_guide({"analytic_kl": False}), x)
    pyro.set_rng_seed(1)
    with pytest.warns(UserWarning, match="The KL of"):
        loud = CorExELBO().loss(two_layer_model, bottom_up_guide({}), x)
    assert silent == loud


def test_discrete_and_not_enumerated_warns():
    model, guide, args = bernoulli_mixture({})
    with pytest.warns(
        UserWarning, match=r"The guide sites \['z'\] are discrete and not enumerated"
    ):
        CorExELBO().loss(model, guide, *args)


def test_discrete_and_not_enumerated_can_be_told_to_be_silent():
    model, guide, args = bernoulli_mixture({})
    CorExELBO(strict_enumeration_warning=False).loss(model, guide, *args)
    with pyro.validation_enabled(False):
        CorExELBO().loss(model, guide, *args)


def test_strict_enumeration_warning():
    model, guide, args = event_vae()
    with pytest.warns(UserWarning, match="found no sample sites configured for enumeration"):
        CorExELBO(strict_enumeration_warning=True).loss(model, guide, *args)
    model, guide, args = bernoulli_mixture(PARALLEL)
    CorExELBO(strict_enumeration_warning=True).loss(model, guide, *args)


def test_enumeration_in_the_model_does_not_warn():
    """The class is missing from the guide on purpose, also while the nesting is being guessed."""
    CorExELBO().loss(hidden_markov_model, lambda x: None, reals(N, 3))


# ---------------------------------------------------------------------- errors and checks of Pyro's


def sites(*fns, obs=()):
    """A program that draws the given (name, distribution), or observes it where a value is."""

    def run():
        for name, fn in fns:
            pyro.sample(name, fn, obs=dict(obs).get(name))

    return run


STANDARD = dist.Normal(0.0, 1.0)


def assert_raises(match, model, guide, error=ValueError, **options):
    with pytest.raises(error, match=match):
        CorExELBO(**options).loss(model, guide)


def assert_warns(match, model, guide, **options):
    with pytest.warns(UserWarning, match=match):
        CorExELBO(**options).loss(model, guide)


def test_two_sites_of_one_name():
    twice = sites(("z", STANDARD), ("z", STANDARD))
    assert_raises("Multiple sample sites named 'z'", twice, twice, RuntimeError)
    assert_raises("Multiple sample sites named 'z'", twice, sites(("z", STANDARD)), RuntimeError)


def test_guide_site_that_the_model_lacks():
    model, guide = sites(("a", STANDARD)), sites(("a", STANDARD), ("b", STANDARD))
    assert_raises(r"The model must have every latent .* lacks \['b'\]", model, guide)


def test_model_site_that_the_guide_lacks():
    model, guide = sites(("a", STANDARD), ("b", STANDARD)), sites(("a", STANDARD))
    assert_raises(r"The guide must draw every latent .* lacks \['b'\]", model, guide)


def test_auxiliary_site_that_the_model_has():
    def guide():
        pyro.sample("a", STANDARD, infer={"is_auxiliary": True})

    assert_warns("Found auxiliary vars in the model", sites(("a", STANDARD)), guide)


def test_shapes_that_differ():
    def program(dim):
        def run():
            with pyro.plate("data", 2, dim=dim):
                pyro.sample("z", STANDARD)

        return run

    assert_raises("Model and guide shapes disagree at site 'z'", program(-1), program(-2))


def test_event_dims_that_differ():
    def program(event_dim):
        return sites(("z", dist.Normal(torch.zeros(3), 1.0).to_event(event_dim)))

    assert_raises("Model and guide event_dims disagree at site 'z'", program(1), program(0))


def test_plates_that_collide():
    def model():
        with pyro.plate("outer", 2, dim=-1), pyro.plate("inner", 3, dim=-1):
            pyro.sample("z", STANDARD)

    assert_raises("collide at dim=-1", model, model)


def test_plate_that_the_model_lacks():
    def guide():
        with pyro.plate("data", 3):
            pyro.sample("z", STANDARD)

    def model():
        pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))

    with pytest.warns(UserWarning, match="Found plate statements in guide but not model"):
        assert_raises("invalid log_prob shape", model, guide)


@pytest.mark.parametrize("max_plate_nesting", [float("inf"), 1])
def test_batch_dimension_that_no_plate_declares(max_plate_nesting):
    undeclared = sites(("z", dist.Normal(torch.zeros(3), 1.0)))
    assert_raises(
        "invalid log_prob shape", undeclared, undeclared, max_plate_nesting=max_plate_nesting
    )


def test_batch_dimension_of_an_observed_site_that_no_plate_declares():
    model = sites(("x", dist.Normal(torch.zeros(3), 1.0)), obs={"x": torch.zeros(3)}.items())
    assert_raises("invalid log_prob shape", model, sites())


def test_plate_of_the_wrong_size():
    def program():
        with pyro.plate("data", 2):
            pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))

    assert_raises("Shape mismatch inside plate", program, program)


def test_value_outside_of_a_support_names_the_site():
    model = sites(("x", dist.Bernoulli(0.5)), obs={"x": torch.tensor(0.5)}.items())
    assert_raises("Error while computing log_prob at site 'x'", model, sites())


def test_sequential_enumeration_in_the_model():
    def model():
        pyro.sample("z", dist.Bernoulli(0.5), infer={"enumerate": "sequential"})

    assert_raises("model-side sequential enumeration", model, sites(), NotImplementedError)


def test_dependency_that_leaves_a_plate():
    """An enumerated site outside of a plate cannot be drawn from one inside."""

    def model():
        with pyro.plate("data", 2):
            z = pyro.sample("z", dist.Bernoulli(0.5), infer=PARALLEL)
        pyro.sample("y", dist.Bernoulli(z.mean(-1)), infer=PARALLEL)

    with pytest.raises((ValueError, RuntimeError)):
        TraceEnum_ELBO(max_plate_nesting=1).loss(model, model)
    with pytest.raises((ValueError, RuntimeError)):
        CorExELBO(max_plate_nesting=1).loss(model, model)


def test_what_is_no_bound_is_refused_without_validation_too():
    """As in fit, which turns it off for its steps."""
    model, guide = sites(("a", STANDARD)), sites(("a", STANDARD), ("b", STANDARD))
    with pyro.validation_enabled(False):
        assert_raises("The model must have every latent", model, guide)


# ---------------------------------------------------------------------- messengers and extras


def test_guide_messenger():
    """The guide runs the model itself: both traces come from one run of it."""
    model, _ = conjugate()
    counted = Counter(model)
    x = torch.tensor([0.5, 1.0, 1.5])
    guide = AutoNormalMessenger(counted)
    guide(x)
    counted.calls = 0
    for elbo in (CorExELBO(), Trace_ELBO()):
        pyro.set_rng_seed(1)
        losses = [elbo.loss(counted, guide, x) for _ in range(2)]
        if isinstance(elbo, CorExELBO):
            ours, calls = losses, counted.calls
    assert ours == pytest.approx(losses)
    assert calls == counted.calls - calls


def test_compute_marginals():
    """The exact posterior of each class of a mixture."""

    @config_enumerate
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(simplex("weights", 3)))
            pyro.sample("x", dist.Normal(real("locs", 3)[z], 1.0), obs=x)

    x = reals(N)
    marginal = CorExELBO(max_plate_nesting=1).compute_marginals(model, lambda x: None, x)["z"]
    log_joint = dist.Normal(real("locs", 3), 1.0).log_prob(x[:, None]) + simplex("weights", 3).log()
    torch.testing.assert_close(marginal.probs, log_joint.softmax(-1))


def test_sample_posterior():
    """Two states are drawn jointly: where the second follows from the first, it does."""
    flip = torch.tensor([[0.0, 1.0], [1.0, 0.0]])

    @config_enumerate
    def model(x):
        with pyro.plate("sequences", len(x)):
            a = pyro.sample("a", dist.Bernoulli(0.5)).long()
            b = pyro.sample("b", dist.Categorical(flip[a]))
            pyro.sample("x", dist.Normal(b.to(x.dtype), 0.05), obs=x)
        return a, b

    x = torch.tensor([0.0, 1.0, 1.0, 0.0])
    a, b = CorExELBO(max_plate_nesting=1).sample_posterior(model, lambda x: None, x)
    assert b.tolist() == [0, 1, 1, 0]
    assert (a + b).tolist() == [1, 1, 1, 1]


def test_extras_refuse_guide_enumeration_as_pyro_does():
    model, guide, args = bernoulli_mixture(PARALLEL)
    for extra in ("compute_marginals", "sample_posterior"):
        with pytest.raises(NotImplementedError, match="not compatible with guide enumeration"):
            getattr(CorExELBO(max_plate_nesting=1), extra)(model, guide, *args)


def test_poutine_condition_and_block():
    """A latent that is conditioned on counts as observed."""
    model, guide, (x,) = event_vae()
    given = torch.zeros(N, M)
    conditioned = poutine.condition(model, data={"z": given})
    terms = CorExELBO().terms(conditioned, poutine.block(guide, hide=["z"]), x)
    assert set(terms.reconstruction) == {"x", "z"}
    assert not terms.kl
    prior = dist.Normal(real("r.loc", M), positive("r.scale", M))
    expected = prior.log_prob(torch.zeros(M)).detach()
    torch.testing.assert_close(terms.reconstruction["z"], expected)
