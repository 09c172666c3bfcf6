import copy
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyro_corex import AnchorVAE, CorExELBO, CorExVAE, StackedCorEx, Warmup, anchor, latent_plate
from pyro_corex.programs import mlp_decoder, mlp_encoder

D, M = 4, 3
EXACT = {"rtol": 0, "atol": 1e-8}
pytestmark = pytest.mark.usefixtures("_float64")


class Program:
    """A linear Gaussian model and guide, with what they should give, written out.

    :param style: the latents are a plate, or event dimensions.
    :param analytic: whether there is a closed form for the KL.
    """

    def __init__(self, style: str, analytic: bool = True) -> None:
        self.style = style
        self.up = nn.Linear(D, M)
        self.down = nn.Linear(M, D)
        self.log_scale = nn.Parameter(torch.randn(M) / 4)
        self.prior = dist.Normal(torch.zeros(M), 1.5)
        if not analytic:
            self.prior = dist.StudentT(5.0, torch.zeros(M), 1.5)
        self.parameters = [*self.up.parameters(), *self.down.parameters(), self.log_scale]

    def _sample(self, fn: Any) -> Tensor:
        if self.style == "event":
            return pyro.sample("z", fn.to_event(1))
        with latent_plate("latents", M):
            return pyro.sample("z", fn)

    def _data(self, x: Tensor) -> Any:
        return pyro.plate("data", len(x), dim=-1 if self.style == "event" else -2)

    def _encode(self, x: Tensor) -> dist.Normal:
        return dist.Normal(self.up(x), self.log_scale.exp())

    def model(self, x: Tensor) -> None:
        with self._data(x):
            fn = dist.Normal(self.down(self._sample(self.prior)), 1.0)
            if self.style == "event":
                pyro.sample("x", fn.to_event(1), obs=x)
            else:
                with pyro.plate("inputs", D, dim=-1):
                    pyro.sample("x", fn, obs=x)

    def guide(self, x: Tensor) -> None:
        with self._data(x):
            self._sample(self._encode(x))

    def terms(self, x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """The reconstruction, and the KL of each latent, summed over the data."""
        pyro.set_rng_seed(seed)
        q = self._encode(x)
        z = q.rsample()
        reconstruction = dist.Normal(self.down(z), 1.0).log_prob(x).sum()
        if isinstance(self.prior, dist.Normal):
            kl = kl_divergence(q, self.prior.expand(q.batch_shape))
        else:
            kl = q.log_prob(z) - self.prior.log_prob(z)
        return reconstruction, kl.sum(0)


def loss_of(elbo: Any, program: Program, weights: Any, x: Tensor, seed: int = 3) -> Tensor:
    pyro.set_rng_seed(seed)
    model, guide = anchor(program.model, weights), anchor(program.guide, weights)
    return elbo.differentiable_loss(model, guide, x)


WEIGHTS: dict[str, Any] = {
    "one": 0.25,
    "scalar tensor": torch.tensor(0.25, dtype=torch.float64),
    "each": torch.tensor([0.25, 1.0, 3.0], dtype=torch.float64),
    "some off": torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64),
    "off": 0.0,
}


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("objective", [CorExELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("analytic", [True, False], ids=["analytic", "sampled"])
@pytest.mark.parametrize("batch", [2, M, 5])  # M: a weight must not be taken for one of the data
@pytest.mark.parametrize("style", ["plate", "event"])
def test_weighted_loss_and_gradients_by_hand(style, batch, analytic, objective, weight):
    program, x, w = Program(style, analytic), torch.randn(batch, D), WEIGHTS[weight]
    loss = loss_of(objective(), program, {"z": w}, x)
    reconstruction, kl = program.terms(x, seed=3)
    expected = (w * kl).sum() - reconstruction
    torch.testing.assert_close(loss, expected, **EXACT)
    torch.testing.assert_close(
        torch.autograd.grad(loss, program.parameters),
        torch.autograd.grad(expected, program.parameters),
        **EXACT,
    )


@pytest.mark.parametrize("analytic", [True, False], ids=["analytic", "sampled"])
@pytest.mark.parametrize("style", ["plate", "event"])
def test_terms_report_the_weight_and_the_unweighted_kl(style, analytic):
    program, x, weight = Program(style, analytic), torch.randn(M, D), WEIGHTS["some off"]
    elbo = CorExELBO()
    loss = loss_of(elbo, program, {"z": weight}, x)
    terms = elbo.last_terms
    reconstruction, kl = program.terms(x, seed=3)
    torch.testing.assert_close(terms.kl["z"], kl.detach() / M, **EXACT)
    torch.testing.assert_close(terms.kl_weight["z"], weight, **EXACT)
    assert terms.elbo * M == pytest.approx(float((reconstruction - kl.sum()).detach()))
    assert terms.objective * M == pytest.approx(-float(loss.detach()))


@pytest.mark.parametrize("style", ["plate", "event"])
def test_nested_anchors_multiply(style):
    program, x = Program(style), torch.randn(5, D)
    first, second = WEIGHTS["each"], torch.tensor([2.0, 0.5, 1.0])
    pyro.set_rng_seed(3)
    model = anchor(anchor(anchor(program.model, {"z": first}), {"z": second}), {"z": 0.5})
    guide = anchor(anchor(anchor(program.guide, {"z": first}), {"z": second}), {"z": 0.5})
    loss = CorExELBO().differentiable_loss(model, guide, x)
    expected = loss_of(CorExELBO(), program, {"z": first * second * 0.5}, x)
    torch.testing.assert_close(loss, expected, **EXACT)


def test_other_sites_are_left_alone():
    stack = StackedCorEx([(D, M), (M, 2)], n_classes=None)
    x, weights = torch.rand(5, D).round(), {"z1": torch.tensor([0.1, 0.2, 0.3])}
    elbo = CorExELBO()
    terms = elbo.terms(anchor(stack.model, weights), anchor(stack.guide, weights), x)
    assert terms.kl_weight["z1"].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert terms.kl_weight["z2"].tolist() == [1.0, 1.0]


def test_an_enumerated_site_takes_one_weight():
    stack = StackedCorEx([(D, M), (M, 2)], n_classes=2)
    x, weights = torch.rand(5, D).round(), {"z1": torch.tensor([0.5, 1.0, 0.0]), "z2": 0.25}
    elbo = CorExELBO(max_plate_nesting=2)
    pyro.set_rng_seed(3)
    plain = elbo.terms(stack.model, stack.guide, x)
    pyro.set_rng_seed(3)
    terms = elbo.terms(anchor(stack.model, weights), anchor(stack.guide, weights), x)
    torch.testing.assert_close(terms.kl, plain.kl, **EXACT)
    kl = (weights["z1"] * plain.kl["z1"]).sum() + 0.25 * plain.kl["z2"].sum()
    assert terms.objective == pytest.approx(float(plain.reconstruction["x"].sum() - kl))


# ---------------------------------------------------------------------- modules


class Module(nn.Module):
    def __init__(self, program: Program, run: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.up, self.down, self.log_scale = program.up, program.down, program.log_scale
        self.run = run

    def forward(self, x: Tensor) -> None:
        return self.run(x)


def test_a_module_stays_one():
    program, x, weights = Program("event"), torch.randn(M, D), {"z": WEIGHTS["each"]}
    model = anchor(Module(program, program.model), weights)
    guide = anchor(Module(program, program.guide), weights)
    assert isinstance(model, nn.Module)
    assert {id(p) for p in model.parameters()} == {id(p) for p in program.parameters}
    loss_fn = CorExELBO()(model, guide)
    assert {id(p) for p in loss_fn.parameters()} == {id(p) for p in program.parameters}
    pyro.set_rng_seed(3)
    expected = loss_of(CorExELBO(), program, weights, x)
    pyro.set_rng_seed(3)
    torch.testing.assert_close(loss_fn(x), expected, **EXACT)


class Sampler(pyro.nn.PyroModule):
    def __init__(self, name: str | None) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.ones(M))
        self.observed = name

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))
            if self.observed:
                pyro.sample(self.observed, dist.Normal(z, 1.0).to_event(1), obs=x)


def test_anchored_pyro_modules_train_by_svi():
    weights = {"z": torch.tensor([1.0, 0.0, 1.0])}
    model, guide = anchor(Sampler("x"), weights), anchor(Sampler(None), weights)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), CorExELBO())
    svi.step(torch.randn(M, M) + 4.0)
    assert (guide.module.loc != 1).all()
    assert (model.module.loc == 1).tolist() == [True, True, True]  # KL has its optimum there
    assert set(guide.state_dict()) == {"module.loc"}


# ---------------------------------------------------------------------- schedules


def weights_in_force(program: Program, weights: Any) -> Callable[[], list[float]]:
    elbo, x = CorExELBO(), torch.randn(M, D)
    model, guide = anchor(program.model, weights), anchor(program.guide, weights)
    return lambda: elbo.terms(model, guide, x).kl_weight["z"].tolist()


@pytest.mark.parametrize("style", ["plate", "event"])
def test_schedules(style):
    program = Program(style)

    mapping = {"z": 0.5}
    read = weights_in_force(program, mapping)
    assert read() == [0.5] * M
    mapping["z"] = 2.0
    assert read() == [2.0] * M
    mapping["z"] = torch.tensor([0.0, 1.0, 2.0])
    assert read() == [0.0, 1.0, 2.0]

    tensor = torch.tensor([0.5, 0.25, 0.125])
    read = weights_in_force(program, {"z": tensor})
    assert read() == [0.5, 0.25, 0.125]
    tensor[1] = 4.0
    assert read() == [0.5, 4.0, 0.125]
    tensor.fill_(0.0)
    assert read() == [0.0] * M

    step = 0
    read = weights_in_force(program, {"z": lambda: step / 4})
    step = 1
    assert read() == [0.25] * M
    step = 3
    assert read() == [0.75] * M

    warmup = Warmup(0.0, 1.0, steps=4)
    read = weights_in_force(program, {"z": warmup})
    seen = []
    for _ in range(6):
        seen.append(read()[0])
        warmup.step()
    assert seen == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_warmup():
    warmup = Warmup(2.0, 1.0, steps=2)
    assert warmup() == 2.0
    warmup.step()
    assert warmup() == 1.5
    assert repr(warmup) == "Warmup(2 -> 1 in 2 steps, now 1.5)"
    for _ in range(5):
        warmup.step()
    assert warmup() == 1.0


def test_a_schedule_in_training():
    """With the weight at 0 the scale of the guide shrinks without a limit; at 1 it does not."""
    program, x = Program("plate"), torch.randn(50, D)
    warmup = Warmup(0.0, 1.0, steps=3)
    weights = {"z": warmup}
    model, guide = anchor(program.model, weights), anchor(program.guide, weights)
    elbo = CorExELBO()
    gradients = []
    for _ in range(4):
        pyro.set_rng_seed(3)
        loss = elbo.differentiable_loss(model, guide, x)
        gradients.append(torch.autograd.grad(loss, program.log_scale)[0])
        warmup.step()
    reconstruction, kl = program.terms(x, seed=3)
    free = torch.autograd.grad(-reconstruction, program.log_scale, retain_graph=True)[0]
    pressure = torch.autograd.grad(kl.sum(), program.log_scale)[0]
    for step, gradient in enumerate(gradients):
        torch.testing.assert_close(gradient, free + step / 3 * pressure, **EXACT)


# ---------------------------------------------------------------------- ready-made programs


def networks() -> tuple[nn.Module, nn.Module]:
    return mlp_encoder([D, 5, M]), mlp_decoder([M, 5, D])


@pytest.mark.parametrize("prior", ["standard_normal", "learned_mixture"])
@pytest.mark.parametrize("batch", [1, M, D, 5])
def test_anchor_vae_is_an_anchored_corex_vae(prior, batch):
    encoder, decoder = networks()
    anchored = AnchorVAE(encoder, decoder, M, anchors={0: 0.5, 2: 0.0}, prior=prior)
    plain = CorExVAE(encoder, decoder, M, prior=prior)
    x, weights = torch.rand(batch, D).round(), {"z": torch.tensor([0.5, 1.0, 0.0])}
    parameters = [*encoder.parameters(), *decoder.parameters()]
    results = []
    for model, guide in (
        (anchored.model, anchored.guide),
        (anchor(plain.model, weights), anchor(plain.guide, weights)),
    ):
        pyro.set_rng_seed(3)
        elbo = CorExELBO()
        loss = elbo.differentiable_loss(model, guide, x)
        terms = elbo.last_terms
        results.append(
            (loss, torch.autograd.grad(loss, parameters), terms.kl["z"], terms.kl_weight["z"])
        )
    torch.testing.assert_close(results[0], results[1], **EXACT)
    assert results[0][3].tolist() == [0.5, 1.0, 0.0]


@pytest.mark.parametrize("how", ["anchor", "AnchorVAE"])
def test_one_weight_for_every_latent_is_beta_vae(how):
    beta, x = 4.0, torch.rand(5, D).round()
    encoder, decoder = networks()
    if how == "anchor":
        vae = CorExVAE(encoder, decoder, M)
        model, guide = anchor(vae.model, {"z": beta}), anchor(vae.guide, {"z": beta})
    else:
        vae = AnchorVAE(encoder, decoder, M, anchors={}, free_weight=beta)
        model, guide = vae.model, vae.guide
    pyro.set_rng_seed(3)
    loss = CorExELBO().differentiable_loss(model, guide, x)
    pyro.set_rng_seed(3)
    loc, log_scale = encoder(x).chunk(2, -1)
    logits = decoder(loc + log_scale.exp() * torch.randn(5, M))
    kl = 0.5 * (loc**2 + (2 * log_scale).exp() - 1) - log_scale
    cost = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    torch.testing.assert_close(loss, cost + beta * kl.sum(), **EXACT)


def test_set_anchors_changes_the_loss_without_rebuilding():
    vae = AnchorVAE(*networks(), M, anchors={0: 0.5})
    x, elbo = torch.rand(5, D).round(), CorExELBO()
    assert elbo.terms(vae.model, vae.guide, x).kl_weight["z"].tolist() == [0.5, 1.0, 1.0]
    vae.set_anchors({1: 0.25}, free_weight=2.0)
    assert elbo.terms(vae.model, vae.guide, x).kl_weight["z"].tolist() == [2.0, 0.25, 2.0]
    assert repr(vae).startswith("AnchorVAE(\n  anchors={1: 0.25}")


def test_a_copy_has_weights_of_its_own():
    vae = AnchorVAE(*networks(), M, anchors={0: 0.5})
    copied = copy.deepcopy(vae)
    copied.set_anchors({})
    assert vae.kl_weights.tolist() == [0.5, 1.0, 1.0]
    assert copied.kl_weights.tolist() == [1.0, 1.0, 1.0]


@settings(max_examples=20, deadline=None)
@given(
    weights=st.lists(st.floats(0, 8), min_size=M, max_size=M),
    batch=st.integers(1, 5),
    style=st.sampled_from(["plate", "event"]),
)
def test_the_objective_is_the_weighted_sum_of_the_terms(weights, batch, style):
    program, x = Program(style), torch.randn(batch, D)
    weight = torch.tensor(weights)
    elbo = CorExELBO()
    loss = float(loss_of(elbo, program, {"z": weight}, x).detach())
    terms = elbo.last_terms
    assert terms.num_data == batch
    expected = float(terms.reconstruction["x"].sum() - (weight * terms.kl["z"]).sum())
    assert -loss / batch == pytest.approx(expected, abs=1e-8)
    assert terms.objective == pytest.approx(expected, abs=1e-8)


# ---------------------------------------------------------------------- weights that miss


@pytest.mark.parametrize("name", ["zz", "x"], ids=["unknown site", "observed site"])
def test_a_weight_that_reaches_no_latent_is_refused(name):
    program = Program("plate")
    with pytest.raises(ValueError, match=f"{name!r}.*no latent site"):
        anchor(program.guide, {name: 0.5})(torch.randn(M, D))


def _autoguided(y):
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 0.5), obs=y)


@pytest.mark.parametrize("ran", [False, True])
def test_an_autonormal_has_the_weight_on_its_whole_kl(ran):
    y, weights = torch.linspace(-1.0, 1.0, 5), {"z": 0.25}
    guide = pyro.infer.autoguide.AutoNormal(_autoguided, init_scale=0.4)
    if ran:
        guide(y)
    anchored = anchor(guide, weights)
    pyro.set_rng_seed(0)
    trace = pyro.poutine.trace(anchored).get_trace(y)
    z = trace.nodes["z"]["value"]
    q = dist.Normal(guide.locs.z, guide.scales.z).log_prob(z).sum()
    assert torch.allclose(trace.log_prob_sum(), 0.25 * q)
    assert anchored.module is guide


def _two_latents(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.LogNormal(0.0, 1.0))
    pyro.sample("y", dist.Normal(a, b), obs=y)


JOINT = ["AutoDiagonalNormal", "AutoMultivariateNormal", "AutoLowRankMultivariateNormal"]


@pytest.mark.parametrize("kind", JOINT)
def test_an_autoguide_that_draws_all_at_once_has_one_weight_for_all(kind):
    guide, y = getattr(pyro.infer.autoguide, kind)(_two_latents), torch.tensor(0.5)
    guide(y)  # what it draws to set itself up
    sums = []
    for program in (guide, anchor(guide, {"a": 0.25, "b": 0.25})):
        pyro.set_rng_seed(0)
        sums.append(pyro.poutine.trace(program).get_trace(y).log_prob_sum())
    assert torch.allclose(sums[1], 0.25 * sums[0])


@pytest.mark.parametrize("kind", JOINT)
@pytest.mark.parametrize(
    "weights", [{"a": 0.5}, {"a": 0.5, "b": 1.0}, {"a": torch.tensor([0.5]), "b": 0.5}]
)
def test_an_autoguide_that_draws_all_at_once_has_no_weight_for_each(kind, weights):
    guide = getattr(pyro.infer.autoguide, kind)(_two_latents)
    with pytest.raises(ValueError, match=r"one and the same number.*With AutoNormal"):
        anchor(guide, weights)(torch.tensor(0.5))
