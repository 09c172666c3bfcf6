import copy

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyro_corex as pc

FEW = {"batch_size": 64, "lr": 1e-2, "seed": 3, "device": "cpu", "progress": False}
JOINT = {"batch_size": 96, "lr": 2e-2}
START = {"n_starts": 2, "steps": 20, "n_components": 4}


@pytest.fixture(scope="module")
def task():
    """Three groups of patterns, grey, and a stack for binary ones."""
    torch.manual_seed(0)
    x = 0.05 + 0.9 * torch.eye(3).repeat_interleave(8, 1)[torch.randint(3, (192,))]
    return pc.StackedCorEx([(24, 32, 4), (4, 8, 3)], n_classes=3), x


def flipped(x):
    return (x - torch.bernoulli(0.02 + 0 * x)).abs()


def parameters(stack):
    return torch.cat([value.flatten() for value in stack.state_dict().values()])


def test_the_stages_are_what_they_say(task):
    stack, x = copy.deepcopy(task)
    stages = pc.fit_stack(
        stack, x, copy=flipped, transform=torch.bernoulli, below_epochs=60, start=START, epochs=3,
        mi_weight=2.0, invariance=5.0, joint=JOINT, **FEW,
    )  # fmt: skip

    by_hand, _ = copy.deepcopy(task)
    common = {"transform": torch.bernoulli, **FEW}

    def cosine(steps, lr):
        end = 0.05 * lr
        return pc.Optimization(lr_schedule=lambda adam: CosineAnnealingLR(adam, steps, end))

    first = pc.CorExVAE(by_hand.encoders[0], by_hand.decoders[0], 4)
    pc.fit(first, x, epochs=60, optimizer=cosine(180, 1e-2), **common)
    torch.manual_seed(3)
    starts = pc.start_top(
        by_hand, torch.bernoulli(x), transform=flipped, seed=3, progress=False, **START
    )
    elbo = pc.CorExELBO(mi_weight={"z2": 2.0}, invariance=pc.Invariance(flipped, {"z2": 5.0}))
    history = pc.fit(by_hand, x, epochs=3, optimizer=cosine(6, 2e-2), elbo=elbo, **common | JOINT)

    torch.testing.assert_close(parameters(stack), parameters(by_hand))
    assert stages.joint["objective"] == pytest.approx(history["objective"])
    assert stages.starts[0].information == pytest.approx(starts[0].information)
    assert len(stages.below.epochs) == 60


def test_it_goes_on_where_it_was(task, tmp_path):
    options = {"copy": flipped, "transform": torch.bernoulli, "start": START, **FEW}
    stack, x = copy.deepcopy(task)
    pc.fit_stack(stack, x, below_epochs=60, epochs=0, folder=tmp_path / "run", **options)
    again, _ = copy.deepcopy(task)
    stages = pc.fit_stack(again, x, below_epochs=60, epochs=2, folder=tmp_path / "run", **options)
    assert stages.starts is None  # it was there
    pc.fit_stack(stack, x, below_epochs=0, epochs=2, **options | {"start": None})
    torch.testing.assert_close(parameters(stack), parameters(again))
