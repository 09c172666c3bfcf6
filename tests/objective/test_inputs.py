"""What the model's densities depend on beside the latents, and what is then refused."""

import gc
import itertools
import math
import weakref
from collections import namedtuple
from dataclasses import make_dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_corex as pc
from pyro_corex import CorExELBO, CorExTerms

N, D = 60, 4
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, D, generator=GENERATOR)
Y = torch.randint(3, (N,), generator=GENERATOR)
EXPLAINED = ("relevance", "informativeness", "layers")
CONDITIONAL = "The model is conditional on y = "
OWN = "The decoder sees "
NO_ORDER = "The model sees "


def program(
    loc, prior=lambda *args, **kwargs: torch.zeros(()), read=lambda *args: args[0], fn=None
):
    """Readings of one cause; ``loc`` and ``prior`` say what else they depend on."""

    def latent(mean, size):
        return pyro.sample("z", dist.Normal(mean.expand(size), 1.0))

    def model(*args, **kwargs):
        x = read(*args, **kwargs)
        with pyro.plate("data", len(x)):
            z = latent(prior(*args, **kwargs), len(x))[..., None]
            mean = (z + loc(*args, **kwargs)).expand((*z.shape[:-1], x.shape[1]))
            likelihood = dist.Normal(mean, 1.0) if fn is None else fn(mean)
            pyro.sample("x", likelihood.to_event(1), obs=x)

    def guide(*args, **kwargs):
        x = read(*args, **kwargs)
        with pyro.plate("data", len(x)):
            latent(x.mean(1), len(x))

    return model, guide


def terms_of(programs, *args, **kwargs):
    torch.manual_seed(1)
    with pyro.validation_enabled(False):
        return CorExELBO().terms(*programs, *args, **kwargs)


def sees(terms):
    """What is refused of these terms: a bound on TC(x), what is explained, or nothing."""
    refused = {}
    for name in ("tc_bound", *EXPLAINED):
        try:
            getattr(terms, name)
        except ValueError as error:
            refused[name] = str(error)
    if refused and all(reason.startswith(CONDITIONAL) for reason in refused.values()):
        assert {*refused, "tc_bound"} == {"tc_bound", *EXPLAINED}
        return "conditional"
    if "tc_bound" in refused:
        assert set(refused) == {"tc_bound", *EXPLAINED}
        assert all(reason.startswith(NO_ORDER) for reason in refused.values())
        return "no order"
    if refused:
        assert set(refused) == set(EXPLAINED)
        assert all(text.startswith(OWN) for text in refused.values())
        return "own"
    return "latents alone"


def before(x):
    """Of each dimension the one before it."""
    return nn.functional.pad(x[:, :-1], (1, 0))


def label(y):
    return 3.0 * y[:, None]


Pair = namedtuple("Pair", ["x", "y"])
SimpleBatch = make_dataclass("SimpleBatch", ["x", "y"])
PACKED = torch.cat([X, Y[:, None].float()], 1)
COUNT = itertools.count()
GREY = torch.rand(N, D, generator=GENERATOR)
GENES = torch.rand(D, generator=GENERATOR)


WIDE = torch.randn(N, N, generator=GENERATOR)


def bernoulli(mean):
    return dist.Bernoulli(logits=mean)


def fixed(grey):
    """Bits drawn inside the program."""
    return torch.bernoulli(grey)


CASES = {
    # innocent: nothing of a datum but through z
    "a decoder": ("latents alone", program(lambda x: 0.0), (X,)),
    "sizes, dtypes and devices": ("latents alone", program(lambda x: x.new_zeros(D)), (X,)),
    "an argument that is not used": ("latents alone", program(lambda x, y: 0.0), (X, Y)),
    "a constant argument": (
        "latents alone",
        program(lambda x, y: y[:, None] * 1.0),
        (X, torch.ones(N)),
    ),
    "a number": ("latents alone", program(lambda x, scale: scale), (X, torch.tensor(2.0))),
    "what all data share": ("latents alone", program(lambda x: x.mean(0)), (X,)),
    "a value for each column": ("latents alone", program(lambda x, genes: genes), (X, GENES)),
    "bits drawn inside": (
        "latents alone",
        program(lambda x: 0.0, read=fixed, fn=bernoulli),
        (GREY,),
    ),
    "numpy's random numbers": (
        "latents alone",
        program(lambda x: 0.0, read=lambda x: x + torch.from_numpy(np.random.randn(N, D)).float()),
        (X,),
    ),
    "residuals": ("latents alone", program(lambda *a: 0.0, read=lambda x, y: x - label(y)), (X, Y)),
    "a guide that sees a label": (
        "latents alone",
        (
            program(lambda x, y: 0.0)[0],
            program(lambda x, y: 0.0, read=lambda x, y: x + label(y))[1],
        ),
        (X, Y),
    ),
    "data that a closure holds": ("latents alone", program(lambda: 0.0, read=lambda: X), ()),
    "weights of as many rows as data": (
        "latents alone",
        program(lambda x: (WIDE.new_ones(1, N) @ WIDE @ WIDE[:, :D]) / N),
        (X,),
    ),
    "biases of as many columns as data": (
        "latents alone",
        program(lambda x: pyro.param("bias", torch.randn(N, dtype=x.dtype))),
        (WIDE,),
    ),
    "what differs from run to run": (
        "latents alone",
        program(lambda x, y: label(y) + next(COUNT)),
        (X, Y),
    ),
    # conditional
    "a covariate and numpy's random numbers": (
        "conditional",
        program(
            lambda x, y: label(y), read=lambda x, y: x + torch.from_numpy(np.random.randn(N, D))
        ),
        (X.double(), Y),
    ),
    "a covariate": ("conditional", program(lambda x, y: label(y)), (X, Y)),
    "data that come second": (
        "conditional",
        program(lambda y, x: label(y), read=lambda y, x: x),
        (Y, X),
    ),
    "a prior": ("conditional", program(lambda *a: 0.0, lambda x, y: 3.0 * y), (X, Y)),
    "in a dict": (
        "conditional",
        program(lambda batch: label(batch["y"]), read=lambda batch: batch["x"]),
        ({"x": X, "y": Y},),
    ),
    "in a tuple with a name": (
        "conditional",
        program(lambda batch: label(batch.y), read=lambda batch: batch.x),
        (Pair(X, Y),),
    ),
    "in an object": (
        "conditional",
        program(lambda batch: label(batch.y), read=lambda batch: batch.x),
        (SimpleBatch(X, Y),),
    ),
    "packed in one tensor": (
        "conditional",
        program(lambda xy: label(xy[:, D]), read=lambda xy: xy[:, :D]),
        (PACKED,),
    ),
    "packed and transformed": (
        "conditional",
        program(lambda xy: label(xy[:, D]), read=lambda xy: xy[:, :D].exp()),
        (PACKED,),
    ),
    "the grey of binary data": (
        "conditional",
        program(lambda x: before(x), read=lambda x: (x > 0.5).float(), fn=bernoulli),
        (GREY,),
    ),
    "an index": (
        "conditional",
        program(lambda i: label(Y[i]), read=lambda i: X[i]),
        (torch.arange(N),),
    ),
    "a covariate in a closure": ("conditional", program(lambda x: label(Y)), (X,)),
    "data and a covariate in a closure": (
        "conditional",
        program(lambda: label(Y), read=lambda: X),
        (),
    ),
    "a parameter for each datum": (
        "conditional",
        program(lambda x: pyro.param("offset", torch.randn(N, 1))),
        (X,),
    ),
    # x itself
    "data in a closure": ("own", program(lambda: before(X), read=lambda: X), ()),
    "bits of data in a closure": (
        "own",
        program(lambda: before((GREY > 0.5) * 1.0), read=lambda: (GREY > 0.5) * 1.0, fn=bernoulli),
        (),
    ),
    "an autoregressive decoder": ("own", program(lambda x: before(x)), (X,)),
    "a copy of the data": ("own", program(lambda x, given: before(given)), (X, X.clone())),
    "standardised data": (
        "own",
        program(lambda x: before(x), read=lambda x: (x - x.mean(0)) / x.std(0)),
        (X,),
    ),
    "bits made inside": (
        "own",
        program(
            lambda x: before((x > 0.5).float()), read=lambda x: (x > 0.5).float(), fn=bernoulli
        ),
        (GREY,),
    ),
    "from the last to the first": ("own", program(lambda x: before(x.flip(1)).flip(1)), (X,)),
    "in another order": (
        "own",
        program(lambda x: before(x[:, [2, 0, 3, 1]])[:, [1, 3, 0, 2]]),
        (X,),
    ),
    "many columns": ("own", program(lambda x: before(x)), (torch.randn(N, 300),)),
    # of no joint distribution
    "a prior given x": ("no order", program(lambda x: 0.0, lambda x: x[:, 0]), (X,)),
    "x itself": ("no order", program(lambda x: x), (X,)),
    "a copy of the argument": ("no order", program(lambda x, given: given), (X, X.clone())),
    "what is told": ("no order", program(lambda x, y: y[:, None]), (X, X[:, 1].clone())),
    "all others": ("no order", program(lambda x: x.sum(1, keepdim=True) - x), (X,)),
    "all others of many": (
        "no order",
        program(lambda x: x.sum(1, keepdim=True) - x),
        (torch.randn(N, 300),),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_the_model_sees(name):
    want, programs, args = CASES[name]
    assert sees(terms_of(programs, *args)) == want


def test_what_a_module_holds():
    """Labels are seen, buffers and weights are not, where they have as many rows as the data."""

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(1, N), nn.BatchNorm1d(N), nn.Linear(N, D)).eval()
            self.register_buffer("scale", torch.rand(N))
            self.y = None

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                mean = self.net(z[:, None].double()) + (self.scale * self.scale).mean()
                if self.y is not None:
                    mean = mean + label(self.y)
                pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    module, guide = Module().double(), program(lambda x: 0.0)[1]
    assert sees(terms_of((module.model, guide), X)) == "latents alone"
    module.y = Y
    with pytest.raises(
        ValueError, match=r"on y = a tensor of shape \(60,\) that the program holds"
    ):
        _ = terms_of((module.model, guide), X).tc_bound


def test_keyword_arguments_are_named():
    programs = program(lambda x, *, group: label(group), read=lambda x, *, group: x)
    with pytest.raises(ValueError, match=r"conditional on y = 'group'.*TC\(x\) \+ I\(x : y\)"):
        _ = terms_of(programs, X, group=X[:, 0] ** 2).tc_bound
    with pytest.raises(ValueError, match=r"on y = 'group'.*tc_bound takes H\(y\) off"):
        _ = terms_of(programs, X, group=Y).informativeness


def test_the_entropy_of_a_discrete_covariate_is_taken_off():
    """Columns that tell y: TC(x) = (d - 1) H(y), of which nothing else is left to tell."""
    generator = torch.Generator().manual_seed(3)
    a, b = torch.randint(2, (2, 600), generator=generator)
    y = 2 * a + b
    x = 30.0 * y[:, None] + torch.randn(600, D, generator=generator)
    noise = torch.randn(600, generator=generator)
    plain = {"read": lambda x, *rest, **named: x}
    entropy = float(pc.information.marginal_entropy(y[:, None], "categorical"))
    whole = float(pc.information.marginal_entropy(x, "continuous").double().sum())

    def bound_of(loc, *args, **kwargs):
        terms = terms_of(program(lambda *a, **k: 10.0 * loc(*a, **k), **plain), *args, **kwargs)
        assert sees(terms) == "conditional"
        return terms.tc_bound - (whole + terms.elbo)  # exactly what was taken off

    one = bound_of(lambda x, y: label(y), x, y)
    assert one == pytest.approx(-entropy, abs=1e-5)
    # two arguments, whose joint entropy it is; and columns, of which noise has no part in it
    assert bound_of(lambda x, a, b: label(2 * a + b), x, a, b) == pytest.approx(one)
    told = torch.stack([noise, a, b], 1)
    assert bound_of(lambda x, t: label(2 * t[:, 1] + t[:, 2]), x, told) == pytest.approx(one)
    named = bound_of(lambda x, b, a: label(2 * a + b), x, b=b, a=a)
    assert named == pytest.approx(one)


def test_batches_of_a_covariate_are_joined():
    y = torch.arange(90) % 3
    x = torch.randn(90, D, generator=torch.Generator().manual_seed(0))
    programs = program(lambda x, y: label(y), read=lambda x, y: x)
    parts = [terms_of(programs, x[i : i + 30], y[i : i + 30]) for i in (0, 30, 60)]
    covariate = CorExTerms.join(parts).evidence.covariate
    assert covariate.flatten().tolist() == y.tolist()


def test_what_is_taken_off_is_what_the_terms_bound_beside():
    """Columns that tell y / 2: TC(x) = (d - 1) H(x_i), and y tells all of it, and H(x_i) more."""
    y = torch.arange(4000) % 4
    x = (y // 2)[:, None].expand(-1, D)

    def with_label(observed):
        def model(x, y):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                if observed:
                    pyro.sample("y", dist.Categorical(torch.ones(len(x), 4)), obs=y)
                told = torch.eye(2)[y // 2][:, None].expand(-1, D, -1)
                logits = 50.0 * told + 0.0 * z[:, None, None]
                pyro.sample("x", dist.Categorical(logits=logits).to_event(1), obs=x)

        def guide(x, y):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

        return model, guide

    told = terms_of(with_label(False), x, y)  # y has another bit, which costs as much
    assert told.tc_bound == pytest.approx((D - 2) * math.log(2), abs=3e-3)
    # y observed: TC(x, y) = TC(x) + I(x:y), which the decoder knows from y and not from z
    terms = terms_of(with_label(True), x, y)
    assert terms.tc_bound == pytest.approx(D * math.log(2), abs=2e-3)
    assert sees(terms) == "own"
    # each value of y on its own: TC(x|y) = 0
    part = terms_of(with_label(False), x[y == 1], y[y == 1])
    assert part.tc_bound == pytest.approx(0.0, abs=1e-5)
    assert sees(part) == "latents alone"


def test_an_observed_site_that_the_decoder_is_given_without_an_argument():
    def model():
        with pyro.plate("data", N):
            y = pyro.sample("y", dist.Normal(torch.zeros(N), 1.0), obs=X[:, 0])
            z = pyro.sample("z", dist.Normal(torch.zeros(N), 1.0))
            pyro.sample("x", dist.Normal(y + z, 1.0), obs=X[:, 1])

    def guide():
        with pyro.plate("data", N):
            pyro.sample("z", dist.Normal(torch.zeros(N), 1.0))

    assert sees(terms_of((model, guide))) == "own"


def test_data_along_another_axis_than_the_first():
    programs = program(lambda x, y: label(y[0]), read=lambda x, y: x.T)
    assert sees(terms_of(programs, X.T, Y[None])) == "conditional"
    assert sees(terms_of(program(lambda x: before(x.T), read=lambda x: x.T), X.T)) == "own"


def test_what_is_observed_may_not_be_computed_from_latents():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("rest", dist.Normal(torch.zeros(len(x)), 1.0), obs=x[:, 0] - z)

    with pytest.raises(ValueError, match="observes is computed from the latents"):
        _ = terms_of((model, program(lambda x: 0.0)[1]), X).tc_bound


def test_subsampled_data():
    def programs(conditional):
        def model(x, y):
            with pyro.plate("data", N, subsample_size=20) as rows:
                z = pyro.sample("z", dist.Normal(torch.zeros(20), 1.0))[:, None]
                mean = z + (label(y[rows]) if conditional else 0.0)
                fn = dist.Normal(mean.expand(20, D), 1.0).to_event(1)
                pyro.sample("x", fn, obs=x[rows])

        def guide(x, y):
            with pyro.plate("data", N, subsample_size=20):
                pyro.sample("z", dist.Normal(torch.zeros(20), 1.0))

        return model, guide

    assert sees(terms_of(programs(False), X, Y)) == "latents alone"
    assert sees(terms_of(programs(True), X, Y)) == "conditional"


def test_a_program_that_does_not_take_its_data_in_another_order():
    def model(x, y):
        assert torch.equal(y, Y)
        return program(lambda x, y: label(y))[0](x, y)

    assert sees(terms_of((model, program(lambda *a: 0.0)[1]), X, Y)) == "latents alone"


def test_enumerated_latents():
    def programs(conditional):
        def model(x, y):
            with pyro.plate("data", N):
                c = pyro.sample("c", dist.Categorical(torch.ones(N, 2)))
                mean = c[..., None] + (label(y) if conditional else 0.0)
                fn = dist.Normal(mean.expand((*mean.shape[:-2], N, D)), 1.0)
                pyro.sample("x", fn.to_event(1), obs=x)

        def guide(x, y):
            with pyro.plate("data", N):
                infer = {"enumerate": "parallel"}
                pyro.sample("c", dist.Categorical(torch.ones(N, 2)), infer=infer)

        return model, guide

    assert sees(terms_of(programs(False), X, Y)) == "latents alone"
    assert sees(terms_of(programs(True), X, Y)) == "conditional"


@pytest.mark.parametrize("vectorize", [False, True])
def test_particles(vectorize):
    model, guide = program(lambda x, y: label(y))
    elbo = CorExELBO(2, vectorize_particles=vectorize, max_plate_nesting=1)
    assert sees(elbo.terms(model, guide, X, Y)) == "conditional"


# ---------------------------------------------------------------------- what it costs


def counted(programs):
    calls = []

    def model(*args):
        calls.append(torch.get_rng_state())
        return programs[0](*args)

    return (model, programs[1]), calls


def test_nothing_is_run_before_somebody_asks():
    programs, calls = counted(program(lambda x: 0.0))
    terms = terms_of(programs, X)
    _ = terms.entropy, terms.elbo, repr(terms), terms.evidence.draws
    assert len(calls) == 1
    state, of_numpy = torch.get_rng_state(), np.random.get_state()[1].tolist()
    _ = terms.tc_bound
    assert torch.equal(torch.get_rng_state(), state)
    assert np.random.get_state()[1].tolist() == of_numpy
    asked = len(calls)
    assert asked <= 6
    _ = terms.informativeness, terms.relevance
    assert len(calls) == asked


def test_many_columns_are_told_apart_in_few_runs():
    x = torch.randn(N, 200)
    programs, calls = counted(program(lambda x: before(x), read=lambda x: x.exp()))
    assert sees(terms_of(programs, x)) == "own"
    assert len(calls) < 100


def test_no_graph_is_kept():
    weight = torch.ones((), requires_grad=True)
    x = X * weight  # the arguments may come from a network
    graph = weakref.ref(x)
    model, guide = program(lambda x: 0.0)
    elbo = CorExELBO()
    elbo.differentiable_loss(model, guide, x).backward()
    del x
    gc.collect()
    assert graph() is None
    assert math.isfinite(elbo.last_terms.tc_bound)


def test_terms_without_data_let_go_of_the_arguments():
    y = Y.float()
    held = weakref.ref(y)
    elbo = CorExELBO()
    terms = elbo.terms(*program(lambda x, y: 0.0), X, y).without_data()
    del y, elbo
    gc.collect()
    assert held() is None
    assert math.isfinite(terms.elbo)
