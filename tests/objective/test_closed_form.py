"""Where a closed-form KL may be trusted: the mean-field condition, found from the programs."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn

from pyro_corex import CorExELBO
from pyro_corex.objective.closed_form import suspects, violations

# ---------------------------------------------------------------------- suspects: by order alone


@pytest.mark.parametrize(
    ("model", "guide", "expected"),
    [
        (["a", "b"], ["a", "b"], set()),
        (["b", "a"], ["a", "b"], {"a"}),
        (["c", "b", "a"], ["a", "b", "c"], {"a", "b"}),
        (["c", "a", "b"], ["a", "b", "c"], {"a", "b"}),
        (["a", "c", "b"], ["a", "b", "c"], {"b"}),
        (["a", "x", "b"], ["u", "a", "v", "b"], set()),  # observed and auxiliary sites
        (["b", "x", "a"], ["a", "u", "b"], {"a"}),
        (["a"], [], set()),
        ([], ["a"], set()),
    ],
)
def test_suspects(model, guide, expected):
    assert suspects(model, guide) == expected


# ---------------------------------------------------------------------- programs by their edges


def program(*edges, order):
    """Draws the sites of ``order``; each edge "a->b" shifts b's mean by a."""
    parents = {name: [e.split("->")[0] for e in edges if e.endswith(f"->{name}")] for name in order}

    def run():
        values = {}
        for name in order:
            loc = sum((values[parent] for parent in parents[name]), torch.zeros(()))
            infer = {"is_auxiliary": True} if name.startswith("aux") else {}
            values[name] = pyro.sample(name, dist.Normal(loc, 1.0), infer=infer)

    return run


def found(model, guide, names, *args):
    return violations(names, model, guide, args, {})


@pytest.mark.parametrize(
    ("model", "guide", "expected"),
    [
        # a stack of two layers: the guide upwards, the model downwards
        (program("b->a", order="ba"), program("a->b", order="ab"), {"a"}),
        # of three
        (program("c->b", "b->a", order="cba"), program("a->b", "b->c", order="abc"), {"a", "b"}),
        # the guide draws as the model does
        (program("b->a", order="ba"), program("b->a", order="ba"), set()),
        # mean field, in another order
        (program("b->a", order="ba"), program(order="ab"), set()),
        (program(order="ba"), program("a->b", order="ab"), set()),
        # a's parent in the model descends from it by two steps in the guide
        (program("c->a", order="cba"), program("a->b", "b->c", order="abc"), {"a"}),
        # the same, by a site that the model does not have
        (program("c->a", order="ca"), program("a->aux", "aux->c", order=["a", "aux", "c"]), {"a"}),
        # c is not a parent of a, only of a's parent
        (program("c->b", "b->a", order="cba"), program("a->c", order="abc"), set()),
        # a collider in the guide is no path
        (program("b->a", order="ba"), program("a->c", "b->c", order="abc"), set()),
    ],
)
def test_violations(model, guide, expected):
    traces = [poutine.trace(program).get_trace() for program in (model, guide)]
    shared = set.intersection(*(set(trace.stochastic_nodes) for trace in traces))
    assert found(model, guide, shared) == expected


def test_only_the_names_that_were_asked_for():
    model, guide = program("b->a", order="ba"), program("a->b", order="ab")
    assert found(model, guide, {"b"}) == set()
    assert found(model, guide, set()) == set()


def test_leaves_the_random_state_and_outer_handlers_alone():
    model, guide = program("b->a", order="ba"), program("a->b", order="ab")
    state = torch.get_rng_state()
    with poutine.trace() as outer:
        found(model, guide, {"a"})
    assert torch.equal(torch.get_rng_state(), state)
    assert "a" not in outer.trace.nodes


# ---------------------------------------------------------------------- ways to depend


def up():
    """The guide of a stack: z1, then z2 given z1."""
    z1 = pyro.sample("z1", dist.Normal(torch.zeros(()), 1.0))
    pyro.sample("z2", dist.Normal(z1, 1.0))


def down(link):
    """The model of a stack, whose z1 depends on z2 through ``link``."""

    def model():
        z2 = pyro.sample("z2", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("z1", dist.Normal(link(z2), 1.0))

    return model


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


def write_into(z):
    h = torch.zeros(2)
    h[0] = z
    return h[0]


@torch.no_grad()
def through_a_module(z):
    return nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))(z.reshape(1, 1)).squeeze()


LINKS = {
    "arithmetic": lambda z: 2 * z + 1,
    "stack": lambda z: torch.stack([z, z])[0],
    "in place": lambda z: torch.zeros(()).add_(z),
    "where": lambda z: torch.where(z > 0, torch.zeros(()), torch.ones(())),
    "index": lambda z: torch.tensor([0.0, 1.0])[(z > 0).long()],
    "module": through_a_module,
    "embedding": lambda z: nn.Embedding(2, 1)((z > 0).long())[0],
    "autograd function": Double.apply,
    "deterministic": lambda z: pyro.deterministic("h", 2 * z),
    "delta": lambda z: pyro.sample("h", dist.Delta(2 * z)),
}

# What tracking tensors do not survive, so that nothing can be concluded from them.
UNTRACKABLE = {
    "item": lambda z: z.item(),
    "branch": lambda z: 1.0 if z > 0 else 0.0,
    "numpy": lambda z: torch.as_tensor(z.detach().numpy()),
    "setitem": write_into,
    "script": torch.jit.CompilationUnit("def double(x):\n    return 2 * x\n").double,
    "vmap": lambda z: torch.func.vmap(lambda x: 2 * x)(z.reshape(1))[0],
}


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_finds_a_dependency_through(link):
    assert found(down(link), up, {"z1"}) == {"z1"}


@pytest.mark.parametrize("link", UNTRACKABLE.values(), ids=UNTRACKABLE)
def test_does_not_trust_what_cannot_be_followed(link):
    """A closed form that is wrong is worse than a log-ratio that is noisy."""
    assert found(down(link), up, {"z1"}) in (None, {"z1"})


@pytest.mark.parametrize("parameter", ["loc", "scale"])
def test_finds_a_dependency_of(parameter):
    def model():
        z2 = pyro.sample("z2", dist.Normal(torch.zeros(()), 1.0))
        given = {"loc": torch.zeros(()), "scale": torch.ones(()), parameter: z2.exp()}
        pyro.sample("z1", dist.Normal(**given))

    assert found(model, up, {"z1"}) == {"z1"}


def test_finds_a_dependency_in_the_guide_through_a_deterministic_site():
    def guide():
        z1 = pyro.sample("z1", dist.Normal(torch.zeros(()), 1.0))
        h = pyro.deterministic("h", 2 * z1)
        pyro.sample("z2", dist.Normal(h, 1.0))

    assert found(down(lambda z: z), guide, {"z1"}) == {"z1"}


def test_delta_site_of_both_programs():
    """h is a point mass in guide and model; z1 depends on z2 by way of it."""

    def guide():
        z1 = pyro.sample("z1", dist.Normal(torch.zeros(()), 1.0))
        h = pyro.sample("h", dist.Delta(2 * z1))
        pyro.sample("z2", dist.Normal(h, 1.0))

    def model():
        z2 = pyro.sample("z2", dist.Normal(torch.zeros(()), 1.0))
        h = pyro.sample("h", dist.Delta(z2))
        pyro.sample("z1", dist.Normal(h, 1.0))

    assert found(model, guide, {"z1"}) == {"z1"}


def test_subsampling_is_no_dependency():
    def model():
        with pyro.plate("data", 5, subsample_size=2):
            pyro.sample("b", dist.Normal(0.0, 1.0))
            pyro.sample("a", dist.Normal(0.0, 1.0))

    def guide():
        with pyro.plate("data", 5, subsample_size=2):
            pyro.sample("a", dist.Normal(0.0, 1.0))
            pyro.sample("b", dist.Normal(0.0, 1.0))

    assert found(model, guide, {"a", "b"}) == set()


class Stack(PyroModule):
    """Programs with networks, over arguments."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(2, 2)
        self.top = nn.Linear(2, 1)
        self.decoder = nn.Linear(1, 2)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(self.encoder(x), 1.0).to_event(1))
            pyro.sample("z2", dist.Normal(self.top(z1), 1.0).to_event(1))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(self.decoder(z2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z1, 1.0).to_event(1), obs=x)


def test_programs_of_a_module():
    stack = Stack()
    x = torch.randn(3, 2)
    before = {name: value.clone() for name, value in stack.state_dict().items()}
    assert found(stack.model, stack.guide, {"z1", "z2"}, x) == {"z1"}
    assert all(torch.equal(value, before[name]) for name, value in stack.state_dict().items())


def test_a_program_that_raises_is_not_trusted():
    def raises_under_tracking():
        if any(type(m).__name__ == "_Track" for m in poutine.runtime._PYRO_STACK):
            raise TypeError("no implementation found")
        up()

    assert found(program(order="ba"), raises_under_tracking, {"a", "b"}) is None


# ---------------------------------------------------------------------- what CorExELBO makes of it


def mean_field(order):
    """A program over two independent latents, in the order given."""
    place = {"a": 1.0, "b": -2.0}

    def run(x, shift=0.0):
        for name in order:
            pyro.sample(name, dist.Normal(torch.tensor(place[name] + shift), 1.0))

    return run


def test_mean_field_in_another_order_keeps_the_closed_form():
    """Pyro's TraceMeanField_ELBO warns here; the KL is right, so there is nothing to say."""
    draw = mean_field("ba")

    def model(x):
        draw(x, shift=0.5)
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    terms = CorExELBO().terms(model, mean_field("ab"), torch.tensor(0.3))
    for name in "ab":  # KL(N(m, 1) || N(m + 1/2, 1)) = 1/8, whatever was drawn
        assert float(terms.kl[name]) == pytest.approx(0.125, abs=1e-12)


def test_dependence_without_a_violation_keeps_the_closed_form():
    """The model's a depends on b, which the guide draws after a, but not from it."""

    def model(x):
        b = pyro.sample("b", dist.Normal(torch.tensor(0.0), 1.0))
        a = pyro.sample("a", dist.Normal(b, 1.0))
        pyro.sample("x", dist.Normal(a, 1.0), obs=x)

    pyro.set_rng_seed(2)
    terms = CorExELBO().terms(model, mean_field("ab"), torch.tensor(0.3))
    pyro.set_rng_seed(2)
    with poutine.trace() as draws:
        mean_field("ab")(None)
    b = draws.trace.nodes["b"]["value"]
    assert float(terms.kl["a"]) == pytest.approx(float((1.0 - b) ** 2 / 2))  # at the drawn b
    assert float(terms.kl["b"]) == pytest.approx(2.0)  # KL(N(-2, 1) || N(0, 1))


def test_a_violation_is_unbiased():
    """The sampled log-ratio's mean is the exact loss of a linear Gaussian stack.

    Guide: z1 ~ N(x, s1), z2 ~ N(z1, s2).  Model: z2 ~ N(0, 1), z1 ~ N(z2, 1), x ~ N(z1, 1).
    """
    n, s1, s2, x = 20_000, 0.5, 0.7, 1.2

    def guide(x):
        z1 = pyro.sample("z1", dist.Normal(x, s1), infer={"analytic_kl": False})
        pyro.sample("z2", dist.Normal(z1, s2))

    def model(x):
        z2 = pyro.sample("z2", dist.Normal(torch.zeros(()), 1.0))
        z1 = pyro.sample("z1", dist.Normal(z2, 1.0))
        pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    elbo = CorExELBO(num_particles=n, vectorize_particles=True)
    terms = elbo.terms(model, guide, torch.tensor(x))
    log = lambda v: float(torch.tensor(v).log())  # noqa: E731
    kl1 = -log(s1) - 0.5 + 0.5 * s2**2
    kl2 = -log(s2) - 0.5 + 0.5 * (s2**2 + s1**2 + x**2)
    assert float(terms.kl["z1"]) == pytest.approx(kl1, abs=4 * 1.0 / n**0.5)
    assert float(terms.kl["z2"]) == pytest.approx(kl2, abs=4 * 1.5 / n**0.5)


def test_plates_that_draw_their_data_are_not_warned_of():
    """The two programs of Pyro's own test: loops over subsamples, the one inside the other."""

    def run(outwards, p):
        plates = [pyro.plate("i", 3, subsample_size=2), pyro.plate("j", 3, subsample_size=2)]
        outer, inner = plates if outwards else reversed(plates)
        for a in outer:
            for b in inner:
                i, j = (a, b) if outwards else (b, a)
                pyro.sample(f"x_{i}_{j}", dist.Bernoulli(p))

    def model():
        run(True, torch.tensor(0.5))

    def guide():
        run(False, torch.tensor(0.25))

    elbo = CorExELBO(strict_enumeration_warning=False, max_plate_nesting=0)
    for _ in range(5):  # each with other data; a warning would be an error
        assert len(elbo.terms(model, guide).kl) == 4
