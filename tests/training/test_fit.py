import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import pyro_corex as pc
from pyro_corex.programs import mlp_decoder, mlp_encoder
from tests.training.programs import OPTIONS, fit, vector


def vae(likelihood="bernoulli"):
    torch.manual_seed(0)
    return pc.CorExVAE(mlp_encoder([8, 16, 2]), mlp_decoder([2, 16, 8]), 2, likelihood=likelihood)


@pytest.fixture
def copies():
    """Two groups of four noisy copies of a coin."""
    generator = torch.Generator().manual_seed(0)
    coins = torch.rand(512, 2, generator=generator) > 0.5
    flips = torch.rand(512, 8, generator=generator) < 0.05
    return (coins.repeat_interleave(4, 1) ^ flips).float()


def test_the_bound_rises_and_the_history_tells(copies):
    module = vae()
    history = pc.fit(module, copies, epochs=25, batch_size=64, lr=1e-2, progress=False)
    assert history["elbo"][-1] > history["elbo"][0] + 1.0
    assert len(history.epochs) == 25
    assert set(history.epochs[0]) == {"objective", "elbo", "kl_z", "seconds"}
    assert "25 epochs" in repr(history)
    assert not module.training


def test_the_seed_decides_and_the_global_state_is_put_back(copies):
    def run(seed):
        module = vae()
        pc.fit(module, copies, epochs=2, seed=seed, progress=False)
        return torch.cat([p.flatten() for p in module.parameters()])

    state = torch.get_rng_state()
    first = run(3)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    pc.fit(vae(), copies, epochs=1, seed=5, progress=False)
    torch.manual_seed(0)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, run(3))
    assert not torch.equal(first, run(4))
    torch.set_rng_state(state)


def test_kinds_of_data(copies):
    loader = DataLoader(TensorDataset(copies, torch.zeros(len(copies))), batch_size=128)
    double = DataLoader(TensorDataset(copies.double()), batch_size=128)
    arrays = [copies.numpy().astype(kind) for kind in (np.float32, np.float64, np.int64, bool)]
    kinds = [copies, *arrays, loader, loader.dataset, double]
    for data in kinds:
        history = pc.fit(vae(), data, epochs=1, progress=False)
        assert math.isfinite(history["elbo"][0])


def test_a_callback_and_a_schedule(copies):
    seen = []
    warmup = pc.Warmup(0.0, 1.0, steps=2)
    stack = pc.StackedCorEx([(8, 8, 4), (4, 2)], n_classes=2, anchors={"z1": warmup})

    def callback(epoch, module, record):
        seen.append((epoch, module is stack, record["elbo"]))
        warmup.step()

    history = pc.fit(stack, copies, epochs=3, callback=callback, progress=False)
    assert [epoch for epoch, same, _ in seen if same] == [1, 2, 3]
    assert [elbo for *_, elbo in seen] == history["elbo"]
    assert float(history.terms.kl_weight["z1"][0]) == 1.0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"epochs": 0}, "epochs must be an integer >= 1, but got 0"),
        ({"batch_size": 2.5}, "batch_size must be an integer >= 1, but got 2.5"),
        ({"lr": 0.0}, "lr must be > 0, but got 0.0"),
        ({"data": torch.zeros(0, 8)}, r"The data are empty: their shape is \(0, 8\)"),
        ({"data": torch.full((4, 8), 0.3)}, "BernoulliLikelihood is a likelihood for binary data"),
        ({"data": torch.full((4, 8), math.nan)}, "The data hold 32 NaN"),
    ],
)
def test_bad_input(change, match):
    arguments = {"data": torch.zeros(4, 8), "epochs": 1, **change}
    with pytest.raises(ValueError, match=match):
        pc.fit(vae(), progress=False, **arguments)


def test_a_module_that_is_no_program():
    with pytest.raises(TypeError, match=r"Linear must have the methods .model\(x\) and .guide"):
        pc.fit(torch.nn.Linear(8, 2), torch.zeros(4, 8), epochs=1, progress=False)


def test_data_of_an_unknown_kind():
    with pytest.raises(
        TypeError,
        match=r"a dict of them, a Dataset or a DataLoader, but got str",
    ):
        pc.fit(vae(), "data.csv", epochs=1, progress=False)


def test_an_empty_loader():
    loader = DataLoader(TensorDataset(torch.zeros(3, 8)), batch_size=4, drop_last=True)
    with pytest.raises(ValueError, match="there is no batch to train on"):
        pc.fit(vae(), loader, epochs=1, progress=False)


def test_nan_while_training_names_the_site_and_the_term(copies):
    with pytest.raises(ValueError, match=r"site '\w+' is NaN"):
        pc.fit(vae("normal"), copies, epochs=1, progress=False, transform=lambda x: x * math.nan)


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"device": "gpu"}, 'device must be "auto", or a device of torch .* but got .gpu'),
        ({"precision": "8"}, "precision must be one of .*'32-true', 'bf16-mixed'.* but got '8'"),
        ({"precision": "16-mixed", "device": "cpu"}, 'is for CUDA, but the device is .* "bf16-mix'),
        ({"devices": 0}, "devices must be an integer >= 1, but got 0"),
        ({"devices": -1}, "devices must be an integer >= 1, but got -1"),
        ({"devices": "2"}, "devices must be an integer >= 1, but got '2'"),
        ({"device": "mps", "devices": 2}, "devices=2 is for the CPU and CUDA, but not for 'mps'"),
        (
            {"patience": 0, "validation": torch.zeros(4, 8)},
            "patience must be an integer >= 1, but got 0",
        ),
        ({"patience": 2}, "patience needs validation=..."),
        ({"checkpoint": "run", "every": 0}, "every must be an integer >= 1, but got 0"),
        ({"checkpoint": "run", "every_steps": 0}, "every_steps must be an integer >= 1"),
        ({"clip_norm": 0.0}, "clip_norm must be > 0, but got 0.0"),
        ({"lr": float("nan")}, "lr must be > 0, but got nan"),
        (
            {"checkpoint": "run", "resume": "yes"},
            "resume must be True, False or \"auto\", but got 'yes'",
        ),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        fit(vae(), torch.zeros(4, 8), **{**OPTIONS, **options})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"transform": "bernoulli"}, "transform must be a function, but got str"),
        ({"optimizer": 3}, "optimizer must be a function, but got int"),
        (
            {"callback": [print, "print"]},
            "callback must be a function or a logger .* got str",
        ),
        ({"lr_schedule": 0.9}, "lr_schedule must be a function of the optimiser .* but got float"),
        ({"lr_schedule": lambda _: None}, "must be one of torch.optim.lr_scheduler, .* NoneType"),
        ({"kl_schedule": 0.5}, r"kl_schedule must be e.g. Warmup\(.*\), but got float"),
    ],
)
def test_options_of_another_type(options, match):
    """They are refused before anything is trained."""
    module = vae()
    before = vector(module)
    with pytest.raises(TypeError, match=match):
        fit(module, torch.zeros(4, 8), **{**OPTIONS, **options})
    assert torch.equal(vector(module), before)
