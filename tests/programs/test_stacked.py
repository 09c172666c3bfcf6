import copy
from math import log
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, config_enumerate
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.functional import log_softmax, one_hot, softplus

from pyro_corex import AggregatePosterior, CorExELBO, Layer, StackedCorEx
from pyro_corex.programs import CategoricalLikelihood, conv_decoder, conv_encoder, mlp

B, D, M1, M2, K = 5, 6, 3, 2, 4
EXACT = {"rtol": 0, "atol": 1e-8}


def make_stack(**options: Any) -> StackedCorEx:
    """One continuous layer under K classes."""
    return StackedCorEx([(D, 7, M1), (M1, 5, K)], n_classes=K, **options)


def make_continuous(n_layers: int, **options: Any) -> StackedCorEx:
    sizes = [(D, 7, M1), (M1, 5, M2), (M2, 2)][:n_layers]
    return StackedCorEx(sizes, n_classes=None, **options)


def binary(*shape: int) -> Tensor:
    return torch.rand(shape).round()


def train(stack: StackedCorEx, x: Tensor, steps: int, lr: float = 0.01) -> None:
    svi = SVI(stack.model, stack.guide, pyro.optim.Adam({"lr": lr}), CorExELBO())
    for _ in range(steps):
        svi.step(x)


def values(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------------- sites and shapes


def test_sites_plates_and_shapes():
    stack, x = make_stack(), binary(B, D)
    guide = poutine.trace(stack.guide).get_trace(x)
    model = poutine.trace(poutine.replay(stack.model, trace=guide)).get_trace(x)
    for trace in (guide, model):
        z1, z2 = trace.nodes["z1"], trace.nodes["z2"]
        assert z1["value"].shape == (B, M1)
        assert {(f.name, f.dim) for f in z1["cond_indep_stack"]} == {
            ("data", -2),
            ("latents_1", -1),
        }
        assert z2["value"].shape == (B, 1)
        assert {(f.name, f.dim) for f in z2["cond_indep_stack"]} == {("data", -2)}
        assert z2["infer"]["enumerate"] == "parallel"
    assert list(guide.nodes).index("z1") < list(guide.nodes).index("z2")
    assert list(model.nodes).index("z2") < list(model.nodes).index("z1")
    assert model.nodes["x"]["fn"].batch_shape == (B, D)
    assert stack.n_layers == 2


def test_terms_of_a_discrete_top():
    stack, x = make_stack(), binary(B, D)
    terms = CorExELBO().terms(stack.model, stack.guide, x)
    assert terms.reconstruction["x"].shape == (D,)
    assert terms.kl["z1"].shape == (M1,)
    assert terms.kl["z2"].numel() == 1
    assert terms.num_data == B


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("particles", [1, 2])
def test_terms_of_continuous_layers(n_layers, particles):
    stack, x = make_continuous(n_layers), binary(B, D)
    terms = CorExELBO(particles, particles > 1).terms(stack.model, stack.guide, x)
    assert {name: kl.shape for name, kl in terms.kl.items()} == {
        f"z{i}": (m,) for i, m in enumerate(stack.dims, 1)
    }
    assert terms.reconstruction["x"].shape == (D,)


def test_one_discrete_layer_is_a_mixture_model():
    stack, x = StackedCorEx([(D, K)], n_classes=K), binary(B, D)
    terms = CorExELBO().terms(stack.model, stack.guide, x)
    assert terms.reconstruction["x"].shape == (D,)
    assert set(terms.kl) == {"z1"}
    assert stack.decode(torch.arange(K)).batch_shape == (K, D)
    assert stack.encode(x)[0].batch_shape == (B,)


def test_encode():
    stack, x = make_stack(), binary(B, D)
    q1, q2 = stack.encode(x)
    assert isinstance(q1, dist.Normal)
    assert isinstance(q2, dist.Categorical)
    assert q1.batch_shape == (B, M1)
    assert q2.batch_shape == (B,)
    torch.testing.assert_close(q2.probs, stack.encoders[1](q1.loc).softmax(-1))
    torch.testing.assert_close(stack(x)[1].probs, q2.probs)
    pyro.set_rng_seed(3)
    sampled = stack.encode(x, sample=True)[1].probs
    pyro.set_rng_seed(3)
    torch.testing.assert_close(sampled, stack.encoders[1](q1.sample()).softmax(-1))


def test_decode_from_every_layer():
    stack = make_stack()
    classes = torch.tensor([2, 0, 3, 3, 1])
    decoded = stack.decode(classes)
    assert decoded.batch_shape == (5, D)
    z1 = stack.decoders[1](one_hot(classes, K).float())[:, :M1]
    torch.testing.assert_close(decoded.probs, stack.decoders[0](z1).sigmoid())
    torch.testing.assert_close(stack.decode(z1, layer=1).probs, decoded.probs)
    torch.testing.assert_close(stack.decode(classes[:, None]).probs, decoded.probs)
    three = make_continuous(3)
    for layer, m in enumerate(three.dims, 1):
        assert three.decode(torch.zeros(7, m), layer=layer).batch_shape == (7, D)


@pytest.mark.parametrize("particles", [1, 2])
def test_images_and_layers_of_the_user(particles):
    shape = (1, 8, 8)
    stack = StackedCorEx(
        [
            Layer(conv_encoder(shape, M1, (4,)), conv_decoder(M1, shape, (4,)), M1),
            Layer(mlp([M1, K]), mlp([K, 2 * M1]), K),
        ],
        n_classes=K,
    )
    x = binary(B, *shape)
    assert stack.decode(stack.encode(x)[1].sample()).batch_shape == (B, *shape)
    terms = CorExELBO(particles, particles > 1).terms(stack.model, stack.guide, x)
    assert terms.reconstruction["x"].shape == (64,)
    assert terms.kl["z1"].shape == (M1,)


class Pair(nn.Module):
    """A network that returns (loc, scale)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.loc, self.scale = nn.Linear(n_in, n_out), nn.Linear(n_in, n_out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.loc(x), softplus(self.scale(x))


@pytest.mark.parametrize("particles", [1, 2])
def test_networks_may_return_loc_and_scale(particles):
    layers = [
        Layer(Pair(D, M1), nn.Linear(M1, D), M1),
        Layer(Pair(M1, M2), Pair(M2, M1), M2),
        Layer(nn.Linear(M2, K), Pair(K, M2), K),
    ]
    stack = StackedCorEx(layers, n_classes=K)
    elbo = CorExELBO(particles, vectorize_particles=particles > 1, max_plate_nesting=2)
    elbo.differentiable_loss(stack.model, stack.guide, binary(B, D)).backward()
    assert all((p.grad != 0).any() for p in stack.parameters())


def test_categorical_likelihood():
    stack = make_stack(likelihood=CategoricalLikelihood(5))
    x = torch.randint(5, (B, D)).float()
    assert stack.decode(torch.arange(K)).batch_shape == (K, D)
    terms = CorExELBO().terms(stack.model, stack.guide, x)
    assert terms.reconstruction["x"].shape == (D,)


def test_the_papers_network_in_one_line():
    stack = StackedCorEx([(784, 512, 512, 64), (64, 32, 32, 16, 16, 10)])

    def sizes(network: nn.Module) -> list[tuple[int, int]]:
        linear = (m for m in network.modules() if isinstance(m, nn.Linear))
        return [(m.in_features, m.out_features) for m in linear]

    assert sizes(stack.encoders[0]) == [(784, 512), (512, 512), (512, 2 * 64)]
    assert sizes(stack.encoders[1]) == [(64, 32), (32, 32), (32, 16), (16, 16), (16, 10)]
    assert sizes(stack.decoders[1]) == [(10, 16), (16, 16), (16, 32), (32, 32), (32, 2 * 64)]
    assert sizes(stack.decoders[0]) == [(64, 512), (512, 512), (512, 784)]
    activations = [m for m in stack.modules() if isinstance(m, nn.ReLU)]
    assert len(activations) == 2 + 4 + 4 + 2
    assert repr(stack).startswith("StackedCorEx(\n  layers=[64, 10], 10 classes on top")


# ---------------------------------------------------------------------- the loss


def gaussian(output: Tensor) -> Normal:
    loc, log_scale = output.chunk(2, dim=-1)
    return Normal(loc, log_scale.exp())


def reconstruction(stack: StackedCorEx, x: Tensor, z1: Tensor) -> Tensor:
    logits = stack.decoders[0](z1)
    return x * logits - softplus(logits)


def discrete_terms(stack: StackedCorEx, x: Tensor, eps: Tensor) -> dict[str, Tensor]:
    """The terms of two layers with K classes on top, summed over the data."""
    q1 = gaussian(stack.encoders[0](x))
    z1 = q1.loc + q1.scale * eps
    log_q2 = log_softmax(stack.encoders[1](z1), -1)
    log_r = log_softmax(stack.prior.logits.squeeze(0), -1)
    below = gaussian(stack.decoders[1](torch.eye(K)))  # p(z1 | z2 = k)
    log_p1 = (log_q2.exp()[:, :, None] * below.log_prob(z1[:, None])).sum(1)
    return {
        "x": reconstruction(stack, x, z1).sum(0),
        "z1": (q1.log_prob(z1) - log_p1).sum(0),
        "z2": (log_q2.exp() * (log_q2 - log_r)).sum(),
    }


@pytest.mark.usefixtures("_float64")
def test_a_discrete_top_equals_the_hand_written_sum_over_classes():
    stack, x = make_stack(), binary(B, D)
    with torch.no_grad():
        stack.prior.logits.copy_(torch.randn(1, K))
    pyro.set_rng_seed(7)
    elbo = CorExELBO(max_plate_nesting=2)
    loss = elbo.differentiable_loss(stack.model, stack.guide, x)
    pyro.set_rng_seed(7)
    expected = discrete_terms(stack, x, torch.randn(B, M1))
    total = expected["z1"].sum() + expected["z2"] - expected["x"].sum()
    torch.testing.assert_close(loss, total, **EXACT)
    parameters = list(stack.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(total, parameters), **EXACT
    )
    terms = elbo.last_terms
    for name, got in {**terms.reconstruction, **terms.kl}.items():
        torch.testing.assert_close(got * B, expected[name].detach().view_as(got), **EXACT)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_continuous_layers_equal_a_hand_written_stack(n_layers):
    stack, x = make_continuous(n_layers, prior="learned_normal"), binary(B, D)
    with torch.no_grad():
        stack.prior.loc.normal_()
    pyro.set_rng_seed(7)
    elbo = CorExELBO()
    loss = elbo.differentiable_loss(stack.model, stack.guide, x)
    pyro.set_rng_seed(7)
    q, z = [], [x]
    for encoder, m in zip(stack.encoders, stack.dims, strict=True):
        q.append(gaussian(encoder(z[-1])))
        z.append(q[-1].loc + q[-1].scale * torch.randn(B, m))
    expected = {}
    for layer in range(1, n_layers):  # p(z_l | z_{l+1}): the log-ratio at the sample
        below = gaussian(stack.decoders[layer](z[layer + 1]))
        expected[f"z{layer}"] = q[layer - 1].log_prob(z[layer]) - below.log_prob(z[layer])
    prior = Normal(stack.prior.loc, stack.prior.log_scale.exp())
    expected[f"z{n_layers}"] = torch.distributions.kl_divergence(q[-1], prior)  # in closed form
    total = sum(kl.sum() for kl in expected.values()) - reconstruction(stack, x, z[1]).sum()
    torch.testing.assert_close(loss, total, **EXACT)
    parameters = list(stack.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(total, parameters), **EXACT
    )
    for name, kl in elbo.last_terms.kl.items():
        torch.testing.assert_close(kl, expected[name].detach().mean(0), **EXACT)


@pytest.mark.usefixtures("_float64")
def test_the_loss_does_not_depend_on_how_the_classes_are_summed():
    """Pyro's own enumeration, and the mean over every class put in by hand."""
    stack, x = make_stack(), binary(B, D)
    losses = []
    for elbo in (CorExELBO(max_plate_nesting=2), pyro.infer.TraceEnum_ELBO(max_plate_nesting=2)):
        pyro.set_rng_seed(7)
        losses.append(elbo.loss(stack.model, config_enumerate(stack.guide), x))
    assert losses[0] == pytest.approx(losses[1], abs=1e-8)


@pytest.mark.parametrize("prior", ["learned_normal", "learned_mixture"])
def test_a_learned_prior_of_the_top_receives_gradients(prior):
    stack = make_continuous(2, prior=prior)
    CorExELBO().differentiable_loss(stack.model, stack.guide, binary(B, D)).backward()
    assert all((p.grad != 0).any() for p in stack.prior.parameters())


def test_class_probabilities_are_learned():
    stack = make_stack()
    elbo = CorExELBO(max_plate_nesting=2)
    elbo.differentiable_loss(stack.model, stack.guide, binary(B, D)).backward()
    assert (stack.prior.logits.grad != 0).all()


# ---------------------------------------------------------------------- parameters


@pytest.mark.parametrize("make", [make_stack, lambda: make_continuous(3)])
@pytest.mark.parametrize("copied", [False, True])
def test_instances_do_not_share_parameters(make, copied):
    first, x = make(), binary(B, D)
    train(first, x, steps=1)
    second = copy.deepcopy(first) if copied else make()
    train(second, x, steps=1)
    first_before, second_before = values(first), values(second)
    train(first, x, steps=2)
    assert not same(values(first), first_before)
    assert same(values(second), second_before)
    first_before = values(first)
    train(second, x, steps=2)
    assert not same(values(second), second_before)
    assert same(values(first), first_before)


@pytest.mark.parametrize("make", [make_stack, lambda: make_continuous(3, prior="learned_mixture")])
def test_svi_trains_every_parameter_and_the_state_round_trips(make, tmp_path):
    stack, x = make(), binary(B, D)
    before = values(stack)
    train(stack, x, steps=3)
    after = values(stack)
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    torch.save(stack.state_dict(), tmp_path / "stack.pt")
    loaded = make()
    loaded.load_state_dict(torch.load(tmp_path / "stack.pt", weights_only=True))
    assert same(values(loaded), after)


# ---------------------------------------------------------------------- learning


@pytest.mark.parametrize("seed", [0, 1])
def test_the_top_finds_two_clusters(seed):
    pyro.set_rng_seed(seed)
    label = torch.arange(64) % 2
    x = (label[:, None] ^ (torch.rand(64, 32) < 0.02)).float()
    stack = StackedCorEx([(32, 8), (8, K)], n_classes=K)
    train(stack, x, steps=80, lr=0.05)
    with torch.no_grad():
        joint = torch.stack([stack.encode(x)[1].probs[label == c].mean(0) / 2 for c in (0, 1)])
    independent = joint.sum(0) * joint.sum(1, keepdim=True)
    information = float(torch.xlogy(joint, joint / independent).sum())
    assert information > 0.8 * log(2)  # nats


@pytest.mark.parametrize("seed", range(10))
def test_narrow_untrained_stacks_are_finite(seed):
    """Layers feed layers: without a limit, a log-scale of 100 comes about in a few steps."""
    torch.manual_seed(seed)
    program = StackedCorEx([(12, 4), (4, 3), (3, 2)], likelihood="normal", n_classes=None)
    loss = CorExELBO().differentiable_loss(program.model, program.guide, 3 * torch.randn(500, 12))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in program.parameters() if p.grad is not None)


# ---------------------------------------------------------------------- information of a layer


class _Affine(torch.nn.Module):
    """A linear encoder with fixed noise."""

    def __init__(self, slope, scale):
        super().__init__()
        self.slope, self.scale = slope, scale

    def forward(self, x):
        loc = x * self.slope
        return torch.cat([loc, torch.full_like(loc, self.scale).log()], -1)


def test_information_of_an_upper_layer_is_that_of_draws_of_the_layer_below():
    """A linear-Gaussian stack: z1 = x + N(0, 1), z2 = z1 + N(0, 0.1), x ~ N(0, 1).

    At the mean of z1 the upper layer would be told ln(1 + 1 / 0.01) / 2 = 2.31 nats; from draws of
    it, whose variance is 2, it is told ln(1 + 2 / 0.01) / 2 = 2.65, and the KL is not less.
    """
    x = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    lower = Layer(_Affine(1.0, 1.0), torch.nn.Linear(1, 1), 1)
    upper = Layer(_Affine(1.0, 0.1), torch.nn.Linear(1, 2), 1)
    stack = StackedCorEx([lower, upper], likelihood="learned_normal", n_classes=None)
    state = torch.get_rng_state()
    first, again, other = (
        AggregatePosterior.from_data(stack, x, layer=1, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    error = float(first.mutual_information_stderr())
    assert float(first.mutual_information()) == pytest.approx(
        0.5 * log(1 + 2 / 0.01), abs=4 * error + 0.02
    )
    assert torch.equal(first.mean, again.mean)
    assert not torch.equal(first.mean, other.mean)
    kl = float(CorExELBO().terms(stack.model, stack.guide, x).kl["z2"])
    assert float(first.mutual_information()) <= kl + 4 * error
    below = AggregatePosterior.from_data(stack, x, layer=0)
    assert float(below.mutual_information()) == pytest.approx(0.5 * log(2), abs=0.05)
