import math

import pyro
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

import pyro_corex as pc
from pyro_corex import AggregatePosterior, CorExELBO
from pyro_corex.programs import LadderVAE

D, B = 6, 8
CONTINUOUS = {"layers": [(D, 4), (4, 5, 3), (3, 2)], "n_classes": None}
DISCRETE = {"layers": [(D, 4), (4, 3)], "n_classes": 3}


@pytest.fixture
def x():
    return torch.bernoulli(torch.full((40, D), 0.4))


def halves(out):
    loc, log_scale = out.chunk(2, -1)
    return loc, log_scale.exp()


def merged(a, b):
    (loc_a, s_a), (loc_b, s_b) = a, b
    total = s_a**-2 + s_b**-2
    return (loc_a / s_a**2 + loc_b / s_b**2) / total, total**-0.5


def kl(q, p):
    (loc, s), (loc_p, s_p) = q, p
    return (s_p / s).log() + (s**2 + (loc - loc_p) ** 2) / (2 * s_p**2) - 0.5


def log_x(stack, z, x):
    out = stack.decoders[0](z)
    return -binary_cross_entropy_with_logits(out, x.expand(out.shape), reduction="none").sum(-1)


def draws(stack, x, names):
    """The noise of the guide's draws at a seed, layer by layer."""
    pyro.set_rng_seed(3)
    with pyro.poutine.trace() as trace, torch.no_grad():
        stack.guide(x)
    nodes = trace.trace.nodes
    return {n: (nodes[n]["value"] - nodes[n]["fn"].loc) / nodes[n]["fn"].scale for n in names}


def compare(stack, x, right):
    pyro.set_rng_seed(3)
    loss = CorExELBO(max_plate_nesting=2).differentiable_loss(stack.model, stack.guide, x)
    torch.testing.assert_close(loss, right, rtol=0, atol=1e-10)
    parameters = list(stack.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    wanted = torch.autograd.grad(right, parameters, allow_unused=True)
    assert sum(g is None for g in found) == 0
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def test_value_and_gradient_are_those_of_the_paper(x):
    """Sønderby et al. 2016, Eq. 11 to 19, from networks and numbers alone."""
    stack, x = LadderVAE(**CONTINUOUS).double(), x[:B].double()
    noise = draws(stack, x, ["z1", "z2", "z3"])
    up1 = halves(stack.encoders[0](x))
    up2 = halves(stack.encoders[1](up1[0]))
    q3 = halves(stack.encoders[2](up2[0]))
    z3 = q3[0] + q3[1] * noise["z3"]
    p2 = halves(stack.decoders[2](z3))
    q2 = merged(up2, p2)
    z2 = q2[0] + q2[1] * noise["z2"]
    p1 = halves(stack.decoders[1](z2))
    q1 = merged(up1, p1)
    z1 = q1[0] + q1[1] * noise["z1"]
    one = (torch.zeros(2), torch.ones(2))
    costs = sum(kl(q, p).sum(-1) for q, p in ((q3, one), (q2, p2), (q1, p1)))
    compare(stack, x, -(log_x(stack, z1, x) - costs).sum())


def test_a_class_on_top_is_summed_over(x):
    stack, x = LadderVAE(**DISCRETE).double(), x[:B].double()
    with torch.no_grad():
        stack.prior.logits.normal_()
    pyro.set_rng_seed(3)  # one noise for each class, as the guide draws
    with pyro.poutine.trace() as trace, torch.no_grad(), pyro.poutine.enum(first_available_dim=-3):
        stack.guide(x)
    node = trace.trace.nodes["z1"]
    noise = (node["value"] - node["fn"].loc) / node["fn"].scale
    assert noise.shape == (3, B, 4)
    up = halves(stack.encoders[0](x))
    gamma = stack.encoders[1](up[0]).softmax(-1)
    pi = stack.prior.logits.softmax(-1)
    total = 0.0
    for c in range(3):
        p1 = halves(stack.decoders[1](torch.eye(3, dtype=x.dtype)[c]))
        q1 = merged(up, p1)
        of_class = log_x(stack, q1[0] + q1[1] * noise[c], x) - kl(q1, p1).sum(-1)
        total = total + gamma[:, c] * (of_class - (gamma[:, c] / pi[0, c]).log())
    compare(stack, x, -total.sum())


@pytest.mark.parametrize("options", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
def test_it_is_trained_measured_and_kept(options, x, tmp_path):
    stack = LadderVAE(**options, anchors={"z1": 0.5})
    pc.fit(stack, x, epochs=2, batch_size=10, progress=False)
    terms = CorExELBO().terms(stack.model, stack.guide, x)
    assert terms.kl["z1"].shape == (4,)
    bound = pc.tc_bound(stack, x)
    assert math.isfinite(bound.estimate)
    assert bound.layers == ()
    assert math.isfinite(pc.tc_bound(stack, x, importance_samples=3).estimate)
    with pytest.raises(ValueError, match="not the layers of a stack"):
        _ = terms.layers
    posts = [AggregatePosterior.from_data(stack, x, layer=i) for i in (0, -1)]
    sizes = [len(post.mutual_information()) for post in posts]
    assert sizes == [4, 2 if options["n_classes"] is None else 1]
    pc.save(stack, tmp_path / "stack.pt")
    other = LadderVAE(**options)
    pc.load(tmp_path / "stack.pt", other)
    for q, p in zip(other.encode(x), stack.encode(x), strict=True):
        torch.testing.assert_close(q.mean, p.mean, equal_nan=True)
    assert stack.model(n=5).shape == (5, D)


def test_encodings_are_those_of_the_guide(x):
    stack = LadderVAE(**CONTINUOUS)
    pyro.set_rng_seed(1)
    trace = pyro.poutine.trace(stack.guide).get_trace(x)
    pyro.set_rng_seed(1)
    for i, q in enumerate(stack.encode(x, sample=True), 1):
        torch.testing.assert_close(q.loc, trace.nodes[f"z{i}"]["fn"].loc)
        torch.testing.assert_close(q.scale, trace.nodes[f"z{i}"]["fn"].scale)
