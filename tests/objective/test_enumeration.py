"""Score-function gradients and baselines of drawn sites; the terms of what a model sums out."""

import copy
import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch.testing import assert_close

from pyro_corex import CorExELBO, anchor

from .pairs.registry import D, M, N, bits, linear, real, reals, simplex

K = 3
DRAWN = {"analytic_kl": False}  # as TraceEnum_ELBO treats it
ENUMERATED = {"enumerate": "parallel"}


def mixture(infer):
    """One class for each datum."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(simplex("prior", K)))
            fn = dist.Bernoulli(logits=3 * real("decoder", K, D)[z])
            pyro.sample("x", fn.to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=linear(x, "encoder", K)), infer=infer)

    return model, guide


def chain(infer):
    """A class, and another one drawn from it."""

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(simplex("a.prior", 2)[0]))
            b = pyro.sample("b", dist.Bernoulli(logits=real("b.prior", 2)[a.long()]))
            loc = real("decoder", 2, 2, D)[a.long(), b.long()]
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(logits=linear(x, "a", 1)[..., 0]), infer=infer)
            logits = linear(x, "b", 1)[..., 0] + real("b.shift") * a
            pyro.sample("b", dist.Bernoulli(logits=logits), infer=infer)

    return model, guide


def drawn_then_enumerated(infer):
    """A class that is drawn, above one that is summed over."""
    model, _ = chain(infer)

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(logits=linear(x, "a", 1)[..., 0]), infer=infer)
            logits = linear(x, "b", 1)[..., 0] + real("b.shift") * a
            pyro.sample("b", dist.Bernoulli(logits=logits), infer={"enumerate": "parallel"})

    return model, guide


def global_class(infer):
    """One class for all data: no plate that it is in, and no baseline without particles."""

    def model(x):
        z = pyro.sample("z", dist.Categorical(simplex("prior", K)))
        with pyro.plate("data", len(x)):
            fn = dist.Bernoulli(logits=real("decoder", K, D)[z])
            pyro.sample("x", fn.to_event(1), obs=x)

    def guide(x):
        pyro.sample("z", dist.Categorical(simplex("guide", K)), infer=infer)

    return model, guide


def gaussian(wrap):
    """A continuous latent, of a guide that ``wrap`` may rob of its reparameterisation."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(real("prior"), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            fn = wrap(dist.Normal(linear(x, "encoder", 1)[..., 0], 0.8))
            pyro.sample("z", fn, infer={"analytic_kl": False})

    return model, guide


class NoRSample(dist.TorchDistribution):
    """A normal that cannot be reparameterised."""

    arg_constraints = {}  # noqa: RUF012  (torch's attribute)
    support = dist.constraints.real
    has_rsample = False

    def __init__(self, base):
        self.base = base
        super().__init__(base.batch_shape, base.event_shape)

    def expand(self, batch_shape, _instance=None):
        return NoRSample(self.base.expand(batch_shape))

    def sample(self, sample_shape=()):
        with torch.no_grad():
            return self.base.sample(sample_shape)

    def log_prob(self, value):
        return self.base.log_prob(value)


def parameters():
    """All unconstrained parameters by name, in a fixed order."""
    return dict(sorted(pyro.get_param_store().named_parameters()))


def gradient(elbo, model, guide, x):
    """The gradient as one vector."""
    loss = elbo.differentiable_loss(model, guide, x)
    grads = torch.autograd.grad(loss, list(parameters().values()))
    return torch.cat([grad.flatten() for grad in grads])


def exact(make, x):
    """The gradient where every class is summed over."""
    return gradient(CorExELBO(max_plate_nesting=1), *make(ENUMERATED), x)


def estimates(n, model, guide, x, elbo=CorExELBO, **options):
    """``(n, n_parameters)``: independent estimates of the gradient."""
    objective = elbo(
        vectorize_particles=True,
        max_plate_nesting=1,
        strict_enumeration_warning=False,
        **options,
    )
    with pyro.validation_enabled(False):
        return torch.stack([gradient(objective, model, guide, x) for _ in range(n)])


def assert_mean(grads, expected, expected_variance=0.0):
    """Each entry's mean is within 4 standard errors of what is expected."""
    stderr = ((grads.var(0) + expected_variance) / len(grads)).sqrt()
    error = (grads.mean(0) - expected).abs()
    assert (error <= 4 * stderr + 1e-9).all(), f"{float((error / stderr).max()):.2f} stderr"


# ---------------------------------------------------------------------- unbiased


class Told(pyro.poutine.messenger.Messenger):
    """Sites draw the values that they are told."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg):
        if (value := self.values.get(msg["name"])) is not None:
            kind = type(msg["fn"])
            draw = {"sample": lambda self, shape=(): value.expand((*shape, *self.batch_shape))}
            msg["fn"] = copy.copy(msg["fn"])
            msg["fn"].__class__ = type(kind.__name__, (kind,), draw)


def mean_gradient(make, sites, x, num_particles, infer=DRAWN):
    """The mean over everything that the guide may draw, by its probability.

    :param sites: for each site that is drawn its number of states, and whether data have their own.
    """
    model, guide = make(infer)
    elbo = CorExELBO(
        num_particles, vectorize_particles=True, max_plate_nesting=1,
        strict_enumeration_warning=False,
    )  # fmt: skip
    shapes = {name: (len(x),) if own else () for name, (_, own) in sites.items()}
    if num_particles > 1:
        shapes = {name: (num_particles, *(shape or (1,))) for name, shape in shapes.items()}
    sizes = [math.prod(shape) for shape in shapes.values()]
    cells = [range(k) for (k, _), size in zip(sites.values(), sizes, strict=True)
             for _ in range(size)]  # fmt: skip
    mean, whole = 0.0, 0.0
    for outcome in itertools.product(*cells):
        parts = torch.tensor(outcome, dtype=torch.double).split(sizes)
        values = {
            name: (part if name in "ab" else part.long()).reshape(shape)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }
        told = Told(values)(guide)
        with pyro.validation_enabled(False):
            with pyro.plate("particles", num_particles, dim=-2):
                trace = pyro.poutine.trace(told).get_trace(x)
            trace.compute_log_prob()
            p = sum(trace.nodes[name]["log_prob_sum"] for name in sites).exp().detach()
            mean, whole = mean + p * gradient(elbo, model, told, x), whole + p
    assert float(whole) == pytest.approx(1)
    return mean


CLASSES = {
    mixture: {"z": (K, True)},
    chain: {"a": (2, True), "b": (2, True)},
    drawn_then_enumerated: {"a": (2, True)},
    global_class: {"z": (K, False)},
}


@pytest.mark.parametrize("make", CLASSES)
@pytest.mark.parametrize(("num_particles", "n"), [(3, 1), (1, 3)])
def test_gradient_is_unbiased(make, num_particles, n):
    """The baseline comes from the other particles, here 2, or from the 2 other data."""
    x = bits(n, D)
    mean = mean_gradient(make, CLASSES[make], x, num_particles)
    assert_close(mean, exact(make, x))


def test_gradient_is_unbiased_over_particles_and_data():
    x = bits(2, D)
    assert_close(mean_gradient(mixture, CLASSES[mixture], x, 2), exact(mixture, x))


def test_gradient_is_unbiased_with_many_particles():
    x = bits(N, D)
    expected = exact(mixture, x)
    assert_mean(estimates(20, *mixture(DRAWN), x, num_particles=5000), expected)


def test_gradient_is_unbiased_with_a_closed_kl():
    """The KL of two categoricals is taken in closed form even where the class is drawn."""
    x = bits(1, D)
    assert_close(mean_gradient(mixture, CLASSES[mixture], x, 3, infer={}), exact(mixture, x))


def test_gradient_is_unbiased_for_a_continuous_site():
    """Against the mean of the reparameterised gradient."""
    x = bits(N, D)
    theirs = estimates(20, *gaussian(lambda fn: fn), x, num_particles=2000)
    ours = estimates(20, *gaussian(NoRSample), x, num_particles=2000)
    assert_mean(ours, theirs.mean(0), theirs.var(0))


# ---------------------------------------------------------------------- the baseline


@pytest.mark.parametrize("num_particles", [1, 10])
def test_baseline_leaves_the_loss_alone(num_particles):
    x = bits(N, D)
    losses = []
    for elbo in (CorExELBO, TraceEnum_ELBO):
        objective = elbo(
            num_particles=num_particles,
            vectorize_particles=True,
            max_plate_nesting=1,
            strict_enumeration_warning=False,
        )
        pyro.set_rng_seed(1)
        losses.append(objective.loss(*mixture(DRAWN), x))
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)


def variance_of_encoder(grads):
    """The total variance of the gradients that the score function gives."""
    names = [name for name, p in parameters().items() for _ in range(p.numel())]
    return float(grads.var(0)[[name.startswith("encoder") for name in names]].sum())


@pytest.mark.parametrize(
    ("num_particles", "infer", "at_most"),
    [
        (1, {"analytic_kl": False}, 0.5),  # measured: 0.23
        (10, {"analytic_kl": False}, 0.25),  # measured: 0.13
        (10, {}, 0.25),  # measured: 0.12, with the KL in closed form besides
    ],
)
def test_baseline_lowers_the_variance(num_particles, infer, at_most):
    x = bits(N, D)
    ours, theirs = (
        estimates(100, *mixture(infer), x, num_particles=num_particles, elbo=elbo)
        for elbo in (CorExELBO, TraceEnum_ELBO)
    )
    ratio = variance_of_encoder(ours) / variance_of_encoder(theirs)
    assert ratio < at_most


def test_one_datum_and_one_particle_have_no_baseline():
    """There is nobody else to take it from; the estimator is TraceEnum_ELBO's."""
    x = bits(1, D)
    ours, theirs = [], []
    for elbo, into in ((CorExELBO, ours), (TraceEnum_ELBO, theirs)):
        pyro.set_rng_seed(1)
        into.extend(estimates(3, *mixture(DRAWN), x, elbo=elbo))
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs))


def test_a_factor_may_declare_the_density_of_a_draw():
    """The guide draws by itself; over all its draws the gradient is that of the exact sum."""
    values = torch.tensor([0.5, -1.0, 2.0], dtype=torch.double)
    start = torch.tensor([0.2, -0.3, 0.1], dtype=torch.double)
    seen = torch.tensor(1.3, dtype=torch.double)
    prior = dist.Normal(torch.zeros_like(seen), 1.0)

    def model(i):
        z = pyro.sample("z", prior)
        pyro.sample("x", dist.Normal(z, 1.0), obs=seen)

    def guide(i):
        choice = dist.Categorical(logits=pyro.param("logits", start))
        pyro.sample("z", dist.Delta(values[i]))
        pyro.factor("log_q", choice.log_prob(i), has_rsample=False)

    logits = start.clone().requires_grad_()
    p = logits.softmax(-1)
    joint = prior.log_prob(values) + dist.Normal(values, 1.0).log_prob(seen)
    exact = -(p * (joint - p.log())).sum()
    want = torch.autograd.grad(exact, logits)[0]
    loss, gradient = 0.0, torch.zeros(3, dtype=torch.double)
    for i, share in enumerate(p.detach()):
        found = CorExELBO().differentiable_loss(model, guide, torch.tensor(i))
        own = torch.autograd.grad(found, pyro.param("logits").unconstrained())[0]
        loss, gradient = loss + share * found.detach(), gradient + share * own
    assert float(loss) == pytest.approx(float(exact.detach()), rel=1e-12)
    assert gradient.tolist() == pytest.approx(want.tolist(), rel=1e-10)
    assert want.abs().min() > 0.1


# ---------------------------------------------------------------------- what the model sums out


def class_of(name, size=K):
    logits = real(f"{name}.logits", size)
    return pyro.sample(name, dist.Categorical(logits=logits), infer={"enumerate": "parallel"})


def prior_of(z, name="z"):
    """ln p(z) under the mixture, in nats, summed over its M latents."""
    components = dist.Normal(real(f"{name}.loc", K, M), 1.0).to_event(1)
    return (real("c.logits", K).log_softmax(-1) + components.log_prob(z.unsqueeze(-2))).logsumexp(
        -1
    )


def terms_and_draws(model, guide, x, **options):
    """The terms at one draw of the guide, and the draws."""
    pyro.set_rng_seed(1)
    trace = pyro.poutine.trace(guide).get_trace(x)
    fixed = {name: site["value"] for name, site in trace.nodes.items() if site["type"] == "sample"}
    pyro.set_rng_seed(1)
    return CorExELBO(max_plate_nesting=2, **options).terms(model, guide, x), fixed


def encoder_of(x, name="z"):
    return dist.Normal(linear(x, f"{name}.encoder", M), 0.5).to_event(1)


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("size", [None, 20])
def test_a_mixture_as_prior_is_a_part_of_the_kl(scale, size):
    """kl["z"] is E ln q(z|x) - ln p(z), and the reconstruction is by dimension, as without it."""
    x = bits(N, D)

    def model(x):
        with pyro.plate("data", size or N, subsample=x):
            c = class_of("c")
            z = pyro.sample("z", dist.Normal(real("z.loc", K, M)[c], 1.0).to_event(1))
            logits = linear(z, "decoder", D)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", size or N, subsample=x):
            pyro.sample("z", encoder_of(x))

    scaled = [pyro.poutine.scale(fn, scale=scale) for fn in (model, guide)]
    terms, draws = terms_and_draws(*scaled, x)
    z = draws["z"]
    kl = encoder_of(x).log_prob(z) - prior_of(z)
    seen = dist.Bernoulli(logits=linear(z, "decoder", D)).log_prob(x)
    assert set(terms.kl) == {"z"}
    assert_close(terms.kl["z"], kl.mean().detach())
    assert_close(terms.kl_weight["z"], torch.tensor(scale))
    assert_close(terms.reconstruction["x"], seen.mean(0).detach())
    assert terms.elbo == pytest.approx((seen.sum(1) - kl).mean().item())
    assert terms.objective == pytest.approx(scale * terms.elbo)
    evidence = terms.evidence
    assert_close(evidence.per_datum["kl", "z"], kl.detach())
    assert_close(evidence.draws["z"], z)
    entropy = float(terms.entropy["x"].sum())
    assert terms.tc_bound == pytest.approx(terms.elbo + entropy)


def test_a_class_that_the_decoder_sees_is_shared_out():
    """ln p(x, z) = ln p(z) + ln p(x|z): the first belongs to the KL, the second is the rest."""
    x = reals(N, D)

    def model(x):
        with pyro.plate("data", N):
            c = class_of("c")
            z = pyro.sample("z", dist.Normal(real("z.loc", K, M)[c], 1.0).to_event(1))
            loc = linear(z, "decoder", D) + real("x.loc", K, D)[c]
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", N):
            pyro.sample("z", encoder_of(x))

    terms, draws = terms_and_draws(model, guide, x)
    z = draws["z"]
    likelihood = dist.Normal(linear(z, "decoder", D)[:, None] + real("x.loc", K, D), 1.0)
    components = dist.Normal(real("z.loc", K, M), 1.0).to_event(1)
    joint = real("c.logits", K).log_softmax(-1) + components.log_prob(z[:, None])
    joint = (joint + likelihood.log_prob(x[:, None]).sum(-1)).logsumexp(-1)
    assert_close(terms.kl["z"], (encoder_of(x).log_prob(z) - prior_of(z)).mean().detach())
    assert_close(terms.reconstruction["x"], (joint - prior_of(z)).mean().detach())
    assert_close(terms.evidence.per_datum["reconstruction", "x"], (joint - prior_of(z)).detach())
    with pytest.raises(ValueError, match="no value for each input dimension"):
        _ = terms.tc_bound


def test_latents_under_one_class_have_their_kl_together():
    x = bits(N, D)

    def model(x):
        with pyro.plate("data", N):
            c = class_of("c")
            a = pyro.sample("a", dist.Normal(real("a.loc", K, M)[c], 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(real("b.loc", K, M)[c], 1.0).to_event(1))
            logits = linear(a + b, "decoder", D)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", N):
            pyro.sample("a", encoder_of(x, "a"))
            pyro.sample("b", encoder_of(x, "b"))

    terms, draws = terms_and_draws(model, guide, x)
    log_p = real("c.logits", K).log_softmax(-1)
    for name in "ab":
        components = dist.Normal(real(f"{name}.loc", K, M), 1.0).to_event(1)
        log_p = log_p + components.log_prob(draws[name][:, None])
    log_q = sum(encoder_of(x, name).log_prob(draws[name]) for name in "ab")
    assert set(terms.kl) == {"a+b"}
    assert_close(terms.kl["a+b"], (log_q - log_p.logsumexp(-1)).mean().detach())
    assert_close(terms.evidence.per_datum["kl", "a+b"], (log_q - log_p.logsumexp(-1)).detach())


def test_a_class_for_each_latent_has_a_kl_for_each_latent():
    x = bits(N, D)

    def model(x):
        with pyro.plate("data", N, dim=-2):
            with pyro.plate("latents", M, dim=-1):
                c = class_of("c")
                z = pyro.sample("z", dist.Normal(real("z.loc", K)[c], 1.0))
            with pyro.plate("inputs", D, dim=-1):
                pyro.sample("x", dist.Bernoulli(logits=linear(z, "decoder", D)), obs=x)

    def guide(x):
        with pyro.plate("data", N, dim=-2), pyro.plate("latents", M, dim=-1):
            pyro.sample("z", dist.Normal(linear(x, "encoder", M), 0.5))

    terms, draws = terms_and_draws(model, guide, x)
    z = draws["z"]
    log_p = dist.Normal(real("z.loc", K), 1.0).log_prob(z.unsqueeze(-1))
    log_p = (real("c.logits", K).log_softmax(-1) + log_p).logsumexp(-1)
    kl = dist.Normal(linear(x, "encoder", M), 0.5).log_prob(z) - log_p
    assert_close(terms.kl["z"], kl.mean(0).detach())
    assert_close(terms.evidence.matrix("kl", "z"), kl.detach())


def test_a_class_of_the_guide_under_one_of_the_model():
    """The KL of a class that is summed over, whose prior is a sum, in closed form."""
    x = reals(N)

    def model(x):
        with pyro.plate("data", N):
            c = class_of("c")
            a = pyro.sample("a", dist.Categorical(logits=real("a.logits", K, 2)[c]))
            pyro.sample("x", dist.Normal(real("x.loc", 2)[a], 1.0), obs=x)

    def encoder(x):
        return dist.Categorical(logits=linear(x.unsqueeze(-1), "encoder", 2))

    def guide(x):
        with pyro.plate("data", N):
            pyro.sample("a", encoder(x), infer={"enumerate": "parallel"})

    terms = CorExELBO(max_plate_nesting=1).terms(model, guide, x)
    prior = real("c.logits", K).softmax(-1) @ real("a.logits", K, 2).softmax(-1)
    q = encoder(x).probs
    seen = (q * dist.Normal(real("x.loc", 2), 1.0).log_prob(x[:, None])).sum(-1)
    assert_close(terms.kl["a"], (q * (q.log() - prior.log())).sum(-1).mean().detach())
    assert_close(terms.reconstruction["x"], seen.mean().detach())
    assert set(terms.kl) == {"a"}


def test_a_weight_for_each_latent_has_no_place_in_a_sum_over_classes():
    def model(x):
        with pyro.plate("data", N):
            c = class_of("c")
            pyro.sample("z", dist.Normal(real("z.loc", K, M)[c], 1.0).to_event(1))

    def guide(x):
        with pyro.plate("data", N):
            pyro.sample("z", encoder_of(x))

    programs = [anchor(fn, {"z": torch.ones(M)}) for fn in (model, guide)]
    with pytest.raises(ValueError, match="so that its KL is no sum over latents"):
        CorExELBO(max_plate_nesting=1).loss(*programs, bits(N, D))


def test_a_model_that_sums_its_latents_out_and_observes_nothing():
    """Its probabilities sum to one, so that the bound is 0 and nothing is left to weigh."""

    @pyro.infer.config_enumerate
    def model():
        x = 0
        for t in pyro.markov(range(5)):
            x = pyro.sample(f"x{t}", dist.Categorical(torch.tensor([[0.2, 0.8], [0.1, 0.9]])[x]))

    terms = CorExELBO(max_plate_nesting=0).terms(model, lambda: None)
    assert float(terms.elbo) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("infer", [{"enumerate": "sequential"}, ENUMERATED])
def test_elements_of_a_plate_that_share_what_the_model_sums_out(infer):
    """Given b, ln p(x|b) is the logarithm of a sum over a of a product over the elements."""
    prior_a, prior_b, q = (torch.tensor(p) for p in ([0.45, 0.55], [0.6, 0.4], [0.8, 0.2]))
    loc, x = torch.tensor([[-3.0, 0.0], [1.0, 4.0]]), torch.tensor([-3.0, 4.0])

    def programs(plate):
        def model():
            a = pyro.sample("a", dist.Categorical(prior_a), infer=ENUMERATED)
            for i, suffix in plate():
                b = pyro.sample(f"b{suffix}", dist.Categorical(prior_b))
                pyro.sample(f"x{suffix}", dist.Normal(loc[a, b], 1.0), obs=x[i])

        def guide():
            for _, suffix in plate():
                pyro.sample(f"b{suffix}", dist.Categorical(q), infer=infer)

        return model, guide

    def whole():
        with pyro.plate("n", 2) as i:
            yield i, ""

    def loop():
        for i in pyro.plate("n", 2):
            yield i, str(i)

    want = 0.0
    for b in torch.cartesian_prod(torch.arange(2), torch.arange(2)):
        log_p = prior_a.log() + dist.Normal(loc[:, b], 1.0).log_prob(x).sum(-1)
        cost = (q[b] / prior_b[b]).log().sum() - log_p.logsumexp(0)
        want += q[b].prod() * cost
    elbo = CorExELBO(max_plate_nesting=1)
    with pytest.raises(ValueError, match=r"guide.* 'b' in plate.*'n'"):
        elbo.loss(*programs(whole))
    assert elbo.loss(*programs(loop)) == pytest.approx(float(want), rel=1e-5)


def test_each_element_of_a_plate_sums_out_its_own():
    """Then the values of the guide's site may be taken one at a time in all elements at once."""
    q, to_c = torch.tensor([0.8, 0.2]), torch.tensor([[0.3, 0.7], [0.6, 0.4]])
    loc, x = torch.tensor([-2.0, 3.0]), torch.tensor([-3.0, 4.0, 1.0])

    def model():
        a = pyro.sample("a", dist.Categorical(q), infer=ENUMERATED)
        pyro.sample("y", dist.Normal(loc[a], 1.0), obs=torch.tensor(1.0))
        with pyro.plate("n", len(x)):
            b = pyro.sample("b", dist.Categorical(torch.tensor([0.6, 0.4])))
            c = pyro.sample("c", dist.Categorical(to_c[b]), infer=ENUMERATED)
            pyro.sample("x", dist.Normal(loc[c], 1.0), obs=x)

    def guide():
        with pyro.plate("n", len(x)):
            pyro.sample("b", dist.Categorical(q), infer={"enumerate": "sequential"})

    log_p = dist.Normal(loc, 1.0).log_prob(x[:, None])
    kl = len(x) * (q * (q / torch.tensor([0.6, 0.4])).log()).sum()
    want = kl - (q * (to_c.log() + log_p[:, None]).logsumexp(-1)).sum()
    want = want - (q.log() + dist.Normal(loc, 1.0).log_prob(torch.tensor(1.0))).logsumexp(0)
    assert CorExELBO(max_plate_nesting=1).loss(model, guide) == pytest.approx(float(want), rel=1e-5)
