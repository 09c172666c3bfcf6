"""SVI, fit and a Lightning module of one's own give the same losses, step by step."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch

import pyro_corex as pc

EXAMPLE = Path(pc.__file__).parents[1] / "examples" / "training_three_ways.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("training_three_ways", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PROGRAMS = {
    "one layer": lambda example: example.make_program(0),
    "stack": lambda example: pc.StackedCorEx([(64, 16, 8), (8, 8, 3)], n_classes=3),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_three_ways_agree(example, program):
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((300, 64), 0.4))
    first = PROGRAMS[program](example)
    losses, trained = {}, {}
    for name, way in example.WAYS.items():
        trained[name] = copy.deepcopy(first)
        losses[name] = way(trained[name], example.make_loader(x, 1), 3, 2)
    assert len(losses["fit"]) == 9
    assert losses["fit"][-1] < losses["fit"][0]
    for name in ("SVI", "Lightning"):
        assert losses[name] == losses["fit"]
        for a, b in zip(trained[name].parameters(), trained["fit"].parameters(), strict=True):
            assert torch.equal(a, b)
