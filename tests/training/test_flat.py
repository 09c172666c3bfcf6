"""Operations without Python: the same numbers as the function, whatever its tensors hold by now.

``test_replay_pairs.py`` does so for all pairs of programs.
"""

import pytest
import torch

from pyro_corex.training.flat import Flat


def test_a_draw_of_no_use_is_drawn():
    def function(x):
        torch.randn(3)
        return [x + torch.randn(2)]

    flat = Flat(function, [torch.zeros(2)])
    torch.manual_seed(0)
    (expected,) = function(torch.zeros(2))
    torch.manual_seed(0)
    assert torch.equal(flat(torch.zeros(2))[0], expected)


def test_what_it_finds_by_itself_is_read_where_it_lies():
    weight = torch.ones(2)
    flat = Flat(lambda x: [weight * x], [torch.ones(2)])
    weight.mul_(3.0)
    assert flat(torch.tensor([1.0, 2.0]))[0].tolist() == [3.0, 6.0]


@pytest.mark.parametrize("learns", [False, True])
def test_a_convolution_whose_input_has_a_gradient_or_none(learns):
    layer = torch.nn.Conv2d(1, 2, 2)

    def function(x):
        x = x.detach().requires_grad_(learns)
        inputs = [*layer.parameters(), *([x] if learns else [])]
        return list(torch.autograd.grad(layer(x).square().sum(), inputs))

    flat = Flat(function, [torch.zeros(1, 1, 3, 3)])
    x = torch.randn(1, 1, 3, 3)
    for got, want in zip(flat(x), function(x), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("number", [lambda: torch.tensor(2.0), lambda: torch.arange(3)[2]])
def test_a_number_that_the_program_has_written_may_be_read(number):
    flat = Flat(lambda x: [x * float(number())], [torch.ones(2)])
    assert flat(torch.full((2,), 3.0))[0].tolist() == [6.0, 6.0]


def written_to(x):
    number = torch.zeros(3)
    number[1:].copy_(x)
    return [x * float(number[2])]


READ = {
    "an input": (lambda x: [x * float(x[0])], "value out of a tracing tensor"),
    "a draw": (lambda x: [x * float(torch.rand(()))], "value out of a tracing tensor"),
    "what was written to": (written_to, "value out of a tracing tensor"),
    "a mask": (lambda x: [x[x > 0].sum()], r"sizes depend on numbers in a tensor \(x\[mask\]"),
    "places": (lambda x: [x[x.nonzero()].sum()], "sizes depend on numbers in a tensor"),
}


@pytest.mark.parametrize("name", READ)
def test_what_depends_on_numbers_is_refused(name):
    function, match = READ[name]
    with pytest.raises(RuntimeError, match=match):
        Flat(function, [torch.ones(2)])


def test_a_mask_that_is_no_matter_of_the_inputs():
    kept = torch.tensor([True, False, True])
    flat = Flat(lambda x: [x[kept] + x[torch.arange(3) > 0]], [torch.ones(3)])
    assert flat(torch.tensor([1.0, 2.0, 4.0]))[0].tolist() == [3.0, 8.0]
