"""Which schedules a module holds."""

import torch

from pyro_corex import Warmup
from pyro_corex.training.schedules import is_schedule, schedules
from tests.training.programs import stack


def test_those_of_a_module_by_their_places():
    warmup = Warmup(0.0, 1.0, steps=4)
    assert dict(schedules(stack(warmup))) == {".anchors[z1]": warmup}
    assert dict(schedules(stack())) == {}


def test_what_is_a_schedule():
    assert is_schedule(Warmup(0.0, 1.0, steps=4))
    assert not is_schedule(torch.nn.Linear(1, 1))  # its state is saved as a module's
    assert not is_schedule(Warmup)
    assert not is_schedule(1.0)
