"""What is somebody else's is found, wherever it is held."""

import pyro
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR
from torch.utils.data import DataLoader, Subset, TensorDataset

import pyro_corex as pc
from pyro_corex.training.stock import is_stock, untouched
from tests.training.programs import Conditional, Named, stack, vae

X = torch.zeros(6, 8)


def adam():
    return torch.optim.Adam([nn.Parameter(torch.zeros(2))], fused=True)


def with_critic():
    capacity = pc.regularizers.Capacity(1.0, pc.Warmup(0.0, 3.0, steps=4))
    return [pc.regularizers.DensityRatio(2.0, 2), capacity]


STOCK = {
    "a VAE": vae,
    "a stack with weights that move": lambda: stack(pc.Warmup(0.0, 1.0, steps=4)),
    "regularizers": with_critic,
    "a loader": lambda: DataLoader(Subset(TensorDataset(X), range(4)), shuffle=True),
    "torch's own functions": lambda: [torch.bernoulli, torch.relu],
    "transforms": lambda: [pc.datasets.RandomAffine(28), pc.datasets.Neighbours(X, 2)],
    "a schedule, which patches its optimiser": lambda: CosineAnnealingLR(adam(), 4),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)),
    "a layer of Pyro's": lambda: pyro.nn.PyroModule[nn.Linear](2, 2),
}


@pytest.mark.parametrize("name", STOCK)
def test_what_is_stock(name):
    assert is_stock(STOCK[name]())


class Linear(nn.Linear):
    """As torch's, for all that one sees."""


def hooked(register):
    module = vae()
    register(module)
    return module


def shadowed(module):
    module.encoder.forward = lambda x: x


FOREIGN = {
    "a subclass": lambda: nn.Sequential(Linear(2, 2)),
    "a program": Conditional,
    "a layer of Pyro's of one": lambda: pyro.nn.PyroModule[Linear](2, 2),
    "a hook": lambda: hooked(lambda m: m.encoder[0].register_forward_hook(print_nothing)),
    "a hook of a parameter": lambda: hooked(
        lambda m: m.encoder[1].weight.register_hook(print_nothing)
    ),
    "a method of an instance": lambda: hooked(shadowed),
    "a data set": lambda: DataLoader(Named(x=X)),
    "a function in a schedule": lambda: LambdaLR(adam(), lambda step: 1.0),
    "a copy that Invariance makes": lambda: pc.Invariance(lambda x: x, {"z2": 1.0}),
    "what a built-in function is bound to": lambda: [Named()].append,
    "a class": lambda: Linear,
    "too much": lambda: [[k] for k in range(20_000)],
}


def print_nothing(*_):
    pass


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not(name):
    assert not is_stock(FOREIGN[name]())


def test_what_is_around_a_run():
    assert untouched()
    with pyro.poutine.scale(scale=2.0):
        assert not untouched()
    with torch.device("cpu"):
        assert not untouched()
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        assert not untouched()
