"""tc_bound on a data set."""

import dataclasses
import functools
import math
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_corex as pc
from pyro_corex.datasets import linear_gaussian, noisy_coins
from pyro_corex.evaluation.bound import dataset_terms
from pyro_corex.programs import (
    GroupedDecoder,
    LearnedNormalLikelihood,
    mlp,
    mlp_decoder,
    mlp_encoder,
)

D, M = 12, 2


def one_factor(d, noise):
    """The true programs of d noisy readings of one cause: their bound is tight."""
    precision = 1 + d / noise**2

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0))
            with pyro.plate("inputs", d, dim=-1):
                pyro.sample("x", dist.Normal(z, noise), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            loc = x.sum(1, keepdim=True) / noise**2 / precision
            pyro.sample("z", dist.Normal(loc, precision**-0.5))

    cov = torch.ones(d, d) + noise**2 * torch.eye(d)
    truth = float(pc.information.gaussian_total_correlation(cov))
    return SimpleNamespace(model=model, guide=guide), truth


def readings(n, d, noise, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, generator=g) + noise * torch.randn(n, d, generator=g)


@pytest.fixture(scope="module")
def fitted():
    """A linear program, fitted to a dense linear-Gaussian model."""
    data = linear_gaussian(10_000, D, M, noise=0.5)
    torch.manual_seed(0)
    vae = pc.CorExVAE(
        mlp_encoder([D, M]), mlp_decoder([M, D]), M, likelihood=LearnedNormalLikelihood(D)
    )
    for lr in (2e-2, 4e-3, 8e-4):
        pc.fit(vae, data.x, epochs=5, lr=lr, progress=False)
    return vae, data.total_correlation


@pytest.fixture
def stack():
    torch.manual_seed(0)
    module = pc.StackedCorEx([(D, 4), (4, 3)], n_classes=None, likelihood="normal")
    for parameter in module.parameters():
        parameter.data *= 0.3
    return module


# ---------------------------------------------------------------------- the number


def test_a_fit_is_within_two_per_cent_of_the_truth(fitted):
    vae, truth = fitted
    x = linear_gaussian(20_000, D, M, noise=0.5, sample_seed=7).x
    bound = pc.tc_bound(vae, x)
    assert bound.estimate == pytest.approx(truth, rel=0.02)
    assert bound.estimate < truth + 3 * bound.stderr
    assert 0 < bound.stderr < 0.01 * truth
    assert bound.num_data == 20_000


def test_the_standard_error_is_the_spread_over_data_sets():
    programs, truth = one_factor(6, 0.6)
    bounds = [pc.tc_bound(programs, readings(800, 6, 0.6, seed), seed=seed) for seed in range(40)]
    estimates = torch.tensor([bound.estimate for bound in bounds])
    stderr = torch.tensor([bound.stderr for bound in bounds]).mean()
    assert float(stderr) == pytest.approx(float(estimates.std()), rel=0.35)
    assert float(estimates.mean()) == pytest.approx(truth, abs=4 * float(stderr) / 40**0.5 + 0.012)


def test_draws_do_not_repeat_the_noise_of_data_of_the_same_seed():
    programs, truth = one_factor(6, 0.6)
    torch.manual_seed(3)
    x = torch.randn(5000, 1)
    x = x + 0.6 * torch.randn(5000, 6)
    bound = pc.tc_bound(programs, x, seed=3)
    assert abs(bound.estimate - truth) < 4 * bound.stderr


def test_a_bound_for_binary_data():
    """One coin and a program that is right about it."""
    flip, copies = 0.1, 6
    data = noisy_coins(20_000, 1, copies, flip=flip)
    logit = math.log((1 - flip) / flip)

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            c = pyro.sample("c", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
            with pyro.plate("inputs", copies, dim=-1):
                pyro.sample("x", dist.Bernoulli(logits=logit * (2.0 * c - 1)), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            heads = logit * (2 * x - 1).sum(1, keepdim=True)
            logits = torch.stack([torch.zeros_like(heads), heads], -1)
            pyro.sample("c", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

    bound = pc.tc_bound(SimpleNamespace(model=model, guide=guide), data.x)
    assert bound.estimate == pytest.approx(data.total_correlation, abs=4 * bound.stderr)
    assert bound.stderr < 0.03


def test_more_particles_lessen_the_noise():
    programs, _ = one_factor(6, 0.6)
    x = readings(2000, 6, 0.6)

    def spread(n):
        found = [pc.tc_bound(programs, x, num_particles=n, seed=s).estimate for s in range(10)]
        return float(torch.tensor(found).std())

    assert spread(10) < 0.7 * spread(1)
    assert pc.tc_bound(programs, x, num_particles=10).stderr < pc.tc_bound(programs, x).stderr
    assert pc.tc_bound(programs, x, num_particles=3).num_data == 2000


def test_anchors_have_no_part_in_it():
    torch.manual_seed(0)
    encoder, decoder = mlp_encoder([D, M]), mlp_decoder([M, D])
    x = torch.randn(100, D)
    plain = pc.CorExVAE(encoder, decoder, M, likelihood="normal")
    anchored = pc.AnchorVAE(encoder, decoder, M, anchors={0: 0.1}, likelihood="normal")
    assert pc.tc_bound(anchored, x).estimate == pytest.approx(pc.tc_bound(plain, x).estimate)


# ---------------------------------------------------------------------- what it is made of


def test_terms_are_those_of_all_data(fitted):
    vae, _ = fitted
    x = linear_gaussian(2000, D, M, noise=0.5, sample_seed=7).x
    bound = pc.tc_bound(vae, x, batch_size=700)
    terms = bound.terms
    assert terms.num_data == 2000
    assert terms.tc_bound == pytest.approx(bound.estimate, abs=1e-4)
    want = pc.information.marginal_entropy(x, "continuous")
    torch.testing.assert_close(terms.entropy["x"], want)
    torch.testing.assert_close(terms.relevance["x"], want + terms.reconstruction["x"])
    assert len(bound.layers) == 1
    assert bound.layers[0].estimate == pytest.approx(bound.estimate, abs=1e-9)
    assert bound.layers[0].stderr == pytest.approx(bound.stderr)


@pytest.mark.parametrize("particles", [1, 2])
def test_layers_add_up(stack, particles):
    x = torch.randn(600, D)
    bound = pc.tc_bound(stack, x, batch_size=250, num_particles=particles)
    assert len(bound.layers) == 2
    total = sum(layer.estimate for layer in bound.layers)
    assert total == pytest.approx(bound.estimate, abs=1e-9)
    assert bound.terms.layers == pytest.approx([x.estimate for x in bound.layers], abs=1e-4)
    assert all(layer.stderr > 0 for layer in bound.layers)
    assert "layers: " in repr(bound)


def test_layers_above_enumerated_classes_add_up():
    torch.manual_seed(0)
    module = pc.StackedCorEx([(D, 4), (4, 5)], n_classes=5)
    bound = pc.tc_bound(module, torch.bernoulli(torch.full((300, D), 0.4)))
    assert sum(x.estimate for x in bound.layers) == pytest.approx(bound.estimate, abs=1e-9)


def test_latents_that_are_not_layers_have_none():
    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            a = pyro.sample("a", dist.Normal(torch.zeros(1), 1.0))
            b = pyro.sample("b", dist.Normal(torch.zeros(1), 1.0))
            with pyro.plate("inputs", D, dim=-1):
                pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            for name in "ab":
                pyro.sample(name, dist.Normal(x.mean(1, keepdim=True) / 2, 1.0))

    bound = pc.tc_bound(SimpleNamespace(model=model, guide=guide), torch.randn(100, D))
    assert bound.layers == ()


def test_repr(fitted):
    vae, _ = fitted
    bound = pc.tc_bound(vae, linear_gaussian(500, D, M, noise=0.5).x)
    text = repr(bound)
    assert f"TC(x) >= {bound.estimate:.4g} ± {bound.stderr:.2g} nats, from 500 data" in text
    assert "entropies" in text
    assert "layers" not in text
    assert repr(bound.layers[0]) == f"{bound.estimate:.4g} ± {bound.stderr:.2g} nats"
    with pytest.raises(dataclasses.FrozenInstanceError):
        bound.value = 0.0


def chain(noise, weight):
    """Columns that each follow the one before, and a latent that knows nothing."""

    def model(x):
        before = nn.functional.pad(x[:, :-1], (1, 0))
        first = torch.arange(x.shape[1]) == 0
        scale = torch.where(first, torch.ones(()), torch.as_tensor(noise))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            loc = weight * before + 0.0 * z
            pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))

    return SimpleNamespace(model=model, guide=guide)


def test_a_decoder_that_sees_x_bounds_the_total_correlation_and_explains_nothing():
    """A chain with correlation r from one column to the next: TC = -(d - 1) ln(1 - r^2) / 2."""
    n, d, r = 5000, 5, 0.8
    noise = (1 - r**2) ** 0.5
    torch.manual_seed(0)
    x = torch.randn(n, d)
    for i in range(1, d):
        x[:, i] = r * x[:, i - 1] + noise * x[:, i]
    bound = pc.tc_bound(chain(noise, r), x)
    truth = -(d - 1) / 2 * math.log(1 - r**2)
    assert bound.estimate == pytest.approx(truth, abs=4 * bound.stderr)
    assert "the decoder sees x itself: a bound on TC(x), not on what the latents" in repr(bound)
    assert bound.layers == ()
    for read in ("relevance", "informativeness", "layers"):
        with pytest.raises(ValueError, match="The decoder sees 'x' itself"):
            getattr(bound.terms, read)


def test_a_bound_below_zero_says_nothing():
    programs, _ = one_factor(6, 0.6)
    bad = pc.tc_bound(programs, readings(500, 6, 3.0))
    assert bad.estimate < 0
    assert "a bound below 0 says nothing, as TC(x) is never negative: the program" in repr(bad)
    single = pc.tc_bound(one_factor(1, 0.6)[0], readings(500, 1, 0.6))
    assert "one observed dimension: its TC is 0, and the bound says nothing" in repr(single)
    good = pc.tc_bound(programs, readings(500, 6, 0.6))
    assert "nothing" not in repr(good)


def test_a_layer_below_zero_does_not_pay_for_itself(stack):
    bound = pc.tc_bound(stack, torch.randn(600, D))
    layers = (pc.information.Estimate(1.0, 0.1), pc.information.Estimate(-0.5, 0.1))
    assert "does not pay for itself" in repr(dataclasses.replace(bound, layers=layers))
    assert "does not pay" not in repr(dataclasses.replace(bound, layers=layers[:1] * 2))


# ---------------------------------------------------------------------- data


def test_every_kind_of_data(fitted):
    vae, _ = fitted
    x = linear_gaussian(500, D, M, noise=0.5).x
    kinds = [
        x,
        x.numpy(),
        TensorDataset(x),
        DataLoader(TensorDataset(x, torch.zeros(500)), batch_size=200),
        list(x.split(200)),
        [[part] for part in x.split(200)],
    ]
    found = [pc.tc_bound(vae, data, batch_size=200).estimate for data in kinds]
    loaded = [found.pop(2), found.pop(2)]  # a DataLoader draws a number, so the noise is another
    assert found == pytest.approx([found[0]] * 4, abs=1e-5)
    assert loaded[0] == pytest.approx(loaded[1], abs=1e-5)
    assert loaded[0] == pytest.approx(found[0], abs=0.5)


def conditional(x, y, noise=0.7):
    """Programs of x given a label: readings of one cause, moved by the label."""
    d = x.shape[1]

    def model(x, y):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0))
            with pyro.plate("inputs", d, dim=-1):
                pyro.sample("x", dist.Normal(z + 3 * y[:, None], noise), obs=x)

    def guide(x, y):
        with pyro.plate("data", len(x), dim=-2):
            loc = (x - 3 * y[:, None]).sum(1, keepdim=True) / (d + noise**2)
            pyro.sample("z", dist.Normal(loc, noise / (d + noise**2) ** 0.5))

    return SimpleNamespace(model=model, guide=guide)


class Named(torch.utils.data.Dataset):
    """A data set of dicts."""

    def __init__(self, **tensors):
        self.tensors = tensors

    def __len__(self):
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, i):
        return {name: value[i] for name, value in self.tensors.items()}


def test_batches_of_several_things_reach_the_programs():
    y = torch.arange(300) % 2
    x = readings(300, D, 0.7) + 3 * y[:, None]
    programs = conditional(x, y)
    elbo = functools.partial(dataset_terms, programs)
    whole = elbo((x, y), batch_size=100).elbo
    kinds = {
        "arrays": (x.numpy(), y.numpy()),
        "a dict": {"y": y, "x": x},
        "batches": list(zip(x.split(100), y.split(100), strict=True)),
    }
    for data in kinds.values():
        assert elbo(data, batch_size=100).elbo == whole
    loaded = [TensorDataset(x, y), Named(x=x, y=y), DataLoader(Named(y=y, x=x), batch_size=100)]
    found = [elbo(data, batch_size=100).elbo for data in loaded]
    assert found == pytest.approx([found[0]] * 3, abs=1e-9)
    assert found[0] == pytest.approx(whole, abs=0.5)  # other noise, as a loader draws
    assert elbo((x, 0 * y)).elbo < whole - 0.5  # the label is used
    want = conditional_bound(programs, x, y)
    for data in (*kinds.values(), *loaded):
        assert pc.tc_bound(programs, data, batch_size=100).estimate == pytest.approx(want, abs=0.5)


def conditional_bound(programs, x, y):
    """The plain sum, which bounds TC(x) + I(x:y), less the entropy of y."""
    entropies = pc.information.marginal_entropy(x, "continuous").double().sum()
    of_y = pc.information.marginal_entropy(y[:, None], "categorical")
    return float(entropies - of_y) + dataset_terms(programs, (x, y), batch_size=100).elbo


def test_a_covariate_of_few_values_is_taken_off():
    """Columns that the group tells apart, and nothing else: TC(x) = (d - 1) H(y)."""
    g = torch.Generator().manual_seed(0)
    a, b = torch.randint(2, (2, 3000), generator=g)
    x = 20.0 * (2 * a + b)[:, None] + torch.randn(3000, 4, generator=g)

    def model(x, a, b):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            loc = 20.0 * (2 * a + b)[:, None].expand(len(x), 4) + 0.0 * z
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x, a, b):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))

    programs = SimpleNamespace(model=model, guide=guide)
    for options in ({}, {"importance_samples": 3}):
        bound = pc.tc_bound(programs, (x, a, b), batch_size=800, **options)
        assert bound.estimate == pytest.approx(3 * math.log(4), abs=4 * bound.stderr)
        assert bound.layers == ()
        assert "H(y) = 1.386 has been taken off, as the model is given y, here 'a' and 'b'" in repr(
            bound
        )
    codes = torch.arange(3000)
    with pytest.raises(ValueError, match=r"y has 3000 distinct values in 3000 data.*observed site"):
        pc.tc_bound(programs, (x, codes / 1500 - 1, b), batch_size=800)


def test_data_that_are_sorted_by_their_label():
    """So that no batch but one has two of them; one label by itself is no condition."""
    y = torch.arange(3).repeat_interleave(100)
    x = readings(300, D, 0.7) + 3 * y[:, None]
    programs = conditional(x, y)
    for data in ((x, y), list(zip(x.split(100), y.split(100), strict=True))):
        bound = pc.tc_bound(programs, data, batch_size=100)
        assert bound.estimate == pytest.approx(conditional_bound(programs, x, y), abs=1e-4)
    assert "H(y) = 0.6" in repr(pc.tc_bound(programs, (x[100:], y[100:]), batch_size=100))
    assert pc.tc_bound(programs, (x[:100], y[:100]), batch_size=40).num_data == 100


def test_the_programs_are_looked_at_once():
    programs, _ = one_factor(6, 0.6)
    calls = []
    counted = SimpleNamespace(
        model=lambda x: (calls.append(len(x)), programs.model(x)), guide=programs.guide
    )
    pc.tc_bound(counted, readings(500, 6, 0.6), batch_size=100)
    assert 5 < len(calls) <= 5 + 5


def test_a_program_with_two_observed_modalities():
    def model(x, words):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0))
            with pyro.plate("inputs", 6, dim=-1):
                pyro.sample("x", dist.Normal(z, 0.6), obs=x)
            with pyro.plate("each word", 3, dim=-1):
                pyro.sample("words", dist.Bernoulli(logits=2 * z), obs=words.float())

    def guide(x, words):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x.mean(1, keepdim=True), 0.3))

    x = readings(500, 6, 0.6)
    words = (x[:, :3] > 0).long()
    bound = pc.tc_bound(SimpleNamespace(model=model, guide=guide), {"x": x, "words": words})
    assert set(bound.terms.relevance) == {"x", "words"}
    assert bound.estimate > pc.tc_bound(one_factor(6, 0.6)[0], x).estimate


def test_what_a_program_does_not_take_is_selected():
    programs, _ = one_factor(6, 0.6)
    x, y = readings(100, 6, 0.6), torch.zeros(100, dtype=torch.long)
    want = pc.tc_bound(programs, x).estimate
    with pytest.raises(TypeError, match=r"model\(x\) does not take it.*transform=lambda x, \*rest"):
        pc.tc_bound(programs, (x, y))
    assert pc.tc_bound(programs, (x, y), transform=lambda x, y: x).estimate == want
    with pytest.raises(TypeError, match=r"transform=lambda \*\*batch: batch\['x'\]"):
        pc.tc_bound(programs, {"x": x, "y": y})
    select = {"transform": lambda **batch: {"x": batch["x"]}}
    assert pc.tc_bound(programs, {"x": x, "y": y}, **select).estimate == want
    with pytest.raises(TypeError, match=r"transform\(x\) does not take it"):
        pc.tc_bound(programs, (x, y), transform=lambda x: x)


def test_ready_made_programs_take_x_alone(fitted):
    vae, _ = fitted
    x = linear_gaussian(200, D, M, noise=0.5).x
    y = torch.zeros(200)
    want = pc.tc_bound(vae, x).estimate
    for data in ((x, y), {"y": y, "x": x}, {"image": x}, [(x, y)], [{"y": y, "x": x}]):
        assert pc.tc_bound(vae, data).estimate == want
    with pytest.raises(TypeError, match=r"takes x alone, but .* \['image', 'y'\], none of which"):
        pc.tc_bound(vae, {"image": x, "y": y})
    with_selection = pc.tc_bound(vae, {"image": x, "y": y}, transform=lambda **b: b["image"])
    assert with_selection.estimate == want


def test_the_terms_of_each_batch_can_be_watched(fitted):
    seen = []

    def watch(_, terms):
        seen.append((terms.num_data, terms.evidence.matrix("kl", "z").mean(0), terms.kl["z"]))

    x = torch.randn(250, D)
    terms = dataset_terms(fitted[0], x, batch_size=100, num_particles=2, watch=watch)
    assert [part[0] for part in seen] == [100, 100, 50]
    for _, mean, kl in seen:
        torch.testing.assert_close(mean, kl, check_dtype=False)
    assert terms.num_data == 250
    with pytest.raises(ValueError, match="let go of"):
        terms.evidence.matrix("kl", "z")


def test_integers_become_floats():
    module = pc.CorExVAE(mlp_encoder([D, M]), mlp_decoder([M, D]), M)
    x = noisy_coins(200, 2, 6).x
    assert pc.tc_bound(module, x.long()).estimate == pc.tc_bound(module, x).estimate
    assert pc.tc_bound(module, x.numpy().astype(np.uint8)).num_data == 200


def test_a_transform_is_part_of_the_data():
    module = pc.CorExVAE(mlp_encoder([D, M]), mlp_decoder([M, D]), M)
    grey = torch.rand(300, D)
    with pytest.raises(ValueError, match="Binarise"):
        pc.tc_bound(module, grey)
    bound = pc.tc_bound(module, grey, transform=torch.bernoulli)
    values = bound.terms.evidence.inputs["x"].values
    assert set(values.unique().tolist()) == {0.0, 1.0}
    assert bound.estimate == pc.tc_bound(module, grey, transform=torch.bernoulli).estimate


def test_nothing_is_left_changed(fitted):
    vae, _ = fitted
    vae.train()
    dropout = nn.Dropout(0.5)
    vae.extra = dropout
    dropout.eval()
    x = torch.randn(50, D)
    state = torch.get_rng_state()
    pc.tc_bound(vae, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert vae.training
    assert not dropout.training
    assert all(p.grad is None or not p.grad.isnan().any() for p in vae.parameters())
    assert pyro.infer.util.is_validation_enabled()
    del vae.extra
    vae.eval()


# ---------------------------------------------------------------------- errors


def vae(**options):
    return pc.CorExVAE(mlp_encoder([D, M]), mlp_decoder([M, D]), M, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: pc.tc_bound(nn.Linear(2, 2), x), TypeError, "Linear must have the methods"),
        (lambda x: pc.tc_bound(vae(), x, num_particles=0), ValueError, "num_particles must be an"),
        (lambda x: pc.tc_bound(vae(), x, batch_size=0), ValueError, "batch_size must be an"),
        (lambda x: pc.tc_bound(vae(), x[:0]), ValueError, "data are empty"),
        (lambda x: pc.tc_bound(vae(), []), ValueError, "data are empty"),
        (lambda x: pc.tc_bound(vae(), x[:1]), ValueError, "at least 2 data, but got 1"),
        (lambda x: pc.tc_bound(vae(), 3), TypeError, "data must be a tensor.*but got int"),
        (lambda x: pc.tc_bound(vae(), ["x"]), TypeError, "A batch must be a tensor.*but got str"),
        (lambda x: pc.tc_bound(vae(likelihood="normal"), x), ValueError, "discrete likelihood"),
        (lambda x: pc.tc_bound(vae(), 0.5 * x), ValueError, "Site 'x' is Bernoulli, but"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(noisy_coins(40, 2, 6).x)


def test_nothing_observed_is_refused():
    def program(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    with pytest.raises(ValueError, match="observes nothing"):
        pc.tc_bound(SimpleNamespace(model=program, guide=program), torch.randn(5, 2))


def test_terms_without_a_value_for_each_datum_are_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(torch.full((len(x),), 0.5)))
            pyro.sample("x", dist.Normal(c, 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            q = dist.Bernoulli(torch.full((len(x),), 0.5))
            pyro.sample("c", q, infer={"enumerate": "sequential"})

    with pytest.raises(ValueError, match="not known for each datum"):
        pc.tc_bound(SimpleNamespace(model=model, guide=guide), torch.randn(2, D))


def test_the_cost_of_a_latent_that_all_data_share_is_shared_by_them():
    """Independent columns with unknown means: what is off the truth, 0, is the KL of the means."""
    n, d = 2000, 3
    x = torch.arange(d) * 10.0 + torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    precision = n + 1 / 10**2  # of the posterior of a mean with the prior Normal(0, 10)
    scale = torch.full((d,), precision**-0.5)

    def model(x):
        with pyro.plate("columns", d, dim=-1):
            mean = pyro.sample("mean", dist.Normal(torch.zeros(d), 10.0))
            with pyro.plate("data", len(x), dim=-2):
                pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    def guide(x):
        with pyro.plate("columns", d, dim=-1):
            pyro.sample("mean", dist.Normal(x.sum(0) / precision, scale))

    programs, options = SimpleNamespace(model=model, guide=guide), {"data_plates": ["data"]}
    bound = pc.tc_bound(programs, x, batch_size=n, **options)
    kl = torch.distributions.kl_divergence(
        dist.Normal(x.sum(0) / precision, scale), dist.Normal(0.0, 10.0)
    )
    assert float(bound.terms.kl["mean"].sum()) == pytest.approx(float(kl.sum()) / n)
    assert bound.estimate == pytest.approx(-float(kl.sum()) / n, abs=0.02)
    assert 0 < bound.stderr < 0.02
    in_batches = pc.tc_bound(programs, x, batch_size=n // 4, **options)
    assert in_batches.estimate < bound.estimate  # each batch pays for itself


# ---------------------------------------------------------------------- grouped decoders


def test_grouped_decoder():
    decoder = GroupedDecoder(2, 6, scales=True)
    loc, scale = decoder(torch.tensor([[1.0, 2.0]]))
    assert loc.tolist() == [[0.5, 0.5, 0.5, 1.0, 1.0, 1.0]]
    assert scale.tolist() == [[1.0] * 6]
    assert GroupedDecoder(2, 6)(torch.zeros(3, 2)).shape == (3, 6)
    with pytest.raises(ValueError, match="6 outputs do not make 4 equal groups"):
        GroupedDecoder(4, 6)
    assert mlp([2, 3])(torch.zeros(1, 2)).shape == (1, 3)


def test_batches_in_any_number_are_joined_and_the_data_are_not_copied():
    programs, _ = one_factor(5, 0.7)
    x = readings(230, 5, 0.7)
    whole = dataset_terms(programs, x, batch_size=230)
    for size in (1, 7, 100):
        found = dataset_terms(programs, x, batch_size=size)
        assert found.evidence.size == found.num_data == 230
        for site, values in found.evidence.inputs.items():
            assert torch.equal(values.values, x)
            assert values.values.data_ptr() == x.data_ptr()
            torch.testing.assert_close(found.entropy[site], whole.entropy[site])
