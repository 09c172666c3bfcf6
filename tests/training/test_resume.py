"""A run that was stopped and goes on is the run that was never stopped, bit for bit."""

import random
from functools import cache

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pyro_corex as pc
from pyro_corex.training import checkpoint
from tests.training.programs import copies, fit, stack, vae, vector, without_time


class PowerError(Exception):
    """It is gone."""


class Until:
    """A transform that binarises, draws from every global generator, and fails at a step."""

    def __init__(self, step=None):
        self.step, self.taken = step, 0

    def __call__(self, x):
        self.taken += 1
        if self.taken == self.step:
            raise PowerError
        noise = 0.01 * (random.random() + np.random.random())
        return torch.bernoulli((0.8 * x + 0.1 + noise).clamp(0, 1))


class Noisy(Dataset):
    """A data set that draws when it is read."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        flip = torch.rand(8) < 0.02 + 0.01 * random.random() + 0.01 * np.random.random()
        return (self.x[i].bool() ^ flip).float()


def loader(x):
    generator = torch.Generator().manual_seed(7)
    return DataLoader(Noisy(x), batch_size=64, shuffle=True, generator=generator)


def global_loader(x):
    return DataLoader(TensorDataset(x), batch_size=64, shuffle=True)


def cosine(optimiser):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=40)


def plateau(optimiser):
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, patience=0, factor=0.5)


def momentum(parameters):
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)


CASES = {
    "tensor": {},
    "data set": {"data": Noisy},
    "loader with a generator": {"data": loader},
    "loader without": {"data": global_loader},
    "last steps": {"lr_schedule": cosine, "clip_norm": 5.0},
    "plateau": {"lr_schedule": plateau, "validation": copies(100)},
    "momentum": {"optimizer": momentum},
    "bf16": {"precision": "bf16-mixed"},
    "early stopping": {"validation": copies(100), "patience": 1, "lr": 0.05},
}


def run(case, **more):
    options = {"epochs": 4, "batch_size": 64, "lr": 1e-2, "progress": False, **CASES[case]}
    make = options.pop("data", lambda x: x)
    module = vae()
    history = fit(module, make(copies()), **{"transform": Until(), **options, **more})
    return module, history


undisturbed = cache(run)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stop", [1, 11, 17, 24])  # in the first epoch, in the second, at an end
def test_resuming_is_bit_for_bit(case, stop, tmp_path):
    expected, history = undisturbed(case)
    path = tmp_path / "run.ckpt"
    with pytest.raises(PowerError):
        run(case, checkpoint=path, every_steps=3, transform=Until(stop))
    resumed, again = run(case, checkpoint=path, resume="auto")
    assert torch.equal(vector(resumed), vector(expected))
    assert without_time(again) == without_time(history)
    assert (again.steps, again.best_epoch) == (history.steps, history.best_epoch)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.ckpt"]


def test_resuming_between_the_last_step_of_an_epoch_and_its_end(tmp_path):
    def run(transform, **more):
        module = vae()
        options = {"epochs": 2, "batch_size": 64, "progress": False, "transform": transform}
        return module, fit(module, copies(), **options, **more)

    expected, history = run(Until())
    path = tmp_path / "run.ckpt"
    with pytest.raises(PowerError):
        run(Until(9), checkpoint=path, every=None, every_steps=8)
    resumed, again = run(Until(), checkpoint=path, resume=True)
    assert torch.equal(vector(resumed), vector(expected))
    assert without_time(again) == without_time(history)


def test_kl_schedules_go_on(tmp_path):
    def run(**more):
        warmup = pc.Warmup(0.0, 1.0, steps=20)
        module = stack(warmup)
        options = {"epochs": 3, "batch_size": 64, "progress": False, "kl_schedule": warmup}
        fit(module, copies(), **{**options, **more})
        return vector(module), warmup.taken

    expected, taken = run()
    assert taken == 24
    path = tmp_path / "run.ckpt"
    with pytest.raises(PowerError):
        run(checkpoint=path, every_steps=5, transform=Until(14))
    # the transform only draws; without it the rest of the run has other data
    assert checkpoint.read(path)["kl_schedules"] == [{"taken": 10}]
    run(checkpoint=tmp_path / "whole", epochs=1)
    resumed, taken = run(checkpoint=tmp_path / "whole", resume=True)
    assert taken == 24
    assert torch.equal(resumed, expected)


def test_a_schedule_that_a_callback_moves_goes_on(tmp_path):
    def run(epochs, **more):
        warmup = pc.Warmup(0.0, 1.0, steps=2)
        module = stack(warmup)
        options = {"batch_size": 64, "progress": False, "callback": lambda *_: warmup.step()}
        fit(module, copies(), epochs=epochs, **options, **more)
        return vector(module)

    expected = run(3)
    run(1, checkpoint=tmp_path / "run")
    assert torch.equal(run(3, checkpoint=tmp_path / "run", resume=True), expected)


def test_a_finished_run_is_loaded_and_can_be_made_longer(tmp_path):
    options = {"batch_size": 64, "progress": False, "checkpoint": tmp_path / "run"}
    first = vae()
    fit(first, copies(), epochs=2, **options)
    second = vae(seed=1)
    history = fit(second, copies(), epochs=2, resume=True, **options)
    assert torch.equal(vector(first), vector(second))
    assert len(history.epochs) == 2
    assert history.terms is None  # there was no step
    fit(second, copies(), epochs=4, resume=True, **options)
    expected = vae()
    fit(expected, copies(), epochs=4, batch_size=64, progress=False)
    assert torch.equal(vector(second), vector(expected))
