import copy
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from pyro_corex import AnchorVAE, CorExELBO, CorExVAE
from pyro_corex.programs import (
    CategoricalLikelihood,
    LearnedNormalLikelihood,
    NormalLikelihood,
    conv_decoder,
    conv_encoder,
    mlp_decoder,
    mlp_encoder,
)

B, D, M = 5, 6, 3


def make_vae(**options: Any) -> CorExVAE:
    return CorExVAE(mlp_encoder([D, 7, M]), mlp_decoder([M, 7, D]), M, **options)


def binary(*shape: int) -> Tensor:
    return torch.rand(shape).round()


def train(vae: CorExVAE, x: Tensor, steps: int = 3) -> None:
    optim = pyro.optim.AdamW({"lr": 0.01, "weight_decay": 0.1})  # moves all that it is given
    svi = SVI(vae.model, vae.guide, optim, CorExELBO())
    for _ in range(steps):
        svi.step(x)


def values(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------------- sites and shapes


def test_sites_plates_and_shapes():
    vae, x = make_vae(), binary(B, D)
    guide = poutine.trace(vae.guide).get_trace(x)
    model = poutine.trace(poutine.replay(vae.model, trace=guide)).get_trace(x)
    assert set(guide.stochastic_nodes) - {"data", "latents"} == {"z"}
    assert set(model.observation_nodes) == {"x"}
    for trace in (guide, model):
        z = trace.nodes["z"]
        assert z["value"].shape == z["fn"].batch_shape == (B, M)
        assert {(f.name, f.dim) for f in z["cond_indep_stack"]} == {("data", -2), ("latents", -1)}
    observed = model.nodes["x"]
    assert observed["fn"].batch_shape == (B, D)
    assert {(f.name, f.dim) for f in observed["cond_indep_stack"]} == {("data", -2), ("inputs", -1)}


def test_terms_have_one_value_per_dimension():
    vae, x = make_vae(), binary(B, D)
    terms = CorExELBO().terms(vae.model, vae.guide, x)
    assert terms.kl["z"].shape == terms.kl_weight["z"].shape == (M,)
    assert terms.reconstruction["x"].shape == (D,)
    assert terms.num_data == B


@pytest.mark.parametrize("batch", [1, M, D])
def test_terms_keep_their_shapes_where_sizes_coincide(batch):
    vae = make_vae()
    terms = CorExELBO().terms(vae.model, vae.guide, binary(batch, D))
    assert terms.kl["z"].shape == (M,)
    assert terms.reconstruction["x"].shape == (D,)
    assert terms.num_data == batch


def test_encode_and_decode_shapes():
    vae, x = make_vae(), binary(B, D)
    q = vae.encode(x)
    assert isinstance(q, dist.Normal)
    assert q.batch_shape == (B, M)
    assert q.event_shape == ()
    torch.testing.assert_close(vae(x).loc, q.loc)
    assert vae.decode(q.loc).batch_shape == (B, D)
    assert vae.decode(torch.zeros(11, M)).mean.shape == (11, D)


IMAGE = (2, 8, 8)
IMAGE_NETWORKS: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
    "mlp": lambda: (mlp_encoder([128, M]), mlp_decoder([M, 128], shape=IMAGE)),
    "conv": lambda: (conv_encoder(IMAGE, M, (4, 4)), conv_decoder(M, IMAGE, (4, 4))),
}


@pytest.mark.parametrize("networks", IMAGE_NETWORKS)
@pytest.mark.parametrize("vectorised", [False, True])
def test_images(networks, vectorised):
    vae, x = CorExVAE(*IMAGE_NETWORKS[networks](), M), binary(B, *IMAGE)
    assert vae.decode(vae.encode(x).loc).batch_shape == (B, *IMAGE)
    terms = CorExELBO(2, vectorised).terms(vae.model, vae.guide, x)
    assert terms.reconstruction["x"].shape == (128,)
    assert terms.kl["z"].shape == (M,)


def test_channels_last_weights_are_trained():
    vae = CorExVAE(*IMAGE_NETWORKS["conv"](), M).to(memory_format=torch.channels_last)
    before = values(vae)
    train(vae, binary(B, *IMAGE))
    after = values(vae)
    assert not any(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("shape", [(D,), (2, 3)])
def test_categorical_likelihood(shape):
    n = 4
    vae = CorExVAE(
        mlp_encoder([D, M]),
        mlp_decoder([M, D], n_params=n, shape=shape),
        M,
        likelihood=CategoricalLikelihood(n),
    )
    x = torch.randint(n, (B, *shape)).float()
    decoded = vae.decode(torch.zeros(B, M))
    assert decoded.batch_shape == (B, *shape)
    assert decoded.enumerate_support().shape == (n, B, *shape)
    for particles in (1, 2):
        terms = CorExELBO(particles, particles > 1).terms(vae.model, vae.guide, x)
        assert terms.reconstruction["x"].shape == (D,)
        assert (terms.reconstruction["x"] < 0).all()


@pytest.mark.parametrize("shape", [(D,), (2, 3)])
def test_learned_scale_for_each_input_dimension(shape):
    decoder = mlp_decoder([M, D], shape=shape)
    vae = CorExVAE(mlp_encoder([D, M]), decoder, M, likelihood=LearnedNormalLikelihood(shape))
    x = torch.randn(B, *shape)
    assert vae.decode(torch.zeros(B, M)).batch_shape == (B, *shape)
    CorExELBO().differentiable_loss(vae.model, vae.guide, x).backward()
    assert vae.likelihood.log_scale.grad.shape == shape
    assert (vae.likelihood.log_scale.grad != 0).all()


# ---------------------------------------------------------------------- the loss


def loss_by_hand(vae: CorExVAE, x: Tensor, eps: Tensor) -> Tensor:
    """-Σ ln q(x_i|z) + Σ KL(q(z_j|x) || N(0, 1)), averaged over the particles of ``eps``."""
    loc, log_scale = vae.encoder(x).chunk(2, dim=-1)
    z = loc + log_scale.exp() * eps
    kl = 0.5 * (loc**2 + (2 * log_scale).exp() - 1) - log_scale
    logits = vae.decoder(z)
    cost = binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
    return cost.sum((-1, -2)).mean() + kl.sum()


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("particles", [1, 3])
def test_loss_and_gradients_equal_a_hand_written_vae(particles):
    vae, x = make_vae(), binary(B, D)
    elbo = CorExELBO(particles, vectorize_particles=particles > 1, max_plate_nesting=2)
    pyro.set_rng_seed(7)
    loss = elbo.differentiable_loss(vae.model, vae.guide, x)
    pyro.set_rng_seed(7)
    expected = loss_by_hand(vae, x, torch.randn(particles, B, M))
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-8)
    parameters = list(vae.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(loss, parameters),
        torch.autograd.grad(expected, parameters),
        rtol=0,
        atol=1e-8,
    )


@pytest.mark.usefixtures("_float64")
def test_terms_equal_the_hand_written_parts():
    vae, x = make_vae(), binary(B, D)
    pyro.set_rng_seed(7)
    terms = CorExELBO().terms(vae.model, vae.guide, x)
    pyro.set_rng_seed(7)
    loc, log_scale = vae.encoder(x).detach().chunk(2, dim=-1)
    logits = vae.decoder(loc + log_scale.exp() * torch.randn(B, M)).detach()
    kl = 0.5 * (loc**2 + (2 * log_scale).exp() - 1) - log_scale
    exact = {"rtol": 0, "atol": 1e-10}
    torch.testing.assert_close(terms.kl["z"], kl.mean(0), **exact)
    log_prob = x * logits - softplus(logits)
    torch.testing.assert_close(terms.reconstruction["x"], log_prob.mean(0), **exact)
    assert terms.elbo == pytest.approx(float(log_prob.mean(0).sum() - kl.mean(0).sum()))


def test_vectorised_particles_have_a_sample_each():
    vae, x = make_vae(), binary(B, D)
    shapes = []
    vae.decoder.register_forward_pre_hook(lambda _, args: shapes.append(args[0].unique(dim=0)))
    elbo = CorExELBO(4, vectorize_particles=True, max_plate_nesting=2)
    terms = elbo.terms(vae.model, vae.guide, x)
    assert [len(s) for s in shapes] == [4 * B]
    assert terms.num_data == B
    assert terms.kl["z"].shape == (M,)


# ---------------------------------------------------------------------- networks of the user


class TwoHeads(nn.Module):
    """An encoder that returns (loc, scale) itself."""

    def __init__(self, as_list: bool = False) -> None:
        super().__init__()
        self.loc, self.scale = nn.Linear(D, M), nn.Linear(D, M)
        self.as_list = as_list

    def forward(self, x: Tensor) -> Any:
        pair = self.loc(x), softplus(self.scale(x))
        return list(pair) if self.as_list else pair


@pytest.mark.parametrize("as_list", [False, True])
def test_encoder_may_return_loc_and_scale(as_list):
    encoder, x = TwoHeads(as_list), binary(B, D)
    vae = CorExVAE(encoder, mlp_decoder([M, D]), M)
    q = vae.encode(x)
    torch.testing.assert_close(q.loc, encoder.loc(x))
    torch.testing.assert_close(q.scale, softplus(encoder.scale(x)))
    CorExELBO().differentiable_loss(vae.model, vae.guide, x).backward()
    assert all((p.grad != 0).any() for p in vae.parameters())


def test_frozen_parameters_are_left_alone():
    vae, x = make_vae(), binary(B, D)
    vae.decoder.requires_grad_(False)
    frozen, encoder = values(vae.decoder), values(vae.encoder)
    train(vae, x)
    assert same(values(vae.decoder), frozen)
    assert not same(values(vae.encoder), encoder)


# ---------------------------------------------------------------------- Pyro's parameter store


@pytest.mark.parametrize("copies", ["two instances", "deepcopy", "deepcopy after training"])
def test_instances_do_not_share_parameters(copies):
    def make() -> CorExVAE:
        return make_vae(prior="learned_mixture", likelihood="learned_normal")

    first, x = make(), binary(B, D)
    if copies == "deepcopy after training":
        train(first, x)
    second = make() if copies == "two instances" else copy.deepcopy(first)
    for vae in (first, second):  # makes both known to the store
        train(vae, x, steps=1)
    first_before, second_before = values(first), values(second)
    train(first, x)
    assert not same(values(first), first_before)
    assert same(values(second), second_before)
    first_before = values(first)
    train(second, x)
    assert not same(values(second), second_before)
    assert same(values(first), first_before)


def test_the_store_holds_each_parameter_once():
    vae, x = make_vae(prior="learned_normal", likelihood="learned_normal"), binary(B, D)
    train(vae, x)
    stored = [pyro.param(name) for name in pyro.get_param_store()]
    assert len(stored) == len(list(vae.parameters()))
    assert {id(p) for p in stored} == {id(p) for p in vae.parameters()}


def test_svi_trains_every_parameter():
    vae, x = make_vae(prior="learned_mixture", likelihood="learned_normal"), torch.randn(B, D)
    before = values(vae)
    train(vae, x)
    after = values(vae)
    unchanged = [name for name in before if torch.equal(before[name], after[name])]
    assert unchanged == []


@pytest.mark.parametrize("prior", ["standard_normal", "learned_normal", "learned_mixture"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "learned_normal"])
def test_state_dict_round_trip(prior, likelihood, tmp_path):
    trained, x = make_vae(prior=prior, likelihood=likelihood), binary(B, D)
    train(trained, x)
    torch.save(trained.state_dict(), tmp_path / "vae.pt")
    loaded = make_vae(prior=prior, likelihood=likelihood)
    assert not same(values(loaded), values(trained))
    loaded.load_state_dict(torch.load(tmp_path / "vae.pt", weights_only=True))
    assert same(values(loaded), values(trained))
    losses = []
    for vae in (trained, loaded):
        pyro.set_rng_seed(1)
        losses.append(CorExELBO().loss(vae.model, vae.guide, x))
    assert losses[0] == losses[1]


def test_anchor_weights_are_part_of_the_state():
    def make(anchors):
        return AnchorVAE(mlp_encoder([D, M]), mlp_decoder([M, D]), M, anchors=anchors)

    saved, loaded = make({0: 0.5}), make({})
    loaded.load_state_dict(saved.state_dict())
    assert loaded.kl_weights.tolist() == [0.5, 1.0, 1.0]


# ---------------------------------------------------------------------- learning


def test_training_raises_the_bound():
    pyro.set_rng_seed(0)
    x = binary(64, 1).expand(64, D).contiguous()  # TC(x) = (D - 1) ln 2
    vae = make_vae()
    elbo = CorExELBO()
    before = elbo.terms(vae.model, vae.guide, x).elbo
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.05}), elbo)
    for _ in range(200):
        svi.step(x)
    after = elbo.terms(vae.model, vae.guide, x).elbo
    assert before < -0.9 * D * 0.6931
    assert after > -0.5 * D * 0.6931


def test_print_shows_what_it_is():
    vae = make_vae(likelihood=NormalLikelihood(0.5), prior="learned_mixture")
    assert "scale=0.5" in repr(vae)
    assert "n_components=8" in repr(vae)


def test_stretching_a_latent_changes_nothing_but_its_kl():
    """So that at the end of training its variance is 1: see docs/theory/aggregate.md."""
    torch.manual_seed(0)
    x = torch.randn(50, 6)
    encoder, decoder = mlp_encoder([6, 8, 3]), mlp_decoder([3, 8, 6])
    vae = CorExVAE(encoder, decoder, 3, likelihood="normal")

    def found():
        torch.manual_seed(1)
        terms = CorExELBO().terms(vae.model, vae.guide, x)
        q = vae.encode(x)
        return terms.reconstruction["x"], terms.kl["z"], (q.loc**2 + q.scale**2).mean(0).detach()

    before, kl, second = found()
    stretch = second[1].rsqrt()
    with torch.no_grad():
        encoder[-1].weight[1] *= stretch
        encoder[-1].bias[1] *= stretch
        encoder[-1].bias[4] += stretch.log()
        decoder[0].weight[:, 1] /= stretch
    after, less, second_after = found()
    torch.testing.assert_close(after, before)
    gained = (second[1] - 1 - second[1].log()) / 2
    torch.testing.assert_close(kl - less, torch.tensor([0.0, gained, 0.0]), rtol=1e-3, atol=1e-5)
    assert float(second_after[1]) == pytest.approx(1.0, abs=1e-5)
